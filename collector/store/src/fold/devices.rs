//! What agents say of devices and of who holds them, taken into the state of the fold.

use std::collections::BTreeMap;

use weighbridge_meter::{AcceleratorId, AgentId, Evidence, Span, Trust, UtcMillis};
use weighbridge_wire::DeviceRecord;

use super::{Fold, corrected, hours::dated, relabel};
use crate::{
    holders,
    hour::HourKey,
    presence::Presence,
    state::{Accelerator, HeldKey, Latest, Report, held_row, max_trust},
};

/// What an agent says of itself, as far as it is believed. Better trust comes first in the order.
fn capped(said: Trust, most: Trust) -> Trust {
    said.max(most)
}

impl Fold {
    pub(super) fn device(
        &mut self,
        agent: &AgentId,
        received: UtcMillis,
        device: &DeviceRecord,
        minutes: i64,
    ) {
        let most = self.state.max_trust(agent);
        let at = corrected(device.at, minutes);
        let told = Span::new(at, at.plus(1)).and_then(|moment| dated(moment, received));
        // What a clock that was never set says of when is not believed, what is said is.
        let at = if told.is_some() { received } else { at };
        let id = &device.accelerator;
        let accelerator = self.state.accelerators.entry(id.clone()).or_insert_with(|| Accelerator {
            first_seen: at,
            last_end: at,
            presence: Presence::default(),
            reports: BTreeMap::new(),
        });
        accelerator.first_seen = accelerator.first_seen.min(at);
        if device.present {
            accelerator.presence.here(at);
        } else {
            let hours = &self.hours;
            accelerator.presence.gone(at, |hour| {
                hours.get(&HourKey { accelerator: id.clone(), hour }).map(|hour| &hour.covered)
            });
        }
        self.changed.accelerators.insert(id.clone());
        let latest = Latest {
            at,
            source: device.source,
            tier: device.tier,
            sample_ms: device.sample_ms,
            conditions: device.conditions.clone(),
            driver: device.driver.clone(),
        };
        if let Some(report) = accelerator.reports.get_mut(agent).filter(|report| !report.is_unknown()) {
            if latest > report.latest {
                report.latest = latest;
            }
            if report.resize(at, device.units)
                && let Some(since) = Span::new(at, accelerator.last_end)
            {
                self.mark(id, since);
            }
            return;
        }
        let before = accelerator.report().cloned();
        let mut report = Report {
            host: device.host.clone(),
            name: device.name.clone(),
            pci_device: device.pci_device.clone(),
            pci_address: device.pci_address.clone(),
            source: device.source,
            tier: device.tier,
            trust: capped(device.trust, most),
            said_trust: Some(device.trust),
            parent: device.parent.clone(),
            sizes: BTreeMap::new(),
            max_sm_clock_mhz: device.max_sm_clock_mhz,
            latest,
        };
        report.resize(at, device.units);
        accelerator.reports.insert(agent.clone(), report);
        let now = accelerator.report();
        let what = |report: Option<&Report>| {
            report.map(|report| {
                let name = (report.host.clone(), report.name.clone(), report.pci_device.clone());
                (name, report.sizes.clone(), report.max_sm_clock_mhz)
            })
        };
        let other_device = what(before.as_ref()) != what(now);
        if other_device {
            let host = |report: Option<&Report>| report.map_or("", |report| &report.host).into();
            let (before, now): (Box<str>, Box<str>) = (host(before.as_ref()), host(now));
            if let Some(of_host) = self.by_host.get_mut(&before) {
                of_host.remove(id);
            }
            self.by_host.entry(now).or_default().insert(id.clone());
        }
        // What it is decides the estimates, whom the agent is trusted before decides which window counts.
        let (first, last) = (accelerator.first_seen, accelerator.last_end);
        // And whose word on its holders counts.
        let is_held = self.state.held.contains_key(id);
        if (other_device || is_held || self.state.seen.contains_key(agent))
            && let Some(summed) = Span::new(first, last)
        {
            self.mark(id, summed);
        }
    }

    /// How far agents are believed has changed, of one or perhaps of all: their words count as far as they are
    /// believed now. `moved`: it is also on another host than it was.
    pub(super) fn believe(&mut self, whose: Option<&AgentId>, moved: bool) {
        let agents = &self.state.agents;
        let mut touched = Vec::new();
        for (id, accelerator) in &mut self.state.accelerators {
            let host = accelerator.host().to_owned();
            let mut changed = false;
            for (agent, report) in &mut accelerator.reports {
                if report.is_unknown() || whose.is_some_and(|one| one != agent) {
                    continue;
                }
                // What was stored before this was kept says what the agent said.
                let said = *report.said_trust.get_or_insert(report.trust);
                let trust = capped(said, max_trust(agents.get(agent)));
                changed |= moved || trust != report.trust;
                report.trust = trust;
            }
            if changed {
                touched.push((id.clone(), host, Span::new(accelerator.first_seen, accelerator.last_end)));
            }
        }
        for (id, before, summed) in touched {
            let now = self.state.accelerators.get(&id).map_or("", Accelerator::host).to_owned();
            if now != before {
                if let Some(of_host) = self.by_host.get_mut(before.as_str()) {
                    of_host.remove(&id);
                }
                self.by_host.entry(now.into()).or_default().insert(id.clone());
            }
            self.changed.accelerators.insert(id.clone());
            if let Some(summed) = summed {
                self.mark(&id, summed);
            }
        }
    }

    /// An accelerator that no inventory announced is still one: nothing measured may fall away.
    pub(super) fn known(&mut self, id: &AcceleratorId, agent: &AgentId, span: Span) -> &mut Presence {
        let Self { state, by_host, changed, .. } = self;
        let accelerator = state.accelerators.entry(id.clone()).or_insert_with(|| {
            let host = state.agents.get(agent).and_then(|entries| entries.last());
            let host = host.map(|entry| entry.host.clone()).unwrap_or_default();
            by_host.entry(host.as_str().into()).or_default().insert(id.clone());
            Accelerator {
                first_seen: span.start(),
                last_end: span.start(),
                presence: Presence::default(),
                reports: BTreeMap::from([(agent.clone(), Report::unknown(host, span.start()))]),
            }
        });
        accelerator.last_end = accelerator.last_end.max(span.end());
        accelerator.first_seen = accelerator.first_seen.min(span.start());
        changed.accelerators.insert(id.clone());
        &mut accelerator.presence
    }

    /// The same for one that was measured nobody knows when: it is there since now, if it was not known before.
    pub(super) fn known_at(&mut self, id: &AcceleratorId, agent: &AgentId, received: UtcMillis) {
        if !self.state.accelerators.contains_key(id)
            && let Some(moment) = Span::new(received, received.plus(1))
        {
            self.known(id, agent, moment);
        }
    }

    pub(super) fn held(&mut self, id: &AcceleratorId, key: HeldKey, span: Span) {
        let replaced =
            if key.evidence == Evidence::LeaseFile { self.replaced(id, &key, span) } else { Vec::new() };
        let held = self.state.held.get(id);
        // A confirmation that goes on where the last one ended, or overlaps it, is the same holding.
        let same = held
            .and_then(|held| held.up_to(&key))
            .filter(|(other, end)| replaced.is_empty() && other.is_same(&key) && span.start() <= *end);
        let (key, end) = match same {
            Some((other, end)) => (other.clone(), end.max(span.end())),
            None => (key, span.end()),
        };
        let still = replaced.iter().all(|(other, _)| *other != key);
        let known = held.and_then(|held| held.get(&key)).filter(|_| still);
        // A record of the job may say that it went on after this.
        let reach = holders::recorded_end(&self.state, &key, end).unwrap_or(end);
        let new = Span::new(known.unwrap_or(key.start), reach.max(end));
        let spans = replaced.iter().filter_map(|(other, end)| Span::new(other.start, *end)).chain(new);
        let touched = spans.clone().reduce(relabel::hull).and_then(|hull| self.open_and_summed(id, hull));
        // Who held it is asked of longer spans only: a word on minutes comes every minute.
        let touched = match touched {
            Some(touched) if relabel::inner_hours(touched).is_none() => {
                spans.for_each(|span| self.mark(id, span));
                None
            }
            touched => touched,
        };
        let touched = touched.into_iter().map(|touched| (id.clone(), touched)).collect();
        self.reattribute(touched, |fold| {
            for (other, _) in replaced {
                fold.changed.state.push(held_row(id, &other, other.start));
                // An empty span stays as a mark, so that the row in SQL is overwritten too.
                let start = other.start;
                fold.state.hold(id.clone(), other, start);
            }
            fold.changed.state.push(held_row(id, &key, end));
            fold.state.hold(id.clone(), key, end);
        });
    }

    /// A lease says its whole span each time: what the same lease said before no longer holds, be it that an agent
    /// said it which was there before on the same host.
    fn replaced(&self, id: &AcceleratorId, key: &HeldKey, span: Span) -> Vec<(HeldKey, UtcMillis)> {
        let host = |agent: &Option<AgentId>| agent.as_ref().and_then(|agent| self.state.host_of(agent));
        let own = host(&key.agent);
        let same_host = |other: &HeldKey| {
            other.agent == key.agent || other.agent.is_none() || own.is_some() && host(&other.agent) == own
        };
        let same = |other: &HeldKey, end: UtcMillis| {
            same_host(other) && (other.start, end) != (span.start(), span.end()) && other.start < end
        };
        let held = self.state.held.get(id).into_iter().flat_map(|words| words.of(key));
        held.filter(|(other, end)| same(other, *end)).map(|(other, end)| (other.clone(), end)).collect()
    }
}
