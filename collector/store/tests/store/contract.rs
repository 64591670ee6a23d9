//! What every store of usage promises, run against every store there is.

use std::collections::BTreeSet;

use proptest::prelude::*;
use weighbridge_meter::{
    Calibrated, EpochId, GapCause, Interval, Operations, Principal, Signs, Source, UtcMillis,
};
use weighbridge_store::{
    Applied, CoverageSum, Filter, Folded, Place, RecordRow, SqliteStore, StoreError, UsageStore, UsageSum,
    hour::{HeldState, Hour, HourKey, HourRow, Relabel, Spans, Sums, UsageKey},
    numbers::Numbers,
    state::{CursorRow, PlaceRow, StateRow, kind},
    witness::{Teller, Witness, WitnessedHour},
};

use weighbridge_wire::LossCause;

use crate::support::{agent, at, gpu, span};

const HOUR: i64 = UtcMillis::HOUR;

/// Every promise as a test of one store; `open` makes an empty one.
macro_rules! usage_store_contract {
    ($store:ident: $($promise:ident),+ $(,)?) => {
        mod $store {
            $(
                #[tokio::test]
                async fn $promise() {
                    super::$promise(super::open::$store().await).await;
                }
            )+
        }
    };
    ($store:ident) => {
        usage_store_contract!($store:
            applying_twice_changes_nothing,
            a_hole_is_refused_and_nothing_is_written,
            a_piece_that_overlaps_what_is_in_moves_on,
            a_piece_is_all_or_nothing,
            hours_put_ahead_move_nothing_and_their_piece_replaces_them,
            an_empty_store_stands_before_the_first_entry,
            hours_read_back_as_written_and_are_replaced_whole,
            relabelled_hours_keep_their_sums_under_another_name,
            an_hour_that_is_written_with_a_relabel_has_its_last_name_already,
            sums_that_get_the_name_of_others_add_up,
            state_and_cursors_read_back_as_they_are_now,
            places_of_a_segment_are_one_row_that_grows,
            records_read_back_in_order_of_the_ledger,
            sums_add_up_over_hours_by_holder_and_state,
            filters_cut_by_hour_accelerator_and_principal,
            coverage_counts_each_millisecond_of_a_gap_once,
            witnesses_read_back_and_those_that_disagree_are_found,
            more_rows_than_one_statement_takes_are_written_and_read,
            the_largest_amounts_fit,
            equal_content_has_equal_fingerprints_and_other_content_has_not,
        );
    };
}

usage_store_contract!(sqlite);

mod open {
    use super::SqliteStore;

    pub(super) async fn sqlite() -> SqliteStore {
        SqliteStore::in_memory().await.unwrap()
    }
}

fn place(index: u64) -> Place {
    Place { index, segment: 1, offset: 60 + index * 100 }
}

fn piece(begins: u64, ends: u64) -> Folded {
    Folded {
        begins: place(begins),
        ends: place(ends),
        relabels: Vec::new(),
        hours: Vec::new(),
        state: Vec::new(),
        cursors: Vec::new(),
        places: Vec::new(),
        records: Vec::new(),
    }
}

fn sums(tera: u64, measured_ms: u64, interpolated_ms: u64) -> Sums {
    let operations = |tera| Operations::from_tera(tera).unwrap();
    Sums {
        bound: Interval::new(operations(tera / 2), operations(tera), operations(tera * 2)).unwrap(),
        calibrated: Calibrated::new(operations(tera / 2 + 1), operations(tera + 1)).unwrap(),
        measured_ms,
        interpolated_ms,
        signs: signs(measured_ms + interpolated_ms),
    }
}

/// As of a window so long.
fn signs(millis: u64) -> Signs {
    let length = millis.clamp(1, 3_600_000).cast_signed();
    Signs::of(&Default::default(), &crate::support::window(0, span(0, length), 500))
}

fn witness(says: u64) -> Witness {
    let operations = |tera| Operations::from_tera(tera).unwrap();
    let bound = |tera| Interval::new(operations(tera), operations(tera + 1), operations(tera + 2)).unwrap();
    let teller = |number, source| Teller { agent: agent(number), source };
    Witness {
        counted: teller(1, Source::Redfish),
        witness: teller(0, Source::Nvml),
        compared_ms: 1_800_000,
        counted_bound: bound(10),
        witness_bound: bound(says),
    }
}

fn usage_key(holder: &str, state: HeldState) -> UsageKey {
    let holder = (!holder.is_empty()).then(|| (holder.parse().unwrap(), "try-1".parse().unwrap()));
    UsageKey { holder, state }
}

/// `number` covers its first `seconds`, all of it for one holder.
fn hour(number: u8, hours: i64, holder: &str, seconds: i64, tera: u64) -> HourRow {
    let mut hour = Hour::default();
    hour.covered.insert(span(hours * HOUR, hours * HOUR + seconds * 1000));
    hour.agents.insert(agent(0));
    let state = if holder.is_empty() { HeldState::Unattributed } else { HeldState::Attributed };
    let millis = seconds.unsigned_abs() * 1000;
    hour.usage.insert(usage_key(holder, state), sums(tera, millis - 100, 100));
    HourRow { key: HourKey { accelerator: gpu(number), hour: at(hours * HOUR) }, hour }
}

fn keys(rows: &[HourRow]) -> Vec<HourKey> {
    rows.iter().map(|row| row.key.clone()).collect()
}

/// With these numbers, those lost, and measured in the first minutes.
fn cursor(number: u8, epoch: u8, run: std::ops::RangeInclusive<u64>, lost: &[u64]) -> CursorRow {
    let mut numbers = Numbers::default();
    run.for_each(|one| numbers.take(one, [1; 32], [u8::try_from(one).unwrap(); 32]));
    for one in lost {
        numbers.lose(*one, *one, LossCause::Parked);
    }
    let (measured, received) = (Some((at(0), at(60_000))), Some((at(70_000), at(80_000))));
    CursorRow { agent: agent(number), epoch: EpochId([epoch; 16]), numbers, measured, received }
}

/// Something in every table.
fn full(begins: u64) -> Folded {
    let mut piece = piece(begins, begins + 5);
    piece.hours.push(hour(0, 0, "uid:gpu/1000", 60, 7));
    piece.hours[0].hour.gaps.insert(GapCause::DeviceLost, Spans::from_pairs([(at(0).0, at(90_000).0)]));
    piece.state.push(StateRow { kind: kind::METHOD, key: String::new(), body: r#"["a","b"]"#.into() });
    piece.cursors.push(cursor(0, 1, 1..=3, &[5]));
    let row = PlaceRow { segment: 1, first_index: begins, first_offset: 60, last_index: begins + 4 };
    piece.places.push((agent(0), at(0), row));
    let body = serde_json::json!({ "name": "sealed" });
    let row = RecordRow { key: "customer-1".into(), index: begins, received: at(-1), body };
    piece.records.push(("customer".into(), row));
    piece
}

async fn applying_twice_changes_nothing(store: impl UsageStore) {
    let piece = full(1);
    assert_eq!(store.apply(&piece).await.unwrap(), Applied::Now);
    let before = store.fingerprint().await.unwrap();
    assert_eq!(store.stands().await.unwrap(), place(6));
    assert_eq!(store.apply(&piece).await.unwrap(), Applied::AlreadyIn);
    assert_eq!(store.fingerprint().await.unwrap(), before);
    assert_eq!(store.stands().await.unwrap(), place(6));
}

async fn a_hole_is_refused_and_nothing_is_written(store: impl UsageStore) {
    let empty = store.fingerprint().await.unwrap();
    let refused = store.apply(&full(2)).await;
    assert!(matches!(refused, Err(StoreError::Hole { stands: 1, begins: 2 })), "{refused:?}");
    assert_eq!(store.fingerprint().await.unwrap(), empty);
    store.apply(&full(1)).await.unwrap();
    let before = store.fingerprint().await.unwrap();
    let refused = store.apply(&full(7)).await;
    assert!(matches!(refused, Err(StoreError::Hole { stands: 6, begins: 7 })), "{refused:?}");
    assert_eq!(store.fingerprint().await.unwrap(), before);
    assert_eq!(store.stands().await.unwrap(), place(6));
}

async fn a_piece_that_overlaps_what_is_in_moves_on(store: impl UsageStore) {
    store.apply(&full(1)).await.unwrap();
    assert_eq!(store.apply(&Folded { ends: place(9), ..full(1) }).await.unwrap(), Applied::Now);
    assert_eq!(store.stands().await.unwrap(), place(9));
    assert_eq!(store.records("customer").await.unwrap().len(), 1, "a record is there once");
}

async fn a_piece_is_all_or_nothing(store: impl UsageStore) {
    store.apply(&full(1)).await.unwrap();
    let before = store.fingerprint().await.unwrap();
    let mut bad = full(6);
    bad.hours = vec![hour(0, 0, "lease:site/1", 120, 9), hour(1, 0, "", 60, 9), hour(1, 0, "", 60, 9)];
    assert!(store.apply(&bad).await.is_err(), "the same sums twice in one piece");
    assert_eq!(store.fingerprint().await.unwrap(), before);
    assert_eq!(store.stands().await.unwrap(), place(6));
    bad.hours.pop();
    assert_eq!(store.apply(&bad).await.unwrap(), Applied::Now);
}

async fn hours_put_ahead_move_nothing_and_their_piece_replaces_them(store: impl UsageStore) {
    store.apply(&full(1)).await.unwrap();
    let ahead = vec![hour(0, 0, "lease:site/1", 120, 9), hour(1, 3, "", 60, 4)];
    store.put_hours(&ahead).await.unwrap();
    assert_eq!(store.stands().await.unwrap(), place(6));
    assert_eq!(store.hours(&keys(&ahead)).await.unwrap(), ahead);
    let mut piece = piece(6, 7);
    piece.hours = vec![hour(0, 0, "", 90, 2), hour(1, 3, "", 60, 5)];
    store.apply(&piece).await.unwrap();
    assert_eq!(store.hours(&keys(&ahead)).await.unwrap(), piece.hours);
}

async fn an_empty_store_stands_before_the_first_entry(store: impl UsageStore) {
    assert_eq!(store.stands().await.unwrap().index, 0);
    assert!(store.state().await.unwrap().is_empty());
    assert!(store.cursors().await.unwrap().is_empty());
    assert!(store.hours(&[]).await.unwrap().is_empty());
    assert!(store.places(&agent(0), at(0)).await.unwrap().is_empty());
    assert!(store.sums(&Filter::default()).await.unwrap().is_empty());
    assert!(store.coverage(&Filter::default()).await.unwrap().is_empty());
    assert!(store.records("customer").await.unwrap().is_empty());
}

async fn hours_read_back_as_written_and_are_replaced_whole(store: impl UsageStore) {
    let mut first = piece(1, 2);
    first.hours = vec![hour(0, 0, "uid:gpu/1000", 60, 7), hour(1, -1, "", 3600, 0)];
    let one = &mut first.hours[0].hour;
    one.covered.insert(span(100_000, 200_000));
    one.gaps.insert(GapCause::CallHung, Spans::from_pairs([(at(0).0, at(9).0), (at(20).0, at(30).0)]));
    one.agents = BTreeSet::from([agent(0), agent(1)]);
    for state in HeldState::ALL {
        one.usage.insert(usage_key("", state), sums(3, 4, 5));
        one.usage.insert(usage_key("lease:site/1", state), sums(5, 6, 7));
    }
    store.apply(&first).await.unwrap();
    let mut asked = keys(&first.hours);
    asked.push(HourKey { accelerator: gpu(9), hour: at(0) });
    assert_eq!(store.hours(&asked).await.unwrap(), first.hours, "and what is not there is not invented");
    assert_eq!(store.hours(&asked[1..]).await.unwrap(), first.hours[1..]);

    let mut second = piece(2, 3);
    second.hours = vec![hour(0, 0, "lease:site/2", 30, 1)];
    store.apply(&second).await.unwrap();
    assert_eq!(store.hours(&asked[..1]).await.unwrap(), second.hours, "nothing of the old sums is left");
    assert_eq!(store.hours(&asked[1..]).await.unwrap(), first.hours[1..], "and other hours are as before");
    let gaps = store.coverage(&Filter { accelerator: Some(gpu(0)), ..Filter::default() }).await.unwrap();
    assert!(gaps[0].gaps.is_empty());
}

fn relabel(hours: std::ops::Range<i64>, before: &str, after: &str) -> Relabel {
    let holder = |name: &str| usage_key(name, HeldState::Free).holder;
    let hours = span(hours.start * HOUR, hours.end * HOUR);
    Relabel { accelerator: gpu(0), hours, before: holder(before), after: holder(after) }
}

/// An hour in which one, or nobody, used it and left it idle.
fn held_by(number: u8, hours: i64, holder: &str) -> HourRow {
    let mut row = hour(number, hours, holder, 1800, 10);
    row.hour.usage.clear();
    for (state, tera) in
        Relabel::states(usage_key(holder, HeldState::Free).holder.as_ref()).into_iter().zip([10, 3])
    {
        row.hour.usage.insert(usage_key(holder, state), sums(tera, 900_000, 0));
    }
    row
}

async fn relabelled_hours_keep_their_sums_under_another_name(store: impl UsageStore) {
    let held = [
        held_by(0, 0, ""),
        held_by(0, 1, ""),
        held_by(0, 2, ""),
        held_by(0, 3, "uid:gpu/1"),
        held_by(1, 1, ""),
    ];
    let first = Folded { hours: held.to_vec(), ..piece(1, 2) };
    store.apply(&first).await.unwrap();
    let there = async || store.hours(&keys(&first.hours)).await.unwrap();
    let relabels = vec![relabel(1..4, "", "uid:gpu/2"), relabel(2..4, "uid:gpu/2", "uid:gpu/3")];
    store.apply(&Folded { relabels, ..piece(2, 3) }).await.unwrap();
    let mut expected = vec![
        held_by(0, 0, ""),
        held_by(0, 1, "uid:gpu/2"),
        held_by(0, 2, "uid:gpu/3"),
        held_by(0, 3, "uid:gpu/1"),
        held_by(1, 1, ""),
    ];
    assert_eq!(there().await, expected, "only what was of the one before, in their order");
    let fresh = SqliteStore::in_memory().await.unwrap();
    fresh.apply(&Folded { hours: expected.clone(), ..piece(1, 3) }).await.unwrap();
    assert_eq!(store.fingerprint().await.unwrap(), fresh.fingerprint().await.unwrap());
    let relabels = vec![relabel(1..2, "uid:gpu/2", "")];
    store.apply(&Folded { relabels, ..piece(3, 4) }).await.unwrap();
    expected[1] = held_by(0, 1, "");
    assert_eq!(there().await, expected);
}

async fn an_hour_that_is_written_with_a_relabel_has_its_last_name_already(store: impl UsageStore) {
    store.apply(&Folded { hours: vec![held_by(0, 0, "uid:gpu/1")], ..piece(1, 2) }).await.unwrap();
    let hours = vec![held_by(0, 0, "uid:gpu/1"), held_by(0, 1, "uid:gpu/1")];
    let relabels = vec![relabel(0..2, "uid:gpu/1", "uid:gpu/2")];
    store.apply(&Folded { hours: hours.clone(), relabels, ..piece(2, 3) }).await.unwrap();
    assert_eq!(store.hours(&keys(&hours)).await.unwrap(), hours);
}

async fn sums_that_get_the_name_of_others_add_up(store: impl UsageStore) {
    let mut both = held_by(0, 0, "uid:gpu/1");
    both.hour.usage.extend(held_by(0, 0, "uid:gpu/2").hour.usage);
    store.apply(&Folded { hours: vec![both.clone()], ..piece(1, 2) }).await.unwrap();
    let relabel = relabel(0..1, "uid:gpu/1", "uid:gpu/2");
    store.apply(&Folded { relabels: vec![relabel.clone()], ..piece(2, 3) }).await.unwrap();
    both.hour.relabel(&relabel);
    assert_eq!(both.hour.usage.len(), 2, "used and idle");
    assert_eq!(store.hours(&keys(&[both.clone()])).await.unwrap(), [both]);
}

async fn state_and_cursors_read_back_as_they_are_now(store: impl UsageStore) {
    let mut first = piece(1, 2);
    let row = |kind, key: &str, body: &str| StateRow { kind, key: key.into(), body: body.into() };
    for kind in kind::ALL {
        first.state.extend([row(kind, "a", "1"), row(kind, "b 'quoted' é", "2")]);
    }
    first.cursors = vec![cursor(0, 1, 1..=3, &[5, 9]), cursor(0, 2, 4..=4, &[2]), cursor(1, 1, 1..=7, &[])];
    store.apply(&first).await.unwrap();
    let mut second = piece(2, 3);
    second.state.push(row(kind::LEASE, "a", "changed"));
    second.cursors.push(cursor(0, 1, 1..=9, &[]));
    store.apply(&second).await.unwrap();

    let mut expected = first.state;
    expected.iter_mut().filter(|row| row.kind == kind::LEASE && row.key == "a").for_each(|row| {
        row.body = "changed".into();
    });
    expected.sort_by_key(|row| (row.kind, row.key.clone()));
    let mut found = store.state().await.unwrap();
    found.sort_by_key(|row| (row.kind, row.key.clone()));
    assert_eq!(found, expected);
    let mut found = store.cursors().await.unwrap();
    found.sort_by_key(|row| (row.agent.clone(), row.epoch));
    assert_eq!(found, [cursor(0, 1, 1..=9, &[]), cursor(0, 2, 4..=4, &[2]), cursor(1, 1, 1..=7, &[])]);
}

async fn places_of_a_segment_are_one_row_that_grows(store: impl UsageStore) {
    let row = |segment, first_index, last_index| PlaceRow {
        segment,
        first_index,
        first_offset: first_index * 10,
        last_index,
    };
    let apply = async |begins, rows: &[PlaceRow]| {
        let mut piece = piece(begins, begins + 1);
        piece.places = rows.iter().map(|row| (agent(0), at(0), *row)).collect();
        piece.places.push((agent(1), at(0), row(1, 77, 78)));
        piece.places.push((agent(0), at(HOUR), row(1, 99, 100)));
        store.apply(&piece).await.unwrap();
    };
    apply(1, &[row(2, 40, 50)]).await;
    apply(2, &[row(1, 3, 9)]).await;
    apply(3, &[row(1, 10, 12), row(2, 51, 51)]).await;
    apply(4, &[row(1, 4, 5)]).await;
    assert_eq!(store.places(&agent(0), at(0)).await.unwrap(), [row(1, 3, 12), row(2, 40, 51)]);
    assert_eq!(store.places(&agent(1), at(0)).await.unwrap(), [row(1, 77, 78)]);
    assert_eq!(store.places(&agent(0), at(HOUR)).await.unwrap(), [row(1, 99, 100)]);
}

async fn records_read_back_in_order_of_the_ledger(store: impl UsageStore) {
    let row = |key: &str, index: u64| RecordRow {
        key: key.into(),
        index,
        received: at(index.cast_signed()),
        body: serde_json::json!({ "index": index, "text": "é'\"\n", "share": 0.1 }),
    };
    let mut piece = piece(1, 100);
    let rows = [row("z", 2), row("a", 10), row("z", 11), row("m", 99)];
    for row in rows.iter().rev() {
        piece.records.push(("customer".into(), row.clone()));
    }
    piece.records.push(("case".into(), row("z", 5)));
    store.apply(&piece).await.unwrap();
    assert_eq!(store.records("customer").await.unwrap(), rows);
    assert_eq!(store.records("case").await.unwrap(), [row("z", 5)]);
    assert!(store.records("pack").await.unwrap().is_empty());
}

async fn sums_add_up_over_hours_by_holder_and_state(store: impl UsageStore) {
    let mut piece = piece(1, 2);
    piece.hours =
        vec![hour(0, 0, "uid:gpu/1000", 60, 8), hour(0, 1, "uid:gpu/1000", 30, 4), hour(0, 2, "", 10, 2)];
    let idle = usage_key("uid:gpu/1000", HeldState::IdleHeld);
    piece.hours[1].hour.usage.insert(idle, sums(1, 5, 0));
    store.apply(&piece).await.unwrap();
    let of = |holder: &str, state, sums: Sums| {
        let key = usage_key(holder, state);
        UsageSum { accelerator: gpu(0), holder: key.holder, state: key.state, sums }
    };
    let mut both = sums(8, 59_900, 100);
    both.merge(&sums(4, 29_900, 100));
    let expected = [
        of("", HeldState::Unattributed, sums(2, 9_900, 100)),
        of("uid:gpu/1000", HeldState::Attributed, both),
        of("uid:gpu/1000", HeldState::IdleHeld, sums(1, 5, 0)),
    ];
    assert_eq!(store.sums(&Filter::default()).await.unwrap(), expected);
    let hourly = store.hourly(&Filter::default()).await.unwrap();
    let hours: Vec<_> = hourly.iter().map(|row| (row.hour, row.usage.sums.bound.best().tera())).collect();
    assert_eq!(hours, [(at(0), 8), (at(HOUR), 4), (at(HOUR), 1), (at(2 * HOUR), 2)]);
    let sum: u64 = hourly.iter().map(|row| row.usage.sums.measured_ms).sum();
    assert_eq!(sum, expected.iter().map(|row| row.sums.measured_ms).sum::<u64>());
}

async fn filters_cut_by_hour_accelerator_and_principal(store: impl UsageStore) {
    let mut piece = piece(1, 2);
    for number in 0..3 {
        for hours in 0..3_u8 {
            let holder = ["uid:gpu/1000", "lease:site/1", ""][usize::from(hours)];
            piece.hours.push(hour(number, hours.into(), holder, 60, 1 << (number * 3 + hours)));
        }
    }
    store.apply(&piece).await.unwrap();
    // One bit for each accelerator and hour tells what a filter let through.
    let bits = async |filter: &Filter| {
        let sums = store.sums(filter).await.unwrap();
        let hourly = store.hourly(filter).await.unwrap();
        let of_sums: u64 = sums.iter().map(|row| row.sums.bound.best().tera()).sum();
        let of_hourly: u64 = hourly.iter().map(|row| row.usage.sums.bound.best().tera()).sum();
        assert_eq!(of_sums, of_hourly);
        let covered: u64 = store.coverage(filter).await.unwrap().iter().map(|row| row.measured_ms).sum();
        (of_sums, covered / 59_900)
    };
    let uid: Principal = "uid:gpu/1000".parse().unwrap();
    let all = Filter::default();
    assert_eq!(bits(&all).await, (0b111_111_111, 9));
    assert_eq!(bits(&Filter { from: Some(at(HOUR)), ..all.clone() }).await, (0b110_110_110, 6));
    assert_eq!(bits(&Filter { to: Some(at(HOUR)), ..all.clone() }).await, (0b001_001_001, 3));
    let middle = Filter { from: Some(at(HOUR)), to: Some(at(2 * HOUR)), ..all.clone() };
    assert_eq!(bits(&middle).await, (0b010_010_010, 3));
    assert_eq!(bits(&Filter { accelerator: Some(gpu(1)), ..middle.clone() }).await, (0b000_010_000, 1));
    assert_eq!(bits(&Filter { accelerator: Some(gpu(9)), ..all.clone() }).await, (0, 0));
    // Whoever held it, the time was covered.
    assert_eq!(bits(&Filter { principal: Some(uid.clone()), ..all.clone() }).await, (0b001_001_001, 9));
    assert_eq!(bits(&Filter { principal: Some(uid), ..middle }).await, (0, 3));
}

async fn coverage_counts_each_millisecond_of_a_gap_once(store: impl UsageStore) {
    let mut piece = piece(1, 2);
    piece.hours = vec![hour(0, 0, "", 60, 1), hour(0, 1, "", 60, 1), hour(1, 0, "", 60, 1)];
    let gaps = &mut piece.hours[0].hour.gaps;
    gaps.insert(GapCause::DeviceLost, Spans::from_pairs([(at(50_000).0, at(70_000).0)]));
    gaps.insert(GapCause::CallHung, Spans::from_pairs([(at(65_000).0, at(75_000).0)]));
    let again = Spans::from_pairs([(at(HOUR + 60_000).0, at(HOUR + 61_000).0)]);
    piece.hours[1].hour.gaps.insert(GapCause::DeviceLost, again);
    store.apply(&piece).await.unwrap();
    let of = |number, measured_ms, interpolated_ms, gaps: &[(GapCause, u64)]| CoverageSum {
        accelerator: gpu(number),
        measured_ms,
        interpolated_ms,
        gaps: gaps.to_vec(),
    };
    let mut found = store.coverage(&Filter::default()).await.unwrap();
    found.iter_mut().for_each(|row| row.gaps.sort_unstable());
    let gaps = [(GapCause::DeviceLost, 11_000), (GapCause::CallHung, 5_000)];
    assert_eq!(found, [of(0, 119_800, 200, &gaps), of(1, 59_900, 100, &[])]);
}

async fn witnesses_read_back_and_those_that_disagree_are_found(store: impl UsageStore) {
    let mut piece = piece(1, 2);
    piece.hours = (0..3).map(|hours| hour(0, hours, "", 60, 1)).collect();
    piece.hours.push(hour(1, 1, "", 60, 1));
    // 10 to 12 counted: what says up to 9, or from 13 on, cannot be true too.
    piece.hours[0].hour.witnesses = vec![witness(8)];
    piece.hours[1].hour.witnesses = vec![witness(8), witness(7)];
    piece.hours[3].hour.witnesses = vec![witness(12), witness(13)];
    store.apply(&piece).await.unwrap();
    assert_eq!(store.hours(&keys(&piece.hours)).await.unwrap(), piece.hours);
    let said = |number, hours, says| WitnessedHour {
        accelerator: gpu(number),
        hour: at(hours * HOUR),
        witness: witness(says),
    };
    let all = Filter::default();
    assert_eq!(store.disagreements(&all).await.unwrap(), [said(0, 1, 7), said(1, 1, 13)]);
    let of_one = Filter { accelerator: Some(gpu(1)), ..all.clone() };
    assert_eq!(store.disagreements(&of_one).await.unwrap(), [said(1, 1, 13)]);
    assert_eq!(store.disagreements(&Filter { to: Some(at(HOUR)), ..all.clone() }).await.unwrap(), []);
    // Made anew without its witnesses, an hour has none.
    let mut anew = self::piece(2, 3);
    anew.hours.push(hour(1, 1, "", 60, 1));
    store.apply(&anew).await.unwrap();
    assert_eq!(store.disagreements(&all).await.unwrap(), [said(0, 1, 7)]);
}

async fn more_rows_than_one_statement_takes_are_written_and_read(store: impl UsageStore) {
    let mut piece = piece(1, 5000);
    for number in 0..1_300_u64 {
        let mut row = hour(0, 0, "uid:gpu/1000", 60, 1);
        row.key.accelerator = format!("GPU-{number:04}").parse().unwrap();
        row.hour.usage.insert(usage_key("", HeldState::Free), sums(1, 1, 0));
        row.hour.gaps.insert(GapCause::CallHung, Spans::from_pairs([(at(60_000).0, at(61_000).0)]));
        piece.hours.push(row);
        piece.state.push(StateRow { kind: kind::HELD, key: format!("{number:04}"), body: "1".into() });
        let row = PlaceRow { segment: number, first_index: 1, first_offset: 1, last_index: 1 };
        piece.places.push((agent(0), at(0), row));
        let (key, body) = (number.to_string(), serde_json::Value::Null);
        piece.records.push(("case".into(), RecordRow { key, index: number + 1, received: at(0), body }));
        let agent = format!("agent-{number:04}").parse().unwrap();
        piece.cursors.push(CursorRow { agent, ..cursor(0, 1, 1..=1, &[]) });
    }
    store.apply(&piece).await.unwrap();
    assert_eq!(store.hours(&keys(&piece.hours)).await.unwrap(), piece.hours);
    assert_eq!(store.sums(&Filter::default()).await.unwrap().len(), 2_600);
    assert_eq!(store.state().await.unwrap().len(), 1_300);
    assert_eq!(store.places(&agent(0), at(0)).await.unwrap().len(), 1_300);
    assert_eq!(store.records("case").await.unwrap().len(), 1_300);
    assert_eq!(store.cursors().await.unwrap().len(), 1_300);
    // And all of it is replaced again.
    piece.begins = place(5000);
    piece.ends = place(5001);
    piece.hours.iter_mut().for_each(|row| row.hour.usage.retain(|key, _| key.holder.is_none()));
    store.apply(&piece).await.unwrap();
    assert_eq!(store.hours(&keys(&piece.hours)).await.unwrap(), piece.hours);
}

async fn the_largest_amounts_fit(store: impl UsageStore) {
    let mut piece = piece(1, 2);
    piece.hours.push(hour(0, 0, "", 60, 0));
    let most = Sums {
        bound: Interval::exact(Operations::MAX),
        calibrated: Calibrated::new(Operations::MAX, Operations::MAX).unwrap(),
        measured_ms: 3_600_000,
        interpolated_ms: 0,
        signs: Signs::default(),
    };
    piece.hours[0].hour.usage = [(usage_key("", HeldState::Free), most)].into();
    piece.ends = Place { index: i64::MAX.unsigned_abs(), segment: 1 << 62, offset: 1 << 62 };
    store.apply(&piece).await.unwrap();
    assert_eq!(store.hours(&keys(&piece.hours)).await.unwrap(), piece.hours);
    assert_eq!(store.sums(&Filter::default()).await.unwrap()[0].sums, most);
    let stands = store.stands().await.unwrap();
    assert_eq!((stands.index, stands.segment, stands.offset), (i64::MAX.unsigned_abs(), 1 << 62, 1 << 62));
}

async fn equal_content_has_equal_fingerprints_and_other_content_has_not(store: impl UsageStore) {
    let mut prints = vec![store.fingerprint().await.unwrap()];
    store.apply(&full(1)).await.unwrap();
    prints.push(store.fingerprint().await.unwrap());
    let changes: [fn(&mut Folded); 9] = [
        |piece| piece.hours.push(hour(0, 0, "uid:gpu/1000", 60, 8)),
        |piece| piece.hours.push(hour(0, 0, "uid:gpu/1000", 61, 8)),
        |piece| piece.hours.push(hour(0, 0, "", 61, 8)),
        |piece| {
            piece.hours.push(hour(0, 0, "", 61, 8));
            piece.hours[0].hour.witnesses.push(witness(8));
        },
        |piece| {
            piece.hours.push(hour(0, 0, "", 61, 8));
            piece.hours[0].hour.usage.values_mut().for_each(|sums| sums.signs.merge(&signs(5)));
        },
        |piece| piece.state = vec![StateRow { kind: kind::METHOD, key: String::new(), body: "[]".into() }],
        |piece| piece.cursors.push(cursor(0, 1, 1..=5, &[])),
        |piece| {
            let row = PlaceRow { segment: 9, first_index: 1, first_offset: 1, last_index: 1 };
            piece.places.push((agent(0), at(0), row));
        },
        |piece| {
            let (key, body) = ("customer-2".into(), serde_json::Value::Null);
            piece.records.push(("customer".into(), RecordRow { key, index: 9, received: at(0), body }));
        },
    ];
    for (begins, change) in (6..).zip(changes) {
        let mut piece = piece(begins, begins + 1);
        change(&mut piece);
        store.apply(&piece).await.unwrap();
        let print = store.fingerprint().await.unwrap();
        assert!(!prints.contains(&print), "change {begins} does not show");
        assert_eq!(store.fingerprint().await.unwrap(), print);
        prints.push(print);
    }
}

/// What only SQL can do to a store: somebody writes into it.
mod by_hand {
    use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

    use super::*;

    async fn store_with(change: &str) -> (tempfile::TempDir, SqliteStore) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("usage.sqlite");
        let store = SqliteStore::open(&file).await.unwrap();
        store.apply(&full(1)).await.unwrap();
        let mut by_hand =
            SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&file)).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(change.to_owned())).execute(&mut by_hand).await.unwrap();
        by_hand.close().await.unwrap();
        (dir, store)
    }

    async fn read_all(store: &SqliteStore) -> Result<(), StoreError> {
        store.stands().await?;
        let mut state = weighbridge_store::State::default();
        for row in store.state().await? {
            state.absorb(&row)?;
        }
        store.cursors().await?;
        store.hours(&keys(&full(1).hours)).await?;
        store.places(&agent(0), at(0)).await?;
        store.sums(&Filter::default()).await?;
        store.hourly(&Filter::default()).await?;
        store.coverage(&Filter::default()).await?;
        store.disagreements(&Filter::default()).await?;
        store.records("customer").await.map(drop)
    }

    #[tokio::test]
    async fn nonsense_in_a_column_is_an_error_that_names_table_and_column() {
        let cases = [
            ("position", "entry_index", "-1"),
            ("position", "segment", "'text'"),
            ("hour", "covered", "'not json'"),
            ("hour", "gaps", "'{\"no such cause\":[]}'"),
            ("hour", "agents", "'[\"with blank \"]'"),
            ("hour", "measured_ms", "-1"),
            ("hour", "interpolated_ms", "-5"),
            ("hour", "witnesses", "'[{}]'"),
            ("gap", "cause", "'no such cause'"),
            ("gap", "millis", "-1"),
            ("usage", "low_tera", "-1"),
            ("usage", "best_tera", "1000000"),
            ("usage", "calibrated_low_tera", "1000000"),
            ("usage", "state", "'no such state'"),
            ("usage", "principal", "'nobody'"),
            ("usage", "attempt", "''"),
            ("usage", "measured_ms", "-1"),
            ("usage", "signs", "'[1,'"),
            ("state", "kind", "'no such kind'"),
            ("state", "body", "'not json'"),
            ("agent_cursor", "epoch", "'short'"),
            ("agent_cursor", "numbers", "'{\"runs\":[[0,3,\"\",\"\"]],\"lost\":[]}'"),
            ("agent_cursor", "measured", "'{}'"),
            ("agent_cursor", "received", "'[1]'"),
            ("place", "first_offset", "-1"),
            ("record", "body", "'not json'"),
        ];
        for (expected_table, expected_column, value) in cases {
            let change = format!("UPDATE {expected_table} SET {expected_column} = {value}");
            let (_dir, store) = store_with(&change).await;
            match read_all(&store).await {
                Err(StoreError::Nonsense { table, column, .. }) => {
                    assert_eq!((table, column), (expected_table, expected_column));
                }
                other => panic!("{change}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_file_reads_back_after_it_was_closed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("usage.sqlite");
        let store = SqliteStore::open(&file).await.unwrap();
        store.apply(&full(1)).await.unwrap();
        let before = store.fingerprint().await.unwrap();
        store.close().await;
        let again = SqliteStore::open(&file).await.unwrap();
        assert_eq!(again.fingerprint().await.unwrap(), before);
        assert_eq!(again.apply(&full(1)).await.unwrap(), Applied::AlreadyIn);
    }

    #[tokio::test]
    async fn hours_are_found_and_replaced_by_their_key_and_not_by_looking_at_all_of_them() {
        let (dir, _store) = store_with("UPDATE position SET id = 0").await;
        let file = dir.path().join("usage.sqlite");
        let mut by_hand =
            SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&file)).await.unwrap();
        for statement in ["DELETE FROM usage", "DELETE FROM gap", "SELECT covered FROM hour"] {
            let query = format!(
                "EXPLAIN QUERY PLAN {statement} WHERE (cell, accelerator, hour_ms) IN (VALUES (1, 'a', 2), (3, 'b', 4))"
            );
            let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&mut by_hand).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::get(row, "detail")).collect();
            assert!(plan.iter().any(|line| line.starts_with("SEARCH")), "{statement}: {plan:?}");
        }
    }
}

proptest! {
    #[test]
    fn any_hour_reads_back_equal(
        covered in prop::collection::vec((0_i64..3_600_000, 0_i64..3_600_000), 0..6),
        gaps in prop::collection::btree_map(0..GapCause::ALL.len(), (0_i64..1000, 1_i64..1000), 0..4),
        usage in prop::collection::btree_map((0_usize..3, 0_usize..6), (0_u64..1 << 60, 0_u64..3_600_000), 0..6),
    ) {
        let mut hour = Hour { covered: Spans::from_pairs(covered), ..Hour::default() };
        for (cause, (start, length)) in gaps {
            hour.gaps.insert(GapCause::ALL[cause], Spans::from_pairs([(start, start + length)]));
        }
        for ((holder, state), (tera, millis)) in usage {
            let key = usage_key(["", "uid:gpu/1000", "lease:site/1"][holder], HeldState::ALL[state]);
            hour.usage.insert(key, sums(tera, millis, 0));
        }
        let row = HourRow { key: HourKey { accelerator: gpu(0), hour: UtcMillis(0) }, hour };
        let mut piece = piece(1, 2);
        piece.hours.push(row.clone());
        crate::fold::wait(async {
            let store = SqliteStore::in_memory().await.unwrap();
            store.apply(&piece).await.unwrap();
            prop_assert_eq!(store.hours(&keys(&piece.hours)).await.unwrap(), vec![row]);
            Ok(())
        })?;
    }
}
