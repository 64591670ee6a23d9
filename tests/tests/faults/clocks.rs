//! Wall clocks that are wrong. The agent's own parts run in this process, with a clock that says what it should.

use std::collections::BTreeMap;

use weighbridge_agent::uplink::Stopped;
use weighbridge_meter::{BootId, UtcMillis};
use weighbridge_tests::{
    agent::{Agent, AgentOptions},
    audit::integer,
    collector::{Collector, time},
    handmade,
    machine::Device,
    oracle::{self, Oracle},
    simulated::{self, Simulated, SimulatedOptions},
    site::Site,
    wait,
};

const MINUTES: u64 = 70;

/// A host whose wall clock says this at first, in a boot of this number.
fn host(site: &Site, name: &str, wall: UtcMillis, boot: u8) -> Simulated {
    let options = SimulatedOptions {
        name: name.into(),
        accelerators: 1,
        spool: site.folder().join(name),
        wall,
        boot: BootId([boot; 16]),
        seed: boot.into(),
    };
    // A program that another test starts at this moment holds all locks of this process until it is there.
    wait::until("the spool is free", || Simulated::boot(options.clone()).map_err(|error| error.to_string()))
}

/// Windows end with minutes: what begins with one leaves none open.
fn whole_minutes_ago(minutes: u64) -> UtcMillis {
    let now = wait::now();
    UtcMillis(now.0 - now.0 % UtcMillis::MINUTE).plus(-(i64::try_from(minutes).unwrap()) * UtcMillis::MINUTE)
}

fn send(host: &mut Simulated, collector: &Collector) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sender = simulated::sender(collector.ingest()).unwrap();
    // A clock that is newly off has to say so twice, some seconds apart.
    wait::until("everything is sent", || {
        let sent = runtime.block_on(host.send(&sender));
        assert_eq!(sent.parked, 0, "{}: {sent:?}", host.name());
        if matches!(sent.stopped, Stopped::Empty) { Ok(()) } else { Err(format!("{sent:?}")) }
    });
}

/// Milliseconds measured and best estimate, by hour.
fn hours(collector: &Collector, accelerator: &str) -> BTreeMap<UtcMillis, (u128, u128)> {
    let usage = collector.get(&format!("usage?accelerator={accelerator}"));
    let mut hours = BTreeMap::new();
    for row in usage["rows"].as_array().unwrap() {
        let sum: &mut (u128, u128) = hours.entry(time(&row["hour"]).unwrap()).or_default();
        sum.0 += integer(&row["measured_ms"]);
        sum.1 += integer(&row["best_tera"]);
    }
    hours
}

/// To whole minutes, which is how far a clock's offset is known.
fn nearly(a: &BTreeMap<UtcMillis, (u128, u128)>, b: &BTreeMap<UtcMillis, (u128, u128)>) -> bool {
    let hours: std::collections::BTreeSet<&UtcMillis> = a.keys().chain(b.keys()).collect();
    hours.into_iter().all(|hour| {
        let of = |hours: &BTreeMap<UtcMillis, (u128, u128)>| hours.get(hour).map_or(0, |sum| sum.0);
        of(a).abs_diff(of(b)) <= 60_000
    })
}

#[test]
fn usage_of_a_boot_that_made_contact_lands_in_the_true_hours() {
    let site = Site::new(Vec::new());
    let start = whole_minutes_ago(MINUTES);
    let wrong = [
        ("ahead", start.plus(2 * UtcMillis::HOUR)),
        ("behind", start.plus(-2 * UtcMillis::HOUR)),
        ("never-set", UtcMillis(120_000)),
    ];
    let csv: String = wrong
        .iter()
        .map(|(name, _)| *name)
        .chain(["right"])
        .map(|name| handmade::Sender::named(name).enrolment())
        .collect();
    site.collector.import("agents", &format!("agent,host,site,fabric,public_key,valid_from,valid_to\n{csv}"));
    let run = |name: &str, at: UtcMillis, boot: u8| {
        let mut host = host(&site, name, at, boot);
        host.measure(MINUTES).unwrap();
        send(&mut host, &site.collector);
        host.accelerator(0)
    };
    let right = run("right", start, 1);
    let others: Vec<String> = (2..).zip(wrong).map(|(boot, (name, at))| run(name, at, boot)).collect();
    site.collector.settle();
    let expected = hours(&site.collector, &right);
    let total = |hours: &BTreeMap<UtcMillis, (u128, u128)>| {
        hours.values().fold((0, 0), |sum, hour| (sum.0 + hour.0, sum.1 + hour.1))
    };
    assert_eq!(total(&expected).0, u128::from(MINUTES * 60_000));
    for accelerator in others {
        let found = hours(&site.collector, &accelerator);
        assert!(nearly(&found, &expected), "{accelerator}: {found:?}, expected {expected:?}");
        assert_eq!(total(&found).0, total(&expected).0, "{accelerator}: nothing lost, nothing twice");
        assert!(total(&found).1.abs_diff(total(&expected).1) <= 2, "{accelerator}");
    }
}

#[test]
fn usage_of_a_boot_that_made_no_contact_lands_in_its_wall_time_and_is_flagged() {
    let site = Site::new(Vec::new());
    handmade::Sender::named("island").enrol(&site.collector);
    let start = whole_minutes_ago(2 * MINUTES);
    let wall = start.plus(-2 * UtcMillis::HOUR);
    // Nobody hears of the first boot while it lasts.
    let mut first = host(&site, "island", wall, 1);
    first.measure(MINUTES).unwrap();
    drop(first);
    let mut second = host(&site, "island", whole_minutes_ago(1), 2);
    second.measure(1).unwrap();
    send(&mut second, &site.collector);
    site.collector.settle();
    let found = hours(&site.collector, &second.accelerator(0));
    let of_first: u128 = found.range(..wall.plus(UtcMillis::HOUR * 2)).map(|(_, sum)| sum.0).sum();
    assert!(of_first >= u128::from((MINUTES - 1) * 60_000), "{found:?} from {wall} on");
    let total: u128 = found.values().map(|sum| sum.0).sum();
    assert_eq!(total, u128::from((MINUTES + 1) * 60_000), "nothing lost, nothing twice: {found:?}");
}

#[test]
fn a_boot_clock_with_an_offset_is_as_good_as_any() {
    let device = Device::numbered(0);
    let mut site = Site::new(vec![AgentOptions::quick("offset", vec![device.clone()])]);
    site.agents[0].start_by(
        &[
            "unshare",
            "--time",
            "--boottime",
            "8640000",
            "--monotonic",
            "8640000",
            "--fork",
            "--kill-child=KILL",
        ],
        &[],
    );
    site.measured(2_500);
    site.agents[0].kill();
    // The same boot, and its clock runs a hundred days behind what it was: as after a restored snapshot.
    wait::until("the program is gone with the one that started it", || {
        let held = weighbridge_journal::Journal::open(
            &site.agents[0].spool().join(&site.agents[0].inspect().epochs[0].id),
            Default::default(),
        );
        held.map(drop).map_err(|error| error.to_string())
    });
    site.agents.iter_mut().for_each(Agent::start);
    let over = wait::now();
    oracle::flows(&site, &device, over);
    Oracle::new().judge(&mut site);
}
