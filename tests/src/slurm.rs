//! A real Slurm from Debian's packages: one cluster with accounting and two nodes, all of it private to a temporary
//! folder, with accelerators that are device nodes and nothing else.
//!
//! Both nodes are on this host. What runs in a job waits at a [`Gate`] until the test opens it, so that a test says
//! how long a job lasts without anybody sleeping. What the prolog and the epilog were told is in
//! [`Slurm::events`]; a test can add commands to both ([`Slurm::hook`]).
//!
//! Dropping it ends everything it started, jobs included, each by its process id. Needs root, for device nodes and
//! because Slurm asks who its users are.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    fs::{CWD, FileType, FlockOperation, Mode, flock, makedev, mknodat},
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;

use crate::{
    ports,
    process::{self, Process},
    wait,
};

/// Its name.
pub const CLUSTER: &str = "weighed";

/// Its nodes.
pub const NODES: [&str; 2] = ["gpu1", "gpu2"];

/// Accelerators of each node.
pub const GPUS: usize = 4;

/// Accounts that may submit.
pub const ACCOUNTS: [&str; 3] = ["physics", "biology", "chemistry"];

/// A user of the system, besides root, who may submit under the last account: name and number.
pub const USER: (&str, u32) = ("games", 5);

/// What Debian's packages call the programs; Slurm looks for none of them elsewhere.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A running cluster.
#[derive(Debug)]
pub struct Slurm {
    slurmd: [Option<Process>; 2],
    slurmctld: Option<Process>,
    slurmdbd: Option<Process>,
    /// Last, as all others need them.
    _database: Process,
    _munge: Process,
    folder: TempDir,
}

/// What a prolog or an epilog was told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// Which job.
    pub job: u32,
    /// How often it was started before, as that script was told.
    pub restart: u32,
    /// On which node.
    pub node: String,
    /// `prolog_slurmd` or `epilog_slurmd`.
    pub context: String,
    /// `SLURM_JOB_GPUS`.
    pub gpus: String,
    /// `SLURM_JOB_ACCOUNT`.
    pub account: String,
}

/// Holds back the jobs that were told to wait at it, until it is dropped.
#[derive(Debug)]
pub struct Gate {
    file: File,
    path: PathBuf,
}

impl Gate {
    /// The shell command with which a job waits.
    pub fn command(&self) -> String {
        format!("exec flock --shared {} true", self.path.display())
    }

    /// Lets all go on.
    pub fn open(self) {
        drop(self.file);
    }
}

impl Slurm {
    /// Starts everything, and returns once both nodes are idle.
    ///
    /// # Panics
    /// If something is missing, which `tests/run` installs, or does not work.
    #[track_caller]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let at = |name: &str| folder.path().join(name);
        for name in ["", "log", "db", "db/data", "state", "hooks", "hooks/added", "gates"] {
            fs::create_dir_all(at(name)).expect("the folder is writable");
            fs::set_permissions(at(name), PermissionsExt::from_mode(0o755)).expect("it is ours");
        }
        for node in NODES {
            fs::create_dir_all(at("dev").join(node)).expect("the folder is writable");
            for gpu in 0..GPUS {
                let path = at("dev").join(node).join(format!("nvidia{gpu}"));
                let device = makedev(195, u32::try_from(gpu).expect("few"));
                let made = mknodat(CWD, &path, FileType::CharacterDevice, Mode::from(0o666), device);
                made.unwrap_or_else(|error| panic!("{}: {error}: device nodes need root", path.display()));
            }
        }
        write_configuration(folder.path());
        let munge = munge(folder.path());
        let database = database(folder.path());
        let mut slurm = Self {
            slurmd: [None, None],
            slurmctld: None,
            slurmdbd: None,
            _database: database,
            _munge: munge,
            folder,
        };
        slurm.start_accounting();
        slurm.try_until("the cluster can be recorded", "sacctmgr", &["-i", "add", "cluster", CLUSTER]);
        let accounts = ACCOUNTS.join(",");
        slurm.run("sacctmgr", &["-i", "add", "account", &accounts, &format!("cluster={CLUSTER}")]);
        slurm.run("sacctmgr", &["-i", "add", "user", "root", &format!("account={accounts}")]);
        let last = format!("account={}", ACCOUNTS[2]);
        slurm.run("sacctmgr", &["-i", "add", "user", USER.0, &last]);
        slurm.slurmctld = Some(slurm.daemon("slurmctld", "slurmctld", &["-D", "-c"]));
        for node in 0..NODES.len() {
            slurm.start_node(node);
        }
        slurm
    }

    /// A command that finds this cluster.
    pub fn command(&self, program: &str) -> Command {
        let mut command = process::command(Path::new(program));
        command.env("PATH", PATH).env("TZ", "UTC").env("SLURM_CONF", self.conf()).current_dir(self.path());
        command
    }

    fn conf(&self) -> PathBuf {
        self.path().join("slurm.conf")
    }

    /// Where everything of it lies.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn daemon(&self, name: &str, program: &str, arguments: &[&str]) -> Process {
        let mut command = self.command(program);
        command.env("MYSQL_UNIX_PORT", self.path().join("db/socket")).args(arguments);
        // Out of reach of whoever interrupts the tests at a terminal: they are ended in their order.
        command.process_group(0);
        Process::start(name, &mut command, &self.path().join("log"))
    }

    /// Runs a client to its end; gives what it printed.
    ///
    /// # Panics
    /// Unless it ends well.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        self.try_run(program, arguments).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// The same; `Err` says what it said instead.
    pub fn try_run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        ended(self.command(program).args(arguments))
    }

    #[track_caller]
    fn try_until(&self, what: &str, program: &str, arguments: &[&str]) {
        wait::until(what, || self.try_run(program, arguments));
    }

    /// Starts what keeps the accounts.
    pub fn start_accounting(&mut self) {
        self.slurmdbd = Some(self.daemon("slurmdbd", "slurmdbd", &["-D"]));
    }

    /// Ends it by SIGTERM; what happens meanwhile the controller keeps.
    #[track_caller]
    pub fn stop_accounting(&mut self) {
        self.slurmdbd.take().map(Process::stop);
    }

    /// Starts a node, and returns once it may be given jobs.
    #[track_caller]
    pub fn start_node(&mut self, node: usize) {
        let name = NODES[node];
        self.slurmd[node] = Some(self.daemon(&format!("slurmd-{name}"), "slurmd", &["-D", "-N", name]));
        wait::until(&format!("{name} is up"), || {
            let state = self.try_run("sinfo", &["-h", "-N", "-n", name, "-o", "%t"])?;
            let up = ["idle", "mix", "alloc", "comp"].contains(&state.trim());
            if up { Ok(()) } else { Err(state + &process::read(&self.path().join("log/slurmctld.log"))) }
        });
    }

    /// SIGKILL to the daemon of a node; its jobs go on.
    pub fn kill_node(&mut self, node: usize) {
        if let Some(slurmd) = self.slurmd[node].take() {
            slurmd.kill();
        }
    }

    /// A gate that is shut.
    ///
    /// # Panics
    /// If there is one of that name.
    pub fn gate(&self, name: &str) -> Gate {
        let path = self.path().join("gates").join(name);
        let file = File::options().create_new(true).write(true).open(&path);
        let file = file.expect("the folder is writable, and no gate is called so");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("it is ours");
        flock(&file, FlockOperation::LockExclusive).expect("nobody else knows the file");
        Gate { file, path }
    }

    /// Submits a script under an account; gives the number of the job.
    ///
    /// # Panics
    /// If it is refused.
    #[track_caller]
    pub fn submit(&self, account: &str, options: &[&str], script: &str) -> u32 {
        self.submit_by(0, account, options, script)
    }

    /// The same as another user.
    #[track_caller]
    pub fn submit_by(&self, uid: u32, account: &str, options: &[&str], script: &str) -> u32 {
        let mut command = self.command("sbatch");
        let account = format!("--account={account}");
        command.uid(uid).args(["--parsable", "--output=/dev/null", &account]).args(options);
        command.arg(format!("--wrap={script}"));
        let printed = ended(&mut command).unwrap_or_else(|problem| panic!("{problem}"));
        let number = printed.trim().split(';').next().unwrap_or_default();
        number.parse().unwrap_or_else(|_| panic!("sbatch printed {printed:?}"))
    }

    /// Ends a job.
    #[track_caller]
    pub fn cancel(&self, job: u32) {
        self.run("scancel", &[&job.to_string()]);
    }

    /// Puts a running job back, and returns once it runs again.
    #[track_caller]
    pub fn requeue(&self, job: u32) {
        self.run("scontrol", &["requeue", &job.to_string()]);
        let number = job.to_string();
        let look = || self.try_run("squeue", &["-h", "-j", &number, "-o", "%T %r"]);
        wait::until(&format!("job {job} is put back"), || {
            let now = look()?;
            if now.trim() == "PENDING BeginTime" { Ok(()) } else { Err(now + &self.log_of(job)) }
        });
        // It would wait for two minutes. Within the second in which it was ended, a node refuses it.
        self.run("scontrol", &["update", &format!("JobId={job}"), "StartTime=now+2"]);
        wait::until(&format!("job {job} runs again"), || {
            let now = look()?;
            if now.starts_with("RUNNING") { Ok(()) } else { Err(now + &self.log_of(job)) }
        });
    }

    /// What the controller logged of a job.
    fn log_of(&self, job: u32) -> String {
        let log = process::read(&self.path().join("log/ctld"));
        let of_job = format!("JobId={job} ");
        log.lines()
            .filter(|line| line.contains(&of_job) || line.ends_with(of_job.trim()))
            .fold(String::new(), |text, line| text + "\n" + line)
    }

    /// Returns once a job is in this state; one that is no longer in the queue is in `""`.
    #[track_caller]
    pub fn wait_for(&self, job: u32, state: &str) {
        wait::until(&format!("job {job} is {state:?}"), || {
            // A job that the controller has forgotten is an error there.
            let now = self.try_run("squeue", &["-h", "-j", &job.to_string(), "-o", "%T"]).unwrap_or_default();
            if now.lines().all(|line| line.trim() == state) && now.trim().is_empty() == state.is_empty() {
                Ok(())
            } else {
                Err(now)
            }
        });
    }

    /// What prologs and epilogs were told so far.
    ///
    /// # Panics
    /// If a script wrote something else.
    pub fn events(&self) -> BTreeSet<Event> {
        let event = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut word = || words.next().unwrap_or_default();
            let (context, job, restart) = (word(), word(), word());
            let (node, gpus, account) = (word(), word(), word());
            let number =
                |text: &str| text.parse().unwrap_or_else(|_| panic!("an event without number: {line:?}"));
            Event { job: number(&job), restart: number(&restart), node, context, gpus, account }
        };
        process::read(&self.path().join("events")).lines().map(event).collect()
    }

    /// Returns once prologs or epilogs of a job have run, on so many nodes and starts in all.
    #[track_caller]
    pub fn wait_for_events(&self, context: &str, job: u32, count: usize) {
        wait::until(&format!("{count} times {context} of job {job}"), || {
            let lines = process::read(&self.path().join("events"));
            let begin = format!("{context} {job} ");
            let seen = lines.lines().filter(|line| line.starts_with(&begin)).count();
            if seen >= count { Ok(()) } else { Err(lines) }
        });
    }

    /// Makes prolog and epilog run a shell script from now on, with their environment.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn hook(&self, name: &str, script: &str) {
        script_file(&self.path().join("hooks/added").join(name), script);
    }

    /// What `sacct` prints of all jobs, the requeued ones too.
    #[track_caller]
    pub fn sacct(&self, arguments: &[&str]) -> String {
        let mut command = self.command("sacct");
        // As JSON it reads its own times again, and cannot read these.
        if !arguments.contains(&"--json") {
            command.env("SLURM_TIME_FORMAT", "%s");
        }
        command.args(["-D", "-a", "-S", "now-1hours"]).args(arguments);
        ended(&mut command).unwrap_or_else(|problem| panic!("{problem}"))
    }
}

/// What a program printed, if it ended well.
fn ended(command: &mut Command) -> Result<String, String> {
    let done = command.output().unwrap_or_else(|error| {
        panic!("{}: {error}: tests/run installs it", command.get_program().display())
    });
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if done.status.success() {
        Ok(said(&done.stdout))
    } else {
        Err(format!("{command:?}: {}: {}{}", done.status, said(&done.stdout), said(&done.stderr)))
    }
}

fn script_file(path: &Path, script: &str) {
    // Moved into place: a script that is open for writing cannot be run.
    // Not beside it: every file there is run.
    let fresh = path.ancestors().nth(2).expect("it lies below a folder").join("fresh");
    fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).expect("the folder is writable");
    fs::set_permissions(&fresh, PermissionsExt::from_mode(0o755)).expect("it is ours");
    fs::rename(&fresh, path).expect("the folder is writable");
}

fn munge(folder: &Path) -> Process {
    let at = |name: &str| folder.join("munge").join(name);
    fs::create_dir_all(at("")).expect("the folder is writable");
    // Whoever submits a job needs the socket.
    fs::set_permissions(at(""), PermissionsExt::from_mode(0o711)).expect("it is ours");
    let mut key = [0; 128];
    getrandom::fill(&mut key).expect("the kernel has random numbers");
    fs::write(at("key"), key).expect("the folder is writable");
    fs::set_permissions(at("key"), PermissionsExt::from_mode(0o600)).expect("it is ours");
    let mut command = process::command(Path::new("/usr/sbin/munged"));
    command.args(["--foreground", "--force"]).process_group(0);
    for (option, file) in [
        ("--key-file", "key"),
        ("--socket", "socket"),
        ("--pid-file", "pid"),
        ("--log-file", "log"),
        ("--seed-file", "seed"),
    ] {
        command.arg(format!("{option}={}", at(file).display()));
    }
    let munge = Process::start("munged", &mut command, &folder.join("log"));
    wait::until("munge answers", || at("socket").exists().then_some(()).ok_or_else(|| "no socket".into()));
    munge
}

/// What is the same in making the tables and in serving them.
fn mariadbd(folder: &Path) -> Command {
    let mut command = process::command(Path::new("/usr/sbin/mariadbd"));
    command.args(["--no-defaults", "--user=root", "--skip-grant-tables", "--skip-networking"]);
    command.args([
        "--innodb-log-file-size=4M",
        "--innodb-buffer-pool-size=32M",
        "--loose-innodb-flush-method=nosync",
    ]);
    command.args(["--innodb-flush-log-at-trx-commit=0", "--tmpdir=/tmp"]);
    command.arg(format!("--datadir={}", folder.join("db/data").display())).process_group(0);
    command
}

fn database(folder: &Path) -> Process {
    let tables = "/usr/share/mysql/mysql_system_tables.sql";
    let tables =
        fs::read_to_string(tables).unwrap_or_else(|error| panic!("{tables}: {error}: tests/run installs it"));
    let first = folder.join("db/first.sql");
    let begin = "create database if not exists mysql;\nuse mysql;\ncreate database slurm_acct_db;\n";
    fs::write(&first, format!("{begin}{tables}")).expect("the folder is writable");
    let mut command = mariadbd(folder);
    command.arg("--bootstrap").stdin(File::open(first).expect("it was just written"));
    ended(&mut command).unwrap_or_else(|problem| panic!("{problem}"));
    let socket = folder.join("db/socket");
    let mut command = mariadbd(folder);
    command.arg(format!("--socket={}", socket.display()));
    command.arg(format!("--pid-file={}", folder.join("db/pid").display()));
    let database = Process::start("mariadbd", &mut command, &folder.join("log"));
    wait::until("the database answers", || socket.exists().then_some(()).ok_or_else(|| "no socket".into()));
    database
}

fn write_configuration(folder: &Path) {
    let here = folder.display();
    let host = process::read(Path::new("/proc/sys/kernel/hostname"));
    let host = host.trim().split('.').next().unwrap_or_default();
    let [dbd, ctld, first, second] = [(); 4].map(|()| ports::free().port());
    let write = |name: &str, text: String| {
        fs::write(folder.join(name), text).expect("the folder is writable");
    };
    write(
        "slurmdbd.conf",
        format!(
            "AuthType=auth/munge\nAuthInfo=socket={here}/munge/socket\nDbdHost=localhost\nDbdAddr=127.0.0.1\n\
             DbdPort={dbd}\nSlurmUser=root\nStorageType=accounting_storage/mysql\nStorageHost=localhost\n\
             StorageUser=root\nStorageLoc=slurm_acct_db\nPidFile={here}/slurmdbd.pid\nLogFile={here}/log/dbd\n\
             DebugLevel=info\nCommunicationParameters=NoInAddrAny\n"
        ),
    );
    fs::set_permissions(folder.join("slurmdbd.conf"), PermissionsExt::from_mode(0o600)).expect("it is ours");
    let mut text = format!(
        "ClusterName={CLUSTER}\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={ctld}\nSlurmUser=root\n\
         AuthType=auth/munge\nAuthInfo=socket={here}/munge/socket\n\
         CommunicationParameters=NoInAddrAny,NoCtldInAddrAny\nStateSaveLocation={here}/state\n\
         SlurmdSpoolDir={here}/spool-%n\nSlurmctldPidFile={here}/slurmctld.pid\n\
         SlurmdPidFile={here}/slurmd-%n.pid\nSlurmctldLogFile={here}/log/ctld\nSlurmdLogFile={here}/log/d-%n\n\
         ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSwitchType=switch/none\nMpiDefault=none\n\
         JobAcctGatherType=jobacct_gather/none\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core\n\
         GresTypes=gpu\nSchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,sched_min_interval=0\n\
         AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n\
         AccountingStoragePort={dbd}\nAccountingStoragePass={here}/munge/socket\n\
         AccountingStorageTRES=gres/gpu,gres/gpu:h100\nAccountingStorageEnforce=associations\n\
         PrologFlags=Alloc\nProlog={here}/hooks/all\nEpilog={here}/hooks/all\n\
         KillWait=1\nReturnToService=2\nSlurmdParameters=config_overrides\n"
    );
    let mut gres = String::from("AutoDetect=off\n");
    for (node, port) in NODES.iter().zip([first, second]) {
        text += &format!(
            "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=1000 \
             Gres=gpu:h100:{GPUS}\n"
        );
        let last = GPUS - 1;
        gres += &format!("NodeName={node} Name=gpu Type=h100 File={here}/dev/{node}/nvidia[0-{last}]\n");
    }
    text += "PartitionName=main Nodes=ALL Default=YES State=UP MaxTime=INFINITE\n";
    write("slurm.conf", text);
    write("gres.conf", gres);
    let told = "$SLURM_SCRIPT_CONTEXT $SLURM_JOB_ID $SLURM_JOB_RESTART_COUNT $SLURMD_NODENAME $SLURM_JOB_GPUS \
                $SLURM_JOB_ACCOUNT";
    // What a test adds has been done when it tells.
    let added = format!("for hook in {here}/hooks/added/*; do if [ -x \"$hook\" ]; then \"$hook\"; fi; done");
    script_file(&folder.join("hooks/all"), &format!("{added}\necho \"{told}\" >>{here}/events"));
}

impl Drop for Slurm {
    fn drop(&mut self) {
        self.slurmd = [None, None];
        self.slurmctld = None;
        self.slurmdbd = None;
        // What slurmd started belongs to init by now: it is known by the configuration that only this cluster has.
        let mark = format!("SLURM_CONF={}", self.conf().display());
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let id = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            if let Some(id) = id
                && environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            {
                // An error says that it is gone already.
                let _ = kill_process(id, Signal::KILL);
            }
        }
    }
}
