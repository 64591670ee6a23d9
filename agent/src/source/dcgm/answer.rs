//! One answer of dcgm-exporter, sorted by device.
//!
//! The exporter prints a sample once for each job and each pod that shares the device: they are one value, and
//! where they are not, the device is marked. Labels that are not read here are ignored.

use std::collections::{BTreeMap, BTreeSet};

use super::fields::{Field, Scalar};
use crate::source::exposition::Sample;

/// What an answer says.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// One for each device and MIG instance, in the order of the text.
    pub(super) rows: Vec<Row>,
    /// GPUs of which samples tell no UUID.
    pub(super) unnamed: BTreeSet<String>,
}

/// What it says of one device or instance.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// `GPU-...`, or `MIG-...` where the exporter names instances by their own.
    pub(super) uuid: String,
    /// The MIG instance.
    pub(super) instance: Option<Instance>,
    /// Its model, as printed.
    pub(super) model: String,
    /// As printed.
    pub(super) host: Option<String>,
    /// The driver's version.
    pub(super) driver: Option<String>,
    /// As NVML prints it.
    pub(super) bus_id: Option<String>,
    /// Whether samples of one field disagree.
    pub(super) disagrees: bool,
    values: [Option<Scalar>; Field::COUNT],
}

/// A MIG instance.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    /// Its number on its device; `None` where it has a UUID of its own.
    pub(super) id: Option<String>,
    /// As in `1g.10gb`.
    pub(super) profile: Option<String>,
}

impl Answer {
    /// Sorts samples.
    pub(super) fn read(samples: &mut dyn Iterator<Item = Sample<'_>>) -> Self {
        let mut answer = Self::default();
        let mut places: BTreeMap<(String, Option<String>), usize> = BTreeMap::new();
        for sample in samples {
            let Some(field) = Field::from_name(sample.name) else { continue };
            let Some(uuid) = sample.label("UUID").or(sample.label("uuid")) else {
                // Switches, links and processors have samples too, but no number of a GPU.
                answer.unnamed.extend(sample.label("gpu").map(str::to_owned));
                continue;
            };
            let own = uuid.starts_with("MIG-");
            let number = sample.label("GPU_I_ID").filter(|_| !own);
            let index = *places.entry((uuid.to_owned(), number.map(str::to_owned))).or_insert_with(|| {
                answer.rows.push(Row {
                    uuid: uuid.to_owned(),
                    instance: (own || number.is_some())
                        .then(|| Instance { id: number.map(str::to_owned), profile: None }),
                    model: String::new(),
                    host: None,
                    driver: None,
                    bus_id: None,
                    disagrees: false,
                    values: [None; Field::COUNT],
                });
                answer.rows.len() - 1
            });
            answer.rows[index].add(field, &sample);
        }
        answer
    }
}

impl Row {
    /// The value of a field, if it is known.
    pub(super) fn get(&self, field: Field) -> Option<Scalar> {
        self.values[field as usize]
    }

    /// All values, to tell whether they were renewed.
    pub(super) fn fingerprint(&self) -> Vec<u64> {
        let bits = |scalar: &Option<Scalar>| {
            scalar.map_or([u64::MAX; 2], |s| [s.number.to_bits(), s.whole.unwrap_or(u64::MAX)])
        };
        self.values.iter().flat_map(bits).collect()
    }

    /// Whether nothing is known at all.
    pub(super) fn is_blank(&self) -> bool {
        let says = |(index, value): (usize, &Option<Scalar>)| index != Field::Xid as usize && value.is_some();
        !self.values.iter().enumerate().any(says)
    }

    fn add(&mut self, field: Field, sample: &Sample<'_>) {
        let text = |names: &[&str]| names.iter().find_map(|name| sample.label(name)).map(str::to_owned);
        if self.model.is_empty() {
            self.model = text(&["modelName"]).unwrap_or_default();
        }
        self.host = self.host.take().or_else(|| text(&["hostname", "Hostname"]));
        self.driver = self.driver.take().or_else(|| text(&["DCGM_FI_DRIVER_VERSION"]));
        self.bus_id = self.bus_id.take().or_else(|| text(&["pci_bus_id"]));
        if let Some(instance) = &mut self.instance {
            instance.profile = instance.profile.take().or_else(|| text(&["GPU_I_PROFILE"]));
        }
        let Some(value) = field.known(sample.value) else { return };
        match &mut self.values[field as usize] {
            Some(before) => self.disagrees |= *before != value,
            slot => *slot = Some(value),
        }
    }
}
