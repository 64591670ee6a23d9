//! The numbers of the API, checked by hand.
//!
//! The H100 of the table does 540 672 dense 16-bit operations a clock. A minute of 6e10 tensor cycles is therefore
//! 6e10 x 540 672 = 32 440.32 tera at best; low is half of it (the format could be slower) x 0.95, high twice of it
//! (FP8) x 1.05, calibrated 0.78 to 1.05. The device peaks at 540 672 x 2 x 1980 MHz, 2 141 061 120 000 a millisecond.

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use axum::http::StatusCode;
use common::Site;
use serde_json::{Value, json};

const WINDOW: [(&str, &str); 5] = [
    ("low_tera", "15409"),
    ("best_tera", "32440"),
    ("high_tera", "68125"),
    ("calibrated_low_tera", "25303"),
    ("calibrated_high_tera", "34063"),
];

fn amount(value: &Value, expected: &[(&str, &str)]) {
    for (key, tera) in expected {
        assert_eq!(value[*key], *tera, "{key} of {value}");
    }
}

#[tokio::test]
async fn a_window_is_shown_as_it_lies_in_the_ledger_with_its_estimate() {
    let site = Site::with_an_hour().await;
    let path = "/api/v1/windows?accelerator=GPU-1&from=2026-03-02T08:01:00Z&to=2026-03-02T09:30:00Z";
    let answer = site.json(path).await;
    let windows = answer["windows"].as_array().expect("a list");
    assert_eq!(windows.len(), 2, "the one before `from` is left out");
    assert_eq!(answer["model"], "H100 SXM5");
    let first = &windows[0];
    assert_eq!(first["start"], "2026-03-02T08:01:00Z");
    assert_eq!(first["end"], "2026-03-02T08:02:00Z");
    assert_eq!(first["boot_start_ms"], 60_000);
    assert_eq!((&first["agent"], &first["sequence"]), (&json!("agent-1"), &json!(1)));
    assert_eq!(
        (&first["tier"], &first["source"], &first["coverage"]),
        (&json!("B"), &json!("nvml"), &json!("measured"))
    );
    assert_eq!(
        first["counters"],
        json!({
            "elapsed_cycles": "60000000000",
            "tensor_cycles": "60000000000",
            "hmma_cycles": "60000000000",
            "fp32_cycles": "0",
            "fp16_cycles": "0",
            "busy_us": "60000000",
        }),
        "known counters, and none that is not"
    );
    amount(&first["estimate"], &WINDOW);
    assert_eq!(windows[1]["sequence"], 2);
    assert!(windows[0]["ledger_index"].as_u64() < windows[1]["ledger_index"].as_u64());
}

#[tokio::test]
async fn windows_of_more_than_a_day_or_of_nothing_are_refused() {
    let site = Site::with_an_hour().await;
    for (query, status) in [
        ("accelerator=GPU-1&from=2026-03-02T08:00:00Z&to=2026-03-03T08:00:00.001Z", 422),
        ("accelerator=GPU-1&from=2026-03-02T08:00:00Z&to=2026-03-02T08:00:00Z", 422),
        ("accelerator=GPU-1&from=2026-03-02T08:00:00Z", 422),
        ("accelerator=GPU-1&from=yesterday&to=2026-03-02T08:00:00Z", 422),
        ("accelerator=GPU-9&from=2026-03-02T08:00:00Z&to=2026-03-02T09:00:00Z", 404),
    ] {
        let answer = site.get(&format!("/api/v1/windows?{query}")).await;
        assert_eq!(answer.status.as_u16(), status, "{query}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
}

#[tokio::test]
async fn usage_is_the_sums_of_the_windows_hour_by_hour() {
    let site = Site::with_an_hour().await;
    let rows = site.json("/api/v1/usage?accelerator=GPU-1").await["rows"].clone();
    let rows = rows.as_array().expect("a list");
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["hour"], "2026-03-02T08:00:00Z");
    assert_eq!((&rows[0]["principal"], &rows[0]["attempt"]), (&json!("lease:site/one"), &json!("L-1")));
    assert_eq!((&rows[0]["state"], &rows[0]["measured_ms"]), (&json!("attributed"), &json!(120_000)));
    amount(&rows[0], &[("low_tera", "30818"), ("best_tera", "64880"), ("high_tera", "136250")]);
    amount(&rows[1], &WINDOW);
    let later = site.json("/api/v1/usage?principal=lease:site/one&from=2026-03-02T09:00:00Z").await;
    assert_eq!(later["rows"].as_array().map(Vec::len), Some(1));
    let refused = site.get("/api/v1/usage?from=2026-03-02T09:00:01Z").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.body.contains("expected a whole UTC hour"), "{}", refused.body);
}

#[tokio::test]
async fn a_customer_has_what_was_measured_and_what_the_gaps_could_have_hidden() {
    let site = Site::with_an_hour().await;
    let customer = site.json("/api/v1/customers/C-1").await;
    assert_eq!(customer["as_of"], "2026-03-02T09:01:00Z");
    let total = &customer["total"];
    amount(&total["measured"], &[("low_tera", "46227"), ("best_tera", "97320"), ("high_tera", "204375")]);
    assert_eq!(total["held_ms"], 61 * 60_000);
    assert_eq!(total["measured_ms"], 3 * 60_000);
    assert_eq!(total["gap_ms"], 58 * 60_000);
    // Nothing in low; in best the mean, 97 320 x 58 / 3; in high 2 141 061 120 000 x 3 480 000 = 7 450 892.7 tera.
    amount(
        &total["with_gaps"],
        &[
            ("low_tera", "46227"),
            ("best_tera", "1978840"),
            ("high_tera", "7655268"),
            ("calibrated_low_tera", "75909"),
        ],
    );
    assert_eq!((&customer["standing"], &customer["kind"]), (&json!("foreign"), &json!("entity")));
    assert_eq!(customer["control_group"], "G-1");
    assert_eq!(customer["principals"], json!(["lease:site/one"]));
    assert_eq!(customer["attempts"][0]["attempt"], "L-1");
    assert_eq!(customer["attempts"][0]["models"], json!({ "H100 SXM5": 1 }));
    assert_eq!(customer["identity"]["name"], "present");
}

#[tokio::test]
async fn what_is_blank_in_an_identity_is_said_to_be_blank() {
    let site = Site::with_an_hour().await;
    let identity = site.json("/api/v1/customers/C-2").await["identity"].clone();
    assert_eq!((&identity["name"], &identity["email"]), (&json!("present"), &json!("blank")));
}

#[tokio::test]
async fn hours_of_a_customer_are_what_was_measured_in_each() {
    let site = Site::with_an_hour().await;
    let hours = site.json("/api/v1/customers/C-1/hours").await["hours"].clone();
    assert_eq!(hours.as_array().map(Vec::len), Some(2));
    assert_eq!((&hours[0]["best_tera"], &hours[0]["measured_ms"]), (&json!("64880"), &json!(120_000)));
    assert_eq!(
        (&hours[1]["hour"], &hours[1]["best_tera"]),
        (&json!("2026-03-02T09:00:00Z"), &json!("32440"))
    );
}

#[tokio::test]
async fn a_projection_goes_on_to_the_end_of_the_lease_and_no_further() {
    let site = Site::with_an_hour().await;
    let rules = site.json("/api/v1/customers/C-1").await["rules"].clone();
    let rules = rules.as_array().expect("a list");
    let small = rules.iter().find(|rule| rule["pack"] == "small").expect("in use");
    assert_eq!((&small["verdict"], &small["line"]), (&json!("certain"), &json!("more than 1e16")));
    assert_eq!((&small["status"], &small["projection"]), (&json!("proposed"), &Value::Null));
    let proposed = rules.iter().find(|rule| rule["pack"] == "us-7.308").expect("in use");
    assert_eq!(proposed["verdict"], "not_met");
    let projection = &proposed["projection"];
    assert_eq!(
        (&projection["until"], &projection["capped_by"]),
        (&json!("2026-03-02T10:00:00Z"), &json!("holding_end"))
    );
    // 59 minutes more at 97 320 tera in three minutes.
    assert_eq!(projection["bound"]["best_tera"], (1_978_840 + 1_913_960).to_string());
    assert_eq!(projection["bound"]["low_tera"], "46227");
}

#[tokio::test]
async fn a_control_group_has_the_totals_of_its_members() {
    let site = Site::with_an_hour().await;
    let group = site.json("/api/v1/groups/G-1").await;
    assert_eq!(group["members"], json!(["C-1", "C-2"]));
    assert_eq!(group["total"]["with_gaps"]["best_tera"], "1978840");
    assert_eq!(group["standing"], "foreign", "a group is foreign if anyone in it is");
}

#[tokio::test]
async fn a_lease_of_devices_that_nobody_reported_is_an_unmapped_run_of_gaps() {
    let site = Site::with_an_hour().await;
    let run = site.json("/api/v1/runs/L-2").await["attempts"][0].clone();
    assert_eq!((&run["customer"], &run["never_seen"]), (&Value::Null, &json!(2)));
    // Two devices for 31 minutes.
    assert_eq!(run["total"]["never_seen_ms"], 2 * 31 * 60_000);
    assert_eq!(run["total"]["measured"]["high_tera"], "0");
    assert_eq!(run["total"]["with_gaps"]["low_tera"], "0");
    let unmapped = site.json("/api/v1/unmapped").await["subjects"].clone();
    assert_eq!(unmapped.as_array().map(Vec::len), Some(1));
    assert_eq!(unmapped[0]["id"], "lease:site/two");
    assert_eq!(site.json("/api/v1/unmapped/lease%3Asite%2Ftwo").await["id"], "lease:site/two");
}

#[tokio::test]
async fn each_way_to_divide_the_time_of_an_accelerator_adds_up_to_all_of_it() {
    let site = Site::with_an_hour().await;
    let fleet = site.json("/api/v1/fleet").await;
    let device = &fleet["accelerators"][0];
    assert_eq!(
        (&device["id"], &device["host"], &device["tier"]),
        (&json!("GPU-1"), &json!("gpu-1"), &json!("B"))
    );
    assert_eq!((&device["model"], &device["source"]), (&json!("H100 SXM5"), &json!("nvml")));
    assert_eq!(device["last_end"], "2026-03-02T09:01:00Z");
    for time in [&device["time"], &fleet["totals"]["time"]] {
        let sum =
            |map: &Value| map.as_object().expect("a map").values().filter_map(Value::as_u64).sum::<u64>();
        assert_eq!(time["wall_ms"], 61 * 60_000);
        let covered = time["measured_ms"].as_u64().expect("a number")
            + time["interpolated_ms"].as_u64().expect("a number");
        assert_eq!(covered, 3 * 60_000);
        assert_eq!(covered + sum(&time["gap_ms"]), 61 * 60_000);
        assert_eq!(sum(&time["held_ms"]), 61 * 60_000);
    }
    let agent = &fleet["agents"][0];
    assert_eq!((&agent["silent_for_ms"], &agent["source_state"]), (&json!(0), &json!("ok")));
    assert_eq!(
        (&agent["unacknowledged"], &agent["last_received"]),
        (&json!(3), &json!("2026-03-02T09:01:00Z"))
    );
    site.sets(75);
    let silent = site.json("/api/v1/fleet").await["agents"][0]["silent_for_ms"].clone();
    assert_eq!(silent, 14 * 60_000);
}

#[tokio::test]
async fn a_device_that_is_not_in_the_table_is_said_to_be_so() {
    let site = Site::empty().await;
    site.import(weighbridge_collector::import::Kind::Agents, &common::agents()).await;
    let mut batch = common::batch(1);
    let unknown = weighbridge_wire::DeviceRecord {
        name: "Abacus".into(),
        pci_device: "1234:5678".into(),
        ..common::device()
    };
    batch.inventory = vec![unknown];
    batch.windows = vec![common::window(0)];
    let sealed = weighbridge_wire::seal::seal(&batch, &common::key()).expect("seals");
    assert_eq!(site.submit(sealed.bytes).await.status, StatusCode::OK);
    site.app.settled().await;
    site.sets(1);
    assert_eq!(site.json("/api/v1/fleet").await["accelerators"][0]["model"], Value::Null);
}

#[tokio::test]
async fn a_run_and_a_customer_say_what_the_model_itself_needed_of_what_was_executed() {
    let site = Site::with_an_hour().await;
    let run = site.json("/api/v1/runs/L-1").await["attempts"][0].clone();
    let customer = site.json("/api/v1/customers/C-1").await;
    assert_eq!(run["model_operations"], customer["model_operations"], "all of it is one run");
    let tera = |value: &Value, key: &str| value[key].as_str().expect("text").parse::<u64>().expect("whole");
    for part in ["measured", "with_gaps"] {
        let (executed, needed) = (&run["total"][part], &run["model_operations"][part]);
        let (low, best, high) = (
            tera(needed, "calibrated_low_tera"),
            tera(needed, "best_tera"),
            tera(needed, "calibrated_high_tera"),
        );
        assert!(low <= best && best <= high, "{needed}");
        assert!(
            best < tera(executed, "best_tera") && high <= tera(executed, "calibrated_high_tera"),
            "{run}"
        );
    }
    assert!(tera(&run["model_operations"]["measured"], "calibrated_low_tera") > 0);
}

#[tokio::test]
async fn a_run_carries_its_evidence_and_its_totals_are_those_of_a_run_without() {
    let site = Site::with_an_hour().await;
    let run = site.json("/api/v1/runs/L-1").await["attempts"][0].clone();
    let listed = site.json("/api/v1/runs").await["runs"].clone();
    let listed =
        listed.as_array().expect("a list").iter().find(|one| one["attempt"] == "L-1").expect("there");
    for key in ["class", "likelihood", "because", "signs", "total"] {
        assert_eq!(run[key], listed[key], "{key}");
    }
    // Three windows of a minute, whatever they look like.
    assert_eq!(run["signs"]["millis"], 180_000, "{run}");
    let likelihood = run["likelihood"].as_f64().expect("a number");
    assert!((0.0..=1.0).contains(&likelihood) && run["class"].is_string(), "{run}");
    let rows = site.json("/api/v1/usage?accelerator=GPU-1").await["rows"].clone();
    assert_eq!((&rows[0]["signs"]["millis"], &rows[1]["signs"]["millis"]), (&json!(120_000), &json!(60_000)));
}

#[tokio::test]
async fn the_status_says_how_far_ledger_and_sums_have_come() {
    let site = Site::with_an_hour().await;
    let status = site.json("/api/v1/status").await;
    let ledger = &status["ledger"];
    assert_eq!(ledger["next_index"], ledger["durable"]["index"]);
    assert_eq!(ledger["folded"]["index"], ledger["durable"]["index"]);
    assert_eq!(ledger["store_generation"].as_str().map(str::len), Some(32));
    assert_eq!((&status["fault"], &status["ledger_open"]), (&Value::Null, &json!(true)));
    assert_eq!(status["method"], weighbridge_meter::estimate::METHOD);
    assert_eq!((&status["counts"]["accelerators"], &status["counts"]["customers"]), (&json!(1), &json!(2)));
    assert_eq!((&status["counts"]["principals_unmapped"], &status["counts"]["runs"]), (&json!(1), &json!(2)));
}
