//! How a tree is cut into files: 256 hashes each, named by level and number (C2SP tlog-tiles).
//!
//! ```text
//! tile/<L>/<N>[.p/<W>]        hashes of level L: each the root over 256^L leaves
//! tile/entries/<N>[.p/<W>]    what the leaves hold, each after its length as u16, big endian
//! ```
//! `N` is written in groups of three digits, all but the last after an `x`; a partial tile says its width `W`.

use crate::Hash;

/// Hashes in a full tile.
pub const WIDTH: u64 = 256;

/// Levels of tiles that a tree of any size can have.
pub const LEVELS: u8 = 8;

/// Bytes that a leaf of ours holds.
const DATA: u16 = 32;

/// What is in a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// What the leaves hold.
    Entries,
    /// Hashes; level 0 are those of the leaves.
    Hashes(u8),
}

/// One tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    level: Level,
    index: u64,
    width: u16,
}

impl Tile {
    /// `None` if there is no such level or width.
    pub fn new(level: Level, index: u64, width: u64) -> Option<Self> {
        let known = match level {
            Level::Entries => true,
            Level::Hashes(level) => level < LEVELS,
        };
        let width = u16::try_from(width).ok().filter(|width| (1..=256).contains(width))?;
        known.then_some(Self { level, index, width })
    }

    /// A tile of 256.
    pub(crate) fn full(level: Level, index: u64) -> Self {
        Self { level, index, width: 256 }
    }

    /// What is in it.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Its number within its level.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many are in it.
    pub fn width(&self) -> usize {
        usize::from(self.width)
    }

    /// Whether nothing will be added any more.
    pub fn is_full(&self) -> bool {
        self.width == 256
    }

    /// The same tile once it is full.
    pub fn filled(self) -> Self {
        Self { width: 256, ..self }
    }

    /// Under the prefix of the log, beginning with `tile/`.
    pub fn path(&self) -> String {
        let mut path = match self.level {
            Level::Entries => "tile/entries/".to_owned(),
            Level::Hashes(level) => format!("tile/{level}/"),
        };
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups.iter().skip(1).rev() {
            path.push_str(&format!("x{group:03}/"));
        }
        path.push_str(&format!("{:03}", self.index % 1000));
        if !self.is_full() {
            path.push_str(&format!(".p/{}", self.width));
        }
        path
    }

    /// The tile with this path, if it is written as [`Tile::path`] writes it.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("tile/")?;
        let (level, rest) = rest.split_once('/')?;
        let level = match level {
            "entries" => Level::Entries,
            number => Level::Hashes(u8::try_from(crate::decimal(number)?).ok()?),
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, crate::decimal(width).filter(|width| *width < WIDTH)?),
            None => (rest, WIDTH),
        };
        let mut number: u64 = 0;
        for group in index.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            number = number.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
        }
        let tile = Self::new(level, number, width)?;
        // One name for each tile: whoever asks for another is asking for something else.
        (tile.path() == path).then_some(tile)
    }

    /// The content: hashes one after the other, or entries each after its length.
    pub fn encode(&self, hashes: &[Hash]) -> Vec<u8> {
        match self.level {
            Level::Hashes(_) => hashes.concat(),
            Level::Entries => {
                let entry = |data: &Hash| [DATA.to_be_bytes().as_slice(), data].concat();
                hashes.iter().flat_map(entry).collect()
            }
        }
    }

    /// Reads the content; `None` if it does not have the length of this tile, or entries of another length.
    pub fn decode(&self, bytes: &[u8]) -> Option<Vec<Hash>> {
        let head = match self.level {
            Level::Hashes(_) => &[][..],
            Level::Entries => &DATA.to_be_bytes()[..],
        };
        if bytes.len() != self.width() * (head.len() + usize::from(DATA)) {
            return None;
        }
        let entries = bytes.chunks_exact(head.len() + usize::from(DATA));
        entries.map(|entry| entry.strip_prefix(head)?.try_into().ok()).collect()
    }
}

/// The tiles that end a tree of this size and are not full, of each level and of the entries.
pub fn partial(size: u64) -> Vec<Tile> {
    let mut tiles: Vec<Tile> = Tile::new(Level::Entries, size / WIDTH, size % WIDTH).into_iter().collect();
    let mut count = size;
    for level in 0..LEVELS {
        tiles.extend(Tile::new(Level::Hashes(level), count / WIDTH, count % WIDTH));
        count /= WIDTH;
    }
    tiles
}
