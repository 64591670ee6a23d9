//! The four files an operator hands over: principals, leases, agents, customers; and what `sacct` prints.
//!
//! A file is taken whole or not at all, and a refused one is refused with every fault in it, so that it takes
//! one round to mend. A header row names the columns, in any order; all of them must be there.
//! UTF-8, comma-separated, quoted with `"`; a byte order mark and CRLF are accepted, and blanks around values
//! are dropped.
//!
//! Deliberately absent: other separators and encodings, guessing, and partial imports. An empty file, and one
//! with no rows, is refused too: it comes from an export that failed far more often than from a site with
//! nothing to say.

mod accesses;
mod agents;
mod customers;
mod interests;
mod leases;
mod ndjson;
mod parties;
mod principals;
mod slurm;
mod statements;

use std::{borrow::Cow, fmt};

use serde::Serialize;
use weighbridge_meter::UtcMillis;

pub use accesses::{MOST_PAIRS, latest_access, read_accesses};
pub use agents::{AgentRow, PublicKey, parse_agents};
pub use customers::{CustomerRow, parse_customers};
pub use interests::{parse_interests, write_interests};
pub use leases::{BadSelector, LEASE_COLUMNS, LeaseRow, LeaseSelector, lease_rows, parse_leases};
pub use ndjson::{BadRecord, parse_record, parse_records, write_records};
pub use parties::{Mapping, PartyRecord, Told, parse_parties, party_paths, write_parties};
pub use principals::{PrincipalMapping, parse_principals, parse_principals_for};
pub use slurm::{SlurmRow, parse_slurm};
pub use statements::parse_statements;

/// Faults kept for showing; beyond them only the number grows.
pub const SHOWN_FAULTS: usize = 100;

/// Characters of a bad value that are shown.
const SHOWN_CHARACTERS: usize = 80;

const TIME: &str = "an RFC 3339 time, for example 2026-01-31T08:00:00Z";
const TIME_OR_BLANK: &str = "blank or an RFC 3339 time, for example 2026-01-31T08:00:00Z";

/// A file that was refused, and everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct ImportErrors {
    /// The file, as the caller named it.
    pub file: String,
    /// The first faults by line, at most [`SHOWN_FAULTS`].
    pub shown: Vec<Fault>,
    /// How many there are in all.
    pub total: usize,
    /// Of these leases that overlap another of the same file: well-formed each, and not both possible.
    pub overlaps: usize,
}

/// One thing wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// The line on which the row begins, counted from 1.
    pub line: u64,
    /// The column, or the place in a record of JSON, where the fault lies in one.
    pub column: Option<Cow<'static, str>>,
    /// What was found and what was expected. Holds no value from a file about customers.
    pub problem: String,
}

impl fmt::Display for ImportErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.total == 1 { "" } else { "s" };
        write!(f, "{} is not imported, for {} fault{plural}:", self.file, self.total)?;
        for fault in &self.shown {
            write!(f, "\n{}:{}: ", self.file, fault.line)?;
            if let Some(column) = &fault.column {
                write!(f, "{column}: ")?;
            }
            f.write_str(&fault.problem)?;
        }
        match self.total.saturating_sub(self.shown.len()) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// What a kind of file looks like.
struct Shape {
    columns: &'static [&'static str],
    /// Of these, the last so many may be left out of the header; their values are blank then.
    optional: usize,
    values: Values,
}

/// Whether the values of a file may be repeated in a message.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    Shown,
    /// Those that are times or numbers, so that none with a name in it is.
    Numbers,
    /// They may identify a person. That holds for every column: one comma too many moves a name anywhere.
    Withheld,
}

/// A row and where it stands, for checks across rows.
struct Placed<T> {
    line: u64,
    row: T,
}

/// Reads a file: each row by `parse`, then all good rows together by `check`.
fn read<T>(
    file_name: &str,
    text: &[u8],
    shape: &Shape,
    mut parse: impl FnMut(&mut Row<'_>) -> Option<T>,
    check: impl FnOnce(&[Placed<T>], &mut Faults),
) -> Result<Vec<T>, ImportErrors> {
    let table = Table { delimiter: b',', expected: &shape.columns.join(",") };
    table.read(
        file_name,
        text,
        |line, record, faults| header(line, record, shape, faults),
        |places, line, record, faults| {
            let named = places.iter().flatten().count();
            if record.len() != named {
                let problem = format!("{} values, expected {named}, one a column", record.len());
                faults.add(line, None, problem);
                return None;
            }
            let values: Vec<&[u8]> = places
                .iter()
                .map(|place| place.and_then(|place| record.get(place)).unwrap_or_default())
                .collect();
            parse(&mut Row { line, shape, values, faults })
        },
        check,
    )
}

/// How the rows of a file are told apart.
struct Table<'a> {
    delimiter: u8,
    /// The header, for a message.
    expected: &'a str,
}

impl Table<'_> {
    /// Reads a file: its first row by `header`, each other row by `parse`, then all good rows together by `check`.
    fn read<H, T>(
        &self,
        file_name: &str,
        text: &[u8],
        mut header: impl FnMut(u64, &csv::ByteRecord, &mut Faults) -> H,
        mut parse: impl FnMut(&H, u64, &csv::ByteRecord, &mut Faults) -> Option<T>,
        check: impl FnOnce(&[Placed<T>], &mut Faults),
    ) -> Result<Vec<T>, ImportErrors> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut faults = Faults::default();
        let mut rows = Vec::new();
        let mut lines = Lines { text, at: 0, line: 1 };
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(self.delimiter)
            .from_reader(text);
        let mut record = csv::ByteRecord::new();
        let mut head: Option<H> = None;
        let mut last_line = 1;
        if let Some(line) = unclosed_quote(text, self.delimiter) {
            // What follows is one long value; reading it as rows would only hide the cause.
            faults.add(line, None, "a value begins with a double quote that is never closed".into());
            return Err(faults.refused(file_name));
        }
        loop {
            match reader.read_byte_record(&mut record) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    faults.add(last_line, None, format!("the row after this line cannot be read: {error}"));
                    break;
                }
            }
            let start = record.position().map_or(0, |position| position.byte());
            let line = lines.at(usize::try_from(start).unwrap_or(usize::MAX));
            last_line = line;
            let Some(head) = &head else {
                head = Some(header(line, &record, &mut faults));
                if faults.total > 0 {
                    // Under a wrong header every row would be wrong, and none of it would help.
                    return Err(faults.refused(file_name));
                }
                continue;
            };
            if let Some(row) = parse(head, line, &record, &mut faults) {
                rows.push(Placed { line, row });
            }
        }
        if head.is_none() {
            faults.add(1, None, format!("the file is empty, expected the header {}", self.expected));
        } else if rows.is_empty() && faults.total == 0 {
            faults.add(last_line, None, "no row follows the header, expected at least one".into());
        }
        check(&rows, &mut faults);
        faults.or(file_name, rows.into_iter().map(|row| row.row).collect())
    }
}

/// For each column of the shape, its place in the file.
fn header(line: u64, record: &csv::ByteRecord, shape: &Shape, faults: &mut Faults) -> Vec<Option<usize>> {
    let names: Vec<&str> =
        record.iter().map(|name| str::from_utf8(name).unwrap_or("\u{fffd}").trim()).collect();
    let known = names.iter().filter(|name| shape.columns.contains(name)).count();
    let expected = shape.columns.join(",");
    if known == 0 {
        let problem =
            format!("the first row is not a header, expected {expected}, in UTF-8 and separated by commas");
        faults.add(line, None, problem);
        return Vec::new();
    }
    // Where nothing may be repeated, two known names show that this is a header and not a row.
    let shown = shape.values == Values::Shown || known >= 2;
    for (index, name) in names.iter().enumerate() {
        if !shape.columns.contains(name) {
            let name = if shown { shown_value(name) } else { "its name".into() };
            let problem = format!("column {} is unknown: {name}, expected {expected}", index + 1);
            faults.add(line, None, problem);
        }
    }
    let mut places = Vec::with_capacity(shape.columns.len());
    for (index, column) in shape.columns.iter().enumerate() {
        let needed = index < shape.columns.len() - shape.optional;
        let mut found = names.iter().enumerate().filter(|(_, name)| name == &column).map(|(index, _)| index);
        let first = found.next();
        if first.is_none() && needed {
            faults.add(line, Some(column), "the header lacks this column".into());
        }
        if found.next().is_some() {
            faults.add(line, Some(column), "the header has this column more than once".into());
        }
        places.push(first);
    }
    places
}

/// A row under reading. Every reader of a value records a fault where it returns `None`, so a parser reads all
/// its columns first and only then gives up.
struct Row<'a> {
    line: u64,
    shape: &'a Shape,
    values: Vec<&'a [u8]>,
    faults: &'a mut Faults,
}

impl<'a> Row<'a> {
    /// A value that must be there.
    fn required<T>(
        &mut self,
        column: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(column)?;
        let value = if text.is_empty() { None } else { parse(text) };
        if value.is_none() {
            self.fault(column, text, expected);
        }
        value
    }

    /// A value that may be blank: `Some(None)`.
    fn optional<T>(
        &mut self,
        column: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Option<T>> {
        if self.text(column)?.is_empty() {
            Some(None)
        } else {
            self.required(column, expected, parse).map(Some)
        }
    }

    /// Records that a value is not as expected.
    fn fault(&mut self, column: &'static str, found: &str, expected: &str) {
        let found = match self.shape.values {
            _ if found.is_empty() => "blank".into(),
            Values::Shown => shown_value(found),
            Values::Numbers if is_of_numbers(found) => shown_value(found),
            Values::Numbers | Values::Withheld => "the value (withheld) does not fit".into(),
        };
        self.faults.add(self.line, Some(column), format!("{found}, expected {expected}"));
    }

    fn text(&mut self, column: &'static str) -> Option<&'a str> {
        let index = self.shape.columns.iter().position(|known| *known == column);
        let bytes = index.and_then(|index| self.values.get(index)).copied().unwrap_or_default();
        match str::from_utf8(bytes) {
            Ok(text) => Some(text.trim()),
            Err(_) => {
                self.faults.add(
                    self.line,
                    Some(column),
                    "bytes that are not UTF-8, expected UTF-8 text".into(),
                );
                None
            }
        }
    }
}

/// Faults as they are found.
#[derive(Default)]
struct Faults {
    shown: Vec<Fault>,
    total: usize,
    overlaps: usize,
}

impl Faults {
    fn add(&mut self, line: u64, column: Option<&'static str>, problem: String) {
        self.add_at(line, column.map(Cow::Borrowed), problem);
    }

    fn add_at(&mut self, line: u64, column: Option<Cow<'static, str>>, problem: String) {
        self.total += 1;
        if self.shown.len() < SHOWN_FAULTS {
            self.shown.push(Fault { line, column, problem });
        }
    }

    /// What was read, unless there are faults.
    fn or<T>(self, file_name: &str, read: T) -> Result<T, ImportErrors> {
        if self.total > 0 { Err(self.refused(file_name)) } else { Ok(read) }
    }

    fn overlap(&mut self, line: u64, column: Option<&'static str>, problem: String) {
        self.overlaps += 1;
        self.add(line, column, problem);
    }

    fn refused(mut self, file_name: &str) -> ImportErrors {
        self.shown.sort_by_key(|fault| fault.line);
        let Self { shown, total, overlaps } = self;
        ImportErrors { file: file_name.escape_debug().to_string(), shown, total, overlaps }
    }
}

/// Line numbers of ascending places in a text. The reader of rows has its own, but those stand before the
/// blank lines and line ends that it skips.
struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    fn at(&mut self, place: usize) -> u64 {
        while let Some(byte) = self.text.get(self.at) {
            let ends = *byte == b'\n' || *byte == b'\r';
            if self.at >= place && !ends {
                break;
            }
            let half = *byte == b'\r' && self.text.get(self.at + 1) == Some(&b'\n');
            self.line += u64::from(ends && !half);
            self.at += 1;
        }
        self.line
    }
}

/// The line of a quote that opens a value and is never closed: all rows after it would vanish into that value.
fn unclosed_quote(text: &[u8], delimiter: u8) -> Option<u64> {
    enum Place {
        Start,
        Plain,
        Quoted(usize),
        /// After a quote inside a quoted value: the end of it, or half of a doubled one.
        Closing(usize),
    }
    let mut place = Place::Start;
    for (index, byte) in text.iter().enumerate() {
        place = match (place, byte) {
            (Place::Quoted(opened), b'"') => Place::Closing(opened),
            (Place::Quoted(opened), _) => Place::Quoted(opened),
            (Place::Closing(opened), b'"') => Place::Quoted(opened),
            (_, b'\n' | b'\r') => Place::Start,
            (_, byte) if *byte == delimiter => Place::Start,
            (Place::Start, b'"') => Place::Quoted(index),
            _ => Place::Plain,
        };
    }
    match place {
        Place::Quoted(opened) => Some(Lines { text, at: 0, line: 1 }.at(opened)),
        Place::Start | Place::Plain | Place::Closing(_) => None,
    }
}

fn shown_value(value: &str) -> String {
    let mut shown: String = value.chars().take(SHOWN_CHARACTERS).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// Whether a text has no letters but those of a time.
fn is_of_numbers(text: &str) -> bool {
    text.chars().all(|character| {
        character.is_ascii() && (!character.is_ascii_alphabetic() || "TZ".contains(character))
    })
}

/// Printable ASCII without blanks, as hosts, sites and fabrics are written.
fn label(text: &str, longest: usize) -> Option<Box<str>> {
    let fits = (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.into())
}

/// Of the rows so far, in order of their start: when the last of them ends, and its line.
#[derive(Default)]
struct Latest(Option<(UtcMillis, u64)>);

impl Latest {
    /// The line of a row that is still in force at `start`.
    fn still_at(&self, start: UtcMillis) -> Option<u64> {
        self.0.filter(|(end, _)| *end > start).map(|(_, line)| line)
    }

    fn add(&mut self, end: UtcMillis, line: u64) {
        if self.0.is_none_or(|(latest, _)| latest < end) {
            self.0 = Some((end, line));
        }
    }
}

/// An end that may be open, as one to compare with.
fn end(valid_to: Option<UtcMillis>) -> UtcMillis {
    valid_to.unwrap_or(UtcMillis(i64::MAX))
}

/// A moment, or the first one of a day in UTC.
fn moment(text: &str) -> Option<UtcMillis> {
    let is_day = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if is_day { format!("{text}T00:00:00Z").parse().ok() } else { text.parse().ok() }
}

const MOMENT: &str = "an RFC 3339 time or a day in UTC, for example 2026-01-31T08:00:00Z or 2026-01-31";

/// How to name two rows, the earlier in the file first; the fault belongs to the second.
fn two(line: u64, other: u64) -> (u64, u64) {
    (line.min(other), line.max(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_over_every_kind_of_line_end() {
        let text = b"a\r\nb\n\n\rc\rd";
        let mut lines = Lines { text, at: 0, line: 1 };
        let places = [0, 1, 3, 4, 7, 9];
        assert_eq!(places.map(|place| lines.at(place)), [1, 2, 2, 5, 5, 6]);
    }

    #[test]
    fn an_unclosed_quote_is_found_and_a_quote_inside_a_value_is_not() {
        for (text, line) in [
            ("a,\"b\n\"\"c\n", Some(1)),
            ("a\n\"", Some(2)),
            ("a,\"b\"\"\"\nc", None),
            ("a,5\" disk\n", None),
            ("\"a\"", None),
            ("", None),
        ] {
            assert_eq!(unclosed_quote(text.as_bytes(), b','), line, "{text:?}");
        }
    }

    #[test]
    fn a_long_value_is_shown_in_part() {
        assert_eq!(shown_value(&"é".repeat(200)), format!("{:?}", "é".repeat(80) + "…"));
    }
}
