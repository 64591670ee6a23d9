//! Programs that are killed at any moment lose nothing that was acknowledged, and count nothing twice.

use std::time::Duration;

use weighbridge_tests::{
    agent::AgentOptions,
    audit,
    machine::Device,
    oracle::Oracle,
    random::Random,
    site::{Site, Tenant},
    wait,
};

use crate::rounds;

const AGENTS: usize = 20;

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
fn plan(random: &mut Random, kills: usize) -> Vec<(u64, Victim, Deed)> {
    let mut deeds = Vec::new();
    for victim in (0..AGENTS).map(Victim::Agent).chain([Victim::Collector]) {
        let mut at = 0;
        for _ in 0..kills {
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
fn killing_everything_again_and_again_loses_nothing_and_counts_nothing_twice() {
    // 1,008 in the long form.
    let kills = rounds(8, 48);
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

    let mut oracle = Oracle::new();
    let began = wait::instant();
    for (at, victim, deed) in plan(&mut random, kills) {
        wait::until_moment(began + Duration::from_millis(at));
        match (victim, deed) {
            (Victim::Collector, Deed::Kill) => site.collector.kill(),
            (Victim::Collector, Deed::Start) => site.collector.start(),
            (Victim::Agent(index), Deed::Kill) => {
                site.agents[index].kill();
                oracle.note(&site.agents[index]);
            }
            (Victim::Agent(index), Deed::Start) => site.agents[index].start(),
        }
    }
    site.collector.ready();
    // The customer's total is looked at while the collector runs, and all is in by then.
    wait::until("every agent is heard again", || {
        let waiting: Vec<(&str, u64)> = site
            .agents
            .iter()
            .map(|agent| (agent.name(), agent.waiting()))
            .filter(|agent| agent.1 > 1)
            .collect();
        if waiting.is_empty() { Ok(()) } else { Err(format!("batches wait: {waiting:?}")) }
    });
    let verdict = oracle.judge(&mut site);
    site.collector.start_ready();
    site.collector.settle();
    let customer = site.collector.get("customers/C-1");
    assert_eq!(audit::amount(&customer["total"]["measured"]), verdict.total);
    println!("{} SIGKILLs: {} batches, {} windows", kills * (AGENTS + 1), verdict.batches, verdict.windows);
}
