//! What a store has been through: its generations, and the note of how far it was promised.

use std::{sync::PoisonError, time::Duration};

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
            if let Err(error) = self.forget_older().await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "an older summary stays until the next pruning");
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
        let _one_at_a_time = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
        self.ledger.mark().write(&self.places.mark).map_err(opening::OpeningError::from)?;
        Ok(())
    }

    /// Does so every few seconds, for as long as the ledger is written.
    fn keep_noting(&self) {
        // Not the ledger itself: it is closed when nobody holds it any more.
        let mut promised = self.ledger.promised();
        let (file, noting) = (self.places.mark.clone(), self.noting.clone());
        tokio::spawn(async move {
            while promised.changed().await {
                tokio::time::sleep(NOTE).await;
                if promised.is_closed() {
                    // Whoever closes the ledger notes its end; another process may have it by now.
                    return;
                }
                let mark = promised.mark();
                let (file, noting) = (file.clone(), noting.clone());
                let written = tokio::task::spawn_blocking(move || {
                    let _one_at_a_time = noting.lock().unwrap_or_else(PoisonError::into_inner);
                    mark.write(&file)
                })
                .await;
                if let Ok(Err(error)) = written {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "how far the ledger is promised cannot be noted");
                }
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
