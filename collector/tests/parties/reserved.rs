//! What customers reserve is compared with rules before a single operation ran.

use serde_json::{Value, json};
use weighbridge_casework::{Certainty, Finding};
use weighbridge_store::UsageStore;

use super::{entity, jane, put};
use crate::common::{Site, at};

const DAY: i64 = 24 * 60;

fn reservation(id: &str, customer: &str, count: u32) -> Value {
    json!({
        "id": id, "customer": customer, "model": "H100", "count": count,
        "from": "2026-04-01T00:00:00Z", "to": "2026-07-30T00:00:00Z",
    })
}

async fn tell(site: &Site, told: &Value) {
    let answer = site.call("POST", "/api/v1/statements/reservations", told, &[]).await;
    assert_eq!(answer.json()["recorded"], 1, "{}", answer.body);
}

/// What is raised by looking now: whose, and how sure.
async fn raised(site: &Site) -> Vec<Finding> {
    let judged = site.app.judge().await.expect("judges");
    assert!(site.app.judge().await.expect("judges").findings.is_empty(), "looking again raises nothing");
    judged.findings
}

fn whose(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|one| format!("{} {}", one.subject, one.certainty)).collect()
}

#[tokio::test]
async fn a_reservation_of_25_000_h100_for_120_days_could_result_on_the_day_it_is_entered() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    assert!(raised(&site).await.is_empty());

    site.sets(3 * DAY);
    tell(&site, &reservation("R-1", "P-1", 25_000)).await;
    let found = raised(&site).await;
    assert_eq!(whose(&found), ["customer:P-1 could_result"]);
    let [finding] = found.as_slice() else { panic!("one") };
    assert_eq!((finding.raised_at, finding.met_at), (at(3 * DAY), at(3 * DAY)));
    assert_eq!(finding.totals.bound.high().tera(), 0, "not a single operation ran");
    for said in
        ["reservation R-1 of 25000 H100", "from 2026-04-01T00:00:00Z to 2026-07-30T00:00:00Z", "1.50e26"]
    {
        assert!(finding.reason.contains(said), "{said}: {}", finding.reason);
    }
    assert!(!finding.reason.contains("Jane"), "{}", finding.reason);

    let case = site.json("/api/v1/cases/case-0001").await;
    assert_eq!((&case["certainty"], &case["state"]), (&json!("could_result"), &json!("open")));
    let clock = &case["clocks"][0];
    assert_eq!(clock["started_at"], json!(at(3 * DAY)), "{clock}");
    assert_eq!(case["findings"][0]["now"]["certainty"], "could_result");

    // It is on the pages in the same words, and after a restart it is known.
    assert!(site.get("/cases/case-0001").await.body.contains("reservation R-1 of 25000 H100"));
    let site = site.restarted().await;
    site.sets(40 * DAY);
    assert!(raised(&site).await.is_empty());
}

#[tokio::test]
async fn growth_is_raised_on_the_day_of_the_change_with_a_new_clock_and_what_shrinks_withdraws_nothing() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    tell(&site, &reservation("R-1", "P-1", 5_000)).await;
    assert!(raised(&site).await.is_empty());

    site.sets(DAY);
    tell(&site, &reservation("R-1", "P-1", 25_000)).await;
    let first = raised(&site).await;
    assert_eq!(whose(&first), ["customer:P-1 could_result"]);

    site.sets(10 * DAY);
    tell(&site, &reservation("R-1", "P-1", 24_000)).await;
    assert!(raised(&site).await.is_empty(), "it shrank");
    let kept = site.app.store.records("finding").await.unwrap().len();
    assert_eq!(kept, 1);

    site.sets(20 * DAY);
    tell(&site, &reservation("R-1", "P-1", 30_000)).await;
    let second = raised(&site).await;
    assert_eq!(whose(&second), ["customer:P-1 could_result"]);
    assert_ne!(first[0].id, second[0].id);
    assert_eq!(second[0].raised_at, at(20 * DAY));
    let case = site.json("/api/v1/cases/case-0001").await;
    let started: Vec<&Value> =
        case["clocks"].as_array().unwrap().iter().map(|clock| &clock["started_at"]).collect();
    assert_eq!(started, [&json!(at(DAY)), &json!(at(20 * DAY))], "{case}");

    // Nobody settled the first, and its clock runs on beside the new one.
    assert!(case["clocks"].as_array().unwrap().iter().all(|clock| clock["stopped_at"].is_null()));

    // Back to what was raised before: nothing is new. Grown once more: it is.
    site.sets(21 * DAY);
    tell(&site, &reservation("R-1", "P-1", 25_000)).await;
    assert!(raised(&site).await.is_empty());
    tell(&site, &reservation("R-1", "P-1", 31_000)).await;
    assert_eq!(raised(&site).await.len(), 1);
}

#[tokio::test]
async fn what_members_of_a_group_reserve_adds_up() {
    let site = Site::empty().await;
    put(&site, "P-1", &entity(Some("G-1"), false)).await;
    put(&site, "P-2", &entity(Some("G-1"), false)).await;
    tell(&site, &reservation("R-1", "P-1", 12_500)).await;
    assert!(raised(&site).await.is_empty());
    tell(&site, &reservation("R-2", "P-2", 12_500)).await;
    let found = raised(&site).await;
    assert_eq!(whose(&found), ["control_group:G-1 could_result"]);
    assert!(found[0].reason.contains("R-1") && found[0].reason.contains("R-2"), "{}", found[0].reason);
    assert_eq!(found[0].certainty, Certainty::CouldResult);
}
