//! Brings sealed batches to a collector: in order, byte for byte, until each is acknowledged.
//!
//! [`Uplink`] holds the spool and decides what an answer means; [`Sender`] makes the request and may be shared
//! by many hosts; [`keep_sending`] is the loop of the program, with its waits. A batch leaves the queue only
//! when the collector named its hash, or refused it for good: then it is parked where a person finds it.
//!
//! Connections are TLS 1.3 under the agent's certificate ([`crate::tls`]); plain HTTP stays on this host and has
//! to be allowed by name.

mod answer;
mod backoff;
pub mod client;
mod sender;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weighbridge_meter::AgentId;
use weighbridge_wire::{Envelope, KeyId};

pub(crate) use self::sender::{post_json, retry};
pub use self::{
    answer::{Acknowledged, Answer, KeyTrouble, Refusal, Retry},
    backoff::{Backoff, RandomBytes},
    sender::{Reported, Sender, SenderError, SenderOptions},
};
use crate::{
    alarm,
    clock::Clock,
    metrics::Metrics,
    spool::{Pending, Spool, SpoolError, is_full},
};
pub(crate) use weighbridge_meter::hex;

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
    let named = String::from_utf8_lossy(body).replace("HASH", &hex(&hash));
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
    own: Own,
    metrics: Option<Arc<Metrics>>,
    /// The collector knows statuses that come ahead of batches, as far as is known.
    reports: bool,
    /// Times that this run went on under a new epoch because another copy of the spool was at work.
    conflicts: u32,
    /// When the collector's store was another than before, by the boot clock, in the last hour.
    stores: Vec<u64>,
}

/// Who seals the batches of this run.
#[derive(Clone, Debug)]
pub struct Own {
    /// This agent.
    pub agent: AgentId,
    /// Its key.
    pub key: KeyId,
}

/// New epochs for that reason in one run after which the records of refused batches are no longer put into new
/// ones: a collector that refuses everything must not make an agent write the same again and again.
const MOST_CONFLICTS: u32 = 3;

/// Changes of the collector's store in an hour beyond which each waits as a failure does. After each, all that is
/// still held is sent again: with stores that take turns that would never end, and never pause.
const MOST_STORES: usize = 3;
const STORES_WITHIN_MS: u64 = 3_600_000;

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
    pub fn new(spool: SharedSpool, own: Own, metrics: Option<Arc<Metrics>>) -> Self {
        Self { spool, own, metrics, reports: true, conflicts: 0, stores: Vec::new() }
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
        if let Err(error) = locked(&self.spool).save_acknowledgements()
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
                    // Not only once all is sent: a long backlog must not look like the outage before it.
                    metrics.sending(&Stopped::Empty);
                }
                if self.acknowledged(&pending, acknowledged).map_err(Stopped::Spool)? {
                    self.another_store(clock.now().boot_ms).map_err(Stopped::Retry)?;
                }
            }
            Answer::Refused(refusal) => {
                self.refused(&pending, &refusal).map_err(Stopped::Spool)?;
                outcome.parked += 1;
            }
            Answer::KeyRefused(trouble, refusal) => {
                if !self.key_refused(&pending, trouble, &refusal).map_err(Stopped::Spool)? {
                    return Err(Stopped::Retry(Retry::NotEnrolled));
                }
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

    /// Whether the collector has another store than before.
    fn acknowledged(&self, pending: &Pending, answer: Acknowledged) -> Result<bool, SpoolError> {
        let Acknowledged { generation, promise, missing, .. } = answer;
        let mut spool = locked(&self.spool);
        if let Some(promise) = promise {
            spool.promised(pending, &generation, promise);
        }
        spool.acknowledge(pending)?;
        let another = spool.generation(&generation)?;
        if another {
            tracing::warn!(
                generation,
                waiting = spool.unacknowledged(),
                "the collector has another store generation than before: everything still held is sent again"
            );
        }
        if missing.is_empty() {
            return Ok(another);
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
        Ok(another)
    }

    fn another_store(&mut self, boot_ms: u64) -> Result<(), Retry> {
        self.stores.retain(|at| boot_ms.saturating_sub(*at) < STORES_WITHIN_MS);
        if self.stores.len() < MOST_STORES {
            self.stores.push(boot_ms);
            return Ok(());
        }
        Err(Retry::NotACollector("its store is another one again and again".into()))
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
            spool.start_epoch()?;
            self.conflicts += 1;
            tracing::error!(epoch = %spool.epoch(), "going on under a new epoch");
        }
        spool.park_conflict(pending, self.conflicts <= MOST_CONFLICTS)
    }

    /// The collector does not take the key of a batch. For this agent's own key that passes once somebody enrols
    /// it, and this is `false`. No enrolment brings back a key from before, or an agent that this one is not any
    /// more: such a batch must not hold up all others, and is parked; what this agent measured itself is sealed
    /// again.
    fn key_refused(
        &mut self,
        pending: &Pending,
        trouble: KeyTrouble,
        refusal: &Refusal,
    ) -> Result<bool, SpoolError> {
        let Ok(envelope) = Envelope::decode(&pending.bytes) else { return Ok(false) };
        let own_key = envelope.key_id() == self.own.key;
        let own_agent = envelope.read().is_ok_and(|batch| batch.agent == self.own.agent);
        if own_key && own_agent {
            return Ok(false);
        }
        tracing::error!(
            epoch = %pending.epoch,
            sequence = pending.sequence,
            key = %envelope.key_id(),
            answer = refusal.body,
            "the collector does not take the key of a batch, which is not this agent's of today: it is parked"
        );
        if let Some(metrics) = &self.metrics {
            metrics.refused(refusal.status);
        }
        let mut spool = locked(&self.spool);
        if !own_agent || trouble == KeyTrouble::BadSignature {
            spool.park(pending)?;
            return Ok(true);
        }
        // The collector may have had it after all, before the key changed: of two epochs of one agent it counts
        // the same time once.
        if pending.epoch == spool.epoch() {
            spool.start_epoch()?;
            tracing::warn!(epoch = %spool.epoch(), "going on under a new epoch: this agent has another key");
        }
        spool.park_and_reseal(pending)?;
        Ok(true)
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
                // What acknowledges and is no collector all the same has not earned a quick second attempt.
                let trusted = !matches!(retry, Retry::NotACollector(_));
                if trusted && outcome.accepted + outcome.duplicates > 0 {
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
                // Another certificate may be what was missing.
                () = sender.identity_changed() => backoff.succeeded(),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use weighbridge_meter::BootId;
    use weighbridge_wire::{Batch, SigningKey, seal};

    use super::*;
    use crate::spool::SpoolOptions;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_bytes(&[byte; 32])
    }

    /// The sending end of `node1`, whose key is number 1 today.
    fn uplink(dir: &Path) -> Uplink {
        let options = SpoolOptions { fill_bytes: 0, ..SpoolOptions::in_dir(dir) };
        let spool = Spool::open(options, &mut |bytes| bytes.fill(7)).expect("opens");
        let own = Own { agent: "node1".parse().expect("a name"), key: KeyId::of(&key(1).verifying_key()) };
        Uplink::new(Arc::new(Mutex::new(spool)), own, None)
    }

    fn keep(uplink: &Uplink, agent: &str, key: &SigningKey) {
        let mut spool = locked(&uplink.spool);
        let link = spool.link();
        let batch = Batch {
            agent: agent.parse().expect("a name"),
            epoch: link.epoch,
            sequence: link.sequence,
            prev_hash: link.prev_hash,
            boot: BootId([3; 16]),
            windows: vec![],
            gaps: vec![],
            holdings: vec![],
            inventory: vec![],
            status: None,
            losses: vec![],
        };
        spool.append(&seal::seal(&batch, key).expect("seals")).expect("kept");
    }

    fn peek(uplink: &Uplink) -> Option<Pending> {
        locked(&uplink.spool).peek().expect("readable")
    }

    /// How many files wait to be sealed again, after everything that waits was refused for this.
    fn refused(uplink: &mut Uplink, trouble: KeyTrouble) -> usize {
        let refusal = Refusal { status: 403, body: String::new() };
        while let Some(pending) = peek(uplink) {
            if !uplink.key_refused(&pending, trouble, &refusal).expect("parked") {
                break;
            }
        }
        let dir = locked(&uplink.spool).dir().join("reseal");
        std::fs::read_dir(dir).map_or(0, Iterator::count)
    }

    #[test]
    fn batches_of_a_key_from_before_do_not_hold_up_those_of_today_and_are_sealed_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut uplink = uplink(dir.path());
        let before = locked(&uplink.spool).epoch();
        keep(&uplink, "node1", &key(2));
        keep(&uplink, "node1", &key(2));
        keep(&uplink, "node1", &key(1));
        assert_eq!(refused(&mut uplink, KeyTrouble::Unknown), 2);
        assert_eq!(peek(&uplink).map(|pending| pending.sequence), Some(3), "its own key waits for somebody");
        let spool = locked(&uplink.spool);
        assert_ne!(
            spool.epoch(),
            before,
            "what is sealed again overlaps with another epoch, or with nothing"
        );
        let told: Vec<_> =
            spool.losses_to_tell().iter().map(|loss| (loss.epoch, loss.first, loss.last)).collect();
        assert_eq!(told, [(before, 1, 2)]);
        assert_eq!(spool.parked().files, 2);
    }

    #[test]
    fn what_another_agent_sealed_or_nobody_did_is_only_parked() {
        for (agent, trouble) in [
            ("node2", KeyTrouble::Unknown),
            ("node2", KeyTrouble::SomebodyElses),
            ("node1", KeyTrouble::BadSignature),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut uplink = uplink(dir.path());
            keep(&uplink, agent, &key(2));
            assert_eq!(refused(&mut uplink, trouble), 0);
            assert_eq!(locked(&uplink.spool).parked().files, 1);
            assert_eq!(peek(&uplink), None);
        }
    }

    #[test]
    fn a_collector_whose_store_is_another_one_with_each_answer_is_asked_as_slowly_as_one_that_fails() {
        let dir = tempfile::tempdir().unwrap();
        let mut uplink = uplink(dir.path());
        (0..3).for_each(|_| keep(&uplink, "node1", &key(1)));
        let mut answered = |store: u32, boot_ms: u64| {
            let pending = peek(&uplink).expect("it is sent again");
            let answer = Acknowledged {
                duplicate: false,
                generation: format!("g{store}"),
                promise: None,
                missing: Vec::new(),
            };
            match uplink.acknowledged(&pending, answer).expect("noted") {
                true => uplink.another_store(boot_ms),
                false => Ok(()),
            }
        };
        for store in 0..4 {
            assert_eq!(answered(store, 0), Ok(()), "a store may be restored");
        }
        assert!(matches!(answered(4, 0), Err(Retry::NotACollector(_))));
        assert!(answered(5, STORES_WITHIN_MS - 1).is_err());
        assert_eq!(answered(6, STORES_WITHIN_MS), Ok(()));
    }
}
