use expect_test::expect;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::format::generate;

const FROM: Source<'static> = Source { provider: "Sample provider", at: UtcMillis(1_767_225_600_000) };

fn as_text(party: &Party) -> String {
    serde_json::to_string(party).unwrap()
}

fn shown(text: &str) -> String {
    let read = read("f", text.as_bytes(), FROM).unwrap();
    let persons = read.persons.iter().map(|one| {
        let sub = one.sub.as_ref().map(PartyId::as_str).unwrap_or_default();
        format!("{sub} {}", as_text(&one.party))
    });
    let left_out = format!("{:?}", read.left_out);
    persons.chain([left_out]).collect::<Vec<_>>().join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn out_and_in_again_loses_only_what_the_format_does_not_hold(party in generate::party()) {
        let id: PartyId = "C-0".parse().unwrap();
        let Some(text) = write(&id, &party, "us_aml") else {
            prop_assert_eq!(held(&party, "us_aml"), None);
            return Ok(());
        };
        let read = read("f", text.as_bytes(), FROM).unwrap();
        prop_assert_eq!(read.persons.len(), 1);
        prop_assert_eq!(read.persons[0].sub.as_ref(), Some(&id));
        let held = held(&party, "us_aml").unwrap();
        prop_assert_eq!(as_text(&held), as_text(&read.persons[0].party));
        prop_assert_eq!(read.left_out, BTreeMap::new());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in generate::bytes()) {
        let _ = read("f", &bytes, FROM);
    }

    #[test]
    fn no_change_of_a_file_makes_it_panic(
        party in generate::party(),
        changes in vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        if let Some(text) = write(&"C-0".parse().unwrap(), &party, "us_aml") {
            let _ = read("f", &generate::spoilt(&text, &changes), FROM);
        }
    }
}

const GOLDEN: &str = include_str!("../../../tests/formats/verified_claims.json");

#[test]
fn a_file_as_others_write_it_is_read() {
    expect![[r#"
        C-7 {"kind":"person","names":[{"kind":"legal","full":"Max Meier","given":"Max","family":"Meier"},{"kind":"transliteration","full":"Макс Маєр","script":"Cyrl"},{"kind":"birth","full":"Müller","family":"Müller"},{"kind":"alias","full":"Maxi"}],"born":"1956-01-28","citizenships":["DE"],"addresses":[{"kind":"principal","full":"An der Weide 22, Maxstadt, 12344, DE","street":"An der Weide 22","locality":"Maxstadt","postcode":"12344","country":"DE"}],"emails":["max@example.net"],"telephones":["+4912345678"],"identifiers":[{"scheme":"national_id","number":"53554554","issuer":"Stadt Musterstadt","country":"DE","expires":"2030-03-22"}],"us_person":[],"verifications":[{"id":"b54c6f-6d3f-4ec5-973e-b0d8506f3bc7","method":"documentary","checker":"Sample Post","at":"2021-05-11T14:29:00Z","outcome":"verified","evidence":[{"what":"idcard","sha256":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},{"what":"bank_account"}],"note":"trust framework: de_aml, assurance level: high"}]}
        {"claims: place_of_birth": 1}"#]].assert_eq(&shown(GOLDEN));
}

#[test]
fn what_is_read_from_it_is_written_so() {
    let read = read("f", GOLDEN.as_bytes(), FROM).unwrap();
    let text = write(&"C-7".parse().unwrap(), &read.persons[0].party, "us_aml").unwrap();
    expect![[r#"{"sub":"C-7","verified_claims":{"claims":{"address":{"country_code":"DEU","formatted":"An der Weide 22, Maxstadt, 12344, DE","locality":"Maxstadt","postal_code":"12344","street_address":"An der Weide 22"},"also_known_as":"Maxi","birth_family_name":"Müller","birthdate":"1956-01-28","email":"max@example.net","family_name":"Meier","given_name":"Max","name":"Max Meier","name#und-Cyrl":"Макс Маєр","nationalities":["DEU"],"phone_number":"+4912345678"},"verification":{"assurance_level":"high","evidence":[{"attachments":[{"digest":{"alg":"sha-256","value":"n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="},"url":"ni:///sha-256;n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg"}],"check_details":[{"check_method":"unspecified","organization":"Sample Post"}],"document_details":{"date_of_expiry":"2030-03-22","document_number":"53554554","issuer":{"country_code":"DEU","name":"Stadt Musterstadt"},"type":"idcard"},"type":"document"},{"check_details":[{"check_method":"unspecified","organization":"Sample Post"}],"document_details":{"type":"bank_account"},"type":"document"}],"time":"2021-05-11T14:29:00Z","trust_framework":"de_aml","verification_process":"b54c6f-6d3f-4ec5-973e-b0d8506f3bc7"}}}"#]].assert_eq(&text);
}

#[test]
fn what_nobody_verified_is_not_told_as_verified() {
    let mut party = Party::unknown(CustomerKind::Person);
    party.emails.push("jane@example.net".into());
    let id = "C-7".parse().unwrap();
    expect![[r#"{"email":"jane@example.net","sub":"C-7"}"#]]
        .assert_eq(&write(&id, &party, "us_aml").unwrap());
    party.verifications.push(Verification {
        id: "v1".into(),
        method: Method::NonDocumentary,
        checker: "desk".into(),
        at: UtcMillis(0),
        outcome: Outcome::Failed,
        evidence: Vec::new(),
        note: None,
    });
    assert!(!write(&id, &party, "us_aml").unwrap().contains("verified_claims"));
    party.verifications[0].outcome = Outcome::Verified;
    expect![[r#"{"sub":"C-7","verified_claims":{"claims":{"email":"jane@example.net"},"verification":{"evidence":[{"check_details":[{"check_method":"unspecified","organization":"desk"}],"type":"electronic_record"}],"time":"1970-01-01T00:00:00Z","trust_framework":"us_aml","verification_process":"v1"}}}"#]].assert_eq(&write(&id, &party, "us_aml").unwrap());
}

#[test]
fn drafts_of_the_format_and_what_only_some_tell_are_read() {
    let text = r##"{"verified_claims":{"verification":{"trust_framework":"de_aml",
        "evidence":[{"type":"id_document","method":"pipp","verifier":{"organization":"Sample Post","txn":"t-1"},
        "time":"2012-04-22T11:30Z","document":{"type":"idcard","issuer":{"name":"Stadt X","country":"DE"},
        "number":"53554554","date_of_expiry":"2020-03-22"},
        "attachments":[{"desc":"front","content_type":"text/plain","content":"YQ=="}]},{"type":"hearsay"}]},
        "claims":{"given_name":"太郎","family_name":"山田","given_name#ja-Kana-JP":"タロウ","birthdate":"0000-01-28",
        "nationalities":["D","XXA","JP"],"gender":"male"}}}"##;
    expect![[r#"
         {"kind":"person","names":[{"kind":"legal","full":"太郎 山田","given":"太郎","family":"山田"},{"kind":"transliteration","full":"タロウ","given":"タロウ","script":"Kana"}],"citizenships":["DE","JP"],"identifiers":[{"scheme":"national_id","number":"53554554","issuer":"Stadt X","country":"DE","expires":"2020-03-22"}],"us_person":[],"verifications":[{"id":"t-1","method":"documentary","checker":"Sample Post","at":"2012-04-22T11:30:00Z","outcome":"verified","evidence":[{"what":"idcard","sha256":"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}],"note":"trust framework: de_aml"}]}
        {"claims: birthdate without a year": 1, "claims: gender": 1, "claims: nationalities that are not of ISO 3166-1": 1, "evidence: hearsay": 1}"#]].assert_eq(&shown(text));
}

#[test]
fn every_fault_is_named_by_line_and_place_and_no_value_is_repeated() {
    let text = r#"{"sub":"Jane Secret","verified_claims":{"verification":{"time":"Secret","evidence":[7,{"type":"document",
        "document_details":{"date_of_expiry":"Secret"},"attachments":[{"digest":{"alg":"sha-256","value":"Secret"}}]}]},
        "claims":{"name":["Secret"],"birthdate":"Secret","nationalities":["Republic of Secret"]}}}"#;
    let told = read("f.json", text.as_bytes(), FROM).unwrap_err().to_string();
    expect![[r#"
        f.json is not read, for 9 faults (values are withheld):
        f.json:1: sub: expected an account number, not a name: 1 to 64 printable ASCII characters without blanks
        f.json:1: verified_claims.claims.birthdate: expected a date as 1970-05-12 or 1970
        f.json:1: verified_claims.claims.name: expected text of at most 4,096 bytes
        f.json:1: verified_claims.claims.nationalities[0]: expected a country's two or three letters by ISO 3166-1
        f.json:1: verified_claims.verification.evidence[0]: expected a JSON object
        f.json:1: verified_claims.verification.evidence[1].attachments[0].digest.value: expected the 32 bytes of a SHA-256, in base64
        f.json:1: verified_claims.verification.evidence[1].document_details.date_of_expiry: expected a date as 2026-01-31, 2026-01 or 2026
        f.json:1: verified_claims.verification.time: expected an ISO 8601 time, as 2026-01-31T08:00Z
        f.json:1: verified_claims.verification.trust_framework: expected by whose rules it was verified, which must be told"#]].assert_eq(&told);
    assert!(!told.contains("Secret"));
    let told = read("f.json", b"{}\n{\"sub\":\"a\"}\nx\n", FROM).unwrap_err().to_string();
    expect![[r#"
        f.json is not read, for 2 faults (values are withheld):
        f.json:1: verified_claims: expected verified claims, or a sub: else it is said of nobody
        f.json:3: expected a JSON object"#]]
    .assert_eq(&told);
}
