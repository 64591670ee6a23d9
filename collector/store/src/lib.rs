//! The collector's memory: the ledger, which is the truth, and SQL sums folded from it, which are derived.
//!
//! [`ledger`] commits entries (one fsync a group) and knows duplicates; [`fold`] turns entries into sums;
//! [`UsageStore`] keeps the sums and the ledger position they reflect, in one transaction;
//! [`follow`] drives the fold, live and in a rebuild alike; [`account`] reads sums back as totals with gaps;
//! [`tree`] makes every entry a leaf that is signed for, [`verify`] compares all of it again.
//!
//! Deliberately absent: what the sums mean to anybody. Rules about windows live in `weighbridge-meter`,
//! rules about cases in `weighbridge-casework`; identity is opaque here.

pub mod account;
pub mod closed;
pub mod entry;
pub mod files;
pub mod fold;
pub mod follow;
pub mod holders;
pub mod hour;
pub mod ledger;
pub mod mappings;
pub mod mark;
pub mod numbers;
pub mod presence;
pub mod signed;
pub mod sql;
pub mod state;
pub mod summary;
pub mod tree;
mod unfit;
pub mod verify;
pub mod witness;
pub mod words;

use async_trait::async_trait;
use weighbridge_meter::{AcceleratorId, AgentId, AttemptId, Principal, UtcMillis};

pub use entry::{Body, Entry, Fact};
pub use fold::{Fold, Folded};
pub use ledger::{Ledger, LedgerOptions};
pub use sql::SqliteStore;
pub use state::State;
pub use weighbridge_journal::Place;

use crate::{
    hour::{DoubtedHour, HeldState, HourKey, HourRow, Sums},
    state::{CursorRow, PlaceRow, StateRow},
    witness::WitnessedHour,
};

/// Where derived sums live.
///
/// Everything in it can be thrown away and folded anew from the ledger, to the same integers.
#[async_trait]
pub trait UsageStore: Send + Sync {
    /// Up to where in the ledger the sums reflect it: the place of the next entry to apply.
    async fn stands(&self) -> Result<Place, StoreError>;

    /// Applies a piece of the ledger, all of it or none.
    /// Applying what is already in changes nothing; leaving a hole is refused.
    async fn apply(&self, piece: &Folded) -> Result<Applied, StoreError>;

    /// Writes hours ahead of the piece that they belong to, as they are at its end. If that piece never comes it is
    /// folded again, and makes the same of them: until then they are ahead of where the sums stand.
    async fn put_hours(&self, hours: &[hour::HourRow]) -> Result<(), StoreError>;

    /// Everything a fold must know before it can go on.
    async fn state(&self) -> Result<Vec<StateRow>, StoreError>;

    /// What of each agent's epochs is here, in order of agents and epochs.
    async fn cursors(&self) -> Result<Vec<CursorRow>, StoreError>;

    /// The hours asked for, where there are any.
    async fn hours(&self, keys: &[HourKey]) -> Result<Vec<HourRow>, StoreError>;

    /// Where in the ledger the batches of an agent lie that touch an hour.
    async fn places(&self, agent: &AgentId, hour: UtcMillis) -> Result<Vec<PlaceRow>, StoreError>;

    /// Sums by accelerator, principal, attempt and state over whole hours of `from..to`.
    async fn sums(&self, filter: &Filter) -> Result<Vec<UsageSum>, StoreError>;

    /// The same hour by hour.
    async fn hourly(&self, filter: &Filter) -> Result<Vec<HourlySum>, StoreError>;

    /// Coverage by accelerator over whole hours of `from..to`.
    async fn coverage(&self, filter: &Filter) -> Result<Vec<CoverageSum>, StoreError>;

    /// Adds up all hours before `before`, which is a whole one, so that what is asked of all of the time reads these
    /// sums and the hours since. It changes no answer; hours written later, into that time too, count as ever.
    async fn roll_up(&self, before: UtcMillis) -> Result<(), StoreError>;

    /// Hours of `from..to` in which two sources said what cannot both be true, in their order.
    async fn disagreements(&self, filter: &Filter) -> Result<Vec<WitnessedHour>, StoreError>;

    /// Hours of `from..to` in which something was said that cannot be, in their order.
    async fn doubted(&self, filter: &Filter) -> Result<Vec<DoubtedHour>, StoreError>;

    /// All records of a kind, in order of the ledger.
    async fn records(&self, kind: &str) -> Result<Vec<RecordRow>, StoreError>;

    /// One integer list over all derived tables, for comparing two stores.
    async fn fingerprint(&self) -> Result<Vec<(String, i64, String)>, StoreError>;
}

/// What [`UsageStore::apply`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The sums moved.
    Now,
    /// They were there already.
    AlreadyIn,
}

/// What a store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Retry later with the same piece.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// Do not retry: someone has to look.
    #[error("usage stands at ledger entry {stands}, the piece begins at {begins}")]
    Hole {
        /// Next entry it needs.
        stands: u64,
        /// First entry it was given.
        begins: u64,
    },
    /// Do not retry: someone wrote into the database.
    #[error("table {table}, column {column}: {value} makes no sense")]
    Nonsense {
        /// Where.
        table: &'static str,
        /// Where.
        column: &'static str,
        /// What stood there.
        value: String,
    },
}

/// Which usage to read. Times are whole UTC hours; `None` means all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// From this hour on.
    pub from: Option<UtcMillis>,
    /// Before this hour.
    pub to: Option<UtcMillis>,
    /// Only this accelerator.
    pub accelerator: Option<AcceleratorId>,
    /// Only this principal.
    pub principal: Option<Principal>,
}

/// Sums of one accelerator for one holder in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageSum {
    /// Which.
    pub accelerator: AcceleratorId,
    /// Whose; `None` where nobody is known.
    pub holder: Option<(Principal, AttemptId)>,
    /// How it was held.
    pub state: HeldState,
    /// How much.
    pub sums: Sums,
}

/// The same for one hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HourlySum {
    /// Start of the UTC hour.
    pub hour: UtcMillis,
    /// The sums.
    pub usage: UsageSum,
}

/// How much of its time one accelerator was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoverageSum {
    /// Which.
    pub accelerator: AcceleratorId,
    /// Measured, in milliseconds.
    pub measured_ms: u64,
    /// Bounded by a cumulative counter, in milliseconds.
    pub interpolated_ms: u64,
    /// Explained gaps by cause, in milliseconds.
    pub gaps: Vec<(weighbridge_meter::GapCause, u64)>,
}

/// A record that the store keeps without understanding it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRow {
    /// Its key within its kind.
    pub key: String,
    /// Which ledger entry it was.
    pub index: u64,
    /// When it was received.
    pub received: UtcMillis,
    /// JSON.
    pub body: serde_json::Value,
}
