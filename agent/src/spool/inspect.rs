//! A look at a spool from outside, also while an agent has it: takes no lock and changes nothing.

use std::path::Path;

use weighbridge_journal::Reader;

use super::{EPOCHS, GENERATION, PARKED, Parked, SpoolError, files, parked};

/// What lies in a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Oldest first; the last is the one that is written to.
    pub epochs: Vec<EpochSummary>,
    /// Batches that were refused for good.
    pub parked: Parked,
    /// Store generation of the collector that acknowledged last.
    pub generation: Option<String>,
}

/// What lies in one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochSummary {
    /// Its name.
    pub id: String,
    /// First and last sequence number that are there; `None` if there are no batches.
    pub sequences: Option<(u64, u64)>,
    /// Bytes of the batches.
    pub bytes: u64,
    /// Everything up to this sequence number is acknowledged, as far as that is durable; 0 if nothing is.
    pub acknowledged: u64,
}

/// Reads all of it, checksums included. No error if there is no spool: then there are no epochs.
pub fn inspect(dir: &Path) -> Result<Inspection, SpoolError> {
    let mut epochs = Vec::new();
    for id in files::read(&dir.join(EPOCHS))?.unwrap_or_default().lines() {
        let folder = dir.join(id);
        let mut reader = Reader::from_start(&folder);
        let (mut sequences, mut bytes) = (None, 0);
        while let Some(entry) = reader.next()? {
            let first = sequences.map_or(entry.place.index, |(first, _)| first);
            sequences = Some((first, entry.place.index));
            bytes += entry.payload.len() as u64;
        }
        let cursor = files::read(&folder.join("ACK"))?;
        let cursor = cursor.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let oldest = sequences.map_or(1, |(first, _)| first);
        let acknowledged = cursor.unwrap_or(oldest).saturating_sub(1);
        epochs.push(EpochSummary { id: id.to_owned(), sequences, bytes, acknowledged });
    }
    let generation = files::read(&dir.join(GENERATION))?.map(|text| text.trim().to_owned());
    Ok(Inspection { epochs, parked: parked(&dir.join(PARKED))?, generation })
}
