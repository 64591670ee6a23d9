use std::{cell::RefCell, collections::HashMap, fmt::Write, path::Path, rc::Rc};

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

/// Users by process; shared, so that a test can start and end processes.
#[derive(Clone, Default)]
struct Users(std::sync::Arc<std::sync::Mutex<HashMap<u32, u32>>>);

impl OwnerLookup for Users {
    fn uid(&mut self, pid: u32) -> Option<u32> {
        self.0.lock().expect("not poisoned").get(&pid).copied()
    }
}

#[test]
fn users_hold_from_their_first_process_to_their_last_and_confirm_in_between() {
    let users = Users::default();
    users.0.lock().unwrap().extend([(10, 1000), (11, 1000), (20, 2000)]);
    let owners = ProcessOwners::new("gpu nodes", BootId([0xab; 16]), Box::new(users)).unwrap();
    let mut holders = Holders::new(None, Some(owners));
    let shown = Rc::new(RefCell::new(String::new()));
    let mut step = |seconds: i64, a: Option<&[u32]>, b: Option<&[u32]>| {
        let news = holders.look(at(seconds), &look(&[("A", a), ("B", b)], false));
        show(&mut shown.borrow_mut(), &seconds.to_string(), &news.holdings, &news.changed);
        if seconds % 60 == 0 {
            show(&mut shown.borrow_mut(), &format!("{seconds} batch"), &holders.confirm(), &[]);
        }
    };
    step(10, Some(&[10, 11]), Some(&[10]));
    step(20, None, None); // Not asked.
    step(50, Some(&[10, 666]), Some(&[10])); // The driver invents a process.
    step(60, Some(&[11]), Some(&[10]));
    step(70, Some(&[11, 20]), Some(&[])); // A second user here, nobody there.
    step(80, Some(&[20]), Some(&[]));
    step(120, Some(&[20]), Some(&[]));
    step(200, Some(&[20]), Some(&[])); // Nothing heard for longer than a minute.
    step(240, Some(&[20]), Some(&[]));
    expect![[r#"
        10: cut A+B
        60 batch: uid:gpu%20nodes/1000 as uid:gpu%20nodes/1000@abababababababababababababababab holds A+B 10..60 by process_owner
        70: cut A+B
        80: cut A
        120 batch: uid:gpu%20nodes/1000 as uid:gpu%20nodes/1000@abababababababababababababababab holds A 60..70 by process_owner
        120 batch: uid:gpu%20nodes/2000 as uid:gpu%20nodes/2000@abababababababababababababababab holds A 70..120 by process_owner
        240 batch: uid:gpu%20nodes/2000 as uid:gpu%20nodes/2000@abababababababababababababababab holds A 200..240 by process_owner
    "#]].assert_eq(&shown.borrow());
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
    let mut holders = Holders::new(Some(LeaseFile::new(path.clone(), "node1".into())), None);
    let mut shown = String::new();
    let mut step = |seconds: i64, found: bool| {
        let news = holders.look(at(seconds), &look(&[("A", None), ("B", None)], found));
        show(&mut shown, &seconds.to_string(), &news.holdings, &news.changed);
        holders.lease_state()
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
    let mut holders = Holders::new(Some(LeaseFile::new(path, "node1".into())), None);
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
