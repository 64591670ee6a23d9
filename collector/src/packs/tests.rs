use super::*;

use weighbridge_wire::SigningKey;

const NAME: &str = "us-7.308@2.toml";

fn key(name: &str, seed: u8) -> SignerKey {
    SignerKey::new(name, SigningKey::from_bytes(&[seed; 32])).expect("a name")
}

/// The next version of a shipped pack.
fn next() -> String {
    let shipped = weighbridge_casework::shipped();
    let (_, text) = shipped.iter().find(|(file, _)| *file == "us-7.308@1.toml").expect("it is shipped");
    text.replacen("version = \"1\"", "version = \"2\"", 1)
}

/// What a folder with these files comes to, if `legal` is trusted.
fn loaded(files: &[(&str, &str)]) -> Result<Shelf, String> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("writable");
    }
    load(Some(folder.path()), &[key("legal", 1).verifier().clone()]).map_err(|error| error.to_string())
}

#[test]
fn a_signed_pack_is_loaded_with_who_signed_it_and_the_one_before_is_kept() {
    let (text, other) = (next(), sign(NAME, &next(), None, &key("board", 2)));
    let both = sign(NAME, &text, Some(&other), &key("legal", 1));
    let shelf =
        loaded(&[(NAME, &text), ("us-7.308@2.toml.sig", &both), ("README", "left alone")]).expect("loads");
    let by = key("legal", 1).verifier().id();
    assert_eq!(shelf.signers, [("us-7.308@2".to_owned(), vec![format!("legal+{by:08x}")])].into());
    let named = |packs: &[RulePack]| packs.iter().map(RulePack::named).collect::<Vec<_>>();
    assert_eq!(named(&shelf.older), ["us-7.308@1"]);
    assert!(named(&shelf.newest).contains(&"us-7.308@2".to_owned()));
    assert_eq!(shelf.newest.len(), weighbridge_casework::shipped().len());
}

#[test]
fn of_ten_versions_the_tenth_is_newer_than_the_ninth() {
    let mut files = Vec::new();
    for version in ["9", "10"] {
        let name = format!("us-7.308@{version}.toml");
        let text = next().replacen("version = \"2\"", &format!("version = \"{version}\""), 1);
        let sig = sign(&name, &text, None, &key("legal", 1));
        files.extend([(name.clone(), text), (format!("{name}.sig"), sig)]);
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let shelf = loaded(&files).expect("loads");
    let newest = shelf.newest.iter().find(|pack| pack.id == "us-7.308").map(RulePack::named);
    assert_eq!(newest.as_deref(), Some("us-7.308@10"));
}

#[test]
fn a_pack_that_cannot_be_believed_is_refused_by_name() {
    let text = next();
    let good = sign(NAME, &text, None, &key("legal", 1));
    let sig = "us-7.308@2.toml.sig";
    let refused = |files: &[(&str, &str)], parts: &[&str]| {
        let error = loaded(files).expect_err("it cannot be believed");
        for part in parts.iter().chain([&NAME]) {
            assert!(error.contains(part), "{part}: {error}");
        }
    };
    refused(&[(NAME, &text)], &["is not signed", "there is no us-7.308@2.toml.sig"]);
    refused(&[(sig, &good)], &["is not there, and its signature is"]);
    refused(&[(NAME, &text), (sig, "signed: me\n")], &["not a signed note"]);
    let changed = text.replacen("1e26", "1e27", 1);
    refused(&[(NAME, &changed), (sig, &good)], &["is of", "expected", "weighbridge-pack/v1"]);
    let board = sign(NAME, &text, None, &key("board", 2));
    refused(&[(NAME, &text), (sig, &board)], &["is of board+", "trusted (rules.trusted_keys): legal+"]);
    // A line of a known key that this key did not make.
    let forged = key("legal", 1).verifier().clone();
    let mut note: Note = board.parse().expect("a note");
    note.signatures[0].name = forged.name().to_owned();
    note.signatures[0].id = forged.id();
    refused(&[(NAME, &text), (sig, &note.to_string())], &["the signature of legal does not verify"]);
    // A signature of another version is none of this one.
    let first = sign("us-7.308@1.toml", &text, None, &key("legal", 1));
    refused(&[(NAME, &text), (sig, &first)], &["us-7.308@1.toml", "expected"]);
    // What is signed must still be a pack.
    let wrong = text.replacen("comparator = \"gt\"", "comparator = \"ge\"", 1);
    let signed = sign(NAME, &wrong, None, &key("legal", 1));
    refused(&[(NAME, &wrong), (sig, &signed)], &["example", "expects likely"]);
}

#[test]
fn a_text_of_ones_own_under_the_name_of_a_shipped_version_is_refused() {
    let name = "us-7.308@1.toml";
    let text = next().replacen("version = \"2\"", "version = \"1\"", 1) + "# ours\n";
    let sig = sign(name, &text, None, &key("legal", 1));
    let error = loaded(&[(name, &text), ("us-7.308@1.toml.sig", &sig)]).expect_err("two of one name");
    assert!(error.contains(name) && error.contains("a version of its own"), "{error}");
}

#[test]
fn what_is_too_large_or_no_text_is_refused_and_no_more_of_it_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(NAME);
    std::fs::write(&path, vec![b'#'; usize::try_from(MAX_BYTES).expect("fits") + 1]).expect("writable");
    let error = read(&path, NAME).expect_err("too large").to_string();
    assert!(error.contains(NAME) && error.contains("larger than"), "{error}");
    std::fs::write(&path, [0xff, 0xfe]).expect("writable");
    assert!(read(&path, NAME).expect_err("no text").to_string().contains(NAME));
}
