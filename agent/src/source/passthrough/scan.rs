//! Accelerators on the PCI bus, and who drives them: from the kernel's memory, no device is asked.

use std::{collections::BTreeMap, fs, path::Path};

use weighbridge_meter::AcceleratorTable;

use crate::source::sysfs::{Function, link_name};

/// An accelerator and what it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) function: Function,
    /// The driver's name. `None`: no driver has it.
    pub(super) driver: Option<String>,
    /// Of a virtual function, the address of the device it is a part of.
    pub(super) parent: Option<String>,
}

impl Bound {
    /// Given to a virtual machine, or ready to be: `vfio-pci`, or a vendor's own driver of that kind, which are
    /// named like `nvgrace_gpu_vfio_pci`.
    pub(super) fn is_vfio(&self) -> bool {
        self.driver.as_ref().is_some_and(|driver| driver.replace('-', "_").ends_with("vfio_pci"))
    }
}

/// All accelerators on the bus, by address. Empty if there is no bus to be seen.
pub(super) fn scan(sysfs: &Path, table: &AcceleratorTable) -> BTreeMap<String, Bound> {
    let Ok(entries) = fs::read_dir(sysfs.join("bus/pci/devices")) else { return BTreeMap::new() };
    let bound = entries.filter_map(|entry| {
        let dir = entry.ok()?.path();
        let function = Function::read(&dir).filter(|function| is_accelerator(function, table))?;
        let driver = link_name(&dir.join("driver"));
        let parent = link_name(&dir.join("physfn"));
        Some((function.address.clone(), Bound { function, driver, parent }))
    });
    bound.collect()
}

/// A row of the table, or a display or processing device of a vendor of accelerators. That takes in some that only
/// draw: what was given away and could compute is not to be missed.
fn is_accelerator(function: &Function, table: &AcceleratorTable) -> bool {
    let kinds: &[u32] = match function.vendor() {
        "10de" => &[0x0300, 0x0302, 0x1200],
        "1002" => &[0x0300, 0x0302, 0x0380, 0x1200],
        "1da3" => &[0x0300, 0x0302, 0x1200],
        _ => &[],
    };
    kinds.contains(&function.kind()) || table.find(Some(&function.pci_device), "").is_some()
}
