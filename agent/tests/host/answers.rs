//! What the agent makes of answers that ask for something, and of answers that are none.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use weighbridge_agent::{
    clock::{Clock, ManualClock},
    host::Host,
    uplink::{Retry, Sender, SenderOptions, Stopped},
};
use weighbridge_wire::{Batch, Envelope, Loss, LossCause, SigningKey, report};

use crate::{
    support::{Reply, Server, host, look, sender},
    uplink::{clock, waiting},
};

fn batches(server: &Server) -> Vec<Batch> {
    let read = |body: &[u8]| Envelope::decode(body).and_then(|envelope| envelope.read()).expect("a batch");
    server.requests().iter().map(|request| read(&request.body)).collect()
}

fn sequences(server: &Server) -> Vec<u64> {
    batches(server).iter().map(|batch| batch.sequence).collect()
}

fn missing(epoch: &str, first: u64, last: u64) -> String {
    format!(r#""missing":[{{"epoch":"{epoch}","first":{first},"last":{last}}}]"#)
}

fn epoch_in(dir: &std::path::Path) -> String {
    std::fs::read_to_string(dir.join("EPOCHS")).expect("a spool").trim().to_owned()
}

async fn minute(host: &mut Host, sender: &Sender, clock: &ManualClock) {
    clock.advance(60_000);
    host.tick(clock.now(), &look(50));
    host.seal(clock.now()).expect("kept");
    host.send_pending(sender, clock).await;
}

#[tokio::test]
async fn what_the_collector_misses_is_sent_again_from_there_on() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let mut host = waiting(dir.path(), &clock, 4);
    let asked = missing(&epoch_in(dir.path()), 2, 3);
    let server = Server::start(move |n, hash| {
        let reply = Reply::accepted(hash);
        if n == 3 { reply.with_json(&asked) } else { reply }
    })
    .await;
    let outcome = host.send_pending(&sender(&[server.url()]), &clock).await;
    assert!(matches!(outcome.stopped, Stopped::Empty), "{outcome:?}");
    assert_eq!(sequences(&server), [1, 2, 3, 4, 2, 3, 4]);
    let requests = server.requests();
    assert_eq!(requests[1].body, requests[4].body, "byte for byte");
}

#[tokio::test]
async fn a_collector_that_asks_for_what_it_gets_again_and_again_is_not_answered_for_ever() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let mut host = waiting(dir.path(), &clock, 2);
    let asked = missing(&epoch_in(dir.path()), 1, 1);
    let server = Server::start(move |_, hash| Reply::accepted(hash).with_json(&asked)).await;
    let outcome = host.send_pending(&sender(&[server.url()]), &clock).await;
    assert!(matches!(outcome.stopped, Stopped::Empty), "{outcome:?}");
    assert!(server.requests().len() < 12, "{:?}", sequences(&server));
    assert_eq!(host.unacknowledged(), 0);
}

#[tokio::test]
async fn what_is_missing_and_not_held_any_more_is_told_as_lost_once() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let mut host = waiting(dir.path(), &clock, 1);
    let gone = "0b".repeat(16);
    let asked = missing(&gone, 5, 9);
    let server = Server::start(move |n, hash| {
        let reply = Reply::accepted(hash);
        // Until it has been told, in the batch with number 1.
        if n < 2 { reply.with_json(&asked) } else { reply }
    })
    .await;
    let sender = sender(&[server.url()]);
    host.send_pending(&sender, &clock).await;
    for _ in 0..3 {
        minute(&mut host, &sender, &clock).await;
    }
    let loss = Loss { epoch: gone.parse().unwrap(), first: 5, last: 9, cause: LossCause::Removed };
    let told: Vec<Vec<Loss>> = batches(&server).into_iter().map(|batch| batch.losses).collect();
    assert_eq!(
        told,
        [vec![], vec![loss], vec![loss], vec![]],
        "asked again behind the telling, it tells again"
    );
}

#[tokio::test]
async fn a_parked_batch_is_told_as_that_in_the_next_batch() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let mut host = waiting(dir.path(), &clock, 1);
    let server =
        Server::start(|n, hash| if n == 0 { Reply::status(422) } else { Reply::accepted(hash) }).await;
    let sender = sender(&[server.url()]);
    host.send_pending(&sender, &clock).await;
    minute(&mut host, &sender, &clock).await;
    minute(&mut host, &sender, &clock).await;
    let all = batches(&server);
    let loss = Loss { epoch: all[0].epoch, first: 1, last: 1, cause: LossCause::Parked };
    assert_eq!((&all[1].losses, &all[2].losses), (&vec![loss], &vec![]));
    assert_eq!(all[1].sequence, 2, "it goes on in the same epoch");
}

#[tokio::test]
async fn records_of_a_batch_whose_number_is_taken_are_sealed_once_more() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let mut host = waiting(dir.path(), &clock, 2);
    // Both waiting batches have numbers that another copy of this spool used.
    let server =
        Server::start(|n, hash| if n < 2 { Reply::status(409) } else { Reply::accepted(hash) }).await;
    let sender = sender(&[server.url()]);
    host.send_pending(&sender, &clock).await;
    for _ in 0..2 {
        minute(&mut host, &sender, &clock).await;
    }
    let all = batches(&server);
    let windows = |batches: &[Batch]| {
        let mut windows: Vec<_> = batches
            .iter()
            .flat_map(|batch| batch.windows.clone())
            .map(|window| window.span.start())
            .collect();
        windows.sort();
        windows
    };
    let (refused, taken) = (windows(&all[..2]), windows(&all[2..]));
    assert!(!refused.is_empty());
    for window in &refused {
        assert_eq!(taken.iter().filter(|other| *other == window).count(), 1, "{taken:?}");
    }
    assert!(all[2..].iter().all(|batch| batch.losses.is_empty()), "there is no hole");
    for file in std::fs::read_dir(dir.path().join("reseal")).unwrap() {
        assert_eq!(file.unwrap().path().extension().unwrap(), "done");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("parked")).unwrap().count(), 2);
}

#[tokio::test]
async fn the_newest_status_goes_ahead_of_what_waits() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let server = Server::start(|_, hash| Reply::accepted(hash)).await;
    let sender = sender(&[server.url()]);
    let mut host = waiting(dir.path(), &clock, 3);
    host.send_pending(&sender, &clock).await;
    let [(before, body)] = &server.statuses()[..] else {
        panic!("one status: {:?}", server.statuses().len())
    };
    assert_eq!(*before, 0, "before the first batch");
    let key = SigningKey::from_bytes(&[9; 32]).verifying_key();
    let said = report::open(&report::decode(body).unwrap(), &key).unwrap();
    assert_eq!((said.sequence, said.status.unacknowledged), (3, 3));
    let last = batches(&server).pop().unwrap();
    assert_eq!(
        (said.epoch, said.status.at),
        (last.epoch, last.status.unwrap().at),
        "as new as the last batch"
    );

    minute(&mut host, &sender, &clock).await;
    assert_eq!(server.statuses().len(), 1, "a batch that is alone says it itself");
}

#[tokio::test]
async fn a_collector_that_knows_no_statuses_is_asked_once() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let server = Server::answering_statuses(404, |_, hash| Reply::accepted(hash)).await;
    let sender = sender(&[server.url()]);
    let mut host = waiting(dir.path(), &clock, 3);
    host.send_pending(&sender, &clock).await;
    for _ in 0..2 {
        clock.advance(60_000);
        host.tick(clock.now(), &look(50));
        host.seal(clock.now()).unwrap();
    }
    let outcome = host.send_pending(&sender, &clock).await;
    assert_eq!((outcome.accepted, server.statuses().len()), (2, 1));
}

#[tokio::test]
async fn promises_are_kept_beside_the_batches_and_exported() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let mut host = waiting(dir.path(), &clock, 2);
    let server = Server::start(|_, hash| Reply::accepted(hash)).await;
    host.send_pending(&sender(&[server.url()]), &clock).await;
    let kept = std::fs::read_to_string(dir.path().join(epoch_in(dir.path())).join("PROMISES")).unwrap();
    let lines: Vec<serde_json::Value> =
        kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (line, request) in lines.iter().zip(server.requests()) {
        let hash: String =
            weighbridge_wire::hash(&request.body).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((&line["batch_hash"], &line["store_generation"]), (&hash.into(), &"g1".into()));
    }
    assert_eq!(lines.len(), 2);
}

/// Answers every request with these bytes and then does what it is told.
async fn raw(bytes: &'static [u8], hangs: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(bytes).await;
            if hangs {
                open.push(stream);
            }
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn an_answer_that_is_cut_short_or_never_ends_acknowledges_nothing() {
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"outcome\":\"accepted\",\"batch_hash\":";
    for (hangs, bytes) in [(false, &cut[..]), (true, &cut[..]), (true, b"HTTP/1.1 2"), (false, b"")] {
        let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
        let mut host = waiting(dir.path(), &clock, 1);
        let sender = Sender::new(SenderOptions {
            collectors: vec![raw(bytes, hangs).await.parse().unwrap()],
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_millis(300),
        })
        .unwrap();
        let outcome = host.send_pending(&sender, &clock).await;
        assert!(matches!(outcome.stopped, Stopped::Retry(Retry::Unreachable(_))), "{outcome:?}");
        assert_eq!(host.unacknowledged(), 1);
    }
}

#[tokio::test]
async fn an_agent_whose_spool_was_damaged_sends_the_rest_and_says_what_is_lost() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let host_before = waiting(dir.path(), &clock, 4);
    let epoch = epoch_in(dir.path());
    drop(host_before);
    let segment = dir.path().join(&epoch).join("00000000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[130] ^= 4;
    std::fs::write(&segment, bytes).unwrap();

    let server = Server::start(|_, hash| Reply::accepted(hash)).await;
    let sender = sender(&[server.url()]);
    let mut host = host(dir.path(), 1 << 20, 100);
    minute(&mut host, &sender, &clock).await;
    minute(&mut host, &sender, &clock).await;
    let all = batches(&server);
    let old: Vec<u64> =
        all.iter().filter(|batch| batch.epoch.to_string() == epoch).map(|batch| batch.sequence).collect();
    assert_eq!(old, [2, 3, 4, 5], "the one made before the damage was met is in the old epoch too");
    let loss = Loss { epoch: epoch.parse().unwrap(), first: 1, last: 1, cause: LossCause::Damaged };
    assert_eq!(all.last().unwrap().losses, [loss]);
    assert_ne!(all.last().unwrap().epoch.to_string(), epoch);
}
