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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_a_missing_driver_and_a_failed_call_are_told_apart() {
        for (error, cause) in [
            (NvmlError::GpuLost, GapCause::DeviceLost),
            (NvmlError::NotFound, GapCause::DeviceLost),
            (NvmlError::UnexpectedVariant(GPU_NOT_FOUND), GapCause::DeviceLost),
            (NvmlError::UnexpectedVariant(GPU_NOT_FOUND + 1), GapCause::ReadFailed),
            (NvmlError::DriverNotLoaded, GapCause::DriverMissing),
            (NvmlError::LibraryNotFound, GapCause::DriverMissing),
            // Another driver was loaded than the library is of.
            (NvmlError::LibRmVersionMismatch, GapCause::DriverMissing),
            (NvmlError::Uninitialized, GapCause::DriverMissing),
            (NvmlError::NoPermission, GapCause::ReadFailed),
            (NvmlError::Timeout, GapCause::ReadFailed),
        ] {
            let failure = Failure::of("a call", &error);
            assert_eq!(failure.cause, cause, "{error:?}");
            assert_eq!(failure.is_final(), cause != GapCause::ReadFailed, "{error:?}");
            assert!(failure.detail.starts_with("a call: "), "{}", failure.detail);
        }
    }

    #[test]
    fn an_instance_that_is_not_found_takes_nothing_from_its_device() {
        for (error, cause) in [
            (NvmlError::NotFound, GapCause::NoComputeInstance),
            (NvmlError::InvalidArg, GapCause::NoComputeInstance),
            (NvmlError::GpuLost, GapCause::DeviceLost),
            (NvmlError::Unknown, GapCause::ReadFailed),
        ] {
            assert_eq!(Failure::of_instance("a call", &error).cause, cause, "{error:?}");
        }
    }
}
