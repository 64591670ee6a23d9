//! Against what others published, and against itself for trees of any size.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers are tests too; clippy sees only the functions marked so"
)]

use std::{collections::BTreeMap, convert::Infallible};

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use weighbridge_tlog::{
    Hash,
    checkpoint::{Checkpoint, CheckpointError, cosign, cosigned_at},
    empty_root, leaf_hash, node_hash,
    note::{KeyType, Note, NoteError, SignerKey, VerifierKey},
    proof::{self, Hashes},
    receipt::{Receipt, ReceiptError},
    tile::{Level, Tile, partial},
    tree::Edge,
    witness::{AddCheckpoint, Refusal, judge},
};

fn hex(text: &str) -> Hash {
    let bytes: Vec<u8> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// The tree straight from the definition in RFC 6962, section 2.1.
fn defined(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [one] => *one,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            node_hash(&defined(&leaves[..split]), &defined(&leaves[split..]))
        }
    }
}

/// A log in memory: its tiles, full and partial, by path.
#[derive(Default)]
struct Log {
    edge: Edge,
    leaves: Vec<Hash>,
    tiles: BTreeMap<String, Vec<u8>>,
}

impl Log {
    fn of(size: u64) -> Self {
        let mut log = Self::default();
        while log.edge.size() < size {
            let data = [u8::try_from(log.edge.size() % 251).unwrap(); 32];
            log.leaves.push(leaf_hash(&data));
            let tiles = &mut log.tiles;
            let mut full = |tile: Tile, hashes: &[Hash]| {
                tiles.insert(tile.path(), tile.encode(hashes));
                Ok::<_, Infallible>(())
            };
            log.edge.push(data, &mut full).unwrap();
        }
        for (tile, hashes) in log.edge.partial() {
            log.tiles.insert(tile.path(), tile.encode(hashes));
        }
        log
    }

    fn root(&self) -> Hash {
        self.edge.root()
    }
}

impl Hashes for Log {
    type Error = String;

    fn tile(&mut self, level: u8, index: u64, count: u64) -> Result<Vec<Hash>, String> {
        let tile = proof::tile_of(Level::Hashes(level), index, self.edge.size()).ok_or("no such tile")?;
        let bytes = self.tiles.get(&tile.path()).ok_or_else(|| tile.path())?;
        let mut hashes = tile.decode(bytes).ok_or("not a tile")?;
        hashes.truncate(usize::try_from(count).unwrap());
        Ok(hashes)
    }
}

/// Leaves, roots, paths and proofs of the test data that logs of certificate transparency share.
#[test]
fn the_published_vectors_hold() {
    let data =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let leaves: Vec<Hash> = data
        .iter()
        .map(|text| {
            let bytes: Vec<u8> = (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                .collect();
            leaf_hash(&bytes)
        })
        .collect();
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    .map(hex);
    assert_eq!(empty_root(), hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    for (size, root) in roots.iter().enumerate() {
        let numbered: Vec<(u64, Hash)> = (0..).zip(leaves[..=size].iter().copied()).collect();
        assert_eq!(proof::root_with_leaves(&numbered, &[], size as u64 + 1), Some(*root));
    }
    let path = [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    .map(hex);
    assert!(proof::includes(&path, &leaves[0], 0, 8, &roots[7]));
    assert!(proof::consistent(&path, (1, &roots[0]), (8, &roots[7])));
}

#[test]
fn notes_and_keys_of_others_are_read_and_verified() {
    let key: VerifierKey =
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
    let text = "If you think cryptography is the answer to your problem,\n\
                then you don't know what your problem is.\n\n\
                — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    let note: Note = text.parse().unwrap();
    assert_eq!(note.is_signed_by(&key), Ok(true));
    assert_eq!(note.to_string(), text);
    let changed: Note = text.replace("answer", "cure").parse().unwrap();
    assert!(matches!(changed.is_signed_by(&key), Err(NoteError::BadSignature { .. })));
    assert_eq!(key.to_string(), "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
    assert!(
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse::<VerifierKey>().is_err()
    );
}

#[test]
fn a_key_of_a_type_to_come_is_refused_by_name() {
    let error = "w.example+00000000+BgAAAA==".parse::<VerifierKey>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "key w.example is of type 0x06, known are 0x01 (Ed25519) and 0x04 (Ed25519 cosignature)"
    );
}

#[test]
fn tiles_have_the_published_names_and_widths() {
    let tile = Tile::new(Level::Hashes(0), 1_234_067, 256).unwrap();
    assert_eq!(tile.path(), "tile/0/x001/x234/067");
    let widths: Vec<String> = partial(70_000).iter().map(Tile::path).collect();
    assert_eq!(widths, ["tile/entries/273.p/112", "tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]);
    assert_eq!(partial(256).iter().map(Tile::path).collect::<Vec<_>>(), ["tile/1/000.p/1"]);
    for bad in [
        "tile/0/x001/x234/x067",
        "tile/0/1",
        "tile/0/001.p/256",
        "tile/0/001.p/0",
        "tile/0/001.p/01",
        "tile/00/001",
        "tile/0/x000/001",
        "tile/../0/001",
        "tile/9/001",
        "tile/0/001/../002",
    ] {
        assert_eq!(Tile::parse(bad), None, "{bad}");
    }
}

/// All proofs of all trees up to here; beyond, some of them.
const ALL: u64 = 40;

#[test]
fn every_proof_of_small_trees_verifies_and_no_other() {
    for size in 0..ALL {
        let mut log = Log::of(size);
        let root = log.root();
        assert_eq!(root, defined(&log.leaves), "{size}");
        assert_eq!(proof::root(&mut log, size).unwrap(), root);
        for index in 0..size {
            let leaf = log.leaves[usize::try_from(index).unwrap()];
            let path = proof::of_inclusion(&mut log, index, size).unwrap();
            assert!(proof::includes(&path, &leaf, index, size, &root), "{index} of {size}");
            for other in (0..size + 2).filter(|other| *other != index) {
                assert!(!proof::includes(&path, &leaf, other, size, &root), "{index} as {other} of {size}");
            }
        }
        for first in 0..=size {
            let before = Log::of(first).root();
            let path = proof::of_consistency(&mut log, first, size).unwrap();
            assert!(proof::consistent(&path, (first, &before), (size, &root)), "{first} to {size}");
            if first > 0 {
                assert!(!proof::consistent(&path, (first, &[7; 32]), (size, &root)), "{first} to {size}");
                assert!(!proof::consistent(&path, (first, &before), (size, &[7; 32])), "{first} to {size}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn proofs_of_trees_of_any_size_verify_and_no_flipped_bit_does(
        size in prop_oneof![1u64..700, 65_530u64..65_540],
        (index, first) in (any::<u64>(), any::<u64>()),
        (which, bit) in (any::<usize>(), 0usize..256),
    ) {
        let (index, first) = (index % size, 1 + first % size);
        let mut log = Log::of(size);
        let root = log.root();
        let flip = |path: &[Hash]| {
            let mut path = path.to_vec();
            let at = which % path.len().max(1);
            if let Some(hash) = path.get_mut(at) { hash[bit / 8] ^= 1 << (bit % 8); }
            path
        };
        let leaf = log.leaves[usize::try_from(index).unwrap()];
        let path = proof::of_inclusion(&mut log, index, size).unwrap();
        prop_assert!(proof::includes(&path, &leaf, index, size, &root));
        prop_assert!(path.is_empty() || !proof::includes(&flip(&path), &leaf, index, size, &root));
        prop_assert!(!proof::includes(&path, &flip(&[leaf])[0], index, size, &root));

        let before = proof::root(&mut log, first).unwrap();
        prop_assert_eq!(before, defined(&log.leaves[..usize::try_from(first).unwrap()]));
        let path = proof::of_consistency(&mut log, first, size).unwrap();
        prop_assert!(proof::consistent(&path, (first, &before), (size, &root)));
        prop_assert!(path.is_empty() || !proof::consistent(&flip(&path), (first, &before), (size, &root)));
    }

    #[test]
    fn many_leaves_share_one_proof_and_no_change_of_it_verifies(
        size in 1u64..2000,
        picks in proptest::collection::btree_set(any::<u64>(), 0..40),
        (which, bit) in (any::<usize>(), 0usize..256),
    ) {
        let mut log = Log::of(size);
        let picks: std::collections::BTreeSet<u64> = picks.into_iter().map(|pick| pick % size).collect();
        let indexes: Vec<u64> = picks.into_iter().collect();
        let nodes = proof::of_leaves(&mut log, &indexes, size).unwrap();
        let mut leaves: Vec<(u64, Hash)> =
            indexes.iter().map(|index| (*index, log.leaves[usize::try_from(*index).unwrap()])).collect();
        prop_assert_eq!(proof::root_with_leaves(&leaves, &nodes, size), Some(log.root()));

        let mut changed = nodes.clone();
        if !changed.is_empty() {
            let at = which % changed.len();
            changed[at][bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(proof::root_with_leaves(&leaves, &changed, size), Some(log.root()));
            prop_assert_eq!(proof::root_with_leaves(&leaves, &nodes[1..], size), None);
        }
        changed.push([0; 32]);
        prop_assert_eq!(proof::root_with_leaves(&leaves, &changed, size), None);
        if !leaves.is_empty() {
            let at = which % leaves.len();
            leaves[at].1[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(proof::root_with_leaves(&leaves, &nodes, size), Some(log.root()));
        }
    }

    #[test]
    fn an_edge_taken_up_at_a_full_tile_goes_on_as_if_it_had_never_stopped(tiles in prop_oneof![0u64..4, 255u64..258], more in 0u64..600) {
        let mut log = Log::of(tiles * 256);
        let mut levels = Vec::new();
        let mut count = tiles;
        while count > 0 {
            let level = u8::try_from(levels.len()).unwrap() + 1;
            let width = count % 256;
            levels.push(if width == 0 { Vec::new() } else { log.tile(level, count / 256, width).unwrap() });
            count /= 256;
        }
        let mut edge = Edge::at(tiles * 256, levels).unwrap();
        prop_assert_eq!(edge.root(), log.root());
        for number in 0..more {
            let data = [u8::try_from((tiles * 256 + number) % 251).unwrap(); 32];
            edge.push(data, &mut |_, _| Ok::<_, Infallible>(())).unwrap();
        }
        prop_assert_eq!(edge.root(), Log::of(tiles * 256 + more).root());
    }

    #[test]
    fn tile_paths_and_contents_read_back(level in 0u8..8, index in any::<u64>(), width in 1u64..=256) {
        for level in [Level::Entries, Level::Hashes(level)] {
            let tile = Tile::new(level, index, width).unwrap();
            prop_assert_eq!(Tile::parse(&tile.path()), Some(tile));
            let hashes = vec![[5; 32]; tile.width()];
            prop_assert_eq!(tile.decode(&tile.encode(&hashes)), Some(hashes));
        }
    }

    #[test]
    fn foreign_text_is_refused_or_read_and_never_a_panic(text in "[ -~\n—]{0,300}", tail in any::<String>()) {
        for text in [text.clone(), tail.clone(), format!("old 1\n{text}\n\n{tail}"), format!("o\n1\n{tail}\n\n{text}\n")] {
            let _ = text.parse::<Note>();
            let _ = text.parse::<VerifierKey>();
            let _ = text.parse::<AddCheckpoint>();
            let _ = text.parse::<Receipt>();
            let _ = Checkpoint::parse(&text);
            let _ = Tile::parse(&text);
        }
    }
}

fn log_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn verifier() -> VerifierKey {
    VerifierKey::new("log.example/one", KeyType::Ed25519, log_key().verifying_key()).unwrap()
}

fn signed(log: &Log) -> Note {
    let checkpoint = Checkpoint { origin: "log.example/one".into(), size: log.edge.size(), root: log.root() };
    checkpoint.sign(&log_key()).unwrap()
}

#[test]
fn a_checkpoint_reads_back_and_only_for_its_own_log() {
    let note = signed(&Log::of(3));
    let again: Note = note.to_string().parse().unwrap();
    assert_eq!(Checkpoint::open(&again, &verifier()).unwrap().size, 3);
    let other = VerifierKey::new("log.example/two", KeyType::Ed25519, log_key().verifying_key()).unwrap();
    assert!(matches!(Checkpoint::open(&note, &other), Err(CheckpointError::Origin { .. })));
    let stranger = SigningKey::from_bytes(&[2; 32]).verifying_key();
    let stranger = VerifierKey::new("log.example/one", KeyType::Ed25519, stranger).unwrap();
    assert!(matches!(Checkpoint::open(&note, &stranger), Err(CheckpointError::Unsigned { .. })));
    let larger: Note = note.to_string().replacen("\n3\n", "\n4\n", 1).parse().unwrap();
    assert!(Checkpoint::open(&larger, &verifier()).is_err());
}

#[test]
fn a_cosignature_says_when_and_binds_text_and_time() {
    let key = SigningKey::from_bytes(&[3; 32]);
    let witness = VerifierKey::new("w.example", KeyType::Cosignature, key.verifying_key()).unwrap();
    let mut note = signed(&Log::of(3));
    note.signatures.push(cosign("w.example", &key, 1_679_315_147, &note.text).unwrap());
    let again: Note = note.to_string().parse().unwrap();
    assert_eq!(cosigned_at(&again.text, &again.signatures, &witness), Ok(Some(1_679_315_147)));
    assert!(Checkpoint::open(&again, &verifier()).is_ok(), "lines of others are left alone");
    note.signatures[1].bytes[7] ^= 1;
    assert!(cosigned_at(&note.text, &note.signatures, &witness).is_err());
    assert_eq!(cosigned_at(&note.text, &note.signatures[..1], &witness), Ok(None));
}

#[test]
fn a_receipt_reads_back_and_proves_its_leaf_alone() {
    let mut log = Log::of(300);
    let path = proof::of_inclusion(&mut log, 77, 300).unwrap();
    let receipt = Receipt { index: 77, path, note: signed(&log) };
    let again: Receipt = receipt.to_string().parse().unwrap();
    assert_eq!(again, receipt);
    assert_eq!(receipt.check(&[77; 32], &verifier()).unwrap().size, 300);
    assert!(matches!(
        receipt.check(&[78; 32], &verifier()),
        Err(ReceiptError::NotIncluded { index: 77, .. })
    ));
    let extra: Receipt = receipt.to_string().replacen("index", "extra AAAA\nindex", 1).parse().unwrap();
    assert_eq!(extra, receipt);
}

#[test]
fn a_witness_takes_what_follows_and_refuses_the_rest_each_with_its_status() {
    let mut log = Log::of(9);
    let (four, nine) = (Log::of(4).root(), log.root());
    let ask = |old, proof: Vec<Hash>, note: &Note| AddCheckpoint { old, proof, note: note.clone() };
    let note = signed(&log);
    let proof = proof::of_consistency(&mut log, 4, 9).unwrap();
    let logs = [verifier()];
    let judge = |last: Option<(u64, Hash)>, request: &AddCheckpoint| judge(&logs, |_| last, request);
    let status = |refused: Result<Checkpoint, Refusal>| refused.unwrap_err().status();

    assert_eq!(judge(None, &ask(0, vec![], &note)).unwrap().root, nine);
    assert_eq!(judge(Some((4, four)), &ask(4, proof.clone(), &note)).unwrap().size, 9);
    assert_eq!(judge(Some((9, nine)), &ask(9, vec![], &note)).unwrap().size, 9);
    assert_eq!(judge(Some((4, four)), &ask(3, vec![], &note)), Err(Refusal::Stale { size: 4 }));
    assert_eq!(status(judge(Some((4, four)), &ask(0, vec![], &note))), 409);
    assert_eq!(status(judge(Some((9, four)), &ask(9, vec![], &note))), 409);
    assert_eq!(status(judge(Some((4, nine)), &ask(4, proof.clone(), &note))), 422);
    assert_eq!(status(judge(Some((4, four)), &ask(4, proof[1..].to_vec(), &note))), 422);
    assert_eq!(status(judge(Some((10, nine)), &ask(10, vec![], &note))), 400);

    let text = note.to_string();
    let foreign: Note = text.replacen("log.example/one", "log.example/two", 1).parse().unwrap();
    assert_eq!(status(judge(None, &ask(0, vec![], &foreign))), 404);
    let forged = Checkpoint { origin: "log.example/one".into(), size: 9, root: nine };
    let forged = forged.sign(&SigningKey::from_bytes(&[9; 32])).unwrap();
    assert_eq!(status(judge(None, &ask(0, vec![], &forged))), 403);

    let request = ask(4, proof, &note);
    assert_eq!(request.to_string().parse::<AddCheckpoint>(), Ok(request));
}

#[test]
fn a_key_to_sign_with_reads_back_as_others_write_it() {
    // The pair in the documentation of Go's package for signed notes.
    let text = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    let key: SignerKey = text.parse().unwrap();
    assert_eq!(
        key.verifier().to_string(),
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    );
    assert_eq!(key.secret_text(), text);
    assert!(!format!("{key:?}").contains("AYEK"), "{key:?}");
    let signed = Note { text: "a text\n".into(), signatures: vec![key.sign("a text\n")] };
    assert_eq!(signed.is_signed_by(key.verifier()), Ok(true));
    for bad in ["", "PRIVATE+KEY+a", &text.replace("AYE", "BYE"), &text.replace("c74f", "c74e"), &text[12..]]
    {
        let error = bad.parse::<SignerKey>().unwrap_err().to_string();
        assert!(!error.contains("FALVFGyNhPJEMzD1QIDr"), "an error shows no key: {error}");
    }
}
