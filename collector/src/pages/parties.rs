//! How a party stands, who stands behind it, and why customers are one group. Numbers of the operator's books only.

use maud::{Markup, html};
use weighbridge_registry::{
    CustomerKind, InterestKind, UsPerson,
    group::Because,
    party::{Remedy, Risk, Verified},
};

use super::show::{encoded, when};
use crate::api::parties::{Behind, GroupJson, PartyJson};

/// What belongs into the list under *Who*.
pub(super) fn standing(party: &PartyJson, sells_to: &[String]) -> Markup {
    let standing = &party.standing;
    html! {
        dt { "Verified" } dd {
            (verified(standing.verified))
            @if standing.open_discrepancies > 0 { " " span.tag.possible { (standing.open_discrepancies) " discrepancies open" } }
        }
        @if standing.remedy != Remedy::None { dt { "Account" } dd { span.tag.possible { (remedy(standing.remedy)) } } }
        @if standing.risk == Risk::Enhanced { dt { "Risk" } dd { "enhanced due diligence" } }
        @if let Some(reseller) = &standing.reseller { dt { "Customer of" } dd { (link(reseller.as_str())) } }
        @if !sells_to.is_empty() { dt { "Sells to" } dd { @for customer in sells_to { (link(customer)) " " } } }
        @if let Some(opened) = standing.opened { dt { "Opened" } dd { (when(opened)) } }
        @if let Some(closed) = standing.closed { dt { "Closed" } dd { (when(closed)) } }
        @if let Some(last) = standing.last_access { dt { "Last used" } dd { (when(last)) } }
        @if let Some(hold) = &party.hold { dt { "Held" } dd { "since " (when(hold.at)) " by " (hold.actor) } }
        @if let Some(erasure) = &party.erasure {
            dt { "Identity" } dd {
                span.tag.gap { "erased" } " by decision of " (erasure.actor) ", " (when(erasure.decided))
                @for mirror in &erasure.still_in {
                    br; span.tag.possible { "its key may still be in " (mirror.to) } ", a copy of the key store of " (when(mirror.began)) ": bring it up to date"
                }
                @if erasure.destroyed.is_none() { " " span.tag.certain { "the key is not destroyed yet" } }
            }
        }
    }
}

fn verified(verified: Verified) -> Markup {
    match verified {
        Verified::Verified => html! { span.tag.measured { "verified" } },
        Verified::Unverified => html! { span.tag.gap { "not verified" } },
        Verified::InProgress => html! { span.tag.gap { "in progress" } },
        Verified::Failed => html! { span.tag.certain { "failed" } },
    }
}

fn remedy(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::None => "no restriction",
        Remedy::NotOpened => "not opened",
        Remedy::Restricted => "restricted",
        Remedy::Monitored => "monitored more closely",
        Remedy::Closed => "closed",
        Remedy::Redress => "being heard",
    }
}

fn link(party: &str) -> Markup {
    html! { a href=(format!("/customers/{}", encoded(party))) { (party) } }
}

fn kind(kind: InterestKind) -> &'static str {
    match kind {
        InterestKind::Shareholding => "shares",
        InterestKind::VotingRights => "votes",
        InterestKind::AppointsBoard => "names the board",
        InterestKind::Manages => "manages",
        InterestKind::OtherControl => "controls otherwise",
    }
}

fn percent((least, most): &(String, String)) -> String {
    if least == most { format!("{least} %") } else { format!("{least} to {most} %") }
}

/// Who stands behind a party that is no person.
pub(super) fn behind(party: &PartyJson, behind: &Behind) -> Markup {
    let told = !behind.interests.is_empty();
    html! {
        @if told || party.kind != CustomerKind::Person {
            section #behind {
                h2 { "Who stands behind it" }
                @if behind.owners.is_empty() && behind.control.is_empty() && behind.possible_control.is_empty() {
                    p.empty {
                        "Nobody has said. Record what others hold of it with " code { "POST /api/v1/interests" } "."
                    }
                } @else {
                    div.scroll { table {
                        thead { tr {
                            th scope="col" { "Party" } th scope="col" { "Kind" } th.n scope="col" { "Holds in the end" }
                            th scope="col" { "Beneficial owner" } th scope="col" { "Standing" }
                        } }
                        tbody {
                            @for owner in &behind.owners {
                                tr {
                                    th scope="row" { (link(owner.party.as_str())) }
                                    td { (owner.kind.map_or("not known", CustomerKind::as_str)) }
                                    td.n { (percent(&owner.share)) }
                                    td { @match owner.beneficial {
                                        "yes" => span.tag.certain { "yes" }, "possible" => span.tag.possible { "possible" }, "no" => "no", _ => "no rule in use says",
                                    } @if behind.control.contains(&owner.party) { " controls it" } }
                                    td { (owner.us_person.map_or("not determined", person)) }
                                }
                            }
                            @for party in behind.control.iter().filter(|party| behind.owners.iter().all(|owner| owner.party != **party)) {
                                tr {
                                    th scope="row" { (link(party.as_str())) }
                                    td {} td.n { "–" } td { span.tag.certain { "controls it" } } td {}
                                }
                            }
                            @for party in &behind.possible_control {
                                tr {
                                    th scope="row" { (link(party.as_str())) }
                                    td {} td.n { "–" } td { span.tag.possible { "may control it" } } td {}
                                }
                            }
                        }
                    } }
                }
                @if party.kind != CustomerKind::Person {
                    p {
                        "Not told of: " (percent(&behind.unknown))
                        @if behind.nobody_named { " " span.tag.possible { "nobody was named who holds enough of it or controls it" } }
                        @if behind.unknown_reaches_line { " " span.tag.possible { "enough for a beneficial owner whom nobody named" } }
                        @if behind.closed_circle { " " span.tag.possible { "held in a circle without anybody outside" } }
                        @if behind.overheld { " " span.tag.possible { "more was told to be held than there is" } }
                    }
                }
                @for measure in &behind.measures {
                    p { span.tag.certain { (measure.effect) } " special measure " code { (measure.id) } " on "
                        (link(measure.person.as_str())) ", " (measure.citation) }
                }
                @match behind.held_by_measured {
                    "yes" => p { span.tag.certain { "held by persons under a measure" } " by what they hold together" },
                    "possible" => p { span.tag.possible { "possibly held by persons under a measure" } " by what they hold together" },
                    _ => {}
                }
                @if told {
                    p { "Told: "
                        @for interest in &behind.interests {
                            (link(interest.owner.as_str())) " → " (link(interest.asset.as_str())) " " (kind(interest.kind))
                            @if let Some(share) = interest.share { " " (percent(&(share.least().to_string(), share.most().to_string()))) }
                            @if interest.substantial_control { " with substantial control" }
                            "; "
                        }
                    }
                }
            }
        }
    }
}

fn person(status: UsPerson) -> &'static str {
    match status {
        UsPerson::Us => "U.S. person",
        UsPerson::Foreign => "foreign person",
        UsPerson::Undetermined => "not determined",
    }
}

/// Why customers are one group.
pub(super) fn group(group: &GroupJson) -> Markup {
    html! {
        section {
            h2 { "Why they are one" }
            ul.plain {
                @for because in &group.group.because {
                    li { @match because {
                        Because::Told { group } => { "their file names " code { (group) } },
                        Because::Interest { owner, asset, kind: of, only_possible } => {
                            (link(owner.as_str())) " → " (link(asset.as_str())) ": " (kind(*of))
                            @if *only_possible { " " span.tag.possible { "possible: how much was not told, or not exactly" } }
                        },
                        Because::Confirmed { one, other, by } => {
                            (link(one.as_str())) " and " (link(other.as_str())) ": confirmed by " (by)
                        },
                    } }
                }
            }
        }
    }
}
