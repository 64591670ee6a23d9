//! What of an agent's batches is here, what is missing, and what it says is lost.

use std::collections::BTreeMap;

use serde::Serialize;
use weighbridge_meter::{AgentId, EpochId, UtcMillis};
use weighbridge_store::state::CursorRow;
use weighbridge_wire::LossCause;

/// Of all epochs of an agent together, and of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Delivery {
    /// Batches in the ledger.
    pub(crate) batches: u64,
    /// Batches that it made and neither delivered nor gave up.
    pub(crate) missing: u64,
    /// Batches that it will not deliver.
    pub(crate) lost: Lost,
    pub(crate) epochs: Vec<EpochJson>,
}

/// Batches given up, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Lost {
    /// Unreadable in its spool, and quarantined there.
    pub(crate) damaged: u64,
    /// Refused for good, and kept apart by the agent.
    pub(crate) parked: u64,
    /// No longer held.
    pub(crate) removed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EpochJson {
    pub(crate) epoch: EpochId,
    pub(crate) batches: u64,
    pub(crate) highest: u64,
    pub(crate) missing: u64,
    /// The first of them, from and to.
    pub(crate) missing_ranges: Vec<(u64, u64)>,
    pub(crate) lost: Lost,
    pub(crate) first_received: Option<UtcMillis>,
    pub(crate) last_received: Option<UtcMillis>,
    /// From its first window to its last, by corrected clocks.
    pub(crate) measured_from: Option<UtcMillis>,
    pub(crate) measured_to: Option<UtcMillis>,
}

impl Lost {
    pub(crate) fn of(&self, cause: LossCause) -> u64 {
        match cause {
            LossCause::Damaged => self.damaged,
            LossCause::Parked => self.parked,
            LossCause::Removed => self.removed,
        }
    }

    fn add(&mut self, cause: LossCause, batches: u64) {
        let count = match cause {
            LossCause::Damaged => &mut self.damaged,
            LossCause::Parked => &mut self.parked,
            LossCause::Removed => &mut self.removed,
        };
        *count = count.saturating_add(batches);
    }
}

impl Delivery {
    pub(crate) fn of_all(rows: &[CursorRow]) -> BTreeMap<AgentId, Self> {
        let mut by_agent: BTreeMap<AgentId, Self> = BTreeMap::new();
        for row in rows {
            let delivery = by_agent.entry(row.agent.clone()).or_default();
            let mut lost = Lost::default();
            for (first, last, cause) in row.numbers.lost() {
                lost.add(cause, last - first + 1);
                delivery.lost.add(cause, last - first + 1);
            }
            let epoch = EpochJson {
                epoch: row.epoch,
                batches: row.numbers.count(),
                highest: row.numbers.highest(),
                missing: row.numbers.missing_count(),
                missing_ranges: row.numbers.missing(16),
                lost,
                first_received: row.received.map(|(first, _)| first),
                last_received: row.received.map(|(_, last)| last),
                measured_from: row.measured.map(|(start, _)| start),
                measured_to: row.measured.map(|(_, end)| end),
            };
            delivery.batches = delivery.batches.saturating_add(epoch.batches);
            delivery.missing = delivery.missing.saturating_add(epoch.missing);
            delivery.epochs.push(epoch);
        }
        by_agent
    }

    /// Whether nothing is missing and nothing lost.
    pub(crate) fn is_whole(&self) -> bool {
        self.missing == 0 && self.lost == Lost::default()
    }
}
