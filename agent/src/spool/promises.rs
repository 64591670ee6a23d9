//! The collector's signed word that it has a batch, kept beside the batch.
//!
//! One JSON object a line. What is in a promise is not looked into: it is to be shown to the collector later,
//! and checking it is for whoever has its key.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weighbridge_journal::fail;
use weighbridge_wire::Hash;

use super::{SpoolError, files};

pub(super) const PROMISES: &str = "PROMISES";

/// A longer promise is none.
pub(crate) const LONGEST_PROMISE: usize = 4096;

/// Lines that wait in memory at most while the disk takes none: some hundred promises.
const MOST_WAITING: usize = 256 << 10;

/// A line of the file.
#[derive(Debug, Deserialize, Serialize)]
pub struct Promise {
    /// Number of the batch.
    pub sequence: u64,
    /// Hash of the batch, in hexadecimal digits.
    pub batch_hash: String,
    /// Of the store that has it.
    pub store_generation: String,
    /// What was promised.
    pub promise: Value,
}

#[derive(Debug)]
pub(super) struct Promises {
    path: PathBuf,
    waiting: Vec<u8>,
    bytes: u64,
    again: Again,
}

/// Whether promises may come that are there already.
#[derive(Debug)]
enum Again {
    /// Batches are sent once each, but for a few after a crash.
    No,
    /// They are sent again: what is there has to be looked up.
    Asked,
    /// Numbers with a promise, by store generation.
    Known(BTreeMap<String, BTreeSet<u64>>),
}

impl Promises {
    pub(super) fn open(epoch: &Path) -> Result<Self, SpoolError> {
        let path = epoch.join(PROMISES);
        let bytes = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(files::failed("look at", &path)(error)),
        };
        // A line that a crash cut short must not swallow the next one; empty lines are no promises.
        let waiting = if bytes > 0 { vec![b'\n'] } else { Vec::new() };
        Ok(Self { path, waiting, bytes, again: Again::No })
    }

    /// Batches are sent again from here on: of the same store one promise for each is enough.
    pub(super) fn sent_again(&mut self) {
        if matches!(self.again, Again::No) {
            self.again = Again::Asked;
        }
    }

    fn is_known(&mut self, sequence: u64, generation: &str) -> bool {
        if matches!(self.again, Again::Asked) {
            let mut known = BTreeMap::<String, BTreeSet<u64>>::new();
            let mut note = |promise: Promise| {
                known.entry(promise.store_generation).or_default().insert(promise.sequence);
            };
            if let Err(error) = each(&self.path, |_, promise| note(promise)) {
                tracing::debug!(error = crate::uplink::chain(&error), "some promises may be kept twice");
            }
            let waiting = self.waiting.split(|byte| *byte == b'\n');
            waiting.filter_map(|line| serde_json::from_slice(line).ok()).for_each(note);
            self.again = Again::Known(known);
        }
        let Again::Known(known) = &mut self.again else { return false };
        known.get(generation).is_some_and(|numbers| numbers.contains(&sequence))
    }

    pub(super) fn add(&mut self, sequence: u64, hash: &Hash, generation: &str, promise: Value) {
        if self.is_known(sequence, generation) {
            return;
        }
        let line = Promise {
            sequence,
            batch_hash: weighbridge_meter::hex(hash),
            store_generation: generation.to_owned(),
            promise,
        };
        if self.waiting.len() < MOST_WAITING
            && let Ok(text) = serde_json::to_string(&line)
            && text.len() <= LONGEST_PROMISE
        {
            self.waiting.extend_from_slice(text.as_bytes());
            self.waiting.push(b'\n');
            if let Again::Known(known) = &mut self.again {
                known.entry(generation.to_owned()).or_default().insert(sequence);
            }
        }
    }

    /// Makes them durable.
    pub(super) fn save(&mut self) -> Result<(), SpoolError> {
        if self.waiting.len() <= 1 {
            return Ok(());
        }
        let new = self.bytes == 0;
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&self.path)
            .map_err(files::failed("open", &self.path))?;
        let written = fail::around("spool.write_promises", || file.write_all(&self.waiting))
            .and_then(|()| fail::around("spool.sync_promises", || file.sync_data()));
        if let Err(error) = written {
            // A part may be there: it is cut off, or is a line that nobody can read, and they are written again.
            let _ = file.set_len(self.bytes);
            return Err(files::failed("write", &self.path)(error));
        }
        if new {
            files::sync_dir(self.path.parent().unwrap_or(Path::new(".")))?;
        }
        self.bytes += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Drops promises of batches before `sequence`, once that makes the file a good deal smaller.
    pub(super) fn drop_before(&mut self, sequence: u64) -> Result<(), SpoolError> {
        if let Again::Known(known) = &mut self.again {
            known.retain(|_, numbers| {
                *numbers = numbers.split_off(&sequence);
                !numbers.is_empty()
            });
        }
        let (mut kept, mut dropped) = (Vec::new(), 0_u64);
        each(&self.path, |line, promise| {
            if promise.sequence < sequence {
                dropped += line.len() as u64 + 1;
            } else {
                kept.extend_from_slice(line.as_bytes());
                kept.push(b'\n');
            }
        })?;
        if dropped > 0 && dropped >= self.bytes / 4 {
            files::write(&self.path, &kept)?;
            self.bytes = kept.len() as u64;
        }
        Ok(())
    }
}

/// Calls `visit` with each line that is a promise.
pub(super) fn each(path: &Path, mut visit: impl FnMut(&str, Promise)) -> Result<(), SpoolError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(files::failed("open", path)(error)),
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        // One line at a time, however long the file is; a line that never ends is cut into some that say nothing.
        let limit = (2 * LONGEST_PROMISE) as u64;
        let read = std::io::Read::take(&mut reader, limit).read_until(b'\n', &mut line);
        if read.map_err(files::failed("read", path))? == 0 {
            return Ok(());
        }
        let Ok(text) = std::str::from_utf8(&line) else { continue };
        if let Ok(promise) = serde_json::from_str::<Promise>(text.trim()) {
            visit(text.trim(), promise);
        }
    }
}
