//! From what a machine was given to the accelerators that it has, by where both sit.

use std::{collections::BTreeSet, path::Path};

use weighbridge_meter::{AcceleratorId, Condition};

use super::domain::Given;
use crate::source::{Device, mediated_in, physical_of};

/// What a device of the host that was given away is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// These accelerators, or a part of one.
    Of(BTreeSet<AcceleratorId>),
    /// A part of an accelerator that is split, of which it is not known which part.
    Split,
    /// No accelerator that is known here: a network card, a disk, the sound of a graphics card.
    Elsewhere,
}

/// Where a device is.
pub(super) fn place(given: &Given, sysfs: &Path, devices: &[Device]) -> Place {
    match given {
        Given::Function(address) => match at(address, devices) {
            here if !here.is_empty() => Place::Of(here.into_iter().map(|device| device.id.clone()).collect()),
            // A virtual function is a part of the physical one.
            _ => physical_of(sysfs, address).map_or(Place::Elsewhere, |parent| part_of(&parent, devices)),
        },
        Given::Mediated(uuid) => {
            let link = sysfs.join("bus/mdev/devices").join(uuid);
            let Some(function) = mediated_in(&link) else { return Place::Elsewhere };
            // Since Ampere the function that a mediated device is made of is a virtual one itself.
            let whole = physical_of(sysfs, &function).unwrap_or(function);
            part_of(&whole, devices)
        }
    }
}

/// A part of the accelerator at this address.
fn part_of(address: &str, devices: &[Device]) -> Place {
    let here = at(address, devices);
    if here.is_empty() {
        Place::Elsewhere
    } else if here.iter().any(|device| device.parent.is_some()) || here.len() > 1 {
        Place::Split
    } else {
        Place::Of(here.into_iter().map(|device| device.id.clone()).collect())
    }
}

/// What is metered at this address: instead of a device that is split, its instances.
fn at<'a>(address: &str, devices: &'a [Device]) -> Vec<&'a Device> {
    let metered = |device: &&Device| device.present && !device.conditions.contains(&Condition::Split);
    let sits = |device: &&Device| address_of(device).is_some_and(|own| own.eq_ignore_ascii_case(address));
    let split = |id: &AcceleratorId| devices.iter().any(|device| device.id == *id && sits(&device));
    let parts = |device: &&Device| device.parent.as_ref().is_some_and(split);
    devices.iter().filter(metered).filter(|device| sits(device) || parts(device)).collect()
}

/// Where a device sits: as it was found, or as it is named where nobody else names it.
fn address_of(device: &Device) -> Option<&str> {
    let named = || device.id.as_str().strip_prefix("pci:")?.rsplit_once('/').map(|(_, address)| address);
    device.pci_address.as_deref().or_else(named)
}
