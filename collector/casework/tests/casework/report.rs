//! What a report says: fields, blanks, status and doubt.

use crate::support::{at, projected, small, totals};
use expect_test::expect;
use weighbridge_casework::{
    Case, CaseEvent, Certainty, Facts, Finding, Report, ReportInput, RulePack, Step, Subject, Verdict,
    case::FindingRef,
    evaluate,
    report::{
        AcceleratorRow, AttemptRow, Attestation, Attested, AttributionSummary, CoverageSummary,
        DeclaredDates, IdentityValue, ReportKind, RunDates, Through,
    },
};
use weighbridge_meter::{GapCause, UtcMillis};

const LINE: u64 = 100_000_000_000_000;

struct Parts {
    pack: RulePack,
    finding: Finding,
    case: Case,
}

fn parts() -> Parts {
    let pack = small();
    let totals = totals(LINE + 1, LINE * 3 / 2, LINE * 2);
    let Verdict::Met(met) = evaluate(&pack, &pack.rule[0], &totals, &Facts::default()) else {
        panic!("it is certain")
    };
    let acme = Subject::Customer("acme".into());
    let raised_at = at("2026-02-25T12:05:00Z");
    let finding = Finding::raise(&pack, &pack.rule[0], acme.clone(), &met, &totals, totals.as_of, raised_at);
    let opened = CaseEvent {
        at: raised_at,
        by: "collector".into(),
        step: Step::Opened {
            pack: pack.id.clone(),
            pack_version: pack.version.clone(),
            subject: acme,
            findings: vec![FindingRef::from(&finding)],
        },
    };
    let case = Case::fold("c1", [opened]).unwrap();
    Parts { pack, finding, case }
}

fn answered(answer: &str, customer: Option<&str>) -> Attested {
    let one = Attestation {
        answer: answer.into(),
        by: "bob".into(),
        on: "2026-02".into(),
        customer: customer.map(str::to_owned),
        through: Through::Answer,
    };
    Attested::Given { given: vec![one], silent: Vec::new() }
}

fn input(parts: &Parts) -> ReportInput<'_> {
    let totals = projected(totals(LINE + 1, LINE * 3 / 2, LINE * 2), 90, LINE * 3);
    ReportInput {
        pack: &parts.pack,
        case: &parts.case,
        finding: &parts.finding,
        totals,
        attempts: vec![AttemptRow {
            attempt: "job-7.0".parse().unwrap(),
            start: at("2026-02-01T00:00:00Z"),
            end: at("2026-02-25T12:00:00Z"),
            accelerators: 16_384,
            operations: (&totals.bound).into(),
        }],
        accelerators: vec![
            AcceleratorRow { model: "NVIDIA A100".into(), count: 8 },
            AcceleratorRow { model: "NVIDIA H100".into(), count: 16_384 },
        ],
        coverage: CoverageSummary {
            measured_ms: 9_000 * 3_600_000,
            interpolated_ms: 990 * 3_600_000,
            gap_ms: [(GapCause::Silent, 9 * 3_600_000), (GapCause::DeviceLost, 3_600_000)].into(),
            not_present_ms: 1_800_000,
        },
        attribution: AttributionSummary {
            attributed_ms: 10_000 * 3_600_000,
            ..AttributionSummary::default()
        },
        method_version: "1".into(),
        table_sha256: "ab".repeat(32),
        identity: [
            ("name".to_owned(), IdentityValue::Value("Acme <Ltd>".into())),
            ("email".to_owned(), IdentityValue::Sealed),
        ]
        .into(),
        attested: [("training_practices".to_owned(), answered("pre-training", None))].into(),
        dates: RunDates { observed_start: Some(at("2026-02-01T00:00:00Z")), ..RunDates::default() },
        remarks: Vec::new(),
        kind: ReportKind::Initial,
        version: 1,
        supersedes: None,
        written_at: at("2026-02-26T09:00:00Z"),
    }
}

fn without_hash(text: &str, parts: &Parts) -> String {
    text.replace(parts.pack.sha256(), "(hash)").replace(&"ab".repeat(32), "(table)")
}

#[test]
fn the_record_of_a_report() {
    let parts = parts();
    let report = Report::build(&input(&parts)).unwrap();
    let json = serde_json::to_string_pretty(&report).unwrap();
    expect![[r#"
        {
          "header": {
            "statement": "customer:acme meets the criteria of the proposed small rule",
            "status": {
              "value": "withdrawn",
              "since": "2025-12",
              "source": "a course text",
              "confidence": "secondary"
            },
            "status_in_words": "Status of the instrument: withdrawn since 2025-12 (secondary source: a course text), as last checked 2026-01-31.",
            "citation": "nowhere",
            "duty_on": "the operator",
            "pack": "small",
            "pack_version": "1",
            "pack_sha256": "(hash)",
            "rule": "run",
            "line": "more than 1e26",
            "line_is_operators": true,
            "caution": "This compares measurements with a rule. Whether anything is to be sent, and to whom, is for a person to decide."
          },
          "case": "c1",
          "finding": "4bb8f1063fbeb92fe3d509d92715e8ae",
          "subject": "customer:acme",
          "certainty": "certain",
          "certainty_now": "certain",
          "version": 1,
          "kind": "initial",
          "supersedes": null,
          "written_at": "2026-02-26T09:00:00Z",
          "fields": [
            {
              "id": "A1",
              "label": "Name",
              "value": "Acme <Ltd>",
              "blank": false,
              "provenance": "customer registry",
              "certainty": null,
              "citation": "nowhere, section 5",
              "confidence": "secondary"
            },
            {
              "id": "A4",
              "label": "Email",
              "value": null,
              "blank": true,
              "provenance": "sealed in the customer registry, not opened here",
              "certainty": null,
              "citation": "nowhere, section 5",
              "confidence": "secondary"
            },
            {
              "id": "A5",
              "label": "Telephone",
              "value": null,
              "blank": true,
              "provenance": "not in the customer registry",
              "certainty": null,
              "citation": "nowhere, section 5",
              "confidence": "secondary"
            },
            {
              "id": "B1",
              "label": "Operations",
              "value": {
                "low_tera": "100000000000001",
                "best_tera": "150000000000000",
                "high_tera": "200000000000000",
                "low": "1.00e26",
                "best": "1.50e26",
                "high": "2.00e26"
              },
              "blank": false,
              "provenance": "measured on the hardware, gaps counted as of 2026-02-25T12:00:00Z",
              "certainty": "certain",
              "citation": "nowhere, section 5",
              "confidence": "memory"
            },
            {
              "id": "B2",
              "label": "Dates",
              "value": [
                "first activity observed: 2026-02-01T00:00:00Z"
              ],
              "blank": false,
              "provenance": "no customer declared a date; activity as the agents observed it, by whole hours",
              "certainty": null,
              "citation": "nowhere, section 5",
              "confidence": "memory"
            },
            {
              "id": "B3",
              "label": "Practices",
              "value": "pre-training",
              "blank": false,
              "provenance": "answered by the customer, signed by bob on 2026-02, not verified",
              "certainty": null,
              "citation": "nowhere, section 5",
              "confidence": "memory"
            },
            {
              "id": "B4",
              "label": "Incidents",
              "value": null,
              "blank": true,
              "provenance": "only the customer can say this, and no answer is on record",
              "certainty": null,
              "citation": "nowhere, section 5",
              "confidence": "memory"
            },
            {
              "id": "B5",
              "label": "Accelerators",
              "value": [
                "16384 x NVIDIA H100",
                "8 x NVIDIA A100"
              ],
              "blank": false,
              "provenance": "inventory of the agents, most frequent first",
              "certainty": null,
              "citation": "nowhere, section 5",
              "confidence": "memory"
            },
            {
              "id": "B6",
              "label": "Existence",
              "value": "customer:acme meets the criteria of the proposed small rule (a large run): at least 1.00e26 operations; the line is more than 1e26, a default of the operator that is not in the text",
              "blank": false,
              "provenance": "finding 4bb8f1063fbeb92fe3d509d92715e8ae, raised at 2026-02-25T12:05:00Z",
              "certainty": "certain",
              "citation": "nowhere, section 5",
              "confidence": "memory"
            },
            {
              "id": "Z1",
              "label": "Knowledge",
              "value": "2026-02-25T12:05:00Z",
              "blank": false,
              "provenance": "when the first finding of the case was raised",
              "certainty": null,
              "citation": "nowhere",
              "confidence": "memory"
            },
            {
              "id": "Z2",
              "label": "Method",
              "value": "method 1, accelerator table sha256:(table)",
              "blank": false,
              "provenance": "the program that made the estimate",
              "certainty": null,
              "citation": "nowhere",
              "confidence": "memory"
            },
            {
              "id": "Z3",
              "label": "Kind",
              "value": "initial",
              "blank": false,
              "provenance": "the history of the case",
              "certainty": null,
              "citation": "nowhere",
              "confidence": "memory"
            },
            {
              "id": "Z4",
              "label": "Supersedes",
              "value": "none",
              "blank": false,
              "provenance": "the history of the case",
              "certainty": null,
              "citation": "nowhere",
              "confidence": "memory"
            }
          ],
          "clocks": [
            {
              "clock": "report",
              "label": "Report",
              "starts": "raised",
              "started_at": "2026-02-25T12:05:00Z",
              "due": "2026-03-12T11:05:00Z",
              "due_local": "2026-03-12 07:05 America/New_York",
              "stopped_at": null,
              "remaining_ms": 1217100000,
              "overdue": false,
              "citation": "nowhere, section 2",
              "confidence": "secondary"
            }
          ],
          "totals": {
            "as_of": "2026-02-25T12:00:00Z",
            "bound": {
              "low_tera": "100000000000001",
              "best_tera": "150000000000000",
              "high_tera": "200000000000000"
            },
            "calibrated": {
              "low_tera": "100000000000001",
              "high_tera": "200000000000000"
            },
            "projection": {
              "until": "2026-05-26T12:00:00Z",
              "bound": {
                "low_tera": "300000000000000",
                "best_tera": "300000000000000",
                "high_tera": "300000000000000"
              },
              "capped_by": "rule_days"
            }
          },
          "attempts": [
            {
              "attempt": "job-7.0",
              "start": "2026-02-01T00:00:00Z",
              "end": "2026-02-25T12:00:00Z",
              "accelerators": 16384,
              "operations": {
                "low_tera": "100000000000001",
                "best_tera": "150000000000000",
                "high_tera": "200000000000000",
                "low": "1.00e26",
                "best": "1.50e26",
                "high": "2.00e26"
              }
            }
          ],
          "accelerators": [
            {
              "model": "NVIDIA A100",
              "count": 8
            },
            {
              "model": "NVIDIA H100",
              "count": 16384
            }
          ],
          "coverage": {
            "measured_ms": 32400000000,
            "interpolated_ms": 3564000000,
            "gap_ms": {
              "device_lost": 3600000,
              "silent": 32400000
            },
            "not_present_ms": 1800000
          },
          "attribution": {
            "attributed_ms": 36000000000,
            "shared_ms": 0,
            "idle_held_ms": 0,
            "disputed_ms": 0
          },
          "method_and_doubt": [
            "What is counted: the operations that the hardware executed, dense, a multiply-add counted as two, all number formats alike; estimated with method 1 and the accelerator table sha256:(table). Agents read counters of the hardware; from these the estimate follows, and anybody who has the ledger can work it out again.",
            "What it does not say: a host cannot tell training from other work of the same run, such as evaluation, failed experiments or recomputation. Read as training compute, the amounts are therefore upper bounds.",
            "The bound: as of 2026-02-25T12:00:00Z, low 1.00e26, best 1.50e26, high 2.00e26 operations. Low and high are limits that the true amount cannot be outside of, given what was measured and the assumptions below; best is the most plausible single value.",
            "The calibrated range: by data of the past, comparable cases lay between 1.00e26 and 2.00e26 operations nine times in ten. This range is an expectation, not a limit: one comparable case in ten lay outside of it.",
            "How well it was seen: of 10000.0 accelerator-hours held, 99.9 % were measured or bounded by a counter. The other 10.0 are gaps: they count nothing in low, the mean of their attempt in best, and the peak of the device in high.",
            "Assumptions: the counters of the hardware are right; the accelerator is the model that it says it is; where the number format of the work was not seen, low takes the slowest and high the fastest that the accelerator has; what was recorded of who held an accelerator and when is right; time that nobody saw may have held anything from nothing to work at the peak.",
            "How sure it is: certain. That word means: even the lowest amount that is possible meets the criteria.",
            "If the recent rate goes on, the total at 2026-05-26T12:00:00Z is low 3.00e26, best 3.00e26, high 3.00e26 operations. It looks no further, because the rule pack looks no further ahead.",
            "The line compared with is a default of the operator; the text does not contain it."
          ]
        }"#]].assert_eq(&without_hash(&json, &parts));
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}

#[test]
fn the_same_report_in_sections() {
    let parts = parts();
    let mut shown = String::new();
    for section in Report::build(&input(&parts)).unwrap().sections() {
        shown.push_str(&format!("# {}\n", section.title));
        for paragraph in &section.paragraphs {
            shown.push_str(&format!("{paragraph}\n"));
        }
        for row in &section.rows {
            assert_eq!(row.len(), section.columns.len());
            let cells: Vec<String> = row.iter().map(|lines| lines.join(" / ")).collect();
            shown.push_str(&format!("- {}\n", cells.join(" | ")));
        }
    }
    expect![[r#"
        # Summary
        customer:acme meets the criteria of the proposed small rule.
        Status of the instrument: withdrawn since 2025-12 (secondary source: a course text), as last checked 2026-01-31.
        The line: more than 1e26 operations, a default of the operator that is not in the text.
        The rule is addressed to the operator.
        This compares measurements with a rule. Whether anything is to be sent, and to whom, is for a person to decide.
        - Case | c1
        - Report | version 1, initial
        - Written at | 2026-02-26T09:00:00Z
        - Instrument | nowhere
        - Rule | small@1 run
        # Fields
        3 of 13 fields are blank. A blank is not a no: beside each stands why it is blank.
        What a customer says is shown as its word and was not verified; what was measured says how sure it is.
        - A1 | Name | Acme <Ltd> | customer registry | nowhere, section 5 / secondary source
        - A4 | Email | blank | sealed in the customer registry, not opened here | nowhere, section 5 / secondary source
        - A5 | Telephone | blank | not in the customer registry | nowhere, section 5 / secondary source
        - B1 | Operations | low 1.00e26, best 1.50e26, high 2.00e26 operations / exactly 100000000000001, 150000000000000 and 200000000000000 teraoperations | measured on the hardware, gaps counted as of 2026-02-25T12:00:00Z / certain | nowhere, section 5 / from memory, not checked against a source
        - B2 | Dates | first activity observed: 2026-02-01T00:00:00Z | no customer declared a date; activity as the agents observed it, by whole hours | nowhere, section 5 / from memory, not checked against a source
        - B3 | Practices | pre-training | answered by the customer, signed by bob on 2026-02, not verified | nowhere, section 5 / from memory, not checked against a source
        - B4 | Incidents | blank | only the customer can say this, and no answer is on record | nowhere, section 5 / from memory, not checked against a source
        - B5 | Accelerators | 16384 x NVIDIA H100 / 8 x NVIDIA A100 | inventory of the agents, most frequent first | nowhere, section 5 / from memory, not checked against a source
        - B6 | Existence | customer:acme meets the criteria of the proposed small rule (a large run): at least 1.00e26 operations; the line is more than 1e26, a default of the operator that is not in the text | finding 4bb8f1063fbeb92fe3d509d92715e8ae, raised at 2026-02-25T12:05:00Z / certain | nowhere, section 5 / from memory, not checked against a source
        - Z1 | Knowledge | 2026-02-25T12:05:00Z | when the first finding of the case was raised | nowhere / from memory, not checked against a source
        - Z2 | Method | method 1, accelerator table sha256:(table) | the program that made the estimate | nowhere / from memory, not checked against a source
        - Z3 | Kind | initial | the history of the case | nowhere / from memory, not checked against a source
        - Z4 | Supersedes | none | the history of the case | nowhere / from memory, not checked against a source
        # Method and doubt
        What is counted: the operations that the hardware executed, dense, a multiply-add counted as two, all number formats alike; estimated with method 1 and the accelerator table sha256:(table). Agents read counters of the hardware; from these the estimate follows, and anybody who has the ledger can work it out again.
        What it does not say: a host cannot tell training from other work of the same run, such as evaluation, failed experiments or recomputation. Read as training compute, the amounts are therefore upper bounds.
        The bound: as of 2026-02-25T12:00:00Z, low 1.00e26, best 1.50e26, high 2.00e26 operations. Low and high are limits that the true amount cannot be outside of, given what was measured and the assumptions below; best is the most plausible single value.
        The calibrated range: by data of the past, comparable cases lay between 1.00e26 and 2.00e26 operations nine times in ten. This range is an expectation, not a limit: one comparable case in ten lay outside of it.
        How well it was seen: of 10000.0 accelerator-hours held, 99.9 % were measured or bounded by a counter. The other 10.0 are gaps: they count nothing in low, the mean of their attempt in best, and the peak of the device in high.
        Assumptions: the counters of the hardware are right; the accelerator is the model that it says it is; where the number format of the work was not seen, low takes the slowest and high the fastest that the accelerator has; what was recorded of who held an accelerator and when is right; time that nobody saw may have held anything from nothing to work at the peak.
        How sure it is: certain. That word means: even the lowest amount that is possible meets the criteria.
        If the recent rate goes on, the total at 2026-05-26T12:00:00Z is low 3.00e26, best 3.00e26, high 3.00e26 operations. It looks no further, because the rule pack looks no further ahead.
        The line compared with is a default of the operator; the text does not contain it.
        # Attempts
        - job-7.0 | 2026-02-01T00:00:00Z | 2026-02-25T12:00:00Z | 16384 | 1.00e26 | 1.50e26 | 2.00e26
        # Accelerator time
        - measured | 9000.0
        - interpolated | 990.0
        - gap: device_lost | 1.0
        - gap: silent | 9.0
        - not present | 0.5
        - one holder | 10000.0
        - shared by several holders | 0.0
        - held and idle | 0.0
        - disputed | 0.0
        # Clocks
        As of 2026-02-26T09:00:00Z.
        - Report | 2026-02-25T12:05:00Z | 2026-03-12 07:05 America/New_York | runs | nowhere, section 2 / secondary source
    "#]].assert_eq(&without_hash(&shown, &parts));
}

#[test]
fn a_blank_is_shown_as_a_blank_with_its_reason() {
    let parts = parts();
    let report = Report::build(&input(&parts)).unwrap();
    let blanks: Vec<(&str, &str)> =
        report.blanks().map(|field| (field.id.as_str(), field.provenance.as_str())).collect();
    assert_eq!(
        blanks,
        [
            ("A4", "sealed in the customer registry, not opened here"),
            ("A5", "not in the customer registry"),
            ("B4", "only the customer can say this, and no answer is on record"),
        ]
    );
    assert!(report.blanks().all(|field| field.value.is_none()));
}

#[test]
fn blank_words_do_not_fill_a_field() {
    let parts = parts();
    let mut input = input(&parts);
    input.identity.insert("name".into(), IdentityValue::Value(" ".into()));
    input.attested.insert("training_practices".into(), answered("  ", None));
    input.accelerators.clear();
    input.dates = RunDates::default();
    let report = Report::build(&input).unwrap();
    let blanks: Vec<&str> = report.blanks().map(|field| field.id.as_str()).collect();
    assert_eq!(blanks, ["A1", "A4", "A5", "B2", "B3", "B4", "B5"]);
}

#[test]
fn the_status_is_that_of_the_day_of_writing() {
    let parts = parts();
    let on = |text: &str| {
        let input = ReportInput { written_at: at(text), ..input(&parts) };
        Report::build(&input).unwrap().header.status_in_words
    };
    assert_eq!(
        on("2025-11-30T23:59:59Z"),
        "Status of the instrument: proposed since 2024-01-29 (official text: a gazette), as last checked 2026-01-31."
    );
    assert_eq!(
        on("2025-12-01T00:00:00Z"),
        "Status of the instrument: withdrawn since 2025-12 (secondary source: a course text), as last checked \
         2026-01-31."
    );
    assert_eq!(on("2024-01-28T00:00:00Z"), "Status of the instrument: not known for this day.");
}

#[test]
fn a_finding_is_reported_at_the_certainty_it_was_raised_with() {
    let parts = parts();
    let report = Report::build(&input(&parts)).unwrap();
    assert_eq!(report.certainty, Certainty::Certain);
    let words = serde_json::to_string(&report).unwrap();
    assert!(words.contains("meets the criteria of") && !words.contains("must report"));
}

#[test]
fn a_correction_below_the_line_shows_in_the_report() {
    let parts = parts();
    let on = |totals| {
        let report = Report::build(&ReportInput { totals, ..input(&parts) }).unwrap();
        let operations = report.fields.iter().find(|field| field.id == "B1").unwrap();
        assert_eq!(operations.certainty, report.certainty_now);
        let doubt =
            report.method_and_doubt.iter().filter(|text| text.starts_with("When the finding")).cloned();
        format!("{}. {}", report.header.statement, doubt.collect::<String>())
    };
    let shown =
        [on(totals(0, LINE, LINE + 1)), on(totals(0, LINE, LINE)), on(totals(LINE * 2, LINE * 2, LINE * 2))];
    expect![[r#"
        customer:acme possibly meets the criteria of the proposed small rule. When the finding was raised at 2026-02-25T12:05:00Z, it was certain. By the totals of this report it is possible.
        customer:acme no longer meets the criteria of the proposed small rule. When the finding was raised at 2026-02-25T12:05:00Z, it was certain. By the totals of this report it is no longer met.
        customer:acme meets the criteria of the proposed small rule. "#]].assert_eq(&shown.join("\n"));
}

#[test]
fn parts_that_do_not_belong_together_make_no_report() {
    let parts = parts();
    let mut shown = String::new();
    let mut refused = |input: &ReportInput<'_>| {
        let error = Report::build(input).unwrap_err().to_string();
        shown.push_str(&error.replace(parts.pack.sha256(), "(hash)").replace(&parts.finding.id, "(finding)"));
        shown.push('\n');
    };
    let mut other = parts.finding.clone();
    other.pack_version = "2".into();
    refused(&ReportInput { finding: &other, ..input(&parts) });
    other = parts.finding.clone();
    other.pack_sha256 = "00".into();
    refused(&ReportInput { finding: &other, ..input(&parts) });
    other = parts.finding.clone();
    other.id = "f9".into();
    refused(&ReportInput { finding: &other, ..input(&parts) });
    other = parts.finding.clone();
    other.rule = "walk".into();
    refused(&ReportInput { finding: &other, ..input(&parts) });
    refused(&ReportInput { version: 2, supersedes: Some(2), ..input(&parts) });
    expect![[r#"
        report on case c1: the rule pack is "small@1", expected "small@2"
        report on case c1: the hash of the rule pack is "(hash)", expected "00"
        report on case c1: the finding is "f9", expected "a finding of the case"
        report on case c1: the rule is "walk", expected "a rule of the pack"
        report on case c1: the superseded version is "2", expected "less than 2"
    "#]]
    .assert_eq(&shown);
}

#[test]
fn a_later_version_names_the_one_it_replaces() {
    let parts = parts();
    let input = ReportInput { kind: ReportKind::Corrected, version: 2, supersedes: Some(1), ..input(&parts) };
    let sections = Report::build(&input).unwrap().sections();
    let summary: Vec<String> = sections[0].rows.iter().map(|row| row.concat().join(": ")).collect();
    assert!(summary.contains(&"Report: version 2, corrected".to_owned()), "{summary:?}");
    assert!(summary.contains(&"Supersedes: version 1".to_owned()), "{summary:?}");
}

#[test]
fn nothing_held_is_said_to_be_nothing() {
    let parts = parts();
    let mut input = input(&parts);
    input.coverage = CoverageSummary::default();
    let report = Report::build(&input).unwrap();
    assert!(report.method_and_doubt.contains(&"No time on any accelerator was held.".to_owned()));
    assert_eq!(input.written_at.since(UtcMillis(0)), report.written_at.0);
}

fn field(report: &Report, id: &str) -> (Vec<String>, String) {
    let field = report.fields.iter().find(|field| field.id == id).unwrap();
    (field.value.as_ref().map(|value| value.lines()).unwrap_or_default(), field.provenance.clone())
}

#[test]
fn what_customers_say_names_who_signed_and_which_of_several_said_nothing() {
    let parts = parts();
    let mut input = input(&parts);
    let declared = Attestation {
        answer: "fine-tuning".into(),
        by: "Eve".into(),
        on: "2026-01-03".into(),
        customer: Some("C-2".into()),
        through: Through::Declaration,
    };
    let Attested::Given { mut given, .. } = answered("pre-training\nin two stages", Some("C-1")) else {
        panic!("given")
    };
    given.push(declared);
    let said = Attested::Given { given, silent: vec!["C-3".into()] };
    input.attested.insert("training_practices".into(), said);
    assert_eq!(
        field(&Report::build(&input).unwrap(), "B3"),
        (
            vec!["C-1: pre-training".into(), "C-1: in two stages".into(), "C-2: fine-tuning".into()],
            "C-1: answered by the customer, signed by bob on 2026-02, not verified; C-2: declared by the customer, \
             signed by Eve on 2026-01-03, not verified; not answered by C-3"
                .into()
        )
    );
    input.attested.insert("training_practices".into(), Attested::Sealed);
    assert_eq!(
        field(&Report::build(&input).unwrap(), "B3"),
        (Vec::new(), "said by the customer, sealed and not opened here".into())
    );
}

#[test]
fn declared_dates_stand_beside_observed_ones_and_are_never_taken_for_them() {
    let parts = parts();
    let mut input = input(&parts);
    input.dates.declared = vec![DeclaredDates {
        start: Some("2026-01".into()),
        end: Some("2026-06-30".into()),
        by: "bob".into(),
        on: "2025-12-01".into(),
        customer: None,
    }];
    input.dates.lease_end = Some(at("2026-07-01T00:00:00Z"));
    assert_eq!(
        field(&Report::build(&input).unwrap(), "B2"),
        (
            vec![
                "declared start: 2026-01".into(),
                "declared completion: 2026-06-30".into(),
                "end of the last lease: 2026-07-01T00:00:00Z".into(),
                "first activity observed: 2026-02-01T00:00:00Z".into(),
            ],
            "declared by the customer, signed by bob on 2025-12-01, not verified; leases as the operator recorded them; \
             activity as the agents observed it, by whole hours"
                .into()
        )
    );
    input.dates = RunDates { declared_sealed: true, ..RunDates::default() };
    let (value, provenance) = field(&Report::build(&input).unwrap(), "B2");
    assert_eq!(
        (value.len(), provenance.as_str()),
        (0, "what the customer declared is sealed and not opened here")
    );
}

#[test]
fn a_later_version_says_what_is_other_and_nothing_else() {
    let parts = parts();
    let earlier = Report::build(&input(&parts)).unwrap();
    let mut later = ReportInput { version: 2, written_at: at("2026-02-27T09:00:00Z"), ..input(&parts) };
    assert_eq!(
        Report::build(&later).unwrap().changes_since(&earlier).changes,
        [],
        "a later moment is no change"
    );
    later.identity.insert("name".into(), IdentityValue::Value("Acme Limited".into()));
    later.accelerators.pop();
    later.attempts[0].attempt = "job-7.1".parse().unwrap();
    later.remarks = vec!["Look at the owner.".into()];
    let mut report = Report::build(&later).unwrap();
    let changes = report.changes_since(&earlier);
    let what: Vec<&str> = changes.changes.iter().map(|change| change.what.as_str()).collect();
    assert_eq!(
        what,
        [
            "Remarks",
            "Field A1: Name",
            "Field B5: Accelerators",
            "Attempt job-7.0",
            "Accelerators",
            "Attempt job-7.1"
        ]
    );
    assert_eq!(changes.changes[1].before, ["Acme <Ltd>"]);
    assert_eq!(changes.changes[1].after, ["Acme Limited"]);
    assert!(changes.changes[3].after.is_empty() && changes.changes[5].before.is_empty());
    report.changes = Some(changes);
    let titles: Vec<&str> = report.sections().iter().map(|section| section.title).collect();
    assert_eq!(titles[..3], ["Summary", "To be noticed", "What changed"]);
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}

#[test]
fn a_pack_says_what_only_the_customer_can_answer() {
    let pack = parts().pack;
    let asked: Vec<(String, String)> = pack.questions().map(|one| (one.field, one.key)).collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[0], ("B3".to_owned(), "training_practices".to_owned()));
}
