//! Files of parties and of what they hold of each other: good ones are read whole, bad ones say all that is wrong and
//! repeat nothing of it, and what is written is read back.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

mod support;

use expect_test::{Expect, expect};
use proptest::{collection::vec, option, prelude::*, sample::select};
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    Interest, InterestKind, Mapping, PartyRecord, Standing, Told,
    ownership::{Share, Stake},
    parse_interests, parse_parties, parse_records,
    party::{Party, StatusBasis, UsStatus, Verification},
    party_paths, write_interests, write_parties, write_records,
};

const TOLD: Told<'_> = Told { at: UtcMillis(0), by: "desk" };

fn shown(records: &[PartyRecord]) -> String {
    records.iter().map(|record| serde_json::to_string(record).unwrap() + "\n").collect()
}

fn check(mapping: &str, text: &str, expected: Expect) {
    let mapping = (!mapping.is_empty()).then(|| Mapping::parse("mapping.toml", mapping.as_bytes()).unwrap());
    expected.assert_eq(&match parse_parties("parties.csv", text.as_bytes(), mapping.as_ref(), TOLD) {
        Ok(records) => shown(&records),
        Err(errors) => errors.to_string(),
    });
}

fn check_mapping(text: &str, expected: Expect) {
    expected.assert_eq(&Mapping::parse("mapping.toml", text.as_bytes()).unwrap_err().to_string());
}

const MAPPING: &str = r#"
delimiter = ";"
ignore = ["Remark"]

[fields]
id = "Account no"
kind = { column = "Type", values = { Ltd = "entity", Ms = "person" }, default = "entity" }
names.legal.full = { columns = ["First", "Last"], separator = " " }
names.legal.family = "Last"
addresses.principal.full = { column = "Address", lines = ", " }
addresses.principal.country = { default = "FR" }
emails = { column = "Mail", list = "|" }
us_person = { column = "US?", values = { Y = "us", N = "foreign" }, default = "undetermined" }
standing.opened = "Since"
identifiers.lei.number = "LEI"
risk_reasons = { default = "imported" }
"#;

#[test]
fn a_mapping_takes_the_columns_of_another_system() {
    check(
        MAPPING,
        "\u{feff}Account no;Type;First;Last;Address;Mail;US?;Since;LEI;Remark\r\n\
         A-1;Ms;Jane;Doe;\"1 Rue X\r\n69001 Lyon\";jane@example.net|j@example.net;N;2026-01-31;;\"a \"\"b\"\"\"\r\n\
         A-2;;;Ünal; ;;;2026-01-31T10:00:00+02:00;5493001KJTIIGC8Y1R12;x\r\n",
        expect![[r#"
            {"id":"A-1","standing":{"verified":"unverified","remedy":"none","risk":"standard","opened":"2026-01-31T00:00:00Z"},"party":{"kind":"person","names":[{"kind":"legal","full":"Jane Doe","family":"Doe"}],"addresses":[{"kind":"principal","full":"1 Rue X, 69001 Lyon","country":"FR"}],"emails":["jane@example.net","j@example.net"],"us_person":[{"says":"foreign","basis":"told","decides":true,"at":"1970-01-01T00:00:00Z","by":"desk"}],"risk_reasons":["imported"]}}
            {"id":"A-2","standing":{"verified":"unverified","remedy":"none","risk":"standard","opened":"2026-01-31T08:00:00Z"},"party":{"kind":"entity","names":[{"kind":"legal","full":"Ünal","family":"Ünal"}],"identifiers":[{"scheme":"lei","number":"5493001KJTIIGC8Y1R12"}],"us_person":[],"risk_reasons":["imported"]}}
        "#]],
    );
}

#[test]
fn every_fault_is_named_by_line_and_column_without_its_value() {
    check(
        MAPPING,
        "Account no;Type;First;Last;Address;Mail;US?;Since;LEI;Remark\n\
         Jane Doe;Mr;Jane;Doe;;jane;Y;31.01.2026;;\n\
         A-2;Ltd;Jane;Doe;x;y\n\
         A-3;Ltd;Ja\u{7}ne;Doe;x;a@b.example;Y;;;\n\
         A-4;Ltd;Jane;;;a@b.example|jane;Y;;;\n\
         A-5;Ltd;Jane;;;;Y;;5493001KJTIIGC8Y1R13;\n\
         A-5;Ltd;;;;;;;;\n\
         A-6;Ltd;;;;;;;;\n\
         A-6;Ltd;;;;;;;;\n\
         ;;;;;;;;;\n",
        expect![[r#"
            parties.csv is not imported, for 9 faults:
            parties.csv:2: Account no (id): the value (withheld) does not fit, expected an account number, not a name: 1 to 64 printable ASCII characters without blanks
            parties.csv:2: Type (kind): the value (withheld) does not fit, expected person, entity, arrangement or reseller
            parties.csv:2: Since (standing.opened): the value (withheld) does not fit, expected an RFC 3339 time or a day in UTC, for example 2026-01-31T08:00:00Z or 2026-01-31
            parties.csv:3: 6 values, expected 10, one a column
            parties.csv:4: First+Last (names.legal.full): the value (withheld) does not fit, expected text in one line
            parties.csv:5: Mail (emails): the value (withheld) does not fit, expected an email address, with an @ and without blanks
            parties.csv:6: LEI (identifiers.lei.number): the value (withheld) does not fit, expected a legal entity identifier: 20 letters and digits whose check digits fit (ISO 17442)
            parties.csv:9: id: the same party as on line 8, expected each once
            parties.csv:10: Account no (id): blank, expected an account number, not a name: 1 to 64 printable ASCII characters without blanks"#]],
    );
}

#[test]
fn without_a_mapping_the_columns_are_called_as_the_paths() {
    check(
        "",
        "kind,id,names.alias.full,names.alias.given,payments.means,payments.source,us_person,us_person.at\n\
         entity,A-1,Jo;Do\\;\\\\e,;Do,Bank X;Bank Y,1;,undetermined;us,;2026-01-31\n",
        expect![[r#"
            {"id":"A-1","standing":{"verified":"unverified","remedy":"none","risk":"standard"},"party":{"kind":"entity","names":[{"kind":"alias","full":"Jo"},{"kind":"alias","full":"Do;\\e","given":"Do"}],"payments":[{"means":"Bank X","source":"1"},{"means":"Bank Y"}],"us_person":[{"says":"us","basis":"told","decides":true,"at":"2026-01-31T00:00:00Z","by":"desk"}]}}
        "#]],
    );
    check(
        "",
        "id,kind,names.alias.full,names.alias.given,verifications.id,verifications.method,discrepancies.resolved.by\n\
         A-1,entity,Jo;Do;,a;b,v;w,documentary;,Smith\n",
        expect![[r#"
            parties.csv is not imported, for 4 faults:
            parties.csv:2: names.alias.given: 2 values, expected 3 or none, as many as its other parts have
            parties.csv:2: verifications.checker: blank, expected text of at most 4,096 bytes in one line
            parties.csv:2: verifications.method: blank, expected documentary or non_documentary
            parties.csv:2: discrepancies.resolved.how: blank, expected text of at most 4,096 bytes in one line"#]],
    );
}

#[test]
fn a_header_has_columns_that_are_known_once_each() {
    check(
        MAPPING,
        "Account no;Type;First;Last;Address;Mail;US?;Since;LEI;Remark;Jane;Type\n",
        expect![[r#"
            parties.csv is not imported, for 2 faults:
            parties.csv:1: column 11 is unknown (its name is withheld), expected one that the mapping names, or ignores
            parties.csv:1: Type: the header has this column more than once"#]],
    );
    check(
        MAPPING,
        "Jane;Doe\n",
        expect![[r#"
            parties.csv is not imported, for 1 fault:
            parties.csv:1: the first row is not a header, expected columns as the mapping or the paths name them, in UTF-8 and with the delimiter of the mapping"#]],
    );
    check(
        MAPPING,
        "Account no,Type\n",
        expect![[r#"
            parties.csv is not imported, for 1 fault:
            parties.csv:1: the first row is not a header, expected columns as the mapping or the paths name them, in UTF-8 and with the delimiter of the mapping"#]],
    );
    check(
        "",
        "",
        expect![[r#"
            parties.csv is not imported, for 1 fault:
            parties.csv:1: the file is empty, expected the header id,kind and other paths of a party"#]],
    );
    check(
        "",
        "id,kind,surname\nA,entity,Doe\n",
        expect![[r#"
            parties.csv is not imported, for 1 fault:
            parties.csv:1: column 3 is unknown (its name is withheld), expected one that the mapping names, or ignores"#]],
    );
    check(
        "",
        "id\nA\n",
        expect![[r#"
            parties.csv is not imported, for 1 fault:
            parties.csv:1: kind: the header lacks this column"#]],
    );
    check(
        "ignore_unknown = true\n[fields]\nid = 'Id'\nkind = { default = 'person' }\n",
        "Id,Name\nA,Doe\n",
        expect![[r#"
            {"id":"A","standing":{"verified":"unverified","remedy":"none","risk":"standard"},"party":{"kind":"person","us_person":[]}}
        "#]],
    );
}

#[test]
fn a_mapping_says_all_that_is_wrong_with_it() {
    check_mapping(
        "Account no;Type\nA-1;Jane Doe\n",
        expect![[r#"
            mapping.toml is not imported, for 1 fault:
            mapping.toml:1: this is not TOML, expected a mapping"#]],
    );
    check_mapping(
        "[fields]\nid = 'A'\n",
        expect![[r#"
            mapping.toml is not imported, for 1 fault:
            mapping.toml:1: fields: nothing fills kind, expected a column or a default"#]],
    );
    check_mapping(
        "",
        expect![[r#"
            mapping.toml is not imported, for 1 fault:
            mapping.toml:1: fields: missing, expected a table of paths"#]],
    );
    check_mapping(
        r#"
        delimiter = "|"
        ignore_unknown = 1
        quote = "'"
        ignore = "x"
        [fields]
        id = { columns = [], list = "ab" }
        kind = { column = "a", columns = ["b"], values = { Ltd = "company", X = 1 }, default = "firm" }
        names.legal.first = "First"
        names.legal.full = { }
        born = { column = "B", list = ";", format = "x" }
        emails = 1
        name = "x"
        residence = ""
        "#,
        expect![[r#"
            mapping.toml is not imported, for 17 faults:
            mapping.toml:2: delimiter: expected ",", ";" or "\t"
            mapping.toml:3: ignore_unknown: expected true or false
            mapping.toml:4: "quote" is unknown, expected delimiter, ignore, ignore_unknown or fields
            mapping.toml:5: ignore: expected a list of names of columns
            mapping.toml:7: id: expected one character as list
            mapping.toml:7: id: expected column, columns or default
            mapping.toml:8: kind: expected either column or columns
            mapping.toml:8: kind: expected text for each of values
            mapping.toml:8: kind: "firm", expected person, entity, arrangement or reseller
            mapping.toml:8: kind: "company", expected person, entity, arrangement or reseller
            mapping.toml:9: "names.legal.first" is unknown, expected a path of a party, as names.legal.full
            mapping.toml:10: names.legal.full: expected column, columns or default
            mapping.toml:11: "born: format" is unknown, expected column, columns, separator, list, lines, values or default
            mapping.toml:11: born: expected no list: there is at most one
            mapping.toml:12: emails: expected the name of a column, or a table
            mapping.toml:13: "name" is unknown, expected a path of a party, as names.legal.full
            mapping.toml:14: residence: expected columns with a name"#]],
    );
}

#[test]
fn paths_do_not_change() {
    expect![[r#"
        id
        kind
        control_group
        standing.no_account
        standing.reseller
        standing.remedy
        standing.risk
        standing.opened
        standing.closed
        standing.last_access
        names.legal.full
        names.legal.given
        names.legal.middle
        names.legal.patronymic
        names.legal.family
        names.legal.script
        names.trading.full
        names.trading.given
        names.trading.middle
        names.trading.patronymic
        names.trading.family
        names.trading.script
        names.alias.full
        names.alias.given
        names.alias.middle
        names.alias.patronymic
        names.alias.family
        names.alias.script
        names.former.full
        names.former.given
        names.former.middle
        names.former.patronymic
        names.former.family
        names.former.script
        names.birth.full
        names.birth.given
        names.birth.middle
        names.birth.patronymic
        names.birth.family
        names.birth.script
        names.transliteration.full
        names.transliteration.given
        names.transliteration.middle
        names.transliteration.patronymic
        names.transliteration.family
        names.transliteration.script
        born
        jurisdiction
        citizenships
        residence
        addresses.principal.full
        addresses.principal.street
        addresses.principal.locality
        addresses.principal.region
        addresses.principal.postcode
        addresses.principal.country
        addresses.registered.full
        addresses.registered.street
        addresses.registered.locality
        addresses.registered.region
        addresses.registered.postcode
        addresses.registered.country
        addresses.mailing.full
        addresses.mailing.street
        addresses.mailing.locality
        addresses.mailing.region
        addresses.mailing.postcode
        addresses.mailing.country
        addresses.use.full
        addresses.use.street
        addresses.use.locality
        addresses.use.region
        addresses.use.postcode
        addresses.use.country
        addresses.other.full
        addresses.other.street
        addresses.other.locality
        addresses.other.region
        addresses.other.postcode
        addresses.other.country
        emails
        telephones
        domains
        payments.means
        payments.source
        identifiers.passport.number
        identifiers.passport.issuer
        identifiers.passport.country
        identifiers.passport.expires
        identifiers.national_id.number
        identifiers.national_id.issuer
        identifiers.national_id.country
        identifiers.national_id.expires
        identifiers.driving_licence.number
        identifiers.driving_licence.issuer
        identifiers.driving_licence.country
        identifiers.driving_licence.expires
        identifiers.residence_permit.number
        identifiers.residence_permit.issuer
        identifiers.residence_permit.country
        identifiers.residence_permit.expires
        identifiers.tax.number
        identifiers.tax.issuer
        identifiers.tax.country
        identifiers.tax.expires
        identifiers.registration.number
        identifiers.registration.issuer
        identifiers.registration.country
        identifiers.registration.expires
        identifiers.lei.number
        identifiers.lei.issuer
        identifiers.lei.country
        identifiers.lei.expires
        identifiers.other.number
        identifiers.other.issuer
        identifiers.other.country
        identifiers.other.expires
        accesses
        us_person
        us_person.basis
        us_person.decides
        us_person.at
        us_person.by
        verifications.id
        verifications.method
        verifications.checker
        verifications.at
        verifications.outcome
        verifications.note
        discrepancies.id
        discrepancies.what
        discrepancies.found
        discrepancies.resolved.how
        discrepancies.resolved.by
        discrepancies.resolved.at
        risk_reasons"#]]
    .assert_eq(&party_paths().collect::<Vec<_>>().join("\n"));
}

#[test]
fn records_are_read_from_lines_of_json() {
    let text = "\u{feff}{\"id\":\"A-1\",\"party\":{\"kind\":\"person\",\"names\":[{\"kind\":\"legal\",\"full\":\"Jane Doe\"}]}}\r\n\
                \n{\"id\":\"A-2\",\"control_group\":\"G\",\"standing\":{\"opened\":\"2026-01-31T08:00:00Z\"},\"party\":{\"kind\":\"entity\"}}";
    expect![[r#"
        {"id":"A-1","standing":{"verified":"unverified","remedy":"none","risk":"standard"},"party":{"kind":"person","names":[{"kind":"legal","full":"Jane Doe"}],"us_person":[]}}
        {"id":"A-2","control_group":"G","standing":{"verified":"unverified","remedy":"none","risk":"standard","opened":"2026-01-31T08:00:00Z"},"party":{"kind":"entity","us_person":[]}}
    "#]]
    .assert_eq(&shown(&parse_records("parties.ndjson", text.as_bytes()).unwrap()));
}

#[test]
fn every_fault_of_lines_of_json_is_named_by_its_place_without_its_value() {
    let party = |party: &str| format!(r#"{{"id":"A","party":{{"kind":"person",{party}}}}}"#);
    let lines = [
        "Jane".to_owned(),
        r#"{"id":"Jane Doe","party":{"kind":"person"}}"#.into(),
        r#"{"id":"A-1","party":{"kind":"Jane"}}"#.into(),
        r#"{"id":"A-1","Jane":1,"party":{"kind":"person"}}"#.into(),
        r#"{"id":"A-1"}"#.into(),
        r#"{"id":"A-1","id":"Jane","party":{"kind":"person"}}"#.into(),
        r#"{"id":"A-1","party":{"kind":"person"}} Jane"#.into(),
        party(r#""names":[{"kind":"legal","full":"Jane"},{"kind":"legal","full":["Jane"]}]"#),
        party(r#""names":[{"kind":"legal"}]"#),
        party(r#""names":[{"kind":"legal","full":"Jane","Jane, expected `x`":1}]"#),
        party(r#""names":{"Jane":1}"#),
        party(
            r#""verifications":[{"id":"1","method":"documentary","checker":"c","at":"Jane, expected Doe","outcome":"failed"}]"#,
        ),
        party(
            r#""us_person":[{"says":"us","basis":"Jane, expected Doe","decides":true,"at":"2026-01-31T08:00:00Z","by":"x"}]"#,
        ),
        party(
            r#""us_person":[{"says":"us","basis":"told","decides":"Jane, expected Doe","at":"2026-01-31T08:00:00Z","by":"x"}]"#,
        ),
        party(r#""addresses":[{"kind":"use","full":"Paris","country":"Jane"}]"#),
        party(r#""accesses":["Jane"]"#),
        party(r#""names":[{"kind":"legal","full":" Jane"}]"#),
        r#"{"id":"A-1","party":{"kind":"person"}}"#.into(),
        r#"{"id":"A-1","party":{"kind":"person"}}"#.into(),
        "[".repeat(100_000),
        r#"{"id":"A-1","party":{"kind":"person"#.into(),
        r#"{"id":"A-1","standing":{"open_discrepancies":-5},"party":{"kind":"person"}}"#.into(),
    ];
    let errors = parse_records("parties.ndjson", lines.join("\n").as_bytes()).unwrap_err().to_string();
    assert!(!errors.contains("Jane") && !errors.contains("Doe"), "{errors}");
    expect![[r#"
        parties.ndjson is not imported, for 21 faults:
        parties.ndjson:1: no JSON at its byte 1, expected one object in one line
        parties.ndjson:2: id: the value (withheld) does not fit, expected an account number, not a name: 1 to 64 printable ASCII characters without blanks
        parties.ndjson:3: party.kind: the value (withheld) does not fit, expected one of `person`, `entity`, `arrangement`, `reseller`
        parties.ndjson:4: a field (withheld) is unknown, expected one of `id`, `control_group`, `standing`, `party`
        parties.ndjson:5: party is missing
        parties.ndjson:6: id stands there twice, expected once
        parties.ndjson:7: no JSON at its byte 40, expected one object in one line
        parties.ndjson:8: party.names[1].full: the value (withheld) does not fit, expected a string
        parties.ndjson:9: party.names[0]: full is missing
        parties.ndjson:10: party.names[0]: a field (withheld) is unknown, expected one of `kind`, `full`, `given`, `middle`, `patronymic`, `family`, `script`
        parties.ndjson:11: party.names: the value (withheld) does not fit, expected a sequence
        parties.ndjson:12: party.verifications[0].at: the value (withheld) does not fit, expected an RFC 3339 time, for example 2026-01-31T08:00:00Z
        parties.ndjson:13: party.us_person[0].basis: the value (withheld) does not fit, expected one of `citizenship`, `permanent_residence`, `organisation`, `location`, `told`
        parties.ndjson:14: party.us_person[0].decides: the value (withheld) does not fit, expected a boolean
        parties.ndjson:15: party.addresses[0].country: the value (withheld) does not fit, expected the two letters of a country by ISO 3166-1, as US, GB or CN
        parties.ndjson:16: party.accesses[0]: the value (withheld) does not fit, expected an IP address, @ and an RFC 3339 time, for example 192.0.2.7@2026-01-31T08:00:00Z
        parties.ndjson:17: party.names[0].full: the value (withheld) does not fit, expected text of at most 4,096 bytes, without blanks around it
        parties.ndjson:19: id: the same party as on line 18, expected each once
        parties.ndjson:20: no JSON at its byte 1, expected one object in one line
        parties.ndjson:21: no JSON at its byte 35, expected one object in one line
        parties.ndjson:22: standing.open_discrepancies: the value (withheld) does not fit, expected u32"#]]
    .assert_eq(&errors);
    let none = parse_records("parties.ndjson", b"\n").unwrap_err().to_string();
    expect![[r#"
        parties.ndjson is not imported, for 1 fault:
        parties.ndjson:1: no record, expected at least one"#]]
    .assert_eq(&none);
}

#[test]
fn interests_are_read_with_ranges_and_days() {
    let text = "owner,asset,kind,share,from,to,substantial_control\n\
                a,b,shareholding,25,,,\n\
                a,b,voting_rights,12.5 - 50%,2026-01-31,2026-02-01T00:00:00Z,true\n\
                a,c,shareholding,>25,,,false\n\
                a,d,shareholding,>=25,,,\n\
                a,b,manages,,,,\n";
    let interests = parse_interests("interests.csv", text.as_bytes()).unwrap();
    expect![[r#"
        owner,asset,kind,share,from,to,substantial_control
        a,b,shareholding,25,,,
        a,b,voting_rights,12.5-50,2026-01-31T00:00:00Z,2026-02-01T00:00:00Z,true
        a,c,shareholding,25.0001-100,,,
        a,d,shareholding,25-100,,,
        a,b,manages,,,,
    "#]]
    .assert_eq(&write_interests(&interests));
    assert_eq!(parse_interests("i.csv", b"owner,asset,kind\na,b,manages\n").unwrap().len(), 1);
}

#[test]
fn every_fault_of_interests_is_named_and_no_name_repeated() {
    let text = "owner,asset,kind,share,from,to,substantial_control\n\
                Jane Doe,,owns,>100,2026-13-01,tomorrow,maybe\n\
                a,b,shareholding,50-25,2026-02-01,2026-01-31,\n\
                a,b,manages,25.00001,,,\n\
                a,b,voting_rights,1,,,\n\
                a,b,voting_rights,2,,,\n\
                a,b,voting_rights\n";
    let errors = parse_interests("interests.csv", text.as_bytes()).unwrap_err().to_string();
    assert!(!errors.contains("Jane") && !errors.contains("tomorrow"), "{errors}");
    expect![[r#"
        interests.csv is not imported, for 12 faults:
        interests.csv:2: owner: the value (withheld) does not fit, expected an account number, not a name: 1 to 64 printable ASCII characters without blanks
        interests.csv:2: asset: blank, expected an account number, not a name: 1 to 64 printable ASCII characters without blanks
        interests.csv:2: kind: the value (withheld) does not fit, expected shareholding, voting_rights, appoints_board, manages or other_control
        interests.csv:2: share: ">100", expected blank, or percent with at most four decimals, as 25, 12.5-50, >25 or >=25
        interests.csv:2: from: "2026-13-01", expected blank, or an RFC 3339 time or a day in UTC, for example 2026-01-31T08:00:00Z or 2026-01-31
        interests.csv:2: to: the value (withheld) does not fit, expected blank, or an RFC 3339 time or a day in UTC, for example 2026-01-31T08:00:00Z or 2026-01-31
        interests.csv:2: substantial_control: the value (withheld) does not fit, expected true, false or blank
        interests.csv:3: share: "50-25", expected blank, or percent with at most four decimals, as 25, 12.5-50, >25 or >=25
        interests.csv:3: to: "2026-01-31T00:00:00Z", expected a time not before from, 2026-02-01T00:00:00Z
        interests.csv:4: share: "25.00001", expected blank, or percent with at most four decimals, as 25, 12.5-50, >25 or >=25
        interests.csv:6: the same interest as on line 5, expected one of an owner, asset, kind and from
        interests.csv:7: 3 values, expected 7, one a column"#]]
    .assert_eq(&errors);
}

/// What a row can hold of a record: all of it but evidence, the order among names, addresses and identifiers of
/// different kinds, and what a standing is told from the record.
fn held(record: &PartyRecord) -> PartyRecord {
    let PartyRecord { id, control_group, standing, party } = record;
    let mut kept = Party::unknown(party.kind);
    kept.names = party.names.clone();
    kept.names.sort_by_key(|name| name.kind);
    kept.born = party.born;
    kept.jurisdiction = party.jurisdiction;
    kept.citizenships = party.citizenships.clone();
    kept.residence = party.residence;
    kept.addresses = party.addresses.clone();
    kept.addresses.sort_by_key(|address| address.kind);
    kept.emails = party.emails.clone();
    kept.telephones = party.telephones.clone();
    kept.domains = party.domains.clone();
    kept.payments = party.payments.clone();
    kept.identifiers = party.identifiers.clone();
    kept.identifiers.sort_by_key(|identifier| identifier.scheme);
    kept.accesses = party.accesses.clone();
    let statuses = party.us_person.0.iter();
    let statuses = statuses.map(|status| StatusBasis { evidence: Vec::new(), ..status.clone() });
    kept.us_person = UsStatus(statuses.collect());
    let verifications = party.verifications.iter();
    let verifications = verifications.map(|one| Verification { evidence: Vec::new(), ..one.clone() });
    kept.verifications = verifications.collect();
    kept.discrepancies = party.discrepancies.clone();
    kept.risk_reasons = party.risk_reasons.clone();
    let standing = Standing {
        no_account: standing.no_account,
        reseller: standing.reseller.clone(),
        verified: Standing::default().verified,
        remedy: standing.remedy,
        risk: standing.risk,
        opened: standing.opened,
        closed: standing.closed,
        last_access: standing.last_access,
        open_discrepancies: 0,
        told_by_file: None,
    };
    PartyRecord { id: id.clone(), control_group: control_group.clone(), standing, party: kept }
}

fn interests() -> impl Strategy<Value = Vec<Interest>> {
    let share = (0..=1_000_000_u32, 0..=1_000_000_u32).prop_map(|(one, other)| {
        let share = |millionths| Share::from_millionths(millionths).unwrap();
        Stake::between(share(one.min(other)), share(one.max(other))).unwrap()
    });
    let kind = select(InterestKind::ALL.to_vec());
    let times = (option::of(support::moment()), option::of(support::moment()));
    let interest = (support::id(), support::id(), kind, option::of(share), any::<bool>(), times).prop_map(
        |(owner, asset, kind, share, substantial_control, (from, to))| {
            let to = if to < from { from } else { to };
            let (owner, asset) = (owner.parse().unwrap(), asset.parse().unwrap());
            Interest { owner, asset, kind, share, substantial_control, from, to }
        },
    );
    vec(interest, 1..6).prop_map(|mut interests| {
        interests.sort_by_key(Interest::key);
        interests.dedup_by_key(|interest| interest.key());
        interests
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_of_parties_gives_back_all_that_a_row_can_hold(records in support::records()) {
        let text = write_parties(&records);
        let read = parse_parties("p.csv", text.as_bytes(), None, TOLD);
        let held: Vec<PartyRecord> = records.iter().map(held).collect();
        prop_assert_eq!(shown(&read.unwrap()), shown(&held), "{}", text.as_str());
    }

    #[test]
    fn lines_of_json_give_back_all(records in support::records()) {
        let read = parse_records("p.ndjson", write_records(&records).as_bytes());
        prop_assert_eq!(shown(&read.unwrap()), shown(&records));
    }

    #[test]
    fn a_file_of_interests_gives_back_all(interests in interests()) {
        let text = write_interests(&interests);
        prop_assert_eq!(parse_interests("i.csv", text.as_bytes()).unwrap(), interests, "{}", text);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(
        bytes: Vec<u8>,
        text in "(id|kind|A-1|entity|Type|First|[;,\"\\\\\n\t.]|\\PC){0,60}",
        toml in "(\\[fields\\]|id|kind|names|[.={}\\[\\]\"'\n,]|values|column|default|list| ){0,60}",
        json in "([{}\\[\\]\":,]|id|party|kind|names|1|person){0,40}",
    ) {
        let mapping = Mapping::parse("m", MAPPING.as_bytes()).unwrap();
        for bytes in [&bytes[..], text.as_bytes(), toml.as_bytes(), json.as_bytes()] {
            let _ = parse_parties("p", bytes, None, TOLD);
            let _ = parse_parties("p", &[b"id,kind,emails,us_person,names.legal.full\n", bytes].concat(), None, TOLD);
            let _ = parse_parties("p", &[b"Account no;Type;First;Last;Address;Mail;US?;Since;LEI\n", bytes].concat(), Some(&mapping), TOLD);
            let _ = parse_records("p", bytes);
            let _ = parse_interests("p", &[b"owner,asset,kind,share,from,to,substantial_control\n", bytes].concat());
            let _ = Mapping::parse("m", bytes);
            let _ = Mapping::parse("m", &[b"[fields]\n", bytes].concat());
        }
    }
}
