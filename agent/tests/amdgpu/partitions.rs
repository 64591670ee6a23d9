//! A package that shows itself as several devices.

use weighbridge_meter::{
    AcceleratorTable, Condition, DeviceState, Estimator, GapCause, Tier, Window, table::Hardware,
    window::Counter,
};

use super::{A, Life, MI300X, Table, Tree, at, engine, inventory, percent, source};
use weighbridge_agent::{
    engine::HolderNews,
    source::{AcceleratorSource, AmdgpuSource, Device, Look},
};

const WHOLE: &str = "AMD-a1b2c3d4e5f60718";

fn split(mode: &str) -> (Tree, AmdgpuSource) {
    let (tree, source) = super::one_mi300x();
    tree.write(A, "current_compute_partition", format!("{mode}\n"));
    (tree, source)
}

fn with_dies(table: Table, dies: usize) -> Table {
    (0..dies).fold(table, |table, die| table.set_nth("current_gfxclk", die, 2_000))
}

fn present(look: &Look) -> Vec<&Device> {
    inventory(look).iter().filter(|device| device.present).collect()
}

#[tokio::test]
async fn each_partition_is_a_device_and_only_the_first_reports() {
    for (mode, partitions, count, units) in [
        ("DPX", None, 2, 152),
        ("QPX", None, 4, 76),
        ("CPX", Some(8), 8, 38),
        ("CPX", None, 8, 38),
        ("TPX", None, 3, 102),
    ] {
        let (tree, mut source) = split(mode);
        let table = with_dies(Life::new().live(1, 10), 8);
        let table = partitions.map_or(table.clone(), |count| table.set("num_partition", count));
        tree.write(A, "gpu_metrics", table.bytes());
        let look = source.look().await;
        let devices = present(&look);
        assert_eq!(devices.len(), count, "{mode}");
        for (index, device) in devices.iter().enumerate() {
            assert_eq!(device.id.as_str(), format!("{WHOLE}/{index}"));
            assert_eq!(device.parent.as_ref().map(|id| id.as_str()), Some(WHOLE));
            assert_eq!(device.units, Some(units));
            let first = index == 0;
            assert_eq!(device.tier, if first { Tier::D } else { Tier::E });
            assert_eq!(device.conditions.contains(&Condition::SecondaryPartition), !first);
            let DeviceState::Read(reading) = look.devices[index].state else { panic!("not read") };
            assert_eq!((reading.busy.is_some(), reading.power_mw.is_some()), (first, first));
        }
        let whole = inventory(&look).iter().find(|device| device.id.as_str() == WHOLE).unwrap();
        assert_eq!((whole.present, whole.conditions.as_slice()), (false, [Condition::Split].as_slice()));
        assert_eq!(look.devices.len(), count, "what is split is not looked at");
    }
}

#[tokio::test]
async fn the_first_may_have_done_all_that_the_package_did() {
    let (tree, mut source) = split("CPX");
    let mut seen = Vec::new();
    for activity in [1, 12, 13, 100] {
        tree.write(A, "gpu_metrics", with_dies(Life::new().live(1, activity), 8).bytes());
        let DeviceState::Read(reading) = source.look().await.devices[0].state else { panic!("not read") };
        seen.push(reading.busy);
    }
    assert_eq!(seen, [8.0, 96.0, 100.0, 100.0].map(percent));
}

#[tokio::test]
async fn the_bounds_of_all_partitions_hold_whatever_one_of_them_did_alone() {
    let (tree, mut source) = split("CPX");
    let mut engine = engine();
    let mut life = Life::new();
    // One partition of eight is busy all the time: an eighth of the package.
    for second in 0..=120 {
        let table = life.live(1, 0).set("average_gfx_activity", 13);
        life.sum += 12_500;
        let table = table.set("gfx_activity_acc", life.sum);
        tree.write(A, "gpu_metrics", with_dies(table, 8).bytes());
        engine.tick(at(second), &source.look().await, HolderNews::default());
    }
    let contents = engine.take();
    let estimator = Estimator::shipped();
    let table = AcceleratorTable::shipped();
    let model = table.find(Some(MI300X), "");
    let part = Hardware { units: Some(38), ..model.into() };
    let high = |window: &Window| estimator.estimate(part, window).bound.high().tera();
    let peak = estimator.peak_ops_per_ms(part) * 60_000 / 1_000_000_000_000;
    let second_minute: Vec<&Window> =
        contents.windows.iter().filter(|window| window.span.start() == at(60).wall).collect();
    assert_eq!(second_minute.len(), 8);
    for window in second_minute {
        assert!(u128::from(high(window)) >= peak, "{}: any of them may be the one", window.accelerator);
        let busy = window.counters.get(Counter::BusyMicros);
        let first = window.accelerator.as_str() == format!("{WHOLE}/0");
        assert_eq!(busy, first.then_some(60_000_000));
    }
    assert_eq!(contents.gaps, []);
}

#[tokio::test]
async fn partitions_come_and_go_with_the_mode_and_are_told_once() {
    let (tree, mut source) = split("SPX");
    let table = with_dies(Life::new().live(1, 10), 8);
    tree.write(A, "gpu_metrics", table.bytes());
    let mut told = Vec::new();
    for mode in ["SPX", "SPX", "QPX", "QPX", "DPX", "SPX", "UNKNOWN", "CPX"] {
        tree.write(A, "current_compute_partition", format!("{mode}\n"));
        let look = source.look().await;
        told.push(look.inventory_changed.as_ref().map(|_| present(&look).len()));
    }
    // What cannot be understood changes nothing.
    assert_eq!(told, [Some(1), None, Some(4), None, Some(2), Some(1), None, Some(8)]);
}

#[tokio::test]
async fn partitions_are_missing_with_their_package() {
    let (tree, mut source) = split("QPX");
    tree.write(A, "gpu_metrics", Life::new().live(1, 10).bytes());
    assert_eq!(source.look().await.devices.len(), 4);
    tree.unbind(A);
    let states: Vec<DeviceState> = source.look().await.devices.iter().map(|device| device.state).collect();
    assert_eq!(states, [DeviceState::Missing(GapCause::DeviceLost); 4]);
}

#[tokio::test]
async fn a_count_that_cannot_be_leaves_one_device() {
    for partitions in [0, 9, 1_000] {
        let (tree, mut source) = split("CPX");
        tree.write(A, "gpu_metrics", Life::new().live(1, 10).set("num_partition", partitions).bytes());
        assert_eq!(present(&source.look().await).len(), 1, "{partitions}");
    }
    // Nor does a package with no name for its parts come apart.
    let tree = Tree::new();
    tree.amd(A, MI300X, &"7".repeat(92));
    tree.write(A, "current_compute_partition", "QPX\n");
    tree.write(A, "gpu_metrics", Life::new().live(1, 10).bytes());
    assert_eq!(present(&source(&tree).look().await).len(), 1);
}
