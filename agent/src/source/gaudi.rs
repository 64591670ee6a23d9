//! Intel Gaudi accelerators through their exporter (port 41611), on this host or on others.
//!
//! It tells how busy a device is and what it draws, not what its matrix engines do: readings are of tier D.
//!
//! Deliberately absent: the exporter's `accelerator_*` metrics, which repeat its own ones under general names
//! and in other units than those say: `accelerator_power_usage_watts` carries milliwatts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;
use weighbridge_meter::{
    AcceleratorId, AcceleratorTable, DeviceState, GapCause, Model, Reading, Source, Tier, reading::Ratio,
};

use super::{
    AcceleratorSource, Device, Look,
    exposition::{
        Sample, Value,
        fetch::Exporters,
        fleet::{Fleet, Sighting},
    },
};

/// Which exporters to read.
#[derive(Clone, Debug)]
pub struct GaudiOptions {
    /// Addresses to read, as `http://127.0.0.1:41611/metrics`. Where two name one device, the first counts.
    pub exporters: Vec<reqwest::Url>,
    /// The longest a look may take.
    pub deadline: Duration,
    /// How often the exporters renew their values.
    pub interval: Duration,
}

/// Intel Gaudi accelerators through their exporter.
#[derive(Debug)]
pub struct GaudiSource {
    exporters: Exporters,
    interval: Duration,
    table: AcceleratorTable,
    fleet: Fleet,
}

impl GaudiSource {
    /// A source that touches nothing until its first look.
    pub fn start(options: GaudiOptions) -> Self {
        Self {
            exporters: Exporters::new(&options.exporters, options.deadline),
            interval: options.interval,
            table: AcceleratorTable::shipped(),
            fleet: Fleet::new(options.interval),
        }
    }

    fn sighting(&self, id: AcceleratorId, row: &Row, host: Option<&String>) -> Sighting {
        let model = row.model(&self.table);
        let name = row.name.clone().or_else(|| model.map(|model| model.device_name.clone()));
        let device = Device {
            pci_device: model.map(|model| model.pci_device.clone()),
            max_sm_clock_mhz: row.narrow(Field::MaxClock).filter(|mhz| *mhz > 0),
            power_limit_mw: row.narrow(Field::PowerLimit).filter(|mw| *mw > 0),
            memory_bytes: row.get(Field::Memory).filter(|bytes| *bytes > 0),
            driver: row.driver.clone(),
            host: host.cloned(),
            sample_ms: u32::try_from(self.interval.as_millis()).unwrap_or(u32::MAX),
            ..Device::new(
                id,
                name.unwrap_or_else(|| "Gaudi (model not printed)".into()),
                Source::Gaudi,
                Tier::D,
            )
        };
        let values = row.values.iter().map(|value| value.unwrap_or(u64::MAX)).collect();
        Sighting { device, state: row.state(), values, must_move: row.must_move() }
    }
}

impl AcceleratorSource for GaudiSource {
    async fn look(&mut self) -> Look {
        let answers = self.exporters.read(Answer::read).await;
        let mut unidentified = 0_u32;
        let mut sighted = Vec::with_capacity(answers.len());
        for answer in answers {
            sighted.push(answer.map(|answer| {
                unidentified += u32::try_from(answer.unnamed.len()).unwrap_or(u32::MAX);
                let host = answer.host.as_ref();
                let rows = answer.rows.into_iter();
                rows.map(|(id, row)| self.sighting(id, &row, host)).collect()
            }));
        }
        self.fleet.look(Instant::now(), sighted, unidentified)
    }
}

/// The metrics that are read; names as in the exporter's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// Percent.
    Utilisation,
    /// Milliwatts.
    Power,
    /// Milliwatts.
    PowerLimit,
    /// Millijoules since the driver was loaded: as the library behind it counts.
    Energy,
    /// Of the whole chip, in MHz.
    Clock,
    /// As the clock.
    MaxClock,
    /// Bytes.
    Memory,
}

impl Field {
    const COUNT: usize = Self::Memory as usize + 1;

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "habanalabs_utilization" => Self::Utilisation,
            "habanalabs_power_mW" => Self::Power,
            "habanalabs_power_default_limit_mW" => Self::PowerLimit,
            "habanalabs_energy" => Self::Energy,
            "habanalabs_clock_soc_mhz" => Self::Clock,
            "habanalabs_clock_soc_max_mhz" => Self::MaxClock,
            "habanalabs_memory_total_bytes" => Self::Memory,
            _ => return None,
        })
    }
}

/// What one exporter says.
#[derive(Debug, Default)]
struct Answer {
    rows: Vec<(AcceleratorId, Row)>,
    /// Devices that cannot be named.
    unnamed: BTreeSet<String>,
    /// The host it speaks for.
    host: Option<String>,
}

/// What it says of one device.
#[derive(Debug, Default)]
struct Row {
    name: Option<String>,
    driver: Option<String>,
    disagrees: bool,
    /// A value that cannot be.
    implausible: bool,
    values: [Option<u64>; Field::COUNT],
}

impl Answer {
    fn read(samples: &mut dyn Iterator<Item = Sample<'_>>) -> Self {
        let mut answer = Self::default();
        let mut places: BTreeMap<AcceleratorId, usize> = BTreeMap::new();
        for sample in samples {
            if sample.name == "habanalabs_kube_info" {
                answer.host = sample.label("node").or(sample.label("hostname")).map(str::to_owned);
            }
            let Some(field) = Field::from_name(sample.name) else { continue };
            let label = sample.label("UUID").or(sample.label("Serial")).unwrap_or_default();
            let Ok(id) = label.parse::<AcceleratorId>() else {
                let which = sample.label("device").or(sample.label("id")).unwrap_or(label);
                answer.unnamed.insert(which.to_owned());
                continue;
            };
            let index = *places.entry(id.clone()).or_insert_with(|| {
                answer.rows.push((id, Row::default()));
                answer.rows.len() - 1
            });
            answer.rows[index].1.add(field, &sample);
        }
        answer
    }
}

impl Row {
    fn add(&mut self, field: Field, sample: &Sample<'_>) {
        let text = |names: &[&str]| names.iter().find_map(|name| sample.label(name)).map(str::to_owned);
        self.name = self.name.take().or_else(|| text(&["product_name", "modelName", "model"]));
        self.driver = self.driver.take().or_else(|| text(&["driver"]));
        let Some(value) = known(sample.value) else { return };
        self.implausible |= value.is_none();
        match (&mut self.values[field as usize], value) {
            (Some(before), value) => self.disagrees |= value != Some(*before),
            (slot, value) => *slot = value,
        }
    }

    fn get(&self, field: Field) -> Option<u64> {
        self.values[field as usize]
    }

    fn narrow(&self, field: Field) -> Option<u32> {
        self.get(field).and_then(|value| u32::try_from(value).ok())
    }

    fn state(&self) -> DeviceState {
        let live = [Field::Utilisation, Field::Power, Field::Energy, Field::Clock];
        let reading = self.reading().filter(|_| !self.disagrees && !self.implausible);
        match reading {
            None => DeviceState::Missing(GapCause::Implausible),
            Some(_) if live.iter().all(|field| self.get(*field).is_none()) => {
                DeviceState::Missing(GapCause::ReadFailed)
            }
            Some(reading) => DeviceState::Read(reading),
        }
    }

    /// `None` if a value cannot be.
    fn reading(&self) -> Option<Reading> {
        // A double holds every percentage there is.
        let percent =
            |percent: u64| u32::try_from(percent).ok().and_then(|p| Ratio::from_percent(f64::from(p)));
        let limited = |field, most: u32| match self.get(field).map(u32::try_from) {
            None => Some(None),
            Some(Ok(value)) if value <= most => Some(Some(value)),
            Some(_) => None,
        };
        Some(Reading {
            sm_clock_mhz: limited(Field::Clock, 5_000)?.filter(|mhz| *mhz > 0),
            busy: match self.get(Field::Utilisation) {
                Some(value) => Some(percent(value)?),
                None => None,
            },
            power_mw: limited(Field::Power, 100_000_000)?,
            energy_mj: self.get(Field::Energy).filter(|mj| *mj > 0),
            ..Reading::default()
        })
    }

    /// Energy grows in whatever draws power, and power trembles in whatever works.
    fn must_move(&self) -> bool {
        let some = |field| self.get(field).is_some_and(|value| value > 0);
        if some(Field::Energy) {
            some(Field::Utilisation) || some(Field::Power)
        } else {
            some(Field::Utilisation) && some(Field::Power)
        }
    }

    /// The row of its model: by its name if that is printed, else by its memory, else by its highest clock.
    fn model<'a>(&self, table: &'a AcceleratorTable) -> Option<&'a Model> {
        let row = |architecture: &str| table.models().iter().find(|model| model.architecture == architecture);
        if let Some(name) = &self.name {
            return table.find(None, name).or_else(|| match name {
                // Boards of one chip: HL-225B, HL-225H; HL-325L, HL-338.
                name if name.starts_with("HL-22") => row("Gaudi2"),
                name if name.starts_with("HL-3") => row("Gaudi3"),
                _ => None,
            });
        }
        // 96 and 128 GB, of which firmware keeps some.
        match self.get(Field::Memory).map(|bytes| bytes / 1_000_000_000) {
            Some(90..=104) => return row("Gaudi2"),
            Some(124..=140) => return row("Gaudi3"),
            _ => {}
        }
        let max = self.narrow(Field::MaxClock)?;
        let gaudi = |model: &&Model| model.architecture.starts_with("Gaudi");
        let mut fitting = table.models().iter().filter(gaudi).filter(|model| model.max_clock_mhz == max);
        fitting.next().filter(|_| fitting.next().is_none())
    }
}

/// `None` if the exporter had no value, `Some(None)` if it is one that cannot be.
fn known(value: Value<'_>) -> Option<Option<u64>> {
    value.number().is_finite().then(|| value.whole())
}
