//! What a search found becomes devices: whole ones, or in their place their MIG instances.

use std::sync::Arc;

use nvml_wrapper::Nvml;
use weighbridge_meter::{GapCause, Source, Tier};

use super::{
    NvmlSource,
    card::{Card, Tracked},
    find::{Found, FoundCard, FoundInstance, Layout, Split},
    judge::Facts,
    read::Target,
};
use crate::source::{Device, Instance, SourceState};

impl NvmlSource {
    /// Everything that a search found, and what was known and it did not find.
    pub(super) fn take_in(&mut self, found: Found) {
        self.search.succeeded = true;
        self.state = SourceState::Ok;
        self.unidentified = found.unidentified;
        for card in self.cards.iter_mut().filter(|card| card.reader.is_none()) {
            card.absent = GapCause::DeviceLost;
        }
        for one in &mut self.devices {
            one.facts.confidential = found.confidential;
        }
        for card in found.cards {
            self.take_in_card(card, &found.nvml, found.confidential);
        }
    }

    fn take_in_card(&mut self, found: FoundCard, nvml: &Arc<Nvml>, confidential: bool) {
        let known = self.devices.iter().position(|one| one.device.id == found.id);
        let whole = match (known, found.described) {
            (Some(known), None) => known,
            (Some(known), Some((device, facts))) => {
                let present = self.devices[known].device.present;
                let device = Device { present, ..device };
                self.devices[known].found_again(device, Facts { confidential, ..facts });
                known
            }
            (None, Some((device, facts))) => {
                self.devices.push(Tracked::new(device, Facts { confidential, ..facts }));
                self.devices.len() - 1
            }
            // Only what is being read goes without a description.
            (None, None) => return,
        };
        let known = self.cards.iter().find(|card| card.id == found.id && !card.metered.is_empty());
        let known = known.map(|card| (card.targets.to_vec(), card.metered.clone()));
        let (targets, metered) = match (found.layout, known) {
            (Layout::Unknown, Some(known)) => known,
            (Layout::Whole | Layout::Unknown, _) => {
                self.devices[whole].set_split(false);
                let parts =
                    self.devices.iter_mut().filter(|one| one.device.parent.as_ref() == Some(&found.id));
                parts.for_each(|one| one.set_present(false));
                (vec![Target::Whole { gpm: self.devices[whole].facts.gpm }], vec![whole])
            }
            (Layout::Split(split), _) => {
                self.devices[whole].set_split(true);
                self.take_in_instances(whole, split)
            }
        };
        let place = match self.cards.iter().position(|card| card.id == found.id) {
            Some(place) => place,
            None => {
                self.cards.push(Card::new(found.id));
                self.cards.len() - 1
            }
        };
        let card = &mut self.cards[place];
        if *card.targets != *targets {
            card.targets = targets.into();
        }
        card.metered = metered;
        if card.reader.is_none()
            && let Err(detail) = card.start(Arc::clone(nvml), self.origin)
        {
            self.devices[whole].log(GapCause::ReadFailed, &detail);
        }
    }

    /// What is to be read of a device that is split, and the places of what that is.
    fn take_in_instances(&mut self, whole: usize, split: Split) -> (Vec<Target>, Vec<usize>) {
        let parent = self.devices[whole].device.id.clone();
        let gpm = self.devices[whole].facts.gpm;
        let (mut targets, mut metered) = (Vec::new(), Vec::new());
        for (place, one) in self.devices.iter_mut().enumerate() {
            if one.device.parent.as_ref() != Some(&parent)
                || split.instances.iter().any(|i| i.id == one.device.id)
            {
                continue;
            }
            one.without_compute = split.without_compute.contains(&one.device.id);
            if split.complete && !one.without_compute {
                one.set_present(false);
            } else if one.device.present && !one.without_compute {
                // It may be one of those that could not be named.
                targets.push(one.target(gpm));
                metered.push(place);
            }
        }
        for found in split.instances {
            let place = self.take_in_instance(whole, &found);
            targets.push(self.devices[place].target(gpm));
            metered.push(place);
        }
        (targets, metered)
    }

    fn take_in_instance(&mut self, whole: usize, found: &FoundInstance) -> usize {
        let parent = &self.devices[whole];
        let known = self.devices.iter().position(|one| one.device.id == found.id);
        let before = known.map(|place| &self.devices[place]);
        // What could not be asked is as it was.
        let sms = found.identity.map(|identity| identity.sms).or(before.and_then(|one| one.device.units));
        let numbers = found.identity.map(|identity| Instance { gi: identity.gi, ci: identity.ci });
        let instance = numbers.or(before.and_then(|one| one.device.instance));
        let facts = Facts {
            instance: true,
            shares: found.shares.unwrap_or(before.is_some_and(|one| one.facts.shares)),
            gpm: parent.facts.gpm,
            sms,
            power_limit_mw: None,
            confidential: parent.facts.confidential,
        };
        let device = Device {
            // The rest is the parent's, its model above all, by which the table finds the row.
            id: found.id.clone(),
            parent: Some(parent.device.id.clone()),
            units: sms,
            instance,
            memory_bytes: found.memory_bytes.or(before.and_then(|one| one.device.memory_bytes)),
            power_limit_mw: None,
            source: Source::Nvml,
            tier: if facts.gpm && !facts.shares { Tier::B } else { Tier::E },
            conditions: parent.found.clone(),
            present: true,
            ..parent.device.clone()
        };
        let place = match known {
            Some(place) => {
                let known = &mut self.devices[place];
                known.set_present(true);
                known.without_compute = false;
                known.found_again(device, facts);
                place
            }
            None => {
                self.devices.push(Tracked::new(device, facts));
                self.devices.len() - 1
            }
        };
        if let Some(identity) = found.identity {
            self.devices[place].identify(identity);
        }
        place
    }
}

#[cfg(test)]
mod tests;
