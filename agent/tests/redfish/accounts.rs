//! Who may read, and what happens to whoever may not.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use weighbridge_agent::source::{AcceleratorSource, RedfishOptions, RedfishSource, SourceState};
use weighbridge_meter::GapCause;

use crate::{
    options,
    server::Bmc,
    tensor,
    trees::{FIRST, Work, hgx, renew},
};

fn write(path: &Path, password: &str, mode: u32) {
    fs::write(path, password).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn with_account(bmc: &Bmc, password_file: &Path) -> RedfishSource {
    let mut options: RedfishOptions = options(&[bmc]);
    options.controllers[0].user = Some("reader".into());
    options.controllers[0].password_file = Some(password_file.to_owned());
    RedfishSource::start(options)
}

fn why(state: &SourceState) -> (GapCause, &str) {
    match state {
        SourceState::Missing(cause, detail) => (*cause, detail),
        SourceState::Ok => panic!("all is well"),
    }
}

#[tokio::test]
async fn a_refused_account_is_tried_once_a_minute_and_with_the_password_that_is_then_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    write(&file, "correct horse\n", 0o600);
    let bmc = Bmc::start(hgx()).await;
    bmc.require("reader", "correct horse");
    let mut source = with_account(&bmc, &file);
    assert_eq!(tensor(&source.look().await, FIRST), "tensor 5000");

    bmc.require("reader", "battery staple");
    renew(&bmc, 30, Work::default());
    bmc.asked();
    let look = source.look().await;
    assert_eq!(tensor(&look, FIRST), "read_failed");
    let (cause, detail) = why(&look.source_state);
    assert_eq!(cause, GapCause::ReadFailed);
    assert_eq!(detail, "the controller of node1: refused with status 401 the account \"reader\"");
    assert_eq!(bmc.asked().len(), 1, "after the first refusal nothing more is asked");
    write(&file, "battery staple", 0o600);
    for _ in 0..3 {
        assert_eq!(tensor(&source.look().await, FIRST), "read_failed");
    }
    assert_eq!(bmc.asked().len(), 0, "within the minute nothing is asked at all");

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    renew(&bmc, 60, Work::default());
    assert_eq!(tensor(&source.look().await, FIRST), "tensor 5000");
}

#[tokio::test]
async fn a_password_that_others_can_read_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    write(&file, "correct horse", 0o644);
    let bmc = Bmc::start(hgx()).await;
    bmc.require("reader", "correct horse");
    let mut source = with_account(&bmc, &file);
    let look = source.look().await;
    let (cause, detail) = why(&look.source_state);
    assert_eq!(cause, GapCause::ReadFailed);
    assert!(detail.ends_with("password has mode 644, expected 600: nobody else may read it"), "{detail}");
    assert_eq!(bmc.asked().len(), 0);
    // Once that is mended there is nothing to wait for.
    write(&file, "correct horse", 0o600);
    assert_eq!(tensor(&source.look().await, FIRST), "tensor 5000");
}

#[tokio::test]
async fn a_missing_or_empty_password_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let bmc = Bmc::start(hgx()).await;
    let mut source = with_account(&bmc, &file);
    let look = source.look().await;
    assert!(why(&look.source_state).1.contains("cannot read password file"), "{:?}", look.source_state);
    write(&file, "\n", 0o600);
    let look = source.look().await;
    assert!(why(&look.source_state).1.ends_with("password is empty"), "{:?}", look.source_state);
    assert_eq!(bmc.asked().len(), 0);
}

#[tokio::test]
async fn what_an_account_may_not_see_is_done_without() {
    let bmc = Bmc::start(hgx()).await;
    bmc.odd("/redfish/v1/TelemetryService", crate::server::Odd::Status(403));
    let mut source = RedfishSource::start(options(&[&bmc]));
    assert_eq!(tensor(&source.look().await, FIRST), "tensor 725", "from the processor itself");
}
