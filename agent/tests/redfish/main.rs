//! The Redfish source against controllers on loopback, through its real client.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod accounts;
mod engine;
mod hostile;
mod server;
mod tls;
mod trees;

use std::{fmt::Write, time::Duration};

use expect_test::{Expect, expect};
use serde_json::json;
use weighbridge_agent::source::{
    AcceleratorSource, Device, Look, RedfishOptions, RedfishSource, SourceState, redfish::Controller,
};
use weighbridge_meter::{DeviceState, GapCause, Source, Trust, reading::Ratio, window::Counter};

use self::{
    server::{Bmc, Odd},
    trees::{
        DELL_METRICS, ENVIRONMENT, FIRST, GPM, METRICS, PORTS, REPORTS, SECOND, Work, collection, dell, hgx,
        power_only, processor, renew, without_report,
    },
};

/// A source for these controllers, called node1 and so on, which waits long for what must answer.
fn source(controllers: &[&Bmc]) -> RedfishSource {
    RedfishSource::start(options(controllers))
}

fn options(controllers: &[&Bmc]) -> RedfishOptions {
    let controllers = controllers.iter().enumerate().map(|(index, bmc)| Controller {
        url: bmc.url().parse().unwrap(),
        host: format!("node{}", index + 1),
        user: None,
        password_file: None,
    });
    RedfishOptions {
        controllers: controllers.collect(),
        deadline: Duration::from_secs(30),
        discover_every: 20,
        ca_file: None,
        any_certificate: false,
    }
}

/// What a look shows of one device.
fn state(look: &Look, id: &str) -> String {
    let Some(device) = look.devices.iter().find(|device| device.id.as_str() == id) else {
        return "unheard of".into();
    };
    let reading = match device.state {
        DeviceState::Missing(cause) => return cause.to_string(),
        DeviceState::Read(reading) => reading,
    };
    let percent = |ratio: Option<Ratio>| ratio.map(|ratio| u64::from(ratio.billionths()) / 100_000);
    let parts = [
        ("tensor", percent(reading.activity.tensor)),
        ("hmma", percent(reading.activity.hmma)),
        ("imma", percent(reading.activity.imma)),
        ("dfma", percent(reading.activity.dfma)),
        ("fp64", percent(reading.activity.fp64)),
        ("fp32", percent(reading.activity.fp32)),
        ("sm", percent(reading.activity.sm)),
        ("busy", percent(reading.busy)),
        ("MHz", reading.sm_clock_mhz.map(u64::from)),
        ("assumed", reading.assumed_clock_mhz.map(u64::from)),
        ("mW", reading.power_mw.map(u64::from)),
        ("nvlink", reading.traffic.nvlink_tx),
        ("nvlink<", reading.traffic.nvlink_rx),
        ("pcie", reading.traffic.pcie_tx),
        ("pcie<", reading.traffic.pcie_rx),
        ("total us", reading.totals.get(Counter::BusyMicros)),
        ("total uJ", reading.totals.get(Counter::EnergyMicrojoules)),
    ];
    let known = parts.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    known.collect::<Vec<_>>().join(", ")
}

fn tensor(look: &Look, id: &str) -> String {
    state(look, id).split(',').next().unwrap().to_owned()
}

/// What a look says of the inventory.
fn inventory(look: &Look) -> String {
    let Some(devices) = &look.inventory_changed else { return "as before\n".into() };
    let mut shown = String::new();
    for device in devices {
        assert_eq!((device.source, device.trust), (Source::Redfish, Some(Trust::Bmc)));
        let Device { id, name, tier, sample_ms, .. } = device;
        let host = device.host.as_deref().unwrap();
        write!(shown, "{id} {name:?} on {host}: {tier}, {sample_ms} ms").unwrap();
        let limits = (device.max_sm_clock_mhz, device.power_limit_mw, device.memory_bytes);
        write!(shown, ", {limits:?}, {:?} {:?}", device.pci_device, device.conditions).unwrap();
        shown.push('\n');
    }
    shown
}

fn check(shown: String, expected: Expect) {
    expected.assert_eq(&shown);
}

#[tokio::test]
async fn reports_of_a_baseboard_give_every_gpu_with_one_request_for_all() {
    let bmc = Bmc::start(hgx()).await;
    let mut source = source(&[&bmc]);
    let look = source.look().await;
    check(
        inventory(&look),
        expect![[r#"
            GPU-00000000-0000-0000-0000-000000000001 "NVIDIA H100 80GB HBM3" on node1: B, 0 ms, (Some(1980), Some(700000), Some(85520809984)), None []
            GPU-00000000-0000-0000-0000-000000000002 "NVIDIA H100 80GB HBM3" on node1: B, 0 ms, (Some(1980), Some(700000), Some(85520809984)), None []
        "#]],
    );
    assert_eq!(look.source_state, SourceState::Ok);
    bmc.asked();

    renew(&bmc, 30, Work { tensor: 60, clock: 1600 });
    let look = source.look().await;
    check(
        state(&look, FIRST),
        expect![
            "tensor 6000, hmma 6000, imma 0, dfma 0, fp32 200, sm 9000, busy 9500, MHz 1600, mW 612345, nvlink 1000000000, nvlink< 1500000000, pcie 1000000000, total us 30500000, total uJ 19000000000"
        ],
    );
    check(
        state(&look, SECOND),
        expect![
            "tensor 600, hmma 600, imma 0, dfma 0, fp32 200, sm 9000, busy 9500, MHz 1600, mW 612345, nvlink 1000000000, nvlink< 1500000000, pcie 1000000000, total us 30500000, total uJ 19000000000"
        ],
    );
    assert_eq!(bmc.asked(), [GPM, METRICS, ENVIRONMENT, PORTS], "large ones last, nothing else");
    // Values are 30 seconds apart, as could not be known before.
    check(
        inventory(&look),
        expect![[r#"
            GPU-00000000-0000-0000-0000-000000000001 "NVIDIA H100 80GB HBM3" on node1: B, 30000 ms, (Some(1980), Some(700000), Some(85520809984)), None []
            GPU-00000000-0000-0000-0000-000000000002 "NVIDIA H100 80GB HBM3" on node1: B, 30000 ms, (Some(1980), Some(700000), Some(85520809984)), None []
        "#]],
    );
    renew(&bmc, 61, Work::default());
    assert_eq!(inventory(&source.look().await), "as before\n", "a second more or less is no news");
}

#[tokio::test]
async fn a_controller_without_reports_is_read_processor_by_processor() {
    let bmc = Bmc::start(dell()).await;
    let mut source = source(&[&bmc]);
    let look = source.look().await;
    check(
        inventory(&look),
        expect![[r#"
            GPU-00000000-0000-0000-0000-000000000001 "NVIDIA H100 80GB HBM3" on node1: B, 0 ms, (None, None, None), None []
        "#]],
    );
    check(
        state(&look, FIRST),
        expect![
            "tensor 4150, hmma 4000, sm 8800, busy 9900, MHz 1755, mW 650500, pcie 2000000000, pcie< 1000000000"
        ],
    );
    bmc.asked();
    source.look().await;
    assert_eq!(bmc.asked(), [DELL_METRICS]);
}

#[tokio::test]
async fn where_there_is_only_power_the_device_is_of_the_lowest_measured_tier() {
    let bmc = Bmc::start(power_only()).await;
    let look = source(&[&bmc]).look().await;
    // One serial number on two GPUs is neither's; the PCI device tells the model that the name does not.
    check(
        inventory(&look),
        expect![[r#"
            node1/redfish/v1/Systems/System.Embedded.1/Processors/GPU1 "ThinkSystem NVIDIA something" on node1: D, 0 ms, (None, None, None), Some("10de:2330") []
            node1/redfish/v1/Systems/System.Embedded.1/Processors/GPU2 "ThinkSystem NVIDIA something" on node1: D, 0 ms, (None, None, None), Some("10de:2330") []
        "#]],
    );
    check(state(&look, "node1/redfish/v1/Systems/System.Embedded.1/Processors/GPU1"), expect!["mW 350000"]);
}

#[tokio::test]
async fn what_the_reports_of_a_firmware_lack_is_read_of_each_processor() {
    let bmc = Bmc::start(hgx()).await;
    without_report(&bmc, METRICS);
    without_report(&bmc, PORTS);
    without_report(&bmc, ENVIRONMENT);
    let look = source(&[&bmc]).look().await;
    // The clock from the processor itself; its activity still from the report.
    check(
        state(&look, FIRST),
        expect![
            "tensor 5000, hmma 5000, imma 0, dfma 0, fp32 200, sm 9000, busy 1100, MHz 1200, mW 77500, pcie 1000000000"
        ],
    );

    let bmc = Bmc::start(hgx()).await;
    bmc.remove("/redfish/v1/TelemetryService");
    let look = source(&[&bmc]).look().await;
    check(state(&look, FIRST), expect!["tensor 725, sm 900, busy 1100, MHz 1200, mW 77500"]);
}

#[tokio::test]
async fn without_any_clock_that_of_the_table_is_assumed_and_said_so() {
    let bmc = Bmc::start(dell()).await;
    bmc.change(DELL_METRICS, |metrics| metrics["OperatingSpeedMHz"] = json!(null));
    let mut source = source(&[&bmc]);
    let look = source.look().await;
    check(
        inventory(&look),
        expect![[r#"
            GPU-00000000-0000-0000-0000-000000000001 "NVIDIA H100 80GB HBM3" on node1: C, 0 ms, (None, None, None), None [ClockAssumed]
        "#]],
    );
    assert!(state(&look, FIRST).contains("assumed 1830"), "{}", state(&look, FIRST));
    bmc.change(DELL_METRICS, |metrics| metrics["OperatingSpeedMHz"] = json!(1700));
    check(
        inventory(&source.look().await),
        expect![[r#"
            GPU-00000000-0000-0000-0000-000000000001 "NVIDIA H100 80GB HBM3" on node1: B, 0 ms, (None, None, None), None []
        "#]],
    );
}

#[tokio::test]
async fn rows_marked_as_old_leave_a_gap_and_so_do_moments_that_stand_still() {
    let bmc = Bmc::start(hgx()).await;
    let mut source = source(&[&bmc]);
    assert_eq!(tensor(&source.look().await, FIRST), "tensor 5000");
    assert_eq!(tensor(&source.look().await, FIRST), "stale", "nothing was renewed");
    renew(&bmc, 30, Work::default());
    for path in [GPM, METRICS, ENVIRONMENT, PORTS] {
        bmc.change(path, |report| {
            for row in report["MetricValues"].as_array_mut().unwrap() {
                let first = row["MetricProperty"].as_str().unwrap().contains("SXM_1");
                row["Oem"]["Nvidia"]["MetricValueStale"] = json!(first);
            }
        });
    }
    let look = source.look().await;
    assert_eq!((tensor(&look, FIRST), tensor(&look, SECOND)), ("stale".into(), "tensor 500".into()));
}

#[tokio::test]
async fn a_report_that_is_made_on_a_schedule_is_looked_at_as_often_as_one_likes() {
    let bmc = Bmc::start(hgx()).await;
    for path in [PORTS, ENVIRONMENT, METRICS] {
        without_report(&bmc, path);
    }
    bmc.put(
        "/redfish/v1/TelemetryService/MetricReportDefinitions/HGX_ProcessorGPMMetrics_0",
        json!({"MetricReportDefinitionType": "Periodic", "Schedule": {"RecurrenceInterval": "PT1M"}}),
    );
    let mut source = source(&[&bmc]);
    let look = source.look().await;
    assert_eq!(look.inventory_changed.as_ref().unwrap()[0].sample_ms, 60_000);
    for _ in 0..3 {
        assert_eq!(tensor(&source.look().await, FIRST), "tensor 5000");
    }
    // An interval of something that is not made by it says nothing.
    bmc.change(
        "/redfish/v1/TelemetryService/MetricReportDefinitions/HGX_ProcessorGPMMetrics_0",
        |definition| definition["MetricReportDefinitionType"] = json!("OnChange"),
    );
    let look = self::source(&[&bmc]).look().await;
    assert_eq!(look.inventory_changed.as_ref().unwrap()[0].sample_ms, 0);
}

#[tokio::test]
async fn a_value_that_cannot_be_is_implausible_for_its_device_alone() {
    let bmc = Bmc::start(hgx()).await;
    bmc.change(GPM, |report| report["MetricValues"][0]["MetricValue"] = json!("101.5"));
    let look = source(&[&bmc]).look().await;
    assert_eq!((tensor(&look, FIRST), tensor(&look, SECOND)), ("implausible".into(), "tensor 500".into()));
}

#[tokio::test]
async fn a_controller_that_goes_away_takes_its_own_devices_with_it_until_it_is_back() {
    let mut gone = Bmc::start(hgx()).await;
    let other = Bmc::start(dell()).await;
    other.change("/redfish/v1/Systems/System.Embedded.1/Processors/Video.Slot.21-1", |gpu| {
        gpu["UUID"] = json!("00000000-0000-0000-0000-000000000003");
    });
    let third = "GPU-00000000-0000-0000-0000-000000000003";
    let mut source = source(&[&gone, &other]);
    source.look().await;
    gone.go().await;
    let look = source.look().await;
    assert_eq!((tensor(&look, FIRST), tensor(&look, third)), ("unreachable".into(), "tensor 4150".into()));
    assert_eq!(look.source_state, SourceState::Ok, "the other one can still find accelerators");
    gone.come_back().await;
    renew(&gone, 60, Work::default());
    assert_eq!(tensor(&source.look().await, FIRST), "tensor 5000");
}

#[tokio::test]
async fn a_controller_that_was_never_reached_is_known_of_and_found_later() {
    let mut bmc = Bmc::start(hgx()).await;
    let mut source = source(&[&bmc]);
    bmc.go().await;
    let look = source.look().await;
    assert!(look.devices.is_empty() && look.inventory_changed.is_none());
    let SourceState::Missing(GapCause::Unreachable, detail) = &look.source_state else {
        panic!("{:?}", look.source_state);
    };
    assert!(detail.starts_with("the controller of node1: "), "{detail}");
    bmc.come_back().await;
    let look = source.look().await;
    assert_eq!((tensor(&look, FIRST), look.source_state), ("tensor 5000".into(), SourceState::Ok));
}

#[tokio::test]
async fn a_slow_controller_delays_nobody_and_its_late_answers_are_not_lost() {
    let slow = Bmc::start(hgx()).await;
    let other = Bmc::start(dell()).await;
    other.change("/redfish/v1/Systems/System.Embedded.1/Processors/Video.Slot.21-1", |gpu| {
        gpu["UUID"] = json!("00000000-0000-0000-0000-000000000003");
    });
    slow.odd(&processor(2), Odd::Hangs);
    let deadline = Duration::from_secs(2);
    let mut source = RedfishSource::start(RedfishOptions { deadline, ..options(&[&slow, &other]) });
    let began = tokio::time::Instant::now();
    let look = source.look().await;
    assert!(began.elapsed() < deadline * 2, "{:?}", began.elapsed());
    assert_eq!(tensor(&look, "GPU-00000000-0000-0000-0000-000000000003"), "tensor 4150");
    assert!(matches!(look.source_state, SourceState::Missing(GapCause::Unreachable, _)));
    slow.release();
    slow.asked();
    assert_eq!(tensor(&source.look().await, FIRST), "tensor 5000");
    let asked = slow.asked();
    assert_eq!(asked[0], processor(2), "goes on where it was: {asked:?}");

    // A device that is known is unreachable as long as its controller does not answer in time.
    slow.odd(GPM, Odd::Hangs);
    assert_eq!(tensor(&source.look().await, FIRST), "unreachable");
    slow.release();
    renew(&slow, 30, Work::default());
    assert_eq!(tensor(&source.look().await, FIRST), "tensor 5000");
}

#[tokio::test]
async fn looking_up_what_there_is_takes_no_time_from_reading_what_is_known() {
    let bmc = Bmc::start(hgx()).await;
    let deadline = Duration::from_secs(2);
    let mut source = RedfishSource::start(RedfishOptions { deadline, discover_every: 1, ..options(&[&bmc]) });
    source.look().await;
    bmc.odd(REPORTS, Odd::Hangs);
    renew(&bmc, 30, Work::default());
    assert_eq!(tensor(&source.look().await, FIRST), "tensor 5000");
}

#[tokio::test]
async fn a_look_that_is_dropped_leaves_the_next_one_whole() {
    let bmc = Bmc::start(hgx()).await;
    let mut source = source(&[&bmc]);
    for (seconds, path) in [(30, processor(1)), (60, GPM.to_owned())] {
        bmc.odd(&path, Odd::Hangs);
        let dropped = tokio::time::timeout(Duration::from_millis(300), source.look()).await;
        assert!(dropped.is_err());
        bmc.release();
        renew(&bmc, seconds, Work::default());
        assert_eq!(tensor(&source.look().await, FIRST), "tensor 5000");
    }
}

#[tokio::test]
async fn a_gpu_that_is_no_longer_named_stays_in_every_look_and_a_new_one_appears() {
    let bmc = Bmc::start(hgx()).await;
    let processors = "/redfish/v1/Systems/HGX_Baseboard_0/Processors";
    bmc.put(processors, collection(&[&processor(1)]));
    let mut source = RedfishSource::start(RedfishOptions { discover_every: 1, ..options(&[&bmc]) });
    let look = source.look().await;
    assert_eq!((tensor(&look, FIRST), tensor(&look, SECOND)), ("tensor 5000".into(), "unheard of".into()));
    bmc.put(processors, collection(&[&processor(2)]));
    // The look that finds it out still reads what was known; the next one follows.
    renew(&bmc, 30, Work::default());
    source.look().await;
    renew(&bmc, 60, Work::default());
    let look = source.look().await;
    assert_eq!((tensor(&look, FIRST), tensor(&look, SECOND)), ("not_reported".into(), "tensor 500".into()));
    assert_eq!(look.inventory_changed.unwrap().len(), 2);
}

#[tokio::test]
async fn a_gpu_that_reports_no_longer_mention_is_not_reported() {
    let bmc = Bmc::start(hgx()).await;
    let mut source = source(&[&bmc]);
    source.look().await;
    renew(&bmc, 30, Work::default());
    for path in [GPM, METRICS, ENVIRONMENT, PORTS] {
        bmc.change(path, |report| {
            let rows = report["MetricValues"].as_array_mut().unwrap();
            rows.retain(|row| row["MetricProperty"].as_str().unwrap().contains("SXM_2"));
        });
    }
    bmc.remove(&format!("{}/ProcessorMetrics", processor(1)));
    bmc.remove(&format!("{}/EnvironmentMetrics", processor(1)));
    let look = source.look().await;
    assert_eq!((tensor(&look, FIRST), tensor(&look, SECOND)), ("not_reported".into(), "tensor 500".into()));
}

#[tokio::test]
async fn a_gpu_that_two_controllers_name_is_read_through_one_of_them() {
    let (first, second) = (Bmc::start(dell()).await, Bmc::start(dell()).await);
    second.change(DELL_METRICS, |metrics| metrics["Oem"]["Nvidia"]["TensorCoreActivityPercent"] = json!(3));
    let mut source =
        RedfishSource::start(RedfishOptions { discover_every: 1, ..options(&[&first, &second]) });
    for _ in 0..2 {
        let look = source.look().await;
        assert_eq!((look.devices.len(), tensor(&look, FIRST)), (1, "tensor 4150".into()));
    }
    // It moves: the host goes with it.
    first.put("/redfish/v1/Systems/System.Embedded.1/Processors", collection(&[]));
    source.look().await;
    let look = source.look().await;
    assert_eq!(tensor(&look, FIRST), "tensor 300");
    assert_eq!(look.inventory_changed.unwrap()[0].host.as_deref(), Some("node2"));
}

#[tokio::test]
async fn a_baseboard_without_gpus_is_found_to_be_empty() {
    let bmc = Bmc::start(hgx()).await;
    bmc.put("/redfish/v1/Systems", collection(&[]));
    bmc.put(REPORTS, collection(&[]));
    let mut source = source(&[&bmc]);
    let look = source.look().await;
    assert_eq!((look.inventory_changed, look.source_state), (Some(Vec::new()), SourceState::Ok));
    assert_eq!(source.look().await.inventory_changed, None);
}
