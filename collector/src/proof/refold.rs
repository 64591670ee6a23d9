//! Folds the entries of a proof anew, with the same code as the collector, in a journal of their own.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use weighbridge_journal::{AppendError, Journal, OpenError, Options};
use weighbridge_meter::{Estimator, Principal};
use weighbridge_store::{
    Filter, SqliteStore, StoreError, UsageStore,
    fold::hex,
    follow::{FollowError, Follower},
};

use super::Row;
use crate::random;

/// Entries cannot be folded anew.
#[derive(Debug, thiserror::Error)]
pub enum RefoldError {
    /// The journal they are written to.
    #[error("a journal for the entries cannot be made")]
    Open(#[from] OpenError),
    /// The journal they are written to.
    #[error("the entries cannot be written to a journal")]
    Append(#[from] AppendError),
    /// The fold.
    #[error("the entries cannot be folded")]
    Follow(#[from] FollowError),
    /// The sums.
    #[error("the sums of the entries cannot be read")]
    Store(#[from] StoreError),
}

/// A folder that goes when it is no longer needed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in a folder for temporary files is a nuisance at most.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Rows that do not follow from the entries, each with what does.
pub(super) async fn differing(
    payloads: Vec<Vec<u8>>,
    rows: &[Row],
) -> Result<Vec<(Row, Option<Row>)>, RefoldError> {
    let name = format!("weighbridge-proof-{}", hex(&random::bytes::<8>()));
    let scratch = Scratch(std::env::temp_dir().join(name));
    let (mut journal, _) = Journal::open(&scratch.0, Options::default())?;
    for payload in &payloads {
        journal.append(payload)?;
    }
    journal.sync()?;
    let store = Arc::new(SqliteStore::in_memory().await?);
    let mut follower = Follower::new(&scratch.0, store.clone(), Estimator::shipped()).await?;
    follower.catch_up(journal.durable()).await?;
    let principals: BTreeSet<&Principal> = rows.iter().map(|row| &row.principal).collect();
    let mut found = BTreeSet::new();
    for principal in principals {
        let filter = Filter { principal: Some(principal.clone()), ..Filter::default() };
        found.extend(store.hourly(&filter).await?.iter().filter_map(Row::of));
    }
    let differs = |row: &&Row| !found.contains(*row);
    let same = |row: &Row, other: &Row| {
        (&row.accelerator, row.hour, &row.principal, &row.attempt, &row.state)
            == (&other.accelerator, other.hour, &other.principal, &other.attempt, &other.state)
    };
    let with = |row: &Row| (row.clone(), found.iter().find(|other| same(row, other)).cloned());
    Ok(rows.iter().filter(differs).map(with).collect())
}
