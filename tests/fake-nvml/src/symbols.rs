//! NVML's own symbols, as far as the agent calls them.
//!
//! Handles are numbers dressed as pointers and are never followed: a device's is its place in the script
//! plus one, a sample's its slot plus one. So the only unsafe acts are reading and writing what callers point to.
#![expect(
    unsafe_code,
    reason = "a C interface: exported names, and results written through callers' pointers"
)]

use std::{
    ffi::{CStr, c_char, c_uint, c_ulonglong},
    ptr, slice,
    time::Duration,
};

use nvml_wrapper_sys::bindings as nvml;

use crate::{
    install::Fault,
    machine::{self, Card, Code},
};

const SUCCESS: Code = nvml::nvmlReturn_enum_NVML_SUCCESS;
const INVALID: Code = nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const UNSUPPORTED: Code = nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;

/// NVIDIA's hard limit: closer pairs give invalid readings.
const SHORTEST_GPM_INTERVAL: Duration = Duration::from_millis(100);

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

/// What a call on a device has in common: it needs the driver, a device, and a device that answers.
fn on_device(device: nvml::nvmlDevice_t, answer: impl FnOnce(&Card) -> Result<(), Code>) -> Code {
    let answer = || answer(machine::machine()?.card(place(device).ok_or(INVALID)?)?);
    code(answer())
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
    let answer = || unsafe { put_text(version, length, machine::machine()?.driver_version()) };
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
    // SAFETY: NVML's callers pass a buffer of that length.
    on_device(device, |card| unsafe { put_text(name, length, &card.device.name) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvml::nvmlDevice_t,
    uuid: *mut c_char,
    length: c_uint,
) -> Code {
    // SAFETY: NVML's callers pass a buffer of that length.
    on_device(device, |card| unsafe { put_text(uuid, length, &card.device.uuid) })
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
    let rates = |card: &Card| card.device.gpu_util.map(|gpu| nvml::nvmlUtilization_t { gpu, memory: 0 });
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
unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvml::nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> Code {
    on_device(device, |card| {
        let mode = c_uint::from(card.device.mig.ok_or(UNSUPPORTED)?);
        // SAFETY: NVML's callers pass places for the results.
        unsafe {
            put(current, mode)?;
            put(pending, mode)
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvml::nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvml::nvmlProcessInfo_t,
) -> Code {
    on_device(device, |card| {
        let pids = &card.device.pids;
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

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmQueryDeviceSupport(
    device: nvml::nvmlDevice_t,
    support: *mut nvml::nvmlGpmSupport_t,
) -> Code {
    let answer = |card: &Card| {
        Some(nvml::nvmlGpmSupport_t {
            version: nvml::NVML_GPM_SUPPORT_VERSION,
            isSupportedDevice: card.device.gpm.into(),
        })
    };
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give(device, support, answer) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmSampleAlloc(sample: *mut nvml::nvmlGpmSample_t) -> Code {
    // SAFETY: NVML's callers pass a place for the result.
    let answer = || unsafe { put(sample, handle(machine::machine()?.sample_alloc())) };
    code(answer())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlGpmSampleFree(sample: nvml::nvmlGpmSample_t) -> Code {
    let answer = || machine::machine()?.sample_free(place(sample).ok_or(INVALID)?);
    code(answer())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlGpmSampleGet(device: nvml::nvmlDevice_t, sample: nvml::nvmlGpmSample_t) -> Code {
    let answer =
        || machine::machine()?.sample_take(place(device).ok_or(INVALID)?, place(sample).ok_or(INVALID)?);
    code(answer())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmMetricsGet(request: *mut nvml::nvmlGpmMetricsGet_t) -> Code {
    let answer = || {
        if request.is_null() {
            return Err(INVALID);
        }
        // Callers with a header of another age have a longer or shorter array of metrics, so the request is
        // never taken as a whole.
        // SAFETY: not null; NVML's callers fill in these fields.
        let (version, wanted, first, second) = unsafe {
            (
                (&raw const (*request).version).read(),
                (&raw const (*request).numMetrics).read(),
                (&raw const (*request).sample1).read(),
                (&raw const (*request).sample2).read(),
            )
        };
        if version != nvml::NVML_GPM_METRICS_GET_VERSION {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        let machine = machine::machine()?;
        let (card, apart) =
            machine.sample_pair(place(first).ok_or(INVALID)?, place(second).ok_or(INVALID)?)?;
        let broken = card.has(Fault::Nan);
        // SAFETY: NVML's callers say in `numMetrics` how many entries they filled in.
        let metrics = unsafe {
            let start = (&raw mut (*request).metrics).cast::<nvml::nvmlGpmMetric_t>();
            slice::from_raw_parts_mut(start, wanted as usize)
        };
        for metric in metrics {
            (metric.nvmlReturn, metric.value) = match card.device.gpm_percent.metric(metric.metricId) {
                None => (UNSUPPORTED, 0.0),
                Some(_) if apart <= SHORTEST_GPM_INTERVAL => (nvml::nvmlReturn_enum_NVML_ERROR_NO_DATA, 0.0),
                Some(_) if broken => (SUCCESS, f64::NAN),
                Some(percent) => (SUCCESS, percent),
            };
        }
        Ok(())
    };
    code(answer())
}
