//! Short recordings, looked at in several ways.

use std::fmt::Write;

use expect_test::{Expect, expect};

use super::*;

fn models() -> ReplayModels {
    ReplayModels {
        model: "NVIDIA H100 80GB HBM3".into(),
        of_gpu: BTreeMap::from([("1".to_owned(), "NVIDIA A10".to_owned())]),
        clock_mhz: None,
    }
}

fn parsed(text: &str) -> Result<Replay, ReplayError> {
    Replay::parse(text, &"node1".parse().expect("a name"), &models(), 10_000)
}

/// Looks at the given milliseconds, each from the one before.
fn check(text: &str, looks: &[u64], expected: Expect) {
    let replay = parsed(text).expect("a recording");
    let mut shown = String::new();
    for pair in looks.windows(2) {
        let [from, to] = pair else { continue };
        write!(shown, "{to}:").expect("string");
        for device in replay.look_between(*from, *to).devices {
            match device.state {
                DeviceState::Missing(cause) => write!(shown, " {cause}"),
                DeviceState::Read(reading) => write!(
                    shown,
                    " [{:?} mW, tensor {:?}, busy {:?}, {:?} MHz, {:?} mJ]",
                    reading.power_mw,
                    reading.activity.tensor.map(|ratio| ratio.billionths() / 1_000_000),
                    reading.busy.map(|ratio| ratio.billionths() / 1_000_000),
                    reading.sm_clock_mhz,
                    reading.energy_mj,
                ),
            }
            .expect("string");
        }
        shown.push('\n');
    }
    expected.assert_eq(&shown.replace("Some", ""));
}

#[test]
fn a_look_gives_the_mean_over_its_time_and_an_empty_field_is_not_zero() {
    check(
        "t_s,gpu,power_w,tensor_active,gpu_util_pct,energy_mj,other\n\
         0,0,100,0,,5,x\n\
         1,0,200,0.5,,,x\n\
         2,0,300,1,50,7,x\n\
         4,0,400,0,0,9,x\n",
        &[0, 2_000, 3_000, 4_000],
        expect![[r#"
            2000: [(250000) mW, tensor (750), busy (500), None MHz, (7) mJ]
            3000: [(400000) mW, tensor (0), busy (0), None MHz, None mJ]
            4000: [(400000) mW, tensor (0), busy (0), None MHz, (9) mJ]
        "#]],
    );
}

#[test]
fn what_was_not_recorded_for_longer_than_allowed_is_missing() {
    check(
        "t_s,gpu,power_w\n0,0,100\n1,0,100\n30,0,100\n31,0,100\n",
        &[0, 1_000, 5_000, 29_000, 30_000, 31_000, 40_000],
        expect![[r#"
            1000: [(100000) mW, tensor None, busy None, None MHz, None mJ]
            5000: read_failed
            29000: read_failed
            30000: read_failed
            31000: [(100000) mW, tensor None, busy None, None MHz, None mJ]
            40000: read_failed
        "#]],
    );
}

#[test]
fn without_tensor_activity_there_is_no_clock_and_the_tier_says_so() {
    let replay = parsed("t_s,gpu,power_w\n0,0,1\n1,0,1\n0,1,1\n1,1,1\n").expect("a recording");
    let devices: Vec<_> = replay
        .devices()
        .into_iter()
        .map(|device| (device.id.to_string(), device.name, device.tier))
        .collect();
    assert_eq!(
        devices,
        [
            ("node1/gpu0".to_owned(), "NVIDIA H100 80GB HBM3".to_owned(), Tier::D),
            ("node1/gpu1".to_owned(), "NVIDIA A10".to_owned(), Tier::D),
        ]
    );
    let replay = parsed("t_s,gpu,tensor_active\n0,0,0.1\n").expect("a recording");
    assert_eq!(replay.devices()[0].tier, Tier::C);
}

#[test]
fn a_bad_cell_is_named_with_line_and_column() {
    let shown = |text| parsed(text).expect_err("refused").to_string();
    expect![[r#"recording, line 3, column power_w: "much" is not a number of at least 0, or empty"#]]
        .assert_eq(&shown("t_s,gpu,power_w\n0,0,1\n1,0,much\n"));
    expect![[r#"recording, line 2, column t_s: "" is not seconds since the start"#]]
        .assert_eq(&shown("t_s,gpu\n,0\n"));
    expect![[r#"recording, line 1, column t_s: "" is not a column of the recording"#]]
        .assert_eq(&shown("seconds,gpu\n1,0\n"));
    expect![[r#"recording, line 2, column t_s: "" is not at least one row"#]].assert_eq(&shown("t_s,gpu\n"));
    expect![[r#"recording, line 2, column (all): "CSV error: record 1 (line: 2, byte: 8): found record with 3 fields, but the previous record has 2 fields" is not a row with as many fields as the header"#]].assert_eq(&shown("t_s,gpu\n1,0,7\n"));
}

#[test]
fn memory_and_traffic_are_means_over_the_time_looked_at() {
    let text = "t_s,gpu,dram_active,nvlink_tx_Bps,nvlink_rx_Bps,pcie_tx_Bps,pcie_rx_Bps\n\
                0,0,0,0,0,0,0\n1,0,0.2,1000,2000,10,20\n2,0,0.4,3000,2000,,20\n";
    let replay = parsed(text).expect("a recording");
    let states: Vec<DeviceState> =
        [(0, 2_000), (1_000, 2_000)].map(|(from, to)| replay.look_between(from, to).devices[0].state).into();
    let seen = states.iter().map(|state| match state {
        DeviceState::Read(reading) => {
            (reading.dram.map(|dram| dram.billionths()), reading.traffic, reading.busy, reading.activity)
        }
        DeviceState::Missing(cause) => panic!("{cause}"),
    });
    let traffic = |tx, pcie_tx| Traffic {
        nvlink_tx: Some(tx),
        nvlink_rx: Some(2000),
        pcie_tx,
        pcie_rx: Some(20),
        infiniband: None,
    };
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [
            (Some(300_000_000), traffic(2000, Some(10)), None, Activity::default()),
            (Some(400_000_000), traffic(3000, None), None, Activity::default()),
        ]
    );
    let shown = parsed("t_s,gpu,pcie_rx_Bps\n0,0,-5\n").expect_err("refused").to_string();
    expect![[r#"recording, line 2, column pcie_rx_Bps: "-5" is not a number of at least 0, or empty"#]]
        .assert_eq(&shown);
}
