//! One controller: what it offers, when it is asked, and what came of it.

use std::{fs, io::Read as _, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use rustls::ClientConfig;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use weighbridge_meter::{
    AcceleratorId, AcceleratorTable, Condition, DeviceState, GapCause, Source, Tier, Trust, UtcMillis,
};

use super::{
    Controller,
    http::{Client, Failure},
    judge::Past,
    quantity::duration_us,
    rows::{Places, Property, Row, of_environment_metrics, of_processor_metrics},
    tree::{Fetched, Gpu, Offer, Walk},
};
use crate::source::Device;

/// Controllers lock accounts after a few refusals; one a minute is below what any is known to mind.
const AFTER_REFUSAL: Duration = Duration::from_secs(60);

/// A password is shorter.
const LONGEST_PASSWORD: u64 = 4096;

/// One controller and what is known of it.
#[derive(Debug)]
pub(super) struct Link {
    controller: Controller,
    table: Arc<AcceleratorTable>,
    client: Client,
    fetched: Fetched,
    offer: Option<Offer>,
    /// How often each of the offer's reports is made, as far as asked: unknown, nothing said, or milliseconds.
    schedules: Vec<Option<Option<u64>>>,
    /// What it offers is to be looked up again.
    due: bool,
    refused_until: Option<Instant>,
    started: Instant,
    devices: Vec<Known>,
    /// What was last said in the log.
    said: Option<String>,
}

/// A device of this controller, as long as it offers it.
#[derive(Debug)]
struct Known {
    id: AcceleratorId,
    past: Past,
    sample_ms: u32,
}

/// What a look at one controller gave.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// Why not, in words, if it was not heard.
    pub(super) trouble: Option<(GapCause, String)>,
    /// Whether it was ever heard what it offers.
    pub(super) discovered: bool,
    /// What it offers.
    pub(super) devices: Vec<(Device, DeviceState)>,
}

impl Link {
    pub(super) fn new(controller: Controller, table: Arc<AcceleratorTable>) -> Self {
        let client = Client::new(controller.url.clone());
        if !client.is_secure() && controller.user.is_some() {
            tracing::warn!(url = %controller.url, "a password goes to this controller in the clear: use https");
        }
        Self {
            controller,
            table,
            client,
            fetched: Fetched::new(),
            offer: None,
            schedules: Vec::new(),
            due: true,
            refused_until: None,
            started: Instant::now(),
            devices: Vec::new(),
            said: None,
        }
    }

    /// Looks once; looks up what it offers too if `discover`, or if that was not completed before.
    pub(super) async fn look(
        &mut self,
        tls: Option<Arc<ClientConfig>>,
        discover: bool,
        deadline: Instant,
    ) -> Heard {
        self.due |= discover;
        if let Some(tls) = tls {
            self.client.secure_with(tls);
        }
        let answer = match timeout_at(deadline, self.states()).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Unreachable("no answer within the deadline".into())),
        };
        let heard = match answer {
            Ok(states) => {
                self.say(None);
                Heard { trouble: None, discovered: true, devices: self.described(&states) }
            }
            Err(failure) => {
                let (cause, detail) = self.trouble(failure);
                self.say(Some(&detail));
                let states = vec![DeviceState::Missing(cause); self.devices.len()];
                let devices = self.described(&states);
                Heard { trouble: Some((cause, detail)), discovered: self.offer.is_some(), devices }
            }
        };
        // Readings come first; what it offers now is for the next look.
        if self.due && heard.trouble.is_none() {
            match timeout_at(deadline, self.discover()).await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => {
                    let (_, detail) = self.trouble(failure);
                    tracing::warn!(
                        host = self.controller.host,
                        detail,
                        "cannot look up what a controller offers"
                    );
                }
                Err(_) => {
                    tracing::debug!(host = self.controller.host, "looking up an offer goes on next time")
                }
            }
        }
        heard
    }

    async fn states(&mut self) -> Result<Vec<DeviceState>, Failure> {
        if self.refused_until.is_some_and(|until| Instant::now() < until) {
            return Err(Failure::Bad("waiting after a refusal, so that the account is not locked".into()));
        }
        self.refused_until = None;
        if let (Some(user), Some(file)) = (&self.controller.user, &self.controller.password_file) {
            self.client.log_in(user, &password(file).map_err(Failure::Bad)?);
        }
        if self.offer.is_none() {
            self.discover().await?;
        }
        let offer = self.offer.clone().unwrap_or_default();
        let read = self.read(&offer).await?;
        Ok(self.judged(&offer, &read))
    }

    async fn discover(&mut self) -> Result<(), Failure> {
        let known = self.offer.as_ref().map(|offer| offer.gpus.clone()).unwrap_or_default();
        let mut walk = Walk {
            client: &mut self.client,
            fetched: &mut self.fetched,
            table: &self.table,
            host: &self.controller.host,
            known: &known,
        };
        let offer = walk.offer().await;
        // Reached only if the walk came to an end: one that was cut off goes on where it was.
        self.fetched.clear();
        let offer = offer?;
        self.due = false;
        if self.offer.as_ref() != Some(&offer) {
            tracing::info!(
                host = self.controller.host,
                accelerators = offer.gpus.len(),
                reports = offer.reports.len(),
                "a controller offers something else than before"
            );
            self.schedules = vec![None; offer.reports.len()];
            let mut before = std::mem::take(&mut self.devices);
            for gpu in &offer.gpus {
                let known =
                    before.iter().position(|known| known.id == gpu.id).map(|at| before.swap_remove(at));
                let new = || Known { id: gpu.id.clone(), past: Past::default(), sample_ms: 0 };
                self.devices.push(known.unwrap_or_else(new));
            }
            self.offer = Some(offer);
        }
        Ok(())
    }

    /// Reports first, one request for all devices; then what they lack of each device.
    async fn read(&mut self, offer: &Offer) -> Result<Gathered, Failure> {
        let places = Places::of(&offer.gpus);
        let mut read = Gathered { rows: Vec::new(), broken: vec![false; offer.gpus.len()] };
        for (index, report) in offer.reports.iter().enumerate() {
            if report.ports && (0..offer.gpus.len()).all(|gpu| read.has(gpu, Property::is_nvlink)) {
                continue;
            }
            let Some(report) = read.part(self.client.get(&report.path).await, None)? else { continue };
            let scheduled = match self.schedules.get(index).copied().flatten() {
                Some(scheduled) => scheduled,
                None => {
                    let scheduled = self.scheduled(&report).await?;
                    if let Some(slot) = self.schedules.get_mut(index) {
                        *slot = Some(scheduled);
                    }
                    scheduled
                }
            };
            places.of_report(&report, scheduled, &mut read.rows);
        }
        for (index, gpu) in offer.gpus.iter().enumerate() {
            let complete = [Property::Tensor, Property::Clock]
                .iter()
                .all(|wanted| read.has(index, |one| one == *wanted));
            if let Some(path) = gpu.metrics.as_ref().filter(|_| !complete)
                && let Some(metrics) = read.part(self.client.get(path).await, Some(index))?
            {
                of_processor_metrics(index, &metrics, &mut read.rows);
            }
            if let Some(path) = gpu.environment.as_ref().filter(|_| !read.has(index, Property::is_energy))
                && let Some(metrics) = read.part(self.client.get(path).await, Some(index))?
            {
                of_environment_metrics(index, &metrics, &mut read.rows);
            }
        }
        Ok(read)
    }

    /// How often a report is made, if its definition says so.
    async fn scheduled(&mut self, report: &Value) -> Result<Option<u64>, Failure> {
        let Some(path) = report["MetricReportDefinition"]["@odata.id"].as_str() else { return Ok(None) };
        let definition = match self.client.get(path).await {
            Ok(definition) => definition,
            Err(Failure::Absent | Failure::Bad(_) | Failure::Refused(403)) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        if definition["MetricReportDefinitionType"] != "Periodic" {
            return Ok(None);
        }
        let interval = definition["Schedule"]["RecurrenceInterval"].as_str().and_then(duration_us);
        Ok(interval.map(|micros| micros / 1000).filter(|millis| *millis > 0))
    }

    fn judged(&mut self, offer: &Offer, read: &Gathered) -> Vec<DeviceState> {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let newest: Option<UtcMillis> = read.rows.iter().filter_map(|row| row.at).max();
        let mut by_gpu: Vec<Vec<&Row>> = vec![Vec::new(); offer.gpus.len()];
        for row in &read.rows {
            by_gpu[row.gpu].push(row);
        }
        let judged = offer.gpus.iter().zip(&mut self.devices).zip(by_gpu).zip(&read.broken);
        let states = judged.map(|(((gpu, known), rows), broken)| {
            let model = self.table.find(gpu.pci_device.as_deref(), &gpu.name);
            let assumed = model.map(|model| model.table_clock_mhz);
            match known.past.judge(&rows, newest, now_ms, assumed) {
                DeviceState::Missing(GapCause::NotReported) if *broken => {
                    DeviceState::Missing(GapCause::ReadFailed)
                }
                state => state,
            }
        });
        states.collect()
    }

    /// What it offers, each device with its state.
    fn described(&mut self, states: &[DeviceState]) -> Vec<(Device, DeviceState)> {
        let gpus = self.offer.iter().flat_map(|offer| &offer.gpus);
        let controller = &self.controller;
        let devices = gpus.zip(&mut self.devices).zip(states);
        devices.map(|((gpu, known), state)| (device(gpu, known, &controller.host), *state)).collect()
    }

    /// Why nothing was heard, and what to do about it.
    fn trouble(&mut self, failure: Failure) -> (GapCause, String) {
        match failure {
            Failure::Unreachable(detail) => (GapCause::Unreachable, detail),
            Failure::Bad(detail) => (GapCause::ReadFailed, detail),
            Failure::Absent => (GapCause::ReadFailed, "there is no such resource".into()),
            Failure::Refused(status) => {
                self.refused_until = Some(Instant::now() + AFTER_REFUSAL);
                let account = self.controller.user.as_deref().unwrap_or("none");
                (GapCause::ReadFailed, format!("refused with status {status} the account {account:?}"))
            }
        }
    }

    /// Says in the log what is new. Never a password: none ever gets this far.
    fn say(&mut self, detail: Option<&str>) {
        // The wait after a refusal goes on about the refusal.
        let waiting = self.refused_until.is_some() && self.said.is_some();
        if self.said.as_deref() == detail || (waiting && detail.is_some_and(|it| it.starts_with("waiting"))) {
            return;
        }
        let (url, host) = (&self.controller.url, &self.controller.host);
        let account = self.controller.user.as_deref().unwrap_or("none");
        match detail {
            Some(detail) => {
                tracing::warn!(%url, host, account, detail, "cannot read a management controller")
            }
            None => tracing::info!(%url, host, "a management controller is read"),
        }
        self.said = detail.map(ToOwned::to_owned);
    }
}

/// What was read in one look.
struct Gathered {
    rows: Vec<Row>,
    /// Devices of which something was there and could not be read.
    broken: Vec<bool>,
}

impl Gathered {
    fn has(&self, gpu: usize, wanted: impl Fn(Property) -> bool) -> bool {
        self.rows.iter().any(|row| row.gpu == gpu && wanted(row.property))
    }

    /// One answer of many: what is absent or broken is not the end of the others. `of`: the device it is about,
    /// else all.
    fn part(&mut self, answer: Result<Value, Failure>, of: Option<usize>) -> Result<Option<Value>, Failure> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(Failure::Absent) => Ok(None),
            Err(Failure::Bad(detail)) => {
                tracing::debug!(detail, "a controller answered with something that cannot be read");
                let all = 0..self.broken.len();
                all.filter(|index| of.is_none_or(|of| of == *index))
                    .for_each(|index| self.broken[index] = true);
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }
}

fn device(gpu: &Gpu, known: &mut Known, host: &str) -> Device {
    // Tensor activity without a clock is no better than an exporter's.
    let (tier, conditions) = match (known.past.has_tensor, known.past.has_clock) {
        (true, true) => (Tier::B, Vec::new()),
        (true, false) => (Tier::C, vec![Condition::ClockAssumed]),
        (false, _) => (Tier::D, Vec::new()),
    };
    // In whole seconds, and only if it is quite another than before: it is measured anew in every look.
    if let Some(millis) = known.past.sample_ms() {
        let rounded = if millis < 1000 { millis } else { (millis + 500) / 1000 * 1000 };
        let rounded = u32::try_from(rounded).unwrap_or(u32::MAX);
        if rounded >= known.sample_ms.saturating_mul(2) || rounded <= known.sample_ms / 2 {
            known.sample_ms = rounded;
        }
    }
    Device {
        pci_device: gpu.pci_device.clone(),
        max_sm_clock_mhz: gpu.max_clock_mhz,
        power_limit_mw: gpu.power_limit_mw,
        memory_bytes: gpu.memory_bytes,
        host: Some(host.to_owned()),
        trust: Some(Trust::Bmc),
        sample_ms: known.sample_ms,
        conditions,
        ..Device::new(gpu.id.clone(), gpu.name.clone(), Source::Redfish, tier)
    }
}

/// What a password file holds. The error says why not, and nothing of what is in it.
fn password(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("cannot read password file {shown}: {error}");
    let file = fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "password file {shown} has mode {mode:o}, expected 600: nobody else may read it"
        ));
    }
    let mut text = String::new();
    file.take(LONGEST_PASSWORD).read_to_string(&mut text).map_err(failed)?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() { Err(format!("password file {shown} is empty")) } else { Ok(password.to_owned()) }
}
