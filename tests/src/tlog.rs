//! The tree over a collector's ledger as an outsider sees it, and what somebody with the disk could do to it.

use std::{fs, path::Path};

use weighbridge_journal::{Journal, Options, Reader};
use weighbridge_tlog::{
    checkpoint::Checkpoint,
    note::{Note, VerifierKey},
};

use crate::{collector::Collector, http};

/// The key of the log, as the command prints it.
///
/// # Panics
/// If it prints none.
#[track_caller]
pub fn log_key(collector: &Collector) -> VerifierKey {
    let printed = collector.run(&["log-key"]);
    printed.stdout.trim().parse().unwrap_or_else(|error| panic!("{error}: {printed:?}"))
}

/// A checkpoint as the collector serves it under `/tlog/<name>`, its signature checked.
pub fn served(collector: &Collector, name: &str, log: &VerifierKey) -> Result<(Checkpoint, Note), String> {
    let path = format!("/tlog/{name}");
    let answer = http::get(collector.http(), &path).map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("GET {path}: {} {}", answer.status, answer.body));
    }
    let note: Note = answer.body.parse().map_err(|error| format!("{error}: {}", answer.body))?;
    let checkpoint = Checkpoint::open(&note, log).map_err(|error| error.to_string())?;
    Ok((checkpoint, note))
}

/// Writes all entries of a ledger anew as `change` gives them back, with checksums and chain that are right.
///
/// # Panics
/// If the folder cannot be read and written.
pub fn rewrite(ledger: &Path, segment_bytes: u64, mut change: impl FnMut(u64, Vec<u8>) -> Option<Vec<u8>>) {
    let aside = ledger.with_extension("rewritten");
    let options = Options { segment_bytes };
    let (mut journal, _) = Journal::open(&aside, options).expect("a journal can be made");
    let mut reader = Reader::from_start(ledger);
    while let Some(entry) = reader.next().expect("the ledger is whole") {
        if let Some(payload) = change(entry.place.index, entry.payload) {
            journal.append(&payload).expect("the disk takes it");
        }
    }
    journal.sync().expect("the disk takes it");
    drop(journal);
    for (from, to) in [(ledger, None), (&aside, Some(ledger))] {
        for file in fs::read_dir(from).expect("the folder is there") {
            let path = file.expect("the folder can be read").path();
            if path.extension().is_none_or(|extension| extension != "seg") {
                continue;
            }
            let moved = match to.zip(path.file_name()) {
                Some((to, name)) => fs::rename(&path, to.join(name)),
                None => fs::remove_file(&path),
            };
            moved.expect("the folder is writable");
        }
    }
    fs::remove_dir_all(&aside).expect("the folder is writable");
}

/// Copies a folder with all in it.
///
/// # Panics
/// If that does not work.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        let Some(name) = path.file_name() else { continue };
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).expect("a file can be copied");
        }
    }
}
