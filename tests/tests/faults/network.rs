//! Bad networks: whatever happens to requests and answers, each batch is counted once.

use std::{fs, time::Duration};

use weighbridge_tests::{
    agent::{Agent, AgentOptions},
    damage, ledgers,
    machine::Device,
    oracle::{self, Oracle},
    proxy::{BAD_REQUEST, CAPTIVE_PORTAL, TOO_LARGE, TROUBLES, Trouble, Weather},
    random::Random,
    site::Site,
    wait,
};

use crate::rounds;

fn agents(count: u32) -> Vec<AgentOptions> {
    (0..count)
        .map(|index| {
            let devices = vec![Device::numbered(index * 2), Device::numbered(index * 2 + 1)];
            AgentOptions::quick(format!("host-{index}"), devices)
        })
        .collect()
}

fn pass(milliseconds: u64) {
    wait::until_moment(wait::instant() + Duration::from_millis(milliseconds));
}

/// Files, sockets and threads that a process has open.
fn open(pid: u32) -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("fd"), count("task"))
}

#[test]
fn lost_double_late_and_false_answers_change_nothing() {
    let random = Random::announced();
    let (mut site, proxy) = Site::behind_proxy(agents(4), random);
    site.start_agents();
    site.measured(1_500);
    let before: Vec<_> = site.agents.iter().map(|agent| open(agent.id().unwrap())).collect();
    for _ in 0..rounds(1, 10) {
        proxy.weather(Weather::Rough(600, TROUBLES.to_vec()));
        pass(12_000);
        // A partition, then somebody else's network.
        proxy.weather(Weather::Only(Trouble::Blackhole));
        pass(4_000);
        proxy.weather(Weather::Only(Trouble::Answer(CAPTIVE_PORTAL)));
        pass(2_000);
        proxy.weather(Weather::Fair);
        pass(1_000);
    }
    for (agent, before) in site.agents.iter().zip(before) {
        let after = open(agent.id().unwrap());
        assert!(
            after.0 <= before.0 + 8 && after.1 <= before.1 + 8,
            "{}: {before:?}, then {after:?}",
            agent.name()
        );
    }
    let (requests, troubles) = proxy.counts();
    assert!(troubles > 20, "{troubles} of {requests} requests met trouble");
    let verdict = Oracle::new().judge(&mut site);
    for audited in verdict.audited.values() {
        let holes = audited.windows.windows(2).filter(|pair| pair[0].end() != pair[1].start()).count();
        assert_eq!(holes, 0, "a network costs no window: {:?}", audited.windows);
    }
    println!("{troubles} of {requests} requests met trouble: {} batches, 0 lost, 0 double", verdict.batches);
}

#[test]
fn what_is_refused_for_good_is_kept_apart_once_and_the_rest_goes_on() {
    let random = Random::announced();
    let (mut site, proxy) = Site::behind_proxy(agents(2), random);
    site.start_agents();
    site.measured(1_500);
    for answer in [BAD_REQUEST, TOO_LARGE] {
        let (before, _) = proxy.counts();
        proxy.weather(Weather::Only(Trouble::Answer(answer)));
        pass(3_000);
        proxy.weather(Weather::Fair);
        let (after, _) = proxy.counts();
        // One request a batch, and a batch a second, and what else agents may want to say.
        assert!(after - before <= 30, "{} requests in three seconds: that is hot", after - before);
        pass(1_000);
    }
    let over = wait::now();
    for device in site.agents.iter().flat_map(Agent::devices) {
        oracle::flows(&site, device, over);
    }
    site.agents.iter_mut().for_each(Agent::stop);
    site.collector.settle();
    site.collector.stop();
    let ledger = ledgers::batches(&site.collector.data());
    for agent in &site.agents {
        let parked = damage::files(&agent.spool().join("parked"), ".batch");
        assert!(parked.len() >= 2, "{}: {parked:?}", agent.name());
        let kept: Vec<_> =
            parked.iter().map(|file| weighbridge_wire::hash(&fs::read(file).unwrap())).collect();
        for (key, (hash, _)) in ledgers::spooled(agent) {
            let arrived = ledger.get(&key) == Some(&hash);
            assert_ne!(arrived, kept.contains(&hash), "{key:?} is in the ledger or kept apart, and not both");
        }
    }
    oracle::whole(&site);
}
