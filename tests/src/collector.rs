//! A real collector as a child process.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use serde_json::Value;

use crate::{
    http::{self, Answer},
    ports,
    process::{self, Finished, Process},
    wait,
};

/// The program.
pub const PROGRAM: &str = "weighbridge-collector";

/// One collector, with its data in a folder and the same ports each time it is started.
#[derive(Debug)]
pub struct Collector {
    folder: PathBuf,
    ingest: SocketAddr,
    http: SocketAddr,
    process: Option<Process>,
}

impl Collector {
    /// Writes a configuration into `folder`, which is made; `more` is appended to it. Starts nothing.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn prepare(folder: &Path, more: &str) -> Self {
        Self::prepare_store(folder, "", more)
    }

    /// The same with more in the section of the store.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn prepare_store(folder: &Path, store: &str, more: &str) -> Self {
        Self::prepare_with(folder, store, "plain_http_on_loopback = true\n", more)
    }

    /// The same with TLS on the ingest port; `ingest` is what else stands in that section.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn prepare_secure(folder: &Path, ingest: &str, more: &str) -> Self {
        Self::prepare_with(folder, "", ingest, more)
    }

    fn prepare_with(folder: &Path, store: &str, security: &str, more: &str) -> Self {
        fs::create_dir_all(folder).expect("the folder can be made");
        let (ingest, http) = (ports::free(), ports::free());
        let at = |name: &str| folder.join(name).display().to_string();
        let text = format!(
            "[store]\ndata = {:?}\n{store}\n\n[keys]\noperator_key = {:?}\nkey_store = {:?}\n\n\
             [ingest]\nlisten = \"{ingest}\"\n{security}\n[http]\nlisten = \"{http}\"\n\n{more}\n",
            at("data"),
            at("operator.key"),
            at("keys"),
        );
        let collector = Self { folder: folder.to_owned(), ingest, http, process: None };
        fs::write(collector.config(), text).expect("the folder is writable");
        collector
    }

    /// Starts it, and returns at once.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with something in its environment.
    #[track_caller]
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        let mut command = process::command(&process::program(PROGRAM));
        command.envs(environment.iter().copied()).arg("--config").arg(self.config()).arg("serve");
        self.process = Some(Process::start(PROGRAM, &mut command, &self.folder));
    }

    /// How it ended, if it was started and has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// What it logged in all its runs.
    pub fn log(&self) -> String {
        process::read(&self.folder.join("weighbridge-collector.log"))
    }

    /// Where everything of it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts it, and returns once it serves.
    #[track_caller]
    pub fn start_ready(&mut self) {
        self.start();
        self.ready();
    }

    /// Returns once it serves.
    ///
    /// # Panics
    /// If it ends instead.
    #[track_caller]
    pub fn ready(&mut self) {
        let (http, folder) = (self.http, self.folder.clone());
        wait::until("the collector is ready", || {
            if let Some(ended) = self.process.as_mut().and_then(Process::ended) {
                panic!(
                    "the collector ended with {ended}: {}",
                    process::read(&folder.join("weighbridge-collector.log"))
                );
            }
            match http::get(http, "/-/ready") {
                Ok(Answer { status: 200, .. }) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
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
            assert!(ended.success(), "the collector ended with {ended}");
        }
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("collector.toml")
    }

    /// Folder of ledger and sums.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where its keys are.
    pub fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    /// Where it takes batches.
    pub fn ingest(&self) -> SocketAddr {
        self.ingest
    }

    /// Where its pages and API are.
    pub fn http(&self) -> SocketAddr {
        self.http
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
        process::run("command", &mut command, &self.folder, Duration::from_secs(120))
    }

    /// Imports a file with the command, whether a collector runs or not.
    ///
    /// # Panics
    /// Unless all of it is taken.
    #[track_caller]
    pub fn import(&self, kind: &str, csv: &str) {
        let finished = self.try_import(kind, csv);
        assert_eq!(finished.code, Some(0), "import {kind}: {}\n{csv}", finished.stderr);
    }

    /// The same, however it ends.
    #[track_caller]
    pub fn try_import(&self, kind: &str, csv: &str) -> Finished {
        let file = self.folder.join(format!("{kind}.csv"));
        fs::write(&file, csv).expect("the folder is writable");
        self.run(&["import", kind, &file.display().to_string()])
    }

    /// Asks the API.
    ///
    /// # Panics
    /// Unless it answers 200 and JSON.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.try_get(path).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Asks the API; `Err` says what it said instead of 200 and JSON.
    pub fn try_get(&self, path: &str) -> Result<Value, String> {
        let path = format!("/api/v1/{path}");
        let answer = http::get(self.http, &path).map_err(|error| format!("GET {path}: {error}"))?;
        if answer.status != 200 {
            return Err(format!("GET {path}: {} {}", answer.status, answer.body));
        }
        serde_json::from_str(&answer.body).map_err(|error| format!("GET {path}: {error}: {}", answer.body))
    }

    /// What it says to Prometheus.
    ///
    /// # Panics
    /// Unless it answers 200.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let answer = http::get(self.http, "/metrics").expect("the collector answers");
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// An accelerator as the fleet shows it.
    pub fn accelerator(&self, id: &str) -> Result<Value, String> {
        let fleet = self.try_get("fleet")?;
        let list = fleet["accelerators"].as_array().ok_or("no list of accelerators")?;
        list.iter().find(|one| one["id"] == id).cloned().ok_or_else(|| format!("no accelerator {id}"))
    }

    /// An agent as the fleet shows it.
    pub fn agent(&self, id: &str) -> Result<Value, String> {
        let fleet = self.try_get("fleet")?;
        let list = fleet["agents"].as_array().ok_or("no list of agents")?;
        list.iter().find(|one| one["id"] == id).cloned().ok_or_else(|| format!("no agent {id}"))
    }

    /// Returns once the sums reflect all that is in the ledger, and the answers reflect the sums.
    #[track_caller]
    pub fn settle(&self) -> Value {
        let asked = wait::now();
        wait::until("the sums reflect the ledger", || {
            let status = self.try_get("status")?;
            let ledger = &status["ledger"];
            let fresh = time(&status["as_of"]).is_ok_and(|as_of| as_of >= asked);
            let folded = ledger["durable"]["index"] == ledger["folded"]["index"];
            if fresh && folded && status["fault"].is_null() { Ok(status) } else { Err(status.to_string()) }
        })
    }
}

/// A time in an answer.
pub fn time(value: &Value) -> Result<weighbridge_meter::UtcMillis, String> {
    value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| format!("{value} is not a time"))
}
