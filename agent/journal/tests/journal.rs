//! Writing, reading beside the writer, rolling, removing, and the bytes on disk.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers are tests too; clippy sees only the functions marked so"
)]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use weighbridge_journal::{
    AppendError, HEADER_LEN, Journal, MAX_PAYLOAD, OpenError, Options, Place, ReadError, Reader, Removed,
    chain_at, verify,
};

fn open(dir: &Path, segment_bytes: u64) -> Journal {
    Journal::open(dir, Options { segment_bytes }).unwrap().0
}

fn numbers(journal: &Journal) -> Vec<u64> {
    journal.segments().iter().map(|segment| segment.number).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u8>),
    Sync,
    Reopen,
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 1..200).prop_map(Step::Append),
        2 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        3 => Just(Step::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_beside_the_writer_gets_each_durable_entry_once_and_no_other(
        steps in prop::collection::vec(step(), 1..40),
        segment_bytes in 0..1000_u64,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path(), segment_bytes);
        let mut reader = Reader::from_start(dir.path());
        let mut written: Vec<Vec<u8>> = Vec::new();
        let mut places: Vec<Place> = Vec::new();
        let mut read = 0;
        for step in steps.into_iter().chain([Step::Sync, Step::Read]) {
            match step {
                Step::Append(payload) => {
                    let next = journal.next();
                    let place = journal.append(&payload).unwrap();
                    prop_assert_eq!(place, next);
                    places.push(place);
                    written.push(payload);
                }
                Step::Sync => journal.sync().unwrap(),
                Step::Reopen => {
                    journal.sync().unwrap(); // Dropping loses what was not synced.
                    let before = (journal.next(), journal.chain(), journal.segments());
                    drop(journal);
                    journal = open(dir.path(), segment_bytes);
                    prop_assert_eq!(before, (journal.next(), journal.chain(), journal.segments()));
                    prop_assert_eq!(journal.next(), journal.durable());
                }
                Step::Read => {
                    let durable = journal.durable();
                    while let Some(entry) = reader.next_before(durable).unwrap() {
                        prop_assert_eq!(&entry.payload, &written[read]);
                        prop_assert_eq!(entry.place.segment, places[read].segment);
                        prop_assert_eq!(entry.place.offset, places[read].offset);
                        read += 1;
                        prop_assert_eq!(entry.next.index, read as u64 + 1);
                    }
                    prop_assert_eq!(read as u64 + 1, durable.index);
                }
            }
        }
        let verified = verify(dir.path(), |_| {}).unwrap();
        prop_assert_eq!(verified.entries, written.len() as u64);
        prop_assert_eq!((verified.end, verified.chain), (journal.next(), journal.chain()));

        // From every place, also one that is the end of a full segment, the rest can be read.
        let mut reader = Reader::from_start(dir.path());
        let mut starts = places.clone();
        while let Some(entry) = reader.next().unwrap() {
            starts.push(entry.next);
        }
        for start in starts {
            let mut reader = Reader::new(dir.path(), start);
            for payload in &written[usize::try_from(start.index).unwrap() - 1..] {
                prop_assert_eq!(&reader.next().unwrap().unwrap().payload, payload);
            }
            prop_assert_eq!(reader.next().unwrap(), None);
        }
    }
}

#[test]
fn the_bytes_on_disk_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 0);
    for payload in [&b"hello"[..], b"world"] {
        journal.append(payload).unwrap();
    }
    journal.sync().unwrap();
    let mut text = String::new();
    for number in [1, 2] {
        let bytes = fs::read(dir.path().join(format!("{number:020}.seg"))).unwrap();
        for part in [0..8, 8..16, 16..24, 24..56, 56..60, 60..64, 64..68, 68..100, 100..105] {
            text.extend(bytes[part].iter().map(|byte| format!("{byte:02x}")));
            text.push('\n');
        }
    }
    expect_test::expect![[r#"
        57424a524e4c3031
        0100000000000000
        0100000000000000
        0000000000000000000000000000000000000000000000000000000000000000
        2ac95f9b
        05000000
        e50ca47c
        a41de667c15557cbd8acdd71ef0fef5dc73561374baed8330f8adb0e1424cd62
        68656c6c6f
        57424a524e4c3031
        0200000000000000
        0200000000000000
        a41de667c15557cbd8acdd71ef0fef5dc73561374baed8330f8adb0e1424cd62
        cd5a5782
        05000000
        1ee183bd
        167a4c91cc717c4ec213d7c40e45b130b0dc73d36ce7715ac9cb4a81ebb541fe
        776f726c64
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_full_segment_takes_no_more_entries() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 200);
    let places: Vec<Place> = (0..5).map(|_| journal.append(&[7; 50]).unwrap()).collect();
    // Two entries of 90 bytes after the header of 60 make 240.
    assert_eq!(places.iter().map(|place| place.segment).collect::<Vec<_>>(), [1, 1, 2, 2, 3]);
    // A closed segment is durable, the one being written not yet.
    assert_eq!(journal.durable(), places[4]);
    assert!(journal.next() > journal.durable());
    let segments = journal.segments();
    assert_eq!(segments.iter().map(|segment| segment.first_index).collect::<Vec<_>>(), [1, 3, 5]);
    assert_eq!(segments.iter().map(|segment| segment.bytes).collect::<Vec<_>>(), [240, 240, 150]);
}

#[test]
fn a_second_writer_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("made/on/the/way");
    let journal = open(&folder, 200);
    assert!(matches!(Journal::open(&folder, Options::default()), Err(OpenError::Locked { .. })));
    drop(journal);
    open(&folder, 200);
}

#[test]
fn a_payload_that_fits_no_entry_is_refused_and_the_journal_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 200);
    assert!(matches!(journal.append(b""), Err(AppendError::Empty)));
    let largest = vec![1; MAX_PAYLOAD + 1];
    assert!(matches!(journal.append(&largest), Err(AppendError::TooLarge { bytes: 67_108_865 })));
    journal.append(&largest[..MAX_PAYLOAD]).unwrap();
    journal.append(b"and on").unwrap();
    journal.sync().unwrap();
    drop(journal);
    assert_eq!(Journal::open(dir.path(), Options::default()).unwrap().1.entries, 2);
}

#[test]
fn removing_takes_whole_old_segments_and_never_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 0);
    let places: Vec<Place> = (0..4).map(|_| journal.append(b"one each").unwrap()).collect();
    journal.sync().unwrap();
    let mut overtaken = Reader::from_start(dir.path());
    let end_of_second = {
        let mut reader = Reader::new(dir.path(), places[1]);
        reader.next().unwrap().unwrap().next
    };
    overtaken.next().unwrap().unwrap();

    let bytes = HEADER_LEN + 48;
    assert_eq!(journal.remove_segments_before(1).unwrap(), Removed { segments: 0, bytes: 0 });
    assert_eq!(journal.remove_segments_before(3).unwrap(), Removed { segments: 2, bytes: 2 * bytes });
    assert_eq!(numbers(&journal), [3, 4]);
    let verified = verify(dir.path(), |_| {}).unwrap();
    assert_eq!((verified.first, verified.entries, verified.segments), (places[2], 2, 2));

    // Gone is an error, not an end; the end of what is gone is the start of what is left.
    for gone in [places[0], places[1]] {
        assert!(matches!(
            Reader::new(dir.path(), gone).next(),
            Err(ReadError::NoSegment { oldest: Some(3), .. })
        ));
    }
    assert!(matches!(overtaken.next(), Err(ReadError::NoSegment { segment: 2, oldest: Some(3), .. })));
    assert_eq!(end_of_second.segment, 2);
    assert_eq!(Reader::new(dir.path(), end_of_second).next().unwrap().unwrap().place, places[2]);
    assert_eq!(Reader::from_start(dir.path()).next().unwrap().unwrap().place, places[2]);

    assert_eq!(journal.remove_segments_before(u64::MAX).unwrap().segments, 1);
    assert_eq!(numbers(&journal), [4]);
    drop(journal);
    let (mut journal, opened) = Journal::open(dir.path(), Options { segment_bytes: 0 }).unwrap();
    assert_eq!((opened.entries, opened.first.index), (1, 4));
    assert_eq!(journal.append(b"fifth").unwrap().index, 5);
}

#[test]
fn a_reader_may_be_there_before_the_journal_has_anything() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = Reader::from_start(dir.path());
    assert_eq!(reader.next().unwrap(), None);
    let mut journal = open(dir.path(), 200);
    assert_eq!(reader.next().unwrap(), None);
    journal.append(b"first").unwrap();
    assert_eq!(reader.next_before(journal.durable()).unwrap(), None);
    journal.sync().unwrap();
    assert_eq!(reader.next_before(journal.durable()).unwrap().unwrap().payload, b"first");
    assert_eq!(verify(dir.path(), |_| {}).unwrap().entries, 1);
}

#[test]
fn a_place_the_journal_does_not_reach_is_an_error() {
    // As when a journal was put back from an older copy, and its reader's place was not.
    let (dir, longer) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut journal = open(dir.path(), 200);
    journal.append(&[1; 50]).unwrap();
    journal.sync().unwrap();
    let mut other = open(longer.path(), 200);
    for n in 1..=7 {
        other.append(&[n; 50]).unwrap();
        if n == 2 {
            let mut ahead = Reader::new(dir.path(), other.next());
            assert!(matches!(ahead.next(), Err(ReadError::Corrupt(_))));
            let mut short = Reader::from_start(dir.path());
            short.next_before(other.next()).unwrap().unwrap();
            assert!(matches!(short.next_before(other.next()), Err(ReadError::Corrupt(_))));
        }
    }
    assert!(matches!(Reader::new(dir.path(), other.next()).next(), Err(ReadError::NoSegment { .. })));
}

#[test]
fn a_reader_outlives_a_cut_because_it_buffers_nothing_beyond_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 10_000);
    journal.append(b"durable").unwrap();
    journal.append(b"durable too").unwrap();
    journal.sync().unwrap();
    let durable = journal.durable();
    drop(journal);

    // The tail of a write that a crash is about to tear.
    let path = dir.path().join("00000000000000000001.seg");
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([9; 70]);
    fs::write(&path, bytes).unwrap();
    let mut reader = Reader::from_start(dir.path());
    reader.next_before(durable).unwrap().unwrap();

    let mut journal = open(dir.path(), 10_000);
    journal.append(b"in place of the torn one").unwrap();
    journal.sync().unwrap();
    reader.next_before(journal.durable()).unwrap().unwrap();
    let entry = reader.next_before(journal.durable()).unwrap().unwrap();
    assert_eq!(entry.payload, b"in place of the torn one");
}

#[test]
fn a_reader_at_a_torn_end_looks_again_once_it_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 10_000);
    journal.append(&[1; 50]).unwrap();
    journal.append(&[2; 50]).unwrap();
    journal.sync().unwrap();
    drop(journal);
    let path = dir.path().join("00000000000000000001.seg");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();

    let mut reader = Reader::from_start(dir.path());
    reader.next().unwrap().unwrap();
    assert_eq!(reader.next().unwrap(), None);
    let mut journal = open(dir.path(), 10_000);
    journal.append(b"short").unwrap();
    journal.sync().unwrap();
    assert_eq!(reader.next().unwrap().unwrap().payload, b"short");
}

#[test]
fn a_place_whose_index_and_offset_disagree_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 200);
    for n in 1..=5 {
        journal.append(&[n; 50]).unwrap();
    }
    journal.sync().unwrap();
    for (index, offset) in [(3, 150), (2, 150), (4, HEADER_LEN), (4, 0), (4, 151)] {
        let mut reader = Reader::new(dir.path(), Place { index, segment: 2, offset });
        assert!(matches!(reader.next(), Err(ReadError::Corrupt(_))), "{index} at {offset}");
    }
    Reader::new(dir.path(), Place { index: 4, segment: 2, offset: 150 }).next().unwrap().unwrap();
}

#[test]
fn an_empty_folder_is_not_the_end_of_a_journal_that_had_entries() {
    let dir = tempfile::tempdir().unwrap();
    let end = Place { index: 2, segment: 1, offset: 150 };
    assert!(matches!(
        Reader::from_start(dir.path()).next_before(end),
        Err(ReadError::NoSegment { segment: 1, oldest: None, .. })
    ));
}

#[test]
fn a_reader_in_another_thread_sees_everything_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 0);
    let last = 500_u32;
    std::thread::scope(|threads| {
        let writer = threads.spawn(move || {
            for n in 1..=last {
                journal.append(&n.to_le_bytes()).unwrap();
                if n % 3 == 0 {
                    journal.sync().unwrap();
                }
            }
            journal.sync().unwrap();
        });
        let mut reader = Reader::from_start(dir.path());
        let mut read = 0;
        while read < last {
            // Asked before reading, so that an end seen after it is the end.
            let finished = writer.is_finished();
            match reader.next().unwrap() {
                Some(entry) => {
                    read += 1;
                    assert_eq!(entry.payload, read.to_le_bytes());
                }
                None if finished => break,
                None => std::thread::yield_now(),
            }
        }
        assert_eq!(read, last);
    });
}

#[test]
fn a_reader_that_was_told_what_came_before_refuses_another_history() {
    let (kept, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |dir: &Path, first: &[u8], segment_bytes| {
        let mut journal = open(dir, segment_bytes);
        journal.append(first).unwrap();
        journal.sync().unwrap();
        let noted = (journal.next(), journal.chain());
        journal.append(b"after").unwrap();
        journal.sync().unwrap();
        noted
    };
    // Within a segment, and where the next begins: there the header tells.
    for segment_bytes in [1000, 0] {
        let (kept, other) = (kept.path().join("j"), other.path().join("j"));
        let (place, chain) = write(&kept, b"one history", segment_bytes);
        write(&other, b"another one", segment_bytes);
        let entry = Reader::following(&kept, place, chain).next().unwrap().unwrap();
        assert_eq!(entry.payload, b"after");
        assert_eq!(entry.chain, verify(&kept, |_| ()).unwrap().chain);
        assert!(Reader::new(&other, place).next().unwrap().is_some());
        let refused = Reader::following(&other, place, chain).next();
        let Err(ReadError::Corrupt(corrupt)) = refused else { panic!("{refused:?}") };
        assert_eq!(corrupt.index, Some(2), "{corrupt}");
        fs::remove_dir_all(&kept).unwrap();
        fs::remove_dir_all(&other).unwrap();
    }
}

#[test]
fn the_chain_hash_of_any_place_is_what_the_writer_had_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 150);
    let mut noted = vec![(journal.next(), journal.chain())];
    for n in 1..=7 {
        journal.append(&[n; 50]).unwrap();
        noted.push((journal.next(), journal.chain()));
    }
    journal.sync().unwrap();
    assert!(journal.segments().len() > 2);
    for (place, chain) in &noted {
        assert_eq!(chain_at(dir.path(), *place).unwrap(), *chain, "{place:?}");
    }
    for wrong in [Place { index: 2, segment: 1, offset: 151 }, Place { index: 9, ..journal.next() }] {
        assert!(matches!(chain_at(dir.path(), wrong), Err(ReadError::Corrupt(_))), "{wrong:?}");
    }
    journal.remove_segments_before(2).unwrap();
    assert!(chain_at(dir.path(), noted[0].0).is_err());
}

#[test]
fn the_segment_of_an_entry_is_found_by_headers_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), Options { segment_bytes: 0 }).unwrap();
    for payload in [b"one".as_slice(), b"two", b"three"] {
        journal.append(payload).unwrap();
    }
    journal.sync().unwrap();
    for (index, payload) in [(1, b"one".as_slice()), (2, b"two"), (3, b"three")] {
        let place = weighbridge_journal::segment_of(dir.path(), index).unwrap().unwrap();
        let entry = Reader::new(dir.path(), place).next().unwrap().unwrap();
        assert_eq!((entry.place.index, entry.payload.as_slice()), (index, payload));
    }
    assert_eq!(weighbridge_journal::segment_of(dir.path(), 4).unwrap().unwrap().segment, 3);
    assert_eq!(weighbridge_journal::check_headers(dir.path()).unwrap(), 3);
    fs::rename(dir.path().join(format!("{:020}.seg", 2)), dir.path().join("aside")).unwrap();
    let missing = weighbridge_journal::check_headers(dir.path()).unwrap_err();
    assert!(matches!(missing, ReadError::Corrupt(corrupt) if corrupt.segment == 2));
    fs::rename(dir.path().join("aside"), dir.path().join(format!("{:020}.seg", 2))).unwrap();
    journal.remove_segments_before(3).unwrap();
    assert_eq!(weighbridge_journal::segment_of(dir.path(), 2).unwrap(), None);
    assert_eq!(weighbridge_journal::check_headers(dir.path()).unwrap(), 1);
}
