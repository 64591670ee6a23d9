//! Files that disks and people have changed: a spool goes on and says what is missing, a ledger is never believed.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use weighbridge_tests::{
    agent::{Agent, AgentOptions},
    audit,
    damage::{self, Damage},
    ledgers::{self, BatchKey},
    machine::Device,
    oracle,
    proxy::{Trouble, Weather},
    random::Random,
    site::Site,
    wait,
};
use weighbridge_wire::Hash;

use crate::rounds;

fn pass(milliseconds: u64) {
    wait::until_moment(wait::instant() + Duration::from_millis(milliseconds));
}

#[test]
fn a_damaged_spool_stops_no_agent_and_nothing_of_it_is_altered() {
    let mut random = Random::announced();
    let agents = (0_u32..).zip(Damage::ALL).map(|(number, damage)| {
        AgentOptions::quick(
            format!("{damage:?}"),
            vec![Device::numbered(number * 2), Device::numbered(number * 2 + 1)],
        )
    });
    let (mut site, proxy) = Site::behind_proxy(agents.collect(), random.clone());
    site.start_agents();
    site.measured(2_000);
    let mut existed: BTreeMap<BatchKey, Hash> = BTreeMap::new();
    let mut struck = Vec::new();
    for _ in 0..rounds(2, 20) {
        // Some are acknowledged, some wait.
        proxy.weather(Weather::Only(Trouble::Answer(weighbridge_tests::proxy::UNAVAILABLE)));
        pass(3_000);
        site.agents.iter_mut().for_each(Agent::kill);
        for (agent, damage) in site.agents.iter().zip(Damage::ALL) {
            existed.extend(readable(agent));
            let files: Vec<PathBuf> = damage::files(&agent.spool(), ".seg");
            struck.push(damage.strike(&files, &mut random).unwrap());
        }
        site.start_agents();
        pass(500);
        for agent in &mut site.agents {
            assert!(agent.runs(), "a damaged spool stops {}: {}", agent.name(), agent.log());
        }
        proxy.weather(Weather::Fair);
        let healed = wait::now();
        for device in site.agents.iter().flat_map(Agent::devices) {
            oracle::flows(&site, device, healed);
        }
    }
    site.agents.iter_mut().for_each(Agent::stop);
    site.collector.settle();
    for device in site.agents.iter().flat_map(Agent::devices) {
        audit::accelerator(&site.collector, device);
    }
    site.collector.stop();
    let ledger = ledgers::batches(&site.collector.data());
    let (mut lost, mut arrived) = (0, 0);
    for (key, hash) in &existed {
        match ledger.get(key) {
            Some(found) if found == hash => arrived += 1,
            Some(_) => panic!("{key:?} is in the ledger as another batch"),
            None => lost += 1,
        }
    }
    oracle::whole(&site);
    println!("{} files struck: {arrived} batches arrived, {lost} could not be read any more", struck.len());
}

/// What can be read of a spool that others have damaged.
fn readable(agent: &Agent) -> BTreeMap<BatchKey, Hash> {
    let mut found = BTreeMap::new();
    let epochs = fs::read_to_string(agent.spool().join("EPOCHS")).unwrap();
    // Those before the last were noted before they were damaged.
    let Some(last) = epochs.lines().last() else { return found };
    let mut reader = weighbridge_journal::Reader::from_start(&agent.spool().join(last));
    while let Ok(Some(entry)) = reader.next() {
        let key = (agent.name().to_owned(), last.to_owned(), entry.place.index);
        found.insert(key, weighbridge_wire::hash(&entry.payload));
    }
    found
}

#[test]
fn a_damaged_ledger_is_found_and_the_place_named() {
    let mut random = Random::announced();
    let agents =
        (0..6).map(|number| AgentOptions::quick(format!("host-{number}"), vec![Device::numbered(number)]));
    let mut site = Site::new(agents.collect());
    let config = fs::read_to_string(site.collector.config()).unwrap();
    site.collector.stop();
    fs::write(site.collector.config(), config.replace("[store]", "[store]\nsegment_bytes = 4096")).unwrap();
    site.collector.start_ready();
    site.start_agents();
    site.measured(6_000);
    site.stop_agents();
    site.collector.stop();
    let (data, whole) = (site.collector.data(), site.folder().join("whole"));
    let (keys, whole_keys) = (site.collector.keys(), site.folder().join("whole-keys"));
    damage::copy(&data, &whole).unwrap();
    damage::copy(&keys, &whole_keys).unwrap();
    let segments = damage::files(&data.join("ledger"), ".seg").len();
    assert!(segments >= 4, "{segments} segments");
    let (mut found, mut cut) = (0, 0);
    for damage in Damage::ALL {
        for round in 0..rounds(3, 30) {
            // With the keys that go with it: a collector that begins anew notes there what it signed.
            for (whole, place) in [(&whole, &data), (&whole_keys, &keys)] {
                fs::remove_dir_all(place).unwrap();
                damage::copy(whole, place).unwrap();
            }
            let mut files = damage::files(&data.join("ledger"), ".seg");
            // Without its beginning or its end a ledger is whole in itself.
            match (damage, round) {
                (Damage::Delete, 0) => drop(files.drain(..files.len() - 1)),
                (Damage::Delete, 1) => files.truncate(1),
                _ => {}
            }
            let struck = damage.strike(&files, &mut random).unwrap();
            let same = fs::read(&struck).ok()
                == fs::read(whole.join("ledger").join(struck.file_name().unwrap())).ok();
            if same {
                continue; // Zeros over zeros.
            }
            let verified = site.collector.run(&["verify"]);
            assert_eq!(verified.code, Some(1), "{damage:?} of {}: {verified:?}", struck.display());
            found += 1;
            let named = verified.stderr.contains(".seg");
            assert!(named, "{damage:?} of {}: no place: {}", struck.display(), verified.stderr);
            // A start cuts the torn end of a crash, or refuses.
            site.collector.start();
            let address = site.collector.http();
            let serves = wait::until("the collector ends or serves", || {
                if site.collector.ended().is_some() {
                    return Ok(false);
                }
                match weighbridge_tests::http::get(address, "/-/ready") {
                    Ok(answer) if answer.status == 200 => Ok(true),
                    other => Err(format!("{other:?}")),
                }
            });
            site.collector.kill();
            // It looks through the end of it only, and goes on where that is whole.
            cut += usize::from(serves);
        }
    }
    println!("{found} damaged ledgers found; {cut} of them would have served all the same");
}
