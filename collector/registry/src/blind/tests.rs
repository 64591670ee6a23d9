use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::{
    Access, CustomerKind,
    party::{Address, AddressKind, Identifier, Name, NameKind},
};

fn id(text: &str) -> PartyId {
    text.parse().expect("an id")
}

fn blind() -> Blind {
    Blind::new(&mut |bytes| bytes.fill(7))
}

fn jane() -> Party {
    let mut party = Party::unknown(CustomerKind::Person);
    party.names = vec![Name::of(NameKind::Legal, "Jane  Straße"), Name::of(NameKind::Alias, "Jo")];
    party.addresses = vec![Address::of(AddressKind::Principal, "1 Rue X,\nLyon")];
    party.emails = vec!["Jane.Doe@Example.COM".into()];
    party.telephones = vec!["+44 (0)20 7946-0123".into()];
    party.domains = vec!["Doe.example.".into()];
    party.payments = vec![Payment { means: Some("transfer".into()), source: Some("DE89 3704 0044".into()) }];
    party.identifiers = vec![Identifier {
        scheme: Scheme::Passport,
        number: "x 12.34-5".into(),
        issuer: None,
        country: None,
        expires: None,
    }];
    party.accesses = vec![
        "192.0.2.7@2026-01-31T08:00:00Z".parse::<Access>().unwrap(),
        "2001:db8:1:2::1@2026-01-31T08:00:00Z".parse().unwrap(),
    ];
    party
}

#[test]
fn a_party_is_found_by_everything_that_says_who_it_is_however_it_is_written() {
    let mut blind = blind();
    blind.replace(&id("A-1"), &jane());
    for (what, text) in [
        (What::Name, "JANE STRASSE"),
        (What::Name, " ｊａｎｅ\u{a0}straße "),
        (What::Name, "jo"),
        (What::Address, "1 rue x, lyon"),
        (What::Email, "jane.doe@example.com"),
        (What::Email, " JANE.DOE@example.com. "),
        (What::Domain, "example.com"),
        (What::Domain, "DOE.example"),
        (What::Telephone, "00442079460123"),
        (What::Telephone, "+442079460123"),
        (What::Telephone, "+44 20 7946 0123"),
        (What::Identifier(Scheme::Passport), "X12345"),
        (What::Number, "x-12345"),
        (What::PaymentSource, "de8937040044"),
        (What::Access, "192.0.2.7"),
        (What::Access, "::ffff:192.0.2.7"),
        (What::Access, "2001:0db8:0001:0002::0001"),
    ] {
        assert_eq!(blind.find(what, text), [id("A-1")], "{what:?} {text}");
    }
    for (what, text) in [
        (What::Name, "Jane"),
        (What::Name, ""),
        (What::Email, "jane.doe"),
        (What::Email, "@example.com"),
        (What::Telephone, "none"),
        (What::Telephone, "020 7946 0123"),
        (What::Identifier(Scheme::Tax), "X12345"),
        (What::Access, "192.0.2.8"),
        (What::Access, "not an address"),
        (What::PaymentSource, "transfer"),
        (What::Domain, "192.0.2.0"),
    ] {
        assert!(blind.find(what, text).is_empty(), "{what:?} {text}");
    }
}

#[test]
fn names_of_one_writing_are_one() {
    for (first, second) in [
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),
        ("ﬁscher", "FISCHER"),
        ("Å", "A\u{30a}"),
        ("ІВАН", "іван"),
        ("田中", "田中"),
    ] {
        assert_eq!(normal::of(What::Name, first), normal::of(What::Name, second), "{first}");
    }
    // As said in the module: these stay two.
    for (first, second) in [("İ", "i"), ("é", "e"), ("Иван", "Ivan")] {
        assert_ne!(normal::of(What::Name, first), normal::of(What::Name, second), "{first}");
    }
}

#[test]
fn who_changed_is_found_by_what_holds_now_and_who_was_removed_by_nothing() {
    let mut blind = blind();
    blind.replace(&id("A-1"), &jane());
    blind.replace(&id("A-2"), &jane());
    let mut changed = jane();
    changed.emails = vec!["new@example.com".into()];
    blind.replace(&id("A-1"), &changed);
    assert_eq!(blind.find(What::Email, "jane.doe@example.com"), [id("A-2")]);
    assert_eq!(blind.find(What::Email, "new@example.com"), [id("A-1")]);
    assert_eq!(blind.find(What::Name, "jo"), [id("A-1"), id("A-2")]);
    blind.remove(&id("A-2"));
    blind.remove(&id("A-2"));
    assert_eq!(blind.find(What::Name, "jo"), [id("A-1")]);
    blind.remove(&id("A-1"));
    assert!(blind.is_empty() && blind.holders.is_empty(), "nothing is left of anybody");
    assert!(blind.entries.iter().all(Option::is_none));
}

#[test]
fn two_processes_know_a_value_by_different_hashes() {
    let (ours, theirs) = (blind(), Blind::new(&mut |bytes| bytes.fill(8)));
    let of = |blind: &Blind| blind.tag(Kind::Of(What::Name), b"jane").1;
    assert_ne!(of(&ours), of(&theirs));
    assert_ne!(of(&ours), ours.tag(Kind::Of(What::Address), b"jane").1, "nor as what it is not");
    assert_eq!(format!("{ours:?}"), "Blind { parties: 0, .. }");
}

fn with(change: impl FnOnce(&mut Party)) -> Party {
    let mut party = Party::unknown(CustomerKind::Entity);
    change(&mut party);
    party
}

fn told(shared: &Shared) -> String {
    let groups = shared.groups.iter().map(|group| {
        let parties: Vec<_> = group.parties.iter().map(PartyId::as_str).collect();
        format!("{}:{}", parties.join("+"), group.values)
    });
    let common = shared.too_common.iter().map(|one| format!("{} like {}", one.parties, one.one));
    groups.chain(common).collect::<Vec<_>>().join(" | ")
}

#[test]
fn what_parties_share_is_told_as_groups_and_what_too_many_share_is_not() {
    let mut blind = blind();
    let emails = |list: &[&str]| with(|party| party.emails = list.iter().map(|&one| one.into()).collect());
    blind.replace(&id("A"), &emails(&["a@own.example", "x@free.example"]));
    blind.replace(&id("B"), &emails(&["b@OWN.example", "y@free.example", "b@second.example"]));
    blind.replace(&id("C"), &emails(&["c@second.example", "z@free.example"]));
    blind.replace(&id("D"), &with(|party| party.domains = vec!["second.example".into()]));
    let shared = |most, free: &[&str]| told(&blind.shared(Sign::Domain, most, free));
    expect!["A+B:1 | A+B+C:1 | B+C+D:1"].assert_eq(&shared(3, &[]));
    expect!["A+B:1 | B+C+D:1"].assert_eq(&shared(3, &["Free.Example"]));
    expect!["A+B:1 | 3 like A | 3 like B"].assert_eq(&shared(2, &[]));
    expect![""].assert_eq(&told(&blind.shared(Sign::Email, 3, &[])));
}

#[test]
fn networks_are_shared_and_addresses_of_a_log_count() {
    let mut blind = blind();
    let nobody = Party::unknown(CustomerKind::Entity);
    let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    blind.replace_with(&id("A"), &nobody, addresses(&["192.0.2.1", "192.0.2.1", "2001:db8:1:2::1"]));
    blind.replace_with(&id("B"), &nobody, addresses(&["192.0.2.200", "2001:db8:1:ffff::2"]));
    blind.replace_with(&id("C"), &nobody, addresses(&["192.0.3.1", "2001:db8:2::1", "::ffff:192.0.2.9"]));
    expect!["A+B:1 | A+B+C:1"].assert_eq(&told(&blind.shared(Sign::Network, 9, &[])));
    assert_eq!(blind.find(What::Access, "192.0.2.200"), [id("B")]);
}

#[test]
fn every_sign_is_seen() {
    let mut blind = blind();
    blind.replace(&id("A"), &jane());
    blind.replace(&id("B"), &jane());
    for (sign, values) in Sign::ALL.into_iter().zip([1, 1, 1, 2, 1, 2]) {
        assert_eq!(told(&blind.shared(sign, 9, &[])), format!("A+B:{values}"), "{sign:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_what_is_normal_stays_so(text in "\\PC{0,60}") {
        for what in [
            What::Name, What::Email, What::Telephone, What::Domain, What::Number, What::PaymentSource,
            What::Address, What::Access,
        ] {
            let Some(normal) = normal::of(what, &text) else { continue };
            if what != What::Telephone {
                prop_assert_eq!(normal::of(what, &normal), Some(normal), "{:?}", what);
            }
        }
    }

    #[test]
    fn changes_in_any_order_end_as_if_only_the_last_had_been_made(
        changes in proptest::collection::vec((0..5_usize, proptest::option::of(0..4_usize)), 0..40),
    ) {
        let named = |name: usize| with(|party| party.names = vec![Name::of(NameKind::Legal, format!("N{name}"))]);
        let mut blind = blind();
        let mut last = [None; 5];
        for (party, name) in changes {
            let id = id(&format!("A-{party}"));
            match name {
                Some(name) => blind.replace(&id, &named(name)),
                None => blind.remove(&id),
            }
            last[party] = name;
        }
        for name in 0..4 {
            let expected: Vec<_> =
                (0..5).filter(|party| last[*party] == Some(name)).map(|party| id(&format!("A-{party}"))).collect();
            prop_assert_eq!(blind.find(What::Name, &format!("n{name}")), expected);
        }
        prop_assert_eq!(blind.len(), last.iter().flatten().count());
    }
}
