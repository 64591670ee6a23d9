//! From a controller's reports to operations.

use expect_test::expect;
use weighbridge_agent::{
    engine::{Engine, EngineOptions, HolderNews},
    source::AcceleratorSource,
};
use weighbridge_meter::{
    Coverage, Estimator, GapCause, Source, Tier, Trust, UtcMillis,
    meter::{Now, Pace},
    window::Counter,
};

use crate::{
    server::Bmc,
    source,
    trees::{FIRST, Work, hgx, renew},
};

/// 2026-01-31T08:00:00Z.
const START: i64 = 1_769_846_400_000;

fn at(seconds: i64) -> Now {
    Now { boot_ms: u64::try_from(seconds * 1000).unwrap() + 5000, wall: UtcMillis(START + seconds * 1000) }
}

fn engine() -> Engine {
    Engine::new(EngineOptions {
        host: "site".into(),
        trust: Trust::Host,
        pace: Pace { window_ms: 60_000, longest_tick_ms: 120_000 },
        held_records: 100,
    })
}

#[tokio::test]
async fn a_minute_of_reports_makes_a_window_and_an_estimate_exact_to_the_integer() {
    let bmc = Bmc::start(hgx()).await;
    let (mut source, mut engine) = (source(&[&bmc]), engine());
    for (seconds, work) in [
        (0, Work::default()),
        (30, Work { tensor: 50, clock: 1500 }),
        (60, Work { tensor: 60, clock: 1600 }),
        (90, Work { tensor: 60, clock: 1600 }),
    ] {
        renew(&bmc, seconds, work);
        engine.tick(at(seconds.into()), &source.look().await, HolderNews::default());
    }
    let contents = engine.take();
    let record = contents.inventory.iter().find(|record| record.accelerator.as_str() == FIRST).unwrap();
    assert_eq!((record.host.as_str(), record.trust, record.source), ("node1", Trust::Bmc, Source::Redfish));
    let window = contents.windows.iter().find(|window| window.accelerator.as_str() == FIRST).unwrap();
    assert_eq!((window.tier, window.coverage, window.ticks), (Tier::B, Coverage::Measured, 2));
    assert_eq!((window.span.start(), window.span.millis()), (UtcMillis(START), 60_000));

    // MHz x milliseconds x 1000, twice 30 seconds.
    let elapsed = 1500 * 30_000 * 1000 + 1600 * 30_000 * 1000;
    let tensor = 1500 * 30_000 * 1000 / 100 * 50 + 1600 * 30_000 * 1000 / 100 * 60;
    let counters = &window.counters;
    assert_eq!(counters.get(Counter::ElapsedCycles), Some(elapsed));
    assert_eq!(counters.get(Counter::TensorCycles), Some(tensor));
    assert_eq!(counters.get(Counter::HmmaCycles), Some(tensor));
    assert_eq!(counters.get(Counter::Fp64Cycles), None, "nan is not zero");
    // The energy counter runs at 600 W, whatever the power sensor says.
    assert_eq!(counters.get(Counter::EnergyMicrojoules), Some(60 * 600 * 1_000_000));
    assert_eq!(counters.get(Counter::NvlinkTxBytes), Some(60 * 1_000_000_000));

    let estimator = Estimator::shipped();
    let model = estimator.table().find(None, &record.name);
    let estimate = estimator.estimate(model, window);
    let (low, best, high) = (estimate.bound.low(), estimate.bound.best(), estimate.bound.high());
    let text = format!("{} <= {} <= {}", low.tera(), best.tera(), high.tera());
    expect!["11788 <= 27799 <= 70300"].assert_eq(&text);
}

#[tokio::test]
async fn a_minute_in_which_nothing_was_renewed_is_a_gap_and_not_idleness() {
    let mut bmc = Bmc::start(hgx()).await;
    let (mut source, mut engine) = (source(&[&bmc]), engine());
    for seconds in [0, 30, 60] {
        if seconds == 60 {
            bmc.go().await;
        }
        engine.tick(at(seconds), &source.look().await, HolderNews::default());
    }
    engine.finish(at(90));
    let contents = engine.take();
    assert!(contents.windows.is_empty());
    let causes: Vec<(GapCause, u64)> = contents
        .gaps
        .iter()
        .filter(|gap| gap.accelerator.as_str() == FIRST)
        .map(|gap| (gap.cause, gap.span.millis()))
        .collect();
    assert_eq!(causes, [(GapCause::Stale, 60_000), (GapCause::Unreachable, 30_000)]);
}
