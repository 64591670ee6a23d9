//! What rows mean, look by look; and that no JSON whatever makes any of it panic.

use std::fmt::Write;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};
use weighbridge_meter::{AcceleratorTable, DeviceState, UtcMillis, reading::Reading, window::Counter};

use super::{
    identity,
    judge::Past,
    rows::{Places, Property, Row, Said, of_environment_metrics, of_processor_metrics},
    tree::Gpu,
};

/// Names that the scripts below use.
const NAMES: [(&str, Property); 12] = [
    ("tensor", Property::Tensor),
    ("sm", Property::Sm),
    ("clock", Property::Clock),
    ("busy", Property::Busy),
    ("time", Property::BusyTime),
    ("power", Property::Power),
    ("joules", Property::Energy),
    ("kwh", Property::EnergyKwh),
    ("pcie", Property::PcieTx),
    ("data", Property::NvlinkDataTx),
    ("raw", Property::NvlinkRawTx),
    ("dram", Property::Dram),
];

/// One look a line, `seconds: rows`, a row being `name=value@seconds of theirs`, with `/port` behind the name for
/// a port's, `!` at the end for one that is marked as old, `~seconds` for a told interval; values in seconds for
/// `time`.
fn check(script: &str, expected: Expect) {
    let mut past = Past::default();
    let mut shown = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (now, words) = line.split_once(':').expect("seconds: rows");
        let now_ms = now.parse::<u64>().expect("seconds") * 1000;
        let rows: Vec<Row> = words.split_whitespace().map(row).collect();
        let newest = rows.iter().filter_map(|row| row.at).max();
        let mine: Vec<&Row> = rows.iter().filter(|row| row.gpu == 0).collect();
        let state = past.judge(&mine, newest, now_ms, Some(1830));
        writeln!(shown, "{now}: {}", words_of(&state)).expect("string");
    }
    expected.assert_eq(&shown);
}

fn row(word: &str) -> Row {
    let stale = word.ends_with('!');
    let word = word.trim_end_matches('!');
    let (word, interval) = word.split_once('~').map_or((word, None), |(word, told)| (word, Some(told)));
    let (word, at) = word.split_once('@').map_or((word, None), |(word, at)| (word, Some(at)));
    let (name, value) = word.split_once('=').expect("name=value");
    let (name, port) = name.split_once('/').map_or((name, None), |(name, port)| (name, Some(port)));
    let other = name.strip_prefix("other-");
    let (_, property) = NAMES.into_iter().find(|(known, _)| *known == other.unwrap_or(name)).expect("a name");
    let number = value.parse::<f64>().expect("a number");
    let said = match property {
        _ if number.is_nan() => Said::Nothing,
        Property::BusyTime => Said::Micros(super::quantity::whole(number * 1e6).expect("small")),
        _ => Said::Number(number),
    };
    Row {
        gpu: usize::from(other.is_some()),
        property,
        port: port.map(ToOwned::to_owned),
        said,
        at: at.map(|seconds| UtcMillis(1_769_846_400_000 + seconds.parse::<i64>().expect("seconds") * 1000)),
        stale,
        interval_ms: interval.map(|seconds| seconds.parse::<u64>().expect("seconds") * 1000),
    }
}

fn words_of(state: &DeviceState) -> String {
    let Reading { sm_clock_mhz, assumed_clock_mhz, activity, busy, power_mw, dram, traffic, totals, .. } =
        match state {
            DeviceState::Missing(cause) => return cause.to_string(),
            DeviceState::Read(reading) => *reading,
        };
    let percent = |ratio: Option<weighbridge_meter::reading::Ratio>| {
        ratio.map(|it| u64::from(it.billionths()) / 10_000_000)
    };
    let parts = [
        ("tensor", percent(activity.tensor)),
        ("sm", percent(activity.sm)),
        ("MHz", sm_clock_mhz.map(u64::from)),
        ("assumed MHz", assumed_clock_mhz.map(u64::from)),
        ("busy", percent(busy)),
        ("dram", percent(dram)),
        ("mW", power_mw.map(u64::from)),
        ("NVLink B/s", traffic.nvlink_tx),
        ("PCIe B/s", traffic.pcie_tx),
        ("busy us", totals.get(Counter::BusyMicros)),
        ("uJ", totals.get(Counter::EnergyMicrojoules)),
    ];
    let known = parts.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    known.collect::<Vec<_>>().join(", ")
}

#[test]
fn rows_that_the_controller_marks_as_old_do_not_count() {
    check(
        "
        0: tensor=50@0! power=500@0
        30: tensor=50@30 power=500@30!
        60: tensor=50@60! power=500@60!
        90: tensor=50!
        ",
        expect![[r#"
            0: mW 500000
            30: tensor 50, assumed MHz 1830
            60: stale
            90: stale
        "#]],
    );
}

#[test]
fn a_value_that_is_not_renewed_from_look_to_look_is_stale_until_it_is() {
    check(
        "
        0: tensor=50@0 clock=1500@0
        30: tensor=50@0 clock=1500@0
        60: tensor=50@0 clock=1500@0
        90: tensor=60@88 clock=1500@88
        120: tensor=60@88 clock=1600@118
        ",
        expect![[r#"
            0: tensor 50, MHz 1500
            30: stale
            60: stale
            90: tensor 60, MHz 1500
            120: MHz 1600
        "#]],
    );
}

#[test]
fn a_value_that_is_renewed_less_often_than_looked_at_holds_until_a_renewal_is_overdue() {
    check(
        "
        0: tensor=10@0
        1: tensor=10@0
        5: tensor=20@5
        6: tensor=20@5
        9: tensor=20@5
        10: tensor=20@5
        11: tensor=30@11
        12: tensor=30@11
        13: tensor=30@11
        14: tensor=30@11
        15: tensor=30@11
        16: tensor=30@11
        17: tensor=30@11
        18: tensor=30@11
        19: tensor=30@11
        ",
        // Once is not enough to know how often that is.
        expect![[r#"
            0: tensor 10, assumed MHz 1830
            1: stale
            5: tensor 20, assumed MHz 1830
            6: stale
            9: stale
            10: stale
            11: tensor 30, assumed MHz 1830
            12: tensor 30, assumed MHz 1830
            13: tensor 30, assumed MHz 1830
            14: tensor 30, assumed MHz 1830
            15: tensor 30, assumed MHz 1830
            16: tensor 30, assumed MHz 1830
            17: tensor 30, assumed MHz 1830
            18: tensor 30, assumed MHz 1830
            19: stale
        "#]],
    );
}

#[test]
fn a_told_interval_lets_a_value_hold_from_the_start() {
    check(
        "
        0: tensor=10@0~60
        30: tensor=10@0~60
        60: tensor=10@0~60
        90: tensor=10@0~60
        ",
        expect![[r#"
            0: tensor 10, assumed MHz 1830
            30: tensor 10, assumed MHz 1830
            60: tensor 10, assumed MHz 1830
            90: stale
        "#]],
    );
}

#[test]
fn a_row_far_older_than_the_newest_beside_it_does_not_count() {
    check(
        "
        0: tensor=50@0 other-tensor=5@90
        30: tensor=50@1 other-tensor=5@120
        60: tensor=50@2 power=100@150
        ",
        expect![[r#"
            0: tensor 50, assumed MHz 1830
            30: stale
            60: mW 100000
        "#]],
    );
}

#[test]
fn a_controller_whose_clock_is_set_back_goes_on_being_read() {
    check(
        "
        0: tensor=50@86400
        30: tensor=60@3600
        60: tensor=70@3599
        90: tensor=80@3660
        ",
        expect![[r#"
            0: tensor 50, assumed MHz 1830
            30: tensor 60, assumed MHz 1830
            60: stale
            90: tensor 80, assumed MHz 1830
        "#]],
    );
}

#[test]
fn one_value_that_cannot_be_makes_the_whole_look_at_the_device_implausible() {
    check(
        "
        0: tensor=150@0 power=500@0
        30: tensor=-1@30
        60: tensor=100.4@60 clock=99999@60
        90: tensor=inf@90
        120: power=-5@120
        150: data/0=1@150 data/1=-1@150
        180: joules=-1@180
        210: tensor=100.4@210 clock=1500@210
        ",
        expect![[r#"
            0: implausible
            30: implausible
            60: implausible
            90: implausible
            120: implausible
            150: implausible
            180: implausible
            210: tensor 100, MHz 1500
        "#]],
    );
}

#[test]
fn a_device_without_rows_is_not_reported_and_one_with_empty_rows_could_not_be_read() {
    check(
        "
        0:
        30: tensor=nan@30 power=nan@30
        60: tensor=nan@60 busy=0@60 clock=0@60
        ",
        expect![[r#"
            0: not_reported
            30: read_failed
            60: busy 0
        "#]],
    );
}

#[test]
fn the_accumulated_busy_time_counts_once_it_runs_at_a_believable_pace() {
    check(
        "
        0: time=1000@0 busy=90@0
        30: time=1027@30 busy=90@30
        60: time=1027@60 busy=0@60
        ",
        expect![[r#"
            0: busy 90
            30: busy 90, busy us 1027000000
            60: busy 0, busy us 1027000000
        "#]],
    );
}

#[test]
fn an_accumulated_busy_time_in_another_scale_never_makes_a_busy_device_idle() {
    // Milliseconds that were written as nanoseconds: a million times too slow.
    check(
        "
        0: time=0.001000@0 sm=90@0
        30: time=0.001030@30 sm=90@30
        60: time=0.001060@60 sm=90@60
        ",
        expect![[r#"
            0: sm 90
            30: sm 90
            60: sm 90
        "#]],
    );
    // The other way round: too fast, and not believed again.
    check(
        "
        0: time=0@0 sm=90@0
        30: time=27@30 sm=90@30
        60: time=27000027@60 sm=90@60
        90: time=27000054@90 sm=90@90
        ",
        expect![[r#"
            0: sm 90
            30: sm 90, busy us 27000000
            60: sm 90
            90: sm 90
        "#]],
    );
}

#[test]
fn an_accumulated_busy_time_that_shows_no_pace_yet_is_not_used() {
    // Too fast to be believed and not fast enough to be refused; then as it should be.
    check(
        "
        0: time=1000@0 sm=90@0
        30: time=1050@30 sm=90@30
        60: time=1078@60 sm=90@60
        ",
        expect![[r#"
            0: sm 90
            30: sm 90
            60: sm 90, busy us 1078000000
        "#]],
    );
    // One and the same row twice.
    check(
        "
        0: time=1000@0~60 sm=90@0~60
        30: time=1000@0~60 sm=90@0~60
        ",
        expect![[r#"
            0: sm 90
            30: sm 90
        "#]],
    );
}

#[test]
fn an_accumulated_busy_time_that_is_renewed_seldom_is_measured_from_its_last_renewal() {
    check(
        "
        0: time=1000 sm=90
        110: time=1000 sm=90
        120: time=1110 sm=90
        ",
        expect![[r#"
            0: sm 90
            110: sm 90
            120: sm 90, busy us 1110000000
        "#]],
    );
    // What was old when it was first seen makes a jump, which is no reason to refuse it.
    check(
        "
        0: time=1000 sm=90
        10: time=1055 sm=90
        70: time=1110 sm=90
        ",
        expect![[r#"
            0: sm 90
            10: sm 90
            70: sm 90, busy us 1110000000
        "#]],
    );
}

#[test]
fn nobody_waits_longer_than_minutes_for_a_renewal_whether_it_is_told_or_was_seen() {
    check(
        "
        0: tensor=10@0~3600
        30: tensor=10@0~3600
        ",
        expect![[r#"
            0: tensor 10, assumed MHz 1830
            30: stale
        "#]],
    );
    check(
        "
        0: tensor=10@0
        400: tensor=20@400
        800: tensor=30@800
        830: tensor=30@800
        ",
        expect![[r#"
            0: tensor 10, assumed MHz 1830
            400: tensor 20, assumed MHz 1830
            800: tensor 30, assumed MHz 1830
            830: stale
        "#]],
    );
}

#[test]
fn a_look_within_a_second_of_the_one_before_says_nothing_of_the_interval_between_values() {
    let mut past = Past::default();
    // Without a moment, so that how far apart values are is known by the looks alone.
    let power = row("power=500");
    let stated = [0, 30_000, 30_999, 31_999].map(|now_ms| {
        past.judge(&[&power], None, now_ms, None);
        past.sample_ms()
    });
    // Where there is nothing to state, the inventory keeps what was stated before.
    assert_eq!(stated, [None, Some(30_000), None, Some(1000)]);
}

#[test]
fn joules_are_a_total_and_kilowatt_hours_only_where_there_is_no_power() {
    check(
        "
        0: joules=1000@0 power=500@0
        30: kwh=0.5@30 power=500@30
        60: kwh=0.5@60
        ",
        expect![[r#"
            0: mW 500000, uJ 1000000000
            30: mW 500000
            60: uJ 1800000000000
        "#]],
    );
}

#[test]
fn links_carry_gigabits_and_ports_make_a_sum_only_if_all_of_them_speak() {
    check(
        "
        0: pcie=8@0 data=1@0 raw=2@0
        30: raw=2@30 data/0=1@30
        60: data/0=1@60 data/1=3@60 raw/0=9@60
        90: data/0=1@90 data/1=3@90!
        120: data/0=1@120 data/1=nan@120 power=1@120
        ",
        expect![[r#"
            0: NVLink B/s 125000000, PCIe B/s 1000000000
            30: NVLink B/s 250000000
            60: NVLink B/s 500000000
            90: read_failed
            120: mW 1000
        "#]],
    );
}

fn gpu() -> Gpu {
    Gpu {
        id: "GPU-1".parse().expect("a name"),
        name: "NVIDIA B200".into(),
        pci_device: None,
        max_clock_mhz: None,
        power_limit_mw: None,
        memory_bytes: None,
        path: "/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_0".into(),
        metrics: None,
        environment: None,
        sensors: vec![("/redfish/v1/Chassis/X/Sensors/P".into(), Property::Power)],
        memory: vec!["/redfish/v1/Systems/HGX_Baseboard_0/Memory/GPU_0_DRAM_0".into()],
        chassis: vec!["/redfish/v1/Chassis/HGX_GPU_0".into()],
    }
}

#[test]
fn rows_are_told_by_the_resource_and_property_that_they_name() {
    let gpus = [gpu()];
    let processor = "/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_0";
    let found = |uri: &str| {
        let report = json!({"MetricValues": [{"MetricProperty": uri, "MetricValue": "1"}]});
        let mut rows = Vec::new();
        Places::of(&gpus).of_report(&report, None, &mut rows);
        rows.pop().map(|row| (row.property, row.port))
    };
    for (uri, expected) in [
        (
            format!("{processor}/ProcessorMetrics#/Oem/Nvidia/TensorCoreActivityPercent"),
            Some((Property::Tensor, None)),
        ),
        (format!("{processor}/ProcessorMetrics#/OperatingSpeedMHz"), Some((Property::Clock, None))),
        (format!("{processor}/EnvironmentMetrics#/PowerWatts/Reading"), Some((Property::Power, None))),
        (format!("{processor}/MemorySummary/MemoryMetrics#/BandwidthPercent"), Some((Property::Dram, None))),
        (
            format!("{processor}/Ports/NVLink_3/Metrics#/Oem/Nvidia/NVLinkDataTxBandwidthGbps"),
            Some((Property::NvlinkDataTx, Some("NVLink_3".to_owned()))),
        ),
        ("/redfish/v1/Chassis/HGX_GPU_0/Sensors/HGX_GPU_0_Power_0".into(), Some((Property::Power, None))),
        ("/redfish/v1/Chassis/HGX_GPU_0/Sensors/HGX_GPU_0_Energy_0".into(), Some((Property::Energy, None))),
        ("/redfish/v1/Chassis/X/Sensors/P".into(), Some((Property::Power, None))),
        // Its memory's clock and power, an engine of its, another processor.
        (
            "/redfish/v1/Systems/HGX_Baseboard_0/Memory/GPU_0_DRAM_0/MemoryMetrics#/OperatingSpeedMHz".into(),
            None,
        ),
        ("/redfish/v1/Chassis/HGX_GPU_0/Sensors/HGX_GPU_0_DRAM_0_Power_0".into(), None),
        (format!("{processor}/ProcessorMetrics#/Oem/Nvidia/NVDecInstanceUtilizationPercent/0"), None),
        (format!("{processor}/Ports/NVLink_3/Metrics#/OperatingSpeedMHz"), None),
        (
            "/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_01/ProcessorMetrics#/OperatingSpeedMHz"
                .into(),
            None,
        ),
        ("#".into(), None),
    ] {
        assert_eq!(found(&uri), expected, "{uri}");
    }
}

#[test]
fn what_a_report_says_of_all_its_rows_holds_for_those_that_say_nothing_of_it_themselves() {
    let gpus = [gpu()];
    let uri = "/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_0/ProcessorMetrics#/OperatingSpeedMHz";
    let told = |own: Value, whole: Value, scheduled_ms| {
        let mut value = json!({"MetricProperty": uri, "MetricValue": "1", "Oem": {"Nvidia": own}});
        value["Timestamp"] = own["At"].clone();
        let report = json!({"MetricValues": [value], "Timestamp": whole["At"], "Oem": {"Nvidia": whole}});
        let mut rows = Vec::new();
        Places::of(&gpus).of_report(&report, scheduled_ms, &mut rows);
        let row = rows.pop().expect("a row");
        (row.at.map(|at| at.0 % 60_000), row.stale, row.interval_ms)
    };
    let (first, second) = ("2026-06-29T08:05:01Z", "2026-06-29T08:05:02Z");
    let interval = |millis: u64| json!({"SensingIntervalMilliseconds": millis});
    for (own, whole, scheduled_ms, expected) in [
        (json!({}), json!({}), None, (None, false, None)),
        (json!({"At": first}), json!({"At": second}), None, (Some(1000), false, None)),
        (json!({}), json!({"At": second}), None, (Some(2000), false, None)),
        (json!({"MetricValueStale": true}), json!({}), None, (None, true, None)),
        (json!({}), json!({"MetricValueStale": true}), None, (None, true, None)),
        (interval(5), interval(6), Some(7), (None, false, Some(5))),
        (json!({}), interval(6), Some(7), (None, false, Some(6))),
        (interval(0), json!({}), Some(7), (None, false, Some(7))),
    ] {
        assert_eq!(told(own.clone(), whole.clone(), scheduled_ms), expected, "{own} in {whole}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("MetricValues".to_owned()),
        Just("MetricProperty".to_owned()),
        Just("MetricValue".to_owned()),
        Just("Timestamp".to_owned()),
        Just("Oem".to_owned()),
        Just("Nvidia".to_owned()),
        Just("PowerWatts".to_owned()),
        Just("Reading".to_owned()),
        Just("UUID".to_owned()),
        Just("Model".to_owned()),
        Just("SMActivityPercent".to_owned()),
        "[a-zA-Z@.]{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,24}".prop_map(Value::from),
        Just(json!(
            "/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_0/ProcessorMetrics#/BandwidthPercent"
        )),
        Just(json!("2026-06-29T08:05:19Z")),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_makes_anything_panic(value in any_json(), again in any_json(), later in 0_u64..1_000_000) {
        let gpus = [gpu()];
        let mut past = Past::default();
        for (value, now_ms) in [(&value, 0), (&again, later)] {
            let mut rows = Vec::new();
            Places::of(&gpus).of_report(value, Some(later), &mut rows);
            of_processor_metrics(0, value, &mut rows);
            of_environment_metrics(0, value, &mut rows);
            let newest = rows.iter().filter_map(|row| row.at).max();
            let mine: Vec<&Row> = rows.iter().collect();
            past.judge(&mine, newest, now_ms, None);
        }
        let _ = identity::accelerator_id(&value, "host", "/redfish/v1");
        let _ = identity::model_name(&AcceleratorTable::shipped(), &value);
        let _ = identity::pci_device(&value);
    }
}
