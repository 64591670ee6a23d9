//! Reads the text of a PDF back, as far as reports need it: by the numbers of characters in its pages, and the tables
//! that say which characters these are.

use std::{collections::BTreeMap, io::Read};

/// The text of a page in the order in which it is written, without blanks.
#[derive(Default)]
pub(crate) struct Page {
    /// What is read aloud.
    pub(crate) read: String,
    /// What is for the eye alone: feet of pages, and headings of tables that go on.
    pub(crate) seen: String,
}

/// Every page.
pub(crate) fn pages(pdf: &[u8]) -> Vec<Page> {
    let objects = streams(pdf);
    let tables: Vec<BTreeMap<u16, String>> = objects
        .iter()
        .filter(|text| holds(text, b"begincmap"))
        .map(|text| table(&String::from_utf8_lossy(text)))
        .collect();
    objects.iter().filter(|text| holds(text, b"BDC\nBT")).map(|text| page(text, &tables)).collect()
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// Every packed stream, unpacked.
fn streams(pdf: &[u8]) -> Vec<Vec<u8>> {
    let (mut all, mut rest) = (Vec::new(), pdf);
    while let Some(begin) = find(rest, b"\nstream\n") {
        rest = &rest[begin + 8..];
        let end = find(rest, b"\nendstream").expect("a stream ends");
        let mut text = Vec::new();
        flate2::read::ZlibDecoder::new(&rest[..end]).read_to_end(&mut text).expect("packed");
        all.push(text);
        rest = &rest[end..];
    }
    all
}

fn table(text: &str) -> BTreeMap<u16, String> {
    let lines = text.lines().filter_map(|line| {
        let (number, characters) = line.strip_prefix('<')?.strip_suffix('>')?.split_once("> <")?;
        let units: Vec<u16> = (0..characters.len() / 4)
            .map(|place| u16::from_str_radix(&characters[place * 4..place * 4 + 4], 16).expect("digits"))
            .collect();
        // The range of all numbers looks alike.
        let number = u16::from_str_radix(number, 16).ok()?;
        Some((number, String::from_utf16(&units).ok()?))
    });
    lines.filter(|(number, _)| *number != 0).collect()
}

fn page(content: &[u8], tables: &[BTreeMap<u16, String>]) -> Page {
    let mut page = Page::default();
    for part in
        content.split_inclusive(|byte| *byte == b'\n').collect::<Vec<_>>().split(|line| *line == b"EMC\n")
    {
        let part = part.concat();
        let text = if part.starts_with(b"/Artifact") { &mut page.seen } else { &mut page.read };
        piece(text, &part, tables);
    }
    page
}

fn piece(text: &mut String, content: &[u8], tables: &[BTreeMap<u16, String>]) {
    let (mut font, mut at) = (0, 0);
    while at < content.len() {
        match content[at] {
            b'/' if content.get(at + 1) == Some(&b'F') => {
                font = usize::from(content[at + 2] - b'0');
                at += 3;
            }
            b'<' if content.get(at + 1) != Some(&b'<') => {
                let end = at + find(&content[at..], b">").expect("it ends");
                let digits = std::str::from_utf8(&content[at + 1..end]).expect("digits");
                let bytes: Vec<u8> = (0..digits.len() / 2)
                    .map(|place| u8::from_str_radix(&digits[place * 2..place * 2 + 2], 16).expect("digits"))
                    .collect();
                push(text, &bytes, &tables[font]);
                at = end + 1;
            }
            b'<' => at += 2,
            b'(' => {
                let (bytes, end) = literal(content, at + 1);
                push(text, &bytes, &tables[font]);
                at = end;
            }
            _ => at += 1,
        }
    }
}

/// A text in brackets, and where it ends.
fn literal(content: &[u8], mut at: usize) -> (Vec<u8>, usize) {
    let (mut bytes, mut depth) = (Vec::new(), 1);
    loop {
        match content[at] {
            b'\\' => {
                at += 1;
                if content[at].is_ascii_digit() {
                    let digits = std::str::from_utf8(&content[at..at + 3]).expect("digits");
                    bytes.push(u8::from_str_radix(digits, 8).expect("octal"));
                    at += 3;
                    continue;
                }
                bytes.push(match content[at] {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'f' => 12,
                    other => other,
                });
            }
            b'(' => {
                depth += 1;
                bytes.push(b'(');
            }
            b')' => {
                depth -= 1;
                if depth == 0 {
                    return (bytes, at + 1);
                }
                bytes.push(b')');
            }
            other => bytes.push(other),
        }
        at += 1;
    }
}

fn push(text: &mut String, bytes: &[u8], table: &BTreeMap<u16, String>) {
    for pair in bytes.chunks(2) {
        let number = u16::from_be_bytes([pair[0], pair[1]]);
        text.extend(table[&number].chars().filter(|one| !one.is_whitespace()));
    }
}
