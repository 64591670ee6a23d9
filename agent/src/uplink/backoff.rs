//! How long to wait after a failure.

use std::time::Duration;

use super::Retry;

/// Fills what it is given with random bytes.
pub type RandomBytes = Box<dyn FnMut(&mut [u8]) + Send>;

/// Exponential, with full jitter: a fleet that lost its collector must not come back all at once.
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    not_enrolled: Duration,
    failures: u32,
    random: RandomBytes,
}

impl std::fmt::Debug for Backoff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backoff").field("failures", &self.failures).finish_non_exhaustive()
    }
}

impl Backoff {
    /// The first wait is up to `shortest`, each further one up to twice the one before, at most `longest`.
    /// An agent that nobody enrolled yet waits from half of `not_enrolled` up to all of it.
    pub fn new(shortest: Duration, longest: Duration, not_enrolled: Duration, random: RandomBytes) -> Self {
        Self { shortest, longest, not_enrolled, failures: 0, random }
    }

    /// The next failure is a first one.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Whether the next failure is a first one.
    pub fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    /// How long to wait after this failure; never shorter than the collector asked for, up to `longest`.
    pub fn wait(&mut self, retry: &Retry) -> Duration {
        let doubled = self.shortest.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1).min(31);
        match retry {
            Retry::NotEnrolled | Retry::Denied(_) => {
                self.not_enrolled / 2 + self.part_of(self.not_enrolled / 2)
            }
            Retry::Later { after: Some(after), .. } => {
                // On top of it, so that those who were told the same do not come at the same time.
                after.min(&self.longest).saturating_add(self.part_of(self.shortest))
            }
            _ => self.part_of(doubled.min(self.longest)),
        }
    }

    fn part_of(&mut self, whole: Duration) -> Duration {
        let mut bytes = [0; 4];
        (self.random)(&mut bytes);
        let share = u64::from(u32::from_le_bytes(bytes));
        let millis = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX >> 32).min(u64::MAX >> 32);
        Duration::from_millis((millis * share) >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(byte: u8) -> Backoff {
        let seconds = Duration::from_secs;
        Backoff::new(seconds(1), seconds(60), seconds(600), Box::new(move |bytes| bytes.fill(byte)))
    }

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_after_a_success() {
        let mut backoff = backoff(0xff);
        let down = Retry::Unreachable("refused".into());
        let waits: Vec<u64> = (0..9).map(|_| backoff.wait(&down).as_secs_f64().round() as u64).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        backoff.succeeded();
        assert_eq!(backoff.wait(&down).as_millis(), 999);
    }

    #[test]
    fn jitter_reaches_down_to_nothing() {
        assert_eq!(backoff(0).wait(&Retry::Unreachable("refused".into())), Duration::ZERO);
    }

    #[test]
    fn the_collector_is_not_asked_sooner_than_it_said() {
        let later = |seconds| Retry::Later { status: 429, after: Some(Duration::from_secs(seconds)) };
        assert_eq!(backoff(0).wait(&later(30)).as_secs(), 30);
        assert_eq!(backoff(0).wait(&later(100_000)).as_secs(), 60, "nobody is sent away for a day");
    }

    #[test]
    fn an_agent_that_is_not_enrolled_asks_slowly() {
        assert_eq!(backoff(0).wait(&Retry::NotEnrolled).as_secs(), 300);
        assert_eq!(backoff(0xff).wait(&Retry::NotEnrolled).as_secs(), 599);
    }
}
