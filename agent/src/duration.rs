//! Durations and sizes as people write them: `"5s"`, `"512MiB"`.

/// Milliseconds of `"250ms"`, `"5s"`, `"10m"`, `"2h"` or `"7d"`: a whole number and one unit.
pub fn parse_ms(text: &str) -> Option<u64> {
    let unit = |unit: &str| match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    parse(text, unit)
}

/// Bytes of `"4096B"`, `"64KiB"`, `"512MiB"` or `"2GiB"`: a whole number and one unit.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let unit = |unit: &str| match unit {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    parse(text, unit)
}

fn parse(text: &str, unit: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, name) = text.split_at(digits);
    number.parse::<u64>().ok()?.checked_mul(unit(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_and_one_unit() {
        for (text, millis) in
            [("0s", 0), ("250ms", 250), ("5s", 5_000), ("10m", 600_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse_ms(text), Some(millis), "{text}");
        }
        for text in
            ["", "5", "s", "5 s", "-5s", "1.5s", "5S", "5sec", "99999999999999999999s", "99999999999999999d"]
        {
            assert_eq!(parse_ms(text), None, "{text}");
        }
    }

    #[test]
    fn a_size_names_its_unit_in_powers_of_1024() {
        assert_eq!(parse_bytes("512MiB"), Some(512 << 20));
        assert_eq!(parse_bytes("4096B"), Some(4096));
        assert_eq!(parse_bytes("512MB"), None, "ambiguous between 1000 and 1024");
    }
}
