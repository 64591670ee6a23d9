//! Who held what: reasons for which nobody did, leases over the API, and how few series all of it makes.

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use std::collections::BTreeSet;

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use common::{CUSTOMERS, Site, accelerator, agents, at, batch, device, key, status, window};
use serde_json::{Value, json};
use weighbridge_collector::import::Kind;
use weighbridge_meter::{EpochId, Evidence, Holding, Span};
use weighbridge_wire::{Batch, SigningKey, seal::seal};

const HEADER: &str = "lease,host,accelerator,principal,start,end\n";

async fn submits(site: &Site, batch: &Batch, key: &SigningKey) -> [u8; 32] {
    let sealed = seal(batch, key).expect("seals");
    let answer = site.submit(sealed.bytes).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    sealed.hash
}

/// GPU-1 was seen to be held so, from one minute to another.
fn held(principal: &str, attempt: &str, evidence: Evidence, from: i64, to: i64) -> Holding {
    Holding {
        principal: principal.parse().expect("valid"),
        attempt: attempt.parse().expect("valid"),
        accelerators: vec![accelerator()],
        span: Span::new(at(from), at(to)).expect("not empty"),
        evidence,
    }
}

/// One accelerator that worked from 08:00 to 09:00: held by an unmapped principal for ten minutes, by a job that
/// nobody names for 20, by nobody but the word of an agent that never reported it for 15, by 65 services for 5, and
/// for 10 by nobody at all.
async fn with_every_reason() -> Site {
    let site = Site::empty().await;
    let stranger = SigningKey::from_bytes(&[8; 32]);
    let public = BASE64.encode(stranger.verifying_key().as_bytes());
    let row = format!("agent-2,gpu-9,site,ib,{public},2026-01-01T00:00:00Z,\n");
    site.import(Kind::Agents, &(agents() + &row)).await;
    site.import(Kind::Customers, CUSTOMERS).await;
    let mut first = batch(1);
    first.inventory = vec![device()];
    first.windows = (0..60).map(window).collect();
    first.status = Some(status());
    let hook = Evidence::SchedulerHook;
    first.holdings =
        vec![held("slurm:c/one", "slurm:c/1", hook, 0, 10), held("slurm:c/%3F", "slurm:c/2", hook, 10, 30)];
    let service = |number| {
        let name = format!("unit:gpu-1/unit-{number}");
        held(&name, &name, Evidence::UnitProcess, 45, 50)
    };
    first.holdings.extend((0..65).map(service));
    site.sets(60);
    submits(&site, &first, &key()).await;
    let mut second = batch(1);
    (second.agent, second.epoch) = ("agent-2".parse().expect("valid"), EpochId([9; 16]));
    second.holdings = vec![held("slurm:c/two", "slurm:c/3", hook, 30, 45)];
    submits(&site, &second, &stranger).await;
    site.app.settled().await;
    site
}

const MINUTE: u64 = 60_000;

#[tokio::test]
async fn each_reason_for_which_nobody_held_it_is_told_with_its_time_its_hosts_and_what_would_mend_it() {
    let site = with_every_reason().await;
    let fleet = site.json("/api/v1/fleet").await;
    let expected = json!({
        "no_evidence": 10 * MINUTE, "not_believed": 15 * MINUTE, "unnamed": 20 * MINUTE, "too_many_claims": 5 * MINUTE
    });
    assert_eq!(fleet["totals"]["time"]["unattributed_ms"], expected);
    assert_eq!(fleet["accelerators"][0]["time"]["unattributed_ms"], expected);
    let of_host = &fleet["hosts"][0];
    assert_eq!((&of_host["host"], &of_host["accelerators"]), (&json!("gpu-1"), &json!(1)));
    assert_eq!(of_host["time"]["unattributed_ms"], expected);
    assert_eq!(fleet["totals"]["unmapped_ms"], json!(10 * MINUTE), "attributed, and still nobody's");
    let told = fleet["unattributed"].as_array().expect("a list");
    let reasons: Vec<_> = told.iter().map(|one| one["reason"].as_str().expect("text")).collect();
    assert_eq!(reasons, ["no_evidence", "not_believed", "unnamed", "too_many_claims"]);
    for one in told {
        let time = &expected[one["reason"].as_str().expect("text")];
        assert_eq!(one["time_ms"], *time);
        assert_eq!(one["hosts"], json!([{ "host": "gpu-1", "time_ms": time }]));
        assert!(one["means"].as_str().is_some_and(|words| words.len() > 20), "{one}");
        assert!(one["to_do"].as_str().is_some_and(|words| words.len() > 20), "{one}");
    }
}

#[tokio::test]
async fn pages_say_why_nobody_held_it_and_what_to_do() {
    let site = with_every_reason().await;
    let fleet = site.get("/fleet").await.body;
    let section = fleet.split("id=\"unattributed\"").nth(1).expect("a section").split("</section>").next();
    let section = section.expect("split gives one");
    for shown in [
        ">83.3 %<",
        "is in no customer's total",
        "no_evidence",
        ">16.6 %<",
        "<code>weighbridge-agent doctor</code>",
        "not_believed",
        ">25.0 %<",
        "unnamed",
        ">33.3 %<",
        "import slurm jobs.json",
        "too_many_claims",
        ">8.3 %<",
        "<a href=\"/host?name=gpu-1\">gpu-1</a>",
        "principals that belong to no customer",
        "<a href=\"/customers#unmapped\">map them</a>",
    ] {
        assert!(section.contains(shown), "{shown} is missing in {section}");
    }
    for path in ["/host?name=gpu-1", "/accelerators/GPU-1"] {
        let page = site.get(path).await.body;
        for shown in [
            "Unattributed, because",
            "<strong>33.3 %</strong>",
            "no record says whose that is. To do: import",
            "look at the agents of the host",
        ] {
            assert!(page.contains(shown), "{path}: {shown} is missing in {page}");
        }
    }
}

#[tokio::test]
async fn today_says_how_much_was_unattributed_of_late_and_not_only_ever() {
    let site = with_every_reason().await;
    let page = site.get("/").await.body;
    let most = "<strong>83.3 % of the last 24 h</strong>, most of it because somebody's job";
    assert!(page.contains(most), "{page}");
    assert!(page.contains("href=\"/fleet#unattributed\""), "{page}");
    // Two days later it is leased, and only the past is as it was.
    site.import(
        Kind::Leases,
        &format!("{HEADER}L-1,gpu-1,*,lease:site/one,2026-03-02T09:00:00Z,2026-04-02T09:00:00Z\n"),
    )
    .await;
    site.sets(3 * 24 * 60);
    let page = site.get("/").await.body;
    assert!(page.contains("In the last 24 h it was 0.0 %."), "{page}");
}

#[tokio::test]
async fn a_fleet_in_which_everything_is_somebodys_has_nothing_to_say_of_it() {
    let site = Site::with_an_hour().await;
    assert!(!site.get("/fleet").await.body.contains("id=\"unattributed\""));
    assert!(!site.get("/host?name=gpu-1").await.body.contains("Unattributed, because"));
    let fleet = site.json("/api/v1/fleet").await;
    assert!(
        fleet["unattributed"].as_array().expect("a list").iter().all(|one| one["time_ms"] == 0),
        "{fleet}"
    );
}

/// Value of a line of the text format.
fn gauge(text: &str, line: &str) -> Option<f64> {
    text.lines().find_map(|other| other.strip_prefix(line)?.trim().parse().ok())
}

#[tokio::test]
async fn metrics_count_every_reason_also_those_for_which_there_is_no_time() {
    let text = with_every_reason().await.get("/metrics").await.body;
    let of = |reason: &str| {
        gauge(&text, &format!("weighbridge_collector_unattributed_seconds{{reason=\"{reason}\"}}"))
    };
    let told = ["no_evidence", "not_believed", "unnamed", "too_many_claims"].map(of);
    assert_eq!(told, [Some(600.0), Some(900.0), Some(1200.0), Some(300.0)]);
    assert_eq!(gauge(&text, "weighbridge_collector_unmapped_seconds "), Some(600.0));
    let empty = Site::empty().await.get("/metrics").await.body;
    assert_eq!(empty.matches("\nweighbridge_collector_unattributed_seconds{").count(), 4, "{empty}");
}

fn lease(name: &str, host: &str, accelerator: &str, principal: &str, start: i64, end: i64) -> Value {
    json!({
        "lease": name, "host": host, "accelerator": accelerator, "principal": principal,
        "start": at(start).to_string(), "end": at(end).to_string()
    })
}

#[tokio::test]
async fn a_lease_over_the_api_needs_the_token_and_is_what_the_same_row_of_a_file_is() {
    let site = Site::empty().await;
    let (path, token) = ("/api/v1/leases", site.token());
    let one = lease("L-1", "gpu-1", "*", "lease:site/one", 0, 120);
    for token in [None, Some("wrong")] {
        let refused = site.post(path, token, one.to_string()).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.header("content-type"), "application/problem+json");
    }
    assert_eq!(site.json(path).await["leases"], json!([]));
    let taken = site.post(path, Some(&token), one.to_string()).await;
    assert_eq!((taken.status, taken.json()), (StatusCode::OK, json!({ "rows": 1, "recorded": 1 })));
    let place = site.app.stands().index;
    let row = format!("{HEADER}L-1,gpu-1,*,lease:site/one,{},{}\n", at(0), at(120));
    site.import(Kind::Leases, &row).await;
    let again = site.post(path, Some(&token), json!([one]).to_string()).await;
    assert_eq!(again.json(), json!({ "rows": 1, "recorded": 0 }));
    site.app.settled().await;
    assert_eq!(site.app.stands().index, place, "the ledger got nothing more");
    assert_eq!(site.json(path).await["leases"], json!([one]));
}

#[tokio::test]
async fn a_correction_of_a_lease_is_a_record_of_its_own_and_holds() {
    let site = Site::empty().await;
    let (path, token) = ("/api/v1/leases", site.token());
    let first = lease("L-1", "gpu-1", "*", "lease:site/one", 0, 120);
    let after = lease("L-2", "gpu-1", "*", "lease:site/two", 60, 120);
    let shorter = lease("L-1", "gpu-1", "*", "lease:site/one", 0, 60);
    assert_eq!(site.post(path, Some(&token), first.to_string()).await.status, StatusCode::OK);
    assert_eq!(site.post(path, Some(&token), after.to_string()).await.status, StatusCode::CONFLICT);
    let place = site.app.stands().index;
    let both = json!([shorter, after]).to_string();
    let taken = site.post(path, Some(&token), both).await;
    assert_eq!(taken.json(), json!({ "rows": 2, "recorded": 2 }), "what it replaces is not in its way");
    site.app.settled().await;
    assert_eq!(site.app.stands().index, place + 2);
    assert_eq!(site.json(path).await["leases"], json!([shorter, after]));
}

#[tokio::test]
async fn leases_that_overlap_are_refused_with_both_and_when_they_do() {
    let site = Site::empty().await;
    let (path, token) = ("/api/v1/leases", site.token());
    let there = json!([
        lease("L-1", "gpu-1", "*", "lease:site/one", 0, 120),
        lease("L-2", "gpu-2", "GPU-5", "lease:site/two", 0, 120),
    ]);
    assert_eq!(site.post(path, Some(&token), there.to_string()).await.status, StatusCode::OK);
    let refused = |leases: Value| {
        let (site, token) = (&site, &token);
        async move {
            let answer = site.post(path, Some(token), leases.to_string()).await;
            assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.body);
            assert_eq!(answer.header("content-type"), "application/problem+json");
            answer.json()["errors"].clone()
        }
    };
    let fits = lease("L-8", "gpu-2", "GPU-6", "lease:site/four", 0, 120);
    let errors = refused(json!([fits, lease("L-9", "gpu-1", "GPU-1", "lease:site/three", 90, 180)])).await;
    assert_eq!(
        errors,
        json!([
            "request: row 2: lease L-9 of lease:site/three for GPU-1 of host gpu-1 from 2026-03-02T09:30:00Z to \
             2026-03-02T11:00:00Z overlaps lease L-1 of lease:site/one for * of host gpu-1 from 2026-03-02T08:00:00Z to \
             2026-03-02T10:00:00Z, which is there, from 2026-03-02T09:30:00Z to 2026-03-02T10:00:00Z"
        ])
    );
    let errors = refused(lease("L-9", "gpu-2", "8x10de:2330", "lease:site/three", -60, 30)).await;
    assert!(
        errors[0].as_str().is_some_and(|line| line.contains("lease L-2 of lease:site/two for GPU-5")),
        "{errors}"
    );
    // Among themselves.
    let two = [
        lease("L-6", "gpu-3", "*", "lease:site/six", 0, 120),
        lease("L-7", "gpu-3", "GPU-1", "lease:site/seven", 60, 180),
    ];
    let errors = refused(json!(two)).await;
    assert_eq!(
        errors,
        json!([
            "request:2: accelerator: rows 1 and 2 overlap on host \"gpu-3\" from 2026-03-02T09:00:00Z to \
             2026-03-02T10:00:00Z, lease L-6 and lease L-7, expected one lease of an accelerator at a time"
        ])
    );
    // A lease is one principal's.
    let errors = refused(lease("L-1", "gpu-4", "*", "lease:site/three", 0, 60)).await;
    assert!(
        errors[0].as_str().is_some_and(|line| line.contains("L-1 is there for lease:site/one")),
        "{errors}"
    );
    // A file is refused for the same reason, in the same words.
    let row = format!("{HEADER}L-9,gpu-1,GPU-1,lease:site/three,{},{}\n", at(90), at(180));
    let error = site.app.import(Kind::Leases, "l.csv", row.as_bytes()).await.unwrap_err().to_string();
    assert!(error.starts_with("l.csv: row 1: lease L-9") && error.contains("overlaps lease L-1"), "{error}");
    let twice = format!(
        "{HEADER}L-6,gpu-3,*,lease:site/six,{},{}\nL-7,gpu-3,GPU-1,lease:site/seven,{},{}\n",
        at(0),
        at(120),
        at(60),
        at(180)
    );
    let error = site.app.import(Kind::Leases, "l.csv", twice.as_bytes()).await.unwrap_err().to_string();
    assert!(error.contains("lines 2 and 3 overlap") && error.contains("lease L-6 and lease L-7"), "{error}");
    assert_eq!(
        site.json(path).await["leases"].as_array().map(Vec::len),
        Some(2),
        "nothing of these is there"
    );
    // Beside each other, and one after the other.
    let fits = json!([fits, lease("L-3", "gpu-1", "*", "lease:site/three", 120, 180)]);
    assert_eq!(site.post(path, Some(&token), fits.to_string()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn every_fault_of_leases_is_told_by_row_and_column_and_nothing_is_recorded() {
    let site = Site::empty().await;
    let (path, token) = ("/api/v1/leases", site.token());
    let mut backwards = lease("L-2", "gpu-1", "*", "lease:site/one", 60, 0);
    backwards["principal"] = json!("nobody");
    let mut numbered = lease("L-3", "gpu-2", "*", "lease:site/one", 0, 60);
    numbered["host"] = json!(7);
    let mut unknown = lease("L-4", "gpu-2", "*", "lease:site/one", 0, 60);
    unknown["customer"] = json!("C-1");
    let mut missing = lease("L-5", "gpu-2", "*", "lease:site/one", 0, 60);
    missing.as_object_mut().expect("an object").remove("end");
    let good = lease("L-1", "gpu-9", "*", "lease:site/one", 0, 60);
    let all = json!([good, backwards, numbered, unknown, missing, "L-6"]);
    let refused = site.post(path, Some(&token), all.to_string()).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let errors = refused.json()["errors"].clone();
    let starts = [
        "request:2: principal: \"nobody\", expected scheme:scope/name",
        "request:2: end: \"2026-03-02T08:00:00Z\", expected a time after start",
        "request:3: host: expected text",
        "request:4: \"customer\" is unknown, expected lease, host, accelerator, principal, start, end",
        "request:5: end: blank, expected an RFC 3339 time",
        "request:6: no object, expected one with lease,",
    ];
    assert_eq!(errors.as_array().map(Vec::len), Some(starts.len()), "{errors}");
    for (index, start) in starts.iter().enumerate() {
        assert!(errors[index].as_str().is_some_and(|line| line.starts_with(start)), "{start}: {errors}");
    }
    for body in ["", "{", "[]", "7", "null", "[[]]"] {
        let refused = site.post(path, Some(&token), body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {}", refused.body);
        assert_eq!(refused.header("content-type"), "application/problem+json", "{body}");
    }
    assert_eq!(site.json(path).await["leases"], json!([]));
}

#[tokio::test]
async fn leases_are_found_by_host_principal_and_name() {
    let site = Site::empty().await;
    let all = [
        lease("L-1", "gpu-1", "GPU-1", "lease:site/one", 0, 60),
        lease("L-1", "gpu-2", "*", "lease:site/one", 0, 60),
        lease("L-2", "gpu-1", "GPU-2", "lease:site/two", 0, 60),
        lease("L-3", "gpu-3", "8x10de:2330", "lease:site/two", 0, 60),
    ];
    let taken = site.post("/api/v1/leases", Some(&site.token()), json!(all).to_string()).await;
    assert_eq!(taken.json()["recorded"], 4, "{}", taken.body);
    for (asked, expected) in [
        ("host=gpu-1", vec![&all[0], &all[2]]),
        ("principal=lease:site/two", vec![&all[2], &all[3]]),
        ("lease=L-1", vec![&all[0], &all[1]]),
        ("lease=L-1&host=gpu-2", vec![&all[1]]),
        ("host=gpu", vec![]),
    ] {
        assert_eq!(site.json(&format!("/api/v1/leases?{asked}")).await["leases"], json!(expected), "{asked}");
    }
    for asked in ["principal=nobody", "hosts=gpu-1"] {
        let refused = site.get(&format!("/api/v1/leases?{asked}")).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{asked}");
    }
}

/// Names and labels of all series, but those of the tree over the ledger: the first checkpoint is signed beside all
/// else, whenever that is.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.filter(|line| !line.starts_with("weighbridge_collector_tree_"));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[tokio::test]
async fn a_thousand_principals_and_their_accelerators_are_not_one_series_more() {
    let site = Site::empty().await;
    site.import(Kind::Agents, &agents()).await;
    site.import(Kind::Customers, CUSTOMERS).await;
    let mapping = "principal,customer,valid_from,valid_to\nslurm:c/account-0,C-1,2026-03-01T00:00:00Z,\n";
    site.import(Kind::Principals, mapping).await;
    let mut first = batch(1);
    first.inventory = vec![device()];
    first.windows = vec![window(0)];
    first.holdings = vec![held("slurm:c/account-0", "slurm:c/0", Evidence::SchedulerHook, 0, 1)];
    site.sets(60);
    let hash = submits(&site, &first, &key()).await;
    site.app.settled().await;
    let before = series(&site.get("/metrics").await.body);
    let mut second = batch(2);
    second.prev_hash = hash;
    for number in 1..1000_i64 {
        let id = format!("GPU-{}", 2 + number % 63).parse().expect("valid");
        let (job, account) = (format!("slurm:c/{number}"), format!("slurm:c/account-{number}"));
        let mut holding = held(&account, &job, Evidence::SchedulerHook, number / 63, number / 63 + 1);
        holding.accelerators = vec![id];
        second.holdings.push(holding);
    }
    for number in 2..65 {
        let id = format!("GPU-{number}").parse::<weighbridge_meter::AcceleratorId>().expect("valid");
        second.windows.push(weighbridge_meter::Window { accelerator: id.clone(), ..window(0) });
        second.inventory.push(weighbridge_wire::DeviceRecord { accelerator: id, ..device() });
    }
    submits(&site, &second, &key()).await;
    site.app.settled().await;
    site.sets(61);
    assert_eq!(site.json("/api/v1/fleet").await["totals"]["accelerators"], 64);
    let text = site.get("/metrics").await.body;
    assert_eq!(gauge(&text, "weighbridge_collector_unmapped_principals "), Some(999.0));
    let after = series(&text);
    assert_eq!(after, before);
    let of_customers = after.iter().filter(|one| one.contains("{") && one.contains("customer=\""));
    let known: BTreeSet<&str> =
        of_customers.filter_map(|one| one.split("customer=\"").nth(1)?.split('"').next()).collect();
    assert_eq!(known, BTreeSet::from(["C-1"]), "who held something and is registered, and no others");
    let no_labels = [
        "accelerator",
        "gpu",
        "device",
        "host",
        "agent",
        "job",
        "pod",
        "pid",
        "namespace",
        "container",
        "user",
        "uid",
        "attempt",
        "principal",
        "lease",
        "run",
    ];
    for one in &after {
        let inside = one.split_once('{').map_or("", |(_, inside)| inside);
        for label in inside.split("\",").filter_map(|pair| pair.split('=').next()) {
            assert!(!no_labels.contains(&label), "{one}");
        }
    }
}
