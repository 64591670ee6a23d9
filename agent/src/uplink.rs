//! Brings sealed batches to a collector: in order, byte for byte, until each is acknowledged.
//!
//! [`Uplink`] holds the spool and decides what an answer means; [`Sender`] makes the request and may be shared
//! by many hosts; [`keep_sending`] is the loop of the program, with its waits. A batch leaves the queue only
//! when the collector named its hash, or refused it for good: then it is parked where a person finds it.
//!
//! Deliberately absent for now: TLS and signatures by a client certificate. Batches are signed, so nobody on
//! the way can change one; but anyone there can read them, so plain HTTP to another host has to be allowed
//! by name.

mod answer;
mod backoff;
mod sender;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) use self::answer::hex;
pub use self::{
    answer::{Acknowledged, Answer, Refusal, Retry},
    backoff::{Backoff, RandomBytes},
    sender::{Reported, Sender, SenderError, SenderOptions},
};
use crate::{
    alarm,
    clock::Clock,
    metrics::Metrics,
    spool::{Pending, Spool, SpoolError, is_full},
};

/// Reads whatever is given as an answer, its status by the first byte: for tests with bytes that nobody wrote.
/// Must come back.
#[doc(hidden)]
pub fn read_anything(bytes: &[u8]) {
    let (status, body) = match bytes.split_first() {
        Some((1, body)) => (200, body),
        Some((2, body)) => (409, body),
        Some((first, body)) => (200 + u16::from(*first), body),
        None => (200, bytes),
    };
    let hash = [0xab; 32];
    // So that a mutation need not find the hash first.
    let named = String::from_utf8_lossy(body).replace("HASH", &answer::hex(&hash));
    let _ = answer::answer(status, Some(&named), named.as_bytes(), &hash);
}

/// A spool that one task fills and another one empties. Locks are short and never held over a wait.
pub type SharedSpool = Arc<Mutex<Spool>>;

/// The spool, also if somebody panicked with it: everything that counts is on disk.
pub(crate) fn locked(spool: &SharedSpool) -> MutexGuard<'_, Spool> {
    spool.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sending end of a spool.
#[derive(Debug)]
pub struct Uplink {
    spool: SharedSpool,
    metrics: Option<Arc<Metrics>>,
    /// The collector knows statuses that come ahead of batches, as far as is known.
    reports: bool,
    /// Times that this run went on under a new epoch because another copy of the spool was at work.
    conflicts: u32,
}

/// New epochs for that reason in one run after which the records of refused batches are no longer put into new
/// ones: a collector that refuses everything must not make an agent write the same again and again.
const MOST_CONFLICTS: u32 = 3;

/// What came of one attempt to empty the spool.
#[derive(Debug)]
pub struct SendOutcome {
    /// Batches the collector took.
    pub accepted: u64,
    /// Batches the collector had already.
    pub duplicates: u64,
    /// Batches refused for good and parked.
    pub parked: u64,
    /// Why it ended.
    pub stopped: Stopped,
}

/// Why sending ended.
#[derive(Debug)]
pub enum Stopped {
    /// Nothing waits any more.
    Empty,
    /// Try again later.
    Retry(Retry),
    /// The spool itself cannot be read or written.
    Spool(SpoolError),
}

impl Uplink {
    /// Empties this spool.
    pub fn new(spool: SharedSpool, metrics: Option<Arc<Metrics>>) -> Self {
        Self { spool, metrics, reports: true, conflicts: 0 }
    }

    /// Sends what waits, in order, until nothing does or something fails. Does not wait in between.
    pub async fn send_pending(&mut self, sender: &Sender, clock: &dyn Clock) -> SendOutcome {
        let mut outcome = SendOutcome { accepted: 0, duplicates: 0, parked: 0, stopped: Stopped::Empty };
        loop {
            match self.send_next(sender, clock, &mut outcome).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(stopped) => {
                    outcome.stopped = stopped;
                    break;
                }
            }
        }
        if let Err(error) = locked(&self.spool).save()
            && matches!(outcome.stopped, Stopped::Empty)
        {
            outcome.stopped = Stopped::Spool(error);
        }
        if let Some(metrics) = &self.metrics {
            metrics.sending(&outcome.stopped);
            metrics.spool(&locked(&self.spool));
        }
        outcome
    }

    async fn send_next(
        &mut self,
        sender: &Sender,
        clock: &dyn Clock,
        outcome: &mut SendOutcome,
    ) -> Result<bool, Stopped> {
        let scanned = locked(&self.spool).scan();
        self.tell();
        if scanned.map_err(Stopped::Spool)? {
            // One file at a time: whoever measures must get in between.
            tokio::task::yield_now().await;
            return Ok(true);
        }
        self.report(sender).await;
        let pending = locked(&self.spool).peek();
        self.tell();
        let Some(pending) = pending.map_err(Stopped::Spool)? else {
            // Reading may have found damage, and then there is something to look through.
            return locked(&self.spool).scan().map_err(Stopped::Spool);
        };
        match sender.send(&pending, clock).await {
            Answer::Acknowledged(acknowledged) => {
                let duplicate = acknowledged.duplicate;
                *(if duplicate { &mut outcome.duplicates } else { &mut outcome.accepted }) += 1;
                if let Some(metrics) = &self.metrics {
                    metrics.acknowledged(duplicate, clock.now().wall);
                }
                self.acknowledged(&pending, acknowledged).map_err(Stopped::Spool)?;
            }
            Answer::Refused(refusal) => {
                self.refused(&pending, &refusal).map_err(Stopped::Spool)?;
                outcome.parked += 1;
            }
            Answer::Retry(retry) => return Err(Stopped::Retry(retry)),
        }
        self.tell();
        Ok(true)
    }

    /// The newest status goes ahead of what waits: after an outage it is what people need first.
    async fn report(&mut self, sender: &Sender) {
        let report = if self.reports { locked(&self.spool).take_report() } else { None };
        let Some(report) = report else { return };
        match sender.report(report.clone()).await {
            Reported::Taken => {}
            Reported::NotWanted => self.reports = false,
            Reported::Failed => locked(&self.spool).say_again(report),
        }
    }

    fn acknowledged(&self, pending: &Pending, answer: Acknowledged) -> Result<(), SpoolError> {
        let Acknowledged { generation, promise, missing, .. } = answer;
        let mut spool = locked(&self.spool);
        if let Some(promise) = promise {
            spool.promised(pending, &generation, promise);
        }
        spool.acknowledge(pending)?;
        if spool.generation(&generation)? {
            tracing::warn!(
                generation,
                waiting = spool.unacknowledged(),
                "the collector has another store generation than before: everything still held is sent again"
            );
        }
        if missing.is_empty() {
            return Ok(());
        }
        match spool.missing(&missing) {
            Ok(0) => {}
            Ok(ranges) => {
                tracing::warn!(
                    ranges,
                    "the collector asks for batches that it has not got: they are sent again"
                );
                if let Some(metrics) = &self.metrics {
                    metrics.asked_again(ranges);
                }
            }
            // What cannot be noted now is asked for again.
            Err(SpoolError::File { source, .. }) if is_full(&source) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn refused(&mut self, pending: &Pending, refusal: &Refusal) -> Result<(), SpoolError> {
        tracing::error!(
            epoch = %pending.epoch,
            sequence = pending.sequence,
            status = refusal.status,
            answer = refusal.body,
            "the collector refuses a batch for good: it is parked, look into the parked folder of the spool"
        );
        if let Some(metrics) = &self.metrics {
            metrics.refused(refusal.status);
        }
        let mut spool = locked(&self.spool);
        if !refusal.is_conflict() {
            return spool.park(pending);
        }
        // Another copy of this spool is at work, or was: what follows must not collide with it.
        if pending.epoch == spool.epoch() {
            self.conflicts += 1;
            spool.start_epoch()?;
            tracing::error!(epoch = %spool.epoch(), "going on under a new epoch");
        }
        spool.park_conflict(pending, self.conflicts <= MOST_CONFLICTS)
    }

    fn tell(&self) {
        alarm::tell(&mut locked(&self.spool), self.metrics.as_deref());
    }
}

/// Sends whenever there is something, and waits as long as it should after a failure. Returns once `stop` is
/// cancelled; a request under way is given up then, and its batch is sent again in the next run.
pub async fn keep_sending(
    uplink: &mut Uplink,
    sender: &Sender,
    clock: &dyn Clock,
    sealed: &Notify,
    mut backoff: Backoff,
    stop: &CancellationToken,
) {
    loop {
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            outcome = uplink.send_pending(sender, clock) => outcome,
        };
        let wait = match &outcome.stopped {
            Stopped::Empty => {
                backoff.succeeded();
                None
            }
            Stopped::Retry(retry) => {
                if outcome.accepted + outcome.duplicates > 0 {
                    backoff.succeeded();
                }
                let wait = backoff.wait(retry);
                tracing::warn!(state = retry.state(), reason = %retry, wait_ms = millis(wait), "not sent");
                sender.next_collector();
                Some(wait)
            }
            Stopped::Spool(error) => {
                let wait = backoff.wait(&Retry::Unreachable(String::new()));
                tracing::error!(error = chain(error), wait_ms = millis(wait), "cannot use the spool");
                Some(wait)
            }
        };
        match wait {
            None => tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sealed.notified() => {}
            },
            Some(wait) => tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            },
        }
    }
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

/// An error with all its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}
