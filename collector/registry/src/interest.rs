//! What one party holds of another, or decides in it: dated statements, in clear, for they hold nothing but numbers of
//! the operator's books.
//!
//! [`graph`] takes those of one moment and builds what [`crate::ownership`] works on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use weighbridge_meter::UtcMillis;

use crate::{
    CustomerKind,
    ownership::{Holder, Holding, Ownership, Share, Stake},
    party::PartyId,
};

/// In what an interest lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterestKind {
    /// Shares, or another part of what it is worth. This is ownership.
    Shareholding,
    /// Votes.
    VotingRights,
    /// The right to name its board.
    AppointsBoard,
    /// It is on its board, or runs it.
    Manages,
    /// It controls it in another way.
    OtherControl,
}

impl InterestKind {
    /// Every one of them.
    pub const ALL: [Self; 5] =
        [Self::Shareholding, Self::VotingRights, Self::AppointsBoard, Self::Manages, Self::OtherControl];

    /// What the text form must be, in words for an error message.
    pub const EXPECTED: &'static str =
        "shareholding, voting_rights, appoints_board, manages or other_control";

    /// Its name in files and ledgers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shareholding => "shareholding",
            Self::VotingRights => "voting_rights",
            Self::AppointsBoard => "appoints_board",
            Self::Manages => "manages",
            Self::OtherControl => "other_control",
        }
    }

    /// By its name.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// One party has an interest in another, for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interest {
    /// Who has it.
    pub owner: PartyId,
    /// In whom.
    pub asset: PartyId,
    /// In what it lies.
    pub kind: InterestKind,
    /// How much it is; `None` where it is not known, or cannot be told in percent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "stake")]
    pub share: Option<Stake>,
    /// Whether it comes with substantial control (proposed 15 CFR 7.301, 89 FR 5698): told, never worked out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub substantial_control: bool,
    /// From when on; `None` where it is not known: as far back as anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<UtcMillis>,
    /// Before when; `None` while it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<UtcMillis>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Interest {
    /// What tells it from others: of those with one key, the one that was recorded last counts.
    pub fn key(&self) -> String {
        let from = self.from.map(|from| from.to_string()).unwrap_or_default();
        // Ids have no blanks.
        format!("{} {} {} {from}", self.owner, self.asset, self.kind.as_str())
    }

    /// Whether it holds at `moment`. One that ends where it begins never does: so it is taken back.
    pub fn holds_at(&self, moment: UtcMillis) -> bool {
        self.from.is_none_or(|from| from <= moment) && self.to.is_none_or(|to| moment < to)
    }

    /// Whether it may decide what the other does: more than half of the votes, if they can be as many, its board, or
    /// in another way. That somebody manages it or owns it is not control by itself.
    pub fn is_control(&self) -> bool {
        self.controls_with(self.share.map_or(Share::WHOLE, Stake::most))
    }

    /// Whether it decides that however many votes there are of those that are not told exactly.
    pub fn is_certain_control(&self) -> bool {
        self.controls_with(self.share.map_or(Share::NOTHING, Stake::least))
    }

    fn controls_with(&self, votes: Share) -> bool {
        match self.kind {
            InterestKind::VotingRights => votes > Share::HALF,
            InterestKind::AppointsBoard | InterestKind::OtherControl => true,
            InterestKind::Shareholding | InterestKind::Manages => self.substantial_control,
        }
    }
}

/// As `{"exact":"25"}` or `{"least":"25","most":"50"}`, in percent.
mod stake {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Told {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exact: Option<Percent>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        least: Option<Percent>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        most: Option<Percent>,
    }

    struct Percent(Share);

    impl Serialize for Percent {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&self.0)
        }
    }

    impl<'de> Deserialize<'de> for Percent {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
        }
    }

    pub(super) fn serialize<S: Serializer>(share: &Option<Stake>, serializer: S) -> Result<S::Ok, S::Error> {
        let told = share.map(|share| {
            let (least, most) = (share.least(), share.most());
            match least == most {
                true => Told { exact: Some(Percent(least)), least: None, most: None },
                false => Told { exact: None, least: Some(Percent(least)), most: Some(Percent(most)) },
            }
        });
        told.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Stake>, D::Error> {
        let Some(told) = Option::<Told>::deserialize(deserializer)? else { return Ok(None) };
        let share = match told {
            Told { exact: Some(Percent(share)), least: None, most: None } => Some(Stake::exact(share)),
            Told { exact: None, least, most } if least.is_some() || most.is_some() => {
                let least = least.map_or(Share::NOTHING, |least| least.0);
                Stake::between(least, most.map_or(Share::WHOLE, |most| most.0))
            }
            _ => None,
        };
        share.map(Some).ok_or_else(|| de::Error::custom("not either exact, or least and most in order"))
    }
}

/// Who stands behind whom at one moment, ready to be asked.
#[derive(Debug, Default)]
pub struct Behind {
    /// The parties, in the order of their places.
    pub parties: Vec<PartyId>,
    /// What they hold of each other.
    pub ownership: Ownership,
    /// Who controls whom, or may, by their places.
    pub controls: Vec<(usize, usize)>,
    /// Of these, who does so whatever is true of what is not told exactly.
    pub certain_controls: Vec<(usize, usize)>,
    /// Keys of interests that cannot be, and are left out: somebody is told to hold a part of a person.
    pub impossible: Vec<String>,
}

impl Behind {
    /// The place of a party.
    pub fn place(&self, party: &PartyId) -> Option<usize> {
        self.parties.binary_search(party).ok()
    }
}

/// Who controls a party, directly or through others, by pairs of who controls whom; not the party itself.
pub fn controllers(controls: &[(usize, usize)], place: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut next = vec![place];
    while let Some(controlled) = next.pop() {
        let by = controls.iter().filter(|(_, of)| *of == controlled).map(|(by, _)| *by);
        next.extend(by.filter(|by| *by != place && found.insert(*by)).collect::<Vec<_>>());
    }
    found
}

/// Builds what was so at `moment`. Who is not among `kinds` is taken to be a body that somebody stands behind. One
/// interest that cannot be takes nothing away from the others.
pub fn graph<'a>(
    interests: impl IntoIterator<Item = &'a Interest>,
    kinds: &BTreeMap<PartyId, CustomerKind>,
    moment: UtcMillis,
) -> Behind {
    let mut impossible = Vec::new();
    let interests: Vec<&Interest> = interests
        .into_iter()
        .filter(|interest| interest.holds_at(moment))
        .filter(|interest| {
            let can_be = interest.kind != InterestKind::Shareholding
                || kinds.get(&interest.asset) != Some(&CustomerKind::Person);
            if !can_be {
                impossible.push(interest.key());
            }
            can_be
        })
        .collect();
    let mut parties: Vec<PartyId> = kinds.keys().cloned().collect();
    parties.extend(interests.iter().flat_map(|interest| [interest.owner.clone(), interest.asset.clone()]));
    parties.sort();
    parties.dedup();
    let holders = parties.iter().map(|party| match kinds.get(party) {
        Some(CustomerKind::Person) => Holder::Last,
        _ => Holder::Company,
    });
    let holders: Vec<Holder> = holders.collect();
    let place = |party: &PartyId| parties.binary_search(party).unwrap_or(usize::MAX);
    let owned: Vec<&Interest> =
        interests.iter().copied().filter(|interest| interest.kind == InterestKind::Shareholding).collect();
    let unknown = Stake::between(Share::NOTHING, Share::WHOLE);
    let holdings = owned.iter().filter_map(|interest| {
        let stake = interest.share.or(unknown)?;
        Some(Holding { owner: place(&interest.owner), asset: place(&interest.asset), stake })
    });
    let holdings: Vec<Holding> = holdings.collect();
    let pairs = |is: fn(&Interest) -> bool| {
        let those = interests.iter().filter(|interest| is(interest));
        those.map(|interest| (place(&interest.owner), place(&interest.asset))).collect::<Vec<_>>()
    };
    let (controls, certain_controls) = (pairs(Interest::is_control), pairs(Interest::is_certain_control));
    let ownership = Ownership::new(holders, holdings).unwrap_or_else(|error| {
        // All places are those of parties, and nobody holds a part of a person.
        debug_assert!(false, "{error}");
        Ownership::default()
    });
    Behind { parties, ownership, controls, certain_controls, impossible }
}

/// Somebody is told to hold a part of a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "interest {interest:?}: nobody holds a part of a person, expected an entity, an arrangement or a reseller"
)]
pub struct BadInterest {
    /// Its key.
    pub interest: String,
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn interest(owner: &str, asset: &str, kind: InterestKind, share: Option<Stake>) -> Interest {
        let (owner, asset) = (owner.parse().unwrap(), asset.parse().unwrap());
        Interest { owner, asset, kind, share, substantial_control: false, from: None, to: None }
    }

    fn percent(text: &str) -> Option<Stake> {
        text.parse().ok().map(Stake::exact)
    }

    #[test]
    fn an_interest_reads_back_as_written() {
        let range = Stake::between("12.5".parse().unwrap(), "50".parse().unwrap());
        let mut interests = [
            interest("a", "b", InterestKind::Shareholding, percent("25")),
            interest("a", "b", InterestKind::VotingRights, range),
            interest("a", "b", InterestKind::Manages, None),
        ];
        interests[2].substantial_control = true;
        interests[2].to = Some(UtcMillis(0));
        let text: Vec<String> =
            interests.iter().map(|interest| serde_json::to_string(interest).unwrap()).collect();
        expect![[r#"
            {"owner":"a","asset":"b","kind":"shareholding","share":{"exact":"25"}}
            {"owner":"a","asset":"b","kind":"voting_rights","share":{"least":"12.5","most":"50"}}
            {"owner":"a","asset":"b","kind":"manages","substantial_control":true,"to":"1970-01-01T00:00:00Z"}"#]]
        .assert_eq(&text.join("\n"));
        for (interest, text) in interests.iter().zip(text) {
            assert_eq!(serde_json::from_str::<Interest>(&text).unwrap(), *interest);
        }
    }

    #[test]
    fn a_share_that_contradicts_itself_is_refused() {
        for share in [
            r#"{"least":"50","most":"25"}"#,
            r#"{"exact":"25","most":"50"}"#,
            r#"{"exact":"101"}"#,
            "{}",
            r#"{"exact":25}"#,
        ] {
            let text = format!(r#"{{"owner":"a","asset":"b","kind":"shareholding","share":{share}}}"#);
            assert!(serde_json::from_str::<Interest>(&text).is_err(), "{share}");
        }
    }

    #[test]
    fn only_what_holds_at_the_moment_counts() {
        let mut past = interest("a", "c", InterestKind::Shareholding, percent("60"));
        past.to = Some(UtcMillis(10));
        let mut taken_back = interest("x", "c", InterestKind::Shareholding, percent("60"));
        (taken_back.from, taken_back.to) = (Some(UtcMillis(0)), Some(UtcMillis(0)));
        let interests = [past, taken_back, interest("b", "c", InterestKind::Shareholding, percent("40"))];
        let groups = |moment| {
            let behind = graph(&interests, &BTreeMap::new(), UtcMillis(moment));
            let groups = behind.ownership.control_groups(&behind.controls);
            let named = groups.into_iter().map(|group| {
                group.into_iter().map(|place| behind.parties[place].to_string()).collect::<Vec<_>>().join("+")
            });
            named.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(groups(9), "a+c");
        assert_eq!(groups(10), "");
    }

    #[test]
    fn who_decides_in_another_is_of_its_group_and_who_manages_it_is_not() {
        let mut founder = interest("founder", "g", InterestKind::Shareholding, percent("10"));
        founder.substantial_control = true;
        let interests = [
            interest("a", "b", InterestKind::VotingRights, percent("50.0001")),
            interest("c", "d", InterestKind::VotingRights, percent("50")),
            interest("e", "f", InterestKind::Manages, None),
            interest("h", "i", InterestKind::VotingRights, None),
            interest("j", "k", InterestKind::VotingRights, Stake::between(Share::QUARTER, Share::WHOLE)),
            founder,
        ];
        let behind = graph(&interests, &BTreeMap::new(), UtcMillis(0));
        let shown = |pairs: &[(usize, usize)]| -> Vec<String> {
            let name = |place: &usize| behind.parties[*place].to_string();
            pairs.iter().map(|(owner, asset)| format!("{}>{}", name(owner), name(asset))).collect()
        };
        assert_eq!(shown(&behind.controls), ["a>b", "h>i", "j>k", "founder>g"]);
        assert_eq!(
            shown(&behind.certain_controls),
            ["a>b", "founder>g"],
            "of unknown votes it is only possible"
        );
    }

    #[test]
    fn a_part_of_a_person_is_named_and_takes_nothing_from_the_others() {
        let interests = [
            interest("a", "b", InterestKind::VotingRights, None),
            interest("a", "jane", InterestKind::Shareholding, percent("1")),
        ];
        let kinds = [("jane".parse().unwrap(), CustomerKind::Person)].into();
        let behind = graph(&interests, &kinds, UtcMillis(0));
        assert_eq!(behind.impossible, ["a jane shareholding "]);
        assert_eq!(behind.ownership.len(), 3);
    }
}
