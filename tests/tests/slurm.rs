//! Who held what, through a real Slurm, the real agent and the real collector.
//!
//! Two nodes with four accelerators each, all of which do the same all the time. What each account should come to is
//! worked out from three things that owe nothing to the collector's answer: the account that a job was submitted
//! under, the windows of each accelerator, and the moments that the hooks wrote down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;
use weighbridge_meter::{Evidence, Span, UtcMillis};
use weighbridge_store::Body;
use weighbridge_tests::{
    agent::{self, AgentOptions},
    audit,
    collector::time,
    ledgers,
    machine::Device,
    mounts::Mount,
    planted::{files_below, holds},
    process,
    site::Site,
    slurm::{ACCOUNTS, CLUSTER, GPUS, NODES, Slurm, USER},
    wait,
};
use weighbridge_wire::Envelope;

/// What no agent may write or send.
const PLANTED: [&str; 3] = ["planted-job-name", "planted-folder", USER.0];

/// Best operations and milliseconds, by principal and attempt; `None` is nobody.
type Totals = BTreeMap<Option<(String, String)>, (u128, u64)>;

/// A cluster whose hooks tell the agents of a site.
struct Weighed {
    slurm: Slurm,
    site: Site,
    /// Account of each job.
    truth: BTreeMap<u32, &'static str>,
    /// The job of which the hooks were not told the account.
    unnamed: u32,
    /// The job whose end nobody told: slurmd was gone.
    lost: u32,
}

impl Weighed {
    fn start() -> Self {
        let slurm = Slurm::start();
        let told = slurm.path().join("told");
        let program = process::program(agent::PROGRAM);
        let (program, folder) = (program.display(), told.display());
        // One job is told without its account, as on a cluster that keeps none.
        let unset = format!("[ -e {folder}/../no-account ] && unset SLURM_JOB_ACCOUNT");
        slurm
            .hook("agent", &format!("{unset}\nexec {program} hook slurm --folder {folder}/$SLURMD_NODENAME"));
        let agents = NODES.iter().zip([0, 4]).map(|(node, first)| AgentOptions {
            slurm_hooks: Some(told.join(node)),
            ..AgentOptions::quick(*node, (first..first + 4).map(Device::numbered).collect())
        });
        let mut site = Site::new(agents.collect());
        site.start_agents();
        site.measured(500);
        Self { slurm, site, truth: BTreeMap::new(), unnamed: 0, lost: 0 }
    }

    /// Submits a job of root's.
    #[track_caller]
    fn submit(&mut self, account: &'static str, options: &[&str], script: &str) -> u32 {
        let job = self.slurm.submit(account, options, script);
        self.truth.insert(job, account);
        job
    }

    /// Returns once every accelerator has been measured so long after this moment.
    #[track_caller]
    fn measured_more(&self, millis: i64) {
        let enough = wait::now().plus(millis);
        wait::until("time is measured", || {
            let fleet = self.site.collector.try_get("fleet")?;
            let list = fleet["accelerators"].as_array().ok_or("no accelerators")?;
            let seen = |one: &Value| time(&one["last_end"]);
            let mut behind = list.iter().filter(|one| seen(one).is_ok_and(|end| end < enough));
            behind.next().map_or(Ok(()), |one| Err(one.to_string()))
        });
    }

    /// What the hooks told, in the time of the agent: spans by accelerator, with principal and attempt. With the end
    /// of the lost job by the scheduler's record, if that is known.
    fn told(&self, node: usize, recorded: Option<UtcMillis>) -> Vec<(String, Span, String, String)> {
        let agent = &self.site.agents[node];
        let device = &agent.devices()[0];
        let (from, to) = (wait::now().plus(-2 * UtcMillis::HOUR), wait::now().plus(UtcMillis::HOUR));
        let path = format!("windows?accelerator={}&from={from}&to={to}", device.uuid);
        let answer = self.site.collector.get(&path);
        let window = &answer["windows"][0];
        let boot_ms = window["boot_start_ms"].as_i64().expect("a window says when in its boot it was");
        let began = time(&window["start"]).expect("a time").plus(-boot_ms);
        let mut told = Vec::new();
        for file in fs::read_dir(self.slurm.path().join("told").join(NODES[node])).expect("the hooks made it")
        {
            let text = fs::read(file.expect("an entry").path()).expect("a file");
            let said: Value = serde_json::from_slice(&text).expect("JSON");
            let job = said["job"].as_u64().and_then(|job| u32::try_from(job).ok()).expect("a number");
            let restart = said["restart"].as_u64().expect("a number");
            let wall = |moment: &Value| began.plus(moment["boot_ms"].as_i64().expect("milliseconds"));
            let attempt = match restart {
                0 => format!("slurm:{CLUSTER}/{job}"),
                restart => format!("slurm:{CLUSTER}/{job}+{restart}"),
            };
            let from = wall(&said["began"]);
            let ended = self.confirmed(node, &attempt);
            assert_eq!(ended.0, from, "{attempt} on {node}");
            let at = wall(&said["ended"]);
            let late = ended.1.since(at);
            let mut until = ended.1;
            if job == self.lost {
                assert!(
                    late < 0,
                    "{attempt} was confirmed {late} ms after its epilog, which came late itself"
                );
                until = until.max(recorded.unwrap_or(until));
            } else {
                // A batch that was sealed while the hook moved its file says a moment more.
                assert!((0..250).contains(&late), "{attempt}: {late} ms after its epilog");
            }
            let span = Span::new(from, until).expect("a job lasts");
            if job == self.unnamed && recorded.is_none() {
                continue;
            }
            let principal = format!("slurm:{CLUSTER}/{}", self.truth[&job]);
            for number in said["gpus"].as_str().expect("a list").split(',') {
                let number: usize = number.parse().expect("Slurm gives numbers here");
                told.push((agent.devices()[number].uuid.clone(), span, principal.clone(), attempt.clone()));
            }
        }
        told
    }

    /// From when to when an agent said that an attempt held anything.
    fn confirmed(&self, node: usize, attempt: &str) -> (UtcMillis, UtcMillis) {
        let mut hull: Option<(UtcMillis, UtcMillis)> = None;
        for entry in ledgers::entries(&self.site.collector.data()) {
            let Body::Batch(received) = entry.body else { continue };
            let batch = Envelope::decode(&received.envelope).and_then(|envelope| envelope.read());
            let batch = batch.expect("the ledger holds batches");
            if batch.agent.as_str() != NODES[node] {
                continue;
            }
            for holding in batch.holdings.iter().filter(|holding| holding.attempt.as_str() == attempt) {
                assert_eq!(holding.evidence, Evidence::SchedulerHook);
                let (start, end) = (holding.span.start(), holding.span.end());
                hull = Some(hull.map_or((start, end), |(first, last)| (first.min(start), last.max(end))));
            }
        }
        hull.unwrap_or_else(|| panic!("no holding of {attempt} on {}", NODES[node]))
    }

    /// What each should come to.
    fn expected(&self, recorded: Option<UtcMillis>) -> Totals {
        let mut totals = Totals::new();
        for (node, agent) in self.site.agents.iter().enumerate() {
            let told = self.told(node, recorded);
            for device in agent.devices() {
                let of_device = told.iter().filter(|(id, ..)| *id == device.uuid);
                let held: Vec<_> = of_device
                    .map(|(_, span, principal, attempt)| (*span, (principal.clone(), attempt.clone())))
                    .collect();
                for (holder, charged) in audit::charged(&self.site.collector, device, &held) {
                    let total = totals.entry(holder).or_default();
                    *total = (total.0 + charged.0, total.1 + charged.1);
                }
            }
        }
        totals
    }

    /// What the collector says.
    fn found(&self) -> Totals {
        let mut totals = Totals::new();
        for device in self.site.agents.iter().flat_map(agent::Agent::devices) {
            let usage = self.site.collector.get(&format!("usage?accelerator={}", device.uuid));
            for row in usage["rows"].as_array().expect("a list of sums") {
                let text = |key: &str| row[key].as_str().map(str::to_owned);
                let total = totals.entry(text("principal").zip(text("attempt"))).or_default();
                total.0 += audit::amount(row).best;
                total.1 += row["measured_ms"].as_u64().expect("milliseconds");
            }
        }
        totals
    }
}

/// By account alone.
fn accounts(totals: &Totals) -> BTreeMap<String, (u128, u64)> {
    let mut accounts = BTreeMap::new();
    for (holder, (best, millis)) in totals {
        let name = holder.as_ref().map_or("nobody", |(principal, _)| principal);
        let account: &mut (u128, u64) = accounts.entry(name.to_owned()).or_default();
        *account = (account.0 + best, account.1 + millis);
    }
    accounts
}

#[test]
fn each_account_is_charged_what_its_jobs_held_to_the_integer() {
    let began = wait::instant();
    let lap = |what: &str| eprintln!("{:>6} ms: {what}", began.elapsed().as_millis());
    let mut weighed = Weighed::start();
    lap("cluster, collector and agents are up");

    // One node, two accelerators; and both nodes with one each.
    let gate = weighed.slurm.gate("plain");
    let plain = weighed.submit("physics", &["--gres=gpu:2", "-w", "gpu1"], &gate.command());
    let both = weighed.submit("biology", &["--gres=gpu:1", "-N2"], &gate.command());
    weighed.slurm.wait_for_events("prolog_slurmd", plain, 1);
    weighed.slurm.wait_for_events("prolog_slurmd", both, 2);

    // A user who says to be another account, job, cluster and owner, in all ways there are.
    let program = process::program(agent::PROGRAM);
    let folder = weighed.slurm.path().join("told/gpu2");
    let planted = weighed.slurm.path().join(PLANTED[1]);
    fs::create_dir(&planted).unwrap();
    fs::set_permissions(&planted, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let forgery = format!(
        "export SLURM_JOB_ACCOUNT=physics SLURM_JOB_ID={plain} SLURM_JOB_GPUS=0,1,2,3 SLURM_JOB_UID=0 \
         SLURM_SCRIPT_CONTEXT=epilog_slurmd; {} hook slurm --folder {}; \
         SLURM_SCRIPT_CONTEXT=prolog_slurmd {} hook slurm --folder {}; {}",
        program.display(),
        folder.display(),
        program.display(),
        folder.display(),
        gate.command()
    );
    let (name, place) = (format!("--job-name={}", PLANTED[0]), format!("--chdir={}", planted.display()));
    let forged = ["--gres=gpu:1", "-w", "gpu2", "--export=ALL,SLURM_JOB_ACCOUNT=physics", &name, &place];
    let forged = weighed.slurm.submit_by(USER.1, "chemistry", &forged, &forgery);
    weighed.truth.insert(forged, "chemistry");
    weighed.slurm.wait_for_events("prolog_slurmd", forged, 1);
    // An array: two tasks, each a job of its own.
    let array = weighed.submit("chemistry", &["--gres=gpu:1", "--array=1-2"], &gate.command());
    let tasks = wait::until("both tasks run", || {
        let listed =
            weighed.slurm.try_run("squeue", &["-h", "-r", "-j", &array.to_string(), "-o", "%A %T"])?;
        let tasks: BTreeSet<u32> =
            listed.lines().filter_map(|line| line.strip_suffix(" RUNNING")?.trim().parse().ok()).collect();
        if tasks.len() == 2 { Ok(tasks) } else { Err(listed) }
    });
    weighed.truth.extend(tasks.into_iter().map(|task| (task, "chemistry")));
    lap("four jobs run");
    weighed.measured_more(1_500);
    gate.open();
    for job in weighed.truth.keys().copied().collect::<Vec<_>>() {
        weighed.slurm.wait_for_events("epilog_slurmd", job, 1);
    }
    weighed.slurm.wait_for_events("epilog_slurmd", both, 2);
    lap("and are over");

    // Put back and started again; then cancelled.
    let gate = weighed.slurm.gate("again");
    let again = weighed.submit("biology", &["--gres=gpu:3", "--requeue", "-w", "gpu1"], &gate.command());
    weighed.slurm.wait_for(again, "RUNNING");
    weighed.measured_more(500);
    weighed.slurm.requeue(again);
    weighed.slurm.wait_for_events("prolog_slurmd", again, 2);
    // What keeps the accounts is down meanwhile, for another job too.
    weighed.slurm.stop_accounting();
    fs::write(weighed.slurm.path().join("no-account"), "").unwrap();
    weighed.unnamed = weighed.submit("biology", &["--gres=gpu:1", "-w", "gpu2"], &gate.command());
    weighed.slurm.wait_for_events("prolog_slurmd", weighed.unnamed, 1);
    fs::remove_file(weighed.slurm.path().join("no-account")).unwrap();
    let unaccounted = weighed.submit("physics", &["--gres=gpu:2", "-w", "gpu2"], &gate.command());
    weighed.slurm.wait_for_events("prolog_slurmd", unaccounted, 1);
    weighed.measured_more(1_000);
    weighed.slurm.cancel(again);
    weighed.slurm.wait_for_events("epilog_slurmd", again, 2);
    lap("requeued, cancelled, accounting is down");

    // slurmd is killed while a job runs, which nobody but the processes of the job tells of; it ends when the daemon
    // is back and has run the epilog.
    weighed.slurm.kill_node(1);
    weighed.measured_more(1_000);
    weighed.slurm.start_accounting();
    weighed.slurm.cancel(unaccounted);
    weighed.slurm.cancel(weighed.unnamed);
    weighed.slurm.start_node(1);
    weighed.slurm.wait_for_events("epilog_slurmd", unaccounted, 1);
    weighed.slurm.wait_for_events("epilog_slurmd", weighed.unnamed, 1);
    drop(gate);
    lap("slurmd was killed and is back");

    // The same of the other node, and the job ends before it is back.
    let gate = weighed.slurm.gate("lost");
    weighed.lost = weighed.submit("physics", &["--gres=gpu:2", "-w", "gpu1"], &gate.command());
    weighed.slurm.wait_for(weighed.lost, "RUNNING");
    weighed.measured_more(1_000);
    weighed.slurm.kill_node(0);
    gate.open();
    wait::until("the agent finds the job gone", || {
        let metrics = weighed.site.agents[0].metrics()?;
        let lapsed = "weighbridge_agent_slurm_allocations{state=\"lapsed\"} 1";
        if metrics.lines().any(|line| line == lapsed) { Ok(()) } else { Err(metrics) }
    });
    // Its record ends in whole seconds: some of them later than it was last confirmed.
    weighed.measured_more(1_000);
    weighed.slurm.start_node(0);
    weighed.slurm.wait_for_events("epilog_slurmd", weighed.lost, 1);
    lap("a job was lost with its slurmd");
    weighed.measured_more(1_000);
    weighed.site.stop_agents();
    lap("everything is folded");

    let (expected, found) = (weighed.expected(None), weighed.found());
    assert_eq!(found, expected);
    let charged = found.keys().flatten().find(|(_, attempt)| *attempt == format!("slurm:{CLUSTER}/{forged}"));
    assert_eq!(charged.map(|(principal, _)| principal.as_str()), Some("slurm:weighed/chemistry"));
    lap("what the hooks told is charged");

    // What Slurm itself keeps names the job that had no account, and says how long the lost one went on.
    let columns = "JobIDRaw,JobID,DBIndex,Account,User,UID,Cluster,Submit,Start,End,State,NodeList,AllocTRES";
    let columns = ["-P", "-X", "-o", columns];
    let starts = weighed.truth.len() + 1; // One was started twice.
    let lost = weighed.lost.to_string();
    let recorded = wait::until("everything is in the accounts", || {
        let kept = weighed.slurm.sacct(&columns);
        let over: Vec<Vec<&str>> = kept.lines().skip(1).map(|line| line.split('|').collect()).collect();
        let ends = over.iter().filter(|row| row[9].parse::<i64>().is_ok()).count();
        let end = over.iter().find(|row| row[0] == lost).and_then(|row| row[9].parse::<i64>().ok());
        end.filter(|_| ends == starts).map(|seconds| UtcMillis(seconds * 1000)).ok_or(kept)
    });
    let (json, columns) = (weighed.slurm.sacct(&["--json"]), weighed.slurm.sacct(&columns));
    let import = |text: &str| {
        let finished = weighed.site.collector.try_import("slurm", text);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        weighed.site.collector.settle();
        finished.stdout.trim().to_owned()
    };
    assert_eq!(import(&json), format!("{starts} rows, {starts} recorded"));
    let found = weighed.found();
    assert_eq!(found, weighed.expected(Some(recorded)));
    assert_eq!(import(&json), format!("{starts} rows, 0 recorded"));
    assert_eq!(
        import(&columns),
        format!("{starts} rows, {starts} recorded"),
        "it has numbers that the other has not"
    );
    assert_eq!(import(&json), format!("{starts} rows, 0 recorded"));
    assert_eq!(weighed.found(), found);
    for account in ACCOUNTS {
        let (best, millis) = accounts(&found)[&format!("slurm:{CLUSTER}/{account}")];
        assert!(best > 0 && millis > 1_000, "{account}: {best} tera in {millis} ms");
    }
    eprintln!("{:#?}", accounts(&found));
    lap("and so is what Slurm keeps");

    // Nothing of a tenant's is in what agents wrote and sent.
    for agent in &weighed.site.agents {
        let written = ledgers::plain_spooled(agent);
        assert!(
            written.iter().any(|bytes| holds(bytes, "slurm:weighed/chemistry")),
            "the search finds what is there"
        );
        let told = files_below(&weighed.slurm.path().join("told").join(agent.name()));
        for bytes in written.iter().chain(&files_below(&agent.spool())).chain(&told) {
            for planted in PLANTED {
                assert!(!holds(bytes, planted), "{} wrote {planted}", agent.name());
            }
        }
    }
    let kept = files_below(&weighed.site.collector.data());
    for bytes in ledgers::plain_batches(&weighed.site.collector.data()).iter().chain(&kept) {
        assert!(PLANTED.iter().all(|planted| !holds(bytes, planted)), "it was sent or kept");
    }
    assert_eq!(weighed.site.agents[0].devices().len(), GPUS);
    lap("and was searched");
}

/// Calls the hook as Slurm does, with what a prolog is told; how long that took.
#[track_caller]
fn hooked(arguments: &[&str], folder: Option<&Path>) -> (process::Finished, std::time::Duration) {
    let mut command = process::command(&process::program(agent::PROGRAM));
    command.args(arguments);
    if let Some(folder) = folder {
        command.arg("--folder").arg(folder);
    }
    for (name, value) in [
        ("SLURM_SCRIPT_CONTEXT", "prolog_slurmd"),
        ("SLURM_CLUSTER_NAME", CLUSTER),
        ("SLURM_JOB_ID", "7"),
        ("SLURMD_NODENAME", NODES[0]),
        ("SLURM_JOB_GPUS", "0"),
        ("SLURM_JOB_NAME", PLANTED[0]),
        ("SLURM_JOB_USER", PLANTED[2]),
    ] {
        command.env(name, value);
    }
    let log = tempfile::tempdir().expect("a folder can be made");
    let began = wait::instant();
    let finished = process::run("hook", &mut command, log.path(), wait::PATIENCE);
    (finished, began.elapsed())
}

/// A file system that lets nobody write until this is dropped.
struct Frozen(std::path::PathBuf);

impl Frozen {
    #[track_caller]
    fn new(at: std::path::PathBuf) -> Self {
        let done = std::process::Command::new("fsfreeze").arg("--freeze").arg(&at).status();
        assert!(
            done.is_ok_and(|status| status.success()),
            "fsfreeze: tests/run installs it, and it needs root"
        );
        Self(at)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(std::process::Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status());
    }
}

#[test]
fn a_hook_says_yes_and_soon_whatever_is_the_matter() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let hook = ["hook", "slurm"];
    let good = |folder: &Path| {
        let list = fs::read_dir(folder).into_iter().flatten().flatten();
        list.filter(|entry| entry.file_name().to_string_lossy().ends_with(".open.json")).count()
    };
    let check = |arguments: &[&str], folder: Option<&Path>, expected: &str| {
        let (finished, took) = hooked(arguments, folder);
        assert_eq!(finished.code, Some(0), "{arguments:?}: {}", finished.stderr);
        assert!(
            finished.stderr.contains(expected),
            "{arguments:?}, expected {expected}: {}",
            finished.stderr
        );
        assert_eq!(finished.stderr.is_empty(), expected.is_empty(), "{}", finished.stderr);
        // It waits for 700 ms at most; the rest is for a machine that is busy with other tests.
        assert!(took.as_secs() < 5, "{arguments:?} {folder:?} took {took:?}");
        took
    };
    check(&hook, Some(&at("made/on/the/way")), "");
    assert_eq!(good(&at("made/on/the/way")), 1, "no agent runs, and it is written");
    check(&["hook"], None, "Usage");
    check(&["hook", "slurm", "--nonsense"], None, "--nonsense");
    check(&["hook", "pbs"], None, "pbs");
    fs::write(at("file"), "x").unwrap();
    check(&hook, Some(&at("file")), "cannot write");
    check(&hook, Some(&at("file/below")), "cannot write");
    fs::create_dir(at("open")).unwrap();
    fs::write(at("open/x"), "x").unwrap();
    fs::set_permissions(at("open"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    check(&hook, Some(&at("open")), "nobody else may write to it");
    fs::write(at("bad.toml"), "[nonsense]").unwrap();
    let config = format!("--config={}", at("bad.toml").display());
    check(&[&config, "hook", "slurm"], Some(&at("despite")), "");
    assert_eq!(good(&at("despite")), 1, "a configuration that is wrong costs nothing here");

    let full = Mount::memory(&at("full"), "4k", Some(1));
    check(&hook, Some(&at("full")), "cannot write");
    drop(full);

    // A disk that answers nobody: whoever asks it cannot even be killed.
    let disk = Mount::disk(&at("disk"), 8);
    fs::create_dir(at("disk/hooks")).unwrap();
    let frozen = Frozen::new(at("disk"));
    let took = check(&hook, Some(&at("disk/hooks")), "it is not waited for");
    drop(frozen);
    eprintln!("on a frozen disk: {} ms", took.as_millis());
    wait::until("what was told is written once the disk answers", || {
        if good(&at("disk/hooks")) == 1 { Ok(()) } else { Err("not yet".into()) }
    });
    drop(disk);
}
