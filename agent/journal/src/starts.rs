//! Where to begin reading in order to come to an entry.

use std::path::Path;

use crate::Place;
use crate::error::{Damage, ReadError};
use crate::folder::segment_numbers;
use crate::format::HEADER_LEN;
use crate::segment::{Opening, Segment, corrupt};

/// The first place of the segment that holds the entry with this index, or will hold it if it is the next one;
/// `None` if the segments that could are not there.
///
/// Looks at headers only, from the newest segment back.
pub fn segment_of(dir: &Path, index: u64) -> Result<Option<Place>, ReadError> {
    for number in segment_numbers(dir)?.into_iter().rev() {
        match Segment::open(dir, number)? {
            Opening::Open(segment) if segment.header.first_index <= index => {
                let first = segment.header.first_index;
                return Ok(Some(Place { index: first, segment: number, offset: HEADER_LEN }));
            }
            // Begun after we listed, removed since, or not yet whole: nothing that anybody could want is in it.
            Opening::Open(_) | Opening::Absent | Opening::Unfinished { .. } => {}
            Opening::Bad(damage) => return Err(corrupt(dir, number, None, 0, damage).into()),
        }
    }
    Ok(None)
}

/// Looks at the header of every segment: that none between two is missing, and that indexes go on. Tells how many
/// there are. What is in them is not read.
pub fn check_headers(dir: &Path) -> Result<u64, ReadError> {
    let numbers = segment_numbers(dir)?;
    let mut before: Option<(u64, u64)> = None;
    for &number in &numbers {
        let last = numbers.last() == Some(&number);
        let header = match Segment::open(dir, number)? {
            Opening::Open(segment) => segment.header,
            Opening::Unfinished { .. } if last => continue,
            Opening::Unfinished { damage, .. } | Opening::Bad(damage) => {
                return Err(corrupt(dir, number, None, 0, damage).into());
            }
            Opening::Absent => return Err(corrupt(dir, number, None, 0, Damage::Missing).into()),
        };
        if let Some((number_before, index_before)) = before {
            if number != number_before + 1 {
                return Err(corrupt(dir, number_before + 1, None, 0, Damage::Missing).into());
            }
            if header.first_index <= index_before {
                let damage = Damage::FirstIndex { found: header.first_index };
                return Err(corrupt(dir, number, None, 0, damage).into());
            }
        }
        before = Some((number, header.first_index));
    }
    Ok(numbers.len() as u64)
}
