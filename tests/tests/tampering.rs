//! Whoever changes the ledger or the sums is found out, by name and place.

use sqlx::{Connection, Executor, SqliteConnection};
use weighbridge_journal::{ENTRY_HEAD_LEN, Reader};
use weighbridge_tests::{
    agent::AgentOptions,
    machine::Device,
    site::{Site, Tenant},
};

/// A site that has weighed something and stands still.
fn stopped() -> Site {
    let mut site =
        Site::new(vec![AgentOptions::quick("host-a", vec![Device::numbered(1), Device::numbered(2)])]);
    site.lease(&[Tenant {
        customer: "C-1",
        principal: "lease:site-1/one",
        lease: "L-1",
        hosts: &["host-a"],
    }]);
    site.start_agents();
    site.measured(2_000);
    site.stop_agents();
    site.collector.stop();
    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    site
}

#[test]
fn a_flipped_byte_in_the_ledger_is_found_and_its_entry_named() {
    let site = stopped();
    let folder = site.collector.data().join("ledger");
    let mut reader = Reader::from_start(&folder);
    // Neither the first nor the last: the end of a journal could be a torn write.
    let mut entries = std::iter::from_fn(|| reader.next().unwrap()).skip(5);
    let entry = entries.next().unwrap();
    assert!(entries.count() > 2);

    let segment = folder.join(format!("{:020}.seg", entry.place.segment));
    let mut bytes = std::fs::read(&segment).unwrap();
    let within =
        usize::try_from(entry.place.offset).unwrap() + ENTRY_HEAD_LEN as usize + entry.payload.len() / 2;
    bytes[within] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    for named in [format!("{:020}.seg", entry.place.segment), format!("entry {}", entry.place.index)] {
        assert!(verified.stderr.contains(&named), "{named}: {}", verified.stderr);
    }
    // And nobody goes on with it.
    assert_eq!(site.collector.run(&["rebuild"]).code, Some(3));
}

#[test]
fn a_changed_sum_is_found_and_a_rebuild_repairs_it() {
    let site = stopped();
    let tampered = async || {
        let file = format!("sqlite://{}", site.collector.data().join("usage.sqlite").display());
        let mut database = SqliteConnection::connect(&file).await.unwrap();
        let changed = database.execute("UPDATE usage SET best_tera = best_tera - 1").await.unwrap();
        assert!(changed.rows_affected() > 0);
        database.close().await.unwrap();
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(tampered());

    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    assert!(verified.stderr.contains("the sums do not follow from the ledger: usage differ"), "{verified:?}");

    let rebuilt = site.collector.run(&["rebuild"]);
    assert_eq!(rebuilt.code, Some(1), "whoever rebuilds is told that it was needed: {rebuilt:?}");
    assert!(rebuilt.stderr.contains("the sums before were others; they are replaced"), "{rebuilt:?}");
    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
}
