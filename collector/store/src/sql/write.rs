//! The statements that write a piece of folded ledger.

use sqlx::{QueryBuilder, Sqlite, query_builder::Separated};

use super::{ROWS, cell, index_i64};
use crate::{
    Folded,
    hour::{HeldState, Holder, HourRow, Relabel, Sums, UsageKey},
};

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data with string keys")
}

/// The statements that write a piece.
pub(super) fn statements(piece: &Folded) -> Vec<QueryBuilder<Sqlite>> {
    // Hours that are written whole have their last name already.
    let mut statements: Vec<_> = piece.relabels.iter().map(relabel).collect();
    statements.extend(whole_hours(&piece.hours));
    statements.extend(others(piece));
    statements
}

/// The statement that gives the rows of whole hours their new name, where they lie.
fn relabel(relabel: &Relabel) -> QueryBuilder<Sqlite> {
    let Relabel { accelerator, hours, before, after } = relabel;
    let [used, idle] = Relabel::states(before.as_ref());
    let [now_used, now_idle] = Relabel::states(after.as_ref());
    let (principal, attempt) = names(after.as_ref());
    let mut query = QueryBuilder::new("UPDATE usage SET principal = ");
    query.push_bind(principal.to_owned()).push(", attempt = ").push_bind(attempt.to_owned());
    query.push(", state = CASE state WHEN ").push_bind(idle.as_str());
    query.push(" THEN ").push_bind(now_idle.as_str());
    query.push(" ELSE ").push_bind(now_used.as_str());
    let (principal, attempt) = names(before.as_ref());
    query.push(" END WHERE cell = ").push_bind(cell(accelerator.as_str()));
    query.push(" AND accelerator = ").push_bind(accelerator.as_str().to_owned());
    query.push(" AND hour_ms >= ").push_bind(hours.start().0);
    query.push(" AND hour_ms < ").push_bind(hours.end().0);
    query.push(" AND principal = ").push_bind(principal.to_owned());
    query.push(" AND attempt = ").push_bind(attempt.to_owned());
    query.push(" AND state IN (").push_bind(used.as_str()).push(", ").push_bind(idle.as_str()).push(")");
    query
}

/// Both are empty where nobody is known.
pub(super) fn names(holder: Option<&Holder>) -> (&str, &str) {
    holder.map_or(("", ""), |(principal, attempt)| (principal.as_str(), attempt.as_str()))
}

/// The rows of an hour in the order of their numbers: one that another holder gets keeps its number.
fn numbered(row: &HourRow) -> impl Iterator<Item = (&HourRow, u64, &UsageKey, &Sums)> {
    let mut usage: Vec<_> = row.hour.usage.iter().collect();
    usage.sort_by_key(|(key, _)| {
        let idle = matches!(key.state, HeldState::IdleHeld | HeldState::Free);
        (idle, names(key.holder.as_ref()), key.state.as_str())
    });
    (0..).zip(usage).map(move |(number, (key, sums))| (row, number, key, sums))
}

/// The statements that write hours. An hour is written whole: its old sums go first.
pub(super) fn whole_hours(all: &[HourRow]) -> Vec<QueryBuilder<Sqlite>> {
    let mut statements = Vec::new();
    for rows in all.chunks(ROWS) {
        for table in ["DELETE FROM usage", "DELETE FROM gap"] {
            let mut query = QueryBuilder::new(table);
            query.push(" WHERE (cell, accelerator, hour_ms) IN (VALUES ");
            let mut list = query.separated(", ");
            for row in rows {
                list.push("(").push_bind_unseparated(cell(row.key.accelerator.as_str()));
                list.push_unseparated(", ").push_bind_unseparated(row.key.accelerator.as_str().to_owned());
                list.push_unseparated(", ").push_bind_unseparated(row.key.hour.0).push_unseparated(")");
            }
            query.push(")");
            statements.push(query);
        }
        statements.push(hours(rows));
    }
    let usage: Vec<_> = all.iter().flat_map(numbered).collect();
    statements.extend(usage.chunks(ROWS).map(usages));
    let gaps: Vec<_> = all
        .iter()
        .flat_map(|row| {
            row.hour.gap_millis().into_iter().map(move |(cause, millis)| (&row.key, cause, millis))
        })
        .collect();
    for rows in gaps.chunks(ROWS) {
        let mut query = QueryBuilder::new("INSERT INTO gap (cell, accelerator, hour_ms, cause, millis) ");
        query.push_values(rows, |mut b, (key, cause, millis)| {
            b.push_bind(cell(key.accelerator.as_str())).push_bind(key.accelerator.as_str().to_owned());
            b.push_bind(key.hour.0).push_bind(cause.as_str()).push_bind(index_i64(*millis));
        });
        statements.push(query);
    }
    statements
}

fn hours(rows: &[HourRow]) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(
        "INSERT INTO hour (cell, accelerator, hour_ms, covered, gaps, agents, measured_ms, interpolated_ms, \
         witnesses, disagreeing, doubts, doubted) ",
    );
    query.push_values(rows, |mut b, row| {
        let interpolated: u64 = row.hour.usage.values().map(|sums| sums.interpolated_ms).sum();
        let witnesses = &row.hour.witnesses;
        let doubts: Vec<_> =
            row.hour.doubts.iter().map(|((agent, doubt), millis)| (agent, doubt, millis)).collect();
        let disagreeing = witnesses.iter().filter(|witness| witness.disagrees()).count();
        b.push_bind(cell(row.key.accelerator.as_str()))
            .push_bind(row.key.accelerator.as_str().to_owned())
            .push_bind(row.key.hour.0)
            .push_bind(json(&row.hour.covered))
            .push_bind(json(&row.hour.gaps))
            .push_bind(json(&row.hour.agents))
            .push_bind(index_i64(row.hour.covered.millis() - interpolated))
            .push_bind(index_i64(interpolated))
            .push_bind(if witnesses.is_empty() { String::new() } else { json(witnesses) })
            .push_bind(index_i64(disagreeing as u64))
            .push_bind(if doubts.is_empty() { String::new() } else { json(&doubts) })
            .push_bind(index_i64(doubts.len() as u64));
    });
    query.push(
        " ON CONFLICT (cell, accelerator, hour_ms) DO UPDATE SET covered = excluded.covered, gaps = excluded.gaps, \
         agents = excluded.agents, measured_ms = excluded.measured_ms, interpolated_ms = excluded.interpolated_ms, \
         witnesses = excluded.witnesses, disagreeing = excluded.disagreeing, \
         doubts = excluded.doubts, doubted = excluded.doubted",
    );
    query
}

fn usages(rows: &[(&HourRow, u64, &UsageKey, &Sums)]) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(
        "INSERT INTO usage (cell, accelerator, hour_ms, number, principal, attempt, state, low_tera, best_tera, high_tera, \
         calibrated_low_tera, calibrated_high_tera, measured_ms, interpolated_ms, signs) ",
    );
    query.push_values(rows, |mut b, (row, number, key, sums)| {
        let (principal, attempt) = names(key.holder.as_ref());
        b.push_bind(cell(row.key.accelerator.as_str()))
            .push_bind(row.key.accelerator.as_str().to_owned())
            .push_bind(row.key.hour.0)
            .push_bind(index_i64(*number))
            .push_bind(principal.to_owned())
            .push_bind(attempt.to_owned())
            .push_bind(key.state.as_str());
        push_sums(&mut b, sums);
    });
    query
}

/// The columns of sums, in the order in which every table has them.
pub(super) fn push_sums(b: &mut Separated<'_, Sqlite, &'static str>, sums: &Sums) {
    b.push_bind(sums.bound.low().tera_i64())
        .push_bind(sums.bound.best().tera_i64())
        .push_bind(sums.bound.high().tera_i64())
        .push_bind(sums.calibrated.low().tera_i64())
        .push_bind(sums.calibrated.high().tera_i64())
        .push_bind(index_i64(sums.measured_ms))
        .push_bind(index_i64(sums.interpolated_ms))
        .push_bind(if sums.signs.is_empty() { String::new() } else { json(&sums.signs) });
}

fn others(piece: &Folded) -> Vec<QueryBuilder<Sqlite>> {
    let mut statements = Vec::new();
    for rows in piece.state.chunks(ROWS) {
        let mut query = QueryBuilder::new("INSERT INTO state (cell, kind, name, body) ");
        query.push_values(rows, |mut b, row| {
            b.push_bind(cell(&row.key))
                .push_bind(row.kind)
                .push_bind(row.key.clone())
                .push_bind(row.body.clone());
        });
        query.push(" ON CONFLICT (cell, kind, name) DO UPDATE SET body = excluded.body");
        statements.push(query);
    }
    for rows in piece.cursors.chunks(ROWS) {
        let mut query =
            QueryBuilder::new("INSERT INTO agent_cursor (cell, agent, epoch, numbers, measured, received) ");
        query.push_values(rows, |mut b, row| {
            b.push_bind(cell(row.agent.as_str())).push_bind(row.agent.as_str().to_owned());
            b.push_bind(row.epoch.to_string()).push_bind(json(&row.numbers));
            b.push_bind(json(&row.measured)).push_bind(json(&row.received));
        });
        query.push(
            " ON CONFLICT (cell, agent, epoch) DO UPDATE SET numbers = excluded.numbers, \
             measured = excluded.measured, received = excluded.received",
        );
        statements.push(query);
    }
    for rows in piece.places.chunks(ROWS) {
        let mut query = QueryBuilder::new(
            "INSERT INTO place (cell, agent, hour_ms, segment, first_index, first_offset, last_index) ",
        );
        query.push_values(rows, |mut b, (agent, hour, row)| {
            b.push_bind(cell(agent.as_str())).push_bind(agent.as_str().to_owned()).push_bind(hour.0);
            b.push_bind(index_i64(row.segment)).push_bind(index_i64(row.first_index));
            b.push_bind(index_i64(row.first_offset)).push_bind(index_i64(row.last_index));
        });
        query.push(
            " ON CONFLICT (cell, agent, hour_ms, segment) DO UPDATE SET last_index = \
             CASE WHEN place.last_index > excluded.last_index THEN place.last_index ELSE excluded.last_index END",
        );
        statements.push(query);
    }
    for rows in piece.records.chunks(ROWS) {
        let mut query =
            QueryBuilder::new("INSERT INTO record (cell, kind, name, entry_index, received_ms, body) ");
        query.push_values(rows, |mut b, (kind, row)| {
            b.push_bind(cell(&row.key)).push_bind(kind.clone()).push_bind(row.key.clone());
            b.push_bind(index_i64(row.index)).push_bind(row.received.0).push_bind(row.body.to_string());
        });
        query.push(" ON CONFLICT (cell, kind, name, entry_index) DO NOTHING");
        statements.push(query);
    }
    statements
}
