//! Counts what an encoded batch holds before any of it is made: a byte on the wire can be a hundred in memory.
//!
//! Two bytes are an empty device, one is a number of a packed column. Decoding first and counting then would let a
//! megabyte of foreign bytes take a gigabyte. What is no protobuf at all is left to the decoder, which refuses it.

use weighbridge_meter::{features::Feature, window::Counters};

use crate::{Malformed, convert::bad, limits};

/// Values of packed columns that are as long as there are windows, and those with several a window.
const VALUES: usize = limits::RECORDS;
const COUNTERS: usize = limits::RECORDS * Counters::LEN;
const FEATURES: usize = limits::RECORDS * Feature::ALL.len();

/// Rows of lists within rows, all together: accelerators of holdings, conditions of devices.
const NESTED: usize = limits::RECORDS * 8;

/// What a field holds, and how many values of it all occurrences together may have.
#[derive(Clone, Copy)]
enum Holds {
    /// As many as there are occurrences.
    Rows(usize),
    /// The values in its packed occurrences, or one for each that is not packed.
    Values(usize),
    /// Fields of its own, by number.
    Message(&'static [(u32, Holds)]),
    /// Rows, with lists in them.
    RowsOf(usize, &'static [(u32, Holds)]),
}

const WINDOWS: &[(u32, Holds)] = &[
    (1, Holds::Values(VALUES)),
    (2, Holds::Values(VALUES)),
    (3, Holds::Values(VALUES)),
    (4, Holds::Values(VALUES)),
    (5, Holds::Values(VALUES)),
    (6, Holds::Values(VALUES)),
    (7, Holds::Values(VALUES)),
    (8, Holds::Values(VALUES)),
    (9, Holds::Values(VALUES)),
    (10, Holds::Values(COUNTERS)),
    (11, Holds::Values(VALUES)),
    (12, Holds::Values(FEATURES)),
];

const BATCH: &[(u32, Holds)] = &[
    (6, Holds::Rows(limits::RECORDS)),
    (7, Holds::Message(WINDOWS)),
    // The columns of gaps have the numbers and limits of the first of windows.
    (8, Holds::Message(WINDOWS)),
    (9, Holds::RowsOf(limits::RECORDS, &[(3, Holds::Values(NESTED))])),
    (10, Holds::RowsOf(limits::RECORDS, &[(18, Holds::Values(NESTED))])),
    (12, Holds::Rows(limits::LOSSES)),
];

/// More values than any field may have, for the counts of one message.
const FIELDS: usize = 20;

/// Refuses a batch with more in it than a batch may have.
pub(crate) fn check(plain: &[u8]) -> Result<(), Malformed> {
    // Lists within rows count over all rows, columns over all occurrences of their table.
    let mut counts = [[0_usize; FIELDS]; FIELDS];
    walk(plain, |field, value| {
        let Some(holds) = find(BATCH, field) else { return Ok(()) };
        count(&mut counts[0], field, holds, &value)?;
        let (Holds::Message(inner) | Holds::RowsOf(_, inner)) = holds else { return Ok(()) };
        let Value::Bytes(bytes) = value else { return Ok(()) };
        let Some(counts) = counts.get_mut(field as usize) else { return Ok(()) };
        walk(bytes, |field, value| match find(inner, field) {
            Some(holds) => count(counts, field, holds, &value),
            None => Ok(()),
        })
    })
}

fn find(fields: &[(u32, Holds)], field: u32) -> Option<Holds> {
    fields.iter().find(|(number, _)| *number == field).map(|(_, holds)| *holds)
}

fn count(counts: &mut [usize; FIELDS], field: u32, holds: Holds, value: &Value<'_>) -> Result<(), Malformed> {
    let (more, most) = match (holds, value) {
        (Holds::Rows(most) | Holds::RowsOf(most, _), _) => (1, most),
        // A number ends with the byte that has no high bit.
        (Holds::Values(most), Value::Bytes(bytes)) => {
            (bytes.iter().filter(|byte| **byte < 0x80).count(), most)
        }
        (Holds::Values(most), Value::Other) => (1, most),
        (Holds::Message(_), _) => return Ok(()),
    };
    let Some(count) = counts.get_mut(field as usize) else { return Ok(()) };
    *count += more;
    if *count > most {
        return Err(bad(format!("field {field}"), *count, "a number of values within the limits of a batch"));
    }
    Ok(())
}

enum Value<'a> {
    Bytes(&'a [u8]),
    Other,
}

/// Calls `visit` with each field of a message; ends where the bytes are no message.
fn walk<'a>(
    mut rest: &'a [u8],
    mut visit: impl FnMut(u32, Value<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let Some(key) = varint(&mut rest) else { return Ok(()) };
        let Ok(field) = u32::try_from(key >> 3) else { return Ok(()) };
        let value = match key & 7 {
            0 => varint(&mut rest).map(|_| Value::Other),
            1 => skip(&mut rest, 8).map(|_| Value::Other),
            2 => varint(&mut rest)
                .and_then(|length| skip(&mut rest, usize::try_from(length).ok()?))
                .map(Value::Bytes),
            5 => skip(&mut rest, 4).map(|_| Value::Other),
            // The marks of a group: what is in it is no field of ours, and is read as if it were.
            3 | 4 => continue,
            _ => None,
        };
        let Some(value) = value else { return Ok(()) };
        visit(field, value)?;
    }
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (index, byte) in rest.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            *rest = &rest[index + 1..];
            return Some(value);
        }
    }
    None
}

fn skip<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (skipped, after) = rest.split_at_checked(bytes)?;
    *rest = after;
    Some(skipped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto;

    fn refused(batch: &proto::Batch) -> Option<String> {
        check(&batch.encode_to_vec()).err().map(|error| error.to_string())
    }

    #[test]
    fn empty_rows_by_the_million_are_refused_before_they_are_made() {
        let limit = limits::RECORDS;
        for (field, most) in [(6_u8, limit), (9, limit), (10, limit), (12, limits::LOSSES)] {
            let rows = |count| [field << 3 | 2, 0].repeat(count);
            assert!(check(&rows(most)).is_ok(), "{field}");
            let error = check(&rows(most + 1)).expect_err("too many").to_string();
            assert!(error.starts_with(&format!("field {field}: {}", most + 1)), "{error}");
        }
    }

    #[test]
    fn columns_count_over_all_parts_of_their_table() {
        let mut windows = proto::Windows { ticks: vec![1; limits::RECORDS], ..Default::default() };
        windows.counters = vec![300; COUNTERS];
        let batch = proto::Batch { windows: Some(windows.clone()), ..Default::default() };
        assert_eq!(refused(&batch), None);
        let one_more = proto::Windows { ticks: vec![1], ..Default::default() };
        let more = proto::Batch { windows: Some(one_more), ..Default::default() };
        // Two messages one after the other are one to a decoder.
        let both = [batch.encode_to_vec(), more.encode_to_vec()].concat();
        assert!(check(&both).is_err());
        windows.counters.push(1);
        assert!(refused(&proto::Batch { windows: Some(windows), ..Default::default() }).is_some());
        let holding = proto::Holding { accelerators: vec![0; NESTED + 1], ..Default::default() };
        assert!(refused(&proto::Batch { holdings: vec![holding], ..Default::default() }).is_some());
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(check(&bytes));
        }
    }
}
