//! The amdgpu source against trees of files, through its real threads.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod counters;
mod partitions;
mod table;
mod tree;

use std::{fmt::Write, time::Duration};

use counters::settle;
use expect_test::expect;
use table::Table;
use tree::Tree;
use weighbridge_agent::{
    engine::{Engine, EngineOptions, HolderNews},
    source::{AcceleratorSource, AmdgpuOptions, AmdgpuSource, Device, Look, SourceState},
};
use weighbridge_meter::{
    Condition, Coverage, DeviceState, GapCause, Reading, Source, Tier, Trust, UtcMillis,
    meter::{Now, Pace},
    reading::Ratio,
    window::Counter,
};

const MI300X: &str = "1002:74a1";
const MI250X: &str = "1002:7408";
/// Where the first device sits.
const A: &str = "0000:c1:00.0";
const B: &str = "0000:c6:00.0";
/// More than any look takes.
const PATIENT: Duration = Duration::from_secs(30);

fn options(tree: &Tree) -> AmdgpuOptions {
    AmdgpuOptions { sysfs: tree.path().into(), host: "node1".into(), deadline: PATIENT, search_every: 1 }
}

fn source(tree: &Tree) -> AmdgpuSource {
    AmdgpuSource::start(options(tree))
}

/// One device of the newest table, and its source.
fn one_mi300x() -> (Tree, AmdgpuSource) {
    let tree = Tree::new();
    tree.amd(A, MI300X, "a1b2c3d4e5f60718");
    let source = source(&tree);
    (tree, source)
}

fn state(look: &Look) -> DeviceState {
    look.devices.first().unwrap().state
}

fn reading(look: &Look) -> Reading {
    match state(look) {
        DeviceState::Read(reading) => reading,
        DeviceState::Missing(cause) => panic!("{cause}"),
    }
}

fn missing(look: &Look) -> Option<GapCause> {
    match state(look) {
        DeviceState::Read(_) => None,
        DeviceState::Missing(cause) => Some(cause),
    }
}

fn inventory(look: &Look) -> &[Device] {
    look.inventory_changed.as_deref().unwrap()
}

fn percent(percent: f64) -> Option<Ratio> {
    Ratio::from_percent(percent)
}

/// A second of the device's time after another: activity in percent, and what its counters reached.
struct Life {
    second: u64,
    sum: u64,
    energy: u64,
    /// What the activity counter counts in a second of full load.
    full_second: u64,
}

impl Life {
    fn new() -> Self {
        Self { second: 1_000, sum: 0, energy: 1 << 40, full_second: 100_000 }
    }

    /// Goes on for this many seconds at this activity and 700 W.
    fn live(&mut self, seconds: u64, percent: u64) -> Table {
        self.second += seconds;
        self.sum += seconds * self.full_second * percent / 100;
        self.energy += seconds * 700 * 65_536;
        self.table().set("average_gfx_activity", percent)
    }

    fn table(&self) -> Table {
        Table::revision(7)
            .set("system_clock_counter", self.second * 1_000_000_000)
            .set("gfx_activity_acc", self.sum % (1 << 32))
            .set("energy_accumulator", self.energy)
            .set("curr_socket_power", 700)
    }
}

#[tokio::test]
async fn each_revision_is_read_by_its_own_layout() {
    let mut shown = String::new();
    for content in 0..=8 {
        let table = Table::revision(content)
            .set_if_there("average_gfx_activity", 87)
            .set_if_there("average_umc_activity", 41)
            .set_if_there("average_socket_power", 512)
            .set_if_there("curr_socket_power", 513)
            .set_if_there("energy_accumulator", 65_536 * 1_000)
            .set_if_there("average_gfxclk_frequency", 1_650)
            .set_if_there("xgmi_read_data_acc", 7)
            .set_if_there("xgmi_write_data_acc", 9);
        let table = if content < 4 { table } else { clocks(table) };
        let (tree, mut source) = one_mi300x();
        tree.write(A, "gpu_metrics", table.bytes());
        let reading = reading(&source.look().await);
        let total = |counter| reading.totals.get(counter).map_or("-".into(), |value: u64| value.to_string());
        writeln!(
            shown,
            "1.{content} of {}: {} % {} % {} mW {} MHz, {} uJ, {} and {} bytes",
            table.bytes().len(),
            reading.busy.unwrap().billionths() / 10_000_000,
            reading.dram.unwrap().billionths() / 10_000_000,
            reading.power_mw.unwrap(),
            reading.sm_clock_mhz.unwrap(),
            total(Counter::EnergyMicrojoules),
            total(Counter::NvlinkRxBytes),
            total(Counter::NvlinkTxBytes),
        )
        .unwrap();
    }
    expect![[r#"
        1.0 of 80: 87 % 41 % 512000 mW 1650 MHz, - uJ, - and - bytes
        1.1 of 96: 87 % 41 % 512000 mW 1650 MHz, 1000000000 uJ, - and - bytes
        1.2 of 104: 87 % 41 % 512000 mW 1650 MHz, 1000000000 uJ, - and - bytes
        1.3 of 120: 87 % 41 % 512000 mW 1650 MHz, 1000000000 uJ, - and - bytes
        1.4 of 288: 87 % 41 % 513000 mW 2000 MHz, 1000000000 uJ, 10240 and 9216 bytes
        1.5 of 360: 87 % 41 % 513000 mW 2000 MHz, 1000000000 uJ, 10240 and 9216 bytes
        1.6 of 1664: 87 % 41 % 513000 mW 2000 MHz, 1000000000 uJ, 10240 and 9216 bytes
        1.7 of 2208: 87 % 41 % 513000 mW 2000 MHz, 1000000000 uJ, 10240 and 9216 bytes
        1.8 of 3872: 87 % 41 % 513000 mW 2000 MHz, 1000000000 uJ, 10240 and 9216 bytes
    "#]]
    .assert_eq(&shown);
}

/// Two dies that run, one that stands still, five that are not there; and traffic on a second link.
fn clocks(table: Table) -> Table {
    table
        .set_nth("current_gfxclk", 0, 2_100)
        .set_nth("current_gfxclk", 1, 1_900)
        .set_nth("current_gfxclk", 2, 0)
        .set_nth("xgmi_read_data_acc", 7, 3)
}

#[tokio::test]
async fn a_layout_that_is_not_known_is_named_and_the_text_files_speak_for_it() {
    // 1.6 was first published as another structure under the same number.
    let revised = |format, content| {
        let mut bytes = Table::revision(8).bytes().to_vec();
        (bytes[2], bytes[3]) = (format, content);
        bytes
    };
    let other =
        [revised(1, 9), revised(1, 255), revised(2, 1), revised(3, 0), Table::revision(60).bytes().to_vec()];
    for table in other {
        let (tree, mut source) = one_mi300x();
        tree.write(A, "gpu_metrics", &table);
        tree.write(A, "gpu_busy_percent", "43\n");
        tree.write(A, "mem_busy_percent", "12\n");
        tree.write(A, "pp_dpm_sclk", "0: 132Mhz\n1: 1234Mhz *\n2: 2100Mhz\n");
        tree.write(A, "hwmon/hwmon5/power1_input", "250000000\n");
        tree.write(A, "hwmon/hwmon5/power1_cap", "750000000\n");
        let look = source.look().await;
        let seen = reading(&look);
        assert_eq!((seen.busy, seen.dram), (percent(43.0), percent(12.0)));
        assert_eq!((seen.power_mw, seen.sm_clock_mhz), (Some(250_000), Some(1_234)));
        assert!(seen.totals.is_empty());
        let device = &inventory(&look)[0];
        assert_eq!(device.conditions, [Condition::UnknownLayout]);
        assert_eq!((device.max_sm_clock_mhz, device.power_limit_mw), (Some(2_100), Some(750_000)));
    }
}

#[tokio::test]
async fn a_device_says_who_it_is() {
    let (tree, mut source) = one_mi300x();
    tree.write(A, "product_name", "AMD Instinct MI300X OAM\n");
    tree.write(A, "mem_info_vram_total", "206141652992\n");
    std::fs::create_dir_all(tree.path().join("module/amdgpu")).unwrap();
    std::fs::write(tree.path().join("module/amdgpu/version"), "6.14.14\n").unwrap();
    let look = source.look().await;
    assert_eq!(look.source_state, SourceState::Ok);
    let expected = Device {
        pci_address: Some(A.into()),
        pci_device: Some(MI300X.into()),
        memory_bytes: Some(206_141_652_992),
        driver: Some("6.14.14".into()),
        ..Device::new(
            "AMD-a1b2c3d4e5f60718".parse().unwrap(),
            "AMD Instinct MI300X OAM",
            Source::Amdgpu,
            Tier::D,
        )
    };
    assert_eq!(inventory(&look), [expected]);
    assert_eq!(source.look().await.inventory_changed, None, "it is told once");
}

#[tokio::test]
async fn only_accelerators_count_and_none_is_merged_with_another() {
    let tree = Tree::new();
    for (address, pci, class) in [
        ("0000:01:00.0", MI300X, "030000"),
        ("0000:02:00.0", "1002:ffff", "038000"),
        ("0000:03:00.0", "1002:ffff", "120000"),
        // Draws pictures; sounds; is nobody's accelerator.
        ("0000:04:00.0", "1002:ffff", "030000"),
        ("0000:05:00.0", "1002:ffff", "040300"),
        ("0000:06:00.0", "10de:ffff", "120000"),
    ] {
        tree.plug(address, pci, class);
        tree.bind(address, "amdgpu");
    }
    tree.write("0000:01:00.0", "unique_id", "0000000000000000\n");
    tree.write("0000:02:00.0", "unique_id", "77\n");
    tree.write("0000:03:00.0", "unique_id", "77\n");
    let look = source(&tree).look().await;
    let names: Vec<&str> = look.devices.iter().map(|device| device.id.as_str()).collect();
    assert_eq!(names, ["pci:node1/0000:01:00.0", "pci:node1/0000:02:00.0", "pci:node1/0000:03:00.0"]);
    assert_eq!(inventory(&look)[0].name, "AMD Instinct MI300X");
}

#[tokio::test]
async fn a_host_name_that_leaves_no_room_for_an_address_is_counted_and_not_cut() {
    let tree = Tree::new();
    tree.plug(A, MI300X, "120000");
    tree.bind(A, "amdgpu");
    let look = AmdgpuSource::start(AmdgpuOptions { host: "h".repeat(96), ..options(&tree) }).look().await;
    assert_eq!((look.devices.len(), look.unidentified), (0, 1));
}

#[tokio::test]
async fn a_table_shorter_than_it_says_costs_one_look() {
    let (tree, mut source) = one_mi300x();
    let table = Life::new().live(1, 50);
    for length in [1, 3, 4, 100, table.bytes().len() - 1] {
        tree.write(A, "gpu_metrics", &table.bytes()[..length]);
        assert_eq!(missing(&source.look().await), Some(GapCause::Implausible), "{length} bytes");
    }
    tree.write(A, "gpu_metrics", table.bytes());
    assert_eq!(reading(&source.look().await).busy, percent(50.0));
}

#[tokio::test]
async fn an_activity_that_cannot_be_costs_one_look() {
    let (tree, mut source) = one_mi300x();
    tree.write(A, "gpu_metrics", Life::new().live(1, 200).bytes());
    assert_eq!(missing(&source.look().await), Some(GapCause::Implausible));
}

#[tokio::test]
async fn what_is_not_supported_is_unknown_and_not_zero() {
    let (tree, mut source) = one_mi300x();
    tree.write(A, "gpu_metrics", Table::revision(8).bytes());
    assert_eq!(reading(&source.look().await), Reading::default());
    // No table at all, as an old driver has it.
    std::fs::remove_file(tree.device(A).join("gpu_metrics")).unwrap();
    assert_eq!(reading(&source.look().await), Reading::default());
    tree.write(A, "gpu_metrics", "");
    assert_eq!(reading(&source.look().await), Reading::default());
}

#[tokio::test]
async fn each_die_of_an_mi250x_is_half_the_row_and_the_second_has_no_power_rather_than_none_used() {
    let tree = Tree::new();
    tree.amd(A, MI250X, "1");
    tree.amd(B, MI250X, "2");
    let die = |watts: u64, energy: u64| {
        Table::revision(3)
            .set("average_gfx_activity", 90)
            .set("average_socket_power", watts)
            .set("energy_accumulator", energy)
    };
    tree.write(A, "gpu_metrics", die(420, 65_536).bytes());
    tree.write(B, "gpu_metrics", die(0, 0).bytes());
    tree.write(B, "hwmon/hwmon1/power1_average", "0\n");
    let look = source(&tree).look().await;
    assert_eq!(inventory(&look).iter().map(|device| device.units).collect::<Vec<_>>(), [Some(110); 2]);
    let readings: Vec<Reading> = look
        .devices
        .iter()
        .map(|device| match device.state {
            DeviceState::Read(reading) => reading,
            DeviceState::Missing(cause) => panic!("{cause}"),
        })
        .collect();
    let energy = |reading: &Reading| reading.totals.get(Counter::EnergyMicrojoules);
    assert_eq!((readings[0].power_mw, energy(&readings[0])), (Some(420_000), Some(1_000_000)));
    assert_eq!((readings[1].power_mw, energy(&readings[1])), (None, None));
    assert_eq!(readings[1].busy, percent(90.0));
}

#[tokio::test]
async fn a_device_that_hangs_is_named_and_the_others_are_read() {
    let tree = Tree::new();
    tree.amd(A, MI300X, "1");
    tree.amd(B, MI300X, "2");
    tree.write(B, "gpu_metrics", Life::new().live(1, 50).bytes());
    let hanging = tree.device(A).join("gpu_metrics");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &hanging,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let mut source =
        AmdgpuSource::start(AmdgpuOptions { deadline: Duration::from_millis(300), ..options(&tree) });
    for _ in 0..3 {
        let look = source.look().await;
        assert_eq!(missing(&look), Some(GapCause::CallHung));
        assert!(matches!(look.devices[1].state, DeviceState::Read(_)));
    }
    // It comes back, and what it says then is about a moment that has passed.
    std::fs::write(&hanging, Life::new().live(1, 70).bytes()).unwrap();
    std::fs::remove_file(&hanging).unwrap();
    tree.write(A, "gpu_metrics", Life::new().live(1, 80).bytes());
    for _ in 0..1_000 {
        if let DeviceState::Read(seen) = state(&source.look().await) {
            assert_eq!(seen.busy, percent(80.0));
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never came back");
}

#[tokio::test]
async fn a_lost_device_stays_in_every_look_and_comes_back() {
    let (tree, mut source) = one_mi300x();
    let mut life = Life::new();
    settle(&tree, &mut source, &mut life).await;
    tree.unbind(A);
    assert_eq!(missing(&source.look().await), Some(GapCause::DeviceLost));
    tree.bind(A, "amdgpu");
    life.sum = 0;
    tree.write(A, "gpu_metrics", life.live(1, 60).bytes());
    let look = source.look().await;
    assert_eq!(reading(&look).busy, percent(60.0));
    assert_eq!(reading(&look).totals.get(Counter::BusyMicros), None, "its counter has to be learnt again");
    tree.unplug(A);
    assert_eq!(missing(&source.look().await), Some(GapCause::DeviceLost));
}

#[tokio::test]
async fn without_its_search_a_lost_device_is_noticed_by_reading_it() {
    let (tree, _) = one_mi300x();
    tree.write(A, "gpu_metrics", Life::new().live(1, 60).bytes());
    let mut source = AmdgpuSource::start(AmdgpuOptions { search_every: 1_000, ..options(&tree) });
    assert_eq!(missing(&source.look().await), None);
    tree.bind(A, "vfio-pci");
    assert_eq!(missing(&source.look().await), Some(GapCause::DeviceLost));
}

#[tokio::test]
async fn a_missing_driver_is_named_before_and_after_there_were_devices() {
    let tree = Tree::new();
    let mut source = source(&tree);
    let look = source.look().await;
    assert!(matches!(look.source_state, SourceState::Missing(GapCause::DriverMissing, _)));
    assert_eq!(look.inventory_changed, None);
    tree.driver("amdgpu");
    let look = source.look().await;
    assert_eq!((look.source_state, look.inventory_changed), (SourceState::Ok, Some(Vec::new())));
    tree.amd(A, MI300X, "1");
    assert_eq!(missing(&source.look().await), None);
    tree.unbind(A);
    std::fs::remove_dir(tree.driver("amdgpu")).unwrap();
    assert_eq!(missing(&source.look().await), Some(GapCause::DriverMissing));
}

/// 2026-01-31T08:00:00Z.
const MORNING: i64 = 1_769_846_400_000;

fn at(second: u64) -> Now {
    let millis = i64::try_from(second * 1000).unwrap();
    Now { boot_ms: second * 1000 + 5_000, wall: UtcMillis(MORNING + millis) }
}

fn engine() -> Engine {
    Engine::new(EngineOptions {
        host: "node1".into(),
        trust: Trust::Host,
        pace: Pace { window_ms: 60_000, longest_tick_ms: 10_000 },
        held_records: 1_000,
    })
}

#[tokio::test]
async fn busy_time_and_energy_are_exact_over_lost_looks_and_a_counter_that_wraps() {
    let (tree, mut source) = one_mi300x();
    // It wraps in the third minute.
    let mut life = Life { sum: (1 << 32) - 150 * 60_000, ..Life::new() };
    let mut engine = engine();
    for second in 0..=240 {
        // Between the looks at 130 and 139 s it works, and nobody sees it.
        let percent = if (131..139).contains(&second) { 100 } else { 60 };
        let table = life.live(1, percent);
        if (131..139).contains(&second) {
            continue;
        }
        // A table cut short at 200 s is a look lost, not time.
        let whole = table.bytes();
        tree.write(A, "gpu_metrics", if second == 200 { &whole[..100] } else { whole });
        engine.tick(at(second), &source.look().await, HolderNews::default());
    }
    engine.finish(at(240));
    let contents = engine.take();
    let mut shown = String::new();
    for window in &contents.windows {
        let seconds = |moment: UtcMillis| (moment.0 - MORNING) / 1000;
        let get = |counter| window.counters.get(counter).unwrap();
        assert_eq!((window.tier, window.coverage), (Tier::D, Coverage::Measured));
        writeln!(
            shown,
            "{}..{} busy {} us, {} uJ",
            seconds(window.span.start()),
            seconds(window.span.end()),
            get(Counter::BusyMicros),
            get(Counter::EnergyMicrojoules)
        )
        .unwrap();
    }
    for gap in &contents.gaps {
        writeln!(shown, "gap of {} ms: {}", gap.span.millis(), gap.cause).unwrap();
    }
    expect![[r#"
        0..60 busy 36000000 us, 42000000000 uJ
        60..120 busy 36000000 us, 42000000000 uJ
        120..180 busy 39200000 us, 42000000000 uJ
        180..199 busy 11400000 us, 13300000000 uJ
        201..240 busy 23400000 us, 27300000000 uJ
        gap of 2000 ms: implausible
    "#]]
    .assert_eq(&shown);
}
