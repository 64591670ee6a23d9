//! Two sources of one accelerator: one counts, and what the other says is compared and kept.

use std::fmt::Write;

use expect_test::expect;
use weighbridge_meter::{EpochId, Source, Span, Tier, Trust, Window, window::Counter};
use weighbridge_store::{Filter, SqliteStore, UsageStore, hour::HourKey};
use weighbridge_wire::{Batch, DeviceRecord};

use crate::support::{Book, MINUTE, at, batch, device, gpu, minutes, span, window};

/// Agent 0 on the host, by NVML.
fn host(windows: impl IntoIterator<Item = (Span, u64)>) -> Batch {
    let mut sent = batch(0, 1);
    sent.inventory.push(device(0, 0, at(0)));
    sent.windows.extend(windows.into_iter().map(|(span, tensor)| told_apart(span, tensor)));
    sent
}

/// 16-bit matrix work alone, with every pipe told apart: the number format is the only doubt.
fn told_apart(span: Span, tensor: u64) -> Window {
    let mut one = window(0, span, tensor);
    let active = one.counters.get(Counter::TensorCycles).unwrap();
    for (pipe, cycles) in [
        (Counter::HmmaCycles, active),
        (Counter::ImmaCycles, 0),
        (Counter::DfmaCycles, 0),
        (Counter::Fp64Cycles, 0),
        (Counter::Fp32Cycles, 0),
        (Counter::Fp16Cycles, 0),
        (Counter::IntegerCycles, 0),
        (Counter::SmCycles, active),
        (Counter::ElapsedCycles, span.millis() * 1_980_000),
    ] {
        one.counters = one.counters.with(pipe, cycles);
    }
    one
}

/// Agent 1, of the management controller.
fn bmc(windows: impl IntoIterator<Item = (Span, u64)>) -> Batch {
    let mut sent = batch(1, 1);
    sent.inventory.push(DeviceRecord {
        source: Source::Redfish,
        tier: Tier::C,
        trust: Trust::Bmc,
        ..device(0, 0, at(0))
    });
    let of = |(span, tensor)| Window { source: Source::Redfish, tier: Tier::C, ..told_apart(span, tensor) };
    sent.windows.extend(windows.into_iter().map(of));
    sent
}

fn each_minute(from: i64, to: i64, tensor: u64) -> impl Iterator<Item = (Span, u64)> {
    (from..to).map(move |minute| (minutes(minute, minute + 1), tensor))
}

async fn folded(batches: &[Batch]) -> std::sync::Arc<SqliteStore> {
    let mut book = Book::enrolled(1 << 20);
    batches.iter().for_each(|sent| book.batch(sent));
    book.folded().await
}

/// What was said of the first two hours.
async fn said(store: &SqliteStore) -> String {
    let keys = [0, 60].map(|minute| HourKey { accelerator: gpu(0), hour: at(minute * MINUTE) });
    let mut lines = String::new();
    for row in store.hours(&keys).await.unwrap() {
        for one in &row.hour.witnesses {
            let bound = |bound: &weighbridge_meter::Interval<weighbridge_meter::Operations>| {
                format!("{}..{}", bound.low().tera(), bound.high().tera())
            };
            writeln!(
                lines,
                "{} {} s: {} counted {}, {} says {}{}",
                row.key.hour,
                one.compared_ms / 1000,
                one.counted,
                bound(&one.counted_bound),
                one.witness,
                bound(&one.witness_bound),
                if one.disagrees() { ": disagree" } else { "" },
            )
            .unwrap();
        }
    }
    lines
}

#[tokio::test]
async fn the_controller_counts_and_a_host_that_says_far_less_disagrees() {
    let batches = [host(each_minute(0, 60, 20)), bmc(each_minute(0, 60, 800))];
    let store = folded(&batches).await;
    expect![[r#"
        2026-01-31T08:00:00Z 3600 s: agent-1/redfish counted 1310280..7091220, agent-0/nvml says 36600..161880: disagree
    "#]]
    .assert_eq(&said(&store).await);
    let alone = folded(&[bmc(each_minute(0, 60, 800))]).await;
    let sums = async |store: &SqliteStore| store.sums(&Filter::default()).await.unwrap();
    assert_eq!(sums(&store).await, sums(&alone).await, "the witness adds nothing");
    assert_eq!(store.disagreements(&Filter::default()).await.unwrap().len(), 1);
    let [first, second] = batches;
    let swapped = folded(&[second, first]).await;
    assert_eq!(said(&swapped).await, said(&store).await, "whoever comes first");
}

#[tokio::test]
async fn sources_that_agree_are_kept_as_witnesses_and_disagree_in_nothing() {
    let store = folded(&[host(each_minute(0, 60, 400)), bmc(each_minute(0, 60, 410))]).await;
    assert!(said(&store).await.lines().count() == 1);
    assert_eq!(store.disagreements(&Filter::default()).await.unwrap(), []);
}

#[tokio::test]
async fn a_witness_is_compared_only_where_it_spoke() {
    // The second half hour, half a minute off, and agreeing there; before, the counted source alone did much.
    let half = (60..119).map(|half| (span(half * 30_000, (half + 1) * 30_000), 10));
    let counted = each_minute(0, 30, 900).chain(each_minute(30, 60, 10));
    let store = folded(&[bmc(counted), host(half)]).await;
    let lines = said(&store).await;
    assert!(lines.contains(" 1770 s: ") && !lines.contains("disagree"), "{lines}");
}

#[tokio::test]
async fn hours_are_compared_each_for_itself_and_an_agent_is_no_witness_of_itself() {
    let mut again = host(each_minute(0, 120, 900));
    again.epoch = EpochId([8; 16]);
    again.inventory.clear();
    let own = folded(&[host(each_minute(0, 120, 10)), again.clone()]).await;
    assert_eq!(said(&own).await, "");
    // What it said twice is heard once.
    let mut twice = host(each_minute(0, 120, 400));
    twice.epoch = EpochId([8; 16]);
    let counted = each_minute(0, 60, 400).chain(each_minute(60, 120, 20));
    let store = folded(&[bmc(counted), host(each_minute(0, 120, 400)), twice]).await;
    let lines: Vec<String> = said(&store).await.lines().map(Into::into).collect();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains(" 3600 s: ")), "{lines:#?}");
    assert!(!lines[0].contains("disagree") && lines[1].ends_with(": disagree"), "{lines:#?}");
}
