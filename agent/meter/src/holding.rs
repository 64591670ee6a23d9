//! Who held an accelerator, by which evidence: a record of its own, apart from what the accelerator did.

use serde::{Deserialize, Serialize};

use crate::{
    identity::{AcceleratorId, AttemptId, Principal},
    reading::coded,
    time::Span,
};

coded! {
    /// How we know who holds an accelerator. Where several speak, the best [`rank`](Self::rank) decides.
    Evidence {
        /// A lease recorded by the operator at the collector.
        Lease = 1 "lease",
        /// A lease file on the host.
        LeaseFile = 2 "lease_file",
        /// A scheduler's own record, read at the collector.
        Scheduler = 4 "scheduler",
        /// What a scheduler told the host when a job began or ended.
        SchedulerHook = 5 "scheduler_hook",
        /// What the kubelet gave to a pod.
        PodResources = 6 "pod_resources",
        /// What a hypervisor gave to a virtual machine.
        Hypervisor = 7 "hypervisor",
        /// A process that has the device open lies in a cgroup that an allocator made: a job, a pod, a machine.
        AllocatorProcess = 8 "allocator_process",
        /// The same in a cgroup of a container that no allocator made.
        ContainerProcess = 9 "container_process",
        /// The same in a unit of the service manager that is no person's session.
        UnitProcess = 10 "unit_process",
        /// The uid of the processes that have the device open.
        ProcessOwner = 3 "process_owner",
    }
}

impl Evidence {
    /// The rank of leases.
    pub const LEASE_RANK: u8 = 0;
    /// The rank of allocators.
    pub const ALLOCATOR_RANK: u8 = 1;

    /// Rank for precedence, best first. Kinds of one rank speak with one voice, so that a contradiction shows.
    pub fn rank(self) -> u8 {
        match self {
            Self::Lease | Self::LeaseFile => Self::LEASE_RANK,
            Self::Scheduler
            | Self::SchedulerHook
            | Self::PodResources
            | Self::Hypervisor
            | Self::AllocatorProcess => Self::ALLOCATOR_RANK,
            Self::ContainerProcess | Self::UnitProcess => 2,
            Self::ProcessOwner => 3,
        }
    }

    /// Whether it says what was agreed, by whatever clock and for as long ahead as it likes, rather than what was
    /// seen on the host when it was so.
    pub fn is_agreed(self) -> bool {
        matches!(self, Self::Lease | Self::LeaseFile)
    }

    /// Whether an agent can have it: the others are the collector's own.
    pub fn is_of_agent(self) -> bool {
        !matches!(self, Self::Lease | Self::Scheduler)
    }
}

/// A principal held accelerators during a span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Who.
    pub principal: Principal,
    /// In which attempt.
    pub attempt: AttemptId,
    /// What.
    pub accelerators: Vec<AcceleratorId>,
    /// When: up to the end, or up to the last confirmation of one that goes on.
    #[serde(with = "span_pair")]
    pub span: Span,
    /// How we know.
    pub evidence: Evidence,
}

mod span_pair {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use crate::time::{Span, UtcMillis};

    pub(super) fn serialize<S: Serializer>(span: &Span, serializer: S) -> Result<S::Ok, S::Error> {
        [span.start(), span.end()].serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let [start, end] = <[UtcMillis; 2]>::deserialize(deserializer)?;
        Span::new(start, end).ok_or_else(|| de::Error::custom("a span must end after it starts"))
    }
}
