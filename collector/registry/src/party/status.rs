//! Whether a party is a US person: what a person decided, on which ground, and what spoke against it since.
//!
//! A US person is a citizen, a lawful permanent resident, an entity organised under US law with its foreign branches,
//! or anybody located in the United States (proposed 15 CFR 7.301, 89 FR 5698). It is a status, not a place: where
//! somebody connects from decides nothing, but it can open again what was decided.

use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;
use zeroize::Zeroize;

use super::Evidence;
use crate::UsPerson;

/// Why somebody is a US person, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Citizenship.
    Citizenship,
    /// Lawful permanent residence.
    PermanentResidence,
    /// The law that it is organised under.
    Organisation,
    /// Where it is.
    Location,
    /// Nothing but that it was said.
    Told,
}

/// One thing that speaks for a status.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(deny_unknown_fields)]
pub struct StatusBasis {
    /// For which; *undetermined* says that what was decided before no longer is.
    #[zeroize(skip)]
    pub says: UsPerson,
    /// On which ground.
    #[zeroize(skip)]
    pub basis: Basis,
    /// Whether a person decides by it. What does not decide can only open again what was decided otherwise.
    #[zeroize(skip)]
    pub decides: bool,
    /// When.
    #[zeroize(skip)]
    pub at: UtcMillis,
    /// Who says so.
    pub by: String,
    /// What shows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
}

impl std::fmt::Debug for StatusBasis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatusBasis({}, {:?})", self.says.as_str(), self.basis)
    }
}

/// All that speaks for one status or another, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(transparent)]
pub struct UsStatus(pub Vec<StatusBasis>);

impl UsStatus {
    /// How it stands: as decided last, unless something has spoken against that since.
    ///
    /// Of two decisions of one moment the one that says *foreign* counts, so that the order of a file decides nothing.
    pub fn stands(&self) -> UsPerson {
        let decisions = self.0.iter().filter(|one| one.decides);
        let Some(last) = decisions.max_by_key(|one| (one.at, one.says)) else {
            return UsPerson::Undetermined;
        };
        let against = self.0.iter().any(|one| !one.decides && one.at >= last.at && one.says != last.says);
        // Who was held to be foreign stays so until somebody decides otherwise.
        if against && last.says == UsPerson::Us { UsPerson::Undetermined } else { last.says }
    }

    /// Decides, unless it stands so already.
    pub fn decide(&mut self, says: UsPerson, basis: Basis, by: &str, at: UtcMillis) {
        if self.stands() != says {
            self.0.push(StatusBasis { says, basis, decides: true, at, by: by.into(), evidence: Vec::new() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basis(says: UsPerson, decides: bool, at: i64) -> StatusBasis {
        let (by, evidence) = ("a".into(), Vec::new());
        StatusBasis { says, basis: Basis::Told, decides, at: UtcMillis(at), by, evidence }
    }

    #[test]
    fn nobody_is_a_us_person_before_somebody_decides() {
        assert_eq!(UsStatus::default().stands(), UsPerson::Undetermined);
        assert_eq!(UsStatus(vec![basis(UsPerson::Us, false, 1)]).stands(), UsPerson::Undetermined);
    }

    #[test]
    fn what_speaks_against_a_us_person_opens_it_again_until_somebody_decides() {
        let mut status = UsStatus(vec![basis(UsPerson::Us, true, 1)]);
        assert_eq!(status.stands(), UsPerson::Us);
        status.0.push(basis(UsPerson::Foreign, false, 2));
        assert_eq!(status.stands(), UsPerson::Undetermined);
        status.0.push(basis(UsPerson::Us, true, 3));
        assert_eq!(status.stands(), UsPerson::Us);
        status.0.reverse();
        assert_eq!(status.stands(), UsPerson::Us, "the order they stand in says nothing");
    }

    #[test]
    fn what_speaks_against_a_foreign_person_makes_nobody_a_us_person() {
        let status = UsStatus(vec![basis(UsPerson::Foreign, true, 1), basis(UsPerson::Us, false, 2)]);
        assert_eq!(status.stands(), UsPerson::Foreign);
    }

    #[test]
    fn of_two_decisions_of_one_moment_the_stricter_counts() {
        for order in [[UsPerson::Us, UsPerson::Foreign], [UsPerson::Foreign, UsPerson::Us]] {
            let status = UsStatus(order.map(|says| basis(says, true, 1)).into());
            assert_eq!(status.stands(), UsPerson::Foreign);
        }
        let status = UsStatus(vec![basis(UsPerson::Us, true, 1), basis(UsPerson::Undetermined, true, 1)]);
        assert_eq!(status.stands(), UsPerson::Undetermined);
    }
}
