//! What exporters ever named, and what is known of each device now.
//!
//! Pure: answers and the moment go in, a look comes out. A device once found stays in every look; one that is
//! named twice counts once; one whose values do not move although they must has no reading.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use weighbridge_meter::{AcceleratorId, DeviceState, GapCause};

use crate::source::{Device, DeviceLook, Look, SourceState};

/// Values may stand still for so many of the exporter's intervals: its round and ours drift against each other,
/// and one round may fail.
pub(in crate::source) const INTERVALS: u32 = 3;

/// What one answer says of one device.
#[derive(Clone, Debug)]
pub(in crate::source) struct Sighting {
    /// As described by this answer.
    pub(in crate::source) device: Device,
    /// What its values mean.
    pub(in crate::source) state: DeviceState,
    /// All values as they came, to tell whether they were renewed.
    pub(in crate::source) values: Vec<u64>,
    /// Whether these values cannot stay as they are on a live device: an energy counter of something that
    /// draws power, the power of something that works.
    pub(in crate::source) must_move: bool,
}

/// All devices that exporters ever named, in the order of finding.
#[derive(Debug)]
pub(in crate::source) struct Fleet {
    /// How often exporters renew their values.
    interval: Duration,
    devices: Vec<Known>,
    places: BTreeMap<AcceleratorId, usize>,
    /// Whether the inventory was told.
    told: bool,
}

#[derive(Debug)]
struct Known {
    device: Device,
    /// What this look says of it.
    state: DeviceState,
    /// Whether an answer of this look names it.
    named: bool,
    /// Which exporter named it last.
    exporter: usize,
    values: Vec<u64>,
    /// When the values changed.
    renewed: Instant,
    /// Since when answers that name its parent do not name it.
    gone: Option<Instant>,
    named_twice: bool,
    logged: Option<GapCause>,
}

impl Fleet {
    /// Knows nothing yet.
    pub(in crate::source) fn new(interval: Duration) -> Self {
        Self { interval, devices: Vec::new(), places: BTreeMap::new(), told: false }
    }

    /// Takes one answer of each exporter, in their order; of two that name one device, the first counts.
    pub(in crate::source) fn look(
        &mut self,
        now: Instant,
        answers: Vec<Result<Vec<Sighting>, String>>,
        unidentified: u32,
    ) -> Look {
        for known in &mut self.devices {
            known.named = false;
        }
        let failed: Vec<bool> = answers.iter().map(Result::is_err).collect();
        let mut changed = false;
        let mut failure = None;
        for (exporter, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(sightings) => {
                    changed |= !std::mem::replace(&mut self.told, true);
                    for sighting in sightings {
                        changed |= self.take_in(now, exporter, sighting);
                    }
                }
                Err(why) => failure = failure.or(Some(why)),
            }
        }
        for index in 0..self.devices.len() {
            if !self.devices[index].named {
                changed |= self.not_named(now, index, &failed);
            }
        }
        let source_state = match failure {
            Some(why) if failed.iter().all(|failed| *failed) => {
                SourceState::Missing(GapCause::Unreachable, why)
            }
            _ => SourceState::Ok,
        };
        let looks = self.devices.iter_mut().map(Known::looked).collect();
        let inventory = || self.devices.iter().map(|known| known.device.clone()).collect();
        Look { devices: looks, source_state, inventory_changed: changed.then(inventory), unidentified }
    }

    /// True if there is something new to say about the device.
    fn take_in(&mut self, now: Instant, exporter: usize, sighting: Sighting) -> bool {
        let Sighting { mut device, mut state, values, must_move } = sighting;
        let Some(&index) = self.places.get(&device.id) else {
            self.places.insert(device.id.clone(), self.devices.len());
            self.devices.push(Known {
                device,
                state,
                named: true,
                exporter,
                values,
                renewed: now,
                gone: None,
                named_twice: false,
                logged: None,
            });
            return true;
        };
        let known = &mut self.devices[index];
        if known.named {
            if !std::mem::replace(&mut known.named_twice, true) {
                tracing::warn!(accelerator = %device.id, "two exporters name a device: the first one counts");
            }
            return false;
        }
        if known.values != values {
            known.values = values;
            known.renewed = now;
        } else if must_move && now.duration_since(known.renewed) > self.interval * INTERVALS {
            state = DeviceState::Missing(GapCause::Stale);
        }
        if known.device.parent.is_some() && known.device.present && known.device.units != device.units {
            // Another instance under the number of an earlier one.
            state = DeviceState::Missing(GapCause::InstanceRecreated);
        }
        // The limit counts as it was when the device was found.
        device.power_limit_mw = known.device.power_limit_mw.or(device.power_limit_mw);
        (known.state, known.named, known.exporter, known.gone) = (state, true, exporter, None);
        let changed = known.device != device;
        known.device = device;
        changed
    }

    /// Why a device that no answer names has no reading. True if it turns out to be gone by design.
    fn not_named(&mut self, now: Instant, index: usize, failed: &[bool]) -> bool {
        let known = &self.devices[index];
        let unreachable = failed.get(known.exporter).copied().unwrap_or(true);
        let parent = known.device.parent.as_ref().and_then(|parent| self.places.get(parent));
        // An instance whose device is named without it was removed, unless that is over soon.
        let removed = !unreachable && parent.is_some_and(|&parent| self.devices[parent].named);
        let known = &mut self.devices[index];
        let cause = if unreachable { GapCause::Unreachable } else { GapCause::NotReported };
        known.state = DeviceState::Missing(cause);
        known.gone = removed.then(|| known.gone.unwrap_or(now));
        let over = known.gone.is_some_and(|gone| now.duration_since(gone) > self.interval * INTERVALS);
        over && std::mem::replace(&mut known.device.present, false)
    }
}

impl Known {
    fn looked(&mut self) -> DeviceLook {
        let cause = match self.state {
            // Of an exporter that does not answer, one line is enough.
            DeviceState::Missing(GapCause::Unreachable) => self.logged,
            DeviceState::Missing(cause) if self.device.present => Some(cause),
            _ => None,
        };
        // Once for each change, not for each look.
        let before = std::mem::replace(&mut self.logged, cause);
        match cause {
            _ if cause == before => {}
            Some(cause) => tracing::warn!(accelerator = %self.device.id, %cause, "no reading of the device"),
            None => tracing::info!(accelerator = %self.device.id, "reading the device again"),
        }
        DeviceLook {
            id: self.device.id.clone(),
            state: self.state,
            pids: None,
            used: Vec::new(),
            machines: None,
        }
    }
}
