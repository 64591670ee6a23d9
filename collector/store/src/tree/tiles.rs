//! The files of a tree.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use weighbridge_journal::fail;
use weighbridge_tlog::{
    Hash,
    proof::{Hashes, hashes_of_level, tile_of},
    tile::{Level, Tile},
};

use super::{Durable, TreeError, replace};

/// Tiles kept in memory while proofs are made: 8 KiB each.
const CACHED: usize = 4096;

/// The folder above `tile/`.
#[derive(Clone, Debug)]
pub struct TileFolder(PathBuf);

impl TileFolder {
    /// In this folder.
    pub fn at(folder: &Path) -> Self {
        Self(folder.into())
    }

    /// The folder above `tile/`.
    pub(crate) fn folder(&self) -> PathBuf {
        self.0.clone()
    }

    /// The file of a tile.
    pub fn path(&self, tile: Tile) -> PathBuf {
        self.0.join(tile.path())
    }

    /// What is in a tile; `Ok(None)` if it is not there. A partial one may be there as the beginning of a full one.
    pub fn read(&self, tile: Tile) -> Result<Option<Vec<Hash>>, TreeError> {
        for there in [tile, tile.filled()] {
            let path = self.path(there);
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(TreeError::file("read", &path)(error)),
            };
            let Some(mut hashes) = there.decode(&bytes) else {
                let expected = format!("{} hashes, found {} bytes", there.width(), bytes.len());
                return Err(TreeError::Content { path, expected });
            };
            hashes.truncate(tile.width());
            return Ok(Some(hashes));
        }
        Ok(None)
    }

    /// Writes a tile. It is durable after a later sync of the whole filesystem.
    pub(crate) fn write(&self, tile: Tile, hashes: &[Hash]) -> Result<(), TreeError> {
        let path = self.path(tile);
        let folder = path.parent().unwrap_or(&self.0);
        std::fs::create_dir_all(folder).map_err(TreeError::file("create", folder))?;
        replace(&path, &tile.encode(hashes), Durable::No)
    }

    /// Removes the partial forms of a tile that is full.
    pub(crate) fn remove_partial(&self, tile: Tile) -> Result<(), TreeError> {
        let mut name = self.path(tile.filled()).into_os_string();
        name.push(".p");
        let folder = PathBuf::from(name);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(TreeError::file("remove", &folder)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what does not belong to a tree of this size: left from another tree that was larger.
    pub(crate) fn cut(&self, size: u64) -> Result<(), TreeError> {
        let mut folders = vec![self.0.join("tile")];
        while let Some(folder) = folders.pop() {
            let list = match std::fs::read_dir(&folder) {
                Ok(list) => list,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(TreeError::file("list", &folder)(error)),
            };
            for entry in list {
                let path = entry.map_err(TreeError::file("list", &folder))?.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(&self.0).ok().and_then(Path::to_str);
                let belongs = name.and_then(Tile::parse).is_some_and(|tile| {
                    tile_of(tile.level(), tile.index(), size).is_some_and(|now| tile.width() <= now.width())
                });
                if !belongs {
                    fail::around("tree.remove_tile", || std::fs::remove_file(&path))
                        .map_err(TreeError::file("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    /// The hashes of the tree with so many leaves, for proofs.
    pub fn of_size(&self, size: u64) -> SizedTiles {
        SizedTiles { tiles: self.clone(), size, cache: HashMap::new() }
    }
}

/// The hashes of a tree of one size.
#[derive(Debug)]
pub struct SizedTiles {
    tiles: TileFolder,
    size: u64,
    cache: HashMap<(u8, u64), Vec<Hash>>,
}

impl SizedTiles {
    /// What a leaf holds.
    pub fn data(&self, leaf: u64) -> Result<Option<Hash>, TreeError> {
        let Some(tile) = tile_of(Level::Entries, leaf / 256, self.size) else { return Ok(None) };
        let at = usize::try_from(leaf % 256).unwrap_or(usize::MAX);
        Ok(self.tiles.read(tile)?.and_then(|entries| entries.get(at).copied()))
    }
}

impl Hashes for SizedTiles {
    type Error = TreeError;

    fn tile(&mut self, level: u8, index: u64, count: u64) -> Result<Vec<Hash>, TreeError> {
        let wanted = usize::try_from(count).unwrap_or(usize::MAX);
        if let Some(hashes) = self.cache.get(&(level, index)) {
            return Ok(hashes.iter().take(wanted).copied().collect());
        }
        let none = || {
            let has = hashes_of_level(Level::Hashes(level), self.size);
            let expected = format!("tile {index} of level {level}, which has {has} hashes");
            TreeError::Content { path: self.tiles.0.clone(), expected }
        };
        let tile = tile_of(Level::Hashes(level), index, self.size).ok_or_else(none)?;
        let entry = super::sequencer::first_entry(level, index);
        let hashes =
            self.tiles.read(tile)?.ok_or_else(|| TreeError::NoTile { path: self.tiles.path(tile), entry })?;
        if self.cache.len() >= CACHED {
            self.cache.clear();
        }
        let answer = hashes.iter().take(wanted).copied().collect();
        self.cache.insert((level, index), hashes);
        Ok(answer)
    }
}
