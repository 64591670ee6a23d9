//! What happens to a spool and is told once.

use std::path::PathBuf;

use weighbridge_meter::EpochId;
use weighbridge_wire::Loss;

/// Something happened to the spool that a person should know, told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolEvent {
    /// The disk lets nothing be opened; it is tried again before every batch.
    NotOpened(String),
    /// An epoch is damaged: what can be read of it is sent, nothing more is written to it.
    Damaged {
        /// Which.
        epoch: EpochId,
        /// What was found first.
        problem: String,
    },
    /// A file was moved into the quarantine.
    Quarantined {
        /// Where it is now.
        file: PathBuf,
        /// Bytes of it that are no batch.
        bytes: u64,
    },
    /// Batches will not be delivered; the next batch says so.
    Lost(Loss),
    /// The list of epochs was missing or damaged and was made anew from what lies there.
    IndexRebuilt(String),
    /// The collector asks again and again for what it was sent: that is not done any more.
    AskedInVain {
        /// In which epoch.
        epoch: EpochId,
        /// From which number on.
        first: u64,
    },
}
