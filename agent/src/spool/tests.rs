use std::fs;

use proptest::prelude::*;
use weighbridge_meter::UtcMillis;

use super::*;

mod damage;
mod full;

fn sealed(payload: &[u8]) -> Sealed {
    Sealed { bytes: payload.to_vec(), hash: weighbridge_wire::hash(payload) }
}

fn small(dir: &Path) -> SpoolOptions {
    SpoolOptions { segment_bytes: 200, fill_bytes: 0, ..SpoolOptions::in_dir(dir) }
}

/// With everything in one segment.
fn large(dir: &Path) -> SpoolOptions {
    SpoolOptions { fill_bytes: 0, ..SpoolOptions::in_dir(dir) }
}

/// A process that is being started holds the locks of all spools for a moment: none is opened meanwhile.
static STARTING: std::sync::RwLock<()> = std::sync::RwLock::new(());

fn opened(options: SpoolOptions) -> Spool {
    let _none = STARTING.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    Spool::open(options, &mut |bytes| bytes.fill(7)).expect("opens")
}

/// Appends `count` batches and gives back their payloads.
fn filled(spool: &mut Spool, count: u8) -> Vec<Vec<u8>> {
    let payloads: Vec<Vec<u8>> = (0..count).map(|n| vec![n + 1; 50]).collect();
    payloads.iter().for_each(|payload| spool.append(&sealed(payload)).expect("kept"));
    payloads
}

fn segments(spool: &Spool) -> usize {
    let dir = spool.dir().join(spool.epoch().to_string());
    files::list(&dir)
        .expect("listed")
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"))
        .count()
}

fn acknowledge_next(spool: &mut Spool) -> Option<u64> {
    let pending = spool.peek().expect("readable")?;
    spool.acknowledge(&pending).expect("acknowledged");
    Some(pending.sequence)
}

/// Appends a batch that tells of these, and gives back its number.
fn append_telling(spool: &mut Spool, losses: &[Loss]) -> u64 {
    let link = spool.link();
    spool.append(&sealed(&[9; 50])).expect("kept");
    spool.losses_told(losses, &link);
    link.sequence
}

#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    Acknowledge,
    Peek,
    Save,
    Tidy,
    Reopen,
    /// Cuts so many bytes off the last segment, as a power cut might, then opens again.
    Crash(u16),
    NewEpoch,
    NewStore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u8>().prop_map(Step::Append),
        4 => Just(Step::Acknowledge),
        1 => Just(Step::Peek),
        1 => Just(Step::Save),
        1 => Just(Step::Tidy),
        1 => Just(Step::Reopen),
        1 => (1_u16..120).prop_map(Step::Crash),
        1 => Just(Step::NewEpoch),
        1 => Just(Step::NewStore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a list of what was kept: whatever happens, batches come in order, none is skipped that was
    /// not acknowledged, and each link continues the one before.
    #[test]
    fn nothing_that_was_kept_is_skipped(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().expect("a folder");
        let options = SpoolOptions { keep_acknowledged_bytes: 300, ..small(dir.path()) };
        let mut spool = opened(options.clone());
        // Kept: epoch, sequence, payload. The first `acknowledged` of them are done.
        let mut kept: Vec<(EpochId, u64, Vec<u8>)> = Vec::new();
        let mut acknowledged = 0;
        let mut stores = 0;
        let mut lost: Vec<(EpochId, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Append(byte) => {
                    let link = spool.link();
                    let last = kept.iter().rev().find(|(epoch, ..)| *epoch == link.epoch);
                    prop_assert_eq!(link.sequence, last.map_or(1, |(_, sequence, _)| sequence + 1));
                    let hash = last.map_or([0; 32], |(_, _, payload)| weighbridge_wire::hash(payload));
                    prop_assert_eq!(link.prev_hash, hash);
                    let payload = vec![byte, kept.len().to_le_bytes()[0], 9];
                    spool.append(&sealed(&payload)).expect("kept");
                    kept.push((link.epoch, link.sequence, payload));
                }
                Step::Acknowledge => {
                    if let Some(pending) = spool.peek().expect("readable") {
                        let expected = &kept[acknowledged];
                        prop_assert_eq!((pending.epoch, pending.sequence), (expected.0, expected.1));
                        prop_assert_eq!(&pending.bytes, &expected.2);
                        spool.acknowledge(&pending).expect("acknowledged");
                        acknowledged += 1;
                    } else {
                        prop_assert_eq!(acknowledged, kept.len());
                    }
                }
                Step::Peek => {
                    let first = spool.peek().expect("readable");
                    prop_assert_eq!(first, spool.peek().expect("readable"));
                }
                Step::Save => spool.save().expect("saved"),
                Step::Tidy => spool.tidy(UtcMillis(0)).expect("tidied"),
                Step::Reopen => {
                    spool.save().expect("saved");
                    drop(spool);
                    spool = opened(options.clone());
                    while spool.scan().expect("scans") {}
                }
                Step::Crash(cut) => {
                    // Only in the epoch that is written to, and only what no acknowledgement covers.
                    spool.save().expect("saved");
                    let (epoch, folder) = (spool.epoch(), spool.dir().join(spool.epoch().to_string()));
                    drop(spool);
                    let last = kept.last().filter(|(last, ..)| *last == epoch && acknowledged < kept.len());
                    let (path, length) = files::list(&folder).expect("listed").into_iter()
                        .rfind(|(path, _)| path.extension().is_some_and(|e| e == "seg")).expect("a segment");
                    // A segment is synced before the next is begun, so only the last one can be torn.
                    if let Some((_, _, payload)) = last.cloned().filter(|_| length > 60) {
                        let entry = 40 + payload.len() as u64;
                        fs::File::options().write(true).open(&path).expect("opens")
                            .set_len(length - u64::from(cut).clamp(1, entry)).expect("cut");
                        let (_, sequence, _) = kept.pop().expect("it was there");
                        spool = opened(options.clone());
                    while spool.scan().expect("scans") {}
                        // Told, and its number not given again: whether cut to the byte or not.
                        lost.push((epoch, sequence));
                        let told: Vec<_> = spool.losses_to_tell().iter()
                            .flat_map(|loss| (loss.first..=loss.last).map(|n| (loss.epoch, n))).collect();
                        prop_assert_eq!(
                            told.iter().collect::<std::collections::BTreeSet<_>>(),
                            lost.iter().collect::<std::collections::BTreeSet<_>>()
                        );
                        prop_assert_ne!(spool.epoch(), epoch);
                        while spool.scan().expect("scans") {}
                    } else {
                        spool = opened(options.clone());
                    while spool.scan().expect("scans") {}
                    }
                }
                Step::NewEpoch => spool.start_epoch().expect("started"),
                Step::NewStore => {
                    stores += 1;
                    let before = spool.unacknowledged();
                    if spool.generation(&stores.to_string()).expect("noted") {
                        // All that is still there waits again: a tail of what was kept.
                        let waiting = usize::try_from(spool.unacknowledged()).expect("few");
                        prop_assert!(spool.unacknowledged() >= before);
                        acknowledged = kept.len() - waiting;
                    }
                }
            }
            prop_assert_eq!(spool.unacknowledged(), (kept.len() - acknowledged) as u64);
        }
    }
}

#[test]
fn sequence_and_chain_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(large(dir.path()));
    let payloads = filled(&mut spool, 3);
    let epoch = spool.epoch();
    drop(spool);
    let prev_hash = weighbridge_wire::hash(&payloads[2]);
    assert_eq!(opened(large(dir.path())).link(), Link { epoch, sequence: 4, prev_hash });
}

#[test]
fn a_batch_that_was_cut_short_is_kept_apart_and_told_and_its_number_is_not_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(large(dir.path()));
    filled(&mut spool, 3);
    let epoch = spool.epoch();
    drop(spool);
    let path = dir.path().join(epoch.to_string()).join("00000000000000000001.seg");
    let length = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(path).unwrap().set_len(length - 1).unwrap();

    let mut spool = opened(large(dir.path()));
    let loss = Loss { epoch, first: 3, last: 3, cause: LossCause::Damaged };
    assert_eq!(spool.losses_to_tell(), [loss]);
    assert_eq!(spool.events(), [SpoolEvent::Lost(loss)]);
    assert_eq!(spool.quarantined().files, 1);
    let [(torn, bytes)] = &files::list(&dir.path().join(QUARANTINE)).unwrap()[..] else { panic!("one file") };
    assert_eq!(torn.file_name().unwrap().to_str().unwrap(), format!("{epoch}-{:020}-at-240.torn", 1));
    assert_eq!(*bytes, 89);
    let link = spool.link();
    assert_ne!(link.epoch, epoch);
    assert_eq!(link.sequence, 1);
    filled(&mut spool, 1);
    let sent: Vec<_> = std::iter::from_fn(|| acknowledge_next(&mut spool)).collect();
    assert_eq!(sent, [1, 2, 1], "what is whole is still sent first");
    assert_eq!(append_telling(&mut spool, &[loss]), 2);
    assert_eq!(spool.losses_to_tell(), [], "a batch that waits says so");
    spool.save().unwrap();
    drop(spool);
    let mut spool = opened(large(dir.path()));
    assert_eq!(spool.losses_to_tell(), [loss], "until it is acknowledged nobody heard it");
    append_telling(&mut spool, &[loss]);
    while acknowledge_next(&mut spool).is_some() {}
    spool.save().unwrap();
    drop(spool);
    assert_eq!(opened(large(dir.path())).losses_to_tell(), [], "once is enough");
}

#[test]
fn only_whole_acknowledged_segments_are_removed_and_the_cursor_is_durable_before() {
    let dir = tempfile::tempdir().unwrap();
    let options = SpoolOptions { keep_acknowledged_bytes: 0, ..small(dir.path()) };
    let mut spool = opened(options.clone());
    filled(&mut spool, 9); // Two to a segment.
    let before = segments(&spool);
    assert!(before >= 4, "{before}");
    spool.tidy(UtcMillis(0)).unwrap();
    assert_eq!(segments(&spool), before, "nothing is acknowledged");

    for sequence in 1..=3 {
        assert_eq!(acknowledge_next(&mut spool), Some(sequence));
    }
    let ack = dir.path().join(spool.epoch().to_string()).join("ACK");
    let noted = || fs::read_to_string(&ack).unwrap();
    assert!(noted().starts_with("1 "), "three acknowledgements may still be forgotten");
    spool.tidy(UtcMillis(0)).unwrap();
    assert!(noted().starts_with("4 "));
    assert_eq!(segments(&spool), before - 1, "the second segment holds a batch that still waits");
    drop(spool);

    let mut spool = opened(options);
    let rest: Vec<u64> = std::iter::from_fn(|| acknowledge_next(&mut spool)).collect();
    assert_eq!(rest, [4, 5, 6, 7, 8, 9]);
    spool.tidy(UtcMillis(0)).unwrap();
    assert_eq!(segments(&spool), 1, "the segment that is written to stays");
    assert_eq!(spool.link().sequence, 10);
}

#[test]
fn acknowledged_segments_stay_within_their_bytes_and_days() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    filled(&mut spool, 9);
    while acknowledge_next(&mut spool).is_some() {}
    let before = segments(&spool);
    spool.tidy(UtcMillis(0)).unwrap();
    assert_eq!(segments(&spool), before, "64 MiB and 7 days are not over");
    // The year 2100: what was written today is older than a week.
    spool.tidy("2100-01-01T00:00:00Z".parse().unwrap()).unwrap();
    assert_eq!(segments(&spool), 1);
}

#[test]
fn a_full_spool_refuses_and_takes_again_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(SpoolOptions { max_bytes: 300, ..small(dir.path()) });
    filled(&mut spool, 4);
    assert!(matches!(
        spool.append(&sealed(b"one too many")),
        Err(SpoolError::Full { bytes: 360, limit: 300 })
    ));
    acknowledge_next(&mut spool);
    spool.append(&sealed(b"fits")).unwrap();
}

#[test]
fn parked_batches_count_as_used_space_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = SpoolOptions { max_bytes: 120, ..small(dir.path()) };
    let mut spool = opened(options.clone());
    filled(&mut spool, 1);
    let pending = spool.peek().unwrap().unwrap();
    spool.park(&pending).unwrap();
    let parked = Stored { files: 1, bytes: 50 };
    let loss = Loss { epoch: spool.epoch(), first: 1, last: 1, cause: LossCause::Parked };
    assert_eq!(spool.losses_to_tell(), [loss], "the collector has a hole there");
    assert_eq!((spool.parked(), spool.unacknowledged()), (parked, 0));
    let name = format!("{}-1.batch", spool.epoch());
    assert_eq!(fs::read(dir.path().join("parked").join(name)).unwrap(), pending.bytes);
    spool.append(&sealed(&[1; 50])).unwrap();
    assert!(matches!(spool.append(&sealed(&[2; 50])), Err(SpoolError::Full { .. })));
    drop(spool);
    assert_eq!(opened(options).parked(), parked);
}

#[test]
fn another_store_generation_brings_everything_kept_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    filled(&mut spool, 3);
    acknowledge_next(&mut spool);
    assert!(!spool.generation("first").unwrap(), "the first store is not another one");
    acknowledge_next(&mut spool);
    spool.save().unwrap();
    drop(spool);

    let mut spool = opened(small(dir.path()));
    assert!(!spool.generation("first").unwrap());
    assert_eq!(spool.unacknowledged(), 1);
    assert!(spool.generation("second").unwrap());
    assert_eq!(spool.unacknowledged(), 3);
    drop(spool);
    let mut spool = opened(small(dir.path()));
    assert_eq!(spool.unacknowledged(), 3, "a restart does not forget it");
    assert_eq!(spool.peek().unwrap().unwrap().sequence, 1);
}

#[test]
fn a_new_epoch_starts_at_one_and_the_one_before_is_sent_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    filled(&mut spool, 2);
    let first = spool.epoch();
    spool.start_epoch().unwrap();
    let second = spool.epoch();
    assert_ne!(first, second);
    assert_eq!(spool.link(), Link { epoch: second, sequence: 1, prev_hash: [0; 32] });
    filled(&mut spool, 1);
    drop(spool);

    let mut spool = opened(small(dir.path()));
    assert_eq!(spool.epoch(), second);
    let mut order = Vec::new();
    while let Some(pending) = spool.peek().unwrap() {
        order.push((pending.epoch, pending.sequence));
        spool.acknowledge(&pending).unwrap();
    }
    assert_eq!(order, [(first, 1), (first, 2), (second, 1)]);
}

#[test]
fn a_cursor_that_makes_no_sense_sends_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    filled(&mut spool, 5);
    acknowledge_next(&mut spool);
    spool.save().unwrap();
    let ack = dir.path().join(spool.epoch().to_string()).join("ACK");
    drop(spool);
    for nonsense in ["", "2", "2 1 61", "2 7 60", "x y z", "2 1 150 4", "\u{0}\u{0}"] {
        fs::write(&ack, nonsense).unwrap();
        assert_eq!(opened(small(dir.path())).unacknowledged(), 5, "{nonsense:?}");
    }
}

#[test]
fn a_failed_write_is_told_and_the_journal_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    filled(&mut spool, 2); // Beyond 200 bytes: the next batch begins a segment.
    let link = spool.link();
    let in_the_way = dir.path().join(spool.epoch().to_string()).join("00000000000000000002.seg");
    fs::create_dir(&in_the_way).unwrap();
    assert!(matches!(spool.append(&sealed(b"fails")), Err(SpoolError::NotWritten(Some(_)))));
    assert!(matches!(spool.append(&sealed(b"fails")), Err(SpoolError::NotWritten(None))));
    assert_eq!(spool.unacknowledged(), 2);
    fs::remove_dir(&in_the_way).unwrap();
    spool.ready().unwrap();
    assert_eq!(spool.link(), link);
    spool.append(&sealed(b"works")).unwrap();
    assert_eq!(spool.unacknowledged(), 3);
}

#[test]
fn two_agents_cannot_have_one_spool() {
    let dir = tempfile::tempdir().unwrap();
    let _first = opened(small(dir.path()));
    let second = Spool::open(small(dir.path()), &mut |bytes| bytes.fill(8));
    assert!(matches!(second, Err(SpoolError::InUse(_))));
}

#[test]
fn a_look_from_outside_disturbs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(inspect(dir.path()).unwrap().epochs, []);
    let mut spool = opened(small(dir.path()));
    filled(&mut spool, 3);
    acknowledge_next(&mut spool);
    spool.generation("g").unwrap();
    spool.save().unwrap();
    let seen = inspect(dir.path()).unwrap();
    let expected = EpochSummary {
        id: spool.epoch().to_string(),
        ranges: vec![Range { first: 1, last: 3 }],
        bytes: 3 * 90 + 2 * 60,
        acknowledged: 1,
        waiting: 2,
        promises: 0,
        damaged: false,
    };
    assert_eq!(seen.epochs, [expected]);
    assert_eq!(seen.generation.as_deref(), Some("g"));
}

/// What the release before this one and the next one read.
#[test]
fn the_small_files_of_a_spool_look_as_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    filled(&mut spool, 3);
    let pending = spool.peek().unwrap().unwrap();
    spool.promised(&pending, "g1", serde_json::json!({ "leaf_hash": "x" }));
    spool.acknowledge(&pending).unwrap();
    let pending = spool.peek().unwrap().unwrap();
    spool.park(&pending).unwrap();
    let epoch = spool.epoch();
    let read = |name: String| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read(EPOCHS.into()), format!("{epoch}\n"));
    assert_eq!(read("MARKS".into()), format!("{epoch} 4\n"));
    assert_eq!(read("LOSSES".into()), format!("{epoch} 2 2 parked\n"));
    assert_eq!(read(format!("{epoch}/ACK")), format!("{:<63}\n", "3 1 240"));
    let hash = crate::uplink::hex(&weighbridge_wire::hash(&[1; 50]));
    assert_eq!(
        read(format!("{epoch}/PROMISES")),
        format!(
            "{{\"sequence\":1,\"batch_hash\":\"{hash}\",\"store_generation\":\"g1\",\
             \"promise\":{{\"leaf_hash\":\"x\"}}}}\n"
        )
    );
}

#[test]
fn an_epoch_whose_removal_was_cut_short_is_forgotten_at_the_next_start_and_not_lost_at_the_one_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    filled(&mut spool, 3);
    let first = spool.epoch();
    spool.start_epoch().unwrap();
    filled(&mut spool, 1);
    for _ in 0..3 {
        acknowledge_next(&mut spool);
    }
    spool.save().unwrap();
    drop(spool);
    let folder = dir.path().join(first.to_string());
    fs::rename(&folder, folder.with_extension("gone")).unwrap();
    for _ in 0..2 {
        let mut spool = opened(small(dir.path()));
        assert_eq!((spool.losses_to_tell(), spool.events()), (vec![], vec![]));
        assert_eq!((spool.epochs.len(), spool.unacknowledged()), (1, 1));
    }
}

#[test]
fn what_was_sealed_again_is_remembered_as_long_as_its_batch_is_held_or_parked() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(SpoolOptions { keep_acknowledged_bytes: 0, ..small(dir.path()) });
    filled(&mut spool, 1);
    let pending = spool.peek().unwrap().unwrap();
    spool.start_epoch().unwrap();
    spool.park_conflict(&pending, true).unwrap();
    assert!(spool.reseal().unwrap().is_none(), "there are no records in it");
    let name = format!("{}-1", pending.epoch);
    let done = dir.path().join(RESEAL).join(format!("{name}.done"));
    spool.forget_resealed().unwrap();
    assert_eq!(fs::metadata(&done).unwrap().len(), 0);
    spool.tidy(UtcMillis(0)).unwrap();
    assert!(!dir.path().join(pending.epoch.to_string()).exists());
    assert!(done.exists(), "a person may have it sent again");
    fs::remove_file(dir.path().join(PARKED).join(format!("{name}.batch"))).unwrap();
    spool.forget_resealed().unwrap();
    assert!(!done.exists());
}

#[test]
fn losses_that_a_refused_batch_told_are_told_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    filled(&mut spool, 1);
    let epoch = spool.epoch();
    let parked = |number| Loss { epoch, first: number, last: number, cause: LossCause::Parked };
    let refused = spool.peek().unwrap().unwrap();
    spool.park(&refused).unwrap();
    assert_eq!(append_telling(&mut spool, &[parked(1)]), 2);
    let refused = spool.peek().unwrap().unwrap();
    spool.park(&refused).unwrap();
    assert_eq!(spool.losses_to_tell(), [Loss { last: 2, ..parked(1) }]);
}

#[test]
fn a_store_that_comes_back_promises_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    filled(&mut spool, 1);
    for generation in ["a", "b", "a", "b", "a"] {
        let pending = spool.peek().unwrap().unwrap();
        spool.promised(&pending, generation, serde_json::json!({}));
        spool.acknowledge(&pending).unwrap();
        spool.generation(generation).unwrap();
        if generation == "b" {
            spool.save().unwrap();
        }
        spool.generation("between").unwrap();
    }
    spool.save().unwrap();
    let path = dir.path().join(spool.epoch().to_string()).join("PROMISES");
    let mut kept = Vec::new();
    promises::each(&path, |_, promise| kept.push(promise.store_generation)).unwrap();
    assert_eq!(kept, ["a", "b"]);
}

#[test]
fn losses_under_way_stay_in_the_list_when_others_are_added() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    let loss =
        |number| Loss { epoch: EpochId([1; 16]), first: number, last: number, cause: LossCause::Removed };
    spool.lose(&[loss(1)]).unwrap();
    append_telling(&mut spool, &[loss(1)]);
    spool.lose(&[loss(5)]).unwrap();
    assert_eq!(spool.losses_to_tell(), [loss(5)]);
    drop(spool);
    assert_eq!(opened(small(dir.path())).losses_to_tell(), [loss(5), loss(1)], "nobody acknowledged it");
}
