use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::UsPerson;

fn party() -> Party {
    let mut party = Party::unknown(CustomerKind::Person);
    party.names = vec![
        Name::of(NameKind::Alias, "Jo"),
        Name { family: Some("Doe".into()), ..Name::of(NameKind::Legal, "Jane Doe") },
    ];
    party.addresses = vec![
        Address::of(AddressKind::Use, "Paris"),
        Address { country: "FR".parse().ok(), ..Address::of(AddressKind::Principal, "1 Rue X, Lyon") },
        Address::of(AddressKind::Use, "Nice"),
    ];
    party.emails = vec!["jane@example.net".into()];
    party.payments = vec![Payment { means: Some("Bank X, transfer".into()), source: None }];
    party
}

#[test]
fn a_report_says_what_is_known_and_leaves_blank_what_is_not() {
    let identity = party().identity();
    let shown: Vec<String> = identity.iter().map(|(field, value)| format!("{field}={value}")).collect();
    expect!["name=Jane Doe|address=1 Rue X, Lyon|locations=Paris;Nice|payment_means=Bank X, transfer|email=jane@example.net"]
        .assert_eq(&shown.join("|"));
}

#[test]
fn a_file_of_customers_changes_what_it_has_columns_for_and_nothing_else() {
    let mut taken = party();
    taken.take(&party().identity());
    assert_eq!(taken, party(), "what says the same changes nothing, parts of names and addresses neither");

    let mut identity = party().identity();
    identity.set(IdentityField::Address, Zeroizing::new("2 Rue Y, Lyon".into()));
    identity.set(IdentityField::Email, Zeroizing::new(String::new()));
    taken.take(&identity);
    assert_eq!(taken.identity().get(IdentityField::Address), Some("2 Rue Y, Lyon"));
    assert!(taken.emails.is_empty());
    assert_eq!(taken.names, party().names);
    assert_eq!(taken.addresses_of(AddressKind::Use).count(), 2);
    assert_eq!(taken.country(), None, "the country of the address before is not that of this one");
}

#[test]
fn who_a_party_is_stands_in_no_debug_text() {
    let mut party = party();
    party.us_person.decide(UsPerson::Foreign, Basis::Citizenship, "Officer Smith", UtcMillis(1));
    party.identifiers.push(Identifier {
        scheme: Scheme::Passport,
        number: "X1234".into(),
        issuer: None,
        country: None,
        expires: None,
    });
    let shown = format!("{party:?} {:?} {:?} {:?}", party.names, party.identifiers, party.us_person);
    for secret in ["Jane", "Doe", "X1234", "Smith", "Lyon"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn what_no_record_may_say_is_named_by_its_place_and_not_repeated() {
    let refused = |change: fn(&mut Party)| {
        let mut party = party();
        change(&mut party);
        party.check().expect_err("it is wrong").to_string()
    };
    assert_eq!(party().check(), Ok(()));
    expect!["names[0].full is not text of at most 4,096 bytes, without blanks around it"]
        .assert_eq(&refused(|party| party.names[0].full = " ".into()));
    expect!["names[1].family is not text in one line"]
        .assert_eq(&refused(|party| party.names[1].family = Some("D\noe".into())));
    expect!["names[0].script is not four letters of ISO 15924, as Cyrl"]
        .assert_eq(&refused(|party| party.names[0].script = Some("cyrillic".into())));
    expect!["emails[0] is not an email address, with an @ and without blanks"]
        .assert_eq(&refused(|party| party.emails[0] = "jane".into()));
    expect!["payments[0].source is not free of full card numbers: keep the last digits or a token"]
        .assert_eq(&refused(|party| party.payments[0].source = Some("Visa 4111-1111 1111 1111".into())));
    expect!["identifiers[0].number is not a legal entity identifier: 20 letters and digits whose check digits fit (ISO 17442)"]
        .assert_eq(&refused(|party| {
            let number = "5493001KJTIIGC8Y1R13".into();
            let (issuer, country, expires) = (None, None, None);
            party.identifiers.push(Identifier { scheme: Scheme::Lei, number, issuer, country, expires });
        }));
}

const CARDS: [&str; 14] = [
    "4111111111111111",
    "4111 1111 1111 1111",
    "Visa: 4111-1111-1111-1111, exp 12/27",
    "4111 1111 1111 1111 12/27",
    "01 4111 1111 1111 1111",
    "4111.1111.1111.1111",
    "4111\u{a0}1111\u{2013}1111\u{2011}1111",
    "４１１１１１１１１１１１１１１１",
    "CARD4111111111111111EXP1230",
    "DE89 3704 0044 0532 0130 00 4111 1111 1111 1111",
    "378282246310005",
    "5555555555554444;",
    "30569309025904",
    // As long as a legal entity identifier, with check digits that would do in capitals.
    "lsug4953820409232840",
];

#[test]
fn card_numbers_are_told_from_other_numbers() {
    for card in CARDS {
        for reading in [CardReading::Wide, CardReading::Strict] {
            assert!(is_card_number(card, reading), "{card} {reading:?}");
        }
    }
    // Not as anybody prints it, or of a length that few have.
    for card in ["41 1111 111111 1111", "4222222222222"] {
        assert!(is_card_number(card, CardReading::Wide), "{card}");
        assert!(!is_card_number(card, CardReading::Strict), "{card}");
    }
    for other in [
        "4111111111111112",
        "**** 1111",
        "4111 11** **** 1111",
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB29 NWBK 6016 1331 9268 19",
        // Its digits alone would do.
        "GB70 4111 1111 1111 1111",
        "account 1234567890128",
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "a4111111111111111f5c3e8d9b7a6c5d4e3f2a1b",
        "00004111-1111-1111-1111-1111111a1111",
        "+49 30 901820 41",
        "",
    ] {
        for reading in [CardReading::Wide, CardReading::Strict] {
            assert!(!is_card_number(other, reading), "{other} {reading:?}");
        }
    }
}

#[test]
fn no_text_of_a_record_holds_a_card_number() {
    let changes: [fn(&mut Party, String); 9] = [
        |party, card| party.names[0].full = card,
        |party, card| party.addresses[0].full = card,
        |party, card| party.emails[0] = card.replace(' ', "") + "@example.net",
        |party, card| party.telephones.push(card),
        |party, card| party.domains.push(card),
        |party, card| party.payments[0].means = Some(card),
        |party, card| party.risk_reasons.push(card),
        |party, number| {
            let (scheme, issuer, country, expires) = (Scheme::Registration, None, None, None);
            party.identifiers.push(Identifier { scheme, number, issuer, country, expires });
        },
        |party, what| {
            let (id, found, resolved) = ("d".into(), UtcMillis(0), None);
            party.discrepancies.push(Discrepancy { id, what, found, resolved });
        },
    ];
    for change in changes {
        let mut party = party();
        change(&mut party, "4111 1111 1111 1111".into());
        let error = party.check().expect_err("it holds one").to_string();
        assert!(
            error.ends_with("is not free of full card numbers: keep the last digits or a token"),
            "{error}"
        );
    }
}

#[test]
fn what_came_of_the_last_attempt_that_ended_is_how_it_stands() {
    let mut party = party();
    assert_eq!(party.verified(), Verified::Unverified);
    for (at, outcome, stands) in [
        (1, Outcome::InProgress, Verified::InProgress),
        (2, Outcome::Failed, Verified::Failed),
        (3, Outcome::InProgress, Verified::Failed),
        (4, Outcome::Verified, Verified::Verified),
    ] {
        party.verifications.push(Verification {
            id: at.to_string(),
            method: Method::Documentary,
            checker: "desk".into(),
            at: UtcMillis(at),
            outcome,
            evidence: Vec::new(),
            note: None,
        });
        assert_eq!(party.verified(), stands, "{at}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_look_for_card_numbers_panic(text in "\\PC{0,40}|[A-Z0-9 -]{0,40}") {
        let _ = is_card_number(&text, CardReading::Wide);
    }

    #[test]
    fn a_card_number_is_found_wherever_it_stands(
        before in "([g-z]{3,9}[: ]?)?|[0-9]{1,3} ", digits in "4[0-9]{14}", after in "[g-zG-Z,]{0,12}| [0-9]{2}/[0-9]{2}",
        between in prop::sample::select(vec!["", " ", "-", ".", "\u{a0}", "\u{2013}", " - "]),
    ) {
        let digits = format!("{digits}{}", check_digit(&digits));
        let groups: Vec<&str> = [0, 4, 8, 12].iter().map(|from| &digits[*from..from + 4]).collect();
        let text = format!("{before}{}{after}", groups.join(between));
        for reading in [CardReading::Wide, CardReading::Strict] {
            prop_assert!(is_card_number(&text, reading), "{}", text);
        }
    }

    #[test]
    fn account_numbers_hashes_and_numbers_of_companies_are_no_cards(
        account in "[0-9]{11,30}", hash in "[0-9a-f]{31}a|[0-9a-f]{63}b", number in "[17-9][0-9]{12,18}", lei in "[0-9A-Z]{18}",
    ) {
        let rest = mod_97(&format!("{account}DE00"));
        let iban = format!("DE{:02}{account}", 98 - rest);
        let groups: Vec<String> = iban.as_bytes().chunks(4).map(|four| String::from_utf8_lossy(four).into()).collect();
        let lei = format!("{lei}{:02}", 98 - mod_97(&format!("{lei}00")));
        prop_assume!(!number.starts_with("81"));
        for text in [&iban, &groups.join(" "), &hash, &format!("0x{hash}"), &number, &lei] {
            prop_assert!(!is_card_number(text, CardReading::Wide), "{}", text);
        }
    }
}

fn check_digit(digits: &str) -> u32 {
    let from_right = digits.bytes().rev().map(|byte| u32::from(byte - b'0')).enumerate();
    let sum: u32 = from_right
        .map(|(index, digit)| if index % 2 == 0 { (2 * digit) / 10 + (2 * digit) % 10 } else { digit })
        .sum();
    (10 - sum % 10) % 10
}

fn mod_97(text: &str) -> u32 {
    text.bytes().fold(0, |left, byte| match byte {
        b'0'..=b'9' => (left * 10 + u32::from(byte - b'0')) % 97,
        _ => (left * 100 + u32::from(byte - b'A') + 10) % 97,
    })
}
