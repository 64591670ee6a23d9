//! Files of parties, interests and uses, in and out.

use axum::http::StatusCode;
use serde_json::json;
use weighbridge_store::UsageStore;

use super::{SECRETS, by, entity, interest, jane, put};
use crate::common::Site;

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

async fn import(site: &Site, kind: &str, text: &str, query: &str) -> crate::common::Answer {
    let bearer = format!("Bearer {}", site.token());
    site.sent(&format!("/api/v1/import/{kind}{query}"), text.into(), &[("authorization", &bearer)]).await
}

#[tokio::test]
async fn an_own_file_that_comes_back_changes_nothing_whatever_its_format_lost() {
    let site = Site::empty().await;
    let mut person = jane();
    let names = person["party"]["names"].as_array_mut().unwrap();
    names.push(json!({ "kind": "trading", "full": "Roe Trading" }));
    names.push(json!({ "kind": "birth", "full": "Jane Doe" }));
    person["party"]["residence"] = json!("NO");
    put(&site, "P-1", &person).await;
    let mut reseller = entity(None, false);
    reseller["party"]["kind"] = json!("reseller");
    reseller["party"]["born"] = json!("1970-05");
    reseller["party"]["addresses"] = json!([{ "kind": "use", "full": "Some Street", "locality": "Oslo" }]);
    put(&site, "C-1", &reseller).await;
    let mut held = interest("P-1", "C-1", "30");
    held["from"] = json!("2020-01-01T10:00:00Z");
    let votes =
        json!({ "owner": "P-1", "asset": "C-1", "kind": "voting_rights", "share": { "exact": "40" } });
    site.call("POST", "/api/v1/interests", &json!([held, votes]), &[]).await;
    let tag = site.json("/api/v1/parties/P-1").await["tag"].clone();
    for format in ["ftm", "bods", "verified-claims"] {
        let text = site.call("POST", &format!("/api/v1/export/{format}"), &by(), &[]).await.body;
        for query in ["?dry_run=true", ""] {
            let answer = import(&site, format, &text, query).await;
            assert_eq!(answer.json()["recorded"], 0, "{format}{query}: {}", answer.body);
        }
    }
    assert_eq!(site.json("/api/v1/parties/P-1").await["tag"], tag);
}

#[tokio::test]
async fn a_file_in_which_somebody_controls_itself_leaves_no_party_behind() {
    let ftm = r#"{"id":"C-1","schema":"Company","properties":{"name":["A"]}}
{"id":"x","schema":"Control","properties":{"controller":["C-1"],"controlled":["C-1"]}}
"#;
    let other = Site::empty().await;
    put(&other, "C-1", &entity(None, false)).await;
    put(&other, "C-2", &entity(None, false)).await;
    let board = json!({ "owner": "C-2", "asset": "C-1", "kind": "appoints_board" });
    other.call("POST", "/api/v1/interests", &json!([board]), &[]).await;
    let bods = other.call("POST", "/api/v1/export/bods", &by(), &[]).await.body;
    let bods = bods.replace("\"interestedParty\":\"C-2\"", "\"interestedParty\":\"C-1\"");
    for (format, text) in [("ftm", ftm), ("bods", bods.as_str())] {
        let site = Site::empty().await;
        for query in ["?dry_run=true", ""] {
            let refused = import(&site, format, text, query).await;
            assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{format}{query}: {}", refused.body);
            assert!(
                refused.body.contains("interest of C-1 in C-1: nobody controls itself"),
                "{}",
                refused.body
            );
        }
        assert_eq!(site.json("/api/v1/parties").await["parties"], json!([]), "{format}");
    }
}

#[tokio::test]
async fn a_use_that_is_still_to_come_keeps_nobody_for_ever() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    let refused =
        import(&site, "accesses", "customer,address,at\nP-1,192.0.2.9,9999-12-01T00:00:00Z\n", "").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        refused.body.contains("accesses.csv:2: at: 9999-12-01T00:00:00Z is still to come"),
        "{}",
        refused.body
    );
    let mut record = jane();
    record["standing"]["last_access"] = json!("9999-12-01T00:00:00Z");
    let refused = put(&site, "P-1", &record).await;
    assert!(refused.body.contains("standing.last_access: 9999-12-01T00:00:00Z"), "{}", refused.body);
    assert_eq!(site.json("/api/v1/parties/P-1").await["standing"]["last_access"], json!(null));
}

#[tokio::test]
async fn a_use_that_turns_out_to_be_administration_is_taken() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    for what in ["access", "administration"] {
        let log = format!("customer,address,at,what\nP-1,192.0.2.9,2026-02-28T10:00:00Z,{what}\n");
        for recorded in [1, 0] {
            let answer = import(&site, "accesses", &log, "").await;
            assert_eq!(answer.json()["recorded"], recorded, "{what}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn a_log_is_kept_in_pieces_and_seldom_whole_and_read_as_one() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    let first = "2026-01-01T00:00:00Z".parse::<weighbridge_meter::UtcMillis>().unwrap();
    let pieces = 70;
    for piece in 0..pieces {
        let at = first.plus(piece * weighbridge_meter::UtcMillis::MINUTE);
        let log = format!("customer,address,at\nP-1,192.0.2.9,{at}\n");
        let answer = import(&site, "accesses", &log, "").await;
        assert_eq!(answer.json()["recorded"], 1, "{}", answer.body);
    }
    let rows = site.app.store.records("accesses").await.unwrap();
    let whole = rows.iter().filter(|row| row.body.is_string()).count();
    assert_eq!((rows.len(), whole), (70, 1));
    let records = site.app.store.records("customer").await.unwrap();
    assert_eq!(records.len(), 3, "as it was put, with its first use, and with the whole log");
    let site = site.restarted().await;
    let shown = site.json("/api/v1/parties/P-1").await;
    let last = first.plus((pieces - 1) * weighbridge_meter::UtcMillis::MINUTE);
    assert_eq!(shown["standing"]["last_access"], json!(last));
    assert_eq!(shown["access_times"], json!({ "grain": "exact", "uses": pieces }));
    let bundle = site.call("POST", "/api/v1/parties/P-1/bundle", &by(), &[]).await.json();
    assert_eq!(bundle["accesses"].as_array().unwrap().len(), 70);
}

#[tokio::test]
async fn times_that_do_not_stand_for_every_use_say_for_how_many() {
    let site = Site::empty().await;
    put(&site, "P-1", &jane()).await;
    let lines: String = (0..10_001).map(|at| format!("P-1,192.0.2.9,{}\n", 1_767_225_600 + at)).collect();
    let answer = import(&site, "accesses", &format!("customer,address,at\n{lines}"), "").await;
    assert_eq!(answer.json()["recorded"], 1, "{}", answer.body);
    let times = json!({
        "grain": "days", "uses": 10_001,
        "note": "times are the first and the last of each address and UTC day, and stand for 10001 uses",
    });
    assert_eq!(site.json("/api/v1/parties/P-1").await["access_times"], times);
    let bundle = site.call("POST", "/api/v1/parties/P-1/bundle", &by(), &[]).await.json();
    assert_eq!(bundle["access_times"], times);
}

#[tokio::test]
async fn records_are_known_by_their_first_character_behind_a_byte_order_mark_too() {
    let site = Site::empty().await;
    let mut line = jane();
    line["id"] = json!("P-1");
    let answer = import(&site, "parties", &format!("\u{feff}{line}\n"), "").await;
    assert_eq!(answer.json()["recorded"], 1, "{}", answer.body);
}

#[tokio::test]
async fn what_a_file_says_that_has_no_place_is_counted_by_name() {
    let site = Site::empty().await;
    let ftm = r#"{"id":"C-1","schema":"Company","properties":{"name":["A"]}}
{"id":"v","schema":"Vessel","properties":{"name":["B"]}}
{"id":"w","schema":"Vessel","properties":{"name":["C"]}}
{"id":"a","schema":"Airplane","properties":{"name":["D"]}}
"#;
    let answer = import(&site, "ftm", ftm, "").await;
    assert_eq!(answer.json()["left_out"], json!({ "Airplane": 1, "Vessel": 2 }), "{}", answer.body);
}

#[tokio::test]
async fn no_card_number_is_taken_in_a_note_or_a_declaration() {
    let site = Site::empty().await;
    let mut record = jane();
    record["party"]["risk_reasons"] = json!(["pays by 4111 1111 1111 1111 12/27"]);
    let refused = put(&site, "P-1", &record).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        refused.body.contains(
            "party.risk_reasons[0]: the value (withheld) does not fit, expected free of full card numbers"
        ),
        "{}",
        refused.body
    );
    assert!(!refused.body.contains("4111"), "{}", refused.body);
    put(&site, "P-1", &jane()).await;
    let declaration =
        "id,customer,purpose,signed_by,signed_on\nD-1,P-1,see 4111-1111-1111-1111,Jane,2026-01\n";
    let refused = import(&site, "declarations", declaration, "").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.body);
    assert!(!refused.body.contains("4111"), "{}", refused.body);
}
