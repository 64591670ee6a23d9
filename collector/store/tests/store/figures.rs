//! Better figures, and clocks that the operator's words do not follow.

use std::sync::Arc;

use weighbridge_meter::{AcceleratorTable, BootId, Estimator, Evidence};
use weighbridge_store::{Fact, SqliteStore, UsageStore, follow::Follower};

use crate::support::{Book, agent, at, batch, device, enrolled, holding, minutes, usage, window};

const TABLE: &str = include_str!("../../../../agent/meter/data/accelerators.csv");

fn method(name: &str) -> Fact {
    Fact::Method { method: name.into(), figures_sha256: String::new() }
}

#[tokio::test]
async fn a_new_method_re_estimates_what_was_summed_by_the_old_one() {
    // As if H100 had been found to do twice as much.
    let better = || Estimator::new(AcceleratorTable::parse(&TABLE.replace(",540672,", ",1081344,")).unwrap());
    let mut book = Book::new(1 << 20);
    book.fact(method("old"));
    book.fact(enrolled(0));
    let mut first = batch(0, 1);
    first.inventory.push(device(0, 0, at(0)));
    first.windows.push(window(0, minutes(0, 1), 500));
    book.batch(&first);
    let store = book.folded().await;
    let before = usage(&store).await;

    book.fact(method("new"));
    book.sync();
    let mut follower = Follower::new(book.folder(), store.clone(), better()).await.unwrap();
    follower.catch_up(book.end()).await.unwrap();
    let fresh = Arc::new(SqliteStore::in_memory().await.unwrap());
    let mut anew = Follower::new(book.folder(), fresh.clone(), better()).await.unwrap();
    anew.catch_up(book.end()).await.unwrap();
    assert_ne!(usage(&store).await, before);
    assert_eq!(store.fingerprint().await.unwrap(), fresh.fingerprint().await.unwrap());
}

#[tokio::test]
async fn a_lease_file_is_not_shifted_with_the_clock_of_its_host_and_its_last_word_counts() {
    let mut book = Book::new(1 << 20);
    book.fact(enrolled(0));
    let mut first = batch(0, 1);
    book.fact(Fact::ClockOffset { agent: agent(0), boot: BootId(first.boot.0), minutes: 60 });
    let lease = |span| weighbridge_meter::Holding {
        evidence: Evidence::LeaseFile,
        ..holding("lease:site/file", &[0], span)
    };
    first.inventory.push(device(0, 0, at(0)));
    first.holdings.push(lease(minutes(60, 120)));
    first.windows.push(window(0, minutes(1, 2), 500));
    first.windows.push(window(0, minutes(5, 6), 500));
    book.batch(&first);
    let mut second = batch(0, 2);
    // The lease was cut short to five minutes.
    second.holdings.push(lease(minutes(60, 65)));
    book.batch(&second);
    let store = book.folded().await;
    let state: Vec<_> = store
        .sums(&weighbridge_store::Filter::default())
        .await
        .unwrap()
        .iter()
        .map(|sum| (sum.state.as_str(), sum.sums.measured_ms))
        .collect();
    assert_eq!(state, [("unattributed", 60_000), ("attributed", 60_000)]);
}
