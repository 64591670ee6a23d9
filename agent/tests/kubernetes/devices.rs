//! What device plugins and drivers call their devices, and which accelerators those are.

use std::{fmt::Write, fs};

use expect_test::expect_file;
use weighbridge_agent::{
    holders::kubernetes::{
        devices::{Accelerators, ClaimDevice},
        slices,
    },
    source::{Device, Instance},
};
use weighbridge_meter::{AcceleratorId, Source, Tier};

fn uuid(kind: &str, digit: char) -> String {
    format!("{kind}-{}", "01234567-89ab-cdef-0123-456789abcde_".replace('_', &digit.to_string()))
}

fn id(text: &str) -> AcceleratorId {
    text.parse().expect("a name")
}

fn device(name: &str, address: Option<&str>, parent: Option<&str>, numbers: Option<(u32, u32)>) -> Device {
    Device {
        pci_address: address.map(str::to_owned),
        parent: parent.map(id),
        instance: numbers.map(|(gi, ci)| Instance { gi, ci }),
        ..Device::new(id(name), "x", Source::Nvml, Tier::B)
    }
}

/// GPU 0 is whole, GPU 1 is split, of GPU 2 the parts have no numbers; two of AMD's, one split; one of Gaudi's; and
/// one of another host.
fn devices() -> Vec<Device> {
    let gpu = |digit| uuid("GPU", digit);
    let part = |digit| uuid("MIG", digit);
    let old = format!("MIG-{}/7/0", gpu('3'));
    vec![
        device(&gpu('0'), Some("0000:01:00.0"), None, None),
        device(&gpu('1'), Some("0000:41:00.0"), None, None),
        device(&part('a'), Some("0000:41:00.0"), Some(&gpu('1')), Some((1, 0))),
        device(&part('b'), Some("0000:41:00.0"), Some(&gpu('1')), Some((2, 0))),
        device(&part('c'), Some("0000:41:00.0"), Some(&gpu('1')), Some((2, 1))),
        device(&gpu('2'), Some("0000:81:00.0"), None, None),
        device(&part('d'), Some("0000:81:00.0"), Some(&gpu('2')), None),
        device(&gpu('3'), None, None, None),
        device(&old, None, Some(&gpu('3')), Some((7, 0))),
        device("AMD-0x1", Some("0000:c1:00.0"), None, None),
        device("AMD-0x2", Some("0000:c6:00.0"), None, None),
        device("AMD-0x2/0", Some("0000:c6:00.0"), Some("AMD-0x2"), None),
        device("AMD-0x2/1", Some("0000:c6:00.0"), Some("AMD-0x2"), None),
        Device { host: Some("here".into()), ..device("AN40010733", None, None, None) },
        Device { host: Some("elsewhere".into()), ..device(&gpu('e'), None, None, None) },
        Device { present: false, ..device(&part('f'), None, Some(&gpu('0')), Some((1, 0))) },
    ]
}

fn accelerators(with_nodes: bool) -> Accelerators {
    let dir = tempfile::tempdir().expect("a folder");
    for (address, minor) in [("0000:01:00.0", 0), ("0000:41:00.0", 1), ("0000:81:00.0", 2)] {
        let folder = dir.path().join("driver/nvidia/gpus").join(address);
        fs::create_dir_all(&folder).expect("a folder");
        let text = format!("Model: \t\t NVIDIA H100\nDevice Minor: \t {minor}\n");
        fs::write(folder.join("information"), text).expect("written");
    }
    let proc = if with_nodes { dir.path() } else { "/nonexistent".as_ref() };
    let accelerators = Accelerators::of(&devices(), &["here".into()], proc);
    // The driver is asked at the first name that needs it, and only then.
    let _ = accelerators.find("nvidia.com/gpu", "nvidia0");
    accelerators
}

fn shown<E: std::fmt::Debug>(found: Result<Vec<AcceleratorId>, E>) -> String {
    match found {
        Ok(ids) if ids.is_empty() => "no accelerator".into(),
        Ok(ids) => ids.iter().map(AcceleratorId::as_str).collect::<Vec<_>>().join(" + "),
        Err(why) => format!("{why:?}"),
    }
}

#[test]
fn every_name_of_a_device_is_an_accelerator_or_a_named_reason() {
    let named = accelerators(true);
    let gpu = |digit| uuid("GPU", digit);
    let part = |digit| uuid("MIG", digit);
    let old = |digit, rest: &str| format!("MIG-{}{rest}", gpu(digit));
    let texts = |resource: &'static str, ids: &[&str]| -> Vec<(&'static str, String)> {
        ids.iter().map(|id| (resource, (*id).to_owned())).collect()
    };
    let mut rows = vec![
        ("nvidia.com/gpu", gpu('0')),
        ("nvidia.com/gpu", gpu('0').to_uppercase()),
        ("nvidia.com/gpu", format!("{}::0", gpu('0'))),
        ("nvidia.com/gpu.shared", format!("{}::17", gpu('0'))),
        ("nvidia.com/gpu", gpu('1')),
        ("nvidia.com/gpu", gpu('9')),
        ("nvidia.com/gpu", gpu('e')),
        ("nvidia.com/mig-1g.10gb", part('a')),
        ("nvidia.com/mig-1g.10gb.shared", format!("{}::1", part('a'))),
        ("nvidia.com/mig-1g.10gb", part('9')),
        ("nvidia.com/mig-1g.10gb", part('f')),
        ("nvidia.com/mig-1g.10gb", old('1', "/1/0")),
        ("nvidia.com/mig-1g.10gb", old('1', "/2/1")),
        ("nvidia.com/mig-1g.10gb", old('1', "/9/0")),
        ("nvidia.com/mig-1g.10gb", old('2', "/1/0")),
        ("nvidia.com/mig-1g.10gb", old('3', "/7/0")),
        ("nvidia.com/mig-1g.10gb", old('9', "/1/0")),
        ("nvidia.com/mig-1g.10gb", old('1', "/1")),
        ("example.com/renamed", gpu('0')),
        ("example.com/renamed", gpu('9')),
    ];
    rows.extend(texts(
        "nvidia.com/gpu",
        &[
            "nvidia0",
            "nvidia0/vgpu3",
            "nvidia1",
            "nvidia1/gi1",
            "nvidia1/gi2",
            "nvidia1/gi2/vgpu5",
            "nvidia1/gi3",
            "nvidia2/gi1",
            "nvidia7",
            "nvidia",
            "nvidia01",
            "nvidia0/",
            "nvidia0/gi",
            "nvidia0/vgpu",
            "nvidia0/vgpu1/gi1",
            "nvidia0/gi1/vgpu1/x",
            "nvidia99999999999",
            "nvidiactl",
            "0",
            "",
            "GPU-01234567",
            "::0",
            "0000:01:00.0",
        ],
    ));
    rows.extend(texts(
        "amd.com/gpu",
        &["0000:c1:00.0", "0000:C1:00.0", "0000:c6:00.0", "amdgpu_xcp_3", "0000:d1:00.0", "c1:00.0", "card1"],
    ));
    rows.extend(texts("habana.ai/gaudi", &["AN40010733", "AN99999999"]));
    rows.extend(texts("rdma/hca_shared_devices_a", &["0", "mlx5_0"]));
    rows.extend(texts("devices.kubevirt.io/kvm", &["kvm12"]));
    rows.extend(texts("no-vendor", &["x"]));
    let mut table = String::new();
    for (resource, id) in &rows {
        writeln!(table, "{resource} {id:?}: {}", shown(named.find(resource, id))).expect("a string");
    }
    let without = accelerators(false);
    for id in ["nvidia0", "nvidia1/gi1", &gpu('0')] {
        writeln!(table, "without numbers of nodes, {id:?}: {}", shown(without.find("nvidia.com/gpu", id)))
            .expect("a string");
    }
    for version in ["v1", "v1beta1"] {
        let file = format!("{}/tests/kubernetes/slices-{version}.json", env!("CARGO_MANIFEST_DIR"));
        let slices = slices(&fs::read(file).expect("a fixture")).expect("a list of slices");
        for (driver, device) in [
            ("gpu.nvidia.com", "gpu-0"),
            ("gpu.nvidia.com", "gpu-1-mig-1g10gb-19-0"),
            ("gpu.nvidia.com", "gpu-8"),
            ("gpu.nvidia.com", "gpu-9"),
            ("compute-domain.nvidia.com", "channel-0"),
            ("gpu.amd.com", "gpu-16-144"),
            ("net.example", "eth1"),
        ] {
            let claim = ClaimDevice { driver: driver.into(), pool: "node-1".into(), device: device.into() };
            let found = shown(named.claimed(&claim, &slices));
            writeln!(table, "claim of {driver} {device} by {version}: {found}").expect("a string");
        }
    }
    expect_file!["devices.expected"].assert_eq(&table);
}
