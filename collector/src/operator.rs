//! Where the operator's key comes from: a file, a variable of the environment, or a command that asks a key service.
//!
//! The token for imports and opened identities follows from the key, wherever that comes from: a command on the same
//! host gets the key as the collector does, from the same configuration, variable or command, and needs the same rights
//! for it. A variable stays readable in `/proc` for the user that the collector runs as, and for root.

use std::{
    fmt, fs,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde::Deserialize;
use weighbridge_registry::{KeyError, KeyStore, OperatorKey};
use zeroize::Zeroizing;

use crate::{
    app::StartError,
    config::{Config, ConfigError},
    random,
};

/// What a command may print: a key and a line end, with room to tell what is wrong with more.
const LONGEST: usize = 1024;

/// What is shown of what a command says on standard error.
const SHOWN: u64 = 4096;

/// How long a command may take unless configured otherwise.
const WITHIN: Duration = Duration::from_secs(10);

/// Where the key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorKeyAt {
    /// A file, made with a new key if it is not there.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// What a command prints.
    Command {
        /// The program, and what it is called with. No shell reads it.
        command: Vec<String>,
        /// It is ended if it takes longer.
        within: Duration,
    },
}

/// As written.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a file, or a table with one of file = \"...\", environment = \"...\" and command = [\"...\"] (with time_limit = \"10s\")"
)]
pub(crate) enum RawOperatorKey {
    File(PathBuf),
    From(RawFrom),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFrom {
    file: Option<PathBuf>,
    environment: Option<String>,
    command: Option<Vec<String>>,
    time_limit: Option<String>,
}

impl RawOperatorKey {
    pub(crate) fn check(self) -> Result<OperatorKeyAt, ConfigError> {
        let bad = |value: String, expected| ConfigError::Value { key: "keys.operator_key", value, expected };
        let from = match self {
            Self::File(file) => return Ok(OperatorKeyAt::File(file)),
            Self::From(from) => from,
        };
        let within = match from.time_limit {
            None => WITHIN,
            Some(text) if from.command.is_some() => {
                let span: Option<jiff::SignedDuration> = text.parse().ok();
                let within = span.and_then(|span| Duration::try_from(span).ok());
                let sensible = Duration::from_millis(100)..=Duration::from_secs(300);
                let within = within.filter(|within| sensible.contains(within));
                within.ok_or_else(|| bad(text, "a time_limit from 100ms to 5m, such as 10s"))?
            }
            Some(text) => return Err(bad(text, "with a command, which alone takes a time_limit")),
        };
        match (from.file, from.environment, from.command) {
            (Some(file), None, None) => Ok(OperatorKeyAt::File(file)),
            (None, Some(name), None) if name.is_empty() || name.contains(['=', '\0']) => {
                Err(bad(name, "the name of a variable"))
            }
            (None, Some(name), None) => Ok(OperatorKeyAt::Environment(name)),
            (None, None, Some(command)) if command.first().is_none_or(String::is_empty) => {
                Err(bad(format!("{command:?}"), "a program and its arguments"))
            }
            (None, None, Some(command)) => Ok(OperatorKeyAt::Command { command, within }),
            _ => Err(bad("a table".into(), "one of file, environment and command")),
        }
    }
}

impl fmt::Display for OperatorKeyAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "file {}", file.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            // Not its arguments: who logs in with a secret there shall not find it in a log.
            Self::Command { command, .. } => {
                write!(f, "command {}", command.first().map_or("", String::as_str))
            }
        }
    }
}

impl OperatorKeyAt {
    /// Gets the key; blocks for as long as a command may take.
    ///
    /// # Errors
    /// What is wrong with the place, or with what comes from there.
    pub fn read(&self) -> Result<OperatorKey, StartError> {
        let failed = |problem| StartError::OperatorKey { from: self.to_string(), problem };
        match self {
            Self::File(file) => Ok(OperatorKey::from_file(file)?),
            Self::Environment(name) => {
                let text = std::env::var_os(name).ok_or_else(|| failed("it is not set".into()))?;
                OperatorKey::from_text(&Zeroizing::new(text.into_encoded_bytes())).map_err(failed)
            }
            Self::Command { command, within } => {
                printed(command, *within).and_then(|text| OperatorKey::from_text(&text)).map_err(failed)
            }
        }
    }

    /// Gets the key; a file that is not there is made with a new one.
    ///
    /// # Errors
    /// As [`OperatorKeyAt::read`].
    pub fn read_or_make(&self) -> Result<OperatorKey, StartError> {
        if let Self::File(file) = self
            && !file.exists()
        {
            let key = OperatorKey::generate(random::bytes());
            if let Some(folder) = file.parent() {
                let failed = |source| StartError::Folder { path: folder.into(), source };
                fs::create_dir_all(folder).map_err(failed)?;
            }
            key.save_new(file)?;
            tracing::warn!(file = %file.display(), "made a new operator key: keep a copy, identities cannot be read without it");
        }
        self.read()
    }

    /// Puts a new key where the next start looks for it, where that can be done: in the file. The key before is kept
    /// beside it, for mirrors of the key store that are still locked with it. Tells what a person has to know.
    pub(crate) fn put(&self, new: &OperatorKey) -> Vec<String> {
        let Self::File(file) = self else {
            return vec![format!(
                "the next start takes the key from {self}: let that give {} from now on",
                new.id()
            )];
        };
        match replaced(file, new) {
            Ok(None) => Vec::new(),
            Ok(Some(kept)) => vec![
                format!("{} holds the new key", file.display()),
                format!(
                    "the key before is kept in {}: destroy it once the mirror of the key store was made anew (backup --keys)",
                    kept.display()
                ),
            ],
            Err(error) => vec![format!(
                "{} does not hold the new key, and the next start needs it: put it there ({})",
                file.display(),
                weighbridge_store::verify::chain_of(&error)
            )],
        }
    }
}

/// Puts a key in the place of that in `file`; where the one before is kept, `None` if it was this already.
fn replaced(file: &Path, new: &OperatorKey) -> Result<Option<PathBuf>, KeyError> {
    let before = OperatorKey::from_file(file)?.id();
    if before == new.id() {
        return Ok(None);
    }
    let failed = |doing| move |source| KeyError::Io { doing, path: file.into(), source };
    let beside = |ending: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let (draft, kept) = (beside(".next"), beside(&format!(".{before}")));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("replace")(error)),
        _ => {}
    }
    new.save_new(&draft)?;
    let mode = fs::metadata(file).map_err(failed("read"))?.permissions();
    fs::set_permissions(&draft, mode).map_err(failed("replace"))?;
    match fs::hard_link(file, &kept) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed("keep")(error)),
        _ => {}
    }
    fs::rename(&draft, file).map_err(failed("replace"))?;
    weighbridge_store::files::sync_parent(file).map_err(failed("replace"))?;
    Ok(Some(kept))
}

/// What a command prints, if it ends well and in time.
fn printed(command: &[String], within: Duration) -> Result<Zeroizing<Vec<u8>>, String> {
    let [program, arguments @ ..] = command else { return Err("it has no name".into()) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // So that what it started is ended with it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("it does not start: {error}"))?;
    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (tell, told) = mpsc::channel();
    let said = std::thread::spawn(move || {
        let mut said = Vec::new();
        let mut err = err?;
        // What is more is taken and forgotten, so that nobody waits to say it.
        let read = err.by_ref().take(SHOWN).read_to_end(&mut said);
        drop(read.and_then(|_| std::io::copy(&mut err, &mut std::io::sink())));
        Some(String::from_utf8_lossy(&said).trim().to_owned())
    });
    std::thread::spawn(move || {
        // Room for all of it at once: a buffer that grows leaves copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
        let read = out.map_or(Ok(0), |out| out.take(LONGEST as u64 + 1).read_to_end(&mut text));
        let ended = child.wait();
        let said = said.join().ok().flatten().unwrap_or_default();
        // Nobody listens any more if that took too long.
        drop(tell.send((text, read, ended, said)));
    });
    let Ok((text, read, ended, said)) = told.recv_timeout(within) else {
        if let Some(group) = group {
            // Gone already is as good.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        return Err(format!("it has not ended within {within:?}"));
    };
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    if text.len() > LONGEST {
        return Err(format!("it prints more than {LONGEST} bytes{said}"));
    }
    let ended = ended.map_err(|error| format!("it cannot be waited for: {error}"))?;
    if !ended.success() {
        return Err(format!("it ended with {ended}{said}"));
    }
    read.map_err(|error| format!("it cannot be read: {error}{said}"))?;
    Ok(text)
}

/// Opens the key store with the configured key, or, where that is being left, with the one that takes its place; that
/// one comes along, to be put where the next start looks for it.
pub(crate) fn key_store(config: &Config) -> Result<(KeyStore, Option<OperatorKey>), StartError> {
    match KeyStore::at(&config.key_store, config.operator_key.read_or_make()?) {
        Err(KeyError::Rotating { file: Some(file), .. }) => {
            tracing::warn!(file = %file.display(), "the operator's key is being changed: going on with the new one");
            let keys = KeyStore::at(&config.key_store, OperatorKey::from_file(&file)?)?;
            Ok((keys, Some(OperatorKey::from_file(&file)?)))
        }
        opened => Ok((opened?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn shell(script: &str) -> OperatorKeyAt {
        let command = ["sh", "-c", script].map(str::to_owned).into();
        OperatorKeyAt::Command { command, within: Duration::from_secs(20) }
    }

    fn problem(at: &OperatorKeyAt) -> String {
        at.read().expect_err("no key").to_string()
    }

    #[test]
    fn a_command_gives_the_key_and_says_why_it_does_not() {
        let key = shell(&format!("echo {KEY}")).read().expect("a key");
        assert_eq!(key.id(), OperatorKey::generate([1; 32]).id());
        assert_eq!(
            problem(&shell("echo sealed vault >&2; exit 3")),
            "operator key from command sh: it ended with exit status: 3: sealed vault"
        );
        assert_eq!(
            problem(&shell("echo no")),
            "operator key from command sh: it is not base64 of 32 bytes, 44 characters"
        );
        assert_eq!(
            problem(&shell("yes 2>/dev/null")),
            "operator key from command sh: it prints more than 1024 bytes"
        );
        let none = OperatorKeyAt::Command { command: vec!["/nonexistent".into()], within: WITHIN };
        assert!(problem(&none).contains("/nonexistent: it does not start"), "{}", problem(&none));
    }

    #[test]
    fn a_command_that_does_not_end_is_ended_with_all_that_it_started() {
        let command = ["sh", "-c", "sleep 1000 & sleep 1000"].map(str::to_owned).into();
        let slow = OperatorKeyAt::Command { command, within: Duration::from_millis(300) };
        assert_eq!(problem(&slow), "operator key from command sh: it has not ended within 300ms");
    }

    #[test]
    fn a_variable_gives_the_key_or_is_named() {
        // This one is there in every test that cargo runs, and holds no key.
        let set = OperatorKeyAt::Environment("CARGO_MANIFEST_DIR".into());
        let (said, value) = (problem(&set), env!("CARGO_MANIFEST_DIR"));
        assert!(said.starts_with("operator key from environment variable CARGO_MANIFEST_DIR: it "), "{said}");
        assert!(!said.contains(value), "what could be a key is not repeated: {said}");
        let unset = OperatorKeyAt::Environment("WEIGHBRIDGE_NOT_SET".into());
        assert_eq!(
            problem(&unset),
            "operator key from environment variable WEIGHBRIDGE_NOT_SET: it is not set"
        );
    }

    #[test]
    fn a_file_holds_the_new_key_and_the_one_before_is_kept_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("operator.key");
        let (old, new) = (OperatorKey::generate([1; 32]), OperatorKey::generate([2; 32]));
        old.save_new(&file).expect("saved");
        let at = OperatorKeyAt::File(file.clone());
        assert_eq!(at.put(&new).len(), 2);
        assert_eq!(at.put(&new), [""; 0]);
        assert_eq!(at.read().expect("a key").id(), new.id());
        let kept = folder.path().join(format!("operator.key.{}", old.id()));
        assert_eq!(OperatorKey::from_file(&kept).expect("a key").id(), old.id());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
    }
}
