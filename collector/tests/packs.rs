//! Packs of the operator over a running collector: what is recorded of them, and what a new version does.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use std::sync::Arc;

use common::{Site, at, pack_key, signed_pack};
use serde_json::{Value, json};
use weighbridge_collector::{
    app::{App, StartError},
    config::{Config, Flags, parse},
};
use weighbridge_store::UsageStore;

/// The small pack of the test site, as it lies in the folder.
fn small(site: &Site) -> String {
    std::fs::read_to_string(site.folder().join("packs/small@1.toml")).unwrap()
}

/// The same as the next version, with other changes.
fn second(site: &Site, changes: &[(&str, &str)]) -> String {
    let mut text = small(site);
    for (from, to) in [("version = \"1\"", "version = \"2\"")].iter().chain(changes) {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    text
}

/// The configuration of a site, read again from its folder.
fn read_again(site: &Site) -> Config {
    let path = |name: &str| format!("{:?}", site.folder().join(name));
    let text = format!(
        "[store]\ndata = {}\n[keys]\noperator_key = {}\nkey_store = {}\n[rules]\nfolder = {}\ntrusted_keys = [{:?}]\n",
        path("data"),
        path("operator.key"),
        path("keys"),
        path("packs"),
        pack_key().verifier().to_string()
    );
    parse(&text, &Flags::default()).unwrap()
}

/// The site started again with what lies in its folder now.
async fn with_what_is_there(mut site: Site) -> Site {
    site.config = read_again(&site);
    site.restarted().await
}

async fn recorded(site: &Site, kind: &str, key: &str) -> Vec<Value> {
    let rows = site.app.store.records(kind).await.unwrap();
    rows.into_iter().filter(|row| row.key == key).map(|row| row.body).collect()
}

#[tokio::test]
async fn which_packs_are_in_use_and_who_signed_them_is_recorded_once_for_each_change() {
    let site = Site::empty().await;
    let by = format!("legal.example+{:08x}", pack_key().verifier().id());
    let first = recorded(&site, "pack", "small").await;
    assert_eq!(first.len(), 1);
    assert_eq!(
        (&first[0]["version"], &first[0]["evaluated"], &first[0]["origin"], &first[0]["signed_by"]),
        (&json!("1"), &json!(true), &json!("folder"), &json!([by]))
    );
    assert_eq!(recorded(&site, "pack", "us-7.308").await[0]["origin"], "shipped");
    assert_eq!(recorded(&site, "pack_text", "small@1").await[0]["text"], small(&site));

    let text = second(&site, &[]);
    signed_pack(&site.folder().join("packs"), "small@2.toml", &text);
    let site = with_what_is_there(site).await;
    let site = with_what_is_there(site).await;
    let versions: Vec<Value> =
        recorded(&site, "pack", "small").await.iter().map(|one| one["version"].clone()).collect();
    assert_eq!(versions, ["1", "2"]);
    assert_eq!(recorded(&site, "pack_text", "small@1").await.len(), 1);
    assert_eq!(recorded(&site, "pack_text", "small@2").await[0]["text"], text);
}

#[tokio::test]
async fn a_pack_that_is_gone_is_told_and_its_cases_are_still_reported_under_its_text() {
    let site = Site::with_an_hour().await;
    assert_eq!(site.app.judge().await.unwrap().opened, ["case-0001"]);
    for file in ["small@1.toml", "small@1.toml.sig"] {
        std::fs::remove_file(site.folder().join("packs").join(file)).unwrap();
    }
    let site = with_what_is_there(site).await;
    let site = with_what_is_there(site).await;
    let said = recorded(&site, "pack", "small").await;
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!((&said[1]["evaluated"], &said[1]["origin"]), (&json!(false), &json!("gone")));
    let report = site.json("/api/v1/cases/case-0001/report").await;
    assert_eq!(report["fields"][0]["label"], "Name", "{report}");
    let case = site.json("/api/v1/cases/case-0001").await;
    assert_eq!(case["clocks"][0]["clock"], "report", "{case}");
}

#[tokio::test]
async fn another_text_under_the_version_that_was_in_use_is_refused_with_what_to_do() {
    let site = Site::empty().await;
    let changed = small(&site).replace("1e16", "1e17");
    signed_pack(&site.folder().join("packs"), "small@1.toml", &changed);
    let config = read_again(&site);
    let _folder = site.stop().await;
    let refused = App::start(&config, Arc::new(|| at(1))).await.err().unwrap();
    let StartError::PackChanged { pack, next, .. } = &refused else { panic!("{refused}") };
    assert_eq!((pack.as_str(), next.as_str()), ("small@1", "small@2.toml"));
    assert!(refused.to_string().contains("small@2.toml"), "{refused}");
}
