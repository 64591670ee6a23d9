//! What a store goes through: starts on what a crash or a person left, backups, restores, pruning.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use axum::http::StatusCode;
use clap::Parser;
use common::{Site, accelerator, at, batch, key, window};
use sqlx::{Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use weighbridge_collector::{
    app::{App, StartError},
    backup::{self, BackupError},
    config::Config,
    import::{ImportError, Kind},
    opening::Places,
    prune::PruneError,
    restore::{self, RestoreError, Signer},
    verifying,
};
use weighbridge_meter::EpochId;
use weighbridge_store::{Place, UsageStore, mark::Mark};
use weighbridge_wire::{Batch, KeyId, SigningKey, seal::seal};

type Print = Vec<(String, i64, String)>;

/// Starts a collector at so many minutes.
async fn start(config: &Config, minutes: i64) -> Result<App, StartError> {
    App::start(config, Arc::new(move || at(minutes))).await
}

/// Lets go of one that was started so.
async fn stop(app: App) {
    let store = app.store.clone();
    let mut durable = app.ledger.durable();
    let tree = app.tree.closed();
    drop(app);
    while durable.changed().await.is_ok() {}
    tree.await;
    store.close().await;
}

/// All that is derived, but what the start itself added.
async fn print(app: &App) -> Print {
    app.settled().await;
    app.store.fingerprint().await.unwrap()
}

/// The same without the records that starts and prunings leave.
fn sums(print: &Print) -> Print {
    print.iter().filter(|(table, ..)| ["usage", "hour", "gap"].contains(&table.as_str())).cloned().collect()
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copied(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The site of [`Site::with_an_hour`], stopped: its folder, its configuration, and what is derived.
async fn stopped() -> (tempfile::TempDir, Config, Print) {
    let site = Site::with_an_hour().await;
    let config = site.config.clone();
    site.app.note_promised().unwrap();
    let print = print(&site.app).await;
    (site.stop().await, config, print)
}

fn zeroed(file: &Path, from: usize, length: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[from..from + length].fill(0);
    fs::write(file, bytes).unwrap();
}

async fn changed(file: &Path, statement: &'static str) {
    let options = SqliteConnectOptions::new().filename(file);
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    database.execute(statement).await.unwrap();
    database.close().await.unwrap();
}

#[tokio::test]
async fn sums_that_are_unfit_are_set_aside_and_folded_anew_by_the_start_itself() {
    let cases: [(&str, &str); 9] = [
        ("missing", "the file is gone"),
        ("damaged", "garbage"),
        ("damaged", "cut short"),
        ("damaged", "a page of zeros"),
        ("damaged", "a table is gone"),
        ("damaged", "a place that is none"),
        ("schema", "a later release made it"),
        ("ahead", "ahead of the ledger"),
        ("generation", "of another generation"),
    ];
    for (reason, name) in cases {
        let (_folder, config, expected) = stopped().await;
        let file = config.data.join("usage.sqlite");
        match name {
            "the file is gone" => {
                fs::remove_file(&file).unwrap();
                // What a crash between two removals leaves.
                fs::write(config.data.join("usage.sqlite-wal"), b"of another database").unwrap();
            }
            "garbage" => fs::write(&file, vec![7; 20_000]).unwrap(),
            "cut short" => {
                let bytes = fs::read(&file).unwrap();
                fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
            }
            "a page of zeros" => zeroed(&file, 3 * 4096, 4096),
            "a table is gone" => changed(&file, "DROP TABLE state").await,
            "a place that is none" => {
                changed(&file, "UPDATE position SET byte_offset = byte_offset - 1").await
            }
            "a later release made it" => {
                changed(&file, "INSERT INTO _sqlx_migrations VALUES (9999, 'later', 0, 1, x'00', 1)").await;
            }
            "ahead of the ledger" => {
                changed(&file, "UPDATE position SET entry_index = entry_index + 9").await
            }
            "of another generation" => changed(&file, "UPDATE origin SET generation = 'another'").await,
            _ => unreachable!(),
        }
        let app = start(&config, 61).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(app.mended.sums, Some(reason), "{name}");
        assert_eq!(print(&app).await, expected, "{name}");
        let aside =
            |name: &fs::DirEntry| name.file_name().to_string_lossy().starts_with("usage.sqlite.aside-");
        let kept = fs::read_dir(&config.data).unwrap().filter(|entry| aside(entry.as_ref().unwrap())).count();
        assert_eq!(kept > 0, reason != "missing", "{name}: what was unfit is there to look at");
        stop(app).await;
        let app = start(&config, 61).await.unwrap();
        assert_eq!(app.mended.sums, None, "{name}: once is enough: {:?}", app.mended);
        stop(app).await;
    }
}

#[tokio::test]
async fn what_was_never_finished_is_in_nobodys_way() {
    let (_folder, config, expected) = stopped().await;
    let left = [
        "ledger/GENERATION.new",
        "ledger/RENEWED.new",
        "usage.sqlite.new",
        "usage.sqlite.new-wal",
        "summaries/00000000000000000009.sum.new",
        "summaries/rows.new",
        "LAST-BACKUP.new",
        "summaries/check.new/00000000000000000009.sum",
    ];
    fs::create_dir_all(config.data.join("summaries/check.new")).unwrap();
    for name in left {
        fs::write(config.data.join(name), b"half").unwrap();
    }
    fs::write(config.key_store.join("ledger-mark.json.new"), b"{\"gener").unwrap();
    let app = start(&config, 61).await.unwrap();
    assert_eq!(print(&app).await, expected);
    for name in left {
        assert!(!config.data.join(name).exists(), "{name}");
    }
    stop(app).await;
}

/// The next batch of the agent.
async fn sends(app: &App, sequence: u64, before: [u8; 32], minute: i64) -> (StatusCode, [u8; 32], String) {
    let mut next: Batch = batch(sequence);
    next.prev_hash = before;
    next.windows = vec![window(minute)];
    let sealed = seal(&next, &key()).unwrap();
    let answer = common::submitted(app, sealed.bytes).await;
    (answer.status, sealed.hash, answer.body)
}

/// The hash of the last batch of [`Site::with_an_hour`].
fn last_hash() -> [u8; 32] {
    let mut first = batch(1);
    first.inventory = vec![common::device()];
    first.windows = vec![window(0), window(1)];
    first.status = Some(common::status());
    let mut second = batch(2);
    second.prev_hash = seal(&first, &key()).unwrap().hash;
    second.windows = vec![window(60)];
    seal(&second, &key()).unwrap().hash
}

fn generations(app: &App) -> (String, Vec<String>) {
    let generation = EpochId(app.ledger.generation()).to_string();
    let records = futures_now(app.store.records("generation"));
    let reasons =
        records.unwrap().iter().map(|row| row.body["reason"].as_str().unwrap().to_owned()).collect();
    (generation, reasons)
}

fn futures_now<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_not_the_promised_one_goes_on_under_a_new_generation() {
    let (folder, config, _) = stopped().await;
    let mark = config.key_store.join("ledger-mark.json");
    let kept = folder.path().join("kept");
    copied(&config.data, &kept);
    let put_back = || {
        fs::remove_dir_all(&config.data).unwrap();
        copied(&kept, &config.data);
    };

    let app = start(&config, 62).await.unwrap();
    let (before, _) = generations(&app);
    let (status, third, _) = sends(&app, 3, last_hash(), 61).await;
    assert_eq!(status, StatusCode::OK);
    let expected = print(&app).await;
    app.note_promised().unwrap();
    let promised = Mark::read(&mark).unwrap().unwrap();
    stop(app).await;

    put_back();
    let app = start(&config, 63).await.unwrap();
    let (now, reasons) = generations(&app);
    assert_ne!(now, before);
    assert_eq!(reasons, ["behind"]);
    assert_eq!(app.mended.sums, Some("generation"));
    // The agent sends again what it was promised to be there.
    assert_eq!(sends(&app, 3, last_hash(), 61).await.0, StatusCode::OK);
    assert_eq!(sums(&print(&app).await), sums(&expected));
    stop(app).await;

    // Once is enough.
    let app = start(&config, 64).await.unwrap();
    assert_eq!(generations(&app), (now, vec!["behind".to_owned()]));
    assert_eq!(app.mended.sums, None, "{:?}", app.mended);
    stop(app).await;

    // Put back where nothing was noted, so that it goes on unnoticed, past where the promised one was.
    put_back();
    fs::remove_file(&mark).unwrap();
    fs::remove_dir_all(config.key_store.join("tlog")).unwrap();
    let app = start(&config, 65).await.unwrap();
    assert_eq!(generations(&app), (before.clone(), Vec::new()));
    let (status, other, _) = sends(&app, 3, last_hash(), 62).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(sends(&app, 4, other, 63).await.0, StatusCode::OK);
    assert_ne!(other, third);
    stop(app).await;
    promised.write(&mark).unwrap();
    let app = start(&config, 66).await.unwrap();
    assert_eq!(generations(&app).1, ["other_history"]);
    stop(app).await;

    // The note itself is damaged: then nobody knows, and asking again costs little.
    fs::write(&mark, b"{}").unwrap();
    let app = start(&config, 67).await.unwrap();
    assert_eq!(generations(&app).1, ["other_history", "mark_damaged"]);
    stop(app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_a_crash_cut_short_is_finished_once() {
    let (_folder, config, expected) = stopped().await;
    let ledger = config.data.join("ledger");
    let named = fs::read_to_string(ledger.join("GENERATION")).unwrap();
    let note = serde_json::json!({
        "generation": "22".repeat(16), "before": named.trim(), "reason": "behind", "at": at(61),
        "place": { "index": 9, "segment": 1, "offset": 2000 },
    });
    // The note is there, the name is still the old one.
    fs::write(ledger.join("RENEWED"), note.to_string()).unwrap();
    let app = start(&config, 61).await.unwrap();
    assert_eq!(generations(&app), ("22".repeat(16), vec!["behind".to_owned()]));
    assert!(!ledger.join("RENEWED").exists());
    assert_eq!(sums(&print(&app).await), sums(&expected));
    stop(app).await;
    // The fact was durable, the note was not removed any more.
    fs::write(ledger.join("RENEWED"), note.to_string()).unwrap();
    let app = start(&config, 61).await.unwrap();
    assert_eq!(generations(&app), ("22".repeat(16), vec!["behind".to_owned()]));
    stop(app).await;
}

fn source(config: &Config) -> backup::Source {
    let bytes = fs::read(config.key_store.join("collector-signing.key")).unwrap();
    backup::Source {
        places: Places::of(config),
        configuration: Default::default(),
        key: SigningKey::from_bytes(&bytes.try_into().unwrap()),
    }
}

fn signer(config: &Config) -> Signer {
    Signer::This(KeyId::of(&source(config).key.verifying_key()))
}

fn back_up(config: &Config, to: &Path, place: Place, minutes: i64) -> Result<Vec<String>, BackupError> {
    let said = Mutex::new(Vec::new());
    let say = |line: String| said.lock().unwrap().push(line);
    backup::make(&source(config), to, at(minutes), &mut || Ok(place), &say)?;
    Ok(said.into_inner().unwrap())
}

fn quiet(_: String) {}

fn restored(config: &Config, from: &Path, signer: &Signer) -> Result<(), RestoreError> {
    let new = EpochId([0x33; 16]);
    restore::restore(from, &Places::of(config), signer, new, at(70), &quiet).map(drop)
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_running_collector_becomes_the_same_store_under_a_new_generation() {
    let site = Site::with_an_hour().await;
    let config = site.config.clone();
    let to = config.key_store.with_file_name("backup");
    let place = *site.app.ledger.durable().borrow();
    let expected = print(&site.app).await;
    back_up(&config, &to, place, 61).unwrap();
    let shown = site.get("/metrics").await.body;
    assert!(shown.contains("weighbridge_collector_backup_age_seconds 0"), "{shown}");

    // It goes on: what comes now is not in the backup.
    let (status, ..) = sends(&site.app, 3, last_hash(), 61).await;
    assert_eq!(status, StatusCode::OK);
    let after = print(&site.app).await;
    site.app.note_promised().unwrap();
    let _folder = site.stop().await;
    let (manifest, by) = backup::check(&to, &quiet).unwrap();
    assert_eq!(Signer::This(by), signer(&config));
    assert_eq!(manifest.head.place, place);
    assert!(matches!(restored(&config, &to, &signer(&config)), Err(RestoreError::Occupied { .. })));

    fs::remove_dir_all(&config.data).unwrap();
    let stranger = Signer::This(KeyId([1; 16]));
    assert!(matches!(restored(&config, &to, &stranger), Err(RestoreError::Signature { .. })));
    assert!(matches!(restored(&config, &to, &Signer::Unknown), Err(RestoreError::Signature { .. })));
    restored(&config, &to, &Signer::Named(by.to_string())).unwrap();
    assert!(!config.data.join(".restore").exists());
    let app = start(&config, 71).await.unwrap();
    assert_eq!(generations(&app), ("33".repeat(16), vec!["restored".to_owned()]));
    let record = app.store.records("generation").await.unwrap().remove(0).body;
    assert_eq!(record["before"], manifest.head.generation.to_string());
    assert_eq!(record["place"]["index"], place.index);
    // How much was promised beyond it is known, because that was noted elsewhere.
    assert!(record["promised"]["place"]["index"].as_u64() > Some(place.index), "{record}");
    assert_eq!(sums(&print(&app).await), sums(&expected));
    assert_eq!(sends(&app, 3, last_hash(), 61).await.0, StatusCode::OK);
    assert_eq!(sums(&print(&app).await), sums(&after));
    stop(app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_backup_copies_what_is_new_and_one_that_ends_early_leaves_the_first() {
    let site = Site::with_segments(4096).await;
    let config = site.config.clone();
    let to = config.key_store.with_file_name("backup");
    let mut hash = [0; 32];
    let mut sequence = 0;
    let mut send = async |count: u64| {
        for _ in 0..count {
            sequence += 1;
            let minute = i64::try_from(sequence).unwrap();
            let (status, next, body) = sends(&site.app, sequence, hash, minute).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            hash = next;
        }
        *site.app.ledger.durable().borrow()
    };
    let first = send(40).await;
    assert!(first.segment > 3, "{first:?}");
    back_up(&config, &to, first, 61).unwrap();
    let whole = backup::check(&to, &quiet).unwrap().0;
    let second = send(40).await;

    // It breaks off at a file that cannot be read: the first is whole, and is what there is.
    let blocked = Places::of(&config).ledger.join(format!("{:020}.seg", second.segment));
    let hidden = blocked.with_extension("hidden");
    fs::rename(&blocked, &hidden).unwrap();
    assert!(back_up(&config, &to, second, 62).is_err());
    assert_eq!(backup::check(&to, &quiet).unwrap().0, whole);
    fs::rename(&hidden, &blocked).unwrap();

    back_up(&config, &to, second, 63).unwrap();
    let manifest = backup::check(&to, &quiet).unwrap().0;
    assert_eq!(manifest.head.place, second);
    let reused =
        manifest.files.iter().filter(|file| file.stored.starts_with(&format!("run-{}", at(61).0))).count();
    assert!(reused > 2, "finished segments are not copied again");
    // Nothing lies around that the manifest does not name: not of the first, nor of the one that broke off.
    let named = manifest.files.len() + 1;
    assert_eq!(files(&to).len(), named, "{:?}", files(&to));

    // A file of it is changed, lost, or the manifest is cut: then it says so, and is not restored.
    let expected = print(&site.app).await;
    let _folder = site.stop().await;
    fs::remove_dir_all(&config.data).unwrap();
    let victim = to.join(&manifest.files.iter().find(|file| file.path.ends_with("2.seg")).unwrap().stored);
    let bytes = fs::read(&victim).unwrap();
    let mut flipped = bytes.clone();
    flipped[2000] ^= 1;
    fs::write(&victim, flipped).unwrap();
    let Err(BackupError::Unlike(wrong)) = backup::check(&to, &quiet) else { panic!("a flipped byte") };
    assert!(wrong.len() == 1 && wrong[0].contains("2.seg"), "{wrong:?}");
    assert!(restored(&config, &to, &signer(&config)).is_err());
    // What broke off is not taken for an empty store.
    assert!(matches!(start(&config, 72).await, Err(StartError::Opening(_))));
    fs::write(&victim, bytes).unwrap();
    let text = fs::read(to.join("MANIFEST")).unwrap();
    for cut in [text.len() - 1, text.len() / 2, 0] {
        fs::write(to.join("MANIFEST"), &text[..cut]).unwrap();
        assert!(matches!(backup::check(&to, &quiet), Err(BackupError::Manifest { .. })), "{cut}");
    }
    fs::write(to.join("MANIFEST"), text).unwrap();
    restored(&config, &to, &signer(&config)).unwrap();
    let app = start(&config, 73).await.unwrap();
    assert_eq!(sums(&print(&app).await), sums(&expected));
    stop(app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_cut_short_while_it_took_its_place_is_finished_by_the_next_start() {
    let (_folder, config, expected) = stopped().await;
    let to = config.key_store.with_file_name("backup");
    let place = weighbridge_journal::verify(&config.data.join("ledger"), |_| ()).unwrap().end;
    back_up(&config, &to, place, 61).unwrap();
    fs::remove_dir_all(&config.data).unwrap();
    restored(&config, &to, &signer(&config)).unwrap();
    // As it was before the ledger was moved.
    let staging = config.data.join(".restore");
    fs::create_dir_all(staging.join("data")).unwrap();
    fs::rename(config.data.join("ledger"), staging.join("data/ledger")).unwrap();
    fs::write(staging.join("WHOLE"), b"").unwrap();
    let app = start(&config, 71).await.unwrap();
    assert_eq!(generations(&app).1, ["restored"]);
    assert_eq!(sums(&print(&app).await), sums(&expected));
    assert!(!staging.exists());
    stop(app).await;
    // As it was while what was left was removed, by this release and by those before.
    for left in ["data/summaries", "WHOLE"] {
        fs::create_dir_all(staging.join(left)).unwrap();
        let app = start(&config, 72).await.unwrap();
        assert!(!staging.exists(), "{left}");
        stop(app).await;
    }
}

#[test]
fn the_backup_of_the_keys_forgets_what_was_destroyed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, to) = (folder.path().join("keys"), folder.path().join("mirror"));
    fs::create_dir(&store).unwrap();
    for folder in ["tlog", "ca"] {
        fs::create_dir(store.join(folder)).unwrap();
    }
    for name in ["one.key", "two.key", "ca/ca.key", "tlog/x.signed", "ledger-mark.json"] {
        fs::write(store.join(name), name).unwrap();
    }
    let mirrored = backup::keys::mirror(&store, &to).unwrap();
    assert_eq!((mirrored.files, mirrored.destroyed), (3, 0));
    assert!(
        !to.join("ledger-mark.json").exists() && !to.join("tlog").exists(),
        "about this machine's ledger"
    );
    assert!(to.join("ca/ca.key").exists());
    fs::remove_file(store.join("one.key")).unwrap();
    fs::write(store.join("one.destroyed"), "mark").unwrap();
    let mirrored = backup::keys::mirror(&store, &to).unwrap();
    assert_eq!((mirrored.files, mirrored.destroyed), (3, 1));
    assert!(!to.join("one.key").exists() && to.join("one.destroyed").exists());
    // A folder with anything else in it is not touched.
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("mine"), "x").unwrap();
    assert!(matches!(backup::keys::mirror(&store, &other), Err(BackupError::Folder { .. })));
    assert!(other.join("mine").exists());
}

/// Batches of the agent in a minute.
const A_MINUTE: u64 = 6;

/// An H100 that ran for most of two hours, in a batch a minute, under a lease; as of 10:05.
async fn two_hours() -> (Site, [u8; 32]) {
    let site = Site::with_segments(4096).await;
    site.import(
        Kind::Principals,
        "principal,customer,valid_from,valid_to\nlease:site/one,C-1,2026-03-01T00:00:00Z,\n",
    )
    .await;
    site.import(
        Kind::Leases,
        "lease,host,accelerator,principal,start,end\nL-1,gpu-1,*,lease:site/one,2026-03-02T08:00:00Z,2026-03-02T11:00:00Z\n",
    )
    .await;
    let mut hash = [0; 32];
    for minute in 0..100 {
        site.sets(minute + 1);
        let mut sequence = u64::try_from(minute).unwrap() * A_MINUTE + 1;
        let (status, next, body) = sends(&site.app, sequence, hash, minute).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        hash = next;
        // A tile of the tree has 256 entries, and pruning goes by whole tiles.
        for _ in 1..A_MINUTE {
            sequence += 1;
            let mut next = batch(sequence);
            (next.prev_hash, next.status) = (hash, Some(common::status()));
            let sealed = seal(&next, &key()).unwrap();
            assert_eq!(site.submit(sealed.bytes).await.status, StatusCode::OK);
            hash = sealed.hash;
        }
    }
    site.sets(125);
    site.app.settled().await;
    (site, hash)
}

#[derive(clap::Parser)]
struct Verify {
    #[command(flatten)]
    options: verifying::Options,
}

fn segments(config: &Config) -> usize {
    files(&config.data.join("ledger"))
        .iter()
        .filter(|file| file.extension().is_some_and(|end| end == "seg"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_payloads_leave_the_same_totals_and_a_summary_that_everything_starts_from() {
    let (site, last) = two_hours().await;
    let config = site.config.clone();
    let before = print(&site.app).await;
    let customer = async |site: &Site| site.json("/api/v1/customers/C-1").await["total"].clone();
    let total = customer(&site).await;
    let all = segments(&config);
    let kept = config.key_store.with_file_name("kept");
    copied(&config.data.join("ledger"), &kept);

    let token = site.token();
    assert!(matches!(site.app.prune(at(30)).await, Err(PruneError::Date { .. })), "not a whole hour");
    assert!(matches!(site.app.prune(at(180)).await, Err(PruneError::Date { .. })), "not yet past");
    assert_eq!(
        site.post("/api/v1/prune?before=2026-03-02T09:00:00Z", None, "").await.status,
        StatusCode::UNAUTHORIZED
    );
    let answer = site.post("/api/v1/prune?before=2026-03-02T09:00:00Z", Some(&token), "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let pruned = answer.json();
    assert!(pruned["segments"].as_u64() > Some(2), "{pruned}");
    assert!(segments(&config) < all);
    assert_eq!(sums(&print(&site.app).await), sums(&before));
    assert_eq!(customer(&site).await, total);
    let history = site.json("/api/v1/status").await["history"].clone();
    assert_eq!(history["closed_before"], "2026-03-02T09:00:00Z", "{history}");
    assert_eq!(history["summarised_index"], pruned["summary"], "{history}");
    let shown = site.get("/metrics").await.body;
    for name in ["pruned_bytes_total", "summarised_ledger_entries"] {
        assert!(shown.contains(&format!("weighbridge_collector_{name} ")), "{name}: {shown}");
    }

    // What would change a closed hour is refused by name, and nothing of it is stored.
    let lease = |end: &str, start: &str| {
        format!("lease,host,accelerator,principal,start,end\nL-1,gpu-1,*,lease:site/one,{start},{end}\n")
    };
    let changed = lease("2026-03-02T11:00:00Z", "2026-03-02T08:30:00Z");
    let refused = site.app.import(Kind::Leases, "l.csv", changed.as_bytes());
    let Err(ImportError::Contradiction(wrong)) = refused.await else { panic!("a lease of a closed hour") };
    assert!(
        wrong[0].contains("lease L-1") && wrong[0].contains("2026-03-02T09:00:00Z are closed"),
        "{wrong:?}"
    );
    let (status, _, body) = sends(&site.app, 100 * A_MINUTE + 1, last, 30).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    assert!(body.contains("hours before 2026-03-02T09:00:00Z are closed"), "{body}");
    assert_eq!(sums(&print(&site.app).await), sums(&before));
    // What is only read may change: whose it was; and what a lease says of later hours.
    site.import(Kind::Leases, &lease("2026-03-02T10:30:00Z", "2026-03-02T08:00:00Z")).await;
    site.import(
        Kind::Principals,
        "principal,customer,valid_from,valid_to\nlease:site/one,C-2,2026-03-02T08:00:00Z,2026-03-02T09:00:00Z\n",
    )
    .await;
    let moved = site.json("/api/v1/customers/C-2").await["total"]["measured"].clone();
    assert_ne!(moved["best_tera"], "0", "{moved}");
    // A lost acknowledgement: the batch is known though its payload is gone.
    let mut again = batch(1);
    again.windows = vec![window(0)];
    let answer = site.submit(seal(&again, &key()).unwrap().bytes).await;
    assert_eq!((answer.status, answer.json()["outcome"].as_str().unwrap()), (StatusCode::OK, "duplicate"));

    // A start goes on, and one without sums begins with the summary: the same integers.
    let expected = print(&site.app).await;
    let _folder = site.stop().await;
    let app = start(&config, 126).await.unwrap();
    assert_eq!(app.mended.sums, None, "{:?}", app.mended);
    assert_eq!(print(&app).await, expected);
    stop(app).await;
    fs::remove_file(config.data.join("usage.sqlite")).unwrap();
    let app = start(&config, 127).await.unwrap();
    assert!(app.mended.summary.is_some());
    assert_eq!(print(&app).await, expected);
    let hour = app.store.places(&"agent-1".parse().unwrap(), at(60)).await.unwrap();
    assert!(!hour.is_empty(), "open hours have their payloads");
    stop(app).await;

    // Half pruned: the fact is there, the segments are too. The next start finishes.
    let now = segments(&config);
    for file in files(&kept) {
        let target = config.data.join("ledger").join(file.file_name().unwrap());
        if !target.exists() {
            fs::copy(file, target).unwrap();
        }
    }
    assert!(segments(&config) > now);
    let app = start(&config, 128).await.unwrap();
    assert_eq!(print(&app).await, expected);
    assert_eq!(segments(&config), now);
    // Again, an hour later: the older summary goes, and what a check that ended early left.
    let older = files(&config.data.join("summaries"));
    let older: Vec<(PathBuf, Vec<u8>)> =
        older.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect();
    fs::create_dir(config.data.join("summaries/check.new")).unwrap();
    fs::write(config.data.join("summaries/check.new/rows.new"), b"half").unwrap();
    let again = app.prune(at(120)).await.unwrap();
    assert_eq!(again.closed_before, at(120));
    assert_eq!(files(&config.data.join("summaries")).len(), 1);
    stop(app).await;
    // The older one is still there where that ended before its last step; the next start removes it.
    older.iter().for_each(|(file, bytes)| fs::write(file, bytes).unwrap());
    assert_eq!(files(&config.data.join("summaries")).len(), 2);
    let app = start(&config, 128).await.unwrap();
    assert_eq!(files(&config.data.join("summaries")).len(), 1);
    let expected = print(&app).await;
    stop(app).await;
    fs::remove_file(config.data.join("usage.sqlite")).unwrap();
    let app = start(&config, 129).await.unwrap();
    assert_eq!(print(&app).await, expected);
    assert!(app.shared.with(|state| state.accelerators.contains_key(&accelerator())));
    stop(app).await;

    // An auditor starts from the summary too, and misses what is gone beyond what was pruned.
    let verified = verifying::run(&config, &Verify::parse_from(["verify"]).options).await;
    assert!(verified.is_ok(), "{verified:?}");
    let mut left = files(&config.data.join("ledger"));
    left.retain(|file| file.extension().is_some_and(|end| end == "seg"));
    fs::remove_file(&left[0]).unwrap();
    let verified = format!("{:?}", verifying::run(&config, &Verify::parse_from(["verify"]).options).await);
    assert!(verified.contains("were not pruned"), "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_verifies_makes_no_sums_and_compares_with_what_was_promised() {
    let (_folder, config, _) = stopped().await;
    let options = Verify::parse_from(["verify"]).options;
    let verified = async || format!("{:?}", verifying::run(&config, &options).await);
    assert_eq!(verified().await, "Ok(())");
    let generation = config.data.join("ledger/GENERATION");
    let name = fs::read_to_string(&generation).unwrap();
    fs::write(&generation, "ab".repeat(16)).unwrap();
    let found = verified().await;
    assert!(found.contains(&format!("generation {} was promised", name.trim())), "{found}");
    fs::write(&generation, name).unwrap();
    let sums = config.data.join("usage.sqlite");
    fs::remove_file(&sums).unwrap();
    let found = verified().await;
    assert!(found.contains("there are no sums") && !sums.exists(), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_and_a_pruning_wait_for_each_other() {
    let (site, _) = two_hours().await;
    let config = site.config.clone();
    let to = config.key_store.with_file_name("backup");
    let place = *site.app.ledger.durable().borrow();
    let mut met = None;
    let mut durable = || {
        // In the middle of a backup.
        met = Some(futures_now(site.app.prune(at(60))));
        Ok(place)
    };
    backup::make(&source(&config), &to, at(125), &mut durable, &quiet).unwrap();
    assert!(matches!(met, Some(Err(PruneError::Busy { .. }))), "{met:?}");
    assert_eq!(backup::check(&to, &quiet).unwrap().0.head.place, place);
    let pruned = site.app.prune(at(60)).await.unwrap();
    assert!(pruned.segments > 0);
    // The next backup lets go of what was pruned, and what it restores starts from the summary.
    let place = *site.app.ledger.durable().borrow();
    back_up(&config, &to, place, 126).unwrap();
    let manifest = backup::check(&to, &quiet).unwrap().0;
    assert!(manifest.head.oldest_segment > 1);
    assert!(manifest.files.iter().any(|file| file.path.ends_with(".sum")));
    let expected = print(&site.app).await;
    let _folder = site.stop().await;
    fs::remove_dir_all(&config.data).unwrap();
    restored(&config, &to, &signer(&config)).unwrap();
    let app = start(&config, 127).await.unwrap();
    assert!(app.mended.summary.is_some());
    assert_eq!(sums(&print(&app).await), sums(&expected));
    stop(app).await;
}
