//! Recorded telemetry with labels: what kind of work it was, and how many operations.
//!
//! A folder holds `labels.csv` and a `RUN.csv.gz` for each run named in it. A trace goes the way of production:
//! replayed readings through the agent's engine into windows with features, those into estimates and [`Signs`],
//! and those are judged. Each accelerator is looked at by itself, and its time is cut into stretches of one kind
//! (`stretches`). Labels say which device it was and which time is asked about; they never reach the judgement.
//!
//! [`Signs`]: weighbridge_meter::Signs

mod labels;
mod report;
mod stretches;
mod trace;

use std::{collections::BTreeMap, fs::File, path::Path};

use anyhow::{Context, bail};
use clap::ValueEnum;
use flate2::read::GzDecoder;
use weighbridge_meter::{AcceleratorTable, Class, Estimator, Hardware, Interval, Operations};

pub use self::report::{Interval as JudgedInterval, Report, Row, Summary};
use self::{labels::Run, report::Counters, stretches::Stretch, trace::Trace};
use super::{Whole, certain, model};

/// How to read the traces.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Uses one reading every so long.
    #[arg(long)]
    pub thin: Option<Thin>,
    /// Leaves counters out, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "COUNTERS")]
    pub hide: Vec<Hide>,
}

/// How long readings are apart at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Thin {
    /// A second.
    #[value(name = "1s")]
    Second,
    /// Ten seconds.
    #[value(name = "10s")]
    TenSeconds,
    /// A minute.
    #[value(name = "60s")]
    Minute,
}

impl Thin {
    fn millis(self) -> u64 {
        match self {
            Self::Second => 1_000,
            Self::TenSeconds => 10_000,
            Self::Minute => 60_000,
        }
    }
}

/// Counters that can be left out, as if a device or driver did not have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hide {
    /// Tensor activity.
    Tensor,
    /// SM activity.
    Sm,
    /// Activity of the memory interface.
    Dram,
    /// Traffic over NVLink.
    Nvlink,
    /// Power and energy.
    Power,
}

impl Hide {
    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Tensor => &["tensor_active"],
            Self::Sm => &["sm_active"],
            Self::Dram => &["dram_active"],
            Self::Nvlink => &["nvlink_tx_Bps", "nvlink_rx_Bps"],
            Self::Power => &["power_w", "energy_mj"],
        }
    }
}

/// Reads the folder and judges every run. A trace that is missing or cannot be read becomes a row with its
/// error; labels that cannot be read are an error of all.
pub fn evaluate(dir: &Path, options: &Options) -> anyhow::Result<Report> {
    let file = dir.join("labels.csv");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let runs = labels::parse(&text).with_context(|| format!("cannot use {}", file.display()))?;
    if runs.is_empty() {
        bail!("{}, line 2: no row, expected at least one labelled run", file.display());
    }
    let estimator = Estimator::shipped();
    let rows = runs.iter().map(|run| match judge(dir, run, options, &estimator) {
        Ok(row) => row,
        Err(error) => Row::failed(&run.id, &format!("{error:#}")),
    });
    Ok(Report::new(rows.collect()))
}

fn judge(dir: &Path, run: &Run, options: &Options, estimator: &Estimator) -> anyhow::Result<Row> {
    let path = dir.join(format!("{}.csv.gz", run.id));
    let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = std::io::read_to_string(GzDecoder::new(file))
        .with_context(|| format!("{}: not a gzip file of text", path.display()))?;
    let models = run.models(estimator.table());
    let trace =
        Trace::read(&text, &models, options).with_context(|| format!("cannot use {}", path.display()))?;
    let mut stretches = BTreeMap::new();
    let mut bound = Interval::exact(Operations::ZERO);
    let mut calibrated = weighbridge_meter::Calibrated::default();
    for (gpu, windows) in &trace.windows {
        let name = models.of_gpu.get(&gpu.to_string()).unwrap_or(&models.model);
        let hardware = Hardware::from(estimator.table().find(None, name));
        for window in windows {
            let estimate = estimator.estimate(hardware, window);
            bound = bound.saturating_add(estimate.bound);
            calibrated = calibrated.saturating_add(estimate.calibrated);
        }
        stretches.insert(*gpu, stretches::of(&hardware, windows));
    }
    let (class, likelihood) = whole_run(&stretches);
    let supported = run.names().all(|name| model(estimator.table(), name).is_some());
    // As with published runs, what is known of a run is as a rule what its model needs.
    let needed = estimator.model_operations(bound.best(), calibrated);
    let physical = weighbridge_meter::Calibrated::new(bound.low(), bound.high())?;
    let least = estimator.model_operations(bound.low(), physical).low();
    let asked = run.labels.iter().filter(|label| label.start < label.end);
    let intervals = asked.filter_map(|label| Some((label, label.expected?)));
    Ok(Row {
        supported,
        bound: supported.then(|| Whole {
            low: super::whole(least),
            best: super::whole(needed.best().max(least)),
            high: super::whole(bound.high()),
        }),
        calibrated: supported.then(|| Whole::from(needed)),
        executed: supported.then(|| Whole {
            low: super::whole(calibrated.low()),
            best: super::whole(bound.best()),
            high: super::whole(calibrated.high()),
        }),
        certain: certain(least).filter(|_| supported),
        class: Some(class),
        likelihood: (likelihood * 1000.0).round() / 1000.0,
        counters: Some(Counters::of(&trace)),
        intervals: intervals
            .flat_map(|(label, expected)| JudgedInterval::within(label, expected, &stretches))
            .collect(),
        ..Row::failed(&run.id, "")
    })
}

/// The kind of most of what its accelerators did, by themselves, while they did something.
fn whole_run(stretches: &BTreeMap<u32, Vec<Stretch>>) -> (Class, f64) {
    let mut sums: BTreeMap<Class, (f64, f64)> = BTreeMap::new();
    let (mut all, mut active) = (0.0, 0.0);
    for stretch in stretches.values().flatten() {
        let millis = stretch.millis();
        all += millis;
        if stretch.idle {
            continue;
        }
        active += millis;
        let sum = sums.entry(stretch.judgement.class).or_default();
        sum.0 += millis;
        sum.1 += millis * stretch.likelihood();
    }
    if all == 0.0 {
        return (Class::Undetermined, 0.0);
    }
    if active < all / 20.0 {
        return (Class::Other, (1.0 - active / all).min(0.985));
    }
    let most = sums.iter().max_by(|a, b| a.1.0.total_cmp(&b.1.0));
    match most {
        Some((class, (millis, weighted))) if *millis >= 0.6 * active => (*class, weighted / millis),
        Some((_, (millis, _))) => (Class::Undetermined, millis / active),
        None => (Class::Undetermined, 0.0),
    }
}

/// The table as names of devices are looked up in it.
fn device_name(table: &AcceleratorTable, name: &str) -> String {
    model(table, name).map_or_else(|| name.to_owned(), |model| model.device_name.clone())
}
