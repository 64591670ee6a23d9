//! What a fold must remember from entry to entry, apart from the sums: devices, agents, holdings, clocks.
//!
//! All of it is derived from the ledger. Each part is also a [`StateRow`], which is how it gets into SQL and back.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use weighbridge_meter::{
    AcceleratorId, AcceleratorTable, AgentId, AttemptId, BootId, Condition, EpochId, Evidence, Hardware,
    Holding, Model, Principal, Source, Span, Tier, Trust, UtcMillis,
};

use crate::{
    StoreError,
    entry::{AgentFact, JobFact, LeaseFact, MappingFact, Selector, job_of},
    holders,
    mappings::Mappings,
    numbers::Numbers,
    presence::Presence,
    words::Words,
};

/// The state.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Every accelerator ever reported.
    pub accelerators: BTreeMap<AcceleratorId, Accelerator>,
    /// Every agent that ever sent.
    pub seen: BTreeMap<AgentId, AgentSeen>,
    /// Agents that may send, all their entries.
    pub agents: BTreeMap<AgentId, Vec<AgentFact>>,
    /// Leases of each host, by name and selector.
    pub leases: BTreeMap<Box<str>, BTreeMap<(AttemptId, Selector), LeaseFact>>,
    /// Starts of jobs as their schedulers keep them, by what their attempts begin with and when they were submitted.
    pub jobs: HashMap<Box<str>, BTreeMap<UtcMillis, JobFact>>,
    /// Words of agents that a scheduler's job held an accelerator, by what its attempts begin with.
    pub(crate) of_jobs: HashMap<Box<str>, BTreeMap<AcceleratorId, BTreeSet<HeldKey>>>,
    /// What agents said about holders, per accelerator.
    pub held: HashMap<AcceleratorId, Words>,
    /// Whose principals are, in order of the ledger: a later one wins where they overlap.
    pub mappings: Mappings,
    /// Minutes to add to the clock of a boot, each from a ledger entry on.
    pub offsets: BTreeMap<(AgentId, BootId), Vec<(u64, i64)>>,
    /// Method and figures of estimates.
    pub method: Option<(String, String)>,
    /// Hours before this one are [closed](crate::closed).
    pub closed_before: Option<UtcMillis>,
    /// The last ledger entry that closed any.
    pub closed_at: Option<u64>,
}

/// An agent's word on who held an accelerator; it maps to the end of the span.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HeldKey {
    /// Who.
    pub principal: Principal,
    /// In which attempt.
    pub attempt: AttemptId,
    /// How the agent knows.
    pub evidence: Evidence,
    /// Whose word it is; `None` in a summary that was made before this was kept: it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Since when.
    pub start: UtcMillis,
}

impl HeldKey {
    /// What a holding of an agent says, from this moment on.
    pub(crate) fn of(agent: &AgentId, holding: &Holding, start: UtcMillis) -> Self {
        let Holding { principal, attempt, evidence, .. } = holding;
        let (principal, attempt) = (principal.clone(), attempt.clone());
        Self { principal, attempt, evidence: *evidence, agent: Some(agent.clone()), start }
    }

    /// Whether both say the same of the same, be it of another time.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.principal, &self.attempt, self.evidence, &self.agent)
            == (&other.principal, &other.attempt, other.evidence, &other.agent)
    }
}

/// One accelerator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerator {
    /// Since when we know of it.
    pub first_seen: UtcMillis,
    /// End of the last window or gap that was reported.
    pub last_end: UtcMillis,
    /// When it was there.
    pub presence: Presence,
    /// What each agent said it is, when it first said so: later words do not change past estimates.
    pub reports: BTreeMap<AgentId, Report>,
}

/// What an agent says a device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// On which host.
    pub host: String,
    /// As the driver prints it.
    pub name: String,
    /// PCI vendor and device.
    pub pci_device: String,
    /// PCI address.
    pub pci_address: String,
    /// Where readings came from at first.
    pub source: Source,
    /// How good they were then: with the trust it says whose word on the device counts.
    pub tier: Tier,
    /// Who could have changed them: what the agent says, as far as it is believed.
    pub trust: Trust,
    /// What the agent says.
    #[serde(default)]
    pub said_trust: Option<Trust>,
    /// The device that it is a part of.
    #[serde(default)]
    pub parent: Option<AcceleratorId>,
    /// Its own units since when, where that is not all its model has: a part can be made anew with another size
    /// under the same name.
    #[serde(default)]
    pub sizes: BTreeMap<UtcMillis, Option<u32>>,
    /// Highest SM clock that its driver allows.
    #[serde(default)]
    pub max_sm_clock_mhz: Option<u32>,
    /// The last word on what changes no estimate of the past.
    pub latest: Latest,
}

/// How a device is read, by the last word on it; of two words of one moment the greater in this order, so that
/// it does not matter which came first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Latest {
    /// Since when.
    pub at: UtcMillis,
    /// Where readings come from.
    pub source: Source,
    /// How good they are.
    pub tier: Tier,
    /// Milliseconds between its readings, where they come less often than the agent looks; 0 if not.
    pub sample_ms: u32,
    /// What makes its readings worse than they could be.
    pub conditions: Vec<Condition>,
    /// Driver version.
    pub driver: String,
}

impl Report {
    /// Of a device that was measured before any inventory named it.
    pub(crate) fn unknown(host: String, at: UtcMillis) -> Self {
        Self {
            host,
            name: String::new(),
            pci_device: String::new(),
            pci_address: String::new(),
            source: Source::Allocation,
            tier: Tier::E,
            trust: Trust::Guest,
            said_trust: None,
            parent: None,
            sizes: BTreeMap::new(),
            max_sm_clock_mhz: None,
            latest: Latest {
                at,
                source: Source::Allocation,
                tier: Tier::E,
                sample_ms: 0,
                conditions: Vec::new(),
                driver: String::new(),
            },
        }
    }

    /// Its own units at that moment, `None` for all that its model has.
    pub fn units(&self, at: UtcMillis) -> Option<u32> {
        let known = self.sizes.range(..=at).next_back().or_else(|| self.sizes.first_key_value());
        known.and_then(|(_, units)| *units)
    }

    /// Takes in a word on its size; of two words of one moment the larger. True if that is news.
    pub(crate) fn resize(&mut self, at: UtcMillis, units: Option<u32>) -> bool {
        if units.is_none() && self.parent.is_none() && self.sizes.is_empty() {
            return false;
        }
        let before = self.units(at);
        let size = self.sizes.entry(at).or_insert(units);
        *size = (*size).max(units);
        self.units(at) != before
    }

    /// Whether it says nothing about the device: the first report that does takes its place.
    pub(crate) fn is_unknown(&self) -> bool {
        self.name.is_empty()
            && self.pci_device.is_empty()
            && (self.source, self.tier, self.trust) == (Source::Allocation, Tier::E, Trust::Guest)
    }
}

impl Accelerator {
    /// The word that counts: by trust, then tier, then agent id; one that says nothing comes last.
    pub fn report(&self) -> Option<&Report> {
        self.reports
            .iter()
            .min_by_key(|(agent, report)| (report.is_unknown(), report.trust, report.tier, *agent))
            .map(|(_, report)| report)
    }

    /// What estimates of that moment depend on.
    pub fn hardware<'a>(&self, table: &'a AcceleratorTable, at: UtcMillis) -> Hardware<'a> {
        let report = self.report();
        Hardware {
            model: self.model(table),
            units: report.and_then(|report| report.units(at)),
            part: report.is_some_and(|report| report.parent.is_some()),
            max_clock_mhz: report.and_then(|report| report.max_sm_clock_mhz),
            declared: None,
        }
    }

    /// Its row in the table.
    pub fn model<'a>(&self, table: &'a AcceleratorTable) -> Option<&'a Model> {
        let report = self.report()?;
        table.find(Some(&report.pci_device), &report.name)
    }

    /// The host it is in; empty if nobody said.
    pub fn host(&self) -> &str {
        self.report().map_or("", |report| &report.host)
    }

    /// The spans in which it was present, up to `as_of`, in order.
    pub fn present(&self, as_of: UtcMillis) -> Vec<Span> {
        let known = Span::new(self.first_seen, as_of);
        known.map(|known| self.presence.within(known)).unwrap_or_default()
    }

    /// Since when it is away, if it is.
    pub fn removed_at(&self) -> Option<UtcMillis> {
        self.presence.away_since()
    }

    /// The device that it is a part of.
    pub fn parent(&self) -> Option<&AcceleratorId> {
        self.report()?.parent.as_ref()
    }
}

/// How an agent was when it last sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSeen {
    /// When we last received something.
    pub received: UtcMillis,
    /// In which boot its host was.
    pub boot: BootId,
    /// In which epoch it is.
    pub epoch: EpochId,
    /// Its last sequence number.
    pub sequence: u64,
    /// `ok`, or the named state of its source.
    pub source_state: String,
    /// Program version.
    pub version: String,
    /// Batches it had not had acknowledged when it wrote.
    pub unacknowledged: u64,
    /// When this boot began, by its boot clock and ours when it first sent.
    #[serde(default)]
    pub boot_began: Option<UtcMillis>,
    /// By how much that was later at most when it sent again, earlier if negative: a boot begins once, so that one
    /// of the clocks jumped.
    #[serde(default)]
    pub boot_jumped_ms: i64,
}

/// What of an epoch of an agent is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorRow {
    /// Whose.
    pub agent: AgentId,
    /// Which epoch.
    pub epoch: EpochId,
    /// Which of its batches are here, which it gave up.
    pub numbers: Numbers,
    /// From the start of its first window to the end of its last, by corrected clocks; `None` without windows.
    pub measured: Option<(UtcMillis, UtcMillis)>,
    /// When its first and its last batch were received; `None` where another epoch only spoke of it.
    pub received: Option<(UtcMillis, UtcMillis)>,
}

/// Where batches of an agent that touch an hour lie, within one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceRow {
    /// Which segment.
    pub segment: u64,
    /// First entry.
    pub first_index: u64,
    /// Its offset.
    pub first_offset: u64,
    /// Last entry.
    pub last_index: u64,
}

/// One part of the state, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRow {
    /// Which part.
    pub kind: &'static str,
    /// Its key within the part.
    pub key: String,
    /// JSON.
    pub body: String,
}

/// The parts; also their names in SQL.
pub mod kind {
    /// [`super::State::accelerators`].
    pub const ACCELERATOR: &str = "accelerator";
    /// [`super::State::seen`].
    pub const SEEN: &str = "seen";
    /// [`super::State::agents`].
    pub const AGENT: &str = "agent";
    /// [`super::State::leases`].
    pub const LEASE: &str = "lease";
    /// [`super::State::jobs`].
    pub const JOB: &str = "job";
    /// [`super::State::held`].
    pub const HELD: &str = "held";
    /// [`super::State::mappings`].
    pub const MAPPING: &str = "mapping";
    /// [`super::State::offsets`].
    pub const OFFSET: &str = "offset";
    /// [`super::State::method`].
    pub const METHOD: &str = "method";
    /// [`super::State::closed_before`].
    pub const CLOSED: &str = "closed";
    /// All of them.
    pub const ALL: [&str; 10] = [ACCELERATOR, SEEN, AGENT, LEASE, JOB, HELD, MAPPING, OFFSET, METHOD, CLOSED];
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data with string keys")
}

impl State {
    /// Takes in one row, new or changed.
    pub fn absorb(&mut self, row: &StateRow) -> Result<(), StoreError> {
        let StateRow { kind, key, body } = row;
        fn read<'a, T: Deserialize<'a>>(body: &'a str) -> Result<T, StoreError> {
            serde_json::from_str(body).map_err(|_| StoreError::Nonsense {
                table: "state",
                column: "body",
                value: body.to_owned(),
            })
        }
        match *kind {
            kind::ACCELERATOR => {
                let (id, accelerator) = read::<(AcceleratorId, Accelerator)>(body)?;
                self.accelerators.insert(id, accelerator);
            }
            kind::SEEN => {
                let (agent, seen) = read::<(AgentId, AgentSeen)>(body)?;
                self.seen.insert(agent, seen);
            }
            kind::AGENT => {
                let agents: Vec<AgentFact> = read(body)?;
                if let Some(first) = agents.first() {
                    self.agents.insert(first.agent.clone(), agents);
                }
            }
            kind::LEASE => {
                let lease: LeaseFact = read(body)?;
                self.lease(lease);
            }
            kind::HELD => {
                let (id, held, end) = read::<(AcceleratorId, HeldKey, UtcMillis)>(body)?;
                self.hold(id, held, end);
            }
            kind::JOB => self.job(read(body)?),
            kind::MAPPING => self.mappings = read::<Vec<MappingFact>>(body)?.into(),
            kind::OFFSET => {
                let (agent, boot, offsets) = read::<(AgentId, BootId, Vec<(u64, i64)>)>(body)?;
                self.offsets.insert((agent, boot), offsets);
            }
            kind::METHOD => self.method = Some(read(body)?),
            // A release before this one did not say which entry it was.
            kind::CLOSED => match read::<(UtcMillis, u64)>(body) {
                Ok((before, at)) => (self.closed_before, self.closed_at) = (Some(before), Some(at)),
                Err(_) => self.closed_before = Some(read(body)?),
            },
            _ => {
                return Err(StoreError::Nonsense {
                    table: "state",
                    column: "kind",
                    value: format!("{kind}/{key}"),
                });
            }
        }
        Ok(())
    }

    /// Records what an agent said.
    pub(crate) fn hold(&mut self, id: AcceleratorId, held: HeldKey, end: UtcMillis) {
        if let Some(job) = job_of(&held.attempt) {
            let of_job = match self.of_jobs.get_mut(job) {
                Some(of_job) => of_job,
                None => self.of_jobs.entry(job.into()).or_default(),
            };
            of_job.entry(id.clone()).or_default().insert(held.clone());
        }
        let reach = holders::recorded_end(self, &held, end).unwrap_or(end);
        self.held.entry(id).or_default().say(held, end, reach);
    }

    /// Records a start of a job.
    pub fn job(&mut self, job: JobFact) {
        let mut reaches = Vec::new();
        let before = self.jobs.get(job.job.as_str()).and_then(|starts| starts.get(&job.submitted)).cloned();
        for name in before.iter().flat_map(JobFact::names) {
            self.jobs.get_mut(name).map(|starts| starts.remove(&job.submitted));
        }
        for name in job.names() {
            self.jobs.entry(name.into()).or_default().insert(job.submitted, job.clone());
        }
        // What it says of when a start ended is as far as words on it reach.
        let names = job.names().chain(before.iter().flat_map(JobFact::names));
        for (id, words) in names.filter_map(|name| self.of_jobs.get(name)).flatten() {
            for word in words {
                let Some(end) = self.held.get(id).and_then(|held| held.get(word)) else { continue };
                let reach = holders::recorded_end(self, word, end).unwrap_or(end);
                reaches.push((id.clone(), word.clone(), end, reach));
            }
        }
        for (id, word, end, reach) in reaches {
            self.held.entry(id).or_default().say(word, end, reach);
        }
    }

    /// Records a lease in the place of one with its key.
    pub fn lease(&mut self, lease: LeaseFact) {
        let of_host = self.leases.entry(lease.host.as_str().into()).or_default();
        of_host.insert((lease.lease.clone(), lease.selector.clone()), lease);
    }

    /// The leases whose word ends with this one: those of its key and of other counts.
    pub(crate) fn replaced_by(&self, lease: &LeaseFact) -> Vec<LeaseFact> {
        let of_host = self.leases.get(lease.host.as_str()).into_iter().flat_map(BTreeMap::values);
        let replaced = |other: &&LeaseFact| {
            other.lease == lease.lease && (other.selector == lease.selector || is_other_count(lease, other))
        };
        of_host.filter(replaced).cloned().collect()
    }

    /// A lease of another count of the same kind on the same host replaces the count before:
    /// withdraws that one and gives it back as it was.
    pub(crate) fn withdraw_other_counts(&mut self, lease: &LeaseFact) -> Vec<LeaseFact> {
        let mut withdrawn = Vec::new();
        for other in self.leases.get_mut(lease.host.as_str()).into_iter().flat_map(BTreeMap::values_mut) {
            if is_other_count(lease, other) {
                withdrawn.push(other.clone());
                other.end = other.start;
            }
        }
        withdrawn.retain(|lease| lease.span().is_some());
        withdrawn
    }

    /// Minutes that are fixed for the clock of a boot now, if any are.
    pub fn fixed_minutes(&self, agent: &AgentId, boot: BootId) -> Option<i64> {
        self.offsets.get(&(agent.clone(), boot))?.last().map(|(_, minutes)| *minutes)
    }

    /// Minutes to add to the wall times of a batch that is ledger entry `index`.
    pub fn offset_minutes(&self, agent: &AgentId, boot: BootId, index: u64) -> i64 {
        let offsets = self.offsets.get(&(agent.clone(), boot));
        offsets
            .and_then(|list| list.iter().rev().find(|(from, _)| *from < index))
            .map_or(0, |(_, minutes)| *minutes)
    }

    /// The host for which an agent is enrolled, by the last word on it in the ledger.
    pub fn host_of(&self, agent: &AgentId) -> Option<&str> {
        self.agents.get(agent)?.last().map(|entry| entry.host.as_str())
    }

    /// How far an agent is believed at most: by the last word on it in the ledger.
    pub fn max_trust(&self, agent: &AgentId) -> Trust {
        max_trust(self.agents.get(agent))
    }

    /// All corrections of the clock of a boot so far, that there was none included.
    pub fn all_offset_minutes(&self, agent: &AgentId, boot: BootId) -> Vec<i64> {
        let offsets = self.offsets.get(&(agent.clone(), boot)).into_iter().flatten();
        std::iter::once(0).chain(offsets.map(|(_, minutes)| *minutes)).collect()
    }

    /// Whose a principal was at a moment.
    pub fn customer(&self, principal: &Principal, at: UtcMillis) -> Option<&str> {
        self.mappings.customer(principal, at)
    }

    pub(crate) fn accelerator_row(&self, id: &AcceleratorId) -> Option<StateRow> {
        let accelerator = self.accelerators.get(id)?;
        Some(StateRow { kind: kind::ACCELERATOR, key: id.to_string(), body: json(&(id, accelerator)) })
    }

    pub(crate) fn seen_row(&self, agent: &AgentId) -> Option<StateRow> {
        let seen = self.seen.get(agent)?;
        Some(StateRow { kind: kind::SEEN, key: agent.to_string(), body: json(&(agent, seen)) })
    }

    pub(crate) fn agent_row(&self, agent: &AgentId) -> Option<StateRow> {
        let agents = self.agents.get(agent)?;
        Some(StateRow { kind: kind::AGENT, key: agent.to_string(), body: json(agents) })
    }

    pub(crate) fn offset_row(&self, agent: &AgentId, boot: BootId) -> Option<StateRow> {
        let offsets = self.offsets.get(&(agent.clone(), boot))?;
        Some(StateRow {
            kind: kind::OFFSET,
            key: format!("{agent} {boot}"),
            body: json(&(agent, boot, offsets)),
        })
    }

    pub(crate) fn mapping_row(&self) -> StateRow {
        StateRow { kind: kind::MAPPING, key: String::new(), body: json(&self.mappings.iter().as_slice()) }
    }

    pub(crate) fn closed_row(&self) -> Option<StateRow> {
        let body = json(&(self.closed_before?, self.closed_at?));
        Some(StateRow { kind: kind::CLOSED, key: String::new(), body })
    }

    pub(crate) fn method_row(&self) -> Option<StateRow> {
        Some(StateRow { kind: kind::METHOD, key: String::new(), body: json(self.method.as_ref()?) })
    }
}

/// Whether both are one lease of the same kind on the same host, and count differently.
fn is_other_count(lease: &LeaseFact, other: &LeaseFact) -> bool {
    let kind = |selector: &Selector| match selector {
        Selector::Count { pci_device, .. } => Some(pci_device.clone()),
        Selector::All | Selector::Accelerator(_) => None,
    };
    let of = kind(&lease.selector);
    of.is_some()
        && of == kind(&other.selector)
        && other.lease == lease.lease
        && other.selector != lease.selector
}

/// Of what the ledger says of an agent, the last word counts.
pub(crate) fn max_trust(entries: Option<&Vec<AgentFact>>) -> Trust {
    entries.and_then(|entries| entries.last()).map_or(Trust::Host, |entry| entry.max_trust)
}

pub(crate) fn lease_row(lease: &LeaseFact) -> StateRow {
    let key = format!("{} {} {}", lease.host, lease.lease, json(&lease.selector));
    StateRow { kind: kind::LEASE, key, body: json(lease) }
}

pub(crate) fn job_row(job: &JobFact) -> StateRow {
    StateRow { kind: kind::JOB, key: format!("{} {}", job.job, job.submitted.0), body: json(job) }
}

pub(crate) fn held_row(id: &AcceleratorId, held: &HeldKey, end: UtcMillis) -> StateRow {
    let HeldKey { principal, attempt, evidence, agent, start } = held;
    let agent = agent.as_ref().map(|agent| format!(" {agent}")).unwrap_or_default();
    let key = format!("{id} {principal} {attempt} {evidence}{agent} {}", start.0);
    StateRow { kind: kind::HELD, key, body: json(&(id, held, end)) }
}
