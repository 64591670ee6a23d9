//! What the API does and refuses: imports, reports, identities, health.

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use axum::http::StatusCode;
use common::{CUSTOMERS, IDENTITY, Site};
use serde_json::{Value, json};
use weighbridge_meter::estimate::METHOD;
use weighbridge_store::UsageStore;

/// A case of C-1 under the small pack.
async fn with_a_case() -> Site {
    let site = Site::with_an_hour().await;
    let judged = site.app.judge().await.expect("judges");
    assert_eq!(judged.opened, ["case-0001"]);
    site
}

#[tokio::test]
async fn a_case_has_its_findings_its_history_and_a_clock_that_runs() {
    let site = with_a_case().await;
    site.sets(61 + 60);
    let case = site.json("/api/v1/cases/case-0001").await;
    assert_eq!((&case["state"], &case["subject"]), (&json!("open"), &json!("customer:C-1")));
    assert_eq!(case["statement"], "customer:C-1 meets the criteria of the proposed small rule");
    let clock = &case["clocks"][0];
    assert_eq!(clock["started_at"], "2026-03-02T09:01:00Z");
    // Fifteen days of New York, where the clocks go forward on 8 March.
    assert_eq!(clock["due"], "2026-03-17T08:01:00Z");
    assert_eq!(clock["remaining_ms"], 15 * 86_400_000_i64 - 2 * 3_600_000);
    let finding = &case["findings"][0];
    assert_eq!((&finding["certainty"], &finding["now"]["certainty"]), (&json!("certain"), &json!("certain")));
    assert_eq!(finding["totals"]["bound"]["best_tera"], "1978840", "as it was when it was raised");
    assert_ne!(finding["now"]["totals"]["bound"]["best_tera"], "1978840", "the gap has grown since");
    assert_eq!(case["history"][0]["step"]["kind"], "opened");
    let cases = site.json("/api/v1/cases").await["cases"].clone();
    assert_eq!((&cases[0]["id"], &cases[0]["certainty"]), (&json!("case-0001"), &json!("certain")));
    let findings = site.json("/api/v1/findings").await["findings"].clone();
    let of_customer = |finding: &&Value| finding["subject"] == "customer:C-1" && finding["pack"] == "small";
    let found = findings.as_array().expect("a list").iter().find(of_customer).expect("raised");
    assert_eq!(found["case"], "case-0001");
}

#[tokio::test]
async fn a_report_is_masked_for_everybody() {
    let site = with_a_case().await;
    let report = site.json("/api/v1/cases/case-0001/report").await;
    assert_eq!(report["fields"][0]["value"], Value::Null);
    let page = site.get("/api/v1/cases/case-0001/report?format=html").await;
    assert!(page.header("content-type").starts_with("text/html"));
    for value in IDENTITY {
        assert!(!report.to_string().contains(value) && !page.body.contains(value), "{value}");
    }
    assert!(site.app.store.records("audit").await.expect("readable").is_empty(), "nobody looked");
}

#[tokio::test]
async fn an_identity_is_opened_with_the_token_a_name_and_a_reason_and_the_look_is_recorded() {
    let site = with_a_case().await;
    let path = "/api/v1/cases/case-0001/report";
    let look = json!({ "actor": "ada", "reason": "to fill the report" }).to_string();
    for token in [None, Some("wrong")] {
        let refused = site.post(path, token, look.clone()).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.header("www-authenticate"), "Bearer");
        assert_eq!(refused.header("content-type"), "application/problem+json");
    }
    let token = site.token();
    for body in ["", "{}", r#"{"actor":"ada"}"#, r#"{"actor":"ada","reason":" "}"#, r#"{"masked":false}"#] {
        let refused = site.post(path, Some(&token), body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {}", refused.body);
    }
    assert!(site.app.store.records("audit").await.expect("readable").is_empty());
    let opened = site.post(path, Some(&token), look.clone()).await;
    assert_eq!(opened.json()["fields"][0]["value"], "Zanzibar Quux Holdings");
    assert_eq!(opened.header("cache-control"), "no-store");
    let looks = site.app.store.records("audit").await.expect("readable");
    assert_eq!(
        (&looks[0].body["actor"], &looks[0].body["reason"]),
        (&json!("ada"), &json!("to fill the report"))
    );
    let both = site.post(&format!("{path}?format=both"), Some(&token), look).await.json();
    assert_eq!(both["report"]["fields"][1]["value"], "17 Rue Imaginaire");
    let html = both["html"].as_str().expect("text");
    assert!(html.contains("17 Rue Imaginaire") && html.contains("<style>"), "a document of its own");
    assert_eq!(site.app.store.records("audit").await.expect("readable").len(), 2, "one request is one look");
    let masked = site.post(path, Some(&token), r#"{"masked":true}"#).await;
    assert_eq!(masked.json()["fields"][0]["value"], Value::Null);
}

#[tokio::test]
async fn an_import_needs_the_token_and_tells_every_line_that_is_wrong() {
    let site = Site::empty().await;
    let path = "/api/v1/import/customers?file=mine.csv";
    assert_eq!(site.post(path, None, CUSTOMERS).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(site.post(path, Some("wrong"), CUSTOMERS).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(site.json("/api/v1/customers").await["subjects"], json!([]));
    let token = site.token();
    let done = site.post(path, Some(&token), CUSTOMERS).await;
    assert_eq!(done.json(), json!({ "rows": 2, "recorded": 2 }));
    let again = site.post(path, Some(&token), CUSTOMERS).await;
    assert_eq!(again.json(), json!({ "rows": 2, "recorded": 0 }));
    let wrong =
        "principal,customer,valid_from,valid_to\nnobody,C-1,2026-03-01T00:00:00Z,\nlease:site/x,C-1,soon,\n";
    let refused = site.post("/api/v1/import/principals?file=p.csv", Some(&token), wrong).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let errors = refused.json()["errors"].clone();
    assert_eq!(errors.as_array().map(Vec::len), Some(2), "{errors}");
    assert!(errors[0].as_str().is_some_and(|line| line.starts_with("p.csv:2: principal:")), "{errors}");
    let unknown = "principal,customer,valid_from,valid_to\nlease:site/x,C-9,2026-03-01T00:00:00Z,\n";
    let refused = site.post("/api/v1/import/principals", Some(&token), unknown).await;
    assert!(
        refused.json()["errors"][0].as_str().is_some_and(|line| line.contains("C-9")),
        "{}",
        refused.body
    );
    assert_eq!(site.post("/api/v1/import/wishes", Some(&token), "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_refused_file_of_customers_repeats_nothing_of_it() {
    let site = Site::empty().await;
    let broken = CUSTOMERS.replace(",entity,foreign,", ",foreign,Zanzibar Quux Holdings,");
    let refused = site.post("/api/v1/import/customers", Some(&site.token()), broken).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(!refused.json()["errors"].as_array().expect("a list").is_empty());
    assert!(IDENTITY.iter().all(|value| !refused.body.contains(value)), "{}", refused.body);
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_for_programs() {
    let site = Site::with_an_hour().await;
    for path in [
        "/api/v1/nothing",
        "/api/v1/customers/C-9",
        "/api/v1/customers/C-9/hours",
        "/api/v1/groups/G-9",
        "/api/v1/unmapped/lease%3Asite%2Fone",
        "/api/v1/runs/L-9",
        "/api/v1/cases/case-9",
        "/api/v1/cases/case-9/report",
    ] {
        let answer = site.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        assert_eq!(answer.json()["status"], 404, "{path}");
    }
    let answer = site.post("/api/v1/customers", None, "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.header("content-type"), "application/problem+json");
}

#[tokio::test]
async fn packs_say_what_each_instrument_is_today_and_who_says_so() {
    let site = Site::empty().await;
    let packs = site.json("/api/v1/packs").await["packs"].clone();
    let packs = packs.as_array().expect("a list");
    let pack = |id: &str| packs.iter().find(|pack| pack["id"] == id).expect("shipped");
    let revoked = pack("us-eo14110");
    assert_eq!((&revoked["status"]["value"], &revoked["evaluated"]), (&json!("revoked"), &json!(false)));
    assert_eq!(revoked["status"]["confidence"], "secondary");
    assert_eq!(pack("small")["status"]["source"], "a gazette");
    assert_eq!(pack("small")["rules"][0]["condition"][0]["threshold"], "1e16");
}

#[tokio::test]
async fn a_collector_that_follows_its_ledger_is_healthy_and_ready() {
    let site = Site::empty().await;
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(site.get(path).await.status, StatusCode::OK, "{path}");
    }
}

/// Value of a line of the text format.
fn gauge(text: &str, line: &str) -> Option<f64> {
    text.lines().find_map(|other| other.strip_prefix(line)?.trim().parse().ok())
}

#[tokio::test]
async fn metrics_say_the_same_as_the_api() {
    let site = with_a_case().await;
    site.sets(61 + 24 * 60);
    let answer = site.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    let is = |line: &str, value: f64| {
        assert_eq!(
            gauge(&answer.body, &format!("weighbridge_collector_{line}")),
            Some(value),
            "{line}\n{}",
            answer.body
        );
    };
    is("accelerator_seconds{cause=\"\",coverage=\"measured\"}", 180.0);
    is("accelerator_seconds{cause=\"silent\",coverage=\"gap\"}", f64::from((58 + 24 * 60) * 60));
    is("accelerator_held_seconds{state=\"attributed\"}", f64::from(2 * 60 * 60));
    is("accelerator_held_seconds{state=\"disputed\"}", 0.0);
    is("accelerators{tier=\"B\"}", 1.0);
    is("accelerators{tier=\"A\"}", 0.0);
    is("customers", 2.0);
    is("unmapped_principals", 1.0);
    is("customer_teraoperations{bound=\"low\",customer=\"C-1\"}", 46_227.0);
    is("findings{certainty=\"certain\",pack=\"small\",rule=\"small\"}", 2.0);
    is("open_cases", 1.0);
    is("next_clock_due_seconds", 14.0 * 86_400.0 - 3_600.0);
    is("silent_hosts", 1.0);
    is("agents{state=\"silent\"}", 1.0);
    is("agents{state=\"reporting\"}", 0.0);
    is("ready", 1.0);
    is("batches_total{outcome=\"accepted\"}", 2.0);
    is("windows_total", 3.0);
    let stage =
        |stage| gauge(&answer.body, &format!("weighbridge_collector_ledger_entries{{stage=\"{stage}\"}}"));
    assert!(stage("appended").is_some_and(|entries| entries > 5.0));
    assert_eq!(stage("appended"), stage("folded"));
    assert!(answer.body.contains(&format!("weighbridge_collector_build_info{{method=\"{METHOD}\"")));
    assert!(IDENTITY.iter().all(|value| !answer.body.contains(value)));
}

#[tokio::test]
async fn no_clock_is_no_gauge_and_not_a_zero() {
    let site = Site::empty().await;
    let text = site.get("/metrics").await.body;
    assert!(!text.contains("next_clock_due_seconds"));
    assert!(text.contains("weighbridge_collector_open_cases 0"));
}
