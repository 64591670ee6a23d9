//! Which columns of a file fill which paths of a party, as TOML.
//!
//! ```toml
//! delimiter = ";"                # "," without it, or "\t"
//! ignore = ["Remark"]            # columns to pass over; all that are not named: ignore_unknown = true
//!
//! [fields]
//! id = "Account no"
//! kind = { column = "Type", values = { Ltd = "entity", Ms = "person" }, default = "entity" }
//! names.legal.full = { columns = ["First", "Last"], separator = " " }
//! addresses.principal.full = { column = "Address", lines = ", " }   # what stands between its lines
//! emails = { column = "Mail", list = "|" }                          # several in one value
//! us_person = { column = "US?", values = { Y = "us", N = "foreign" }, default = "undetermined" }
//! ```
//!
//! A default stands where a value is blank, or for every row where there is no column; of a part of something, as the
//! country of an address, only where there is that thing. A path of which others begin is quoted: `"us_person.at"`.

use std::collections::{BTreeMap, BTreeSet};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use zeroize::Zeroizing;

use super::{
    super::{Faults, ImportErrors, shown_value},
    fields::{find, party_paths},
};

/// Which columns of a file fill which paths of a party: a file of TOML, as in the example beside the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub(super) delimiter: u8,
    ignore: BTreeSet<String>,
    ignore_unknown: bool,
    /// Whether the columns that it names must be there.
    strict: bool,
    sources: BTreeMap<&'static str, Source>,
    columns: BTreeSet<String>,
}

/// Where the value of one path comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) columns: Vec<String>,
    /// Between the values of several columns.
    separator: String,
    list: List,
    /// What stands between the lines of a value.
    lines: Option<String>,
    values: BTreeMap<String, String>,
    pub(super) default: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum List {
    /// One value, whatever stands in it.
    #[default]
    No,
    /// Wherever this stands, another value begins.
    At(char),
    /// As [`join`] writes it.
    Own,
}

/// The most bytes of a mapping.
const LONGEST: usize = 256 * 1024;

/// Between the values of a list in a file of ours.
const SEPARATOR: char = ';';
const ESCAPE: char = '\\';

impl Mapping {
    /// Reads a mapping.
    ///
    /// # Errors
    /// What is no TOML, by its line; else every fault in it.
    pub fn parse(file_name: &str, text: &[u8]) -> Result<Self, ImportErrors> {
        let mut faults = Faults::default();
        let text = if text.len() > LONGEST { None } else { str::from_utf8(text).ok() };
        let Some(text) = text.map(|text| text.strip_prefix('\u{feff}').unwrap_or(text)) else {
            faults.add(1, None, "expected UTF-8 text of at most 256 KiB".into());
            return Err(faults.refused(file_name));
        };
        let line = |at: usize| {
            let before = text.as_bytes().get(..at).unwrap_or_default();
            1 + u64::try_from(before.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u64::MAX - 1)
        };
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                // Its own text may show a line of what was handed over in place of a mapping.
                faults.add(line(at), None, "this is not TOML, expected a mapping".into());
                return Err(faults.refused(file_name));
            }
        };
        let mut reading = Reading { line: &line, faults: &mut faults };
        let mapping = reading.mapping(table.get_ref());
        faults.or(file_name, mapping)
    }

    /// That of a file whose columns are called as the paths.
    pub(super) fn own() -> Self {
        let source = |path: &'static str| {
            let many = find(path).is_some_and(|(group, _)| group.many);
            let list = if many { List::Own } else { List::No };
            (path, Source { columns: vec![path.into()], list, ..Source::default() })
        };
        Self {
            delimiter: b',',
            ignore: BTreeSet::new(),
            ignore_unknown: false,
            strict: false,
            sources: party_paths().map(source).collect(),
            columns: party_paths().map(str::to_owned).collect(),
        }
    }

    pub(super) fn source(&self, path: &str) -> Option<&Source> {
        self.sources.get(path)
    }

    /// The header, for a message.
    pub(super) fn expected(&self) -> String {
        if self.strict {
            self.columns.iter().map(String::as_str).collect::<Vec<_>>().join(",")
        } else {
            "id,kind and other paths of a party".into()
        }
    }

    /// Every column that it names.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(String::as_str)
    }

    pub(super) fn needs(&self, column: &str) -> bool {
        self.strict || column == "id" || column == "kind"
    }

    pub(super) fn knows(&self, column: &str) -> bool {
        self.columns.contains(column)
    }

    pub(super) fn ignores(&self, column: &str) -> bool {
        self.ignore_unknown || self.ignore.contains(column)
    }
}

impl Source {
    /// The values of the cells that are not blank; `None` for one that is blank among others.
    pub(super) fn values(&self, cells: &[&str]) -> Vec<Option<Zeroizing<String>>> {
        if cells.is_empty() {
            return Vec::new();
        }
        let whole = Zeroizing::new(cells.join(&self.separator));
        self.split(&whole).into_iter().map(|value| self.known(value)).collect()
    }

    /// Those of the default.
    pub(super) fn defaults(&self) -> Vec<Option<Zeroizing<String>>> {
        let split = self.default.as_deref().map(|default| self.split(default)).unwrap_or_default();
        split.into_iter().map(|value| (!value.is_empty()).then_some(value)).collect()
    }

    fn split(&self, whole: &str) -> Vec<Zeroizing<String>> {
        let values = match self.list {
            List::No => vec![whole.to_owned()],
            List::At(separator) => whole.split(separator).map(str::to_owned).collect(),
            List::Own => split(whole),
        };
        values.into_iter().map(Zeroizing::new).map(|value| Zeroizing::new(value.trim().into())).collect()
    }

    fn known(&self, value: Zeroizing<String>) -> Option<Zeroizing<String>> {
        let value = match &self.lines {
            Some(between) => {
                let lines = value.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty());
                Zeroizing::new(lines.collect::<Vec<_>>().join(between))
            }
            None => value,
        };
        let value = self.values.get(value.as_str()).map_or(value, |known| Zeroizing::new(known.clone()));
        (!value.is_empty()).then_some(value)
    }
}

/// Values as a list: `;` between them, and `\` before each `;` and `\` in them.
pub(super) fn join(values: &[&str]) -> String {
    let mut joined = String::new();
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            joined.push(SEPARATOR);
        }
        for character in value.chars() {
            if character == SEPARATOR || character == ESCAPE {
                joined.push(ESCAPE);
            }
            joined.push(character);
        }
    }
    joined
}

/// The values of such a list.
fn split(joined: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut characters = joined.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped =
            characters.next_if(|next| character == ESCAPE && (*next == SEPARATOR || *next == ESCAPE));
        match (escaped, character, values.last_mut()) {
            (Some(escaped), _, Some(value)) => value.push(escaped),
            (None, SEPARATOR, _) => values.push(String::new()),
            (None, character, Some(value)) => value.push(character),
            (_, _, None) => {}
        }
    }
    values
}

struct Reading<'a> {
    line: &'a dyn Fn(usize) -> u64,
    faults: &'a mut Faults,
}

type Value<'i> = Spanned<DeValue<'i>>;

impl Reading<'_> {
    fn mapping(&mut self, table: &DeTable<'_>) -> Mapping {
        let mut mapping = Mapping {
            delimiter: b',',
            ignore: BTreeSet::new(),
            ignore_unknown: false,
            strict: true,
            sources: BTreeMap::new(),
            columns: BTreeSet::new(),
        };
        let mut fields = None;
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match name {
                "delimiter" => match value.get_ref().as_str() {
                    Some(text @ ("," | ";" | "\t")) => mapping.delimiter = text.as_bytes()[0],
                    _ => self.fault(value, name, "\",\", \";\" or \"\\t\""),
                },
                "ignore" => mapping.ignore = self.texts(name, value).into_iter().collect(),
                "ignore_unknown" => match value.get_ref().as_bool() {
                    Some(is) => mapping.ignore_unknown = is,
                    None => self.fault(value, name, "true or false"),
                },
                "fields" => match value.get_ref().as_table() {
                    Some(table) => fields = Some(table),
                    None => self.fault(value, name, "a table of paths"),
                },
                _ => self.unknown(key.span().start, name, "delimiter, ignore, ignore_unknown or fields"),
            }
        }
        match fields {
            Some(fields) => self.fields("", fields, &mut mapping.sources),
            None if self.faults.total == 0 => {
                self.faults.add(1, Some("fields"), "missing, expected a table of paths".into());
            }
            None => {}
        }
        for path in ["id", "kind"] {
            if self.faults.total == 0 && !mapping.sources.contains_key(path) {
                let problem = format!("nothing fills {path}, expected a column or a default");
                self.faults.add(1, Some("fields"), problem);
            }
        }
        let named = mapping.sources.values().flat_map(|source| source.columns.iter().cloned());
        mapping.columns = named.collect();
        mapping
    }

    fn fields(&mut self, prefix: &str, table: &DeTable<'_>, sources: &mut BTreeMap<&'static str, Source>) {
        for (key, value) in table {
            let path = match prefix {
                "" => key.get_ref().to_string(),
                prefix => format!("{prefix}.{}", key.get_ref()),
            };
            let Some(known) = party_paths().find(|known| *known == path) else {
                let begun = format!("{path}.");
                match value.get_ref().as_table() {
                    // As TOML reads `names.legal.full = …`.
                    Some(table) if party_paths().any(|known| known.starts_with(&begun)) => {
                        self.fields(&path, table, sources);
                    }
                    _ => self.unknown(key.span().start, &path, "a path of a party, as names.legal.full"),
                }
                continue;
            };
            if let Some(source) = self.source(known, value)
                && sources.insert(known, source).is_some()
            {
                self.fault(value, known, "each path once");
            }
        }
    }

    fn source(&mut self, path: &'static str, value: &Value<'_>) -> Option<Source> {
        let mut source = Source { separator: " ".into(), ..Source::default() };
        if let Some(column) = value.get_ref().as_str() {
            source.columns = vec![column.trim().to_owned()];
        } else if let Some(table) = value.get_ref().as_table() {
            self.source_of(path, table, &mut source);
        } else {
            self.fault(value, path, "the name of a column, or a table");
            return None;
        }
        if source.columns.is_empty() && source.default.is_none() {
            self.fault(value, path, "column, columns or default");
        }
        if source.columns.iter().any(String::is_empty) {
            self.fault(value, path, "columns with a name");
        }
        let (group, part) = find(path)?;
        if source.list != List::No && !group.many {
            self.fault(value, path, "no list: there is at most one");
        }
        let mut constants: Vec<Zeroizing<String>> = source.defaults().into_iter().flatten().collect();
        constants
            .extend(source.values.values().filter(|value| !value.is_empty()).cloned().map(Zeroizing::new));
        for constant in constants {
            if !part.value.fits(&constant) {
                let problem = format!("{}, expected {}", shown_value(&constant), part.value.expected());
                self.faults.add((self.line)(value.span().start), Some(path), problem);
            }
        }
        Some(source)
    }

    fn source_of(&mut self, path: &'static str, table: &DeTable<'_>, source: &mut Source) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let text = value.get_ref().as_str();
            match (name, text) {
                ("column", Some(column)) if source.columns.is_empty() => {
                    source.columns = vec![column.trim().to_owned()];
                }
                ("columns", _) if source.columns.is_empty() => source.columns = self.texts(path, value),
                ("column" | "columns", _) => self.fault(value, path, "either column or columns"),
                ("separator", Some(text)) => source.separator = text.into(),
                ("lines", Some(text)) => source.lines = Some(text.into()),
                ("default", Some(text)) => source.default = Some(text.trim().into()),
                ("list", Some(text)) => {
                    let mut characters = text.chars();
                    match (characters.next(), characters.next()) {
                        (Some(separator), None) => source.list = List::At(separator),
                        _ => self.fault(value, path, "one character as list"),
                    }
                }
                ("values", _) => match value.get_ref().as_table() {
                    Some(values) => {
                        for (from, to) in values {
                            match to.get_ref().as_str() {
                                Some(to) => {
                                    source
                                        .values
                                        .insert(from.get_ref().trim().to_owned(), to.trim().to_owned());
                                }
                                None => self.fault(to, path, "text for each of values"),
                            }
                        }
                    }
                    None => self.fault(value, path, "a table as values"),
                },
                ("separator" | "lines" | "default" | "list", None) => {
                    self.fault(value, path, "text");
                }
                _ => {
                    let expected = "column, columns, separator, list, lines, values or default";
                    self.unknown(key.span().start, &format!("{path}: {name}"), expected);
                }
            }
        }
    }

    fn texts(&mut self, path: &str, value: &Value<'_>) -> Vec<String> {
        let list = value.get_ref().as_array();
        let texts = list.map(|list| {
            let texts = list.iter().map(|text| Some(text.get_ref().as_str()?.trim().to_owned()));
            texts.collect::<Option<Vec<_>>>()
        });
        texts.flatten().unwrap_or_else(|| {
            self.fault(value, path, "a list of names of columns");
            Vec::new()
        })
    }

    fn fault(&mut self, value: &Value<'_>, path: &str, expected: &str) {
        let problem = format!("{path}: expected {expected}");
        self.faults.add((self.line)(value.span().start), None, problem);
    }

    fn unknown(&mut self, at: usize, name: &str, expected: &str) {
        let problem = format!("{} is unknown, expected {expected}", shown_value(name));
        self.faults.add((self.line)(at), None, problem);
    }
}
