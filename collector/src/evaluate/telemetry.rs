//! Recorded telemetry with labels: what kind of work it was, and how many operations.

use std::path::Path;

use serde::Serialize;

/// How to read the traces.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Uses one reading every so long: 1s, 10s or 60s.
    #[arg(long, value_name = "1s|10s|60s")]
    thin: Option<String>,
    /// Leaves counters out, separated by commas: tensor, sm, dram, nvlink, power.
    #[arg(long, value_delimiter = ',', value_name = "COUNTERS")]
    hide: Vec<String>,
}

/// What came of all runs.
#[derive(Debug, Serialize)]
pub struct Report {}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        String::new()
    }
}

/// Reads the folder and judges every run.
pub fn evaluate(_dir: &Path, _options: &Options) -> anyhow::Result<Report> {
    anyhow::bail!("not there yet")
}
