//! What came of all runs: rows, sums over them, and both for people.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;
use weighbridge_meter::{Class, window::Counter};

use super::{
    labels::{Expected, Label},
    stretches::Stretch,
    trace::Trace,
};
use crate::evaluate::Whole;

/// What came of all runs.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Over all rows.
    pub summary: Summary,
    /// One a run.
    pub rows: Vec<Row>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// As in the labels.
    pub id: String,
    /// Whether the table has its accelerators; without, operations are not told.
    pub supported: bool,
    /// Cannot be outside; whole operations.
    pub bound: Option<Whole>,
    /// 5 to 95 % of the operations that the model itself needs, as references are; whole operations.
    pub calibrated: Option<Whole>,
    /// 5 to 95 % of the operations executed, recomputation and padding included; whole operations.
    pub executed: Option<Whole>,
    /// The highest line that was crossed for certain.
    pub certain: Option<&'static str>,
    /// What its accelerators did most of the time in which they did something.
    pub class: Option<Class>,
    /// How likely, 0 to 1.
    pub likelihood: f64,
    /// Best counters there were.
    pub counters: Option<Counters>,
    /// Labelled time, and what we say of it.
    pub intervals: Vec<Interval>,
    /// Why there is nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Labelled time of accelerators of which we say the same.
#[derive(Clone, Debug, Serialize)]
pub struct Interval {
    /// Seconds, as in the trace.
    pub start: f64,
    /// The same.
    pub end: f64,
    /// Numbers of the accelerators.
    pub gpus: Vec<u32>,
    /// What we say.
    pub class: Class,
    /// How likely, 0 to 1.
    pub likelihood: f64,
    /// Why, in words.
    pub because: &'static str,
    /// As labelled.
    pub expected: Expected,
}

/// The best counters of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Counters {
    /// Tensor activity.
    Tensor,
    /// Kernel utilisation.
    Utilisation,
    /// Nothing but power.
    Power,
    /// Nothing that could tell.
    None,
}

/// Over all runs; hours are accelerator hours of labelled time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Rows.
    pub runs: usize,
    /// Rows that could not be judged.
    pub failed: usize,
    /// Labelled hours by what was expected and what we say.
    pub hours: BTreeMap<Expected, BTreeMap<Class, f64>>,
    /// Over all counters.
    pub all: Shares,
    /// By the best counters there were.
    pub by_counters: BTreeMap<Counters, Shares>,
}

/// How much was decided, and how much of that was right.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Shares {
    /// Labelled hours.
    pub hours: f64,
    /// Part of them that is not undetermined.
    pub decided: Option<f64>,
    /// Part of the decided that is right.
    pub right: Option<f64>,
    /// Pieces of serving of a minute, or of the whole interval if that is shorter.
    pub serving_windows: usize,
    /// Those of them that were called training.
    pub serving_called_training: usize,
    #[serde(skip)]
    decided_hours: f64,
    #[serde(skip)]
    right_hours: f64,
}

impl Counters {
    pub(super) fn of(trace: &Trace) -> Self {
        let any = |counter| trace.windows.values().flatten().any(|w| w.counters.get(counter).is_some());
        if any(Counter::TensorCycles) {
            Self::Tensor
        } else if any(Counter::BusyMicros) {
            Self::Utilisation
        } else if any(Counter::EnergyMicrojoules) {
            Self::Power
        } else {
            Self::None
        }
    }
}

impl Row {
    /// A row with nothing but an error.
    pub(super) fn failed(id: &str, error: &str) -> Self {
        Self {
            id: id.to_owned(),
            supported: false,
            bound: None,
            calibrated: None,
            executed: None,
            certain: None,
            class: None,
            likelihood: 0.0,
            counters: None,
            intervals: Vec::new(),
            error: Some(error.to_owned()).filter(|error| !error.is_empty()),
        }
    }
}

/// Pieces of labelled time shorter than this, in seconds, belong to their longer neighbour: a window can reach
/// over the edge of a label.
const SHORTEST: f64 = 30.0;

#[derive(Clone, Copy)]
struct Piece {
    start: f64,
    end: f64,
    class: Class,
    likelihood: f64,
    because: &'static str,
}

impl Interval {
    /// What we say of one label: a row for each group of accelerators and each stretch of time.
    pub(super) fn within(
        label: &Label,
        expected: Expected,
        stretches: &BTreeMap<u32, Vec<Stretch>>,
    ) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        for &gpu in &label.gpus {
            let of_gpu = stretches.get(&gpu).map(Vec::as_slice).unwrap_or_default();
            for piece in pieces(label, of_gpu) {
                let same = |row: &&mut Self| {
                    row.class == piece.class && row.start == piece.start && row.end == piece.end
                };
                if let Some(row) = rows.iter_mut().find(same) {
                    #[expect(clippy::cast_precision_loss, reason = "a few accelerators")]
                    let count = row.gpus.len() as f64;
                    row.likelihood = (row.likelihood * count + piece.likelihood) / (count + 1.0);
                    row.gpus.push(gpu);
                    continue;
                }
                let Piece { start, end, class, likelihood, because } = piece;
                rows.push(Self { start, end, gpus: vec![gpu], class, likelihood, because, expected });
            }
        }
        rows.iter_mut().for_each(|row| row.likelihood = (row.likelihood * 1000.0).round() / 1000.0);
        rows.sort_by(|a, b| a.start.total_cmp(&b.start).then_with(|| a.gpus.cmp(&b.gpus)));
        rows
    }

    fn hours(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a few accelerators")]
        let count = self.gpus.len() as f64;
        (self.end - self.start) * count / 3600.0
    }
}

/// What is said of the labelled time of one accelerator, without holes.
fn pieces(label: &Label, stretches: &[Stretch]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for stretch in stretches {
        let (start, end) = (stretch.start.max(label.start), stretch.end.min(label.end));
        if start < end {
            let (class, because) = (stretch.judgement.class, stretch.judgement.because);
            pieces.push(Piece { start, end, class, likelihood: stretch.likelihood(), because });
        }
    }
    while let Some(short) = shortest(&pieces) {
        let length = |at: Option<usize>| {
            at.and_then(|at| pieces.get(at)).map_or(-1.0, |piece| piece.end - piece.start)
        };
        let (before, after) = (short.checked_sub(1), Some(short + 1));
        if length(before) < length(after) {
            pieces[short + 1].start = pieces[short].start;
        } else {
            pieces[short - 1].end = pieces[short].end;
        }
        pieces.remove(short);
    }
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match joined.last_mut().filter(|last| last.class == piece.class) {
            Some(last) => {
                let (one, two) = (last.end - last.start, piece.end - piece.start);
                last.likelihood = (last.likelihood * one + piece.likelihood * two) / (one + two).max(1e-9);
                if two > one {
                    last.because = piece.because;
                }
                last.end = piece.end;
            }
            None => joined.push(piece),
        }
    }
    // What nobody measured is told with what is next to it.
    match (joined.first().copied(), joined.len()) {
        (Some(_), count) => {
            joined[0].start = label.start;
            joined[count - 1].end = label.end;
            for at in 1..count {
                joined[at].start = joined[at - 1].end;
            }
        }
        (None, _) => joined.push(Piece {
            start: label.start,
            end: label.end,
            class: Class::Undetermined,
            likelihood: 0.0,
            because: "nothing was looked at",
        }),
    }
    joined
}

/// The shortest piece that is too short, if it has a neighbour.
fn shortest(pieces: &[Piece]) -> Option<usize> {
    let (at, piece) =
        pieces.iter().enumerate().min_by(|a, b| (a.1.end - a.1.start).total_cmp(&(b.1.end - b.1.start)))?;
    (pieces.len() > 1 && piece.end - piece.start < SHORTEST).then_some(at)
}

impl Shares {
    fn add(&mut self, interval: &Interval) {
        let hours = interval.hours();
        self.hours += hours;
        if interval.class != Class::Undetermined {
            self.decided_hours += hours;
        }
        if interval.class == interval.expected.class() {
            self.right_hours += hours;
        }
        if interval.expected == Expected::Inference {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "minutes of a trace")]
            let minutes = ((interval.end - interval.start) / 60.0).floor().max(1.0) as usize;
            let windows = minutes * interval.gpus.len();
            self.serving_windows += windows;
            if interval.class == Class::Training {
                self.serving_called_training += windows;
            }
        }
    }

    fn finish(&mut self) {
        let share = |part: f64, whole: f64| (whole > 0.0).then(|| (part / whole * 1e4).round() / 1e4);
        self.decided = share(self.decided_hours, self.hours);
        self.right = share(self.right_hours, self.decided_hours);
        self.hours = (self.hours * 1e4).round() / 1e4;
    }
}

impl Report {
    pub(super) fn new(rows: Vec<Row>) -> Self {
        let mut summary = Summary {
            runs: rows.len(),
            failed: rows.iter().filter(|row| row.error.is_some()).count(),
            ..Summary::default()
        };
        for row in &rows {
            for interval in &row.intervals {
                let hours = summary.hours.entry(interval.expected).or_default().entry(interval.class);
                *hours.or_default() += interval.hours();
                summary.all.add(interval);
                summary.by_counters.entry(row.counters.unwrap_or(Counters::None)).or_default().add(interval);
            }
        }
        summary.all.finish();
        summary.by_counters.values_mut().for_each(Shares::finish);
        for hours in summary.hours.values_mut().flat_map(BTreeMap::values_mut) {
            *hours = (*hours * 1e4).round() / 1e4;
        }
        Self { summary, rows }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        match self.write(&mut text) {
            Ok(()) => text,
            Err(error) => error.to_string(),
        }
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        for row in &self.rows {
            if let Some(error) = &row.error {
                writeln!(text, "{}: {error}", row.id)?;
                continue;
            }
            let class = row.class.unwrap_or(Class::Undetermined);
            write!(text, "{}: {class} {:.2}", row.id, row.likelihood)?;
            match &row.bound {
                Some(Whole { low, best, high }) => {
                    writeln!(text, ", operations {} to {}, best {}", short(low), short(high), short(best))?;
                }
                None => writeln!(text, ", operations unknown: not in the table")?,
            }
            for interval in &row.intervals {
                let Interval { start, end, gpus, class, likelihood, because, expected } = interval;
                let gpus: Vec<String> = gpus.iter().map(ToString::to_string).collect();
                let expected = expected.class();
                let mark = match class {
                    Class::Undetermined => '?',
                    class if *class == expected => '=',
                    _ => '!',
                };
                let gpus = gpus.join(",");
                writeln!(
                    text,
                    "  {mark} {start:.0}..{end:.0} s, {gpus}: {class} {likelihood:.2}, labelled {expected}: {because}"
                )?;
            }
        }
        self.write_summary(text)
    }

    fn write_summary(&self, text: &mut String) -> std::fmt::Result {
        let summary = &self.summary;
        writeln!(text, "\n{} runs, {} could not be judged", summary.runs, summary.failed)?;
        writeln!(text, "accelerator hours, labelled (rows) and judged (columns):")?;
        write!(text, "{:12}", "")?;
        for class in Class::ALL {
            write!(text, "{:>14}", class.as_str())?;
        }
        for (expected, hours) in &summary.hours {
            write!(text, "\n{:12}", format!("{expected:?}").to_lowercase())?;
            for class in Class::ALL {
                write!(text, "{:>14.3}", hours.get(class).copied().unwrap_or(0.0))?;
            }
        }
        writeln!(text)?;
        let all = std::iter::once(("all".to_owned(), &summary.all));
        let by = summary.by_counters.iter().map(|(c, shares)| (format!("{c:?}").to_lowercase(), shares));
        for (name, shares) in all.chain(by) {
            let percent =
                |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.1} %", share * 100.0));
            writeln!(
                text,
                "{name}: {:.2} hours, {} decided, {} of these right; serving called training in {} of {} minutes",
                shares.hours,
                percent(shares.decided),
                percent(shares.right),
                shares.serving_called_training,
                shares.serving_windows
            )?;
        }
        Ok(())
    }
}

/// A long decimal number as people read it.
fn short(number: &str) -> String {
    number.parse::<f64>().map_or_else(|_| number.to_owned(), |number| format!("{number:.2e}"))
}
