//! Whatever is done to the files, the agent starts, what can be read is sent, and the rest is told.

use std::collections::BTreeSet;

use weighbridge_meter::BootId;
use weighbridge_wire::{Batch, SigningKey, seal};

use super::*;

/// In memory where there is such a place: these tests open a spool thousands of times.
fn fast_dir() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a folder")
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn batch(link: Link) -> Sealed {
    let batch = Batch {
        agent: "node1".parse().expect("valid"),
        epoch: link.epoch,
        sequence: link.sequence,
        prev_hash: link.prev_hash,
        boot: BootId([3; 16]),
        windows: vec![],
        gaps: vec![],
        holdings: vec![],
        inventory: vec![],
        status: None,
        losses: vec![],
    };
    seal::seal(&batch, &key()).expect("seals")
}

/// Two batches to a segment.
fn options(dir: &Path) -> SpoolOptions {
    SpoolOptions { segment_bytes: 400, fill_bytes: 0, ..SpoolOptions::in_dir(dir) }
}

/// A spool with batches 1 to `count` in one epoch, closed as a killed agent leaves it.
fn written(dir: &Path, count: u64) -> (EpochId, Vec<Hash>) {
    let mut spool = opened(options(dir));
    let hashes = (0..count).map(|_| append(&mut spool)).collect();
    (spool.epoch(), hashes)
}

fn append(spool: &mut Spool) -> Hash {
    let sealed = batch(spool.link());
    spool.append(&sealed).expect("kept");
    sealed.hash
}

fn segments_of(dir: &Path, epoch: EpochId) -> Vec<PathBuf> {
    let list = files::list(&dir.join(epoch.to_string())).expect("listed");
    list.into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect()
}

/// Everything that waits, acknowledged on the way.
fn sent(spool: &mut Spool) -> Vec<(EpochId, u64, Hash)> {
    let mut sent = Vec::new();
    loop {
        while spool.scan().expect("scans") {}
        match spool.peek().expect("readable") {
            Some(pending) => {
                assert_eq!(pending.hash, weighbridge_wire::hash(&pending.bytes));
                spool.acknowledge(&pending).expect("acknowledged");
                sent.push((pending.epoch, pending.sequence, pending.hash));
            }
            None if spool.scan().expect("scans") => {}
            None => return sent,
        }
    }
}

fn told(spool: &Spool, epoch: EpochId) -> BTreeSet<u64> {
    let losses = spool.losses_to_tell();
    losses.iter().filter(|loss| loss.epoch == epoch).flat_map(|loss| loss.first..=loss.last).collect()
}

/// Opens what was done to a spool with these batches: each is sent as it was or told as lost, a new batch
/// collides with none of them, and a second start changes nothing. Gives back what was lost.
fn check(dir: &Path, epoch: EpochId, hashes: &[Hash], what: &str) -> BTreeSet<u64> {
    let mut spool = opened(options(dir));
    let fresh = append(&mut spool);
    let all = sent(&mut spool);
    let link = spool.link();
    let lost = told(&spool, epoch);
    let mut accounted = lost.clone();
    for (of, sequence, hash) in &all {
        if *of != epoch {
            assert_eq!(*hash, fresh, "{what}");
            continue;
        }
        match usize::try_from(*sequence - 1).ok().and_then(|index| hashes.get(index)) {
            Some(original) => assert_eq!(hash, original, "{what}: batch {sequence} was altered"),
            None => assert_eq!(*hash, fresh, "{what}"),
        }
        assert!(
            accounted.insert(*sequence),
            "{what}: batch {sequence} is both there and lost, or there twice"
        );
    }
    let expected: BTreeSet<u64> = (1..=hashes.len() as u64).collect();
    assert!(accounted.is_superset(&expected), "{what}: {accounted:?} of {expected:?}, lost {lost:?}");
    drop(spool);

    let mut again = opened(options(dir));
    assert_eq!(again.link(), link, "{what}");
    while again.scan().expect("scans") {}
    assert_eq!(told(&again, epoch), lost, "{what}: a second start tells something else");
    lost
}

/// A copy of a folder with one level of folders in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn any_changed_byte_of_any_segment_costs_one_batch_at_most_and_that_is_told() {
    let home = fast_dir();
    let (epoch, hashes) = written(&home.path().join("whole"), 5);
    let count = segments_of(&home.path().join("whole"), epoch).len();
    assert!(count >= 3, "{count} segments");
    let mut number = 0;
    for segment in 0..count {
        let original = fs::read(&segments_of(&home.path().join("whole"), epoch)[segment]).unwrap();
        for at in 0..original.len() {
            let dir = home.path().join(number.to_string());
            number += 1;
            copy(&home.path().join("whole"), &dir);
            let mut changed = original.clone();
            changed[at] ^= 1 << (at % 8);
            let path = &segments_of(&dir, epoch)[segment];
            fs::write(path, changed).unwrap();
            let what = format!("byte {at} of segment {segment}");
            let lost = check(&dir, epoch, &hashes, &what);
            assert!(lost.len() <= 1, "{what}: lost {lost:?}");
            assert_eq!(lost.len(), usize::from(at >= 60), "{what}: a header costs nothing");
            fs::remove_dir_all(dir).unwrap();
        }
    }
}

#[test]
fn truncated_zeroed_and_lengthened_segments_lose_no_more_than_what_is_gone() {
    let home = fast_dir();
    let whole = home.path().join("whole");
    let (epoch, hashes) = written(&whole, 5);
    // As an agent leaves it that was connected once: it is written down how far it had come.
    opened(options(&whole)).save().unwrap();
    let mut number = 0;
    for segment in 0..segments_of(&whole, epoch).len() {
        let original = fs::read(&segments_of(&whole, epoch)[segment]).unwrap();
        let mut cases = Vec::new();
        for at in (0..original.len()).step_by(7) {
            let mut zeroed = original.clone();
            zeroed[at..].fill(0);
            cases.push((format!("zeros from byte {at} of {segment}"), zeroed));
            cases.push((format!("{segment} cut at byte {at}"), original[..at].to_vec()));
        }
        cases.push((format!("garbage behind {segment}"), [original.clone(), vec![0x5a; 3000]].concat()));
        cases.push((format!("garbage before {segment}"), [vec![0x5a; 777], original.clone()].concat()));
        cases.push((format!("zeros behind {segment}"), [original.clone(), vec![0; 3000]].concat()));
        cases.push((
            format!("a later version of {segment}"),
            [b"WBJRNL02".to_vec(), original[8..].to_vec()].concat(),
        ));
        for (what, content) in cases {
            let dir = home.path().join(number.to_string());
            number += 1;
            copy(&whole, &dir);
            fs::write(&segments_of(&dir, epoch)[segment], content).unwrap();
            let lost = check(&dir, epoch, &hashes, &what);
            assert!(lost.len() <= 2, "{what}: lost {lost:?}");
            fs::remove_dir_all(dir).unwrap();
        }
    }
}

#[test]
fn missing_swapped_and_foreign_segments_are_seen_by_what_is_in_them() {
    let home = fast_dir();
    let whole = home.path().join("whole");
    let (epoch, hashes) = written(&whole, 6);
    opened(options(&whole)).save().unwrap();
    let other = home.path().join("other");
    let mut foreign = Spool::open(options(&other), &mut |bytes| bytes.fill(9)).unwrap();
    for _ in 0..6 {
        append(&mut foreign);
    }
    let foreign = segments_of(&other, foreign.epoch());
    let count = segments_of(&whole, epoch).len();
    assert_eq!(count, 3);
    type Act<'a> = Box<dyn Fn(&[PathBuf]) + 'a>;
    let mut acts: Vec<(String, Act<'_>, usize)> = Vec::new();
    for one in 0..count {
        acts.push((format!("{one} missing"), Box::new(move |s| fs::remove_file(&s[one]).unwrap()), 2));
        acts.push((format!("{one} empty"), Box::new(move |s| fs::write(&s[one], b"").unwrap()), 2));
        let foreign = &foreign;
        acts.push((
            format!("{one} from another epoch"),
            Box::new(move |s| assert!(fs::copy(&foreign[one], &s[one]).is_ok())),
            2,
        ));
        acts.push((
            format!("{one} is a folder"),
            Box::new(move |s| {
                fs::remove_file(&s[one]).unwrap();
                fs::create_dir(&s[one]).unwrap();
            }),
            2,
        ));
        acts.push((
            format!("{one} is larger than memory"),
            Box::new(move |s| {
                fs::File::options().write(true).open(&s[one]).unwrap().set_len(1 << 36).unwrap();
            }),
            0,
        ));
        for two in 0..one {
            acts.push((
                format!("{one} and {two} swapped"),
                Box::new(move |s| {
                    let (first, second) = (fs::read(&s[one]).unwrap(), fs::read(&s[two]).unwrap());
                    fs::write(&s[one], second).unwrap();
                    fs::write(&s[two], first).unwrap();
                }),
                0,
            ));
            acts.push((
                format!("{two} also in place of {one}"),
                Box::new(move |s| assert!(fs::copy(&s[two], &s[one]).is_ok())),
                2,
            ));
        }
    }
    acts.push((
        "a foreign one behind the last".into(),
        Box::new(|s| assert!(fs::copy(&foreign[2], s[2].with_file_name("00000000000000000004.seg")).is_ok())),
        0,
    ));
    for (number, (what, act, most)) in acts.into_iter().enumerate() {
        let dir = home.path().join(number.to_string());
        copy(&whole, &dir);
        act(&segments_of(&dir, epoch));
        let lost = check(&dir, epoch, &hashes, &what);
        assert_eq!(lost.len(), most, "{what}: lost {lost:?}");
        fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn lost_lists_cursors_and_folders_are_made_anew() {
    let home = fast_dir();
    let whole = home.path().join("whole");
    let (epoch, hashes) = written(&whole, 5);
    opened(options(&whole)).save().unwrap();
    type Act = fn(&Path, &Path);
    let acts: &[(&str, Act, usize)] = &[
        ("no EPOCHS", |dir, _| fs::remove_file(dir.join(EPOCHS)).unwrap(), 0),
        ("EPOCHS full of nonsense", |dir, _| fs::write(dir.join(EPOCHS), b"\xff\x00 what\n\n").unwrap(), 0),
        ("EPOCHS of zeros", |dir, _| fs::write(dir.join(EPOCHS), [0; 33]).unwrap(), 0),
        ("no MARKS", |dir, _| fs::remove_file(dir.join(marks::MARKS)).unwrap(), 0),
        ("nonsense in MARKS", |dir, _| fs::write(dir.join(marks::MARKS), b"\xff 7\nx").unwrap(), 0),
        ("nonsense in LOSSES", |dir, _| fs::write(dir.join(losses::LOSSES), b"\xff 7 9\n").unwrap(), 0),
        ("no ACK", |_, epoch| fs::remove_file(epoch.join(epoch::ACK)).unwrap(), 0),
        ("no folder", |_, epoch| fs::remove_dir_all(epoch).unwrap(), 5),
        (
            "a file in place of the folder",
            |_, epoch| {
                fs::remove_dir_all(epoch).unwrap();
                fs::write(epoch, b"x").unwrap();
            },
            5,
        ),
        (
            "other things around",
            |dir, epoch| {
                fs::write(dir.join("notes.txt"), b"x").unwrap();
                fs::write(epoch.join("7.seg"), b"x").unwrap();
                fs::create_dir(dir.join("lost+found")).unwrap();
                fs::create_dir(dir.join("0123.gone")).unwrap();
            },
            0,
        ),
    ];
    for (number, (what, act, most)) in acts.iter().enumerate() {
        let dir = home.path().join(number.to_string());
        copy(&whole, &dir);
        act(&dir, &dir.join(epoch.to_string()));
        let lost = check(&dir, epoch, &hashes, what);
        assert_eq!(lost.len(), *most, "{what}: lost {lost:?}");
    }
}

#[test]
fn damage_found_while_sending_costs_one_batch_and_the_file_is_kept_apart() {
    let dir = fast_dir();
    let mut spool = opened(options(dir.path()));
    let hashes: Vec<Hash> = (0..5).map(|_| append(&mut spool)).collect();
    let epoch = spool.epoch();
    let path = segments_of(dir.path(), epoch)[0].clone();
    let mut bytes = fs::read(&path).unwrap();
    bytes[120] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let numbers: Vec<u64> = sent(&mut spool).iter().map(|(_, sequence, _)| *sequence).collect();
    assert_eq!(numbers, [2, 3, 4, 5]);
    assert_eq!(told(&spool, epoch), [1].into());
    let moved = dir.path().join(QUARANTINE).join(format!("{epoch}-00000000000000000001.seg"));
    assert_eq!(fs::read(&moved).unwrap(), bytes, "not a byte of it is changed or gone");
    assert_eq!(spool.quarantined(), Stored { files: 1, bytes: bytes.len() as u64 });
    let events = spool.events();
    assert!(matches!(&events[0], SpoolEvent::Damaged { epoch: of, .. } if *of == epoch), "{events:?}");
    assert!(matches!(&events[1], SpoolEvent::Quarantined { file, .. } if *file == moved), "{events:?}");
    assert!(matches!(&events[2], SpoolEvent::Lost(Loss { first: 1, last: 1, .. })), "{events:?}");
    assert_eq!(events.len(), 3, "each is said once: {events:?}");
    assert_ne!(spool.epoch(), epoch, "nothing is written behind damage");

    // Done with, its folder goes as any other; what is kept for a person stays.
    spool.give_up_acknowledged().unwrap();
    assert!(!dir.path().join(epoch.to_string()).exists());
    assert!(moved.exists());
    drop(spool);
    let mut spool = opened(options(dir.path()));
    assert_eq!((sent(&mut spool), spool.events()), (vec![], vec![]), "it is over");
    assert_eq!(hashes.len(), 5);
}

#[test]
fn verification_names_file_and_byte_and_repair_leaves_nothing_to_name() {
    let dir = fast_dir();
    let (epoch, _) = written(dir.path(), 5);
    let verified = verify(dir.path(), Some(&key().verifying_key())).unwrap();
    assert_eq!((verified.batches, verified.findings), (5, vec![]));
    let other = verify(dir.path(), Some(&SigningKey::from_bytes(&[1; 32]).verifying_key())).unwrap();
    assert_eq!((other.batches, other.findings.len()), (0, 5), "signed by somebody else");

    let path = segments_of(dir.path(), epoch)[1].clone();
    let mut bytes = fs::read(&path).unwrap();
    bytes[150] ^= 1;
    fs::write(&path, bytes).unwrap();
    let found = verify(dir.path(), None).unwrap();
    assert_eq!(found.batches, 4);
    assert_eq!((&found.findings[0].file, found.findings[0].offset), (&path, Some(60)), "{found:?}");
    assert!(found.findings[0].problem.ends_with("the entry's checksum is wrong"), "{found:?}");

    let mut spool = opened(options(dir.path()));
    let repaired = spool.repair(false).unwrap();
    assert_eq!(repaired.events.len(), 3, "{repaired:?}");
    drop(spool);
    let found = verify(dir.path(), None).unwrap();
    assert_eq!((found.findings, found.lost, found.quarantined), (vec![], 1, 1));
}

#[test]
fn an_export_holds_every_batch_that_can_be_read_and_says_what_it_is() {
    let (dir, to) = (fast_dir(), fast_dir());
    let mut spool = opened(options(dir.path()));
    let hashes: Vec<Hash> = (0..5).map(|_| append(&mut spool)).collect();
    let pending = spool.peek().unwrap().unwrap();
    spool.promised(&pending, "g1", serde_json::json!({ "leaf_hash": "x" }));
    spool.acknowledge(&pending).unwrap();
    let pending = spool.peek().unwrap().unwrap();
    spool.park(&pending).unwrap();
    let to = to.path().join("copy");
    let exported = export(dir.path(), &to).unwrap();
    assert_eq!((exported.batches, exported.parked, exported.promises), (6, 1, 1));
    for (line, hash) in fs::read_to_string(to.join("SHA256SUMS")).unwrap().lines().zip(&hashes) {
        let (sum, file) = line.split_once("  ").unwrap();
        assert_eq!(sum, crate::uplink::hex(hash));
        assert_eq!(weighbridge_wire::hash(&fs::read(to.join(file)).unwrap()), *hash);
    }
    let manifest = fs::read_to_string(to.join("MANIFEST.jsonl")).unwrap();
    let states: Vec<String> = manifest
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["acknowledged", "acknowledged", "waiting", "waiting", "waiting", "parked"]);
    let promises = fs::read_to_string(to.join(spool.epoch().to_string()).join("promises.jsonl")).unwrap();
    let promise: Value = serde_json::from_str(&promises).unwrap();
    assert_eq!(promise["promise"]["leaf_hash"], "x");
    assert_eq!(promise["batch_hash"], crate::uplink::hex(&hashes[0]));
    assert!(export(dir.path(), &to).is_err(), "nothing is written over");
}

/// What the disk does not give back: a folder stands for it, which cannot be read as a file either.
fn unreadable(path: &Path) {
    let _ = fs::remove_file(path);
    fs::create_dir(path).expect("a folder");
}

#[test]
fn small_files_that_cannot_be_read_are_made_anew_and_cost_no_batch() {
    for name in ["EPOCHS", "MARKS", "LOSSES", "GENERATION", "ACK", "SALVAGED"] {
        let dir = fast_dir();
        let (epoch, hashes) = written(dir.path(), 5);
        let folder = if matches!(name, "ACK" | "SALVAGED") { epoch.to_string() } else { ".".into() };
        unreadable(&dir.path().join(folder).join(name));
        let mut spool = opened(options(dir.path()));
        spool.generation("g").unwrap();
        spool.save().unwrap();
        drop(spool);
        assert_eq!(check(dir.path(), epoch, &hashes, name), BTreeSet::new());
    }
}

#[test]
fn a_salvaged_segment_that_cannot_be_read_any_more_or_has_vanished_holds_nothing_up() {
    for scanned in [true, false] {
        let dir = fast_dir();
        let (epoch, _) = written(dir.path(), 6);
        fs::write(dir.path().join(epoch.to_string()).join("SALVAGED"), "").unwrap();
        let mut spool = opened(options(dir.path()));
        let first = &segments_of(dir.path(), epoch)[0];
        if scanned {
            while spool.scan().unwrap() {}
            unreadable(first);
        } else {
            fs::remove_file(first).unwrap();
        }
        let numbers: Vec<u64> = sent(&mut spool).into_iter().map(|(_, sequence, _)| sequence).collect();
        assert_eq!(numbers, [3, 4, 5, 6]);
        assert_eq!(told(&spool, epoch), BTreeSet::from([1, 2]));
    }
}

#[test]
fn a_cursor_beyond_the_end_of_its_epoch_sends_what_is_there_again() {
    let dir = fast_dir();
    let (epoch, _) = written(dir.path(), 5);
    fs::write(dir.path().join(epoch.to_string()).join("ACK"), format!("{:<63}\n", "9 1 60")).unwrap();
    drop(opened(options(dir.path()))); // It is the same after another start.
    let mut spool = opened(options(dir.path()));
    let numbers: Vec<u64> = sent(&mut spool).into_iter().map(|(_, sequence, _)| sequence).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert_eq!(told(&spool, epoch), BTreeSet::from([6, 7, 8]));
}

#[test]
fn what_was_removed_of_a_damaged_epoch_is_not_lost_because_there_is_another_store() {
    let dir = fast_dir();
    let options = SpoolOptions { keep_acknowledged_bytes: 0, ..options(dir.path()) };
    let mut spool = opened(options.clone());
    let epoch = spool.epoch();
    for _ in 0..5 {
        append(&mut spool);
    }
    spool.generation("a").unwrap();
    sent(&mut spool);
    spool.tidy(weighbridge_meter::UtcMillis(0)).unwrap();
    drop(spool);
    fs::write(dir.path().join(epoch.to_string()).join("SALVAGED"), "").unwrap();
    let mut spool = opened(options.clone());
    while spool.scan().unwrap() {}
    assert!(spool.generation("b").unwrap());
    drop(spool);
    let mut spool = opened(options);
    let numbers: Vec<u64> = sent(&mut spool).into_iter().map(|(_, sequence, _)| sequence).collect();
    assert_eq!((numbers, told(&spool, epoch)), (vec![5], BTreeSet::new()));
}
