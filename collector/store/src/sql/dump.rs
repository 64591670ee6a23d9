//! All derived rows out of a store and into an empty one: what a summary is made of.
//!
//! Which tables and columns there are is asked of the database, so that a later schema needs nothing here. A
//! column that a summary of an earlier release does not have gets its default.

use std::{future::poll_fn, path::Path, pin::pin};

use futures_util::Stream;
use serde_json::Value;
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite, SqliteConnection};
use tokio::sync::mpsc;
use weighbridge_journal::ReadError;
use weighbridge_meter::{AgentId, UtcMillis};

use super::{Cells, SqliteStore, index_i64, place};
use crate::{
    Entry, Place, StoreError, fold::is_ahead, ledger::read_places, state::PlaceRow, summary::SummaryError,
};

/// Not derived from the ledger's entries: where the sums stand, of which store they are, and the schema. And what is
/// added up of the other tables, which is made again from them.
const KEPT: [&str; 7] =
    ["position", "origin", "_sqlx_migrations", "rolled_usage", "rolled_hour", "rolled_gap", "unrolled"];

/// Parameters of one statement: below the limit of every database.
const PARAMETERS: usize = 6_000;

/// A table as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns, in their order.
    pub columns: Vec<String>,
}

/// What a dump consists of.
#[derive(Debug)]
pub enum Piece {
    /// A table begins.
    Table(Table),
    /// A row of it: a JSON array of its columns.
    Row(String),
}

fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(error)
}

/// A name from the database or a summary, fit to stand in a statement.
fn quoted(name: &str) -> Result<String, StoreError> {
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if plain {
        Ok(format!("\"{name}\""))
    } else {
        Err(StoreError::Nonsense { table: "summary", column: "name", value: name.to_owned() })
    }
}

async fn tables(connection: &mut SqliteConnection) -> Result<Vec<Table>, StoreError> {
    let rows = sqlx::query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        .fetch_all(&mut *connection)
        .await
        .map_err(unavailable)?;
    let mut tables = Vec::new();
    for row in &rows {
        let name = Cells { table: "sqlite_master", row }.text("name")?;
        if KEPT.contains(&name.as_str()) || name.starts_with("sqlite_") {
            continue;
        }
        let rows = sqlx::query("SELECT name FROM pragma_table_info($1) ORDER BY cid")
            .bind(&name)
            .fetch_all(&mut *connection)
            .await
            .map_err(unavailable)?;
        let columns = rows
            .iter()
            .map(|row| Cells { table: "pragma_table_info", row }.text("name"))
            .collect::<Result<_, _>>()?;
        tables.push(Table { name, columns });
    }
    Ok(tables)
}

impl SqliteStore {
    /// Sends all derived rows as of one moment, tables and rows in an order of their own, and returns the place that
    /// they reflect. Ends early where nobody takes them any more.
    pub async fn dump(&self, pieces: mpsc::Sender<Piece>) -> Result<Place, StoreError> {
        // One transaction reads one moment, however long it takes and whatever is written meanwhile.
        let mut transaction = self.pool.begin().await.map_err(unavailable)?;
        let row = sqlx::query("SELECT entry_index, segment, byte_offset FROM position WHERE id = 0")
            .fetch_one(&mut *transaction)
            .await
            .map_err(unavailable)?;
        let stands = place(&row)?;
        for table in tables(&mut transaction).await? {
            let columns =
                table.columns.iter().map(|column| quoted(column)).collect::<Result<Vec<_>, _>>()?.join(", ");
            let query = format!(
                "SELECT json_array({columns}) AS line FROM {} ORDER BY {columns}",
                quoted(&table.name)?
            );
            if pieces.send(Piece::Table(table)).await.is_err() {
                return Ok(stands);
            }
            let mut rows = pin!(sqlx::query(AssertSqlSafe(query)).fetch(&mut *transaction));
            while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await {
                let row = row.map_err(unavailable)?;
                let line = Cells { table: "summary", row: &row }.text("line")?;
                if pieces.send(Piece::Row(line)).await.is_err() {
                    return Ok(stands);
                }
            }
        }
        Ok(stands)
    }

    /// Takes the rows of a dump into this store, all of them or none: it must be empty, and stands at `stands`
    /// after it. `None` says that there are no more; if it is never said, nothing is taken, and the answer `false`.
    pub async fn load(
        &self,
        stands: Place,
        pieces: &mut mpsc::Receiver<Option<Piece>>,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await.map_err(unavailable)?;
        let row = sqlx::query("SELECT entry_index, segment, byte_offset FROM position WHERE id = 0")
            .fetch_one(&mut *transaction)
            .await
            .map_err(unavailable)?;
        let before = place(&row)?;
        if before.index != 0 {
            return Err(StoreError::Hole { stands: before.index, begins: 0 });
        }
        let known = tables(&mut transaction).await?;
        let mut current: Option<Table> = None;
        let mut rows = Vec::new();
        loop {
            let Some(piece) = pieces.recv().await else { return Ok(false) };
            let full =
                current.as_ref().is_some_and(|table| (rows.len() + 1) * table.columns.len() > PARAMETERS);
            if let Some(table) = &current
                && !rows.is_empty()
                && (full || !matches!(piece, Some(Piece::Row(_))))
            {
                insert(&mut transaction, table, std::mem::take(&mut rows)).await?;
            }
            match piece {
                None => break,
                Some(Piece::Table(table)) => {
                    let there = known.iter().find(|known| known.name == table.name);
                    let unknown = |value: &str| StoreError::Nonsense {
                        table: "summary",
                        column: "name",
                        value: format!("{} {value}", table.name),
                    };
                    let there = there.ok_or_else(|| unknown(""))?;
                    if let Some(column) = table.columns.iter().find(|column| !there.columns.contains(column))
                    {
                        return Err(unknown(column));
                    }
                    current = Some(table);
                }
                Some(Piece::Row(line)) => {
                    let nonsense = || StoreError::Nonsense {
                        table: "summary",
                        column: "row",
                        value: line.chars().take(200).collect(),
                    };
                    let values: Vec<Value> = serde_json::from_str(&line).map_err(|_| nonsense())?;
                    if current.as_ref().is_none_or(|table| table.columns.len() != values.len()) {
                        return Err(nonsense());
                    }
                    rows.push(values);
                }
            }
        }
        sqlx::query("UPDATE position SET entry_index = $1, segment = $2, byte_offset = $3 WHERE id = 0")
            .bind(index_i64(stands.index))
            .bind(index_i64(stands.segment))
            .bind(index_i64(stands.offset))
            .execute(&mut *transaction)
            .await
            .map_err(unavailable)?;
        transaction.commit().await.map_err(unavailable)?;
        Ok(true)
    }

    /// Of which generation of the ledger the sums are, if that was ever said.
    pub async fn origin(&self) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT generation FROM origin WHERE id = 0")
            .fetch_optional(&self.pool)
            .await
            .map_err(unavailable)?;
        row.as_ref().map(|row| Cells { table: "origin", row }.text("generation")).transpose()
    }

    /// Says of which generation they are.
    pub async fn set_origin(&self, generation: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO origin (id, generation) VALUES (0, $1) \
             ON CONFLICT (id) DO UPDATE SET generation = excluded.generation",
        )
        .bind(generation)
        .execute(&self.pool)
        .await
        .map_err(unavailable)?;
        Ok(())
    }

    /// What the database finds wrong with its own file; `None` if nothing. Reads all of it.
    pub async fn damage(&self) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("PRAGMA quick_check(1)").fetch_one(&self.pool).await.map_err(unavailable)?;
        let said = Cells { table: "pragma", row: &row }.text("quick_check")?;
        Ok((said != "ok").then_some(said))
    }

    /// The oldest segment with a batch that touches an hour from this one on, and whose it is. What had not come yet
    /// when it was received does not count: from the next close on it is [void](crate::fold).
    pub async fn oldest_needed(
        &self,
        ledger: &Path,
        hour: UtcMillis,
    ) -> Result<Option<(u64, AgentId)>, SummaryError> {
        let oldest = weighbridge_journal::oldest_segment(ledger).map_err(ReadError::from)?.unwrap_or(1);
        let query = sqlx::query(
            "SELECT agent, hour_ms, segment, first_index, first_offset, last_index FROM place \
             WHERE hour_ms >= $1 AND segment >= $2 ORDER BY segment, agent, hour_ms",
        );
        let mut rows = pin!(query.bind(hour.0).bind(index_i64(oldest)).fetch(&self.pool));
        // A row of each hour that a batch touches leads to the same entries.
        let mut read: Option<(PlaceRow, UtcMillis)> = None;
        while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await {
            let row = row.map_err(unavailable)?;
            let cells = Cells { table: "place", row: &row };
            let place = PlaceRow {
                segment: cells.count("segment")?,
                first_index: cells.count("first_index")?,
                first_offset: cells.count("first_offset")?,
                last_index: cells.count("last_index")?,
            };
            let of = UtcMillis(cells.int("hour_ms")?);
            let received = match read {
                Some((read, received)) if read == place => received,
                _ => {
                    // As a rule the first entry of it is enough.
                    let first = received(ledger, &PlaceRow { last_index: place.first_index, ..place })?;
                    if is_ahead(of, first) { received(ledger, &place)? } else { first }
                }
            };
            if !is_ahead(of, received) {
                return Ok(Some((place.segment, cells.name("agent")?)));
            }
            read = Some((place, received));
        }
        Ok(None)
    }
}

/// When the last of the entries in a place was received.
fn received(ledger: &Path, row: &PlaceRow) -> Result<UtcMillis, ReadError> {
    let mut last = UtcMillis(i64::MIN);
    let end = Place { index: u64::MAX, segment: u64::MAX, offset: u64::MAX };
    read_places(ledger, row, end, |_, payload| {
        // One that cannot be read is kept for those who look.
        let received = Entry::decode(payload).map_or(UtcMillis(i64::MAX), |entry| entry.received);
        last = last.max(received);
    })?;
    Ok(last)
}

async fn insert(
    connection: &mut SqliteConnection,
    table: &Table,
    rows: Vec<Vec<Value>>,
) -> Result<(), StoreError> {
    let columns = table.columns.iter().map(|column| quoted(column)).collect::<Result<Vec<_>, _>>()?;
    let head = format!("INSERT INTO {} ({}) ", quoted(&table.name)?, columns.join(", "));
    let mut query = QueryBuilder::<Sqlite>::new(head);
    let mut wrong = None;
    query.push_values(&rows, |mut list, row| {
        for value in row {
            match value {
                Value::Number(number) if number.is_i64() => list.push_bind(number.as_i64()),
                Value::String(text) => list.push_bind(text.clone()),
                Value::Null => list.push_bind(None::<i64>),
                other => {
                    wrong = Some(other.to_string());
                    list.push_bind(None::<i64>)
                }
            };
        }
    });
    if let Some(value) = wrong {
        return Err(StoreError::Nonsense { table: "summary", column: "value", value });
    }
    query.build().execute(connection).await.map_err(unavailable)?;
    Ok(())
}
