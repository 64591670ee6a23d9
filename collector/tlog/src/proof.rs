//! Proofs of RFC 6962: that a leaf is in a tree, and that a tree is the beginning of another.
//!
//! For many leaves of one tree there is a third: the nodes that all of them share are in it once
//! ([`of_leaves`], [`root_with_leaves`]).

use crate::{
    Hash, empty_root, node_hash, perfect_root,
    tile::{LEVELS, Level, Tile, WIDTH},
};

/// Where the hashes of a tree come from.
pub trait Hashes {
    /// What can go wrong.
    type Error;

    /// The first `count` hashes of the tile with this level and number.
    fn tile(&mut self, level: u8, index: u64, count: u64) -> Result<Vec<Hash>, Self::Error>;
}

/// The root of the tree with the first `size` leaves.
pub fn root<H: Hashes>(hashes: &mut H, size: u64) -> Result<Hash, H::Error> {
    range(hashes, 0, size)
}

/// The largest power of two below `count`, which is above 1.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// The root over the leaves `from..to`; `from` is a multiple of the next power of two of their number.
fn range<H: Hashes>(hashes: &mut H, from: u64, to: u64) -> Result<Hash, H::Error> {
    let count = to - from;
    match count {
        0 => Ok(empty_root()),
        _ if count.is_power_of_two() => subtree(hashes, count.ilog2(), from / count),
        _ => {
            let middle = from + split(count);
            Ok(node_hash(&range(hashes, from, middle)?, &range(hashes, middle, to)?))
        }
    }
}

/// The root over the `2^height` leaves from `index * 2^height` on.
fn subtree<H: Hashes>(hashes: &mut H, height: u32, index: u64) -> Result<Hash, H::Error> {
    // A tile holds the subtree in which its own hashes are the leaves.
    let level = (height / 8).min(u32::from(LEVELS) - 1);
    let within = height - level * 8;
    let count = 1_u64 << within;
    let first = index * count;
    let tile = hashes.tile(
        u8::try_from(level).unwrap_or(LEVELS - 1),
        first / WIDTH,
        (first % WIDTH + count).min(WIDTH),
    )?;
    let start = usize::try_from(first % WIDTH).unwrap_or(usize::MAX);
    let part = tile.get(start..).unwrap_or_default();
    Ok(perfect_root(part).unwrap_or_else(empty_root))
}

/// The proof that leaf `index` is in the tree of `size` leaves; `index` is below `size`.
pub fn of_inclusion<H: Hashes>(hashes: &mut H, index: u64, size: u64) -> Result<Vec<Hash>, H::Error> {
    let (mut from, mut to) = (0, size);
    let mut path = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(range(hashes, middle, to)?);
            to = middle;
        } else {
            path.push(range(hashes, from, middle)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of `first` leaves is the beginning of that of `second`.
pub fn of_consistency<H: Hashes>(hashes: &mut H, first: u64, second: u64) -> Result<Vec<Hash>, H::Error> {
    if first == 0 || first >= second {
        return Ok(Vec::new());
    }
    let (mut from, mut to) = (0, second);
    let mut path = Vec::new();
    while first < to {
        let middle = from + split(to - from);
        if first <= middle {
            path.push(range(hashes, middle, to)?);
            to = middle;
        } else {
            path.push(range(hashes, from, middle)?);
            from = middle;
        }
    }
    // What is left is a subtree that both have; who checks knows it already if it is all of the first.
    if from > 0 {
        path.push(range(hashes, from, to)?);
    }
    path.reverse();
    Ok(path)
}

/// Whether `path` proves that a leaf with this hash is number `index` of the tree.
pub fn includes(path: &[Hash], leaf: &Hash, index: u64, size: u64, root: &Hash) -> bool {
    root_of(path, leaf, index, size).is_some_and(|leads_to| leads_to == *root)
}

/// The root that `path` leads to from a leaf with this hash as number `index` of a tree of `size`; `None` if no path of
/// such a leaf is as long.
pub fn root_of(path: &[Hash], leaf: &Hash, index: u64, size: u64) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for step in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(step, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// Whether `path` proves that the first tree is the beginning of the second.
pub fn consistent(path: &[Hash], first: (u64, &Hash), second: (u64, &Hash)) -> bool {
    let ((first, first_root), (second, second_root)) = (first, second);
    if first == second {
        return path.is_empty() && first_root == second_root;
    }
    if first > second {
        return false;
    }
    if first == 0 {
        return path.is_empty() && *first_root == empty_root();
    }
    let (mut at, mut last) = (first - 1, second - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let known = first.is_power_of_two().then_some(first_root);
    let mut steps = known.into_iter().chain(path);
    let Some(start) = steps.next() else { return false };
    let (mut before, mut after) = (*start, *start);
    for step in steps {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            before = node_hash(step, &before);
            after = node_hash(step, &after);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            after = node_hash(&after, step);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && before == *first_root && after == *second_root
}

/// The proof that all these leaves are in the tree of `size` leaves: the roots of the largest subtrees without any
/// of them, from left to right. `indexes` are in order, none twice, all below `size`.
pub fn of_leaves<H: Hashes>(hashes: &mut H, indexes: &[u64], size: u64) -> Result<Vec<Hash>, H::Error> {
    let mut nodes = Vec::new();
    let mut ranges = vec![(0, size, indexes)];
    while let Some((from, to, within)) = ranges.pop() {
        if from == to || (to - from == 1 && !within.is_empty()) {
            continue;
        }
        if within.is_empty() {
            nodes.push(range(hashes, from, to)?);
            continue;
        }
        let middle = from + split(to - from);
        let (left, right) = within.split_at(within.partition_point(|index| *index < middle));
        ranges.push((middle, to, right));
        ranges.push((from, middle, left));
    }
    Ok(nodes)
}

/// The root of a tree of `size` leaves with these, numbers and hashes in order, and the nodes of [`of_leaves`].
/// `None` if they do not make a tree: a number twice or too large, too few nodes or too many.
pub fn root_with_leaves(leaves: &[(u64, Hash)], nodes: &[Hash], size: u64) -> Option<Hash> {
    let ordered = leaves.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if !ordered || leaves.last().is_some_and(|(index, _)| *index >= size) {
        return None;
    }
    let mut nodes = nodes.iter();
    let root = part(leaves, &mut nodes, 0, size)?;
    nodes.next().is_none().then_some(root)
}

/// The root over `from..to`. As deep as the tree is high, which is 64 at most.
fn part<'a>(
    leaves: &[(u64, Hash)],
    nodes: &mut impl Iterator<Item = &'a Hash>,
    from: u64,
    to: u64,
) -> Option<Hash> {
    if from == to {
        return Some(empty_root());
    }
    match leaves {
        [] => nodes.next().copied(),
        [(_, hash)] if to - from == 1 => Some(*hash),
        _ => {
            let middle = from + split(to - from);
            let (left, right) = leaves.split_at(leaves.partition_point(|(index, _)| *index < middle));
            let left = part(left, nodes, from, middle)?;
            Some(node_hash(&left, &part(right, nodes, middle, to)?))
        }
    }
}

/// The number of hashes that level `level` has in a tree of `size` leaves.
pub fn hashes_of_level(level: Level, size: u64) -> u64 {
    match level {
        Level::Entries => size,
        Level::Hashes(level) => size.checked_shr(u32::from(level) * 8).unwrap_or(0),
    }
}

/// The tile with number `index` of a level as it is in a tree of `size` leaves; `None` if there is none.
pub fn tile_of(level: Level, index: u64, size: u64) -> Option<Tile> {
    let count = hashes_of_level(level, size).checked_sub(index.checked_mul(WIDTH)?)?;
    Tile::new(level, index, count.min(WIDTH))
}
