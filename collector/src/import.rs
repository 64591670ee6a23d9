//! Files of the operator become facts: checked as a whole, against themselves and against what is there.
//! Either every row is recorded or none.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    str::FromStr,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::Serialize;
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    CustomerRow, ImportErrors, KeyError, LeaseRow, LeaseSelector, Party, PartyId, PartyRecord,
    PrincipalMapping, SHOWN_FAULTS, SlurmRow, parse_agents, parse_customers, parse_interests, parse_leases,
    parse_parties, parse_principals_for, parse_records, parse_slurm, parse_statements,
    party::{Basis, StatusBasis},
    read_accesses, statement,
};
use weighbridge_store::{
    Fact, State, closed,
    entry::{AgentFact, Hint, JobFact, LeaseFact, MappingFact, Selector},
    ledger::CommitError,
};

use crate::{
    app::{App, record},
    judge::fact,
    parties::{BY_FILE, Format, How, PartyError, Told, told_by_file},
};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `customer,kind,us_person,control_group,name,...`
    Customers,
    /// `principal,customer,valid_from,valid_to`
    Principals,
    /// `lease,host,accelerator,principal,start,end`
    Leases,
    /// `agent,host,site,fabric,public_key,valid_from,valid_to,trust`, the last of which may be left out
    Agents,
    /// Parties: lines of JSON, or CSV with columns called as the paths of fields
    Parties,
    /// `owner,asset,kind,share,from,to,substantial_control`
    Interests,
    /// `customer,address,at[,what]`, or the same as lines of JSON
    Accesses,
    /// Parties and interests in a format that others use too
    Format(Format),
    /// Statements of one kind.
    Statements(statement::Kind),
    /// What `sacct -D --json` prints, or `sacct -D -P -X` with times in seconds
    Slurm,
}

impl Kind {
    /// As on the command line and in paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customers => "customers",
            Self::Principals => "principals",
            Self::Leases => "leases",
            Self::Agents => "agents",
            Self::Slurm => "slurm",
            Self::Parties => "parties",
            Self::Interests => "interests",
            Self::Accesses => "accesses",
            Self::Format(format) => format.as_str(),
            Self::Statements(kind) => kind.plural(),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = [
            Self::Customers,
            Self::Parties,
            Self::Interests,
            Self::Accesses,
            Self::Principals,
            Self::Leases,
            Self::Agents,
            Self::Slurm,
        ];
        let statements = statement::Kind::ALL.iter().map(|kind| Self::Statements(*kind));
        let formats = Format::ALL.map(Self::Format);
        let all: Vec<Self> = plain.into_iter().chain(formats).chain(statements).collect();
        all.iter().copied().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|kind| kind.as_str()).collect();
            format!("{text:?} is not one of {}", names.join(", "))
        })
    }
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Rows in the file.
    pub rows: usize,
    /// Of these recorded: the others were there already, unchanged.
    pub recorded: usize,
    /// What was left out, by what it is, and how much of it.
    #[serde(skip_serializing_if = "LeftOut::is_empty")]
    pub left_out: LeftOut,
}

/// What an import left out, and how often it stood in the file.
pub type LeftOut = BTreeMap<String, usize>;

/// As what who is erased is left out.
pub(crate) const ERASED: &str = "records of who is erased";

/// What was left out of one kind; nothing where there is none of it.
pub(crate) fn left_out(what: &str, count: usize) -> LeftOut {
    (count > 0).then(|| (what.to_owned(), count)).into_iter().collect()
}

/// Nothing of the file was recorded.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] ImportErrors),
    /// It contradicts what is there; one line each.
    #[error("{}", .0.join("\n"))]
    Contradiction(Vec<String>),
    /// A key of a customer.
    #[error("the keys of customers")]
    Keys(#[from] KeyError),
    /// The ledger.
    #[error("the ledger took nothing")]
    Commit(#[from] CommitError),
    /// What it says of parties.
    #[error(transparent)]
    Parties(PartyError),
}

impl From<PartyError> for ImportError {
    fn from(error: PartyError) -> Self {
        match error {
            PartyError::Bad(errors) => Self::Contradiction(errors),
            PartyError::Keys(error) => Self::Keys(error),
            PartyError::Commit(error) => Self::Commit(error),
            error => Self::Parties(error),
        }
    }
}

impl App {
    /// Imports one file. Once begun it goes to its end, even if whoever asked for it goes away.
    pub async fn import(&self, kind: Kind, file: &str, text: &[u8]) -> Result<Imported, ImportError> {
        self.import_how(kind, file, text, How::Record).await
    }

    /// Imports one file, or checks it as if.
    pub async fn import_how(
        &self,
        kind: Kind,
        file: &str,
        text: &[u8],
        how: How,
    ) -> Result<Imported, ImportError> {
        let (app, file, text) = (self.clone(), file.to_owned(), text.to_owned());
        let imported = tokio::spawn(async move { app.import_whole(kind, &file, &text, how).await });
        imported.await.unwrap_or(Err(ImportError::Commit(CommitError::Unwritable)))
    }

    /// Records leases that came one by one, as [`App::import`] does a file; `name` stands before what is wrong.
    pub async fn lease(&self, name: &str, rows: Vec<LeaseRow>) -> Result<Imported, ImportError> {
        let (app, name) = (self.clone(), name.to_owned());
        let taken = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            let (rows, facts) = app.new_leases(&name, &rows)?;
            let recorded = facts.len();
            if recorded > 0 {
                app.record(facts).await?;
            }
            Ok(Imported { rows, recorded, left_out: LeftOut::new() })
        });
        taken.await.unwrap_or(Err(ImportError::Commit(CommitError::Unwritable)))
    }

    /// How many rows there are, and what of them is new.
    fn new_leases(&self, file: &str, rows: &[LeaseRow]) -> Result<(usize, Vec<Fact>), ImportError> {
        let facts: Vec<LeaseFact> = rows.iter().map(lease).collect();
        let new = self.shared.with(|state| leases(state, file, &facts))?;
        Ok((facts.len(), new.into_iter().map(Fact::Lease).collect()))
    }

    async fn import_whole(
        &self,
        kind: Kind,
        file: &str,
        text: &[u8],
        how: How,
    ) -> Result<Imported, ImportError> {
        let _one_at_a_time = self.writing.lock().await;
        let mut others_left_out = LeftOut::new();
        let (rows, facts) = match kind {
            Kind::Agents => {
                let rows = parse_agents(file, text)?;
                let facts = rows.iter().map(|row| AgentFact {
                    agent: row.agent.clone(),
                    host: row.host.to_string(),
                    site: row.site.to_string(),
                    fabric: row.fabric.to_string(),
                    public_key: BASE64.encode(row.public_key.0),
                    valid_from: row.valid_from,
                    valid_to: row.valid_to,
                    max_trust: row.trust,
                });
                let new = self
                    .shared
                    .with(|state| facts.filter(|fact| !knows_agent(state, fact)).collect::<Vec<_>>());
                (rows.len(), new.into_iter().map(Fact::Agent).collect::<Vec<_>>())
            }
            Kind::Leases => self.new_leases(file, &parse_leases(file, text)?)?,
            Kind::Slurm => {
                let (rows, others) = parse_slurm(file, text)?;
                others_left_out = left_out("jobs without accelerators or not begun", others);
                let facts: Vec<JobFact> = rows.into_iter().map(|row| self.job(row)).collect();
                let new = self.shared.with(|state| jobs(state, file, &facts))?;
                (facts.len(), new.into_iter().map(Fact::Job).collect())
            }
            Kind::Principals => {
                let customers = self.customers();
                let rows = parse_principals_for(file, text, |customer| {
                    match customers.get(customer.as_str()) {
                        None => Some("is not known, expected one that is: import customers first"),
                        // What it used would be missing in its group.
                        Some(party) if party.standing.no_account => {
                            Some("has no account, expected one that has: record that it has one first")
                        }
                        Some(_) => None,
                    }
                })?;
                let new = self.shared.with(|state| mappings(state, &rows));
                (rows.len(), new.into_iter().map(Fact::Mapping).collect())
            }
            Kind::Statements(kind) => {
                let told = parse_statements(kind, file, text)?;
                return self.statements_told(told, how).await.map_err(ImportError::from);
            }
            Kind::Parties => {
                let records = if text
                    .strip_prefix(b"\xef\xbb\xbf")
                    .unwrap_or(text)
                    .trim_ascii_start()
                    .starts_with(b"{")
                {
                    parse_records(file, text)?
                } else {
                    let told = weighbridge_registry::Told { at: self.now(), by: BY_FILE[1] };
                    parse_parties(file, text, None, told)?
                };
                let told = records.into_iter().map(|PartyRecord { id, control_group, standing, party }| {
                    (id, Told { control_group, standing, party })
                });
                return self.put(told.collect(), how, None).await.map_err(ImportError::from);
            }
            Kind::Format(format) => return self.exchanged(format, file, text, how).await,
            Kind::Interests => {
                let told = parse_interests(file, text)?;
                return self.interests(told, how).await.map_err(ImportError::from);
            }
            Kind::Accesses => {
                let told = read_accesses(file, text, self.now())?;
                return self.accesses_told(told, how).await.map_err(ImportError::from);
            }
            Kind::Customers => {
                let rows = parse_customers(file, text)?;
                let (new, erased) = self.changed(&rows)?;
                others_left_out = left_out(ERASED, erased);
                let bad: Vec<String> = new.iter().flat_map(|(id, told)| self.cannot_be(id, told)).collect();
                if !bad.is_empty() {
                    let named = bad.into_iter().map(|problem| format!("{file}: {problem}"));
                    return Err(ImportError::Contradiction(named.collect()));
                }
                let recorded = new.len();
                if how == How::DryRun {
                    return Ok(Imported { rows: rows.len(), recorded, left_out: others_left_out });
                }
                let sealed = self.sealed(new)?;
                let facts = sealed
                    .iter()
                    .map(|customer| fact(record::CUSTOMER, customer.customer.as_str(), customer))
                    .collect();
                self.record(facts).await?;
                self.learn_customers(sealed);
                return Ok(Imported { rows: rows.len(), recorded, left_out: others_left_out });
            }
        };
        let recorded = facts.len();
        if recorded > 0 && how == How::Record {
            self.record(facts).await?;
        }
        self.learn_agents();
        Ok(Imported { rows, recorded, left_out: others_left_out })
    }

    /// A start of a job, with digests in place of a tenant's texts.
    fn job(&self, row: SlurmRow) -> JobFact {
        let texts = [
            (Hint::User, "user", row.user),
            (Hint::JobName, "job_name", row.job_name),
            (Hint::WorkDirectory, "work_directory", row.work_directory),
        ];
        let hints =
            texts.into_iter().filter_map(|(hint, kind, text)| Some((hint, self.keys.digest(kind, &text?))));
        JobFact {
            job: row.job,
            submitted: row.submitted,
            name: row.name,
            principal: row.principal,
            started: row.started,
            ended: row.ended,
            state: row.state,
            nodes: row.nodes,
            accelerators: row.accelerators,
            shares: row.shares,
            restart: row.restart,
            record: row.record,
            uid: row.uid,
            array: row.array,
            hints: hints.collect(),
        }
    }

    /// Customers that are new or say something new, and how many are erased. What is there is opened to compare and
    /// shown to nobody.
    fn changed(&self, rows: &[CustomerRow]) -> Result<(Vec<(PartyId, Told)>, usize), KeyError> {
        let known = self.customers();
        let mut new = Vec::new();
        let mut erased = 0;
        for row in rows {
            let before = known.get(row.customer.as_str());
            let opened = match before.map(|before| self.keys.open_party(before)).transpose() {
                // A feed goes on about who is erased for a while.
                Err(KeyError::KeyDestroyed { .. }) => {
                    erased += 1;
                    continue;
                }
                opened => opened?,
            };
            let mut party = opened.clone().unwrap_or_else(|| Party::unknown(row.kind));
            party.kind = row.kind;
            party.take(&row.identity);
            let mut standing = before.map(|before| before.standing.clone()).unwrap_or_default();
            let by_file = party.us_person.0.iter().rev().find(|basis| basis.by == BY_FILE[0]);
            let last = standing.told_by_file.or(by_file.map(|basis| basis.says));
            standing.told_by_file = Some(row.us_person);
            let word = StatusBasis {
                says: row.us_person,
                basis: Basis::Told,
                decides: true,
                at: self.now(),
                by: BY_FILE[0].into(),
                evidence: Vec::new(),
            };
            party.us_person = told_by_file(&party.us_person, last, word);
            let same = before.is_some_and(|before| {
                before.control_group == row.control_group && before.standing == standing
            });
            if same && opened.as_ref() == Some(&party) {
                continue;
            }
            let control_group = row.control_group.clone();
            new.push((row.customer.clone(), Told { control_group, standing, party }));
        }
        Ok((new, erased))
    }
}

/// Mappings that are new, or say of their span something else than what was last said of that span. What was said
/// before of a span, and corrected in a part of it since, is not said anew by the same file.
fn mappings(state: &State, rows: &[PrincipalMapping]) -> Vec<MappingFact> {
    let known = state.mappings.iter();
    let last: HashMap<_, _> = known
        .map(|fact| ((&fact.principal, fact.valid_from, fact.valid_to), fact.customer.as_str()))
        .collect();
    let new = rows.iter().filter(|row| {
        last.get(&(&row.principal, row.valid_from, row.valid_to)) != Some(&row.customer.as_str())
    });
    let fact = |row: &PrincipalMapping| MappingFact {
        principal: row.principal.clone(),
        customer: row.customer.to_string(),
        valid_from: row.valid_from,
        valid_to: row.valid_to,
    };
    new.map(fact).collect()
}

fn knows_agent(state: &State, fact: &AgentFact) -> bool {
    state.agents.get(&fact.agent).is_some_and(|known| known.contains(fact))
}

fn lease(row: &LeaseRow) -> LeaseFact {
    let selector = match &row.selector {
        LeaseSelector::WholeHost => Selector::All,
        LeaseSelector::Accelerator(id) => Selector::Accelerator(id.clone()),
        LeaseSelector::Count { count, vendor, device } => {
            Selector::Count { count: u32::from(*count), pci_device: format!("{vendor:04x}:{device:04x}") }
        }
    };
    LeaseFact {
        lease: row.lease.clone(),
        host: row.host.to_string(),
        selector,
        principal: row.principal.clone(),
        start: row.span.start(),
        end: row.span.end(),
    }
}

/// What of a host is leased, as an operator writes it.
pub(crate) fn selector_text(selector: &Selector) -> String {
    match selector {
        Selector::All => "*".to_owned(),
        Selector::Accelerator(id) => id.to_string(),
        Selector::Count { count, pci_device } => format!("{count}x{pci_device}"),
    }
}

/// Records of jobs that are new or changed, by the time at which they began. What one kind of file does not say, what
/// the other said before stays.
fn jobs(state: &State, file: &str, facts: &[JobFact]) -> Result<Vec<JobFact>, ImportError> {
    let mut new: BTreeMap<(&weighbridge_meter::AttemptId, UtcMillis), JobFact> = BTreeMap::new();
    let mut wrong = Vec::new();
    for fact in facts {
        let there = state.jobs.get(fact.job.as_str()).and_then(|starts| starts.get(&fact.submitted));
        let mut fact_now = fact.clone();
        if let Some(there) = there {
            fact_now.restart = fact.restart.or(there.restart);
            fact_now.record = fact.record.or(there.record);
            fact_now.uid = fact.uid.or(there.uid);
            fact_now.name = fact.name.clone().or_else(|| there.name.clone());
            fact_now.array = fact.array.or(there.array);
            // What an older release left out changes nothing that is closed.
            fact_now.shares = fact.shares.or(there.shares);
            if there.shares.is_none() && closed::job_changes_closed(state, &fact_now) {
                fact_now.shares = None;
            }
            for (hint, digest) in &there.hints {
                fact_now.hints.entry(*hint).or_insert_with(|| digest.clone());
            }
        }
        if closed::job_changes_closed(state, &fact_now) {
            let (job, started) = (&fact.job, fact.started);
            let before = state.closed_before.unwrap_or(started);
            wrong.push(format!(
                "{file}: job {job}, started {started}: hours before {before} are closed, what they were made of is \
                 pruned; it would change who held what in them"
            ));
        }
        let key = (&fact.job, fact.submitted);
        if there == Some(&fact_now) {
            new.remove(&key);
        } else {
            // Of two words of one file the later.
            new.insert(key, fact_now);
        }
    }
    if !wrong.is_empty() {
        return Err(ImportError::Contradiction(wrong));
    }
    let mut new: Vec<JobFact> = new.into_values().collect();
    new.sort_by(|a, b| (a.started, &a.job).cmp(&(b.started, &b.job)));
    Ok(new)
}

/// Counts of one kind of accelerator.
fn same_kind(a: &Selector, b: &Selector) -> bool {
    matches!((a, b), (Selector::Count { pci_device: a, .. }, Selector::Count { pci_device: b, .. }) if a == b)
}

/// What of a host a lease is for, and until when, for a message.
fn told(lease: &LeaseFact) -> String {
    let LeaseFact { lease, host, selector, principal, start, end } = lease;
    format!(
        "lease {lease} of {principal} for {} of host {host} from {start} to {end}",
        selector_text(selector)
    )
}

/// Leases that are new or changed. One that overlaps another that is there is refused, unless it replaces it:
/// the same lease of the same host and accelerators.
fn leases(state: &State, file: &str, facts: &[LeaseFact]) -> Result<Vec<LeaseFact>, ImportError> {
    let mut replaced: BTreeMap<&str, BTreeSet<(&weighbridge_meter::AttemptId, &Selector)>> = BTreeMap::new();
    for fact in facts {
        replaced.entry(&fact.host).or_default().insert((&fact.lease, &fact.selector));
    }
    let known: BTreeMap<_, _> = state
        .leases
        .values()
        .flat_map(BTreeMap::values)
        .map(|lease| (&lease.lease, &lease.principal))
        .collect();
    let mut wrong = Vec::new();
    let mut new = Vec::new();
    for (row, fact) in (1..).zip(facts) {
        // The lease is the attempt, and an attempt is one principal's.
        if let Some(other) = known.get(&fact.lease).filter(|other| ***other != fact.principal) {
            let (lease, principal) = (&fact.lease, &fact.principal);
            wrong.push(format!(
                "{file}: row {row}: lease {lease} is there for {other}, expected another name for {principal}"
            ));
        }
        let there = state.leases.get(fact.host.as_str());
        let key = (fact.lease.clone(), fact.selector.clone());
        if there.and_then(|leases| leases.get(&key)) == Some(fact) {
            continue;
        }
        for ((lease, selector), other) in there.into_iter().flatten() {
            let Some(both) = fact.span().zip(other.span()).and_then(|(a, b)| a.overlap(&b)) else { continue };
            let same_device = match (&fact.selector, selector) {
                (Selector::Accelerator(a), Selector::Accelerator(b)) => a == b,
                (Selector::Count { .. }, Selector::Count { .. }) => same_kind(&fact.selector, selector),
                _ => true,
            };
            let corrected = *lease == fact.lease && same_kind(selector, &fact.selector);
            let of_host = replaced.get(fact.host.as_str());
            let stays = !corrected && !of_host.is_some_and(|list| list.contains(&(lease, selector)));
            if stays && same_device {
                let (from, to) = (both.start(), both.end());
                wrong.push(format!(
                    "{file}: row {row}: {} overlaps {}, which is there, from {from} to {to}",
                    told(fact),
                    told(other)
                ));
            }
        }
        if closed::changes_closed(state, fact) {
            let before = state.closed_before.unwrap_or(fact.start);
            wrong.push(format!(
                "{file}: row {row}: {}: hours before {before} are closed, what they were made of is pruned; only what a \
                 lease says of later hours can change",
                told(fact)
            ));
        }
        new.push(fact.clone());
    }
    if wrong.is_empty() { Ok(new) } else { Err(ImportError::Contradiction(bounded(wrong))) }
}

/// A file of one mistake can contradict everything: as many lines as of faults in a file are shown.
fn bounded(mut wrong: Vec<String>) -> Vec<String> {
    let more = wrong.len().saturating_sub(SHOWN_FAULTS);
    wrong.truncate(SHOWN_FAULTS);
    wrong.extend((more > 0).then(|| format!("and {more} more")));
    wrong
}
