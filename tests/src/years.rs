//! Years of a site in a ledger: hosts that were measured hour by hour, and runs that held them, from one seed.
//!
//! An hour has one window, which makes the same sums as sixty. Runs begin and end at whole hours, so none is cut.

use std::{fmt::Write as _, path::Path};

use weighbridge_journal::{Journal, Options};
use weighbridge_meter::{
    AcceleratorId, BootId, EpochId, Source, Span, Tier, Trust, UtcMillis, Window,
    window::{Counter, Counters, Coverage},
};
use weighbridge_store::{
    Body, Entry, Fact,
    entry::{AgentFact, LeaseFact, Received, Selector},
};
use weighbridge_wire::{Batch, DeviceRecord, Hash, Sealed, SigningKey, seal::seal};

use crate::{handmade::h100, random::Random};

/// Accelerators of a host.
pub const DEVICES: u32 = 8;

/// 2024-01-01T00:00:00Z.
pub const START: UtcMillis = UtcMillis(1_704_067_200_000);

/// Hosts that a run takes, in turn.
const SIZES: [u32; 5] = [1, 1, 2, 4, 8];

/// One customer in so many has a principal that was somebody else's before.
const CHANGES: usize = 100;

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Years {
    /// Hosts, of eight accelerators.
    pub hosts: u32,
    /// Days from [`START`] on.
    pub days: i64,
    /// Customers, each with one principal.
    pub customers: usize,
    /// Runs, about.
    pub runs: usize,
    /// All follows from it.
    pub seed: u64,
}

/// A host that was measured, and where its chain of batches stands.
pub struct Host {
    number: u32,
    sequence: u64,
    before: Hash,
    key: SigningKey,
}

impl Years {
    /// When it ends.
    pub fn end(&self) -> UtcMillis {
        START.plus(self.days * UtcMillis::DAY)
    }

    /// Rows of usage that come of it: an hour of an accelerator is one.
    pub fn rows(&self) -> u64 {
        u64::from(self.hosts * DEVICES) * self.days.unsigned_abs() * 24
    }

    /// The hour that was not measured on the first host; it comes late.
    pub fn late(&self) -> UtcMillis {
        self.end().plus(-60 * UtcMillis::DAY)
    }

    /// Everything, as the ledger of a data folder that has none. Gives the hosts, to go on with.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Vec<Host> {
        let (mut journal, _) = Journal::open(folder, Options::default()).expect("the folder is writable");
        let mut append = |received: UtcMillis, body: Body| {
            let entry = Entry { received, body };
            journal.append(&entry.encode(&[7; 16])).expect("the disk takes it");
        };
        let mut random = Random::from_seed(self.seed);
        let mut hosts: Vec<Host> = (0..self.hosts).map(Host::new).collect();
        hosts.iter().for_each(|host| append(START, Body::Fact(Fact::Agent(host.agent()))));
        self.leases(&mut random, |lease| append(START, Body::Fact(Fact::Lease(lease))));
        for day in 0..self.days {
            let from = START.plus(day * UtcMillis::DAY);
            for host in &mut hosts {
                let hours = (0..24).map(|hour| from.plus(hour * UtcMillis::HOUR));
                let hours: Vec<_> = hours.filter(|hour| host.number > 0 || *hour != self.late()).collect();
                let (sealed, _) = host.batch(&hours);
                let received = Received { clocks: None, salt: [8; 16], envelope: sealed.bytes };
                append(from.plus(UtcMillis::DAY), Body::Batch(received));
            }
        }
        journal.sync().expect("the disk takes it");
        hosts
    }

    /// Runs one after the other on hosts side by side.
    fn leases(&self, random: &mut Random, mut give: impl FnMut(LeaseFact)) {
        let mut blocks = Vec::new();
        let mut first = 0;
        while first < self.hosts {
            let size = SIZES[blocks.len() % SIZES.len()].min(self.hosts - first);
            blocks.push(first..first + size);
            first += size;
        }
        let mean = self.days * 24 * i64::try_from(blocks.len()).expect("few") / self.runs.max(1) as i64;
        let mut run = 0;
        for block in blocks {
            let mut start = START;
            while start < self.end() {
                let hours = 1 + (random.number() % (2 * mean.unsigned_abs()).max(1)).cast_signed();
                let end = start.plus(hours * UtcMillis::HOUR).min(self.end());
                // A tenth of the runs is of a few large customers.
                let among =
                    if random.number().is_multiple_of(10) { 50.min(self.customers) } else { self.customers };
                let customer = random.number() % among as u64;
                for host in block.clone() {
                    give(LeaseFact {
                        lease: format!("run-{run:05}").parse().expect("a short name"),
                        host: Host::name(host),
                        selector: Selector::All,
                        principal: principal(customer).parse().expect("a principal"),
                        start,
                        end,
                    });
                }
                run += 1;
                start = end;
            }
        }
    }

    /// Its customers, as a file to import.
    pub fn customers(&self) -> String {
        let rest = "address,locations,payment_means,payment_source,email,telephone,access";
        let mut text = format!("customer,kind,us_person,control_group,name,{rest}\n");
        for number in 0..self.customers {
            let group = if number % 20 == 0 { format!("G-{}", number / 100) } else { String::new() };
            writeln!(text, "C-{number},entity,foreign,{group},Customer Number {number},,,,,,,")
                .expect("a string");
        }
        text
    }

    /// Whose their principals are, as a file to import. Some were somebody else's for the first half.
    pub fn principals(&self) -> String {
        let middle = START.plus(self.days / 2 * UtcMillis::DAY);
        let mut text = "principal,customer,valid_from,valid_to\n".to_owned();
        for number in 0..self.customers {
            let name = principal(number as u64);
            if number % CHANGES == 1 {
                // Each at an hour of its own.
                let change = middle.plus(number as i64 * UtcMillis::HOUR % (30 * UtcMillis::DAY));
                let other = (number + 7) % self.customers;
                writeln!(text, "{name},C-{other},{START},{change}").expect("a string");
                writeln!(text, "{name},C-{number},{change},").expect("a string");
            } else {
                writeln!(text, "{name},C-{number},{START},").expect("a string");
            }
        }
        text
    }
}

fn principal(customer: u64) -> String {
    format!("lease:site/c-{customer}")
}

impl Host {
    fn new(number: u32) -> Self {
        let mut secret = [9; 32];
        secret[..4].copy_from_slice(&number.to_le_bytes());
        Self { number, sequence: 0, before: [0; 32], key: SigningKey::from_bytes(&secret) }
    }

    fn name(number: u32) -> String {
        format!("years-host-{number:04}")
    }

    fn agent(&self) -> AgentFact {
        use base64::Engine;
        let key = self.key.verifying_key().to_bytes();
        AgentFact {
            agent: Self::name(self.number).parse().expect("a short name"),
            host: Self::name(self.number),
            site: "site-1".into(),
            fabric: "fabric-1".into(),
            public_key: base64::engine::general_purpose::STANDARD.encode(key),
            valid_from: START.plus(-UtcMillis::DAY),
            valid_to: None,
            max_trust: Trust::Host,
        }
    }

    /// The next batch: these hours.
    ///
    /// # Panics
    /// Never: it is a batch like any.
    pub fn batch(&mut self, hours: &[UtcMillis]) -> (Sealed, Batch) {
        self.sequence += 1;
        let first = self.sequence == 1;
        let devices = || (0..DEVICES).map(|device| accelerator(self.number, device));
        let batch = Batch {
            agent: Self::name(self.number).parse().expect("a short name"),
            epoch: EpochId([5; 16]),
            sequence: self.sequence,
            prev_hash: self.before,
            boot: BootId([6; 16]),
            windows: devices().flat_map(|id| hours.iter().map(move |hour| window(&id, *hour))).collect(),
            gaps: Vec::new(),
            holdings: Vec::new(),
            inventory: devices().filter(|_| first).map(|id| self.inventory(id)).collect(),
            status: None,
            losses: Vec::new(),
        };
        let sealed = seal(&batch, &self.key).expect("a batch like any");
        self.before = sealed.hash;
        (sealed, batch)
    }

    fn inventory(&self, accelerator: AcceleratorId) -> DeviceRecord {
        DeviceRecord {
            pci_address: "00000000:01:00.0".into(),
            ..h100(accelerator, START, &Self::name(self.number))
        }
    }
}

/// Identifiers lie as UUIDs do: neighbours on a host are none in order.
fn accelerator(host: u32, device: u32) -> AcceleratorId {
    let number = u64::from(host * DEVICES + device + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("GPU-{:08x}-{:04x}-4000-8000-{number:012x}", number >> 32, number & 0xffff)
        .parse()
        .expect("printable")
}

fn window(accelerator: &AcceleratorId, hour: UtcMillis) -> Window {
    let millis = UtcMillis::HOUR.unsigned_abs();
    let since = hour.since(START).unsigned_abs();
    // Busy between a third and two thirds of the time, another part each hour.
    let tensor = 600_000 + since / millis % 97 * 6_000;
    Window {
        accelerator: accelerator.clone(),
        span: Span::new(hour, hour.plus(UtcMillis::HOUR)).expect("an hour"),
        boot_start_ms: 1_000_000 + since,
        source: Source::Nvml,
        tier: Tier::B,
        coverage: Coverage::Measured,
        ticks: 3_600,
        counters: Counters::default()
            .with(Counter::ElapsedCycles, millis * 1_755_000)
            .with(Counter::TensorCycles, millis * tensor)
            .with(Counter::BusyMicros, millis * 1_000)
            .with(Counter::EnergyMicrojoules, millis * 600_000),
        features: Default::default(),
        uses: Vec::new(),
    }
}
