use expect_test::expect;
use proptest::prelude::*;

use super::*;

fn read(kind: Kind, cells: &[(&str, &str)]) -> Result<Statement, Vec<BadCell>> {
    Statement::read(kind, |field| cells.iter().find(|(name, _)| *name == field).map(|(_, text)| *text))
}

fn bad(kind: Kind, cells: &[(&str, &str)]) -> String {
    let bad = read(kind, cells).expect_err("it is wrong");
    bad.iter().map(|cell| format!("{}: {}", cell.field, cell.expected)).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_kind_has_its_name_an_id_and_one_field_a_name() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_plural(kind.plural()), Some(*kind));
        assert_eq!(Kind::from_name(kind.as_str()), Some(*kind));
        assert_eq!(kind.fields()[0], ("id", true));
        let mut names: Vec<_> = kind.fields().iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), kind.fields().len());
    }
}

#[test]
fn every_fault_is_named_with_what_was_expected() {
    expect![[r#"
        customer: an account number, not a name: 1 to 64 printable ASCII characters without blanks
        model: 1 to 128 printable ASCII characters without blanks
        count: a whole number from 1 to 1,000,000
        to: an RFC 3339 time, for example 2026-01-31T08:00:00Z
        value: an amount and the three letters of its currency, for example 1250000.50 USD"#]]
    .assert_eq(&bad(
        Kind::Reservation,
        &[
            ("id", "R-1"),
            ("customer", "Jane Doe"),
            ("model", " "),
            ("count", "0"),
            ("from", "2026-01-31T08:00:00Z"),
            ("to", "tomorrow"),
            ("value", "12 bitcoin"),
        ],
    ));
}

#[test]
fn what_cannot_be_true_together_is_refused() {
    let measure = [
        ("id", "M-1"),
        ("effect", "prohibit"),
        ("determined", "2026-01-01T00:00:00Z"),
        ("implement_by", "2026-07-01T00:00:00Z"),
        ("ends", "2027-01-01T00:00:00Z"),
        ("citation", "a gazette"),
    ];
    expect!["country: there, or else a person, and not both"].assert_eq(&bad(Kind::SpecialMeasure, &measure));
    let both = [&measure[..], &[("country", "FR"), ("person", "P-1")]].concat();
    expect!["country: there, or else a person, and not both"].assert_eq(&bad(Kind::SpecialMeasure, &both));
    let [id, effect, determined, implement_by, ends, citation] = measure;
    let one = [id, effect, determined, implement_by, ends, citation, ("country", "FR")];
    assert!(read(Kind::SpecialMeasure, &one).is_ok());
    let early = one.map(|(field, text)| (field, if field == "ends" { "2025-01-01T00:00:00Z" } else { text }));
    expect!["ends: not before the beginning"].assert_eq(&bad(Kind::SpecialMeasure, &early));
}

#[test]
fn what_a_customer_declares_stands_in_no_debug_text() {
    let declaration = read(
        Kind::Declaration,
        &[
            ("id", "D-1"),
            ("customer", "C-1"),
            ("purpose", "a secret plan"),
            ("signed_by", "Jane Doe"),
            ("signed_on", "2026-01"),
        ],
    )
    .expect("whole");
    assert_eq!(format!("{declaration:?}"), "Statement(declaration D-1)");
    assert!(declaration.kind().is_sealed());
    assert_eq!(declaration.about().map(PartyId::as_str), Some("C-1"));
}

#[test]
fn what_a_customer_declares_holds_no_card_number_but_what_was_kept_before_is_read() {
    let cells = [
        ("id", "D-1"),
        ("customer", "C-1"),
        ("purpose", "paid by 4111 1111 1111 1111 12/27"),
        ("signed_by", "5555555555554444"),
        ("signed_on", "2026-01"),
    ];
    expect![[r#"
        purpose: free of full card numbers: keep the last digits or a token
        signed_by: free of full card numbers: keep the last digits or a token"#]]
    .assert_eq(&bad(Kind::Declaration, &cells));
    let kept = cells.map(|(field, text)| (field.to_owned(), text.to_owned())).into();
    assert!(Statement::from_cells(Kind::Declaration, &kept).is_ok());
}

fn text_for(field: &str) -> BoxedStrategy<String> {
    match field {
        "customer" | "person" | "reseller" => "[A-Z]-[0-9]{1,5}".boxed(),
        "country" => Just("NO".to_owned()).boxed(),
        "count" | "gbit_per_s" => (1..=1_000_000_u32).prop_map(|count| count.to_string()).boxed(),
        "from" | "to" | "at" | "ends" | "granted" | "determined" | "implement_by" | "received"
        | "requested" | "produced" | "expires" | "known" | "reported" | "cured" | "terminated" => {
            (0..4_000_000_000_000_i64).prop_map(|millis| UtcMillis(millis).to_string()).boxed()
        }
        "signed_on" => "20[0-9]{2}(-0[1-9](-1[0-9])?)?".boxed(),
        "value" => "[0-9]{1,9}(\\.[0-9]{1,2})? [A-Z]{3}".boxed(),
        "expected_operations_tera" => {
            (0..u64::try_from(i64::MAX).unwrap_or(0)).prop_map(|tera| tera.to_string()).boxed()
        }
        name if name.ends_with("sha256") => "[0-9a-f]{64}".boxed(),
        "effect" => "prohibit|condition".boxed(),
        "result" => "not_required|required|granted|denied".boxed(),
        "biological_sequence_data"
        | "reviewed"
        | "updated_for_services"
        | "updated_for_threats"
        | "complies"
        | "failures_resolved"
        | "adopts_ours" => "yes|no".boxed(),
        "id" | "model" | "site" | "host" | "datacenter" | "fabric" | "item" | "classification"
        | "licence" | "source" | "sign" | "program" => "[!-~]{1,20}".boxed(),
        _ => "[^\\pC\\s][\\PC]{0,30}[^\\pC\\s]".boxed(),
    }
}

proptest! {
    #[test]
    fn what_is_read_is_written_as_it_was(kind in proptest::sample::select(Kind::ALL), seed in any::<u64>(), given in any::<u32>()) {
        let mut runner = proptest::test_runner::TestRunner::new_with_rng(
            ProptestConfig::default(),
            proptest::test_runner::TestRng::from_seed(
                proptest::test_runner::RngAlgorithm::ChaCha,
                &[seed.to_le_bytes(), [0; 8], [1; 8], [2; 8]].concat(),
            ),
        );
        let mut cells = BTreeMap::new();
        for (index, (field, must)) in kind.fields().iter().enumerate() {
            // Of a declaration these are days, of all else moments.
            let day = kind == Kind::Declaration && matches!(*field, "from" | "to");
            if *must || given & (1 << index) != 0 {
                let text = if day { text_for("signed_on") } else { text_for(field) };
                let free = kind == Kind::Declaration && *field == "model";
                let text = if free { text_for("purpose") } else { text };
                cells.insert((*field).to_owned(), text.new_tree(&mut runner).unwrap().current());
            }
        }
        if let Ok(read) = Statement::from_cells(kind, &cells) {
            let written: BTreeMap<String, String> =
                read.cells().into_iter().map(|(field, text)| (field.to_owned(), text)).collect();
            prop_assert_eq!(&written, &cells);
            prop_assert_eq!(Statement::from_cells(kind, &written), Ok(read));
        } else {
            let bad = Statement::from_cells(kind, &cells).unwrap_err();
            prop_assert!(bad.iter().all(|cell| cell.expected.starts_with("not before") || cell.field == "country"), "{:?} of {:?}", bad, cells);
        }
    }

    #[test]
    fn no_text_makes_reading_panic(kind in proptest::sample::select(Kind::ALL), text in "\\PC{0,60}") {
        let _ = Statement::read(kind, |_| Some(text.as_str()));
    }
}
