//! Databases in MaxMind's format (version 2.0 of its published description): a tree of bits, then values, then what
//! the file is.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

/// A value.
#[derive(Clone)]
pub(crate) enum Data {
    Map(Vec<(&'static str, Data)>),
    Text(&'static str),
    Number(u32),
    Bool(bool),
}

/// What a file is to be.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Bits of a record: 24, 28 or 32.
    pub(crate) record_size: u16,
    /// 4 or 6.
    pub(crate) ip_version: u16,
    /// When it was built, in seconds.
    pub(crate) built: u64,
}

#[derive(Clone, Copy)]
enum Record {
    Empty,
    Node(usize),
    Data(usize),
}

const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

/// Writes a file in which each network has its value. None lies in another.
pub(crate) fn write(shape: Shape, networks: &[(IpAddr, u32, Data)]) -> Vec<u8> {
    let mut nodes = vec![[Record::Empty; 2]];
    let mut values = Vec::new();
    for (address, prefix, value) in networks {
        let offset = values.len();
        encode(value, &mut values);
        let (bits, width) = bits(*address, shape.ip_version);
        let prefix = match address {
            IpAddr::V4(_) => prefix + width - 32,
            IpAddr::V6(_) => *prefix,
        };
        let mut node = 0;
        for depth in 0..prefix {
            let side = usize::from(bits >> (width - 1 - depth) & 1 == 1);
            if depth + 1 == prefix {
                nodes[node][side] = Record::Data(offset);
                break;
            }
            node = match nodes[node][side] {
                Record::Node(next) => next,
                _ => {
                    nodes.push([Record::Empty; 2]);
                    let next = nodes.len() - 1;
                    nodes[node][side] = Record::Node(next);
                    next
                }
            };
        }
    }
    let mut file = Vec::new();
    for node in &nodes {
        let [left, right] = node.map(|record| {
            let value = match record {
                Record::Empty => nodes.len(),
                Record::Node(next) => next,
                Record::Data(offset) => nodes.len() + 16 + offset,
            };
            u32::try_from(value).expect("a test's file is small")
        });
        let ([a, b, c, d], [e, f, g, h]) = (left.to_be_bytes(), right.to_be_bytes());
        match shape.record_size {
            24 => file.extend([b, c, d, f, g, h]),
            28 => file.extend([b, c, d, a << 4 | e, f, g, h]),
            _ => file.extend([a, b, c, d, e, f, g, h]),
        }
    }
    file.extend([0; 16]);
    file.extend(values);
    file.extend(MARKER);
    let count = u32::try_from(nodes.len()).expect("a test's file is small");
    let about: BTreeMap<&str, Vec<u8>> = [
        ("binary_format_major_version", number(5, 2)),
        ("binary_format_minor_version", number(5, 0)),
        ("build_epoch", number(9, shape.built)),
        ("database_type", encoded(&Data::Text("Test"))),
        ("description", encoded(&Data::Map(vec![("en", Data::Text("made by a test"))]))),
        // A list of one text.
        ("languages", [vec![1, 4], encoded(&Data::Text("en"))].concat()),
        ("ip_version", number(5, shape.ip_version.into())),
        ("node_count", number(6, count.into())),
        ("record_size", number(5, shape.record_size.into())),
    ]
    .into();
    head(7, about.len(), &mut file);
    for (key, value) in about {
        text(key, &mut file);
        file.extend(value);
    }
    file
}

fn bits(address: IpAddr, ip_version: u16) -> (u128, u32) {
    match (address, ip_version) {
        (IpAddr::V4(address), 4) => (u32::from(address).into(), 32),
        (IpAddr::V4(address), _) => (u32::from(address).into(), 128),
        (IpAddr::V6(address), _) => (Ipv6Addr::to_bits(address), 128),
    }
}

fn head(kind: u8, size: usize, into: &mut Vec<u8>) {
    let small = u8::try_from(size.min(29)).expect("at most 29");
    into.push(if kind > 7 { small } else { kind << 5 | small });
    if kind > 7 {
        into.push(kind - 7);
    }
    if size >= 29 {
        into.push(u8::try_from(size - 29).expect("a test's values are short"));
    }
}

fn text(value: &str, into: &mut Vec<u8>) {
    head(2, value.len(), into);
    into.extend(value.bytes());
}

fn number(kind: u8, value: u64) -> Vec<u8> {
    let bytes: Vec<u8> = value.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    let mut into = Vec::new();
    head(kind, bytes.len(), &mut into);
    into.extend(bytes);
    into
}

fn encoded(value: &Data) -> Vec<u8> {
    let mut into = Vec::new();
    encode(value, &mut into);
    into
}

fn encode(value: &Data, into: &mut Vec<u8>) {
    match value {
        Data::Map(values) => {
            head(7, values.len(), into);
            for (key, value) in values {
                text(key, into);
                encode(value, into);
            }
        }
        Data::Text(value) => text(value, into),
        Data::Number(value) => into.extend(number(6, (*value).into())),
        Data::Bool(value) => head(14, usize::from(*value), into),
    }
}
