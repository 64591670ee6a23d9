//! Checks signatures and opens batches, on threads of its own, in groups of what came in meanwhile.
//!
//! A signature is half to three quarters of what a batch costs, and a group of them less than half of each alone.
//! Where little comes in a group is one batch and nobody waits for another.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use weighbridge_wire::{Batch, Envelope, OpenError, VerifyingKey, group};

/// Envelopes in one group: beyond this the cost of each hardly falls.
const GROUP: usize = 64;

/// Envelopes that wait for one thread; beyond it ingest answers 503.
const QUEUE: usize = 1024;

/// What became of an envelope.
pub type Opened = Result<Batch, OpenError>;

/// What goes on with it.
type Then = Box<dyn FnOnce(Opened) + Send>;

struct Request {
    envelope: Envelope,
    key: VerifyingKey,
    then: Then,
}

/// The threads; they end with it.
#[derive(Debug)]
pub struct Opener {
    queues: Vec<mpsc::Sender<Request>>,
    turn: AtomicUsize,
}

/// Too many wait already, or the threads are gone.
#[derive(Debug, thiserror::Error)]
#[error("more batches come in than signatures can be checked")]
pub struct Behind;

impl Opener {
    /// Starts so many threads, at least one.
    pub fn start(threads: usize) -> Self {
        let start = |number: usize| {
            let (queue, requests) = mpsc::channel(QUEUE);
            std::thread::Builder::new()
                .name(format!("open-{number}"))
                .spawn(move || run(requests))
                .expect("a thread can be started at start-up");
            queue
        };
        Self { queues: (0..threads.max(1)).map(start).collect(), turn: AtomicUsize::new(0) }
    }

    /// Checks the signature of an envelope with an enrolled key, reads its content and calls `then` with it, on a
    /// thread of its own: one that waits would be woken only to pass it on.
    pub fn open(
        &self,
        envelope: Envelope,
        key: VerifyingKey,
        then: impl FnOnce(Opened) + Send + 'static,
    ) -> Result<(), Behind> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let queue = self.queues.get(turn % self.queues.len()).ok_or(Behind)?;
        queue.try_send(Request { envelope, key, then: Box::new(then) }).map_err(|_| Behind)
    }
}

fn run(mut requests: mpsc::Receiver<Request>) {
    let mut waiting = Vec::with_capacity(GROUP);
    while requests.blocking_recv_many(&mut waiting, GROUP) > 0 {
        let pairs: Vec<_> = waiting.iter().map(|one| (&one.envelope, &one.key)).collect();
        let right = group::verify(&pairs);
        for (Request { envelope, then, .. }, right) in waiting.drain(..).zip(right) {
            let opened = match right {
                true => envelope.read(),
                false => Err(OpenError::BadSignature { key_id: envelope.key_id() }),
            };
            then(opened);
        }
    }
}

#[cfg(test)]
mod tests {
    use weighbridge_meter::{BootId, EpochId};
    use weighbridge_wire::{SigningKey, seal::seal};

    use super::*;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number + 1; 32])
    }

    fn sealed(number: u8) -> Envelope {
        let batch = Batch {
            agent: format!("agent-{number}").parse().expect("short"),
            epoch: EpochId([1; 16]),
            sequence: 1,
            prev_hash: [0; 32],
            boot: BootId([2; 16]),
            windows: Vec::new(),
            gaps: Vec::new(),
            holdings: Vec::new(),
            inventory: Vec::new(),
            status: None,
            losses: Vec::new(),
        };
        Envelope::decode(&seal(&batch, &key(number)).expect("seals").bytes).expect("an envelope")
    }

    #[tokio::test]
    async fn each_of_many_gets_its_own_answer_though_some_are_forged() {
        let opener = std::sync::Arc::new(Opener::start(2));
        let mut all = tokio::task::JoinSet::new();
        for number in 0..100_u8 {
            let opener = opener.clone();
            all.spawn(async move {
                let forged = number % 7 == 0;
                let key = key(if forged { 200 } else { number }).verifying_key();
                let (reply, answer) = tokio::sync::oneshot::channel();
                let then = move |opened| drop(reply.send(opened));
                opener.open(sealed(number), key, then).expect("not behind");
                match answer.await.expect("is answered") {
                    Ok(batch) => assert!(!forged && batch.agent.as_str() == format!("agent-{number}")),
                    Err(error) => {
                        assert!(forged && matches!(error, OpenError::BadSignature { .. }), "{error}")
                    }
                }
            });
        }
        while let Some(done) = all.join_next().await {
            done.expect("no panic");
        }
    }
}
