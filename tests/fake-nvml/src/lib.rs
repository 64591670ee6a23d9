//! A stand-in for NVIDIA's management library, with NVML's own symbols, driven by a script.
//!
//! The unmodified agent loads `libweighbridge_fake_nvml.so` where it would load `libnvidia-ml.so.1`, so
//! everything from the dynamic loader to the sampling loop is what runs on a real host.
//!
//! What the machine looks like stands in a [`script`] in TOML, read once, at `nvmlInit`: the file named by
//! `WEIGHBRIDGE_FAKE_NVML`, else the file beside the library with `.toml` appended to its name.
//! Values are constants and energy is a constant rate over boot time, so integrals can be worked out by hand.
//!
//! Faults are live and need no timing: one is on while the file `<control_dir>/<uuid>.<fault>` exists
//! (see [`Fault`] and [`DriverFault`]). [`FakeDriver`] sets all this up in a folder.
//!
//! GPM follows the real rules: metrics come from a pair of samples, and a pair not more than 100 ms apart
//! gets `NVML_ERROR_NO_DATA` for every metric, where a real driver would answer with garbage. Cumulative
//! cycles (ids 248 to 260) are SM clock x boot time x percent, so that they fit the percentages exactly, or
//! stand where [`FakeDriver::set_totals`] puts them.
//!
//! Deliberately absent: symbols the agent does not call (they fail to load, as in an old driver), GPU instances
//! that never had a compute instance, and any noise in the values.

mod install;
mod machine;
pub mod script;
mod symbols;

pub use install::{DriverFault, FakeDriver, Fault, built_library};
