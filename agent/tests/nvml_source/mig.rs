//! MIG: instances as devices of their own, read by the thread of their device.

use weighbridge_agent::source::Instance;
use weighbridge_meter::{Condition, window::Counter};

use super::*;

const SMALL: &str = "MIG-00000000-0000-0000-0000-000000000001";
const LARGE: &str = "MIG-00000000-0000-0000-0000-000000000002";

fn script(more: &str) -> String {
    format!(
        r#"
driver_version = "595.45.04"
[[device]]
uuid = "{HOPPER}"
name = "NVIDIA H100 80GB HBM3"
pci_bus_id = "00000000:1A:00.0"
pci_device = "10de:2330"
architecture = "rubin"
sms = 132
sm_clock_mhz = 1500
max_sm_clock_mhz = 1980
power_mw = 500000
power_limit_mw = 700000
mig = true
gpm = true
gpm_percent = {{ any_tensor = 11.0, sm = 22.0 }}
gpu_util = 97
pids = [1]
{more}
[[device.instance]]
uuid = "{SMALL}"
gi = 9
ci = 0
sms = 16
memory_mib = 9728
recreated_sms = 32
gpm_percent = {{ any_tensor = 50.0, sm = 90.0 }}
pids = [4711]
[[device.instance]]
uuid = "{LARGE}"
gi = 1
ci = 0
sms = 60
gi_slices = 3
ci_slices = 3
recreated_ci = 4
gpm_percent = {{ any_tensor = 25.0, sm = 45.0 }}
"#
    )
}

fn tensor(look: &Look, uuid: &str) -> Option<Ratio> {
    reading(look, uuid)?.activity.tensor
}

/// Both instances read, with activity.
async fn settled(script: &str) -> Bench {
    let mut bench = Bench::of(script);
    let both = |look: &Look| {
        look.devices.len() == 3
            && (tensor(look, SMALL), tensor(look, LARGE)) == (percent(50.0), percent(25.0))
    };
    bench.look_until("activity of both", both).await;
    bench
}

#[tokio::test]
async fn instances_are_devices_of_their_own_and_the_split_one_is_not_metered() {
    let mut bench = Bench::of(&script(""));
    let look = bench.look().await;
    let devices = look.inventory_changed.as_deref().unwrap();
    let parent = known(devices, HOPPER);
    assert!(!parent.present);
    assert_eq!(parent.conditions, [Condition::UnknownArchitecture, Condition::Split]);
    let small = known(devices, SMALL);
    let expected = Device {
        id: SMALL.parse().unwrap(),
        parent: Some(HOPPER.parse().unwrap()),
        units: Some(16),
        instance: Some(Instance { gi: 9, ci: 0 }),
        memory_bytes: Some(9728 << 20),
        power_limit_mw: None,
        conditions: vec![Condition::UnknownArchitecture],
        present: true,
        ..parent.clone()
    };
    assert_eq!(*small, expected);
    assert_eq!((small.name.as_str(), small.tier), ("NVIDIA H100 80GB HBM3", Tier::B));
    assert_eq!(known(devices, LARGE).units, Some(60));
    assert_eq!(device(&look, SMALL).pids, Some(vec![4711]));

    let look = bench.look_until("activity", |look| tensor(look, SMALL).is_some()).await;
    let seen = reading(&look, SMALL).unwrap();
    assert_eq!((seen.sm_clock_mhz, seen.activity.sm), (Some(1500), percent(90.0)));
    assert_eq!((seen.busy, seen.power_mw, seen.energy_mj), (None, None, None), "not told apart");
    assert_eq!(tensor(&look, LARGE), percent(25.0));
}

#[tokio::test]
async fn counters_of_an_instance_are_sums_over_its_own_sms() {
    let mut bench = Bench::of(&script("cumulative = \"sum\""));
    let both = |devices: &[Device]| {
        devices.len() == 3 && [SMALL, LARGE].iter().all(|uuid| known(devices, uuid).tier == Tier::A)
    };
    bench.inventory_until("tier A", both).await;
    let began = tokio::time::Instant::now();
    let first = bench.look().await;
    let totals = |look: &Look| [SMALL, LARGE].map(|uuid| reading(look, uuid).unwrap().totals);
    let renewed = |look: &Look| totals(look).iter().zip(totals(&first)).all(|(now, before)| *now != before);
    let later = bench.look_until("new samples", renewed).await;
    // 1500 MHz for no longer than that and the tick before it; of all 16 SMs it would be 16 times as much.
    let most = (began.elapsed() + Duration::from_millis(220)).as_micros() * 1500;
    for uuid in [SMALL, LARGE] {
        let total = |look| reading(look, uuid).unwrap().totals.get(Counter::ElapsedCycles).unwrap();
        let elapsed = total(&later) - total(&first);
        assert!(elapsed >= 150_000_000 && u128::from(elapsed) <= most, "{uuid}: {elapsed} of {most}");
    }
}

#[tokio::test]
async fn an_instance_that_is_removed_is_gone_by_design_and_the_others_go_on() {
    let mut bench = settled(&script("")).await;
    bench.driver.set(SMALL, Fault::Gone).unwrap();
    let mut large = Vec::new();
    let devices = loop {
        let look = bench.look().await;
        large.push(tensor(&look, LARGE));
        if let Some(devices) = look.inventory_changed {
            break devices;
        }
        assert!(large.len() < 5, "the search does not wait");
    };
    assert!(!known(&devices, SMALL).present && known(&devices, LARGE).present);
    assert_eq!(large, vec![percent(25.0); large.len()], "no look without activity");

    bench.driver.clear(SMALL, Fault::Gone).unwrap();
    let devices = bench.inventory_until("it again", |devices| known(devices, SMALL).present).await;
    assert_eq!(known(&devices, SMALL).units, Some(16));
    bench.look_until("activity", |look| tensor(look, SMALL) == percent(50.0)).await;
}

#[tokio::test]
async fn an_instance_made_anew_with_other_units_starts_a_new_base() {
    let mut bench = settled(&script("")).await;
    bench.driver.set(SMALL, Fault::Recreated).unwrap();
    let look = bench.look().await;
    assert_eq!(missing(&look, SMALL), Some(GapCause::InstanceRecreated));
    assert_eq!(known(look.inventory_changed.as_deref().unwrap(), SMALL).units, Some(32));
    assert_eq!(tensor(&look, LARGE), percent(25.0));
    let look = bench.look().await;
    assert_eq!(missing(&look, SMALL), None, "a gap of one look");
    bench.look_until("activity", |look| tensor(look, SMALL) == percent(50.0)).await;
}

#[tokio::test]
async fn an_instance_with_another_compute_instance_was_made_anew() {
    let mut bench = settled(&script("")).await;
    bench.driver.set(LARGE, Fault::Recreated).unwrap();
    assert_eq!(missing(&bench.look().await, LARGE), Some(GapCause::InstanceRecreated));
}

#[tokio::test]
async fn an_instance_whose_counters_begin_again_was_made_anew() {
    let same = script("cumulative = \"sum\"").replace("recreated_sms = 32\n", "");
    let mut bench = Bench::of(&same);
    let calibrated = |devices: &[Device]| devices.len() == 3 && known(devices, SMALL).tier == Tier::A;
    bench.inventory_until("tier A", calibrated).await;
    bench.driver.set(SMALL, Fault::Recreated).unwrap();
    bench.look_until("it", |look| missing(look, SMALL) == Some(GapCause::InstanceRecreated)).await;
    let look = bench.look().await;
    assert_eq!(missing(&look, SMALL), None);
}

#[tokio::test]
async fn another_instance_under_the_same_number_is_not_taken_for_the_old_one() {
    const OTHER: &str = "MIG-00000000-0000-0000-0000-000000000003";
    let other = format!(
        "[[device.instance]]\nuuid = \"{OTHER}\"\ngi = 9\nci = 1\nsms = 16\ngpm_percent = {{ any_tensor = 75.0 }}\n"
    );
    let mut bench = Bench::of(&(script("") + &other));
    bench.driver.set(OTHER, Fault::Gone).unwrap();
    bench.look_until("activity", |look| tensor(look, SMALL) == percent(50.0)).await;
    bench.driver.set(SMALL, Fault::Gone).unwrap();
    bench.driver.clear(OTHER, Fault::Gone).unwrap();
    assert_eq!(reading(&bench.look().await, SMALL), None);
    let look = bench.look_until("activity", |look| {
        look.devices.iter().any(|one| one.id.as_str() == OTHER) && tensor(look, OTHER) == percent(75.0)
    });
    assert_eq!(reading(&look.await, SMALL), None);
}

#[tokio::test]
async fn an_instance_without_a_compute_instance_is_named_for_as_long_as_it_is_there() {
    let mut bench = settled(&script("")).await;
    bench.driver.set(SMALL, Fault::NoCompute).unwrap();
    bench.look_until("it", |look| missing(look, SMALL) == Some(GapCause::NoComputeInstance)).await;
    for _ in 0..10 {
        let look = bench.look().await;
        assert_eq!(missing(&look, SMALL), Some(GapCause::NoComputeInstance));
        assert_eq!(tensor(&look, LARGE), percent(25.0));
        assert_eq!(look.inventory_changed, None, "it is still there");
    }
    bench.driver.clear(SMALL, Fault::NoCompute).unwrap();
    bench.look_until("activity", |look| tensor(look, SMALL) == percent(50.0)).await;
}

#[tokio::test]
async fn an_instance_of_which_gpm_has_no_data_has_no_compute_instance() {
    let mut bench = settled(&script("")).await;
    bench.driver.set(SMALL, Fault::NoData).unwrap();
    // Not in the first look if its sample comes too soon after the one before.
    bench.look_until("it", |look| missing(look, SMALL) == Some(GapCause::NoComputeInstance)).await;
}

#[tokio::test]
async fn without_the_right_to_monitor_mig_an_instance_is_metered_by_allocation() {
    let mut bench = Bench::of(&script(""));
    for uuid in [SMALL, LARGE] {
        bench.driver.set(uuid, Fault::NoPermission).unwrap();
    }
    let look = bench.look().await;
    let devices = look.inventory_changed.as_deref().unwrap();
    let small = known(devices, SMALL);
    assert_eq!(small.tier, Tier::E);
    assert_eq!(small.conditions, [Condition::UnknownArchitecture, Condition::NoMigMonitor]);
    assert_eq!(tensor(&look, SMALL), None);
    assert_eq!(missing(&look, SMALL), None, "it is there, and that is read");
}

#[tokio::test]
async fn activity_of_a_gpu_instance_is_not_given_to_one_of_several_compute_instances() {
    let shared = script("").replace("ci_slices = 3", "ci_slices = 1");
    let mut bench = Bench::of(&shared);
    let look = bench.look().await;
    let devices = look.inventory_changed.as_deref().unwrap();
    assert_eq!(known(devices, LARGE).tier, Tier::E);
    assert!(known(devices, LARGE).conditions.contains(&Condition::SecondaryPartition));
    let look = bench.look_until("activity", |look| tensor(look, SMALL).is_some()).await;
    assert_eq!(tensor(&look, LARGE), None);
}

#[tokio::test]
async fn mig_switched_on_and_off_while_running_is_noticed() {
    // It is searched for at once, or it would be for ever.
    let options = NvmlOptions { search_every: u32::MAX, ..patient() };
    let whole = script("").replace("mig = true", "mig = false");
    let mut bench = Bench::with(&whole, options, Duration::from_millis(110));
    bench.look_until("activity of the whole", |look| tensor(look, HOPPER) == percent(11.0)).await;
    bench.driver.set(HOPPER, Fault::MigTurned).unwrap();
    let devices = bench.inventory_until("instances", |devices| devices.len() == 3).await;
    assert!(!known(&devices, HOPPER).present && known(&devices, SMALL).present);
    bench.look_until("activity", |look| tensor(look, SMALL) == percent(50.0)).await;
    bench.driver.clear(HOPPER, Fault::MigTurned).unwrap();
    let devices = bench.inventory_until("the whole", |devices| known(devices, HOPPER).present).await;
    assert!(!known(&devices, SMALL).present && !known(&devices, LARGE).present);
    assert_eq!(known(&devices, HOPPER).conditions, [Condition::UnknownArchitecture]);
    bench.look_until("activity of the whole", |look| tensor(look, HOPPER) == percent(11.0)).await;
}

#[tokio::test]
async fn an_instance_or_a_split_that_cannot_be_asked_about_stays_as_it_was() {
    for uuid in [SMALL, HOPPER] {
        let mut bench = settled(&script("")).await;
        bench.driver.set(uuid, Fault::Unnamed).unwrap();
        let unidentified = u32::from(uuid == SMALL);
        bench.look_until("the search", |look| look.unidentified == unidentified).await;
        for _ in 0..10 {
            let look = bench.look().await;
            assert_eq!((tensor(&look, SMALL), tensor(&look, LARGE)), (percent(50.0), percent(25.0)));
            assert_eq!((look.inventory_changed, look.unidentified), (None, unidentified));
        }
    }
}

#[tokio::test]
async fn what_happens_to_a_device_happens_to_its_instances() {
    let mut bench = settled(&script("")).await;
    for (fault, cause) in [(Fault::Error, GapCause::ReadFailed), (Fault::Lost, GapCause::DeviceLost)] {
        bench.driver.set(HOPPER, fault).unwrap();
        let look = bench.look().await;
        assert_eq!([SMALL, LARGE].map(|uuid| missing(&look, uuid)), [Some(cause); 2]);
        bench.driver.clear(HOPPER, fault).unwrap();
        bench.look_until("activity", |look| tensor(look, SMALL) == percent(50.0)).await;
    }
}

#[tokio::test]
async fn eight_devices_with_seven_instances_each_are_read_by_eight_threads_with_two_samples_each() {
    let mut text = "driver_version = \"595.45.04\"\n".to_owned();
    for card in 0..8 {
        text += &format!(
            "[[device]]\nuuid = \"GPU-{card}\"\nname = \"NVIDIA H100 80GB HBM3\"\nmig = true\ngpm = true\n"
        );
        for part in 0..7 {
            text += &format!(
                "[[device.instance]]\nuuid = \"MIG-{card}-{part}\"\ngi = {}\nci = 0\nsms = 16\n\
                 gpm_percent = {{ any_tensor = 50.0 }}\n",
                7 + part
            );
        }
    }
    let mut bench = Bench::of(&text);
    let all_read = |look: &Look| {
        let read = look.devices.iter().filter(|one| tensor(look, one.id.as_str()) == percent(50.0));
        read.count() == 56
    };
    bench.look_until("all of them", all_read).await;
    for _ in 0..5 {
        bench.look().await;
    }
    assert_eq!(bench.driver.samplers(), Some((8, 2 * 56)));
}
