//! `evaluate telemetry` on traces made up here.

use std::{fmt::Write as _, io::Write as _, path::Path};

use clap::Parser;
use expect_test::{Expect, expect};
use flate2::{Compression, write::GzEncoder};
use weighbridge_collector::evaluate::telemetry::{Options, Report, evaluate};

const LABELS: &str =
    "run,gpus,t_start_s,t_end_s,class,subclass,gpu_model,tdp_w,source,sample_period_s,note\n";
const COLUMNS: &str = "t_s,gpu,power_w,gpu_util_pct,mem_used_mib,sm_active,tensor_active,dram_active,\
                       nvlink_tx_Bps,nvlink_rx_Bps,pcie_tx_Bps,pcie_rx_Bps,energy_mj\n";

/// What stands in the columns from `power_w` to `pcie_rx_Bps`.
const TRAINING: &str = "600,95,60000,0.8,0.6,0.3,3000000000,3000000000,20000000,70000000,";
const SERVING: &str = "400,95,60000,0.5,0.05,0.6,0,0,20000000,70000000,";
const IDLE: &str = "118,0,60000,0,0,0.00001,0,0,700000,600000,";
const POWER_ONLY: &str = "400,,,,,,,,,,";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(labels: &str) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        std::fs::write(folder.path().join("labels.csv"), format!("{LABELS}{labels}")).expect("written");
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A trace of a reading a second; what each accelerator shows at a second.
    fn trace(self, name: &str, seconds: u32, shows: &[&dyn Fn(u32) -> &'static str]) -> Self {
        let mut text = COLUMNS.to_owned();
        for second in 0..=seconds {
            for (gpu, shows) in shows.iter().enumerate() {
                writeln!(text, "{second},{gpu},{}", shows(second)).expect("string");
            }
        }
        self.file(name, text.as_bytes())
    }

    fn file(self, name: &str, text: &[u8]) -> Self {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(text).expect("packed");
        let packed = packed.finish().expect("packed");
        std::fs::write(self.path().join(format!("{name}.csv.gz")), packed).expect("written");
        self
    }

    fn report(&self, arguments: &[&str]) -> Report {
        evaluate(self.path(), &options(arguments)).expect("usable labels")
    }

    fn problem(&self) -> String {
        let error = evaluate(self.path(), &Options::default()).expect_err("refused");
        format!("{error:#}").replace(&self.path().display().to_string(), "DIR")
    }
}

fn options(arguments: &[&str]) -> Options {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }
    Line::parse_from(["evaluate"].iter().chain(arguments)).options
}

/// Spans, accelerators, class and expectation of each interval.
fn check(report: &Report, expected: Expect) {
    let mut shown = String::new();
    for row in &report.rows {
        let class = row.class.map_or("-", |class| class.as_str());
        writeln!(shown, "{}: {class}", row.id).expect("string");
        for i in &row.intervals {
            writeln!(shown, "  {}..{} {:?} {} ({:?})", i.start, i.end, i.gpus, i.class, i.expected)
                .expect("string");
        }
    }
    expected.assert_eq(&shown);
}

#[test]
fn a_run_that_changes_from_training_to_serving_is_cut_there() {
    let run = |second: u32| if second < 600 { TRAINING } else { SERVING };
    let labels = "a,0-1,0,600,training,x,H100,700,s,1,\na,\"0,1-1\",600,1200,inference,x,H100,700,s,1,\n\
                  a,0-1,0,10,transition,x,H100,700,s,1,\n";
    let folder = Folder::new(labels).trace("a", 1200, &[&run, &run]);
    check(
        &folder.report(&[]),
        expect![[r#"
        a: undetermined
          0..600 [0, 1] training (Training)
          600..1200 [0, 1] inference (Inference)
    "#]],
    );
    check(
        &folder.report(&["--thin", "10s"]),
        expect![[r#"
        a: undetermined
          0..600 [0, 1] training (Training)
          600..1200 [0, 1] inference (Inference)
    "#]],
    );
    check(
        &folder.report(&["--thin", "60s"]),
        expect![[r#"
        a: undetermined
          0..540 [0, 1] training (Training)
          540..600 [0, 1] inference (Training)
          600..1200 [0, 1] inference (Inference)
    "#]],
    );
}

#[test]
fn accelerators_of_one_label_that_do_different_things_are_told_apart() {
    let labels = "a,0-3,0,600,training,x,H100-SXM-80GB,700,s,1,\n";
    let folder =
        Folder::new(labels).trace("a", 600, &[&|_| TRAINING, &|_| SERVING, &|_| TRAINING, &|_| IDLE]);
    check(
        &folder.report(&[]),
        expect![[r#"
        a: training
          0..600 [0, 2] training (Training)
          0..600 [1] inference (Training)
          0..600 [3] other (Training)
    "#]],
    );
    // The mistakes count by accelerator.
    expect![[r#"
        a: training 0.98, operations 1.44e16 to 2.04e18, best 6.90e17
          = 0..600 s, 0,2: training 0.98, labelled training: as much is exchanged between accelerators as gradients need
          ! 0..600 s, 1: inference 0.98, labelled training: memory is busy and matrix units are not, as when tokens are generated
          ! 0..600 s, 3: other 0.98, labelled training: nothing ran

        1 runs, 0 could not be judged
        accelerator hours, labelled (rows) and judged (columns):
                          training     inference         other  undetermined
        training             0.333         0.167         0.167         0.000
        all: 0.67 hours, 100.0 % decided, 50.0 % of these right; serving called training in 0 of 0 minutes
        tensor: 0.67 hours, 100.0 % decided, 50.0 % of these right; serving called training in 0 of 0 minutes
    "#]].assert_eq(&folder.report(&[]).table());
}

#[test]
fn labels_do_not_reach_the_judgement() {
    let told = |class: &str| {
        let labels = format!("a,0,0,600,{class},x,H100,700,s,1,\n");
        let folder = Folder::new(&labels).trace("a", 600, &[&|_| SERVING]);
        let report = folder.report(&[]);
        (report.rows[0].class, report.rows[0].intervals[0].class)
    };
    assert_eq!(told("training"), told("inference"));
}

#[test]
fn a_pause_of_minutes_belongs_to_the_run_that_it_interrupts() {
    let run = |second: u32| if (400..580).contains(&second) { IDLE } else { TRAINING };
    let labels = "a,0,0,1200,training,x,H100,700,s,1,\n";
    check(
        &Folder::new(labels).trace("a", 1200, &[&run]).report(&[]),
        expect![[r#"
        a: training
          0..1200 [0] training (Training)
    "#]],
    );
    let run = |second: u32| if (400..1000).contains(&second) { IDLE } else { TRAINING };
    check(
        &Folder::new(labels).trace("a", 1400, &[&run]).report(&[]),
        expect![[r#"
        a: training
          0..400 [0] training (Training)
          400..980 [0] other (Training)
          980..1200 [0] training (Training)
    "#]],
    );
}

#[test]
fn counters_that_are_hidden_are_not_used() {
    let labels = "a,0,0,600,inference,x,H100,700,s,1,\nb,0,0,600,inference,x,TITAN X class,250,s,1,\n";
    let folder = Folder::new(labels).trace("a", 600, &[&|_| SERVING]).trace("b", 600, &[&|_| POWER_ONLY]);
    check(
        &folder.report(&[]),
        expect![[r#"
        a: inference
          0..600 [0] inference (Inference)
        b: undetermined
          0..600 [0] undetermined (Inference)
    "#]],
    );
    check(
        &folder.report(&["--hide", "dram"]),
        expect![[r#"
        a: undetermined
          0..600 [0] undetermined (Inference)
        b: undetermined
          0..600 [0] undetermined (Inference)
    "#]],
    );
    let report = folder.report(&["--hide", "tensor,sm,dram,nvlink,power"]);
    let counters: Vec<_> = report.rows.iter().map(|row| format!("{:?}", row.counters)).collect();
    assert_eq!(counters, ["Some(Utilisation)", "Some(None)"]);
}

#[test]
fn the_report_keeps_its_form_as_json() {
    let labels = "a,0,30,600,inference,x,H200,700,s,1,\nb,0,0,1,idle,x,TITAN X class,250,s,1,\n\
                  gone,0,0,1,other,x,H100,700,s,1,\n";
    let folder = Folder::new(labels).trace("a", 600, &[&|_| SERVING]).trace("b", 10, &[&|_| POWER_ONLY]);
    let json = serde_json::to_string_pretty(&folder.report(&[])).expect("json");
    expect![[r#"
        {
          "summary": {
            "runs": 3,
            "failed": 1,
            "hours": {
              "inference": {
                "inference": 0.1583
              },
              "idle": {
                "undetermined": 0.0003
              }
            },
            "all": {
              "hours": 0.1586,
              "decided": 0.9982,
              "right": 1.0,
              "serving_windows": 9,
              "serving_called_training": 0
            },
            "by_counters": {
              "tensor": {
                "hours": 0.1583,
                "decided": 1.0,
                "right": 1.0,
                "serving_windows": 9,
                "serving_called_training": 0
              },
              "power": {
                "hours": 0.0003,
                "decided": 0.0,
                "right": null,
                "serving_windows": 0,
                "serving_called_training": 0
              }
            }
          },
          "rows": [
            {
              "id": "a",
              "supported": true,
              "bound": {
                "low": "563000000000000",
                "best": "27593000000000000",
                "high": "120060000000000000"
              },
              "calibrated": {
                "low": "14738000000000000",
                "best": "27593000000000000",
                "high": "31170000000000000"
              },
              "executed": {
                "low": "19650000000000000",
                "best": "29670000000000000",
                "high": "31170000000000000"
              },
              "certain": null,
              "class": "inference",
              "likelihood": 0.985,
              "counters": "tensor",
              "intervals": [
                {
                  "start": 30.0,
                  "end": 600.0,
                  "gpus": [
                    0
                  ],
                  "class": "inference",
                  "likelihood": 0.985,
                  "because": "memory is busy and matrix units are not, as when tokens are generated",
                  "expected": "inference"
                }
              ]
            },
            {
              "id": "b",
              "supported": false,
              "bound": null,
              "calibrated": null,
              "executed": null,
              "certain": null,
              "class": "undetermined",
              "likelihood": 0.415,
              "counters": "power",
              "intervals": [
                {
                  "start": 0.0,
                  "end": 1.0,
                  "gpus": [
                    0
                  ],
                  "class": "undetermined",
                  "likelihood": 0.415,
                  "because": "it was too short",
                  "expected": "idle"
                }
              ]
            },
            {
              "id": "gone",
              "supported": false,
              "bound": null,
              "calibrated": null,
              "executed": null,
              "certain": null,
              "class": null,
              "likelihood": 0.0,
              "counters": null,
              "intervals": [],
              "error": "cannot read DIR/gone.csv.gz: No such file or directory (os error 2)"
            }
          ]
        }"#]]
    .assert_eq(&json.replace(&folder.path().display().to_string(), "DIR"));
}

#[test]
fn a_trace_that_cannot_be_used_is_a_row_with_its_error_and_stops_nothing() {
    let labels = "gone,0,0,1,other,x,H100,700,s,1,\nraw,0,0,1,other,x,H100,700,s,1,\n\
                  bad,0,0,1,other,x,H100,700,s,1,\nempty,0,0,1,other,x,H100,700,s,1,\n";
    let folder = Folder::new(labels)
        .file("bad", b"t_s,gpu,power_w\n0,0,100\n1,0,much\n")
        .file("empty", b"t_s,gpu,power_w\n");
    std::fs::write(folder.path().join("raw.csv.gz"), "t_s,gpu\n0,0\n").expect("written");
    for arguments in [&[][..], &["--thin", "10s"]] {
        let report = folder.report(arguments);
        assert_eq!(report.summary.failed, 4);
        let errors: Vec<_> = report
            .rows
            .iter()
            .map(|row| {
                row.error.clone().unwrap_or_default().replace(&folder.path().display().to_string(), "DIR")
            })
            .collect();
        let expected = expect![[r#"
            cannot read DIR/gone.csv.gz: No such file or directory (os error 2)
            DIR/raw.csv.gz: not a gzip file of text: invalid gzip header
            cannot use DIR/bad.csv.gz: recording, line 3, column power_w: "much" is not a number of at least 0, or empty
            cannot use DIR/empty.csv.gz: recording, line 2, column t_s: "" is not at least one row"#]];
        expected.assert_eq(&errors.join("\n"));
    }
}

#[test]
fn labels_that_cannot_be_used_are_refused_with_line_column_value_and_expectation() {
    let rows = [
        "",
        "../a,0,0,1,other,x,H100,700,s,1,\n",
        "a,0-x,0,1,other,x,H100,700,s,1,\n",
        "a,3-1,0,1,other,x,H100,700,s,1,\n",
        "a,,0,1,other,x,H100,700,s,1,\n",
        "a,0,-1,1,other,x,H100,700,s,1,\n",
        "a,0,2,1,other,x,H100,700,s,1,\n",
        "a,0,0,NaN,other,x,H100,700,s,1,\n",
        "a,0,0,1,mining,x,H100,700,s,1,\n",
        "a,0,0,1\n",
    ];
    let problems: Vec<String> = rows.iter().map(|row| Folder::new(row).problem()).collect();
    expect![[r#"
        DIR/labels.csv, line 2: no row, expected at least one labelled run
        cannot use DIR/labels.csv: line 2, column run: "../a", expected the name of a trace file without .csv.gz
        cannot use DIR/labels.csv: line 2, column gpus: "0-x", expected numbers below 1024 and spans of them, such as 0-7 or 0,2-3
        cannot use DIR/labels.csv: line 2, column gpus: "3-1", expected numbers below 1024 and spans of them, such as 0-7 or 0,2-3
        cannot use DIR/labels.csv: line 2, column gpus: "", expected numbers below 1024 and spans of them, such as 0-7 or 0,2-3
        cannot use DIR/labels.csv: line 2, column t_start_s: "-1", expected seconds since the start of the trace
        cannot use DIR/labels.csv: line 2, column t_end_s: "1", expected seconds not before t_start_s
        cannot use DIR/labels.csv: line 2, column t_end_s: "NaN", expected seconds since the start of the trace
        cannot use DIR/labels.csv: line 2, column class: "mining", expected training, inference, idle, other or transition
        cannot use DIR/labels.csv: CSV error: record 1 (line: 2, byte: 86): found record with 4 fields, but the previous record has 11 fields"#]].assert_eq(&problems.join("\n"));
    let folder = Folder::new("");
    std::fs::write(folder.path().join("labels.csv"), "run,gpus\n").expect("written");
    expect!["cannot use DIR/labels.csv: line 1, column class: not there, expected a column of this name"]
        .assert_eq(&folder.problem());
    std::fs::remove_file(folder.path().join("labels.csv")).expect("removed");
    assert!(folder.problem().starts_with("cannot read DIR/labels.csv"));
}
