//! Programs that are killed at any moment lose nothing that was acknowledged, and count nothing twice.

use std::{collections::BTreeMap, time::Duration};

use weighbridge_tests::{
    agent::AgentOptions,
    audit, ledgers,
    machine::Device,
    pencil::Amount,
    random::Random,
    site::{Site, Tenant},
    wait,
};

const AGENTS: usize = 20;

/// How often each program is killed.
const KILLS: usize = 20;

/// What is done to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Kill,
    Start,
}

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Collector,
    Agent(usize),
}

/// Each program runs for up to two seconds, which is anything from not even started to several batches further,
/// and is down for up to 300 ms.
fn plan(random: &mut Random) -> Vec<(u64, Victim, Deed)> {
    let mut deeds = Vec::new();
    for victim in (0..AGENTS).map(Victim::Agent).chain([Victim::Collector]) {
        let mut at = 0;
        for _ in 0..KILLS {
            at += random.within(20..2_000);
            deeds.push((at, victim, Deed::Kill));
            at += random.within(0..300);
            deeds.push((at, victim, Deed::Start));
        }
    }
    deeds.sort_unstable();
    deeds
}

#[test]
fn killing_everything_twenty_times_loses_nothing_acknowledged_and_counts_nothing_twice() {
    let mut random = Random::announced();
    let mut numbers = (0..).map(Device::numbered);
    let agents = (0..AGENTS).map(|index| {
        let devices = numbers.by_ref().take(1 + index % 2).collect();
        AgentOptions::quick(format!("host-{index:02}"), devices)
    });
    let mut site = Site::new(agents.collect());
    let names: Vec<String> = site.agents.iter().map(|agent| agent.name().to_owned()).collect();
    let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
    let tenant = Tenant { customer: "C-1", principal: "lease:site-1/one", lease: "L-1", hosts: &hosts };
    site.lease(&[tenant]);
    site.start_agents();

    let began = wait::instant();
    for (at, victim, deed) in plan(&mut random) {
        wait::until_moment(began + Duration::from_millis(at));
        match (victim, deed) {
            (Victim::Collector, Deed::Kill) => site.collector.kill(),
            (Victim::Collector, Deed::Start) => site.collector.start(),
            (Victim::Agent(index), Deed::Kill) => site.agents[index].kill(),
            (Victim::Agent(index), Deed::Start) => site.agents[index].start(),
        }
    }
    site.collector.ready();
    wait::until("every agent is heard again", || {
        let waiting: Vec<(&str, u64)> = site
            .agents
            .iter()
            .map(|agent| (agent.name(), agent.waiting()))
            .filter(|agent| agent.1 > 1)
            .collect();
        if waiting.is_empty() { Ok(()) } else { Err(format!("batches wait: {waiting:?}")) }
    });
    site.stop_agents();

    let mut total = Amount::default();
    let (mut windows, mut batches) = (0, 0);
    for device in site.agents.iter().flat_map(|agent| agent.devices()) {
        let audited = audit::accelerator(&site.collector, device);
        assert!(!audited.windows.is_empty(), "{} was never measured", device.uuid);
        windows += audited.windows.len();
        total = total.plus(audited.total().0);
    }
    let customer = site.collector.get("customers/C-1");
    assert_eq!(audit::amount(&customer["total"]["measured"]), total);

    site.collector.stop();
    let ledger = ledgers::batches(&site.collector.data());
    let mut missing = BTreeMap::new();
    for agent in &site.agents {
        for (key, (hash, acknowledged)) in ledgers::spooled(agent) {
            batches += 1;
            assert!(acknowledged, "{key:?} should be by now");
            if ledger.get(&key) != Some(&hash) {
                missing.insert(key, hash);
            }
        }
    }
    assert_eq!(missing, BTreeMap::new(), "acknowledged and not in the ledger");
    assert_eq!(ledger.len(), batches, "in the ledger and in no spool");

    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let rebuilt = site.collector.run(&["rebuild"]);
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    assert!(rebuilt.stdout.contains("the same integers as before"), "{rebuilt:?}");
    println!(
        "{AGENTS} agents and a collector, each killed {KILLS} times: {batches} batches, {windows} windows, 0 missing"
    );
}
