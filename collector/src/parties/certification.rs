//! The figures that a certification of the operator's program asks for (proposed 15 CFR 7.304, 89 FR 5698): how many,
//! and where. Identities are opened to be counted and shown to nobody.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    CustomerKind, KeyError, PartyId, Statement, interest,
    ownership::Standing,
    party::{Remedy, Verified},
    statement::{Attestation, Kind, Program},
};

use super::{Kept, PartyError};
use crate::app::App;

/// The figures as of a moment.
#[derive(Clone, Debug, Serialize)]
pub struct Certification {
    /// As of when.
    pub as_of: UtcMillis,
    /// Customers whose account is open.
    pub customers: Counted,
    /// Of these, those who count as foreign persons.
    pub foreign_customers: Counted,
    /// Of these, those of whom it is not established whether they are.
    pub undetermined_customers: u64,
    /// Persons who hold as much of an open customer as a pack in use asks of a beneficial owner, or control it, and count
    /// as foreign.
    pub foreign_beneficial_owners: Counted,
    /// Persons who may do so, if what is known only as a range is so; not counted above.
    pub possible_beneficial_owners: u64,
    /// Customers of whom enough is not told of that a beneficial owner may be missing.
    pub customers_with_owners_not_told: u64,
    /// Resellers that count as foreign, by id.
    pub foreign_resellers: Vec<PartyId>,
    /// Open accounts of who counts as foreign whose identity is not verified.
    pub foreign_accounts_not_verified: u64,
    /// Records that are erased: they are counted nowhere.
    pub erased: u64,
    /// The program that is in force, as it was told.
    pub program: Option<InForce>,
    /// The last attestation, as it was told.
    pub attestation: Option<Statement>,
}

/// The version of the operator's program that is in force.
#[derive(Clone, Debug, Serialize)]
pub struct InForce {
    /// Its version.
    pub version: String,
    /// In force from.
    pub from: UtcMillis,
}

/// How many, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// In all.
    pub number: u64,
    /// By country; `unknown` where none is known.
    pub by_country: BTreeMap<String, u64>,
}

impl Counted {
    fn add(&mut self, country: Option<&String>) {
        self.number += 1;
        *self.by_country.entry(country.cloned().unwrap_or_else(|| "unknown".into())).or_default() += 1;
    }
}

impl App {
    /// The figures of the moment at which an attestation was recorded, which are in the ledger beside it.
    pub fn attested(&self, id: &str) -> Option<serde_json::Value> {
        self.parties(|known| known.attested.get(id).cloned())
    }

    /// The figures of now.
    ///
    /// # Errors
    /// Where an identity that is not erased does not open.
    pub fn certification(&self) -> Result<Certification, PartyError> {
        let (known, now, groups) = (self.customers(), self.now(), self.groups());
        let (behind, line) = (&groups.1, self.owner_line());
        let mut figures = Certification {
            as_of: now,
            customers: Counted::default(),
            foreign_customers: Counted::default(),
            undetermined_customers: 0,
            foreign_beneficial_owners: Counted::default(),
            possible_beneficial_owners: 0,
            customers_with_owners_not_told: 0,
            foreign_resellers: Vec::new(),
            foreign_accounts_not_verified: 0,
            erased: 0,
            program: None,
            attestation: None,
        };
        let mut countries: BTreeMap<&str, Option<String>> = BTreeMap::new();
        for (id, sealed) in known.iter() {
            match self.keys.open_party(sealed) {
                Ok(party) => drop(countries.insert(id, party.country().map(|country| country.to_string()))),
                Err(KeyError::KeyDestroyed { .. }) => figures.erased += 1,
                Err(error) => return Err(error.into()),
            }
        }
        let (mut sure, mut possible) = (BTreeSet::new(), BTreeSet::new());
        for (id, sealed) in known.iter() {
            let Some(country) = countries.get(id.as_str()) else { continue };
            let standing = &sealed.standing;
            let never = matches!(standing.remedy, Remedy::NotOpened | Remedy::Closed);
            if never || standing.no_account || standing.closed.is_some_and(|closed| closed <= now) {
                continue;
            }
            figures.customers.add(country.as_ref());
            if sealed.us_person.counts_as_foreign() {
                figures.foreign_customers.add(country.as_ref());
                figures.undetermined_customers +=
                    u64::from(sealed.us_person == weighbridge_registry::UsPerson::Undetermined);
                figures.foreign_accounts_not_verified += u64::from(standing.verified != Verified::Verified);
                if sealed.kind == CustomerKind::Reseller {
                    figures.foreign_resellers.push(sealed.customer.clone());
                }
            }
            let Some(place) = behind.place(&sealed.customer) else { continue };
            let owners = behind.ownership.owners_of(place);
            figures.customers_with_owners_not_told += u64::from(
                sealed.kind != CustomerKind::Person && line.is_some_and(|line| owners.unknown.1 >= line),
            );
            for effective in &owners.owners {
                match line.map_or(Standing::Below, |line| effective.standing(line)) {
                    Standing::Reaches => drop(sure.insert(effective.owner)),
                    Standing::Possible => drop(possible.insert(effective.owner)),
                    Standing::Below => {}
                }
            }
            sure.extend(interest::controllers(&behind.certain_controls, place));
            possible.extend(interest::controllers(&behind.controls, place));
        }
        let person = |place: &usize| {
            let sealed = known.get(behind.parties.get(*place)?.as_str())?;
            let foreign = sealed.kind == CustomerKind::Person && sealed.us_person.counts_as_foreign();
            foreign.then_some(sealed)
        };
        for sealed in sure.iter().filter_map(person) {
            let country = countries.get(sealed.customer.as_str()).and_then(Option::as_ref);
            figures.foreign_beneficial_owners.add(country);
        }
        figures.possible_beneficial_owners = possible.difference(&sure).filter_map(person).count() as u64;
        let programs = self.statements(Kind::Program).into_iter().filter_map(|kept| match kept {
            Kept::Clear(Statement::Program(Program { id, from, .. })) if from <= now => {
                Some(InForce { version: id.as_str().to_owned(), from })
            }
            _ => None,
        });
        figures.program = programs.max_by_key(|program| program.from);
        let attestations = self.statements(Kind::Attestation).into_iter().filter_map(|kept| match kept {
            Kept::Clear(Statement::Attestation(one)) if one.at <= now => Some(one),
            _ => None,
        });
        let latest: Option<Attestation> = attestations.max_by_key(|one| one.at);
        figures.attestation = latest.map(Statement::Attestation);
        Ok(figures)
    }
}
