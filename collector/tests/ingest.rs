//! What comes in, what is refused and how, and what a person sees of it.

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use axum::http::StatusCode;
use common::{Answer, Site, agents, at, batch, device, key, window};
use serde_json::{Value, json};
use weighbridge_collector::{app::App, import::Kind};
use weighbridge_meter::EpochId;
use weighbridge_wire::{Batch, Loss, LossCause, limits, seal::seal};

async fn site(more: &str) -> Site {
    let site = Site::configured(more).await;
    site.import(Kind::Agents, &agents()).await;
    site
}

/// Sends batches, each chained to the one before.
async fn send(site: &Site, batches: &[Batch]) -> Vec<Answer> {
    let mut answers = Vec::new();
    for sealed in sealed(batches) {
        answers.push(site.submit(sealed).await);
    }
    site.app.settled().await;
    answers
}

fn sealed(batches: &[Batch]) -> Vec<Vec<u8>> {
    let mut prev_hash = [0; 32];
    let seal_next = |batch: &Batch| {
        let sealed = seal(&Batch { prev_hash, ..batch.clone() }, &key()).expect("seals");
        prev_hash = sealed.hash;
        sealed.bytes
    };
    batches.iter().map(seal_next).collect()
}

/// A batch with a minute in it.
fn minute(sequence: u64, minute: i64) -> Batch {
    Batch { windows: vec![window(minute)], ..batch(sequence) }
}

fn taken(answers: &[Answer]) {
    for answer in answers {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
}

#[tokio::test]
async fn a_number_used_twice_is_refused_and_one_alarm_is_in_the_ledger_and_seen() {
    let site = site("").await;
    taken(&send(&site, &[minute(1, 0), minute(2, 1)]).await);
    for _ in 0..2 {
        let answers = send(&site, &[minute(1, 0), minute(2, 5)]).await;
        let statuses: Vec<StatusCode> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [StatusCode::OK, StatusCode::CONFLICT]);
        assert_eq!(answers[1].header("content-type"), "application/problem+json");
    }
    let integrity = site.json("/api/v1/integrity").await;
    assert_eq!(integrity["alarms"].as_array().map(Vec::len), Some(1), "{integrity}");
    let alarm = &integrity["alarms"][0];
    assert_eq!((&alarm["kind"], &alarm["agent"]), (&json!("set_back"), &json!("agent-1")));
    for path in ["/", "/fleet"] {
        let page = site.get(path).await.body;
        assert!(page.contains("its spool was set back"), "{page}");
    }
    let metrics = site.get("/metrics").await.body;
    assert!(metrics.contains("weighbridge_collector_alarms{kind=\"set_back\"} 1\n"), "{metrics}");
    assert!(
        metrics.contains("weighbridge_collector_batches_total{outcome=\"refused_conflict\"} 2\n"),
        "{metrics}"
    );

    // It is a fact: another collector on the same ledger knows it, and raises no second one.
    let config = site.config.clone();
    let folder = site.stop().await;
    let app = App::start(&config, std::sync::Arc::new(|| at(60))).await.expect("starts");
    assert_eq!(app.casebook().alarms.len(), 1);
    drop((app, folder));
}

#[tokio::test]
async fn what_is_missing_is_asked_for_and_shown_until_it_is_given_up() {
    let site = site("").await;
    let mut batches = [minute(1, 0), minute(2, 1), minute(3, 2), minute(4, 3), minute(5, 4)];
    let epoch = batches[0].epoch;
    batches[4].losses = vec![
        Loss { epoch, first: 2, last: 2, cause: LossCause::Parked },
        Loss { epoch, first: 3, last: 3, cause: LossCause::Damaged },
    ];
    let sealed = sealed(&batches);
    for (index, missing) in
        [(0, json!([])), (3, json!([{ "epoch": epoch.to_string(), "first": 2, "last": 3 }]))]
    {
        let answer = site.submit(sealed[index].clone()).await;
        assert_eq!(answer.json()["missing"], missing);
    }
    site.app.settled().await;
    let agent = |fleet: Value| fleet["agents"][0]["delivery"].clone();
    let delivery = agent(site.json("/api/v1/fleet").await);
    assert_eq!((&delivery["batches"], &delivery["missing"]), (&json!(2), &json!(2)), "{delivery}");
    assert!(site.get("/").await.body.contains("batches missing"));
    assert!(site.get("/metrics").await.body.contains("weighbridge_collector_missing_batches 2\n"));

    let answer = site.submit(sealed[4].clone()).await;
    assert_eq!(answer.json()["missing"], json!([]));
    site.app.settled().await;
    let delivery = agent(site.json("/api/v1/fleet").await);
    assert_eq!(delivery["missing"], json!(0));
    assert_eq!(delivery["lost"], json!({ "damaged": 1, "parked": 1, "removed": 0 }));
    let metrics = site.get("/metrics").await.body;
    assert!(metrics.contains("weighbridge_collector_lost_batches{cause=\"parked\"} 1\n"), "{metrics}");
    assert!(site.get("/fleet").await.body.contains("Batches that are not here"));
}

#[tokio::test]
async fn two_hosts_with_one_identity_are_an_alarm_and_what_came_first_counts() {
    let site = site("").await;
    let mut first = [Batch { inventory: vec![device()], ..minute(1, 0) }, minute(2, 1)];
    first[1].windows.push(window(2));
    taken(&send(&site, &first).await);
    let before = site.json("/api/v1/usage?accelerator=GPU-1").await["rows"].clone();
    // The other one says of the same minutes that little was done, and by better means.
    let clone = |window: weighbridge_meter::Window| weighbridge_meter::Window {
        tier: weighbridge_meter::Tier::A,
        counters: window
            .counters
            .with(weighbridge_meter::window::Counter::TensorCycles, 0)
            .with(weighbridge_meter::window::Counter::HmmaCycles, 0),
        ..window
    };
    let windows = (0..3).map(|minute| clone(window(minute))).collect();
    taken(&send(&site, &[Batch { epoch: EpochId([9; 16]), windows, ..batch(1) }]).await);
    let rows = site.json("/api/v1/usage?accelerator=GPU-1").await["rows"].clone();
    assert_eq!(rows, before, "what came first counts");
    let judged = site.app.judge().await.expect("judges");
    assert_eq!(judged.alarms.len(), 1, "{judged:?}");
    assert!(site.app.judge().await.expect("judges").alarms.is_empty(), "raised once");
    let integrity = site.json("/api/v1/integrity").await;
    assert_eq!(integrity["alarms"][0]["kind"], json!("two_epochs"));
    assert_eq!(integrity["alarms"][0]["epoch"], json!(EpochId([9; 16]).to_string()));
}

#[tokio::test]
async fn an_agent_over_its_quota_is_told_how_long_to_wait_and_goes_on_after_it() {
    let site = site("[ingest]\nbatches_per_minute = 2\n").await;
    let batches: Vec<Batch> = (1..=5_u8).map(|number| minute(number.into(), number.into())).collect();
    let sealed = sealed(&batches);
    for sealed in &sealed[..4] {
        taken(&[site.submit(sealed.clone()).await]);
    }
    let answer = site.submit(sealed[4].clone()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "30"));
    site.sets(1);
    taken(&[site.submit(sealed[4].clone()).await]);
    assert!(site.get("/metrics").await.body.contains("batches_total{outcome=\"over_quota\"} 1\n"));
}

#[tokio::test]
async fn a_full_disk_is_said_before_anything_is_stored_and_the_collector_is_not_ready() {
    let site = site("[store]\nreserve_bytes = 9000000000000000000\n").await;
    let before = *site.app.ledger.durable().borrow();
    let answer = site.submit(sealed(&[minute(1, 0)]).remove(0)).await;
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "10"));
    assert_eq!(*site.app.ledger.durable().borrow(), before);
    let ready = site.get("/-/ready").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.body.contains("full"), "{}", ready.body);
    assert!(
        site.get("/metrics").await.body.contains("weighbridge_collector_ledger_state{state=\"full\"} 1\n")
    );
}

#[tokio::test]
async fn on_a_full_disk_each_batch_still_asks_the_ledger_whether_there_is_room_again() {
    let site = site("").await;
    let sealed = sealed(&[minute(1, 0), minute(2, 1)]);
    taken(&[site.submit(sealed[0].clone()).await]);
    let mut config = site.config.clone();
    let folder = site.stop().await;
    config.reserve_bytes = Some(9_000_000_000_000_000_000);
    let app = App::start(&config, std::sync::Arc::new(|| at(60))).await.expect("starts");
    let router = weighbridge_collector::ingest::routes(app.clone());
    let ask = async |bytes: Vec<u8>| {
        use tower::ServiceExt;
        let request = axum::http::Request::post("/api/v1/batches").body(axum::body::Body::from(bytes));
        router.clone().oneshot(request.expect("valid")).await.expect("answers").status()
    };
    assert_eq!(ask(sealed[1].clone()).await, StatusCode::SERVICE_UNAVAILABLE, "it is new");
    assert_eq!(
        ask(sealed[0].clone()).await,
        StatusCode::OK,
        "it is there already, and only the ledger knows"
    );
    drop((app, router, folder));
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_whether_it_says_so_or_not() {
    let site = site("").await;
    let answer = site.submit(vec![0; limits::ENCODED_BYTES + 1]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.body);
    let answer = site.submit(vec![0; limits::ENCODED_BYTES]).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
}

#[tokio::test]
async fn a_batch_of_long_ago_is_a_duplicate_if_it_is_the_same_and_an_alarm_if_it_is_not() {
    let site = site("").await;
    let status_only = Batch { status: Some(common::status()), ..batch(3) };
    let batches = [minute(1, 0), minute(2, 1), status_only, minute(4, 3)];
    taken(&send(&site, &batches).await);
    // After a restart only the last hash is remembered.
    let config = site.config.clone();
    let folder = site.stop().await;
    let app = App::start(&config, std::sync::Arc::new(|| at(60))).await.expect("starts");
    let router = weighbridge_collector::ingest::routes(app.clone());
    let ask = async |bytes: Vec<u8>| {
        use tower::ServiceExt;
        let request = axum::http::Request::post("/api/v1/batches").body(axum::body::Body::from(bytes));
        router.clone().oneshot(request.expect("valid")).await.expect("answers").status()
    };
    for sealed in sealed(&batches) {
        assert_eq!(ask(sealed).await, StatusCode::OK);
    }
    assert!(app.casebook().alarms.is_empty());
    assert_eq!(ask(sealed(&[minute(1, 7)]).remove(0)).await, StatusCode::CONFLICT);
    assert_eq!(app.casebook().alarms.len(), 1);
    drop((app, router, folder));
}

#[tokio::test]
async fn what_cannot_be_is_kept_and_certain_of_nothing_and_an_alarm() {
    use weighbridge_meter::window::Counter;
    let site = site("").await;
    site.sets(30);
    // A hundred times the cycles that the clock has.
    let mut forged = window(0);
    for counter in [Counter::ElapsedCycles, Counter::TensorCycles, Counter::HmmaCycles] {
        forged.counters = forged.counters.with(counter, 6_000_000_000_000);
    }
    let honest = Batch { inventory: vec![device()], windows: vec![window(1)], ..batch(1) };
    let future = window(90);
    taken(&send(&site, &[honest, Batch { windows: vec![forged, future], ..batch(2) }]).await);
    let usage = site.json("/api/v1/usage?accelerator=GPU-1").await;
    let honest_low = 60_000_000_000_u64 / 1000 * 540_672 / 1_000_000_000;
    let low: u64 = usage["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["low_tera"].as_str().expect("text").parse::<u64>().expect("a number"))
        .sum();
    assert!(low > 0 && low <= honest_low, "{usage}");
    let measured: u64 = usage["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["measured_ms"].as_u64().expect("a number"))
        .sum();
    assert_eq!(measured, 180_000, "nothing is dropped");

    let judged = site.app.judge().await.expect("judges");
    let kinds: Vec<&str> = judged.alarms.iter().map(|alarm| alarm.kind.as_str()).collect();
    assert_eq!(kinds, ["implausible", "implausible"], "{judged:?}");
    let integrity = site.json("/api/v1/integrity").await;
    let doubts: Vec<&Value> =
        integrity["implausible"].as_array().expect("a list").iter().map(|one| &one["doubt"]).collect();
    assert_eq!(doubts, ["future", "cycles"]);
    let metrics = site.get("/metrics").await.body;
    assert!(
        metrics.contains("weighbridge_collector_implausible_seconds{doubt=\"cycles\"} 60\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_batch_that_marks_hours_without_end_is_refused() {
    let site = site("").await;
    let day = |number: i64| weighbridge_meter::Gap {
        accelerator: common::accelerator(),
        span: weighbridge_meter::Span::new(at(-number * 1440), at(-(number - 1) * 1440)).expect("a day"),
        boot_start_ms: 0,
        cause: weighbridge_meter::GapCause::DeviceLost,
    };
    let marking = |days| Batch { gaps: (1..=days).map(day).collect(), ..batch(1) };
    let answer = site.submit(sealed(&[marking(900)]).remove(0)).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.body);
    taken(&[site.submit(sealed(&[marking(800)]).remove(0)).await]);
}

#[tokio::test]
async fn a_holding_that_marks_hours_without_end_is_refused() {
    let site = site("").await;
    let ids: Vec<_> =
        (0..60).map(|number| format!("GPU-many-{number}").parse().expect("an accelerator")).collect();
    let on = |id: &weighbridge_meter::AcceleratorId, minute| weighbridge_meter::Window {
        accelerator: id.clone(),
        span: weighbridge_meter::Span::new(at(minute), at(minute + 1)).expect("a minute"),
        ..window(0)
    };
    let days = 15;
    let windows = ids.iter().flat_map(|id| [on(id, -days * 1440), on(id, 0)]).collect();
    let first = Batch { windows, ..batch(1) };
    let held = weighbridge_meter::Holding {
        principal: "uid:gpu/1000".parse().expect("a principal"),
        attempt: "one".parse().expect("an attempt"),
        accelerators: ids.clone(),
        span: weighbridge_meter::Span::new(at(-400_000), at(1)).expect("not empty"),
        evidence: weighbridge_meter::Evidence::ProcessOwner,
    };
    let second = Batch { holdings: vec![held], ..batch(2) };
    let [first, second] = sealed(&[first, second]).try_into().expect("two");
    taken(&[site.submit(first).await]);
    // Counted by what is known by then; what slips through before is made anew in parts.
    site.app.settled().await;
    let answer = site.submit(second).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.body);
    assert!(answer.body.contains("too many hours"), "{}", answer.body);
}

#[tokio::test]
async fn what_an_agent_says_of_itself_is_shown_at_once_and_is_in_no_ledger() {
    use weighbridge_wire::{Report, SigningKey, report};
    let site = site("").await;
    let before = *site.app.ledger.durable().borrow();
    let said = Report {
        agent: "agent-1".parse().expect("valid"),
        epoch: EpochId([1; 16]),
        sequence: 9_000,
        boot: weighbridge_meter::BootId([2; 16]),
        boot_ms: 5,
        status: weighbridge_wire::Status { unacknowledged: 1_440, ..common::status() },
    };
    let answer = site.say(report::seal(&said, &key())).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::NO_CONTENT, ""));
    let agent = site.json("/api/v1/fleet").await["agents"][0].clone();
    assert_eq!(
        (&agent["last_said"]["unacknowledged"], &agent["delivery"]["batches"]),
        (&json!(1_440), &json!(0))
    );
    assert!(
        site.get("/host?name=gpu-1").await.body.contains("1\u{202f}440 batches waiting"),
        "{}",
        site.get("/host?name=gpu-1").await.body
    );
    for (bytes, expected) in [
        (report::seal(&said, &SigningKey::from_bytes(&[8; 32])), StatusCode::FORBIDDEN),
        (
            report::seal(&Report { agent: "agent-2".parse().expect("valid"), ..said.clone() }, &key()),
            StatusCode::FORBIDDEN,
        ),
        (vec![7; limits::REPORT_BYTES], StatusCode::BAD_REQUEST),
        (vec![7; limits::REPORT_BYTES + 1], StatusCode::PAYLOAD_TOO_LARGE),
        // A batch is no report, whoever signed it.
        (sealed(&[minute(1, 0)]).remove(0), StatusCode::FORBIDDEN),
    ] {
        let answer = site.say(bytes).await;
        assert_eq!(answer.status, expected, "{}", answer.body);
    }
    assert_eq!(*site.app.ledger.durable().borrow(), before);
}

#[tokio::test]
async fn a_boot_that_began_at_two_moments_is_an_alarm() {
    let site = site("").await;
    let boot = batch(1).boot.to_string();
    let send = async |bytes: Vec<u8>, boot_ms: i64| {
        let answer = site
            .submit_with(
                bytes,
                &[
                    ("x-weighbridge-boot-id", &boot),
                    ("x-weighbridge-boot-ms", &boot_ms.to_string()),
                    ("x-weighbridge-wall-ms", &site.app.now().0.to_string()),
                ],
            )
            .await;
        site.app.settled().await;
        answer.status
    };
    let batches: Vec<Batch> = (1..=3_u8).map(|number| minute(number.into(), number.into())).collect();
    let sealed = sealed(&batches);
    site.sets(10);
    assert_eq!(send(sealed[0].clone(), 600_000).await, StatusCode::OK);
    site.sets(20);
    // Four minutes of waiting and drift are no jump.
    assert_eq!(send(sealed[1].clone(), 1_200_000 - 240_000).await, StatusCode::OK);
    assert!(site.app.judge().await.expect("judges").alarms.is_empty());
    site.sets(30);
    // A clock that is newly off has to say so twice.
    assert_eq!(send(sealed[2].clone(), 1_800_000 + 7_200_000).await, StatusCode::SERVICE_UNAVAILABLE);
    site.sets(31);
    assert_eq!(send(sealed[2].clone(), 1_860_000 + 7_200_000).await, StatusCode::OK);
    let judged = site.app.judge().await.expect("judges");
    let details: Vec<&str> = judged.alarms.iter().map(|alarm| alarm.detail.as_str()).collect();
    assert_eq!(details, [format!("boot {boot} began 7200 s earlier than it did when it first sent")]);
}

#[tokio::test]
async fn a_clock_that_was_never_set_lands_in_the_true_hour_or_is_flagged_and_ages_no_device() {
    use weighbridge_meter::{Span, UtcMillis, Window};
    let unset = |sequence: u64, minute: i64| {
        let start = UtcMillis(minute * UtcMillis::MINUTE);
        let span = Span::new(start, start.plus(UtcMillis::MINUTE)).expect("a minute");
        let device = weighbridge_wire::DeviceRecord { at: start, ..device() };
        let windows = vec![Window { span, ..window(minute) }];
        Batch { inventory: vec![device], windows, ..batch(sequence) }
    };
    let hours = async |site: &Site| {
        site.app.settled().await;
        let rows = site.json("/api/v1/usage?accelerator=GPU-1").await["rows"].clone();
        let fleet = site.json("/api/v1/fleet").await["accelerators"][0].clone();
        (rows, fleet["first_seen"].clone(), fleet["time"]["wall_ms"].clone())
    };
    // It is in contact: its boot clock tells when that was.
    let site = self::site("").await;
    site.sets(30);
    let boot = batch(1).boot.to_string();
    // A clock that is newly off has to say so twice.
    for (minutes, boot_ms, expected) in
        [(30, "1200000", StatusCode::SERVICE_UNAVAILABLE), (31, "1260000", StatusCode::OK)]
    {
        site.sets(minutes);
        let headers = [
            ("x-weighbridge-boot-id", boot.as_str()),
            ("x-weighbridge-boot-ms", boot_ms),
            ("x-weighbridge-wall-ms", boot_ms),
        ];
        let answer = site.submit_with(sealed(&[unset(1, 5)]).remove(0), &headers).await;
        assert_eq!(answer.status, expected, "{}", answer.body);
    }
    let (rows, first_seen, _) = hours(&site).await;
    assert_eq!(first_seen, json!(at(15).to_string()), "{rows}");
    assert_eq!(site.json("/api/v1/integrity").await["implausible"], json!([]));

    // It never was: what it measured is kept where it says, certain of nothing, and the device is as old as we know it.
    let site = self::site("").await;
    site.sets(30);
    taken(&send(&site, &[unset(1, 5)]).await);
    let (rows, first_seen, wall_ms) = hours(&site).await;
    assert_eq!(first_seen, json!(at(30).to_string()), "{rows}");
    assert!(wall_ms.as_u64().is_some_and(|millis| millis < 3_600_000), "{wall_ms}");
    let implausible = site.json("/api/v1/integrity").await["implausible"].clone();
    assert_eq!(
        (&implausible[0]["doubt"], &implausible[0]["hour"]),
        (&json!("past"), &json!("1970-01-01T00:00:00Z"))
    );
}
