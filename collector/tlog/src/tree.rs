//! A tree that grows: its right edge is all that has to be remembered.

use crate::{
    Hash, empty_root, leaf_hash, node_hash, perfect_root,
    tile::{LEVELS, Level, Tile, WIDTH},
};

/// The right edge of a tree: of each level the hashes of its last tile, while that is not full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    entries: Vec<Hash>,
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// The edge of a tree whose size is a multiple of 256; `levels` are the hashes of the partial tiles from
    /// level 1 on. `None` if they are not as many as a tree of this size has.
    pub fn at(size: u64, levels: Vec<Vec<Hash>>) -> Option<Self> {
        let mut count = size / WIDTH;
        let mut expected = Vec::new();
        while count > 0 {
            expected.push(count % WIDTH);
            count /= WIDTH;
        }
        let found: Vec<u64> = levels.iter().map(|hashes| hashes.len() as u64).collect();
        let whole = size.is_multiple_of(WIDTH) && found == expected;
        whole.then(|| Self { size, entries: Vec::new(), levels: [vec![Vec::new()], levels].concat() })
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf that holds `data`; gives `full` the tiles that this fills, lowest level first.
    pub fn push<E>(
        &mut self,
        data: Hash,
        full: &mut impl FnMut(Tile, &[Hash]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.entries.push(data);
        let mut carry = Some(leaf_hash(&data));
        let mut index = self.size;
        self.size += 1;
        if self.entries.len() as u64 == WIDTH {
            full(Tile::full(Level::Entries, index / WIDTH), &self.entries)?;
            self.entries.clear();
        }
        for level in 0..LEVELS {
            let Some(hash) = carry.take() else { break };
            let at = usize::from(level);
            if self.levels.len() == at {
                self.levels.push(Vec::new());
            }
            let hashes = &mut self.levels[at];
            hashes.push(hash);
            index /= WIDTH;
            if hashes.len() as u64 == WIDTH {
                full(Tile::full(Level::Hashes(level), index), hashes)?;
                carry = perfect_root(hashes);
                hashes.clear();
            }
        }
        Ok(())
    }

    /// The root over all leaves so far.
    pub fn root(&self) -> Hash {
        let mut subtrees = Vec::new();
        for hashes in self.levels.iter().rev() {
            let mut rest = hashes.as_slice();
            while !rest.is_empty() {
                // The largest power of two that fits: as RFC 6962 divides.
                let (subtree, after) = rest.split_at(1 << rest.len().ilog2());
                subtrees.extend(perfect_root(subtree));
                rest = after;
            }
        }
        subtrees.into_iter().rev().reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root)
    }

    /// The tiles that are not full, as [`crate::tile::partial`] names them, with what is in them.
    pub fn partial(&self) -> Vec<(Tile, &[Hash])> {
        let of = |tile: Tile| {
            let hashes = match tile.level() {
                Level::Entries => self.entries.as_slice(),
                Level::Hashes(level) => self.levels.get(usize::from(level)).map_or(&[][..], Vec::as_slice),
            };
            (tile, hashes)
        };
        crate::tile::partial(self.size).into_iter().map(of).collect()
    }
}
