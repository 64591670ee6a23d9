//! A look at a spool from outside, also while an agent has it: takes no lock and changes nothing.

use std::path::{Path, PathBuf};

use serde::Serialize;
use weighbridge_meter::EpochId;

use super::{
    EPOCHS, GENERATION, PARKED, QUARANTINE, RETURNED, SpoolError,
    epoch::saved_cursor,
    files,
    losses::Losses,
    open::GONE,
    promises::{self, PROMISES},
    salvaged::Salvaged,
    scan::Scan,
};

/// What lies in a spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Oldest first; the last is the one that is written to.
    pub epochs: Vec<EpochSummary>,
    /// Batches that were refused for good.
    pub parked: Vec<StoredFile>,
    /// Batches that were parked and are to be sent again.
    pub returned: Vec<StoredFile>,
    /// Files with damage in them.
    pub quarantined: Vec<StoredFile>,
    /// Ranges of batches that no batch told as lost yet.
    pub losses_to_tell: u64,
    /// Store generation of the collector that acknowledged last.
    pub generation: Option<String>,
}

/// A file that is kept for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredFile {
    /// Where.
    pub file: PathBuf,
    /// Its length.
    pub bytes: u64,
}

/// Numbers that follow each other, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// What lies in one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EpochSummary {
    /// Its name.
    pub id: String,
    /// Batches that are there and can be read.
    pub ranges: Vec<Range>,
    /// Bytes of its segment files.
    pub bytes: u64,
    /// Everything up to this sequence number is acknowledged, as far as that is durable; 0 if nothing is.
    pub acknowledged: u64,
    /// Batches that wait for their acknowledgement.
    pub waiting: u64,
    /// Promises of the collector that are kept.
    pub promises: u64,
    /// It was found damaged: nothing is written to it any more.
    pub damaged: bool,
}

/// Reads all of it, checksums included. No error if there is no spool: then there are no epochs.
pub fn inspect(dir: &Path) -> Result<Inspection, SpoolError> {
    let mut epochs = Vec::new();
    for id in names(dir)? {
        let folder = dir.join(id.to_string());
        let scan = Scan::look(id, &folder, &dir.join(QUARANTINE))?;
        let acknowledged = saved_cursor(&folder)?.map_or(0, |cursor| cursor - 1);
        let waiting = scan.runs.iter().filter(|run| run.last > acknowledged);
        let waiting = waiting.map(|run| run.last - run.first.max(acknowledged + 1) + 1).sum();
        let mut promises = 0;
        promises::each(&folder.join(PROMISES), |_, _| promises += 1)?;
        let files = files::list(&folder)?;
        let segments = files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"));
        epochs.push(EpochSummary {
            id: id.to_string(),
            ranges: ranges(&scan),
            bytes: segments.map(|(_, bytes)| bytes).sum(),
            acknowledged,
            waiting,
            promises,
            damaged: Salvaged::is_marked(&folder),
        });
    }
    let stored = |name: &str| -> Result<Vec<StoredFile>, SpoolError> {
        let list = files::list(&dir.join(name))?;
        Ok(list.into_iter().map(|(file, bytes)| StoredFile { file, bytes }).collect())
    };
    Ok(Inspection {
        epochs,
        parked: stored(PARKED)?,
        returned: stored(RETURNED)?,
        quarantined: stored(QUARANTINE)?,
        losses_to_tell: Losses::open(dir)?.pending() as u64,
        generation: files::read(&dir.join(GENERATION))?.map(|text| text.trim().to_owned()),
    })
}

/// All epochs, those that are not listed first.
pub(super) fn names(dir: &Path) -> Result<Vec<EpochId>, SpoolError> {
    let text = files::read(&dir.join(EPOCHS))?.unwrap_or_default();
    let mut listed: Vec<EpochId> = text.lines().filter_map(|line| line.parse().ok()).collect();
    // Everything in these was acknowledged; a full disk may keep them in the list.
    listed.retain(|id| !dir.join(format!("{id}.{GONE}")).exists());
    if !dir.is_dir() {
        return Ok(listed);
    }
    let mut names: Vec<EpochId> = files::folders(dir)?
        .into_iter()
        .filter_map(|(path, _)| path.file_name()?.to_str()?.parse().ok())
        .filter(|id| !listed.contains(id))
        .collect();
    names.sort_unstable();
    names.extend(listed);
    Ok(names)
}

/// Runs of numbers, however many files they are in.
fn ranges(scan: &Scan) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for run in &scan.runs {
        match ranges.last_mut() {
            Some(before) if run.first <= before.last + 1 => before.last = before.last.max(run.last),
            _ => ranges.push(Range { first: run.first, last: run.last }),
        }
    }
    ranges
}
