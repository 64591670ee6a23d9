//! Published training runs: what hours alone say, against operations known independently of them.
//!
//! A row names accelerator, count and hours; sometimes what part of the peak was used. The reference is as a rule
//! six times parameters times tokens: operations of the model itself, so that is what is compared.

use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;
use weighbridge_meter::{
    Estimator, Operations,
    table::{Format, Hardware},
};

use super::{Whole, certain, model, whole};

/// What came of all rows.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Over all rows.
    pub summary: Summary,
    /// One a run, in the order of the file.
    pub rows: Vec<Row>,
}

/// How well references were met.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Rows in the file.
    pub runs: usize,
    /// Those of a known accelerator with hours.
    pub supported: usize,
    /// All supported rows with a reference.
    pub all: Met,
    /// Those marked `strict`: the reference does not follow from the hours.
    pub strict: Met,
    /// Rows whose reference is more than their hours can hold: one of the two is wrong.
    pub impossible: Vec<String>,
    /// Rows that are certain of a line that their reference does not reach.
    pub certain_but_wrong: Vec<String>,
}

/// References against intervals.
#[derive(Debug, Default, Serialize)]
pub struct Met {
    /// How many.
    pub rows: usize,
    /// References inside the calibrated interval.
    pub in_calibrated: usize,
    /// References inside the bound.
    pub in_bound: usize,
    /// Median of the calibrated interval's high over its low.
    pub median_high_over_low: Option<f64>,
    /// Median of how far best is off, as a factor from 1.
    pub median_factor_of_best: Option<f64>,
}

/// One run.
#[derive(Debug, Serialize)]
pub struct Row {
    /// As in the file.
    pub id: String,
    /// As in the file.
    pub accelerator: String,
    /// The row of the accelerator table that was taken for it.
    pub taken_for: Option<String>,
    /// Whether anything can be said.
    pub supported: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Physical: operations executed cannot be outside.
    pub bound: Option<Whole>,
    /// 5 to 95 % of the operations that the model itself needs, as references are.
    pub calibrated: Option<Whole>,
    /// 5 to 95 % of the operations executed, recomputation and padding included.
    pub executed: Option<Whole>,
    /// The highest of 1e23, 1e25 and 1e26 that the bound's low is over.
    pub certain: Option<&'static str>,
    /// As in the file, rounded to whole operations.
    pub reference: Option<String>,
    /// Whether the reference is inside the calibrated interval.
    pub in_calibrated: Option<bool>,
    /// Whether it is inside the bound.
    pub in_bound: Option<bool>,
    /// Set where it is more than the accelerators can do in these hours.
    pub impossible: bool,
    /// How far best is off, as a factor from 1.
    pub factor_of_best: Option<f64>,
    /// As in the file: `strict`, `loose` or `no`.
    pub error_test: String,
}

/// Reads the file and estimates every row.
pub fn evaluate(file: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    of_text(&text).with_context(|| file.display().to_string())
}

/// The same from the content of a file.
pub fn of_text(text: &str) -> anyhow::Result<Report> {
    let estimator = Estimator::shipped();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = reader.headers().context("line 1")?.clone();
    for needed in ["id", "accelerator"] {
        if !headers.iter().any(|header| header == needed) {
            bail!("line 1: {headers:?} has no column {needed}", headers = headers.iter().collect::<Vec<_>>());
        }
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let fields = Fields { headers: &headers, record: &record, line };
        rows.push(row(&estimator, &fields)?);
    }
    Ok(Report { summary: summary(&rows), rows })
}

struct Fields<'a> {
    headers: &'a csv::StringRecord,
    record: &'a csv::StringRecord,
    line: u64,
}

impl Fields<'_> {
    /// Empty where the column is not there.
    fn text(&self, column: &str) -> &str {
        let index = self.headers.iter().position(|header| header == column);
        index.and_then(|index| self.record.get(index)).unwrap_or_default().trim()
    }

    /// A positive number; `None` where nothing is written.
    fn positive(&self, column: &str) -> anyhow::Result<Option<f64>> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
            _ => bail!("line {}, column {column}: {text:?} is not a positive number", self.line),
        }
    }
}

fn row(estimator: &Estimator, fields: &Fields<'_>) -> anyhow::Result<Row> {
    let accelerator = fields.text("accelerator").to_owned();
    let reference = fields.positive("flop_reference")?;
    let mut row = Row {
        id: fields.text("id").to_owned(),
        taken_for: None,
        supported: false,
        reason: None,
        bound: None,
        calibrated: None,
        executed: None,
        certain: None,
        reference: reference.map(|reference| whole(from_operations(reference))),
        in_calibrated: None,
        in_bound: None,
        impossible: false,
        factor_of_best: None,
        error_test: fields.text("error_test").to_owned(),
        accelerator,
    };
    let hours = match (
        fields.positive("accelerator_hours")?,
        fields.positive("accelerator_count")?,
        fields.positive("wall_clock_hours")?,
    ) {
        (Some(hours), _, _) => Some(hours),
        (None, Some(count), Some(hours)) => Some(count * hours),
        _ => None,
    };
    let Some(model) = model(estimator.table(), &row.accelerator) else {
        row.reason = Some("the accelerator is not in the table");
        return Ok(row);
    };
    row.taken_for = Some(model.name.clone());
    let Some(hours) = hours else {
        row.reason = Some("neither accelerator hours nor count and hours");
        return Ok(row);
    };
    let said = said(fields, model)?;
    let vector = fields.text("dtype").eq_ignore_ascii_case("fp32");
    let declared = said.map(|said| said.format).or(vector.then_some(Format::Fp32));
    let hardware = Hardware { declared, ..model.into() };
    // Up to 2^63 ms of accelerators: 3e8 years.
    let millis = whole_number(hours * 3_600_000.0).unwrap_or(u64::MAX >> 1);
    let hours = estimator.hours(hardware, millis, said.map(|said| said.per_mille));
    let bound = hours.executed.bound;
    row.supported = true;
    // References are operations of the model, so that is what best is compared as, in either interval.
    row.bound = Some(Whole { best: whole(hours.model.best()), ..Whole::from(bound) });
    row.calibrated = Some(hours.model.into());
    let executed = hours.executed.calibrated;
    row.executed =
        Some(Whole { low: whole(executed.low()), best: whole(bound.best()), high: whole(executed.high()) });
    row.certain = certain(bound.low());
    if let Some(reference) = reference.map(from_operations) {
        row.in_calibrated = Some(hours.model.low() <= reference && reference <= hours.model.high());
        row.in_bound = Some(bound.low() <= reference && reference <= bound.high());
        row.impossible = reference > bound.high();
        row.factor_of_best = factor(reference, hours.model.best());
    }
    Ok(row)
}

/// What somebody says was used of the peak of a format.
#[derive(Clone, Copy)]
struct Said {
    per_mille: u32,
    format: Format,
}

fn said(fields: &Fields<'_>, model: &weighbridge_meter::Model) -> anyhow::Result<Option<Said>> {
    let kind = fields.text("utilisation_kind").to_ascii_lowercase();
    let format = if kind.contains("fp8 peak") { Format::Fp8 } else { Format::Bf16 };
    let reported = fields.positive("utilisation_reported")?;
    let achieved = fields.positive("achieved_tflops_per_accelerator")?;
    let peak = model.peaks.bf16.map(|hundredths| f64::from(hundredths) / 100.0);
    let of_peak = match (reported, achieved.zip(peak)) {
        (Some(reported), _) if reported > 100.0 => {
            bail!("line {}, column utilisation_reported: {reported} is not a part of the peak", fields.line)
        }
        (Some(percent), _) if percent > 1.0 => Some(percent / 100.0),
        (Some(reported), _) => Some(reported),
        (None, achieved) => achieved.map(|(achieved, peak)| (achieved / peak).min(1.0)),
    };
    // Hardware utilisation counts recomputation; what the model needed is a little less.
    let of_model = if kind.contains("hfu") { 0.93 } else { 1.0 };
    let per_mille = of_peak.and_then(|part| whole_number(part * of_model * 1000.0));
    Ok(per_mille
        .and_then(|per_mille| u32::try_from(per_mille).ok())
        .map(|per_mille| Said { per_mille, format }))
}

/// Rounded to nearest; `None` if it does not fit.
fn whole_number(number: f64) -> Option<u64> {
    format!("{number:.0}").parse().ok()
}

/// To whole teraoperations.
fn from_operations(operations: f64) -> Operations {
    whole_number(operations / 1e12)
        .and_then(|tera| Operations::from_tera(tera).ok())
        .unwrap_or(Operations::MAX)
}

fn factor(one: Operations, other: Operations) -> Option<f64> {
    let (low, high) = (one.min(other).tera(), one.max(other).tera());
    (low > 0).then(|| ratio(high, low))
}

#[expect(clippy::cast_precision_loss, reason = "a quotient for people")]
fn ratio(above: u64, below: u64) -> f64 {
    above as f64 / below as f64
}

fn summary(rows: &[Row]) -> Summary {
    let ids = |which: &dyn Fn(&Row) -> bool| {
        rows.iter().filter(|row| which(row)).map(|row| row.id.clone()).collect::<Vec<_>>()
    };
    let wrong = |row: &Row| {
        let line = row.certain.and_then(|line| line.parse::<f64>().ok());
        let reference = row.reference.as_ref().and_then(|reference| reference.parse::<f64>().ok());
        matches!((line, reference), (Some(line), Some(reference)) if reference < line)
    };
    Summary {
        runs: rows.len(),
        supported: rows.iter().filter(|row| row.supported).count(),
        all: met(rows.iter()),
        strict: met(rows.iter().filter(|row| row.error_test == "strict")),
        impossible: ids(&|row| row.impossible),
        certain_but_wrong: ids(&wrong),
    }
}

fn met<'a>(rows: impl Iterator<Item = &'a Row>) -> Met {
    let rows: Vec<&Row> = rows.filter(|row| row.in_bound.is_some()).collect();
    let spread = rows.iter().filter_map(|row| {
        let calibrated = row.calibrated.as_ref()?;
        let (low, high) = (calibrated.low.parse::<f64>().ok()?, calibrated.high.parse::<f64>().ok()?);
        (low > 0.0).then_some(high / low)
    });
    Met {
        rows: rows.len(),
        in_calibrated: rows.iter().filter(|row| row.in_calibrated == Some(true)).count(),
        in_bound: rows.iter().filter(|row| row.in_bound == Some(true)).count(),
        median_high_over_low: median(spread),
        median_factor_of_best: median(rows.iter().filter_map(|row| row.factor_of_best)),
    }
}

/// To two decimals.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = match (values.len() % 2, values.get(middle)) {
        (1, Some(value)) => *value,
        (0, Some(value)) => (values[middle - 1] + value) / 2.0,
        _ => return None,
    };
    Some((median * 100.0).round() / 100.0)
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line(format!(
            "{:<8} {:<10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6}  calibrated holds it / note",
            "run", "hardware", "reference", "low 5 %", "best", "high 95 %", "bound", "factor"
        ));
        let short = |text: Option<&String>| {
            text.and_then(|text| text.parse::<f64>().ok()).map_or_else(|| "-".into(), |n| format!("{n:.2e}"))
        };
        for row in &self.rows {
            let calibrated = row.calibrated.as_ref();
            let holds = match (row.in_calibrated, row.impossible) {
                _ if !row.supported => row.reason.unwrap_or_default(),
                (_, true) => "IMPOSSIBLE: more than these hours can hold",
                (Some(true), _) => "yes",
                (Some(false), _) => "no",
                (None, _) => "",
            };
            line(format!(
                "{:<8} {:<10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6}  {holds}",
                row.id,
                row.accelerator,
                short(row.reference.as_ref()),
                short(calibrated.map(|c| &c.low)),
                short(calibrated.map(|c| &c.best)),
                short(calibrated.map(|c| &c.high)),
                short(row.bound.as_ref().map(|b| &b.high)),
                row.factor_of_best.map_or_else(|| "-".into(), |factor| format!("{factor:.2}")),
            ));
        }
        let summary = &self.summary;
        line(format!("\n{} runs, {} supported", summary.runs, summary.supported));
        for (name, met) in [("strict", &summary.strict), ("all with a reference", &summary.all)] {
            let shown = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
            line(format!(
                "{name}: {} rows; calibrated holds {}; bound holds {}; median high/low {}; median factor of best {}",
                met.rows,
                met.in_calibrated,
                met.in_bound,
                shown(met.median_high_over_low),
                shown(met.median_factor_of_best),
            ));
        }
        let list = |ids: &[String]| if ids.is_empty() { "none".into() } else { ids.join(", ") };
        line(format!("impossible rows: {}", list(&summary.impossible)));
        line(format!("certain but wrong: {}", list(&summary.certain_but_wrong)));
        text.truncate(text.trim_end().len());
        text
    }
}
