//! An accelerator metered by its host and by the management controller: it counts once, and what both say is compared.

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use common::{Site, at};
use serde_json::json;
use weighbridge_collector::{app::App, import::Kind};
use weighbridge_meter::{Source, Tier, Trust, Window, window::Counter};
use weighbridge_wire::{Batch, DeviceRecord, SigningKey, seal::seal};

fn bmc_key() -> SigningKey {
    SigningKey::from_bytes(&[8; 32])
}

/// A minute of 16-bit matrix work on all pipes told apart, at so many per mille of the tensor pipes.
fn window(minute: i64, tensor: u64) -> Window {
    let mut one = common::window(minute);
    for (pipe, cycles) in [
        (Counter::TensorCycles, 60_000_000 * tensor),
        (Counter::HmmaCycles, 60_000_000 * tensor),
        (Counter::ImmaCycles, 0),
        (Counter::DfmaCycles, 0),
        (Counter::Fp64Cycles, 0),
        (Counter::Fp32Cycles, 0),
        (Counter::Fp16Cycles, 0),
        (Counter::IntegerCycles, 0),
        (Counter::ElapsedCycles, 60_000_000_000),
    ] {
        one.counters = one.counters.with(pipe, cycles);
    }
    one
}

fn host(minutes: std::ops::Range<i64>, tensor: u64) -> Batch {
    let windows = minutes.map(|minute| window(minute, tensor)).collect();
    Batch { inventory: vec![common::device()], windows, ..common::batch(1) }
}

fn bmc(minutes: std::ops::Range<i64>, tensor: u64) -> Batch {
    let of = |minute| Window { source: Source::Redfish, tier: Tier::C, ..window(minute, tensor) };
    let device = DeviceRecord {
        source: Source::Redfish,
        tier: Tier::C,
        trust: Trust::Bmc,
        sample_ms: 5_000,
        ..common::device()
    };
    Batch {
        agent: "agent-bmc".parse().expect("valid"),
        inventory: vec![device],
        windows: minutes.map(of).collect(),
        ..common::batch(1)
    }
}

/// What both sent, as of 09:15: the first hour is over and settled.
async fn site(host: &Batch, bmc: &Batch) -> Site {
    let site = Site::empty().await;
    let key = BASE64.encode(bmc_key().verifying_key().as_bytes());
    site.import(Kind::Agents, &common::agents()).await;
    let header = "agent,host,site,fabric,public_key,valid_from,valid_to,trust";
    let bmc_agent = format!("{header}\nagent-bmc,gpu-1,site,ib,{key},2026-01-01T00:00:00Z,,bmc\n");
    site.import(Kind::Agents, &bmc_agent).await;
    site.sets(75);
    for (batch, key) in [(host, common::key()), (bmc, bmc_key())] {
        let answer = site.submit(seal(batch, &key).expect("seals").bytes).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
    site.app.settled().await;
    site
}

#[tokio::test]
async fn a_host_that_says_little_of_what_its_controller_says_much_is_one_count_and_one_finding() {
    let site = site(&host(0..60, 20), &bmc(0..60, 800)).await;
    let rows = site.json("/api/v1/usage?accelerator=GPU-1").await["rows"].clone();
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    // 6e10 x 0.8 x 540 672 a minute, from the controller.
    assert_eq!((&rows[0]["best_tera"], &rows[0]["measured_ms"]), (&json!("1557120"), &json!(3_600_000)));

    let judged = site.app.judge().await.expect("judges");
    assert_eq!(judged.integrity.len(), 1, "{:?}", judged.integrity);
    assert!(judged.findings.is_empty() && judged.opened.is_empty(), "it is of no rule and opens no case");
    assert!(site.app.judge().await.expect("judges").integrity.is_empty(), "it is raised once");

    let integrity = site.json("/api/v1/integrity").await;
    assert_eq!((&integrity["hours_last_day"], &integrity["hours_total"]), (&json!(1), &json!(1)));
    let one = &integrity["disagreements"][0];
    assert_eq!(one["raised_at"], at(75).to_string());
    assert_eq!((&one["accelerator"], &one["hour"]), (&json!("GPU-1"), &json!(at(0).to_string())));
    assert_eq!(one["raised"], one["now"]);
    let said = &one["now"];
    assert_eq!(said["compared_ms"], 3_600_000);
    assert_eq!(
        (&said["counted"]["agent"], &said["counted"]["source"]),
        (&json!("agent-bmc"), &json!("redfish"))
    );
    assert_eq!((&said["witness"]["agent"], &said["witness"]["source"]), (&json!("agent-1"), &json!("nvml")));
    let tera = |value: &serde_json::Value| value.as_str().expect("text").parse::<u64>().expect("whole");
    assert!(tera(&said["witness"]["high_tera"]) < tera(&said["counted"]["low_tera"]));

    for path in ["/", "/fleet", "/accelerators/GPU-1"] {
        let page = site.get(path).await.body;
        assert!(page.contains("agent-bmc, redfish: ") && page.contains("agent-1, nvml: "), "{path}: {page}");
    }
    assert!(site.get("/").await.body.contains("1 accelerator hour in disagreement"));
    let metrics = site.get("/metrics").await.body;
    for line in [
        "weighbridge_collector_disagreements{period=\"last_day\"} 1",
        "weighbridge_collector_disagreements{period=\"all\"} 1",
        "weighbridge_collector_findings_of_integrity 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }

    // A day later it is no longer of the last day, but known.
    site.sets(60 * 26);
    let integrity = site.json("/api/v1/integrity").await;
    assert_eq!((&integrity["hours_last_day"], &integrity["hours_total"]), (&json!(0), &json!(1)));
    assert!(!site.get("/").await.body.contains("in disagreement"));
}

#[tokio::test]
async fn a_finding_of_integrity_survives_a_restart_and_is_not_raised_again() {
    let site = site(&host(0..60, 20), &bmc(0..60, 800)).await;
    site.app.judge().await.expect("judges");
    let before = site.app.casebook().integrity.clone();
    let config = site.config.clone();
    let folder = site.stop().await;
    let app = App::start(&config, std::sync::Arc::new(|| at(600))).await.expect("starts again");
    assert_eq!(app.casebook().integrity, before);
    assert!(app.judge().await.expect("judges").integrity.is_empty());
    drop(folder);
}

#[tokio::test]
async fn sources_that_agree_raise_nothing() {
    let site = site(&host(0..60, 400), &bmc(0..60, 420)).await;
    assert!(site.app.judge().await.expect("judges").integrity.is_empty());
    assert_eq!(site.json("/api/v1/integrity").await["disagreements"], json!([]));
    assert!(!site.get("/fleet").await.body.contains("Sources that disagree"));
}

#[tokio::test]
async fn a_witness_of_half_an_hour_is_compared_with_that_half() {
    // In the other half the controller saw far more than the host ever said.
    let mut controller = bmc(0..30, 20);
    controller.windows.extend(bmc(30..60, 900).windows);
    let agreeing = site(&host(0..30, 20), &controller).await;
    assert!(agreeing.app.judge().await.expect("judges").integrity.is_empty());
    let other_half = site(&host(30..60, 20), &controller).await;
    let raised = other_half.app.judge().await.expect("judges").integrity;
    assert_eq!(raised.len(), 1);
    assert_eq!(raised[0].said.compared_ms, 1_800_000);
}

#[tokio::test]
async fn an_hour_is_judged_when_what_agents_held_back_of_it_has_had_time_to_arrive() {
    let site = site(&host(0..60, 20), &bmc(0..60, 800)).await;
    site.sets(69);
    assert!(site.app.judge().await.expect("judges").integrity.is_empty());
    let one = site.json("/api/v1/integrity").await["disagreements"][0].clone();
    assert_eq!((&one["raised_at"], &one["raised"]), (&json!(null), &json!(null)), "but it is shown");
    site.sets(70);
    assert_eq!(site.app.judge().await.expect("judges").integrity.len(), 1);
}
