//! NVIDIA accelerators through dcgm-exporter, on this host or on others.
//!
//! The exporter renews its values twice a minute as a rule, and its ratios are means over a time that only it
//! knows: readings are of tier C, and of tier D where it gives no tensor activity. Its MIG instances are devices
//! of their own, and a device that has any is metered through them alone, so that nothing counts twice.
//!
//! Deliberately absent: who holds a device, though the exporter prints jobs and pods; and MIG UUIDs that it
//! prints for those who hold an instance, since an instance must not change its name with its holder.

mod answer;
mod fields;
mod judge;
mod mig;
mod totals;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;
use weighbridge_meter::{
    AcceleratorId, AcceleratorTable, Condition, DeviceState, GapCause, Model, Source, Tier,
};

use self::{
    answer::{Answer, Row},
    judge::{Judged, Kind, Memory, judge},
};
use super::{
    AcceleratorSource, Device, Look,
    exposition::{
        fetch::Exporters,
        fleet::{Fleet, Sighting},
    },
};

/// Which exporters to read.
#[derive(Clone, Debug)]
pub struct DcgmOptions {
    /// Addresses to read, as `http://127.0.0.1:9400/metrics`. Where two name one device, the first counts.
    pub exporters: Vec<reqwest::Url>,
    /// The longest a look may take.
    pub deadline: Duration,
    /// How often the exporters renew their values.
    pub interval: Duration,
}

/// NVIDIA accelerators through dcgm-exporter.
#[derive(Debug)]
pub struct DcgmSource {
    exporters: Exporters,
    desk: Desk,
}

impl DcgmSource {
    /// A source that touches nothing until its first look.
    pub fn start(options: DcgmOptions) -> Self {
        let exporters = Exporters::new(&options.exporters, options.deadline);
        Self { exporters, desk: Desk::new(options.interval) }
    }
}

impl AcceleratorSource for DcgmSource {
    async fn look(&mut self) -> Look {
        let answers = self.exporters.read(Answer::read).await;
        self.desk.look(Instant::now(), answers)
    }
}

/// Where answers become looks.
#[derive(Debug)]
struct Desk {
    interval: Duration,
    table: AcceleratorTable,
    memories: BTreeMap<AcceleratorId, Memory>,
    fleet: Fleet,
}

impl Desk {
    fn new(interval: Duration) -> Self {
        let table = AcceleratorTable::shipped();
        Self { interval, table, memories: BTreeMap::new(), fleet: Fleet::new(interval) }
    }

    fn look(&mut self, now: Instant, answers: Vec<Result<Answer, String>>) -> Look {
        let rows = answers.iter().flatten().flat_map(|answer| &answer.rows);
        let split: BTreeSet<String> = rows.filter_map(Row::parent).map(str::to_owned).collect();
        let mut unidentified = 0;
        let mut judged = BTreeSet::new();
        let sighted = answers.into_iter().map(|answer| {
            let answer = answer?;
            unidentified += answer.unnamed.len();
            Ok(self.sightings(now, &answer, &split, &mut judged, &mut unidentified))
        });
        let sighted = sighted.collect();
        self.fleet.look(now, sighted, u32::try_from(unidentified).unwrap_or(u32::MAX))
    }

    /// What one answer says. Devices in `split` are metered through their instances; those in `judged` were
    /// named by an exporter before.
    fn sightings(
        &mut self,
        now: Instant,
        answer: &Answer,
        split: &BTreeSet<String>,
        judged: &mut BTreeSet<AcceleratorId>,
        unidentified: &mut usize,
    ) -> Vec<Sighting> {
        let mut told: BTreeSet<&str> = BTreeSet::new();
        let mut sightings = Vec::new();
        for row in &answer.rows {
            let whole = row.parent().or(row.instance.is_none().then_some(row.uuid.as_str()));
            // A device comes before its instances, and once.
            if let Some(uuid) = whole.filter(|uuid| split.contains(*uuid) && told.insert(uuid))
                && let Ok(id) = uuid.parse()
            {
                sightings.push(self.split(id, row));
            }
            if row.instance.is_none() && split.contains(&row.uuid) {
                continue;
            }
            let Ok(id) = row.id().parse::<AcceleratorId>() else {
                *unidentified += 1;
                continue;
            };
            let first = judged.insert(id.clone());
            sightings.push(if first { self.sighting(now, id, row) } else { self.again(id, row) });
        }
        sightings
    }

    fn sighting(&mut self, now: Instant, id: AcceleratorId, row: &Row) -> Sighting {
        let model = find(&self.table, &row.model);
        let profile = row.instance.as_ref().and_then(|instance| instance.profile.as_deref());
        let units = model.zip(profile).and_then(|(model, profile)| mig::units(model, profile));
        let kind = Kind { model, units, instance: row.instance.is_some() };
        let memory = self.memories.entry(id.clone()).or_default();
        let Judged { state, tier, conditions, must_move } = judge(memory, now, self.interval, kind, row);
        let device = Device {
            units,
            conditions,
            memory_bytes: judge::memory_bytes(row),
            power_limit_mw: judge::power_limit_mw(row).filter(|_| !kind.instance),
            parent: row.parent().and_then(|parent| parent.parse().ok()),
            ..self.device(id, tier, model, row)
        };
        Sighting { device, state, values: row.fingerprint(), must_move }
    }

    /// A device whose instances are metered in its place.
    fn split(&self, id: AcceleratorId, row: &Row) -> Sighting {
        let device = Device {
            conditions: vec![Condition::Split],
            present: false,
            ..self.device(id, Tier::D, find(&self.table, &row.model), row)
        };
        let state = DeviceState::Missing(GapCause::NotReported);
        Sighting { device, state, values: Vec::new(), must_move: false }
    }

    /// A device that an exporter before this one named.
    fn again(&self, id: AcceleratorId, row: &Row) -> Sighting {
        let device = self.device(id, Tier::D, None, row);
        let state = DeviceState::Missing(GapCause::NotReported);
        Sighting { device, state, values: Vec::new(), must_move: false }
    }

    /// What samples of a device and of its instances say alike.
    fn device(&self, id: AcceleratorId, tier: Tier, model: Option<&Model>, row: &Row) -> Device {
        let name = if row.model.is_empty() { "NVIDIA (model not printed)" } else { &row.model };
        Device {
            pci_address: row.bus_id.as_deref().map(kernel_pci_address),
            pci_device: model.map(|model| model.pci_device.clone()),
            max_sm_clock_mhz: judge::max_sm_clock_mhz(row),
            driver: row.driver.clone(),
            host: row.host.clone(),
            sample_ms: u32::try_from(self.interval.as_millis()).unwrap_or(u32::MAX),
            ..Device::new(id, name, Source::Dcgm, tier)
        }
    }
}

impl Row {
    /// What the device or instance is called.
    fn id(&self) -> String {
        match self.instance.as_ref().and_then(|instance| instance.id.as_ref()) {
            Some(number) => format!("{}/gi{number}", self.uuid),
            None => self.uuid.clone(),
        }
    }

    /// The device that an instance is a part of, where it can be told.
    fn parent(&self) -> Option<&str> {
        match &self.instance.as_ref()?.id {
            Some(_) => Some(&self.uuid),
            // Before driver 470: `MIG-GPU-<UUID of the device>/<instance>/<compute instance>`.
            None => {
                let rest = self.uuid.strip_prefix("MIG-").filter(|rest| rest.starts_with("GPU-"));
                rest.and_then(|rest| rest.split('/').next())
            }
        }
    }
}

/// The row of a model. Older drivers and some exporters leave the maker's name out.
fn find<'a>(table: &'a AcceleratorTable, name: &str) -> Option<&'a Model> {
    table.find(None, name).or_else(|| table.find(None, &format!("NVIDIA {name}")))
}

/// NVML's `00000000:1A:00.0` as the kernel writes it: `0000:1a:00.0`.
fn kernel_pci_address(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    // A domain that needs more than four digits keeps them.
    match lower.strip_prefix("0000") {
        Some(rest) if rest.find(':') == Some(4) => rest.to_owned(),
        _ => lower,
    }
}

#[cfg(test)]
mod tests;
