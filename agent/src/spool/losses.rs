//! What the collector has still to be told: batches that will not be delivered.

use std::path::{Path, PathBuf};

use weighbridge_meter::EpochId;
use weighbridge_wire::{Loss, LossCause};

use super::{SpoolError, files, salvaged::without};

/// Ranges that wait to be told, 48 bytes each. What is beyond is asked for again by the collector.
const MOST_PENDING: usize = 10_000;

/// `epoch first last cause`, one range a line, until a batch that says so is acknowledged.
pub(super) const LOSSES: &str = "LOSSES";

#[derive(Debug)]
pub(super) struct Losses {
    path: PathBuf,
    pending: Vec<Loss>,
    /// Told in a batch that still waits for its acknowledgement. After a restart they are told once more.
    under_way: Vec<(Loss, EpochId, u64)>,
    saved: bool,
}

impl Losses {
    pub(super) fn empty(spool: &Path) -> Self {
        Self { path: spool.join(LOSSES), pending: Vec::new(), under_way: Vec::new(), saved: true }
    }

    /// Lines that make no sense are left out: the collector asks for what it misses.
    pub(super) fn open(spool: &Path) -> Result<Self, SpoolError> {
        let path = spool.join(LOSSES);
        let text = files::read(&path)?.unwrap_or_default();
        let pending = text.lines().filter_map(parse).take(MOST_PENDING).collect();
        Ok(Self { path, pending, under_way: Vec::new(), saved: true })
    }

    /// Takes note of ranges, durably. Gives back what of them is new.
    pub(super) fn add(&mut self, losses: &[Loss]) -> Result<Vec<Loss>, SpoolError> {
        for loss in losses {
            self.untold(loss.epoch, loss.first, loss.last);
        }
        let mut new = Vec::new();
        for loss in losses {
            let mut ranges = vec![(loss.first, loss.last)];
            let known = self.pending.iter().chain(self.under_way.iter().map(|(loss, ..)| loss));
            for known in known.filter(|known| known.epoch == loss.epoch) {
                let rest = ranges.into_iter().flat_map(|range| without(range, (known.first, known.last)));
                ranges = rest.collect();
            }
            new.extend(ranges.into_iter().map(|(first, last)| Loss { first, last, ..*loss }));
        }
        new.truncate(MOST_PENDING.saturating_sub(self.pending.len()));
        if new.is_empty() {
            return Ok(new);
        }
        let before = self.pending.len();
        self.pending.extend(&new);
        self.saved = false;
        if let Err(error) = self.save() {
            self.pending.truncate(before);
            return Err(error);
        }
        self.join();
        Ok(new)
    }

    /// Ranges with the same cause that meet become one.
    fn join(&mut self) {
        self.pending.sort_by_key(|loss| (loss.epoch, loss.first));
        self.pending.dedup_by(|next, before| {
            let meet = next.epoch == before.epoch
                && next.cause == before.cause
                && before.last.checked_add(1) == Some(next.first);
            if meet {
                before.last = next.last;
            }
            meet
        });
    }

    /// What the next batch is to say, at most so many.
    pub(super) fn next(&self, most: usize) -> Vec<Loss> {
        self.pending.iter().take(most).copied().collect()
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// A durable batch says so.
    pub(super) fn told(&mut self, losses: &[Loss], epoch: EpochId, sequence: u64) {
        self.pending.retain(|loss| !losses.contains(loss));
        self.under_way.extend(losses.iter().map(|loss| (*loss, epoch, sequence)));
    }

    /// A batch was acknowledged: what it told may be asked for again from here on.
    pub(super) fn settled(&mut self, epoch: EpochId, sequence: u64) {
        self.settle(|told_in, number| told_in == epoch && number <= sequence);
    }

    /// The same for one that was sent out of order.
    pub(super) fn settled_alone(&mut self, epoch: EpochId, sequence: u64) {
        self.settle(|told_in, number| told_in == epoch && number == sequence);
    }

    fn settle(&mut self, settled: impl Fn(EpochId, u64) -> bool) {
        let before = self.under_way.len();
        self.under_way.retain(|(_, told_in, number)| !settled(*told_in, *number));
        self.saved &= self.under_way.len() == before;
    }

    /// These batches do not come to the collector: what they told has to be told by others.
    pub(super) fn untold(&mut self, epoch: EpochId, first: u64, last: u64) {
        let inside = |told_in: EpochId, number: u64| told_in == epoch && (first..=last).contains(&number);
        let again: Vec<_> =
            self.under_way.extract_if(.., |(_, told_in, number)| inside(*told_in, *number)).collect();
        self.pending.extend(again.into_iter().map(|(loss, ..)| loss));
    }

    /// Writes down what is still to be told, and what no acknowledged batch told.
    pub(super) fn save(&mut self) -> Result<(), SpoolError> {
        if self.saved {
            return Ok(());
        }
        let line =
            |loss: &Loss| format!("{} {} {} {}\n", loss.epoch, loss.first, loss.last, loss.cause.as_str());
        let under_way = self.under_way.iter().map(|(loss, ..)| loss);
        let text: String = self.pending.iter().chain(under_way).map(line).collect();
        files::write(&self.path, text.as_bytes())?;
        self.saved = true;
        Ok(())
    }
}

fn parse(line: &str) -> Option<Loss> {
    let mut words = line.split(' ');
    let epoch = words.next()?.parse().ok()?;
    let (first, last) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let word = words.next()?;
    let cause = LossCause::ALL.iter().copied().find(|cause| cause.as_str() == word)?;
    (1 <= first && first <= last).then_some(Loss { epoch, first, last, cause })
}
