//! Accelerators that do what was recorded of real ones.
//!
//! A recording is CSV with a header: `t_s` and `gpu`, and as far as they were recorded `power_w`,
//! `gpu_util_pct`, `sm_active`, `tensor_active`, `dram_active`, `nvlink_tx_Bps`, `nvlink_rx_Bps`, `pcie_tx_Bps`,
//! `pcie_rx_Bps` and `energy_mj`; other columns are ignored. An empty field means that the counter was not there,
//! which is not zero. A row tells about the time since the row before it of the same GPU; where that is longer
//! than allowed, nothing is known about it and there is a gap.
//!
//! Recordings carry no clock, so one has to be assumed where there is tensor activity: operations that come of
//! it are only as good as that.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use weighbridge_meter::{
    AcceleratorTable, AgentId, DeviceState, GapCause, Model, Reading, Source, Tier,
    reading::{Activity, Ratio, Traffic},
};

use super::{AcceleratorSource, Device, DeviceLook, Look, SourceState};
use crate::{clock::Clock, config::ReplayModels};

/// What was recorded.
#[derive(Clone, Debug)]
pub struct Replay {
    series: Vec<Series>,
    longest_ms: u64,
}

#[derive(Clone, Debug)]
struct Series {
    device: Device,
    clock_mhz: Option<u32>,
    /// In order of time.
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    at_ms: u64,
    power_mw: Option<u32>,
    busy: Option<Ratio>,
    sm: Option<Ratio>,
    tensor: Option<Ratio>,
    dram: Option<Ratio>,
    traffic: Traffic,
    energy_mj: Option<u64>,
}

/// A recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file could not be read.
    #[error("cannot read recording {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A row, or the header, that cannot be.
    #[error("recording, line {line}, column {column}: {value:?} is not {expected}")]
    Bad {
        /// From 1, the header being 1.
        line: u64,
        /// Name of the column.
        column: &'static str,
        /// What stood there.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
}

/// Where columns are.
struct Columns {
    t_s: usize,
    gpu: usize,
    power_w: Option<usize>,
    gpu_util_pct: Option<usize>,
    sm_active: Option<usize>,
    tensor_active: Option<usize>,
    dram_active: Option<usize>,
    nvlink_tx: Option<usize>,
    nvlink_rx: Option<usize>,
    pcie_tx: Option<usize>,
    pcie_rx: Option<usize>,
    energy_mj: Option<usize>,
}

impl Replay {
    /// Reads a recording. Devices are called `<agent>/gpu<number>`. Time of which a row would tell more than
    /// `longest_ms` milliseconds is missing.
    pub fn read(
        path: &Path,
        agent: &AgentId,
        models: &ReplayModels,
        longest_ms: u64,
    ) -> Result<Self, ReplayError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ReplayError::Unreadable { path: path.display().to_string(), source })?;
        Self::parse(&text, agent, models, longest_ms)
    }

    /// From the text of a recording.
    pub fn parse(
        text: &str,
        agent: &AgentId,
        models: &ReplayModels,
        longest_ms: u64,
    ) -> Result<Self, ReplayError> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
        let header = reader.headers().map_err(|error| broken(&error))?;
        let find = |name: &str| header.iter().position(|column| column == name);
        let needed = |name: &'static str| {
            find(name).ok_or(ReplayError::Bad {
                line: 1,
                column: name,
                value: String::new(),
                expected: "a column of the recording",
            })
        };
        let columns = Columns {
            t_s: needed("t_s")?,
            gpu: needed("gpu")?,
            power_w: find("power_w"),
            gpu_util_pct: find("gpu_util_pct"),
            sm_active: find("sm_active"),
            tensor_active: find("tensor_active"),
            dram_active: find("dram_active"),
            nvlink_tx: find("nvlink_tx_Bps"),
            nvlink_rx: find("nvlink_rx_Bps"),
            pcie_tx: find("pcie_tx_Bps"),
            pcie_rx: find("pcie_rx_Bps"),
            energy_mj: find("energy_mj"),
        };
        let mut by_gpu: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(|error| broken(&error))? {
            let line = record.position().map_or(0, csv::Position::line);
            let row = columns.row(&record, line)?;
            let gpu = record.get(columns.gpu).unwrap_or_default();
            let rows = match by_gpu.get_mut(gpu) {
                Some(rows) => rows,
                None => by_gpu.entry(gpu.to_owned()).or_default(),
            };
            rows.push(row);
        }
        if by_gpu.is_empty() {
            let (value, expected) = (String::new(), "at least one row");
            return Err(ReplayError::Bad { line: 2, column: "t_s", value, expected });
        }
        let mut series = Vec::new();
        for (gpu, mut rows) in by_gpu {
            rows.sort_by_key(|row| row.at_ms);
            series.push(Series::new(&gpu, rows, agent, models)?);
        }
        Ok(Self { series, longest_ms })
    }

    /// Milliseconds from its start to its last row.
    pub fn end_ms(&self) -> u64 {
        self.series.iter().filter_map(|series| series.rows.last()).map(|row| row.at_ms).max().unwrap_or(0)
    }

    /// The inventory.
    pub fn devices(&self) -> Vec<Device> {
        self.series.iter().map(|series| series.device.clone()).collect()
    }

    /// What a look at `to_ms` gives, the look before having been at `from_ms`; without the inventory.
    pub fn look_between(&self, from_ms: u64, to_ms: u64) -> Look {
        let devices = self.series.iter().map(|series| DeviceLook {
            id: series.device.id.clone(),
            state: series.between(from_ms, to_ms, self.longest_ms),
            pids: None,
            used: Vec::new(),
            machines: None,
        });
        Look {
            devices: devices.collect(),
            source_state: SourceState::Ok,
            inventory_changed: None,
            unidentified: 0,
        }
    }
}

fn broken(error: &csv::Error) -> ReplayError {
    ReplayError::Bad {
        line: error.position().map_or(1, csv::Position::line),
        column: "(all)",
        value: error.to_string().chars().take(120).collect(),
        expected: "a row with as many fields as the header",
    }
}

impl Columns {
    fn row(&self, record: &csv::StringRecord, line: u64) -> Result<Row, ReplayError> {
        let bad = |column: &'static str, value: &str, expected: &'static str| ReplayError::Bad {
            line,
            column,
            value: value.chars().take(40).collect(),
            expected,
        };
        let number = |index: Option<usize>, column: &'static str| -> Result<Option<f64>, ReplayError> {
            match index.and_then(|index| record.get(index)).unwrap_or_default() {
                "" => Ok(None),
                text => match text.parse::<f64>() {
                    Ok(value) if value.is_finite() && value >= 0.0 => Ok(Some(value)),
                    _ => Err(bad(column, text, "a number of at least 0, or empty")),
                },
            }
        };
        let seconds = number(Some(self.t_s), "t_s")?
            .filter(|seconds| *seconds < 1e9)
            .ok_or_else(|| bad("t_s", record.get(self.t_s).unwrap_or_default(), "seconds since the start"))?;
        // What cannot be is left out, as a driver that answers nonsense has not answered.
        let ratio =
            |value: Option<f64>, whole: f64| value.and_then(|value| Ratio::from_fraction(value / whole));
        let power = number(self.power_w, "power_w")?;
        let rate = |index, column| Ok(number(index, column)?.and_then(whole));
        Ok(Row {
            at_ms: whole(seconds * 1000.0).unwrap_or(0),
            power_mw: power.and_then(|watts| whole(watts * 1000.0)).and_then(|mw| u32::try_from(mw).ok()),
            busy: ratio(number(self.gpu_util_pct, "gpu_util_pct")?, 100.0),
            sm: ratio(number(self.sm_active, "sm_active")?, 1.0),
            tensor: ratio(number(self.tensor_active, "tensor_active")?, 1.0),
            dram: ratio(number(self.dram_active, "dram_active")?, 1.0),
            traffic: Traffic {
                nvlink_tx: rate(self.nvlink_tx, "nvlink_tx_Bps")?,
                nvlink_rx: rate(self.nvlink_rx, "nvlink_rx_Bps")?,
                pcie_tx: rate(self.pcie_tx, "pcie_tx_Bps")?,
                pcie_rx: rate(self.pcie_rx, "pcie_rx_Bps")?,
                infiniband: None,
            },
            energy_mj: rate(self.energy_mj, "energy_mj")?,
        })
    }
}

/// To the nearest whole number that a double holds exactly.
fn whole(value: f64) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
    (0.0..9e15).contains(&value).then(|| value.round() as u64)
}

impl Series {
    fn new(gpu: &str, rows: Vec<Row>, agent: &AgentId, models: &ReplayModels) -> Result<Self, ReplayError> {
        let name = models.of_gpu.get(gpu).unwrap_or(&models.model);
        let table = AcceleratorTable::shipped();
        let model = table.find(None, name);
        let id = format!("{agent}/gpu{gpu}").parse().map_err(|_| ReplayError::Bad {
            line: 2,
            column: "gpu",
            value: gpu.chars().take(40).collect(),
            expected: "a number or short name that makes an accelerator id",
        })?;
        let tensor = rows.iter().any(|row| row.tensor.is_some());
        let device = Device {
            id,
            pci_address: None,
            pci_device: model.map(|model| model.pci_device.clone()),
            name: name.clone(),
            max_sm_clock_mhz: model.map(|model| model.max_clock_mhz),
            power_limit_mw: model.map(|model| model.power_w.saturating_mul(1000)),
            memory_bytes: None,
            tier: if tensor { Tier::C } else { Tier::D },
            source: Source::Simulated,
            driver: None,
            host: None,
            trust: None,
            parent: None,
            units: None,
            instance: None,
            sample_ms: 0,
            conditions: Vec::new(),
            present: true,
        };
        let clock = models.clock_mhz.or(model.map(|model: &Model| model.table_clock_mhz));
        Ok(Self { device, clock_mhz: clock.filter(|_| tensor), rows })
    }

    /// What the rows say about the time from `from_ms` to `to_ms`.
    fn between(&self, from_ms: u64, to_ms: u64, longest_ms: u64) -> DeviceState {
        let first = self.rows.partition_point(|row| row.at_ms <= from_ms);
        let mut mean = Mean::default();
        let mut before = first.checked_sub(1).and_then(|index| self.rows.get(index));
        let mut ended = false;
        for row in &self.rows[first..] {
            let start = before.map_or(row.at_ms, |before| before.at_ms);
            let hole = row.at_ms - start > longest_ms;
            let covered = row.at_ms.min(to_ms).saturating_sub(start.max(from_ms));
            if hole {
                // Nothing is known about now.
                ended = start < to_ms && to_ms < row.at_ms;
            } else if before.is_some() || row.at_ms <= to_ms {
                mean.add(row, covered);
                // A counter read later says nothing about now.
                mean.energy_mj = row.energy_mj.filter(|_| row.at_ms <= to_ms).or(mean.energy_mj);
            }
            before = Some(row);
            if row.at_ms >= to_ms {
                break;
            }
        }
        if ended || mean.rows == 0 {
            return DeviceState::Missing(GapCause::ReadFailed);
        }
        let tensor = mean.tensor.ratio();
        DeviceState::Read(Reading {
            assumed_clock_mhz: self.clock_mhz.filter(|_| tensor.is_some()),
            activity: Activity { tensor, sm: mean.sm.ratio(), ..Activity::default() },
            busy: mean.busy.ratio(),
            power_mw: mean.power.value().and_then(|mw| u32::try_from(mw).ok()),
            energy_mj: mean.energy_mj,
            dram: mean.dram.ratio(),
            traffic: Traffic {
                nvlink_tx: mean.nvlink_tx.value(),
                nvlink_rx: mean.nvlink_rx.value(),
                pcie_tx: mean.pcie_tx.value(),
                pcie_rx: mean.pcie_rx.value(),
                infiniband: None,
            },
            ..Reading::default()
        })
    }
}

/// Means over time of what was there.
#[derive(Default)]
struct Mean {
    rows: u32,
    power: Weighted,
    busy: Weighted,
    sm: Weighted,
    tensor: Weighted,
    dram: Weighted,
    nvlink_tx: Weighted,
    nvlink_rx: Weighted,
    pcie_tx: Weighted,
    pcie_rx: Weighted,
    /// The latest.
    energy_mj: Option<u64>,
}

impl Mean {
    fn add(&mut self, row: &Row, covered_ms: u64) {
        self.rows += 1;
        // The very first row covers no time, but sets the base.
        let weight = covered_ms.max(1);
        let billionths = |ratio: Option<Ratio>| ratio.map(|ratio| u64::from(ratio.billionths()));
        self.power.add(row.power_mw.map(u64::from), weight);
        self.busy.add(billionths(row.busy), weight);
        self.sm.add(billionths(row.sm), weight);
        self.tensor.add(billionths(row.tensor), weight);
        self.dram.add(billionths(row.dram), weight);
        self.nvlink_tx.add(row.traffic.nvlink_tx, weight);
        self.nvlink_rx.add(row.traffic.nvlink_rx, weight);
        self.pcie_tx.add(row.traffic.pcie_tx, weight);
        self.pcie_rx.add(row.traffic.pcie_rx, weight);
    }
}

#[derive(Default)]
struct Weighted {
    sum: u128,
    weight: u128,
}

impl Weighted {
    fn add(&mut self, value: Option<u64>, weight: u64) {
        if let Some(value) = value {
            self.sum += u128::from(value) * u128::from(weight);
            self.weight += u128::from(weight);
        }
    }

    fn value(&self) -> Option<u64> {
        let mean = (self.sum + self.weight / 2).checked_div(self.weight)?;
        u64::try_from(mean).ok()
    }

    fn ratio(&self) -> Option<Ratio> {
        let billionths = u32::try_from(self.value()?).ok()?;
        Ratio::from_fraction(f64::from(billionths) / 1e9)
    }
}

/// Plays a recording by a clock, once.
pub struct ReplaySource {
    replay: Replay,
    clock: Arc<dyn Clock>,
    started_ms: u64,
    last_ms: Option<u64>,
}

impl ReplaySource {
    /// The recording begins now.
    pub fn new(replay: Replay, clock: Arc<dyn Clock>) -> Self {
        let started_ms = clock.now().boot_ms;
        Self { replay, clock, started_ms, last_ms: None }
    }

    /// Whether it has been played to the end.
    pub fn is_over(&self) -> bool {
        self.last_ms.is_some_and(|last| last >= self.replay.end_ms())
    }
}

impl AcceleratorSource for ReplaySource {
    async fn look(&mut self) -> Look {
        let now = self.clock.now().boot_ms.saturating_sub(self.started_ms);
        // The last look is at the end itself: after it, nothing was recorded, which is no gap.
        let now = now.min(self.replay.end_ms());
        match self.last_ms.replace(now) {
            Some(last) => self.replay.look_between(last, now),
            None => {
                Look { inventory_changed: Some(self.replay.devices()), ..self.replay.look_between(now, now) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
