//! Histories written by hand.

use std::fmt::Write;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::{
    reading::{Activity, Ratio, Reading, Traffic},
    window::{Counter, Counters},
};

/// Watts, tensor activity and kernel utilisation at a second; negative is unknown.
type At = (f64, f64, f64);

fn reading((watts, tensor, busy): At) -> Reading {
    let known = |value: f64| (value >= 0.0).then_some(value);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
    let power_mw = known(watts).map(|watts| (watts * 1000.0) as u32);
    Reading {
        power_mw,
        activity: Activity { tensor: known(tensor).and_then(Ratio::from_fraction), ..Activity::default() },
        busy: known(busy).and_then(Ratio::from_fraction),
        ..Reading::default()
    }
}

/// A minute of histories, looked at every `step_ms`.
fn minute(step_ms: usize, gpus: usize, at: impl Fn(usize, f64) -> At) -> Vec<Features> {
    let mut histories = vec![History::default(); gpus];
    for ms in (0..60_000_u32).step_by(step_ms) {
        for (gpu, history) in histories.iter_mut().enumerate() {
            history.push(u64::from(ms), &reading(at(gpu, f64::from(ms) / 1000.0)));
        }
    }
    (0..gpus)
        .map(|own| {
            let others = histories.iter().enumerate().filter(|(other, _)| *other != own);
            Features::of(&histories[own], others.map(|(_, history)| history), 0, 60_000)
        })
        .collect()
}

fn check(features: &Features, expected: Expect) {
    let mut shown = String::new();
    for feature in Feature::ALL {
        if let Some(value) = features.get(*feature) {
            writeln!(shown, "{feature} {value}").expect("string");
        }
    }
    expected.assert_eq(&shown);
}

fn wave(seconds: f64, period: f64) -> f64 {
    (seconds / period * std::f64::consts::TAU).sin()
}

#[test]
fn a_rhythm_is_found_with_its_period_at_one_and_at_ten_readings_a_second() {
    let load = |_, s: f64| (400.0 + 100.0 * wave(s, 6.0), 0.4 + 0.1 * wave(s, 6.0), 1.0);
    check(
        &minute(1000, 1, load)[0],
        expect![[r#"
        readings 60
        tensor_spread_ppm 70711
        tensor_period_ms 6000
        tensor_rhythm 999
        power_spread_mw 70711
        power_period_ms 6000
        power_rhythm 999
    "#]],
    );
    check(
        &minute(100, 1, load)[0],
        expect![[r#"
        readings 60
        tensor_spread_ppm 67555
        tensor_period_ms 6000
        tensor_rhythm 999
        power_spread_mw 67555
        power_period_ms 6000
        power_rhythm 999
    "#]],
    );
}

#[test]
fn a_slow_change_of_level_is_no_rhythm() {
    let load = |_, s: f64| (200.0 + 5.0 * s, 0.1 + 0.01 * s, 1.0);
    check(
        &minute(1000, 1, load)[0],
        expect![[r#"
        readings 60
        tensor_spread_ppm 173181
        power_spread_mw 86591
    "#]],
    );
}

#[test]
fn a_series_that_rests_has_a_spread_and_neither_rhythm_nor_company() {
    check(
        &minute(1000, 2, |_, _| (118.0, 0.0, 0.0))[0],
        expect![[r#"
        readings 60
        tensor_spread_ppm 0
        power_spread_mw 0
    "#]],
    );
}

#[test]
fn few_readings_have_no_features() {
    check(&minute(15_000, 2, |_, s| (100.0 + s, 0.5, 1.0))[0], expect![[""]]);
}

#[test]
fn those_that_move_together_are_counted_one_by_one() {
    let load = |gpu: usize, s: f64| {
        let period = [8.0, 8.0, 8.0, 3.3, 4.7, 5.9][gpu];
        (400.0 + 100.0 * wave(s, period), -1.0, -1.0)
    };
    let company: Vec<_> = minute(1000, 6, load).iter().map(|f| f.get(Feature::Company)).collect();
    assert_eq!(company, [Some(2), Some(2), Some(2), Some(0), Some(0), Some(0)]);
}

#[test]
fn one_that_works_elsewhere_while_the_other_spins_is_seen_by_both() {
    let load = |gpu: usize, s: f64| match (s % 20.0 < 12.0, gpu) {
        (true, _) => (550.0, 0.4, 0.95),
        (false, 0) => (142.0, 0.0, 0.03),
        (false, _) => (151.0, 0.0, 1.0),
    };
    let waiting: Vec<_> = minute(1000, 2, load).iter().map(|f| f.get(Feature::Waiting)).collect();
    assert_eq!(waiting, [Some(400), Some(400)]);
    // Two that stop together wait for requests, not for each other.
    let load = |_, s: f64| if s % 20.0 < 12.0 { (550.0, 0.4, 0.95) } else { (118.0, 0.0, 0.0) };
    assert_eq!(minute(1000, 2, load)[0].get(Feature::Waiting), Some(0));
    // Of two that work by themselves one is idle when it likes.
    let load = |gpu: usize, s: f64| match (s % 20.0 < 12.0, gpu) {
        (true, 0) => (550.0, 0.4, 0.95),
        (false, 0) => (118.0, 0.0, 0.0),
        (_, _) => (300.0 + 50.0 * wave(s, 7.0), 0.1, 1.0),
    };
    assert_eq!(minute(1000, 2, load)[0].get(Feature::Waiting), None);
}

#[test]
fn cumulative_counters_serve_where_there_is_no_rate() {
    let mut history = History::default();
    for second in 0..30_u64 {
        let cycles = Counters::default()
            .with(Counter::ElapsedCycles, second * 1_000_000)
            .with(Counter::TensorCycles, second * 250_000)
            .with(Counter::BusyMicros, second * 900_000)
            .with(Counter::NvlinkTxBytes, second * 5_000_000_000)
            .with(Counter::NvlinkRxBytes, second * 5_000_000_000);
        let energy = |second: u64| second * 400_000 + if second % 4 < 2 { 0 } else { 100_000 };
        let seen = Reading { energy_mj: Some(energy(second)), totals: cycles, ..Reading::default() };
        history.push(second * 1000, &seen);
    }
    check(
        &Features::of(&history, std::iter::empty(), 0, 30_000),
        expect![[r#"
        readings 30
        tensor_spread_ppm 0
        power_spread_mw 69481
        power_period_ms 4000
        power_rhythm 992
    "#]],
    );
}

#[test]
fn what_is_forgotten_is_compared_with_nothing() {
    let mut history = History::default();
    for second in 0..40_u64 {
        history.push(second * 1000, &reading((300.0, 0.2, 1.0)));
    }
    history.clear();
    for second in 40..44_u64 {
        history.push(second * 1000, &reading((300.0, 0.2, 1.0)));
    }
    assert!(Features::of(&history, std::iter::empty(), 0, 60_000).is_empty());
}

fn any_reading() -> impl Strategy<Value = Reading> {
    let total = || proptest::option::of(prop_oneof![any::<u64>(), 0..1000_u64, Just(u64::MAX)]);
    let rates = (proptest::option::of(any::<u32>()), proptest::option::of(0.0..=1.0_f64));
    (rates, total(), total(), total(), total()).prop_map(
        |((power_mw, tensor), energy_mj, one, two, bytes)| {
            let with = |all: Counters, counter, value: Option<u64>| {
                value.map_or(all, |value| all.with(counter, value))
            };
            let totals = with(Counters::default(), Counter::TensorCycles, one);
            let totals = with(totals, Counter::ElapsedCycles, two);
            let totals = with(totals, Counter::NvlinkTxBytes, bytes);
            let totals = with(totals, Counter::NvlinkRxBytes, one);
            Reading {
                power_mw,
                energy_mj,
                activity: Activity { tensor: tensor.and_then(Ratio::from_fraction), ..Activity::default() },
                busy: tensor.and_then(Ratio::from_fraction),
                traffic: Traffic { nvlink_tx: bytes, nvlink_rx: two, ..Traffic::default() },
                totals,
                ..Reading::default()
            }
        },
    )
}

proptest! {
    #[test]
    fn any_readings_at_any_times_give_features_within_their_limits(
        readings in proptest::collection::vec((any_reading(), any_reading(), 0..100_000_u64), 0..150),
        start in prop_oneof![Just(0), any::<u64>()],
        window in any::<[u64; 2]>(),
        back in any::<bool>(),
    ) {
        let (mut one, mut two) = (History::default(), History::default());
        let mut at = start;
        for (first, second, step) in &readings {
            at = if back && step % 7 == 0 { at.saturating_sub(*step) } else { at.saturating_add(*step) };
            one.push(at, first);
            two.push(at, second);
        }
        for (from, to) in [(start, at), (window[0], window[1])] {
            let features = Features::of(&one, [&two].into_iter(), from, to);
            for feature in [Feature::TensorRhythm, Feature::PowerRhythm, Feature::NvlinkRhythm, Feature::Waiting] {
                prop_assert!(features.get(feature).is_none_or(|value| (0..=1000).contains(&value)));
            }
            for feature in [Feature::PowerTogether, Feature::TensorTogether] {
                prop_assert!(features.get(feature).is_none_or(|value| (-1000..=1000).contains(&value)));
            }
            prop_assert_eq!(&features, &Features::of(&one, [&two].into_iter(), from, to));
        }
    }
}

#[test]
fn the_histories_of_56_accelerators_take_less_than_100_kilobytes() {
    assert!(56 * size_of::<History>() < 100_000, "{} bytes each", size_of::<History>());
}
