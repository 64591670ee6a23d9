//! Rule packs with what each instrument truly is today.

use maud::{Markup, html};
use weighbridge_casework::{
    Rule, Scope,
    pack::{Condition, Status, StatusEntry},
};

use super::show::counted;
use crate::api::packs::{PackJson, Packs};

pub(super) fn page(packs: &Packs) -> Markup {
    let used = packs.packs.iter().filter(|pack| pack.evaluated).count();
    html! {
        p {
            "A pack says when somebody meets the criteria of an instrument. It does not say that anybody has to report: "
            "most of these bind nobody here, and that is for a person to decide. Totals are compared with "
            (used) " of " (counted(packs.packs.len(), "pack")) "; change that with " code { "rules.enable" } " and "
            code { "rules.disable" } " in the configuration."
        }
        @if packs.packs.is_empty() { p.empty { "No packs are loaded." } }
        @let (compared, others): (Vec<&PackJson>, Vec<&PackJson>) = packs.packs.iter().partition(|pack| pack.evaluated);
        @for pack in compared.into_iter().chain(others) { (one(pack)) }
    }
}

fn one(pack: &PackJson) -> Markup {
    html! {
        section.pack id=(pack.id) {
            h2 { (pack.title) }
            p {
                (status(pack.status.as_ref())) " "
                @if pack.evaluated { span.tag.measured { "totals are compared with it" } } @else { span.tag.none { "not compared" } }
            }
            dl {
                @if let Some(entry) = &pack.status {
                    dt { "Status" } dd {
                        (entry.value.as_str()) " since " (entry.from) "; " (entry.source) " (" (entry.confidence.as_str()) ")"
                        @if let Some(note) = &entry.note { br; small { (note) } }
                    }
                }
                dt { "Checked" } dd { "against sources up to " (pack.checked) }
                dt { "Instrument" } dd { (pack.citation) }
                dt { "Default" } dd { (pack.evaluate_reason) }
                dt { "Looks at" } dd { (pack.applies_to.note) }
                @if !pack.clocks.is_empty() {
                    dt { "Clocks" } dd {
                        ul.plain { @for clock in &pack.clocks {
                            li { (clock.label) ": " (counted(usize::from(clock.days), "day")) ", " (clock.time_zone.name()) " (" (clock.confidence.as_str()) ")" }
                        } }
                    }
                }
            }
            div.scroll { table {
                thead { tr {
                    th scope="col" { "Meets the criteria of" } th scope="col" { "When" } th scope="col" { "Totals of" } th scope="col" { "Addressed to" } th scope="col" { "Opens a case when" }
                } }
                tbody { @for rule in &pack.rules { (rule_row(rule)) } }
            } }
            details {
                summary { "History, version and hash" }
                ol.history { @for entry in &pack.history { li { (entry.from) " " strong { (entry.value.as_str()) } " " (entry.source) " (" (entry.confidence.as_str()) ")" } } }
                p { code { (pack.id) "@" (pack.version) } " sha256 " code.hash { (pack.sha256) } }
            }
        }
    }
}

fn status(entry: Option<&StatusEntry>) -> Markup {
    let class = match entry.map(|entry| entry.value) {
        Some(Status::InForce | Status::Contract) => "certain",
        Some(Status::Enacted | Status::Unenforced | Status::Guidance) => "likely",
        Some(Status::Proposed) => "possible",
        Some(Status::Withdrawn | Status::Revoked) | None => "none",
    };
    html! { span class={ "tag " (class) } { (entry.map_or("no status yet", |entry| entry.value.as_str())) } }
}

fn rule_row(rule: &Rule) -> Markup {
    let mut opens: Vec<&str> = rule.opens_case.iter().map(|certainty| certainty.as_str()).collect();
    if rule.projection.as_ref().is_some_and(|projection| projection.opens_case) {
        opens.push("projected");
    }
    if rule.reservations.as_ref().is_some_and(|reservations| reservations.opens_case) {
        opens.push("could_result");
    }
    html! {
        tr {
            th scope="row" { (rule.title) small.note { (rule.citation) " (" (rule.confidence.as_str()) ")" } }
            td {
                ul.plain { @for condition in &rule.condition { li { (condition_words(condition)) } } }
                @if rule.line_is_operators() { small.note { "a default of the operator that is not in the text" } }
                @if let Some(projection) = &rule.projection { small.note { "looks ahead at most " (counted(usize::from(projection.cap_days), "day")) } }
                @if let Some(reservations) = &rule.reservations { small.note { "looks at reservations " (reservations.end.in_words()) } }
                @if let Some(note) = &rule.note { small.note { (note) } }
            }
            td { (rule.scope.iter().map(|scope| scope_words(*scope)).collect::<Vec<_>>().join(", ")) }
            td { (rule.duty_on) }
            td { @if opens.is_empty() { "never" } @else { (opens.join(", ")) } }
        }
    }
}

fn condition_words(condition: &Condition) -> Markup {
    html! {
        @match condition {
            Condition::Operations { comparator, threshold, .. } => { (comparator) " " strong { (threshold) } " operations" },
            Condition::Declared { what, .. } => { "declared: " (what.in_words()) },
            Condition::Cluster { peak_comparator, peak, network_comparator, network_gbit, .. } => {
                "co-located machines of " (peak_comparator) " " (peak) " operations per second, joined by "
                (network_comparator) " " (network_gbit) " Gbit/s"
            },
        }
    }
}

fn scope_words(scope: Scope) -> &'static str {
    match scope {
        Scope::Run => "a run",
        Scope::Customer => "a customer",
        Scope::ControlGroup => "a control group",
        Scope::Principal => "an unmapped principal",
    }
}
