//! Processes that have a device of vfio open: machines that no libvirt runs, and those that it does.
//!
//! A machine's process opens the file of its devices' group, `/dev/vfio/42`, or of the device itself,
//! `/dev/vfio/devices/vfio0`. Which processes have which file open, `/proc` shows to root alone; a thread of its own
//! looks. What may not be seen is not taken for nobody.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::time::Instant;
use weighbridge_meter::{AcceleratorId, DeviceState, GapCause};

use super::scan::Bound;
use crate::source::{
    DeviceLook,
    sysfs::{link_name, mediated_in, physical_of},
    worker::{Heard, Worker},
};

/// Addresses of accelerators by the files that stand for them.
type Nodes = BTreeMap<PathBuf, BTreeSet<String>>;

/// Every so many rounds all processes are looked at, else new ones and those that had something open.
const WHOLE_EVERY: u32 = 6;

/// So many processes are looked at in one round; a machine among further ones is not found.
const MOST_PROCESSES: usize = 65_536;

/// Mediated devices that are looked at.
const MOST_MEDIATED: usize = 4_096;

/// Who has devices of vfio open.
#[derive(Debug)]
pub(super) struct Users {
    proc: PathBuf,
    nodes: Arc<Nodes>,
    worker: Option<Worker<Arc<Nodes>, Seen>>,
    /// By address, as last seen.
    known: BTreeMap<String, BTreeSet<u32>>,
    /// Devices of which the source itself names processes, or which were told of here.
    named: BTreeMap<AcceleratorId, By>,
}

/// Who names a device's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Source,
    Us,
}

/// What one round saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    users: BTreeMap<String, BTreeSet<u32>>,
    /// Every process showed its files.
    whole: bool,
}

impl Users {
    /// `proc` is `/proc` but for tests.
    pub(super) fn new(proc: PathBuf) -> Self {
        Self { proc, nodes: Arc::default(), worker: None, known: BTreeMap::new(), named: BTreeMap::new() }
    }

    /// Learns which files stand for the accelerators on the bus. Starts the thread if there are any.
    pub(super) fn search(&mut self, sysfs: &Path, bus: &BTreeMap<String, Bound>) {
        let nodes = nodes(sysfs, bus);
        if nodes != *self.nodes {
            self.nodes = Arc::new(nodes);
        }
        if self.worker.is_some() || self.nodes.is_empty() {
            return;
        }
        let mut rounds = Rounds { proc: self.proc.clone(), ..Rounds::default() };
        match Worker::start("vfio-users", move |nodes: Arc<Nodes>| rounds.look(nodes)) {
            Ok(worker) => self.worker = Some(worker),
            Err(error) => {
                tracing::warn!(%error, "cannot start the thread that looks who has devices of vfio open");
            }
        }
    }

    /// Adds them to what is known of the devices; `address` says where one sits.
    pub(super) async fn tell<'a>(
        &mut self,
        devices: &mut [DeviceLook],
        address: impl Fn(&AcceleratorId) -> Option<&'a str>,
        ask: bool,
        deadline: Instant,
    ) {
        let Some(worker) = &mut self.worker else { return };
        if ask {
            worker.ask(Arc::clone(&self.nodes));
        }
        // What was not asked for in this look is not waited for.
        let seen = match worker.hear(if ask { deadline } else { Instant::now() }).await {
            Heard::Answer(seen) => Some(seen),
            Heard::Late => None,
            Heard::Died => {
                self.worker = None;
                None
            }
        };
        if let Some(seen) = &seen {
            self.known.clone_from(&seen.users);
        }
        for device in devices {
            let users = address(&device.id).and_then(|address| self.known.get(address));
            if device.pids.is_some() {
                self.named.insert(device.id.clone(), By::Source);
            }
            let given_away = device.state == DeviceState::Missing(GapCause::PassedThrough);
            let by = self.named.get(&device.id);
            // Of a device that has its own driver too, as with parts of it given away, others may be users.
            let ours = given_away || by != Some(&By::Source);
            let whole = seen.as_ref().is_some_and(|seen| seen.whole);
            let nobody = whole && (given_away || by == Some(&By::Us));
            if seen.is_some() && ours && (users.is_some() || nobody) {
                device.pids.get_or_insert_default();
                if !given_away {
                    self.named.insert(device.id.clone(), By::Us);
                }
            }
            if let (Some(pids), Some(users)) = (&mut device.pids, users) {
                pids.extend(users);
                pids.sort_unstable();
                pids.dedup();
            }
        }
    }
}

/// Files of everything that is bound to vfio, and of mediated devices.
fn nodes(sysfs: &Path, bus: &BTreeMap<String, Bound>) -> Nodes {
    let mut nodes = Nodes::new();
    let mut add = |folder: &Path, addresses: &[&String]| {
        let group = link_name(&folder.join("iommu_group"));
        let group = group.iter().flat_map(|group| [group.clone(), format!("noiommu-{group}")]);
        let own = fs::read_dir(folder.join("vfio-dev")).into_iter().flatten().flatten();
        let own = own.map(|entry| format!("devices/{}", entry.file_name().to_string_lossy()));
        for name in group.chain(own) {
            let of = nodes.entry(Path::new("/dev/vfio").join(name)).or_default();
            of.extend(addresses.iter().map(|address| (*address).clone()));
        }
    };
    for (address, bound) in bus.iter().filter(|(_, bound)| bound.is_vfio()) {
        let addresses: Vec<&String> = std::iter::once(address).chain(&bound.parent).collect();
        add(&sysfs.join("bus/pci/devices").join(address), &addresses);
    }
    let mediated = fs::read_dir(sysfs.join("bus/mdev/devices")).into_iter().flatten().flatten();
    for entry in mediated.take(MOST_MEDIATED) {
        let Some(function) = mediated_in(&entry.path()) else { continue };
        let physical = physical_of(sysfs, &function);
        let addresses: Vec<&String> = std::iter::once(&function).chain(&physical).collect();
        add(&entry.path(), &addresses);
    }
    nodes
}

/// What the thread knows from one round to the next.
#[derive(Debug, Default)]
struct Rounds {
    proc: PathBuf,
    nodes: Arc<Nodes>,
    round: u32,
    /// Processes that had nothing open when they were looked at.
    without: HashSet<u32>,
    /// Whether the last round over all of them saw the files of all.
    whole: bool,
}

impl Rounds {
    fn look(&mut self, nodes: Arc<Nodes>) -> Seen {
        if self.round.is_multiple_of(WHOLE_EVERY) || nodes != self.nodes {
            (self.nodes, self.round, self.whole) = (nodes, 0, true);
            self.without.clear();
        }
        self.round += 1;
        let mut users: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        let entries = fs::read_dir(&self.proc);
        self.whole &= entries.is_ok();
        let mut looked_at = 0;
        for entry in entries.into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if self.without.contains(&pid) {
                continue;
            }
            looked_at += 1;
            if looked_at > MOST_PROCESSES {
                self.whole = false;
                break;
            }
            match open_nodes(&entry.path().join("fd"), &self.nodes) {
                Ok(addresses) if addresses.is_empty() => {
                    self.without.insert(pid);
                }
                Ok(addresses) => {
                    for address in addresses {
                        users.entry(address.clone()).or_default().insert(pid);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.whole = false,
                // It ended meanwhile.
                Err(_) => {}
            }
        }
        Seen { users, whole: self.whole }
    }
}

/// Addresses of what a process has open.
fn open_nodes<'a>(files: &Path, nodes: &'a Nodes) -> io::Result<BTreeSet<&'a String>> {
    let mut open = BTreeSet::new();
    for entry in fs::read_dir(files)?.flatten() {
        if let Ok(target) = fs::read_link(entry.path())
            && let Some(addresses) = nodes.get(&target)
        {
            open.extend(addresses);
        }
    }
    Ok(open)
}
