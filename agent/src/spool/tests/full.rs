//! A disk that takes nothing more: what was filled ahead takes gaps, and everything goes on when there is room.
//!
//! A limit on file sizes stands for the full disk: the same test runs again in a process that has one, where
//! the signal for it is ignored as in the agent.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use weighbridge_meter::{
    AgentId, BootId, Gap, GapCause, Span, Trust, UtcMillis,
    meter::{Now, Pace},
};
use weighbridge_wire::{Envelope, SigningKey};

use super::*;
use crate::{
    engine::{Contents, EngineOptions},
    holders::Holders,
    host::{Host, HostOptions, Weigher},
};

const INSIDE: &str = "WEIGHBRIDGE_TEST_WITH_A_LIMIT";

/// Runs the test of this name in a process of its own whose files may have 256 KiB at most. `false`: this is it.
fn outside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let script =
        "echo started; exec 2>&1; trap '' XFSZ; ulimit -S -f 512; exec \"$0\" --exact \"$1\" --nocapture";
    let program = std::env::current_exe().expect("this program");
    let name = format!("spool::tests::full::{name}");
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(program).arg(name).env(INSIDE, "1").stdout(Stdio::piped());
    let (mut child, mut output) = {
        let _alone = STARTING.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut child = command.spawn().expect("a shell");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        // Once it says something, it has none of our files any more.
        output.read_line(&mut String::new()).expect("a line");
        (child, output)
    };
    let mut text = String::new();
    output.read_to_string(&mut text).expect("text");
    assert!(child.wait().expect("it ends").success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    true
}

fn limit(bytes: Option<u64>) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).expect("a lower limit");
}

fn weigher(dir: &Path) -> Weigher {
    let options = HostOptions {
        agent: "node1".parse::<AgentId>().expect("a name"),
        boot: BootId([1; 16]),
        key: SigningKey::from_bytes(&[2; 32]),
        engine: EngineOptions {
            host: "node1".into(),
            trust: Trust::Host,
            pace: Pace { window_ms: 60_000, longest_tick_ms: 10_000 },
            held_records: 10,
        },
        spool: SpoolOptions::in_dir(dir),
        holders: Holders::none(),
        metrics: None,
    };
    Host::open(options, &mut |bytes| bytes.fill(7)).expect("starts").into_parts().0
}

fn now(minute: u64) -> Now {
    Now { boot_ms: minute * 60_000, wall: UtcMillis(1_769_846_400_000).plus((minute * 60_000).cast_signed()) }
}

fn gap(minute: u64) -> Contents {
    let gap = Gap {
        accelerator: "GPU-1".parse().expect("a name"),
        span: Span::new(now(minute).wall, now(minute + 1).wall).expect("a minute"),
        boot_start_ms: now(minute).boot_ms,
        cause: GapCause::DeviceLost,
    };
    Contents { gaps: vec![gap], ..Contents::default() }
}

/// Batches of a kilobyte and a half that no compression makes smaller.
fn noise(number: u64) -> Sealed {
    let mut bytes = Vec::new();
    while bytes.len() < 1_500 {
        bytes.extend(weighbridge_wire::hash(
            &[number.to_le_bytes(), (bytes.len() as u64).to_le_bytes()].concat(),
        ));
    }
    sealed(&bytes)
}

#[test]
fn a_full_disk_takes_what_is_reserved_and_everything_once_there_is_room() {
    if outside("a_full_disk_takes_what_is_reserved_and_everything_once_there_is_room") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(SpoolOptions::in_dir(dir.path()));
    let mut kept = 0;
    let error = loop {
        match spool.append(&noise(kept)) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 1_000, "256 KiB are full at some time");
    };
    assert!(matches!(&error, SpoolError::File { source, .. } if is_full(source)), "{error:?}");
    spool.ready().unwrap();
    assert_eq!(spool.unacknowledged(), kept, "nothing of it was written");
    // Some 64 KiB were left behind the last batch.
    for number in 0..20 {
        spool.append_reserved(&sealed(&[number; 1_000])).unwrap();
    }
    for _ in 0..100 {
        let Err(error) = spool.append_reserved(&sealed(&[9; 1_000])) else { continue };
        assert!(matches!(error, SpoolError::Full { .. }), "{error:?}");
    }
    // Sending goes on all the same, and what it says is durable.
    let waiting = spool.unacknowledged();
    while let Some(pending) = spool.peek().unwrap() {
        spool.acknowledge(&pending).unwrap();
    }
    spool.save().unwrap();
    limit(None);
    spool.append(&noise(7)).unwrap();
    assert_eq!(spool.unacknowledged(), 1);
    drop(spool);
    let spool = opened(SpoolOptions::in_dir(dir.path()));
    assert_eq!((spool.unacknowledged(), spool.link().sequence), (1, waiting + 2));
}

#[test]
fn an_agent_starts_on_a_full_disk_and_keeps_what_it_has_once_there_is_room() {
    if outside("an_agent_starts_on_a_full_disk_and_keeps_what_it_has_once_there_is_room") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    limit(Some(0));
    let mut weigher = weigher(dir.path());
    for minute in 0..3 {
        weigher.give_back(gap(minute));
        assert!(weigher.seal(now(minute + 1)).is_err());
    }
    limit(None);
    assert_eq!(weigher.seal(now(4)).unwrap().records, 3);
}

#[test]
fn gaps_of_a_full_spool_are_sealed_while_it_is_full_and_when_the_agent_stops() {
    let dir = tempfile::tempdir().unwrap();
    let mut weigher = weigher(dir.path());
    weigher.seal(now(0)).unwrap();
    let spool = weigher.spool();
    crate::uplink::locked(&spool).options.max_bytes = 1 << 16;
    while crate::uplink::locked(&spool).append(&noise(1)).is_ok() {}
    let before = crate::uplink::locked(&spool).unacknowledged();
    // Room for ten records in memory; the rest is given up.
    weigher.know("GPU-1");
    for minute in 0..150 {
        weigher.give_back(gap(minute));
        assert!(weigher.seal(now(minute + 1)).is_err());
    }
    let sealed = crate::uplink::locked(&spool).unacknowledged() - before;
    assert!((2..=4).contains(&sealed), "one an hour: {sealed}");
    weigher.seal_last(now(151)).unwrap_err();
    drop(weigher);
    drop(spool);

    let mut spool = opened(SpoolOptions::in_dir(dir.path()));
    let mut covered = 0;
    while let Some(pending) = spool.peek().unwrap() {
        if let Ok(batch) = Envelope::decode(&pending.bytes).and_then(|envelope| envelope.read()) {
            covered += batch.gaps.iter().map(|gap| gap.span.millis()).sum::<u64>();
        }
        spool.acknowledge(&pending).unwrap();
    }
    assert_eq!(covered, 150 * 60_000, "not a minute is silent");
}

#[test]
fn a_full_disk_gets_the_space_of_acknowledged_batches_although_it_takes_no_file() {
    if outside("a_full_disk_gets_the_space_of_acknowledged_batches_although_it_takes_no_file") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    filled(&mut spool, 9); // Two to a segment.
    while let Some(pending) = spool.peek().unwrap() {
        spool.promised(&pending, "g1", serde_json::json!({ "leaf_hash": "x" }));
        spool.acknowledge(&pending).unwrap();
    }
    spool.save().unwrap();
    limit(Some(64)); // A cursor, which is written over, has as many.
    spool.give_up_acknowledged().unwrap();
    assert_eq!(segments(&spool), 1);
    let new = dir.path().join(spool.epoch().to_string()).join("PROMISES.new");
    assert!(!new.exists(), "half a file takes space");
}

#[test]
fn an_epoch_that_a_full_disk_let_nobody_strike_off_the_list_is_not_told_as_lost() {
    if outside("an_epoch_that_a_full_disk_let_nobody_strike_off_the_list_is_not_told_as_lost") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    let first = spool.epoch();
    for _ in 0..2 {
        filled(&mut spool, 3);
        spool.start_epoch().unwrap();
    }
    for _ in 0..3 {
        acknowledge_next(&mut spool);
    }
    spool.save().unwrap();
    limit(Some(64)); // The names of two epochs are longer.
    spool.give_up_acknowledged().unwrap();
    assert!(!dir.path().join(first.to_string()).exists());
    assert_eq!(inspect(dir.path()).unwrap().epochs.len(), 2);
    drop(spool);
    limit(None);
    for _ in 0..2 {
        let mut spool = opened(small(dir.path()));
        assert_eq!((spool.losses_to_tell(), spool.events()), (vec![], vec![]));
        assert_eq!((spool.epochs.len(), spool.unacknowledged()), (2, 3));
    }
    assert!(!dir.path().join(format!("{first}.gone")).exists());
}

#[test]
fn epochs_that_a_full_disk_kept_from_being_opened_are_opened_once_there_is_room() {
    if outside("epochs_that_a_full_disk_kept_from_being_opened_are_opened_once_there_is_room") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut spool = opened(small(dir.path()));
    let first = spool.epoch();
    filled(&mut spool, 2);
    spool.start_epoch().unwrap();
    filled(&mut spool, 3);
    let link = spool.link();
    drop(spool);
    fs::remove_file(dir.path().join(link.epoch.to_string()).join("ACK")).unwrap();
    limit(Some(0));
    let mut spool = opened(small(dir.path()));
    assert!(matches!(spool.append(&sealed(b"here?")), Err(SpoolError::NotWritten(_))));
    assert_eq!(spool.peek().unwrap().unwrap().epoch, first, "what is open is sent");
    spool.ready().unwrap_err();
    assert_eq!(spool.missing(&[Missing { epoch: link.epoch, first: 1, last: 3 }]).unwrap(), 0);
    assert_eq!(spool.losses_to_tell(), [], "what is not open is not lost");
    limit(None);
    spool.ready().unwrap();
    assert_eq!((spool.link(), spool.unacknowledged()), (link, 5));
    spool.append(&sealed(b"here")).unwrap();
}
