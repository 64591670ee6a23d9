//! What is filled ahead, what is readable around damage, and repair.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers are tests too; clippy sees only the functions marked so"
)]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use weighbridge_journal::{
    HEADER_LEN, Journal, MAX_PAYLOAD, Options, Piece, Reader, Salvage, repair, verify,
};

const SMALL: Options = Options { segment_bytes: 150 };

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.seg"))
}

fn write(dir: &Path, payloads: &[Vec<u8>]) {
    let (mut journal, _) = Journal::open(dir, SMALL).unwrap();
    for payload in payloads {
        journal.append(payload).unwrap();
        journal.sync().unwrap();
    }
}

fn pieces(path: &Path) -> (Vec<Vec<u8>>, u64) {
    let mut salvage = Salvage::open(path, 1000, u64::MAX).unwrap();
    let (mut payloads, mut damaged) = (Vec::new(), 0);
    while let Some(piece) = salvage.next().unwrap() {
        match piece {
            Piece::Entry { payload, .. } => payloads.push(payload),
            Piece::Damaged { bytes, .. } => damaged += bytes,
        }
    }
    (payloads, damaged)
}

#[test]
fn a_segment_is_filled_ahead_in_steps_and_ends_with_its_last_entry_when_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    journal.fill_ahead(1000);
    let length = |number| fs::metadata(segment(dir.path(), number)).unwrap().len();
    for number in 1..=5 {
        journal.prepare(50, 0).unwrap();
        journal.append(&[number; 50]).unwrap();
        journal.sync().unwrap();
    }
    // Two entries make a segment of 240 bytes, which is more than 150.
    assert_eq!((length(1), length(2), length(3)), (240, 240, 1000));
    assert_eq!(journal.filled_ahead(), 1000 - 150);
    let verified = verify(dir.path(), |_| {}).unwrap();
    assert_eq!((verified.entries, verified.zero_bytes), (5, 850));
    drop(journal);

    let (mut journal, opened) = Journal::open(dir.path(), SMALL).unwrap();
    assert_eq!((opened.entries, opened.cut_bytes, journal.filled_ahead()), (5, 0, 850));
    journal.append(&[6; 50]).unwrap();
    journal.sync().unwrap();
    journal.trim().unwrap();
    assert_eq!(length(3), 240);
    assert_eq!(verify(dir.path(), |_| {}).unwrap().entries, 6);
}

#[test]
fn what_is_filled_takes_entries_when_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    journal.fill_ahead(500);
    journal.prepare(50, 0).unwrap();
    for number in 1..=4 {
        // Beyond 150 bytes the segment is full, but nothing new is begun for these.
        assert!(journal.append_into_filled(&[number; 50]).unwrap().is_some());
    }
    assert_eq!(journal.append_into_filled(&[9; 50]).unwrap(), None, "80 bytes are left");
    journal.sync().unwrap();
    assert_eq!(verify(dir.path(), |_| {}).unwrap().segments, 1);
    assert_eq!(Reader::from_start(dir.path()).next().unwrap().unwrap().payload, [1; 50]);
}

#[test]
fn a_segment_that_finds_no_place_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    journal.fill_ahead(500);
    for number in 1..=2 {
        journal.prepare(50, 0).unwrap();
        journal.append(&[number; 50]).unwrap();
        journal.sync().unwrap();
    }
    fs::create_dir(segment(dir.path(), 2).with_extension("seg.new")).unwrap(); // In the way.
    assert!(journal.prepare(50, 0).is_err());
    assert!(!journal.is_poisoned());
    assert!(journal.append_into_filled(&[3; 50]).unwrap().is_some(), "what was filled is still there");
    journal.sync().unwrap();
    fs::remove_dir(segment(dir.path(), 2).with_extension("seg.new")).unwrap();
    journal.prepare(50, 0).unwrap();
    journal.append(&[4; 50]).unwrap();
    journal.sync().unwrap();
    assert_eq!(verify(dir.path(), |_| {}).unwrap().entries, 4);
}

#[test]
fn what_is_cut_off_is_shown_before() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[vec![1; 50]]);
    let path = segment(dir.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([[7; 20].as_slice(), &[0; 30]].concat());
    fs::write(&path, bytes).unwrap();
    let mut cut = Vec::new();
    let opened = Journal::open_keeping(dir.path(), SMALL, &mut |torn| {
        cut.push((torn.segment, torn.index, torn.offset, torn.bytes.to_vec()));
    });
    assert_eq!(opened.unwrap().1.cut_bytes, 50);
    assert_eq!(cut, [(1, 2, 150, vec![7; 20])]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_entry_that_was_not_touched_is_read(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..8),
        at in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..50),
        cut in 0..50_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::default();
        let (mut journal, _) = Journal::open(dir.path(), options).unwrap();
        let places: Vec<u64> = payloads.iter().map(|payload| journal.append(payload).unwrap().offset).collect();
        journal.sync().unwrap();
        let end = journal.next().offset;
        drop(journal);
        // Some bytes somewhere become others, more or fewer.
        let path = segment(dir.path(), 1);
        let bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        let until = (at + cut).min(bytes.len());
        fs::write(&path, [&bytes[..at], &noise, &bytes[until..]].concat()).unwrap();

        let (found, _) = pieces(&path);
        let ends = places.iter().skip(1).chain([&end]);
        let untouched: Vec<&Vec<u8>> = places.iter().zip(ends).zip(&payloads)
            .filter(|((start, end), _)| {
                usize::try_from(**end).unwrap() <= at || until <= usize::try_from(**start).unwrap()
            })
            .map(|(_, payload)| payload)
            .collect();
        for payload in untouched {
            prop_assert!(found.contains(payload));
        }
        // Never anything that was not written.
        prop_assert!(found.iter().all(|payload| payloads.contains(payload)));
    }
}

#[test]
fn zeros_behind_the_last_entry_are_no_damage_and_zeros_between_are() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[vec![1; 50]]);
    let path = segment(dir.path(), 1);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [whole.as_slice(), &[0; 999]].concat()).unwrap();
    assert_eq!(pieces(&path), (vec![vec![1; 50]], 0));
    let entry = &whole[usize::try_from(HEADER_LEN).unwrap()..];
    fs::write(&path, [whole.as_slice(), &[0; 999], entry].concat()).unwrap();
    assert_eq!(pieces(&path), (vec![vec![1; 50]; 2], 999));
}

#[test]
fn repair_keeps_what_is_before_the_damage_and_moves_the_rest_away_readable() {
    let payloads: Vec<Vec<u8>> = (1..=6).map(|number| vec![number; 50]).collect();
    for (hit, kept, moved) in [(200, 1, 3), (100, 0, 3), (10, 0, 3)] {
        let (dir, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(dir.path(), &payloads);
        let path = segment(dir.path(), 1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[hit] ^= 1;
        fs::write(&path, &bytes).unwrap();

        let quarantine = away.path().join("quarantine");
        let repaired = repair(dir.path(), &quarantine).unwrap();
        assert_eq!(repaired.damage.map(|damage| damage.segment), Some(1));
        assert_eq!((repaired.kept.entries, repaired.quarantined.len()), (kept, moved), "byte {hit}");
        assert_eq!(fs::read(segment(&quarantine, 1)).unwrap(), bytes, "as it was");
        let readable: usize = repaired.quarantined.iter().map(|path| pieces(path).0.len()).sum();
        assert_eq!(readable, if hit > 60 { 5 } else { 6 });

        let (mut journal, opened) = Journal::open(dir.path(), SMALL).unwrap();
        assert_eq!(opened.entries, kept);
        journal.append(b"goes on").unwrap();
        journal.sync().unwrap();
        drop(journal);
        let again = repair(dir.path(), &quarantine).unwrap();
        assert_eq!((again.damage, again.quarantined), (None, vec![]), "nothing is left to repair");
    }
}

#[test]
fn a_file_that_claims_to_be_huge_is_read_no_further_than_told() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[vec![1; 50]]);
    let path = segment(dir.path(), 1);
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let mut salvage = Salvage::open(&path, MAX_PAYLOAD, 1 << 20).unwrap();
    assert!(matches!(salvage.next().unwrap(), Some(Piece::Entry { offset: 60, continues: true, .. })));
    assert_eq!(salvage.next().unwrap(), None);
}
