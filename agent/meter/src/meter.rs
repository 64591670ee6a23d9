//! Where readings become raw integrals.
//!
//! One [`Meter`] watches one accelerator. Each reading adds what happened since the reading before
//! (ratio x SM cycles, clock x time, power x time, or the difference of a cumulative counter), as integers;
//! windows are cut at whole UTC minutes (or another step), where the holder changes and where the device
//! stops answering. What was not seen becomes a [`Gap`] with its cause, never a zero; where cumulative
//! counters of work went on meanwhile, it becomes one window that is [`Coverage::Interpolated`].

use crate::{
    features::Features,
    identity::AcceleratorId,
    reading::{DeviceState, GapCause, Ratio, Reading, Source, Tier},
    time::{Span, UtcMillis},
    window::{Counter, Counters, Coverage, Gap, Window},
};

/// One moment on both clocks. Within one run of an agent they differ by a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since boot, suspended time included: to measure with.
    pub boot_ms: u64,
    /// Wall clock: to label with.
    pub wall: UtcMillis,
}

/// What a meter has finished.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a window is what nearly all of them are")]
pub enum Observed {
    /// A measured span.
    Window(Window),
    /// An unmeasured one.
    Gap(Gap),
}

/// How a meter cuts time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Windows end at whole multiples of this since the epoch; divides an hour.
    pub window_ms: u32,
    /// Two readings further apart than this leave a gap: we did not look.
    pub longest_tick_ms: u32,
}

/// Integrates the readings of one accelerator.
#[derive(Debug)]
pub struct Meter {
    accelerator: AcceleratorId,
    source: Source,
    tier: Tier,
    pace: Pace,
    state: State,
    done: Vec<Observed>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one a device, and nearly always the large one")]
enum State {
    /// Nothing seen yet: what was before is for the collector to find missing.
    Fresh,
    /// The last reading succeeded.
    Measuring { at: Now, last: Reading, open: Option<Open> },
    /// It did not; unreported since then. What it said last, if its counters may still speak for this time.
    Missing { since: Now, cause: GapCause, base: Option<(Now, Reading)> },
}

/// A window in the making.
#[derive(Debug)]
struct Open {
    since: Now,
    ticks: u32,
    counters: Counters,
}

impl Meter {
    /// A meter that has seen nothing yet.
    pub fn new(accelerator: AcceleratorId, source: Source, tier: Tier, pace: Pace) -> Self {
        Self { accelerator, source, tier, pace, state: State::Fresh, done: Vec::new() }
    }

    /// Which accelerator it watches.
    pub fn accelerator(&self) -> &AcceleratorId {
        &self.accelerator
    }

    /// Takes one reading. Time that does not advance is ignored: the next reading covers it.
    pub fn observe(&mut self, now: Now, device: DeviceState) {
        match std::mem::replace(&mut self.state, State::Fresh) {
            State::Fresh => {
                self.state = match device {
                    DeviceState::Read(reading) => State::Measuring { at: now, last: reading, open: None },
                    DeviceState::Missing(cause) => State::Missing { since: now, cause, base: None },
                };
            }
            State::Missing { since, cause, base } if now.boot_ms <= since.boot_ms => {
                self.state = match device {
                    DeviceState::Read(last) => State::Measuring { at: since, last, open: None },
                    DeviceState::Missing(_) => State::Missing { since, cause, base },
                };
            }
            State::Missing { since, cause, base } => {
                self.state = match device {
                    DeviceState::Read(last) => {
                        let bounded = base.filter(|_| stays(cause)).and_then(|(at, before)| {
                            bridge(&before, &last, now.boot_ms - at.boot_ms).map(|counters| (at, counters))
                        });
                        match bounded {
                            Some((at, counters)) => self.interpolated(at, now, counters),
                            None => self.gap(since, now, cause),
                        }
                        State::Measuring { at: now, last, open: None }
                    }
                    DeviceState::Missing(new) => {
                        // The state held up to now under the cause that was known.
                        let reported = if new == cause {
                            self.gap_to_boundary(since, now, cause)
                        } else {
                            self.gap(since, now, cause);
                            now
                        };
                        State::Missing { since: reported, cause: new, base: base.filter(|_| stays(cause)) }
                    }
                };
            }
            State::Measuring { at, last, open } if now.boot_ms <= at.boot_ms => {
                self.state = State::Measuring { at, last, open };
            }
            State::Measuring { at, last, open } => self.advance(at, &last, open, now, device),
        }
    }

    fn advance(&mut self, at: Now, last: &Reading, open: Option<Open>, now: Now, device: DeviceState) {
        let reading = match device {
            DeviceState::Read(reading) => reading,
            DeviceState::Missing(cause) => {
                self.close(open, at);
                let since = self.gap_to_boundary(at, now, cause);
                self.state = State::Missing { since, cause, base: Some((at, *last)) };
                return;
            }
        };
        let elapsed = now.boot_ms - at.boot_ms;
        let Some(tick) = integrals(last, &reading, elapsed) else {
            self.close(open, at);
            self.gap(at, now, GapCause::CounterBackwards);
            self.state = State::Measuring { at: now, last: reading, open: None };
            return;
        };
        if elapsed > u64::from(self.pace.longest_tick_ms) {
            self.close(open, at);
            match bridge(last, &reading, elapsed) {
                Some(counters) => self.interpolated(at, now, counters),
                None => self.gap(at, now, GapCause::AgentStalled),
            }
            self.state = State::Measuring { at: now, last: reading, open: None };
            return;
        }
        let open = match open {
            // Otherwise one tick that lacks a counter would take it from all the window.
            Some(before) if !same_work_known(&before.counters, &tick) => {
                self.close(Some(before), at);
                None
            }
            open => open,
        };
        let open = self.integrate(at, now, open, tick);
        self.state = State::Measuring { at: now, last: reading, open };
    }

    /// One window over time in which nobody looked, and which counters that go on by themselves speak for.
    /// It is not cut: how much fell into which part of it is not known, only how much it was.
    fn interpolated(&mut self, from: Now, to: Now, counters: Counters) {
        let Some(span) = Span::new(from.wall, to.wall) else { return };
        self.done.push(Observed::Window(Window {
            accelerator: self.accelerator.clone(),
            span,
            boot_start_ms: from.boot_ms,
            source: self.source,
            tier: self.tier,
            coverage: Coverage::Interpolated { missing_ms: span.millis() },
            ticks: 1,
            counters,
            features: Features::default(),
            uses: Vec::new(),
        }));
    }

    /// Adds the integrals of one tick, cutting where a window ends inside it.
    fn integrate(&mut self, at: Now, now: Now, open: Option<Open>, tick: Counters) -> Option<Open> {
        let mut open = open;
        let (mut from, mut rest) = (at, tick);
        loop {
            let boundary = from.wall.next_multiple(i64::from(self.pace.window_ms));
            let part = boundary.since(from.wall).unsigned_abs();
            let whole = now.boot_ms - from.boot_ms;
            if part > whole {
                return Some(add(open, from, rest));
            }
            let (before, after) = rest.split(part, whole);
            let end = Now { boot_ms: from.boot_ms + part, wall: boundary };
            self.close(Some(add(open.take(), from, before)), end);
            if part == whole {
                return None;
            }
            (from, rest) = (end, after);
        }
    }

    /// Ends the open window at the last reading: the holder changed there, or the agent stops.
    pub fn cut(&mut self) {
        if let State::Measuring { at, open, .. } = &mut self.state {
            let (at, open) = (*at, open.take());
            self.close(open, at);
        }
    }

    /// Ends everything open, gaps too, as of now: the agent stops.
    pub fn finish(&mut self, now: Now) {
        self.cut();
        if let State::Missing { since, cause, base } = self.state {
            self.gap(since, now, cause);
            self.state = State::Missing { since: now, cause, base };
        }
    }

    /// What is finished since the last call, in order of time.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Observed> {
        self.done.drain(..)
    }

    fn close(&mut self, open: Option<Open>, end: Now) {
        let Some(open) = open else { return };
        let Some(span) = Span::new(open.since.wall, end.wall) else { return };
        self.done.push(Observed::Window(Window {
            accelerator: self.accelerator.clone(),
            span,
            boot_start_ms: open.since.boot_ms,
            source: self.source,
            tier: self.tier,
            coverage: Coverage::Measured,
            ticks: open.ticks,
            counters: open.counters,
            features: Features::default(),
            uses: Vec::new(),
        }));
    }

    /// A gap as such: cut where windows would be, so that no record crosses an hour.
    fn gap(&mut self, from: Now, to: Now, cause: GapCause) {
        let reached = self.gap_to_boundary(from, to, cause);
        self.push_gap(reached, to, cause);
    }

    /// Reports what is complete up to the last window boundary before `to` and says how far that was.
    fn gap_to_boundary(&mut self, from: Now, to: Now, cause: GapCause) -> Now {
        let mut from = from;
        loop {
            let boundary = from.wall.next_multiple(i64::from(self.pace.window_ms));
            let part = boundary.since(from.wall).unsigned_abs();
            if from.boot_ms + part > to.boot_ms {
                return from;
            }
            let end = Now { boot_ms: from.boot_ms + part, wall: boundary };
            self.push_gap(from, end, cause);
            from = end;
        }
    }

    fn push_gap(&mut self, from: Now, to: Now, cause: GapCause) {
        if let Some(span) = Span::new(from.wall, to.wall) {
            let accelerator = self.accelerator.clone();
            self.done.push(Observed::Gap(Gap { accelerator, span, boot_start_ms: from.boot_ms, cause }));
        }
    }
}

fn add(open: Option<Open>, from: Now, counters: Counters) -> Open {
    match open {
        // Integrals of a window stay far below 2^64 (a minute at 2 GHz is 1.2e11); one that does not is unknown.
        Some(open) => Open {
            counters: open.counters.checked_add(&counters).unwrap_or_default(),
            ticks: open.ticks.saturating_add(1),
            since: open.since,
        },
        None => Open { since: from, ticks: 1, counters },
    }
}

/// Longest time without a look that cumulative counters are trusted to speak for.
const LONGEST_BRIDGE_MS: u64 = 3_600_000;

/// Whether the device and its counters go on under this cause: it was our sight that failed.
fn stays(cause: GapCause) -> bool {
    matches!(
        cause,
        GapCause::CallHung
            | GapCause::ReadFailed
            | GapCause::AgentStalled
            | GapCause::Unreachable
            | GapCause::Stale
            | GapCause::NotReported
    )
}

/// What cumulative counters say of `elapsed` milliseconds in which nobody looked: nothing unless they count
/// work (cycles of tensor pipes, or time with a kernel), nothing if one fell, nothing over more than an hour.
fn bridge(last: &Reading, now: &Reading, elapsed: u64) -> Option<Counters> {
    let added = totals(now).since(&totals(last))?;
    let work = added.get(Counter::TensorCycles).or(added.get(Counter::BusyMicros));
    (work.is_some() && elapsed <= LONGEST_BRIDGE_MS).then_some(added)
}

/// Whether both know the same counters of work; energy, memory and traffic may come and go.
fn same_work_known(one: &Counters, other: &Counters) -> bool {
    const WORK: [Counter; 11] = [
        Counter::ElapsedCycles,
        Counter::TensorCycles,
        Counter::HmmaCycles,
        Counter::ImmaCycles,
        Counter::DfmaCycles,
        Counter::Fp64Cycles,
        Counter::Fp32Cycles,
        Counter::Fp16Cycles,
        Counter::SmCycles,
        Counter::IntegerCycles,
        Counter::BusyMicros,
    ];
    WORK.iter().all(|&counter| one.get(counter).is_some() == other.get(counter).is_some())
}

fn totals(reading: &Reading) -> Counters {
    match reading.energy_mj {
        Some(mj) => reading.totals.with(Counter::EnergyMicrojoules, mj.saturating_mul(1000)),
        None => reading.totals,
    }
}

/// What one tick of `elapsed` milliseconds adds: `None` if a cumulative counter went backwards.
fn integrals(last: &Reading, now: &Reading, elapsed: u64) -> Option<Counters> {
    let added = totals(now).since(&totals(last))?;
    let mut counters = Counters::default();
    let mut set = |counter, value: Option<u64>| {
        if let Some(value) = value {
            counters = counters.with(counter, value);
        }
    };
    // MHz x milliseconds x 1000 = cycles.
    let cycles = |mhz: u32| u64::from(mhz).saturating_mul(elapsed).saturating_mul(1000);
    let elapsed_cycles = now.sm_clock_mhz.map(cycles);
    set(Counter::ElapsedCycles, elapsed_cycles);
    // Cycles on an assumed clock stand without elapsed cycles beside them.
    let base = elapsed_cycles.or(now.assumed_clock_mhz.map(cycles));
    let active = |ratio: Option<Ratio>| base.zip(ratio).map(|(cycles, ratio)| ratio.of(cycles));
    set(Counter::TensorCycles, active(now.activity.tensor));
    set(Counter::HmmaCycles, active(now.activity.hmma));
    set(Counter::ImmaCycles, active(now.activity.imma));
    set(Counter::DfmaCycles, active(now.activity.dfma));
    set(Counter::Fp64Cycles, active(now.activity.fp64));
    set(Counter::Fp32Cycles, active(now.activity.fp32));
    set(Counter::Fp16Cycles, active(now.activity.fp16));
    set(Counter::SmCycles, active(now.activity.sm));
    set(Counter::IntegerCycles, active(now.activity.integer));
    let micros = |ratio: Option<Ratio>| ratio.map(|ratio| ratio.of(elapsed.saturating_mul(1000)));
    set(Counter::BusyMicros, micros(now.busy));
    set(Counter::DramMicros, micros(now.dram));
    // Milliwatts x milliseconds = microjoules.
    set(Counter::EnergyMicrojoules, now.power_mw.map(|mw| u64::from(mw).saturating_mul(elapsed)));
    let bytes = |rate: Option<u64>| {
        rate.map(|rate| u64::try_from(u128::from(rate) * u128::from(elapsed) / 1000).unwrap_or(u64::MAX))
    };
    set(Counter::NvlinkTxBytes, bytes(now.traffic.nvlink_tx));
    set(Counter::NvlinkRxBytes, bytes(now.traffic.nvlink_rx));
    set(Counter::PcieTxBytes, bytes(now.traffic.pcie_tx));
    set(Counter::PcieRxBytes, bytes(now.traffic.pcie_rx));
    set(Counter::InfinibandBytes, bytes(now.traffic.infiniband));
    Some(added.or(&counters))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::{Expect, expect};

    use super::*;

    const PACE: Pace = Pace { window_ms: 60_000, longest_tick_ms: 20_000 };
    /// 2026-01-31T08:00:00Z, as a multiple of a minute.
    const START: i64 = 1_769_846_400_000;

    /// One reading a word: `seconds:percent of tensor at 1000 MHz`, `seconds:cause`, `seconds:=millijoules`,
    /// `cut` or `seconds:stop`.
    fn check(script: &str, expected: Expect) {
        let mut meter = Meter::new("GPU-1".parse().expect("valid"), Source::Simulated, Tier::B, PACE);
        for word in script.split_whitespace() {
            if word == "cut" {
                meter.cut();
                continue;
            }
            let (at, what) = word.split_once(':').expect("time:what");
            let seconds: i64 = at.parse().expect("seconds");
            let now = Now {
                boot_ms: u64::try_from(seconds * 1000).expect("positive") + 5_000,
                wall: UtcMillis(START + seconds * 1000),
            };
            if what == "stop" {
                meter.finish(now);
                continue;
            }
            let device = if let Some(cause) = GapCause::from_name(what) {
                DeviceState::Missing(cause)
            } else if let Some(energy) = what.strip_prefix('=') {
                DeviceState::Read(Reading {
                    energy_mj: Some(energy.parse().expect("mJ")),
                    ..Reading::default()
                })
            } else {
                let tensor = Ratio::from_percent(what.parse().expect("percent"));
                DeviceState::Read(Reading {
                    sm_clock_mhz: Some(1000),
                    activity: crate::reading::Activity { tensor, ..Default::default() },
                    ..Reading::default()
                })
            };
            meter.observe(now, device);
        }
        let mut shown = String::new();
        for observed in meter.drain() {
            let seconds = |moment: UtcMillis| (moment.0 - START) / 1000;
            match observed {
                Observed::Window(w) => {
                    write!(shown, "{}..{} {} ticks", seconds(w.span.start()), seconds(w.span.end()), w.ticks)
                        .expect("string");
                    if let Some(cycles) = w.counters.get(Counter::TensorCycles) {
                        write!(shown, " {} Mcycles", cycles / 1_000_000).expect("string");
                    }
                    if let Some(energy) = w.counters.get(Counter::EnergyMicrojoules) {
                        write!(shown, " {} mJ", energy / 1000).expect("string");
                    }
                    shown.push('\n');
                }
                Observed::Gap(g) => {
                    let (start, end) = (seconds(g.span.start()), seconds(g.span.end()));
                    writeln!(shown, "{start}..{end} gap {}", g.cause).expect("string");
                }
            }
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn a_reading_counts_for_the_time_since_the_one_before() {
        check(
            "0:0 10:50 20:100 30:0 30:stop",
            expect![[r#"
            0..30 3 ticks 15000 Mcycles
        "#]],
        );
    }

    #[test]
    fn windows_end_at_whole_minutes_and_share_the_tick_between_them_by_time() {
        check(
            "50:0 65:40 70:40 70:stop",
            expect![[r#"
            50..60 1 ticks 4000 Mcycles
            60..70 2 ticks 4000 Mcycles
        "#]],
        );
    }

    #[test]
    fn a_tick_without_tensor_activity_takes_nothing_from_the_time_before_and_after_it() {
        check(
            "0:50 10:50 20:50 30:=7 40:50 50:50 50:stop",
            expect![[r#"
            0..20 2 ticks 10000 Mcycles
            20..30 1 ticks
            30..50 2 ticks 10000 Mcycles
        "#]],
        );
    }

    #[test]
    fn a_lost_device_leaves_a_gap_until_it_answers_again_and_the_first_answer_only_sets_the_base() {
        check(
            "0:50 10:50 20:device_lost 30:device_lost 40:50 50:50 50:stop",
            expect![[r#"
            0..10 1 ticks 5000 Mcycles
            10..40 gap device_lost
            40..50 1 ticks 5000 Mcycles
        "#]],
        );
    }

    #[test]
    fn a_gap_is_reported_minute_by_minute_while_it_lasts() {
        check(
            "50:50 70:device_lost 130:device_lost 190:call_hung 200:stop",
            expect![[r#"
            50..60 gap device_lost
            60..120 gap device_lost
            120..180 gap device_lost
            180..190 gap device_lost
            190..200 gap call_hung
        "#]],
        );
    }

    #[test]
    fn a_stall_is_a_gap_and_not_a_long_tick() {
        check(
            "0:50 10:50 40:50 50:50 50:stop",
            expect![[r#"
            0..10 1 ticks 5000 Mcycles
            10..40 gap agent_stalled
            40..50 1 ticks 5000 Mcycles
        "#]],
        );
    }

    #[test]
    fn a_counter_that_runs_backwards_is_a_gap_and_starts_anew() {
        check(
            "0:=1000 10:=1500 20:=30 30:=90 30:stop",
            expect![[r#"
            0..10 1 ticks 500 mJ
            10..20 gap counter_backwards
            20..30 1 ticks 60 mJ
        "#]],
        );
    }

    #[test]
    fn a_change_of_holder_cuts_at_the_last_reading() {
        check(
            "0:50 10:50 cut 20:50 30:50 30:stop",
            expect![[r#"
            0..10 1 ticks 5000 Mcycles
            10..30 2 ticks 10000 Mcycles
        "#]],
        );
    }

    #[test]
    fn time_that_stands_still_or_goes_back_adds_nothing() {
        check(
            "10:50 20:50 20:50 15:100 30:50 30:stop",
            expect![[r#"
            10..30 2 ticks 10000 Mcycles
        "#]],
        );
    }

    #[test]
    fn a_device_missing_from_the_start_is_a_gap_from_the_first_look() {
        check(
            "0:driver_missing 10:driver_missing 20:50 30:50 30:stop",
            expect![[r#"
            0..20 gap driver_missing
            20..30 1 ticks 5000 Mcycles
        "#]],
        );
    }
}
