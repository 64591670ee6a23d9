//! What the accelerators of a host looked like side by side: features for windows that are done.
//!
//! About 1.4 kB an accelerator, allocated once; a window of one is compared with all others when it ends.

use weighbridge_meter::{
    Coverage, DeviceState, Features, Window,
    features::{Feature, History},
};

/// Fewest readings of a window that is worth describing, unless readings are rare.
const FEWEST_TICKS: u32 = 3;
/// A shorter window that rests on few readings was cut short.
const SHORT_MS: u64 = 10_000;

/// Histories in the order of the devices.
#[derive(Debug, Default)]
pub(super) struct Watch {
    histories: Vec<History>,
}

impl Watch {
    /// One more device.
    pub(super) fn add(&mut self) {
        self.histories.push(History::default());
    }

    /// Takes a look at one; where there is no reading there is nothing to keep.
    pub(super) fn see(&mut self, index: usize, boot_ms: u64, state: &DeviceState) {
        if let (Some(history), DeviceState::Read(reading)) = (self.histories.get_mut(index), state) {
            history.push(boot_ms, reading);
        }
    }

    /// What comes next is not to be compared with what was.
    pub(super) fn forget(&mut self, index: usize) {
        if let Some(history) = self.histories.get_mut(index) {
            history.clear();
        }
    }

    /// Adds its features to a window, if it was looked at well enough to have any.
    pub(super) fn describe(&self, index: usize, window: &mut Window) {
        let short = window.span.millis() < SHORT_MS && window.ticks < FEWEST_TICKS;
        if window.coverage != Coverage::Measured || short {
            return;
        }
        let Some(own) = self.histories.get(index) else { return };
        let others = self.histories.iter().enumerate().filter(|(other, _)| *other != index);
        let until = window.boot_start_ms.saturating_add(window.span.millis());
        let features = Features::of(own, others.map(|(_, history)| history), window.boot_start_ms, until);
        if features.get(Feature::Readings).is_some() {
            window.features = features;
        }
    }
}
