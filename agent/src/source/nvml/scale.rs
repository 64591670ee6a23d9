//! How cumulative cycle counters are scaled, and whether they can be trusted.
//!
//! NVIDIA's header does not say whether they are sums or means over SMs. So nothing is taken from them until
//! several looks have shown one and the same scale, against the SM clock and against the activity ratios of the
//! same samples; and they are compared on every look after that. Pure: no driver, no time of its own.

use weighbridge_meter::reading::Ratio;

/// So many looks with tensor work must agree before the counters are used: one alone may have met a change of
/// clock halfway.
const LOOKS_TO_TRUST: u32 = 5;

/// So many looks in a row that disagree, and the counters are not used any more.
const LOOKS_TO_REFUSE: u32 = 5;

/// Elapsed cycles may be so many times more or less than SM clock x time and still show their scale: the clock
/// is sampled and moves, while sum and mean are as many times apart as there are SMs, more than ten even in the
/// smallest MIG instance.
const CLOCK_TOLERANCE: (u128, u128) = (3, 2);

/// And so many times before a scale that was found is doubted: no clock is that far off for several looks.
const DRIFT_TOLERANCE: (u128, u128) = (4, 1);

/// Two percent points and a twentieth: both come from the same two samples, so that rounding and the moments
/// in which the driver reads one and the other are all that keeps them apart.
const ACTIVITY_TOLERANCE: (u32, u32) = (20_000_000, 20);

/// Below one percent of tensor work the two agree whatever the scale.
const LEAST_ACTIVITY: u32 = 10_000_000;

/// What two samples say of the counters: differences of the cumulative ones, and what they should be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// Cycles elapsed, by the counter.
    pub(super) elapsed: u64,
    /// Cycles with a tensor pipe active, by the counter.
    pub(super) tensor: u64,
    /// SM clock x time.
    pub(super) clock_cycles: u64,
    /// Part of cycles with a tensor pipe active, by the ratio.
    pub(super) ratio: Ratio,
}

/// What is known of the scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Not enough: so many looks in a row said that this is what to divide by.
    Measuring { divisor: u64, agreed: u32 },
    /// Counters divided by this are cycles of one SM; so many looks in a row disagreed since.
    Known { divisor: u64, drifted: u32 },
    /// They cannot be trusted, until the driver is loaded anew.
    Refused,
}

impl Default for Scale {
    fn default() -> Self {
        Self::Measuring { divisor: 1, agreed: 0 }
    }
}

/// What one look says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Too little work to tell.
    Nothing,
    /// The counters are not like the ratios or the clock.
    No,
    /// Counters divided by this are cycles of one SM.
    Divisor(u64),
}

impl Scale {
    /// What to divide by, if the counters are to be used.
    pub(super) fn divisor(self) -> Option<u64> {
        match self {
            Self::Known { divisor, .. } => Some(divisor),
            Self::Measuring { .. } | Self::Refused => None,
        }
    }

    /// Takes in what one look showed of a device with so many SMs.
    pub(super) fn look(&mut self, evidence: &Evidence, sms: Option<u32>) {
        *self = match *self {
            Self::Refused => Self::Refused,
            Self::Measuring { divisor, agreed } => match evidence.scale(sms) {
                Word::Nothing => Self::Measuring { divisor, agreed },
                Word::No => Self::default(),
                Word::Divisor(found) => {
                    let agreed = if found == divisor { agreed + 1 } else { 1 };
                    if agreed >= LOOKS_TO_TRUST {
                        Self::Known { divisor: found, drifted: 0 }
                    } else {
                        Self::Measuring { divisor: found, agreed }
                    }
                }
            },
            Self::Known { divisor, drifted } => match evidence.still(divisor) {
                Word::Nothing => Self::Known { divisor, drifted },
                Word::Divisor(divisor) => Self::Known { divisor, drifted: 0 },
                Word::No if drifted + 1 >= LOOKS_TO_REFUSE => Self::Refused,
                Word::No => Self::Known { divisor, drifted: drifted + 1 },
            },
        };
    }
}

impl Evidence {
    /// Whether they are sums or means, if they are one of them.
    fn scale(&self, sms: Option<u32>) -> Word {
        match self.agrees() {
            Word::Divisor(_) => {}
            word => return word,
        }
        let sum = sms.map_or(1, u64::from).max(1);
        match [1, sum].into_iter().find(|&divisor| self.fits(divisor, CLOCK_TOLERANCE)) {
            Some(divisor) => Word::Divisor(divisor),
            None => Word::No,
        }
    }

    /// Whether they still are what they were found to be.
    fn still(&self, divisor: u64) -> Word {
        match self.agrees() {
            Word::Divisor(_) if self.fits(divisor, DRIFT_TOLERANCE) => Word::Divisor(divisor),
            Word::Divisor(_) => Word::No,
            word => word,
        }
    }

    /// Whether counters and ratios tell of the same work.
    fn agrees(&self) -> Word {
        let counted = match u128::from(self.tensor) * 1_000_000_000 / u128::from(self.elapsed).max(1) {
            billionths if self.elapsed > 0 => u32::try_from(billionths).unwrap_or(u32::MAX),
            // No cycle elapsed: then none was active.
            _ => 0,
        };
        let told = self.ratio.billionths();
        let (flat, part) = ACTIVITY_TOLERANCE;
        if counted.max(told) < LEAST_ACTIVITY {
            Word::Nothing
        } else if counted.abs_diff(told) <= flat + told / part {
            Word::Divisor(1)
        } else {
            Word::No
        }
    }

    /// Whether elapsed cycles divided by this are near those of the clock.
    fn fits(&self, divisor: u64, (above, below): (u128, u128)) -> bool {
        let ours = u128::from(self.elapsed);
        let expected = u128::from(self.clock_cycles) * u128::from(divisor);
        ours * below <= expected * above && expected * below <= ours * above
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A look of a second at 1500 MHz on a device of 132 SMs.
    fn evidence(elapsed: f64, counted_percent: f64, told_percent: f64) -> Evidence {
        let cycles = elapsed * 1.5e9;
        Evidence {
            elapsed: cycles as u64,
            tensor: (cycles * counted_percent / 100.0) as u64,
            clock_cycles: 1_500_000_000,
            ratio: Ratio::from_percent(told_percent).unwrap(),
        }
    }

    fn after(looks: impl IntoIterator<Item = Evidence>) -> Scale {
        let mut scale = Scale::default();
        for look in looks {
            scale.look(&look, Some(132));
        }
        scale
    }

    #[test]
    fn each_look_says_sum_mean_neither_or_nothing() {
        let cases = [
            // elapsed in seconds of one SM, counted %, told %
            ((1.0, 50.0, 50.0), Word::Divisor(1)),
            ((132.0, 50.0, 50.0), Word::Divisor(132)),
            ((0.7, 50.0, 50.0), Word::Divisor(1)),
            ((1.4, 50.0, 50.0), Word::Divisor(1)),
            ((190.0, 50.0, 50.0), Word::Divisor(132)),
            ((0.6, 50.0, 50.0), Word::No),
            ((16.0, 50.0, 50.0), Word::No),
            ((1.0, 54.0, 50.0), Word::Divisor(1)),
            ((1.0, 45.0, 50.0), Word::No),
            ((1.0, 55.0, 50.0), Word::No),
            ((1.0, 0.0, 50.0), Word::No),
            ((1.0, 50.0, 0.0), Word::No),
            ((0.0, 0.0, 50.0), Word::No),
            ((1.0, 0.0, 0.0), Word::Nothing),
            ((132.0, 0.5, 0.9), Word::Nothing),
            ((0.0, 0.0, 0.0), Word::Nothing),
        ];
        for ((elapsed, counted, told), word) in cases {
            let look = evidence(elapsed, counted, told);
            assert_eq!(look.scale(Some(132)), word, "{elapsed} s, {counted} % counted, {told} % told");
        }
    }

    #[test]
    fn without_a_number_of_sms_only_the_mean_can_be_told() {
        assert_eq!(evidence(1.0, 50.0, 50.0).scale(None), Word::Divisor(1));
        assert_eq!(evidence(132.0, 50.0, 50.0).scale(None), Word::No);
    }

    #[test]
    fn counters_are_used_after_several_looks_that_agree_in_a_row() {
        let good = evidence(132.0, 50.0, 50.0);
        assert_eq!(after([good; 4]).divisor(), None);
        assert_eq!(after([good; 5]).divisor(), Some(132));
        let idle = evidence(132.0, 0.0, 0.0);
        assert_eq!(after([good, idle, good, idle, idle, good, good, good]).divisor(), Some(132));
        let bad = evidence(132.0, 10.0, 50.0);
        assert_eq!(after([good, good, good, good, bad, good, good, good, good]).divisor(), None);
        let other = evidence(1.0, 50.0, 50.0);
        assert_eq!(after([good, good, good, good, other, good, good, good, good]).divisor(), None);
        assert_eq!(after([idle; 100]).divisor(), None, "idleness shows no scale");
    }

    #[test]
    fn counters_that_drift_are_refused_for_good_and_a_moment_of_it_is_forgiven() {
        let (good, bad) = (evidence(132.0, 50.0, 50.0), evidence(132.0, 100.0, 50.0));
        let looks = |more: &[Evidence]| after([good; 5].into_iter().chain(more.iter().copied()));
        assert_eq!(looks(&[bad; 4]).divisor(), Some(132));
        assert_eq!(looks(&[bad; 5]), Scale::Refused);
        assert_eq!(looks(&[bad, bad, bad, bad, good, bad, bad, bad, bad]).divisor(), Some(132));
        let forever: Vec<_> = [bad; 5].into_iter().chain([good; 50]).collect();
        assert_eq!(looks(&forever), Scale::Refused);
        // A mean where there was a sum, though the ratio is right.
        assert_eq!(looks(&[evidence(1.0, 50.0, 50.0); 5]), Scale::Refused);
        // Counters that stand still under load.
        assert_eq!(looks(&[evidence(0.0, 0.0, 50.0); 5]), Scale::Refused);
        // A clock that was at twice its mean when it was looked at.
        assert_eq!(looks(&[evidence(66.0, 50.0, 50.0); 50]).divisor(), Some(132));
    }

    proptest! {
        #[test]
        fn true_counters_of_either_scale_are_found_and_never_refused(
            sum in any::<bool>(),
            sms in 10_u32..200,
            looks in proptest::collection::vec((10_u32..=100, 100_000_u64..20_000_000, 300_u64..2000), 5..60),
        ) {
            let mut scale = Scale::default();
            let factor = if sum { u64::from(sms) } else { 1 };
            for (percent, micros, mhz) in looks {
                let elapsed = micros * mhz * factor;
                scale.look(&Evidence {
                    elapsed,
                    tensor: elapsed * u64::from(percent) / 100,
                    clock_cycles: micros * mhz,
                    ratio: Ratio::from_percent(f64::from(percent)).unwrap(),
                }, Some(sms));
            }
            prop_assert_eq!(scale.divisor(), Some(factor));
        }

        #[test]
        fn no_evidence_overflows_or_makes_a_divisor_that_is_neither(
            looks in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), 0.0..=1.0), 0..20),
            sms in any::<Option<u32>>(),
        ) {
            let mut scale = Scale::default();
            for (elapsed, tensor, clock_cycles, ratio) in looks {
                let ratio = Ratio::from_fraction(ratio).unwrap();
                scale.look(&Evidence { elapsed, tensor, clock_cycles, ratio }, sms);
                let allowed = [Some(1), sms.map(u64::from), None];
                prop_assert!(allowed.contains(&scale.divisor()));
            }
        }
    }
}
