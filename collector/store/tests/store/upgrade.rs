//! A database of an earlier release becomes what a fresh one would be.

use std::sync::Arc;

use sqlx::{Connection, SqliteConnection, migrate::Migrator, sqlite::SqliteConnectOptions};
use weighbridge_store::{Fact, SqliteStore, UsageStore, entry::Selector};

use crate::support::{Book, at, batch, device, lease, minutes, window};

/// Releases by the number of their last migration.
const RELEASED: [i64; 1] = [1];

#[tokio::test]
async fn every_released_schema_is_brought_up_to_date_and_its_sums_folded_anew() {
    for last in RELEASED {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("usage.sqlite");
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let mut old = SqliteConnection::connect_with(&options).await.unwrap();
        let mut migrator: Migrator = sqlx::migrate!("./migrations");
        migrator.migrations.to_mut().retain(|migration| migration.version <= last);
        migrator.run_direct(None, &mut old, false).await.unwrap();
        // What that release folded, and where it stood.
        for change in [
            "INSERT INTO usage VALUES (1, 'GPU-9', 0, '', '', 'free', 1, 2, 3, 1, 3, 60000, 0)",
            "INSERT INTO state VALUES (1, 'accelerator', 'GPU-9', '{\"an older form\": true}')",
            "UPDATE position SET entry_index = 4, segment = 1, byte_offset = 900 WHERE id = 0",
        ] {
            sqlx::query(change).execute(&mut old).await.unwrap();
        }
        old.close().await.unwrap();

        let mut book = Book::enrolled(2000);
        let mut sent = batch(0, 1);
        sent.inventory.push(device(0, 0, at(0)));
        sent.windows.push(window(0, minutes(0, 30), 500));
        book.batch(&sent);
        book.fact(Fact::Lease(lease("lease-1", 0, Selector::All, "lease:site/1", minutes(0, 20))));
        let fresh = book.folded().await;
        let store = Arc::new(SqliteStore::open(&file).await.unwrap());
        book.follower(&store).await.catch_up(book.end()).await.unwrap();
        assert_eq!(store.fingerprint().await.unwrap(), fresh.fingerprint().await.unwrap());
    }
}
