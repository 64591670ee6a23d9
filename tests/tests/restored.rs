//! A store that goes back in time says so by itself, and gets again what its agents still hold: nothing is lost,
//! nothing counted twice.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use weighbridge_store::Fact;
use weighbridge_tests::{
    agent::AgentOptions,
    audit, ledgers,
    machine::Device,
    pencil::Amount,
    site::{Site, Tenant},
    wait,
};

/// Agents that send all the time.
const AGENTS: usize = 8;

fn site() -> Site {
    let mut numbers = (0..).map(Device::numbered);
    let agents = (0..AGENTS).map(|index| {
        AgentOptions::quick(format!("host-{index:02}"), numbers.by_ref().take(1 + index % 2).collect())
    });
    // Small segments: a backup takes several, and meets the one that is being written.
    let mut site = Site::with_config("[store]\nsegment_bytes = 16384", agents.collect());
    let names: Vec<String> = site.agents.iter().map(|agent| agent.name().to_owned()).collect();
    let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
    site.lease(&[Tenant { customer: "C-1", principal: "lease:site-1/one", lease: "L-1", hosts: &hosts }]);
    site
}

/// Returns once this many batches are in the ledger.
fn entries(site: &Site, more: u64) -> u64 {
    let index = || site.collector.settle()["ledger"]["durable"]["index"].as_u64().unwrap();
    let begun = index();
    wait::until("batches come in", || {
        let now = index();
        if now >= begun + more { Ok(now) } else { Err(format!("{now} of {}", begun + more)) }
    })
}

fn generation(site: &Site) -> String {
    site.collector.get("status")["ledger"]["store_generation"].as_str().unwrap().to_owned()
}

fn command(site: &Site, arguments: &[&str]) -> String {
    let finished = site.collector.run(arguments);
    assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
    finished.stdout
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copied(&entry.path(), &target)
        } else {
            drop(fs::copy(entry.path(), target).unwrap())
        }
    }
}

/// Everything that the agents ever sealed is in the ledger, once; the sums are those of the windows.
fn judge(mut site: Site, renewals: &[&str]) {
    let now = generation(&site);
    wait::until("every agent knows the new generation, and is heard again", || {
        for agent in &site.agents {
            let known = fs::read_to_string(agent.spool().join("GENERATION")).unwrap_or_default();
            if known.trim() != now {
                return Err(format!("{} knows {known}", agent.name()));
            }
        }
        let waiting: Vec<(&str, u64)> = site
            .agents
            .iter()
            .map(|agent| (agent.name(), agent.waiting()))
            .filter(|agent| agent.1 > 1)
            .collect();
        if waiting.is_empty() { Ok(()) } else { Err(format!("batches wait: {waiting:?}")) }
    });
    site.stop_agents();
    let held: Vec<_> = site.agents.iter().map(ledgers::spooled).collect();
    let expected: BTreeMap<_, _> = held.into_iter().flatten().map(|(key, (hash, _))| (key, hash)).collect();
    wait::until("everything that agents hold is in the ledger", || {
        let durable = site.collector.settle()["ledger"]["durable"]["index"].as_u64().unwrap();
        let found = ledgers::batches(&site.collector.data());
        let missing = expected.iter().filter(|(key, hash)| found.get(*key) != Some(*hash)).count();
        if missing == 0 {
            Ok(())
        } else {
            Err(format!("{missing} of {} missing at entry {durable}", expected.len()))
        }
    });
    let mut total = Amount::default();
    for device in site.agents.iter().flat_map(|agent| agent.devices()) {
        let audited = audit::accelerator(&site.collector, device);
        assert!(!audited.windows.is_empty(), "{} was never measured", device.uuid);
        total = total.plus(audited.total().0);
    }
    let customer = site.collector.get("customers/C-1");
    assert_eq!(audit::amount(&customer["total"]["measured"]), total);
    let metrics = site.collector.metrics();
    let counted = format!("weighbridge_collector_store_renewals {}", renewals.len());
    assert!(metrics.contains(&counted), "{metrics}");
    site.collector.stop();
    assert_eq!(ledgers::batches(&site.collector.data()), expected, "each once, and nothing else");
    let reasons: Vec<String> = ledgers::facts(&site.collector.data())
        .into_iter()
        .filter_map(|fact| match fact {
            Fact::Record { kind, body, .. } if kind == "generation" => {
                Some(body["reason"].as_str().unwrap().to_owned())
            }
            _ => None,
        })
        .collect();
    assert_eq!(reasons, renewals);
    command(&site, &["verify"]);
    assert!(command(&site, &["rebuild"]).contains("the same integers as before"));
}

#[test]
fn a_backup_made_under_load_is_restored_and_agents_send_again_what_came_after_it() {
    let mut site = site();
    let backup = site.folder().join("backup");
    let to = backup.display().to_string();
    site.start_agents();
    entries(&site, 20);
    assert!(command(&site, &["backup", "--to", &to]).contains("the keys are not in it"));
    entries(&site, 20);
    // Again into the same folder: what is there is not copied again, and the last whole one counts.
    let second = command(&site, &["backup", "--to", &to]);
    assert!(second.contains("new"), "{second}");
    assert!(command(&site, &["backup", "--check", &to]).ends_with("ok\n"));
    let age = site.collector.metrics();
    assert!(age.contains("weighbridge_collector_backup_age_seconds"), "{age}");
    let mirror = site.folder().join("keys-backup").display().to_string();
    assert!(command(&site, &["backup", "--keys", "--to", &mirror]).contains("mirrored"));

    entries(&site, 40);
    let before = generation(&site);
    // Nobody takes the place of a ledger that is there.
    assert_eq!(site.collector.run(&["restore", "--from", &to]).code, Some(2));
    site.collector.kill();
    fs::remove_dir_all(site.collector.data()).unwrap();
    let restored = command(&site, &["restore", "--from", &to]);
    assert!(restored.contains(&before), "{restored}");
    site.collector.start_ready();
    assert_ne!(generation(&site), before);
    entries(&site, 10);
    judge(site, &["restored"]);
}

#[test]
fn a_data_folder_that_somebody_put_back_is_noticed_without_a_word() {
    let mut site = site();
    let (data, kept): (PathBuf, PathBuf) = (site.collector.data(), site.folder().join("kept"));
    site.start_agents();
    entries(&site, 20);
    site.collector.kill();
    copied(&data, &kept);
    site.collector.start_ready();
    entries(&site, 60);
    let before = generation(&site);
    // What is promised is noted within seconds.
    wait::until("the note of what is promised has passed the copy", || {
        let text = fs::read_to_string(site.collector.folder().join("keys/ledger-mark.json")).unwrap();
        let index =
            |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["place"]["index"].as_u64();
        let ends = weighbridge_journal::verify(&kept.join("ledger"), |_| ()).unwrap().end.index;
        if index(&text) > Some(ends) { Ok(()) } else { Err(format!("{text}, the copy ends at {ends}")) }
    });
    site.collector.kill();
    fs::remove_dir_all(&data).unwrap();
    copied(&kept, &data);
    site.collector.start_ready();
    assert_ne!(generation(&site), before);
    entries(&site, 10);
    judge(site, &["behind"]);
}
