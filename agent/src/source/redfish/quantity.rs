//! Numbers, times and durations as controllers write them.
//!
//! Metric reports carry every value as text, resources carry numbers; both come through here. What says nothing
//! (`null`, an empty text, `nan`, `NA`) is unknown; text that is no number says nothing either.

use serde_json::Value;
use weighbridge_meter::UtcMillis;

/// The number in a value, which need not be finite; `None` if it says nothing.
pub(super) fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    (!number.is_nan()).then_some(number)
}

/// To the nearest whole number. `None` below zero, or from 2^53 on, where doubles are no longer whole numbers.
pub(super) fn whole(number: f64) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
    (0.0..9_007_199_254_740_992.0).contains(&number).then(|| number.round() as u64)
}

/// A moment. Without an offset it is taken for UTC, which controllers are set to.
pub(super) fn moment(value: &Value) -> Option<UtcMillis> {
    let text = value.as_str()?.trim();
    text.parse().ok().or_else(|| format!("{text}Z").parse().ok())
}

/// Microseconds of an ISO 8601 duration such as `P1DT2H3M4.5S`; what is finer is cut off.
///
/// `None` for years and months, which have no fixed length, and for what is negative. A `T` with nothing behind
/// it is let pass: NVIDIA's bmcweb writes one behind whole days.
pub(super) fn duration_us(text: &str) -> Option<u64> {
    const SECOND: u64 = 1_000_000;
    let mut rest = text.trim().strip_prefix('P')?;
    let mut in_time = false;
    let mut sum: Option<u64> = None;
    // Units come in this order, each at most once.
    let mut last = 0;
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('T') {
            if std::mem::replace(&mut in_time, true) {
                return None;
            }
            rest = time;
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ',')?;
        let (number, unit_and_rest) = rest.split_at(end);
        let mut chars = unit_and_rest.chars();
        let (order, unit) = match (chars.next()?, in_time) {
            ('W', false) => (1, 7 * 86_400 * SECOND),
            ('D', false) => (2, 86_400 * SECOND),
            ('H', true) => (3, 3600 * SECOND),
            ('M', true) => (4, 60 * SECOND),
            ('S', true) => (5, SECOND),
            _ => return None,
        };
        rest = chars.as_str();
        let (whole, fraction) = match number.split_once(['.', ',']) {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (number, ""),
        };
        // Only the smallest unit may have a fraction.
        if order <= last || (!fraction.is_empty() && !matches!(rest, "" | "T")) {
            return None;
        }
        last = order;
        let part = whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(part_of(fraction, unit)?)?;
        sum = Some(sum.unwrap_or(0).checked_add(part)?);
    }
    sum
}

/// The digits behind the point, as a part of `unit`; beyond the twelfth they make no microsecond.
fn part_of(digits: &str, unit: u64) -> Option<u64> {
    let mut part = 0_u128;
    let mut scale = 1_u128;
    for digit in digits.chars().take(12) {
        part = part * 10 + u128::from(digit.to_digit(10)?);
        scale *= 10;
    }
    digits.chars().all(|c| c.is_ascii_digit()).then_some(())?;
    u64::try_from(part * u128::from(unit) / scale).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_says_nothing_is_unknown_and_not_zero() {
        for value in
            [json!(null), json!(""), json!("nan"), json!("NaN"), json!("NA"), json!("null"), json!([1])]
        {
            assert_eq!(number(&value), None, "{value}");
        }
        assert_eq!(number(&json!("0")), Some(0.0));
        assert_eq!(number(&json!(" 12.5 ")), Some(12.5));
        assert_eq!(number(&json!(7)), Some(7.0));
        assert_eq!(number(&json!("-inf")), Some(f64::NEG_INFINITY), "a number, though one that cannot be");
    }

    #[test]
    fn only_what_a_double_holds_exactly_becomes_a_whole_number() {
        assert_eq!(whole(1.5), Some(2));
        assert_eq!(whole(-0.1), None);
        assert_eq!(whole(1e16), None);
        assert_eq!(whole(f64::INFINITY), None);
    }

    #[test]
    fn a_moment_without_an_offset_is_utc() {
        let expected = "2026-06-29T08:05:19.536Z".parse().ok();
        assert_eq!(moment(&json!("2026-06-29T08:05:19.536+00:00")), expected);
        assert_eq!(moment(&json!("2026-06-29T10:05:19.536+02:00")), expected);
        assert_eq!(moment(&json!("2026-06-29T08:05:19.536")), expected);
        assert_eq!(moment(&json!("nan")), None);
    }

    #[test]
    fn durations_are_read_as_iso_8601_writes_them() {
        for (text, micros) in [
            ("PT0S", 0),
            ("PT1.000000000S", 1_000_000),
            ("PT5M", 300_000_000),
            ("P1DT1H", 90_000_000_000),
            ("P1DT", 86_400_000_000),
            ("P2W", 1_209_600_000_000),
            ("PT0.5H", 1_800_000_000),
            ("PT1,25S", 1_250_000),
            ("PT0.0000019S", 1),
        ] {
            assert_eq!(duration_us(text), Some(micros), "{text}");
        }
        for text in [
            "",
            "P",
            "PT",
            "T1S",
            "1S",
            "PT1",
            "PT1X",
            "P1S",
            "PT1D",
            "P1M",
            "P1Y",
            "-PT1S",
            "PT-1S",
            "PT1S1M",
            "PT1S2S",
            "PT1.5M3S",
            "PT.S",
            "PT1.S",
            "PT1.2.3S",
            "PTT1S",
            "PT99999999999999999999S",
            "P9999999999999999D",
            "PT٣S",
        ] {
            assert_eq!(duration_us(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_duration_written_in_parts_is_read_back(
            days in 0_u64..100_000, hours in 0_u64..24, minutes in 0_u64..60, micros in 0_u64..60_000_000,
        ) {
            let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
            let text = format!("P{days}DT{hours}H{minutes}M{seconds}.{fraction:06}S");
            let expected = ((days * 24 + hours) * 60 + minutes) * 60_000_000 + micros;
            prop_assert_eq!(duration_us(&text), Some(expected));
        }

        #[test]
        fn no_text_makes_a_duration_panic(text in "\\PC*|P[0-9DTHMSW.,]{0,40}") {
            let _ = duration_us(&text);
            let _ = moment(&json!(text));
        }
    }
}
