//! Machines that come, change and go.

use std::{fmt::Write, fs, os::unix::fs::PermissionsExt};

use expect_test::{Expect, expect};
use weighbridge_agent::holders::{
    Holders,
    libvirt::{FolderState, Libvirt, LibvirtOptions, MachineState, Refusal},
};
use weighbridge_agent::source::Look;
use weighbridge_meter::{AcceleratorId, BootId};

use crate::host::{Host, at, group, look, look_with_machines, machine, shown};

const A: &str = "0000:1a:00.0";
const B: &str = "0000:1b:00.0";
const FUNCTION: &str = "0000:3b:00.4";
const MEDIATED: &str = "aaaaaaaa-0000-0000-0000-000000000001";

/// Holders and what they said.
struct Bench {
    holders: Holders,
    told: String,
}

impl Bench {
    fn new(holders: Holders) -> Self {
        Self { holders, told: String::new() }
    }

    /// Looks, and takes a batch at whole minutes.
    fn step(&mut self, seconds: i64) {
        self.step_with(seconds, &[]);
    }

    fn step_with(&mut self, seconds: i64, pids: &[(&str, &[u32])]) {
        self.take(seconds, &look(pids));
    }

    fn take(&mut self, seconds: i64, look: &Look) {
        let news = self.holders.look(at(seconds), look);
        assert!(news.holdings.is_empty());
        if !news.changed.is_empty() {
            let list: Vec<&str> = news.changed.iter().map(AcceleratorId::as_str).collect();
            writeln!(self.told, "{seconds}: cut {}", list.join("+")).expect("string");
        }
        if seconds % 60 == 0 {
            for holding in self.holders.confirm() {
                writeln!(self.told, "{seconds} batch: {}", shown(&holding)).expect("string");
            }
        }
    }

    fn count(&self, state: MachineState) -> usize {
        self.holders.states().libvirt.machines.get(&state).copied().unwrap_or(0)
    }

    fn told(&self, expected: Expect) {
        expected.assert_eq(&self.told);
    }
}

#[test]
fn a_machine_holds_from_when_it_was_written_to_when_it_was_last_there() {
    let host = Host::new();
    host.put("a", &machine(3, '1', "physics", 4242, &[A, B]), 5);
    let mut bench = Bench::new(host.holders());
    for seconds in [10, 40, 60, 90] {
        bench.step(seconds);
    }
    host.remove("a", 95);
    bench.step(96);
    bench.step(120);
    bench.told(expect![[r#"
        10: cut GPU-a+GPU-b
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a+GPU-b 5..60 by hypervisor
        96: cut GPU-a+GPU-b
        120 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a+GPU-b 60..90 by hypervisor
    "#]]);
}

#[test]
fn what_is_given_later_is_held_from_then_on_and_what_is_taken_away_no_longer() {
    let host = Host::new();
    host.put("a", &machine(3, '1', "physics", 4242, &[A]), 5);
    let mut bench = Bench::new(host.holders());
    bench.step(10);
    host.put("a", &machine(3, '1', "physics", 4242, &[A, B]), 29);
    bench.step(30);
    bench.step(45);
    host.put("a", &machine(3, '1', "physics", 4242, &[B]), 49);
    bench.step(50);
    bench.step(60);
    bench.told(expect![[r#"
        10: cut GPU-a
        30: cut GPU-b
        50: cut GPU-a
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 5..45 by hypervisor
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-b 29..60 by hypervisor
    "#]]);
}

#[test]
fn machines_with_parts_of_one_accelerator_hold_it_side_by_side() {
    let host = Host::new();
    host.process(4300, 8, "qemu-kvm", &group(4, "b"));
    host.put("a", &machine(3, '1', "physics", 4242, &[MEDIATED]), 5);
    let mut bench = Bench::new(host.holders());
    bench.step(6);
    host.put("b", &machine(4, '2', "biology", 4300, &[FUNCTION]), 9);
    bench.step(10);
    bench.step(30);
    host.remove("a", 31);
    bench.step(32);
    bench.step(60);
    bench.told(expect![[r#"
        6: cut GPU-v
        10: cut GPU-v
        32: cut GPU-v
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-v 5..30 by hypervisor
        60 batch: vm:cloud/biology as vm:cloud/22222222-2222-2222-2222-222222222222@BOOT holds GPU-v 9..60 by hypervisor
    "#]]);
}

#[test]
fn an_agent_that_starts_later_claims_no_more_than_the_file_says() {
    let host = Host::new();
    // It has run for an hour, and had the device for ten minutes.
    host.put("a", &machine(3, '1', "physics", 4242, &[A]), 3000);
    let mut bench = Bench::new(host.holders());
    bench.step(3600);
    // Its file was written when its process was not there yet.
    let host = Host::new();
    host.put("a", &machine(3, '1', "physics", 4242, &[A]), 1);
    let mut late = Bench::new(host.holders());
    late.step(60);
    bench.told.push_str(&late.told);
    bench.told(expect![[r#"
        3600: cut GPU-a
        3600 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 3000..3600 by hypervisor
        60: cut GPU-a
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 2..60 by hypervisor
    "#]]);
}

#[test]
fn a_process_that_has_the_number_of_one_that_ended_holds_nothing() {
    let host = Host::new();
    host.put("a", &machine(3, '1', "physics", 4242, &[A]), 5);
    let mut bench = Bench::new(host.holders());
    bench.step(10);
    bench.step(20);
    // libvirt is down: nobody takes the file away.
    host.end(4242);
    host.process(4242, 25, "sleep", "/user.slice/user-1000.slice/session-1.scope");
    bench.step(30);
    assert_eq!(bench.count(MachineState::Gone), 1);
    bench.step(60);
    // Nor where the agent never saw the one that ended, even in the group of another machine.
    for other in ["/user.slice/user-1000.slice/session-1.scope", &group(4, "b"), "/"] {
        host.process(4242, 25, "sleep", other);
        let mut afterwards = Bench::new(host.holders());
        afterwards.step(60);
        assert_eq!((afterwards.count(MachineState::Gone), afterwards.told.as_str()), (1, ""), "{other}");
    }
    bench.told(expect![[r#"
        10: cut GPU-a
        30: cut GPU-a
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 5..20 by hypervisor
    "#]]);
}

#[test]
fn a_machine_that_starts_again_has_the_same_attempt_and_another_process() {
    let host = Host::new();
    host.put("a", &machine(3, '1', "physics", 4242, &[A]), 5);
    let mut bench = Bench::new(host.holders());
    bench.step(10);
    bench.step(20);
    host.end(4242);
    host.process(4400, 30, "qemu-kvm", &group(5, "a"));
    host.put("a", &machine(5, '1', "physics", 4400, &[A]), 31);
    bench.step(32);
    bench.step(60);
    bench.told(expect![[r#"
        10: cut GPU-a
        32: cut GPU-a
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 5..20 by hypervisor
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 31..60 by hypervisor
    "#]]);
}

#[test]
fn a_machine_that_is_paused_or_crashed_holds_and_one_that_is_shut_off_does_not() {
    let host = Host::new();
    let running = machine(3, '1', "physics", 4242, &[A]);
    let mut bench = Bench::new(host.holders());
    for (seconds, state) in
        [(10, "running"), (20, "paused"), (30, "crashed"), (40, "shutoff"), (50, "running")]
    {
        host.put("a", &running.replace("running", state), seconds - 1);
        bench.step(seconds);
    }
    bench.step(60);
    bench.told(expect![[r#"
        10: cut GPU-a
        40: cut GPU-a
        50: cut GPU-a
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 9..30 by hypervisor
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 49..60 by hypervisor
    "#]]);
}

#[test]
fn a_broken_file_is_counted_and_the_other_machines_go_on() {
    let host = Host::new();
    host.process(4300, 8, "qemu-kvm", &group(4, "b"));
    host.put("a", &machine(3, '1', "physics", 4242, &[A]), 5);
    host.put("b", &machine(4, '2', "biology", 4300, &[B]), 9);
    let mut bench = Bench::new(host.holders());
    bench.step(10);
    // What it said holds for as long as its process is there.
    host.put("a", "<domstatus", 15);
    bench.step(20);
    bench.step(30);
    assert_eq!(bench.holders.states().libvirt.refused, [(Refusal::Malformed, 1)].into());
    host.end(4242);
    bench.step(40);
    bench.step(60);
    bench.told(expect![[r#"
        10: cut GPU-a+GPU-b
        40: cut GPU-a
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 5..30 by hypervisor
        60 batch: vm:cloud/biology as vm:cloud/22222222-2222-2222-2222-222222222222@BOOT holds GPU-b 9..60 by hypervisor
    "#]]);
}

#[test]
fn where_processes_cannot_be_seen_the_files_are_believed_alone() {
    let host = Host::new();
    host.end(2);
    host.put("a", &machine(3, '1', "physics", 9999, &[A]), 5);
    let mut bench = Bench::new(host.holders());
    bench.step(10);
    bench.step(60);
    // But not a broken one, of which nothing tells whether it goes on.
    host.put("a", "", 65);
    bench.step(70);
    bench.step(120);
    bench.told(expect![[r#"
        10: cut GPU-a
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 5..60 by hypervisor
        70: cut GPU-a
    "#]]);
}

#[test]
fn while_the_folder_cannot_be_believed_nothing_is_said_and_nobody_is_nobody() {
    let host = Host::new();
    host.put("a", &machine(3, '1', "physics", 4242, &[A]), 5);
    let mut bench = Bench::new(host.holders());
    bench.step(10);
    bench.step(20);
    let mode = |mode| fs::set_permissions(host.folder(), fs::Permissions::from_mode(mode)).expect("ours");
    mode(0o777);
    for seconds in [30, 60, 100] {
        bench.step(seconds);
        assert_eq!(bench.holders.states().libvirt.folder, FolderState::Unsafe);
    }
    mode(0o755);
    bench.step(110);
    bench.step(120);
    fs::rename(host.folder(), host.path("away")).expect("renamed");
    bench.step(130);
    assert_eq!(bench.holders.states().libvirt.folder, FolderState::Unused);
    bench.step(180);
    bench.told(expect![[r#"
        10: cut GPU-a
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 5..20 by hypervisor
        120 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 110..120 by hypervisor
    "#]]);
}

#[test]
fn what_others_can_write_is_not_believed() {
    let host = Host::new();
    host.put("a", &machine(3, '1', "physics", 4242, &[A]), 5);
    host.put("b", &machine(3, '2', "biology", 4242, &[B]), 5);
    fs::set_permissions(host.file("a"), fs::Permissions::from_mode(0o662)).expect("ours");
    fs::rename(host.file("b"), host.path("elsewhere")).expect("renamed");
    std::os::unix::fs::symlink(host.path("elsewhere"), host.file("b")).expect("linked");
    fs::create_dir(host.folder().join("c.xml")).expect("made");
    let mut bench = Bench::new(host.holders());
    bench.step(10);
    bench.step(60);
    let state = bench.holders.states().libvirt;
    assert_eq!(state.refused, [(Refusal::Foreign, 1), (Refusal::Malformed, 2)].into());
    bench.told(expect![[""]]);
}

#[test]
fn in_simulated_time_holdings_begin_with_the_first_look() {
    let host = Host::new();
    host.put("a", &machine(3, '1', "physics", 4242, &[A]), 5);
    let options = LibvirtOptions { host_clock: false, ..host.options() };
    let mut bench =
        Bench::new(Holders::none().with(Libvirt::new(options, BootId([0xab; 16])).expect("names")));
    bench.step(10);
    bench.step(60);
    bench.told(expect![[r#"
        10: cut GPU-a
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 10..60 by hypervisor
    "#]]);
}

#[test]
fn the_process_of_a_machine_speaks_for_the_same_project_and_attempt_even_where_its_name_was_cut() {
    let host = Host::new();
    host.process(4242, 2, "qemu-kvm", &group(3, "a-name-that-was-c"));
    host.put("a-name-that-was-cut", &machine(3, '1', "physics", 4242, &[A]), 5);
    let mut bench = Bench::new(host.holders_with_processes());
    bench.step_with(10, &[("GPU-a", &[4242])]);
    bench.step_with(60, &[("GPU-a", &[4242])]);
    bench.told(expect![[r#"
        10: cut GPU-a+GPU-a
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 5..60 by hypervisor
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-a 10..60 by allocator_process
    "#]]);
}

#[test]
fn what_a_driver_says_of_its_machines_counts_beside_the_files_and_without_them() {
    let host = Host::new();
    let uuid = |digit: char| "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx".replace('x', &digit.to_string());
    let (one, two) = (uuid('1'), uuid('2'));
    // The file of the first says whose it is; that of the other cannot be read.
    host.put("a", &machine(3, '1', "physics", 4242, &[]), 5);
    let mut bench = Bench::new(host.holders());
    bench.take(10, &look_with_machines("GPU-v", &[&one, &two, "no uuid"]));
    bench.step(15); // It is not asked at each look.
    bench.take(20, &look_with_machines("GPU-v", &[&one, &two]));
    bench.take(25, &look_with_machines("GPU-v", &[&two]));
    fs::rename(host.folder(), host.path("away")).expect("renamed");
    bench.step(30);
    bench.take(40, &look_with_machines("GPU-v", &[&two]));
    bench.step(60);
    bench.take(65, &look_with_machines("GPU-v", &[]));
    bench.step(120);
    bench.told(expect![[r#"
        10: cut GPU-v
        25: cut GPU-v
        60 batch: vm:cloud/physics as vm:cloud/11111111-1111-1111-1111-111111111111@BOOT holds GPU-v 10..20 by hypervisor
        60 batch: vm:cloud/%3F as vm:cloud/22222222-2222-2222-2222-222222222222@BOOT holds GPU-v 10..40 by hypervisor
        65: cut GPU-v
    "#]]);
}
