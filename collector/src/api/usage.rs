//! Windows as they lie in the ledger and sums as they were folded: the two ends of every number.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use weighbridge_meter::{
    AcceleratorId, AgentId, AttemptId, EpochId, Principal, Source, Span, Tier, UtcMillis,
    classify::Sign,
    features::Feature,
    window::{Counter, Coverage},
};
use weighbridge_store::{
    Body, Entry, Filter, Place, UsageStore,
    hour::{HeldState, HourKey},
    ledger::read_places,
    state::PlaceRow,
};
use weighbridge_wire::Envelope;

use super::{amount::Amount, problem::Problem};
use crate::app::App;

/// Readers of ledger segments at one time; others wait. Ingest needs the disk more than they do.
static READERS: Semaphore = Semaphore::const_new(2);

/// Rows of sums in one answer.
const MOST_ROWS: usize = 100_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowsAsked {
    accelerator: AcceleratorId,
    from: UtcMillis,
    to: UtcMillis,
}

#[derive(Debug, Serialize)]
pub(super) struct Windows {
    as_of: UtcMillis,
    accelerator: AcceleratorId,
    from: UtcMillis,
    to: UtcMillis,
    /// `null`: not in the table, and taken for the fastest that is.
    model: Option<String>,
    windows: Vec<WindowJson>,
}

#[derive(Debug, Serialize)]
struct WindowJson {
    /// By the collector's clock: shifted where the host's was off.
    start: UtcMillis,
    end: UtcMillis,
    boot_start_ms: u64,
    clock_offset_minutes: i64,
    agent: AgentId,
    epoch: String,
    sequence: u64,
    ledger_index: u64,
    tier: Tier,
    source: Source,
    ticks: u32,
    coverage: &'static str,
    /// Of the window, bounded by a counter and not measured.
    missing_ms: u64,
    /// Raw integrals by name; one that is not here is not known.
    counters: BTreeMap<&'static str, String>,
    /// What its readings looked like, by name; one that is not here could not be computed.
    features: BTreeMap<&'static str, i32>,
    /// Microseconds in which kernels of each holder were resident, by its attempt, where the driver tells them apart.
    uses: BTreeMap<String, u64>,
    /// Of the whole window, whoever held it.
    estimate: Amount,
}

pub(super) async fn windows(
    State(app): State<App>,
    asked: Result<Query<WindowsAsked>, QueryRejection>,
) -> Result<Json<Windows>, Problem> {
    let Query(WindowsAsked { accelerator, from, to }) = asked?;
    let span = Span::new(from, to).filter(|span| span.millis() <= UtcMillis::DAY.unsigned_abs());
    let span = span.ok_or_else(|| {
        Problem::unusable(format!("from {from} to {to}: expected more than nothing and at most a day"))
    })?;
    if app.shared.with(|state| !state.accelerators.contains_key(&accelerator)) {
        return Err(Problem::not_found("accelerator", accelerator.as_str()));
    }
    let hours: Vec<UtcMillis> =
        std::iter::successors(Some(from.hour()), |hour| Some(hour.plus(UtcMillis::HOUR)))
            .take_while(|hour| *hour < to)
            .collect();
    let keys: Vec<HourKey> =
        hours.iter().map(|hour| HourKey { accelerator: accelerator.clone(), hour: *hour }).collect();
    let closed = app.shared.with(|state| state.closed_before);
    let oldest = weighbridge_journal::oldest_segment(app.ledger.folder());
    let oldest = oldest.map_err(|error| Problem::failed(&error))?.unwrap_or(1);
    let mut places = BTreeMap::new();
    let mut agents = BTreeSet::new();
    for row in app.store.hours(&keys).await? {
        for agent in &row.hour.agents {
            for place in app.store.places(agent, row.key.hour).await? {
                // What an open hour lacks was said before it came, and is void.
                let is_open = closed.is_none_or(|closed| row.key.hour >= closed);
                if !is_open || place.segment >= oldest {
                    join(&mut places, place);
                }
            }
        }
        agents.extend(row.hour.agents);
    }
    let permit = READERS.acquire().await.map_err(|error| Problem::unavailable(&error))?;
    let as_of = app.now();
    let read = tokio::task::spawn_blocking(move || {
        let places: Vec<PlaceRow> = places.into_values().collect();
        let windows = read(&app, &accelerator, span, &places, &agents);
        drop(permit);
        windows.map(|(model, windows)| Windows { as_of, accelerator, from, to, model, windows })
    });
    Ok(Json(read.await.map_err(|error| Problem::failed(&error))?.map_err(|error| Problem::failed(&error))?))
}

/// One row a segment: hours follow each other there, so that reading them one by one would read it many times.
fn join(places: &mut BTreeMap<u64, PlaceRow>, place: PlaceRow) {
    let row = places.entry(place.segment).or_insert(place);
    if place.first_index < row.first_index {
        (row.first_index, row.first_offset) = (place.first_index, place.first_offset);
    }
    row.last_index = row.last_index.max(place.last_index);
}

fn read(
    app: &App,
    accelerator: &AcceleratorId,
    asked: Span,
    places: &[PlaceRow],
    agents: &BTreeSet<AgentId>,
) -> Result<(Option<String>, Vec<WindowJson>), weighbridge_journal::ReadError> {
    let (folder, end) = (app.ledger.folder(), app.stands());
    let table = app.estimator.table();
    let device = app.shared.with(|state| state.accelerators.get(accelerator).cloned());
    let hardware = |at| device.as_ref().map(|device| device.hardware(table, at)).unwrap_or_default();
    let mut windows = Vec::new();
    let mut visit = |place: Place, payload: &[u8]| {
        let Ok(Entry { body: Body::Batch(received), .. }) = Entry::decode(payload) else { return };
        let batch = Envelope::decode(&received.envelope).and_then(|envelope| envelope.read());
        // The fold has read every entry before this one, and stops at one that cannot be read.
        let Ok(batch) = batch else { return };
        if !agents.contains(&batch.agent) {
            return;
        }
        let minutes = app.shared.with(|state| state.offset_minutes(&batch.agent, batch.boot, place.index));
        let shift = minutes.saturating_mul(UtcMillis::MINUTE);
        for window in batch.windows.iter().filter(|window| window.accelerator == *accelerator) {
            let shifted = Span::new(window.span.start().plus(shift), window.span.end().plus(shift));
            let Some(span) = shifted.filter(|span| span.overlap(&asked).is_some()) else { continue };
            let missing_ms = match window.coverage {
                Coverage::Measured => 0,
                Coverage::Interpolated { missing_ms } => missing_ms,
            };
            let known = Counter::ALL
                .iter()
                .filter_map(|counter| Some((counter.as_str(), window.counters.get(*counter)?.to_string())));
            windows.push(WindowJson {
                start: span.start(),
                end: span.end(),
                boot_start_ms: window.boot_start_ms,
                clock_offset_minutes: minutes,
                agent: batch.agent.clone(),
                epoch: EpochId::to_string(&batch.epoch),
                sequence: batch.sequence,
                ledger_index: place.index,
                tier: window.tier,
                source: window.source,
                ticks: window.ticks,
                coverage: if missing_ms == 0 { "measured" } else { "interpolated" },
                missing_ms,
                counters: known.collect(),
                features: Feature::ALL
                    .iter()
                    .filter_map(|feature| Some((feature.as_str(), window.features.get(*feature)?)))
                    .collect(),
                uses: window.uses.iter().map(|told| (told.attempt.to_string(), told.busy_us)).collect(),
                estimate: Amount::from(&app.estimator.estimate(hardware(span.start()), window)),
            });
        }
    };
    for place in places {
        read_places(folder, place, end, &mut visit)?;
    }
    windows.sort_by_key(|window| (window.start, window.ledger_index));
    Ok((hardware(asked.end()).model.map(|model| model.name.to_string()), windows))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageAsked {
    accelerator: Option<AcceleratorId>,
    principal: Option<Principal>,
    from: Option<UtcMillis>,
    to: Option<UtcMillis>,
}

#[derive(Debug, Serialize)]
pub(super) struct Usage {
    as_of: UtcMillis,
    /// Ledger entries that the sums reflect.
    folded_entries: u64,
    rows: Vec<UsageRow>,
}

/// A row as the fold wrote it.
#[derive(Debug, Serialize)]
struct UsageRow {
    hour: UtcMillis,
    accelerator: AcceleratorId,
    /// `null`: nobody is known.
    principal: Option<Principal>,
    attempt: Option<AttemptId>,
    state: HeldState,
    #[serde(flatten)]
    amount: Amount,
    measured_ms: u64,
    interpolated_ms: u64,
    /// Sums of evidence of what kind of work it was, by name; one that is not here is zero.
    signs: BTreeMap<&'static str, i64>,
}

pub(super) async fn usage(
    State(app): State<App>,
    asked: Result<Query<UsageAsked>, QueryRejection>,
) -> Result<Json<Usage>, Problem> {
    let Query(UsageAsked { accelerator, principal, from, to }) = asked?;
    for (key, time) in [("from", from), ("to", to)] {
        if let Some(time) = time.filter(|time| time.hour() != *time) {
            return Err(Problem::unusable(format!("{key} is {time}, expected a whole UTC hour")));
        }
    }
    let folded_entries = app.stands().index;
    let sums = app.store.hourly(&Filter { from, to, accelerator, principal }).await?;
    if sums.len() > MOST_ROWS {
        let detail = format!(
            "{} rows, at most {MOST_ROWS} in one answer: narrow it by time or accelerator",
            sums.len()
        );
        return Err(Problem::unusable(detail));
    }
    let rows = sums.into_iter().map(|sum| {
        let (principal, attempt) = sum.usage.holder.unzip();
        UsageRow {
            hour: sum.hour,
            accelerator: sum.usage.accelerator,
            principal,
            attempt,
            state: sum.usage.state,
            amount: Amount::from(&sum.usage.sums),
            measured_ms: sum.usage.sums.measured_ms,
            interpolated_ms: sum.usage.sums.interpolated_ms,
            signs: Sign::ALL
                .iter()
                .map(|sign| (sign.as_str(), sum.usage.sums.signs.get(*sign)))
                .filter(|(_, value)| *value != 0)
                .collect(),
        }
    });
    Ok(Json(Usage { as_of: app.now(), folded_entries, rows: rows.collect() }))
}
