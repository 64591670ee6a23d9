//! Files in which the kernel describes PCI functions. None of what is read here asks the device itself, so none
//! of it blocks or wakes anything.

use std::{fs, path::Path};

use weighbridge_meter::AcceleratorId;

/// A function of a device on the PCI bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// As in `0000:c1:00.0`.
    pub(super) address: String,
    /// As in `1002:74a1`.
    pub(super) pci_device: String,
    /// As in `0x120000`.
    pub(super) class: u32,
}

impl Function {
    /// The function whose files are in `dir`, which is called as its address. `None` if it is none, or not there.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let address = dir.file_name()?.to_str().filter(|name| is_address(name))?;
        let vendor = hex(&dir.join("vendor"))?;
        let device = hex(&dir.join("device"))?;
        let class = hex(&dir.join("class"))?;
        Some(Self { address: address.into(), pci_device: format!("{vendor:04x}:{device:04x}"), class })
    }

    /// Vendor as the bus knows it.
    pub(super) fn vendor(&self) -> &str {
        self.pci_device.split(':').next().unwrap_or_default()
    }

    /// Class and subclass, without the programming interface: `0x0302` is a 3D controller.
    pub(super) fn kind(&self) -> u32 {
        self.class >> 8
    }
}

/// What the file says, without the blanks around it. `None` if it cannot be read.
pub(super) fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The whole number that the file says.
pub(super) fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

/// The last part of where a link leads.
pub(crate) fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// The address of the physical function that a virtual one at this address is a part of.
pub(crate) fn physical_of(sysfs: &Path, address: &str) -> Option<String> {
    let link = sysfs.join("bus/pci/devices").join(address).join("physfn");
    link_name(&link).filter(|name| is_address(name))
}

/// The address of the function that a mediated device was made of: the folder in which this link says it lies.
pub(crate) fn mediated_in(link: &Path) -> Option<String> {
    let link = fs::read_link(link).ok()?;
    let mut above = link.iter().rev().skip(1).filter_map(|part| part.to_str());
    above.find(|part| is_address(part)).map(str::to_owned)
}

fn hex(path: &Path) -> Option<u32> {
    let text = text(path)?;
    u32::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
}

/// Whether this is how the kernel writes the address of a PCI function.
fn is_address(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let Some((slot, function)) = name.rsplit_once('.') else { return false };
    slot.split(':').count() == 3 && slot.split(':').all(digits) && digits(function)
}

/// The name of a device that has none of its own: where it is. `None` if that is too long for a name.
pub(super) fn id_by_address(host: &str, address: &str) -> Option<AcceleratorId> {
    format!("pci:{host}/{address}").parse().ok()
}
