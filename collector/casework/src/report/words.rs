//! What a reader of a report has to know about its numbers, in sentences.

use super::{AttributionSummary, CoverageSummary, OperationsRange, ReportInput};
use crate::{finding::Certainty, pack::Rule};

/// How the numbers were made and what they do not say, a paragraph each.
pub(super) fn method_and_doubt(input: &ReportInput<'_>, rule: &Rule, now: Option<Certainty>) -> Vec<String> {
    let totals = &input.totals;
    let mut paragraphs = vec![
        format!(
            "What is counted: the operations that the hardware executed, dense, a multiply-add counted as two, all \
             number formats alike; estimated with method {} and the accelerator table sha256:{}. Agents read counters \
             of the hardware; from these the estimate follows, and anybody who has the ledger can work it out again.",
            input.method_version, input.table_sha256
        ),
        "What it does not say: a host cannot tell training from other work of the same run, such as evaluation, failed \
         experiments or recomputation. Read as training compute, the amounts are therefore upper bounds."
            .to_owned(),
        format!(
            "The bound: as of {}, {}. Low and high are limits that the true amount cannot be outside of, given what was \
             measured and the assumptions below; best is the most plausible single value.",
            totals.as_of,
            OperationsRange::from(&totals.bound).in_words()
        ),
        format!(
            "The calibrated range: by data of the past, comparable cases lay between {} and {} operations nine times \
             in ten. This range is an expectation, not a limit: one comparable case in ten lay outside of it.",
            totals.calibrated.low(),
            totals.calibrated.high()
        ),
        coverage_in_words(&input.coverage),
        "Assumptions: the counters of the hardware are right; the accelerator is the model that it says it is; where the \
         number format of the work was not seen, low takes the slowest and high the fastest that the accelerator has; \
         what was recorded of who held an accelerator and when is right; time that nobody saw may have held anything \
         from nothing to work at the peak."
            .to_owned(),
    ];
    paragraphs.extend(sharing_in_words(&input.attribution));
    paragraphs.extend(now.map(certainty_in_words));
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

/// What is shared or disputed, if anything is: it is counted for each who held it.
fn sharing_in_words(attribution: &AttributionSummary) -> Option<String> {
    let AttributionSummary { shared_ms, disputed_ms, .. } = *attribution;
    (shared_ms > 0 || disputed_ms > 0).then(|| {
        format!(
            "Whose it was: {} accelerator-hours were shared by several holders and {} are claimed by more than one. What \
             each of them did with it is not known; it widens low and high.",
            accelerator_hours(shared_ms),
            accelerator_hours(disputed_ms)
        )
    })
}

/// What the word for how sure it is stands for.
fn certainty_in_words(certainty: Certainty) -> String {
    let meaning = match certainty {
        Certainty::Certain => "even the lowest amount that is possible meets the criteria",
        Certainty::Likely => {
            "the whole calibrated range meets the criteria, though the lowest amount that is possible does not"
        }
        Certainty::Projected => {
            "the amount does not meet the criteria yet, and does if the recent rate goes on"
        }
        Certainty::Possible => {
            "the highest amount that is possible meets the criteria; the likely ones need not"
        }
        Certainty::CouldResult => "what is reserved could do it; it says nothing about what was done",
    };
    format!("How sure it is: {certainty}. That word means: {meaning}.")
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
        "How well it was seen: of {} accelerator-hours held, {}.{} % were measured or bounded by a counter. The other {} \
         are gaps: they count nothing in low, the mean of their attempt in best, and the peak of the device in high.",
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
