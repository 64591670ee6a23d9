//! Headers and entries as bytes; the layout is described at the top of the crate.

use sha2::{Digest, Sha256};

use crate::error::Damage;

/// Longest payload of an entry: 64 MiB. A longer one is refused by [`crate::Journal::append`].
pub const MAX_PAYLOAD: usize = 64 << 20;

/// Length of a segment header in bytes; the first entry begins at this offset.
pub const HEADER_LEN: u64 = HEADER as u64;

/// Bytes of an entry before its payload: length, checksum and chain hash.
pub const ENTRY_HEAD_LEN: u64 = ENTRY_HEAD as u64;

pub(crate) const HEADER: usize = 60;
pub(crate) const ENTRY_HEAD: usize = 40;
pub(crate) const FIRST_SEGMENT: u64 = 1;
pub(crate) const FIRST_INDEX: u64 = 1;

const MAGIC: [u8; 8] = *b"WBJRNL01";

/// Numbers above this are refused when read, so that counting on from them cannot overflow.
const MAX_NUMBER: u64 = 1 << 62;

/// SHA-256 over everything up to an entry.
pub(crate) type Chain = [u8; 32];

/// The chain hash after `payload`.
pub(crate) fn chain_after(before: &Chain, payload: &[u8]) -> Chain {
    Sha256::new().chain_update(before).chain_update(payload).finalize().into()
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) first_index: u64,
    /// Chain hash of the entry before the first.
    pub(crate) chain: Chain,
}

impl Header {
    /// The header a new journal begins with.
    pub(crate) const FIRST: Self = Self { number: FIRST_SEGMENT, first_index: FIRST_INDEX, chain: [0; 32] };

    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_index.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.chain);
        let checksum = crc32fast::hash(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header of a file that may be called anything.
    pub(crate) fn decode_any(bytes: &[u8; HEADER]) -> Result<Self, Damage> {
        Self::decode(bytes, u64_at(bytes, 8))
    }

    /// Reads the header of the file that is named after `number`.
    pub(crate) fn decode(bytes: &[u8; HEADER], number: u64) -> Result<Self, Damage> {
        if bytes[..8] != MAGIC {
            return Err(Damage::Magic);
        }
        if u32_at(bytes, 56) != crc32fast::hash(&bytes[..56]) {
            return Err(Damage::HeaderChecksum);
        }
        let mut chain = [0; 32];
        chain.copy_from_slice(&bytes[24..56]);
        let header = Self { number: u64_at(bytes, 8), first_index: u64_at(bytes, 16), chain };

        if header.number != number || number > MAX_NUMBER {
            return Err(Damage::Number { found: header.number });
        }
        let first = number == FIRST_SEGMENT;
        if header.first_index < number || header.first_index > MAX_NUMBER {
            // Every segment before this one holds at least one entry.
            return Err(Damage::FirstIndex { found: header.first_index });
        }
        if first && header.first_index != FIRST_INDEX {
            return Err(Damage::FirstIndex { found: header.first_index });
        }
        if first && header.chain != Self::FIRST.chain {
            return Err(Damage::HeaderChain);
        }
        Ok(header)
    }
}

/// The bytes of an entry before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHead {
    /// Length of the payload, from 1 to [`MAX_PAYLOAD`].
    pub(crate) len: usize,
    checksum: u32,
    pub(crate) chain: Chain,
}

impl EntryHead {
    /// The caller has checked that the payload is neither empty nor too long.
    pub(crate) fn encode(chain: &Chain, payload: &[u8]) -> [u8; ENTRY_HEAD] {
        let mut bytes = [0; ENTRY_HEAD];
        let len = u32::try_from(payload.len()).expect("at most MAX_PAYLOAD, which fits 32 bits");
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes[8..].copy_from_slice(chain);
        let checksum = checksum(&bytes, payload);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; ENTRY_HEAD]) -> Result<Self, Damage> {
        let len = payload_len(u32_at(bytes, 0))?;
        let mut chain = [0; 32];
        chain.copy_from_slice(&bytes[8..]);
        Ok(Self { len, checksum: u32_at(bytes, 4), chain })
    }

    /// Whether `payload` and this head, encoded as `bytes`, belong together.
    pub(crate) fn matches(&self, bytes: &[u8; ENTRY_HEAD], payload: &[u8]) -> bool {
        self.checksum == checksum(bytes, payload)
    }
}

/// Checks the length field of an entry.
pub(crate) fn payload_len(found: u32) -> Result<usize, Damage> {
    match usize::try_from(found) {
        Ok(len @ 1..=MAX_PAYLOAD) => Ok(len),
        _ => Err(Damage::Length { found }),
    }
}

/// Over everything in an entry but the checksum itself.
fn checksum(head: &[u8; ENTRY_HEAD], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..4]);
    hasher.update(&head[8..]);
    hasher.update(payload);
    hasher.finalize()
}

/// Four bytes at `at`, which the caller knows to be there.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8; HEADER], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_cannot_be_is_refused_though_its_checksum_is_right() {
        let check = |header: Header, number| Header::decode(&header.encode(), number);
        let later = Header { number: 3, first_index: 3, chain: [5; 32] };
        assert_eq!(check(Header::FIRST, 1), Ok(Header::FIRST));
        assert_eq!(check(later, 3), Ok(later));

        assert_eq!(check(later, 4), Err(Damage::Number { found: 3 }));
        assert_eq!(
            check(Header { first_index: 2, ..Header::FIRST }, 1),
            Err(Damage::FirstIndex { found: 2 })
        );
        assert_eq!(check(Header { chain: [1; 32], ..Header::FIRST }, 1), Err(Damage::HeaderChain));
        // Two full segments before this one hold at least two entries.
        assert_eq!(check(Header { first_index: 2, ..later }, 3), Err(Damage::FirstIndex { found: 2 }));
        // Counting on from these would overflow.
        let last = u64::MAX;
        assert_eq!(check(Header { first_index: last, ..later }, 3), Err(Damage::FirstIndex { found: last }));
        assert_eq!(check(Header { number: last, ..later }, last), Err(Damage::Number { found: last }));
    }
}
