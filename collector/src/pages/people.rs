//! Customers, control groups, unmapped principals and runs: their totals against the lines of rules.

use std::collections::BTreeMap;

use maud::{Markup, html};
use weighbridge_casework::Subject;
use weighbridge_meter::{Class, Operations};

use super::parties;
use super::show::{
    Scale, columns, counted, encoded, grouped, hours, ops, percent, range, standing, verdict, when,
};
use crate::{
    api::{
        amount::{Amount, Total},
        cases::CaseJson,
        subjects::{self, AttemptJson, Detail, HourJson, RuleCheck, Run, Summary},
        work::{Looks, ModelOperations, Needed},
    },
    app::App,
    view::View,
};

/// The rules in use that look at any of these.
pub(super) fn lines_of<'a>(
    app: &App,
    view: &View,
    summaries: impl Iterator<Item = &'a Summary>,
) -> Vec<RuleCheck> {
    // Which rules look at a subject depends on its kind alone: one of each is asked.
    let one_of_each: BTreeMap<&str, &Subject> =
        summaries.map(|s| (s.subject.scope().as_str(), &s.subject)).collect();
    let checks = one_of_each.into_values().filter_map(|subject| {
        let owned = view.subject(subject)?;
        Some(subjects::rules(app, view, subject, &owned))
    });
    checks.flatten().collect()
}

pub(super) fn customers(
    customers: &[Summary],
    groups: &[Summary],
    unmapped: &[Summary],
    checks: &[RuleCheck],
) -> Markup {
    let all = customers.iter().chain(groups).chain(unmapped);
    let scale = Scale::over(all.map(|summary| &summary.total.with_gaps), checks);
    html! {
        @if customers.is_empty() {
            p.empty {
                "No customers yet: " code { "weighbridge-collector import customers customers.csv" }
                ", then map what they use to them with " code { "import principals principals.csv" } "."
            }
        } @else {
            section {
                h2 { (counted(customers.len(), "customer")) }
                (scale.key())
                (table("Customer", customers, &scale))
            }
        }
        @if !groups.is_empty() {
            section {
                h2 { "Control groups" }
                p { "Customers joined by ownership or control: their totals together, so that splitting hides nothing." }
                (table("Group", groups, &scale))
            }
        }
        @if !unmapped.is_empty() {
            section #unmapped {
                h2 { "Principals without a customer" }
                p {
                    "They held accelerators and nobody knows whose they are, so rules treat them as not determined. "
                    "Map them: " code { "weighbridge-collector import principals principals.csv" } "."
                }
                (table("Principal", unmapped, &scale))
            }
        }
    }
}

/// Rows of one table: what nobody reads to its end is not sent.
const MOST_ROWS: usize = 500;

fn table(what: &str, summaries: &[Summary], scale: &Scale) -> Markup {
    let customers = summaries.iter().any(|summary| summary.kind.is_some());
    html! {
        div.scroll { table {
            thead { tr {
                th scope="col" { (what) }
                @if customers { th scope="col" { "Standing" } th scope="col" { "Group" } th.n scope="col" { "Principals" } }
                th.n scope="col" { "Best, with gaps" } th.n scope="col" { "Bound" } th.wide scope="col" { "Against the lines" }
                th.n scope="col" { "Seen" }
            } }
            tbody {
                @for summary in summaries.iter().take(MOST_ROWS) {
                    @let total = &summary.total;
                    tr {
                        th scope="row" { (bare_link(&summary.subject)) }
                        @if customers {
                            td { (standing(summary.standing)) }
                            td { @if let Some(group) = &summary.control_group { a href=(format!("/groups/{}", encoded(group))) { (group) } } @else { "–" } }
                            td.n { (summary.principals.len()) }
                        }
                        td.n { (ops(total.with_gaps.best_tera)) }
                        td.n { (range(total.with_gaps.low_tera, total.with_gaps.high_tera)) }
                        td.wide { (scale.bar(&total.with_gaps)) }
                        td.n { (percent(total.measured_ms + total.interpolated_ms, total.held_ms)) }
                    }
                }
            }
        } }
        @if summaries.len() > MOST_ROWS {
            p { "And " (grouped((summaries.len() - MOST_ROWS) as u64)) " more, none of which has more than these: the JSON has all." }
        }
    }
}

fn bare_link(subject: &Subject) -> Markup {
    let path = match subject {
        Subject::Run(_) => "runs",
        Subject::Customer(_) => "customers",
        Subject::ControlGroup(_) => "groups",
        Subject::Principal(_) => "principals",
    };
    html! { a href=(format!("/{path}/{}", encoded(subject.id()))) { (subject.id()) } }
}

/// One customer, group or principal.
pub(super) fn subject(detail: &Detail, hours_measured: &[HourJson], cases: &[CaseJson]) -> Markup {
    let summary = &detail.summary;
    let customer = matches!(summary.subject, Subject::Customer(_));
    html! {
        section {
            h2 { "Who" }
            dl {
                @if let Some(kind) = summary.kind { dt { "Kind" } dd { (kind.as_str()) } }
                dt { "Standing" } dd { (standing(summary.standing)) }
                @if customer {
                    dt { "Control group" } dd {
                        @if let Some(group) = &summary.control_group { a href=(format!("/groups/{}", encoded(group))) { (group) } } @else { "none known" }
                    }
                }
                @if !detail.members.is_empty() {
                    dt { "Members" } dd { @for member in &detail.members { a href=(format!("/customers/{}", encoded(member))) { (member) } " " } }
                }
                @if let Some(party) = &detail.party { (parties::standing(party, &detail.sells_to)) }
                dt { "Principals" } dd {
                    @if summary.principals.is_empty() { "none used yet" }
                    ul.plain { @for principal in &summary.principals { li { code { (principal) } } } }
                }
                @if !cases.is_empty() {
                    dt { "Cases" } dd { @for case in cases { a href=(format!("/cases/{}", encoded(&case.id))) { (case.id) } " (" (case.state_in_words) ") " } }
                }
            }
        }
        @if let (Some(party), Some(behind)) = (&detail.party, &detail.behind) { (parties::behind(party, behind)) }
        @if let Some(group) = &detail.group { (parties::group(group)) }
        (totals(&summary.total, &detail.model_operations, &detail.rules))
        (against(&detail.rules))
        @if !hours_measured.is_empty() {
            section {
                h2 { "Over time" }
                (columns(&hours_measured.iter().map(|hour| (hour.hour, hour.amount.best_tera)).collect::<Vec<_>>()))
                @if customer { p { a href=(format!("/api/v1/customers/{}/hours", encoded(&summary.id))) { "Hours as JSON" } } }
            }
        }
        section {
            h2 { "Runs" }
            @if detail.attempts.is_empty() { p.empty { "None has held an accelerator yet." } } @else { (runs_table(&detail.attempts)) }
        }
        @if customer { (identity(&detail.identity)) }
    }
}

/// Which fields are known. What they say is in a report that somebody opened, and nowhere else.
fn identity(fields: &BTreeMap<&'static str, &'static str>) -> Markup {
    let blank = fields.values().filter(|state| **state == "blank").count();
    html! {
        section {
            h2 { "Identity" }
            p {
                "Sealed; opening it is a recorded act. "
                @if fields.values().any(|state| *state == "erased") { "Its key was destroyed: what was known of it cannot be read by anybody." }
                @else if blank == 0 { "Every field is known." } @else { (blank) " of " (fields.len()) " fields are blank and would be in a report." }
            }
            ul.fields {
                @for (field, state) in fields {
                    li { (field.replace('_', " ")) " " span class={ "tag " @if *state == "present" { "measured" } @else { "gap" } } { (state) } }
                }
            }
        }
    }
}

fn totals(total: &Total, model: &ModelOperations, checks: &[RuleCheck]) -> Markup {
    let scale = Scale::over([&total.measured, &total.with_gaps], checks);
    html! {
        section {
            h2 { "Operations" }
            div.scroll { table {
                thead { tr {
                    th scope="col" { "What" } th.n scope="col" { "Low bound" } th.n scope="col" { "Best" } th.n scope="col" { "High bound" }
                    th.n scope="col" { "Calibrated, 5–95 %" } th.wide scope="col" { "On a scale" }
                } }
                tbody {
                    (amount_row("Executed, measured", &total.measured, &scale))
                    (amount_row("Executed, with gaps", &total.with_gaps, &scale))
                    (needed_row("Needed by the model, measured", &model.measured))
                    (needed_row("Needed by the model, with gaps", &model.with_gaps))
                }
            } }
            (scale.key())
            p {
                "Executed is what the hardware did, and what rules are compared with here; needed by the model is the part "
                "of it that the model's own arithmetic asks for, without recomputation, padding and other overhead: an "
                "estimate by data of the past, not a bound."
            }
            (how(total))
        }
    }
}

fn amount_row(what: &str, amount: &Amount, scale: &Scale) -> Markup {
    html! {
        tr {
            th scope="row" { (what) }
            td.n { (ops(amount.low_tera)) }
            td.n { (ops(amount.best_tera)) }
            td.n { (ops(amount.high_tera)) }
            td.n { (range(amount.calibrated_low_tera, amount.calibrated_high_tera)) }
            td.wide { (scale.bar(amount)) }
        }
    }
}

fn needed_row(what: &str, needed: &Needed) -> Markup {
    html! {
        tr {
            th scope="row" { (what) }
            td.n { "–" }
            td.n { (ops(needed.best_tera)) }
            td.n { "–" }
            td.n { (range(needed.calibrated_low_tera, needed.calibrated_high_tera)) }
            td.wide {}
        }
    }
}

/// `looks like training (0.93)`: evidence, and said to be no more.
fn looks_like(looks: &Looks) -> Markup {
    html! {
        @match looks.class {
            Class::Undetermined => "not determined",
            class => { "looks like " (class) " (" (format!("{:.2}", looks.likelihood)) ")" },
        }
    }
}

/// Where a number comes from, in time.
fn how(total: &Total) -> Markup {
    let silent = total.gap_ms.saturating_sub(total.never_seen_ms);
    html! {
        p {
            "Held " (hours(total.held_ms)) " of accelerator time: " (hours(total.measured_ms)) " measured, "
            (hours(total.interpolated_ms)) " bounded by a counter, " (hours(total.gap_ms)) " not seen"
            @if total.gap_ms > 0 {
                " (" (hours(silent)) " while nobody reported, " (hours(total.never_seen_ms)) " on accelerators never reported)"
            }
            ". " (percent(total.measured_ms + total.interpolated_ms, total.held_ms)) " of it was seen."
        }
    }
}

/// Against every rule in use that looks at such a subject.
fn against(checks: &[RuleCheck]) -> Markup {
    html! {
        section {
            h2 { "Against the rules" }
            @if checks.is_empty() {
                p.empty { "No rule in use looks at this. " a href="/rules" { "All rules" } }
            } @else {
                div.scroll { table {
                    thead { tr {
                        th scope="col" { "Meets the criteria of" } th scope="col" { "Status" } th scope="col" { "Line" }
                        th scope="col" { "Now" } th scope="col" { "If it goes on" }
                    } }
                    tbody {
                        @for check in checks {
                            tr {
                                th scope="row" { a href=(format!("/rules#{}", check.pack)) { (check.name) } br; small { (check.title) } }
                                td { (check.status.map_or("no status", |status| status.as_str())) }
                                td {
                                    (check.line.as_deref().unwrap_or("none on operations"))
                                    @if let Some(percent) = check.percent { br; small { "best is " (grouped(percent)) " % of it" } }
                                }
                                td { (verdict(check)) }
                                td {
                                    @if let Some(projection) = &check.projection {
                                        "best " (ops(projection.bound.best())) " by " (when(projection.until)) br;
                                        small { "up to " (ops(projection.bound.high())) "; no further, because " (projection.capped_by.in_words()) }
                                        @if let Some(passing) = &check.passing { (super::show::passing(passing)) }
                                    } @else { "–" }
                                }
                            }
                        }
                    }
                } }
            }
        }
    }
}

/// All runs.
pub(super) fn runs(runs: &[AttemptJson]) -> Markup {
    if runs.is_empty() {
        return html! {
            p.empty {
                "No runs yet: nothing is known to have held an accelerator. Import leases ("
                code { "weighbridge-collector import leases leases.csv" } "), or let agents tell the holders."
            }
        };
    }
    html! {
        p { "For now each attempt is a run of its own: joining them needs a recorded link." }
        (runs_table(runs))
    }
}

fn runs_table(runs: &[AttemptJson]) -> Markup {
    let scale = Scale::over(runs.iter().map(|run| &run.total.with_gaps), []);
    html! {
        div.scroll { table {
            thead { tr {
                th scope="col" { "Run" } th scope="col" { "Customer" } th scope="col" { "Accelerators" }
                th.n scope="col" { "Best, with gaps" } th.wide scope="col" { "Bound and calibrated" } th.n scope="col" { "Seen" }
                th scope="col" { "Evidence" } th scope="col" { "From, to" }
            } }
            tbody {
                @for run in runs {
                    tr {
                        th scope="row" { a href=(format!("/runs/{}", encoded(run.attempt.as_str()))) { (run.attempt) } br; small { (run.principal) } }
                        td { (owner(run)) }
                        td { (models(run)) }
                        td.n { (ops(run.total.with_gaps.best_tera)) }
                        td.wide { (scale.bar(&run.total.with_gaps)) }
                        td.n { (percent(run.total.measured_ms + run.total.interpolated_ms, run.total.held_ms)) }
                        td { (looks_like(&run.looks)) }
                        td { (when(run.started)) @if let Some(end) = run.lease_end { br; (when(end)) } }
                    }
                }
            }
        } }
        (scale.key())
        p { "What a run looks like is evidence from counters, and no determination: nothing is counted less because of it." }
    }
}

fn owner(run: &AttemptJson) -> Markup {
    match &run.customer {
        Some(customer) => link_to_customer(customer),
        None => {
            html! { a href=(format!("/principals/{}", encoded(run.principal.as_str()))) { "not mapped" } }
        }
    }
}

fn link_to_customer(customer: &str) -> Markup {
    html! { a href=(format!("/customers/{}", encoded(customer))) { (customer) } }
}

fn models(run: &AttemptJson) -> Markup {
    html! {
        @for (model, count) in &run.models { (grouped(*count)) " × " (model) br; }
        @if run.never_seen > 0 { span.tag.gap { (grouped(run.never_seen)) " never reported" } }
    }
}

/// One run: how its number came about.
pub(super) fn run(run: &Run, hours_measured: &[HourJson]) -> Markup {
    html! {
        @if run.attempts.len() > 1 {
            p.notice { (run.attempts.len()) " principals use this name. They are shown one after the other and are not added up." }
        }
        @for attempt in &run.attempts {
            @let (rules, model_operations, attempt) = (&attempt.rules, &attempt.model_operations, &attempt.attempt);
            section {
                h2 { "Whose" }
                dl {
                    dt { "Principal" } dd { code { (attempt.principal) } }
                    dt { "Customer" } dd { (owner(attempt)) ", " (standing(attempt.standing)) }
                    dt { "Began" } dd { (when(attempt.started)) }
                    dt { "Lease ends" } dd { @match attempt.lease_end { Some(end) => { (when(end)) } None => { "no lease" } } }
                    dt { "Accelerators" } dd {
                        (grouped(attempt.devices)) " held now" @if attempt.never_seen > 0 { ", of these " (grouped(attempt.never_seen)) " never reported by any agent" }
                        br; (models(attempt))
                    }
                    dt { "Kind of work" } dd {
                        (looks_like(&attempt.looks)) ": " (attempt.looks.because) ". "
                        small { "Evidence from counters, and no determination: nothing is counted less because of it." }
                    }
                }
            }
            (totals(&attempt.total, model_operations, rules))
            (parts(&attempt.total))
            (against(rules))
        }
        @if !hours_measured.is_empty() {
            section {
                h2 { "Over time" }
                (columns(&hours_measured.iter().map(|hour| (hour.hour, hour.amount.best_tera)).collect::<Vec<_>>()))
            }
        }
    }
}

/// Measured and gaps, as they add up.
fn parts(total: &Total) -> Markup {
    let gaps = |with: Operations, without: Operations| with.saturating_sub(without);
    let (all, measured) = (&total.with_gaps, &total.measured);
    html! {
        section {
            h2 { "How the number came about" }
            div.scroll { table {
                thead { tr {
                    th scope="col" { "Part" } th.n scope="col" { "Accelerator time" } th.n scope="col" { "Low" } th.n scope="col" { "Best" } th.n scope="col" { "High" }
                } }
                tbody {
                    tr {
                        th scope="row" { "Measured, counters of the hardware" }
                        td.n { (hours(total.measured_ms + total.interpolated_ms)) }
                        td.n { (ops(measured.low_tera)) } td.n { (ops(measured.best_tera)) } td.n { (ops(measured.high_tera)) }
                    }
                    tr {
                        th scope="row" { "Gaps" br; small { "nothing in low, the mean of this attempt in best, the peak of the device in high" } }
                        td.n { (hours(total.gap_ms)) }
                        td.n { (ops(gaps(all.low_tera, measured.low_tera))) }
                        td.n { (ops(gaps(all.best_tera, measured.best_tera))) }
                        td.n { (ops(gaps(all.high_tera, measured.high_tera))) }
                    }
                }
                tfoot { tr {
                    th scope="row" { "Together" }
                    td.n { (hours(total.held_ms)) }
                    td.n { (ops(all.low_tera)) } td.n { (ops(all.best_tera)) } td.n { (ops(all.high_tera)) }
                } }
            } }
            @if total.gap_ms > 0 {
                p {
                    "Of the gaps, " (hours(total.never_seen_ms)) " are accelerators that were leased and never reported by any agent, and "
                    (hours(total.gap_ms.saturating_sub(total.never_seen_ms))) " are time in which a known one was not seen"
                    "."
                }
            }
        }
    }
}
