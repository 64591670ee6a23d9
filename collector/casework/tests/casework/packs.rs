//! Rule packs: the shipped ones load, and a pack that is changed by mistake does not.

use std::collections::BTreeSet;

use crate::support::{SMALL, SMALL_NAME, small};
use expect_test::{Expect, expect};
use toml::{Table, Value};
use weighbridge_casework::{
    Certainty, PackError, RulePack,
    pack::{FieldSource, Status, Who},
    shipped,
};

fn load(name: &str) -> RulePack {
    let (name, text) = shipped().into_iter().find(|(file, _)| *file == name).unwrap();
    RulePack::parse(name, text).unwrap()
}

/// The surest first.
const EVERY: [Certainty; 5] = [
    Certainty::Certain,
    Certainty::Likely,
    Certainty::Projected,
    Certainty::Possible,
    Certainty::CouldResult,
];

#[test]
fn every_shipped_pack_loads_and_agrees_with_its_examples() {
    for (name, text) in shipped() {
        if let Err(error) = RulePack::parse(name, text) {
            panic!("{error}");
        }
    }
}

#[test]
fn every_file_in_the_folder_is_shipped() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packs");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    let named: BTreeSet<String> = shipped().into_iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(files, named);
}

#[test]
fn what_is_shipped_says_this_of_itself() {
    let mut lines = String::new();
    for (name, text) in shipped() {
        let pack = RulePack::parse(name, text).unwrap();
        let history: Vec<String> = pack
            .status
            .iter()
            .map(|entry| format!("{} {} ({})", entry.from, entry.value.as_str(), entry.confidence.as_str()))
            .collect();
        lines.push_str(&format!("{}: {}\n", pack.id, history.join("; ")));
        for rule in &pack.rule {
            let line =
                rule.line().map_or("no line".into(), |(line, comparator)| format!("{comparator} {line}"));
            let opens: Vec<&str> = EVERY
                .into_iter()
                .filter(|certainty| rule.opens_case(*certainty))
                .map(Certainty::as_str)
                .collect();
            let on = if pack.evaluate { "on" } else { "off" };
            let opens = if opens.is_empty() { "none".to_owned() } else { opens.join(", ") };
            lines.push_str(&format!("  {} {on}: {line}; cases: {opens}\n", rule.id));
        }
    }
    expect![[r#"
        eu-ai-act: 2024-08-01 enacted, not yet in force (from memory, not checked against a source); 2025-08-02 in force (secondary source)
          systemic-risk on: more than 1e25; cases: none
        eu-gpai-guidelines: 2025-07 guidance (secondary source)
          general-purpose off: more than 1e23; cases: none
          modifier off: more than 1e23/3; cases: none
          modifier-systemic-risk off: more than 1e25/3; cases: none
        us-702.7: 2024-09-11 proposed (official text)
          model off: more than 1e26; cases: none
          cluster off: no line; cases: none
        us-7.308: 2024-01-29 proposed (official text); 2025-12 withdrawn (secondary source)
          training-run on: more than 1e26; cases: certain, likely, projected, could_result
        us-ca-sb53: 2025-09 enacted, not yet in force (from memory, not checked against a source); 2026-01-01 in force (from memory, not checked against a source)
          frontier-model on: more than 1e26; cases: none
          large-developer on: more than 1e26; cases: none
        us-eo14110: 2023-10-30 in force (secondary source); 2025-01-20 revoked (secondary source)
          model off: more than 1e26; cases: none
          biological-model off: more than 1e23; cases: none
          cluster off: no line; cases: none
          infrastructure off: more than 1e26; cases: none
        us-ny-raise: 2026 enacted, not yet in force (secondary source); 2027-01-01 in force (secondary source)
          large-frontier-developer off: more than 1e26; cases: none
    "#]].assert_eq(&lines);
}

#[test]
fn the_status_of_a_day_is_the_last_one_that_began() {
    let pack = load("us-7.308@1.toml");
    let on = |date: &str| pack.status_on(date.parse().unwrap()).map(|entry| entry.value);
    assert_eq!(on("2024-01-28"), None);
    assert_eq!(on("2024-01-29"), Some(Status::Proposed));
    assert_eq!(on("2025-11-30"), Some(Status::Proposed));
    assert_eq!(on("2025-12-01"), Some(Status::Withdrawn));
    let raise = load("us-ny-raise@1.toml");
    let on = |date: &str| raise.status_on(date.parse().unwrap()).map(|entry| entry.value);
    assert_eq!(on("2026-12-31"), Some(Status::Enacted));
    assert_eq!(on("2027-01-01"), Some(Status::InForce));
}

#[test]
fn only_the_duty_of_the_operator_opens_cases() {
    for (name, text) in shipped() {
        let pack = RulePack::parse(name, text).unwrap();
        let opens =
            pack.rule.iter().any(|rule| EVERY.into_iter().any(|certainty| rule.opens_case(certainty)));
        assert_eq!(opens, pack.id == "us-7.308", "{name}");
    }
}

#[test]
fn nothing_revoked_withdrawn_or_proposed_is_evaluated_but_the_model_case() {
    let today = "2026-07-13".parse().unwrap();
    for (name, text) in shipped() {
        let pack = RulePack::parse(name, text).unwrap();
        let binds = pack.status_on(today).is_some_and(|entry| entry.value == Status::InForce);
        assert_eq!(pack.evaluate, binds || pack.id == "us-7.308", "{name}");
    }
}

#[test]
fn the_report_of_the_model_case_has_all_its_fields() {
    let pack = load("us-7.308@1.toml");
    assert_eq!(pack.applies_to.who, Who::Foreign);
    let groups: BTreeSet<&str> =
        pack.report_field.iter().map(|field| field.id.split('-').next().unwrap()).collect();
    let expected = ["A1", "A2", "A3", "A4", "A5", "A6", "B1", "B2", "B3", "B4", "B5", "Z"];
    assert_eq!(groups, BTreeSet::from(expected));
    assert!(pack.report_field.iter().any(|field| field.source == FieldSource::Operations));
}

#[test]
fn the_hash_follows_the_text() {
    let same = small();
    let other = RulePack::parse(SMALL_NAME, &format!("{SMALL}\n")).unwrap();
    assert_eq!(same.sha256().len(), 64);
    assert_ne!(same.sha256(), other.sha256());
}

/// Keys that may be left out: the words beside a value, and inputs of an example.
fn optional(path: &str, key: &str) -> bool {
    key == "note" && path != ".applies_to"
        || path.is_empty() && ["retention", "beneficial_owner", "measured_owners"].contains(&key)
        || path.starts_with(".example")
            && (["cluster_peak", "network_gbit", "declared"].contains(&key) || path.ends_with(".declared"))
}

/// Calls `visit` with a path, a key there, and a copy of the pack in which `change` was made to that table.
fn each_key(pack: &Table, change: impl Fn(&mut Table, &str), mut visit: impl FnMut(&str, &str, Table)) {
    let mut paths = Vec::new();
    collect(&Value::Table(pack.clone()), String::new(), &mut Vec::new(), &mut paths);
    for (path, steps, key) in paths {
        let mut copy = Value::Table(pack.clone());
        let mut here = &mut copy;
        for step in &steps {
            here = match step {
                Ok(key) => &mut here[key.as_str()],
                Err(index) => &mut here[*index],
            };
        }
        change(here.as_table_mut().unwrap(), &key);
        let Value::Table(copy) = copy else { unreachable!("it was made of a table") };
        visit(&path, &key, copy);
    }
}

type Steps = Vec<Result<String, usize>>;

fn collect(value: &Value, path: String, steps: &mut Steps, found: &mut Vec<(String, Steps, String)>) {
    match value {
        Value::Table(table) => {
            for (key, inner) in table {
                found.push((path.clone(), steps.clone(), key.clone()));
                steps.push(Ok(key.clone()));
                collect(inner, format!("{path}.{key}"), steps, found);
                steps.pop();
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                steps.push(Err(index));
                collect(inner, format!("{path}[{index}]"), steps, found);
                steps.pop();
            }
        }
        _ => {}
    }
}

#[test]
fn a_misspelt_key_anywhere_is_refused_by_file_and_key() {
    for (name, text) in shipped() {
        let misspell = |table: &mut Table, key: &str| {
            let value = table.remove(key).unwrap();
            table.insert(format!("{key}_x"), value);
        };
        each_key(&text.parse().unwrap(), misspell, |path, key, pack| {
            let text = toml::to_string(&pack).unwrap();
            let error = RulePack::parse(name, &text).expect_err(&format!("{name} {path}.{key}")).to_string();
            let named = format!("`{key}_x`");
            assert!(error.starts_with(name) && error.contains(&named), "{path}.{key}: {error}");
        });
    }
}

#[test]
fn a_missing_key_is_refused_unless_it_is_a_remark() {
    for (name, text) in shipped() {
        let remove = |table: &mut Table, key: &str| {
            table.remove(key).unwrap();
        };
        each_key(&text.parse().unwrap(), remove, |path, key, pack| {
            if optional(path, key) {
                return;
            }
            let text = toml::to_string(&pack).unwrap();
            match RulePack::parse(name, &text).expect_err(&format!("{name} {path}.{key}")) {
                PackError::Shape { file, problem, .. } => {
                    assert!(file == name && problem.contains(&format!("missing field `{key}`")), "{problem}");
                }
                // Left out, it changes what a rule gives, or is half of a pair.
                PackError::Example { .. } | PackError::Contradiction { .. } => {
                    assert!(
                        ["projection", "who", "projected_best", "projected_days", "reservations"]
                            .contains(&key)
                            || key.starts_with("reserved_"),
                        "{path}.{key}"
                    );
                }
                error @ PackError::Syntax { .. } => panic!("{error}"),
            }
        });
    }
}

/// The errors of the small pack after each change `(from, to)`, one after the other.
fn check(changes: &[(&str, &str)], expected: Expect) {
    let mut shown = String::new();
    for (from, to) in changes {
        assert!(SMALL.contains(from), "{from}");
        let error = RulePack::parse(SMALL_NAME, &SMALL.replacen(from, to, 1)).unwrap_err();
        shown.push_str(&format!("{error}\n"));
    }
    expected.assert_eq(&shown);
}

#[test]
fn errors_name_file_key_value_and_expectation() {
    check(
        &[
            ("threshold = \"1e26\"", "threshold = \"1e26 FLOP\""),
            ("threshold = \"1e26\"", "threshold = 1e26"),
            ("comparator = \"gt\"", "comparator = \">\""),
            ("comparator = \"gt\"\n", ""),
            ("comparator = \"gt\"", "comparator = \"gt\"\nwhat = \"large_developer\""),
            ("kind = \"operations\"", "kind = \"flops\""),
            ("value = \"withdrawn\"", "value = \"dead\""),
            ("from = \"2025-12\"", "from = \"2025-13\""),
            ("days = 15", "days = -15"),
            ("time_zone = \"America/New_York\"", "time_zone = \"EST5\""),
            ("source = \"operations\"", "source = \"flops\""),
            ("duty_on = \"the operator\"", "duty_on = \" \""),
            ("title = \"A small pack\"", "title = \"A small pack"),
        ],
        expect![[r#"
            small@1.toml: at rule[0].condition[0].threshold: "1e26 FLOP" is not a positive amount in whole operations such as "1e26", "2.5e25" or "1e25/3", at most 9.2e30
            small@1.toml: at rule[0].condition[0].threshold: invalid type: floating point `100000000000000000000000000.0`, expected a string
            small@1.toml: at rule[0].condition[0].comparator: unknown variant `>`, expected `gt` or `ge`
            small@1.toml: at rule[0].condition[0]: missing field `comparator`
            small@1.toml: at rule[0].condition[0]: `what` does not belong to this kind, expected comparator, threshold, threshold_origin
            small@1.toml: at rule[0].condition[0].kind: unknown variant `flops`, expected one of `operations`, `declared`, `cluster`
            small@1.toml: at status[1].value: unknown variant `dead`, expected one of `proposed`, `withdrawn`, `enacted`, `in_force`, `revoked`, `unenforced`, `guidance`, `contract`
            small@1.toml: at status[1].from: "2025-13" is not a date in quotes, such as "2024-01-29", "2025-12" or "2026"
            small@1.toml: at clock[0].days: invalid value: integer `-15`, expected u16
            small@1.toml: at clock[0].time_zone: "EST5" is not a time zone of the IANA database, for example "America/New_York"
            small@1.toml: at report_field[3].source: "flops" is not identity.<key>, attested.<key> or one of operations, dates, accelerators, run_existence, knowledge_time, method, pack, report_kind, supersedes
            small@1.toml: at rule[0].duty_on: is blank, expected some text
            small@1.toml: not a TOML file: TOML parse error at line 3, column 22
              |
            3 | title = "A small pack
              |                      ^
            invalid basic string, expected `"`
        "#]],
    );
}

#[test]
fn contradictions_name_file_key_value_and_expectation() {
    check(
        &[
            ("id = \"small\"", "id = \"tiny\""),
            ("version = \"1\"", "version = \"2\""),
            ("from = \"2025-12\"", "from = \"2024\""),
            ("id = \"A4\"", "id = \"A1\""),
            ("scope = [\"customer\"]", "scope = []"),
            ("\"certain\", \"likely\"", "\"projected\""),
            ("cap_days = 90", "cap_days = 0"),
            ("days = 15", "days = 0"),
            ("duty_on = ", "who = \"any\"\nduty_on = "),
            ("rule = \"run\"", "rule = \"jog\""),
            ("low = \"2e26\"", "low = \"3e26\""),
            ("expect = \"certain\"", "expect = \"likely\""),
            ("expect =", "projected_days = 9\nexpect ="),
            (
                "[[rule.condition]]",
                "[[rule.condition]]\nkind = \"operations\"\ncomparator = \"gt\"\nthreshold = \"1e25\"\nthreshold_origin = \"text\"\n\n[[rule.condition]]",
            ),
        ],
        expect![[r#"
            small@1.toml: id and version is "tiny@1.toml", expected the name of the file
            small@1.toml: id and version is "small@2.toml", expected the name of the file
            small@1.toml: status[1].from is "2024", expected a date after 2024-01-29: the history goes forward
            small@1.toml: report_field id is "A1", expected each id once
            small@1.toml: rule[0].scope is "[]", expected at least one of run, customer, control_group, principal
            small@1.toml: rule[0].opens_case is "projected", expected projection.opens_case to say that
            small@1.toml: rule[0].projection.cap_days is "0", expected at least 1
            small@1.toml: clock[0].days is "0", expected at least 1
            small@1.toml: rule[0].who is "present", expected it only where applies_to.who is any, to narrow that
            small@1.toml: example[0].rule is "jog", expected one of run
            small@1.toml: example[0] is "low, best, high", expected them in ascending order
            small@1.toml: example[0] "well above" expects likely, the rule gives certain
            small@1.toml: example[0] is "projected_best, projected_days", expected both or none
            small@1.toml: rule[0].condition is "2 of kind operations", expected at most one of that kind
        "#]],
    );
}

#[test]
fn a_rule_without_an_example_does_not_load() {
    let (before, _) = SMALL.split_once("[[example]]").unwrap();
    let error = RulePack::parse(SMALL_NAME, &format!("example = []\n{before}")).unwrap_err();
    assert_eq!(error.to_string(), "small@1.toml: example is \"none\", expected at least one for rule run");
}
