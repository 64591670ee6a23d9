//! The exporter sources against a real HTTP server that answers in the shape of real exporters.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "exporters/gaudi.rs"]
mod gaudi_values;

use std::{
    convert::Infallible,
    fmt::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use expect_test::{Expect, expect};
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use weighbridge_agent::{
    engine::{Engine, EngineOptions, HolderNews},
    source::{
        AcceleratorSource, DcgmOptions, DcgmSource, Device, GaudiOptions, GaudiSource, Look, SourceState,
    },
};
use weighbridge_meter::{
    AcceleratorTable, Condition, DeviceState, Estimator, GapCause, Hardware, Reading, Tier, Trust, UtcMillis,
    meter::{Now, Pace},
    reading::{Activity, Ratio, Traffic},
    window::Counter,
};

const H100: &str = include_str!("exporters/dcgm-h100.txt");
const RENAMED: &str = include_str!("exporters/dcgm-renamed.txt");
const MIG: &str = include_str!("exporters/dcgm-mig.txt");
const GAUDI: &str = include_str!("exporters/gaudi.txt");

/// What an exporter does with a request.
#[derive(Clone, Debug)]
enum Answers {
    Text(String),
    Status(StatusCode),
    Redirect(String),
    Never,
}

/// An exporter on a port of its own.
struct Exporter {
    answers: Arc<Mutex<Answers>>,
    url: reqwest::Url,
}

impl Exporter {
    async fn saying(text: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/metrics", listener.local_addr().unwrap()).parse().unwrap();
        let answers = Arc::new(Mutex::new(Answers::Text(text.to_owned())));
        let shared = Arc::clone(&answers);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                let service = service_fn(move |_: Request<Incoming>| {
                    let answers = shared.lock().unwrap().clone();
                    async move { Ok::<_, Infallible>(respond(answers).await) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { answers, url }
    }

    fn say(&self, text: &str) {
        self.set(Answers::Text(text.to_owned()));
    }

    fn set(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }
}

async fn respond(answers: Answers) -> Response<Full<Bytes>> {
    let (status, location, body) = match answers {
        Answers::Text(text) => (StatusCode::OK, None, text),
        Answers::Status(status) => (status, None, String::new()),
        Answers::Redirect(to) => (StatusCode::FOUND, Some(to), String::new()),
        Answers::Never => std::future::pending().await,
    };
    let mut response = Response::builder().status(status);
    if let Some(location) = location {
        response = response.header("location", location);
    }
    response.body(Full::new(body.into())).unwrap()
}

fn dcgm(exporters: &[&Exporter]) -> DcgmSource {
    DcgmSource::start(DcgmOptions {
        exporters: exporters.iter().map(|exporter| exporter.url.clone()).collect(),
        deadline: Duration::from_secs(30),
        interval: Duration::from_secs(30),
    })
}

fn gaudi(exporters: &[&Exporter]) -> GaudiSource {
    GaudiSource::start(GaudiOptions {
        exporters: exporters.iter().map(|exporter| exporter.url.clone()).collect(),
        deadline: Duration::from_secs(30),
        interval: Duration::from_secs(30),
    })
}

async fn once(text: &str) -> Look {
    let exporter = Exporter::saying(text).await;
    dcgm(&[&exporter]).look().await
}

fn part(fraction: f64) -> Option<Ratio> {
    Some(Ratio::from_fraction(fraction).unwrap())
}

fn states(look: &Look) -> Vec<DeviceState> {
    look.devices.iter().map(|device| device.state).collect()
}

fn inventory(look: &Look) -> &[Device] {
    look.inventory_changed.as_deref().expect("something new")
}

/// A device as the inventory tells it, in a line.
fn told(look: &Look) -> String {
    let mut shown = String::new();
    for device in inventory(look) {
        let Device { id, name, tier, pci_address, pci_device, host, driver, sample_ms, .. } = device;
        let Device { parent, units, present, conditions, max_sm_clock_mhz, power_limit_mw, .. } = device;
        let conditions: Vec<_> = conditions.iter().map(|condition| condition.as_str()).collect();
        let parent = parent.as_ref().map(ToString::to_string);
        writeln!(
            shown,
            "{id}: {name}, tier {tier}, at {pci_address:?}, {pci_device:?}, host {host:?}, driver {driver:?}, \
             every {sample_ms} ms, part of {parent:?}, units {units:?}, present {present}, {conditions:?}, \
             {max_sm_clock_mhz:?} MHz, {power_limit_mw:?} mW, {:?} bytes",
            device.memory_bytes
        )
        .unwrap();
    }
    shown.replace("Some", "")
}

fn shows(look: &Look, expected: Expect) {
    expected.assert_eq(&told(look));
}

#[tokio::test]
async fn a_default_exporter_gives_tensor_activity_and_clock_and_its_repeated_samples_count_once() {
    let look = once(H100).await;
    assert_eq!((look.source_state.clone(), look.unidentified), (SourceState::Ok, 0));
    shows(
        &look,
        expect![[r#"
            GPU-58e8ac36-0000-4000-8000-000000000001: NVIDIA H100 80GB HBM3, tier C, at ("0000:1a:00.0"), ("10de:2330"), host ("n74"), driver ("535.129.03"), every 30000 ms, part of None, units None, present true, [], None MHz, None mW, None bytes
            GPU-58e8ac36-0000-4000-8000-000000000002: NVIDIA H100 80GB HBM3, tier D, at ("0000:1b:00.0"), ("10de:2330"), host ("n74"), driver ("535.129.03"), every 30000 ms, part of None, units None, present true, [], None MHz, None mW, None bytes
        "#]],
    );
    let busy = Reading {
        sm_clock_mhz: Some(1980),
        activity: Activity { tensor: part(0.5), ..Activity::default() },
        busy: part(0.97),
        power_mw: Some(612_543),
        // One more than a double can hold.
        energy_mj: Some(9_007_199_254_740_993),
        dram: part(0.25),
        traffic: Traffic { pcie_tx: Some(1_500_000_000), ..Traffic::default() },
        ..Reading::default()
    };
    // Its tensor activity is NaN and its energy a sentinel: both unknown, neither zero.
    let idle = Reading {
        sm_clock_mhz: Some(345),
        busy: Some(Ratio::ZERO),
        power_mw: Some(68_100),
        ..Reading::default()
    };
    assert_eq!(states(&look), [DeviceState::Read(busy), DeviceState::Read(idle)]);
}

#[tokio::test]
async fn renamed_fields_and_labels_are_read_as_the_old_ones() {
    let look = once(RENAMED).await;
    assert_eq!((look.source_state.clone(), look.unidentified), (SourceState::Ok, 0));
    shows(
        &look,
        expect![[r#"
            GPU-a1: A100-SXM4-80GB, tier C, at ("0001:c3:00.0"), ("10de:20b2"), host ("gpu-2.cluster.example"), driver ("580.95.05"), every 30000 ms, part of None, units None, present true, [], (1410) MHz, (400000) mW, (85899345920) bytes
        "#]],
    );
    let expected = Reading {
        sm_clock_mhz: Some(1410),
        activity: Activity {
            tensor: part(0.4),
            hmma: part(0.3),
            imma: part(0.08),
            dfma: part(0.02),
            fp64: part(0.01),
            fp32: part(0.05),
            fp16: part(0.03),
            sm: part(0.91),
            integer: part(0.04),
        },
        busy: part(0.87),
        power_mw: Some(301_250),
        dram: part(0.6),
        traffic: Traffic {
            pcie_tx: Some(11),
            pcie_rx: Some(12),
            nvlink_tx: Some(13),
            nvlink_rx: Some(14),
            infiniband: None,
        },
        ..Reading::default()
    };
    assert_eq!(states(&look), [DeviceState::Read(expected)]);
}

#[tokio::test]
async fn instances_are_devices_and_the_power_of_their_board_is_not_theirs() {
    let look = once(MIG).await;
    shows(
        &look,
        expect![[r#"
            GPU-m: NVIDIA H100 80GB HBM3, tier D, at ("0000:1a:00.0"), ("10de:2330"), host ("n75"), driver None, every 30000 ms, part of None, units None, present false, ["split"], None MHz, None mW, None bytes
            GPU-m/gi7: NVIDIA H100 80GB HBM3, tier C, at ("0000:1a:00.0"), ("10de:2330"), host ("n75"), driver None, every 30000 ms, part of ("GPU-m"), units (16), present true, [], None MHz, None mW, None bytes
            GPU-m/gi1: NVIDIA H100 80GB HBM3, tier C, at ("0000:1a:00.0"), ("10de:2330"), host ("n75"), driver None, every 30000 ms, part of ("GPU-m"), units (60), present true, [], None MHz, None mW, None bytes
        "#]],
    );
    let instance = |tensor| {
        DeviceState::Read(Reading {
            sm_clock_mhz: Some(1755),
            activity: Activity { tensor: part(tensor), ..Activity::default() },
            ..Reading::default()
        })
    };
    assert_eq!(states(&look)[1..], [instance(0.281), instance(0.75)]);
}

#[tokio::test]
async fn samples_of_one_device_that_disagree_are_a_gap() {
    let twice = |second: &str| {
        format!(
            "DCGM_FI_DEV_SM_CLOCK{{UUID=\"GPU-1\",hpc_job=\"1\"}} 1980\n\
             DCGM_FI_DEV_SM_CLOCK{{UUID=\"GPU-1\",hpc_job=\"2\"}} {second}\n\
             DCGM_FI_DEV_SM_CLOCK{{UUID=\"GPU-2\"}} 1500\n"
        )
    };
    let disagreeing = states(&once(&twice("345")).await);
    assert_eq!(disagreeing[0], DeviceState::Missing(GapCause::Implausible));
    assert!(matches!(disagreeing[1], DeviceState::Read(_)), "only the device itself: {disagreeing:?}");
    for same in ["1980", "1980.000000", "1.98e3"] {
        assert!(matches!(states(&once(&twice(same)).await)[0], DeviceState::Read(_)), "{same}");
    }
}

#[tokio::test]
async fn without_a_clock_the_models_own_is_assumed_and_said() {
    let without: String = H100
        .lines()
        .filter(|line| !line.contains("SM_CLOCK"))
        .fold(String::new(), |text, line| text + line + "\n");
    let look = once(&without).await;
    assert_eq!(inventory(&look)[0].conditions, [Condition::ClockAssumed]);
    let DeviceState::Read(reading) = look.devices[0].state else { panic!("read") };
    assert_eq!((reading.sm_clock_mhz, reading.assumed_clock_mhz), (None, Some(1830)));
    // The other one has no tensor activity that a clock would be assumed for.
    assert_eq!((inventory(&look)[1].tier, inventory(&look)[1].conditions.len()), (Tier::D, 0));
}

#[tokio::test]
async fn a_gpu_that_no_uuid_names_is_counted_and_not_metered() {
    let look = once(
        "DCGM_FI_DEV_SM_CLOCK{gpu=\"0\"} 1980\nDCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} 5\n\
         DCGM_FI_DEV_SM_CLOCK{gpu=\"1\",UUID=\"GPU 1\"} 1980\nDCGM_FI_DEV_SM_CLOCK{nvswitch=\"0\"} 1\n",
    )
    .await;
    assert_eq!((look.unidentified, look.devices.len()), (2, 0));
    assert_eq!(inventory(&look), []);
}

#[tokio::test]
async fn an_exporter_that_does_not_answer_is_not_one_that_does_not_name_a_device() {
    let first =
        Exporter::saying("DCGM_FI_DEV_SM_CLOCK{UUID=\"GPU-1\"} 1\nDCGM_FI_DEV_SM_CLOCK{UUID=\"GPU-2\"} 1\n")
            .await;
    let second = Exporter::saying("DCGM_FI_DEV_SM_CLOCK{UUID=\"GPU-3\"} 1\n").await;
    let mut source = dcgm(&[&first, &second]);
    let look = source.look().await;
    assert!(look.devices.iter().all(|device| matches!(device.state, DeviceState::Read(_))), "{look:?}");
    first.say("DCGM_FI_DEV_SM_CLOCK{UUID=\"GPU-2\"} 1\n");
    second.set(Answers::Status(StatusCode::INTERNAL_SERVER_ERROR));
    let look = source.look().await;
    assert_eq!(look.devices[0].state, DeviceState::Missing(GapCause::NotReported));
    assert!(matches!(look.devices[1].state, DeviceState::Read(_)));
    assert_eq!(look.devices[2].state, DeviceState::Missing(GapCause::Unreachable));
    assert_eq!((look.source_state, look.inventory_changed), (SourceState::Ok, None));
    first.set(Answers::Redirect(second.url.to_string()));
    let look = source.look().await;
    let [one, two, three] = states(&look)[..] else { panic!("none is forgotten") };
    assert_eq!([one, two, three], [DeviceState::Missing(GapCause::Unreachable); 3]);
    let SourceState::Missing(cause, why) = look.source_state else { panic!("nobody answered") };
    assert_eq!(cause, GapCause::Unreachable);
    assert_eq!(why, format!("{}: it answers 302 Found", first.url));
    // A starting exporter answers with nothing at all.
    first.say("");
    let look = source.look().await;
    assert_eq!(look.devices[0].state, DeviceState::Missing(GapCause::NotReported));
}

#[tokio::test]
async fn an_answer_that_is_too_long_too_late_or_something_else_is_none() {
    let line = "DCGM_FI_DEV_SM_CLOCK{UUID=\"GPU-1\"} 1\n";
    let exporter = Exporter::saying(line).await;
    let mut source = dcgm(&[&exporter]);
    assert_eq!(source.look().await.source_state, SourceState::Ok);
    let why = |look: Look| {
        assert_eq!(states(&look), [DeviceState::Missing(GapCause::Unreachable)]);
        match look.source_state {
            SourceState::Missing(_, why) => why.split_once("metrics: ").unwrap().1.to_owned(),
            SourceState::Ok => "ok".into(),
        }
    };
    exporter.say(&line.repeat(16 * 1024 * 1024 / line.len() + 1));
    assert_eq!(why(source.look().await), "its answer is longer than 16777216 bytes");
    exporter.say("<html>\n<body>Log in</body>\n");
    assert_eq!(why(source.look().await), "its answer is no exposition");
    exporter.say("# nothing yet\nbroken line\nDCGM_FI_DEV_SM_CLOCK{UUID=\"GPU-1\"} 1\n");
    assert!(matches!(states(&source.look().await)[0], DeviceState::Read(_)), "one bad line spoils nothing");

    let mut source = DcgmSource::start(DcgmOptions {
        exporters: vec![exporter.url.clone()],
        deadline: Duration::from_millis(50),
        interval: Duration::from_secs(30),
    });
    exporter.set(Answers::Never);
    let look = source.look().await;
    let SourceState::Missing(GapCause::Unreachable, why) = &look.source_state else { panic!("{look:?}") };
    assert!(why.ends_with("no answer within the deadline"), "{why}");
    assert_eq!(look.inventory_changed, None, "nothing was found, which is not to have found nothing");
}

#[tokio::test]
async fn values_that_are_served_again_and_again_are_stale() {
    let exporter = Exporter::saying(H100).await;
    let mut source = DcgmSource::start(DcgmOptions {
        exporters: vec![exporter.url.clone()],
        deadline: Duration::from_secs(30),
        // Whatever was served before is too old.
        interval: Duration::ZERO,
    });
    source.look().await;
    let look = source.look().await;
    assert_eq!(look.devices[0].state, DeviceState::Missing(GapCause::Stale));
    exporter.say(&H100.replace("9007199254740993", "9007199254740994"));
    assert!(matches!(source.look().await.devices[0].state, DeviceState::Read(_)));
}

#[tokio::test]
async fn gaudi_is_read_by_its_own_names_and_known_by_its_memory() {
    let exporter = Exporter::saying(GAUDI).await;
    let look = gaudi(&[&exporter]).look().await;
    shows(
        &look,
        expect![[r#"
            01P0-HL2080A0-15-TNPS34-01: HL-225, tier D, at None, ("1da3:1020"), host ("gaudi-7"), driver ("1.18.0"), every 30000 ms, part of None, units None, present true, [], (1650) MHz, (600000) mW, (103079215104) bytes
            01P0-HL3090A0-15-TNPS34-02: HL-325L, tier D, at None, ("1da3:1060"), host ("gaudi-7"), driver ("1.18.0"), every 30000 ms, part of None, units None, present true, [], None MHz, None mW, (137438953472) bytes
        "#]],
    );
    let first = Reading {
        sm_clock_mhz: Some(1650),
        busy: part(0.55),
        power_mw: Some(412_000),
        energy_mj: Some(12_345_678_000),
        ..Reading::default()
    };
    // Of the second, only the general name tells power: 98 kW, if it were to be believed.
    let second = Reading { busy: part(0.07), ..Reading::default() };
    assert_eq!(states(&look), [DeviceState::Read(first), DeviceState::Read(second)]);
}

#[tokio::test]
async fn a_gaudi_is_known_by_name_or_clock_too_and_strange_values_are_gaps() {
    let name = async |text: &str| {
        let exporter = Exporter::saying(text).await;
        let look = gaudi(&[&exporter]).look().await;
        let device = inventory(&look)[0].clone();
        (device.name, device.pci_device, look.devices[0].state)
    };
    let label = |rest: &str| format!("habanalabs_utilization{{UUID=\"U1\"{rest}}} 5\n");
    let (shown, pci, _) = name(&label(",product_name=\"HL-225H\"")).await;
    assert_eq!((shown.as_str(), pci.as_deref()), ("HL-225H", Some("1da3:1020")));
    let (shown, pci, _) = name(&(label("") + "habanalabs_clock_soc_max_mhz{UUID=\"U1\"} 1750\n")).await;
    assert_eq!((shown.as_str(), pci.as_deref()), ("HL-325L", Some("1da3:1060")));
    let (shown, pci, _) = name(&label("")).await;
    assert_eq!((shown.as_str(), pci), ("Gaudi (model not printed)", None));
    let gaps = [
        ("habanalabs_utilization{UUID=\"U1\"} 101.5\n", GapCause::Implausible),
        ("habanalabs_utilization{UUID=\"U1\"} 700\n", GapCause::Implausible),
        (
            "habanalabs_utilization{Serial=\"U1\"} 7\nhabanalabs_utilization{UUID=\"U1\"} 8\n",
            GapCause::Implausible,
        ),
        ("habanalabs_utilization{UUID=\"U1\"} NaN\n", GapCause::ReadFailed),
    ];
    for (text, cause) in gaps {
        assert_eq!(name(text).await.2, DeviceState::Missing(cause), "{text}");
    }
}

fn engine() -> Engine {
    Engine::new(EngineOptions {
        host: "collector-side".into(),
        trust: Trust::Host,
        pace: Pace { window_ms: 60_000, longest_tick_ms: 120_000 },
        held_records: 100,
    })
}

fn at(seconds: i64) -> Now {
    // 2026-01-31T08:00:00Z, a whole minute.
    let wall = UtcMillis(1_769_846_400_000 + seconds * 1000);
    Now { boot_ms: 5_000 + seconds.unsigned_abs() * 1000, wall }
}

#[tokio::test]
async fn a_minute_through_the_engine_is_exact_to_the_integer() {
    let exporter = Exporter::saying(H100).await;
    let mut source = dcgm(&[&exporter]);
    let mut engine = engine();
    for (seconds, energy) in [(0, "1000000"), (30, "19376290"), (60, "37752580")] {
        exporter.say(&H100.replace("9007199254740993", energy));
        let look = source.look().await;
        engine.tick(at(seconds), &look, HolderNews::default());
    }
    let contents = engine.take();
    assert_eq!((contents.gaps.len(), contents.windows.len()), (0, 2));
    let record = &contents.inventory[0];
    assert_eq!((record.host.as_str(), record.tier, record.trust), ("n74", Tier::C, Trust::Host));
    let window = &contents.windows[0];
    let counters: Vec<_> = Counter::ALL
        .iter()
        .filter_map(|&counter| Some((counter.as_str(), window.counters.get(counter)?)))
        .collect();
    // 1980 MHz x 60 s, half of it; 97 % and a quarter of 60 s; the counter's 36752.580 J; 1.5 GB/s.
    assert_eq!(
        counters,
        [
            ("elapsed_cycles", 118_800_000_000),
            ("tensor_cycles", 59_400_000_000),
            ("busy_us", 58_200_000),
            ("energy_uj", 36_752_580_000),
            ("dram_us", 15_000_000),
            ("pcie_tx_bytes", 90_000_000_000),
        ]
    );
    let estimator = Estimator::shipped();
    let model = estimator.table().find(Some(&record.pci_device), &record.name);
    let bound = estimator.estimate(model, window).bound;
    // best: 59.4e9 cycles x 132 SMs x 4096 = 32115.9168e12. low: as if FP64, 66.9 / 989.4, x 0.85 for an
    // exporter = 1845.84e12. high: as if FP8, double x 1.15 = 73866.61e12, and 118.8e9 cycles x 132 x 128
    // lanes x 4 = 8028.98e12 of vector work that nobody counted, in the 97 % in which a kernel was resident.
    assert_eq!((bound.low().tera(), bound.best().tera(), bound.high().tera()), (1845, 32116, 82823));
}

#[tokio::test]
async fn an_instance_through_the_engine_counts_its_own_units_only() {
    let exporter = Exporter::saying(MIG).await;
    let mut source = dcgm(&[&exporter]);
    let mut engine = engine();
    for seconds in [0, 60] {
        let look = source.look().await;
        engine.tick(at(seconds), &look, HolderNews::default());
    }
    let contents = engine.take();
    let named: Vec<_> = contents.windows.iter().map(|window| window.accelerator.as_str()).collect();
    assert_eq!((named, contents.gaps.len()), (vec!["GPU-m/gi7", "GPU-m/gi1"], 0));
    let table = AcceleratorTable::shipped();
    let record = &contents.inventory[1];
    let model = table.find(Some(&record.pci_device), &record.name);
    let hardware = Hardware { model, units: record.units, ..Hardware::default() };
    let estimate = Estimator::shipped().estimate(hardware, &contents.windows[0]);
    // 1755 MHz x 60 s x 0.281 = 29.58930e9 cycles x 16 SMs x 4096 = 1939.16e12.
    assert_eq!(contents.windows[0].counters.get(Counter::TensorCycles), Some(29_589_300_000));
    assert_eq!(estimate.bound.best().tera(), 1939);
}

#[tokio::test]
async fn an_exporter_that_was_away_leaves_a_gap_with_its_name() {
    let exporter = Exporter::saying(H100).await;
    let mut source = dcgm(&[&exporter]);
    let mut engine = engine();
    let status = Answers::Status(StatusCode::SERVICE_UNAVAILABLE);
    for (seconds, answers) in [(0, None), (60, Some(status)), (120, None)] {
        exporter.set(answers.unwrap_or_else(|| Answers::Text(H100.to_owned())));
        let look = source.look().await;
        engine.tick(at(seconds), &look, HolderNews::default());
    }
    let contents = engine.take();
    let gaps: Vec<_> = contents.gaps.iter().map(|gap| (gap.span.millis(), gap.cause)).collect();
    assert_eq!(gaps, [(60_000, GapCause::Unreachable); 4]);
    assert_eq!(contents.windows, []);
}
