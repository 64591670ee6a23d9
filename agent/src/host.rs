//! One host, from looks to acknowledged batches: the same for the program and for simulated fleets.
//!
//! A [`Host`] has two ends that share a spool. The [`Weigher`] takes looks and seals batches; the
//! [`Uplink`] empties the spool. A program that has the time keeps them apart ([`Host::into_parts`]) and
//! runs each in a loop of its own; one that drives many hosts calls both in turn.

use std::sync::{Arc, Mutex};

use weighbridge_journal::AppendError;
use weighbridge_meter::{AgentId, BootId, Holding, meter::Now};
use weighbridge_wire::{Batch, Hash, KeyId, Report, SigningKey, Status, limits, report, seal};

use crate::{
    alarm,
    clock::Clock,
    engine::{Contents, Engine, EngineOptions, printable},
    holders::Holders,
    metrics::Metrics,
    source::Look,
    spool::{Spool, SpoolError, SpoolOptions, is_full},
    uplink::{Own, SendOutcome, Sender, SharedSpool, Uplink, chain, locked},
};

/// What makes a host.
#[derive(Debug)]
pub struct HostOptions {
    /// As enrolled.
    pub agent: AgentId,
    /// The boot in which its clock counts.
    pub boot: BootId,
    /// Its key; the collector knows the public part.
    pub key: SigningKey,
    /// Host name, trust and pace.
    pub engine: EngineOptions,
    /// Where batches are kept.
    pub spool: SpoolOptions,
    /// Who tells about holders on the host itself.
    pub holders: Holders,
    /// Where to count what happens, if anybody looks.
    pub metrics: Option<Arc<Metrics>>,
}

/// One host.
#[derive(Debug)]
pub struct Host {
    weigher: Weigher,
    uplink: Uplink,
}

/// A batch that exists now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedInfo {
    /// Its sequence number; of the last one, if there had to be several.
    pub sequence: u64,
    /// How many batches it took.
    pub batches: u32,
    /// Records in them.
    pub records: usize,
    /// Bytes of them.
    pub bytes: usize,
}

/// A batch could not be made or kept. What it held waits for the next one.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The spool takes no more, or its disk fails.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The batch cannot be made, which should be impossible: look into it.
    #[error("a batch could not be sealed")]
    Seal(#[from] weighbridge_wire::seal::SealError),
}

impl Host {
    /// Opens the spool and goes on where it ended. `random` fills what it is given.
    pub fn open(options: HostOptions, random: &mut dyn FnMut(&mut [u8])) -> Result<Self, SpoolError> {
        let mut spool = Spool::open(options.spool, random)?;
        alarm::tell(&mut spool, options.metrics.as_deref());
        let spool: SharedSpool = Arc::new(Mutex::new(spool));
        let own = Own { agent: options.agent.clone(), key: KeyId::of(&options.key.verifying_key()) };
        let uplink = Uplink::new(Arc::clone(&spool), own, options.metrics.clone());
        let weigher = Weigher {
            agent: options.agent,
            boot: options.boot,
            key: options.key,
            host: printable(&options.engine.host),
            engine: Engine::new(options.engine),
            holders: options.holders,
            spool,
            metrics: options.metrics,
            in_doubt: None,
            trouble: None,
            full_at: None,
            gaps_sealed_at: None,
        };
        Ok(Self { weigher, uplink })
    }

    /// Takes one look.
    pub fn tick(&mut self, now: Now, look: &Look) {
        self.weigher.tick(now, look);
    }

    /// Adds holdings that nobody on the host could see: for simulated fleets.
    pub fn hold(&mut self, holdings: impl IntoIterator<Item = Holding>) {
        self.weigher.engine.hold(holdings);
    }

    /// Makes a batch of everything finished, and makes it durable.
    pub fn seal(&mut self, now: Now) -> Result<SealedInfo, SealError> {
        self.weigher.seal(now)
    }

    /// The same for the last time: what cannot be kept as it is becomes a gap.
    pub fn seal_last(&mut self, now: Now) -> Result<SealedInfo, SealError> {
        self.weigher.seal_last(now)
    }

    /// Ends everything open; [`Host::seal`] then takes it.
    pub fn finish(&mut self, now: Now) {
        self.weigher.finish(now);
    }

    /// Sends what waits, in order, until nothing does or something fails. Does not wait in between.
    pub async fn send_pending(&mut self, sender: &Sender, clock: &dyn Clock) -> SendOutcome {
        self.uplink.send_pending(sender, clock).await
    }

    /// Batches that no collector acknowledged yet.
    pub fn unacknowledged(&self) -> u64 {
        locked(&self.weigher.spool).unacknowledged()
    }

    /// Both ends, to be run apart.
    pub fn into_parts(self) -> (Weigher, Uplink) {
        (self.weigher, self.uplink)
    }
}

/// The end of a host that measures.
#[derive(Debug)]
pub struct Weigher {
    agent: AgentId,
    boot: BootId,
    key: SigningKey,
    host: String,
    engine: Engine,
    holders: Holders,
    spool: SharedSpool,
    metrics: Option<Arc<Metrics>>,
    /// The last batch, if nobody knows whether it was written.
    in_doubt: Option<(Hash, Box<Batch>)>,
    /// Why batches cannot be kept, as last logged.
    trouble: Option<&'static str>,
    /// When the spool was last seen full, if it still is: milliseconds since boot.
    full_at: Option<u64>,
    /// When gaps were last sealed into the room that is left for them.
    gaps_sealed_at: Option<u64>,
}

/// How often spans that had to be given up are sealed while the spool is full: as often as they are cut.
const GAPS_EVERY_MS: u64 = 3_600_000;

/// Refused batches whose records are sealed again at once; the rest follows with the next batch.
const RESEALED_AT_ONCE: usize = 16;

impl Weigher {
    /// Takes one look.
    pub fn tick(&mut self, now: Now, look: &Look) {
        let news = self.holders.look(now, look);
        let unknown = self.engine.unknown_looks();
        self.engine.tick(now, look, news);
        if self.engine.unknown_looks() > unknown {
            tracing::error!("the source reads accelerators that are in no inventory: they are not metered");
        }
        if let Some(metrics) = &self.metrics {
            metrics.looked(
                self.engine.source_state(),
                look.unidentified,
                &self.holders.states(),
                self.engine.dropped_holdings(),
            );
        }
    }

    /// `ok`, `starting`, or why the source finds nothing.
    pub fn source_state(&self) -> &'static str {
        self.engine.source_state()
    }

    /// Ends everything open as of now.
    pub fn finish(&mut self, now: Now) {
        self.engine.finish(now);
    }

    /// Makes a batch of everything finished, several if it is too much for one, and makes it durable.
    /// There is always one: the status in it says that the agent is alive.
    pub fn seal(&mut self, now: Now) -> Result<SealedInfo, SealError> {
        self.engine.hold(self.holders.confirm());
        let shared = Arc::clone(&self.spool);
        let mut spool = locked(&shared);
        let result = self.seal_into(&mut spool, now);
        match &result {
            Err(error) => {
                self.engine.shrink();
                if let Some(metrics) = &self.metrics {
                    metrics.not_kept(reason(error));
                }
                if is_disk_full(error) {
                    // What the collector has need not be kept at the price of what it has not.
                    let opened = spool.ready();
                    let freed = spool.give_up_acknowledged();
                    if let Err(error) = opened.and(freed) {
                        tracing::debug!(error = chain(&error), "cannot free space in the spool");
                    }
                }
                if reason(error) != NOT_SEALED {
                    self.seal_gaps(&mut spool, now);
                }
            }
            Ok(_) => {
                if let Err(error) = spool.tidy(now.wall) {
                    tracing::warn!(error = chain(&error), "cannot remove acknowledged batches");
                }
            }
        }
        self.tell(&mut spool, now, result.as_ref().err());
        result
    }

    /// The last time: what cannot be kept as it is becomes a gap, which is sealed where there is room for it.
    pub fn seal_last(&mut self, now: Now) -> Result<SealedInfo, SealError> {
        let result = self.seal(now);
        let shared = Arc::clone(&self.spool);
        let mut spool = locked(&shared);
        if result.is_err() {
            if let Some((_, batch)) = self.in_doubt.take() {
                self.engine.give_back(contents(*batch));
            }
            self.engine.give_up();
            self.gaps_sealed_at = None;
            self.seal_gaps(&mut spool, now);
            alarm::tell(&mut spool, self.metrics.as_deref());
        }
        if let Err(error) = spool.save() {
            tracing::debug!(error = chain(&error), "it is not written down how far the spool has come");
        }
        result
    }

    fn tell(&mut self, spool: &mut Spool, now: Now, error: Option<&SealError>) {
        let trouble = error.map(reason);
        if let (Some(error), true) = (error, trouble != self.trouble) {
            tracing::error!(
                reason = trouble,
                error = chain(error),
                "batches cannot be kept: what they hold waits in memory, then becomes gaps"
            );
        } else if error.is_none() && self.trouble.is_some() {
            tracing::warn!(reason = self.trouble, "batches are kept again");
        }
        self.trouble = trouble;
        let full = trouble.is_some_and(|trouble| matches!(trouble, SPOOL_FULL | DISK_FULL));
        if let (Some(since), Some(metrics)) = (self.full_at, &self.metrics) {
            metrics.spool_was_full(now.boot_ms.saturating_sub(since));
        }
        self.full_at = full.then_some(now.boot_ms);
        alarm::tell(spool, self.metrics.as_deref());
        if let Some(metrics) = &self.metrics {
            metrics.spool(spool);
        }
        let link = spool.link();
        let report = Report {
            agent: self.agent.clone(),
            epoch: link.epoch,
            sequence: link.sequence - 1,
            boot: self.boot,
            boot_ms: now.boot_ms,
            status: self.status(spool, now),
        };
        spool.say(report::seal(&report, &self.key));
    }

    fn status(&self, spool: &Spool, now: Now) -> Status {
        Status {
            at: now.wall,
            version: env!("CARGO_PKG_VERSION").into(),
            host: self.host.clone(),
            source_state: self.engine.source_state().into(),
            spool_bytes: spool.bytes(),
            unacknowledged: spool.unacknowledged(),
        }
    }

    fn seal_into(&mut self, spool: &mut Spool, now: Now) -> Result<SealedInfo, SealError> {
        spool.ready()?;
        self.settle_doubt(spool)?;
        spool.room()?;
        let mut info = SealedInfo { sequence: 0, batches: 0, records: 0, bytes: 0 };
        for _ in 0..RESEALED_AT_ONCE {
            let Some(again) = spool.reseal()? else { break };
            // Their times count from the boot in which they were measured.
            let boot = again.batch.boot;
            match self.seal_one(spool, now, boot, contents(again.batch.clone()), Room::Any) {
                // They were recorded when they were measured.
                Sealed::Kept { .. } => spool.resealed(&again)?,
                Sealed::TooLarge(_) => {
                    // With the status and the losses of today it is larger than it was; it stays parked.
                    tracing::error!("records of a refused batch do not fit a new one: they stay parked");
                    spool.resealed(&again)?;
                }
                Sealed::Failed(error, _) => {
                    // They are in a file: the next attempt finds them there, or in the batch after all.
                    self.in_doubt = None;
                    return Err(error);
                }
            }
        }
        let mut waiting = vec![self.engine.take()];
        while let Some(next) = waiting.pop() {
            if next.len() > limits::RECORDS {
                let (first, second) = next.split();
                waiting.extend([second, first]);
                continue;
            }
            let records = next.len();
            match self.seal_one(spool, now, self.boot, next, Room::Any) {
                Sealed::Kept { sequence, bytes, batch } => {
                    self.recorded(&batch);
                    info.sequence = sequence;
                    info.batches += 1;
                    info.records += records;
                    info.bytes += bytes;
                }
                Sealed::TooLarge(contents) => {
                    let (first, second) = contents.split();
                    waiting.extend([second, first]);
                }
                Sealed::Failed(error, contents) => {
                    // The earliest last, so that it ends up first.
                    waiting.into_iter().chain(contents).for_each(|contents| self.engine.give_back(contents));
                    return Err(error);
                }
            }
        }
        Ok(info)
    }

    /// Finds out whether the last batch exists.
    fn settle_doubt(&mut self, spool: &mut Spool) -> Result<(), SpoolError> {
        let Some((hash, batch)) = &self.in_doubt else { return Ok(()) };
        let there = spool.hash_of(batch.epoch, batch.sequence)? == Some(*hash);
        if let Some((_, batch)) = self.in_doubt.take() {
            if there {
                self.recorded(&batch);
            } else {
                self.engine.give_back(contents(*batch));
            }
        }
        Ok(())
    }

    /// Seals what had to be given up, and losses that were not told, where the spool has room for nothing else.
    fn seal_gaps(&mut self, spool: &mut Spool, now: Now) {
        let waited = self.gaps_sealed_at.map(|sealed| now.boot_ms.saturating_sub(sealed));
        if waited.is_some_and(|waited| waited < GAPS_EVERY_MS) {
            return;
        }
        if spool.ready().and_then(|()| self.settle_doubt(spool)).is_err() {
            return;
        }
        let lost = self.engine.take_lost();
        if lost.is_empty() && spool.losses_to_tell().is_empty() {
            return;
        }
        match self.seal_one(spool, now, self.boot, lost, Room::Reserve) {
            Sealed::Kept { batch, .. } => {
                self.recorded(&batch);
                self.gaps_sealed_at = Some(now.boot_ms);
            }
            Sealed::TooLarge(contents) => self.engine.give_back(contents),
            Sealed::Failed(error, contents) => {
                tracing::debug!(error = chain(&error), "no room for gaps either: they wait in memory");
                contents.into_iter().for_each(|contents| self.engine.give_back(contents));
            }
        }
    }

    fn seal_one(
        &mut self,
        spool: &mut Spool,
        now: Now,
        boot: BootId,
        records_of: Contents,
        room: Room,
    ) -> Sealed {
        let link = spool.link();
        let records = records_of.len();
        let batch = Batch {
            agent: self.agent.clone(),
            epoch: link.epoch,
            sequence: link.sequence,
            prev_hash: link.prev_hash,
            boot,
            windows: records_of.windows,
            gaps: records_of.gaps,
            holdings: records_of.holdings,
            inventory: records_of.inventory,
            status: Some(self.status(spool, now)),
            losses: spool.losses_to_tell(),
        };
        let sealed = match seal::seal(&batch, &self.key) {
            Ok(sealed) => sealed,
            Err(seal::SealError::TooLarge { .. }) if records > 1 => {
                return Sealed::TooLarge(contents(batch));
            }
            Err(error) => return Sealed::Failed(error.into(), Some(contents(batch))),
        };
        let appended = match room {
            Room::Any => spool.append(&sealed),
            Room::Reserve => spool.append_reserved(&sealed),
        };
        match appended {
            Ok(()) => {
                spool.losses_told(&batch.losses, &link);
                let bytes = sealed.bytes.len();
                Sealed::Kept { sequence: link.sequence, bytes, batch: Box::new(batch) }
            }
            Err(error @ SpoolError::NotWritten(_)) => {
                self.in_doubt = Some((sealed.hash, Box::new(batch)));
                Sealed::Failed(error.into(), None)
            }
            Err(error) => Sealed::Failed(error.into(), Some(contents(batch))),
        }
    }

    /// For tests: as if these could not be kept.
    #[cfg(test)]
    pub(crate) fn give_back(&mut self, contents: Contents) {
        self.engine.give_back(contents);
    }

    /// For tests: a device without looks.
    #[cfg(test)]
    pub(crate) fn know(&mut self, accelerator: &str) {
        self.engine.know(accelerator.parse().expect("a name"));
    }

    #[cfg(test)]
    pub(crate) fn spool(&self) -> SharedSpool {
        Arc::clone(&self.spool)
    }

    fn recorded(&self, batch: &Batch) {
        if let Some(metrics) = &self.metrics {
            let devices: Vec<_> = self.engine.devices().collect();
            metrics.recorded(batch, devices.iter().copied());
            metrics.devices(devices.iter().copied());
        }
    }
}

/// Where a batch may go.
#[derive(Clone, Copy)]
enum Room {
    Any,
    /// Where nothing but gaps, losses and statuses goes.
    Reserve,
}

enum Sealed {
    Kept {
        sequence: u64,
        bytes: usize,
        batch: Box<Batch>,
    },
    TooLarge(Contents),
    /// With what is to wait in memory.
    Failed(SealError, Option<Contents>),
}

fn contents(batch: Batch) -> Contents {
    Contents {
        windows: batch.windows,
        gaps: batch.gaps,
        holdings: batch.holdings,
        inventory: batch.inventory,
    }
}

const SPOOL_FULL: &str = "spool_full";
const DISK_FULL: &str = "disk_full";
const NOT_SEALED: &str = "not_sealed";

/// One word for the metric.
fn reason(error: &SealError) -> &'static str {
    match error {
        SealError::Spool(SpoolError::Full { .. }) => SPOOL_FULL,
        SealError::Spool(_) if is_disk_full(error) => DISK_FULL,
        SealError::Spool(_) => "spool_failed",
        SealError::Seal(_) => NOT_SEALED,
    }
}

fn is_disk_full(error: &SealError) -> bool {
    match error {
        SealError::Spool(SpoolError::File { source, .. }) => is_full(source),
        SealError::Spool(SpoolError::NotWritten(Some(AppendError::Failed(error)))) => is_full(&error.source),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use weighbridge_meter::{Gap, GapCause, Span, Trust, UtcMillis, meter::Pace};
    use weighbridge_wire::Envelope;

    use super::*;

    /// The write came through although the sync failed: nobody knows until the journal is opened again.
    #[test]
    fn a_batch_in_doubt_that_is_there_after_all_is_not_recorded_twice() {
        for there in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut weigher = weigher(dir.path(), BootId([1; 16]), 10);
            let gap = gap();
            weigher.engine.give_back(Contents { gaps: vec![gap.clone()], ..Contents::default() });
            assert_eq!(weigher.seal(NOW).unwrap().records, 1);

            let hash = locked(&weigher.spool).link().prev_hash;
            let batch = Batch {
                agent: weigher.agent.clone(),
                epoch: locked(&weigher.spool).epoch(),
                sequence: 1,
                prev_hash: [0; 32],
                boot: weigher.boot,
                windows: vec![],
                gaps: vec![gap],
                holdings: vec![],
                inventory: vec![],
                status: None,
                losses: Vec::new(),
            };
            let hash = if there { hash } else { [0xff; 32] };
            weigher.in_doubt = Some((hash, Box::new(batch)));
            assert_eq!(weigher.seal(NOW).unwrap().records, usize::from(!there));
        }
    }

    #[test]
    fn a_batch_that_is_too_large_becomes_several() {
        let dir = tempfile::tempdir().unwrap();
        let mut weigher = weigher(dir.path(), BootId([1; 16]), 200_000);
        let gaps = (0..120_000_i64)
            .map(|n| Gap { span: Span::new(NOW.wall.plus(n), NOW.wall.plus(n + 1)).unwrap(), ..gap() });
        weigher.engine.give_back(Contents { gaps: gaps.collect(), ..Contents::default() });
        let sealed = weigher.seal(NOW).unwrap();
        assert_eq!((sealed.batches, sealed.sequence, sealed.records), (4, 4, 120_000));
    }

    /// Their milliseconds since boot mean nothing in another boot: the collector would take the clock for wrong,
    /// and move them.
    #[test]
    fn records_that_are_sealed_again_after_a_reboot_keep_the_boot_they_were_measured_in() {
        let dir = tempfile::tempdir().unwrap();
        let (before, after) = (BootId([1; 16]), BootId([2; 16]));
        let mut measuring = weigher(dir.path(), before, 10);
        measuring.engine.give_back(Contents { gaps: vec![gap()], ..Contents::default() });
        measuring.seal(NOW).unwrap();
        drop(measuring);

        let mut measuring = weigher(dir.path(), after, 10);
        {
            let mut spool = locked(&measuring.spool);
            let refused = spool.peek().unwrap().expect("one waits");
            spool.start_epoch().unwrap();
            spool.park_conflict(&refused, true).unwrap();
        }
        let another = Gap { boot_start_ms: 1, ..gap() };
        measuring.engine.give_back(Contents { gaps: vec![another.clone()], ..Contents::default() });
        measuring.seal(NOW).unwrap();
        let mut sealed = Vec::new();
        let mut spool = locked(&measuring.spool);
        while let Some(pending) = spool.peek().unwrap() {
            let batch = Envelope::decode(&pending.bytes).unwrap().read().unwrap();
            sealed.push((batch.boot, batch.gaps));
            spool.acknowledge(&pending).unwrap();
        }
        assert_eq!(sealed, [(before, vec![gap()]), (after, vec![another])]);
    }

    #[test]
    fn a_refused_batch_that_comes_up_again_is_not_sealed_again_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut measuring = weigher(dir.path(), BootId([1; 16]), 10);
        measuring.engine.give_back(Contents { gaps: vec![gap()], ..Contents::default() });
        measuring.seal(NOW).unwrap();
        locked(&measuring.spool).start_epoch().unwrap();
        // At first, then as after a crash that forgot where sending was, then because a person wants it.
        for attempt in 0..3 {
            let mut spool = locked(&measuring.spool);
            if attempt == 2 {
                spool.repair(true).unwrap();
            }
            let refused = spool.peek().unwrap().expect("one waits");
            if attempt == 0 {
                spool.keep_to_reseal(&refused).unwrap();
            } else {
                spool.park_conflict(&refused, true).unwrap();
            }
            drop(spool);
            // Something else comes between, so that the last batch does not tell what is in it.
            measuring.seal(NOW).unwrap();
            measuring.seal(NOW).unwrap();
        }
        let mut spool = locked(&measuring.spool);
        let mut gaps = Vec::new();
        while let Some(pending) = spool.peek().unwrap() {
            gaps.extend(Envelope::decode(&pending.bytes).unwrap().read().unwrap().gaps);
            spool.acknowledge(&pending).unwrap();
        }
        assert_eq!(gaps, [gap()]);
    }

    const NOW: Now = Now { boot_ms: 0, wall: UtcMillis(1_769_846_400_000) };

    fn weigher(dir: &Path, boot: BootId, held_records: usize) -> Weigher {
        let options = HostOptions {
            agent: "node1".parse().unwrap(),
            boot,
            key: SigningKey::from_bytes(&[2; 32]),
            engine: EngineOptions {
                host: "node1".into(),
                trust: Trust::Host,
                pace: Pace { window_ms: 60_000, longest_tick_ms: 10_000 },
                held_records,
            },
            spool: SpoolOptions::in_dir(dir),
            holders: Holders::none(),
            metrics: None,
        };
        // Each boot has its own random numbers.
        Host::open(options, &mut |bytes| bytes.fill(6 + boot.0[0])).unwrap().into_parts().0
    }

    fn gap() -> Gap {
        Gap {
            accelerator: "GPU-1".parse().unwrap(),
            span: Span::new(NOW.wall, NOW.wall.plus(1000)).unwrap(),
            boot_start_ms: 0,
            cause: GapCause::DeviceLost,
        }
    }
}
