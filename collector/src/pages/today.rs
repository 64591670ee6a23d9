//! What a person should look at first: clocks, then what is not known.

use maud::{Markup, html};
use weighbridge_casework::State;
use weighbridge_meter::{Condition, UtcMillis};
use weighbridge_store::account::TimeAccount;

use super::{
    casework,
    fleet::{accelerator_link, agent_state, never_seen, no_agents, told},
    show::{
        counted, coverage_parts, duration, encoded, grouped, held_parts, hours, legend, ops, passing,
        percent, strip, subject, when,
    },
};
use crate::api::{
    cases::{CaseJson, FindingJson},
    device::ConditionJson,
    fleet::Fleet,
    integrity::Disagreement,
    subjects::{AttemptJson, Summary},
    unattributed::Words,
};
use crate::judge::Nearing;

/// Everything the page is made of.
pub(super) struct Seen {
    pub(super) cases: Vec<CaseJson>,
    pub(super) findings: Vec<FindingJson>,
    pub(super) nearing: Vec<Nearing>,
    pub(super) unmapped: Vec<Summary>,
    pub(super) customers: Vec<Summary>,
    pub(super) runs: Vec<AttemptJson>,
    pub(super) fleet: Fleet,
    /// The time of the last day, where any time has no holder.
    pub(super) last_day: TimeAccount,
}

/// Findings shown here; all are with the cases.
const NEWEST: usize = 5;

pub(super) fn page(seen: &Seen) -> Markup {
    let open: Vec<CaseJson> = seen.cases.iter().filter(|case| case.state != State::Closed).cloned().collect();
    html! {
        (tiles(seen, &open))
        section {
            h2 { "Cases" }
            @if open.is_empty() {
                p.empty { "No open cases, and no clock is running." }
            } @else { (casework::table(&open)) }
        }
        (nearing(&seen.nearing))
        (needs(seen))
        @if !seen.findings.is_empty() {
            section {
                h2 { "Newest findings" }
                (casework::findings_table(&seen.findings[..seen.findings.len().min(NEWEST)]))
                @if seen.findings.len() > NEWEST { p { a href="/cases#findings" { "All " (seen.findings.len()) " findings" } } }
            }
        }
        @if seen.fleet.totals.time.wall_ms > 0 {
            @let coverage = coverage_parts(&seen.fleet.totals.time);
            @let held = held_parts(&seen.fleet.totals.time);
            section {
                h2 { "The fleet so far" }
                h3 { "How much was seen" } (strip(&coverage)) (legend(&coverage))
                h3 { "Who held it" } (strip(&held)) (legend(&held))
            }
        }
    }
}

/// Who nears a line without having passed it: to talk to before it is a case.
fn nearing(all: &[Nearing]) -> Markup {
    html! {
        @if !all.is_empty() {
            section #nearing {
                h2 { "Nearing a line" }
                div.scroll { table {
                    thead { tr {
                        th scope="col" { "Whose" } th scope="col" { "Would meet the criteria of" } th.n scope="col" { "Part of the line" }
                        th scope="col" { "If it goes on" }
                    } }
                    tbody {
                        @for one in &all[..all.len().min(NEWEST)] {
                            tr {
                                th scope="row" { (subject(&one.subject)) }
                                td { a href=(format!("/rules#{}", one.pack)) { (one.name) } small.note { (one.rule) ", " (one.line) } }
                                td.n { (grouped(one.percent)) " %" }
                                td {
                                    @if one.passing.expected.is_none() && one.passing.earliest.is_none() { "not within the lease" }
                                    (passing(&one.passing))
                                }
                            }
                        }
                    }
                } }
                @if all.len() > NEWEST { p { a href="/api/v1/nearing" { "All " (all.len()) } } }
            }
        }
    }
}

fn tiles(seen: &Seen, open: &[CaseJson]) -> Markup {
    let time = &seen.fleet.totals.time;
    let next = open.iter().filter_map(CaseJson::next_clock).min_by_key(|clock| clock.due);
    let covered = percent(time.measured_ms + time.interpolated_ms, time.wall_ms);
    html! {
        ul.tiles {
            li { a href="/cases" { strong { (open.len()) } " open " @if open.len() == 1 { "case" } @else { "cases" } } }
            li {
                a href="/cases" {
                    @if let Some(clock) = next {
                        strong { (duration(clock.remaining_ms.unsigned_abs())) }
                        @if clock.overdue { " late: " } @else { " to the next deadline" }
                    } @else { strong { "–" } " no clock is running" }
                }
            }
            li { a href="/fleet" { strong { (grouped(seen.fleet.totals.accelerators as u64)) } " accelerators reported" } }
            li { a href="/fleet" { strong { (covered) } " of their time seen" } }
            li { a href="/customers" { strong { (seen.customers.len()) } " customers" } }
            li { a href="/runs" { strong { (seen.runs.len()) } " runs" } }
        }
    }
}

/// Whether somebody can do something about it: the rest is as it is.
fn needs_a_hand(condition: Condition) -> bool {
    use Condition::{NoMigMonitor, StreamingOff, UnknownArchitecture, UnknownLayout};
    [StreamingOff, NoMigMonitor, UnknownArchitecture, UnknownLayout].contains(&condition)
}

/// Of the last day, in how many thousandths of the time the lack of a holder is worth a word.
const NOTABLE_PER_MILLE: u64 = 10;

/// How it is now: what was once unattributed may be long mended.
fn lately(day: &TimeAccount) -> Markup {
    let millis: u64 = day.unattributed_ms.values().sum();
    let notable = u128::from(millis) * 1000 >= u128::from(day.wall_ms) * u128::from(NOTABLE_PER_MILLE);
    let most = day.unattributed_ms.iter().max_by_key(|(_, millis)| **millis);
    html! {
        @if let Some((reason, _)) = most.filter(|_| notable && millis > 0) {
            strong { (percent(millis, day.wall_ms)) " of the last 24 h" } ", most of it because " (Words::from(*reason).means) ". "
        } @else {
            "In the last 24 h it was " (percent(millis, day.wall_ms)) ". "
        }
    }
}

/// What only a person can mend.
fn needs(seen: &Seen) -> Markup {
    let fleet = &seen.fleet;
    let silent = fleet.silent_hosts();
    let troubled =
        fleet.agents.iter().filter(|agent| agent.enrolled && !agent.is_silent() && agent.is_troubled());
    let troubled: Vec<_> = troubled.collect();
    let state = |state| fleet.totals.time.held_ms.get(&state).copied().unwrap_or_default();
    let unattributed = state(weighbridge_store::hour::HeldState::Unattributed);
    let disputed = state(weighbridge_store::hour::HeldState::Disputed);
    let untabled = fleet.accelerators.iter().filter(|accelerator| accelerator.model.is_none()).count();
    let missing: Vec<&AttemptJson> = seen.runs.iter().filter(|run| run.never_seen > 0).collect();
    let disagreeing: Vec<&Disagreement> = fleet.integrity.of_last_day().collect();
    let worse: Vec<_> =
        fleet.totals.by_condition.iter().filter(|(condition, _)| needs_a_hand(**condition)).collect();
    let day = fleet.as_of.plus(-UtcMillis::DAY);
    let alarms: Vec<_> = fleet.integrity.alarms.iter().filter(|one| one.alarm.raised_at > day).collect();
    let missing_batches: u64 = fleet.agents.iter().map(|agent| agent.delivery.missing).sum();
    let nothing = disagreeing.is_empty()
        && alarms.is_empty()
        && missing_batches == 0
        && worse.is_empty()
        && silent.is_empty()
        && troubled.is_empty()
        && unattributed == 0
        && disputed == 0
        && untabled == 0
        && missing.is_empty()
        && seen.unmapped.is_empty();
    html! {
        section {
            h2 { "Needs a person" }
            @if fleet.agents.is_empty() { (no_agents()) }
            @if seen.customers.is_empty() {
                p.empty { "No customers yet: " code { "weighbridge-collector import customers customers.csv" } "." }
            }
            @if nothing && !fleet.agents.is_empty() { p.empty { "Nothing: every host reports, and everything held is somebody's." } }
            @if !nothing { ul.needs {
                @if !silent.is_empty() {
                    li {
                        strong { (counted(silent.len(), "silent host")) } ": their time since then is a gap, and not zero."
                        ul.plain { @for (host, agents) in silent.iter().take(20) {
                            li { a href=(format!("/host?name={}", encoded(host))) { (host) } " " @for agent in agents { (agent_state(agent)) " " } }
                        } }
                        @if silent.len() > 20 { a href="/fleet" { "and " (silent.len() - 20) " more" } }
                    }
                }
                @if !alarms.is_empty() {
                    li {
                        strong { (counted(alarms.len(), "alarm")) } " of the last 24 h: something happened that should never."
                        ul.plain { @for one in alarms.iter().take(5) { li { (one.alarm.agent) ": " (one.means) } } }
                        a href="/fleet#alarms" { "All of them" }
                    }
                }
                @if missing_batches > 0 {
                    li {
                        strong { (grouped(missing_batches)) " batches missing" } ": agents made them and are asked for them. "
                        a href="/fleet#deliveries" { "Whose" }
                    }
                }
                @if !disagreeing.is_empty() {
                    li {
                        strong { (counted(fleet.integrity.hours_last_day, "accelerator hour")) " in disagreement" }
                        ": two sources of one accelerator said what cannot both be true, in the last 24 h. A broken sensor, a wrong clock, or somebody's hand."
                        ul.plain { @for one in disagreeing.iter().take(5) {
                            @if let Some(said) = one.said() {
                                li { (accelerator_link(&one.accelerator)) " " (when(one.hour)) ": counted " (told(&said.counted)) "; against it " (told(&said.witness)) }
                            }
                        } }
                        a href="/fleet#integrity" { "All of them" }
                    }
                }
                @for (condition, count) in worse {
                    @let words = ConditionJson::from(*condition);
                    li { strong { (counted(*count, "accelerator")) } ": " (words.means) ". " a href="/fleet#conditions" { "To do" } ": " (words.to_do) "." }
                }
                @for agent in troubled.iter().take(20) {
                    li { strong { "Host " a href=(format!("/host?name={}", encoded(&agent.host))) { (agent.host) } } ": " (agent_state(agent)) }
                }
                @if troubled.len() > 20 { li { a href="/fleet" { "and " (troubled.len() - 20) " more hosts with trouble" } } }
                @if unattributed > 0 {
                    li {
                        strong { (percent(unattributed, fleet.totals.time.wall_ms)) " unattributed" } ": "
                        (hours(unattributed)) " of accelerator time in which nobody is known to have held what was used or not seen. "
                        (lately(&seen.last_day)) a href="/fleet#unattributed" { "Why, and what to do" }
                    }
                }
                @if disputed > 0 {
                    li { strong { (percent(disputed, fleet.totals.time.wall_ms)) " disputed" } ": leases contradict each other for " (hours(disputed)) "." }
                }
                @if !seen.unmapped.is_empty() {
                    li {
                        strong { (counted(seen.unmapped.len(), "principal")) " without a customer" } ": "
                        a href="/customers#unmapped" { "map " @if seen.unmapped.len() == 1 { "it" } @else { "them" } }
                        ", the largest is " code { (seen.unmapped[0].id) } " with best " (ops(seen.unmapped[0].total.with_gaps.best_tera)) "."
                    }
                }
                @if untabled > 0 {
                    li { strong { (counted(untabled, "accelerator")) " of a model that is not in the table" } ": taken for the fastest that is." }
                }
            } }
        }
        (never_seen(&seen.runs))
    }
}
