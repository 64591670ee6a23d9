//! A host with accelerators, machines and processes, in a folder.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use tempfile::TempDir;
use weighbridge_agent::{
    engine::HolderNews,
    holders::{
        Holders, ProcessHolders, ProcessOptions,
        cgroup::Roots,
        libvirt::{Libvirt, LibvirtOptions},
    },
    source::{Device, DeviceLook, Look, SourceState},
};
use weighbridge_meter::{
    AcceleratorId, BootId, Condition, DeviceState, GapCause, Holding, Source, Tier, UtcMillis, meter::Now,
};

/// 2026-01-31T08:00:00Z, when the host began.
const BOOT: i64 = 1_769_846_400_000;

pub(crate) fn at(seconds: i64) -> Now {
    let boot_ms = u64::try_from(seconds * 1000).expect("positive");
    Now { boot_ms, wall: UtcMillis(BOOT + seconds * 1000) }
}

/// Accelerators, their addresses and what they are a part of.
const DEVICES: [(&str, Option<&str>, Option<&str>); 8] = [
    ("GPU-a", Some("0000:1a:00.0"), None),
    ("GPU-b", Some("0000:1b:00.0"), None),
    ("GPU-v", Some("0000:3b:00.0"), None),
    ("GPU-t", Some("0000:41:00.0"), None),
    ("GPU-s", Some("0000:5e:00.0"), None),
    ("MIG-1", Some("0000:5e:00.0"), Some("GPU-s")),
    ("MIG-2", None, Some("GPU-s")),
    ("pci:node1/0000:9a:00.0", None, None),
];

pub(crate) struct Host(TempDir);

impl Host {
    /// With one machine's process, 4242, of number 3, begun 2 s after boot.
    pub(crate) fn new() -> Self {
        let host = Self(tempfile::tempdir().expect("a folder"));
        fs::create_dir(host.folder()).expect("made");
        fs::set_permissions(host.folder(), fs::Permissions::from_mode(0o755)).expect("ours");
        let devices = "sys/devices/pci0000:00";
        for (function, parent) in [("0000:3b:00.4", Some("0000:3b:00.0")), ("0000:41:00.0", None)] {
            let folder = host.path("sys/bus/pci/devices").join(function);
            fs::create_dir_all(&folder).expect("made");
            if let Some(parent) = parent {
                symlink(format!("../{parent}"), folder.join("physfn")).expect("linked");
            }
        }
        let mediated = host.path("sys/bus/mdev/devices");
        fs::create_dir_all(&mediated).expect("made");
        for (number, function) in [(1, "0000:3b:00.4"), (2, "0000:41:00.0"), (3, "0000:5e:00.0")] {
            let uuid = format!("aaaaaaaa-0000-0000-0000-{number:012}");
            let target = format!("../../../../{devices}/0000:00:03.0/{function}/{uuid}");
            symlink(target, mediated.join(uuid)).expect("linked");
        }
        host.process(2, 0, "kthreadd", "/");
        host.process(4242, 2, "qemu-system-x86", &group(3, "instance-00000007"));
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.path("qemu")
    }

    pub(crate) fn process(&self, pid: u32, started: u64, name: &str, group: &str) {
        let folder = self.path("proc").join(pid.to_string());
        fs::create_dir_all(&folder).expect("made");
        let stat = format!("{pid} ({name}) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {} 0 0\n", started * 100);
        fs::write(folder.join("stat"), stat).expect("written");
        fs::write(folder.join("status"), "Name:\tx\nUid:\t64055\t64055\t64055\t64055\n").expect("written");
        fs::write(folder.join("cgroup"), format!("0::{group}\n")).expect("written");
    }

    pub(crate) fn end(&self, pid: u32) {
        fs::remove_dir_all(self.path("proc").join(pid.to_string())).expect("it was there");
    }

    /// Writes a machine's file as libvirt does: whole, in place of the one before, so many seconds after boot.
    pub(crate) fn put(&self, name: &str, text: &str, seconds: i64) {
        let (path, new) = (self.file(name), self.folder().join(format!("{name}.xml.new")));
        fs::write(&new, text).expect("written");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("ours");
        stamp(&new, seconds);
        fs::rename(&new, &path).expect("renamed");
        stamp(&self.folder(), seconds);
    }

    pub(crate) fn remove(&self, name: &str, seconds: i64) {
        fs::remove_file(self.file(name)).expect("it was there");
        stamp(&self.folder(), seconds);
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.xml"))
    }

    pub(crate) fn options(&self) -> LibvirtOptions {
        LibvirtOptions {
            folder: self.folder(),
            sysfs: self.path("sys"),
            proc: self.path("proc"),
            roots: Roots::default(),
            cloud: "cloud".into(),
            host_clock: true,
        }
    }

    pub(crate) fn holders(&self) -> Holders {
        Holders::none().with(Libvirt::new(self.options(), BootId([0xab; 16])).expect("names"))
    }

    /// With the processes that have a device open asked too.
    pub(crate) fn holders_with_processes(&self) -> Holders {
        let options = ProcessOptions {
            proc: self.path("proc"),
            roots: Roots::default(),
            cgroups: true,
            owners: true,
            host: "node1".into(),
            class: "nodes".into(),
            slurm_cluster: "a".into(),
            kubernetes_cluster: "b".into(),
            cloud: "cloud".into(),
            libvirt: self.folder(),
        };
        self.holders().with(ProcessHolders::new(options, BootId([0xab; 16])).expect("names"))
    }

    pub(crate) fn look(&self, holders: &mut Holders, seconds: i64) -> HolderNews {
        holders.look(at(seconds), &look(&[]))
    }
}

fn stamp(path: &Path, seconds: i64) {
    let millis = u64::try_from(BOOT + seconds * 1000).expect("after 1970");
    let time = UNIX_EPOCH + Duration::from_millis(millis);
    fs::File::open(path).and_then(|file| file.set_modified(time)).expect("ours");
}

/// The group of a machine, as the service manager writes it.
pub(crate) fn group(number: u32, domain: &str) -> String {
    format!(
        "/machine.slice/machine-qemu\\x2d{number}\\x2d{}.scope/libvirt/emulator",
        domain.replace('-', "\\x2d")
    )
}

/// Every accelerator, with the processes of some.
pub(crate) fn look(pids: &[(&str, &[u32])]) -> Look {
    let device = |(id, address, parent): &(&str, Option<&str>, Option<&str>)| Device {
        pci_address: address.map(Into::into),
        parent: parent.map(|parent| parent.parse().expect("a name")),
        conditions: if *id == "GPU-s" { vec![Condition::Split] } else { Vec::new() },
        ..Device::new(id.parse().expect("a name"), "x", Source::Nvml, Tier::B)
    };
    let devices: Vec<Device> = DEVICES.iter().map(device).collect();
    Look {
        devices: devices
            .iter()
            .map(|device| DeviceLook {
                id: device.id.clone(),
                state: DeviceState::Missing(GapCause::PassedThrough),
                pids: pids.iter().find(|(id, _)| *id == device.id.as_str()).map(|(_, pids)| pids.to_vec()),
                machines: None,
                used: Vec::new(),
            })
            .collect(),
        source_state: SourceState::Ok,
        inventory_changed: Some(devices),
        unidentified: 0,
    }
}

/// The same where the driver of one says which machines have a part of it.
pub(crate) fn look_with_machines(id: &str, machines: &[&str]) -> Look {
    let mut look = look(&[]);
    let told = look.devices.iter_mut().find(|device| device.id.as_str() == id).expect("there");
    told.machines = Some(machines.iter().map(|uuid| (*uuid).to_owned()).collect());
    look
}

pub(crate) fn shown(holding: &Holding) -> String {
    let seconds = |moment: UtcMillis| (moment.0 - BOOT) / 1000;
    let list: Vec<&str> = holding.accelerators.iter().map(AcceleratorId::as_str).collect();
    let line = format!(
        "{} as {} holds {} {}..{} by {}",
        holding.principal,
        holding.attempt,
        list.join("+"),
        seconds(holding.span.start()),
        seconds(holding.span.end()),
        holding.evidence,
    );
    line.replace(&"ab".repeat(16), "BOOT")
}

/// A machine's file, of this project, with these PCI functions or mediated devices.
pub(crate) fn machine(number: u32, uuid_digit: char, project: &str, pid: u32, given: &[&str]) -> String {
    let uuid: String = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx".replace('x', &uuid_digit.to_string());
    let mut devices = String::new();
    for one in given {
        let (kind, address) = match one.split_once(':') {
            Some((domain, rest)) => {
                let (bus, rest) = rest.split_once(':').expect("an address");
                let (slot, function) = rest.split_once('.').expect("an address");
                let address =
                    format!("domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'");
                ("pci", address)
            }
            None => ("mdev", format!("uuid='{one}'")),
        };
        write!(
            devices,
            "<hostdev mode='subsystem' type='{kind}'><source><address {address}/></source></hostdev>"
        )
        .expect("string");
    }
    format!(
        "<domstatus state='running' reason='booted' pid='{pid}'><domain type='kvm' id='{number}'><name>secret</name>\
         <uuid>{uuid}</uuid><metadata><n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'><n:owner>\
         <n:project uuid='{project}'/></n:owner></n:instance></metadata><devices>{devices}</devices></domain>\
         </domstatus>\n"
    )
}
