//! Counters that are believed, refused, that wrap, fall, or sleep.

use weighbridge_agent::source::{AcceleratorSource, AmdgpuSource, Look};
use weighbridge_meter::{Condition, GapCause, Reading, reading::Ratio, window::Counter};

use super::{A, Life, inventory, missing, one_mi300x, percent, reading, tree::Tree};

/// Looks often enough for the counter to be believed, or not.
pub(crate) async fn settle(tree: &Tree, source: &mut AmdgpuSource, life: &mut Life) -> Look {
    for _ in 0..11 {
        tree.write(A, "gpu_metrics", life.live(1, 60).bytes());
        source.look().await;
    }
    tree.write(A, "gpu_metrics", life.live(1, 60).bytes());
    source.look().await
}

#[tokio::test]
async fn a_counter_that_agrees_with_the_activity_is_used_and_until_then_named_as_calibrating() {
    let (tree, mut source) = one_mi300x();
    let mut life = Life::new();
    tree.write(A, "gpu_metrics", life.live(1, 60).bytes());
    let first = source.look().await;
    assert_eq!(inventory(&first)[0].conditions, [Condition::Calibrating]);
    assert_eq!(reading(&first).totals.get(Counter::BusyMicros), None);
    let before = reading(&settle(&tree, &mut source, &mut life).await);
    // A whole minute in which nobody looks, and the activity at its end is nothing.
    life.live(60, 100);
    tree.write(A, "gpu_metrics", life.live(1, 0).bytes());
    let after = reading(&source.look().await);
    let added = after.totals.since(&before.totals).unwrap();
    assert_eq!(added.get(Counter::BusyMicros), Some(60_000_000));
}

#[tokio::test]
async fn a_counter_of_another_unit_is_refused_whichever_way_it_is_off() {
    for full_second in [1_000, 10_000, 1_000_000, 10_000_000] {
        let (tree, mut source) = one_mi300x();
        let mut life = Life { full_second, ..Life::new() };
        let mut told = Vec::new();
        for _ in 0..15 {
            tree.write(A, "gpu_metrics", life.live(1, 60).bytes());
            let look = source.look().await;
            let seen = reading(&look);
            assert_eq!((seen.busy, seen.totals.get(Counter::BusyMicros)), (percent(60.0), None));
            told.extend(look.inventory_changed.map(|devices| devices[0].conditions.clone()));
        }
        assert_eq!(told, [[Condition::Calibrating], [Condition::CountersRefused]], "{full_second}");
    }
}

#[tokio::test]
async fn until_the_counter_is_believed_the_higher_of_both_counts() {
    let (tree, mut source) = one_mi300x();
    let mut life = Life::new();
    tree.write(A, "gpu_metrics", life.live(1, 0).bytes());
    source.look().await;
    life.live(9, 100);
    tree.write(A, "gpu_metrics", life.live(1, 0).bytes());
    assert_eq!(reading(&source.look().await).busy, percent(90.0));
}

#[tokio::test]
async fn a_counter_that_falls_is_a_gap_and_begins_anew() {
    let (tree, mut source) = one_mi300x();
    let mut life = Life::new();
    settle(&tree, &mut source, &mut life).await;
    life.sum = 5;
    tree.write(A, "gpu_metrics", life.live(1, 60).bytes());
    assert_eq!(missing(&source.look().await), Some(GapCause::CounterBackwards));
    tree.write(A, "gpu_metrics", life.live(1, 60).bytes());
    assert_eq!(missing(&source.look().await), None);
}

#[tokio::test]
async fn a_device_that_sleeps_is_not_woken_and_is_idle_only_if_it_slept_all_the_while() {
    let (tree, mut source) = one_mi300x();
    // Asking it would show.
    tree.write(A, "gpu_metrics", "x");
    tree.write(A, "power/runtime_status", "suspended\n");
    let mut slept = Vec::new();
    for awake_ms in ["5000\n", "5000\n", "5001\n", "5001\n", "", ""] {
        tree.write(A, "power/runtime_active_time", awake_ms);
        let seen = reading(&source.look().await);
        assert_eq!(Reading { busy: None, ..seen }, Reading::default());
        slept.push(seen.busy == Some(Ratio::ZERO));
    }
    assert_eq!(slept, [false, true, false, true, false, false]);
    // Awake, and how busy it was since the look before is not what it is now.
    tree.write(A, "power/runtime_status", "active\n");
    let mut life = Life::new();
    for busy in [None, percent(1.0)] {
        tree.write(A, "gpu_metrics", life.live(1, 1).bytes());
        assert_eq!(reading(&source.look().await).busy, busy);
    }
}

#[tokio::test]
async fn counters_that_began_anew_after_sleep_are_no_fall() {
    let (tree, mut source) = one_mi300x();
    let mut life = Life::new();
    let before = reading(&settle(&tree, &mut source, &mut life).await);
    tree.write(A, "power/runtime_status", "suspended\n");
    assert!(reading(&source.look().await).totals.is_empty());
    tree.write(A, "power/runtime_status", "active\n");
    life.sum = 5;
    tree.write(A, "gpu_metrics", life.live(1, 60).bytes());
    let woken = reading(&source.look().await);
    assert_eq!(woken.totals.get(Counter::BusyMicros), None, "nothing is known of the time in between");
    tree.write(A, "gpu_metrics", life.live(1, 60).bytes());
    let total = reading(&source.look().await).totals.get(Counter::BusyMicros);
    assert!(total > before.totals.get(Counter::BusyMicros));
}
