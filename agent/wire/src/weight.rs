//! How much a batch would become, counted before it does: a few bytes of protobuf make a hundred in memory.
//!
//! Only what repeats is counted, and nothing is judged that decoding judges anyway.

use crate::{Malformed, convert::bad, limits};

/// Bits of the columns that say which counters and features a window has.
const KINDS: usize = 32;

/// A field of a message: its number, and its bytes where it has any.
struct Field<'a> {
    number: u64,
    bytes: Option<&'a [u8]>,
}

/// The fields of a message up to where it stops making sense, which decoding will say.
fn fields(mut message: &[u8]) -> impl Iterator<Item = Field<'_>> {
    std::iter::from_fn(move || {
        let key = varint(&mut message)?;
        let number = key >> 3;
        let length = match key & 7 {
            0 => {
                varint(&mut message)?;
                return Some(Field { number, bytes: None });
            }
            1 => 8,
            2 => varint(&mut message)?,
            5 => 4,
            _ => return None,
        };
        let (bytes, rest) = message.split_at_checked(usize::try_from(length).ok()?)?;
        message = rest;
        Some(Field { number, bytes: (key & 7 == 2).then_some(bytes) })
    })
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Refuses a batch of which more things of a kind would be made than any batch may have.
pub(crate) fn check(batch: &[u8]) -> Result<(), Malformed> {
    let (mut names, mut holdings, mut inventory, mut losses) = (0, 0, 0, 0);
    let (mut columns, mut held) = ([0; 32], [0; 32]);
    for field in fields(batch) {
        let most = |count: &mut usize, name: &str, most: usize| {
            *count += 1;
            if *count > most { Err(bad(name, *count, "as many as a batch may have")) } else { Ok(()) }
        };
        match field.number {
            6 => most(&mut names, "names", 3 * limits::RECORDS)?,
            7 | 8 => in_columns(field.bytes, &mut columns, |column| match column {
                10 | 12 => limits::RECORDS * KINDS,
                _ => 2 * limits::RECORDS,
            })?,
            9 => {
                most(&mut holdings, "holdings", limits::RECORDS)?;
                in_columns(field.bytes, &mut held, |_| 2 * limits::RECORDS)?;
            }
            10 => most(&mut inventory, "inventory", limits::RECORDS)?,
            12 => most(&mut losses, "losses", limits::RECORDS)?,
            _ => {}
        }
    }
    Ok(())
}

/// Counts the values of each column, over all messages that it comes in.
fn in_columns(
    message: Option<&[u8]>,
    counts: &mut [usize; 32],
    most: impl Fn(u64) -> usize,
) -> Result<(), Malformed> {
    for field in fields(message.unwrap_or_default()) {
        let Some(count) = usize::try_from(field.number).ok().and_then(|number| counts.get_mut(number)) else {
            continue;
        };
        // Each value ends with the one byte that has no continuation bit.
        *count += field.bytes.map_or(1, |bytes| bytes.iter().filter(|byte| **byte < 0x80).count());
        if *count > most(field.number) {
            return Err(bad(
                format!("column {}", field.number),
                *count,
                "as many values as a batch may have",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto;

    fn encoded(batch: &proto::Batch) -> Vec<u8> {
        batch.encode_to_vec()
    }

    #[test]
    fn what_any_batch_may_have_passes() {
        let windows = proto::Windows {
            accelerator: vec![1; limits::RECORDS],
            counters: vec![u64::MAX; limits::RECORDS * 4],
            ..Default::default()
        };
        let batch = proto::Batch {
            names: vec![String::new(); limits::RECORDS],
            windows: Some(windows),
            holdings: vec![proto::Holding::default(); limits::RECORDS],
            sequence: 7,
            ..Default::default()
        };
        assert_eq!(check(&encoded(&batch)), Ok(()));
    }

    #[test]
    fn millions_of_anything_are_refused_before_they_are_made() {
        let many = 4 * limits::RECORDS;
        let of = |change: fn(&mut proto::Batch, usize)| {
            let mut batch = proto::Batch::default();
            change(&mut batch, many);
            check(&encoded(&batch)).unwrap_err().place
        };
        assert_eq!(of(|batch, many| batch.names = vec![String::new(); many]), "names");
        assert_eq!(of(|batch, many| batch.holdings = vec![Default::default(); many]), "holdings");
        assert_eq!(of(|batch, many| batch.inventory = vec![Default::default(); many]), "inventory");
        assert_eq!(of(|batch, many| batch.losses = vec![Default::default(); many]), "losses");
        let column = |batch: &mut proto::Batch, many| {
            batch.windows = Some(proto::Windows { ticks: vec![1; many], ..Default::default() });
        };
        assert_eq!(of(column), "column 8");
        // Not packed, and spread over many messages.
        let spread = [0x3a, 0x02, 0x40, 0x01].repeat(many);
        assert_eq!(check(&spread).unwrap_err().place, "column 8");
    }

    #[test]
    fn what_makes_no_sense_is_left_to_decoding() {
        for bytes in [&[0xff][..], &[0x0a, 0xff, 0xff], &[0x0b], &[0x3a, 0x01, 0x0a], &[0x80; 11]] {
            assert_eq!(check(bytes), Ok(()));
        }
    }
}
