//! The program as people and supervisors use it: exit codes, and a whole run in paused time.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use weighbridge_agent::{
    clock::{Clock, ManualClock},
    config::{Layers, load},
    doctor, run,
    spool::{Range, inspect},
};
use weighbridge_meter::{BootId, UtcMillis, meter::Now};

const SCENARIO: &str = r#"
[[accelerator]]
id = "GPU-1"
name = "NVIDIA H100 80GB HBM3"
[[accelerator.phase]]
for = "1h"
tensor = 0.5
"#;

/// A configuration for a simulated accelerator, everything in one folder.
fn configured(dir: &Path) -> String {
    fs::write(dir.join("scenario.toml"), SCENARIO).expect("written");
    let dir = dir.display();
    format!(
        "agent.id = \"node1\"\nagent.key_file = \"{dir}/key\"\nspool.dir = \"{dir}/spool\"\nhttp.listen = \"\"\n\
         source.kind = \"simulated\"\nsource.simulated.scenario = \"{dir}/scenario.toml\"\n"
    )
}

fn agent(config: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weighbridge-agent"))
        .arg("--config")
        .arg(config)
        .args(arguments)
        .env_remove("WEIGHBRIDGE_AGENT__METER__PERIOD")
        .output()
        .expect("the program starts")
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

#[test]
fn exit_codes_tell_a_wrong_configuration_from_a_failed_check_and_a_missing_driver() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("agent.toml");
    fs::write(&config, configured(dir.path())).unwrap();
    let good = agent(&config, &["check-config"]);
    assert_eq!((good.status.code(), text(&good.stdout)), (Some(0), "ok\n".into()));

    let bad = agent(&config, &["--set", "meter.period=5", "check-config"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad.stderr).contains("flag meter.period: meter.period: "), "{}", text(&bad.stderr));

    assert_eq!(agent(&config, &["no-such-command"]).status.code(), Some(2));

    // Port 1 is nobody's.
    let unreachable = agent(
        &config,
        &[
            "--set",
            "uplink.collectors=[\"http://127.0.0.1:1\"]",
            "--set",
            "uplink.plain_http_on_loopback=true",
            "doctor",
        ],
    );
    assert_eq!(unreachable.status.code(), Some(1), "{}", text(&unreachable.stdout));
    assert!(text(&unreachable.stdout).contains("FAIL  collector http://127.0.0.1:1/"));

    let no_library = ["--set", "source.kind=nvml", "--set", "source.nvml.library=/nowhere/lib.so", "doctor"];
    let missing = agent(&config, &no_library);
    assert_eq!(missing.status.code(), Some(3), "{}", text(&missing.stdout));
    assert!(text(&missing.stdout).contains("FAIL  source nvml: driver_missing"));

    fs::write(dir.path().join("key"), "not a key").unwrap();
    assert_eq!(agent(&config, &["run"]).status.code(), Some(3), "the key file is open to all");
}

/// A configuration for a fake driver with one device, everything in one folder.
fn configured_for_nvml(dir: &Path) -> weighbridge_fake_nvml::FakeDriver {
    let script = "driver_version = \"580.95.05\"\n[[device]]\nuuid = \"GPU-1\"\nname = \"NVIDIA L4\"\n";
    let driver = weighbridge_fake_nvml::FakeDriver::install(&dir.join("driver"), script).expect("installed");
    let text = format!(
        "agent.id = \"node1\"\nagent.key_file = \"{0}/key\"\nspool.dir = \"{0}/spool\"\nhttp.listen = \"\"\n\
         source.kind = \"nvml\"\nsource.nvml.library = \"{1}\"\nsource.nvml.release_file = \"{0}/run/release\"\n\
         source.nvml.sysfs = \"{0}/sys\"\nmeter.period = \"100ms\"\nsource.nvml.deadline = \"50ms\"\n",
        dir.display(),
        driver.library().display()
    );
    fs::write(dir.join("agent.toml"), text).expect("written");
    driver
}

#[tokio::test]
async fn release_makes_a_running_agent_shut_the_library_down_and_resume_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let driver = configured_for_nvml(dir.path());
    let file = dir.path().join("agent.toml");
    let command = async |arguments: &'static [&'static str]| {
        let file = file.clone();
        let output = tokio::task::spawn_blocking(move || agent(&file, arguments)).await.unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let release = dir.path().join("run/release");

    let (code, _, error) = command(&["resume"]).await;
    assert_eq!(code, Some(0), "{error}");

    let config = load(&Layers { file: Some(file.clone()), ..Layers::default() }, "node1").unwrap();
    let clock = Arc::new(
        weighbridge_agent::clock::SystemClock::start("/proc/sys/kernel/random/boot_id".as_ref()).unwrap(),
    );
    let stop = CancellationToken::new();
    let running = run::start(config, clock, counted).await.unwrap();
    let asking = async {
        while driver.users() != Some(1) {
            tokio::task::yield_now().await;
        }
        let (code, said, error) = command(&["release", "--for", "10m"]).await;
        assert_eq!(code, Some(0), "{error}");
        assert!(said.starts_with("the driver was let go of, until 2"), "{said}");
        assert_eq!(driver.users(), Some(0));
        fs::read_to_string(&release).unwrap().trim().parse::<UtcMillis>().unwrap();
        let (code, said, _) = command(&["resume"]).await;
        assert_eq!((code, release.exists()), (Some(0), false), "{said}");
        while driver.users() != Some(1) {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    tokio::join!(running.until_stopped(stop.clone()), asking);
}

#[test]
fn a_release_that_nobody_follows_says_so_and_other_sources_have_nothing_to_let_go_of() {
    let dir = tempfile::tempdir().unwrap();
    configured_for_nvml(dir.path());
    let file = dir.path().join("agent.toml");
    // What an agent left that was stopped while it was let go.
    fs::create_dir(dir.path().join("run")).unwrap();
    fs::write(dir.path().join("run/release.done"), "").unwrap();
    let alone = agent(&file, &["release"]);
    assert_eq!(alone.status.code(), Some(1), "{}", text(&alone.stdout));
    assert!(text(&alone.stderr).contains("no agent has let go"), "{}", text(&alone.stderr));
    assert_eq!(fs::read_to_string(dir.path().join("run/release")).unwrap(), "");

    assert_eq!(agent(&file, &["release", "--for", "soon"]).status.code(), Some(2));
    fs::write(&file, configured(dir.path())).unwrap();
    assert_eq!(agent(&file, &["release"]).status.code(), Some(2));
}

#[test]
fn doctor_prints_the_line_to_enrol_with_and_spool_ls_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("agent.toml");
    fs::write(&config, configured(dir.path())).unwrap();
    let (key, _) =
        weighbridge_agent::key::read_or_make(&dir.path().join("key"), &mut |bytes| bytes.fill(7)).unwrap();
    let shown = text(&agent(&config, &["doctor"]).stdout);
    let line = format!(",SITE,FABRIC,{},FROM,", weighbridge_agent::key::public_base64(&key));
    assert!(shown.contains(&line) && shown.contains("node1,"), "{shown}");
    assert!(shown.contains("GPU-1: NVIDIA H100 80GB HBM3, tier B, table row H100 SXM5"), "{shown}");
    let listing = agent(&config, &["spool", "ls"]);
    assert_eq!(listing.status.code(), Some(0));
    assert!(text(&listing.stdout).contains("parked: 0 batches, 0 bytes"));
}

/// Follows the runtime's time, which is paused.
struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn now(&self) -> Now {
        let passed = u64::try_from(self.0.elapsed().as_millis()).expect("small");
        Now { boot_ms: 5_000 + passed, wall: UtcMillis(1_769_846_400_000).plus(passed.cast_signed()) }
    }

    fn raw_wall(&self) -> Option<UtcMillis> {
        Some(self.now().wall)
    }

    fn boot(&self) -> BootId {
        BootId([3; 16])
    }
}

fn counted(bytes: &mut [u8]) {
    use std::sync::atomic::{AtomicU8, Ordering};
    static NEXT: AtomicU8 = AtomicU8::new(1);
    bytes.fill(NEXT.fetch_add(1, Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_run_seals_at_once_at_each_interval_and_when_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    fs::write(&file, configured(dir.path())).unwrap();
    let config = load(&Layers { file: Some(file), ..Layers::default() }, "node1").unwrap();
    let spool = config.spool.dir.clone();
    let clock = Arc::new(PausedClock(tokio::time::Instant::now()));
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(150_500)).await;
        stopping.cancel();
    });
    run::start(config, clock, counted).await.unwrap().until_stopped(stop).await;

    // One at once, one at each of two whole minutes, one at the end.
    let seen = inspect(&spool).unwrap();
    assert_eq!(seen.epochs.len(), 1);
    assert_eq!(seen.epochs[0].ranges, [Range { first: 1, last: 4 }]);
    let mut reader = weighbridge_journal::Reader::from_start(&spool.join(&seen.epochs[0].id));
    let mut spans = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        let batch = weighbridge_wire::Envelope::decode(&entry.payload).unwrap().read().unwrap();
        assert_eq!(batch.status.unwrap().source_state, "ok");
        assert_eq!(batch.gaps, []);
        spans.extend(batch.windows.iter().map(|window| (window.span.millis(), window.ticks)));
    }
    assert_eq!(spans, [(60_000, 60), (60_000, 60), (30_000, 30)]);
}

#[tokio::test]
async fn doctor_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    fs::write(&file, configured(dir.path())).unwrap();
    let config = load(&Layers { file: Some(file), ..Layers::default() }, "node1").unwrap();
    let clock = Arc::new(ManualClock::new(UtcMillis(0), 0, BootId([1; 16])));
    let diagnosis = doctor::examine(&config, clock).await;
    assert!(!diagnosis.failed, "{}", diagnosis.report);
    assert!(!dir.path().join("key").exists() && !dir.path().join("spool").exists());
}

#[tokio::test]
async fn a_running_agent_shows_metrics_and_readiness() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    fs::write(&file, configured(dir.path()).replace("\"\"", "\"127.0.0.1:0\"")).unwrap();
    let config = load(&Layers { file: Some(file), ..Layers::default() }, "node1").unwrap();
    let clock = Arc::new(PausedClock(tokio::time::Instant::now()));
    let stop = CancellationToken::new();
    let running = run::start(config, clock, counted).await.unwrap();
    let base = format!("http://{}", running.listens_on().expect("it listens"));
    let asking = async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let get = async |path: &str| {
            let response = client.get(format!("{base}{path}")).send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        };
        assert_eq!(get("/-/healthy").await.0, 200);
        let mut ready = get("/-/ready").await;
        while ready.1 == "no look was taken yet\n" {
            ready = get("/-/ready").await;
        }
        assert_eq!(ready, (200, "ready\n".into()));
        let (status, text) = get("/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("weighbridge_agent_batches_sealed_total 1"), "{text}");
        assert!(text.contains("weighbridge_agent_source_state{state=\"ok\"} 1"), "{text}");
        assert!(get("/").await.1.contains("href=\"/metrics\""));
        assert_eq!(get("/elsewhere").await.0, 404);
        let refused = client.post(format!("{base}/metrics")).send().await.unwrap();
        assert_eq!(refused.status().as_u16(), 405);
        stop.cancel();
    };
    tokio::join!(running.until_stopped(stop.clone()), asking);
}
