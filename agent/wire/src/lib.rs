//! What crosses the network: batches of records, packed, compressed, signed and chained.
//!
//! [`Batch`] is the checked form, [`seal`] makes the bytes that are kept and sent, [`Envelope`] opens them
//! again in the order that is safe for foreign bytes: size, signature, size decoded, then content.
//! The plain wire types live in [`proto`]; [`convert`] is the one place where foreign data is checked.
//!
//! Deliberately absent: HTTP, keys on disk, and any decision about whom to believe.

pub mod convert;
pub mod group;
mod loss;
pub mod report;
pub mod seal;
mod weight;

/// The wire types as generated from `proto/weighbridge/v1.proto`.
#[expect(missing_docs, reason = "generated")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/weighbridge.v1.rs"));
}

use weighbridge_meter::{
    AcceleratorId, AgentId, BootId, Condition, EpochId, Gap, Holding, Source, Tier, Trust, UtcMillis, Window,
};

/// SHA-256.
pub type Hash = [u8; 32];

pub use convert::Malformed;
pub use loss::{Loss, LossCause};
pub use report::Report;
pub use seal::{Envelope, KeyId, OpenError, Sealed, SigningKey, VerifyingKey, hash};

/// Consecutive records of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whose.
    pub agent: AgentId,
    /// Within which spool folder the sequence counts.
    pub epoch: EpochId,
    /// From 1, without holes.
    pub sequence: u64,
    /// [`hash`] of the sealed batch before; zeros for the first.
    pub prev_hash: Hash,
    /// In which boot of the host the boot times count.
    pub boot: BootId,
    /// Measured spans.
    pub windows: Vec<Window>,
    /// Unmeasured spans.
    pub gaps: Vec<Gap>,
    /// Who held what.
    pub holdings: Vec<Holding>,
    /// Devices that appeared, changed or went.
    pub inventory: Vec<DeviceRecord>,
    /// How the agent is, if it says so.
    pub status: Option<Status>,
    /// Batches that this agent will not deliver.
    pub losses: Vec<Loss>,
}

/// A device as an agent found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Which.
    pub accelerator: AcceleratorId,
    /// Since when this holds.
    pub at: UtcMillis,
    /// `false`: it is gone for good (taken out), which is not the same as lost.
    pub present: bool,
    /// On which host.
    pub host: String,
    /// As the driver prints it.
    pub name: String,
    /// PCI vendor and device, as in `10de:2330`; empty if unknown.
    pub pci_device: String,
    /// PCI address; empty if unknown.
    pub pci_address: String,
    /// Where its readings come from.
    pub source: Source,
    /// How good they are.
    pub tier: Tier,
    /// Who could have changed them.
    pub trust: Trust,
    /// Highest SM clock the driver allows.
    pub max_sm_clock_mhz: Option<u32>,
    /// Board power limit.
    pub power_limit_mw: Option<u32>,
    /// Device memory.
    pub memory_bytes: Option<u64>,
    /// Driver version; empty if unknown.
    pub driver: String,
    /// The device that it is a part of: of a MIG instance or partition.
    pub parent: Option<AcceleratorId>,
    /// Its own streaming multiprocessors or compute units, where that is not all its model has.
    pub units: Option<u32>,
    /// Milliseconds between its readings, where the source gives them less often than the agent looks; 0 if not.
    pub sample_ms: u32,
    /// What makes its readings worse than they could be, in ascending order.
    pub conditions: Vec<Condition>,
}

/// How an agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// When it said so.
    pub at: UtcMillis,
    /// Program version.
    pub version: String,
    /// Host name.
    pub host: String,
    /// `ok`, or the named state of the source.
    pub source_state: String,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// Batches not acknowledged yet, this one not counted.
    pub unacknowledged: u64,
}

/// Limits on what is accepted; all are also kept by the sender.
pub mod limits {
    /// Bytes of an encoded envelope.
    pub const ENCODED_BYTES: usize = 1 << 20;
    /// Bytes of a payload once decompressed.
    pub const DECODED_BYTES: usize = 8 << 20;
    /// Windows, gaps or holdings in one batch.
    pub const RECORDS: usize = 50_000;
    /// Losses told in one batch.
    pub const LOSSES: usize = 1_000;
    /// Bytes of an encoded status report.
    pub const REPORT_BYTES: usize = 4 << 10;
    /// Milliseconds in one window or gap: a day. Agents cut at minutes.
    pub const SPAN_MS: u64 = 86_400_000;
}
