//! What is told about parties from elsewhere: statements, verifications, and what is counted of them.

use axum::http::StatusCode;
use serde_json::{Value, json};
use weighbridge_collector::import::Kind;
use weighbridge_store::UsageStore;

use super::{
    by, entity, interest, jane,
    mmdb::{self, Data, Shape},
    put,
};
use crate::common::{Answer, Site};

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
        ("C-6", customer("entity", "foreign", "FR", false, json!({ "remedy": "not_opened" }))),
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

    // What is attested is on record with its figures, which stay as they were.
    let attestation = |program: &str| {
        json!({
            "id": "2026", "program": program, "at": "2026-03-02T08:00:00Z", "reviewed": true,
            "updated_for_services": true, "updated_for_threats": true, "complies": true,
            "failures_resolved": true, "by": "Ada",
        })
    };
    let path = "/api/v1/statements/attestations";
    let unknown = site.call("POST", path, &attestation("9"), &[]).await;
    assert_eq!(unknown.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(unknown.body.contains("attestation 2026: program 9 is not known"), "{}", unknown.body);
    let told = site.call("POST", path, &attestation("2"), &[]).await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.body);
    put(&site, "C-7", &customer("entity", "foreign", "NO", true, json!({}))).await;
    let site = site.restarted().await;
    let now = site.call("GET", "/api/v1/certification", &Value::Null, &[]).await.json();
    let then = site.call("GET", "/api/v1/certification?attestation=2026", &Value::Null, &[]).await.json();
    assert_eq!((&now["customers"]["number"], &then["customers"]), (&json!(5), &figures["customers"]));
    assert_eq!(now["attestation"]["id"], "2026");
    let none = site.call("GET", "/api/v1/certification?attestation=1999", &Value::Null, &[]).await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn uses_from_elsewhere_than_declared_are_discrepancies_by_the_databases_of_places() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("countries.mmdb");
    std::fs::write(&database, countries()).unwrap();
    let site = Site::configured(&format!("[places]\ndatabases = [{database:?}]\n")).await;
    let mut used = jane();
    used["party"]["accesses"] = json!(["192.0.2.7@2026-03-01T00:00:00Z"]);
    let made = put(&site, "P-1", &used).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let shown = site.json("/api/v1/parties/P-1").await;
    assert_eq!(shown["standing"]["open_discrepancies"], 1, "it is in Norway, and used from France: {shown}");
    assert_eq!(
        put(&site, "P-1", &used).await.header("etag"),
        made.header("etag"),
        "the same again is no news"
    );
    let opened = site.call("POST", "/api/v1/parties/P-1/reveal", &by(), &[]).await.json();
    let found = &opened["party"]["discrepancies"][0]["what"];
    assert!(found.as_str().unwrap().contains("FR"), "{opened}");
    assert_eq!(opened["party"]["us_person"], jane()["party"]["us_person"], "it decides nothing");

    // A log says the same of another customer, and agrees with a third.
    put(&site, "C-2", &entity(None, false)).await;
    let mut french = entity(None, false);
    french["party"]["addresses"] = json!([{ "kind": "use", "full": "1 Rue X", "country": "FR" }]);
    put(&site, "C-3", &french).await;
    let mut norwegian = french.clone();
    norwegian["party"]["addresses"][0]["country"] = json!("NO");
    put(&site, "C-2", &norwegian).await;
    let log = "customer,address,at\nC-2,192.0.2.9,2026-03-01T00:00:00Z\nC-3,192.0.2.9,2026-03-01T00:00:00Z\n";
    site.import(Kind::Accesses, log).await;
    let open = async |id: &str| {
        site.json(&format!("/api/v1/parties/{id}")).await["standing"]["open_discrepancies"].clone()
    };
    assert_eq!((open("C-2").await, open("C-3").await), (json!(1), Value::Null));
    // What is declared now is compared with what was seen then.
    french["party"]["addresses"][0]["country"] = json!("SE");
    put(&site, "C-3", &french).await;
    assert_eq!(open("C-3").await, 1);
}

/// A database that knows one network, of France.
fn countries() -> Vec<u8> {
    let shape = Shape { record_size: 24, ip_version: 4, built: 1_772_000_000 };
    let france = Data::Map(vec![("country_code", Data::Text("FR"))]);
    mmdb::write(shape, &[("192.0.2.0".parse().expect("an address"), 24, france)])
}
