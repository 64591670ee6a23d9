//! What the agent says about itself to Prometheus.
//!
//! Counters of operations and energy are what this agent recorded since it started: the account is the
//! collector's. Labels are bounded by the accelerators of one host and by lists in the code.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    Counter, CounterVec, Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use weighbridge_meter::{
    Condition, Estimator, GapCause, Hardware, Tier, UtcMillis, window::Counter as Integral,
};
use weighbridge_wire::{Batch, DeviceRecord};

use crate::{
    holders::{
        HolderStates, LeaseState, ProcessState,
        kubernetes::{ApiState, KubeletState, KubernetesState, devices::Unmapped},
        libvirt::{self, LibvirtState, MachineState},
        slurm::{FolderState, Refusal, SlurmState},
    },
    spool::{Spool, SpoolEvent},
    tls::Identity,
    uplink::{Retry, Stopped},
};

/// All metrics of an agent.
pub struct Metrics {
    estimator: Estimator,
    windows: IntCounterVec,
    gap_seconds: CounterVec,
    teraoperations: IntCounterVec,
    energy: CounterVec,
    spool_bytes: IntGauge,
    spool_unacknowledged_bytes: IntGauge,
    unacknowledged: IntGauge,
    parked: IntGauge,
    quarantined: IntGauge,
    quarantined_bytes: IntGauge,
    damaged_epochs: IntCounter,
    lost: IntCounterVec,
    losses_to_tell: IntGauge,
    full_seconds: Counter,
    promises: IntGauge,
    asked_again: IntCounter,
    sealed: IntCounter,
    seal_failures: IntCounterVec,
    dropped_holdings: IntGauge,
    sent: IntCounterVec,
    refused: IntCounterVec,
    last_send: IntGauge,
    uplink_state: IntGaugeVec,
    source_state: IntGaugeVec,
    lease_state: IntGaugeVec,
    device_processes: IntGaugeVec,
    unresolved_processes: IntCounter,
    slurm_folder: IntGaugeVec,
    slurm_refused: IntGaugeVec,
    slurm_allocations: IntGaugeVec,
    slurm_unknown: IntGauge,
    libvirt_folder: IntGaugeVec,
    libvirt_refused: IntGaugeVec,
    machines: IntGaugeVec,
    machine_accelerators: IntGauge,
    machine_split: IntGauge,
    kubelet_state: IntGaugeVec,
    api_state: IntGaugeVec,
    kubernetes_pods: IntGaugeVec,
    kubernetes_unmapped: IntGaugeVec,
    renewals: IntCounterVec,
    certificate_left: IntGauge,
    identity: Mutex<Option<Arc<Identity>>>,
    unidentified: IntGauge,
    tiers: IntGaugeVec,
    conditions: IntGaugeVec,
    process: Mutex<Process>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// The agent as a process; read when somebody asks.
struct Process {
    /// `None` where there is no table of processes.
    system: Option<System>,
    cpu: Counter,
    resident: IntGauge,
    open_files: IntGauge,
}

/// States of a source that can be told apart.
const SOURCE_STATES: [&str; 9] = [
    crate::engine::SOURCE_OK,
    "starting",
    "driver_missing",
    "call_hung",
    "read_failed",
    "released",
    "unreachable",
    "stale",
    "other",
];

/// States of the uplink beside those of [`Retry`].
const UPLINK_OK: &str = "ok";
const UPLINK_SPOOL: &str = "spool_failed";

impl Metrics {
    /// Registers all of them. An error means that one of the names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let register = Registering(registry);
        register
            .gauges("build_info", "Always 1; the label says which version this is.", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Ok(Self {
            estimator: Estimator::shipped(),
            windows: register.counters("windows_total", "Windows recorded.", &["accelerator"])?,
            gap_seconds: register.float_counters(
                "gap_seconds_total",
                "Time recorded as not measured, by cause.",
                &["accelerator", "cause"],
            )?,
            teraoperations: register.counters(
                "estimated_teraoperations_total",
                "Operations in units of 1e12 that the recorded windows amount to: best estimate and physical bounds.",
                &["accelerator", "bound"],
            )?,
            energy: register.float_counters(
                "energy_joules_total",
                "Energy in the recorded windows.",
                &["accelerator"],
            )?,
            spool_bytes: register.gauge("spool_bytes", "Bytes of batches in the spool.")?,
            spool_unacknowledged_bytes: register
                .gauge("spool_unacknowledged_bytes", "Bytes of batches that no collector acknowledged yet.")?,
            unacknowledged: register
                .gauge("spool_unacknowledged_batches", "Batches that no collector acknowledged yet.")?,
            parked: register
                .gauge("spool_parked_batches", "Batches that a collector refused for good: look into them.")?,
            quarantined: register
                .gauge("spool_quarantined_files", "Files of the spool with damage in them: look into them.")?,
            quarantined_bytes: register
                .gauge("spool_quarantined_bytes", "Bytes of files of the spool with damage in them.")?,
            damaged_epochs: register
                .counter("spool_damaged_epochs_total", "Times that an epoch of the spool was found damaged.")?,
            lost: register.counters(
                "batches_lost_total",
                "Batches that the collector was or will be told not to expect, by cause.",
                &["cause"],
            )?,
            losses_to_tell: register.gauge(
                "spool_losses_to_tell",
                "Ranges of batches of which the collector is still to be told that they are lost.",
            )?,
            full_seconds: register.float_counter(
                "spool_full_seconds_total",
                "Time in which the spool or its disk took no windows.",
            )?,
            promises: register.gauge(
                "promises_kept",
                "Signed promises of the collector that were taken since the start, for batches kept here.",
            )?,
            asked_again: register.counter(
                "batch_ranges_asked_again_total",
                "Ranges of batches that the collector had not got and that were sent again.",
            )?,
            sealed: register.counter("batches_sealed_total", "Batches made durable in the spool.")?,
            seal_failures: register.counters(
                "seal_failures_total",
                "Times that a batch could not be kept; what it held waits in memory.",
                &["reason"],
            )?,
            dropped_holdings: register
                .gauge("dropped_holdings", "Holdings given up since the start because the spool took none.")?,
            sent: register.counters("batches_sent_total", "Batches acknowledged, by outcome.", &["outcome"])?,
            refused: register.counters(
                "batches_refused_total",
                "Batches refused for good and parked, by HTTP status.",
                &["status"],
            )?,
            last_send: register.gauge(
                "last_successful_send_timestamp_seconds",
                "When a collector last acknowledged a batch, by the agent's clock; 0 if never in this run.",
            )?,
            uplink_state: register.gauges(
                "uplink_state",
                "1 on how the last attempt to send ended.",
                &["state"],
            )?,
            source_state: register.gauges("source_state", "1 on how the source of readings is.", &["state"])?,
            lease_state: register.gauges("lease_file_state", "1 on how the lease file is.", &["state"])?,
            device_processes: register.gauges(
                "device_processes",
                "Processes that have an accelerator open, by what tells their holder: the best, or why none is known.",
                &["state"],
            )?,
            unresolved_processes: register.counter(
                "unresolved_processes_total",
                "Processes with an accelerator open whose cgroup is of an unknown shape or contradicts itself.",
            )?,
            slurm_folder: register.gauges(
                "slurm_hooks_state",
                "1 on how the folder of Slurm's hooks is; unused where there is none.",
                &["state"],
            )?,
            slurm_refused: register.gauges(
                "slurm_hook_files_refused",
                "Files there that are not believed, by why.",
                &["reason"],
            )?,
            slurm_allocations: register.gauges(
                "slurm_allocations",
                "What Slurm gave away: going on, or lapsed because slurmd and the job were gone without an epilog.",
                &["state"],
            )?,
            slurm_unknown: register.gauge(
                "slurm_unknown_accelerators",
                "Accelerators that Slurm gave away and that are none of this host's, as far as it is known here.",
            )?,
            libvirt_folder: register.gauges(
                "libvirt_state",
                "1 on how the folder of libvirt's machines is; unused where there is none.",
                &["state"],
            )?,
            libvirt_refused: register.gauges(
                "libvirt_files_refused",
                "Files there that are not believed, by why.",
                &["reason"],
            )?,
            machines: register.gauges(
                "machines",
                "Virtual machines of libvirt, by whether they have an accelerator and whose they are.",
                &["state"],
            )?,
            machine_accelerators: register.gauge(
                "machine_accelerators",
                "Accelerators of which a virtual machine of libvirt has the whole or a part.",
            )?,
            machine_split: register.gauge(
                "machine_parts_unplaced",
                "Parts of split accelerators that virtual machines have, of which it is not known which part.",
            )?,
            kubelet_state: register.gauges(
                "kubelet_state",
                "1 on how the kubelet is that says which devices pods were given; unused where there is none.",
                &["state"],
            )?,
            api_state: register.gauges(
                "kubernetes_api_state",
                "1 on how the API server is that says whose pods are; unused where it is not asked.",
                &["state"],
            )?,
            kubernetes_pods: register.gauges(
                "kubernetes_pods",
                "Pods that hold accelerators: named by the API server, or known by the kubelet alone.",
                &["state"],
            )?,
            kubernetes_unmapped: register.gauges(
                "kubernetes_unmapped_devices",
                "Devices that pods were given and that are no accelerators of this host, as far as it is known here.",
                &["reason"],
            )?,
            renewals: register.counters(
                "certificate_renewals_total",
                "Attempts to renew the certificate, by how they ended.",
                &["outcome"],
            )?,
            certificate_left: register.gauge(
                "certificate_left_seconds",
                "Time until the certificate ends, by the host's clock; negative when it has, 0 while there is none.",
            )?,
            identity: Mutex::default(),
            unidentified: register
                .gauge("unidentified_accelerators", "Accelerators that are there and cannot be named or metered.")?,
            tiers: register.gauges(
                "accelerators",
                "Accelerators present, by how good their readings are: A best, E allocation alone.",
                &["tier"],
            )?,
            conditions: register.gauges(
                "accelerators_in_condition",
                "Accelerators whose readings are worse than they could be, by what makes them so.",
                &["condition"],
            )?,
            process: Mutex::new(Process {
                system: System::new().ok(),
                cpu: register.float_counter("cpu_seconds_total", "Processor time that the agent used.")?,
                resident: register.gauge("resident_memory_bytes", "Memory that the agent occupies.")?,
                open_files: register.gauge("open_files", "Files and connections that the agent has open.")?,
            }),
        })
    }

    /// A batch is durable: what it holds is recorded from here on.
    pub fn recorded<'a>(&self, batch: &Batch, devices: impl Iterator<Item = &'a DeviceRecord> + Clone) {
        self.sealed.inc();
        for window in &batch.windows {
            let id = window.accelerator.as_str();
            self.windows.with_label_values(&[id]).inc();
            let device = devices.clone().find(|device| device.accelerator == window.accelerator);
            let hardware = device.map(|device| self.hardware(device)).unwrap_or_default();
            let bound = self.estimator.estimate(hardware, window).bound;
            for (name, value) in [("low", bound.low()), ("best", bound.best()), ("high", bound.high())] {
                self.teraoperations.with_label_values(&[id, name]).inc_by(value.tera());
            }
            if let Some(microjoules) = window.counters.get(Integral::EnergyMicrojoules) {
                self.energy.with_label_values(&[id]).inc_by(seconds_of(microjoules / 1000));
            }
        }
        for gap in &batch.gaps {
            let labels = [gap.accelerator.as_str(), gap.cause.as_str()];
            self.gap_seconds.with_label_values(&labels).inc_by(seconds_of(gap.span.millis()));
        }
    }

    fn hardware(&self, device: &DeviceRecord) -> Hardware<'_> {
        let pci = Some(device.pci_device.as_str()).filter(|pci| !pci.is_empty());
        Hardware {
            model: self.estimator.table().find(pci, &device.name),
            units: device.units,
            part: device.parent.is_some(),
            max_clock_mhz: device.max_sm_clock_mhz,
            declared: None,
        }
    }

    /// What is known of the accelerators.
    pub fn devices<'a>(&self, devices: impl Iterator<Item = &'a DeviceRecord> + Clone) {
        let count = |which: &dyn Fn(&DeviceRecord) -> bool| {
            to_i64(devices.clone().filter(|device| which(device)).count() as u64)
        };
        for &tier in Tier::ALL {
            let number = count(&|device| device.present && device.tier == tier);
            self.tiers.with_label_values(&[tier.as_str()]).set(number);
        }
        for &condition in Condition::ALL {
            let number = count(&|device| device.conditions.contains(&condition));
            self.conditions.with_label_values(&[condition.as_str()]).set(number);
        }
    }

    /// A batch could not be kept.
    pub fn not_kept(&self, reason: &'static str) {
        self.seal_failures.with_label_values(&[reason]).inc();
    }

    /// How the source, the witnesses of holders and what waits in memory are.
    pub fn looked(
        &self,
        source_state: &str,
        unidentified: u32,
        holders: &HolderStates,
        dropped_holdings: u64,
    ) {
        let named = SOURCE_STATES.iter().find(|name| **name == source_state).unwrap_or(&"other");
        one_of(&self.source_state, &SOURCE_STATES, named);
        one_of(&self.lease_state, &LeaseState::ALL.map(LeaseState::as_str), holders.leases.as_str());
        for (state, count) in ProcessState::ALL.iter().zip(holders.processes.iter().flatten()) {
            self.device_processes.with_label_values(&[state.as_str()]).set(i64::from(*count));
        }
        let counted = self.unresolved_processes.get();
        self.unresolved_processes.inc_by(holders.unresolved.saturating_sub(counted));
        self.slurm(&holders.slurm);
        self.libvirt(&holders.libvirt);
        self.kubernetes(&holders.kubernetes);
        self.unidentified.set(i64::from(unidentified));
        self.dropped_holdings.set(to_i64(dropped_holdings));
    }

    /// What there is to say of Slurm's hooks.
    fn slurm(&self, state: &SlurmState) {
        one_of(&self.slurm_folder, &FolderState::ALL.map(FolderState::as_str), state.folder.as_str());
        for refusal in Refusal::ALL {
            let count = state.refused.get(&refusal).copied().unwrap_or(0);
            self.slurm_refused.with_label_values(&[refusal.as_str()]).set(to_i64(count as u64));
        }
        for (name, count) in [("open", state.open), ("lapsed", state.lapsed)] {
            self.slurm_allocations.with_label_values(&[name]).set(to_i64(count as u64));
        }
        self.slurm_unknown.set(to_i64(state.unknown_accelerators as u64));
    }

    /// What there is to say of libvirt's machines.
    fn libvirt(&self, state: &LibvirtState) {
        let folders = libvirt::FolderState::ALL.map(libvirt::FolderState::as_str);
        one_of(&self.libvirt_folder, &folders, state.folder.as_str());
        for refusal in libvirt::Refusal::ALL {
            let count = state.refused.get(&refusal).copied().unwrap_or(0);
            self.libvirt_refused.with_label_values(&[refusal.as_str()]).set(to_i64(count as u64));
        }
        for machine in MachineState::ALL {
            let count = state.machines.get(&machine).copied().unwrap_or(0);
            self.machines.with_label_values(&[machine.as_str()]).set(to_i64(count as u64));
        }
        self.machine_accelerators.set(to_i64(state.accelerators as u64));
        self.machine_split.set(to_i64(state.split as u64));
    }

    /// What there is to say of Kubernetes.
    fn kubernetes(&self, state: &KubernetesState) {
        one_of(&self.kubelet_state, &KubeletState::ALL.map(KubeletState::as_str), state.kubelet.as_str());
        one_of(&self.api_state, &ApiState::ALL.map(ApiState::as_str), state.api.as_str());
        for (name, count) in [("named", state.named), ("unnamed", state.unnamed)] {
            self.kubernetes_pods.with_label_values(&[name]).set(to_i64(count as u64));
        }
        for reason in Unmapped::ALL {
            let count = state.unmapped.get(&reason).copied().unwrap_or(0);
            self.kubernetes_unmapped.with_label_values(&[reason.as_str()]).set(to_i64(count as u64));
        }
    }

    /// How full the spool is.
    pub fn spool(&self, spool: &Spool) {
        self.spool_bytes.set(to_i64(spool.bytes()));
        self.spool_unacknowledged_bytes.set(to_i64(spool.unacknowledged_bytes()));
        self.unacknowledged.set(to_i64(spool.unacknowledged()));
        self.parked.set(to_i64(spool.parked().files));
        self.quarantined.set(to_i64(spool.quarantined().files));
        self.quarantined_bytes.set(to_i64(spool.quarantined().bytes));
        self.losses_to_tell.set(to_i64(spool.untold_losses() as u64));
        self.promises.set(to_i64(spool.promises()));
    }

    /// Something happened to the spool.
    pub(crate) fn spool_event(&self, event: &SpoolEvent) {
        match event {
            SpoolEvent::Damaged { .. } => self.damaged_epochs.inc(),
            SpoolEvent::Lost(loss) => {
                self.lost.with_label_values(&[loss.cause.as_str()]).inc_by(loss.batches());
            }
            SpoolEvent::NotOpened(_)
            | SpoolEvent::Quarantined { .. }
            | SpoolEvent::IndexRebuilt(_)
            | SpoolEvent::AskedInVain { .. } => {}
        }
    }

    /// For so long the spool took no windows.
    pub(crate) fn spool_was_full(&self, millis: u64) {
        self.full_seconds.inc_by(seconds_of(millis));
    }

    /// The collector asked for batches that it had not got.
    pub(crate) fn asked_again(&self, ranges: u32) {
        self.asked_again.inc_by(u64::from(ranges));
    }

    /// A collector has a batch.
    pub fn acknowledged(&self, duplicate: bool, at: UtcMillis) {
        self.sent.with_label_values(&[if duplicate { "duplicate" } else { "accepted" }]).inc();
        self.last_send.set(at.0 / 1000);
    }

    /// A collector refused a batch for good.
    pub fn refused(&self, status: u16) {
        self.refused.with_label_values(&[&status.to_string()]).inc();
    }

    /// An attempt to renew the certificate ended.
    pub fn renewed(&self, outcome: &'static str) {
        self.renewals.with_label_values(&[outcome]).inc();
    }

    /// Whose certificate is looked at when somebody asks.
    pub fn certificate_of(&self, identity: Arc<Identity>) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    fn look_at_certificate(&self) {
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(identity) = &*identity else { return };
        let state = identity.state();
        let left =
            state.ready.as_ref().map(|ready| ready.certificate.not_after.since(identity.wall()) / 1000);
        self.certificate_left.set(left.unwrap_or(0));
    }

    /// How an attempt to send ended.
    pub fn sending(&self, stopped: &Stopped) {
        let state = match stopped {
            Stopped::Empty => UPLINK_OK,
            Stopped::Retry(retry) => retry.state(),
            Stopped::Spool(_) => UPLINK_SPOOL,
        };
        one_of(&self.uplink_state, &Retry::STATES, state);
        one_of(&self.uplink_state, &[UPLINK_OK, UPLINK_SPOOL], state);
    }

    fn look_at_process(&self) {
        let Ok(mut process) = self.process.lock() else { return };
        let pid = Pid::from_u32(std::process::id());
        let kind = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
        let Process { system: Some(system), cpu, resident, open_files } = &mut *process else { return };
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
        let Some(ours) = system.process(pid) else { return };
        let used = seconds_of(ours.accumulated_cpu_time()) - cpu.get();
        if used > 0.0 {
            cpu.inc_by(used);
        }
        resident.set(to_i64(ours.memory()));
        if let Some(open) = ours.open_files() {
            open_files.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
    }
}

/// Everything in the registry, in the text format.
pub fn exposition(registry: &Registry, metrics: &Metrics) -> Result<Vec<u8>, prometheus::Error> {
    metrics.look_at_process();
    metrics.look_at_certificate();
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

/// Thousandths of a unit, as a part of the unit: the only place where amounts become doubles.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows nothing but doubles")]
fn seconds_of(thousandths: u64) -> f64 {
    thousandths as f64 / 1000.0
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn one_of(gauge: &IntGaugeVec, all: &[&str], state: &str) {
    for name in all {
        gauge.with_label_values(&[name]).set(i64::from(*name == state));
    }
}

/// Every cause has its word in [`GapCause`]; nothing else becomes a label.
const _: fn(GapCause) -> &'static str = GapCause::as_str;

struct Registering<'a>(&'a Registry);

impl Registering<'_> {
    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("weighbridge_agent_{name}"), help)
    }

    fn add<T: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: T,
    ) -> Result<T, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::with_opts(Self::opts(name, help))?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Self::opts(name, help), labels)?)
    }

    fn float_counter(&self, name: &str, help: &str) -> Result<Counter, prometheus::Error> {
        self.add(Counter::with_opts(Self::opts(name, help))?)
    }

    fn float_counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<CounterVec, prometheus::Error> {
        self.add(CounterVec::new(Self::opts(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::with_opts(Self::opts(name, help))?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Self::opts(name, help), labels)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `promtool check metrics` asks for, without promtool.
    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.looked("ok", 0, &HolderStates::default(), 0);
        metrics.sending(&Stopped::Empty);
        metrics.acknowledged(false, UtcMillis(0));
        metrics.refused(400);
        metrics.not_kept("spool_full");
        let text = String::from_utf8(exposition(&registry, &metrics).unwrap()).unwrap();
        let mut names = 0;
        for line in text.lines() {
            let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            names += 1;
            assert!(name.starts_with("weighbridge_agent_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            for part in name.split('_') {
                assert!(
                    !["ms", "millis", "milliseconds", "kb", "mb", "percent", "gauge", "counter"]
                        .contains(&part)
                );
            }
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
        assert!(names >= 15, "{names} metrics");
    }

    /// Series that one accelerator may cost whoever scrapes the agent.
    const MOST_SERIES: usize = 40;

    /// What would make as many series as there are tenants, or name one.
    const NO_LABELS: [&str; 9] =
        ["job", "pod", "pid", "namespace", "container", "user", "uid", "attempt", "principal"];

    /// One in every condition, or one of its parts.
    fn richest(id: &str, parent: Option<&str>, source: weighbridge_meter::Source) -> DeviceRecord {
        DeviceRecord {
            accelerator: id.parse().unwrap(),
            at: UtcMillis(0),
            present: true,
            host: "gpu-1".into(),
            name: "NVIDIA H100 80GB HBM3".into(),
            pci_device: "10de:2330".into(),
            pci_address: "0000:18:00.0".into(),
            source,
            tier: Tier::A,
            trust: weighbridge_meter::Trust::Host,
            max_sm_clock_mhz: Some(1980),
            power_limit_mw: Some(700_000),
            memory_bytes: Some(1 << 36),
            driver: "580.1".into(),
            parent: parent.map(|id| id.parse().unwrap()),
            units: parent.map(|_| 16),
            sample_ms: 100,
            conditions: Condition::ALL.to_vec(),
        }
    }

    /// Label names of a line of the text format, and the accelerator that it speaks of.
    fn labels(line: &str) -> (Vec<&str>, Option<&str>) {
        let inside =
            line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(in_it, _)| in_it);
        let pairs: Vec<(&str, &str)> = inside.split(',').filter_map(|pair| pair.split_once('=')).collect();
        let accelerator = pairs.iter().find(|(name, _)| *name == "accelerator");
        let accelerator = accelerator.map(|(_, value)| value.trim_matches('"'));
        (pairs.into_iter().map(|(name, _)| name).collect(), accelerator)
    }

    #[test]
    fn an_accelerator_is_few_series_whatever_happens_to_it_and_whoever_holds_it() {
        use std::collections::{BTreeMap, BTreeSet};

        use weighbridge_meter::{Evidence, Gap, Holding, Source, Span, Window, window};

        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let mut devices = vec![richest("GPU-1", None, Source::Nvml)];
        devices.extend((0..7).map(|part| richest(&format!("MIG-{part}"), Some("GPU-1"), Source::Dcgm)));
        let counters = window::Counter::ALL
            .iter()
            .fold(window::Counters::default(), |counters, counter| counters.with(*counter, 60_000_000));
        let span =
            |minute: i64| Span::new(UtcMillis(minute * 60_000), UtcMillis((minute + 1) * 60_000)).unwrap();
        for round in 0..20_i64 {
            let mut batch = Batch {
                agent: "agent-1".parse().unwrap(),
                epoch: weighbridge_meter::EpochId([1; 16]),
                sequence: round.unsigned_abs() + 1,
                prev_hash: [0; 32],
                boot: weighbridge_meter::BootId([2; 16]),
                windows: Vec::new(),
                gaps: Vec::new(),
                holdings: Vec::new(),
                inventory: devices.clone(),
                status: None,
                losses: Vec::new(),
            };
            for device in &devices {
                let accelerator = &device.accelerator;
                for source in Source::ALL {
                    for coverage in
                        [window::Coverage::Measured, window::Coverage::Interpolated { missing_ms: 1 }]
                    {
                        batch.windows.push(Window {
                            accelerator: accelerator.clone(),
                            span: span(round),
                            boot_start_ms: 0,
                            source: *source,
                            tier: device.tier,
                            coverage,
                            ticks: 60,
                            counters,
                            features: Default::default(),
                            uses: Vec::new(),
                        });
                    }
                }
                let (accelerator, span, boot_start_ms) = (accelerator.clone(), span(round), 0);
                let gap = |cause: &GapCause| Gap {
                    accelerator: accelerator.clone(),
                    span,
                    boot_start_ms,
                    cause: *cause,
                };
                batch.gaps.extend(GapCause::ALL.iter().map(gap));
                // A new job, pod and user each minute.
                let told = [
                    (format!("slurm:tenant/account-{round}"), Evidence::SchedulerHook),
                    (format!("k8s:tenant/namespace-{round}"), Evidence::PodResources),
                    (format!("uid:tenant/{round}"), Evidence::ProcessOwner),
                ];
                batch.holdings.extend(told.map(|(principal, evidence)| Holding {
                    attempt: format!("{principal}/{round}").parse().unwrap(),
                    principal: principal.parse().unwrap(),
                    accelerators: vec![accelerator.clone()],
                    span,
                    evidence,
                }));
            }
            metrics.recorded(&batch, devices.iter());
            metrics.devices(devices.iter());
        }
        let slurm = SlurmState {
            folder: FolderState::Ok,
            refused: Refusal::ALL.map(|refusal| (refusal, 3)).into(),
            open: 1000,
            lapsed: 1000,
            unknown_accelerators: 7,
        };
        let holders = HolderStates {
            leases: LeaseState::Ok,
            processes: Some([9; ProcessState::ALL.len()]),
            unresolved: 1000,
            slurm,
            ..HolderStates::default()
        };
        metrics.looked("ok", 3, &holders, 5);
        let text = String::from_utf8(exposition(&registry, &metrics).unwrap()).unwrap();
        let lines = || text.lines().filter(|line| !line.starts_with('#'));
        let mut series: BTreeMap<&str, usize> = BTreeMap::new();
        for line in lines() {
            let (names, accelerator) = labels(line);
            assert!(!names.iter().any(|name| NO_LABELS.contains(name)), "{line}");
            if let Some(accelerator) = accelerator {
                *series.entry(accelerator).or_default() += 1;
            }
        }
        let known: BTreeSet<&str> = devices.iter().map(|device| device.accelerator.as_str()).collect();
        assert_eq!(series.keys().copied().collect::<BTreeSet<_>>(), known);
        assert!(series.values().all(|count| *count <= MOST_SERIES), "{series:?}");
        assert!(series.values().all(|count| *count > GapCause::ALL.len()), "as rich as can be: {series:?}");
        for word in ["tenant", "slurm:", "account-", "namespace-"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
        // What is no accelerator's is as much for one as for a thousand.
        let other = lines().filter(|line| labels(line).1.is_none()).count();
        assert!(other < 150, "{other}: {text}");
    }

    #[test]
    fn what_happens_to_the_spool_is_counted() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let epoch = weighbridge_meter::EpochId([1; 16]);
        let loss = |cause| weighbridge_wire::Loss { epoch, first: 3, last: 7, cause };
        metrics.spool_event(&SpoolEvent::Damaged { epoch, problem: "x".into() });
        metrics.spool_event(&SpoolEvent::Lost(loss(weighbridge_wire::LossCause::Damaged)));
        metrics.spool_event(&SpoolEvent::Lost(loss(weighbridge_wire::LossCause::Parked)));
        metrics.spool_was_full(60_500);
        metrics.asked_again(2);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("quarantine")).unwrap();
        std::fs::write(dir.path().join("quarantine").join("x.seg"), [1; 77]).unwrap();
        let options = crate::spool::SpoolOptions::in_dir(dir.path());
        let mut spool = Spool::open(options, &mut |bytes| bytes.fill(7)).unwrap();
        let lost = crate::spool::Missing { epoch, first: 1, last: 1 };
        spool.missing(&[lost]).unwrap();
        metrics.spool(&spool);
        let text = String::from_utf8(exposition(&registry, &metrics).unwrap()).unwrap();
        for line in [
            "spool_damaged_epochs_total 1",
            "batches_lost_total{cause=\"damaged\"} 5",
            "batches_lost_total{cause=\"parked\"} 5",
            "spool_full_seconds_total 60.5",
            "batch_ranges_asked_again_total 2",
            "spool_quarantined_files 1",
            "spool_quarantined_bytes 77",
            "spool_losses_to_tell 1",
            "promises_kept 0",
        ] {
            assert!(text.contains(&format!("weighbridge_agent_{line}\n")), "{line}: {text}");
        }
    }

    #[test]
    fn processes_are_shown_by_what_tells_their_holder() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let mut holders = HolderStates::default();
        metrics.looked("ok", 0, &holders, 0);
        let shown = || String::from_utf8(exposition(&registry, &metrics).unwrap()).unwrap();
        assert!(!shown().contains("device_processes{"), "nobody is asked");
        holders.processes = Some([3, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0]);
        for unresolved in [2, 2, 3] {
            holders.unresolved = unresolved;
            metrics.looked("ok", 0, &holders, 0);
        }
        let text = shown();
        for line in [
            "device_processes{state=\"slurm_job\"} 3",
            "device_processes{state=\"user\"} 1",
            "device_processes{state=\"unknown_cgroup\"} 2",
            "device_processes{state=\"not_read\"} 0",
            "unresolved_processes_total 3",
        ] {
            assert!(text.contains(&format!("weighbridge_agent_{line}\n")), "{line}: {text}");
        }
    }

    #[test]
    fn a_state_is_one_on_one_name_only() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        for state in ["ok", "driver_missing", "device_lost"] {
            metrics.looked(state, 0, &HolderStates::default(), 0);
            let shown: Vec<String> = String::from_utf8(exposition(&registry, &metrics).unwrap())
                .unwrap()
                .lines()
                .filter(|line| line.starts_with("weighbridge_agent_source_state") && line.ends_with(" 1"))
                .map(str::to_owned)
                .collect();
            let name = if state == "device_lost" { "other" } else { state };
            assert_eq!(shown, [format!("weighbridge_agent_source_state{{state=\"{name}\"}} 1")]);
        }
        metrics.sending(&Stopped::Retry(Retry::NotEnrolled));
        let text = String::from_utf8(exposition(&registry, &metrics).unwrap()).unwrap();
        assert!(text.contains("weighbridge_agent_uplink_state{state=\"not_enrolled\"} 1"));
        assert!(text.contains("weighbridge_agent_uplink_state{state=\"ok\"} 0"));
    }
}
