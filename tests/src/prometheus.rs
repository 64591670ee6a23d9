//! A real Prometheus, as packaged by Debian, and its `promtool`.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    http, ports,
    process::{self, Finished, Process},
    wait,
};

/// One that scrapes every second. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    at: SocketAddr,
    _process: Process,
}

impl Prometheus {
    /// Starts one that keeps its data in `folder`, which is made, and scrapes each of `targets` as a job of its own;
    /// returns once it serves.
    ///
    /// # Panics
    /// If it is not installed, or ends instead.
    #[track_caller]
    pub fn start(folder: &Path, targets: &[(&str, SocketAddr)]) -> Self {
        fs::create_dir_all(folder).expect("the folder can be made");
        let mut config =
            String::from("global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n");
        for (job, target) in targets {
            config.push_str(&format!(
                "  - job_name: {job}\n    static_configs:\n      - targets: [\"{target}\"]\n"
            ));
        }
        let file = folder.join("prometheus.yml");
        fs::write(&file, config).expect("the folder is writable");
        let at = ports::free();
        let mut command = process::command(&installed("prometheus"));
        command.arg("--config.file").arg(file).arg("--storage.tsdb.path").arg(folder.join("data"));
        command.arg(format!("--web.listen-address={at}")).arg("--log.level=warn");
        let mut process = Process::start("prometheus", &mut command, folder);
        wait::until("prometheus is ready", || {
            if let Some(ended) = process.ended() {
                panic!("prometheus ended with {ended}: {}", process::read(&folder.join("prometheus.log")));
            }
            match http::get(at, "/-/ready") {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        Self { at, _process: process }
    }

    /// The value of an expression that has exactly one; `Err` says what it has instead.
    pub fn value(&self, expression: &str) -> Result<f64, String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = http::get(self.at, &format!("/api/v1/query?query={encoded}"));
        let answer = answer.map_err(|error| format!("{expression}: {error}"))?;
        let body: Value =
            serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {answer:?}"))?;
        let values = body["data"]["result"].as_array().filter(|_| body["status"] == "success");
        let one = values.filter(|values| values.len() == 1).and_then(|values| values[0]["value"][1].as_str());
        one.and_then(|text| text.parse().ok()).ok_or_else(|| format!("{expression}: {body}"))
    }

    /// Returns once the expression has this value.
    ///
    /// # Panics
    /// If it never has.
    #[track_caller]
    pub fn becomes(&self, expression: &str, expected: f64) {
        wait::until(&format!("{expression} is {expected}"), || {
            let value = self.value(expression)?;
            if value == expected { Ok(()) } else { Err(format!("it is {value}")) }
        });
    }

    /// Returns once the expression is above zero.
    ///
    /// # Panics
    /// If it never is.
    #[track_caller]
    pub fn becomes_positive(&self, expression: &str) {
        wait::until(&format!("{expression} is above zero"), || {
            let value = self.value(expression)?;
            if value > 0.0 { Ok(()) } else { Err(format!("it is {value}")) }
        });
    }
}

/// What `promtool check metrics` has to say about a text.
///
/// # Panics
/// If it is not installed, or `folder` cannot be written.
#[track_caller]
pub fn lint(folder: &Path, text: &str) -> Finished {
    let file = folder.join("promtool.in");
    fs::write(&file, text).expect("the folder is writable");
    let mut command = process::command(&installed("promtool"));
    command.args(["check", "metrics"]).stdin(File::open(file).expect("it was just written"));
    process::run("promtool", &mut command, folder, Duration::from_secs(60))
}

/// Where a program of the system is.
fn installed(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("no {name} on the path: tests/run installs it"))
}
