//! Values as reports and resources give them, each brought to its accelerator and property.
//!
//! Property names are those of the DMTF's schemas and of NVIDIA's extensions to them, as its bmcweb writes them.
//! Deliberately absent: rows of a single engine or MIG instance. Percentages are of the whole GPU, whatever the
//! MIG mode, so the device stays whole.

use std::collections::HashMap;

use serde_json::Value;
use weighbridge_meter::UtcMillis;

use super::{
    quantity::{duration_us, moment, number, whole},
    tree::Gpu,
};

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Property {
    Tensor,
    Hmma,
    Imma,
    Dfma,
    Fp64,
    Fp32,
    Fp16,
    Integer,
    Sm,
    /// MHz.
    Clock,
    /// Part of the time with a kernel, in percent.
    Busy,
    /// Accumulated time with a kernel.
    BusyTime,
    /// Memory bandwidth in percent.
    Dram,
    /// Watts.
    Power,
    /// Since whenever, in joules.
    Energy,
    /// The same in kilowatt-hours.
    EnergyKwh,
    // Gbit/s.
    PcieTx,
    PcieRx,
    NvlinkDataTx,
    NvlinkDataRx,
    NvlinkRawTx,
    NvlinkRawRx,
}

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Said {
    /// Nothing: `nan`, `null`, empty.
    Nothing,
    /// A number in the unit of its property.
    Number(f64),
    /// A duration in microseconds.
    Micros(u64),
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Place of its accelerator in the offer.
    pub(super) gpu: usize,
    pub(super) property: Property,
    /// Of this NVLink port alone; `None`: of the whole device.
    pub(super) port: Option<String>,
    pub(super) said: Said,
    /// When the controller took it, by its own clock.
    pub(super) at: Option<UtcMillis>,
    /// The controller says that it is old.
    pub(super) stale: bool,
    /// The controller says that it renews it so often, in milliseconds.
    pub(super) interval_ms: Option<u64>,
}

/// Which resource belongs to which accelerator.
#[derive(Debug)]
pub(super) struct Places<'a> {
    resources: HashMap<String, (usize, Kind)>,
    gpus: HashMap<&'a str, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Processor,
    Environment,
    Memory,
    Sensor(Property),
}

impl<'a> Places<'a> {
    pub(super) fn of(gpus: &'a [Gpu]) -> Self {
        let mut resources = HashMap::new();
        let mut by_path = HashMap::new();
        for (index, gpu) in gpus.iter().enumerate() {
            by_path.insert(gpu.path.as_str(), index);
            // Where a resource is not linked, it is where all known firmware has it.
            let mut put = |path: String, kind| {
                resources.entry(path).or_insert((index, kind));
            };
            put(gpu.metrics.clone().unwrap_or(format!("{}/ProcessorMetrics", gpu.path)), Kind::Processor);
            put(
                gpu.environment.clone().unwrap_or(format!("{}/EnvironmentMetrics", gpu.path)),
                Kind::Environment,
            );
            put(format!("{}/MemorySummary/MemoryMetrics", gpu.path), Kind::Memory);
            for memory in &gpu.memory {
                put(format!("{memory}/MemoryMetrics"), Kind::Memory);
            }
            for (path, property) in &gpu.sensors {
                put(path.clone(), Kind::Sensor(*property));
            }
            for chassis in &gpu.chassis {
                // NVIDIA's names, in joules and watts; the memory's own sensors are called otherwise.
                let name = chassis.rsplit('/').next().unwrap_or_default();
                put(format!("{chassis}/Sensors/{name}_Power_0"), Kind::Sensor(Property::Power));
                put(format!("{chassis}/Sensors/{name}_Energy_0"), Kind::Sensor(Property::Energy));
            }
        }
        Self { resources, gpus: by_path }
    }

    /// What a `MetricProperty` is about, if it is about something that is metered; of a port, with its name.
    fn find(&self, metric_property: &str) -> Option<(usize, Property, Option<String>)> {
        let (resource, fragment) = metric_property.split_once('#').unwrap_or((metric_property, ""));
        let resource = resource.trim_end_matches('/');
        if let Some((gpu, kind)) = self.resources.get(resource) {
            return Some((*gpu, property(*kind, fragment)?, None));
        }
        let (gpu, port) = resource.strip_suffix("/Metrics")?.rsplit_once("/Ports/")?;
        let gpu = *self.gpus.get(gpu)?;
        let property = property(Kind::Processor, fragment).filter(|property| property.is_nvlink())?;
        Some((gpu, property, Some(port.to_owned())))
    }

    /// The rows of a metric report that are about these accelerators.
    /// `scheduled_ms`: how often the report is made, if its definition says so.
    pub(super) fn of_report(&self, report: &Value, scheduled_ms: Option<u64>, rows: &mut Vec<Row>) {
        let told_interval = |oem: &Value| {
            let millis = number(&oem["SensingIntervalMilliseconds"]).filter(|millis| *millis >= 1.0);
            millis.and_then(whole)
        };
        let whole_report = &report["Oem"]["Nvidia"];
        let interval_ms = told_interval(whole_report).or(scheduled_ms);
        let taken = moment(&report["Timestamp"]);
        for value in report["MetricValues"].as_array().into_iter().flatten() {
            let Some((gpu, property, port)) = value["MetricProperty"].as_str().and_then(|uri| self.find(uri))
            else {
                continue;
            };
            let own = &value["Oem"]["Nvidia"];
            rows.push(Row {
                gpu,
                property,
                port,
                said: said(property, &value["MetricValue"]),
                at: moment(&value["Timestamp"]).or(taken),
                stale: [own, whole_report].iter().any(|oem| oem["MetricValueStale"] == true),
                interval_ms: told_interval(own).or(interval_ms),
            });
        }
    }
}

/// The rows of an accelerator's own `ProcessorMetrics`: what NVIDIA adds to it first, then Dell, then the rest.
pub(super) fn of_processor_metrics(gpu: usize, metrics: &Value, rows: &mut Vec<Row>) {
    let oem = &metrics["Oem"];
    for object in [&oem["Nvidia"], &oem["Dell"], metrics] {
        of_object(gpu, object, Kind::Processor, rows);
    }
}

/// The rows of an accelerator's own `EnvironmentMetrics`.
pub(super) fn of_environment_metrics(gpu: usize, metrics: &Value, rows: &mut Vec<Row>) {
    of_object(gpu, metrics, Kind::Environment, rows);
}

fn of_object(gpu: usize, object: &Value, kind: Kind, rows: &mut Vec<Row>) {
    for (name, value) in object.as_object().into_iter().flatten() {
        let Some(property) = property(kind, name) else { continue };
        // A sensor's excerpt; what it counted over its life is the better total.
        let reading = match value {
            Value::Object(sensor) => match sensor.get("LifetimeReading").or(sensor.get("Reading")) {
                Some(reading) => reading,
                None => continue,
            },
            plain => plain,
        };
        let said = said(property, reading);
        let known =
            rows.iter().any(|row| row.gpu == gpu && row.property == property && row.said != Said::Nothing);
        if !known {
            rows.push(Row { gpu, property, port: None, said, at: None, stale: false, interval_ms: None });
        }
    }
}

fn said(property: Property, value: &Value) -> Said {
    if property == Property::BusyTime {
        return value.as_str().and_then(duration_us).map_or(Said::Nothing, Said::Micros);
    }
    number(value).map_or(Said::Nothing, Said::Number)
}

impl Property {
    pub(super) fn is_nvlink(self) -> bool {
        matches!(self, Self::NvlinkDataTx | Self::NvlinkDataRx | Self::NvlinkRawTx | Self::NvlinkRawRx)
    }

    /// Whether the board's power or energy follows from it.
    pub(super) fn is_energy(self) -> bool {
        matches!(self, Self::Power | Self::Energy | Self::EnergyKwh)
    }
}

/// What the property at the end of this path is, in a resource of this kind.
fn property(kind: Kind, fragment: &str) -> Option<Property> {
    let path = fragment.trim_start_matches('/');
    let name = ["Oem/Nvidia/", "Oem/Dell/"].iter().find_map(|oem| path.strip_prefix(oem)).unwrap_or(path);
    let name = name.strip_suffix("/LifetimeReading").or(name.strip_suffix("/Reading")).unwrap_or(name);
    Some(match (kind, name) {
        (Kind::Sensor(property), "") => property,
        (Kind::Memory, "BandwidthPercent") => Property::Dram,
        (Kind::Environment, "PowerWatts") => Property::Power,
        (Kind::Environment, "EnergyJoules") => Property::Energy,
        (Kind::Environment, "EnergykWh") => Property::EnergyKwh,
        (Kind::Processor, name) => match name {
            "TensorCoreActivityPercent" => Property::Tensor,
            "HMMAUtilizationPercent" => Property::Hmma,
            "IMMAUtilizationPercent" => Property::Imma,
            "DMMAUtilizationPercent" => Property::Dfma,
            "FP64ActivityPercent" => Property::Fp64,
            "FP32ActivityPercent" => Property::Fp32,
            "FP16ActivityPercent" => Property::Fp16,
            "IntegerActivityUtilizationPercent" => Property::Integer,
            "SMActivityPercent" => Property::Sm,
            "OperatingSpeedMHz" => Property::Clock,
            "BandwidthPercent" => Property::Busy,
            "AccumulatedGPUContextUtilizationDuration" => Property::BusyTime,
            "ConsumedPowerWatt" => Property::Power,
            "PCIeRawTxBandwidthGbps" => Property::PcieTx,
            "PCIeRawRxBandwidthGbps" => Property::PcieRx,
            "NVLinkDataTxBandwidthGbps" => Property::NvlinkDataTx,
            "NVLinkDataRxBandwidthGbps" => Property::NvlinkDataRx,
            "NVLinkRawTxBandwidthGbps" => Property::NvlinkRawTx,
            "NVLinkRawRxBandwidthGbps" => Property::NvlinkRawRx,
            _ => return None,
        },
        _ => return None,
    })
}
