//! What a store has been through: its generations, and the note of how far it was promised.

use std::time::Duration;

use weighbridge_meter::UtcMillis;
use weighbridge_store::{StoreError, UsageStore, ledger::generation::Renewal, summary};

use crate::{
    app::{App, StartError, record},
    judge::fact,
    opening,
};

/// Between two notes of how far the ledger is promised: what comes in meanwhile is known by the holes it leaves.
const NOTE: Duration = Duration::from_secs(5);

impl App {
    /// Records what a start found, finishes what an earlier run began, and notes from here on how far the ledger
    /// is promised.
    pub(crate) async fn settle_history(&self, renewal: Option<Renewal>) -> Result<(), StartError> {
        if let Some(renewal) = renewal {
            let key = renewal.generation.to_string();
            let recorded = self.store.records(record::GENERATION).await?;
            if recorded.iter().all(|row| row.key != key) {
                self.record(vec![fact(record::GENERATION, &key, &renewal)]).await?;
            }
            self.note_promised()?;
            self.ledger.renewal_recorded()?;
        }
        if let Some((_, segment)) = self.last_summary().await? {
            let removed = self.ledger.prune(segment).await?;
            if removed.segments > 0 {
                tracing::warn!(segments = removed.segments, "finished pruning, which had been interrupted");
                self.metrics.pruned(removed.bytes);
            }
        }
        self.note_promised()?;
        self.keep_noting();
        Ok(())
    }

    /// Place of the last summary that the ledger commits, and the segment before which it lets payloads go.
    pub(crate) async fn last_summary(&self) -> Result<Option<(u64, u64)>, StoreError> {
        let records = self.store.records(summary::KIND).await?;
        let read = |body: &serde_json::Value| {
            Some((body["place"]["index"].as_u64()?, body["prune_before_segment"].as_u64()?))
        };
        Ok(records.iter().rev().find_map(|row| read(&row.body)))
    }

    /// Notes outside the data folder how far the ledger is promised.
    pub fn note_promised(&self) -> Result<(), StartError> {
        self.ledger.mark().write(&self.places.mark).map_err(opening::OpeningError::from)?;
        Ok(())
    }

    /// Does so every few seconds, for as long as the ledger is written.
    fn keep_noting(&self) {
        // Not the ledger itself: it is closed when nobody holds it any more.
        let mut promised = self.ledger.promised();
        let file = self.places.mark.clone();
        tokio::spawn(async move {
            while promised.changed().await {
                let mark = promised.mark();
                let file = file.clone();
                let written = tokio::task::spawn_blocking(move || mark.write(&file)).await;
                if let Ok(Err(error)) = written {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "how far the ledger is promised cannot be noted");
                }
                tokio::time::sleep(NOTE).await;
            }
        });
    }

    /// How often the store got another generation.
    pub(crate) async fn generations(&self) -> Result<usize, StoreError> {
        Ok(self.store.records(record::GENERATION).await?.len())
    }

    /// When the last backup was whole, if there was one.
    pub(crate) fn last_backup(&self) -> Option<UtcMillis> {
        crate::backup::Done::read(&self.places.data).map(|done| done.at)
    }
}
