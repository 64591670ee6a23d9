//! Logs of uses of the service: one of each customer, under its key, replaced by what it is with each piece that comes;
//! what it shows against what is declared raises discrepancies.

use std::collections::{BTreeMap, BTreeSet};

use weighbridge_registry::{
    AccessLog, CustomerId, IdentityField, KeyError, Party, PartyId, SealedCustomer, Standing,
    party::AddressKind, places,
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

impl App {
    pub(super) fn has_log(&self, id: &PartyId) -> bool {
        self.parties(|known| known.logs.contains_key(id.as_str()))
    }

    /// Every use of the service by a customer that logs told of, for who may know.
    pub(crate) fn access_log(&self, id: &PartyId) -> Result<AccessLog, KeyError> {
        let Some(sealed) = self.parties(|known| known.logs.get(id.as_str()).cloned()) else {
            return Ok(AccessLog::default());
        };
        let text = self.keys.open_record(id, LOG, &sealed)?;
        serde_json::from_slice(&text)
            .map_err(|_| KeyError::RecordDamaged { subject: id.clone(), what: LOG.into() })
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
        let (mut facts, mut logs, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        let mut left_out = 0;
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
            // What was told already is not told again by its times.
            if all.accesses() == before.accesses() {
                continue;
            }
            let party = self.keys.open_party(sealed)?;
            let (standing, party) = self.seen(sealed, &party, &all);
            let control_group = sealed.control_group.clone();
            changed.push((customer.clone(), Told { control_group, standing, party }));
            if how == How::Record {
                let text = serde_json::to_vec(&all).expect("a list can be written");
                let text = Zeroizing::new(text);
                let log = self.keys.seal_record(&customer, LOG, &text, &mut random::fill)?;
                facts.push(fact(record::ACCESSES, customer.as_str(), &log));
                logs.push((customer.to_string(), log));
            }
        }
        let recorded = changed.len();
        if how == How::Record && recorded > 0 {
            drop(known);
            let mut sealed = self.sealed(changed)?;
            for party in &mut sealed {
                party.known.insert(IdentityField::Access);
            }
            facts.extend(sealed.iter().map(|party| fact(record::CUSTOMER, party.customer.as_str(), party)));
            // What is not recorded is not known either: told again, it is new again.
            self.record(facts).await?;
            self.parties(|known| known.logs.extend(logs));
            self.learn_customers(sealed);
        }
        let left_out = import::left_out("logs of who is erased", left_out);
        Ok(Imported { rows, recorded, left_out })
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
