//! Parties and interests in and out, in the formats that others use.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    Interest, KeyError, Party, PartyId, PartyRecord, Standing,
    format::{self, bods, ftm, verified_claims},
    write_interests, write_parties, write_records,
};
use zeroize::Zeroizing;

use super::{By, How, PartyError, Told, said};
use crate::{
    app::{App, record},
    import::{ImportError, Imported},
    judge::fact,
};

/// A format that others use too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// FollowTheMoney, one entity a line.
    FollowTheMoney,
    /// Beneficial Ownership Data Standard 0.4.
    Bods,
    /// OpenID Connect for Identity Assurance, one person a line.
    VerifiedClaims,
}

impl Format {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::FollowTheMoney, Self::Bods, Self::VerifiedClaims];

    /// As on the command line and in paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FollowTheMoney => "ftm",
            Self::Bods => "bods",
            Self::VerifiedClaims => "verified-claims",
        }
    }
}

/// What is written out, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// In a format that others use too.
    Format(Format),
    /// CSV with columns called as the paths of fields.
    Csv,
    /// Whole records, one a line.
    Records,
    /// What parties hold of each other, CSV. It opens nobody.
    Interests,
}

impl FromStr for Export {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "csv" => Ok(Self::Csv),
            "ndjson" => Ok(Self::Records),
            "interests" => Ok(Self::Interests),
            _ => Format::ALL.into_iter().find(|format| format.as_str() == text).map(Self::Format).ok_or_else(
                || format!("{text:?} is not ndjson, csv, interests, ftm, bods or verified-claims"),
            ),
        }
    }
}

impl Export {
    /// The type of what is written.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Csv | Self::Interests => "text/csv; charset=utf-8",
            Self::Format(Format::Bods) => "application/json",
            Self::Records | Self::Format(_) => "application/x-ndjson",
        }
    }
}

/// By whose rules a verification was made, where its note does not say so.
const FRAMEWORK: &str = "operator";

impl App {
    /// Writes parties out: those that are named, or all. Who is erased is left out. Each look is recorded first.
    pub async fn export(
        &self,
        export: Export,
        of: Option<Vec<PartyId>>,
        by: &By,
    ) -> Result<Zeroizing<String>, PartyError> {
        said(by)?;
        let known = self.customers();
        let of: Option<BTreeSet<PartyId>> = of.map(|of| of.into_iter().collect());
        let wanted = |id: &PartyId| of.as_ref().is_none_or(|of| of.contains(id));
        if let Some(missing) = of.iter().flatten().find(|id| !known.contains_key(id.as_str())) {
            return Err(PartyError::NoParty(missing.to_string()));
        }
        let interests: Vec<Interest> = self
            .all_interests()
            .into_iter()
            .filter(|interest| wanted(&interest.owner) || wanted(&interest.asset))
            .collect();
        if export == Export::Interests {
            return Ok(Zeroizing::new(write_interests(&interests)));
        }
        let mut records = Vec::new();
        for sealed in known.values().filter(|sealed| wanted(&sealed.customer)) {
            let party = match self.keys.open_party(sealed) {
                Ok(party) => party,
                Err(KeyError::KeyDestroyed { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let (id, control_group) = (sealed.customer.clone(), sealed.control_group.clone());
            records.push(PartyRecord { id, control_group, standing: sealed.standing.clone(), party });
        }
        let looks = records.iter().map(|one| {
            let look = serde_json::json!({
                "act": "identity_opened", "customer": one.id, "what": "export",
                "actor": by.actor, "reason": by.reason,
            });
            fact(record::AUDIT, one.id.as_str(), &look)
        });
        let looks: Vec<_> = looks.collect();
        if !looks.is_empty() {
            self.record(looks).await?;
        }
        Ok(written(export, &records, &interests, self.now()))
    }

    /// Takes what a file in one of the formats says into the records: what is not known yet is added, and nothing that
    /// is known is lost.
    pub(crate) async fn exchanged(
        &self,
        format: Format,
        file: &str,
        text: &[u8],
        how: How,
    ) -> Result<Imported, ImportError> {
        let refused = |errors: format::Errors| {
            ImportError::Contradiction(errors.to_string().lines().map(str::to_owned).collect())
        };
        let (parties, interests, left_out) = match format {
            Format::FollowTheMoney | Format::Bods => {
                let read = match format {
                    Format::Bods => bods::read(file, text),
                    _ => ftm::read(file, text),
                };
                let read = read.map_err(refused)?;
                (read.parties, read.interests, read.left_out)
            }
            Format::VerifiedClaims => {
                let source = verified_claims::Source { provider: "a file of claims", at: self.now() };
                let read = verified_claims::read(file, text, source).map_err(refused)?;
                let untold = read.persons.iter().filter(|person| person.sub.is_none()).count();
                if untold > 0 {
                    let problem =
                        format!("{file}: {untold} persons without a `sub` that is a number of the books");
                    return Err(ImportError::Contradiction(vec![problem]));
                }
                let persons = read.persons.into_iter().filter_map(|person| Some((person.sub?, person.party)));
                (persons.collect(), Vec::new(), read.left_out)
            }
        };
        let rows = parties.len() + interests.len();
        let known = self.customers();
        let mut told: BTreeMap<PartyId, Told> = BTreeMap::new();
        let mut as_known: BTreeMap<PartyId, Told> = BTreeMap::new();
        let mut bad = Vec::new();
        for (id, party) in parties {
            let before = match told.remove(&id) {
                Some(told) => Some(told),
                None => {
                    let before = known.get(id.as_str()).map(|sealed| self.as_told(sealed)).transpose()?;
                    as_known.extend(before.clone().map(|before| (id.clone(), before)));
                    before
                }
            };
            let merged = match before {
                Some(mut before) => {
                    // An own file that comes back says nothing new, whatever its format lost.
                    let held = held(format, &before.party);
                    let contradictions = format::merge(&mut before.party, &party, &held);
                    bad.extend(contradictions.iter().map(|field| {
                        format!("{file}: party {id}: {field} is another than the one that is known")
                    }));
                    before
                }
                // Who comes by such a file stands behind somebody, until it is told that it has an account.
                None => Told {
                    control_group: None,
                    standing: Standing { no_account: true, ..Standing::default() },
                    party,
                },
            };
            told.insert(id, merged);
        }
        let names: Vec<&PartyId> = interests.iter().flat_map(|one| [&one.owner, &one.asset]).collect();
        for name in names {
            if !told.contains_key(name) && !known.contains_key(name.as_str()) {
                bad.push(format!(
                    "{file}: party {name} has an interest, and is neither in the file nor known"
                ));
            }
        }
        bad.sort();
        bad.dedup();
        if !bad.is_empty() {
            return Err(ImportError::Contradiction(bad));
        }
        let there = self.all_interests();
        let interests = match format {
            Format::FollowTheMoney => format::new_interests(interests, &there, ftm::held_interests),
            Format::Bods => format::new_interests(interests, &there, bods::held_interests),
            Format::VerifiedClaims => interests,
        };
        // Interests are looked at beside the parties that come with them, before either is recorded.
        let mut kinds: BTreeMap<_, _> =
            known.values().map(|party| (party.customer.clone(), party.kind)).collect();
        kinds.extend(told.iter().map(|(id, told)| (id.clone(), told.party.kind)));
        self.possible(&interests, &kinds)?;
        let new: Vec<(PartyId, Told)> =
            told.into_iter().filter(|(id, told)| as_known.get(id) != Some(told)).collect();
        let recorded = new.len() + interests.len();
        // All of it is looked at before any of it is recorded, and recorded at once.
        self.put(new.clone(), How::DryRun, None).await?;
        if how == How::Record && recorded > 0 {
            drop(known);
            let sealed = self.sealed(new)?;
            let parties = sealed.iter().map(|party| fact(record::CUSTOMER, party.customer.as_str(), party));
            let held = interests.iter().map(|one| fact(record::INTEREST, &one.key(), one));
            self.record(parties.chain(held).collect()).await?;
            self.parties(|known| {
                known.interests.extend(interests.into_iter().map(|one| (one.key(), one)));
                known.grouped = None;
            });
            self.learn_customers(sealed);
        }
        Ok(Imported { rows, recorded, left_out })
    }
}

/// What a format has of a record.
fn held(format: Format, party: &Party) -> Party {
    match format {
        Format::FollowTheMoney => ftm::held(party),
        Format::Bods => bods::held(party),
        // It has nobody but persons.
        Format::VerifiedClaims => {
            verified_claims::held(party, FRAMEWORK).unwrap_or_else(|| Party::unknown(party.kind))
        }
    }
}

fn written(
    export: Export,
    records: &[PartyRecord],
    interests: &[Interest],
    now: UtcMillis,
) -> Zeroizing<String> {
    let format = match export {
        Export::Csv => return write_parties(records),
        Export::Records => return write_records(records),
        Export::Interests => return Zeroizing::new(write_interests(interests)),
        Export::Format(format) => format,
    };
    let parties: Vec<(PartyId, Party)> =
        records.iter().map(|one| (one.id.clone(), one.party.clone())).collect();
    Zeroizing::new(match format {
        Format::FollowTheMoney => ftm::write(&parties, interests),
        Format::Bods => {
            bods::write(&parties, interests, bods::Publication { publisher: "weighbridge", at: now })
        }
        Format::VerifiedClaims => {
            let persons =
                parties.iter().filter_map(|(id, party)| verified_claims::write(id, party, FRAMEWORK));
            persons.map(|person| person + "\n").collect()
        }
    })
}
