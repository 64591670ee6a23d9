//! How much each agent may send: a bucket of batches and one of bytes, which fill up evenly.
//!
//! An agent sends a batch a minute. After an outage it may send what waited as fast as it can, thousands of times
//! its usual pace; what it cannot do is fill the ledger or keep the collector from everybody else.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use weighbridge_meter::{AgentId, UtcMillis};

/// What an agent may send in a minute; a bucket holds twice as much, so that one that was silent may send at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Batches.
    pub batches: u32,
    /// Bytes of batches as sent.
    pub bytes: u32,
}

/// Minutes that a bucket holds.
const HELD: i64 = 2;

/// The buckets of all agents that sent anything lately.
#[derive(Debug)]
pub struct Quotas {
    quota: Quota,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_agent: HashMap<AgentId, Bucket>,
    /// When full buckets were last thrown away.
    swept: Option<UtcMillis>,
}

/// Counted in shares of a minute, so that nothing is lost to rounding: a batch costs 60,000.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    filled: UtcMillis,
    batches: i64,
    bytes: i64,
}

const MINUTE: i64 = UtcMillis::MINUTE;

impl Quotas {
    /// All buckets full.
    pub fn new(quota: Quota) -> Self {
        Self { quota, buckets: Mutex::default() }
    }

    fn full(&self, now: UtcMillis) -> Bucket {
        let most = |a_minute: u32| i64::from(a_minute) * HELD * MINUTE;
        Bucket { filled: now, batches: most(self.quota.batches), bytes: most(self.quota.bytes) }
    }

    /// The bucket as of now. A clock that was set back adds nothing, one that was set forward fills it.
    fn filled(&self, bucket: &Bucket, now: UtcMillis) -> Bucket {
        let full = self.full(now);
        let passed = now.since(bucket.filled).clamp(0, HELD * MINUTE);
        let more = |held: i64, a_minute: u32, full: i64| (held + i64::from(a_minute) * passed).min(full);
        Bucket {
            filled: now,
            batches: more(bucket.batches, self.quota.batches, full.batches),
            bytes: more(bucket.bytes, self.quota.bytes, full.bytes),
        }
    }

    /// Whether this agent may send now; else how long it has to wait. Takes nothing: anybody can name an agent,
    /// and only what it signed is [spent](Self::spend).
    pub fn allows(&self, agent: &AgentId, now: UtcMillis) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = buckets.by_agent.get_mut(agent) else { return Ok(()) };
        // Kept, so that after a clock was set back the bucket fills from there and not from when it was set forward.
        *bucket = self.filled(bucket, now);
        let wait = |held: i64, a_minute: u32, needed: i64| {
            let short = (needed - held).max(0);
            (short + i64::from(a_minute) - 1) / i64::from(a_minute.max(1))
        };
        // Bytes may be overdrawn by one batch: how long it is shows when it is here.
        let millis =
            wait(bucket.batches, self.quota.batches, MINUTE).max(wait(bucket.bytes, self.quota.bytes, 1));
        if millis == 0 { Ok(()) } else { Err(Duration::from_millis(millis.unsigned_abs())) }
    }

    /// A batch of this agent came in, with its signature.
    pub fn spend(&self, agent: &AgentId, bytes: usize, now: UtcMillis) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bucket =
            buckets.by_agent.get(agent).map_or_else(|| self.full(now), |known| self.filled(known, now));
        bucket.batches -= MINUTE;
        bucket.bytes -= i64::try_from(bytes).unwrap_or(i64::MAX / 2).saturating_mul(MINUTE);
        match buckets.by_agent.get_mut(agent) {
            Some(known) => *known = bucket,
            None => drop(buckets.by_agent.insert(agent.clone(), bucket)),
        }
        let due = buckets.swept.is_none_or(|swept| !(0..HELD * MINUTE).contains(&now.since(swept)));
        if due {
            let full = self.full(now);
            let rests = |bucket: &Bucket| {
                let bucket = self.filled(bucket, now);
                (bucket.batches, bucket.bytes) == (full.batches, full.bytes)
            };
            buckets.by_agent.retain(|_, bucket| !rests(bucket));
            buckets.swept = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> AgentId {
        name.parse().expect("short")
    }

    fn at(millis: i64) -> UtcMillis {
        UtcMillis(1_700_000_000_000 + millis)
    }

    fn sent(quotas: &Quotas, name: &str, bytes: usize, moment: UtcMillis) -> usize {
        let agent = agent(name);
        let mut count = 0;
        while count < 10_000 && quotas.allows(&agent, moment).is_ok() {
            quotas.spend(&agent, bytes, moment);
            count += 1;
        }
        count
    }

    #[test]
    fn an_agent_may_send_two_minutes_worth_at_once_and_then_at_the_pace_of_its_quota() {
        let quotas = Quotas::new(Quota { batches: 60, bytes: 1 << 20 });
        assert_eq!(sent(&quotas, "a", 100, at(0)), 120);
        assert_eq!(quotas.allows(&agent("a"), at(0)), Err(Duration::from_secs(1)));
        assert_eq!(sent(&quotas, "a", 100, at(999)), 0);
        assert_eq!(sent(&quotas, "a", 100, at(3_000)), 3);
        assert_eq!(sent(&quotas, "a", 100, at(10_000_000)), 120);
        assert_eq!(sent(&quotas, "b", 100, at(0)), 120, "each has its own");
    }

    #[test]
    fn large_batches_are_limited_by_their_bytes_and_one_too_large_is_paid_back() {
        let quotas = Quotas::new(Quota { batches: 1_000_000, bytes: 1_000 });
        assert_eq!(sent(&quotas, "a", 1_500, at(0)), 2, "2,000 bytes are there, 1,000 over are owed");
        let wait = quotas.allows(&agent("a"), at(0)).expect_err("it has to wait");
        assert_eq!(wait, Duration::from_millis(60_001));
        assert_eq!(sent(&quotas, "a", 1_500, at(60_001)), 1);
    }

    #[test]
    fn a_clock_that_is_set_neither_forgives_nor_punishes() {
        let quotas = Quotas::new(Quota { batches: 60, bytes: 1 << 20 });
        assert_eq!(sent(&quotas, "a", 1, at(0)), 120);
        assert_eq!(sent(&quotas, "a", 1, at(-7_200_000)), 0);
        assert_eq!(sent(&quotas, "a", 1, at(-7_199_000)), 1);
    }

    #[test]
    fn agents_that_send_no_more_are_forgotten() {
        let quotas = Quotas::new(Quota { batches: 60, bytes: 1 << 20 });
        for number in 0..100 {
            quotas.spend(&agent(&format!("a{number}")), 1, at(0));
        }
        quotas.spend(&agent("last"), 1, at(300_000));
        assert_eq!(quotas.buckets.lock().expect("not poisoned").by_agent.len(), 1);
    }
}
