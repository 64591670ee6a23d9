//! A collector that is away for a day while a thousand agents of eight accelerators each go on.
//!
//! The agents are the agent's own meter, spool, signing and uplink in one process, in simulated time; the collector
//! is the real program. Says how much memory an agent takes after an hour and after a day, how long the collector
//! then takes to hear from everybody and to have everything, and how many times faster than real time that is.

use std::{sync::Arc, thread, time::Duration};

use tokio::task::JoinSet;
use weighbridge_agent::uplink::{Sender, Stopped};
use weighbridge_meter::{BootId, UtcMillis};
use weighbridge_tests::{
    collector::Collector,
    handmade,
    simulated::{self, Simulated, SimulatedOptions, TICK_MS},
    usage, wait,
};

const AGENTS: usize = 1_000;
const ACCELERATORS: usize = 8;
const HOURS: u64 = 24;
/// Batches are of ten minutes: eighty windows.
const BATCH_MS: u64 = 600_000;

/// Requests at one time.
const AT_ONCE: usize = 64;

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn share<T: Send>(list: &mut [T], work: impl Fn(&mut T) + Sync) {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for part in list.chunks_mut(list.len().div_ceil(threads)) {
            scope.spawn(|| part.iter_mut().for_each(&work));
        }
    });
}

fn main() {
    let agents = number("WEIGHBRIDGE_AGENTS", AGENTS);
    let hours = number("WEIGHBRIDGE_HOURS", usize::try_from(HOURS).expect("few")) as u64;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut collector = Collector::prepare(&folder.path().join("collector"), "[log]\nlevel = \"warn\"");
    // A whole hour, so that no window is still open in the end.
    let start = wait::now().hour().plus(-(i64::try_from(hours).expect("few")) * UtcMillis::HOUR);
    let own = std::process::id();
    println!("{agents} agents of {ACCELERATORS} accelerators, {hours} hours, a batch every ten minutes");

    let mut hosts: Vec<Simulated> = (0..agents)
        .map(|index| {
            let name = format!("outage-{index:04}");
            let mut boot = [1; 16];
            boot[..8].copy_from_slice(&(index as u64).to_le_bytes());
            Simulated::boot(SimulatedOptions {
                spool: folder.path().join(&name),
                name,
                accelerators: ACCELERATORS,
                wall: start,
                boot: BootId(boot),
                seed: index as u64 + 1,
            })
            .expect("the folder is writable")
        })
        .collect();
    let begun = wait::instant();
    let mut after_first = 0;
    for hour in 1..=hours {
        share(&mut hosts, |host| {
            for tick in 1..=3_600_000 / TICK_MS {
                host.tick(TICK_MS);
                if (tick * TICK_MS).is_multiple_of(BATCH_MS) {
                    host.seal().expect("the spool takes it");
                }
            }
        });
        let resident = usage::resident_kib(own);
        if hour == 1 {
            after_first = resident;
        }
        if hour == 1 || hour % 6 == 0 || hour == hours {
            println!("  after {hour:>2} h: {:>7.1} KiB an agent", resident as f64 / agents as f64);
        }
    }
    let grown = usage::resident_kib(own).saturating_sub(after_first) as f64 / agents as f64;
    println!(
        "  measured in {:.0} s; from the first hour to the last: {grown:+.1} KiB an agent",
        begun.elapsed().as_secs_f64()
    );
    assert!(grown < 16.0, "memory is not flat: {grown} KiB more an agent");
    let batches: u64 = hosts.iter().map(|host| host.host.unacknowledged()).sum();
    let windows = agents as u64 * ACCELERATORS as u64 * hours * 60;

    collector.start_ready();
    let mut csv = String::from("agent,host,site,fabric,public_key,valid_from,valid_to\n");
    hosts.iter().for_each(|host| csv.push_str(&handmade::Sender::named(host.name()).enrolment()));
    collector.import("agents", &csv);
    let pid = collector.id().expect("it runs");
    let before = usage::cpu(pid);
    let began = wait::instant();
    let heard = thread::spawn({
        let address = collector.http();
        move || heard_from(address, agents, began)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let address = collector.ingest();
    let hosts = runtime.block_on(async move {
        let senders: Vec<Arc<Sender>> =
            (0..AT_ONCE).map(|_| Arc::new(simulated::sender(address).expect("a client"))).collect();
        drain(hosts, &senders).await
    });
    let waiting: u64 = hosts.iter().map(|host| host.host.unacknowledged()).sum();
    assert_eq!(waiting, 0, "batches wait after everything was sent");
    let arrived = began.elapsed();
    folded_within(&collector, began, Duration::from_secs(hours * 3_600 / 50));
    let folded = began.elapsed();
    let used = usage::cpu(pid) - before;
    let resident = usage::most_resident_kib(pid);
    let times = hours as f64 * 3_600.0 / folded.as_secs_f64();
    println!(
        "  {batches} batches, {windows} windows arrived in {:.1} s, sums followed at {:.1} s",
        arrived.as_secs_f64(),
        folded.as_secs_f64()
    );
    println!(
        "  {times:.0} times real time, agents and collector on the same {} cores",
        thread::available_parallelism().map_or(0, usize::from)
    );
    println!(
        "  collector: {:.1} s of processor, at most {} MiB resident",
        used.as_secs_f64(),
        resident >> 10
    );
    match heard.join().expect("a thread that only looks") {
        Some(heard) => println!("  every agent's status was known after {:.1} s", heard.as_secs_f64()),
        None => println!("  the collector does not tell when it last heard from whom"),
    }

    // Nothing lost, nothing twice.
    let fleet = collector.get("fleet");
    let measured: u64 = fleet["accelerators"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["time"]["measured_ms"].as_u64().expect("milliseconds"))
        .sum();
    assert_eq!(measured, windows * 60_000, "milliseconds measured, against those of the agents");
    collector.stop();
    println!("  lost 0, double 0: {} accelerator hours", measured / 3_600_000);
    assert!(times >= 50.0, "fifty times real time is what it should be");
}

/// Sends everything that waits, some hosts at a time, in turns: each gets to send, then the next.
async fn drain(hosts: Vec<Simulated>, senders: &[Arc<Sender>]) -> Vec<Simulated> {
    let mut done = Vec::with_capacity(hosts.len());
    let mut queue = hosts.into_iter();
    let mut tasks = JoinSet::new();
    let mut free: Vec<Arc<Sender>> = senders.to_vec();
    loop {
        while let Some(sender) = free.pop() {
            let Some(mut host) = queue.next() else { break };
            tasks.spawn(async move {
                loop {
                    match host.send(&sender).await.stopped {
                        Stopped::Empty => return (host, sender),
                        // Told to wait: others go on meanwhile.
                        Stopped::Retry(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                        Stopped::Spool(error) => panic!("{}: {error}", host.name()),
                    }
                }
            });
        }
        match tasks.join_next().await {
            Some(finished) => {
                let (host, sender) = finished.expect("no task panics");
                done.push(host);
                free.push(sender);
            }
            None => return done,
        }
    }
}

/// Waits until the sums reflect the ledger, and asks seldom: an answer costs the collector what it knows of a fleet.
fn folded_within(collector: &Collector, began: std::time::Instant, limit: Duration) {
    loop {
        let status = collector.get("status");
        let ledger = &status["ledger"];
        if ledger["durable"]["index"] == ledger["folded"]["index"] {
            collector.settle();
            return;
        }
        assert!(began.elapsed() < limit, "the sums are behind after {} s: {status}", limit.as_secs());
        wait::until_moment(wait::instant() + Duration::from_secs(2));
    }
}

/// How long it took until every agent had said how it is; `None` where the collector does not tell.
fn heard_from(address: std::net::SocketAddr, agents: usize, began: std::time::Instant) -> Option<Duration> {
    for _ in 0..600 {
        let answer = weighbridge_tests::http::get(address, "/api/v1/fleet").ok()?;
        let fleet: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
        let list = fleet["agents"].as_array()?;
        let said = list.iter().filter(|agent| !agent["last_said"].is_null()).count();
        let known = list.iter().filter(|agent| !agent["source_state"].is_null()).count();
        if said.max(known) >= agents {
            return Some(began.elapsed());
        }
        wait::until_moment(wait::instant() + Duration::from_secs(1));
    }
    None
}
