//! Hosts and accelerators: what is there, how much of its time was seen, who is silent.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};
use weighbridge_meter::{AcceleratorId, Condition, Operations};
use weighbridge_store::account::TimeAccount;

use super::show::{
    counted, coverage_parts, duration, encoded, grouped, held_parts, hours, legend, ops, percent, range,
    strip, when,
};
use crate::{
    api::{
        device::ConditionJson,
        fleet::{AcceleratorJson, AgentJson, Fleet},
        integrity::{Disagreement, Integrity},
        subjects::AttemptJson,
        unattributed::{UnattributedJson, Words},
    },
    integrity::Told,
};

/// What is on one host.
#[derive(Default)]
struct Host<'a> {
    agents: Vec<&'a AgentJson>,
    accelerators: Vec<&'a AcceleratorJson>,
}

fn hosts(fleet: &Fleet) -> BTreeMap<&str, Host<'_>> {
    let mut hosts: BTreeMap<&str, Host<'_>> = BTreeMap::new();
    for accelerator in &fleet.accelerators {
        hosts.entry(&accelerator.host).or_default().accelerators.push(accelerator);
    }
    for agent in &fleet.agents {
        hosts.entry(&agent.host).or_default().agents.push(agent);
    }
    hosts
}

pub(super) fn page(fleet: &Fleet, runs: &[AttemptJson]) -> Markup {
    if fleet.agents.is_empty() && fleet.accelerators.is_empty() {
        return html! {
            (no_agents())
            (never_seen(runs))
        };
    }
    let coverage = coverage_parts(&fleet.totals.time);
    let held = held_parts(&fleet.totals.time);
    html! {
        section {
            h2 { "All accelerator time" }
            @if fleet.totals.time.wall_ms == 0 {
                p.empty { "No accelerator has been reported yet. Agents announce theirs with the first batch." }
            } @else {
                p {
                    (counted(fleet.totals.accelerators, "accelerator")) ", "
                    (hours(fleet.totals.time.wall_ms)) " from when each was first seen. Measured: best "
                    (ops(fleet.totals.measured.best_tera)) ", bound "
                    (range(fleet.totals.measured.low_tera, fleet.totals.measured.high_tera)) "."
                }
                h3 { "How much was seen" }
                (strip(&coverage)) (legend(&coverage))
                h3 { "Who held it" }
                (strip(&held)) (legend(&held))
            }
        }
        (alarms(&fleet.integrity))
        (integrity(&fleet.integrity))
        (deliveries(fleet))
        (never_seen(runs))
        (unattributed(fleet))
        (conditions(fleet))
        section {
            h2 { "Hosts" }
            div.scroll { table {
                thead { tr {
                    th scope="col" { "Host" } th scope="col" { "Agent" } th scope="col" { "Accelerators" }
                    th scope="col" { "Tier" } th.n scope="col" { "Seen" } th.wide scope="col" { "Coverage" }
                } }
                tbody {
                    @for (name, host) in hosts(fleet) { (host_row(name, &host)) }
                }
            } }
        }
    }
}

/// Two histories under one identity, and what cannot be.
fn alarms(integrity: &Integrity) -> Markup {
    const NEWEST: usize = 50;
    if integrity.alarms.is_empty() {
        return html! {};
    }
    html! {
        section #alarms {
            h2 { "Alarms" }
            p {
                "Two histories under one identity are a cloned host, a snapshot that was restored, or somebody with the "
                "key: nothing of them is counted twice. Windows that cannot be as they say are a broken sensor, a wrong "
                "clock, or somebody's hand: they are certain of nothing, and possible up to the peak."
            }
            div.scroll { table {
                thead { tr {
                    th scope="col" { "Agent" } th scope="col" { "What" } th scope="col" { "Exactly" } th scope="col" { "Known" }
                } }
                tbody {
                    @for one in integrity.alarms.iter().take(NEWEST) {
                        tr {
                            th scope="row" { (one.alarm.agent) }
                            td { (one.means) small.note { (one.alarm.kind.as_str()) } }
                            td { (one.alarm.detail) }
                            td { "since " (when(one.alarm.raised_at)) }
                        }
                    }
                }
            } }
            @if integrity.alarms.len() > NEWEST {
                p { a href="/api/v1/integrity" { "All " (grouped(integrity.alarms.len() as u64)) " as JSON" } }
            }
        }
    }
}

/// Agents of whose batches some are missing or lost.
fn deliveries(fleet: &Fleet) -> Markup {
    const MOST: usize = 50;
    let holed: Vec<_> = fleet.agents.iter().filter(|agent| !agent.delivery.is_whole()).collect();
    if holed.is_empty() {
        return html! {};
    }
    html! {
        section #deliveries {
            h2 { "Batches that are not here" }
            p {
                "Missing ones were made and are asked for. Lost ones will not come: their agent says so, signed. What "
                "they held is a gap, and a gap counts."
            }
            div.scroll { table {
                thead { tr {
                    th scope="col" { "Agent" } th.n scope="col" { "Here" } th.n scope="col" { "Missing" }
                    th.n scope="col" { "Unreadable" } th.n scope="col" { "Refused" } th.n scope="col" { "No longer held" }
                } }
                tbody {
                    @for agent in holed.iter().take(MOST) {
                        @let lost = &agent.delivery.lost;
                        tr {
                            th scope="row" { a href=(format!("/host?name={}", encoded(&agent.host))) { (agent.id) } }
                            td.n { (grouped(agent.delivery.batches)) }
                            td.n { (grouped(agent.delivery.missing)) }
                            td.n { (grouped(lost.damaged)) } td.n { (grouped(lost.parked)) } td.n { (grouped(lost.removed)) }
                        }
                    }
                }
            } }
            @if holed.len() > MOST { p { a href="/api/v1/fleet" { "All " (grouped(holed.len() as u64)) " as JSON" } } }
        }
    }
}

/// Where two sources cannot both be right.
fn integrity(integrity: &Integrity) -> Markup {
    const NEWEST: usize = 50;
    if integrity.disagreements.is_empty() {
        return html! {};
    }
    html! {
        section #integrity {
            h2 { "Sources that disagree" }
            p {
                (counted(integrity.hours_last_day, "accelerator hour")) " of the last 24 h, "
                (grouped(integrity.hours_total as u64)) " in all. Two sources metered the same accelerator at the same "
                "time, and their bounds do not meet: a broken sensor, a wrong clock, or somebody's hand. The more "
                "trusted one counts; the other is a witness and adds nothing."
            }
            (disagreements(integrity.disagreements.iter().take(NEWEST)))
            @if integrity.disagreements.len() > NEWEST {
                p { a href="/api/v1/integrity" { "All " (grouped(integrity.disagreements.len() as u64)) " as JSON" } }
            }
        }
    }
}

fn disagreements<'a>(disagreements: impl Iterator<Item = &'a Disagreement>) -> Markup {
    html! {
        div.scroll { table {
            thead { tr {
                th scope="col" { "Accelerator" } th scope="col" { "Hour" } th scope="col" { "Counts" }
                th scope="col" { "Witness" } th.n scope="col" { "Compared" } th scope="col" { "Known" }
            } }
            tbody {
                @for one in disagreements {
                    tr {
                        th scope="row" { (accelerator_link(&one.accelerator)) }
                        td { (when(one.hour)) }
                        @if let Some(said) = one.said() {
                            td { (told(&said.counted)) }
                            td { (told(&said.witness)) }
                            td.n { (hours(said.compared_ms)) }
                        }
                        td {
                            @match one.raised_at { Some(at) => { "since " (when(at)) } None => { "not settled yet" } }
                            @if one.now.is_none() { " " span.tag.none { "no longer" } }
                        }
                    }
                }
            }
        } }
    }
}

/// Who said it, and its bound.
pub(super) fn told(told: &Told) -> Markup {
    html! { (told.by.agent) ", " (told.by.source) ": " (range(told.low_tera, told.high_tera)) }
}

pub(super) fn accelerator_link(id: &AcceleratorId) -> Markup {
    html! { a href=(format!("/accelerators/{}", encoded(id.as_str()))) { (id) } }
}

/// Why time has no holder, and what holders of time are nobody's.
fn unattributed(fleet: &Fleet) -> Markup {
    let (time, unmapped) = (&fleet.totals.time, fleet.totals.unmapped_ms);
    let there: Vec<&UnattributedJson> = fleet.unattributed.iter().filter(|one| one.time_ms > 0).collect();
    if there.is_empty() && unmapped == 0 {
        return html! {};
    }
    let whole: u64 = there.iter().map(|one| one.time_ms).sum();
    html! {
        section #unattributed {
            h2 { "Who held it could be known better" }
            @if there.is_empty() {
                p { "All that was used had a holder." }
            } @else {
                p {
                    strong { (percent(whole, time.wall_ms)) } " of all accelerator time is unattributed, " (hours(whole))
                    ": what was done in it is in no customer's total."
                }
            }
            div.scroll { table {
                thead { tr {
                    th.n scope="col" { "Time" } th.n scope="col" { "Share" } th scope="col" { "What it is" }
                    th scope="col" { "What to do" } th scope="col" { "Hosts" }
                } }
                tbody {
                    @for one in there {
                        tr {
                            td.n { (hours(one.time_ms)) }
                            td.n { (percent(one.time_ms, time.wall_ms)) }
                            th scope="row" { (one.words.means) small.note { (one.reason.as_str()) } }
                            td { (with_code(one.words.to_do)) "." }
                            td { (first_hosts(one.hosts.iter().map(|share| share.host.as_str()))) }
                        }
                    }
                    @if unmapped > 0 {
                        tr {
                            td.n { (hours(unmapped)) }
                            td.n { (percent(unmapped, time.wall_ms)) }
                            th scope="row" {
                                "attributed, to principals that belong to no customer: rules take them for not determined"
                                small.note { "unmapped" }
                            }
                            td { a href="/customers#unmapped" { "map them" } ": " code { "weighbridge-collector import principals principals.csv" } "." }
                            td { "–" }
                        }
                    }
                }
            } }
        }
    }
}

/// The reasons of one host or accelerator, below the strip that shows how much it is.
fn reasons(time: &TimeAccount) -> Markup {
    let there: Vec<_> = time.unattributed_ms.iter().filter(|(_, millis)| **millis > 0).collect();
    html! {
        @if !there.is_empty() {
            p { "Unattributed, because" }
            ul {
                @for (reason, millis) in there {
                    @let words = Words::from(*reason);
                    li {
                        strong { (percent(*millis, time.wall_ms)) } " " small { (hours(*millis)) } ": " (words.means)
                        ". To do: " (with_code(words.to_do)) "."
                    }
                }
            }
        }
    }
}

/// Words in which commands stand between backticks.
fn with_code(words: &str) -> Markup {
    html! { @for (index, part) in words.split('`').enumerate() { @if index % 2 == 1 { code { (part) } } @else { (part) } } }
}

/// What makes readings worse than they could be, over the fleet.
fn conditions(fleet: &Fleet) -> Markup {
    if fleet.totals.by_condition.is_empty() {
        return html! {};
    }
    html! {
        section #conditions {
            h2 { "What could be read better" }
            div.scroll { table {
                thead { tr {
                    th.n scope="col" { "Accelerators" } th scope="col" { "What it is" } th scope="col" { "What to do" } th scope="col" { "Hosts" }
                } }
                tbody {
                    @for (condition, count) in &fleet.totals.by_condition {
                        @let words = ConditionJson::from(*condition);
                        tr {
                            td.n { (grouped(*count as u64)) }
                            th scope="row" { (words.means) small.note { (condition) } }
                            td { (words.to_do) }
                            td { (hosts_of(fleet, *condition)) }
                        }
                    }
                }
            } }
        }
    }
}

fn hosts_of(fleet: &Fleet, condition: Condition) -> Markup {
    let there = fleet.accelerators.iter().filter(|one| one.removed_at.is_none());
    let of = there.filter(|one| one.conditions.iter().any(|words| words.condition == condition));
    let hosts: BTreeSet<&str> = of.map(|one| one.host.as_str()).collect();
    first_hosts(hosts.into_iter())
}

fn first_hosts<'a>(mut hosts: impl ExactSizeIterator<Item = &'a str>) -> Markup {
    const MOST: usize = 5;
    html! {
        @for host in hosts.by_ref().take(MOST) { a href=(format!("/host?name={}", encoded(host))) { @if host.is_empty() { "not known" } @else { (host) } } " " }
        @if hosts.len() > 0 { "and " (hosts.len()) " more" }
    }
}

/// What to do when nothing is there yet.
pub(super) fn no_agents() -> Markup {
    html! {
        p.empty {
            "No agents yet. Enrol the hosts first: " code { "weighbridge-agent enroll" } " on each prints a row for "
            code { "agents.csv" } "; then " code { "weighbridge-collector import agents agents.csv" } "."
        }
    }
}

fn host_row(name: &str, host: &Host<'_>) -> Markup {
    let time = time(&host.accelerators);
    let mut models: BTreeMap<&str, usize> = BTreeMap::new();
    for accelerator in &host.accelerators {
        *models.entry(model(accelerator)).or_default() += 1;
    }
    let tiers: BTreeSet<&str> =
        host.accelerators.iter().filter_map(|a| a.tier.map(|tier| tier.as_str())).collect();
    html! {
        tr {
            th scope="row" { a href=(format!("/host?name={}", encoded(name))) { @if name.is_empty() { "not known" } @else { (name) } } }
            td { @for agent in &host.agents { (agent_state(agent)) " " } @if host.agents.is_empty() { span.tag.silent { "no agent" } } }
            td { @for (model, count) in models { (count) " × " (model) br; } @if host.accelerators.is_empty() { "none reported" } }
            td { (tiers.into_iter().collect::<Vec<_>>().join(", ")) }
            td.n { (percent(time.measured_ms + time.interpolated_ms, time.wall_ms)) }
            td.wide { @if time.wall_ms > 0 { (strip(&coverage_parts(&time))) } }
        }
    }
}

fn model(accelerator: &AcceleratorJson) -> &str {
    accelerator.model.as_deref().unwrap_or("not in the table")
}

fn time(accelerators: &[&AcceleratorJson]) -> TimeAccount {
    let mut time = TimeAccount::default();
    accelerators.iter().for_each(|accelerator| time.merge(&accelerator.time));
    time
}

/// Whether an agent reports, in a word.
pub(super) fn agent_state(agent: &AgentJson) -> Markup {
    let ago = agent.silent_for_ms.map(|millis| duration(millis.unsigned_abs()));
    let title = format!("agent {}", agent.id);
    html! {
        @if !agent.enrolled {
            span.tag.none title=(title) { "key not valid now" }
        } @else if agent.is_silent() {
            span.tag.silent title=(title) {
                @match ago { Some(ago) => { "silent for " (ago) } None => { "never sent" } }
            }
        } @else if agent.is_troubled() {
            span.tag.gap title=(title) { (agent.source_state.as_deref().unwrap_or_default().replace('_', " ")) }
        } @else {
            span.tag.measured title=(title) { "reports" } @if let Some(ago) = ago { " " small { (ago) " ago" } }
        }
    }
}

/// What was leased and no agent ever showed.
pub(super) fn never_seen(runs: &[AttemptJson]) -> Markup {
    let missing: Vec<&AttemptJson> = runs.iter().filter(|run| run.never_seen > 0).collect();
    if missing.is_empty() {
        return html! {};
    }
    html! {
        section {
            h2 { "Leased and never reported" }
            p { "No agent has ever shown these accelerators. They count as gaps, at their peak in the high bound." }
            div.scroll { table {
                thead { tr {
                    th scope="col" { "Lease" } th scope="col" { "Principal" } th.n scope="col" { "Now" } th.n scope="col" { "Time so far" }
                } }
                tbody {
                    @for run in missing {
                        tr {
                            th scope="row" { a href=(format!("/runs/{}", encoded(run.attempt.as_str()))) { (run.attempt) } }
                            td { (run.principal) }
                            td.n { (grouped(run.never_seen)) }
                            td.n { (hours(run.total.never_seen_ms)) }
                        }
                    }
                }
            } }
        }
    }
}

/// One host; `None` if nobody ever spoke of it.
pub(super) fn host(fleet: &Fleet, name: &str) -> Option<Markup> {
    let hosts = hosts(fleet);
    let host = hosts.get(name)?;
    let time = time(&host.accelerators);
    let coverage = coverage_parts(&time);
    let held = held_parts(&time);
    Some(html! {
        section {
            h2 { "Agents" }
            @if host.agents.is_empty() { p.empty { "No agent is enrolled for this host." } } @else {
                div.scroll { table {
                    thead { tr {
                        th scope="col" { "Agent" } th scope="col" { "State" } th scope="col" { "Source" }
                        th scope="col" { "Last batch" } th scope="col" { "Last said" } th.n scope="col" { "Batches held back" }
                        th scope="col" { "Version" } th scope="col" { "Site, fabric" }
                    } }
                    tbody {
                        @for agent in &host.agents {
                            tr {
                                th scope="row" { (agent.id) }
                                td { (agent_state(agent)) }
                                td { (agent.source_state.as_deref().unwrap_or("–")) }
                                td { @match agent.last_received { Some(at) => { (when(at)) } None => { "never" } } }
                                td { @match &agent.last_said {
                                    Some(said) => { (when(said.received)) small.note { (said.source_state) ", " (said.version) ", " (grouped(said.unacknowledged)) " batches waiting" } }
                                    None => { "–" }
                                } }
                                td.n { @match agent.unacknowledged { Some(count) => { (count) } None => { "–" } } }
                                td { (agent.version.as_deref().unwrap_or("–")) }
                                td { (agent.site) ", " (agent.fabric) }
                            }
                        }
                    }
                } }
            }
        }
        @if time.wall_ms > 0 {
            section {
                h2 { "Accelerator time" }
                h3 { "How much was seen" }
                (strip(&coverage)) (legend(&coverage))
                h3 { "Who held it" }
                (strip(&held)) (legend(&held)) (reasons(&time))
            }
        }
        section {
            h2 { "Accelerators" }
            @if host.accelerators.is_empty() {
                p.empty { "None reported. Run " code { "weighbridge-agent doctor" } " on the host: it says what it finds." }
            } @else {
                div.scroll { table {
                    thead { tr {
                        th scope="col" { "Accelerator" } th scope="col" { "Model" } th scope="col" { "Readings" }
                        th.n scope="col" { "Seen" } th.wide scope="col" { "Coverage" } th.n scope="col" { "Measured, best" }
                    } }
                    tbody {
                        @for accelerator in &host.accelerators {
                            tr {
                                th scope="row" { (accelerator_link(&accelerator.id)) }
                                td {
                                    (model(accelerator)) (part_of(accelerator))
                                    @if accelerator.removed_at.is_some() { " " span.tag.none { (away(accelerator)) } }
                                    @if !accelerator.observed { " " span.tag.gap { "not observed" } }
                                }
                                td {
                                    (readings(accelerator))
                                    @for words in &accelerator.conditions { small.note { (words.means) } }
                                }
                                td.n { (percent(accelerator.time.measured_ms + accelerator.time.interpolated_ms, accelerator.time.wall_ms)) }
                                td.wide { (strip(&coverage_parts(&accelerator.time))) }
                                td.n { (ops(accelerator.measured.best_tera)) }
                            }
                        }
                    }
                } }
            }
        }
    })
}

/// How it is read, in a line.
fn readings(accelerator: &AcceleratorJson) -> Markup {
    html! {
        "tier " (accelerator.tier.map_or("not known", |tier| tier.as_str()))
        ", source " (accelerator.source.map_or("not known", |source| source.as_str()))
        ", trust " (accelerator.trust.map_or("not known", |trust| trust.as_str()))
        @if let Some(millis) = accelerator.sample_ms { ", every " (duration(u64::from(millis))) }
    }
}

fn part_of(accelerator: &AcceleratorJson) -> Markup {
    html! {
        @if let Some(parent) = &accelerator.parent {
            small.note {
                @if let Some(units) = accelerator.units { (grouped(u64::from(units))) " units, " }
                "part of " (accelerator_link(parent))
            }
        }
    }
}

/// Why it is not there, in a word.
fn away(accelerator: &AcceleratorJson) -> &'static str {
    let split = accelerator.conditions.iter().any(|words| words.condition == Condition::Split);
    if split { "split into parts" } else { "taken out" }
}

pub(super) fn accelerator(accelerator: &AcceleratorJson, integrity: &Integrity) -> Markup {
    let coverage = coverage_parts(&accelerator.time);
    let held = held_parts(&accelerator.time);
    let measured = &accelerator.measured;
    let id = encoded(accelerator.id.as_str());
    let from = encoded(&accelerator.last_end.plus(-1).hour().to_string());
    let to =
        encoded(&accelerator.last_end.plus(-1).hour().plus(weighbridge_meter::UtcMillis::HOUR).to_string());
    html! {
        section {
            h2 { "What it is" }
            dl {
                dt { "Host" } dd { a href=(format!("/host?name={}", encoded(&accelerator.host))) { @if accelerator.host.is_empty() { "not known" } @else { (accelerator.host) } } }
                dt { "Model" } dd {
                    @match &accelerator.model {
                        Some(model) => { (model) }
                        None => { "not in the table, so its peak is taken for that of the fastest model in it" }
                    }
                    @if !accelerator.name.is_empty() { ", by its driver " q { (accelerator.name) } }
                }
                @if accelerator.parent.is_some() { dt { "Part" } dd { (part_of(accelerator)) } }
                @if !accelerator.parts.is_empty() {
                    dt { "Its parts" } dd { @for part in &accelerator.parts { (accelerator_link(part)) " " } }
                }
                dt { "Readings" } dd { (readings(accelerator)) }
                @if !accelerator.driver.is_empty() { dt { "Driver" } dd { (accelerator.driver) } }
                dt { "Agents" } dd { @for agent in &accelerator.agents { (agent) " " } }
                dt { "First seen" } dd { (when(accelerator.first_seen)) }
                dt { "Last reported" } dd { (when(accelerator.last_end)) }
                @if !accelerator.absences.is_empty() {
                    dt { "Not there" } dd {
                        @for (from, to) in &accelerator.absences {
                            @match to { Some(to) => { (when(*from)) " to " (when(*to)) } None => { (away(accelerator)) " since " (when(*from)) } }
                            br;
                        }
                        small { "Time in which it was not there is no gap, and is not counted." }
                    }
                }
            }
        }
        @if !accelerator.conditions.is_empty() {
            section {
                h2 { "What could be read better" }
                ul { @for words in &accelerator.conditions { li { (words.means) ": " (words.to_do) "." } } }
            }
        }
        @let disagreeing: Vec<&Disagreement> = integrity.disagreements.iter().filter(|one| one.accelerator == accelerator.id).take(20).collect();
        @if !disagreeing.is_empty() {
            section {
                h2 { "Sources that disagree" }
                (disagreements(disagreeing.into_iter()))
            }
        }
        section {
            h2 { "Its time" }
            p { (hours(accelerator.time.wall_ms)) " since it was first seen." }
            h3 { "How much was seen" }
            (strip(&coverage)) (legend(&coverage))
            h3 { "Who held it" }
            (strip(&held)) (legend(&held)) (reasons(&accelerator.time))
        }
        section {
            h2 { "What it did, whoever held it" }
            @if accelerator.time.measured_ms + accelerator.time.interpolated_ms == 0 {
                p { "Nothing was measured, which is not idleness." }
            } @else if measured.high_tera == Operations::ZERO { p { "Nothing was measured but idleness." } } @else {
                dl {
                    dt { "Best" } dd { (ops(measured.best_tera)) }
                    dt { "Bound" } dd { (range(measured.low_tera, measured.high_tera)) }
                    dt { "Calibrated, 5–95 %" } dd { (range(measured.calibrated_low_tera, measured.calibrated_high_tera)) }
                }
            }
            p {
                "Every number goes back to windows in the ledger: "
                a href=(format!("/api/v1/windows?accelerator={id}&from={from}&to={to}")) { "windows of its last hour" }
                ", " a href=(format!("/api/v1/usage?accelerator={id}")) { "sums of every hour" } "."
            }
        }
    }
}
