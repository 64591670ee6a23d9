//! Letting go of the driver on request.

use std::{fs, path::PathBuf, sync::Arc};

use weighbridge_agent::clock::ManualClock;
use weighbridge_meter::{BootId, UtcMillis};

use super::*;

const NOON: UtcMillis = UtcMillis(1_769_860_800_000);

/// A bench, and the file that asks to let go.
fn bench() -> (Bench, PathBuf, Arc<ManualClock>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("release");
    let driver = FakeDriver::install(folder.path(), SCRIPT).unwrap();
    let options = NvmlOptions {
        library: driver.library(),
        release_file: Some(file.clone()),
        deadline: Duration::from_secs(1),
        ..patient()
    };
    let clock = Arc::new(ManualClock::new(NOON, 0, BootId([1; 16])));
    let source = NvmlSource::start(options).of_agent(Arc::clone(&clock) as Arc<_>);
    (Bench { driver, source, tick: interval(Duration::from_millis(20)), _folder: folder }, file, clock)
}

fn done(file: &Path) -> bool {
    weighbridge_agent::source::nvml::release::done_file(file).exists()
}

fn all(look: &Look, cause: GapCause) -> bool {
    !look.devices.is_empty() && look.devices.iter().all(|one| one.state == DeviceState::Missing(cause))
}

#[tokio::test]
async fn while_the_file_is_there_the_library_is_shut_down_and_then_all_is_found_again() {
    let (mut bench, file, _) = bench();
    bench.look_until("activity", |look| activity(look) == Some(hopper_activity())).await;
    assert_eq!((bench.driver.users(), done(&file)), (Some(1), false));
    fs::write(&file, "").unwrap();
    let look = bench.look().await;
    assert!(all(&look, GapCause::Released), "{look:?}");
    assert!(matches!(look.source_state, SourceState::Missing(GapCause::Released, _)));
    bench.look_until("that it was let go of", |_| done(&file)).await;
    assert_eq!(bench.driver.users(), Some(0), "nvmlShutdown was called as often as nvmlInit");
    for _ in 0..20 {
        assert!(all(&bench.look().await, GapCause::Released));
        assert_eq!(bench.driver.users(), Some(0));
    }
    fs::remove_file(&file).unwrap();
    let look = bench.look_until("a reading", |look| reading(look, HOPPER).is_some()).await;
    assert_eq!(activity(&look), Some(Activity::default()));
    assert!(!done(&file));
    bench.look_until("activity", |look| activity(look) == Some(hopper_activity())).await;
}

#[tokio::test]
async fn a_file_that_was_forgotten_ends_at_the_time_in_it() {
    let (mut bench, file, clock) = bench();
    bench.look().await;
    fs::write(&file, "2026-01-31T12:10:00Z\n").unwrap();
    assert!(all(&bench.look().await, GapCause::Released));
    clock.advance(599_999);
    assert!(all(&bench.look().await, GapCause::Released));
    clock.advance(1);
    bench.look_until("a reading", |look| reading(look, HOPPER).is_some()).await;
    assert!(file.exists());
}

#[tokio::test]
async fn a_call_that_hangs_keeps_the_library_until_it_comes_back_and_says_so() {
    let (mut bench, file, _) = bench();
    bench.look_until("both", |look| look.devices.len() == 2).await;
    bench.driver.set(HOPPER, Fault::Hang).unwrap();
    bench.look().await;
    fs::write(&file, "").unwrap();
    for _ in 0..2 {
        assert!(all(&bench.look().await, GapCause::Released));
        assert_eq!((bench.driver.users(), done(&file)), (Some(1), false));
    }
    bench.driver.clear(HOPPER, Fault::Hang).unwrap();
    bench.look_until("that it was let go of", |_| done(&file)).await;
    assert_eq!(bench.driver.users(), Some(0));
}

#[tokio::test]
async fn an_agent_that_starts_while_the_file_is_there_touches_nothing() {
    let (mut bench, file, _) = bench();
    fs::write(&file, "").unwrap();
    let look = bench.look().await;
    assert!(look.devices.is_empty() && look.inventory_changed.is_none());
    assert_eq!((bench.driver.users(), done(&file)), (None, true));
    fs::remove_file(&file).unwrap();
    let look = bench.look().await;
    assert_eq!(look.devices.len(), 2);
}

#[tokio::test]
async fn a_check_beside_the_agent_neither_touches_the_driver_nor_speaks_for_the_agent() {
    let (bench, file, _) = bench();
    fs::write(&file, "").unwrap();
    let options =
        NvmlOptions { library: bench.driver.library(), release_file: Some(file.clone()), ..patient() };
    let look = NvmlSource::start(options).look().await;
    assert!(matches!(look.source_state, SourceState::Missing(GapCause::Released, _)));
    assert_eq!((bench.driver.users(), done(&file)), (None, false));
}
