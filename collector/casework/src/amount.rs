//! The numbers that rules are written in, held exactly.
//!
//! A line in a law is written `1e26` or, as a third of another line, `1e25/3`. Neither passes through a float:
//! a total one teraoperation above a line is above it, and one at the line is at it.

use std::fmt;

use serde::{Deserialize, Serialize};
use weighbridge_meter::Operations;

/// The largest divisor that a threshold may be written with; enough for every fraction a law is likely to use.
const MAX_DIVISOR: u32 = 1000;
const NUMBER: &str =
    "a positive amount in whole operations such as \"1e26\", \"2.5e25\" or \"1e25/3\", at most 9.2e30";

/// `(whole operations, divisor)`; `None` for what is not such a number or does not fit.
fn parts(text: &str) -> Option<(u128, u32)> {
    let (value, divisor) = match text.split_once('/') {
        Some((value, divisor)) => (value, divisor.parse::<u32>().ok().filter(|_| digits(divisor))?),
        None => (text, 1),
    };
    if !(1..=MAX_DIVISOR).contains(&divisor) {
        return None;
    }
    let (mantissa, exponent) = match value.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<u32>().ok().filter(|_| digits(exponent))?),
        None => (value, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) if digits(fraction) => (whole, fraction),
        Some(_) => return None,
        None => (mantissa, ""),
    };
    if !digits(whole) {
        return None;
    }
    // A fraction longer than the exponent would leave parts of an operation.
    let shift = exponent.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    let figures: u128 = format!("{whole}{fraction}").parse().ok()?;
    let operations = figures.checked_mul(10_u128.checked_pow(shift)?)?;
    let most = u128::from(Operations::MAX.tera()) * Operations::UNIT * u128::from(divisor);
    (operations <= most).then_some((operations, divisor))
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A line that a total is compared with, exactly as its rule writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Threshold {
    text: Box<str>,
    operations: u128,
    divisor: u32,
}

impl Threshold {
    /// Whether `total` is beyond the line (or at it, where the comparator allows that).
    pub fn passed_by(&self, total: Operations, comparator: Comparator) -> bool {
        self.passed_by_tera(total.tera(), comparator)
    }

    /// The same for a rate: the line is then in operations per second.
    pub fn passed_by_rate(&self, rate: OpsPerSecond, comparator: Comparator) -> bool {
        self.passed_by_tera(rate.tera(), comparator)
    }

    fn passed_by_tera(&self, tera: u64, comparator: Comparator) -> bool {
        // At most 2^63 x 1e12 x 1000, a ten-thousandth of what fits.
        let total = u128::from(tera) * Operations::UNIT * u128::from(self.divisor);
        match comparator {
            Comparator::Gt => total > self.operations,
            Comparator::Ge => total >= self.operations,
        }
    }

    /// The line to the nearest whole teraoperation: for charts and gauges, never for a comparison.
    pub fn nearest(&self) -> Operations {
        let unit = Operations::UNIT * u128::from(self.divisor);
        u64::try_from((self.operations + unit / 2) / unit)
            .ok()
            .and_then(|tera| Operations::from_tera(tera).ok())
            .unwrap_or(Operations::MAX)
    }

    /// As the rule writes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Threshold {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match parts(&text) {
            Some((operations, divisor)) if operations > 0 => {
                Ok(Self { text: text.into(), operations, divisor })
            }
            _ => Err(format!("{text:?} is not {NUMBER}")),
        }
    }
}

impl From<Threshold> for String {
    fn from(threshold: Threshold) -> Self {
        threshold.text.into()
    }
}

/// An amount in a worked example: written like a threshold, but zero or a whole number of teraoperations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Amount(Operations);

impl Amount {
    /// As a total.
    pub fn operations(self) -> Operations {
        self.0
    }
}

impl TryFrom<String> for Amount {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parts(&text)
            .filter(|&(operations, divisor)| divisor == 1 && operations.is_multiple_of(Operations::UNIT))
            .and_then(|(operations, _)| u64::try_from(operations / Operations::UNIT).ok())
            .and_then(|tera| Operations::from_tera(tera).ok())
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "{text:?} is not \"0\" or a whole number of teraoperations such as \"1e26\" or \"1.5e25\""
                )
            })
    }
}

/// How a total is compared with a line. Laws differ, so no rule has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Comparator {
    /// Strictly greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// In words that a number can follow.
impl fmt::Display for Comparator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gt => "more than",
            Self::Ge => "at least",
        })
    }
}

/// A rate: dense operations per second, in whole teraoperations per second. As JSON a decimal string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpsPerSecond(Operations);

impl OpsPerSecond {
    /// From the operations of one second.
    pub fn from_operations_in_a_second(operations: Operations) -> Self {
        Self(operations)
    }

    /// In whole teraoperations per second.
    pub fn tera(self) -> u64 {
        self.0.tera()
    }
}

impl fmt::Display for OpsPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations per second", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(text: &str) -> Result<Threshold, String> {
        Threshold::try_from(text.to_owned())
    }

    fn tera(tera: u64) -> Operations {
        Operations::from_tera(tera).unwrap()
    }

    #[test]
    fn a_line_is_compared_to_the_last_teraoperation() {
        let line = threshold("1e26").unwrap();
        let at = tera(100_000_000_000_000);
        assert!(!line.passed_by(at, Comparator::Gt));
        assert!(line.passed_by(at, Comparator::Ge));
        assert!(line.passed_by(tera(at.tera() + 1), Comparator::Gt));
        assert!(!line.passed_by(tera(at.tera() - 1), Comparator::Ge));
    }

    #[test]
    fn a_third_of_a_line_is_not_rounded() {
        let third = threshold("1e25/3").unwrap();
        assert!(!third.passed_by(tera(3_333_333_333_333), Comparator::Ge));
        assert!(third.passed_by(tera(3_333_333_333_334), Comparator::Gt));
        assert_eq!(third.nearest(), tera(3_333_333_333_333));
        assert_eq!(threshold("2e25/3").unwrap().nearest(), tera(6_666_666_666_667));
    }

    #[test]
    fn one_number_has_many_spellings() {
        for same in ["1e26", "1.0e26", "10e25", "100000000000000000000000000", "3e26/3"] {
            assert_eq!(threshold(same).unwrap().nearest(), tera(100_000_000_000_000), "{same}");
        }
    }

    #[test]
    fn what_is_not_an_exact_positive_amount_is_refused_by_name() {
        for bad in [
            "",
            "0",
            "0e9",
            "-1e26",
            "+1e26",
            "1e+26",
            "1e-3",
            "1E26",
            " 1e26",
            "1e26 ",
            "1_000",
            ".5e3",
            "5.e3",
            "1.25e1",
            "1e26/0",
            "1e26/",
            "/3",
            "1e25/1001",
            "1e25/+3",
            "1e31",
            "1e99",
            "1e99999999999",
            "abc",
            "1e26/3/3",
            "١e26",
        ] {
            let error = threshold(bad).unwrap_err();
            assert!(error.starts_with(&format!("{bad:?} is not a positive amount")), "{error}");
        }
    }

    #[test]
    fn the_largest_record_can_still_be_compared() {
        let line = threshold("9e30").unwrap();
        assert!(line.passed_by(Operations::MAX, Comparator::Gt));
        assert!(threshold("9e33/1000").unwrap().passed_by(Operations::MAX, Comparator::Gt));
    }

    #[test]
    fn an_example_amount_is_whole_teraoperations() {
        assert_eq!(Amount::try_from("0".to_owned()).unwrap().operations(), Operations::ZERO);
        assert_eq!(Amount::try_from("1.5e13".to_owned()).unwrap().operations(), tera(15));
        assert!(Amount::try_from("5e11".to_owned()).is_err());
        assert!(Amount::try_from("3e12/3".to_owned()).is_err());
    }
}
