//! Which numbers of an epoch are here as batches, which its agent gave up, and which are missing.
//!
//! The ledger's thread and the fold both keep one of these for each epoch and apply the same entries in the same
//! order, so that duplicates, holes and what was lost are the same live, after a restart and in a rebuild. It is
//! kept as ranges: its size follows the holes, not the number of batches.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use weighbridge_wire::{Hash, LossCause};

/// What is known of the numbers of one epoch, which count from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Batches that are here, by their first number: disjoint, neighbours joined.
    runs: BTreeMap<u64, Run>,
    /// What the agent says it will not deliver, by first number: disjoint, and nothing that is here.
    lost: BTreeMap<u64, Given>,
}

/// Batches with numbers that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    last: u64,
    /// What the first of them says is the hash of the one before it.
    before: Hash,
    /// Hash of the last.
    hash: Hash,
}

/// Numbers given up for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Given {
    last: u64,
    cause: LossCause,
}

impl Numbers {
    /// Whether the batch with this number is here.
    pub fn has(&self, number: u64) -> bool {
        self.run(number).is_some()
    }

    /// The highest number that is here or given up; 0 if there is none.
    pub fn highest(&self) -> u64 {
        let here = self.runs.last_key_value().map_or(0, |(_, run)| run.last);
        here.max(self.lost.last_key_value().map_or(0, |(_, given)| given.last))
    }

    /// How many batches are here.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|(first, run)| run.last - first + 1).sum()
    }

    /// The hash of the batch with this number, where it is known: of the last of each run.
    pub fn hash(&self, number: u64) -> Option<Hash> {
        let (_, run) = self.run(number)?;
        (run.last == number).then_some(run.hash)
    }

    /// What the batch after this number says is its hash, where that is known.
    pub fn expected(&self, number: u64) -> Option<Hash> {
        self.runs.get(&number.checked_add(1)?).map(|run| run.before)
    }

    /// Last numbers of all runs with their hashes, in order.
    pub fn ends(&self) -> impl Iterator<Item = (u64, Hash)> {
        self.runs.values().map(|run| (run.last, run.hash))
    }

    /// How many ranges it takes to say all this: bounds memory.
    pub fn ranges(&self) -> usize {
        self.runs.len() + self.lost.len()
    }

    /// Whether taking this number would need another range.
    pub fn stands_alone(&self, number: u64) -> bool {
        !self.has(number.saturating_sub(1)) && !self.runs.contains_key(&number.saturating_add(1))
    }

    /// A batch is here; one that was given up is here after all.
    pub fn take(&mut self, number: u64, before: Hash, hash: Hash) {
        if number == 0 || self.has(number) {
            return;
        }
        if let Some((&first, &given)) =
            self.lost.range(..=number).next_back().filter(|(_, given)| number <= given.last)
        {
            self.lost.remove(&first);
            if first < number {
                self.lost.insert(first, Given { last: number - 1, ..given });
            }
            if number < given.last {
                self.lost.insert(number + 1, given);
            }
        }
        let mut run = Run { last: number, before, hash };
        if let Some(next) = number.checked_add(1).and_then(|next| self.runs.remove(&next)) {
            (run.last, run.hash) = (next.last, next.hash);
        }
        match self.runs.range_mut(..number).next_back().filter(|(_, other)| other.last + 1 == number) {
            Some((_, other)) => (other.last, other.hash) = (run.last, run.hash),
            None => drop(self.runs.insert(number, run)),
        }
    }

    /// The agent will not deliver these: closes what of them is missing. What is here stays here, and what was
    /// given up before keeps its first cause. Gives back what it closed.
    pub fn lose(&mut self, first: u64, last: u64, cause: LossCause) -> Vec<(u64, u64)> {
        let closed = self.open(first.max(1), last);
        for &(first, last) in &closed {
            let joined = self.lost.range_mut(..first).next_back();
            match joined.filter(|(_, given)| given.last + 1 == first && given.cause == cause) {
                Some((_, given)) => given.last = last,
                None => drop(self.lost.insert(first, Given { last, cause })),
            }
        }
        closed
    }

    /// Takes back what the last [`Numbers::lose`] closed, the last one first.
    pub fn regain(&mut self, closed: &[(u64, u64)]) {
        for &(first, _) in closed.iter().rev() {
            let Some((&from, given)) = self.lost.range_mut(..=first).next_back() else { continue };
            // Whatever it was joined to came before it.
            if from < first {
                given.last = first - 1;
            } else {
                self.lost.remove(&from);
            }
        }
    }

    /// Numbers below the highest that are neither here nor given up, as ranges, at most `most` of them.
    pub fn missing(&self, most: usize) -> Vec<(u64, u64)> {
        let mut open = self.open(1, self.highest());
        open.truncate(most);
        open
    }

    /// How many numbers below the highest are neither here nor given up.
    pub fn missing_count(&self) -> u64 {
        self.highest() - self.count() - self.lost().map(|(first, last, _)| last - first + 1).sum::<u64>()
    }

    /// What was given up, in order: from, to and why.
    pub fn lost(&self) -> impl Iterator<Item = (u64, u64, LossCause)> {
        self.lost.iter().map(|(first, given)| (*first, given.last, given.cause))
    }

    fn run(&self, number: u64) -> Option<(u64, Run)> {
        let (first, run) = self.runs.range(..=number).next_back()?;
        (number <= run.last).then_some((*first, *run))
    }

    /// The parts of `first..=last` that are neither here nor given up.
    fn open(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut open = Vec::new();
        let mut from = first;
        while from <= last {
            let covering = [
                self.run(from).map(|(_, run)| run.last),
                self.lost
                    .range(..=from)
                    .next_back()
                    .map(|(_, given)| given.last)
                    .filter(|last| from <= *last),
            ];
            if let Some(end) = covering.into_iter().flatten().max() {
                let Some(next) = end.checked_add(1) else { break };
                from = next;
                continue;
            }
            let next_run = self.runs.range(from..).next().map(|(first, _)| *first);
            let next_lost = self.lost.range(from..).next().map(|(first, _)| *first);
            let until = [next_run, next_lost].into_iter().flatten().min().map_or(last, |next| next - 1);
            open.push((from, until.min(last)));
            let Some(next) = until.min(last).checked_add(1) else { break };
            from = next;
        }
        open
    }
}

/// As kept: ranges in order, hashes in hexadecimal.
#[derive(Serialize, Deserialize)]
struct Stored {
    runs: Vec<(u64, u64, String, String)>,
    lost: Vec<(u64, u64, u32)>,
}

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use crate::fold::hex;
        let runs = self.runs.iter();
        Stored {
            runs: runs.map(|(first, run)| (*first, run.last, hex(&run.before), hex(&run.hash))).collect(),
            lost: self.lost().map(|(first, last, cause)| (first, last, cause.code())).collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = Stored::deserialize(deserializer)?;
        let bad = |what: &str| de::Error::custom(format!("{what} of numbers that cannot be"));
        let mut numbers = Self::default();
        let mut after = 0;
        for (first, last, before, hash) in stored.runs {
            let (before, hash) = unhex(&before).zip(unhex(&hash)).ok_or_else(|| bad("hashes"))?;
            if first <= after || last < first || last > i64::MAX.unsigned_abs() {
                return Err(bad("runs"));
            }
            // A neighbour would have been joined.
            after = last + 1;
            numbers.runs.insert(first, Run { last, before, hash });
        }
        let mut after = 0;
        for (first, last, cause) in stored.lost {
            let cause = LossCause::from_code(cause).ok_or_else(|| bad("causes"))?;
            if first <= after || last < first || last > i64::MAX.unsigned_abs() {
                return Err(bad("losses"));
            }
            if numbers.open(first, last) != [(first, last)] {
                return Err(bad("losses"));
            }
            after = last;
            numbers.lost.insert(first, Given { last, cause });
        }
        Ok(numbers)
    }
}

/// 32 bytes from hexadecimal.
pub(crate) fn unhex(text: &str) -> Option<Hash> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn hash(number: u64) -> Hash {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        hash
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take(u64),
        Lose(u64, u64, LossCause),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let causes = [LossCause::Damaged, LossCause::Parked, LossCause::Removed];
        prop_oneof![
            (1_u64..40).prop_map(Step::Take),
            (1_u64..40, 0_u64..12, 0_usize..3).prop_map(move |(first, more, cause)| Step::Lose(
                first,
                first + more,
                causes[cause]
            )),
        ]
    }

    proptest! {
        #[test]
        fn numbers_are_the_set_of_what_came_and_what_was_given_up(steps in prop::collection::vec(any_step(), 0..40)) {
            let mut numbers = Numbers::default();
            let (mut here, mut lost) = (BTreeSet::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Take(number) => {
                        numbers.take(number, hash(number - 1), hash(number));
                        here.insert(number);
                        lost.remove(&number);
                    }
                    Step::Lose(first, last, cause) => {
                        let before = numbers.clone();
                        let closed = numbers.lose(first, last, cause);
                        let mut regained = numbers.clone();
                        regained.regain(&closed);
                        prop_assert_eq!(regained, before);
                        for number in (first..=last).filter(|number| !here.contains(number)) {
                            lost.entry(number).or_insert(cause);
                        }
                    }
                }
                let highest = here.iter().chain(lost.keys()).max().copied().unwrap_or(0);
                prop_assert_eq!(numbers.highest(), highest);
                prop_assert_eq!(numbers.count(), here.len() as u64);
                prop_assert!((0..60).all(|number| numbers.has(number) == here.contains(&number)));
                let given: BTreeMap<u64, LossCause> =
                    numbers.lost().flat_map(|(first, last, cause)| (first..=last).map(move |n| (n, cause))).collect();
                prop_assert_eq!(&given, &lost);
                let missing: Vec<u64> =
                    numbers.missing(usize::MAX).into_iter().flat_map(|(first, last)| first..=last).collect();
                let expected: Vec<u64> =
                    (1..=highest).filter(|number| !here.contains(number) && !lost.contains_key(number)).collect();
                prop_assert_eq!(numbers.missing_count(), expected.len() as u64);
                prop_assert_eq!(missing, expected);
                for (number, known) in (1..60).map(|number| (number, numbers.hash(number))) {
                    let last = here.contains(&number) && !here.contains(&(number + 1));
                    prop_assert_eq!(known, last.then(|| hash(number)));
                    let next_begins = here.contains(&(number + 1)) && !here.contains(&number);
                    prop_assert_eq!(numbers.expected(number), next_begins.then(|| hash(number)));
                }
            }
            let json = serde_json::to_string(&numbers).expect("plain data");
            prop_assert_eq!(serde_json::from_str::<Numbers>(&json).expect("reads back"), numbers);
        }
    }

    #[test]
    fn a_loss_of_all_numbers_there_are_costs_one_range_and_a_late_batch_is_taken_all_the_same() {
        let mut numbers = Numbers::default();
        numbers.take(3, hash(2), hash(3));
        numbers.lose(1, i64::MAX.unsigned_abs(), LossCause::Removed);
        assert_eq!((numbers.ranges(), numbers.missing(9)), (3, vec![]));
        numbers.take(7, hash(6), hash(7));
        assert!(numbers.has(7) && !numbers.has(8));
        assert_eq!(numbers.missing_count(), 0);
    }
}
