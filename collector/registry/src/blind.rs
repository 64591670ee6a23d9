//! Who has this name, number or address: found exactly, without a value in clear and without anything on a disk.
//!
//! The index holds keyed hashes under a key that is drawn when the process starts and never leaves it. It is built from
//! opened parties and follows each change. An index that is kept, under a key that is kept, would let whoever holds
//! that key test guesses for ever, also against parties whose own keys were destroyed; of this one nothing is left when
//! a party is taken out of it.
//!
//! Values are compared as they are told, after what only writing changes is taken away (the normal forms are those of
//! `normal`). Deliberately absent: names that are alike, other scripts, numbers without their country. That is the work
//! of matching, which needs the values.

mod normal;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    Party, PartyId, RandomSource,
    party::{Payment, Scheme},
};

/// What somebody is looked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// A whole name, of any kind.
    Name,
    /// An email address.
    Email,
    /// A telephone number.
    Telephone,
    /// A name in the domain system: one that it says is its own, or that of an email address.
    Domain,
    /// A number that somebody gave it, of this scheme.
    Identifier(Scheme),
    /// A number that somebody gave it, of any scheme.
    Number,
    /// From what it pays.
    PaymentSource,
    /// A whole address.
    Address,
    /// A network address from which it used the service.
    Access,
}

/// What several parties may have in common, as a sign that one controls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sign {
    /// From what they pay.
    PaymentSource,
    /// A telephone number.
    Telephone,
    /// An email address.
    Email,
    /// A domain, of their own or of their email addresses.
    Domain,
    /// A whole address.
    Address,
    /// A network from which they use the service: a /24, of IPv6 a /48.
    Network,
}

impl What {
    /// What the text form must be, in words for an error message.
    pub const EXPECTED: &'static str = "name, email, telephone, domain, number, payment_source, address, access, passport, national_id, \
         driving_licence, residence_permit, tax, registration, lei or other";

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Email => "email",
            Self::Telephone => "telephone",
            Self::Domain => "domain",
            Self::Number => "number",
            Self::PaymentSource => "payment_source",
            Self::Address => "address",
            Self::Access => "access",
            Self::Identifier(scheme) => scheme.as_str(),
        }
    }

    /// By its name.
    pub fn from_name(text: &str) -> Option<Self> {
        let plain = [
            Self::Name,
            Self::Email,
            Self::Telephone,
            Self::Domain,
            Self::Number,
            Self::PaymentSource,
            Self::Address,
            Self::Access,
        ];
        let of_schemes = Scheme::ALL.map(Self::Identifier);
        plain.into_iter().chain(of_schemes).find(|what| what.as_str() == text)
    }
}

impl Sign {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PaymentSource => "payment_source",
            Self::Telephone => "telephone",
            Self::Email => "email",
            Self::Domain => "domain",
            Self::Address => "address",
            Self::Network => "network",
        }
    }

    /// Every one of them.
    pub const ALL: [Self; 6] =
        [Self::PaymentSource, Self::Telephone, Self::Email, Self::Domain, Self::Address, Self::Network];

    fn kind(self) -> Kind {
        match self {
            Self::PaymentSource => Kind::Of(What::PaymentSource),
            Self::Telephone => Kind::Of(What::Telephone),
            Self::Email => Kind::Of(What::Email),
            Self::Domain => Kind::Of(What::Domain),
            Self::Address => Kind::Of(What::Address),
            Self::Network => Kind::Network,
        }
    }
}

/// Parties that have something in common. What it is can be seen by opening one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Two or more, in order.
    pub parties: Vec<PartyId>,
    /// How many values all of these share, and nobody else.
    pub values: usize,
}

/// A value that so many have in common that it says nothing about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooCommon {
    /// How many.
    pub parties: usize,
    /// The first of them, so that somebody can look what it is.
    pub one: PartyId,
}

/// What parties have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// In the order of their parties.
    pub groups: Vec<Group>,
    /// The most common first.
    pub too_common: Vec<TooCommon>,
}

/// The index.
pub struct Blind {
    key: Zeroizing<[u8; 32]>,
    holders: HashMap<Tag, Holders>,
    numbers: HashMap<PartyId, u32>,
    /// By number.
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
}

/// A value, as the index knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Tag(Kind, [u8; 16]);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Of(What),
    Network,
}

enum Holders {
    One(u32),
    Many(BTreeSet<u32>),
}

struct Entry {
    id: PartyId,
    /// Each once.
    tags: Box<[Tag]>,
}

impl Blind {
    /// An empty one, with a key of its own.
    pub fn new(random: RandomSource<'_>) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        random(&mut *key);
        Self { key, holders: HashMap::new(), numbers: HashMap::new(), entries: Vec::new(), free: Vec::new() }
    }

    /// Puts a party in, in place of what was known of it.
    pub fn replace(&mut self, id: &PartyId, party: &Party) {
        self.replace_with(id, party, []);
    }

    /// As [`Blind::replace`], with addresses from which a log says that it used the service.
    pub fn replace_with(&mut self, id: &PartyId, party: &Party, accesses: impl IntoIterator<Item = IpAddr>) {
        self.remove(id);
        let mut tags = self.tags(party);
        let told = party.accesses.iter().map(|access| access.address);
        for address in told.chain(accesses) {
            tags.push(self.tag(Kind::Of(What::Access), normal::access(address).as_bytes()));
            tags.push(self.tag(Kind::Network, network(address).as_bytes()));
        }
        tags.sort_unstable();
        tags.dedup();
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.entries.push(None);
                u32::try_from(self.entries.len() - 1).expect("no memory holds four milliards of parties")
            }
        };
        for tag in &tags {
            self.holders
                .entry(*tag)
                .and_modify(|holders| holders.add(number))
                .or_insert(Holders::One(number));
        }
        self.numbers.insert(id.clone(), number);
        self.entries[number as usize] = Some(Entry { id: id.clone(), tags: tags.into() });
    }

    /// Takes a party out, with everything that was known of it.
    pub fn remove(&mut self, id: &PartyId) {
        let Some(number) = self.numbers.remove(id) else { return };
        let entry = self.entries[number as usize].take();
        for tag in entry.iter().flat_map(|entry| &entry.tags) {
            let is_empty = self.holders.get_mut(tag).is_some_and(|holders| holders.take(number));
            if is_empty {
                self.holders.remove(tag);
            }
        }
        self.free.push(number);
    }

    /// Who has this value, in order; nobody where the text is no such value.
    pub fn find(&self, what: What, text: &str) -> Vec<PartyId> {
        let Some(normal) = normal::of(what, text) else { return Vec::new() };
        let holders = self.holders.get(&self.tag(Kind::Of(what), normal.as_bytes()));
        holders.map(|holders| self.ids(holders)).unwrap_or_default()
    }

    /// How many parties are in it.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Who has what in common. What more than `most` share is told as too common. Of domains, those of `free_mail`,
    /// at which anybody can have an address, do not count.
    pub fn shared(&self, sign: Sign, most: usize, free_mail: &[&str]) -> Shared {
        let kind = sign.kind();
        let free: BTreeSet<Tag> = match sign {
            Sign::Domain => {
                let known = free_mail.iter().filter_map(|domain| normal::of(What::Domain, domain));
                known.map(|domain| self.tag(kind, domain.as_bytes())).collect()
            }
            _ => BTreeSet::new(),
        };
        let mut groups: BTreeMap<Vec<PartyId>, usize> = BTreeMap::new();
        let mut too_common = Vec::new();
        let of_kind = self.holders.iter().filter(|(tag, _)| tag.0 == kind && !free.contains(tag));
        for (_, holders) in of_kind {
            let Holders::Many(numbers) = holders else { continue };
            let mut parties = self.ids(holders);
            if numbers.len() > most {
                too_common.push(TooCommon { parties: numbers.len(), one: parties.swap_remove(0) });
            } else {
                *groups.entry(parties).or_default() += 1;
            }
        }
        // The order in which they lie here is another one in each process.
        too_common.sort_by(|a, b| b.parties.cmp(&a.parties).then_with(|| a.one.cmp(&b.one)));
        let groups = groups.into_iter().map(|(parties, values)| Group { parties, values }).collect();
        Shared { groups, too_common }
    }

    fn tags(&self, party: &Party) -> Vec<Tag> {
        let mut tags = Vec::new();
        let mut add = |what, text: &str| {
            if let Some(normal) = normal::of(what, text) {
                tags.push(self.tag(Kind::Of(what), normal.as_bytes()));
            }
        };
        party.names.iter().for_each(|name| add(What::Name, &name.full));
        for email in &party.emails {
            add(What::Email, email);
            if let Some((_, domain)) = email.rsplit_once('@') {
                add(What::Domain, domain);
            }
        }
        party.telephones.iter().for_each(|number| add(What::Telephone, number));
        party.domains.iter().for_each(|domain| add(What::Domain, domain));
        for identifier in &party.identifiers {
            add(What::Identifier(identifier.scheme), &identifier.number);
            add(What::Number, &identifier.number);
        }
        let sources = party.payments.iter().filter_map(|payment: &Payment| payment.source.as_ref());
        sources.for_each(|source| add(What::PaymentSource, source));
        party.addresses.iter().for_each(|address| add(What::Address, &address.full));
        tags
    }

    fn tag(&self, kind: Kind, normal: &[u8]) -> Tag {
        let (name, scheme): (u8, u8) = match kind {
            Kind::Network => (0, 0),
            Kind::Of(What::Name) => (1, 0),
            Kind::Of(What::Email) => (2, 0),
            Kind::Of(What::Telephone) => (3, 0),
            Kind::Of(What::Domain) => (4, 0),
            Kind::Of(What::Identifier(scheme)) => (5, scheme as u8),
            Kind::Of(What::Number) => (6, 0),
            Kind::Of(What::PaymentSource) => (7, 0),
            Kind::Of(What::Address) => (8, 0),
            Kind::Of(What::Access) => (9, 0),
        };
        // Half of a hash cannot be made longer by who does not know the key, and nothing of it leaves the process.
        let keyed = Sha256::new().chain_update(*self.key).chain_update([name, scheme]);
        let hash = keyed.chain_update(normal).finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        Tag(kind, half)
    }

    fn ids(&self, holders: &Holders) -> Vec<PartyId> {
        let id = |number: &u32| self.entries[*number as usize].as_ref().map(|entry| entry.id.clone());
        let mut ids: Vec<PartyId> = match holders {
            Holders::One(number) => id(number).into_iter().collect(),
            Holders::Many(numbers) => numbers.iter().filter_map(id).collect(),
        };
        ids.sort_unstable();
        ids
    }
}

impl Holders {
    fn add(&mut self, number: u32) {
        match self {
            Self::One(first) => *self = Self::Many(BTreeSet::from([*first, number])),
            Self::Many(numbers) => drop(numbers.insert(number)),
        }
    }

    /// Whether nobody is left.
    fn take(&mut self, number: u32) -> bool {
        match self {
            Self::One(_) => true,
            Self::Many(numbers) => {
                numbers.remove(&number);
                if let (1, Some(last)) = (numbers.len(), numbers.first().copied()) {
                    *self = Self::One(last);
                }
                false
            }
        }
    }
}

impl fmt::Debug for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blind").field("parties", &self.len()).finish_non_exhaustive()
    }
}

/// The network of an address: a /24, of IPv6 a /48.
fn network(address: IpAddr) -> Zeroizing<String> {
    Zeroizing::new(match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & !0xff).to_string(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 48)).to_string(),
    })
}

#[cfg(test)]
mod tests;
