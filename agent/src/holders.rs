//! Who holds the accelerators of this host, as far as the host can tell.
//!
//! Each [`Witness`] gives [`weighbridge_meter::Holding`]s with its evidence: a lease file that the operator keeps,
//! what Slurm's prolog and epilog told ([`slurm`]), what Kubernetes gave to pods ([`kubernetes`]), what libvirt gave to
//! virtual machines ([`libvirt`]), and the processes that have a device open, by their cgroups and owners. Which one to
//! believe is for the
//! collector. When the set of holders of a device changes, its window is cut there.
//!
//! Deliberately absent: what two witnesses that contradict each other come to.

pub mod cgroup;
pub mod kubernetes;
mod leases;
pub mod libvirt;
pub mod proc;
mod processes;
mod sightings;
pub mod slurm;

use std::fmt;

use weighbridge_meter::{AcceleratorId, AttemptId, Holding, Principal, meter::Now};

use self::{cgroup::Group, kubernetes::KubernetesState, libvirt::LibvirtState, slurm::SlurmState};
pub use self::{
    leases::{Lease, LeaseError, LeaseFile, LeaseState, parse as parse_leases},
    processes::{Outcome, ProcessCounts, ProcessHolders, ProcessOptions, ProcessState},
    sightings::Who,
};
use crate::{engine::HolderNews, source::Look};

/// One way to know who holds the accelerators of a host. It is asked on the task that looks at devices: what can
/// hang, it reads elsewhere.
pub trait Witness: fmt::Debug + Send {
    /// Takes a look: adds what is to be recorded, and whose set of holders changed.
    fn look(&mut self, seen: &Seen<'_>, news: &mut HolderNews);

    /// Holdings that go on, up to when they were last seen: for the batch that is about to be made.
    fn confirm(&mut self) -> Vec<Holding> {
        Vec::new()
    }

    /// Whose a group of processes is that have an accelerator open, and in which attempt, if this witness knows more
    /// of it than its shape tells: the account and the restart of a job, the namespace of a pod.
    fn knows(&self, group: &Group, accelerator: &AcceleratorId) -> Option<Knows> {
        let _ = (group, accelerator);
        None
    }

    /// Says how it is, for metrics.
    fn report(&self, states: &mut HolderStates) {
        let _ = states;
    }
}

/// What a witness knows of processes in a group that have an accelerator open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knows {
    /// Whose they are, and in which attempt.
    As(Principal, AttemptId),
    /// Not whose they are, but who was given the accelerator: these are among them, and say nothing new.
    Covered,
}

/// What every witness is shown of a look.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// When it was.
    pub now: Now,
    /// What the source saw.
    pub look: &'a Look,
    /// All accelerators found so far.
    pub accelerators: &'a [AcceleratorId],
    /// The witnesses that have taken this look already.
    before: &'a [Box<dyn Witness>],
}

impl Seen<'_> {
    /// Whose a group is, by the first witness before this one that knows.
    pub fn knows(&self, group: &Group, accelerator: &AcceleratorId) -> Option<Knows> {
        self.before.iter().find_map(|witness| witness.knows(group, accelerator))
    }
}

/// How the witnesses are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderStates {
    /// The lease file.
    pub leases: LeaseState,
    /// What the processes that have a device open came to, if they are asked.
    pub processes: Option<ProcessCounts>,
    /// Processes so far whose cgroup told no holder.
    pub unresolved: u64,
    /// What Slurm's hooks told.
    pub slurm: SlurmState,
    /// What libvirt's files told.
    pub libvirt: LibvirtState,
    /// What Kubernetes told.
    pub kubernetes: KubernetesState,
}

impl Default for HolderStates {
    fn default() -> Self {
        Self {
            leases: LeaseState::Unused,
            processes: None,
            unresolved: 0,
            slurm: SlurmState::default(),
            libvirt: LibvirtState::default(),
            kubernetes: KubernetesState::default(),
        }
    }
}

/// All witnesses of one host.
#[derive(Debug, Default)]
pub struct Holders {
    witnesses: Vec<Box<dyn Witness>>,
    accelerators: Vec<AcceleratorId>,
}

impl Holders {
    /// No witnesses: holders are known from elsewhere, or not at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// With one more, which can ask those before it: processes come last.
    #[must_use]
    pub fn with(mut self, witness: impl Witness + 'static) -> Self {
        self.witnesses.push(Box::new(witness));
        self
    }

    /// What is new after this look.
    pub fn look(&mut self, now: Now, look: &Look) -> HolderNews {
        let mut news = HolderNews::default();
        if let Some(devices) = &look.inventory_changed {
            self.accelerators = devices.iter().map(|device| device.id.clone()).collect();
        }
        for index in 0..self.witnesses.len() {
            let (before, from) = self.witnesses.split_at_mut(index);
            let seen = Seen { now, look, accelerators: &self.accelerators, before };
            from[0].look(&seen, &mut news);
        }
        news
    }

    /// Holdings that go on, up to when they were last seen: for the batch that is about to be made.
    pub fn confirm(&mut self) -> Vec<Holding> {
        self.witnesses.iter_mut().flat_map(|witness| witness.confirm()).collect()
    }

    /// How the witnesses are.
    pub fn states(&self) -> HolderStates {
        let mut states = HolderStates::default();
        for witness in &self.witnesses {
            witness.report(&mut states);
        }
        states
    }
}

/// Reads whatever is given as each of the files that tell of a process: for tests with bytes that nobody wrote. Must
/// come back.
#[doc(hidden)]
pub fn read_anything(bytes: &[u8]) {
    let kind = cgroup::Roots::new(&["/docker/*".into(), "/system.slice/*".into()]).unwrap_or_default();
    for roots in [cgroup::Roots::default(), kind] {
        let placed = cgroup::read(bytes, &roots);
        assert_eq!(placed, cgroup::read(bytes, &roots), "a file reads back as another");
    }
    let _ = (proc::started(bytes), proc::uid(bytes), proc::login(bytes));
}

#[cfg(test)]
mod tests;
