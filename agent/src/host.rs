//! One host, from looks to acknowledged batches: the same for the program and for simulated fleets.
//!
//! A [`Host`] has two ends that share a spool. The [`Weigher`] takes looks and seals batches; the
//! [`Uplink`] empties the spool. A program that has the time keeps them apart ([`Host::into_parts`]) and
//! runs each in a loop of its own; one that drives many hosts calls both in turn.

use std::sync::{Arc, Mutex};

use weighbridge_journal::AppendError;
use weighbridge_meter::{AgentId, BootId, Holding, meter::Now};
use weighbridge_wire::{Batch, Hash, SigningKey, Status, limits, seal};

use crate::{
    clock::Clock,
    engine::{Contents, Engine, EngineOptions, printable},
    holders::Holders,
    metrics::Metrics,
    source::Look,
    spool::{Spool, SpoolError, SpoolOptions},
    uplink::{SendOutcome, Sender, SharedSpool, Uplink, locked},
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
        let spool = Spool::open(options.spool, random)?;
        for (epoch, error) in spool.set_aside() {
            tracing::error!(
                %epoch,
                error = crate::uplink::chain(error),
                "an epoch of the spool is damaged: it is left as it is and not sent, look into it"
            );
        }
        let spool: SharedSpool = Arc::new(Mutex::new(spool));
        let uplink = Uplink::new(Arc::clone(&spool), options.metrics.clone());
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
}

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
                self.holders.lease_state(),
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
        if let Err(error) = &result {
            self.engine.shrink();
            if let Some(metrics) = &self.metrics {
                metrics.not_kept(reason(error));
            }
            if is_disk_full(error) {
                // What the collector has need not be kept at the price of what it has not.
                let freed = spool.ready().and_then(|()| spool.give_up_acknowledged());
                if let Err(error) = freed {
                    tracing::warn!(error = crate::uplink::chain(&error), "cannot free space in the spool");
                }
            }
        } else if let Err(error) = spool.tidy(now.wall) {
            tracing::warn!(error = crate::uplink::chain(&error), "cannot remove acknowledged batches");
        }
        if let Some(metrics) = &self.metrics {
            metrics.spool(&spool);
        }
        result
    }

    fn seal_into(&mut self, spool: &mut Spool, now: Now) -> Result<SealedInfo, SealError> {
        spool.ready()?;
        if let Some((hash, batch)) = self.in_doubt.take() {
            if spool.link().prev_hash == hash {
                self.recorded(&batch);
            } else {
                self.engine.give_back(contents(*batch));
            }
        }
        spool.room()?;
        let mut info = SealedInfo { sequence: 0, batches: 0, records: 0, bytes: 0 };
        let mut waiting = vec![self.engine.take()];
        while let Some(next) = waiting.pop() {
            if next.len() > limits::RECORDS {
                let (first, second) = next.split();
                waiting.extend([second, first]);
                continue;
            }
            let records = next.len();
            match self.seal_one(spool, now, next) {
                Sealed::Kept { sequence, bytes } => {
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

    fn seal_one(&mut self, spool: &mut Spool, now: Now, records_of: Contents) -> Sealed {
        let link = spool.link();
        let records = records_of.len();
        let batch = Batch {
            agent: self.agent.clone(),
            epoch: link.epoch,
            sequence: link.sequence,
            prev_hash: link.prev_hash,
            boot: self.boot,
            windows: records_of.windows,
            gaps: records_of.gaps,
            holdings: records_of.holdings,
            inventory: records_of.inventory,
            status: Some(Status {
                at: now.wall,
                version: env!("CARGO_PKG_VERSION").into(),
                host: self.host.clone(),
                source_state: self.engine.source_state().into(),
                spool_bytes: spool.bytes(),
                unacknowledged: spool.unacknowledged(),
            }),
            losses: Vec::new(),
        };
        let sealed = match seal::seal(&batch, &self.key) {
            Ok(sealed) => sealed,
            Err(seal::SealError::TooLarge { .. }) if records > 1 => {
                return Sealed::TooLarge(contents(batch));
            }
            Err(error) => return Sealed::Failed(error.into(), Some(contents(batch))),
        };
        match spool.append(&sealed) {
            Ok(()) => {
                self.recorded(&batch);
                Sealed::Kept { sequence: link.sequence, bytes: sealed.bytes.len() }
            }
            Err(error @ SpoolError::NotWritten(_)) => {
                self.in_doubt = Some((sealed.hash, Box::new(batch)));
                Sealed::Failed(error.into(), None)
            }
            Err(error) => Sealed::Failed(error.into(), Some(contents(batch))),
        }
    }

    fn recorded(&self, batch: &Batch) {
        if let Some(metrics) = &self.metrics {
            let devices: Vec<_> = self.engine.devices().collect();
            metrics.recorded(batch, devices.iter().copied());
            metrics.devices(devices.iter().copied());
        }
    }
}

enum Sealed {
    Kept {
        sequence: u64,
        bytes: usize,
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

/// One word for the metric.
fn reason(error: &SealError) -> &'static str {
    match error {
        SealError::Spool(SpoolError::Full { .. }) => "spool_full",
        SealError::Spool(_) if is_disk_full(error) => "disk_full",
        SealError::Spool(_) => "spool_failed",
        SealError::Seal(_) => "not_sealed",
    }
}

fn is_disk_full(error: &SealError) -> bool {
    let SealError::Spool(error) = error else { return false };
    let source = match error {
        SpoolError::File { source, .. } => source,
        SpoolError::NotWritten(Some(AppendError::Failed(error))) => &error.source,
        _ => return false,
    };
    matches!(
        source.kind(),
        std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::FileTooLarge
    )
}

#[cfg(test)]
mod tests {
    use weighbridge_meter::{Gap, GapCause, Span, Trust, UtcMillis, meter::Pace};

    use super::*;

    /// The write came through although the sync failed: nobody knows until the journal is opened again.
    #[test]
    fn a_batch_in_doubt_that_is_there_after_all_is_not_recorded_twice() {
        for there in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let options = HostOptions {
                agent: "node1".parse().unwrap(),
                boot: BootId([1; 16]),
                key: SigningKey::from_bytes(&[2; 32]),
                engine: EngineOptions {
                    host: "node1".into(),
                    trust: Trust::Host,
                    pace: Pace { window_ms: 60_000, longest_tick_ms: 10_000 },
                    held_records: 10,
                },
                spool: SpoolOptions::in_dir(dir.path()),
                holders: Holders::none(),
                metrics: None,
            };
            let now = Now { boot_ms: 0, wall: UtcMillis(1_769_846_400_000) };
            let (mut weigher, _) = Host::open(options, &mut |bytes| bytes.fill(7)).unwrap().into_parts();
            let gap = Gap {
                accelerator: "GPU-1".parse().unwrap(),
                span: Span::new(now.wall, now.wall.plus(1000)).unwrap(),
                boot_start_ms: 0,
                cause: GapCause::DeviceLost,
            };
            weigher.engine.give_back(Contents { gaps: vec![gap.clone()], ..Contents::default() });
            assert_eq!(weigher.seal(now).unwrap().records, 1);

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
            assert_eq!(weigher.seal(now).unwrap().records, usize::from(!there));
        }
    }

    #[test]
    fn a_batch_that_is_too_large_becomes_several() {
        let dir = tempfile::tempdir().unwrap();
        let now = Now { boot_ms: 0, wall: UtcMillis(1_769_846_400_000) };
        let options = HostOptions {
            agent: "node1".parse().unwrap(),
            boot: BootId([1; 16]),
            key: SigningKey::from_bytes(&[2; 32]),
            engine: EngineOptions {
                host: "node1".into(),
                trust: Trust::Host,
                pace: Pace { window_ms: 60_000, longest_tick_ms: 10_000 },
                held_records: 200_000,
            },
            spool: SpoolOptions::in_dir(dir.path()),
            holders: Holders::none(),
            metrics: None,
        };
        let (mut weigher, _) = Host::open(options, &mut |bytes| bytes.fill(7)).unwrap().into_parts();
        let gaps = (0..120_000_i64).map(|n| Gap {
            accelerator: "GPU-1".parse().unwrap(),
            span: Span::new(now.wall.plus(n), now.wall.plus(n + 1)).unwrap(),
            boot_start_ms: 0,
            cause: GapCause::DeviceLost,
        });
        weigher.engine.give_back(Contents { gaps: gaps.collect(), ..Contents::default() });
        let sealed = weigher.seal(now).unwrap();
        assert_eq!((sealed.batches, sealed.sequence, sealed.records), (4, 4, 120_000));
    }
}
