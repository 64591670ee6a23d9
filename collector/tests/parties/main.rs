//! Parties over the API: records, who stands behind whom, groups, and the acts on them.

mod behind;
#[expect(dead_code, reason = "shared with other test files")]
#[path = "../common/mod.rs"]
mod common;
mod declared;
mod erasing;
mod files;
#[expect(dead_code, reason = "shared with tests of the registry")]
#[path = "../../registry/tests/support/mmdb.rs"]
mod mmdb;
mod records;
mod reserved;
mod told;

use common::{Answer, Site};
use serde_json::{Value, json};

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
