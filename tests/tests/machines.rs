//! Who held what among virtual machines, through the real agent and the real collector.
//!
//! One host whose accelerators all do the same all the time. Parts of three are given to machines, a fourth is given
//! away whole and seen by no driver. What each project should come to is worked out from the project that a machine
//! was written with, the windows of each accelerator, and the moments at which its file was written and last seen.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
    process::{Child, Command},
};

use serde_json::Value;
use weighbridge_meter::{Evidence, Span, UtcMillis};
use weighbridge_store::Body;
use weighbridge_tests::{
    agent::AgentOptions,
    audit,
    collector::time,
    ledgers,
    machine::Device,
    planted::{files_below, holds},
    site::Site,
    wait,
};
use weighbridge_wire::Envelope;

const PHYSICS: &str = "9a1b0c2d3e4f50617283940aabbccdde";
const BIOLOGY: &str = "00112233445566778899aabbccddeeff";

/// What no agent may write or send.
const PLANTED: [&str; 4] = ["planted-name", "planted-title", "planted-flavor", "planted-user"];

/// A device that no driver sees.
const AWAY: &str = "0000:c1:00.0";

/// A process for a machine. Ends with the test.
struct Qemu(Child);

impl Qemu {
    /// Older than any file that is written from now on, as far as ticks of processes (10 ms) and of file systems (up to
    /// 10 ms) can tell: what a machine has begins with its file, unless its process began later.
    fn start() -> Self {
        let child = Command::new("sleep").arg("600").spawn().expect("the system has sleep");
        let old = wait::now().plus(100);
        wait::until("the process is older than its files will be", || {
            if wait::now() < old { Err("not yet".into()) } else { Ok(()) }
        });
        Self(child)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It is ours and still runs; if not, nothing is left to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// libvirt's folder and the host's devices.
struct Machines {
    folder: tempfile::TempDir,
    qemu: Qemu,
}

impl Machines {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let machines = Self { folder, qemu: Qemu::start() };
        fs::create_dir(machines.libvirt()).unwrap();
        fs::set_permissions(machines.libvirt(), fs::Permissions::from_mode(0o755)).unwrap();
        let devices = machines.sysfs().join("bus/pci/devices");
        for bus in ["10", "11", "12"] {
            let part = devices.join(format!("0000:{bus}:00.4"));
            fs::create_dir_all(&part).unwrap();
            symlink(format!("../0000:{bus}:00.0"), part.join("physfn")).unwrap();
        }
        let away = devices.join(AWAY);
        fs::create_dir_all(&away).unwrap();
        for (file, text) in [("vendor", "0x10de"), ("device", "0x2330"), ("class", "0x030200")] {
            fs::write(away.join(file), text).unwrap();
        }
        symlink("../../../bus/pci/drivers/vfio-pci", away.join("driver")).unwrap();
        machines
    }

    fn libvirt(&self) -> PathBuf {
        self.folder.path().join("libvirt")
    }

    fn sysfs(&self) -> PathBuf {
        self.folder.path().join("sys")
    }

    /// Writes a machine as libvirt does; when.
    fn write(&self, number: u32, project: Option<&str>, given: &[&str]) -> UtcMillis {
        let (mut devices, mut metadata) = (String::new(), String::new());
        for address in given {
            let (bus, function) = (&address[5..7], &address[11..]);
            devices += &format!(
                "<hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/><source><address \
                 domain='0x0000' bus='0x{bus}' slot='0x00' function='0x{function}'/></source></hostdev>"
            );
        }
        let nova = "http://openstack.org/xmlns/libvirt/nova/1.1";
        if let Some(project) = project {
            metadata = format!(
                "<nova:instance xmlns:nova='{nova}'><nova:name>planted-name</nova:name>\
                 <nova:flavor name='planted-flavor'/><nova:owner><nova:user uuid='7'>planted-user</nova:user>\
                 <nova:project uuid='{project}'>planted-user</nova:project></nova:owner></nova:instance>"
            );
        }
        // The title says to be of another project.
        let forged = format!(
            "<metadata><nova:instance xmlns:nova='{nova}'><nova:owner><nova:project uuid='planted-title'/>\
             </nova:owner></nova:instance></metadata>"
        );
        let text = format!(
            "<domstatus state='running' reason='booted' pid='{}'><domain type='kvm' id='{number}'>\
             <name>planted-name-{number}</name><uuid>{}</uuid><title><![CDATA[planted-title {forged}]]></title>\
             <description>{}</description><metadata><x:y xmlns:x='urn:x'>{forged}</x:y>{metadata}</metadata>\
             <devices>{devices}</devices></domain></domstatus>",
            self.qemu.0.id(),
            uuid(number),
            forged.replace('<', "&lt;"),
        );
        let path = self.file(number);
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&new, &path).unwrap();
        let written = fs::metadata(&path).unwrap();
        UtcMillis(written.mtime() * 1000 + written.mtime_nsec() / 1_000_000)
    }

    fn end(&self, number: u32) {
        fs::remove_file(self.file(number)).unwrap();
    }

    fn file(&self, number: u32) -> PathBuf {
        self.libvirt().join(format!("planted-name-{number}.xml"))
    }
}

fn uuid(number: u32) -> String {
    format!("{number:08x}-4f50-6172-8394-a5b6c7d8e9f0")
}

/// Spans of the holdings of a machine on an accelerator, as the agent told them, joined.
fn told(site: &Site, accelerator: &str, number: u32) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for entry in ledgers::entries(&site.collector.data()) {
        let Body::Batch(received) = entry.body else { continue };
        let batch = Envelope::decode(&received.envelope).and_then(|envelope| envelope.read());
        for holding in batch.expect("the ledger holds batches").holdings {
            let is = holding.attempt.as_str().starts_with(&format!("vm:weighed/{}@", uuid(number)));
            if is && holding.accelerators.iter().any(|id| id.as_str() == accelerator) {
                assert_eq!(holding.evidence, Evidence::Hypervisor);
                spans.push(holding.span);
            }
        }
    }
    spans.sort_by_key(|span| span.start());
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if last.end() >= span.start() => {
                *last = Span::new(last.start(), last.end().max(span.end())).unwrap();
            }
            _ => joined.push(span),
        }
    }
    joined
}

/// By principal, if any: best operations and milliseconds.
type Totals = BTreeMap<Option<String>, (u128, u64)>;

fn found(site: &Site, accelerator: &str) -> Totals {
    let usage = site.collector.get(&format!("usage?accelerator={accelerator}"));
    let mut totals = Totals::new();
    for row in usage["rows"].as_array().expect("a list of sums") {
        let total = totals.entry(row["principal"].as_str().map(str::to_owned)).or_default();
        total.0 += audit::amount(row).best;
        total.1 += row["measured_ms"].as_u64().expect("milliseconds");
    }
    totals
}

/// What the windows of a device come to, divided where its holders change.
fn expected(site: &Site, device: &Device, holders: &[(Span, Option<&str>)]) -> Totals {
    let audited = audit::windows(&site.collector, device);
    let mut totals = Totals::new();
    for (window, whole) in audited.windows.into_iter().zip(&audited.amounts) {
        let upto = |moment: UtcMillis| {
            let (part, all) = (moment.since(window.start()), window.millis());
            (whole.best * u128::from(part.unsigned_abs()) + u128::from(all) / 2) / u128::from(all)
        };
        let mut add = |project: Option<&str>, from: UtcMillis, to: UtcMillis| {
            if from < to {
                let principal = project.map(|project| format!("vm:weighed/{project}"));
                let total = totals.entry(principal).or_default();
                *total = (total.0 + upto(to) - upto(from), total.1 + to.since(from).unsigned_abs());
            }
        };
        let mut at = window.start();
        for (span, project) in holders {
            let Some(held) = span.overlap(&window) else { continue };
            assert!(at <= held.start(), "holders are in order of time");
            add(None, at, held.start());
            add(*project, held.start(), held.end());
            at = held.end();
        }
        add(None, at, window.end());
    }
    totals
}

#[track_caller]
fn measured_more(site: &Site, millis: i64) {
    let enough = wait::now().plus(millis);
    wait::until("time is measured", || {
        for device in site.agents[0].devices() {
            let accelerator = site.collector.accelerator(&device.uuid)?;
            if time(&accelerator["last_end"]).is_ok_and(|end| end < enough) {
                return Err(accelerator.to_string());
            }
        }
        Ok(())
    });
}

#[test]
fn each_project_is_charged_what_its_machines_held_to_the_integer() {
    let machines = Machines::new();
    let devices: Vec<Device> = (0..3).map(Device::numbered).collect();
    let ids: Vec<&str> = devices.iter().map(|device| device.uuid.as_str()).collect();
    let away = format!("pci:cloud-1/{AWAY}");
    // One runs before the agent does, with a part of the first accelerator and the one that nobody sees.
    let first = machines.write(1, Some(PHYSICS), &["0000:10:00.4", AWAY]);
    let mut site = Site::new(vec![AgentOptions {
        libvirt: Some((machines.libvirt(), machines.sysfs())),
        ..AgentOptions::quick("cloud-1", devices.clone())
    }]);
    site.start_agents();
    site.measured(1_000);

    // Another begins; one of which no cloud says whose it is; and one that will share with it.
    let second = machines.write(2, Some(BIOLOGY), &["0000:11:00.4"]);
    machines.write(3, None, &["0000:12:00.4"]);
    measured_more(&site, 1_500);
    machines.write(4, Some(PHYSICS), &["0000:12:00.4"]);
    machines.write(5, Some(BIOLOGY), &["0000:12:00.4"]);
    measured_more(&site, 1_000);
    // The first gives its part back, which then goes to the second, beside what that has.
    machines.end(1);
    measured_more(&site, 1_000);
    let both = machines.write(2, Some(BIOLOGY), &["0000:10:00.4", "0000:11:00.4"]);
    measured_more(&site, 1_500);
    let metrics = site.agents[0].metrics().expect("it serves");
    for line in [
        "libvirt_state{state=\"ok\"} 1",
        "machines{state=\"named\"} 3",
        "machines{state=\"untold\"} 1",
        "machine_accelerators 3",
    ] {
        assert!(metrics.contains(&format!("weighbridge_agent_{line}\n")), "{line}: {metrics}");
    }
    (1..=5).skip(1).for_each(|number| machines.end(number));
    measured_more(&site, 1_000);
    site.stop_agents();

    // Where several had no part of it at once, to the integer.
    let span = |accelerator: &str, number: u32, from: UtcMillis| {
        let told = told(&site, accelerator, number);
        assert_eq!(told.len(), 1, "{number} on {accelerator}: {told:?}");
        assert_eq!(told[0].start(), from, "{number} on {accelerator}");
        assert!(told[0].millis() > 1_000);
        told[0]
    };
    let of_first = [(span(ids[0], 1, first), Some(PHYSICS)), (span(ids[0], 2, both), Some(BIOLOGY))];
    let of_second = [(span(ids[1], 2, second), Some(BIOLOGY))];
    assert_eq!(found(&site, ids[0]), expected(&site, &devices[0], &of_first));
    assert_eq!(found(&site, ids[1]), expected(&site, &devices[1], &of_second));
    for project in [PHYSICS, BIOLOGY] {
        let total = found(&site, ids[0])[&Some(format!("vm:weighed/{project}"))];
        assert!(total.0 > 0 && total.1 > 1_000, "{project}: {total:?}");
    }
    // Where they had, each has its share, that of whom no cloud names is unattributed, and nothing is lost.
    let shared = found(&site, ids[2]);
    let total = audit::windows(&site.collector, &devices[2]).total();
    let sum = shared.values().fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    assert_eq!(sum, (total.0.best, total.1), "{shared:?}");
    let names = [Some(format!("vm:weighed/{PHYSICS}")), Some(format!("vm:weighed/{BIOLOGY}")), None];
    assert!(names.iter().all(|name| shared[name].0 > 0) && shared.len() == names.len(), "{shared:?}");

    // Nobody sees what a device does that is given away: whose time it was is known all the same.
    let account = site.collector.accelerator(&away).expect("it is known");
    let held = span(&away, 1, first);
    let seen = time(&account["first_seen"]).expect("a time");
    let account = &account["time"];
    let millis = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} in {account}"));
    assert_eq!(millis(&account["held_ms"]["attributed"]), held.end().since(seen).unsigned_abs(), "{account}");
    assert!(millis(&account["gap_ms"]["passed_through"]) >= 1_000, "{account}");

    // Nothing of a tenant's is in what the agent wrote and sent.
    let agent = &site.agents[0];
    let written = ledgers::plain_spooled(agent);
    assert!(written.iter().any(|bytes| holds(bytes, PHYSICS)), "the search finds what is there");
    let kept = files_below(&site.collector.data());
    let sent = ledgers::plain_batches(&site.collector.data());
    let log = agent.log().into_bytes();
    for bytes in written.iter().chain(&files_below(&agent.spool())).chain(&kept).chain(&sent).chain([&log]) {
        for planted in PLANTED {
            assert!(!holds(bytes, planted), "{planted} was written, sent or kept");
        }
    }
}
