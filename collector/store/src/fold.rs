//! Where sums are made: ledger entries in, sums per accelerator, UTC hour and holder out.
//!
//! [`Fold::apply`] is the only way that anything gets into the sums, live and in a rebuild. A window adds to
//! its hour at once if nothing covers its time yet. Whatever could change what is already summed (a late
//! holding, a second source for the same time) marks the hour for [`Fold::refold`], which makes it anew from
//! all windows of that hour, unless only the name of its holder changes ([`Relabel`]). So the sums are a function of the facts, not of the order in which they came.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet},
    hash::Hash,
};

use weighbridge_meter::{AcceleratorId, AgentId, EpochId, Estimator, Span, UtcMillis};
use weighbridge_wire::{Batch, Envelope, Loss};

use crate::{
    Place, RecordRow, closed,
    entry::{Body, Entry, EntryError, Fact},
    hour::{Hour, HourKey, HourRow, Relabel, Spans},
    numbers::Numbers,
    state::{AgentSeen, CursorRow, HeldKey, PlaceRow, State, StateRow},
};

mod devices;
mod hours;
mod relabel;
mod touched;

use self::touched::holding_span;
pub use self::touched::{HeldHours, held_hours, touched_hours};
pub(crate) use hours::is_ahead;
pub use weighbridge_meter::hex;

/// What a piece of the ledger changes in SQL: rows as they are now, so that writing them twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// Place of the first entry in it.
    pub begins: Place,
    /// Place of the first entry not in it.
    pub ends: Place,
    /// Hours that are stored and change their holder, in this order, before any hour is written.
    pub relabels: Vec<Relabel>,
    /// Hours as they are now.
    pub hours: Vec<HourRow>,
    /// Parts of the state as they are now.
    pub state: Vec<StateRow>,
    /// Cursors as they are now.
    pub cursors: Vec<CursorRow>,
    /// Places of batches, by agent and hour, to be merged with what is there.
    pub places: Vec<(AgentId, UtcMillis, PlaceRow)>,
    /// New records.
    pub records: Vec<(String, RecordRow)>,
}

/// An entry read from the ledger, opened as far as a fold needs it.
#[derive(Debug)]
pub struct Opened {
    place: Place,
    received: UtcMillis,
    /// Milliseconds since boot when it was sent, by the agent's clock.
    boot_ms: Option<u64>,
    hash: [u8; 32],
    what: What,
}

#[derive(Debug)]
enum What {
    Batch(Box<Batch>),
    Fact(Box<Fact>),
}

/// An entry of the ledger cannot be folded: someone has to look.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// It is not an entry.
    #[error("ledger entry {index}")]
    Entry {
        /// Which.
        index: u64,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// It holds something that is not a batch; ingest would not have taken it.
    #[error("the batch in ledger entry {index}")]
    Batch {
        /// Which.
        index: u64,
        /// Why.
        #[source]
        source: weighbridge_wire::OpenError,
    },
}

/// Reads an entry. Signatures were checked before it was kept; `verify` checks them again.
pub fn open(place: Place, payload: &[u8]) -> Result<Opened, FoldError> {
    let index = place.index;
    let entry = Entry::decode(payload).map_err(|source| FoldError::Entry { index, source })?;
    let (boot_ms, hash, what) = match entry.body {
        Body::Fact(fact) => (None, [0; 32], What::Fact(Box::new(fact))),
        Body::Batch(received) => {
            let batch = Envelope::decode(&received.envelope)
                .and_then(|envelope| envelope.read())
                .map_err(|source| FoldError::Batch { index, source })?;
            let boot_ms = received.clocks.map(|clocks| clocks.boot_ms);
            (boot_ms, weighbridge_wire::hash(&received.envelope), What::Batch(Box::new(batch)))
        }
    };
    Ok(Opened { place, received: entry.received, boot_ms, hash, what })
}

impl Opened {
    /// Of an entry that was opened elsewhere: what [`open`] would make of it.
    pub(crate) fn of_batch(
        place: Place,
        received: UtcMillis,
        boot_ms: Option<u64>,
        hash: [u8; 32],
        batch: Batch,
    ) -> Self {
        Self { place, received, boot_ms, hash, what: What::Batch(Box::new(batch)) }
    }

    /// The same of a fact.
    pub(crate) fn of_fact(place: Place, received: UtcMillis, fact: Fact) -> Self {
        Self { place, received, boot_ms: None, hash: [0; 32], what: What::Fact(Box::new(fact)) }
    }

    /// Where it begins.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// How much is in it: bounds memory.
    pub(crate) fn records(&self) -> usize {
        match &self.what {
            What::Batch(batch) => {
                1 + batch.windows.len() + batch.gaps.len() + batch.holdings.len() + batch.inventory.len()
            }
            What::Fact(_) => 1,
        }
    }

    /// How many hours of accelerators it touches, at most: bounds the memory that folding it takes.
    pub fn touches(&self) -> usize {
        match &self.what {
            What::Batch(batch) => touched_hours(batch),
            What::Fact(_) => 0,
        }
    }

    /// Whose batch it is; `None` if it is a fact.
    pub fn agent(&self) -> Option<&AgentId> {
        match &self.what {
            What::Batch(batch) => Some(&batch.agent),
            What::Fact(_) => None,
        }
    }

    /// Whether it closes hours: what was marked before it is made anew before anything after it.
    pub(crate) fn closes(&self) -> bool {
        let What::Fact(fact) = &self.what else { return false };
        matches!(fact.as_ref(), Fact::Record { kind, body, .. } if closed::before(kind, body).is_some())
    }
}

/// The fold.
#[derive(Debug)]
pub struct Fold {
    estimator: Estimator,
    state: State,
    cursors: HashMap<AgentId, HashMap<EpochId, Cursor>>,
    hours: HashMap<HourKey, Hour>,
    /// Accelerators by the host that counts for them: a lease asks for those of one host.
    by_host: HashMap<Box<str>, BTreeSet<AcceleratorId>>,
    changed: Changed,
}

#[derive(Debug, Default)]
struct Changed {
    begins: Option<Place>,
    ends: Option<Place>,
    hours: HashSet<HourKey>,
    /// Whole hours to make anew. One word can mark years of thousands of accelerators: as spans that is little.
    refold: BTreeMap<AcceleratorId, Spans>,
    /// All that were marked, those that are made anew already included: they get no other name beside that.
    remade: BTreeMap<AcceleratorId, Spans>,
    relabels: Vec<Relabel>,
    /// Hours in them.
    relabelled: usize,
    accelerators: HashSet<AcceleratorId>,
    seen: HashSet<AgentId>,
    cursors: HashSet<(AgentId, EpochId)>,
    state: Vec<StateRow>,
    /// All mappings are one row, written out once a piece.
    mappings: bool,
    places: BTreeMap<(AgentId, UtcMillis, u64), PlaceRow>,
    records: Vec<(String, RecordRow)>,
}

/// What of an epoch is here, as [`CursorRow`] has it.
#[derive(Clone, Debug, Default)]
struct Cursor {
    numbers: Numbers,
    measured: Option<(UtcMillis, UtcMillis)>,
    received: Option<(UtcMillis, UtcMillis)>,
}

impl Fold {
    /// Goes on from stored state.
    pub fn new(estimator: Estimator, state: State, cursors: Vec<CursorRow>) -> Self {
        let mut known: HashMap<AgentId, HashMap<EpochId, Cursor>> = HashMap::new();
        for CursorRow { agent, epoch, numbers, measured, received } in cursors {
            known.entry(agent).or_default().insert(epoch, Cursor { numbers, measured, received });
        }
        let mut by_host: HashMap<Box<str>, BTreeSet<AcceleratorId>> = HashMap::new();
        for (id, accelerator) in &state.accelerators {
            by_host.entry(accelerator.host().into()).or_default().insert(id.clone());
        }
        let changed = Changed::default();
        let mut fold = Self { estimator, state, cursors: known, hours: HashMap::new(), by_host, changed };
        // Stored by a release that did not limit what agents say of themselves.
        fold.believe(None, false);
        fold
    }

    /// How windows become operations.
    pub fn estimator(&self) -> &Estimator {
        &self.estimator
    }

    /// What it knows apart from the sums.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Hours that these entries touch and that are not in memory: load them before [`Fold::apply`].
    pub fn needs(&self, entries: &[Opened]) -> Vec<HourKey> {
        let mut offsets: HashMap<&AgentId, Vec<i64>> = HashMap::new();
        for entry in entries {
            if let What::Fact(fact) = &entry.what
                && let Fact::ClockOffset { agent, minutes, .. } = fact.as_ref()
            {
                offsets.entry(agent).or_default().push(*minutes);
            }
        }
        let mut keys = BTreeSet::new();
        let mut need = |accelerator: &AcceleratorId, hour: UtcMillis| {
            let key = HourKey { accelerator: accelerator.clone(), hour };
            if !self.hours.contains_key(&key) {
                keys.insert(key);
            }
        };
        for entry in entries {
            let What::Batch(batch) = &entry.what else { continue };
            let mut minutes = vec![self.state.offset_minutes(&batch.agent, batch.boot, entry.place.index)];
            minutes.extend(offsets.get(&batch.agent).into_iter().flatten());
            let windows = batch.windows.iter().map(|window| (&window.accelerator, window.span));
            let gaps = batch.gaps.iter().map(|gap| (&gap.accelerator, gap.span));
            for (accelerator, span) in windows.chain(gaps) {
                for &minutes in &minutes {
                    for hour in hours(shifted(span, minutes)) {
                        need(accelerator, hour);
                    }
                }
            }
            // A word that a device is gone may be late: what was measured after it says since when it was back.
            for device in batch.inventory.iter().filter(|device| !device.present) {
                let id = &device.accelerator;
                let Some(accelerator) = self.state.accelerators.get(id) else { continue };
                for &minutes in &minutes {
                    let gone_at = corrected(device.at, minutes);
                    accelerator.presence.asks_for(gone_at).for_each(|hour| need(id, hour));
                }
            }
        }
        keys.into_iter().collect()
    }

    /// Takes in stored hours.
    pub fn load(&mut self, rows: Vec<HourRow>) {
        for row in rows {
            self.hours.entry(row.key).or_insert(row.hour);
        }
    }

    /// Applies one entry. The hours it [needs](Fold::needs) have been loaded.
    pub fn apply(&mut self, entry: Opened, next: Place) {
        let place = entry.place;
        self.changed.begins.get_or_insert(place);
        self.changed.ends = Some(next);
        match entry.what {
            What::Batch(batch) => self.batch(place, entry.received, entry.boot_ms, &entry.hash, *batch),
            What::Fact(fact) => self.fact(place, entry.received, *fact),
        }
    }

    fn fact(&mut self, place: Place, received: UtcMillis, fact: Fact) {
        match fact {
            Fact::Method { method, figures_sha256 } => {
                let before = self.state.method.replace((method, figures_sha256));
                if before.is_some() && before != self.state.method {
                    // Better figures re-estimate the past: all sums are of one method.
                    let all: Vec<(AcceleratorId, Span)> = self
                        .state
                        .accelerators
                        .iter()
                        .filter_map(|(id, a)| {
                            Span::new(a.first_seen, a.last_end).map(|span| (id.clone(), span))
                        })
                        .collect();
                    for (id, span) in all {
                        self.mark(&id, span);
                    }
                }
                self.changed.state.extend(self.state.method_row());
            }
            Fact::ClockOffset { agent, boot, minutes } => {
                self.state.offsets.entry((agent.clone(), boot)).or_default().push((place.index, minutes));
                self.changed.state.extend(self.state.offset_row(&agent, boot));
            }
            Fact::Agent(fact) => {
                let agent = fact.agent.clone();
                let host = self.state.host_of(&agent).map(str::to_owned);
                let moved = host.is_some_and(|host| host != fact.host);
                let believed = self.state.max_trust(&agent);
                let entries = self.state.agents.entry(agent.clone()).or_default();
                // The same key again is a correction of its dates.
                entries.retain(|entry| entry.public_key != fact.public_key);
                entries.push(fact);
                self.changed.state.extend(self.state.agent_row(&agent));
                if self.state.max_trust(&agent) != believed || moved {
                    self.believe(Some(&agent), moved);
                }
            }
            Fact::Lease(lease) => self.lease(lease),
            Fact::Job(job) => self.job(job),
            Fact::Mapping(mapping) => {
                self.state.mappings.push(mapping);
                self.changed.mappings = true;
            }
            Fact::Record { kind, key, body } => {
                if let Some(before) = closed::before(&kind, &body) {
                    self.state.closed_before = self.state.closed_before.max(Some(before));
                    self.state.closed_at = Some(place.index);
                    self.changed.state.extend(self.state.closed_row());
                }
                self.changed.records.push((kind, RecordRow { key, index: place.index, received, body }));
            }
        }
    }

    /// What is summed of the span is to be made anew.
    fn mark(&mut self, id: &AcceleratorId, span: Span) {
        if let Some(touched) = self.open_and_summed(id, span) {
            self.mark_hours(id, touched);
        }
    }

    /// All hours that the span touches are to be made anew.
    fn mark_hours(&mut self, id: &AcceleratorId, span: Span) {
        let Some(whole) = relabel::whole_hours(span) else { return };
        for marked in [&mut self.changed.refold, &mut self.changed.remade] {
            match marked.get_mut(id) {
                Some(marked) => marked.insert(whole),
                None => marked.entry(id.clone()).or_default().insert(whole),
            }
        }
    }

    fn batch(
        &mut self,
        place: Place,
        received: UtcMillis,
        boot_ms: Option<u64>,
        hash: &[u8; 32],
        batch: Batch,
    ) {
        let minutes = self.state.offset_minutes(&batch.agent, batch.boot, place.index);
        self.advance_cursors(received, &batch, hash, minutes);
        for device in &batch.inventory {
            self.device(&batch.agent, received, device, minutes);
        }
        for holding in &batch.holdings {
            // A lease file says what the operator agreed, whatever the clock of the host; the rest was seen by it.
            let Some(span) = holding_span(holding, minutes, received) else { continue };
            for id in &holding.accelerators {
                self.held(id, HeldKey::of(&batch.agent, holding, span.start()), span);
            }
        }
        let mut noted = None;
        if batch.windows.is_empty() && batch.gaps.is_empty() {
            self.note_place(&batch.agent, labelled(&batch), place);
        }
        for mut window in batch.windows {
            window.span = shifted(window.span, minutes);
            match hours::dated(window.span, received) {
                // What was measured was there, whatever an inventory says.
                None => self.known(&window.accelerator, &batch.agent, window.span).measured(window.span),
                // A clock that was never set makes no device older than we know it.
                Some(_) => self.known_at(&window.accelerator, &batch.agent, received),
            }
            self.note(&batch.agent, &mut noted, window.span, place);
            self.window(&batch.agent, received, window);
        }
        for mut gap in batch.gaps {
            gap.span = shifted(gap.span, minutes);
            match hours::dated(gap.span, received) {
                None => {
                    self.known(&gap.accelerator, &batch.agent, gap.span);
                }
                Some(_) => self.known_at(&gap.accelerator, &batch.agent, received),
            }
            self.note(&batch.agent, &mut noted, gap.span, place);
            self.gap(&batch.agent, &gap);
        }
        let before = self.state.seen.get(&batch.agent);
        let (source_state, version, unacknowledged) = match (&batch.status, before) {
            (Some(status), _) => (status.source_state.clone(), status.version.clone(), status.unacknowledged),
            (None, Some(seen)) => (seen.source_state.clone(), seen.version.clone(), seen.unacknowledged),
            (None, None) => Default::default(),
        };
        // No host is up for a century: anything else is no clock.
        let up =
            boot_ms.and_then(|millis| i64::try_from(millis).ok()).filter(|up| *up < 36_600 * UtcMillis::DAY);
        let began = up.map(|up| received.plus(-up));
        let same_boot = before.filter(|seen| seen.boot == batch.boot);
        let boot_began = same_boot.and_then(|seen| seen.boot_began).or(began);
        let jump = began.zip(boot_began).map_or(0, |(now, first)| now.since(first));
        let jumps = [same_boot.map_or(0, |seen| seen.boot_jumped_ms), jump];
        let seen = AgentSeen {
            boot_began,
            boot_jumped_ms: jumps.into_iter().max_by_key(|millis| millis.unsigned_abs()).unwrap_or(0),
            received,
            boot: batch.boot,
            epoch: batch.epoch,
            sequence: batch.sequence,
            source_state,
            version,
            unacknowledged,
        };
        self.state.seen.insert(batch.agent.clone(), seen);
        self.changed.seen.insert(batch.agent);
    }

    fn advance_cursors(&mut self, received: UtcMillis, batch: &Batch, hash: &[u8; 32], minutes: i64) {
        let epochs = match self.cursors.get_mut(&batch.agent) {
            Some(epochs) => epochs,
            None => self.cursors.entry(batch.agent.clone()).or_default(),
        };
        let cursor = epochs.entry(batch.epoch).or_default();
        cursor.numbers.take(batch.sequence, batch.prev_hash, *hash);
        let first = cursor.received.map_or(received, |(first, _)| first);
        cursor.received = Some((first, received));
        for window in &batch.windows {
            let span = shifted(window.span, minutes);
            let (start, end) = cursor.measured.unwrap_or((span.start(), span.end()));
            cursor.measured = Some((start.min(span.start()), end.max(span.end())));
        }
        self.changed.cursors.insert((batch.agent.clone(), batch.epoch));
        for &Loss { epoch, first, last, cause } in &batch.losses {
            epochs.entry(epoch).or_default().numbers.lose(first, last, cause);
            self.changed.cursors.insert((batch.agent.clone(), epoch));
        }
    }

    /// The same for one span of several: most are of the hour of the one before.
    fn note(&mut self, agent: &AgentId, noted: &mut Option<UtcMillis>, span: Span, place: Place) {
        let hour = span.start().hour();
        let within = span.end() <= hour.plus(UtcMillis::HOUR);
        if within && noted.replace(hour) == Some(hour) {
            return;
        }
        if !within {
            *noted = None;
        }
        self.note_place(agent, span, place);
    }

    fn note_place(&mut self, agent: &AgentId, span: Span, place: Place) {
        for hour in hours(span) {
            let row = self.changed.places.entry((agent.clone(), hour, place.segment)).or_insert(PlaceRow {
                segment: place.segment,
                first_index: place.index,
                first_offset: place.offset,
                last_index: place.index,
            });
            row.last_index = row.last_index.max(place.index);
        }
    }

    /// Hours to make anew, the earliest and not more than `most`: with them in memory, give their batches to
    /// [`Fold::refold`].
    pub fn to_refold(&self, most: usize) -> Vec<HourKey> {
        let marked = &self.changed.refold;
        let first = |spans: &Spans| spans.pairs().first().map(|(start, _)| UtcMillis(*start));
        let mut next: BinaryHeap<_> = marked
            .iter()
            .filter_map(|(id, spans)| Some(Reverse((first(spans)?, id, spans.pairs()))))
            .collect();
        let mut keys = Vec::new();
        while keys.len() < most
            && let Some(Reverse((hour, id, pairs))) = next.pop()
        {
            keys.push(HourKey { accelerator: id.clone(), hour });
            let after = hour.plus(UtcMillis::HOUR);
            match pairs {
                [(_, end), ..] if after.0 < *end => next.push(Reverse((after, id, pairs))),
                [_, rest @ ..] => {
                    next.extend(rest.first().map(|(start, _)| Reverse((UtcMillis(*start), id, rest))));
                }
                [] => {}
            }
        }
        keys
    }

    /// Whether there are hours to make anew.
    pub fn is_marked(&self) -> bool {
        !self.changed.refold.is_empty()
    }

    /// Gives these hours out of memory, to be written before the rest of what has changed.
    pub fn take_hours(&mut self, keys: &[HourKey]) -> Vec<HourRow> {
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            let hour = self.hours.remove(key);
            if self.changed.hours.remove(key)
                && let Some(hour) = hour
            {
                rows.push(HourRow { key: key.clone(), hour });
            }
        }
        rows
    }

    /// Whether the hour is in memory.
    pub fn holds(&self, key: &HourKey) -> bool {
        self.hours.contains_key(key)
    }

    /// Agents whose batches touch the hour.
    pub fn agents_of(&self, key: &HourKey) -> Vec<AgentId> {
        self.hours.get(key).map(|hour| hour.agents.iter().cloned().collect()).unwrap_or_default()
    }

    /// Places of batches that are applied but not yet written.
    pub fn pending_places(&self, agent: &AgentId, hour: UtcMillis) -> Vec<PlaceRow> {
        let range = (agent.clone(), hour, 0)..=(agent.clone(), hour, u64::MAX);
        self.changed.places.range(range).map(|(_, row)| *row).collect()
    }

    /// What has changed since the last call; `None` if nothing was applied.
    pub fn take(&mut self) -> Option<Folded> {
        let changed = std::mem::take(&mut self.changed);
        let (begins, ends) = changed.begins.zip(changed.ends)?;
        let mut state = changed.state;
        state.extend(sorted(changed.accelerators).iter().filter_map(|id| self.state.accelerator_row(id)));
        state.extend(sorted(changed.seen).iter().filter_map(|agent| self.state.seen_row(agent)));
        state.extend(changed.mappings.then(|| self.state.mapping_row()));
        let hours = sorted(changed.hours)
            .into_iter()
            .filter_map(|key| {
                self.hours.get(&key).map(|hour| HourRow { key: key.clone(), hour: hour.clone() })
            })
            .collect();
        let cursors = sorted(changed.cursors)
            .into_iter()
            .filter_map(|(agent, epoch)| {
                let Cursor { numbers, measured, received } = self.cursors.get(&agent)?.get(&epoch)?.clone();
                Some(CursorRow { agent, epoch, numbers, measured, received })
            })
            .collect();
        // A part that changed twice is written once, as it is now.
        let state: BTreeMap<_, _> = state.into_iter().map(|row| ((row.kind, row.key.clone()), row)).collect();
        let remade = changed.remade;
        // An hour that is made anew is written as it is in the end, perhaps it was already.
        let relabels =
            changed.relabels.into_iter().flat_map(|relabel| match remade.get(&relabel.accelerator) {
                None => vec![relabel],
                Some(remade) => {
                    let rest = remade.missing(relabel.hours).into_iter();
                    rest.map(|hours| Relabel { hours, ..relabel.clone() }).collect()
                }
            });
        let relabels = relabels.collect();
        self.forget_old_hours();
        Some(Folded {
            begins,
            ends,
            relabels,
            hours,
            state: state.into_values().collect(),
            cursors,
            places: changed.places.into_iter().map(|((agent, hour, _), row)| (agent, hour, row)).collect(),
            records: changed.records,
        })
    }

    /// Keeps memory bounded: hours that nothing touches come back from SQL when something does.
    fn forget_old_hours(&mut self) {
        const KEPT_HOURS_PER_ACCELERATOR: usize = 3;
        let most = (self.state.accelerators.len() * KEPT_HOURS_PER_ACCELERATOR).max(10_000);
        if self.hours.len() <= most {
            return;
        }
        let newest = self.hours.keys().map(|key| key.hour).max().unwrap_or_default();
        self.hours.retain(|key, _| newest.since(key.hour) <= UtcMillis::HOUR);
    }
}

/// Rows are written in order, whatever the order in which they changed.
fn sorted<T: Ord + Hash>(changed: HashSet<T>) -> Vec<T> {
    let mut changed: Vec<T> = changed.into_iter().collect();
    changed.sort_unstable();
    changed
}

/// The moment with its clock corrected by whole minutes, within two centuries: further off is no clock.
pub(crate) fn corrected(moment: UtcMillis, minutes: i64) -> UtcMillis {
    const MOST: i64 = 200 * 366 * 24 * 60;
    moment.plus(minutes.clamp(-MOST, MOST) * UtcMillis::MINUTE)
}

/// The span with its clock corrected.
fn shifted(span: Span, minutes: i64) -> Span {
    Span::new(corrected(span.start(), minutes), corrected(span.end(), minutes)).unwrap_or(span)
}

/// Starts of the UTC hours that the span touches.
pub(crate) fn hours(span: Span) -> impl Iterator<Item = UtcMillis> {
    let last = span.end().plus(-1).hour();
    std::iter::successors(Some(span.start().hour()), |hour| Some(hour.plus(UtcMillis::HOUR)))
        .take_while(move |hour| *hour <= last)
}

/// Where a batch without windows and gaps is looked for: by what else in it has a time, as it says it.
fn labelled(batch: &Batch) -> Span {
    let status = batch.status.iter().map(|status| status.at);
    let moments = status.chain(batch.inventory.iter().map(|device| device.at));
    let moment =
        moments.chain(batch.holdings.iter().map(|holding| holding.span.start())).next().unwrap_or_default();
    Span::new(moment, moment.plus(1)).expect("a millisecond is not empty")
}

/// The hours under which places of a batch are noted, with its clock corrected in any of these ways.
pub fn hours_of(batch: &Batch, minutes: &[i64]) -> BTreeSet<UtcMillis> {
    let spans = batch.windows.iter().map(|window| window.span).chain(batch.gaps.iter().map(|gap| gap.span));
    let found: BTreeSet<UtcMillis> = spans
        .flat_map(|span| minutes.iter().map(move |minutes| shifted(span, *minutes).start().hour()))
        .collect();
    if found.is_empty() { hours(labelled(batch)).collect() } else { found }
}
