//! Compares the tree on disk with the ledger, and both with what was signed.

use std::{collections::BTreeMap, path::PathBuf};

use weighbridge_journal::{Entry, Reader, segment_of};
use weighbridge_tlog::{
    Hash,
    checkpoint::{Checkpoint, cosigned_at},
    leaf_hash,
    note::VerifierKey,
    proof::{self, tile_of},
    tile::{Level, Tile, WIDTH},
    tree::Edge,
};

use super::{
    LogPaths, TreeError, fence, log_key, promise::Promises, read_checkpoint, read_note, tiles::TileFolder,
};
use crate::{entry::leaf_data, ledger::generation, verify::chain_of};

/// Faults of one kind that are named one by one; of more only the number is told.
const NAMED: usize = 20;

/// Kind of the record that says that the ledger was begun anew.
pub const GENERATION: &str = "generation";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Leaves of the tree that is signed.
    pub size: u64,
    /// The last ledger entry that was read.
    pub entries: u64,
    /// What is wrong, one line each.
    pub faults: Vec<String>,
    /// What a person may want to know.
    pub notes: Vec<String>,
}

/// A checkpoint that the ledger has to agree with.
struct Known {
    checkpoint: Checkpoint,
    file: PathBuf,
    /// Of a log that has ended: the ledger has to agree only as far as it had come when it was begun anew.
    ended: bool,
}

/// Compares entry by entry; give it all of the ledger in order.
pub struct TreeCheck {
    tiles: TileFolder,
    findings: Findings,
    published: Option<Known>,
    /// By size; each is taken out once it was compared.
    known: BTreeMap<u64, Vec<Known>>,
    edge: Edge,
    /// The tile of entries that is compared now.
    bundle: Option<(Tile, Vec<Hash>)>,
    /// Places that do not agree.
    differing: Vec<String>,
    more: u64,
    last_segment: u64,
    promises: Promises,
    /// Entries that the ledger had when it was begun anew, by the generation that ended.
    renewed: BTreeMap<String, u64>,
    /// What logs that have ended signed over another beginning.
    others: Vec<Known>,
}

/// Reads what this log is known to have signed: published, cosigned, and kept with the keys.
fn signed(paths: &LogPaths, log: &VerifierKey, findings: &mut Findings) -> (Option<Known>, Vec<Known>) {
    let mut known = Vec::new();
    let mut read = |file: PathBuf, log: &VerifierKey| match read_checkpoint(&file, log) {
        Ok(Some((checkpoint, _))) => {
            known.push(Known { checkpoint: checkpoint.clone(), file: file.clone(), ended: false });
            Some(Known { checkpoint, file, ended: false })
        }
        Ok(None) => None,
        Err(error) => {
            findings.faults.push(chain_of(&error));
            None
        }
    };
    let published = read(paths.checkpoint(), log);
    read(paths.cosigned(), log);
    let kept = read(fence::signed_file(&paths.signed, log.name()), log);
    // Logs of before, of which the ledger was taken over.
    let before = std::fs::read_dir(&paths.tlog).into_iter().flatten().flatten();
    for entry in before.filter(|entry| entry.path().extension().is_some_and(|end| end == "last")) {
        let Ok(Some(note)) = read_note(&entry.path()) else { continue };
        let origin = note.text.lines().next().unwrap_or_default();
        if let Ok(log) = log_key(origin, *log.key()) {
            read(entry.path(), &log);
        }
    }
    let ended = std::fs::read_dir(&paths.signed).into_iter().flatten().flatten().map(|entry| entry.path());
    let own = fence::signed_file(&paths.signed, log.name());
    for file in ended.filter(|file| *file != own && file.extension().is_some_and(|end| end == "signed")) {
        let Ok(Some(note)) = read_note(&file) else { continue };
        let Ok(checkpoint) = Checkpoint::parse(&note.text) else { continue };
        findings.notes.push(format!(
            "log {} ended with {} entries: a ledger restored from a backup was begun anew after it ({})",
            checkpoint.origin,
            checkpoint.size,
            file.display()
        ));
        let signed = log_key(&checkpoint.origin, *log.key()).and_then(|log| read_checkpoint(&file, &log));
        if let Ok(Some((checkpoint, _))) = signed {
            known.push(Known { checkpoint, file, ended: true });
        }
    }
    if published.is_none() && findings.faults.is_empty() {
        let file = paths.checkpoint();
        match &kept {
            Some(kept) => findings.faults.push(format!(
                "{}: there is no checkpoint, one over {} entries was signed ({})",
                file.display(),
                kept.checkpoint.size,
                kept.file.display()
            )),
            None => findings.notes.push("there is no tree yet".into()),
        }
    }
    // What cannot be read is a fault already; the rest is compared as far as anything says what it should be.
    (published.or(kept), known)
}

/// Whether witnesses cosigned, and when.
fn cosigned(paths: &LogPaths, witnesses: &[VerifierKey], findings: &mut Findings) {
    let Ok(Some(note)) = read_note(&paths.cosigned()) else { return };
    let size = Checkpoint::parse(&note.text).map_or(0, |checkpoint| checkpoint.size);
    for witness in witnesses {
        match cosigned_at(&note.text, &note.signatures, witness) {
            Ok(Some(seconds)) => {
                let at = i64::try_from(seconds).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
                findings.notes.push(format!(
                    "witness {} cosigned {size} entries at {}",
                    witness.name(),
                    weighbridge_meter::UtcMillis(at)
                ));
            }
            Ok(None) => findings.notes.push(format!("witness {} has not cosigned", witness.name())),
            Err(error) => findings.faults.push(format!("{}: {error}", paths.cosigned().display())),
        }
    }
}

impl TreeCheck {
    /// Of this log, with what its witnesses and agents hold.
    pub fn new(paths: &LogPaths, log: &VerifierKey, witnesses: &[VerifierKey], promises: Promises) -> Self {
        let mut findings = Findings::default();
        let (published, all) = signed(paths, log, &mut findings);
        cosigned(paths, witnesses, &mut findings);
        findings.size = published.as_ref().map_or(0, |known| known.checkpoint.size);
        let mut known: BTreeMap<u64, Vec<Known>> = BTreeMap::new();
        for one in all {
            known.entry(one.checkpoint.size).or_default().push(one);
        }
        let mut renewed = BTreeMap::new();
        match generation::noted(&paths.ledger) {
            Ok(noted) => renewed
                .extend(noted.map(|noted| (noted.before.to_string(), noted.place.index.saturating_sub(1)))),
            Err(error) => findings.faults.push(chain_of(&error)),
        }
        Self {
            tiles: TileFolder::at(&paths.tlog),
            findings,
            published,
            known,
            edge: Edge::default(),
            bundle: None,
            differing: Vec::new(),
            more: 0,
            last_segment: 0,
            promises,
            renewed,
            others: Vec::new(),
        }
    }

    fn differs(&mut self, what: String) {
        if self.differing.len() < NAMED {
            self.differing.push(what);
        } else {
            self.more += 1;
        }
    }

    /// What the tree says is under a leaf; `None` if it has no such leaf, or the tile is gone, which is told once.
    fn stored(&mut self, leaf: u64) -> Option<Hash> {
        let tile = tile_of(Level::Entries, leaf / WIDTH, self.findings.size)?;
        if self.bundle.as_ref().is_none_or(|(of, _)| *of != tile) {
            let entries = match self.tiles.read(tile) {
                Ok(Some(entries)) => entries,
                Ok(None) => {
                    self.differs(format!("{}: the tile is not there", self.tiles.path(tile).display()));
                    Vec::new()
                }
                Err(error) => {
                    self.differs(chain_of(&error));
                    Vec::new()
                }
            };
            self.bundle = Some((tile, entries));
        }
        let (_, entries) = self.bundle.as_ref()?;
        entries.get(usize::try_from(leaf % WIDTH).ok()?).copied()
    }

    /// What an entry says about the ledger being begun anew.
    fn note_renewal(&mut self, payload: &[u8]) {
        // A batch says nothing about that, and is not worth opening here.
        if payload.first() == Some(&1) {
            return;
        }
        let Ok(entry) = crate::Entry::decode(payload) else { return };
        if let crate::Body::Fact(crate::Fact::Record { kind, body, .. }) = entry.body
            && kind == GENERATION
        {
            self.was_renewed(&body);
        }
    }

    /// What a record says of the ledger being begun anew: for those that are pruned.
    pub fn was_renewed(&mut self, body: &serde_json::Value) {
        if let (Some(before), Some(next)) = (body["before"].as_str(), body["place"]["index"].as_u64()) {
            self.renewed.insert(before.to_owned(), next.saturating_sub(1));
        }
    }

    /// The next entry.
    pub fn entry(&mut self, entry: &Entry) {
        let leaf = entry.place.index.saturating_sub(1);
        self.last_segment = entry.place.segment;
        self.note_renewal(&entry.payload);
        while self.edge.size() < leaf {
            // Pruned: what the tree kept is all there is.
            match self.stored(self.edge.size()) {
                Some(data) => self.push(data),
                None => {
                    let from = self.edge.size() + 1;
                    self.findings
                        .faults
                        .push(format!("entries {from} to {leaf} are neither in the ledger nor in the tree"));
                    self.edge = Edge::default();
                    self.known.clear();
                    self.findings.size = 0;
                    return;
                }
            }
        }
        if leaf < self.edge.size() {
            return;
        }
        let data = leaf_data(&entry.payload);
        let (size, segment) = (self.findings.size, entry.place.segment);
        if leaf < size
            && let Some(stored) = self.stored(leaf)
            && stored != data
        {
            let tile =
                tile_of(Level::Entries, leaf / WIDTH, size).map(|tile| tile.path()).unwrap_or_default();
            self.differs(format!(
                "segment {segment}, entry {}: not the entry that the tree has under leaf {leaf} ({tile})",
                leaf + 1
            ));
        }
        self.push(data);
    }

    fn push(&mut self, data: Hash) {
        if !self.promises.is_empty() {
            self.promises.found(&leaf_hash(&data));
        }
        let mut full: Vec<(Tile, Vec<Hash>)> = Vec::new();
        let Ok(()) = self.edge.push(data, &mut |tile, hashes: &[Hash]| {
            full.push((tile, hashes.to_vec()));
            Ok::<_, std::convert::Infallible>(())
        });
        for (tile, hashes) in full {
            let there = tile_of(tile.level(), tile.index(), self.findings.size);
            if there.is_some_and(|there| there.is_full()) {
                self.compare(tile, &hashes);
            }
        }
        let size = self.edge.size();
        if size == self.findings.size {
            let partial: Vec<(Tile, Vec<Hash>)> =
                self.edge.partial().into_iter().map(|(tile, hashes)| (tile, hashes.to_vec())).collect();
            for (tile, hashes) in partial {
                self.compare(tile, &hashes);
            }
        }
        for known in self.known.remove(&size).unwrap_or_default() {
            if known.checkpoint.root != self.edge.root() && known.ended {
                self.others.push(known);
            } else if known.checkpoint.root != self.edge.root() {
                self.findings.faults.push(format!(
                    "{}: the root that was signed over {size} entries is not that of the ledger",
                    known.file.display()
                ));
            }
        }
    }

    /// Compares a tile with what follows from the ledger. Where its entries differ that is said entry by entry, and
    /// what follows from it above is not said again.
    fn compare(&mut self, tile: Tile, hashes: &[Hash]) {
        if tile.level() == Level::Entries || !self.differing.is_empty() {
            return;
        }
        let path = self.tiles.path(tile);
        match self.tiles.read(tile) {
            Ok(Some(stored)) if stored == hashes => {}
            Ok(Some(_)) => self.differs(format!("{}: does not follow from the ledger", path.display())),
            Ok(None) => self.differs(format!("{}: the tile is not there", path.display())),
            Err(error) => self.differs(chain_of(&error)),
        }
    }

    /// What was found, once the ledger was read; `whole` says whether to its end.
    pub fn finish(mut self, whole: bool) -> Findings {
        let read = self.edge.size();
        self.findings.entries = read;
        if !self.differing.is_empty() {
            let published = self.published.as_ref().map(|known| known.checkpoint.clone());
            let of_tiles = published.as_ref().map(|published| {
                proof::root(&mut self.tiles.of_size(published.size), published.size)
                    .is_ok_and(|root| root == published.root)
            });
            self.findings.faults.append(&mut self.differing);
            if self.more > 0 {
                self.findings.faults.push(format!("and {} more that do not agree", self.more));
            }
            self.findings.notes.extend(of_tiles.map(|leads| {
                let said = if leads {
                    "the tiles lead to the root that was signed: it is the ledger that was changed"
                } else {
                    "the tiles do not lead to the root that was signed"
                };
                said.to_owned()
            }));
        }
        for Known { checkpoint: Checkpoint { origin, size, .. }, file, .. } in &self.others {
            let generation = origin.rsplit('/').next().unwrap_or_default();
            let had = self.renewed.get(generation).copied();
            // Restored from a backup that was older: what came after that is another history, and has to be.
            if had.is_none_or(|had| had >= *size) {
                let had = had.map_or("nothing in it says that it was begun anew".into(), |had| {
                    format!("it had {had} entries when it was begun anew")
                });
                self.findings.faults.push(format!(
                    "{}: the first {size} entries of the ledger are not those that log {origin} signed, and {had}",
                    file.display()
                ));
            }
        }
        let missing = |(size, known): (&u64, &Vec<Known>)| {
            known.iter().find(|known| !known.ended).map(|known| (*size, known.file.clone()))
        };
        if whole && let Some((size, file)) = self.known.iter().rev().find_map(missing) {
            self.findings.faults.push(format!(
                "the ledger ends in segment {:020}.seg with entry {read}, but {} entries were signed ({}): entries {} to \
                 {size} are missing",
                self.last_segment,
                size,
                file.display(),
                read + 1,
            ));
        }
        // A log that has ended had more than the ledger has: that it was begun anew before is what has to be said.
        let ended = self.known.values().flatten().filter(|known| whole && known.ended);
        for Known { checkpoint: Checkpoint { origin, size, .. }, file, .. } in ended {
            let generation = origin.rsplit('/').next().unwrap_or_default();
            if self.renewed.get(generation).is_none_or(|had| had >= size) {
                self.findings.faults.push(format!(
                    "{}: log {origin} signed {size} entries, the ledger has {read}, and nothing in it says that it was \
                     begun anew before",
                    file.display()
                ));
            }
        }
        if whole && read > self.findings.size {
            self.findings
                .notes
                .push(format!("{} entries are not yet in the tree", read - self.findings.size));
        }
        if whole {
            let (count, unreadable) = (self.promises.read, self.promises.unreadable);
            let broken = self.promises.broken();
            if count > 0 {
                self.findings
                    .notes
                    .push(format!("{} of {count} promises are kept", count - broken.len() as u64));
            }
            if unreadable > 0 {
                self.findings.notes.push(format!("{unreadable} lines of promises do not read"));
            }
            self.findings.faults.extend(broken);
        }
        self.findings
    }
}

/// The cheap check, also beside a collector that runs: what was signed, against the tiles and the end of the ledger.
pub fn quick(paths: &LogPaths, log: &VerifierKey, witnesses: &[VerifierKey]) -> Result<Findings, TreeError> {
    let mut findings = Findings::default();
    let (published, known) = signed(paths, log, &mut findings);
    cosigned(paths, witnesses, &mut findings);
    let size = published.as_ref().map_or(0, |known| known.checkpoint.size);
    let file = published.map_or_else(|| paths.checkpoint(), |known| known.file);
    findings.size = size;
    let tiles = TileFolder::at(&paths.tlog);
    for Known { checkpoint, file, .. } in known.iter().filter(|known| !known.ended) {
        if checkpoint.size > size {
            findings.notes.push(format!("{} entries were signed, {size} published", checkpoint.size));
            continue;
        }
        match proof::root(&mut tiles.of_size(checkpoint.size), checkpoint.size) {
            Ok(root) if root == checkpoint.root => {}
            Ok(_) => findings.faults.push(format!(
                "{}: the root that was signed over {} entries is not that of the tiles",
                file.display(),
                checkpoint.size
            )),
            Err(error) => findings.faults.push(chain_of(&error)),
        }
    }
    // The last two tiles of entries, and what is not yet in any.
    let from = (size / WIDTH).saturating_sub(1) * WIDTH;
    let mut reader = match segment_of(&paths.ledger, from + 1)? {
        Some(place) => Reader::new(&paths.ledger, place),
        None => Reader::from_start(&paths.ledger),
    };
    let sized = tiles.of_size(size);
    while let Some(entry) = reader.next()? {
        let leaf = entry.place.index - 1;
        findings.entries = entry.place.index;
        if leaf < from || leaf >= size {
            continue;
        }
        if sized.data(leaf)? != Some(leaf_data(&entry.payload)) {
            findings.faults.push(format!(
                "segment {}, entry {}: not the entry that the tree has under leaf {leaf}",
                entry.place.segment, entry.place.index
            ));
        }
    }
    let read = findings.entries;
    if read < size {
        findings.faults.push(format!(
            "the ledger ends with entry {read}, but {size} entries were signed ({}): entries {} to {size} are missing",
            file.display(),
            read + 1,
        ));
    } else if read > size {
        findings.notes.push(format!("{} entries are not yet in the tree", read - size));
    }
    Ok(findings)
}
