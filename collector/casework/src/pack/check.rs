//! What a pack must fulfil beyond its form: nothing contradicts, and every example comes out as it says.

use weighbridge_meter::{Calibrated, Interval, Operations, UtcMillis};

use super::{Condition, Example, OwnerLine, PackError, RulePack, Who, first_duplicate};
use crate::{
    amount::OpsPerSecond,
    finding::{CappedBy, Certainty, Facts, Projection, Totals, evaluate, evaluate_reserved},
};

/// Checks everything that needs more than one value to see.
pub(super) fn consistent(file: &str, pack: &RulePack) -> Result<(), PackError> {
    let wrong = |key: String, value: &str, expected: &str| {
        Err(PackError::Contradiction {
            file: file.to_owned(),
            key,
            value: value.to_owned(),
            expected: expected.to_owned(),
        })
    };
    let named = format!("{}@{}.toml", pack.id, pack.version);
    if named != file {
        return wrong("id and version".into(), &named, "the name of the file");
    }
    // Which of two versions is the newer must be no matter of opinion.
    let number =
        pack.version.parse::<u32>().is_ok_and(|number| number > 0 && number.to_string() == pack.version);
    if !number {
        return wrong(
            "version".into(),
            &pack.version,
            "a whole number from 1, as \"2\" for the one after \"1\"",
        );
    }
    if pack.status.is_empty() {
        return wrong("status".into(), "[]", "at least one entry");
    }
    for (index, pair) in pack.status.windows(2).enumerate() {
        if let [earlier, later] = pair
            && earlier.from.first_day() >= later.from.first_day()
        {
            let expected = format!("a date after {}: the history goes forward", earlier.from);
            return wrong(format!("status[{}].from", index + 1), &later.from.to_string(), &expected);
        }
    }
    for (key, twice) in [
        ("rule", first_duplicate(pack.rule.iter().map(|rule| rule.id.as_str()))),
        ("clock", first_duplicate(pack.clock.iter().map(|clock| clock.id.as_str()))),
        ("report_field", first_duplicate(pack.report_field.iter().map(|field| field.id.as_str()))),
    ] {
        if let Some(id) = twice {
            return wrong(format!("{key} id"), id, "each id once");
        }
    }
    if pack.rule.is_empty() {
        return wrong("rule".into(), "[]", "at least one rule");
    }
    for (index, rule) in pack.rule.iter().enumerate() {
        let key = |name: &str| format!("rule[{index}].{name}");
        if rule.scope.is_empty() {
            return wrong(key("scope"), "[]", "at least one of run, customer, control_group, principal");
        }
        if rule.condition.is_empty() {
            return wrong(key("condition"), "[]", "at least one condition");
        }
        let lines = rule.condition.iter().filter(|part| matches!(part, Condition::Operations { .. })).count();
        if lines > 1 {
            return wrong(
                key("condition"),
                &format!("{lines} of kind operations"),
                "at most one of that kind",
            );
        }
        if rule.who.is_some() && pack.applies_to.who != Who::Any {
            return wrong(key("who"), "present", "it only where applies_to.who is any, to narrow that");
        }
        if rule.opens_case.contains(&Certainty::Projected) {
            return wrong(key("opens_case"), "projected", "projection.opens_case to say that");
        }
        if rule.opens_case.contains(&Certainty::CouldResult) {
            return wrong(key("opens_case"), "could_result", "reservations.opens_case to say that");
        }
        if let Some(reservations) = &rule.reservations {
            if reservations.open_days == 0 {
                return wrong(key("reservations.open_days"), "0", "at least 1");
            }
            if lines == 0 {
                return wrong(
                    key("reservations"),
                    "present",
                    "a condition of kind operations to compare with",
                );
            }
        }
        if let Some(projection) = &rule.projection {
            if projection.cap_days == 0 {
                return wrong(key("projection.cap_days"), "0", "at least 1");
            }
            if lines == 0 {
                return wrong(key("projection"), "present", "a condition of kind operations to project");
            }
        }
    }
    if pack.retention.as_ref().is_some_and(|retention| retention.years == 0) {
        return wrong("retention.years".into(), "0", "at least 1");
    }
    let lines = [("beneficial_owner", &pack.beneficial_owner), ("measured_owners", &pack.measured_owners)];
    for (table, line) in lines {
        if let Some(OwnerLine { percent, .. }) = line
            && !(1..=100).contains(percent)
        {
            return wrong(format!("{table}.percent"), &percent.to_string(), "from 1 to 100");
        }
    }
    for (index, clock) in pack.clock.iter().enumerate() {
        if clock.days == 0 {
            return wrong(format!("clock[{index}].days"), "0", "at least 1");
        }
    }
    Ok(())
}

/// Works every example; each rule needs one.
pub(super) fn examples(file: &str, pack: &RulePack, examples: &[Example]) -> Result<(), PackError> {
    let wrong = |key: String, value: &str, expected: String| PackError::Contradiction {
        file: file.to_owned(),
        key,
        value: value.to_owned(),
        expected,
    };
    for (index, example) in examples.iter().enumerate() {
        let Some(rule) = pack.rule(&example.rule) else {
            let ids: Vec<&str> = pack.rule.iter().map(|rule| rule.id.as_str()).collect();
            let expected = format!("one of {}", ids.join(", "));
            return Err(wrong(format!("example[{index}].rule"), &example.rule, expected));
        };
        let (totals, facts) = inputs(example)
            .map_err(|(key, expected)| wrong(format!("example[{index}]"), key, expected.to_owned()))?;
        let given = match reserved(example) {
            Ok(None) => evaluate(pack, rule, &totals, &facts),
            Ok(Some(reserved)) => evaluate_reserved(pack, rule, &totals, reserved, &facts),
            Err((key, expected)) => {
                return Err(wrong(format!("example[{index}]"), key, expected.to_owned()));
            }
        };
        let given = given.as_str();
        if given != example.expect.as_str() {
            return Err(PackError::Example {
                file: file.to_owned(),
                index,
                title: example.title.clone(),
                expected: example.expect.as_str().to_owned(),
                given: given.to_owned(),
            });
        }
    }
    for rule in &pack.rule {
        if !examples.iter().any(|example| example.rule == rule.id) {
            return Err(wrong("example".into(), "none", format!("at least one for rule {}", rule.id)));
        }
    }
    Ok(())
}

type Wrong = (&'static str, &'static str);

/// What is reserved, in an example that is about that.
fn reserved(example: &Example) -> Result<Option<(Interval<Operations>, Calibrated)>, Wrong> {
    const KEYS: &str = "reserved_best, reserved_calibrated_high, reserved_high";
    match (example.reserved_best, example.reserved_calibrated_high, example.reserved_high) {
        (None, None, None) => Ok(None),
        (Some(best), Some(calibrated), Some(high)) => {
            let ordered = |_| (KEYS, "none above reserved_high");
            let high = high.operations();
            let bound = Interval::new(Operations::ZERO, best.operations(), high).map_err(ordered)?;
            let calibrated = Calibrated::new(Operations::ZERO, calibrated.operations()).map_err(ordered)?;
            if calibrated.high() > high {
                return Err((KEYS, "none above reserved_high"));
            }
            Ok(Some((bound, calibrated)))
        }
        _ => Err((KEYS, "all or none")),
    }
}

fn inputs(example: &Example) -> Result<(Totals, Facts), Wrong> {
    let (low, best, high) = (example.low.operations(), example.best.operations(), example.high.operations());
    let bound = Interval::new(low, best, high).map_err(|_| ("low, best, high", "them in ascending order"))?;
    let calibrated =
        Calibrated::new(example.calibrated_low.operations(), example.calibrated_high.operations())
            .map_err(|_| ("calibrated_low, calibrated_high", "them in ascending order"))?;
    let as_of = UtcMillis(0);
    let projection = match (example.projected_best, example.projected_days) {
        (Some(best), Some(days)) => Some(Projection {
            until: as_of.plus(i64::from(days) * UtcMillis::DAY),
            bound: Interval::exact(best.operations()),
            capped_by: CappedBy::RuleDays,
        }),
        (None, None) => None,
        _ => return Err(("projected_best, projected_days", "both or none")),
    };
    let facts = Facts {
        standing: example.standing,
        declared: example.declared.clone(),
        cluster_peak: example.cluster_peak.map(|a| OpsPerSecond::from_operations_in_a_second(a.operations())),
        network_gbit: example.network_gbit,
    };
    Ok((Totals { as_of, bound, calibrated, projection }, facts))
}
