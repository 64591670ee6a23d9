//! What an agent will not deliver, in its own signed words: this is what closes a hole in its numbers.

use weighbridge_meter::EpochId;

/// Batches of one epoch that this agent will not deliver, from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Loss {
    /// An epoch of the agent that says so, the one of the batch that carries this or one before.
    pub epoch: EpochId,
    /// From 1.
    pub first: u64,
    /// Not before `first`.
    pub last: u64,
    /// Why not.
    pub cause: LossCause,
}

/// Why batches are not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LossCause {
    /// They could not be read in the spool; what is left of them is quarantined there.
    Damaged,
    /// They were refused for good; the agent keeps them apart.
    Parked,
    /// The agent no longer holds them.
    Removed,
}

impl LossCause {
    /// Every cause, in the order of their codes.
    pub const ALL: &'static [Self] = &[Self::Damaged, Self::Parked, Self::Removed];

    /// On the wire; never reused.
    pub fn code(self) -> u32 {
        match self {
            Self::Damaged => 1,
            Self::Parked => 2,
            Self::Removed => 3,
        }
    }

    /// `None` if this version knows no such cause.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|cause| cause.code() == code)
    }

    /// One word for labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Parked => "parked",
            Self::Removed => "removed",
        }
    }
}

impl Loss {
    /// How many batches.
    pub fn batches(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }
}
