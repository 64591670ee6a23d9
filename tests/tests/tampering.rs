//! Whoever changes the ledger or the sums is found out, by name and place.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers are tests too; clippy sees only the functions marked so"
)]

use std::fs;

use sqlx::{Connection, Executor, SqliteConnection};
use weighbridge_journal::{ENTRY_HEAD_LEN, Reader};
use weighbridge_tests::{
    agent::AgentOptions,
    machine::Device,
    site::{Site, Tenant},
    tlog,
};
use weighbridge_tlog::checkpoint::Checkpoint;

/// Small, so that the ledger has several.
const SEGMENT_BYTES: u64 = 4096;

/// A site that has weighed something and stands still.
fn stopped() -> Site {
    let agents = vec![AgentOptions::quick("host-a", vec![Device::numbered(1), Device::numbered(2)])];
    let mut site = Site::new(agents);
    site.collector.stop();
    let config = fs::read_to_string(site.collector.config()).unwrap();
    let small = format!("[store]\nsegment_bytes = {SEGMENT_BYTES}\n");
    fs::write(site.collector.config(), config.replacen("[store]\n", &small, 1)).unwrap();
    site.collector.start_ready();
    site.lease(&[Tenant {
        customer: "C-1",
        principal: "lease:site-1/one",
        lease: "L-1",
        hosts: &["host-a"],
    }]);
    // Enough for several segments.
    let lease = |number| {
        format!("F-{number},far-{number},*,lease:site-1/far,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z\n")
    };
    let leases: String = (0..100).map(lease).collect();
    site.collector.import("leases", &format!("lease,host,accelerator,principal,start,end\n{leases}"));
    site.start_agents();
    site.measured(2_000);
    site.stop_agents();
    site.collector.stop();
    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    site
}

#[test]
fn a_flipped_byte_in_the_ledger_is_found_and_its_entry_named() {
    let site = stopped();
    let folder = site.collector.data().join("ledger");
    let mut reader = Reader::from_start(&folder);
    // Neither the first nor the last: the end of a journal could be a torn write.
    let mut entries = std::iter::from_fn(|| reader.next().unwrap()).skip(5);
    let entry = entries.next().unwrap();
    assert!(entries.count() > 2);

    let segment = folder.join(format!("{:020}.seg", entry.place.segment));
    let mut bytes = std::fs::read(&segment).unwrap();
    let within =
        usize::try_from(entry.place.offset).unwrap() + ENTRY_HEAD_LEN as usize + entry.payload.len() / 2;
    bytes[within] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    for named in [format!("{:020}.seg", entry.place.segment), format!("entry {}", entry.place.index)] {
        assert!(verified.stderr.contains(&named), "{named}: {}", verified.stderr);
    }
    // And nobody goes on with it.
    assert_eq!(site.collector.run(&["rebuild"]).code, Some(3));
}

#[test]
fn a_changed_sum_is_found_and_a_rebuild_repairs_it() {
    let site = stopped();
    let tampered = async || {
        let file = format!("sqlite://{}", site.collector.data().join("usage.sqlite").display());
        let mut database = SqliteConnection::connect(&file).await.unwrap();
        let changed = database.execute("UPDATE usage SET best_tera = best_tera - 1").await.unwrap();
        assert!(changed.rows_affected() > 0);
        database.close().await.unwrap();
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(tampered());

    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    assert!(verified.stderr.contains("the sums do not follow from the ledger: usage differ"), "{verified:?}");
    let row = "table usage, accelerator GPU-";
    let key = [
        "hour_ms ",
        "principal lease:site-1/one, attempt L-1, state ",
        "best_tera is ",
        ", the ledger gives ",
    ];
    for named in std::iter::once(row).chain(key) {
        assert!(verified.stderr.contains(named), "{named}: {}", verified.stderr);
    }

    let rebuilt = site.collector.run(&["rebuild"]);
    assert_eq!(rebuilt.code, Some(1), "whoever rebuilds is told that it was needed: {rebuilt:?}");
    assert!(rebuilt.stderr.contains("the sums before were others; they are replaced"), "{rebuilt:?}");
    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

/// Files of segments, in order.
fn segments(site: &Site) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(site.collector.data().join("ledger")).unwrap().map(|file| file.unwrap().path());
    let mut segments: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|end| end == "seg")).collect();
    segments.sort();
    segments
}

#[track_caller]
fn finds(site: &Site, how: &[&str], named: &[&str]) {
    let verified = site.collector.run(how);
    assert_eq!(verified.code, Some(1), "{how:?}: {verified:?}");
    for named in named {
        assert!(verified.stderr.contains(named), "{how:?}: {named}: {}", verified.stderr);
    }
}

#[test]
fn a_removed_segment_is_found_wherever_it_was() {
    let site = stopped();
    let all = segments(&site);
    assert!(all.len() > 4, "{all:?}");
    let name = |file: &std::path::PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();

    let middle = &all[all.len() / 2];
    let aside = site.folder().join("aside");
    fs::rename(middle, &aside).unwrap();
    finds(&site, &["verify", "--full"], &[&name(middle)]);
    finds(&site, &["verify", "--quick"], &[&name(middle)]);
    fs::rename(&aside, middle).unwrap();

    // The journal is whole without its last segment; what was signed is not.
    let last = all.last().unwrap();
    fs::rename(last, &aside).unwrap();
    let before = format!("the ledger ends in segment {} with entry", name(&all[all.len() - 2]));
    finds(&site, &["verify", "--full"], &[&before, "are missing"]);
    finds(&site, &["verify", "--quick"], &["the ledger ends with entry", "are missing"]);
    fs::rename(&aside, last).unwrap();
    assert_eq!(site.collector.run(&["verify"]).code, Some(0));
}

#[test]
fn a_rewritten_checkpoint_is_found_and_its_file_named() {
    let site = stopped();
    let file = site.collector.data().join("tlog/checkpoint");
    let text = fs::read_to_string(&file).unwrap();
    let log = tlog::log_key(&site.collector);
    let note: weighbridge_tlog::note::Note = text.parse().unwrap();
    let checkpoint = Checkpoint::open(&note, &log).unwrap();

    let fewer = format!("\n{}\n", checkpoint.size - 1);
    let edited = text.replacen(&format!("\n{}\n", checkpoint.size), &fewer, 1);
    fs::write(&file, edited).unwrap();
    for how in ["--full", "--quick"] {
        finds(&site, &["verify", how], &["tlog/checkpoint", "does not verify"]);
    }
    // Another key under the same name.
    let forger = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let forged = Checkpoint { size: checkpoint.size - 1, ..checkpoint.clone() }.sign(&forger).unwrap();
    fs::write(&file, forged.to_string()).unwrap();
    for how in ["--full", "--quick"] {
        finds(&site, &["verify", how], &["tlog/checkpoint", "has no signature of"]);
    }
    // The right key, as somebody has who took over the collector: what was signed before still stands beside it.
    let keys = site.collector.data().with_file_name("keys");
    let key = fs::read(keys.join("collector-signing.key")).unwrap().try_into().unwrap();
    let key = ed25519_dalek::SigningKey::from_bytes(&key);
    let signed = Checkpoint { root: [9; 32], ..checkpoint.clone() }.sign(&key).unwrap();
    fs::write(&file, signed.to_string()).unwrap();
    for how in ["--full", "--quick"] {
        finds(&site, &["verify", how], &["tlog/checkpoint", "is not that of the"]);
    }
    fs::remove_file(&file).unwrap();
    finds(&site, &["verify"], &["tlog/checkpoint", "there is no checkpoint"]);
}

#[test]
fn an_altered_batch_is_found_by_its_signature_and_by_its_leaf() {
    let site = stopped();
    let mut at = None;
    tlog::rewrite(&site.collector.data().join("ledger"), SEGMENT_BYTES, |index, mut payload| {
        if payload[0] == 1 && at.is_none() && index > 10 {
            at = Some(index);
            let middle = payload.len() / 2;
            payload[middle] ^= 1;
        }
        Some(payload)
    });
    let entry = format!("entry {}: ", at.unwrap());
    let leaf = format!("{entry}not the entry that the tree has under leaf {}", at.unwrap() - 1);
    finds(&site, &["verify"], &[&format!("{entry}batch of agent"), &leaf, "segment "]);
}

#[test]
fn a_fact_that_was_edited_with_the_chain_made_right_again_is_found_by_its_leaf() {
    let site = stopped();
    let mut at = None;
    tlog::rewrite(&site.collector.data().join("ledger"), SEGMENT_BYTES, |index, mut payload| {
        if payload[0] == 3
            && at.is_none()
            && let Some(found) = payload.windows(3).position(|bytes| bytes == b"L-1")
        {
            at = Some(index);
            payload[found + 2] = b'2';
        }
        Some(payload)
    });
    let leaf = at.unwrap() - 1;
    let named =
        format!("entry {}: not the entry that the tree has under leaf {leaf} (tile/entries/", leaf + 1);
    finds(&site, &["verify"], &["segment ", &named, "is not that of the ledger"]);
    let verified = site.collector.run(&["verify"]);
    assert!(verified.stdout.contains("it is the ledger that was changed"), "{verified:?}");
}

#[test]
fn a_changed_tile_is_found_and_named() {
    let site = stopped();
    let tiles = site.collector.data().join("tlog/tile/0");
    let folder = tiles.join("000.p");
    let folder = if folder.is_dir() { folder } else { tiles };
    let widest = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let width =
        |file: &std::path::PathBuf| file.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap();
    let file = widest.max_by_key(width).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, bytes).unwrap();
    let name = file.to_str().unwrap();
    let name = &name[name.find("tile/").unwrap()..];
    finds(&site, &["verify"], &[name, "does not follow from the ledger"]);
    finds(&site, &["verify", "--quick"], &["is not that of the tiles"]);
}

#[test]
fn a_promise_that_the_ledger_does_not_keep_is_found() {
    use base64::Engine;
    use ed25519_dalek::Signer;
    let site = stopped();
    let keys = site.collector.data().with_file_name("keys");
    let key = fs::read(keys.join("collector-signing.key")).unwrap().try_into().unwrap();
    let key = ed25519_dalek::SigningKey::from_bytes(&key);
    let hex = weighbridge_store::fold::hex;
    let promise = |sequence: u64, leaf: [u8; 32]| {
        let (generation, batch) = ([1; 16], [2; 32]);
        let at = weighbridge_meter::UtcMillis(1_769_846_400_000);
        let message = weighbridge_store::tree::promise::message(&generation, &batch, &leaf, at);
        let signature = base64::engine::general_purpose::STANDARD.encode(key.sign(&message).to_bytes());
        serde_json::json!({
            "sequence": sequence, "batch_hash": hex(&batch), "store_generation": hex(&generation),
            "promise": { "leaf_hash": hex(&leaf), "received_at": at, "key_id": "k", "signature": signature },
        })
        .to_string()
    };
    let mut reader = Reader::from_start(&site.collector.data().join("ledger"));
    let leaves = std::iter::from_fn(|| reader.next().unwrap())
        .filter(|entry| entry.payload[0] == 1)
        .map(|entry| weighbridge_store::entry::leaf_hash(&entry.payload));
    let kept: Vec<String> = (1..).zip(leaves).map(|(sequence, leaf)| promise(sequence, leaf)).collect();
    let folder = site.folder().join("promises/host-a/epoch");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("PROMISES"), kept.join("\n") + "\n").unwrap();
    let promises = site.folder().join("promises").display().to_string();
    let verified = site.collector.run(&["verify", "--promises", &promises]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(verified.stdout.contains(&format!("{0} of {0} promises are kept", kept.len())), "{verified:?}");

    let broken = promise(77, [9; 32]);
    fs::write(folder.join("PROMISES"), kept.join("\n") + "\n" + &broken + "\n").unwrap();
    let line = format!("PROMISES, line {}: batch 77", kept.len() + 1);
    finds(&site, &["verify", "--promises", &promises], &[&line, "promised and not in the ledger"]);
}
