//! What Slurm's prolog and epilog told this host: who was given which accelerators, from when to when.
//!
//! The hooks put files into a folder ([`told`]); they are read at each look at which the folder changed. Only what
//! root put there into a folder of root's is believed; anything else is refused and counted. An allocation is
//! confirmed with each batch until its epilog. Where slurmd is gone and the job has no process any more either,
//! nobody will tell when it ended: then it ended when it was last confirmed, and that is said.
//!
//! A job's own environment is asked for nothing: it can be forged.

mod alive;
pub mod order;
pub mod told;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use weighbridge_meter::{AcceleratorId, BootId, Evidence, Holding, Span, UtcMillis, meter::Now};

use self::{
    order::Order,
    told::{ENDED, LONGEST, Moment, OPEN, Told},
};
use super::{HolderStates, Knows, Seen, Witness, cgroup::Group};
use crate::{
    engine::HolderNews,
    source::{Device, Look},
};

/// Where hooks put their files, where nothing else is configured.
pub const FOLDER: &str = "/run/weighbridge/hooks";

/// Files that are looked at. A folder with more is crowded, and the rest says nothing.
pub const MOST_FILES: usize = 8192;

/// Processes are looked for this often while something is allocated, and before each batch.
const ALIVE_EVERY_MS: u64 = 10_000;

/// A folder is read again after this time, whatever its clock says.
const REREAD_MS: u64 = 10_000;

/// A folder that changed so recently may change again within the same tick of its clock.
const SETTLED_MS: i64 = 2_000;

/// As many accelerators as one record can name.
const MOST_ACCELERATORS: usize = 1024;

/// Where this witness looks.
#[derive(Clone, Debug)]
pub struct SlurmOptions {
    /// The folder of the hooks.
    pub folder: PathBuf,
    /// Accelerators in Slurm's order, where it is not that of their device nodes; none if it is.
    pub order: Vec<AcceleratorId>,
    /// In which boot the host is.
    pub boot: Option<BootId>,
    /// Whether the agent's clock counts from that boot too: not where time is simulated.
    pub host_clock: bool,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys/fs/cgroup`.
    pub cgroups: PathBuf,
}

impl SlurmOptions {
    /// The host's own, with this folder.
    pub fn of_host(folder: PathBuf, boot: Option<BootId>) -> Self {
        Self {
            folder,
            order: Vec::new(),
            boot,
            host_clock: true,
            proc: "/proc".into(),
            cgroups: "/sys/fs/cgroup".into(),
        }
    }
}

/// How the folder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FolderState {
    /// There is none: no hook ever told anything.
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
    /// It does not belong to root.
    Foreign,
    /// Others than root can write to it.
    Writable,
    /// It is too long.
    Huge,
    /// It is no file, cannot be read or says something else.
    Malformed,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Foreign, Self::Writable, Self::Huge, Self::Malformed];

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Writable => "writable",
            Self::Huge => "huge",
            Self::Malformed => "malformed",
        }
    }
}

/// What there is to say of the hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlurmState {
    /// How the folder is.
    pub folder: FolderState,
    /// Files in it that are not believed.
    pub refused: BTreeMap<Refusal, usize>,
    /// Allocations that go on.
    pub open: usize,
    /// Allocations whose end nobody told: slurmd and the job are gone.
    pub lapsed: usize,
    /// Accelerators that Slurm gave away and that are none of this host's, as far as it is known here.
    pub unknown_accelerators: usize,
}

/// Slurm's word as a witness.
#[derive(Debug)]
pub struct SlurmHooks {
    options: SlurmOptions,
    order: Order,
    devices: Vec<Device>,
    /// Accelerators that are there and cannot be named.
    unidentified: u32,
    /// By file name without its ending.
    told: BTreeMap<String, Allocation>,
    /// Files that are not believed, with what was seen of them: each is logged once.
    refused: BTreeMap<String, (Refusal, i64)>,
    folder: FolderState,
    /// What the folder was like when it was last read: when it had changed, whether it can change again without
    /// showing it, and when that was.
    read: Option<(i64, bool, u64)>,
    last: Option<Now>,
    alive_ms: Option<u64>,
    /// Whose holders changed since the last look.
    cut: Vec<AcceleratorId>,
}

/// One start of a job.
#[derive(Debug)]
struct Allocation {
    told: Told,
    from: UtcMillis,
    accelerators: Vec<AcceleratorId>,
    unknown: usize,
    /// Up to when it was seen to go on.
    confirmed: UtcMillis,
    /// Up to when it is in the records that were made.
    recorded: UtcMillis,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It goes on.
    Open,
    /// The epilog told.
    At(UtcMillis),
    /// Nobody told.
    Lapsed,
}

impl SlurmHooks {
    /// Reads nothing before the first look.
    pub fn new(options: SlurmOptions) -> Self {
        Self {
            options,
            order: Order::default(),
            devices: Vec::new(),
            unidentified: 0,
            told: BTreeMap::new(),
            refused: BTreeMap::new(),
            folder: FolderState::Unused,
            read: None,
            last: None,
            alive_ms: None,
            cut: Vec::new(),
        }
    }

    /// How things are.
    pub fn state(&self) -> SlurmState {
        let count = |end: End| self.told.values().filter(|allocation| allocation.end == end).count();
        let mut refused = BTreeMap::new();
        self.refused.values().for_each(|(refusal, _)| *refused.entry(*refusal).or_default() += 1);
        let open = self.told.values().filter(|allocation| allocation.end == End::Open);
        SlurmState {
            folder: self.folder,
            refused,
            open: count(End::Open),
            lapsed: count(End::Lapsed),
            unknown_accelerators: open.map(|allocation| allocation.unknown).sum(),
        }
    }

    /// Slurm's order of the accelerators.
    pub fn order(&self) -> &Order {
        &self.order
    }

    fn take(&mut self, now: Now, look: &Look, news: &mut HolderNews) {
        self.last = Some(now);
        match &look.inventory_changed {
            Some(devices) => self.learn(devices.clone(), look.unidentified),
            None if look.unidentified != self.unidentified => {
                let devices = std::mem::take(&mut self.devices);
                self.learn(devices, look.unidentified);
            }
            None => {}
        }
        // Without accelerators there is nothing to hold, and no number means any.
        if !self.devices.is_empty() {
            self.read_folder(now, news);
            self.check_alive(now, ALIVE_EVERY_MS, news);
        }
        news.changed.append(&mut self.cut);
    }

    /// One look without an agent, at these devices and so many that cannot be named.
    pub fn examine(&mut self, now: Now, devices: &[Device], unidentified: u32) {
        self.learn(devices.to_vec(), unidentified);
        self.read_folder(now, &mut HolderNews::default());
    }

    /// One allocation from what Slurm said to whom it is for.
    pub fn example(&self) -> Option<String> {
        let allocation = self.told.values().rfind(|allocation| allocation.end == End::Open)?;
        let Allocation { told, accelerators, from, .. } = allocation;
        let list: Vec<&str> = accelerators.iter().map(AcceleratorId::as_str).collect();
        let (principal, attempt) = (told.principal().ok()?, told.attempt().ok()?);
        Some(format!("as {attempt}: {} is {}, since {from} for {principal}", told.gpus, list.join(" and ")))
    }

    fn learn(&mut self, devices: Vec<Device>, unidentified: u32) {
        (self.devices, self.unidentified) = (devices, unidentified);
        let order = Order::of(&self.devices, unidentified, &self.options.order, &self.options.proc);
        if order != self.order {
            self.order = order;
            if !self.order.has_numbers() {
                // What was given away while numbers meant something is what it was then.
                return;
            }
            for allocation in self.told.values_mut().filter(|allocation| allocation.end == End::Open) {
                let before = std::mem::take(&mut allocation.accelerators);
                (allocation.accelerators, allocation.unknown) = find(&self.order, &allocation.told);
                let now = &allocation.accelerators;
                self.cut.extend(before.iter().filter(|id| !now.contains(id)).cloned());
                self.cut.extend(now.iter().filter(|id| !before.contains(id)).cloned());
            }
        }
    }

    fn read_folder(&mut self, now: Now, news: &mut HolderNews) {
        let (state, changed) = match fs::symlink_metadata(&self.options.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (FolderState::Unused, None),
            Err(_) => (FolderState::Unreadable, None),
            Ok(found) if !found.is_dir() || found.uid() != 0 || found.mode() & 0o022 != 0 => {
                (FolderState::Unsafe, None)
            }
            Ok(found) => (self.folder, Some(found.mtime() * 1000 + found.mtime_nsec() / 1_000_000)),
        };
        let Some(changed) = changed else {
            if state != self.folder && state != FolderState::Unused {
                let folder = self.options.folder.display();
                tracing::warn!(%folder, state = state.as_str(), "what Slurm's hooks tell is not believed");
            }
            (self.folder, self.read) = (state, None);
            return self.keep_only(&BTreeMap::new(), news);
        };
        let reread = |read: u64| now.boot_ms.saturating_sub(read) >= REREAD_MS;
        if self.read.is_some_and(|(known, settled, at)| known == changed && settled && !reread(at)) {
            return;
        }
        // By the clock that the file system takes; a simulated one says nothing of it.
        let settled = self.options.host_clock && now.wall.0 - changed > SETTLED_MS;
        self.read = Some((changed, settled, now.boot_ms));
        let mut names: BTreeMap<String, bool> = BTreeMap::new();
        let Ok(entries) = fs::read_dir(&self.options.folder) else {
            self.folder = FolderState::Unreadable;
            return;
        };
        self.folder = FolderState::Ok;
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (key, ended) = match (name.strip_suffix(OPEN), name.strip_suffix(ENDED)) {
                (Some(key), _) => (key, false),
                (_, Some(key)) => (key, true),
                _ => continue,
            };
            if names.len() >= MOST_FILES && !names.contains_key(key) {
                self.folder = FolderState::Crowded;
                continue;
            }
            // For a moment both may be there.
            *names.entry(key.to_owned()).or_default() |= ended;
        }
        self.refused.retain(|name, _| names.contains_key(name));
        for (key, ended) in &names {
            self.read_file(now, key, *ended, news);
        }
        self.keep_only(&names, news);
    }

    fn read_file(&mut self, now: Now, key: &str, ended: bool, news: &mut HolderNews) {
        match self.told.get(key) {
            // What was told once is not told otherwise.
            Some(known) if !ended || matches!(known.end, End::At(_)) => return,
            _ => {}
        }
        let path = self.options.folder.join(format!("{key}{}", if ended { ENDED } else { OPEN }));
        let (told, seen) = read(&path);
        let told = told
            .and_then(|told| if told.ended.is_some() <= ended { Ok(told) } else { Err(Refusal::Malformed) });
        let told = match told {
            Ok(told) => told,
            Err(refusal) => {
                if self.refused.insert(key.to_owned(), (refusal, seen)) != Some((refusal, seen)) {
                    let file = path.display();
                    tracing::warn!(%file, why = refusal.as_str(), "a file of Slurm's hooks is not believed");
                }
                return;
            }
        };
        self.refused.remove(key);
        let from = self.wall(now, &told, told.began);
        let end = match told.ended {
            Some(moment) => Some(self.wall(now, &told, moment)),
            // The disk was full: the file says when, and that cannot be later than now.
            None if ended => Some(UtcMillis(seen).min(now.wall).max(from)),
            None => None,
        };
        if let Some(known) = self.told.get_mut(key) {
            let Some(end) = end else { return };
            if known.end == End::Open {
                // What was said already, a moment ago, stays: the epilog had begun by then, and was not over.
                known.confirmed = end.max(known.recorded);
                news.changed.extend(known.accelerators.iter().cloned());
            }
            known.end = End::At(end);
            return;
        }
        // It ended with its boot, at a moment that nobody knows better than the run that confirmed it last.
        let other_boot = self.options.boot.is_some_and(|boot| boot != told.boot);
        let (accelerators, unknown) = find(&self.order, &told);
        if unknown > 0 {
            tracing::warn!(job = told.job, unknown, "Slurm gave away accelerators that are not known here");
        }
        let end = match end {
            Some(end) => End::At(end),
            None if other_boot => End::Lapsed,
            None => End::Open,
        };
        let confirmed = match end {
            End::At(end) => end.max(from),
            // That its file is there says nothing yet: whoever would have ended it may be gone.
            End::Open | End::Lapsed => from,
        };
        if end == End::Open {
            news.changed.extend(accelerators.iter().cloned());
        }
        self.told.insert(
            key.to_owned(),
            Allocation { told, from, accelerators, unknown, confirmed, recorded: from, end },
        );
    }

    /// When a moment was, by the agent's clock.
    fn wall(&self, now: Now, told: &Told, moment: Moment) -> UtcMillis {
        if self.options.host_clock && self.options.boot == Some(told.boot) {
            now.wall.plus(moment.boot_ms.cast_signed() - now.boot_ms.cast_signed())
        } else {
            moment.wall
        }
    }

    /// What is no longer in the folder goes on no longer.
    fn keep_only(&mut self, names: &BTreeMap<String, bool>, news: &mut HolderNews) {
        for (key, allocation) in &mut self.told {
            if !names.contains_key(key) && allocation.end == End::Open {
                tracing::warn!(
                    job = allocation.told.job,
                    "the file of an allocation is gone: it ended when it was last confirmed"
                );
                allocation.end = End::Lapsed;
                news.changed.extend(allocation.accelerators.iter().cloned());
            }
        }
        // What is over stays as long as its file, and until it is recorded.
        self.told.retain(|key, allocation| {
            names.contains_key(key)
                || allocation.end == End::Open
                || allocation.recorded < allocation.confirmed
        });
    }

    /// Confirms what goes on, and ends what nobody will.
    fn check_alive(&mut self, now: Now, every_ms: u64, news: &mut HolderNews) {
        let due = self.alive_ms.is_none_or(|last| now.boot_ms.saturating_sub(last) >= every_ms);
        // What is over comes back only with its processes.
        let watched = |allocation: &Allocation| match allocation.end {
            End::Open => true,
            End::Lapsed => self.options.boot.is_none_or(|boot| boot == allocation.told.boot),
            End::At(_) => false,
        };
        if !due || !self.told.values().any(watched) {
            return;
        }
        self.alive_ms = Some(now.boot_ms);
        let seen = alive::look(&self.options.proc);
        for allocation in self.told.values_mut() {
            let Told { job, node, sluid, boot, .. } = &allocation.told;
            let same_boot = self.options.boot.is_none_or(|host| host == *boot);
            let job_runs = || seen.job(*job, sluid.as_deref(), &self.options.cgroups);
            match allocation.end {
                End::Open if !seen.is_whole() || seen.daemon(node) || job_runs() => {
                    allocation.confirmed = now.wall.max(allocation.confirmed);
                }
                End::Open => {
                    tracing::warn!(
                        job,
                        confirmed = %allocation.confirmed,
                        "slurmd and the job are gone and no epilog ran: the allocation ended when it was last confirmed"
                    );
                    allocation.end = End::Lapsed;
                    news.changed.extend(allocation.accelerators.iter().cloned());
                }
                End::Lapsed if same_boot && job_runs() => {
                    tracing::warn!(job, "the job of an allocation that seemed over runs");
                    allocation.end = End::Open;
                    // It is not known to have held them meanwhile.
                    (allocation.from, allocation.recorded) = (now.wall, now.wall);
                    allocation.confirmed = now.wall;
                    news.changed.extend(allocation.accelerators.iter().cloned());
                }
                End::Lapsed | End::At(_) => {}
            }
        }
    }

    /// What was allocated since the last call.
    fn recorded(&mut self) -> Vec<Holding> {
        if let Some(now) = self.last {
            // What ends now was confirmed a moment ago; windows are cut at the next look.
            let mut news = HolderNews::default();
            self.check_alive(now, 1, &mut news);
            self.cut.append(&mut news.changed);
        }
        let mut holdings = Vec::new();
        for allocation in self.told.values_mut() {
            let Some(span) = Span::new(allocation.recorded, allocation.confirmed) else { continue };
            allocation.recorded = allocation.confirmed;
            let (Ok(principal), Ok(attempt)) = (allocation.told.principal(), allocation.told.attempt())
            else {
                continue;
            };
            if allocation.accelerators.is_empty() {
                continue;
            }
            let accelerators = allocation.accelerators.iter().take(MOST_ACCELERATORS).cloned().collect();
            holdings.push(Holding {
                principal,
                attempt,
                accelerators,
                span,
                evidence: Evidence::SchedulerHook,
            });
        }
        holdings
    }
}

impl Witness for SlurmHooks {
    fn look(&mut self, seen: &Seen<'_>, news: &mut HolderNews) {
        self.take(seen.now, seen.look, news);
    }

    fn confirm(&mut self) -> Vec<Holding> {
        self.recorded()
    }

    /// Of a job that goes on here, by its number or SLUID.
    fn knows(&self, group: &Group, _: &AcceleratorId) -> Option<Knows> {
        let Group::SlurmJob(id) = group else { return None };
        let is = |told: &Told| told.sluid.as_ref() == Some(id) || told.job.to_string() == *id;
        let going = |allocation: &&Allocation| allocation.end == End::Open && is(&allocation.told);
        let told = &self.told.values().rfind(going)?.told;
        Some(Knows::As(told.principal().ok()?, told.attempt().ok()?))
    }

    fn report(&self, states: &mut HolderStates) {
        states.slurm = self.state();
    }
}

fn find(order: &Order, told: &Told) -> (Vec<AcceleratorId>, usize) {
    order.find(&told.gpus)
}

/// One file, and when it was last changed.
fn read(path: &Path) -> (Result<Told, Refusal>, i64) {
    // Not through a link, and not waiting for whoever has a pipe there.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()).map(File::from) else {
        return (Err(Refusal::Malformed), 0);
    };
    let Ok(found) = file.metadata() else { return (Err(Refusal::Malformed), 0) };
    let seen = found.mtime() * 1000 + found.mtime_nsec() / 1_000_000;
    let refusal = if !found.is_file() {
        Some(Refusal::Malformed)
    } else if found.uid() != 0 {
        Some(Refusal::Foreign)
    } else if found.mode() & 0o022 != 0 {
        Some(Refusal::Writable)
    } else if found.len() > LONGEST {
        Some(Refusal::Huge)
    } else {
        None
    };
    if let Some(refusal) = refusal {
        return (Err(refusal), seen);
    }
    let mut text = Vec::new();
    let told = match file.take(LONGEST).read_to_end(&mut text) {
        Ok(_) => Told::parse(&text).ok_or(Refusal::Malformed),
        Err(_) => Err(Refusal::Malformed),
    };
    (told, seen)
}

#[cfg(test)]
mod tests;
