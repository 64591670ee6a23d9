//! Hosts that exist in this process only: the agent's meter, spool, signing and uplink around a scenario, with a
//! clock that stands until it is told to move.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use weighbridge_agent::{
    clock::{Clock, ManualClock},
    engine::EngineOptions,
    holders::Holders,
    host::{Host, HostOptions, SealError},
    source::{
        Device,
        simulated::{Phase, Scenario, SimulatedAccelerator},
    },
    spool::{SpoolError, SpoolOptions},
    uplink::{SendOutcome, Sender, SenderError, SenderOptions},
};
use weighbridge_meter::{BootId, Source, Tier, Trust, UtcMillis, meter::Pace};

use crate::{handmade, random::Random};

/// Between two looks.
pub const TICK_MS: u64 = 10_000;

/// One host.
#[derive(Debug)]
pub struct Simulated {
    /// The agent's parts.
    pub host: Host,
    /// Its clock.
    pub clock: Arc<ManualClock>,
    name: String,
    scenario: Scenario,
    elapsed_ms: u64,
}

/// What makes one.
#[derive(Clone, Debug)]
pub struct SimulatedOptions {
    /// Agent and host; its key follows from it, as [`handmade::Sender`] has it.
    pub name: String,
    /// Accelerators.
    pub accelerators: usize,
    /// Its spool.
    pub spool: PathBuf,
    /// What its wall clock says at first.
    pub wall: UtcMillis,
    /// Which boot it is.
    pub boot: BootId,
    /// Of the numbers that it takes for random.
    pub seed: u64,
}

/// Accelerators that do the same all the time.
///
/// # Panics
/// If the name of the host is too long.
pub fn scenario(host: &str, accelerators: usize) -> Scenario {
    let phase = Phase {
        tensor: Some(0.5),
        busy: Some(1.0),
        clock_mhz: Some(1_500),
        power_w: Some(600),
        ..Phase::lasting(3_600_000)
    };
    let accelerators = (0..accelerators)
        .map(|index| SimulatedAccelerator {
            device: Device {
                id: format!("GPU-{host}-{index}").parse().expect("short and printable"),
                pci_address: None,
                pci_device: Some("10de:2330".into()),
                name: "NVIDIA H100 80GB HBM3".into(),
                max_sm_clock_mhz: Some(1_980),
                power_limit_mw: Some(700_000),
                memory_bytes: Some(80 << 30),
                tier: Tier::B,
                source: Source::Simulated,
                driver: None,
                host: None,
                trust: None,
                parent: None,
                units: None,
                instance: None,
                sample_ms: 0,
                conditions: Vec::new(),
                present: true,
            },
            phases: vec![phase],
            repeat: true,
        })
        .collect();
    Scenario { seed: 1, accelerators }
}

/// A client for many hosts.
pub fn sender(collector: SocketAddr) -> Result<Sender, SenderError> {
    Sender::new(SenderOptions {
        collectors: vec![format!("http://{collector}").parse().expect("an address")],
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(30),
    })
}

impl Simulated {
    /// Switches it on, with a first look.
    ///
    /// # Panics
    /// If its name is too long.
    pub fn boot(options: SimulatedOptions) -> Result<Self, SpoolError> {
        Self::boot_with(SpoolOptions::in_dir(&options.spool), options)
    }

    /// The same with a spool that is kept in another way.
    ///
    /// # Panics
    /// If its name is too long.
    pub fn boot_with(spool: SpoolOptions, options: SimulatedOptions) -> Result<Self, SpoolError> {
        let SimulatedOptions { name, accelerators, wall, boot, seed, .. } = options;
        let clock = Arc::new(ManualClock::new(wall, 500_000, boot));
        let options = HostOptions {
            agent: name.parse().expect("a short name"),
            boot,
            key: handmade::Sender::named(&name).key,
            engine: EngineOptions {
                host: name.clone(),
                trust: Trust::Host,
                pace: Pace { window_ms: 60_000, longest_tick_ms: 30_000 },
                held_records: 10_000,
            },
            spool,
            holders: Holders::none(),
            metrics: None,
        };
        let mut random = Random::from_seed(seed);
        let mut fill = |bytes: &mut [u8]| bytes.iter_mut().for_each(|byte| *byte = random.number() as u8);
        let mut host = Host::open(options, &mut fill)?;
        let scenario = scenario(&name, accelerators);
        host.tick(clock.now(), &scenario.first_look_at(0));
        Ok(Self { host, clock, name, scenario, elapsed_ms: 0 })
    }

    /// Agent and host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of an accelerator.
    pub fn accelerator(&self, index: usize) -> String {
        format!("GPU-{}-{index}", self.name)
    }

    /// Time passes, and it looks once.
    pub fn tick(&mut self, millis: u64) {
        self.clock.advance(millis);
        self.elapsed_ms += millis;
        self.host.tick(self.clock.now(), &self.scenario.look_at(self.elapsed_ms));
    }

    /// Makes a batch of what it has.
    pub fn seal(&mut self) -> Result<(), SealError> {
        self.host.seal(self.clock.now()).map(drop)
    }

    /// Measures for so long, with a batch every ten minutes and one in the end.
    pub fn measure(&mut self, minutes: u64) -> Result<(), SealError> {
        for tick in 1..=minutes * 60_000 / TICK_MS {
            self.tick(TICK_MS);
            if tick % 60 == 0 {
                self.seal()?;
            }
        }
        self.seal()
    }

    /// Sends what waits.
    pub async fn send(&mut self, sender: &Sender) -> SendOutcome {
        self.host.send_pending(sender, &*self.clock).await
    }
}
