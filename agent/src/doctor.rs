//! Looks at everything an agent needs, and says what was found, what is missing and what that costs.

mod holders;
mod kubernetes;

use std::{fmt::Write, path::Path, sync::Arc};

use weighbridge_meter::{AcceleratorId, AcceleratorTable, Condition, GapCause, Tier};

use crate::{
    clock::Clock,
    config::{Config, SourceConfig},
    engine::is_metered,
    holders::slurm::{FolderState, MOST_FILES, SlurmHooks, SlurmOptions, order::OrderedBy},
    key,
    run::{amdgpu_options, nvml_options, passthrough_options, sender},
    source::{
        AcceleratorSource, AmdgpuSource, DcgmSource, Device, GaudiSource, NvmlSource, RedfishSource,
        SourceState, WithPassthrough,
    },
    spool,
    tls::Identity,
    uplink::chain,
};

/// What was found.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// For people, line by line.
    pub report: String,
    /// Something is wrong.
    pub failed: bool,
    /// There is no driver.
    pub driver_missing: bool,
    /// Accelerators that are there and cannot be named.
    unidentified: u32,
}

impl Diagnosis {
    fn good(&mut self, text: impl std::fmt::Display) {
        self.line("  ok ", text);
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.line(" note", text);
    }

    fn fail(&mut self, text: impl std::fmt::Display) {
        self.failed = true;
        self.line("FAIL ", text);
    }

    fn line(&mut self, mark: &str, text: impl std::fmt::Display) {
        writeln!(self.report, "{mark} {text}").expect("a string takes everything");
    }
}

/// Looks once; changes nothing, makes no key and no spool.
pub async fn examine(config: &Config, clock: Arc<dyn Clock>) -> Diagnosis {
    let mut found = Diagnosis::default();
    let (devices, pids) = source(config, &mut found).await;
    holders::examine(config, pids.as_deref(), clock.boot(), clock.now().boot_ms, &mut found);
    holders::machines(config, clock.as_ref(), &devices, &mut found);
    slurm(config, clock.as_ref(), &devices, &mut found);
    kubernetes::examine(config, &devices, &mut found).await;
    spool_state(&config.spool.dir, &mut found);
    collectors(config, clock, &mut found).await;
    enrolment(config, &mut found);
    found
}

/// The devices that were found, and the processes that have one open, if the source names any.
async fn source(config: &Config, found: &mut Diagnosis) -> (Vec<Device>, Option<Vec<u32>>) {
    match &config.source {
        SourceConfig::Nvml { sysfs, .. } => {
            let inner = NvmlSource::start(nvml_options(config));
            look(WithPassthrough::new(inner, passthrough_options(config, sysfs)), "nvml", found).await
        }
        SourceConfig::Amdgpu { sysfs, .. } => {
            let inner = AmdgpuSource::start(amdgpu_options(config));
            look(WithPassthrough::new(inner, passthrough_options(config, sysfs)), "amdgpu", found).await
        }
        SourceConfig::Dcgm(options) => look(DcgmSource::start(options.clone()), "dcgm", found).await,
        SourceConfig::Gaudi(options) => look(GaudiSource::start(options.clone()), "gaudi", found).await,
        SourceConfig::Redfish(options) => look(RedfishSource::start(options.clone()), "redfish", found).await,
        SourceConfig::Simulated { scenario, .. } => {
            match crate::source::Scenario::read(scenario, &AcceleratorTable::shipped()) {
                Ok(scenario) => {
                    found.note("source simulated: nothing real is measured");
                    (devices(scenario.devices(), found), None)
                }
                Err(error) => {
                    found.fail(format!("source simulated: {}", chain(&error)));
                    (Vec::new(), None)
                }
            }
        }
        SourceConfig::Replay { file, models, .. } => {
            match crate::source::Replay::read(file, &config.agent, models, 10_000) {
                Ok(replay) => {
                    found.note(format!("source replay: a recording of {} s", replay.end_ms() / 1000));
                    (devices(replay.devices(), found), None)
                }
                Err(error) => {
                    found.fail(format!("source replay: {}", chain(&error)));
                    (Vec::new(), None)
                }
            }
        }
        SourceConfig::Allocation { devices: list } => {
            found
                .note("source allocation: nothing is read; operations are bounded by what the models can do");
            (devices(list.clone(), found), None)
        }
    }
}

/// Looks once through a source that asks something.
async fn look(
    mut source: impl AcceleratorSource,
    what: &str,
    found: &mut Diagnosis,
) -> (Vec<Device>, Option<Vec<u32>>) {
    let look = source.look().await;
    match look.source_state {
        SourceState::Ok => found.good(format!("source {what} answers")),
        SourceState::Missing(cause, why) => {
            found.driver_missing = cause == GapCause::DriverMissing;
            found.fail(format!(
                "source {what}: {cause} ({why}); without it every accelerator-second is a gap"
            ));
        }
    }
    found.unidentified = look.unidentified;
    if look.unidentified > 0 {
        found.fail(format!("{} accelerators cannot be named and are not metered", look.unidentified));
    }
    let devices = devices(look.inventory_changed.unwrap_or_default(), found);
    let mut pids: Option<Vec<u32>> = None;
    for of_device in look.devices.into_iter().filter_map(|device| device.pids) {
        pids.get_or_insert_default().extend(of_device);
    }
    if let Some(pids) = &mut pids {
        pids.sort_unstable();
        pids.dedup();
    }
    (devices, pids)
}

fn devices(devices: Vec<Device>, found: &mut Diagnosis) -> Vec<Device> {
    if devices.is_empty() {
        found.note("no accelerator was found");
    }
    let table = AcceleratorTable::shipped();
    for device in &devices {
        let model = table.find(device.pci_device.as_deref(), &device.name);
        let row = model.map_or("not in the table".to_owned(), |model| format!("table row {}", model.name));
        let text = format!("{}: {}, tier {}, {row}", device.id, device.name, device.tier);
        let worse = device.conditions.iter().filter(|condition| **condition != Condition::Split);
        let worse: Vec<&str> = worse.map(|condition| condition.as_str()).collect();
        let text = if worse.is_empty() { text } else { format!("{text}; {}", worse.join(", ")) };
        if device.conditions.contains(&Condition::Split) {
            found.note(format!("{text}; split into instances, which are metered in its place"));
        } else if model.is_none() {
            found.fail(format!("{text}: bounds are those of the fastest device there is"));
        } else if device.tier <= Tier::C {
            found.good(text);
        } else if is_metered(device.tier) {
            found.note(format!("{text}: no tensor activity, so operations are bounded from above only"));
        } else {
            found.note(format!("{text}: allocation only"));
        }
    }
    devices
}

/// What Slurm's hooks tell, with one job from its numbers to its principal.
fn slurm(config: &Config, clock: &dyn Clock, devices: &[Device], found: &mut Diagnosis) {
    let Some(folder) = &config.slurm_hooks else { return };
    let shown = folder.display();
    let options = SlurmOptions::of_host(folder.clone(), Some(clock.boot()));
    let mut hooks = SlurmHooks::new(SlurmOptions { order: config.slurm_order.clone(), ..options });
    hooks.examine(clock.now(), devices, found.unidentified);
    let state = hooks.state();
    match state.folder {
        FolderState::Unused => {
            return found.note(format!(
                "slurm hooks {shown}: not there; on a node of Slurm without them no job is known before its processes \
                 are, nor by its account"
            ));
        }
        FolderState::Ok => {
            found.good(format!("slurm hooks {shown}: {} allocations go on", state.open));
        }
        FolderState::Unreadable => found.fail(format!("slurm hooks {shown}: cannot be read")),
        FolderState::Unsafe => {
            found.fail(format!(
                "slurm hooks {shown}: others than root can write to it, so nothing in it is believed"
            ));
        }
        FolderState::Crowded => {
            found.fail(format!("slurm hooks {shown}: more than {MOST_FILES} files are in it"))
        }
    }
    for (refusal, count) in &state.refused {
        found.fail(format!("slurm hooks {shown}: {count} files are not believed: {}", refusal.as_str()));
    }
    let order = hooks.order();
    let name = |id: &Option<AcceleratorId>| id.as_ref().map_or("unknown".to_owned(), ToString::to_string);
    let numbers: Vec<String> =
        order.numbers().iter().enumerate().map(|(number, id)| format!("{number} is {}", name(id))).collect();
    let text = format!("slurm counts accelerators by {}: {}", order.by().as_str(), numbers.join(", "));
    if !order.has_numbers() && !devices.is_empty() {
        found.fail(
            "slurm counts accelerators of which some cannot be named: its numbers mean none until they can, unless \
             holders.slurm_order says them"
                .to_owned(),
        );
    } else if order.by() == OrderedBy::Finding && order.numbers().len() > 1 {
        found.note(format!("{text}; if gres.conf lists them otherwise, jobs are told the wrong ones"));
    } else {
        found.good(text);
    }
    if state.unknown_accelerators > 0 {
        let count = state.unknown_accelerators;
        found.fail(format!(
            "slurm gave away {count} accelerators that are not known here: set holders.slurm_order"
        ));
    }
    if let Some(example) = hooks.example() {
        found.line("     ", example);
    }
}

fn spool_state(dir: &Path, found: &mut Diagnosis) {
    match spool::inspect(dir) {
        Ok(inspection) if inspection.epochs.is_empty() => {
            found.note(format!("spool {}: not there yet; the first run makes it", dir.display()));
        }
        Ok(inspection) => {
            let waiting: u64 = inspection.epochs.iter().map(|epoch| epoch.waiting).sum();
            found.good(format!("spool {}: {waiting} batches wait", dir.display()));
            if !inspection.parked.is_empty() {
                found.fail(format!(
                    "spool {}: {} batches were refused for good; they lie in its folder parked",
                    dir.display(),
                    inspection.parked.len()
                ));
            }
            if !inspection.quarantined.is_empty() {
                found.fail(format!(
                    "spool {}: {} files had damage in them; they lie in its folder quarantine",
                    dir.display(),
                    inspection.quarantined.len()
                ));
            }
        }
        Err(error) => found.fail(format!("spool {}: {}", dir.display(), chain(&error))),
    }
}

async fn collectors(config: &Config, clock: Arc<dyn Clock>, found: &mut Diagnosis) {
    let sender = match sender(config.uplink.clone(), &config.tls, clock) {
        Ok(Some(sender)) => sender,
        Ok(None) => return found.note("no collector is configured; batches wait in the spool"),
        Err(error) => return found.fail(chain(&error)),
    };
    if let Some(identity) = sender.identity() {
        certificate(config, identity, found);
    }
    for (url, result) in sender.probe().await {
        match result {
            Ok(status) => found.good(format!("collector {url}: reachable (answers {status})")),
            Err(why) => found.fail(format!("collector {url}: {why}")),
        }
    }
}

/// How this agent is enrolled, and until when.
fn certificate(config: &Config, identity: &Identity, found: &mut Diagnosis) {
    let state = identity.state();
    let ready = match &state.ready {
        Ok(ready) => ready,
        Err(error) => return found.fail(format!("certificate: {}", chain(error))),
    };
    let path = identity.files().certificate_path();
    let of = ready.agent.as_ref().map_or("of the site's own authority".to_owned(), |id| format!("of {id}"));
    let (until, now) = (ready.certificate.not_after, identity.wall());
    let text =
        format!("certificate {} {of}, {} authorities, until {until}", path.display(), ready.authorities);
    if ready.agent.as_ref().is_some_and(|agent| *agent != config.agent) {
        found.fail(format!("{text}: this agent is {}; enrol it anew", config.agent));
    } else if until < now {
        let next = "the running agent asks for another; if the collector refuses, enrol it anew";
        found.fail(format!("{text}: it has ended, by this host's clock; {next}"));
    } else if now < ready.certificate.not_before {
        let from = ready.certificate.not_before;
        found.fail(format!("{text}: it begins at {from}, and this host's clock says {now}: set the clock"));
    } else if identity.files().are_own() {
        found.good(format!("{text}; the running agent renews it from {} on", ready.certificate.renew_at()));
    } else {
        found.good(format!("{text}; it is read again when the file changes"));
    }
}

fn enrolment(config: &Config, found: &mut Diagnosis) {
    match key::read(&config.key_file) {
        Ok(Some(key)) => {
            found.good(format!("key {}", config.key_file.display()));
            found.line(
                "     ",
                "to enrol it, use a join token (weighbridge-agent enroll), or add to the collector's agents.csv:",
            );
            found.line("     ", "agent,host,site,fabric,public_key,valid_from,valid_to");
            let public = key::public_base64(&key);
            found.line("     ", format!("{},{},SITE,FABRIC,{public},FROM,", config.agent, config.host));
        }
        Ok(None) => found.note(format!(
            "key {}: not there yet; the first run makes it, then run doctor again to enrol",
            config.key_file.display()
        )),
        Err(error) => found.fail(chain(&error)),
    }
}
