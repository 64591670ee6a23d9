//! The simulated fleet: who leases what, and what their accelerators do.
//!
//! Every simulated host runs the agent's real meter, spool, signing and uplink. The leases of the large
//! customers reach beyond the simulated part of the fleet; what has no agent is accounted for as never seen.

use std::{fmt::Write, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use weighbridge_agent::{
    clock::{Clock, ManualClock},
    engine::EngineOptions,
    holders::Holders,
    host::{Host, HostOptions},
    source::{
        Device,
        simulated::{Phase, Scenario, SimulatedAccelerator},
    },
    spool::SpoolOptions,
};
use weighbridge_meter::{AcceleratorTable, BootId, Source, Tier, Trust, UtcMillis, meter::Pace};
use weighbridge_wire::SigningKey;

use crate::random;

/// Accelerators of one host.
pub(super) const PER_HOST: usize = 8;
/// Between two looks, in simulated milliseconds.
pub(super) const TICK_MS: u64 = 10_000;
/// Between two batches of a host, in simulated milliseconds.
pub(super) const BATCH_MS: u64 = 600_000;

const PCI_DEVICE: &str = "10de:2330";
const LEASE_DAYS: i64 = 84;

/// What the accelerators of a tenant do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Trains at full width, with a checkpoint every half hour.
    Training,
    /// Serves requests: kernels are resident, tensor pipes are not busy.
    Serving,
    /// Nothing.
    Idle,
}

/// One tenant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tenant {
    /// Name of its hosts, lease and principal.
    pub(super) name: &'static str,
    /// Its customer; none is mapped to an unmapped principal.
    pub(super) customer: Option<&'static str>,
    /// Hosts that are simulated.
    pub(super) simulated: usize,
    /// Hosts that it leases, the simulated ones included; 0 for a tenant without a lease.
    pub(super) leased: usize,
    /// What they do.
    pub(super) work: Work,
}

/// Everybody in the story. 256 simulated hosts, 2,048 accelerators.
pub(super) const TENANTS: [Tenant; 8] = [
    Tenant { name: "aurora", customer: Some("C-1001"), simulated: 96, leased: 5_120, work: Work::Training },
    Tenant { name: "liberty", customer: Some("C-1002"), simulated: 96, leased: 5_120, work: Work::Training },
    Tenant {
        name: "trident-east",
        customer: Some("C-1003"),
        simulated: 8,
        leased: 1_800,
        work: Work::Training,
    },
    Tenant {
        name: "trident-labs",
        customer: Some("C-1003"),
        simulated: 8,
        leased: 1_800,
        work: Work::Training,
    },
    Tenant {
        name: "trident-west",
        customer: Some("C-1003"),
        simulated: 8,
        leased: 1_800,
        work: Work::Training,
    },
    Tenant { name: "meridian", customer: Some("C-1004"), simulated: 24, leased: 24, work: Work::Serving },
    Tenant { name: "stray", customer: None, simulated: 8, leased: 8, work: Work::Training },
    Tenant { name: "spare", customer: None, simulated: 8, leased: 0, work: Work::Idle },
];

/// The host that falls silent, and when, in simulated milliseconds.
pub(super) const SILENT_HOST: &str = "meridian-0007";
/// See [`SILENT_HOST`].
pub(super) const SILENT_AFTER_MS: u64 = 5 * 3_600_000;

/// `customers.csv` of the story. Nobody in it exists.
pub(super) const CUSTOMERS: &str = "\
customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,email,telephone,access
C-1001,entity,foreign,,Aurora Example Models Ltd,1 Example Quay; Exampleport,Exampleport,wire transfer,Example Bank account ending 0042,ops@aurora.example,+44 20 7946 0001,192.0.2.17@2026-02-27T09:30:00Z
C-1002,entity,us,,Liberty Example Research Inc,2 Example Avenue; Exampleville,Exampleville,wire transfer,Example Trust account ending 0077,ops@liberty.example,+1 202 555 0102,198.51.100.8@2026-02-27T15:00:00Z
C-1003,entity,undetermined,G-3,Trident Example Holdings SA,3 Example Strasse; Exampelburg,,card ending 4242,,billing@trident.example,,203.0.113.5@2026-02-28T11:00:00Z
C-1004,entity,foreign,,Meridian Example Chat BV,4 Example Gracht; Exampledam,Exampledam,direct debit,Example Bank account ending 0099,ops@meridian.example,+31 20 555 0104,192.0.2.99@2026-02-20T08:00:00Z
";

impl Tenant {
    fn principal(&self) -> String {
        format!("lease:demo/{}", self.name)
    }

    /// Simulated and leased hosts have names that go on into each other.
    fn host(&self, index: usize) -> String {
        format!("{}-{index:04}", self.name)
    }
}

/// `principals.csv` of the story.
pub(super) fn principals(start: UtcMillis) -> String {
    let mut csv = String::from("principal,customer,valid_from,valid_to\n");
    for tenant in &TENANTS {
        if let Some(customer) = tenant.customer {
            writeln!(csv, "{},{customer},{start},", tenant.principal()).expect("a string takes everything");
        }
    }
    csv
}

/// `leases.csv` of the story: whole hosts of eight, most of which no agent will ever report.
pub(super) fn leases(start: UtcMillis) -> String {
    let end = start.plus(LEASE_DAYS * UtcMillis::DAY);
    let mut csv = String::from("lease,host,accelerator,principal,start,end\n");
    for tenant in &TENANTS {
        let (name, principal) = (tenant.name, tenant.principal());
        for index in 0..tenant.leased {
            let host = tenant.host(index);
            writeln!(csv, "L-{name},{host},{PER_HOST}x{PCI_DEVICE},{principal},{start},{end}")
                .expect("a string takes everything");
        }
    }
    csv
}

/// `agents.csv` of the story.
pub(super) fn agents(hosts: &[SimulatedHost], start: UtcMillis) -> String {
    let mut csv = String::from("agent,host,site,fabric,public_key,valid_from,valid_to\n");
    for host in hosts {
        let key = BASE64.encode(host.key.verifying_key().as_bytes());
        writeln!(csv, "{0},{0},demo,fabric-1,{key},{start},", host.name).expect("a string takes everything");
    }
    csv
}

/// One host: the agent's real parts around a scenario.
pub(super) struct SimulatedHost {
    /// Its name, which is also its agent's.
    pub(super) name: String,
    key: SigningKey,
    host: Host,
    scenario: Scenario,
    clock: Arc<ManualClock>,
    elapsed_ms: u64,
}

/// Makes all hosts, each with a spool of its own below `folder`.
pub(super) fn hosts(
    folder: &Path,
    start: UtcMillis,
) -> Result<Vec<SimulatedHost>, weighbridge_agent::spool::SpoolError> {
    let mut hosts = Vec::new();
    for tenant in &TENANTS {
        for index in 0..tenant.simulated {
            hosts.push(host(folder, start, tenant, index)?);
        }
    }
    Ok(hosts)
}

fn host(
    folder: &Path,
    start: UtcMillis,
    tenant: &Tenant,
    index: usize,
) -> Result<SimulatedHost, weighbridge_agent::spool::SpoolError> {
    let name = tenant.host(index);
    let key = SigningKey::from_bytes(&random::bytes());
    let boot = BootId(random::bytes());
    // Hosts were not all switched on together.
    let up_ms = 60_000 * (1 + index as u64 * 7);
    let options = HostOptions {
        agent: name.parse().expect("names of hosts are short and printable"),
        boot,
        key: key.clone(),
        engine: EngineOptions {
            host: name.clone(),
            trust: Trust::Host,
            pace: Pace { window_ms: 60_000, longest_tick_ms: 30_000 },
            held_records: 10_000,
        },
        spool: SpoolOptions::in_dir(folder.join(&name)),
        holders: Holders::none(),
        metrics: None,
    };
    Ok(SimulatedHost {
        host: Host::open(options, &mut random::fill)?,
        scenario: scenario(tenant, &name),
        clock: Arc::new(ManualClock::new(start, up_ms, boot)),
        name,
        key,
        elapsed_ms: 0,
    })
}

fn scenario(tenant: &Tenant, host: &str) -> Scenario {
    let table = AcceleratorTable::shipped();
    let model = table.find(Some(PCI_DEVICE), "");
    let phase = |minutes: u64, tensor, busy, clock_mhz, power_w| Phase {
        tensor: Some(tensor),
        busy: Some(busy),
        clock_mhz: Some(clock_mhz),
        power_w: Some(power_w),
        noise: if tensor > 0.0 { 0.05 } else { 0.0 },
        ..Phase::lasting(minutes * 60_000)
    };
    let phases = match tenant.work {
        Work::Training => vec![phase(29, 0.435, 0.99, 1_755, 660), phase(1, 0.0, 0.9, 1_980, 150)],
        Work::Serving => vec![phase(20, 0.08, 0.7, 1_980, 420), phase(10, 0.02, 0.2, 1_980, 210)],
        Work::Idle => vec![phase(60, 0.0, 0.0, 345, 70)],
    };
    let accelerators = (0..PER_HOST)
        .map(|index| SimulatedAccelerator {
            device: Device {
                id: format!("GPU-{host}-{index}").parse().expect("short and printable"),
                pci_address: Some(format!("0000:{:02x}:00.0", 0x1a + index)),
                pci_device: Some(PCI_DEVICE.into()),
                name: model.map_or_else(String::new, |model| model.device_name.clone()),
                max_sm_clock_mhz: model.map(|model| model.max_clock_mhz),
                power_limit_mw: model.map(|model| model.power_w * 1_000),
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
            phases: phases.clone(),
            repeat: true,
        })
        .collect();
    let seed = host.bytes().fold(0_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    Scenario { seed, accelerators }
}

impl SimulatedHost {
    /// Measures for one batch interval and makes the batch durable in the spool.
    pub(super) fn advance(&mut self) -> Result<(), weighbridge_agent::host::SealError> {
        if self.elapsed_ms == 0 {
            let look = self.scenario.first_look_at(0);
            self.host.tick(self.clock.now(), &look);
        }
        for _ in 0..BATCH_MS / TICK_MS {
            self.clock.advance(TICK_MS);
            self.elapsed_ms += TICK_MS;
            let look = self.scenario.look_at(self.elapsed_ms);
            self.host.tick(self.clock.now(), &look);
        }
        self.host.seal(self.clock.now()).map(drop)
    }

    /// Sends what waits in the spool; how many batches were acknowledged.
    pub(super) async fn send(&mut self, sender: &weighbridge_agent::uplink::Sender) -> u64 {
        let sent = self.host.send_pending(sender, &*self.clock).await;
        sent.accepted + sent.duplicates
    }

    /// Whether it has fallen silent by then.
    pub(super) fn is_silent(&self, elapsed_ms: u64) -> bool {
        self.name == SILENT_HOST && elapsed_ms > SILENT_AFTER_MS
    }
}
