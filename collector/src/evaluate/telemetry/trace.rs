//! A trace through the agent: text to readings to windows with features.

use std::{borrow::Cow, collections::BTreeMap};

use weighbridge_agent::{
    config::ReplayModels,
    engine::{Engine, EngineOptions, HolderNews},
    source::{
        Look,
        replay::{Replay, ReplayError},
    },
};
use weighbridge_meter::{
    AgentId, Trust, UtcMillis, Window,
    meter::{Now, Pace},
};

use super::Options;

/// A third of the agent's usual minute, so that short phases are not mixed.
pub(super) const WINDOW_MS: u32 = 20_000;
/// More often nothing is looked at, as in an agent.
const LOOK_MS: u64 = 1_000;
/// Boot and epoch of the time in which traces play, so that no window starts before either.
const START_MS: u64 = 3_600_000;

/// What the agent made of a trace.
pub(super) struct Trace {
    /// Windows in order of time, by number of the accelerator.
    pub(super) windows: BTreeMap<u32, Vec<Window>>,
}

/// Seconds of the trace of a moment of its windows.
pub(super) fn seconds(moment: UtcMillis) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a trace are far below 2^53")]
    let millis = moment.0.saturating_sub(START_MS.cast_signed()) as f64;
    millis / 1000.0
}

impl Trace {
    pub(super) fn read(text: &str, models: &ReplayModels, options: &Options) -> Result<Self, anyhow::Error> {
        let agent: AgentId = "trace".parse().map_err(|_| anyhow::anyhow!("no agent of this name"))?;
        // The whole text first, so that an error names a line of the file as it is.
        let period = period_ms(&Replay::parse(text, &agent, models, u64::MAX)?, text)?;
        let apart = period.max(options.thin.map_or(0, super::Thin::millis));
        let text = reduced(text, options)?;
        let replay = Replay::parse(&text, &agent, models, (apart * 5).max(10_000))?;
        Ok(Self { windows: play(&replay, &agent, apart.max(LOOK_MS)) })
    }
}

fn play(replay: &Replay, agent: &AgentId, step: u64) -> BTreeMap<u32, Vec<Window>> {
    let longest_tick_ms = u32::try_from(step * 3).unwrap_or(u32::MAX).max(20_000);
    let mut engine = Engine::new(EngineOptions {
        host: agent.to_string(),
        trust: Trust::Guest,
        pace: Pace { window_ms: WINDOW_MS, longest_tick_ms },
        held_records: usize::MAX,
    });
    let now = |at: u64| Now { boot_ms: START_MS + at, wall: UtcMillis((START_MS + at).cast_signed()) };
    let inventory = Look { inventory_changed: Some(replay.devices()), ..replay.look_between(0, 0) };
    engine.tick(now(0), &inventory, HolderNews::default());
    let (mut before, end) = (0, replay.end_ms());
    while before < end {
        let at = (before + step).min(end);
        engine.tick(now(at), &replay.look_between(before, at), HolderNews::default());
        before = at;
    }
    engine.finish(now(end));
    let mut windows: BTreeMap<u32, Vec<Window>> = BTreeMap::new();
    for window in engine.take().windows {
        let name = window.accelerator.to_string();
        if let Some(gpu) = name.rsplit("/gpu").next().and_then(|gpu| gpu.parse().ok()) {
            windows.entry(gpu).or_default().push(window);
        }
    }
    windows
}

/// How far the readings of an accelerator are apart, as a rule.
fn period_ms(replay: &Replay, text: &str) -> Result<u64, ReplayError> {
    let devices = replay.devices().len().max(1);
    let rows = text.lines().count().saturating_sub(1) / devices;
    Ok(replay.end_ms() / (rows as u64).max(1))
}

/// Without the columns that are to be hidden, and without readings closer than they are to be.
fn reduced<'a>(text: &'a str, options: &Options) -> anyhow::Result<Cow<'a, str>> {
    if options.thin.is_none() && options.hide.is_empty() {
        return Ok(Cow::Borrowed(text));
    }
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    let place = |name: &str| header.iter().position(|column| column == name);
    let hidden: Vec<usize> =
        options.hide.iter().flat_map(|hide| hide.columns()).filter_map(|name| place(name)).collect();
    let (time, gpu) = (place("t_s"), place("gpu"));
    let apart = options.thin.map_or(0, super::Thin::millis);
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&header)?;
    let mut kept: BTreeMap<String, f64> = BTreeMap::new();
    for record in reader.records() {
        let record = record?;
        let get = |index: Option<usize>| index.and_then(|index| record.get(index)).unwrap_or_default();
        let millis = get(time).parse::<f64>().unwrap_or(0.0) * 1000.0;
        #[expect(clippy::cast_precision_loss, reason = "at most a minute in milliseconds")]
        let early = kept.get(get(gpu)).is_some_and(|before| millis - before < apart as f64 - 1.0);
        if early {
            continue;
        }
        kept.insert(get(gpu).to_owned(), millis);
        let cells = record.iter().enumerate();
        writer.write_record(cells.map(|(index, cell)| if hidden.contains(&index) { "" } else { cell }))?;
    }
    Ok(Cow::Owned(String::from_utf8(writer.into_inner()?)?))
}
