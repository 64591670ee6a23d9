//! `agents.csv`: the agents that may send, each with the key it signs with.

use std::{collections::BTreeMap, fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use weighbridge_meter::{AgentId, Trust, UtcMillis};

use super::{
    Faults, ImportErrors, Latest, Placed, Row, Shape, TIME, TIME_OR_BLANK, Values, end, label, read, two,
};

/// From `valid_from` until `valid_to`, batches of this agent may be signed with this key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRow {
    /// The agent.
    pub agent: AgentId,
    /// The host it runs on.
    pub host: Box<str>,
    /// The site that host is at.
    pub site: Box<str>,
    /// What joins its accelerators to others: one training run can span a fabric.
    pub fabric: Box<str>,
    /// The key it signs with.
    pub public_key: PublicKey,
    /// The first moment.
    pub valid_from: UtcMillis,
    /// The first moment after, later than `valid_from`; `None` while it lasts.
    pub valid_to: Option<UtcMillis>,
    /// How far what it says of itself is believed at most; blank or without the column `host`.
    pub trust: Trust,
}

impl AgentRow {
    /// Whether the key may be used at `moment`.
    pub fn holds_at(&self, moment: UtcMillis) -> bool {
        self.valid_from <= moment && self.valid_to.is_none_or(|end| moment < end)
    }
}

/// The 32 bytes of an Ed25519 public key; as text standard base64, 44 characters.
/// Whether they are a point of the curve is for whoever checks a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// What the text form must be, in words for an error message.
    pub const EXPECTED: &'static str = "a public key: 32 bytes in standard base64, 44 characters";
}

impl FromStr for PublicKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = STANDARD.decode(text).map_err(|_| Self::EXPECTED)?;
        bytes.try_into().map(Self).map_err(|_| Self::EXPECTED)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(|expected| de::Error::custom(format!("not {expected}")))
    }
}

const SHAPE: Shape = Shape {
    columns: &["agent", "host", "site", "fabric", "public_key", "valid_from", "valid_to", "trust"],
    optional: 1,
    values: Values::Shown,
};

/// Reads `agents.csv`: `agent,host,site,fabric,public_key,valid_from,valid_to,trust`. The last column may be missing.
///
/// A blank `valid_to` leaves the row open. Rows of one agent may overlap while it changes its key; they must then
/// agree on where it is. A key belongs to one agent.
///
/// # Errors
/// Every fault in the file; nothing of it is imported then.
pub fn parse_agents(file_name: &str, text: &[u8]) -> Result<Vec<AgentRow>, ImportErrors> {
    read(file_name, text, &SHAPE, parse, |rows, faults| {
        refuse_shared_keys(rows, faults);
        refuse_two_places(rows, faults);
    })
}

fn parse(row: &mut Row<'_>) -> Option<AgentRow> {
    let agent = row.required("agent", "an agent id: 1 to 96 printable characters without blanks", |text| {
        text.parse().ok()
    });
    let host =
        row.required("host", "a host: 1 to 253 printable characters without blanks", |text| label(text, 253));
    let site =
        row.required("site", "a site: 1 to 96 printable characters without blanks", |text| label(text, 96));
    let fabric = row
        .required("fabric", "a fabric: 1 to 96 printable characters without blanks", |text| label(text, 96));
    let public_key = row.required("public_key", PublicKey::EXPECTED, |text| text.parse().ok());
    let valid_from: Option<UtcMillis> = row.required("valid_from", TIME, |text| text.parse().ok());
    let valid_to: Option<Option<UtcMillis>> =
        row.optional("valid_to", TIME_OR_BLANK, |text| text.parse().ok());
    let trust = row.optional("trust", "blank, guest, host or bmc", Trust::from_name);
    if let (Some(from), Some(Some(to))) = (valid_from, valid_to)
        && to <= from
    {
        row.fault("valid_to", &to.to_string(), &format!("a time after valid_from, {from}"));
        return None;
    }
    Some(AgentRow {
        agent: agent?,
        host: host?,
        site: site?,
        fabric: fabric?,
        public_key: public_key?,
        valid_from: valid_from?,
        valid_to: valid_to?,
        trust: trust?.unwrap_or(Trust::Host),
    })
}

fn refuse_shared_keys(rows: &[Placed<AgentRow>], faults: &mut Faults) {
    let mut owners: BTreeMap<PublicKey, &Placed<AgentRow>> = BTreeMap::new();
    for placed in rows {
        let first = owners.entry(placed.row.public_key).or_insert(placed);
        if first.row.agent != placed.row.agent {
            let problem = format!(
                "the key of agent \"{}\" on line {}, expected a key of its own for agent \"{}\"",
                first.row.agent, first.line, placed.row.agent
            );
            faults.add(placed.line, Some("public_key"), problem);
        }
    }
}

/// What is in force for one agent, going through its rows by time.
struct InForce<'a> {
    place: (&'a str, &'a str, &'a str),
    there: Latest,
    keys: BTreeMap<PublicKey, Latest>,
}

/// Rows of one agent that overlap in time but name different places, or the same key twice.
fn refuse_two_places(rows: &[Placed<AgentRow>], faults: &mut Faults) {
    let mut in_order: Vec<_> = rows.iter().collect();
    in_order.sort_by_key(|placed| (placed.row.valid_from, placed.line));
    let mut agents: BTreeMap<&AgentId, InForce<'_>> = BTreeMap::new();
    for Placed { line, row } in in_order {
        let place: (&str, &str, &str) = (&row.host, &row.site, &row.fabric);
        let in_force = agents.entry(&row.agent).or_insert_with(|| InForce {
            place,
            there: Latest::default(),
            keys: BTreeMap::new(),
        });
        let mut refuse = |other, column, expected| {
            let (first, second) = two(*line, other);
            let problem = format!(
                "lines {first} and {second} overlap for agent \"{}\", expected {expected}",
                row.agent
            );
            faults.add(second, Some(column), problem);
        };
        let key = in_force.keys.entry(row.public_key).or_default();
        if let Some(other) = key.still_at(row.valid_from) {
            refuse(other, "public_key", "each key once at a time");
        }
        key.add(end(row.valid_to), *line);
        match in_force.there.still_at(row.valid_from) {
            Some(other) if in_force.place != place => {
                refuse(other, "host", "one host, site and fabric at a time");
            }
            _ => {
                in_force.place = place;
                in_force.there.add(end(row.valid_to), *line);
            }
        }
    }
}
