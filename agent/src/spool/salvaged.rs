//! A damaged epoch: nothing is written to it any more, what can be read of it is sent, the rest is told.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use weighbridge_journal::Salvage;
use weighbridge_meter::EpochId;
use weighbridge_wire::{hash, limits};

use super::{
    Origin, Pending, SpoolError,
    epoch::{ACK, ack_text, saved_cursor},
    files,
    open::is_unreadable,
    promises::Promises,
    scan::{LONGEST_FILE, Scan},
};

/// Marks an epoch that is damaged, and says which numbers of it were told as lost: `first last` a line.
pub(super) const SALVAGED: &str = "SALVAGED";

#[derive(Debug)]
pub(super) struct Salvaged {
    id: EpochId,
    dir: PathBuf,
    scan: Scan,
    scanned: bool,
    /// The first number not acknowledged.
    cursor: u64,
    cursor_saved: bool,
    /// Numbers below this were given to batches.
    end: u64,
    told: Vec<(u64, u64)>,
    /// Found once, and not there any more when they were to be sent.
    gone: Vec<(u64, u64)>,
    /// Something became known that may have to be told.
    news: bool,
    reading: Option<Reading>,
    bytes: u64,
    pub(super) promises: Promises,
}

/// Where reading goes on.
struct Reading {
    run: usize,
    salvage: Salvage,
    sequence: u64,
    offset: u64,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Salvaged {
    /// Whether the epoch in this folder was found damaged before.
    pub(super) fn is_marked(dir: &Path) -> bool {
        dir.join(SALVAGED).exists()
    }

    /// Takes over an epoch. `end` is the number after the last that is known to have been given to a batch.
    pub(super) fn open(
        dir: &Path,
        id: EpochId,
        quarantine: &Path,
        end: u64,
        cursor: Option<u64>,
    ) -> Result<Self, SpoolError> {
        files::create_dir(dir)?;
        let marker = dir.join(SALVAGED);
        let text = files::read(&marker)?;
        if text.is_none() {
            files::write(&marker, b"")?;
        }
        let told = text.unwrap_or_default().lines().filter_map(pair).collect();
        let saved = saved_cursor(dir)?;
        let scan = Scan::new(id, dir, quarantine)?;
        let bytes = bytes_in(&scan.files, dir);
        Ok(Self {
            id,
            cursor: cursor.or(saved).unwrap_or(1).max(1),
            cursor_saved: cursor.is_none(),
            dir: dir.to_owned(),
            scan,
            scanned: false,
            end,
            told,
            gone: Vec::new(),
            news: false,
            reading: None,
            bytes,
            promises: Promises::open(dir)?,
        })
    }

    pub(super) fn id(&self) -> EpochId {
        self.id
    }

    pub(super) fn is_scanned(&self) -> bool {
        self.scanned
    }

    /// Whether [`Salvaged::untold`] has to be asked.
    pub(super) fn has_news(&self) -> bool {
        self.news
    }

    /// Looks at one more file.
    pub(super) fn scan(&mut self) -> Result<(), SpoolError> {
        if !self.scanned && self.scan.step()? {
            self.scanned = true;
            let last = self.scan.runs.last().map_or(0, |run| run.last);
            self.end = self.end.max(last.saturating_add(1));
            self.news = true;
        }
        Ok(())
    }

    /// Files that were moved into the quarantine since the last call, with their bytes that are no batch.
    pub(super) fn moved(&mut self) -> Vec<(PathBuf, u64)> {
        let moved = std::mem::take(&mut self.scan.moved);
        if !moved.is_empty() {
            self.bytes = bytes_in(&self.scan.files, &self.dir);
        }
        moved
    }

    /// Numbers that cannot be delivered and were not told yet.
    pub(super) fn untold(&self) -> Vec<(u64, u64)> {
        let mut holes = self.scan.holes(self.cursor, self.end);
        // The cursor may be behind these.
        for gone in &self.gone {
            let rest = holes.iter().fold(vec![*gone], |rest, hole| {
                rest.into_iter().flat_map(|range| without(range, *hole)).collect()
            });
            holes.extend(rest);
        }
        for (first, last) in &self.told {
            holes = holes.into_iter().flat_map(|hole| without(hole, (*first, *last))).collect();
        }
        holes
    }

    /// These are in the list of what is to be told, durably.
    pub(super) fn told(&mut self, holes: &[(u64, u64)]) -> Result<(), SpoolError> {
        self.news = false;
        if holes.is_empty() {
            return Ok(());
        }
        self.told.extend(holes);
        let text: String = self.told.iter().map(|(first, last)| format!("{first} {last}\n")).collect();
        files::write(&self.dir.join(SALVAGED), text.as_bytes())
    }

    /// What of `first..=last` cannot be delivered; empty until all was looked at.
    pub(super) fn lost_of(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        if self.scanned { self.scan.holes(first, last.saturating_add(1).min(self.end)) } else { Vec::new() }
    }

    /// Sends again from the first batch at or behind `sequence`. Whether that changes anything.
    pub(super) fn rewind(&mut self, sequence: u64) -> bool {
        let there = self.scan.runs.iter().find(|run| run.last >= sequence);
        let Some(to) = there.map(|run| run.first.max(sequence)).filter(|to| *to < self.cursor) else {
            return false;
        };
        self.cursor = to;
        self.promises.sent_again();
        self.cursor_saved = false;
        self.reading = None;
        true
    }

    pub(super) fn peek(&mut self) -> Result<Option<Pending>, SpoolError> {
        if !self.scanned {
            return Ok(None);
        }
        loop {
            let Some(run) = self.scan.runs.iter().position(|run| run.last >= self.cursor) else {
                return Ok(None);
            };
            let at = self.scan.runs[run];
            self.cursor = self.cursor.max(at.first);
            let mut reading = match self.reading.take() {
                Some(reading) if reading.run == run && reading.sequence <= self.cursor => reading,
                _ => match Salvage::open(&self.scan.files[at.file], limits::ENCODED_BYTES, LONGEST_FILE) {
                    Ok(salvage) => Reading { run, salvage, sequence: at.first, offset: at.offset },
                    Err(error) if files::passes(&error.source) => return Err(error.into()),
                    // Taken away by somebody, or the disk does not give it back: it holds nothing up.
                    Err(error) => {
                        tracing::warn!(epoch = %self.id, %error, "a salvaged segment cannot be read any more");
                        self.news = true;
                        self.scan.runs.remove(run);
                        self.gone.extend(self.scan.holes(self.cursor, at.last.saturating_add(1)));
                        continue;
                    }
                },
            };
            let read = reading.read_to(self.cursor).or_else(|error| match is_unreadable(&error) {
                true => Ok(None),
                false => Err(error),
            });
            match read? {
                Some(bytes) => {
                    self.reading = Some(reading);
                    return Ok(Some(Pending {
                        epoch: self.id,
                        sequence: self.cursor,
                        hash: hash(&bytes),
                        bytes,
                        origin: Origin::Salvaged,
                    }));
                }
                // It was there a moment ago: what is left of this stretch is a hole after all.
                None => {
                    self.news = true;
                    if self.cursor == at.first {
                        self.scan.runs.remove(run);
                    } else {
                        self.scan.runs[run].last = self.cursor - 1;
                    }
                    self.gone.extend(self.scan.holes(self.cursor, at.last.saturating_add(1)));
                }
            }
        }
    }

    pub(super) fn acknowledge(&mut self, sequence: u64) -> bool {
        if sequence != self.cursor {
            return false;
        }
        self.cursor = sequence + 1;
        self.cursor_saved = false;
        true
    }

    pub(super) fn forget_acknowledgements(&mut self) {
        self.promises.sent_again();
        // What was removed before the oldest that is here had been acknowledged, and is no loss.
        let oldest = self.scan.runs.first().map_or(self.cursor, |run| run.first.min(self.cursor));
        self.cursor = if self.scanned { oldest } else { 1 };
        self.cursor_saved = false;
        self.reading = None;
    }

    pub(super) fn save(&mut self) -> Result<(), SpoolError> {
        if !self.cursor_saved {
            files::overwrite(&self.dir.join(ACK), &ack_text(self.cursor, 0, 0))?;
            self.cursor_saved = true;
        }
        Ok(())
    }

    /// Nothing of it waits, and all that is lost was told.
    pub(super) fn is_done(&self) -> bool {
        self.scanned && !self.news && self.unacknowledged() == 0
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Of batches that wait, as far as they were found.
    pub(super) fn unacknowledged(&self) -> u64 {
        let waiting = self.scan.runs.iter().filter(|run| run.last >= self.cursor);
        waiting.map(|run| run.last - run.first.max(self.cursor) + 1).sum()
    }

    /// Of its segment files outside the quarantine.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn unacknowledged_bytes(&self) -> u64 {
        if self.scanned && self.unacknowledged() == 0 { 0 } else { self.bytes }
    }

    pub(super) fn last_written(&self) -> Option<SystemTime> {
        fs::metadata(self.dir.join(SALVAGED)).and_then(|metadata| metadata.modified()).ok()
    }

    /// The hash of a batch, if it can be read; all files are looked at for it.
    pub(super) fn hash_of(&mut self, sequence: u64) -> Result<Option<weighbridge_wire::Hash>, SpoolError> {
        while !self.scanned {
            self.scan()?;
        }
        let Some(run) = self.scan.runs.iter().find(|run| run.first <= sequence && sequence <= run.last)
        else {
            return Ok(None);
        };
        let (first, offset) = (run.first, run.offset);
        let read = Salvage::open(&self.scan.files[run.file], limits::ENCODED_BYTES, LONGEST_FILE)
            .map_err(SpoolError::from)
            .and_then(|salvage| Reading { run: 0, salvage, sequence: first, offset }.read_to(sequence));
        match read {
            Ok(bytes) => Ok(bytes.map(|bytes| hash(&bytes))),
            // What cannot be read is not sent either.
            Err(error) if is_unreadable(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Reading {
    /// The batch with this number, which is at or behind where reading stands.
    fn read_to(&mut self, sequence: u64) -> Result<Option<Vec<u8>>, SpoolError> {
        loop {
            let Some(bytes) = self.salvage.entry_at(self.offset)? else { return Ok(None) };
            if self.sequence == sequence {
                return Ok(Some(bytes));
            }
            self.offset += weighbridge_journal::ENTRY_HEAD_LEN + bytes.len() as u64;
            self.sequence += 1;
        }
    }
}

fn bytes_in(paths: &[PathBuf], dir: &Path) -> u64 {
    let inside = paths.iter().filter(|path| path.starts_with(dir));
    inside.filter_map(|path| Some(files::size(&fs::metadata(path).ok()?))).sum()
}

fn pair(line: &str) -> Option<(u64, u64)> {
    let (first, last) = line.split_once(' ')?;
    Some((first.parse().ok()?, last.parse().ok()?)).filter(|(first, last)| first <= last)
}

/// A range without another.
pub(super) fn without((first, last): (u64, u64), (from, until): (u64, u64)) -> Vec<(u64, u64)> {
    if until < first || last < from {
        return vec![(first, last)];
    }
    let before = (first < from).then(|| (first, from - 1));
    let behind = (until < last).then(|| (until + 1, last));
    before.into_iter().chain(behind).collect()
}
