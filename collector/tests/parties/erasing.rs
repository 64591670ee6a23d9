//! Holds, retention, and the end of an identity.

use axum::http::StatusCode;
use serde_json::json;

use super::{by, entity, interest, jane, put};
use crate::common::{Site, at};

#[tokio::test]
async fn what_is_held_or_open_is_not_erased_and_what_is_erased_stays_so() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    let erase = |site: Site| async move {
        let answer = site.call("POST", "/api/v1/parties/P-1/erase", &by(), &[]).await;
        (site, answer)
    };
    let (site, open) = erase(site).await;
    assert_eq!(open.status, StatusCode::CONFLICT);
    assert!(open.body.contains("P-1 is not to be erased: its account"), "{}", open.body);
    let mut closed = jane();
    closed["standing"]["closed"] = json!("2020-02-01T00:00:00Z");
    put(&site, "P-1", &closed).await;
    site.call("POST", "/api/v1/parties/P-1/hold", &by(), &[]).await;
    let site = site.restarted().await;
    let (site, held) = erase(site).await;
    assert_eq!(held.status, StatusCode::CONFLICT);
    assert!(held.body.contains("P-1 is held since 2026-03-02T08:00:00Z by ada"), "{}", held.body);
    let lifted = site.call("DELETE", "/api/v1/parties/P-1/hold", &by(), &[]).await;
    assert_eq!(lifted.status, StatusCode::OK, "{}", lifted.body);
    let (site, done) = erase(site).await;
    assert_eq!(done.json()["destroyed"], at(0).to_string(), "{}", done.body);

    let site = site.restarted().await;
    let gone = site.call("POST", "/api/v1/parties/P-1/reveal", &by(), &[]).await;
    assert_eq!(gone.status, StatusCode::GONE, "{}", gone.body);
    let shown = site.json("/api/v1/parties/P-1").await;
    assert_eq!(
        (&shown["identity"]["name"], &shown["report_fields"]["A1"]),
        (&json!("erased"), &json!("blank"))
    );
    assert_eq!(shown["us_person"], "foreign", "what names nobody stays");
    let refused = put(&site, "P-1", &jane()).await;
    assert_eq!(refused.status, StatusCode::GONE, "its id is not used again: {}", refused.body);
    let page = site.get("/customers/P-1").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.body.contains("erased"));
}

#[tokio::test]
async fn a_key_store_that_came_back_from_a_backup_forgets_again_at_the_start() {
    let site = Site::empty().await;
    let mut closed = jane();
    closed["standing"]["closed"] = json!("2020-02-01T00:00:00Z");
    put(&site, "P-1", &closed).await;
    let keys = site.config.key_store.clone();
    let files: Vec<_> = std::fs::read_dir(&keys)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension().is_some_and(|end| end == "json") && path.file_stem().unwrap().len() == 64
        })
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    assert_eq!(files.len(), 1, "the key of P-1");
    site.call("POST", "/api/v1/parties/P-1/erase", &by(), &[]).await;
    for (path, key) in &files {
        std::fs::write(path, key).unwrap();
    }
    let site = site.restarted().await;
    let gone = site.call("POST", "/api/v1/parties/P-1/reveal", &by(), &[]).await;
    assert_eq!(gone.status, StatusCode::GONE, "{}", gone.body);
    assert_ne!(std::fs::read(&files[0].0).unwrap(), files[0].1);
}

#[tokio::test]
async fn an_identity_is_kept_until_the_day_that_a_pack_says_and_no_longer_than_a_hold() {
    let site = Site::empty().await;
    // Two years after it was last used, which was on a day that only leap years have, and then once more.
    let record = |last: &str| {
        let mut record = jane();
        record["standing"] = json!({ "closed": "2024-01-31T00:00:00Z", "last_access": last });
        record
    };
    put(&site, "P-1", &record("2024-02-29T12:00:00Z")).await;
    put(&site, "H-1", &entity(None, true)).await;
    site.call("POST", "/api/v1/interests", &json!([interest("H-1", "C-1", "60")]), &[]).await;
    let due = site.json("/api/v1/retention").await;
    assert_eq!(due["kept_for"]["years"], 2, "{due}");
    assert_eq!(due["due"], json!([{ "party": "P-1", "due": "2026-03-01T00:00:00Z" }]));

    put(&site, "P-1", &record("2024-03-02T09:00:00Z")).await;
    let early = site.call("POST", "/api/v1/parties/P-1/erase", &by(), &[]).await;
    assert_eq!(early.status, StatusCode::CONFLICT, "an hour too early: {}", early.body);
    assert!(early.body.contains("to be kept until 2026-03-02T09:00:00Z: 2 years"), "{}", early.body);
    assert_eq!(site.json("/api/v1/retention").await["due"], json!([]));
    site.sets(60);
    site.call("POST", "/api/v1/parties/P-1/hold", &by(), &[]).await;
    assert_eq!(site.json("/api/v1/retention").await["due"], json!([]));
    site.call("DELETE", "/api/v1/parties/P-1/hold", &by(), &[]).await;
    assert_eq!(site.json("/api/v1/retention").await["due"][0]["party"], "P-1");
    let done = site.call("POST", "/api/v1/parties/P-1/erase", &by(), &[]).await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.body);
    assert_eq!(site.json("/api/v1/retention").await["due"], json!([]));
}

#[tokio::test]
async fn who_stands_behind_a_customer_is_kept_as_long_as_the_customer_and_held_with_it() {
    let site = Site::empty().await;
    put(&site, "C-1", &entity(None, false)).await;
    let mut owner = jane();
    owner["standing"] = json!({ "no_account": true });
    put(&site, "P-1", &owner).await;
    let erase = async || site.call("POST", "/api/v1/parties/P-1/erase", &by(), &[]).await;
    assert_eq!(erase().await.status, StatusCode::CONFLICT, "there is no date to count from");
    let mut open = entity(None, false);
    open["standing"] = json!({});
    put(&site, "C-1", &open).await;
    let told = site.call("POST", "/api/v1/interests", &json!([interest("P-1", "C-1", "60")]), &[]).await;
    assert_eq!(told.json()["recorded"], 1);
    assert_eq!(erase().await.status, StatusCode::CONFLICT, "its customer has an account");
    put(&site, "C-1", &entity(None, false)).await;
    site.call("POST", "/api/v1/parties/C-1/hold", &by(), &[]).await;
    let held = erase().await;
    assert!(held.body.contains("C-1 is held since"), "{}", held.body);
    site.call("DELETE", "/api/v1/parties/C-1/hold", &by(), &[]).await;
    let done = erase().await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.body);
}
