//! What changes after it was counted: hands, names, counts.

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use common::Site;
use weighbridge_casework::{Standing, Subject};
use weighbridge_collector::import::Kind;

const MAPPING: &str = "principal,customer,valid_from,valid_to\n";
const LEASE: &str = "lease,host,accelerator,principal,start,end\n";

#[tokio::test]
async fn what_was_belongs_to_whose_it_was_and_what_is_to_come_to_whose_it_is() {
    let site = Site::with_an_hour().await;
    let before = site.app.view().await.unwrap().subject(&Subject::Run("L-1".into())).unwrap();
    site.import(Kind::Principals, &format!("{MAPPING}lease:site/one,C-2,2026-03-02T09:00:00Z,\n")).await;
    let view = site.app.view().await.unwrap();
    let (first, second) = (&view.customers["C-1"], &view.customers["C-2"]);
    let (one, two) = (first.totals.bound, second.totals.bound);
    assert!(one.low().tera() > 0 && two.low().tera() > 0);
    assert_eq!(one.low().checked_add(two.low()), Some(before.totals.bound.low()));
    let best = one.best().checked_add(two.best()).unwrap().tera();
    assert!(best.abs_diff(before.totals.bound.best().tera()) <= 1, "{best}: one rounding a part");
    assert_eq!(first.totals.held_ms + second.totals.held_ms, before.totals.held_ms);

    assert_eq!(view.totals(first, Some(90)).projection, None);
    assert!(view.totals(second, Some(90)).projection.is_some());
    let run = view.subject(&Subject::Run("L-1".into())).unwrap();
    assert_eq!((second.standing, run.standing), (Standing::Us, Standing::Foreign));
}

#[tokio::test]
async fn a_principal_that_is_mapped_at_last_keeps_no_future_of_its_own() {
    let site = Site::with_an_hour().await;
    site.import(Kind::Principals, &format!("{MAPPING}lease:site/two,C-2,2026-03-02T09:00:00Z,\n")).await;
    let view = site.app.view().await.unwrap();
    let unmapped = view.unmapped.values().next().unwrap();
    assert_eq!(unmapped.totals.held_ms, 2 * 30 * 60_000);
    assert_eq!((unmapped.attempts.len(), unmapped.current.len()), (1, 0));
}

#[tokio::test]
async fn a_lease_belongs_to_one_principal_and_its_count_can_be_corrected() {
    let site = Site::with_an_hour().await;
    let other = format!("{LEASE}L-1,gpu-9,*,lease:site/nine,2026-03-02T08:00:00Z,2026-03-02T10:00:00Z\n");
    let refused =
        site.app.import(Kind::Leases, "leases.csv", other.as_bytes()).await.unwrap_err().to_string();
    assert!(refused.contains("lease L-1 is there for lease:site/one"), "{refused}");

    let more = "L-2,gpu-2,3x10de:2330,lease:site/two,2026-03-02T08:30:00Z,2026-03-02T10:00:00Z\n";
    site.import(Kind::Leases, &format!("{LEASE}{more}")).await;
    let run = site.json("/api/v1/runs/L-2").await["attempts"][0].clone();
    assert_eq!(run["never_seen"], 3);
    assert_eq!(run["total"]["never_seen_ms"], 3 * 31 * 60_000);
}

#[tokio::test]
async fn a_mapping_corrected_three_months_back_moves_exactly_the_hours_concerned() {
    const DAY: i64 = 24 * 60;
    let site = Site::with_an_hour().await;
    site.import(
        Kind::Leases,
        &format!("{LEASE}L-1,gpu-1,*,lease:site/one,2026-03-02T08:00:00Z,2026-07-01T00:00:00Z\n"),
    )
    .await;
    let mut later = common::batch(1);
    later.epoch = weighbridge_meter::EpochId([9; 16]);
    later.windows = [30 * DAY, 30 * DAY + 1, 89 * DAY].map(common::window).into();
    site.sets(90 * DAY);
    let sealed = weighbridge_wire::seal::seal(&later, &common::key()).expect("seals");
    let answer = site.submit(sealed.bytes).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    site.app.settled().await;

    let measured = async |site: &Site, customer: &str| {
        let customer = site.json(&format!("/api/v1/customers/{customer}")).await;
        let measured = &customer["total"]["measured"];
        let best: u64 = measured["best_tera"].as_str().expect("digits").parse().expect("a number");
        (best, customer["total"]["measured_ms"].as_u64().expect("a number"))
    };
    let hour = async |site: &Site, customer: &str, hour: &str| {
        let hours = site.json(&format!("/api/v1/customers/{customer}/hours")).await;
        let found =
            hours["hours"].as_array().expect("a list").iter().find(|one| one["hour"] == hour).cloned();
        found.map(|one| one["best_tera"].as_str().expect("digits").parse::<u64>().expect("a number"))
    };
    let before = measured(&site, "C-1").await;
    assert_eq!((before.1, measured(&site, "C-2").await), (6 * 60_000, (0, 0)));
    let (wrong, month) = ("2026-03-02T09:00:00Z", "2026-04-01T08:00:00Z");
    let moved = hour(&site, "C-1", wrong).await.expect("it ran then");
    let stays = hour(&site, "C-1", month).await.expect("it ran then");

    site.import(Kind::Principals, &format!("{MAPPING}lease:site/one,C-2,{wrong},2026-03-02T10:00:00Z\n"))
        .await;
    let after = (measured(&site, "C-1").await, measured(&site, "C-2").await);
    assert_eq!(after, ((before.0 - moved, 5 * 60_000), (moved, 60_000)));
    assert_eq!((hour(&site, "C-1", wrong).await, hour(&site, "C-2", wrong).await), (None, Some(moved)));
    assert_eq!(hour(&site, "C-1", month).await, Some(stays));

    // The same from the ledger alone.
    let sums = site.config.data.join("usage.sqlite");
    let site = site.restarted_after(|| std::fs::remove_file(&sums).expect("it is there")).await;
    assert_eq!((measured(&site, "C-1").await, measured(&site, "C-2").await), after);
    assert_eq!(hour(&site, "C-2", wrong).await, Some(moved));
}

#[tokio::test]
async fn a_mapping_goes_back_to_a_customer_that_it_was_taken_from() {
    let site = Site::with_an_hour().await;
    let told = async |customer: &str| {
        let text = format!("{MAPPING}lease:site/one,{customer},2026-03-02T00:00:00Z,2026-03-03T00:00:00Z\n");
        site.app.import(Kind::Principals, "principals.csv", text.as_bytes()).await.unwrap().recorded
    };
    let measured = async |customer: &str| {
        site.app.settled().await;
        let shown = site.json(&format!("/api/v1/customers/{customer}")).await;
        shown["total"]["measured_ms"].as_u64().unwrap()
    };
    let all = measured("C-1").await;
    assert!(all > 0);
    for (customer, recorded) in [("C-1", 1), ("C-2", 1), ("C-2", 0), ("C-1", 1), ("C-1", 0)] {
        assert_eq!(told(customer).await, recorded, "{customer}");
        assert_eq!(measured(customer).await, all, "{customer}");
    }
    assert_eq!(measured("C-2").await, 0);

    // What was corrected in a part of it stays so when the whole is said as before.
    let part = format!("{MAPPING}lease:site/one,C-2,2026-03-02T09:00:00Z,2026-03-02T10:00:00Z\n");
    site.import(Kind::Principals, &part).await;
    let moved = measured("C-2").await;
    assert!(moved > 0 && moved < all);
    assert_eq!((told("C-1").await, measured("C-2").await), (0, moved));
}
