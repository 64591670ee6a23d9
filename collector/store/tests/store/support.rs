//! A ledger to write by hand, and short ways to make what goes into it.

use std::{path::Path, sync::Arc};

use base64::Engine;
use tempfile::TempDir;
use weighbridge_journal::{Journal, Options};
use weighbridge_meter::{
    AcceleratorId, AgentId, BootId, EpochId, Estimator, Evidence, Holding, Source, Span, Tier, Trust,
    UtcMillis, Window,
    window::{Counter, Counters, Coverage},
};
use weighbridge_store::{
    Body, Entry, Fact, Place, SqliteStore, UsageStore,
    entry::{AgentFact, Clocks, LeaseFact, Received, Selector},
    follow::Follower,
    ledger::Submission,
};
use weighbridge_wire::{Batch, DeviceRecord, SigningKey, seal};

/// Segments that never fill: each new one costs two waits for the disk.
pub(crate) const ONE_SEGMENT: u64 = 1 << 30;

/// 2026-01-31T08:00:00Z, a whole hour.
pub(crate) const START: i64 = 1_769_846_400_000;

/// Milliseconds in a minute.
pub(crate) const MINUTE: i64 = UtcMillis::MINUTE;

pub(crate) const H100: (&str, &str) = ("NVIDIA H100 80GB HBM3", "10de:2330");

/// So many milliseconds after [`START`].
pub(crate) fn at(millis: i64) -> UtcMillis {
    UtcMillis(START + millis)
}

/// From and to in milliseconds after [`START`].
pub(crate) fn span(from: i64, to: i64) -> Span {
    Span::new(at(from), at(to)).unwrap()
}

/// From and to in minutes after [`START`].
pub(crate) fn minutes(from: i64, to: i64) -> Span {
    span(from * MINUTE, to * MINUTE)
}

pub(crate) fn agent(number: u8) -> AgentId {
    format!("agent-{number}").parse().unwrap()
}

pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number + 1; 32])
}

pub(crate) fn gpu(number: u8) -> AcceleratorId {
    format!("GPU-{number}").parse().unwrap()
}

/// The enrolment of an agent on host `host-<number>`.
pub(crate) fn enrolled(number: u8) -> Fact {
    enrolled_as(number, Trust::Bmc, number)
}

/// Believed so far at most, on this host.
pub(crate) fn enrolled_as(number: u8, max_trust: Trust, host: u8) -> Fact {
    let public_key = key(number).verifying_key();
    Fact::Agent(AgentFact {
        agent: agent(number),
        host: format!("host-{host}"),
        site: "site".into(),
        fabric: "fabric".into(),
        public_key: base64::engine::general_purpose::STANDARD.encode(public_key.as_bytes()),
        valid_from: at(0),
        valid_to: None,
        max_trust,
    })
}

pub(crate) fn batch(number: u8, sequence: u64) -> Batch {
    Batch {
        agent: agent(number),
        epoch: EpochId([7; 16]),
        sequence,
        prev_hash: [0; 32],
        boot: BootId([9; 16]),
        windows: Vec::new(),
        gaps: Vec::new(),
        holdings: Vec::new(),
        inventory: Vec::new(),
        status: None,
        losses: Vec::new(),
    }
}

/// Which agent it says it is of.
pub(crate) fn number(batch: &Batch) -> u8 {
    batch.agent.as_str().strip_prefix("agent-").unwrap().parse().unwrap()
}

/// A measured window; `tensor` is the activity of the tensor pipes in per mille of an H100 at 1980 MHz.
pub(crate) fn window(number: u8, span: Span, tensor: u64) -> Window {
    Window {
        accelerator: gpu(number),
        span,
        boot_start_ms: span.start().since(at(0)).max(0).unsigned_abs() + 1000,
        source: Source::Nvml,
        tier: Tier::B,
        coverage: Coverage::Measured,
        ticks: 60,
        counters: Counters::default()
            .with(Counter::TensorCycles, span.millis() * 1980 * tensor)
            .with(Counter::BusyMicros, if tensor == 0 { 0 } else { span.millis() * 1000 }),
        features: Default::default(),
        uses: Vec::new(),
    }
}

/// An H100 on a host.
pub(crate) fn device(number: u8, host: u8, since: UtcMillis) -> DeviceRecord {
    DeviceRecord {
        accelerator: gpu(number),
        at: since,
        present: true,
        host: format!("host-{host}"),
        name: H100.0.into(),
        pci_device: H100.1.into(),
        pci_address: "00000000:1A:00.0".into(),
        source: Source::Nvml,
        tier: Tier::B,
        trust: Trust::Host,
        max_sm_clock_mhz: Some(1980),
        power_limit_mw: None,
        memory_bytes: None,
        driver: String::new(),
        parent: None,
        units: None,
        sample_ms: 0,
        conditions: Vec::new(),
    }
}

pub(crate) fn holding(principal: &str, gpus: &[u8], span: Span) -> Holding {
    Holding {
        principal: principal.parse().unwrap(),
        attempt: format!("{principal}@1").parse().unwrap(),
        accelerators: gpus.iter().map(|number| gpu(*number)).collect(),
        span,
        evidence: Evidence::ProcessOwner,
    }
}

pub(crate) fn lease(name: &str, host: u8, selector: Selector, principal: &str, span: Span) -> LeaseFact {
    LeaseFact {
        lease: name.parse().unwrap(),
        host: format!("host-{host}"),
        selector,
        principal: principal.parse().unwrap(),
        start: span.start(),
        end: span.end(),
    }
}

pub(crate) fn record(key: &str, body: serde_json::Value) -> Fact {
    Fact::Record { kind: "customer".into(), key: key.into(), body }
}

/// The batch as it goes to [`weighbridge_store::Ledger::submit`].
pub(crate) fn submission(
    number: u8,
    batch: Batch,
    clocks: Option<Clocks>,
    received_at: UtcMillis,
) -> Submission {
    let sealed = seal::seal(&batch, &key(number)).unwrap();
    let received = Received { clocks, salt: [5; 16], envelope: sealed.bytes };
    Submission { received_at, received, batch, hash: sealed.hash }
}

/// A ledger written without its thread, entry by entry.
pub(crate) struct Book {
    dir: TempDir,
    journal: Journal,
    /// The place after each entry.
    pub(crate) ends: Vec<Place>,
}

impl Book {
    pub(crate) fn new(segment_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path(), Options { segment_bytes }).unwrap();
        Self { dir, journal, ends: Vec::new() }
    }

    /// With agents 0 to 3 enrolled.
    pub(crate) fn enrolled(segment_bytes: u64) -> Self {
        let mut book = Self::new(segment_bytes);
        (0..4).for_each(|number| book.fact(enrolled(number)));
        book
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn end(&self) -> Place {
        self.journal.next()
    }

    fn append(&mut self, body: Body) {
        // Long after all that any test measures.
        let entry = Entry { received: at(30 * UtcMillis::DAY), body };
        self.journal.append(&entry.encode(&[3; 16])).unwrap();
        self.ends.push(self.end());
    }

    pub(crate) fn fact(&mut self, fact: Fact) {
        self.append(Body::Fact(fact));
    }

    /// Signed by the agent that its name says.
    pub(crate) fn batch(&mut self, batch: &Batch) {
        self.batch_signed_by(number(batch), batch);
    }

    pub(crate) fn batch_signed_by(&mut self, number: u8, batch: &Batch) {
        self.envelope(seal::seal(batch, &key(number)).unwrap().bytes);
    }

    /// As it is, whatever is in it.
    pub(crate) fn envelope(&mut self, envelope: Vec<u8>) {
        self.append(Body::Batch(Received { clocks: None, salt: [5; 16], envelope }));
    }

    /// Makes it readable for others.
    pub(crate) fn sync(&mut self) {
        self.journal.sync().unwrap();
    }

    /// Removes the segments numbered below this one.
    pub(crate) fn prune(&mut self, segment: u64) {
        self.journal.remove_segments_before(segment).unwrap();
    }

    /// All of it folded in one go.
    pub(crate) async fn folded(&mut self) -> Arc<SqliteStore> {
        let store = Arc::new(SqliteStore::in_memory().await.unwrap());
        self.follower(&store).await.catch_up(self.end()).await.unwrap();
        store
    }

    pub(crate) async fn follower(&mut self, store: &Arc<SqliteStore>) -> Follower<SqliteStore> {
        self.journal.sync().unwrap();
        Follower::new(self.folder(), store.clone(), Estimator::shipped()).await.unwrap()
    }
}

/// Lines of usage, as people read them.
pub(crate) async fn usage(store: &SqliteStore) -> String {
    let mut lines = String::new();
    for sum in store.hourly(&weighbridge_store::Filter::default()).await.unwrap() {
        let holder = sum.usage.holder.as_ref().map_or("-", |(principal, _)| principal.as_str());
        lines += &format!(
            "{} {} {holder} {} {}..{}..{} measured {}s interpolated {}s\n",
            sum.hour,
            sum.usage.accelerator,
            sum.usage.state.as_str(),
            sum.usage.sums.bound.low().tera(),
            sum.usage.sums.bound.best().tera(),
            sum.usage.sums.bound.high().tera(),
            sum.usage.sums.measured_ms as f64 / 1000.0,
            sum.usage.sums.interpolated_ms as f64 / 1000.0,
        );
    }
    lines
}
