//! What was answered is on the disk, and nothing is there twice.

use std::{path::Path, time::Duration};

use tokio::task::JoinSet;
use weighbridge_journal::{Journal, OpenError, Options, Reader};
use weighbridge_meter::{BootId, EpochId, UtcMillis};
use weighbridge_store::{
    Body, Entry, Fact, Ledger, LedgerOptions, Place, SqliteStore, State, UsageStore,
    entry::{LeaseFact, Received, Selector},
    follow::Follower,
    ledger::{CommitError, Committed, Health, LedgerError, Missing, OpenLedger, Outcome},
    state::CursorRow,
};
use weighbridge_wire::{Batch, Loss, LossCause};

use crate::support::{agent, at, batch, enrolled, lease, minutes, record, submission, window};

pub(crate) fn opened(folder: &Path, segment_bytes: u64) -> OpenLedger {
    let (journal, retry) = (Options { segment_bytes }, Duration::from_millis(2));
    let options = LedgerOptions { journal, reserve_bytes: Some(0), retry };
    OpenLedger::open(folder, &options, &mut |bytes| bytes.fill(3)).unwrap()
}

fn fresh(folder: &Path) -> Ledger {
    opened(folder, 500).start(Vec::new(), &State::default())
}

/// Stops the thread and waits until the journal is closed.
async fn close(ledger: Ledger) {
    let mut durable = ledger.durable();
    drop(ledger);
    while durable.changed().await.is_ok() {}
}

/// Batches of an agent, each with the hash of the one before.
fn chain(number: u8, count: u64) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut prev_hash = [0; 32];
    for sequence in 1..=count {
        let mut next = batch(number, sequence);
        next.prev_hash = prev_hash;
        next.windows.push(window(number, minutes(sequence.cast_signed(), sequence.cast_signed() + 1), 500));
        prev_hash = submission(number, next.clone(), None, at(0)).hash;
        batches.push(next);
    }
    batches
}

async fn submit(ledger: &Ledger, batch: &Batch) -> Result<Outcome, CommitError> {
    Ok(committed(ledger, batch).await?.outcome)
}

/// With what is missing.
async fn committed(ledger: &Ledger, batch: &Batch) -> Result<Committed, CommitError> {
    let number = crate::support::number(batch);
    ledger.submit(submission(number, batch.clone(), None, at(UtcMillis::DAY))).await
}

/// Everything before `end`, as somebody else reads it.
fn entries(folder: &Path, end: Place) -> Vec<Entry> {
    let mut reader = Reader::from_start(folder);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_before(end).unwrap() {
        entries.push(Entry::decode(&entry.payload).unwrap());
    }
    entries
}

fn now(ledger: &Ledger) -> Place {
    *ledger.durable().borrow()
}

/// The cursors that a fold of the ledger leaves in SQL.
async fn cursors(folder: &Path, end: Place) -> (Vec<CursorRow>, State) {
    let store = std::sync::Arc::new(SqliteStore::in_memory().await.unwrap());
    let estimator = weighbridge_meter::Estimator::shipped();
    Follower::new(folder, store.clone(), estimator).await.unwrap().catch_up(end).await.unwrap();
    (store.cursors().await.unwrap(), crate::fold::state(&store).await)
}

#[tokio::test]
async fn a_duplicate_is_acknowledged_and_not_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    let one = &chain(0, 1)[0];
    assert!(matches!(submit(&ledger, one).await, Ok(Outcome::Accepted { .. })));
    let before = now(&ledger);
    assert!(matches!(submit(&ledger, one).await, Ok(Outcome::Duplicate)));
    assert_eq!(now(&ledger), before);
    assert_eq!(entries(dir.path(), before).len(), 1);
}

#[tokio::test]
async fn the_leaf_commits_to_envelope_salt_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    let sent = submission(0, batch(0, 1), None, at(0));
    let leaf = |received: &Received, time| {
        let entry = Entry { received: time, body: Body::Batch(received.clone()) };
        weighbridge_store::entry::leaf_hash(&entry.encode(&[0; 16]))
    };
    let expected = leaf(&sent.received, at(0));
    assert_ne!(expected, leaf(&sent.received, at(1)));
    for change in [|r: &mut Received| r.salt[0] ^= 1, |r: &mut Received| r.envelope[9] ^= 1] {
        let mut other = sent.received.clone();
        change(&mut other);
        assert_ne!(expected, leaf(&other, at(0)));
    }
    assert_eq!(ledger.submit(sent).await.unwrap().outcome, Outcome::Accepted { leaf_hash: expected });
}

#[tokio::test]
async fn the_same_fact_recorded_twice_makes_two_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    ledger.record(at(0), vec![enrolled(0), enrolled(0)]).await.unwrap();
    let mut reader = weighbridge_journal::Reader::from_start(dir.path());
    let payloads: Vec<_> = std::iter::from_fn(|| reader.next().unwrap()).map(|entry| entry.payload).collect();
    assert_eq!(Entry::decode(&payloads[0]).unwrap(), Entry::decode(&payloads[1]).unwrap());
    assert_ne!(payloads[0], payloads[1]);
}

#[tokio::test]
async fn another_batch_with_the_same_number_is_refused_and_nothing_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    submit(&ledger, &batch(0, 1)).await.unwrap();
    let before = now(&ledger);
    let mut other = batch(0, 1);
    other.windows.push(window(0, minutes(0, 1), 1));
    assert!(matches!(submit(&ledger, &other).await, Err(CommitError::Conflict { sequence: 1, .. })));
    assert_eq!(now(&ledger), before);
    // In another epoch it is another batch.
    other.epoch = weighbridge_meter::EpochId([8; 16]);
    assert!(matches!(submit(&ledger, &other).await, Ok(Outcome::Accepted { .. })));
}

#[tokio::test]
async fn a_chain_that_leads_elsewhere_is_refused_and_nothing_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    let batches = chain(0, 3);
    let mut first = batches[0].clone();
    first.prev_hash = [1; 32];
    assert!(matches!(submit(&ledger, &first).await, Err(CommitError::BrokenChain { sequence: 1, .. })));
    submit(&ledger, &batches[0]).await.unwrap();
    let before = now(&ledger);
    let mut second = batches[1].clone();
    second.prev_hash = [1; 32];
    assert!(matches!(submit(&ledger, &second).await, Err(CommitError::BrokenChain { sequence: 2, .. })));
    assert_eq!(now(&ledger), before);
    // Out of order is not broken: what is before it may still be on its way.
    assert!(matches!(submit(&ledger, &batches[2]).await, Ok(Outcome::Accepted { .. })));
    assert!(matches!(submit(&ledger, &batches[1]).await, Ok(Outcome::Accepted { .. })));
}

#[tokio::test]
async fn a_number_below_what_is_remembered_is_old_and_the_ledger_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    let batches = chain(0, 5);
    for one in &batches {
        submit(&ledger, one).await.unwrap();
    }
    close(ledger).await;
    let open = opened(dir.path(), 500);
    let end = open.durable();
    let (rows, state) = cursors(dir.path(), end).await;
    let ledger = open.start(rows, &state);
    assert!(matches!(submit(&ledger, &batches[2]).await, Ok(Outcome::Old)));
    assert!(matches!(submit(&ledger, &batches[4]).await, Ok(Outcome::Duplicate)), "the last one is known");
    assert_eq!(now(&ledger), end);

    let hash = |number: usize| submission(0, batches[number - 1].clone(), None, at(0)).hash;
    let store = std::sync::Arc::new(SqliteStore::in_memory().await.unwrap());
    let estimator = weighbridge_meter::Estimator::shipped();
    Follower::new(dir.path(), store.clone(), estimator).await.unwrap().catch_up(end).await.unwrap();
    let places = store.places(&agent(0), at(0)).await.unwrap();
    assert!(places.len() > 1, "in several segments");
    assert!(!ledger.has(&hash(5), &places[..1], end).unwrap(), "it lies elsewhere");
    assert!(!ledger.recalls(&hash(3)), "nobody looked there");
    assert!(ledger.has(&hash(3), &places, end).unwrap());
    assert!(!ledger.has(&[0; 32], &places, end).unwrap(), "another batch under any number");
    // What was read once is not read again.
    for segment in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::remove_file(segment.unwrap().path()).unwrap();
    }
    for number in 1..=5 {
        assert!(ledger.recalls(&hash(number)) && ledger.has(&hash(number), &places, end).unwrap());
    }
}

#[tokio::test]
async fn a_restart_goes_on_where_the_chains_were() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    let batches = chain(0, 6);
    for number in [0, 1, 3, 4] {
        submit(&ledger, &batches[number]).await.unwrap();
    }
    close(ledger).await;
    let open = opened(dir.path(), 500);
    let (rows, state) = cursors(dir.path(), open.durable()).await;
    assert_eq!(rows[0].numbers.missing(9), [(3, 3)]);
    let ledger = open.start(rows, &state);
    // Above the hole they are known too, the last one with its hash.
    assert!(matches!(submit(&ledger, &batches[3]).await, Ok(Outcome::Old)));
    assert!(matches!(submit(&ledger, &batches[4]).await, Ok(Outcome::Duplicate)));
    let mut forged = batches[5].clone();
    forged.prev_hash = [1; 32];
    assert!(matches!(submit(&ledger, &forged).await, Err(CommitError::BrokenChain { .. })));
    let mut conflict = batches[4].clone();
    conflict.windows.clear();
    assert!(matches!(submit(&ledger, &conflict).await, Err(CommitError::Conflict { .. })));
    // What fills the hole must be what the one after it says was there.
    let mut filler = batches[2].clone();
    filler.windows.clear();
    assert!(matches!(submit(&ledger, &filler).await, Err(CommitError::BrokenChain { sequence: 3, .. })));
    for number in [2, 5] {
        assert!(matches!(submit(&ledger, &batches[number]).await, Ok(Outcome::Accepted { .. })));
    }
    let (rows, _) = cursors(dir.path(), now(&ledger)).await;
    assert_eq!((rows[0].numbers.highest(), rows[0].numbers.missing_count()), (6, 0));
    let last = submission(0, batches[5].clone(), None, at(0)).hash;
    assert_eq!(rows[0].numbers.hash(6), Some(last));
}

#[tokio::test]
async fn more_hashes_than_are_kept_make_the_oldest_old() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = opened(dir.path(), 1 << 20).start(Vec::new(), &State::default());
    let batches = chain(0, 4097);
    for some in batches.chunks(1000) {
        let mut all = JoinSet::new();
        for one in some {
            let (ledger, sent) = (ledger.clone(), submission(0, one.clone(), None, at(0)));
            all.spawn(async move { ledger.submit(sent).await });
        }
        while let Some(outcome) = all.join_next().await {
            assert!(matches!(outcome.unwrap().unwrap().outcome, Outcome::Accepted { .. }));
        }
    }
    assert!(matches!(submit(&ledger, &batches[0]).await, Ok(Outcome::Old)));
    assert!(matches!(submit(&ledger, &batches[1]).await, Ok(Outcome::Duplicate)));
}

#[tokio::test]
async fn whatever_was_answered_is_read_back_by_others_though_many_came_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    let mut all = JoinSet::new();
    for number in 0..100_u8 {
        let ledger = ledger.clone();
        let folder = dir.path().to_owned();
        all.spawn(async move {
            let sent = submission(number, batch(number, 1), None, at(0));
            let envelope = sent.received.envelope.clone();
            let outcome = ledger.submit(sent).await.unwrap().outcome;
            assert!(matches!(outcome, Outcome::Accepted { .. }));
            let durable = now(&ledger);
            let found = entries(&folder, durable).into_iter().any(|entry| match entry.body {
                Body::Batch(received) => received.envelope == envelope,
                Body::Fact(_) => false,
            });
            assert!(found, "answered, but not durable");
        });
    }
    all.spawn({
        let (ledger, folder) = (ledger.clone(), dir.path().to_owned());
        async move {
            let facts = (0..4).map(enrolled).collect();
            let after = ledger.record(at(1), facts).await.unwrap();
            let kept = entries(&folder, after);
            assert!(kept.iter().any(|entry| matches!(&entry.body, Body::Fact(Fact::Agent(_)))));
            assert!(now(&ledger) >= after);
        }
    });
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert_eq!(entries(dir.path(), now(&ledger)).len(), 104);
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_the_rest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = opened(dir.path(), 1 << 20).start(Vec::new(), &State::default());
    let batches = chain(0, 3);
    for one in &batches {
        submit(&ledger, one).await.unwrap();
    }
    let generation = ledger.generation();
    close(ledger).await;
    let segment = dir.path().join("00000000000000000001.seg");
    let bytes = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &bytes[..bytes.len() - 3]).unwrap();

    let open = opened(dir.path(), 1 << 20);
    assert!(open.cut_bytes > 0);
    assert_eq!(open.durable().index, 3, "the torn one has to come again");
    let (rows, state) = cursors(dir.path(), open.durable()).await;
    let ledger = open.start(rows, &state);
    assert_eq!(ledger.generation(), generation);
    assert!(matches!(submit(&ledger, &batches[2]).await, Ok(Outcome::Accepted { .. })));
    assert_eq!(entries(dir.path(), now(&ledger)).len(), 3);
}

#[tokio::test]
async fn after_the_disk_refused_nothing_of_it_is_believed_and_the_ledger_opens_again_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = opened(dir.path(), 0).start(Vec::new(), &State::default());
    let batches = chain(0, 3);
    submit(&ledger, &batches[0]).await.unwrap();
    let before = now(&ledger);
    let mut health = ledger.health();
    assert_eq!(*health.borrow(), Health::Writable);
    // In the way of the next segment.
    let obstacle = dir.path().join("00000000000000000002.seg");
    std::fs::create_dir(&obstacle).unwrap();
    assert!(matches!(submit(&ledger, &batches[1]).await, Err(CommitError::Unwritable)));
    // It is said a moment after whoever waited was let go.
    health.wait_for(|health| *health == Health::Unwritable).await.unwrap();
    assert!(
        matches!(submit(&ledger, &batches[0]).await, Err(CommitError::Unwritable)),
        "not even a duplicate"
    );
    assert!(matches!(ledger.record(at(0), vec![enrolled(0)]).await, Err(CommitError::Unwritable)));
    assert_eq!(now(&ledger), before);
    // It is nobody else's meanwhile.
    let other = OpenLedger::open(dir.path(), &LedgerOptions::default(), &mut |_| {});
    assert!(
        matches!(other, Err(LedgerError::Journal { source: OpenError::Locked { .. }, .. })),
        "{:?}",
        other.err()
    );

    std::fs::remove_dir(&obstacle).unwrap();
    health.wait_for(|health| *health == Health::Writable).await.unwrap();
    // What was refused is not taken for a duplicate when it comes again.
    assert!(matches!(submit(&ledger, &batches[1]).await, Ok(Outcome::Accepted { .. })));
    assert!(matches!(submit(&ledger, &batches[0]).await, Ok(Outcome::Duplicate)));
    assert!(matches!(submit(&ledger, &batches[2]).await, Ok(Outcome::Accepted { .. })));
    assert_eq!(entries(dir.path(), now(&ledger)).len(), 3);
}

#[tokio::test]
async fn what_was_written_and_never_synced_is_cut_off_before_the_ledger_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = opened(dir.path(), 0).start(Vec::new(), &State::default());
    let batches = chain(0, 4);
    submit(&ledger, &batches[0]).await.unwrap();
    let before = now(&ledger);
    // The second is whole in a segment of its own when the third finds an obstacle in the same group.
    let obstacle = dir.path().join("00000000000000000003.seg");
    std::fs::create_dir(&obstacle).unwrap();
    let facts = vec![enrolled(1), enrolled(2)];
    assert!(matches!(ledger.record(at(0), facts.clone()).await, Err(CommitError::Unwritable)));
    std::fs::remove_dir(&obstacle).unwrap();
    let mut health = ledger.health();
    health.wait_for(|health| *health == Health::Writable).await.unwrap();
    assert_eq!(now(&ledger), before);
    ledger.record(at(0), facts).await.unwrap();
    submit(&ledger, &batches[1]).await.unwrap();
    let kinds: Vec<bool> =
        entries(dir.path(), now(&ledger)).iter().map(|entry| matches!(entry.body, Body::Batch(_))).collect();
    assert_eq!(kinds, [true, false, false, true]);
}

#[tokio::test]
async fn a_full_disk_takes_facts_and_known_batches_but_nothing_new() {
    let dir = tempfile::tempdir().unwrap();
    let batches = chain(0, 2);
    let ledger = fresh(dir.path());
    submit(&ledger, &batches[0]).await.unwrap();
    close(ledger).await;
    let (rows, state) = cursors(dir.path(), opened(dir.path(), 500).durable()).await;
    let options = LedgerOptions { reserve_bytes: Some(u64::MAX), ..LedgerOptions::default() };
    let open = OpenLedger::open(dir.path(), &options, &mut |bytes| bytes.fill(3)).unwrap();
    let ledger = open.start(rows, &state);
    let before = now(&ledger);
    assert!(matches!(submit(&ledger, &batches[1]).await, Err(CommitError::Full)));
    assert_eq!((now(&ledger), *ledger.health().borrow()), (before, Health::Full));
    assert!(matches!(submit(&ledger, &batches[0]).await, Ok(Outcome::Duplicate)));
    ledger.record(at(0), vec![enrolled(0)]).await.unwrap();
}

#[tokio::test]
async fn a_hole_is_asked_for_until_it_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    let batches = chain(0, 9);
    let epoch = batches[0].epoch;
    let missing = |first, last| Missing { epoch, first, last };
    assert_eq!(committed(&ledger, &batches[0]).await.unwrap().missing, []);
    assert_eq!(committed(&ledger, &batches[3]).await.unwrap().missing, [missing(2, 3)]);
    assert_eq!(committed(&ledger, &batches[6]).await.unwrap().missing, [missing(2, 3), missing(5, 6)]);
    assert_eq!(committed(&ledger, &batches[2]).await.unwrap().missing, [missing(2, 2), missing(5, 6)]);
    // A duplicate is told too, and so is another epoch; another agent is not.
    assert_eq!(committed(&ledger, &batches[2]).await.unwrap().missing, [missing(2, 2), missing(5, 6)]);
    let other = Batch { epoch: EpochId([8; 16]), ..batches[0].clone() };
    assert_eq!(committed(&ledger, &other).await.unwrap().missing, [missing(2, 2), missing(5, 6)]);
    assert_eq!(committed(&ledger, &chain(1, 1)[0]).await.unwrap().missing, []);
    for number in [1, 4, 5] {
        committed(&ledger, &batches[number]).await.unwrap();
    }
    assert_eq!(committed(&ledger, &batches[7]).await.unwrap().missing, []);
}

#[tokio::test]
async fn a_hole_is_closed_by_the_word_that_its_batches_are_lost_and_stays_closed_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    let mut batches = chain(0, 6);
    let epoch = batches[0].epoch;
    let loss = |first, last, cause| Loss { epoch, first, last, cause };
    batches[5].losses = vec![loss(2, 2, LossCause::Damaged), loss(3, 4, LossCause::Parked)];
    committed(&ledger, &batches[0]).await.unwrap();
    assert_eq!(committed(&ledger, &batches[4]).await.unwrap().missing.len(), 1);
    assert_eq!(committed(&ledger, &batches[5]).await.unwrap().missing, []);
    close(ledger).await;

    let open = opened(dir.path(), 500);
    let (rows, state) = cursors(dir.path(), open.durable()).await;
    let lost: Vec<_> = rows[0].numbers.lost().collect();
    assert_eq!(lost, [(2, 2, LossCause::Damaged), (3, 4, LossCause::Parked)]);
    let ledger = open.start(rows, &state);
    assert_eq!(committed(&ledger, &batches[5]).await.unwrap().missing, []);
    // What comes after all is taken, and counts as lost no more.
    assert!(matches!(submit(&ledger, &batches[2]).await, Ok(Outcome::Accepted { .. })));
    let (rows, _) = cursors(dir.path(), now(&ledger)).await;
    let lost: Vec<_> = rows[0].numbers.lost().collect();
    assert_eq!(lost, [(2, 2, LossCause::Damaged), (4, 4, LossCause::Parked)]);
}

#[tokio::test]
async fn an_agent_that_makes_hole_after_hole_is_refused_before_memory_grows_and_may_fill_them() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = opened(dir.path(), 1 << 20).start(Vec::new(), &State::default());
    let one = |sequence| Batch { sequence, ..batch(0, sequence) };
    for sequence in 1..=1_000 {
        assert!(matches!(submit(&ledger, &one(sequence * 2)).await, Ok(Outcome::Accepted { .. })));
    }
    assert!(matches!(submit(&ledger, &one(2_002)).await, Err(CommitError::Holes { sequence: 2_002, .. })));
    let asked = committed(&ledger, &one(2_000)).await.unwrap().missing;
    assert_eq!(asked.len(), 16, "no more than a few are asked for at a time");
}

/// The agent gives up one number in each of these epochs, or of these numbers.
fn losing(sequence: u64, losses: impl IntoIterator<Item = (EpochId, u64)>) -> Batch {
    let lost = |(epoch, number)| Loss { epoch, first: number, last: number, cause: LossCause::Removed };
    Batch { losses: losses.into_iter().map(lost).collect(), ..batch(0, sequence) }
}

#[tokio::test]
async fn losses_without_end_are_refused_before_memory_grows() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = opened(dir.path(), 1 << 30).start(Vec::new(), &State::default());
    let numbered = |number: u64| EpochId(u128::from(number).to_le_bytes());
    let number = |sequence: u64| Batch { epoch: numbered(sequence), ..losing(1, []) };
    // Every second number of one epoch: each is a range of its own.
    let every_second = |sequence: u64, from: u64| {
        let numbers = (from..from + 1_000).map(|number| (numbered(0), 2 * number));
        Batch { epoch: numbered(sequence), ..losing(1, numbers) }
    };
    submit(&ledger, &every_second(1, 1)).await.unwrap();
    submit(&ledger, &every_second(2, 1_001)).await.unwrap();
    let refused = submit(&ledger, &every_second(3, 2_001)).await;
    assert!(matches!(refused, Err(CommitError::Holes { limit: 2_000, .. })), "{refused:?}");
    submit(&ledger, &every_second(3, 1)).await.expect("it is known already");
    // With the four there are.
    let mut before = submission(0, every_second(3, 1), None, at(0)).hash;
    for thousand in 0..9 {
        let epochs = (0..1_000).map(|number| (numbered(1_000_000 + thousand * 1_000 + number), 1));
        let next = Batch { epoch: numbered(3), prev_hash: before, ..losing(2 + thousand, epochs) };
        before = submission(0, next.clone(), None, at(0)).hash;
        submit(&ledger, &next).await.unwrap();
    }
    let epochs = (0..997).map(|number| (numbered(2_000_000 + number), 1));
    let next = Batch { epoch: numbered(3), prev_hash: before, ..losing(11, epochs) };
    let refused = submit(&ledger, &next).await;
    assert!(matches!(refused, Err(CommitError::Epochs { limit: 10_000, .. })), "{refused:?}");
    let next = Batch { losses: next.losses[1..].to_vec(), ..next };
    submit(&ledger, &next).await.expect("10,000 there may be");
    assert!(matches!(submit(&ledger, &number(4)).await, Err(CommitError::Epochs { .. })));
}

#[tokio::test]
async fn a_spool_that_was_set_back_is_told_from_a_number_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    let batches = chain(0, 5);
    for one in &batches {
        submit(&ledger, one).await.unwrap();
    }
    // Restored to where it was after the third, it goes on from there.
    let mut other = batches[3].clone();
    other.windows.push(window(0, minutes(50, 51), 9));
    let refused = submit(&ledger, &other).await;
    assert!(
        matches!(refused, Err(CommitError::Conflict { sequence: 4, highest: 5, set_back: true, .. })),
        "{refused:?}"
    );
    other.prev_hash = [9; 32];
    let refused = submit(&ledger, &other).await;
    assert!(matches!(refused, Err(CommitError::Conflict { set_back: false, .. })), "{refused:?}");
}

#[tokio::test]
async fn agents_send_a_restored_ledger_again_what_it_lost_and_nothing_counts_twice() {
    let (dir, restored) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ledger = fresh(dir.path());
    let batches = chain(0, 12);
    for one in &batches[..7] {
        submit(&ledger, one).await.unwrap();
    }
    let backup = now(&ledger);
    // As of now: a copy of everything that is durable.
    let mut copy = Journal::open(restored.path(), Options { segment_bytes: 500 }).unwrap().0;
    for entry in entries(dir.path(), backup) {
        copy.append(&entry.encode(&[0; 16])).unwrap();
    }
    copy.sync().unwrap();
    drop(copy);
    for one in &batches[7..] {
        submit(&ledger, one).await.unwrap();
    }
    let expected = prints(dir.path(), now(&ledger)).await;

    let open =
        OpenLedger::open(restored.path(), &LedgerOptions::default(), &mut |bytes| bytes.fill(9)).unwrap();
    let (rows, state) = cursors(restored.path(), open.durable()).await;
    let again = open.start(rows, &state);
    assert_ne!(again.generation(), ledger.generation());
    // Even an agent that does not look at the generation is asked for what is missing.
    let asked = committed(&again, &batches[11]).await.unwrap().missing;
    assert_eq!(asked, [Missing { epoch: batches[0].epoch, first: 8, last: 11 }]);
    // One that does sends all that it still holds.
    for one in &batches {
        submit(&again, one).await.unwrap();
    }
    assert_eq!(committed(&again, &batches[11]).await.unwrap().missing, []);
    assert_eq!(entries(restored.path(), now(&again)).len(), 12);
    assert_eq!(prints(restored.path(), now(&again)).await, expected);
}

/// Usage and hours of a fold of the ledger.
async fn prints(folder: &Path, end: Place) -> Vec<(String, i64, String)> {
    let store = std::sync::Arc::new(SqliteStore::in_memory().await.unwrap());
    let estimator = weighbridge_meter::Estimator::shipped();
    Follower::new(folder, store.clone(), estimator).await.unwrap().catch_up(end).await.unwrap();
    let all = store.fingerprint().await.unwrap();
    all.into_iter()
        .filter(|(table, ..)| ["usage", "hour", "agent_cursor"].contains(&table.as_str()))
        .collect()
}

#[tokio::test]
async fn a_fact_that_would_not_read_back_is_refused_by_name_and_the_ledger_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = fresh(dir.path());
    let endless = LeaseFact {
        end: UtcMillis(i64::MAX),
        ..lease("lease-1", 0, Selector::All, "lease:site/1", minutes(0, 1))
    };
    let facts = vec![enrolled(0), Fact::Lease(endless)];
    let refused = ledger.record(at(0), facts).await;
    assert!(matches!(refused, Err(CommitError::BadFact { index: 1, count: 2, .. })), "{refused:?}");
    assert_eq!(now(&ledger).index, 1, "nothing of it is stored");
    let body = serde_json::json!({ "share": 0.1, "large": u64::MAX, "none": null });
    ledger.record(at(0), vec![record("customer-1", body)]).await.unwrap();
    assert_eq!(now(&ledger).index, 2);
}

#[test]
fn a_ledger_has_one_name_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let open = |byte: u8| {
        OpenLedger::open(dir.path(), &LedgerOptions::default(), &mut |bytes| bytes.fill(byte))
            .unwrap()
            .start(Vec::new(), &State::default())
    };
    let first = open(1);
    assert_eq!(first.generation(), [1; 16]);
    wait_for(close(first));
    let again = open(2);
    assert_eq!(again.generation(), [1; 16]);
    wait_for(close(again));
    std::fs::write(dir.path().join("GENERATION"), "not a name").unwrap();
    let refused = OpenLedger::open(dir.path(), &LedgerOptions::default(), &mut |bytes| bytes.fill(3));
    assert!(refused.unwrap_err().to_string().contains("GENERATION"));
}

fn wait_for(work: impl Future<Output = ()>) {
    crate::fold::wait(work);
}

#[test]
fn clocks_of_facts_are_kept_by_boot() {
    let mut state = State::default();
    state.offsets.insert((agent(0), BootId([1; 16])), vec![(3, 60), (7, -60)]);
    let of = |boot: u8, index| state.offset_minutes(&agent(0), BootId([boot; 16]), index);
    assert_eq!([of(1, 3), of(1, 4), of(1, 7), of(1, 8), of(2, 8)], [0, 60, 60, -60, 0]);
}

#[tokio::test]
async fn what_the_fold_is_handed_it_does_not_read_and_the_integers_are_those_of_reading() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = opened(dir.path(), 1 << 20).start(Vec::new(), &State::default());
    let store = std::sync::Arc::new(SqliteStore::in_memory().await.unwrap());
    let estimator = weighbridge_meter::Estimator::shipped();
    let follower = Follower::new(dir.path(), store.clone(), estimator).await.unwrap();
    let mut follower = follower.with_tail(ledger.tail());
    ledger.record(at(0), vec![enrolled(0), record("customer-1", serde_json::json!({}))]).await.unwrap();
    let mut batches = chain(0, 5);
    batches[4].losses = vec![Loss { epoch: EpochId([8; 16]), first: 1, last: 9, cause: LossCause::Removed }];
    for one in &batches[..3] {
        submit(&ledger, one).await.unwrap();
    }
    // Three hours off, so that there is a fact of a clock among them.
    let clocks = weighbridge_store::entry::Clocks { boot_ms: 300_000, wall: at(0) };
    let received = at(180 * crate::support::MINUTE);
    ledger.submit(submission(0, batches[3].clone(), Some(clocks), received)).await.unwrap();
    submit(&ledger, &batches[4]).await.unwrap();
    // Nothing can be read.
    let (segment, hidden) = (dir.path().join("00000000000000000001.seg"), dir.path().join("hidden"));
    std::fs::rename(&segment, &hidden).unwrap();
    follower.catch_up(now(&ledger)).await.unwrap();
    std::fs::rename(&hidden, &segment).unwrap();
    assert_eq!(now(&ledger).index, 9);

    let read = std::sync::Arc::new(SqliteStore::in_memory().await.unwrap());
    let estimator = weighbridge_meter::Estimator::shipped();
    let mut reader = Follower::new(dir.path(), read.clone(), estimator).await.unwrap();
    reader.catch_up(now(&ledger)).await.unwrap();
    assert_eq!(store.fingerprint().await.unwrap(), read.fingerprint().await.unwrap());

    // What went before it was handed over is read, and so is what is handed over and goes on.
    submit(&ledger, &chain(1, 1)[0]).await.unwrap();
    reader.catch_up(now(&ledger)).await.unwrap();
    follower.catch_up(now(&ledger)).await.unwrap();
    assert_eq!(store.fingerprint().await.unwrap(), read.fingerprint().await.unwrap());
}
