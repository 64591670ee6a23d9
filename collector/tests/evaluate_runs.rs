//! `evaluate runs` on rows whose answers follow from a pencil.

use weighbridge_collector::evaluate::{certain, runs};
use weighbridge_meter::{
    Coverage, Estimator, Features, Operations, Source, Span, Tier, UtcMillis, Window,
    window::{Counter, Counters},
};

const HEADER: &str = "id,model,accelerator,accelerator_count,wall_clock_hours,accelerator_hours,\
                      utilisation_reported,utilisation_kind,achieved_tflops_per_accelerator,dtype,flop_reference,error_test\n";

fn rows(text: &str) -> runs::Report {
    runs::of_text(&format!("{HEADER}{text}")).expect("usable")
}

#[test]
fn hours_alone_give_a_bound_up_to_the_peak_and_what_published_runs_came_to() {
    let report = rows("a,m,A100,10,100,,,,,,1e21,strict\n");
    let row = &report.rows[0];
    // 1000 h x 3600 s x 1.41e9 x 108 x 2048 = 1.12273e21 at 16 bit; twice that at 8 bit.
    let bound = row.bound.as_ref().expect("supported");
    assert_eq!((bound.low.as_str(), bound.high.as_str()), ("0", "2245459968000000000000"));
    let calibrated = row.calibrated.as_ref().expect("supported");
    // 0.165, 0.345 and 0.58 of it.
    assert_eq!(calibrated.low, "185250447000000000000");
    assert_eq!(calibrated.best, "387341844000000000000");
    assert_eq!(calibrated.high, "651183391000000000000");
    assert_eq!(row.certain, None, "hours alone are certain of nothing");
    assert_eq!((row.in_bound, row.in_calibrated, row.impossible), (Some(true), Some(false), false));
    assert_eq!(report.summary.strict.rows, 1);
}

#[test]
fn a_reference_beyond_what_the_hours_can_hold_is_named_as_impossible() {
    let report = rows("a,m,A100,10,100,,,,,,2.3e21,no\nb,m,A100,10,100,,,,,,2.2e21,no\n");
    assert_eq!(report.summary.impossible, ["a"]);
    assert!(report.table().contains("IMPOSSIBLE"));
}

#[test]
fn what_is_said_of_utilisation_counts_against_the_peak_that_it_names() {
    let report = rows(
        "plain,m,H100,,,1000,0.4,MFU,,BF16,,\n\
         percent,m,H100,,,1000,40,MFU,,BF16,,\n\
         eight,m,H100,,,1000,0.2,\"MFU (against FP8 peak)\",,FP8,,\n\
         achieved,m,H100,,,1000,,,395.76,BF16,,\n",
    );
    let best: Vec<f64> = report
        .rows
        .iter()
        .map(|row| row.calibrated.as_ref().expect("supported").best.parse().expect("a number"))
        .collect();
    assert!(best.iter().all(|one| (one / best[0] - 1.0).abs() < 0.003), "{best:?}");
    let highs: Vec<_> = report.rows.iter().map(|row| &row.bound.as_ref().expect("supported").high).collect();
    assert!(highs.iter().all(|high| *high == highs[0]), "what is said moves no bound");
}

#[test]
fn what_is_not_in_the_table_or_has_no_hours_is_unsupported_and_not_scored() {
    let report = rows("a,m,TPU v4,10,100,,,,,,1e21,strict\nb,m,A100,10,,,,,,,1e21,strict\n");
    assert!(report.rows.iter().all(|row| !row.supported && row.reason.is_some() && row.bound.is_none()));
    assert_eq!((report.summary.supported, report.summary.strict.rows), (0, 0));
}

#[test]
fn json_has_a_summary_and_a_row_for_each_run_with_whole_operations_as_decimal_strings() {
    let report = rows("a,m,A100,1,1,,,,,,1e18,strict\n");
    let json = serde_json::to_value(&report).expect("serializes");
    let row = &json["rows"][0];
    for interval in ["bound", "calibrated", "executed"] {
        for end in ["low", "best", "high"] {
            let text = row[interval][end].as_str().expect("a string");
            assert!(text.bytes().all(|byte| byte.is_ascii_digit()), "{interval}.{end}: {text}");
        }
    }
    assert_eq!(row["id"], "a");
    assert_eq!(row["supported"], true);
    assert!(row["certain"].is_null());
    assert_eq!(json["summary"]["strict"]["rows"], 1);
}

#[test]
fn bad_input_is_named_with_line_column_value_and_expectation() {
    for (text, expected) in [
        (
            "a,m,A100,10,many,,,,,,1e21,strict\n",
            "line 2, column wall_clock_hours: \"many\" is not a positive number",
        ),
        (
            "a,m,A100,10,-1,,,,,,1e21,strict\n",
            "line 2, column wall_clock_hours: \"-1\" is not a positive number",
        ),
        (
            "a,m,A100,10,1,,250,,,,1e21,strict\n",
            "line 2, column utilisation_reported: 250 is not a part of the peak",
        ),
    ] {
        let error = runs::of_text(&format!("{HEADER}{text}")).expect_err(expected);
        assert_eq!(format!("{error:#}"), expected);
    }
    let error = runs::of_text("id,hours\n").expect_err("a column is missing").to_string();
    assert!(error.contains("no column accelerator"), "{error}");
    let error = runs::evaluate("/nonexistent/runs.csv".as_ref()).expect_err("no such file");
    assert!(format!("{error:#}").contains("/nonexistent/runs.csv"));
}

/// A month of a fleet, metered by cycle counters.
fn month(tier: Tier, accelerators: u128) -> [Operations; 2] {
    let estimator = Estimator::shipped();
    let model = estimator.table().find(None, "NVIDIA H100 80GB HBM3");
    let cycles = 1_500_000_000 * 60;
    let mut counters = Counters::default().with(Counter::ElapsedCycles, cycles);
    for (pipe, active) in [
        (Counter::TensorCycles, cycles / 2),
        (Counter::HmmaCycles, cycles / 2),
        (Counter::ImmaCycles, 0),
        (Counter::DfmaCycles, 0),
        (Counter::Fp64Cycles, 0),
        (Counter::Fp32Cycles, 0),
        (Counter::Fp16Cycles, 0),
    ] {
        counters = counters.with(pipe, active);
    }
    let window = Window {
        accelerator: "GPU-1".parse().expect("valid"),
        span: Span::new(UtcMillis(0), UtcMillis(60_000)).expect("not empty"),
        boot_start_ms: 0,
        source: Source::Nvml,
        tier,
        coverage: Coverage::Measured,
        ticks: 60,
        counters,
        features: Features::default(),
        uses: Vec::new(),
    };
    let bound = estimator.estimate(model, &window).bound;
    [bound.low(), bound.high()].map(|amount| amount.scaled(30 * 24 * 60 * accelerators, 1))
}

#[test]
fn counters_of_tiers_a_and_b_are_certain_of_a_line_that_their_low_is_over_and_not_of_the_next() {
    // Each does 1.15e13 a minute at the least: 5e17 x 30 d... a month of 1,000 is 4.99e23, of 100,000 4.99e25.
    for tier in [Tier::A, Tier::B] {
        let lines: Vec<_> =
            [100, 1_000, 100_000, 1_000_000].map(|fleet| certain(month(tier, fleet)[0])).into();
        assert_eq!(lines, [None, Some("1e23"), Some("1e25"), Some("1e26")], "{tier}");
    }
    // What only an exporter tells is not certain where FP64 matrix work could have looked the same.
    assert_eq!(certain(month(Tier::D, 1_000_000)[0]), None, "kernel time bounds from above only");
}
