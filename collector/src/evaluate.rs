//! Measures the estimators and the classifier against runs of which the truth is known from elsewhere.
//!
//! The figures come from the very code that accounts for tenants; only the way in is different: [`runs`] takes
//! published training runs, [`telemetry`] takes recorded traces. The data is not part of this project.
//!
//! Deliberately absent: any fitting. What is measured here changes nothing.

pub mod runs;
pub mod telemetry;

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;
use weighbridge_meter::{AcceleratorTable, Interval, Model, Operations};

use crate::command::{Failure, say};

/// What to measure on.
#[derive(Debug, Subcommand)]
pub enum Evaluate {
    /// Published training runs: accelerator, count and hours against operations known independently.
    Runs {
        /// CSV with a header: id, accelerator, accelerator_hours or accelerator_count and wall_clock_hours;
        /// optional: utilisation_reported, utilisation_kind, achieved_tflops_per_accelerator, dtype,
        /// flop_reference, error_test.
        file: PathBuf,
        /// Prints JSON in place of a table.
        #[arg(long)]
        json: bool,
    },
    /// Recorded telemetry with labels: what kind of work it was, and how many operations.
    Telemetry {
        /// Folder with labels.csv and one RUN.csv.gz a run.
        dir: PathBuf,
        /// Prints JSON in place of a table.
        #[arg(long)]
        json: bool,
        /// How to read them.
        #[command(flatten)]
        options: telemetry::Options,
    },
}

impl Evaluate {
    /// Does it.
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Runs { file, json } => {
                let report = runs::evaluate(file).map_err(|error| Failure::usage(format!("{error:#}")))?;
                say(if *json { as_json(&report)? } else { report.table() });
            }
            Self::Telemetry { dir, json, options } => {
                let report = telemetry::evaluate(dir, options)
                    .map_err(|error| Failure::usage(format!("{error:#}")))?;
                say(if *json { as_json(&report)? } else { report.table() });
            }
        }
        Ok(())
    }
}

fn as_json(report: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(report).map_err(|error| Failure::missing(&error))
}

/// Three amounts in whole operations, as decimal strings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Whole {
    /// Not less.
    pub low: String,
    /// The best guess.
    pub best: String,
    /// Not more.
    pub high: String,
}

impl From<Interval<Operations>> for Whole {
    fn from(interval: Interval<Operations>) -> Self {
        Self { low: whole(interval.low()), best: whole(interval.best()), high: whole(interval.high()) }
    }
}

/// Whole operations as a decimal string.
pub fn whole(operations: Operations) -> String {
    (u128::from(operations.tera()) * Operations::UNIT).to_string()
}

/// The highest of the usual lines (1e23: biological sequence data; 1e25: European Union; 1e26: United States) that
/// has been crossed for certain.
pub fn certain(low: Operations) -> Option<&'static str> {
    [("1e26", 26), ("1e25", 25), ("1e23", 23)]
        .into_iter()
        .find(|(_, exponent)| u128::from(low.tera()) * Operations::UNIT >= 10_u128.pow(*exponent))
        .map(|(name, _)| name)
}

/// The row of the table that a loosely written name means: all its words are looked for among those of a row's
/// name, the first must be there, and of several rows the fastest is taken, so that no bound is too low.
pub fn model<'a>(table: &'a AcceleratorTable, name: &str) -> Option<&'a Model> {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_ascii_alphanumeric())
            .map(str::to_ascii_uppercase)
            .filter(|word| {
                !word.is_empty() && !["NVIDIA", "AMD", "INTEL", "TESLA", "INSTINCT"].contains(&word.as_str())
            })
            .collect()
    };
    // "SXM" stands for SXM2, SXM4 and SXM5.
    let alike = |asked: &str, there: &str| asked == there || (asked == "SXM" && there.starts_with("SXM"));
    let asked = words(name);
    let first = asked.first()?;
    let score = |model: &Model| {
        let there = words(&model.name);
        let named = |word: &String| there.iter().any(|t| alike(word, t));
        let leads = there.first() == Some(first)
            || (there.len() > 1 && there.get(1) == Some(first) && there[0] == "RTX");
        leads.then(|| asked.iter().filter(|word| named(word)).count())
    };
    table
        .models()
        .iter()
        .filter_map(|model| Some((score(model)?, model)))
        .max_by_key(|(score, model)| (*score, model.peak_ops_per_ms(), std::cmp::Reverse(&model.name)))
        .map(|(_, model)| model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loose_names_find_their_row_and_the_fastest_of_several() {
        let table = AcceleratorTable::shipped();
        let found = |name| model(&table, name).map(|model| model.name.as_str());
        assert_eq!(found("H100"), Some("H100 SXM5"));
        assert_eq!(found("NVIDIA H100-SXM-80GB"), Some("H100 SXM5"));
        assert_eq!(found("H100 PCIe"), Some("H100 PCIe"));
        assert_eq!(found("A100-SXM-40GB"), Some("A100 SXM4 40GB"));
        assert_eq!(found("V100"), Some("V100 SXM2 16GB"));
        assert_eq!(found("GB200"), Some("GB200 (per GPU)"));
        assert_eq!(found("L40S"), Some("L40S"));
        assert_eq!(found("MI300X"), Some("MI300X"));
        assert_eq!(found("Gaudi2"), Some("Gaudi2"));
        for unknown in ["TPU v3", "TPU v4", "Ascend 910", "TITAN X class", "P100", "", "H1000"] {
            assert_eq!(found(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_line_is_certain_only_from_its_own_value_on() {
        let tera = |tera| Operations::from_tera(tera).expect("fits");
        assert_eq!(certain(tera(99_999_999_999)), None);
        assert_eq!(certain(tera(100_000_000_000)), Some("1e23"));
        assert_eq!(certain(tera(9_999_999_999_999)), Some("1e23"));
        assert_eq!(certain(tera(10_000_000_000_000)), Some("1e25"));
        assert_eq!(certain(tera(100_000_000_000_000)), Some("1e26"));
    }
}
