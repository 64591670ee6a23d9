//! The sums do not depend on when a lease, a holding or an inventory arrived, and nothing is lost in dividing.

use proptest::prelude::*;
use weighbridge_meter::{Estimator, Signs, Span, UtcMillis, window::Coverage};
use weighbridge_store::{Filter, SqliteStore, UsageStore};
use weighbridge_wire::DeviceRecord;

use crate::{
    fold::{state, wait},
    support::{Book, MINUTE, ONE_SEGMENT, at, device, window},
    world::{
        Part, Step, any_device, any_gap, any_holding, any_job, any_job_seen, any_lease, any_window, batch_of,
        written,
    },
};

/// Everything but what says how it came: sums, coverage and gaps.
async fn sums(store: &SqliteStore) -> Vec<(String, i64, String)> {
    let all = store.fingerprint().await.unwrap();
    all.into_iter().filter(|(table, ..)| ["usage", "hour", "gap"].contains(&table.as_str())).collect()
}

fn any_measured() -> impl Strategy<Value = Step> {
    batch_of(prop_oneof![6 => any_window(), 1 => any_gap()])
}

fn any_claim() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any_lease(), 2 => batch_of(any_holding()), 1 => batch_of(any_device()),
        2 => batch_of(any_job_seen()), 2 => any_job().prop_map(|job| Step::Job(Box::new(job))),
    ]
}

/// That a device is there, or gone.
fn any_presence() -> impl Strategy<Value = Part> {
    (0_u8..3, 0_u8..3, 0_i64..240, any::<bool>()).prop_map(|(number, host, minute, present)| {
        Part::Device(DeviceRecord { present, ..device(number, host, at(minute * MINUTE)) })
    })
}

/// One accelerator, one agent, windows that follow each other with or without holes.
fn any_tape() -> impl Strategy<Value = Vec<Step>> {
    let one = (0_i64..2_000_000, 1_i64..5_400_000, 0_u64..=1000, prop::option::of(0_u64..=1000));
    prop::collection::vec(one, 1..12).prop_map(|windows| {
        let mut moment = 0;
        let mut steps = Vec::new();
        for (hole, length, activity, missing) in windows {
            let (start, end) = (moment + hole, moment + hole + length);
            moment = end;
            let mut window = window(0, Span::new(at(start), at(end)).expect("not empty"), activity);
            if let Some(missing_ms) = missing.map(|missing| window.span.millis() * missing / 1000) {
                window.coverage = Coverage::Interpolated { missing_ms };
            }
            if matches!(window.coverage, Coverage::Interpolated { missing_ms: 0 }) {
                window.coverage = Coverage::Measured;
            }
            steps.push(Step::Batch { agent: 0, epoch: 0, parts: vec![Part::Window(Box::new(window))] });
        }
        steps
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn claims_before_among_and_after_the_windows_give_the_same_sums(
        measured in prop::collection::vec(any_measured(), 1..12),
        claims in prop::collection::vec(any_claim(), 1..12),
        order in prop::collection::vec(any::<bool>(), 24),
    ) {
        let before: Vec<Step> = claims.iter().chain(&measured).cloned().collect();
        let after: Vec<Step> = measured.iter().chain(&claims).cloned().collect();
        let mut among = Vec::new();
        let (mut of_measured, mut of_claims) = (measured.iter(), claims.iter());
        for claim_first in order {
            among.extend(if claim_first { of_claims.next() } else { of_measured.next() }.cloned());
        }
        among.extend(of_claims.chain(of_measured).cloned());
        wait(async {
            let expected = sums(&*written(&before, false, ONE_SEGMENT).folded().await).await;
            prop_assert_eq!(&sums(&*written(&after, false, ONE_SEGMENT).folded().await).await, &expected);
            prop_assert_eq!(&sums(&*written(&among, false, ONE_SEGMENT).folded().await).await, &expected);
            // A piece for each entry, so that each late claim finds its hours summed.
            let mut book = written(&after, false, ONE_SEGMENT);
            let store = std::sync::Arc::new(SqliteStore::in_memory().await.unwrap());
            let mut follower = book.follower(&store).await;
            for end in book.ends.clone() {
                follower.catch_up(end).await.unwrap();
            }
            prop_assert_eq!(&sums(&store).await, &expected);
            Ok(())
        })?;
    }

    #[test]
    fn records_of_jobs_and_what_was_seen_of_them_in_any_order_give_the_same_sums(
        measured in prop::collection::vec(any_measured(), 1..8),
        seen in prop::collection::vec(batch_of(any_job_seen()), 1..6),
        jobs in prop::collection::vec(any_job(), 1..8),
        shuffle in prop::collection::vec(any::<prop::sample::Index>(), 16),
        order in prop::collection::vec(any::<bool>(), 24),
    ) {
        // Of one start there is one record: a second is a correction, and then the last counts.
        let mut kept = std::collections::BTreeMap::new();
        jobs.into_iter().for_each(|job| drop(kept.insert((job.job.clone(), job.submitted), job)));
        let jobs = kept.into_values().map(|job| Step::Job(Box::new(job)));
        let claims: Vec<Step> = seen.into_iter().chain(jobs).collect();
        let mut shuffled = claims.clone();
        for (place, other) in shuffle.iter().enumerate().take(claims.len()) {
            shuffled.swap(place, other.index(claims.len()));
        }
        let mut among = Vec::new();
        let (mut of_measured, mut of_claims) = (measured.iter(), shuffled.iter());
        for claim_first in order {
            among.extend(if claim_first { of_claims.next() } else { of_measured.next() }.cloned());
        }
        among.extend(of_claims.chain(of_measured).cloned());
        wait(async {
            let before: Vec<Step> = claims.iter().chain(&measured).cloned().collect();
            let expected = sums(&*written(&before, false, ONE_SEGMENT).folded().await).await;
            let mut book = written(&among, false, ONE_SEGMENT);
            prop_assert_eq!(&sums(&*book.folded().await).await, &expected);
            // By folds that remember nothing but what is in SQL.
            let store = std::sync::Arc::new(SqliteStore::in_memory().await.unwrap());
            for end in book.ends.clone() {
                book.follower(&store).await.catch_up(end).await.unwrap();
            }
            prop_assert_eq!(&sums(&store).await, &expected);
            Ok(())
        })?;
    }

    #[test]
    fn words_on_presence_and_windows_in_any_order_give_the_same_presence(
        (told, shuffled) in prop::collection::vec(batch_of(prop_oneof![any_window(), any_presence()]), 1..12)
            .prop_flat_map(|told| (Just(told.clone()), Just(told).prop_shuffle())),
        pieces in any::<bool>(),
    ) {
        wait(async {
            let expected = state(&*written(&told, false, ONE_SEGMENT).folded().await).await.accelerators;
            let mut book = written(&shuffled, false, ONE_SEGMENT);
            let store = std::sync::Arc::new(SqliteStore::in_memory().await.unwrap());
            // Each piece by a fold that remembers nothing: hours come back from SQL.
            for end in if pieces { book.ends.clone() } else { vec![book.end()] } {
                book.follower(&store).await.catch_up(end).await.unwrap();
            }
            let found = state(&store).await.accelerators;
            prop_assert_eq!(found.len(), expected.len());
            for (id, accelerator) in &found {
                prop_assert_eq!(&accelerator.presence, &expected[id].presence, "{}", id);
                prop_assert_eq!(accelerator.first_seen, expected[id].first_seen, "{}", id);
            }
            Ok(())
        })?;
    }

    #[test]
    fn however_it_is_divided_the_best_of_a_device_is_that_of_its_windows(
        tape in any_tape(), claims in prop::collection::vec(any_claim(), 0..10),
    ) {
        // Devices of the claims may name it; windows of others do not occur.
        let steps: Vec<Step> = tape.iter().chain(&claims).cloned().collect();
        wait(async {
            let mut book: Book = written(&steps, false, ONE_SEGMENT);
            let store = book.folded().await;
            let state = state(&store).await;
            let id = crate::support::gpu(0);
            let estimator = Estimator::shipped();
            let model = state.accelerators[&id].model(estimator.table());
            let hardware = state.accelerators[&id].hardware(estimator.table(), UtcMillis(0));
            let (mut expected, mut signs) = ((0, 0, 0), Signs::default());
            for step in &tape {
                let Step::Batch { parts, .. } = step else { continue };
                for part in parts {
                    let Part::Window(window) = part else { continue };
                    let missing = match window.coverage {
                        Coverage::Measured => 0,
                        Coverage::Interpolated { missing_ms } => missing_ms,
                    };
                    expected.0 += estimator.estimate(model, window).bound.best().tera();
                    expected.1 += window.span.millis() - missing;
                    expected.2 += missing;
                    signs.merge(&Signs::of(&hardware, window));
                }
            }
            let (mut found, mut found_signs) = ((0, 0, 0), Signs::default());
            for sum in store.sums(&Filter { accelerator: Some(id), ..Filter::default() }).await.unwrap() {
                found.0 += sum.sums.bound.best().tera();
                found.1 += sum.sums.measured_ms;
                found.2 += sum.sums.interpolated_ms;
                found_signs.merge(&sum.sums.signs);
            }
            prop_assert_eq!(found.0, expected.0);
            // Shares of a millisecond go to one holder or another, measured or interpolated, but none is lost.
            prop_assert_eq!(found.1 + found.2, expected.1 + expected.2);
            prop_assert_eq!(found.1, expected.1);
            prop_assert_eq!(found_signs, signs, "evidence is divided as time is");
            Ok(())
        })?;
    }
}
