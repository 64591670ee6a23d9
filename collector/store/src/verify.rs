//! Reads the whole ledger again and believes nothing: checksums, chains, signatures, and the sums.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use weighbridge_journal::{Corrupt, ReadError};
use weighbridge_meter::{AgentId, EpochId, Estimator};
use weighbridge_wire::{Envelope, KeyId, Loss, LossCause, VerifyingKey};

use crate::{
    Place, StoreError, UsageStore,
    entry::{AgentFact, Body, Entry, Fact},
    follow::{FollowError, Follower},
    numbers::Numbers,
    sql::{ROLLED_COVERAGE, ROLLED_USAGE, SqliteStore},
    summary::{self, SummaryError},
};

mod compare;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Entries read.
    pub entries: u64,
    /// Batches among them.
    pub batches: u64,
    /// Windows in those.
    pub windows: u64,
    /// What is wrong, one line each, with segment, entry and agent.
    pub faults: Vec<String>,
    /// Whether it was read to its end: what is behind a place that cannot be read was not looked at.
    pub whole: bool,
}

/// A batch in the chain of its agent.
struct Link {
    prev_hash: [u8; 32],
    hash: [u8; 32],
}

/// Checks every entry: that it is whole, that the chain of the journal leads to it, that its agent was known
/// and signed it, and that each agent's own chain has no hole and no fork.
pub fn ledger(folder: &Path) -> Verified {
    ledger_with(folder, &[], |_| {})
}

/// The same, and shows each entry that is whole, in order. Where payloads are pruned, `agents` were enrolled before,
/// and chains begin where they are cut.
pub fn ledger_with(
    folder: &Path,
    agents: &[AgentFact],
    mut see: impl FnMut(&weighbridge_journal::Entry),
) -> Verified {
    let mut verified = Verified::default();
    let enrolled = agents.iter().filter_map(|fact| Some((fact, public_key(&fact.public_key)?)));
    let mut keys: BTreeMap<KeyId, (AgentId, VerifyingKey)> =
        enrolled.map(|(fact, key)| (KeyId::of(&key), (fact.agent.clone(), key))).collect();
    let pruned = weighbridge_journal::oldest_segment(folder).is_ok_and(|oldest| oldest > Some(1));
    let mut chains: BTreeMap<(AgentId, EpochId), BTreeMap<u64, Link>> = BTreeMap::new();
    let mut losses: Vec<(AgentId, Loss)> = Vec::new();
    let whole = weighbridge_journal::verify(folder, |entry| {
        let at = format!("segment {}, entry {}", entry.place.segment, entry.place.index);
        verified.entries += 1;
        see(entry);
        let decoded = match Entry::decode(&entry.payload) {
            Ok(decoded) => decoded,
            Err(error) => return verified.faults.push(format!("{at}: {error}")),
        };
        match decoded.body {
            Body::Fact(Fact::Agent(fact)) => match public_key(&fact.public_key) {
                Some(key) => drop(keys.insert(KeyId::of(&key), (fact.agent, key))),
                None => verified.faults.push(format!("{at}: agent {} has no valid public key", fact.agent)),
            },
            Body::Fact(_) => {}
            Body::Batch(received) => {
                verified.batches += 1;
                let hash = weighbridge_wire::hash(&received.envelope);
                let opened = Envelope::decode(&received.envelope).map(|envelope| {
                    keys.get(&envelope.key_id()).map(|(agent, key)| (agent, envelope.open(key)))
                });
                match opened {
                    Ok(Some((agent, Ok(batch)))) if *agent == batch.agent => {
                        verified.windows += batch.windows.len() as u64;
                        losses.extend(batch.losses.iter().map(|loss| (agent.clone(), *loss)));
                        let chain = chains.entry((batch.agent, batch.epoch)).or_default();
                        let link = Link { prev_hash: batch.prev_hash, hash };
                        if chain.insert(batch.sequence, link).is_some() {
                            verified
                                .faults
                                .push(format!("{at}: agent {agent} counts batch {} twice", batch.sequence));
                        }
                    }
                    Ok(Some((agent, Ok(batch)))) => verified
                        .faults
                        .push(format!("{at}: the batch says {} and is signed by {agent}", batch.agent)),
                    Ok(Some((agent, Err(error)))) => {
                        verified.faults.push(format!("{at}: batch of agent {agent}: {error}"));
                    }
                    Ok(None) => verified.faults.push(format!("{at}: batch of an agent nobody enrolled")),
                    Err(error) => verified.faults.push(format!("{at}: {error}")),
                }
            }
        }
    });
    verified.whole = whole.is_ok();
    if let Err(error) = whole {
        let mut fault = chain_of(&error);
        if let ReadError::Corrupt(corrupt) = &error
            && let Some(what) = damaged(corrupt)
        {
            fault.push_str(&format!("; segment {}: {what}", corrupt.segment));
        }
        verified.faults.push(fault);
    }
    for ((agent, epoch), chain) in &chains {
        let mut numbers = Numbers::default();
        for (sequence, link) in chain {
            numbers.take(*sequence, link.prev_hash, link.hash);
        }
        // What its agent signed that it will never send is no hole, nor is what was before the pruned.
        for (_, loss) in losses.iter().filter(|(whose, loss)| whose == agent && loss.epoch == *epoch) {
            numbers.lose(loss.first, loss.last, loss.cause);
        }
        if let Some(before) = chain.keys().next().filter(|first| pruned && **first > 1) {
            numbers.lose(1, before - 1, LossCause::Removed);
        }
        for (first, last) in numbers.missing(usize::MAX) {
            verified
                .faults
                .push(format!("agent {agent}, epoch {epoch}: batches {first} to {last} are missing"));
        }
        if chain.get(&1).is_some_and(|link| link.prev_hash != [0; 32]) {
            verified.faults.push(format!("agent {agent}, epoch {epoch}: batch 1 follows on something"));
        }
        for ((before, link), (sequence, next)) in chain.iter().zip(chain.iter().skip(1)) {
            if before + 1 == *sequence && link.hash != next.prev_hash {
                verified
                    .faults
                    .push(format!("agent {agent}, epoch {epoch}: batch {sequence} does not follow {before}"));
            }
        }
    }
    verified
}

/// What the damaged entry was, as far as its bytes still say so: nothing in them is believed, but a name helps
/// to find the copy that its agent still holds.
fn damaged(corrupt: &Corrupt) -> Option<String> {
    let bytes = std::fs::read(&corrupt.file).ok()?;
    let entry = bytes.get(usize::try_from(corrupt.offset).ok()?..)?;
    let length = usize::try_from(u32::from_le_bytes(*entry.first_chunk()?)).ok()?;
    let head = usize::try_from(weighbridge_journal::ENTRY_HEAD_LEN).ok()?;
    let payload = entry.get(head..head.checked_add(length)?)?;
    match Entry::decode(payload) {
        Ok(Entry { body: Body::Batch(received), .. }) => {
            let batch = Envelope::decode(&received.envelope).and_then(|envelope| envelope.read());
            Some(match batch {
                Ok(batch) => {
                    format!("the entry says it is batch {} of agent {}", batch.sequence, batch.agent)
                }
                Err(_) => "the entry was a batch, which can no longer be read".into(),
            })
        }
        Ok(Entry { body: Body::Fact(_), .. }) => Some("the entry says it is a fact".into()),
        Err(_) => None,
    }
}

/// Sums cannot be compared, or what they start from is not what the ledger commits.
#[derive(Debug, thiserror::Error)]
pub enum SumsError {
    /// The fold.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The summary.
    #[error(transparent)]
    Summary(#[from] SummaryError),
    /// The sums.
    #[error("the sums cannot be read")]
    Store(#[from] StoreError),
    /// The ledger.
    #[error("the ledger cannot be read")]
    Read(#[from] ReadError),
    /// More is gone than was pruned.
    #[error("segments {allowed:020}.seg to {:020}.seg are missing: they were not pruned", oldest - 1)]
    Removed {
        /// The oldest that must be there.
        allowed: u64,
        /// The oldest that is.
        oldest: u64,
    },
}

/// Folds the ledger anew up to where `store` stands and compares all sums. `None`: equal.
/// Else the tables that differ.
pub async fn sums(
    folder: &Path,
    summaries: &Path,
    store: &SqliteStore,
    estimator: Estimator,
) -> Result<Option<Vec<String>>, SumsError> {
    Ok(sums_by_row(folder, summaries, store, estimator).await?.map(|differing| differing.tables))
}

/// Sums that do not follow from the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differing {
    /// Tables that differ.
    pub tables: Vec<String>,
    /// The first rows of each that do, with table and key.
    pub rows: Vec<String>,
}

/// The same with the rows that differ.
pub async fn sums_by_row(
    folder: &Path,
    summaries: &Path,
    store: &SqliteStore,
    estimator: Estimator,
) -> Result<Option<Differing>, SumsError> {
    let stands: Place = store.stands().await?;
    let fresh = Arc::new(SqliteStore::in_memory().await?);
    let from = summary::begin_committed(&fresh, folder, summaries, stands).await?;
    let mut follower = Follower::new(folder, fresh.clone(), estimator).await?;
    follower.catch_up(stands).await?;
    if let Some(from) = &from {
        // Sums that stand where the summary was made do not know of the fact that commits it: whoever pruned died there.
        let committed = summary::commitment(&fresh, from).await?;
        let committed = committed.or_else(|| summary::commitment_in(folder, from));
        let oldest = weighbridge_journal::oldest_segment(folder).map_err(ReadError::from)?.unwrap_or(1);
        match committed {
            None => return Err(SummaryError::Uncommitted { entry: from.header.place.index }.into()),
            Some(allowed) if oldest > allowed => return Err(SumsError::Removed { allowed, oldest }),
            Some(_) => {}
        }
    }
    let (ours, theirs) = (fresh.fingerprint().await?, store.fingerprint().await?);
    let mut differing = Differing::default();
    for ((table, ..), _) in ours.iter().zip(&theirs).filter(|(a, b)| a != b) {
        // What is added up of tables that differ differs too, and says nothing more.
        let of = match table.as_str() {
            ROLLED_USAGE => &["usage"][..],
            ROLLED_COVERAGE => &["hour", "gap"],
            _ => &[],
        };
        if differing.tables.iter().any(|table| of.contains(&table.as_str())) {
            continue;
        }
        differing.rows.extend(match table.as_str() {
            ROLLED_USAGE | ROLLED_COVERAGE => compare::totals(&fresh, store).await?,
            _ => compare::tables(table, &fresh, store).await?,
        });
        differing.tables.push(table.clone());
    }
    Ok((!differing.tables.is_empty()).then_some(differing))
}

/// A key as facts carry it: 32 bytes, base64.
pub fn public_key(text: &str) -> Option<VerifyingKey> {
    use base64::Engine;
    let bytes: [u8; 32] = base64::engine::general_purpose::STANDARD.decode(text).ok()?.try_into().ok()?;
    VerifyingKey::from_bytes(&bytes).ok().filter(weighbridge_wire::group::is_sound)
}

/// An error with all its causes, on one line.
pub fn chain_of(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
