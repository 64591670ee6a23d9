//! Devices as the sampling loop sees them: physical ones with their thread, and what is metered of them.

use std::sync::{Arc, mpsc};

use nvml_wrapper::Nvml;
use tokio::{
    sync::mpsc::error::TryRecvError,
    time::{Instant, timeout_at},
};
use weighbridge_meter::{AcceleratorId, Condition, DeviceState, GapCause, Tier};

use super::{
    failure::Failure,
    judge::{Answer, Facts, Identity, Verdict, Watch},
    read::{self, Answers, Read, Reads, Target},
};
use crate::source::{Device, DeviceLook};

/// A physical device that was found at some time, and the thread that reads it.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) id: AcceleratorId,
    /// None while the device is lost.
    pub(super) reader: Option<Reader>,
    /// Why there is no thread.
    pub(super) absent: GapCause,
    /// What is read of it.
    pub(super) targets: Arc<[Target]>,
    /// What is metered of it by those targets: places in the list of devices.
    pub(super) metered: Vec<usize>,
    /// How many looks were asked for.
    asked: u32,
}

/// A thread that reads a device.
#[derive(Debug)]
pub(super) struct Reader {
    ask: mpsc::Sender<Read>,
    answers: Reads,
    waiting: Waiting,
}

/// What a device's thread owes us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Nothing,
    /// An answer to this look.
    Now,
    /// An answer to an earlier one.
    Late,
}

impl Card {
    pub(super) fn new(id: AcceleratorId) -> Self {
        Self {
            id,
            reader: None,
            absent: GapCause::DeviceLost,
            targets: Arc::new([]),
            metered: Vec::new(),
            asked: 0,
        }
    }

    /// Starts its thread. An error is in words.
    pub(super) fn start(&mut self, nvml: Arc<Nvml>, origin: Instant) -> Result<(), String> {
        match read::start(nvml, self.id.clone(), origin) {
            Ok((ask, answers)) => {
                self.reader = Some(Reader { ask, answers, waiting: Waiting::Nothing });
                self.asked = 0;
                Ok(())
            }
            Err(error) => {
                self.absent = GapCause::ReadFailed;
                Err(format!("starting the thread that reads the device: {error}"))
            }
        }
    }

    /// Ends its thread, as soon as it is out of the driver: then the channel ends.
    pub(super) fn let_go(&mut self) -> Option<Reads> {
        self.absent = GapCause::Released;
        self.reader.take().map(|reader| reader.answers)
    }

    /// Asks for readings, unless the answer to an earlier question is still owed. True if what comes next does
    /// not follow what was read last.
    pub(super) fn ask(&mut self, pids_every: u32) -> Result<bool, Failure> {
        let mut rebase = false;
        let Some(reader) = &mut self.reader else { return Ok(false) };
        if reader.waiting != Waiting::Nothing {
            match reader.answers.try_recv() {
                Ok(Err(failure)) if failure.is_final() => return Err(self.end(failure)),
                // Whatever it says, it is about a moment that has passed.
                Ok(_) => rebase = true,
                Err(TryRecvError::Empty) => {
                    reader.waiting = Waiting::Late;
                    return Ok(true);
                }
                Err(TryRecvError::Disconnected) => return Err(self.died()),
            }
        }
        let read = Read { targets: Arc::clone(&self.targets), pids: self.asked.is_multiple_of(pids_every) };
        if reader.ask.send(read).is_err() {
            return Err(self.died());
        }
        reader.waiting = Waiting::Now;
        self.asked = self.asked.wrapping_add(1);
        Ok(rebase)
    }

    /// Hears the answer, until the deadline.
    pub(super) async fn hear(&mut self, deadline: Instant) -> Answers {
        let Some(reader) = &mut self.reader else {
            return Err(Failure { cause: self.absent, detail: "there is no device to ask".into() });
        };
        let hung = || Failure {
            cause: GapCause::CallHung,
            detail: "a call into the driver has not come back".into(),
        };
        if reader.waiting != Waiting::Now {
            return Err(hung());
        }
        match timeout_at(deadline, reader.answers.recv()).await {
            Ok(Some(Err(failure))) if failure.is_final() => Err(self.end(failure)),
            Ok(Some(answers)) => {
                reader.waiting = Waiting::Nothing;
                answers
            }
            Ok(None) => Err(self.died()),
            Err(_) => Err(hung()),
        }
    }

    /// The device's thread is gone, or about to be, for a reason it gave.
    fn end(&mut self, failure: Failure) -> Failure {
        self.reader = None;
        self.absent = failure.cause;
        failure
    }

    /// It is gone without one. The next search starts another.
    fn died(&mut self) -> Failure {
        let detail = "the thread that reads the device ended".into();
        self.end(Failure { cause: GapCause::ReadFailed, detail })
    }
}

/// What is metered: a whole device, or a MIG instance.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) device: Device,
    pub(super) facts: Facts,
    /// Conditions that were found and not read.
    pub(super) found: Vec<Condition>,
    /// Of a MIG instance.
    pub(super) identity: Option<Identity>,
    /// It was found to have been made anew; to be told at the next look.
    pub(super) recreated: bool,
    /// A MIG instance whose compute instance is gone.
    pub(super) without_compute: bool,
    /// The inventory has to be told.
    pub(super) changed: bool,
    watch: Watch,
    /// The look before gave no reading.
    rebase: bool,
    /// What was logged last.
    logged: Option<GapCause>,
}

impl Tracked {
    pub(super) fn new(device: Device, facts: Facts) -> Self {
        Self {
            found: device.conditions.clone(),
            device,
            facts,
            identity: None,
            recreated: false,
            without_compute: false,
            changed: true,
            watch: Watch::default(),
            rebase: true,
            logged: None,
        }
    }

    /// The same device as it was found again: its particulars are new; what was read of it stays.
    pub(super) fn found_again(&mut self, device: Device, facts: Facts) {
        if self.device.driver != device.driver {
            self.watch.forget();
        }
        self.found.clone_from(&device.conditions);
        let (tier, conditions) = (self.device.tier, self.device.conditions.clone());
        let device = Device { tier, conditions, ..device };
        self.changed |= device != self.device;
        self.device = device;
        self.facts = facts;
    }

    /// It is there to be metered, or by design it is not.
    pub(super) fn set_present(&mut self, present: bool) {
        if self.device.present != present {
            self.device.present = present;
            self.changed = true;
            self.watch.forget();
            self.rebase = true;
            // Not the instance that had the name before, and nobody missed it.
            (self.recreated, self.without_compute) = (false, false);
        }
    }

    /// How a MIG instance is read, on a device that has GPM or has not.
    pub(super) fn target(&self, gpm: bool) -> Target {
        // Without its number nothing can be read of it; that it is there is known.
        let (gi, known) = self.identity.map_or((0, false), |identity| (identity.gi, true));
        Target::Instance { id: self.device.id.clone(), gi, gpm: gpm && known && !self.facts.shares }
    }

    /// A MIG instance as the driver has it now.
    pub(super) fn identify(&mut self, identity: Identity) {
        self.recreated |= self.identity.is_some_and(|before| before != identity);
        self.identity = Some(identity);
        self.facts.sms = Some(identity.sms);
        if self.device.units != Some(identity.sms) {
            self.device.units = Some(identity.sms);
            self.changed = true;
        }
    }

    /// What comes next does not follow what was read last.
    pub(super) fn rebase(&mut self) {
        self.rebase = true;
    }

    /// The driver may be another one from here on.
    pub(super) fn forget(&mut self) {
        self.watch.forget();
        self.rebase = true;
    }

    /// What its card's thread said of it.
    pub(super) fn heard(&mut self, answer: Result<Answer, &Failure>) -> DeviceLook {
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                self.log(failure.cause, &failure.detail);
                return self.missing(failure.cause);
            }
        };
        if let Some(identity) = answer.identity {
            self.identify(identity);
        }
        if std::mem::take(&mut self.recreated) {
            self.watch.forget();
            // The base of what comes next; there was nothing before it.
            let _ = self.watch.judge(&self.facts, &answer, true);
            self.log(GapCause::InstanceRecreated, "another instance has its name");
            return self.missing(GapCause::InstanceRecreated);
        }
        let Verdict { state, tier, conditions } = self.watch.judge(&self.facts, &answer, self.rebase);
        self.rate(tier, conditions);
        match state {
            DeviceState::Read(_) => {
                if self.logged.take().is_some() {
                    tracing::info!(accelerator = %self.device.id, "reading the device again");
                }
                self.rebase = false;
            }
            DeviceState::Missing(cause) => {
                self.log(cause, "the driver's answer cannot be");
                self.rebase = true;
            }
        }
        DeviceLook {
            id: self.device.id.clone(),
            state,
            pids: answer.pids,
            used: answer.used,
            machines: answer.machines,
        }
    }

    /// How good its readings are, and why not better.
    fn rate(&mut self, tier: Tier, read: Vec<Condition>) {
        let mut conditions = self.found.clone();
        conditions.extend(read);
        conditions.sort_unstable();
        conditions.dedup();
        if (self.device.tier, &self.device.conditions) != (tier, &conditions) {
            tracing::info!(accelerator = %self.device.id, %tier, ?conditions, "readings are of another kind");
            (self.device.tier, self.device.conditions) = (tier, conditions);
            self.changed = true;
        }
    }

    /// The device is split, or whole again.
    pub(super) fn set_split(&mut self, split: bool) {
        let is_split = self.device.conditions.contains(&Condition::Split);
        if split && !is_split {
            self.device.conditions = vec![Condition::Split];
            self.device.conditions.extend(&self.found);
            self.device.conditions.sort_unstable();
            self.changed = true;
        } else if !split && is_split {
            self.device.conditions.clone_from(&self.found);
            self.changed = true;
        }
        self.set_present(!split);
    }

    /// Nobody was asked for it.
    pub(super) fn unread(&mut self) -> DeviceLook {
        let cause = if self.without_compute { GapCause::NoComputeInstance } else { GapCause::DeviceLost };
        self.missing(cause)
    }

    pub(super) fn missing(&mut self, cause: GapCause) -> DeviceLook {
        self.rebase = true;
        DeviceLook {
            id: self.device.id.clone(),
            state: DeviceState::Missing(cause),
            pids: None,
            used: Vec::new(),
            machines: None,
        }
    }

    /// Once for each change, not for each look.
    pub(super) fn log(&mut self, cause: GapCause, detail: &str) {
        if self.logged.replace(cause) != Some(cause) {
            tracing::warn!(accelerator = %self.device.id, %cause, detail, "cannot read the device");
        }
    }

    /// Whether this was the news of the last look.
    pub(super) fn last_logged(&self) -> Option<GapCause> {
        self.logged
    }
}

#[cfg(test)]
mod tests;
