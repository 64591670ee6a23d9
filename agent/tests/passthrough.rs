//! Devices that are given to virtual machines, against trees of files.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "amdgpu/tree.rs"]
mod tree;

use std::{
    fmt::Write,
    fs,
    os::unix::fs::symlink,
    sync::{Arc, Mutex},
    time::Duration,
};

use expect_test::expect;
use tree::Tree;
use weighbridge_agent::{
    engine::{Contents, Engine, EngineOptions, HolderNews},
    source::{
        AcceleratorSource, AmdgpuOptions, AmdgpuSource, Device, DeviceLook, Look, PassthroughOptions,
        SourceState, WithPassthrough,
    },
};
use weighbridge_meter::{
    DeviceState, GapCause, Reading, Source, Tier, Trust, UtcMillis,
    meter::{Now, Pace},
    window::Counter,
};

const H100: &str = "10de:2330";
const MI300X: &str = "1002:74a1";
const A: &str = "0000:1a:00.0";
const B: &str = "0000:3b:00.0";

/// A source that says what it is told to; a copy tells it.
#[derive(Clone)]
struct Told(Arc<Mutex<Says>>);

struct Says {
    devices: Vec<Device>,
    states: Vec<DeviceState>,
    news: bool,
    /// Of every device.
    pids: Option<Vec<u32>>,
}

impl Told {
    fn says(&self, states: &[DeviceState]) {
        self.0.lock().unwrap().states = states.to_vec();
    }

    fn knows(&self, devices: &[(&str, &str)]) {
        *self.0.lock().unwrap() = known(devices);
    }
}

impl AcceleratorSource for Told {
    async fn look(&mut self) -> Look {
        let mut says = self.0.lock().unwrap();
        let news = std::mem::take(&mut says.news);
        let looks = says.devices.iter().zip(&says.states).map(|(device, state)| DeviceLook {
            id: device.id.clone(),
            state: *state,
            pids: says.pids.clone(),
            used: Vec::new(),
            machines: None,
        });
        Look {
            devices: looks.collect(),
            source_state: SourceState::Ok,
            inventory_changed: news.then(|| says.devices.clone()),
            unidentified: 0,
        }
    }
}

fn read() -> DeviceState {
    DeviceState::Read(Reading::default())
}

const LOST: DeviceState = DeviceState::Missing(GapCause::DeviceLost);

/// A source that knows these, by name and address, and reads them.
fn told(devices: &[(&str, &str)]) -> Told {
    Told(Arc::new(Mutex::new(known(devices))))
}

fn known(devices: &[(&str, &str)]) -> Says {
    let device = |(name, address): &(&str, &str)| Device {
        pci_address: Some((*address).into()),
        ..Device::new(name.parse().unwrap(), "NVIDIA H100 80GB HBM3", Source::Nvml, Tier::B)
    };
    Says {
        devices: devices.iter().map(device).collect(),
        states: vec![read(); devices.len()],
        news: true,
        pids: None,
    }
}

fn options(tree: &Tree) -> PassthroughOptions {
    PassthroughOptions {
        sysfs: tree.path().into(),
        host: "node1".into(),
        search_every: 1,
        proc: tree.path().join("proc"),
        pids_every: 1,
        pids_deadline: Duration::from_secs(30),
    }
}

fn around<S>(inner: S, tree: &Tree, search_every: u32) -> WithPassthrough<S> {
    let options = PassthroughOptions { search_every, ..options(tree) };
    WithPassthrough::new(inner, options)
}

fn amdgpu(tree: &Tree) -> WithPassthrough<AmdgpuSource> {
    let options = AmdgpuOptions {
        sysfs: tree.path().into(),
        host: "node1".into(),
        deadline: Duration::from_secs(30),
        search_every: 1,
    };
    around(AmdgpuSource::start(options), tree, 1)
}

/// Every device of a look, and what was told of it.
fn show(look: &Look) -> String {
    let mut shown = String::new();
    for seen in &look.devices {
        let state = match seen.state {
            DeviceState::Read(_) => "read",
            DeviceState::Missing(cause) => cause.as_str(),
        };
        writeln!(shown, "{} {state}", seen.id).unwrap();
    }
    for device in look.inventory_changed.iter().flatten() {
        let conditions: Vec<&str> = device.conditions.iter().map(|condition| condition.as_str()).collect();
        let present = if device.present { "" } else { " not present" };
        writeln!(
            shown,
            "  told {}: {}, {} {}, {conditions:?}{present}",
            device.id, device.name, device.source, device.tier
        )
        .unwrap();
    }
    shown
}

#[tokio::test]
async fn accelerators_bound_to_vfio_are_named_after_their_place_and_never_idle() {
    let tree = Tree::new();
    for (address, pci, class, driver) in [
        ("0000:01:00.0", H100, "030200", "vfio-pci"),
        ("0000:02:00.0", "10de:2342", "030200", "nvgrace_gpu_vfio_pci"),
        ("0000:03:00.0", "10de:ffff", "030000", "vfio-pci"),
        ("0000:04:00.0", MI300X, "120000", "vfio-pci"),
        ("0000:05:00.0", "1da3:1060", "120000", "vfio-pci"),
        ("0000:06:00.0", "8086:0bd5", "038000", "vfio-pci"),
        // Sound, a switch, a network card, somebody's graphics, and what its own driver has.
        ("0000:07:00.0", "10de:22ba", "040300", "vfio-pci"),
        ("0000:08:00.0", "10de:22a3", "068000", "vfio-pci"),
        ("0000:09:00.0", "15b3:101e", "020000", "mlx5_vfio_pci"),
        ("0000:0a:00.0", "8086:ffff", "030000", "vfio-pci"),
        ("0000:0b:00.0", H100, "030200", "nvidia"),
    ] {
        tree.plug(address, pci, class);
        tree.bind(address, driver);
    }
    tree.plug("0000:0c:00.0", H100, "030200");
    let mut source = around(told(&[]), &tree, 1);
    expect![[r#"
        pci:node1/0000:01:00.0 passed_through
        pci:node1/0000:02:00.0 passed_through
        pci:node1/0000:03:00.0 passed_through
        pci:node1/0000:04:00.0 passed_through
        pci:node1/0000:05:00.0 passed_through
        pci:node1/0000:06:00.0 passed_through
          told pci:node1/0000:01:00.0: NVIDIA H100 80GB HBM3, allocation E, ["passed_through"]
          told pci:node1/0000:02:00.0: NVIDIA GH200 480GB, allocation E, ["passed_through"]
          told pci:node1/0000:03:00.0: PCI 10de:ffff, allocation E, ["passed_through"]
          told pci:node1/0000:04:00.0: AMD Instinct MI300X, allocation E, ["passed_through"]
          told pci:node1/0000:05:00.0: HL-325L, allocation E, ["passed_through"]
          told pci:node1/0000:06:00.0: Intel Data Center GPU Max 1550, allocation E, ["passed_through"]
    "#]]
    .assert_eq(&show(&source.look().await));
    let again = source.look().await;
    assert_eq!(again.inventory_changed, None, "it is told once");
    assert_eq!(again.devices.len(), 6);
}

#[tokio::test]
async fn a_device_that_was_seen_keeps_its_name_when_it_is_given_away_and_is_itself_when_it_is_back() {
    let tree = Tree::new();
    tree.amd(A, MI300X, "77");
    tree.write(A, "gpu_busy_percent", "5\n");
    let mut source = amdgpu(&tree);
    let mut shown = String::new();
    for driver in ["amdgpu", "amdgpu", "vfio-pci", "vfio-pci", "amdgpu"] {
        tree.bind(A, driver);
        write!(shown, "{driver}\n{}", show(&source.look().await)).unwrap();
    }
    expect![[r#"
        amdgpu
        AMD-77 read
          told AMD-77: AMD Instinct MI300X, amdgpu D, []
        amdgpu
        AMD-77 read
        vfio-pci
        AMD-77 passed_through
          told AMD-77: AMD Instinct MI300X, amdgpu E, ["passed_through"]
        vfio-pci
        AMD-77 passed_through
        amdgpu
        AMD-77 read
          told AMD-77: AMD Instinct MI300X, amdgpu D, []
    "#]]
    .assert_eq(&shown);
}

#[tokio::test]
async fn a_device_that_stops_answering_is_looked_for_at_once_and_others_when_it_is_time() {
    let tree = Tree::new();
    tree.plug(A, H100, "030200");
    tree.bind(A, "nvidia");
    let told = told(&[("GPU-1", A)]);
    let mut source = around(told.clone(), &tree, 4);
    source.look().await;
    tree.bind(A, "vfio-pci");
    tree.plug(B, H100, "030200");
    told.says(&[LOST]);
    assert_eq!(show(&source.look().await).lines().next(), Some("GPU-1 passed_through"));
    tree.bind(B, "vfio-pci");
    let mut counts = Vec::new();
    for _ in 0..4 {
        counts.push(source.look().await.devices.len());
    }
    assert_eq!(counts, [1, 1, 2, 2]);
}

#[tokio::test]
async fn what_answers_is_here_whatever_the_last_scan_said() {
    let tree = Tree::new();
    tree.plug(A, H100, "030200");
    tree.bind(A, "vfio-pci");
    let told = told(&[("GPU-1", A)]);
    told.says(&[LOST]);
    let mut source = around(told.clone(), &tree, 1_000);
    source.look().await;
    told.says(&[read()]);
    expect![[r#"
        GPU-1 read
          told GPU-1: NVIDIA H100 80GB HBM3, nvml B, []
    "#]]
    .assert_eq(&show(&source.look().await));
}

#[tokio::test]
async fn only_what_is_bound_to_vfio_is_called_so() {
    let tree = Tree::new();
    tree.plug(A, H100, "030200");
    tree.bind(A, "nvidia");
    let told = told(&[("GPU-1", A)]);
    told.says(&[LOST]);
    let mut source = around(told, &tree, 1);
    assert_eq!(show(&source.look().await).lines().next(), Some("GPU-1 device_lost"));
}

#[tokio::test]
async fn a_name_after_a_place_ends_when_the_driver_names_what_sits_there() {
    let tree = Tree::new();
    tree.plug(A, H100, "030200");
    tree.bind(A, "vfio-pci");
    let told = told(&[]);
    let mut source = around(told.clone(), &tree, 1);
    let mut shown = show(&source.look().await);
    tree.bind(A, "nvidia");
    writeln!(shown, "given back").unwrap();
    shown += &show(&source.look().await);
    told.knows(&[("GPU-1", A)]);
    writeln!(shown, "named").unwrap();
    shown += &show(&source.look().await);
    tree.bind(A, "vfio-pci");
    told.says(&[LOST]);
    writeln!(shown, "given away again").unwrap();
    shown += &show(&source.look().await);
    expect![[r#"
        pci:node1/0000:1a:00.0 passed_through
          told pci:node1/0000:1a:00.0: NVIDIA H100 80GB HBM3, allocation E, ["passed_through"]
        given back
        pci:node1/0000:1a:00.0 not_reported
          told pci:node1/0000:1a:00.0: NVIDIA H100 80GB HBM3, allocation E, []
        named
        GPU-1 read
          told GPU-1: NVIDIA H100 80GB HBM3, nvml B, []
          told pci:node1/0000:1a:00.0: NVIDIA H100 80GB HBM3, allocation E, [] not present
        given away again
        GPU-1 passed_through
          told GPU-1: NVIDIA H100 80GB HBM3, nvml E, ["passed_through"]
          told pci:node1/0000:1a:00.0: NVIDIA H100 80GB HBM3, allocation E, [] not present
    "#]]
    .assert_eq(&shown);
}

#[tokio::test]
async fn a_device_without_a_name_that_is_no_longer_given_away_says_why_it_is_silent() {
    let tree = Tree::new();
    tree.plug(A, H100, "030200");
    tree.bind(A, "vfio-pci");
    let mut source = around(told(&[]), &tree, 1);
    source.look().await;
    let mut causes = Vec::new();
    tree.bind(A, "nvidia");
    causes.push(source.look().await.devices[0].state);
    tree.unbind(A);
    causes.push(source.look().await.devices[0].state);
    tree.unplug(A);
    causes.push(source.look().await.devices[0].state);
    let expected = [GapCause::NotReported, GapCause::DriverMissing, GapCause::DeviceLost];
    assert_eq!(causes, expected.map(DeviceState::Missing));
}

#[tokio::test]
async fn a_virtual_function_is_a_part_of_a_device_that_is_known_and_a_device_of_its_own_otherwise() {
    let tree = Tree::new();
    for (address, driver) in [(A, "nvidia"), ("0000:1a:00.4", "vfio-pci")] {
        tree.plug(address, H100, "030200");
        tree.bind(address, driver);
    }
    symlink(tree.device(A), tree.device("0000:1a:00.4").join("physfn")).unwrap();
    assert_eq!(around(told(&[("GPU-1", A)]), &tree, 1).look().await.devices.len(), 1);
    assert_eq!(around(told(&[]), &tree, 1).look().await.devices.len(), 1);
}

#[tokio::test]
async fn a_place_that_makes_no_name_is_counted() {
    let tree = Tree::new();
    tree.plug(A, H100, "030200");
    tree.bind(A, "vfio-pci");
    let options = PassthroughOptions { host: "h".repeat(96), ..options(&tree) };
    let look = WithPassthrough::new(told(&[]), options).look().await;
    assert_eq!((look.devices.len(), look.unidentified), (0, 1));
}

#[tokio::test]
async fn without_a_bus_the_source_is_as_it_is() {
    let tree = Tree::new();
    let look = around(told(&[("GPU-1", A)]), &tree, 1).look().await;
    assert_eq!((look.devices.len(), look.inventory_changed.map(|devices| devices.len())), (1, Some(1)));
}

/// 2026-01-31T08:00:00Z.
const MORNING: i64 = 1_769_846_400_000;

/// What an engine makes of looks a second apart, from one second to another.
async fn metered<S: AcceleratorSource>(engine: &mut Engine, source: &mut S, from: u64, to: u64) {
    for second in from..to {
        let wall = UtcMillis(MORNING + i64::try_from(second * 1000).unwrap());
        let now = Now { boot_ms: second * 1000, wall };
        engine.tick(now, &source.look().await, HolderNews::default());
    }
}

#[tokio::test]
async fn time_given_away_is_a_gap_throughout_and_no_window() {
    let tree = Tree::new();
    tree.amd(A, MI300X, "77");
    tree.write(A, "gpu_busy_percent", "0\n");
    tree.plug(B, MI300X, "120000");
    tree.bind(B, "vfio-pci");
    let mut source = amdgpu(&tree);
    let mut engine = Engine::new(EngineOptions {
        host: "node1".into(),
        trust: Trust::Host,
        pace: Pace { window_ms: 60_000, longest_tick_ms: 10_000 },
        held_records: 1_000,
    });
    metered(&mut engine, &mut source, 0, 90).await;
    tree.bind(A, "vfio-pci");
    metered(&mut engine, &mut source, 90, 150).await;
    tree.bind(A, "amdgpu");
    metered(&mut engine, &mut source, 150, 181).await;
    let Contents { windows, gaps, .. } = engine.take();
    let mut shown = Vec::new();
    let seconds = |moment: UtcMillis| (moment.0 - MORNING) / 1000;
    for window in &windows {
        let (start, end) = (seconds(window.span.start()), seconds(window.span.end()));
        shown.push(format!(
            "{} {start:3}..{end} busy {:?} us",
            window.accelerator,
            window.counters.get(Counter::BusyMicros)
        ));
    }
    for gap in &gaps {
        let (start, end) = (seconds(gap.span.start()), seconds(gap.span.end()));
        shown.push(format!("{} {start:3}..{end} {}", gap.accelerator, gap.cause));
    }
    shown.sort();
    expect![[r#"
        AMD-77   0..60 busy Some(0) us
        AMD-77  60..89 busy Some(0) us
        AMD-77  89..90 passed_through
        AMD-77  90..120 passed_through
        AMD-77 120..150 passed_through
        AMD-77 150..180 busy Some(0) us
        pci:node1/0000:3b:00.0   0..60 passed_through
        pci:node1/0000:3b:00.0  60..120 passed_through
        pci:node1/0000:3b:00.0 120..180 passed_through"#]]
    .assert_eq(&shown.join("\n"));
}

/// Counters of one InfiniBand port, in units of 4 octets.
fn port(tree: &Tree, adapter: &str, sent: u64, received: u64) {
    let dir = tree.path().join("class/infiniband").join(adapter).join("ports/1/counters");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("port_xmit_data"), format!("{sent}\n")).unwrap();
    fs::write(dir.join("port_rcv_data"), format!("{received}\n")).unwrap();
}

fn infiniband(look: &Look) -> Vec<Option<u64>> {
    let bytes = |seen: &DeviceLook| match seen.state {
        DeviceState::Read(reading) => reading.totals.get(Counter::InfinibandBytes),
        DeviceState::Missing(_) => None,
    };
    look.devices.iter().map(bytes).collect()
}

#[tokio::test]
async fn infiniband_traffic_is_shared_out_to_the_byte_and_a_reset_port_makes_no_gap() {
    let tree = Tree::new();
    port(&tree, "mlx5_0", 1_000, 1_000);
    port(&tree, "mlx5_1", 5, 5);
    let told = told(&[("GPU-1", A), ("GPU-2", B), ("GPU-3", "0000:5e:00.0")]);
    let mut source = around(told.clone(), &tree, 1);
    let mut seen = vec![infiniband(&source.look().await)];
    port(&tree, "mlx5_0", 1_010, 1_001);
    seen.push(infiniband(&source.look().await));
    port(&tree, "mlx5_0", 0, 0);
    seen.push(infiniband(&source.look().await));
    // What one would have had that cannot be read is not given to the others.
    told.says(&[read(), LOST, read()]);
    port(&tree, "mlx5_0", 3, 0);
    seen.push(infiniband(&source.look().await));
    // 44 bytes by three are 15, 15 and 14; 12 more are 4 each.
    let known = |bytes: [u64; 3]| bytes.map(Some).to_vec();
    let missing_one = vec![Some(19), None, Some(18)];
    assert_eq!(seen, [vec![None; 3], known([15, 15, 14]), vec![None; 3], missing_one]);
}

#[tokio::test]
async fn without_infiniband_nothing_is_said_of_it() {
    let tree = Tree::new();
    let mut source = around(told(&[("GPU-1", A)]), &tree, 1);
    for _ in 0..3 {
        assert_eq!(infiniband(&source.look().await), [None]);
    }
}

/// A process with these files open.
fn opens(tree: &Tree, pid: u32, files: &[&str]) {
    let folder = tree.path().join("proc").join(pid.to_string()).join("fd");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for (number, file) in files.iter().enumerate() {
        symlink(file, folder.join(number.to_string())).unwrap();
    }
}

fn group(tree: &Tree, device: &str, number: u32) {
    let folder = tree.path().join(device);
    fs::create_dir_all(&folder).unwrap();
    symlink(format!("../../../../kernel/iommu_groups/{number}"), folder.join("iommu_group")).unwrap();
}

fn users(look: &Look) -> String {
    let mut shown = String::new();
    for device in &look.devices {
        writeln!(shown, "{} {:?}", device.id, device.pids).unwrap();
    }
    shown
}

#[tokio::test]
async fn processes_that_have_a_device_of_vfio_open_are_named() {
    let tree = Tree::new();
    let functions =
        [(A, "vfio-pci"), (B, "vfio-pci"), ("0000:41:00.0", "nvidia"), ("0000:41:00.4", "vfio-pci")];
    for ((address, driver), number) in functions.into_iter().zip([7, 8, 9, 10]) {
        tree.plug(address, H100, "030200");
        tree.bind(address, driver);
        group(&tree, &format!("bus/pci/devices/{address}"), number);
    }
    symlink("../0000:41:00.0", tree.device("0000:41:00.4").join("physfn")).unwrap();
    fs::create_dir_all(tree.device(B).join("vfio-dev/vfio3")).unwrap();
    // A mediated device of the one that its own driver has.
    let mediated = "devices/pci0000:40/0000:41:00.0/aaaaaaaa-0000-0000-0000-000000000001";
    group(&tree, mediated, 11);
    fs::create_dir_all(tree.path().join("bus/mdev/devices")).unwrap();
    let link = tree.path().join("bus/mdev/devices/aaaaaaaa-0000-0000-0000-000000000001");
    symlink(format!("../../../{mediated}"), link).unwrap();

    opens(&tree, 10, &["/dev/null", "/dev/vfio/vfio", "/dev/vfio/7", "anon_inode:[vfio-device]"]);
    opens(&tree, 11, &["/dev/iommu", "/dev/vfio/devices/vfio3"]);
    opens(&tree, 12, &["/dev/vfio/10", "/dev/vfio/70", "/dev/vfio/9", "/home/x/dev/vfio/7", "dev/vfio/7"]);
    opens(&tree, 13, &["/dev/vfio/noiommu-11"]);
    opens(&tree, 14, &[]);
    fs::create_dir_all(tree.path().join("proc/sys")).unwrap();
    let told = told(&[("GPU-1", "0000:41:00.0")]);
    let mut source = around(told.clone(), &tree, 1);
    let mut shown = users(&source.look().await);
    // What a process opens later is found when all are looked at again, what it closes at once.
    opens(&tree, 10, &[]);
    opens(&tree, 14, &["/dev/vfio/7"]);
    opens(&tree, 15, &["/dev/vfio/7"]);
    for look in 2..=7 {
        let look = (look, source.look().await);
        if look.0 == 2 || look.0 == 7 {
            writeln!(shown, "look {}", look.0).unwrap();
            shown += &users(&look.1);
        }
    }
    writeln!(shown, "its driver names processes too").unwrap();
    told.0.lock().unwrap().pids = Some(vec![99]);
    shown += &users(&source.look().await);
    told.0.lock().unwrap().pids = None;
    shown += &users(&source.look().await);
    expect![[r#"
        GPU-1 Some([12, 13])
        pci:node1/0000:1a:00.0 Some([10])
        pci:node1/0000:3b:00.0 Some([11])
        look 2
        GPU-1 Some([12, 13])
        pci:node1/0000:1a:00.0 Some([15])
        pci:node1/0000:3b:00.0 Some([11])
        look 7
        GPU-1 Some([12, 13])
        pci:node1/0000:1a:00.0 Some([14, 15])
        pci:node1/0000:3b:00.0 Some([11])
        its driver names processes too
        GPU-1 Some([12, 13, 99])
        pci:node1/0000:1a:00.0 Some([14, 15])
        pci:node1/0000:3b:00.0 Some([11])
        GPU-1 None
        pci:node1/0000:1a:00.0 Some([14, 15])
        pci:node1/0000:3b:00.0 Some([11])
    "#]]
    .assert_eq(&shown);
}

#[tokio::test]
async fn where_no_process_may_be_looked_at_nobody_is_not_named() {
    let tree = Tree::new();
    tree.plug(A, H100, "030200");
    tree.bind(A, "vfio-pci");
    group(&tree, &format!("bus/pci/devices/{A}"), 7);
    let mut source = around(told(&[]), &tree, 1);
    assert_eq!(source.look().await.devices[0].pids, None, "there is no /proc");
    fs::create_dir_all(tree.path().join("proc")).unwrap();
    for _ in 0..6 {
        source.look().await;
    }
    assert_eq!(source.look().await.devices[0].pids, Some(vec![]), "nobody has it");
}
