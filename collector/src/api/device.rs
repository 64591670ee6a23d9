//! What makes the readings of a device worse than they could be, in plain words.

use serde::Serialize;
use weighbridge_meter::Condition;

/// A condition with what it means and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct ConditionJson {
    pub(crate) condition: Condition,
    /// What it is, and what it costs.
    pub(crate) means: &'static str,
    /// What somebody can do about it.
    pub(crate) to_do: &'static str,
}

impl From<Condition> for ConditionJson {
    fn from(condition: Condition) -> Self {
        let (means, to_do) = match condition {
            Condition::StreamingOff => (
                "GPM streaming was switched off on this host: counted with wide bounds",
                "switch it on again, and ask who switched it off",
            ),
            Condition::ConfidentialComputing => (
                "confidential computing is on, so the driver gives no activity: counted with wide bounds",
                "read its activity from the management controller, if that has it",
            ),
            Condition::UnknownArchitecture => (
                "its architecture is newer than this agent: counted by what is common to all",
                "update the agent",
            ),
            Condition::CountersRefused => (
                "its cumulative cycle counters drift against its activity, so they are not used",
                "nothing is lost but precision; report it to the maintainers with the driver's version",
            ),
            Condition::Calibrating => (
                "how its cumulative cycle counters are scaled is not known yet: its activity is used meanwhile",
                "nothing: it ends when the device has been busy for a while",
            ),
            Condition::Split => (
                "it is split into MIG instances, which are metered in its place",
                "nothing: look at its parts",
            ),
            Condition::NoMigMonitor => (
                "the agent may not read the activity of MIG instances: counted with wide bounds",
                "give the agent the capability to monitor MIG, or run it as root",
            ),
            Condition::ClockAssumed => (
                "its SM clock is not reported: the clock of its model is assumed, and bounds are wider for it",
                "use a source that reports the clock: NVML on the host, or the exporter's field for the SM clock",
            ),
            Condition::SecondaryPartition => (
                "a partition that reports nothing of its own: only the first one of its device does",
                "nothing, as long as the driver gives no more; what it does is bounded by its peak",
            ),
            Condition::UnknownLayout => (
                "what its driver writes is newer than this agent: only what is common is read",
                "update the agent",
            ),
            Condition::PassedThrough => (
                "given to a virtual machine: not observed from the host, which is not idleness",
                "read it from the management controller, or from an agent inside the machine",
            ),
        };
        Self { condition, means, to_do }
    }
}
