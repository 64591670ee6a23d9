//! Who stands behind whom, and which customers are one.

use axum::http::StatusCode;
use serde_json::{Value, json};
use weighbridge_collector::import::Kind;
use weighbridge_store::UsageStore;

use super::{entity, interest, jane, put};
use crate::common::{self, Site};

#[tokio::test]
async fn owners_are_worked_out_over_all_paths_and_what_is_not_known_is_said() {
    let site = Site::empty().await;
    for (id, no_account) in [("C-1", false), ("H-1", true), ("H-2", true)] {
        put(&site, id, &entity(None, no_account)).await;
    }
    put(&site, "P-1", &jane()).await;
    let interests = json!([
        interest("H-1", "C-1", "50"),
        interest("H-2", "C-1", "30"),
        interest("P-1", "H-1", "40"),
        interest("P-1", "H-2", "20"),
    ]);
    let dry = site.call("POST", "/api/v1/interests?dry_run=true", &interests, &[]).await.json();
    assert_eq!((&dry["rows"], &dry["recorded"]), (&json!(4), &json!(4)));
    assert_eq!(site.json("/api/v1/parties/C-1/behind").await["owners"], json!([]));
    let told = site.call("POST", "/api/v1/interests", &interests, &[]).await;
    assert_eq!(told.json()["recorded"], 4, "{}", told.body);
    let again = site.call("POST", "/api/v1/interests", &interests, &[]).await;
    assert_eq!(again.json()["recorded"], 0);

    let site = site.restarted().await;
    let behind = site.json("/api/v1/parties/C-1/behind").await;
    let owner = |id: &str| {
        let owners = behind["owners"].as_array().unwrap().iter();
        owners.clone().find(|owner| owner["party"] == id).unwrap_or_else(|| panic!("{behind}")).clone()
    };
    assert_eq!((&owner("P-1")["share"], &owner("P-1")["beneficial"]), (&json!(["26", "26"]), &json!("yes")));
    assert_eq!(owner("P-1")["us_person"], "foreign");
    assert_eq!(behind["unknown"], json!(["74", "74"]));
    assert_eq!(behind["unknown_reaches_line"], true);
}

#[tokio::test]
async fn an_interest_that_cannot_be_is_refused_by_name_and_changes_nothing() {
    let site = Site::empty().await;
    put(&site, "C-1", &entity(None, false)).await;
    put(&site, "P-1", &jane()).await;
    for (told, says) in [
        (json!([interest("C-1", "P-1", "10")]), "nobody holds a part of a person"),
        (json!([interest("X-1", "C-1", "10"), interest("P-1", "C-1", "10")]), "party X-1 is not known"),
        (json!([{ "owner": "P-1", "asset": "C-1", "kind": "love" }]), "the body is not a list of interests"),
    ] {
        let refused = site.call("POST", "/api/v1/interests", &told, &[]).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(refused.body.contains(says), "{}", refused.body);
    }
    assert_eq!(site.json("/api/v1/parties/C-1/behind").await["interests"], json!([]));
}

#[tokio::test]
async fn customers_of_one_owner_are_one_group_with_one_total_and_a_name_goes_on_to_mean_it() {
    let site = Site::with_an_hour().await;
    let before = site.json("/api/v1/groups/G-1").await;
    put(&site, "C-3", &entity(Some("A-1"), false)).await;
    put(&site, "C-4", &entity(Some("A-1"), false)).await;
    put(&site, "H-1", &entity(None, true)).await;
    site.call(
        "POST",
        "/api/v1/interests",
        &json!([interest("H-1", "C-1", "60"), interest("H-1", "C-3", "75")]),
        &[],
    )
    .await;
    let groups = site.json("/api/v1/groups").await;
    assert_eq!(groups["subjects"].as_array().unwrap().len(), 1, "{groups}");
    let merged = site.json("/api/v1/groups/A-1").await;
    assert_eq!(merged["members"], json!(["C-1", "C-2", "C-3", "C-4"]));
    assert_eq!(merged["total"], before["total"], "the others used nothing");
    // Cases and links that name it find the whole.
    let former = site.json("/api/v1/groups/G-1").await;
    assert_eq!((&former["total"], &former["members"]), (&merged["total"], &merged["members"]));
    assert_eq!(site.json("/api/v1/customers/C-1").await["control_group"], "A-1");
}

#[tokio::test]
async fn what_a_person_confirmed_joins_customers_and_is_undone_again() {
    let site = Site::with_an_hour().await;
    put(&site, "C-3", &entity(None, false)).await;
    let decide = |decision: &str| json!({ "one": "C-3", "other": "C-1", "decision": decision, "actor": "ada", "reason": "one card" });
    for (decision, members) in [("confirmed", 3), ("undone", 2), ("confirmed", 3), ("rejected", 2)] {
        let done = site.call("POST", "/api/v1/links", &decide(decision), &[]).await;
        assert_eq!(done.status, StatusCode::OK, "{}", done.body);
        let group = site.json("/api/v1/groups/G-1").await;
        assert_eq!(group["members"].as_array().unwrap().len(), members, "{decision}: {group}");
    }
    assert_eq!(site.app.store.records("group_link").await.unwrap().len(), 4, "each is on record");
    let site = site.restarted().await;
    assert_eq!(
        site.get("/api/v1/links").await.status,
        StatusCode::UNAUTHORIZED,
        "a reason may name somebody"
    );
    let links = site.call("GET", "/api/v1/links", &Value::Null, &[]).await.json();
    assert_eq!(links[0]["decision"], "rejected");
    let mut nobody = decide("confirmed");
    nobody["other"] = json!("X-1");
    assert_eq!(site.call("POST", "/api/v1/links", &nobody, &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_customers_share_is_proposed_until_a_person_decides() {
    let site = Site::empty().await;
    let customer = |email: &str, pays: &str, standing: Value| {
        json!({
            "standing": standing,
            "party": {
                "kind": "entity", "names": [{ "kind": "legal", "full": "Some Entity" }],
                "emails": [email], "payments": [{ "source": pays }],
            },
        })
    };
    let closed = json!({ "opened": "2025-01-01T00:00:00Z", "closed": "2026-02-01T00:00:00Z" });
    put(&site, "C-1", &customer("a@gmail.com", "wallet 1", closed)).await;
    put(&site, "C-2", &customer("b@gmail.com", "wallet 1", json!({ "opened": "2026-02-10T00:00:00Z" })))
        .await;
    put(&site, "C-3", &customer("c@gmail.com", "wallet 3", json!({}))).await;
    let proposals = site.json("/api/v1/proposals").await["proposals"].clone();
    assert_eq!(
        proposals,
        json!([{ "sign": "payment_source", "parties": ["C-1", "C-2"], "values": 1, "replaced": [["C-1", "C-2"]] }]),
        "a domain at which anybody can have an address is no sign"
    );
    let decide = |decision: &str| json!({ "one": "C-2", "other": "C-1", "decision": decision, "actor": "ada", "reason": "asked" });
    for (decision, left) in [("rejected", 0), ("undone", 1), ("confirmed", 0)] {
        site.call("POST", "/api/v1/links", &decide(decision), &[]).await;
        let proposals = site.json("/api/v1/proposals").await["proposals"].clone();
        assert_eq!(proposals.as_array().unwrap().len(), left, "{decision}: {proposals}");
    }
    assert_eq!(site.json("/api/v1/parties/C-2").await["group"], "@C-1");
}

#[tokio::test]
async fn what_cannot_be_beside_what_was_told_of_a_party_is_refused_and_takes_no_group_away() {
    let site = Site::with_an_hour().await;
    put(&site, "C-3", &entity(None, false)).await;
    put(&site, "C-4", &entity(None, false)).await;
    site.call("POST", "/api/v1/interests", &json!([interest("C-3", "C-4", "60")]), &[]).await;
    let mut person = entity(None, false);
    person["party"]["kind"] = json!("person");
    let refused = put(&site, "C-4", &person).await;
    assert!(refused.body.contains("kind is person, but interest"), "{}", refused.body);
    let header = common::CUSTOMERS.lines().next().unwrap();
    let csv = format!("{header}\nC-4,person,us,,Some Body,,,,,,,\n");
    let refused = site.app.import(Kind::Customers, "customers.csv", csv.as_bytes()).await.unwrap_err();
    assert!(refused.to_string().contains("customers.csv: party C-4: kind is person"), "{refused}");

    // A file cannot call a group as those are called that are worked out.
    let refused = put(&site, "C-5", &entity(Some("@C-3"), false)).await;
    assert!(refused.body.contains("control_group begins with @"), "{}", refused.body);

    // Who uses something has an account: what it used would be missing in its group.
    let used = "principal,customer,valid_from,valid_to\nlease:site/two,C-4,2026-03-01T00:00:00Z,\n";
    site.import(Kind::Principals, used).await;
    let refused = put(&site, "C-4", &entity(None, true)).await;
    assert!(refused.body.contains("no_account, but principals are mapped"), "{}", refused.body);
    put(&site, "H-1", &entity(None, true)).await;
    let owner = "principal,customer,valid_from,valid_to\nlease:site/x,H-1,2026-03-01T00:00:00Z,\n";
    let refused = site.app.import(Kind::Principals, "p.csv", owner.as_bytes()).await.unwrap_err();
    assert!(refused.to_string().contains("H-1 has no account"), "{refused}");

    let group = site.json("/api/v1/groups/@C-3").await;
    assert_eq!(group["members"], json!(["C-3", "C-4"]));
    assert_ne!(group["total"]["held_ms"], 0);
    // It gets a name: the one before goes on to mean it.
    put(&site, "C-3", &entity(Some("N-1"), false)).await;
    for name in ["N-1", "@C-3", "@C-4"] {
        let named = site.json(&format!("/api/v1/groups/{name}")).await;
        let (held, members) = (&group["total"]["held_ms"], &group["members"]);
        assert_eq!((&named["total"]["held_ms"], &named["members"]), (held, members), "{name}");
    }
}

#[tokio::test]
async fn a_ring_of_accounts_on_one_card_is_proposed_and_what_strangers_share_is_named_as_common() {
    let site = Site::empty().await;
    let record = |number: u32| {
        let party = json!({
            "kind": "entity", "names": [{ "kind": "legal", "full": "Some Entity" }],
            "payments": [{ "source": "wallet 1" }], "emails": [format!("a{number}@one.example")],
        });
        json!({ "id": format!("C-{number:02}"), "party": party }).to_string()
    };
    let records: Vec<String> = (0..30).map(record).collect();
    site.import(Kind::Parties, &records.join("\n")).await;
    let found = site.json("/api/v1/proposals").await;
    let proposal = &found["proposals"][0];
    assert_eq!(proposal["sign"], "payment_source", "{found}");
    assert_eq!(proposal["parties"].as_array().unwrap().len(), 30);
    assert_eq!(
        found["too_common"]["domain"],
        json!({ "values": 1, "most": [{ "parties": 30, "one": "C-00" }] })
    );
}

#[tokio::test]
async fn measures_on_those_behind_a_customer_are_shown_and_what_they_hold_together_counts() {
    let site = Site::empty().await;
    for id in ["C-1", "C-2", "H-1", "H-2", "H-3"] {
        put(&site, id, &entity(None, id.starts_with('H'))).await;
    }
    put(&site, "P-1", &jane()).await;
    put(&site, "P-2", &jane()).await;
    let mut controls = interest("H-3", "C-2", "0");
    controls["kind"] = json!("other_control");
    controls.as_object_mut().unwrap().remove("share");
    let mut over = controls.clone();
    (over["owner"], over["asset"]) = (json!("P-2"), json!("H-3"));
    let told = json!([
        interest("P-1", "H-1", "30"),
        interest("P-2", "H-1", "20"),
        interest("H-1", "C-1", "50"),
        interest("H-2", "C-2", "10"),
        controls,
        over,
    ]);
    let told = site.call("POST", "/api/v1/interests", &told, &[]).await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.body);
    let behind = async |id: &str| site.json(&format!("/api/v1/parties/{id}/behind")).await;
    assert_eq!(behind("C-2").await["control"], json!(["H-3", "P-2"]), "over others too");
    assert_eq!(
        (&behind("C-2").await["nobody_named"], &behind("H-3").await["nobody_named"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(behind("H-2").await["nobody_named"], true);

    let measure = |id: &str, person: &str, ends: &str| {
        json!({
            "id": id, "person": person, "effect": "prohibit", "determined": "2026-01-01T00:00:00Z",
            "implement_by": "2026-01-31T00:00:00Z", "ends": ends, "citation": "1 FR 1",
        })
    };
    let path = "/api/v1/statements/special-measures";
    let one = site.call("POST", path, &measure("M-1", "P-1", "2027-01-01T00:00:00Z"), &[]).await;
    assert_eq!(one.status, StatusCode::OK, "{}", one.body);
    let shown = behind("C-1").await;
    assert_eq!(
        (&shown["measures"][0]["id"], &shown["held_by_measured"]),
        (&json!("M-1"), &json!("no")),
        "{shown}"
    );
    site.call("POST", path, &measure("M-2", "P-2", "2027-01-01T00:00:00Z"), &[]).await;
    assert_eq!(behind("C-1").await["held_by_measured"], "yes", "30 and 20 of what holds 50");
    assert_eq!(behind("C-2").await["measures"][0]["id"], "M-2", "who controls it");
    let page = site.get("/customers/C-1").await.body;
    assert!(page.contains("held by persons under a measure"), "{page}");
    site.call("POST", path, &measure("M-2", "P-2", "2026-02-01T00:00:00Z"), &[]).await;
    assert_eq!(behind("C-1").await["held_by_measured"], "no", "one that has ended counts no more");
}

#[tokio::test]
async fn what_may_be_much_and_may_be_little_joins_and_is_said_to_be_only_possible() {
    let site = Site::with_an_hour().await;
    for id in ["C-3", "C-4"] {
        put(&site, id, &entity(None, false)).await;
    }
    put(&site, "F-1", &entity(None, true)).await;
    let holds = |asset: &str| json!({ "owner": "F-1", "asset": asset, "kind": "shareholding" });
    let votes = json!({ "owner": "F-1", "asset": "C-4", "kind": "voting_rights" });
    let told = json!([holds("C-3"), holds("C-4"), votes]);
    site.call("POST", "/api/v1/interests", &told, &[]).await;
    let group = site.json("/api/v1/groups/@C-3").await;
    let because = group["group"]["because"].as_array().unwrap_or_else(|| panic!("{group}"));
    assert_eq!(because.len(), 3, "{group}");
    assert!(because.iter().all(|one| one["only_possible"] == true), "{group}");
    let behind = site.json("/api/v1/parties/C-4/behind").await;
    assert_eq!((&behind["control"], &behind["possible_control"]), (&json!([]), &json!(["F-1"])));
    let page = site.get("/groups/@C-3").await.body;
    assert!(page.contains("possible: how much was not told, or not exactly"), "{page}");
    assert!(site.get("/customers/C-4").await.body.contains("possible"), "its page says so too");

    // Once it is told, it is sure, or no link at all.
    let mut sure = interest("F-1", "C-3", "60");
    site.call("POST", "/api/v1/interests", &json!([sure]), &[]).await;
    sure = interest("F-1", "C-4", "55");
    site.call("POST", "/api/v1/interests", &json!([sure]), &[]).await;
    let group = site.json("/api/v1/groups/@C-3").await;
    assert!(
        group["group"]["because"].as_array().unwrap().iter().all(|one| one["only_possible"].is_null()),
        "{group}"
    );
}
