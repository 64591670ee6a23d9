//! What customers declare meets conditions of rules, and nobody sees it.

use serde_json::json;
use weighbridge_casework::RulePack;
use weighbridge_store::UsageStore;

use crate::common::Site;

/// A site with an hour of C-1, and the small pack once more under a condition that must be declared.
async fn site() -> Site {
    let mut site = Site::with_an_hour().await;
    let folder = site.config.packs_folder.clone().expect("one is configured");
    let text = std::fs::read_to_string(folder.join("small@1.toml")).expect("it is there");
    let condition = "[[rule.condition]]\nkind = \"declared\"\nwhat = \"biological_sequence_data\"\n\n";
    let text = text.replacen("id = \"small\"", "id = \"bio\"", 1).replacen(
        "[[rule.condition]]",
        &format!("{condition}[[rule.condition]]"),
        1,
    );
    let pack = RulePack::parse("bio@1.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    site.config.packs.push((pack, true));
    site.restarted().await
}

async fn declare(site: &Site, id: &str, biological: bool, signed_on: &str) {
    let told = json!({
        "id": id, "customer": "C-1", "purpose": "Planted purpose", "biological_sequence_data": biological,
        "signed_by": "Planted Signer", "signed_on": signed_on,
    });
    let answer = site.call("POST", "/api/v1/statements/declarations", &told, &[]).await;
    assert_eq!(answer.json()["recorded"], 1, "{}", answer.body);
}

/// Whose findings under the pack are raised by looking now.
async fn raised(site: &Site) -> Vec<String> {
    let findings = site.app.judge().await.expect("judges").findings;
    findings.iter().filter(|one| one.pack == "bio").map(|one| one.subject.to_string()).collect()
}

/// What the pages say of the customer under the pack.
async fn verdict(site: &Site) -> String {
    let shown = site.json("/api/v1/customers/C-1").await;
    let rules = shown["rules"].as_array().expect("rules").clone();
    let rule = rules.iter().find(|rule| rule["pack"] == "bio").expect("it is in use");
    rule["verdict"].as_str().expect("text").to_owned()
}

#[tokio::test]
async fn what_is_not_declared_is_unknown_and_what_is_meets_the_rule() {
    let site = site().await;
    assert!(raised(&site).await.is_empty());
    assert_eq!(verdict(&site).await, "not_known");
    declare(&site, "D-1", true, "2026-02-28").await;
    let found = raised(&site).await;
    assert!(found.contains(&"customer:C-1".to_owned()) && found.len() == 2, "and its run: {found:?}");
    assert_eq!(verdict(&site).await, "certain");
    for row in site.app.store.records("finding").await.unwrap() {
        assert!(!row.body.to_string().contains("Planted"), "{}", row.body);
    }
    assert!(site.app.store.records("audit").await.unwrap().is_empty(), "nobody looked");
}

#[tokio::test]
async fn the_newest_declaration_counts_and_one_that_contradicts_it_makes_it_unknown() {
    let site = site().await;
    declare(&site, "D-1", true, "2026-02-01").await;
    declare(&site, "D-2", false, "2026-02-02").await;
    assert!(raised(&site).await.is_empty());
    assert_eq!(verdict(&site).await, "not_met");
    declare(&site, "D-3", true, "2026-02-02").await;
    assert!(raised(&site).await.is_empty());
    assert_eq!(verdict(&site).await, "not_known");
    declare(&site, "D-4", true, "2026-02-03").await;
    assert_eq!(raised(&site).await.len(), 2);
}
