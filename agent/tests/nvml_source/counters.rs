//! Cumulative counters: their scale, what is made of them, and drivers that do not have them; clocks and traffic.

use weighbridge_meter::{
    AcceleratorTable, Condition, Estimator, Meter, Observed, UtcMillis,
    meter::{Now, Pace},
    reading::Traffic,
    window::Counter,
};

use super::*;

/// One H100, every pipe told, cumulative counters as `cumulative` says.
fn script(cumulative: &str) -> String {
    format!(
        r#"
driver_version = "595.45.04"
[[device]]
uuid = "{HOPPER}"
name = "NVIDIA H100 80GB HBM3"
pci_device = "10de:2330"
architecture = "hopper"
sms = 132
sm_clock_mhz = 1500
power_limit_mw = 700000
energy_start_mj = 1000000000000000
energy_mw = 500000
gpm = true
streaming = true
gpm_percent = {{ any_tensor = 50.0, hmma = 40.0, imma = 5.0, dfma = 1.0, dmma = 2.0, fp64 = 2.0, fp32 = 3.0, fp16 = 4.0, sm = 90.0, integer = 6.0, dram = 30.0 }}
gpm_mib_per_s = {{ pcie_tx = 1.0, pcie_rx = 2.0, nvlink_tx = 3.0, nvlink_rx = 4.0 }}
gpu_util = 97
{cumulative}
"#
    )
}

fn rated(devices: &[Device]) -> (Tier, &[Condition]) {
    let device = known(devices, HOPPER);
    (device.tier, &device.conditions)
}

const CALIBRATED: (Tier, &[Condition]) = (Tier::A, &[]);

#[tokio::test]
async fn counters_of_either_scale_become_cycles_of_one_sm() {
    for scale in ["sum", "mean"] {
        let mut bench = Bench::of(&script(&format!("cumulative = \"{scale}\"")));
        let calibrating = (Tier::B, &[Condition::Calibrating][..]);
        bench.inventory_until("calibration", |devices| rated(devices) == calibrating).await;
        let first = bench.look_until("tier A", |look| {
            look.inventory_changed.as_deref().is_some_and(|devices| rated(devices) == CALIBRATED)
        });
        let first = reading(&first.await, HOPPER).unwrap();
        let renewed = |look: &Look| reading(look, HOPPER).is_some_and(|later| later.totals != first.totals);
        let later = reading(&bench.look_until("new samples", renewed).await, HOPPER).unwrap();
        let added = later.totals.since(&first.totals).unwrap();
        let elapsed = added.get(Counter::ElapsedCycles).unwrap();
        // 1500 MHz for a tenth of a second or more, of one SM: 132 of them would be 132 times as much.
        assert!((150_000_000..15_000_000_000).contains(&elapsed), "{scale}: {elapsed}");
        let part = |counter| added.get(counter).unwrap() as f64 / elapsed as f64;
        for (counter, expected) in [
            (Counter::TensorCycles, 0.5),
            (Counter::HmmaCycles, 0.4),
            (Counter::ImmaCycles, 0.05),
            (Counter::DfmaCycles, 0.03),
            (Counter::Fp64Cycles, 0.02),
            (Counter::Fp32Cycles, 0.03),
            (Counter::Fp16Cycles, 0.04),
            (Counter::IntegerCycles, 0.06),
            (Counter::SmCycles, 0.9),
        ] {
            assert!((part(counter) - expected).abs() < 1e-6, "{scale}: {counter} {}", part(counter));
        }
        assert!(added.get(Counter::PcieTxBytes) > Some(0));
        assert_eq!(later.activity.tensor, percent(50.0), "ratios are passed on for features");
    }
}

#[tokio::test]
async fn of_a_model_that_the_table_does_not_have_the_driver_tells_the_sms() {
    let unheard_of = script("cumulative = \"sum\"\nnum_cores = 16896")
        .replace("NVIDIA H100 80GB HBM3", "NVIDIA Unheard Of")
        .replace("pci_device = \"10de:2330\"\n", "");
    let mut bench = Bench::of(&unheard_of);
    bench.inventory_until("tier A", |devices| rated(devices) == CALIBRATED).await;
}

#[tokio::test]
async fn operations_from_scripted_counters_are_exact_to_the_integer() {
    let mut bench = Bench::of(&script("cumulative = \"sum\""));
    bench.inventory_until("tier A", |devices| rated(devices) == CALIBRATED).await;
    // Above whatever was counted since boot. Two looks a second apart, as far as the meter is told.
    let start = 1_u64 << 60;
    let second = 1_500_000_000 * 132;
    let mut meter = Meter::new(
        HOPPER.parse().unwrap(),
        Source::Nvml,
        Tier::A,
        Pace { window_ms: 60_000, longest_tick_ms: 20_000 },
    );
    for step in 0..=2_u64 {
        // Kept exact in the driver's floats: multiples of 2^8, which 132 / 4 x 1.5e9 x parts of a hundred are.
        let cycles = |hundredths: u64| (start + step * second * hundredths / 100) / 256 * 256;
        let pipes = [(248, 100), (249, 90), (250, 50), (251, 2), (252, 40), (253, 5), (254, 1)];
        let vector = [(257, 6), (258, 2), (259, 3), (260, 4)];
        let totals: Vec<_> = pipes.into_iter().chain(vector).map(|(id, part)| (id, cycles(part))).collect();
        bench.driver.set_totals(HOPPER, &totals).unwrap();
        let elapsed = |look: &Look| reading(look, HOPPER)?.totals.get(Counter::ElapsedCycles);
        let look = bench.look_until("them", |look| elapsed(look) == Some(cycles(100) / 132)).await;
        let reading = reading(&look, HOPPER).unwrap();
        meter.observe(
            Now { boot_ms: 5_000 + step * 1000, wall: UtcMillis(60_000 + (step * 1000).cast_signed()) },
            DeviceState::Read(reading),
        );
    }
    meter.cut();
    let windows: Vec<_> = meter.drain().collect();
    let [Observed::Window(window)] = &windows[..] else { panic!("{windows:?} is not one window") };
    assert_eq!(window.span.millis(), 2000);
    for (counter, expected) in [
        (Counter::ElapsedCycles, 3_000_000_000),
        (Counter::TensorCycles, 1_500_000_000),
        (Counter::HmmaCycles, 1_200_000_000),
        (Counter::ImmaCycles, 150_000_000),
        (Counter::DfmaCycles, 90_000_000),
        (Counter::Fp64Cycles, 60_000_000),
        (Counter::Fp32Cycles, 90_000_000),
        (Counter::Fp16Cycles, 120_000_000),
        (Counter::IntegerCycles, 180_000_000),
        (Counter::SmCycles, 2_700_000_000),
    ] {
        let counted = window.counters.get(counter).unwrap();
        assert!(counted.abs_diff(expected) <= 1, "{counter}: {counted} is not {expected}");
    }
    // Of 132 x 4096 = 540672 in a clock, in teraoperations: HMMA and rest (1.5 - 0.15 - 0.09)e9 = 681.24672,
    // IMMA 0.15e9 x 1978.9 / 989.4 = 162.20980, DFMA 0.09e9 x 66.9 / 989.4 = 3.29028; vector 16896 lanes:
    // FP32 0.09e9 x 2 = 3.04128, FP16 0.12e9 x 4 = 8.11008, FP64 0.06e9 x 2 x 33.5 / 66.9 = 1.01528.
    // best 858.913; low 0.95 x (340.62336 + 165.50008) = 480.82; high 1.05 x (1362.49344 + 165.50008) + 12.16664
    // + integer 0.18e9 x 2 x 16896 = 6.08256: 1622.64.
    let table = AcceleratorTable::shipped();
    let model = table.find(Some("10de:2330"), "").unwrap();
    let bound = Estimator::shipped().estimate(model, window).bound;
    assert_eq!((bound.low().tera(), bound.best().tera(), bound.high().tera()), (480, 859, 1624));
}

#[tokio::test]
async fn counters_that_drift_against_the_ratios_are_refused() {
    let mut bench = Bench::of(&script("cumulative = \"sum\""));
    bench.inventory_until("tier A", |devices| rated(devices) == CALIBRATED).await;
    bench.driver.set(HOPPER, Fault::Drift).unwrap();
    let refused = (Tier::B, &[Condition::CountersRefused][..]);
    bench.inventory_until("refusal", |devices| rated(devices) == refused).await;
    for _ in 0..10 {
        let look = bench.look().await;
        let reading = reading(&look, HOPPER).unwrap();
        assert!(reading.totals.is_empty() && look.inventory_changed.is_none());
        assert_eq!(reading.activity.tensor, percent(50.0));
    }
}

#[tokio::test]
async fn drivers_without_the_counters_are_read_by_ratios_and_nothing_is_said_of_it() {
    for refusal in ["metric", "call"] {
        let mut bench = Bench::of(&script(&format!("unknown_metric = \"{refusal}\"")));
        let look =
            bench.look_until("activity", |look| activity(look).is_some_and(|a| a.tensor.is_some())).await;
        let reading = reading(&look, HOPPER).unwrap();
        let told = (reading.activity.integer, reading.activity.dfma, reading.dram);
        assert_eq!(told, (percent(6.0), percent(1.0), percent(30.0)), "{refusal}");
        let traffic = Traffic {
            pcie_tx: Some(1_048_576),
            pcie_rx: Some(2_097_152),
            nvlink_tx: Some(3_145_728),
            nvlink_rx: Some(4_194_304),
            infiniband: None,
        };
        assert_eq!(reading.traffic, traffic);
        for _ in 0..8 {
            let look = bench.look().await;
            assert!(look.inventory_changed.is_none(), "{refusal}: {look:?}");
        }
    }
}

#[tokio::test]
async fn a_call_that_hung_loses_nothing_of_what_was_counted_meanwhile() {
    let options = NvmlOptions { deadline: Duration::from_millis(500), ..patient() };
    let mut bench = Bench::with(&script("cumulative = \"sum\""), options, Duration::from_millis(110));
    bench.inventory_until("tier A", |devices| rated(devices) == CALIBRATED).await;
    let before = reading(&bench.look().await, HOPPER).unwrap();
    bench.driver.set(HOPPER, Fault::Hang).unwrap();
    bench.look_until("the fault", |look| missing(look, HOPPER) == Some(GapCause::CallHung)).await;
    bench.driver.clear(HOPPER, Fault::Hang).unwrap();
    let look = bench.look_until("it read again", |look| reading(look, HOPPER).is_some()).await;
    let after = reading(&look, HOPPER).unwrap();
    assert_eq!(after.activity, Activity::default());
    let added = after.totals.since(&before.totals).unwrap();
    let (elapsed, tensor) =
        (added.get(Counter::ElapsedCycles).unwrap(), added.get(Counter::TensorCycles).unwrap());
    assert!(elapsed > 750_000_000 && elapsed.abs_diff(tensor * 2) <= 300, "{elapsed} and {tensor}");
}

#[tokio::test]
async fn the_clock_is_the_mean_of_the_drivers_samples_since_the_last_look() {
    let mut bench = Bench::of(&script("clock_samples = [1200, 1300, 1700]"));
    assert_eq!(reading(&bench.look().await, HOPPER).unwrap().sm_clock_mhz, Some(1500), "as it is now");
    assert_eq!(reading(&bench.look().await, HOPPER).unwrap().sm_clock_mhz, Some(1400));
}
