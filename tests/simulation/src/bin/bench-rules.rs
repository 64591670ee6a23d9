//! How long it takes to compare a site's totals with all rule packs: years of usage, thousands of customers and runs.
//!
//! The ledger is real and folded before the clock starts. Then the packs are evaluated as the collector does it: from
//! the sums to findings, once for the first time and once more, after an hour that just ended, and after one that comes
//! two months late. The totals are compared with those of the hours read one by one.
//!
//! `bench-rules [hosts [days [customers [runs]]]]`

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use weighbridge_collector::{
    app::App,
    config::{self, Flags},
    import::Kind,
};
use weighbridge_meter::UtcMillis;
use weighbridge_store::{
    Filter, UsageStore,
    entry::Received,
    ledger::{Outcome, Submission},
};
use weighbridge_tests::{
    usage, wait,
    years::{Host, Years},
};

fn argument(number: usize, otherwise: i64) -> i64 {
    let given = std::env::args().nth(number);
    given.map_or(otherwise, |text| text.parse().expect("a whole number"))
}

fn main() {
    let years = Years {
        hosts: argument(1, 250).try_into().expect("a number of hosts"),
        days: argument(2, 730),
        customers: argument(3, 10_000).try_into().expect("a number of customers"),
        runs: argument(4, 5_000).try_into().expect("a number of runs"),
        seed: 1,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(years));
}

async fn run(years: Years) {
    let home = tempfile::tempdir().expect("a temporary folder can be made");
    let Years { hosts, days, customers, runs, .. } = years;
    println!(
        "{hosts} hosts, {days} days, {customers} customers, {runs} runs: {} rows of usage",
        years.rows()
    );
    let began = wait::instant();
    let mut hosts = years.write(&home.path().join("data/ledger"));
    println!("  ledger written: {}", took(began.elapsed()));
    let now = Arc::new(AtomicI64::new(years.end().plus(UtcMillis::MINUTE).0));
    let began = wait::instant();
    let app = start(home.path(), &now).await;
    println!("  folded: {}", took(began.elapsed()));
    let began = wait::instant();
    for (kind, text) in [(Kind::Customers, years.customers()), (Kind::Principals, years.principals())] {
        app.import(kind, "years.csv", text.as_bytes()).await.expect("a file like any");
    }
    app.settled().await;
    println!("  customers and principals imported: {}", took(began.elapsed()));

    judged(&app, "all packs, for the first time").await;
    minute(&now);
    judged(&app, "all packs, once more").await;
    let resident = usage::resident_kib(std::process::id()) >> 10;
    println!(
        "  memory: {resident} MiB now, at most {} MiB",
        usage::most_resident_kib(std::process::id()) >> 10
    );

    now.store(years.end().plus(UtcMillis::HOUR + UtcMillis::MINUTE).0, Ordering::Relaxed);
    judged(&app, "all packs, an hour later").await;
    submitted(&app, &mut hosts[1], years.end()).await;
    minute(&now);
    judged(&app, "after the last hour of a host").await;
    submitted(&app, &mut hosts[0], years.late()).await;
    minute(&now);
    judged(&app, "after an hour of a host that came two months late").await;
    minute(&now);
    judged(&app, "and once more").await;

    let whole = Filter { from: Some(UtcMillis(i64::MIN)), ..Filter::default() };
    let began = wait::instant();
    let rolled = app.store.sums(&Filter::default()).await.expect("reads");
    let rolled_took = took(began.elapsed());
    let began = wait::instant();
    let plain = app.store.sums(&whole).await.expect("reads");
    println!("  sums: {rolled_took} as they are read, {} hour by hour", took(began.elapsed()));
    assert!(rolled == plain, "what is added up is not what the hours give");
    println!("  both are the same integers, {} rows", rolled.len());
}

async fn start(home: &Path, now: &Arc<AtomicI64>) -> App {
    let at = |name: &str| format!("{:?}", home.join(name));
    let text = format!(
        "[store]\ndata = {}\n[keys]\noperator_key = {}\nkey_store = {}\n",
        at("data"),
        at("operator.key"),
        at("keys")
    );
    let config = config::parse(&text, &Flags::default()).expect("a configuration like any");
    let clock = now.clone();
    App::start(&config, Arc::new(move || UtcMillis(clock.load(Ordering::Relaxed)))).await.expect("it starts")
}

fn minute(now: &AtomicI64) {
    now.fetch_add(UtcMillis::MINUTE, Ordering::Relaxed);
}

/// One hour of a host arrives.
async fn submitted(app: &App, host: &mut Host, hour: UtcMillis) {
    let (sealed, batch) = host.batch(&[hour]);
    let received = Received { clocks: None, salt: [8; 16], envelope: sealed.bytes };
    let submission = Submission { received_at: app.now(), received, batch, hash: sealed.hash };
    let outcome = app.ledger.submit(submission).await.expect("the ledger takes it");
    assert!(matches!(outcome.outcome, Outcome::Accepted { .. }), "{outcome:?}");
    app.settled().await;
}

async fn judged(app: &App, what: &str) {
    let began = wait::instant();
    let view = app.view().await.expect("reads");
    let seen = began.elapsed();
    let judged = app.judge().await.expect("it judges");
    println!(
        "  {what}: {}, of it the view {}; {} attempts, {} new findings",
        took(began.elapsed()),
        took(seen),
        view.account.attempts.len(),
        judged.findings.len()
    );
}

fn took(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.0} ms", time.as_secs_f64() * 1e3)
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
