//! What the kernel says of a process, in the files of one folder under `/proc`.
//!
//! The folder is opened once, and stands for that process for ever: when the process ends, its files are gone, even
//! if another has its number by then. None of these files waits for the process, as its command line would.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::cgroup::{self, Placed, Roots};

/// Longer than any of these files but `cgroup`, and than what of `status` is wanted.
const LONGEST_FILE: u64 = 16 << 10;

/// Ticks of the kernel's public clock; the same wherever Linux runs accelerators.
const TICKS_PER_SECOND: u64 = 100;

/// The folder `/proc`, or one that looks like it.
#[derive(Clone, Debug)]
pub struct Proc {
    root: PathBuf,
    /// Groups of the operator's own.
    roots: Roots,
}

/// A process could not be read.
#[derive(Debug)]
pub enum Missing {
    /// It is not there, or not any more, or this is not for our eyes and looks the same.
    Gone,
    /// It is there, and we may not or cannot read it.
    Unreadable(io::Error),
}

impl From<io::Error> for Missing {
    fn from(error: io::Error) -> Self {
        let gone = error.kind() == io::ErrorKind::NotFound
            || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
        if gone { Self::Gone } else { Self::Unreadable(error) }
    }
}

/// One process that was there.
#[derive(Debug)]
pub struct Process {
    folder: OwnedFd,
    /// When it began, in ticks since boot: together with its number, which process it is.
    pub started: u64,
}

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The real user.
    pub uid: u32,
    /// Who logged in, if anybody did.
    pub login: Option<u32>,
}

impl Proc {
    /// `root` is `/proc` but for tests.
    pub fn new(root: PathBuf, roots: Roots) -> Self {
        Self { root, roots }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes hold of a process.
    pub fn open(&self, pid: u32) -> Result<Process, Missing> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, self.root.join(pid.to_string()), flags, Mode::empty())
            .map_err(|error| Missing::from(io::Error::from(error)))?;
        let stat = read(&folder, "stat", LONGEST_FILE)?;
        let started = started(&stat).ok_or_else(|| unusable("stat"))?;
        Ok(Process { folder, started })
    }

    /// In which groups it lies.
    pub fn placed(&self, process: &Process) -> Result<Placed, Missing> {
        let file = read(&process.folder, "cgroup", cgroup::LONGEST_FILE)?;
        Ok(cgroup::read(&file, &self.roots))
    }
}

impl Process {
    /// Milliseconds after boot at which it had begun.
    pub fn started_ms(&self) -> u64 {
        self.started.saturating_mul(1000 / TICKS_PER_SECOND)
    }

    /// Whose it is.
    pub fn owner(&self) -> Result<Owner, Missing> {
        // Whoever is in thousands of groups has a longer one, and is at its beginning all the same.
        let (status, _) = read_begin(&self.folder, "status", LONGEST_FILE)?;
        let uid = uid(&status).ok_or_else(|| unusable("status"))?;
        // A kernel without audit knows no logins.
        let login = match read(&self.folder, "loginuid", LONGEST_FILE) {
            Ok(file) => login(&file),
            Err(Missing::Gone) => {
                // Or has the process ended?
                read_begin(&self.folder, "status", LONGEST_FILE)?;
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Owner { uid, login })
    }
}

fn unusable(file: &str) -> Missing {
    Missing::Unreadable(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{file} is not what a kernel writes"),
    ))
}

fn read(folder: &OwnedFd, file: &str, longest: u64) -> Result<Vec<u8>, Missing> {
    // The end may say something else.
    let (bytes, whole) = read_begin(folder, file, longest)?;
    if whole { Ok(bytes) } else { Err(unusable(file)) }
}

/// And whether that was all.
fn read_begin(folder: &OwnedFd, file: &str, longest: u64) -> Result<(Vec<u8>, bool), Missing> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = openat(folder, file, flags, Mode::empty()).map_err(io::Error::from)?;
    // As a rule one read, and one that says it was all.
    let mut bytes = Vec::with_capacity(2 << 10);
    let length = File::from(opened).take(longest).read_to_end(&mut bytes)?;
    Ok((bytes, (length as u64) < longest))
}

/// Field 22 of `stat`. The second is the program's name, which may hold anything.
pub fn started(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The first number of the line `Uid:` in `status`.
pub fn uid(status: &[u8]) -> Option<u32> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// `loginuid`; all ones where nobody logged in.
pub fn login(file: &[u8]) -> Option<u32> {
    std::str::from_utf8(file).ok()?.trim().parse().ok().filter(|&uid| uid != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_what_it_likes() {
        let fields = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 0 0\n";
        for name in ["bash", "a) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 666 0", ")\n(", "\u{fffd}"] {
            assert_eq!(started(format!("42 ({name}) {fields}").as_bytes()), Some(777), "{name}");
        }
        for bad in [
            "",
            "42 (bash",
            "42 (bash)",
            "42 (bash) S 1 1",
            "42 (bash) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 x",
        ] {
            assert_eq!(started(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_real_user_counts_and_a_login_that_nobody_made_is_none() {
        assert_eq!(uid(b"Name:\tUid: 5\nUmask:\t0022\nUid:\t1000\t0\t0\t0\nGid:\t7\t7\t7\t7\n"), Some(1000));
        assert_eq!(uid(b"Name:\tx\n"), None);
        assert_eq!((login(b"1000"), login(b"4294967295\n"), login(b"")), (Some(1000), None, None));
    }
}
