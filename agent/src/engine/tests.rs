use std::fmt::Write;

use expect_test::{Expect, expect};
use weighbridge_meter::{
    Evidence, Reading, Source,
    features::Feature,
    reading::{Activity, Ratio},
    window::Counter,
};

use super::*;
use crate::source::DeviceLook;

/// 2026-01-31T08:00:00Z.
const START: i64 = 1_769_846_400_000;

fn engine(held_records: usize) -> Engine {
    Engine::new(EngineOptions {
        host: "node1".into(),
        trust: Trust::Host,
        pace: Pace { window_ms: 60_000, longest_tick_ms: 30_000 },
        held_records,
    })
}

fn at(seconds: i64) -> Now {
    let boot_ms = u64::try_from(seconds * 1000 + 5_000).expect("positive");
    Now { boot_ms, wall: UtcMillis(START + seconds * 1000) }
}

fn id(name: &str) -> AcceleratorId {
    name.parse().expect("a name")
}

fn device(name: &str, tier: Tier) -> Device {
    Device {
        id: id(name),
        pci_address: None,
        pci_device: None,
        name: "NVIDIA H100 80GB HBM3".into(),
        max_sm_clock_mhz: None,
        power_limit_mw: None,
        memory_bytes: None,
        tier,
        source: Source::Simulated,
        driver: None,
        host: None,
        trust: None,
        parent: None,
        units: None,
        instance: None,
        sample_ms: 0,
        conditions: Vec::new(),
        present: true,
    }
}

/// A step a line: `seconds what...`, what being `found=A`, `tier_d=A`, `A=percent`, `A=cause`, `cut=A`,
/// `driver_missing`, `take`, `back` (take and give back) or `stop`. Devices not named are not looked at.
fn check(held_records: usize, script: &str, expected: Expect) {
    let mut engine = engine(held_records);
    let mut shown = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let now = at(words.next().expect("seconds").parse().expect("seconds"));
        let mut look =
            Look { devices: vec![], source_state: SourceState::Ok, inventory_changed: None, unidentified: 0 };
        let mut news = HolderNews::default();
        let mut looked = false;
        for word in words {
            let (what, value) = word.split_once('=').unwrap_or((word, ""));
            match what {
                "found" => look.inventory_changed.get_or_insert_default().push(device(value, Tier::B)),
                "tier_d" => look.inventory_changed.get_or_insert_default().push(device(value, Tier::D)),
                "cut" => news.changed.push(id(value)),
                "driver_missing" => {
                    look.source_state = SourceState::Missing(GapCause::DriverMissing, "no such file".into());
                    looked = true;
                }
                "take" => show(&mut shown, engine.take()),
                "back" => {
                    let contents = engine.take();
                    engine.give_back(contents);
                }
                "stop" => engine.finish(now),
                name => {
                    let state = match GapCause::from_name(value) {
                        Some(cause) => DeviceState::Missing(cause),
                        None => DeviceState::Read(Reading {
                            sm_clock_mhz: Some(1000),
                            activity: Activity {
                                tensor: Ratio::from_percent(value.parse().expect("percent")),
                                ..Activity::default()
                            },
                            ..Reading::default()
                        }),
                    };
                    look.devices.push(DeviceLook {
                        id: id(name),
                        state,
                        pids: None,
                        used: Vec::new(),
                        machines: None,
                    });
                    looked = true;
                }
            }
        }
        if looked || look.inventory_changed.is_some() {
            engine.tick(now, &look, news);
        }
    }
    writeln!(shown, "source {}", engine.source_state()).expect("string");
    expected.assert_eq(&shown);
}

fn show(shown: &mut String, contents: Contents) {
    let seconds =
        |span: &Span| format!("{}..{}", (span.start().0 - START) / 1000, (span.end().0 - START) / 1000);
    writeln!(shown, "batch").expect("string");
    for record in &contents.inventory {
        let at = (record.at.0 - START) / 1000;
        writeln!(shown, "  {at} {} on {} tier {}", record.accelerator, record.host, record.tier)
            .expect("string");
    }
    for window in &contents.windows {
        let cycles = window.counters.get(Counter::TensorCycles).map_or(0, |cycles| cycles / 1_000_000);
        writeln!(
            shown,
            "  {} {} {cycles} Mcycles tier {}",
            window.accelerator,
            seconds(&window.span),
            window.tier
        )
        .expect("string");
    }
    for gap in &contents.gaps {
        writeln!(shown, "  {} {} gap {}", gap.accelerator, seconds(&gap.span), gap.cause).expect("string");
    }
    for holding in &contents.holdings {
        writeln!(shown, "  {} {}", holding.principal, seconds(&holding.span)).expect("string");
    }
}

#[test]
fn looks_become_windows_of_each_device_and_inventory_once() {
    check(
        100,
        "0 found=A found=B A=0 B=0
         20 A=50 B=100
         40 A=50 B=100
         60 A=50 B=100
         60 take
         70 A=0 B=0
         70 take",
        expect![[r#"
            batch
              0 A on node1 tier B
              0 B on node1 tier B
              A 0..60 30000 Mcycles tier B
              B 0..60 60000 Mcycles tier B
            batch
            source ok
        "#]],
    );
}

#[test]
fn a_driver_that_goes_makes_every_known_device_missing_with_that_cause() {
    check(
        100,
        "0 found=A found=B A=0 B=0
         20 A=50 B=50
         30 driver_missing
         40 driver_missing
         50 stop take",
        expect![[r#"
            batch
              0 A on node1 tier B
              0 B on node1 tier B
              A 0..20 10000 Mcycles tier B
              B 0..20 10000 Mcycles tier B
              A 20..50 gap driver_missing
              B 20..50 gap driver_missing
            source driver_missing
        "#]],
    );
}

#[test]
fn a_driver_that_was_never_there_is_a_state_without_devices() {
    check(
        100,
        "0 driver_missing
         10 driver_missing
         20 stop take",
        expect![[r#"
            batch
            source driver_missing
        "#]],
    );
}

#[test]
fn a_device_that_the_source_does_not_mention_is_a_failed_read() {
    check(
        100,
        "0 found=A found=B A=0 B=0
         10 A=50 B=50
         20 A=50
         30 A=50 B=50
         30 stop take",
        expect![[r#"
            batch
              0 A on node1 tier B
              0 B on node1 tier B
              B 0..10 5000 Mcycles tier B
              A 0..30 15000 Mcycles tier B
              B 10..30 gap read_failed
            source ok
        "#]],
    );
}

#[test]
fn a_change_of_holders_cuts_only_that_device() {
    check(
        100,
        "0 found=A found=B A=0 B=0
         10 A=50 B=50
         20 A=50 B=50 cut=A
         30 A=50 B=50
         30 stop take",
        expect![[r#"
            batch
              0 A on node1 tier B
              0 B on node1 tier B
              A 0..10 5000 Mcycles tier B
              A 10..30 10000 Mcycles tier B
              B 0..30 15000 Mcycles tier B
            source ok
        "#]],
    );
}

#[test]
fn a_device_that_changes_its_tier_leaves_no_hole_between_both_meters() {
    check(
        100,
        "0 found=A A=0
         10 A=50
         20 tier_d=A A=50
         30 A=50
         30 stop take",
        expect![[r#"
            batch
              0 A on node1 tier B
              20 A on node1 tier D
              A 0..10 5000 Mcycles tier B
              A 10..20 5000 Mcycles tier B
              A 20..30 5000 Mcycles tier D
            source ok
        "#]],
    );
}

#[test]
fn what_is_given_back_comes_again_in_order() {
    check(
        100,
        "0 found=A A=0
         20 A=50
         40 A=50
         60 A=50
         60 back
         70 A=device_lost
         80 A=50
         80 stop
         80 take
         80 take",
        expect![[r#"
            batch
              0 A on node1 tier B
              A 0..60 30000 Mcycles tier B
              A 60..80 gap device_lost
            batch
            source ok
        "#]],
    );
}

#[test]
fn what_does_not_fit_the_memory_becomes_a_gap_and_a_gap_keeps_its_cause() {
    check(
        1,
        "3540 found=A A=0
         3560 A=50
         3580 A=50
         3600 A=50
         3620 A=50
         3640 A=50
         3660 A=50
         3670 A=device_lost
         3680 A=50
         3700 A=50
         3700 stop
         3700 back
         3700 take",
        expect![[r#"
            batch
              3540 A on node1 tier B
              A 3680..3700 10000 Mcycles tier B
              A 3540..3600 gap spool_full
              A 3600..3660 gap spool_full
              A 3660..3680 gap device_lost
            source ok
        "#]],
    );
}

#[test]
fn confirmations_that_wait_are_joined_and_the_oldest_go_beyond_the_limit() {
    let mut engine = engine(2);
    let holding = |attempt: &str, from: i64, to: i64| Holding {
        principal: "uid:x/1".parse().expect("valid"),
        attempt: attempt.parse().expect("valid"),
        accelerators: vec![id("A")],
        span: Span::new(at(from).wall, at(to).wall).expect("not empty"),
        evidence: Evidence::ProcessOwner,
    };
    for minute in 0..5 {
        engine.hold([holding("one", minute * 60, minute * 60 + 60)]);
        let contents = engine.take();
        engine.give_back(contents);
    }
    engine.hold([holding("two", 0, 60), holding("three", 0, 60)]);
    engine.shrink();
    assert_eq!(engine.take().holdings, [holding("two", 0, 60), holding("three", 0, 60)]);
    assert_eq!(engine.dropped_holdings(), 1);

    for minute in 0..5 {
        engine.hold([holding("one", minute * 60, minute * 60 + 60)]);
        engine.shrink();
    }
    assert_eq!(engine.take().holdings, [holding("one", 0, 300)]);
}

#[test]
fn a_device_that_flaps_for_days_does_not_fill_the_memory() {
    let mut engine = engine(0);
    let found = Look {
        devices: vec![],
        source_state: SourceState::Ok,
        inventory_changed: Some(vec![device("A", Tier::B)]),
        unidentified: 0,
    };
    engine.tick(at(0), &found, HolderNews::default());
    for minute in 1..2000 {
        let cause = if minute % 2 == 0 { GapCause::ReadFailed } else { GapCause::CallHung };
        let state = DeviceState::Missing(cause);
        let look = Look {
            devices: vec![DeviceLook { id: id("A"), state, pids: None, used: Vec::new(), machines: None }],
            inventory_changed: None,
            ..found.clone()
        };
        engine.tick(at(minute * 60), &look, HolderNews::default());
        engine.shrink();
    }
    let gaps = engine.take().gaps;
    assert!(gaps.len() < 110, "{}", gaps.len());
    let covered: u64 = gaps.iter().map(|gap| gap.span.millis()).sum();
    assert_eq!(covered, 1999 * 60_000, "all of it is covered all the same");
    assert!(gaps.windows(2).all(|pair| pair[0].span.end() == pair[1].span.start()));
}

#[test]
fn windows_carry_features_of_their_own_holder_and_short_or_bridged_ones_none() {
    let mut engine = engine(100);
    let look = |second: i64, first: bool| {
        let devices = ["A", "B"].map(|name| {
            let watts = 300_000 + 100_000 * u32::try_from(second / 5 % 2).expect("small");
            let reading = Reading { power_mw: Some(watts), ..Reading::default() };
            DeviceLook {
                id: id(name),
                state: DeviceState::Read(reading),
                pids: None,
                used: Vec::new(),
                machines: None,
            }
        });
        Look {
            devices: devices.into(),
            source_state: SourceState::Ok,
            inventory_changed: first.then(|| vec![device("A", Tier::D), device("B", Tier::D)]),
            unidentified: 0,
        }
    };
    for second in 0..=66 {
        // Somebody else holds both from the reading before second 64 on.
        let changed = if second == 64 { vec![id("A"), id("B")] } else { Vec::new() };
        let news = HolderNews { changed, ..HolderNews::default() };
        engine.tick(at(second), &look(second, second == 0), news);
    }
    engine.finish(at(66));
    let windows = engine.take().windows;
    let of_a: Vec<_> = windows
        .iter()
        .filter(|window| window.accelerator == id("A"))
        .map(|window| {
            let get = |feature| window.features.get(feature);
            (window.span.millis(), get(Feature::Readings), get(Feature::PowerPeriod), get(Feature::Company))
        })
        .collect();
    assert_eq!(
        of_a,
        [
            (60_000, Some(60), Some(10_000), Some(1)),
            // It looks back as far as it needs to, which is too little for a rhythm.
            (3_000, Some(32), None, Some(1)),
            // And here there is next to nothing to look back at.
            (3_000, None, None, None),
        ]
    );
}

#[test]
fn what_holders_used_is_added_up_in_the_window_that_is_open_and_ends_with_it() {
    let mut engine = engine(100);
    let told = |attempt: &str, busy_us| (id("A"), Use { attempt: attempt.parse().expect("valid"), busy_us });
    for second in 0..=90 {
        let seen = DeviceLook {
            id: id("A"),
            state: DeviceState::Read(Reading { power_mw: Some(300_000), ..Reading::default() }),
            pids: None,
            used: Vec::new(),
            machines: None,
        };
        let look = Look {
            devices: vec![seen],
            source_state: SourceState::Ok,
            inventory_changed: (second == 0).then(|| vec![device("A", Tier::D)]),
            unidentified: 0,
        };
        let used = match second {
            10 => vec![told("slurm:c/1", 5), told("slurm:c/2", 7), told("slurm:c/1", u64::MAX)],
            20 => vec![told("slurm:c/2", 1)],
            70 => vec![told("slurm:c/2", 100)],
            _ => Vec::new(),
        };
        let changed = if second == 40 { vec![id("A")] } else { Vec::new() };
        engine.tick(at(second), &look, HolderNews { used, changed, ..HolderNews::default() });
    }
    engine.finish(at(90));
    let uses = |window: &Window| -> Vec<(String, u64)> {
        window.uses.iter().map(|told| (told.attempt.to_string(), told.busy_us)).collect()
    };
    let windows: Vec<_> = engine.take().windows.iter().map(uses).collect();
    let first = vec![("slurm:c/1".to_owned(), u64::MAX), ("slurm:c/2".to_owned(), 8)];
    let all: Vec<_> = windows.iter().filter(|uses| !uses.is_empty()).collect();
    assert_eq!(all, [&first, &vec![("slurm:c/2".to_owned(), 100)]]);
    assert!(windows.len() > 2, "the holders changed after the first: {windows:?}");
}
