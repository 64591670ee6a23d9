//! Every shape of a cgroup that is known, as a tree of small files like those of the kernel: what holder comes of it.

mod kernel;

use std::{
    fmt::Write,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use expect_test::expect_file;
use weighbridge_agent::holders::{
    Outcome, ProcessHolders, ProcessOptions,
    cgroup::{Placed, Roots, read},
};
use weighbridge_meter::BootId;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cgroups")
}

fn shapes() -> Vec<String> {
    let entries = fs::read_dir(folder().join("shapes")).expect("listed");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}

fn options(shape: &str, roots: &[&str]) -> ProcessOptions {
    let roots: Vec<String> = roots.iter().map(|root| (*root).to_owned()).collect();
    ProcessOptions {
        proc: folder().join("shapes").join(shape),
        roots: Roots::new(&roots).expect("paths"),
        cgroups: true,
        owners: true,
        host: "gpu-1".into(),
        class: "nodes".into(),
        slurm_cluster: "alpha".into(),
        kubernetes_cluster: "eu-1".into(),
        cloud: "cloud".into(),
        libvirt: libvirt(),
    }
}

/// A folder as libvirt's own: what others can write is not believed, and a checkout may be anybody's.
fn libvirt() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cgroups-libvirt");
    let name = "instance-00000007.xml";
    fs::create_dir_all(&target).expect("made");
    let new = target.join(format!("{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
    let text = fs::read(folder().join("libvirt").join(name)).expect("read");
    fs::write(&new, text).expect("written");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("ours");
    fs::rename(new, target.join(name)).expect("renamed");
    target
}

/// It began 3 s after boot.
fn find(options: ProcessOptions) -> Outcome {
    ProcessHolders::new(options, BootId([0xab; 16])).expect("names").find(3_000, 4242)
}

fn line(outcome: &Outcome) -> String {
    let mut line = outcome.state.as_str().to_owned();
    if let Some(digest) = outcome.digest {
        write!(line, " {digest}").expect("string");
    }
    match &outcome.who {
        Some(who) => write!(line, ": {} as {} by {}", who.principal, who.attempt, who.evidence),
        None => write!(line, ": nobody"),
    }
    .expect("string");
    // The boot, 32 digits.
    line.replace(&"ab".repeat(16), "BOOT")
}

#[test]
fn every_shape_gives_its_holder() {
    let mut shown = String::new();
    for shape in shapes() {
        writeln!(shown, "{shape}\n    {}", line(&find(options(&shape, &[])))).expect("string");
    }
    expect_file!["shapes.expected"].assert_eq(&shown);
}

#[test]
fn what_lies_in_a_group_of_the_operators_own_is_believed_if_that_is_configured() {
    let roots = ["/docker/*", "/system.slice/*"];
    for shape in shapes().iter().filter(|shape| shape.starts_with("kubernetes-in-kind")) {
        let shown = line(&find(options(shape, &roots)));
        assert!(shown.starts_with("pod: k8s:eu-1/%3F as k8s:eu-1/pod/0b1c2d3e-"), "{shape}: {shown}");
    }
    // The container of the node itself stays one.
    for shape in ["docker-cgroupfs", "docker-systemd", "docker-init-below", "unit"] {
        assert_eq!(line(&find(options(shape, &roots))), line(&find(options(shape, &[]))), "{shape}");
    }
    for bad in ["", "/", "docker", "/docker/../x"] {
        assert_eq!(Roots::new(&[bad.to_owned()]), Err(bad.to_owned()));
    }
}

#[test]
fn users_are_left_out_where_they_are_not_asked_for_and_groups_where_those_are_not() {
    let without_users = |shape: &str| line(&find(ProcessOptions { owners: false, ..options(shape, &[]) }));
    assert_eq!(without_users("user-session"), "user: nobody");
    assert!(without_users("unknown-scheduler").ends_with(": nobody"));
    assert!(without_users("slurm-v2").starts_with("slurm_job: slurm:alpha/%3F as slurm:alpha/7 "));
    let without_groups = |shape: &str| line(&find(ProcessOptions { cgroups: false, ..options(shape, &[]) }));
    assert_eq!(without_groups("slurm-v2"), "user: uid:nodes/1000 as uid:nodes/1000@BOOT by process_owner");
}

/// The kernel has no tenant's text in what is told of a process: names of units, numbers and identifiers only.
#[test]
fn no_name_that_a_tenant_chose_is_in_a_principal_or_attempt() {
    for shape in shapes() {
        let shown = line(&find(options(&shape, &[])));
        assert!(!shown.contains("secret"), "{shape}: {shown}");
    }
}

#[test]
fn what_follows_a_group_that_is_somebodys_changes_nothing() {
    let below = [
        "job_1",
        "system.slice/slurmstepd.scope/job_1/step_0",
        "slurm/uid_0/job_1/step_0",
        "kubepods/pod01234567-89ab-cdef-0123-456789abcdef/x",
        "kubepods.slice/kubepods-pod01234567_89ab_cdef_0123_456789abcdef.slice",
        "machine.slice/machine-qemu\\x2d1\\x2dx.scope",
        "user.slice/user-0.slice",
        "a b:c/\u{fffd}",
    ];
    for shape in shapes() {
        let file = fs::read(folder().join("shapes").join(&shape).join("4242/cgroup")).expect("read");
        let Placed::In(group) = read(&file, &Roots::default()) else { continue };
        let text = String::from_utf8(file).expect("text");
        if text.contains("research.slice\n") || text.contains("(deleted)") {
            // A slice holds others; a group that is no more holds none.
            continue;
        }
        for forged in below {
            let longer = text.lines().map(|line| {
                if line.ends_with(":/") || ends_in_slice(line) {
                    format!("{line}\n")
                } else {
                    format!("{line}/{forged}\n")
                }
            });
            let longer: String = longer.collect();
            assert_eq!(
                read(longer.as_bytes(), &Roots::default()),
                Placed::In(group.clone()),
                "{shape}: {longer}"
            );
        }
    }
}

/// Nobody but root makes anything in a slice.
fn ends_in_slice(line: &str) -> bool {
    line.ends_with(".slice")
}
