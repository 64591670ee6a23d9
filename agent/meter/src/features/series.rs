//! Arithmetic on a short series. Floating point, but only sums in a fixed order: the same readings always give
//! the same features.

use super::history::KEPT;

/// Values of one channel with the second each belongs to, in order of time.
#[derive(Debug)]
pub(super) struct Series {
    slots: [u32; KEPT],
    values: [f64; KEPT],
    len: usize,
    /// A standard deviation below this is no movement.
    rest: f64,
}

/// How a series repeats itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    pub(super) period_ms: f64,
    /// Autocorrelation there.
    pub(super) strength: f64,
}

/// Fewest values of which a rhythm is told.
const FEWEST_FOR_RHYTHM: usize = 24;

impl Series {
    pub(super) fn new(rest: f64) -> Self {
        Self { slots: [0; KEPT], values: [0.0; KEPT], len: 0, rest }
    }

    /// What does not fit any more is left out.
    pub(super) fn push(&mut self, slot: u32, value: f64) {
        if self.len < KEPT {
            (self.slots[self.len], self.values[self.len]) = (slot, value);
            self.len += 1;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn values(&self) -> &[f64] {
        &self.values[..self.len]
    }

    pub(super) fn deviation(&self) -> f64 {
        deviation(self.values())
    }

    /// The highest value that was reached twice: a single one can be a slip of the sensor.
    pub(super) fn high(&self) -> Option<f64> {
        let mut top = [f64::NEG_INFINITY; 2];
        for &value in self.values() {
            if value > top[0] {
                top = [value, top[0]];
            } else if value > top[1] {
                top[1] = value;
            }
        }
        (self.len > 1).then_some(top[1])
    }

    /// The highest peak of the autocorrelation, of a series that moves and was read evenly. A slow change of
    /// level is taken out first: it would look alike at every distance.
    pub(super) fn rhythm(&self) -> Option<Rhythm> {
        let n = self.len;
        if n < FEWEST_FOR_RHYTHM {
            return None;
        }
        let step = f64::from(self.slots[n - 1] - self.slots[0]) / count(n - 1);
        if self.slots[..n].windows(2).any(|pair| f64::from(pair[1] - pair[0]) > 1.5 * step.max(1.0)) {
            return None;
        }
        let mut level = [0.0; KEPT];
        let level = &mut level[..n];
        level.copy_from_slice(self.values());
        straighten(level);
        if deviation(level) < self.rest {
            return None;
        }
        let whole: f64 = level.iter().map(|value| value * value).sum();
        let at = |lag: usize| {
            let common: f64 = level[lag..].iter().zip(level.iter()).map(|(a, b)| a * b).sum();
            common / whole * count(n) / count(n - lag)
        };
        // Three periods must fit, or it is not a repetition.
        let longest = n / 3;
        let mut best: Option<(usize, f64)> = None;
        let (mut before, mut here) = (at(1), at(2));
        for lag in 2..longest {
            let after = at(lag + 1);
            if here >= before && here >= after && best.is_none_or(|(_, strength)| here > strength) {
                best = Some((lag, here));
            }
            (before, here) = (here, after);
        }
        let (lag, strength) = best.filter(|(_, strength)| *strength > 0.0)?;
        Some(Rhythm { period_ms: count(lag) * step * 1000.0, strength: strength.min(1.0) })
    }
}

/// Pearson's correlation over the seconds in which both are known; `None` for few of them, or where one rests.
pub(super) fn correlation(a: &Series, b: &Series, fewest: usize) -> Option<f64> {
    let (mut of_a, mut of_b) = ([0.0; KEPT], [0.0; KEPT]);
    let (mut n, mut at) = (0, 0);
    for (slot, value) in a.slots[..a.len].iter().zip(a.values()) {
        while at < b.len && b.slots[at] < *slot {
            at += 1;
        }
        if at < b.len && b.slots[at] == *slot {
            (of_a[n], of_b[n]) = (*value, b.values[at]);
            n += 1;
        }
    }
    let (of_a, of_b) = (&of_a[..n], &of_b[..n]);
    let (spread_a, spread_b) = (deviation(of_a), deviation(of_b));
    if n < fewest || spread_a < a.rest || spread_b < b.rest {
        return None;
    }
    let (mean_a, mean_b) = (mean(of_a), mean(of_b));
    let common: f64 = of_a.iter().zip(of_b).map(|(x, y)| (x - mean_a) * (y - mean_b)).sum();
    Some((common / count(n) / spread_a / spread_b).clamp(-1.0, 1.0))
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / count(values.len()) }
}

fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    (squares / count(values.len().max(1))).sqrt()
}

/// Takes mean and slope out.
fn straighten(values: &mut [f64]) {
    let middle = count(values.len().saturating_sub(1)) / 2.0;
    let mean = mean(values);
    let (mut with, mut of) = (0.0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let from_middle = count(index) - middle;
        with += from_middle * (value - mean);
        of += from_middle * from_middle;
    }
    let slope = if of > 0.0 { with / of } else { 0.0 };
    for (index, value) in values.iter_mut().enumerate() {
        *value -= mean + slope * (count(index) - middle);
    }
}
