//! Which accelerator Slurm means by a number: its own order, which is that of no driver.
//!
//! Slurm counts the lines of its `gres.conf`, from 0 on. Those are as a rule in the order of the device nodes, whose
//! numbers NVIDIA's driver tells; where it does not, PCI addresses are, and else devices are as they were found.
//! A site whose order is another says so in its configuration.
//!
//! An accelerator that cannot be named keeps its number: the next one does not move up. Device nodes show which number
//! that is; where nothing does, no number means any until all can be named.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

use weighbridge_meter::AcceleratorId;

use crate::source::Device;

/// Where the order is from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OrderedBy {
    /// The configuration says it.
    Configuration,
    /// The numbers of device nodes.
    DeviceNode,
    /// PCI addresses.
    PciAddress,
    /// As they were found.
    #[default]
    Finding,
}

impl OrderedBy {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "holders.slurm_order",
            Self::DeviceNode => "the numbers of device nodes",
            Self::PciAddress => "PCI addresses",
            Self::Finding => "the order in which they were found",
        }
    }
}

/// The accelerators of this host in Slurm's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// By number; `None`: one that cannot be named.
    numbers: Vec<Option<AcceleratorId>>,
    /// All of them, also where no number means any.
    ids: Vec<AcceleratorId>,
    /// Parts by the device that they are of: where Slurm gives away the whole, it gives away its parts.
    parts: HashMap<AcceleratorId, Vec<AcceleratorId>>,
    by: OrderedBy,
}

impl Order {
    /// Of these devices, beside so many that cannot be named. `proc` is where the kernel shows drivers, `/proc`.
    pub fn of(devices: &[Device], unidentified: u32, configured: &[AcceleratorId], proc: &Path) -> Self {
        let mut parts: HashMap<AcceleratorId, Vec<AcceleratorId>> = HashMap::new();
        for device in devices.iter().filter(|device| device.present) {
            if let Some(parent) = &device.parent {
                parts.entry(parent.clone()).or_default().push(device.id.clone());
            }
        }
        if !configured.is_empty() {
            let numbers = configured.iter().cloned().map(Some).collect();
            return Self { numbers, ids: configured.to_vec(), parts, by: OrderedBy::Configuration };
        }
        let minors = minors(&proc.join("driver/nvidia/gpus"));
        let address = |device: &Device| {
            let whole = device.parent.as_ref();
            let whole = whole.and_then(|parent| devices.iter().find(|device| device.id == *parent));
            let device = whole.unwrap_or(device);
            let minor = minors.iter().find(|(name, _)| {
                let by_address =
                    device.pci_address.as_deref().is_some_and(|address| same_address(name, address));
                by_address || device.id.as_str() == name.as_str()
            });
            (minor.map(|(_, minor)| *minor), device.pci_address.clone())
        };
        // What was split is given away in parts.
        let mut counted: Vec<(Option<u32>, Option<String>, AcceleratorId)> = devices
            .iter()
            .filter(|device| device.present && !parts.contains_key(&device.id))
            .map(|device| {
                let (minor, address) = address(device);
                (minor, address, device.id.clone())
            })
            .collect();
        let by = if !counted.is_empty() && counted.iter().all(|(minor, ..)| minor.is_some()) {
            // The sort is stable: parts of one device stay as they were found.
            counted.sort_by_key(|(minor, ..)| *minor);
            OrderedBy::DeviceNode
        } else if !counted.is_empty() && counted.iter().all(|(_, address, _)| address.is_some()) {
            counted.sort_by(|(_, a, _), (_, b, _)| a.cmp(b));
            OrderedBy::PciAddress
        } else {
            OrderedBy::Finding
        };
        let ids: Vec<AcceleratorId> = counted.iter().map(|(.., id)| id.clone()).collect();
        let all: BTreeSet<u32> = minors.iter().map(|(_, minor)| *minor).collect();
        let has_device = |number: &u32| counted.iter().any(|(minor, ..)| *minor == Some(*number));
        let is_whole = |device: &Device| device.present && device.parent.is_none();
        let missing = !all.iter().all(has_device);
        let numbers = if by == OrderedBy::DeviceNode && devices.iter().all(is_whole) {
            let named = |number: &u32| counted.iter().find(|(minor, ..)| *minor == Some(*number));
            all.iter().map(|number| named(number).map(|(.., id)| id.clone())).collect()
        } else if unidentified > 0 || (by == OrderedBy::DeviceNode && missing) {
            // Nor does anybody know into how many parts one is split that cannot be named.
            Vec::new()
        } else {
            ids.iter().cloned().map(Some).collect()
        };
        Self { numbers, ids, parts, by }
    }

    /// Whether numbers mean any.
    pub fn has_numbers(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// Where it is from.
    pub fn by(&self) -> OrderedBy {
        self.by
    }

    /// The accelerators by number; `None` is one that cannot be named.
    pub fn numbers(&self) -> &[Option<AcceleratorId>] {
        &self.numbers
    }

    /// Those of a list such as `0,2-3` or `GPU-...,MIG-...`, and how many of the list are none of this host.
    pub fn find(&self, list: &str) -> (Vec<AcceleratorId>, usize) {
        let (mut found, mut unknown) = (Vec::new(), 0);
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let mut these: Vec<&AcceleratorId> = Vec::new();
            match numbers(word) {
                Some((first, last)) => {
                    for number in first..=last {
                        match self.numbers.get(number).and_then(Option::as_ref) {
                            Some(id) => these.push(id),
                            None => unknown += 1,
                        }
                    }
                }
                None => {
                    let named = |id: &&AcceleratorId| id.as_str().eq_ignore_ascii_case(word);
                    these.extend(self.ids.iter().chain(self.parts.keys()).find(named));
                    unknown += usize::from(these.is_empty());
                }
            }
            for id in these {
                match self.parts.get(id) {
                    Some(parts) => found.extend(parts.iter().cloned()),
                    None => found.push(id.clone()),
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        (found, unknown)
    }
}

/// As many accelerators as any host has.
const MOST: usize = 1024;

fn numbers(word: &str) -> Option<(usize, usize)> {
    let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number < MOST);
    match word.split_once('-') {
        None => number(word).map(|number| (number, number)),
        Some((first, last)) => number(first).zip(number(last)),
    }
}

/// PCI addresses are written with a domain of four digits or of eight, in either case.
pub(in crate::holders) fn same_address(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.eq_ignore_ascii_case(b)
}

/// Numbers of device nodes, each by PCI address and by UUID; none if one of them is not told.
pub(in crate::holders) fn minors(folder: &Path) -> Vec<(String, u32)> {
    let mut minors = Vec::new();
    for gpu in fs::read_dir(folder).into_iter().flatten().flatten().take(MOST) {
        let Ok(text) = fs::read_to_string(gpu.path().join("information")) else { return Vec::new() };
        let value = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let Some(minor) = value("Device Minor").and_then(|minor| minor.parse().ok()) else {
            return Vec::new();
        };
        minors.extend(gpu.file_name().into_string().ok().map(|address| (address, minor)));
        minors.extend(value("GPU UUID").map(|uuid| (uuid, minor)));
    }
    minors
}

#[cfg(test)]
mod tests {
    use weighbridge_meter::{Source, Tier};

    use super::*;

    fn device(id: &str, address: Option<&str>, parent: Option<&str>) -> Device {
        Device {
            pci_address: address.map(Into::into),
            parent: parent.map(|parent| parent.parse().expect("a name")),
            ..Device::new(id.parse().expect("a name"), "x", Source::Nvml, Tier::B)
        }
    }

    fn found(order: &Order, list: &str) -> String {
        let (ids, unknown) = order.find(list);
        let ids: Vec<&str> = ids.iter().map(AcceleratorId::as_str).collect();
        format!("{} and {unknown} unknown, by {}", ids.join("+"), order.by().as_str())
    }

    #[test]
    fn numbers_follow_device_nodes_where_the_driver_tells_them_and_else_addresses() {
        let dir = tempfile::tempdir().expect("a folder");
        let devices =
            [device("GPU-a", Some("0000:41:00.0"), None), device("GPU-b", Some("0000:01:00.0"), None)];
        let order = Order::of(&devices, 0, &[], dir.path());
        assert_eq!(found(&order, "0"), "GPU-b and 0 unknown, by PCI addresses");
        for (address, minor) in [("0000:41:00.0", 0), ("0000:01:00.0", 3)] {
            let folder = dir.path().join("driver/nvidia/gpus").join(address);
            fs::create_dir_all(&folder).expect("a folder");
            let text = format!("Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-x\nDevice Minor: \t {minor}\n");
            fs::write(folder.join("information"), text).expect("written");
        }
        let order = Order::of(&devices, 0, &[], dir.path());
        assert_eq!(found(&order, "0"), "GPU-a and 0 unknown, by the numbers of device nodes");
        assert_eq!(found(&order, "0-1"), "GPU-a+GPU-b and 0 unknown, by the numbers of device nodes");
        assert_eq!(found(&order, "1,7"), "GPU-b and 1 unknown, by the numbers of device nodes");
        let order = Order::of(&devices, 0, &["GPU-b".parse().expect("a name")], dir.path());
        assert_eq!(found(&order, "0"), "GPU-b and 0 unknown, by holders.slurm_order");
    }

    #[test]
    fn one_that_cannot_be_named_keeps_its_number() {
        let dir = tempfile::tempdir().expect("a folder");
        let devices =
            [device("GPU-a", Some("0000:01:00.0"), None), device("GPU-c", Some("0000:41:00.0"), None)];
        // Nothing shows which number it has; names are names.
        let order = Order::of(&devices, 1, &[], dir.path());
        assert_eq!(found(&order, "0-1,GPU-c"), "GPU-c and 2 unknown, by PCI addresses");
        let nodes = |nodes: &[(&str, u32)]| {
            for (address, minor) in nodes {
                let folder = dir.path().join("driver/nvidia/gpus").join(address);
                fs::create_dir_all(&folder).expect("a folder");
                let text = format!("GPU UUID: \t GPU-x\nDevice Minor: \t {minor}\n");
                fs::write(folder.join("information"), text).expect("written");
            }
        };
        nodes(&[("0000:01:00.0", 0), ("0000:21:00.0", 1), ("0000:41:00.0", 2)]);
        let by = "by the numbers of device nodes";
        let order = Order::of(&devices, 1, &[], dir.path());
        assert_eq!(found(&order, "0"), format!("GPU-a and 0 unknown, {by}"));
        assert_eq!(found(&order, "1-2"), format!("GPU-c and 1 unknown, {by}"));
        // It may be split, into as many parts as it likes.
        let split = [
            devices[0].clone(),
            device("MIG-1", None, Some("GPU-a")),
            device("MIG-2", None, Some("GPU-a")),
            devices[1].clone(),
        ];
        let order = Order::of(&split, 1, &[], dir.path());
        assert_eq!(found(&order, "0,MIG-1"), format!("MIG-1 and 1 unknown, {by}"));
        // What is configured is what it says.
        let order = Order::of(&devices, 1, &["GPU-c".parse().expect("a name")], dir.path());
        assert_eq!(found(&order, "0"), "GPU-c and 0 unknown, by holders.slurm_order");
    }

    #[test]
    fn a_node_that_cannot_be_read_is_no_order_while_something_has_no_name() {
        let dir = tempfile::tempdir().expect("a folder");
        for (address, text) in [("0000:01:00.0", "Device Minor: 0\n"), ("0000:21:00.0", "Model: x\n")] {
            let folder = dir.path().join("driver/nvidia/gpus").join(address);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("information"), text).expect("written");
        }
        let order = Order::of(&[device("GPU-a", Some("0000:01:00.0"), None)], 1, &[], dir.path());
        assert_eq!(found(&order, "0"), " and 1 unknown, by PCI addresses");
    }

    #[test]
    fn uuids_are_themselves_and_what_is_split_is_all_of_its_parts() {
        let devices = [
            device("GPU-a", None, None),
            device("MIG-1", None, Some("GPU-a")),
            device("MIG-2", None, Some("GPU-a")),
            device("GPU-b", None, None),
        ];
        let order = Order::of(&devices, 0, &[], "/nonexistent".as_ref());
        let by = "by the order in which they were found";
        assert_eq!(found(&order, "MIG-2,gpu-B"), format!("GPU-b+MIG-2 and 0 unknown, {by}"));
        assert_eq!(found(&order, "GPU-a"), format!("MIG-1+MIG-2 and 0 unknown, {by}"));
        assert_eq!(found(&order, "GPU-c,0-2"), format!("GPU-b+MIG-1+MIG-2 and 1 unknown, {by}"));
        assert_eq!(found(&order, "MIG-GPU-a/1/0,99999"), format!(" and 2 unknown, {by}"));
    }
}
