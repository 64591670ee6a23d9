use std::fmt::Write;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weighbridge_meter::window::Counter;

use super::*;
use crate::source::{SourceState, exposition::samples};

const INTERVAL: Duration = Duration::from_secs(30);

/// A device of one exporter: labels that all its samples have, and its samples.
struct Gpu<'a>(&'a str, &'a [(&'a str, &'a str)]);

const H100: &str = "UUID=\"GPU-1\",modelName=\"NVIDIA H100 80GB HBM3\"";

/// Looks at moments given in seconds from the first.
struct Bench {
    desk: Desk,
    start: Instant,
    shown: String,
}

fn answer(gpus: &[Gpu<'_>]) -> Result<Answer, String> {
    let mut text = String::new();
    for Gpu(labels, fields) in gpus {
        for (name, value) in *fields {
            writeln!(text, "DCGM_FI_{name}{{{labels}}} {value}").expect("string");
        }
    }
    Ok(Answer::read(&mut samples(text.as_bytes()).map(|sample| sample.expect("a sample"))))
}

impl Bench {
    fn new() -> Self {
        Self { desk: Desk::new(INTERVAL), start: Instant::now(), shown: String::new() }
    }

    fn look(&mut self, seconds: u64, answers: Vec<Result<Answer, String>>) -> &mut Self {
        let look = self.desk.look(self.start + Duration::from_secs(seconds), answers);
        write!(self.shown, "{seconds}:").expect("string");
        for device in &look.devices {
            write!(self.shown, " {}=", device.id).expect("string");
            match device.state {
                DeviceState::Missing(cause) => write!(self.shown, "{cause}"),
                DeviceState::Read(reading) => {
                    let tensor = reading.activity.tensor.map(|ratio| ratio.billionths() / 1_000_000);
                    let clock = (reading.sm_clock_mhz, reading.assumed_clock_mhz);
                    write!(self.shown, "{tensor:?}@{clock:?}")
                }
            }
            .expect("string");
        }
        if let SourceState::Missing(cause, why) = &look.source_state {
            write!(self.shown, " [{cause}: {why}]").expect("string");
        }
        self.shown.push('\n');
        for device in look.inventory_changed.iter().flatten() {
            let Device { id, tier, units, present, conditions, .. } = device;
            let names: Vec<_> = conditions.iter().map(|condition| condition.as_str()).collect();
            writeln!(self.shown, "  {id} {tier} units {units:?} present {present} {names:?}")
                .expect("string");
        }
        self
    }

    fn gpus(&mut self, seconds: u64, gpus: &[Gpu<'_>]) -> &mut Self {
        self.look(seconds, vec![answer(gpus)])
    }

    fn shows(&self, expected: Expect) {
        expected.assert_eq(&self.shown.replace("Some", ""));
    }
}

#[test]
fn values_that_must_move_and_do_not_are_stale() {
    let frozen = [
        ("DEV_GPU_UTIL", "97"),
        ("DEV_POWER_USAGE", "612.5"),
        ("DEV_TOTAL_ENERGY_CONSUMPTION", "1000"),
        ("PROF_PIPE_TENSOR_ACTIVE", "0.5"),
        ("DEV_SM_CLOCK", "1980"),
    ];
    let mut renewed = frozen;
    renewed[2].1 = "2000";
    let mut bench = Bench::new();
    for seconds in [0, 30, 60, 90, 91] {
        bench.gpus(seconds, &[Gpu(H100, &frozen)]);
    }
    bench.gpus(92, &[Gpu(H100, &renewed)]).shows(expect![[r#"
        0: GPU-1=(500)@((1980), None)
          GPU-1 C units None present true []
        30: GPU-1=(500)@((1980), None)
        60: GPU-1=(500)@((1980), None)
        90: GPU-1=(500)@((1980), None)
        91: GPU-1=stale
        92: GPU-1=(500)@((1980), None)
    "#]]);
}

#[test]
fn a_frozen_exporter_is_noticed_on_an_idle_device_too_if_it_draws_power() {
    let shows = |fields: &[(&str, &str)], stale: bool| {
        let mut bench = Bench::new();
        bench.gpus(0, &[Gpu(H100, fields)]).gpus(600, &[Gpu(H100, fields)]);
        assert_eq!(bench.shown.contains("stale"), stale, "{}", bench.shown);
    };
    let (idle, power) = (("DEV_GPU_UTIL", "0"), ("DEV_POWER_USAGE", "68.1"));
    let energy = ("DEV_TOTAL_ENERGY_CONSUMPTION", "5000");
    shows(&[idle, power, energy], true);
    shows(&[("DEV_GPU_UTIL", "3"), energy], true);
    shows(&[("DEV_GPU_UTIL", "100"), power], true);
    // Without energy, an idle device may well look the same for hours; without either, a busy one too.
    shows(&[idle, power], false);
    shows(&[("DEV_GPU_UTIL", "100")], false);
}

#[test]
fn a_blank_now_and_then_does_not_change_what_a_device_is() {
    let full = [("PROF_PIPE_TENSOR_ACTIVE", "0.5"), ("DEV_SM_CLOCK", "1980"), ("DEV_GPU_UTIL", "50")];
    let coarse = [("DEV_SM_CLOCK", "1980"), ("DEV_GPU_UTIL", "50")];
    let no_clock = [("PROF_PIPE_TENSOR_ACTIVE", "0.5"), ("DEV_GPU_UTIL", "50")];
    let mut bench = Bench::new();
    bench.gpus(0, &[Gpu(H100, &full)]).gpus(30, &[Gpu(H100, &coarse)]).gpus(60, &[Gpu(H100, &no_clock)]);
    bench.gpus(120, &[Gpu(H100, &no_clock)]).gpus(121, &[Gpu(H100, &no_clock)]);
    bench.gpus(150, &[Gpu(H100, &coarse)]).gpus(240, &[Gpu(H100, &coarse)]);
    bench.shows(expect![[r#"
        0: GPU-1=(500)@((1980), None)
          GPU-1 C units None present true []
        30: GPU-1=None@((1980), None)
        60: GPU-1=(500)@(None, (1830))
        120: GPU-1=(500)@(None, (1830))
        121: GPU-1=(500)@(None, (1830))
          GPU-1 C units None present true ["clock_assumed"]
        150: GPU-1=None@((1980), None)
          GPU-1 C units None present true []
        240: GPU-1=None@((1980), None)
          GPU-1 D units None present true []
    "#]]);
}

#[test]
fn an_unknown_model_has_no_clock_to_assume() {
    let labels = "UUID=\"GPU-1\",modelName=\"NVIDIA Unheard Of\"";
    let mut bench = Bench::new();
    bench.gpus(0, &[Gpu(labels, &[("PROF_PIPE_TENSOR_ACTIVE", "0.5")])]).shows(expect![[r#"
        0: GPU-1=(500)@(None, None)
          GPU-1 C units None present true []
    "#]]);
}

const FIRST: &str =
    "UUID=\"GPU-1\",modelName=\"NVIDIA H100 80GB HBM3\",GPU_I_ID=\"1\",GPU_I_PROFILE=\"1g.10gb\"";
const SECOND: &str =
    "UUID=\"GPU-1\",modelName=\"NVIDIA H100 80GB HBM3\",GPU_I_ID=\"2\",GPU_I_PROFILE=\"3g.40gb\"";

#[test]
fn a_split_device_is_metered_through_its_instances_only() {
    let tensor = [("PROF_PIPE_TENSOR_ACTIVE", "0.5"), ("DEV_SM_CLOCK", "1980")];
    let mut bench = Bench::new();
    // Whole; split; with samples of its own beside those of instances; whole again.
    bench.gpus(0, &[Gpu(H100, &tensor)]);
    bench.gpus(30, &[Gpu(FIRST, &tensor), Gpu(SECOND, &tensor)]);
    bench.gpus(60, &[Gpu(FIRST, &tensor), Gpu(H100, &tensor), Gpu(SECOND, &tensor)]);
    bench.gpus(90, &[Gpu(H100, &tensor)]);
    bench.shows(expect![[r#"
        0: GPU-1=(500)@((1980), None)
          GPU-1 C units None present true []
        30: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None) GPU-1/gi2=(500)@((1980), None)
          GPU-1 D units None present false ["split"]
          GPU-1/gi1 C units (16) present true []
          GPU-1/gi2 C units (60) present true []
        60: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None) GPU-1/gi2=(500)@((1980), None)
        90: GPU-1=(500)@((1980), None) GPU-1/gi1=not_reported GPU-1/gi2=not_reported
          GPU-1 C units None present true []
          GPU-1/gi1 C units (16) present true []
          GPU-1/gi2 C units (60) present true []
    "#]]);
}

#[test]
fn an_instance_that_its_device_is_named_without_is_gone_after_a_while_and_a_silent_exporter_takes_none_away()
{
    let tensor = [("PROF_PIPE_TENSOR_ACTIVE", "0.5"), ("DEV_SM_CLOCK", "1980")];
    let both = [Gpu(FIRST, &tensor), Gpu(SECOND, &tensor)];
    let mut bench = Bench::new();
    bench.gpus(0, &both);
    for seconds in [600, 1200] {
        bench.look(seconds, vec![Err("gone".into())]);
    }
    for seconds in [1800, 2400] {
        bench.gpus(seconds, &[]);
    }
    for seconds in [3000, 3090, 3091] {
        bench.gpus(seconds, &[Gpu(FIRST, &tensor)]);
    }
    bench.gpus(3120, &both);
    bench.shows(expect![[r#"
        0: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None) GPU-1/gi2=(500)@((1980), None)
          GPU-1 D units None present false ["split"]
          GPU-1/gi1 C units (16) present true []
          GPU-1/gi2 C units (60) present true []
        600: GPU-1=unreachable GPU-1/gi1=unreachable GPU-1/gi2=unreachable [unreachable: gone]
        1200: GPU-1=unreachable GPU-1/gi1=unreachable GPU-1/gi2=unreachable [unreachable: gone]
        1800: GPU-1=not_reported GPU-1/gi1=not_reported GPU-1/gi2=not_reported
        2400: GPU-1=not_reported GPU-1/gi1=not_reported GPU-1/gi2=not_reported
        3000: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None) GPU-1/gi2=not_reported
        3090: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None) GPU-1/gi2=not_reported
        3091: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None) GPU-1/gi2=not_reported
          GPU-1 D units None present false ["split"]
          GPU-1/gi1 C units (16) present true []
          GPU-1/gi2 C units (60) present false []
        3120: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None) GPU-1/gi2=(500)@((1980), None)
          GPU-1 D units None present false ["split"]
          GPU-1/gi1 C units (16) present true []
          GPU-1/gi2 C units (60) present true []
    "#]]);
}

#[test]
fn another_profile_under_the_same_number_is_another_instance() {
    let tensor = [("PROF_PIPE_TENSOR_ACTIVE", "0.5"), ("DEV_SM_CLOCK", "1980")];
    let larger = FIRST.replace("1g.10gb", "2g.20gb");
    let mut bench = Bench::new();
    bench.gpus(0, &[Gpu(FIRST, &tensor)]).gpus(30, &[Gpu(&larger, &tensor)]);
    bench.gpus(60, &[Gpu(&larger, &tensor)]).shows(expect![[r#"
        0: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None)
          GPU-1 D units None present false ["split"]
          GPU-1/gi1 C units (16) present true []
        30: GPU-1=not_reported GPU-1/gi1=instance_recreated
          GPU-1 D units None present false ["split"]
          GPU-1/gi1 C units (32) present true []
        60: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None)
    "#]]);
}

#[test]
fn a_label_of_an_instance_without_text_makes_no_instance() {
    let tensor = [("PROF_PIPE_TENSOR_ACTIVE", "0.5"), ("DEV_SM_CLOCK", "1980")];
    let whole = FIRST.replace("\"1\"", "\"\"").replace("1g.10gb", "");
    let mut bench = Bench::new();
    bench.gpus(0, &[Gpu(&whole, &tensor)]).shows(expect![[r#"
        0: GPU-1=(500)@((1980), None)
          GPU-1 C units None present true []
    "#]]);
}

#[test]
fn an_instance_that_was_away_for_a_moment_is_not_gone_by_a_later_absence() {
    let tensor = [("PROF_PIPE_TENSOR_ACTIVE", "0.5"), ("DEV_SM_CLOCK", "1980")];
    let (first, both) = ([Gpu(FIRST, &tensor)], [Gpu(FIRST, &tensor), Gpu(SECOND, &tensor)]);
    let mut bench = Bench::new();
    bench.gpus(0, &both).gpus(30, &first).gpus(60, &both);
    bench.shown.clear();
    for seconds in [90, 180, 181] {
        bench.gpus(seconds, &first);
    }
    bench.shows(expect![[r#"
        90: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None) GPU-1/gi2=not_reported
        180: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None) GPU-1/gi2=not_reported
        181: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None) GPU-1/gi2=not_reported
          GPU-1 D units None present false ["split"]
          GPU-1/gi1 C units (16) present true []
          GPU-1/gi2 C units (60) present false []
    "#]]);
}

#[test]
fn an_instance_whose_exporter_is_silent_is_not_gone_because_another_names_its_device() {
    let tensor = [("PROF_PIPE_TENSOR_ACTIVE", "0.5"), ("DEV_SM_CLOCK", "1980")];
    let mut bench = Bench::new();
    let second = || answer(&[Gpu(SECOND, &tensor)]);
    bench.look(0, vec![answer(&[Gpu(FIRST, &tensor)]), second()]);
    bench.shown.clear();
    for seconds in [30, 600] {
        bench.look(seconds, vec![Err("gone".into()), second()]);
    }
    bench.shows(expect![[r#"
        30: GPU-1=not_reported GPU-1/gi1=unreachable GPU-1/gi2=(500)@((1980), None)
        600: GPU-1=not_reported GPU-1/gi1=unreachable GPU-1/gi2=(500)@((1980), None)
    "#]]);
}

#[test]
fn the_power_limit_is_that_with_which_a_device_was_found() {
    let mut desk = Desk::new(INTERVAL);
    let start = Instant::now();
    let mut limit = |seconds: u64, watts: &str, driver: &str| {
        let labels = format!("{H100},DCGM_FI_DRIVER_VERSION=\"{driver}\"");
        let fields = [("DEV_SM_CLOCK", "1980"), ("DEV_ENFORCED_POWER_LIMIT", watts)];
        let look = desk.look(start + Duration::from_secs(seconds), vec![answer(&[Gpu(&labels, &fields)])]);
        look.inventory_changed.map(|devices| devices[0].power_limit_mw)
    };
    assert_eq!(limit(0, "700", "1"), Some(Some(700_000)));
    assert_eq!(limit(30, "400", "1"), None, "no news");
    // Told again for another reason.
    assert_eq!(limit(60, "400", "2"), Some(Some(700_000)));
    let none = answer(&[Gpu(H100, &[("DEV_SM_CLOCK", "1980"), ("DEV_ENFORCED_POWER_LIMIT", "0")])]);
    let look = Desk::new(INTERVAL).look(start, vec![none]);
    assert_eq!(look.inventory_changed.map(|devices| devices[0].power_limit_mw), Some(None), "zero is none");
}

#[test]
fn an_instance_that_was_gone_comes_back_with_another_profile_and_nobody_missed_anything() {
    let tensor = [("PROF_PIPE_TENSOR_ACTIVE", "0.5"), ("DEV_SM_CLOCK", "1980")];
    let larger = FIRST.replace("1g.10gb", "2g.20gb");
    let second = [Gpu(SECOND, &tensor)];
    let mut bench = Bench::new();
    bench.gpus(0, &[Gpu(FIRST, &tensor), Gpu(SECOND, &tensor)]).gpus(30, &second).gpus(121, &second);
    bench.shown.clear();
    bench.gpus(150, &[Gpu(&larger, &tensor), Gpu(SECOND, &tensor)]).shows(expect![[r#"
        150: GPU-1=not_reported GPU-1/gi1=(500)@((1980), None) GPU-1/gi2=(500)@((1980), None)
          GPU-1 D units None present false ["split"]
          GPU-1/gi1 C units (32) present true []
          GPU-1/gi2 C units (60) present true []
    "#]]);
}

#[test]
fn instances_with_a_uuid_of_their_own_keep_it() {
    let tensor = [("PROF_PIPE_TENSOR_ACTIVE", "0.5"), ("DEV_SM_CLOCK", "1980")];
    let rest = "modelName=\"NVIDIA H100 80GB HBM3\",GPU_I_ID=\"1\",GPU_I_PROFILE=\"1g.10gb\"";
    let (new, old) = (format!("UUID=\"MIG-77\",{rest}"), format!("UUID=\"MIG-GPU-1/1/0\",{rest}"));
    let mut bench = Bench::new();
    bench.gpus(0, &[Gpu(&new, &tensor), Gpu(&old, &tensor)]).shows(expect![[r#"
        0: MIG-77=(500)@((1980), None) GPU-1=not_reported MIG-GPU-1/1/0=(500)@((1980), None)
          MIG-77 C units (16) present true []
          GPU-1 D units None present false ["split"]
          MIG-GPU-1/1/0 C units (16) present true []
    "#]]);
}

#[test]
fn totals_count_once_their_scale_is_known_and_not_before() {
    let looks = |per_sm: u64| {
        let mut desk = Desk::new(INTERVAL);
        let start = Instant::now();
        let mut told = Vec::new();
        for round in 0..=10_u64 {
            let elapsed = (45_000_000_000 * round + (1 << 50)) * per_sm;
            let (elapsed, tensor) = (elapsed.to_string(), (elapsed / 2).to_string());
            let fields = [
                ("DEV_SM_CLOCK", "1500"),
                ("PROF_SM_CYCLES_ELAPSED_TOTAL", elapsed.as_str()),
                ("PROF_MMA_CYCLES_ACTIVE_TOTAL", tensor.as_str()),
                ("PROF_DFMA_CYCLES_ACTIVE_TOTAL", "3960"),
                ("PROF_DMMA_CYCLES_ACTIVE_TOTAL", "1320"),
                ("PROF_PCIE_RX_BYTES_TOTAL", "77"),
            ];
            let at = start + INTERVAL * u32::try_from(round).expect("small");
            let look = desk.look(at, vec![answer(&[Gpu(H100, &fields)])]);
            let conditions = look.inventory_changed.map(|devices| devices[0].conditions.clone());
            let DeviceState::Read(reading) = look.devices[0].state else { panic!("read") };
            told.push((conditions, reading.totals));
        }
        told
    };
    use weighbridge_meter::window::Counter::*;
    let pcie = weighbridge_meter::Counters::default().with(PcieRxBytes, 77);
    for (per_sm, dfma) in [(1, 5280), (132, 40)] {
        let told = looks(per_sm);
        assert_eq!(told[0], (Some(vec![Condition::Calibrating]), pcie));
        assert_eq!(told[9], (None, pcie));
        let elapsed = 450_000_000_000 + (1 << 50);
        let totals = pcie.with(ElapsedCycles, elapsed).with(TensorCycles, elapsed / 2).with(DfmaCycles, dfma);
        assert_eq!(told[10], (Some(Vec::new()), totals), "of {per_sm}");
    }
    // Every TPC has two SMs.
    assert_eq!(looks(66)[10], (Some(vec![Condition::CountersRefused]), pcie));
}

/// Cycles elapsed by the counter, as far as a look can use it.
fn elapsed(look: &Look, place: usize) -> Option<u64> {
    match look.devices[place].state {
        DeviceState::Read(reading) => reading.totals.get(Counter::ElapsedCycles),
        DeviceState::Missing(_) => None,
    }
}

#[test]
fn a_scale_that_was_found_for_one_instance_is_not_used_for_another_of_its_number() {
    let larger = FIRST.replace("1g.10gb", "2g.20gb");
    let mut desk = Desk::new(INTERVAL);
    let start = Instant::now();
    let mut counted = |round: u32, labels: &str| {
        let total = (45_000_000_000 * u64::from(round) * 16).to_string();
        let fields = [("DEV_SM_CLOCK", "1500"), ("PROF_SM_CYCLES_ELAPSED_TOTAL", total.as_str())];
        elapsed(&desk.look(start + INTERVAL * round, vec![answer(&[Gpu(labels, &fields)])]), 1)
    };
    let first: Vec<_> = (0..=10).map(|round| counted(round, FIRST)).collect();
    assert_eq!(first.last(), Some(&Some(450_000_000_000)));
    assert_eq!([11, 12, 13].map(|round| counted(round, &larger)), [None; 3]);
}

#[test]
fn what_a_second_exporter_counts_does_not_disturb_the_scale_of_the_first() {
    let mut desk = Desk::new(INTERVAL);
    let start = Instant::now();
    let mut last = None;
    for round in 0..=10_u32 {
        let total = (45_000_000_000 * u64::from(round)).to_string();
        let of = |total: &str| {
            answer(&[Gpu(H100, &[("DEV_SM_CLOCK", "1500"), ("PROF_SM_CYCLES_ELAPSED_TOTAL", total)])])
        };
        last = elapsed(&desk.look(start + INTERVAL * round, vec![of(&total), of("7")]), 0);
    }
    assert_eq!(last, Some(450_000_000_000));
}

#[test]
fn of_two_exporters_that_name_a_device_the_first_that_answers_counts() {
    let of = |tensor| answer(&[Gpu(H100, &[("PROF_PIPE_TENSOR_ACTIVE", tensor), ("DEV_SM_CLOCK", "1980")])]);
    let mut bench = Bench::new();
    bench.look(0, vec![of("0.1"), of("0.2")]);
    bench.look(30, vec![Err("gone".into()), of("0.3")]);
    bench.look(60, vec![answer(&[]), Err("gone".into())]);
    bench.look(90, vec![of("0.4"), of("0.5")]);
    bench.look(120, vec![answer(&[]), Err("gone".into())]);
    bench.shows(expect![[r#"
        0: GPU-1=(100)@((1980), None)
          GPU-1 C units None present true []
        30: GPU-1=(300)@((1980), None)
        60: GPU-1=unreachable
        90: GPU-1=(400)@((1980), None)
        120: GPU-1=not_reported
    "#]]);
}

#[test]
fn what_cannot_be_is_a_gap_and_what_is_only_context_is_left_out() {
    let state = |fields: &[(&str, &str)]| {
        let look = Desk::new(INTERVAL).look(Instant::now(), vec![answer(&[Gpu(H100, fields)])]);
        look.devices[0].state
    };
    let gaps = [
        (("PROF_PIPE_TENSOR_ACTIVE", "1.5"), GapCause::Implausible),
        (("PROF_PIPE_TENSOR_ACTIVE", "-0.1"), GapCause::Implausible),
        (("DEV_GPU_UTIL", "102"), GapCause::Implausible),
        (("DEV_SM_CLOCK", "1980000000"), GapCause::Implausible),
        (("DEV_POWER_USAGE", "-1"), GapCause::Implausible),
        (("DEV_POWER_USAGE", "612000"), GapCause::Implausible),
        (("DEV_TOTAL_ENERGY_CONSUMPTION", "0.5"), GapCause::Implausible),
        (("PROF_PIPE_TENSOR_ACTIVE", "NaN"), GapCause::ReadFailed),
        (("DEV_XID_ERRORS", "31"), GapCause::ReadFailed),
        (("DEV_XID_ERRORS", "79"), GapCause::DeviceLost),
    ];
    for (field, cause) in gaps {
        assert_eq!(state(&[field]), DeviceState::Missing(cause), "{field:?}");
    }
    let busy = |name, value| match state(&[(name, value)]) {
        DeviceState::Read(reading) => reading.busy.map(|ratio| ratio.billionths() / 10_000_000),
        DeviceState::Missing(_) => None,
    };
    assert_eq!(busy("DEV_GPU_UTIL", "1"), Some(1));
    // Percent in 4.6, a fraction in 4.7.
    assert_eq!(busy("DEV_GPU_UTIL_RATIO", "97"), Some(97));
    assert_eq!(busy("DEV_GPU_UTIL_RATIO", "0.970000"), Some(97));
    assert_eq!(busy("DEV_GPU_UTIL_RATIO", "1"), Some(100));
    let DeviceState::Read(reading) = state(&[("DEV_SM_CLOCK", "0"), ("PROF_PCIE_TX_BYTES", "1e15")]) else {
        panic!("read")
    };
    assert_eq!((reading.sm_clock_mhz, reading.traffic.pcie_tx), (None, None));
}

/// An answer with whatever an exporter could print, and much that none would; or none.
fn any_answer() -> impl Strategy<Value = Option<String>> {
    let name = prop_oneof![
        Just("DEV_SM_CLOCK"),
        Just("DEV_GPU_UTIL_RATIO"),
        Just("DEV_POWER_USAGE"),
        Just("DEV_TOTAL_ENERGY_CONSUMPTION"),
        Just("DEV_FB_TOTAL"),
        Just("PROF_PIPE_TENSOR_ACTIVE"),
        Just("PROF_SM_CYCLES_ELAPSED_TOTAL"),
        Just("PROF_DFMA_CYCLES_ACTIVE_TOTAL"),
        Just("PROF_DMMA_CYCLES_ACTIVE_TOTAL"),
    ];
    let value = prop_oneof![
        Just("0".to_owned()),
        Just("0.5".to_owned()),
        any::<u64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| value.to_string()),
    ];
    let instance = prop_oneof![Just(""), Just("1"), Just("2")];
    let profile = prop_oneof![
        Just("1g.10gb".to_owned()),
        Just("7g".to_owned()),
        any::<u32>().prop_map(|n| format!("{n}g"))
    ];
    let uuid = prop_oneof![Just("GPU-1"), Just("GPU-2"), Just("GPU 3"), Just("MIG-GPU-1/1/0"), Just("MIG-")];
    let line = (name, uuid, instance, profile, value).prop_map(|(name, uuid, instance, profile, value)| {
        let model = "modelName=\"NVIDIA H100 80GB HBM3\"";
        let instance = format!("GPU_I_ID=\"{instance}\",GPU_I_PROFILE=\"{profile}\"");
        format!("DCGM_FI_{name}{{UUID=\"{uuid}\",{model},{instance}}} {value}\n")
    });
    let text = proptest::collection::vec(line, 0..20).prop_map(|lines| lines.concat());
    proptest::option::weighted(0.8, text)
}

proptest! {
    #[test]
    fn whatever_exporters_say_no_device_is_dropped_and_a_split_one_is_not_metered_beside_its_parts(
        looks in proptest::collection::vec((0_u64..200, any_answer(), any_answer()), 1..12),
    ) {
        let mut desk = Desk::new(INTERVAL);
        let mut now = Instant::now();
        let mut found: Vec<AcceleratorId> = Vec::new();
        let mut inventory: Vec<Device> = Vec::new();
        for (seconds, first, second) in looks {
            now += Duration::from_secs(seconds);
            let read = |text: Option<String>| {
                let text = text.ok_or("gone")?;
                Ok(Answer::read(&mut samples(text.as_bytes()).filter_map(Result::ok)))
            };
            let look = desk.look(now, vec![read(first), read(second)]);
            let ids: Vec<_> = look.devices.iter().map(|device| device.id.clone()).collect();
            prop_assert_eq!(&ids[..found.len()], &found[..]);
            inventory = look.inventory_changed.unwrap_or(inventory);
            prop_assert_eq!(inventory.iter().map(|device| &device.id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
            found = ids;
            let read = |id: &AcceleratorId| {
                let mut both = inventory.iter().zip(&look.devices).filter(|(device, _)| device.id == *id);
                both.any(|(device, look)| device.present && matches!(look.state, DeviceState::Read(_)))
            };
            for part in inventory.iter().filter(|part| read(&part.id)) {
                prop_assert!(!part.parent.as_ref().is_some_and(read), "{} and its whole", part.id);
            }
        }
    }
}
