//! Dates as well as they are known.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A day, a month or a year: `2024-01-29`, `2025-12` or `2026`. Never made more exact than its source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartialDate {
    text: Box<str>,
    first: jiff::civil::Date,
}

impl PartialDate {
    /// Its first day.
    pub fn first_day(&self) -> jiff::civil::Date {
        self.first
    }
}

impl TryFrom<String> for PartialDate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let whole = match text.len() {
            4 => format!("{text}-01-01"),
            7 => format!("{text}-01"),
            _ => text.clone(),
        };
        let plain = matches!(text.len(), 4 | 7 | 10) && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        match whole.parse() {
            Ok(first) if plain => Ok(Self { text: text.into(), first }),
            _ => Err(format!(
                "{text:?} is not a date in quotes, such as \"2024-01-29\", \"2025-12\" or \"2026\""
            )),
        }
    }
}

impl From<PartialDate> for String {
    fn from(date: PartialDate) -> Self {
        date.text.into()
    }
}

impl fmt::Display for PartialDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_shown_no_more_exact_than_it_was_given() {
        for (text, first) in [("2024-01-29", "2024-01-29"), ("2025-12", "2025-12-01"), ("2026", "2026-01-01")]
        {
            let date = PartialDate::try_from(text.to_owned()).unwrap();
            assert_eq!((date.to_string(), date.first_day().to_string()), (text.into(), first.into()));
        }
    }

    #[test]
    fn what_is_not_a_date_is_refused_by_name() {
        for bad in
            ["", "26", "2025-13", "2025-02-30", "20240129", "2025-1", "soon", "2024-01-29T00:00", "+002"]
        {
            let error = PartialDate::try_from(bad.to_owned()).unwrap_err();
            assert!(error.starts_with(&format!("{bad:?} is not a date")), "{error}");
        }
    }
}
