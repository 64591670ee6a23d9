//! Reads the whole ledger again and believes nothing: checksums, chains, signatures, and the sums.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use weighbridge_journal::{Corrupt, ReadError};
use weighbridge_meter::{AgentId, EpochId, Estimator};
use weighbridge_wire::{Envelope, KeyId, VerifyingKey};

use crate::{
    Place, UsageStore,
    entry::{Body, Entry, Fact},
    follow::{FollowError, Follower},
    sql::SqliteStore,
};

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
}

/// A batch in the chain of its agent.
struct Link {
    prev_hash: [u8; 32],
    hash: [u8; 32],
}

/// Checks every entry: that it is whole, that the chain of the journal leads to it, that its agent was known
/// and signed it, and that each agent's own chain has no hole and no fork.
pub fn ledger(folder: &Path) -> Verified {
    let mut verified = Verified::default();
    let mut keys: BTreeMap<KeyId, (AgentId, VerifyingKey)> = BTreeMap::new();
    let mut chains: BTreeMap<(AgentId, EpochId), BTreeMap<u64, Link>> = BTreeMap::new();
    let whole = weighbridge_journal::verify(folder, |entry| {
        let at = format!("segment {}, entry {}", entry.place.segment, entry.place.index);
        verified.entries += 1;
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
        let mut expected = 1;
        for (sequence, link) in chain {
            if *sequence > expected {
                let last = sequence - 1;
                verified
                    .faults
                    .push(format!("agent {agent}, epoch {epoch}: batches {expected} to {last} are missing"));
            }
            if *sequence == 1 && link.prev_hash != [0; 32] {
                verified.faults.push(format!("agent {agent}, epoch {epoch}: batch 1 follows on something"));
            }
            expected = sequence + 1;
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

/// Folds the ledger anew up to where `store` stands and compares all sums. `None`: equal.
/// Else the tables that differ.
pub async fn sums(
    folder: &Path,
    store: &SqliteStore,
    estimator: Estimator,
) -> Result<Option<Vec<String>>, FollowError> {
    let stands: Place = store.stands().await?;
    let fresh = Arc::new(SqliteStore::in_memory().await?);
    let mut follower = Follower::new(folder, fresh.clone(), estimator).await?;
    follower.catch_up(stands).await?;
    let (ours, theirs) = (fresh.fingerprint().await?, store.fingerprint().await?);
    let differ: Vec<String> =
        ours.iter().zip(&theirs).filter(|(a, b)| a != b).map(|((table, ..), _)| table.clone()).collect();
    Ok((!differ.is_empty()).then_some(differ))
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
