//! What people do about a case, from the first look to a report that was corrected.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use axum::http::StatusCode;
use common::{Answer, IDENTITY, Site};
use serde_json::{Value, json};
use weighbridge_casework::RulePack;
use weighbridge_collector::proof::report_hash;
use weighbridge_store::UsageStore;

const CASE: &str = "/api/v1/cases/case-0001";

async fn with_a_case(more: &str) -> Site {
    let site = Site::with_an_hour_and(more).await;
    assert_eq!(site.app.judge().await.unwrap().opened, ["case-0001"]);
    site
}

async fn step(site: &Site, actor: &str, step: &Value) -> Answer {
    site.call("POST", &format!("{CASE}/steps"), &json!({ "actor": actor, "step": step }), &[]).await
}

async fn draft(site: &Site) -> Value {
    let asked = json!({ "actor": "ada", "reason": "to file it" });
    let made = site.call("POST", &format!("{CASE}/draft"), &asked, &[]).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    made.json()
}

async fn state(site: &Site) -> Value {
    site.json(CASE).await["state_in_words"].clone()
}

#[tokio::test]
async fn a_case_goes_from_the_first_look_to_a_corrected_report_and_every_step_stays() {
    let site = with_a_case("").await;
    let taken = async |site: &Site, what: Value, then: &str| {
        let taken = step(site, "ada", &what).await;
        assert_eq!(taken.status, StatusCode::OK, "{what}: {}", taken.body);
        assert_eq!(taken.json()["state_in_words"], then, "{what}");
    };
    taken(&site, json!({ "kind": "seen" }), "seen").await;
    let decided = json!({ "kind": "decided", "decision": "reportable", "reason": "it trained" });
    taken(&site, decided, "decided: reportable").await;

    let first = draft(&site).await;
    assert_eq!((&first["report"]["version"], &first["report"]["kind"]), (&json!(1), &json!("initial")));
    assert!(first["html"].as_str().unwrap().contains(IDENTITY[0]));
    let history = site.json(CASE).await["history"].clone();
    let drafted = history.as_array().unwrap().last().unwrap()["step"].clone();
    let hash = report_hash(&first["report"]);
    assert_eq!(drafted, json!({ "kind": "drafted", "version": 1, "report_sha256": hash }));
    assert_eq!(first["proof"]["report_sha256"], hash, "what is proved is what was drafted");

    site.sets(90);
    taken(&site, json!({ "kind": "filed", "version": 1, "reference": "BIS-7" }), "filed 1").await;
    let clock = site.json(CASE).await["clocks"][0].clone();
    assert_eq!((&clock["stopped_at"], &clock["overdue"]), (&json!("2026-03-02T09:30:00Z"), &json!(false)));

    let site = site.restarted().await;
    let found =
        json!({ "kind": "error_found", "what": "an hour was missing", "found_at": "2026-03-02T09:15:00Z" });
    taken(&site, found, "filed 1").await;
    let refused = step(&site, "ada", &json!({ "kind": "closed", "reason": "done" })).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "what is wrong is not corrected: {}", refused.body);
    let second = draft(&site).await;
    assert_eq!(
        (&second["report"]["version"], &second["report"]["kind"], &second["report"]["supersedes"]),
        (&json!(2), &json!("corrected"), &json!(1))
    );
    taken(&site, json!({ "kind": "corrected", "version": 2 }), "filed 2").await;
    let asked = json!({ "kind": "follow_up_requested", "question": "on which hosts" });
    taken(&site, asked, "filed 2").await;
    let third = draft(&site).await;
    assert_eq!(third["report"]["kind"], "follow_up");
    taken(&site, json!({ "kind": "corrected", "version": 3 }), "filed 3").await;
    taken(&site, json!({ "kind": "follow_up_answered" }), "filed 3").await;
    taken(&site, json!({ "kind": "closed", "reason": "acknowledged" }), "closed").await;
    taken(&site, json!({ "kind": "reopened", "reason": "a letter came" }), "open").await;

    let history = site.json(CASE).await["history"].clone();
    let site = site.restarted_after(|| ()).await;
    assert_eq!(site.json(CASE).await["history"], history);
    let kinds: Vec<_> =
        history.as_array().unwrap().iter().map(|event| event["step"]["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "opened",
            "finding_added",
            "seen",
            "decided",
            "drafted",
            "filed",
            "error_found",
            "drafted",
            "corrected",
            "follow_up_requested",
            "drafted",
            "corrected",
            "follow_up_answered",
            "closed",
            "reopened"
        ]
    );
    let page = site.get("/cases/case-0001").await.body;
    assert!(page.contains(&hash) && page.contains("an hour was missing"), "{page}");
}

#[tokio::test]
async fn a_step_that_does_not_fit_is_refused_by_name_and_changes_nothing() {
    let site = with_a_case("").await;
    let body = json!({ "actor": "ada", "step": { "kind": "seen" } }).to_string();
    for path in ["steps", "draft"] {
        let refused = site.post(&format!("{CASE}/{path}"), None, body.clone()).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    let decided = |reason: &str| json!({ "kind": "decided", "decision": "reportable", "reason": reason });
    for (what, status, says) in [
        (decided("it trained"), 409, "case case-0001: decided cannot follow in state \"open\""),
        (json!({ "kind": "filed", "version": 1 }), 409, "filed cannot follow"),
        (json!({ "kind": "opened" }), 422, "the body is not"),
        (json!({ "kind": "drafted", "version": 1 }), 422, "the body is not"),
        (decided(" "), 422, "reason: blank, expected some words in one line"),
        (decided("two\nlines"), 422, "reason: 9 bytes, or a control character"),
        (
            json!({ "kind": "error_found", "what": "x", "found_at": "2026-03-03T00:00:00Z" }),
            422,
            "found_at: 2026-03-03T00:00:00Z, expected a time that has passed",
        ),
    ] {
        let refused = step(&site, "ada", &what).await;
        assert_eq!(refused.status.as_u16(), status, "{what}: {}", refused.body);
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(says), "{what}: {detail}");
    }
    let nobody = step(&site, " ", &json!({ "kind": "seen" })).await;
    assert!(nobody.body.contains("actor: blank"), "{}", nobody.body);
    let early = json!({ "actor": "ada", "reason": "to file it" });
    let early = site.call("POST", &format!("{CASE}/draft"), &early, &[]).await;
    assert_eq!(early.status, StatusCode::CONFLICT, "nobody has decided: {}", early.body);
    let unknown = json!({ "actor": "ada", "step": { "kind": "seen" } });
    let unknown = site.call("POST", "/api/v1/cases/case-9/steps", &unknown, &[]).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(state(&site).await, "open");
    assert!(site.app.store.records("audit").await.unwrap().is_empty(), "nobody was looked at");
}

#[tokio::test]
async fn where_a_second_person_is_asked_for_nobody_carries_out_what_they_decided() {
    let site = with_a_case("[cases]\nsecond_person = true\n").await;
    let decided = json!({ "kind": "decided", "decision": "not_reportable", "reason": "it was inference" });
    let closed = json!({ "kind": "closed", "reason": "as decided" });
    step(&site, "ada", &json!({ "kind": "seen" })).await;
    step(&site, "ada", &decided).await;
    let refused = step(&site, "ada", &closed).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(
        refused.body.contains("ada decided, and the configuration asks for a second person"),
        "{}",
        refused.body
    );
    assert_eq!(step(&site, "kim", &closed).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_report_on_a_group_names_each_of_its_customers() {
    let mut site = Site::with_an_hour().await;
    let small = std::fs::read_to_string(site.folder().join("packs/small@1.toml")).unwrap();
    let scope = small.lines().find(|line| line.starts_with("scope")).unwrap();
    let group = small.replace(scope, "scope = [\"control_group\"]").replace("\"small\"", "\"group\"");
    site.config.packs.push((RulePack::parse("group@1.toml", &group).unwrap(), true));
    let site = site.restarted().await;
    site.app.judge().await.unwrap();
    let cases = site.json("/api/v1/cases").await["cases"].clone();
    let of_group = |case: &&Value| case["subject"] == "control_group:G-1";
    let case = cases.as_array().unwrap().iter().find(of_group).unwrap_or_else(|| panic!("{cases}"));
    let path = format!("/api/v1/cases/{}/report", case["id"].as_str().unwrap());
    let asked = json!({ "actor": "ada", "reason": "to file it" }).to_string();
    let report = site.post(&path, Some(&site.token()), asked).await.json();
    assert_eq!(
        report["fields"][0]["value"],
        json!(["C-1: Zanzibar Quux Holdings", "C-2: Zanzibar Quux Holdings jr"]),
        "{report}"
    );
    let looks = site.app.store.records("audit").await.unwrap();
    let keys: Vec<_> = looks.iter().map(|look| look.key.as_str()).collect();
    assert_eq!(keys, ["C-1", "C-2"], "each look is on record");
}
