use proptest::prelude::*;
use weighbridge_meter::{
    AcceleratorTable, Estimator, Meter, Observed, Source, UtcMillis,
    meter::{Now, Pace},
};

use super::*;

const SMS: u64 = 132;

fn metrics(values: &[(Metric, f64)]) -> Metrics {
    let mut metrics = Metrics::default();
    for &(metric, value) in values {
        metrics.set(metric as usize, Some(value));
    }
    metrics
}

/// As an older driver gives them.
const RATES: [(Metric, f64); 14] = [
    (Metric::AnyTensor, 50.0),
    (Metric::Hmma, 40.0),
    (Metric::Imma, 5.0),
    (Metric::Dfma, 1.0),
    (Metric::Fp64, 2.0),
    (Metric::Fp32, 3.0),
    (Metric::Fp16, 4.0),
    (Metric::Sm, 90.0),
    (Metric::Integer, 6.0),
    (Metric::Dram, 30.0),
    (Metric::PcieTx, 1.0),
    (Metric::PcieRx, 2.0),
    (Metric::NvlinkTx, 3.5),
    (Metric::NvlinkRx, 4.0),
];

fn answer() -> Answer {
    Answer {
        at_us: 1_000_000,
        sm_clock_mhz: Some(1500),
        power_mw: Some(500_000),
        energy_mj: Some(1000),
        busy_percent: Some(97),
        gpm: Gpm::Pair { micros: 1_000_000, metrics: metrics(&RATES) },
        streaming: None,
        identity: None,
        pids: None,
        used: Vec::new(),
        machines: None,
    }
}

pub(in crate::source::nvml) fn hopper() -> Facts {
    Facts {
        gpm: true,
        sms: Some(u32::try_from(SMS).unwrap()),
        power_limit_mw: Some(700_000),
        ..Facts::default()
    }
}

pub(in crate::source::nvml) fn instance() -> Facts {
    Facts { instance: true, power_limit_mw: None, ..hopper() }
}

/// The `second`-th look of one a second at 1500 MHz, every pipe as in [`RATES`], counters as sums.
pub(in crate::source::nvml) fn counting(second: u64) -> Answer {
    let cycles = (second * 1_500_000_000 * SMS) as f64;
    let cumulative = [
        (Metric::CyclesElapsed, cycles),
        (Metric::SmCycles, cycles * 0.9),
        (Metric::MmaCycles, cycles * 0.5),
        (Metric::HmmaCycles, cycles * 0.4),
        (Metric::ImmaCycles, cycles * 0.05),
        (Metric::DmmaCycles, cycles * 0.004),
        (Metric::DfmaCycles, cycles * 0.006),
        (Metric::Fp64Cycles, cycles * 0.02),
        (Metric::Fp32Cycles, cycles * 0.03),
        (Metric::Fp16Cycles, cycles * 0.04),
        (Metric::IntegerCycles, cycles * 0.06),
        (Metric::PcieTxBytes, second as f64 * 1000.0),
        (Metric::PcieRxBytes, second as f64 * 2000.0),
    ];
    let all: Vec<_> = RATES.into_iter().chain(cumulative).collect();
    Answer {
        at_us: second * 1_000_000,
        energy_mj: Some(second * 500_000),
        gpm: Gpm::Pair { micros: 1_000_000, metrics: metrics(&all) },
        ..answer()
    }
}

/// Past calibration, after the looks of seconds 1 to 6.
fn calibrated(facts: &Facts) -> Watch {
    let mut watch = Watch::default();
    for second in 1..=6 {
        watch.judge(facts, &counting(second), second == 1);
    }
    watch
}

fn reading(verdict: &Verdict) -> Reading {
    match verdict.state {
        DeviceState::Read(reading) => reading,
        DeviceState::Missing(cause) => panic!("{cause} where a reading should be"),
    }
}

fn missing(verdict: &Verdict) -> Option<GapCause> {
    match verdict.state {
        DeviceState::Read(_) => None,
        DeviceState::Missing(cause) => Some(cause),
    }
}

/// Tier and conditions of one answer to a device that was not seen before.
fn rated(facts: &Facts, answer: &Answer) -> (Tier, Vec<Condition>) {
    let verdict = Watch::default().judge(facts, answer, false);
    (verdict.tier, verdict.conditions)
}

fn percent(percent: f64) -> Option<Ratio> {
    Some(Ratio::from_percent(percent).unwrap())
}

#[test]
fn every_value_lands_in_its_own_field() {
    let expected = Reading {
        sm_clock_mhz: Some(1500),
        activity: Activity {
            tensor: percent(50.0),
            hmma: percent(40.0),
            imma: percent(5.0),
            dfma: percent(1.0),
            fp64: percent(2.0),
            fp32: percent(3.0),
            fp16: percent(4.0),
            sm: percent(90.0),
            integer: percent(6.0),
        },
        busy: percent(97.0),
        power_mw: Some(500_000),
        energy_mj: Some(1000),
        dram: percent(30.0),
        traffic: Traffic {
            // MiB, not bytes and not megabytes.
            pcie_tx: Some(1_048_576),
            pcie_rx: Some(2_097_152),
            nvlink_tx: Some(3_670_016),
            nvlink_rx: Some(4_194_304),
            infiniband: None,
        },
        ..Reading::default()
    };
    let verdict = Watch::default().judge(&hopper(), &answer(), false);
    assert_eq!(
        verdict,
        Verdict { state: DeviceState::Read(expected), tier: Tier::B, conditions: Vec::new() }
    );
}

#[test]
fn what_is_not_supported_stays_unknown() {
    let verdict = Watch::default().judge(&Facts::default(), &Answer::default(), false);
    let expected = DeviceState::Read(Reading::default());
    assert_eq!(verdict, Verdict { state: expected, tier: Tier::D, conditions: Vec::new() });
}

#[test]
fn both_pipes_for_fp64_matrix_work_count_together() {
    let dfma = |values: &[(Metric, f64)]| {
        let gpm = Gpm::Pair { micros: 1_000_000, metrics: metrics(values) };
        reading(&Watch::default().judge(&hopper(), &Answer { gpm, ..answer() }, false)).activity.dfma
    };
    assert_eq!(dfma(&[(Metric::Dfma, 1.0), (Metric::Dmma, 2.0)]), percent(3.0));
    assert_eq!(dfma(&[(Metric::Dmma, 2.0)]), percent(2.0));
    assert_eq!(dfma(&[(Metric::Dfma, 80.0), (Metric::Dmma, 80.0)]), percent(100.0));
    assert_eq!(dfma(&[]), None);
}

#[test]
fn a_metric_that_cannot_be_is_a_gap_whichever_it_is() {
    for place in 0..RATES.len() {
        let traffic = (Metric::PcieTx as usize..=Metric::NvlinkRx as usize).contains(&place);
        for value in [f64::NAN, -0.1, if traffic { 1e300 } else { 101.1 }, f64::INFINITY] {
            let mut metrics = metrics(&RATES);
            metrics.set(place, Some(value));
            let answer = Answer { gpm: Gpm::Pair { micros: 1_000_000, metrics }, ..answer() };
            let verdict = Watch::default().judge(&hopper(), &answer, false);
            assert_eq!(missing(&verdict), Some(GapCause::Implausible), "{value} at {place}");
        }
    }
    let busy = Answer { busy_percent: Some(200), ..answer() };
    assert_eq!(missing(&Watch::default().judge(&hopper(), &busy, false)), Some(GapCause::Implausible));
}

#[test]
fn an_energy_counter_that_fell_tells_a_loaded_driver_from_a_hand() {
    // Two looks, a second apart: no more than 700 J at the limit, 1400 J with the margin.
    for (before, now, limit, expected) in [
        (1_000_000, 1_000_000, Some(700_000), None),
        (1_000_000, 1_000_001, Some(700_000), None),
        (10_000_000, 0, Some(700_000), Some(GapCause::DriverReloaded)),
        (10_000_000, 1_400_000, Some(700_000), Some(GapCause::DriverReloaded)),
        (10_000_000, 1_400_001, Some(700_000), Some(GapCause::CounterBackwards)),
        (10_000_000, 9_999_999, Some(700_000), Some(GapCause::CounterBackwards)),
        (10_000_000, 0, None, Some(GapCause::CounterBackwards)),
    ] {
        let facts = Facts { power_limit_mw: limit, ..hopper() };
        let mut watch = Watch::default();
        watch.judge(&facts, &Answer { energy_mj: Some(before), ..answer() }, false);
        // A look without the counter says nothing.
        watch.judge(&facts, &Answer { energy_mj: None, ..answer() }, false);
        let later = Answer { energy_mj: Some(now), at_us: 2_000_000, ..answer() };
        assert_eq!(missing(&watch.judge(&facts, &later, false)), expected, "{before} to {now}");
        assert_eq!(missing(&watch.judge(&facts, &later, true)), None, "it goes on from there");
    }
}

#[test]
fn a_driver_loaded_while_nobody_looked_is_named_when_it_answers_again() {
    let mut watch = calibrated(&hopper());
    let answer = Answer { energy_mj: Some(10), at_us: 60_000_000, gpm: Gpm::Seed, ..answer() };
    assert_eq!(missing(&watch.judge(&hopper(), &answer, true)), Some(GapCause::DriverReloaded));
}

#[test]
fn counters_are_used_once_their_scale_is_known_and_divided_to_cycles_of_one_sm() {
    let mut watch = Watch::default();
    let mut seen = Vec::new();
    for second in 1..=8 {
        let verdict = watch.judge(&hopper(), &counting(second), second == 1);
        let total = reading(&verdict).totals.get(Counter::TensorCycles);
        seen.push((verdict.tier, verdict.conditions, total));
    }
    let calibrating = (Tier::B, vec![Condition::Calibrating], None);
    assert_eq!(seen[..5], vec![calibrating; 5]);
    for (second, seen) in (6..=8).zip(&seen[5..]) {
        assert_eq!(*seen, (Tier::A, Vec::new(), Some(second * 750_000_000)), "second {second}");
    }
    let last = reading(&watch.judge(&hopper(), &counting(9), false));
    let total = |counter| last.totals.get(counter);
    let second = 9 * 1_500_000_000;
    assert_eq!(total(Counter::ElapsedCycles), Some(second));
    assert_eq!(total(Counter::SmCycles), Some(second / 10 * 9));
    assert_eq!(total(Counter::HmmaCycles), Some(second / 10 * 4));
    assert_eq!(total(Counter::ImmaCycles), Some(second / 20));
    assert_eq!(total(Counter::DfmaCycles), Some(second / 100), "both pipes");
    assert_eq!(total(Counter::Fp64Cycles), Some(second / 50));
    assert_eq!(total(Counter::Fp32Cycles), Some(second / 100 * 3));
    assert_eq!(total(Counter::Fp16Cycles), Some(second / 25));
    assert_eq!(total(Counter::IntegerCycles), Some(second / 50 * 3));
    assert_eq!((total(Counter::PcieTxBytes), total(Counter::PcieRxBytes)), (Some(9_000), Some(18_000)));
    assert_eq!(last.activity.tensor, percent(50.0), "ratios are passed on for features");
}

#[test]
fn a_minute_of_counters_is_to_the_integer_what_a_pencil_says() {
    let (table, facts) = (AcceleratorTable::shipped(), hopper());
    let pace = Pace { window_ms: 60_000, longest_tick_ms: 20_000 };
    let mut watch = calibrated(&facts);
    let mut meter = Meter::new("GPU-1".parse().unwrap(), Source::Nvml, Tier::A, pace);
    for second in 60..=120 {
        let verdict = watch.judge(&facts, &counting(second), false);
        assert_eq!(verdict.tier, Tier::A);
        meter.observe(
            Now { boot_ms: second * 1000, wall: UtcMillis((second * 1000).cast_signed()) },
            verdict.state,
        );
    }
    let windows: Vec<_> = meter.drain().collect();
    let [Observed::Window(window)] = &windows[..] else { panic!("{windows:?} is not one window") };
    // 60 s x 1500 MHz; half of it, 40 %, 5 %, 1 %, 2 %, 3 %, 4 %, 6 %, 90 %.
    let cycles = [
        (Counter::ElapsedCycles, 90_000_000_000),
        (Counter::TensorCycles, 45_000_000_000),
        (Counter::HmmaCycles, 36_000_000_000),
        (Counter::ImmaCycles, 4_500_000_000),
        (Counter::DfmaCycles, 900_000_000),
        (Counter::Fp64Cycles, 1_800_000_000),
        (Counter::Fp32Cycles, 2_700_000_000),
        (Counter::Fp16Cycles, 3_600_000_000),
        (Counter::IntegerCycles, 5_400_000_000),
        (Counter::SmCycles, 81_000_000_000),
        (Counter::PcieTxBytes, 60_000),
        (Counter::EnergyMicrojoules, 30_000_000_000),
    ];
    for (counter, expected) in cycles {
        assert_eq!(window.counters.get(counter), Some(expected), "{counter}");
    }
    let model = table.find(None, "NVIDIA H100 80GB HBM3").unwrap();
    let estimate = Estimator::shipped().estimate(model, window);
    // In teraoperations, with 132 x 4096 = 540672 in one clock:
    // HMMA and rest: 36e9 + (45 - 36 - 4.5 - 0.9)e9 = 39.6e9 x 540672 = 21410.6112
    // IMMA: 4.5e9 x 540672 x 1978.9 / 989.4 = 4866.2939
    // DFMA: 0.9e9 x 540672 x 66.9 / 989.4 = 32.9028
    // vector: FP32 2.7e9 x 2 x 16896 = 91.2384; FP16 3.6e9 x 4 x 16896 = 243.3024;
    // FP64 1.8e9 x 2 x 16896 x 33.5 / 66.9 = 30.4583: together 364.9991
    // best = 21410.6112 + 4866.2939 + 32.9028 + 364.9991 = 26674.8070
    assert_eq!(estimate.bound.best().tera(), 26_675);
    // low = 0.95 x (10705.3056 + 4866.2939 + 32.9028) = 14824.2772
    assert_eq!(estimate.bound.low().tera(), 14_824);
    // high = 1.05 x (42821.2224 + 4866.2939 + 32.9028 + vector 364.9991 + integer 5.4e9 x 2 x 16896 = 182.4768)
    //      = 50681.29
    assert_eq!(estimate.bound.high().tera(), 50_682);
}

#[test]
fn a_look_that_was_missed_loses_nothing_of_counters() {
    let mut watch = calibrated(&hopper());
    let before = reading(&watch.judge(&hopper(), &counting(7), false)).totals;
    // Nobody heard seconds 8 to 19; the first look after them has no rates, but its counters speak for them.
    let after = reading(&watch.judge(&hopper(), &counting(20), true));
    assert_eq!(after.activity, Activity::default());
    let added = after.totals.since(&before).unwrap();
    assert_eq!(added.get(Counter::TensorCycles), Some(13 * 750_000_000));
}

#[test]
fn a_pair_that_begins_before_a_gap_has_no_rates_also_where_a_young_sample_hides_it() {
    let mut watch = Watch::default();
    watch.judge(&hopper(), &answer(), false);
    let young = Answer { gpm: Gpm::Young, ..answer() };
    let activity = |verdict: Verdict| reading(&verdict).activity;
    assert_eq!(activity(watch.judge(&hopper(), &young, false)).tensor, percent(50.0), "as read last");
    assert_eq!(activity(watch.judge(&hopper(), &young, true)), Activity::default());
    assert_eq!(activity(watch.judge(&hopper(), &answer(), false)), Activity::default());
    assert_eq!(activity(watch.judge(&hopper(), &answer(), false)).tensor, percent(50.0));
}

/// As [`counting`], with a counter of tensor cycles that runs too fast.
fn drifting(second: u64) -> Answer {
    let mut answer = counting(second);
    if let Gpm::Pair { metrics, .. } = &mut answer.gpm {
        let tensor = metrics.get(Metric::MmaCycles).unwrap();
        metrics.set(Metric::MmaCycles as usize, Some(tensor * 1.5));
    }
    answer
}

#[test]
fn looks_that_come_late_one_after_the_other_speak_against_no_counter() {
    let mut watch = calibrated(&hopper());
    // Each pair of samples is of one second, and what was heard before is ten seconds old.
    for round in 1..=20 {
        assert_eq!(watch.judge(&hopper(), &counting(6 + 10 * round), true).tier, Tier::A, "round {round}");
    }
}

#[test]
fn counters_that_were_refused_stay_so_when_streaming_was_off_in_between() {
    let mut watch = calibrated(&hopper());
    for second in 7..=13 {
        watch.judge(&hopper(), &drifting(second), false);
    }
    let streaming = |second, on| Answer { streaming: Some(on), ..counting(second) };
    watch.judge(&hopper(), &streaming(14, true), false);
    let dark = watch.judge(&hopper(), &streaming(15, false), false);
    assert_eq!(dark.conditions, [Condition::StreamingOff]);
    for second in 16..40 {
        let verdict = watch.judge(&hopper(), &streaming(second, true), false);
        assert_eq!(verdict.conditions, [Condition::CountersRefused], "second {second}");
    }
}

#[test]
fn counters_that_drift_are_refused_until_the_driver_is_loaded_anew() {
    let mut watch = calibrated(&hopper());
    let mut seen = Vec::new();
    for second in 7..=13 {
        let verdict = watch.judge(&hopper(), &drifting(second), false);
        let unused = reading(&verdict).totals.is_empty();
        seen.push((verdict.tier, verdict.conditions, unused));
    }
    // The first of them jumps, and all of them disagree.
    assert_eq!(seen[..4], vec![(Tier::A, vec![], false); 4]);
    assert_eq!(seen[4..], vec![(Tier::B, vec![Condition::CountersRefused], true); 3]);
    for second in 100..120 {
        assert_eq!(watch.judge(&hopper(), &counting(second), false).tier, Tier::B, "second {second}");
    }
    let reloaded = Answer { energy_mj: Some(0), at_us: 121_000_000, ..counting(1) };
    assert_eq!(missing(&watch.judge(&hopper(), &reloaded, false)), Some(GapCause::DriverReloaded));
    for second in 1..=6 {
        let answer = Answer { energy_mj: Some(second), ..counting(second) };
        watch.judge(&hopper(), &answer, second == 1);
    }
    let answer = Answer { energy_mj: Some(7), ..counting(7) };
    assert_eq!(watch.judge(&hopper(), &answer, false).tier, Tier::A);
}

#[test]
fn cycle_counters_that_fall_are_a_gap_of_one_look_or_another_instance() {
    for (facts, cause, tier) in
        [(hopper(), GapCause::CounterBackwards, Tier::A), (instance(), GapCause::InstanceRecreated, Tier::B)]
    {
        let mut watch = calibrated(&facts);
        let restarted = |second: u64| Answer { energy_mj: None, ..counting(second) };
        assert_eq!(missing(&watch.judge(&facts, &restarted(1), false)), Some(cause));
        let after = watch.judge(&facts, &restarted(2), true);
        assert_eq!((missing(&after), after.tier), (None, tier), "{cause}");
    }
}

#[test]
fn streaming_that_was_switched_off_is_named_and_comes_back() {
    let mut watch = calibrated(&hopper());
    let on = |second| Answer { streaming: Some(true), ..counting(second) };
    let zeros: Vec<_> = RATES.iter().map(|&(metric, _)| (metric, 0.0)).collect();
    let off = Answer {
        streaming: Some(false),
        energy_mj: None,
        gpm: Gpm::Pair { micros: 1_000_000, metrics: metrics(&zeros) },
        ..answer()
    };
    assert_eq!(watch.judge(&hopper(), &on(7), false).tier, Tier::A);
    let dark = watch.judge(&hopper(), &off, false);
    assert_eq!((dark.tier, &dark.conditions[..]), (Tier::D, &[Condition::StreamingOff][..]));
    // Zeros that nobody measured are not zeros.
    assert_eq!((reading(&dark).activity, reading(&dark).busy), (Activity::default(), percent(97.0)));
    assert!(reading(&dark).totals.is_empty());
    // Its counters were cleared, which is no fall, and their scale is found again.
    let back =
        watch.judge(&hopper(), &Answer { streaming: Some(true), energy_mj: None, ..counting(1) }, false);
    assert_eq!((back.tier, &back.conditions[..]), (Tier::B, &[Condition::Calibrating][..]));
    assert_eq!(missing(&back), None);
}

#[test]
fn streaming_that_was_on_and_is_off_is_believed_of_an_idle_device_too() {
    let idle = |on| Answer { streaming: Some(on), busy_percent: Some(0), ..answer() };
    let mut watch = Watch::default();
    assert_eq!(watch.judge(&hopper(), &idle(true), false).tier, Tier::B);
    let off = watch.judge(&hopper(), &idle(false), false);
    assert_eq!((off.tier, &off.conditions[..]), (Tier::D, &[Condition::StreamingOff][..]));
}

#[test]
fn a_flag_that_was_never_on_is_believed_only_where_the_numbers_cannot_be() {
    let off = |gpm| Answer { streaming: Some(false), gpm, ..answer() };
    let pair =
        |sm: f64| Gpm::Pair { micros: 1, metrics: metrics(&[(Metric::AnyTensor, 0.0), (Metric::Sm, sm)]) };
    assert_eq!(rated(&hopper(), &off(pair(90.0))), (Tier::B, vec![]));
    assert_eq!(rated(&hopper(), &off(pair(0.0))), (Tier::D, vec![Condition::StreamingOff]));
    let idle = Answer { busy_percent: Some(0), ..off(pair(0.0)) };
    assert_eq!(rated(&hopper(), &idle), (Tier::B, vec![]), "nothing ran");
    assert_eq!(rated(&hopper(), &off(Gpm::Unsupported)), (Tier::D, vec![Condition::StreamingOff]));
}

#[test]
fn where_activity_cannot_be_read_it_is_said_why() {
    let gpm = |gpm| Answer { gpm, ..answer() };
    let confidential = |facts: Facts| Facts { confidential: true, ..facts };
    let without = |facts: Facts| Facts { gpm: false, ..facts };
    for (what, facts, answer, expected) in [
        ("an older generation", without(hopper()), gpm(Gpm::Unsupported), (Tier::D, vec![])),
        ("an instance of one", without(instance()), gpm(Gpm::Unsupported), (Tier::E, vec![])),
        ("not now", hopper(), gpm(Gpm::Unsupported), (Tier::D, vec![])),
        ("no right", hopper(), gpm(Gpm::Refused), (Tier::D, vec![])),
        ("no right to MIG", instance(), gpm(Gpm::Refused), (Tier::E, vec![Condition::NoMigMonitor])),
        (
            "confidential",
            confidential(hopper()),
            gpm(Gpm::Unsupported),
            (Tier::D, vec![Condition::ConfidentialComputing]),
        ),
        (
            "confidential and hidden",
            confidential(without(hopper())),
            gpm(Gpm::Unsupported),
            (Tier::D, vec![Condition::ConfidentialComputing]),
        ),
        ("confidential and readable", confidential(hopper()), answer(), (Tier::B, vec![])),
        (
            "confidential and silent under load",
            confidential(hopper()),
            gpm(Gpm::Pair { micros: 1_000_000, metrics: metrics(&[(Metric::Sm, 0.0)]) }),
            (Tier::D, vec![Condition::ConfidentialComputing]),
        ),
        (
            "shared",
            Facts { shares: true, ..instance() },
            gpm(Gpm::Unsupported),
            (Tier::E, vec![Condition::SecondaryPartition]),
        ),
    ] {
        assert_eq!(rated(&facts, &answer), expected, "{what}");
        let verdict = Watch::default().judge(&facts, &answer, false);
        assert_eq!(missing(&verdict), None, "{what}: what else answers is read");
    }
}

#[test]
fn an_instance_without_data_has_no_compute_instance() {
    let verdict = Watch::default().judge(&instance(), &Answer { gpm: Gpm::NoData, ..answer() }, false);
    assert_eq!(missing(&verdict), Some(GapCause::NoComputeInstance));
}

#[test]
fn an_instance_that_has_a_compute_instance_again_begins_anew() {
    let mut watch = calibrated(&instance());
    let none = Answer { energy_mj: None, gpm: Gpm::NoData, ..answer() };
    assert_eq!(missing(&watch.judge(&instance(), &none, false)), Some(GapCause::NoComputeInstance));
    let again = watch.judge(&instance(), &Answer { energy_mj: None, ..counting(1) }, true);
    assert_eq!((missing(&again), again.tier), (None, Tier::B), "what counts anew did not fall");
}

#[test]
fn a_clock_is_the_mean_of_its_samples() {
    let mean = |samples: &[u64]| mean_clock(samples.iter().copied());
    assert_eq!(mean(&[1400, 1600]), Some(1500));
    assert_eq!(mean(&[1, 2]), Some(2), "rounded to nearest");
    assert_eq!(mean(&[0, u64::MAX, 1500]), Some(1500), "what cannot be is left out");
    assert_eq!(mean(&[]), None);
    assert_eq!(mean(&[0]), None);
}

#[test]
fn addresses_are_written_as_the_kernel_does() {
    assert_eq!(kernel_pci_address("00000000:1A:00.0"), "0000:1a:00.0");
    assert_eq!(kernel_pci_address("0000000B:1A:00.0"), "000b:1a:00.0");
    assert_eq!(kernel_pci_address("00010000:1A:00.0"), "00010000:1a:00.0");
    assert_eq!(kernel_pci_address("0000:1A:00.0"), "0000:1a:00.0");
    assert_eq!(pci_device(0x2330_10de), "10de:2330");
}

fn any_gpm() -> impl Strategy<Value = Gpm> {
    let value = prop_oneof![
        Just(None),
        (0.0..=101.0).prop_map(Some),
        (0.0..1e18_f64).prop_map(Some),
        Just(Some(f64::NAN)),
    ];
    let pair = proptest::collection::vec(value, super::super::metrics::IDS.len());
    prop_oneof![
        Just(Gpm::Unsupported),
        Just(Gpm::Refused),
        Just(Gpm::NoData),
        Just(Gpm::Seed),
        Just(Gpm::Young),
        (pair, any::<u64>()).prop_map(|(values, micros)| {
            let mut metrics = Metrics::default();
            values.into_iter().enumerate().for_each(|(place, value)| metrics.set(place, value));
            Gpm::Pair { micros, metrics }
        }),
    ]
}

proptest! {
    #[test]
    fn whatever_a_driver_says_totals_of_readings_in_a_row_never_fall(
        looks in proptest::collection::vec(
            (any_gpm(), any::<Option<u64>>(), any::<Option<bool>>(), any::<Option<u32>>(), any::<bool>()), 1..40),
        facts in (any::<bool>(), any::<bool>(), any::<bool>(), any::<Option<u32>>()),
    ) {
        let (instance, gpm, confidential, sms) = facts;
        let facts = Facts { instance, gpm, confidential, sms, power_limit_mw: sms, ..Facts::default() };
        let mut watch = Watch::default();
        let mut last: Option<Reading> = None;
        for (at, (gpm, energy_mj, streaming, busy_percent, rebase)) in (0_u64..).zip(looks) {
            let answer = Answer { at_us: at, gpm, energy_mj, streaming, busy_percent, ..answer() };
            let verdict = watch.judge(&facts, &answer, rebase);
            prop_assert!(verdict.tier == Tier::A || reading_or_default(&verdict).totals.is_empty());
            prop_assert!(verdict.tier <= Tier::B || reading_or_default(&verdict).activity == Activity::default());
            last = match verdict.state {
                DeviceState::Missing(_) => None,
                DeviceState::Read(reading) => {
                    if let Some(last) = last {
                        prop_assert!(reading.totals.since(&last.totals).is_some());
                    }
                    Some(reading)
                }
            };
        }
    }
}

fn reading_or_default(verdict: &Verdict) -> Reading {
    match verdict.state {
        DeviceState::Read(reading) => reading,
        DeviceState::Missing(_) => Reading::default(),
    }
}
