//! Holds what the collector says of an accelerator against what [`crate::pencil`] says.

use std::collections::BTreeMap;

use serde_json::Value;
use weighbridge_meter::{Span, UtcMillis};

use crate::{
    collector::{Collector, time},
    machine::Device,
    pencil::{self, Amount},
};

/// The windows of one accelerator: each exact, none overlapping another, none across an hour.
#[derive(Clone, Debug)]
pub struct Audited {
    /// In order of time.
    pub windows: Vec<Span>,
    /// What each of them amounts to, by the pencil where it is exact.
    pub amounts: Vec<Amount>,
    /// By hour: amount and milliseconds.
    pub hours: BTreeMap<UtcMillis, (Amount, u64)>,
    /// How many of them say less than usual: looks came so close together that the driver had nothing to look
    /// back on, as on a machine that is too busy. They are bounded, not exact.
    pub bounded: usize,
}

impl Audited {
    /// All hours together.
    pub fn total(&self) -> (Amount, u64) {
        let all = self.hours.values();
        all.fold((Amount::default(), 0), |sum, hour| (sum.0.plus(hour.0), sum.1 + hour.1))
    }

    /// Whether any window covers part of the time between these moments.
    pub fn covers(&self, from: UtcMillis, to: UtcMillis) -> Option<Span> {
        self.windows.iter().find(|window| window.start() < to && from < window.end()).copied()
    }
}

/// A count in an answer, as a decimal string or a number.
///
/// # Panics
/// If it is neither.
#[track_caller]
pub fn integer(value: &Value) -> u128 {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().unwrap_or_else(|_| panic!("{value} is not a whole number"))
}

/// Bounds and best in an answer.
///
/// # Panics
/// If they are not there.
#[track_caller]
pub fn amount(value: &Value) -> Amount {
    let of = |key: &str| integer(&value[key]);
    Amount { low: of("low_tera"), best: of("best_tera"), high: of("high_tera") }
}

/// All windows of the last hours.
///
/// # Panics
/// If any of them is not exactly what the device did, or, where it says that it does not know, bounds it.
#[track_caller]
pub fn windows(collector: &Collector, device: &Device) -> Audited {
    let to = crate::wait::now().plus(UtcMillis::HOUR);
    let from = to.plus(-3 * UtcMillis::HOUR);
    let answer = collector.get(&format!("windows?accelerator={}&from={from}&to={to}", device.uuid));
    assert_eq!(answer["model"], "H100 SXM5");
    let mut audited =
        Audited { windows: Vec::new(), amounts: Vec::new(), hours: BTreeMap::new(), bounded: 0 };
    for window in answer["windows"].as_array().expect("a list of windows") {
        let span = time(&window["start"]).and_then(|start| {
            Span::new(start, time(&window["end"])?).ok_or_else(|| "it ends before it starts".into())
        });
        let span = span.unwrap_or_else(|problem: String| panic!("{problem}: {window}"));
        let counter = |name: &str| integer(&window["counters"][name]);
        let (pencil, estimate) = (pencil::window(device, span.millis()), amount(&window["estimate"]));
        // Where the machine is slow a look may come without one of them: the window says less then, never less truly.
        let all = ["elapsed_cycles", "tensor_cycles", "busy_us"];
        if all.iter().any(|name| window["counters"][name].is_null()) {
            assert!(estimate.low <= pencil.low && pencil.high <= estimate.high, "{window}");
            audited.bounded += 1;
        } else {
            assert_eq!(counter("elapsed_cycles"), pencil::elapsed_cycles(device, span.millis()), "{window}");
            assert_eq!(counter("tensor_cycles"), pencil::tensor_cycles(device, span.millis()), "{window}");
            assert_eq!(counter("busy_us"), u128::from(span.millis()) * 1000, "{window}");
            assert_eq!(estimate, pencil, "{window}");
        }
        assert_eq!((&window["tier"], &window["coverage"]), (&"B".into(), &"measured".into()), "{window}");
        if let Some(before) = audited.windows.last() {
            assert!(
                before.end() <= span.start(),
                "two windows of {} overlap: {before:?}, {window}",
                device.uuid
            );
        }
        let hour = span.start().hour();
        assert!(span.end() <= hour.plus(UtcMillis::HOUR), "a window across an hour: {window}");
        let sum = audited.hours.entry(hour).or_default();
        *sum = (sum.0.plus(estimate), sum.1 + span.millis());
        audited.windows.push(span);
        audited.amounts.push(estimate);
    }
    audited
}

/// Best operations and milliseconds.
pub type Charged = (u128, u64);

/// What the windows of an accelerator come to by who held it when, `None` being nobody: each window divided by time,
/// as a collector divides one that a holder boundary falls into.
///
/// # Panics
/// If two held it at a time, or [`windows`] does.
#[track_caller]
pub fn charged<H: Clone + Ord>(
    collector: &Collector,
    device: &Device,
    held: &[(Span, H)],
) -> BTreeMap<Option<H>, Charged> {
    let mut totals: BTreeMap<Option<H>, Charged> = BTreeMap::new();
    let audited = windows(collector, device);
    for (window, whole) in audited.windows.into_iter().zip(&audited.amounts) {
        let whole = whole.best;
        let upto = |moment: UtcMillis| {
            let (part, all) = (moment.since(window.start()), window.millis());
            let part = u128::from(part.unsigned_abs());
            (whole * part + u128::from(all) / 2) / u128::from(all)
        };
        let mut add = |holder, from: UtcMillis, to: UtcMillis| {
            if from < to {
                let total = totals.entry(holder).or_default();
                total.0 += upto(to) - upto(from);
                total.1 += to.since(from).unsigned_abs();
            }
        };
        let mut here: Vec<&(Span, H)> =
            held.iter().filter(|(span, _)| span.overlap(&window).is_some()).collect();
        here.sort_by_key(|(span, _)| span.start());
        let mut at = window.start();
        for (span, holder) in here {
            let part = span.overlap(&window).expect("filtered");
            assert!(at <= part.start(), "two had {} at {at}", device.uuid);
            add(None, at, part.start());
            add(Some(holder.clone()), part.start(), part.end());
            at = part.end();
        }
        add(None, at, window.end());
    }
    totals
}

/// Windows, sums by hour and the division of time of one accelerator; agents must be stopped and the sums settled.
///
/// # Panics
/// If sums are not those of the windows, or time is missing or counted twice.
#[track_caller]
pub fn accelerator(collector: &Collector, device: &Device) -> Audited {
    let audited = windows(collector, device);
    let usage = collector.get(&format!("usage?accelerator={}", device.uuid));
    let mut folded: BTreeMap<UtcMillis, (Amount, u64)> = BTreeMap::new();
    for row in usage["rows"].as_array().expect("a list of sums") {
        let hour = time(&row["hour"]).unwrap_or_else(|problem| panic!("{problem}"));
        let sum = folded.entry(hour).or_default();
        let measured_ms = row["measured_ms"].as_u64().expect("milliseconds");
        assert_eq!(row["interpolated_ms"], 0, "nothing here has cumulative counters of work: {row}");
        *sum = (sum.0.plus(amount(row)), sum.1 + measured_ms);
    }
    assert_eq!(folded, audited.hours, "sums by hour of {}", device.uuid);

    let shown = collector.accelerator(&device.uuid).unwrap_or_else(|problem| panic!("{problem}"));
    let (total, measured_ms) = audited.total();
    assert_eq!(amount(&shown["measured"]), total, "{shown}");
    let account = &shown["time"];
    let millis = |key: &str| account[key].as_u64().unwrap_or_else(|| panic!("no {key} in {shown}"));
    let sum = |key: &str| -> u64 {
        let parts = account[key].as_object().unwrap_or_else(|| panic!("no {key} in {shown}"));
        parts.values().filter_map(Value::as_u64).sum()
    };
    assert_eq!(millis("measured_ms"), measured_ms, "what is covered is the union of the windows: {shown}");
    let wall_ms = millis("wall_ms");
    assert_eq!(wall_ms, millis("measured_ms") + millis("interpolated_ms") + sum("gap_ms"), "{shown}");
    assert_eq!(wall_ms, sum("held_ms"), "{shown}");
    // The fleet's moment is not in the row: all of it lies between first seen and now, and not much before now.
    let first = time(&shown["first_seen"]).unwrap_or_else(|problem| panic!("{problem}"));
    let age = crate::wait::now().since(first).unsigned_abs();
    assert!(
        wall_ms <= age && age - wall_ms < 10_000,
        "wall time {wall_ms} ms, first seen {age} ms ago: {shown}"
    );
    assert!(audited.windows.first().is_none_or(|window| first <= window.start()), "{shown}");
    audited
}
