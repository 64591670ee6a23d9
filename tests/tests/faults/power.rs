//! Power cuts on real file systems: what was synced stays, what was not is gone, and what was acknowledged was
//! synced. Needs root.

use std::{fs, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use weighbridge_tests::{
    agent::AgentOptions,
    ledgers,
    machine::Device,
    mounts::Mount,
    oracle::Oracle,
    random::Random,
    site::{Site, Stage},
    wait,
};

use crate::rounds;

const AGENTS: u32 = 4;

/// A cut stops everything at one moment: a program that ran on for a while could still say that something was
/// synced, while its file system was being taken away. Returns when none of its threads goes on; one that is in the
/// middle of a sync is cut off there, and never learns how it ended.
fn freeze(pid: Option<u32>) {
    let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) else { return };
    // An error says that it ended by itself.
    if kill_process(pid, Signal::STOP).is_err() {
        return;
    }
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    wait::until("every thread stands", || {
        for task in fs::read_dir(&tasks).into_iter().flatten().flatten() {
            // The state follows the name, which may hold anything but ends with the last parenthesis.
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            if state.is_some_and(|state| matches!(state, 'R' | 'S')) {
                return Err(stat);
            }
        }
        Ok(())
    });
}

#[test]
fn power_cuts_take_nothing_that_was_acknowledged() {
    let mut random = Random::announced();
    let agents = (0..AGENTS).map(|index| {
        AgentOptions::quick(
            format!("host-{index}"),
            vec![Device::numbered(index * 2), Device::numbered(index * 2 + 1)],
        )
    });
    let mut collector = None;
    let mut site = Site::prepared("", agents.collect(), |stage| {
        if let Stage::Data(data) = stage {
            collector = Some(Mount::disk(data, 48));
        }
    });
    let collector = collector.unwrap();
    let disks: Vec<Mount> = site.agents.iter().map(|agent| Mount::disk(&agent.spool(), 24)).collect();
    site.start_agents();
    let mut cuts = 0;
    for _ in 0..rounds(5, 60) {
        wait::until_moment(wait::instant() + Duration::from_millis(random.within(300..2_500)));
        // Somebody, or everybody: a rack has one plug.
        let all = random.within(0..4) == 0;
        if all || random.within(0..2) == 0 {
            freeze(site.collector.id());
            collector.cut_power();
            site.collector.kill();
            collector.power_on();
            site.collector.start();
            cuts += 1;
        }
        for (agent, disk) in site.agents.iter_mut().zip(&disks) {
            if all || random.within(0..4) > 0 {
                freeze(agent.id());
                disk.cut_power();
                agent.kill();
                disk.power_on();
                agent.start();
                cuts += 1;
            }
        }
    }
    site.collector.ready();
    // What the collector has, agents had made durable before they sent it: none of it may be forgotten there,
    // or its number would be given to another batch, and refused.
    wait::until("agents have sent what they have", || {
        let waiting: u64 = site.agents.iter().map(|agent| agent.waiting()).sum();
        if waiting <= u64::from(AGENTS) { Ok(()) } else { Err(format!("{waiting} batches wait")) }
    });
    Oracle::new().judge(&mut site);
    let ledger = ledgers::batches(&site.collector.data());
    let kept: usize = site.agents.iter().map(|agent| ledgers::spooled(agent).len()).sum();
    assert_eq!(ledger.len(), kept, "batches of the ledger that their agents have forgotten");
    println!("{cuts} power cuts: {kept} batches");
    drop((collector, disks));
}
