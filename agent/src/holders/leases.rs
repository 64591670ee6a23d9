//! Leases from a CSV file: `lease,host,accelerator,principal,start,end`.
//!
//! `accelerator` is an id, or `*` for all of the host; rows of other hosts are ignored, so one file can serve a
//! fleet. A lease is recorded once, with the end that is known in advance, and again when the file changes it.
//! A row that disappears ended when that was noticed. A file that cannot be read, or has one bad row, changes
//! nothing: the last good one stays in force, and the state says so.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Deserialize;
use weighbridge_meter::{AcceleratorId, AttemptId, Evidence, Holding, Principal, Span, UtcMillis};

use super::{HolderStates, Seen, Witness};
use crate::engine::HolderNews;

/// The file is looked at this often.
const LOOK_EVERY_MS: u64 = 10_000;

/// A larger file is no lease file.
const LONGEST_FILE: u64 = 16 << 20;

/// As many accelerators as one record can name.
const MOST_ACCELERATORS: usize = 1024;

/// One row that is for this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name, unique in the file together with host and accelerator.
    pub lease: String,
    /// One accelerator, or all of the host.
    pub accelerator: Option<AcceleratorId>,
    /// Who.
    pub principal: Principal,
    /// From when to when.
    pub span: Span,
}

/// A lease file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Not readable.
    #[error("cannot read lease file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Readable, but wrong.
    #[error("lease file, line {line}, column {column}: {value:?} is not {expected}")]
    Malformed {
        /// From 1, the header being 1.
        line: u64,
        /// Name of the column.
        column: &'static str,
        /// What stood there.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
}

/// How a lease file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// None is configured.
    Unused,
    /// It was read and is in force.
    Ok,
    /// It is not there or cannot be read.
    Unreadable,
    /// Something in it cannot be.
    Malformed,
}

impl LeaseState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Unused, Self::Ok, Self::Unreadable, Self::Malformed];

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Ok => "ok",
            Self::Unreadable => "unreadable",
            Self::Malformed => "malformed",
        }
    }
}

#[derive(Deserialize)]
struct Row {
    lease: String,
    host: String,
    accelerator: String,
    principal: String,
    start: String,
    end: String,
}

/// The rows for `host`. One bad row, of whichever host, makes the whole file bad.
pub fn parse(text: &str, host: &str) -> Result<Vec<Lease>, LeaseError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let mut leases: Vec<Lease> = Vec::new();
    let headers = reader.headers().map_err(|error| broken(&error))?.clone();
    for column in ["lease", "host", "accelerator", "principal", "start", "end"] {
        if !headers.iter().any(|header| header == column) {
            let value = headers.iter().collect::<Vec<_>>().join(",").chars().take(80).collect();
            return Err(LeaseError::Malformed {
                line: 1,
                column,
                value,
                expected: "a header with this column",
            });
        }
    }
    for record in reader.records() {
        let record = record.map_err(|error| broken(&error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let row: Row = record.deserialize(Some(&headers)).map_err(|error| broken(&error))?;
        let bad = |column, value: &str, expected| LeaseError::Malformed {
            line,
            column,
            value: value.chars().take(80).collect(),
            expected,
        };
        let attempt = attempt(&row.lease);
        let Ok(_) = attempt else {
            return Err(bad("lease", &row.lease, "1 to 180 printable characters without blanks"));
        };
        let accelerator = match row.accelerator.as_str() {
            "*" => None,
            id => Some(id.parse().map_err(|_| bad("accelerator", id, "an accelerator id or *"))?),
        };
        let principal = row
            .principal
            .parse()
            .map_err(|_| bad("principal", &row.principal, "a principal such as slurm:cluster/account"))?;
        let time = |column, text: &str| {
            text.parse::<UtcMillis>()
                .map_err(|_| bad(column, text, "an RFC 3339 time such as 2026-01-31T08:00:00Z"))
        };
        let (start, end) = (time("start", &row.start)?, time("end", &row.end)?);
        let span = Span::new(start, end).ok_or_else(|| bad("end", &row.end, "after the start"))?;
        let century = UtcMillis::DAY * 366 * 100;
        if span.millis() > century.unsigned_abs() {
            return Err(bad("end", &row.end, "within a century after the start"));
        }
        if row.host != host {
            continue;
        }
        if leases.iter().any(|other| other.lease == row.lease && other.accelerator == accelerator) {
            return Err(bad("lease", &row.lease, "unique for its host and accelerator"));
        }
        leases.push(Lease { lease: row.lease, accelerator, principal, span });
    }
    Ok(leases)
}

fn broken(error: &csv::Error) -> LeaseError {
    LeaseError::Malformed {
        line: error.position().map_or(1, csv::Position::line),
        column: "(all)",
        value: error.to_string().chars().take(120).collect(),
        expected: "a row with the columns lease,host,accelerator,principal,start,end",
    }
}

/// The lease's own name, so that a collector that knows the same lease sees one claim and not two.
fn attempt(lease: &str) -> Result<AttemptId, weighbridge_meter::identity::BadName> {
    lease.parse()
}

/// By lease name and accelerator column: as last recorded.
type Recorded = BTreeMap<(String, Option<AcceleratorId>), Holding>;

/// A lease file and what was recorded from it.
#[derive(Debug)]
pub struct LeaseFile {
    path: PathBuf,
    host: String,
    state: LeaseState,
    last_look_ms: Option<u64>,
    seen: Option<(SystemTime, u64)>,
    leases: Vec<Lease>,
    /// By lease name and accelerator column: as last recorded.
    recorded: Recorded,
    /// Up to when starts and ends have been acted upon.
    reached: Option<UtcMillis>,
}

impl Witness for LeaseFile {
    /// Reads the file if it is time to and it changed.
    fn look(&mut self, seen: &Seen<'_>, news: &mut HolderNews) {
        let now = seen.now;
        let due = self.last_look_ms.is_none_or(|last| now.boot_ms.saturating_sub(last) >= LOOK_EVERY_MS);
        let mut changed = seen.look.inventory_changed.is_some();
        if due {
            self.last_look_ms = Some(now.boot_ms);
            changed |= self.read();
        }
        if changed {
            self.record(now.wall, seen.accelerators, news);
        }
        self.cut(now.wall, news);
    }

    fn report(&self, states: &mut HolderStates) {
        states.leases = self.state;
    }
}

impl LeaseFile {
    /// Reads nothing before the first look.
    pub fn new(path: PathBuf, host: String) -> Self {
        Self {
            path,
            host,
            state: LeaseState::Unreadable,
            last_look_ms: None,
            seen: None,
            leases: Vec::new(),
            recorded: BTreeMap::new(),
            reached: None,
        }
    }

    /// How it is.
    pub fn state(&self) -> LeaseState {
        self.state
    }

    /// Whether other leases are in force than before.
    fn read(&mut self) -> bool {
        match self.read_if_changed() {
            Ok(None) => false,
            Ok(Some(leases)) => {
                self.state = LeaseState::Ok;
                let changed = leases != self.leases;
                self.leases = leases;
                changed
            }
            Err(error) => {
                let state = match &error {
                    LeaseError::Unreadable { .. } => LeaseState::Unreadable,
                    LeaseError::Malformed { .. } => LeaseState::Malformed,
                };
                tracing::warn!(
                    error = crate::uplink::chain(&error),
                    in_force = self.leases.len(),
                    "the lease file cannot be used; the last good one stays in force"
                );
                self.state = state;
                false
            }
        }
    }

    fn read_if_changed(&mut self) -> Result<Option<Vec<Lease>>, LeaseError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| LeaseError::Unreadable { path, source }
        };
        let metadata = fs::metadata(&self.path).map_err(unreadable(&self.path))?;
        let modified = metadata.modified().map_err(unreadable(&self.path))?;
        if self.seen == Some((modified, metadata.len())) && self.state != LeaseState::Unreadable {
            return Ok(None);
        }
        if metadata.len() > LONGEST_FILE {
            let source = std::io::Error::other(format!("it has more than {LONGEST_FILE} bytes"));
            return Err(LeaseError::Unreadable { path: self.path.clone(), source });
        }
        let text = fs::read_to_string(&self.path).map_err(unreadable(&self.path))?;
        // Also after a bad file: it is looked at again only once it changes.
        self.seen = Some((modified, metadata.len()));
        parse(&text, &self.host).map(Some)
    }

    /// Records what is new or different.
    fn record(&mut self, wall: UtcMillis, accelerators: &[AcceleratorId], news: &mut HolderNews) {
        let first = self.recorded.is_empty();
        let mut before = std::mem::take(&mut self.recorded);
        self.withdraw(&mut before, wall, news);
        for lease in &self.leases {
            let key = (lease.lease.clone(), lease.accelerator.clone());
            let old = before.remove(&key);
            // What ended before this run was recorded by the run before.
            if old.is_none() && first && lease.span.end() <= wall {
                continue;
            }
            let held: Vec<AcceleratorId> = accelerators
                .iter()
                .filter(|id| lease.accelerator.as_ref().is_none_or(|leased| leased == *id))
                .take(MOST_ACCELERATORS)
                .cloned()
                .collect();
            let Ok(attempt) = attempt(&lease.lease) else { continue };
            let holding = Holding {
                principal: lease.principal.clone(),
                attempt,
                accelerators: held,
                span: lease.span,
                evidence: Evidence::LeaseFile,
            };
            if holding.accelerators.is_empty() {
                continue;
            }
            if old.as_ref() != Some(&holding) {
                if lease.span.contains(wall) {
                    news.changed.extend(holding.accelerators.iter().cloned());
                }
                news.holdings.push(holding.clone());
            }
            self.recorded.insert(key, holding);
        }
    }

    /// Ends what the file no longer says, before anything new is recorded: the new may be of the same name.
    fn withdraw(&self, before: &mut Recorded, wall: UtcMillis, news: &mut HolderNews) {
        let gone: Vec<_> = before
            .iter()
            .filter(|((name, accelerator), holding)| {
                let says = |lease: &Lease| {
                    lease.lease == *name
                        && lease.accelerator == *accelerator
                        && lease.principal == holding.principal
                };
                !self.leases.iter().any(says)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            let Some(gone) = before.remove(&key).filter(|gone| gone.span.end() > wall) else { continue };
            // A lease taken back before it began leaves the shortest span there is.
            let end = wall.max(gone.span.start().plus(1));
            if let Some(span) = Span::new(gone.span.start(), end) {
                news.changed.extend(gone.accelerators.iter().cloned());
                news.holdings.push(Holding { span, ..gone });
            }
        }
    }

    /// Leases that began or ended since the last look change who holds a device.
    fn cut(&mut self, wall: UtcMillis, news: &mut HolderNews) {
        let Some(since) = self.reached.replace(wall) else { return };
        let crossed = |moment: UtcMillis| since < moment && moment <= wall;
        for holding in self.recorded.values() {
            if crossed(holding.span.start()) || crossed(holding.span.end()) {
                news.changed.extend(holding.accelerators.iter().cloned());
            }
        }
    }
}
