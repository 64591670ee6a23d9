//! Logs of uses of the service: one of each customer, under its key, kept as the pieces in which it came; what it shows
//! against what is declared raises discrepancies.
//!
//! A log is its pieces, merged, in whatever order. Now and then it is recorded whole, and what came before that is not
//! needed any more. Before there were pieces, each record was whole.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    AccessKind, AccessLog, CustomerId, IdentityField, KeyError, Party, PartyId, SealedCustomer, SealedField,
    Standing, latest_access, party::AddressKind, places,
};
use zeroize::Zeroizing;

use super::{How, PartyError, Told};
use crate::{
    app::{App, record},
    import::{self, Imported},
    judge::fact,
    random,
};

/// What a log is sealed as.
const LOG: &str = "accesses";

/// The most pieces of a log before it is recorded whole.
const MOST_PIECES: usize = 64;

/// What is recorded of a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Recorded {
    /// All of it.
    Whole(SealedField),
    /// What came to it.
    Piece {
        /// Under lock.
        piece: SealedField,
        /// The last use in it, which is no secret: it moves when the customer was last seen.
        last: Option<UtcMillis>,
    },
}

/// A log under lock, and the last use that its pieces tell of.
#[derive(Clone, Debug, Default)]
pub(super) struct SealedLog {
    pieces: Vec<SealedField>,
    pub(super) last: Option<UtcMillis>,
}

impl SealedLog {
    pub(super) fn take(&mut self, recorded: Recorded) {
        match recorded {
            Recorded::Whole(all) => self.pieces = vec![all],
            Recorded::Piece { piece, last } => {
                self.pieces.push(piece);
                self.last = self.last.max(last);
            }
        }
    }
}

impl App {
    pub(super) fn has_log(&self, id: &PartyId) -> bool {
        self.parties(|known| known.logs.contains_key(id.as_str()))
    }

    /// Every use of the service by a customer that logs told of, for who may know.
    pub(crate) fn access_log(&self, id: &PartyId) -> Result<AccessLog, KeyError> {
        let Some(sealed) = self.parties(|known| known.logs.get(id.as_str()).cloned()) else {
            return Ok(AccessLog::default());
        };
        let mut log = AccessLog::default();
        for piece in &sealed.pieces {
            let text = self.keys.open_record(id, LOG, piece)?;
            let piece = serde_json::from_slice(&text)
                .map_err(|_| KeyError::RecordDamaged { subject: id.clone(), what: LOG.into() })?;
            log.merge(&piece);
        }
        Ok(log)
    }

    /// What a report says of a party: its record, with the uses that logs told of.
    pub(crate) fn identity_of(
        &self,
        sealed: &SealedCustomer,
    ) -> Result<weighbridge_registry::Identity, KeyError> {
        let party = self.keys.open_party(sealed)?;
        let mut identity = party.identity();
        let text = told_of(&party, &self.access_log(&sealed.customer)?);
        identity.set(IdentityField::Access, text);
        Ok(identity)
    }

    /// Takes logs of customers that are known: all of them, or none.
    pub(crate) async fn accesses_told(
        &self,
        told: BTreeMap<CustomerId, AccessLog>,
        how: How,
    ) -> Result<Imported, PartyError> {
        let known = self.customers();
        let rows = told.len();
        let bad: Vec<String> = told
            .keys()
            .filter(|customer| !known.contains_key(customer.as_str()))
            .map(|customer| format!("customer {customer} is not known, import customers first"))
            .collect();
        if !bad.is_empty() {
            return Err(PartyError::Bad(bad));
        }
        let (mut facts, mut logs) = (Vec::new(), Vec::new());
        // Whose record says something new, and who was only seen again.
        let (mut changed, mut seen_again) = (Vec::new(), Vec::new());
        let (mut left_out, mut recorded) = (0, 0);
        for (customer, piece) in told {
            // A feed goes on about who is erased for a while.
            if self.erasure_of(customer.as_str()).is_some() {
                left_out += 1;
                continue;
            }
            let Some(sealed) = known.get(customer.as_str()) else { continue };
            let before = self.access_log(&customer)?;
            let mut all = before.clone();
            all.merge(&piece);
            // What was told already is not told again.
            if all.tells_the_same(&before) {
                continue;
            }
            recorded += 1;
            if how == How::DryRun {
                continue;
            }
            let party = self.keys.open_party(sealed)?;
            let (standing, seen) = self.seen(sealed, &party, &all);
            let whole = self.pieces(&customer) + 1 >= MOST_PIECES;
            let log = if whole { &all } else { &piece };
            let text = Zeroizing::new(serde_json::to_vec(log).expect("a list can be written"));
            let log = self.keys.seal_record(&customer, LOG, &text, &mut random::fill)?;
            let log = match whole {
                true => Recorded::Whole(log),
                false => Recorded::Piece { piece: log, last: piece.last() },
            };
            facts.push(fact(record::ACCESSES, customer.as_str(), &log));
            logs.push((customer.to_string(), log));
            // A whole log says nothing of when it was last used; the record does.
            if whole || seen != party || !sealed.known.contains(&IdentityField::Access) {
                let control_group = sealed.control_group.clone();
                changed.push((customer, Told { control_group, standing, party: seen }));
            } else {
                seen_again.push(SealedCustomer { standing, ..sealed.clone() });
            }
        }
        if how == How::Record && recorded > 0 {
            drop(known);
            let mut sealed = self.sealed(changed)?;
            for party in &mut sealed {
                party.known.insert(IdentityField::Access);
            }
            facts.extend(sealed.iter().map(|party| fact(record::CUSTOMER, party.customer.as_str(), party)));
            // What is not recorded is not known either: told again, it is new again.
            self.record(facts).await?;
            self.parties(|known| {
                for (customer, log) in logs {
                    known.logs.entry(customer).or_default().take(log);
                }
            });
            sealed.extend(seen_again);
            self.learn_customers(sealed);
        }
        let left_out = import::left_out("logs of who is erased", left_out);
        Ok(Imported { rows, recorded, left_out })
    }

    fn pieces(&self, id: &PartyId) -> usize {
        self.parties(|known| known.logs.get(id.as_str()).map_or(0, |log| log.pieces.len()))
    }

    /// How a customer stands after what a log shows: when it was last seen, and what does not fit with what it declares.
    fn seen(&self, sealed: &SealedCustomer, party: &Party, log: &AccessLog) -> (Standing, Party) {
        let mut party = party.clone();
        // What is still to come was taken once, and was no use.
        let latest = latest_access(self.now());
        let last = log.entries().map(|entry| entry.last).filter(|last| *last <= latest).max();
        let standing =
            Standing { last_access: sealed.standing.last_access.max(last), ..sealed.standing.clone() };
        self.raise_places(&mut party, log);
        (standing, party)
    }

    /// What uses show against what is declared, where a database of places says it.
    fn raise_places(&self, party: &mut Party, log: &AccessLog) {
        let declared = |kind| party.addresses_of(kind).filter_map(|address| address.country);
        let mut countries: Vec<_> = declared(AddressKind::Use).collect();
        if countries.is_empty() {
            countries = declared(AddressKind::Principal).collect();
        }
        let signals = places::compare(&countries, log, &self.places_known, self.now());
        places::raise(party, &signals);
    }

    /// The same for a record that is about to be sealed: its own uses and those of logs, against what it now declares.
    pub(super) fn compare_places(&self, id: &PartyId, party: &mut Party) -> Result<(), KeyError> {
        if self.places_known.databases().is_empty() {
            return Ok(());
        }
        let mut log = if self.has_log(id) { self.access_log(id)? } else { AccessLog::default() };
        party.accesses.iter().for_each(|access| log.add(*access, AccessKind::Access));
        if !log.is_empty() {
            self.raise_places(party, &log);
        }
        Ok(())
    }
}

/// Every time that is known of a use, and for what they stand where that is not all.
fn told_of(party: &Party, log: &AccessLog) -> Zeroizing<String> {
    let mut accesses: BTreeSet<_> = party.accesses.iter().copied().collect();
    accesses.extend(log.accesses());
    let texts: Vec<_> = accesses.iter().map(|access| Zeroizing::new(access.to_string())).collect();
    let texts: Vec<&str> = texts.iter().map(|text| text.as_str()).collect();
    let coarse = log.coarseness().map(|coarse| format!(" ({coarse})")).unwrap_or_default();
    Zeroizing::new(texts.join(";") + &coarse)
}

#[cfg(test)]
mod tests {
    use weighbridge_registry::{AccessKind, CustomerKind};

    use super::*;

    #[test]
    fn a_report_says_for_how_many_uses_its_times_stand_where_they_are_coarse() {
        let text = |uses: i64| {
            let mut log = AccessLog::default();
            for at in 0..uses {
                let access = format!("192.0.2.7@{}", UtcMillis(at * 1_000)).parse().expect("a use");
                log.add(access, AccessKind::Access);
            }
            told_of(&Party::unknown(CustomerKind::Person), &log).to_string()
        };
        assert_eq!(text(1), "192.0.2.7@1970-01-01T00:00:00Z");
        assert_eq!(
            text(10_001),
            "192.0.2.7@1970-01-01T00:00:00Z;192.0.2.7@1970-01-01T02:46:40Z \
             (times are the first and the last of each address and UTC day, and stand for 10001 uses)"
        );
    }

    #[test]
    fn a_record_from_before_there_were_pieces_is_the_whole_log() {
        let sealed = |byte: u8| -> SealedField {
            use base64::{Engine, engine::general_purpose::STANDARD};
            format!("v1:{}", STANDARD.encode([byte; 40])).parse().expect("sealed")
        };
        let read = |value: serde_json::Value| serde_json::from_value::<Recorded>(value).expect("recorded");
        let mut log = SealedLog::default();
        for record in [
            serde_json::json!(sealed(1)),
            serde_json::json!(sealed(2)),
            serde_json::json!({ "piece": sealed(3), "last": "2026-01-31T08:00:00Z" }),
        ] {
            log.take(read(record));
        }
        assert_eq!(log.pieces, [sealed(2), sealed(3)]);
        assert_eq!(log.last, "2026-01-31T08:00:00Z".parse().ok());
        for record in [Recorded::Whole(sealed(4)), Recorded::Piece { piece: sealed(5), last: None }] {
            log.take(read(serde_json::json!(record)));
        }
        assert_eq!(log.pieces, [sealed(4), sealed(5)]);
    }
}
