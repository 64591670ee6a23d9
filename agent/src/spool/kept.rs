//! An epoch of the spool, whether it is whole or damaged: what both can do.

use weighbridge_meter::EpochId;

use super::{SpoolError, epoch::Epoch, promises::Promises, salvaged::Salvaged};

/// An epoch, whole or not.
#[derive(Debug)]
pub(super) enum Kept {
    Whole(Epoch),
    Salvaged(Salvaged),
}

impl Kept {
    pub(super) fn id(&self) -> EpochId {
        match self {
            Self::Whole(epoch) => epoch.id(),
            Self::Salvaged(epoch) => epoch.id(),
        }
    }

    pub(super) fn promises(&mut self) -> &mut Promises {
        match self {
            Self::Whole(epoch) => &mut epoch.promises,
            Self::Salvaged(epoch) => &mut epoch.promises,
        }
    }

    pub(super) fn save(&mut self) -> Result<(), SpoolError> {
        match self {
            Self::Whole(epoch) => epoch.save(),
            Self::Salvaged(epoch) => epoch.save(),
        }
    }

    pub(super) fn forget_acknowledgements(&mut self) {
        match self {
            Self::Whole(epoch) => epoch.forget_acknowledgements(),
            Self::Salvaged(epoch) => epoch.forget_acknowledgements(),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Whole(epoch) => epoch.is_done(),
            Self::Salvaged(epoch) => epoch.is_done(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Whole(epoch) => epoch.bytes(),
            Self::Salvaged(epoch) => epoch.bytes(),
        }
    }

    pub(super) fn unacknowledged_bytes(&self) -> u64 {
        match self {
            Self::Whole(epoch) => epoch.unacknowledged_bytes(),
            Self::Salvaged(epoch) => epoch.unacknowledged_bytes(),
        }
    }

    pub(super) fn unacknowledged(&self) -> u64 {
        match self {
            Self::Whole(epoch) => epoch.unacknowledged(),
            Self::Salvaged(epoch) => epoch.unacknowledged(),
        }
    }
}
