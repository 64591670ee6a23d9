//! File systems of our own to fill, to make read-only and to cut the power of. Needs root.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    io::Errno,
    ioctl::{Setter, ioctl, opcode},
};

use crate::wait;

/// A file system mounted on a folder. Dropping it takes it away.
#[derive(Debug)]
pub struct Mount {
    at: PathBuf,
    image: Option<PathBuf>,
}

/// Runs a command of the system.
///
/// # Panics
/// Unless it ends well.
#[track_caller]
fn system(program: &str, arguments: &[&str]) {
    let ended = Command::new(program).args(arguments).output();
    let ended = ended.unwrap_or_else(|error| panic!("{program}: {error}: tests/run installs it"));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{program} {arguments:?}: {said}; mounting needs root");
}

impl Mount {
    /// Memory that is full after so much, as `"256k"`, or after so many files.
    #[track_caller]
    pub fn memory(at: &Path, size: &str, files: Option<u32>) -> Self {
        fs::create_dir_all(at).expect("the folder can be made");
        let files = files.map_or_else(String::new, |files| format!(",nr_inodes={files}"));
        let options = format!("size={size},mode=700{files}");
        system("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &at.display().to_string()]);
        Self { at: at.to_owned(), image: None }
    }

    /// An ext4 of so many MiB in a file beside the folder.
    #[track_caller]
    pub fn disk(at: &Path, mebibytes: u64) -> Self {
        fs::create_dir_all(at).expect("the folder can be made");
        let image = at.with_extension("img");
        let file = File::create(&image).expect("the folder is writable");
        file.set_len(mebibytes << 20).expect("there is space");
        drop(file);
        system("mkfs.ext4", &["-q", "-F", "-m", "0", &image.display().to_string()]);
        let disk = Self { at: at.to_owned(), image: Some(image) };
        disk.attach();
        disk
    }

    #[track_caller]
    fn attach(&self) {
        let image = self.image.as_ref().expect("only a disk is attached again");
        system("mount", &["-o", "loop", &image.display().to_string(), &self.at.display().to_string()]);
    }

    /// Other limits, or `"ro"` and `"rw"`.
    #[track_caller]
    pub fn again(&self, options: &str) {
        system("mount", &["-o", &format!("remount,{options}"), &self.at.display().to_string()]);
    }

    /// Everything that was not synced by now is lost, and whatever has files open gets errors from here on.
    ///
    /// # Panics
    /// If the file system cannot do that.
    #[track_caller]
    pub fn cut_power(&self) {
        /// `FS_IOC_SHUTDOWN`, which XFS began and ext4 took over.
        const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
        /// Not even the log is written out.
        const NO_LOG_FLUSH: u32 = 2;
        let folder = File::open(&self.at).expect("the file system is mounted");
        #[expect(unsafe_code, reason = "no crate offers this call; its argument is one number that lives")]
        // SAFETY: `_IOR('X', 125, u32)` reads one number through the pointer that `Setter` gives it.
        let cut: Result<(), Errno> = unsafe { ioctl(&folder, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) };
        cut.unwrap_or_else(|error| panic!("{}: the power cannot be cut: {error}", self.at.display()));
    }

    /// Mounts the disk again, as a host does that starts after a power cut. Nothing may have files open.
    ///
    /// # Panics
    /// If something has.
    #[track_caller]
    pub fn power_on(&self) {
        // A program that another test starts at this moment has all files of this process until it is there.
        wait::until("the disk is let go", || {
            let ended = Command::new("umount").arg(&self.at).output().map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            if ended.status.success() { Ok(()) } else { Err(said) }
        });
        self.attach();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a program that still has files open goes on without a name for them.
        drop(Command::new("umount").arg("-l").arg(&self.at).output());
        if let Some(image) = &self.image {
            drop(fs::remove_file(image));
        }
    }
}
