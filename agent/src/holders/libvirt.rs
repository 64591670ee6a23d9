//! The virtual machines that libvirt runs on this host: whose they are, and which accelerators they were given.
//!
//! libvirt keeps a file for each machine that runs ([`domain`]), in a folder of root's; it is read at each look at
//! which the folder changed. A machine holds what its file names for as long as the file is there and the process in
//! it is the one that was seen, from when the file last changed: before that, the machine may have had other devices.
//! Parts of an accelerator, as virtual functions and mediated devices, are held as that accelerator, by as many as
//! have a part of it.
//!
//! Where the driver of an accelerator itself says which machines have a part of it, that counts beside the files, and
//! without them: those machines are known by their UUID, and by the files whose they are.
//!
//! Where the folder cannot be read nothing more is said, not even that nobody holds anything.
//!
//! Deliberately absent: how much of a shared accelerator is whose, and what libvirt's socket would answer: asking it
//! can hang, and needs more rights.

pub mod domain;
mod places;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use weighbridge_meter::{
    AcceleratorId, AttemptId, BootId, Evidence, Holding, Principal, UtcMillis, identity::BadName, meter::Now,
};

use self::{
    domain::{Domain, LONGEST, Project},
    places::{Place, place},
};
use super::{
    HolderStates, Knows, Seen, Witness,
    cgroup::{self, Group, PathDigest, Placed, Roots},
    proc::{Missing, Proc},
    sightings::{self, Sightings, Who},
};
use crate::{engine::HolderNews, source::Device};

/// Where libvirt keeps the state of machines that run, where nothing else is configured.
pub const FOLDER: &str = "/run/libvirt/qemu";

/// Files that are looked at. A folder with more is crowded, and the rest says nothing.
pub const MOST_FILES: usize = 4096;

/// A folder is read again after this time, whatever its clock says.
const REREAD_MS: u64 = 10_000;

/// What changed so recently may change again within the same tick of its clock.
const SETTLED_MS: i64 = 2_000;

/// A process that began so much later than its file was last written is another one.
const LATE_MS: i64 = 2_000;

/// Where this witness looks, and what it calls what it finds.
#[derive(Clone, Debug)]
pub struct LibvirtOptions {
    /// libvirt's folder.
    pub folder: PathBuf,
    /// `/sys`.
    pub sysfs: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// Groups of the operator's own.
    pub roots: Roots,
    /// What the cloud is called, as in `vm:<cloud>/<project>`.
    pub cloud: String,
    /// Whether the agent's clock is the host's: not where time is simulated.
    pub host_clock: bool,
}

/// How the folder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FolderState {
    /// There is none: no libvirt runs machines here.
    #[default]
    Unused,
    /// It is read.
    Ok,
    /// It cannot be read.
    Unreadable,
    /// Others than root can write to it: nothing in it is believed.
    Unsafe,
    /// There are more files in it than are looked at.
    Crowded,
}

impl FolderState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Unused, Self::Ok, Self::Unreadable, Self::Unsafe, Self::Crowded];

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Ok => "ok",
            Self::Unreadable => "unreadable",
            Self::Unsafe => "unsafe",
            Self::Crowded => "crowded",
        }
    }
}

/// Why a file is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It is not for this user to read.
    Unreadable,
    /// It does not belong to root, or others can write to it.
    Foreign,
    /// It is too long.
    Huge,
    /// It is no file, is broken, or says something else.
    Malformed,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Unreadable, Self::Foreign, Self::Huge, Self::Malformed];

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Foreign => "foreign",
            Self::Huge => "huge",
            Self::Malformed => "malformed",
        }
    }
}

/// What a machine came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MachineState {
    /// It has an accelerator, and its project is known.
    Named,
    /// It has one, and no metadata says whose it is.
    Untold,
    /// It has one, and its metadata names several projects or none that can be.
    Unclear,
    /// It has none.
    Without,
    /// It is shut off.
    Off,
    /// Its process is gone, or another has its number.
    Gone,
}

impl MachineState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Named, Self::Untold, Self::Unclear, Self::Without, Self::Off, Self::Gone];

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Untold => "untold",
            Self::Unclear => "unclear",
            Self::Without => "without_accelerator",
            Self::Off => "off",
            Self::Gone => "gone",
        }
    }
}

/// What there is to say of libvirt's machines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibvirtState {
    /// How the folder is.
    pub folder: FolderState,
    /// Files in it that are not believed.
    pub refused: BTreeMap<Refusal, usize>,
    /// Machines, by what they came to.
    pub machines: BTreeMap<MachineState, usize>,
    /// Accelerators of which a machine has the whole or a part.
    pub accelerators: usize,
    /// Parts of accelerators that are split, of which it is not known which part.
    pub split: usize,
}

/// libvirt's word as a witness.
#[derive(Debug)]
pub struct Libvirt {
    options: LibvirtOptions,
    proc: Proc,
    unknown: Principal,
    boot: BootId,
    devices: Vec<Device>,
    /// By file name.
    machines: BTreeMap<String, Machine>,
    /// Files that are not believed, with what was seen of them: each is logged once.
    refused: BTreeMap<String, (Refusal, Stamp)>,
    folder: FolderState,
    /// What the folder was like when it was last read: when it had changed, whether it can change again without
    /// showing it, and when that was.
    read: Option<(i64, bool, u64)>,
    sightings: Sightings,
    /// Of what drivers say, now and then, beside the files.
    told: Sightings,
}

/// By what a file is told from the one that replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: i64,
    inode: u64,
    length: u64,
}

/// A machine whose file was read.
#[derive(Debug)]
struct Machine {
    domain: Domain,
    stamp: Stamp,
    /// Whether its file can be read no longer: what it said holds for as long as its process is there.
    broken: bool,
    /// When its process began, in ticks since boot, once that was seen.
    started: Option<u64>,
    life: Life,
    accelerators: BTreeSet<AcceleratorId>,
    /// Parts whose place is not known.
    split: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Its process is there, since this many milliseconds after boot.
    Since(u64),
    /// Processes cannot be seen: its file is all there is.
    Unseen,
    /// Its process is gone, or another has its number.
    Gone,
}

impl Libvirt {
    /// Reads nothing before the first look. `boot` is part of the names of attempts. An error names what cannot be in
    /// a name.
    pub fn new(options: LibvirtOptions, boot: BootId) -> Result<Self, BadName> {
        Ok(Self {
            proc: Proc::new(options.proc.clone(), options.roots.clone()),
            unknown: Principal::unknown("vm", &options.cloud)?,
            boot,
            options,
            devices: Vec::new(),
            machines: BTreeMap::new(),
            refused: BTreeMap::new(),
            folder: FolderState::Unused,
            read: None,
            sightings: Sightings::default(),
            told: Sightings::default(),
        })
    }

    /// How things are.
    pub fn state(&self) -> LibvirtState {
        let mut state = LibvirtState { folder: self.folder, ..LibvirtState::default() };
        self.refused.values().for_each(|(refusal, _)| *state.refused.entry(*refusal).or_default() += 1);
        let mut held: BTreeSet<&AcceleratorId> = BTreeSet::new();
        for machine in self.machines.values() {
            *state.machines.entry(machine.state()).or_default() += 1;
            if machine.holds() {
                held.extend(&machine.accelerators);
                state.split += machine.split;
            }
        }
        state.accelerators = held.len();
        state
    }

    /// One look without an agent, at these devices.
    pub fn examine(&mut self, now: Now, devices: &[Device]) {
        self.devices = devices.to_vec();
        self.take(now);
    }

    /// One machine from what libvirt says to whom it is for.
    pub fn example(&self) -> Option<String> {
        let holds = |machine: &&Machine| machine.holds() && !machine.accelerators.is_empty();
        let best = self.machines.values().filter(holds).min_by_key(|machine| machine.state())?;
        let list: Vec<&str> = best.accelerators.iter().map(AcceleratorId::as_str).collect();
        let (principal, attempt) = self.names(&best.domain)?;
        Some(format!("for example: {} is held by {principal} in attempt {attempt}", list.join(" and ")))
    }

    /// Whose a machine is, and in which attempt: the same as its processes say by their group.
    fn names(&self, domain: &Domain) -> Option<(Principal, AttemptId)> {
        let principal = match &domain.project {
            Project::Known(project) => Principal::new("vm", &self.options.cloud, project).ok()?,
            Project::Untold | Project::Unclear => self.unknown.clone(),
        };
        Some((principal, attempt(&self.unknown, &domain.uuid, self.boot)?))
    }

    /// Brings everything up to what the folder and the processes say now.
    fn take(&mut self, now: Now) {
        let changed = self.read_folder(now);
        if changed {
            self.place();
        }
        let visible = self.sees_processes();
        for machine in self.machines.values_mut() {
            machine.life = machine.look(&self.proc, visible, now, self.options.host_clock);
            if let Life::Since(_) = machine.life {
                continue;
            }
            // Nothing tells any more that it goes on.
            if machine.broken {
                machine.life = Life::Gone;
            }
        }
    }

    /// Whether `/proc` shows those of the host: threads of the kernel have numbers in its own namespace only.
    fn sees_processes(&self) -> bool {
        fs::read(self.proc.root().join("2/stat")).is_ok_and(|stat| stat.starts_with(b"2 (kthreadd)"))
    }

    fn place(&mut self) {
        for machine in self.machines.values_mut() {
            machine.accelerators.clear();
            machine.split = 0;
            for given in &machine.domain.given {
                match place(given, &self.options.sysfs, &self.devices) {
                    Place::Of(accelerators) => machine.accelerators.extend(accelerators),
                    Place::Split => machine.split += 1,
                    Place::Elsewhere => {}
                }
            }
        }
    }

    /// True if a machine is another than before, or time has come to look where devices are.
    fn read_folder(&mut self, now: Now) -> bool {
        let (state, modified) = match fs::symlink_metadata(&self.options.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (FolderState::Unused, None),
            Err(_) => (FolderState::Unreadable, None),
            Ok(found) if !found.is_dir() || !is_ours(&found) => (FolderState::Unsafe, None),
            Ok(found) => (self.folder, Some(millis(&found))),
        };
        let Some(modified) = modified else {
            self.leave(state);
            return true;
        };
        let reread = |read: u64| now.boot_ms.saturating_sub(read) >= REREAD_MS;
        if self.read.is_some_and(|(known, settled, at)| known == modified && settled && !reread(at)) {
            return false;
        }
        let Ok(entries) = fs::read_dir(&self.options.folder) else {
            self.leave(FolderState::Unreadable);
            return true;
        };
        // By the clock that the file system takes; a simulated one says nothing of it.
        let settled = self.options.host_clock && now.wall.0 - modified > SETTLED_MS;
        self.read = Some((modified, settled, now.boot_ms));
        self.folder = FolderState::Ok;
        let mut names: BTreeSet<String> = BTreeSet::new();
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !name.ends_with(".xml") || name.starts_with('.') {
                continue;
            }
            if names.len() >= MOST_FILES {
                self.folder = FolderState::Crowded;
                break;
            }
            names.insert(name);
        }
        self.machines.retain(|name, _| names.contains(name));
        self.refused.retain(|name, _| names.contains(name));
        for name in names {
            self.read_file(name);
        }
        true
    }

    /// Nothing is known any more.
    fn leave(&mut self, state: FolderState) {
        if state != self.folder && state != FolderState::Unused {
            let folder = self.options.folder.display();
            tracing::warn!(%folder, state = state.as_str(), "libvirt's machines are not known");
        }
        (self.folder, self.read) = (state, None);
        self.machines.clear();
        self.refused.clear();
    }

    fn read_file(&mut self, name: String) {
        let path = self.options.folder.join(&name);
        let known = self.machines.get(&name).filter(|machine| !machine.broken).map(|machine| machine.stamp);
        let (read, stamp) = read(&path, known);
        let domain = match read {
            Ok(None) => return,
            Ok(Some(domain)) => domain,
            Err(refusal) => {
                if let Some(machine) = self.machines.get_mut(&name) {
                    machine.broken = true;
                }
                if self.refused.insert(name.clone(), (refusal, stamp)) != Some((refusal, stamp)) {
                    // A machine may be called what a tenant likes.
                    let file_sha256 = PathDigest::of(name.as_bytes());
                    tracing::warn!(%file_sha256, why = refusal.as_str(), "a file of libvirt's is not believed");
                }
                return;
            }
        };
        self.refused.remove(&name);
        let before = self.machines.get(&name);
        // Another run of the machine has another process.
        let same = |machine: &&Machine| {
            (machine.domain.pid, &machine.domain.uuid, machine.domain.number)
                == (domain.pid, &domain.uuid, domain.number)
        };
        let started = before.filter(same).and_then(|machine| machine.started);
        let machine = Machine {
            domain,
            stamp,
            broken: false,
            started,
            life: Life::Unseen,
            accelerators: BTreeSet::new(),
            split: 0,
        };
        self.machines.insert(name, machine);
    }

    /// A machine that a driver named.
    fn by_uuid(&self, uuid: &str) -> Option<Who> {
        let known = self.machines.values().find(|machine| machine.holds() && machine.domain.uuid == uuid);
        let (principal, attempt) = match known {
            Some(machine) => self.names(&machine.domain)?,
            None => (self.unknown.clone(), attempt(&self.unknown, uuid, self.boot)?),
        };
        Some(Who { principal, attempt, evidence: Evidence::Hypervisor })
    }

    /// Who has which accelerator now, and since when that is known.
    fn holders(&self, now: Now) -> BTreeMap<AcceleratorId, Vec<sightings::Seen>> {
        let mut holders: BTreeMap<AcceleratorId, Vec<sightings::Seen>> = BTreeMap::new();
        for machine in self.machines.values().filter(|machine| machine.holds()) {
            let Some((principal, attempt)) = self.names(&machine.domain) else { continue };
            let who = Who { principal, attempt, evidence: Evidence::Hypervisor };
            let (since, begun) = machine.since(now, self.options.host_clock);
            let seen = sightings::Seen { who, since, begun };
            for accelerator in &machine.accelerators {
                let list = holders.entry(accelerator.clone()).or_default();
                if !list.iter().any(|other| other.who == seen.who) {
                    list.push(seen.clone());
                }
            }
        }
        holders
    }
}

impl Machine {
    fn holds(&self) -> bool {
        self.domain.on && self.life != Life::Gone
    }

    fn state(&self) -> MachineState {
        match &self.domain.project {
            _ if !self.domain.on => MachineState::Off,
            _ if self.life == Life::Gone => MachineState::Gone,
            _ if self.accelerators.is_empty() => MachineState::Without,
            Project::Known(_) => MachineState::Named,
            Project::Untold => MachineState::Untold,
            Project::Unclear => MachineState::Unclear,
        }
    }

    /// Whether its process is there.
    fn look(&mut self, proc: &Proc, visible: bool, now: Now, host_clock: bool) -> Life {
        let Some(pid) = self.domain.pid.filter(|_| visible) else { return Life::Unseen };
        let process = match proc.open(pid) {
            Ok(process) => process,
            Err(Missing::Gone) => return Life::Gone,
            Err(Missing::Unreadable(_)) => return Life::Unseen,
        };
        let began = process.started_ms();
        let is_it = match self.started {
            Some(started) => started == process.started,
            None => match proc.placed(&process) {
                Ok(Placed::In(Group::Machine { number, .. })) => {
                    self.domain.number.is_none_or(|own| own == number)
                }
                // Its group does not say; then it began before its file was last written.
                _ => !host_clock || wall(now, began).since(UtcMillis(self.stamp.modified)) <= LATE_MS,
            },
        };
        if !is_it {
            return Life::Gone;
        }
        self.started = Some(process.started);
        Life::Since(began)
    }

    /// Since when it is known to have what it has, and when it began.
    fn since(&self, now: Now, host_clock: bool) -> (UtcMillis, UtcMillis) {
        if !host_clock {
            return (now.wall, UtcMillis(i64::MIN));
        }
        let begun = match self.life {
            Life::Since(began) => wall(now, began),
            Life::Unseen | Life::Gone => UtcMillis(i64::MIN),
        };
        (UtcMillis(self.stamp.modified).max(begun).min(now.wall), begun.min(now.wall))
    }
}

/// When a moment after boot was, by the agent's clock.
fn wall(now: Now, boot_ms: u64) -> UtcMillis {
    now.wall.plus(boot_ms.cast_signed() - now.boot_ms.cast_signed())
}

impl Witness for Libvirt {
    fn look(&mut self, seen: &Seen<'_>, news: &mut HolderNews) {
        if let Some(devices) = &seen.look.inventory_changed {
            self.devices.clone_from(devices);
            self.place();
        }
        self.take(seen.now);
        let holders = self.holders(seen.now);
        let held_by = |id: &AcceleratorId| holders.get(id).map_or(&[][..], Vec::as_slice);
        for device in &seen.look.devices {
            // What was not asked now is as it was.
            let Some(machines) = &device.machines else { continue };
            let named = machines.iter().filter_map(|text| self.by_uuid(&cgroup::uuid(text)?));
            let named: Vec<Who> =
                named.filter(|who| held_by(&device.id).iter().all(|held| held.who != *who)).collect();
            if self.told.see(&device.id, &named, seen.now.wall) {
                news.changed.push(device.id.clone());
            }
        }
        if !matches!(self.folder, FolderState::Ok | FolderState::Crowded) {
            // Not having looked is not having seen nobody.
            return;
        }
        for accelerator in seen.accelerators {
            if self.sightings.see_since(accelerator, held_by(accelerator), seen.now.wall) {
                news.changed.push(accelerator.clone());
            }
        }
    }

    fn confirm(&mut self) -> Vec<Holding> {
        let mut holdings = self.sightings.confirm();
        holdings.extend(self.told.confirm());
        holdings
    }

    /// Of a machine that runs here, by libvirt's number: its name may have been cut.
    fn knows(&self, group: &Group, _: &AcceleratorId) -> Option<Knows> {
        let Group::Machine { number, .. } = group else { return None };
        let is = |machine: &&Machine| machine.holds() && machine.domain.number == Some(*number);
        let mut found = self.machines.values().filter(is);
        let machine = found.next().filter(|_| found.next().is_none())?;
        self.names(&machine.domain).map(|(principal, attempt)| Knows::As(principal, attempt))
    }

    fn report(&self, states: &mut HolderStates) {
        states.libvirt = self.state();
    }
}

/// What an attempt of a machine is called: the same by whatever it is known.
fn attempt(unknown: &Principal, uuid: &str, boot: BootId) -> Option<AttemptId> {
    let scope = unknown.as_str().trim_end_matches("%3F");
    format!("{scope}{uuid}@{boot}").parse().ok()
}

/// Whether nobody else can have written it: root's, or this user's, who could say anything anyway.
fn is_ours(found: &fs::Metadata) -> bool {
    let own = rustix::process::geteuid().as_raw();
    (found.uid() == 0 || found.uid() == own) && found.mode() & 0o022 == 0
}

fn millis(found: &fs::Metadata) -> i64 {
    found.mtime().saturating_mul(1000).saturating_add(found.mtime_nsec() / 1_000_000)
}

/// One file, if it is another than the known one, and by what it is known again.
fn read(path: &Path, known: Option<Stamp>) -> (Result<Option<Domain>, Refusal>, Stamp) {
    let mut stamp = Stamp { modified: 0, inode: 0, length: 0 };
    // Not through a link, and not waiting for whoever has a pipe there.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
            return (Err(Refusal::Unreadable), stamp);
        }
        Err(_) => return (Err(Refusal::Malformed), stamp),
    };
    let Ok(found) = file.metadata() else { return (Err(Refusal::Malformed), stamp) };
    stamp = Stamp { modified: millis(&found), inode: found.ino(), length: found.len() };
    let refusal = if !found.is_file() {
        Some(Refusal::Malformed)
    } else if !is_ours(&found) {
        Some(Refusal::Foreign)
    } else if found.len() > LONGEST {
        Some(Refusal::Huge)
    } else {
        None
    };
    if let Some(refusal) = refusal {
        return (Err(refusal), stamp);
    }
    if known == Some(stamp) {
        return (Ok(None), stamp);
    }
    let mut bytes = Vec::new();
    let domain = match file.take(LONGEST + 1).read_to_end(&mut bytes) {
        Ok(_) => Domain::parse(&bytes).map(Some).ok_or(Refusal::Malformed),
        Err(_) => Err(Refusal::Malformed),
    };
    (domain, stamp)
}

/// The UUID of a machine, by the name of its group. `None` where there is no such state, or it is not for our eyes.
pub(super) fn uuid(folder: &Path, domain: &str) -> Option<String> {
    // A group's name can hold any escaped byte.
    if folder.as_os_str().is_empty() || domain.starts_with('.') || domain.contains(['/', '\0']) {
        return None;
    }
    read(&folder.join(format!("{domain}.xml")), None).0.ok().flatten().map(|domain| domain.uuid)
}

#[cfg(test)]
mod tests;
