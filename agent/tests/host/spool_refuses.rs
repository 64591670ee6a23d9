//! A host whose spool takes nothing for a while.

use crate::support::{Reply, START, Server, host, look, sender};
use weighbridge_agent::{
    clock::{Clock, ManualClock},
    host::SealError,
    spool::SpoolError,
};
use weighbridge_meter::{BootId, Gap, GapCause, UtcMillis, Window};
use weighbridge_wire::Envelope;

fn clock() -> ManualClock {
    ManualClock::new(UtcMillis(START), 5_000, BootId([3; 16]))
}

/// Windows and gaps in everything the server got, in order of time.
fn spans(server: &Server) -> (Vec<Window>, Vec<Gap>) {
    let (mut windows, mut gaps) = (Vec::new(), Vec::new());
    for request in server.requests() {
        let batch = Envelope::decode(&request.body).expect("an envelope").read().expect("a batch");
        windows.extend(batch.windows);
        gaps.extend(batch.gaps);
    }
    windows.sort_by_key(|window| window.span);
    gaps.sort_by_key(|gap| gap.span);
    (windows, gaps)
}

#[tokio::test]
async fn what_a_full_spool_does_not_take_becomes_a_gap_once_there_is_room() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let server = Server::start(|_, hash| Reply::accepted(hash)).await;
    // Room for a few batches, and memory for two windows.
    let mut host = host(dir.path(), 1_500, 2);
    let mut refused = 0;
    for _ in 0..130 {
        host.tick(clock.now(), &look(50));
        match host.seal(clock.now()) {
            Ok(_) => {}
            Err(SealError::Spool(SpoolError::Full { .. })) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        clock.advance(60_000);
    }
    assert!(refused > 100, "{refused}");
    // The collector is back, and so is the room.
    let sender = sender(&[server.url()]);
    host.send_pending(&sender, &clock).await;
    host.tick(clock.now(), &look(50));
    host.seal(clock.now()).unwrap();
    host.send_pending(&sender, &clock).await;

    let (windows, gaps) = spans(&server);
    assert!(gaps.iter().all(|gap| gap.cause == GapCause::SpoolFull), "{gaps:?}");
    let hour = |moment: UtcMillis| moment.hour();
    assert!(gaps.iter().all(|gap| hour(gap.span.start()) == hour(gap.span.end().plus(-1))), "{gaps:?}");
    // Every millisecond is in exactly one record.
    let mut all: Vec<_> = windows.iter().map(|w| w.span).chain(gaps.iter().map(|g| g.span)).collect();
    all.sort();
    assert_eq!(all[0].start(), UtcMillis(START));
    assert_eq!(all[all.len() - 1].end(), UtcMillis(START + 130 * 60_000));
    assert!(all.windows(2).all(|pair| pair[0].end() == pair[1].start()), "{all:?}");
    let lost: u64 = gaps.iter().map(|gap| gap.span.millis()).sum();
    assert!(lost > 100 * 60_000, "{lost} ms");
    for gap in &gaps {
        let boot_ms = u64::try_from(gap.span.start().since(UtcMillis(START))).unwrap() + 5_000;
        assert_eq!(gap.boot_start_ms, boot_ms, "both scales agree");
    }
}

#[tokio::test]
async fn a_batch_that_could_not_be_written_is_recorded_once_when_the_disk_works_again() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let server = Server::start(|_, hash| Reply::accepted(hash)).await;
    let mut host = host(dir.path(), 1 << 20, 100);
    host.tick(clock.now(), &look(50));
    host.seal(clock.now()).unwrap();
    clock.advance(60_000);
    host.tick(clock.now(), &look(50));
    host.seal(clock.now()).unwrap(); // Beyond 400 bytes: the next batch begins a segment.
    let epoch = std::fs::read_to_string(dir.path().join("EPOCHS")).unwrap();
    let in_the_way = dir.path().join(epoch.trim()).join("00000000000000000002.seg");
    std::fs::create_dir(&in_the_way).unwrap();
    for minute in 0..3 {
        clock.advance(60_000);
        host.tick(clock.now(), &look(50));
        // What is in the way is damage, and with the second attempt there is a new epoch.
        assert_eq!(host.seal(clock.now()).is_err(), minute == 0);
    }
    std::fs::remove_dir(&in_the_way).unwrap();
    clock.advance(60_000);
    host.tick(clock.now(), &look(50));
    host.seal(clock.now()).unwrap();
    host.send_pending(&sender(&[server.url()]), &clock).await;

    let (windows, gaps) = spans(&server);
    assert_eq!(gaps, []);
    let minutes: Vec<i64> =
        windows.iter().map(|window| window.span.start().since(UtcMillis(START)) / 60_000).collect();
    assert_eq!(minutes, [0, 1, 2, 3, 4]);
}
