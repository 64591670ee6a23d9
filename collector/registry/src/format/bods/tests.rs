use expect_test::expect;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::format::generate;

const BY: Publication<'static> =
    Publication { publisher: "Sample operator", at: UtcMillis(1_767_225_600_000) };

fn as_text(party: &Party) -> String {
    serde_json::to_string(party).unwrap()
}

fn statement(kind: &str, record: &str, rest: &str, details: &str) -> String {
    format!(
        r#"{{"recordType":"{kind}","recordId":"{record}","statementDate":"2026-01-01"{rest},"recordDetails":{{"isComponent":false,{details}}}}}"#
    )
}

fn relationship(interests: &str) -> String {
    statement(
        "relationship",
        "r",
        "",
        &format!(r#""subject":"b","interestedParty":"a","interests":[{interests}]"#),
    )
}

fn shown(text: &str) -> String {
    let read = read("f", text.as_bytes()).unwrap();
    let mut shown: Vec<String> =
        read.interests.iter().map(|interest| serde_json::to_string(interest).unwrap()).collect();
    shown.extend(read.parties.iter().map(|(id, party)| format!("{id} {}", as_text(party))));
    shown.push(format!("{:?}", read.left_out));
    shown.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn out_and_in_again_loses_only_what_the_format_does_not_hold(
        parties in generate::parties(),
        interests in generate::interests(),
    ) {
        if parties.is_empty() && interests.is_empty() {
            return Ok(());
        }
        let read = read("f", write(&parties, &interests, BY).as_bytes()).unwrap();
        prop_assert_eq!(read.parties.len(), parties.len());
        for ((id, party), (read_id, read_party)) in parties.iter().zip(&read.parties) {
            prop_assert_eq!(id, read_id);
            prop_assert_eq!(as_text(&held(party)), as_text(read_party));
        }
        prop_assert_eq!(held_interests(&interests), read.interests);
        prop_assert_eq!(read.left_out, BTreeMap::new());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in generate::bytes()) {
        let _ = read("f", &bytes);
    }

    #[test]
    fn no_change_of_a_file_makes_it_panic(
        party in generate::party(),
        interests in generate::interests(),
        changes in vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let parties = [("C-0".parse().unwrap(), party)];
        let _ = read("f", &generate::spoilt(&write(&parties, &interests, BY), &changes));
    }
}

#[test]
fn a_file_as_others_write_it_is_read() {
    expect![[r#"
        {"owner":"ent-trust","asset":"ent-works","kind":"shareholding","share":{"exact":"62.5"},"from":"2020-02-01T00:00:00Z"}
        {"owner":"ent-trust","asset":"ent-works","kind":"voting_rights","share":{"least":"50.0001","most":"75"}}
        {"owner":"per-1","asset":"ent-trust","kind":"other_control"}
        {"owner":"per-1","asset":"ent-trust","kind":"shareholding"}
        ent-works {"kind":"entity","names":[{"kind":"legal","full":"Sample Works Ltd"},{"kind":"alias","full":"Works"}],"born":"2019-09-03","jurisdiction":"GB","addresses":[{"kind":"registered","full":"1 High Street, Sampleton","postcode":"SA1 1AA","country":"GB"},{"kind":"principal","full":"2 Dock Road, Sampleton","country":"GB"}],"identifiers":[{"scheme":"registration","number":"20633845","issuer":"GB-COH","country":"GB"},{"scheme":"lei","number":"529900T8BM49AURSDO55"}],"us_person":[]}
        per-1 {"kind":"person","names":[{"kind":"legal","full":"Jonas Jónsson","given":"Jonas","patronymic":"Jónsson"},{"kind":"alias","full":"Jonas Johnson"}],"born":"1978-07","citizenships":["IS"],"addresses":[{"kind":"mailing","full":"76 York Road, Sampleton","postcode":"SA3 1LF","country":"GB"}],"identifiers":[{"scheme":"passport","number":"A1234567","country":"IS"},{"scheme":"national_id","number":"120378-3389","issuer":"Þjóðskrá","country":"IS"},{"scheme":"other","number":"55","issuer":"Library of Sampleton"}],"us_person":[]}
        ent-trust {"kind":"arrangement","names":[{"kind":"legal","full":"Sample Family Trust"}],"us_person":[]}
        {"interest: indirect with components": 1, "interest: rightsToProfitOrIncome": 1, "interest: unknownInterest": 1, "interestedParty: interestedPartyHasNotProvidedInformation": 1, "nationalities: without a code of ISO 3166-1": 1}"#]].assert_eq(&shown(include_str!("../../../tests/formats/bods.json")));
}

#[test]
fn what_is_read_from_it_is_written_so() {
    let read = read("f", include_bytes!("../../../tests/formats/bods.json")).unwrap();
    expect![[r#"[{"declarationSubject":"per-1","publicationDetails":{"bodsVersion":"0.4","publicationDate":"2026-01-01T00:00:00Z","publisher":{"name":"Sample operator"}},"recordDetails":{"addresses":[{"address":"76 York Road, Sampleton","country":{"code":"GB","name":"GB"},"postCode":"SA3 1LF","type":"service"}],"birthDate":"1978-07","identifiers":[{"id":"A1234567","scheme":"ISL-PASSPORT"},{"id":"120378-3389","scheme":"ISL-IDCARD","schemeName":"Þjóðskrá"},{"id":"55","schemeName":"Library of Sampleton"}],"isComponent":false,"names":[{"fullName":"Jonas Jónsson","givenName":"Jonas","patronymicName":"Jónsson","type":"legal"},{"fullName":"Jonas Johnson","type":"alternative"}],"nationalities":[{"code":"IS","name":"IS"}],"personType":"knownPerson"},"recordId":"per-1","recordStatus":"new","recordType":"person","statementDate":"2026-01-01T00:00:00Z","statementId":"7e596aabf2ec6b1ac62838b7e125cb68265741aa"},{"declarationSubject":"ent-works","publicationDetails":{"bodsVersion":"0.4","publicationDate":"2026-01-01T00:00:00Z","publisher":{"name":"Sample operator"}},"recordDetails":{"interestedParty":"ent-trust","interests":[{"directOrIndirect":"unknown","share":{"exact":62.5,"maximum":62.5,"minimum":62.5},"startDate":"2020-02-01","type":"shareholding"}],"isComponent":false,"subject":"ent-works"},"recordId":"486b1581d2796b11c7983d1624db90e6a87ecf15","recordStatus":"new","recordType":"relationship","statementDate":"2026-01-01T00:00:00Z","statementId":"91ebf8fb8639176d6be2ec372155283d5937fd0d"}]"#]].assert_eq(&write(&read.parties[1..2], &read.interests[..1], BY));
}

#[test]
fn every_type_of_interest_is_read_or_left_out_by_name() {
    let kinds: Vec<String> = TYPES
        .iter()
        .map(|(kind, _)| {
            let read = read("f", relationship(&format!(r#"{{"type":"{kind}"}}"#)).as_bytes()).unwrap();
            let kind_read = read.interests.first().map(|interest| interest.kind.as_str());
            let why = read.left_out.keys().next().cloned();
            format!("{kind}: {}", kind_read.map_or(why.unwrap_or_default(), str::to_owned))
        })
        .collect();
    expect![[r#"
        shareholding: shareholding
        votingRights: voting_rights
        appointmentOfBoard: appoints_board
        otherInfluenceOrControl: other_control
        seniorManagingOfficial: manages
        settlor: other_control
        trustee: manages
        protector: other_control
        beneficiaryOfLegalArrangement: shareholding
        rightsToSurplusAssetsOnDissolution: shareholding
        rightsToProfitOrIncome: interest: rightsToProfitOrIncome
        rightsGrantedByContract: other_control
        conditionalRightsGrantedByContract: interest: conditionalRightsGrantedByContract
        controlViaCompanyRulesOrArticles: other_control
        controlByLegalFramework: other_control
        boardMember: manages
        boardChair: manages
        unknownInterest: interest: unknownInterest
        unpublishedInterest: interest: unpublishedInterest
        enjoymentAndUseOfAssets: interest: enjoymentAndUseOfAssets
        rightToProfitOrIncomeFromAssets: interest: rightToProfitOrIncomeFromAssets
        nominee: interest: nominee
        nominator: other_control"#]]
    .assert_eq(&kinds.join("\n"));
}

#[test]
fn the_latest_statement_of_a_record_counts_and_a_closed_one_ends_it() {
    let of = |status: &str, date: &str, share: u32| {
        let interests = format!(r#"{{"type":"shareholding","share":{{"exact":{share}}}}}"#);
        relationship(&interests)
            .replace("2026-01-01", date)
            .replace(r#""recordId""#, &format!(r#""recordStatus":"{status}","recordId""#))
    };
    let text = [of("updated", "2024-01-01", 20), of("new", "2020-01-01", 10)].join("\n");
    expect![[r#"
        {"owner":"a","asset":"b","kind":"shareholding","share":{"exact":"20"}}
        {}"#]]
    .assert_eq(&shown(&text));
    let text = [of("new", "2020-01-01", 10), of("closed", "2025-06-30T12:00:00Z", 10)].join("\n");
    expect![[r#"
        {"owner":"a","asset":"b","kind":"shareholding","share":{"exact":"10"},"to":"2025-06-30T00:00:00Z"}
        {}"#]]
    .assert_eq(&shown(&text));
    let person = statement("person", "p", r#","recordStatus":"closed""#, r#""personType":"knownPerson""#);
    expect![[r#"{"person: closed": 1}"#]].assert_eq(&shown(&person));
}

#[test]
fn shares_are_read_as_exact_as_ranges_and_without_their_bounds() {
    let shares = |share: &str| {
        let text = relationship(&format!(r#"{{"type":"votingRights","share":{share}}}"#));
        let read = read("f", text.as_bytes()).map_err(|errors| errors.shown[0].clone());
        match read {
            Ok(read) => match read.interests[0].share {
                Some(stake) => format!("{}..{}", stake.least(), stake.most()),
                None => "unknown".into(),
            },
            Err(fault) => format!("{} {}", fault.place, fault.expected),
        }
    };
    for (share, expected) in [
        (r#"{"exact":12.3456}"#, "12.3456..12.3456"),
        (r#"{"exact":25,"minimum":25,"maximum":25}"#, "25..25"),
        (r#"{"minimum":25,"maximum":50}"#, "25..50"),
        (r#"{"exclusiveMinimum":25,"exclusiveMaximum":50}"#, "25.0001..49.9999"),
        (r#"{"minimum":75}"#, "75..100"),
        ("{}", "unknown"),
    ] {
        assert_eq!(shares(share), expected, "{share}");
    }
    for bad in [
        r#"{"minimum":50,"maximum":25}"#,
        r#"{"exact":60,"maximum":50}"#,
        r#"{"exact":101}"#,
        r#"{"exact":"25"}"#,
        r#"{"exclusiveMinimum":100}"#,
    ] {
        assert!(shares(bad).starts_with("recordDetails.interests[0].share"), "{bad}");
    }
}

#[test]
fn every_fault_is_named_by_line_and_place_and_no_value_is_repeated() {
    let text = [
        "[".to_owned(),
        statement(
            "person",
            "Jane Secret",
            "",
            r#""names":[{"type":"Secret","fullName":"Jane"}],"birthDate":"Secret""#,
        ),
        ",".to_owned(),
        relationship(r#"{"type":"Secret"},{"type":"shareholding","startDate":"Secret"}"#),
        ",{\"statementType\":\"Secret\"},7]".to_owned(),
    ];
    let told = read("f.json", text.join("\n").as_bytes()).unwrap_err().to_string();
    expect![[r#"
        f.json is not read, for 10 faults (values are withheld):
        f.json:2: recordDetails.birthDate: expected a date as 2026-01-31, 2026-01 or 2026
        f.json:2: recordDetails.names[0].type: expected legal, translation, transliteration, former, alternative or birth
        f.json:2: recordId: expected an account number, not a name: 1 to 64 printable ASCII characters without blanks
        f.json:4: recordDetails.interests[0].type: expected a type of interest of BODS 0.4
        f.json:4: recordDetails.interests[1].startDate: expected a date as 2026-01-31, 2026-01 or 2026
        f.json:5: expected a JSON object
        f.json:5: recordDetails: expected what every statement has here
        f.json:5: recordId: expected what every statement has here
        f.json:5: recordType: expected person, entity or relationship, as statements of BODS 0.4 have it
        f.json:5: statementDate: expected what every statement has here"#]].assert_eq(&told);
    assert!(!told.contains("Secret"));
}

#[test]
fn an_indirect_interest_counts_where_the_file_does_not_tell_its_components() {
    let indirect = |components: &str| {
        let text = relationship(r#"{"type":"shareholding","directOrIndirect":"indirect"}"#);
        let text = text.replace(r#""subject""#, &format!(r#""componentRecords":["{components}"],"subject""#));
        let part =
            relationship(r#"{"type":"votingRights"}"#).replace(r#""recordId":"r""#, r#""recordId":"part""#);
        shown(&format!("{text}\n{part}"))
    };
    expect![[r#"
        {"owner":"a","asset":"b","kind":"voting_rights"}
        {"interest: indirect with components": 1}"#]]
    .assert_eq(&indirect("part"));
    expect![[r#"
        {"owner":"a","asset":"b","kind":"shareholding"}
        {"owner":"a","asset":"b","kind":"voting_rights"}
        {}"#]]
    .assert_eq(&indirect("elsewhere"));
}

#[test]
fn rights_to_what_is_left_are_a_part_of_it_and_not_counted_beside_shares() {
    let surplus = r#"{"type":"rightsToSurplusAssetsOnDissolution","share":{"exact":30}}"#;
    expect![[r#"
        {"owner":"a","asset":"b","kind":"shareholding","share":{"exact":"30"}}
        {}"#]]
    .assert_eq(&shown(&relationship(surplus)));
    let both = format!(r#"{surplus},{{"type":"shareholding","share":{{"exact":30}}}}"#);
    expect![[r#"
        {"owner":"a","asset":"b","kind":"shareholding","share":{"exact":"30"}}
        {"interest: rightsToSurplusAssetsOnDissolution": 1}"#]]
    .assert_eq(&shown(&relationship(&both)));
}
