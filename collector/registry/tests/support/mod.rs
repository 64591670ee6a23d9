//! Parties of every kind, for properties.

use proptest::{collection::vec, option, prelude::*, sample::select};
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    Access, CustomerKind, Party, PartyRecord, Standing, UsPerson,
    party::{
        Address, AddressKind, Basis, Country, Discrepancy, Evidence, Identifier, Method, Name, NameKind,
        Outcome, PartialDate, Payment, Remedy, Resolution, Risk, Scheme, StatusBasis, UsStatus, Verification,
        Verified,
    },
};

pub(crate) fn id() -> impl Strategy<Value = String> {
    "[!-~]{1,8}"
}

/// Text in one line without blanks around it, with whatever means something in one of the formats.
fn text() -> impl Strategy<Value = String> {
    "([;\\\\,\"=|'\t]|[a-z]|\\PC){1,6}"
        .prop_map(|text| text.replace('\t', " ").trim().to_owned())
        .prop_filter("text that can be kept", |text| !text.is_empty() && !text.contains(char::is_control))
}

pub(crate) fn moment() -> impl Strategy<Value = UtcMillis> {
    (-2_000_000_000_000..4_000_000_000_000_i64).prop_map(UtcMillis)
}

fn country() -> impl Strategy<Value = Country> {
    select(Country::all().collect::<Vec<_>>())
}

fn date() -> impl Strategy<Value = PartialDate> {
    select(vec!["1970", "1970-05", "1970-05-12", "0001", "2024-02-29"])
        .prop_map(|text| text.parse().expect("it is a date"))
}

fn maybe() -> impl Strategy<Value = Option<String>> {
    option::of(text())
}

fn name() -> impl Strategy<Value = Name> {
    use NameKind::{Alias, Birth, Former, Legal, Trading, Transliteration};
    let kind = select(vec![Legal, Trading, Alias, Former, Birth, Transliteration]);
    let script = option::of(select(vec!["Cyrl".to_owned(), "Latn".to_owned()]));
    (kind, text(), maybe(), maybe(), maybe(), maybe(), script).prop_map(
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
    use AddressKind::{Mailing, Other, Principal, Registered, Use};
    let kind = select(vec![Principal, Registered, Mailing, Use, Other]);
    (kind, text(), maybe(), maybe(), maybe(), maybe(), option::of(country())).prop_map(
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

fn identifier() -> impl Strategy<Value = Identifier> {
    use Scheme::{DrivingLicence, Lei, NationalId, Other, Passport, Registration, ResidencePermit, Tax};
    let scheme =
        select(vec![Passport, NationalId, DrivingLicence, ResidencePermit, Tax, Registration, Lei, Other]);
    (scheme, text(), maybe(), option::of(country()), option::of(date())).prop_map(
        |(scheme, number, issuer, country, expires)| {
            let number = if scheme == Lei { "5493001KJTIIGC8Y1R12".into() } else { number };
            Identifier { scheme, number, issuer, country, expires }
        },
    )
}

fn evidence() -> impl Strategy<Value = Vec<Evidence>> {
    let sha256 = option::of("[0-9a-f]{64}");
    vec((text(), sha256).prop_map(|(what, sha256)| Evidence { what, sha256 }), 0..2)
}

fn status() -> impl Strategy<Value = StatusBasis> {
    use Basis::{Citizenship, Location, Organisation, PermanentResidence, Told};
    let says = select(vec![UsPerson::Us, UsPerson::Foreign, UsPerson::Undetermined]);
    let basis = select(vec![Citizenship, PermanentResidence, Organisation, Location, Told]);
    (says, basis, any::<bool>(), moment(), text(), evidence()).prop_map(
        |(says, basis, decides, at, by, evidence)| StatusBasis { says, basis, decides, at, by, evidence },
    )
}

fn verification() -> impl Strategy<Value = Verification> {
    let method = select(vec![Method::Documentary, Method::NonDocumentary]);
    let outcome = select(vec![Outcome::InProgress, Outcome::Verified, Outcome::Failed]);
    (text(), method, text(), moment(), outcome, evidence(), maybe()).prop_map(
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

fn discrepancy() -> impl Strategy<Value = Discrepancy> {
    let resolved = (text(), text(), moment()).prop_map(|(how, by, at)| Resolution { how, by, at });
    (text(), text(), moment(), option::of(resolved)).prop_map(|(id, what, found, resolved)| Discrepancy {
        id,
        what,
        found,
        resolved,
    })
}

fn payment() -> impl Strategy<Value = Payment> {
    (maybe(), maybe())
        .prop_filter("a payment of something", |(means, source)| means.is_some() || source.is_some())
        .prop_map(|(means, source)| Payment { means, source })
}

fn access() -> impl Strategy<Value = Access> {
    (any::<std::net::IpAddr>(), moment()).prop_map(|(address, at)| Access { address, at })
}

fn party() -> impl Strategy<Value = Party> {
    let kind = select(CustomerKind::ALL.to_vec());
    let contact = (
        vec("[a-z;\\\\,\"]{1,3}@[a-z.]{1,3}", 0..3),
        vec("\\+?[0-9]{1,9}([ ;x-][0-9]{1,3})?", 0..3),
        vec(text(), 0..3),
        vec(payment(), 0..3),
        vec(identifier(), 0..4),
        vec(access(), 0..3),
    );
    let found = (vec(status(), 0..3), vec(verification(), 0..3), vec(discrepancy(), 0..3), vec(text(), 0..3));
    let born = (option::of(date()), option::of(country()), vec(country(), 0..3), option::of(country()));
    (kind, vec(name(), 0..4), born, vec(address(), 0..4), contact, found)
        .prop_map(|(kind, names, born, addresses, contact, found)| {
            let mut party = Party::unknown(kind);
            party.names = names;
            (party.born, party.jurisdiction, party.citizenships, party.residence) = born;
            party.addresses = addresses;
            let (emails, telephones, domains, payments, identifiers, accesses) = contact;
            (party.emails, party.telephones, party.domains) = (emails, telephones, domains);
            (party.payments, party.identifiers, party.accesses) = (payments, identifiers, accesses);
            party.us_person = UsStatus(found.0);
            (party.verifications, party.discrepancies, party.risk_reasons) = (found.1, found.2, found.3);
            party
        })
        .prop_filter("a record that can be kept", |party| party.check().is_ok())
}

fn standing() -> impl Strategy<Value = Standing> {
    use Remedy::{Closed, Monitored, None, NotOpened, Redress, Restricted};
    let reseller = option::of(id().prop_map(|id| id.parse().expect("it is one")));
    let verified =
        select(vec![Verified::Unverified, Verified::InProgress, Verified::Verified, Verified::Failed]);
    let remedy = select(vec![None, NotOpened, Restricted, Monitored, Closed, Redress]);
    let risk = select(vec![Risk::Standard, Risk::Enhanced]);
    let times = (option::of(moment()), option::of(moment()), option::of(moment()));
    (any::<bool>(), reseller, verified, remedy, risk, times, any::<u32>()).prop_map(
        |(
            no_account,
            reseller,
            verified,
            remedy,
            risk,
            (opened, closed, last_access),
            open_discrepancies,
        )| {
            Standing {
                no_account,
                reseller,
                verified,
                remedy,
                risk,
                opened,
                closed,
                last_access,
                open_discrepancies,
                told_by_file: Option::None,
            }
        },
    )
}

/// One to four records, each of another party.
pub(crate) fn records() -> impl Strategy<Value = Vec<PartyRecord>> {
    let record =
        (id(), option::of(id()), standing(), party()).prop_map(|(id, control_group, standing, party)| {
            let id = id.parse().expect("it is one");
            let control_group = control_group.map(|group| group.parse().expect("it is one"));
            PartyRecord { id, control_group, standing, party }
        });
    vec(record, 1..5).prop_map(|mut records| {
        records.sort_by(|a, b| a.id.cmp(&b.id));
        records.dedup_by(|a, b| a.id == b.id);
        records
    })
}
