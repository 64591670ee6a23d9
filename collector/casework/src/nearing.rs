//! How near totals are to a line that they have not passed, and when they would pass it if it goes on.
//!
//! A date is where a projection meets the line; there is none beyond what the projection looks at, which the lease's end
//! or the rule caps. Nothing here is a finding.

use serde::{Deserialize, Serialize};
use weighbridge_meter::{Operations, UtcMillis};

use crate::{
    amount::{Comparator, Threshold},
    finding::{Certainty, Facts, Totals, Verdict, judged},
    pack::{Rule, RulePack},
};

/// When a line would be passed: the dates of high, best and low, none of them sure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passing {
    /// If all were used to the full: the date before which it cannot be.
    pub earliest: Option<UtcMillis>,
    /// If the mean rate so far goes on.
    pub expected: Option<UtcMillis>,
    /// When even the low end passes, to which a projection adds nothing: so for most there is none.
    pub latest: Option<UtcMillis>,
}

impl Passing {
    /// Of totals with their projection.
    pub fn of(totals: &Totals, line: &Threshold, comparator: Comparator) -> Self {
        let when = |now: Operations, then: Option<Operations>| {
            let passes = |total| line.passed_by(total, comparator);
            if passes(now) {
                return Some(totals.as_of);
            }
            let (then, until) = (then.filter(|then| passes(*then))?, totals.projection.as_ref()?.until);
            let all = u128::try_from(until.since(totals.as_of)).ok().filter(|all| *all > 0)?;
            let more = then.saturating_sub(now);
            // The first millisecond at which it has passed: not at `before`, and at `by`.
            let (mut before, mut by) = (0, all);
            while by - before > 1 {
                let middle = before + (by - before) / 2;
                match passes(now.saturating_add(more.scaled(middle, all))) {
                    true => by = middle,
                    false => before = middle,
                }
            }
            Some(totals.as_of.plus(i64::try_from(by).ok()?))
        };
        let then = totals.projection.as_ref().map(|projection| projection.bound);
        Self {
            earliest: when(totals.bound.high(), then.map(|then| then.high())),
            expected: when(totals.bound.best(), then.map(|then| then.best())),
            latest: when(totals.bound.low(), then.map(|then| then.low())),
        }
    }
}

/// How much of the line a total is, in whole per cent, rounded down.
pub fn percent_of(total: Operations, line: &Threshold) -> u64 {
    let line = u128::from(line.nearest().tera()).max(1);
    u64::try_from(u128::from(total.tera()) * 100 / line).unwrap_or(u64::MAX)
}

/// Whether all but the amount holds, or may: who it is, what is declared, the cluster.
pub fn all_but_the_amount(pack: &RulePack, rule: &Rule, facts: &Facts) -> bool {
    judged(pack, rule, facts, Certainty::Certain, |_, _| Some(Certainty::Certain)) != Verdict::NotMet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weighbridge_meter::{Calibrated, Interval};

    use super::*;
    use crate::finding::{CappedBy, Projection};

    fn ops(tera: u64) -> Operations {
        Operations::from_tera(tera).unwrap()
    }

    fn interval(low: u64, best: u64, high: u64) -> Interval<Operations> {
        Interval::new(ops(low), ops(best), ops(high)).unwrap()
    }

    fn totals(now: Interval<Operations>, then: Option<(i64, Interval<Operations>)>) -> Totals {
        let as_of = UtcMillis(1_000_000);
        Totals {
            as_of,
            bound: now,
            calibrated: Calibrated::new(now.low(), now.high()).unwrap(),
            projection: then.map(|(after, bound)| Projection {
                until: as_of.plus(after),
                bound,
                capped_by: CappedBy::HoldingEnd,
            }),
        }
    }

    fn line(tera: u64) -> Threshold {
        Threshold::try_from(format!("{tera}e12")).unwrap()
    }

    #[test]
    fn half_of_the_way_is_half_of_the_time_and_what_is_not_reached_has_no_date() {
        // A date is as exact as totals are: a teraoperation more or less is a millisecond here.
        let totals = totals(interval(0, 1_000, 1_500), Some((1_000, interval(0, 2_000, 3_500))));
        let passing = Passing::of(&totals, &line(1_500), Comparator::Ge);
        assert_eq!(passing.earliest, Some(totals.as_of));
        assert_eq!(passing.expected, Some(totals.as_of.plus(500)));
        assert_eq!(passing.latest, None);
        assert_eq!(Passing::of(&totals, &line(10_000), Comparator::Ge), Passing::default());
        assert_eq!(percent_of(totals.bound.best(), &line(1_500)), 66);
        let without = Totals { projection: None, ..totals };
        assert_eq!(Passing::of(&without, &line(1_500), Comparator::Gt), Passing::default());
    }

    proptest! {
        #[test]
        fn at_its_date_the_line_is_passed_and_a_millisecond_before_it_is_not(
            now in 0_u64..1_000_000, more in 0_u64..1_000_000_000, after in 1_i64..100_000_000, at in 1_u64..1_000_000_000,
        ) {
            let (now, then) = (interval(now, now, now), interval(now + more, now + more, now + more));
            let totals = totals(now, Some((after, then)));
            let line = line(at);
            for comparator in [Comparator::Gt, Comparator::Ge] {
                let found = Passing::of(&totals, &line, comparator).expected;
                prop_assert_eq!(found.is_some(), line.passed_by(then.best(), comparator));
                let Some(found) = found else { continue };
                let total = |moment: UtcMillis| {
                    let part = u128::try_from(moment.since(totals.as_of)).unwrap();
                    now.best().saturating_add(ops(more).scaled(part, u128::try_from(after).unwrap()))
                };
                prop_assert!(line.passed_by(total(found), comparator));
                if found > totals.as_of {
                    prop_assert!(!line.passed_by(total(found.plus(-1)), comparator));
                }
            }
        }
    }
}
