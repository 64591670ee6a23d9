//! The whole system in one process, driven by a seed: agents' and collector's own code, simulated time, and a
//! network and crashes that follow from the seed.
//!
//! The world does one deed after the other, so that a seed means the same course each time. Files are real
//! files: a crash drops whatever was not written, and leaves half an entry behind now and then. What syncs are
//! worth shows the power-cut test of real programs instead.
//!
//! Deliberately absent: real time. An hour of measuring takes milliseconds, so hundreds of seeds fit where the
//! real programs get one.

mod collector;
mod hosts;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use weighbridge_journal::Reader;
use weighbridge_meter::{Span, UtcMillis};
use weighbridge_tests::{damage, random::Random};
use weighbridge_wire::{Batch, Envelope, Hash, hash};

use self::{collector::Running, hosts::SimulatedHost};

/// Everything begins at this whole hour.
const START: &str = "2026-03-02T08:00:00Z";

const HOSTS: usize = 3;

/// The simulated time, which only [`World`] moves.
type Now = Arc<AtomicI64>;

/// What a course of events came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Course {
    /// Batches that were made.
    pub made: usize,
    /// Of these, batches in the ledger in the end.
    pub arrived: usize,
    /// Batches that were refused for good and kept apart.
    pub parked: usize,
    /// Batches that went with a spool when an older one was put in its place, before anybody had them.
    pub gone: usize,
    /// Crashes of agents and collectors.
    pub crashes: usize,
    /// Requests that met trouble.
    pub troubles: usize,
}

/// One simulated site.
struct World {
    folder: tempfile::TempDir,
    random: Random,
    now: Now,
    collector: Option<Running>,
    network: collector::Network,
    hosts: Vec<SimulatedHost>,
    /// Everything that was ever made, by hash.
    made: BTreeMap<Hash, Batch>,
    course: Course,
}

/// Lives through a number of deeds, then heals everything, and judges.
///
/// # Errors
/// What is lost, double, altered or stuck.
pub async fn live(seed: u64, deeds: usize) -> Result<Course, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no folder: {error}"))?;
    let start = START.parse::<UtcMillis>().map_err(|error| error.to_string())?;
    let now: Now = Arc::new(AtomicI64::new(start.0));
    let random = Random::from_seed(seed);
    let network = collector::Network::new(random.clone());
    let collector = Running::start(folder.path(), &now, &network).await?;
    let mut hosts = Vec::new();
    for index in 0..HOSTS {
        hosts.push(SimulatedHost::new(folder.path(), index, &now, seed)?);
    }
    collector.enrol(&hosts).await?;
    let mut world = World {
        folder,
        random,
        now,
        collector: Some(collector),
        network,
        hosts,
        made: BTreeMap::new(),
        course: Course::default(),
    };
    for _ in 0..deeds {
        world.deed().await?;
    }
    world.heal().await?;
    world.judge().await
}

impl World {
    async fn deed(&mut self) -> Result<(), String> {
        let host = usize::try_from(self.random.within(0..HOSTS as u64)).unwrap_or(0);
        match self.random.within(0..100) {
            0..35 => self.measure()?,
            35..70 => self.send(host).await?,
            70..80 => {
                let torn = self.random.within(0..2) == 0;
                self.hosts[host].crash(torn, &mut self.random)?;
                self.course.crashes += 1;
                self.note()?;
            }
            80..88 => self.crash_collector().await?,
            88..94 => self.network.change(self.random.within(0..800)),
            94..96 => self.restore_spool(host)?,
            96..97 => self.restore_collector().await?,
            97..98 => self.hosts[host].keep_copy()?,
            98..99 => {
                if let Some(running) = &self.collector {
                    running.keep_copy().await?;
                }
            }
            _ => self.hosts[host].start_epoch_by_hand()?,
        }
        Ok(())
    }

    /// Some time passes; who lives measures.
    fn measure(&mut self) -> Result<(), String> {
        let minutes = self.random.within(1..25);
        self.network.pass_time();
        for _ in 0..minutes {
            for tick in 0..6 {
                self.now.fetch_add(10_000, Ordering::Relaxed);
                for host in &mut self.hosts {
                    host.tick(tick == 5)?;
                }
            }
        }
        self.note()
    }

    /// Takes note of all batches that exist now.
    fn note(&mut self) -> Result<(), String> {
        for host in &self.hosts {
            for bytes in host.spooled()? {
                let hash = hash(&bytes);
                if let Entry::Vacant(new) = self.made.entry(hash) {
                    new.insert(opened(&bytes)?);
                    self.course.made += 1;
                }
            }
        }
        Ok(())
    }

    async fn send(&mut self, host: usize) -> Result<(), String> {
        let address = match &self.collector {
            Some(running) => running.address(),
            // Nobody listens there any more.
            None => collector::NOBODY,
        };
        self.hosts[host].send(address).await?;
        self.note()
    }

    async fn crash_collector(&mut self) -> Result<(), String> {
        match self.collector.take() {
            Some(running) => {
                running.crash().await;
                self.course.crashes += 1;
                if self.random.within(0..2) == 0 {
                    tear(&self.folder.path().join("collector/data/ledger"), &mut self.random)?;
                }
            }
            None => {
                self.collector = Some(Running::start(self.folder.path(), &self.now, &self.network).await?)
            }
        }
        Ok(())
    }

    /// A spool from an earlier time takes the place of this one: what only that one held is gone, and is no
    /// fault of ours.
    fn restore_spool(&mut self, host: usize) -> Result<(), String> {
        self.note()?;
        let before: BTreeSet<Hash> = self.hosts[host].spooled()?.iter().map(|bytes| hash(bytes)).collect();
        if !self.hosts[host].restore(&mut self.random)? {
            return Ok(());
        }
        let after: BTreeSet<Hash> = self.hosts[host].spooled()?.iter().map(|bytes| hash(bytes)).collect();
        let ledger = self.in_ledger()?;
        for hash in before.difference(&after) {
            if !ledger.contains_key(hash) && !self.hosts[host].has_parked(hash) {
                self.made.remove(hash);
                self.course.gone += 1;
            }
        }
        Ok(())
    }

    /// A collector from an earlier time takes the place of this one, under another generation.
    async fn restore_collector(&mut self) -> Result<(), String> {
        if let Some(running) = self.collector.take() {
            running.crash().await;
        }
        // What was acknowledged and already given up by its agent would be lost for good: agents of this
        // simulation keep what they have, so there is no such thing.
        collector::restore(self.folder.path())?;
        self.collector = Some(Running::start(self.folder.path(), &self.now, &self.network).await?);
        Ok(())
    }

    /// The network is good, everybody lives, and all that waits is sent.
    async fn heal(&mut self) -> Result<(), String> {
        self.network.change(0);
        if self.collector.is_none() {
            self.collector = Some(Running::start(self.folder.path(), &self.now, &self.network).await?);
        }
        // What a collector asks for and nobody has any more is told as lost by a batch that is made after that.
        for _ in 0..6 {
            self.measure()?;
            for host in 0..HOSTS {
                self.send(host).await?;
            }
        }
        for host in &self.hosts {
            let waiting = host.waiting();
            if waiting > 0 {
                return Err(format!("{}: {waiting} batches still wait", host.name()));
            }
        }
        Ok(())
    }

    fn in_ledger(&self) -> Result<BTreeMap<Hash, Batch>, String> {
        collector::batches(self.folder.path())
    }

    async fn judge(mut self) -> Result<Course, String> {
        self.note()?;
        let running = self.collector.take().ok_or("the collector was healed")?;
        let found = self.in_ledger()?;
        for (hash, batch) in &self.made {
            let parked = self.hosts.iter().any(|host| host.has_parked(hash));
            self.course.parked += usize::from(parked);
            if !parked && !found.contains_key(hash) {
                return Err(format!("lost: {} {} {}", batch.agent, batch.epoch, batch.sequence));
            }
        }
        let mut numbers = BTreeSet::new();
        let mut spans: BTreeMap<String, Vec<Span>> = BTreeMap::new();
        for (hash, batch) in &found {
            if self.made.get(hash) != Some(batch) {
                return Err(format!(
                    "altered or invented: {} {} {}",
                    batch.agent, batch.epoch, batch.sequence
                ));
            }
            if !numbers.insert((batch.agent.clone(), batch.epoch, batch.sequence)) {
                return Err(format!("twice: {} {} {}", batch.agent, batch.epoch, batch.sequence));
            }
            for window in &batch.windows {
                spans.entry(window.accelerator.to_string()).or_default().push(window.span);
            }
        }
        self.course.arrived = found.len();
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for (accelerator, spans) in &mut spans {
            spans.sort_by_key(|span| span.start());
            if let Some(pair) = spans.windows(2).find(|pair| pair[0].end() > pair[1].start()) {
                return Err(format!("{accelerator}: two windows of one time: {pair:?}"));
            }
            expected.insert(accelerator.clone(), spans.iter().map(Span::millis).sum());
        }
        let measured = running.measured().await?;
        if measured != expected {
            return Err(format!("the sums are {measured:?}, the windows {expected:?}"));
        }
        running.verify().await?;
        self.course.troubles = self.network.troubles();
        running.crash().await;
        Ok(self.course)
    }
}

fn opened(bytes: &[u8]) -> Result<Batch, String> {
    Envelope::decode(bytes).and_then(|envelope| envelope.read()).map_err(|error| error.to_string())
}

/// Every entry of a journal at rest, its torn end left out.
fn entries(folder: &Path) -> Result<Vec<Vec<u8>>, String> {
    let mut reader = Reader::from_start(folder);
    let mut entries = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(entry)) => entries.push(entry.payload),
            Ok(None) => return Ok(entries),
            Err(error) => return Err(format!("{}: {error}", folder.display())),
        }
    }
}

/// Leaves behind the last whole entry what a crash in the middle of a write leaves: the beginning of one.
fn tear(folder: &Path, random: &mut Random) -> Result<(), String> {
    let mut reader = Reader::from_start(folder);
    let mut end = None;
    while let Ok(Some(entry)) = reader.next() {
        end = Some(entry.next);
    }
    let (Some(end), Some(last)) = (end, damage::files(folder, ".seg").pop()) else { return Ok(()) };
    if !last.to_string_lossy().ends_with(&format!("{:020}.seg", end.segment)) {
        return Ok(());
    }
    let mut bytes = std::fs::read(&last).map_err(|error| error.to_string())?;
    let at = usize::try_from(end.offset).map_err(|error| error.to_string())?;
    let torn = 1 + usize::try_from(random.within(0..200)).unwrap_or(0);
    if bytes.len() < at + torn {
        bytes.resize(at + torn, 0);
    }
    // The length of an entry that is longer than what is there, and some of the rest.
    let mut beginning = 5_000_u32.to_le_bytes().to_vec();
    beginning.extend((0..torn).map(|_| random.number() as u8));
    bytes[at..at + torn].copy_from_slice(&beginning[..torn]);
    std::fs::write(&last, bytes).map_err(|error| error.to_string())
}
