//! Files as operators hand them over: good ones are read, bad ones are refused with every fault named.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

use std::fmt::Debug;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    ImportErrors, LeaseRow, PrincipalMapping, import::SHOWN_FAULTS, parse_agents, parse_customers,
    parse_leases, parse_principals, parse_slurm,
};

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const OTHER_KEY: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const CUSTOMERS: &str = "customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,\
                         email,telephone,access\n";

fn check<T: Debug>(result: Result<Vec<T>, ImportErrors>, expected: Expect) {
    expected.assert_eq(&match result {
        Ok(rows) => rows.iter().map(|row| format!("{row:?}\n")).collect(),
        Err(errors) => errors.to_string(),
    });
}

/// As rows of JSON, as they are stored.
fn check_stored<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(
    result: Result<Vec<T>, ImportErrors>,
    expected: Expect,
) {
    let mut stored = String::new();
    for row in result.unwrap() {
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<T>(&json).unwrap(), row);
        stored += &json;
        stored.push('\n');
    }
    expected.assert_eq(&stored);
}

#[test]
fn principals_are_read_in_any_order_of_columns_with_mark_and_crlf() {
    let text = "\u{feff}customer,principal,valid_to,valid_from\r\n\
                A-1, slurm:alpha/physics ,,2026-01-01T00:00:00Z\r\n\
                \r\n\
                \"A-2\",k8s:eu/team,2026-02-01T00:00:00Z,2026-01-01T02:00:00+01:00\r\n";
    check_stored(
        parse_principals("principals.csv", text.as_bytes()),
        expect![[r#"
        {"principal":"slurm:alpha/physics","customer":"A-1","valid_from":"2026-01-01T00:00:00Z","valid_to":null}
        {"principal":"k8s:eu/team","customer":"A-2","valid_from":"2026-01-01T01:00:00Z","valid_to":"2026-02-01T00:00:00Z"}
    "#]],
    );
}

#[test]
fn every_fault_of_a_principals_file_is_named_at_once() {
    let text = "principal,customer,valid_from,valid_to\n\
                slurm:alpha,A-1,2026-01-01T00:00:00Z,\n\
                slurm:alpha/a,,2026-01-01T00:30:00Z,tomorrow\n\
                \n\
                slurm:alpha/b,A-1,2026-01-02T00:00:00Z,2026-01-02T00:00:00Z\n\
                slurm:alpha/c,A-1,2026-01-02T00:00:00Z\n\
                slurm:alpha/d,A-1,2026-01-02T00:00:00Z,\n\
                slurm:alpha/d,A-2,2026-01-01T00:00:00Z,2026-01-03T00:00:00Z\n";
    check(
        parse_principals("principals.csv", text.as_bytes()),
        expect![[r#"
        principals.csv is not imported, for 7 faults:
        principals.csv:2: principal: "slurm:alpha", expected scheme:scope/name, percent-encoded, with a scheme of slurm, k8s, vm, lease, uid, unit or container
        principals.csv:3: customer: blank, expected an account number, not a name: 1 to 64 printable ASCII characters without blanks
        principals.csv:3: valid_from: "2026-01-01T00:30:00Z", expected an RFC 3339 time at a whole UTC hour, for example 2026-01-31T08:00:00Z
        principals.csv:3: valid_to: "tomorrow", expected blank or an RFC 3339 time at a whole UTC hour, for example 2026-01-31T08:00:00Z
        principals.csv:5: valid_to: "2026-01-02T00:00:00Z", expected a time after valid_from, 2026-01-02T00:00:00Z
        principals.csv:6: 3 values, expected 4, one a column
        principals.csv:8: principal: lines 7 and 8 overlap, expected one mapping of "slurm:alpha/d" at a time"#]],
    );
}

#[test]
fn line_ends_of_other_systems_move_no_line_number() {
    let text =
        "\n\nprincipal,customer,valid_from,valid_to\n\nslurm:a,A-1,2026-01-01T00:00:00Z,\n\n\nslurm:b,,,\n";
    let lines = |text: &str| {
        let errors = parse_principals("principals.csv", text.as_bytes()).unwrap_err();
        errors.shown.iter().map(|fault| fault.line).collect::<Vec<_>>()
    };
    assert_eq!(lines(text), [5, 8, 8, 8]);
    assert_eq!(lines(&text.replace('\n', "\r\n")), [5, 8, 8, 8]);
    assert_eq!(lines(&text.replace('\n', "\r")), [5, 8, 8, 8]);
}

#[test]
fn a_header_must_have_each_column_once_and_no_other() {
    let text = "principal,customer,valid_from,valid_form,customer\nslurm:a/b,A-1,x,y,z\n";
    check(
        parse_principals("principals.csv", text.as_bytes()),
        expect![[r#"
        principals.csv is not imported, for 3 faults:
        principals.csv:1: column 4 is unknown: "valid_form", expected principal,customer,valid_from,valid_to
        principals.csv:1: customer: the header has this column more than once
        principals.csv:1: valid_to: the header lacks this column"#]],
    );
}

#[test]
fn a_file_without_header_rows_or_anything_is_refused() {
    check(
        parse_principals("principals.csv", b""),
        expect![[r#"
        principals.csv is not imported, for 1 fault:
        principals.csv:1: the file is empty, expected the header principal,customer,valid_from,valid_to"#]],
    );
    check(
        parse_principals("principals.csv", b"\xef\xbb\xbf\r\n"),
        expect![[r#"
        principals.csv is not imported, for 1 fault:
        principals.csv:1: the file is empty, expected the header principal,customer,valid_from,valid_to"#]],
    );
    check(
        parse_principals("principals.csv", b"principal,customer,valid_from,valid_to\n"),
        expect![[r#"
        principals.csv is not imported, for 1 fault:
        principals.csv:1: no row follows the header, expected at least one"#]],
    );
    check(
        parse_principals("principals.csv", b"slurm:a/b,A-1,2026-01-01T00:00:00Z,\n"),
        expect![[r#"
        principals.csv is not imported, for 1 fault:
        principals.csv:1: the first row is not a header, expected principal,customer,valid_from,valid_to, in UTF-8 and separated by commas"#]],
    );
    check(
        parse_principals("principals.csv", b"\xff\xfep\0r\0"),
        expect![[r#"
        principals.csv is not imported, for 1 fault:
        principals.csv:1: the first row is not a header, expected principal,customer,valid_from,valid_to, in UTF-8 and separated by commas"#]],
    );
}

#[test]
fn a_quote_that_never_closes_is_refused_and_swallows_nothing() {
    let text = "valid_to,principal,valid_from,customer\n\
                ,slurm:a/b,2026-01-01T00:00:00Z,\"A-1\n\
                ,slurm:a/c,2026-01-01T00:00:00Z,A-1\n";
    check(
        parse_principals("principals.csv", text.as_bytes()),
        expect![[r#"
        principals.csv is not imported, for 1 fault:
        principals.csv:2: a value begins with a double quote that is never closed"#]],
    );
}

#[test]
fn only_the_first_faults_are_shown_and_all_are_counted() {
    let text =
        "principal,customer,valid_from,valid_to\n".to_owned() + &"x,A-1,2026-01-01T00:00:00Z,\n".repeat(250);
    let errors = parse_principals("principals.csv", text.as_bytes()).unwrap_err();
    assert_eq!((errors.shown.len(), errors.total), (SHOWN_FAULTS, 250));
    assert!(errors.to_string().ends_with("\nand 150 more"), "{errors}");
}

#[test]
fn text_that_is_not_utf8_is_named_by_its_column() {
    let text = b"principal,customer,valid_from,valid_to\nslurm:a/b,\xff,2026-01-01T00:00:00Z,\n";
    check(
        parse_principals("principals.csv", text),
        expect![[r#"
        principals.csv is not imported, for 1 fault:
        principals.csv:2: customer: bytes that are not UTF-8, expected UTF-8 text"#]],
    );
}

#[test]
fn leases_are_read_with_their_selectors() {
    let text = "lease,host,accelerator,principal,start,end\n\
                L-1,n1,*,lease:site/L-1,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z\n\
                L-2,n2,GPU-1,lease:site/L-2,2026-01-01T00:00:00Z,2026-01-02T00:00:00.5Z\n\
                L-2,n2,GPU-2,lease:site/L-2,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z\n\
                L-3,n3,8x10DE:2330,lease:site/L-3,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z\n";
    check_stored(
        parse_leases("leases.csv", text.as_bytes()),
        expect![[r#"
        {"lease":"L-1","host":"n1","selector":"*","principal":"lease:site/L-1","span":{"start":"2026-01-01T00:00:00Z","end":"2026-01-02T00:00:00Z"}}
        {"lease":"L-2","host":"n2","selector":"GPU-1","principal":"lease:site/L-2","span":{"start":"2026-01-01T00:00:00Z","end":"2026-01-02T00:00:00.5Z"}}
        {"lease":"L-2","host":"n2","selector":"GPU-2","principal":"lease:site/L-2","span":{"start":"2026-01-01T00:00:00Z","end":"2026-01-02T00:00:00Z"}}
        {"lease":"L-3","host":"n3","selector":"8x10de:2330","principal":"lease:site/L-3","span":{"start":"2026-01-01T00:00:00Z","end":"2026-01-02T00:00:00Z"}}
    "#]],
    );
}

#[test]
fn every_fault_of_a_leases_file_is_named_at_once() {
    let text = "lease,host,accelerator,principal,start,end\n\
                L 1,,0x10de:2330,site/L-1,yesterday,\n\
                L-2,n1,*,lease:site/L-2,2026-01-02T00:00:00Z,2026-01-01T00:00:00Z\n\
                L-3,n1,GPU-1,lease:site/L-3,2026-01-01T00:00:00Z,2026-01-03T00:00:00Z\n\
                L-3,n2,GPU-1,lease:site/L-4,2026-01-01T00:00:00Z,2026-01-03T00:00:00Z\n\
                L-5,n1,8x10de:2330,lease:site/L-5,2026-01-02T00:00:00Z,2026-01-03T00:00:00Z\n";
    check(
        parse_leases("leases.csv", text.as_bytes()),
        expect![[r#"
        leases.csv is not imported, for 9 faults:
        leases.csv:2: lease: "L 1", expected a lease id: 1 to 192 printable characters without blanks
        leases.csv:2: host: blank, expected a host: 1 to 253 printable characters without blanks
        leases.csv:2: accelerator: "0x10de:2330", expected *, an accelerator id, or a count of a PCI vendor and device, for example 8x10de:2330
        leases.csv:2: principal: "site/L-1", expected scheme:scope/name, percent-encoded, with a scheme of slurm, k8s, vm, lease, uid, unit or container
        leases.csv:2: start: "yesterday", expected an RFC 3339 time, for example 2026-01-31T08:00:00Z
        leases.csv:2: end: blank, expected an RFC 3339 time, for example 2026-01-31T08:00:00Z
        leases.csv:3: end: "2026-01-01T00:00:00Z", expected a time after start, 2026-01-02T00:00:00Z
        leases.csv:5: principal: "lease:site/L-4", expected "lease:site/L-3" as on line 4: a lease has one holder
        leases.csv:6: accelerator: lines 4 and 6 overlap on host "n1" from 2026-01-02T00:00:00Z to 2026-01-03T00:00:00Z, lease L-3 and lease L-5, expected one lease of an accelerator at a time"#]],
    );
}

#[test]
fn agents_are_read_with_their_keys() {
    let text = format!(
        "agent,host,site,fabric,public_key,valid_from,valid_to\n\
         a1,n1,oslo,ib-1,{KEY},2026-01-01T00:00:00Z,2026-03-01T00:00:00Z\n\
         a1,n1,oslo,ib-1,{OTHER_KEY},2026-02-01T00:00:00Z,\n"
    );
    check_stored(
        parse_agents("agents.csv", text.as_bytes()),
        expect![[r#"
        {"agent":"a1","host":"n1","site":"oslo","fabric":"ib-1","public_key":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=","valid_from":"2026-01-01T00:00:00Z","valid_to":"2026-03-01T00:00:00Z","trust":"host"}
        {"agent":"a1","host":"n1","site":"oslo","fabric":"ib-1","public_key":"AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=","valid_from":"2026-02-01T00:00:00Z","valid_to":null,"trust":"host"}
    "#]],
    );
}

#[test]
fn the_column_that_limits_trust_may_be_left_out_or_blank_and_means_host_then() {
    let header = "agent,host,trust,site,fabric,public_key,valid_from,valid_to";
    let text = format!(
        "{header}\n\
         a1,n1,bmc,oslo,ib-1,{KEY},2026-01-01T00:00:00Z,\n\
         a2,n2,,oslo,ib-1,{OTHER_KEY},2026-02-01T00:00:00Z,\n"
    );
    let rows = parse_agents("agents.csv", text.as_bytes()).expect("taken");
    let trust: Vec<&str> = rows.iter().map(|row| row.trust.as_str()).collect();
    assert_eq!(trust, ["bmc", "host"]);
    let wrong = text.replace(",bmc,", ",root,");
    check(
        parse_agents("agents.csv", wrong.as_bytes()),
        expect![[r#"
        agents.csv is not imported, for 1 fault:
        agents.csv:2: trust: "root", expected blank, guest, host or bmc"#]],
    );
    let long = format!(
        "agent,host,site,fabric,public_key,valid_from,valid_to\na1,n1,oslo,ib-1,{KEY},2026-01-01T00:00:00Z,,bmc\n"
    );
    check(
        parse_agents("agents.csv", long.as_bytes()),
        expect![[r#"
        agents.csv is not imported, for 1 fault:
        agents.csv:2: 8 values, expected 7, one a column"#]],
    );
}

#[test]
fn every_fault_of_an_agents_file_is_named_at_once() {
    let text = format!(
        "agent,host,site,fabric,public_key,valid_from,valid_to\n\
         a1,n1,oslo,ib-1,{KEY},2026-01-01T00:00:00Z,\n\
         a1,n1,oslo,ib-1,{KEY},2026-02-01T00:00:00Z,\n\
         a1,n2,oslo,ib-1,{OTHER_KEY},2026-02-01T00:00:00Z,\n\
         a2,n3,oslo,ib-1,{KEY},2026-02-01T00:00:00Z,2026-02-01T00:00:00Z\n\
         a3,n4,oslo,ib-1,{KEY},2026-02-01T00:00:00Z,\n\
         a4,n 4,,,AQEB,,\n"
    );
    check(
        parse_agents("agents.csv", text.as_bytes()),
        expect![[r#"
        agents.csv is not imported, for 9 faults:
        agents.csv:3: public_key: lines 2 and 3 overlap for agent "a1", expected each key once at a time
        agents.csv:4: host: lines 2 and 4 overlap for agent "a1", expected one host, site and fabric at a time
        agents.csv:5: valid_to: "2026-02-01T00:00:00Z", expected a time after valid_from, 2026-02-01T00:00:00Z
        agents.csv:6: public_key: the key of agent "a1" on line 2, expected a key of its own for agent "a3"
        agents.csv:7: host: "n 4", expected a host: 1 to 253 printable characters without blanks
        agents.csv:7: site: blank, expected a site: 1 to 96 printable characters without blanks
        agents.csv:7: fabric: blank, expected a fabric: 1 to 96 printable characters without blanks
        agents.csv:7: public_key: "AQEB", expected a public key: 32 bytes in standard base64, 44 characters
        agents.csv:7: valid_from: blank, expected an RFC 3339 time, for example 2026-01-31T08:00:00Z"#]],
    );
}

#[test]
fn customers_are_read_and_debug_shows_no_identity() {
    let text = CUSTOMERS.to_owned()
        + "A-1,person,foreign,G-1,Jane Roe,\"1 Main St\nOslo\",NO-03 ; SE-AB,card 4242,wallet-77,jane@example.net,\
           +47 555 0100,192.0.2.7@2026-01-31T08:00:00Z; 2001:db8::1@2026-01-31T10:00:00+02:00\n\
           A-2,entity,us,,Roe Ltd,,,,,,,\n";
    let rows = parse_customers("customers.csv", text.as_bytes()).unwrap();
    let values: Vec<_> = rows[0].identity.iter().map(|(field, value)| format!("{field}={value:?}")).collect();
    expect![[r#"
        name="Jane Roe"
        address="1 Main St\nOslo"
        locations="NO-03;SE-AB"
        payment_means="card 4242"
        payment_source="wallet-77"
        email="jane@example.net"
        telephone="+47 555 0100"
        access="192.0.2.7@2026-01-31T08:00:00Z;2001:db8::1@2026-01-31T08:00:00Z""#]]
    .assert_eq(&values.join("\n"));
    check(
        Ok(rows),
        expect![[r#"
        CustomerRow { customer: CustomerId("A-1"), kind: Person, us_person: Foreign, control_group: Some(ControlGroupId("G-1")), identity: Identity {Name, Address, Locations, PaymentMeans, PaymentSource, Email, Telephone, Access} }
        CustomerRow { customer: CustomerId("A-2"), kind: Entity, us_person: Us, control_group: None, identity: Identity {Name} }
    "#]],
    );
}

#[test]
fn faults_of_a_customers_file_name_columns_and_never_values() {
    let text = CUSTOMERS.to_owned()
        + "Secret1,Secret2,Secret3,Secret 4,,,;Secret5,,,Secret6,Secret,Secret8@now\n\
           A-1,person,foreign,,Secret9,,,,,,,\n\
           A-1,person,foreign,,Secret9,,,,,,,\n\
           A-2,person,foreign,,Secret, Jane,,,,,,,\n\
           Secret 10,person,foreign,,x,,,,,,,\n";
    let errors = parse_customers("customers.csv", text.as_bytes()).unwrap_err();
    let json = serde_json::to_string(&errors).unwrap();
    assert!(!json.contains("Secret") && !errors.to_string().contains("Secret"), "{errors}");
    check::<()>(
        Err(errors),
        expect![[r#"
            customers.csv is not imported, for 11 faults:
            customers.csv:2: kind: the value (withheld) does not fit, expected person, entity, arrangement or reseller
            customers.csv:2: us_person: the value (withheld) does not fit, expected us, foreign or undetermined
            customers.csv:2: control_group: the value (withheld) does not fit, expected blank or a control group number without blanks
            customers.csv:2: name: blank, expected a name of at most 256 KiB
            customers.csv:2: locations: the value (withheld) does not fit, expected blank or places separated by ;, none of them blank
            customers.csv:2: email: the value (withheld) does not fit, expected blank or an email address, with an @ and without blanks
            customers.csv:2: telephone: the value (withheld) does not fit, expected blank or a telephone number, with digits
            customers.csv:2: access: the value (withheld) does not fit, expected blank or entries separated by ;, each an IP address, @ and an RFC 3339 time, for example 192.0.2.7@2026-01-31T08:00:00Z
            customers.csv:4: customer: the same customer as on line 3, expected each once
            customers.csv:5: 13 values, expected 12, one a column
            customers.csv:6: customer: the value (withheld) does not fit, expected an account number, not a name: 1 to 64 printable ASCII characters without blanks"#]],
    );
}

#[test]
fn a_customers_file_without_header_shows_none_of_its_first_row() {
    for text in [
        "A-1,person,foreign,,Secret,,,,,,,\n",
        "A-1,name,foreign,,Secret,,,,,,,\n",
        "A-1;person;foreign;;Secret;;;;;;;\n",
    ] {
        let errors = parse_customers("customers.csv", text.as_bytes()).unwrap_err().to_string();
        assert!(errors.contains("customers.csv:1: ") && !errors.contains("Secret"), "{errors}");
    }
    let errors =
        parse_customers("customers.csv", CUSTOMERS.replace("email", "e-mail").as_bytes()).unwrap_err();
    assert!(errors.to_string().contains("\"e-mail\""), "{errors}");
}

/// Bytes that come close to a file: pieces of good ones, separators, quotes, and noise.
fn nearly_csv() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"principal,customer,valid_from,valid_to\n".to_vec()),
        Just(b"lease,host,accelerator,principal,start,end\r\n".to_vec()),
        Just(b"agent,host,site,fabric,public_key,valid_from,valid_to\n".to_vec()),
        Just(CUSTOMERS.as_bytes().to_vec()),
        Just(b"slurm:a/b".to_vec()),
        Just(b"2026-01-01T00:00:00Z".to_vec()),
        Just(b"-009999-01-01T00:00:00Z".to_vec()),
        Just(b"8x10de:2330".to_vec()),
        Just(KEY.as_bytes().to_vec()),
        Just(b",".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\"".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn hours(start: i64, length: i64) -> (UtcMillis, UtcMillis) {
    (UtcMillis(start * UtcMillis::HOUR), UtcMillis((start + length) * UtcMillis::HOUR))
}

proptest! {
    #[test]
    fn no_bytes_make_an_import_panic_or_take_nothing_as_something(
        text in prop_oneof![nearly_csv(), proptest::collection::vec(any::<u8>(), 0..300)],
    ) {
        fn fits<T>(result: Result<Vec<T>, ImportErrors>) -> bool {
            match result {
                Ok(rows) => !rows.is_empty(),
                Err(errors) => {
                    errors.total >= errors.shown.len()
                        && (1..=SHOWN_FAULTS).contains(&errors.shown.len())
                        && errors.shown.iter().all(|fault| fault.line > 0)
                }
            }
        }
        prop_assert!(fits(parse_principals("f", &text)));
        prop_assert!(fits(parse_leases("f", &text)));
        prop_assert!(fits(parse_agents("f", &text)));
        prop_assert!(fits(parse_customers("f", &text)));
    }

    #[test]
    fn principals_are_refused_exactly_where_two_mappings_of_one_overlap(
        rows in proptest::collection::vec((0..3_u8, 0..20_i64, 1..6_i64, proptest::bool::weighted(0.1)), 1..8),
    ) {
        let mut text = "principal,customer,valid_from,valid_to\n".to_owned();
        let mut mappings = Vec::new();
        for (name, start, length, open) in rows {
            let (from, to) = hours(start, length);
            let to = (!open).then_some(to);
            let shown = to.map(|to| to.to_string()).unwrap_or_default();
            text += &format!("slurm:a/{name},A-1,{from},{shown}\n");
            mappings.push(PrincipalMapping {
                principal: format!("slurm:a/{name}").parse().unwrap(),
                customer: "A-1".parse().unwrap(),
                valid_from: from,
                valid_to: to,
            });
        }
        let overlap = mappings.iter().enumerate().any(|(index, one)| {
            mappings[..index].iter().any(|other| {
                one.principal == other.principal
                    && (one.holds_at(other.valid_from) || other.holds_at(one.valid_from))
            })
        });
        let parsed = parse_principals("principals.csv", text.as_bytes());
        prop_assert_eq!(parsed.is_err(), overlap);
        if let Ok(parsed) = parsed {
            prop_assert_eq!(parsed, mappings);
        }
    }

    #[test]
    fn leases_are_refused_exactly_where_two_could_mean_one_accelerator(
        rows in proptest::collection::vec(
            (0..2_u8, prop_oneof!["\\*", "GPU-[12]", "[12]x10de:2330"], 0..20_i64, 1..4_i64),
            1..8,
        ),
    ) {
        let mut text = "lease,host,accelerator,principal,start,end\n".to_owned();
        for (index, (host, selector, start, length)) in rows.iter().enumerate() {
            let (start, end) = hours(*start, *length);
            text += &format!("L-{index},n{host},{selector},lease:s/x,{start},{end}\n");
        }
        let overlap = rows.iter().enumerate().any(|(index, (host, selector, start, length))| {
            rows[..index].iter().any(|(other_host, other, other_start, other_length)| {
                let ids = selector.starts_with('G') && other.starts_with('G');
                host == other_host
                    && (!ids || selector == other)
                    && *start < other_start + other_length
                    && *other_start < start + length
            })
        });
        let parsed: Result<Vec<LeaseRow>, _> = parse_leases("leases.csv", text.as_bytes());
        prop_assert_eq!(parsed.is_err(), overlap, "{:?}", parsed);
    }
}

/// As `sacct -D --json` of Slurm 22.05 prints it, shortened: a job in an array, one that was put back, one that waits,
/// one without accelerators.
const SACCT: &str = include_str!("slurm/22.05.json");

fn check_slurm(text: &str, expected: Expect) {
    expected.assert_eq(&match parse_slurm("sacct", text.as_bytes()) {
        Ok((rows, others)) => {
            let rows = rows.iter().map(|row| {
                let ended = row.ended.map_or("on".into(), |ended| ended.to_string());
                let (job, principal, submitted, started) =
                    (&row.job, &row.principal, row.submitted, row.started);
                let more =
                    (row.accelerators, &row.nodes, &row.state, row.array, row.restart, row.record, row.uid);
                let names = (&row.name, &row.user, &row.job_name, &row.work_directory);
                format!("{job} {principal} {submitted} {started} {ended} {more:?} {names:?}\n")
            });
            format!("{}{others} left out\n", rows.collect::<String>())
        }
        Err(errors) => errors.to_string(),
    });
}

#[test]
fn what_sacct_prints_is_read_in_json_and_in_columns() {
    check_slurm(
        SACCT,
        expect![[r#"
            slurm:test/2 slurm:test/biology 2026-11-30T18:12:21Z 2026-11-30T18:12:21Z 2026-11-30T18:12:22Z (2, "gpu[1-2]", "COMPLETED", None, None, None, None) (None, Some("root"), Some("a-secret-name"), Some("/a/secret/path"))
            slurm:test/3 slurm:test/chemistry 2026-11-30T18:12:21Z 2026-11-30T18:12:21Z 2026-11-30T18:12:22Z (1, "gpu2", "COMPLETED", Some((3, 2)), None, None, None) (None, Some("root"), Some("a-secret-name"), Some("/a/secret/path"))
            slurm:test/5 slurm:test/physics 2026-11-30T18:15:37Z 2026-11-30T18:15:37Z 2026-11-30T18:15:39Z (1, "gpu1", "REQUEUED", None, None, None, None) (None, Some("root"), Some("a-secret-name"), Some("/a/secret/path"))
            slurm:test/5 slurm:test/physics 2026-11-30T18:15:39Z 2026-11-30T18:16:01Z on (1, "gpu1", "RUNNING", None, None, None, None) (None, Some("root"), Some("a-secret-name"), Some("/a/secret/path"))
            2 left out
        "#]],
    );
    let columns = "JobIDRaw|JobID|DBIndex|Account|User|UID|Cluster|Submit|Start|End|State|NodeList|AllocTRES\n\
        4|3_1|3|chemistry|games|5|test|1796062341|1796062341|1796062343|COMPLETED|gpu1|billing=1,cpu=1,gres/gpu:h100=1,gres/gpu=1,node=1\n\
        4.batch|3_1.batch||chemistry|||test|1796062341|1796062341|1796062343|COMPLETED|gpu1|cpu=1\n\
        5|5|9||root|0|test|1796062537|1796062537|1796062536|CANCELLED by 0|gpu1|gres/gpu:a=1,gres/gpu:b=2\n\
        6|6|10|physics|root|0|test|1796062537|Unknown|Unknown|PENDING|None assigned|\n\
        7|7|11|physics|root|0|test|2026-11-30T18:15:37Z|1796062537|Unknown|RUNNING|gpu[1-2]|gres/shard=2\n";
    check_slurm(
        columns,
        expect![[r#"
        slurm:test/4 slurm:test/chemistry 2026-11-30T18:12:21Z 2026-11-30T18:12:21Z 2026-11-30T18:12:23Z (1, "gpu1", "COMPLETED", Some((3, 1)), None, Some(3), Some(5)) (None, Some("games"), None, None)
        slurm:test/5 slurm:test/%3F 2026-11-30T18:15:37Z 2026-11-30T18:15:37Z 2026-11-30T18:15:37Z (3, "gpu1", "CANCELLED", None, None, Some(9), Some(0)) (None, Some("root"), None, None)
        slurm:test/7 slurm:test/physics 2026-11-30T18:15:37Z 2026-11-30T18:15:37Z on (0, "gpu[1-2]", "RUNNING", None, None, Some(11), Some(0)) (None, Some("root"), None, None)
        1 left out
    "#]],
    );
}

#[test]
fn later_releases_mark_their_numbers_and_list_their_states() {
    let text = r#"{"jobs":[{"job_id":9,"account":"physics","cluster":"c","sluid":"s0123456789abc","restart_cnt":1,
        "nodes":"n1","state":{"current":["COMPLETED"],"reason":"None"},"db_index":7,
        "array":{"job_id":0,"task_id":{"set":false,"infinite":false,"number":0}},
        "time":{"start":{"set":true,"infinite":false,"number":100},"end":200,"submission":50},
        "tres":{"allocated":[{"type":"gres","name":"gpu","id":1001,"count":{"set":true,"infinite":false,"number":8}}]}}]}"#;
    check_slurm(
        text,
        expect![[r#"
        slurm:c/9 slurm:c/physics 1970-01-01T00:00:50Z 1970-01-01T00:01:40Z 1970-01-01T00:03:20Z (8, "n1", "COMPLETED", None, Some(1), Some(7), None) (Some(AttemptId("slurm:c/s0123456789abc")), None, None, None)
        0 left out
    "#]],
    );
}

#[test]
fn what_is_no_answer_of_sacct_is_refused_and_nothing_of_it_repeated() {
    check_slurm(
        "{\"secret\":1}",
        expect![[r#"
            sacct is not imported, for 1 fault:
            sacct:1: there is no list jobs: if sacct tells an error instead, call it without SLURM_TIME_FORMAT"#]],
    );
    check_slurm(
        "secret",
        expect![[r#"
        sacct is not imported, for 9 faults:
        sacct:1: JobIDRaw: the header lacks this column: expected sacct -D -P -X -o JobIDRaw,Account,Cluster,Submit,Start,End,State,NodeList,AllocTRES
        sacct:1: Account: the header lacks this column: expected sacct -D -P -X -o JobIDRaw,Account,Cluster,Submit,Start,End,State,NodeList,AllocTRES
        sacct:1: Cluster: the header lacks this column: expected sacct -D -P -X -o JobIDRaw,Account,Cluster,Submit,Start,End,State,NodeList,AllocTRES
        sacct:1: Submit: the header lacks this column: expected sacct -D -P -X -o JobIDRaw,Account,Cluster,Submit,Start,End,State,NodeList,AllocTRES
        sacct:1: Start: the header lacks this column: expected sacct -D -P -X -o JobIDRaw,Account,Cluster,Submit,Start,End,State,NodeList,AllocTRES
        sacct:1: End: the header lacks this column: expected sacct -D -P -X -o JobIDRaw,Account,Cluster,Submit,Start,End,State,NodeList,AllocTRES
        sacct:1: State: the header lacks this column: expected sacct -D -P -X -o JobIDRaw,Account,Cluster,Submit,Start,End,State,NodeList,AllocTRES
        sacct:1: NodeList: the header lacks this column: expected sacct -D -P -X -o JobIDRaw,Account,Cluster,Submit,Start,End,State,NodeList,AllocTRES
        sacct:1: AllocTRES: the header lacks this column: expected sacct -D -P -X -o JobIDRaw,Account,Cluster,Submit,Start,End,State,NodeList,AllocTRES"#]],
    );
    let header = "JobIDRaw|Account|Cluster|Submit|Start|End|State|NodeList|AllocTRES\n";
    let local = "7|a|c|2026-11-30T18:12:21|2026-11-30T18:12:21|Unknown|RUNNING|secret|gres/gpu=1\n";
    let more = "7|a|c|1|1|1|RUNNING|secret|name|gres/gpu=1\n8|a||1|1|1|RUNNING|secret|gres/gpu=1\n";
    check_slurm(
        &[header, local, more].concat(),
        expect![[r#"
        sacct is not imported, for 4 faults:
        sacct:2: Submit: a time without its zone, expected seconds since 1970: set SLURM_TIME_FORMAT=%s when calling sacct
        sacct:2: Start: a time without its zone, expected seconds since 1970: set SLURM_TIME_FORMAT=%s when calling sacct
        sacct:3: 10 values, expected 9
        sacct:4: cluster: blank, expected the cluster's name"#]],
    );
}

#[test]
fn no_name_of_a_tenant_stops_an_import_or_adds_a_row() {
    let text = SACCT.replace("a-secret-name", "a\u{0}name").into_bytes();
    let text: Vec<u8> = text.into_iter().map(|byte| if byte == 0 { 0xff } else { byte }).collect();
    let (rows, _) = parse_slurm("jobs.json", &text).expect("the rest reads");
    assert!(rows.iter().any(|row| row.job_name.as_deref() == Some("a\u{fffd}name")));
    let header = "JobIDRaw|Account|Cluster|Submit|Start|End|State|NodeList|AllocTRES";
    for column in ["JobName", "workdir", "Comment", "SubmitLine"] {
        let refused = parse_slurm("jobs", format!("{header}|{column}\n").as_bytes()).expect_err("refused");
        assert!(refused.to_string().contains("leave it out"), "{refused}");
    }
}
