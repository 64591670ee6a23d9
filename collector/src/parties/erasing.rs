//! Holding and erasing what is known of a party.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use weighbridge_casework::pack::Retention;
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    KeyError, PartyId,
    retention::{self, Behind},
};
use weighbridge_store::ledger::CommitError;

use super::{By, Hold, PartyError, said};
use crate::{
    app::{App, record},
    judge::fact,
};

/// How far the erasure of a party has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    /// Who decided it, and why.
    pub by: By,
    /// When.
    pub decided: UtcMillis,
    /// When its key was destroyed; `None` until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed: Option<UtcMillis>,
}

/// A copy of the key store, in which what is destroyed here is only at its next run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// When a run that brought it up to date began: keys that were destroyed before are not in it.
    pub began: UtcMillis,
    /// Whether that run came to its end.
    pub done: bool,
    /// Who says that it is there no more, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<By>,
}

impl Mirror {
    /// What is known of a copy after another word on it: a run that did not come to its end changes nothing.
    pub(super) fn after(before: Option<Self>, said: Self) -> Option<Self> {
        match before {
            _ if said.gone.is_some() => None,
            Some(before) if !said.done => Some(before),
            _ => Some(said),
        }
    }
}

/// What is known of a party was not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// A person said that it is to be kept.
    #[error("{party} is held since {} by {}: {}", hold.at, hold.by.actor, hold.by.reason)]
    Held {
        /// Which.
        party: String,
        /// The order.
        hold: Hold,
    },
    /// Its account is open, or that of a customer it stands behind; or it stands behind nobody that was told.
    #[error(
        "{party} is not to be erased: its account, or that of a customer it stands behind, is open, or none was told"
    )]
    Open {
        /// Which.
        party: String,
    },
    /// It is to be kept for longer.
    #[error(
        "{party} is to be kept until {due}: {years} years after its account was closed or last used ({citation})"
    )]
    NotDue {
        /// Which.
        party: String,
        /// Until when.
        due: UtcMillis,
        /// How long.
        years: u16,
        /// Who says so.
        citation: String,
    },
    /// Anything else.
    #[error(transparent)]
    Party(#[from] PartyError),
}

/// Of each party, what it was ever told to have an interest in.
type Stakes = BTreeMap<PartyId, Vec<PartyId>>;

impl App {
    /// The order that stands, if what is known of a party is to be kept.
    pub fn hold_of(&self, id: &str) -> Option<Hold> {
        self.parties(|known| known.holds.get(id).filter(|hold| hold.stands).cloned())
    }

    /// The order that keeps a party, or a customer that it stands behind.
    fn hold_over(&self, stakes: &Stakes, id: &PartyId) -> Option<(PartyId, Hold)> {
        let all = self.stood_behind(stakes, id).into_iter().chain([id.clone()]);
        all.filter_map(|party| Some((party.clone(), self.hold_of(party.as_str())?))).next()
    }

    /// How long the packs in use ask to keep identities: the longest.
    pub fn kept_for(&self) -> Option<Retention> {
        let used = self.packs.iter().filter(|(_, used)| *used);
        used.filter_map(|(pack, _)| pack.retention.clone()).max_by_key(|retention| retention.years)
    }

    /// Who was ever told to hold or decide anything of whom.
    fn stakes(&self) -> Stakes {
        self.parties(|known| {
            let mut held = Stakes::new();
            for interest in known.interests.values() {
                held.entry(interest.owner.clone()).or_default().push(interest.asset.clone());
            }
            held
        })
    }

    /// Customers that a party stands behind, directly or through others, now or once.
    fn stood_behind(&self, stakes: &Stakes, id: &PartyId) -> BTreeSet<PartyId> {
        let mut found = BTreeSet::new();
        let mut next = vec![id];
        while let Some(owner) = next.pop() {
            for asset in stakes.get(owner).into_iter().flatten() {
                if asset != id && found.insert(asset.clone()) {
                    next.push(asset);
                }
            }
        }
        let known = self.customers();
        found.retain(|party| known.get(party.as_str()).is_some_and(|party| !party.standing.no_account));
        found
    }

    /// When a party is due for erasure, if it is kept for so many years; `None` while it is not to be erased.
    fn due(&self, stakes: &Stakes, id: &PartyId, years: u16) -> Option<UtcMillis> {
        let known = self.customers();
        let party = known.get(id.as_str())?;
        let behind = self.stood_behind(stakes, id);
        let behind: Vec<Behind<'_>> = behind
            .iter()
            .filter_map(|id| known.get(id.as_str()))
            .map(|party| Behind { customer: &party.customer, standing: &party.standing })
            .collect();
        let held = behind.iter().map(|one| one.customer).chain([id]);
        let holds: Vec<retention::Hold> = held
            .filter_map(|party| {
                let Hold { by, at, .. } = self.hold_of(party.as_str())?;
                let (party, lifted_at) = (party.clone(), None);
                Some(retention::Hold { party, reason: by.reason, set_at: at, set_by: by.actor, lifted_at })
            })
            .collect();
        retention::due(id, &party.standing, &behind, &holds, years, self.now())
    }

    /// Parties that are due for erasure, the earliest first. Nobody is where no pack in use says for how long to keep.
    pub fn all_due(&self) -> Vec<(UtcMillis, PartyId)> {
        let Some(Retention { years, .. }) = self.kept_for() else { return Vec::new() };
        let (now, known, stakes) = (self.now(), self.customers(), self.stakes());
        let left = known.values().filter(|party| self.erasure_of(party.customer.as_str()).is_none());
        let dated = left
            .filter_map(|party| Some((self.due(&stakes, &party.customer, years)?, party.customer.clone())));
        let mut due: Vec<_> = dated.filter(|(due, _)| *due <= now).collect();
        due.sort();
        due
    }

    /// How far its erasure has come, if somebody decided it.
    pub fn erasure_of(&self, id: &str) -> Option<Erasure> {
        self.parties(|known| known.erasures.get(id).cloned())
    }

    /// Records that the key store is about to be mirrored into a folder, or that a run that began then is done.
    pub async fn mirror_keys(&self, to: &str, done: Option<UtcMillis>) -> Result<Mirror, PartyError> {
        let mirror = Mirror { began: done.unwrap_or_else(|| self.now()), done: done.is_some(), gone: None };
        self.mirror_said(to, mirror).await
    }

    /// Records that a copy of the key store is there no more, on the word of who says so.
    pub async fn mirror_gone(&self, to: &str, by: By) -> Result<Mirror, PartyError> {
        said(&by)?;
        let known = self.parties(|known| known.mirrors.get(to).cloned());
        let Some(mirror) = known else {
            return Err(PartyError::Bad(vec![format!(
                "{to}: no mirror of the key store is on record there"
            )]));
        };
        self.mirror_said(to, Mirror { gone: Some(by), ..mirror }).await
    }

    async fn mirror_said(&self, to: &str, mirror: Mirror) -> Result<Mirror, PartyError> {
        let (app, to) = (self.clone(), to.to_owned());
        let done = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            app.record(vec![fact(record::KEY_MIRROR, &to, &mirror)]).await?;
            app.parties(|known| known.mirror(to, mirror.clone()));
            Ok(mirror)
        });
        done.await.unwrap_or(Err(PartyError::Commit(CommitError::Unwritable)))
    }

    /// Copies of the key store that may still have a key that was destroyed, until they are brought up to date.
    pub fn mirrors_of(&self, erasure: &Erasure) -> Vec<(String, Mirror)> {
        let may_have = |mirror: &Mirror| {
            !mirror.done || erasure.destroyed.is_none_or(|destroyed| mirror.began <= destroyed)
        };
        self.parties(|known| {
            let mirrors = known.mirrors.iter().filter(|(_, mirror)| may_have(mirror));
            mirrors.map(|(to, mirror)| (to.clone(), mirror.clone())).collect()
        })
    }

    /// Sets or lifts an order to keep what is known of a party.
    pub async fn hold(&self, id: &PartyId, stands: bool, by: By) -> Result<Hold, PartyError> {
        said(&by)?;
        let (app, id) = (self.clone(), id.clone());
        let done = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            if !app.customers().contains_key(id.as_str()) {
                return Err(PartyError::NoParty(id.to_string()));
            }
            // What is gone cannot be kept.
            if stands && app.erasure_of(id.as_str()).is_some_and(|erasure| erasure.destroyed.is_some()) {
                return Err(KeyError::KeyDestroyed { subject: id }.into());
            }
            let hold = Hold { stands, by, at: app.now() };
            app.record(vec![fact(record::HOLD, id.as_str(), &hold)]).await?;
            app.parties(|known| known.holds.insert(id.to_string(), hold.clone()));
            Ok(hold)
        });
        done.await.unwrap_or(Err(PartyError::Commit(CommitError::Unwritable)))
    }

    /// Erases what is known of a party by destroying its key. Again, it only finishes what is not finished.
    pub async fn erase(&self, id: &PartyId, by: By) -> Result<Erasure, EraseError> {
        said(&by)?;
        let (app, id) = (self.clone(), id.clone());
        let done = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            let held = app.hold_over(&app.stakes(), &id);
            if let Some(erasure) = app.erasure_of(id.as_str()) {
                if let (None, Some((held, hold))) = (erasure.destroyed, held) {
                    return Err(EraseError::Held { party: held.to_string(), hold });
                }
                return Ok(app.finish_erasure(&id, erasure).await?);
            }
            let known = app.customers();
            let party = known.get(id.as_str()).ok_or_else(|| PartyError::NoParty(id.to_string()))?;
            if let Some((held, hold)) = held {
                return Err(EraseError::Held { party: held.to_string(), hold });
            }
            let kept = app.kept_for();
            let years = kept.as_ref().map_or(0, |retention| retention.years);
            match (app.due(&app.stakes(), &party.customer, years), kept) {
                (None, _) => return Err(EraseError::Open { party: id.to_string() }),
                (Some(due), Some(Retention { citation, .. })) if due > app.now() => {
                    return Err(EraseError::NotDue { party: id.to_string(), due, years, citation });
                }
                (Some(_), _) => {}
            }
            let erasure = Erasure { by, decided: app.now(), destroyed: None };
            app.record_erasure(&id, &erasure).await?;
            Ok(app.finish_erasure(&id, erasure).await?)
        });
        done.await.unwrap_or(Err(EraseError::Party(PartyError::Commit(CommitError::Unwritable))))
    }

    async fn record_erasure(&self, id: &PartyId, erasure: &Erasure) -> Result<(), PartyError> {
        self.record(vec![fact(record::ERASURE, id.as_str(), erasure)]).await?;
        self.parties(|known| known.erasures.insert(id.to_string(), erasure.clone()));
        Ok(())
    }

    /// Destroys the key also where it was destroyed before: a key store that came back from a backup has it again.
    async fn finish_erasure(&self, id: &PartyId, erasure: Erasure) -> Result<Erasure, PartyError> {
        self.keys.destroy(id)?;
        self.forget(id);
        if erasure.destroyed.is_some() {
            return Ok(erasure);
        }
        let erasure = Erasure { destroyed: Some(self.now()), ..erasure };
        self.record_erasure(id, &erasure).await?;
        Ok(erasure)
    }

    /// Finishes at a start what was decided before it, and destroys again what came back with an older key store.
    pub(crate) async fn finish_erasures(&self) -> Result<(), PartyError> {
        for (id, erasure) in self.parties(|known| known.erasures.clone()) {
            let Ok(id) = id.parse::<PartyId>() else { continue };
            if erasure.destroyed.is_none() && self.hold_over(&self.stakes(), &id).is_some() {
                tracing::warn!(party = %id, "an erasure that was decided is not finished: it is held");
                continue;
            }
            match self.keys.is_destroyed(&id) {
                Ok(true) if erasure.destroyed.is_some() => {}
                Ok(destroyed) => {
                    if !destroyed && erasure.destroyed.is_some() {
                        tracing::warn!(party = %id, "a destroyed key is there again: it is destroyed again");
                    }
                    self.finish_erasure(&id, erasure).await?;
                }
                Err(error @ KeyError::Io { .. }) => return Err(error.into()),
                Err(_) => {
                    self.finish_erasure(&id, erasure).await?;
                }
            }
        }
        Ok(())
    }
}
