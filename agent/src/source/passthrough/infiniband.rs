//! The host's InfiniBand traffic, in both directions and over all ports, shared out among its accelerators.
//!
//! `port_xmit_data` and `port_rcv_data` count octets divided by 4 (the kernel's
//! `Documentation/ABI/stable/sysfs-class-infiniband`). Anybody with the right to can set them to zero, and old
//! adapters stop them at 2^32 - 1: both make the traffic of that look unknown, and never a gap in the
//! accelerators' own readings. Reading them asks the adapter, so a thread of its own does.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use tokio::time::Instant;
use weighbridge_meter::{AcceleratorId, DeviceState, window::Counter};

use crate::source::{
    DeviceLook,
    sysfs::number,
    worker::{Heard, Worker},
};

/// Counters by file, as far as they could be read.
type Counts = BTreeMap<PathBuf, Option<u64>>;

/// The host's InfiniBand ports.
#[derive(Debug)]
pub(super) struct Infiniband {
    class: PathBuf,
    worker: Option<Worker<(), Counts>>,
    before: Counts,
    /// What each accelerator was given so far.
    given: BTreeMap<AcceleratorId, u64>,
}

impl Infiniband {
    /// Under `class`, as in `/sys/class/infiniband`; touches nothing yet.
    pub(super) fn new(class: PathBuf) -> Self {
        Self { class, worker: None, before: Counts::new(), given: BTreeMap::new() }
    }

    /// Starts to read ports if there are any.
    pub(super) fn search(&mut self) {
        if self.worker.is_some() || !self.class.is_dir() {
            return;
        }
        let class = self.class.clone();
        match Worker::start("infiniband-read", move |()| read(&class)) {
            Ok(worker) => self.worker = Some(worker),
            Err(error) => tracing::warn!(%error, "cannot start the thread that reads InfiniBand ports"),
        }
    }

    /// Sets what each accelerator was given so far, in every reading. Without an answer nothing is set.
    pub(super) async fn share(&mut self, devices: &mut [DeviceLook], deadline: Instant) {
        let Some(worker) = &mut self.worker else { return };
        worker.ask(());
        let now = match worker.hear(deadline).await {
            Heard::Answer(now) => now,
            Heard::Late => return,
            Heard::Died => {
                self.worker = None;
                return;
            }
        };
        let added = added(&self.before, &now);
        self.before = now;
        let Some(added) = added else { return };
        self.give(added, devices);
        for device in devices {
            if let (DeviceState::Read(reading), Some(&given)) =
                (&mut device.state, self.given.get(&device.id))
            {
                reading.totals = reading.totals.with(Counter::InfinibandBytes, given);
            }
        }
    }

    /// Equal parts for all accelerators, whatever they answered: to the byte, the first ones get what is over.
    fn give(&mut self, added: u64, devices: &[DeviceLook]) {
        let count = devices.len() as u64;
        let (Some(each), Some(over)) = (added.checked_div(count), added.checked_rem(count)) else { return };
        for (device, index) in devices.iter().zip(0..) {
            let part = each + u64::from(index < over);
            let given = self.given.entry(device.id.clone()).or_default();
            *given = given.saturating_add(part);
        }
    }
}

fn read(class: &Path) -> Counts {
    let mut counts = Counts::new();
    for adapter in entries(class) {
        for port in entries(&adapter.join("ports")) {
            for name in ["port_xmit_data", "port_rcv_data"] {
                let file = port.join("counters").join(name);
                let count = number(&file).filter(|&count| count != u64::from(u32::MAX));
                counts.insert(file, count);
            }
        }
    }
    counts
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Bytes since the look before. `None` if that cannot be known: other ports, one that was not read, one that fell.
fn added(before: &Counts, now: &Counts) -> Option<u64> {
    if now.is_empty() || !before.keys().eq(now.keys()) {
        return None;
    }
    now.iter().zip(before.values()).try_fold(0_u64, |sum, ((_, now), before)| {
        let words = (*now)?.checked_sub((*before)?)?;
        sum.checked_add(words.checked_mul(4)?)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn looks(count: usize) -> Vec<DeviceLook> {
        let look = |index| DeviceLook {
            id: format!("GPU-{index}").parse().expect("a name"),
            state: DeviceState::Read(Default::default()),
            pids: None,
            used: Vec::new(),
            machines: None,
        };
        (0..count).map(look).collect()
    }

    proptest! {
        #[test]
        fn what_is_shared_out_adds_up_to_the_byte_whoever_is_there(
            steps in proptest::collection::vec((0_u64..1_000_000, 1_usize..9), 1..50),
        ) {
            let mut infiniband = Infiniband::new(PathBuf::new());
            for (added, count) in &steps {
                infiniband.give(*added, &looks(*count));
            }
            let total: u64 = steps.iter().map(|(added, _)| added).sum();
            prop_assert_eq!(infiniband.given.values().sum::<u64>(), total);
        }
    }

    #[test]
    fn a_port_that_was_reset_saturated_or_is_new_makes_the_traffic_unknown() {
        let counts = |values: &[Option<u64>]| -> Counts {
            values
                .iter()
                .enumerate()
                .map(|(index, value)| (PathBuf::from(index.to_string()), *value))
                .collect()
        };
        let before = counts(&[Some(10), Some(20)]);
        assert_eq!(added(&before, &counts(&[Some(11), Some(22)])), Some(12));
        assert_eq!(added(&before, &counts(&[Some(11), Some(2)])), None);
        assert_eq!(added(&before, &counts(&[Some(11), None])), None);
        assert_eq!(added(&before, &counts(&[Some(11)])), None);
        assert_eq!(added(&Counts::new(), &Counts::new()), None);
    }
}
