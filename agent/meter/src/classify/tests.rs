//! Kinds of work as accelerators of one host would show them; properties of the sums are in [`properties`].
//!
//! The shapes are made up from what each kind of work physically does; none is a recording.

mod properties;

use std::fmt::Write;

use expect_test::{Expect, expect};

use super::*;
use crate::{
    features::{Features, History},
    meter::{Meter, Now, Observed, Pace},
    reading::{Activity, DeviceState, Ratio, Reading, Source, Tier, Traffic},
    table::AcceleratorTable,
    time::UtcMillis,
};

/// What an accelerator does at a moment: parts of the whole, gigabytes a second, watts.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    tensor: f64,
    sm: f64,
    dram: f64,
    nvlink: (f64, f64),
    pcie: (f64, f64),
    watts: f64,
    busy: f64,
}

/// Which counters there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Full,
    Utilisation,
    Power,
}

/// A number from 0 to 1 that depends on nothing but its arguments.
fn chance(seed: u64, of: u64) -> f64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ of.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    f64::from(u32::try_from((x ^ (x >> 31)) >> 40).expect("24 bits")) / f64::from(1 << 24)
}

fn reading(load: Load, sight: Sight, noise: f64) -> Reading {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
    let whole = |value: f64| value.max(0.0) as u64;
    let ratio = |part: f64| Ratio::from_fraction((part * noise).clamp(0.0, 1.0));
    let rate = |gigabytes: f64| Some(whole(gigabytes * noise * 1e9));
    let full = Reading {
        sm_clock_mhz: Some(1750),
        activity: Activity { tensor: ratio(load.tensor), sm: ratio(load.sm), ..Activity::default() },
        busy: Ratio::from_fraction(load.busy),
        power_mw: u32::try_from(whole(load.watts * noise * 1000.0)).ok(),
        dram: ratio(load.dram),
        traffic: Traffic {
            nvlink_tx: rate(load.nvlink.0),
            nvlink_rx: rate(load.nvlink.1),
            pcie_tx: rate(load.pcie.0),
            pcie_rx: rate(load.pcie.1),
            infiniband: None,
        },
        ..Reading::default()
    };
    match sight {
        Sight::Full => full,
        Sight::Utilisation => Reading { busy: full.busy, power_mw: full.power_mw, ..Reading::default() },
        Sight::Power => Reading { power_mw: full.power_mw, ..Reading::default() },
    }
}

/// `minutes` of a host with so many H100, looked at every `period_ms`: what each did, by all of its windows.
/// The loads within a period are averaged, as activity counters do it; power is that of the moment.
fn judged(
    gpus: u64,
    minutes: u64,
    period_ms: u64,
    sight: Sight,
    load: impl Fn(u64, u64) -> Load,
) -> Vec<Judgement> {
    let table = AcceleratorTable::shipped();
    let hardware = Hardware::from(table.find(None, "NVIDIA H100 80GB HBM3"));
    let pace = Pace { window_ms: 60_000, longest_tick_ms: 200_000 };
    let meter =
        |gpu: u64| Meter::new(format!("GPU-{gpu}").parse().expect("valid"), Source::Simulated, Tier::B, pace);
    let mut meters: Vec<Meter> = (0..gpus).map(meter).collect();
    let mut histories = vec![History::default(); usize::try_from(gpus).expect("few")];
    let mut signs = vec![Signs::default(); histories.len()];
    for at in (0..=minutes * 60_000).step_by(usize::try_from(period_ms).expect("short")) {
        let now = Now { boot_ms: at, wall: UtcMillis(at.cast_signed()) };
        for ((gpu, meter), history) in (0..gpus).zip(&mut meters).zip(&mut histories) {
            let steps = period_ms.div_ceil(100).max(1);
            let moments = (0..steps).map(|step| load(gpu, at.saturating_sub(step * 100)));
            let noise = 0.99 + 0.02 * chance(gpu, at);
            let seen = reading(mean(&moments.collect::<Vec<_>>(), load(gpu, at)), sight, noise);
            history.push(at, &seen);
            meter.observe(now, DeviceState::Read(seen));
        }
        for (gpu, meter) in meters.iter_mut().enumerate() {
            for observed in meter.drain() {
                let Observed::Window(mut window) = observed else { continue };
                let until = window.boot_start_ms + window.span.millis();
                let others = histories.iter().enumerate().filter(|(other, _)| *other != gpu);
                let others = others.map(|(_, history)| history);
                window.features = Features::of(&histories[gpu], others, window.boot_start_ms, until);
                signs[gpu].merge(&Signs::of(&hardware, &window));
            }
        }
    }
    signs.iter().map(Signs::judge).collect()
}

fn mean(moments: &[Load], now: Load) -> Load {
    let part = 1.0 / f64::from(u32::try_from(moments.len()).expect("few"));
    let mut sum = Load { watts: now.watts, busy: now.busy, ..Load::default() };
    for load in moments {
        sum.tensor += load.tensor * part;
        sum.sm += load.sm * part;
        sum.dram += load.dram * part;
        sum.nvlink.0 += load.nvlink.0 * part;
        sum.nvlink.1 += load.nvlink.1 * part;
        sum.pcie.0 += load.pcie.0 * part;
        sum.pcie.1 += load.pcie.1 * part;
    }
    sum
}

/// Classes at 0.1, 1, 10 and 60 s between looks, each a line of one word an accelerator.
fn check(gpus: u64, minutes: u64, sight: Sight, load: impl Fn(u64, u64) -> Load, expected: Expect) {
    let mut shown = String::new();
    for period_ms in [100, 1_000, 10_000, 60_000] {
        let classes: Vec<&str> =
            judged(gpus, minutes, period_ms, sight, &load).iter().map(|j| j.class.as_str()).collect();
        let first = classes.first().copied().unwrap_or_default();
        let same = classes.iter().all(|class| *class == first);
        let classes = if same { first.to_owned() } else { classes.join(" ") };
        writeln!(shown, "{period_ms} ms: {classes}").expect("string");
    }
    expected.assert_eq(&shown);
}

/// Scales all but idle power.
fn times(load: Load, part: f64) -> Load {
    Load {
        tensor: load.tensor * part,
        sm: load.sm * part,
        dram: load.dram * part,
        nvlink: (load.nvlink.0 * part, load.nvlink.1 * part),
        pcie: (load.pcie.0 * part, load.pcie.1 * part),
        watts: 110.0 + (load.watts - 110.0) * part,
        busy: load.busy * part.min(1.0),
    }
}

/// The same slow drift for all accelerators of a gang.
fn drift(at: u64) -> f64 {
    0.9 + 0.1 * chance(77, at / 3_000)
}

const DATA_PARALLEL: Load = Load {
    tensor: 0.35,
    sm: 0.75,
    dram: 0.33,
    nvlink: (15.0, 14.5),
    pcie: (0.01, 0.07),
    watts: 600.0,
    busy: 0.95,
};
const ACCUMULATION: Load = Load { tensor: 0.6, sm: 0.88, dram: 0.3, nvlink: (3.0, 3.0), ..DATA_PARALLEL };
const PREFILL: Load = Load {
    tensor: 0.55,
    sm: 0.85,
    dram: 0.28,
    nvlink: (140.0, 140.0),
    pcie: (0.005, 0.02),
    watts: 650.0,
    busy: 1.0,
};
const DECODE: Load = Load {
    tensor: 0.06,
    sm: 0.5,
    dram: 0.6,
    nvlink: (0.0, 0.0),
    pcie: (0.02, 0.1),
    watts: 430.0,
    busy: 0.98,
};
const NOTHING: Load = Load {
    tensor: 0.0,
    sm: 0.0,
    dram: 0.0,
    nvlink: (0.0, 0.0),
    pcie: (0.0007, 0.0006),
    watts: 118.0,
    busy: 0.0,
};

#[test]
fn data_parallel_training_is_told_by_the_exchange_of_gradients() {
    check(
        8,
        12,
        Sight::Full,
        |_, at| times(DATA_PARALLEL, drift(at)),
        expect![[r#"
            100 ms: training
            1000 ms: training
            10000 ms: training
            60000 ms: undetermined
        "#]],
    );
    check(
        8,
        12,
        Sight::Full,
        |_, at| times(ACCUMULATION, drift(at)),
        expect![[r#"
        100 ms: training
        1000 ms: training
        10000 ms: training
        60000 ms: training
    "#]],
    );
}

#[test]
fn training_with_its_optimiser_in_host_memory_is_told_by_even_traffic_over_pcie() {
    // 0.4 s of matrix work in 3.5 s, gradients out and parameters back in the rest.
    let load = |_, at: u64| {
        if at % 3_500 < 400 {
            Load { tensor: 0.6, sm: 0.9, dram: 0.3, watts: 500.0, busy: 1.0, ..NOTHING }
        } else {
            Load { sm: 0.01, dram: 0.01, pcie: (2.2, 2.2), watts: 140.0, busy: 0.4, ..NOTHING }
        }
    };
    check(
        8,
        12,
        Sight::Full,
        load,
        expect![[r#"
        100 ms: training
        1000 ms: training
        10000 ms: training
        60000 ms: training
    "#]],
    );
}

#[test]
fn training_that_reduces_over_pcie_only_is_slow_and_still_training() {
    let load = |_, at| {
        let slow = Load {
            tensor: 0.03,
            sm: 0.25,
            dram: 0.03,
            nvlink: (0.0, 0.0),
            pcie: (1.4, 1.5),
            watts: 190.0,
            busy: 1.0,
        };
        times(slow, drift(at))
    };
    check(
        8,
        12,
        Sight::Full,
        load,
        expect![[r#"
        100 ms: training
        1000 ms: training
        10000 ms: training
        60000 ms: training
    "#]],
    );
}

#[test]
fn training_split_by_tensor_and_pipeline_at_little_power_is_training() {
    let load = |gpu: u64, at| {
        let split =
            Load { tensor: 0.28, sm: 0.6, dram: 0.16, nvlink: (18.0, 17.0), watts: 425.0, ..DATA_PARALLEL };
        times(split, drift(at) * if gpu < 4 { 1.0 } else { 0.95 })
    };
    check(
        8,
        12,
        Sight::Full,
        load,
        expect![[r#"
            100 ms: training
            1000 ms: training
            10000 ms: training
            60000 ms: undetermined
        "#]],
    );
}

#[test]
fn prefill_shared_by_eight_accelerators_is_never_called_training() {
    check(
        8,
        30,
        Sight::Full,
        |_, at| times(PREFILL, drift(at)),
        expect![[r#"
            100 ms: undetermined
            1000 ms: undetermined
            10000 ms: undetermined
            60000 ms: undetermined
        "#]],
    );
    // Four pairs, each with its own requests.
    let pairs = |gpu: u64, at| {
        let part = 0.75 + 0.25 * chance(gpu / 2, at / 2_000);
        times(Load { nvlink: (32.0, 32.0), ..PREFILL }, part)
    };
    check(
        8,
        30,
        Sight::Full,
        pairs,
        expect![[r#"
            100 ms: undetermined
            1000 ms: undetermined
            10000 ms: undetermined
            60000 ms: undetermined
        "#]],
    );
}

#[test]
fn generating_tokens_is_told_by_memory_without_matrix_work() {
    check(
        1,
        12,
        Sight::Full,
        |gpu, at| times(DECODE, 0.7 + 0.3 * chance(gpu, at / 2_000)),
        expect![[r#"
        100 ms: inference
        1000 ms: inference
        10000 ms: inference
        60000 ms: inference
    "#]],
    );
    let shared = |_, at| times(Load { nvlink: (10.0, 10.0), ..DECODE }, drift(at));
    check(
        8,
        12,
        Sight::Full,
        shared,
        expect![[r#"
        100 ms: inference
        1000 ms: inference
        10000 ms: inference
        60000 ms: inference
    "#]],
    );
}

#[test]
fn a_model_that_is_loaded_and_asked_nothing_is_other() {
    let expected = expect![[r#"
        100 ms: other
        1000 ms: other
        10000 ms: other
        60000 ms: other
    "#]];
    check(8, 12, Sight::Full, |_, _| NOTHING, expected);
    // Utilisation once a minute tells about a second of it, so power has to rest too, which takes readings.
    for sight in [Sight::Utilisation, Sight::Power] {
        let expected = expect![[r#"
            100 ms: other
            1000 ms: other
            10000 ms: other
            60000 ms: undetermined
        "#]];
        check(8, 12, sight, |_, _| NOTHING, expected);
    }
    let hours = judged(2, 120, 60_000, Sight::Utilisation, |_, _| NOTHING);
    assert_eq!(hours[0].class, Class::Other);
}

#[test]
fn rendering_and_simulation_leave_matrix_units_alone() {
    let render = |_, at| {
        times(Load { tensor: 0.0, sm: 0.9, dram: 0.15, watts: 300.0, busy: 1.0, ..NOTHING }, drift(at))
    };
    check(
        1,
        12,
        Sight::Full,
        render,
        expect![[r#"
        100 ms: other
        1000 ms: other
        10000 ms: other
        60000 ms: other
    "#]],
    );
    let stream = |_, at| {
        times(Load { tensor: 0.0, sm: 0.9, dram: 0.8, watts: 400.0, busy: 1.0, ..NOTHING }, drift(at))
    };
    check(
        1,
        12,
        Sight::Full,
        stream,
        expect![[r#"
        100 ms: undetermined
        1000 ms: undetermined
        10000 ms: undetermined
        60000 ms: undetermined
    "#]],
    );
    check(
        1,
        12,
        Sight::Utilisation,
        render,
        expect![[r#"
        100 ms: undetermined
        1000 ms: undetermined
        10000 ms: undetermined
        60000 ms: undetermined
    "#]],
    );
}

/// All work for 80 s; for 16 s the first writes a checkpoint while the others spin in a collective.
fn checkpoints(gpu: u64, at: u64) -> Load {
    if at % 96_000 < 80_000 {
        times(Load { nvlink: (10.0, 10.0), watts: 560.0, ..DATA_PARALLEL }, drift(at))
    } else if gpu == 0 {
        Load { watts: 142.0, busy: 0.04, ..NOTHING }
    } else {
        Load { sm: 0.1, watts: 150.0, busy: 1.0, ..NOTHING }
    }
}

#[test]
fn accelerators_that_wait_for_a_checkpoint_with_kernels_resident_are_training() {
    check(
        8,
        20,
        Sight::Full,
        checkpoints,
        expect![[r#"
        100 ms: training
        1000 ms: training
        10000 ms: training
        60000 ms: training
    "#]],
    );
    check(
        8,
        20,
        Sight::Utilisation,
        checkpoints,
        expect![[r#"
        100 ms: training
        1000 ms: training
        10000 ms: training
        60000 ms: training
    "#]],
    );
}

#[test]
fn power_alone_decides_neither_training_nor_serving() {
    check(
        8,
        20,
        Sight::Power,
        checkpoints,
        expect![[r#"
        100 ms: undetermined
        1000 ms: undetermined
        10000 ms: undetermined
        60000 ms: undetermined
    "#]],
    );
    check(
        8,
        20,
        Sight::Power,
        |_, at| times(PREFILL, drift(at)),
        expect![[r#"
        100 ms: undetermined
        1000 ms: undetermined
        10000 ms: undetermined
        60000 ms: undetermined
    "#]],
    );
    check(
        1,
        20,
        Sight::Power,
        |gpu, at| times(DECODE, chance(gpu, at / 7_000)),
        expect![[r#"
        100 ms: undetermined
        1000 ms: undetermined
        10000 ms: undetermined
        60000 ms: undetermined
    "#]],
    );
}

#[test]
fn training_on_four_beside_serving_on_four_is_told_apart() {
    let load = |gpu: u64, at| match gpu {
        0..4 => times(DECODE, 0.3 * chance(gpu, at / 2_000) + 0.05),
        _ => times(ACCUMULATION, drift(at)),
    };
    check(
        8,
        12,
        Sight::Full,
        load,
        expect![[r#"
        100 ms: inference inference inference inference training training training training
        1000 ms: inference inference inference inference training training training training
        10000 ms: inference inference inference inference training training training training
        60000 ms: inference inference inference inference training training training training
    "#]],
    );
}

#[test]
fn duty_cycling_does_not_hide_the_exchange() {
    for on in [1, 200, 1_000] {
        let load = |_, at: u64| {
            let part = match on {
                1 => 0.5,
                on if at % (2 * on) < on => 1.0,
                _ => 0.02,
            };
            times(ACCUMULATION, part)
        };
        let expected = expect![[r#"
            100 ms: training
            1000 ms: training
            10000 ms: training
            60000 ms: training
        "#]];
        check(8, 12, Sight::Full, load, expected);
    }
}

#[test]
fn steady_matrix_work_alone_is_not_enough_for_any_kind() {
    let alone = |_, _| Load { nvlink: (0.0, 0.0), ..PREFILL };
    let seen = judged(1, 60, 1_000, Sight::Full, alone);
    assert_eq!(seen[0].class, Class::Undetermined);
    assert_eq!(seen[0].because, "the counters speak for several kinds of work");
}
