//! Batches made by hand, good and evil, and the bytes around them.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signer, SigningKey};
use weighbridge_meter::{
    AcceleratorId, BootId, EpochId, Source, Span, Tier, Trust, UtcMillis, Window,
    window::{Counter, Counters, Coverage},
};
use weighbridge_wire::{Batch, DeviceRecord, Hash, KeyId, Sealed, Status};

use crate::{collector::Collector, http::Answer};

/// Somebody with a key who sends what he likes.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Agent and host.
    pub name: String,
    /// His key.
    pub key: SigningKey,
    /// His epoch.
    pub epoch: EpochId,
}

impl Sender {
    /// Each name has a key of its own.
    pub fn named(name: &str) -> Self {
        let mut seed = [11; 32];
        let bytes = name.as_bytes();
        seed[..bytes.len().min(32)].copy_from_slice(&bytes[..bytes.len().min(32)]);
        Self { name: name.to_owned(), key: SigningKey::from_bytes(&seed), epoch: EpochId([0x42; 16]) }
    }

    /// His row in `agents.csv`.
    pub fn enrolment(&self) -> String {
        format!("{0},{0},site-1,fabric-1,{1},2026-01-01T00:00:00Z,\n", self.name, self.public_key())
    }

    /// His key as the ledger has it.
    pub fn public_key(&self) -> String {
        BASE64.encode(self.key.verifying_key().to_bytes())
    }

    /// Enrols him alone.
    #[track_caller]
    pub fn enrol(&self, collector: &Collector) {
        let header = "agent,host,site,fabric,public_key,valid_from,valid_to\n";
        collector.import("agents", &format!("{header}{}", self.enrolment()));
    }

    /// His only accelerator.
    ///
    /// # Panics
    /// If his name is too long.
    pub fn accelerator(&self) -> AcceleratorId {
        format!("GPU-{}", self.name).parse().expect("a short name")
    }

    /// A good batch: windows of a second from `from` on.
    ///
    /// # Panics
    /// If his name is too long.
    pub fn batch(&self, sequence: u64, prev_hash: Hash, from: UtcMillis, windows: i64) -> Batch {
        let inventory = h100(self.accelerator(), from, &self.name);
        let window = |number: i64| Window {
            accelerator: self.accelerator(),
            span: Span::new(from.plus(number * 1_000), from.plus((number + 1) * 1_000)).expect("a second"),
            boot_start_ms: 1_000_000 + number.unsigned_abs() * 1_000,
            source: Source::Nvml,
            tier: Tier::B,
            coverage: Coverage::Measured,
            ticks: 4,
            counters: Counters::default()
                .with(Counter::ElapsedCycles, 1_500_000_000)
                .with(Counter::TensorCycles, 600_000_000)
                .with(Counter::BusyMicros, 1_000_000)
                .with(Counter::EnergyMicrojoules, 500_000_000),
            features: Default::default(),
            uses: Vec::new(),
        };
        Batch {
            agent: self.name.parse().expect("a short name"),
            epoch: self.epoch,
            sequence,
            prev_hash,
            boot: BootId([0x17; 16]),
            windows: (0..windows).map(window).collect(),
            gaps: Vec::new(),
            holdings: Vec::new(),
            losses: Vec::new(),
            inventory: if sequence == 1 { vec![inventory] } else { Vec::new() },
            status: Some(Status {
                at: from.plus(windows * 1_000),
                version: "by hand".into(),
                host: self.name.clone(),
                source_state: "ok".into(),
                spool_bytes: 0,
                unacknowledged: 0,
            }),
        }
    }

    /// As it would go out.
    ///
    /// # Panics
    /// If it is too large.
    pub fn seal(&self, batch: &Batch) -> Sealed {
        weighbridge_wire::seal::seal(batch, &self.key).expect("a batch of this size can be sealed")
    }

    /// An envelope with a right signature around anything.
    pub fn sign(&self, payload: &[u8]) -> Vec<u8> {
        let signature = self.key.sign(&[b"weighbridge-batch-v1\0", payload].concat()).to_bytes();
        envelope(payload, &KeyId::of(&self.key.verifying_key()).0, &signature)
    }
}

/// `weighbridge.v1.Signed` of these fields.
pub fn envelope(payload: &[u8], key_id: &[u8], signature: &[u8]) -> Vec<u8> {
    [field(1, payload), field(2, key_id), field(3, signature)].concat()
}

/// A field of bytes in protobuf.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = vec![number << 3 | 2];
    encoded.extend(varint(bytes.len() as u64));
    encoded.extend_from_slice(bytes);
    encoded
}

/// A number in protobuf.
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut encoded = Vec::new();
    while value >= 0x80 {
        encoded.push(value as u8 | 0x80);
        value >>= 7;
    }
    encoded.push(value as u8);
    encoded
}

/// Sends these bytes as a batch.
///
/// # Panics
/// If nobody answers.
#[track_caller]
pub fn send(collector: &Collector, bytes: &[u8]) -> Answer {
    let headers = [("content-type", "application/x-protobuf")];
    crate::http::request(collector.ingest(), "POST", "/api/v1/batches", &headers, bytes)
        .unwrap_or_else(|error| panic!("no answer to {} bytes: {error}", bytes.len()))
}

/// An H100 as its agent tells of it, read in the second best way.
pub fn h100(accelerator: AcceleratorId, at: UtcMillis, host: &str) -> DeviceRecord {
    DeviceRecord {
        accelerator,
        at,
        present: true,
        host: host.to_owned(),
        name: "NVIDIA H100 80GB HBM3".into(),
        pci_device: "10de:2330".into(),
        pci_address: String::new(),
        source: Source::Nvml,
        tier: Tier::B,
        trust: Trust::Host,
        max_sm_clock_mhz: Some(1980),
        power_limit_mw: Some(700_000),
        memory_bytes: Some(80 << 30),
        driver: "580.95.05".into(),
        parent: None,
        units: None,
        sample_ms: 0,
        conditions: Vec::new(),
    }
}
