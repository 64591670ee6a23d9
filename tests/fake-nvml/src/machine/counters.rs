//! What counts on by itself: energy and cumulative cycles, as functions of boot time.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{Card, Node, Part, Switches, boot_time};
use crate::{
    install::Fault,
    script::{GpmPercent, GpmTraffic, Scale},
};

/// When counters of one device or instance began anew.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Marks>);

#[derive(Debug, Default)]
struct Marks {
    /// Boot time at which each of these last appeared, while it is there.
    reloaded: Mark,
    backwards: Mark,
    drift: Mark,
    recreated: Mark,
    /// Energy at the last [`Fault::Backwards`], and when that was.
    fallen: Option<(u64, Duration)>,
}

/// A fault, and when it last appeared.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    on: bool,
    since: Option<Duration>,
}

impl Mark {
    /// True if the fault just appeared.
    fn look(&mut self, on: bool, now: Duration) -> bool {
        let appeared = on && !self.on;
        if appeared {
            self.since = Some(now);
        }
        self.on = on;
        appeared
    }
}

impl Counters {
    /// The marks as of now.
    fn marks<T>(&self, switches: &Switches, see: impl FnOnce(&mut Marks, Duration) -> T) -> T {
        let now = boot_time();
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.reloaded.look(switches.has(Fault::Reloaded), now) {
            marks.fallen = None;
        }
        marks.drift.look(switches.has(Fault::Drift), now);
        marks.recreated.look(switches.has(Fault::Recreated), now);
        see(&mut marks, now)
    }
}

impl Card {
    /// The energy counter in millijoules. `None` if the device has none.
    pub(crate) fn energy_mj(&self) -> Option<u64> {
        let rate_mw = self.device.energy_mw?;
        let grown = |time: Duration| {
            let mj = u128::from(rate_mw) * time.as_nanos() / 1_000_000_000;
            u64::try_from(mj).unwrap_or(u64::MAX)
        };
        Some(self.counters.marks(&self.switches, |marks, now| {
            let energy = |marks: &Marks| match (marks.fallen, marks.reloaded.since) {
                (Some((start, since)), _) => start.saturating_add(grown(now - since)),
                (None, Some(reloaded)) => grown(now - reloaded),
                (None, None) => self.device.energy_start_mj.saturating_add(grown(now)),
            };
            if marks.backwards.look(self.switches.has(Fault::Backwards), now) {
                marks.fallen = Some((energy(marks) / 2, now));
            }
            energy(marks)
        }))
    }
}

/// What cumulative metrics of one device or instance are made from.
struct Source<'a> {
    percent: &'a GpmPercent,
    traffic: Option<&'a GpmTraffic>,
    sms: u32,
    counters: &'a Counters,
    switches: &'a Switches,
}

impl Node<'_> {
    /// The cumulative metric with this NVML id at this boot time. `None` if it is not supported.
    pub(crate) fn cumulative(&self, id: u32, at: Duration) -> Option<f64> {
        let (card, source) = match self {
            Self::Card(card) => {
                let device = &card.device;
                let (percent, traffic) = (&device.gpm_percent, Some(&device.gpm_mib_per_s));
                let (counters, switches) = (&card.counters, &card.switches);
                (*card, Source { percent, traffic, sms: device.sms, counters, switches })
            }
            Self::Part(card, part) => {
                let (percent, sms) = (&part.instance.gpm_percent, part.sms());
                let (counters, switches) = (&part.counters, &part.switches);
                (*card, Source { percent, traffic: None, sms, counters, switches })
            }
        };
        let scale = card.device.cumulative?;
        if let Some(text) = &fs::read_to_string(&source.switches.totals).ok() {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{id}=")));
            return line?.parse::<f64>().ok();
        }
        // A device's reload restarts its instances too.
        let reloaded = card.counters.marks(&card.switches, |marks, _| marks.reloaded.since);
        let (own, drift) = source.counters.marks(source.switches, |marks, _| {
            (marks.reloaded.since.max(marks.recreated.since), marks.drift.since)
        });
        let time = at.saturating_sub(reloaded.max(own).unwrap_or_default());
        if let (255, Some(traffic)) | (256, Some(traffic)) = (id, source.traffic) {
            let rate = if id == 255 { traffic.pcie_tx } else { traffic.pcie_rx };
            return rate.map(|mib| (mib * 1_048_576.0 * time.as_secs_f64()).floor());
        }
        let doubled = if (250..=254).contains(&id) {
            drift.map_or(Duration::ZERO, |since| at.saturating_sub(since))
        } else {
            Duration::ZERO
        };
        let micros = (time + doubled).as_secs_f64() * 1e6;
        let sms = match scale {
            Scale::Mean => 1.0,
            Scale::Sum => f64::from(source.sms),
        };
        let percent = source.percent.cumulative(id)?;
        Some((micros * f64::from(card.device.sm_clock_mhz?) * sms * percent / 100.0).floor())
    }
}

impl Part {
    pub(crate) fn sms(&self) -> u32 {
        let anew = self.instance.recreated_sms.filter(|_| self.switches.has(Fault::Recreated));
        anew.unwrap_or(self.instance.sms)
    }

    pub(crate) fn ci(&self) -> u32 {
        let anew = self.instance.recreated_ci.filter(|_| self.switches.has(Fault::Recreated));
        anew.unwrap_or(self.instance.ci)
    }
}
