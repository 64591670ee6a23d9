use std::{fmt::Write, os::unix::fs::PermissionsExt};

use expect_test::{Expect, expect};
use weighbridge_meter::{Source, Tier};

use super::{told::VERSION, *};
use crate::source::SourceState;

/// 2026-01-31T08:00:00Z.
const START: i64 = 1_769_846_400_000;

/// The host has been up so long by then.
const UP_MS: u64 = 1_000_000;

const BOOT: BootId = BootId([0xab; 16]);

fn at(seconds: i64) -> Now {
    let boot_ms = UP_MS + u64::try_from(seconds * 1000).expect("positive");
    Now { boot_ms, wall: UtcMillis(START + seconds * 1000) }
}

fn devices() -> Vec<Device> {
    ["GPU-a", "GPU-b", "GPU-c"]
        .map(|id| Device::new(id.parse().expect("a name"), "x", Source::Nvml, Tier::B))
        .to_vec()
}

/// A host with its folder, its processes and one witness after the other.
struct Node {
    dir: tempfile::TempDir,
    hooks: SlurmHooks,
    first: bool,
    shown: String,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("hooks");
        fs::create_dir_all(&folder).expect("a folder");
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).expect("ours");
        let hooks = Self::witness(dir.path(), BOOT);
        let node = Self { dir, hooks, first: true, shown: String::new() };
        node.process(2, "kthreadd", "");
        node.process(9, "slurmd", "slurmd -N n");
        node
    }

    fn witness(dir: &Path, boot: BootId) -> SlurmHooks {
        let options = SlurmOptions::of_host(dir.join("hooks"), Some(boot));
        SlurmHooks::new(SlurmOptions { proc: dir.join("proc"), cgroups: dir.join("cgroups"), ..options })
    }

    /// The agent is started anew.
    fn restart(&mut self, boot: BootId) {
        self.hooks = Self::witness(self.dir.path(), boot);
        self.first = true;
    }

    fn process(&self, id: u32, comm: &str, line: &str) {
        let folder = self.dir.path().join("proc").join(id.to_string());
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("comm"), comm).expect("written");
        fs::write(folder.join("cmdline"), line.replace(' ', "\0")).expect("written");
        fs::write(folder.join("status"), "Uid:\t0\t0\t0\t0\n").expect("written");
    }

    fn gone(&self, id: u32) {
        fs::remove_dir_all(self.dir.path().join("proc").join(id.to_string())).expect("it was there");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("hooks").join(name)
    }

    fn told(&self, job: u64, gpus: &str, began: i64, ended: Option<i64>) -> Told {
        Told {
            version: VERSION,
            cluster: "c".into(),
            job,
            sluid: None,
            restart: 0,
            account: Some("physics".into()),
            uid: Some(1000),
            node: "n".into(),
            gpus: gpus.into(),
            boot: BOOT,
            began: at(began).into(),
            ended: ended.map(|ended| at(ended).into()),
        }
    }

    fn prolog(&self, job: u64, gpus: &str, began: i64) {
        self.write(&self.told(job, gpus, began, None));
    }

    fn epilog(&self, job: u64, gpus: &str, began: i64, ended: i64) {
        self.write(&self.told(job, gpus, began, Some(ended)));
        drop(fs::remove_file(self.path(&(self.told(job, gpus, began, None).name() + OPEN))));
    }

    fn write(&self, told: &Told) {
        let name = told.name() + if told.ended.is_some() { ENDED } else { OPEN };
        let text = serde_json::to_vec(told).expect("JSON");
        fs::write(self.path(".fresh"), text).expect("written");
        fs::set_permissions(self.path(".fresh"), PermissionsExt::from_mode(0o644)).expect("ours");
        fs::rename(self.path(".fresh"), self.path(&name)).expect("moved");
    }

    /// A look, and a batch at whole minutes.
    fn step(&mut self, seconds: i64) {
        let found = self.first.then(devices);
        self.first = false;
        let look = Look {
            devices: Vec::new(),
            source_state: SourceState::Ok,
            inventory_changed: found,
            unidentified: 0,
        };
        let mut news = HolderNews::default();
        self.hooks.take(at(seconds), &look, &mut news);
        if !news.changed.is_empty() {
            let list: Vec<&str> = news.changed.iter().map(AcceleratorId::as_str).collect();
            writeln!(self.shown, "{seconds}: cut {}", list.join("+")).expect("string");
        }
        if seconds % 60 == 0 {
            for holding in self.hooks.confirm() {
                let relative = |moment: UtcMillis| (moment.0 - START) / 1000;
                let list: Vec<&str> = holding.accelerators.iter().map(AcceleratorId::as_str).collect();
                let Holding { principal, attempt, span, evidence, .. } = &holding;
                let (from, to) = (relative(span.start()), relative(span.end()));
                let list = list.join("+");
                writeln!(
                    self.shown,
                    "{seconds}: {attempt} of {principal} holds {list} {from}..{to} by {evidence}"
                )
                .expect("string");
            }
        }
    }

    fn check(&self, expected: Expect) {
        expected.assert_eq(&self.shown);
    }
}

#[test]
fn an_allocation_holds_from_its_prolog_to_its_epilog_and_is_confirmed_in_between() {
    let mut node = Node::new();
    node.step(0);
    node.prolog(7, "0,2", 3);
    node.step(5);
    node.step(60);
    node.prolog(8, "GPU-b", 70);
    node.step(75);
    node.epilog(7, "0,2", 3, 80);
    node.step(85);
    node.step(120);
    node.epilog(8, "GPU-b", 70, 119);
    node.step(125);
    node.step(180);
    node.step(240);
    node.check(expect![[r#"
        5: cut GPU-a+GPU-c
        60: slurm:c/7 of slurm:c/physics holds GPU-a+GPU-c 3..60 by scheduler_hook
        75: cut GPU-b
        85: cut GPU-a+GPU-c
        120: slurm:c/7 of slurm:c/physics holds GPU-a+GPU-c 60..80 by scheduler_hook
        120: slurm:c/8 of slurm:c/physics holds GPU-b 70..120 by scheduler_hook
        125: cut GPU-b
    "#]]);
    assert_eq!(node.hooks.state(), SlurmState { folder: FolderState::Ok, ..SlurmState::default() });
}

#[test]
fn a_start_after_the_first_and_a_name_of_its_own_are_other_attempts() {
    let node = Node::new();
    let told = |restart, sluid: Option<&str>, account: Option<&str>, cluster: &str| {
        let told = Told {
            restart,
            sluid: sluid.map(str::to_owned),
            account: account.map(str::to_owned),
            cluster: cluster.into(),
            ..node.told(7, "0", 0, None)
        };
        format!("{} of {}", told.attempt().expect("a name"), told.principal().expect("a name"))
    };
    assert_eq!(told(2, None, Some("physics"), "c"), "slurm:c/7+2 of slurm:c/physics");
    assert_eq!(told(2, Some("s0123456789abc"), Some("a b"), "c"), "slurm:c/s0123456789abc of slurm:c/a%20b");
    assert_eq!(told(0, None, None, "my cluster"), "slurm:my%20cluster/7 of slurm:my%20cluster/%3F");
}

#[test]
fn without_slurmd_the_processes_of_the_job_decide_and_what_ended_stays_over() {
    let mut node = Node::new();
    node.prolog(7, "0", 0);
    node.prolog(8, "1", 0);
    node.process(20, "slurmstepd", "slurmstepd: [8.batch]");
    node.step(0);
    node.step(60);
    node.gone(9);
    node.step(70);
    assert_eq!((node.hooks.state().open, node.hooks.state().lapsed), (1, 1));
    node.step(120);
    node.gone(20);
    node.step(130);
    node.step(180);
    // It is back, and runs the epilogs.
    node.process(9, "slurmd", "slurmd -N n");
    node.epilog(7, "0", 0, 200);
    node.epilog(8, "1", 0, 200);
    node.step(210);
    node.step(240);
    node.check(expect![[r#"
        0: cut GPU-a+GPU-b
        60: slurm:c/7 of slurm:c/physics holds GPU-a 0..60 by scheduler_hook
        60: slurm:c/8 of slurm:c/physics holds GPU-b 0..60 by scheduler_hook
        70: cut GPU-a
        120: slurm:c/8 of slurm:c/physics holds GPU-b 60..120 by scheduler_hook
        130: cut GPU-b
    "#]]);
}

#[test]
fn what_turns_out_to_be_over_when_a_batch_is_made_cuts_its_windows_at_the_next_look() {
    let mut node = Node::new();
    node.prolog(7, "0", 0);
    node.step(0);
    node.step(55);
    node.gone(9);
    // Too soon to look again; the batch does.
    node.step(60);
    node.step(61);
    node.check(expect![[r#"
        0: cut GPU-a
        60: slurm:c/7 of slurm:c/physics holds GPU-a 0..55 by scheduler_hook
        61: cut GPU-a
    "#]]);
}

#[test]
fn where_the_host_hides_its_processes_the_epilog_alone_ends() {
    let mut node = Node::new();
    node.gone(9);
    node.gone(2);
    node.prolog(7, "0", 0);
    node.step(0);
    node.step(120);
    node.check(expect![[r#"
        0: cut GPU-a
        120: slurm:c/7 of slurm:c/physics holds GPU-a 0..120 by scheduler_hook
    "#]]);
}

#[test]
fn an_agent_that_is_started_anew_goes_on_and_learns_what_ended_meanwhile() {
    let mut node = Node::new();
    node.prolog(7, "0", 5);
    node.prolog(8, "1", 5);
    node.step(10);
    node.restart(BOOT);
    node.epilog(8, "1", 5, 30);
    node.step(60);
    // The host starts anew, with a folder that outlives that.
    node.restart(BootId([0xcd; 16]));
    node.step(120);
    node.check(expect![[r#"
        10: cut GPU-a+GPU-b
        60: cut GPU-a
        60: slurm:c/7 of slurm:c/physics holds GPU-a 5..60 by scheduler_hook
        60: slurm:c/8 of slurm:c/physics holds GPU-b 5..30 by scheduler_hook
        120: slurm:c/8 of slurm:c/physics holds GPU-b 5..30 by scheduler_hook
    "#]]);
    assert_eq!((node.hooks.state().open, node.hooks.state().lapsed), (0, 1));
}

#[test]
fn an_agent_that_is_started_anew_does_not_extend_what_nobody_goes_on_with() {
    let mut node = Node::new();
    node.prolog(7, "0", 5);
    node.prolog(8, "1", 5);
    node.process(20, "slurmstepd", "slurmstepd: [8.batch]");
    node.step(60);
    node.gone(9);
    for seconds in [600, 3600] {
        node.restart(BOOT);
        node.step(seconds);
    }
    node.check(expect![[r#"
        60: cut GPU-a+GPU-b
        60: slurm:c/7 of slurm:c/physics holds GPU-a 5..60 by scheduler_hook
        60: slurm:c/8 of slurm:c/physics holds GPU-b 5..60 by scheduler_hook
        600: cut GPU-a+GPU-b+GPU-a
        600: slurm:c/8 of slurm:c/physics holds GPU-b 5..600 by scheduler_hook
        3600: cut GPU-a+GPU-b+GPU-a
        3600: slurm:c/8 of slurm:c/physics holds GPU-b 5..3600 by scheduler_hook
    "#]]);
}

#[test]
fn an_end_that_had_no_room_is_when_its_file_was_changed() {
    let mut node = Node::new();
    let paths = [7, 8].map(|job| {
        let told = node.told(job, &job.to_string().replace('7', "0").replace('8', "1"), 5, None);
        node.write(&told);
        [OPEN, ENDED].map(|ending| node.path(&(told.name() + ending)))
    });
    node.step(60);
    // The second by a clock that is wrong.
    for ([open, ended], seconds) in paths.iter().zip([80, 9_000]) {
        let changed =
            std::time::UNIX_EPOCH + std::time::Duration::from_millis(at(seconds).wall.0.unsigned_abs());
        File::open(open).and_then(|file| file.set_modified(changed)).expect("stamped");
        fs::rename(open, ended).expect("moved");
    }
    node.step(90);
    node.step(120);
    node.step(180);
    node.check(expect![[r#"
        60: cut GPU-a+GPU-b
        60: slurm:c/7 of slurm:c/physics holds GPU-a 5..60 by scheduler_hook
        60: slurm:c/8 of slurm:c/physics holds GPU-b 5..60 by scheduler_hook
        90: cut GPU-a+GPU-b
        120: slurm:c/7 of slurm:c/physics holds GPU-a 60..80 by scheduler_hook
        120: slurm:c/8 of slurm:c/physics holds GPU-b 60..90 by scheduler_hook
    "#]]);
    assert_eq!(node.hooks.state().refused, BTreeMap::new());
}

#[test]
fn a_file_that_is_taken_away_ends_what_it_told() {
    let mut node = Node::new();
    node.prolog(7, "0", 5);
    node.step(60);
    fs::remove_file(node.path(&(node.told(7, "0", 5, None).name() + OPEN))).expect("it is there");
    node.step(70);
    node.step(120);
    node.check(expect![[r#"
        60: cut GPU-a
        60: slurm:c/7 of slurm:c/physics holds GPU-a 5..60 by scheduler_hook
        70: cut GPU-a
    "#]]);
}

#[test]
fn accelerators_that_are_not_here_are_counted_and_the_others_held() {
    let mut node = Node::new();
    node.prolog(7, "1-4,GPU-x", 0);
    node.step(60);
    node.check(expect![[r#"
        60: cut GPU-b+GPU-c
        60: slurm:c/7 of slurm:c/physics holds GPU-b+GPU-c 0..60 by scheduler_hook
    "#]]);
    assert_eq!(node.hooks.state().unknown_accelerators, 3);
}

#[test]
fn while_an_accelerator_has_no_name_numbers_that_are_new_mean_none() {
    let mut node = Node::new();
    node.prolog(7, "0", 0);
    node.step(0);
    let mut look =
        Look { devices: Vec::new(), source_state: SourceState::Ok, inventory_changed: None, unidentified: 1 };
    node.prolog(8, "1", 5);
    node.hooks.take(at(5), &look, &mut HolderNews::default());
    assert_eq!(node.hooks.state().unknown_accelerators, 1);
    let held = |node: &mut Node| -> Vec<String> {
        let holdings = node.hooks.confirm().into_iter();
        holdings.map(|holding| format!("{} {:?}", holding.attempt, holding.accelerators)).collect()
    };
    assert_eq!(held(&mut node).len(), 1, "what was told before goes on");
    look.unidentified = 0;
    node.hooks.take(at(10), &look, &mut HolderNews::default());
    node.hooks.take(at(20), &look, &mut HolderNews::default());
    assert_eq!((held(&mut node).len(), node.hooks.state().unknown_accelerators), (2, 0));
}

#[test]
fn only_the_word_of_root_counts() {
    let mut node = Node::new();
    let put = |name: &str, told: &Told| {
        fs::write(node.path(name), serde_json::to_vec(told).expect("JSON")).expect("written");
        fs::set_permissions(node.path(name), PermissionsExt::from_mode(0o644)).expect("ours");
    };
    let told = node.told(7, "0", 0, None);
    put("foreign.open.json", &told);
    std::os::unix::fs::chown(node.path("foreign.open.json"), Some(1000), None).expect("tests run as root");
    put("writable.open.json", &told);
    fs::set_permissions(node.path("writable.open.json"), PermissionsExt::from_mode(0o666)).expect("ours");
    put("huge.open.json", &Told { gpus: "0,".repeat(10_000), ..told.clone() });
    put("later.open.json", &Told { version: 2, ..told.clone() });
    put("ended.open.json", &Told { ended: Some(at(1).into()), ..told.clone() });
    put(
        "backwards.ended.json",
        &Told { ended: Some(Moment { boot_ms: 1, wall: UtcMillis(START) }), ..told.clone() },
    );
    let far = Moment { boot_ms: u64::MAX, wall: UtcMillis(i64::MAX) };
    put("far.open.json", &Told { began: far, ..told.clone() });
    put("account.open.json", &Told { account: Some("x".repeat(300)), ..told.clone() });
    put("elsewhere", &told);
    std::os::unix::fs::symlink(node.path("elsewhere"), node.path("link.open.json")).expect("made");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        node.path("pipe.open.json"),
        rustix::fs::FileType::Fifo,
        Mode::from(0o644),
        0,
    )
    .expect("made");
    fs::create_dir(node.path("folder.open.json")).expect("made");
    for (name, text) in [("empty", ""), ("text", "job 7"), ("more", r#"{"version":1,"job_name":"x"}"#)] {
        fs::write(node.path(&format!("{name}.open.json")), text).expect("written");
    }
    node.step(0);
    node.step(60);
    node.check(expect![""]);
    let state = node.hooks.state();
    let refused: Vec<(&str, usize)> =
        state.refused.iter().map(|(why, count)| (why.as_str(), *count)).collect();
    assert_eq!(refused, [("foreign", 1), ("writable", 1), ("huge", 1), ("malformed", 11)]);
    assert_eq!((state.folder, state.open), (FolderState::Ok, 0));
    // Nor anything in a folder that others can write to.
    node.prolog(9, "0", 60);
    fs::set_permissions(node.path(""), PermissionsExt::from_mode(0o777)).expect("ours");
    node.step(61);
    node.check(expect![""]);
    assert_eq!(node.hooks.state().folder, FolderState::Unsafe);
    fs::set_permissions(node.path(""), PermissionsExt::from_mode(0o755)).expect("ours");
    node.step(120);
    node.check(expect![[r#"
        120: cut GPU-a
        120: slurm:c/9 of slurm:c/physics holds GPU-a 60..120 by scheduler_hook
    "#]]);
}

#[test]
fn in_simulated_time_the_wall_clock_is_what_both_have() {
    let node = Node::new();
    node.prolog(7, "0", 30);
    let options = SlurmOptions::of_host(node.path(""), Some(BOOT));
    let proc = node.dir.path().join("proc");
    let mut hooks = SlurmHooks::new(SlurmOptions { host_clock: false, proc, ..options });
    let look = Look {
        devices: Vec::new(),
        source_state: SourceState::Ok,
        inventory_changed: Some(devices()),
        unidentified: 0,
    };
    hooks.take(Now { boot_ms: 5, wall: at(90).wall }, &look, &mut HolderNews::default());
    let spans: Vec<Span> = hooks.confirm().into_iter().map(|holding| holding.span).collect();
    assert_eq!(spans, Vec::from_iter(Span::new(at(30).wall, at(90).wall)));
}

#[test]
fn a_group_of_processes_of_a_job_that_goes_on_is_its_accounts() {
    let mut node = Node::new();
    node.prolog(7, "0", 3);
    node.write(&Told { sluid: Some("s0123456789abc".into()), ..node.told(8, "1", 3, None) });
    node.step(5);
    let any = "GPU-a".parse().expect("a name");
    let knows = |node: &Node, id: &str| match node.hooks.knows(&Group::SlurmJob(id.into()), &any) {
        Some(Knows::As(principal, attempt)) => Some(format!("{attempt} of {principal}")),
        Some(Knows::Covered) | None => None,
    };
    assert_eq!(knows(&node, "7").as_deref(), Some("slurm:c/7 of slurm:c/physics"));
    let by_sluid = knows(&node, "s0123456789abc");
    assert!(by_sluid.is_some_and(|known| known.ends_with(" of slurm:c/physics")));
    assert_eq!(knows(&node, "77"), None);
    assert_eq!(node.hooks.knows(&Group::Container("7".into()), &any), None);
    node.epilog(7, "0", 3, 9);
    node.step(15);
    assert_eq!(knows(&node, "7"), None);
}
