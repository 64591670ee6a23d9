//! Finding parties by what identifies them, and what they have in common, over an index that is only in memory.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock, atomic::Ordering},
};

use serde::Serialize;
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    Decision, KeyError, Party, PartyId, SealedCustomer,
    blind::{Blind, Sign, TooCommon, What},
};

use super::{By, PartyError, said};
use crate::{
    app::{App, record},
    judge::fact,
};

/// A value that more parties share than this says nothing about them: of what one payer or one person has alone, as
/// many as a ring of accounts may be large; of what strangers share, as a building or a network, few.
fn too_common(sign: Sign) -> usize {
    match sign {
        Sign::PaymentSource | Sign::Telephone | Sign::Email => 1_000,
        Sign::Domain | Sign::Address | Sign::Network => 20,
    }
}

/// Values too common to say anything that are named, of each sign.
const NAMED: usize = 20;

/// Domains at which anybody can have an address.
const FREE_MAIL: [&str; 24] = [
    "163.com",
    "126.com",
    "aol.com",
    "duck.com",
    "fastmail.com",
    "free.fr",
    "gmail.com",
    "gmx.de",
    "gmx.net",
    "googlemail.com",
    "hotmail.com",
    "icloud.com",
    "live.com",
    "mail.com",
    "mail.ru",
    "msn.com",
    "outlook.com",
    "proton.me",
    "protonmail.com",
    "qq.com",
    "web.de",
    "yahoo.com",
    "yandex.ru",
    "zoho.com",
];

/// An account that is opened so soon after another was closed may take its place.
const REPLACED_WITHIN_MS: i64 = 30 * UtcMillis::DAY;

/// A sign that parties belong together, for a person to confirm or to reject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proposal {
    /// What they share.
    pub sign: &'static str,
    /// Who.
    pub parties: Vec<PartyId>,
    /// How many such values they share.
    pub values: usize,
    /// Of two of them one was opened soon after the other was closed: who took whose place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<(PartyId, PartyId)>,
}

/// What the index says of signs.
#[derive(Clone, Debug, Serialize)]
pub struct Proposals {
    /// Parties that share something, are not in one group yet, and of whom nobody rejected that they are.
    pub proposals: Vec<Proposal>,
    /// Of each sign the values that too many share to say anything.
    pub too_common: BTreeMap<&'static str, Common>,
}

/// Values that too many share to say anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Common {
    /// How many values.
    pub values: usize,
    /// Those that most share, each with one of who does, so that somebody can look what it is.
    pub most: Vec<SharedByMany>,
}

/// One value that too many share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SharedByMany {
    /// How many share it.
    pub parties: usize,
    /// One of them.
    pub one: PartyId,
}

impl App {
    /// Builds the index in the background: it takes a while where there are many parties.
    pub(crate) fn build_index(&self) {
        let app = self.clone();
        tokio::task::spawn_blocking(move || {
            let ids: Vec<String> = app.customers().keys().cloned().collect();
            for id in ids {
                // Whoever has replaced it since has done so, or waits for this.
                let mut index = app.index.write().unwrap_or_else(PoisonError::into_inner);
                if let Some(sealed) = app.customers().get(&id) {
                    app.put_into(&mut index, sealed);
                }
            }
            app.indexed.store(true, Ordering::Release);
        });
    }

    fn put_into(&self, index: &mut Blind, sealed: &SealedCustomer) {
        self.put_opened(index, sealed, self.keys.open_party(sealed));
    }

    fn put_opened(&self, index: &mut Blind, sealed: &SealedCustomer, opened: Result<Party, KeyError>) {
        match opened {
            Ok(party) => {
                // A log that does not open is as good as none here; whoever opens it is told.
                let log = self.access_log(&sealed.customer).unwrap_or_default();
                let addresses: std::collections::BTreeSet<_> =
                    log.entries().map(|entry| entry.address).collect();
                index.replace_with(&sealed.customer, &party, addresses);
            }
            // Erased, or the key is not there: then nobody finds it.
            Err(_) => index.remove(&sealed.customer),
        }
    }

    pub(super) fn index_parties<'a>(&self, sealed: impl IntoIterator<Item = &'a SealedCustomer>) {
        // Opened before anybody has to wait for it.
        let opened: Vec<_> =
            sealed.into_iter().map(|sealed| (sealed, self.keys.open_party(sealed))).collect();
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        opened.into_iter().for_each(|(sealed, opened)| self.put_opened(&mut index, sealed, opened));
    }

    pub(super) fn forget(&self, id: &PartyId) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn index(&self) -> Result<&RwLock<Blind>, PartyError> {
        if self.indexed.load(Ordering::Acquire) { Ok(&self.index) } else { Err(PartyError::NotIndexed) }
    }

    /// Who has this value. That somebody asked is recorded, with what for but not with the value.
    pub async fn find(&self, what: What, text: &str, by: &By) -> Result<Vec<PartyId>, PartyError> {
        said(by)?;
        let found = self.index()?.read().unwrap_or_else(PoisonError::into_inner).find(what, text);
        let look = serde_json::json!({
            "act": "party_looked_up", "by_its": what.as_str(), "found": found,
            "actor": by.actor, "reason": by.reason,
        });
        // One of each who was found, so that it stands in the history of each.
        let keys: Vec<&str> = match found.as_slice() {
            [] => vec![""],
            found => found.iter().map(PartyId::as_str).collect(),
        };
        // It waits until that is durable, and not for sums, which say nothing of it.
        let looks = keys.into_iter().map(|key| fact(record::AUDIT, key, &look)).collect();
        self.ledger.record(self.now(), looks).await?;
        Ok(found)
    }

    /// Signs that parties belong together, and that nobody has decided about.
    pub fn proposals(&self) -> Result<Proposals, PartyError> {
        let (known, groups) = (self.customers(), self.groups());
        let rejected = |one: &PartyId, other: &PartyId| {
            self.parties(|known| {
                let (first, second) = if one <= other { (one, other) } else { (other, one) };
                let link = known.links.get(&format!("{first} {second}"));
                link.is_some_and(|link| link.decision == Decision::Rejected)
            })
        };
        let open = |one: &PartyId, other: &PartyId| {
            let group = groups.0.group_of(one);
            (group.is_none() || group != groups.0.group_of(other)) && !rejected(one, other)
        };
        let replaced = |one: &PartyId, other: &PartyId| {
            let standing = |party: &PartyId| known.get(party.as_str()).map(|party| &party.standing);
            let (closed, opened) = (standing(one)?.closed?, standing(other)?.opened?);
            (0..REPLACED_WITHIN_MS).contains(&opened.since(closed)).then(|| (one.clone(), other.clone()))
        };
        let mut all = Proposals { proposals: Vec::new(), too_common: BTreeMap::new() };
        let index = self.index()?.read().unwrap_or_else(PoisonError::into_inner);
        for sign in Sign::ALL {
            let shared = index.shared(sign, too_common(sign), &FREE_MAIL);
            if !shared.too_common.is_empty() {
                let values = shared.too_common.len();
                let most = shared.too_common.into_iter().take(NAMED);
                let most = most.map(|TooCommon { parties, one }| SharedByMany { parties, one }).collect();
                all.too_common.insert(sign.as_str(), Common { values, most });
            }
            for group in shared.groups {
                let pairs = || {
                    let ordered = group.parties.iter().enumerate();
                    ordered.flat_map(|(index, one)| {
                        group.parties[index + 1..].iter().map(move |other| (one, other))
                    })
                };
                if !pairs().any(|(one, other)| open(one, other)) {
                    continue;
                }
                let replaced = pairs()
                    .flat_map(|(one, other)| [replaced(one, other), replaced(other, one)])
                    .flatten()
                    .collect();
                let (parties, values) = (group.parties, group.values);
                all.proposals.push(Proposal { sign: sign.as_str(), parties, values, replaced });
            }
        }
        Ok(all)
    }
}
