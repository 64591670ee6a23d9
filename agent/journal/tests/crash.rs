//! What a crash, or a bad disk, makes of a journal: every truncation and every changed byte.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers are tests too; clippy sees only the functions marked so"
)]

use std::fs;
use std::panic::Location;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use weighbridge_journal::{
    Corrupt, Damage, ENTRY_HEAD_LEN, HEADER_LEN, Journal, OpenError, Options, Place, ReadError, Reader,
    verify,
};

/// So small that a few entries fill several segments.
const SMALL: Options = Options { segment_bytes: 200 };

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.seg"))
}

/// Appends all, syncs, and gives the places where each began and where the last ended.
fn write(dir: &Path, options: Options, payloads: &[Vec<u8>]) -> Vec<Place> {
    let (mut journal, _) = Journal::open(dir, options).unwrap();
    let mut places: Vec<_> = payloads.iter().map(|payload| journal.append(payload).unwrap()).collect();
    journal.sync().unwrap();
    places.push(journal.next());
    places
}

fn read(dir: &Path) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    verify(dir, |entry| payloads.push(entry.payload.clone())).unwrap();
    payloads
}

fn corrupt_on_verify(dir: &Path) -> Corrupt {
    match verify(dir, |_| {}) {
        Err(ReadError::Corrupt(corrupt)) => corrupt,
        other => panic!("expected damage, got {other:?}"),
    }
}

#[track_caller]
fn corrupt_on_open(dir: &Path) -> Corrupt {
    let before = contents(dir);
    let caller = Location::caller();
    let corrupt = match Journal::open(dir, SMALL) {
        Err(OpenError::Corrupt(corrupt)) => corrupt,
        other => panic!("{caller}: expected damage, got {other:?}"),
    };
    assert_eq!(contents(dir), before, "{caller}: a refused journal was changed");
    corrupt
}

/// All segment files, by name.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

fn restore(dir: &Path, files: &[(PathBuf, Vec<u8>)]) {
    for (path, _) in contents(dir) {
        fs::remove_file(path).unwrap();
    }
    for (path, bytes) in files {
        fs::write(path, bytes).unwrap();
    }
}

/// Five entries in segments 1 and 2 and the start of 3, which holds one more.
fn three_segments(dir: &Path) -> Vec<Place> {
    let payloads: Vec<Vec<u8>> = (1..=5).map(|n| vec![n; 50]).collect();
    let places = write(dir, SMALL, &payloads);
    assert_eq!(places.iter().map(|place| place.segment).collect::<Vec<_>>(), [1, 1, 2, 2, 3, 3]);
    places
}

proptest! {
    // Few, because each case opens and syncs a journal for every byte it can be cut at.
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_at_any_byte_leaves_a_prefix_with_all_that_was_synced(
        groups in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..4), 1..4,
        ),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
        let mut synced = journal.durable();
        for group in &groups {
            synced = journal.durable();
            for payload in group {
                journal.append(payload).unwrap();
            }
            // Rolling made it durable on the way.
            synced = synced.max(journal.durable());
            journal.sync().unwrap();
        }
        drop(journal);
        let payloads = groups.concat();
        let files = contents(dir.path());
        let (last, bytes) = files.last().unwrap();
        let in_last = format!("{:020}.seg", synced.segment) == last.file_name().unwrap().to_str().unwrap();

        for cut in 0..=bytes.len() {
            restore(dir.path(), &files);
            fs::write(last, &bytes[..cut]).unwrap();

            let (mut journal, opened) = Journal::open(dir.path(), SMALL).unwrap();
            let mut expected = payloads[..usize::try_from(opened.entries).unwrap()].to_vec();
            if !in_last || cut as u64 >= synced.offset {
                prop_assert!(journal.next() >= synced, "cut at {cut}: {opened:?}");
            }
            prop_assert_eq!(opened.cut_bytes == 0, journal.next().offset == cut as u64 || cut == 0);
            prop_assert_eq!(read(dir.path()), &*expected);

            prop_assert_eq!(journal.append(b"and on").unwrap(), journal.durable());
            journal.sync().unwrap();
            expected.push(b"and on".to_vec());
            prop_assert_eq!(read(dir.path()), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_anywhere_is_refused_or_cut_but_never_read(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..8),
        at in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 1..100),
    ) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), SMALL, &payloads);
        let files = contents(dir.path());
        let (path, bytes) = files.last().unwrap();
        let at = at.index(bytes.len());
        let mut changed = bytes.clone();
        changed.truncate(at);
        changed.extend(&noise);
        changed.extend(bytes.iter().skip(changed.len()));
        fs::write(path, changed).unwrap();

        match Journal::open(dir.path(), SMALL) {
            Ok((_, opened)) => {
                let kept = usize::try_from(opened.entries).unwrap();
                prop_assert_eq!(read(dir.path()), &payloads[..kept]);
            }
            Err(OpenError::Corrupt(corrupt)) => prop_assert_eq!(&corrupt.file, path),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn any_changed_byte_fails_verification_and_is_located() {
    let dir = tempfile::tempdir().unwrap();
    let places = three_segments(dir.path());
    let files = contents(dir.path());
    for (number, (path, bytes)) in (1..).zip(&files) {
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff, bytes[at]] {
                if flip == 0 {
                    continue; // The last one makes a zero of the byte, and it is one already.
                }
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                fs::write(path, &changed).unwrap();

                let found = corrupt_on_verify(dir.path());
                let hit = places
                    .iter()
                    .rfind(|place| place.segment == number && place.offset <= at as u64)
                    .copied();
                let (index, offset) = match hit {
                    Some(place) => (place.index, place.offset),
                    // The header; its segment's first entry is the first not read.
                    None => (places.iter().find(|place| place.segment == number).unwrap().index, 0),
                };
                assert_eq!(
                    (&found.file, found.segment, found.index, found.offset),
                    (path, number, Some(index), offset),
                    "{found}"
                );
            }
        }
        fs::write(path, bytes).unwrap();
    }
    verify(dir.path(), |_| {}).unwrap();
}

#[test]
fn damage_with_an_entry_behind_it_is_refused_and_nothing_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let places = write(dir.path(), Options::default(), &[vec![1; 50], vec![2; 50], vec![3; 50]]);
    let path = segment(dir.path(), 1);
    let bytes = fs::read(&path).unwrap();
    for at in places[0].offset..places[2].offset {
        let mut changed = bytes.clone();
        changed[usize::try_from(at).unwrap()] ^= 0x10;
        fs::write(&path, changed).unwrap();
        let found = corrupt_on_open(dir.path());
        let (hit, next) = if at < places[1].offset { (places[0], places[1]) } else { (places[1], places[2]) };
        assert_eq!((found.index, found.offset), (Some(hit.index), hit.offset));
        assert_eq!(found.follows, Some(next.offset), "{found}");
    }
}

#[test]
fn damage_in_the_last_entry_alone_is_cut_as_a_torn_write() {
    let dir = tempfile::tempdir().unwrap();
    let places = write(dir.path(), Options::default(), &[vec![1; 50], vec![2; 50]]);
    let path = segment(dir.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let (journal, opened) = Journal::open(dir.path(), Options::default()).unwrap();
    assert_eq!((opened.entries, opened.cut_bytes), (1, ENTRY_HEAD_LEN + 50));
    assert_eq!(journal.next().offset, places[1].offset);
}

#[test]
fn an_entry_spliced_in_from_elsewhere_breaks_the_chain() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let places = write(dir.path(), Options::default(), &[vec![1; 50], vec![2; 50]]);
    write(other.path(), Options::default(), &[vec![9; 50], vec![2; 50]]);
    let path = segment(dir.path(), 1);
    let at = usize::try_from(places[1].offset).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[at..].copy_from_slice(&fs::read(segment(other.path(), 1)).unwrap()[at..]);
    fs::write(&path, bytes).unwrap();

    for found in [corrupt_on_open(dir.path()), corrupt_on_verify(dir.path())] {
        assert_eq!((found.index, found.damage), (Some(2), Damage::Chain));
    }
}

#[test]
fn a_segment_spliced_in_from_elsewhere_breaks_the_chain() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    three_segments(dir.path());
    write(other.path(), SMALL, &vec![vec![9; 50]; 5]);
    fs::copy(segment(other.path(), 2), segment(dir.path(), 2)).unwrap();
    let found = corrupt_on_verify(dir.path());
    assert_eq!((found.segment, found.index, found.damage), (2, Some(3), Damage::HeaderChain));
}

#[test]
fn zeros_behind_the_last_entry_read_as_its_end() {
    for zeros in [1, 3, 39, 40, 5000] {
        let dir = tempfile::tempdir().unwrap();
        let end = *write(dir.path(), Options::default(), &[vec![1; 50]]).last().unwrap();
        let path = segment(dir.path(), 1);
        fs::File::options().write(true).open(&path).unwrap().set_len(end.offset + zeros).unwrap();

        let verified = verify(dir.path(), |_| {}).unwrap();
        assert_eq!((verified.end.offset, verified.zero_bytes), (end.offset, zeros));
        let mut reader = Reader::from_start(dir.path());
        assert!(reader.next().unwrap().is_some());
        assert!(reader.next().unwrap().is_none());

        // They stay, and are written over.
        let (mut journal, opened) = Journal::open(dir.path(), Options::default()).unwrap();
        assert_eq!((opened.entries, opened.cut_bytes), (1, 0));
        assert_eq!((journal.next().offset, journal.filled_ahead()), (end.offset, zeros));
        journal.append(&[2; 9]).unwrap();
        journal.sync().unwrap();
        let verified = verify(dir.path(), |_| {}).unwrap();
        assert_eq!((verified.entries, verified.zero_bytes), (2, zeros.saturating_sub(49)));
    }
}

#[test]
fn a_segment_that_was_only_begun_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let places = three_segments(dir.path());
    let header = fs::read(segment(dir.path(), 3)).unwrap()[..usize::try_from(HEADER_LEN).unwrap()].to_vec();
    let mut zeroed = header.clone();
    zeroed.fill(0);
    for left in [&header[..0], &header[..1], &header[..59], &zeroed] {
        fs::write(segment(dir.path(), 3), left).unwrap();
        let found = corrupt_on_verify(dir.path());
        assert_eq!((found.segment, found.index, found.offset), (3, Some(5), 0));

        let (mut journal, opened) = Journal::open(dir.path(), SMALL).unwrap();
        assert_eq!((opened.entries, opened.cut_bytes), (4, left.len() as u64));
        assert_eq!(journal.next(), places[4]);
        let place = journal.append(b"fifth").unwrap();
        assert_eq!((place.index, place.segment, place.offset), (5, 3, HEADER_LEN));
        journal.sync().unwrap();
        assert_eq!(read(dir.path()).len(), 5);
    }
}

#[test]
fn a_closed_segment_has_no_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let places = three_segments(dir.path());
    let files = contents(dir.path());
    let shorten = || fs::write(&files[1].0, &files[1].1[..files[1].1.len() - 1]).unwrap();

    // Seen even by an open that reads only headers, when what follows was not even begun.
    shorten();
    fs::write(&files[2].0, b"WBJR").unwrap();
    let found = corrupt_on_open(dir.path());
    assert_eq!((found.segment, found.index, found.offset), (2, Some(4), places[3].offset));

    restore(dir.path(), &files);
    shorten();
    let found = corrupt_on_verify(dir.path());
    assert_eq!((found.segment, found.index, found.damage), (2, Some(4), Damage::CutShort));
    let mut reader = Reader::from_start(dir.path());
    for _ in 0..3 {
        reader.next().unwrap().unwrap();
    }
    assert!(matches!(reader.next(), Err(ReadError::Corrupt(_))));

    // Whole entries that are missing show in the next header.
    fs::write(&files[1].0, &files[1].1[..usize::try_from(places[3].offset).unwrap()]).unwrap();
    let found = corrupt_on_verify(dir.path());
    assert_eq!((found.segment, found.index, found.damage), (3, Some(4), Damage::FirstIndex { found: 5 }));
}

#[test]
fn a_missing_or_damaged_segment_between_others_is_located_by_everyone() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    let files = contents(dir.path());
    let (second, bytes) = &files[1];
    let mut bad_magic = bytes.clone();
    bad_magic[0] ^= 1;

    for (left, damage) in [
        (None, Damage::Missing),
        (Some(&bytes[..7]), Damage::HeaderCutShort),
        (Some(&bad_magic[..]), Damage::Magic),
        (Some(&files[0].1[..]), Damage::Number { found: 1 }),
    ] {
        match left {
            Some(left) => fs::write(second, left).unwrap(),
            None => fs::remove_file(second).unwrap(),
        }
        let mut reader = Reader::from_start(dir.path());
        let by_reader = loop {
            match reader.next() {
                Ok(entry) => assert!(entry.is_some(), "the reader took a hole for the end"),
                Err(ReadError::Corrupt(corrupt)) => break corrupt,
                Err(other) => panic!("{other}"),
            }
        };
        for found in [corrupt_on_open(dir.path()), corrupt_on_verify(dir.path()), by_reader] {
            assert_eq!((&found.file, found.index, found.offset, found.damage), (second, Some(3), 0, damage));
        }
    }
}

#[test]
fn a_begun_segment_does_not_hide_that_others_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    fs::write(segment(dir.path(), 3), b"WBJR").unwrap();
    fs::remove_file(segment(dir.path(), 2)).unwrap();
    let found = corrupt_on_open(dir.path());
    assert_eq!((found.segment, found.index, found.damage), (2, Some(3), Damage::Missing));

    // Alone it does not even tell where the journal stood, so it cannot be begun anew.
    fs::remove_file(segment(dir.path(), 1)).unwrap();
    for found in [corrupt_on_open(dir.path()), corrupt_on_verify(dir.path())] {
        assert_eq!((found.segment, found.index, found.damage), (3, None, Damage::HeaderCutShort));
    }
}

#[test]
fn an_open_sees_indexes_that_do_not_rise() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    three_segments(dir.path());
    write(other.path(), Options { segment_bytes: 0 }, &vec![vec![1; 50]; 3]);
    fs::copy(segment(other.path(), 3), segment(dir.path(), 3)).unwrap();
    for found in [corrupt_on_open(dir.path()), corrupt_on_verify(dir.path())] {
        assert_eq!((found.segment, found.index, found.damage), (3, Some(5), Damage::FirstIndex { found: 3 }));
    }
}

#[test]
fn a_message_names_file_entry_and_byte() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Options::default(), &[vec![1; 50], vec![2; 50]]);
    let path = segment(dir.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[110] ^= 1;
    fs::write(&path, bytes).unwrap();
    let message = corrupt_on_open(dir.path()).to_string().replace(&path.display().to_string(), "FILE");
    expect_test::expect![
        "FILE: entry 1 at byte 60: the entry's checksum is wrong; a whole entry follows at byte 150, so this is no torn write"
    ]
    .assert_eq(&message);
}
