//! Symbols about vGPUs. One is a number: the place of its device, and its own there.

use std::ffi::{c_char, c_uint};

use nvml_wrapper_sys::bindings as nvml;

use super::{INVALID, UNSUPPORTED, code, on_device, place, put, put_text};
use crate::machine::{self, Code, Node};

/// More than a device of any script has.
const PER_DEVICE: u32 = 1000;

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetActiveVgpus(
    device: nvml::nvmlDevice_t,
    count: *mut c_uint,
    vgpus: *mut nvml::nvmlVgpuInstance_t,
) -> Code {
    let place = place(device);
    on_device(device, |card| {
        let there = card.device.vgpus.as_ref().ok_or(UNSUPPORTED)?;
        let (place, needed) = (place.ok_or(INVALID)?, c_uint::try_from(there.len()).map_err(|_| INVALID)?);
        if count.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null; NVML's callers say there how many entries `vgpus` has room for.
        let room = unsafe { count.read() };
        // SAFETY: as above, the same place takes the number of entries.
        unsafe { put(count, needed)? };
        if room < needed {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
        }
        let first = u32::try_from(place).map_err(|_| INVALID)? * PER_DEVICE;
        for index in 0..needed {
            // SAFETY: there is room for as many entries as there are; null is refused by `put` for the first.
            unsafe { put(vgpus.wrapping_add(index as usize), first + index)? };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlVgpuInstanceGetVmID(
    vgpu: nvml::nvmlVgpuInstance_t,
    id: *mut c_char,
    size: c_uint,
    kind: *mut nvml::nvmlVgpuVmIdType_t,
) -> Code {
    let tell = || {
        let machine = machine::machine()?;
        let Node::Card(card) = machine.node((vgpu / PER_DEVICE) as usize)? else { return Err(INVALID) };
        let vgpus = card.device.vgpus.as_deref().unwrap_or_default();
        let vgpu = vgpus.get((vgpu % PER_DEVICE) as usize).ok_or(INVALID)?;
        let of_kind = match vgpu.parse::<u32>() {
            Ok(_) => nvml::nvmlVgpuVmIdType_NVML_VGPU_VM_ID_DOMAIN_ID,
            // It ended just now.
            Err(_) if vgpu.is_empty() => return Err(nvml::nvmlReturn_enum_NVML_ERROR_NOT_FOUND),
            Err(_) => nvml::nvmlVgpuVmIdType_NVML_VGPU_VM_ID_UUID,
        };
        // SAFETY: NVML's callers pass places for these results, the first of so many bytes.
        unsafe {
            put_text(id, size, vgpu)?;
            put(kind, of_kind)
        }
    };
    code(tell())
}
