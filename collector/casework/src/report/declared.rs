//! What only the customer can say: answers and declared dates, each with who signed, and never as if it were measured.

use weighbridge_meter::UtcMillis;

use super::{FieldValue, RunDates};

/// What customers said about one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attested {
    /// Opened for this report.
    Given {
        /// The newest word of each customer that said something.
        given: Vec<Attestation>,
        /// Customers that were to say something and did not; empty where one customer is asked.
        silent: Vec<String>,
    },
    /// Somebody said something, and it is not opened here.
    Sealed,
}

/// What a customer said, and who signed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// The answer.
    pub answer: String,
    /// Who signed.
    pub by: String,
    /// The date of the signature, as far as it is known.
    pub on: String,
    /// Which customer, where there are several.
    pub customer: Option<String>,
    /// In which form it came.
    pub through: Through,
}

/// In which form a customer said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// A declaration of what it does.
    Declaration,
    /// The answer to the question of a report.
    Answer,
}

/// Dates as a customer declared them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredDates {
    /// The first day, as far as it is known.
    pub start: Option<String>,
    /// The last day, as far as it is known.
    pub end: Option<String>,
    /// Who signed.
    pub by: String,
    /// The date of the signature.
    pub on: String,
    /// Which customer, where there are several.
    pub customer: Option<String>,
}

fn whose(customer: Option<&String>) -> String {
    customer.map_or_else(String::new, |customer| format!("{customer}: "))
}

/// The value of an attested field and where it comes from, or why it is blank.
pub(super) fn field(attested: Option<&Attested>) -> (Option<FieldValue>, String) {
    let (given, silent) = match attested {
        Some(Attested::Given { given, silent }) => (given, silent),
        Some(Attested::Sealed) => {
            return (None, "said by the customer, sealed and not opened here".to_owned());
        }
        None => return (None, UNANSWERED.to_owned()),
    };
    let given: Vec<&Attestation> = given.iter().filter(|one| !one.answer.trim().is_empty()).collect();
    if given.is_empty() {
        return (None, UNANSWERED.to_owned());
    }
    let lines: Vec<String> = given
        .iter()
        .flat_map(|one| {
            let lines = one.answer.lines().filter(|line| !line.trim().is_empty());
            lines.map(|line| format!("{}{line}", whose(one.customer.as_ref())))
        })
        .collect();
    let mut provenance: Vec<String> = given
        .iter()
        .map(|one| {
            let how = match one.through {
                Through::Declaration => "declared by the customer",
                Through::Answer => "answered by the customer",
            };
            let whose = whose(one.customer.as_ref());
            format!("{whose}{how}, signed by {} on {}, not verified", one.by, one.on)
        })
        .collect();
    if !silent.is_empty() {
        provenance.push(format!("not answered by {}", silent.join(", ")));
    }
    let value = match lines.as_slice() {
        [line] => FieldValue::Text(line.clone()),
        _ => FieldValue::Lines(lines),
    };
    (Some(value), provenance.join("; "))
}

const UNANSWERED: &str = "only the customer can say this, and no answer is on record";

/// Dates as declared, as let and as seen, each named as what it is.
pub(super) fn dates(dates: &RunDates) -> (Option<FieldValue>, String) {
    let mut lines = Vec::new();
    for one in &dates.declared {
        let whose = whose(one.customer.as_ref());
        let named = [("declared start", &one.start), ("declared completion", &one.end)];
        for (label, day) in named {
            lines.extend(day.as_ref().map(|day| format!("{whose}{label}: {day}")));
        }
    }
    let declared = !lines.is_empty();
    let seen: [(&str, Option<UtcMillis>); 3] = [
        ("end of the last lease", dates.lease_end),
        ("first activity observed", dates.observed_start),
        ("last activity observed", dates.observed_end),
    ];
    lines.extend(
        seen.into_iter().filter_map(|(label, moment)| moment.map(|moment| format!("{label}: {moment}"))),
    );
    let mut from: Vec<String> = Vec::new();
    if declared {
        from.extend(dates.declared.iter().map(|one| {
            let whose = whose(one.customer.as_ref());
            format!("{whose}declared by the customer, signed by {} on {}, not verified", one.by, one.on)
        }));
    } else if dates.declared_sealed {
        from.push("what the customer declared is sealed and not opened here".to_owned());
    } else {
        from.push("no customer declared a date".to_owned());
    }
    if dates.lease_end.is_some() {
        from.push("leases as the operator recorded them".to_owned());
    }
    if dates.observed_start.is_some() || dates.observed_end.is_some() {
        from.push("activity as the agents observed it, by whole hours".to_owned());
    }
    ((!lines.is_empty()).then_some(FieldValue::Lines(lines)), from.join("; "))
}
