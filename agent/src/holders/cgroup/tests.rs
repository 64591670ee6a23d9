use proptest::prelude::*;

use super::*;

fn placed(file: &str) -> Placed {
    read(file.as_bytes(), &Roots::default())
}

/// Words of all shapes, in any order: most paths of them are nobody's, some are somebody's.
fn word() -> impl Strategy<Value = String> {
    const WORDS: [&str; 24] = [
        "system.slice",
        "user.slice",
        "user-1000.slice",
        "user@1000.service",
        "session-3.scope",
        "slurmstepd.scope",
        "gpu-1_slurmstepd.scope",
        "slurm",
        "slurm_gpu1",
        "uid_1000",
        "job_7",
        "job_8",
        "sEKNKTV3WPV500",
        "kubepods.slice",
        "kubepods-burstable.slice",
        "kubepods",
        "burstable",
        "docker",
        "machine.slice",
        r"machine-qemu\x2d3\x2da.scope",
        "libpod_parent",
        "containerd.service",
        "..",
        "trainer.service",
    ];
    prop_oneof![
        8 => prop::sample::select(&WORDS[..]).prop_map(str::to_owned),
        1 => Just(format!("pod{POD}")),
        1 => Just(format!("kubepods-burstable-pod{}.slice", POD.replace('-', "_"))),
        1 => Just(format!("cri-containerd-{}.scope", "4a".repeat(32))),
        1 => Just(format!("docker-{}.scope", "4a".repeat(32))),
        1 => Just("4a".repeat(32)),
        1 => any::<String>(),
    ]
}

const POD: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(word(), 0..7).prop_map(|words| format!("/{}", words.join("/").replace('\n', "")))
}

/// Leaves: groups that root made and that it gives to whoever runs there.
fn given_away() -> impl Strategy<Value = String> {
    let id = "4a".repeat(32);
    prop::sample::select(vec![
        "/user.slice/user-1000.slice/user@1000.service".to_owned(),
        "/user.slice/user-1000.slice/session-3.scope".into(),
        "/system.slice/trainer.service".into(),
        "/system.slice/slurmstepd.scope/job_7".into(),
        "/system.slice/slurmstepd.scope/sEKNKTV3WPV500".into(),
        "/slurm/uid_1000/job_7".into(),
        format!("/system.slice/docker-{id}.scope"),
        format!("/docker/{id}"),
        format!("/libpod_parent/libpod-{id}"),
        format!("/kubepods/burstable/pod{POD}/{id}"),
        format!("/kubepods.slice/kubepods-pod{}.slice/crio-{id}.scope", POD.replace('-', "_")),
        r"/machine.slice/machine-qemu\x2d3\x2da.scope".into(),
        "/machine/qemu-3-a.libvirt-qemu".into(),
    ])
}

proptest! {
    #[test]
    fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read(&bytes, &Roots::default());
    }

    #[test]
    fn any_paths_come_back_and_name_no_text_but_units(paths in prop::collection::vec(path(), 1..4)) {
        let file: String = paths.iter().map(|path| format!("0::{path}\n")).collect();
        let roots = Roots::new(&["/docker/*".into()]).unwrap();
        match read(file.as_bytes(), &roots) {
            Placed::In(Group::SlurmJob(job)) => prop_assert!(job.len() <= 14),
            Placed::In(Group::Pod { uid, .. }) => prop_assert!(uid.len() == 36 || uid.len() == 32),
            Placed::In(Group::Container(id)) => prop_assert_eq!(id.len(), 64),
            _ => {}
        }
    }

    #[test]
    fn nothing_below_a_group_that_was_given_away_is_looked_at(
        top in given_away(),
        below in prop::collection::vec(word(), 1..6),
    ) {
        let below: Vec<String> = below.into_iter().map(|word| word.replace(['\n', '/'], "")).collect();
        // The kernel writes no such names.
        prop_assume!(!below.iter().any(|word| is_dots(word)));
        let forged = placed(&format!("0::{top}/{}\n", below.join("/")));
        prop_assert_eq!(forged, placed(&format!("0::{top}\n")));
    }

    #[test]
    fn the_order_of_lines_does_not_matter_nor_do_hierarchies_without_groups(
        lines in prop::collection::vec(
            (prop::sample::select(vec!["", "name=systemd", "memory", "devices"]), path()),
            0..5,
        ),
    ) {
        let mut lines: Vec<String> =
            lines.iter().map(|(controllers, path)| format!("1:{controllers}:{path}\n")).collect();
        let first = placed(&lines.concat());
        lines.reverse();
        lines.push("9:cpuset:/\n".into());
        let second = placed(&lines.concat());
        // Of several bad paths one is named.
        let kind = |placed: &Placed| match placed {
            Placed::Unknown(_, person) => Placed::Unknown(PathDigest::of(b""), *person),
            Placed::Contradictory(_) => Placed::Contradictory(PathDigest::of(b"")),
            other => other.clone(),
        };
        prop_assert_eq!(kind(&first), kind(&second));
    }
}

#[test]
fn a_digest_is_that_of_the_whole_path() {
    // printf /process_api/1 | sha256sum
    assert_eq!(
        placed("0::/process_api/1\n"),
        Placed::Unknown(PathDigest::of(b"/process_api/1"), Person::Owner)
    );
    assert_eq!(PathDigest::of(b"/process_api/1").to_string(), "c8e28704");
}
