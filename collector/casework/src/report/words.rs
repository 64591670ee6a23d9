//! What a reader of a report has to know about its numbers, in sentences.

use super::{CoverageSummary, OperationsRange, ReportInput};
use crate::{finding::Certainty, pack::Rule};

/// How the numbers were made and what they do not say, a paragraph each.
pub(super) fn method_and_doubt(input: &ReportInput<'_>, rule: &Rule, now: Option<Certainty>) -> Vec<String> {
    let totals = &input.totals;
    let mut paragraphs = vec![
        format!(
            "Operations are those the hardware executed, dense, a multiply-add counted as two, all number formats \
             alike; estimated with method {} and the accelerator table sha256:{}.",
            input.method_version, input.table_sha256
        ),
        "A host cannot tell training from other work of the same run, such as evaluation, failed experiments or \
         recomputation. Read as training compute, the amounts are therefore upper bounds."
            .to_owned(),
        format!(
            "As of {}: {}. Low and high are limits that the true amount cannot be outside of, given what was measured; \
             best is the most plausible single value.",
            totals.as_of,
            OperationsRange::from(&totals.bound).in_words()
        ),
        format!(
            "By data of the past, comparable cases lay between {} and {} operations nine times in ten. \
             This range is an expectation, not a limit.",
            totals.calibrated.low(),
            totals.calibrated.high()
        ),
        coverage_in_words(&input.coverage),
    ];
    if let Some(projection) = &totals.projection {
        paragraphs.push(format!(
            "If the recent rate goes on, the total at {} is {}. It looks no further, because {}.",
            projection.until,
            OperationsRange::from(&projection.bound).in_words(),
            projection.capped_by.in_words()
        ));
    }
    if let Some(arrangement) = &input.finding.arrangement {
        paragraphs.push(format!(
            "When the finding was raised, the following was reserved. None of it is in the totals above before it is \
             used: {}.",
            arrangement.in_words()
        ));
    }
    if now != Some(input.finding.certainty) {
        paragraphs.push(format!(
            "When the finding was raised at {}, it was {}. By the totals of this report it is {}.",
            input.finding.raised_at,
            input.finding.certainty,
            now.map_or("no longer met", Certainty::as_str)
        ));
    }
    if rule.line_is_operators() {
        paragraphs.push(
            "The line compared with is a default of the operator; the text does not contain it.".to_owned(),
        );
    }
    paragraphs
}

fn coverage_in_words(coverage: &CoverageSummary) -> String {
    let gap = coverage.gap_ms.values().fold(0_u64, |sum, ms| sum.saturating_add(*ms));
    let covered = coverage.measured_ms.saturating_add(coverage.interpolated_ms);
    let held = covered.saturating_add(gap);
    if held == 0 {
        return "No time on any accelerator was held.".to_owned();
    }
    // Rounded down: what was not quite seen in full is not shown as 100 %.
    let permille = u128::from(covered) * 1000 / u128::from(held);
    format!(
        "Of {} accelerator-hours held, {}.{} % were measured or bounded by a counter. The other {} are gaps: they count \
         nothing in low, the mean of their attempt in best, and the peak of the device in high.",
        accelerator_hours(held),
        permille / 10,
        permille % 10,
        accelerator_hours(gap)
    )
}

/// Hours with one decimal, rounded to nearest.
pub(super) fn accelerator_hours(ms: u64) -> String {
    let tenths = (u128::from(ms) + 180_000) / 360_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}
