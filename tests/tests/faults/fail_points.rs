//! Programs that die, or are refused, at the very step on which something durable rests.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use weighbridge_tests::{
    agent::{Agent, AgentOptions},
    collector::Collector,
    damage,
    machine::Device,
    oracle::Oracle,
    random::Random,
    site::Site,
    wait,
};

use crate::rounds;

pub(crate) const POINT: &str = "WEIGHBRIDGE_FAIL_POINT";
pub(crate) const POINTS_TO: &str = "WEIGHBRIDGE_FAIL_POINTS_TO";
pub(crate) const POINTS_FROM: &str = "WEIGHBRIDGE_FAIL_POINTS_FROM";

/// A point that is not reached in this time is one that only another start of the program reaches.
const PATIENCE: Duration = Duration::from_millis(1_800);

/// Small enough that segments are begun, and removed, all the time.
const SMALL: &str = "keep_acknowledged_bytes = \"0B\"";

/// Steps that came up by their names, from the file that programs wrote.
pub(crate) fn names(file: &std::path::Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Runs a program with a point armed until it dies of it, or until it is clear that it will not.
fn suffer(mut ended: impl FnMut() -> bool) -> bool {
    let deadline = wait::instant() + PATIENCE;
    while wait::instant() < deadline {
        if ended() {
            return true;
        }
        wait::until_moment(wait::instant() + Duration::from_millis(10));
    }
    false
}

fn of_agent(agent: &mut Agent, name: &str, moment: &str, times: &[u64], oracle: &Mutex<Oracle>) -> usize {
    let mut died = 0;
    for time in times {
        for action in ["abort", "error"] {
            agent.start_with(&[(POINT, &format!("{name}:{moment}:{time}:{action}"))]);
            if suffer(|| !agent.runs()) {
                died += 1;
            }
            agent.kill();
            oracle.lock().unwrap_or_else(PoisonError::into_inner).note(agent);
        }
    }
    agent.start();
    died
}

#[test]
fn an_agent_that_fails_at_any_step_loses_nothing() {
    let mut random = Random::announced();
    // Which steps there are, in a first life and a second one.
    let known = {
        let device = Device::numbered(900);
        let options = AgentOptions { spool: SMALL, ..AgentOptions::quick("scout", vec![device]) };
        let mut site = Site::new(vec![options]);
        let list = site.folder().join("points");
        let to = list.display().to_string();
        site.agents[0].start_with(&[(POINTS_TO, &to)]);
        site.measured(2_000);
        site.agents[0].kill();
        site.agents[0].start_with(&[(POINTS_TO, &to)]);
        site.measured(3_000);
        site.agents[0].stop();
        names(&list)
    };
    for step in ["journal.write", "journal.sync", "journal.create_segment", "spool.sync", "spool.replace"] {
        assert!(known.contains(step), "the agent has steps that can fail: {known:?}");
    }
    let mut agents = Vec::new();
    let mut plans = Vec::new();
    for (number, name) in (0..).zip(&known) {
        for (half, moment) in [(0, "before"), (1, "after")] {
            let device = Device::numbered(number * 2 + half);
            let times: Vec<u64> =
                [1].into_iter().chain((1..rounds(2, 8)).map(|_| random.within(1..6))).collect();
            let called = format!("host-{number:02}-{moment}");
            agents.push(AgentOptions { spool: SMALL, ..AgentOptions::quick(called, vec![device]) });
            plans.push((name.clone(), moment, times));
        }
    }
    let mut site = Site::new(agents);
    let oracle = Mutex::new(Oracle::new());
    let died: usize = thread::scope(|scope| {
        let runs: Vec<_> = site
            .agents
            .iter_mut()
            .zip(&plans)
            .map(|(agent, (name, moment, times))| {
                let oracle = &oracle;
                scope.spawn(move || of_agent(agent, name, moment, times, oracle))
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).sum()
    });
    assert!(died >= known.len(), "{died} deaths at {} steps: {known:?}", known.len());
    let oracle = oracle.into_inner().unwrap_or_else(PoisonError::into_inner);
    oracle.judge(&mut site);
    println!("{} steps, {died} deaths: {known:?}", known.len());
}

#[test]
fn a_collector_that_fails_at_any_step_acknowledges_nothing_that_is_lost() {
    let mut random = Random::announced();
    let devices = |first| vec![Device::numbered(first), Device::numbered(first + 1)];
    let agents = (0..4).map(|index| AgentOptions::quick(format!("host-{index}"), devices(index * 2)));
    let mut site = Site::with_config("", agents.collect());
    // Segments of a few batches, so that they are begun all the time.
    let config = fs::read_to_string(site.collector.config()).unwrap();
    fs::write(site.collector.config(), config.replace("[store]", "[store]\nsegment_bytes = 4096")).unwrap();
    site.start_agents();

    let list = site.folder().join("points");
    let to = list.display().to_string();
    let first = site.folder().join("first");
    let mut known = {
        let mut fresh = Collector::prepare(&first, "");
        fresh.start_with(&[(POINTS_TO, &to)]);
        fresh.ready();
        fresh.stop();
        names(&list)
    };
    site.collector.stop();
    site.collector.start_with(&[(POINTS_TO, &to)]);
    site.collector.ready();
    site.measured(3_000);
    site.collector.kill();
    known.extend(names(&list));
    for step in
        ["journal.write", "journal.sync", "journal.create_segment", "fold.commit", "generation.replace"]
    {
        assert!(known.contains(step), "the collector has steps that can fail: {known:?}");
    }

    let mut died = 0;
    for name in &known {
        for moment in ["before", "after"] {
            // In its first life: whatever it left, the next start goes on from there by itself.
            fs::remove_dir_all(&first).unwrap();
            let mut fresh = Collector::prepare(&first, "");
            fresh.start_with(&[(POINT, &format!("{name}:{moment}"))]);
            let address = fresh.http();
            let answers =
                || weighbridge_tests::http::get(address, "/-/ready").is_ok_and(|answer| answer.status == 200);
            wait::until("a first start ends or serves", || {
                if fresh.ended().is_some() || answers() { Ok(()) } else { Err("neither".into()) }
            });
            fresh.kill();
            fresh.start_ready();
            fresh.stop();

            // Each at every step in the long form; in the short one an error stands for what comes after it.
            let actions: &[&str] = match (rounds(0, 1), moment) {
                (0, "before") => &["abort"],
                (0, _) => &["error"],
                _ => &["abort", "error"],
            };
            for action in actions {
                for _ in 0..rounds(1, 5) {
                    let time = random.within(1..4);
                    site.collector.start_with(&[(POINT, &format!("{name}:{moment}:{time}:{action}"))]);
                    if suffer(|| site.collector.ended().is_some()) {
                        died += 1;
                    }
                    site.collector.kill();
                }
            }
        }
    }
    site.collector.start_ready();
    Oracle::new().judge(&mut site);
    println!("{} steps, {died} deaths: {known:?}", known.len());

    // The commands that write, too: what they leave is as good as before.
    for name in ["rebuild.remove", "rebuild.replace", "fold.commit"] {
        for moment in ["before", "after"] {
            let point = format!("{name}:{moment}");
            let rebuilt = site.collector.run_with(&["rebuild"], &[(POINT, &point)]);
            assert_eq!(rebuilt.code, None, "{point}: {rebuilt:?}");
            site.collector.start_ready();
            site.collector.settle();
            site.collector.stop();
            weighbridge_tests::oracle::whole(&site);
        }
    }
}

#[test]
fn a_backup_or_a_restore_that_fails_at_any_step_is_done_by_the_next_one() {
    let mut random = Random::announced();
    let agents =
        (0..2).map(|index| AgentOptions::quick(format!("host-{index}"), vec![Device::numbered(index)]));
    let mut site = Site::with_config("", agents.collect());
    let config = fs::read_to_string(site.collector.config()).unwrap();
    fs::write(site.collector.config(), config.replace("[store]", "[store]\nsegment_bytes = 4096")).unwrap();
    site.start_agents();
    site.measured(3_000);
    let list = site.folder().join("points");
    let to = site.folder().join("backup").display().to_string();
    let backup = ["backup", "--to", &to];
    let listed = site.collector.run_with(&backup, &[(POINTS_TO, &list.display().to_string())]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let known = names(&list);
    for step in ["copy.create", "copy.write", "copy.sync", "manifest.sync", "file.rename", "file.sync_folder"]
    {
        assert!(known.contains(step), "a backup has steps that can fail: {known:?}");
    }
    let mut died = 0;
    for name in &known {
        for moment in ["before", "after"] {
            for action in ["abort", "error"] {
                let point = format!("{name}:{moment}:{}:{action}", random.within(1..4));
                let ended = site.collector.run_with(&backup, &[(POINT, &point)]);
                died += usize::from(ended.code != Some(0));
                // The one before counts until the new one is whole.
                let checked = site.collector.run(&["backup", "--check", &to]);
                assert_eq!(checked.code, Some(0), "{point}: {checked:?}");
            }
        }
    }
    assert!(died >= known.len(), "{died} failures at {} steps: {known:?}", known.len());
    let whole = site.collector.run(&backup);
    assert_eq!(whole.code, Some(0), "{whole:?}");

    let restore = ["restore", "--from", &to];
    let mut oracle = Oracle::new();
    site.agents.iter().for_each(|agent| oracle.note(agent));
    site.collector.kill();
    let (keys, kept) = (site.collector.folder().join("keys"), site.folder().join("kept"));
    damage::copy(&keys, &kept).unwrap();
    // Each time as if for the first time: what a store signed that was thrown away since would be missed, rightly.
    let anew = |site: &Site| {
        fs::remove_dir_all(site.collector.data()).unwrap();
        fs::remove_dir_all(&keys).unwrap();
        damage::copy(&kept, &keys).unwrap();
    };
    anew(&site);
    fs::remove_file(&list).unwrap();
    let listed = site.collector.run_with(&restore, &[(POINTS_TO, &list.display().to_string())]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let known = names(&list);
    for step in ["copy.sync", "restore.rename", "restore.remove", "file.remove"] {
        assert!(known.contains(step), "a restore has steps that can fail: {known:?}");
    }
    for name in &known {
        for moment in ["before", "after"] {
            anew(&site);
            let action = if random.within(0..2) == 0 { "abort" } else { "error" };
            let point = format!("{name}:{moment}:{}:{action}", random.within(1..3));
            let ended = site.collector.run_with(&restore, &[(POINT, &point)]);
            if ended.code != Some(0) {
                // Where the ledger has taken its place already the next start finishes it.
                let again = site.collector.run(&restore);
                assert!(matches!(again.code, Some(0 | 2)), "{point}: {again:?}");
            }
            site.collector.start_ready();
            site.collector.stop();
        }
    }
    anew(&site);
    let restored = site.collector.run(&restore);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    site.collector.start_ready();
    oracle.judge(&mut site);
    println!("{} steps of a restore: {known:?}", known.len());
}
