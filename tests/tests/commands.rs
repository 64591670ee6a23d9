//! Commands end with the exit code that scripts go by, say what is wrong by place, value and expectation, and leave
//! nothing half done.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ed25519_dalek::SigningKey;
use serde_json::Value;
use tempfile::TempDir;
use weighbridge_fake_nvml::DriverFault;
use weighbridge_store::Fact;
use weighbridge_tests::{
    agent::{self, AgentOptions},
    collector::{self, Collector},
    http, ledgers,
    machine::Device,
    process::{self, Finished},
    rules,
    site::Site,
    wait,
};
use weighbridge_wire::{Batch, seal::seal};

const PRINCIPALS: &str =
    "principal,customer,valid_from,valid_to\nlease:site-1/one,C-1,2026-03-01T00:00:00Z,\n";

/// A command with a file of its own as configuration, in a folder of its own.
struct Alone(TempDir);

impl Alone {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    fn run(&self, program: &str, variable: Option<(&str, &str)>, arguments: &[&str]) -> Finished {
        let mut command = process::command(&process::program(program));
        command.args(arguments).envs(variable);
        process::run("command", &mut command, self.0.path(), Duration::from_secs(60))
    }

    /// What lies in the folder beside the output of commands.
    fn names(&self) -> BTreeSet<String> {
        let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| !name.starts_with("command."))
            .collect()
    }
}

#[track_caller]
fn ended(finished: &Finished, code: i32, said: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    for part in said {
        assert!(finished.stderr.contains(part), "{part} is not in: {}", finished.stderr);
    }
}

#[test]
fn a_configuration_that_cannot_be_used_ends_every_command_of_the_collector_with_2_before_anything_is_made() {
    for (text, said) in [
        ("[http]\nlistne = \"127.0.0.1:1\"\n", ["http.listne", "collector.toml", "expected"]),
        ("[http]\nlisten = \"localhost\"\n", ["http.listen: ", "\"localhost\"", "an address with a port"]),
        ("[store]\nsegment_bytes = 17\n", ["store.segment_bytes: ", "\"17\"", "at least 4096 bytes"]),
        ("[store]\nsegment_bytes = \"many\"\n", ["store.segment_bytes", "\"many\"", "expected"]),
        ("[rules]\nevery = \"1ms\"\n", ["rules.every: ", "\"1ms\"", "a duration from 100ms to 1h"]),
        ("[rules]\nenable = [\"us-9\"]\n", ["rules.enable: ", "\"us-9\"", "the id of a pack that is loaded"]),
        ("[log]\nlevel = \"loud\"\n", ["log.level: ", "\"loud\"", "error, warn, info or debug"]),
        ("[http\n", ["collector.toml", "http", "expected"]),
    ] {
        let alone = Alone::new();
        let paths = format!(
            "store.data = {:?}\nkeys.operator_key = {:?}\nkeys.key_store = {:?}\n",
            alone.path("data"),
            alone.path("operator.key"),
            alone.path("keys")
        );
        // Sections may be opened once only.
        let paths = if text.starts_with("[store]") { "" } else { &paths };
        let config = alone.write("collector.toml", &format!("{paths}{text}"));
        let csv = alone.write("principals.csv", PRINCIPALS);
        for command in [
            ["check-config"].as_slice(),
            &["serve"],
            &["import", "principals", &csv],
            &["verify"],
            &["rebuild"],
            &["report", "case-0001", "--masked"],
        ] {
            let arguments = [["--config", config.as_str()].as_slice(), command].concat();
            ended(&alone.run(collector::PROGRAM, None, &arguments), 2, &said);
        }
        assert_eq!(alone.names(), ["collector.toml", "principals.csv"].map(str::to_owned).into());
    }
    let alone = Alone::new();
    let missing = alone.path("nowhere.toml").display().to_string();
    ended(
        &alone.run(collector::PROGRAM, None, &["--config", &missing, "serve"]),
        2,
        &["nowhere.toml", "No such file"],
    );
    let variable = Some(("WEIGHBRIDGE_COLLECTOR__INGEST__LISTEN", "somewhere"));
    let config = alone.write("collector.toml", "");
    ended(
        &alone.run(collector::PROGRAM, variable, &["--config", &config, "check-config"]),
        2,
        &["ingest.listen: ", "\"somewhere\"", "an address with a port"],
    );
    for arguments in
        [["no-such-command"].as_slice(), &[], &["import", "wishes", "x.csv"], &["report", "case-0001"]]
    {
        assert_eq!(alone.run(collector::PROGRAM, None, arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn a_configuration_that_cannot_be_used_ends_every_command_of_the_agent_with_2_before_anything_is_made() {
    for (text, said) in [
        ("meter.perid = \"1s\"\n", ["meter.perid", "agent.toml", "expected"]),
        ("meter.period = \"5\"\n", ["meter.period: ", "\"5\"", "a duration from \"100ms\" to \"60s\""]),
        ("meter.window = \"7m\"\n", ["meter.window: ", "\"7m\"", "a duration that divides an hour"]),
        ("spool.max_bytes = \"10GB\"\n", ["spool.max_bytes: ", "\"10GB\"", "a size of at least \"1MiB\""]),
        (
            "source.kind = \"perf\"\n",
            [
                "source.kind: ",
                "\"perf\"",
                "nvml, amdgpu, dcgm, gaudi, redfish, allocation, simulated and replay",
            ],
        ),
        ("http.listen = \"19310\"\n", ["http.listen: ", "\"19310\"", "an address and port"]),
        (
            "uplink.collectors = [\"collector\"]\n",
            ["uplink.collectors: ", "\"collector\"", "an address such as"],
        ),
        ("[meter\n", ["agent.toml", "meter", "expected"]),
    ] {
        let alone = Alone::new();
        let paths = format!("agent.key_file = {:?}\n", alone.path("key"));
        let spool = format!("spool.dir = {:?}\n", alone.path("spool"));
        let config = alone.write("agent.toml", &format!("{paths}{spool}{text}"));
        for command in [["check-config"].as_slice(), &["run"], &["doctor"], &["spool", "ls"]] {
            let arguments = [["--config", config.as_str()].as_slice(), command].concat();
            ended(&alone.run(agent::PROGRAM, None, &arguments), 2, &said);
        }
        assert_eq!(alone.names(), ["agent.toml".to_owned()].into());
    }
    let alone = Alone::new();
    let config = alone.write("agent.toml", "");
    let variable = Some(("WEIGHBRIDGE_AGENT__METER__BATCH", "45m"));
    ended(
        &alone.run(agent::PROGRAM, variable, &["--config", &config, "check-config"]),
        2,
        &["meter.batch", "\"45m\"", "a duration that divides an hour"],
    );
    // A flag wins over the variable, so this one is good.
    let good = ["--config", config.as_str(), "--set", "meter.batch=30s", "check-config"];
    ended(&alone.run(agent::PROGRAM, variable, &good), 0, &[]);
    let missing = alone.path("nowhere.toml").display().to_string();
    ended(
        &alone.run(agent::PROGRAM, None, &["--config", &missing, "run"]),
        2,
        &["nowhere.toml", "No such file"],
    );
    for arguments in [["no-such-command"].as_slice(), &[], &["--set", "meter.period", "run"]] {
        assert_eq!(alone.run(agent::PROGRAM, None, arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn a_scenario_that_cannot_be_used_is_named_by_place_value_and_expectation() {
    const GOOD: &str = "[[accelerator]]\nid = \"GPU-1\"\nname = \"NVIDIA H100 80GB HBM3\"\n\
                        [[accelerator.phase]]\nfor = \"10m\"\ntensor = 0.5\n";
    for (from, to, said) in [
        ("0.5", "1.5", ["accelerator[0].phase[0].tensor: ", "1.5", "a part of the whole, from 0 to 1"]),
        ("10m", "10", ["accelerator[0].phase[0].for: ", "\"10\"", "a duration above zero"]),
        ("GPU-1", "GPU 1", ["accelerator[0].id: ", "\"GPU 1\"", "without blanks"]),
        ("tensor", "tensr", ["scenario", "tensr", "expected"]),
        (GOOD, "", ["accelerator: ", "an empty list", "at least one accelerator"]),
    ] {
        let alone = Alone::new();
        let text = GOOD.replace(from, to);
        let scenario = alone.write("scenario.toml", &text);
        let config = alone.write(
            "agent.toml",
            &format!(
                "agent.key_file = {:?}\nspool.dir = {:?}\nhttp.listen = \"\"\nsource.kind = \"simulated\"\n\
                 source.simulated.scenario = {scenario:?}\n",
                alone.path("key"),
                alone.path("spool"),
            ),
        );
        ended(&alone.run(agent::PROGRAM, None, &["--config", &config, "run"]), 2, &said);
        let doctor = alone.run(agent::PROGRAM, None, &["--config", &config, "doctor"]);
        assert_eq!(doctor.code, Some(1), "{doctor:?}");
        for part in said {
            assert!(doctor.stdout.contains(part), "{part}: {}", doctor.stdout);
        }
    }
}

#[test]
fn a_rule_pack_that_cannot_be_used_ends_with_2_and_is_named() {
    for (from, to, said) in [
        ("comparator = \"gt\"", "comparator = \"above\"", ["small@1.toml", "above", "expected"]),
        ("threshold = \"1e12\"", "threshold = \"much\"", ["small@1.toml", "much", ""]),
        ("duty_on", "dutty_on", ["small@1.toml", "dutty_on", "expected"]),
        // A pack that fails its own example does not load.
        ("expect = \"not_met\"", "expect = \"certain\"", ["small@1.toml", "at the line", "certain"]),
        ("version = \"1\"", "version = \"2\"", ["small@1.toml", "version", "2"]),
    ] {
        let alone = Alone::new();
        let rules = rules::configured(&alone.path("packs"));
        assert!(rules::TEXT.contains(from));
        rules::signed(&alone.path("packs"), &rules::TEXT.replace(from, to));
        let config =
            alone.write("collector.toml", &format!("store.data = {:?}\n{rules}", alone.path("data")));
        for command in ["check-config", "serve"] {
            ended(&alone.run(collector::PROGRAM, None, &["--config", &config, command]), 2, &said);
        }
        assert_eq!(alone.names(), ["collector.toml", "packs"].map(str::to_owned).into());
    }
}

/// A collector that serves, without agents. Dropping it ends it before its folder goes.
struct Served {
    collector: Collector,
    folder: TempDir,
}

impl Served {
    #[track_caller]
    fn with_config(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut collector = Collector::prepare(&folder.path().join("collector"), more);
        collector.start_ready();
        Self { collector, folder }
    }
}

/// How many entries a running collector has.
fn entries(collector: &Collector) -> u64 {
    let status = collector.settle();
    status["ledger"]["next_index"].as_u64().unwrap_or_else(|| panic!("{status}"))
}

/// A batch that says no more than whose it is, signed.
fn batch(agent: &str, seed: u8) -> Vec<u8> {
    let batch = Batch {
        agent: agent.parse().unwrap(),
        epoch: weighbridge_meter::EpochId([1; 16]),
        sequence: 1,
        prev_hash: [0; 32],
        boot: weighbridge_meter::BootId([2; 16]),
        windows: Vec::new(),
        gaps: Vec::new(),
        holdings: Vec::new(),
        inventory: Vec::new(),
        status: None,
        losses: Vec::new(),
    };
    seal(&batch, &SigningKey::from_bytes(&[seed; 32])).unwrap().bytes
}

#[test]
fn a_batch_that_is_none_or_of_nobody_or_altered_is_refused_and_nothing_of_it_is_stored() {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    let site = Served::with_config("");
    let key = BASE64.encode(SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes());
    let header = "agent,host,site,fabric,public_key,valid_from,valid_to\n";
    site.collector.import("agents", &format!("{header}known,h,s,f,{key},2026-01-01T00:00:00Z,\n"));
    let before = entries(&site.collector);
    let genuine = batch("known", 9);
    let mut altered = genuine.clone();
    // In the compressed payload, which stands first; the key at the end still is a known one.
    altered[20] ^= 1;
    for (body, status, said) in [
        (b"garbage".to_vec(), 400, "not a weighbridge.v1.Signed message"),
        (Vec::new(), 400, "not a weighbridge.v1.Signed message"),
        (genuine[..genuine.len() - 1].to_vec(), 400, "not a weighbridge.v1.Signed message"),
        (altered, 403, "the signature does not fit the key"),
        (batch("known", 8), 403, "belongs to no agent that is enrolled and valid now"),
        (batch("another", 9), 403, "it says another, the key belongs to known"),
    ] {
        let answer = http::request(site.collector.ingest(), "POST", "/api/v1/batches", &[], &body).unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert!(answer.body.contains(said), "{said}: {}", answer.body);
    }
    assert_eq!(entries(&site.collector), before);
    let metrics = site.collector.metrics();
    for line in ["{outcome=\"refused_content\"} 3", "{outcome=\"refused_key\"} 3"] {
        assert!(
            metrics.contains(&format!("weighbridge_collector_batches_total{line}\n")),
            "{line}: {metrics}"
        );
    }
    // The same batch unaltered is taken: nothing else was wrong with it.
    let answer = http::request(site.collector.ingest(), "POST", "/api/v1/batches", &[], &genuine).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(entries(&site.collector), before + 1);
}

/// Files whose second row is wrong; what is said of it; and values that must not be repeated.
fn bad_files() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let customers = rules::CUSTOMERS.to_owned() + "C-2,entity,alien,,Nobody Atall,,,,,nobody,,\n";
    let row = |header: &str, good: &str, bad: &str| format!("{header}\n{good}\n{bad}\n");
    let agents = "agent,host,site,fabric,public_key,valid_from,valid_to";
    let key = "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=";
    vec![
        (
            "customers",
            customers,
            vec!["customers.csv:3: us_person: ", "customers.csv:3: email: ", "expected"],
        ),
        (
            "principals",
            row(PRINCIPALS.trim_end(), "lease:site-1/two,C-1,2026-03-01T00:00:00Z,", "nobody,C-1,soon,"),
            vec![
                "principals.csv:4: principal: \"nobody\", expected",
                "principals.csv:4: valid_from: \"soon\", expected",
            ],
        ),
        (
            "leases",
            row(
                "lease,host,accelerator,principal,start,end",
                "L-1,h-1,*,lease:site-1/one,2026-03-01T00:00:00Z,2026-04-01T00:00:00Z",
                "L-1,h-2,GPU 7,lease:site-1/one,2026-03-01T00:00:00Z,2026-02-01T00:00:00Z",
            ),
            vec!["leases.csv:3: accelerator: \"GPU 7\", expected", "leases.csv:3: end: "],
        ),
        (
            "agents",
            row(
                agents,
                &format!("a,a,s,f,{key},2026-01-01T00:00:00Z,"),
                "b,b,s,f,short,2026-01-01T00:00:00Z,",
            ),
            vec!["agents.csv:3: public_key: \"short\", expected"],
        ),
        // Good by itself; it contradicts what is there.
        (
            "principals",
            PRINCIPALS.to_owned() + "lease:site-1/two,C-404,2026-03-01T00:00:00Z,\n",
            vec!["principals.csv:3: customer: customer C-404 is not known, expected one that is"],
        ),
    ]
}

#[test]
fn a_file_with_one_bad_row_is_refused_whole_with_1_whether_a_collector_runs_or_not() {
    let mut site = Served::with_config("");
    site.collector.import("customers", rules::CUSTOMERS);
    let before = entries(&site.collector);
    let mut said_running = Vec::new();
    for (kind, csv, said) in bad_files() {
        let finished = site.collector.try_import(kind, &csv);
        ended(&finished, 1, &said);
        said_running.push(finished.stderr);
    }
    assert_eq!(entries(&site.collector), before);
    let status = site.collector.get("status");
    assert_eq!(
        (&status["counts"]["customers"], &status["counts"]["agents_enrolled"]),
        (&1.into(), &0.into())
    );

    site.collector.stop();
    let before = ledgers::entries(&site.collector.data()).len();
    for ((kind, csv, said), said_running) in bad_files().into_iter().zip(said_running) {
        let finished = site.collector.try_import(kind, &csv);
        ended(&finished, 1, &said);
        let rows = |text: &str| text.lines().filter(|line| line.contains(".csv:")).count();
        assert_eq!(rows(&finished.stderr), rows(&said_running), "{said_running}");
        for value in ["alien", "Nobody Atall", "Zanzibar"] {
            assert!(!finished.stderr.contains(value) && !said_running.contains(value), "{said_running}");
        }
    }
    assert_eq!(ledgers::entries(&site.collector.data()).len(), before);
    ended(&site.collector.run(&["import", "leases", "/nowhere/leases.csv"]), 2, &["/nowhere/leases.csv"]);
}

#[test]
fn an_import_is_recorded_once_whether_a_collector_runs_or_not() {
    let mut site = Served::with_config("");
    let customers = |collector: &Collector| collector.get("customers")["subjects"].as_array().map(Vec::len);
    let first = site.collector.try_import("customers", rules::CUSTOMERS);
    assert_eq!((first.code, first.stdout.as_str()), (Some(0), "1 rows, 1 recorded\n"));
    assert_eq!(customers(&site.collector), Some(1));
    site.collector.stop();
    let again = site.collector.try_import("customers", rules::CUSTOMERS);
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "1 rows, 0 recorded\n"));
    let principals = site.collector.try_import("principals", PRINCIPALS);
    assert_eq!((principals.code, principals.stdout.as_str()), (Some(0), "1 rows, 1 recorded\n"));
    site.collector.start_ready();
    let before = entries(&site.collector);
    let again = site.collector.try_import("principals", PRINCIPALS);
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "1 rows, 0 recorded\n"));
    assert_eq!(entries(&site.collector), before);
    assert_eq!(customers(&site.collector), Some(1));
}

#[test]
fn the_token_that_is_printed_lets_a_lease_in_and_without_it_none_comes() {
    let site = Served::with_config("");
    let lease = br#"{"lease": "L-7", "host": "gpu-1", "accelerator": "*", "principal": "lease:site/ada",
        "start": "2026-03-02T08:00:00Z", "end": "2026-04-02T08:00:00Z"}"#;
    let printed = site.collector.run(&["token"]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    let bearer = format!("Bearer {}", printed.stdout.trim());
    let post = |headers: &[(&str, &str)]| {
        http::request(site.collector.http(), "POST", "/api/v1/leases", headers, lease).unwrap()
    };
    assert_eq!(post(&[]).status, 401);
    assert_eq!(post(&[("authorization", "Bearer x")]).status, 401);
    let answer = post(&[("authorization", &bearer)]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(site.collector.get("leases")["leases"][0]["principal"], "lease:site/ada");
}

/// The looks at identities in the ledger, oldest first.
fn looks(collector: &Collector) -> Vec<Value> {
    let looks = ledgers::facts(&collector.data()).into_iter().filter_map(|fact| match fact {
        Fact::Record { kind, body, .. } if kind == "audit" => Some(body),
        _ => None,
    });
    looks.collect()
}

/// Everything that a `GET` gives: the API, and the pages that links lead to from the first one on. Without windows
/// and sums of single accelerators, which know no customers.
fn all_pages(collector: &Collector) -> Vec<(String, String)> {
    let api = [
        "status",
        "fleet",
        "customers",
        "customers/C-1",
        "customers/C-1/hours",
        "groups",
        "unmapped",
        "runs",
        "runs/L-1",
        "findings",
        "cases",
        "cases/case-0001",
        "cases/case-0001/report",
        "cases/case-0001/report?format=html",
        "packs",
    ];
    let mut waiting: VecDeque<String> = api.map(|path| format!("/api/v1/{path}")).into();
    waiting.extend(["/".to_owned(), "/metrics".to_owned()]);
    let mut known: BTreeSet<String> = waiting.iter().cloned().collect();
    let mut pages = Vec::new();
    while let Some(path) = waiting.pop_front() {
        let answer = http::get(collector.http(), &path).unwrap();
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.body);
        for link in answer.body.split("href=\"/").skip(1) {
            let link = link.split(['"', '#']).next().unwrap_or_default();
            let link = format!("/{}", link.replace("&amp;", "&"));
            if known.len() < 300 && known.insert(link.clone()) {
                waiting.push_back(link);
            }
        }
        pages.push((path, answer.body));
    }
    pages
}

fn holds_identity(text: &str) -> Option<&'static str> {
    rules::IDENTITY.into_iter().find(|value| text.contains(value))
}

/// Writes the report, and returns those of its files that are text.
fn report(collector: &Collector, out: &Path, how: &[&str]) -> (String, String) {
    let out = out.display().to_string();
    let arguments = [["report", "case-0001", "--out", out.as_str()].as_slice(), how].concat();
    let finished = collector.run(&arguments);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let files = ["json", "html", "pdf", "proof"].map(|extension| format!("{out}/case-0001.{extension}\n"));
    assert_eq!(finished.stdout, files.concat());
    let proof = fs::read_to_string(Path::new(&out).join("case-0001.proof")).unwrap();
    assert_eq!(holds_identity(&proof), None, "a proof is for others to check");
    assert_eq!(holds_identity(&finished.stderr), None);
    let read = |name: &str| fs::read_to_string(Path::new(&out).join(name)).unwrap();
    (read("case-0001.json"), read("case-0001.html"))
}

#[test]
fn a_report_shows_an_identity_only_to_who_says_who_looks_and_why_and_the_look_is_in_the_ledger() {
    let packs = tempfile::tempdir().unwrap();
    let mut site = Served::with_config(&rules::configured(packs.path()));
    site.collector.import("customers", rules::CUSTOMERS);
    let start = wait::now().hour().plus(-weighbridge_meter::UtcMillis::HOUR);
    let mapping = format!("principal,customer,valid_from,valid_to\nlease:site-1/one,C-1,{start},\n");
    site.collector.import("principals", &mapping);
    // Nobody ever reports these eight: they may have done all that they can.
    let end = start.plus(weighbridge_meter::UtcMillis::DAY);
    let lease = format!("L-1,host-a,8x10de:2330,lease:site-1/one,{start},{end}");
    site.collector.import("leases", &format!("lease,host,accelerator,principal,start,end\n{lease}\n"));
    wait::until("a case is opened", || site.collector.try_get("cases/case-0001"));

    let out = site.folder.path().to_owned();
    let look = ["--actor", "ada", "--reason", "to fill the report"];
    for (round, running) in [true, false].into_iter().enumerate() {
        if running {
            site.collector.settle();
        } else {
            site.collector.stop();
        }
        let (json, html) = report(&site.collector, &out, &["--masked"]);
        assert_eq!(holds_identity(&json).or(holds_identity(&html)), None);
        assert!(json.contains("customer:C-1") && html.contains("customer:C-1"));
        assert_eq!(looks(&site.collector).len(), round, "a masked report is no look");

        let (json, html) = report(&site.collector, &out, &look);
        let parsed: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["fields"][0]["value"], rules::IDENTITY[0]);
        for value in rules::IDENTITY {
            assert!(json.contains(value) && html.contains(value), "{value}: {json}");
        }
        let recorded = looks(&site.collector);
        assert_eq!(recorded.len(), round + 1);
        let [actor, reason] = ["actor", "reason"].map(|key| recorded[round][key].as_str());
        assert_eq!((actor, reason), (Some("ada"), Some("to fill the report")));
        assert_eq!(
            (&recorded[round]["customer"], &recorded[round]["case"]),
            (&"C-1".into(), &"case-0001".into())
        );

        // Not without a name and a reason, and then nothing is written down either.
        ended(&site.collector.run(&["report", "case-0001", "--actor", "ada"]), 2, &["--reason"]);
        ended(&site.collector.run(&["report", "case-0001", "--masked", "--actor", "ada"]), 2, &["--actor"]);
        let blank = site.collector.run(&["report", "case-0001", "--actor", "ada", "--reason", " "]);
        ended(&blank, 1, &["the reason must not be blank"]);
        ended(
            &site.collector.run(&["report", "case-0404", "--masked"]),
            1,
            &["there is no case \"case-0404\""],
        );
        assert_eq!(looks(&site.collector).len(), round + 1);
    }
    site.collector.start_ready();
    site.collector.settle();
    let pages = all_pages(&site.collector);
    for path in ["/customers", "/customers/C-1", "/runs/L-1", "/cases/case-0001", "/cases/case-0001/report"] {
        assert!(
            pages.iter().any(|(other, body)| other == path && body.contains("C-1")),
            "no link leads to {path}"
        );
    }
    for (path, body) in pages {
        assert_eq!(holds_identity(&body), None, "GET {path}");
    }
    let body = br#"{"actor":"mallory","reason":"curious"}"#;
    let refused =
        http::request(site.collector.http(), "POST", "/api/v1/cases/case-0001/report", &[], body).unwrap();
    assert_eq!((refused.status, holds_identity(&refused.body)), (401, None));
    assert_eq!(looks(&site.collector).len(), 2);
}

#[test]
fn doctor_tells_a_healthy_host_from_a_failed_check_and_a_missing_driver() {
    let mut site = Site::new(vec![AgentOptions::quick("host-a", vec![Device::numbered(1)])]);
    let uuid = Device::numbered(1).uuid;
    let healthy = site.agents[0].run(&["doctor"]);
    assert_eq!(healthy.code, Some(0), "{healthy:?}");
    let row = site.agents[0].enrolment();
    let key = row.split(',').nth(4).unwrap();
    let device = format!("  ok  {uuid}: NVIDIA H100 80GB HBM3, tier B, table row H100 SXM5");
    for said in [
        "  ok  source nvml answers",
        &device,
        "  ok  collector http://",
        &format!("host-a,host-a,SITE,FABRIC,{key},FROM,"),
    ] {
        assert!(healthy.stdout.contains(said), "{said}: {}", healthy.stdout);
    }
    assert!(!site.agents[0].spool().exists(), "doctor changes nothing");

    let nowhere = "source.nvml.library=/nowhere/libnvidia-ml.so.1";
    let missing = site.agents[0].run(&["--set", nowhere, "doctor"]);
    assert_eq!(missing.code, Some(3), "{missing:?}");
    for said in [
        "FAIL  source nvml: driver_missing",
        "/nowhere/libnvidia-ml.so.1",
        "every accelerator-second is a gap",
    ] {
        assert!(missing.stdout.contains(said), "{said}: {}", missing.stdout);
    }
    site.agents[0].driver().set_driver(DriverFault::NotLoaded).unwrap();
    let not_loaded = site.agents[0].run(&["doctor"]);
    assert_eq!(not_loaded.code, Some(3), "{not_loaded:?}");
    site.agents[0].driver().clear_driver(DriverFault::NotLoaded).unwrap();

    site.collector.stop();
    let alone = site.agents[0].run(&["doctor"]);
    assert_eq!(alone.code, Some(1), "{alone:?}");
    assert!(
        alone.stdout.contains("FAIL  collector http://")
            && alone.stdout.contains("  ok  source nvml answers"),
        "{alone:?}"
    );
}

#[test]
fn spool_ls_lists_epochs_sequences_and_what_is_acknowledged() {
    let mut site = Site::new(vec![AgentOptions::quick("host-a", vec![Device::numbered(1)])]);
    let empty = site.agents[0].run(&["spool", "ls"]);
    assert_eq!(empty.code, Some(0), "{empty:?}");
    assert!(empty.stdout.contains("\nparked: 0 batches, 0 bytes\n"), "{empty:?}");
    site.start_agents();
    site.measured(2_000);
    // While it runs, too.
    assert_eq!(site.agents[0].run(&["spool", "ls"]).code, Some(0));
    site.stop_agents();
    let listed = site.agents[0].run(&["spool", "ls"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let inspection = site.agents[0].inspect();
    let epoch = &inspection.epochs[0];
    let last = epoch.acknowledged;
    assert_eq!(epoch.ranges, [weighbridge_agent::spool::Range { first: 1, last }]);
    let line = listed
        .stdout
        .lines()
        .find(|line| line.starts_with(&epoch.id))
        .unwrap_or_else(|| panic!("{listed:?}"));
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let acknowledged = last.to_string();
    let (bytes, promises) = (epoch.bytes.to_string(), epoch.promises.to_string());
    let expected = [&format!("1..{last}"), &bytes, "up", "to", &acknowledged, "0", &promises, "whole"];
    assert_eq!(words, expected);
    assert_eq!(epoch.promises, last, "the collector gave its word for each");
    let json = site.agents[0].run(&["spool", "ls", "--json"]);
    assert!(json.stdout.contains(&epoch.id) && json.stdout.contains("\"ranges\":[{\"first\":1"), "{json:?}");

    // As it was written, until somebody changes a byte.
    assert_eq!(site.agents[0].run(&["spool", "verify"]).code, Some(0));
    let copy = site.folder().join("copy").display().to_string();
    let exported = site.agents[0].run(&["spool", "export", &copy]);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    assert!(std::path::Path::new(&copy).join("MANIFEST.jsonl").is_file());
    let segment = site.agents[0].spool().join(&epoch.id).join("00000000000000000001.seg");
    let mut content = fs::read(&segment).unwrap();
    content[150] ^= 1;
    fs::write(&segment, content).unwrap();
    let verified = site.agents[0].run(&["spool", "verify"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    let named = format!("{} at byte 60", segment.display());
    assert!(verified.stdout.contains(&named), "{verified:?}");
    let repaired = site.agents[0].run(&["spool", "repair", "--unpark"]);
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    // The collector has it: nothing is lost, and what is left of it here is kept apart.
    assert!(repaired.stdout.contains(" bytes are no batch, the file is kept as "), "{repaired:?}");
    assert_eq!(site.agents[0].run(&["spool", "verify"]).code, Some(0));
    let generation = site.collector.get("status")["ledger"]["store_generation"].clone();
    assert!(
        listed.stdout.contains(&format!("store generation: {}", generation.as_str().unwrap())),
        "{listed:?}"
    );

    // A spool that is no spool.
    fs::remove_dir_all(site.agents[0].spool()).unwrap();
    fs::write(site.agents[0].spool(), "").unwrap();
    ended(
        &site.agents[0].run(&["spool", "ls"]),
        3,
        &["spool", &site.agents[0].spool().display().to_string()],
    );
}

#[test]
fn what_is_needed_and_not_there_ends_with_3() {
    let mut site = Site::new(vec![AgentOptions::quick("host-a", vec![Device::numbered(1)])]);
    // A second one on the same ledger.
    let data = site.collector.data().display().to_string();
    ended(&site.collector.run(&["serve"]), 3, &[&data]);
    ended(&site.collector.run(&["rebuild"]), 3, &[&data]);
    // A second one on the same port.
    let other = site.folder().join("other").display().to_string();
    let port = site.collector.ingest().to_string();
    let keys = site.collector.data().with_file_name("keys").display().to_string();
    let config = fs::read_to_string(site.collector.config()).unwrap();
    fs::write(site.collector.config(), config.replace(&keys, &format!("{keys}-of-another"))).unwrap();
    ended(&site.collector.run(&["serve", "--data", &other]), 3, &[&port]);
    fs::write(site.collector.config(), config).unwrap();
    // A second one that would sign with the same keys.
    let signs = "another collector signs with the keys in this folder";
    ended(&site.collector.run(&["serve", "--data", &other]), 3, &[&keys, signs]);
    site.start_agents();
    wait::until("the agent serves", || site.agents[0].metrics());
    let second = site.agents[0].run(&["run"]);
    assert_eq!(second.code, Some(3), "{second:?}");
    site.stop_agents();

    let alone = Alone::new();
    let config = alone.write("collector.toml", &format!("store.data = {:?}\n", alone.path("data")));
    let verified = alone.run(collector::PROGRAM, None, &["--config", &config, "verify"]);
    ended(&verified, 3, &[&alone.path("data/ledger").display().to_string(), "there is no ledger"]);
    assert_eq!(alone.names(), ["collector.toml".to_owned()].into(), "looking makes nothing");
}
