//! GPM: samples, and metrics from pairs of them.
#![expect(
    unsafe_code,
    reason = "a C interface: exported names, and results written through callers' pointers"
)]

use std::{ffi::c_uint, slice, time::Duration};

use nvml_wrapper_sys::bindings as nvml;

use super::{INVALID, SUCCESS, UNSUPPORTED, code, give, handle, on_device, place, put};
use crate::{
    install::Fault,
    machine::{self, Card, Code, Node, Pair},
    script::{DMMA_TENSOR_UTIL, Device, Refusal},
};

/// NVIDIA's hard limit: closer pairs give invalid readings.
const SHORTEST_GPM_INTERVAL: Duration = Duration::from_millis(100);

const NO_DATA: Code = nvml::nvmlReturn_enum_NVML_ERROR_NO_DATA;

/// Metrics that came with the cumulative counters: older drivers do not know them.
fn is_new(id: u32) -> bool {
    id == DMMA_TENSOR_UTIL || (248..=260).contains(&id)
}

impl Pair<'_> {
    fn device(&self) -> &Device {
        match &self.node {
            Node::Card(card) | Node::Part(card, _) => &card.device,
        }
    }

    /// What the driver says to one metric, and its value.
    fn metric(&self, id: u32) -> (Code, f64) {
        let device = self.device();
        let (percent, traffic) = match &self.node {
            Node::Card(card) => (&card.device.gpm_percent, Some(&card.device.gpm_mib_per_s)),
            Node::Part(_, part) => (&part.instance.gpm_percent, None),
        };
        let value = match id {
            id if is_new(id) && device.cumulative.is_none() => None,
            248.. => self.node.cumulative(id, self.at),
            id => percent.metric(id).or_else(|| traffic?.metric(id)),
        };
        let switches = self.node.switches();
        let off = match &self.node {
            Node::Card(card) | Node::Part(card, _) => card.switches.has(Fault::StreamingOff),
        };
        match value {
            None => (UNSUPPORTED, 0.0),
            Some(_) if self.apart <= SHORTEST_GPM_INTERVAL => (NO_DATA, 0.0),
            Some(_) if switches.has(Fault::NoCompute) || switches.has(Fault::NoData) => (NO_DATA, 0.0),
            Some(_) if switches.has(Fault::Nan) => (SUCCESS, f64::NAN),
            Some(_) if off => (SUCCESS, 0.0),
            Some(value) => (SUCCESS, value),
        }
    }
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
        let pair = machine.sample_pair(place(first).ok_or(INVALID)?, place(second).ok_or(INVALID)?)?;
        // SAFETY: NVML's callers say in `numMetrics` how many entries they filled in.
        let metrics = unsafe {
            let start = (&raw mut (*request).metrics).cast::<nvml::nvmlGpmMetric_t>();
            slice::from_raw_parts_mut(start, wanted as usize)
        };
        let device = pair.device();
        if device.unknown_metric == Refusal::Call
            && device.cumulative.is_none()
            && metrics.iter().any(|metric| is_new(metric.metricId))
        {
            return Err(INVALID);
        }
        for metric in metrics {
            (metric.nvmlReturn, metric.value) = pair.metric(metric.metricId);
        }
        Ok(())
    };
    code(answer())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlGpmMigSampleGet(
    device: nvml::nvmlDevice_t,
    instance: c_uint,
    sample: nvml::nvmlGpmSample_t,
) -> Code {
    let answer = || {
        let machine = machine::machine()?;
        let instance = machine.gpu_instance(place(device).ok_or(INVALID)?, instance)?;
        machine.sample_take(instance, place(sample).ok_or(INVALID)?)
    };
    code(answer())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmQueryIfStreamingEnabled(device: nvml::nvmlDevice_t, state: *mut c_uint) -> Code {
    on_device(device, |card| {
        if card.switches.has(Fault::LostToStreaming) {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST);
        }
        let on = card.device.streaming.ok_or(UNSUPPORTED)? && !card.switches.has(Fault::StreamingOff);
        // SAFETY: NVML's callers pass a place for the result.
        unsafe { put(state, c_uint::from(on)) }
    })
}
