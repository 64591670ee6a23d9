//! The parts of a rule.

use serde::{Deserialize, Serialize};

use super::ThresholdOrigin;
use crate::{
    amount::{Comparator, Threshold},
    finding::Declaration,
};

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "Flat")]
pub enum Condition {
    /// Cumulative operations.
    Operations {
        /// How the total is compared.
        comparator: Comparator,
        /// With what, in operations.
        threshold: Threshold,
        /// Where that number comes from.
        threshold_origin: ThresholdOrigin,
        /// What a reader should know about it.
        note: Option<String>,
    },
    /// Something that the customer has declared to be so.
    Declared {
        /// What.
        what: Declaration,
        /// What a reader should know about it.
        note: Option<String>,
    },
    /// Machines in one datacenter, joined by a network.
    Cluster {
        /// How the peak is compared.
        peak_comparator: Comparator,
        /// With what, in dense operations per second.
        peak: Threshold,
        /// How the network is compared.
        network_comparator: Comparator,
        /// With what, in Gbit/s.
        network_gbit: u32,
        /// What a reader should know about it.
        note: Option<String>,
    },
}

/// A condition as it stands in a file. Read flat and sorted out afterwards, because a reader that first looks for the
/// kind forgets where it is, and its errors would not name the key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flat {
    kind: Kind,
    comparator: Option<Comparator>,
    threshold: Option<Threshold>,
    threshold_origin: Option<ThresholdOrigin>,
    what: Option<Declaration>,
    peak_comparator: Option<Comparator>,
    peak: Option<Threshold>,
    network_comparator: Option<Comparator>,
    network_gbit: Option<u32>,
    note: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Operations,
    Declared,
    Cluster,
}

impl Kind {
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Operations => &["comparator", "threshold", "threshold_origin"],
            Self::Declared => &["what"],
            Self::Cluster => &["peak_comparator", "peak", "network_comparator", "network_gbit"],
        }
    }
}

impl TryFrom<Flat> for Condition {
    type Error = String;

    fn try_from(flat: Flat) -> Result<Self, String> {
        let keys = flat.kind.keys();
        for (key, present) in [
            ("comparator", flat.comparator.is_some()),
            ("threshold", flat.threshold.is_some()),
            ("threshold_origin", flat.threshold_origin.is_some()),
            ("what", flat.what.is_some()),
            ("peak_comparator", flat.peak_comparator.is_some()),
            ("peak", flat.peak.is_some()),
            ("network_comparator", flat.network_comparator.is_some()),
            ("network_gbit", flat.network_gbit.is_some()),
        ] {
            if present && !keys.contains(&key) {
                return Err(format!("`{key}` does not belong to this kind, expected {}", keys.join(", ")));
            }
        }
        let note = flat.note;
        Ok(match flat.kind {
            Kind::Operations => Self::Operations {
                comparator: needed(flat.comparator, "comparator")?,
                threshold: needed(flat.threshold, "threshold")?,
                threshold_origin: needed(flat.threshold_origin, "threshold_origin")?,
                note,
            },
            Kind::Declared => Self::Declared { what: needed(flat.what, "what")?, note },
            Kind::Cluster => Self::Cluster {
                peak_comparator: needed(flat.peak_comparator, "peak_comparator")?,
                peak: needed(flat.peak, "peak")?,
                network_comparator: needed(flat.network_comparator, "network_comparator")?,
                network_gbit: needed(flat.network_gbit, "network_gbit")?,
                note,
            },
        })
    }
}

fn needed<T>(value: Option<T>, key: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("missing field `{key}`"))
}
