//! Who holds the accelerators of this host, as far as the host can tell.
//!
//! Witnesses: a lease file that the operator keeps, what Slurm's prolog and epilog told ([`slurm`]), and the owners
//! of the processes that have a device open. All give [`weighbridge_meter::Holding`]s with their evidence; which one to believe is for the
//! collector. When the set of holders of a device changes, its window is cut there.
//!
//! Deliberately absent for now: cgroups (jobs, pods, containers, units) and virtual machines.

mod leases;
mod owners;
pub mod slurm;

use weighbridge_meter::{AcceleratorId, Holding, meter::Now};

use self::slurm::{SlurmHooks, SlurmState};
pub use self::{
    leases::{Lease, LeaseError, LeaseFile, LeaseState, parse as parse_leases},
    owners::{OwnerLookup, ProcessOwners, ProcessTable},
};
use crate::{engine::HolderNews, source::Look};

/// All witnesses of one host.
#[derive(Debug, Default)]
pub struct Holders {
    leases: Option<LeaseFile>,
    owners: Option<ProcessOwners>,
    slurm: Option<SlurmHooks>,
    accelerators: Vec<AcceleratorId>,
}

impl Holders {
    /// No witnesses: holders are known from elsewhere, or not at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// With these.
    pub fn new(leases: Option<LeaseFile>, owners: Option<ProcessOwners>) -> Self {
        Self { leases, owners, slurm: None, accelerators: Vec::new() }
    }

    /// And with what Slurm tells.
    #[must_use]
    pub fn with_slurm(mut self, slurm: Option<SlurmHooks>) -> Self {
        self.slurm = slurm;
        self
    }

    /// What is new after this look. Reads the lease file if it is time to and it changed.
    pub fn look(&mut self, now: Now, look: &Look) -> HolderNews {
        let mut news = HolderNews::default();
        if let Some(devices) = &look.inventory_changed {
            self.accelerators = devices.iter().map(|device| device.id.clone()).collect();
        }
        if let Some(leases) = &mut self.leases {
            leases.look(now, &self.accelerators, look.inventory_changed.is_some(), &mut news);
        }
        if let Some(owners) = &mut self.owners {
            owners.look(now, look, &mut news);
        }
        if let Some(slurm) = &mut self.slurm {
            slurm.look(now, look, &mut news);
        }
        news
    }

    /// Holdings that go on, up to when they were last seen: for the batch that is about to be made.
    pub fn confirm(&mut self) -> Vec<Holding> {
        let mut holdings = self.owners.as_mut().map_or_else(Vec::new, ProcessOwners::confirm);
        holdings.extend(self.slurm.iter_mut().flat_map(SlurmHooks::confirm));
        holdings
    }

    /// What there is to say of Slurm's hooks.
    pub fn slurm_state(&self) -> SlurmState {
        self.slurm.as_ref().map_or_else(SlurmState::default, SlurmHooks::state)
    }

    /// How the lease file is.
    pub fn lease_state(&self) -> LeaseState {
        self.leases.as_ref().map_or(LeaseState::Unused, LeaseFile::state)
    }
}

#[cfg(test)]
mod tests;
