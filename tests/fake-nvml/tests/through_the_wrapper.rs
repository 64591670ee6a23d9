//! What the agent's own bindings make of the fake: every value exactly, every fault as NVML would show it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{sync::mpsc, time::Duration};

use nvml_wrapper::{
    GpmSample, Nvml,
    enum_wrappers::device::{Clock, Sampling},
    enums::{device::SampleValue, gpm::GpmMetricId},
    error::NvmlError,
    gpm::gpm_metrics_get,
};
use weighbridge_fake_nvml::{DriverFault, FakeDriver, Fault};

const FULL: &str = "GPU-00000000-0000-0000-0000-000000000001";
const BARE: &str = "GPU-00000000-0000-0000-0000-000000000002";

const SCRIPT: &str = r#"
driver_version = "580.95.05"

[[device]]
uuid = "GPU-00000000-0000-0000-0000-000000000001"
name = "NVIDIA H100 80GB HBM3"
pci_bus_id = "00000000:1A:00.0"
pci_device = "10de:2330"
architecture = "hopper"
num_cores = 16896
sm_clock_mhz = 1500
max_sm_clock_mhz = 1980
power_mw = 500000
power_limit_mw = 700000
energy_start_mj = 123456789000
energy_mw = 500000
memory_bytes = 85899345920
mig = false
gpm = true
gpm_percent = { any_tensor = 50.25, hmma = 40.0, sm = 90.5 }
gpu_util = 97
pids = [4711, 4712]
streaming = true
clock_samples = [1400, 1600]

[[device.instance]]
uuid = "MIG-1"
gi = 9
ci = 0
sms = 16
recreated_sms = 32

[[device.instance]]
uuid = "MIG-2"
gi = 10
ci = 0
sms = 16

[[device]]
uuid = "GPU-00000000-0000-0000-0000-000000000002"
name = "Old"
architecture = "rubin"
"#;

struct Bench {
    driver: FakeDriver,
    nvml: Nvml,
    _folder: tempfile::TempDir,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let driver = FakeDriver::install(folder.path(), SCRIPT).unwrap();
    let nvml = load(&driver).unwrap();
    Bench { driver, nvml, _folder: folder }
}

fn load(driver: &FakeDriver) -> Result<Nvml, NvmlError> {
    Nvml::builder().lib_path(driver.library().as_os_str()).init()
}

/// Two samples of the device, far enough apart: taken again until the driver says so.
fn pair<'a>(nvml: &'a Nvml, uuid: &str) -> (GpmSample<'a>, GpmSample<'a>) {
    let device = nvml.device_by_uuid(uuid).unwrap();
    let first = device.gpm_sample().unwrap();
    loop {
        let second = device.gpm_sample().unwrap();
        let answer = gpm_metrics_get(nvml, &first, &second, &[GpmMetricId::SmUtil]).unwrap();
        if !matches!(answer[0], Err(NvmlError::NoData)) {
            return (first, second);
        }
    }
}

#[test]
fn what_the_script_says_comes_back_exactly() {
    let bench = bench();
    assert_eq!(bench.nvml.sys_driver_version().unwrap(), "580.95.05");
    assert_eq!(bench.nvml.device_count().unwrap(), 2);
    let device = bench.nvml.device_by_index(0).unwrap();
    assert_eq!(device.uuid().unwrap(), FULL);
    assert_eq!(device.name().unwrap(), "NVIDIA H100 80GB HBM3");
    let pci = device.pci_info().unwrap();
    assert_eq!((pci.bus_id.as_str(), pci.domain, pci.bus, pci.device), ("00000000:1A:00.0", 0, 0x1a, 0));
    assert_eq!(pci.pci_device_id, 0x2330_10de);
    assert_eq!(device.architecture().unwrap().to_string(), "Hopper");
    assert_eq!(device.num_cores().unwrap(), 16896);
    assert_eq!(device.clock_info(Clock::SM).unwrap(), 1500);
    assert_eq!(device.max_clock_info(Clock::SM).unwrap(), 1980);
    assert_eq!(device.power_usage().unwrap(), 500_000);
    assert_eq!(device.enforced_power_limit().unwrap(), 700_000);
    assert_eq!(device.utilization_rates().unwrap().gpu, 97);
    assert_eq!(device.memory_info().unwrap().total, 85_899_345_920);
    assert_eq!(device.mig_mode().unwrap().current, 0);
    assert!(device.gpm_support().unwrap());
    let pids: Vec<u32> = device.running_compute_processes().unwrap().iter().map(|one| one.pid).collect();
    assert_eq!(pids, [4711, 4712]);
}

#[test]
fn what_the_script_leaves_out_is_not_supported() {
    let bench = bench();
    let device = bench.nvml.device_by_uuid(BARE).unwrap();
    assert!(matches!(device.clock_info(Clock::SM), Err(NvmlError::NotSupported)));
    assert!(matches!(device.total_energy_consumption(), Err(NvmlError::NotSupported)));
    assert!(matches!(device.gpm_sample(), Err(NvmlError::NotSupported)));
    assert!(!device.gpm_support().unwrap());
    assert!(device.running_compute_processes().unwrap().is_empty());
    assert!(matches!(device.architecture(), Err(NvmlError::UnexpectedVariant(13))));
    // A symbol that does not exist, as in an old driver.
    assert!(matches!(device.serial(), Err(NvmlError::FailedToLoadSymbol(_))));
}

#[test]
fn energy_grows_with_boot_time_from_its_start() {
    let bench = bench();
    let device = bench.nvml.device_by_uuid(FULL).unwrap();
    let boot_ms = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        u64::try_from(now.tv_sec).unwrap() * 1000 + u64::try_from(now.tv_nsec).unwrap() / 1_000_000
    };
    let before = boot_ms();
    let energy = device.total_energy_consumption().unwrap();
    let after = boot_ms();
    // 500 W are 500 mJ in a millisecond; a millisecond may have begun.
    let expected = 123_456_789_000 + before * 500..=123_456_789_000 + (after + 1) * 500;
    assert!(expected.contains(&energy), "{energy} is outside {expected:?}");
}

#[test]
fn metrics_come_from_a_pair_of_samples() {
    let bench = bench();
    let (first, second) = pair(&bench.nvml, FULL);
    let wanted =
        [GpmMetricId::AnyTensorUtil, GpmMetricId::HmmaTensorUtil, GpmMetricId::SmUtil, GpmMetricId::Fp64Util];
    let answer = gpm_metrics_get(&bench.nvml, &first, &second, &wanted).unwrap();
    let values: Vec<Option<f64>> =
        answer.iter().map(|metric| metric.as_ref().ok().map(|metric| metric.value)).collect();
    assert_eq!(values, [Some(50.25), Some(40.0), Some(90.5), None]);
    assert!(matches!(answer[3], Err(NvmlError::NotSupported)));
    let reversed = gpm_metrics_get(&bench.nvml, &second, &first, &wanted);
    assert!(matches!(reversed, Err(NvmlError::InvalidArg)));
}

#[test]
fn a_pair_too_close_gives_no_data() {
    let bench = bench();
    let device = bench.nvml.device_by_uuid(FULL).unwrap();
    let sample = device.gpm_sample().unwrap();
    // A sample is no time away from itself.
    let answer = gpm_metrics_get(&bench.nvml, &sample, &sample, &[GpmMetricId::SmUtil]).unwrap();
    assert!(matches!(answer[0], Err(NvmlError::NoData)));
}

#[test]
fn a_lost_device_answers_so_and_the_others_go_on() {
    let bench = bench();
    let device = bench.nvml.device_by_uuid(FULL).unwrap();
    bench.driver.set(FULL, Fault::Lost).unwrap();
    assert!(matches!(device.clock_info(Clock::SM), Err(NvmlError::GpuLost)));
    assert!(matches!(bench.nvml.device_by_index(0), Err(NvmlError::GpuLost)));
    assert_eq!(bench.nvml.device_count().unwrap(), 2);
    assert_eq!(bench.nvml.device_by_index(1).unwrap().uuid().unwrap(), BARE);
    bench.driver.clear(FULL, Fault::Lost).unwrap();
    assert_eq!(device.clock_info(Clock::SM).unwrap(), 1500);
}

#[test]
fn a_gone_device_is_not_counted_and_its_handle_is_lost() {
    let bench = bench();
    let device = bench.nvml.device_by_uuid(FULL).unwrap();
    bench.driver.set(FULL, Fault::Gone).unwrap();
    assert_eq!(bench.nvml.device_count().unwrap(), 1);
    assert_eq!(bench.nvml.device_by_index(0).unwrap().uuid().unwrap(), BARE);
    assert!(matches!(bench.nvml.device_by_uuid(FULL), Err(NvmlError::NotFound)));
    assert!(matches!(device.power_usage(), Err(NvmlError::GpuLost)));
    bench.driver.clear(FULL, Fault::Gone).unwrap();
    assert_eq!(bench.nvml.device_by_index(0).unwrap().uuid().unwrap(), FULL);
}

#[test]
fn an_error_is_unknown() {
    let bench = bench();
    let device = bench.nvml.device_by_uuid(FULL).unwrap();
    bench.driver.set(FULL, Fault::Error).unwrap();
    assert!(matches!(device.power_usage(), Err(NvmlError::Unknown)));
}

#[test]
fn the_energy_counter_falls_and_goes_on_from_there() {
    let bench = bench();
    let device = bench.nvml.device_by_uuid(FULL).unwrap();
    let before = device.total_energy_consumption().unwrap();
    bench.driver.set(FULL, Fault::Backwards).unwrap();
    let fallen = device.total_energy_consumption().unwrap();
    assert!((before / 3..before).contains(&fallen), "{fallen} is not about half of {before}");
    bench.driver.clear(FULL, Fault::Backwards).unwrap();
    let later = device.total_energy_consumption().unwrap();
    assert!((fallen..before).contains(&later), "{later} does not follow {fallen}");
    bench.driver.set(FULL, Fault::Reloaded).unwrap();
    let reloaded = device.total_energy_consumption().unwrap();
    assert!(reloaded < 60 * 500_000, "{reloaded} is not what a loaded driver begins with");
}

#[test]
fn instances_are_there_while_mig_is_on_with_holes_where_they_are_not() {
    let bench = bench();
    let device = bench.nvml.device_by_uuid(FULL).unwrap();
    assert!(matches!(device.mig_device_by_index(0), Err(NvmlError::NotFound)));
    bench.driver.set(FULL, Fault::MigTurned).unwrap();
    assert_eq!((device.mig_mode().unwrap().current, device.mig_device_count().unwrap()), (1, 7));
    let [first, second] = [0, 1].map(|index| device.mig_device_by_index(index).unwrap());
    assert_eq!(first.uuid().unwrap(), "MIG-1");
    assert_eq!(first.attributes().unwrap().multiprocessor_count, 16);
    assert_eq!(first.name().unwrap(), "NVIDIA H100 80GB HBM3 MIG 1g");
    assert!(matches!(first.utilization_rates(), Err(NvmlError::NotSupported)));
    assert!(matches!(device.gpm_sample(), Err(NvmlError::NotSupported)));
    device.gpm_mig_sample(9).unwrap();
    assert!(matches!(device.gpm_mig_sample(8), Err(NvmlError::NotFound)));
    bench.driver.set("MIG-1", Fault::Recreated).unwrap();
    assert_eq!(first.attributes().unwrap().multiprocessor_count, 32);
    bench.driver.set("MIG-1", Fault::Gone).unwrap();
    assert!(matches!(first.attributes(), Err(NvmlError::NotFound)));
    assert!(matches!(device.mig_device_by_index(0), Err(NvmlError::NotFound)));
    assert_eq!(second.uuid().unwrap(), "MIG-2");
    assert_eq!(device.mig_device_by_index(1).unwrap().uuid().unwrap(), "MIG-2");
    assert!(matches!(device.mig_device_by_index(2), Err(NvmlError::NotFound)));
    assert!(matches!(bench.nvml.device_by_uuid("MIG-1"), Err(NvmlError::NotFound)));
}

#[test]
fn streaming_and_clock_samples_are_as_the_script_says() {
    let bench = bench();
    let device = bench.nvml.device_by_uuid(FULL).unwrap();
    assert!(device.gpm_streaming_enabled().unwrap());
    bench.driver.set(FULL, Fault::StreamingOff).unwrap();
    assert!(!device.gpm_streaming_enabled().unwrap());
    let clocks = |since| device.samples(Sampling::ProcessorClock, since).unwrap();
    let first = clocks(None);
    let values: Vec<_> = first.iter().map(|sample| sample.value.clone()).collect();
    assert_eq!(values, [SampleValue::U32(1400), SampleValue::U32(1600)]);
    assert!(clocks(Some(first[1].timestamp)).iter().all(|sample| sample.timestamp > first[1].timestamp));
    assert!(matches!(
        bench.nvml.device_by_uuid(BARE).unwrap().samples(Sampling::ProcessorClock, None),
        Err(NvmlError::NotSupported)
    ));
}

#[test]
fn users_are_counted() {
    let bench = bench();
    assert_eq!(bench.driver.users(), Some(1));
    drop(load(&bench.driver).unwrap());
    assert_eq!(bench.driver.users(), Some(1));
    drop(bench.nvml);
    assert_eq!(bench.driver.users(), Some(0));
}

#[test]
fn broken_metrics_are_not_numbers() {
    let bench = bench();
    let (first, second) = pair(&bench.nvml, FULL);
    bench.driver.set(FULL, Fault::Nan).unwrap();
    let answer = gpm_metrics_get(&bench.nvml, &first, &second, &[GpmMetricId::SmUtil]).unwrap();
    assert!(answer[0].as_ref().unwrap().value.is_nan());
}

#[test]
fn a_hung_call_returns_when_the_fault_ends() {
    let bench = bench();
    let device = bench.nvml.device_by_uuid(FULL).unwrap();
    bench.driver.set(FULL, Fault::Hang).unwrap();
    let (say, heard) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| say.send(device.power_usage()).unwrap());
        // Meanwhile the other device answers, and nothing comes from the first.
        assert_eq!(bench.nvml.device_by_uuid(BARE).unwrap().name().unwrap(), "Old");
        assert!(heard.recv_timeout(Duration::from_millis(50)).is_err());
        bench.driver.clear(FULL, Fault::Hang).unwrap();
        assert_eq!(heard.recv().unwrap().unwrap(), 500_000);
    });
}

#[test]
fn the_driver_can_be_missing_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let driver = FakeDriver::install(folder.path(), SCRIPT).unwrap();
    driver.set_driver(DriverFault::NotLoaded).unwrap();
    assert!(matches!(load(&driver), Err(NvmlError::DriverNotLoaded)));
    driver.clear_driver(DriverFault::NotLoaded).unwrap();
    assert_eq!(load(&driver).unwrap().device_count().unwrap(), 2);
}

#[test]
fn two_copies_are_two_machines() {
    let one = bench();
    let other = bench();
    one.driver.set(FULL, Fault::Gone).unwrap();
    assert_eq!(one.nvml.device_count().unwrap(), 1);
    assert_eq!(other.nvml.device_count().unwrap(), 2);
}
