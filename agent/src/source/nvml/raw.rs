//! The few calls that nvml-wrapper does not make, or not in the way that is needed.
//!
//! Each checks that the library has the symbol, passes places of its own for results, and looks at them only
//! after success. What the answers mean is decided elsewhere.
#![expect(unsafe_code, reason = "calls into a C library, through the wrapper's table of its functions")]

use std::{
    ffi::{CStr, c_char, c_uint},
    ptr,
};

use nvml_wrapper::{
    Device, GpmSample, Nvml,
    error::{NvmlError, nvml_sym, nvml_try},
};
use nvml_wrapper_sys::bindings as sys;

/// NVML's header of CUDA 13.4 knows 477 metrics, the bindings 210, both at version 1 of the structure. A driver
/// that clears the whole of its own must find room for it.
const ROOM: usize = 512;

/// A request for metrics, as in NVML's header, with room to spare.
#[repr(C)]
struct MetricsGet {
    version: c_uint,
    count: c_uint,
    first: sys::nvmlGpmSample_t,
    second: sys::nvmlGpmSample_t,
    metrics: [sys::nvmlGpmMetric_t; ROOM],
}

/// Used again for every request: it is too large to be made anew for each.
pub(super) struct MetricsBuffer(Box<MetricsGet>);

const UNASKED: sys::nvmlGpmMetric_t = sys::nvmlGpmMetric_t {
    metricId: 0,
    nvmlReturn: sys::nvmlReturn_enum_NVML_SUCCESS,
    value: 0.0,
    metricInfo: sys::nvmlGpmMetric_t__bindgen_ty_1 {
        shortName: ptr::null_mut(),
        longName: ptr::null_mut(),
        unit: ptr::null_mut(),
    },
};

impl MetricsBuffer {
    pub(super) fn new() -> Self {
        Self(Box::new(MetricsGet {
            version: sys::NVML_GPM_METRICS_GET_VERSION,
            count: 0,
            first: ptr::null_mut(),
            second: ptr::null_mut(),
            metrics: [UNASKED; ROOM],
        }))
    }

    /// Asks for these metrics by their numbers and gives the answers in the same order.
    pub(super) fn get(
        &mut self,
        nvml: &Nvml,
        first: &GpmSample<'_>,
        second: &GpmSample<'_>,
        ids: &[u32],
    ) -> Result<impl Iterator<Item = Result<f64, NvmlError>>, NvmlError> {
        let call = nvml_sym(nvml.lib().nvmlGpmMetricsGet.as_ref())?;
        let asked = ids.len().min(ROOM);
        let request = &mut *self.0;
        request.count = c_uint::try_from(asked).map_err(|_| NvmlError::InvalidArg)?;
        for (metric, &id) in request.metrics.iter_mut().zip(ids) {
            *metric = sys::nvmlGpmMetric_t { metricId: id, ..UNASKED };
        }
        // SAFETY: the handles go no further than this call, during which both samples are borrowed.
        (request.first, request.second) = unsafe { (first.handle(), second.handle()) };
        // SAFETY: the structure begins as the header's does, says how many entries count, and is larger than
        // the header's; nothing else refers to it while the call lasts.
        nvml_try(unsafe { call((&raw mut *request).cast()) })?;
        Ok(request.metrics[..asked].iter().map(|metric| nvml_try(metric.nvmlReturn).map(|()| metric.value)))
    }
}

/// Takes a sample into one that was used before: of the device, or of its GPU instance with this number.
pub(super) fn sample_again(
    device: &Device<'_>,
    instance: Option<u32>,
    sample: &GpmSample<'_>,
) -> Result<(), NvmlError> {
    let lib = device.nvml().lib();
    // SAFETY: the handles go no further than this call, during which device and sample are borrowed.
    let (device, sample) = unsafe { (device.handle(), sample.handle()) };
    match instance {
        None => {
            let call = nvml_sym(lib.nvmlGpmSampleGet.as_ref())?;
            // SAFETY: both handles are valid: their owners are borrowed.
            nvml_try(unsafe { call(device, sample) })
        }
        Some(instance) => {
            let call = nvml_sym(lib.nvmlGpmMigSampleGet.as_ref())?;
            // SAFETY: as above.
            nvml_try(unsafe { call(device, instance, sample) })
        }
    }
}

/// Whether confidential computing is on for this host's devices.
pub(super) fn confidential(nvml: &Nvml) -> Result<bool, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlSystemGetConfComputeState.as_ref())?;
    let mut state = sys::nvmlConfComputeSystemState_st { environment: 0, ccFeature: 0, devToolsMode: 0 };
    // SAFETY: the call writes to the structure it is given, which outlives it.
    nvml_try(unsafe { call(&raw mut state) })?;
    Ok(state.ccFeature != 0)
}

/// More vGPUs than a device can have.
const MOST_VGPUS: c_uint = 256;

/// Longer than any name of a machine.
const VM_ID_BYTES: usize = 128;

/// UUIDs of the machines that have a vGPU of this device, in ascending order. Those that a hypervisor knows by a number
/// alone are left out.
pub(super) fn machines(device: &Device<'_>) -> Result<Vec<String>, NvmlError> {
    let lib = device.nvml().lib();
    let active = nvml_sym(lib.nvmlDeviceGetActiveVgpus.as_ref())?;
    let machine_of = nvml_sym(lib.nvmlVgpuInstanceGetVmID.as_ref())?;
    let mut count = MOST_VGPUS;
    let mut vgpus = [0; MOST_VGPUS as usize];
    // SAFETY: the handle's owner is borrowed; the call writes no more entries than `count` says there is room for.
    nvml_try(unsafe { active(device.handle(), &raw mut count, vgpus.as_mut_ptr()) })?;
    let mut machines = Vec::new();
    for vgpu in vgpus.into_iter().take(count as usize) {
        let mut text: [c_char; VM_ID_BYTES] = [0; VM_ID_BYTES];
        let (length, mut kind) = (VM_ID_BYTES as c_uint, sys::nvmlVgpuVmIdType_NVML_VGPU_VM_ID_DOMAIN_ID);
        // SAFETY: the call writes a text of at most `length` bytes and a number to places that outlive it.
        let told = nvml_try(unsafe { machine_of(vgpu, text.as_mut_ptr(), length, &raw mut kind) });
        // One that ended just now is none.
        if told.is_err() || kind != sys::nvmlVgpuVmIdType_NVML_VGPU_VM_ID_UUID {
            continue;
        }
        let bytes = text.map(|byte| byte.cast_unsigned());
        if let Ok(Ok(uuid)) = CStr::from_bytes_until_nul(&bytes).map(CStr::to_str) {
            machines.push(uuid.to_ascii_lowercase());
        }
    }
    machines.sort_unstable();
    machines.dedup();
    Ok(machines)
}

/// Number of the GPU instance that a MIG device is in.
pub(super) fn gpu_instance_id(device: &Device<'_>) -> Result<u32, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetGpuInstanceId.as_ref())?;
    let mut id: c_uint = 0;
    // SAFETY: the handle's owner is borrowed, and the call writes to a place that outlives it.
    nvml_try(unsafe { call(device.handle(), &raw mut id) })?;
    Ok(id)
}

/// Number of a MIG device's compute instance in its GPU instance.
pub(super) fn compute_instance_id(device: &Device<'_>) -> Result<u32, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetComputeInstanceId.as_ref())?;
    let mut id: c_uint = 0;
    // SAFETY: the handle's owner is borrowed, and the call writes to a place that outlives it.
    nvml_try(unsafe { call(device.handle(), &raw mut id) })?;
    Ok(id)
}

/// Whether a device has the GPU instance with this number. Needs the right to manage MIG.
pub(super) fn has_gpu_instance(device: &Device<'_>, id: u32) -> Result<bool, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetGpuInstanceById.as_ref())?;
    let mut instance: sys::nvmlGpuInstance_t = ptr::null_mut();
    // SAFETY: the handle's owner is borrowed, and the call writes to a place that outlives it.
    match nvml_try(unsafe { call(device.handle(), id, &raw mut instance) }) {
        Ok(()) => Ok(true),
        Err(NvmlError::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}
