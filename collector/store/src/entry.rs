//! What one entry of the ledger holds.
//!
//! ```text
//! batch  1u8 | received i64 | clocks 1u8 | boot u64 | wall i64 | salt [16] | envelope, byte for byte
//! fact   3u8 | received i64 | salt [16] | JSON of `Fact`
//! fact   2u8 | received i64 | JSON of `Fact`            (read for ever, no longer written)
//! ```
//! Integers are little endian, times in milliseconds. The envelope stays as the agent signed it, so that an
//! auditor needs nothing of ours to check it.
//!
//! Each entry is a leaf of the tree over the ledger ([`leaf_data`], [`leaf_hash`]). The salt keeps a leaf from
//! saying anything about an entry to who does not have it; a fact of the second form has none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weighbridge_meter::{AgentId, AttemptId, BootId, Principal, Span, Trust, UtcMillis};

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When the collector had it.
    pub received: UtcMillis,
    /// What it is.
    pub body: Body,
}

/// The two kinds of entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// An agent's batch.
    Batch(Received),
    /// Anything else that is not derived.
    Fact(Fact),
}

/// A batch as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The agent's clocks when it sent, if it said.
    pub clocks: Option<Clocks>,
    /// Makes the leaf hash say nothing about the batch to who does not have it.
    pub salt: [u8; 16],
    /// The signed envelope.
    pub envelope: Vec<u8>,
}

/// An agent's clocks at the moment of sending; outside the sealed bytes, which may have waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Milliseconds since boot.
    pub boot_ms: u64,
    /// Wall clock.
    pub wall: UtcMillis,
}

/// What the leaf of an entry holds: SHA-256 of the whole payload, with the time it was received and its salt.
pub fn leaf_data(payload: &[u8]) -> [u8; 32] {
    Sha256::digest(payload).into()
}

/// The hash of that leaf in the tree of RFC 6962: SHA-256 over 0x00 and [`leaf_data`].
pub fn leaf_hash(payload: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(leaf_data(payload)).finalize().into()
}

/// A fact that is not derived from anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fact {
    /// From here on, estimates are made like this.
    Method {
        /// Name of the formulas.
        method: String,
        /// Hash of the figures, in hexadecimal.
        figures_sha256: String,
    },
    /// The wall clock of this boot is off by whole minutes: to be added.
    ClockOffset {
        /// Whose.
        agent: AgentId,
        /// In which boot.
        boot: BootId,
        /// Minutes to add.
        minutes: i64,
    },
    /// An agent that may send.
    Agent(AgentFact),
    /// An assignment of hosts or accelerators. One with the key of an earlier one replaces it.
    Lease(LeaseFact),
    /// A start of a job, as its scheduler keeps it. One with the key of an earlier one replaces it.
    Job(JobFact),
    /// Whose a principal is, from hour to hour.
    Mapping(MappingFact),
    /// Anything that the store keeps for others without understanding it.
    Record {
        /// What it is: `customer`, `pack`, `finding`, `case`, `audit`.
        kind: String,
        /// Its key within its kind.
        key: String,
        /// What it says.
        body: serde_json::Value,
    },
}

/// An agent that may send, under which key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentFact {
    /// Which.
    pub agent: AgentId,
    /// On which host.
    pub host: String,
    /// Where that is.
    pub site: String,
    /// Which network joins its accelerators to others.
    pub fabric: String,
    /// 32 bytes, base64.
    pub public_key: String,
    /// From when on.
    pub valid_from: UtcMillis,
    /// Until when, if it ends.
    pub valid_to: Option<UtcMillis>,
    /// How far what it says of itself is believed at most. What was recorded before this was, and what says
    /// nothing, means `host`: who reads management controllers has to be named.
    #[serde(default = "trusted_as_host", skip_serializing_if = "is_host")]
    pub max_trust: Trust,
}

fn trusted_as_host() -> Trust {
    Trust::Host
}

fn is_host(trust: &Trust) -> bool {
    *trust == Trust::Host
}

/// A dated assignment to a principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseFact {
    /// Its name, which is the attempt.
    pub lease: AttemptId,
    /// On which host.
    pub host: String,
    /// What of it.
    pub selector: Selector,
    /// To whom.
    pub principal: Principal,
    /// From.
    pub start: UtcMillis,
    /// To.
    pub end: UtcMillis,
}

impl LeaseFact {
    /// When it holds; `None` if it was withdrawn (ends where it starts).
    pub fn span(&self) -> Option<Span> {
        Span::new(self.start, self.end)
    }
}

/// One start of a job, as its scheduler keeps it: whose it was, and when. Which accelerators it had, agents tell.
///
/// Texts of the tenant's are here as keyed digests only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFact {
    /// `slurm:<cluster>/<job>`: what attempts of all its starts begin with.
    pub job: AttemptId,
    /// When this start was submitted or put back, which is its key among the starts of the job.
    pub submitted: UtcMillis,
    /// `slurm:<cluster>/<sluid>`, where the scheduler gives each start a name of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<AttemptId>,
    /// Whose.
    pub principal: Principal,
    /// From, by the scheduler's clock, as a rule in whole seconds.
    pub started: UtcMillis,
    /// To; `None` while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<UtcMillis>,
    /// How it stands, in the scheduler's words.
    pub state: String,
    /// Its nodes, as the scheduler writes them.
    pub nodes: String,
    /// Accelerators on all of them.
    pub accelerators: u64,
    /// Shares of accelerators that it was given (Slurm's `mps` or `shard`), by which what several did is divided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<u64>,
    /// How often it was started before, where the scheduler says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<u32>,
    /// The scheduler's own key of the record, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<u64>,
    /// The number of the user, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Job and task of the array that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<(u64, u64)>,
    /// Digests of user name, job name and work directory under the operator's key: equal where they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hints: BTreeMap<Hint, String>,
}

/// A text of the tenant's of which only a digest is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// The user's name.
    User,
    /// The job's name.
    JobName,
    /// Where it ran.
    WorkDirectory,
}

impl JobFact {
    /// What attempts of this start can begin with.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        [Some(&self.job), self.name.as_ref()].into_iter().flatten().map(AttemptId::as_str)
    }
}

/// What an attempt of a scheduler's job begins with, without how often it was started before; `None` of other
/// attempts.
pub(crate) fn job_of(attempt: &AttemptId) -> Option<&str> {
    let text = attempt.as_str();
    if !text.starts_with("slurm:") {
        return None;
    }
    match text.rsplit_once('+') {
        Some((job, restart)) if !restart.is_empty() && restart.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(job)
        }
        _ => Some(text),
    }
}

/// What of a host is leased.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// Every accelerator.
    All,
    /// One accelerator.
    Accelerator(weighbridge_meter::AcceleratorId),
    /// So many of a kind: also counts those that no agent ever reported.
    Count {
        /// How many.
        count: u32,
        /// PCI vendor and device.
        pci_device: String,
    },
}

/// Whose a principal is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappingFact {
    /// Which principal.
    pub principal: Principal,
    /// Whose: the key of a customer.
    pub customer: String,
    /// From this whole UTC hour on.
    pub valid_from: UtcMillis,
    /// Before this whole UTC hour, if it ends.
    pub valid_to: Option<UtcMillis>,
}

/// An entry of the ledger cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Too short, or of no known kind.
    #[error("the entry has {bytes} bytes and begins with {kind:?}: it is neither a batch nor a fact")]
    Unknown {
        /// First byte.
        kind: Option<u8>,
        /// Its length.
        bytes: usize,
    },
    /// A fact that does not say what a fact says.
    #[error("the fact is not valid JSON of a known fact")]
    Fact(#[source] serde_json::Error),
}

impl Entry {
    /// As written. The salt is of a fact, 16 random bytes for each; a batch brings its own.
    pub fn encode(&self, salt: &[u8; 16]) -> Vec<u8> {
        let mut bytes = Vec::new();
        match &self.body {
            Body::Batch(received) => {
                bytes.reserve(42 + received.envelope.len());
                bytes.push(1);
                bytes.extend(self.received.0.to_le_bytes());
                let clocks = received.clocks.unwrap_or(Clocks { boot_ms: 0, wall: UtcMillis(0) });
                bytes.push(u8::from(received.clocks.is_some()));
                bytes.extend(clocks.boot_ms.to_le_bytes());
                bytes.extend(clocks.wall.0.to_le_bytes());
                bytes.extend(received.salt);
                bytes.extend(&received.envelope);
            }
            Body::Fact(fact) => {
                bytes.push(3);
                bytes.extend(self.received.0.to_le_bytes());
                bytes.extend(salt);
                serde_json::to_writer(&mut bytes, fact).expect("facts have string keys and no failing parts");
            }
        }
        bytes
    }

    /// From what was written.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let unknown = || EntryError::Unknown { kind: bytes.first().copied(), bytes: bytes.len() };
        let mut rest = bytes;
        let [kind] = take::<1>(&mut rest).ok_or_else(unknown)?;
        let received = UtcMillis(i64::from_le_bytes(take(&mut rest).ok_or_else(unknown)?));
        let body = match kind {
            1 => {
                let [has_clocks] = take::<1>(&mut rest).ok_or_else(unknown)?;
                let boot_ms = u64::from_le_bytes(take(&mut rest).ok_or_else(unknown)?);
                let wall = UtcMillis(i64::from_le_bytes(take(&mut rest).ok_or_else(unknown)?));
                let salt = take(&mut rest).ok_or_else(unknown)?;
                let clocks = (has_clocks == 1).then_some(Clocks { boot_ms, wall });
                Body::Batch(Received { clocks, salt, envelope: rest.to_vec() })
            }
            2 => Body::Fact(serde_json::from_slice(rest).map_err(EntryError::Fact)?),
            3 => {
                take::<16>(&mut rest).ok_or_else(unknown)?;
                Body::Fact(serde_json::from_slice(rest).map_err(EntryError::Fact)?)
            }
            _ => return Err(unknown()),
        };
        Ok(Self { received, body })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_read_back_as_written() {
        let batch = Body::Batch(Received {
            clocks: Some(Clocks { boot_ms: 5, wall: UtcMillis(6) }),
            salt: [9; 16],
            envelope: vec![1, 2, 3],
        });
        let fact = Body::Fact(Fact::Lease(LeaseFact {
            lease: "lease-7".parse().expect("valid"),
            host: "gpu-1".into(),
            selector: Selector::Count { count: 8, pci_device: "10de:2330".into() },
            principal: "lease:site/7".parse().expect("valid"),
            start: UtcMillis(0),
            end: UtcMillis(1),
        }));
        for body in [batch, fact] {
            let entry = Entry { received: UtcMillis(-1), body };
            assert_eq!(Entry::decode(&entry.encode(&[5; 16])).expect("decodes"), entry);
        }
    }

    #[test]
    fn a_fact_of_the_release_before_reads_the_same() {
        let fact = Fact::Method { method: "m".into(), figures_sha256: "00".into() };
        let entry = Entry { received: UtcMillis(7), body: Body::Fact(fact) };
        let mut before = vec![2];
        before.extend(7i64.to_le_bytes());
        before.extend(br#"{"fact":"method","method":"m","figures_sha256":"00"}"#);
        assert_eq!(Entry::decode(&before).expect("decodes"), entry);
    }

    #[test]
    fn the_leaf_of_a_fact_depends_on_its_salt() {
        let fact = Fact::Method { method: "m".into(), figures_sha256: "00".into() };
        let entry = Entry { received: UtcMillis(7), body: Body::Fact(fact) };
        assert_ne!(leaf_hash(&entry.encode(&[1; 16])), leaf_hash(&entry.encode(&[2; 16])));
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused_or_read_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::decode(&bytes);
        }
    }
}
