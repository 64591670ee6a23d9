use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;
use crate::{
    CustomerId, IdentityField, SealedField,
    keys::{
        file_stem,
        interrupted::{self, Fault},
        ring::FILE,
        tests::{bytes, files, id, ids, store},
    },
};

fn operator(seed: u8) -> OperatorKey {
    OperatorKey::generate([seed; 32])
}

fn seal(store: &KeyStore, subject: &CustomerId) -> SealedField {
    store
        .seal(subject, IdentityField::Name, "Jane", &mut bytes(subject.as_str().len() as u64))
        .expect("sealed")
}

fn opens(store: &KeyStore, subject: &CustomerId, sealed: &SealedField) -> bool {
    let opened = store.open(subject, &BTreeMap::from([(IdentityField::Name, sealed.clone())]));
    opened.is_ok_and(|identity| identity.get(IdentityField::Name) == Some("Jane"))
}

/// The key of a customer as programs of before kept it: bound to its id.
fn in_first_form(store: &KeyStore, subject: &CustomerId) {
    let path = store.path(subject);
    let key = store.key(subject, &path).unwrap().unwrap();
    let ring = store.ring();
    let wrapped = sealed::seal(&ring.current.key, &sealed::place_of_key(subject), &*key, &mut bytes(99));
    let file = KeyFile::Key { operator: ring.current.id(), wrapped };
    fs::write(path, serde_json::to_vec(&file).unwrap()).unwrap();
}

/// A store under key 1: three customers of today, one of the first form, one destroyed; and what was sealed.
fn prepared() -> (TempDir, Vec<(CustomerId, SealedField)>) {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder, 1);
    store.settle(&mut bytes(5)).unwrap();
    let sealed: Vec<_> = ids(4).into_iter().map(|id| (id.clone(), seal(&store, &id))).collect();
    in_first_form(&store, &sealed[1].0);
    seal(&store, &id("gone"));
    store.destroy(&id("gone")).unwrap();
    (folder, sealed)
}

fn rotate(store: &KeyStore, to: u8) -> Result<Locks, KeyError> {
    store.begin_rotation(operator(to), Some(Path::new("/new.key")), &mut bytes(31))?;
    let locks = store.change_locks(&mut bytes(32))?;
    store.finish_rotation(&mut bytes(33))?;
    Ok(locks)
}

/// Whether this key opens anything that lies in the folder.
fn opens_any(folder: &TempDir, with: &OperatorKey, subjects: &[CustomerId]) -> bool {
    files(folder).iter().any(|path| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let text: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let sealed = ["wrapped", "digests"].iter().filter_map(|key| text[key].as_str());
        let sealed =
            sealed.chain(text["before"]["key"].as_str()).filter_map(|text| text.parse::<SealedField>().ok());
        sealed.into_iter().any(|sealed| {
            let mut places = vec![sealed::place_of_file(stem)];
            places.extend(subjects.iter().map(sealed::place_of_key));
            places.push(b"weighbridge-digests-v1\0".to_vec());
            places.push(b"weighbridge-operator-before-v1\0".to_vec());
            places.iter().any(|place| sealed::open(&with.key, place, &sealed).is_ok())
        })
    })
}

#[test]
fn what_was_sealed_before_during_and_after_opens_and_the_old_key_opens_nothing() {
    let (folder, mut sealed) = prepared();
    let store = store(&folder, 1);
    let (digest, secret) = (store.digest("user", "jane"), store.wrap("authority", b"key", &mut bytes(6)));
    let [old_token, new_token] = [operator(1).token(), operator(2).token()];
    assert!(store.accepts(&old_token) && !store.accepts(&new_token));
    store.begin_rotation(operator(2), None, &mut bytes(7)).unwrap();
    sealed.push((id("during"), seal(&store, &id("during"))));
    assert!(store.accepts(&old_token) && store.accepts(&new_token));
    assert_eq!(store.open_wrapped("authority", &secret).unwrap().as_slice(), b"key");
    assert!(sealed.iter().all(|(id, sealed)| opens(&store, id, sealed)), "either key opens");
    let left = store.locks().unwrap();
    assert_eq!((left.current, left.before, left.destroyed, left.unfit), (1, 4, 1, 0));
    assert!(matches!(store.finish_rotation(&mut bytes(8)), Err(KeyError::LocksLeft { left: 4 })));
    let locks = store.change_locks(&mut bytes(9)).unwrap();
    assert_eq!((locks.current, locks.before, locks.destroyed, locks.unfit), (5, 0, 1, 0));
    let secret = store.wrap("authority", &store.open_wrapped("authority", &secret).unwrap(), &mut bytes(6));
    store.finish_rotation(&mut bytes(10)).unwrap();
    sealed.push((id("after"), seal(&store, &id("after"))));

    let again = crate::keys::tests::store(&folder, 2);
    for store in [store, again] {
        assert!(sealed.iter().all(|(id, sealed)| opens(&store, id, sealed)));
        assert_eq!(store.digest("user", "jane"), digest);
        assert_eq!(store.open_wrapped("authority", &secret).unwrap().as_slice(), b"key");
        assert!(!store.accepts(&old_token) && store.accepts(&new_token));
        let destroyed = store.seal(&id("gone"), IdentityField::Name, "Jane", &mut bytes(11));
        assert!(matches!(destroyed, Err(KeyError::KeyDestroyed { .. })));
    }
    let refused = KeyStore::at(folder.path(), operator(1)).unwrap_err().to_string();
    let refused = refused.replace(&folder.path().display().to_string(), "FOLDER");
    expect_test::expect![
        "FOLDER/operator.json is locked with operator key d60a0d8dd45f4717, the one given is d04dd0d6510d7b4a"
    ]
    .assert_eq(&refused);
    let subjects: Vec<_> = sealed.into_iter().map(|(id, _)| id).collect();
    assert!(!opens_any(&folder, &operator(1), &subjects), "nothing needs the old key, or opens with it");
    assert!(opens_any(&folder, &operator(2), &subjects));
}

#[test]
fn old_bytes_are_overwritten_where_they_lie() {
    let (folder, sealed) = prepared();
    let kept = tempfile::tempdir_in(folder.path()).unwrap();
    for (number, (id, _)) in sealed.iter().enumerate() {
        let path = folder.path().join(file_stem(id) + ".json");
        fs::hard_link(path, kept.path().join(number.to_string())).unwrap();
    }
    fs::hard_link(folder.path().join(FILE), kept.path().join("operator")).unwrap();
    rotate(&store(&folder, 1), 2).unwrap();
    let old: Vec<_> = fs::read_dir(kept.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(old.len(), sealed.len() + 1);
    for path in old {
        assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0), "{path:?}");
    }
}

#[test]
fn a_change_that_is_interrupted_at_any_step_is_finished_by_repeating_it_or_by_the_next_start() {
    let (folder, _) = prepared();
    let (done, steps) = interrupted::at(None, || rotate(&store(&folder, 1), 2));
    done.unwrap();
    for step in ["keys.rotate", "keys.sync_drafts", "keys.replace", "keys.overwrite", "keys.wipe"] {
        assert!(steps.contains(&step), "{steps:?}");
    }
    // The first is of the opening.
    for (number, step) in steps.iter().enumerate().skip(1) {
        for fault in Fault::ALL {
            let (folder, mut sealed) = prepared();
            let digest = store(&folder, 1).digest("user", "jane");
            let here = store(&folder, 1);
            let (done, _) = interrupted::at(Some((number - 1, fault)), || rotate(&here, 2));
            let what = format!("step {number}, {step}, {fault:?}");
            assert!(done.is_err(), "{what}");
            // Whoever still runs reads and seals on.
            if fault == Fault::Refused {
                assert!(sealed.iter().all(|(id, sealed)| opens(&here, id, sealed)), "{what}");
                sealed.push((id("during"), seal(&here, &id("during"))));
            }
            let after = match (number % 2, fault) {
                // By repeating it.
                (0, Fault::Refused) => here,
                // By the next start, with the key that it was given or with the one it was told to take.
                _ => match KeyStore::at(folder.path(), operator(1)) {
                    Ok(store) => store,
                    Err(KeyError::Rotating { to, file, .. }) => {
                        assert_eq!(to, operator(2).id(), "{what}");
                        assert_eq!(file.as_deref(), Some(Path::new("/new.key")), "{what}");
                        store(&folder, 2)
                    }
                    // All was done but the overwriting of what is nobody's any more.
                    Err(KeyError::WrongOperatorKey { .. }) => store(&folder, 2),
                    Err(error) => panic!("{what}: {error}"),
                },
            };
            after.settle(&mut bytes(41)).unwrap();
            assert!(sealed.iter().all(|(id, sealed)| opens(&after, id, sealed)), "{what}");
            match rotate(&after, 2) {
                Ok(locks) => assert_eq!((locks.before, locks.unfit), (0, 0), "{what}"),
                Err(KeyError::SameOperatorKey { .. }) => {}
                Err(error) => panic!("{what}: {error}"),
            }
            assert!(sealed.iter().all(|(id, sealed)| opens(&after, id, sealed)), "{what}");
            assert_eq!(after.digest("user", "jane"), digest, "{what}");
            assert_eq!(after.operators(), (operator(2).id(), None), "{what}");
            let subjects: Vec<_> = sealed.iter().map(|(id, _)| id.clone()).collect();
            assert!(!opens_any(&folder, &operator(1), &subjects), "{what}");
            assert_eq!(files(&folder).len(), sealed.len() + 2, "{what}: no draft is left");
        }
    }
}

#[test]
fn sealing_opening_and_erasing_go_on_while_locks_are_changed() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder, 1);
    let before = ids(1_500);
    store.prepare(&before, &mut bytes(1)).unwrap();
    let value = seal(&store, &before[0]);
    let (sealed, destroyed) = std::thread::scope(|scope| {
        let sealing = scope.spawn(|| {
            let new = (0..200).map(|number| id(&format!("new-{number}")));
            new.map(|id| (id.clone(), seal(&store, &id))).collect::<Vec<_>>()
        });
        let reading = scope.spawn(|| {
            for _ in 0..3_000 {
                assert!(opens(&store, &before[0], &value), "whichever key names the file, it opens");
            }
        });
        let erasing = scope.spawn(|| {
            let some = before.iter().skip(1).step_by(50).cloned().collect::<Vec<_>>();
            some.iter().for_each(|id| store.destroy(id).unwrap());
            some
        });
        rotate(&store, 2).unwrap();
        reading.join().unwrap();
        (sealing.join().unwrap(), erasing.join().unwrap())
    });
    let after = crate::keys::tests::store(&folder, 2);
    assert!(sealed.iter().all(|(id, sealed)| opens(&after, id, sealed)));
    for id in &destroyed {
        let again = after.seal(id, IdentityField::Name, "Jane", &mut bytes(3));
        assert!(matches!(again, Err(KeyError::KeyDestroyed { .. })), "{id} is back");
    }
    let locks = after.locks().unwrap();
    assert_eq!((locks.before, locks.unfit), (0, 0));
    assert_eq!(locks.current + locks.destroyed, before.len() + sealed.len());
}

#[test]
fn a_second_change_takes_keys_of_the_first_form_along() {
    let (folder, sealed) = prepared();
    for to in 2..5 {
        rotate(&store(&folder, to - 1), to).unwrap();
        assert!(sealed.iter().all(|(id, sealed)| opens(&store(&folder, to), id, sealed)));
    }
    // Moved to another customer, one of them does not open.
    fs::copy(store(&folder, 4).path(&sealed[1].0), store(&folder, 4).path(&sealed[2].0)).unwrap();
    assert!(!opens(&store(&folder, 4), &sealed[2].0, &sealed[2].1));
}

#[test]
fn a_file_that_is_no_key_is_left_told_and_stops_nothing() {
    let (folder, sealed) = prepared();
    let path = store(&folder, 1).path(&sealed[0].0);
    fs::write(&path, "damaged").unwrap();
    let locks = rotate(&store(&folder, 1), 2).unwrap();
    assert_eq!((locks.current, locks.unfit), (3, 1));
    assert_eq!(locks.named, std::slice::from_ref(&path));
    assert_eq!(fs::read(path).unwrap(), b"damaged");
}

#[test]
fn what_cannot_be_begun_is_said() {
    let (folder, _) = prepared();
    let store = store(&folder, 1);
    let begin = |to| store.begin_rotation(operator(to), Some(Path::new("/new.key")), &mut bytes(1));
    assert!(matches!(begin(1), Err(KeyError::SameOperatorKey { .. })));
    begin(2).unwrap();
    begin(2).unwrap();
    assert!(matches!(begin(3), Err(KeyError::Rotating { .. })), "one at a time");
    let refused = KeyStore::at(folder.path(), operator(1)).unwrap_err().to_string();
    expect_test::expect!["operator key d60a0d8dd45f4717 is taking the place of another here, the one given is d04dd0d6510d7b4a: give that of /new.key"]
        .assert_eq(&refused);
}

#[test]
fn digests_of_a_store_in_use_stay_and_a_new_one_draws_its_own() {
    let derived = crate::keys::digests::DigestKey::of(&operator(1)).digest("user", "jane");
    let folder = tempfile::tempdir().unwrap();
    seal(&store(&folder, 1), &id("A-1"));
    store(&folder, 1).settle(&mut bytes(1)).unwrap();
    assert_eq!(store(&folder, 1).digest("user", "jane"), derived);
    let fresh = tempfile::tempdir().unwrap();
    store(&fresh, 1).settle(&mut bytes(1)).unwrap();
    store(&fresh, 1).settle(&mut bytes(2)).unwrap();
    let own = store(&fresh, 1).digest("user", "jane");
    assert_ne!(own, derived);
    rotate(&store(&fresh, 1), 2).unwrap();
    assert_eq!(store(&fresh, 2).digest("user", "jane"), own);
}
