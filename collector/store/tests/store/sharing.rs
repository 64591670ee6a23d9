//! Several on one device: by what it is divided, and that nothing is lost or made on the way.

use std::collections::BTreeMap;

use expect_test::expect;
use proptest::prelude::*;
use weighbridge_meter::{Estimator, Evidence, Holding, Operations, Use};
use weighbridge_store::{
    Fact, Filter, UsageStore,
    account::{TimeAccount, account},
    entry::JobFact,
    hour::HeldState,
};

use crate::{
    fold::{state, wait},
    support::{Book, MINUTE, ONE_SEGMENT, at, batch, device, gpu, minutes, usage, window},
    world::{any_step, written},
};

fn seen(job: &str) -> Holding {
    Holding {
        principal: format!("slurm:c/{job}").parse().expect("valid"),
        attempt: format!("slurm:c/{job}").parse().expect("valid"),
        accelerators: vec![gpu(0)],
        span: minutes(0, 60),
        evidence: Evidence::SchedulerHook,
    }
}

fn record(job: &str, shares: u64) -> Fact {
    let span = minutes(0, 60);
    let name = format!("slurm:c/{job}");
    Fact::Job(JobFact {
        job: name.parse().expect("valid"),
        submitted: span.start(),
        name: None,
        principal: name.parse().expect("valid"),
        started: span.start(),
        ended: Some(span.end()),
        state: "COMPLETED".into(),
        nodes: "n1".into(),
        accelerators: 0,
        shares: Some(shares),
        restart: None,
        record: None,
        uid: None,
        array: None,
        hints: BTreeMap::default(),
    })
}

/// An hour of one device, held by jobs 1 and 2, in two windows: in the first the driver told them apart.
async fn hour(facts: Vec<Fact>, told: &[(&str, u64)]) -> String {
    let mut book = Book::enrolled(ONE_SEGMENT);
    let mut first = batch(0, 1);
    first.inventory.push(device(0, 0, at(0)));
    first.holdings = vec![seen("1"), seen("2")];
    first.windows = vec![window(0, minutes(0, 30), 500), window(0, minutes(30, 60), 500)];
    let told = told
        .iter()
        .map(|(attempt, busy_us)| Use { attempt: attempt.parse().expect("valid"), busy_us: *busy_us });
    first.windows[0].uses = told.collect();
    book.batch(&first);
    facts.into_iter().for_each(|fact| book.fact(fact));
    usage(&*book.folded().await).await
}

#[tokio::test]
async fn the_driver_divides_what_it_tells_apart_and_the_rest_goes_by_given_shares_or_equally() {
    let told = [("slurm:c/1+0", 300_000_000), ("slurm:c/2", 100_000_000), ("slurm:c/9", 0)];
    let stranger = [("slurm:c/1", 300_000_000), ("k8s:c/9", 5_000_000)];
    let equal = hour(Vec::new(), &[]).await;
    let by_driver = hour(Vec::new(), &told).await;
    let one_unknown = hour(vec![record("1", 1)], &[]).await;
    let by_shares = hour(vec![record("1", 1), record("2", 3)], &[]).await;
    let by_both = hour(vec![record("1", 1), record("2", 3)], &told).await;
    let of_nobody = hour(Vec::new(), &[("slurm:c/9", 100), ("slurm:c/1", 0)]).await;
    assert_eq!(one_unknown, equal, "shares count where those of all are known");
    assert_eq!(of_nobody, equal, "what strangers did divides nothing");
    assert_eq!(hour(Vec::new(), &stranger).await, equal, "a stranger may be a holder by another name");
    expect![[r#"
        equal
        2026-01-31T08:00:00Z GPU-0 slurm:c/1 shared 0..963478..4925582 measured 1800s interpolated 0s
        2026-01-31T08:00:00Z GPU-0 slurm:c/2 shared 0..963478..4925582 measured 1800s interpolated 0s
        by the driver, half an hour
        2026-01-31T08:00:00Z GPU-0 slurm:c/1 shared 0..1204348..4925582 measured 1800s interpolated 0s
        2026-01-31T08:00:00Z GPU-0 slurm:c/2 shared 0..722608..4925582 measured 1800s interpolated 0s
        by shares of 1 and 3
        2026-01-31T08:00:00Z GPU-0 slurm:c/1 shared 0..481740..4925582 measured 1800s interpolated 0s
        2026-01-31T08:00:00Z GPU-0 slurm:c/2 shared 0..1445216..4925582 measured 1800s interpolated 0s
        both
        2026-01-31T08:00:00Z GPU-0 slurm:c/1 shared 0..963479..4925582 measured 1800s interpolated 0s
        2026-01-31T08:00:00Z GPU-0 slurm:c/2 shared 0..963477..4925582 measured 1800s interpolated 0s
    "#]].assert_eq(&format!(
        "equal\n{equal}by the driver, half an hour\n{by_driver}by shares of 1 and 3\n{by_shares}both\n{by_both}"
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_second_has_one_state_and_every_operation_one_account(
        steps in prop::collection::vec(any_step(), 1..24),
        as_of in 0_i64..300,
    ) {
        let as_of = at(as_of * MINUTE);
        wait(async {
            let mut book = written(&steps, false, ONE_SEGMENT);
            let store = book.folded().await;
            let state = state(&store).await;
            let sums = store.sums(&Filter::default()).await.expect("valid");
            let coverage = store.coverage(&Filter::default()).await.expect("valid");
            let account = account(&state, &Estimator::shipped(), &sums, &coverage, None, as_of);
            let mut measured = Operations::ZERO;
            for one in &account.accelerators {
                let TimeAccount { wall_ms, measured_ms, interpolated_ms, gap_ms, held_ms, unattributed_ms } = &one.time;
                prop_assert_eq!(measured_ms + interpolated_ms + gap_ms.values().sum::<u64>(), *wall_ms);
                prop_assert_eq!(held_ms.values().sum::<u64>(), *wall_ms);
                let unattributed = held_ms.get(&HeldState::Unattributed).copied().unwrap_or_default();
                prop_assert_eq!(unattributed_ms.values().sum::<u64>(), unattributed);
                measured = measured.saturating_add(one.measured.bound.best());
            }
            let held = account.attempts.iter().map(|attempt| attempt.totals.measured);
            let parts = held.chain(account.unheld.values().copied());
            let parts = parts.fold(Operations::ZERO, |sum, part| sum.saturating_add(part.bound.best()));
            prop_assert_eq!(parts, measured);
            prop_assert!(account.attempts.iter().all(|attempt| !attempt.principal.is_unknown()));
            Ok(())
        })?;
    }
}
