//! Which customers are one control group, and why: by ownership and control, because a file says so, or because a
//! person confirmed a sign that proposed it.
//!
//! [`Groups::of`] is pure and made anew whenever something changes. A group is listed where at least two parties with
//! an account are in it. It is named after the smallest name that a file gave one of its members, else `@` and the
//! smallest number among its customers. A name that went into another group with its members goes on to mean that
//! group: whoever asks for it gets the whole, for splitting must never hide what is used.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;

use crate::{
    SealedCustomer,
    interest::{Behind, Interest, graph},
    party::PartyId,
};

/// What a person decided about a sign that two parties belong together. The last decision about two of them counts,
/// so each can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// One of them.
    pub one: PartyId,
    /// The other.
    pub other: PartyId,
    /// What was decided.
    pub decision: Decision,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: UtcMillis,
}

/// What can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// They are one group.
    Confirmed,
    /// The sign shows nothing. What ownership shows stays.
    Rejected,
    /// What was decided is taken back; a sign proposes it again.
    Undone,
}

impl Link {
    /// Of those with one key the last counts. Who was named first says nothing.
    pub fn key(&self) -> String {
        let (first, second) = ordered(&self.one, &self.other);
        format!("{first} {second}")
    }
}

fn ordered<'a>(one: &'a PartyId, other: &'a PartyId) -> (&'a PartyId, &'a PartyId) {
    if one <= other { (one, other) } else { (other, one) }
}

/// Why parties are in one group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "sign")]
pub enum Because {
    /// Their file names the same group.
    Told {
        /// Its name there.
        group: String,
    },
    /// One has an interest in the other, alone or with others of the group.
    Interest {
        /// Who has it.
        owner: PartyId,
        /// In whom.
        asset: PartyId,
        /// In what it lies.
        kind: crate::InterestKind,
        /// It makes them one only if it is as much as it can be: how much it is was not told, or not exactly.
        #[serde(skip_serializing_if = "is_certain")]
        only_possible: bool,
    },
    /// A person confirmed it.
    Confirmed {
        /// One of them.
        one: PartyId,
        /// The other.
        other: PartyId,
        /// Who.
        by: String,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_certain(only_possible: &bool) -> bool {
    !only_possible
}

/// One control group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its customers: members with an account.
    pub customers: BTreeSet<PartyId>,
    /// All members, with those who only stand behind them.
    pub members: BTreeSet<PartyId>,
    /// Why they are one.
    pub because: BTreeSet<Because>,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    groups: BTreeMap<String, Group>,
    /// Other names of groups.
    also: BTreeMap<String, String>,
    of: BTreeMap<PartyId, String>,
}

impl Groups {
    /// As of `moment`.
    pub fn of(
        parties: &BTreeMap<String, SealedCustomer>,
        interests: &BTreeMap<String, Interest>,
        links: &BTreeMap<String, Link>,
        moment: UtcMillis,
    ) -> (Self, Behind) {
        let kinds = parties.values().map(|party| (party.customer.clone(), party.kind)).collect();
        let behind = graph(interests.values(), &kinds, moment);
        let mut told: BTreeMap<&str, Vec<&PartyId>> = BTreeMap::new();
        for party in parties.values() {
            if let Some(group) = &party.control_group {
                told.entry(group.as_str()).or_default().push(&party.customer);
            }
        }
        let confirmed = || links.values().filter(|link| link.decision == Decision::Confirmed);
        let place = |party: &PartyId| behind.place(party);
        let mut joined = Vec::new();
        for members in told.values() {
            let places = members.iter().filter_map(|party| place(party));
            let places: Vec<usize> = places.collect();
            joined.extend(places.windows(2).map(|two| (two[0], two[1])));
        }
        joined.extend(confirmed().filter_map(|link| Some((place(&link.one)?, place(&link.other)?))));
        let with = |controls: &[(usize, usize)]| [controls, &joined].concat();
        let certain = behind.ownership.certain_control_groups(&with(&behind.certain_controls));
        let certain_of: BTreeMap<usize, usize> = certain
            .iter()
            .enumerate()
            .flat_map(|(group, places)| places.iter().map(move |place| (*place, group)))
            .collect();
        let certain_of = |party: &PartyId| certain_of.get(&place(party)?);
        let joined = with(&behind.controls);

        let mut groups = Self::default();
        let name_of = |party: &PartyId| {
            parties
                .get(party.as_str())
                .and_then(|party| party.control_group.as_ref())
                .map(ToString::to_string)
        };
        for places in behind.ownership.control_groups(&joined) {
            let members: BTreeSet<PartyId> =
                places.iter().filter_map(|place| behind.parties.get(*place)).cloned().collect();
            let has_account = |party: &&PartyId| {
                parties.get(party.as_str()).is_some_and(|party| !party.standing.no_account)
            };
            let customers: BTreeSet<PartyId> = members.iter().filter(has_account).cloned().collect();
            let Some(first) = customers.first().filter(|_| customers.len() > 1) else { continue };
            let mut names: BTreeSet<String> = members.iter().filter_map(name_of).collect();
            let mut name = names.pop_first().unwrap_or_else(|| format!("@{first}"));
            while groups.groups.contains_key(&name) {
                // A file named its group like one that was worked out: neither is lost by it.
                name.push('+');
            }
            // What it is called if it loses its name, or was called before it had one.
            names.extend(customers.iter().map(|customer| format!("@{customer}")));
            groups.also.extend(names.into_iter().map(|other| (other, name.clone())));
            groups.of.extend(members.iter().map(|member| (member.clone(), name.clone())));
            groups.groups.insert(name, Group { customers, members, because: BTreeSet::new() });
        }
        for (group, members) in told {
            let because = Because::Told { group: group.to_owned() };
            groups.say(members.first().copied(), members.get(1).copied(), because);
        }
        for interest in interests.values().filter(|interest| interest.holds_at(moment)) {
            let Interest { owner, asset, kind, .. } = interest.clone();
            // What does not decide by itself may do so with what others of the group hold.
            if interest.is_control() || kind == crate::InterestKind::Shareholding {
                let (certain, other) = (certain_of(&owner), certain_of(&asset));
                let only_possible = certain.is_none() || certain != other;
                let because = Because::Interest { owner, asset, kind, only_possible };
                groups.say(Some(&interest.owner), Some(&interest.asset), because);
            }
        }
        for link in confirmed() {
            let Link { one, other, by, .. } = link.clone();
            groups.say(Some(&link.one), Some(&link.other), Because::Confirmed { one, other, by });
        }
        (groups, behind)
    }

    fn say(&mut self, one: Option<&PartyId>, other: Option<&PartyId>, because: Because) {
        let (Some(one), Some(other)) = (one, other) else { return };
        let Some(name) = self.of.get(one).filter(|name| self.of.get(other) == Some(name)) else { return };
        if let Some(group) = self.groups.get_mut(name) {
            group.because.insert(because);
        }
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(name, group)| (name.as_str(), group))
    }

    /// The group that a name means.
    pub fn get(&self, name: &str) -> Option<(&str, &Group)> {
        let other = || self.groups.get_key_value(self.also.get(name)?);
        self.groups.get_key_value(name).or_else(other).map(|(name, group)| (name.as_str(), group))
    }

    /// The group of a party, if it is in one.
    pub fn group_of(&self, party: &PartyId) -> Option<&str> {
        self.of.get(party).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::{CustomerKind, InterestKind, Standing, UsPerson, ownership::Stake};

    /// Parties as `a b:G c-`: with the group that their file names, or without an account; interests as `a>b:60`, or
    /// `a>b:?` where the share is not told, or `a>b:?votes`; confirmed links as `a=b`, rejected ones as `a!b`.
    fn check(parties: &str, statements: &str, expected: Expect) {
        let parties: BTreeMap<String, SealedCustomer> = parties
            .split_whitespace()
            .map(|text| {
                let (id, group) = text.split_once(':').map_or((text, None), |(id, group)| (id, Some(group)));
                let bare = id.trim_end_matches('-');
                let party = SealedCustomer {
                    customer: bare.parse().unwrap(),
                    kind: CustomerKind::Entity,
                    us_person: UsPerson::Undetermined,
                    control_group: group.map(|group| group.parse().unwrap()),
                    fields: BTreeMap::new(),
                    party: None,
                    known: BTreeSet::new(),
                    standing: Standing { no_account: id != bare, ..Standing::default() },
                };
                (bare.to_owned(), party)
            })
            .collect();
        let (mut interests, mut links) = (BTreeMap::new(), BTreeMap::new());
        for text in statements.split_whitespace() {
            if let Some((owner, rest)) = text.split_once('>') {
                let (asset, share) = rest.split_once(':').unwrap();
                let interest = Interest {
                    owner: owner.parse().unwrap(),
                    asset: asset.parse().unwrap(),
                    kind: if share == "?votes" {
                        InterestKind::VotingRights
                    } else {
                        InterestKind::Shareholding
                    },
                    share: (!share.starts_with('?')).then(|| Stake::exact(share.parse().unwrap())),
                    substantial_control: false,
                    from: None,
                    to: None,
                };
                interests.insert(interest.key(), interest);
            } else {
                let decision = if text.contains('=') { Decision::Confirmed } else { Decision::Rejected };
                let (one, other) = text.split_once(['=', '!']).unwrap();
                let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
                let (by, reason, at) = ("officer".into(), "same card".into(), UtcMillis(0));
                let link = Link { one, other, decision, by, reason, at };
                links.insert(link.key(), link);
            }
        }
        let (groups, _) = Groups::of(&parties, &interests, &links, UtcMillis(0));
        let shown = groups.iter().map(|(name, group)| {
            let list = |parties: &BTreeSet<PartyId>| {
                parties.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            };
            let because: Vec<String> = group
                .because
                .iter()
                .map(|because| match because {
                    Because::Told { group } => format!("told {group}"),
                    Because::Interest { owner, asset, only_possible: false, .. } => {
                        format!("{owner}>{asset}")
                    }
                    Because::Interest { owner, asset, .. } => format!("perhaps {owner}>{asset}"),
                    Because::Confirmed { one, other, .. } => format!("{one}={other}"),
                })
                .collect();
            format!("{name}: {} of {}; {}", list(&group.customers), list(&group.members), because.join(", "))
        });
        let mut shown: Vec<String> = shown.collect();
        let told = groups.also.iter().filter(|(name, _)| !name.starts_with('@'));
        shown.extend(told.map(|(name, group)| format!("{name} is {group}")));
        expected.assert_eq(&shown.join("\n"));
    }

    #[test]
    fn customers_of_one_owner_are_a_group_and_the_owner_is_a_member_without_an_account() {
        check("a b owner-", "owner>a:60 owner>b:51", expect!["@a: a b of a b owner; owner>a, owner>b"]);
        check("a b owner-", "owner>a:50 owner>b:51", expect![""]);
    }

    #[test]
    fn what_a_file_names_stays_the_name_and_another_name_goes_on_to_mean_the_whole() {
        check(
            "a:G2 b:G2 c:G1 d:G1 e",
            "a>c:60 d>e:80",
            expect![[r#"
                G1: a b c d e of a b c d e; told G1, told G2, a>c, d>e
                G2 is G1"#]],
        );
    }

    #[test]
    fn what_a_group_holds_together_counts_together() {
        check("a:G b:G c", "a>c:30 b>c:21", expect!["G: a b c of a b c; told G, a>c, b>c"]);
        check("a b c", "a>c:30 b>c:21", expect![""]);
    }

    #[test]
    fn what_joins_only_if_it_is_much_is_said_to_be_possible() {
        check(
            "a b fund-",
            "fund>a:? fund>b:?",
            expect!["@a: a b of a b fund; perhaps fund>a, perhaps fund>b"],
        );
        check("a b fund-", "fund>a:60 fund>b:?", expect!["@a: a b of a b fund; fund>a, perhaps fund>b"]);
        check("a b", "a>b:?votes", expect!["@a: a b of a b; perhaps a>b"]);
        // What a file says anyhow is not in doubt.
        check("a:G b:G", "a>b:?", expect!["G: a b of a b; told G, a>b"]);
    }

    #[test]
    fn a_person_joins_what_signs_propose_and_ownership_cannot_be_rejected() {
        check("a b c", "b=a", expect!["@a: a b of a b; b=a"]);
        check("a b c", "a!b", expect![""]);
        check("a b c", "a>b:60 a!b", expect!["@a: a b of a b; a>b"]);
    }

    #[test]
    fn a_file_that_names_a_group_like_one_that_was_worked_out_takes_it_from_nobody() {
        check(
            "a b x:@a y:@a",
            "a>b:60",
            expect![[r#"
                @a: a b of a b; a>b
                @a+: x y of x y; told @a"#]],
        );
    }

    #[test]
    fn nobody_is_a_group_alone() {
        check("a:G", "", expect![""]);
        check("a:G owner-:G", "owner>a:100", expect![""]);
    }
}
