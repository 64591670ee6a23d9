//! [`UsageStore`] on SQLite: one file, bundled, nothing to install.
//!
//! Only SQL that PostgreSQL understands too. Losing the last transactions in a crash is harmless: the fold
//! goes on from the position that is in the file.

use std::{collections::BTreeMap, path::Path, time::Duration};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use sqlx::{
    Connection, QueryBuilder, Sqlite, SqliteConnection, SqlitePool,
    migrate::Migrator,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use weighbridge_journal::fail;
use weighbridge_meter::{AcceleratorId, AgentId, GapCause, UtcMillis};

use crate::{
    Applied, CoverageSum, Filter, Folded, HourlySum, Place, RecordRow, StoreError, UsageStore, UsageSum,
    hour::{DoubtedHour, Hour, HourKey, HourRow},
    state::{CursorRow, PlaceRow, StateRow, kind},
    witness::{Witness, WitnessedHour},
};

pub mod dump;
mod rollup;
mod rows;
mod write;

use rollup::Parts;
use rows::{Cells, hour_key, nonsense, place, usage_sum};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Under these names a fingerprint has what is added up of older hours.
pub(crate) const ROLLED_USAGE: &str = "rolled_usage";
/// The same of coverage.
pub(crate) const ROLLED_COVERAGE: &str = "rolled_coverage";

/// How a transaction begins that reads before it writes: another that wrote in between would end it.
const WRITING: &str = "BEGIN IMMEDIATE";

/// Rows in one statement: the cost of a statement is shared, the number of parameters stays below every limit.
const ROWS: usize = 500;

/// Sums in a SQLite file.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    pool: SqlitePool,
}

impl SqliteStore {
    /// Opens the file, makes it if it is missing, and brings its tables up to date.
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
        Self::connect(options, 4).await
    }

    /// A store that lives as long as the value.
    pub async fn in_memory() -> Result<Self, StoreError> {
        // Every connection would have a memory of its own.
        Self::connect(SqliteConnectOptions::new().in_memory(true), 1).await
    }

    async fn connect(options: SqliteConnectOptions, connections: u32) -> Result<Self, StoreError> {
        let options = options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(30));
        let pool = SqlitePoolOptions::new()
            .max_connections(connections)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(StoreError::Unavailable)?;
        MIGRATIONS
            .run(&pool)
            .await
            .map_err(|error| StoreError::Unavailable(sqlx::Error::Migrate(Box::new(error))))?;
        Ok(Self { pool })
    }

    /// Closes all connections: the file is complete when this returns.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// For those that look at tables as such.
    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Where the disk is full SQLite may have ended the transaction by itself, while its counterpart here still counts
    /// one: what comes next on this connection would be in a transaction that never ends. A store in memory is its
    /// one connection, and has no disk to be full.
    fn distrusts_after<T>(&self, written: &Result<T, StoreError>, connection: &mut PoolConnection<Sqlite>) {
        if matches!(written, Err(StoreError::Unavailable(_))) && self.pool.options().get_max_connections() > 1
        {
            connection.close_on_drop();
        }
    }

    async fn rows<T>(
        &self,
        mut query: QueryBuilder<Sqlite>,
        read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = query.build().fetch_all(&self.pool).await.map_err(StoreError::Unavailable)?;
        rows.iter().map(read).collect()
    }
}

/// The first byte of SHA-256: spreads keys evenly and never changes for one.
pub(crate) fn cell(key: &str) -> i64 {
    i64::from(Sha256::digest(key.as_bytes())[0])
}

fn push_filter(query: &mut QueryBuilder<Sqlite>, filter: &Filter) {
    query.push(" WHERE 1 = 1");
    if let Some(from) = filter.from {
        query.push(" AND hour_ms >= ").push_bind(from.0);
    }
    if let Some(to) = filter.to {
        query.push(" AND hour_ms < ").push_bind(to.0);
    }
    if let Some(id) = &filter.accelerator {
        query.push(" AND cell = ").push_bind(cell(id.as_str()));
        query.push(" AND accelerator = ").push_bind(id.as_str().to_owned());
    }
    if let Some(principal) = &filter.principal {
        query.push(" AND principal = ").push_bind(principal.as_str().to_owned());
    }
}

const USAGE_SUMS: &str = "SELECT accelerator, principal, attempt, state, SUM(low_tera) AS low_tera, \
     SUM(best_tera) AS best_tera, SUM(high_tera) AS high_tera, \
     SUM(calibrated_low_tera) AS calibrated_low_tera, SUM(calibrated_high_tera) AS calibrated_high_tera, \
     SUM(measured_ms) AS measured_ms, SUM(interpolated_ms) AS interpolated_ms, \
     string_agg(signs, ' ') AS signs";

/// Under a name, how many there are and a digest of all they say.
fn print_of(name: &str, rows: &[impl std::fmt::Debug]) -> (String, i64, String) {
    let mut digest = Sha256::new();
    for row in rows {
        digest.update(format!("{row:?}\n"));
    }
    (name.to_owned(), index_i64(rows.len() as u64), crate::fold::hex(&digest.finalize()))
}

fn index_i64(value: u64) -> i64 {
    // Entries, offsets and segments are far below 2^63.
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// All of a piece or nothing of it.
async fn apply(connection: &mut SqliteConnection, piece: &Folded) -> Result<Applied, StoreError> {
    let mut transaction = connection.begin_with(WRITING).await.map_err(StoreError::Unavailable)?;
    let row = sqlx::query("SELECT entry_index, segment, byte_offset FROM position WHERE id = 0")
        .fetch_one(&mut *transaction)
        .await
        .map_err(StoreError::Unavailable)?;
    let stands = place(&row)?.index.max(1);
    if piece.ends.index <= stands {
        return Ok(Applied::AlreadyIn);
    }
    if piece.begins.index > stands {
        return Err(StoreError::Hole { stands, begins: piece.begins.index });
    }
    let rolled = rollup::rolled(&mut transaction).await?;
    let taken_away = rollup::taken_away(rolled, Some(piece), &piece.hours);
    for mut query in taken_away.into_iter().chain(write::statements(piece)) {
        query.build().execute(&mut *transaction).await.map_err(StoreError::Unavailable)?;
    }
    sqlx::query("UPDATE position SET entry_index = $1, segment = $2, byte_offset = $3 WHERE id = 0")
        .bind(index_i64(piece.ends.index))
        .bind(index_i64(piece.ends.segment))
        .bind(index_i64(piece.ends.offset))
        .execute(&mut *transaction)
        .await
        .map_err(StoreError::Unavailable)?;
    let failed = |error| StoreError::Unavailable(sqlx::Error::Io(error));
    fail::before("fold.commit").map_err(failed)?;
    transaction.commit().await.map_err(StoreError::Unavailable)?;
    fail::after("fold.commit").map_err(failed)?;
    Ok(Applied::Now)
}

/// All of them or none.
async fn put_hours(connection: &mut SqliteConnection, hours: &[HourRow]) -> Result<(), StoreError> {
    let mut transaction = connection.begin_with(WRITING).await.map_err(StoreError::Unavailable)?;
    let rolled = rollup::rolled(&mut transaction).await?;
    let taken_away = rollup::taken_away(rolled, None, hours);
    for mut query in taken_away.into_iter().chain(write::whole_hours(hours)) {
        query.build().execute(&mut *transaction).await.map_err(StoreError::Unavailable)?;
    }
    transaction.commit().await.map_err(StoreError::Unavailable)
}

#[async_trait]
impl UsageStore for SqliteStore {
    async fn stands(&self) -> Result<Place, StoreError> {
        let row = sqlx::query("SELECT entry_index, segment, byte_offset FROM position WHERE id = 0")
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::Unavailable)?;
        place(&row)
    }

    async fn apply(&self, piece: &Folded) -> Result<Applied, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(StoreError::Unavailable)?;
        let applied = apply(&mut connection, piece).await;
        self.distrusts_after(&applied, &mut connection);
        applied
    }

    async fn put_hours(&self, hours: &[HourRow]) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(StoreError::Unavailable)?;
        let put = put_hours(&mut connection, hours).await;
        self.distrusts_after(&put, &mut connection);
        put
    }

    async fn state(&self) -> Result<Vec<StateRow>, StoreError> {
        let rows = sqlx::query("SELECT kind, name, body FROM state ORDER BY kind, name")
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::Unavailable)?;
        rows.iter()
            .map(|row| {
                let cells = Cells { table: "state", row };
                let found = cells.text("kind")?;
                let kind = kind::ALL.into_iter().find(|kind| *kind == found);
                Ok(StateRow {
                    kind: kind.ok_or_else(|| nonsense("state", "kind", found))?,
                    key: cells.text("name")?,
                    body: cells.text("body")?,
                })
            })
            .collect()
    }

    async fn cursors(&self) -> Result<Vec<CursorRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM agent_cursor ORDER BY agent, epoch")
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::Unavailable)?;
        rows.iter()
            .map(|row| {
                let cells = Cells { table: "agent_cursor", row };
                Ok(CursorRow {
                    agent: cells.name("agent")?,
                    epoch: cells.name("epoch")?,
                    numbers: cells.json("numbers")?,
                    measured: cells.json("measured")?,
                    received: cells.json("received")?,
                })
            })
            .collect()
    }

    async fn hours(&self, keys: &[HourKey]) -> Result<Vec<HourRow>, StoreError> {
        let mut found = BTreeMap::new();
        for keys in keys.chunks(ROWS) {
            let wanted = |query: &mut QueryBuilder<Sqlite>| {
                query.push(" WHERE (cell, accelerator, hour_ms) IN (VALUES ");
                let mut list = query.separated(", ");
                for key in keys {
                    list.push("(").push_bind_unseparated(cell(key.accelerator.as_str()));
                    list.push_unseparated(", ").push_bind_unseparated(key.accelerator.as_str().to_owned());
                    list.push_unseparated(", ").push_bind_unseparated(key.hour.0).push_unseparated(")");
                }
                query.push(")");
            };
            let mut query = QueryBuilder::<Sqlite>::new(
                "SELECT accelerator, hour_ms, covered, gaps, agents, witnesses, doubts FROM hour",
            );
            wanted(&mut query);
            for row in query.build().fetch_all(&self.pool).await.map_err(StoreError::Unavailable)? {
                let cells = Cells { table: "hour", row: &row };
                let hour = Hour {
                    covered: cells.json("covered")?,
                    gaps: cells.json("gaps")?,
                    agents: cells.json("agents")?,
                    usage: BTreeMap::new(),
                    witnesses: cells.witnesses()?,
                    doubts: cells.doubts()?,
                };
                found.insert(hour_key(&cells)?, hour);
            }
            let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM usage");
            wanted(&mut query);
            for row in query.build().fetch_all(&self.pool).await.map_err(StoreError::Unavailable)? {
                let cells = Cells { table: "usage", row: &row };
                if let Some(hour) = found.get_mut(&hour_key(&cells)?) {
                    hour.usage.entry(cells.usage_key()?).or_default().merge(&cells.sums()?);
                }
            }
        }
        Ok(found.into_iter().map(|(key, hour)| HourRow { key, hour }).collect())
    }

    async fn places(&self, agent: &AgentId, hour: UtcMillis) -> Result<Vec<PlaceRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT segment, first_index, first_offset, last_index FROM place \
             WHERE cell = $1 AND agent = $2 AND hour_ms = $3 ORDER BY segment",
        )
        .bind(cell(agent.as_str()))
        .bind(agent.as_str())
        .bind(hour.0)
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::Unavailable)?;
        rows.iter()
            .map(|row| {
                let cells = Cells { table: "place", row };
                Ok(PlaceRow {
                    segment: cells.count("segment")?,
                    first_index: cells.count("first_index")?,
                    first_offset: cells.count("first_offset")?,
                    last_index: cells.count("last_index")?,
                })
            })
            .collect()
    }

    async fn sums(&self, filter: &Filter) -> Result<Vec<UsageSum>, StoreError> {
        let columns = "t.accelerator, t.principal, t.attempt, t.state, t.low_tera, t.best_tera, t.high_tera, \
             t.calibrated_low_tera, t.calibrated_high_tera, t.measured_ms, t.interpolated_ms, t.signs";
        let mut query = Parts::of(filter).query(USAGE_SUMS, "usage", "rolled_usage", columns, true);
        query.push(" GROUP BY accelerator, principal, attempt, state ORDER BY accelerator, principal, attempt, state");
        self.rows(query, usage_sum).await
    }

    async fn hourly(&self, filter: &Filter) -> Result<Vec<HourlySum>, StoreError> {
        let query = rollup::hourly(filter, "*");
        self.rows(query, |row| {
            let hour = UtcMillis(Cells { table: "usage", row }.int("hour_ms")?);
            Ok(HourlySum { hour, usage: usage_sum(row)? })
        })
        .await
    }

    async fn coverage(&self, filter: &Filter) -> Result<Vec<CoverageSum>, StoreError> {
        let parts = Parts::of(filter);
        let mut query = parts.query(
            "SELECT accelerator, SUM(measured_ms) AS measured_ms, SUM(interpolated_ms) AS interpolated_ms",
            "hour",
            "rolled_hour",
            "t.accelerator, t.measured_ms, t.interpolated_ms",
            false,
        );
        query.push(" GROUP BY accelerator");
        let covered = self.rows(query, |row| {
            let cells = Cells { table: "hour", row };
            let accelerator: AcceleratorId = cells.name("accelerator")?;
            Ok(CoverageSum {
                accelerator,
                measured_ms: cells.count("measured_ms")?,
                interpolated_ms: cells.count("interpolated_ms")?,
                gaps: Vec::new(),
            })
        });
        let covered = covered.await?.into_iter().map(|sum| (sum.accelerator.clone(), sum));
        let mut found: BTreeMap<_, _> = covered.collect();
        let mut query = parts.query(
            "SELECT accelerator, cause, SUM(millis) AS millis",
            "gap",
            "rolled_gap",
            "t.accelerator, t.cause, t.millis",
            false,
        );
        query.push(" GROUP BY accelerator, cause ORDER BY accelerator, cause");
        let gaps = self.rows(query, |row| {
            let cells = Cells { table: "gap", row };
            let cause = cells.text("cause")?;
            let cause = GapCause::from_name(&cause).ok_or_else(|| nonsense("gap", "cause", cause))?;
            Ok((cells.name::<AcceleratorId>("accelerator")?, cause, cells.count("millis")?))
        });
        for (accelerator, cause, millis) in gaps.await? {
            if let Some(sum) = found.get_mut(&accelerator) {
                sum.gaps.push((cause, millis));
            }
        }
        Ok(found.into_values().collect())
    }

    async fn roll_up(&self, before: UtcMillis) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(StoreError::Unavailable)?;
        let rolled = rollup::roll_up(&mut connection, before).await;
        self.distrusts_after(&rolled, &mut connection);
        rolled
    }

    async fn disagreements(&self, filter: &Filter) -> Result<Vec<WitnessedHour>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT accelerator, hour_ms, witnesses FROM hour");
        push_filter(&mut query, &Filter { principal: None, ..filter.clone() });
        query.push(" AND disagreeing > 0 ORDER BY hour_ms, accelerator");
        let rows = query.build().fetch_all(&self.pool).await.map_err(StoreError::Unavailable)?;
        let mut found = Vec::new();
        for row in &rows {
            let cells = Cells { table: "hour", row };
            let HourKey { accelerator, hour } = hour_key(&cells)?;
            let witnesses = cells.witnesses()?.into_iter().filter(Witness::disagrees);
            found.extend(witnesses.map(|witness| WitnessedHour {
                accelerator: accelerator.clone(),
                hour,
                witness,
            }));
        }
        Ok(found)
    }

    async fn doubted(&self, filter: &Filter) -> Result<Vec<DoubtedHour>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT accelerator, hour_ms, doubts FROM hour");
        push_filter(&mut query, &Filter { principal: None, ..filter.clone() });
        query.push(" AND doubted > 0 ORDER BY hour_ms, accelerator");
        let rows = query.build().fetch_all(&self.pool).await.map_err(StoreError::Unavailable)?;
        let mut found = Vec::new();
        for row in &rows {
            let cells = Cells { table: "hour", row };
            let HourKey { accelerator, hour } = hour_key(&cells)?;
            found.extend(cells.doubts()?.into_iter().map(|((agent, doubt), millis)| DoubtedHour {
                accelerator: accelerator.clone(),
                hour,
                agent,
                doubt,
                millis,
            }));
        }
        Ok(found)
    }

    async fn records(&self, kind: &str) -> Result<Vec<RecordRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT name, entry_index, received_ms, body FROM record WHERE kind = $1 ORDER BY entry_index",
        )
        .bind(kind)
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::Unavailable)?;
        rows.iter()
            .map(|row| {
                let cells = Cells { table: "record", row };
                Ok(RecordRow {
                    key: cells.text("name")?,
                    index: cells.count("entry_index")?,
                    received: UtcMillis(cells.int("received_ms")?),
                    body: cells.json("body")?,
                })
            })
            .collect()
    }

    async fn fingerprint(&self) -> Result<Vec<(String, i64, String)>, StoreError> {
        const TABLES: [(&str, &str); 7] = [
            (
                "usage",
                "SELECT accelerator || ' ' || hour_ms || ' ' || principal || ' ' || attempt || ' ' || state || ' ' || \
                 low_tera || ' ' || best_tera || ' ' || high_tera || ' ' || calibrated_low_tera || ' ' || \
                 calibrated_high_tera || ' ' || measured_ms || ' ' || interpolated_ms || ' ' || signs AS line \
                 FROM usage ORDER BY line",
            ),
            (
                "hour",
                "SELECT accelerator || ' ' || hour_ms || ' ' || covered || ' ' || gaps || ' ' || agents || ' ' || \
                 measured_ms || ' ' || interpolated_ms || ' ' || witnesses || ' ' || disagreeing || ' ' || \
                 doubts || ' ' || doubted AS line FROM hour ORDER BY line",
            ),
            (
                "gap",
                "SELECT accelerator || ' ' || hour_ms || ' ' || cause || ' ' || millis AS line FROM gap ORDER BY line",
            ),
            ("state", "SELECT kind || ' ' || name || ' ' || body AS line FROM state ORDER BY line"),
            (
                "agent_cursor",
                "SELECT agent || ' ' || epoch || ' ' || numbers || ' ' || measured || ' ' || received AS line \
                 FROM agent_cursor ORDER BY line",
            ),
            (
                "place",
                "SELECT agent || ' ' || hour_ms || ' ' || segment || ' ' || first_index || ' ' || first_offset || ' ' || \
                 last_index AS line FROM place ORDER BY line",
            ),
            (
                "record",
                "SELECT kind || ' ' || name || ' ' || entry_index || ' ' || received_ms || ' ' || body AS line \
                 FROM record ORDER BY line",
            ),
        ];
        let mut prints = Vec::new();
        for (table, query) in TABLES {
            let rows = sqlx::query(query).fetch_all(&self.pool).await.map_err(StoreError::Unavailable)?;
            let mut digest = Sha256::new();
            for row in &rows {
                digest.update(Cells { table, row }.text("line")?);
                digest.update(b"\n");
            }
            prints.push((
                table.to_owned(),
                index_i64(rows.len() as u64),
                crate::fold::hex(&digest.finalize()),
            ));
        }
        // What is added up of older hours is compared by what it is there for.
        let (sums, coverage) =
            (self.sums(&Filter::default()).await?, self.coverage(&Filter::default()).await?);
        prints.push(print_of(ROLLED_USAGE, &sums));
        prints.push(print_of(ROLLED_COVERAGE, &coverage));
        Ok(prints)
    }
}
