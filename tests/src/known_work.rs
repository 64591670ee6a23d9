//! Known work on a real GPU against what the agent metered meanwhile.
//!
//! `tests/gpu/work.py` says what it computed and when; the agent's spool holds its windows. Phases are apart by
//! seconds of idleness, so a phase's windows are those that touch it, with a second on either side.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};
use weighbridge_journal::Reader;
use weighbridge_meter::{Estimator, Hardware, Interval, Operations, UtcMillis, Window, window::Counter};
use weighbridge_wire::{DeviceRecord, Envelope};

/// Milliseconds on either side of a phase in which its first and last window may lie.
const MARGIN_MS: i64 = 1_500;

/// One phase of known work, as `work.py` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Phase {
    /// What it was.
    pub name: String,
    /// In which number format.
    pub format: String,
    /// From when.
    pub start: UtcMillis,
    /// Until when.
    pub end: UtcMillis,
    /// Operations, a decimal string.
    pub operations: String,
}

/// A phase and what was metered of it.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// What it was.
    pub name: String,
    /// In which number format.
    pub format: String,
    /// Seconds it lasted.
    pub seconds: f64,
    /// Known operations.
    pub truth: f64,
    /// The estimate's bound.
    pub low: f64,
    /// The estimate's best.
    pub best: f64,
    /// The estimate's bound.
    pub high: f64,
    /// Best over truth.
    pub ratio: f64,
    /// Whether truth is inside the bound, to a teraoperation a window.
    pub inside: bool,
    /// Mean SM clock while it ran, in MHz; 0 if unknown.
    pub clock_mhz: f64,
    /// Tiers and known counters of its windows.
    pub read: String,
}

/// Reads the lines that `work.py` printed.
///
/// # Errors
/// Names the line that cannot be.
pub fn phases(text: &str) -> Result<Vec<Phase>, String> {
    let mut phases: Vec<Phase> = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = index + 1;
        let phase: Phase = serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?;
        if phase.operations.parse::<u128>().is_err() {
            return Err(format!("line {number}: operations: {:?} is not a whole number", phase.operations));
        }
        if phase.start >= phase.end {
            return Err(format!("line {number}: end: {} is not after {}", phase.end, phase.start));
        }
        if phases.last().is_some_and(|before| phase.start.since(before.end) < 2 * MARGIN_MS) {
            return Err(format!("line {number}: start: less than 3 s after the phase before"));
        }
        phases.push(phase);
    }
    Ok(phases)
}

/// Every window and device in an agent's spool, whichever epoch it is of.
///
/// # Errors
/// If something in it cannot be read.
pub fn spooled(spool: &Path) -> Result<(Vec<Window>, Vec<DeviceRecord>), String> {
    let (mut windows, mut devices) = (Vec::new(), Vec::new());
    let folders = fs::read_dir(spool).map_err(|error| format!("{}: {error}", spool.display()))?;
    for folder in folders.filter_map(Result::ok).filter(|folder| folder.path().is_dir()) {
        let mut reader = Reader::from_start(&folder.path());
        while let Some(entry) = reader.next().map_err(|error| error.to_string())? {
            let batch = Envelope::decode(&entry.payload).and_then(|envelope| envelope.read());
            let batch = batch.map_err(|error| error.to_string())?;
            windows.extend(batch.windows);
            devices.extend(batch.inventory);
        }
    }
    Ok((windows, devices))
}

/// Each phase against the windows around it. All windows must be of the one GPU that worked; idle ones add nothing.
pub fn compare(phases: &[Phase], windows: &[Window], devices: &[DeviceRecord]) -> Vec<Compared> {
    let estimator = Estimator::shipped();
    phases.iter().map(|phase| one(&estimator, phase, windows, devices)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "quotients for people")]
fn one(estimator: &Estimator, phase: &Phase, windows: &[Window], devices: &[DeviceRecord]) -> Compared {
    let from = phase.start.plus(-MARGIN_MS);
    let to = phase.end.plus(MARGIN_MS);
    let of_phase: Vec<&Window> =
        windows.iter().filter(|window| window.span.start() >= from && window.span.end() <= to).collect();
    let mut bound = Interval::<Operations>::default();
    let (mut cycles, mut millis) = (0_u64, 0_u64);
    let mut read: Vec<String> = Vec::new();
    for window in &of_phase {
        let device = devices.iter().rfind(|device| device.accelerator == window.accelerator);
        let hardware = device.map_or_else(Hardware::default, |device| Hardware {
            model: estimator.table().find(Some(&device.pci_device), &device.name),
            units: device.units,
            part: device.parent.is_some(),
            max_clock_mhz: device.max_sm_clock_mhz,
            declared: None,
        });
        bound = bound.saturating_add(estimator.estimate(hardware, window).bound);
        let inside = window.span.start() >= phase.start && window.span.end() <= phase.end;
        if let (true, Some(elapsed)) = (inside, window.counters.get(Counter::ElapsedCycles)) {
            cycles += elapsed;
            millis += window.span.millis();
        }
        let known: Vec<&str> = Counter::ALL
            .iter()
            .filter(|counter| window.counters.get(**counter).is_some())
            .map(|counter| counter.as_str())
            .collect();
        let what = format!("tier {}: {}", window.tier, known.join(" "));
        if !read.contains(&what) {
            read.push(what);
        }
    }
    let truth = phase.operations.parse::<u128>().unwrap_or_default();
    let whole = |amount: Operations| u128::from(amount.tera()) * Operations::UNIT;
    let rounding = of_phase.len() as u128 * Operations::UNIT;
    Compared {
        name: phase.name.clone(),
        format: phase.format.clone(),
        seconds: phase.end.since(phase.start) as f64 / 1000.0,
        truth: truth as f64,
        low: whole(bound.low()) as f64,
        best: whole(bound.best()) as f64,
        high: whole(bound.high()) as f64,
        ratio: whole(bound.best()) as f64 / (truth.max(1)) as f64,
        inside: whole(bound.low()) <= truth + rounding && truth <= whole(bound.high()) + rounding,
        clock_mhz: if millis == 0 { 0.0 } else { cycles as f64 / millis as f64 / 1000.0 },
        read: read.join("; "),
    }
}

/// For people.
pub fn table(rows: &[Compared]) -> String {
    let mut text = format!(
        "{:<28} {:>6} {:>10} {:>10} {:>10} {:>10} {:>7} {:>7} {:>6}\n",
        "work", "s", "truth", "low", "best", "high", "ratio", "inside", "MHz"
    );
    for row in rows {
        text.push_str(&format!(
            "{:<28} {:>6.1} {:>10.3e} {:>10.3e} {:>10.3e} {:>10.3e} {:>7.3} {:>7} {:>6.0}\n",
            row.name,
            row.seconds,
            row.truth,
            row.low,
            row.best,
            row.high,
            row.ratio,
            row.inside,
            row.clock_mhz
        ));
    }
    let mut read: Vec<&str> = rows.iter().map(|row| row.read.as_str()).collect();
    read.dedup();
    for what in read {
        text.push_str(&format!("read: {what}\n"));
    }
    text
}

/// What the agent cost, from the lines that `tests/gpu/run` took from the kernel: ticks are of 10 ms.
///
/// # Errors
/// Names what is missing.
pub fn cost(text: &str) -> Result<String, String> {
    let get = |name: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        value.ok_or_else(|| format!("{name}: no such line with a number"))
    };
    let ran = get("uptime_s")? - get("started_ticks")? / 100.0;
    let used = (get("utime_ticks")? + get("stime_ticks")?) / 100.0;
    let resident = get("VmHWM:")? / 1024.0;
    Ok(format!(
        "agent: {:.3} % of a core over {ran:.0} s, {resident:.1} MiB resident at most, {:.0} threads",
        100.0 * used / ran.max(1.0),
        get("Threads:")?
    ))
}

#[cfg(test)]
mod tests {
    use weighbridge_meter::{Counters, Coverage, Features, Source, Span, Tier};

    use super::*;

    const WORK: &str = concat!(
        r#"{"name": "bf16 4096", "format": "bf16", "start": "2026-01-31T08:00:05.500Z", "end": "2026-01-31T08:00:08.500Z", "operations": "1000000000000000"}"#,
        "\n\n",
        r#"{"name": "fp8 4096", "format": "fp8", "start": "2026-01-31T08:00:13Z", "end": "2026-01-31T08:00:15Z", "operations": "2"}"#,
        "\n",
    );

    #[test]
    fn what_the_work_tells_is_read_line_by_line_and_a_wrong_line_is_named() {
        let read = phases(WORK).expect("usable");
        assert_eq!((read.len(), read[1].format.as_str()), (2, "fp8"));
        for (change, expected) in [
            (("\"1000000000000000\"", "\"1e15\""), "line 1: operations: \"1e15\" is not a whole number"),
            (
                ("08:00:15Z", "08:00:12Z"),
                "line 3: end: 2026-01-31T08:00:12Z is not after 2026-01-31T08:00:13Z",
            ),
            (("08:00:13Z", "08:00:11Z"), "line 3: start: less than 3 s after the phase before"),
            (("\"format\": \"fp8\", ", ""), "line 3: missing field `format`"),
        ] {
            let error = phases(&WORK.replace(change.0, change.1)).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn the_windows_of_a_phase_are_compared_with_what_it_did_and_those_of_others_are_not() {
        let start: UtcMillis = "2026-01-31T08:00:00Z".parse().expect("a time");
        // Seconds 5 to 8 at 1500 MHz: 3 full, two halves: 1.5e9 x 132 x 4096 = 811 tera a second.
        let windows: Vec<Window> = (0..20)
            .map(|second| Window {
                accelerator: "GPU-1".parse().expect("valid"),
                span: Span::new(start.plus(second * 1000), start.plus(second * 1000 + 1000)).expect("a span"),
                boot_start_ms: 0,
                source: Source::Nvml,
                tier: Tier::A,
                coverage: Coverage::Measured,
                ticks: 1,
                counters: Counters::default().with(Counter::ElapsedCycles, 1_500_000_000).with(
                    Counter::TensorCycles,
                    if (5..9).contains(&second) || second == 14 { 750_000_000 } else { 0 },
                ),
                features: Features::default(),
                uses: Vec::new(),
            })
            .collect();
        let device = DeviceRecord {
            accelerator: "GPU-1".parse().expect("valid"),
            at: start,
            present: true,
            host: "h".into(),
            name: "NVIDIA H200".into(),
            pci_device: "10de:2335".into(),
            pci_address: String::new(),
            source: Source::Nvml,
            tier: Tier::A,
            trust: weighbridge_meter::Trust::Host,
            max_sm_clock_mhz: None,
            power_limit_mw: None,
            memory_bytes: None,
            driver: String::new(),
            parent: None,
            units: None,
            sample_ms: 0,
            conditions: Vec::new(),
        };
        let rows = compare(&phases(WORK).expect("usable"), &windows, &[device]);
        // 0.75e9 x 132 x 4096 = 405.504e12 a window, rounded to 406 each; four of them.
        assert_eq!(rows[0].best, 1_624e12);
        assert!(rows[0].inside && (rows[0].ratio - 1.624).abs() < 1e-9, "{:?}", rows[0]);
        assert_eq!(rows[0].clock_mhz, 1500.0);
        assert_eq!(rows[1].best, 406e12);
        assert!(table(&rows).contains("tier A: elapsed_cycles tensor_cycles"), "{}", table(&rows));
    }

    #[test]
    fn the_cost_is_what_the_kernel_says_of_the_process() {
        let text =
            "utime_ticks 30\nstime_ticks 20\nstarted_ticks 10000\nVmHWM: 10240\nThreads: 5\nuptime_s 200.0\n";
        assert_eq!(
            cost(text).expect("complete"),
            "agent: 0.500 % of a core over 100 s, 10.0 MiB resident at most, 5 threads"
        );
        assert_eq!(cost("utime_ticks 30").expect_err("incomplete"), "uptime_s: no such line with a number");
    }
}
