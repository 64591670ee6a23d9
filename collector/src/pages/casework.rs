//! Cases, their clocks and reports.

use maud::{Markup, html};
use weighbridge_casework::{ClockReading, Report, Step, Totals};

use super::show::{certainty, counted, duration, encoded, ops, range, subject, when};
use crate::{
    api::cases::{CaseDetail, CaseJson, FindingJson},
    questionnaire::Questionnaire,
};

/// How long is left, in words that say when it is late.
pub(super) fn clock(clock: &ClockReading) -> Markup {
    let left = duration(clock.remaining_ms.unsigned_abs());
    html! {
        @match (clock.stopped_at, clock.overdue) {
            (Some(_), false) => span.tag.none { "done in time" },
            (Some(_), true) => span.tag.late { "done " (left) " late" },
            (None, true) => span.tag.late { (left) " late" },
            (None, false) => span.tag.due { (left) " left" },
        }
    }
}

pub(super) fn list(cases: &[CaseJson], findings: &[FindingJson]) -> Markup {
    html! {
        @if cases.is_empty() {
            p.empty {
                "No cases. One is opened when somebody meets the criteria of a rule in use surely enough; see "
                a href="/rules" { "the rules" } " and how " a href="/customers" { "customers" } " stand to their lines."
            }
        } @else { (table(cases)) }
        section #findings {
            h2 { (counted(findings.len(), "finding")) }
            @if findings.is_empty() {
                p.empty { "Nobody meets the criteria of any rule in use." }
            } @else {
                p { "A finding keeps the moment when we knew. How it stands now is beside it." }
                (findings_table(findings))
            }
        }
    }
}

/// Cases with their next clock, which stands where a phone shows it.
pub(super) fn table(cases: &[CaseJson]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr {
                th scope="col" { "Case" } th scope="col" { "Next clock" } th scope="col" { "What" }
                th scope="col" { "Certainty" } th scope="col" { "State" }
            } }
            tbody {
                @for case in cases {
                    tr {
                        th scope="row" { a href=(format!("/cases/{}", encoded(&case.id))) { (case.id) } }
                        td {
                            @if let Some(next) = case.next_clock() {
                                (clock(next)) small.note { (next.label) ", due " (next.due_local) }
                            } @else { "none runs" }
                        }
                        td { (case.statement) small.note { "known since " (when(case.raised_at)) } }
                        td { (certainty(case.certainty)) }
                        td { (case.state_in_words) }
                    }
                }
            }
        } }
    }
}

/// Findings as raised and as of now.
pub(super) fn findings_table(findings: &[FindingJson]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr {
                th scope="col" { "Whose" } th scope="col" { "Rule" } th scope="col" { "As raised" } th scope="col" { "Now" } th scope="col" { "Case" }
            } }
            tbody {
                @for FindingJson { finding, now, case } in findings {
                    tr {
                        th scope="row" { (subject(&finding.subject)) }
                        td { a href=(format!("/rules#{}", finding.pack)) { (finding.pack) } " " (finding.rule) small.note { (finding.reason) } }
                        td {
                            (certainty(Some(finding.certainty))) (standing_of(&finding.totals))
                            small.note { "known " (when(finding.raised_at)) ", met " (when(finding.met_at)) }
                        }
                        td {
                            (certainty(now.certainty))
                            @if let Some(totals) = &now.totals { (standing_of(totals)) }
                            @if let Some(met_at) = now.met_at.filter(|now| *now != finding.met_at) {
                                small.note { "by what is known now met " (when(met_at)) }
                            }
                        }
                        td { @if let Some(case) = case { a href=(format!("/cases/{}", encoded(case))) { (case) } } @else { "none" } }
                    }
                }
            }
        } }
    }
}

/// What an account held, in three lines.
fn standing_of(totals: &Totals) -> Markup {
    let (bound, calibrated) = (&totals.bound, &totals.calibrated);
    html! {
        small.note { "best " (ops(bound.best())) }
        small.note { "bound " (range(bound.low(), bound.high())) }
        small.note { "calibrated " (range(calibrated.low(), calibrated.high())) }
    }
}

pub(super) fn case(detail: &CaseDetail) -> Markup {
    let case = &detail.case;
    html! {
        p.statement { (case.statement) "." }
        @for remark in &detail.remarks { p.notice { (remark) } }
        section {
            h2 { "Clocks" }
            @if case.clocks.is_empty() { p.empty { "The pack has no clocks, or is not loaded in version " (case.pack_version) "." } } @else {
                div.scroll { table {
                    thead { tr {
                        th scope="col" { "Until" } th scope="col" { "Left" } th scope="col" { "Started" } th scope="col" { "Due" } th scope="col" { "From" }
                    } }
                    tbody {
                        @for reading in &case.clocks {
                            tr {
                                th scope="row" { (reading.label) }
                                td { (clock(reading)) }
                                td { (when(reading.started_at)) }
                                td { (reading.due_local) br; small { (when(reading.due)) } }
                                td { (reading.citation) br; small { (reading.confidence.as_str()) } }
                            }
                        }
                    }
                } }
            }
        }
        section {
            h2 { "Where it stands" }
            dl {
                dt { "State" } dd { (case.state_in_words) }
                dt { "Subject" } dd { (subject(&case.subject)) }
                dt { "Rule pack" } dd { a href=(format!("/rules#{}", case.pack)) { (case.pack) "@" (case.pack_version) } }
                dt { "Known since" } dd { (when(case.raised_at)) }
                @if let Some(decision) = &detail.decision {
                    dt { "Decision" } dd { (decision.decision) " by " (decision.by) ": " (decision.reason) }
                }
                dt { "Report" } dd {
                    a href=(format!("/cases/{}/report", encoded(&case.id))) { "as it would be now, masked" }
                    @if detail.drafted > 0 { ", newest draft version " (detail.drafted) }
                    @if let Some(filed) = detail.filed { ", sent version " (filed) }
                }
            }
        }
        section {
            h2 { "Findings" }
            (findings_table(&detail.findings))
        }
        @if !detail.unanswered.is_empty() {
            section {
                h2 { "To be asked" }
                p {
                    "Only customers can say this, and have not: "
                    @for (index, (customer, count)) in detail.unanswered.iter().enumerate() {
                        @if index > 0 { ", " } (customer) " " (counted(*count, "question"))
                    }
                    ". The questions go out as "
                    a href=(format!("/api/v1/cases/{}/questionnaire?format=html", encoded(&case.id))) { "a page to print" }
                    " or as "
                    a href=(format!("/api/v1/cases/{}/questionnaire?format=csv", encoded(&case.id))) { "a file to fill in" }
                    ", and the answers come back by " code { "weighbridge-collector case answers " (case.id) " FILE" } "."
                }
            }
        }
        section {
            h2 { "History" }
            ol.history {
                @for event in &detail.history {
                    li { (when(event.at)) " " strong { (event.step.as_str().replace('_', " ")) } " by " (event.by) (told(&event.step)) }
                }
            }
        }
    }
}

/// What an event says beyond its name.
fn told(step: &Step) -> Markup {
    html! {
        @match step {
            Step::Opened { findings, .. } => { " for " (counted(findings.len(), "finding")) },
            Step::Decided { decision, reason } => { ": " (decision) ", because " q { (reason) } },
            Step::Drafted { version, report_sha256 } => {
                ": version " (version) @if let Some(hash) = report_sha256 { ", SHA-256 " code { (hash) } }
            },
            Step::Filed { version, reference } | Step::Corrected { version, reference } => {
                ": version " (version) @if let Some(reference) = reference { ", reference " (reference) }
            },
            Step::FollowUpRequested { received_at, question } => { " at " (when(*received_at)) ": " q { (question) } },
            Step::ErrorFound { found_at, what } => { " at " (when(*found_at)) ": " q { (what) } },
            Step::ErrorDismissed { reason } | Step::Closed { reason } | Step::Reopened { reason } => { ": " q { (reason) } },
            Step::FindingAdded { .. } | Step::Seen | Step::FollowUpAnswered => {},
        }
    }
}

/// The report without the identity, and how to get it with.
pub(super) fn masked_report(report: &Report) -> Markup {
    html! {
        p.notice.screen {
            "Identity is masked here. The opened report is made by "
            code { "weighbridge-collector report " (report.case) " --actor NAME --reason WHY" }
            " on the collector's host; who looked and why is recorded first."
        }
        (self::report(report))
        p.screen {
            a href=(format!("/api/v1/cases/{}/report.pdf", encoded(&report.case))) { "The same as a PDF" } ", "
            a href=(format!("/cases/{}", encoded(&report.case))) { "back to " (report.case) }
        }
    }
}

/// The report in reading order.
pub(super) fn report(report: &Report) -> Markup {
    html! {
        @for section in report.sections() {
            section.report {
                h2 { (section.title) }
                @for paragraph in &section.paragraphs { p { (paragraph) } }
                @if !section.rows.is_empty() {
                    div.scroll { table {
                        @if section.columns.iter().any(|column| !column.is_empty()) {
                            thead { tr { @for column in &section.columns { th scope="col" { (column) } } } }
                        }
                        tbody {
                            @for row in &section.rows {
                                tr {
                                    @for (index, cell) in row.iter().enumerate() {
                                        @if index == 0 { th scope="row" { (lines(cell)) } }
                                        @else if cell.len() == 1 && cell[0] == "blank" { td { span.tag.gap { "blank" } } }
                                        @else { td { (lines(cell)) } }
                                    }
                                }
                            }
                        }
                    } }
                }
            }
        }
    }
}

/// Questions with room for the answers, each customer on a sheet of its own.
pub(super) fn questionnaire(asked: &Questionnaire) -> Markup {
    html! {
        @if asked.customers.is_empty() { p { "Nothing is left to ask." } }
        @for one in &asked.customers {
            section.sheet {
                h2 { "Customer " (one.customer) }
                p {
                    "These questions belong to " (asked.case) " under " (asked.instrument) " (" (asked.pack)
                    "), as of " (when(asked.as_of)) ". What you answer is shown in a report as your word and is not \
                    verified. A question that you cannot answer stays blank."
                }
                @for question in &one.questions {
                    div.question {
                        h3 { (question.label) }
                        p { small { (question.field) ", asked for in " (question.citation) " (" (question.confidence.as_str()) "); answered as " code { (question.key) } } }
                        div.answer {}
                    }
                }
                p { "Signed by: ______________________________  on: ____________________" }
            }
        }
    }
}

fn lines(cell: &[String]) -> Markup {
    html! { @for (index, line) in cell.iter().enumerate() { @if index > 0 { br; } (line) } }
}
