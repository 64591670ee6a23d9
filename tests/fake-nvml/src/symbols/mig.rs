//! MIG: which instances there are, and what they are.
#![expect(
    unsafe_code,
    reason = "a C interface: exported names, and results written through callers' pointers"
)]

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings as nvml;

use super::{INVALID, UNKNOWN, UNSUPPORTED, code, give, handle, on_device, on_node, place, put};
use crate::{
    install::Fault,
    machine::{self, Code, Node, Part},
};

/// As many as NVIDIA's devices have.
const MOST_INSTANCES: c_uint = 7;

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvml::nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> Code {
    on_device(device, |card| {
        if card.switches.has(Fault::Unnamed) {
            return Err(UNKNOWN);
        }
        let mode = c_uint::from(card.mig().ok_or(UNSUPPORTED)?);
        // SAFETY: NVML's callers pass places for the results.
        unsafe {
            put(current, mode)?;
            put(pending, mode)
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: nvml::nvmlDevice_t, count: *mut c_uint) -> Code {
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give(device, count, |card| card.mig().map(|_| MOST_INSTANCES)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvml::nvmlDevice_t,
    index: c_uint,
    instance: *mut nvml::nvmlDevice_t,
) -> Code {
    let answer = || {
        let found = machine::machine()?.instance_by_index(place(device).ok_or(INVALID)?, index as usize)?;
        // SAFETY: NVML's callers pass a place for the result.
        unsafe { put(instance, handle(found)) }
    };
    code(answer())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetGpuInstanceById(
    device: nvml::nvmlDevice_t,
    id: c_uint,
    instance: *mut nvml::nvmlGpuInstance_t,
) -> Code {
    let answer = || {
        let found = machine::machine()?.gpu_instance(place(device).ok_or(INVALID)?, id)?;
        // SAFETY: NVML's callers pass a place for the result.
        unsafe { put(instance, handle(found)) }
    };
    code(answer())
}

/// A call that gives one value of an instance.
///
/// # Safety
///
/// `out` is null or valid for writing.
unsafe fn give_of_instance<T>(
    device: nvml::nvmlDevice_t,
    out: *mut T,
    value: impl FnOnce(&Part) -> T,
) -> Code {
    on_node(device, |node| match node {
        Node::Card(_) => Err(UNSUPPORTED),
        // SAFETY: by this function's contract.
        Node::Part(_, part) => unsafe { put(out, value(part)) },
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetGpuInstanceId(device: nvml::nvmlDevice_t, id: *mut c_uint) -> Code {
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give_of_instance(device, id, |part| part.instance.gi) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeInstanceId(device: nvml::nvmlDevice_t, id: *mut c_uint) -> Code {
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give_of_instance(device, id, Part::ci) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetAttributes_v2(
    device: nvml::nvmlDevice_t,
    attributes: *mut nvml::nvmlDeviceAttributes_t,
) -> Code {
    let of = |part: &Part| nvml::nvmlDeviceAttributes_t {
        multiprocessorCount: part.sms(),
        sharedCopyEngineCount: 1,
        sharedDecoderCount: 0,
        sharedEncoderCount: 0,
        sharedJpegCount: 0,
        sharedOfaCount: 0,
        gpuInstanceSliceCount: part.instance.gi_slices,
        computeInstanceSliceCount: part.instance.ci_slices,
        memorySizeMB: part.instance.memory_mib,
    };
    // SAFETY: NVML's callers pass a place for the result.
    unsafe { give_of_instance(device, attributes, of) }
}
