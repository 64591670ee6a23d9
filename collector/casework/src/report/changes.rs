//! What one version of a report says other than another: for who has to correct what was sent, and say what is new.
//!
//! Deliberately absent: paragraphs that follow from the figures. They are other whenever these are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{OperationsRange, Report, accelerator_hours};

/// What a version says other than an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The earlier version.
    pub since: u32,
    /// What is other, in the order of the report; empty where nothing is.
    pub changes: Vec<Change>,
}

/// One thing that is other. A side without lines did not have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it is.
    pub what: String,
    /// As the earlier version says it.
    pub before: Vec<String>,
    /// As the later version says it.
    pub after: Vec<String>,
}

impl Report {
    /// What this version says other than an earlier one.
    pub fn changes_since(&self, earlier: &Self) -> Changes {
        let (before, after) = (said(earlier), said(self));
        let mut order: Vec<&String> = before.iter().chain(&after).map(|(what, _)| what).collect();
        let mut seen = std::collections::BTreeSet::new();
        order.retain(|what| seen.insert(*what));
        let of = |all: &[(String, Vec<String>)]| -> BTreeMap<String, Vec<String>> {
            all.iter().cloned().collect()
        };
        let (before, after) = (of(&before), of(&after));
        let none = Vec::new();
        let changes = order.into_iter().filter_map(|what| {
            let (before, after) = (before.get(what).unwrap_or(&none), after.get(what).unwrap_or(&none));
            (before != after).then(|| Change {
                what: what.clone(),
                before: before.clone(),
                after: after.clone(),
            })
        });
        Changes { since: earlier.version, changes: changes.collect() }
    }
}

fn exact(range: &OperationsRange) -> String {
    format!(
        "{}, {} and {} teraoperations",
        range.low_tera.tera(),
        range.best_tera.tera(),
        range.high_tera.tera()
    )
}

/// What a report says, thing by thing. Its own number and moment are no change.
fn said(report: &Report) -> Vec<(String, Vec<String>)> {
    let header = &report.header;
    let mut all = vec![
        ("Statement".to_owned(), vec![header.statement.clone()]),
        ("Status of the instrument".to_owned(), vec![header.status_in_words.clone()]),
        (
            "Rule".to_owned(),
            vec![format!(
                "{}@{} {}, sha256:{}",
                header.pack, header.pack_version, header.rule, header.pack_sha256
            )],
        ),
        ("Finding".to_owned(), vec![report.finding.clone()]),
        ("Remarks".to_owned(), report.remarks.clone()),
    ];
    for field in &report.fields {
        let value = field.value.as_ref().map_or_else(|| vec!["blank".to_owned()], super::FieldValue::lines);
        let certainty = field.certainty.map(|certainty| certainty.to_string());
        all.push((
            format!("Field {}: {}", field.id, field.label),
            value.into_iter().chain(certainty).collect(),
        ));
    }
    all.push(("Total".to_owned(), vec![exact(&(&report.totals.bound).into())]));
    for row in &report.attempts {
        all.push((
            format!("Attempt {}", row.attempt),
            vec![
                format!("{} to {}", row.start, row.end),
                format!("{} accelerators", row.accelerators),
                exact(&row.operations),
            ],
        ));
    }
    let models = report.accelerators.iter().map(|row| format!("{} x {}", row.count, row.model));
    all.push(("Accelerators".to_owned(), models.collect()));
    let coverage = &report.coverage;
    let mut time = vec![
        format!("measured {} accelerator-hours", accelerator_hours(coverage.measured_ms)),
        format!("interpolated {}", accelerator_hours(coverage.interpolated_ms)),
    ];
    time.extend(coverage.gap_ms.iter().map(|(cause, ms)| format!("gap: {cause} {}", accelerator_hours(*ms))));
    all.push(("Accelerator time".to_owned(), time));
    all
}
