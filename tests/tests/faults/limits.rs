//! Too little memory, too few files, and time that does not pass. Needs root.

use std::{fs, net::TcpStream, path::PathBuf, process::Command, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use weighbridge_tests::{
    agent::AgentOptions,
    machine::Device,
    oracle::Oracle,
    proxy::{Trouble, Weather},
    random::Random,
    site::Site,
    wait,
};

use crate::rounds;

fn pass(milliseconds: u64) {
    wait::until_moment(wait::instant() + Duration::from_millis(milliseconds));
}

fn two(name: &str, first: u32) -> AgentOptions {
    AgentOptions::quick(name, vec![Device::numbered(first), Device::numbered(first + 1)])
}

/// A control group of version 1 that limits memory.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn of(name: &str, bytes: u64) -> Self {
        let folder =
            PathBuf::from(format!("/sys/fs/cgroup/memory/weighbridge-{}-{name}", std::process::id()));
        fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}: needs root", folder.display()));
        let group = Self(folder);
        group.limit(bytes);
        group
    }

    fn limit(&self, bytes: u64) {
        fs::write(self.0.join("memory.limit_in_bytes"), bytes.to_string()).unwrap();
    }

    fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.0));
    }
}

#[test]
fn an_agent_lives_in_little_memory_and_survives_that_there_is_none() {
    let (mut site, proxy) = Site::behind_proxy(vec![two("small", 0)], Random::announced());
    site.start_agents();
    site.measured(1_500);
    let little = MemoryGroup::of("agent", 32 << 20);
    little.take(site.agents[0].id().unwrap());
    // A backlog does not gather in memory.
    proxy.weather(Weather::Only(Trouble::Blackhole));
    pass(5_000);
    proxy.weather(Weather::Fair);
    pass(1_000);
    assert!(site.agents[0].runs(), "32 MiB are too little: {}", site.agents[0].log());
    let mut oracle = Oracle::new();
    for _ in 0..rounds(2, 20) {
        let none = MemoryGroup::of("none", 64 << 20);
        none.take(site.agents[0].id().unwrap());
        // Less than it has: the kernel kills it as soon as it wants a page.
        drop(fs::write(none.0.join("memory.swappiness"), "0"));
        drop(fs::write(none.0.join("memory.force_empty"), "0"));
        kill_by_limit(&none, || !site.agents[0].runs());
        site.agents[0].kill();
        oracle.note(&site.agents[0]);
        site.agents[0].start();
        pass(1_500);
    }
    oracle.judge(&mut site);
}

/// Lowers the limit until the program is gone, or cannot be lowered.
fn kill_by_limit(group: &MemoryGroup, gone: impl FnMut() -> bool) {
    let mut gone = gone;
    for kibibytes in [16_384_u32, 8_192, 4_096, 2_048, 1_024, 512] {
        drop(fs::write(group.0.join("memory.limit_in_bytes"), (u64::from(kibibytes) << 10).to_string()));
        pass(300);
        if gone() {
            return;
        }
    }
}

#[test]
fn a_collector_that_the_kernel_kills_for_memory_starts_again() {
    let mut site = Site::new(vec![two("host", 0)]);
    site.start_agents();
    site.measured(1_500);
    for _ in 0..rounds(1, 20) {
        let group = MemoryGroup::of("collector", 256 << 20);
        group.take(site.collector.id().unwrap());
        kill_by_limit(&group, || site.collector.ended().is_some());
        site.collector.kill();
        site.collector.start_ready();
        pass(1_000);
    }
    Oracle::new().judge(&mut site);
}

#[test]
fn a_collector_without_free_files_takes_batches_again_when_there_are() {
    let mut site = Site::new(vec![two("host", 0)]);
    site.start_agents();
    site.measured(1_500);
    let pid = site.collector.id().unwrap().to_string();
    let limit = |files: &str| {
        assert!(
            Command::new("prlimit")
                .args(["--pid", &pid, &format!("--nofile={files}")])
                .status()
                .unwrap()
                .success()
        );
    };
    limit("48:4096");
    let held: Vec<_> = (0..100).filter_map(|_| TcpStream::connect(site.collector.ingest()).ok()).collect();
    pass(3_000);
    drop(held);
    limit("4096:4096");
    Oracle::new().judge(&mut site);
}

#[test]
fn time_in_which_a_program_was_stopped_is_a_gap_or_bounded() {
    let mut random = Random::announced();
    let mut site = Site::new(vec![two("stalled", 0), two("other", 2)]);
    site.start_agents();
    site.measured(1_500);
    for _ in 0..rounds(2, 20) {
        let pid = |id: Option<u32>| i32::try_from(id.unwrap()).ok().and_then(Pid::from_raw).unwrap();
        let (agent, collector) = (pid(site.agents[0].id()), pid(site.collector.id()));
        kill_process(agent, Signal::STOP).unwrap();
        kill_process(collector, Signal::STOP).unwrap();
        pass(random.within(200..4_000));
        kill_process(collector, Signal::CONT).unwrap();
        kill_process(agent, Signal::CONT).unwrap();
        pass(1_500);
    }
    Oracle::new().judge(&mut site);
}
