//! A real agent as a child process, in front of fake accelerators.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::SigningKey;
use weighbridge_agent::spool::{Inspection, inspect};
use weighbridge_fake_nvml::FakeDriver;

use crate::{
    http,
    machine::{self, Device},
    ports,
    process::{self, Finished, Process},
    wait,
};

/// The program.
pub const PROGRAM: &str = "weighbridge-agent";

/// What makes an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Agent, host and folder are called so.
    pub name: String,
    /// What is in its host.
    pub devices: Vec<Device>,
    /// `meter.period`.
    pub period: &'static str,
    /// `meter.window` and `meter.batch`.
    pub window: &'static str,
    /// `source.nvml.deadline`: long, or a busy test machine looks like a hanging driver.
    pub deadline: &'static str,
    /// What the fake driver is told instead of what follows from `devices`.
    pub script: Option<String>,
    /// More lines for `[spool]`.
    pub spool: &'static str,
    /// `holders.slurm_hooks`, if Slurm tells anything.
    pub slurm_hooks: Option<PathBuf>,
    /// `holders.libvirt`, and `source.nvml.sysfs` where the devices of its machines are, if there is one.
    pub libvirt: Option<(PathBuf, PathBuf)>,
    /// More sections of its configuration.
    pub more: String,
}

impl AgentOptions {
    /// Four looks a second, a window and a batch each second, and much patience with the driver.
    pub fn quick(name: impl Into<String>, devices: Vec<Device>) -> Self {
        Self {
            name: name.into(),
            devices,
            period: "250ms",
            window: "1s",
            deadline: "10s",
            script: None,
            spool: "",
            slurm_hooks: None,
            libvirt: None,
            more: String::new(),
        }
    }
}

/// One agent, with its spool, key and driver in a folder.
#[derive(Debug)]
pub struct Agent {
    name: String,
    folder: PathBuf,
    devices: Vec<Device>,
    driver: FakeDriver,
    public_key: String,
    metrics: SocketAddr,
    process: Option<Process>,
}

impl Agent {
    /// Puts configuration, key and driver into `folder`, which is made. Starts nothing.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn prepare(folder: &Path, options: AgentOptions, collector: SocketAddr) -> Self {
        let uplink = format!("collectors = [\"http://{collector}\"]\nplain_http_on_loopback = true\n");
        Self::prepare_with(folder, options, &uplink)
    }

    /// The same for a collector under TLS; the agent has no certificate yet.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn prepare_secure(folder: &Path, options: AgentOptions, collector: SocketAddr) -> Self {
        Self::prepare_with(folder, options, &format!("collectors = [\"https://{collector}\"]\n"))
    }

    fn prepare_with(folder: &Path, options: AgentOptions, uplink: &str) -> Self {
        fs::create_dir_all(folder).expect("the folder can be made");
        let driver = FakeDriver::install(
            &folder.join("driver"),
            &options.script.clone().unwrap_or_else(|| machine::script(&options.devices)),
        );
        let driver = driver.expect("the fake driver can be copied");
        // Any key will do, if each agent has its own.
        let mut seed = [7; 32];
        let name = options.name.as_bytes();
        seed[..name.len().min(32)].copy_from_slice(&name[..name.len().min(32)]);
        let key = SigningKey::from_bytes(&seed);
        let file = fs::File::options().write(true).create_new(true).mode(0o600).open(folder.join("key"));
        let written = file.and_then(|mut file| file.write_all(BASE64.encode(seed).as_bytes()));
        written.expect("the folder is writable");
        let agent = Self {
            name: options.name,
            folder: folder.to_owned(),
            devices: options.devices,
            driver,
            public_key: BASE64.encode(key.verifying_key().to_bytes()),
            metrics: ports::free(),
            process: None,
        };
        let name = &agent.name;
        let AgentOptions { period, window, deadline, spool, more, .. } = options;
        let slurm_hooks = options.slurm_hooks.unwrap_or_default();
        // Without one, none of the machine that tests run on either.
        let (libvirt, sysfs) = options.libvirt.unwrap_or_else(|| (PathBuf::new(), "/sys".into()));
        let text = format!(
            "[agent]\nid = {name:?}\nhost = {name:?}\nkey_file = {:?}\n\n\
             [meter]\nperiod = {period:?}\nwindow = {window:?}\nbatch = {window:?}\n\n\
             [source.nvml]\nlibrary = {:?}\ndeadline = {deadline:?}\nsysfs = {sysfs:?}\n\n\
             [holders]\nprocess_owners = false\nkubernetes_cluster = \"cluster\"\nslurm_hooks = {slurm_hooks:?}\nlibvirt = {libvirt:?}\ncloud = \"weighed\"\n\n[spool]\ndir = {:?}\n{spool}\n\n\
             [uplink]\n{uplink}retry_shortest = \"50ms\"\nretry_longest = \"1s\"\n\
             retry_not_enrolled = \"1s\"\nconnect_timeout = \"2s\"\ntimeout = \"10s\"\n\n\
             [tls]\ndir = {:?}\n\n[http]\nlisten = \"{}\"\n\n{more}",
            agent.folder.join("key"),
            agent.driver.library(),
            agent.spool(),
            agent.tls(),
            agent.metrics,
        );
        fs::write(agent.config(), text).expect("the folder is writable");
        agent
    }

    /// Starts it, and returns at once.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with something in its environment.
    #[track_caller]
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        self.start_by(&[], environment);
    }

    /// The same through another program, which runs what follows on its own arguments.
    #[track_caller]
    pub fn start_by(&mut self, prefix: &[&str], environment: &[(&str, &str)]) {
        let mut command = process::through(prefix, &process::program(PROGRAM));
        command.envs(environment.iter().copied()).arg("--config").arg(self.config()).arg("run");
        self.process = Some(Process::start(PROGRAM, &mut command, &self.folder));
    }

    /// Returns once it has ended by itself, and how.
    ///
    /// # Panics
    /// If it was not started, or does not end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let process = self.process.as_mut().expect("it was started");
        let ended = wait::until(&format!("{} ends by itself", self.name), || {
            process.ended().ok_or_else(|| "it runs".into())
        });
        self.process = None;
        ended
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM.
    ///
    /// # Panics
    /// Unless it ends well.
    #[track_caller]
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            let ended = process.stop();
            assert!(ended.success(), "{} ended with {ended}: {}", self.name, self.log());
        }
    }

    /// Runs another command of the program on the same configuration.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.run_with(arguments, &[])
    }

    /// The same with something in its environment.
    #[track_caller]
    pub fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
        let mut command = process::command(&process::program(PROGRAM));
        command.envs(environment.iter().copied()).arg("--config").arg(self.config()).args(arguments);
        process::run("command", &mut command, &self.folder, std::time::Duration::from_secs(60))
    }

    /// Agent and host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is in its host.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// To break it.
    pub fn driver(&self) -> &FakeDriver {
        &self.driver
    }

    /// Where everything of it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("agent.toml")
    }

    /// Its spool.
    pub fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }

    /// Where its certificate is, once it is enrolled.
    pub fn tls(&self) -> PathBuf {
        self.folder.join("tls")
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// What it logged in all its runs.
    pub fn log(&self) -> String {
        process::read(&self.folder.join("weighbridge-agent.log"))
    }

    /// Where it serves its own metrics.
    pub fn metrics_at(&self) -> SocketAddr {
        self.metrics
    }

    /// What it says to Prometheus.
    pub fn metrics(&self) -> Result<String, String> {
        let answer = http::get(self.metrics, "/metrics").map_err(|error| error.to_string())?;
        if answer.status == 200 {
            Ok(answer.body)
        } else {
            Err(format!("{}: {}", answer.status, answer.body))
        }
    }

    /// A look into its spool, while it runs or not.
    ///
    /// # Panics
    /// If the spool is damaged.
    #[track_caller]
    pub fn inspect(&self) -> Inspection {
        inspect(&self.spool()).unwrap_or_else(|error| panic!("{}: {error}: {:?}", self.name, error))
    }

    /// Batches that it knows no acknowledgement of.
    #[track_caller]
    pub fn waiting(&self) -> u64 {
        self.inspect().epochs.iter().map(|epoch| epoch.waiting).sum()
    }

    /// Its row in `agents.csv`.
    pub fn enrolment(&self) -> String {
        let Self { name, public_key, .. } = self;
        format!("{name},{name},site-1,fabric-1,{public_key},2026-01-01T00:00:00Z,\n")
    }
}
