//! Child processes that end with their owner.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

/// What a program that ran to its end left behind.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Where cargo put a program, seen from a test or benchmark.
///
/// # Panics
/// If it is not there.
pub fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("the path of this program is known");
    let found = this.ancestors().skip(1).take(3).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("no {name} beside or above {}: tests/run builds it", this.display()))
}

/// A command that sees nothing of our environment: variables win over configuration files.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("RUST_BACKTRACE", "1").stdin(std::process::Stdio::null());
    command
}

/// The same through another program, which runs what follows on its own arguments.
pub fn through(prefix: &[&str], program: &Path) -> Command {
    match prefix.split_first() {
        None => command(program),
        Some((first, rest)) => {
            let mut command = command(Path::new(first));
            command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(rest).arg(program);
            command
        }
    }
}

impl Process {
    /// Starts a program that writes `<name>.out`, from the beginning, and `<name>.log`, at the end, in `folder`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> Self {
        let out = File::create(folder.join(format!("{name}.out"))).expect("the folder is writable");
        let log = File::options().create(true).append(true).open(folder.join(format!("{name}.log")));
        let log = log.expect("the folder is writable");
        let child = command.stdout(out).stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self { child, name: name.to_owned() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// If the system does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// SIGKILL: it gets to do nothing more. Returns once it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // An error says that it is gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// SIGTERM: it may finish. Returns how it ended.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        // An error says that it is gone already, and how it went is still known.
        let _ = kill_process(pid, Signal::TERM);
        let what = format!("{} ends after SIGTERM", self.name);
        wait::until(&what, || self.ended().ok_or_else(|| "it runs".into()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs a program to its end, with its output in `folder` meanwhile.
///
/// # Panics
/// If it takes longer than `limit`; it is killed then.
#[track_caller]
pub fn run(name: &str, command: &mut Command, folder: &Path, limit: Duration) -> Finished {
    let log = folder.join(format!("{name}.log"));
    drop(fs::remove_file(&log));
    let mut process = Process::start(name, command, folder);
    let ended = wait::until_for(limit, &format!("{name} ends"), || {
        process.ended().ok_or_else(|| format!("it runs; its log: {}", read(&log)))
    });
    Finished { code: ended.code(), stdout: read(&folder.join(format!("{name}.out"))), stderr: read(&log) }
}

/// A file's text, or none.
pub fn read(file: &Path) -> String {
    fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
