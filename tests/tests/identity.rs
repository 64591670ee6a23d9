//! Nobody reads who a customer is: identities are planted in a real collector by every way there is, and looked for in
//! all that it writes, serves and backs up, without a key; then a party is erased and looked for with all keys but its
//! own.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use weighbridge_registry::{KeyError, KeyStore, OperatorKey, SealedCustomer};
use weighbridge_store::{Body, Fact};
use weighbridge_tests::{
    collector::Collector,
    http::{self, Answer},
    ledgers,
    planted::{Planted, files_below},
};

/// In records that are taken.
const SECRETS: [&str; 15] = [
    "Zinovia Plantedname",
    "Зиновия Посаженная",
    "12 Planted Street",
    "Plantedville",
    "zinovia@planted.example",
    "planted-domain.example",
    "+30 555 0142 99",
    "Planted Savings",
    "planted-wallet-77",
    "PLANTED4711",
    "192.0.2.143",
    "Planted Checker",
    "Planted purpose 99",
    "192.0.2.144",
    "192.0.2.145",
];

/// In what is refused: errors and logs must not repeat it either.
const REFUSED: [&str; 3] = ["Refusedname", "refused@planted", "Refused Street"];

/// What a person wrote as a reason is no identity and is there: it shows that the search finds what there is.
const CONTROL: &str = "planted control 4711";

const HEADER: &str = "customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,email,telephone,access";

fn record() -> Value {
    json!({
        "standing": { "closed": "2020-02-01T00:00:00Z" },
        "party": {
            "kind": "person",
            "names": [
                { "kind": "legal", "full": "Zinovia Plantedname" },
                { "kind": "transliteration", "full": "Зиновия Посаженная", "script": "Cyrl" },
            ],
            "addresses": [{ "kind": "principal", "full": "12 Planted Street, Plantedville", "locality": "Plantedville" }],
            "emails": ["zinovia@planted.example"],
            "domains": ["planted-domain.example"],
            "telephones": ["+30 555 0142 99"],
            "payments": [{ "means": "Planted Savings", "source": "planted-wallet-77" }],
            "identifiers": [{ "scheme": "passport", "number": "PLANTED4711" }],
            "accesses": ["192.0.2.143@2026-01-01T00:00:00Z"],
            "verifications": [{
                "id": "1", "method": "documentary", "checker": "Planted Checker",
                "at": "2026-01-03T00:00:00Z", "outcome": "verified",
            }],
        },
    })
}

struct Desk<'a> {
    collector: &'a Collector,
    token: String,
}

impl Desk<'_> {
    fn of(collector: &Collector) -> Desk<'_> {
        Desk { collector, token: collector.run(&["token"]).stdout.trim().to_owned() }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send(method, path, "application/json", body.to_string().as_bytes())
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
        http::request(self.collector.http(), method, &format!("/api/v1/{path}"), &headers, body).unwrap()
    }
}

/// Everything that is written and served, but keys: all files, backups, logs, pages, API and metrics.
fn everything(collector: &Collector, more: &[&Path]) -> Vec<Vec<u8>> {
    let mut all = files_below(&collector.data());
    for folder in more {
        all.extend(files_below(folder));
    }
    let log = collector.log();
    assert!(!log.is_empty(), "it logs");
    all.extend([log.into_bytes(), collector.metrics().into_bytes()]);
    for path in [
        "/",
        "/customers",
        "/customers/P-1",
        "/customers/P-2",
        "/api/v1/customers",
        "/api/v1/customers/P-1",
        "/api/v1/parties",
        "/api/v1/parties/P-1",
        "/api/v1/parties/P-1/behind",
        "/api/v1/status",
    ] {
        let answer = http::get(collector.http(), path).unwrap();
        assert_eq!(answer.status, 200, "{path}");
        all.push(answer.bytes);
    }
    all
}

/// What is written out in every format, read by another collector, which hides it as well.
fn read_elsewhere(desk: &Desk<'_>, folder: &Path, by: &Value) {
    let mut second = Collector::prepare(&folder.join("second"), "[log]\nlevel = \"debug\"\n");
    second.start_ready();
    let reader = Desk::of(&second);
    for (format, kind) in [
        ("csv", "parties"),
        ("ndjson", "parties"),
        ("ftm", "ftm"),
        ("bods", "bods"),
        ("verified-claims", "verified-claims"),
    ] {
        let written = desk.call("POST", &format!("export/{format}"), by);
        assert!(written.body.contains(SECRETS[0]), "{format}: {}", written.body);
        let path = format!("import/{kind}");
        let broken = format!("{}\n{{\"Refusedname\": ", written.body);
        assert_eq!(reader.send("POST", &path, "text/plain", broken.as_bytes()).status, 422, "{format}");
        let read = reader.send("POST", &path, "text/plain", written.body.as_bytes());
        assert_eq!(read.status, 200, "{format}: {}", read.body);
    }
    let read = everything(&second, &[]);
    for secret in SECRETS.iter().chain(&REFUSED) {
        assert!(!Planted::in_any(&read, secret), "{secret}");
    }
}

#[test]
fn no_identity_can_be_found_without_a_key_nor_with_the_operators_once_its_own_is_destroyed() {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = Collector::prepare(&folder.path().join("collector"), "[log]\nlevel = \"debug\"\n");
    collector.start_ready();
    let desk = Desk::of(&collector);

    // By every way in, also such as is refused.
    let taken = desk.call("PUT", "parties/P-1", &record());
    assert_eq!(taken.status, 201, "{}", taken.body);
    let row = "P-2,person,foreign,,Zinovia Plantedname,12 Planted Street,Plantedville,Planted Savings,planted-wallet-77,zinovia@planted.example,+30 555 0142 99,192.0.2.143@2026-01-01T00:00:00Z";
    collector.import("customers", &format!("{HEADER}\n{row}\n"));
    let bad = "P-3,person,alien,,Refusedname,Refused Street,,,,refused@planted,,";
    assert_eq!(collector.try_import("customers", &format!("{HEADER}\n{bad}\n")).code, Some(1));
    // Those are the operator's own files.
    fs::remove_file(collector.folder().join("customers.csv")).unwrap();
    let mut refused = record();
    refused["party"]["names"][0]["full"] = json!("Refusedname\n");
    refused["party"]["emails"] = json!(["refused@planted"]);
    assert_eq!(desk.call("PUT", "parties/P-4", &refused).status, 422);
    refused["party"]["names"][0]["nonsense"] = json!("Refusedname");
    assert_eq!(desk.call("PUT", "parties/P-4", &refused).status, 422);

    let log =
        "customer,address,at\nP-2,192.0.2.144,2026-01-01T00:00:00Z\nP-1,192.0.2.145,2019-01-01T00:00:00Z\n";
    collector.import("accesses", log);
    fs::remove_file(collector.folder().join("accesses.csv")).unwrap();
    let declared = json!({ "id": "D-1", "customer": "P-1", "purpose": "Planted purpose 99", "signed_by": "Zinovia Plantedname", "signed_on": "2026-02-28" });
    let told = desk.call("POST", "statements/declarations", &declared);
    assert_eq!(told.status, 200, "{}", told.body);
    let nonsense = json!({ "id": "D-2", "customer": "P-1", "purpose": "Refusedname\u{0}", "signed_by": "Refusedname", "signed_on": "2026-02-28" });
    assert_eq!(desk.call("POST", "statements/declarations", &nonsense).status, 422);

    // Looked at by who may, which is on record.
    let by = json!({ "actor": "ada", "reason": CONTROL });
    for (by_its, text) in [("name", SECRETS[0]), ("email", "refused@planted")] {
        let sought = json!({ "by_its": by_its, "text": text, "actor": "ada", "reason": "asked" });
        assert_eq!(desk.call("POST", "find", &sought).status, 200);
    }
    read_elsewhere(&desk, folder.path(), &by);
    let opened = desk.call("POST", "parties/P-1/reveal", &by);
    assert!(opened.body.contains("Zinovia Plantedname"), "{}", opened.body);
    assert_eq!(desk.call("POST", "parties/P-2/bundle", &by).status, 200);

    let backup = folder.path().join("backup");
    let mirror = folder.path().join("mirror");
    let path = |path: &Path| path.display().to_string();
    let made = collector.run(&["backup", "--to", &path(&backup)]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let made = collector.run(&["backup", "--keys", "--to", &path(&mirror)]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);

    let all = everything(&collector, &[&backup]);
    for place in [files_below(&collector.data()), files_below(&backup)] {
        assert!(Planted::in_any(&place, CONTROL), "the search finds what is there");
    }
    for secret in SECRETS.iter().chain(&REFUSED) {
        assert!(!Planted::in_any(&all, secret), "{secret}");
        let keys = [files_below(&collector.keys()), files_below(&mirror)].concat();
        assert!(!Planted::in_any(&keys, secret), "{secret} beside the keys");
    }

    let before: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(collector.keys())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();

    // Erased: what was sealed is still in the ledger, and nothing opens it but an older copy of the key store.
    let erased = desk.call("POST", "parties/P-1/erase", &by);
    assert_eq!(erased.status, 200, "{}", erased.body);
    let erased: Value = serde_json::from_str(&erased.body).unwrap();
    assert_eq!(erased["still_in"][0]["to"], path(&mirror), "{erased}");
    let sealed = sealed(&collector, "P-1");
    let opens = |keys: &Path| {
        let operator = OperatorKey::from_file(&collector.folder().join("operator.key")).unwrap();
        KeyStore::at(keys, operator).unwrap().open_party(&sealed)
    };
    assert!(matches!(opens(&collector.keys()), Err(KeyError::KeyDestroyed { .. })));
    assert!(opens(&mirror).is_ok(), "as was said");
    let made = collector.run(&["backup", "--keys", "--to", &path(&mirror)]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert_eq!(collector.get("parties/P-1")["erasure"]["still_in"], json!([]));
    let gone = ["--mirror", &path(&mirror), "--actor", "ada", "--reason", "burnt"];
    let gone = collector.run(&[&["keys", "mirror-gone"][..], &gone].concat());
    assert_eq!(gone.code, Some(0), "{}", gone.stderr);
    let unknown = ["keys", "mirror-gone", "--mirror", "/nonexistent", "--actor", "ada", "--reason", "burnt"];
    let unknown = collector.run(&unknown);
    assert!(
        unknown.stderr.contains("/nonexistent: no mirror of the key store is on record"),
        "{}",
        unknown.stderr
    );
    assert!(matches!(opens(&mirror), Err(KeyError::KeyDestroyed { .. })));
    let with_keys = [
        everything(&collector, &[&backup, &mirror, &collector.keys()]),
        vec![fs::read(collector.folder().join("operator.key")).unwrap()],
    ]
    .concat();
    for secret in SECRETS {
        assert!(!Planted::in_any(&with_keys, secret), "{secret}");
    }
    // The other one is as it was, and the ledger is whole.
    let other = desk.call("POST", "parties/P-2/reveal", &by);
    assert!(other.body.contains("Zinovia Plantedname"), "{}", other.body);
    collector.stop();
    let verified = collector.run(&["verify"]);
    assert_eq!(verified.code, Some(0), "{}{}", verified.stdout, verified.stderr);
    assert!(
        verified.stdout.contains("the keys of 1 erased parties are gone from the key store"),
        "{}",
        verified.stdout
    );
    // A key that came back is found, and goes again.
    let back = before
        .iter()
        .find(|(path, _)| fs::read_to_string(path).is_ok_and(|now| now.contains("destroyed-v1")));
    let (path, key) = back.unwrap();
    fs::write(path, key).unwrap();
    let verified = collector.run(&["verify"]);
    assert_eq!(verified.code, Some(1), "{}", verified.stdout);
    assert!(
        verified.stderr.contains("party P-1: its key was destroyed at")
            && verified.stderr.contains(&path.display().to_string()),
        "{}",
        verified.stderr
    );
    collector.start_ready();
    collector.stop();
    assert_eq!(collector.run(&["verify"]).code, Some(0), "the start has destroyed it again");
    let erasures = ledgers::entries(&collector.data())
        .into_iter()
        .filter(|entry| matches!(&entry.body, Body::Fact(Fact::Record { kind, key, .. }) if kind == "erasure" && key == "P-1"));
    assert_eq!(erasures.count(), 2, "that it was decided, and that it was done");
}

/// A party as it stands in the ledger last.
fn sealed(collector: &Collector, id: &str) -> SealedCustomer {
    let entries = ledgers::entries(&collector.data()).into_iter().filter_map(|entry| match entry.body {
        Body::Fact(Fact::Record { kind, key, body }) if kind == "customer" && key == id => Some(body),
        _ => None,
    });
    serde_json::from_value(entries.last().unwrap()).unwrap()
}
