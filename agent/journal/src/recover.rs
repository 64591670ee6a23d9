//! Finding the end of a journal when it is opened, and what a crash left behind it.

use std::fs::{self, File};
use std::path::Path;

use crate::Place;
use crate::error::{Corrupt, Damage, FileError, OpenError};
use crate::fail;
use crate::folder::{self, segment_numbers, segment_path};
use crate::format::{
    Chain, ENTRY_HEAD_LEN, FIRST_INDEX, FIRST_SEGMENT, HEADER_LEN, Header, MAX_PAYLOAD, chain_after,
};
use crate::journal::SegmentInfo;
use crate::segment::{Found, Opening, Segment, corrupt};

/// A journal ready to be written on, everything in it durable.
pub(crate) struct Recovered {
    /// All but the last segment.
    pub(crate) closed: Vec<SegmentInfo>,
    /// The last segment, open for writing.
    pub(crate) file: File,
    pub(crate) header: Header,
    pub(crate) next: Place,
    pub(crate) chain: Chain,
    /// The file reaches up to here, with nothing but zeros behind `next`.
    pub(crate) filled: u64,
    pub(crate) cut_bytes: u64,
}

/// Bytes that no whole entry is made of, about to be cut off the end.
#[derive(Debug)]
pub struct Torn<'a> {
    /// Number of the segment.
    pub segment: u64,
    /// Index that the entry would have had.
    pub index: u64,
    /// Where the bytes begin in the segment file.
    pub offset: u64,
    /// The bytes, without the zeros behind them.
    pub bytes: &'a [u8],
}

/// Told what is cut off, before it is.
pub(crate) type Keep<'a> = &'a mut dyn FnMut(&Torn<'_>);

/// Opens the journal in `dir`, which the caller has locked.
pub(crate) fn recover(dir: &Path, keep: Option<Keep<'_>>) -> Result<Recovered, OpenError> {
    let mut numbers = segment_numbers(dir)?;
    let unfinished = match numbers.last() {
        Some(&last) => match Segment::open(dir, last)? {
            Opening::Unfinished { damage, bytes } => Some((last, damage, bytes)),
            _ => None,
        },
        None => None,
    };
    if unfinished.is_some() {
        numbers.pop();
    }
    let Some((closed, mut last)) = check_headers(dir, &numbers)? else {
        let cut_bytes = match unfinished {
            Some((FIRST_SEGMENT, _, bytes)) => {
                remove(dir, FIRST_SEGMENT)?;
                bytes
            }
            Some((number, damage, _)) => return Err(corrupt(dir, number, None, 0, damage).into()),
            None => 0,
        };
        return Ok(Recovered {
            closed: Vec::new(),
            file: Segment::create(dir, &Header::FIRST)?,
            header: Header::FIRST,
            next: Place { index: FIRST_INDEX, segment: FIRST_SEGMENT, offset: HEADER_LEN },
            chain: Header::FIRST.chain,
            filled: HEADER_LEN,
            cut_bytes,
        });
    };

    let Scan { next, chain, damage } = scan(&mut last)?;
    let path = segment_path(dir, next.segment);
    let len = last.len()?;
    let mut filled = len;
    let mut cut_bytes = 0;
    match (damage, unfinished) {
        (None, None) => {}
        (None, Some((number, _, bytes))) => {
            if number != next.segment + 1 {
                return Err(corrupt(dir, next.segment + 1, Some(next.index), 0, Damage::Missing).into());
            }
            // Nothing was ever written behind that header. Removing it needs no space, unlike writing it
            // again, so a journal on a full disk can be opened to make room; the next append begins it anew.
            remove(dir, number)?;
            cut_bytes = bytes;
        }
        // Filled ahead, or left by a power cut. It stays: on a full disk this is the space there is.
        (Some(_), None) if last.is_zero_from(next.offset, len)? => {}
        (Some(damage), unfinished) => {
            let bad = corrupt(dir, next.segment, Some(next.index), next.offset, damage);
            // A segment was synced before the next was begun, and a whole entry is never a torn one.
            if unfinished.is_some() || damage == Damage::Chain {
                return Err(bad.into());
            }
            if let Some(follows) = last.search(next.offset, len, MAX_PAYLOAD)? {
                return Err(Corrupt { follows: Some(follows), ..bad }.into());
            }
            if let Some(keep) = keep {
                let tail = last.rest(next.offset)?;
                let end = tail.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
                keep(&Torn {
                    segment: next.segment,
                    index: next.index,
                    offset: next.offset,
                    bytes: &tail[..end],
                });
            }
            cut_bytes = len - next.offset;
            filled = next.offset;
        }
    }

    let file = File::options().write(true).open(&path).map_err(FileError::new("open", &path))?;
    if len > filled {
        fail::around("journal.cut", || file.set_len(filled)).map_err(FileError::new("cut", &path))?;
    }
    // Always: what was read may never have left the memory of a machine whose journal process was killed.
    fail::around("journal.sync_recovered", || file.sync_all()).map_err(FileError::new("sync", &path))?;
    folder::sync(dir)?;
    Ok(Recovered { closed, file, header: last.header, next, chain, filled, cut_bytes })
}

fn remove(dir: &Path, number: u64) -> Result<(), FileError> {
    let path = segment_path(dir, number);
    fail::around("journal.remove_unfinished", || fs::remove_file(&path))
        .map_err(FileError::new("remove", &path))?;
    folder::sync(dir)
}

/// Reads all headers; gives the closed segments and the last one, `None` in its place if there is none.
fn check_headers(dir: &Path, numbers: &[u64]) -> Result<Option<(Vec<SegmentInfo>, Segment)>, OpenError> {
    let mut closed: Vec<SegmentInfo> = Vec::new();
    let mut last: Option<Segment> = None;
    for &number in numbers {
        let damage = match Segment::open(dir, number)? {
            Opening::Open(segment) => match &last {
                Some(before) if segment.header.number != before.header.number + 1 => Damage::Missing,
                Some(before) if segment.header.first_index <= before.header.first_index => {
                    Damage::FirstIndex { found: segment.header.first_index }
                }
                _ => {
                    closed.extend(last.as_ref().map(SegmentInfo::of).transpose()?);
                    last = Some(segment);
                    continue;
                }
            },
            Opening::Unfinished { damage, .. } | Opening::Bad(damage) => damage,
            Opening::Absent => Damage::Missing,
        };
        return Err(locate(dir, last, number, damage)?.into());
    }
    Ok(last.map(|last| (closed, last)))
}

/// Names the first entry that damage between segments concerns, which takes reading the segment before it.
fn locate(dir: &Path, before: Option<Segment>, number: u64, damage: Damage) -> Result<Corrupt, FileError> {
    let Some(mut before) = before else {
        let index = (number == FIRST_SEGMENT).then_some(FIRST_INDEX);
        return Ok(corrupt(dir, number, index, 0, damage));
    };
    let scan = scan(&mut before)?;
    let next = scan.next;
    Ok(match scan.damage {
        Some(earlier) => corrupt(dir, next.segment, Some(next.index), next.offset, earlier),
        None if damage == Damage::Missing => corrupt(dir, next.segment + 1, Some(next.index), 0, damage),
        None => corrupt(dir, number, Some(next.index), 0, damage),
    })
}

/// How far a segment is right.
struct Scan {
    next: Place,
    chain: Chain,
    /// What stands at `next`, if not the end.
    damage: Option<Damage>,
}

fn scan(segment: &mut Segment) -> Result<Scan, FileError> {
    let Header { number, first_index, mut chain } = segment.header;
    let mut next = Place { index: first_index, segment: number, offset: HEADER_LEN };
    loop {
        let damage = match segment.entry(next.offset, None)? {
            Found::Whole(whole) if chain_after(&chain, &whole.payload) == whole.chain => {
                chain = whole.chain;
                next.index += 1;
                next.offset += ENTRY_HEAD_LEN + whole.payload.len() as u64;
                continue;
            }
            Found::Whole(_) => Some(Damage::Chain),
            Found::Bad(damage) => Some(damage),
            Found::End => None,
        };
        return Ok(Scan { next, chain, damage });
    }
}
