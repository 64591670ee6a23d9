//! Simulated hosts: the agent's meter, spool, signing and uplink around a scenario.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use weighbridge_agent::spool::SpoolOptions;
use weighbridge_meter::{BootId, UtcMillis};
use weighbridge_tests::{
    damage,
    random::Random,
    simulated::{self, Simulated, SimulatedOptions},
};
use weighbridge_wire::{Hash, hash};

use crate::Now;

/// One host. A crash takes everything but its files.
pub(crate) struct SimulatedHost {
    name: String,
    spool: PathBuf,
    copy: PathBuf,
    now: Now,
    boots: u8,
    random: u64,
    running: Option<Simulated>,
}

impl SimulatedHost {
    pub(crate) fn new(folder: &Path, index: usize, now: &Now, seed: u64) -> Result<Self, String> {
        let name = format!("host-{index}");
        let mut host = Self {
            spool: folder.join(&name),
            copy: folder.join(format!("{name}.copy")),
            now: Arc::clone(now),
            boots: 0,
            random: seed ^ ((index as u64) << 32),
            running: None,
            name,
        };
        host.boot()?;
        Ok(host)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn boot(&mut self) -> Result<(), String> {
        self.boots += 1;
        let wall = UtcMillis(self.now.load(Ordering::Relaxed));
        let mut boot = [self.boots; 16];
        boot[..self.name.len()].copy_from_slice(self.name.as_bytes());
        let mut random = Random::from_seed(self.random);
        self.random = random.number();
        let options = SimulatedOptions {
            name: self.name.clone(),
            accelerators: 2,
            spool: self.spool.clone(),
            wall,
            boot: BootId(boot),
            seed: self.random,
        };
        // Small segments, so that they are begun all the time.
        let spool = SpoolOptions { segment_bytes: 3_000, ..SpoolOptions::in_dir(&self.spool) };
        let running = Simulated::boot_with(spool, options).map_err(|error| chain(&self.name, &error))?;
        self.running = Some(running);
        Ok(())
    }

    /// Ten seconds later.
    pub(crate) fn tick(&mut self, seal: bool) -> Result<(), String> {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.tick(simulated::TICK_MS);
        if seal {
            running.seal().map_err(|error| chain(&self.name, &error))?;
        }
        Ok(())
    }

    pub(crate) async fn send(&mut self, collector: SocketAddr) -> Result<(), String> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let sender = simulated::sender(collector).map_err(|error| chain(&self.name, &error))?;
        // However it ends: what waits goes on waiting.
        drop(running.send(&sender).await);
        Ok(())
    }

    /// Ends without a word, and starts again as after a reboot.
    pub(crate) fn crash(&mut self, torn: bool, random: &mut Random) -> Result<(), String> {
        self.running = None;
        if torn && let Some(epoch) = self.epochs().last() {
            crate::tear(&self.spool.join(epoch), random)?;
        }
        self.boot()
    }

    fn epochs(&self) -> Vec<String> {
        let list = fs::read_to_string(self.spool.join("EPOCHS")).unwrap_or_default();
        list.lines().map(str::to_owned).collect()
    }

    /// Every batch in its spool, parked ones left out.
    pub(crate) fn spooled(&self) -> Result<Vec<Vec<u8>>, String> {
        let mut all = Vec::new();
        for epoch in self.epochs() {
            all.extend(crate::entries(&self.spool.join(epoch))?);
        }
        Ok(all)
    }

    pub(crate) fn has_parked(&self, wanted: &Hash) -> bool {
        let parked = damage::files(&self.spool.join("parked"), ".batch");
        parked.iter().any(|file| fs::read(file).is_ok_and(|bytes| hash(&bytes) == *wanted))
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.host.unacknowledged())
    }

    /// A snapshot of the spool, as backups make one, at a moment when the agent does not write.
    pub(crate) fn keep_copy(&self) -> Result<(), String> {
        drop(fs::remove_dir_all(&self.copy));
        damage::copy(&self.spool, &self.copy).map_err(|error| error.to_string())
    }

    /// Puts the snapshot in the place of the spool, if there is one.
    pub(crate) fn restore(&mut self, random: &mut Random) -> Result<bool, String> {
        if !self.copy.exists() {
            return Ok(false);
        }
        self.running = None;
        // What was refused is for people; a restored disk would not have it, but they do by then.
        let parked = self.spool.join("parked");
        let kept = self.copy.join("parked");
        if parked.exists() {
            damage::copy(&parked, &kept).map_err(|error| error.to_string())?;
        }
        fs::remove_dir_all(&self.spool).map_err(|error| error.to_string())?;
        damage::copy(&self.copy, &self.spool).map_err(|error| error.to_string())?;
        // Nor does it begin with the numbers it began with before.
        self.random ^= random.number();
        self.boot()?;
        Ok(true)
    }

    /// As a person does who was told to: the spool list is gone, so that a new epoch begins.
    pub(crate) fn start_epoch_by_hand(&mut self) -> Result<(), String> {
        self.running = None;
        self.boot()
    }
}

fn chain(name: &str, error: &dyn std::error::Error) -> String {
    format!("{name}: {}", weighbridge_agent::uplink::chain(error))
}
