//! From where a customer used the service, and when: what a report asks for as the addresses of access or
//! administration, with date and time of each.
//!
//! A log keeps every time up to [`EXACT_TIMES`] of a customer. Of a customer with more it keeps, for each address and
//! UTC day, the first, the last and how many; and of one with more days than that, the same for each address. What was
//! kept so is never finer again. Merging is the same in any order and any grouping, so logs may come in pieces.
//!
//! A count says how often a use was told: who hands over the same log twice counts it twice, while its times stand
//! there once.
//!
//! It is kept in a tree and so not wiped when dropped; it goes to a disk only sealed.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use weighbridge_meter::UtcMillis;

use crate::Access;

/// The most times of a customer that are kept exactly, and then the most days of its addresses.
pub const EXACT_TIMES: usize = 10_000;

/// What the service was used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessKind {
    /// To use it.
    #[default]
    Access,
    /// To administer it.
    Administration,
}

impl AccessKind {
    /// What the text form must be, in words for an error message.
    pub const EXPECTED: &'static str = "access or administration";

    pub(crate) fn is_access(&self) -> bool {
        *self == Self::Access
    }
}

impl FromStr for AccessKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "access" => Ok(Self::Access),
            "administration" => Ok(Self::Administration),
            _ => Err(()),
        }
    }
}

/// How finely times are kept, the finest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grain {
    /// Each.
    #[default]
    Exact,
    /// Of each address and UTC day the first, the last and how many.
    Days,
    /// Of each address the first, the last and how many.
    Ends,
}

impl Grain {
    /// What is kept together.
    fn bucket(self, at: UtcMillis) -> i64 {
        match self {
            Self::Exact => at.0,
            Self::Days => at.0.div_euclid(UtcMillis::DAY),
            Self::Ends => 0,
        }
    }

    fn coarser(self) -> Option<Self> {
        match self {
            Self::Exact => Some(Self::Days),
            Self::Days => Some(Self::Ends),
            Self::Ends => None,
        }
    }
}

/// The uses of the service by one customer. See the module.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AccessLog {
    grain: Grain,
    uses: BTreeMap<(IpAddr, AccessKind, i64), Uses>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Uses {
    first: UtcMillis,
    last: UtcMillis,
    count: u64,
}

impl Uses {
    fn add(&mut self, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.count = self.count.saturating_add(other.count);
    }
}

/// Uses from one address that are kept together: one moment, or the first and the last of several.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessEntry {
    /// From where.
    pub address: IpAddr,
    /// What for.
    #[serde(default, skip_serializing_if = "AccessKind::is_access")]
    pub what: AccessKind,
    /// When first.
    pub first: UtcMillis,
    /// When last.
    pub last: UtcMillis,
    /// How often it was told.
    pub count: u64,
}

impl fmt::Debug for AccessEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessEntry(..)")
    }
}

impl AccessLog {
    /// Takes one use. An IPv4 address in the form of an IPv6 one is the IPv4 address.
    pub fn add(&mut self, access: Access, what: AccessKind) {
        let Access { address, at } = access;
        self.put(AccessEntry { address, what, first: at, last: at, count: 1 });
        self.settle(EXACT_TIMES);
    }

    /// Takes all of another log of the same customer.
    pub fn merge(&mut self, other: &Self) {
        self.merge_within(other, EXACT_TIMES);
    }

    fn merge_within(&mut self, other: &Self, limit: usize) {
        self.coarsen(other.grain);
        for entry in other.entries() {
            self.put(entry);
        }
        self.settle(limit);
    }

    /// Of what it is not too coarse for.
    fn put(&mut self, entry: AccessEntry) {
        let AccessEntry { address, what, first, last, count } = entry;
        let key = (address.to_canonical(), what, self.grain.bucket(first));
        let uses = Uses { first, last, count };
        self.uses.entry(key).and_modify(|known| known.add(uses)).or_insert(uses);
    }

    fn settle(&mut self, limit: usize) {
        while self.uses.len() > limit
            && let Some(coarser) = self.grain.coarser()
        {
            self.coarsen(coarser);
        }
    }

    fn coarsen(&mut self, grain: Grain) {
        if grain > self.grain {
            let finer = std::mem::replace(self, Self { grain, uses: BTreeMap::new() });
            for entry in finer.entries() {
                self.put(entry);
            }
        }
    }

    /// How finely the times are kept.
    pub fn grain(&self) -> Grain {
        self.grain
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.uses.is_empty()
    }

    /// All that is kept, by address, use and time.
    pub fn entries(&self) -> impl Iterator<Item = AccessEntry> + '_ {
        self.uses.iter().map(|((address, what, _), uses)| AccessEntry {
            address: *address,
            what: *what,
            first: uses.first,
            last: uses.last,
            count: uses.count,
        })
    }

    /// Every time that is kept, by address and time, each once: of uses that are kept together the first and the last.
    pub fn accesses(&self) -> Vec<Access> {
        let mut accesses: Vec<Access> = self
            .entries()
            .flat_map(|entry| [entry.first, entry.last].map(|at| Access { address: entry.address, at }))
            .collect();
        accesses.sort_unstable();
        accesses.dedup();
        accesses
    }

    /// Whether it tells of the same uses, each however often.
    pub fn tells_the_same(&self, other: &Self) -> bool {
        let of = |(key, uses): (&(IpAddr, AccessKind, i64), &Uses)| (*key, uses.first, uses.last);
        self.grain == other.grain && self.uses.iter().map(of).eq(other.uses.iter().map(of))
    }

    /// In words, where its times do not stand for every use: how coarse they are and how many uses they stand for.
    pub fn coarseness(&self) -> Option<String> {
        let kept = match self.grain {
            Grain::Exact => return None,
            Grain::Days => "the first and the last of each address and UTC day",
            Grain::Ends => "the first and the last of each address",
        };
        Some(format!("times are {kept}, and stand for {} uses", self.count()))
    }

    /// When it was last used.
    pub fn last(&self) -> Option<UtcMillis> {
        self.uses.values().map(|uses| uses.last).max()
    }

    /// How many uses were told of, each as often as it was.
    pub fn count(&self) -> u64 {
        self.uses.values().fold(0, |sum, uses| sum.saturating_add(uses.count))
    }

    /// Whether a use from there was told.
    pub fn knows(&self, address: IpAddr, what: AccessKind) -> bool {
        let address = address.to_canonical();
        self.uses.range((address, what, i64::MIN)..=(address, what, i64::MAX)).next().is_some()
    }

    /// How many entries there are.
    pub fn kept(&self) -> usize {
        self.uses.len()
    }

    /// How many pairs of address and use there are.
    pub fn addresses(&self) -> usize {
        let mut before = None;
        self.uses
            .keys()
            .filter(|(address, what, _)| before.replace((*address, *what)) != Some((*address, *what)))
            .count()
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("grain", &self.grain)
            .field("entries", &self.uses.len())
            .finish_non_exhaustive()
    }
}

/// As it is sealed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    grain: Grain,
    entries: Vec<AccessEntry>,
}

impl Serialize for AccessLog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Stored { grain: self.grain, entries: self.entries().collect() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AccessLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Stored { grain, entries } = Stored::deserialize(deserializer)?;
        let mut log = Self { grain, uses: BTreeMap::new() };
        for (index, entry) in entries.into_iter().enumerate() {
            let together = grain.bucket(entry.first) == grain.bucket(entry.last);
            let counted = entry.count > u64::from(entry.first != entry.last);
            if !together || !counted || entry.first > entry.last {
                return Err(de::Error::custom(format_args!(
                    "entry {index} is not first and last, in order, of what is kept together and counted"
                )));
            }
            log.put(entry);
        }
        log.settle(EXACT_TIMES);
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn access(address: &str, at: i64) -> Access {
        Access { address: address.parse().unwrap(), at: UtcMillis(at) }
    }

    fn log(uses: impl IntoIterator<Item = (Access, AccessKind)>, limit: usize) -> AccessLog {
        let mut log = AccessLog::default();
        for (access, what) in uses {
            let mut one = AccessLog::default();
            one.add(access, what);
            log.merge_within(&one, limit);
        }
        log
    }

    fn shown(log: &AccessLog) -> String {
        serde_json::to_string_pretty(log).unwrap()
    }

    #[test]
    fn each_time_is_kept_once_and_counted_as_often_as_it_is_told() {
        let mut log = AccessLog::default();
        for access in [
            access("192.0.2.7", 1_000),
            access("2001:db8::1", 0),
            access("::ffff:192.0.2.7", 1_000),
            access("192.0.2.7", 0),
        ] {
            log.add(access, AccessKind::Access);
        }
        log.add(access("192.0.2.7", 0), AccessKind::Administration);
        expect![[r#"
            {"grain":"exact","entries":[{"address":"192.0.2.7","first":"1970-01-01T00:00:00Z","last":"1970-01-01T00:00:00Z","count":1},{"address":"192.0.2.7","first":"1970-01-01T00:00:01Z","last":"1970-01-01T00:00:01Z","count":2},{"address":"192.0.2.7","what":"administration","first":"1970-01-01T00:00:00Z","last":"1970-01-01T00:00:00Z","count":1},{"address":"2001:db8::1","first":"1970-01-01T00:00:00Z","last":"1970-01-01T00:00:00Z","count":1}]}"#]]
        .assert_eq(&serde_json::to_string(&log).unwrap());
        let listed: Vec<String> = log.accesses().iter().map(Access::to_string).collect();
        expect![
            "192.0.2.7@1970-01-01T00:00:00Z 192.0.2.7@1970-01-01T00:00:01Z 2001:db8::1@1970-01-01T00:00:00Z"
        ]
        .assert_eq(&listed.join(" "));
        assert_eq!((log.addresses(), log.count(), log.last()), (3, 5, Some(UtcMillis(1_000))));
        assert!(!format!("{log:?}").contains("192"), "{log:?}");
    }

    #[test]
    fn beyond_the_limit_first_and_last_of_each_day_stay_and_then_of_each_address() {
        let uses = |days: i64, each: i64| {
            let times = (0..days).flat_map(move |day| (0..each).map(move |at| day * UtcMillis::DAY + at));
            log(times.map(|at| (access("192.0.2.7", at), AccessKind::Access)), 6)
        };
        assert_eq!(uses(2, 3).grain(), Grain::Exact);
        let entries = |log: &AccessLog| -> Vec<String> {
            log.entries().map(|entry| format!("{}..{} x{}", entry.first, entry.last, entry.count)).collect()
        };
        expect!["1970-01-01T00:00:00Z..1970-01-01T00:00:00.004Z x5, 1970-01-02T00:00:00Z..1970-01-02T00:00:00.004Z x5"]
            .assert_eq(&entries(&uses(2, 5)).join(", "));
        expect!["1970-01-01T00:00:00Z..1970-01-07T00:00:00.004Z x35"]
            .assert_eq(&entries(&uses(7, 5)).join(", "));
    }

    #[test]
    fn times_that_do_not_stand_for_every_use_say_so() {
        let days = |days| {
            let times = (0..days).flat_map(|day| [0, 1, 2].map(|at| day * UtcMillis::DAY + at));
            log(times.map(|at| (access("192.0.2.7", at), AccessKind::Access)), 4).coarseness()
        };
        assert_eq!(days(1), None);
        expect!["times are the first and the last of each address and UTC day, and stand for 12 uses"]
            .assert_eq(&days(4).unwrap());
        expect!["times are the first and the last of each address, and stand for 15 uses"]
            .assert_eq(&days(5).unwrap());
    }

    #[test]
    fn what_a_use_was_for_is_part_of_what_is_told_and_how_often_is_not() {
        let of = |whats: &[AccessKind]| log(whats.iter().map(|what| (access("192.0.2.7", 0), *what)), 9);
        let (used, administered) = (AccessKind::Access, AccessKind::Administration);
        assert!(of(&[used, used]).tells_the_same(&of(&[used])));
        assert!(!of(&[used]).tells_the_same(&of(&[administered])));
        assert!(!of(&[used]).tells_the_same(&of(&[used, administered])));
    }

    #[test]
    fn what_cannot_have_been_kept_is_refused() {
        for entry in [
            r#""first":"1970-01-01T00:00:01Z","last":"1970-01-01T00:00:00Z","count":2"#,
            r#""first":"1970-01-01T00:00:00Z","last":"1970-01-02T00:00:00Z","count":2"#,
            r#""first":"1970-01-01T00:00:00Z","last":"1970-01-01T00:00:01Z","count":1"#,
            r#""first":"1970-01-01T00:00:00Z","last":"1970-01-01T00:00:00Z","count":0"#,
        ] {
            let text = format!(r#"{{"grain":"days","entries":[{{"address":"192.0.2.7",{entry}}}]}}"#);
            assert!(serde_json::from_str::<AccessLog>(&text).is_err(), "{entry}");
        }
    }

    fn uses() -> impl Strategy<Value = Vec<(Access, AccessKind)>> {
        let address = select(vec!["192.0.2.7", "192.0.2.8", "::ffff:192.0.2.7", "2001:db8::1"]);
        let at = (-2..3_i64, 0..4_i64).prop_map(|(day, at)| day * UtcMillis::DAY + at);
        let what = select(vec![AccessKind::Access, AccessKind::Administration]);
        vec((address, at, what).prop_map(|(address, at, what)| (access(address, at), what)), 0..20)
    }

    proptest! {
        #[test]
        fn merging_is_the_same_in_any_order_and_grouping(
            uses in uses(),
            limit in 1..20_usize,
            places in vec(any::<prop::sample::Index>(), 20),
            cut in any::<prop::sample::Index>(),
        ) {
            let all = log(uses.clone(), limit);
            let mut shuffled = uses;
            for (place, index) in (0..shuffled.len()).zip(&places) {
                let other = index.index(shuffled.len());
                shuffled.swap(place, other);
            }
            let (left, right) = shuffled.split_at(cut.index(shuffled.len() + 1));
            let (left, right) = (log(left.to_vec(), limit), log(right.to_vec(), limit));
            let (mut one, mut other) = (left.clone(), right.clone());
            one.merge_within(&right, limit);
            other.merge_within(&left, limit);
            prop_assert_eq!(shown(&one), shown(&all));
            prop_assert_eq!(shown(&other), shown(&all));
        }

        #[test]
        fn a_log_reads_back_as_it_was_written(uses in uses(), limit in 1..20_usize) {
            let log = log(uses, limit);
            let text = serde_json::to_string(&log).unwrap();
            prop_assert_eq!(shown(&serde_json::from_str(&text).unwrap()), shown(&log));
        }

        #[test]
        fn first_last_and_count_are_never_lost(uses in uses(), limit in 1..20_usize) {
            let log = log(uses.clone(), limit);
            prop_assert_eq!(log.count(), uses.len() as u64);
            prop_assert_eq!(log.last(), uses.iter().map(|(access, _)| access.at).max());
            let first = |log: &AccessLog| log.entries().map(|entry| entry.first).min();
            prop_assert_eq!(first(&log), uses.iter().map(|(access, _)| access.at).min());
        }
    }
}
