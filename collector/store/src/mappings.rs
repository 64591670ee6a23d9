//! Whose each principal was and when, in the order in which it was said.

use std::collections::BTreeMap;

use weighbridge_meter::{Principal, UtcMillis};

use crate::entry::MappingFact;

/// All that was said of principals; found by principal, since every attempt asks for its own.
#[derive(Clone, Debug, Default)]
pub struct Mappings {
    all: Vec<MappingFact>,
    of: BTreeMap<Principal, Vec<usize>>,
}

impl Mappings {
    /// Adds what was said last.
    pub fn push(&mut self, mapping: MappingFact) {
        self.of.entry(mapping.principal.clone()).or_default().push(self.all.len());
        self.all.push(mapping);
    }

    /// All, in the order in which they were said.
    pub fn iter(&self) -> std::slice::Iter<'_, MappingFact> {
        self.all.iter()
    }

    /// Whose a principal was at a moment: what was said last of that moment counts.
    pub fn customer(&self, principal: &Principal, at: UtcMillis) -> Option<&str> {
        let holds =
            |mapping: &&MappingFact| mapping.valid_from <= at && mapping.valid_to.is_none_or(|end| at < end);
        let of = self.of.get(principal)?;
        let said = of.iter().rev().filter_map(|index| self.all.get(*index));
        said.into_iter().find(holds).map(|mapping| mapping.customer.as_str())
    }
}

impl From<Vec<MappingFact>> for Mappings {
    fn from(all: Vec<MappingFact>) -> Self {
        let mut mappings = Self::default();
        all.into_iter().for_each(|mapping| mappings.push(mapping));
        mappings
    }
}

impl<'a> IntoIterator for &'a Mappings {
    type Item = &'a MappingFact;
    type IntoIter = std::slice::Iter<'a, MappingFact>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
