//! A file of parties, one a row, in the columns of whatever system it comes from.
//!
//! What can be told of a party in a row has a path, as `names.legal.full` ([`party_paths`]). A [`Mapping`] says which
//! columns fill which paths; without one, the columns are called as the paths. Of what a party has several of, a value
//! is a list; parts of one thing, as `names.alias.full` and `names.alias.given`, are lists of one length.
//! [`write_parties`] writes such a file, and reading it gives back all but what a row cannot hold: evidence; which
//! of two names, addresses or identifiers of different kinds comes first; and of a standing what follows from the
//! record, whether it is verified and how many discrepancies are open.
//!
//! No message about this file repeats a value from it. Of what [`crate::Party::check`] finds, a row tells the first.
//!
//! Deliberately absent: times and dates in other forms than those of ISO 8601, and other encodings than UTF-8.

mod fields;
mod mapping;

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;
use zeroize::Zeroizing;

pub use self::{fields::party_paths, mapping::Mapping};
use self::{
    fields::{Entry, GROUPS, Group, Unfit},
    mapping::Source,
};
use super::{Faults, ImportErrors, Placed, Table};
use crate::{ControlGroupId, Party, PartyId, Standing, party::BadParty};

/// All of a party: the clear part, and the record that has yet to be sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartyRecord {
    /// The party.
    pub id: PartyId,
    /// With whom it is joined by ownership or control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_group: Option<ControlGroupId>,
    /// How it stands with the operator.
    #[serde(default)]
    pub standing: Standing,
    /// Who it is.
    pub party: Party,
}

/// Who hands a file over, and when: it stands with a decision on a status of which the file does not say it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// When.
    pub at: UtcMillis,
    /// Who.
    pub by: &'a str,
}

/// The most columns of a file.
const MOST_COLUMNS: usize = 1_000;

/// Reads a file of parties. A party stands in it once; `id` and `kind` must be told of each.
///
/// # Errors
/// Every fault in the file, by line and column but without the values; nothing of it is imported then.
pub fn parse_parties(
    file_name: &str,
    text: &[u8],
    mapping: Option<&Mapping>,
    told: Told<'_>,
) -> Result<Vec<PartyRecord>, ImportErrors> {
    let own = Mapping::own();
    let mapping = mapping.unwrap_or(&own);
    let expected = mapping.expected();
    let table = Table { delimiter: mapping.delimiter, expected: &expected };
    table.read(
        file_name,
        text,
        |line, record, faults| Plan::of(mapping, line, record, faults),
        |plan, line, record, faults| {
            if record.len() != plan.width {
                let problem = format!("{} values, expected {}, one a column", record.len(), plan.width);
                faults.add(line, None, problem);
                return None;
            }
            Row { plan, line, record, faults }.read(told)
        },
        refuse_twice,
    )
}

/// Where in the rows of one file the values of each group stand.
struct Plan<'a> {
    width: usize,
    groups: Vec<(&'static Group, Vec<Option<Filled<'a>>>)>,
}

/// A part of a group that the file fills.
struct Filled<'a> {
    source: &'a Source,
    places: Vec<usize>,
    /// The column or columns, and the path where it is not the same.
    label: String,
}

impl<'a> Plan<'a> {
    fn of(mapping: &'a Mapping, line: u64, record: &csv::ByteRecord, faults: &mut Faults) -> Self {
        let mut plan = Self { width: record.len(), groups: Vec::new() };
        if record.len() > MOST_COLUMNS {
            faults.add(line, None, format!("{} columns, expected at most {MOST_COLUMNS}", record.len()));
            return plan;
        }
        let names: Vec<&str> =
            record.iter().map(|name| str::from_utf8(name).unwrap_or("\u{fffd}").trim()).collect();
        let known = names.iter().filter(|name| mapping.knows(name)).count();
        if known == 0 {
            let problem = "the first row is not a header, expected columns as the mapping or the paths name \
                           them, in UTF-8 and with the delimiter of the mapping";
            faults.add(line, None, problem.into());
            return plan;
        }
        for (index, name) in names.iter().enumerate() {
            if !mapping.knows(name) && !mapping.ignores(name) {
                // It may be a value, if the file lacks its header: only its place is told.
                let problem = format!(
                    "column {} is unknown (its name is withheld), expected one that the mapping names, or ignores",
                    index + 1
                );
                faults.add(line, None, problem);
            }
        }
        let place = |column: &str| names.iter().position(|name| *name == column);
        for column in mapping.columns() {
            match names.iter().filter(|name| **name == column).count() {
                0 if mapping.needs(column) => {
                    faults.add_at(
                        line,
                        Some(Cow::Owned(column.to_owned())),
                        "the header lacks this column".into(),
                    );
                }
                0 | 1 => {}
                _ => {
                    let problem = "the header has this column more than once".into();
                    faults.add_at(line, Some(Cow::Owned(column.to_owned())), problem);
                }
            }
        }
        for group in GROUPS.iter() {
            let parts = group.paths.iter().map(|path| {
                let source = mapping.source(path)?;
                let places: Vec<usize> = source.columns.iter().filter_map(|column| place(column)).collect();
                if places.is_empty() && source.default.is_none() {
                    return None;
                }
                let columns = source.columns.join("+");
                let label = match columns.as_str() {
                    column if column == path => columns,
                    "" => path.clone(),
                    _ => format!("{columns} ({path})"),
                };
                Some(Filled { source, places, label })
            });
            let parts: Vec<_> = parts.collect();
            if parts.iter().any(Option::is_some) {
                plan.groups.push((group, parts));
            }
        }
        for path in ["id", "kind"] {
            if faults.total == 0 && plan.label(path).is_none() {
                faults.add(line, None, format!("nothing fills {path}, expected a column or a default"));
            }
        }
        plan
    }

    /// The columns that fill a path.
    fn label(&self, path: &str) -> Option<&str> {
        self.groups.iter().find_map(|(group, parts)| {
            let index = group.paths.iter().position(|known| known == path)?;
            Some(parts.get(index)?.as_ref()?.label.as_str())
        })
    }
}

struct Row<'a> {
    plan: &'a Plan<'a>,
    line: u64,
    record: &'a csv::ByteRecord,
    faults: &'a mut Faults,
}

impl Row<'_> {
    fn read(mut self, told: Told<'_>) -> Option<PartyRecord> {
        let before = self.faults.total;
        let mut draft = fields::Draft::new(told);
        for (group, parts) in &self.plan.groups {
            let Some(entries) = self.entries(group, parts) else { continue };
            for entry in entries {
                if let Err(Unfit { part, expected }) = draft.take(group, &entry) {
                    let problem = match entry.get(part) {
                        Some(Some(_)) => format!("the value (withheld) does not fit, expected {expected}"),
                        _ => format!("blank, expected {expected}"),
                    };
                    self.fault(group.paths.get(part).map_or("", String::as_str), problem);
                }
            }
        }
        for (path, missing) in [("id", draft.id.is_none()), ("kind", draft.kind.is_none())] {
            if missing && self.faults.total == before {
                self.fault(path, format!("blank, expected {}", fields::expected(path)));
            }
        }
        let record = draft.finish()?;
        if let Err(BadParty { place, expected }) = record.party.check() {
            let path = fields::path_of(&record.party, &place);
            self.fault(&path, format!("the value (withheld) does not fit, expected {expected}"));
        }
        (self.faults.total == before).then_some(record)
    }

    fn fault(&mut self, path: &str, problem: String) {
        // A part that no column fills is a fault of what it is a part of.
        let label = self.plan.label(path).unwrap_or(path).to_owned();
        self.faults.add_at(self.line, (!label.is_empty()).then_some(Cow::Owned(label)), problem);
    }

    /// The values of a group, those of one thing together.
    fn entries(&mut self, group: &Group, parts: &[Option<Filled<'_>>]) -> Option<Vec<Entry>> {
        let before = self.faults.total;
        let mut columns: Vec<Vec<Option<Zeroizing<String>>>> = Vec::with_capacity(parts.len());
        for filled in parts {
            columns.push(filled.as_ref().and_then(|filled| self.values(filled)).unwrap_or_default());
        }
        let mut count = columns.iter().map(Vec::len).max().unwrap_or_default();
        if let (0, Some(Some(first)), Some(values)) = (count, parts.first(), columns.first_mut()) {
            *values = first.source.defaults();
            count = values.len();
        }
        for ((part, filled), values) in group.parts.iter().zip(parts).zip(&mut columns) {
            let Some(filled) = filled else { continue };
            if !values.is_empty() && values.len() != count {
                let problem = format!(
                    "{} values, expected {count} or none, as many as its other parts have",
                    values.len()
                );
                self.faults.add_at(self.line, Some(Cow::Owned(filled.label.clone())), problem);
                continue;
            }
            if let Some(default) = &filled.source.default {
                values.resize(count, None);
                values.iter_mut().for_each(|value| {
                    value.get_or_insert_with(|| Zeroizing::new(default.clone()));
                });
            }
            if values.iter().flatten().any(|value| !part.value.fits(value)) {
                let problem =
                    format!("the value (withheld) does not fit, expected {}", part.value.expected());
                self.faults.add_at(self.line, Some(Cow::Owned(filled.label.clone())), problem);
            }
        }
        if self.faults.total > before {
            return None;
        }
        let mut entry = |index: usize| {
            columns.iter_mut().map(|values| values.get_mut(index).and_then(Option::take)).collect()
        };
        Some((0..count).map(&mut entry).collect())
    }

    /// The values of one cell, or of several that are merged; a blank one among others is `None`.
    fn values(&mut self, filled: &Filled<'_>) -> Option<Vec<Option<Zeroizing<String>>>> {
        let mut cells = Vec::new();
        for place in &filled.places {
            let Ok(cell) = str::from_utf8(self.record.get(*place).unwrap_or_default()) else {
                let problem = "bytes that are not UTF-8, expected UTF-8 text".into();
                self.faults.add_at(self.line, Some(Cow::Owned(filled.label.clone())), problem);
                return None;
            };
            cells.extend(Some(cell.trim()).filter(|cell| !cell.is_empty()));
        }
        Some(filled.source.values(&cells))
    }
}

fn refuse_twice(rows: &[Placed<PartyRecord>], faults: &mut Faults) {
    let mut first: BTreeMap<&PartyId, u64> = BTreeMap::new();
    for Placed { line, row } in rows {
        let before = *first.entry(&row.id).or_insert(*line);
        if before != *line {
            let problem = format!("the same party as on line {before}, expected each once");
            faults.add(*line, Some("id"), problem);
        }
    }
}

/// Writes parties as a file that needs no mapping, with the columns that one of them fills.
pub fn write_parties(records: &[PartyRecord]) -> Zeroizing<String> {
    let filled: Vec<Vec<Vec<Entry>>> = records
        .iter()
        .map(|record| GROUPS.iter().map(|group| fields::entries(record, group)).collect())
        .collect();
    let mut columns = Vec::new();
    for (place, group) in GROUPS.iter().enumerate() {
        for (part, path) in group.paths.iter().enumerate() {
            let told = |groups: &Vec<Vec<Entry>>| {
                groups[place].iter().any(|entry| entry.get(part).is_some_and(Option::is_some))
            };
            if path == "id" || path == "kind" || filled.iter().any(told) {
                columns.push((place, part, path));
            }
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing to memory does not fail.
    let _ = writer.write_record(columns.iter().map(|(_, _, path)| path.as_str()));
    for groups in &filled {
        let cells = columns.iter().map(|(place, part, _)| {
            let values: Vec<&str> = groups[*place]
                .iter()
                .map(|entry| entry.get(*part).and_then(Option::as_ref).map_or("", |value| value.as_str()))
                .collect();
            let told = values.iter().any(|value| !value.is_empty());
            let many = GROUPS.get(*place).is_some_and(|group| group.many);
            Zeroizing::new(match (told, many) {
                (false, _) => String::new(),
                (true, false) => values.concat(),
                (true, true) => mapping::join(&values),
            })
        });
        let cells: Vec<Zeroizing<String>> = cells.collect();
        let _ = writer.write_record(cells.iter().map(|cell| cell.as_bytes()));
    }
    let bytes = writer.into_inner().unwrap_or_default();
    Zeroizing::new(String::from_utf8(bytes).unwrap_or_default())
}
