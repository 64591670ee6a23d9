//! A rebuild that starts from a summary gives the integers that the live fold has, whatever was pruned and
//! whatever came after; what the summary says cannot be changed unseen.

use std::sync::Arc;

use proptest::prelude::*;
use weighbridge_meter::{EpochId, Estimator, UtcMillis};
use weighbridge_store::{
    Place, SqliteStore, UsageStore, closed,
    entry::Selector,
    follow::{FollowError, Follower},
    summary::{self, Summary, SummaryError},
    verify::{self, SumsError},
};

use crate::{
    fold::wait,
    support::{Book, ONE_SEGMENT, at, batch, device, key, lease, minutes, window},
    world::{Step, any_step, written},
};

const GENERATION: EpochId = EpochId([4; 16]);

/// The last segment but those that may be pruned.
async fn prunable(book: &Book, store: &SqliteStore, closed: UtcMillis, place: Place) -> u64 {
    let needed = store.oldest_needed(book.folder(), closed).await.unwrap();
    needed.map_or(place.segment, |(segment, _)| segment.min(place.segment))
}

async fn summarise(book: &Book, store: &SqliteStore, folder: &std::path::Path) -> Summary {
    summary::write(store, book.folder(), folder, GENERATION, &key(9), at(0)).await.unwrap()
}

/// A fresh store, from a summary if one is needed, with all of the ledger in it.
async fn rebuilt(book: &Book, summaries: &std::path::Path) -> (Option<Summary>, Arc<SqliteStore>) {
    let store = Arc::new(SqliteStore::in_memory().await.unwrap());
    let summary = summary::begin(&store, book.folder(), summaries, book.end()).await.unwrap();
    let mut follower = Follower::new(book.folder(), store.clone(), Estimator::shipped()).await.unwrap();
    follower.catch_up(book.end()).await.unwrap();
    (summary, store)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn pruned_anywhere_and_rebuilt_it_gives_the_same_integers(
        before in prop::collection::vec(any_step(), 1..14),
        between in prop::collection::vec(any_step(), 0..8),
        after in prop::collection::vec(any_step(), 0..8),
        (first, second) in (0_i64..4, 0_i64..4),
        piecewise in any::<bool>(),
    ) {
        let steps: Vec<Step> = before
            .iter()
            .chain([&Step::Close(first)])
            .chain(&between)
            .chain([&Step::Close(second)])
            .chain(&after)
            .cloned()
            .collect();
        wait(async {
            // Segments of about an entry each, so that every place is a place to prune.
            let mut book = written(&steps, false, 300);
            let enrolments = book.ends.len() - steps.len();
            let ends = book.ends.clone();
            let live = Arc::new(SqliteStore::in_memory().await.unwrap());
            let mut follower = book.follower(&live).await;
            let summaries = tempfile::tempdir().unwrap();
            let mut prune = Vec::new();
            for (index, end) in ends.into_iter().enumerate() {
                let step = index.checked_sub(enrolments).map(|index| &steps[index]);
                if piecewise || matches!(step, Some(Step::Close(_))) {
                    follower.catch_up(end).await.unwrap();
                }
                if let Some(Step::Close(_)) = step {
                    let closed = crate::fold::state(&live).await.closed_before.unwrap();
                    summarise(&book, &live, summaries.path()).await;
                    prune.push(prunable(&book, &live, closed, end).await);
                }
            }
            follower.catch_up(book.end()).await.unwrap();
            let expected = live.fingerprint().await.unwrap();

            let (from, whole) = rebuilt(&book, summaries.path()).await;
            prop_assert_eq!(from, None, "nothing is pruned yet");
            prop_assert_eq!(&whole.fingerprint().await.unwrap(), &expected);
            for segment in prune {
                book.prune(segment);
                let (from, fresh) = rebuilt(&book, summaries.path()).await;
                prop_assert_eq!(from.is_some(), segment > 1);
                prop_assert_eq!(&fresh.fingerprint().await.unwrap(), &expected);
            }
            Ok(())
        })?;
    }
}

/// Two hours of one accelerator under a lease; the first is closed and pruned.
async fn pruned(summaries: &std::path::Path) -> (Book, Summary, Vec<(String, i64, String)>) {
    let mut book = Book::enrolled(300);
    let mut first = batch(0, 1);
    first.inventory.push(device(0, 0, at(0)));
    first.windows.push(window(0, minutes(0, 30), 500));
    book.batch(&first);
    let mut second = batch(0, 2);
    second.windows.push(window(0, minutes(70, 80), 500));
    book.batch(&second);
    book.fact(weighbridge_store::Fact::Lease(lease("L", 0, Selector::All, "lease:site/1", minutes(0, 90))));
    book.fact(closed::fact(at(UtcMillis::HOUR)));
    let live = book.folded().await;
    let summary = summarise(&book, &live, summaries).await;
    let closed = at(UtcMillis::HOUR);
    let segment = prunable(&book, &live, closed, book.end()).await;
    assert!(segment > 1, "something can be pruned");
    book.fact(summary.fact(closed, segment));
    book.sync();
    book.prune(segment);
    let live = {
        let mut follower = book.follower(&live).await;
        follower.catch_up(book.end()).await.unwrap();
        live
    };
    (book, summary, live.fingerprint().await.unwrap())
}

#[tokio::test]
async fn a_closed_hour_stays_as_it_is_and_an_open_one_follows_a_late_lease() {
    let summaries = tempfile::tempdir().unwrap();
    let (mut book, ..) = pruned(summaries.path()).await;
    let (_, before) = rebuilt(&book, summaries.path()).await;
    // Ends earlier in both hours; the import refuses it, and a fold that meets it all the same goes on.
    book.fact(weighbridge_store::Fact::Lease(lease("L", 0, Selector::All, "lease:site/1", minutes(0, 20))));
    book.sync();
    let (_, after) = rebuilt(&book, summaries.path()).await;
    let held = async |store: &SqliteStore, from: i64, to: i64| {
        let filter = weighbridge_store::Filter {
            from: Some(at(from * UtcMillis::HOUR)),
            to: Some(at(to * UtcMillis::HOUR)),
            ..Default::default()
        };
        store.sums(&filter).await.unwrap()
    };
    assert_eq!(held(&before, 0, 1).await, held(&after, 0, 1).await);
    assert_ne!(held(&before, 1, 2).await, held(&after, 1, 2).await);
}

#[tokio::test]
async fn without_its_summary_a_pruned_ledger_is_refused_and_not_folded_from_the_middle() {
    let summaries = tempfile::tempdir().unwrap();
    let (book, summary, _) = pruned(summaries.path()).await;
    std::fs::remove_file(&summary.file).unwrap();
    let store = Arc::new(SqliteStore::in_memory().await.unwrap());
    let begun = summary::begin(&store, book.folder(), summaries.path(), book.end()).await;
    assert!(matches!(begun, Err(SummaryError::Missing { .. })), "{begun:?}");
    let mut follower = Follower::new(book.folder(), store, Estimator::shipped()).await.unwrap();
    assert!(matches!(follower.catch_up(book.end()).await, Err(FollowError::Pruned { .. })));
}

#[tokio::test]
async fn a_summary_of_another_history_is_passed_over() {
    let (summaries, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (book, ours, expected) = pruned(summaries.path()).await;
    // The same number of entries, another lease.
    let mut other = Book::enrolled(ONE_SEGMENT);
    for index in 0..4 {
        other.fact(crate::support::record(&index.to_string(), serde_json::json!({})));
    }
    let store = other.folded().await;
    let theirs = summarise(&other, &store, others.path()).await;
    assert_eq!(theirs.header.place, ours.header.place);
    // It is the newest by name.
    std::fs::copy(&theirs.file, summaries.path().join("99999999999999999999.sum")).unwrap();
    let (from, fresh) = rebuilt(&book, summaries.path()).await;
    assert_eq!(from, Some(ours));
    assert_eq!(fresh.fingerprint().await.unwrap(), expected);
}

#[tokio::test]
async fn a_summary_that_no_fact_commits_is_passed_over_by_who_verifies() {
    let summaries = tempfile::tempdir().unwrap();
    let (mut book, committed, _) = pruned(summaries.path()).await;
    let (_, live) = rebuilt(&book, summaries.path()).await;
    // As a pruning leaves it that a crash ended before its fact.
    let left = summarise(&book, &live, summaries.path()).await;
    assert!(left.file > committed.file);
    book.fact(crate::support::record("1", serde_json::json!({})));
    book.sync();
    book.follower(&live).await.catch_up(book.end()).await.unwrap();
    let sums = verify::sums(book.folder(), summaries.path(), &live, Estimator::shipped()).await;
    assert!(matches!(sums, Ok(None)), "{sums:?}");
    // Without the one that is committed there is none to start from.
    std::fs::remove_file(&committed.file).unwrap();
    let sums = verify::sums(book.folder(), summaries.path(), &live, Estimator::shipped()).await;
    let entry = left.header.place.index;
    assert!(
        matches!(&sums, Err(SumsError::Summary(SummaryError::Uncommitted { entry: of })) if *of == entry),
        "{sums:?}"
    );
}

#[tokio::test]
async fn sums_that_stand_where_the_summary_was_made_are_as_good_as_any() {
    let summaries = tempfile::tempdir().unwrap();
    let (book, committed, _) = pruned(summaries.path()).await;
    // As whoever dies before the sums reflect the fact that commits it leaves them.
    let live = SqliteStore::in_memory().await.unwrap();
    summary::load(&live, &committed.file).await.unwrap();
    let sums = verify::sums(book.folder(), summaries.path(), &live, Estimator::shipped()).await;
    assert!(matches!(sums, Ok(None)), "{sums:?}");
}

#[tokio::test]
async fn a_window_of_hours_to_come_is_pruned_with_the_rest_and_void_from_then_on() {
    let summaries = tempfile::tempdir().unwrap();
    let mut book = Book::enrolled(300);
    // Everything here is received 30 days after the start.
    let to_come = |sequence, minutes| {
        let mut one = batch(u8::try_from(sequence).unwrap() % 2, sequence);
        one.windows.push(window(0, minutes, 500));
        one
    };
    book.batch(&to_come(2, minutes(90 * 1440, 90 * 1440 + 30)));
    let mut honest = batch(0, 4);
    honest.windows.push(window(0, minutes(0, 30), 500));
    book.batch(&honest);
    let closed = at(UtcMillis::HOUR);
    book.fact(closed::fact(closed));
    let live = book.folded().await;
    assert_eq!(live.oldest_needed(book.folder(), closed).await.unwrap(), None);
    let summary = summarise(&book, &live, summaries.path()).await;
    book.fact(summary.fact(closed, book.end().segment));
    book.sync();
    // Another agent speaks of the same time, before the segments go and after.
    book.batch(&to_come(1, minutes(90 * 1440 + 20, 90 * 1440 + 25)));
    book.sync();
    let (_, whole) = rebuilt(&book, summaries.path()).await;
    let segment = summary.header.place.segment;
    assert!(segment > 1);
    book.follower(&live).await.catch_up(book.end()).await.unwrap();
    book.prune(segment);
    book.batch(&to_come(3, minutes(90 * 1440 + 22, 90 * 1440 + 28)));
    book.sync();
    let (from, fresh) = rebuilt(&book, summaries.path()).await;
    assert!(from.is_some());
    for store in [&live, &whole] {
        book.follower(store).await.catch_up(book.end()).await.unwrap();
        assert_eq!(store.fingerprint().await.unwrap(), fresh.fingerprint().await.unwrap());
    }
    let usage = crate::support::usage(&live).await;
    assert!(usage.contains("measured 480s"), "what is void counts no more: {usage}");
}

#[tokio::test]
async fn a_changed_summary_is_found_whatever_is_changed_in_it() {
    let summaries = tempfile::tempdir().unwrap();
    let (_, summary, _) = pruned(summaries.path()).await;
    let whole = std::fs::read(&summary.file).unwrap();
    let plain = zstd::decode_all(whole.as_slice()).unwrap();
    let text = String::from_utf8(plain).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let changed = |lines: Vec<String>| {
        let text = lines.join("\n") + "\n";
        zstd::encode_all(text.as_bytes(), 1).unwrap()
    };
    let usage = lines.iter().position(|line| line.contains("lease:site/1") && line.starts_with('[')).unwrap();
    let without = |index: usize| {
        let mut kept: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        kept.remove(index);
        kept
    };
    let mut edited: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    edited[usage] = edited[usage].replace("lease:site/1", "lease:site/2");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let cases = [
        ("a row edited", changed(edited)),
        ("a row left out", changed(without(usage))),
        ("no signature", changed(without(lines.len() - 1))),
        ("a byte flipped", flipped),
        ("cut short", whole[..whole.len() - 9].to_vec()),
        ("empty", Vec::new()),
    ];
    for (name, bytes) in cases {
        std::fs::write(&summary.file, bytes).unwrap();
        let store = SqliteStore::in_memory().await.unwrap();
        let loaded = summary::load(&store, &summary.file).await;
        assert!(matches!(loaded, Err(SummaryError::Damaged { .. })), "{name}: {loaded:?}");
        assert_eq!(store.stands().await.unwrap().index, 0, "{name}: nothing of it is taken");
    }
}
