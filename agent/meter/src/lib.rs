//! The pure core: what an accelerator did, how sure we are, and nothing that reads, waits or asks the time.
//!
//! Start with [`meter::Meter`], where a reading becomes raw integrals of a [`window::Window`],
//! and [`estimate::Estimator`], where those integrals become operations.
//! Both sides use this crate: the agent to meter, the collector to account, an auditor to do it again.
//!
//! Deliberately absent: input and output, clocks, randomness, and any knowledge of tenants beyond their names.

pub mod classify;
pub mod estimate;
pub mod features;
pub mod holding;
pub mod identity;
pub mod meter;
pub mod operations;
pub mod reading;
pub mod table;
pub mod time;
pub mod window;

pub use classify::{Class, Judgement, Signs};
pub use estimate::{Doubt, Estimate, Estimator};
pub use features::Features;
pub use holding::{Evidence, Holding};
pub use identity::{AcceleratorId, AgentId, AttemptId, BootId, EpochId, Principal, hex};
pub use meter::{Meter, Observed};
pub use operations::{Calibrated, Interval, Operations, OutOfOrder};
pub use reading::{Condition, DeviceState, GapCause, Reading, Source, Tier, Trust};
pub use table::{AcceleratorTable, Hardware, Model};
pub use time::{Span, UtcMillis};
pub use window::{Counters, Coverage, Gap, Use, Window};
