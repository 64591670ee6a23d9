//! The key store where the machine stops, and where the disk refuses.

use std::collections::BTreeSet;

use tempfile::TempDir;

use super::{interrupted::Fault, *};

pub(super) fn id(text: &str) -> CustomerId {
    text.parse().expect("an id")
}

pub(super) fn ids(count: usize) -> Vec<CustomerId> {
    (0..count).map(|number| id(&format!("A-{number}"))).collect()
}

/// Bytes that never come twice.
pub(super) fn bytes(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut state = seed;
    move |bytes| {
        for byte in bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
    }
}

pub(super) fn store(folder: &TempDir, operator: u8) -> KeyStore {
    KeyStore::at(folder.path(), OperatorKey::generate([operator; 32])).expect("a store")
}

/// Every file, keys and drafts.
pub(super) fn files(folder: &TempDir) -> BTreeSet<PathBuf> {
    let both = [folder.path().to_owned(), folder.path().join(drafts::FOLDER)];
    let all = both.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    all.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()).collect()
}

/// What of a run is there for whoever comes after it.
fn drafts_of(folder: &TempDir) -> usize {
    files(folder).iter().filter(|path| path.parent() != Some(folder.path())).count()
}

fn opens(store: &KeyStore, subject: &CustomerId, sealed: &SealedField) -> bool {
    let opened = store.open(subject, &BTreeMap::from([(IdentityField::Name, sealed.clone())]));
    opened.is_ok_and(|identity| identity.get(IdentityField::Name) == Some("Jane"))
}

#[test]
fn keys_of_many_are_made_with_a_few_syncs_and_only_where_they_are_missing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder, 1);
    let many = ids(10_000);
    let sealed = store.seal(&many[7], IdentityField::Name, "Jane", &mut bytes(1)).unwrap();
    let (made, steps) = interrupted::at(None, || store.prepare(&many, &mut bytes(2)));
    assert_eq!(made.unwrap(), many.len() - 1);
    let syncs = steps.iter().filter(|name| name.contains("sync")).count();
    assert!(syncs <= 6, "{syncs} syncs for 10,000 keys");
    assert!(opens(&store, &many[7], &sealed), "its key is the one before");
    assert_eq!(files(&folder).len(), many.len(), "no draft is left");
    assert_eq!(store.prepare(&many, &mut bytes(3)).unwrap(), 0);
    let (sealed, steps) =
        interrupted::at(None, || store.seal(&many[8], IdentityField::Name, "Jane", &mut bytes(4)));
    assert_eq!(steps, [""; 0], "sealing with a key that is there writes nothing");
    assert!(opens(&store, &many[8], &sealed.unwrap()));
}

#[test]
fn a_destroyed_one_among_many_is_named_and_no_key_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder, 1);
    store.destroy(&id("A-3")).unwrap();
    let before = files(&folder);
    let error = store.prepare(&ids(5), &mut bytes(1)).unwrap_err();
    assert!(matches!(&error, KeyError::KeyDestroyed { subject } if *subject == id("A-3")), "{error}");
    assert_eq!(files(&folder), before);
}

#[test]
fn of_two_that_make_keys_of_many_at_once_the_first_wins_each() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (store(&folder, 1), store(&folder, 1));
    let mut theirs = None;
    let mut fill = bytes(1);
    // The other store makes some after ours has seen that they are missing, and destroys one.
    let made = ours.prepare(&ids(4), &mut |buffer| {
        theirs.get_or_insert_with(|| {
            other.seal(&id("A-1"), IdentityField::Name, "Jane", &mut bytes(2)).unwrap()
        });
        fill(buffer);
    });
    assert_eq!(made.unwrap(), 3);
    assert!(opens(&ours, &id("A-1"), &theirs.unwrap()));

    let mut destroyed = false;
    let error = ours.prepare(&ids(6), &mut |buffer| {
        if !std::mem::replace(&mut destroyed, true) {
            other.destroy(&id("A-5")).unwrap();
        }
        fill(buffer);
    });
    let error = error.unwrap_err();
    assert!(matches!(&error, KeyError::KeyDestroyed { subject } if *subject == id("A-5")), "{error}");
    assert_eq!(drafts_of(&folder), 0);
}

#[test]
fn a_batch_that_is_interrupted_at_any_step_leaves_whole_keys_and_drafts_and_is_repeated() {
    let many = ids(3);
    let (_, steps) = interrupted::at(None, || {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder, 1);
        store.prepare(&many, &mut bytes(1)).unwrap();
    });
    // The first is of the opening.
    assert_eq!(
        steps.join(" "),
        "keys.sync_folder keys.write keys.write keys.write keys.sync_drafts keys.link keys.link keys.link \
         keys.sync_folder keys.remove_draft keys.remove_draft keys.remove_draft"
    );
    for number in 1..steps.len() {
        for fault in Fault::ALL {
            let folder = tempfile::tempdir().unwrap();
            let (done, _) =
                interrupted::at(Some((number, fault)), || store(&folder, 1).prepare(&many, &mut bytes(1)));
            assert!(done.is_err(), "{number} {fault:?}");
            let store = store(&folder, 1);
            for subject in &many {
                // Whole, or not there.
                store.key(subject, &store.path(subject)).unwrap();
            }
            assert!(store.prepare(&many, &mut bytes(2)).unwrap() <= many.len());
            let sealed = store.seal(&many[0], IdentityField::Name, "Jane", &mut bytes(3)).unwrap();
            store.clear_drafts().unwrap();
            assert_eq!(files(&folder).len(), many.len(), "{number} {fault:?}");
            assert!(opens(&store, &many[0], &sealed), "clearing drafts costs no key");
        }
    }
}

#[test]
fn whoever_is_destroyed_after_an_interrupted_batch_is_in_no_file() {
    let many = ids(3);
    for number in 1..12 {
        let folder = tempfile::tempdir().unwrap();
        let (_, _) = interrupted::at(Some((number, Fault::StoppedAfter)), || {
            store(&folder, 1).prepare(&many, &mut bytes(1))
        });
        let of_first = |path: &PathBuf| path.display().to_string().contains(&file_stem(&many[0]));
        let held: Vec<_> = files(&folder).into_iter().filter(of_first).collect();
        // Under another name, so that what becomes of its bytes is seen.
        let kept = tempfile::tempdir_in(folder.path()).unwrap();
        for (number, path) in held.iter().enumerate() {
            fs::hard_link(path, kept.path().join(number.to_string())).unwrap();
        }
        let store = store(&folder, 1);
        store.destroy(&many[0]).unwrap();
        let left: Vec<_> = files(&folder).into_iter().filter(of_first).collect();
        assert_eq!(left, [store.path(&many[0])]);
        assert_eq!(fs::read(&left[0]).unwrap(), br#"{"version":"destroyed-v1"}"#);
        for number in 0..held.len() {
            let bytes = fs::read(kept.path().join(number.to_string())).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0), "step {number}");
        }
    }
}

#[test]
fn destroying_that_is_interrupted_at_any_step_is_repeated_and_brings_nothing_back() {
    let prepared = || {
        let folder = tempfile::tempdir().unwrap();
        let sealed = store(&folder, 1).seal(&id("A-0"), IdentityField::Name, "Jane", &mut bytes(1)).unwrap();
        (folder, sealed)
    };
    let (folder, _) = prepared();
    let (done, steps) = interrupted::at(None, || store(&folder, 1).destroy(&id("A-0")));
    done.unwrap();
    for number in 1..steps.len() {
        for fault in Fault::ALL {
            let (folder, sealed) = prepared();
            let (done, _) = interrupted::at(Some((number, fault)), || store(&folder, 1).destroy(&id("A-0")));
            assert!(done.is_err(), "{number} {fault:?}");
            let store = store(&folder, 1);
            store.destroy(&id("A-0")).unwrap();
            assert!(!opens(&store, &id("A-0"), &sealed));
            assert_eq!(files(&folder).len(), 1);
            let again = store.seal(&id("A-0"), IdentityField::Name, "Jane", &mut bytes(2));
            assert!(matches!(again, Err(KeyError::KeyDestroyed { .. })));
        }
    }
}

#[test]
fn erasing_many_lists_the_keys_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder, 1);
    store.prepare(&ids(3), &mut bytes(1)).unwrap();
    store.destroy(&id("A-0")).unwrap();
    // Not seen any more: only a folder in which there is nothing is looked through.
    let planted = folder.path().join("late.draft");
    fs::write(&planted, "x").unwrap();
    store.destroy(&id("A-1")).unwrap();
    assert!(planted.exists());
    assert_eq!(drafts_of(&folder), 0);
}

#[test]
fn a_key_whose_name_may_not_be_durable_is_not_sealed_with_before_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder, 1);
    // The sync of the folder after the link.
    let (done, steps) = interrupted::at(Some((2, Fault::Refused)), || {
        store.seal(&id("A-0"), IdentityField::Name, "Jane", &mut bytes(1))
    });
    assert!(done.is_err());
    assert_eq!(steps[..3].join(" "), "keys.write keys.link keys.sync_folder");
    let (done, steps) =
        interrupted::at(None, || store.seal(&id("A-0"), IdentityField::Name, "Jane", &mut bytes(1)));
    assert_eq!(steps, ["keys.sync_folder"]);
    assert!(opens(&store, &id("A-0"), &done.unwrap()));
}
