//! Which accelerator a kubelet means: what device plugins and drivers call what they give away.
//!
//! Pure: a name in, accelerators or a reason out. A plugin calls a GPU by its UUID, a replica of one by the UUID and a
//! number, GKE's by the number of its device node, AMD's by the PCI address. What cannot be led back to an accelerator
//! of this host is a named reason, never a guess. Other devices, as network cards, are none of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use weighbridge_meter::AcceleratorId;

use super::super::slurm::order::{minors, same_address};
use crate::source::Device;

/// Why a device that was given away is no accelerator of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unmapped {
    /// Its name has a shape that is not known.
    Shape,
    /// Its name is right, and there is no such accelerator here.
    Absent,
    /// It is named by the number of its device node, which the driver does not tell.
    Node,
    /// It is a part of an accelerator, and which one is not known.
    Part,
    /// A driver's own name, which no resource slice explains.
    Slice,
}

impl Unmapped {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Shape, Self::Absent, Self::Node, Self::Part, Self::Slice];

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shape => "unknown_shape",
            Self::Absent => "not_here",
            Self::Node => "unknown_device_node",
            Self::Part => "unknown_part",
            Self::Slice => "no_resource_slice",
        }
    }
}

/// A device of a claim: the driver's own name for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimDevice {
    /// As `gpu.nvidia.com`.
    pub driver: String,
    /// As a rule the node.
    pub pool: String,
    /// As `gpu-0`.
    pub device: String,
}

/// What resource slices say a claim's devices are: a UUID, a serial number or a PCI address.
pub type Slices = BTreeMap<ClaimDevice, String>;

/// The accelerators of this host, to be found by what a kubelet calls them.
#[derive(Clone, Debug, Default)]
pub struct Accelerators {
    devices: Vec<Device>,
    /// Where the driver shows its devices.
    driver: PathBuf,
    /// Numbers of device nodes, by PCI address and by UUID. The driver is asked only where somebody uses them: one that
    /// is ill may not answer.
    nodes: OnceLock<Vec<(String, u32)>>,
}

impl Accelerators {
    /// Of these devices, as far as they are in one of these hosts. `proc` is where the kernel shows drivers, `/proc`.
    pub fn of(devices: &[Device], hosts: &[String], proc: &Path) -> Self {
        let is_here = |device: &&Device| device.host.as_ref().is_none_or(|host| hosts.contains(host));
        let here = devices.iter().filter(is_here);
        let driver = proc.join("driver/nvidia/gpus");
        Self { devices: here.cloned().collect(), driver, nodes: OnceLock::new() }
    }

    fn nodes(&self) -> &[(String, u32)] {
        self.nodes.get_or_init(|| minors(&self.driver))
    }

    /// What a device plugin's device is. `Ok` of none: it is no accelerator.
    pub fn find(&self, resource: &str, id: &str) -> Result<Vec<AcceleratorId>, Unmapped> {
        // A plugin that shares devices puts the number of the share behind the name.
        let whole = id.split_once("::").map_or(id, |(whole, _)| whole);
        if let Some(found) = self.named(whole) {
            return Ok(found);
        }
        let vendor = resource.split_once('/').map_or("", |(vendor, _)| vendor);
        match vendor {
            "nvidia.com" => self.nvidia(whole),
            "amd.com" => self.amd(whole),
            "habana.ai" => Err(Unmapped::Absent),
            _ if is_uuid(whole, "GPU-") || is_uuid(whole, "MIG-") => Err(Unmapped::Absent),
            _ => Ok(Vec::new()),
        }
    }

    /// What a claim's device is. `Ok` of none: it is no accelerator.
    pub fn claimed(&self, claim: &ClaimDevice, slices: &Slices) -> Result<Vec<AcceleratorId>, Unmapped> {
        let ours = ["gpu.nvidia.com", "gpu.amd.com", "gaudi.intel.com"].contains(&claim.driver.as_str());
        let Some(name) = slices.get(claim) else {
            return if ours { Err(Unmapped::Slice) } else { Ok(Vec::new()) };
        };
        match self.named(name) {
            Some(found) => Ok(found),
            None if is_address(name) && ours => self.at(name),
            None if ours => Err(Unmapped::Absent),
            None => Ok(Vec::new()),
        }
    }

    /// By the name that it has here; one that is split is all of its parts.
    fn named(&self, name: &str) -> Option<Vec<AcceleratorId>> {
        let device = self.devices.iter().find(|device| device.id.as_str().eq_ignore_ascii_case(name))?;
        let parts: Vec<AcceleratorId> = self.parts(device).map(|part| part.id.clone()).collect();
        match parts.is_empty() {
            true if device.present => Some(vec![device.id.clone()]),
            true => None,
            false => Some(parts),
        }
    }

    fn parts<'a>(&'a self, whole: &'a Device) -> impl Iterator<Item = &'a Device> {
        self.devices.iter().filter(|part| part.present && part.parent.as_ref() == Some(&whole.id))
    }

    fn whole_at(&self, address: &str) -> Option<&Device> {
        let at = |device: &&Device| {
            let place = device.pci_address.as_deref();
            device.parent.is_none() && place.is_some_and(|place| same_address(place, address))
        };
        self.devices.iter().find(at)
    }

    /// One that is split has one address for several of its parts.
    fn at(&self, address: &str) -> Result<Vec<AcceleratorId>, Unmapped> {
        let whole = self.whole_at(address).ok_or(Unmapped::Absent)?;
        if self.parts(whole).next().is_some() { Err(Unmapped::Part) } else { Ok(vec![whole.id.clone()]) }
    }

    fn nvidia(&self, id: &str) -> Result<Vec<AcceleratorId>, Unmapped> {
        if is_uuid(id, "GPU-") || is_uuid(id, "MIG-") {
            return Err(Unmapped::Absent);
        }
        // Before drivers gave instances names of their own: MIG-GPU-<uuid>/<gi>/<ci>.
        if let Some((whole, gi, ci)) = old_instance(id) {
            let whole = self.devices.iter().find(|device| device.id.as_str().eq_ignore_ascii_case(whole));
            return self.part(whole.ok_or(Unmapped::Absent)?, gi, Some(ci));
        }
        let node = gke(id).ok_or(Unmapped::Shape)?;
        let is = |device: &&Device| {
            let named = |name: &str| {
                let by_place = device.pci_address.as_deref().is_some_and(|place| same_address(name, place));
                by_place || device.id.as_str() == name
            };
            device.parent.is_none()
                && self.nodes().iter().any(|(name, minor)| *minor == node.minor && named(name))
        };
        if self.nodes().is_empty() {
            return Err(Unmapped::Node);
        }
        let whole = self.devices.iter().find(is).ok_or(Unmapped::Absent)?;
        match node.gi {
            Some(gi) => self.part(whole, gi, None),
            None => self.named(whole.id.as_str()).ok_or(Unmapped::Absent),
        }
    }

    /// An instance of a device by the driver's numbers.
    fn part(&self, whole: &Device, gi: u32, ci: Option<u32>) -> Result<Vec<AcceleratorId>, Unmapped> {
        let parts: Vec<&Device> = self.parts(whole).collect();
        if parts.iter().any(|part| part.instance.is_none()) {
            return Err(Unmapped::Part);
        }
        let is = |part: &&&Device| {
            part.instance.is_some_and(|found| found.gi == gi && ci.is_none_or(|ci| found.ci == ci))
        };
        let found: BTreeSet<AcceleratorId> = parts.iter().filter(is).map(|part| part.id.clone()).collect();
        if found.is_empty() { Err(Unmapped::Absent) } else { Ok(found.into_iter().collect()) }
    }

    fn amd(&self, id: &str) -> Result<Vec<AcceleratorId>, Unmapped> {
        // A partition other than the first has no address of its own, and the address is the first one's then.
        if id.starts_with("amdgpu_xcp_") {
            return Err(Unmapped::Part);
        }
        if is_address(id) { self.at(id) } else { Err(Unmapped::Shape) }
    }
}

/// What GKE's plugin calls a device: `nvidia0`, `nvidia0/gi3`, each as a rule with `/vgpu5` where it is shared.
struct Gke {
    minor: u32,
    gi: Option<u32>,
}

fn gke(id: &str) -> Option<Gke> {
    let mut words = id.split('/');
    let minor = number(words.next()?.strip_prefix("nvidia")?)?;
    let mut word = words.next();
    let gi = match word.and_then(|word| word.strip_prefix("gi")) {
        Some(gi) => {
            word = words.next();
            Some(number(gi)?)
        }
        None => None,
    };
    if let Some(share) = word {
        number(share.strip_prefix("vgpu")?)?;
    }
    words.next().is_none().then_some(Gke { minor, gi })
}

fn old_instance(id: &str) -> Option<(&str, u32, u32)> {
    let mut words = id.strip_prefix("MIG-")?.split('/');
    let (whole, gi, ci) = (words.next()?, number(words.next()?)?, number(words.next()?)?);
    (is_uuid(whole, "GPU-") && words.next().is_none()).then_some((whole, gi, ci))
}

/// A small whole number as it would be written.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn is_uuid(text: &str, prefix: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let groups =
        text.strip_prefix(prefix).map(|rest| rest.split('-').collect::<Vec<_>>()).unwrap_or_default();
    let hex = |group: &str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    groups.len() == lengths.len()
        && groups.iter().zip(lengths).all(|(group, length)| group.len() == length && hex(group))
}

/// `0000:c1:00.0`
fn is_address(text: &str) -> bool {
    let shape: Vec<usize> = text.split([':', '.']).map(str::len).collect();
    shape == [4, 2, 2, 1] && text.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte))
}
