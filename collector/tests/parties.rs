//! Parties over the API: records, who stands behind whom, groups, and the acts on them.

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use axum::http::StatusCode;
use common::{Answer, IDENTITY, Site, at};
use serde_json::{Value, json};
use weighbridge_collector::import::Kind;
use weighbridge_store::UsageStore;

/// A person that nobody may find without opening it.
fn jane() -> Value {
    json!({
        "control_group": "G-7",
        "standing": { "opened": "2026-01-01T00:00:00Z", "risk": "enhanced" },
        "party": {
            "kind": "person",
            "names": [
                { "kind": "legal", "full": "Jane Planted Roe", "given": "Jane", "family": "Roe" },
                { "kind": "transliteration", "full": "Джейн Роу", "script": "Cyrl" },
            ],
            "born": "1970-05",
            "citizenships": ["FR"],
            "addresses": [{ "kind": "principal", "full": "5 Planted Lane, Oslo", "country": "NO" }],
            "emails": ["planted@roe.example"],
            "payments": [{ "means": "Planted Bank, card", "source": "ends in 4242" }],
            "identifiers": [{ "scheme": "passport", "number": "PLANTED99", "country": "FR", "expires": "2031-01-31" }],
            "us_person": [{
                "says": "foreign", "basis": "citizenship", "decides": true,
                "at": "2026-01-02T00:00:00Z", "by": "desk",
            }],
            "verifications": [{
                "id": "v-1", "method": "documentary", "checker": "Planted Checker",
                "at": "2026-01-03T00:00:00Z", "outcome": "verified",
                "evidence": [{ "what": "passport", "sha256": "00".repeat(32) }],
            }],
        },
    })
}

const SECRETS: [&str; 8] = [
    "Planted Roe",
    "Джейн",
    "Planted Lane",
    "planted@roe",
    "Planted Bank",
    "4242",
    "PLANTED99",
    "Planted Checker",
];

fn entity(group: Option<&str>, no_account: bool) -> Value {
    json!({
        "control_group": group,
        "standing": { "no_account": no_account, "closed": "2020-02-01T00:00:00Z" },
        "party": { "kind": "entity", "names": [{ "kind": "legal", "full": "Some Entity" }] },
    })
}

async fn put(site: &Site, id: &str, record: &Value) -> Answer {
    site.call("PUT", &format!("/api/v1/parties/{id}"), record, &[]).await
}

fn by() -> Value {
    json!({ "actor": "ada", "reason": "to test" })
}

fn interest(owner: &str, asset: &str, percent: &str) -> Value {
    json!({ "owner": owner, "asset": asset, "kind": "shareholding", "share": { "exact": percent } })
}

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
        (&card, "party P-1: payments[0].source is not free of full card numbers"),
        (&unknown, "the body is not a record of a party"),
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
async fn statements_are_kept_as_they_are_told_and_what_a_customer_declares_under_its_key() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    let reservation = json!({
        "id": "R-1", "customer": "P-1", "model": "H200", "count": 1024,
        "from": "2026-03-01T00:00:00Z", "to": "2026-09-01T00:00:00Z", "value": "25000000 USD",
    });
    let path = "/api/v1/statements/reservations";
    let dry = site.call("POST", &format!("{path}?dry_run=true"), &reservation, &[]).await.json();
    assert_eq!(dry["recorded"], 1);
    assert_eq!(site.json(path).await["statements"], json!([]));
    assert_eq!(site.call("POST", path, &reservation, &[]).await.json()["recorded"], 1);
    assert_eq!(site.call("POST", path, &json!([reservation]), &[]).await.json()["recorded"], 0);

    let declaration = json!({
        "id": "D-1", "customer": "P-1", "purpose": "Planted purpose", "biological_sequence_data": true,
        "expected_operations_tera": "100000000000000", "signed_by": "Planted Signer", "signed_on": "2026-02-28",
    });
    let told = site.call("POST", "/api/v1/statements/declarations", &declaration, &[]).await;
    assert_eq!(told.json()["recorded"], 1, "{}", told.body);
    let again = site.call("POST", "/api/v1/statements/declarations", &declaration, &[]).await;
    assert_eq!(again.json()["recorded"], 0);

    let site = site.restarted().await;
    let mut expected = reservation.clone();
    expected["count"] = json!("1024");
    assert_eq!(site.json(path).await["statements"], json!([expected]));
    let shown = site.json("/api/v1/statements/declarations").await;
    assert_eq!(shown["statements"], json!([{ "id": "D-1", "customer": "P-1", "sealed": true }]));
    let recorded = site.app.store.records("statement").await.unwrap();
    for row in &recorded {
        assert!(!row.body.to_string().contains("Planted"), "{}", row.body);
    }
    let opened = site.call("POST", "/api/v1/statements/declarations/D-1/reveal", &by(), &[]).await.json();
    assert_eq!(
        (&opened["purpose"], &opened["biological_sequence_data"]),
        (&json!("Planted purpose"), &json!("yes"))
    );
    assert_eq!(site.app.store.records("audit").await.unwrap().len(), 1);
    let bundle = site.call("POST", "/api/v1/parties/P-1/bundle", &by(), &[]).await.json();
    let says: Vec<_> =
        bundle["statements"].as_array().unwrap().iter().map(|one| one["says"]["id"].clone()).collect();
    assert_eq!(says, ["D-1", "R-1"]);
}

#[tokio::test]
async fn a_statement_that_does_not_hold_together_changes_nothing_and_every_fault_is_named() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    let told = json!([
        { "id": "T-1", "host": "gpu-1", "datacenter": "dc", "fabric": "ib", "gbit_per_s": 400, "from": "2026-03-01T00:00:00Z" },
        { "id": "T-2", "host": "gpu 2", "fabric": "ib", "gbit_per_s": 0, "from": "2026-03-01T00:00:00Z", "color": "red" },
    ]);
    let refused = site.call("POST", "/api/v1/statements/topologies", &told, &[]).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let errors: Vec<String> = refused.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap().to_owned())
        .collect();
    let places: Vec<&str> = errors.iter().map(|error| error.split(':').next().unwrap()).collect();
    assert_eq!(places, ["[1].color", "[1].host", "[1].datacenter", "[1].gbit_per_s"], "{errors:?}");
    assert_eq!(site.json("/api/v1/statements/topologies").await["statements"], json!([]));

    let nobody = json!({ "id": "S-1", "customer": "X-1", "sign": "new_country", "at": "2026-03-01T00:00:00Z", "source": "siem" });
    let refused = site.call("POST", "/api/v1/statements/compromises", &nobody, &[]).await;
    assert!(refused.body.contains("compromise S-1: party X-1 is not known"), "{}", refused.body);
    let unknown = site.get("/api/v1/statements/novels").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.body.contains("special-measures"), "{}", unknown.body);
}

/// What a provider that signs with `secret` at a time says, so many seconds from now.
async fn says(site: &Site, provider: &str, secret: &str, seconds: i64, body: &Value) -> Answer {
    use hmac::{Hmac, KeyInit, Mac};
    let (at, body) = (site.app.now().0 / 1000 + seconds, body.to_string());
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(format!("{at}.{body}").as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let header = format!("t={at},v1={hex}");
    site.sent(&format!("/api/v1/verifications/{provider}"), body, &[("weighbridge-signature", &header)]).await
}

#[tokio::test]
async fn a_provider_tells_what_came_of_a_verification_and_nobody_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "0123456789abcdef0123";
    std::fs::write(folder.path().join("secret"), secret).unwrap();
    let file = folder.path().join("secret");
    let site =
        Site::configured(&format!("[[verification]]\nprovider = 'idcheck'\nsecret_file = {file:?}\n")).await;
    let mut record = jane();
    record["party"]["verifications"] = json!([]);
    put(&site, "P-1", &record).await;
    let told = |outcome: &str, minute: u32| {
        json!({ "party": "P-1", "verification": {
            "id": "vs-1", "method": "documentary", "checker": "somebody else",
            "at": format!("2026-03-02T07:0{minute}:00Z"), "outcome": outcome,
        } })
    };
    for (provider, secret, seconds) in [
        ("idcheck", "another secret of it", 0),
        ("other", secret, 0),
        ("idcheck", secret, -301),
        ("idcheck", secret, 301),
    ] {
        let refused = says(&site, provider, secret, seconds, &told("verified", 0)).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{provider} {seconds}: {}", refused.body);
    }
    for header in ["", "t=1", "v1=00", "t=x,v1=zz", "t=1,v1=0"] {
        let headers = [("weighbridge-signature", header)];
        let refused =
            site.sent("/api/v1/verifications/idcheck", told("verified", 0).to_string(), &headers).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{header}: {}", refused.body);
    }
    assert_eq!(site.json("/api/v1/parties/P-1").await["standing"]["verified"], "unverified");

    for (outcome, minute, recorded, stands) in [
        ("in_progress", 1, 1, "in_progress"),
        ("verified", 2, 1, "verified"),
        ("verified", 2, 0, "verified"),
        ("failed", 3, 1, "failed"),
        // What was overheard, or came late, undoes nothing.
        ("verified", 2, 0, "failed"),
    ] {
        let taken = says(&site, "idcheck", secret, -299, &told(outcome, minute)).await;
        assert_eq!(taken.json()["recorded"], recorded, "{outcome}: {}", taken.body);
        assert_eq!(site.json("/api/v1/parties/P-1").await["standing"]["verified"], stands);
    }
    let mut late = told("verified", 0);
    late["verification"]["at"] = json!("9999-01-01T00:00:00Z");
    let refused = says(&site, "idcheck", secret, 0, &late).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "it would win for ever: {}", refused.body);
    // It speaks as itself, which is on record, and a record that is put again does not lose it.
    put(&site, "P-1", &record).await;
    let opened = site.call("POST", "/api/v1/parties/P-1/reveal", &by(), &[]).await.json();
    let kept = &opened["party"]["verifications"][0];
    assert_eq!((&kept["id"], &kept["checker"]), (&json!("told:idcheck:vs-1"), &json!("idcheck")));
    let acts = site.app.store.records("audit").await.unwrap();
    assert_eq!(acts.iter().filter(|row| row.body["act"] == "verification_told").count(), 3);
    let nonsense = json!({ "party": "P-1", "verification": { "id": "Planted Roe" } });
    let refused = says(&site, "idcheck", secret, 0, &nonsense).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(!refused.body.contains("Planted"), "{}", refused.body);
}

#[tokio::test]
async fn the_figures_of_a_certification_are_counted_by_country_and_what_is_not_known_is_counted_too() {
    let site = Site::empty().await;
    let customer = |kind: &str, says: &str, country: &str, verified: bool, more: Value| {
        let mut standing = json!({ "opened": "2026-01-01T00:00:00Z" });
        standing.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut record = json!({
            "standing": standing,
            "party": {
                "kind": kind,
                "names": [{ "kind": "legal", "full": "Some Body" }],
                "us_person": [{ "says": says, "basis": "told", "decides": true, "at": "2026-01-02T00:00:00Z", "by": "desk" }],
            },
        });
        if !country.is_empty() {
            record["party"]["addresses"] = json!([{ "kind": "principal", "full": "x", "country": country }]);
        }
        if verified {
            record["party"]["verifications"] = jane()["party"]["verifications"].clone();
        }
        record
    };
    for (id, record) in [
        ("C-1", customer("entity", "us", "US", true, json!({}))),
        ("C-2", customer("entity", "foreign", "NO", true, json!({}))),
        ("C-3", customer("person", "undetermined", "", false, json!({}))),
        ("C-4", customer("reseller", "foreign", "NO", false, json!({}))),
        ("C-5", customer("entity", "foreign", "FR", false, json!({ "closed": "2020-02-01T00:00:00Z" }))),
        ("P-1", customer("person", "foreign", "SE", true, json!({ "no_account": true }))),
        ("P-2", customer("person", "us", "US", true, json!({ "no_account": true }))),
        ("P-3", customer("person", "foreign", "FR", true, json!({ "no_account": true }))),
        ("P-4", customer("person", "foreign", "FR", true, json!({ "no_account": true }))),
    ] {
        let taken = put(&site, id, &record).await;
        assert_eq!(taken.status, StatusCode::CREATED, "{}", taken.body);
    }
    let range = json!({ "owner": "P-3", "asset": "C-2", "kind": "shareholding", "share": { "least": "10", "most": "30" } });
    let board = json!({ "owner": "P-4", "asset": "C-4", "kind": "appoints_board" });
    let interests = json!([
        interest("P-1", "C-1", "25"),
        interest("P-2", "C-1", "75"),
        range,
        board,
        interest("P-4", "C-5", "100")
    ]);
    let told = site.call("POST", "/api/v1/interests", &interests, &[]).await;
    assert_eq!(told.json()["recorded"], 5, "{}", told.body);
    let program = json!([
        { "id": "1", "sha256": "0".repeat(64), "from": "2026-01-01T00:00:00Z" },
        { "id": "2", "sha256": "1".repeat(64), "from": "2026-03-01T00:00:00Z" },
        { "id": "3", "sha256": "2".repeat(64), "from": "2026-05-01T00:00:00Z" },
    ]);
    site.call("POST", "/api/v1/statements/programs", &program, &[]).await;

    assert_eq!(site.get("/api/v1/certification").await.status, StatusCode::UNAUTHORIZED);
    let figures = site.call("GET", "/api/v1/certification", &Value::Null, &[]).await.json();
    assert_eq!(
        figures["customers"],
        json!({ "number": 4, "by_country": { "NO": 2, "US": 1, "unknown": 1 } })
    );
    assert_eq!(figures["foreign_customers"]["number"], 3);
    assert_eq!(figures["undetermined_customers"], 1);
    assert_eq!(
        figures["foreign_beneficial_owners"],
        json!({ "number": 2, "by_country": { "FR": 1, "SE": 1 } })
    );
    assert_eq!(figures["possible_beneficial_owners"], 1);
    assert_eq!(figures["customers_with_owners_not_told"], 2, "C-2 and C-4");
    assert_eq!(figures["foreign_resellers"], json!(["C-4"]));
    assert_eq!(figures["foreign_accounts_not_verified"], 2);
    assert_eq!(figures["program"]["version"], "2");
    assert_eq!(site.app.store.records("audit").await.unwrap().len(), 0, "nobody looked");
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

#[tokio::test]
async fn files_of_parties_interests_and_uses_are_taken_whole_or_not_at_all() {
    let site = Site::empty().await;
    let mut line = jane();
    line["id"] = json!("P-1");
    let second = json!({ "id": "C-1", "party": entity(None, false)["party"] });
    let import = async |kind: &str, text: String, query: &str| {
        let bearer = format!("Bearer {}", site.token());
        site.sent(&format!("/api/v1/import/{kind}{query}"), text, &[("authorization", &bearer)]).await
    };
    let good = format!("{line}\n{second}\n");
    let dry = import("parties", good.clone(), "?dry_run=true").await;
    assert_eq!(
        (dry.json()["rows"].clone(), dry.json()["recorded"].clone()),
        (json!(2), json!(2)),
        "{}",
        dry.body
    );
    let mut bad = jane();
    (bad["id"], bad["party"]["emails"]) = (json!("P-2"), json!(["Planted Roe"]));
    let refused = import("parties", format!("{good}{bad}\n"), "").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.body.contains("parties.csv:3: party.emails[0]"), "{}", refused.body);
    for secret in SECRETS {
        assert!(!refused.body.contains(secret), "{}", refused.body);
    }
    assert_eq!(site.json("/api/v1/parties").await["parties"], json!([]), "neither of them did anything");
    assert_eq!(import("parties", good.clone(), "").await.json()["recorded"], 2);
    assert_eq!(import("parties", good, "").await.json()["recorded"], 0);
    let csv = "id,kind,names.legal.full,us_person\nC-2,entity,Another Body,foreign\n";
    assert_eq!(import("parties", csv.into(), "").await.json()["recorded"], 1);
    let interests = "owner,asset,kind,share,from,to,substantial_control\nP-1,C-1,shareholding,60,,,\nP-1,C-2,shareholding,51,,,\n";
    let taken = import("interests", interests.into(), "").await;
    assert_eq!(taken.json()["recorded"], 2, "{}", taken.body);
    assert_eq!(site.json("/api/v1/groups/G-7").await["members"], json!(["C-1", "C-2", "P-1"]));
}

#[tokio::test]
async fn uses_of_the_service_move_when_a_customer_was_last_seen_and_fill_the_report() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    let import = async |site: &Site, text: &str| {
        let bearer = format!("Bearer {}", site.token());
        site.sent("/api/v1/import/accesses", text.into(), &[("authorization", &bearer)]).await
    };
    let log = "customer,address,at,what\n\
               P-1,192.0.2.9:443,2026-02-28T10:00:00Z,access\n\
               P-1,[2001:db8::1]:22,1772200000,administration\n";
    assert_eq!(import(&site, log).await.json()["recorded"], 1);
    assert_eq!(import(&site, log).await.json()["recorded"], 0, "told again, it says nothing new");
    let later = "customer,address,at\nP-1,192.0.2.9,2026-03-01T00:00:00Z\n";
    assert_eq!(import(&site, later).await.json()["recorded"], 1);
    let refused = import(&site, "customer,address,at\nX-1,192.0.2.9,2026-03-01T00:00:00Z\n").await;
    assert!(refused.body.contains("customer X-1 is not known"), "{}", refused.body);

    let site = site.restarted().await;
    let shown = site.json("/api/v1/parties/P-1").await;
    assert_eq!(shown["standing"]["last_access"], "2026-03-01T00:00:00Z");
    assert_eq!(
        (&shown["identity"]["access"], &shown["report_fields"]["A6"]),
        (&json!("present"), &json!("whole"))
    );
    let bundle = site.call("POST", "/api/v1/parties/P-1/bundle", &by(), &[]).await.json();
    let addresses: Vec<_> =
        bundle["accesses"].as_array().unwrap().iter().map(|one| one["address"].clone()).collect();
    assert_eq!(addresses, ["192.0.2.9", "192.0.2.9", "2001:db8::1"]);
    for row in site.app.store.records("accesses").await.unwrap() {
        assert!(!row.body.to_string().contains("192.0.2"), "{}", row.body);
    }
    // A record that is put again does not lose them.
    let mut again = jane();
    again["standing"]["last_access"] = json!("2026-03-01T00:00:00Z");
    again["standing"]["remedy"] = json!("monitored");
    put(&site, "P-1", &again).await;
    assert_eq!(site.json("/api/v1/parties/P-1").await["identity"]["access"], "present");
}

#[tokio::test]
async fn what_is_written_out_in_a_format_says_the_same_when_it_is_read_elsewhere() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    put(&site, "C-1", &entity(None, false)).await;
    site.call("POST", "/api/v1/interests", &json!([interest("P-1", "C-1", "30")]), &[]).await;
    let written = async |format: &str| {
        let answer = site.call("POST", &format!("/api/v1/export/{format}"), &by(), &[]).await;
        assert_eq!(answer.status, StatusCode::OK, "{format}: {}", answer.body);
        answer.body
    };
    for (format, parties) in [("ndjson", 2), ("csv", 2), ("ftm", 3), ("bods", 3), ("verified-claims", 1)] {
        let text = written(format).await;
        assert!(text.contains("Roe"), "{format}: {text}");
        let other = Site::empty().await;
        let bearer = format!("Bearer {}", other.token());
        let kind = if ["ndjson", "csv"].contains(&format) { "parties" } else { format };
        let path = format!("/api/v1/import/{kind}");
        let dry =
            other.sent(&format!("{path}?dry_run=true"), text.clone(), &[("authorization", &bearer)]).await;
        assert_eq!(dry.json()["recorded"], parties, "{format}: {}", dry.body);
        assert_eq!(other.json("/api/v1/parties").await["parties"], json!([]), "{format}");
        let taken = other.sent(&path, text.clone(), &[("authorization", &bearer)]).await;
        assert_eq!(taken.json()["recorded"], parties, "{format}: {}", taken.body);
        let again = other.sent(&path, text, &[("authorization", &bearer)]).await;
        assert_eq!(
            again.json()["recorded"],
            0,
            "{format}: what is known already adds nothing: {}",
            again.body
        );
        let opened = other.call("POST", "/api/v1/parties/P-1/reveal", &by(), &[]).await.json();
        // Claims have days and years, and no months.
        let born = if format == "verified-claims" { "1970" } else { "1970-05" };
        assert_eq!(opened["party"]["born"], born, "{format}: {opened}");
        if ["ftm", "bods"].contains(&format) {
            let behind = other.json("/api/v1/parties/C-1/behind").await;
            assert_eq!(behind["owners"][0]["share"], json!(["30", "30"]), "{format}: {behind}");
        }
    }
    assert!(written("interests").await.contains("P-1,C-1,shareholding,30"));
    let looks = site.app.store.records("audit").await.unwrap();
    assert_eq!(looks.len(), 10, "each of both parties, five times; interests open nobody");
    let refused = site.call("POST", "/api/v1/export/pdf", &by(), &[]).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    let anonymous =
        site.call("POST", "/api/v1/export/csv", &json!({ "actor": "", "reason": "x" }), &[]).await;
    assert_eq!(anonymous.status, StatusCode::UNPROCESSABLE_ENTITY);
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
