//! The NVML source against a fake driver library, through the real loader, wrapper and threads.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "nvml_source/counters.rs"]
mod counters;
#[path = "nvml_source/mig.rs"]
mod mig;
#[path = "nvml_source/release.rs"]
mod release;
#[path = "nvml_source/states.rs"]
mod states;

use std::{path::Path, time::Duration};

use tempfile::TempDir;
use tokio::time::{Interval, MissedTickBehavior};
use weighbridge_agent::source::{
    AcceleratorSource, Device, DeviceLook, Look, NvmlOptions, NvmlSource, SourceState,
};
use weighbridge_fake_nvml::{DriverFault, FakeDriver, Fault};
use weighbridge_meter::{
    DeviceState, GapCause, Reading, Source, Tier,
    reading::{Activity, Ratio},
};

const HOPPER: &str = "GPU-00000000-0000-0000-0000-000000000001";
const AMPERE: &str = "GPU-00000000-0000-0000-0000-000000000002";

const SCRIPT: &str = r#"
driver_version = "580.95.05"

[[device]]
uuid = "GPU-00000000-0000-0000-0000-000000000001"
name = "NVIDIA H100 80GB HBM3"
pci_bus_id = "00000000:1A:00.0"
pci_device = "10de:2330"
architecture = "hopper"
sm_clock_mhz = 1500
max_sm_clock_mhz = 1980
power_mw = 500000
power_limit_mw = 700000
energy_start_mj = 1000000000000000
energy_mw = 500000
memory_bytes = 85899345920
mig = false
gpm = true
gpm_percent = { any_tensor = 50.0, hmma = 40.0, imma = 5.0, dfma = 1.0, fp64 = 2.0, fp32 = 3.0, sm = 90.0 }
gpu_util = 97
pids = [4712, 4711, 4712]
vgpus = ["BBBBBBBB-0000-0000-0000-000000000000", "7", "aaaaaaaa-0000-0000-0000-000000000000", "", "7"]

[[device]]
uuid = "GPU-00000000-0000-0000-0000-000000000002"
name = "NVIDIA A100-SXM4-80GB"
sm_clock_mhz = 1410
power_mw = 400000
gpu_util = 50
"#;

/// More looks than any state here takes to show.
const MANY_LOOKS: usize = 400;

/// A fake driver, a source that reads it, and the tick between looks.
struct Bench {
    driver: FakeDriver,
    source: NvmlSource,
    tick: Interval,
    _folder: TempDir,
}

impl Bench {
    fn with(script: &str, options: NvmlOptions, tick: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let driver = FakeDriver::install(folder.path(), script).unwrap();
        let source = NvmlSource::start(NvmlOptions { library: driver.library(), ..options });
        Self { driver, source, tick: interval(tick), _folder: folder }
    }

    /// Looks often, searches often, and waits long for what must answer.
    fn new() -> Self {
        Self::with(SCRIPT, patient(), Duration::from_millis(20))
    }

    /// As [`Bench::new`], but soon done with what will not answer.
    fn impatient() -> Self {
        let options = NvmlOptions { deadline: Duration::from_secs(1), ..patient() };
        Self::with(SCRIPT, options, Duration::from_millis(20))
    }

    async fn look(&mut self) -> Look {
        self.tick.tick().await;
        self.source.look().await
    }

    /// Looks until it sees this, within bounds.
    async fn look_until(&mut self, what: &str, seen: impl Fn(&Look) -> bool) -> Look {
        let mut last = None;
        for _ in 0..MANY_LOOKS {
            let look = self.look().await;
            if seen(&look) {
                return look;
            }
            last = Some(look);
        }
        panic!("never saw {what}; last was {last:?}");
    }

    /// Another machine, looked at so far apart that a look has new samples, unless the look before was late.
    fn of(script: &str) -> Self {
        Self::with(script, patient(), Duration::from_millis(110))
    }

    /// Looks until the inventory says this of a device, within bounds.
    async fn inventory_until(&mut self, what: &str, seen: impl Fn(&[Device]) -> bool) -> Vec<Device> {
        let of = |look: &Look| look.inventory_changed.clone();
        let look = self.look_until(what, |look| of(look).is_some_and(|devices| seen(&devices))).await;
        look.inventory_changed.unwrap()
    }

    /// Past the first looks: both devices are read, the first with activity.
    async fn settled() -> Self {
        let mut bench = Self::impatient();
        bench.look_until("activity", |look| activity(look) == Some(hopper_activity())).await;
        bench
    }
}

fn patient() -> NvmlOptions {
    NvmlOptions {
        deadline: Duration::from_secs(10),
        search_every: 3,
        pids_every: 4,
        ..NvmlOptions::default()
    }
}

fn interval(tick: Duration) -> Interval {
    let mut interval = tokio::time::interval(tick);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn known<'a>(devices: &'a [Device], uuid: &str) -> &'a Device {
    devices.iter().find(|device| device.id.as_str() == uuid).unwrap()
}

fn device<'a>(look: &'a Look, uuid: &str) -> &'a DeviceLook {
    look.devices.iter().find(|device| device.id.as_str() == uuid).unwrap()
}

fn missing(look: &Look, uuid: &str) -> Option<GapCause> {
    match device(look, uuid).state {
        DeviceState::Read(_) => None,
        DeviceState::Missing(cause) => Some(cause),
    }
}

fn reading(look: &Look, uuid: &str) -> Option<Reading> {
    match device(look, uuid).state {
        DeviceState::Read(reading) => Some(reading),
        DeviceState::Missing(_) => None,
    }
}

fn activity(look: &Look) -> Option<Activity> {
    reading(look, HOPPER).map(|reading| reading.activity)
}

fn percent(percent: f64) -> Option<Ratio> {
    Some(Ratio::from_percent(percent).unwrap())
}

/// What the script says; FP16 it does not support.
fn hopper_activity() -> Activity {
    Activity {
        tensor: percent(50.0),
        hmma: percent(40.0),
        imma: percent(5.0),
        dfma: percent(1.0),
        fp64: percent(2.0),
        fp32: percent(3.0),
        fp16: None,
        sm: percent(90.0),
        integer: None,
    }
}

fn ampere_reading() -> Reading {
    Reading {
        sm_clock_mhz: Some(1410),
        activity: Activity::default(),
        busy: percent(50.0),
        power_mw: Some(400_000),
        energy_mj: None,
        ..Reading::default()
    }
}

/// Breaks the first device, looks until the cause shows, checks that the second goes on, and mends it again.
/// Then the first reading must be a fresh base: without activity, though the fault took longer than 100 ms.
async fn breaks_and_mends(fault: Fault, cause: GapCause) {
    let mut bench = Bench::settled().await;
    bench.driver.set(HOPPER, fault).unwrap();
    bench.look_until("the fault", |look| missing(look, HOPPER) == Some(cause)).await;
    for _ in 0..10 {
        let look = bench.look().await;
        assert_eq!(missing(&look, HOPPER), Some(cause));
        assert_eq!(reading(&look, AMPERE), Some(ampere_reading()));
    }
    bench.driver.clear(HOPPER, fault).unwrap();
    let first = bench.look_until("it read again", |look| reading(look, HOPPER).is_some()).await;
    assert_eq!(activity(&first), Some(Activity::default()));
    bench.look_until("activity", |look| activity(look) == Some(hopper_activity())).await;
}

#[tokio::test]
async fn the_first_look_finds_what_is_there() {
    let mut bench = Bench::new();
    let look = bench.look().await;
    assert_eq!(look.source_state, SourceState::Ok);
    assert_eq!(look.unidentified, 0);
    let expected = [
        Device {
            id: HOPPER.parse().unwrap(),
            pci_address: Some("0000:1a:00.0".into()),
            pci_device: Some("10de:2330".into()),
            name: "NVIDIA H100 80GB HBM3".into(),
            max_sm_clock_mhz: Some(1980),
            power_limit_mw: Some(700_000),
            memory_bytes: Some(85_899_345_920),
            tier: Tier::B,
            source: Source::Nvml,
            driver: Some("580.95.05".into()),
            host: None,
            trust: None,
            parent: None,
            units: None,
            instance: None,
            sample_ms: 0,
            conditions: Vec::new(),
            present: true,
        },
        Device {
            id: AMPERE.parse().unwrap(),
            pci_address: None,
            pci_device: None,
            name: "NVIDIA A100-SXM4-80GB".into(),
            max_sm_clock_mhz: None,
            power_limit_mw: None,
            memory_bytes: None,
            tier: Tier::D,
            source: Source::Nvml,
            driver: Some("580.95.05".into()),
            host: None,
            trust: None,
            parent: None,
            units: None,
            instance: None,
            sample_ms: 0,
            conditions: Vec::new(),
            present: true,
        },
    ];
    assert_eq!(look.inventory_changed, Some(expected.to_vec()));
    assert_eq!(reading(&look, AMPERE), Some(ampere_reading()));
    // Later searches find nothing new.
    for _ in 0..10 {
        assert_eq!(bench.look().await.inventory_changed, None);
    }
}

#[tokio::test]
async fn activity_comes_with_the_second_sample_and_clock_power_and_energy_at_once() {
    let mut bench = Bench::new();
    let first = reading(&bench.look().await, HOPPER).unwrap();
    assert_eq!((first.sm_clock_mhz, first.power_mw, first.busy), (Some(1500), Some(500_000), percent(97.0)));
    assert_eq!(first.activity, Activity::default());
    let look = bench.look_until("activity", |look| activity(look) != Some(Activity::default())).await;
    let later = reading(&look, HOPPER).unwrap();
    assert_eq!(later.activity, hopper_activity());
    assert!(later.energy_mj > first.energy_mj, "{:?} does not follow {:?}", later.energy_mj, first.energy_mj);
}

#[tokio::test]
async fn looks_closer_than_the_driver_can_compare_are_still_readings() {
    // The fake refuses pairs not more than 100 ms apart, and the source would report that.
    let mut bench = Bench::new();
    for _ in 0..30 {
        assert_eq!(missing(&bench.look().await, HOPPER), None);
    }
}

#[tokio::test]
async fn a_lost_device_is_a_gap_until_it_comes_back() {
    breaks_and_mends(Fault::Lost, GapCause::DeviceLost).await;
}

#[tokio::test]
async fn a_device_that_is_gone_stays_in_every_look_until_it_comes_back() {
    breaks_and_mends(Fault::Gone, GapCause::DeviceLost).await;
}

#[tokio::test]
async fn a_device_that_is_lost_while_asked_about_streaming_is_a_gap_until_it_comes_back() {
    breaks_and_mends(Fault::LostToStreaming, GapCause::DeviceLost).await;
}

#[tokio::test]
async fn a_hung_call_is_a_gap_and_the_others_go_on() {
    breaks_and_mends(Fault::Hang, GapCause::CallHung).await;
}

#[tokio::test]
async fn a_failed_call_is_a_gap() {
    breaks_and_mends(Fault::Error, GapCause::ReadFailed).await;
}

#[tokio::test]
async fn metrics_that_are_not_numbers_are_a_gap() {
    let mut bench = Bench::settled().await;
    bench.driver.set(HOPPER, Fault::Nan).unwrap();
    let look = bench.look_until("the fault", |look| missing(look, HOPPER).is_some()).await;
    assert_eq!(missing(&look, HOPPER), Some(GapCause::Implausible));
    assert_eq!(reading(&look, AMPERE), Some(ampere_reading()));
    bench.driver.clear(HOPPER, Fault::Nan).unwrap();
    let first = bench.look_until("it read again", |look| reading(look, HOPPER).is_some()).await;
    assert_eq!(activity(&first), Some(Activity::default()), "a fresh base");
    bench.look_until("activity", |look| activity(look) == Some(hopper_activity())).await;
}

#[tokio::test]
async fn an_energy_counter_that_falls_is_a_gap_of_one_look() {
    let mut bench = Bench::settled().await;
    bench.driver.set(HOPPER, Fault::Backwards).unwrap();
    assert_eq!(missing(&bench.look().await, HOPPER), Some(GapCause::CounterBackwards));
    for _ in 0..5 {
        assert_eq!(missing(&bench.look().await, HOPPER), None);
    }
}

#[tokio::test]
async fn every_look_returns_by_its_deadline_when_a_device_hangs() {
    let mut bench = Bench::settled().await;
    bench.driver.set(HOPPER, Fault::Hang).unwrap();
    for round in 0..5 {
        // A generous bound, for a busy machine; without a deadline it would be for ever.
        let look = tokio::time::timeout(Duration::from_secs(60), bench.source.look()).await.unwrap();
        assert_eq!(missing(&look, HOPPER), Some(GapCause::CallHung), "look {round}");
    }
    bench.driver.clear(HOPPER, Fault::Hang).unwrap();
}

#[tokio::test]
async fn a_look_that_was_given_up_leaves_no_answer_behind() {
    let mut bench = Bench::settled().await;
    bench.driver.set(HOPPER, Fault::Hang).unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(10), bench.source.look()).await;
    assert!(given_up.is_err());
    bench.driver.clear(HOPPER, Fault::Hang).unwrap();
    // The answer to the look that nobody heard is not taken for this one's.
    let first = bench.look_until("it read again", |look| reading(look, HOPPER).is_some()).await;
    assert_eq!(activity(&first), Some(Activity::default()));
}

#[tokio::test]
async fn an_agent_may_start_before_the_library_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let options = NvmlOptions { library: folder.path().join("libnvidia-ml.so.1"), ..patient() };
    let mut source = NvmlSource::start(options);
    let look = source.look().await;
    let SourceState::Missing(GapCause::DriverMissing, detail) = &look.source_state else {
        panic!("{:?} where the library should be missing", look.source_state)
    };
    assert!(detail.contains("libnvidia-ml.so.1"), "{detail:?} does not name the library");
    assert!(look.devices.is_empty());
    assert_eq!(look.inventory_changed, None);

    FakeDriver::install(folder.path(), SCRIPT).unwrap();
    let mut inventory = None;
    for _ in 0..=patient().search_every {
        inventory = inventory.or(source.look().await.inventory_changed);
    }
    assert_eq!(inventory.map(|devices| devices.len()), Some(2));
}

#[tokio::test]
async fn a_driver_that_is_not_loaded_is_missing() {
    let mut bench = Bench::new();
    bench.driver.set_driver(DriverFault::NotLoaded).unwrap();
    let look = bench.look().await;
    assert!(matches!(look.source_state, SourceState::Missing(GapCause::DriverMissing, _)), "{look:?}");
    bench.driver.clear_driver(DriverFault::NotLoaded).unwrap();
    bench.look_until("the driver", |look| look.source_state == SourceState::Ok).await;
}

#[tokio::test]
async fn an_initialisation_that_hangs_is_told_and_waited_for() {
    let mut bench = Bench::impatient();
    bench.driver.set_driver(DriverFault::Hang).unwrap();
    for _ in 0..5 {
        let look = bench.look().await;
        assert!(matches!(look.source_state, SourceState::Missing(GapCause::CallHung, _)), "{look:?}");
    }
    bench.driver.clear_driver(DriverFault::Hang).unwrap();
    let look = bench.look_until("devices", |look| look.inventory_changed.is_some()).await;
    assert_eq!(look.source_state, SourceState::Ok);
    assert_eq!(look.devices.len(), 2);
}

#[tokio::test]
async fn a_device_that_appears_later_is_found_and_told() {
    let mut bench = Bench::new();
    bench.driver.set(HOPPER, Fault::Gone).unwrap();
    let look = bench.look().await;
    assert_eq!(look.inventory_changed.map(|devices| devices.len()), Some(1));
    bench.driver.clear(HOPPER, Fault::Gone).unwrap();
    let look = bench.look_until("the new device", |look| look.inventory_changed.is_some()).await;
    let ids: Vec<String> =
        look.inventory_changed.unwrap().iter().map(|device| device.id.to_string()).collect();
    assert_eq!(ids, [AMPERE, HOPPER]);
    bench.look_until("activity", |look| activity(look) == Some(hopper_activity())).await;
}

#[tokio::test]
async fn a_device_that_cannot_be_named_is_counted() {
    let mut bench = Bench::new();
    bench.driver.set(HOPPER, Fault::Lost).unwrap();
    let look = bench.look().await;
    assert_eq!((look.devices.len(), look.unidentified), (1, 1));
    bench.driver.clear(HOPPER, Fault::Lost).unwrap();
    let look = bench.look_until("its name", |look| look.unidentified == 0).await;
    assert_eq!(look.devices.len(), 2);
}

#[tokio::test]
async fn all_devices_lost_at_once_come_back_through_a_new_initialisation() {
    let mut bench = Bench::settled().await;
    for uuid in [HOPPER, AMPERE] {
        bench.driver.set(uuid, Fault::Gone).unwrap();
    }
    bench
        .look_until("both gone", |look| {
            [HOPPER, AMPERE].map(|uuid| missing(look, uuid)) == [Some(GapCause::DeviceLost); 2]
        })
        .await;
    // The script is read at initialisation only: a new version shows that there was one.
    rewrite(&bench.driver.script(), "580.95.05", "595.10");
    for uuid in [HOPPER, AMPERE] {
        bench.driver.clear(uuid, Fault::Gone).unwrap();
    }
    let look = bench.look_until("the new driver", |look| look.inventory_changed.is_some()).await;
    for device in look.inventory_changed.unwrap() {
        assert_eq!(device.driver.as_deref(), Some("595.10"), "{}", device.id);
    }
}

fn rewrite(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from));
    std::fs::write(file, text.replace(from, to)).unwrap();
}

#[tokio::test]
async fn processes_are_asked_for_now_and_then() {
    let mut bench = Bench::new();
    let mut heard = Vec::new();
    for _ in 0..6 {
        heard.push(device(&bench.look().await, HOPPER).pids.clone());
    }
    let pids = Some(vec![4711, 4712]);
    assert_eq!(heard, [pids.clone(), None, None, None, pids, None]);
}

#[tokio::test]
async fn several_processes_are_told_apart_by_the_drivers_samples_from_the_second_time_they_are_asked_for() {
    let both = "pids = [4712, 4711, 4712]\nprocess_percent = [[4711, 25], [4712, 75], [4713, 0]]";
    let mut bench = Bench::with(
        &SCRIPT.replace("pids = [4712, 4711, 4712]", both),
        NvmlOptions { pids_every: 1, ..patient() },
        Duration::from_millis(20),
    );
    let first = bench.look_until("processes", |look| device(look, HOPPER).pids.is_some()).await;
    assert_eq!(device(&first, HOPPER).used, [], "nobody knows since when");
    let look = bench.look_until("their use", |look| !device(look, HOPPER).used.is_empty()).await;
    let [(4711, one), (4712, other)] = device(&look, HOPPER).used[..] else { panic!("{look:?}") };
    assert!(one > 0 && (3 * one).abs_diff(other) <= 3, "{one} and {other}");
    assert_eq!(device(&look, AMPERE).used, [], "there is none to tell apart");
}

#[tokio::test]
async fn machines_that_have_a_vgpu_are_named_by_their_uuid_where_the_driver_knows_any() {
    let mut bench = Bench::new();
    let look = bench.look().await;
    let machines = ["aaaaaaaa", "bbbbbbbb"].map(|begin| format!("{begin}-0000-0000-0000-000000000000"));
    assert_eq!(device(&look, HOPPER).machines, Some(machines.to_vec()));
    let others = look.devices.iter().filter(|device| device.id.as_str() != HOPPER);
    assert!(others.clone().count() > 0 && others.clone().all(|device| device.machines.is_none()));
    assert_eq!(device(&bench.look().await, HOPPER).machines, None, "as often as processes");
}
