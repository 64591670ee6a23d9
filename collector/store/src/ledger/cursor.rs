//! Duplicates, forks and holes: what is remembered of each agent's epochs.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use weighbridge_meter::{AgentId, EpochId};
use weighbridge_wire::{Batch, Hash, Loss};

use super::{CommitError, Missing, Submission};
use crate::{numbers::Numbers, state::CursorRow};

/// Hashes kept for each agent and epoch: what an agent may resend after a lost acknowledgement, many times over.
const HASHES: usize = 4096;

/// Ranges of one epoch that are remembered: runs of batches and losses between them. An agent sends in order and
/// says what it lost, so that one range is usual and a dozen is much; a batch that would begin yet another hole
/// beyond this is refused.
const RANGES: usize = 1000;

/// The same once losses are told: each run may have one behind it. Losses that would make more of them are refused.
const RANGES_WITH_LOSSES: usize = 2 * RANGES;

/// Epochs of one agent that are remembered, each of which is a start of it, or a spool of its that is gone: a batch
/// that names yet another one is refused.
const EPOCHS: usize = 10_000;

/// Ranges of missing numbers in one acknowledgement.
const MISSING: usize = 16;

/// Agents by what of theirs is in the ledger.
#[derive(Debug, Default)]
pub(super) struct Cursors(HashMap<AgentId, Epochs>);

#[derive(Debug, Default)]
struct Epochs {
    all: HashMap<EpochId, Cursor>,
    /// Those with missing numbers: few or none, so that nobody has to look through all of them.
    holed: BTreeSet<EpochId>,
}

/// What is remembered of one epoch.
#[derive(Debug, Default)]
struct Cursor {
    numbers: Numbers,
    /// The last hashes, by number in ascending order.
    hashes: VecDeque<(u64, Hash)>,
}

/// What was known before a batch came, of its epoch, and what of others it gave up.
#[derive(Debug)]
pub(super) struct Undo {
    agent: AgentId,
    epoch: EpochId,
    sequence: u64,
    before: Numbers,
    closed: Vec<(EpochId, Vec<(u64, u64)>)>,
}

/// What a batch is to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Not in it.
    New,
    /// In it, with the same hash.
    Same,
    /// In it, its hash no longer remembered.
    Old,
}

impl Cursors {
    pub(super) fn new(rows: Vec<CursorRow>) -> Self {
        let mut cursors = Self::default();
        for CursorRow { agent, epoch, numbers, .. } in rows {
            let hashes = numbers.ends().collect();
            let of_agent = cursors.0.entry(agent).or_default();
            of_agent.all.insert(epoch, Cursor { numbers, hashes });
            of_agent.note(epoch);
        }
        cursors
    }

    /// What the ledger knows of this batch, or why it must not come in.
    pub(super) fn judge(&self, submission: &Submission) -> Result<Known, CommitError> {
        let Batch { agent, epoch, sequence, prev_hash, .. } = &submission.batch;
        let (epoch, sequence) = (*epoch, *sequence);
        let none = Cursor::default();
        let cursor = self.0.get(agent).and_then(|epochs| epochs.all.get(&epoch)).unwrap_or(&none);
        let before = match sequence {
            1 => Some([0; 32]),
            _ => cursor.hash(sequence - 1),
        };
        let highest = cursor.numbers.highest();
        if cursor.numbers.has(sequence) {
            return match cursor.hash(sequence) {
                Some(hash) if hash == submission.hash => Ok(Known::Same),
                Some(_) => {
                    // It goes on from a batch that is here, to another one than did: the agent was set back.
                    let set_back = before == Some(*prev_hash);
                    let agent = agent.clone();
                    Err(CommitError::Conflict { agent, epoch, sequence, highest, set_back })
                }
                None => Ok(Known::Old),
            };
        }
        let leads_here = before.is_none_or(|before| before == *prev_hash);
        let leads_on = cursor.numbers.expected(sequence).is_none_or(|hash| hash == submission.hash);
        if !leads_here || !leads_on {
            return Err(CommitError::BrokenChain { agent: agent.clone(), epoch, sequence });
        }
        if cursor.numbers.ranges() >= RANGES && cursor.numbers.stands_alone(sequence) {
            return Err(CommitError::Holes { agent: agent.clone(), epoch, sequence, limit: RANGES });
        }
        self.bounded(&submission.batch)?;
        Ok(Known::New)
    }

    /// Whether what it says of losses, and of epochs, can be remembered.
    fn bounded(&self, batch: &Batch) -> Result<(), CommitError> {
        let Batch { agent, epoch, sequence, losses, .. } = batch;
        let (epoch, sequence) = (*epoch, *sequence);
        let known = self.0.get(agent);
        let mut named: BTreeMap<EpochId, Vec<&Loss>> = BTreeMap::from([(epoch, Vec::new())]);
        losses.iter().for_each(|loss| named.entry(loss.epoch).or_default().push(loss));
        let (mut epochs, mut more) = (known.map_or(0, |known| known.all.len()), false);
        for (of, losses) in named {
            let cursor = known.and_then(|known| known.all.get(&of));
            if cursor.is_none() {
                (epochs, more) = (epochs + 1, true);
            }
            if losses.is_empty() {
                continue;
            }
            let mut numbers = cursor.map(|cursor| cursor.numbers.clone()).unwrap_or_default();
            let before = numbers.ranges();
            for Loss { first, last, cause, .. } in losses {
                numbers.lose(*first, *last, *cause);
            }
            if numbers.ranges() > before.max(RANGES_WITH_LOSSES) {
                let limit = RANGES_WITH_LOSSES;
                return Err(CommitError::Holes { agent: agent.clone(), epoch: of, sequence, limit });
            }
        }
        if more && epochs > EPOCHS {
            return Err(CommitError::Epochs { agent: agent.clone(), epoch, sequence, limit: EPOCHS });
        }
        Ok(())
    }

    /// A batch is in the ledger, with what it says is lost. Gives back how to forget it.
    pub(super) fn take(&mut self, batch: &Batch, hash: Hash) -> Undo {
        let epochs = match self.0.get_mut(&batch.agent) {
            Some(epochs) => epochs,
            None => self.0.entry(batch.agent.clone()).or_default(),
        };
        let own = epochs.all.entry(batch.epoch).or_default();
        let before = own.numbers.clone();
        own.take(batch.sequence, batch.prev_hash, hash);
        let mut closed = Vec::new();
        for Loss { epoch, first, last, cause } in &batch.losses {
            let ranges = epochs.all.entry(*epoch).or_default().numbers.lose(*first, *last, *cause);
            closed.push((*epoch, ranges));
            epochs.note(*epoch);
        }
        epochs.note(batch.epoch);
        Undo { agent: batch.agent.clone(), epoch: batch.epoch, sequence: batch.sequence, before, closed }
    }

    /// Takes back what [`Cursors::take`] did; the last one first.
    pub(super) fn forget(&mut self, undo: Undo) {
        let Some(epochs) = self.0.get_mut(&undo.agent) else { return };
        for (epoch, closed) in undo.closed.iter().rev() {
            if let Some(cursor) = epochs.all.get_mut(epoch) {
                cursor.numbers.regain(closed);
            }
        }
        if let Some(cursor) = epochs.all.get_mut(&undo.epoch) {
            cursor.numbers = undo.before;
            cursor.hashes.retain(|(number, _)| *number != undo.sequence);
        }
        for epoch in undo.closed.iter().map(|(epoch, _)| *epoch).chain([undo.epoch]) {
            if epochs.all.get(&epoch).is_some_and(|cursor| cursor.numbers.ranges() == 0) {
                epochs.all.remove(&epoch);
            }
            epochs.note(epoch);
        }
    }

    /// Numbers of this agent that are neither here nor given up.
    pub(super) fn missing(&self, agent: &AgentId) -> Vec<Missing> {
        let Some(epochs) = self.0.get(agent).filter(|epochs| !epochs.holed.is_empty()) else {
            return Vec::new();
        };
        let holed = epochs.holed.iter().filter_map(|epoch| Some((*epoch, epochs.all.get(epoch)?)));
        let ranges = holed.flat_map(|(epoch, cursor)| {
            let missing = cursor.numbers.missing(MISSING);
            missing.into_iter().map(move |(first, last)| Missing { epoch, first, last })
        });
        ranges.take(MISSING).collect()
    }
}

impl Epochs {
    fn note(&mut self, epoch: EpochId) {
        let holed = self.all.get(&epoch).is_some_and(|cursor| cursor.numbers.missing_count() > 0);
        if holed {
            self.holed.insert(epoch);
        } else if !self.holed.is_empty() {
            self.holed.remove(&epoch);
        }
    }
}

impl Cursor {
    fn hash(&self, number: u64) -> Option<Hash> {
        let found = self.hashes.binary_search_by_key(&number, |(number, _)| *number);
        found.ok().and_then(|index| self.hashes.get(index)).map(|(_, hash)| *hash)
    }

    fn take(&mut self, number: u64, before: Hash, hash: Hash) {
        self.numbers.take(number, before, hash);
        match self.hashes.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(_) => {}
            Err(index) => self.hashes.insert(index, (number, hash)),
        }
        if self.hashes.len() > HASHES {
            self.hashes.pop_front();
        }
    }
}
