//! The uplink against a server in the same process that answers as it is told.

use std::{sync::Arc, time::Duration};

use crate::support::{Reply, START, Server, host, look, sender};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weighbridge_agent::{
    clock::{Clock, ManualClock},
    host::Host,
    uplink::{Backoff, Retry, Stopped, keep_sending},
};
use weighbridge_meter::{BootId, UtcMillis};
use weighbridge_wire::Envelope;

pub(crate) fn clock() -> ManualClock {
    ManualClock::new(UtcMillis(START), 5_000, BootId([3; 16]))
}

/// A host with `batches` sealed batches that wait.
pub(crate) fn waiting(dir: &std::path::Path, clock: &ManualClock, batches: u32) -> Host {
    let mut host = host(dir, 1 << 20, 100);
    for _ in 0..batches {
        host.tick(clock.now(), &look(50));
        host.seal(clock.now()).expect("sealed");
        clock.advance(60_000);
    }
    host
}

#[tokio::test]
async fn batches_are_sent_in_order_byte_for_byte_with_both_clocks() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let server = Server::start(|_, hash| Reply::accepted(hash)).await;
    let mut host = waiting(dir.path(), &clock, 3);
    let outcome = host.send_pending(&sender(&[server.url()]), &clock).await;
    assert!(matches!(outcome.stopped, Stopped::Empty), "{:?}", outcome.stopped);
    assert_eq!((outcome.accepted, outcome.duplicates, outcome.parked), (3, 0, 0));
    assert_eq!(host.unacknowledged(), 0);

    let requests = server.requests();
    let mut prev = [0; 32];
    for (index, request) in requests.iter().enumerate() {
        assert_eq!(request.path, "/api/v1/batches");
        let header = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("content-type").as_deref(), Some("application/x-protobuf"));
        assert_eq!(header("x-weighbridge-boot-id"), Some("03".repeat(16)));
        assert_eq!(header("x-weighbridge-boot-ms").as_deref(), Some("185000"));
        assert_eq!(header("x-weighbridge-wall-ms"), Some((START + 180_000).to_string()));
        let batch = Envelope::decode(&request.body).unwrap().read().unwrap();
        assert_eq!((batch.sequence, batch.prev_hash), (index as u64 + 1, prev));
        prev = weighbridge_wire::hash(&request.body);
    }
    assert_eq!(requests.len(), 3);
}

#[tokio::test]
async fn a_recording_does_not_claim_to_know_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::unreal(UtcMillis(START), 5_000, BootId([3; 16]));
    let server = Server::start(|_, hash| Reply::accepted(hash)).await;
    let mut host = waiting(dir.path(), &clock, 1);
    host.send_pending(&sender(&[server.url()]), &clock).await;
    assert!(!server.requests()[0].headers.contains_key("x-weighbridge-wall-ms"));
}

#[tokio::test]
async fn a_duplicate_is_as_good_as_accepted() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let server = Server::start(|_, hash| Reply::json(hash, "duplicate", "g1")).await;
    let mut host = waiting(dir.path(), &clock, 2);
    let outcome = host.send_pending(&sender(&[server.url()]), &clock).await;
    assert_eq!((outcome.accepted, outcome.duplicates, host.unacknowledged()), (0, 2, 0));
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_byte_for_byte_after_a_restart() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let server =
        Server::start(|n, hash| if n == 1 { Reply::status(503) } else { Reply::accepted(hash) }).await;
    let sender = sender(&[server.url()]);
    let mut host = waiting(dir.path(), &clock, 2);
    let outcome = host.send_pending(&sender, &clock).await;
    assert!(matches!(outcome.stopped, Stopped::Retry(Retry::Later { status: 503, after: None })));
    drop(host);
    let mut host = crate::support::host(dir.path(), 1 << 20, 100);
    assert_eq!(host.unacknowledged(), 1);
    host.send_pending(&sender, &clock).await;
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[1].body, requests[2].body);
}

#[tokio::test]
async fn refusals_for_good_are_parked_and_the_next_batch_goes_on() {
    for status in [400, 413] {
        let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
        let server =
            Server::start(move |n, hash| if n == 0 { Reply::status(status) } else { Reply::accepted(hash) })
                .await;
        let mut host = waiting(dir.path(), &clock, 2);
        let outcome = host.send_pending(&sender(&[server.url()]), &clock).await;
        assert_eq!((outcome.parked, outcome.accepted, host.unacknowledged()), (1, 1, 0));
        let parked: Vec<_> = std::fs::read_dir(dir.path().join("parked")).unwrap().collect();
        assert_eq!(parked.len(), 1);
        let parked = std::fs::read(parked[0].as_ref().unwrap().path()).unwrap();
        assert_eq!(parked, server.requests()[0].body);
    }
}

#[tokio::test]
async fn a_conflict_is_parked_and_starts_a_new_epoch() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let server =
        Server::start(|n, hash| if n == 0 { Reply::status(409) } else { Reply::accepted(hash) }).await;
    let sender = sender(&[server.url()]);
    let mut host = waiting(dir.path(), &clock, 2);
    let outcome = host.send_pending(&sender, &clock).await;
    assert_eq!((outcome.parked, outcome.accepted), (1, 1));
    host.seal(clock.now()).unwrap();
    host.send_pending(&sender, &clock).await;
    let batches: Vec<_> = server
        .requests()
        .iter()
        .map(|request| Envelope::decode(&request.body).unwrap().read().unwrap())
        .collect();
    assert_eq!(batches[1].epoch, batches[0].epoch, "what waited is sent as it was sealed");
    assert_ne!(batches[2].epoch, batches[0].epoch);
    assert_eq!((batches[2].sequence, batches[2].prev_hash), (1, [0; 32]));
}

#[tokio::test]
async fn an_unknown_key_a_redirect_and_garbage_are_named_and_nothing_is_lost() {
    type Answers = fn(usize, &str) -> Reply;
    let cases: [(Answers, &str); 6] = [
        (|_, _| Reply::status(403), "not_enrolled"),
        (|_, _| Reply::status(429).with("retry-after", "7"), "busy"),
        (|_, _| Reply::status(302).with("location", "http://127.0.0.1:1/"), "redirected"),
        (|_, _| Reply::body(200, b"<html>hello</html>".to_vec()), "not_a_collector"),
        (|_, _| Reply::accepted(&"00".repeat(32)), "not_a_collector"),
        (|_, _| Reply::body(200, vec![b' '; 100_000]), "not_a_collector"),
    ];
    for (reply, state) in cases {
        let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
        let server = Server::start(reply).await;
        let mut host = waiting(dir.path(), &clock, 1);
        let outcome = host.send_pending(&sender(&[server.url()]), &clock).await;
        match outcome.stopped {
            Stopped::Retry(retry) => {
                assert_eq!(retry.state(), state);
                if state == "busy" {
                    assert_eq!(retry, Retry::Later { status: 429, after: Some(Duration::from_secs(7)) });
                }
            }
            other => panic!("{state}: {other:?}"),
        }
        assert_eq!((server.requests().len(), host.unacknowledged()), (1, 1), "{state}");
    }
}

#[tokio::test]
async fn another_store_generation_gets_everything_again() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let server =
        Server::start(|n, hash| Reply::json(hash, "accepted", if n < 3 { "g1" } else { "g2" })).await;
    let sender = sender(&[server.url()]);
    let mut host = waiting(dir.path(), &clock, 3);
    host.send_pending(&sender, &clock).await;
    host.seal(clock.now()).unwrap();
    host.send_pending(&sender, &clock).await;
    let sequences: Vec<u64> = server
        .requests()
        .iter()
        .map(|request| Envelope::decode(&request.body).unwrap().read().unwrap().sequence)
        .collect();
    assert_eq!(sequences, [1, 2, 3, 4, 1, 2, 3, 4]);
    assert_eq!(host.unacknowledged(), 0);
}

/// Time is paused: it jumps to the next timer whenever nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn the_loop_waits_longer_and_longer_and_turns_to_the_next_collector() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let host = waiting(dir.path(), &clock, 1);
    let (stop, sealed) = (CancellationToken::new(), Notify::new());
    let broken = Server::start(|_, _| Reply::status(500)).await;
    let done = stop.clone();
    let working = Server::start(move |n, hash| {
        if n < 2 {
            return Reply::status(503);
        }
        done.cancel();
        Reply::accepted(hash)
    })
    .await;
    let sender = sender(&[broken.url(), working.url()]);
    let (_, mut uplink) = host.into_parts();
    let second = Duration::from_secs(1);
    let random = Box::new(|bytes: &mut [u8]| bytes.fill(0xff));
    let backoff = Backoff::new(second, second * 60, second * 300, random);
    let before = tokio::time::Instant::now();
    keep_sending(&mut uplink, &sender, &clock, &sealed, backoff, &stop).await;
    // 1 + 2 + 4 + 8 + 16 s, all but a millisecond each.
    let waited = before.elapsed().as_millis();
    assert!((30_990..31_100).contains(&waited), "{waited} ms");
    assert_eq!((broken.requests().len(), working.requests().len()), (3, 3));
}

#[tokio::test]
async fn the_loop_stops_while_it_waits() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let (_, mut uplink) = waiting(dir.path(), &clock, 1).into_parts();
    let (stop, sealed) = (CancellationToken::new(), Arc::new(Notify::new()));
    let on_request = stop.clone();
    let server = Server::start(move |_, _| {
        on_request.cancel();
        Reply::status(403)
    })
    .await;
    let hour = Duration::from_secs(3600);
    let backoff = Backoff::new(hour, hour, hour, Box::new(|bytes: &mut [u8]| bytes.fill(0xff)));
    keep_sending(&mut uplink, &sender(&[server.url()]), &clock, &sealed, backoff, &stop).await;
    assert_eq!(server.requests().len(), 1);
}
