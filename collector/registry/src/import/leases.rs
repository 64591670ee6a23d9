//! `leases.csv`: who has which accelerators of a host, and from when to when, where no scheduler says so.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use weighbridge_meter::{AcceleratorId, AttemptId, Principal, Span, UtcMillis};

use super::{Faults, ImportErrors, Latest, Placed, Row, Shape, TIME, Values, label, read, two};

/// Part of a lease, or all of it: some accelerators of one host, for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// The lease. Several rows may belong to one; then they have the same principal.
    pub lease: AttemptId,
    /// The host, as its agent names it.
    pub host: Box<str>,
    /// Which of its accelerators.
    pub selector: LeaseSelector,
    /// Who holds them.
    pub principal: Principal,
    /// From when to when.
    #[serde(with = "span")]
    pub span: Span,
}

/// Some of the accelerators of a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseSelector {
    /// `*`: all of them.
    WholeHost,
    /// One, by its id.
    Accelerator(AcceleratorId),
    /// `8x10de:2330`: so many of one model, for a host that no agent has reported yet.
    Count {
        /// How many, at least 1.
        count: u16,
        /// PCI vendor.
        vendor: u16,
        /// PCI device.
        device: u16,
    },
}

/// Text that selects no accelerators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {}", LeaseSelector::EXPECTED)]
pub struct BadSelector;

impl LeaseSelector {
    /// What the text form must be, in words for an error message.
    pub const EXPECTED: &'static str =
        "*, an accelerator id, or a count of a PCI vendor and device, for example 8x10de:2330";

    /// More accelerators than this are on no one host.
    const MOST: u16 = 1024;
}

impl FromStr for LeaseSelector {
    type Err = BadSelector;

    fn from_str(text: &str) -> Result<Self, BadSelector> {
        if text == "*" {
            return Ok(Self::WholeHost);
        }
        // A mistyped count must not pass for an id that no accelerator will ever have.
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        match text.split_at(digits) {
            (count, model) if digits > 0 && model.starts_with('x') && model.contains(':') => {
                let count = count.parse().ok().filter(|count| (1..=Self::MOST).contains(count));
                let (vendor, device) = model[1..].split_once(':').ok_or(BadSelector)?;
                Ok(Self::Count {
                    count: count.ok_or(BadSelector)?,
                    vendor: pci_number(vendor)?,
                    device: pci_number(device)?,
                })
            }
            // Nor is there a pattern other than the single star.
            _ if text.contains('*') => Err(BadSelector),
            _ => text.parse().map(Self::Accelerator).map_err(|_| BadSelector),
        }
    }
}

fn pci_number(text: &str) -> Result<u16, BadSelector> {
    let digits = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { u16::from_str_radix(text, 16).map_err(|_| BadSelector) } else { Err(BadSelector) }
}

impl fmt::Display for LeaseSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WholeHost => f.write_str("*"),
            Self::Accelerator(id) => id.fmt(f),
            Self::Count { count, vendor, device } => write!(f, "{count}x{vendor:04x}:{device:04x}"),
        }
    }
}

impl Serialize for LeaseSelector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LeaseSelector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A span as its two ends, checked on the way in.
mod span {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Ends {
        start: UtcMillis,
        end: UtcMillis,
    }

    pub(super) fn serialize<S: Serializer>(span: &Span, serializer: S) -> Result<S::Ok, S::Error> {
        Ends { start: span.start(), end: span.end() }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let Ends { start, end } = Ends::deserialize(deserializer)?;
        Span::new(start, end).ok_or_else(|| {
            de::Error::custom(format!("the span ends at {end}, expected an end after its start, {start}"))
        })
    }
}

const SHAPE: Shape = Shape { columns: &LEASE_COLUMNS, optional: 0, values: Values::Shown };

/// Reads `leases.csv`: `lease,host,accelerator,principal,start,end`.
///
/// Rows of one host must not overlap in time where they could mean the same accelerator: `*` and a count could
/// mean any, two different ids never the same.
///
/// # Errors
/// Every fault in the file; nothing of it is imported then.
pub fn parse_leases(file_name: &str, text: &[u8]) -> Result<Vec<LeaseRow>, ImportErrors> {
    read(file_name, text, &SHAPE, parse, |rows, faults| check(rows, "line", faults))
}

/// The columns of a row, in the order in which [`lease_rows`] takes their values.
pub const LEASE_COLUMNS: [&str; 6] = ["lease", "host", "accelerator", "principal", "start", "end"];

/// Leases that come otherwise than in a file, by the same rules: of each the values of [`LEASE_COLUMNS`], or what is
/// wrong with its form. Faults name rows, counted from 1, in place of lines.
///
/// # Errors
/// Every fault in them; none is taken then.
pub fn lease_rows(
    name: &str,
    rows: impl IntoIterator<Item = Result<[String; LEASE_COLUMNS.len()], String>>,
) -> Result<Vec<LeaseRow>, ImportErrors> {
    let mut faults = Faults::default();
    let mut good = Vec::new();
    for (line, values) in (1..).zip(rows) {
        match values {
            Ok(values) => {
                let values = values.iter().map(String::as_bytes).collect();
                let mut row = Row { line, shape: &SHAPE, values, faults: &mut faults };
                good.extend(parse(&mut row).map(|row| Placed { line, row }));
            }
            Err(problem) => faults.add(line, None, problem),
        }
    }
    check(&good, "row", &mut faults);
    if good.is_empty() && faults.total == 0 {
        faults.add(1, None, "no rows, expected at least one".into());
    }
    if faults.total > 0 {
        Err(faults.refused(name))
    } else {
        Ok(good.into_iter().map(|row| row.row).collect())
    }
}

fn check(rows: &[Placed<LeaseRow>], unit: &str, faults: &mut Faults) {
    refuse_overlaps(rows, unit, faults);
    refuse_two_holders(rows, unit, faults);
}

fn parse(row: &mut Row<'_>) -> Option<LeaseRow> {
    let lease = row.required("lease", "a lease id: 1 to 192 printable characters without blanks", |text| {
        text.parse().ok()
    });
    let host =
        row.required("host", "a host: 1 to 253 printable characters without blanks", |text| label(text, 253));
    let selector = row.required("accelerator", LeaseSelector::EXPECTED, |text| text.parse().ok());
    let principal = row.required(
        "principal",
        "scheme:scope/name, percent-encoded, with a scheme of slurm, k8s, vm, lease, uid, unit or container",
        |text| text.parse().ok(),
    );
    let start = row.required("start", TIME, |text| text.parse().ok());
    let end = row.required("end", TIME, |text| text.parse().ok());
    let (start, end): (UtcMillis, UtcMillis) = (start?, end?);
    let Some(span) = Span::new(start, end) else {
        row.fault("end", &end.to_string(), &format!("a time after start, {start}"));
        return None;
    };
    Some(LeaseRow { lease: lease?, host: host?, selector: selector?, principal: principal?, span })
}

/// What is still held on a host, going through its rows by time.
#[derive(Default)]
struct Held<'a> {
    /// By rows that could mean any accelerator.
    any: Latest,
    /// By any row at all.
    all: Latest,
    one: BTreeMap<&'a AcceleratorId, Latest>,
}

fn refuse_overlaps(rows: &[Placed<LeaseRow>], unit: &str, faults: &mut Faults) {
    let of_line: BTreeMap<u64, &LeaseRow> = rows.iter().map(|placed| (placed.line, &placed.row)).collect();
    let mut in_order: Vec<_> = rows.iter().collect();
    in_order.sort_by_key(|placed| (placed.row.span.start(), placed.line));
    let mut hosts: BTreeMap<&str, Held<'_>> = BTreeMap::new();
    for Placed { line, row } in in_order {
        let held = hosts.entry(&row.host).or_default();
        let (start, end) = (row.span.start(), row.span.end());
        let other = match &row.selector {
            LeaseSelector::WholeHost | LeaseSelector::Count { .. } => {
                let other = held.all.still_at(start);
                held.any.add(end, *line);
                other
            }
            LeaseSelector::Accelerator(id) => {
                let one = held.one.entry(id).or_default();
                let other = one.still_at(start).or(held.any.still_at(start));
                one.add(end, *line);
                other
            }
        };
        held.all.add(end, *line);
        if let Some(other) = other {
            let (first, second) = two(*line, other);
            let mut problem = format!("{unit}s {first} and {second} overlap on host \"{}\"", row.host);
            if let (Some(a), Some(b)) = (of_line.get(&first), of_line.get(&second))
                && let Some(both) = a.span.overlap(&b.span)
            {
                let (from, to) = (both.start(), both.end());
                problem.push_str(&format!(" from {from} to {to}, lease {} and lease {}", a.lease, b.lease));
            }
            problem.push_str(", expected one lease of an accelerator at a time");
            faults.overlap(second, Some("accelerator"), problem);
        }
    }
}

fn refuse_two_holders(rows: &[Placed<LeaseRow>], unit: &str, faults: &mut Faults) {
    let mut holders: BTreeMap<&AttemptId, &Placed<LeaseRow>> = BTreeMap::new();
    for placed in rows {
        let first = holders.entry(&placed.row.lease).or_insert(placed);
        if first.row.principal != placed.row.principal {
            let problem = format!(
                "\"{}\", expected \"{}\" as on {unit} {}: a lease has one holder",
                placed.row.principal, first.row.principal, first.line
            );
            faults.add(placed.line, Some("principal"), problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_reads_back_as_written() {
        for text in ["*", "GPU-6f1b", "8x10de:2330", "host/0000:81:00.0", "0x1002"] {
            assert_eq!(text.parse::<LeaseSelector>().unwrap().to_string(), text);
        }
        let count = LeaseSelector::Count { count: 8, vendor: 0x10de, device: 0x26b9 };
        assert_eq!("8x10DE:26B9".parse(), Ok(count));
    }

    #[test]
    fn a_mistyped_count_does_not_pass_for_an_id() {
        for text in [
            "0x10de:2330",
            "8x10de:233",
            "8x10de:",
            "8xé:2330",
            "9999x10de:2330",
            "8x+0de:2330",
            "GPU-*",
            "**",
            "",
        ] {
            assert_eq!(text.parse::<LeaseSelector>(), Err(BadSelector), "{text}");
        }
    }
}
