//! Hosts and accelerators: what is there, how much of its time was seen, who is silent.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};
use weighbridge_meter::Operations;
use weighbridge_store::account::TimeAccount;

use super::show::{
    counted, coverage_parts, duration, encoded, grouped, held_parts, hours, legend, ops, percent, range,
    strip, when,
};
use crate::api::{
    fleet::{AcceleratorJson, AgentJson, Fleet},
    subjects::AttemptJson,
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
        (never_seen(runs))
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
                        th scope="col" { "Last received" } th.n scope="col" { "Batches held back" }
                        th scope="col" { "Version" } th scope="col" { "Site, fabric" }
                    } }
                    tbody {
                        @for agent in &host.agents {
                            tr {
                                th scope="row" { (agent.id) }
                                td { (agent_state(agent)) }
                                td { (agent.source_state.as_deref().unwrap_or("–")) }
                                td { @match agent.last_received { Some(at) => { (when(at)) } None => { "never" } } }
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
                (strip(&held)) (legend(&held))
            }
        }
        section {
            h2 { "Accelerators" }
            @if host.accelerators.is_empty() {
                p.empty { "None reported. Run " code { "weighbridge-agent doctor" } " on the host: it says what it finds." }
            } @else {
                div.scroll { table {
                    thead { tr {
                        th scope="col" { "Accelerator" } th scope="col" { "Model" } th scope="col" { "Tier" }
                        th.n scope="col" { "Seen" } th.wide scope="col" { "Coverage" } th.n scope="col" { "Measured, best" }
                    } }
                    tbody {
                        @for accelerator in &host.accelerators {
                            tr {
                                th scope="row" { a href=(format!("/accelerators/{}", encoded(accelerator.id.as_str()))) { (accelerator.id) } }
                                td { (model(accelerator)) @if accelerator.removed_at.is_some() { " " span.tag.none { "taken out" } } }
                                td { (accelerator.tier.map_or("–", |tier| tier.as_str())) }
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

pub(super) fn accelerator(accelerator: &AcceleratorJson) -> Markup {
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
                dt { "Readings" } dd {
                    "source " (accelerator.source.map_or("not known", |source| source.as_str()))
                    ", tier " (accelerator.tier.map_or("not known", |tier| tier.as_str()))
                    ", trust " (accelerator.trust.map_or("not known", |trust| trust.as_str()))
                }
                dt { "Agents" } dd { @for agent in &accelerator.agents { (agent) " " } }
                dt { "First seen" } dd { (when(accelerator.first_seen)) }
                dt { "Last reported" } dd { (when(accelerator.last_end)) }
                @if let Some(at) = accelerator.removed_at { dt { "Taken out" } dd { (when(at)) } }
            }
        }
        section {
            h2 { "Its time" }
            p { (hours(accelerator.time.wall_ms)) " since it was first seen." }
            h3 { "How much was seen" }
            (strip(&coverage)) (legend(&coverage))
            h3 { "Who held it" }
            (strip(&held)) (legend(&held))
        }
        section {
            h2 { "What it did, whoever held it" }
            @if measured.high_tera == Operations::ZERO { p { "Nothing was measured but idleness." } } @else {
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
