//! Logs of uses of the service: kept piece by piece as they come, under the key of the customer; what they show against
//! what is declared raises discrepancies.

use std::collections::{BTreeMap, BTreeSet};

use weighbridge_registry::{
    AccessLog, CustomerId, IdentityField, KeyError, Party, PartyId, SealedCustomer, SealedField, Standing,
    party::AddressKind, places,
};
use zeroize::Zeroizing;

use super::{How, PartyError, Told};
use crate::{
    app::{App, record},
    import::Imported,
    judge::fact,
    random,
};

/// What a piece of a log is sealed as.
const LOG: &str = "accesses";

impl App {
    pub(super) fn has_log(&self, id: &PartyId) -> bool {
        self.parties(|known| known.logs.contains_key(id.as_str()))
    }

    /// Every use of the service by a customer that logs told of, for who may know.
    pub(crate) fn access_log(&self, id: &PartyId) -> Result<AccessLog, KeyError> {
        let pieces = self.parties(|known| known.logs.get(id.as_str()).cloned().unwrap_or_default());
        let mut log = AccessLog::default();
        for piece in &pieces {
            let text = self.keys.open_record(id, LOG, piece)?;
            let piece: AccessLog = serde_json::from_slice(&text)
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
        let mut accesses: BTreeSet<_> = party.accesses.iter().copied().collect();
        accesses.extend(self.access_log(&sealed.customer)?.accesses());
        let texts: Vec<_> = accesses.iter().map(|access| Zeroizing::new(access.to_string())).collect();
        let texts: Vec<&str> = texts.iter().map(|text| text.as_str()).collect();
        identity.set(IdentityField::Access, Zeroizing::new(texts.join(";")));
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
        let (mut facts, mut pieces, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for (customer, piece) in told {
            let Some(sealed) = known.get(customer.as_str()) else { continue };
            let before = self.access_log(&customer)?;
            let mut all = before.clone();
            all.merge(&piece);
            // What was told already is not told again by its times.
            if all.accesses() == before.accesses() {
                continue;
            }
            let party = self.keys.open_party(sealed)?;
            let (standing, party) = self.seen(sealed, &party, &all);
            let control_group = sealed.control_group.clone();
            changed.push((customer.clone(), Told { control_group, standing, party }));
            if how == How::Record {
                let text = serde_json::to_vec(&piece).expect("a list can be written");
                let text = Zeroizing::new(text);
                let piece = self.keys.seal_record(&customer, LOG, &text, &mut random::fill)?;
                facts.push(fact(record::ACCESSES, customer.as_str(), &piece));
                pieces.push((customer.to_string(), piece));
            }
        }
        let recorded = changed.len();
        if how == How::Record && recorded > 0 {
            // Known before they are sealed, so that the records say that there are addresses.
            self.parties(|known| {
                for (customer, piece) in pieces {
                    let of_it: &mut Vec<SealedField> = known.logs.entry(customer).or_default();
                    of_it.push(piece);
                }
            });
            let sealed = self.sealed(changed)?;
            facts.extend(sealed.iter().map(|party| fact(record::CUSTOMER, party.customer.as_str(), party)));
            self.record(facts).await?;
            self.learn_customers(sealed);
        }
        Ok(Imported { rows, recorded, left_out: 0 })
    }

    /// How a customer stands after what a log shows: when it was last seen, and what does not fit with what it declares.
    fn seen(&self, sealed: &SealedCustomer, party: &Party, log: &AccessLog) -> (Standing, Party) {
        let mut party = party.clone();
        let last = log.entries().map(|entry| entry.last).max();
        let standing =
            Standing { last_access: sealed.standing.last_access.max(last), ..sealed.standing.clone() };
        let declared = |kind| party.addresses_of(kind).filter_map(|address| address.country);
        let mut countries: Vec<_> = declared(AddressKind::Use).collect();
        if countries.is_empty() {
            countries = declared(AddressKind::Principal).collect();
        }
        let signals = places::compare(&countries, log, &self.places_known, self.now());
        places::raise(&mut party, &signals);
        (standing, party)
    }
}
