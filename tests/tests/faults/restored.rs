//! Spools and collectors that were restored from an earlier time, and hosts that were copied while they lived.

use std::{fs, time::Duration};

use weighbridge_tests::{
    agent::{Agent, AgentOptions},
    audit, damage, ledgers,
    machine::Device,
    oracle::{self, Oracle},
    site::Site,
    wait,
};

fn pass(milliseconds: u64) {
    wait::until_moment(wait::instant() + Duration::from_millis(milliseconds));
}

/// Batches in the spools of a site that are neither in the ledger nor kept apart for a person.
fn lost(site: &Site) -> Vec<ledgers::BatchKey> {
    let ledger = ledgers::batches(&site.collector.data());
    let mut lost = Vec::new();
    for agent in &site.agents {
        let parked = damage::files(&agent.spool().join("parked"), ".batch");
        let parked: Vec<_> =
            parked.iter().map(|file| weighbridge_wire::hash(&fs::read(file).unwrap())).collect();
        for (key, (hash, _)) in ledgers::spooled(agent) {
            if ledger.get(&key) != Some(&hash) && !parked.contains(&hash) {
                lost.push(key);
            }
        }
    }
    lost
}

/// Everything goes on, all windows are exact and none is there twice.
fn judge(site: &mut Site) {
    let over = wait::now();
    for device in site.agents.iter().flat_map(Agent::devices) {
        oracle::flows(site, device, over);
    }
    site.agents.iter_mut().for_each(Agent::stop);
    site.collector.settle();
    for device in site.agents.iter().flat_map(Agent::devices) {
        audit::accelerator(&site.collector, device);
    }
    site.collector.stop();
    assert_eq!(lost(site), Vec::new());
    oracle::whole(site);
}

#[test]
fn a_spool_from_an_earlier_time_repeats_no_number_unseen() {
    let mut site = Site::new(vec![
        AgentOptions::quick("restored", vec![Device::numbered(0), Device::numbered(1)]),
        AgentOptions::quick("other", vec![Device::numbered(2)]),
    ]);
    site.start_agents();
    site.measured(2_000);
    site.agents[0].kill();
    let spool = site.agents[0].spool();
    let old = site.folder().join("snapshot");
    damage::copy(&spool, &old).unwrap();
    site.agents[0].start();
    site.measured(5_000);
    site.agents[0].kill();
    fs::remove_dir_all(&spool).unwrap();
    damage::copy(&old, &spool).unwrap();
    site.agents[0].start();
    wait::until("the agent goes on under a new epoch", || {
        let epochs = site.agents[0].inspect().epochs.len();
        if epochs >= 2 { Ok(()) } else { Err(format!("{epochs} epoch")) }
    });
    judge(&mut site);
}

#[test]
fn two_hosts_with_one_identity_are_both_counted_and_neither_twice() {
    let first = AgentOptions::quick("twin", vec![Device::numbered(0)]);
    let mut site = Site::new(vec![first.clone()]);
    site.start_agents();
    site.measured(2_000);
    // The image of the host is started a second time, on other hardware.
    site.agents[0].kill();
    let copy = AgentOptions { devices: vec![Device::numbered(7)], ..first };
    let other = Agent::prepare(&site.folder().join("copy"), copy, site.collector.ingest());
    damage::copy(&site.agents[0].spool(), &other.spool()).unwrap();
    site.agents.push(other);
    site.start_agents();
    site.measured(4_000);
    pass(1_000);
    let epochs: Vec<usize> = site.agents.iter().map(|agent| agent.inspect().epochs.len()).collect();
    assert!(
        epochs.iter().any(|count| *count >= 2),
        "one of the two has gone on under a new epoch: {epochs:?}"
    );
    judge(&mut site);
}

#[test]
fn a_collector_from_an_earlier_time_is_sent_again_what_it_lacks() {
    let agents =
        (0..3).map(|index| AgentOptions::quick(format!("host-{index}"), vec![Device::numbered(index)]));
    let mut site = Site::new(agents.collect());
    site.start_agents();
    site.measured(2_000);
    site.collector.stop();
    let (data, old) = (site.collector.data(), site.folder().join("backup"));
    damage::copy(&data, &old).unwrap();
    site.collector.start_ready();
    site.measured(5_000);
    site.collector.kill();
    fs::remove_dir_all(&data).unwrap();
    damage::copy(&old, &data).unwrap();
    // What restoring does, besides: this is another store from here on.
    fs::remove_file(data.join("ledger/GENERATION")).unwrap();
    let mut oracle = Oracle::new();
    site.agents.iter().for_each(|agent| oracle.note(agent));
    site.collector.start_ready();
    oracle.judge(&mut site);
}

#[test]
fn a_restored_collector_may_forget_its_sums() {
    let mut site = Site::new(vec![AgentOptions::quick("host", vec![Device::numbered(0)])]);
    site.start_agents();
    site.measured(2_000);
    site.collector.kill();
    for file in damage::files(&site.collector.data(), "") {
        if file.to_string_lossy().contains("usage.sqlite") {
            fs::remove_file(file).unwrap();
        }
    }
    site.collector.start_ready();
    Oracle::new().judge(&mut site);
}
