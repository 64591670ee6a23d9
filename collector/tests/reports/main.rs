//! Reports: what customers answer, versions beside each other, and paper.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

#[expect(dead_code, reason = "shared with other test files")]
#[path = "../common/mod.rs"]
mod common;
mod paper;
mod reading;

use axum::http::StatusCode;
use common::{Answer, IDENTITY, Site};
use serde_json::{Value, json};
use weighbridge_casework::RulePack;
use weighbridge_collector::{import::Kind, questionnaire::read_answers};
use weighbridge_registry::UsPerson;
use weighbridge_store::UsageStore;

/// The small pack once more, with a line for owners and the fields that only customers can fill.
const FIELDS: &str = r#"report_field = [
    { id = "B1", label = "Operations", citation = "nowhere", confidence = "memory", source = "operations" },
    { id = "B2", label = "Dates", citation = "nowhere", confidence = "memory", source = "dates" },
    { id = "B3", label = "=Training practices", citation = "nowhere", confidence = "memory", source = "attested.training_practices" },
    { id = "B4", label = "Protection of weights", citation = "nowhere", confidence = "memory", source = "attested.weight_protection" },
    { id = "B5", label = "Incidents", citation = "nowhere", confidence = "memory", source = "attested.access_incidents" },"#;

const OWNERS: &str = "[beneficial_owner]\npercent = 25\ncitation = \"nowhere, section 9\"\nconfidence = \"memory\"\n\n[[clock]]";

/// The case of C-1 under the pack with more fields.
struct Paper {
    site: Site,
    case: String,
}

async fn paper() -> Paper {
    let mut site = Site::with_an_hour().await;
    let folder = site.config.packs_folder.clone().unwrap();
    let text = std::fs::read_to_string(folder.join("small@1.toml")).unwrap();
    let text = text
        .replacen("id = \"small\"", "id = \"paper\"", 1)
        .replacen("report_field = [", FIELDS, 1)
        .replacen("[[clock]]", OWNERS, 1);
    let pack = RulePack::parse("paper@1.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    site.config.packs.push((pack, true));
    let site = site.restarted().await;
    site.app.judge().await.unwrap();
    let cases = site.json("/api/v1/cases").await["cases"].clone();
    let case = cases.as_array().unwrap().iter().find(|case| case["pack"] == "paper").unwrap();
    let case = case["id"].as_str().unwrap().to_owned();
    Paper { site, case }
}

impl Paper {
    fn path(&self, of: &str) -> String {
        format!("/api/v1/cases/{}{of}", self.case)
    }

    async fn post(&self, of: &str, body: &Value) -> Answer {
        self.site.call("POST", &self.path(of), body, &[]).await
    }

    async fn answer(&self, key: &str, answer: &str, signed_on: &str) -> Answer {
        let one = json!({
            "customer": "C-1", "key": key, "answer": answer,
            "signed_by": "Planted Signer", "signed_on": signed_on,
        });
        self.post("/answers", &json!({ "actor": "ada", "answers": [one] })).await
    }

    async fn opened(&self) -> Value {
        self.post("/report", &json!({ "actor": "ada", "reason": "a look" })).await.json()
    }

    async fn decided(&self) {
        let decided = json!({ "kind": "decided", "decision": "reportable", "reason": "it trained" });
        for step in [json!({ "kind": "seen" }), decided] {
            let taken = self.post("/steps", &json!({ "actor": "ada", "step": step })).await;
            assert_eq!(taken.status, StatusCode::OK, "{}", taken.body);
        }
    }

    async fn draft(&self) -> Value {
        let made = self.post("/draft", &json!({ "actor": "ada", "reason": "to file it" })).await;
        assert_eq!(made.status, StatusCode::OK, "{}", made.body);
        made.json()
    }
}

fn field<'a>(report: &'a Value, id: &str) -> &'a Value {
    report["fields"].as_array().unwrap().iter().find(|field| field["id"] == id).unwrap()
}

/// Everything in the ledger that is no batch, as text.
async fn ledger(site: &Site) -> String {
    let mut all = String::new();
    for kind in ["answers", "report", "case", "audit", "statement"] {
        for row in site.app.store.records(kind).await.unwrap() {
            all.push_str(&row.body.to_string());
        }
    }
    all
}

#[tokio::test]
async fn questions_go_out_as_a_file_and_its_answers_fill_the_report_of_who_may_see_them() {
    let paper = paper().await;
    let asked = paper.site.json(&paper.path("/questionnaire")).await;
    let questions = asked["customers"][0]["questions"].as_array().unwrap();
    assert_eq!(asked["customers"][0]["customer"], "C-1");
    let keys: Vec<&str> = questions.iter().map(|one| one["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["training_practices", "weight_protection", "access_incidents"]);
    assert!(questions.iter().all(|one| one["citation"] == "nowhere" && !one["label"].is_null()));
    let page = paper.site.get(&format!("/cases/{}", paper.case)).await.body;
    assert!(page.contains("C-1 3 questions"), "{page}");
    let sheet = paper.site.get(&paper.path("/questionnaire?format=html")).await.body;
    assert!(sheet.contains("Protection of weights") && sheet.contains("Customer C-1"), "{sheet}");

    // Filled in by somebody with a spreadsheet, one left blank.
    let file = paper.site.get(&paper.path("/questionnaire?format=csv")).await.body;
    let lines: Vec<&str> = file.lines().collect();
    assert_eq!(lines.len(), 4, "{file}");
    assert!(lines[1].contains(",'=Training practices,"), "a label is no formula: {file}");
    let filled = [
        lines[0].to_owned(),
        format!(
            "{}\"pre-training, then\ntuning\",Planted Signer,2026-03",
            lines[1].strip_suffix(",,").unwrap()
        ),
        format!("{}Planted vault,Planted Signer,2026-03-01", lines[2].strip_suffix(",,").unwrap()),
        lines[3].to_owned(),
    ];
    let rows = read_answers(&format!("\u{feff}{}", filled.join("\r\n"))).unwrap();
    let told = paper.post("/answers", &json!({ "actor": "ada", "answers": rows })).await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.body);
    assert_eq!((&told.json()["rows"], &told.json()["recorded"]), (&json!(3), &json!(2)));
    let again = paper.post("/answers", &json!({ "actor": "ada", "answers": rows })).await;
    assert_eq!(again.json()["recorded"], 0, "what is known is not recorded again");

    let Paper { site, case } = paper;
    let paper = Paper { site: site.restarted().await, case };
    let report = paper.opened().await;
    let practices = field(&report, "B3");
    assert_eq!(practices["value"], json!(["pre-training, then", "tuning"]));
    assert_eq!(
        practices["provenance"],
        "answered by the customer, signed by Planted Signer on 2026-03, not verified"
    );
    assert_eq!(field(&report, "B4")["value"], "Planted vault");
    assert_eq!(field(&report, "B5")["blank"], true);
    let asked = paper.site.json(&paper.path("/questionnaire")).await;
    assert_eq!(asked["customers"][0]["questions"].as_array().unwrap().len(), 1, "{asked}");

    let masked = paper.site.json(&paper.path("/report")).await;
    assert_eq!(field(&masked, "B3")["provenance"], "said by the customer, sealed and not opened here");
    assert!(!masked.to_string().contains("Planted"), "{masked}");
    let kept = ledger(&paper.site).await;
    assert!(!kept.contains("Planted") && !kept.contains("tuning"), "{kept}");
}

#[tokio::test]
async fn a_later_word_of_the_customer_counts_whichever_way_it_came() {
    let paper = paper().await;
    let declaration = json!({
        "id": "D-1", "customer": "C-1", "purpose": "x", "training_practices": "declared practices",
        "cybersecurity_practices": "declared vault", "from": "2026-02", "to": "2026-06-30",
        "signed_by": "Planted Signer", "signed_on": "2026-02-10",
    });
    let told = paper.site.call("POST", "/api/v1/statements/declarations", &declaration, &[]).await;
    assert_eq!(told.json()["recorded"], 1, "{}", told.body);
    let report = paper.opened().await;
    assert_eq!(field(&report, "B3")["value"], "declared practices");
    assert_eq!(field(&report, "B4")["value"], "declared vault");
    let dates = field(&report, "B2");
    assert_eq!(dates["value"][0], "declared start: 2026-02");
    assert_eq!(dates["value"][1], "declared completion: 2026-06-30");
    assert!(
        dates["provenance"].as_str().unwrap().contains("signed by Planted Signer on 2026-02-10"),
        "{dates}"
    );
    let masked = paper.site.json(&paper.path("/report")).await;
    assert!(!masked.to_string().contains("declared start:"), "{masked}");

    paper.answer("training_practices", "older answer", "2026-01").await;
    assert_eq!(field(&paper.opened().await, "B3")["value"], "declared practices");
    paper.answer("training_practices", "newer answer", "2026-02-11").await;
    assert_eq!(field(&paper.opened().await, "B3")["value"], "newer answer");
}

#[tokio::test]
async fn an_answer_that_cannot_be_is_refused_with_its_place_and_nothing_is_recorded() {
    let paper = paper().await;
    let row = |customer: &str, key: &str, answer: &str, by: &str, on: &str| json!({ "customer": customer, "key": key, "answer": answer, "signed_by": by, "signed_on": on });
    let good = row("C-1", "weight_protection", "a vault", "Planted Signer", "2026-03-01");
    for (bad, says) in [
        (row("C-2", "weight_protection", "x", "y", "2026"), "answer 2: customer \"C-2\" is not asked in"),
        (row("C-1", "shoe_size", "x", "y", "2026"), "answer 2: key \"shoe_size\" is not asked in"),
        (
            row("C-1", "access_incidents", "x", " ", "2026"),
            "answer 2: signed_by: 1 bytes, expected who signed",
        ),
        (
            row("C-1", "access_incidents", "x", "y", "soon"),
            "answer 2: signed_on: \"soon\", expected a date as",
        ),
        (
            row("C-1", "access_incidents", "x", "y", "2026-03-03"),
            "answer 2: signed_on: 2026-03-03 is still to come",
        ),
        (
            row("C-1", "access_incidents", "card 4111 1111 1111 1111", "y", "2026"),
            "free of full card numbers",
        ),
        (row("C-1", "access_incidents", &"x".repeat(4097), "y", "2026"), "answer 2: answer: 4097 bytes"),
        (good.clone(), "answer 2: C-1 answers weight_protection twice"),
    ] {
        let told = paper.post("/answers", &json!({ "actor": "ada", "answers": [good, bad] })).await;
        assert_eq!(told.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", told.body);
        assert!(told.body.replace("\\\"", "\"").contains(says), "{says}: {}", told.body);
        assert!(!told.body.contains("4111"), "{}", told.body);
    }
    let nobody = paper.post("/answers", &json!({ "actor": " ", "answers": [good] })).await;
    assert_eq!(nobody.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", nobody.body);
    let body = json!({ "actor": "ada", "answers": [good] }).to_string();
    let refused = paper.site.post(&paper.path("/answers"), None, body).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(paper.site.app.store.records("answers").await.unwrap().is_empty());

    assert_eq!(
        read_answers("customer,key,answer\n").unwrap_err().len(),
        2,
        "each column that is missing is named"
    );
    let torn = read_answers("customer,key,answer,signed_by,signed_on\nC-1,x\n").unwrap_err();
    assert!(torn[0].starts_with("line 2: "), "{torn:?}");
}

#[tokio::test]
async fn drafts_are_kept_say_what_changed_and_go_with_who_they_name() {
    let paper = paper().await;
    paper.decided().await;
    let first = paper.draft().await;
    assert!(first["report"].get("changes").is_none(), "there is nothing before the first");
    paper.answer("access_incidents", "none known", "2026-03-01").await;
    let second = paper.draft().await;
    let changes = &second["report"]["changes"];
    assert_eq!(changes["since"], 1);
    assert_eq!(changes["changes"].as_array().unwrap().len(), 1, "{changes}");
    assert_eq!(changes["changes"][0]["what"], "Field B5: Incidents");
    assert_eq!(changes["changes"][0]["before"], json!(["blank"]));
    assert_eq!(changes["changes"][0]["after"], json!(["none known"]));
    assert!(second["html"].as_str().unwrap().contains("What changed"));

    let look = json!({ "actor": "bob", "reason": "to compare" });
    let shown = paper.post("/report?version=1", &look).await.json();
    assert_eq!(shown, first["report"], "what is kept is what was drafted");
    let both = json!({ "actor": "bob", "reason": "to compare", "from": 1, "to": 2 });
    assert_eq!(paper.post("/diff", &both).await.json(), *changes);
    let audit = paper.site.app.store.records("audit").await.unwrap();
    let looks = audit.iter().filter(|row| row.body["actor"] == "bob");
    let looks: Vec<&str> = looks.map(|row| row.body["what"].as_str().unwrap()).collect();
    assert_eq!(looks, ["draft 1", "draft 1", "draft 2"]);
    let kept = ledger(&paper.site).await;
    assert!(IDENTITY.iter().all(|value| !kept.contains(value)), "{kept}");

    let path = paper.path("/report?version=1");
    assert_eq!(paper.site.get(&path).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(paper.post("/report?version=1", &json!({ "masked": true })).await.status.as_u16(), 422);
    assert_eq!(paper.post("/report?version=9", &look).await.status, StatusCode::NOT_FOUND);
    let nobody = json!({ "actor": " ", "reason": "to compare" });
    assert_eq!(paper.post("/report?version=1", &nobody).await.status.as_u16(), 422);

    let destroyed = "C-1".parse().unwrap();
    paper.site.app.keys.destroy(&destroyed).unwrap();
    let gone = paper.post("/report?version=1", &look).await;
    assert_eq!(gone.status, StatusCode::GONE, "{}", gone.body);
    assert!(gone.body.contains("names C-1, whose identity is erased"), "{}", gone.body);
    assert_eq!(paper.post("/diff", &both).await.status, StatusCode::GONE);
}

#[tokio::test]
async fn a_foreign_owner_of_a_us_customer_is_pointed_out_and_changes_nobodys_standing() {
    let paper = paper().await;
    assert!(paper.opened().await.get("remarks").is_none(), "a foreign customer needs no remark");
    paper.site.import(Kind::Customers, &common::CUSTOMERS.replacen("entity,foreign", "entity,us", 1)).await;
    let person = |status: &str| {
        json!({ "party": {
            "kind": "person", "names": [{ "kind": "legal", "full": "Planted Owner" }],
            "us_person": [{
                "says": status, "basis": "citizenship", "decides": true,
                "at": "2026-01-02T00:00:00Z", "by": "desk",
            }],
        } , "standing": { "no_account": true } })
    };
    for (id, status) in [("P-1", "foreign"), ("P-2", "us"), ("P-3", "foreign")] {
        let put = paper.site.call("PUT", &format!("/api/v1/parties/{id}"), &person(status), &[]).await;
        assert_eq!(put.status, StatusCode::CREATED, "{}", put.body);
    }
    let holds = |owner: &str, percent: &str| json!({ "owner": owner, "asset": "C-1", "kind": "shareholding", "share": { "exact": percent } });
    let told = json!([holds("P-1", "30"), holds("P-2", "50"), holds("P-3", "20")]);
    let told = paper.site.call("POST", "/api/v1/interests", &told, &[]).await;
    assert_eq!(told.json()["recorded"], 3, "{}", told.body);
    let report = paper.site.json(&paper.path("/report")).await;
    let remarks: Vec<&str> =
        report["remarks"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert_eq!(
        remarks,
        [
            "Customer C-1 is on record as a U.S. person, and P-1, a foreign person, holds 30 % of it in the end, which \
          reaches the line of a beneficial owner (25 %: nowhere, section 9). The standing of the customer is not changed \
          by this. Whether a foreign beneficial owner makes it one that the instrument is about is for a person to \
          decide."
        ]
    );
    let page = paper.site.get(&format!("/cases/{}", paper.case)).await.body;
    assert!(page.contains("P-1, a foreign person, holds 30 %"), "{page}");
    assert!(!report.to_string().contains("Planted"), "{report}");
    assert_eq!(paper.site.app.customers()["C-1"].us_person, UsPerson::Us);
}
