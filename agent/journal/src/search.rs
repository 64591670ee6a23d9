//! Looks for a whole entry anywhere behind a bad one: the difference between a torn write and corruption.
//!
//! Any byte may be where an entry begins, and any four bytes may look like a length, so hashing every
//! candidate would take quadratic time on a large tail with unlucky content. The checksum of any stretch
//! follows from the checksums of two prefixes instead.

use crate::format::{ENTRY_HEAD, payload_len, u32_at};

/// Offset of the first whole entry with a right checksum in `bytes`, its payload no longer than `largest`.
pub(crate) fn whole_entry(bytes: &[u8], largest: usize) -> Option<usize> {
    let prefixes = Prefixes::new(bytes);
    let last = bytes.len().checked_sub(ENTRY_HEAD)?;
    (0..=last).find(|&at| {
        let Ok(len) = payload_len(u32_at(bytes, at)) else { return false };
        let end = at + ENTRY_HEAD + len;
        len <= largest
            && end <= bytes.len()
            && prefixes.checksum(&bytes[at..at + 4], at + 8, end) == u32_at(bytes, at + 4)
    })
}

/// Bytes between two prefixes whose checksums are kept.
const STRIDE: usize = 256;

struct Prefixes<'a> {
    bytes: &'a [u8],
    /// The checksum of the first `n * STRIDE` bytes, for every `n`.
    kept: Vec<u32>,
}

impl<'a> Prefixes<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        let mut kept = vec![hasher.clone().finalize()];
        for stride in bytes.chunks_exact(STRIDE) {
            hasher.update(stride);
            kept.push(hasher.clone().finalize());
        }
        Self { bytes, kept }
    }

    fn prefix(&self, end: usize) -> u32 {
        let stride = end / STRIDE;
        let mut hasher = crc32fast::Hasher::new_with_initial(self.kept[stride]);
        hasher.update(&self.bytes[stride * STRIDE..end]);
        hasher.finalize()
    }

    /// The checksum of `head` followed by `bytes[start..end]`.
    ///
    /// With `shift(c)` for what `end - start` more zero bytes make of a checksum, which is linear over XOR:
    /// `crc(a b) = shift(crc(a)) ^ crc(b)`. Once for the head, once for the bytes before `start`.
    fn checksum(&self, head: &[u8], start: usize, end: usize) -> u32 {
        let mut shifted = crc32fast::Hasher::new_with_initial(crc32fast::hash(head) ^ self.prefix(start));
        shifted.combine(&crc32fast::Hasher::new_with_initial_len(0, (end - start) as u64));
        shifted.finalize() ^ self.prefix(end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{EntryHead, MAX_PAYLOAD};

    /// The obvious way, to compare with.
    fn whole_entry_slowly(bytes: &[u8]) -> Option<usize> {
        (0..bytes.len()).find(|&at| {
            let Some((head, rest)) = bytes[at..].split_first_chunk() else { return false };
            EntryHead::decode(head)
                .is_ok_and(|entry| rest.get(..entry.len).is_some_and(|payload| entry.matches(head, payload)))
        })
    }

    proptest! {
        #[test]
        fn finds_an_entry_wherever_it_lies(
            before in prop::collection::vec(0..4_u8, 0..1000),
            payload in prop::collection::vec(any::<u8>(), 1..1000),
            after in prop::collection::vec(0..4_u8, 0..300),
            cut in 0..3_usize,
        ) {
            let mut bytes = before.clone();
            bytes.extend(EntryHead::encode(&[7; 32], &payload));
            bytes.extend(&payload);
            bytes.extend(&after);
            prop_assert_eq!(whole_entry(&bytes, MAX_PAYLOAD), whole_entry_slowly(&bytes));
            prop_assert_eq!(whole_entry(&bytes, MAX_PAYLOAD), Some(before.len()));

            bytes.truncate(before.len() + ENTRY_HEAD + payload.len() - 1 - cut.min(payload.len() - 1));
            prop_assert_eq!(whole_entry(&bytes, MAX_PAYLOAD), None);
        }
    }
}
