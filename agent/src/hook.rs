//! What Slurm's prolog and epilog call: a file for the agent, and never a reason for a job to fail or to wait.
//!
//! [`run`] starts this program once more to write the file ([`deliver`]) and waits for it, but not for long: a disk
//! that hangs holds up that child and nobody else. Whatever happens, the answer to Slurm is yes.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use weighbridge_meter::UtcMillis;

use crate::{
    clock::{BOOT_ID_PATH, BootIdError, Clock, SystemClock},
    holders::slurm::{
        MOST_FILES,
        told::{ENDED, Event, LONGEST, Moment, NotTold, OPEN, OVER, Told},
    },
};

/// Slurm waits no longer than this for a file to be written.
const PATIENCE: Duration = Duration::from_millis(700);

/// The longest message that is passed on.
const MESSAGE: u64 = 4096;

/// Between two looks whether it is.
const PAUSE: Duration = Duration::from_millis(2);

/// What is over is kept so long, for an agent that does not run.
const KEEP_ENDED_MS: i64 = UtcMillis::DAY;

/// What an epilog left that found no start: no prolog comes later.
const KEEP_OVER_MS: i64 = UtcMillis::HOUR;

/// Nor more files than this: those go first that say nothing of accelerators, then the oldest of what is over.
const KEEP_FILES: usize = MOST_FILES / 2;

/// Nothing was handed over.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// Called with another environment.
    #[error(transparent)]
    NotTold(#[from] NotTold),
    /// Without it no moment means anything.
    #[error(transparent)]
    Boot(#[from] BootIdError),
    /// It is no folder of root's alone.
    #[error("{}: belongs to user {uid} with mode {mode:o}; expected user 0, and nobody else may write to it", folder.display())]
    Unsafe {
        /// Which folder.
        folder: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Who may do what.
        mode: u32,
    },
    /// The file system says no.
    #[error("cannot write {}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Runs `deliver`, a command that delivers, and waits for it for a moment. Says what went wrong, which is nothing
/// that a job should know.
pub fn run(deliver: &mut Command) -> Result<(), String> {
    let child = deliver.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child =
        child.map_err(|error| format!("cannot start {}: {error}", deliver.get_program().display()))?;
    let mut waited = Duration::ZERO;
    loop {
        match child.try_wait() {
            Ok(Some(ended)) if ended.success() => return Ok(()),
            Ok(Some(ended)) => {
                let mut said = String::new();
                // It has ended, so nothing is waited for; what it said fits into the pipe.
                let read = child.stderr.take().map(|stderr| stderr.take(MESSAGE).read_to_string(&mut said));
                return Err(if matches!(read, Some(Ok(_))) && !said.is_empty() {
                    said
                } else {
                    ended.to_string()
                });
            }
            Ok(None) if waited < PATIENCE => {
                std::thread::sleep(PAUSE);
                waited += PAUSE;
            }
            // It goes on by itself, and ends when its disk answers.
            Ok(None) => return Err("what was told takes long to write: it is not waited for".into()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Writes down what Slurm's environment says. The prolog of a job without accelerators leaves nothing.
pub fn deliver(folder: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), HookError> {
    let clock = SystemClock::start(BOOT_ID_PATH.as_ref())?;
    let (event, told) = match Told::read(variable, clock.boot(), clock.now()) {
        Ok(told) => told,
        Err(NotTold::NoAccelerators) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    own_folder(folder)?;
    match event {
        Event::Prolog => begin(folder, &told)?,
        Event::Epilog => end(folder, &told, &clock)?,
    }
    tidy(folder, clock.now().wall);
    Ok(())
}

/// Makes the folder if it is not there.
fn own_folder(folder: &Path) -> Result<(), HookError> {
    let failed = |source| HookError::Write { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(failed)?;
    let found = fs::symlink_metadata(folder).map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    if !found.is_dir() || found.uid() != own || found.mode() & 0o022 != 0 {
        // A folder that was just made under another mask is made right; any other is not touched.
        if found.is_dir()
            && found.uid() == own
            && fs::read_dir(folder).is_ok_and(|mut list| list.next().is_none())
        {
            return fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).map_err(failed);
        }
        let (uid, mode) = (found.uid(), found.mode() & 0o7777);
        return Err(HookError::Unsafe { folder: folder.to_owned(), uid, mode });
    }
    Ok(())
}

fn begin(folder: &Path, told: &Told) -> Result<(), HookError> {
    let name = told.name();
    // A prolog may run twice for one start, as after a restart of slurmd: the first one was the beginning.
    let mut same = false;
    // Any other start of the same job before this one is over, or it could not begin: nobody knows since when.
    let this = (told.restart, told.began.boot_ms);
    for (other, _) in starts(folder, told, OPEN).into_iter().filter(|(_, start)| *start <= this) {
        let path = folder.join(format!("{other}{OPEN}"));
        if read(&path).is_some_and(|before| before.is_same(told)) {
            same = true;
        } else {
            drop(fs::remove_file(path));
        }
    }
    if same {
        return Ok(());
    }
    put(folder, &folder.join(format!("{name}{OPEN}")), told)?;
    // A disk that hung may have held this up until the epilog was over: looked for after the start is there, as the
    // epilog looks for the start after it left this.
    let over = starts(folder, told, OVER).into_iter().filter(|(_, (restart, _))| *restart >= told.restart);
    let over = over.filter_map(|(name, _)| read(&folder.join(format!("{name}{OVER}"))));
    let ended = over.filter(|over| over.boot == told.boot).filter_map(|over| over.ended);
    match ended.filter(|ended| ended.boot_ms >= told.began.boot_ms).min_by_key(|ended| ended.boot_ms) {
        Some(ended) => finish(folder, &name, told.clone(), ended),
        None => Ok(()),
    }
}

fn end(folder: &Path, told: &Told, clock: &SystemClock) -> Result<(), HookError> {
    let open = || {
        // The epilog of a start that is put back may be told the number of the one to come: what is open, ends.
        let mut open = starts(folder, told, OPEN);
        open.retain(|(_, (restart, _))| *restart <= told.restart);
        let (name, _) = open.into_iter().max_by_key(|(_, start)| *start)?;
        let whole = read(&folder.join(format!("{name}{OPEN}"))).filter(|began| began.boot == told.boot)?;
        Some((name, whole))
    };
    if let Some((name, whole)) = open() {
        // Taken as late as can be: from here to the rename nothing else is done.
        return finish(folder, &name, whole, clock.now().into());
    }
    // Nobody told when it began, or not yet, or its end was told before.
    put(folder, &folder.join(format!("{}{OVER}", told.name())), told)?;
    match (open(), told.ended) {
        (Some((name, whole)), Some(ended)) => finish(folder, &name, whole, ended),
        _ => Ok(()),
    }
}

/// From now on a start is over.
fn finish(folder: &Path, name: &str, mut whole: Told, at: Moment) -> Result<(), HookError> {
    let (open, ended) = (folder.join(format!("{name}{OPEN}")), folder.join(format!("{name}{ENDED}")));
    whole.ended = Some(at);
    if put(folder, &ended, &whole).is_ok() {
        return fs::remove_file(&open).map_err(|source| HookError::Write { path: open, source });
    }
    // A disk without room has room for that: the file says when by when it was changed.
    let since = Duration::from_millis(at.wall.0.unsigned_abs());
    let stamped = File::open(&open).and_then(|file| file.set_modified(std::time::UNIX_EPOCH + since));
    let moved = stamped.and_then(|()| fs::rename(&open, &ended));
    moved.map_err(|source| HookError::Write { path: ended, source })
}

/// What there is of this job on this node with this ending: names without it, and which start each is of.
fn starts(folder: &Path, told: &Told, ending: &str) -> Vec<(String, (u32, u64))> {
    let list = fs::read_dir(folder).into_iter().flatten().flatten();
    let starts = list.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let name = name.strip_suffix(ending)?;
        Some((name.to_owned(), told.start(name)?))
    });
    starts.collect()
}

fn read(path: &Path) -> Option<Told> {
    let found = fs::symlink_metadata(path).ok().filter(|found| found.is_file() && found.len() <= LONGEST)?;
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if own { serde_json::from_slice(&fs::read(path).ok()?).ok() } else { None }
}

/// Whole or not at all.
fn put(folder: &Path, path: &Path, told: &Told) -> Result<(), HookError> {
    let fresh = folder.join(format!(".fresh-{}", std::process::id()));
    let failed = |source| HookError::Write { path: path.to_owned(), source };
    let text = serde_json::to_vec(told).expect("plain data with string keys");
    drop(fs::remove_file(&fresh));
    let file = File::options().write(true).create_new(true).mode(0o644).open(&fresh);
    let written = file.and_then(|mut file| {
        file.write_all(&text)?;
        // Whatever the mask: nobody else writes to it, and the agent reads it.
        file.set_permissions(PermissionsExt::from_mode(0o644))
    });
    let moved = written.and_then(|()| fs::rename(&fresh, path));
    moved.map_err(|error| {
        drop(fs::remove_file(&fresh));
        failed(error)
    })
}

/// Takes away what is over for long, and what a writer left that was ended halfway.
fn tidy(folder: &Path, wall: UtcMillis) {
    let mut over: Vec<(bool, i64, PathBuf)> = Vec::new();
    let mut files: usize = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        files += 1;
        let told = name.ends_with(ENDED);
        if (told || name.ends_with(OVER) || name.starts_with(".fresh-"))
            && let Ok(found) = entry.metadata()
        {
            over.push((told, found.mtime() * 1000, entry.path()));
        }
    }
    over.sort_unstable();
    let mut surplus = files.saturating_sub(KEEP_FILES);
    for (told, changed, path) in over {
        let keep = if told { KEEP_ENDED_MS } else { KEEP_OVER_MS };
        if surplus > 0 || wall.0 - changed > keep {
            drop(fs::remove_file(path));
            surplus = surplus.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    struct Script<'a> {
        folder: &'a Path,
        variables: HashMap<&'static str, String>,
    }

    fn script(folder: &Path) -> Script<'_> {
        let variables = [
            ("SLURM_CLUSTER_NAME", "big cluster".to_owned().replace(' ', "-")),
            ("SLURM_JOB_ID", "7".into()),
            ("SLURM_JOB_RESTART_COUNT", "0".into()),
            ("SLURM_JOB_ACCOUNT", "physics".into()),
            ("SLURM_JOB_UID", "1000".into()),
            ("SLURMD_NODENAME", "gpu1".into()),
            ("SLURM_JOB_GPUS", "0,1".into()),
            ("SLURM_JOB_USER", "secret-user".into()),
            ("SLURM_JOB_NAME", "secret-name".into()),
            ("SLURM_JOB_WORK_DIR", "/secret/path".into()),
            ("SLURM_JOB_COMMENT", "secret-comment".into()),
        ];
        Script { folder, variables: variables.into() }
    }

    impl Script<'_> {
        fn with(mut self, name: &'static str, value: &str) -> Self {
            self.variables.insert(name, value.into());
            self
        }

        fn without(mut self, name: &str) -> Self {
            self.variables.remove(name);
            self
        }

        fn run(mut self, context: &str) -> Result<(), HookError> {
            self.variables.insert("SLURM_SCRIPT_CONTEXT", context.into());
            deliver(self.folder, &|name| self.variables.get(name).cloned())
        }
    }

    /// Names without when each began.
    fn files(folder: &Path) -> Vec<String> {
        let plain = |name: String| {
            let parts: Vec<&str> = name.split('-').collect();
            match parts[..] {
                [slurm, cluster, job, restart, _, node] => [slurm, cluster, job, restart, node].join("-"),
                _ => name,
            }
        };
        let mut names: Vec<String> = all(folder).into_iter().map(plain).collect();
        names.sort();
        names
    }

    /// The one file with this ending.
    fn one(folder: &Path, ending: &str) -> Told {
        let all: Vec<Told> = all(folder)
            .iter()
            .filter(|name| name.ends_with(ending))
            .map(|name| read(&folder.join(name)).expect("readable"))
            .collect();
        let [one] = <[Told; 1]>::try_from(all).expect("one");
        one
    }

    fn all(folder: &Path) -> Vec<String> {
        let list = fs::read_dir(folder).into_iter().flatten().flatten();
        list.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    #[test]
    fn a_prolog_opens_what_its_epilog_ends() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("hooks");
        script(&folder).run("prolog_slurmd").expect("delivered");
        assert_eq!(files(&folder), ["slurm-big_cluster-7-0-gpu1.open.json"]);
        let began = one(&folder, OPEN);
        script(&folder).run("prolog_slurmd").expect("delivered");
        assert_eq!(one(&folder, OPEN), began, "the first counts");
        script(&folder).run("epilog_slurmd").expect("delivered");
        assert_eq!(files(&folder), ["slurm-big_cluster-7-0-gpu1.ended.json"]);
        let ended = one(&folder, ENDED);
        assert_eq!((ended.began, ended.account.as_deref()), (began.began, Some("physics")));
        script(&folder).run("epilog_slurmd").expect("delivered");
        assert_eq!(one(&folder, ENDED), ended, "it ended once");
        let text = fs::read_to_string(folder.join(format!("{}{ENDED}", ended.name()))).expect("text");
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn the_epilog_of_a_requeued_job_speaks_of_the_next_start_already() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("hooks");
        script(&folder).run("prolog_slurmd").expect("delivered");
        script(&folder).with("SLURM_JOB_RESTART_COUNT", "1").run("epilog_slurmd").expect("delivered");
        assert_eq!(files(&folder), ["slurm-big_cluster-7-0-gpu1.ended.json"]);
        script(&folder).with("SLURM_JOB_RESTART_COUNT", "1").run("prolog_slurmd").expect("delivered");
        // Its epilog never runs, and it begins again.
        script(&folder).with("SLURM_JOB_RESTART_COUNT", "2").run("prolog_slurmd").expect("delivered");
        let expected = ["slurm-big_cluster-7-0-gpu1.ended.json", "slurm-big_cluster-7-2-gpu1.open.json"];
        assert_eq!(files(&folder), expected);
    }

    #[test]
    fn an_epilog_that_is_not_told_of_accelerators_ends_what_the_prolog_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("hooks");
        script(&folder).run("prolog_slurmd").expect("delivered");
        let epilog = ["SLURM_JOB_GPUS", "SLURM_JOB_ACCOUNT", "SLURM_JOB_UID"];
        let epilog = epilog.iter().fold(script(&folder), |script, name| script.without(name));
        epilog.run("epilog_slurmd").expect("delivered");
        assert_eq!(files(&folder), ["slurm-big_cluster-7-0-gpu1.ended.json"]);
        assert_eq!(one(&folder, ENDED).gpus, "0,1");
    }

    #[test]
    fn where_nothing_can_be_written_the_end_is_a_name_and_a_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("hooks");
        script(&folder).run("prolog_slurmd").expect("delivered");
        let began = one(&folder, OPEN);
        // No file can be made where a folder is.
        let full = folder.join(format!(".fresh-{}", std::process::id()));
        fs::create_dir_all(full.join("x")).expect("made");
        script(&folder).run("prolog_slurmd").expect("it is there");
        finish(
            &folder,
            &began.name(),
            began.clone(),
            Moment { boot_ms: 0, wall: UtcMillis(1_769_846_400_123) },
        )
        .expect("a rename");
        fs::remove_dir_all(&full).expect("it was there");
        assert_eq!(one(&folder, ENDED), began);
        let found = fs::metadata(folder.join(format!("{}{ENDED}", began.name()))).expect("there");
        assert_eq!((found.mtime(), found.mtime_nsec()), (1_769_846_400, 123_000_000));
        assert_eq!(files(&folder), ["slurm-big_cluster-7-0-gpu1.ended.json"]);
    }

    #[test]
    fn a_prolog_that_writes_after_its_epilog_ran_leaves_nothing_open() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("hooks");
        script(&folder).run("prolog_slurmd").expect("delivered");
        let late = one(&folder, OPEN);
        fs::remove_file(folder.join(format!("{}{OPEN}", late.name()))).expect("it was there");
        script(&folder).with("SLURM_JOB_RESTART_COUNT", "1").run("epilog_slurmd").expect("delivered");
        let over = one(&folder, OVER);
        begin(&folder, &late).expect("delivered");
        assert_eq!(one(&folder, ENDED), Told { ended: over.ended, ..late.clone() });
        // The next start began later, and is not over.
        let mut next = Told { restart: 1, ..late };
        next.began.boot_ms = over.began.boot_ms + 1;
        begin(&folder, &next).expect("delivered");
        assert_eq!(one(&folder, OPEN), next);
    }

    #[test]
    fn a_number_that_comes_back_is_another_start() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("hooks");
        script(&folder).run("prolog_slurmd").expect("delivered");
        let first = one(&folder, OPEN);
        for (name, change) in [
            ("account", Told { account: Some("biology".into()), ..first.clone() }),
            ("user", Told { uid: Some(7), ..first.clone() }),
            ("accelerators", Told { gpus: "2".into(), ..first.clone() }),
            ("name", Told { sluid: Some("s0123456789abc".into()), ..first.clone() }),
        ] {
            let mut other = change;
            other.began.boot_ms = one(&folder, OPEN).began.boot_ms + 1;
            begin(&folder, &other).expect("delivered");
            assert_eq!(one(&folder, OPEN), other, "{name}");
        }
        script(&folder).run("epilog_slurmd").expect("delivered");
        let mut again = one(&folder, ENDED);
        (again.began.boot_ms, again.ended) = (again.began.boot_ms + 1_000_000, None);
        begin(&folder, &again).expect("delivered");
        assert_eq!((files(&folder).len(), one(&folder, OPEN)), (2, again));
    }

    #[test]
    fn jobs_without_accelerators_and_calls_from_elsewhere_leave_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("hooks");
        script(&folder).with("SLURM_JOB_GPUS", "").run("prolog_slurmd").expect("nothing to deliver");
        for (name, value) in
            [("SLURM_JOB_ID", "seven"), ("SLURM_CLUSTER_NAME", ""), ("SLURMD_NODENAME", "(null)")]
        {
            let error = script(&folder).with(name, value).run("prolog_slurmd").expect_err("not told");
            assert!(error.to_string().contains(name), "{error}");
        }
        let error = script(&folder).run("prolog_task").expect_err("not told");
        let expected = "SLURM_SCRIPT_CONTEXT is \"prolog_task\", expected prolog_slurmd or epilog_slurmd: is this \
                        Slurm's prolog or epilog?";
        assert_eq!(error.to_string(), expected);
        assert_eq!(files(&folder), [""; 0]);
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_not_used() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("hooks");
        script(&folder).run("prolog_slurmd").expect("delivered");
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("ours");
        let error = script(&folder).run("epilog_slurmd").expect_err("refused");
        assert!(matches!(error, HookError::Unsafe { mode: 0o777, .. }), "{error}");
    }

    #[test]
    fn what_is_over_is_taken_away_after_a_day_or_when_there_is_too_much() {
        let dir = tempfile::tempdir().expect("a folder");
        let now = UtcMillis(1_769_846_400_000);
        let put = |name: &str, age_hours: i64| {
            let path = dir.path().join(name);
            fs::write(&path, "{}").expect("written");
            let seconds = (now.0 / 1000 - age_hours * 3600).unsigned_abs();
            let changed = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
            File::options().write(true).open(path).expect("opens").set_modified(changed).expect("stamped");
        };
        put("slurm-a-1-0-n.open.json", 1000);
        put("slurm-a-2-0-n.ended.json", 25);
        put("slurm-a-3-0-n.ended.json", 23);
        put(".fresh-9", 25);
        tidy(dir.path(), now);
        assert_eq!(files(dir.path()), ["slurm-a-1-0-n.open.json", "slurm-a-3-0-n.ended.json"]);
        for number in 0..KEEP_FILES {
            put(&format!("slurm-b-{number}-0-n.open.json"), 1);
        }
        tidy(dir.path(), now);
        assert!(!files(dir.path()).contains(&"slurm-a-3-0-n.ended.json".to_owned()));
    }
}
