//! `labels.csv`: which time of which accelerators of which run was what.

use std::collections::BTreeMap;

use anyhow::bail;
use weighbridge_agent::config::ReplayModels;
use weighbridge_meter::{AcceleratorTable, Class};

/// A run with its labels, in the order of the file.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: String,
    pub(super) labels: Vec<Label>,
}

/// One row.
#[derive(Debug)]
pub(super) struct Label {
    pub(super) gpus: Vec<u32>,
    /// Seconds, as in the file.
    pub(super) start: f64,
    pub(super) end: f64,
    /// `None`: not to be asked about.
    pub(super) expected: Option<Expected>,
    gpu_model: String,
}

/// What a label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// Training.
    Training,
    /// Inference.
    Inference,
    /// A model may be loaded, and nothing runs.
    Idle,
    /// Neither.
    Other,
}

impl Expected {
    /// What we call it.
    pub(super) fn class(self) -> Class {
        match self {
            Self::Training => Class::Training,
            Self::Inference => Class::Inference,
            Self::Idle | Self::Other => Class::Other,
        }
    }
}

impl Run {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().map(|label| label.gpu_model.as_str())
    }

    /// Device names by accelerator.
    pub(super) fn models(&self, table: &AcceleratorTable) -> ReplayModels {
        let name = |label: &Label| super::device_name(table, &label.gpu_model);
        let of_gpu = self.labels.iter().flat_map(|label| {
            let name = name(label);
            label.gpus.iter().map(move |gpu| (gpu.to_string(), name.clone()))
        });
        ReplayModels {
            model: self.labels.first().map(name).unwrap_or_default(),
            of_gpu: of_gpu.collect(),
            clock_mhz: None,
        }
    }
}

pub(super) fn parse(text: &str) -> anyhow::Result<Vec<Run>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    let column = |name: &'static str| match header.iter().position(|column| column == name) {
        Some(index) => Ok((name, index)),
        None => bail!("line 1, column {name}: not there, expected a column of this name"),
    };
    let (run, gpus, class) = (column("run")?, column("gpus")?, column("class")?);
    let (start, end, model) = (column("t_start_s")?, column("t_end_s")?, column("gpu_model")?);
    let mut runs: Vec<Run> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for record in reader.records() {
        let record = record?;
        let cells = Cells { line: record.position().map_or(0, csv::Position::line), record: &record };
        let id = cells.get(run);
        if id.is_empty() || id.starts_with('.') || id.contains(['/', '\\', '\0']) {
            return cells.bad(run, "the name of a trace file without .csv.gz");
        }
        let label = Label {
            gpus: cells.gpus(gpus)?,
            start: cells.seconds(start)?,
            end: cells.seconds(end)?,
            expected: cells.class(class)?,
            gpu_model: cells.get(model).to_owned(),
        };
        if label.end < label.start {
            return cells.bad(end, "seconds not before t_start_s");
        }
        let place = *places.entry(id.to_owned()).or_insert_with(|| {
            runs.push(Run { id: id.to_owned(), labels: Vec::new() });
            runs.len() - 1
        });
        if let Some(run) = runs.get_mut(place) {
            run.labels.push(label);
        }
    }
    Ok(runs)
}

type Column = (&'static str, usize);

struct Cells<'a> {
    line: u64,
    record: &'a csv::StringRecord,
}

impl<'a> Cells<'a> {
    fn get(&self, (_, index): Column) -> &'a str {
        self.record.get(index).unwrap_or_default()
    }

    fn bad<T>(&self, column: Column, expected: &str) -> anyhow::Result<T> {
        let value: String = self.get(column).chars().take(40).collect();
        bail!("line {}, column {}: {value:?}, expected {expected}", self.line, column.0)
    }

    fn seconds(&self, column: Column) -> anyhow::Result<f64> {
        match self.get(column).parse::<f64>() {
            Ok(seconds) if (0.0..1e9).contains(&seconds) => Ok(seconds),
            _ => self.bad(column, "seconds since the start of the trace"),
        }
    }

    fn class(&self, column: Column) -> anyhow::Result<Option<Expected>> {
        Ok(match self.get(column) {
            "training" => Some(Expected::Training),
            "inference" => Some(Expected::Inference),
            "idle" => Some(Expected::Idle),
            "other" => Some(Expected::Other),
            "transition" => None,
            _ => return self.bad(column, "training, inference, idle, other or transition"),
        })
    }

    /// `0-7` or `0,2-3`.
    fn gpus(&self, column: Column) -> anyhow::Result<Vec<u32>> {
        let expected = "numbers below 1024 and spans of them, such as 0-7 or 0,2-3";
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|&gpu| gpu < 1024);
        let mut gpus = Vec::new();
        for part in self.get(column).split([',', ';', ' ']).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => gpus.extend(first..=last),
                _ => return self.bad(column, expected),
            }
        }
        gpus.sort_unstable();
        gpus.dedup();
        if gpus.is_empty() {
            return self.bad(column, expected);
        }
        Ok(gpus)
    }
}
