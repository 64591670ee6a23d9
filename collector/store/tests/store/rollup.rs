//! Older hours are added up once, and nothing that is asked of the store tells.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use weighbridge_meter::{Calibrated, GapCause, Interval, Operations, Signs, UtcMillis};
use weighbridge_store::{
    Filter, Folded, Place, SqliteStore, StoreError, UsageStore,
    hour::{HeldState, Holder, Hour, HourKey, HourRow, Relabel, Spans, Sums, UsageKey},
};

use crate::support::{agent, at, gpu, span};

const HOUR: i64 = UtcMillis::HOUR;

/// Something that happens to a store.
#[derive(Clone, Debug)]
enum Act {
    /// A piece writes these hours and relabels others.
    Piece(Vec<HourRow>, Vec<Relabel>),
    /// Hours are written ahead of their piece.
    Ahead(Vec<HourRow>),
    /// All hours before this one are added up.
    RollUp(i64),
}

fn holder(number: u8) -> Option<Holder> {
    let principal = ["", "uid:gpu/1", "uid:gpu/2", "lease:site/3"][usize::from(number)];
    (!principal.is_empty()).then(|| (principal.parse().unwrap(), "try-1".parse().unwrap()))
}

fn any_hour() -> impl Strategy<Value = HourRow> {
    let usage =
        prop::collection::btree_map((0_u8..4, any::<bool>()), (1_u64..1 << 40, 1_u64..1_800_000), 1..4);
    (0_u8..3, 0_i64..9, usage, 0_i64..600_000).prop_map(|(device, hours, usage, gap)| {
        let mut hour = Hour::default();
        let begins = hours * HOUR;
        hour.covered.insert(span(begins, begins + HOUR - gap - 1));
        hour.agents.insert(agent(0));
        let silent = Spans::from_pairs([(at(begins + HOUR - gap - 1).0, at(begins + HOUR - 1).0)]);
        hour.gaps.insert(GapCause::ALL[usize::from(device) % GapCause::ALL.len()], silent);
        for ((who, idle), (tera, millis)) in usage {
            let state = match (holder(who).is_some(), idle) {
                (true, false) => HeldState::Attributed,
                (true, true) => HeldState::IdleHeld,
                (false, false) => HeldState::Unattributed,
                (false, true) => HeldState::Free,
            };
            let operations = |tera| Operations::from_tera(tera).unwrap();
            let sums = Sums {
                bound: Interval::new(operations(tera / 2), operations(tera), operations(tera * 2)).unwrap(),
                calibrated: Calibrated::new(operations(tera / 2), operations(tera)).unwrap(),
                measured_ms: millis,
                interpolated_ms: millis / 3,
                signs: Signs::of(
                    &Default::default(),
                    &crate::support::window(0, span(0, millis.cast_signed()), 500),
                ),
            };
            hour.usage.insert(UsageKey { holder: holder(who), state }, sums);
        }
        HourRow { key: HourKey { accelerator: gpu(device), hour: at(begins) }, hour }
    })
}

fn any_act() -> impl Strategy<Value = Act> {
    let hours = || {
        prop::collection::vec(any_hour(), 0..5).prop_map(|mut hours| {
            let mut seen = BTreeSet::new();
            hours.retain(|row| seen.insert(row.key.clone()));
            hours
        })
    };
    let relabels = prop::collection::vec((0_u8..3, 0_i64..8, 1_i64..4, 0_u8..4, 0_u8..4), 0..2);
    let relabels = relabels.prop_map(|all| {
        let relabel = |(device, from, length, before, after): (u8, i64, i64, u8, u8)| Relabel {
            accelerator: gpu(device),
            hours: span(from * HOUR, (from + length) * HOUR),
            before: holder(before),
            after: holder(after),
        };
        all.into_iter().map(relabel).collect::<Vec<_>>()
    });
    prop_oneof![
        3 => (hours(), relabels).prop_map(|(hours, relabels)| Act::Piece(hours, relabels)),
        1 => hours().prop_map(Act::Ahead),
        3 => (0_i64..10).prop_map(Act::RollUp),
    ]
}

/// Asked of a stretch that holds everything, hours are read one by one; asked of all of the time, what is added up.
async fn compared(store: &SqliteStore) -> Result<(), TestCaseError> {
    let whole = Filter { from: Some(UtcMillis(i64::MIN)), ..Filter::default() };
    let same = async |narrow: &dyn Fn(Filter) -> Filter| {
        let (plain, rolled) = (narrow(whole.clone()), narrow(Filter::default()));
        prop_assert_eq!(store.sums(&rolled).await.unwrap(), store.sums(&plain).await.unwrap());
        prop_assert_eq!(store.coverage(&rolled).await.unwrap(), store.coverage(&plain).await.unwrap());
        let hours = store.hourly(&narrow(Filter::default())).await.unwrap();
        let principal = plain.principal.clone();
        let plain = Filter { principal: None, ..plain };
        let mut expected = store.hourly(&plain).await.unwrap();
        expected.retain(|sum| {
            principal.is_none() || sum.usage.holder.as_ref().map(|(who, _)| who) == principal.as_ref()
        });
        prop_assert_eq!(hours, expected);
        Ok(())
    };
    same(&|filter| filter).await?;
    for number in 1..4 {
        let principal = holder(number).map(|(principal, _)| principal);
        same(&|filter| Filter { principal: principal.clone(), ..filter }).await?;
    }
    for device in 0..3 {
        same(&|filter| Filter { accelerator: Some(gpu(device)), ..filter }).await?;
    }
    Ok(())
}

fn piece(number: u64, hours: Vec<HourRow>, relabels: Vec<Relabel>) -> Folded {
    let place = |index| Place { index, segment: 1, offset: 60 + index * 100 };
    Folded {
        begins: place(number),
        ends: place(number + 1),
        relabels,
        hours,
        state: Vec::new(),
        cursors: Vec::new(),
        places: Vec::new(),
        records: Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_rolled_up_is_what_adding_all_hours_up_gives(acts in prop::collection::vec(any_act(), 1..12)) {
        crate::fold::wait(async {
            let store = SqliteStore::in_memory().await.unwrap();
            for (number, act) in (1..).zip(acts) {
                match act {
                    Act::Piece(hours, relabels) => {
                        store.apply(&piece(number, hours, relabels)).await.unwrap();
                    }
                    Act::Ahead(hours) => {
                        store.put_hours(&hours).await.unwrap();
                        store.apply(&piece(number, Vec::new(), Vec::new())).await.unwrap();
                    }
                    Act::RollUp(hours) => {
                        store.roll_up(at(hours * HOUR)).await.unwrap();
                        store.apply(&piece(number, Vec::new(), Vec::new())).await.unwrap();
                    }
                }
                compared(&store).await?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}

#[tokio::test]
async fn a_sum_that_somebody_wrote_into_what_is_rolled_up_shows_in_the_fingerprint() {
    use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("usage.sqlite");
    let (store, fresh) = (SqliteStore::open(&file).await.unwrap(), SqliteStore::in_memory().await.unwrap());
    let operations = |tera| Operations::from_tera(tera).unwrap();
    let mut hour = Hour::default();
    hour.covered.insert(span(0, HOUR - 1));
    let sums = Sums {
        bound: Interval::new(operations(1), operations(2), operations(3)).unwrap(),
        measured_ms: 1_000,
        ..Sums::default()
    };
    hour.usage.insert(UsageKey { holder: holder(1), state: HeldState::Attributed }, sums);
    let row = HourRow { key: HourKey { accelerator: gpu(0), hour: at(0) }, hour };
    for store in [&store, &fresh] {
        store.apply(&piece(1, vec![row.clone()], Vec::new())).await.unwrap();
    }
    store.roll_up(at(HOUR)).await.unwrap();
    let prints = fresh.fingerprint().await.unwrap();
    assert_eq!(store.fingerprint().await.unwrap(), prints, "rolling up changes no content");
    let mut by_hand =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&file)).await.unwrap();
    for (column, table) in [("low_tera = 0", "rolled_usage"), ("measured_ms = 0", "rolled_hour")] {
        sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE {table} SET {column}")))
            .execute(&mut by_hand)
            .await
            .unwrap();
        let found = store.fingerprint().await.unwrap();
        assert_ne!(found, prints, "{table}");
        let others = |prints: &[(String, i64, String)]| prints[..7].to_vec();
        assert_eq!(others(&found), others(&prints));
    }
    sqlx::query("UPDATE rolled_usage SET state = 'no such state'").execute(&mut by_hand).await.unwrap();
    match store.sums(&Filter::default()).await {
        Err(StoreError::Nonsense { column, .. }) => assert_eq!(column, "state"),
        other => panic!("{other:?}"),
    }
}
