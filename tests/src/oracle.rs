//! The one judge of all faults: when they are over, nothing is lost, nothing is there twice and nothing is altered.
//!
//! What an accelerator does is a constant of the script, so every window is worked out by hand ([`crate::audit`]).
//! What must have arrived is what lay in spools while faults went on: [`Oracle::note`] it before each deed that
//! could destroy it. All else follows from what the collector says and what lies on the disks in the end.

use std::collections::BTreeMap;

use weighbridge_meter::{Span, UtcMillis};
use weighbridge_wire::Hash;

use crate::{
    agent::Agent,
    audit::{self, Audited},
    damage,
    ledgers::{self, BatchKey},
    machine::Device,
    pencil::Amount,
    site::Site,
    usage, wait,
};

/// No agent needs more memory, ever.
const AGENT_KIB: u64 = 96 << 10;

/// No collector of a few agents does.
const COLLECTOR_KIB: u64 = 256 << 10;

/// No spool of a test needs more.
const SPOOL_BYTES: u64 = 64 << 20;

/// What is known to exist.
#[derive(Debug, Default)]
pub struct Oracle {
    written: BTreeMap<BatchKey, Hash>,
    /// The most memory that a process had, in KiB, as far as somebody looked.
    agents_kib: u64,
    collector_kib: u64,
}

/// What was found: nothing lost, double or altered, or there would be none.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Batches in the ledger.
    pub batches: usize,
    /// Windows, each exact.
    pub windows: usize,
    /// Everything measured.
    pub total: Amount,
    /// Windows by accelerator.
    pub audited: BTreeMap<String, Audited>,
}

impl Oracle {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every batch in the spool of this agent exists, now and for ever. Not for spools on a disk whose power is
    /// to be cut: there one can see what was never synced.
    ///
    /// # Panics
    /// If a batch of the same number had another hash before.
    #[track_caller]
    pub fn note(&mut self, agent: &Agent) {
        for (key, (hash, _)) in ledgers::spooled(agent) {
            let before = *self.written.entry(key.clone()).or_insert(hash);
            assert_eq!(before, hash, "{key:?} has become another batch");
        }
    }

    /// Looks how much memory the programs of a site took so far, before they are gone.
    pub fn weigh(&mut self, site: &Site) {
        for pid in site.agents.iter().filter_map(Agent::id) {
            self.agents_kib = self.agents_kib.max(usage::most_resident_kib(pid));
        }
        if let Some(pid) = site.collector.id() {
            self.collector_kib = self.collector_kib.max(usage::most_resident_kib(pid));
        }
    }

    /// The faults are over and all programs run. Waits until measuring goes on, stops everything, and judges.
    ///
    /// # Panics
    /// If anything is lost, double, altered, unexplained, stuck or too large.
    #[track_caller]
    pub fn judge(mut self, site: &mut Site) -> Verdict {
        let over = wait::now();
        for device in site.agents.iter().flat_map(Agent::devices) {
            flows(site, device, over);
        }
        self.weigh(site);
        assert!(self.agents_kib < AGENT_KIB, "an agent took {} KiB", self.agents_kib);
        assert!(self.collector_kib < COLLECTOR_KIB, "the collector took {} KiB", self.collector_kib);
        for agent in &site.agents {
            self.note(agent);
            let bytes = damage::bytes(&agent.spool());
            assert!(bytes < SPOOL_BYTES, "the spool of {} takes {bytes} bytes", agent.name());
        }
        site.stop_agents();

        let mut verdict =
            Verdict { batches: 0, windows: 0, total: Amount::default(), audited: BTreeMap::new() };
        for device in site.agents.iter().flat_map(Agent::devices) {
            let audited = audit::accelerator(&site.collector, device);
            assert!(!audited.windows.is_empty(), "{} was never measured", device.uuid);
            verdict.windows += audited.windows.len();
            verdict.total = verdict.total.plus(audited.total().0);
            verdict.audited.insert(device.uuid.clone(), audited);
        }

        site.collector.stop();
        let ledger = ledgers::batches(&site.collector.data());
        for (key, hash) in &self.written {
            if ledger.get(key) != Some(hash) {
                let near = ledger.keys().filter(|near| (&near.0, &near.1) == (&key.0, &key.1));
                let near: Vec<u64> = near.map(|near| near.2).collect();
                let found = ledger.get(key).map(|found| found == hash);
                panic!(
                    "{key:?} was written, in the ledger it is {found:?}, beside {near:?}: {}",
                    site.collector.log()
                );
            }
        }
        for agent in &site.agents {
            for (key, (hash, acknowledged)) in ledgers::spooled(agent) {
                assert!(acknowledged, "{key:?} should be by now");
                assert_eq!(ledger.get(&key), Some(&hash), "{key:?} is acknowledged and not in the ledger");
            }
        }
        verdict.batches = ledger.len();
        whole(site);
        println!(
            "{} batches, {} windows: lost 0, double 0, altered 0; memory at most {} KiB an agent, {} KiB the collector",
            verdict.batches, verdict.windows, self.agents_kib, self.collector_kib
        );
        verdict
    }
}

/// Returns once a window of this device begins after `moment`.
#[track_caller]
pub fn flows(site: &Site, device: &Device, moment: UtcMillis) -> Span {
    wait::until(&format!("{} is measured after {moment}", device.uuid), || {
        site.collector.accelerator(&device.uuid)?;
        let last = audit::windows(&site.collector, device).windows.last().copied();
        let fresh = last.filter(|window| moment <= window.start());
        fresh.ok_or_else(|| {
            let status = site.collector.try_get("status");
            format!("its last window is {last:?}; {status:?}; {}", site.collector.log())
        })
    })
}

/// A stopped collector holds what it should: the sums follow from the ledger, and would again.
///
/// # Panics
/// If `verify` or `rebuild` finds anything.
#[track_caller]
pub fn whole(site: &Site) {
    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let rebuilt = site.collector.run(&["rebuild"]);
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    assert!(rebuilt.stdout.contains("the same integers as before"), "{rebuilt:?}");
}
