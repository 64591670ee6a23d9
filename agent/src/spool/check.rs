//! Re-reads a whole spool and names everything that is not as it was written.

use std::path::{Path, PathBuf};

use serde::Serialize;
use weighbridge_journal::{Piece, Salvage};
use weighbridge_meter::EpochId;
use weighbridge_wire::{Envelope, Hash, VerifyingKey, hash, limits};

use super::{
    QUARANTINE, SpoolError, files,
    inspect::names,
    open::lock,
    salvaged::Salvaged,
    scan::{LONGEST_FILE, Scan},
};

/// What a spool was found to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Batches that are as they were sealed.
    pub batches: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is wrong, with its place.
    pub findings: Vec<Finding>,
    /// Numbers that are missing from an epoch that is known to be damaged: they are told as lost.
    pub lost: u64,
    /// Files in the quarantine. What is in them is known.
    pub quarantined: u64,
    /// An agent has the spool: what it was writing just then was not looked at.
    pub in_use: bool,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, or the folder of an epoch.
    pub file: PathBuf,
    /// Where in the file.
    pub offset: Option<u64>,
    /// What is wrong.
    pub problem: String,
}

/// Findings beyond this are not listed: they are of the same kind.
const MOST_FINDINGS: usize = 1_000;

/// Reads everything. With `key`, the signatures are checked too.
pub fn verify(dir: &Path, key: Option<&VerifyingKey>) -> Result<Verified, SpoolError> {
    // Held while it reads, so that no agent starts meanwhile.
    let lock = if dir.is_dir() { lock(dir) } else { return Ok(Verified::default()) };
    let mut verified = Verified { in_use: lock.is_err(), ..Verified::default() };
    verified.quarantined = files::list(&dir.join(QUARANTINE))?.len() as u64;
    let names = names(dir)?;
    for (position, &id) in names.iter().enumerate() {
        let folder = dir.join(id.to_string());
        let segments: Vec<PathBuf> = files::list(&folder)?
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| path.extension().is_some_and(|e| e == "seg"))
            .collect();
        let salvaged = Salvaged::is_marked(&folder);
        let mut chain = Chain { id, key, salvaged, before: None };
        for (number, path) in segments.iter().enumerate() {
            let last = number + 1 == segments.len() && position + 1 == names.len();
            verified.file(path, last && verified.in_use, &mut chain)?;
        }
        verified.holes(id, &folder, &dir.join(QUARANTINE))?;
    }
    Ok(verified)
}

/// The batch before, to see that they are chained.
struct Chain<'a> {
    id: EpochId,
    key: Option<&'a VerifyingKey>,
    /// What lay between is in the quarantine, or was told as lost.
    salvaged: bool,
    before: Option<(u64, Hash)>,
}

impl Verified {
    fn find(&mut self, file: &Path, offset: Option<u64>, problem: String) {
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(Finding { file: file.to_owned(), offset, problem });
        }
    }

    fn file(&mut self, path: &Path, being_written: bool, chain: &mut Chain<'_>) -> Result<(), SpoolError> {
        let mut salvage = Salvage::open(path, limits::ENCODED_BYTES, LONGEST_FILE)?;
        let len = std::fs::metadata(path).map_err(files::failed("look at", path))?.len();
        self.bytes += len.min(LONGEST_FILE);
        if len > LONGEST_FILE {
            self.find(path, Some(LONGEST_FILE), format!("the file has {len} bytes"));
        }
        while let Some(piece) = salvage.next()? {
            match piece {
                // At the very end of what an agent is writing: not yet written.
                Piece::Damaged { offset, bytes, .. } if being_written && offset + bytes >= len => {}
                Piece::Damaged { offset, bytes, damage } => {
                    self.find(path, Some(offset), format!("{bytes} bytes are no batch: {damage}"));
                    chain.before = None;
                }
                Piece::Entry { offset, payload, continues } => {
                    if !continues && !chain.salvaged && chain.before.is_some() {
                        let problem = "the batch does not continue the hash chain of its file".to_owned();
                        self.find(path, Some(offset), problem);
                    }
                    match chain.check(&payload) {
                        Ok(()) => self.batches += 1,
                        Err(problem) => self.find(path, Some(offset), problem),
                    }
                }
            }
        }
        Ok(())
    }

    fn holes(&mut self, id: EpochId, folder: &Path, quarantine: &Path) -> Result<(), SpoolError> {
        let scan = Scan::look(id, folder, quarantine)?;
        let (Some(first), Some(last)) = (scan.runs.first(), scan.runs.last()) else { return Ok(()) };
        for (from, until) in scan.holes(first.first, last.last) {
            if Salvaged::is_marked(folder) {
                self.lost += until - from + 1;
            } else {
                self.find(folder, None, format!("batches {from} to {until} are missing between others"));
            }
        }
        Ok(())
    }
}

impl Chain<'_> {
    fn check(&mut self, payload: &[u8]) -> Result<(), String> {
        let before = self.before.take();
        let envelope = Envelope::decode(payload).map_err(|error| crate::uplink::chain(&error))?;
        let opened = match self.key {
            Some(key) => envelope.open(key),
            None => envelope.read(),
        };
        let batch = opened.map_err(|error| crate::uplink::chain(&error))?;
        if batch.epoch != self.id {
            return Err(format!("the batch is of epoch {}", batch.epoch));
        }
        self.before = Some((batch.sequence, hash(payload)));
        match before {
            Some((sequence, _)) if batch.sequence != sequence + 1 => {
                if self.salvaged {
                    return Ok(());
                }
                Err(format!("batch {} follows batch {sequence}", batch.sequence))
            }
            Some((_, hash)) if batch.prev_hash != hash => {
                Err(format!("batch {} does not continue the one before", batch.sequence))
            }
            _ => Ok(()),
        }
    }
}
