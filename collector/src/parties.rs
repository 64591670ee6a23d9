//! Parties: customers and who stands behind them, as the ledger says, and the acts by which that changes.
//!
//! A record is replaced whole, an interest by its key, a link by the two it joins: of several the last counts, and the
//! ledger keeps all of them. Everything that is opened for a person to look at is an act that is recorded first, with
//! who looked and why. What is opened only to be compared, sealed again or added up is shown to nobody and not recorded.
//!
//! Erasing is three steps: the decision is recorded, the key is destroyed, that is recorded. A start finishes what was
//! decided and is not recorded as done.

mod accesses;
mod answers;
mod certification;
mod erasing;
mod exchange;
mod index;
mod statements;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
};

use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    ControlGroupId, CustomerKind, Group, Groups, IdentityField, Interest, InterestKind, KeyError, Link,
    Party, PartyId, SealedCustomer, Standing, UsPerson,
    interest::{BadInterest, Behind},
    latest_access,
    ownership::{Owners, Share},
    party::{BadParty, StatusBasis, UsStatus, Verification},
};
use weighbridge_store::{RecordRow, StoreError, UsageStore, ledger::CommitError};

pub use answers::Answer;
pub use certification::{Certification, Counted, InForce};
pub use erasing::{EraseError, Erasure, Mirror};
pub use exchange::{Export, Format};
pub use index::{Proposal, Proposals};
pub use statements::Kept;

use self::accesses::SealedLog;
use crate::{
    app::{App, StartError, record, unreadable},
    import::{ERASED, Imported, LeftOut, left_out},
    judge::fact,
    random,
};

/// A record of a party as somebody hands it over. Replaces what was there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// The group that its file names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_group: Option<ControlGroupId>,
    /// How it stands with the operator. What follows from the record is taken from there.
    #[serde(default)]
    pub standing: Standing,
    /// Who it is.
    pub party: Party,
}

/// Who decides by a file, as such a decision says.
pub(crate) const BY_FILE: [&str; 2] = ["a file of customers", "a file of parties"];

impl Told {
    /// Keeps what others than who hands it over have found: when it was last used, what logs raised, what providers of
    /// verifications told; and of a file's decision on a status, when it was first told.
    fn keep(&mut self, standing: &Standing, before: &Party, now: UtcMillis) {
        // A time that is still to come was taken once, and keeps nobody for ever.
        let seen = standing.last_access.filter(|last| *last <= latest_access(now));
        self.standing.last_access = self.standing.last_access.max(seen);
        let raised = before.discrepancies.iter().filter(|one| one.id.starts_with("place:"));
        for one in raised {
            if self.party.discrepancies.iter().all(|known| known.id != one.id) {
                self.party.discrepancies.push(one.clone());
            }
        }
        let told = before.verifications.iter().filter(|one| one.id.starts_with(TOLD));
        for one in told {
            if self.party.verifications.iter().all(|known| known.id != one.id) {
                self.party.verifications.push(one.clone());
            }
        }
        self.standing.told_by_file = standing.told_by_file;
        if let Some(word) = word_of_file(&self.party.us_person).cloned() {
            self.standing.told_by_file = Some(word.says);
            let decided =
                before.us_person.0.iter().any(|basis| basis.decides && !BY_FILE.contains(&&*basis.by));
            if decided {
                self.party.us_person = told_by_file(&before.us_person, standing.told_by_file, word);
            }
        }
        let bases = &mut self.party.us_person.0;
        let mut by_file = false;
        for basis in bases.iter_mut().filter(|basis| BY_FILE.contains(&basis.by.as_str())) {
            by_file = true;
            let same = |known: &&StatusBasis| {
                (known.says, known.basis, &known.by) == (basis.says, basis.basis, &basis.by)
            };
            if let Some(known) = before.us_person.0.iter().find(same) {
                basis.at = known.at;
            }
        }
        // What spoke against it since is not undone by the same file again.
        let against = before.us_person.0.iter().filter(|basis| by_file && !basis.decides);
        for basis in against {
            if !bases.contains(basis) {
                bases.push(basis.clone());
            }
        }
    }
}

/// What a status rests on after a file's word on it. That decides until a person has decided. From then on it is
/// evidence, which can open again who was held to be a US person and nothing else, and the same word again is none.
pub(crate) fn told_by_file(before: &UsStatus, last: Option<UsPerson>, word: StatusBasis) -> UsStatus {
    let mut status = before.clone();
    let decided = before.0.iter().any(|basis| basis.decides && !BY_FILE.contains(&&*basis.by));
    if last != Some(word.says) && before.stands() != word.says {
        if !decided {
            status.0.push(word);
        } else if word.says != UsPerson::Undetermined {
            status.0.push(StatusBasis { decides: false, ..word });
        }
    }
    status
}

/// The word on a status that is nothing but a file's.
fn word_of_file(status: &UsStatus) -> Option<&StatusBasis> {
    let last = status.0.last()?;
    status.0.iter().all(|basis| BY_FILE.contains(&&*basis.by)).then_some(last)
}

/// What the id of a verification begins with that a provider told.
pub(crate) const TOLD: &str = "told:";

/// Whether something is done, or only checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Done.
    Record,
    /// Checked as if it were done, and left.
    DryRun,
}

/// Who does something about a person, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct By {
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Something about parties could not be done.
#[derive(Debug, thiserror::Error)]
pub enum PartyError {
    /// There is none.
    #[error("there is no party {0:?}")]
    NoParty(String),
    /// There is none.
    #[error("there is no {0:?}")]
    NoStatement(String),
    /// Who acts and why must be said.
    #[error("{0} must not be blank: every act on an identity is recorded with both")]
    Blank(&'static str),
    /// What was handed over cannot be kept; one line each.
    #[error("{}", .0.join("\n"))]
    Bad(Vec<String>),
    /// It was changed since it was read.
    #[error("the record is {now} and no longer {expected}: read it again")]
    Changed {
        /// The tag that was named.
        expected: String,
        /// The tag that it has.
        now: String,
    },
    /// The index is still being made.
    #[error("the index of identities is being made: try again in a moment")]
    NotIndexed,
    /// The keys.
    #[error("the keys of parties")]
    Keys(#[from] KeyError),
    /// The sums, which keep records.
    #[error("what is recorded cannot be read")]
    Store(#[from] StoreError),
    /// The ledger.
    #[error("the ledger took nothing")]
    Commit(#[from] CommitError),
}

/// What is known of parties. What names anybody is under lock.
#[derive(Debug, Default)]
pub(crate) struct Parties {
    known: Arc<BTreeMap<String, SealedCustomer>>,
    interests: BTreeMap<String, Interest>,
    links: BTreeMap<String, Link>,
    holds: BTreeMap<String, Hold>,
    erasures: BTreeMap<String, Erasure>,
    mirrors: BTreeMap<String, Mirror>,
    /// The figures beside each attestation.
    attested: BTreeMap<String, serde_json::Value>,
    statements: BTreeMap<String, Kept>,
    /// Logs of uses of the service, under lock.
    logs: BTreeMap<String, SealedLog>,
    /// Answers to the questions of reports, under lock.
    answers: answers::AllAnswers,
    /// As of an hour, until something changes.
    grouped: Option<(UtcMillis, Arc<(Groups, Behind)>)>,
}

/// An order to keep what is known of a party, whatever else says that it is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Whether it stands; else it was lifted.
    pub stands: bool,
    /// Who set or lifted it, and why.
    pub by: By,
    /// When.
    pub at: UtcMillis,
}

impl Parties {
    fn mirror(&mut self, to: String, said: Mirror) {
        let before = self.mirrors.remove(&to);
        self.mirrors.extend(Mirror::after(before, said).map(|mirror| (to, mirror)));
    }

    pub(crate) async fn read(store: &impl UsageStore) -> Result<Self, StartError> {
        let mut parties = Self::default();
        let known = Arc::make_mut(&mut parties.known);
        for row in store.records(record::CUSTOMER).await? {
            known.insert(row.key.clone(), read(record::CUSTOMER, row)?);
        }
        for row in store.records(record::INTEREST).await? {
            parties.interests.insert(row.key.clone(), read(record::INTEREST, row)?);
        }
        for row in store.records(record::GROUP_LINK).await? {
            parties.links.insert(row.key.clone(), read(record::GROUP_LINK, row)?);
        }
        for row in store.records(record::HOLD).await? {
            parties.holds.insert(row.key.clone(), read(record::HOLD, row)?);
        }
        for row in store.records(record::ERASURE).await? {
            parties.erasures.insert(row.key.clone(), read(record::ERASURE, row)?);
        }
        for row in store.records(record::KEY_MIRROR).await? {
            parties.mirror(row.key.clone(), read(record::KEY_MIRROR, row)?);
        }
        for row in store.records(record::ATTESTED).await? {
            parties.attested.insert(row.key.clone(), row.body);
        }
        for row in store.records(record::ACCESSES).await? {
            let log = parties.logs.entry(row.key.clone()).or_default();
            log.take(read(record::ACCESSES, row)?);
        }
        for row in store.records(record::ANSWERS).await? {
            answers::take(&mut parties.answers, read(record::ANSWERS, row)?);
        }
        let known = Arc::make_mut(&mut parties.known);
        for (key, log) in &parties.logs {
            if let Some(party) = known.get_mut(key) {
                party.standing.last_access = party.standing.last_access.max(log.last);
            }
        }
        for row in store.records(record::STATEMENT).await? {
            parties.statements.insert(row.key.clone(), Kept::read(row)?);
        }
        Ok(parties)
    }

    fn learn(&mut self, parties: impl IntoIterator<Item = SealedCustomer>) {
        let known = Arc::make_mut(&mut self.known);
        known.extend(parties.into_iter().map(|party| (party.customer.to_string(), party)));
        self.grouped = None;
    }

    /// Groups as of the hour of `now`: interests begin and end, and a view is not older.
    fn groups(&mut self, now: UtcMillis) -> Arc<(Groups, Behind)> {
        let hour = now.hour();
        if let Some((at, groups)) = &self.grouped
            && *at == hour
        {
            return groups.clone();
        }
        let groups = Arc::new(Groups::of(&self.known, &self.interests, &self.links, now));
        if !groups.1.impossible.is_empty() {
            tracing::error!(interests = groups.1.impossible.len(), "interests that cannot be are left out");
        }
        self.grouped = Some((hour, groups.clone()));
        groups
    }
}

fn read<T: serde::de::DeserializeOwned>(kind: &'static str, row: RecordRow) -> Result<T, StartError> {
    serde_json::from_value(row.body.clone()).map_err(|error| unreadable(kind, &row, error))
}

/// The tag of a record: another one once it says anything else.
pub fn tag(sealed: &SealedCustomer) -> String {
    use sha2::{Digest, Sha256};
    let text = serde_json::to_vec(sealed).expect("plain data with string keys");
    weighbridge_store::fold::hex(&Sha256::digest(text)[..8])
}

/// Who stands behind a party.
#[derive(Clone, Debug)]
pub struct StandsBehind {
    /// What others hold of it, and what it holds of others, now.
    pub interests: Vec<Interest>,
    /// Its owners in the end.
    pub owners: Option<Owners>,
    /// Who these are, by their places.
    pub parties: Arc<(Groups, Behind)>,
    /// More was told to be held of it than there is.
    pub overheld: bool,
}

impl App {
    fn parties<T>(&self, ask: impl FnOnce(&mut Parties) -> T) -> T {
        let lock: &RwLock<Parties> = &self.registry;
        ask(&mut lock.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every party by id, under lock: customers, and who only stands behind them.
    pub fn customers(&self) -> Arc<BTreeMap<String, SealedCustomer>> {
        let lock: &RwLock<Parties> = &self.registry;
        lock.read().unwrap_or_else(PoisonError::into_inner).known.clone()
    }

    /// Takes parties as recorded.
    pub fn learn_customers(&self, parties: impl IntoIterator<Item = SealedCustomer>) {
        let parties: Vec<SealedCustomer> = parties.into_iter().collect();
        self.parties(|known| known.learn(parties.iter().cloned()));
        self.index_parties(&parties);
    }

    /// Which customers are one, and who stands behind whom, now. What cannot be, is not: an interest is checked before
    /// it is recorded.
    pub fn groups(&self) -> Arc<(Groups, Behind)> {
        let now = self.now();
        self.parties(|known| known.groups(now))
    }

    /// The group that a name means, with its name.
    pub fn group(&self, name: &str) -> Option<(String, Group)> {
        self.groups().0.get(name).map(|(name, group)| (name.to_owned(), group.clone()))
    }

    /// Records parties that are new or say something new: all of them, or none.
    pub async fn put_parties(&self, told: Vec<(PartyId, Told)>, how: How) -> Result<Imported, PartyError> {
        let app = self.clone();
        let done = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            app.put(told, how, None).await
        });
        done.await.unwrap_or(Err(PartyError::Commit(CommitError::Unwritable)))
    }

    /// What speaks against keeping a record, in words.
    pub(crate) fn cannot_be(&self, id: &PartyId, told: &Told) -> Vec<String> {
        let mut bad = Vec::new();
        if let Err(BadParty { place, expected }) = told.party.check() {
            bad.push(format!("party {id}: {place} is not {expected}"));
        }
        if told.control_group.as_ref().is_some_and(|group| group.as_str().starts_with('@')) {
            bad.push(format!("party {id}: control_group begins with @, as those do that are worked out"));
        }
        let latest = latest_access(self.now());
        let before = self.customers().get(id.as_str()).and_then(|known| known.standing.last_access);
        if let Some(last) = told.standing.last_access.filter(|last| *last > latest && before != Some(*last)) {
            bad.push(format!(
                "party {id}: standing.last_access: {last} is still to come, expected a time of at most a day ahead: {latest}"
            ));
        }
        if told.party.kind == CustomerKind::Person {
            let held = self.parties(|known| {
                let shares = |one: &&Interest| one.asset == *id && one.kind == InterestKind::Shareholding;
                known.interests.values().find(shares).map(Interest::key)
            });
            if let Some(interest) = held {
                bad.push(format!("party {id}: kind is person, but interest {interest:?} is told of it"));
            }
        }
        // What an account used counts for its group: who uses something has one.
        let used = || self.shared.with(|state| state.mappings.iter().any(|one| one.customer == id.as_str()));
        if told.standing.no_account && used() {
            bad.push(format!("party {id}: no_account, but principals are mapped to it"));
        }
        bad
    }

    /// Records one party, if it is still as `expected` says, and returns its tag.
    pub async fn put_party(
        &self,
        id: PartyId,
        told: Told,
        expected: Option<String>,
    ) -> Result<(Imported, String), PartyError> {
        let app = self.clone();
        let done = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            let imported = app.put(vec![(id.clone(), told)], How::Record, expected).await?;
            if !imported.left_out.is_empty() {
                return Err(KeyError::KeyDestroyed { subject: id }.into());
            }
            let tag = app.customers().get(id.as_str()).map(tag).unwrap_or_default();
            Ok((imported, tag))
        });
        done.await.unwrap_or(Err(PartyError::Commit(CommitError::Unwritable)))
    }

    /// Records what came of a verification of a party; one with the id of an earlier one replaces it.
    pub async fn verification(&self, id: &PartyId, told: Verification) -> Result<Imported, PartyError> {
        let (app, id) = (self.clone(), id.clone());
        let done = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            let sealed = app.customers().get(id.as_str()).cloned();
            let sealed = sealed.ok_or_else(|| PartyError::NoParty(id.to_string()))?;
            let mut one = app.as_told(&sealed)?;
            let earlier = one.party.verifications.iter().find(|before| before.id == told.id);
            // An older word on it came late, or was overheard and is said again.
            if earlier.is_some_and(|earlier| earlier.at >= told.at) {
                return Ok(Imported { rows: 1, recorded: 0, left_out: LeftOut::new() });
            }
            let act = serde_json::json!({
                // The provider's name for it may be anybody's.
                "act": "verification_told", "customer": id, "provider": told.checker,
                "id": app.keys.digest("verification", &told.id),
                "outcome": told.outcome,
            });
            one.party.verifications.retain(|before| before.id != told.id);
            one.party.verifications.push(told);
            one.party.verifications.sort_by_key(|one| one.at);
            let bad = app.cannot_be(&id, &one);
            if !bad.is_empty() {
                return Err(PartyError::Bad(bad));
            }
            app.record(vec![fact(record::AUDIT, id.as_str(), &act)]).await?;
            app.put(vec![(id, one)], How::Record, None).await
        });
        done.await.unwrap_or(Err(PartyError::Commit(CommitError::Unwritable)))
    }

    pub(crate) async fn put(
        &self,
        told: Vec<(PartyId, Told)>,
        how: How,
        expected: Option<String>,
    ) -> Result<Imported, PartyError> {
        let known = self.customers();
        let rows = told.len();
        let mut bad = Vec::new();
        let coming: BTreeSet<&str> = told.iter().map(|(id, _)| id.as_str()).collect();
        for (id, one) in &told {
            bad.extend(self.cannot_be(id, one));
            if let Some(reseller) = &one.standing.reseller
                && !known.contains_key(reseller.as_str())
                && !coming.contains(reseller.as_str())
            {
                bad.push(format!("party {id}: reseller {reseller} is not known"));
            }
        }
        if !bad.is_empty() {
            return Err(PartyError::Bad(bad));
        }
        if let (Some(expected), Some((id, _))) = (expected, told.first()) {
            let now = known.get(id.as_str()).map_or_else(|| "not there".into(), tag);
            if expected != now {
                return Err(PartyError::Changed { expected, now });
            }
        }
        let mut new = Vec::new();
        let mut erased = 0;
        for (id, mut one) in told {
            one.standing.told_by_file = word_of_file(&one.party.us_person).map(|word| word.says);
            if let Some(before) = known.get(id.as_str()) {
                let opened = match self.keys.open_party(before) {
                    // A feed goes on about who is erased for a while.
                    Err(KeyError::KeyDestroyed { .. }) => {
                        erased += 1;
                        continue;
                    }
                    opened => opened?,
                };
                one.keep(&before.standing, &opened, self.now());
                let standing = Standing {
                    verified: before.standing.verified,
                    open_discrepancies: before.standing.open_discrepancies,
                    ..one.standing.clone()
                };
                let same = before.control_group == one.control_group && before.standing == standing;
                if same && opened == one.party {
                    continue;
                }
            }
            new.push((id, one));
        }
        // So that what is learnt need not be copied first.
        drop(known);
        let recorded = new.len();
        if how == How::DryRun {
            for (id, _) in new {
                if self.keys.is_destroyed(&id)? {
                    return Err(KeyError::KeyDestroyed { subject: id }.into());
                }
            }
        } else if recorded > 0 {
            let sealed = self.sealed(new)?;
            let facts =
                sealed.iter().map(|party| fact(record::CUSTOMER, party.customer.as_str(), party)).collect();
            self.record(facts).await?;
            self.learn_customers(sealed);
        }
        Ok(Imported { rows, recorded, left_out: left_out(ERASED, erased) })
    }

    /// Seals records, with few syncs for the keys that are made.
    pub(crate) fn sealed(&self, told: Vec<(PartyId, Told)>) -> Result<Vec<SealedCustomer>, KeyError> {
        let ids: Vec<PartyId> = told.iter().map(|(id, _)| id.clone()).collect();
        self.keys.prepare(&ids, &mut random::fill)?;
        let sealed = told.into_iter().map(|(id, Told { control_group, standing, mut party })| {
            self.compare_places(&id, &mut party)?;
            let mut sealed = self.keys.seal_party(&id, control_group, standing, &party, &mut random::fill)?;
            if self.has_log(&id) {
                sealed.known.insert(IdentityField::Access);
            }
            Ok(sealed)
        });
        sealed.collect()
    }

    /// Records interests that are new or say something new: all of them, or none.
    pub async fn put_interests(&self, told: Vec<Interest>, how: How) -> Result<Imported, PartyError> {
        let app = self.clone();
        let done = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            app.interests(told, how).await
        });
        done.await.unwrap_or(Err(PartyError::Commit(CommitError::Unwritable)))
    }

    pub(crate) async fn interests(&self, told: Vec<Interest>, how: How) -> Result<Imported, PartyError> {
        let known = self.customers();
        let rows = told.len();
        let mut bad = Vec::new();
        for interest in &told {
            for party in [&interest.owner, &interest.asset] {
                if !known.contains_key(party.as_str()) {
                    bad.push(format!(
                        "interest of {} in {}: party {party} is not known, import parties first",
                        interest.owner, interest.asset
                    ));
                }
            }
        }
        let mut all = self.parties(|known| known.interests.clone());
        let new: Vec<Interest> =
            told.into_iter().filter(|interest| all.get(&interest.key()) != Some(interest)).collect();
        all.extend(new.iter().map(|interest| (interest.key(), interest.clone())));
        let kinds = known.values().map(|party| (party.customer.clone(), party.kind)).collect();
        if let Err(PartyError::Bad(errors)) = self.possible(&new, &kinds) {
            bad.extend(errors);
        }
        if !bad.is_empty() {
            return Err(PartyError::Bad(bad));
        }
        let recorded = new.len();
        if how == How::Record && recorded > 0 {
            let facts = new.iter().map(|one| fact(record::INTEREST, &one.key(), one)).collect();
            self.record(facts).await?;
            self.parties(|known| {
                known.interests = all;
                known.grouped = None;
            });
        }
        Ok(Imported { rows, recorded, left_out: LeftOut::new() })
    }

    /// Whether interests can be, at whatever time.
    fn possible(
        &self,
        interests: &[Interest],
        kinds: &BTreeMap<PartyId, CustomerKind>,
    ) -> Result<(), PartyError> {
        let of_persons = interests.iter().filter(|interest| {
            interest.kind == InterestKind::Shareholding
                && kinds.get(&interest.asset) == Some(&CustomerKind::Person)
        });
        let mut bad: Vec<String> =
            of_persons.map(|interest| BadInterest { interest: interest.key() }.to_string()).collect();
        // Votes of which nobody tells how many are, may be its own shares.
        let of_itself = |one: &&Interest| {
            one.owner == one.asset && one.is_control() && (one.share.is_some() || one.is_certain_control())
        };
        bad.extend(
            interests
                .iter()
                .filter(of_itself)
                .map(|one| format!("interest of {0} in {0}: nobody controls itself", one.owner)),
        );
        if bad.is_empty() { Ok(()) } else { Err(PartyError::Bad(bad)) }
    }

    /// What is kept of a party as it was handed over.
    fn as_told(&self, sealed: &SealedCustomer) -> Result<Told, KeyError> {
        let party = self.keys.open_party(sealed)?;
        let (control_group, standing) = (sealed.control_group.clone(), sealed.standing.clone());
        Ok(Told { control_group, standing, party })
    }

    /// Records what a person decided about two parties.
    pub async fn link(&self, link: Link) -> Result<(), PartyError> {
        said(&By { actor: link.by.clone(), reason: link.reason.clone() })?;
        let app = self.clone();
        let done = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            let known = app.customers();
            for party in [&link.one, &link.other] {
                if !known.contains_key(party.as_str()) {
                    return Err(PartyError::NoParty(party.to_string()));
                }
            }
            if link.one == link.other {
                return Err(PartyError::Bad(vec![format!("{} and itself are one party", link.one)]));
            }
            app.record(vec![fact(record::GROUP_LINK, &link.key(), &link)]).await?;
            app.parties(|known| {
                known.links.insert(link.key(), link);
                known.grouped = None;
            });
            Ok(())
        });
        done.await.unwrap_or(Err(PartyError::Commit(CommitError::Unwritable)))
    }

    /// Opens a party for somebody to look at, after that was recorded.
    pub async fn reveal(&self, id: &str, what: &str, by: &By) -> Result<(SealedCustomer, Party), PartyError> {
        said(by)?;
        let known = self.customers();
        let sealed = known.get(id).ok_or_else(|| PartyError::NoParty(id.to_owned()))?;
        // What does not open is no look.
        let party = self.keys.open_party(sealed)?;
        let look = serde_json::json!({
            "act": "identity_opened", "customer": sealed.customer, "what": what,
            "actor": by.actor, "reason": by.reason,
        });
        self.record(vec![fact(record::AUDIT, id, &look)]).await?;
        Ok((sealed.clone(), party))
    }

    /// From which share on an owner is a beneficial one: the smallest that a pack in use names, if one does.
    pub fn owner_line(&self) -> Option<Share> {
        let used = self.packs.iter().filter(|(_, used)| *used);
        let percent = used.filter_map(|(pack, _)| Some(pack.beneficial_owner.as_ref()?.percent)).min()?;
        Share::from_millionths(u32::from(percent) * 10_000)
    }

    /// From which part on persons under a measure bring a body under theirs, by the strictest pack in use that says so.
    pub fn measured_line(&self) -> Option<Share> {
        let used = self.packs.iter().filter(|(_, used)| *used);
        let percent = used.filter_map(|(pack, _)| Some(pack.measured_owners.as_ref()?.percent)).min()?;
        Share::from_millionths(u32::from(percent) * 10_000)
    }

    /// Who stands behind a party, as far as it is known.
    pub fn stands_behind(&self, id: &PartyId) -> StandsBehind {
        let (groups, now) = (self.groups(), self.now());
        let interests = self.parties(|known| {
            let of_it = |one: &&Interest| (one.owner == *id || one.asset == *id) && one.holds_at(now);
            known.interests.values().filter(of_it).cloned().collect()
        });
        let place = groups.1.place(id);
        let owners = place.map(|place| groups.1.ownership.owners_of(place));
        let overheld = place.is_some_and(|place| groups.1.ownership.overheld().contains(&place));
        StandsBehind { interests, owners, parties: groups, overheld }
    }

    /// Every act on a party that was recorded, with when, in order.
    pub async fn history_of(&self, id: &str) -> Result<Vec<(UtcMillis, serde_json::Value)>, PartyError> {
        let mut acts = Vec::new();
        for kind in [record::AUDIT, record::HOLD, record::ERASURE] {
            let of_it = self.store.records(kind).await?.into_iter().filter(|row| row.key == id);
            acts.extend(
                of_it.map(|row| {
                    (row.index, row.received, serde_json::json!({ "kind": kind, "said": row.body }))
                }),
            );
        }
        acts.sort_by_key(|(index, ..)| *index);
        Ok(acts.into_iter().map(|(_, at, said)| (at, said)).collect())
    }

    /// Every interest that was told, in order of its key.
    pub fn all_interests(&self) -> Vec<Interest> {
        self.parties(|known| known.interests.values().cloned().collect())
    }

    /// What was decided about signs, in order of the parties.
    pub fn links(&self) -> Vec<Link> {
        self.parties(|known| known.links.values().cloned().collect())
    }
}

fn said(by: &By) -> Result<(), PartyError> {
    if by.actor.trim().is_empty() {
        return Err(PartyError::Blank("the actor"));
    }
    if by.reason.trim().is_empty() {
        return Err(PartyError::Blank("the reason"));
    }
    Ok(())
}
