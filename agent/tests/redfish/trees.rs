//! Controllers of several kinds, in the shapes that their schemas and published sources give them.

use serde_json::{Value, json};

use crate::server::{Bmc, Tree};

pub(crate) const FIRST: &str = "GPU-00000000-0000-0000-0000-000000000001";
pub(crate) const SECOND: &str = "GPU-00000000-0000-0000-0000-000000000002";

pub(crate) const BASEBOARD: &str = "/redfish/v1/Systems/HGX_Baseboard_0";
pub(crate) const REPORTS: &str = "/redfish/v1/TelemetryService/MetricReports";
pub(crate) const GPM: &str = "/redfish/v1/TelemetryService/MetricReports/HGX_ProcessorGPMMetrics_0";
pub(crate) const METRICS: &str = "/redfish/v1/TelemetryService/MetricReports/HGX_ProcessorMetrics_0";
pub(crate) const PORTS: &str = "/redfish/v1/TelemetryService/MetricReports/HGX_ProcessorPortGPMMetrics_0";
pub(crate) const ENVIRONMENT: &str =
    "/redfish/v1/TelemetryService/MetricReports/HGX_PlatformEnvironmentMetrics_0";

pub(crate) fn collection(members: &[&str]) -> Value {
    let members: Vec<Value> = members.iter().map(|path| json!({"@odata.id": path})).collect();
    json!({"Members@odata.count": members.len(), "Members": members})
}

/// A moment of the controller's clock, in seconds.
pub(crate) fn moment(seconds: u32) -> String {
    format!("2026-06-29T08:{:02}:{:02}.250+00:00", seconds / 60, seconds % 60)
}

pub(crate) fn row(property: &str, value: &str, seconds: u32) -> Value {
    json!({
        "MetricProperty": property,
        "MetricValue": value,
        "Timestamp": moment(seconds),
        "Oem": {"Nvidia": {
            "@odata.type": "#NvidiaMetricReport.v1_0_0.NvidiaMetricReport",
            "MetricValueStale": false,
        }},
    })
}

fn report(path: &str, rows: Vec<Value>) -> Value {
    let name = path.rsplit('/').next().unwrap();
    let definition = format!("/redfish/v1/TelemetryService/MetricReportDefinitions/{name}");
    json!({
        "@odata.id": path,
        "@odata.type": "#MetricReport.v1_4_2.MetricReport",
        "Id": name,
        "MetricReportDefinition": {"@odata.id": definition},
        "MetricValues": rows,
        "Timestamp": null,
    })
}

pub(crate) fn processor(number: u32) -> String {
    format!("{BASEBOARD}/Processors/GPU_SXM_{number}")
}

/// An H100 of a baseboard: power sensor and energy sensor are named by its surroundings.
fn gpu(number: u32) -> Value {
    let path = processor(number);
    json!({
        "@odata.id": path,
        "@odata.type": "#Processor.v1_20_0.Processor",
        "Id": format!("GPU_SXM_{number}"),
        "ProcessorType": "GPU",
        "Manufacturer": "NVIDIA",
        "Model": "H100 80GB HBM3",
        "UUID": format!("00000000-0000-0000-0000-00000000000{number}"),
        "SerialNumber": format!("165012300000{number}"),
        "MaxSpeedMHz": 1980,
        "MemorySummary": {"TotalMemorySizeMiB": 81559},
        "Metrics": {"@odata.id": format!("{path}/ProcessorMetrics")},
        "EnvironmentMetrics": {"@odata.id": format!("{path}/EnvironmentMetrics")},
        "Links": {"Chassis": {"@odata.id": format!("/redfish/v1/Chassis/HGX_GPU_SXM_{number}")}},
        "Status": {"State": "Enabled", "Health": "OK"},
    })
}

/// An HGX baseboard with two H100 behind a host's controller, its second processor on a second page.
pub(crate) fn hgx() -> Tree {
    let mut tree = Tree::new();
    let mut put = |path: &str, value: Value| tree.insert(path.to_owned(), value);
    put(
        "/redfish/v1/",
        json!({
            "@odata.id": "/redfish/v1",
            "Systems": {"@odata.id": "/redfish/v1/Systems"},
            "TelemetryService": {"@odata.id": "/redfish/v1/TelemetryService"},
        }),
    );
    put("/redfish/v1/TelemetryService", json!({"MetricReports": {"@odata.id": REPORTS}}));
    let health = "/redfish/v1/TelemetryService/MetricReports/HGX_HealthMetrics_0";
    put(REPORTS, collection(&[PORTS, health, GPM, METRICS, ENVIRONMENT]));
    put(health, report(health, Vec::new()));
    put("/redfish/v1/Systems", collection(&["/redfish/v1/Systems/System_0", BASEBOARD]));
    for system in ["/redfish/v1/Systems/System_0", BASEBOARD] {
        put(system, json!({"Processors": {"@odata.id": format!("{system}/Processors")}}));
    }
    let cpu = "/redfish/v1/Systems/System_0/Processors/CPU_0";
    put("/redfish/v1/Systems/System_0/Processors", collection(&[cpu]));
    put(cpu, json!({"ProcessorType": "CPU", "UUID": "00000000-0000-0000-0000-0000000000cc"}));
    let mut page = collection(&[&processor(1)]);
    let next = format!("{BASEBOARD}/Processors?$skip=1");
    page["Members@odata.nextLink"] = json!(next);
    put(&format!("{BASEBOARD}/Processors"), page);
    put(&next, collection(&[&processor(2)]));
    for number in [1, 2] {
        put(&processor(number), gpu(number));
        let chassis = format!("/redfish/v1/Chassis/HGX_GPU_SXM_{number}/Sensors");
        put(
            &format!("{}/EnvironmentMetrics", processor(number)),
            json!({
                "PowerWatts": {"DataSourceUri": format!("{chassis}/HGX_GPU_SXM_{number}_Power_0"), "Reading": 77.5},
                "PowerLimitWatts": {"SetPoint": 700},
            }),
        );
        put(
            &format!("{}/ProcessorMetrics", processor(number)),
            json!({"OperatingSpeedMHz": 1200, "BandwidthPercent": 11, "Oem": {"Nvidia": {
                "@odata.type": "#NvidiaProcessorMetrics.v1_2_0.NvidiaGPUProcessorMetrics",
                "TensorCoreActivityPercent": 7.25, "SMActivityPercent": 9,
            }}}),
        );
    }
    for (path, value) in reports(0, Work::default()) {
        put(&path, value);
    }
    tree
}

/// What the first accelerator does; the second does a tenth of it.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) tensor: u32,
    pub(crate) clock: u32,
}

impl Default for Work {
    fn default() -> Self {
        Self { tensor: 50, clock: 1500 }
    }
}

/// The reports of a baseboard at this moment of its clock.
pub(crate) fn reports(seconds: u32, work: Work) -> Vec<(String, Value)> {
    let (mut gpm, mut metrics, mut environment, mut ports) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, part) in [(1, 1), (2, 10)] {
        let resource = format!("{}/ProcessorMetrics", processor(number));
        let of = |name: &str| format!("{resource}#/Oem/Nvidia/{name}");
        let tensor = f64::from(work.tensor) / f64::from(part);
        for (name, percent) in [
            ("TensorCoreActivityPercent", tensor),
            ("HMMAUtilizationPercent", tensor),
            ("IMMAUtilizationPercent", 0.0),
            ("DMMAUtilizationPercent", 0.0),
            ("FP32ActivityPercent", 2.0),
            ("SMActivityPercent", 90.0),
        ] {
            gpm.push(row(&of(name), &percent.to_string(), seconds));
        }
        gpm.push(row(&of("FP64ActivityPercent"), "nan", seconds));
        gpm.push(row(&of("NVDecInstanceUtilizationPercent/0"), "100", seconds));
        gpm.push(row(&of("PCIeRawTxBandwidthGbps"), "8", seconds));
        metrics.push(row(&format!("{resource}#/OperatingSpeedMHz"), &work.clock.to_string(), seconds));
        metrics.push(row(&format!("{resource}#/BandwidthPercent"), "95", seconds));
        metrics.push(row(
            &of("AccumulatedGPUContextUtilizationDuration"),
            &format!("PT{seconds}.5S"),
            seconds,
        ));
        metrics.push(row(&of("ThrottleReasons"), "NA", seconds));
        let sensors = format!("/redfish/v1/Chassis/HGX_GPU_SXM_{number}/Sensors/HGX_GPU_SXM_{number}");
        environment.push(row(&format!("{sensors}_Power_0"), "612.345", seconds));
        environment.push(row(&format!("{sensors}_DRAM_0_Power_0"), "70", seconds));
        environment.push(row(&format!("{sensors}_Energy_0"), &(1000 + 600 * seconds).to_string(), seconds));
        for port in ["NVLink_0", "NVLink_1"] {
            let resource = format!("{}/Ports/{port}/Metrics", processor(number));
            ports.push(row(&format!("{resource}#/Oem/Nvidia/NVLinkDataTxBandwidthGbps"), "4", seconds));
            ports.push(row(&format!("{resource}#/Oem/Nvidia/NVLinkRawRxBandwidthGbps"), "6", seconds));
        }
    }
    let all = [(GPM, gpm), (METRICS, metrics), (ENVIRONMENT, environment), (PORTS, ports)];
    all.into_iter().map(|(path, rows)| (path.to_owned(), report(path, rows))).collect()
}

/// Renews the reports that the controller has.
pub(crate) fn renew(bmc: &Bmc, seconds: u32, work: Work) {
    for (path, value) in reports(seconds, work) {
        if bmc.has(&path) {
            bmc.put(&path, value);
        }
    }
}

/// Takes a report out of the list and away.
pub(crate) fn without_report(bmc: &Bmc, report: &str) {
    bmc.remove(report);
    bmc.change(REPORTS, |reports| {
        reports["Members"].as_array_mut().unwrap().retain(|member| member["@odata.id"] != report);
    });
}

/// One system whose processors tell each for itself.
fn one_by_one(processors: &[(&str, Value)]) -> Tree {
    let system = "/redfish/v1/Systems/System.Embedded.1";
    let mut tree = Tree::new();
    tree.insert("/redfish/v1/".into(), json!({"Systems": {"@odata.id": "/redfish/v1/Systems"}}));
    tree.insert("/redfish/v1/Systems".into(), collection(&[system]));
    tree.insert(system.into(), json!({"Processors": {"@odata.id": format!("{system}/Processors")}}));
    let paths: Vec<String> =
        processors.iter().map(|(name, _)| format!("{system}/Processors/{name}")).collect();
    let members: Vec<&str> = paths.iter().map(String::as_str).collect();
    tree.insert(format!("{system}/Processors"), collection(&members));
    for (path, (_, value)) in paths.into_iter().zip(processors) {
        tree.insert(path, value.clone());
    }
    tree
}

pub(crate) const DELL_METRICS: &str =
    "/redfish/v1/Systems/System.Embedded.1/Processors/Video.Slot.21-1/ProcessorMetrics";

/// No reports for its GPU, but `ProcessorMetrics` with what NVIDIA and Dell add, as iDRAC has it.
pub(crate) fn dell() -> Tree {
    let video = json!({
        "Id": "Video.Slot.21-1",
        "ProcessorType": "GPU",
        "Manufacturer": "NVIDIA Corporation",
        "Model": "NVIDIA H100 80GB HBM3",
        "UUID": "00000000-0000-0000-0000-000000000001",
        "Metrics": {"@odata.id": DELL_METRICS},
    });
    let empty_slot = json!({"ProcessorType": "GPU", "Status": {"State": "Absent"}});
    let mut tree = one_by_one(&[("Video.Slot.21-1", video), ("Video.Slot.22-1", empty_slot)]);
    tree.insert(
        DELL_METRICS.into(),
        json!({
            "ConsumedPowerWatt": 650.5,
            "OperatingSpeedMHz": 1755,
            "BandwidthPercent": 99,
            "TemperatureCelsius": 61,
            "Oem": {
                "Dell": {"CurrentPCIeLinkSpeed": 5, "DRAMUtilizationPercent": 40, "SMActivityPercent": 1},
                "Nvidia": {
                    "TensorCoreActivityPercent": 41.5,
                    "HMMAUtilizationPercent": 40,
                    "SMActivityPercent": 88,
                    "PCIeRawTxBandwidthGbps": 16,
                    "PCIeRawRxBandwidthGbps": 8,
                    "ThrottleReasons": ["Idle"],
                },
            },
        }),
    );
    tree
}

/// Power and nothing else, of two GPUs under one serial number and with a name that the table does not know.
pub(crate) fn power_only() -> Tree {
    let path = |name: &str| format!("/redfish/v1/Systems/System.Embedded.1/Processors/{name}");
    let gpu = |name: &str| {
        json!({
            "ProcessorType": "GPU",
            "Model": "ThinkSystem NVIDIA something",
            "SerialNumber": "TRAY-7",
            "EnvironmentMetrics": {"@odata.id": format!("{}/EnvironmentMetrics", path(name))},
            "Links": {"PCIeFunctions": [{"@odata.id": "/redfish/v1/Chassis/1/PCIeDevices/slot/PCIeFunctions/1"}]},
        })
    };
    let mut tree = one_by_one(&[("GPU1", gpu("GPU1")), ("GPU2", gpu("GPU2"))]);
    tree.insert(
        "/redfish/v1/Chassis/1/PCIeDevices/slot/PCIeFunctions/1".into(),
        json!({"VendorId": "0x10DE", "DeviceId": "0x2330"}),
    );
    for name in ["GPU1", "GPU2"] {
        let metrics = json!({"PowerWatts": {"Reading": 350}, "EnergykWh": {"Reading": 1.25}});
        tree.insert(format!("{}/EnvironmentMetrics", path(name)), metrics);
    }
    tree
}
