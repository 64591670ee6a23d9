//! Between wire types and checked ones. What comes from outside is checked here and nowhere else.

use std::collections::HashMap;

use weighbridge_meter::{
    AcceleratorId, AttemptId, BootId, Condition, EpochId, Evidence, Gap, GapCause, Holding, Principal,
    Source, Span, Tier, Trust, Use, UtcMillis, Window,
    features::{Feature, Features},
    window::{Counter, Counters, Coverage},
};

use crate::{Batch, DeviceRecord, Loss, LossCause, Status, limits, proto};

/// Something in a batch cannot be: where, what, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {value} is not {expected}")]
pub struct Malformed {
    /// Field and row.
    pub place: String,
    /// What stood there.
    pub value: String,
    /// What may stand there.
    pub expected: &'static str,
}

pub(crate) fn bad(
    place: impl Into<String>,
    value: impl std::fmt::Debug,
    expected: &'static str,
) -> Malformed {
    let mut value = format!("{value:?}");
    if value.len() > 80 {
        // A foreign value must not fill our logs.
        value = value.chars().take(80).collect();
    }
    Malformed { place: place.into(), value, expected }
}

/// Names in a batch, each once.
#[derive(Default)]
struct Names<'a> {
    list: Vec<String>,
    index: HashMap<&'a str, u32>,
}

impl<'a> Names<'a> {
    fn add(&mut self, name: &'a str) -> u32 {
        let list = &mut self.list;
        *self.index.entry(name).or_insert_with(|| {
            list.push(name.to_owned());
            u32::try_from(list.len() - 1).expect("the limit on records keeps it small")
        })
    }
}

/// Differences of a column of times, each from the value before.
#[derive(Default)]
struct Delta(i64);

impl Delta {
    fn pack(&mut self, value: i64) -> i64 {
        let difference = value.wrapping_sub(self.0);
        self.0 = value;
        difference
    }

    fn unpack(&mut self, difference: i64) -> i64 {
        self.0 = self.0.wrapping_add(difference);
        self.0
    }
}

/// As it crosses the network.
pub fn to_proto(batch: &Batch) -> proto::Batch {
    let mut names = Names::default();
    let (mut start, mut boot) = (Delta::default(), Delta::default());
    let mut windows = proto::Windows::default();
    for window in &batch.windows {
        windows.accelerator.push(names.add(window.accelerator.as_str()));
        windows.start_ms.push(start.pack(window.span.start().0));
        windows.boot_start_ms.push(boot.pack(window.boot_start_ms.cast_signed()));
        windows.length_ms.push(window.span.millis());
        windows.source.push(window.source.code());
        windows.tier.push(window.tier.code());
        windows.missing_ms.push(match window.coverage {
            Coverage::Measured => 0,
            Coverage::Interpolated { missing_ms } => missing_ms,
        });
        windows.ticks.push(window.ticks);
        let mut known = 0;
        for &counter in Counter::ALL {
            if let Some(value) = window.counters.get(counter) {
                known |= 1 << counter.code();
                windows.counters.push(value);
            }
        }
        windows.known.push(known);
        let mut featured = 0;
        for &feature in Feature::ALL {
            if let Some(value) = window.features.get(feature) {
                featured |= 1 << feature.code();
                windows.features.push(value);
            }
        }
        windows.featured.push(featured);
        windows.used.push(u32::try_from(window.uses.len()).expect("at most a few"));
        for Use { attempt, busy_us } in &window.uses {
            windows.use_attempt.push(names.add(attempt.as_str()));
            windows.use_busy_us.push(*busy_us);
        }
    }
    if windows.use_attempt.is_empty() {
        windows.used.clear();
    }
    if windows.featured.iter().all(|&featured| featured == 0) {
        windows.featured.clear();
    }
    let (mut start, mut boot) = (Delta::default(), Delta::default());
    let mut gaps = proto::Gaps::default();
    for gap in &batch.gaps {
        gaps.accelerator.push(names.add(gap.accelerator.as_str()));
        gaps.start_ms.push(start.pack(gap.span.start().0));
        gaps.boot_start_ms.push(boot.pack(gap.boot_start_ms.cast_signed()));
        gaps.length_ms.push(gap.span.millis());
        gaps.cause.push(gap.cause.code());
    }
    let holdings = batch
        .holdings
        .iter()
        .map(|holding| proto::Holding {
            principal: names.add(holding.principal.as_str()),
            attempt: names.add(holding.attempt.as_str()),
            accelerators: holding.accelerators.iter().map(|id| names.add(id.as_str())).collect(),
            start_ms: holding.span.start().0,
            length_ms: holding.span.millis(),
            evidence: holding.evidence.code(),
        })
        .collect();
    let inventory = batch
        .inventory
        .iter()
        .map(|device| proto::Device {
            accelerator: names.add(device.accelerator.as_str()),
            at_ms: device.at.0,
            present: device.present,
            host: device.host.clone(),
            name: device.name.clone(),
            pci_device: device.pci_device.clone(),
            pci_address: device.pci_address.clone(),
            source: device.source.code(),
            tier: device.tier.code(),
            trust: device.trust.code(),
            max_sm_clock_mhz: device.max_sm_clock_mhz.unwrap_or(0),
            power_limit_mw: device.power_limit_mw.unwrap_or(0),
            memory_bytes: device.memory_bytes.unwrap_or(0),
            driver: device.driver.clone(),
            parent: device.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
            units: device.units.unwrap_or(0),
            sample_ms: device.sample_ms,
            conditions: device.conditions.iter().map(|condition| condition.code()).collect(),
        })
        .collect();
    let status = batch.status.as_ref().map(to_status);
    proto::Batch {
        agent: batch.agent.to_string(),
        epoch: batch.epoch.0.to_vec(),
        sequence: batch.sequence,
        prev_hash: batch.prev_hash.to_vec(),
        boot_id: batch.boot.0.to_vec(),
        names: names.list,
        windows: Some(windows),
        gaps: Some(gaps),
        holdings,
        inventory,
        status,
        losses: batch.losses.iter().map(to_loss).collect(),
    }
}

pub(crate) fn to_status(status: &Status) -> proto::Status {
    proto::Status {
        at_ms: status.at.0,
        version: status.version.clone(),
        host: status.host.clone(),
        source_state: status.source_state.clone(),
        spool_bytes: status.spool_bytes,
        unacknowledged: status.unacknowledged,
    }
}

fn to_loss(loss: &Loss) -> proto::Loss {
    proto::Loss { epoch: loss.epoch.0.to_vec(), first: loss.first, last: loss.last, cause: loss.cause.code() }
}

/// From what crossed the network; nothing in it is believed before.
pub fn from_proto(batch: proto::Batch) -> Result<Batch, Malformed> {
    let agent = batch.agent.parse().map_err(|_| bad("agent", &batch.agent, "an agent id"))?;
    let epoch = bytes(&batch.epoch, "epoch").map(EpochId)?;
    let boot = bytes(&batch.boot_id, "boot_id").map(BootId)?;
    let prev_hash = batch
        .prev_hash
        .as_slice()
        .try_into()
        .map_err(|_| bad("prev_hash", batch.prev_hash.len(), "32 bytes long"))?;
    let sequence = number(batch.sequence, "sequence")?;
    let names = Lookup(&batch.names);
    if batch.holdings.len() > limits::RECORDS || batch.inventory.len() > limits::RECORDS {
        let most = batch.holdings.len().max(batch.inventory.len());
        return Err(bad("holdings or inventory", most, "a number of rows within the limit of 50000"));
    }
    if batch.losses.len() > limits::LOSSES {
        return Err(bad("losses", batch.losses.len(), "a number of rows within the limit of 1000"));
    }
    Ok(Batch {
        agent,
        epoch,
        sequence,
        prev_hash,
        boot,
        windows: windows(batch.windows.unwrap_or_default(), &names)?,
        gaps: gaps(batch.gaps.unwrap_or_default(), &names)?,
        holdings: batch
            .holdings
            .iter()
            .enumerate()
            .map(|(row, holding)| from_holding(row, holding, &names))
            .collect::<Result<_, _>>()?,
        inventory: batch
            .inventory
            .into_iter()
            .enumerate()
            .map(|(row, device)| from_device(row, device, &names))
            .collect::<Result<_, _>>()?,
        status: batch.status.map(from_status).transpose()?,
        losses: batch
            .losses
            .iter()
            .enumerate()
            .map(|(row, loss)| from_loss(row, loss))
            .collect::<Result<_, _>>()?,
    })
}

/// A number of a batch.
fn number(value: u64, place: impl Into<String>) -> Result<u64, Malformed> {
    if value == 0 || value > i64::MAX.unsigned_abs() {
        return Err(bad(place, value, "a number from 1 to 2^63-1"));
    }
    Ok(value)
}

fn from_loss(row: usize, loss: &proto::Loss) -> Result<Loss, Malformed> {
    let place = |column: &str| format!("losses[{row}].{column}");
    let first = number(loss.first, place("first"))?;
    let last = number(loss.last, place("last"))?;
    if last < first {
        return Err(bad(place("last"), last, "a number not before the first"));
    }
    Ok(Loss {
        epoch: bytes(&loss.epoch, place("epoch")).map(EpochId)?,
        first,
        last,
        cause: LossCause::from_code(loss.cause)
            .ok_or_else(|| bad(place("cause"), loss.cause, "a known cause"))?,
    })
}

pub(crate) fn bytes<const N: usize>(bytes: &[u8], place: impl Into<String>) -> Result<[u8; N], Malformed> {
    bytes.try_into().map_err(|_| bad(place, bytes.len(), "the number of bytes in it (16)"))
}

struct Lookup<'a>(&'a [String]);

impl Lookup<'_> {
    fn get<T: std::str::FromStr>(&self, index: u32, place: impl Fn() -> String) -> Result<T, Malformed> {
        let name = usize::try_from(index).ok().and_then(|index| self.0.get(index));
        let name = name.ok_or_else(|| bad(place(), index, "an index into names"))?;
        name.parse().map_err(|_| bad(place(), name, "a valid name of its kind"))
    }
}

/// The column's name and length, for the check that all columns are equally long.
fn columns(table: &str, rows: usize, lengths: &[(&str, usize)]) -> Result<(), Malformed> {
    if rows > limits::RECORDS {
        return Err(bad(table, rows, "a number of rows within the limit of 50000"));
    }
    match lengths.iter().find(|(_, length)| *length != rows) {
        Some((column, length)) => {
            Err(bad(format!("{table}.{column}"), length, "as long as the other columns of its table"))
        }
        None => Ok(()),
    }
}

fn span(place: impl Fn(&str) -> String, start: i64, length: u64) -> Result<Span, Malformed> {
    // From 1970 to 2200: outside of it the clock is no clock. One that was never set begins in 1970, and what was
    // before it was read lies a little before that; the collector corrects or flags such labels.
    const SENSIBLE: std::ops::Range<i64> = -86_400_000..7_258_118_400_000;
    if !SENSIBLE.contains(&start) {
        return Err(bad(place("start_ms"), start, "a time from the year 1970 to 2199"));
    }
    if length == 0 || length > limits::SPAN_MS {
        return Err(bad(place("length_ms"), length, "a length from 1 ms to a day"));
    }
    Span::new(UtcMillis(start), UtcMillis(start).plus(length.cast_signed()))
        .ok_or_else(|| bad(place("length_ms"), length, "a length from 1 ms to a day"))
}

/// Lengths of the holdings of leases reach years.
fn long_span(place: impl Fn(&str) -> String, start: i64, length: u64) -> Result<Span, Malformed> {
    const CENTURY_MS: u64 = 100 * 366 * limits::SPAN_MS;
    span(&place, start, length.min(1))?;
    if length > CENTURY_MS {
        return Err(bad(place("length_ms"), length, "a length from 1 ms to a century"));
    }
    Span::new(UtcMillis(start), UtcMillis(start).plus(length.cast_signed()))
        .ok_or_else(|| bad(place("length_ms"), length, "a length from 1 ms to a century"))
}

fn boot_start(place: impl Fn(&str) -> String, value: i64) -> Result<u64, Malformed> {
    u64::try_from(value).map_err(|_| bad(place("boot_start_ms"), value, "a time since boot"))
}

fn windows(columns_: proto::Windows, names: &Lookup<'_>) -> Result<Vec<Window>, Malformed> {
    let c = columns_;
    let rows = c.accelerator.len();
    columns(
        "windows",
        rows,
        &[
            ("start_ms", c.start_ms.len()),
            ("boot_start_ms", c.boot_start_ms.len()),
            ("length_ms", c.length_ms.len()),
            ("source", c.source.len()),
            ("tier", c.tier.len()),
            ("missing_ms", c.missing_ms.len()),
            ("ticks", c.ticks.len()),
            ("known", c.known.len()),
            // Left out by agents that know no features.
            ("featured", if c.featured.is_empty() { rows } else { c.featured.len() }),
            // Left out where nobody tells.
            ("used", if c.used.is_empty() { rows } else { c.used.len() }),
        ],
    )?;
    let told: u64 = c.used.iter().map(|&used| u64::from(used)).sum();
    columns("windows", c.use_attempt.len(), &[("use_busy_us", c.use_busy_us.len())])?;
    if told != c.use_attempt.len() as u64 {
        return Err(bad("windows.use_attempt", c.use_attempt.len(), "as many as the windows say"));
    }
    let mut uses_told = c.use_attempt.iter().zip(&c.use_busy_us);
    let mut known_attempts: HashMap<u32, AttemptId> = HashMap::new();
    let mut values = c.counters.iter().copied();
    let mut feature_values = c.features.iter().copied();
    let (mut start, mut boot) = (Delta::default(), Delta::default());
    let mut known_names: HashMap<u32, AcceleratorId> = HashMap::new();
    let mut windows = Vec::with_capacity(rows);
    for row in 0..rows {
        let place = |column: &str| format!("windows[{row}].{column}");
        let span = span(place, start.unpack(c.start_ms[row]), c.length_ms[row])?;
        let boot_start_ms = boot_start(place, boot.unpack(c.boot_start_ms[row]))?;
        let accelerator = match known_names.get(&c.accelerator[row]) {
            Some(id) => id.clone(),
            None => {
                let id: AcceleratorId = names.get(c.accelerator[row], || place("accelerator"))?;
                known_names.insert(c.accelerator[row], id.clone());
                id
            }
        };
        let coverage = match c.missing_ms[row] {
            0 => Coverage::Measured,
            missing_ms if missing_ms <= span.millis() => Coverage::Interpolated { missing_ms },
            missing_ms => {
                return Err(bad(place("missing_ms"), missing_ms, "at most the length of the window"));
            }
        };
        let known = c.known[row];
        if known >> Counters::LEN != 0 {
            return Err(bad(place("known"), known, "a set of counters that this version knows"));
        }
        let mut counters = Counters::default();
        for &counter in Counter::ALL {
            if known & (1 << counter.code()) != 0 {
                let value = values
                    .next()
                    .ok_or_else(|| bad(place("counters"), known, "followed by as many values"))?;
                counters = counters.with(counter, value);
            }
        }
        let featured = c.featured.get(row).copied().unwrap_or(0);
        if featured >> Features::LEN != 0 {
            return Err(bad(place("featured"), featured, "a set of features that this version knows"));
        }
        let mut features = Features::default();
        for &feature in Feature::ALL {
            if featured & (1 << feature.code()) != 0 {
                let value = feature_values
                    .next()
                    .ok_or_else(|| bad(place("features"), featured, "followed by as many values"))?;
                features = features.with(feature, value);
            }
        }
        let used = c.used.get(row).map_or(0, |&used| usize::try_from(used).unwrap_or(usize::MAX));
        if used > Use::MOST {
            return Err(bad(place("used"), used, "at most 64 holders of one accelerator"));
        }
        let mut uses: Vec<Use> = Vec::with_capacity(used);
        for (&index, &busy_us) in uses_told.by_ref().take(used) {
            let attempt = match known_attempts.get(&index) {
                Some(attempt) => attempt.clone(),
                None => {
                    let attempt: AttemptId = names.get(index, || place("use_attempt"))?;
                    known_attempts.insert(index, attempt.clone());
                    attempt
                }
            };
            if uses.iter().any(|other| other.attempt == attempt) {
                return Err(bad(place("use_attempt"), attempt, "an attempt that was not told of before"));
            }
            uses.push(Use { attempt, busy_us });
        }
        windows.push(Window {
            accelerator,
            span,
            boot_start_ms,
            source: Source::from_code(c.source[row])
                .ok_or_else(|| bad(place("source"), c.source[row], "a known source"))?,
            tier: Tier::from_code(c.tier[row])
                .ok_or_else(|| bad(place("tier"), c.tier[row], "a known tier"))?,
            coverage,
            ticks: c.ticks[row],
            counters,
            features,
            uses,
        });
    }
    if let Some(value) = feature_values.next() {
        return Err(bad("windows.features", value, "expected: there are more values than known features"));
    }
    match values.next() {
        Some(value) => {
            Err(bad("windows.counters", value, "expected: there are more values than known counters"))
        }
        None => Ok(windows),
    }
}

fn gaps(c: proto::Gaps, names: &Lookup<'_>) -> Result<Vec<Gap>, Malformed> {
    let rows = c.accelerator.len();
    columns(
        "gaps",
        rows,
        &[
            ("start_ms", c.start_ms.len()),
            ("boot_start_ms", c.boot_start_ms.len()),
            ("length_ms", c.length_ms.len()),
            ("cause", c.cause.len()),
        ],
    )?;
    let (mut start, mut boot) = (Delta::default(), Delta::default());
    (0..rows)
        .map(|row| {
            let place = |column: &str| format!("gaps[{row}].{column}");
            Ok(Gap {
                accelerator: names.get(c.accelerator[row], || place("accelerator"))?,
                span: span(place, start.unpack(c.start_ms[row]), c.length_ms[row])?,
                boot_start_ms: boot_start(place, boot.unpack(c.boot_start_ms[row]))?,
                cause: GapCause::from_code(c.cause[row])
                    .filter(|cause| !matches!(cause, GapCause::Silent | GapCause::NeverSeen))
                    .ok_or_else(|| bad(place("cause"), c.cause[row], "a cause that an agent can know"))?,
            })
        })
        .collect()
}

fn from_holding(row: usize, holding: &proto::Holding, names: &Lookup<'_>) -> Result<Holding, Malformed> {
    let place = |column: &str| format!("holdings[{row}].{column}");
    if holding.accelerators.is_empty() || holding.accelerators.len() > 1024 {
        return Err(bad(place("accelerators"), holding.accelerators.len(), "1 to 1024 accelerators"));
    }
    let principal: Principal = names.get(holding.principal, || place("principal"))?;
    let evidence = Evidence::from_code(holding.evidence)
        .filter(|evidence| evidence.is_of_agent())
        .ok_or_else(|| bad(place("evidence"), holding.evidence, "evidence that an agent can have"))?;
    // It would hide whoever the device was given to.
    if principal.is_unknown() && evidence.is_agreed() {
        return Err(bad(place("principal"), principal, "somebody: nothing is leased to nobody"));
    }
    Ok(Holding {
        principal,
        attempt: names.get(holding.attempt, || place("attempt"))?,
        accelerators: holding
            .accelerators
            .iter()
            .map(|&index| names.get(index, || place("accelerators")))
            .collect::<Result<_, _>>()?,
        span: long_span(place, holding.start_ms, holding.length_ms)?,
        evidence,
    })
}

fn text(place: impl Fn(&str) -> String, column: &str, value: String) -> Result<String, Malformed> {
    if value.len() <= 256 && !value.chars().any(char::is_control) {
        Ok(value)
    } else {
        Err(bad(place(column), value, "at most 256 bytes without control characters"))
    }
}

fn from_device(row: usize, device: proto::Device, names: &Lookup<'_>) -> Result<DeviceRecord, Malformed> {
    let place = |column: &str| format!("inventory[{row}].{column}");
    span(place, device.at_ms, 1)?;
    let positive = |value: u32| (value > 0).then_some(value);
    Ok(DeviceRecord {
        accelerator: names.get(device.accelerator, || place("accelerator"))?,
        at: UtcMillis(device.at_ms),
        present: device.present,
        host: text(place, "host", device.host)?,
        name: text(place, "name", device.name)?,
        pci_device: text(place, "pci_device", device.pci_device)?,
        pci_address: text(place, "pci_address", device.pci_address)?,
        source: Source::from_code(device.source)
            .ok_or_else(|| bad(place("source"), device.source, "a known source"))?,
        tier: Tier::from_code(device.tier).ok_or_else(|| bad(place("tier"), device.tier, "a known tier"))?,
        trust: Trust::from_code(device.trust)
            .ok_or_else(|| bad(place("trust"), device.trust, "a known trust"))?,
        max_sm_clock_mhz: positive(device.max_sm_clock_mhz),
        power_limit_mw: positive(device.power_limit_mw),
        memory_bytes: (device.memory_bytes > 0).then_some(device.memory_bytes),
        driver: text(place, "driver", device.driver)?,
        parent: match device.parent.as_str() {
            "" => None,
            parent => Some(parent.parse().map_err(|_| bad(place("parent"), parent, "an accelerator id"))?),
        },
        units: positive(device.units),
        sample_ms: device.sample_ms,
        conditions: {
            if device.conditions.len() > Condition::ALL.len() {
                return Err(bad(place("conditions"), device.conditions.len(), "each condition once"));
            }
            // What a later version has a name for is not lost by not knowing it: the rest of the record counts.
            device.conditions.iter().filter_map(|&code| Condition::from_code(code)).collect()
        },
    })
}

pub(crate) fn from_status(status: proto::Status) -> Result<Status, Malformed> {
    let place = |column: &str| format!("status.{column}");
    span(place, status.at_ms, 1)?;
    Ok(Status {
        at: UtcMillis(status.at_ms),
        version: text(place, "version", status.version)?,
        host: text(place, "host", status.host)?,
        source_state: text(place, "source_state", status.source_state)?,
        spool_bytes: status.spool_bytes,
        unacknowledged: status.unacknowledged,
    })
}
