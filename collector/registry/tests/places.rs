//! Where an address is, by databases that the tests write: none of a publisher's is kept here.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

#[path = "support/mmdb.rs"]
mod mmdb;

use std::net::IpAddr;

use expect_test::expect;
use mmdb::{Data, Shape};
use proptest::prelude::*;
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    Access, AccessKind, AccessLog, CustomerKind,
    party::{Country, Party, Resolution},
    places::{Database, PlaceState, Places, Signal, compare, raise, read_anything},
};

const BUILT: u64 = 1_769_846_400; // 2026-01-31T08:00:00Z
const SHAPE: Shape = Shape { record_size: 24, ip_version: 6, built: BUILT };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nested(code: &'static str) -> Data {
    let country = |code| Data::Map(vec![("geoname_id", Data::Number(1)), ("iso_code", Data::Text(code))]);
    Data::Map(vec![("country", country(code)), ("registered_country", country("US"))])
}

fn flat(code: &'static str) -> Data {
    Data::Map(vec![("country_code", Data::Text(code)), ("continent_code", Data::Text("EU"))])
}

fn countries(shape: Shape) -> Vec<u8> {
    let mut networks = vec![
        (ip("192.0.2.0"), 24, nested("FR")),
        (ip("198.51.100.0"), 25, flat("CN")),
        (ip("198.51.100.128"), 32, Data::Map(vec![("country", Data::Text("de"))])),
        (
            ip("203.0.113.0"),
            24,
            Data::Map(vec![("registered_country", nested("FR")), ("country_code", Data::Text("EU"))]),
        ),
    ];
    if shape.ip_version == 6 {
        networks.push((ip("2001:db8::"), 32, nested("JP")));
    }
    mmdb::write(shape, &networks)
}

fn anonymous() -> Vec<u8> {
    let flags =
        |names: &[&'static str]| Data::Map(names.iter().map(|name| (*name, Data::Bool(true))).collect());
    mmdb::write(
        Shape { record_size: 28, built: BUILT - 86_400 * 40, ..SHAPE },
        &[
            (ip("192.0.2.64"), 26, flags(&["is_anonymous", "is_hosting_provider"])),
            (ip("198.51.100.0"), 30, flags(&["is_anonymous", "is_tor_exit_node", "is_hosting_provider"])),
            (ip("198.51.100.4"), 30, flags(&["is_anonymous"])),
            (ip("198.51.100.8"), 30, Data::Map(vec![("traits", flags(&["is_hosting_provider"]))])),
            (ip("198.51.100.12"), 30, Data::Map(vec![("is_public_proxy", Data::Bool(false))])),
        ],
    )
}

fn networks() -> Vec<u8> {
    let of = |number, name| {
        Data::Map(vec![
            ("autonomous_system_number", Data::Number(number)),
            ("autonomous_system_organization", Data::Text(name)),
        ])
    };
    mmdb::write(
        Shape { record_size: 32, ..SHAPE },
        &[
            (ip("192.0.2.0"), 24, of(64_496, "Example")),
            (
                ip("198.51.100.0"),
                24,
                Data::Map(vec![("asn", Data::Text("AS64511")), ("as_name", Data::Text("Other"))]),
            ),
        ],
    )
}

fn places() -> Places {
    let mut places = Places::default();
    for (name, bytes) in [("country", countries(SHAPE)), ("anonymous-ip", anonymous()), ("asn", networks())] {
        assert!(places.add(Database::open(name, bytes).unwrap()));
    }
    places
}

fn log(uses: &[(&str, i64)]) -> AccessLog {
    let mut log = AccessLog::default();
    for (address, second) in uses {
        let access = Access { address: ip(address), at: UtcMillis(second * 1_000) };
        log.add(access, AccessKind::Access);
    }
    log
}

fn now() -> UtcMillis {
    UtcMillis(i64::try_from(BUILT).unwrap() * 1_000 + UtcMillis::DAY * 10)
}

fn shown(signals: &[Signal]) -> String {
    signals.iter().map(|signal| serde_json::to_string(signal).unwrap() + "\n").collect()
}

#[test]
fn both_forms_of_a_record_are_read_in_every_size() {
    for record_size in [24, 28, 32] {
        for ip_version in [4, 6] {
            let shape = Shape { record_size, ip_version, ..SHAPE };
            let mut places = Places::default();
            assert!(places.add(Database::open("country", countries(shape)).unwrap()));
            let country = |text| places.look(ip(text)).country.map(|country| country.to_string());
            let of = |text| country(text).unwrap_or_else(|| "-".into());
            let addresses =
                ["192.0.2.7", "198.51.100.127", "198.51.100.128", "198.51.100.129", "::ffff:192.0.2.7"];
            assert_eq!(addresses.map(of), ["FR", "CN", "DE", "-", "FR"], "{record_size} {ip_version}");
            assert_eq!(of("2001:db8::1"), if ip_version == 6 { "JP" } else { "-" });
            assert_eq!(of("2001:db9::1"), "-");
        }
    }
}

#[test]
fn where_a_network_is_registered_is_not_where_it_is_used() {
    assert_eq!(places().look(ip("203.0.113.1")).country, None);
}

#[test]
fn flags_and_networks_come_from_other_databases() {
    let places = places();
    let seen = |text| {
        let seen = places.look(ip(text));
        format!("{} {} {:?} {:?}", seen.anonymised, seen.hosting, seen.network, seen.organisation)
    };
    expect![[r#"
        false true Some(64496) Some("Example")
        true true Some(64511) Some("Other")
        true false Some(64511) Some("Other")
        false true Some(64511) Some("Other")
        false false Some(64511) Some("Other")
        false false None None"#]]
    .assert_eq(
        &["192.0.2.65", "198.51.100.1", "198.51.100.5", "198.51.100.9", "198.51.100.13", "2001:db8::1"]
            .map(seen)
            .join("\n"),
    );
}

#[test]
fn uses_stand_to_what_is_declared_in_one_of_five_ways() {
    let declared: [Country; 1] = ["FR".parse().unwrap()];
    let uses = [
        ("192.0.2.1", 0),
        ("192.0.2.1", 5),
        ("192.0.2.2", 3),
        ("192.0.2.65", 4),
        ("198.51.100.1", 1),
        ("198.51.100.9", 1),
        ("198.51.100.100", 2),
        ("10.0.0.1", 9),
    ];
    let signals = compare(&declared, &log(&uses), &places(), now());
    expect![[r#"
        {"state":"agrees","country":"FR","declared":["FR"],"addresses":2,"uses":3,"first":"1970-01-01T00:00:00Z","last":"1970-01-01T00:00:05Z","networks":[64496],"databases":[{"database":"country","built":"2026-01-31T08:00:00Z","age_days":10},{"database":"asn","built":"2026-01-31T08:00:00Z","age_days":10}],"at":"2026-02-10T08:00:00Z"}
        {"state":"differs","country":"CN","declared":["FR"],"addresses":1,"uses":1,"first":"1970-01-01T00:00:02Z","last":"1970-01-01T00:00:02Z","networks":[64511],"databases":[{"database":"country","built":"2026-01-31T08:00:00Z","age_days":10},{"database":"asn","built":"2026-01-31T08:00:00Z","age_days":10}],"at":"2026-02-10T08:00:00Z"}
        {"state":"anonymised","declared":["FR"],"addresses":1,"uses":1,"first":"1970-01-01T00:00:01Z","last":"1970-01-01T00:00:01Z","networks":[64511],"databases":[{"database":"country","built":"2026-01-31T08:00:00Z","age_days":10},{"database":"anonymous-ip","built":"2025-12-22T08:00:00Z","age_days":50},{"database":"asn","built":"2026-01-31T08:00:00Z","age_days":10}],"at":"2026-02-10T08:00:00Z"}
        {"state":"hosting","country":"CN","declared":["FR"],"addresses":1,"uses":1,"first":"1970-01-01T00:00:01Z","last":"1970-01-01T00:00:01Z","networks":[64511],"databases":[{"database":"country","built":"2026-01-31T08:00:00Z","age_days":10},{"database":"anonymous-ip","built":"2025-12-22T08:00:00Z","age_days":50},{"database":"asn","built":"2026-01-31T08:00:00Z","age_days":10}],"at":"2026-02-10T08:00:00Z"}
        {"state":"hosting","country":"FR","declared":["FR"],"addresses":1,"uses":1,"first":"1970-01-01T00:00:04Z","last":"1970-01-01T00:00:04Z","networks":[64496],"databases":[{"database":"country","built":"2026-01-31T08:00:00Z","age_days":10},{"database":"anonymous-ip","built":"2025-12-22T08:00:00Z","age_days":50},{"database":"asn","built":"2026-01-31T08:00:00Z","age_days":10}],"at":"2026-02-10T08:00:00Z"}
        {"state":"unknown","declared":["FR"],"addresses":1,"uses":1,"first":"1970-01-01T00:00:09Z","last":"1970-01-01T00:00:09Z","databases":[{"database":"country","built":"2026-01-31T08:00:00Z","age_days":10},{"database":"anonymous-ip","built":"2025-12-22T08:00:00Z","age_days":50},{"database":"asn","built":"2026-01-31T08:00:00Z","age_days":10}],"at":"2026-02-10T08:00:00Z"}
    "#]]
    .assert_eq(&shown(&signals));
    let none = compare(&[], &log(&uses[..3]), &places(), now());
    assert_eq!(none.iter().map(|signal| signal.state).collect::<Vec<_>>(), [PlaceState::Unknown]);
    let discrepancies: Vec<String> = signals
        .iter()
        .filter_map(Signal::discrepancy)
        .map(|discrepancy| format!("{}: {}", discrepancy.id, discrepancy.what))
        .collect();
    expect![[r#"
        place:differs:CN: used from CN: 1 addresses, 1 uses, 1970-01-01T00:00:02Z to 1970-01-01T00:00:02Z; declared is FR; by country of 2026-01-31T08:00:00Z, 10 days old; by asn of 2026-01-31T08:00:00Z, 10 days old
        place:anonymised: used from networks that hide from where: 1 addresses, 1 uses, 1970-01-01T00:00:01Z to 1970-01-01T00:00:01Z; declared is FR; by country of 2026-01-31T08:00:00Z, 10 days old; by anonymous-ip of 2025-12-22T08:00:00Z, 50 days old; by asn of 2026-01-31T08:00:00Z, 10 days old
        place:hosting:CN: used from machines that are let in CN: 1 addresses, 1 uses, 1970-01-01T00:00:01Z to 1970-01-01T00:00:01Z; declared is FR; by country of 2026-01-31T08:00:00Z, 10 days old; by anonymous-ip of 2025-12-22T08:00:00Z, 50 days old; by asn of 2026-01-31T08:00:00Z, 10 days old"#]]
    .assert_eq(&discrepancies.join("\n"));
}

#[test]
fn the_same_signal_raises_a_discrepancy_once() {
    let declared: [Country; 1] = ["FR".parse().unwrap()];
    let mut party = Party::unknown(CustomerKind::Person);
    let first = compare(&declared, &log(&[("198.51.100.100", 2)]), &places(), now());
    assert_eq!(raise(&mut party, &first), 1);
    assert_eq!(party.check(), Ok(()));
    let resolved = Resolution { how: "travels".into(), by: "desk".into(), at: now() };
    party.discrepancies[0].resolved = Some(resolved);
    let later = compare(&declared, &log(&[("198.51.100.100", 2), ("198.51.100.101", 9)]), &places(), now());
    assert_eq!(raise(&mut party, &later), 0);
    assert_eq!(party.open_discrepancies().count(), 0);
}

#[test]
fn a_database_says_how_old_it_is() {
    let database = Database::open("country", countries(SHAPE)).unwrap();
    assert_eq!(database.built().to_string(), "2026-01-31T08:00:00Z");
    assert_eq!((database.age_days(now()), database.age_days(UtcMillis(0))), (10, 0));
    let beyond = countries(Shape { built: 1 << 40, ..SHAPE });
    expect!["country is no database in MaxMind's format that can be used: its date is beyond the year 9999"]
        .assert_eq(&Database::open("country", beyond).unwrap_err().to_string());
}

#[test]
fn no_more_databases_are_asked_than_there_may_be() {
    let mut places = Places::default();
    for _ in 0..16 {
        assert!(places.add(Database::open("country", countries(SHAPE)).unwrap()));
    }
    assert!(!places.add(Database::open("country", countries(SHAPE)).unwrap()));
}

#[test]
fn what_is_no_database_or_a_part_of_one_is_refused() {
    expect!["x is no database in MaxMind's format that can be used: invalid database: could not find MaxMind DB metadata in file"].assert_eq(&Database::open("x", b"id,kind\n".to_vec()).unwrap_err().to_string());
    let whole = countries(SHAPE);
    for end in 0..whole.len() {
        assert!(Database::open("x", whole[..end].to_vec()).is_err(), "{end}");
    }
}

#[test]
fn every_changed_byte_is_an_error_or_an_answer() {
    for whole in [countries(Shape { record_size: 28, ip_version: 4, ..SHAPE }), anonymous()] {
        for at in 0..whole.len() {
            for change in [0x01, 0x20, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                read_anything(&bytes);
            }
        }
    }
}

proptest! {
    #[test]
    fn damage_is_an_error_or_an_answer(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        for whole in [countries(SHAPE), networks()] {
            let mut bytes = whole;
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            if cuts {
                let (from, to) = (cut.index(bytes.len()), (cut.index(bytes.len()) + 9).min(bytes.len()));
                bytes.drain(from..to);
            }
            read_anything(&bytes);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        read_anything(&bytes);
        read_anything(&[b"\xab\xcd\xefMaxMind.com", &bytes[..]].concat());
    }

    #[test]
    fn an_address_has_the_country_of_the_network_it_is_in(address: u32, prefix in 1..=32_u32, other: u32, size in 0..3_usize) {
        let shape = Shape { record_size: [24, 28, 32][size], ..SHAPE };
        let bytes = mmdb::write(shape, &[(IpAddr::from(address.to_be_bytes()), prefix, flat("FR"))]);
        let mut places = Places::default();
        prop_assert!(places.add(Database::open("x", bytes).unwrap()));
        let within = (address ^ other) >> (32 - prefix) == 0;
        let found = places.look(IpAddr::from(other.to_be_bytes())).country.is_some();
        prop_assert_eq!(found, within);
        prop_assert!(places.look(IpAddr::from(address.to_be_bytes())).country.is_some());
    }
}
