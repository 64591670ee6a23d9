//! What can be known here of who holds what, and what each missing right costs in certainty.

use std::{fs, io, path::Path};

use weighbridge_meter::{BootId, Evidence};

use super::Diagnosis;
use crate::{
    clock::Clock,
    config::Config,
    holders::{
        Outcome, ProcessHolders, ProcessOptions, ProcessState,
        libvirt::{FolderState, Libvirt, MOST_FILES, MachineState, Refusal},
    },
    run::libvirt_options,
    source::Device,
};

/// `pids` are those that the source named in one look; `None` if it names none. `now_ms` is after that look.
pub(super) fn examine(
    config: &Config,
    pids: Option<&[u32]>,
    boot: BootId,
    now_ms: u64,
    found: &mut Diagnosis,
) {
    if config.lease_file.is_none() {
        found.note("no lease file: whole hosts that are leased out are known from the collector alone");
    }
    let Some(options) = &config.processes else {
        return found.note(
            "processes are not asked for their holders (holders.cgroups, holders.process_owners): what no lease \
             or scheduler's record covers is unattributed",
        );
    };
    groups(options, found);
    processes(options, pids.is_some(), found);
    match ProcessHolders::new(options.clone(), boot) {
        Ok(mut holders) => resolved(&mut holders, pids, now_ms, found),
        Err(error) => found.fail(format!("holders of processes have no names: {error}")),
    }
}

/// Which cgroups there are, by the agent's own.
fn groups(options: &ProcessOptions, found: &mut Diagnosis) {
    if !options.cgroups {
        return found
            .note("cgroups are not asked (holders.cgroups): jobs, pods and containers show as users");
    }
    let file = options.proc.join("self/cgroup");
    match fs::read(&file) {
        Ok(text) => match version(&text) {
            Some(version) => found.good(format!("cgroups: {version}")),
            None => found.fail("cgroups: none; jobs, pods and containers show as users"),
        },
        Err(error) => found.fail(format!(
            "cgroups: cannot read {}: {error}; jobs, pods and containers show as users",
            file.display()
        )),
    }
}

/// In words: the lines of a process name the hierarchies there are.
fn version(file: &[u8]) -> Option<&'static str> {
    let lines = || file.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let unified = lines().any(|line| line.starts_with(b"0::"));
    let separate = lines().any(|line| !line.starts_with(b"0::"));
    match (separate, unified) {
        (false, false) => None,
        (false, true) => Some("v2"),
        (true, false) => Some("v1"),
        (true, true) => Some("hybrid, v1 hierarchies beside v2"),
    }
}

/// Whether processes of others can be seen. That they cannot is nothing wrong where none are named.
fn processes(options: &ProcessOptions, named: bool, found: &mut Diagnosis) {
    let bad = if named { Diagnosis::fail } else { Diagnosis::note };
    let proc = &options.proc;
    let shown = proc.display();
    // Threads of the kernel have numbers in the host's own namespace only.
    let hosts = fs::read(proc.join("2/stat")).is_ok_and(|stat| stat.starts_with(b"2 (kthreadd)"));
    let hidden = hidepid(proc);
    match fs::read(proc.join("1/stat")).and_then(|_| fs::read(proc.join("1/cgroup"))) {
        Ok(_) if hosts => found.good(format!("processes of others can be read in {shown}")),
        Ok(_) => bad(
            found,
            format!(
                "processes in {shown} are those of a container and not of the host: no process that a driver names is \
             found there. Run the agent in the host's pid namespace, or mount the host's /proc and set \
             holders.proc; until then time is unattributed that no lease or scheduler's record covers"
            ),
        ),
        Err(error) => {
            let why = match &hidden {
                Some(option) => format!("it is mounted with {option}, and this user is not exempt"),
                None => error.to_string(),
            };
            bad(
                found,
                format!(
                    "processes of others cannot be read in {shown}: {why}. Jobs, pods, containers, services and users are \
                 not known by their processes; time is unattributed that no lease or scheduler's record covers. Run \
                 the agent as root, in the group that the mount's gid= names, or with CAP_SYS_PTRACE"
                ),
            );
        }
    }
    match fs::read_dir(proc.join("1/fd")) {
        Ok(_) => found.good("open files of others can be read"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found.note(
            "open files of others cannot be read (no CAP_SYS_PTRACE): costs nothing where the driver itself names \
             the processes that have a device open; of devices bound to vfio, only what libvirt tells is known",
        ),
        // Said already: there is nobody to be seen.
        Err(_) => {}
    }
}

/// The option that hides processes, as the system writes it.
fn hidepid(proc: &Path) -> Option<String> {
    let mounts = fs::read_to_string(proc.join("self/mounts")).ok()?;
    hidepid_of(&mounts, proc)
}

fn hidepid_of(mounts: &str, proc: &Path) -> Option<String> {
    // The last mount on a folder is the one that shows.
    let options = mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        let kind = fields.next()?;
        fields.next().filter(|_| kind == "proc" && Path::new(at) == proc)
    })?;
    let option = options.split(',').find(|option| option.starts_with("hidepid="))?;
    (!["hidepid=0", "hidepid=off"].contains(&option)).then(|| option.to_owned())
}

/// Virtual machines are found by libvirt's state.
pub(super) fn machines(config: &Config, clock: &dyn Clock, devices: &[Device], found: &mut Diagnosis) {
    let Some(options) = libvirt_options(config, true) else {
        return found.note("libvirt is not asked for its machines (holders.libvirt)");
    };
    let shown = options.folder.display().to_string();
    let mut libvirt = match Libvirt::new(options, clock.boot()) {
        Ok(libvirt) => libvirt,
        Err(error) => return found.fail(format!("libvirt's machines have no names: {error}")),
    };
    libvirt.examine(clock.now(), devices);
    let state = libvirt.state();
    let without = "a machine is known by its number on this host and not by the UUID in the cloud's records, so its \
                   time stays without a project; what it was given but no driver sees is nobody's";
    match state.folder {
        FolderState::Unused => return found.note(format!("libvirt {shown}: not there; no machines of it")),
        FolderState::Unreadable => {
            return found.fail(format!("libvirt {shown}: cannot be read; {without}. Run the agent as root"));
        }
        FolderState::Unsafe => {
            return found.fail(format!(
                "libvirt {shown}: others than root can write to it, so nothing in it is believed; {without}"
            ));
        }
        FolderState::Crowded => {
            found.fail(format!("libvirt {shown}: more than {MOST_FILES} machines are in it"));
        }
        FolderState::Ok => {}
    }
    let count = |state_of: MachineState| state.machines.get(&state_of).copied().unwrap_or(0);
    let all: usize = state.machines.values().sum();
    let having = count(MachineState::Named) + count(MachineState::Untold) + count(MachineState::Unclear);
    found.good(format!(
        "libvirt {shown}: {all} machines, of which {having} have {} accelerators or parts of them",
        state.accelerators
    ));
    for (refusal, count) in &state.refused {
        let why = match refusal {
            Refusal::Unreadable => {
                format!(
                    "for root alone to read; {without}. Run the agent as root or with CAP_DAC_READ_SEARCH"
                )
            }
            Refusal::Foreign => "not believed: others than root can write them".to_owned(),
            Refusal::Huge | Refusal::Malformed => "no state of a machine that can be understood".to_owned(),
        };
        found.fail(format!("libvirt {shown}: {count} files are {why}"));
    }
    for (state_of, why) in [
        (
            MachineState::Untold,
            "have no OpenStack project in their metadata: their time is unattributed until a lease says whose it is",
        ),
        (MachineState::Unclear, "name several projects in their metadata, or none that can be one"),
        (MachineState::Gone, "have a file and no process any more: they hold nothing"),
    ] {
        if count(state_of) > 0 {
            found.note(format!("{} machines {why}", count(state_of)));
        }
    }
    if state.split > 0 {
        found.note(format!(
            "{} parts of accelerators that MIG or partitions split are given to machines, and it is not known which: \
             the time of these parts is nobody's by this evidence",
            state.split
        ));
    }
    if let Some(example) = libvirt.example() {
        found.line("     ", example);
    }
}

/// What the processes of one look come to, and one of them as an example.
fn resolved(holders: &mut ProcessHolders, pids: Option<&[u32]>, now_ms: u64, found: &mut Diagnosis) {
    let Some(pids) = pids else {
        found.note("the source names no processes: holders are known from leases and schedulers alone");
        return example("this process would be one", std::process::id(), holders, now_ms, found);
    };
    let outcomes: Vec<(u32, Outcome)> = pids.iter().map(|&pid| (pid, holders.find(now_ms, pid))).collect();
    let count = |state: ProcessState| outcomes.iter().filter(|(_, outcome)| outcome.state == state).count();
    let named: Vec<String> = ProcessState::ALL
        .iter()
        .filter(|state| count(**state) > 0)
        .map(|state| format!("{} {}", count(*state), state.as_str()))
        .collect();
    if pids.is_empty() {
        found.note("no process has an accelerator open now");
        return example("this process would be one", std::process::id(), holders, now_ms, found);
    }
    let known = outcomes.iter().filter(|(_, outcome)| outcome.who.is_some()).count();
    let text = format!(
        "{known} of {} processes with an accelerator open name a holder: {}",
        pids.len(),
        named.join(", ")
    );
    if count(ProcessState::Unreadable) > 0 {
        found.fail(text);
    } else if known < pids.len() {
        found.note(text);
    } else {
        found.good(text);
    }
    for (state, why) in [
        (
            ProcessState::Gone,
            "ended meanwhile, are hidden from this user, or lie in another pid namespace: they hold nothing",
        ),
        (ProcessState::Unreadable, "are not for this user to read: they hold nothing"),
        (ProcessState::UnknownCgroup, "lie in cgroups of an unknown shape: only their users are taken"),
        (
            ProcessState::ContradictoryCgroup,
            "lie in cgroups that exclude each other: only their users are taken",
        ),
    ] {
        let Some((pid, _)) = outcomes.iter().find(|(_, outcome)| outcome.state == state) else { continue };
        found.note(format!("{} of them {why}; process {pid} is one", count(state)));
    }
    let best = outcomes
        .iter()
        .filter_map(|(pid, outcome)| Some((outcome.who.as_ref()?.evidence.rank(), *pid)))
        .min();
    if let Some((_, pid)) = best {
        example("for example", pid, holders, now_ms, found);
    }
}

fn example(intro: &str, pid: u32, holders: &mut ProcessHolders, now_ms: u64, found: &mut Diagnosis) {
    let outcome = holders.find(now_ms, pid);
    let Some(who) = &outcome.who else { return };
    let better = match who.evidence {
        Evidence::AllocatorProcess if who.principal.is_unknown() => {
            "; whose that is, a record of the scheduler has to say"
        }
        Evidence::ContainerProcess | Evidence::UnitProcess | Evidence::ProcessOwner => {
            "; any lease or allocator says it better"
        }
        _ => "",
    };
    let state = outcome.state.as_str();
    found.line(
        "     ",
        format!(
            "{intro}: process {pid} -> {state} -> {} in attempt {}, by {}{better}",
            who.principal, who.attempt, who.evidence
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchies_of_a_process_tell_the_version() {
        for (file, said) in [
            ("0::/x\n", Some("v2")),
            ("2:cpu:/\n1:name=systemd:/\n", Some("v1")),
            ("1:name=systemd:/\n0::/\n", Some("hybrid, v1 hierarchies beside v2")),
            ("", None),
        ] {
            assert_eq!(version(file.as_bytes()), said, "{file}");
        }
    }

    #[test]
    fn the_last_mount_of_a_folder_says_whether_processes_are_hidden() {
        let of = |mounts: &str| hidepid_of(mounts, Path::new("/proc"));
        assert_eq!(
            of("proc /proc proc rw,hidepid=invisible,gid=5 0 0\n").as_deref(),
            Some("hidepid=invisible")
        );
        assert_eq!(of("proc /proc proc rw,hidepid=2 0 0\nproc /proc proc rw 0 0\n"), None);
        assert_eq!(of("proc /proc proc rw 0 0\nproc /other proc rw,hidepid=2 0 0\n"), None);
        assert_eq!(of("proc /proc proc rw,hidepid=off 0 0\nnonsense\n"), None);
    }
}
