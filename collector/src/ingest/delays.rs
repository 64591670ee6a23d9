//! A wrong clock told from a late request.
//!
//! What a batch says of its host's clock holds for the moment it was sent. A request that lay in a buffer while this
//! collector, or something on the way, stood still looks like a host whose clock is behind: its windows would move
//! by the delay. So a clock that is newly off is believed only when the agent, asked to come again, says the same a
//! second time; what it sent is not lost, as nothing was taken of it. A delay does not repeat itself.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use weighbridge_meter::{AgentId, BootId, UtcMillis};

/// Two measurements of a clock that was not changed differ by no more than a request takes on its way.
const SAME_MS: u64 = 5_000;

/// Requests that come together may have waited together: they are one measurement.
const APART_MS: i64 = 1_000;

/// So many measurements apart from each other are believed whatever they say: an agent is not put off for ever.
const ENOUGH: u8 = 3;

/// Boots that are remembered; beyond it all are forgotten, and measured anew.
const BOOTS: usize = 10_000;

/// Clocks that were found off and not yet believed.
#[derive(Debug, Default)]
pub struct Delays(Mutex<HashMap<(AgentId, BootId), Measured>>);

#[derive(Clone, Copy, Debug)]
struct Measured {
    received_at: UtcMillis,
    off_ms: i64,
    times: u8,
}

impl Delays {
    /// Whether a clock measured as off by `off_ms` by a request received now is off indeed. `false`: not known yet,
    /// the agent has to come again.
    pub fn believes(&self, agent: &AgentId, boot: BootId, off_ms: i64, received_at: UtcMillis) -> bool {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (agent.clone(), boot);
        let Some(before) = measured.get_mut(&key) else {
            if measured.len() >= BOOTS {
                measured.clear();
            }
            measured.insert(key, Measured { received_at, off_ms, times: 1 });
            return false;
        };
        if received_at.since(before.received_at) < APART_MS {
            return false;
        }
        let believed = before.off_ms.abs_diff(off_ms) <= SAME_MS || before.times + 1 >= ENOUGH;
        if believed {
            measured.remove(&key);
        } else {
            *before = Measured { received_at, off_ms, times: before.times + 1 };
        }
        believed
    }

    /// A clock that was measured as it was known: what was in doubt before was a delay.
    pub fn dispelled(&self, agent: &AgentId, boot: BootId) {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !measured.is_empty() {
            measured.remove(&(agent.clone(), boot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([7; 16]);

    fn agent() -> AgentId {
        "gpu-1".parse().expect("a valid id")
    }

    /// What is believed of measurements, each "received:off" in seconds.
    fn check(measurements: &str, believed: &[bool]) {
        let delays = Delays::default();
        let seen: Vec<bool> = measurements
            .split(' ')
            .map(|one| {
                let (received, off) = one.split_once(':').expect("two numbers");
                let ms = |text: &str| text.parse::<i64>().expect("a number") * 1000;
                delays.believes(&agent(), BOOT, ms(off), UtcMillis(ms(received)))
            })
            .collect();
        assert_eq!(seen, believed, "{measurements}");
    }

    #[test]
    fn a_clock_that_says_the_same_twice_is_off() {
        check("0:7200 2:7201", &[false, true]);
        check("0:-7200 2:-7198", &[false, true]);
    }

    #[test]
    fn requests_that_waited_together_confirm_nothing() {
        check("0:600 0:600 0:599 0:598", &[false, false, false, false]);
    }

    #[test]
    fn another_delay_is_another_measurement_and_the_third_is_believed() {
        check("0:600 3:500 6:400", &[false, false, true]);
    }

    #[test]
    fn a_clock_found_right_in_between_starts_over() {
        let delays = Delays::default();
        let believes = |seconds: i64| delays.believes(&agent(), BOOT, 600_000, UtcMillis(seconds * 1000));
        assert!(!believes(0));
        delays.dispelled(&agent(), BOOT);
        assert!(!believes(5));
        assert!(believes(10));
    }

    #[test]
    fn boots_do_not_speak_for_each_other() {
        let delays = Delays::default();
        assert!(!delays.believes(&agent(), BOOT, 600_000, UtcMillis(0)));
        assert!(!delays.believes(&agent(), BootId([8; 16]), 600_000, UtcMillis(9_000)));
    }
}
