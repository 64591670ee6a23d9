//! The one that makes the tree: follows the durable ledger, puts its entries under leaves in their order, writes
//! tiles, and signs.

use std::{collections::BTreeMap, path::PathBuf};

use ed25519_dalek::SigningKey;
use weighbridge_journal::{Reader, fail, segment_of};
use weighbridge_tlog::{
    Hash,
    checkpoint::Checkpoint,
    note::{Note, VerifierKey},
    perfect_root,
    proof::{self, tile_of},
    tile::{Level, Tile, WIDTH},
    tree::Edge,
};

use super::{
    Durable, LogPaths, TreeError, fence::Fence, read_checkpoint, read_note, replace, tiles::TileFolder,
};
use crate::{Place, entry::leaf_data};

/// Makes and signs the tree of one log; there is one at a time.
pub struct Sequencer {
    paths: LogPaths,
    tiles: TileFolder,
    fence: Fence,
    edge: Edge,
    reader: Reader,
    /// Trees of this log that were signed and that this one has not come to yet: it has to have their roots.
    expected: BTreeMap<u64, Checkpoint>,
    /// Full tiles whose partial forms can go once a checkpoint is out that has them.
    filled: Vec<Tile>,
    /// Size of the tree that was published last by this process.
    published: Option<u64>,
    synced: u64,
}

impl Sequencer {
    /// Takes up the tree of this log where it is known to be on the disk, or begins it. What the ledger no longer
    /// holds is taken from the tiles.
    ///
    /// `durable` is where the ledger ends. One that ends before a checkpoint that was signed is refused
    /// ([`TreeError::Behind`]), one that does not lead to it too ([`TreeError::Rewritten`]), here or on the way.
    pub fn open(paths: &LogPaths, origin: &str, key: &SigningKey, durable: Place) -> Result<Self, TreeError> {
        let ends = leaves(durable);
        std::fs::create_dir_all(&paths.tlog).map_err(TreeError::file("create", &paths.tlog))?;
        let fence = Fence::take(&paths.signed, origin, key)?;
        let tiles = TileFolder::at(&paths.tlog);
        let synced = synced(paths, origin)?;
        if synced.is_none() {
            set_aside(paths, origin)?;
            tiles.cut(ends)?;
        }
        let expected = expected(paths, &fence);
        if let Some((signed, _)) = expected.last_key_value()
            && *signed > ends
        {
            return Err(TreeError::Behind { size: ends, signed: *signed });
        }
        // Only whole tiles are taken as they are; what is after them comes from the ledger again.
        let start = synced.unwrap_or(0).min(ends) / WIDTH * WIDTH;
        let mut edge = edge_at(&tiles, start)?;
        let (reader, from) = match segment_of(&paths.ledger, start + 1)? {
            Some(place) => (Reader::new(&paths.ledger, place), start),
            None => {
                let first = Reader::from_start(&paths.ledger).next_before(durable)?;
                let first = first.map_or(ends, |entry| entry.place.index - 1);
                (Reader::from_start(&paths.ledger), first)
            }
        };
        while edge.size() < from {
            let leaf = edge.size();
            let tile = tile_of(Level::Entries, leaf / WIDTH, ends).ok_or_else(|| no_tree(&tiles))?;
            let none = || TreeError::NoTile { path: tiles.path(tile), entry: leaf + 1 };
            let entries = tiles.read(tile)?.ok_or_else(none)?;
            let skip = usize::try_from(leaf % WIDTH).unwrap_or(usize::MAX);
            let most = usize::try_from(from - leaf).unwrap_or(usize::MAX);
            for data in entries.into_iter().skip(skip).take(most) {
                edge.push(data, &mut |tile, hashes| tiles.write(tile, hashes))?;
            }
        }
        let synced = start;
        let mut sequencer = Self {
            paths: paths.clone(),
            tiles,
            fence,
            edge,
            reader,
            expected,
            filled: Vec::new(),
            published: None,
            synced,
        };
        sequencer.check_start()?;
        Ok(sequencer)
    }

    /// Trees that were signed may be smaller than what was taken up: then the tiles say what they were.
    fn check_start(&mut self) -> Result<(), TreeError> {
        let size = self.edge.size();
        while let Some((signed, _)) = self.expected.first_key_value()
            && *signed <= size
        {
            let Some((signed, checkpoint)) = self.expected.pop_first() else { break };
            let found = if signed == size {
                self.edge.root()
            } else {
                proof::root(&mut self.tiles.of_size(signed), signed)?
            };
            if found != checkpoint.root {
                return Err(TreeError::rewritten(&checkpoint, &found));
            }
        }
        Ok(())
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The log's key.
    pub fn log(&self) -> &VerifierKey {
        self.fence.log()
    }

    /// The last checkpoint that was signed.
    pub fn signed(&self) -> Option<&Checkpoint> {
        self.fence.last()
    }

    /// Ledger entries before this one are under leaves that are on the disk for sure: none from there on may be
    /// pruned.
    pub fn needs_from(&self) -> u64 {
        self.synced / WIDTH * WIDTH + 1
    }

    /// Puts the next entries before `end` under leaves, at most so many; tells how many. After an error open it anew.
    pub fn integrate(&mut self, end: Place, most: usize) -> Result<usize, TreeError> {
        let mut count = 0;
        while count < most
            && let Some(entry) = self.reader.next_before(end)?
        {
            let leaf = entry.place.index - 1;
            if leaf < self.edge.size() {
                continue; // Of the segment to begin with, before the leaf to begin with.
            }
            if leaf > self.edge.size() {
                let expected = format!("ledger entry {} next, found {}", self.edge.size() + 1, leaf + 1);
                return Err(TreeError::Content { path: self.paths.ledger.clone(), expected });
            }
            let (tiles, filled) = (&self.tiles, &mut self.filled);
            self.edge.push(leaf_data(&entry.payload), &mut |tile, hashes| {
                filled.push(tile);
                tiles.write(tile, hashes)
            })?;
            count += 1;
            if let Some(signed) = self.expected.remove(&self.edge.size()) {
                let found = self.edge.root();
                if found != signed.root {
                    return Err(TreeError::rewritten(&signed, &found));
                }
            }
        }
        Ok(count)
    }

    /// Signs the tree as it is and puts it where others see it; `None` if there is nothing new. A tree that has not
    /// yet come to where it was when it was last signed waits.
    pub fn publish(&mut self) -> Result<Option<(Checkpoint, Note)>, TreeError> {
        let size = self.edge.size();
        if size == 0 || !self.expected.is_empty() || self.published == Some(size) {
            return Ok(None);
        }
        for (tile, hashes) in self.edge.partial() {
            self.tiles.write(tile, hashes)?;
        }
        let origin = self.fence.log().name().to_owned();
        let checkpoint = Checkpoint { origin, size, root: self.edge.root() };
        let note = self.fence.sign(&checkpoint)?;
        replace(&self.paths.checkpoint(), note.to_string().as_bytes(), Durable::No)?;
        self.published = Some(size);
        for tile in self.filled.drain(..) {
            self.tiles.remove_partial(tile)?;
        }
        Ok(Some((checkpoint, note)))
    }

    /// Makes everything published durable and notes that, so that a start needs not go back further.
    pub fn sync(&mut self) -> Result<(), TreeError> {
        let Some(size) = self.published else { return Ok(()) };
        let file = synced_file(&self.paths);
        if size / WIDTH == self.synced / WIDTH && file.exists() {
            return Ok(());
        }
        let folder = std::fs::File::open(&self.paths.tlog);
        let folder = folder.map_err(TreeError::file("open", &self.paths.tlog))?;
        rustix::fs::syncfs(&folder)
            .map_err(|error| TreeError::file("sync", &self.paths.tlog)(error.into()))?;
        let text = format!("{}\n{size}\n", self.fence.log().name());
        replace(&file, text.as_bytes(), Durable::Yes)?;
        self.synced = size;
        Ok(())
    }
}

/// Leaves of a ledger that ends here: entries count from 1.
pub fn leaves(end: Place) -> u64 {
    end.index.saturating_sub(1)
}

fn synced_file(paths: &LogPaths) -> PathBuf {
    paths.tlog.join("synced")
}

/// Up to where the tiles of this log are on the disk for sure; `None` if nothing is known of this log.
fn synced(paths: &LogPaths, origin: &str) -> Result<Option<u64>, TreeError> {
    let path = synced_file(paths);
    match std::fs::read_to_string(&path) {
        // Anything else than what is written there says nothing: the tree is made anew.
        Ok(text) => Ok(text
            .strip_prefix(origin)
            .and_then(|rest| rest.strip_prefix('\n'))
            .and_then(|rest| rest.trim().parse().ok())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TreeError::file("read", &path)(error)),
    }
}

/// The checkpoints of this log that are known to have been signed, by size.
fn expected(paths: &LogPaths, fence: &Fence) -> BTreeMap<u64, Checkpoint> {
    let on_disk = |path: PathBuf| match read_checkpoint(&path, fence.log()) {
        Ok(read) => read.map(|(checkpoint, _)| checkpoint),
        Err(error) => {
            // Nothing that this log signed, so nothing that it has to agree with; `verify` says what it is.
            let problem = crate::verify::chain_of(&error);
            tracing::error!(problem, "a checkpoint on disk cannot be believed and will be replaced");
            None
        }
    };
    // The one in the key folder comes last and wins: it is the hardest to get at.
    let known = [on_disk(paths.cosigned()), on_disk(paths.checkpoint()), fence.last().cloned()];
    known.into_iter().flatten().map(|checkpoint| (checkpoint.size, checkpoint)).collect()
}

/// Keeps the last checkpoint of another log, which the ledger still has to begin with.
fn set_aside(paths: &LogPaths, origin: &str) -> Result<(), TreeError> {
    // One that cannot be read is no evidence of anything.
    let Ok(Some(note)) = read_note(&paths.checkpoint()) else { return Ok(()) };
    let Ok(before) = Checkpoint::parse(&note.text) else { return Ok(()) };
    if before.origin == origin {
        return Ok(());
    }
    let name = before.origin.rsplit('/').next().unwrap_or_default();
    let aside = paths.tlog.join(format!("{name}.last"));
    replace(&aside, note.to_string().as_bytes(), Durable::Yes)?;
    // A cosignature is of the log that got it.
    for path in [paths.checkpoint(), paths.cosigned()] {
        match fail::around("tree.remove_checkpoint", || std::fs::remove_file(&path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(TreeError::file("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn no_tree(tiles: &TileFolder) -> TreeError {
    TreeError::Content { path: tiles.folder(), expected: "the tiles of a tree".into() }
}

/// The edge of the tree with so many leaves, a multiple of 256, from the full tiles below it.
fn edge_at(tiles: &TileFolder, size: u64) -> Result<Edge, TreeError> {
    let mut levels = Vec::new();
    let mut count = size / WIDTH;
    while count > 0 {
        let below = u8::try_from(levels.len()).unwrap_or(u8::MAX);
        let hash = |index| {
            let tile = Tile::new(Level::Hashes(below), index, WIDTH).ok_or_else(|| no_tree(tiles))?;
            let none = || TreeError::NoTile { path: tiles.path(tile), entry: first_entry(below, index) };
            let hashes = tiles.read(tile)?.ok_or_else(none)?;
            perfect_root(&hashes).ok_or_else(|| no_tree(tiles))
        };
        let hashes: Result<Vec<Hash>, TreeError> = (count / WIDTH * WIDTH..count).map(hash).collect();
        levels.push(hashes?);
        count /= WIDTH;
    }
    Edge::at(size, levels).ok_or_else(|| no_tree(tiles))
}

/// The first ledger entry below a tile.
pub(crate) fn first_entry(level: u8, index: u64) -> u64 {
    index.saturating_mul(WIDTH.saturating_pow(u32::from(level) + 1)).saturating_add(1)
}
