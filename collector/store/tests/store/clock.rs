//! A wrong wall clock moves no hours: the boot clock tells, and the correction stands in the ledger.

use expect_test::{Expect, expect};
use weighbridge_meter::BootId;
use weighbridge_store::{
    Body, Entry, Fact, Filter, Ledger, SqliteStore, State, UsageStore, entry::Clocks, follow::Follower,
};

use crate::{
    ledger::opened,
    support::{MINUTE, agent, at, batch, gpu, minutes, submission, window},
};

const HOUR: i64 = 60 * MINUTE;

/// A window measured at `true_ms` after the start and labelled `off_ms` later, sent a minute after its end.
fn sent(
    sequence: u64,
    true_ms: i64,
    off_ms: i64,
    clocks: Option<i64>,
) -> weighbridge_store::ledger::Submission {
    let mut one = batch(0, sequence);
    if sequence > 1 {
        one.epoch = weighbridge_meter::EpochId([u8::try_from(sequence).unwrap(); 16]);
        one.sequence = 1;
    }
    let labelled = crate::support::span(true_ms + off_ms, true_ms + off_ms + MINUTE);
    one.windows.push(weighbridge_meter::Window { boot_start_ms: 500_000, ..window(0, labelled, 500) });
    let received = at(true_ms + 2 * MINUTE);
    let clocks = clocks
        .map(|since| Clocks { boot_ms: 500_000_u64.wrapping_add_signed(since), wall: received.plus(off_ms) });
    submission(0, one, clocks, received)
}

/// What is in the ledger after them, and in which hours their windows are.
async fn check(submissions: Vec<weighbridge_store::ledger::Submission>, expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    let ledger: Ledger = opened(dir.path(), 1 << 20).start(Vec::new(), &State::default());
    for submission in submissions {
        ledger.submit(submission).await.unwrap();
    }
    let end = *ledger.durable().borrow();
    let mut reader = weighbridge_journal::Reader::from_start(dir.path());
    let mut lines = String::new();
    while let Some(entry) = reader.next_before(end).unwrap() {
        match Entry::decode(&entry.payload).unwrap().body {
            Body::Batch(_) => lines += "batch\n",
            Body::Fact(Fact::ClockOffset { agent: whose, boot, minutes }) => {
                assert_eq!((whose, boot), (agent(0), BootId([9; 16])));
                lines += &format!("{minutes} minutes\n");
            }
            Body::Fact(fact) => lines += &format!("{fact:?}\n"),
        }
    }
    let store = std::sync::Arc::new(SqliteStore::in_memory().await.unwrap());
    let estimator = weighbridge_meter::Estimator::shipped();
    Follower::new(dir.path(), store.clone(), estimator).await.unwrap().catch_up(end).await.unwrap();
    for sum in store.hourly(&Filter { accelerator: Some(gpu(0)), ..Filter::default() }).await.unwrap() {
        lines += &format!("{} {}s\n", sum.hour, sum.usage.sums.measured_ms / 1000);
    }
    expected.assert_eq(&lines);
}

#[tokio::test]
async fn three_hours_off_are_taken_back_before_the_batch() {
    let late = sent(1, 0, 3 * HOUR, Some(2 * MINUTE));
    check(
        vec![late],
        expect![[r#"
            -180 minutes
            batch
            2026-01-31T08:00:00Z 60s
        "#]],
    )
    .await;
    let early = sent(1, 0, -3 * HOUR - 20_000, Some(2 * MINUTE));
    check(
        vec![early],
        expect![[r#"
            180 minutes
            batch
            2026-01-31T07:00:00Z 20s
            2026-01-31T08:00:00Z 40s
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_clock_within_five_minutes_is_taken_as_it_is() {
    check(
        vec![sent(1, 0, 5 * MINUTE, Some(2 * MINUTE)), sent(2, 20 * MINUTE, -5 * MINUTE, Some(2 * MINUTE))],
        expect![[r#"
            batch
            batch
            2026-01-31T08:00:00Z 120s
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_clock_just_beyond_five_minutes_is_corrected_and_does_not_flap() {
    let off = |sequence: u64, off_ms| {
        let true_ms = 20 * MINUTE * sequence.cast_signed();
        sent(sequence, true_ms, off_ms, Some(2 * MINUTE))
    };
    check(
        vec![
            off(1, 5 * MINUTE + 1),
            off(2, 5 * MINUTE),
            off(3, 5 * MINUTE + 1),
            off(4, 0),
            off(5, 12 * MINUTE),
        ],
        expect![[r#"
            -5 minutes
            batch
            batch
            batch
            batch
            -12 minutes
            batch
            2026-01-31T08:00:00Z 120s
            2026-01-31T09:00:00Z 180s
        "#]],
    )
    .await;
}

#[tokio::test]
async fn without_clocks_or_with_impossible_ones_labels_stay() {
    let impossible = [Some(-1), Some(i64::MAX - 600_000), Some(200 * 366 * 24 * HOUR), None];
    for clocks in impossible {
        check(
            vec![sent(1, 0, 3 * HOUR, clocks)],
            expect![[r#"
                batch
                2026-01-31T11:00:00Z 60s
            "#]],
        )
        .await;
    }
}

#[tokio::test]
async fn a_batch_without_labels_moves_nothing() {
    let mut one = batch(0, 1);
    one.holdings.push(crate::support::holding("uid:gpu/1000", &[0], minutes(600, 601)));
    let clocks = Some(Clocks { boot_ms: 1, wall: at(0) });
    check(
        vec![submission(0, one, clocks, at(0))],
        expect![[r#"
        batch
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_wall_clock_that_was_set_moves_nothing_that_bears_no_label_of_it() {
    let unlabelled = |sequence: u64, true_ms: i64, off_ms: i64| {
        let mut one = batch(0, sequence);
        one.inventory.push(crate::support::device(0, 0, at(true_ms + off_ms)));
        let wall = at(true_ms + off_ms);
        submission(0, one, Some(Clocks { boot_ms: 500_000 + true_ms.unsigned_abs(), wall }), at(true_ms))
    };
    // The first of a boot is three hours off; then somebody sets the clock, and the agent goes on by what it began
    // with.
    let mut later = unlabelled(2, 10 * MINUTE, 0);
    later.batch.prev_hash = unlabelled(1, 0, 3 * HOUR).hash;
    let batch = later.batch.clone();
    let later = submission(0, batch, later.received.clocks, later.received_at);
    check(
        vec![unlabelled(1, 0, 3 * HOUR), later],
        expect![[r#"
            -180 minutes
            batch
            batch
        "#]],
    )
    .await;
    // Nor does it where nothing was off: only the first of a boot has no other clock.
    let mut later = unlabelled(2, 10 * MINUTE, 3 * HOUR);
    later.batch.prev_hash = unlabelled(1, 0, 0).hash;
    let batch = later.batch.clone();
    let later = submission(0, batch, later.received.clocks, later.received_at);
    check(
        vec![unlabelled(1, 0, 0), later],
        expect![[r#"
            batch
            batch
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_restart_remembers_which_clock_is_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = State::default();
    state.offsets.insert((agent(0), BootId([9; 16])), vec![(1, 60), (5, -180)]);
    let ledger = opened(dir.path(), 1 << 20).start(Vec::new(), &state);
    ledger.submit(sent(1, 0, 3 * HOUR, Some(2 * MINUTE))).await.unwrap();
    assert_eq!(ledger.durable().borrow().index, 2, "the batch alone");
}
