//! Amounts of computation, and doubt about them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Arithmetic operations executed, in whole teraoperations (1e12): a count, never a rate.
///
/// Dense, multiply-add = 2, all precisions alike. At most 2^63-1, so that every store can hold it.
/// As JSON a decimal string: readers that parse numbers as doubles would round it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operations(u64);

/// More operations than a record can hold (9.2e30).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than 2^63-1 teraoperations")]
pub struct TooMany;

impl Operations {
    /// Nothing ran, and we looked.
    pub const ZERO: Self = Self(0);
    /// The most that a record can hold.
    pub const MAX: Self = Self(i64::MAX as u64);
    /// Operations in one unit.
    pub const UNIT: u128 = 1_000_000_000_000;

    /// From whole teraoperations.
    pub fn from_tera(tera: u64) -> Result<Self, TooMany> {
        if tera <= Self::MAX.0 { Ok(Self(tera)) } else { Err(TooMany) }
    }

    /// In whole teraoperations.
    pub fn tera(self) -> u64 {
        self.0
    }

    /// As stored in SQL.
    pub fn tera_i64(self) -> i64 {
        i64::try_from(self.0).expect("the constructor keeps it below 2^63")
    }

    /// `None` on overflow: an account that wraps is worse than one that stops.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(|tera| Self::from_tera(tera).ok())
    }

    /// Sums that reach the end of the scale stay there: at 9.2e30 every line has long been crossed.
    pub fn saturating_add(self, other: Self) -> Self {
        self.checked_add(other).unwrap_or(Self::MAX)
    }

    /// The difference, or zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self x numerator / denominator`, rounded to nearest; the end of the scale where it does not fit.
    /// A denominator of zero gives zero: no time passed, so nothing is added.
    pub fn scaled(self, numerator: u128, denominator: u128) -> Self {
        if denominator == 0 {
            return Self::ZERO;
        }
        let product = u128::from(self.0).saturating_mul(numerator);
        let tera = product.saturating_add(denominator / 2) / denominator;
        u64::try_from(tera).ok().and_then(|tera| Self::from_tera(tera).ok()).unwrap_or(Self::MAX)
    }
}

/// For people: `3.80e25 operations` has no place in records.
impl fmt::Display for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0");
        }
        let mut exponent = self.0.ilog10();
        let power = 10_u128.pow(exponent);
        // Two decimals, rounded half up; 9.999 becomes 1.00e+1.
        let mut hundredths = (u128::from(self.0) * 100 + power / 2) / power;
        if hundredths >= 1000 {
            hundredths = 100;
            exponent += 1;
        }
        write!(f, "{}.{:02}e{}", hundredths / 100, hundredths % 100, exponent + 12)
    }
}

impl FromStr for Operations {
    type Err = String;

    /// From a decimal string of whole teraoperations.
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<u64>()
            .ok()
            .and_then(|tera| Self::from_tera(tera).ok())
            .ok_or_else(|| format!("{text:?} is not a whole number of teraoperations from 0 to 2^63-1"))
    }
}

impl Serialize for Operations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Operations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The values given to [`Interval::new`] or [`Calibrated::new`] were not in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an interval needs low <= best <= high")]
pub struct OutOfOrder;

/// A bounded estimate, with `low <= best <= high`: physical, it cannot be outside, given what was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Interval<T> {
    low: T,
    best: T,
    high: T,
}

impl<T: PartialOrd + Copy> Interval<T> {
    /// The only way in, so the order holds everywhere else.
    pub fn new(low: T, best: T, high: T) -> Result<Self, OutOfOrder> {
        if low <= best && best <= high { Ok(Self { low, best, high }) } else { Err(OutOfOrder) }
    }

    /// No doubt at all.
    pub fn exact(value: T) -> Self {
        Self { low: value, best: value, high: value }
    }

    /// At least this much.
    pub fn low(&self) -> T {
        self.low
    }

    /// The most plausible single value.
    pub fn best(&self) -> T {
        self.best
    }

    /// At most this much.
    pub fn high(&self) -> T {
        self.high
    }
}

impl Interval<Operations> {
    /// Bound by bound: errors of one method are shared, so they do not average out.
    pub fn saturating_add(self, other: Self) -> Self {
        Self {
            low: self.low.saturating_add(other.low),
            best: self.best.saturating_add(other.best),
            high: self.high.saturating_add(other.high),
        }
    }
}

/// A narrower interval than the bound, 5 to 95 % by data of the past. Never shown as a bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Calibrated {
    low: Operations,
    high: Operations,
}

impl Calibrated {
    /// `low` is the 5 % end, `high` the 95 % end.
    pub fn new(low: Operations, high: Operations) -> Result<Self, OutOfOrder> {
        if low <= high { Ok(Self { low, high }) } else { Err(OutOfOrder) }
    }

    /// 95 % of comparable cases did at least this much.
    pub fn low(&self) -> Operations {
        self.low
    }

    /// 95 % of comparable cases did at most this much.
    pub fn high(&self) -> Operations {
        self.high
    }

    /// End by end, as for bounds.
    pub fn saturating_add(self, other: Self) -> Self {
        Self { low: self.low.saturating_add(other.low), high: self.high.saturating_add(other.high) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_three_digits_and_an_exponent() {
        let shown: Vec<String> = [0, 1, 999, 9_999, 59_364, 100_000_000_000_000]
            .map(|tera| Operations::from_tera(tera).expect("small").to_string())
            .into();
        assert_eq!(shown, ["0", "1.00e12", "9.99e14", "1.00e16", "5.94e16", "1.00e26"]);
    }

    #[test]
    fn records_carry_a_decimal_string_and_refuse_anything_else() {
        assert_eq!(Operations::MAX.tera_i64(), i64::MAX);
        assert!("9223372036854775808".parse::<Operations>().is_err());
        assert!("1e14".parse::<Operations>().is_err());
        assert_eq!("42".parse::<Operations>(), Operations::from_tera(42).map_err(|e| e.to_string()));
    }

    #[test]
    fn an_interval_out_of_order_cannot_be_made() {
        assert_eq!(Interval::new(2, 1, 3), Err(OutOfOrder));
        assert!(Interval::new(1, 2, 3).is_ok());
    }
}
