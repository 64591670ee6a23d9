//! Where on the network a customer uses the service from, against where it says that it does.
//!
//! Databases are files in MaxMind's format, as several publishers sell or give them away: by country, of anonymising
//! networks, of networks by number. None comes with the program. Both forms of a record are read, `{"country":
//! {"iso_code": "FR"}}` and `{"country_code": "FR"}`. Start with [`Database::open`], then [`compare`].
//!
//! What comes out are [`Signal`]s, and a signal decides nothing. A database says where a network is held to be used, a
//! month or so ago, not who sits at its end: a traveller, a tunnel or a rented machine is elsewhere. A signal may raise
//! a discrepancy, which a person resolves. Where a network is registered is not looked at: that is the country of a
//! company that holds addresses, not that of who uses them.
//!
//! A database is verified as it is opened, so that a damaged one is refused and not asked. The library bounds what one
//! look-up may cost, and the properties here hold it to that on damaged files.
//!
//! Deliberately absent: fetching databases, and places finer than a country.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
};

use maxminddb::{PathElement, Reader};
use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;

use crate::{
    AccessLog,
    party::{Country, Discrepancy, Party},
};

/// The most bytes of a database; the largest that are sold have a few hundred million.
pub const LARGEST: usize = 2 << 30;

/// The most databases that are asked together.
pub const MOST_DATABASES: usize = 16;

/// The most networks that one signal names.
const MOST_NETWORKS: usize = 10;

/// The most bytes of what a discrepancy says, less than a record takes.
const LONGEST_TEXT: usize = 4_000;

/// The most characters of a name, of a database or of who has a network.
const LONGEST_NAME: usize = 100;

/// A database of places on the network.
#[derive(Debug)]
pub struct Database {
    name: String,
    built: UtcMillis,
    reader: Reader<Vec<u8>>,
}

/// A file that is no database that can be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is no database in MaxMind's format that can be used: {problem}")]
pub struct BadDatabase {
    /// The file, as the caller named it.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Database {
    /// Reads and verifies one. `name` is how signals call it.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn open(name: &str, bytes: Vec<u8>) -> Result<Self, BadDatabase> {
        let name = shortened(name);
        let bad = |problem: String| BadDatabase { name: name.clone(), problem };
        if bytes.len() > LARGEST {
            return Err(bad(format!("{} bytes, expected at most {LARGEST}", bytes.len())));
        }
        let reader = Reader::from_source(bytes).map_err(|error| bad(shortened(&error.to_string())))?;
        reader.verify().map_err(|error| bad(shortened(&error.to_string())))?;
        let epoch = reader.metadata().build_epoch;
        // What has no date in this calendar has none.
        let built = i64::try_from(epoch).ok().filter(|seconds| *seconds < 253_402_300_800);
        let built = built.ok_or_else(|| bad("its date is beyond the year 9999".into()))?;
        Ok(Self { built: UtcMillis(built * 1_000), name, reader })
    }

    /// How signals call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it was built.
    pub fn built(&self) -> UtcMillis {
        self.built
    }

    /// Whole days since it was built; none where the clock says that this is still to come.
    pub fn age_days(&self, now: UtcMillis) -> i64 {
        (now.since(self.built) / UtcMillis::DAY).max(0)
    }

    fn look(&self, address: IpAddr) -> Option<Seen> {
        // An IPv6 address in a database of IPv4 alone is an error, and simply not known.
        let found = self.reader.lookup(address).ok().filter(maxminddb::LookupResult::has_data)?;
        fn read<'a, T: Deserialize<'a>>(
            found: &maxminddb::LookupResult<'a, Vec<u8>>,
            path: &[&'static str],
        ) -> Option<T> {
            let keys: Vec<PathElement<'_>> = path.iter().map(|key| PathElement::Key(key)).collect();
            // A value of another type is one that says something else.
            found.decode_path(&keys).ok().flatten()
        }
        let text = |path: &[&'static str]| read::<&str>(&found, path);
        let country = [&["country", "iso_code"][..], &["country_code"], &["country"]];
        let country = country.into_iter().find_map(|path| text(path)?.parse().ok());
        let flag =
            |name| [&[name][..], &["traits", name]].into_iter().any(|path| read(&found, path) == Some(true));
        let hosting = flag("is_hosting_provider");
        let hides = ["is_anonymous_vpn", "is_public_proxy", "is_residential_proxy", "is_tor_exit_node"];
        // Of a hosting provider the publisher says that it is anonymous, too.
        let anonymised = hides.into_iter().any(flag) || (flag("is_anonymous") && !hosting);
        let network = [&["autonomous_system_number"][..], &["traits", "autonomous_system_number"], &["asn"]];
        let network = network.into_iter().find_map(|path| {
            read::<u32>(&found, path).or_else(|| text(path)?.trim_start_matches("AS").parse().ok())
        });
        let organisation = [
            &["autonomous_system_organization"][..],
            &["traits", "autonomous_system_organization"],
            &["as_name"],
        ];
        let organisation = organisation.into_iter().find_map(text).map(shortened);
        Some(Seen { country, anonymised, hosting, network, organisation })
    }
}

/// In one line and not endless.
fn shortened(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(LONGEST_NAME).collect()
}

/// What databases say of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The country where it is used, as the first database says that knows one.
    pub country: Option<Country>,
    /// Whether it hides who uses it: a tunnel, a proxy, an exit of Tor.
    pub anonymised: bool,
    /// Whether it belongs to machines that are let, and so to no place of a person.
    pub hosting: bool,
    /// The number of its network.
    pub network: Option<u32>,
    /// Who has that network.
    pub organisation: Option<String>,
}

/// Databases that are asked together.
#[derive(Debug, Default)]
pub struct Places {
    databases: Vec<Database>,
}

impl Places {
    /// Takes another one; `false` where there are [`MOST_DATABASES`] already.
    #[must_use]
    pub fn add(&mut self, database: Database) -> bool {
        let room = self.databases.len() < MOST_DATABASES;
        if room {
            self.databases.push(database);
        }
        room
    }

    /// All of them, in the order in which they are asked.
    pub fn databases(&self) -> &[Database] {
        &self.databases
    }

    /// What they say of an address. Of each thing the first one counts that knows it; one that says that it is
    /// anonymised, or of hosting, is enough.
    pub fn look(&self, address: IpAddr) -> Seen {
        self.look_by(address).0
    }

    /// And which of them said something.
    fn look_by(&self, address: IpAddr) -> (Seen, BTreeSet<usize>) {
        let mut seen = Seen::default();
        let mut by = BTreeSet::new();
        for (place, database) in self.databases.iter().enumerate() {
            let Some(said) = database.look(address.to_canonical()) else { continue };
            by.insert(place);
            seen.country = seen.country.or(said.country);
            seen.anonymised |= said.anonymised;
            seen.hosting |= said.hosting;
            seen.network = seen.network.or(said.network);
            seen.organisation = seen.organisation.or(said.organisation);
        }
        (seen, by)
    }
}

/// How what is observed stands to what is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceState {
    /// A country that is declared.
    Agrees,
    /// Another one.
    Differs,
    /// Nobody can tell from where.
    Anonymised,
    /// From machines that are let.
    Hosting,
    /// No database knows a country, or none is declared.
    Unknown,
}

impl PlaceState {
    /// Its name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Differs => "differs",
            Self::Anonymised => "anonymised",
            Self::Hosting => "hosting",
            Self::Unknown => "unknown",
        }
    }
}

/// A database as it was when it was asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Which.
    pub database: String,
    /// When it was built.
    pub built: UtcMillis,
    /// Whole days since then.
    pub age_days: i64,
}

/// Uses of the service from one country that stand the same way to what is declared. It decides nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// How they stand.
    pub state: PlaceState,
    /// The country, where one is known; of anonymised uses it says nothing, and is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<Country>,
    /// What is declared.
    pub declared: Vec<Country>,
    /// From how many addresses.
    pub addresses: u64,
    /// How many uses.
    pub uses: u64,
    /// The first.
    pub first: UtcMillis,
    /// The last.
    pub last: UtcMillis,
    /// Numbers of the networks, the smallest ten.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub networks: BTreeSet<u32>,
    /// Who says so; where nobody knows an address, who was asked.
    pub databases: Vec<Asked>,
    /// When this was compared.
    pub at: UtcMillis,
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signal({}, {} addresses)", self.state.as_str(), self.addresses)
    }
}

/// Compares where a customer says that it uses the service with what databases say of the addresses it used.
pub fn compare(declared: &[Country], observed: &AccessLog, places: &Places, now: UtcMillis) -> Vec<Signal> {
    let declared: BTreeSet<Country> = declared.iter().copied().collect();
    let asked = |place: &usize| {
        let database = places.databases.get(*place)?;
        Some(Asked {
            database: database.name.clone(),
            built: database.built,
            age_days: database.age_days(now),
        })
    };
    let all: BTreeSet<usize> = (0..places.databases.len()).collect();
    let mut signals: BTreeMap<(PlaceState, Option<Country>), (Signal, BTreeSet<usize>)> = BTreeMap::new();
    let mut latest: Option<(IpAddr, Seen, BTreeSet<usize>)> = None;
    for entry in observed.entries() {
        let again = matches!(&latest, Some((address, _, _)) if *address == entry.address);
        if !again {
            let (seen, by) = places.look_by(entry.address);
            latest = Some((entry.address, seen, by));
        }
        let Some((_, seen, by)) = &latest else { continue };
        let state = match seen.country {
            _ if seen.anonymised => PlaceState::Anonymised,
            _ if seen.hosting => PlaceState::Hosting,
            Some(country) if declared.contains(&country) => PlaceState::Agrees,
            Some(_) if !declared.is_empty() => PlaceState::Differs,
            _ => PlaceState::Unknown,
        };
        let country = seen.country.filter(|_| state != PlaceState::Anonymised);
        let (signal, of) = signals.entry((state, country)).or_insert_with(|| {
            let signal = Signal {
                state,
                country,
                declared: declared.iter().copied().collect(),
                addresses: 0,
                uses: 0,
                first: entry.first,
                last: entry.last,
                networks: BTreeSet::new(),
                databases: Vec::new(),
                at: now,
            };
            (signal, BTreeSet::new())
        });
        of.extend(if by.is_empty() { &all } else { by });
        signal.addresses += u64::from(!again);
        signal.uses = signal.uses.saturating_add(entry.count);
        signal.first = signal.first.min(entry.first);
        signal.last = signal.last.max(entry.last);
        signal.networks.extend(seen.network);
        if signal.networks.len() > MOST_NETWORKS {
            signal.networks.pop_last();
        }
    }
    let signals = signals.into_values();
    signals
        .map(|(signal, of)| Signal { databases: of.iter().filter_map(asked).collect(), ..signal })
        .collect()
}

impl Signal {
    /// What does not fit together, if something does not: another country than those declared, by itself or of machines
    /// that are let, or no telling from where. Its name follows from state and country alone, so that the same signal
    /// raises it once, whatever was used since and whichever database says so.
    pub fn discrepancy(&self) -> Option<Discrepancy> {
        let country = self.country.filter(|country| !self.declared.contains(country));
        let (id, from) = match (self.state, country) {
            (PlaceState::Differs, Some(country)) => (format!("place:differs:{country}"), country.to_string()),
            (PlaceState::Hosting, Some(country)) if !self.declared.is_empty() => {
                (format!("place:hosting:{country}"), format!("machines that are let in {country}"))
            }
            (PlaceState::Anonymised, _) => {
                ("place:anonymised".into(), "networks that hide from where".into())
            }
            _ => return None,
        };
        let mut what = format!(
            "used from {from}: {} addresses, {} uses, {} to {}",
            self.addresses, self.uses, self.first, self.last
        );
        let declared: Vec<&str> = self.declared.iter().map(Country::as_str).collect();
        let declared = if declared.is_empty() { "nothing".into() } else { declared.join(", ") };
        let _ = write!(what, "; declared is {declared}");
        for Asked { database, built, age_days } in &self.databases {
            let _ = write!(what, "; by {database} of {built}, {age_days} days old");
        }
        while what.len() > LONGEST_TEXT {
            what.pop();
        }
        Some(Discrepancy { id, what: what.trim_end().into(), found: self.at, resolved: None })
    }
}

/// Raises in a record what does not fit together, each thing once, whether it is resolved by now or not. Returns how
/// many are new.
pub fn raise(party: &mut Party, signals: &[Signal]) -> usize {
    let before = party.discrepancies.len();
    for discrepancy in signals.iter().filter_map(Signal::discrepancy) {
        if party.discrepancies.iter().all(|known| known.id != discrepancy.id) {
            party.discrepancies.push(discrepancy);
        }
    }
    party.discrepancies.len() - before
}

/// Opens any bytes and asks of a few addresses: for tests of what foreign bytes can do.
pub fn read_anything(bytes: &[u8]) {
    let Ok(database) = Database::open("any", bytes.to_vec()) else { return };
    let mut places = Places::default();
    let _ = places.add(database);
    let mut log = AccessLog::default();
    for address in [[0, 0, 0, 0], [192, 0, 2, 7], [127, 255, 255, 255], [255, 255, 255, 255]] {
        log.add(crate::Access { address: address.into(), at: UtcMillis(0) }, crate::AccessKind::Access);
    }
    for first in [0x2001_u16, 0, 0xffff] {
        let address = std::net::Ipv6Addr::new(first, 0xdb8, 0, 0, 0, 0, 0, 1).into();
        log.add(crate::Access { address, at: UtcMillis(0) }, crate::AccessKind::Access);
    }
    let declared: Vec<Country> = Country::all().take(1).collect();
    for signal in compare(&declared, &log, &places, UtcMillis(0)) {
        let _ = signal.discrepancy();
    }
}
