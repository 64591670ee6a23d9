//! A log of uses of the service: `customer,address,at[,what]` as CSV, or the same keys as lines of JSON.
//!
//! It is read as it comes and not kept: what stays is an [`AccessLog`] for each customer, so memory follows the
//! different pairs of customer and address. A line is a row: no value goes over several. An address may have a port,
//! an IPv6 address brackets; a time is of RFC 3339, or in seconds since 1970.
//!
//! Every address and time is a customer's: no message repeats a value.
//!
//! Deliberately absent: logs of web servers. Which of their fields is the customer, only their operator knows.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read},
    net::{IpAddr, SocketAddr},
};

use serde::Deserialize;
use weighbridge_meter::UtcMillis;

use super::{Faults, ImportErrors};
use crate::{Access, AccessKind, AccessLog, CustomerId};

/// The most bytes of a line.
const LONGEST_LINE: u64 = 64 * 1024;

/// The last moment at which a use can have been, as of `now`: clocks differ by less than a day.
pub fn latest_access(now: UtcMillis) -> UtcMillis {
    UtcMillis(now.0.saturating_add(UtcMillis::DAY))
}

/// The most different pairs of customer and address in one log.
pub const MOST_PAIRS: usize = 2_000_000;

const COLUMNS: [&str; 4] = ["customer", "address", "at", "what"];

const ADDRESS: &str = "an IP address, with or without a port, IPv6 with one in brackets";
const AT: &str = "an RFC 3339 time, for example 2026-01-31T08:00:00Z, or seconds since 1970";

/// Reads a log. It is JSON where it begins with `{`, else CSV. What is more than a day ahead of `now` is no use: one
/// wrong row would keep a customer for as long as it says.
///
/// # Errors
/// Every fault in it, by line and column but without the values, and that it cannot be read; nothing of it is taken
/// then.
pub fn read_accesses(
    file_name: &str,
    mut log: impl BufRead,
    now: UtcMillis,
) -> Result<BTreeMap<CustomerId, AccessLog>, ImportErrors> {
    let mut faults = Faults::default();
    let mut logs = Logs::default();
    let latest = latest_access(now);
    let mut line = Vec::new();
    let mut form = None;
    for number in 1_u64.. {
        match next_line(&mut log, &mut line) {
            Ok(Next::End) => break,
            Ok(Next::Line) => {}
            Ok(Next::TooLong) => {
                faults.add(number, None, format!("a line of more than {LONGEST_LINE} bytes, expected fewer"));
                continue;
            }
            Err(error) => {
                faults.add(number, None, format!("the file cannot be read: {}", error.kind()));
                break;
            }
        }
        let text = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line };
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let form = match &form {
            Some(form) => form,
            None if text.starts_with(b"{") => form.insert(Form::Json),
            None => {
                let Some(places) = header(number, text, &mut faults) else {
                    return Err(faults.refused(file_name));
                };
                form = Some(Form::Csv(places));
                continue;
            }
        };
        let used = match form {
            Form::Json => json(number, text, latest, &mut faults),
            Form::Csv(places) => row(number, text, *places, latest, &mut faults),
        };
        let Some(used) = used else { continue };
        if !logs.add(used) {
            let problem = format!(
                "more than {MOST_PAIRS} different pairs of customer and address, expected fewer in one file"
            );
            faults.add(number, None, problem);
            break;
        }
    }
    if form.is_none() && faults.total == 0 {
        faults.add(
            1,
            None,
            "the file is empty, expected lines of JSON or the header customer,address,at,what".into(),
        );
    } else if logs.of.is_empty() && faults.total == 0 {
        faults.add(1, None, "no row follows the header, expected at least one".into());
    }
    faults.or(file_name, logs.of)
}

#[derive(Default)]
struct Logs {
    of: BTreeMap<CustomerId, AccessLog>,
    pairs: usize,
}

impl Logs {
    /// Whether there was room.
    fn add(&mut self, Used { customer, access, what }: Used) -> bool {
        let log = self.of.entry(customer).or_default();
        self.pairs += usize::from(!log.knows(access.address, what));
        log.add(access, what);
        self.pairs <= MOST_PAIRS
    }
}

struct Used {
    customer: CustomerId,
    access: Access,
    what: AccessKind,
}

#[derive(Clone, Copy)]
enum Form {
    Json,
    /// Where each column stands, and how many there are.
    Csv(([Option<usize>; 4], usize)),
}

enum Next {
    Line,
    TooLong,
    End,
}

/// Reads a line without what ends it; of one that is too long, what is beyond is passed over.
fn next_line(log: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Next> {
    line.clear();
    if log.by_ref().take(LONGEST_LINE).read_until(b'\n', line)? == 0 {
        return Ok(Next::End);
    }
    if line.last() == Some(&b'\n') || (line.len() as u64) < LONGEST_LINE {
        return Ok(Next::Line);
    }
    loop {
        let rest = log.fill_buf()?;
        let (used, ends) = match rest.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (rest.len(), rest.is_empty()),
        };
        log.consume(used);
        if ends {
            return Ok(Next::TooLong);
        }
    }
}

fn header(line: u64, text: &[u8], faults: &mut Faults) -> Option<([Option<usize>; 4], usize)> {
    let names: Option<Vec<String>> = str::from_utf8(text)
        .ok()
        .and_then(cells)
        .map(|names| names.iter().map(|name| name.trim().into()).collect());
    let names = names.unwrap_or_default();
    let places = COLUMNS.map(|column| names.iter().position(|name| name == column));
    let known = names.iter().all(|name| COLUMNS.contains(&name.as_str()));
    let told = places.iter().flatten().count();
    if !known || told != names.len() || places[..3].iter().any(Option::is_none) {
        let problem =
            "the first row is not a header, expected customer,address,at or customer,address,at,what";
        faults.add(line, None, problem.into());
        return None;
    }
    Some((places, names.len()))
}

/// The values of a row; `None` where a quote is not closed, or something stands behind it.
fn cells(text: &str) -> Option<Vec<String>> {
    let mut cells = Vec::new();
    let mut rest = text;
    loop {
        let mut cell = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let (before, after) = quoted.split_once('"')?;
                cell.push_str(before);
                match after.strip_prefix('"') {
                    Some(more) => {
                        cell.push('"');
                        quoted = more;
                    }
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
            if !rest.is_empty() && !rest.starts_with(',') {
                return None;
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let (value, after) = rest.split_at(end);
            cell.push_str(value);
            rest = after;
        }
        cells.push(cell);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Some(cells),
        }
    }
}

fn row(
    line: u64,
    text: &[u8],
    (places, count): ([Option<usize>; 4], usize),
    latest: UtcMillis,
    faults: &mut Faults,
) -> Option<Used> {
    let Ok(text) = str::from_utf8(text) else {
        faults.add(line, None, "bytes that are not UTF-8, expected UTF-8 text".into());
        return None;
    };
    let Some(cells) = cells(text) else {
        faults.add(line, None, "a value in quotes does not end with them, expected it to".into());
        return None;
    };
    if cells.len() != count {
        faults.add(line, None, format!("{} values, expected {count}, one a column", cells.len()));
        return None;
    }
    let [customer, address, at, what] =
        places.map(|place| place.and_then(|place| cells.get(place)).map_or("", |cell| cell.trim()));
    let what = Some(what).filter(|what| !what.is_empty());
    used(line, [Some(customer), Some(address), Some(at), what], latest, faults)
}

/// A line of JSON. Its values are looked at one by one, so that no message of the reader is needed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    customer: Option<Text<'a>>,
    #[serde(borrow)]
    address: Option<Text<'a>>,
    #[serde(borrow)]
    at: Option<Text<'a>>,
    #[serde(borrow)]
    what: Option<Text<'a>>,
}

type Text<'a> = &'a serde_json::value::RawValue;

fn json(line: u64, text: &[u8], latest: UtcMillis, faults: &mut Faults) -> Option<Used> {
    let Ok(told) = serde_json::from_slice::<Line<'_>>(text) else {
        let problem =
            "this is not a line of JSON as {\"customer\":…,\"address\":…,\"at\":…,\"what\":…}, expected one";
        faults.add(line, None, problem.into());
        return None;
    };
    let text = |value: Option<Text<'_>>| {
        let value = value?.get();
        // A number is as it is written.
        serde_json::from_str::<String>(value).ok().or_else(|| Some(value.to_owned()))
    };
    let [customer, address, at, what] = [told.customer, told.address, told.at, told.what].map(text);
    used(line, [customer.as_deref(), address.as_deref(), at.as_deref(), what.as_deref()], latest, faults)
}

fn used(
    line: u64,
    [customer, address, at, what]: [Option<&str>; 4],
    latest: UtcMillis,
    faults: &mut Faults,
) -> Option<Used> {
    let mut read = |column, expected: &str, told: Option<&str>, fits: bool| {
        if !fits {
            let found = match told {
                None | Some("") => "blank",
                Some(_) => "the value (withheld) does not fit",
            };
            faults.add(line, Some(column), format!("{found}, expected {expected}"));
        }
    };
    let of: Option<CustomerId> = customer.and_then(|text| text.parse().ok());
    read("customer", CustomerId::EXPECTED, customer, of.is_some());
    let from = address.and_then(ip);
    read("address", ADDRESS, address, from.is_some());
    let when = at.and_then(time);
    read("at", AT, at, when.is_some());
    let kind = what.map_or(Some(AccessKind::Access), |text| text.parse().ok());
    read("what", AccessKind::EXPECTED, what, kind.is_some());
    if let Some(when) = when.filter(|when| *when > latest) {
        // It is when nobody used anything, and so it may be shown.
        let problem = format!("{when} is still to come, expected a time of at most a day ahead: {latest}");
        faults.add(line, Some("at"), problem);
        return None;
    }
    Some(Used { customer: of?, access: Access { address: from?, at: when? }, what: kind? })
}

fn ip(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn time(text: &str) -> Option<UtcMillis> {
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = seconds.strip_prefix('-').unwrap_or(seconds);
    if !digits(unsigned) || !digits(decimals) || decimals.len() > 9 {
        return text.parse().ok();
    }
    // What is written in milliseconds is beyond the calendar.
    let seconds: i64 =
        seconds.parse().ok().filter(|seconds: &i64| (-62_135_596_800..253_402_300_800).contains(seconds))?;
    let millis: i64 = format!("{decimals:0<3}").get(..3)?.parse().ok()?;
    Some(UtcMillis(seconds * 1_000 + if text.starts_with('-') { -millis } else { millis }))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    /// 2026-02-01.
    const NOW: UtcMillis = UtcMillis(1_769_904_000_000);

    fn check(text: &str, expected: Expect) {
        expected.assert_eq(&match read_accesses("log", text.as_bytes(), NOW) {
            Ok(logs) => logs
                .iter()
                .flat_map(|(customer, log)| {
                    log.entries().map(move |entry| {
                        let AccessEntry { address, what, first, count, .. } = entry;
                        format!("{customer} {address} {what:?} {first} x{count}\n")
                    })
                })
                .collect(),
            Err(errors) => errors.to_string(),
        });
    }

    use crate::AccessEntry;

    #[test]
    fn a_log_is_read_with_ports_brackets_and_seconds() {
        check(
            "\u{feff}customer,address,at,what\r\n\
             B,[2001:db8::1]:443,1769846400,\r\n\
             \r\n\
             A,192.0.2.7:51000,2026-01-31T10:00:00+02:00,administration\r\n\
             \"A\",[2001:db8::1],1769846400.25,access\r\n\
             A,2001:db8::1,1769846399.5,access\r\n\
             A,192.0.2.7,\"1769846400\",administration",
            expect![[r#"
                A 192.0.2.7 Administration 2026-01-31T08:00:00Z x2
                A 2001:db8::1 Access 2026-01-31T07:59:59.5Z x1
                A 2001:db8::1 Access 2026-01-31T08:00:00.25Z x1
                B 2001:db8::1 Access 2026-01-31T08:00:00Z x1
            "#]],
        );
        check(
            "\n{\"customer\":\"A\",\"address\":\"192.0.2.7\",\"at\":1769846400}\n\
             {\"what\":\"administration\",\"at\":\"1769846400\",\"address\":\"192.0.2.7:1\",\"customer\":\"A\"}\n",
            expect![[r#"
                A 192.0.2.7 Access 2026-01-31T08:00:00Z x1
                A 192.0.2.7 Administration 2026-01-31T08:00:00Z x1
            "#]],
        );
    }

    #[test]
    fn every_fault_is_named_without_its_value() {
        check(
            "customer,address,at\n\
             Jane Doe,192.0.2,yesterday\n\
             A,192.0.2.7,1769846400000\n\
             A,192.0.2.7\n\
             A,\"192.0.2.7,1\n\
             ,,\n",
            expect![[r#"
                log is not imported, for 9 faults:
                log:2: customer: the value (withheld) does not fit, expected an account number, not a name: 1 to 64 printable ASCII characters without blanks
                log:2: address: the value (withheld) does not fit, expected an IP address, with or without a port, IPv6 with one in brackets
                log:2: at: the value (withheld) does not fit, expected an RFC 3339 time, for example 2026-01-31T08:00:00Z, or seconds since 1970
                log:3: at: the value (withheld) does not fit, expected an RFC 3339 time, for example 2026-01-31T08:00:00Z, or seconds since 1970
                log:4: 2 values, expected 3, one a column
                log:5: a value in quotes does not end with them, expected it to
                log:6: customer: blank, expected an account number, not a name: 1 to 64 printable ASCII characters without blanks
                log:6: address: blank, expected an IP address, with or without a port, IPv6 with one in brackets
                log:6: at: blank, expected an RFC 3339 time, for example 2026-01-31T08:00:00Z, or seconds since 1970"#]],
        );
        check(
            "{\"customer\":\"A\"}\n{\"customer\":\"A\",\"Jane\":1}\n{}{}\nJane\n\
             {\"customer\":\"A\",\"address\":\"fe80::1%eth0\",\"at\":[\"Jane\"],\"what\":\"Jane\"}\n",
            expect![[r#"
                log is not imported, for 8 faults:
                log:1: address: blank, expected an IP address, with or without a port, IPv6 with one in brackets
                log:1: at: blank, expected an RFC 3339 time, for example 2026-01-31T08:00:00Z, or seconds since 1970
                log:2: this is not a line of JSON as {"customer":…,"address":…,"at":…,"what":…}, expected one
                log:3: this is not a line of JSON as {"customer":…,"address":…,"at":…,"what":…}, expected one
                log:4: this is not a line of JSON as {"customer":…,"address":…,"at":…,"what":…}, expected one
                log:5: address: the value (withheld) does not fit, expected an IP address, with or without a port, IPv6 with one in brackets
                log:5: at: the value (withheld) does not fit, expected an RFC 3339 time, for example 2026-01-31T08:00:00Z, or seconds since 1970
                log:5: what: the value (withheld) does not fit, expected access or administration"#]],
        );
        check(
            "",
            expect![[r#"
                log is not imported, for 1 fault:
                log:1: the file is empty, expected lines of JSON or the header customer,address,at,what"#]],
        );
        check(
            "customer,address,at,who\n",
            expect![[r#"
                log is not imported, for 1 fault:
                log:1: the first row is not a header, expected customer,address,at or customer,address,at,what"#]],
        );
        check(
            "customer,address,at\n",
            expect![[r#"
                log is not imported, for 1 fault:
                log:1: no row follows the header, expected at least one"#]],
        );
        let long = format!("customer,address,at\nA,192.0.2.7,1{}\nA,192.0.2,1\n", " ".repeat(200_000));
        check(
            &long,
            expect![[r#"
                log is not imported, for 2 faults:
                log:2: a line of more than 65536 bytes, expected fewer
                log:3: address: the value (withheld) does not fit, expected an IP address, with or without a port, IPv6 with one in brackets"#]],
        );
    }

    #[test]
    fn what_is_still_to_come_was_no_use() {
        check(
            "customer,address,at\nA,192.0.2.7,9999-12-01T00:00:00Z\nA,192.0.2.7,1769990400\nA,::1,1769990400.001\n",
            expect![[r#"
                log is not imported, for 2 faults:
                log:2: at: 9999-12-01T00:00:00Z is still to come, expected a time of at most a day ahead: 2026-02-02T00:00:00Z
                log:4: at: 2026-02-02T00:00:00.001Z is still to come, expected a time of at most a day ahead: 2026-02-02T00:00:00Z"#]],
        );
    }

    /// Lines without end, of few customers and addresses.
    struct Endless {
        line: u64,
        left: Vec<u8>,
        lines: u64,
    }

    impl Read for Endless {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.left.is_empty() && self.line < self.lines {
                let line = self.line;
                self.left = format!("C-{},192.0.2.{},{}\n", line % 7, line % 11, 1_700_000_000 + line * 60)
                    .into_bytes();
                self.line += 1;
            }
            let count = self.left.len().min(into.len());
            into[..count].copy_from_slice(&self.left[..count]);
            self.left.drain(..count);
            Ok(count)
        }
    }

    #[test]
    fn of_a_long_log_no_more_is_kept_than_its_pairs_need() {
        let lines = 100_000;
        let log = b"customer,address,at\n".chain(Endless { line: 0, left: Vec::new(), lines });
        let logs = read_accesses("log", io::BufReader::new(log), UtcMillis(i64::MAX)).unwrap();
        assert_eq!(logs.values().map(AccessLog::count).sum::<u64>(), lines);
        assert_eq!(logs.values().map(AccessLog::addresses).sum::<usize>(), 77);
        let kept = logs.values().map(AccessLog::kept);
        assert!(kept.max().unwrap() <= crate::accesses::EXACT_TIMES);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, text in "(customer|[,{}\":.0-9\\[\\]-]|at|A|\n|\\PC){0,60}") {
            for begin in ["", "customer,address,at\n", "at,what,customer,address\n", "{\"customer\":\"A\",", "customer,address,at\nA,::1,"] {
                for bytes in [&bytes[..], text.as_bytes()] {
                    let _ = read_accesses("log", &[begin.as_bytes(), bytes].concat()[..], NOW);
                }
            }
        }

        #[test]
        fn an_address_is_read_however_it_is_written(address: IpAddr, port: u16) {
            let socket = SocketAddr::new(address, port).to_string();
            let bracketed = format!("[{address}]");
            for text in [address.to_string(), socket, bracketed] {
                prop_assert_eq!(ip(&text), Some(address), "{}", text);
            }
        }

        #[test]
        fn a_time_is_read_to_the_millisecond(millis in -62_135_596_799_000..253_402_300_800_000_i64) {
            let (seconds, rest) = (millis / 1_000, millis % 1_000);
            let sign = if seconds == 0 && rest < 0 { "-" } else { "" };
            prop_assert_eq!(time(&format!("{sign}{seconds}.{:03}", rest.abs())), Some(UtcMillis(millis)));
        }
    }
}
