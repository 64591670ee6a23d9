//! The same with a real kernel: groups made by root, processes in them, and what goes into a batch.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use weighbridge_agent::{
    engine::EngineOptions,
    holders::{Holders, ProcessHolders, ProcessOptions},
    host::{Host, HostOptions},
    source::{Device, DeviceLook, Look, SourceState},
    spool::{SpoolOptions, inspect},
};
use weighbridge_meter::{
    AcceleratorId, BootId, DeviceState, Reading, Source, Tier, Trust, UtcMillis,
    meter::{Now, Pace},
};
use weighbridge_wire::{Batch, Envelope, SigningKey};

/// Groups below one of our own; they and the processes in them end with the test.
struct Groups {
    top: PathBuf,
    processes: Vec<Child>,
}

impl Groups {
    /// `None` where this user may make none.
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let unified = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
        let name = format!("weighbridge-{}.slice", std::process::id());
        let top = Path::new(unified.split(' ').nth(1)?).join(name);
        fs::create_dir(&top).ok()?;
        Some(Self { top, processes: Vec::new() })
    }

    /// A process in this group.
    fn process(&mut self, group: &str) -> u32 {
        let group = self.top.join(group);
        fs::create_dir_all(&group).expect("made");
        let process = Command::new("sleep").arg("600").spawn().expect("the system has sleep");
        let pid = process.id();
        self.processes.push(process);
        fs::write(group.join("cgroup.procs"), pid.to_string()).expect("moved");
        pid
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        remove(&self.top);
    }
}

/// The files of these processes as the kernel wrote them, less the hierarchies that the tests themselves lie in.
fn copied(pids: impl Iterator<Item = u32>, to: &Path) {
    for pid in pids.map(|pid| pid.to_string()) {
        let (from, to) = (Path::new("/proc").join(&pid), to.join(&pid));
        fs::create_dir_all(&to).expect("made");
        for file in ["stat", "status", "loginuid"] {
            if let Ok(text) = fs::read(from.join(file)) {
                fs::write(to.join(file), text).expect("written");
            }
        }
        let groups = fs::read_to_string(from.join("cgroup")).expect("it runs");
        let unified = groups.lines().find(|line| line.starts_with("0::")).expect("we made it");
        fs::write(to.join("cgroup"), format!("{unified}\n")).expect("written");
    }
}

/// A group has files, which cannot be removed and need not be.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

const START: UtcMillis = UtcMillis(1_769_846_400_000);

/// A century after boot, whenever that was: no process began later.
fn at(seconds: i64) -> Now {
    let century: u64 = 3_155_760_000_000;
    Now { boot_ms: century + seconds.unsigned_abs() * 1000, wall: START.plus(seconds * 1000) }
}

fn look(pids: &[(&AcceleratorId, u32)], first: bool) -> Look {
    let device = |id: &AcceleratorId| Device::new(id.clone(), "NVIDIA L4", Source::Nvml, Tier::D);
    let seen = |(id, pid): &(&AcceleratorId, u32)| DeviceLook {
        id: (*id).clone(),
        state: DeviceState::Read(Reading::default()),
        pids: Some(vec![*pid]),
        used: Vec::new(),
        machines: None,
    };
    Look {
        devices: pids.iter().map(seen).collect(),
        source_state: SourceState::Ok,
        inventory_changed: first.then(|| pids.iter().map(|(id, _)| device(id)).collect()),
        unidentified: 0,
    }
}

fn batches(spool: &Path) -> Vec<Batch> {
    let mut batches = Vec::new();
    for epoch in inspect(spool).expect("a spool").epochs {
        let mut reader = weighbridge_journal::Reader::from_start(&spool.join(&epoch.id));
        while let Some(entry) = reader.next().expect("whole") {
            batches.push(Envelope::decode(&entry.payload).and_then(|sealed| sealed.read()).expect("a batch"));
        }
    }
    batches
}

#[test]
fn real_processes_in_real_groups_become_holdings_without_a_word_of_their_tenants() {
    let Some(mut groups) = Groups::new() else {
        return eprintln!("no cgroup can be made here: not tested");
    };
    let container = "4a".repeat(32);
    let shapes = [
        "slurmstepd.scope/job_77/step_0/user/task_0".to_owned(),
        "kubepods/burstable/pod0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0/secret".into(),
        format!("docker-{container}.scope/secret/slurm/uid_0/job_1"),
        "user-4242.slice/user@4242.service/app.slice/secret-project.service".into(),
        "trainer.service".into(),
        "secret-scheduler/7".into(),
    ];
    let ids: Vec<AcceleratorId> =
        (0..shapes.len()).map(|n| format!("GPU-{n}").parse().expect("a name")).collect();
    let pids: Vec<(&AcceleratorId, u32)> =
        ids.iter().zip(&shapes).map(|(id, shape)| (id, groups.process(shape))).collect();

    let dir = tempfile::tempdir().unwrap();
    copied(pids.iter().map(|(_, pid)| *pid), &dir.path().join("proc"));
    let boot = BootId([0xab; 16]);
    let options =
        ProcessOptions { proc: dir.path().join("proc"), host: "node1".into(), ..super::options("", &[]) };
    let options = HostOptions {
        agent: "node1".parse().unwrap(),
        boot,
        key: SigningKey::from_bytes(&[2; 32]),
        engine: EngineOptions {
            host: "node1".into(),
            trust: Trust::Host,
            pace: Pace { window_ms: 60_000, longest_tick_ms: 20_000 },
            held_records: 100,
        },
        spool: SpoolOptions::in_dir(dir.path().join("spool")),
        holders: Holders::none().with(ProcessHolders::new(options, boot).unwrap()),
        metrics: None,
    };
    let mut host = Host::open(options, &mut |bytes| bytes.fill(7)).unwrap();
    host.tick(at(0), &look(&pids, true));
    host.tick(at(10), &look(&pids, false));
    host.seal(at(10)).unwrap();

    let batches = batches(&dir.path().join("spool"));
    let mut shown: Vec<String> = batches
        .iter()
        .flat_map(|batch| &batch.holdings)
        .map(|holding| {
            let millis = holding.span.millis();
            let attempt = holding.attempt.to_string().replace(&"ab".repeat(16), "BOOT");
            let id = &holding.accelerators[0];
            format!("{id}: {} as {attempt} by {}, {millis} ms\n", holding.principal, holding.evidence)
        })
        .collect();
    shown.sort();
    // The last is of the user who runs the tests.
    let own = shown.pop().expect("six");
    assert!(own.starts_with("GPU-5: uid:nodes/") && own.ends_with(" by process_owner, 10000 ms\n"), "{own}");
    expect_test::expect![[r#"
        GPU-0: slurm:alpha/%3F as slurm:alpha/77 by allocator_process, 10000 ms
        GPU-1: k8s:eu-1/%3F as k8s:eu-1/pod/0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0 by allocator_process, 10000 ms
        GPU-2: container:node1/4a4a4a4a4a4a as container:node1/4a4a4a4a4a4a@BOOT by container_process, 10000 ms
        GPU-3: uid:nodes/4242 as uid:nodes/4242@BOOT by process_owner, 10000 ms
        GPU-4: unit:node1/trainer.service as unit:node1/trainer.service@BOOT by unit_process, 10000 ms
    "#]].assert_eq(&shown.concat());
    let all = format!("{batches:?}");
    assert!(all.contains("trainer.service") && !all.contains("secret"), "{all}");
}
