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
    /// Account and expected attempts of each job.
    truth: BTreeMap<u32, &'static str>,
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
        Self { slurm, site, truth: BTreeMap::new() }
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

    /// What the hooks told, in the time of the agent: spans by accelerator, with principal and attempt.
    fn told(&self, node: usize) -> Vec<(String, Span, String, String)> {
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
            match &said["ended"] {
                Value::Null => {}
                // A batch that was sealed while the hook moved its file says a moment more.
                ended_at => {
                    let at = wall(ended_at);
                    let late = ended.1.since(at);
                    assert!(
                        (0..250).contains(&late) || self.lapsed(job),
                        "{attempt}: {late} ms after its epilog"
                    );
                }
            }
            let span = Span::new(from, ended.1).expect("a job lasts");
            let principal = format!("slurm:{CLUSTER}/{}", self.truth[&job]);
            for number in said["gpus"].as_str().expect("a list").split(',') {
                let number: usize = number.parse().expect("Slurm gives numbers here");
                told.push((agent.devices()[number].uuid.clone(), span, principal.clone(), attempt.clone()));
            }
        }
        told
    }

    /// Whether the agent could not hear of the end of a job.
    fn lapsed(&self, _job: u32) -> bool {
        false
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
    fn expected(&self) -> Totals {
        let mut totals = Totals::new();
        for (node, agent) in self.site.agents.iter().enumerate() {
            let told = self.told(node);
            for device in agent.devices() {
                let audited = audit::windows(&self.site.collector, device);
                for window in audited.windows {
                    let whole = weighbridge_tests::pencil::window(device, window.millis()).best;
                    let upto = |moment: UtcMillis| {
                        let (part, all) = (moment.since(window.start()), window.millis());
                        let part = u128::from(part.unsigned_abs());
                        (whole * part + u128::from(all) / 2) / u128::from(all)
                    };
                    let mut add = |holder, from: UtcMillis, to: UtcMillis| {
                        if from < to {
                            let total = totals.entry(holder).or_default();
                            total.0 += upto(to) - upto(from);
                            total.1 += to.since(from).unsigned_abs();
                        }
                    };
                    let mut here: Vec<_> = told
                        .iter()
                        .filter(|(id, span, ..)| *id == device.uuid && span.overlap(&window).is_some())
                        .collect();
                    here.sort_by_key(|(_, span, ..)| span.start());
                    let mut at = window.start();
                    for (_, span, principal, attempt) in here {
                        let held = span.overlap(&window).expect("filtered");
                        assert!(at <= held.start(), "two jobs had {} at {at}", device.uuid);
                        add(None, at, held.start());
                        add(Some((principal.clone(), attempt.clone())), held.start(), held.end());
                        at = held.end();
                    }
                    add(None, at, window.end());
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

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn files_below(folder: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            Ok(_) => found.push(fs::read(entry.path()).unwrap_or_default()),
            Err(_) => {}
        }
    }
    found
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
    weighed.slurm.start_node(1);
    weighed.slurm.wait_for_events("epilog_slurmd", unaccounted, 1);
    weighed.slurm.wait_for(unaccounted, "");
    drop(gate);
    lap("slurmd was killed and is back");
    weighed.measured_more(1_000);
    weighed.site.stop_agents();
    lap("everything is folded");

    let (expected, found) = (weighed.expected(), weighed.found());
    assert_eq!(found, expected);
    assert_eq!(accounts(&found), accounts(&expected));
    for account in ACCOUNTS {
        let (best, millis) = accounts(&found)[&format!("slurm:{CLUSTER}/{account}")];
        assert!(best > 0 && millis > 1_000, "{account}: {best} tera in {millis} ms");
    }
    let charged = found.keys().flatten().find(|(_, attempt)| *attempt == format!("slurm:{CLUSTER}/{forged}"));
    assert_eq!(charged.map(|(principal, _)| principal.as_str()), Some("slurm:weighed/chemistry"));
    eprintln!("{:#?}", accounts(&found));

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
    for bytes in ledgers::plain_batches(&weighed.site.collector.data()) {
        assert!(PLANTED.iter().all(|planted| !holds(&bytes, planted)), "it was sent");
    }
    assert_eq!(weighed.site.agents[0].devices().len(), GPUS);
    lap("and was searched");
}
