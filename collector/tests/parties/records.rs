//! Records: kept, shown masked, opened, and what no record may say or take back.

use axum::http::StatusCode;
use serde_json::json;
use weighbridge_collector::import::Kind;
use weighbridge_store::UsageStore;

use super::{SECRETS, by, entity, interest, jane, put};
use crate::common::{self, IDENTITY, Site};

#[tokio::test]
async fn a_record_is_kept_shown_masked_and_opened_as_it_came() {
    let site = Site::empty().await;
    let made = put(&site, "P-1", &jane()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let again = put(&site, "P-1", &jane()).await;
    assert_eq!((again.status, again.header("etag")), (StatusCode::OK, made.header("etag")));

    let shown = site.get("/api/v1/parties/P-1").await;
    assert_eq!(shown.header("etag"), made.header("etag"));
    let json = shown.json();
    assert_eq!((&json["us_person"], &json["standing"]["verified"]), (&json!("foreign"), &json!("verified")));
    assert_eq!(
        (&json["identity"]["name"], &json["identity"]["telephone"]),
        (&json!("present"), &json!("blank"))
    );
    assert_eq!(
        (&json["report_fields"]["A1"], &json["report_fields"]["A2"]),
        (&json!("whole"), &json!("partly"))
    );
    let listed = site.json("/api/v1/parties").await;
    for text in [shown.body, listed["parties"].to_string()] {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }

    let site = site.restarted().await;
    let opened = site.call("POST", "/api/v1/parties/P-1/reveal", &by(), &[]).await.json();
    assert_eq!(opened["party"], jane()["party"]);
    let looks = site.app.store.records("audit").await.unwrap();
    assert_eq!((looks.len(), &looks[0].body["actor"], &looks[0].key), (1, &json!("ada"), &"P-1".to_owned()));
}

#[tokio::test]
async fn nothing_is_opened_or_written_without_the_token_a_name_and_a_reason() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    for path in ["reveal", "bundle", "hold", "erase"] {
        let path = format!("/api/v1/parties/P-1/{path}");
        assert_eq!(site.post(&path, None, by().to_string()).await.status, StatusCode::UNAUTHORIZED, "{path}");
        for body in [json!({}), json!({ "actor": "ada" }), json!({ "actor": " ", "reason": "x" })] {
            let refused = site.call("POST", &path, &body, &[]).await;
            assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {}", refused.body);
        }
    }
    for kind in ["audit", "hold", "erasure"] {
        assert!(site.app.store.records(kind).await.unwrap().is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn what_cannot_be_kept_changes_nothing_and_is_not_repeated() {
    let site = Site::empty().await;
    let mut card = jane();
    card["party"]["payments"][0]["source"] = json!("4111 1111 1111 1111");
    let mut unknown = jane();
    unknown["party"]["nmae"] = json!("Jane Planted Roe");
    let mut reseller = jane();
    reseller["standing"]["reseller"] = json!("R-9");
    for (record, says) in [
        (
            &card,
            "a party: party.payments[0].source: the value (withheld) does not fit, expected free of full card numbers",
        ),
        (&unknown, "the body is not a record of a party: party: "),
        (&reseller, "party P-1: reseller R-9 is not known"),
    ] {
        let refused = put(&site, "P-1", record).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(refused.body.contains(says), "{}", refused.body);
        for secret in SECRETS.iter().chain(&["4111"]) {
            assert!(!refused.body.contains(secret), "{}", refused.body);
        }
    }
    let refused = put(&site, "Jane%20Roe", &jane()).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(!refused.body.contains("Jane"), "{}", refused.body);
    assert_eq!(site.json("/api/v1/parties").await["parties"], json!([]));
}

#[tokio::test]
async fn who_read_an_older_record_does_not_overwrite_a_newer_one() {
    let site = Site::empty().await;
    let first = put(&site, "P-1", &jane()).await.header("etag").to_owned();
    let mut newer = jane();
    newer["standing"]["remedy"] = json!("restricted");
    let second = site.call("PUT", "/api/v1/parties/P-1", &newer, &[("if-match", &first)]).await;
    assert_eq!(second.status, StatusCode::CREATED, "{}", second.body);
    let refused = site.call("PUT", "/api/v1/parties/P-1", &jane(), &[("if-match", &first)]).await;
    assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED, "{}", refused.body);
    assert_eq!(site.json("/api/v1/parties/P-1").await["standing"]["remedy"], "restricted");
}

#[tokio::test]
async fn a_file_of_customers_leaves_alone_what_it_has_no_column_for() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    let header = common::CUSTOMERS.lines().next().unwrap();
    let row = "P-1,person,foreign,G-7,Jane Planted Roe,5 Planted Lane Oslo,,\"Planted Bank, card\",ends in 4242,planted@roe.example,+47 1,";
    site.import(Kind::Customers, &format!("{header}\n{row}\n")).await;
    let opened = site.call("POST", "/api/v1/parties/P-1/reveal", &by(), &[]).await.json();
    let mut expected = jane()["party"].clone();
    expected["addresses"] = json!([{ "kind": "principal", "full": "5 Planted Lane Oslo" }]);
    expected["telephones"] = json!(["+47 1"]);
    assert_eq!(opened["party"], expected);
    assert_eq!(opened["standing"]["risk"], "enhanced");
}

#[tokio::test]
async fn a_bundle_holds_everything_about_one_party_and_nothing_about_others() {
    let site = Site::with_an_hour().await;
    put(&site, "P-1", &jane()).await;
    put(&site, "H-1", &entity(None, true)).await;
    site.call(
        "POST",
        "/api/v1/interests",
        &json!([interest("P-1", "H-1", "60"), interest("H-1", "C-1", "75")]),
        &[],
    )
    .await;
    site.import(
        Kind::Principals,
        "principal,customer,valid_from,valid_to\nlease:site/p,P-1,2026-03-01T00:00:00Z,\n",
    )
    .await;
    site.call("POST", "/api/v1/parties/P-1/hold", &by(), &[]).await;
    let bundle = site.call("POST", "/api/v1/parties/P-1/bundle", &by(), &[]).await;
    let json = bundle.json();
    assert_eq!(json["party"], jane()["party"]);
    assert_eq!(
        (json["interests"].as_array().unwrap().len(), &json["interests"][0]["asset"]),
        (1, &json!("H-1"))
    );
    assert_eq!(json["principals"][0]["principal"], "lease:site/p");
    let acts: Vec<_> = json["acts"].as_array().unwrap().iter().map(|act| act[1]["kind"].clone()).collect();
    assert_eq!(acts, ["hold", "audit"]);
    for value in IDENTITY {
        assert!(!bundle.body.contains(value), "{value}");
    }
}

#[tokio::test]
async fn parties_are_listed_page_by_page() {
    let site = Site::empty().await;
    for id in ["A", "B", "C", "D", "E"] {
        put(&site, id, &entity(None, false)).await;
    }
    let mut listed = Vec::new();
    let mut path = "/api/v1/parties?limit=2".to_owned();
    loop {
        let page = site.json(&path).await;
        listed.extend(
            page["parties"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/parties?limit=2&after={next}");
    }
    assert_eq!(listed, ["A", "B", "C", "D", "E"]);
    assert_eq!(site.get("/api/v1/parties?limit=0").await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_party_is_found_by_what_identifies_it_and_who_asked_is_on_record() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    put(&site, "C-1", &entity(None, false)).await;
    let site = site.restarted().await;
    let find = async |by_its: &str, text: &str| {
        let asked = json!({ "by_its": by_its, "text": text, "actor": "ada", "reason": "a call" });
        // The index is made anew at a start.
        for _ in 0..10_000 {
            let answer = site.call("POST", "/api/v1/find", &asked, &[]).await;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                return answer;
            }
            tokio::task::yield_now().await;
        }
        panic!("the index is never made");
    };
    for (by_its, text) in [
        ("name", "jane  planted ROE"),
        ("name", "Джейн Роу"),
        ("email", "Planted@ROE.example"),
        ("passport", "planted-99"),
        ("number", "PLANTED99"),
        ("payment_source", "ends in 4242"),
    ] {
        let found = find(by_its, text).await;
        assert_eq!(found.json()["parties"], json!(["P-1"]), "{by_its} {text}: {}", found.body);
    }
    assert_eq!(find("name", "Jane").await.json()["parties"], json!([]), "only all of it");
    assert_eq!(find("shoe_size", "42").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    site.app.settled().await;
    let looks = site.app.store.records("audit").await.unwrap();
    assert_eq!(looks.len(), 7);
    for look in looks {
        assert_eq!((&look.body["act"], &look.body["actor"]), (&json!("party_looked_up"), &json!("ada")));
        for secret in SECRETS {
            assert!(!look.body.to_string().to_lowercase().contains(&secret.to_lowercase()), "{}", look.body);
        }
    }
    let mut closed = jane();
    closed["standing"]["closed"] = json!("2020-02-01T00:00:00Z");
    put(&site, "P-1", &closed).await;
    site.call("POST", "/api/v1/parties/P-1/erase", &by(), &[]).await;
    assert_eq!(find("name", "Jane Planted Roe").await.json()["parties"], json!([]));
}

#[tokio::test]
async fn a_record_that_is_put_again_takes_back_nothing_that_others_found() {
    let site = Site::empty().await;
    let mut seen = jane();
    seen["standing"]["last_access"] = json!("2026-02-01T00:00:00Z");
    let found =
        json!([{ "id": "place:differs:FR", "what": "used from FR", "found": "2026-02-01T00:00:00Z" }]);
    seen["party"]["discrepancies"] = found;
    put(&site, "P-1", &seen).await;
    put(&site, "P-1", &jane()).await;
    let shown = site.json("/api/v1/parties/P-1").await;
    assert_eq!(shown["standing"]["last_access"], "2026-02-01T00:00:00Z");
    assert_eq!(shown["standing"]["open_discrepancies"], 1);
}

#[tokio::test]
async fn a_file_that_says_the_same_again_decides_nothing_over_what_spoke_against_it_since() {
    let site = Site::empty().await;
    let header = common::CUSTOMERS.lines().next().unwrap();
    let csv = format!("{header}\nC-1,person,us,,Jane Roe,,,,,,,\n");
    site.import(Kind::Customers, &csv).await;
    assert_eq!(site.json("/api/v1/parties/C-1").await["us_person"], "us");
    let mut opened = site.call("POST", "/api/v1/parties/C-1/reveal", &by(), &[]).await.json();
    opened.as_object_mut().unwrap().remove("id");
    let against = json!({
        "says": "foreign", "basis": "citizenship", "decides": false, "at": "2026-03-02T08:30:00Z", "by": "desk",
    });
    opened["party"]["us_person"].as_array_mut().unwrap().push(against);
    let put_back = put(&site, "C-1", &opened).await;
    assert_eq!(put_back.status, StatusCode::CREATED, "{}", put_back.body);
    assert_eq!(site.json("/api/v1/parties/C-1").await["us_person"], "undetermined");
    site.sets(60);
    site.import(Kind::Customers, &csv).await;
    assert_eq!(site.json("/api/v1/parties/C-1").await["us_person"], "undetermined");
    let parties = "id,kind,names.legal.full,us_person\nC-2,person,John Roe,us\n";
    site.import(Kind::Parties, parties).await;
    site.sets(120);
    let again = site.app.import(Kind::Parties, "parties.csv", parties.as_bytes()).await.unwrap();
    assert_eq!(again.recorded, 0, "the same again at another time changes nothing");
}

#[tokio::test]
async fn a_file_of_customers_is_held_to_what_no_record_may_say() {
    let site = Site::empty().await;
    let header = common::CUSTOMERS.lines().next().unwrap();
    let csv = format!("{header}\nC-1,person,us,,Jane Roe,,,card,4111 1111 1111 1111,,,\n");
    let refused = site.app.import(Kind::Customers, "c.csv", csv.as_bytes()).await.unwrap_err().to_string();
    assert!(
        refused.contains("c.csv: party C-1: payments[0].source is not free of full card numbers"),
        "{refused}"
    );
    assert!(!refused.contains("4111"), "{refused}");
    let lines = format!("{header}\nC-1,person,us,,Jane Roe,\"1 Lane\nOslo\",,,,,,\n");
    site.import(Kind::Customers, &lines).await;
    let opened = site.call("POST", "/api/v1/parties/C-1/reveal", &by(), &[]).await.json();
    assert_eq!(opened["party"]["addresses"][0]["full"], "1 Lane, Oslo");
    let again = site.app.import(Kind::Customers, "c.csv", lines.as_bytes()).await.unwrap();
    assert_eq!(again.recorded, 0);
}

/// The record as it stands, to be put back changed.
async fn revealed(site: &Site, id: &str) -> serde_json::Value {
    let mut opened = site.call("POST", &format!("/api/v1/parties/{id}/reveal"), &by(), &[]).await.json();
    opened.as_object_mut().expect("an object").remove("id");
    opened
}

#[tokio::test]
async fn what_a_person_decided_stands_against_a_file_that_says_what_it_said_before() {
    let site = Site::empty().await;
    let header = common::CUSTOMERS.lines().next().unwrap();
    let file = |first: &str, second: &str| {
        format!("{header}\nC-1,person,{first},,Jane Roe,,,,,,,\nC-2,person,{second},,John Roe,,,,,,,\n")
    };
    let recorded =
        async |text: &str| site.app.import(Kind::Customers, "c.csv", text.as_bytes()).await.unwrap().recorded;
    let stands = async |id: &str| site.json(&format!("/api/v1/parties/{id}")).await["us_person"].clone();
    assert_eq!(recorded(&file("us", "undetermined")).await, 2);
    site.sets(10);
    for (id, says) in [("C-1", "foreign"), ("C-2", "us")] {
        let mut told = revealed(&site, id).await;
        // Whatever was there is left out: the record says what the desk holds to be so.
        told["party"]["us_person"] = json!([{
            "says": says, "basis": "citizenship", "decides": true, "at": "2026-03-02T08:05:00Z", "by": "desk",
        }]);
        let put_back = put(&site, id, &told).await;
        assert_eq!(put_back.status, StatusCode::CREATED, "{}", put_back.body);
    }
    site.sets(20);
    assert_eq!(recorded(&file("us", "undetermined")).await, 0, "nothing new is said");
    assert_eq!((stands("C-1").await, stands("C-2").await), (json!("foreign"), json!("us")));

    // Another word of the file is evidence: it opens a U.S. person again, and makes nobody one.
    assert_eq!(recorded(&file("us", "foreign")).await, 1);
    assert_eq!(stands("C-2").await, "undetermined");
    assert_eq!(recorded(&file("undetermined", "foreign")).await, 1);
    assert_eq!(recorded(&file("us", "foreign")).await, 1);
    assert_eq!((stands("C-1").await, stands("C-2").await), (json!("foreign"), json!("undetermined")));

    // So it is with a file of parties.
    let parties = "id,kind,names.legal.full,us_person\nC-1,person,Jane Roe,us\n";
    let again = site.app.import(Kind::Parties, "p.csv", parties.as_bytes()).await.unwrap();
    assert_eq!((again.recorded, stands("C-1").await), (0, json!("foreign")));
    let site = site.restarted().await;
    assert_eq!(site.json("/api/v1/parties/C-1").await["us_person"], "foreign");
}

#[tokio::test]
async fn a_file_goes_on_though_one_in_it_is_erased() {
    let site = Site::empty().await;
    let mut closed = jane();
    closed["standing"]["closed"] = json!("2020-02-01T00:00:00Z");
    put(&site, "P-1", &closed).await;
    let erased = site.call("POST", "/api/v1/parties/P-1/erase", &by(), &[]).await;
    assert_eq!(erased.status, StatusCode::OK, "{}", erased.body);
    let header = common::CUSTOMERS.lines().next().unwrap();
    let customers = format!("{header}\nP-1,person,us,,Jane Roe,,,,,,,\nC-2,person,us,,John Roe,,,,,,,\n");
    let parties = "id,kind,names.legal.full\nP-1,person,Jane Roe\nC-3,person,Jim Roe\n";
    for (kind, text) in [(Kind::Customers, &*customers), (Kind::Parties, parties)] {
        let taken = site.app.import(kind, "file.csv", text.as_bytes()).await.unwrap();
        assert_eq!((taken.rows, taken.recorded), (2, 1));
        assert_eq!(taken.left_out["records of who is erased"], 1);
    }
    let refused = put(&site, "P-1", &jane()).await;
    assert_eq!(refused.status, StatusCode::GONE, "by itself it is refused: {}", refused.body);
}
