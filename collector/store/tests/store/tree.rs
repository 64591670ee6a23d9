//! The tree over the ledger is the same whatever happened on the way, and only one signs it, and only what follows.

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use weighbridge_journal::{Journal, Options, Reader};
use weighbridge_meter::EpochId;
use weighbridge_store::{
    Body, Entry, Fact, Place,
    entry::leaf_data,
    ledger::generation::{Reason, Renewal},
    tree::{
        LogPaths, TreeError,
        check::{TreeCheck, quick},
        log_key, origin,
        promise::Promises,
        sequencer::{Sequencer, leaves},
    },
};
use weighbridge_tlog::{Hash, note::VerifierKey, tree::Edge};
use weighbridge_wire::SigningKey;

/// A ledger with its tree; both can be changed behind its back.
struct Site {
    folder: tempfile::TempDir,
    paths: LogPaths,
    journal: Journal,
    generation: u8,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = LogPaths::of(&folder.path().join("data"), &folder.path().join("keys"));
        let (journal, _) = Journal::open(&paths.ledger, Options { segment_bytes: 2000 }).unwrap();
        Self { folder, paths, journal, generation: 1 }
    }

    fn append(&mut self, count: u64) {
        for _ in 0..count {
            let number = self.journal.next().index;
            // A kind that no fold of any release reads: to the tree an entry is its bytes.
            self.journal.append(format!("entry {number}").as_bytes()).unwrap();
        }
        self.journal.sync().unwrap();
    }

    fn end(&self) -> Place {
        self.journal.durable()
    }

    fn key(&self) -> SigningKey {
        SigningKey::from_bytes(&[4; 32])
    }

    fn origin(&self) -> String {
        origin("site", &[self.generation; 16])
    }

    fn log(&self) -> VerifierKey {
        log_key(&self.origin(), self.key().verifying_key()).unwrap()
    }

    fn open(&self) -> Result<Sequencer, TreeError> {
        Sequencer::open(&self.paths, &self.origin(), &self.key(), self.end())
    }

    /// Everything that is in the ledger is published.
    fn published(&self) -> Result<Hash, TreeError> {
        let mut sequencer = self.open()?;
        while sequencer.integrate(self.end(), 100)? > 0 {}
        sequencer.publish()?;
        sequencer.sync()?;
        Ok(sequencer.signed().unwrap().root)
    }

    /// The root straight from the ledger.
    fn root(&self) -> Hash {
        let mut edge = Edge::default();
        let mut reader = Reader::from_start(&self.paths.ledger);
        while let Some(entry) = reader.next().unwrap() {
            let Ok(()) =
                edge.push(leaf_data(&entry.payload), &mut |_, _| Ok::<_, std::convert::Infallible>(()));
        }
        edge.root()
    }

    fn faults(&self) -> Vec<String> {
        let mut check = TreeCheck::new(&self.paths, &self.log(), &[], Promises::default());
        let whole = weighbridge_journal::verify(&self.paths.ledger, |entry| check.entry(entry)).is_ok();
        let mut faults = check.finish(whole).faults;
        faults.extend(quick(&self.paths, &self.log(), &[]).unwrap().faults);
        faults
    }

    /// Files of tiles.
    fn tiles(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.paths.tlog.join("tile")];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    /// A process that comes so far and dies, before or after it published, before or after it synced.
    Run {
        integrate: usize,
        publish: bool,
        sync: bool,
    },
    /// The power goes: tiles that were not known to be on the disk are empty, and so may the checkpoint be.
    PowerCut,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u64..400).prop_map(Step::Append),
        (0usize..600, any::<bool>(), any::<bool>()).prop_map(|(integrate, publish, sync)| Step::Run {
            integrate,
            publish,
            sync
        }),
        Just(Step::PowerCut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_tree_is_that_of_the_ledger_whatever_died_on_the_way(steps in proptest::collection::vec(step(), 1..10)) {
        let mut site = Site::new();
        site.append(1);
        for step in steps {
            match step {
                Step::Append(count) => site.append(count),
                Step::Run { integrate, publish, sync } => {
                    let mut sequencer = site.open().unwrap();
                    sequencer.integrate(site.end(), integrate).unwrap();
                    if publish {
                        sequencer.publish().unwrap();
                    }
                    if sync {
                        sequencer.sync().unwrap();
                    }
                }
                Step::PowerCut => {
                    let synced = fs::read_to_string(site.paths.tlog.join("synced")).unwrap_or_default();
                    let synced: u64 = synced.lines().nth(1).map_or(0, |line| line.parse().unwrap());
                    for file in site.tiles() {
                        let name = file.strip_prefix(&site.paths.tlog).unwrap().to_str().unwrap();
                        let tile = weighbridge_tlog::tile::Tile::parse(name);
                        let kept = tile.is_some_and(|tile| {
                            let level = tile.level();
                            weighbridge_tlog::proof::tile_of(level, tile.index(), synced) == Some(tile)
                                || tile.is_full() && weighbridge_tlog::proof::tile_of(level, tile.index(), synced)
                                    .is_some_and(|now| now.is_full())
                        });
                        if !kept {
                            fs::write(file, b"").unwrap();
                        }
                    }
                    if site.paths.checkpoint().exists() {
                        fs::write(site.paths.checkpoint(), b"").unwrap();
                    }
                }
            }
        }
        prop_assert_eq!(site.published().unwrap(), site.root());
        prop_assert_eq!(site.faults(), Vec::<String>::new());
    }
}

#[test]
fn a_tree_of_many_tiles_is_taken_up_without_reading_the_ledger_again() {
    let mut site = Site::new();
    site.append(70_000);
    let root = site.published().unwrap();
    assert_eq!(root, site.root());
    // What is before the last whole tile is not looked at again: that is the work of `verify`.
    let first = site.paths.ledger.join(format!("{:020}.seg", 1));
    let aside = site.folder.path().join("aside");
    fs::rename(&first, &aside).unwrap();
    site.append(3);
    site.published().unwrap();
    fs::rename(&aside, &first).unwrap();
    assert_eq!(site.published().unwrap(), site.root());
    assert_eq!(site.faults(), Vec::<String>::new());
}

#[test]
fn what_was_pruned_from_the_ledger_is_taken_from_the_tiles() {
    let mut site = Site::new();
    site.append(1000);
    site.published().unwrap();
    let needs_from = site.open().unwrap().needs_from();
    assert_eq!(needs_from, 769);
    let segments = site.journal.segments();
    let keep = segments.iter().rev().find(|segment| segment.first_index <= needs_from).unwrap().number;
    let root = site.root();
    site.journal.remove_segments_before(keep).unwrap();
    assert_eq!(site.published().unwrap(), root);
    site.append(500);
    site.published().unwrap();
    assert_eq!(site.faults(), Vec::<String>::new());
    // Also where the tree has to be made anew, as another log.
    site.generation = 2;
    site.published().unwrap();
    assert_eq!(site.faults(), Vec::<String>::new());
    // Without tiles nobody can.
    site.generation = 3;
    fs::remove_dir_all(site.paths.tlog.join("tile")).unwrap();
    assert!(matches!(site.published(), Err(TreeError::NoTile { entry: 1, .. })));
}

#[test]
fn two_cannot_sign_with_the_same_keys() {
    let mut site = Site::new();
    site.append(5);
    let mut first = site.open().unwrap();
    first.integrate(site.end(), 100).unwrap();
    assert!(matches!(site.open(), Err(TreeError::Locked { .. })));
    // Where the lock does not reach, whoever came later has taken over.
    let epoch = site.paths.signed.join("EPOCH");
    fs::write(epoch, "7\n").unwrap();
    assert!(matches!(first.publish(), Err(TreeError::Fenced { ours: 1, theirs: 7 })));
    assert!(!site.paths.checkpoint().exists());
}

#[test]
fn a_ledger_that_is_shorter_than_what_was_signed_is_refused_and_another_generation_goes_on() {
    let mut site = Site::new();
    site.append(600);
    site.published().unwrap();
    let shorter = Site::new();
    let (mut site, old) = (shorter, site);
    site.append(500);
    for (from, to) in [(&old.paths.tlog, &site.paths.tlog), (&old.paths.signed, &site.paths.signed)] {
        copy(from, to);
    }
    let Err(TreeError::Behind { size: 500, signed: 600 }) = site.open() else { panic!("it was not noticed") };
    // With the keys restored too, what was published says it.
    fs::remove_file(site.paths.signed.join(format!("{}.signed", "01".repeat(16)))).unwrap();
    assert!(matches!(site.open(), Err(TreeError::Behind { size: 500, signed: 600 })));
    site.generation = 2;
    assert_eq!(site.published().unwrap(), site.root());
    assert!(site.tiles().iter().all(|tile| !tile.ends_with("0/002.p/88")), "{:?}", site.tiles());
}

#[test]
fn a_ledger_that_is_shorter_than_what_an_ended_log_signed_is_found_unless_it_says_that_it_was_begun_anew() {
    let mut old = Site::new();
    old.append(600);
    old.published().unwrap();
    let mut site = Site { generation: 2, ..Site::new() };
    copy(&old.paths.signed, &site.paths.signed);
    site.append(400);
    site.published().unwrap();
    let faults = site.faults();
    assert!(
        faults.len() == 1 && faults[0].contains("signed 600 entries, the ledger has 400"),
        "only its name was exchanged: {faults:?}"
    );
    let renewal = |index| Renewal {
        generation: EpochId([2; 16]),
        before: EpochId([1; 16]),
        reason: Reason::Restored,
        at: crate::support::at(0),
        place: Place { index, segment: 1, offset: 0 },
        promised: None,
        backup: None,
    };
    let note = site.paths.ledger.join("RENEWED");
    fs::write(&note, serde_json::to_vec(&renewal(301)).unwrap()).unwrap();
    assert_eq!(site.faults(), Vec::<String>::new(), "noted, not yet recorded");
    fs::remove_file(&note).unwrap();
    let body = |index| serde_json::to_value(renewal(index)).unwrap();
    for (index, faults) in [(701, 1), (301, 0)] {
        let fact = Fact::Record { kind: "generation".into(), key: index.to_string(), body: body(index) };
        let entry = Entry { received: crate::support::at(0), body: Body::Fact(fact) };
        site.journal.append(&entry.encode(&[1; 16])).unwrap();
        site.journal.sync().unwrap();
        site.published().unwrap();
        assert_eq!(site.faults().len(), faults, "begun anew after {} entries", index - 1);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn a_ledger_that_is_another_than_the_one_signed_is_never_signed() {
    for ahead in [0, 300] {
        let mut site = Site::new();
        site.append(600);
        site.published().unwrap();
        let mut other = Site::new();
        other.journal.append(b"something else").unwrap();
        other.append(599 + ahead);
        copy(&site.paths.signed, &other.paths.signed);
        assert!(matches!(other.published(), Err(TreeError::Rewritten { size: 600, .. })), "{ahead}");
        assert!(!other.paths.checkpoint().exists());
        assert_eq!(leaves(other.end()), 600 + ahead);
    }
}

#[test]
fn only_what_is_durable_becomes_a_leaf() {
    let mut site = Site::new();
    site.append(10);
    let durable = site.end();
    site.journal.append(b"written, never synced").unwrap();
    let mut sequencer = site.open().unwrap();
    assert_eq!(sequencer.integrate(durable, 100).unwrap(), 10);
    let (checkpoint, _) = sequencer.publish().unwrap().unwrap();
    assert_eq!(checkpoint.size, 10);
    assert!(sequencer.publish().unwrap().is_none(), "nothing new, nothing signed");
}

#[test]
fn partial_tiles_stay_until_the_full_one_is_out() {
    let mut site = Site::new();
    let mut seen = Vec::new();
    for count in [100, 100, 100] {
        site.append(count);
        site.published().unwrap();
        let names = site.tiles();
        let of_level_0 = names.iter().filter(|name| name.starts_with(site.paths.tlog.join("tile/0")));
        seen.push(
            of_level_0
                .map(|name| name.strip_prefix(&site.paths.tlog).unwrap().display().to_string())
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(seen[1], ["tile/0/000.p/100", "tile/0/000.p/200"]);
    assert_eq!(seen[2], ["tile/0/000", "tile/0/001.p/44"]);
}
