//! Disks that are full, out of files, read-only, or that fail to sync. Needs root.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use weighbridge_tests::{
    agent::AgentOptions,
    machine::Device,
    mounts::Mount,
    oracle::Oracle,
    random::Random,
    site::{Site, Stage},
    wait,
};

use crate::rounds;

fn two(name: &str, first: u32) -> AgentOptions {
    AgentOptions::quick(name, vec![Device::numbered(first), Device::numbered(first + 1)])
}

fn pass(milliseconds: u64) {
    wait::until_moment(wait::instant() + Duration::from_millis(milliseconds));
}

/// Takes all the space that is left.
fn fill(folder: &Path) {
    let file = folder.join("filler");
    let mut size = 1 << 20;
    let mut all = Vec::new();
    while size > 0 {
        all.resize(all.len() + size, 1);
        if fs::write(&file, &all).is_err() {
            all.truncate(all.len() - size);
            size /= 4;
        }
        assert!(all.len() < 256 << 20, "{} is never full", folder.display());
    }
    drop(fs::write(&file, &all));
}

/// Takes all the files that are left.
fn fill_with_files(folder: &Path) {
    fs::create_dir_all(folder.join("files")).unwrap();
    for number in 0.. {
        if fs::write(folder.join("files").join(format!("{number}")), "").is_err() {
            return;
        }
        assert!(number < 10_000, "{} is never full", folder.display());
    }
}

/// Every sync of a running program fails, again and again, while this lives.
struct FailingSyncs(Child);

impl FailingSyncs {
    fn of(pid: u32, when: &str) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e"]);
        command.arg(format!("inject=fsync,fdatasync:error=EIO:when={when}"));
        command
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().expect("tests/run installs strace"))
    }
}

impl Drop for FailingSyncs {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        // It lets go of the program when it is asked to end.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        drop(self.0.wait());
    }
}

fn limit_files(pid: u32, bytes: &str) {
    let ended = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:unlimited")])
        .status();
    assert!(ended.unwrap().success(), "prlimit");
}

#[test]
fn an_agent_whose_disk_is_full_goes_on_when_it_is_not() {
    let mut site = Site::new(vec![two("bytes", 0), two("files", 2)]);
    let bytes = Mount::memory(&site.agents[0].spool(), "512k", None);
    let files = Mount::memory(&site.agents[1].spool(), "8m", Some(60));
    site.start_agents();
    site.measured(2_000);
    let mut oracle = Oracle::new();
    for _ in 0..rounds(2, 10) {
        fill(&site.agents[0].spool());
        fill_with_files(&site.agents[1].spool());
        pass(3_500);
        assert!(site.agents.iter_mut().all(|agent| agent.runs()), "an agent ended: {}", site.agents[0].log());
        fs::remove_file(site.agents[0].spool().join("filler")).unwrap();
        fs::remove_dir_all(site.agents[1].spool().join("files")).unwrap();
        pass(1_500);
    }
    oracle.note(&site.agents[0]);
    // Neither was started again: what was measured meanwhile waited in memory.
    let verdict = oracle.judge(&mut site);
    for audited in verdict.audited.values() {
        let holes = audited.windows.windows(2).filter(|pair| pair[0].end() != pair[1].start()).count();
        assert_eq!(holes, 0, "an agent has a gap though it ran all the time: {:?}", audited.windows);
    }
    drop((bytes, files));
}

#[test]
fn an_agent_that_starts_on_a_full_disk_goes_on_when_it_is_not() {
    let mut site = Site::new(vec![two("full", 0)]);
    let mount = Mount::memory(&site.agents[0].spool(), "512k", None);
    site.start_agents();
    site.measured(1_500);
    site.agents[0].kill();
    let mut oracle = Oracle::new();
    oracle.note(&site.agents[0]);
    fill(&site.agents[0].spool());
    site.agents[0].start();
    pass(2_000);
    // It may give up, and is started again, as a service manager does.
    fs::remove_file(site.agents[0].spool().join("filler")).unwrap();
    pass(500);
    if !site.agents[0].runs() {
        site.agents[0].start();
    }
    oracle.judge(&mut site);
    drop(mount);
}

#[test]
fn a_collector_whose_disk_is_full_acknowledges_nothing_and_goes_on_when_it_is_not() {
    let mut mount = None;
    let mut site = Site::prepared("", vec![two("host", 0)], |stage| {
        if let Stage::Data(data) = stage {
            mount = Some(Mount::memory(data, "160m", None));
        }
    });
    site.start_agents();
    site.measured(2_000);
    let data = site.collector.data();
    for _ in 0..rounds(2, 10) {
        fill(&data);
        pass(3_000);
        fs::remove_file(data.join("filler")).unwrap();
        // One that runs is not helped before it takes batches.
        let before = accepted(&site);
        wait::until("it takes batches again", || {
            let now = accepted(&site);
            if now > before || site.collector.ended().is_some() {
                return Ok(());
            }
            Err(format!("{before:?} were accepted when there was room again, {now:?} now"))
        });
        again(&mut site);
        pass(1_500);
    }
    Oracle::new().judge(&mut site);
    drop(mount);
}

/// Batches that the collector accepted since it started, if it says.
fn accepted(site: &Site) -> Option<u64> {
    let metrics = weighbridge_tests::http::get(site.collector.http(), "/metrics").ok()?;
    let line = "weighbridge_collector_batches_total{outcome=\"accepted\"} ";
    metrics.body.lines().find_map(|found| found.strip_prefix(line)?.parse().ok())
}

/// A collector that ended, or that says itself that it cannot go on, is started again, as a service manager does.
fn again(site: &mut Site) {
    let ended = site.collector.ended().is_some();
    let answer = weighbridge_tests::http::get(site.collector.http(), "/-/ready");
    if ended || !answer.is_ok_and(|answer| answer.status == 200) {
        site.collector.kill();
        site.collector.start_ready();
    }
}

#[test]
fn files_that_may_grow_no_more_stop_nobody_for_good() {
    let mut site = Site::new(vec![two("host", 0)]);
    site.start_agents();
    site.measured(2_000);
    let mut oracle = Oracle::new();
    for _ in 0..rounds(2, 10) {
        let (agent, collector) = (site.agents[0].id().unwrap(), site.collector.id().unwrap());
        // Less than any of their files has.
        limit_files(agent, "100");
        limit_files(collector, "100");
        pass(3_000);
        assert!(site.agents[0].runs(), "the agent ended: {}", site.agents[0].log());
        limit_files(agent, "unlimited");
        if site.collector.ended().is_none() {
            limit_files(collector, "unlimited");
        }
        again(&mut site);
        pass(1_500);
        oracle.note(&site.agents[0]);
    }
    oracle.judge(&mut site);
}

#[test]
fn a_file_system_that_turns_read_only_loses_nothing() {
    let mut mounts = Vec::new();
    let mut site = Site::prepared("", vec![two("host", 0)], |stage| {
        if let Stage::Data(data) = stage {
            mounts.push(Mount::disk(data, 24));
        }
    });
    mounts.push(Mount::disk(&site.agents[0].spool(), 24));
    site.start_agents();
    site.measured(2_000);
    let mut oracle = Oracle::new();
    for _ in 0..rounds(1, 10) {
        for mount in &mounts {
            // As after an error of the disk below: everything can be read, nothing written.
            mount.again("abort");
        }
        pass(3_000);
        assert!(site.agents[0].runs(), "the agent ended: {}", site.agents[0].log());
        site.agents[0].kill();
        site.collector.kill();
        mounts.iter().for_each(Mount::power_on);
        site.collector.start_ready();
        site.agents[0].start();
        pass(1_500);
        oracle.note(&site.agents[0]);
    }
    oracle.judge(&mut site);
    drop(mounts);
}

#[test]
fn a_sync_that_fails_is_neither_trusted_nor_final() {
    let mut random = Random::announced();
    let mut site = Site::new(vec![two("traced", 0), two("other", 2)]);
    site.start_agents();
    site.measured(2_000);
    let mut oracle = Oracle::new();
    for _ in 0..rounds(2, 20) {
        let when = format!("{}+{}", random.within(1..4), random.within(1..4));
        let (agent, collector) = (site.agents[0].id().unwrap(), site.collector.id().unwrap());
        let failing = [FailingSyncs::of(agent, &when), FailingSyncs::of(collector, &when)];
        pass(3_000);
        drop(failing);
        assert!(site.agents[0].runs(), "the agent ended: {}", site.agents[0].log());
        again(&mut site);
        pass(1_500);
        oracle.note(&site.agents[0]);
    }
    oracle.judge(&mut site);
}
