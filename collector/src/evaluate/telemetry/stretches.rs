//! Windows of one accelerator into stretches of one kind of work.
//!
//! The likeliest sequence of kinds (Viterbi's algorithm), where each change costs something: a single window
//! never makes a stretch. What a stretch was is then judged by the sum of its signs, as for an attempt.

use weighbridge_meter::{Hardware, Judgement, Signs, Window, classify::Sign, window::Counter};

use super::trace::seconds;

/// One kind of work from one window to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// Seconds of the trace.
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) judgement: Judgement,
    /// Nothing ran.
    pub(super) idle: bool,
}

impl Stretch {
    pub(super) fn millis(&self) -> f64 {
        (self.end - self.start) * 1000.0
    }

    pub(super) fn likelihood(&self) -> f64 {
        f64::from(self.judgement.likelihood_per_mille) / 1000.0
    }
}

/// Idle, training, inference, other work.
const KINDS: usize = 4;
const IDLE: usize = 0;
/// A change is worth this much evidence, in thousandths of a nat.
const CHANGE: i64 = 2_500;
/// Or this, between something and nothing.
const STOP: i64 = 1_800;
/// Or this, where power alone says that nothing ran: a few minutes without requests are no change.
const STOP_BY_POWER: i64 = 10_000;
/// A pause this short, in seconds, belongs to what it interrupts: a checkpoint, a restart.
const PAUSE: f64 = 300.0;
/// What a minute without anything says for idleness, and one with something against it.
const CERTAIN: i64 = 4_000;

/// Cuts the windows of one accelerator, in order of time.
pub(super) fn of(hardware: &Hardware<'_>, windows: &[Window]) -> Vec<Stretch> {
    let signs: Vec<Signs> = windows.iter().map(|window| Signs::of(hardware, window)).collect();
    let only_power = windows.iter().all(|window| {
        let known = |counter| window.counters.get(counter).is_some();
        ![Counter::BusyMicros, Counter::SmCycles, Counter::TensorCycles].into_iter().any(known)
    });
    // A window that rests on one reading of a longer time is a part of a look, not a look.
    let weight = |window: &Window| i64::from(window.ticks.clamp(1, 4));
    let weighed = signs.iter().zip(windows).map(|(signs, window)| (*signs, weight(window)));
    let seen: Vec<(Signs, i64)> = weighed.collect();
    let mut kinds = sequence(&seen, if only_power { STOP_BY_POWER } else { STOP });
    forget_pauses(windows, &mut kinds);
    let mut stretches = Vec::new();
    let mut first = 0;
    for next in 1..=windows.len() {
        if next < windows.len() && kinds[next] == kinds[first] {
            continue;
        }
        let mut sum = Signs::default();
        signs[first..next].iter().for_each(|signs| sum.merge(signs));
        stretches.push(Stretch {
            start: seconds(windows[first].span.start()),
            end: seconds(windows[next - 1].span.end()),
            judgement: sum.judge(),
            idle: kinds[first] == IDLE,
        });
        first = next;
    }
    stretches
}

/// Gives short pauses between work to what was before them.
fn forget_pauses(windows: &[Window], kinds: &mut [usize]) {
    let mut work: Option<usize> = None;
    for at in 0..kinds.len() {
        if kinds[at] == IDLE {
            continue;
        }
        if let Some(before) = work.filter(|&before| before + 1 < at) {
            let pause = seconds(windows[at].span.start()) - seconds(windows[before].span.end());
            if pause < PAUSE {
                let kind = kinds[before];
                kinds[before + 1..at].fill(kind);
            }
        }
        work = Some(at);
    }
}

fn sequence(seen: &[(Signs, i64)], stop: i64) -> Vec<usize> {
    let mut best = [0_i64; KINDS];
    let mut from: Vec<[usize; KINDS]> = Vec::with_capacity(seen.len());
    for (index, (signs, weight)) in seen.iter().enumerate() {
        let mut now = [0; KINDS];
        let mut back = [0; KINDS];
        for (kind, (now, back)) in now.iter_mut().zip(&mut back).enumerate() {
            let reached = |before: usize| match (index, before == kind) {
                (0, _) => 0,
                (_, true) => best[before],
                _ if before == IDLE || kind == IDLE => best[before] - stop,
                _ => best[before] - CHANGE,
            };
            // To stay wins a tie.
            *back = (0..KINDS)
                .fold(kind, |top, before| if reached(before) > reached(top) { before } else { top });
            *now = reached(*back) + speaks(signs, kind) * weight / 4;
        }
        best = now;
        from.push(back);
    }
    let mut kind = (0..KINDS).fold(0, |top, kind| if best[kind] > best[top] { kind } else { top });
    let mut kinds = vec![kind; seen.len()];
    for index in (1..seen.len()).rev() {
        kind = from[index][kind];
        kinds[index - 1] = kind;
    }
    kinds
}

/// What one window says for a kind.
fn speaks(signs: &Signs, kind: usize) -> i64 {
    let (millis, idle) = (signs.get(Sign::Millis), signs.get(Sign::IdleMillis));
    match kind {
        IDLE => (2 * idle - millis) * CERTAIN / 60_000,
        1 => signs.get(Sign::Training),
        2 => signs.get(Sign::Inference),
        _ => signs.get(Sign::Other),
    }
}
