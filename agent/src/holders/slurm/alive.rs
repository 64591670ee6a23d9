//! Whether what ends an allocation is still there: slurmd, which runs the epilog, and the processes of the job.
//!
//! While slurmd of the node runs, an allocation without processes is one all the same, as of a person who thinks
//! between two steps. Where slurmd was killed, nobody tells the end: then the processes are what is left. Each step
//! has a `slurmstepd` that belongs to root and says in its title whose it is, and where Slurm makes cgroups, the
//! job's own holds its processes.
//!
//! Anybody who is root in a container can call a process what Slurm's are called. So they are believed only where
//! Slurm's are: in no container, no pod, no virtual machine and in nobody's session but root's own.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use super::super::cgroup::{self, Group, Person, Placed, Roots};

/// Slurm's processes at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The nodes of which slurmd runs; one that was not told its node's name stands for all.
    daemons: Vec<Option<String>>,
    /// Jobs that have a step.
    jobs: HashSet<u64>,
    /// Whether the processes of the whole host can be seen.
    whole_host: bool,
}

/// Processes that are looked at, of a host that has more.
const MOST: usize = 1 << 17;

/// Deeper than Slurm's cgroups are.
const DEEPEST: usize = 5;

/// Reads the processes that are there. `proc` is `/proc`.
pub(super) fn look(proc: &Path) -> Seen {
    let mut seen = Seen::default();
    for process in fs::read_dir(proc).into_iter().flatten().flatten().take(MOST) {
        let name = process.file_name();
        if !name.as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        let path = process.path();
        let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
        match comm.trim_end() {
            // A thread of the kernel: nobody has hidden this host's processes from us.
            "kthreadd" => seen.whole_host = true,
            "slurmd" if is_of_root(&path) && !is_inside(&path) => {
                let words = words(&path);
                let name = words.windows(2).find(|pair| pair[0] == "-N").map(|pair| pair[1].clone());
                seen.daemons.push(name);
            }
            "slurmstepd" if is_of_root(&path) && !is_inside(&path) => {
                // `slurmstepd: [15.batch]`, all of it one word or several.
                let title = words(&path).join(" ");
                let job = title.split_once('[').and_then(|(_, step)| step.split(['.', ']']).next());
                seen.jobs.extend(job.and_then(|job| job.parse::<u64>().ok()));
            }
            _ => {}
        }
    }
    seen.whole_host |= !seen.daemons.is_empty() || !seen.jobs.is_empty();
    seen
}

impl Seen {
    /// Whether slurmd of this node runs.
    pub(super) fn daemon(&self, node: &str) -> bool {
        self.daemons.iter().any(|name| name.as_ref().is_none_or(|name| name == node))
    }

    /// Whether a job has processes: by a step, or by its cgroup below `cgroups`, `/sys/fs/cgroup`.
    pub(super) fn job(&self, job: u64, sluid: Option<&str>, cgroups: &Path) -> bool {
        self.jobs.contains(&job) || has_cgroup(job, sluid, cgroups)
    }

    /// Whether that neither is there says that they are gone, and not that they are hidden.
    pub(super) fn is_whole(&self) -> bool {
        self.whole_host
    }
}

/// By the user that it runs as: who owns its folder is another matter.
fn is_of_root(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    let mut uids = uids.split_whitespace().peekable();
    uids.peek().is_some() && uids.all(|uid| uid == "0")
}

/// Whether it lies in what is given to others. A step's own processes lie in the job.
fn is_inside(process: &Path) -> bool {
    let file = fs::read(process.join("cgroup")).unwrap_or_default();
    match cgroup::read(&file, &Roots::default()) {
        Placed::In(group) => match group {
            Group::Container(_) | Group::Pod { .. } | Group::Machine { .. } => true,
            Group::Person(Person::Login) => true,
            Group::Person(Person::Slice(uid)) => uid != 0,
            Group::Person(Person::Owner) | Group::SlurmJob(_) | Group::Unit(_) => false,
        },
        Placed::Contradictory(_) => true,
        Placed::Nowhere | Placed::Unknown(..) => false,
    }
}

fn words(process: &Path) -> Vec<String> {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Whether a cgroup that Slurm made for the job holds a process.
fn has_cgroup(job: u64, sluid: Option<&str>, root: &Path) -> bool {
    let by_number = format!("job_{job}");
    let names = [Some(by_number.as_str()), sluid];
    let starts_so = |path: &Path, begin: &str, end: &str| -> Vec<PathBuf> {
        let inside = fs::read_dir(path).into_iter().flatten().flatten();
        let fits = inside.filter(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| name.starts_with(begin) && name.ends_with(end))
        });
        fits.map(|entry| entry.path()).collect()
    };
    // v2: <slice>/[<node>_]slurmstepd.scope/<job>; v1: <controller>/slurm[_<node>]/uid_<n>/<job>.
    let mut above: Vec<PathBuf> = Vec::new();
    above.extend(
        starts_so(root, "", ".slice").iter().flat_map(|slice| starts_so(slice, "", "slurmstepd.scope")),
    );
    for controller in ["freezer", "devices", "memory", "cpuset", "pids"] {
        let of_slurm = starts_so(&root.join(controller), "slurm", "");
        above.extend(of_slurm.iter().flat_map(|slurm| starts_so(slurm, "uid_", "")));
    }
    let jobs = above.iter().flat_map(|above| names.iter().flatten().map(|name| above.join(name)));
    let mut jobs = jobs.filter(|job| job.is_dir());
    jobs.any(|job| holds_process(&job, 0))
}

fn holds_process(cgroup: &Path, depth: usize) -> bool {
    let here = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    if !here.trim().is_empty() {
        return true;
    }
    let below = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let mut below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    depth < DEEPEST && below.any(|entry| holds_process(&entry.path(), depth + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(root: &Path, id: u32, comm: &str, cmdline: &str, uid: u32) {
        let folder = root.join(id.to_string());
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("comm"), format!("{comm}\n")).expect("written");
        fs::write(folder.join("cmdline"), cmdline.replace(' ', "\0")).expect("written");
        let status = format!("Name:\t{comm}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n");
        fs::write(folder.join("status"), status).expect("written");
    }

    #[test]
    fn a_daemon_stands_for_its_node_and_a_step_for_its_job() {
        let dir = tempfile::tempdir().expect("a folder");
        process(dir.path(), 10, "slurmd", "slurmd -D -N gpu1", 0);
        process(dir.path(), 11, "slurmstepd", "slurmstepd: [15.batch]", 0);
        process(dir.path(), 12, "slurmstepd", "slurmstepd: [16.0]", 1000);
        process(dir.path(), 13, "slurmd", "slurmd -N gpu9", 1000);
        let seen = look(dir.path());
        assert_eq!([seen.daemon("gpu1"), seen.daemon("gpu2"), seen.daemon("gpu9")], [true, false, false]);
        let job = |job| seen.job(job, None, "/nonexistent".as_ref());
        assert_eq!([job(15), job(16), job(1)], [true, false, false], "what a user calls so is none");
        process(dir.path(), 14, "slurmd", "slurmd -D", 0);
        assert!(look(dir.path()).daemon("gpu2"), "one without a name is the only one");
    }

    #[test]
    fn root_in_a_container_or_in_somebodys_session_is_no_slurm() {
        let id = "0123456789abcdef".repeat(4);
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        for (group, believed) in [
            ("/system.slice/slurmd.service".to_owned(), true),
            ("/system.slice/slurmstepd.scope/job_15/step_batch/slurm".to_owned(), true),
            ("/slurm/system".to_owned(), true),
            ("/".to_owned(), true),
            ("/user.slice/user-0.slice/session-1.scope".to_owned(), true),
            ("/user.slice/user-1000.slice/session-1.scope".to_owned(), false),
            (format!("/system.slice/docker-{id}.scope"), false),
            (format!("/machine.slice/libpod-{id}.scope"), false),
            (format!("/kubepods/burstable/pod{uuid}/{id}"), false),
        ] {
            let dir = tempfile::tempdir().expect("a folder");
            process(dir.path(), 10, "slurmd", "slurmd", 0);
            process(dir.path(), 11, "slurmstepd", "slurmstepd: [15.batch]", 0);
            for id in ["10", "11"] {
                fs::write(dir.path().join(id).join("cgroup"), format!("0::{group}\n")).expect("written");
            }
            let seen = look(dir.path());
            let found = (seen.daemon("n"), seen.job(15, None, "/nonexistent".as_ref()));
            assert_eq!(found, (believed, believed), "{group}");
        }
    }

    #[test]
    fn what_can_be_hidden_is_not_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        process(dir.path(), 1, "weighbridge-agen", "weighbridge-agent run", 0);
        assert!(!look(dir.path()).is_whole());
        process(dir.path(), 2, "kthreadd", "", 0);
        assert!(look(dir.path()).is_whole());
    }

    #[test]
    fn a_cgroup_of_the_job_counts_where_a_process_is_in_it() {
        let shapes = [
            "freezer/slurm_gpu1/uid_1000/job_7/step_batch",
            "memory/slurm/uid_0/job_7/step_0/task_0",
            "system.slice/slurmstepd.scope/job_7/step_batch/user/task_0",
            "system.slice/gpu1_slurmstepd.scope/s0123456789abc/step_batch/user",
        ];
        for shape in shapes {
            let dir = tempfile::tempdir().expect("a folder");
            let (cgroups, leaf) = (dir.path(), dir.path().join(shape));
            fs::create_dir_all(&leaf).expect("a folder");
            let seen = Seen::default();
            let there = || seen.job(7, Some("s0123456789abc"), cgroups);
            fs::write(leaf.join("cgroup.procs"), "").expect("written");
            assert!(!there(), "{shape} is empty");
            fs::write(leaf.join("cgroup.procs"), "4711\n").expect("written");
            assert!(there(), "{shape}");
            assert!(!seen.job(8, None, cgroups), "{shape}");
        }
    }
}
