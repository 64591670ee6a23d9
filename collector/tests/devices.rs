//! How devices are read, when they are there, and what makes their readings worse than they could be.

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use axum::http::StatusCode;
use common::{Site, at};
use serde_json::json;
use weighbridge_collector::import::Kind;
use weighbridge_meter::{AcceleratorId, Condition, Gap, GapCause, Tier, Window};
use weighbridge_wire::{Batch, DeviceRecord, seal::seal};

/// With one batch of the agent on gpu-1, as of so many minutes.
async fn site(batch: &Batch, minutes: i64) -> Site {
    let site = Site::empty().await;
    site.import(Kind::Agents, &common::agents()).await;
    // Nothing is sent before it was measured.
    site.sets(minutes);
    let answer = site.submit(seal(batch, &common::key()).expect("seals").bytes).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    site.app.settled().await;
    site
}

fn id(name: &str) -> AcceleratorId {
    name.parse().expect("valid")
}

#[tokio::test]
async fn a_gpu_in_mig_mode_has_no_gap_while_its_instances_are_metered() {
    let gone =
        DeviceRecord { at: at(10), present: false, conditions: vec![Condition::Split], ..common::device() };
    let back = DeviceRecord { at: at(40), conditions: Vec::new(), ..common::device() };
    let instance = |present, minute| DeviceRecord {
        accelerator: id("MIG-1"),
        at: at(minute),
        present,
        parent: Some(common::accelerator()),
        units: Some(60),
        ..common::device()
    };
    let of_instance = |minute| Window { accelerator: id("MIG-1"), ..common::window(minute) };
    let batch = Batch {
        inventory: vec![common::device(), gone, instance(true, 10), instance(false, 40), back],
        windows: (0..10)
            .map(common::window)
            .chain((10..40).map(of_instance))
            .chain((40..50).map(common::window))
            .collect(),
        ..common::batch(1)
    };
    let site = site(&batch, 50).await;
    let fleet = site.json("/api/v1/fleet").await;
    let minutes = |minutes: u64| json!(minutes * 60_000);
    let of = |name: &str| {
        let all = fleet["accelerators"].as_array().expect("a list");
        all.iter().find(|one| one["id"] == name).expect("there").clone()
    };
    let (whole, part) = (of("GPU-1"), of("MIG-1"));
    assert_eq!((&whole["time"]["wall_ms"], &whole["time"]["measured_ms"]), (&minutes(20), &minutes(20)));
    assert_eq!((&whole["time"]["gap_ms"], &whole["removed_at"]), (&json!({}), &json!(null)));
    assert_eq!(whole["absences"], json!([[at(10).to_string(), at(40).to_string()]]));
    assert_eq!((&whole["parts"], &whole["conditions"]), (&json!(["MIG-1"]), &json!([])));
    assert_eq!((&part["time"]["wall_ms"], &part["removed_at"]), (&minutes(30), &json!(at(40).to_string())));
    assert_eq!((&part["parent"], &part["units"]), (&json!("GPU-1"), &json!(60)));
    assert_eq!(fleet["totals"]["time"]["gap_ms"], json!({}), "nobody looked away");

    let page = site.get("/accelerators/GPU-1").await.body;
    assert!(
        page.contains("2026-03-02 08:10 UTC") && page.contains("Time in which it was not there is no gap")
    );
    assert!(site.get("/host?name=gpu-1").await.body.contains("60 units, part of "));
}

#[tokio::test]
async fn parts_of_one_device_show_one_of_those_that_a_lease_counts() {
    let instance = |name: &str| DeviceRecord {
        accelerator: id(name),
        parent: Some(common::accelerator()),
        units: Some(16),
        ..common::device()
    };
    let batch = Batch { inventory: vec![instance("MIG-1"), instance("MIG-2")], ..common::batch(1) };
    let site = site(&batch, 60).await;
    let lease = "L-1,gpu-1,2x10de:2330,lease:site/one,2026-03-02T08:00:00Z,2026-03-02T10:00:00Z\n";
    site.import(Kind::Leases, &format!("lease,host,accelerator,principal,start,end\n{lease}")).await;
    let run = site.json("/api/v1/runs/L-1").await["attempts"][0].clone();
    assert_eq!((&run["never_seen"], &run["devices"]), (&json!(1), &json!(3)), "{run}");
    assert_eq!(run["total"]["never_seen_ms"], 3_600_000);
    assert_eq!(run["models"], json!({ "H100 SXM5": 1, "part of H100 SXM5": 2 }));
}

#[tokio::test]
async fn each_condition_says_what_it_is_and_what_to_do() {
    let devices = Condition::ALL.iter().map(|condition| DeviceRecord {
        accelerator: id(&format!("GPU-{condition}")),
        tier: Tier::D,
        sample_ms: 5_000,
        conditions: vec![*condition],
        ..common::device()
    });
    let mut inventory: Vec<_> = devices.collect();
    // Better news: the last word counts, and changes no estimate.
    inventory.push(common::device());
    let worse = DeviceRecord {
        at: at(1),
        tier: Tier::D,
        conditions: vec![Condition::StreamingOff],
        ..common::device()
    };
    inventory.push(worse);
    inventory.push(DeviceRecord { at: at(2), ..common::device() });
    let site = site(&Batch { inventory, ..common::batch(1) }, 3).await;
    let fleet = site.json("/api/v1/fleet").await;
    for one in fleet["accelerators"].as_array().expect("a list") {
        let name = one["id"].as_str().expect("text");
        if name == "GPU-1" {
            assert_eq!((&one["tier"], &one["conditions"]), (&json!("B"), &json!([])));
            continue;
        }
        assert_eq!((&one["tier"], &one["sample_ms"]), (&json!("D"), &json!(5_000)));
        let condition = &one["conditions"][0];
        assert_eq!(format!("GPU-{}", condition["condition"].as_str().expect("text")), name);
        let (means, to_do) =
            (condition["means"].as_str().expect("text"), condition["to_do"].as_str().expect("text"));
        assert!(!means.is_empty() && !to_do.is_empty());
        let page = site.get(&format!("/accelerators/{name}")).await.body.replace("&#39;", "'");
        assert!(page.contains(means) && page.contains(to_do) && page.contains("every 5 s"), "{page}");
        assert!(site.get("/fleet").await.body.contains(to_do));
        let gauge = format!(
            "weighbridge_collector_accelerators_in_condition{{condition=\"{}\"}} 1",
            condition["condition"].as_str().expect("text")
        );
        assert!(site.get("/metrics").await.body.contains(&gauge), "{gauge}");
    }
    let metrics = site.get("/metrics").await.body;
    assert!(metrics.contains("weighbridge_collector_accelerators{tier=\"D\"} 11"), "{metrics}");
    let today = site.get("/").await.body;
    assert!(today.contains("GPM streaming was switched off on this host"), "{today}");
}

#[tokio::test]
async fn a_device_given_to_a_virtual_machine_is_not_observed_and_never_idle() {
    let device =
        DeviceRecord { tier: Tier::E, conditions: vec![Condition::PassedThrough], ..common::device() };
    let gap = Gap {
        accelerator: common::accelerator(),
        span: weighbridge_meter::Span::new(at(0), at(60)).expect("an hour"),
        boot_start_ms: 1,
        cause: GapCause::PassedThrough,
    };
    let site = site(&Batch { inventory: vec![device], gaps: vec![gap], ..common::batch(1) }, 60).await;
    let one = site.json("/api/v1/fleet").await["accelerators"][0].clone();
    assert_eq!(
        (&one["observed"], &one["time"]["gap_ms"]),
        (&json!(false), &json!({ "passed_through": 3_600_000 }))
    );
    assert_eq!(one["time"]["held_ms"], json!({ "unattributed": 3_600_000 }), "neither free nor idle");
    let host = site.get("/host?name=gpu-1").await.body;
    assert!(host.contains("not observed") && host.contains("gap: passed through"), "{host}");
    let page = site.get("/accelerators/GPU-1").await.body;
    assert!(page.contains("Nothing was measured, which is not idleness.") && !page.contains("but idleness"));
}
