//! What looks become: windows, gaps and inventory of one host, until a batch takes them.
//!
//! Synchronous and without input or output: the same looks at the same moments always give the same records.
//! What a spool could not take comes back through [`Engine::give_back`]. It waits in memory up to a limit;
//! beyond it the oldest windows and gaps are merged into spans that are recorded as gaps with the cause
//! `spool_full` as soon as there is room, so that not even running out of everything is silent.

mod lost;
mod watch;

use std::collections::VecDeque;

use weighbridge_meter::{
    AcceleratorId, DeviceState, Gap, GapCause, Holding, Meter, Span, Tier, Trust, Use, UtcMillis, Window,
    meter::{Now, Observed, Pace},
};
use weighbridge_wire::DeviceRecord;

use self::{lost::Lost, watch::Watch};
use crate::source::{Device, Look, SourceState};

/// What an engine has to know about its host.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The host's name, for the inventory.
    pub host: String,
    /// Who could have changed the readings.
    pub trust: Trust,
    /// How meters cut time.
    pub pace: Pace,
    /// Windows and gaps that wait in memory at most while the spool takes none; beyond it they are merged.
    /// Holdings that wait have a limit of the same size.
    pub held_records: usize,
}

/// Records that belong into one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Measured spans.
    pub windows: Vec<Window>,
    /// Unmeasured spans.
    pub gaps: Vec<Gap>,
    /// Who held what.
    pub holdings: Vec<Holding>,
    /// Devices that appeared or changed.
    pub inventory: Vec<DeviceRecord>,
}

impl Contents {
    /// How many records.
    pub fn len(&self) -> usize {
        self.windows.len() + self.gaps.len() + self.holdings.len() + self.inventory.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cut in two, each kind in the middle: for a batch that became too large.
    #[must_use]
    pub fn split(mut self) -> (Self, Self) {
        fn half<T>(list: &mut Vec<T>) -> Vec<T> {
            list.split_off(list.len().div_ceil(2))
        }
        let second = Self {
            windows: half(&mut self.windows),
            gaps: half(&mut self.gaps),
            holdings: half(&mut self.holdings),
            inventory: half(&mut self.inventory),
        };
        (self, second)
    }
}

/// What is known about holders after a look: from [`crate::holders`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HolderNews {
    /// Holdings to be recorded.
    pub holdings: Vec<Holding>,
    /// Accelerators whose set of holders changed: their windows are cut.
    pub changed: Vec<AcceleratorId>,
    /// How long each of several holders used an accelerator since that was last told.
    pub used: Vec<(AcceleratorId, Use)>,
}

/// The meters of one host and what they have finished.
#[derive(Debug)]
pub struct Engine {
    options: EngineOptions,
    devices: Vec<Tracked>,
    /// In the order of `devices`.
    watch: Watch,
    source_state: &'static str,
    observed: VecDeque<Observed>,
    holdings: Vec<Holding>,
    inventory: Vec<DeviceRecord>,
    dropped_holdings: u64,
    unknown_looks: u64,
}

#[derive(Debug)]
struct Tracked {
    meter: Meter,
    record: DeviceRecord,
    lost: Lost,
    /// How long each of several holders used it in the window that is open.
    uses: Vec<Use>,
}

impl Tracked {
    fn used(&mut self, told: Use) {
        if let Some(known) = self.uses.iter_mut().find(|known| known.attempt == told.attempt) {
            known.busy_us = known.busy_us.saturating_add(told.busy_us);
        } else if self.uses.len() < Use::MOST {
            self.uses.push(told);
        }
    }
}

/// Name of the state in which all is well.
pub const SOURCE_OK: &str = "ok";

impl Engine {
    /// An engine that knows no device yet.
    pub fn new(options: EngineOptions) -> Self {
        Self {
            options,
            devices: Vec::new(),
            watch: Watch::default(),
            source_state: "starting",
            observed: VecDeque::new(),
            holdings: Vec::new(),
            inventory: Vec::new(),
            dropped_holdings: 0,
            unknown_looks: 0,
        }
    }

    /// Takes one look. Cuts for `news` are made at the readings before it.
    pub fn tick(&mut self, now: Now, look: &Look, news: HolderNews) {
        self.source_state = match &look.source_state {
            SourceState::Ok => SOURCE_OK,
            SourceState::Missing(cause, _) => cause.as_str(),
        };
        let place = |id| self.devices.iter().position(|device| device.meter.accelerator() == id);
        let changed: Vec<usize> = news.changed.iter().filter_map(place).collect();
        for &index in &changed {
            self.devices[index].meter.cut();
            self.drain(index);
        }
        // What the next holder does is compared with nothing of this one's.
        changed.iter().for_each(|&index| self.watch.forget(index));
        self.holdings.extend(news.holdings);
        for device in look.inventory_changed.iter().flatten() {
            self.take_in(now, device, look);
        }
        self.observe(now, look);
        for (id, told) in news.used {
            if let Some(device) = self.devices.iter_mut().find(|device| *device.meter.accelerator() == id) {
                device.used(told);
            }
        }
        for index in 0..self.devices.len() {
            self.drain(index);
        }
    }

    /// Takes what a meter has finished, with the features of its windows and the uses that were told.
    fn drain(&mut self, index: usize) {
        let Tracked { meter, uses, .. } = &mut self.devices[index];
        for mut observed in meter.drain() {
            if let Observed::Window(window) = &mut observed {
                self.watch.describe(index, window);
                window.uses = std::mem::take(uses);
            } else {
                // Told of a time that nothing else is known of.
                uses.clear();
            }
            self.observed.push_back(observed);
        }
    }

    fn observe(&mut self, now: Now, look: &Look) {
        for (index, device) in self.devices.iter_mut().enumerate() {
            if !device.record.present {
                continue;
            }
            // As a rule both are in the order of finding.
            let id = device.meter.accelerator();
            let same_place = look.devices.get(index).filter(|seen| seen.id == *id);
            let seen = same_place.or_else(|| look.devices.iter().find(|seen| seen.id == *id));
            let state = match (seen, &look.source_state) {
                (Some(seen), _) => seen.state,
                (None, SourceState::Missing(cause, _)) => DeviceState::Missing(*cause),
                (None, SourceState::Ok) => DeviceState::Missing(GapCause::ReadFailed),
            };
            self.watch.see(index, now.boot_ms, &state);
            device.meter.observe(now, state);
        }
        let known = |id: &AcceleratorId| self.devices.iter().any(|device| device.meter.accelerator() == id);
        if look.devices.len() > self.devices.len() || look.inventory_changed.is_some() {
            let unknown = look.devices.iter().filter(|seen| !known(&seen.id)).count();
            self.unknown_looks += unknown as u64;
        }
    }

    /// A device that appeared or changed.
    fn take_in(&mut self, now: Now, device: &Device, look: &Look) {
        let record = record(device, now.wall, &self.options);
        let index = self.devices.iter().position(|known| *known.meter.accelerator() == device.id);
        let Some(index) = index else {
            self.inventory.push(record.clone());
            let meter = Meter::new(device.id.clone(), device.source, device.tier, self.options.pace);
            self.devices.push(Tracked { meter, record, lost: Lost::default(), uses: Vec::new() });
            self.watch.add();
            return;
        };
        let known = &mut self.devices[index];
        if (DeviceRecord { at: record.at, ..known.record.clone() }) == record {
            return;
        }
        if !record.present || !known.record.present {
            // Gone by design, or back: nothing was missed in between.
            known.meter.cut();
            self.drain(index);
            self.watch.forget(index);
            self.devices[index].meter =
                Meter::new(device.id.clone(), device.source, device.tier, self.options.pace);
        } else if (known.record.tier, known.record.source) != (record.tier, record.source) {
            // The old meter ends with this reading, and the new one takes the same one for its base. What it had
            // before is a window of its own: the last tick may lack what the new tier does not have.
            known.meter.cut();
            let state = look.devices.iter().find(|seen| seen.id == device.id).map(|seen| seen.state);
            if let Some(state) = state {
                known.meter.observe(now, state);
            }
            known.meter.finish(now);
            self.drain(index);
            self.watch.forget(index);
            self.devices[index].meter =
                Meter::new(device.id.clone(), device.source, device.tier, self.options.pace);
        }
        self.devices[index].record = record.clone();
        self.inventory.push(record);
    }

    /// Ends everything open as of now: the agent stops.
    pub fn finish(&mut self, now: Now) {
        for index in 0..self.devices.len() {
            self.devices[index].meter.finish(now);
            self.drain(index);
        }
    }

    /// Adds holdings from elsewhere.
    pub fn hold(&mut self, holdings: impl IntoIterator<Item = Holding>) {
        self.holdings.extend(holdings);
    }

    /// `ok`, `starting`, or why the source finds nothing.
    pub fn source_state(&self) -> &'static str {
        self.source_state
    }

    /// Every device seen in this run, as last recorded.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceRecord> {
        self.devices.iter().map(|device| &device.record)
    }

    /// Holdings that were given up because too many waited; each is a loss to be looked into.
    pub fn dropped_holdings(&self) -> u64 {
        self.dropped_holdings
    }

    /// Looks at accelerators that are in no inventory, which a source should never give.
    pub fn unknown_looks(&self) -> u64 {
        self.unknown_looks
    }

    /// All that is finished, spans that had to be given up included, as gaps.
    pub fn take(&mut self) -> Contents {
        let mut contents = Contents {
            holdings: std::mem::take(&mut self.holdings),
            inventory: std::mem::take(&mut self.inventory),
            ..Contents::default()
        };
        for device in &mut self.devices {
            contents.gaps.extend(device.lost.take(device.meter.accelerator()));
        }
        for observed in self.observed.drain(..) {
            match observed {
                Observed::Window(window) => contents.windows.push(window),
                Observed::Gap(gap) => contents.gaps.push(gap),
            }
        }
        contents
    }

    /// For tests: a device that nobody looked at yet.
    #[cfg(test)]
    pub(crate) fn know(&mut self, accelerator: AcceleratorId) {
        let device = Device {
            id: accelerator,
            pci_address: None,
            pci_device: None,
            name: "a device".into(),
            max_sm_clock_mhz: None,
            power_limit_mw: None,
            memory_bytes: None,
            tier: Tier::B,
            source: weighbridge_meter::Source::Simulated,
            driver: None,
            host: None,
            trust: None,
            parent: None,
            units: None,
            instance: None,
            sample_ms: 0,
            conditions: Vec::new(),
            present: true,
        };
        let look = Look {
            devices: Vec::new(),
            source_state: SourceState::Ok,
            inventory_changed: None,
            unidentified: 0,
        };
        self.take_in(Now { boot_ms: 0, wall: UtcMillis(0) }, &device, &look);
    }

    /// What had to be given up alone, as gaps.
    pub fn take_lost(&mut self) -> Contents {
        let mut contents = Contents::default();
        for device in &mut self.devices {
            contents.gaps.extend(device.lost.take(device.meter.accelerator()));
        }
        contents
    }

    /// Gives up every window that waits: nobody will take it any more. It is a gap from here on.
    pub fn give_up(&mut self) {
        let held = std::mem::replace(&mut self.options.held_records, 0);
        self.shrink();
        self.options.held_records = held;
    }

    /// What was taken could not be kept: it waits for the next time, before what came since.
    pub fn give_back(&mut self, contents: Contents) {
        let Contents { windows, gaps, mut holdings, mut inventory } = contents;
        let mut earlier: Vec<Observed> =
            gaps.into_iter().map(Observed::Gap).chain(windows.into_iter().map(Observed::Window)).collect();
        earlier.sort_by_key(|observed| span(observed).start());
        for observed in earlier.into_iter().rev() {
            self.observed.push_front(observed);
        }
        holdings.append(&mut self.holdings);
        self.holdings = holdings;
        inventory.append(&mut self.inventory);
        self.inventory = inventory;
        self.shrink();
    }

    /// Keeps what waits within its limits.
    pub fn shrink(&mut self) {
        while self.observed.len() > self.options.held_records {
            let Some(oldest) = self.observed.pop_front() else { break };
            let id = match &oldest {
                Observed::Window(window) => &window.accelerator,
                Observed::Gap(gap) => &gap.accelerator,
            };
            if let Some(device) = self.devices.iter_mut().find(|device| device.meter.accelerator() == id) {
                device.lost.add(&oldest);
            }
        }
        // Only the last word on a device counts.
        let mut seen: Vec<AcceleratorId> = Vec::new();
        let mut latest: Vec<DeviceRecord> = Vec::new();
        for record in self.inventory.drain(..).rev() {
            if !seen.contains(&record.accelerator) {
                seen.push(record.accelerator.clone());
                latest.push(record);
            }
        }
        latest.reverse();
        self.inventory = latest;
        join_confirmations(&mut self.holdings);
        let over = self.holdings.len().saturating_sub(self.options.held_records);
        self.dropped_holdings += over as u64;
        self.holdings.drain(..over);
    }
}

fn span(observed: &Observed) -> Span {
    match observed {
        Observed::Window(window) => window.span,
        Observed::Gap(gap) => gap.span,
    }
}

/// Confirmations of the same holding that meet become one.
fn join_confirmations(holdings: &mut Vec<Holding>) {
    let mut joined: Vec<Holding> = Vec::with_capacity(holdings.len());
    for holding in holdings.drain(..) {
        let before = joined.iter_mut().rev().find(|before| {
            before.attempt == holding.attempt
                && before.principal == holding.principal
                && before.evidence == holding.evidence
                && before.accelerators == holding.accelerators
                && before.span.end() == holding.span.start()
        });
        match before.and_then(|before| Some((Span::new(before.span.start(), holding.span.end())?, before))) {
            Some((span, before)) => before.span = span,
            None => joined.push(holding),
        }
    }
    *holdings = joined;
}

fn record(device: &Device, at: UtcMillis, options: &EngineOptions) -> DeviceRecord {
    DeviceRecord {
        accelerator: device.id.clone(),
        at,
        present: device.present,
        host: device.host.as_deref().map_or_else(|| options.host.clone(), printable),
        name: printable(&device.name),
        pci_device: printable(device.pci_device.as_deref().unwrap_or_default()),
        pci_address: printable(device.pci_address.as_deref().unwrap_or_default()),
        source: device.source,
        tier: device.tier,
        trust: device.trust.unwrap_or(options.trust),
        max_sm_clock_mhz: device.max_sm_clock_mhz,
        power_limit_mw: device.power_limit_mw,
        memory_bytes: device.memory_bytes,
        driver: printable(device.driver.as_deref().unwrap_or_default()),
        parent: device.parent.clone(),
        units: device.units,
        sample_ms: device.sample_ms,
        conditions: device.conditions.clone(),
    }
}

/// What a driver says must fit the wire's limits, or the collector refuses the whole batch.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if shown.len() + c.len_utf8() > 256 {
            break;
        }
        shown.push(c);
    }
    shown
}

/// Whether readings of this tier say anything at all.
pub(crate) fn is_metered(tier: Tier) -> bool {
    tier < Tier::E
}

#[cfg(test)]
mod tests;
