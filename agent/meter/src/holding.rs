//! Who held an accelerator, by which evidence: a record of its own, apart from what the accelerator did.

use serde::{Deserialize, Serialize};

use crate::{
    identity::{AcceleratorId, AttemptId, Principal},
    reading::coded,
    time::Span,
};

coded! {
    /// How we know. Ordered by precedence: the first one that speaks for an accelerator decides.
    Evidence {
        /// A lease recorded by the operator at the collector.
        Lease = 1 "lease",
        /// A lease file on the host.
        LeaseFile = 2 "lease_file",
        /// The uid of the processes that have the device open.
        ProcessOwner = 3 "process_owner",
    }
}

impl Evidence {
    /// Rank for precedence: both kinds of lease speak with one voice, so that a contradiction shows.
    pub fn rank(self) -> u8 {
        match self {
            Self::Lease | Self::LeaseFile => 0,
            Self::ProcessOwner => 1,
        }
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
