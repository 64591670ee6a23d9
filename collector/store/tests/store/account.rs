//! A small fleet in which everything happens once, as a table that a person can check.

use std::collections::BTreeMap;

use expect_test::expect;
use weighbridge_meter::{Estimator, GapCause, Span, UtcMillis};
use weighbridge_store::{
    Fact, Filter, UsageStore,
    account::{Account, AttemptAccount, TimeAccount, Totals, account},
    entry::Selector,
};

use crate::support::{Book, H100, at, batch, device, gpu, holding, lease, minutes, window};

fn count(count: u32) -> Selector {
    Selector::Count { count, pci_device: H100.1.to_uppercase() }
}

fn one(number: u8) -> Selector {
    Selector::Accelerator(gpu(number))
}

/// From 08:00 to 10:00. On host 0 two of three leased devices report, and on host 1 everything else happens.
async fn fleet(within: Option<Span>, as_of: UtcMillis) -> Account {
    let mut book = Book::enrolled(2000);
    let mut first = batch(0, 1);
    let mut second = batch(1, 1);
    for number in [0, 1] {
        first.inventory.push(device(number, 0, at(0)));
        first.windows.extend([window(number, minutes(0, 60), 400), window(number, minutes(60, 120), 400)]);
    }
    for number in 2..8 {
        second.inventory.push(device(number, 1, at(0)));
    }
    // 2 goes silent after half an hour, and says why for ten minutes of it.
    second.windows.push(window(2, minutes(0, 30), 600));
    second.gaps.push(weighbridge_meter::Gap {
        accelerator: gpu(2),
        span: minutes(30, 40),
        boot_start_ms: 1,
        cause: GapCause::DeviceLost,
    });
    for (number, tensor) in [(3, 500), (4, 500), (5, 500), (6, 0), (7, 0)] {
        second
            .windows
            .extend([window(number, minutes(0, 60), tensor), window(number, minutes(60, 120), tensor)]);
    }
    second.holdings.push(holding("uid:gpu/1000", &[3], minutes(0, 120)));
    second.holdings.push(holding("uid:gpu/1001", &[3], minutes(0, 60)));
    let leases = [
        lease("count", 0, count(3), "lease:site/count", minutes(0, 180)),
        lease("silent", 1, one(2), "lease:site/silent", minutes(0, 120)),
        lease("one", 1, one(4), "lease:site/one", minutes(0, 120)),
        lease("other", 1, one(4), "lease:site/other", minutes(60, 120)),
        lease("idle", 1, one(6), "lease:site/idle", minutes(0, 90)),
    ];
    leases.into_iter().for_each(|lease| book.fact(Fact::Lease(lease)));
    book.batch(&first);
    book.batch(&second);
    let store = book.folded().await;
    let state = crate::fold::state(&store).await;
    let filter = Filter {
        from: within.map(|within| within.start()),
        to: within.map(|within| within.end()),
        ..Filter::default()
    };
    let (sums, coverage) = (store.sums(&filter).await.unwrap(), store.coverage(&filter).await.unwrap());
    account(&state, &Estimator::shipped(), &sums, &coverage, within, as_of)
}

fn of<'a>(account: &'a Account, principal: &str) -> &'a AttemptAccount {
    account.attempts.iter().find(|attempt| attempt.principal.as_str() == principal).unwrap()
}

fn shown(account: &Account) -> String {
    let mut lines = String::from("attempt             held  gap unseen now   measured and with gaps, tera\n");
    for attempt in &account.attempts {
        let totals = &attempt.totals;
        let (measured, bound) = (totals.measured.bound, totals.bound);
        let line = format!(
            "{:<18} {:>5} {:>4} {:>6} {:>3}   {} <= {} <= {}; {} <= {} <= {} ({}..{}) {:?}\n",
            attempt.principal.as_str(),
            totals.held_ms / 60_000,
            totals.gap_ms / 60_000,
            totals.never_seen_ms / 60_000,
            attempt.devices,
            measured.low().tera(),
            measured.best().tera(),
            measured.high().tera(),
            bound.low().tera(),
            bound.best().tera(),
            bound.high().tera(),
            totals.calibrated.low().tera(),
            totals.calibrated.high().tera(),
            attempt.models,
        );
        lines += &line;
    }
    lines += "device wall measured gaps and states, minutes\n";
    for device in &account.accelerators {
        let time = &device.time;
        let minutes = |millis: &u64| millis / 60_000;
        let gaps: Vec<_> = time.gap_ms.iter().map(|(cause, ms)| format!("{cause} {}", minutes(ms))).collect();
        let held: Vec<_> =
            time.held_ms.iter().map(|(state, ms)| format!("{} {}", state.as_str(), minutes(ms))).collect();
        let line = format!(
            "{}  {:>4} {:>8} {}; {}\n",
            device.accelerator,
            minutes(&time.wall_ms),
            minutes(&(time.measured_ms + time.interpolated_ms)),
            gaps.join(", "),
            held.join(", "),
        );
        lines += &line;
    }
    for (state, sums) in &account.unheld {
        let (bound, millis) = (sums.bound, sums.measured_ms);
        lines +=
            &format!("nobody, {}: {} in {} minutes\n", state.as_str(), bound.best().tera(), millis / 60_000);
    }
    lines
}

#[tokio::test]
async fn a_small_fleet_at_ten() {
    expect![[r#"
        attempt             held  gap unseen now   measured and with gaps, tera
        lease:site/count     360  120    120   3   178240 <= 6166256 <= 16199692; 178240 <= 9249384 <= 31615333 (4088224..9557700) {"H100 SXM5": 3}
        lease:site/idle       90    0      0   0   0 <= 0 <= 0; 0 <= 0 <= 0 (0..0) {"H100 SXM5": 1}
        lease:site/one        90    0      0   1   55700 <= 2890433 <= 9851164; 55700 <= 2890433 <= 9851164 (1277571..4046606) {"H100 SXM5": 1}
        lease:site/other      30    0      0   1   0 <= 963477 <= 4925582; 0 <= 963477 <= 4925582 (0..2023303) {"H100 SXM5": 1}
        lease:site/silent    120   90      0   1   33420 <= 1156173 <= 2900621; 33420 <= 4624692 <= 14462352 (766542..4682501) {"H100 SXM5": 1}
        uid:gpu/1000          90    0      0   1   55700 <= 2890433 <= 9851164; 55700 <= 2890433 <= 9851164 (1277571..4046606) {"H100 SXM5": 1}
        uid:gpu/1001          30    0      0   0   0 <= 963477 <= 4925582; 0 <= 963477 <= 4925582 (0..2023303) {"H100 SXM5": 1}
        device wall measured gaps and states, minutes
        GPU-0   120      120 ; attributed 120
        GPU-1   120      120 ; attributed 120
        GPU-2   120       30 device_lost 10, silent 80; attributed 120
        GPU-3   120      120 ; attributed 60, shared 60
        GPU-4   120      120 ; attributed 60, disputed 60
        GPU-5   120      120 ; unattributed 120
        GPU-6   120      120 ; idle_held 90, free 30
        GPU-7   120      120 ; free 120
        nobody, free: 0 in 150 minutes
        nobody, unattributed: 3853910 in 120 minutes
    "#]].assert_eq(&shown(&fleet(None, at(120 * 60_000)).await));
}

#[tokio::test]
async fn the_second_hour_alone() {
    expect![[r#"
        attempt             held  gap unseen now   measured and with gaps, tera
        lease:site/count     180   60     60   3   89120 <= 3083128 <= 8099846; 89120 <= 4624692 <= 15807667 (2044112..4778850) {"H100 SXM5": 3}
        lease:site/idle       30    0      0   0   0 <= 0 <= 0; 0 <= 0 <= 0 (0..0) {"H100 SXM5": 1}
        lease:site/one        30    0      0   1   0 <= 963478 <= 4925582; 0 <= 963478 <= 4925582 (0..2023303) {"H100 SXM5": 1}
        lease:site/other      30    0      0   1   0 <= 963477 <= 4925582; 0 <= 963477 <= 4925582 (0..2023303) {"H100 SXM5": 1}
        lease:site/silent     60   60      0   1   0 <= 0 <= 0; 0 <= 890487 <= 7707821 (0..890487) {"H100 SXM5": 1}
        uid:gpu/1000          60    0      0   1   55700 <= 1926955 <= 4925582; 55700 <= 1926955 <= 4925582 (1277571..2023303) {"H100 SXM5": 1}
        device wall measured gaps and states, minutes
        GPU-0    60       60 ; attributed 60
        GPU-1    60       60 ; attributed 60
        GPU-2    60        0 silent 60; attributed 60
        GPU-3    60       60 ; attributed 60
        GPU-4    60       60 ; disputed 60
        GPU-5    60       60 ; unattributed 60
        GPU-6    60       60 ; idle_held 30, free 30
        GPU-7    60       60 ; free 60
        nobody, free: 0 in 90 minutes
        nobody, unattributed: 1926955 in 60 minutes
    "#]].assert_eq(&shown(&fleet(Some(minutes(60, 120)), at(120 * 60_000)).await));
}

#[tokio::test]
async fn an_hour_after_the_agents_died_their_silence_counts() {
    expect![[r#"
        attempt             held  gap unseen now   measured and with gaps, tera
        lease:site/count     540  300    180   2   178240 <= 6166256 <= 16199692; 178240 <= 13874076 <= 54738793 (4088224..14182392) {"H100 SXM5": 3}
        lease:site/idle       90    0      0   0   0 <= 0 <= 0; 0 <= 0 <= 0 (0..0) {"H100 SXM5": 1}
        lease:site/one        90    0      0   0   55700 <= 2890433 <= 9851164; 55700 <= 2890433 <= 9851164 (1277571..4046606) {"H100 SXM5": 1}
        lease:site/other      30    0      0   0   0 <= 963477 <= 4925582; 0 <= 963477 <= 4925582 (0..2023303) {"H100 SXM5": 1}
        lease:site/silent    120   90      0   0   33420 <= 1156173 <= 2900621; 33420 <= 4624692 <= 14462352 (766542..4682501) {"H100 SXM5": 1}
        uid:gpu/1000          90    0      0   0   55700 <= 2890433 <= 9851164; 55700 <= 2890433 <= 9851164 (1277571..4046606) {"H100 SXM5": 1}
        uid:gpu/1001          30    0      0   0   0 <= 963477 <= 4925582; 0 <= 963477 <= 4925582 (0..2023303) {"H100 SXM5": 1}
        device wall measured gaps and states, minutes
        GPU-0   180      120 silent 60; attributed 180
        GPU-1   180      120 silent 60; attributed 180
        GPU-2   180       30 device_lost 10, silent 140; attributed 120, unattributed 60
        GPU-3   180      120 silent 60; attributed 60, shared 60, unattributed 60
        GPU-4   180      120 silent 60; attributed 60, disputed 60, unattributed 60
        GPU-5   180      120 silent 60; unattributed 180
        GPU-6   180      120 silent 60; idle_held 90, free 30, unattributed 60
        GPU-7   180      120 silent 60; free 120, unattributed 60
        nobody, free: 0 in 150 minutes
        nobody, unattributed: 3853910 in 120 minutes
    "#]].assert_eq(&shown(&fleet(None, at(180 * 60_000)).await));
}

#[tokio::test]
async fn a_projection_goes_on_at_the_mean_rate_and_at_most_at_the_peak() {
    let as_of = at(120 * 60_000);
    let account = fleet(None, as_of).await;
    let count = of(&account, "lease:site/count");
    assert_eq!((count.devices, count.never_seen, count.lease_end), (3, 1, Some(at(180 * 60_000))));
    // 1980 MHz x 132 SMs x 4096 x 2 (FP8), three times.
    assert_eq!(count.peak_ops_per_ms, 3 * 1_980_000 * 540_672 * 2);
    let now = count.totals.bound;
    // 0.4 x 64231.8336 = 25692.73344e12 a minute and device: two for 120 minutes measured, 6166256.03.
    assert_eq!(count.totals.measured.bound.best().tera(), 6_166_256);
    // Half an hour more on three: 2312346.0. At the peak: 128463.6672 a minute, three times thirty: 11561730.05.
    let projected = count.projection(as_of, at(150 * 60_000)).unwrap();
    assert_eq!(projected.low(), now.low());
    assert_eq!(projected.best().tera(), now.best().tera() + 2_312_346);
    assert_eq!(projected.high().tera(), now.high().tera() + 11_561_731);
    // It ends with the lease.
    let end = count.projection(as_of, at(180 * 60_000)).unwrap();
    assert_eq!(count.projection(as_of, at(999 * 60_000)), Some(end));
    assert_eq!(end.best().tera(), now.best().tera() + 4_624_692);

    assert_eq!(of(&account, "lease:site/one").projection(as_of, at(150 * 60_000)), None, "its lease is over");
    assert_eq!(of(&account, "uid:gpu/1000").projection(as_of, at(150 * 60_000)), None, "it has no lease");
}

#[tokio::test]
async fn a_lease_of_which_nothing_was_measured_counts_by_allocation_and_is_not_projected() {
    let mut book = Book::enrolled(2000);
    book.fact(Fact::Lease(lease("dark", 0, count(2), "lease:site/dark", minutes(0, 120))));
    let state = crate::fold::state(&*book.folded().await).await;
    let as_of = at(60 * 60_000);
    let account = account(&state, &Estimator::shipped(), &[], &[], None, as_of);
    let dark = of(&account, "lease:site/dark");
    assert_eq!((dark.devices, dark.never_seen), (2, 2));
    assert_eq!(dark.models, BTreeMap::from([("H100 SXM5".to_owned(), 2)]));
    let (totals, minute) = (&dark.totals, 60_000);
    assert_eq!(
        (totals.held_ms, totals.gap_ms, totals.never_seen_ms),
        (120 * minute, 120 * minute, 120 * minute)
    );
    assert_eq!(totals.measured, Default::default());
    assert_eq!(totals.bound.low().tera(), 0);
    // 128463.6672 a minute at the peak.
    assert_eq!(totals.bound.high().tera(), 15_415_641);
    let allocated = Estimator::shipped();
    let model = allocated.table().find(Some(H100.1), "");
    assert_eq!(totals.bound.best(), allocated.allocated(model, 120 * 60_000));
    assert_eq!(dark.projection(as_of, at(90 * 60_000)), None, "there is no rate to go on at");
}

#[tokio::test]
async fn a_lease_by_count_that_is_over_counts_each_device_once() {
    let account = fleet(None, at(200 * 60_000)).await;
    let count = of(&account, "lease:site/count");
    assert_eq!((count.devices, count.never_seen, count.peak_ops_per_ms), (0, 0, 0));
    assert_eq!(count.models.values().sum::<u64>(), 3, "two that were seen and one that never was");
}

#[tokio::test]
async fn what_is_disputed_or_of_another_kind_is_not_taken_for_shown_or_missing() {
    let mut book = Book::enrolled(2000);
    let mut sent = batch(0, 1);
    for number in [0, 1] {
        sent.inventory.push(device(number, 0, at(0)));
        sent.windows.push(window(number, minutes(0, 60), 500));
    }
    book.batch(&sent);
    // Both H100 are there, and half of one is disputed; of the two A100 under the same name none is.
    let a100 = Selector::Count { count: 2, pci_device: "10de:20b2".into() };
    for lease in [
        lease("count", 0, count(2), "lease:site/count", minutes(0, 60)),
        lease("count", 0, a100, "lease:site/count", minutes(0, 60)),
        lease("other", 0, one(0), "lease:site/other", minutes(0, 60)),
    ] {
        book.fact(Fact::Lease(lease));
    }
    let store = book.folded().await;
    let state = crate::fold::state(&store).await;
    let all = Filter::default();
    let (sums, coverage) = (store.sums(&all).await.unwrap(), store.coverage(&all).await.unwrap());
    let account = account(&state, &Estimator::shipped(), &sums, &coverage, None, at(60 * 60_000));
    let totals = &of(&account, "lease:site/count").totals;
    let hour = 60 * 60_000;
    assert_eq!((totals.never_seen_ms, totals.gap_ms), (2 * hour, 2 * hour));
    assert_eq!(totals.held_ms, 2 * hour + hour + hour / 2);
    assert_eq!(of(&account, "lease:site/other").totals.gap_ms, 0);
}

#[tokio::test]
async fn a_withdrawn_lease_ends_nothing_and_holds_nothing() {
    let mut book = Book::enrolled(2000);
    let mut sent = batch(0, 1);
    sent.inventory.push(device(0, 0, at(0)));
    sent.windows.push(window(0, minutes(0, 60), 500));
    book.batch(&sent);
    book.fact(Fact::Lease(lease("a", 0, one(0), "lease:site/a", minutes(0, 60))));
    let mut gone = lease("a", 0, Selector::All, "lease:site/a", minutes(600, 601));
    gone.end = gone.start;
    book.fact(Fact::Lease(gone));
    let store = book.folded().await;
    let state = crate::fold::state(&store).await;
    let sums = store.sums(&Filter::default()).await.unwrap();
    let of_all = account(&state, &Estimator::shipped(), &sums, &[], None, at(30 * 60_000));
    assert_eq!(of(&of_all, "lease:site/a").lease_end, Some(at(60 * 60_000)));
}

#[test]
fn totals_and_times_merge_part_by_part() {
    let totals = |n: u64| Totals { held_ms: n, gap_ms: 2 * n, never_seen_ms: 3 * n, ..Totals::default() };
    let mut sum = totals(1);
    sum.merge(&totals(10));
    assert_eq!(sum, totals(11));
    let time = |n: u64| TimeAccount {
        wall_ms: n,
        measured_ms: 2 * n,
        interpolated_ms: 3 * n,
        gap_ms: BTreeMap::from([(GapCause::Silent, n)]),
        held_ms: BTreeMap::from([(weighbridge_store::hour::HeldState::Free, n)]),
        unattributed_ms: BTreeMap::from([(weighbridge_store::hour::Unattributed::Unnamed, n)]),
    };
    let mut sum = time(1);
    sum.merge(&time(10));
    assert_eq!(sum, time(11));
}
