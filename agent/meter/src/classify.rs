//! What kind of work it was: evidence per window, added up over hours, judged at the end.
//!
//! [`Signs::of`] says what one window speaks for; [`Signs::merge`] adds, in any order; [`Signs::judge`] makes of
//! hours of them a [`Judgement`] with its likelihood. A label never changes a sum of operations.
//!
//! Every piece of evidence has a physical reason (`evidence`); none is a fitted weight. Where counters cannot
//! tell, the answer is undetermined: power alone decides nothing but idleness, and prefill that several
//! accelerators share looks like training. Deliberately absent: anything learned from one laboratory's runs.

mod evidence;

use serde::{Deserialize, Serialize};

use self::evidence::{Evidence, ramp};
use crate::{
    reading::coded,
    table::Hardware,
    window::{Counter, Window},
};

coded! {
    /// A kind of work.
    Class {
        /// Training of a model.
        Training = 1 "training",
        /// Answering requests with a finished one.
        Inference = 2 "inference",
        /// Neither: rendering, simulation, or nothing at all.
        Other = 3 "other",
        /// The evidence does not say.
        Undetermined = 4 "undetermined",
    }
}

coded! {
    /// A sum of evidence over windows. Each is a whole number, so that sums do not depend on their order.
    Sign {
        /// Milliseconds looked at.
        Millis = 0 "millis",
        /// Of these, milliseconds in which nothing ran.
        IdleMillis = 1 "idle_ms",
        /// Milliseconds in which something ran and tensor activity was known.
        TensorMillis = 2 "tensor_known_ms",
        /// What speaks for training, in thousandths of a nat.
        Training = 3 "for_training",
        /// What speaks for inference, in thousandths of a nat.
        Inference = 4 "for_inference",
        /// What speaks for neither, in thousandths of a nat.
        Other = 5 "for_other",
        /// Milliseconds in which memory was busy and matrix units were not, as when tokens are generated.
        MemoryBoundMillis = 6 "memory_bound_ms",
        /// Milliseconds with as much exchange between accelerators as gradients need.
        ExchangeMillis = 7 "exchange_ms",
        /// Milliseconds in which accelerators were seen to wait for each other with kernels resident.
        WaitingMillis = 8 "waiting_ms",
        /// Milliseconds in which kernels ran and matrix units did not.
        NoTensorMillis = 9 "no_tensor_ms",
        /// Tensor pipe active, in millions of cycles.
        TensorMegacycles = 10 "tensor_megacycles",
        /// At least one warp resident, in millions of cycles, where tensor activity is known.
        SmMegacycles = 11 "sm_megacycles",
        /// Milliseconds in which the memory interface was active.
        DramMillis = 12 "dram_ms",
        /// Milliseconds in which a kernel was resident.
        BusyMillis = 13 "busy_ms",
        /// Energy in millijoules.
        EnergyMillijoules = 14 "energy_mj",
        /// Megabytes sent and received over NVLink.
        NvlinkMegabytes = 15 "nvlink_mb",
    }
}

/// Sums of evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signs([i64; Signs::LEN]);

/// What the evidence comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// The likeliest kind of work, or undetermined.
    pub class: Class,
    /// How likely it is, per mille; of an undetermined one, that of the likeliest.
    pub likelihood_per_mille: u16,
    /// What decided, or why nothing could: for people, in words.
    pub because: &'static str,
}

/// Nothing is more certain than this, however long it was looked at: the evidence could be forged.
const MOST_LIKELY: u16 = 985;
/// Training is said only from here on: to call serving training is the worse mistake.
const SURE_OF_TRAINING: u16 = 870;
/// The others are said from here on.
const SURE_OF_OTHERS: u16 = 750;
/// Work that was looked at for less, in milliseconds, is not told apart: no window decides alone.
const SHORTEST: i64 = 90_000;
/// Logarithms of how common training, inference and other work are among accelerators that run something.
const PRIOR: [i64; 3] = [-1_200, -900, -1_300];
/// How many independent minutes so many thousandths of minutes of one attempt are worth, in thousandths: what
/// neighbouring minutes say is nearly the same.
const WORTH: &[(i64, i64)] = &[
    (0, 0),
    (1_000, 1_000),
    (2_000, 1_600),
    (5_000, 2_800),
    (15_000, 4_500),
    (60_000, 7_000),
    (360_000, 10_000),
];

impl Signs {
    /// How many there are.
    pub const LEN: usize = Sign::ALL.len();

    /// What one whole window speaks for.
    pub fn of(hardware: &Hardware<'_>, window: &Window) -> Self {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let millis = signed(window.span.millis());
        let get = |counter, unit: u64| signed(window.counters.get(counter).unwrap_or(0) / unit);
        let signs = Self::default()
            .with(Sign::Millis, millis)
            .with(Sign::TensorMegacycles, get(Counter::TensorCycles, 1_000_000))
            .with(Sign::DramMillis, get(Counter::DramMicros, 1000))
            .with(Sign::BusyMillis, get(Counter::BusyMicros, 1000))
            .with(Sign::EnergyMillijoules, get(Counter::EnergyMicrojoules, 1000));
        let nvlink =
            get(Counter::NvlinkTxBytes, 1_000_000).saturating_add(get(Counter::NvlinkRxBytes, 1_000_000));
        let signs = signs.with(Sign::NvlinkMegabytes, nvlink);
        let evidence = match Evidence::of(hardware, window) {
            None => return signs.with(Sign::IdleMillis, millis),
            Some(evidence) => evidence,
        };
        // An hour that only counters speak for is one look, not sixty.
        let weight = millis.min(60_000);
        let score = |nats: i64| nats.clamp(-Evidence::MOST, Evidence::MOST) * weight / 60_000;
        let when = |seen: bool| if seen { millis } else { 0 };
        let tensor = window.counters.get(Counter::TensorCycles).is_some();
        signs
            .with(Sign::TensorMillis, when(tensor))
            .with(Sign::SmMegacycles, if tensor { get(Counter::SmCycles, 1_000_000) } else { 0 })
            .with(Sign::Training, score(evidence.training))
            .with(Sign::Inference, score(evidence.inference))
            .with(Sign::Other, score(evidence.other))
            .with(Sign::MemoryBoundMillis, when(evidence.memory_bound))
            .with(Sign::ExchangeMillis, when(evidence.exchange))
            .with(Sign::WaitingMillis, when(evidence.waiting))
            .with(Sign::NoTensorMillis, when(evidence.no_tensor))
    }

    /// One of the sums.
    pub fn get(&self, sign: Sign) -> i64 {
        self.0[sign as usize]
    }

    #[must_use]
    fn with(mut self, sign: Sign, value: i64) -> Self {
        self.0[sign as usize] = value;
        self
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Self) {
        for (sum, other) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(other);
        }
    }

    /// The part that falls into `from..to` of a whole: pieces that meet add up to it.
    #[must_use]
    pub fn piece(&self, from: u64, to: u64, whole: u64) -> Self {
        if from == 0 && to >= whole {
            return *self;
        }
        let upto = |value: i64, moment: u64| {
            let part = i128::from(value) * i128::from(moment.min(whole)) / i128::from(whole.max(1));
            i64::try_from(part).unwrap_or(value)
        };
        let mut piece = *self;
        for value in &mut piece.0 {
            *value = upto(*value, to).saturating_sub(upto(*value, from));
        }
        piece
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&sum| sum == 0)
    }

    /// What speaks for training, inference and other work, tempered: in thousandths of a nat.
    /// `None` where nothing ran, or nothing was looked at.
    pub fn weighed(&self) -> Option<[i64; 3]> {
        let active = self.get(Sign::Millis).saturating_sub(self.get(Sign::IdleMillis));
        if active <= 0 {
            return None;
        }
        // Thousandths of minutes.
        let minutes = active / 60;
        let worth = i128::from(ramp(minutes, WORTH));
        Some([Sign::Training, Sign::Inference, Sign::Other].map(|sign| {
            let tempered = i128::from(self.get(sign)) * worth / i128::from(minutes.max(1));
            i64::try_from(tempered).unwrap_or(0).clamp(-8_000, 8_000)
        }))
    }

    /// What it was, by all of them.
    pub fn judge(&self) -> Judgement {
        let millis = self.get(Sign::Millis);
        if millis <= 0 {
            let because = "nothing was looked at";
            return Judgement { class: Class::Undetermined, likelihood_per_mille: 0, because };
        }
        let idle = i128::from(self.get(Sign::IdleMillis)) * 1000 / i128::from(millis);
        let nothing = |because| {
            let likelihood_per_mille = u16::try_from(idle).unwrap_or(0).min(MOST_LIKELY);
            Judgement { class: Class::Other, likelihood_per_mille, because }
        };
        let weighed = match self.weighed() {
            Some(weighed) if idle < 950 => weighed,
            _ => return nothing("nothing ran"),
        };
        let (best, likelihood) = likeliest(weighed);
        let likelihood_per_mille = likelihood.min(MOST_LIKELY);
        let least = if best == Class::Training { SURE_OF_TRAINING } else { SURE_OF_OTHERS };
        let active = millis.saturating_sub(self.get(Sign::IdleMillis));
        let sure = likelihood >= least && active >= SHORTEST;
        if !sure && idle >= 800 {
            return nothing("nothing ran most of the time");
        }
        let class = if sure { best } else { Class::Undetermined };
        Judgement { class, likelihood_per_mille, because: self.because(class) }
    }

    fn because(&self, class: Class) -> &'static str {
        let active = self.get(Sign::Millis).saturating_sub(self.get(Sign::IdleMillis));
        let often = |sign| self.get(sign) >= active / 4;
        match class {
            Class::Training if self.get(Sign::WaitingMillis) > 0 => {
                "accelerators wait for each other with kernels resident"
            }
            Class::Training if often(Sign::ExchangeMillis) => {
                "as much is exchanged between accelerators as gradients need"
            }
            Class::Training => "matrix units rather than memory are busy, and accelerators move together",
            Class::Inference if often(Sign::MemoryBoundMillis) => {
                "memory is busy and matrix units are not, as when tokens are generated"
            }
            Class::Inference => "matrix units are busy, and accelerators do not exchange anything",
            Class::Other => "kernels run without matrix units",
            Class::Undetermined if active < SHORTEST => "it was too short",
            Class::Undetermined if self.get(Sign::TensorMillis) < active / 2 => {
                "without tensor activity the counters do not tell"
            }
            Class::Undetermined => "the counters speak for several kinds of work",
        }
    }
}

fn likeliest(weighed: [i64; 3]) -> (Class, u16) {
    const ORDER: [Class; 3] = [Class::Inference, Class::Other, Class::Training];
    let [training, inference, other] = weighed;
    let [of_training, of_inference, of_other] = PRIOR;
    let logs = [inference + of_inference, other + of_other, training + of_training];
    let top = logs.into_iter().max().unwrap_or(0);
    // At most 0, and above -20,000: exact in a double.
    let weights = logs.map(|log| (f64::from(i32::try_from(log - top).unwrap_or(i32::MIN)) / 1000.0).exp());
    let whole: f64 = weights.iter().sum();
    let (best, _) = ORDER.into_iter().zip(logs).max_by_key(|(_, log)| *log).unwrap_or((Class::Other, 0));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 333 to 1000")]
    (best, (1000.0 / whole).round() as u16)
}

#[cfg(test)]
mod tests;
