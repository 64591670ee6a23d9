//! Calls into the driver that failed, and what that means.

use nvml_wrapper::error::NvmlError;
use weighbridge_meter::GapCause;

/// `NVML_ERROR_GPU_NOT_FOUND`, for which the wrapper has no name.
const GPU_NOT_FOUND: u32 = 28;

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: GapCause,
    /// Which call, and what the driver said.
    pub(super) detail: String,
}

impl Failure {
    pub(super) fn of(call: &str, error: &NvmlError) -> Self {
        let cause = match error {
            NvmlError::GpuLost | NvmlError::NotFound | NvmlError::UnexpectedVariant(GPU_NOT_FOUND) => {
                GapCause::DeviceLost
            }
            NvmlError::LibloadingError(_)
            | NvmlError::DriverNotLoaded
            | NvmlError::LibraryNotFound
            | NvmlError::LibRmVersionMismatch
            | NvmlError::Uninitialized => GapCause::DriverMissing,
            _ => GapCause::ReadFailed,
        };
        Self { cause, detail: format!("{call}: {error}") }
    }

    /// The same of a call that asked for a MIG instance: that one is not found does not mean that its device
    /// is lost.
    pub(super) fn of_instance(call: &str, error: &NvmlError) -> Self {
        match error {
            NvmlError::NotFound | NvmlError::InvalidArg => {
                Self { cause: GapCause::NoComputeInstance, detail: format!("{call}: {error}") }
            }
            error => Self::of(call, error),
        }
    }

    /// Whether handles are worthless from here on.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.cause, GapCause::DeviceLost | GapCause::DriverMissing)
    }
}

/// Whether the driver says that there is nothing of the kind. A symbol that is not there is how an old one does.
pub(super) fn is_unsupported(error: &NvmlError) -> bool {
    matches!(error, NvmlError::NotSupported | NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_))
}

/// A failed call is a failed look, unless it says that there is nothing of the kind.
pub(super) fn optional<T>(call: &str, result: Result<T, NvmlError>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_unsupported(&error) => Ok(None),
        Err(error) => Err(Failure::of(call, &error)),
    }
}
