//! The collector asks for batches: what is here is sent again, the rest is told as lost.

use weighbridge_meter::EpochId;
use weighbridge_wire::{Loss, LossCause};

use super::{
    Kept, PARKED, Spool, SpoolError, SpoolEvent, files,
    open::{is_damage, name_of_batch},
    salvaged::without,
};

/// Numbers of one epoch that the collector has neither as batches nor closed by a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Which epoch.
    pub epoch: EpochId,
    /// The first of them.
    pub first: u64,
    /// The last of them.
    pub last: u64,
}

/// Times that a batch is sent again because it was asked for. A collector that has not got it then has another
/// reason, and must not keep an agent going in circles.
const MOST_TIMES: u32 = 3;

/// Batches for which that is counted.
const MOST_COUNTED: usize = 1_000;

impl Spool {
    /// Answers what an acknowledgement asks for. Gives back how many ranges are sent again.
    pub fn missing(&mut self, ranges: &[Missing]) -> Result<u32, SpoolError> {
        if self.incomplete {
            return Ok(0); // What is asked for may be in what could not be opened: it is asked for again.
        }
        let mut again = 0;
        for range in ranges.iter().filter(|range| 1 <= range.first && range.first <= range.last) {
            again += u32::from(self.missing_range(*range)?);
        }
        Ok(again)
    }

    fn missing_range(&mut self, range: Missing) -> Result<bool, SpoolError> {
        let Missing { epoch: id, first, last } = range;
        let Some(index) = self.epochs.iter().position(|kept| kept.id() == id) else {
            let lost = self.but_parked(range, vec![(first, last)], LossCause::Removed)?;
            self.lose(&lost)?;
            return Ok(false);
        };
        let (lost, cause, from) = match &self.epochs[index] {
            Kept::Whole(epoch) => {
                let (oldest, next) = epoch.held();
                let lost = if first < oldest { vec![(first, last.min(oldest - 1))] } else { Vec::new() };
                let from = first.max(oldest);
                (
                    lost,
                    LossCause::Removed,
                    (from <= last && from < next).then_some((from, last.min(next - 1))),
                )
            }
            Kept::Salvaged(epoch) => {
                if !epoch.is_scanned() {
                    return Ok(false); // Its holes are told once they are known.
                }
                (epoch.lost_of(first, last), LossCause::Damaged, Some((first, last)))
            }
        };
        let lost = self.but_parked(range, lost, cause)?;
        self.lose(&lost)?;
        let Some((from, until)) = from else { return Ok(false) };
        // What is parked was refused: sending it again is a person's decision.
        let held = self.parked_in(range)?.into_iter().fold(vec![(from, until)], |held, number| {
            held.into_iter().flat_map(|part| without(part, (number, number))).collect()
        });
        let Some(&(from, _)) = held.first() else { return Ok(false) };
        self.send_again(index, from)
    }

    fn send_again(&mut self, index: usize, from: u64) -> Result<bool, SpoolError> {
        let waits = match &self.epochs[index] {
            Kept::Whole(epoch) => from >= epoch.cursor(),
            Kept::Salvaged(epoch) => from >= epoch.cursor(),
        };
        if waits {
            return Ok(false);
        }
        let id = self.epochs[index].id();
        if self.asked.len() >= MOST_COUNTED {
            self.asked.clear();
        }
        let times = self.asked.entry((id, from)).or_default();
        *times += 1;
        if *times > MOST_TIMES {
            if *times == MOST_TIMES + 1 {
                self.event(SpoolEvent::AskedInVain { epoch: id, first: from });
            }
            return Ok(false);
        }
        match &mut self.epochs[index] {
            Kept::Salvaged(epoch) => Ok(epoch.rewind(from)),
            Kept::Whole(epoch) => match epoch.rewind(from) {
                Err(error) if is_damage(&error) => {
                    self.salvage(index, &error)?;
                    Ok(true)
                }
                result => result,
            },
        }
    }

    /// Parked batches among these numbers. There are few parked batches, or there is a person at work.
    fn parked_in(&self, range: Missing) -> Result<Vec<u64>, SpoolError> {
        let list = files::list(&self.options.dir.join(PARKED))?;
        let named = list.iter().filter_map(|(path, _)| name_of_batch(path));
        let inside = named
            .filter(|&(epoch, number)| epoch == range.epoch && range.first <= number && number <= range.last);
        Ok(inside.map(|(_, number)| number).collect())
    }

    /// The ranges as losses, those of them that are parked as such.
    fn but_parked(
        &self,
        asked: Missing,
        ranges: Vec<(u64, u64)>,
        cause: LossCause,
    ) -> Result<Vec<Loss>, SpoolError> {
        let epoch = asked.epoch;
        let mut ranges = ranges;
        let mut lost = Vec::new();
        for number in self.parked_in(asked)? {
            lost.push(Loss { epoch, first: number, last: number, cause: LossCause::Parked });
            ranges = ranges.into_iter().flat_map(|range| without(range, (number, number))).collect();
        }
        lost.extend(ranges.into_iter().map(|(first, last)| Loss { epoch, first, last, cause }));
        Ok(lost)
    }
}
