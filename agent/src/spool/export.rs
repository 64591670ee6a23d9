//! Copies what lies in a spool to files that others can check without this program.
//!
//! ```text
//! <epoch>/<sequence>.batch    as sealed; the SHA-256 of the file is the hash of the batch
//! <epoch>/promises.jsonl      the collector's signed word for them, one JSON object a line
//! parked/<epoch>-<sequence>.batch
//! SHA256SUMS                  for `sha256sum -c`
//! MANIFEST.jsonl              one object a line: file, epoch, sequence, sha256, prev_hash, state
//! ```

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use serde::Serialize;
use weighbridge_meter::EpochId;
use weighbridge_wire::{Envelope, hash};

use super::{
    PARKED, QUARANTINE, SpoolError,
    epoch::saved_cursor,
    files,
    inspect::names,
    open::name_of_batch,
    promises::{self, PROMISES},
    scan::Scan,
};
use crate::uplink::hex;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Batches.
    pub batches: u64,
    /// Of these, parked ones.
    pub parked: u64,
    /// Promises.
    pub promises: u64,
    /// Bytes of batches.
    pub bytes: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    epoch: String,
    sequence: u64,
    bytes: u64,
    sha256: String,
    prev_hash: Option<String>,
    state: &'a str,
}

struct Manifest<'a> {
    to: &'a Path,
    sums: BufWriter<File>,
    lines: BufWriter<File>,
    exported: Exported,
}

/// Copies every batch that can be read, with promises, into the folder `to`, which must not be there yet or be
/// empty. Takes no lock and changes nothing in the spool.
pub fn export(dir: &Path, to: &Path) -> Result<Exported, SpoolError> {
    fs::create_dir_all(to).map_err(files::failed("create", to))?;
    let mut inside = fs::read_dir(to).map_err(files::failed("list", to))?;
    if inside.next().is_some() {
        let there = std::io::Error::from(std::io::ErrorKind::DirectoryNotEmpty);
        return Err(files::failed("export to", to)(there));
    }
    let create = |name: &str| {
        let path = to.join(name);
        File::create(&path).map(BufWriter::new).map_err(files::failed("create", &path))
    };
    let mut manifest = Manifest {
        to,
        sums: create("SHA256SUMS")?,
        lines: create("MANIFEST.jsonl")?,
        exported: Exported::default(),
    };
    for id in names(dir)? {
        let folder = dir.join(id.to_string());
        let scan = Scan::look(id, &folder, &dir.join(QUARANTINE))?;
        let acknowledged = saved_cursor(&folder)?.map_or(0, |cursor| cursor - 1);
        let own = to.join(id.to_string());
        fs::create_dir_all(&own).map_err(files::failed("create", &own))?;
        scan.each(|sequence, bytes| {
            let state = if sequence <= acknowledged { "acknowledged" } else { "waiting" };
            manifest.add(&format!("{id}/{sequence:020}.batch"), id, sequence, bytes, state)
        })?;
        manifest.promises(&folder.join(PROMISES), &own.join("promises.jsonl"))?;
    }
    for (path, _) in files::list(&dir.join(PARKED))? {
        let Some((epoch, sequence)) = name_of_batch(&path) else { continue };
        let bytes = fs::read(&path).map_err(files::failed("read", &path))?;
        files::create_dir(&to.join(PARKED))?;
        manifest.add(&format!("{PARKED}/{epoch}-{sequence}.batch"), epoch, sequence, &bytes, "parked")?;
        manifest.exported.parked += 1;
    }
    manifest.finish()
}

impl Manifest<'_> {
    fn add(
        &mut self,
        file: &str,
        epoch: EpochId,
        sequence: u64,
        bytes: &[u8],
        state: &str,
    ) -> Result<(), SpoolError> {
        let path = self.to.join(file);
        fs::write(&path, bytes).map_err(files::failed("write", &path))?;
        let batch = Envelope::decode(bytes).and_then(|envelope| envelope.read()).ok();
        let line = Line {
            file,
            epoch: epoch.to_string(),
            sequence,
            bytes: bytes.len() as u64,
            sha256: hex(&hash(bytes)),
            prev_hash: batch.map(|batch| hex(&batch.prev_hash)),
            state,
        };
        self.exported.batches += 1;
        self.exported.bytes += line.bytes;
        let text = serde_json::to_string(&line).map_err(|error| self.failed(std::io::Error::other(error)))?;
        let written = writeln!(self.sums, "{}  {file}", line.sha256);
        written.and_then(|()| writeln!(self.lines, "{text}")).map_err(|error| self.failed(error))
    }

    fn promises(&mut self, from: &Path, to: &Path) -> Result<(), SpoolError> {
        let mut lines = String::new();
        let mut count = 0;
        promises::each(from, |line, _| {
            lines.push_str(line);
            lines.push('\n');
            count += 1;
        })?;
        self.exported.promises += count;
        if count > 0 { fs::write(to, lines).map_err(files::failed("write", to)) } else { Ok(()) }
    }

    fn finish(mut self) -> Result<Exported, SpoolError> {
        let flushed = self.sums.flush().and_then(|()| self.lines.flush());
        flushed.map_err(|error| self.failed(error))?;
        Ok(self.exported)
    }

    fn failed(&self, error: std::io::Error) -> SpoolError {
        files::failed("write the manifest in", self.to)(error)
    }
}
