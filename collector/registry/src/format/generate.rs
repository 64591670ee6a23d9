//! Parties and interests as they come, with every field, for tests of what a format holds.

use proptest::{collection::vec, option, prelude::*, sample::select};
use weighbridge_meter::UtcMillis;

use super::{FIRST_DAY, LAST_DAY};
use crate::{
    Access, CustomerKind, Interest, InterestKind, UsPerson,
    ownership::{Share, Stake},
    party::{
        Address, AddressKind, Basis, Country, Discrepancy, Evidence, Identifier, Method, Name, NameKind,
        Outcome, PartialDate, Party, PartyId, Payment, Resolution, Scheme, StatusBasis, Verification,
    },
};

/// Text that a record can have, in any script.
fn text() -> impl Strategy<Value = String> + Clone {
    let any = "\\PC{1,12}"
        .prop_filter_map("blank", |text| Some(text.trim().to_owned()).filter(|text| !text.is_empty()));
    let some = [
        "毛泽东",
        "Иван Петрович",
        "محمد بن عبد",
        "O'Brien-Łukasz, Jr.",
        "ދިވެހި",
        "\"\\ {}",
        "e\u{301}",
        "25-50",
    ];
    prop_oneof![any, select(some.to_vec()).prop_map(str::to_owned)]
}

fn maybe() -> impl Strategy<Value = Option<String>> {
    option::of(text())
}

fn country() -> impl Strategy<Value = Country> + Clone {
    select(Country::all().collect::<Vec<_>>())
}

fn date() -> impl Strategy<Value = PartialDate> {
    let parts = (1_u16..=9999, option::of((1_u8..=12, option::of(1_u8..=28))));
    parts.prop_filter_map("no date", |(year, rest)| {
        let text = match rest {
            None => format!("{year:04}"),
            Some((month, None)) => format!("{year:04}-{month:02}"),
            Some((month, Some(day))) => format!("{year:04}-{month:02}-{day:02}"),
        };
        text.parse().ok()
    })
}

fn moment() -> impl Strategy<Value = UtcMillis> {
    (FIRST_DAY.0..=LAST_DAY.0).prop_map(UtcMillis)
}

fn name() -> impl Strategy<Value = Name> {
    let kinds = [
        NameKind::Legal,
        NameKind::Trading,
        NameKind::Alias,
        NameKind::Former,
        NameKind::Birth,
        NameKind::Transliteration,
    ];
    let script = option::of(select(["Cyrl", "Latn", "Hans", "Arab"].to_vec()).prop_map(str::to_owned));
    (select(kinds.to_vec()), text(), maybe(), maybe(), maybe(), maybe(), script).prop_map(
        |(kind, full, given, middle, patronymic, family, script)| Name {
            kind,
            full,
            given,
            middle,
            patronymic,
            family,
            script,
        },
    )
}

fn address() -> impl Strategy<Value = Address> {
    let kinds = [
        AddressKind::Principal,
        AddressKind::Registered,
        AddressKind::Mailing,
        AddressKind::Use,
        AddressKind::Other,
    ];
    (select(kinds.to_vec()), text(), maybe(), maybe(), maybe(), maybe(), option::of(country())).prop_map(
        |(kind, full, street, locality, region, postcode, country)| Address {
            kind,
            full,
            street,
            locality,
            region,
            postcode,
            country,
        },
    )
}

/// One whose check digits fit.
fn lei(start: &str) -> String {
    let left = format!("{start}00").bytes().fold(0, |left: u32, byte| match byte {
        b'0'..=b'9' => (left * 10 + u32::from(byte - b'0')) % 97,
        _ => (left * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    format!("{start}{:02}", 98 - left)
}

fn identifier() -> impl Strategy<Value = Identifier> {
    let schemes = [
        Scheme::Passport,
        Scheme::NationalId,
        Scheme::DrivingLicence,
        Scheme::ResidencePermit,
        Scheme::Tax,
        Scheme::Registration,
        Scheme::Lei,
        Scheme::Other,
    ];
    let issuer = prop_oneof![3 => maybe(), 1 => Just(Some("GB-COH".to_owned())), 1 => Just(Some("Passport".to_owned()))];
    let country = option::of(prop_oneof![country(), Just("GB".parse().expect("a country"))]);
    (select(schemes.to_vec()), text(), "[0-9A-Z]{18}", issuer, country, option::of(date())).prop_map(
        |(scheme, number, start, issuer, country, expires)| {
            let number = if scheme == Scheme::Lei { lei(&start) } else { number };
            Identifier { scheme, number, issuer, country, expires }
        },
    )
}

fn evidence() -> impl Strategy<Value = Evidence> {
    let known = select(["passport", "idcard", "driving_permit"].to_vec()).prop_map(str::to_owned);
    let what = prop_oneof![text(), known];
    (what, option::of("[0-9a-f]{64}")).prop_map(|(what, sha256)| Evidence { what, sha256 })
}

fn verification() -> impl Strategy<Value = Verification> {
    let methods = [Method::Documentary, Method::NonDocumentary];
    let outcomes = [Outcome::InProgress, Outcome::Verified, Outcome::Verified, Outcome::Failed];
    let note = prop_oneof![
        maybe(),
        Just(Some("trust framework: de_aml".to_owned())),
        Just(Some("trust framework: eidas, assurance level: high".to_owned())),
    ];
    let (method, outcome) = (select(methods.to_vec()), select(outcomes.to_vec()));
    (text(), method, text(), moment(), outcome, vec(evidence(), 0..3), note).prop_map(
        |(id, method, checker, at, outcome, evidence, note)| Verification {
            id,
            method,
            checker,
            at,
            outcome,
            evidence,
            note,
        },
    )
}

/// What no format holds, which must not get in its way.
fn unheld() -> impl Strategy<Value = Party> {
    let access: Access = "192.0.2.7@2026-01-31T08:00:00Z".parse().expect("an access");
    let resolution = (text(), text(), moment()).prop_map(|(how, by, at)| Resolution { how, by, at });
    let discrepancy = (text(), text(), moment(), option::of(resolution))
        .prop_map(|(id, what, found, resolved)| Discrepancy { id, what, found, resolved });
    let status = (text(), moment(), any::<bool>()).prop_map(|(by, at, decides)| StatusBasis {
        says: UsPerson::Foreign,
        basis: Basis::Told,
        decides,
        at,
        by,
        evidence: Vec::new(),
    });
    let payment = (text(), maybe()).prop_map(|(means, source)| Payment { means: Some(means), source });
    (vec(payment, 0..2), vec(discrepancy, 0..2), vec(status, 0..2), vec(text(), 0..2), any::<bool>())
        .prop_map(move |(payments, discrepancies, status, risk_reasons, accessed)| {
            let mut party = Party::unknown(CustomerKind::Person);
            party.payments = payments;
            party.discrepancies = discrepancies;
            party.us_person.0 = status;
            party.risk_reasons = risk_reasons;
            party.accesses = accessed.then_some(access).into_iter().collect();
            party
        })
}

/// A party of any kind with anything in it.
pub(super) fn party() -> impl Strategy<Value = Party> {
    let kind = prop_oneof![2 => Just(CustomerKind::Person), 3 => select(CustomerKind::ALL.to_vec())];
    let domain = prop_oneof![3 => "[A-Za-z0-9-]{1,8}\\.example", 1 => text()];
    let said = (
        vec(name(), 0..5),
        option::of(date()),
        option::of(country()),
        vec(country(), 0..3),
        option::of(country()),
        vec(address(), 0..4),
    );
    let reached = (
        vec("[a-z]{1,6}@[a-zé]{1,6}\\.example", 0..3),
        vec("\\+[1-9][0-9]{6,12}", 0..3),
        vec(domain, 0..3),
        vec(identifier(), 0..4),
        vec(verification(), 0..4),
    );
    (kind, said, reached, unheld()).prop_map(|(kind, said, reached, mut party)| {
        party.kind = kind;
        (party.names, party.born, party.jurisdiction, party.citizenships, party.residence, party.addresses) =
            said;
        (party.emails, party.telephones, party.domains, party.identifiers, party.verifications) = reached;
        party
    })
}

/// Some of them, each under an id of its own.
pub(super) fn parties() -> impl Strategy<Value = Vec<(PartyId, Party)>> {
    vec(party(), 0..4).prop_map(|parties| {
        let ids = (0..).map(|index: u32| format!("C-{index}").parse().expect("an id"));
        ids.zip(parties).collect()
    })
}

fn stake() -> impl Strategy<Value = Stake> {
    let share =
        || (0_u32..=1_000_000).prop_map(|millionths| Share::from_millionths(millionths).expect("a share"));
    prop_oneof![
        share().prop_map(Stake::exact),
        (share(), share()).prop_filter_map("out of order", |(least, most)| Stake::between(least, most)),
        Just(Stake::exact(Share::QUARTER)),
    ]
}

/// What some of the parties, and some who are not among them, hold of each other.
pub(super) fn interests() -> impl Strategy<Value = Vec<Interest>> {
    let id =
        || select(["C-0", "C-1", "C-2", "X/9"].to_vec()).prop_map(|id| id.parse::<PartyId>().expect("an id"));
    let kind = select(InterestKind::ALL.to_vec());
    let time = || option::of(moment());
    let one = (id(), id(), kind, option::of(stake()), any::<bool>(), time(), time()).prop_map(
        |(owner, asset, kind, share, substantial_control, from, to)| Interest {
            owner,
            asset,
            kind,
            share,
            substantial_control,
            from,
            to,
        },
    );
    vec(one, 0..6)
}

/// A text that was written, with some of its bytes changed.
pub(super) fn spoilt(text: &str, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    let length = bytes.len().max(1);
    for (place, byte) in changes {
        if let Some(place) = bytes.get_mut(place % length) {
            *place = *byte;
        }
    }
    bytes
}

/// Bytes that are no file, or nearly one.
pub(super) fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let nearly = "[\\[{]?(\\{\"(id|schema|properties|recordType|sub|verified_claims)\":[\\[\\]{}\"0-9a-z,:]{0,20}\n?){0,4}";
    prop_oneof![vec(any::<u8>(), 0..200), nearly.prop_map(String::into_bytes)]
}
