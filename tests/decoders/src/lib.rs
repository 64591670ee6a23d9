//! Everything that reads bytes which others have written, each as one function that must come back whatever it
//! is given: [`TARGETS`].
//!
//! `tests/fuzz` runs them under libFuzzer for minutes or hours; the ordinary tests run them on their seeds, on
//! the crashes that were ever found, and on some thousand mutations.
//!
//! What they decode is looked at no further, but that a second look gives the same where that is cheap: what is
//! right and what is wrong is for the tests beside each decoder.

mod files;
mod seeds;
mod trust;

use std::path::Path;

use weighbridge_agent::{
    config::{Layers, ReplayModels},
    holders::{
        libvirt::domain::{Domain, Given, Project},
        slurm::{order::Order, told::Told},
    },
    source::{Device, Replay, Scenario, exposition},
};
use weighbridge_casework::RulePack;
use weighbridge_collector::config::Flags;
use weighbridge_meter::{AcceleratorTable, UtcMillis};
use weighbridge_registry::import;
use weighbridge_store::{Entry, tree::promise::Promise};
use weighbridge_tests::handmade;
use weighbridge_tlog::{
    checkpoint::Checkpoint,
    note::{Note, VerifierKey},
    receipt::Receipt,
    tile::Tile,
    witness::AddCheckpoint,
};
use weighbridge_wire::{Envelope, SigningKey, seal::seal};

pub use self::seeds::seeds;

/// One decoder.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it reads.
    pub name: &'static str,
    /// Reads anything.
    pub read: fn(&[u8]),
    /// More bytes than this show nothing new.
    pub most: usize,
}

/// All decoders.
pub const TARGETS: &[Target] = &[
    Target { name: "journal", read: files::journal, most: 4_096 },
    Target { name: "spool-files", read: files::spool, most: 1_024 },
    Target { name: "envelope", read: envelope, most: 8_192 },
    Target { name: "batch", read: batch, most: 4_096 },
    Target { name: "ledger-entry", read: ledger_entry, most: 4_096 },
    Target { name: "exposition", read: text_exposition, most: 8_192 },
    Target { name: "redfish", read: weighbridge_agent::source::redfish::read_anything, most: 8_192 },
    Target { name: "gpu-metrics", read: weighbridge_agent::source::amdgpu::read_anything, most: 4_096 },
    Target { name: "answer", read: weighbridge_agent::uplink::read_anything, most: 2_048 },
    Target { name: "lease-file", read: lease_file, most: 4_096 },
    Target { name: "process-files", read: weighbridge_agent::holders::read_anything, most: 4_096 },
    Target { name: "import-agents", read: |bytes| drop(import::parse_agents("a.csv", bytes)), most: 4_096 },
    Target {
        name: "import-customers",
        read: |bytes| drop(import::parse_customers("c.csv", bytes)),
        most: 4_096,
    },
    Target {
        name: "import-principals",
        read: |bytes| drop(import::parse_principals("p.csv", bytes)),
        most: 4_096,
    },
    Target { name: "import-leases", read: |bytes| drop(import::parse_leases("l.csv", bytes)), most: 4_096 },
    Target { name: "import-parties", read: parties, most: 4_096 },
    Target {
        name: "party-mapping",
        read: |bytes| drop(import::Mapping::parse("m.toml", bytes)),
        most: 4_096,
    },
    Target { name: "party-records", read: party_records, most: 4_096 },
    Target {
        name: "import-interests",
        read: |bytes| drop(import::parse_interests("i.csv", bytes)),
        most: 4_096,
    },
    Target {
        name: "access-log",
        read: |bytes| drop(import::read_accesses("a", bytes, UtcMillis(i64::MAX))),
        most: 4_096,
    },
    Target { name: "place-database", read: weighbridge_registry::places::read_anything, most: 8_192 },
    Target { name: "import-slurm", read: |bytes| drop(import::parse_slurm("s.json", bytes)), most: 8_192 },
    Target { name: "slurm-hook", read: slurm_hook, most: 2_048 },
    Target { name: "libvirt-domain", read: libvirt_domain, most: 16_384 },
    Target { name: "kubernetes", read: weighbridge_agent::holders::kubernetes::read_anything, most: 8_192 },
    Target { name: "rule-pack", read: rule_pack, most: 16_384 },
    Target { name: "agent-config", read: agent_config, most: 4_096 },
    Target { name: "collector-config", read: collector_config, most: 4_096 },
    Target { name: "certificate", read: trust::certificate, most: 4_096 },
    Target { name: "certificate-request", read: trust::certificate_request, most: 2_048 },
    Target { name: "enrolment", read: trust::enrolment, most: 4_096 },
    Target { name: "accelerator-table", read: accelerator_table, most: 8_192 },
    Target { name: "recording", read: recording, most: 4_096 },
    Target { name: "scenario", read: scenario, most: 4_096 },
    Target { name: "log-text", read: log_text, most: 4_096 },
    Target { name: "promise", read: promise, most: 2_048 },
    Target { name: "status-report", read: weighbridge_wire::report::read_anything, most: 2_048 },
    Target { name: "usage-summary", read: files::usage_summary, most: 4_096 },
    Target { name: "backup-manifest", read: files::backup_manifest, most: 4_096 },
    Target { name: "report-proof", read: weighbridge_collector::proof::check::read_anything, most: 8_192 },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Each byte for its own meaning: what is not UTF-8 is for those who read bytes.
fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn envelope(bytes: &[u8]) {
    let Ok(envelope) = Envelope::decode(bytes) else { return };
    let _ = envelope.key_id();
    drop(envelope.read());
}

/// What is in an envelope whose signature is right: whoever has a key can put anything there.
fn batch(bytes: &[u8]) {
    let Ok(payload) = zstd::bulk::compress(bytes, 1) else { return };
    let envelope = handmade::envelope(&payload, &[0; 16], &[0; 64]);
    let Ok(batch) = Envelope::decode(&envelope).and_then(|envelope| envelope.read()) else { return };
    // What was taken is what would be sent.
    let sealed = seal(&batch, &SigningKey::from_bytes(&[1; 32]));
    let Ok(sealed) = sealed else { return };
    let again = Envelope::decode(&sealed.bytes).and_then(|envelope| envelope.read());
    assert!(again.is_ok_and(|again| again == batch), "a batch that was taken reads back as another");
}

fn ledger_entry(bytes: &[u8]) {
    let Ok(entry) = Entry::decode(bytes) else { return };
    let encoded = entry.encode(&[3; 16]);
    let again = Entry::decode(&encoded).map(|again| again.encode(&[3; 16]));
    assert!(again.is_ok_and(|again| again == encoded), "an entry that was read reads back as another");
}

fn text_exposition(bytes: &[u8]) {
    for sample in exposition::samples(bytes).flatten() {
        let _ = (sample.label("gpu"), sample.value.number());
    }
}

/// In columns called as the paths, and in those of a mapping. What was taken is written and reads back.
fn parties(bytes: &[u8]) {
    let told = import::Told { at: UtcMillis(0), by: "desk" };
    if let Ok(mapping) = import::Mapping::parse("m.toml", seeds::MAPPING.as_bytes()) {
        drop(import::parse_parties("p.csv", bytes, Some(&mapping), told));
    }
    let Ok(parties) = import::parse_parties("p.csv", bytes, None, told) else { return };
    let again = import::parse_parties("p.csv", import::write_parties(&parties).as_bytes(), None, told);
    assert!(again.is_ok_and(|again| again == parties), "parties that were taken read back as others");
}

fn party_records(bytes: &[u8]) {
    let Ok(records) = import::parse_records("p.ndjson", bytes) else { return };
    let again = import::parse_records("p.ndjson", import::write_records(&records).as_bytes());
    assert!(again.is_ok_and(|again| again == records), "records that were taken read back as others");
}

fn lease_file(bytes: &[u8]) {
    drop(weighbridge_agent::holders::parse_leases(&text(bytes), "host-1"));
}

fn slurm_hook(bytes: &[u8]) {
    let Some(told) = Told::parse(bytes) else { return };
    let devices = ["GPU-a", "GPU-b"].map(|id| {
        Device::new(
            id.parse().expect("a name"),
            "x",
            weighbridge_meter::Source::Nvml,
            weighbridge_meter::Tier::B,
        )
    });
    let (found, _) = Order::of(&devices, 0, &[], Path::new("/nonexistent")).find(&told.gpus);
    assert!(found.len() <= devices.len(), "an accelerator is given once");
    assert!(told.name().len() < 200 && !told.name().contains('/'), "a name is a name of a file");
}

/// Whatever is in it, what is taken of it is identifiers.
fn libvirt_domain(bytes: &[u8]) {
    let Some(domain) = Domain::parse(bytes) else { return };
    let is_plain = |text: &str| {
        text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_:.".contains(&byte))
    };
    assert!(is_plain(&domain.uuid) && domain.uuid.len() == 36);
    assert!(!matches!(&domain.project, Project::Known(project) if !is_plain(project)));
    for given in &domain.given {
        let (Given::Function(name) | Given::Mediated(name)) = given;
        assert!(is_plain(name), "{name}");
    }
}

fn rule_pack(bytes: &[u8]) {
    drop(RulePack::parse("pack@1.toml", &text(bytes)));
}

fn agent_config(bytes: &[u8]) {
    files::as_file("agent.toml", bytes, |file: &Path| {
        let layers = Layers { file: Some(file.to_owned()), flags: Vec::new(), environment: false };
        drop(weighbridge_agent::config::load(&layers, "host-1"));
    });
}

fn collector_config(bytes: &[u8]) {
    drop(weighbridge_collector::config::parse(&text(bytes), &Flags::default()));
}

fn accelerator_table(bytes: &[u8]) {
    drop(AcceleratorTable::parse(&text(bytes)));
}

fn recording(bytes: &[u8]) {
    let Ok(agent) = "host-1".parse() else { return };
    let model = "NVIDIA H100 80GB HBM3".into();
    let models = ReplayModels { model, of_gpu: Default::default(), clock_mhz: None };
    drop(Replay::parse(&text(bytes), &agent, &models, 10_000));
}

/// What logs and witnesses send each other, and the names of tiles.
fn log_text(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(note) = text.parse::<Note>() {
        assert_eq!(note.to_string().parse(), Ok(note.clone()), "a note reads back as another");
        drop(Checkpoint::parse(&note.text));
    }
    drop(text.parse::<VerifierKey>());
    drop(text.parse::<AddCheckpoint>());
    drop(text.parse::<Receipt>());
    for path in text.lines() {
        if let Some(tile) = Tile::parse(path) {
            assert_eq!(tile.path(), path, "a tile has one name");
            drop(tile.decode(bytes));
        }
    }
}

fn promise(bytes: &[u8]) {
    let Ok(promise) = serde_json::from_slice::<Promise>(bytes) else { return };
    let key = SigningKey::from_bytes(&[1; 32]).verifying_key();
    assert!(promise.leaf(&key).is_err() || !promise.promise.signature.is_empty());
}

fn scenario(bytes: &[u8]) {
    let Ok(scenario) = Scenario::parse(&text(bytes), &AcceleratorTable::shipped()) else { return };
    let _ = scenario.look_at(61_000);
}
