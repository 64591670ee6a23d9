//! Another operator's key in the place of the one before, while the collector runs.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use std::{path::PathBuf, sync::Arc};

use axum::http::StatusCode;
use common::{CUSTOMERS, Site, at};
use serde_json::{Value, json};
use weighbridge_collector::{
    app::{App, StartError, admin_token},
    config::Config,
    import::Kind,
    operator::OperatorKeyAt,
};
use weighbridge_registry::{IdentityField, KeyError, OperatorKey};
use weighbridge_store::UsageStore;

async fn start(config: &Config) -> Result<App, StartError> {
    App::start(config, Arc::new(|| at(1))).await
}

/// A new key in a file.
fn new_key(site: &Site) -> PathBuf {
    let file = site.folder().join("next.key");
    OperatorKey::generate([9; 32]).save_new(&file).unwrap();
    file
}

async fn rotate(site: &Site, token: &str, to: &std::path::Path) -> common::Answer {
    let body = json!({ "act": "rotate", "to": to, "actor": "kim" }).to_string();
    site.post("/api/v1/keys", Some(token), body).await
}

/// The name of the customer, opened.
fn opened(app: &App) -> String {
    let party = app.keys.open_party(&app.customers()["C-1"]).unwrap();
    party.identity().get(IdentityField::Name).unwrap().to_owned()
}

async fn audits(app: &App) -> Vec<Value> {
    app.store.records("audit").await.unwrap().into_iter().map(|row| row.body).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_key_is_changed_while_it_runs_and_everything_goes_on() {
    let site = Site::empty().await;
    site.import(Kind::Customers, CUSTOMERS).await;
    let to = new_key(&site);
    let (old, old_token) = (site.app.keys.operators().0, site.token());
    let new = OperatorKey::from_file(&to).unwrap().id();
    let digest = site.app.keys.digest("user", "jane");
    let authorities = site.app.trust.authorities().unwrap();

    let refused = site.post("/api/v1/keys", None, r#"{"act":"status"}"#).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let done = rotate(&site, &old_token, &to).await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.body);
    assert!(done.body.contains("2 keys are locked with it"), "{}", done.body);
    let recorded = audits(&site.app).await.pop().unwrap();
    assert_eq!(
        recorded,
        json!({ "act": "operator_key_rotated", "actor": "kim", "from": old, "to": new, "keys": 2, "unfit": 0 })
    );

    // The token follows from the new key, which lies where the configuration says.
    let status = r#"{"act":"status"}"#;
    assert_eq!(site.post("/api/v1/keys", Some(&old_token), status).await.status, StatusCode::UNAUTHORIZED);
    assert_ne!(site.token(), old_token);
    let status = site.post("/api/v1/keys", Some(&site.token()), status).await;
    assert!(status.body.contains(&format!("operator key {new} is in use: 2 keys")), "{}", status.body);
    let again = rotate(&site, &site.token(), &to).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", again.body);
    assert!(again.body.contains("is the one in use"), "{}", again.body);

    assert_eq!(opened(&site.app), "Zanzibar Quux Holdings");
    site.import(Kind::Customers, &CUSTOMERS.replace("C-2", "C-3")).await;
    let config = site.config.clone();
    let folder = site.stop().await;
    let app = start(&config).await.unwrap();
    assert_eq!(opened(&app), "Zanzibar Quux Holdings");
    assert_eq!(app.keys.digest("user", "jane"), digest);
    assert_eq!(app.trust.authorities().unwrap(), authorities);
    drop(app);
    let kept = OperatorKeyAt::File(folder.path().join(format!("operator.key.{old}")));
    let with_old = Config { operator_key: kept, ..config };
    let error = start(&with_old).await.err().unwrap();
    assert!(matches!(error, StartError::Keys(KeyError::WrongOperatorKey { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_interrupted_is_finished_by_the_next_start() {
    let site = Site::empty().await;
    site.import(Kind::Customers, CUSTOMERS).await;
    let to = new_key(&site);
    let new = OperatorKey::from_file(&to).unwrap();
    let id = new.id();
    // As far as its first step, after which the collector ended.
    site.app.keys.begin_rotation(new, Some(&to), &mut weighbridge_collector::random::fill).unwrap();
    let config = site.config.clone();
    let _folder = site.stop().await;
    let app = start(&config).await.unwrap();
    assert_eq!(app.keys.operators(), (id.clone(), None));
    assert_eq!(opened(&app), "Zanzibar Quux Holdings");
    let recorded = audits(&app).await.pop().unwrap();
    assert_eq!(
        (recorded["to"].as_str(), recorded["actor"].as_str()),
        (Some(&*id), Some("the start of the collector"))
    );
    assert!(app.is_admin(&admin_token(&config.operator_key).unwrap()), "the file holds the new key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_makes_no_sense_is_refused_by_name_and_changes_nothing() {
    let site = Site::empty().await;
    let token = site.token();
    let before = site.app.keys.operators();
    let (none, relative) = (site.folder().join("none.key"), PathBuf::from("next.key"));
    for (to, expected) in [(none, "none.key"), (relative, "expected an absolute path")] {
        let refused = rotate(&site, &token, &to).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.body);
        assert!(refused.body.contains(expected), "{}", refused.body);
    }
    assert_eq!(site.app.keys.operators(), before);
    assert!(audits(&site.app).await.is_empty());
}
