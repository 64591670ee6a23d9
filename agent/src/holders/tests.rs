use std::{fmt::Write, path::Path};

use expect_test::{Expect, expect};
use weighbridge_meter::{BootId, DeviceState, Reading, Source, Tier, UtcMillis};

use super::*;
use crate::source::{Device, DeviceLook, SourceState};

/// 2026-01-31T08:00:00Z.
const START: i64 = 1_769_846_400_000;

fn at(seconds: i64) -> Now {
    let boot_ms = u64::try_from(seconds * 1000).expect("positive");
    Now { boot_ms, wall: UtcMillis(START + seconds * 1000) }
}

fn id(name: &str) -> AcceleratorId {
    name.parse().expect("a name")
}

/// Devices with their processes: `None` where they were not asked for.
fn look(devices: &[(&str, Option<&[u32]>)], found: bool) -> Look {
    let device = |name: &str| Device {
        id: id(name),
        pci_address: None,
        pci_device: None,
        name: "x".into(),
        max_sm_clock_mhz: None,
        power_limit_mw: None,
        memory_bytes: None,
        tier: Tier::D,
        source: Source::Simulated,
        driver: None,
        host: None,
        trust: None,
        parent: None,
        units: None,
        instance: None,
        sample_ms: 0,
        conditions: Vec::new(),
        present: true,
    };
    Look {
        devices: devices
            .iter()
            .map(|(name, pids)| DeviceLook {
                id: id(name),
                state: DeviceState::Read(Reading::default()),
                pids: pids.map(<[u32]>::to_vec),
                used: Vec::new(),
                machines: None,
            })
            .collect(),
        source_state: SourceState::Ok,
        inventory_changed: found.then(|| devices.iter().map(|(name, _)| device(name)).collect()),
        unidentified: 0,
    }
}

fn show(shown: &mut String, when: &str, holdings: &[Holding], changed: &[AcceleratorId]) {
    let seconds = |moment: UtcMillis| (moment.0 - START) / 1000;
    for holding in holdings {
        let list: Vec<&str> = holding.accelerators.iter().map(AcceleratorId::as_str).collect();
        writeln!(
            shown,
            "{when}: {} as {} holds {} {}..{} by {}",
            holding.principal,
            holding.attempt,
            list.join("+"),
            seconds(holding.span.start()),
            seconds(holding.span.end()),
            holding.evidence,
        )
        .expect("string");
    }
    if !changed.is_empty() {
        let list: Vec<&str> = changed.iter().map(AcceleratorId::as_str).collect();
        writeln!(shown, "{when}: cut {}", list.join("+")).expect("string");
    }
}

/// A folder like `/proc`, in which a test starts and ends processes.
struct Processes(tempfile::TempDir);

impl Processes {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// A process of this user in this group, begun so many seconds after boot.
    fn begin(&self, pid: u32, started: u64, uid: u32, group: &str) {
        let folder = self.0.path().join(pid.to_string());
        std::fs::create_dir_all(&folder).expect("made");
        let write = |file: &str, text: String| std::fs::write(folder.join(file), text).expect("written");
        write("stat", format!("{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {} 0 0\n", started * 100));
        write("status", format!("Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"));
        self.place(pid, group);
    }

    fn place(&self, pid: u32, group: &str) {
        let file = self.0.path().join(pid.to_string()).join("cgroup");
        std::fs::write(file, format!("0::{group}\n")).expect("written");
    }

    fn end(&self, pid: u32) {
        std::fs::remove_dir_all(self.0.path().join(pid.to_string())).expect("removed");
    }

    fn holders(&self) -> Holders {
        let options = ProcessOptions {
            proc: self.0.path().to_owned(),
            roots: cgroup::Roots::default(),
            cgroups: true,
            owners: true,
            host: "node1".into(),
            class: "gpu nodes".into(),
            slurm_cluster: "alpha".into(),
            kubernetes_cluster: "eu-1".into(),
            cloud: "cloud".into(),
            libvirt: "/nowhere".into(),
        };
        Holders::none().with(ProcessHolders::new(options, BootId([0xab; 16])).expect("names"))
    }
}

/// Holders and what they said.
struct Bench {
    holders: Holders,
    shown: String,
}

impl Bench {
    fn new(processes: &Processes) -> Self {
        Self { holders: processes.holders(), shown: String::new() }
    }

    /// Looks at A and B, and takes a batch at whole minutes.
    fn step(&mut self, seconds: i64, a: Option<&[u32]>, b: Option<&[u32]>) {
        let news = self.holders.look(at(seconds), &look(&[("A", a), ("B", b)], false));
        show(&mut self.shown, &seconds.to_string(), &news.holdings, &news.changed);
        if seconds % 60 == 0 {
            show(&mut self.shown, &format!("{seconds} batch"), &self.holders.confirm(), &[]);
        }
    }
}

#[test]
fn a_process_is_its_users_with_more_groups_than_fit_and_with_a_group_that_cannot_be_read() {
    let processes = Processes::new();
    processes.begin(1, 1, 1000, "/user.slice");
    let folder = processes.0.path().join("1");
    let groups: String = (100_000..104_000).map(|group| format!(" {group}")).collect();
    std::fs::write(folder.join("status"), format!("Name:\tx\nUid:\t1000\t0\t0\t0\nGroups:\t{groups}\n"))
        .expect("written");
    processes.begin(2, 1, 2000, "/");
    let cgroup = processes.0.path().join("2/cgroup");
    std::fs::write(&cgroup, vec![b'x'; 200 << 10]).expect("written");
    processes.begin(3, 1, 3000, "/");
    std::fs::remove_file(processes.0.path().join("3/cgroup")).expect("it was there");
    let options = ProcessOptions {
        proc: processes.0.path().to_owned(),
        roots: cgroup::Roots::default(),
        cgroups: true,
        owners: true,
        host: "node1".into(),
        class: "c".into(),
        slurm_cluster: "a".into(),
        kubernetes_cluster: "b".into(),
        cloud: "d".into(),
        libvirt: "/nowhere".into(),
    };
    let mut holders = ProcessHolders::new(options, BootId([0xab; 16])).expect("names");
    let found = [1, 2, 3].map(|pid| {
        let outcome = holders.find(1_000_000, pid);
        let who = outcome.who.map(|who| who.principal.to_string());
        format!("{}: {}", outcome.state.as_str(), who.unwrap_or_default())
    });
    assert_eq!(found, ["user: uid:c/1000", "unknown_cgroup: uid:c/2000", "gone: "]);
}

#[test]
fn users_hold_from_their_first_process_to_their_last_and_confirm_in_between() {
    let processes = Processes::new();
    for (pid, uid) in [(10, 1000), (11, 1000), (20, 2000)] {
        processes.begin(pid, 0, uid, "/");
    }
    let mut bench = Bench::new(&processes);
    bench.step(10, Some(&[10, 11]), Some(&[10]));
    bench.step(20, None, None); // Not asked.
    bench.step(50, Some(&[10, 666]), Some(&[10])); // The driver invents a process.
    bench.step(60, Some(&[11]), Some(&[10]));
    bench.step(70, Some(&[11, 20]), Some(&[])); // A second user here, nobody there.
    bench.step(80, Some(&[20]), Some(&[]));
    bench.step(120, Some(&[20]), Some(&[]));
    bench.step(200, Some(&[20]), Some(&[])); // Nothing heard for longer than a minute.
    bench.step(240, Some(&[20]), Some(&[]));
    expect![[r#"
        10: cut A+B
        60 batch: uid:gpu%20nodes/1000 as uid:gpu%20nodes/1000@abababababababababababababababab holds A+B 10..60 by process_owner
        70: cut A+B
        80: cut A
        120 batch: uid:gpu%20nodes/1000 as uid:gpu%20nodes/1000@abababababababababababababababab holds A 60..70 by process_owner
        120 batch: uid:gpu%20nodes/2000 as uid:gpu%20nodes/2000@abababababababababababababababab holds A 70..120 by process_owner
        240 batch: uid:gpu%20nodes/2000 as uid:gpu%20nodes/2000@abababababababababababababababab holds A 200..240 by process_owner
    "#]].assert_eq(&bench.shown);
}

#[test]
fn jobs_containers_and_services_hold_beside_each_other_and_one_process_speaks_for_one_of_them() {
    let processes = Processes::new();
    let container = format!("/system.slice/docker-{}.scope", "4a".repeat(32));
    processes.begin(10, 0, 1000, "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0");
    processes.begin(11, 0, 1000, "/system.slice/slurmstepd.scope/job_7/step_1/user/task_0");
    processes.begin(20, 0, 0, &container);
    processes.begin(30, 0, 990, "/system.slice/trainer.service");
    let mut bench = Bench::new(&processes);
    bench.step(10, Some(&[10, 11]), Some(&[20, 30]));
    bench.step(20, Some(&[11]), Some(&[20, 30]));
    bench.step(30, Some(&[]), Some(&[20]));
    bench.step(60, Some(&[]), Some(&[20]));
    assert_eq!(counts(&bench.holders), "container 1");
    expect![[r#"
        10: cut A+B
        30: cut A+B
        60 batch: slurm:alpha/%3F as slurm:alpha/7 holds A 10..20 by allocator_process
        60 batch: unit:node1/trainer.service as unit:node1/trainer.service@abababababababababababababababab holds B 10..20 by unit_process
        60 batch: container:node1/4a4a4a4a4a4a as container:node1/4a4a4a4a4a4a@abababababababababababababababab holds B 10..60 by container_process
    "#]].assert_eq(&bench.shown);
}

/// States and how many processes came to them.
fn counts(holders: &Holders) -> String {
    let counts = holders.states().processes.expect("asked");
    let named = ProcessState::ALL.iter().zip(counts).filter(|(_, count)| *count > 0);
    named.map(|(state, count)| format!("{} {count}", state.as_str())).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_number_that_is_given_to_another_process_is_another_holder() {
    let processes = Processes::new();
    processes.begin(10, 5, 1000, "/system.slice/slurmstepd.scope/job_7/step_0");
    let mut bench = Bench::new(&processes);
    bench.step(10, Some(&[10]), None);
    bench.step(12, Some(&[10]), None);
    // Within the time for which a group is believed.
    processes.end(10);
    processes.begin(10, 14, 1000, "/system.slice/slurmstepd.scope/job_8/step_0");
    bench.step(15, Some(&[10]), None);
    bench.step(18, Some(&[10]), None);
    // The one that was seen ended, and its number went to one that began after the look.
    processes.end(10);
    processes.begin(10, 21, 1000, "/system.slice/slurmstepd.scope/job_9/step_0");
    bench.step(20, Some(&[10]), None);
    // Seen, and ended before it was read.
    processes.end(10);
    bench.step(30, Some(&[10]), None);
    assert_eq!(counts(&bench.holders), "gone 1");
    bench.step(60, Some(&[]), None);
    expect![[r#"
        10: cut A
        15: cut A
        20: cut A
        60 batch: slurm:alpha/%3F as slurm:alpha/7 holds A 10..12 by allocator_process
        60 batch: slurm:alpha/%3F as slurm:alpha/8 holds A 15..18 by allocator_process
    "#]]
    .assert_eq(&bench.shown);
}

#[test]
fn a_process_that_is_moved_is_found_in_its_new_group_within_ten_seconds() {
    let processes = Processes::new();
    processes.begin(10, 0, 1000, "/system.slice/ssh.service");
    let mut bench = Bench::new(&processes);
    bench.step(10, Some(&[10]), None);
    processes.place(10, "/system.slice/slurmstepd.scope/job_7/step_extern/user/task_special");
    bench.step(15, Some(&[10]), None);
    bench.step(20, Some(&[10]), None);
    bench.step(60, Some(&[10]), None);
    expect![[r#"
        10: cut A
        20: cut A
        60 batch: uid:gpu%20nodes/1000 as uid:gpu%20nodes/1000@abababababababababababababababab holds A 10..15 by process_owner
        60 batch: slurm:alpha/%3F as slurm:alpha/7 holds A 20..60 by allocator_process
    "#]].assert_eq(&bench.shown);
}

/// What a scheduler's hook would know: nothing before a moment, then whose a job is and that it was begun again.
#[derive(Debug)]
struct Hook {
    from: i64,
    told: bool,
}

impl Witness for Hook {
    fn look(&mut self, seen: &Seen<'_>, _: &mut HolderNews) {
        self.told = seen.now.wall >= at(self.from).wall;
    }

    fn knows(&self, group: &Group, _: &AcceleratorId) -> Option<Knows> {
        let known = self.told && *group == Group::SlurmJob("7".into());
        known.then(|| Knows::As("slurm:alpha/physics".parse().unwrap(), "slurm:alpha/7+1".parse().unwrap()))
    }
}

#[test]
fn a_witness_that_knows_whose_a_group_is_names_the_holder_of_its_processes() {
    let processes = Processes::new();
    processes.begin(10, 0, 1000, "/system.slice/slurmstepd.scope/job_7/step_0");
    processes.begin(11, 0, 1000, "/system.slice/slurmstepd.scope/job_8/step_0");
    let mut bench = Bench::new(&processes);
    bench.holders.witnesses.insert(0, Box::new(Hook { from: 30, told: false }));
    for seconds in [10, 20, 30, 40, 60] {
        bench.step(seconds, Some(&[10, 11]), None);
    }
    expect![[r#"
        10: cut A
        30: cut A
        60 batch: slurm:alpha/%3F as slurm:alpha/7 holds A 10..20 by allocator_process
        60 batch: slurm:alpha/%3F as slurm:alpha/8 holds A 10..60 by allocator_process
        60 batch: slurm:alpha/physics as slurm:alpha/7+1 holds A 30..60 by allocator_process
    "#]]
    .assert_eq(&bench.shown);
}

#[test]
fn what_processes_came_to_is_forgotten_a_minute_after_they_were_last_named() {
    let processes = Processes::new();
    processes.begin(10, 0, 1000, "/process_api/1");
    processes.begin(11, 0, 1000, "/user.slice/user-1000.slice/session-1.scope");
    let mut holders = processes.holders();
    let mut look = |seconds, pids: Option<&[u32]>, b: Option<&[u32]>| {
        holders.look(at(seconds), &look(&[("A", pids), ("B", b)], false));
        counts(&holders)
    };
    assert_eq!(look(10, Some(&[10, 11]), Some(&[10, 12])), "user 1, unknown_cgroup 1, gone 1");
    assert_eq!(look(20, None, Some(&[])), "user 1, unknown_cgroup 1");
    assert_eq!(look(69, None, None), "user 1, unknown_cgroup 1");
    assert_eq!(look(80, None, None), "");
    // Each once, however often it was read.
    assert_eq!(look(90, Some(&[10]), None), "unknown_cgroup 1");
    assert_eq!(look(100, Some(&[10]), None), "unknown_cgroup 1");
    assert_eq!(holders.states().unresolved, 2, "and once more after it was forgotten");
}

#[test]
fn processes_beyond_a_limit_are_counted_and_hold_nothing() {
    let processes = Processes::new();
    let mut holders = processes.holders();
    let pids: Vec<u32> = (1..=5_000).collect();
    holders.look(at(10), &look(&[("A", Some(&pids))], false));
    assert_eq!(counts(&holders), "gone 4096, not_read 904");
}

const HEADER: &str = "lease,host,accelerator,principal,start,end\n";

/// Writes a file with another time stamp than before.
fn write_file(path: &Path, text: &str, version: u64) {
    std::fs::write(path, text).expect("written");
    let modified = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 + version);
    std::fs::File::options().write(true).open(path).expect("opens").set_modified(modified).expect("stamped");
}

#[test]
fn a_lease_is_recorded_once_and_again_when_the_file_changes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leases.csv");
    let mut holders = Holders::none().with(LeaseFile::new(path.clone(), "node1".into()));
    let mut shown = String::new();
    let mut step = |seconds: i64, found: bool| {
        let news = holders.look(at(seconds), &look(&[("A", None), ("B", None)], found));
        show(&mut shown, &seconds.to_string(), &news.holdings, &news.changed);
        holders.states().leases
    };
    let row = |lease: &str, host: &str, accelerator: &str, from: i64, to: i64| {
        format!("{lease},{host},{accelerator},lease:site/{lease},{},{}\n", at(from).wall, at(to).wall)
    };
    assert_eq!(step(0, true), LeaseState::Unreadable);
    let first = [
        HEADER,
        &row("all", "node1", "*", 0, 100),
        &row("next", "node1", "B", 100, 200),
        &row("other", "node2", "*", 0, 999),
        &row("unknown", "node1", "C", 0, 999),
    ]
    .concat();
    write_file(&path, &first, 1);
    assert_eq!(step(5, false), LeaseState::Unreadable, "it is looked at every ten seconds");
    assert_eq!(step(10, false), LeaseState::Ok);
    step(20, false);
    step(99, false);
    step(101, false); // One ends and another begins.
    write_file(&path, "nonsense", 2);
    assert_eq!(step(111, false), LeaseState::Malformed);
    // The running one is extended, and a new one is announced.
    let second =
        [HEADER, &row("next", "node1", "B", 100, 300), &row("later", "node1", "A", 500, 600)].concat();
    write_file(&path, &second, 3);
    assert_eq!(step(121, false), LeaseState::Ok);
    write_file(&path, HEADER, 4); // Both are taken back.
    step(131, false);
    expect![[r#"
        10: lease:site/all as all holds A+B 0..100 by lease_file
        10: lease:site/next as next holds B 100..200 by lease_file
        10: cut A+B
        101: cut A+B+B
        121: lease:site/next as next holds B 100..300 by lease_file
        121: lease:site/later as later holds A 500..600 by lease_file
        121: cut B
        131: lease:site/later as later holds A 500..500 by lease_file
        131: lease:site/next as next holds B 100..131 by lease_file
        131: cut A+B
    "#]]
    .assert_eq(&shown);
}

#[test]
fn leases_of_the_past_were_recorded_by_the_run_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leases.csv");
    let text = format!("{HEADER}old,node1,*,lease:site/old,{},{}\n", at(0).wall, at(10).wall);
    write_file(&path, &text, 1);
    let mut holders = Holders::none().with(LeaseFile::new(path, "node1".into()));
    assert_eq!(holders.look(at(20), &look(&[("A", None)], true)), HolderNews::default());
}

#[test]
fn a_bad_row_is_named_with_line_column_and_expectation() {
    let check = |row: &str, expected: Expect| {
        let good = "a,node2,*,lease:x/a,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z\n";
        let error = parse_leases(&[HEADER, good, row, "\n"].concat(), "node1").unwrap_err();
        expected.assert_eq(&error.to_string());
    };
    check(
        "a b,n,*,lease:x/a,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z",
        expect![[
            r#"lease file, line 3, column lease: "a b" is not 1 to 180 printable characters without blanks"#
        ]],
    );
    check(
        "b,n,GPU 0,lease:x/a,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z",
        expect![[r#"lease file, line 3, column accelerator: "GPU 0" is not an accelerator id or *"#]],
    );
    check(
        "b,n,*,somebody,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z",
        expect![[
            r#"lease file, line 3, column principal: "somebody" is not a principal such as slurm:cluster/account"#
        ]],
    );
    check(
        "b,n,*,lease:x/a,today,2026-01-02T00:00:00Z",
        expect![[
            r#"lease file, line 3, column start: "today" is not an RFC 3339 time such as 2026-01-31T08:00:00Z"#
        ]],
    );
    check(
        "b,n,*,lease:x/a,2026-01-02T00:00:00Z,2026-01-01T00:00:00Z",
        expect![[r#"lease file, line 3, column end: "2026-01-01T00:00:00Z" is not after the start"#]],
    );
    check(
        "b,n,*",
        expect![[
            r#"lease file, line 3, column (all): "CSV error: record 2 (line: 3, byte: 105): found record with 3 fields, but the previous record has 6 fields" is not a row with the columns lease,host,accelerator,principal,start,end"#
        ]],
    );
    let twice = "b,node1,*,lease:x/a,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z";
    check(
        &format!("{twice}\n{twice}"),
        expect![[r#"lease file, line 4, column lease: "b" is not unique for its host and accelerator"#]],
    );
}

#[test]
fn what_a_holder_used_is_told_by_the_attempt_under_which_it_holds() {
    let processes = Processes::new();
    for (pid, job) in [(10, 7), (12, 8)] {
        processes.begin(pid, 0, 1000, &format!("/system.slice/slurmstepd.scope/job_{job}/step_0"));
    }
    let mut holders = processes.holders();
    holders.witnesses.insert(0, Box::new(Hook { from: 0, told: false }));
    let mut seen = look(&[("A", Some(&[10, 12]))], true);
    seen.devices[0].used = vec![(10, 5), (12, 6)];
    let told = holders.look(at(10), &seen).used;
    let told: Vec<_> = told.iter().map(|(_, told)| (told.attempt.as_str(), told.busy_us)).collect();
    assert_eq!(told, [("slurm:alpha/7+1", 5), ("slurm:alpha/8", 6)]);
}

#[test]
fn what_several_holders_used_is_told_by_their_attempts_and_nothing_where_one_is_alone() {
    let processes = Processes::new();
    for (pid, job) in [(10, 7), (11, 7), (12, 8)] {
        processes.begin(pid, 0, 1000, &format!("/system.slice/slurmstepd.scope/job_{job}/step_0"));
    }
    let mut holders = processes.holders();
    let used = vec![(10, 1_000), (11, 200), (12, 30), (99, 4)];
    let mut seen = look(&[("A", Some(&[10, 11, 12, 99])), ("B", Some(&[10, 11]))], true);
    seen.devices.iter_mut().for_each(|device| device.used.clone_from(&used));
    let told = holders.look(at(10), &seen).used;
    let told: Vec<_> =
        told.iter().map(|(id, told)| (id.as_str(), told.attempt.as_str(), told.busy_us)).collect();
    let expected = [("A", "slurm:alpha/7", 1_000), ("A", "slurm:alpha/7", 200), ("A", "slurm:alpha/8", 30)];
    assert_eq!(told, expected);
}
