//! NVML's own symbols, as far as the agent calls them.
//!
//! Handles are numbers dressed as pointers and are never followed: a device's is its place in the script
//! plus one (instances after devices), a sample's its slot plus one. So the only unsafe acts are reading and
//! writing what callers point to.
#![expect(
    unsafe_code,
    reason = "a C interface: exported names, and results written through callers' pointers"
)]

mod gpm;
mod mig;
mod vgpu;

use std::{
    ffi::{CStr, c_char, c_uint, c_ulonglong},
    ptr,
};

use nvml_wrapper_sys::bindings as nvml;

use crate::{
    install::Fault,
    machine::{self, Card, Code, Node},
};

const SUCCESS: Code = nvml::nvmlReturn_enum_NVML_SUCCESS;
const INVALID: Code = nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const UNSUPPORTED: Code = nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
const UNKNOWN: Code = nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN;

fn code(result: Result<(), Code>) -> Code {
    result.err().unwrap_or(SUCCESS)
}

/// The place behind a handle. `None` for the null handle.
fn place<T>(handle: *mut T) -> Option<usize> {
    handle.addr().checked_sub(1)
}

fn handle<T>(place: usize) -> *mut T {
    ptr::without_provenance_mut(place + 1)
}

/// Writes a result.
///
/// # Safety
///
/// `out` is null or valid for writing.
unsafe fn put<T>(out: *mut T, value: T) -> Result<(), Code> {
    if out.is_null() {
        return Err(INVALID);
    }
    // SAFETY: not null, so valid by this function's contract.
    unsafe { out.write(value) };
    Ok(())
}

/// Writes a text and its final zero.
///
/// # Safety
///
/// `out` is null or valid for writing `length` bytes.
unsafe fn put_text(out: *mut c_char, length: c_uint, text: &str) -> Result<(), Code> {
    if out.is_null() {
        return Err(INVALID);
    }
    if text.len() >= length as usize {
        return Err(nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
    }
    // SAFETY: not null, so valid for `length` bytes by this function's contract, and the text is shorter.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr(), out.cast::<u8>(), text.len());
        out.add(text.len()).write(0);
    }
    Ok(())
}

/// What a call on a device or instance has in common: it needs the driver, one of them, and one that answers.
fn on_node(device: nvml::nvmlDevice_t, answer: impl FnOnce(&Node<'_>) -> Result<(), Code>) -> Code {
    let answer = || answer(&machine::machine()?.node(place(device).ok_or(INVALID)?)?);
    code(answer())
}

/// The same for a call that instances do not have.
fn on_device(device: nvml::nvmlDevice_t, answer: impl FnOnce(&Card) -> Result<(), Code>) -> Code {
    on_node(device, |node| match node {
        Node::Card(card) => answer(card),
        Node::Part(..) => Err(UNSUPPORTED),
    })
}

/// A call that gives one value, if the script has it.
///
/// # Safety
///
/// `out` is null or valid for writing.
unsafe fn give<T>(device: nvml::nvmlDevice_t, out: *mut T, value: impl FnOnce(&Card) -> Option<T>) -> Code {
    on_device(device, |card| {
        let value = value(card).ok_or(UNSUPPORTED)?;
        // SAFETY: by this function's contract.
        unsafe { put(out, value) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> Code {
    machine::init()
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> Code {
    machine::shutdown()
}

#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(result: Code) -> *const c_char {
    let text: &'static CStr = match result {
        SUCCESS => c"Success",
        INVALID => c"Invalid Argument",
        UNSUPPORTED => c"Not Supported",
        nvml::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED => c"Uninitialized",
        nvml::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST => c"GPU is lost",
        nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED => c"Driver Not Loaded",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> Code {
    // SAFETY: NVML's callers pass a buffer of that length.
    let answer = || unsafe { put_text(version, length, &machine::machine()?.driver_version) };
    code(answer())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetConfComputeState(state: *mut nvml::nvmlConfComputeSystemState_t) -> Code {
    let answer = || {
        let on = machine::machine()?.confidential.ok_or(UNSUPPORTED)?;
        let value =
            nvml::nvmlConfComputeSystemState_t { environment: 0, ccFeature: on.into(), devToolsMode: 0 };
        // SAFETY: NVML's callers pass a place for the result.
        unsafe { put(state, value) }
    };
    code(answer())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Code {
    let answer = || {
        let devices = c_uint::try_from(machine::machine()?.count()).map_err(|_| INVALID)?;
        // SAFETY: NVML's callers pass a place for the result.
        unsafe { put(count, devices) }
    };
    code(answer())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvml::nvmlDevice_t) -> Code {
    let answer = || {
        let place = machine::machine()?.by_index(index as usize)?;
        // SAFETY: NVML's callers pass a place for the result.
        unsafe { put(device, handle(place)) }
    };
    code(answer())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvml::nvmlDevice_t) -> Code {
    let answer = || {
        if uuid.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null; NVML's callers pass a text that ends with zero.
        let uuid = unsafe { CStr::from_ptr(uuid) }.to_str().map_err(|_| INVALID)?;
        let place = machine::machine()?.by_uuid(uuid)?;
        // SAFETY: NVML's callers pass a place for the result.
        unsafe { put(device, handle(place)) }
    };
    code(answer())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(
    device: nvml::nvmlDevice_t,
    name: *mut c_char,
    length: c_uint,
) -> Code {
    on_node(device, |node| {
        let text = match node {
            Node::Card(card) => card.device.name.clone(),
            Node::Part(card, part) => format!("{} MIG {}g", card.device.name, part.instance.gi_slices),
        };
        // SAFETY: NVML's callers pass a buffer of that length.
        unsafe { put_text(name, length, &text) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvml::nvmlDevice_t,
    uuid: *mut c_char,
    length: c_uint,
) -> Code {
    on_node(device, |node| {
        let text = match node {
            Node::Card(card) => &card.device.uuid,
            Node::Part(_, part) if part.switches.has(Fault::Unnamed) => return Err(UNKNOWN),
            Node::Part(_, part) => &part.instance.uuid,
        };
        // SAFETY: NVML's callers pass a buffer of that length.
        unsafe { put_text(uuid, length, text) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(
    device: nvml::nvmlDevice_t,
    pci: *mut nvml::nvmlPciInfo_t,
) -> Code {
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give(device, pci, pci_info) }
}

/// `None` if the script has no address, or one that cannot be read.
fn pci_info(card: &Card) -> Option<nvml::nvmlPciInfo_t> {
    let bus_id = card.device.pci_bus_id.as_deref()?;
    let hexadecimal = |text: &str| u32::from_str_radix(text, 16).ok();
    let mut parts = bus_id.split([':', '.']).map(hexadecimal);
    let (domain, bus, slot) = (parts.next()??, parts.next()??, parts.next()??);
    let combined = match card.device.pci_device.as_deref() {
        Some(ids) => {
            let (vendor, model) = ids.split_once(':')?;
            hexadecimal(model)? << 16 | hexadecimal(vendor)?
        }
        None => 0,
    };
    let mut text = [0; 32];
    // One shorter than the buffer, so that a zero stays at the end.
    for (to, from) in text[..31].iter_mut().zip(bus_id.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    Some(nvml::nvmlPciInfo_t {
        busIdLegacy: [0; 16],
        domain,
        bus,
        device: slot,
        pciDeviceId: combined,
        pciSubSystemId: 0,
        busId: text,
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetArchitecture(
    device: nvml::nvmlDevice_t,
    architecture: *mut c_uint,
) -> Code {
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give(device, architecture, |card| card.device.architecture.map(|known| known.code())) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetNumGpuCores(device: nvml::nvmlDevice_t, cores: *mut c_uint) -> Code {
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give(device, cores, |card| card.device.num_cores) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetClockInfo(
    device: nvml::nvmlDevice_t,
    clock: nvml::nvmlClockType_t,
    mhz: *mut c_uint,
) -> Code {
    let sm = clock == nvml::nvmlClockType_enum_NVML_CLOCK_SM;
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give(device, mhz, |card| card.device.sm_clock_mhz.filter(|_| sm)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(
    device: nvml::nvmlDevice_t,
    clock: nvml::nvmlClockType_t,
    mhz: *mut c_uint,
) -> Code {
    let sm = clock == nvml::nvmlClockType_enum_NVML_CLOCK_SM;
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give(device, mhz, |card| card.device.max_sm_clock_mhz.filter(|_| sm)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: nvml::nvmlDevice_t,
    samples: *mut nvml::nvmlProcessUtilizationSample_t,
    count: *mut c_uint,
    _since: c_ulonglong,
) -> Code {
    on_device(device, |card| {
        let given = &card.device.process_percent;
        if given.is_empty() {
            return Err(UNSUPPORTED);
        }
        if count.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null; NVML's callers say there how many entries `samples` has room for.
        let room = unsafe { count.read() } as usize;
        let needed = c_uint::try_from(given.len()).map_err(|_| INVALID)?;
        // SAFETY: as above, the same place takes the number of entries.
        unsafe { put(count, needed)? };
        if samples.is_null() || room < given.len() {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
        }
        let now = c_ulonglong::try_from(machine::boot_time().as_micros()).map_err(|_| INVALID)?;
        for (index, &(pid, percent)) in given.iter().enumerate() {
            let sample = nvml::nvmlProcessUtilizationSample_t {
                pid,
                timeStamp: now,
                smUtil: percent,
                memUtil: 0,
                encUtil: 0,
                decUtil: 0,
            };
            // SAFETY: there is room for as many entries as are given.
            unsafe { put(samples.wrapping_add(index), sample)? };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSamples(
    device: nvml::nvmlDevice_t,
    kind: nvml::nvmlSamplingType_t,
    since: c_ulonglong,
    value_type: *mut nvml::nvmlValueType_t,
    count: *mut c_uint,
    samples: *mut nvml::nvmlSample_t,
) -> Code {
    on_device(device, |card| {
        let clocks = &card.device.clock_samples;
        if clocks.is_empty() || kind != nvml::nvmlSamplingType_enum_NVML_PROCESSOR_CLK_SAMPLES {
            return Err(UNSUPPORTED);
        }
        if count.is_null() {
            return Err(INVALID);
        }
        // The last of them now, a microsecond apart.
        let now = c_ulonglong::try_from(machine::boot_time().as_micros()).map_err(|_| INVALID)?;
        let at = |index: usize| now - (clocks.len() - 1 - index) as c_ulonglong;
        let new: Vec<(c_ulonglong, u32)> = clocks
            .iter()
            .enumerate()
            .map(|(index, &mhz)| (at(index), mhz))
            .filter(|(at, _)| *at > since)
            .collect();
        // SAFETY: not null; NVML's callers say there how many entries `samples` has room for.
        let room = unsafe { count.read() } as usize;
        let given = if samples.is_null() { new.len() } else { new.len().min(room) };
        let number = c_uint::try_from(given).map_err(|_| INVALID)?;
        // SAFETY: NVML's callers pass places for these results.
        unsafe {
            put(value_type, nvml::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT)?;
            put(count, number)?;
        }
        if samples.is_null() {
            return Ok(());
        }
        for (index, (at, mhz)) in new.into_iter().take(given).enumerate() {
            let sample = nvml::nvmlSample_t { timeStamp: at, sampleValue: nvml::nvmlValue_t { uiVal: mhz } };
            // SAFETY: there is room for as many entries as are given.
            unsafe { put(samples.wrapping_add(index), sample)? };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: nvml::nvmlDevice_t, milliwatts: *mut c_uint) -> Code {
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give(device, milliwatts, |card| card.device.power_mw) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetEnforcedPowerLimit(
    device: nvml::nvmlDevice_t,
    milliwatts: *mut c_uint,
) -> Code {
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give(device, milliwatts, |card| card.device.power_limit_mw) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(
    device: nvml::nvmlDevice_t,
    millijoules: *mut c_ulonglong,
) -> Code {
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give(device, millijoules, Card::energy_mj) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvml::nvmlDevice_t,
    utilization: *mut nvml::nvmlUtilization_t,
) -> Code {
    let rates = |card: &Card| {
        let gpu = card.device.gpu_util.filter(|_| card.mig() != Some(true))?;
        Some(nvml::nvmlUtilization_t { gpu, memory: 0 })
    };
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give(device, utilization, rates) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvml::nvmlDevice_t,
    memory: *mut nvml::nvmlMemory_v2_t,
) -> Code {
    on_device(device, |card| {
        let total = card.device.memory_bytes.ok_or(UNSUPPORTED)?;
        if memory.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null; NVML's callers fill in the version.
        let version = unsafe { (&raw const (*memory).version).read() };
        // SAFETY: NVML's callers pass a place for the result.
        unsafe { put(memory, nvml::nvmlMemory_v2_t { version, total, reserved: 0, free: total, used: 0 }) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvml::nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvml::nvmlProcessInfo_t,
) -> Code {
    on_node(device, |node| {
        let pids = match node {
            Node::Card(card) => &card.device.pids,
            Node::Part(_, part) => &part.instance.pids,
        };
        if count.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null; NVML's callers say there how many entries `infos` has room for.
        let room = unsafe { count.read() } as usize;
        let needed = c_uint::try_from(pids.len()).map_err(|_| INVALID)?;
        // SAFETY: as above, the same place takes the number of entries.
        unsafe { put(count, needed)? };
        if room < pids.len() {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
        }
        for (index, &pid) in pids.iter().enumerate() {
            // `c_uint::MAX` is how NVML says "no MIG instance".
            let info = nvml::nvmlProcessInfo_t {
                pid,
                usedGpuMemory: 0,
                gpuInstanceId: c_uint::MAX,
                computeInstanceId: c_uint::MAX,
            };
            // SAFETY: there is room for as many entries as there are processes; null is refused by `put`
            // for the first entry, before any other is computed from it.
            unsafe { put(infos.wrapping_add(index), info)? };
        }
        Ok(())
    })
}
