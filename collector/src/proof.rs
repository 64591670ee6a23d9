//! The proof of a report's figures: a file that is checked without ledger and database, on another machine.
//!
//! It names every ledger entry that the measured figures rest on, batches and facts, each by its leaf; shows that
//! all of these leaves are in a tree that the log signed, and witnesses cosigned; and lists the sums by accelerator,
//! hour and holder that add up to the figures. With the entries in it, whoever checks it verifies the agents' own
//! signatures and folds the sums anew.
//!
//! Paths of many leaves share most of their nodes, so each node is in the file once ([`proof::of_leaves`]): for a
//! case of 50,000 batches among ten million some 30 MB in place of 60, for one of a hundred batches some kilobytes.
//!
//! What gaps add is not in here: it depends on the moment of reading and follows from the inventory.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weighbridge_casework::Report;
use weighbridge_journal::{ReadError, Reader};
use weighbridge_meter::{AcceleratorId, AgentId, AttemptId, EpochId, Operations, Principal, UtcMillis};
use weighbridge_store::{
    HourlySum, Place, StoreError, UsageStore,
    entry::{Body, Entry, Fact, leaf_data},
    fold::hex,
    hour::HourKey,
    state::PlaceRow,
    tree::{TreeError, read_checkpoint, tiles::TileFolder},
    verify::public_key,
};
use weighbridge_tlog::{
    checkpoint::Checkpoint,
    note::{Note, VerifierKey},
    proof, to_base64,
};
use weighbridge_wire::{Envelope, KeyId, SigningKey};

use crate::app::App;

pub mod check;
pub mod refold;

/// What the file says it is.
pub const FORMAT: &str = "weighbridge-proof-v1";

/// How long a report waits for witnesses; without them the proof says so.
const WITNESS_PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);

/// Whether the entries themselves are in a proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// Their leaves alone: that they are in the ledger.
    #[default]
    Leaves,
    /// The entries too: what follows from them.
    Batches,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// [`FORMAT`].
    pub format: String,
    /// Of which case.
    pub case: String,
    /// SHA-256 of the report, see [`report_hash`].
    pub report_sha256: String,
    /// Key of the log.
    pub log: String,
    /// What the log and its witnesses signed.
    pub checkpoint: String,
    /// What is proved.
    pub figures: Figures,
    /// The sums that add up to it.
    pub rows: Vec<Row>,
    /// What these rest on, in order of the ledger.
    pub entries: Vec<Leaf>,
    /// Nodes of the tree that lead from the leaves to its root, base64.
    pub nodes: Vec<String>,
    /// The log's signature over all of the above.
    pub signature: String,
}

/// The measured figures of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// As of when.
    pub as_of: UtcMillis,
    /// Batches among the entries.
    pub batches: u64,
    /// Windows in them on accelerators of the report.
    pub windows: u64,
    /// Measured operations, at least.
    pub low_tera: Operations,
    /// Most plausibly.
    pub best_tera: Operations,
    /// At most.
    pub high_tera: Operations,
    /// Milliseconds measured.
    pub measured_ms: u64,
    /// Milliseconds bounded by a cumulative counter.
    pub interpolated_ms: u64,
    /// Whether folding the entries anew gave these sums when the proof was made; `false` without entries in it.
    pub recomputed: bool,
}

/// Sums of one accelerator, hour, holder and state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// On which.
    pub accelerator: AcceleratorId,
    /// Start of the UTC hour.
    pub hour: UtcMillis,
    /// Whose.
    pub principal: Principal,
    /// In which attempt.
    pub attempt: AttemptId,
    /// How it was held.
    pub state: String,
    /// At least.
    pub low_tera: Operations,
    /// Most plausibly.
    pub best_tera: Operations,
    /// At most.
    pub high_tera: Operations,
    /// Milliseconds measured.
    pub measured_ms: u64,
    /// Milliseconds bounded by a cumulative counter.
    pub interpolated_ms: u64,
}

impl Row {
    /// `None` where nobody is known to have held it.
    pub fn of(sum: &HourlySum) -> Option<Self> {
        let (principal, attempt) = sum.usage.holder.clone()?;
        let sums = &sum.usage.sums;
        Some(Self {
            accelerator: sum.usage.accelerator.clone(),
            hour: sum.hour,
            principal,
            attempt,
            state: sum.usage.state.as_str().into(),
            low_tera: sums.bound.low(),
            best_tera: sums.bound.best(),
            high_tera: sums.bound.high(),
            measured_ms: sums.measured_ms,
            interpolated_ms: sums.interpolated_ms,
        })
    }
}

/// A ledger entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// Its index in the ledger, from 1; the leaf's is one less.
    pub entry: u64,
    /// What the leaf holds, base64.
    pub data: String,
    /// What it is, for a person.
    pub what: String,
    /// All of it, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

/// A proof cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The ledger.
    #[error("the ledger cannot be read")]
    Ledger(#[from] ReadError),
    /// The tree.
    #[error("the tree cannot be read")]
    Tree(#[from] TreeError),
    /// The sums.
    #[error("the sums cannot be read")]
    Store(#[from] StoreError),
    /// Nothing is signed that has the entries.
    #[error("no signed checkpoint has all entries of the report: {0}")]
    NotSigned(String),
    /// The sums are not those that follow from the entries.
    #[error("the entries cannot be folded anew")]
    Refold(#[from] refold::RefoldError),
    /// The process ends.
    #[error("the work was broken off")]
    Stopped(#[from] tokio::task::JoinError),
}

/// SHA-256 of a report as a JSON value: its keys in order, without spaces.
pub fn report_hash(report: &serde_json::Value) -> String {
    hex(&Sha256::digest(report.to_string()))
}

/// What the log signs of a proof.
fn signed_text(proof: &Proof) -> String {
    let unsigned = Proof { signature: String::new(), ..proof.clone() };
    let bytes = serde_json::to_vec(&unsigned).expect("a proof has string keys and no failing parts");
    format!("weighbridge-proof/v1\n{}\n{}\n", proof.case, hex(&Sha256::digest(bytes)))
}

/// Which entries of the ledger a report rests on.
struct Wanted {
    accelerators: HashSet<AcceleratorId>,
    agents: HashSet<AgentId>,
    keys: HashSet<KeyId>,
    hosts: HashSet<String>,
    principals: HashSet<Principal>,
    /// Where batches lie that touch the hours.
    places: Vec<PlaceRow>,
}

/// An entry that was picked.
struct Picked {
    index: u64,
    payload: Vec<u8>,
    what: String,
    is_batch: bool,
    windows: u64,
}

impl Wanted {
    fn fact(&self, fact: &Fact) -> Option<String> {
        match fact {
            Fact::Method { method, .. } => Some(format!("method {method}")),
            Fact::ClockOffset { agent, .. } if self.agents.contains(agent) => {
                Some(format!("clock of agent {agent}"))
            }
            Fact::Agent(fact) if self.agents.contains(&fact.agent) => Some(format!("agent {}", fact.agent)),
            Fact::Lease(lease) if self.hosts.contains(&lease.host) => Some(format!("lease {}", lease.lease)),
            Fact::Job(job) if self.principals.contains(&job.principal) => Some(format!("job {}", job.job)),
            Fact::Mapping(mapping) if self.principals.contains(&mapping.principal) => {
                Some(format!("mapping of {}", mapping.principal))
            }
            _ => None,
        }
    }

    /// Looks at an entry. Of a batch as little is opened as is needed to see that it is not wanted.
    fn pick(&self, index: u64, payload: Vec<u8>) -> Option<Picked> {
        let entry = Entry::decode(&payload).ok()?;
        let (what, is_batch, windows) = match entry.body {
            Body::Fact(fact) => (self.fact(&fact)?, false, 0),
            Body::Batch(received) => {
                let envelope = Envelope::decode(&received.envelope).ok()?;
                if !self.keys.contains(&envelope.key_id()) {
                    return None;
                }
                let batch = envelope.read().ok()?;
                let ours = |id: &AcceleratorId| self.accelerators.contains(id);
                let windows = batch.windows.iter().filter(|window| ours(&window.accelerator)).count() as u64;
                let gaps = batch.gaps.iter().any(|gap| ours(&gap.accelerator));
                let after = self.places.partition_point(|row| row.last_index < index);
                let near = self.places.get(after).is_some_and(|row| row.first_index <= index);
                // What a device is and who held it may have been said long before.
                let said = batch.inventory.iter().any(|device| ours(&device.accelerator))
                    || batch.holdings.iter().flat_map(|holding| &holding.accelerators).any(ours);
                if !(said || near && (windows > 0 || gaps)) {
                    return None;
                }
                let EpochId(epoch) = batch.epoch;
                (
                    format!("batch {} of agent {}, epoch {}", batch.sequence, batch.agent, hex(&epoch)),
                    true,
                    windows,
                )
            }
        };
        Some(Picked { index, payload, what, is_batch, windows })
    }
}

fn scan(folder: &std::path::Path, end: Place, wanted: &Wanted) -> Result<Vec<Picked>, ReadError> {
    let mut reader = Reader::from_start(folder);
    let mut picked = Vec::new();
    while let Some(entry) = reader.next_before(end)? {
        picked.extend(wanted.pick(entry.place.index, entry.payload));
    }
    Ok(picked)
}

/// A signed checkpoint with so many leaves, cosigned if there is one.
fn signed_tree(app: &App, leaves: u64) -> Result<Option<(Checkpoint, Note)>, TreeError> {
    let paths = &app.tree.paths;
    for file in [paths.cosigned(), paths.checkpoint()] {
        if let Some((checkpoint, note)) = read_checkpoint(&file, &app.tree.log)?
            && checkpoint.size >= leaves
        {
            return Ok(Some((checkpoint, note)));
        }
    }
    Ok(None)
}

impl App {
    /// Proves the figures of a report, whose subject has these measured sums as of a ledger that ends at `end`.
    pub async fn prove(
        &self,
        report: &Report,
        hours: &[HourlySum],
        end: Place,
        content: Content,
    ) -> Result<Proof, ProofError> {
        let mut rows: Vec<Row> = hours.iter().filter_map(Row::of).collect();
        rows.sort();
        let wanted = self.wanted(&rows).await?;
        let folder = self.ledger.folder().to_owned();
        let picked = tokio::task::spawn_blocking(move || scan(&folder, end, &wanted)).await??;
        let recomputed = match content {
            Content::Leaves => false,
            Content::Batches => {
                let payloads = picked.iter().map(|entry| entry.payload.clone()).collect();
                refold::differing(payloads, &rows).await?.is_empty()
            }
        };
        let sum = |of: fn(&Row) -> Operations| {
            rows.iter().map(of).fold(Operations::ZERO, Operations::saturating_add)
        };
        let figures = Figures {
            as_of: report.written_at,
            batches: picked.iter().filter(|entry| entry.is_batch).count() as u64,
            windows: picked.iter().map(|entry| entry.windows).sum(),
            low_tera: sum(|row| row.low_tera),
            best_tera: sum(|row| row.best_tera),
            high_tera: sum(|row| row.high_tera),
            measured_ms: rows.iter().map(|row| row.measured_ms).sum(),
            interpolated_ms: rows.iter().map(|row| row.interpolated_ms).sum(),
            recomputed,
        };
        if !self.tree.reaches(end).await {
            return Err(ProofError::NotSigned(self.tree.status().problem.unwrap_or_default()));
        }
        if self.tree.has_witnesses() {
            self.tree.cosigns(end, WITNESS_PATIENCE).await;
        }
        let leaves: Vec<u64> = picked.iter().map(|entry| entry.index - 1).collect();
        let most = leaves.last().map_or(1, |last| last + 1);
        let app = self.clone();
        let (note, nodes) = tokio::task::spawn_blocking(move || {
            let (checkpoint, note) = signed_tree(&app, most)?
                .ok_or_else(|| ProofError::NotSigned(format!("entry {most} is not under one")))?;
            let tiles = TileFolder::at(&app.tree.paths.tlog);
            let nodes = proof::of_leaves(&mut tiles.of_size(checkpoint.size), &leaves, checkpoint.size)?;
            Ok::<_, ProofError>((note, nodes))
        })
        .await??;
        let leaf = |entry: Picked| Leaf {
            entry: entry.index,
            data: to_base64(&leaf_data(&entry.payload)),
            what: entry.what,
            payload: (content == Content::Batches).then(|| BASE64.encode(&entry.payload)),
        };
        let mut proof = Proof {
            format: FORMAT.into(),
            case: report.case.clone(),
            report_sha256: report_hash(&serde_json::to_value(report).unwrap_or_default()),
            log: self.tree.log.to_string(),
            checkpoint: note.to_string(),
            figures,
            rows,
            entries: picked.into_iter().map(leaf).collect(),
            nodes: nodes.iter().map(to_base64).collect(),
            signature: String::new(),
        };
        proof.signature = sign(&proof, self.tree.log.name(), self.signing_key());
        Ok(proof)
    }

    async fn wanted(&self, rows: &[Row]) -> Result<Wanted, StoreError> {
        let keys: BTreeSet<HourKey> =
            rows.iter().map(|row| HourKey { accelerator: row.accelerator.clone(), hour: row.hour }).collect();
        let keys: Vec<HourKey> = keys.into_iter().collect();
        let mut by_agent: BTreeMap<AgentId, BTreeSet<UtcMillis>> = BTreeMap::new();
        for row in self.store.hours(&keys).await? {
            for agent in row.hour.agents {
                by_agent.entry(agent).or_default().insert(row.key.hour);
            }
        }
        let mut places = Vec::new();
        for (agent, hours) in &by_agent {
            for hour in hours {
                places.extend(self.store.places(agent, *hour).await?);
            }
        }
        let accelerators: HashSet<AcceleratorId> = keys.into_iter().map(|key| key.accelerator).collect();
        let principals = rows.iter().map(|row| row.principal.clone()).collect();
        let agents: HashSet<AgentId> = by_agent.into_keys().collect();
        Ok(self.shared.with(|state| {
            let known = agents.iter().filter_map(|agent| state.agents.get(agent)).flatten();
            let keys =
                known.filter_map(|fact| public_key(&fact.public_key)).map(|key| KeyId::of(&key)).collect();
            let devices = accelerators.iter().filter_map(|id| state.accelerators.get(id));
            let hosts = devices.map(|device| device.host().to_owned()).collect();
            Wanted { accelerators, agents, keys, hosts, principals, places: joined(places) }
        }))
    }
}

/// The same entries without overlaps.
fn joined(mut rows: Vec<PlaceRow>) -> Vec<PlaceRow> {
    rows.sort_unstable_by_key(|row| row.first_index);
    let mut joined: Vec<PlaceRow> = Vec::new();
    for row in rows {
        match joined.last_mut() {
            Some(last) if row.first_index <= last.last_index => {
                last.last_index = last.last_index.max(row.last_index);
            }
            _ => joined.push(row),
        }
    }
    joined
}

/// The signature line over a proof.
fn sign(proof: &Proof, log: &str, key: &SigningKey) -> String {
    let note = Note::signed(signed_text(proof), log, key);
    note.and_then(|note| note.signatures.first().map(ToString::to_string)).unwrap_or_default()
}

/// Whether the log signed a proof as it is.
fn is_signed(proof: &Proof, log: &VerifierKey) -> bool {
    let line = weighbridge_tlog::note::Signature::parse(proof.signature.trim_end_matches('\n'));
    let Ok(signature) = line else { return false };
    let note = Note { text: signed_text(proof), signatures: vec![signature] };
    note.is_signed_by(log) == Ok(true)
}
