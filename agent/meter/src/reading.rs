//! What a source saw when it looked at an accelerator once.

use crate::window::Counters;

macro_rules! coded {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $type {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)+
        }

        impl $type {
            /// Every value there is.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The number that stands for it on the wire; never reused.
            pub fn code(self) -> u32 {
                match self { $(Self::$variant => $code,)+ }
            }

            /// From its number on the wire.
            pub fn from_code(code: u32) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// The name shown to people and used as a label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// From its name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use coded;

coded! {
    /// Where readings come from.
    Source {
        /// NVIDIA's management library on the host.
        Nvml = 1 "nvml",
        /// dcgm-exporter.
        Dcgm = 2 "dcgm",
        /// The baseboard management controller.
        Redfish = 3 "redfish",
        /// The amdgpu driver's files.
        Amdgpu = 4 "amdgpu",
        /// Intel Gaudi.
        Gaudi = 5 "gaudi",
        /// Nothing but the fact that the device is there and given to someone.
        Allocation = 6 "allocation",
        /// A scenario or a recording; never a real device.
        Simulated = 7 "simulated",
    }
}

coded! {
    /// How good the readings are, best first.
    Tier {
        /// Cumulative cycle counters.
        A = 1 "A",
        /// Activity ratios of Hopper and newer, with the SM clock.
        B = 2 "B",
        /// Tensor activity from another exporter.
        C = 3 "C",
        /// Kernel utilisation and power.
        D = 4 "D",
        /// Allocation only.
        E = 5 "E",
    }
}

coded! {
    /// Who could have changed the readings: best first.
    Trust {
        /// Outside the reach of the host's operating system.
        Bmc = 1 "bmc",
        /// The host's operator.
        Host = 2 "host",
        /// The tenant.
        Guest = 3 "guest",
    }
}

coded! {
    /// Why there is no measurement. Each is a state that a person can see and act on.
    GapCause {
        /// The driver's library is not there.
        DriverMissing = 1 "driver_missing",
        /// The device was there and is gone.
        DeviceLost = 2 "device_lost",
        /// A call into the driver did not come back in time.
        CallHung = 3 "call_hung",
        /// A cumulative counter went backwards: driver reload, reset, or somebody's hand.
        CounterBackwards = 4 "counter_backwards",
        /// The driver answered with an error.
        ReadFailed = 5 "read_failed",
        /// The driver answered with a value that cannot be.
        Implausible = 6 "implausible",
        /// The agent itself did not look for longer than it should have.
        AgentStalled = 7 "agent_stalled",
        /// The host was suspended.
        Suspended = 8 "suspended",
        /// The spool could not take more.
        SpoolFull = 9 "spool_full",
        /// Nobody said anything: found by the collector from the inventory, never sent.
        Silent = 10 "silent",
        /// Held, but no agent has ever reported it: found by the collector, never sent.
        NeverSeen = 11 "never_seen",
        /// Given to a virtual machine (bound to `vfio-pci`): out of the host's sight, which is not idleness.
        PassedThrough = 12 "passed_through",
        /// The driver was loaded anew: its counters began again.
        DriverReloaded = 13 "driver_reloaded",
        /// A MIG instance was made anew under the name of an earlier one.
        InstanceRecreated = 14 "instance_recreated",
        /// A MIG instance without a compute instance: nothing can run on it, and nothing can be read.
        NoComputeInstance = 15 "no_compute_instance",
        /// The agent let go of the device because somebody asked it to.
        Released = 16 "released",
        /// The exporter or management controller did not answer.
        Unreachable = 17 "unreachable",
        /// It answered with values that it marks as old, or that did not change when they had to.
        Stale = 18 "stale",
        /// The exporter or management controller answered, and did not name the device.
        NotReported = 19 "not_reported",
    }
}

coded! {
    /// What makes the readings of a device worse than they could be: named, so that somebody can act on it.
    Condition {
        /// GPM's streaming was switched off, which clears its counters: a setting, or somebody's hand.
        StreamingOff = 1 "gpm_streaming_off",
        /// Confidential computing is on: the driver gives no activity.
        ConfidentialComputing = 2 "confidential_computing",
        /// An architecture that this version does not know.
        UnknownArchitecture = 3 "unknown_architecture",
        /// Cumulative cycle counters drift against the activity ratios and are not used.
        CountersRefused = 4 "counters_refused",
        /// Cumulative cycle counters are there; how they are scaled is not known yet, ratios are used.
        Calibrating = 5 "calibrating",
        /// Split into MIG instances, which are metered in its place.
        Split = 6 "split",
        /// Activity of a MIG instance needs a right that the agent does not have.
        NoMigMonitor = 7 "no_mig_monitor",
        /// The SM clock is not reported: the model's table clock is assumed.
        ClockAssumed = 8 "clock_assumed",
        /// A partition that reports nothing of its own: only the first one of the device does.
        SecondaryPartition = 9 "secondary_partition",
        /// The layout of what the driver wrote is newer than this version: only what is common is read.
        UnknownLayout = 10 "unknown_layout",
        /// Bound to `vfio-pci`: given to a virtual machine.
        PassedThrough = 11 "passed_through",
    }
}

/// Parts of the whole, in parts per billion: integers, so that sums do not depend on their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ratio(u32);

impl Ratio {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Everything.
    pub const ONE: Self = Self(1_000_000_000);

    /// From a fraction. `None` for what cannot be: not a number, negative, or more than a rounding above 1.
    pub fn from_fraction(fraction: f64) -> Option<Self> {
        // Drivers report 100.0000x % now and then.
        if !(0.0..=1.01).contains(&fraction) {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be within 0 and 1.01e9"
        )]
        let billionths = (fraction * 1e9).round() as u32;
        Some(Self(billionths.min(Self::ONE.0)))
    }

    /// From a percentage.
    pub fn from_percent(percent: f64) -> Option<Self> {
        Self::from_fraction(percent / 100.0)
    }

    /// In parts per billion, 0 to 1e9.
    pub fn billionths(self) -> u32 {
        self.0
    }

    /// This part of `whole`, rounded to nearest.
    pub fn of(self, whole: u64) -> u64 {
        let part = (u128::from(whole) * u128::from(self.0) + 500_000_000) / 1_000_000_000;
        u64::try_from(part).unwrap_or(u64::MAX)
    }
}

/// What the pipes did since the reading before, as parts of all elapsed SM cycles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Any tensor pipe.
    pub tensor: Option<Ratio>,
    /// 16-bit class tensor pipe (FP16, BF16, TF32, on Hopper also FP8).
    pub hmma: Option<Ratio>,
    /// Integer tensor pipe.
    pub imma: Option<Ratio>,
    /// FP64 tensor pipe.
    pub dfma: Option<Ratio>,
    /// FP64 vector pipe.
    pub fp64: Option<Ratio>,
    /// FP32 vector pipe.
    pub fp32: Option<Ratio>,
    /// FP16 vector pipe.
    pub fp16: Option<Ratio>,
    /// At least one warp resident.
    pub sm: Option<Ratio>,
    /// Integer vector pipe.
    pub integer: Option<Ratio>,
}

/// Mean traffic since the reading before, in bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent over NVLink or what takes its place, all links.
    pub nvlink_tx: Option<u64>,
    /// Received over it.
    pub nvlink_rx: Option<u64>,
    /// Sent over PCIe.
    pub pcie_tx: Option<u64>,
    /// Received over it.
    pub pcie_rx: Option<u64>,
    /// Of the host's InfiniBand ports in both directions, divided equally among its accelerators.
    pub infiniband: Option<u64>,
}

/// One look at one accelerator that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// SM clock in MHz, mean since the reading before where the source has it, else now.
    pub sm_clock_mhz: Option<u32>,
    /// What to take for the clock where the source has none. Cycles that rest on it are told from others
    /// by the elapsed cycles, which then stay unknown.
    pub assumed_clock_mhz: Option<u32>,
    /// Activity since the reading before.
    pub activity: Activity,
    /// Part of the time in which a kernel was resident.
    pub busy: Option<Ratio>,
    /// Board power in milliwatts.
    pub power_mw: Option<u32>,
    /// Cumulative energy in millijoules since the driver was loaded.
    pub energy_mj: Option<u64>,
    /// Part of the time in which the memory interface was active, since the reading before.
    pub dram: Option<Ratio>,
    /// Traffic since the reading before.
    pub traffic: Traffic,
    /// Cumulative counters, in the units of [`Counters`]: a window takes their difference, which wins over
    /// what rates would give, and bounds what happened while nobody looked.
    pub totals: Counters,
}

/// What one look at one accelerator gave: a failed read is evidence too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are readings")]
pub enum DeviceState {
    /// It answered.
    Read(Reading),
    /// It did not, and this is why.
    Missing(GapCause),
}
