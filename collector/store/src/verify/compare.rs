//! Which rows of two tables differ, by key and column.

use std::collections::BTreeMap;

use sqlx::{Column, QueryBuilder, Row, Sqlite, sqlite::SqliteRow};

use crate::{Filter, StoreError, UsageStore, sql::SqliteStore};

/// Rows that are named of one table; of more only the number is told.
const NAMED: usize = 5;

/// Characters of a value that are shown: sums are short, what is long is told apart by its beginning.
const SHOWN: usize = 60;

type Rows = BTreeMap<String, Vec<(String, String)>>;

/// The first rows of `table` in which what the ledger gives and what the store has differ.
pub(super) async fn tables(
    table: &str,
    ledger: &SqliteStore,
    store: &SqliteStore,
) -> Result<Vec<String>, StoreError> {
    let (given, found) = (rows(table, ledger).await?, rows(table, store).await?);
    let mut lines = Vec::new();
    let mut differing = 0;
    let keys: std::collections::BTreeSet<&String> = given.keys().chain(found.keys()).collect();
    for key in keys {
        let what = match (given.get(key), found.get(key)) {
            (Some(given), Some(found)) if given == found => continue,
            (Some(given), Some(found)) => {
                let pairs = given.iter().zip(found).filter(|(a, b)| a != b);
                let said = pairs.map(|((column, a), (_, b))| {
                    format!("{column} is {}, the ledger gives {}", short(b), short(a))
                });
                said.collect::<Vec<_>>().join("; ")
            }
            (Some(_), None) => "the row is missing".into(),
            (None, _) => "the ledger does not give this row".into(),
        };
        differing += 1;
        if lines.len() < NAMED {
            lines.push(format!("table {table}, {key}: {what}"));
        }
    }
    if differing > lines.len() {
        lines.push(format!("table {table}: and {} more rows", differing - lines.len()));
    }
    Ok(lines)
}

/// The first totals that differ though the hours that they are of do not.
pub(super) async fn totals(ledger: &SqliteStore, store: &SqliteStore) -> Result<Vec<String>, StoreError> {
    let all = Filter::default();
    let mut lines = Vec::new();
    let said = |what: &dyn std::fmt::Debug| short(&format!("{what:?}"));
    let (given, found) = (ledger.sums(&all).await?, store.sums(&all).await?);
    for (given, found) in given.iter().zip(&found).filter(|(given, found)| given != found) {
        lines.push(format!(
            "sums of {}: {}, the hours give {}",
            found.accelerator,
            said(&found.sums),
            said(&given.sums)
        ));
    }
    let (given, found) = (ledger.coverage(&all).await?, store.coverage(&all).await?);
    for (given, found) in given.iter().zip(&found).filter(|(given, found)| given != found) {
        lines.push(format!(
            "coverage of {}: {}, the hours give {}",
            found.accelerator,
            said(found),
            said(given)
        ));
    }
    lines.truncate(NAMED);
    Ok(lines)
}

fn short(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &value[..end]),
        None if value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => value.to_owned(),
        None => format!("{value:?}"),
    }
}

/// All rows by their key in words.
async fn rows(table: &str, store: &SqliteStore) -> Result<Rows, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT name FROM pragma_table_info(");
    query.push_bind(table.to_owned()).push(") WHERE pk > 0 ORDER BY pk");
    let keys = query.build().fetch_all(store.pool()).await.map_err(StoreError::Unavailable)?;
    let mut keys: Vec<String> = keys.iter().map(|row| text(row, 0)).collect();
    // Who held it says more than a number does.
    if let Some(number) = keys.iter().position(|key| table == "usage" && key == "number") {
        keys.splice(number.., ["principal", "attempt", "state"].map(str::to_owned));
    }
    let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM ");
    query.push(table);
    let found = query.build().fetch_all(store.pool()).await.map_err(StoreError::Unavailable)?;
    let mut rows = Rows::new();
    for row in &found {
        let mut key = Vec::new();
        let mut values = Vec::new();
        for (index, column) in row.columns().iter().enumerate() {
            let value = text(row, index);
            // Where rows lie apart says nothing to a person.
            if column.name() == "cell" {
                continue;
            }
            if keys.iter().any(|key| key == column.name()) {
                key.push(format!("{} {}", column.name(), value));
            } else {
                values.push((column.name().to_owned(), value));
            }
        }
        rows.insert(key.join(", "), values);
    }
    Ok(rows)
}

/// A value of whatever type as text.
fn text(row: &SqliteRow, index: usize) -> String {
    row.try_get_unchecked::<Option<String>, _>(index).ok().flatten().unwrap_or_default()
}
