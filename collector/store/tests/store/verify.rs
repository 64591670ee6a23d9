//! An auditor finds what was changed, and where.

use std::path::{Path, PathBuf};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use weighbridge_meter::Estimator;
use weighbridge_store::{Fact, SqliteStore, entry::Selector, verify};
use weighbridge_wire::Batch;

use crate::support::{Book, batch, device, enrolled, holding, lease, minutes, submission, window};

fn follow(book: &mut Book, number: u8, sequence: u64, before: Option<&Batch>) -> Batch {
    let mut next = batch(number, sequence);
    next.prev_hash =
        before.map_or([0; 32], |before| submission(number, before.clone(), None, crate::support::at(0)).hash);
    next.inventory.push(device(number, number, crate::support::at(0)));
    next.holdings.push(holding("uid:gpu/1000", &[number], minutes(0, 1)));
    next.windows.push(window(number, minutes(sequence.cast_signed(), sequence.cast_signed() + 1), 500));
    book.batch(&next);
    next
}

/// Two agents, four batches, a lease, several segments.
fn small() -> Book {
    let mut book = Book::new(300);
    book.fact(enrolled(0));
    book.fact(enrolled(1));
    let first = follow(&mut book, 0, 1, None);
    follow(&mut book, 1, 1, None);
    book.fact(Fact::Lease(lease("lease-1", 0, Selector::All, "lease:site/1", minutes(0, 9))));
    let second = follow(&mut book, 0, 2, Some(&first));
    follow(&mut book, 0, 3, Some(&second));
    book.sync();
    book
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut segments: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|end| end == "seg")).collect();
    segments.sort();
    segments
}

#[test]
fn a_good_ledger_has_no_faults() {
    let verified = verify::ledger(small().folder());
    assert_eq!((verified.entries, verified.batches, verified.windows), (7, 4, 4));
    assert!(verified.faults.is_empty(), "{:?}", verified.faults);
}

#[test]
fn a_change_of_any_byte_is_found_and_named_by_segment_and_entry() {
    let mut book = Book::new(0);
    book.fact(enrolled(0));
    let first = follow(&mut book, 0, 1, None);
    book.fact(Fact::Lease(lease("lease-1", 0, Selector::All, "lease:site/1", minutes(0, 9))));
    follow(&mut book, 0, 2, Some(&first));
    book.sync();
    let segments = segments(book.folder());
    assert_eq!(segments.len(), 4);
    for segment in &segments {
        let good = std::fs::read(segment).unwrap();
        let name = segment.file_name().unwrap().to_str().unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(segment, &bad).unwrap();
            let faults = verify::ledger(book.folder()).faults;
            let found = faults.iter().any(|fault| fault.contains(name) && fault.contains("entry "));
            assert!(found, "byte {at} of {name}: {faults:?}");
        }
        std::fs::write(segment, &good).unwrap();
    }
    assert!(verify::ledger(book.folder()).faults.is_empty());
}

#[test]
fn a_damaged_entry_is_named_as_the_batch_it_says_it_was() {
    let book = small();
    let last = segments(book.folder()).pop().unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    // The signature stands at the end of the envelope, and the envelope at the end of the entry.
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&last, &bytes).unwrap();
    let faults = verify::ledger(book.folder()).faults.join("\n");
    assert!(faults.contains("the entry says it is batch 3 of agent agent-"), "{faults}");
}

#[test]
fn a_segment_that_is_gone_is_found() {
    let book = small();
    let segments = segments(book.folder());
    std::fs::remove_file(&segments[1]).unwrap();
    assert!(!verify::ledger(book.folder()).faults.is_empty());
}

#[test]
fn a_batch_under_an_unknown_or_another_key_is_found() {
    let mut book = small();
    book.batch_signed_by(2, &batch(2, 1));
    book.batch_signed_by(1, &batch(0, 4));
    book.sync();
    let faults = verify::ledger(book.folder()).faults;
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("entry 8: batch of an agent nobody enrolled"), "{faults:?}");
    assert!(faults[1].contains("entry 9: the batch says agent-0 and is signed by agent-1"), "{faults:?}");
}

#[test]
fn a_batch_that_was_altered_after_it_was_signed_is_found() {
    let mut book = small();
    let mut envelope = submission(0, batch(0, 4), None, crate::support::at(0)).received.envelope;
    // The signature stands at the end.
    *envelope.last_mut().unwrap() ^= 1;
    book.envelope(envelope);
    book.envelope(b"not an envelope".to_vec());
    book.sync();
    let faults = verify::ledger(book.folder()).faults;
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("entry 8: batch of agent agent-0: the signature does not fit"), "{faults:?}");
    assert!(faults[1].contains("entry 9: the envelope is not"), "{faults:?}");
}

#[test]
fn a_hole_a_fork_and_a_repetition_in_the_chain_of_an_agent_are_found() {
    let faults_of = |batches: &[Batch]| {
        let mut book = small();
        batches.iter().for_each(|batch| book.batch(batch));
        book.sync();
        verify::ledger(book.folder()).faults
    };
    let numbered = |number, sequence| {
        let mut next = batch(number, sequence);
        next.prev_hash = [1; 32];
        next
    };
    assert!(faults_of(&[numbered(0, 4)])[0].contains("batch 4 does not follow 3"));
    assert!(faults_of(&[numbered(0, 3)])[0].contains("agent agent-0 counts batch 3 twice"));
    assert!(faults_of(&[numbered(0, 6)])[0].contains("batches 4 to 5 are missing"));
    let mut epoch = numbered(0, 1);
    epoch.epoch = weighbridge_meter::EpochId([8; 16]);
    assert!(faults_of(&[epoch])[0].contains("batch 1 follows on something"));
    let mut key = enrolled(3);
    if let Fact::Agent(fact) = &mut key {
        fact.public_key = "short".into();
    }
    let mut book = small();
    book.fact(key);
    book.sync();
    assert!(verify::ledger(book.folder()).faults[0].contains("agent-3 has no valid public key"));
}

#[tokio::test]
async fn sums_are_equal_until_somebody_edits_a_number() {
    let mut book = small();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("usage.sqlite");
    let store = std::sync::Arc::new(SqliteStore::open(&file).await.unwrap());
    book.follower(&store).await.catch_up(book.end()).await.unwrap();
    let compare =
        async || verify::sums(book.folder(), book.folder(), &store, Estimator::shipped()).await.unwrap();
    assert_eq!(compare().await, None);

    let mut by_hand =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&file)).await.unwrap();
    let mut edit = async |change: &'static str| {
        assert_eq!(sqlx::query(change).execute(&mut by_hand).await.unwrap().rows_affected(), 1, "{change}");
    };
    edit("UPDATE usage SET high_tera = high_tera + 1 WHERE accelerator = 'GPU-0'").await;
    assert_eq!(compare().await, Some(vec!["usage".to_owned()]));
    edit("UPDATE usage SET high_tera = high_tera - 1 WHERE accelerator = 'GPU-0'").await;
    assert_eq!(compare().await, None);
    edit("UPDATE hour SET covered = '[]' WHERE accelerator = 'GPU-1'").await;
    edit("DELETE FROM agent_cursor WHERE agent = 'agent-1'").await;
    assert_eq!(compare().await, Some(vec!["hour".to_owned(), "agent_cursor".to_owned()]));
}

#[tokio::test]
async fn sums_that_stand_in_the_middle_of_the_ledger_are_compared_up_to_there() {
    let mut book = small();
    let store = std::sync::Arc::new(SqliteStore::in_memory().await.unwrap());
    assert_eq!(verify::sums(book.folder(), book.folder(), &store, Estimator::shipped()).await.unwrap(), None);
    let middle = book.ends[3];
    book.follower(&store).await.catch_up(middle).await.unwrap();
    assert_eq!(verify::sums(book.folder(), book.folder(), &store, Estimator::shipped()).await.unwrap(), None);
}
