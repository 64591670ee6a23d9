//! Decoders that read files: each in a folder of this process.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tempfile::TempDir;
use weighbridge_agent::spool::{Spool, SpoolOptions, inspect};
use weighbridge_journal::{Journal, Options, Reader, verify};
use weighbridge_meter::UtcMillis;
use weighbridge_tests::handmade::Sender;

/// In memory where there is such a place: syncs cost nothing there.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        folder.expect("a temporary folder can be made")
    });
    folder.path()
}

/// Each thread has files of its own.
fn mine(name: &str) -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id());
    let number: String = thread.chars().filter(char::is_ascii_digit).collect();
    folder().join(format!("{number}-{name}"))
}

pub(crate) fn as_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    let file = mine(name);
    fs::write(&file, bytes).expect("the folder is writable");
    read(&file);
}

/// As the only segment of a journal, or as the second one: a byte says.
pub(crate) fn journal(bytes: &[u8]) {
    let dir = mine("journal");
    drop(fs::remove_dir_all(&dir));
    let second = bytes.first().is_some_and(|byte| *byte == 2);
    let bytes = bytes.get(1..).unwrap_or_default();
    let number = if second {
        let (mut journal, _) = Journal::open(&dir, Options { segment_bytes: 0 }).expect("an empty folder");
        journal.append(b"first").and_then(|_| journal.sync()).expect("memory takes it");
        2
    } else {
        fs::create_dir_all(&dir).expect("the folder is writable");
        1
    };
    fs::write(dir.join(format!("{number:020}.seg")), bytes).expect("the folder is writable");

    let mut reader = Reader::from_start(&dir);
    let mut before = Vec::new();
    while let Ok(Some(entry)) = reader.next() {
        before.push(entry.payload);
    }
    drop(verify(&dir, |_| {}));
    let Ok((mut journal, _)) = Journal::open(&dir, Options { segment_bytes: 1_000 }) else { return };
    // Whatever was cut: what could be read before can be read after, and it can be written on.
    let written = journal.append(b"one more").and_then(|_| journal.sync());
    written.expect("an open journal takes entries");
    drop(journal);
    let mut after = Vec::new();
    let verified = verify(&dir, |entry| after.push(entry.payload.clone()));
    verified.expect("an open journal is whole");
    before.push(b"one more".to_vec());
    assert!(after.ends_with(&before) || before == after, "opening a journal lost entries that could be read");
}

/// The small files of a spool: `EPOCHS`, `GENERATION` and `ACK`, with a zero byte between them.
pub(crate) fn spool(bytes: &[u8]) {
    let dir = mine("spool");
    let options = || SpoolOptions { segment_bytes: 200, ..SpoolOptions::in_dir(&dir) };
    let mut random = |bytes: &mut [u8]| bytes.fill(0x5a);
    drop(fs::remove_dir_all(&dir));
    let epoch = {
        let mut spool = Spool::open(options(), &mut random).expect("an empty folder");
        let sender = Sender::named("host-1");
        for sequence in 1..4 {
            let mut batch = sender.batch(sequence, spool.link().prev_hash, UtcMillis(1_767_225_600_000), 1);
            batch.epoch = spool.epoch();
            spool.append(&sender.seal(&batch)).expect("memory takes it");
        }
        spool.epoch().to_string()
    };
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    for file in [dir.join("EPOCHS"), dir.join("GENERATION"), dir.join(&epoch).join("ACK")] {
        if let Some(part) = parts.next() {
            // What stands for the epoch that is there.
            let text = String::from_utf8_lossy(part).replace("EPOCH", &epoch);
            fs::write(file, text).expect("the folder is writable");
        }
    }
    drop(inspect(&dir));
    let Ok(mut spool) = Spool::open(options(), &mut random) else { return };
    for _ in 0..8 {
        let Ok(Some(pending)) = spool.peek() else { break };
        spool.acknowledge(&pending).expect("memory takes it");
    }
}

/// The sums that were kept when payloads were pruned.
pub(crate) fn usage_summary(bytes: &[u8]) {
    weighbridge_store::summary::read_anything(bytes, &mine("summary"));
}

/// What a backup says of itself.
pub(crate) fn backup_manifest(bytes: &[u8]) {
    let dir = mine("backup");
    fs::create_dir_all(&dir).expect("the folder is writable");
    weighbridge_collector::backup::manifest::read_anything(bytes, &dir);
}
