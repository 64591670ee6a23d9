//! How many windows a collector takes: the real `serve`, loopback HTTP, 64 hosts that each sign with a key of their own.
//!
//! Batches are sealed before the clock starts. In the closed loop each host sends its next batch when it has the
//! acknowledgement of the one before, on a connection of its own; an acknowledgement means that the ledger is synced.
//! In the open loop batches are due at a fixed rate, and latency counts from when they were due.
//! Load and collector share the machine, so the rate by collector core says more than the rate.
//! All of it runs over plain HTTP, then over TLS with a certificate for each host; `plain` or `tls` runs one of them.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rustls::ClientConfig;
use weighbridge_meter::{
    AcceleratorId, AgentId, BootId, EpochId, Estimator, Source, Span, Tier, UtcMillis, Window,
    window::{Counter, Counters, Coverage},
};
use weighbridge_store::{Body, Entry, Fold, Place, State, entry::Received, fold};
use weighbridge_tests::{
    collector::Collector,
    handmade::h100,
    http::{Answer, Connection},
    trust,
    usage::{cpu, millis, most_resident_kib, on_processor, quantile},
    wait,
};
use weighbridge_wire::{Batch, Envelope, Sealed, SigningKey, Status, group, seal::seal};

const HOSTS: usize = 64;

/// Accelerators of a host.
const DEVICES: usize = 8;

/// The rate of the open loop, in batches a second.
const OPEN_RATE: u32 = 2_000;

/// A host: its key and its batches, in order.
struct Host {
    name: String,
    /// In each batch.
    windows: usize,
    key: SigningKey,
    batches: Vec<Arc<Sealed>>,
}

/// Host `index`, with `count` batches of `windows` windows of a minute that end about now.
fn host(index: usize, count: usize, windows: usize) -> Host {
    let name = format!("bench-{windows}-{index:02}");
    let agent: AgentId = name.parse().expect("a short name");
    let mut seed = [3; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    let key = SigningKey::from_bytes(&seed);
    let minutes = windows / DEVICES;
    let span = |minute: usize| {
        let all = i64::try_from(count * minutes).expect("a few thousand");
        let end = wait::now()
            .hour()
            .plus((i64::try_from(minute).expect("a few thousand") - all + 1) * UtcMillis::MINUTE);
        Span::new(end.plus(-UtcMillis::MINUTE), end).expect("a minute")
    };
    let accelerators: Vec<AcceleratorId> =
        (0..DEVICES).map(|device| format!("GPU-{name}-{device}").parse().expect("short")).collect();
    let mut prev_hash = [0; 32];
    let batches = (0..count).map(|number| {
        let mut contents = Vec::with_capacity(windows);
        for minute in number * minutes..(number + 1) * minutes {
            for (device, accelerator) in (0..).zip(&accelerators) {
                // Numbers that look like readings: they do not all compress to nothing.
                let clock = 1_400_000_000 + (minute as u64 * 7919 + device * 104_729) % 400_000_000;
                let cycles = clock * 60;
                contents.push(Window {
                    accelerator: accelerator.clone(),
                    span: span(minute),
                    boot_start_ms: 60_000 * (minute as u64 + 1),
                    source: Source::Nvml,
                    tier: Tier::B,
                    coverage: Coverage::Measured,
                    ticks: 60,
                    counters: Counters::default()
                        .with(Counter::ElapsedCycles, cycles)
                        .with(Counter::TensorCycles, cycles / 100 * (40 + (clock + device) % 20))
                        .with(Counter::SmCycles, cycles / 100 * 93)
                        .with(Counter::BusyMicros, 60_000_000)
                        .with(Counter::EnergyMicrojoules, 36_000_000_000 + clock % 1_000_003),
                    features: Default::default(),
                    uses: Vec::new(),
                });
            }
        }
        let inventory = accelerators
            .iter()
            .filter(|_| number == 0)
            .map(|accelerator| h100(accelerator.clone(), span(0).start(), &name));
        let batch = Batch {
            agent: agent.clone(),
            epoch: EpochId([9; 16]),
            sequence: number as u64 + 1,
            prev_hash,
            boot: BootId([5; 16]),
            windows: contents,
            gaps: Vec::new(),
            holdings: Vec::new(),
            inventory: inventory.collect(),
            status: Some(Status {
                at: span((number + 1) * minutes - 1).end(),
                version: "bench".into(),
                host: name.clone(),
                source_state: "ok".into(),
                spool_bytes: 0,
                unacknowledged: 0,
            }),
            losses: Vec::new(),
        };
        let sealed = seal(&batch, &key).expect("a batch of this size can be sealed");
        prev_hash = sealed.hash;
        Arc::new(sealed)
    });
    let batches = batches.collect();
    Host { name, windows, key, batches }
}

/// Over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Plain,
    Tls,
}

impl Over {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Tls => "tls",
        }
    }

    /// A collector that runs, and what each host connects with.
    fn collector(self, folder: &Path, hosts: &[Host]) -> (Collector, Vec<Option<Arc<ClientConfig>>>) {
        let log = "[log]\nlevel = \"warn\"";
        match self {
            Self::Plain => {
                let mut collector = Collector::prepare(folder, log);
                collector.start_ready();
                enrol(&collector, hosts);
                (collector, hosts.iter().map(|_| None).collect())
            }
            Self::Tls => {
                let mut collector = Collector::prepare_secure(folder, "", log);
                collector.start_ready();
                let joined = |host: &Host| trust::joined(&collector, folder, &host.name, host.key.as_bytes());
                let configs = hosts.iter().map(|host| Some(joined(host))).collect();
                (collector, configs)
            }
        }
    }
}

fn enrol(collector: &Collector, hosts: &[Host]) {
    let mut csv = String::from("agent,host,site,fabric,public_key,valid_from,valid_to\n");
    for Host { name, key, .. } in hosts {
        let key = BASE64.encode(key.verifying_key().to_bytes());
        csv.push_str(&format!("{name},{name},site-1,fabric-1,{key},2026-01-01T00:00:00Z,\n"));
    }
    collector.import("agents", &csv);
}

fn send(connection: &mut Connection, sealed: &Sealed) {
    let headers = [("content-type", "application/x-protobuf")];
    match connection.request("POST", "/api/v1/batches", &headers, &sealed.bytes) {
        Ok(Answer { status: 200, .. }) => {}
        other => panic!("a batch was not taken: {other:?}"),
    }
}

/// Each host sends as fast as it is answered, or, with `every`, when a batch is due.
/// Gives back how long it took, and each latency.
fn drive(
    collector: &Collector,
    hosts: &[Host],
    configs: &[Option<Arc<ClientConfig>>],
    every: Option<Duration>,
) -> (Duration, Vec<Duration>) {
    let at = collector.ingest();
    let connect = |config: &Option<Arc<ClientConfig>>| match config {
        Some(config) => Connection::open_secure(at, Arc::clone(config)),
        None => Connection::open(at),
    };
    let connections: Vec<Connection> =
        configs.iter().map(|config| connect(config).expect("the collector listens")).collect();
    let began = wait::instant();
    let latencies = thread::scope(|scope| {
        let hosts = hosts.iter().zip(0_u32..).zip(connections);
        let running: Vec<_> = hosts
            .map(|((host, index), mut connection)| {
                scope.spawn(move || {
                    let mut latencies = Vec::with_capacity(host.batches.len());
                    for (sealed, number) in host.batches.iter().zip(0_u32..) {
                        let due = match every {
                            Some(every) => {
                                let offset = every / u32::try_from(HOSTS).expect("few") * index;
                                let due: Instant = began + offset + every * number;
                                wait::until_moment(due);
                                due
                            }
                            None => wait::instant(),
                        };
                        send(&mut connection, sealed);
                        latencies.push(due.elapsed());
                    }
                    latencies
                })
            })
            .collect();
        running.into_iter().flat_map(|host| host.join().expect("no host failed")).collect()
    });
    (began.elapsed(), latencies)
}

/// Appends of `bytes` bytes that the disk under `folder` takes in a second, each followed by fdatasync: least and
/// most of ten rounds. Where they lie far apart the disk is shared or caches, and neither is a limit.
fn syncs_a_second(folder: &Path, bytes: usize) -> (f64, f64) {
    let mut file = File::create(folder.join("syncs")).expect("the folder is writable");
    let content = vec![0x5a; bytes];
    let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
    for _ in 0..10 {
        let began = wait::instant();
        let mut count = 0_u32;
        while began.elapsed() < Duration::from_millis(300) {
            file.write_all(&content).and_then(|()| file.sync_data()).expect("the disk works");
            count += 1;
        }
        let rate = f64::from(count) / began.elapsed().as_secs_f64();
        (least, most) = (least.min(rate), most.max(rate));
    }
    (least, most)
}

/// Windows that one core verifies, decodes and folds in a second, without storage and HTTP: what no collector that
/// does these things can pass. Signatures are checked in groups, as the collector does under load.
fn in_memory_windows_a_second(hosts: &[Host]) -> f64 {
    let keys: Vec<_> = hosts.iter().map(|host| host.key.verifying_key()).collect();
    let mut fold = Fold::new(Estimator::shipped(), State::default(), Vec::new());
    let (mut windows, mut index) = (0_usize, 1);
    let mut took = Duration::ZERO;
    // Nothing else of this process runs now; a wall clock would count what others do.
    let on_processor = || on_processor(std::process::id());
    for number in 0..hosts[0].batches.len().min(200) {
        let bytes: Vec<&[u8]> = hosts.iter().map(|host| host.batches[number].bytes.as_slice()).collect();
        let payloads: Vec<Vec<u8>> = bytes
            .iter()
            .map(|bytes| {
                let received = Received { clocks: None, salt: [0; 16], envelope: bytes.to_vec() };
                Entry { received: wait::now(), body: Body::Batch(received) }.encode(&[0; 16])
            })
            .collect();
        let began = on_processor();
        let envelopes: Vec<Envelope> = bytes
            .iter()
            .map(|bytes| Envelope::decode(bytes).expect("what was sealed is an envelope"))
            .collect();
        let pairs: Vec<_> = envelopes.iter().zip(&keys).collect();
        assert!(group::verify(&pairs).into_iter().all(|right| right), "all were signed");
        let mut opened = Vec::with_capacity(payloads.len());
        for payload in &payloads {
            let place = Place { index, segment: 1, offset: index };
            opened.push((fold::open(place, payload).expect("what was sealed opens"), place));
            index += 1;
        }
        for (entry, place) in opened {
            fold.apply(entry, Place { index: place.index + 1, ..place });
        }
        took += on_processor().saturating_sub(began);
        windows += hosts.len() * hosts[0].windows;
        // Rows of what has changed are made a few times a second.
        if number % 16 == 15 {
            let began = on_processor();
            drop(fold.take());
            took += on_processor().saturating_sub(began);
        }
    }
    f64::from(u32::try_from(windows).expect("below four thousand millions")) / took.as_secs_f64()
}

/// Bytes of the files in a folder.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(|data| data.is_file())
        .map(|data| data.len())
        .sum()
}

/// Returns once the sums reflect everything; says how long that took.
fn folded(collector: &Collector, batches: usize) -> Duration {
    let began = wait::instant();
    let status = collector.settle();
    let entries = status["ledger"]["durable"]["index"].as_u64().expect("an index");
    // An acknowledgement alone could be of a duplicate.
    assert!(entries > batches as u64, "{batches} batches were acknowledged: {status}");
    began.elapsed()
}

/// One size of batch through one collector.
fn measure(folder: &Path, over: Over, windows: usize, batches: usize) {
    let hosts: Vec<Host> = (0..HOSTS).map(|index| host(index, batches, windows)).collect();
    let all = HOSTS * batches;
    let bytes =
        hosts.iter().flat_map(|host| &host.batches).map(|sealed| sealed.bytes.len()).sum::<usize>() / all;
    let of_collector = folder.join(format!("closed-{}-{windows}", over.name()));
    let (mut collector, configs) = over.collector(&of_collector, &hosts);
    let pid = collector.id().expect("it runs");
    let before = cpu(pid);
    let (lasted, mut latencies) = drive(&collector, &hosts, &configs, None);
    let used = cpu(pid) - before;
    let behind = folded(&collector, all);
    let used_folded = cpu(pid) - before;
    let resident = most_resident_kib(pid);
    collector.stop();
    let data = of_collector.join("data");
    let ledger = bytes_in(&data.join("ledger"));

    let per =
        |count: usize, time: Duration| f64::from(u32::try_from(count).expect("few")) / time.as_secs_f64();
    let name = over.name();
    println!("{windows} windows a batch ({bytes} bytes), {HOSTS} hosts, {all} batches, closed loop, {name}");
    println!(
        "  rate                            {:>9.0} windows/s  {:>7.0} batches/s",
        per(all * windows, lasted),
        per(all, lasted)
    );
    println!(
        "  by collector core               {:>9.0} windows/s  {:>7.0} batches/s",
        per(all * windows, used),
        per(all, used)
    );
    println!(
        "  by collector core, sums folded  {:>9.0} windows/s  (sums were {} behind)",
        per(all * windows, used_folded),
        millis(behind)
    );
    println!(
        "  latency                         p50 {}, p99 {}",
        millis(quantile(&mut latencies, 500)),
        millis(quantile(&mut latencies, 990))
    );
    println!(
        "  limit: verify, decode and fold  {:>9.0} windows/s by core, in memory",
        in_memory_windows_a_second(&hosts)
    );
    let on_disk = |bytes: u64| {
        f64::from(u32::try_from(bytes).expect("below 4 GiB")) / per(all * windows, Duration::from_secs(1))
    };
    println!(
        "  on disk                         {:>9.1} bytes a window in the ledger, {:.1} with the sums",
        on_disk(ledger),
        on_disk(ledger + bytes_in(&data))
    );
    println!(
        "  most memory                     {:>9.1} MB",
        f64::from(u32::try_from(resident).expect("few")) * 1.024 / 1000.0
    );
    let (least, most) = syncs_a_second(folder, bytes);
    println!(
        "  append and fdatasync            {least:>9.0} to {most:.0} /s of {bytes} bytes, one at a time"
    );
}

/// A fixed rate, below the limit.
fn measure_open(folder: &Path, over: Over) {
    let batches = 10 * OPEN_RATE as usize / HOSTS;
    let hosts: Vec<Host> = (0..HOSTS).map(|index| host(index, batches, DEVICES)).collect();
    let (mut collector, configs) = over.collector(&folder.join(format!("open-{}", over.name())), &hosts);
    let pid = collector.id().expect("it runs");
    let before = cpu(pid);
    let every = Duration::from_secs(HOSTS as u64) / OPEN_RATE;
    let (lasted, mut latencies) = drive(&collector, &hosts, &configs, Some(every));
    let used = cpu(pid) - before;
    folded(&collector, HOSTS * batches);
    let resident = most_resident_kib(pid);
    collector.stop();
    let rate = f64::from(u32::try_from(HOSTS * batches).expect("few")) / lasted.as_secs_f64();
    let name = over.name();
    println!(
        "{DEVICES} windows a batch, open loop at {OPEN_RATE} batches/s, {name}: {rate:.0} batches/s were taken"
    );
    println!(
        "  latency from when due           p50 {}, p99 {}",
        millis(quantile(&mut latencies, 500)),
        millis(quantile(&mut latencies, 990))
    );
    println!("  collector                       {:.2} cores", used.as_secs_f64() / lasted.as_secs_f64());
    println!(
        "  most memory                     {:>9.1} MB",
        f64::from(u32::try_from(resident).expect("few")) * 1.024 / 1000.0
    );
}

/// Runs all of it, in about two minutes.
fn main() {
    let chosen = std::env::args().nth(1);
    let both = [Over::Plain, Over::Tls];
    let run: Vec<Over> = match chosen.as_deref() {
        None => both.into(),
        Some("plain") => vec![Over::Plain],
        Some("tls") => vec![Over::Tls],
        Some(other) => panic!("{other:?}: expected plain, tls or nothing"),
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let cores = thread::available_parallelism().map_or(0, usize::from);
    println!(
        "weighbridge-collector serve on loopback, load on the same {cores} cores, data in {}",
        folder.path().display()
    );
    println!(
        "closed loop: a host sends when its last batch is acknowledged, that is after the fsync of the ledger"
    );
    for over in run {
        for (windows, batches) in [(8, 300), (40, 120), (80, 60)] {
            measure(folder.path(), over, windows, batches);
        }
        measure_open(folder.path(), over);
    }
}
