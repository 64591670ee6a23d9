//! The sums are a function of the ledger: not of when it was read, nor in which pieces.

use std::{collections::BTreeMap, sync::Arc};

use expect_test::expect;
use proptest::prelude::*;
use weighbridge_meter::{EpochId, Estimator, GapCause, Trust, UtcMillis, window::Coverage};
use weighbridge_store::{
    Fact, Filter, SqliteStore, State, UsageStore,
    account::account,
    entry::Selector,
    fold::{HeldHours, held_hours},
    follow::FollowError,
    hour::HourKey,
};

use crate::{
    support::{
        Book, MINUTE, ONE_SEGMENT, at, batch, device, gpu, holding, lease, minutes, span, usage, window,
    },
    world::{self, any_step, written},
};

/// Runs it to the end on this thread.
pub(crate) fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub(crate) async fn state(store: &SqliteStore) -> State {
    let mut state = State::default();
    for row in store.state().await.unwrap() {
        state.absorb(&row).unwrap();
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn live_in_pieces_with_restarts_gives_the_integers_of_a_rebuild(
        steps in prop::collection::vec(any_step(), 1..24),
        pieces in prop::collection::vec((1_usize..9, any::<bool>()), 1..8),
        swapped in any::<bool>(),
        refolded in prop::sample::select(vec![1_usize, 2, 10_000]),
    ) {
        let mut book = written(&steps, swapped, 2000);
        wait(async {
            let rebuilt = book.folded().await;
            let live = Arc::new(SqliteStore::in_memory().await.unwrap());
            let mut follower = book.follower(&live).await.refolding(refolded);
            let mut taken = 0;
            for (length, restart) in pieces.iter().cycle() {
                taken = (taken + length).min(book.ends.len());
                follower.catch_up(book.ends[taken - 1]).await.unwrap();
                if taken == book.ends.len() {
                    break;
                }
                if *restart {
                    follower = book.follower(&live).await.refolding(refolded);
                }
            }
            prop_assert_eq!(live.fingerprint().await.unwrap(), rebuilt.fingerprint().await.unwrap());
            prop_assert_eq!(live.stands().await.unwrap(), book.end());
            let mut known: Vec<_> = follower.shared().with(|state| state.accelerators.clone()).into_iter().collect();
            known.sort_by(|a, b| a.0.cmp(&b.0));
            prop_assert_eq!(known, state(&live).await.accelerators.into_iter().collect::<Vec<_>>());
            Ok(())
        })?;
    }

    #[test]
    fn hours_that_a_crash_left_ahead_of_where_the_sums_stand_change_nothing(
        steps in prop::collection::vec(any_step(), 1..24), at_step in any::<prop::sample::Index>(),
    ) {
        let mut book = written(&steps, false, 2000);
        wait(async {
            let whole = book.folded().await;
            let crashed = Arc::new(SqliteStore::in_memory().await.unwrap());
            let stands = book.ends[at_step.index(book.ends.len())];
            book.follower(&crashed).await.catch_up(stands).await.unwrap();
            let keys: Vec<HourKey> = (0..3)
                .flat_map(|number| {
                    let of_gpu = move |hour| HourKey { accelerator: gpu(number), hour: at(hour * UtcMillis::HOUR) };
                    (-48..48).map(of_gpu)
                })
                .collect();
            crashed.put_hours(&whole.hours(&keys).await.unwrap()).await.unwrap();
            book.follower(&crashed).await.catch_up(book.end()).await.unwrap();
            prop_assert_eq!(crashed.fingerprint().await.unwrap(), whole.fingerprint().await.unwrap());
            Ok(())
        })?;
    }

    #[test]
    fn every_covered_millisecond_counts_once_and_both_sets_sum_to_wall_time(
        steps in prop::collection::vec(any_step(), 1..24), later in 0_i64..10_000_000,
    ) {
        let mut book = written(&steps, false, ONE_SEGMENT);
        wait(async {
            let store = book.folded().await;
            let (sums, coverage) =
                (store.sums(&Filter::default()).await.unwrap(), store.coverage(&Filter::default()).await.unwrap());
            let mut summed: BTreeMap<_, u64> = BTreeMap::new();
            for sum in &sums {
                *summed.entry(sum.accelerator.clone()).or_default() += sum.sums.measured_ms + sum.sums.interpolated_ms;
            }
            let covered: BTreeMap<_, u64> =
                world::covered(&steps).into_iter().map(|(id, spans)| (id, spans.millis())).collect();
            prop_assert_eq!(&summed, &covered);
            for row in &coverage {
                let expected = covered.get(&row.accelerator).copied().unwrap_or(0);
                prop_assert_eq!(row.measured_ms + row.interpolated_ms, expected);
            }

            let state = state(&store).await;
            let last = state.accelerators.values().map(|accelerator| accelerator.last_end).max();
            let as_of = last.unwrap_or(at(0)).plus(later);
            let account = account(&state, &Estimator::shipped(), &sums, &coverage, None, as_of);
            prop_assert_eq!(account.accelerators.len(), state.accelerators.len());
            for one in &account.accelerators {
                let (time, id) = (&one.time, &one.accelerator);
                let gaps: u64 = time.gap_ms.values().sum();
                prop_assert_eq!(time.measured_ms + time.interpolated_ms + gaps, time.wall_ms, "{}", id);
                prop_assert_eq!(time.held_ms.values().sum::<u64>(), time.wall_ms, "{}", id);
                if state.accelerators[id].presence.absences().is_empty() {
                    let expected = covered.get(id).copied().unwrap_or(0);
                    prop_assert_eq!(time.measured_ms + time.interpolated_ms, expected, "{}", id);
                    prop_assert_eq!(time.wall_ms, as_of.since(state.accelerators[id].first_seen).unsigned_abs());
                }
            }
            let by_holder: u64 = account.attempts.iter().map(|attempt| attempt.totals.measured.bound.best().tera()).sum();
            let by_nobody: u64 = account.unheld.values().map(|sums| sums.bound.best().tera()).sum();
            let by_device: u64 = account.accelerators.iter().map(|one| one.measured.bound.best().tera()).sum();
            prop_assert_eq!(by_holder + by_nobody, by_device);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn what_an_agent_cannot_have_seen_of_a_holder_marks_nothing_and_what_it_marks_is_counted() {
    let day = UtcMillis::DAY;
    let mut book = Book::enrolled(ONE_SEGMENT);
    let mut first = batch(0, 1);
    first.inventory.push(device(0, 0, at(0)));
    first.windows.extend([window(0, minutes(0, 30), 500), window(0, minutes(600, 630), 500)]);
    book.batch(&first);
    let received = at(30 * day);
    let mut second = batch(0, 2);
    second.holdings.push(holding("uid:gpu/1000", &[0, 1], span(-2000 * day, 2000 * day)));
    let leased = weighbridge_meter::Evidence::LeaseFile;
    let lease =
        weighbridge_meter::Holding { evidence: leased, ..holding("lease:site/1", &[0], minutes(30, 90)) };
    second.holdings.push(lease);
    // 08:00 to 18:30 of the one that is known, and 08:30 to 09:30.
    let before = state(&*book.folded().await).await;
    assert_eq!(held_hours(&before, &second, 0, received), HeldHours { seen: 11, leased: 2 });
    book.batch(&second);
    let after = state(&*book.folded().await).await;
    let held: Vec<_> =
        after.held[&gpu(0)].iter().map(|(key, end)| (key.principal.as_str(), key.start, end)).collect();
    let seen = ("uid:gpu/1000", received.plus(-400 * day), received.plus(5 * MINUTE));
    assert_eq!(held, [("lease:site/1", at(30 * MINUTE), at(90 * MINUTE)), seen]);
    second.holdings.remove(0);
    assert_eq!(held_hours(&after, &second, 0, received), HeldHours::default(), "said again");
}

#[tokio::test]
async fn a_window_is_divided_at_the_hour_and_at_the_end_of_a_lease() {
    let mut book = Book::enrolled(2000);
    let mut first = batch(0, 1);
    first.inventory.push(device(0, 0, at(0)));
    // 08:50 to 09:20; the lease ends at 08:55.
    first.windows.push(window(0, minutes(50, 80), 500));
    book.fact(Fact::Lease(lease("lease-1", 0, Selector::All, "lease:site/1", minutes(0, 55))));
    book.batch(&first);
    // 990e6 cycles/s x 132 SMs x 4096 = 32115.9168e12 a minute, 963477.5e12 in all; a sixth of it in five minutes.
    // High: double in FP8, plus five per cent; in five minutes no more than the peak of 2141061e12 in 1000 s allows.
    expect![[r#"
        2026-01-31T08:00:00Z GPU-0 - unattributed 0..160579..642319 measured 300s interpolated 0s
        2026-01-31T08:00:00Z GPU-0 lease:site/1 attributed 0..160580..642319 measured 300s interpolated 0s
        2026-01-31T09:00:00Z GPU-0 - unattributed 0..642319..2462791 measured 1200s interpolated 0s
    "#]]
    .assert_eq(&usage(&*book.folded().await).await);
}

#[tokio::test]
async fn the_same_time_from_two_sources_or_two_epochs_counts_once() {
    let mut book = Book::enrolled(2000);
    let mut guest = batch(1, 1);
    guest.inventory.push(weighbridge_wire::DeviceRecord { trust: Trust::Guest, ..device(0, 0, at(0)) });
    guest.windows.push(window(0, minutes(0, 30), 100));
    let mut host = batch(0, 1);
    host.inventory.push(device(0, 0, at(0)));
    host.windows.push(window(0, minutes(10, 20), 900));
    let mut again = batch(0, 1);
    again.epoch = EpochId([8; 16]);
    again.windows.push(window(0, minutes(15, 25), 300));
    for sent in [&guest, &host, &again] {
        book.batch(sent);
    }
    let store = book.folded().await;
    let sums = store.sums(&Filter::default()).await.unwrap();
    assert_eq!(sums.len(), 1, "{sums:?}");
    assert_eq!(sums[0].sums.measured_ms, 30 * 60_000);
    // Ten minutes at 0.9 from the host, five at 0.3 from its other epoch, fifteen at 0.1 from the guest.
    let best_per_minute_at_full = 64_231.8_f64;
    let expected = best_per_minute_at_full * (10.0 * 0.9 + 5.0 * 0.3 + 15.0 * 0.1);
    let best = sums[0].sums.bound.best().tera() as f64;
    assert!((best - expected).abs() < 5.0, "{best}, expected {expected}");
}

#[tokio::test]
async fn a_device_that_is_named_after_its_first_window_is_not_taken_for_the_fastest_for_ever() {
    let mut late = Book::enrolled(2000);
    let mut early = Book::enrolled(2000);
    let (mut windows, mut inventory) = (batch(0, 1), batch(0, 2));
    windows.windows.push(window(0, minutes(0, 30), 500));
    inventory.inventory.push(device(0, 0, at(0)));
    for sent in [&windows, &inventory] {
        late.batch(sent);
    }
    for sent in [&inventory, &windows] {
        early.batch(sent);
    }
    assert_eq!(usage(&*late.folded().await).await, usage(&*early.folded().await).await);
}

#[tokio::test]
async fn an_old_word_that_arrives_late_does_not_take_a_device_out() {
    let mut book = Book::enrolled(2000);
    let (mut back, mut gone) = (batch(0, 2), batch(0, 1));
    back.inventory.push(device(0, 0, at(20 * MINUTE)));
    gone.inventory.push(weighbridge_wire::DeviceRecord { present: false, ..device(0, 0, at(10 * MINUTE)) });
    book.batch(&back);
    book.batch(&gone);
    let accelerators = state(&*book.folded().await).await.accelerators;
    assert_eq!(accelerators[&gpu(0)].removed_at(), None);
    assert_eq!(accelerators[&gpu(0)].first_seen, at(10 * MINUTE), "but it was known earlier");

    let mut later = batch(0, 3);
    later.inventory.push(weighbridge_wire::DeviceRecord { present: false, ..device(0, 0, at(30 * MINUTE)) });
    book.batch(&later);
    let accelerators = state(&*book.folded().await).await.accelerators;
    assert_eq!(accelerators[&gpu(0)].removed_at(), Some(at(30 * MINUTE)));

    let mut measured = batch(0, 4);
    measured.windows.push(window(0, minutes(31, 32), 0));
    book.batch(&measured);
    let accelerators = state(&*book.folded().await).await.accelerators;
    assert_eq!(accelerators[&gpu(0)].removed_at(), None, "what is measured is there");
}

#[tokio::test]
async fn a_late_lease_over_a_silent_night_makes_no_hours_of_it() {
    let mut book = Book::enrolled(2000);
    let mut sent = batch(0, 1);
    sent.inventory.push(device(0, 0, at(0)));
    sent.windows.extend([window(0, minutes(0, 1), 0), window(0, minutes(600, 601), 0)]);
    book.batch(&sent);
    book.fact(Fact::Lease(lease("lease-1", 0, Selector::All, "lease:site/1", minutes(0, 700))));
    let store = book.folded().await;
    let hours = store.fingerprint().await.unwrap().into_iter().find(|(table, ..)| table == "hour").unwrap().1;
    assert_eq!(hours, 2);
    let sums = store.sums(&Filter::default()).await.unwrap();
    assert_eq!((sums.len(), sums[0].state.as_str(), sums[0].sums.measured_ms), (1, "idle_held", 120_000));
}

#[tokio::test]
async fn hours_that_went_out_of_memory_are_added_to_and_not_begun_anew() {
    // More hours than are kept: ten thousand accelerators in one hour, then the same ones hours later.
    let mut book = Book::enrolled(2000);
    let many = |sequence: u64, from: i64| {
        let mut sent = batch(0, sequence);
        for number in 0..5_100 {
            let mut one = window(0, minutes(from, from + 1), 0);
            one.accelerator = format!("GPU-{number}").parse().unwrap();
            sent.windows.push(one);
        }
        sent
    };
    for (sequence, from) in (1..).zip([0, 60, 120, 180, 1]) {
        book.batch(&many(sequence, from));
    }
    let live = Arc::new(SqliteStore::in_memory().await.unwrap());
    let mut follower = book.follower(&live).await;
    for end in book.ends.clone() {
        follower.catch_up(end).await.unwrap();
    }
    let (from, to) = (Some(at(0)), Some(at(60 * MINUTE)));
    let sums = live.sums(&Filter { from, to, ..Filter::default() }).await.unwrap();
    assert_eq!(sums.len(), 5_100);
    assert!(sums.iter().all(|sum| sum.sums.measured_ms == 120_000));
}

#[tokio::test]
async fn a_holding_in_many_words_is_one_holding() {
    let mut book = Book::enrolled(2000);
    let mut sent = batch(0, 1);
    sent.inventory.push(device(0, 0, at(0)));
    for (from, to) in [(0, 10), (10, 20), (5, 15), (40, 50), (30, 45), (20, 30)] {
        sent.holdings.push(holding("uid:gpu/1000", &[0], minutes(from, to)));
    }
    sent.windows.push(window(0, minutes(0, 60), 500));
    book.batch(&sent);
    let store = book.folded().await;
    let lines: Vec<String> = usage(&store).await.lines().map(Into::into).collect();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("unattributed") && lines[0].contains("measured 600s"), "{lines:#?}");
    assert!(
        lines[1].contains("uid:gpu/1000 attributed") && lines[1].contains("measured 3000s"),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn an_interpolated_part_and_an_explained_gap_stay_what_they_are() {
    let mut book = Book::enrolled(2000);
    let mut sent = batch(0, 1);
    sent.inventory.push(device(0, 0, at(0)));
    let mut one = window(0, span(0, 60_000), 0);
    one.coverage = Coverage::Interpolated { missing_ms: 20_000 };
    sent.windows.push(one);
    sent.gaps.push(weighbridge_meter::Gap {
        accelerator: gpu(0),
        span: span(30_000, 100_000),
        boot_start_ms: 1,
        cause: GapCause::DeviceLost,
    });
    book.batch(&sent);
    let coverage = book.folded().await.coverage(&Filter::default()).await.unwrap();
    assert_eq!((coverage[0].measured_ms, coverage[0].interpolated_ms), (40_000, 20_000));
    assert_eq!(coverage[0].gaps, [(GapCause::DeviceLost, 40_000)]);
}

#[tokio::test]
async fn sums_that_are_ahead_of_the_ledger_are_not_folded_on() {
    let mut book = Book::enrolled(2000);
    let store = book.folded().await;
    let mut follower = book.follower(&store).await;
    let older = book.ends[1];
    assert!(matches!(follower.catch_up(older).await, Err(FollowError::Ahead { stands: 5, ends: 3 })));
    assert!(follower.catch_up(book.end()).await.is_ok());
}

#[tokio::test]
async fn extremes_that_the_wire_lets_through_do_not_stop_the_fold() {
    let mut book = Book::enrolled(2000);
    let mut sent = batch(0, i64::MAX.unsigned_abs());
    let first: UtcMillis = UtcMillis(946_684_800_000);
    let last = UtcMillis(7_258_118_399_999);
    for start in [first, last] {
        let day = weighbridge_meter::Span::new(start, start.plus(86_400_000)).unwrap();
        let mut one = window(0, day, 0);
        for counter in weighbridge_meter::window::Counter::ALL {
            one.counters = one.counters.with(*counter, u64::MAX);
        }
        one.boot_start_ms = i64::MAX.unsigned_abs();
        one.coverage = Coverage::Interpolated { missing_ms: 86_400_000 };
        sent.windows.push(one);
    }
    book.batch(&sent);
    for minutes in [i64::MAX, i64::MIN] {
        book.fact(Fact::ClockOffset {
            agent: crate::support::agent(0),
            boot: weighbridge_meter::BootId([9; 16]),
            minutes,
        });
        sent.sequence -= 1;
        sent.holdings = vec![holding("uid:gpu/1000", &[0], minutes_of_a_century())];
        sent.inventory = vec![device(0, 0, last)];
        book.batch(&sent);
    }
    let store = book.folded().await;
    let sums = store.sums(&Filter::default()).await.unwrap();
    assert_eq!(sums.iter().map(|sum| sum.sums.interpolated_ms).sum::<u64>(), 6 * 86_400_000);
    assert!(book.follower(&store).await.catch_up(book.end()).await.is_ok(), "and all of it reads back");
}

fn minutes_of_a_century() -> weighbridge_meter::Span {
    weighbridge_meter::Span::new(at(0), at(99 * 366 * UtcMillis::DAY)).unwrap()
}
