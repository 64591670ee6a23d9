//! What is said about customers, sites and the operator itself, from outside the measurement: reservations, what a
//! customer declares, which hosts share a fabric, results of other systems, measures of an authority, the operator's
//! own program. Each is dated, has an id within its kind, and is replaced by a later one with that id.
//!
//! A statement is read from a row of a file or from an object of JSON by the same rules ([`Statement::read`]), and
//! written as the same texts. What a customer declares may name persons and tell secrets of its trade: it is kept under
//! its key ([`Kind::is_sealed`]). All others hold nothing but numbers of the operator's books and what is public.
//!
//! Deliberately absent: what follows from any of it. That is for rules.

mod cell;

use std::{collections::BTreeMap, fmt};

use serde::{Serialize, Serializer, ser::SerializeMap};
use weighbridge_meter::{Operations, UtcMillis};

pub use cell::{Cell, Count, Effect, Label, Money, Sha256Hex, Text, Verdict, YesNo};

use crate::party::{CardReading, Country, NO_CARD, PartialDate, PartyId, is_card_number};

/// One field that does not hold what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCell {
    /// Which.
    pub field: &'static str,
    /// What was expected.
    pub expected: &'static str,
}

macro_rules! statements {
    ($(
        $(#[$doc:meta])*
        $type:ident $name:literal $plural:literal {
            $( $(#[$field_doc:meta])* $field:ident : $cell:ty [$need:ident] ),* $(,)?
        }
    )*) => {
        /// What a statement is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $( $(#[$doc])* $type ),* }

        impl Kind {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$type),*];

            /// Its name in ledgers.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$type => $name ),* }
            }

            /// What a file of them is called, on the command line and in paths.
            pub fn plural(self) -> &'static str {
                match self { $( Self::$type => $plural ),* }
            }

            /// Its fields, in the order of a file, each with whether it must be there.
            pub fn fields(self) -> &'static [(&'static str, bool)] {
                match self { $( Self::$type => &[$( (stringify!($field), statements!(@must $need)) ),*] ),* }
            }
        }

        impl Kind {
            /// The names of its fields.
            pub fn names(self) -> &'static [&'static str] {
                match self { $( Self::$type => &[$( stringify!($field) ),*] ),* }
            }
        }

        /// A statement.
        #[derive(Clone, PartialEq, Eq)]
        pub enum Statement { $( $(#[$doc])* $type($type) ),* }

        impl Statement {
            /// Which kind.
            pub fn kind(&self) -> Kind {
                match self { $( Self::$type(_) => Kind::$type ),* }
            }

            /// What tells it from others of its kind.
            pub fn id(&self) -> &str {
                match self { $( Self::$type(one) => one.id.as_str() ),* }
            }

            /// Every field that is there, as it is written.
            pub fn cells(&self) -> Vec<(&'static str, String)> {
                let mut cells = Vec::new();
                match self { $( Self::$type(one) => { $( statements!(@write $need, one.$field, stringify!($field), cells); )* } ),* }
                cells
            }

            fn read_cells<'a>(
                kind: Kind,
                of: impl Fn(&'static str) -> Option<&'a str>,
            ) -> Result<Self, Vec<BadCell>> {
                let mut bad = Vec::new();
                match kind { $( Kind::$type => {
                    $( let $field = statements!(@read $need, $cell, of(stringify!($field)), stringify!($field), bad); )*
                    match ($($field,)*) {
                        ($(Some($field),)*) if bad.is_empty() => Ok(Self::$type($type { $($field),* })),
                        _ => Err(bad),
                    }
                } ),* }
            }
        }

        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq)]
            pub struct $type { $( $(#[$field_doc])* pub $field: statements!(@type $need, $cell) ),* }
        )*
    };
    (@must must) => { true };
    (@must may) => { false };
    (@type must, $cell:ty) => { $cell };
    (@type may, $cell:ty) => { Option<$cell> };
    (@write must, $value:expr, $name:expr, $cells:ident) => { $cells.push(($name, $value.write())) };
    (@write may, $value:expr, $name:expr, $cells:ident) => {
        $cells.extend($value.as_ref().map(|value| ($name, value.write())))
    };
    (@read must, $cell:ty, $text:expr, $name:expr, $bad:ident) => {{
        let read = $text.and_then(<$cell as Cell>::read);
        if read.is_none() {
            $bad.push(BadCell { field: $name, expected: <$cell as Cell>::EXPECTED });
        }
        read
    }};
    (@read may, $cell:ty, $text:expr, $name:expr, $bad:ident) => {
        match $text {
            None => Some(None),
            Some(text) => match <$cell as Cell>::read(text) {
                Some(value) => Some(Some(value)),
                None => {
                    $bad.push(BadCell { field: $name, expected: <$cell as Cell>::EXPECTED });
                    None
                }
            },
        }
    };
}

statements! {
    /// Accelerators that a customer may have for a time, before a single operation ran.
    Reservation "reservation" "reservations" {
        /// Its id.
        id: Label [must],
        /// Whose.
        customer: PartyId [must],
        /// Which model, as the inventory or the contract names it.
        model: Label [must],
        /// How many.
        count: Count [must],
        /// From.
        from: UtcMillis [must],
        /// Before; without it, for good.
        to: UtcMillis [may],
        /// At which site.
        site: Label [may],
        /// What is paid for it.
        value: Money [may],
    }
    /// What a customer says that it does.
    Declaration "declaration" "declarations" {
        /// Its id.
        id: Label [must],
        /// Whose.
        customer: PartyId [must],
        /// What for.
        purpose: Text [must],
        /// In which number format.
        number_format: Text [may],
        /// Whether mostly on biological sequence data.
        biological_sequence_data: YesNo [may],
        /// Which model.
        model: Text [may],
        /// From which it starts.
        base_model: Text [may],
        /// How many operations it expects.
        expected_operations_tera: Operations [may],
        /// From.
        from: PartialDate [may],
        /// To.
        to: PartialDate [may],
        /// How it trains.
        training_practices: Text [may],
        /// How it protects weights and keeps others out.
        cybersecurity_practices: Text [may],
        /// Who signed.
        signed_by: Text [must],
        /// When.
        signed_on: PartialDate [must],
    }
    /// What joins a host to others.
    Topology "topology" "topologies" {
        /// Its id.
        id: Label [must],
        /// Which host.
        host: Label [must],
        /// In which datacenter.
        datacenter: Label [must],
        /// On which fabric.
        fabric: Label [must],
        /// How fast that is.
        gbit_per_s: Count [must],
        /// From.
        from: UtcMillis [must],
        /// Before.
        to: UtcMillis [may],
    }
    /// What an outside system found about exports: a classification, or whether a licence is needed.
    Classification "classification" "classifications" {
        /// Its id.
        id: Label [must],
        /// Of what.
        item: Label [must],
        /// Its number on a control list.
        classification: Label [may],
        /// For whom, where it is for one.
        customer: PartyId [may],
        /// What was found.
        result: Verdict [must],
        /// Number of the licence.
        licence: Label [may],
        /// From.
        from: UtcMillis [must],
        /// Before.
        to: UtcMillis [may],
        /// By which system.
        source: Label [must],
    }
    /// A sign that somebody else uses a customer's account.
    Compromise "compromise" "compromises" {
        /// Its id.
        id: Label [must],
        /// Whose account.
        customer: PartyId [must],
        /// Which sign.
        sign: Label [must],
        /// When.
        at: UtcMillis [must],
        /// Who noticed.
        source: Label [must],
        /// Hash of what shows it.
        evidence_sha256: Sha256Hex [may],
    }
    /// An authority prohibits or conditions accounts of a person or in a country (proposed 15 CFR 7.307, 89 FR 5698).
    SpecialMeasure "special_measure" "special-measures" {
        /// Its id.
        id: Label [must],
        /// Of which person, where it is of one.
        person: PartyId [may],
        /// In which country, where it is of one.
        country: Country [may],
        /// What it does.
        effect: Effect [must],
        /// When it was determined.
        determined: UtcMillis [must],
        /// By when it must be done.
        implement_by: UtcMillis [must],
        /// When it ends.
        ends: UtcMillis [must],
        /// Where it is published.
        citation: Text [must],
    }
    /// The operator need not do a part of all this.
    Exemption "exemption" "exemptions" {
        /// Its id.
        id: Label [must],
        /// Of what.
        scope: Text [must],
        /// Since when.
        granted: UtcMillis [must],
        /// Until when.
        ends: UtcMillis [may],
        /// On which conditions.
        conditions: Text [may],
        /// Hash of the order.
        order_sha256: Sha256Hex [may],
    }
    /// A version of the operator's own written program.
    Program "program" "programs" {
        /// Its version.
        id: Label [must],
        /// Hash of its text.
        sha256: Sha256Hex [must],
        /// In force from.
        from: UtcMillis [must],
    }
    /// What the operator certifies of its program once a year (proposed 15 CFR 7.304, 89 FR 5698).
    Attestation "attestation" "attestations" {
        /// Its id.
        id: Label [must],
        /// Which version of the program.
        program: Label [must],
        /// When.
        at: UtcMillis [must],
        /// It was reviewed since the last time.
        reviewed: YesNo [must],
        /// It was updated for changes of what is offered.
        updated_for_services: YesNo [must],
        /// It was updated for changes of what threatens.
        updated_for_threats: YesNo [must],
        /// It complies.
        complies: YesNo [must],
        /// Whether for each failure to verify it is on record how it was resolved.
        failures_resolved: YesNo [must],
        /// Who attests.
        by: Text [must],
    }
    /// A reseller's own program.
    ResellerProgram "reseller_program" "reseller-programs" {
        /// Its id.
        id: Label [must],
        /// Whose.
        reseller: PartyId [must],
        /// Whether it is the operator's, adopted by agreement.
        adopts_ours: YesNo [must],
        /// Hash of the copy that is on file.
        sha256: Sha256Hex [may],
        /// When that was received.
        received: UtcMillis [may],
        /// When the authority asked for it, if it did.
        requested: UtcMillis [may],
        /// When it was handed over.
        produced: UtcMillis [may],
        /// Until when it is good.
        expires: UtcMillis [may],
    }
    /// A reseller does not keep its program.
    ResellerFailure "reseller_failure" "reseller-failures" {
        /// Its id.
        id: Label [must],
        /// Whose.
        reseller: PartyId [must],
        /// Since when that is known.
        known: UtcMillis [must],
        /// Hash of what shows it.
        evidence_sha256: Sha256Hex [may],
        /// When it was reported to an authority.
        reported: UtcMillis [may],
        /// When it was cured.
        cured: UtcMillis [may],
        /// When its account was ended.
        terminated: UtcMillis [may],
    }
}

impl Kind {
    /// Whether it is kept under the key of the customer that it is about.
    pub fn is_sealed(self) -> bool {
        self == Self::Declaration
    }

    /// By what a file of them is called.
    pub fn from_plural(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.plural() == text)
    }

    /// By its name in ledgers.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }
}

impl Statement {
    /// Reads one from its fields, blank ones being absent; `of` gives the text of a field.
    ///
    /// # Errors
    /// Every field that does not hold what it should.
    pub fn read<'a>(kind: Kind, of: impl Fn(&'static str) -> Option<&'a str>) -> Result<Self, Vec<BadCell>> {
        let read = Self::kept(kind, of)?;
        let bad = read.card_numbers();
        if bad.is_empty() { Ok(read) } else { Err(bad) }
    }

    fn kept<'a>(kind: Kind, of: impl Fn(&'static str) -> Option<&'a str>) -> Result<Self, Vec<BadCell>> {
        let of = |field| of(field).map(str::trim).filter(|text| !text.is_empty());
        let read = Self::read_cells(kind, of)?;
        let bad = read.contradictions();
        if bad.is_empty() { Ok(read) } else { Err(bad) }
    }

    /// Where somebody declares a full number of a payment card.
    fn card_numbers(&self) -> Vec<BadCell> {
        let Self::Declaration(one) = self else { return Vec::new() };
        let texts = [
            ("purpose", Some(&one.purpose)),
            ("number_format", one.number_format.as_ref()),
            ("model", one.model.as_ref()),
            ("base_model", one.base_model.as_ref()),
            ("training_practices", one.training_practices.as_ref()),
            ("cybersecurity_practices", one.cybersecurity_practices.as_ref()),
            ("signed_by", Some(&one.signed_by)),
        ];
        let is =
            |text: Option<&Text>| text.is_some_and(|text| is_card_number(text.as_str(), CardReading::Strict));
        let bad = texts.into_iter().filter(|(_, text)| is(*text));
        bad.map(|(field, _)| BadCell { field, expected: NO_CARD }).collect()
    }

    /// What cannot be true together.
    fn contradictions(&self) -> Vec<BadCell> {
        let after = |field, from: UtcMillis, to: Option<UtcMillis>| {
            // One that ends as it begins says nothing any more: so it is taken back.
            to.is_some_and(|to| to < from).then_some(BadCell { field, expected: "not before the beginning" })
        };
        let found = match self {
            Self::Reservation(one) => after("to", one.from, one.to),
            Self::Topology(one) => after("to", one.from, one.to),
            Self::Classification(one) => after("to", one.from, one.to),
            Self::Exemption(one) => after("ends", one.granted, one.ends),
            Self::SpecialMeasure(one) if one.person.is_some() == one.country.is_some() => {
                Some(BadCell { field: "country", expected: "there, or else a person, and not both" })
            }
            Self::SpecialMeasure(one) => after("implement_by", one.determined, Some(one.implement_by))
                .or_else(|| after("ends", one.determined, Some(one.ends))),
            Self::ResellerFailure(one) => after("cured", one.known, one.cured)
                .or_else(|| after("terminated", one.known, one.terminated)),
            Self::Declaration(_)
            | Self::Compromise(_)
            | Self::Program(_)
            | Self::Attestation(_)
            | Self::ResellerProgram(_) => None,
        };
        found.into_iter().collect()
    }

    /// The party that it is about, if it is about one.
    pub fn about(&self) -> Option<&PartyId> {
        match self {
            Self::Reservation(Reservation { customer, .. })
            | Self::Declaration(Declaration { customer, .. })
            | Self::Compromise(Compromise { customer, .. }) => Some(customer),
            Self::ResellerProgram(ResellerProgram { reseller, .. })
            | Self::ResellerFailure(ResellerFailure { reseller, .. }) => Some(reseller),
            Self::Classification(Classification { customer, .. }) => customer.as_ref(),
            Self::SpecialMeasure(SpecialMeasure { person, .. }) => person.as_ref(),
            Self::Topology(_) | Self::Exemption(_) | Self::Program(_) | Self::Attestation(_) => None,
        }
    }

    /// What tells it from all others.
    pub fn key(&self) -> String {
        format!("{} {}", self.kind().as_str(), self.id())
    }

    /// From what [`Statement::cells`] gave, as it was taken once.
    ///
    /// # Errors
    /// As [`Statement::read`], but what was taken before card numbers were looked for is still read.
    pub fn from_cells(kind: Kind, cells: &BTreeMap<String, String>) -> Result<Self, Vec<BadCell>> {
        Self::kept(kind, |field| cells.get(field).map(String::as_str))
    }
}

/// As an object of its fields.
impl Serialize for Statement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let cells = self.cells();
        let mut map = serializer.serialize_map(Some(cells.len()))?;
        for (field, text) in cells {
            map.serialize_entry(field, &text)?;
        }
        map.end()
    }
}

/// Which one, and nothing of what it says.
impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Statement({})", self.key())
    }
}

#[cfg(test)]
mod tests;
