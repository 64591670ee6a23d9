//! The tree over the ledger: anybody can follow it, and a second party notices when its past changes.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers are tests too; clippy sees only the functions marked so"
)]

use std::{fs, path::PathBuf, process::Command};

use weighbridge_journal::Reader;
use weighbridge_tests::{
    agent::AgentOptions,
    collector::PROGRAM,
    http,
    machine::Device,
    ports,
    process::{self, Process},
    site::{Site, Tenant},
    tlog, wait,
};
use weighbridge_tlog::{
    Hash,
    checkpoint::cosigned_at,
    leaf_hash,
    note::VerifierKey,
    proof,
    receipt::Receipt,
    tile::{Level, WIDTH},
};

const TENANT: Tenant<'static> =
    Tenant { customer: "C-1", principal: "lease:site-1/one", lease: "L-1", hosts: &["host-a"] };

/// Size of the tree once it has everything that is in the ledger.
fn settled_tree(site: &Site) -> u64 {
    let status = site.collector.settle();
    let entries = status["ledger"]["durable"]["index"].as_u64().unwrap() - 1;
    let log = tlog::log_key(&site.collector);
    wait::until("the tree has the whole ledger", || {
        let (checkpoint, _) = tlog::served(&site.collector, "checkpoint", &log)?;
        if checkpoint.size == entries { Ok(entries) } else { Err(format!("{checkpoint:?}")) }
    })
}

#[test]
fn whoever_reads_the_served_tiles_gets_the_root_that_is_signed() {
    let site = Site::new(vec![]);
    let leases = |count: u32| {
        let line = |number| format!("L-{number},host-{number},*,lease:s/{number},{START},{END}\n");
        let lines: String = (0..count).map(line).collect();
        site.collector.import("leases", &format!("lease,host,accelerator,principal,start,end\n{lines}"));
    };
    // Beyond a full tile, and then beyond two.
    for count in [300, 700] {
        leases(count);
        let size = settled_tree(&site);
        let log = tlog::log_key(&site.collector);
        let (checkpoint, _) = tlog::served(&site.collector, "checkpoint", &log).unwrap();
        let mut leaves: Vec<(u64, Hash)> = Vec::new();
        for index in 0..size.div_ceil(WIDTH) {
            for level in [Level::Entries, Level::Hashes(0)] {
                let tile = proof::tile_of(level, index, size).unwrap();
                let answer = http::get(site.collector.http(), &format!("/tlog/{}", tile.path())).unwrap();
                let hashes = tile.decode(&answer.bytes).unwrap_or_else(|| panic!("{}", tile.path()));
                for (at, hash) in (index * WIDTH..).zip(hashes) {
                    match level {
                        Level::Entries => leaves.push((at, leaf_hash(&hash))),
                        _ => assert_eq!(leaves[usize::try_from(at).unwrap()].1, hash, "leaf {at}"),
                    }
                }
            }
        }
        assert_eq!(proof::root_with_leaves(&leaves, &[], size), Some(checkpoint.root));
    }
    // And whoever has an entry gets the proof that it is in there.
    let log = tlog::log_key(&site.collector);
    let mut reader = Reader::from_start(&site.collector.data().join("ledger"));
    for leaf in [0, 1, 299, 700] {
        let entry = std::iter::from_fn(|| reader.next().unwrap()).find(|entry| entry.place.index == leaf + 1);
        let answer = http::get(site.collector.http(), &format!("/tlog/proof/{leaf}")).unwrap();
        let receipt: Receipt = answer.body.parse().unwrap();
        let data = weighbridge_store::entry::leaf_data(&entry.unwrap().payload);
        assert_eq!(receipt.index, leaf);
        assert!(receipt.check(&data, &log).is_ok(), "{answer:?}");
        assert!(receipt.check(&[7; 32], &log).is_err());
    }
    for nothing in ["/tlog/proof/99999", "/tlog/checkpoint/x"] {
        assert_eq!(http::get(site.collector.http(), nothing).unwrap().status, 404, "{nothing}");
    }
    for nothing in ["/tlog/tile/0/x9", "/tlog/tile/0/../../../operator.key", "/tlog/tile/0/999"] {
        assert_eq!(http::get(site.collector.http(), nothing).unwrap().status, 404, "{nothing}");
    }
}

const START: &str = "2026-01-01T00:00:00Z";
const END: &str = "2026-02-01T00:00:00Z";

#[test]
fn a_collector_that_is_killed_takes_up_its_tree_and_a_quick_look_finds_it_whole() {
    let mut site = Site::new(vec![AgentOptions::quick("host-a", vec![Device::numbered(1)])]);
    site.lease(&[TENANT]);
    site.start_agents();
    for _ in 0..3 {
        let log = tlog::log_key(&site.collector);
        let size = |site: &Site| Ok::<_, String>(tlog::served(&site.collector, "checkpoint", &log)?.0.size);
        let before = wait::until("there is a tree", || size(&site));
        wait::until("the tree grows", || {
            let now = size(&site)?;
            if now > before { Ok(()) } else { Err(format!("{now} leaves")) }
        });
        site.collector.kill();
        site.collector.start_ready();
    }
    site.stop_agents();
    settled_tree(&site);
    // Also beside the collector that runs.
    let quick = site.collector.run(&["verify", "--quick"]);
    assert_eq!(quick.code, Some(0), "{quick:?}");
    site.collector.stop();
    for how in [["verify", "--quick"], ["verify", "--full"]] {
        let verified = site.collector.run(&how);
        assert_eq!(verified.code, Some(0), "{verified:?}");
    }
}

#[test]
fn a_ledger_of_the_release_before_gets_its_tree_at_the_first_start() {
    let mut site = Site::new(vec![]);
    site.lease(&[TENANT]);
    let size = settled_tree(&site);
    site.collector.stop();
    // Facts had no salt, and there was no tree.
    tlog::rewrite(&site.collector.data().join("ledger"), 64 << 20, |_, payload| match payload[0] {
        3 => Some([&[2], &payload[1..9], &payload[25..]].concat()),
        _ => Some(payload),
    });
    for gone in
        [site.collector.data().join("tlog"), site.collector.data().with_file_name("keys").join("tlog")]
    {
        fs::remove_dir_all(gone).unwrap();
    }
    fs::remove_file(site.collector.data().join("usage.sqlite")).unwrap();
    forget_mark(&site);
    let verified = site.collector.run(&["verify"]);
    assert!(verified.stdout.contains("there is no tree yet"), "{verified:?}");
    site.collector.start_ready();
    assert_eq!(settled_tree(&site), size);
    site.collector.stop();
    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[test]
fn a_ledger_restored_from_a_backup_is_noticed_and_goes_on_as_another_log() {
    let mut site = Site::new(vec![]);
    settled_tree(&site);
    site.collector.stop();
    let (data, backup) = (site.collector.data(), site.folder().join("backup"));
    tlog::copy(&data, &backup);
    let before = tlog::log_key(&site.collector);
    site.collector.start_ready();
    site.lease(&[TENANT]);
    let size = settled_tree(&site);
    site.collector.stop();

    fs::remove_dir_all(&data).unwrap();
    tlog::copy(&backup, &data);
    site.collector.start_ready();
    assert_ne!(tlog::log_key(&site.collector), before);
    let again = settled_tree(&site);
    assert!(again < size, "{again} < {size}");
    site.collector.stop();
    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(
        verified.stdout.contains(&format!("log {} ended with {size} entries", before.name())),
        "{verified:?}"
    );
}

#[test]
fn a_history_that_is_not_the_signed_one_is_never_signed_and_batches_are_taken_all_the_same() {
    let mut site = Site::new(vec![]);
    site.lease(&[TENANT]);
    settled_tree(&site);
    site.collector.stop();
    rewrite_a_lease(&site);
    fs::remove_dir_all(site.collector.data().join("tlog")).unwrap();
    fs::remove_file(site.collector.data().join("usage.sqlite")).unwrap();
    forget_mark(&site);
    site.collector.start_ready();
    wait::until("the collector refuses to sign", || {
        let metrics = site.collector.metrics();
        let refuses = metrics.contains("weighbridge_collector_tree_fenced 1")
            && metrics.contains("weighbridge_collector_tree_signing 0");
        if refuses { Ok(()) } else { Err(metrics) }
    });
    site.collector.import(
        "leases",
        &format!("lease,host,accelerator,principal,start,end\nL-9,h,*,lease:s/9,{START},{END}\n"),
    );
    assert!(!site.collector.data().join("tlog/checkpoint").exists());
    site.collector.stop();
    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    assert!(verified.stderr.contains("is not that of the ledger"), "{verified:?}");
}

#[test]
fn a_rewritten_history_does_not_pass_for_a_restored_one() {
    let mut site = Site::new(vec![]);
    site.lease(&[TENANT]);
    let size = settled_tree(&site);
    let before = tlog::log_key(&site.collector);
    site.collector.stop();
    rewrite_a_lease(&site);
    fs::remove_dir_all(site.collector.data().join("tlog")).unwrap();
    // The start sees that it is not what was promised, and begins anew as after a restore.
    site.collector.start_ready();
    settled_tree(&site);
    assert_ne!(tlog::log_key(&site.collector), before);
    site.collector.stop();
    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    let named =
        format!("the first {size} entries of the ledger are not those that log {} signed", before.name());
    assert!(verified.stderr.contains(&named), "{verified:?}");
    assert!(
        verified.stderr.contains(&format!("it had {size} entries when it was begun anew")),
        "{verified:?}"
    );
}

/// How far the ledger was promised: with it a rewritten ledger is taken for one that was put back, and gets another
/// generation.
fn forget_mark(site: &Site) {
    let mark = site.collector.data().with_file_name("keys").join("ledger-mark.json");
    fs::remove_file(mark).unwrap();
}

/// Somebody with the disk changes whose a host was: checksums and chain of the journal are right again.
fn rewrite_a_lease(site: &Site) {
    let mut changed = 0;
    tlog::rewrite(&site.collector.data().join("ledger"), 64 << 20, |_, payload| {
        let text = String::from_utf8_lossy(&payload);
        if payload[0] == 3 && text.contains("lease:site-1/one") && text.contains("host-a") {
            changed += 1;
            let at = payload.windows(6).position(|bytes| bytes == b"host-a").unwrap();
            let mut other = payload;
            other[at + 5] = b'b';
            return Some(other);
        }
        Some(payload)
    });
    assert_eq!(changed, 1);
}

/// A witness in a process of its own.
struct Witness {
    key: VerifierKey,
    at: String,
    folder: PathBuf,
    _process: Process,
}

fn witness(site: &Site) -> Witness {
    let folder = site.folder().join("witness");
    fs::create_dir_all(&folder).unwrap();
    let at = ports::free().to_string();
    let mut command: Command = process::command(&process::program(PROGRAM));
    command.args(["witness", "--name", "second.example/w1", "--listen", &at, "--log-key"]);
    command.arg(tlog::log_key(&site.collector).to_string());
    command.arg("--key").arg(folder.join("key")).arg("--state").arg(folder.join("state"));
    let process = Process::start("witness", &mut command, &folder);
    let out = folder.join("witness.out");
    let key = wait::until("the witness says its key", || {
        let said = process::read(&out);
        let served = said.contains("witness http://");
        let key = said.lines().find_map(|line| line.strip_prefix("key ")).filter(|_| served);
        key.and_then(|key| key.parse().ok())
            .ok_or_else(|| format!("{said} {}", process::read(&folder.join("witness.log"))))
    });
    Witness { key, at, folder, _process: process }
}

#[test]
fn a_witness_cosigns_what_follows_and_refuses_a_collector_that_rewrote_its_history() {
    let mut site = Site::new(vec![]);
    site.lease(&[TENANT]);
    settled_tree(&site);
    let witness = witness(&site);
    site.collector.stop();
    let config = fs::read_to_string(site.collector.config()).unwrap();
    let more = format!(
        "[tree]\nwitness_every = \"100ms\"\n[[tree.witness]]\nurl = \"http://{}\"\nkey = \"{}\"\n",
        witness.at, witness.key
    );
    fs::write(site.collector.config(), config + &more).unwrap();
    site.collector.start_ready();
    let log = tlog::log_key(&site.collector);
    let cosigned = |size: u64| {
        wait::until("the witness cosigned all of it", || {
            let (checkpoint, note) = tlog::served(&site.collector, "cosigned", &log)?;
            match cosigned_at(&note.text, &note.signatures, &witness.key) {
                Ok(Some(_)) if checkpoint.size >= size => Ok(checkpoint.size),
                other => Err(format!("{checkpoint:?} {other:?}")),
            }
        })
    };
    let first = cosigned(settled_tree(&site));
    site.collector.import(
        "leases",
        &format!("lease,host,accelerator,principal,start,end\nL-9,h,*,lease:s/9,{START},{END}\n"),
    );
    assert!(cosigned(settled_tree(&site)) > first, "a second one follows on the first");
    let metrics = site.collector.metrics();
    assert!(metrics.contains("weighbridge_collector_tree_cosignature_age_seconds "), "{metrics}");
    assert!(metrics.contains("weighbridge_collector_tree_refusing_witnesses 0"), "{metrics}");
    site.collector.stop();
    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(verified.stdout.contains("witness second.example/w1 cosigned"), "{verified:?}");

    // Whoever has the whole machine of the collector leaves no trace there.
    rewrite_a_lease(&site);
    let keys = site.collector.data().with_file_name("keys");
    for gone in [site.collector.data().join("tlog"), keys.join("tlog")] {
        fs::remove_dir_all(gone).unwrap();
    }
    fs::remove_file(site.collector.data().join("usage.sqlite")).unwrap();
    forget_mark(&site);
    site.collector.start_ready();
    wait::until("the witness refuses", || {
        let metrics = site.collector.metrics();
        let refused = metrics.contains("weighbridge_collector_tree_refusing_witnesses 1")
            && metrics.contains("weighbridge_collector_witness_answers_total{answer=\"refused\"}");
        if refused { Ok(()) } else { Err(metrics) }
    });
    assert!(tlog::served(&site.collector, "cosigned", &log).is_err());
    let log_of_witness = process::read(&witness.folder.join("witness.log"));
    assert!(log_of_witness.contains("a log shows another history than before"), "{log_of_witness}");
}
