//! What stands in the way of a better reading, by name.

use weighbridge_meter::Condition;

use super::*;

fn one(more: &str) -> String {
    format!(
        r#"
driver_version = "580.95.05"
{more}
uuid = "{HOPPER}"
name = "NVIDIA H100 80GB HBM3"
sm_clock_mhz = 1500
power_limit_mw = 700000
energy_start_mj = 1000000000000000
energy_mw = 500000
gpm = true
gpm_percent = {{ any_tensor = 50.0, sm = 90.0 }}
gpu_util = 97
pids = [4194305, 1, 0]
"#
    )
}

fn rated(devices: &[Device]) -> (Tier, &[Condition]) {
    let device = known(devices, HOPPER);
    (device.tier, &device.conditions)
}

#[tokio::test]
async fn streaming_that_is_switched_off_is_named_and_comes_back() {
    let mut bench = Bench::of(&one("[[device]]\nstreaming = true"));
    bench.look_until("activity", |look| activity(look).is_some_and(|a| a.tensor == percent(50.0))).await;
    bench.driver.set(HOPPER, Fault::StreamingOff).unwrap();
    let look = bench.look().await;
    assert_eq!(rated(look.inventory_changed.as_deref().unwrap()), (Tier::D, &[Condition::StreamingOff][..]));
    let seen = reading(&look, HOPPER).unwrap();
    assert_eq!((seen.activity, seen.busy), (Activity::default(), percent(97.0)), "zeros are not believed");
    bench.driver.clear(HOPPER, Fault::StreamingOff).unwrap();
    let look = bench.look().await;
    assert_eq!(rated(look.inventory_changed.as_deref().unwrap()), (Tier::B, &[][..]));
    bench.look_until("activity", |look| activity(look).is_some_and(|a| a.tensor == percent(50.0))).await;
}

#[tokio::test]
async fn streaming_that_was_never_on_is_believed_to_be_off_only_when_nothing_comes() {
    let mut bench = Bench::of(&one("[[device]]\nstreaming = false"));
    let look = bench.look_until("activity", |look| activity(look).is_some_and(|a| a.tensor.is_some())).await;
    assert_eq!(look.inventory_changed, None);
    bench.driver.set(HOPPER, Fault::StreamingOff).unwrap();
    let devices = bench.inventory_until("the state", |devices| known(devices, HOPPER).tier == Tier::D).await;
    assert_eq!(rated(&devices), (Tier::D, &[Condition::StreamingOff][..]));
}

#[tokio::test]
async fn confidential_computing_leaves_utilisation_and_says_why() {
    let mut bench = Bench::of(&one("confidential = true\n[[device]]"));
    let look = bench.look().await;
    let devices = look.inventory_changed.as_deref().unwrap();
    assert_eq!(rated(devices), (Tier::D, &[Condition::ConfidentialComputing][..]));
    let seen = reading(&look, HOPPER).unwrap();
    assert_eq!(
        (seen.activity, seen.busy, seen.sm_clock_mhz),
        (Activity::default(), percent(97.0), Some(1500))
    );
}

#[tokio::test]
async fn an_unknown_architecture_is_named_and_metered_by_what_answers() {
    for unknown in ["rubin", "unknown"] {
        let mut bench = Bench::of(&one(&format!("[[device]]\narchitecture = \"{unknown}\"")));
        let look = bench.look().await;
        let devices = look.inventory_changed.as_deref().unwrap();
        assert_eq!(rated(devices), (Tier::B, &[Condition::UnknownArchitecture][..]), "{unknown}");
        bench.look_until("activity", |look| activity(look).is_some_and(|a| a.tensor == percent(50.0))).await;
    }
}

#[tokio::test]
async fn gpm_that_may_not_be_read_leaves_utilisation() {
    let mut bench = Bench::of(&one("[[device]]"));
    bench.driver.set(HOPPER, Fault::NoPermission).unwrap();
    let look = bench.look().await;
    assert_eq!(rated(look.inventory_changed.as_deref().unwrap()), (Tier::D, &[][..]));
    assert_eq!(reading(&look, HOPPER).unwrap().busy, percent(97.0));
}

#[tokio::test]
async fn an_energy_counter_near_zero_is_a_driver_that_was_loaded_anew() {
    let mut bench = Bench::of(&one("[[device]]\ncumulative = \"mean\""));
    bench.inventory_until("tier A", |devices| known(devices, HOPPER).tier == Tier::A).await;
    bench.driver.set(HOPPER, Fault::Reloaded).unwrap();
    let look = bench.look().await;
    assert_eq!(missing(&look, HOPPER), Some(GapCause::DriverReloaded));
    // A gap of one look; how counters are scaled is found out again.
    let look = bench.look().await;
    assert_eq!(missing(&look, HOPPER), None);
    bench.inventory_until("tier A", |devices| known(devices, HOPPER).tier == Tier::A).await;
}

#[tokio::test]
async fn processes_that_do_not_exist_are_passed_on_and_fail_nothing() {
    let mut bench = Bench::of(&one("[[device]]"));
    // One is above what the kernel can give out; zero is not even a number of a process.
    assert_eq!(device(&bench.look().await, HOPPER).pids, Some(vec![1, 4_194_305]));
}

#[tokio::test]
async fn one_silent_device_of_eight_is_the_only_gap() {
    let uuid = |number: usize| format!("GPU-{number}");
    let devices: String = (0..8)
        .map(|number| {
            format!("[[device]]\nuuid = \"{}\"\nname = \"NVIDIA L4\"\ngpu_util = 7\n", uuid(number))
        })
        .collect();
    let script = format!("driver_version = \"580.95.05\"\n{devices}");
    let options = NvmlOptions { deadline: Duration::from_secs(1), ..patient() };
    let mut bench = Bench::with(&script, options, Duration::from_millis(20));
    bench.look().await;
    bench.driver.set(&uuid(3), Fault::Hang).unwrap();
    let look = bench.look().await;
    let missing: Vec<_> = (0..8).map(|number| missing(&look, &uuid(number))).collect();
    let mut expected = vec![None; 8];
    expected[3] = Some(GapCause::CallHung);
    assert_eq!(missing, expected);
    bench.driver.clear(&uuid(3), Fault::Hang).unwrap();
}
