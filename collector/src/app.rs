//! The running collector: ledger, fold, store, packs and cases, wired together.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64},
    },
};

use tokio::sync::watch;
use weighbridge_casework::{Case, CaseEvent, Finding, RulePack};
use weighbridge_journal::fail;
use weighbridge_meter::{AgentId, Estimator, UtcMillis, estimate::METHOD};
use weighbridge_registry::{KeyError, KeyStore, blind::Blind, places::Places as NetworkPlaces};
use weighbridge_store::{
    Fact, Ledger, Place, RecordRow, SqliteStore, StoreError, UsageStore,
    entry::AgentFact,
    follow::{FollowError, Shared},
    ledger::{CommitError, LedgerError, PruneError},
    tree::{LogPaths, TreeError},
    verify::public_key,
};
use weighbridge_wire::{KeyId, SigningKey, VerifyingKey};

use crate::{
    alarm::Alarm,
    config::{Config, Secret},
    enrol::Enrolment,
    ingest::{delays::Delays, opener::Opener, quota::Quotas, status::LastSaid},
    integrity::IntegrityFinding,
    judge::Nearing,
    metrics::Metrics,
    opening::{self, Mended, OpeningError, Places, Sums},
    operator::{self, OperatorKeyAt},
    packs,
    parties::{Parties, PartyError},
    pdf::ExtraFont,
    random,
    rotation::RotationError,
    tls::{Trust, TrustError},
    tree::{self, Tree},
    view::View,
};

/// Tells the time; another one in the demo and in tests.
pub type Clock = Arc<dyn Fn() -> UtcMillis + Send + Sync>;

/// Kinds of records that the collector keeps in the ledger.
pub mod record {
    /// A customer, identity sealed.
    pub const CUSTOMER: &str = "customer";
    /// What one party holds of another, or decides in it.
    pub const INTEREST: &str = "interest";
    /// What a person decided about a sign that two parties belong together.
    pub const GROUP_LINK: &str = "group_link";
    /// An order to keep what is known of a party, or its end.
    pub const HOLD: &str = "hold";
    /// How far the erasure of a party has come.
    pub const ERASURE: &str = "erasure";
    /// A reservation, a declaration, or another statement.
    pub const STATEMENT: &str = "statement";
    /// The figures of the moment at which somebody attested.
    pub const ATTESTED: &str = "attested_figures";
    /// The log of uses of the service by a customer, sealed.
    pub const ACCESSES: &str = "accesses";
    /// A mirror of the key store was brought up to date.
    pub const KEY_MIRROR: &str = "key_mirror";
    /// A finding.
    pub const FINDING: &str = "finding";
    /// A step of a case.
    pub const CASE: &str = "case";
    /// Answers of a customer to the questions of a report, sealed.
    pub const ANSWERS: &str = "answers";
    /// A report as it was drafted, sealed.
    pub const REPORT: &str = "report";
    /// How a pack is in use, whenever that changes.
    pub const PACK: &str = "pack";
    /// The text of a version of a pack that was in use.
    pub const PACK_TEXT: &str = "pack_text";
    /// An act on identities.
    pub const AUDIT: &str = "audit";
    /// Two sources of one accelerator that cannot both be right.
    pub const INTEGRITY: &str = "integrity";
    /// Two histories under one identity.
    pub const ALARM: &str = "alarm";
    /// Why the store goes on under another generation.
    pub const GENERATION: &str = "generation";
    /// What becomes of a join token.
    pub const JOIN_TOKEN: &str = "join_token";
    /// An agent was shut out or let in again.
    pub const DENIAL: &str = "denial";
    /// A step of the certificate authority.
    pub const AUTHORITY: &str = "authority";
}

/// The collector cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder cannot be made.
    #[error("{}: cannot be made or read", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The tree over the ledger.
    #[error("the tree over the ledger cannot be signed")]
    Tree(#[from] TreeError),
    /// The sums.
    #[error("the sums cannot be opened")]
    Store(#[from] StoreError),
    /// What lies on the disk.
    #[error(transparent)]
    Opening(#[from] OpeningError),
    /// What was to be removed.
    #[error(transparent)]
    Prune(#[from] PruneError),
    /// The replay.
    #[error("the sums cannot be brought up to the ledger")]
    Follow(#[from] FollowError),
    /// What is known of parties.
    #[error("what is known of parties")]
    Parties(#[from] Box<PartyError>),
    /// The keys.
    #[error("the keys of customers")]
    Keys(#[from] KeyError),
    /// The operator's key.
    #[error("operator key from {from}: {problem}")]
    OperatorKey {
        /// From where it was to come.
        from: String,
        /// Why it did not.
        problem: String,
    },
    /// A change of the operator's key that was begun.
    #[error("the change of the operator's key that was begun cannot be finished")]
    Rotation(#[from] RotationError),
    /// TLS.
    #[error("trust between machines cannot be set up")]
    Trust(#[from] TrustError),
    /// The first facts.
    #[error("the ledger took no facts")]
    Commit(#[from] CommitError),
    /// A pack is another than was in use under its name.
    #[error(
        "rule pack {pack}: its text is another (SHA-256 {found}) than was in use under this name ({recorded}), and \
         findings and cases name it; put the old text back and give the changed one a version of its own, {next}"
    )]
    PackChanged {
        /// Its id and version.
        pack: String,
        /// The name of the file of the next version.
        next: String,
        /// SHA-256 of the text that was in use.
        recorded: String,
        /// Of the one that is there.
        found: String,
    },
    /// A record in the ledger does not read back.
    #[error("ledger entry {index}: {kind} {key:?} does not read back: {problem}")]
    Record {
        /// Which entry.
        index: u64,
        /// Which kind.
        kind: &'static str,
        /// Which.
        key: String,
        /// Why.
        problem: String,
    },
}

/// Findings and cases, as recorded.
#[derive(Clone, Debug, Default)]
pub struct Casebook {
    /// By id.
    pub findings: BTreeMap<String, Finding>,
    /// By id.
    pub cases: BTreeMap<String, Case>,
    /// Findings of integrity, by id.
    pub integrity: BTreeMap<String, IntegrityFinding>,
    /// Alarms, by id.
    pub alarms: BTreeMap<String, Alarm>,
}

/// The running collector; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Its parts.
pub struct Inner {
    /// Sums.
    pub store: Arc<SqliteStore>,
    /// The truth.
    pub ledger: Ledger,
    /// State as of the last write of sums.
    pub shared: Shared,
    /// Turns windows into operations.
    pub estimator: Estimator,
    /// The newest version of each pack, and whether totals are compared with it.
    pub packs: Vec<(RulePack, bool)>,
    /// All other versions that are loaded or were in use.
    pub older_packs: Vec<RulePack>,
    /// Who signed packs of the folder, by `<id>@<version>`.
    pub pack_signers: BTreeMap<String, Vec<String>>,
    /// Who may tell what came of a verification.
    pub(crate) providers: BTreeMap<String, Secret>,
    /// Where on the network addresses are.
    pub(crate) places_known: Arc<NetworkPlaces>,
    /// Opens identities.
    pub keys: KeyStore,
    /// What connections of agents are accepted with.
    pub trust: Trust,
    /// Who may send.
    pub enrolment: Enrolment,
    /// Tells the time.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
    /// The tree over the ledger.
    pub tree: Tree,
    /// Checks signatures.
    pub opener: Opener,
    /// What each agent may send.
    pub quotas: Quotas,
    /// Clocks that were found off and are measured again.
    pub delays: Delays,
    /// What agents say of themselves ahead of their batches.
    pub said: LastSaid,
    signing: SigningKey,
    /// Where the next start gets the operator's key from.
    pub(crate) operator_key: OperatorKeyAt,
    /// One at a time.
    pub(crate) rotating: tokio::sync::Mutex<()>,
    stands: watch::Receiver<Place>,
    fault: watch::Receiver<Option<String>>,
    /// Where things lie.
    pub places: Places,
    /// What this start mended.
    pub mended: Mended,
    /// How far the ledger is promised is noted by one at a time.
    pub(crate) noting: Arc<Mutex<()>>,
    agents: RwLock<HashMap<KeyId, (AgentFact, VerifyingKey)>>,
    pub(crate) registry: RwLock<Parties>,
    /// Who has which name, number or address; in memory only.
    pub(crate) index: RwLock<Blind>,
    /// Whether it is whole.
    pub(crate) indexed: AtomicBool,
    casebook: Mutex<Casebook>,
    /// One at a time: an import decides on what is there, a judge raises each finding once.
    pub(crate) writing: tokio::sync::Mutex<()>,
    /// Whether whoever decided a case may not also carry that out.
    pub(crate) second_person: bool,
    /// From which part of a line on, in per cent, whoever nears it is named.
    pub(crate) attention_percent: u8,
    /// Who nears a line, by the last comparison.
    pub(crate) nearing: Mutex<Vec<Nearing>>,
    /// A further font for reports on paper.
    pub(crate) report_font: Option<ExtraFont>,
    pub(crate) viewed: tokio::sync::Mutex<Option<(Place, Arc<View>)>>,
    /// As of when older hours were last added up.
    pub(crate) rolled_at: AtomicI64,
}

impl App {
    /// Opens everything under the configured folders and replays the ledger; ingest may open after this.
    pub async fn start(config: &Config, clock: Clock) -> Result<Self, StartError> {
        let folder = |path: &Path| {
            std::fs::create_dir_all(path).map_err(|source| StartError::Folder { path: path.into(), source })
        };
        folder(&config.data)?;
        let (keys, other_key) = operator::key_store(config)?;
        let now = clock();
        let places = Places::of(config);
        // It locks: of two that start, one makes the keys that are not there yet.
        let mut open = opening::ledger(config, now)?;
        keys.settle(&mut random::fill)?;
        let trust = Trust::open(&config.security, &keys, clock.clone())?;
        let signing = signing_key(&config.key_store.join("collector-signing.key"))?;
        let estimator = Estimator::shipped();
        let Sums { store, follower, mended } = opening::sums(&places, &open, &estimator, now).await?;
        let shared = follower.shared();
        let older_packs = packs::older(&store, &config.packs, &config.older_packs).await?;
        let paths = LogPaths::of(&config.data, &config.key_store);
        let tree = tree::open(paths, &config.tree.site, &signing, &mut open, now).await?;
        store.set_origin(&open.generation().to_string()).await?;
        let renewal = open.pending_renewal().cloned();
        let cursors = store.cursors().await?;
        let ledger = shared.with(|state| open.start(cursors, state));
        let tree = tree.start(&config.tree, &signing, ledger.durable(), clock.clone());
        let (announce, stands) = watch::channel(*ledger.durable().borrow());
        let (announce_fault, fault) = watch::channel(None);
        let durable = ledger.durable();
        let follower = follower.with_tail(ledger.tail());
        fold_apart(async move {
            if let Err(error) = follower.run(durable, announce).await {
                let problem = weighbridge_store::verify::chain_of(&error);
                tracing::error!(problem, "the fold has stopped: sums no longer follow the ledger");
                announce_fault.send_replace(Some(problem));
            }
        });
        let app = Self(Arc::new(Inner {
            casebook: Mutex::new(casebook(&store).await?),
            registry: RwLock::new(Parties::read(&*store).await?),
            index: RwLock::new(Blind::new(&mut random::fill)),
            indexed: AtomicBool::new(false),
            agents: RwLock::default(),
            enrolment: Enrolment::read(&store).await?,
            trust,
            store,
            ledger,
            shared,
            estimator,
            packs: config.packs.clone(),
            older_packs,
            pack_signers: config.pack_signers.clone(),
            providers: config.verification.clone(),
            places_known: config.databases.clone(),
            keys,
            clock,
            metrics: Metrics::default(),
            tree,
            // The other half is for requests, the ledger and the fold.
            opener: Opener::start(std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2)),
            quotas: Quotas::new(config.quota),
            delays: Delays::default(),
            said: LastSaid::default(),
            signing,
            operator_key: config.operator_key.clone(),
            rotating: tokio::sync::Mutex::default(),
            stands,
            fault,
            places,
            mended,
            noting: Arc::default(),
            writing: tokio::sync::Mutex::default(),
            second_person: config.second_person,
            attention_percent: config.attention_percent,
            nearing: Mutex::default(),
            report_font: config.report_font.clone(),
            viewed: tokio::sync::Mutex::default(),
            rolled_at: AtomicI64::new(i64::MIN),
        }));
        app.learn_agents();
        app.settle_history(renewal).await?;
        app.finish_erasures().await.map_err(Box::new)?;
        app.build_index();
        app.announce().await?;
        // One that was interrupted.
        app.finish_rotation("the start of the collector", other_key.as_ref()).await?;
        Ok(app)
    }

    /// Records method, packs and authorities where they are not what the ledger says was last in use.
    async fn announce(&self) -> Result<(), StartError> {
        let figures_sha256 = weighbridge_store::fold::hex(&self.estimator.figures_sha256());
        let method = (METHOD.to_owned(), figures_sha256.clone());
        let mut facts = Vec::new();
        if self.shared.with(|state| state.method.as_ref() != Some(&method)) {
            facts.push(Fact::Method { method: method.0, figures_sha256 });
        }
        facts.extend(packs::unrecorded(&self.store, &self.packs, &self.pack_signers).await?);
        if let Some(step) = self.unrecorded_step().await? {
            tracing::warn!("the authorities are others than the ledger says last: a step was not recorded");
            facts.push(step);
        }
        if !facts.is_empty() {
            self.record(facts).await?;
        }
        Ok(())
    }

    /// Commits facts and waits until the sums reflect them.
    pub async fn record(&self, facts: Vec<Fact>) -> Result<(), CommitError> {
        let place = self.ledger.record((self.clock)(), facts).await?;
        self.reaches(place).await;
        Ok(())
    }

    /// Waits until the sums reflect everything before `place`, or the fold has stopped.
    pub async fn reaches(&self, place: Place) {
        let mut stands = self.stands.clone();
        // An error means that the fold has stopped; `fault` says why.
        drop(stands.wait_for(|stands| *stands >= place).await);
    }

    /// Waits until the sums reflect everything that is durable now.
    pub async fn settled(&self) {
        let durable = *self.ledger.durable().borrow();
        self.reaches(durable).await;
    }

    /// Up to where the sums reflect the ledger.
    pub fn stands(&self) -> Place {
        *self.stands.borrow()
    }

    /// Why the fold has stopped, if it has.
    pub fn fault(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    /// Now.
    pub fn now(&self) -> UtcMillis {
        (self.clock)()
    }

    /// The agent that signs with this key, valid now.
    pub fn agent(&self, key: KeyId) -> Option<(AgentFact, VerifyingKey)> {
        let now = self.now();
        let agents = self.agents.read().unwrap_or_else(PoisonError::into_inner);
        let (fact, key) = agents.get(&key)?;
        let valid = fact.valid_from <= now && fact.valid_to.is_none_or(|end| now < end);
        valid.then(|| (fact.clone(), *key))
    }

    /// The keys that this agent may sign with now.
    pub fn keys_of(&self, agent: &AgentId) -> Vec<(AgentFact, VerifyingKey)> {
        let now = self.now();
        let agents = self.agents.read().unwrap_or_else(PoisonError::into_inner);
        let valid = |fact: &AgentFact| {
            fact.agent == *agent && fact.valid_from <= now && fact.valid_to.is_none_or(|end| now < end)
        };
        agents.values().filter(|(fact, _)| valid(fact)).cloned().collect()
    }

    /// Takes the enrolled agents from the state.
    pub fn learn_agents(&self) {
        let known = self.shared.with(|state| {
            let facts = state.agents.values().flatten();
            facts
                .filter_map(|fact| {
                    public_key(&fact.public_key).map(|key| (KeyId::of(&key), (fact.clone(), key)))
                })
                .collect()
        });
        *self.agents.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Findings and cases.
    pub fn casebook(&self) -> MutexGuard<'_, Casebook> {
        self.casebook.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest pack with this id.
    pub fn pack(&self, id: &str) -> Option<&RulePack> {
        self.packs.iter().map(|(pack, _)| pack).find(|pack| pack.id == id)
    }

    /// The pack in this version, the newest or an older one.
    pub fn pack_version(&self, id: &str, version: &str) -> Option<&RulePack> {
        let all = self.packs.iter().map(|(pack, _)| pack).chain(&self.older_packs);
        all.into_iter().find(|pack| pack.id == id && pack.version == version)
    }

    /// Whether a request may import and open identities: it shows the [`admin_token`].
    pub fn is_admin(&self, token: &str) -> bool {
        self.keys.accepts(token)
    }

    /// Signs promises.
    pub fn signing_key(&self) -> &SigningKey {
        &self.signing
    }
}

/// Runs the fold on a thread of its own: what it computes must not stand between a batch and its acknowledgement.
fn fold_apart(fold: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::Builder::new().name("fold".into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let run = move || match runtime {
        Ok(runtime) => runtime.block_on(fold),
        Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "the fold cannot be run"),
    };
    drop(thread.spawn(run).expect("a thread can be started at start-up"));
}

/// What a program on this host must show to import or to open an identity: it follows from the operator's key,
/// so that only who can get that has it. A hash, so that the key itself never travels.
pub fn admin_token(operator_key: &OperatorKeyAt) -> Result<String, StartError> {
    Ok(operator_key.read()?.token())
}

/// The key that signs promises, or a witness's; made when missing.
pub(crate) fn signing_key(file: &Path) -> Result<SigningKey, StartError> {
    let failed = |source| StartError::Folder { path: file.into(), source };
    let read = match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            match make_signing_key(file) {
                // Somebody else has made it just now: there is one key.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => made.map_err(failed)?,
            }
            std::fs::read(file)
        }
        read => read,
    };
    let invalid = |_| std::io::Error::new(std::io::ErrorKind::InvalidData, "expected 32 bytes");
    let bytes = read.and_then(|bytes| bytes.try_into().map_err(invalid)).map_err(failed)?;
    Ok(SigningKey::from_bytes(&bytes))
}

/// Whole or not there: a crash in between must not leave half a key. Never in the place of another.
fn make_signing_key(file: &Path) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let half = file.with_extension("new");
    match std::fs::remove_file(&half) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?;
    let bytes: [u8; 32] = random::bytes();
    fail::around("signing_key.write", || new.write_all(&bytes).and_then(|()| new.sync_all()))?;
    let linked = fail::around("signing_key.replace", || std::fs::hard_link(&half, file));
    std::fs::remove_file(&half)?;
    linked?;
    match file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

pub(crate) fn unreadable(kind: &'static str, row: &RecordRow, problem: impl ToString) -> StartError {
    StartError::Record { index: row.index, kind, key: row.key.clone(), problem: problem.to_string() }
}

async fn casebook(store: &SqliteStore) -> Result<Casebook, StartError> {
    let mut book = Casebook::default();
    for row in store.records(record::FINDING).await? {
        let finding: Finding = serde_json::from_value(row.body.clone())
            .map_err(|error| unreadable(record::FINDING, &row, error))?;
        book.findings.insert(finding.id.clone(), finding);
    }
    for row in store.records(record::INTEGRITY).await? {
        let finding: IntegrityFinding = serde_json::from_value(row.body.clone())
            .map_err(|error| unreadable(record::INTEGRITY, &row, error))?;
        // It never moves: the first record counts.
        book.integrity.entry(finding.id.clone()).or_insert(finding);
    }
    for row in store.records(record::ALARM).await? {
        let alarm: Alarm = serde_json::from_value(row.body.clone())
            .map_err(|error| unreadable(record::ALARM, &row, error))?;
        book.alarms.entry(alarm.id.clone()).or_insert(alarm);
    }
    for row in store.records(record::CASE).await? {
        let event: CaseEvent = serde_json::from_value(row.body.clone())
            .map_err(|error| unreadable(record::CASE, &row, error))?;
        let case = match book.cases.remove(&row.key) {
            Some(case) => case.apply(event),
            None => Case::open(&row.key, event),
        };
        let case = case.map_err(|error| unreadable(record::CASE, &row, error))?;
        book.cases.insert(row.key, case);
    }
    Ok(book)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_start_at_once_never_hold_two_keys() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("collector-signing.key");
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| signing_key(&file))).collect();
            threads.into_iter().map(|thread| thread.join().expect("does not panic")).collect()
        });
        let kept = signing_key(&file).expect("made by now");
        // One that was disturbed may say so, and starts again; none has a key that is not there.
        for key in made.into_iter().flatten() {
            assert_eq!(key.to_bytes(), kept.to_bytes());
        }
    }
}
