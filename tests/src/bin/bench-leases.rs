//! A late correction of leases: a month of a thousand hosts of eight accelerators turns out to be another principal's.
//!
//! The ledger is real and folded before the clock starts; so that this takes minutes, hours in the middle of the lease
//! have one window each, which makes the same rows as sixty. The hours in which the lease begins and ends have windows
//! of a minute in batches of five minutes, and are read again. Then each host's lease is corrected, and the sums follow
//! on the same store. Of few hosts all is compared with sums made anew from the ledger.
//!
//! `bench-leases [hosts [days]]`

use std::{fs, path::Path, sync::Arc};

use weighbridge_journal::{Journal, Options};
use weighbridge_meter::{
    AcceleratorId, BootId, EpochId, Estimator, Source, Span, Tier, UtcMillis, Window,
    window::{Counter, Counters, Coverage},
};
use weighbridge_store::{
    Body, Entry, Fact, Place, SqliteStore, UsageStore,
    entry::{LeaseFact, Received, Selector},
    follow::Follower,
};
use weighbridge_tests::{handmade::h100, usage, wait};
use weighbridge_wire::{Batch, DeviceRecord, SigningKey, seal::seal};

const HOSTS: u32 = 1_000;
const DAYS: i64 = 30;

/// Accelerators of a host.
const DEVICES: u32 = 8;

/// Minutes of a batch in the hours that are read again.
const BATCH_MINUTES: i64 = 5;

/// Up to so many hosts the sums are made anew and compared.
const COMPARED: u32 = 100;

/// 2026-01-01T00:00:00Z.
const START: UtcMillis = UtcMillis(1_767_225_600_000);

struct Host {
    name: String,
    number: u32,
    sequence: u64,
    before: [u8; 32],
}

struct Ledger {
    journal: Journal,
    received: UtcMillis,
    key: SigningKey,
}

impl Ledger {
    fn append(&mut self, body: Body) {
        let entry = Entry { received: self.received, body };
        self.journal.append(&entry.encode(&[7; 16])).expect("the disk takes it");
    }

    fn batch(&mut self, host: &mut Host, spans: &[Span]) {
        host.sequence += 1;
        let first = host.sequence == 1;
        let batch = Batch {
            agent: host.name.parse().expect("a short name"),
            epoch: EpochId([5; 16]),
            sequence: host.sequence,
            prev_hash: host.before,
            boot: BootId([6; 16]),
            windows: (0..DEVICES)
                .flat_map(|device| spans.iter().map(move |span| (device, *span)))
                .map(|(device, span)| window(host.number, device, span))
                .collect(),
            gaps: Vec::new(),
            holdings: Vec::new(),
            inventory: (0..DEVICES).filter(|_| first).map(|device| inventory(host, device)).collect(),
            status: None,
            losses: Vec::new(),
        };
        let sealed = seal(&batch, &self.key).expect("a batch like any");
        host.before = sealed.hash;
        self.append(Body::Batch(Received { clocks: None, salt: [8; 16], envelope: sealed.bytes }));
    }

    fn end(&mut self) -> Place {
        self.journal.sync().expect("the disk takes it");
        self.journal.next()
    }
}

/// Identifiers lie as UUIDs do: neighbours on a host are none in order.
fn accelerator(host: u32, device: u32) -> AcceleratorId {
    let number = u64::from(host * DEVICES + device + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("GPU-{:08x}-{:04x}-4000-8000-{number:012x}", number >> 32, number & 0xffff)
        .parse()
        .expect("printable")
}

fn inventory(host: &Host, device: u32) -> DeviceRecord {
    let pci_address = format!("00000000:{device:02X}:00.0");
    DeviceRecord { pci_address, ..h100(accelerator(host.number, device), START, &host.name) }
}

/// One hour in eight is idle.
fn window(host: u32, device: u32, span: Span) -> Window {
    let hour = span.start().since(START) / UtcMillis::HOUR;
    let busy = (hour + i64::from(device)) % 8 != 7;
    let millis = if busy { span.millis() } else { 0 };
    Window {
        accelerator: accelerator(host, device),
        span,
        boot_start_ms: 1_000_000 + span.start().since(START).unsigned_abs(),
        source: Source::Nvml,
        tier: Tier::B,
        coverage: Coverage::Measured,
        ticks: 60,
        counters: Counters::default()
            .with(Counter::ElapsedCycles, span.millis() * 1_755_000)
            .with(Counter::TensorCycles, millis * (600_000 + u64::from(host % 100)))
            .with(Counter::BusyMicros, millis * 1_000)
            .with(Counter::EnergyMicrojoules, (millis * 6 + span.millis()) * 100_000),
        features: Default::default(),
        uses: Vec::new(),
    }
}

fn span(from: i64, to: i64) -> Span {
    Span::new(START.plus(from), START.plus(to)).expect("not empty")
}

fn leases(ledger: &mut Ledger, hosts: &[Host], days: i64, principal: &str) {
    for host in hosts {
        ledger.append(Body::Fact(Fact::Lease(LeaseFact {
            lease: format!("lease-{}", host.number).parse().expect("a short name"),
            host: host.name.clone(),
            selector: Selector::All,
            principal: principal.parse().expect("a principal"),
            start: START.plus(UtcMillis::HOUR / 2),
            end: START.plus(days * UtcMillis::DAY - UtcMillis::HOUR / 2),
        })));
    }
}

/// Hours from `from` to `to`, one of the hosts after the other every day; with `cut`, as they are sent.
fn measured(ledger: &mut Ledger, hosts: &mut [Host], from: i64, to: i64, cut: bool) {
    let step = if cut { BATCH_MINUTES * UtcMillis::MINUTE } else { UtcMillis::DAY };
    let window = if cut { UtcMillis::MINUTE } else { UtcMillis::HOUR };
    let end = to * UtcMillis::HOUR;
    let mut start = from * UtcMillis::HOUR;
    while start < end {
        let stop = (start + step).min(end);
        let count = (stop - start) / window;
        let spans: Vec<Span> =
            (0..count).map(|number| span(start + number * window, start + (number + 1) * window)).collect();
        hosts.iter_mut().for_each(|host| ledger.batch(host, &spans));
        start = stop;
    }
}

async fn followed(folder: &Path, store: &Arc<SqliteStore>, end: Place) -> Follower<SqliteStore> {
    let mut follower =
        Follower::new(folder, store.clone(), Estimator::shipped()).await.expect("the store is good");
    follower.catch_up(end).await.expect("the ledger is good");
    follower
}

async fn run(hosts: u32, days: i64) {
    let home = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = home.path().join("ledger");
    let file = home.path().join("usage.sqlite");
    let (journal, _) = Journal::open(&folder, Options::default()).expect("the folder is writable");
    let received = START.plus((days + 1) * UtcMillis::DAY);
    let mut ledger = Ledger { journal, received, key: SigningKey::from_bytes(&[9; 32]) };
    let mut all: Vec<Host> = (0..hosts)
        .map(|number| Host { name: format!("lease-host-{number:04}"), number, sequence: 0, before: [0; 32] })
        .collect();
    println!("{hosts} hosts of {DEVICES} accelerators, {days} days, {} accelerator-hours", {
        i64::from(hosts * DEVICES) * days * 24
    });

    let hours = days * 24;
    leases(&mut ledger, &all, days, "lease:site/one");
    measured(&mut ledger, &mut all, 0, 1, true);
    measured(&mut ledger, &mut all, 1, hours - 1, false);
    measured(&mut ledger, &mut all, hours - 1, hours, true);
    let end = ledger.end();
    let store = Arc::new(SqliteStore::open(&file).await.expect("the folder is writable"));
    let began = wait::instant();
    drop(followed(&folder, &store, end).await);
    store.close().await;
    println!(
        "  folded before the clock starts: {:.0} s, {} MiB of sums",
        began.elapsed().as_secs_f64(),
        megabytes(&file)
    );

    leases(&mut ledger, &all, days, "lease:site/other");
    let end = ledger.end();
    let store = Arc::new(SqliteStore::open(&file).await.expect("it is there"));
    let own = std::process::id();
    let mut follower = Follower::new(&folder, store.clone(), Estimator::shipped()).await.expect("it is good");
    let before = follower.worked();
    let (resident, processor, began) = (usage::resident_kib(own), usage::cpu(own), wait::instant());
    let (mut pieces, mut largest) = (0, 0);
    follower
        .catch_up_telling(end, |_| {
            pieces += 1;
            largest = largest.max(megabytes(&home.path().join("usage.sqlite-wal")));
        })
        .await
        .expect("the ledger is good");
    let (took, processor) = (began.elapsed(), usage::cpu(own) - processor);
    let worked = follower.worked();
    println!("  corrected in {:.1} s, {:.1} s of processor", took.as_secs_f64(), processor.as_secs_f64());
    println!(
        "  {} hours relabelled, {} read again, in {pieces} pieces; write-ahead log at most {largest} MiB, {} MiB of sums",
        worked.relabelled - before.relabelled,
        worked.remade - before.remade,
        megabytes(&file)
    );
    println!(
        "  memory: {} MiB before, at most {} MiB ever",
        resident >> 10,
        usage::most_resident_kib(own) >> 10
    );

    if hosts > COMPARED {
        println!("  not compared: that is for up to {COMPARED} hosts");
        return;
    }
    let fresh = Arc::new(SqliteStore::open(&home.path().join("fresh.sqlite")).await.expect("writable"));
    drop(followed(&folder, &fresh, end).await);
    let (found, expected) =
        (store.fingerprint().await.expect("reads"), fresh.fingerprint().await.expect("reads"));
    assert_eq!(found, expected, "the sums are not those of a rebuild");
    println!("  all tables are those of a fresh rebuild");
}

fn megabytes(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |file| file.len() >> 20)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let hosts = arguments.next().map_or(HOSTS, |hosts| hosts.parse().expect("a number of hosts"));
    let days = arguments.next().map_or(DAYS, |days| days.parse().expect("a number of days"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(hosts, days));
}
