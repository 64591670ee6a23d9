//! What must hold of every recording, over a million generated ones.

use proptest::{collection::vec, option, prelude::*};
use weighbridge_meter::{
    AcceleratorTable, Counters, Coverage, DeviceState, Estimator, Gap, GapCause, Meter, Observed, Reading,
    Source, Tier, UtcMillis, Window,
    meter::{Now, Pace},
    reading::{Activity, Ratio},
    table::Hardware,
    window::Counter,
};

/// 2026-01-31T08:00:00Z, a whole minute.
const START: i64 = 1_769_846_400_000;

/// One look: how long after the one before, and what it gave.
#[derive(Clone, Debug)]
struct Look {
    after_ms: u64,
    state: DeviceState,
}

fn ratio() -> impl Strategy<Value = Option<Ratio>> {
    option::of(
        (0_u32..=1_000_000).prop_map(|ppm| Ratio::from_fraction(f64::from(ppm) / 1e6).expect("a part")),
    )
}

/// A reading; cumulative counters are what was added since the reading before, summed up in [`looks`].
fn reading() -> impl Strategy<Value = Reading> {
    let activity = (ratio(), ratio(), ratio(), ratio());
    (option::of(210_u32..2_600), activity, ratio(), option::of(0_u32..1_200_000), option::of(0_u64..1 << 32))
        .prop_map(|(sm_clock_mhz, (tensor, hmma, fp32, sm), busy, power_mw, added)| Reading {
            sm_clock_mhz,
            activity: Activity { tensor, hmma, fp32, sm, ..Activity::default() },
            busy,
            power_mw,
            totals: added.map_or(Counters::default(), |cycles| {
                Counters::default().with(Counter::TensorCycles, cycles).with(Counter::ElapsedCycles, cycles)
            }),
            ..Reading::default()
        })
}

fn looks() -> impl Strategy<Value = Vec<Look>> {
    let missing = prop_oneof![Just(GapCause::CallHung), Just(GapCause::DeviceLost), Just(GapCause::Released)];
    let state = prop_oneof![
        8 => reading().prop_map(DeviceState::Read),
        1 => missing.prop_map(DeviceState::Missing),
    ];
    let look = (prop_oneof![6 => 900_u64..1_100, 1 => 0_u64..40_000], state)
        .prop_map(|(after_ms, state)| Look { after_ms, state });
    vec(look, 2..7).prop_map(|mut looks| {
        let mut sum = 0;
        for look in &mut looks {
            if let DeviceState::Read(reading) = &mut look.state
                && let Some(added) = reading.totals.get(Counter::TensorCycles)
            {
                sum += added;
                reading.totals =
                    Counters::default().with(Counter::TensorCycles, sum).with(Counter::ElapsedCycles, sum);
            }
        }
        looks
    })
}

fn observed(looks: &[Look], window_ms: u32) -> (Vec<Window>, Vec<Gap>, u64) {
    let pace = Pace { window_ms, longest_tick_ms: 10_000 };
    let mut meter = Meter::new("GPU-1".parse().expect("valid"), Source::Nvml, Tier::A, pace);
    let mut elapsed = 0;
    let now = |elapsed: u64| Now {
        boot_ms: 77_000 + elapsed,
        wall: UtcMillis(START + 30_000).plus(elapsed.cast_signed()),
    };
    for (index, look) in looks.iter().enumerate() {
        elapsed += if index == 0 { 0 } else { look.after_ms };
        meter.observe(now(elapsed), look.state);
    }
    meter.finish(now(elapsed));
    let (mut windows, mut gaps) = (Vec::new(), Vec::new());
    for one in meter.drain() {
        match one {
            Observed::Window(window) => windows.push(window),
            Observed::Gap(gap) => gaps.push(gap),
        }
    }
    (windows, gaps, elapsed)
}

/// Integrals over all windows: unknown in one of them is unknown in all.
fn total(windows: &[Window]) -> Option<Counters> {
    let mut counters = windows.iter().map(|window| window.counters);
    let first = counters.next()?;
    counters.try_fold(first, |sum, counters| sum.checked_add(&counters))
}

/// Milliseconds that windows or gaps speak for, each once.
fn covered(windows: &[Window], gaps: &[Gap]) -> u64 {
    let mut spans: Vec<_> =
        windows.iter().map(|window| window.span).chain(gaps.iter().map(|gap| gap.span)).collect();
    spans.sort();
    let mut reached = UtcMillis(i64::MIN);
    let mut millis = 0;
    for span in spans {
        let from = span.start().max(reached);
        if from < span.end() {
            millis += span.end().since(from).unsigned_abs();
            reached = span.end();
        }
    }
    millis
}

fn tera(window: &Window, hardware: Hardware<'_>, estimator: &Estimator) -> [u64; 3] {
    let bound = estimator.estimate(hardware, window).bound;
    [bound.low().tera(), bound.best().tera(), bound.high().tera()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn time_and_integrals_are_conserved_however_windows_are_cut_and_pieces_hold_the_whole(
        looks in looks(), row in 0_usize..48, cut in 1_u64..1_000, more in 0_u32..=1_000_000,
    ) {
        thread_local! {
            static ESTIMATOR: Estimator = Estimator::new(AcceleratorTable::shipped());
        }
        ESTIMATOR.with(|estimator| -> Result<(), TestCaseError> {
            let hardware = Hardware::from(&estimator.table().models()[row]);
            let (long, long_gaps, elapsed) = observed(&looks, 3_600_000);
            let (short, gaps, _) = observed(&looks, 1_000);

            // Every millisecond is a window's or a gap's, and no two windows share one.
            prop_assert_eq!(covered(&long, &long_gaps), elapsed);
            prop_assert_eq!(covered(&short, &gaps), elapsed);
            prop_assert_eq!(covered(&short, &[]), short.iter().map(|window| window.span.millis()).sum::<u64>());

            // Finer windows hold the same integrals, to the integer.
            if let (Some(long), Some(short)) = (total(&long), total(&short)) {
                for &counter in Counter::ALL {
                    if let Some(whole) = long.get(counter) {
                        prop_assert_eq!(short.get(counter), Some(whole), "{}", counter);
                    }
                }
            }

            for window in &long {
                let estimate = estimator.estimate(hardware, window);
                let whole = tera(window, hardware, estimator);
                prop_assert!(whole[0] <= whole[1] && whole[1] <= whole[2]);
                let calibrated = estimate.calibrated;
                prop_assert!(whole[0] <= calibrated.low().tera() && calibrated.high().tera() <= whole[2]);

                // Split: best within one tera a piece; and what both can have done covers what the whole can.
                let length = window.span.millis();
                let at = (length * cut / 1_000).clamp(1, length.max(2) - 1);
                if let Some((first, second)) = window.split(window.span.start().plus(at.cast_signed())) {
                    let parts = [tera(&first, hardware, estimator), tera(&second, hardware, estimator)];
                    let sum = |index: usize| parts[0][index] + parts[1][index];
                    prop_assert!(sum(1).abs_diff(whole[1]) <= 2, "{} against {}", sum(1), whole[1]);
                    let pieces = [estimate.piece(0, at, length), estimate.piece(at, length, length)];
                    let bound = pieces[0].bound.saturating_add(pieces[1].bound);
                    prop_assert_eq!(bound.best(), estimate.bound.best());
                    prop_assert!(bound.low() <= estimate.bound.low() && estimate.bound.high() <= bound.high());
                }

                // More tensor cycles never make less of it.
                if let (Coverage::Measured, Some(cycles), Some(elapsed)) = (
                    window.coverage,
                    window.counters.get(Counter::TensorCycles),
                    window.counters.get(Counter::ElapsedCycles),
                ) {
                    let rest = elapsed.saturating_sub(cycles);
                    let added = u64::try_from(u128::from(rest) * u128::from(more) / 1_000_000).expect("a part");
                    let busier =
                        Window { counters: window.counters.with(Counter::TensorCycles, cycles + added), ..window.clone() };
                    let busier = tera(&busier, hardware, estimator);
                    prop_assert!(whole.iter().zip(busier).all(|(less, more)| *less <= more));
                }
            }
            Ok(())
        })?;
    }
}
