//! Sums of older hours, added up once: a total reads them and the hours since, and not years of hours.
//!
//! What is rolled up follows from the tables of hours and from nothing else. A write to an hour that is rolled up takes
//! the sums of its accelerator away in the same transaction; they are read hour by hour until they are made again.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Connection, QueryBuilder, Sqlite, SqliteConnection};
use weighbridge_meter::{AcceleratorId, UtcMillis};

use super::{Cells, ROWS, WRITING, cell, write};
use crate::{
    Filter, Folded, StoreError,
    hour::{HourRow, Sums, UsageKey},
};

/// Accelerators whose hours are read by one statement.
const AT_ONCE: usize = 200;

/// Every accelerator that has hours, found by leaping from each to the next in the order of the key: first the cells,
/// then what is in each, one seek a leap. A comparison of both together would read all hours of a cell at each leap.
const KNOWN: &str = "WITH RECURSIVE cells(cell) AS (\
     SELECT MIN(cell) FROM hour \
     UNION ALL SELECT (SELECT MIN(h.cell) FROM hour h WHERE h.cell > cells.cell) FROM cells \
     WHERE cells.cell IS NOT NULL), \
     known(cell, accelerator) AS (\
     SELECT cell, (SELECT MIN(h.accelerator) FROM hour h WHERE h.cell = cells.cell) FROM cells \
     WHERE cell IS NOT NULL \
     UNION ALL SELECT known.cell, (SELECT MIN(h.accelerator) FROM hour h \
     WHERE h.cell = known.cell AND h.accelerator > known.accelerator) FROM known \
     WHERE known.accelerator IS NOT NULL) ";

/// The accelerators that a filter lets through, as a table `known`.
fn known(filter: &Filter) -> QueryBuilder<Sqlite> {
    let Some(id) = &filter.accelerator else { return QueryBuilder::new(KNOWN) };
    let mut query = QueryBuilder::new("WITH known(cell, accelerator) AS (");
    values(&mut query, &[id]);
    query.push(") ");
    query
}

/// From where on hours are not rolled up; everything, before anything is.
const ROLLED: &str = "COALESCE((SELECT rolled_ms FROM position WHERE id = 0), -9223372036854775807)";

/// Which part of the time a read is about, and how it is to be had.
pub(super) struct Parts<'a> {
    /// Whether sums of older hours may stand for them: they are all asked for.
    rolled: bool,
    filter: &'a Filter,
}

impl<'a> Parts<'a> {
    pub(super) fn of(filter: &'a Filter) -> Self {
        Self { rolled: filter.from.is_none() && filter.to.is_none(), filter }
    }

    /// A query over rows of `table` (with an alias `t`), and over those of `rolled` that stand for older ones, both
    /// with `columns`, under the name `parts`; it begins with `select`.
    pub(super) fn query(
        &self,
        select: &str,
        table: &'static str,
        rolled: &'static str,
        columns: &'static str,
        principal: bool,
    ) -> QueryBuilder<Sqlite> {
        let mut query = known(self.filter);
        query.push(select).push(" FROM (");
        if self.rolled {
            query.push("SELECT ").push(columns).push(" FROM ").push(rolled).push(" t WHERE 1 = 1");
            self.narrow(&mut query, principal);
            query.push(" UNION ALL SELECT ").push(columns);
            query.push(" FROM unrolled k CROSS JOIN ").push(table);
            query
                .push(" t ON t.cell = k.cell AND t.accelerator = k.accelerator AND t.hour_ms < ")
                .push(ROLLED);
            query.push(" WHERE 1 = 1");
            self.narrow(&mut query, principal);
            query.push(" UNION ALL ");
        }
        query.push("SELECT ").push(columns).push(" FROM known k CROSS JOIN ").push(table);
        query.push(" t ON t.cell = k.cell AND t.accelerator = k.accelerator");
        if self.rolled {
            query.push(" AND t.hour_ms >= ").push(ROLLED);
        }
        if let Some(from) = self.filter.from {
            query.push(" AND t.hour_ms >= ").push_bind(from.0);
        }
        if let Some(to) = self.filter.to {
            query.push(" AND t.hour_ms < ").push_bind(to.0);
        }
        query.push(" WHERE k.accelerator IS NOT NULL");
        self.narrow(&mut query, principal);
        query.push(") AS parts");
        query
    }

    fn narrow(&self, query: &mut QueryBuilder<Sqlite>, principal: bool) {
        if let Some(id) = &self.filter.accelerator {
            query.push(" AND t.cell = ").push_bind(cell(id.as_str()));
            query.push(" AND t.accelerator = ").push_bind(id.as_str().to_owned());
        }
        if let Some(name) = self.filter.principal.as_ref().filter(|_| principal) {
            query.push(" AND t.principal = ").push_bind(name.as_str().to_owned());
        }
    }
}

/// A query for rows of usage hour by hour. Of a principal only those hours are looked at in which it had anything, as
/// far as sums of older hours tell.
pub(super) fn hourly(filter: &Filter, columns: &'static str) -> QueryBuilder<Sqlite> {
    let mut query = known(filter);
    query.push("SELECT ").push(columns).push(" FROM (");
    let bounds = |query: &mut QueryBuilder<Sqlite>| {
        if let Some(from) = filter.from {
            query.push(" AND t.hour_ms >= ").push_bind(from.0);
        }
        if let Some(to) = filter.to {
            query.push(" AND t.hour_ms < ").push_bind(to.0);
        }
        if let Some(principal) = &filter.principal {
            query.push(" AND t.principal = ").push_bind(principal.as_str().to_owned());
        }
        if let Some(id) = &filter.accelerator {
            query.push(" AND t.cell = ").push_bind(cell(id.as_str()));
            query.push(" AND t.accelerator = ").push_bind(id.as_str().to_owned());
        }
    };
    if let Some(principal) = &filter.principal {
        query.push("SELECT t.* FROM (SELECT cell, accelerator, MIN(first_ms) AS first_ms, MAX(last_ms) AS last_ms FROM (");
        query.push("SELECT cell, accelerator, first_ms, last_ms FROM rolled_usage WHERE principal = ");
        query.push_bind(principal.as_str().to_owned());
        query.push(
            " UNION ALL SELECT cell, accelerator, -9223372036854775807, 9223372036854775807 FROM unrolled",
        );
        query.push(") AS seen GROUP BY cell, accelerator) k CROSS JOIN usage t ON t.cell = k.cell ");
        query.push(
            "AND t.accelerator = k.accelerator AND t.hour_ms >= k.first_ms AND t.hour_ms <= k.last_ms ",
        );
        query.push("AND t.hour_ms < ").push(ROLLED).push(" WHERE 1 = 1");
        bounds(&mut query);
        query.push(" UNION ALL ");
    }
    query.push(
        "SELECT t.* FROM known k CROSS JOIN usage t ON t.cell = k.cell AND t.accelerator = k.accelerator",
    );
    if filter.principal.is_some() {
        query.push(" AND t.hour_ms >= ").push(ROLLED);
    }
    query.push(" WHERE k.accelerator IS NOT NULL");
    bounds(&mut query);
    query.push(") AS parts ORDER BY hour_ms, accelerator, principal, attempt, state");
    query
}

/// What takes the sums of older hours away where these are about to be written; nothing, as a rule.
pub(super) fn taken_away(
    rolled: Option<i64>,
    piece: Option<&Folded>,
    hours: &[HourRow],
) -> Vec<QueryBuilder<Sqlite>> {
    let Some(rolled) = rolled else { return Vec::new() };
    let written = hours.iter().filter(|row| row.key.hour.0 < rolled).map(|row| &row.key.accelerator);
    let relabelled = piece.into_iter().flat_map(|piece| &piece.relabels);
    let relabelled = relabelled.filter(|relabel| relabel.hours.start().0 < rolled);
    let touched: BTreeSet<&AcceleratorId> =
        written.chain(relabelled.map(|relabel| &relabel.accelerator)).collect();
    let touched: Vec<&AcceleratorId> = touched.into_iter().collect();
    let mut statements = Vec::new();
    for some in touched.chunks(ROWS) {
        for table in ["rolled_usage", "rolled_hour", "rolled_gap"] {
            let mut query = QueryBuilder::new("DELETE FROM ");
            query.push(table).push(" WHERE (cell, accelerator) IN (");
            values(&mut query, some);
            query.push(")");
            statements.push(query);
        }
        let mut query = QueryBuilder::new("INSERT INTO unrolled (cell, accelerator) ");
        values(&mut query, some);
        query.push(" ON CONFLICT (cell, accelerator) DO NOTHING");
        statements.push(query);
    }
    statements
}

fn values(query: &mut QueryBuilder<Sqlite>, accelerators: &[&AcceleratorId]) {
    query.push_values(accelerators, |mut b, id| {
        b.push_bind(cell(id.as_str())).push_bind(id.as_str().to_owned());
    });
}

/// Up to where hours are rolled up.
pub(super) async fn rolled(connection: &mut SqliteConnection) -> Result<Option<i64>, StoreError> {
    sqlx::query_scalar("SELECT rolled_ms FROM position WHERE id = 0")
        .fetch_one(connection)
        .await
        .map_err(StoreError::Unavailable)
}

/// Sums of one holder on one accelerator, and the first and last hour they are from.
#[derive(Default)]
struct Rolled {
    hours: Option<(i64, i64)>,
    sums: Sums,
}

impl Rolled {
    fn merge(&mut self, first: i64, last: i64, sums: &Sums) {
        self.hours = Some(self.hours.map_or((first, last), |(from, to)| (from.min(first), to.max(last))));
        self.sums.merge(sums);
    }
}

/// Adds up all hours before `before`, in one transaction, where that is not done yet.
pub(super) async fn roll_up(connection: &mut SqliteConnection, before: UtcMillis) -> Result<(), StoreError> {
    let waiting: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM unrolled)")
        .fetch_one(&mut *connection)
        .await
        .map_err(StoreError::Unavailable)?;
    if !waiting && rolled(connection).await?.is_some_and(|rolled| rolled >= before.0) {
        return Ok(());
    }
    let mut transaction = connection.begin_with(WRITING).await.map_err(StoreError::Unavailable)?;
    let rolled = rolled(&mut transaction).await?;
    let again = accelerators(&mut transaction, "SELECT cell, accelerator FROM unrolled").await?;
    let before = UtcMillis(rolled.map_or(before.0, |rolled| rolled.max(before.0)));
    let mut from = Vec::new();
    if rolled.is_none_or(|rolled| rolled < before.0) {
        let known = format!("{KNOWN}SELECT cell, accelerator FROM known WHERE accelerator IS NOT NULL");
        let known = accelerators(&mut transaction, &known).await?;
        from.push((rolled, known.difference(&again).cloned().collect::<Vec<_>>()));
    }
    from.push((None, again.into_iter().collect()));
    for (from, all) in from {
        for some in all.chunks(AT_ONCE) {
            let some: Vec<&AcceleratorId> = some.iter().collect();
            usage(&mut transaction, &some, (from, before)).await?;
            covered(&mut transaction, &some, (from, before)).await?;
        }
    }
    let mut done = QueryBuilder::<Sqlite>::new("UPDATE position SET rolled_ms = ");
    done.push_bind(before.0).push(" WHERE id = 0");
    for mut query in [QueryBuilder::new("DELETE FROM unrolled"), done] {
        query.build().execute(&mut *transaction).await.map_err(StoreError::Unavailable)?;
    }
    transaction.commit().await.map_err(StoreError::Unavailable)
}

async fn accelerators(
    connection: &mut SqliteConnection,
    query: &str,
) -> Result<BTreeSet<AcceleratorId>, StoreError> {
    let rows = QueryBuilder::<Sqlite>::new(query)
        .build()
        .fetch_all(connection)
        .await
        .map_err(StoreError::Unavailable)?;
    rows.iter().map(|row| Cells { table: "hour", row }.name("accelerator")).collect()
}

/// Hours of these accelerators in `from..before`, of a `table` with the alias `t`; it begins with `head`.
fn of_hours(
    head: &'static str,
    select: &'static str,
    table: &'static str,
    some: &[&AcceleratorId],
    (from, before): (Option<i64>, UtcMillis),
) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(head);
    query.push("WITH k(cell, accelerator) AS (");
    values(&mut query, some);
    query.push(") SELECT ").push(select).push(" FROM k CROSS JOIN ").push(table);
    query
        .push(" t ON t.cell = k.cell AND t.accelerator = k.accelerator AND t.hour_ms < ")
        .push_bind(before.0);
    if let Some(from) = from {
        query.push(" AND t.hour_ms >= ").push_bind(from);
    }
    query
}

async fn usage(
    connection: &mut SqliteConnection,
    some: &[&AcceleratorId],
    time: (Option<i64>, UtcMillis),
) -> Result<(), StoreError> {
    let mut query = of_hours(
        "",
        "t.accelerator AS accelerator, t.principal AS principal, t.attempt AS attempt, t.state AS state, \
         MIN(t.hour_ms) AS first_ms, MAX(t.hour_ms) AS last_ms, SUM(t.low_tera) AS low_tera, \
         SUM(t.best_tera) AS best_tera, SUM(t.high_tera) AS high_tera, \
         SUM(t.calibrated_low_tera) AS calibrated_low_tera, SUM(t.calibrated_high_tera) AS calibrated_high_tera, \
         SUM(t.measured_ms) AS measured_ms, SUM(t.interpolated_ms) AS interpolated_ms, \
         string_agg(t.signs, ' ') AS signs",
        "usage",
        some,
        time,
    );
    query.push(" GROUP BY t.accelerator, t.principal, t.attempt, t.state");
    let more = query.build().fetch_all(&mut *connection).await.map_err(StoreError::Unavailable)?;
    if more.is_empty() {
        return Ok(());
    }
    let mut known = QueryBuilder::<Sqlite>::new("SELECT * FROM rolled_usage WHERE (cell, accelerator) IN (");
    values(&mut known, some);
    known.push(")");
    let known = known.build().fetch_all(&mut *connection).await.map_err(StoreError::Unavailable)?;
    let mut all: BTreeMap<(AcceleratorId, UsageKey), Rolled> = BTreeMap::new();
    let mut changed = BTreeSet::new();
    for (row, new) in known.iter().map(|row| (row, false)).chain(more.iter().map(|row| (row, true))) {
        let cells = Cells { table: if new { "usage" } else { "rolled_usage" }, row };
        let key = (cells.name::<AcceleratorId>("accelerator")?, cells.usage_key()?);
        if new {
            changed.insert(key.clone());
        }
        let (first, last) = (cells.int("first_ms")?, cells.int("last_ms")?);
        all.entry(key).or_default().merge(first, last, &cells.sums()?);
    }
    let changed: Vec<_> = all.iter().filter(|(key, _)| changed.contains(key)).collect();
    for rows in changed.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO rolled_usage (cell, accelerator, principal, attempt, state, first_ms, last_ms, low_tera, \
             best_tera, high_tera, calibrated_low_tera, calibrated_high_tera, measured_ms, interpolated_ms, signs) ",
        );
        query.push_values(rows, |mut b, ((accelerator, key), Rolled { hours, sums })| {
            let (principal, attempt) = write::names(key.holder.as_ref());
            let (first, last) = hours.unwrap_or_default();
            b.push_bind(cell(accelerator.as_str())).push_bind(accelerator.as_str().to_owned());
            b.push_bind(principal.to_owned()).push_bind(attempt.to_owned()).push_bind(key.state.as_str());
            b.push_bind(first).push_bind(last);
            write::push_sums(&mut b, sums);
        });
        query.push(
            " ON CONFLICT (cell, accelerator, principal, attempt, state) DO UPDATE SET first_ms = excluded.first_ms, \
             last_ms = excluded.last_ms, low_tera = excluded.low_tera, best_tera = excluded.best_tera, \
             high_tera = excluded.high_tera, calibrated_low_tera = excluded.calibrated_low_tera, \
             calibrated_high_tera = excluded.calibrated_high_tera, measured_ms = excluded.measured_ms, \
             interpolated_ms = excluded.interpolated_ms, signs = excluded.signs",
        );
        query.build().execute(&mut *connection).await.map_err(StoreError::Unavailable)?;
    }
    Ok(())
}

/// How much of their time was measured, and why the rest was not.
async fn covered(
    connection: &mut SqliteConnection,
    some: &[&AcceleratorId],
    time: (Option<i64>, UtcMillis),
) -> Result<(), StoreError> {
    let mut hours = of_hours(
        "INSERT INTO rolled_hour (cell, accelerator, measured_ms, interpolated_ms) ",
        "t.cell, t.accelerator, SUM(t.measured_ms), SUM(t.interpolated_ms)",
        "hour",
        some,
        time,
    );
    // Without WHERE, SQLite reads the second ON as that of the join.
    hours.push(
        " WHERE 1 = 1 GROUP BY t.cell, t.accelerator ON CONFLICT (cell, accelerator) DO UPDATE SET \
         measured_ms = rolled_hour.measured_ms + excluded.measured_ms, \
         interpolated_ms = rolled_hour.interpolated_ms + excluded.interpolated_ms",
    );
    let mut gaps = of_hours(
        "INSERT INTO rolled_gap (cell, accelerator, cause, millis) ",
        "t.cell, t.accelerator, t.cause, SUM(t.millis)",
        "gap",
        some,
        time,
    );
    gaps.push(
        " WHERE 1 = 1 GROUP BY t.cell, t.accelerator, t.cause ON CONFLICT (cell, accelerator, cause) DO UPDATE SET \
         millis = rolled_gap.millis + excluded.millis",
    );
    for mut query in [hours, gaps] {
        query.build().execute(&mut *connection).await.map_err(StoreError::Unavailable)?;
    }
    Ok(())
}
