//! Who holds a device, by the processes that have it open: whose group a process lies in, or else whose process it
//! is.
//!
//! A process that a driver names and the system does not know holds nothing: drivers report such. Each process
//! speaks for one holder, by the best that is known of it: the job, pod or machine that an allocator put it into; the
//! container; the service; the user. Of a group of a shape that is not known, and of groups that exclude each other,
//! only the user is believed; both are counted and logged once, by a digest of the path. So is it of a group that
//! cannot be read, which has none.
//!
//! A cgroup names a job or pod and not whose it is: the principal is then [unknown](Principal::unknown) here, until a
//! record of the scheduler says more of the same attempt.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
};

use weighbridge_meter::{
    AcceleratorId, AttemptId, BootId, Evidence, Holding, Principal, Use, identity::BadName,
};

use super::{
    HolderStates, Knows, Seen, Witness,
    cgroup::{Group, PathDigest, Person, Placed, Roots},
    libvirt,
    proc::{Missing, Proc, Process},
    sightings::{Sightings, Who},
};
use crate::engine::HolderNews;

/// A process may be moved to another group at any time; what was read is believed for so long.
const BELIEVED_MS: u64 = 10_000;
/// A process that no device named for so long is forgotten.
const REMEMBERED_MS: u64 = 60_000;
/// So many processes are looked at in one look; further ones hold nothing and are counted as `not_read`.
const MOST_PROCESSES: usize = 4_096;
/// So many paths of unknown shape are logged; a thousand more would say nothing new.
const MOST_LOGGED: usize = 64;

/// How processes name their holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessOptions {
    /// Where the kernel shows processes; `/proc` but for tests.
    pub proc: PathBuf,
    /// Groups of the operator's own, below which allocators are looked for.
    pub roots: Roots,
    /// Whether groups are asked at all.
    pub cgroups: bool,
    /// Whether users are holders where nothing better is known.
    pub owners: bool,
    /// The host, as in `unit:<host>/<unit>`.
    pub host: String,
    /// Hosts on which a user number means the same person.
    pub class: String,
    /// What Slurm calls its cluster.
    pub slurm_cluster: String,
    /// What the Kubernetes cluster is called.
    pub kubernetes_cluster: String,
    /// What the cloud that the virtual machines belong to is called.
    pub cloud: String,
    /// Where libvirt keeps the state of machines that run.
    pub libvirt: PathBuf,
}

impl ProcessOptions {
    /// Whether the host's name leaves room for the name of a container on it.
    pub fn host_fits(&self) -> bool {
        of_boot("container", &self.host, &"f".repeat(SHORT_ID), BootId([0; 16])).is_ok()
    }
}

/// What a process came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProcessState {
    /// It lies in a job of Slurm.
    SlurmJob,
    /// In a pod.
    Pod,
    /// In a virtual machine.
    Machine,
    /// In a container.
    Container,
    /// In a service.
    Unit,
    /// It is somebody's.
    User,
    /// Its group has a shape that is not known, or cannot be read.
    UnknownCgroup,
    /// It lies in groups that exclude each other.
    ContradictoryCgroup,
    /// It may not be read.
    Unreadable,
    /// It was not there when it was looked for.
    Gone,
    /// There were too many.
    NotRead,
}

impl ProcessState {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::SlurmJob,
        Self::Pod,
        Self::Machine,
        Self::Container,
        Self::Unit,
        Self::User,
        Self::UnknownCgroup,
        Self::ContradictoryCgroup,
        Self::Unreadable,
        Self::Gone,
        Self::NotRead,
    ];

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SlurmJob => "slurm_job",
            Self::Pod => "pod",
            Self::Machine => "machine",
            Self::Container => "container",
            Self::Unit => "unit",
            Self::User => "user",
            Self::UnknownCgroup => "unknown_cgroup",
            Self::ContradictoryCgroup => "contradictory_cgroup",
            Self::Unreadable => "unreadable",
            Self::Gone => "gone",
            Self::NotRead => "not_read",
        }
    }
}

/// Processes with a device open, by what they came to; in the order of [`ProcessState::ALL`].
pub type ProcessCounts = [u32; ProcessState::ALL.len()];

/// What became of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// In a word.
    pub state: ProcessState,
    /// The group it was put into, of which another witness may know more.
    pub group: Option<Group>,
    /// Whom it holds for, by itself; `None`: nobody that may be named.
    pub who: Option<Who>,
    /// The path whose shape is not known, or that excludes another.
    pub digest: Option<PathDigest>,
}

impl Outcome {
    fn nobody(state: ProcessState) -> Self {
        Self { state, group: None, who: None, digest: None }
    }
}

/// The witness.
#[derive(Debug)]
pub struct ProcessHolders {
    names: Names,
    proc: Proc,
    options: ProcessOptions,
    known: HashMap<u32, Known>,
    devices: BTreeMap<AcceleratorId, Device>,
    sightings: Sightings,
    logged: HashSet<PathDigest>,
    /// Processes whose group told no holder, each once.
    unresolved: u64,
}

/// A process that was read.
#[derive(Debug)]
struct Known {
    started: u64,
    outcome: Outcome,
    read_ms: u64,
    seen_ms: u64,
}

/// The processes of a device, as last asked for.
#[derive(Debug)]
struct Device {
    seen_ms: u64,
    processes: Vec<(u32, ProcessState)>,
}

impl ProcessHolders {
    /// Reads nothing yet. An error names the part of the options that cannot be in a name.
    pub fn new(options: ProcessOptions, boot: BootId) -> Result<Self, BadName> {
        let proc = Proc::new(options.proc.clone(), options.roots.clone());
        Ok(Self {
            names: Names::new(&options, boot)?,
            proc,
            options,
            known: HashMap::new(),
            devices: BTreeMap::new(),
            sightings: Sightings::default(),
            logged: HashSet::new(),
            unresolved: 0,
        })
    }

    /// What a process comes to that a device named in a look at this moment.
    pub fn find(&mut self, now_ms: u64, pid: u32) -> Outcome {
        match self.read(now_ms, pid) {
            Ok(outcome) => outcome,
            Err(missing) => {
                self.known.remove(&pid);
                Outcome::nobody(match missing {
                    Missing::Gone => ProcessState::Gone,
                    Missing::Unreadable(_) => ProcessState::Unreadable,
                })
            }
        }
    }

    fn read(&mut self, now_ms: u64, pid: u32) -> Result<Outcome, Missing> {
        let process = self.proc.open(pid)?;
        if process.started_ms() > now_ms {
            // It has the number of one that was seen and is no more.
            return Err(Missing::Gone);
        }
        if let Some(known) = self.known.get_mut(&pid).filter(|known| known.started == process.started) {
            known.seen_ms = now_ms;
            if now_ms.saturating_sub(known.read_ms) < BELIEVED_MS {
                return Ok(known.outcome.clone());
            }
        }
        let outcome = self.judge(&process)?;
        let before = self.known.get(&pid).filter(|known| known.started == process.started);
        if before.is_none_or(|known| known.outcome.digest != outcome.digest) {
            self.tell(&outcome);
        }
        if self.known.len() < MOST_PROCESSES || self.known.contains_key(&pid) {
            let known = Known {
                started: process.started,
                outcome: outcome.clone(),
                read_ms: now_ms,
                seen_ms: now_ms,
            };
            self.known.insert(pid, known);
        }
        Ok(outcome)
    }

    fn judge(&self, process: &Process) -> Result<Outcome, Missing> {
        let placed = if self.options.cgroups { self.proc.placed(process) } else { Ok(Placed::Nowhere) };
        let (state, person, digest) = match placed {
            Ok(Placed::In(Group::Person(person))) => (ProcessState::User, person, None),
            Ok(Placed::In(group)) => return Ok(self.group(group)),
            Ok(Placed::Nowhere) => (ProcessState::User, Person::Login, None),
            Ok(Placed::Unknown(digest, person)) => (ProcessState::UnknownCgroup, person, Some(digest)),
            Ok(Placed::Contradictory(digest)) => {
                (ProcessState::ContradictoryCgroup, Person::Owner, Some(digest))
            }
            Err(Missing::Unreadable(_)) => {
                process.owner()?;
                (ProcessState::UnknownCgroup, Person::Owner, None)
            }
            Err(Missing::Gone) => return Err(Missing::Gone),
        };
        if !self.options.owners {
            return Ok(Outcome { digest, ..Outcome::nobody(state) });
        }
        let uid = match person {
            Person::Slice(uid) => uid,
            Person::Login => {
                let owner = process.owner()?;
                owner.login.unwrap_or(owner.uid)
            }
            Person::Owner => process.owner()?.uid,
        };
        Ok(Outcome { who: self.names.user(uid), digest, ..Outcome::nobody(state) })
    }

    fn group(&self, group: Group) -> Outcome {
        let state = match &group {
            Group::SlurmJob(_) => ProcessState::SlurmJob,
            Group::Pod { .. } => ProcessState::Pod,
            Group::Machine { .. } => ProcessState::Machine,
            Group::Container(_) => ProcessState::Container,
            Group::Unit(_) => ProcessState::Unit,
            Group::Person(_) => ProcessState::User,
        };
        let who = match &group {
            Group::SlurmJob(job) => self.names.slurm_job(job),
            Group::Pod { uid, .. } => self.names.pod(uid),
            Group::Machine { number, domain } => {
                self.names.machine(*number, libvirt::uuid(&self.options.libvirt, domain).as_deref())
            }
            Group::Container(id) => self.names.container(id),
            Group::Unit(unit) => self.names.unit(unit),
            Group::Person(_) => None,
        };
        Outcome { who, group: Some(group), ..Outcome::nobody(state) }
    }

    fn tell(&mut self, outcome: &Outcome) {
        let Some(digest) = outcome.digest else { return };
        self.unresolved += 1;
        if self.logged.len() < MOST_LOGGED && self.logged.insert(digest) {
            tracing::warn!(
                state = outcome.state.as_str(),
                path_sha256 = %digest,
                "a process with a device open lies in a cgroup that tells no holder: its user is taken instead"
            );
        }
    }

    fn forget(&mut self, now_ms: u64) {
        let recent = |seen_ms: u64| now_ms.saturating_sub(seen_ms) < REMEMBERED_MS;
        self.known.retain(|_, known| recent(known.seen_ms));
        self.devices.retain(|_, device| recent(device.seen_ms));
    }

    /// Processes by what they came to; one that has several devices open counts once.
    pub fn counts(&self) -> ProcessCounts {
        let all: BTreeMap<u32, ProcessState> =
            self.devices.values().flat_map(|device| device.processes.iter().copied()).collect();
        ProcessState::ALL.map(|state| {
            let count = all.values().filter(|found| **found == state).count();
            u32::try_from(count).unwrap_or(u32::MAX)
        })
    }
}

impl Witness for ProcessHolders {
    fn look(&mut self, seen: &Seen<'_>, news: &mut HolderNews) {
        let now_ms = seen.now.boot_ms;
        let mut found: HashMap<u32, Outcome> = HashMap::new();
        for device in &seen.look.devices {
            let Some(pids) = &device.pids else { continue };
            let mut holders: Vec<Who> = Vec::new();
            let mut attempts: HashMap<u32, AttemptId> = HashMap::new();
            let mut processes = Vec::new();
            for &pid in pids {
                let outcome = match found.get(&pid) {
                    Some(outcome) => outcome.clone(),
                    None if found.len() >= MOST_PROCESSES => Outcome::nobody(ProcessState::NotRead),
                    None => {
                        let outcome = self.find(now_ms, pid);
                        found.insert(pid, outcome.clone());
                        outcome
                    }
                };
                let outcome = named(outcome, seen, &device.id);
                processes.push((pid, outcome.state));
                attempts.extend(outcome.who.as_ref().map(|who| (pid, who.attempt.clone())));
                holders.extend(outcome.who.filter(|who| !holders.contains(who)));
            }
            if holders.len() > 1 {
                let used = device.used.iter().filter_map(|&(pid, busy_us)| {
                    let attempt = attempts.get(&pid)?.clone();
                    Some((device.id.clone(), Use { attempt, busy_us }))
                });
                news.used.extend(used);
            }
            self.devices.insert(device.id.clone(), Device { seen_ms: now_ms, processes });
            if self.sightings.see(&device.id, &holders, seen.now.wall) {
                news.changed.push(device.id.clone());
            }
        }
        self.forget(now_ms);
    }

    fn confirm(&mut self) -> Vec<Holding> {
        self.sightings.confirm()
    }

    fn report(&self, states: &mut HolderStates) {
        states.processes = Some(self.counts());
        states.unresolved = self.unresolved;
    }
}

/// With what another witness knows of its group.
fn named(mut outcome: Outcome, seen: &Seen<'_>, accelerator: &AcceleratorId) -> Outcome {
    let known = outcome.group.as_ref().and_then(|group| seen.knows(group, accelerator));
    match (&mut outcome.who, known) {
        (Some(who), Some(Knows::As(principal, attempt))) => {
            (who.principal, who.attempt) = (principal, attempt);
        }
        (_, Some(Knows::Covered)) => outcome.who = None,
        (None, _) | (_, None) => {}
    }
    outcome
}

/// What things are called.
#[derive(Clone, Debug)]
struct Names {
    /// `slurm:<cluster>/`, as text before a name.
    slurm: Scope,
    kubernetes: Scope,
    machines: Scope,
    host: String,
    class: String,
    boot: BootId,
}

/// Somebody unknown in a scope, and what comes before the names of attempts there.
#[derive(Clone, Debug)]
struct Scope {
    unknown: Principal,
    prefix: String,
}

impl Scope {
    fn new(scheme: &str, scope: &str) -> Result<Self, BadName> {
        let unknown = Principal::unknown(scheme, scope)?;
        let prefix = unknown.as_str().trim_end_matches("%3F").to_owned();
        Ok(Self { unknown, prefix })
    }

    fn attempt(&self, name: &str) -> Option<Who> {
        let attempt = format!("{}{name}", self.prefix).parse().ok()?;
        Some(Who { principal: self.unknown.clone(), attempt, evidence: Evidence::AllocatorProcess })
    }
}

/// Digits of a container's id that people know it by.
const SHORT_ID: usize = 12;

impl Names {
    fn new(options: &ProcessOptions, boot: BootId) -> Result<Self, BadName> {
        let names = Self {
            slurm: Scope::new("slurm", &options.slurm_cluster)?,
            kubernetes: Scope::new("k8s", &options.kubernetes_cluster)?,
            machines: Scope::new("vm", &options.cloud)?,
            host: options.host.clone(),
            class: options.class.clone(),
            boot,
        };
        // Whether a scope leaves room for names does not depend on the name: these are the longest there are.
        let pod = "01234567-89ab-cdef-0123-456789abcdef";
        let fits = |scope: &Scope| {
            let longest = format!("{}pod/{pod}@{boot}", scope.prefix);
            longest.parse::<AttemptId>().map(drop)
        };
        [&names.slurm, &names.kubernetes, &names.machines].into_iter().try_for_each(fits)?;
        of_boot("container", &names.host, &"f".repeat(SHORT_ID), boot)?;
        of_boot("uid", &names.class, &u32::MAX.to_string(), boot)?;
        Ok(names)
    }

    fn slurm_job(&self, job: &str) -> Option<Who> {
        self.slurm.attempt(job)
    }

    fn pod(&self, uid: &str) -> Option<Who> {
        self.kubernetes.attempt(&format!("pod/{uid}"))
    }

    /// Without a UUID, by libvirt's number on this host.
    fn machine(&self, number: u32, uuid: Option<&str>) -> Option<Who> {
        let boot = self.boot;
        match uuid {
            Some(uuid) => self.machines.attempt(&format!("{uuid}@{boot}")),
            None => self.machines.attempt(&format!("qemu-{number}@{boot}")),
        }
    }

    fn container(&self, id: &str) -> Option<Who> {
        self.known("container", &self.host, id.get(..SHORT_ID)?, Evidence::ContainerProcess)
    }

    fn unit(&self, unit: &str) -> Option<Who> {
        let named = self.known("unit", &self.host, unit, Evidence::UnitProcess);
        // Of a unit whose name is too long for an attempt, what makes it known again.
        named.or_else(|| {
            let digest = PathDigest::of(unit.as_bytes());
            self.known("unit", &self.host, &format!("sha256-{digest}"), Evidence::UnitProcess)
        })
    }

    fn user(&self, uid: u32) -> Option<Who> {
        self.known("uid", &self.class, &uid.to_string(), Evidence::ProcessOwner)
    }

    fn known(&self, scheme: &str, scope: &str, name: &str, evidence: Evidence) -> Option<Who> {
        let (principal, attempt) = of_boot(scheme, scope, name, self.boot).ok()?;
        Some(Who { principal, attempt, evidence })
    }
}

/// An attempt that lasts as long as the host runs.
fn of_boot(scheme: &str, scope: &str, name: &str, boot: BootId) -> Result<(Principal, AttemptId), BadName> {
    let principal = Principal::new(scheme, scope, name)?;
    let attempt = format!("{principal}@{boot}").parse()?;
    Ok((principal, attempt))
}
