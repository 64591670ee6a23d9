//! Identities under lock: they open for their customer while its key exists, and never elsewhere or afterwards.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

use std::{collections::BTreeMap, fs, path::Path};

use expect_test::expect;
use proptest::prelude::*;
use tempfile::TempDir;
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    CustomerId, CustomerRow, Identity, IdentityField, KeyError, KeyStore, OperatorKey, Party, SealedCustomer,
    SealedField, Standing, UsPerson, parse_customers,
    party::{Basis, Discrepancy},
};

const JANE: &str = "customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,\
                    email,telephone,access\n\
                    A-1,person,undetermined,G-1,Jane Roe,Main St,Oslo,card,wallet,,,192.0.2.7@2026-01-31T08:00:00Z\n";

/// Bytes that never come twice, as from a real source, but the same in each test.
struct Bytes(u64);

impl Bytes {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = self.0.to_be_bytes()[0];
        }
    }
}

/// A store in a folder, with a source of bytes.
struct Kit {
    folder: TempDir,
    store: KeyStore,
    bytes: Bytes,
}

impl Kit {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = KeyStore::at(folder.path().join("keys"), OperatorKey::generate([1; 32])).unwrap();
        Self { folder, store, bytes: Bytes(1) }
    }

    fn seal(&mut self, subject: &str, field: IdentityField, text: &str) -> Result<SealedField, KeyError> {
        self.store.seal(&id(subject), field, text, &mut |bytes| self.bytes.fill(bytes))
    }

    fn open(&self, subject: &str, field: IdentityField, sealed: SealedField) -> Result<String, KeyError> {
        let identity = self.store.open(&id(subject), &BTreeMap::from([(field, sealed)]))?;
        Ok(identity.get(field).unwrap_or_default().into())
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let keys = self.folder.path().join("keys");
        let mut files = Vec::new();
        for folder in [keys.clone(), keys.join("drafts")] {
            files.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        }
        files.retain(|path| path.is_file());
        files.sort();
        files
    }
}

fn id(text: &str) -> CustomerId {
    text.parse().unwrap()
}

/// As in a file, and as it is kept: foreign by decision, with something that does not fit.
fn jane() -> (CustomerRow, Party) {
    let row = parse_customers("customers.csv", JANE.as_bytes()).unwrap().remove(0);
    let mut party = Party::unknown(row.kind);
    party.take(&row.identity);
    party.us_person.decide(UsPerson::Foreign, Basis::Citizenship, "desk", UtcMillis(5));
    party.discrepancies.push(Discrepancy {
        id: "ip".into(),
        what: "connects from elsewhere".into(),
        found: UtcMillis(6),
        resolved: None,
    });
    (row, party)
}

fn values(identity: &Identity) -> Vec<(IdentityField, String)> {
    identity.iter().map(|(field, value)| (field, value.to_owned())).collect()
}

#[test]
fn a_sealed_party_shows_nothing_and_opens_again_from_the_ledger() {
    let mut kit = Kit::new();
    let (row, party) = jane();
    let standing = Standing { reseller: Some(id("R-1")), ..Standing::default() };
    let fill = &mut |bytes: &mut [u8]| kit.bytes.fill(bytes);
    let sealed = kit.store.seal_party(&row.customer, row.control_group, standing, &party, fill).unwrap();
    let json = serde_json::to_string(&sealed).unwrap();
    let debug = format!("{sealed:?} {party:?}");
    for (field, value) in row.identity.iter() {
        assert!(!json.contains(value) && !debug.contains(value), "{field} in {json} {debug}");
    }
    let read: SealedCustomer = serde_json::from_str(&json).unwrap();
    assert_eq!(read, sealed);
    let blanks: Vec<_> = read.completeness().blanks().collect();
    assert_eq!(blanks, [IdentityField::Email, IdentityField::Telephone]);
    assert_eq!(kit.store.open_party(&read).unwrap(), party);
    assert_eq!(values(&party.identity()), values(&row.identity));
    expect![[r#"
        {"customer":"A-1","kind":"person","us_person":"foreign","control_group":"G-1","party":"v1:","known":["name","address","locations","payment_means","payment_source","access"],"standing":{"reseller":"R-1","verified":"unverified","remedy":"none","risk":"standard","open_discrepancies":1}}"#]]
    .assert_eq(&blanked(&json));
}

/// With what is sealed left out: its length is that of what it holds.
fn blanked(json: &str) -> String {
    let (before, rest) = json.split_once("v1:").unwrap();
    let (_, after) = rest.split_once('"').unwrap();
    format!("{before}v1:\"{after}")
}

#[test]
fn a_record_of_the_first_form_opens_as_a_party() {
    let mut kit = Kit::new();
    let (row, _) = jane();
    let fields: BTreeMap<_, _> =
        row.identity.iter().map(|(field, text)| (field, kit.seal("A-1", field, text).unwrap())).collect();
    let json = serde_json::json!({
        "customer": "A-1", "kind": "person", "us_person": "us", "control_group": null, "fields": fields,
    });
    let sealed: SealedCustomer = serde_json::from_value(json).unwrap();
    assert_eq!(sealed.completeness(), row.identity.completeness());
    let party = kit.store.open_party(&sealed).unwrap();
    assert_eq!(values(&party.identity()), values(&row.identity));
    assert_eq!(party.us_person.stands(), UsPerson::Us);
}

#[test]
fn a_record_of_another_party_or_purpose_does_not_open() {
    let mut kit = Kit::new();
    let fill = &mut |bytes: &mut [u8]| kit.bytes.fill(bytes);
    let record = kit.store.seal_record(&id("A-1"), "accesses", b"list", fill).unwrap();
    kit.store.seal_record(&id("A-2"), "accesses", b"list", fill).unwrap();
    assert_eq!(kit.store.open_record(&id("A-1"), "accesses", &record).unwrap().as_slice(), b"list");
    for (subject, what) in [("A-1", "party"), ("A-2", "accesses")] {
        let error = kit.store.open_record(&id(subject), what, &record).unwrap_err();
        assert!(matches!(error, KeyError::RecordDamaged { .. }), "{error}");
    }
}

#[test]
fn no_file_of_the_store_holds_a_key_a_name_or_a_customer_id_in_clear() {
    let mut kit = Kit::new();
    kit.seal("ACME-0001", IdentityField::Name, "Jane Roe").unwrap();
    let files = kit.files();
    assert_eq!(files.len(), 1, "{files:?}");
    let text = fs::read_to_string(&files[0]).unwrap();
    assert!(!text.contains("ACME") && !files[0].to_str().unwrap().contains("ACME"), "{text}");
    // The first bytes drawn are the data key.
    let mut key = [0; 32];
    Bytes(1).fill(&mut key);
    use base64::{Engine, engine::general_purpose::STANDARD};
    let wrapped: serde_json::Value = serde_json::from_str(&text).unwrap();
    let wrapped = STANDARD.decode(wrapped["wrapped"].as_str().unwrap().trim_start_matches("v1:")).unwrap();
    assert_eq!(wrapped.len(), 24 + 32 + 16);
    assert!(!wrapped.windows(8).any(|part| key.windows(8).any(|other| part == other)));
}

#[test]
fn the_same_value_is_never_sealed_to_the_same_text() {
    let mut kit = Kit::new();
    let first = kit.seal("A-1", IdentityField::Name, "Jane").unwrap();
    let second = kit.seal("A-1", IdentityField::Name, "Jane").unwrap();
    assert_ne!(first.to_string(), second.to_string());
}

#[test]
fn a_value_moved_to_another_field_or_customer_does_not_open() {
    let mut kit = Kit::new();
    let name = kit.seal("A-1", IdentityField::Name, "Jane").unwrap();
    kit.seal("A-2", IdentityField::Name, "John").unwrap();
    for (subject, field) in [("A-1", IdentityField::Email), ("A-2", IdentityField::Name)] {
        let error = kit.open(subject, field, name.clone()).unwrap_err();
        assert!(matches!(error, KeyError::ValueDamaged { .. }), "{error}");
    }
    assert_eq!(kit.open("A-1", IdentityField::Name, name).unwrap(), "Jane");
}

#[test]
fn a_key_file_moved_to_another_customer_does_not_open() {
    let mut kit = Kit::new();
    let name = kit.seal("A-1", IdentityField::Name, "Jane").unwrap();
    let first = kit.files().remove(0);
    kit.seal("A-2", IdentityField::Name, "John").unwrap();
    let second = kit.files().into_iter().find(|path| *path != first).unwrap();
    fs::copy(first, second).unwrap();
    let error = kit.open("A-2", IdentityField::Name, name).unwrap_err();
    assert!(matches!(error, KeyError::KeyDamaged { .. }), "{error}");
}

#[test]
fn a_destroyed_key_is_gone_and_never_made_again() {
    let mut kit = Kit::new();
    let name = kit.seal("A-1", IdentityField::Name, "Jane").unwrap();
    let other = kit.seal("A-2", IdentityField::Name, "John").unwrap();
    let before = kit.files();
    kit.store.destroy(&id("A-1")).unwrap();
    kit.store.destroy(&id("A-1")).unwrap();
    assert_eq!(kit.files(), before);
    let error = kit.open("A-1", IdentityField::Name, name).unwrap_err();
    assert!(matches!(error, KeyError::KeyDestroyed { .. }), "{error}");
    let error = kit.seal("A-1", IdentityField::Name, "Jane").unwrap_err();
    assert!(matches!(error, KeyError::KeyDestroyed { .. }), "{error}");
    assert_eq!(kit.open("A-2", IdentityField::Name, other).unwrap(), "John");
}

#[test]
fn destroying_a_key_also_removes_what_a_crash_left_of_it() {
    let mut kit = Kit::new();
    kit.seal("A-1", IdentityField::Name, "Jane").unwrap();
    let key = kit.files().remove(0);
    // As after a crash between making the draft and removing it: both names lead to one file. Programs of before made
    // drafts beside the keys.
    let draft = key.with_extension("00ff.draft");
    for draft in [draft.clone(), key.with_file_name("drafts").join(draft.file_name().unwrap())] {
        fs::hard_link(&key, &draft).unwrap();
    }
    let elsewhere = kit.folder.path().join("elsewhere");
    fs::hard_link(&key, &elsewhere).unwrap();
    kit.store.destroy(&id("A-1")).unwrap();
    assert_eq!(kit.files(), [key]);
    assert!(fs::read(elsewhere).unwrap().iter().all(|byte| *byte == 0), "the old bytes are overwritten");
}

#[test]
fn of_two_that_make_a_key_at_once_the_first_wins_and_both_values_open() {
    let kit = Kit::new();
    let other = KeyStore::at(kit.folder.path().join("keys"), OperatorKey::generate([1; 32])).unwrap();
    let (mut bytes, mut other_bytes) = (Bytes(1), Bytes(2));
    let mut theirs = None;
    // The other store makes the key after ours has seen that there is none.
    let ours = kit.store.seal(&id("A-1"), IdentityField::Name, "Jane", &mut |buffer| {
        theirs.get_or_insert_with(|| {
            other
                .seal(&id("A-1"), IdentityField::Email, "j@x", &mut |buffer| other_bytes.fill(buffer))
                .unwrap()
        });
        bytes.fill(buffer);
    });
    assert_eq!(kit.open("A-1", IdentityField::Name, ours.unwrap()).unwrap(), "Jane");
    assert_eq!(kit.open("A-1", IdentityField::Email, theirs.unwrap()).unwrap(), "j@x");
    assert_eq!(kit.files().len(), 1, "no draft is left");
}

#[test]
fn a_key_that_was_never_made_is_missing_and_not_destroyed() {
    let mut kit = Kit::new();
    let name = kit.seal("A-1", IdentityField::Name, "Jane").unwrap();
    let error = kit.open("A-2", IdentityField::Name, name).unwrap_err();
    assert!(matches!(error, KeyError::KeyMissing { .. }), "{error}");
}

#[test]
fn another_operators_key_opens_nothing_and_is_named() {
    let mut kit = Kit::new();
    let name = kit.seal("A-1", IdentityField::Name, "Jane").unwrap();
    kit.store = KeyStore::at(kit.folder.path().join("keys"), OperatorKey::generate([2; 32])).unwrap();
    let error = kit.open("A-1", IdentityField::Name, name).unwrap_err();
    let shown = error.to_string().replace(kit.files()[0].to_str().unwrap(), "KEY");
    expect!["KEY is locked with operator key d04dd0d6510d7b4a, the one given is d60a0d8dd45f4717"]
        .assert_eq(&shown);
    assert!(matches!(kit.seal("A-1", IdentityField::Name, "x"), Err(KeyError::WrongOperatorKey { .. })));
}

#[test]
fn an_operator_key_is_saved_once_privately_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operator.key");
    let key = OperatorKey::generate([3; 32]);
    key.save_new(&path).unwrap();
    assert_eq!(OperatorKey::from_file(&path).unwrap().id(), key.id());
    assert_eq!(format!("{key:?}"), format!("OperatorKey({})", key.id()));
    assert!(matches!(OperatorKey::generate([4; 32]).save_new(&path), Err(KeyError::Io { .. })));
    assert_eq!(OperatorKey::from_file(&path).unwrap().id(), key.id());
}

#[cfg(unix)]
#[test]
fn an_operator_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operator.key");
    OperatorKey::generate([3; 32]).save_new(&path).unwrap();
    for (mode, good) in [(0o644, false), (0o620, false), (0o604, false), (0o600, true), (0o440, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(OperatorKey::from_file(&path).is_ok(), good, "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    expect!["operator key KEY: its mode is 0644, expected 0600, 0400 or 0440"].assert_eq(&message(&path));
}

#[cfg(unix)]
#[test]
fn key_files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let mut kit = Kit::new();
    kit.seal("A-1", IdentityField::Name, "Jane").unwrap();
    assert_eq!(fs::metadata(&kit.files()[0]).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(kit.folder.path().join("keys")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn an_operator_key_file_with_other_content_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operator.key");
    OperatorKey::generate([3; 32]).save_new(&path).unwrap();
    let mut messages = String::new();
    for content in ["", "secret", "AQEB", &"AQEB".repeat(12), &"AQEB".repeat(500)] {
        fs::write(&path, content).unwrap();
        messages += &(message(&path) + "\n");
    }
    expect![[r#"
        operator key KEY: it holds 0 bytes, expected 32 in base64
        operator key KEY: it is not base64 of 32 bytes, 44 characters
        operator key KEY: it holds 3 bytes, expected 32 in base64
        operator key KEY: it holds 36 bytes, expected 32 in base64
        operator key KEY: it is not base64 of 32 bytes, 44 characters
    "#]]
    .assert_eq(&messages);
    assert!(matches!(OperatorKey::from_file(&folder.path().join("none")), Err(KeyError::Io { .. })));
}

fn message(path: &Path) -> String {
    let error = OperatorKey::from_file(path).unwrap_err();
    assert!(matches!(error, KeyError::OperatorKey { .. }));
    error.to_string().replace(path.to_str().unwrap(), "KEY")
}

proptest! {
    #[test]
    fn no_content_of_a_key_file_makes_opening_panic(
        content in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            "\\{\"version\":\"(key-v1|destroyed-v1)\",\"operator\":\"x?\",\"wrapped\":\"(v1:)?[A-Z]{0,60}\"\\}"
                .prop_map(String::into_bytes),
        ],
    ) {
        let mut kit = Kit::new();
        let name = kit.seal("A-1", IdentityField::Name, "Jane").unwrap();
        fs::write(&kit.files()[0], content).unwrap();
        prop_assert!(kit.open("A-1", IdentityField::Name, name).is_err());
        prop_assert!(kit.seal("A-1", IdentityField::Name, "Jane").is_err(), "no key is made over a damaged one");
    }

    #[test]
    fn what_was_sealed_opens_as_it_was(text in "\\PC{0,200}") {
        let mut kit = Kit::new();
        let sealed = kit.seal("A-1", IdentityField::Address, &text).unwrap();
        let opened = kit.open("A-1", IdentityField::Address, sealed).unwrap();
        prop_assert_eq!(opened, if text.trim().is_empty() { String::new() } else { text });
    }
}
