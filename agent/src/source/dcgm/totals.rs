//! Whether cumulative cycle counters can be believed, and how they are scaled.
//!
//! DCGM prints them as the driver gives them, and nobody documents whether they are of one SM or of all SMs
//! together. So the counter of elapsed cycles is held against clock x time, over a stretch in which the clock
//! was steady: it is one, or the other, or not used.

use std::time::Duration;

use tokio::time::Instant;

/// The clock and the counter are of the same round, but not of the same moment as the look: an error of up to
/// one round over the stretch, and as much for a clock that is not quite steady.
const INTERVALS: u32 = 10;

/// How cycle counters are scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Scale {
    /// Not known yet.
    #[default]
    Unknown,
    /// Of one SM.
    Mean,
    /// Of so many SMs together.
    Sum(u32),
    /// Neither, or not the same for long.
    Refused,
}

impl Scale {
    /// A counter in cycles of one SM.
    pub(super) fn of_one(self, total: u64) -> Option<u64> {
        match self {
            Self::Mean => Some(total),
            Self::Sum(units) => total.checked_div(u64::from(units)),
            Self::Unknown | Self::Refused => None,
        }
    }
}

/// The counter of elapsed cycles of one device, held against its clock.
#[derive(Debug, Default)]
pub(super) struct Calibration {
    scale: Scale,
    stretch: Option<Stretch>,
}

/// Time in which the clock was steady.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    from: Instant,
    to: Instant,
    first: u64,
    last: u64,
    clock_mhz: u32,
    /// Clock x time so far, in microseconds x MHz.
    cycles: u128,
}

impl Calibration {
    /// Takes one look: the clock, the counter and the units that the device has.
    pub(super) fn look(
        &mut self,
        now: Instant,
        interval: Duration,
        clock_mhz: Option<u32>,
        elapsed: Option<u64>,
        units: Option<u32>,
    ) -> Scale {
        let (Some(clock_mhz), Some(total)) = (clock_mhz, elapsed) else {
            self.stretch = None;
            return self.scale;
        };
        let fresh = Stretch { from: now, to: now, first: total, last: total, clock_mhz, cycles: 0 };
        let stretch = match self.stretch {
            Some(stretch) if total >= stretch.last && steady(stretch.clock_mhz, clock_mhz) => stretch,
            // A clock that moved, or a counter that began again.
            _ => {
                self.stretch = Some(fresh);
                return self.scale;
            }
        };
        let micros = now.duration_since(stretch.to).as_micros();
        let cycles = stretch.cycles + micros * u128::from(clock_mhz);
        if now.duration_since(stretch.from) < interval * INTERVALS || cycles == 0 {
            self.stretch = Some(Stretch { to: now, last: total, cycles, ..stretch });
            return self.scale;
        }
        // A counter that stands still on an idle device says nothing either way.
        if total > stretch.first {
            let found = judge(u128::from(total - stretch.first), cycles, units);
            let before = std::mem::replace(&mut self.scale, found);
            if before != Scale::Unknown && before != found {
                self.scale = Scale::Refused;
            }
        }
        self.stretch = Some(fresh);
        self.scale
    }
}

/// Within a tenth.
fn steady(first: u32, now: u32) -> bool {
    first.abs_diff(now) <= first / 10
}

fn judge(counted: u128, cycles: u128, units: Option<u32>) -> Scale {
    // Within a quarter.
    let near = |expected: u128| counted * 4 >= expected * 3 && counted * 4 <= expected * 5;
    match units {
        _ if near(cycles) => Scale::Mean,
        Some(units) if near(cycles * u128::from(units)) => Scale::Sum(units),
        _ => Scale::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    /// Looks every 30 seconds at (MHz, cycles counted in the 30 seconds before); how it is scaled after each.
    fn check(looks: &[(u32, u64)]) -> Vec<Scale> {
        let (mut calibration, mut total) = (Calibration::default(), 1 << 60);
        let start = Instant::now();
        let scale = |(index, (clock, counted)): (u32, &(u32, u64))| {
            total += counted;
            calibration.look(start + INTERVAL * index, INTERVAL, Some(*clock), Some(total), Some(132))
        };
        (0..).zip(looks).map(scale).collect()
    }

    /// 30 seconds at 1500 MHz.
    const CYCLES: u64 = 45_000_000_000;

    #[test]
    fn counters_of_one_sm_and_of_all_are_told_apart_by_clock_and_time() {
        let mean = check(&[(1500, CYCLES); 12]);
        assert_eq!(mean[9..], [Scale::Unknown, Scale::Mean, Scale::Mean]);
        let sum = check(&[(1500, CYCLES * 132); 11]);
        assert_eq!(sum[9..], [Scale::Unknown, Scale::Sum(132)]);
        assert_eq!(Scale::Sum(132).of_one(264), Some(2));
        assert_eq!(Scale::Unknown.of_one(264), None);
    }

    #[test]
    fn counters_of_another_scale_are_refused_for_good() {
        // As of every TPC, which is two SMs.
        assert_eq!(check(&[(1500, CYCLES * 66); 11])[10], Scale::Refused);
        let mut drifting = vec![(1500, CYCLES); 11];
        drifting.extend([(1500, CYCLES * 2); 10]);
        drifting.extend([(1500, CYCLES); 20]);
        let scales = check(&drifting);
        assert_eq!((scales[19], scales[20], scales[40]), (Scale::Mean, Scale::Refused, Scale::Refused));
    }

    #[test]
    fn a_counter_that_begins_again_is_measured_from_its_new_beginning() {
        let (mut calibration, start) = (Calibration::default(), Instant::now());
        // Five rounds, then from zero.
        let totals = (0..=5).chain(0..=10).map(|rounds| rounds * CYCLES);
        let scales: Vec<_> = (0..)
            .zip(totals)
            .map(|(index, total)| {
                calibration.look(start + INTERVAL * index, INTERVAL, Some(1500), Some(total), Some(132))
            })
            .collect();
        assert_eq!((scales[15], scales[16]), (Scale::Unknown, Scale::Mean));
    }

    #[test]
    fn a_clock_that_moves_and_a_counter_that_stands_still_decide_nothing() {
        let moving: Vec<_> =
            (0..40).map(|n| if n % 5 < 2 { (345, CYCLES) } else { (1980, CYCLES) }).collect();
        assert_eq!(check(&moving).last(), Some(&Scale::Unknown));
        assert_eq!(check(&[(345, 0); 40]).last(), Some(&Scale::Unknown));
    }
}
