use expect_test::expect;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::format::generate;

fn refusal(text: &str) -> String {
    read("f.jsonl", text.as_bytes()).unwrap_err().to_string()
}

fn line(schema: &str, properties: &str) -> String {
    format!(r#"{{"id":"x","schema":"{schema}","properties":{{{properties}}}}}"#)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn out_and_in_again_loses_only_what_the_format_does_not_hold(
        parties in generate::parties(),
        interests in generate::interests(),
    ) {
        let read = read("f", write(&parties, &interests).as_bytes());
        if parties.is_empty() && interests.is_empty() {
            return Ok(());
        }
        let read = read.unwrap();
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
        let _ = read("f", &generate::spoilt(&write(&parties, &interests), &changes));
    }
}

fn as_text(party: &Party) -> String {
    serde_json::to_string(party).unwrap()
}

#[test]
fn a_file_as_others_write_it_is_read() {
    let read = read("golden.jsonl", include_bytes!("../../../tests/formats/ftm.jsonl")).unwrap();
    let parties: Vec<String> =
        read.parties.iter().map(|(id, party)| format!("{id} {}", as_text(party))).collect();
    expect![[r#"
        Q-person {"kind":"person","names":[{"kind":"legal","full":"Anna Iwanowa","given":"Anna","patronymic":"Sergejewna","family":"Iwanowa"},{"kind":"alias","full":"Анна Иванова"},{"kind":"alias","full":"Anja"},{"kind":"former","full":"Anna Petrowa"}],"born":"1970-05-12","citizenships":["RU"],"addresses":[{"kind":"other","full":"Lindenweg 5, 10115 Berlin","street":"Lindenweg 5","locality":"Berlin","postcode":"10115","country":"DE"}],"emails":["anna@iwanowa.example"],"telephones":["+493012345678"],"domains":["www.iwanowa.example"],"identifiers":[{"scheme":"passport","number":"71 1234567","issuer":"MVD","country":"RU","expires":"2029-03-01"},{"scheme":"tax","number":"12/345/67890"}],"us_person":[]}
        co-holding {"kind":"entity","names":[{"kind":"legal","full":"Muster Holding GmbH"}],"born":"2011-04","jurisdiction":"DE","identifiers":[{"scheme":"registration","number":"HRB 12345"},{"scheme":"lei","number":"529900T8BM49AURSDO55"}],"us_person":[]}
        co-llc {"kind":"entity","names":[{"kind":"legal","full":"Sample LLC"}],"born":"2015-06-01","jurisdiction":"US","us_person":[]}
        trust-1 {"kind":"arrangement","names":[{"kind":"legal","full":"The Sample Trust"}],"us_person":[]}"#]].assert_eq(&parties.join("\n"));
    let interests: Vec<String> =
        read.interests.iter().map(|interest| serde_json::to_string(interest).unwrap()).collect();
    expect![[r#"
        {"owner":"Q-person","asset":"co-holding","kind":"shareholding","share":{"exact":"62.5"},"from":"2016-04-06T00:00:00Z"}
        {"owner":"co-holding","asset":"co-llc","kind":"shareholding","share":{"least":"25","most":"50"},"from":"2018-01-01T00:00:00Z","to":"2021-01-01T00:00:00Z"}
        {"owner":"Q-person","asset":"co-llc","kind":"manages","from":"2019-01-01T00:00:00Z"}
        {"owner":"trust-1","asset":"co-holding","kind":"other_control"}
        {"owner":"trust-1","asset":"co-llc","kind":"appoints_board"}"#]].assert_eq(&interests.join("\n"));
    expect![[r#"{"Ownership with what was left out": 1, "Person nationality: not of ISO 3166-1": 1, "Sanction": 1, "UnknownLink": 1, "Vessel": 1}"#]].assert_eq(&format!("{:?}", read.left_out));
}

#[test]
fn what_is_read_from_it_is_written_so() {
    let read = read("golden.jsonl", include_bytes!("../../../tests/formats/ftm.jsonl")).unwrap();
    let one = read.parties.iter().find(|(id, _)| id.as_str() == "Q-person").unwrap().clone();
    expect![[r#"
        {"id":"Q-person","properties":{"addressEntity":["fed26615d667b97c1dcde85947566eb47d993c08"],"alias":["Анна Иванова","Anja"],"birthDate":["1970-05-12"],"citizenship":["ru"],"email":["anna@iwanowa.example"],"fatherName":["Sergejewna"],"firstName":["Anna"],"lastName":["Iwanowa"],"name":["Anna Iwanowa"],"passportNumber":["71 1234567"],"phone":["+493012345678"],"previousName":["Anna Petrowa"],"taxNumber":["12/345/67890"],"website":["https://www.iwanowa.example/"]},"schema":"Person"}
        {"id":"fed26615d667b97c1dcde85947566eb47d993c08","properties":{"city":["Berlin"],"country":["de"],"full":["Lindenweg 5, 10115 Berlin"],"postalCode":["10115"],"street":["Lindenweg 5"]},"schema":"Address"}
        {"id":"f628357dd4f41b3319c4898fb9eee8b9afcb4eb2","properties":{"authority":["MVD"],"country":["ru"],"endDate":["2029-03-01"],"holder":["Q-person"],"number":["71 1234567"],"type":["Passport"]},"schema":"Passport"}
        {"id":"6478c644266274e6e4a46bd22386700628e4e05f","properties":{"holder":["Q-person"],"number":["12/345/67890"],"type":["Tax number"]},"schema":"Identification"}
        {"id":"b794a218aa4115959d388d63f44e86d65ffe34cf","properties":{"asset":["co-holding"],"owner":["Q-person"],"percentage":["62.5"],"startDate":["2016-04-06"]},"schema":"Ownership"}
    "#]].assert_eq(&write(&[one], &read.interests[..1]));
}

#[test]
fn percentages_are_read_as_others_write_them() {
    let shown = |text| stake(text).map(|stake| format!("{}..{}", stake.least(), stake.most()));
    for (text, expected) in [
        ("25", "25..25"),
        ("25.0", "25..25"),
        ("25%", "25..25"),
        ("33,33 %", "33.33..33.33"),
        ("33.333333", "33.3333..33.3334"),
        ("25-50", "25..50"),
        ("25 % – 50 %", "25..50"),
        (">50", "50.0001..100"),
        (">= 75%", "75..100"),
        ("≤10", "0..10"),
        ("<25", "0..24.9999"),
    ] {
        assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
    }
    for bad in ["", "%", "-5", "101", "50-25", "a quarter", "1e1", "inf", "NaN", ">100", "<0", "1.2.3", "--"]
    {
        assert_eq!(shown(bad), None, "{bad}");
    }
}

#[test]
fn every_fault_is_named_by_line_and_property_and_no_value_is_repeated() {
    let text = [
        line("Person", r#""name":["Jane Secret"],"birthDate":["Secretday"],"nationality":["Secretland "]"#),
        line("Ownership", r#""owner":["Jane Secret"],"asset":["b"],"percentage":["Secret %"]"#),
        line("Directorship", r#""director":["a"]"#),
        "{\"id\":\"Secret".to_owned(),
        line("Passport", r#""holder":["x"],"type":7"#),
    ];
    let told = refusal(&text.join("\n"));
    expect![[r#"
        f.jsonl is not read, for 11 faults (values are withheld):
        f.jsonl:1: properties.birthDate: expected a date as 2026-01-31, 2026-01 or 2026
        f.jsonl:1: properties.nationality: expected a country's two or three letters by ISO 3166-1
        f.jsonl:2: id: expected an id of its own: entities in pieces must be put together first
        f.jsonl:2: properties.owner: expected an account number, not a name: 1 to 64 printable ASCII characters without blanks
        f.jsonl:2: properties.percentage: expected a percentage from 0 to 100, as 25, 25.5 %, 25-50 or >50
        f.jsonl:3: id: expected an id of its own: entities in pieces must be put together first
        f.jsonl:3: properties.organization: expected the id of an entity
        f.jsonl:4: expected a JSON object
        f.jsonl:5: id: expected an id of its own: entities in pieces must be put together first
        f.jsonl:5: properties.number: expected the number that every document has
        f.jsonl:5: properties.type: expected an array of at most 10,000 values"#]].assert_eq(&told);
    assert!(!told.contains("Secret"));
}

#[test]
fn what_has_no_place_is_counted_by_name() {
    let text = [
        line("Vessel", r#""name":["Ship"]"#),
        line("Ownership", r#""owner":["a"],"asset":["x"]"#).replace(r#""id":"x""#, r#""id":"y""#),
        line("UnknownLink", r#""subject":["a"],"object":["b"],"role":["cousin"]"#)
            .replace(r#""id":"x""#, r#""id":"z""#),
    ];
    let read = read("f", text.join("\n").as_bytes()).unwrap();
    assert!(read.interests.is_empty());
    expect![[r#"{"Ownership with what was left out": 1, "UnknownLink": 1, "Vessel": 1}"#]]
        .assert_eq(&format!("{:?}", read.left_out));
}
