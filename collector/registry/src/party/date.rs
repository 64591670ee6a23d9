//! Dates of which only year, or year and month, may be known.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use weighbridge_meter::UtcMillis;
use zeroize::DefaultIsZeroes;

/// A day of the calendar, or a month or a year of which more is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartialDate {
    year: u16,
    month: Option<u8>,
    day: Option<u8>,
}

/// Text that is no such date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {}", PartialDate::EXPECTED)]
pub struct BadDate;

impl PartialDate {
    /// What the text form must be, in words for an error message.
    pub const EXPECTED: &'static str = "a date as 1970-05-12, 1970-05 or 1970";

    /// The year, from 1 to 9999.
    pub fn year(&self) -> u16 {
        self.year
    }

    /// Whether a day is known.
    pub fn is_whole(&self) -> bool {
        self.day.is_some()
    }

    /// The first moment of it, in UTC; `None` outside the calendar.
    pub fn start(&self) -> Option<UtcMillis> {
        let (month, day) = (self.month.unwrap_or(1), self.day.unwrap_or(1));
        format!("{:04}-{month:02}-{day:02}T00:00:00Z", self.year).parse().ok()
    }

    /// The first moment after it, in UTC; `None` at the end of the calendar.
    pub fn end(&self) -> Option<UtcMillis> {
        let (mut year, mut month, mut day) = (self.year, self.month.unwrap_or(12), self.day.unwrap_or(31));
        day = day.min(days_in(year, month)) + 1;
        if day > days_in(year, month) {
            (day, month) = (1, month + 1);
        }
        if month > 12 {
            (month, year) = (1, year + 1);
        }
        format!("{year:04}-{month:02}-{day:02}T00:00:00Z").parse().ok()
    }
}

fn days_in(year: u16, month: u8) -> u8 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl FromStr for PartialDate {
    type Err = BadDate;

    fn from_str(text: &str) -> Result<Self, BadDate> {
        let mut parts = text.split('-');
        let mut number = |digits: usize| match parts.next() {
            None => Ok(None),
            Some(part) if part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()) => {
                part.parse::<u16>().map(Some).map_err(|_| BadDate)
            }
            Some(_) => Err(BadDate),
        };
        let (year, month, day) = (number(4)?.ok_or(BadDate)?, number(2)?, number(2)?);
        if year == 0 || parts.next().is_some() {
            return Err(BadDate);
        }
        let within = |value: Option<u16>, most: u8| match value {
            None => Ok(None),
            Some(value) => {
                u8::try_from(value).ok().filter(|value| (1..=most).contains(value)).map(Some).ok_or(BadDate)
            }
        };
        let month = within(month, 12)?;
        let day = within(day, month.map_or(31, |month| days_in(year, month)))?;
        Ok(Self { year, month, day })
    }
}

impl fmt::Display for PartialDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.year)?;
        [self.month, self.day].into_iter().flatten().try_for_each(|part| write!(f, "-{part:02}"))
    }
}

impl Serialize for PartialDate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PartialDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl DefaultIsZeroes for PartialDate {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_back_as_written() {
        for good in ["1970", "1970-05", "2024-02-29", "0001-01-01", "9999-12-31"] {
            assert_eq!(good.parse::<PartialDate>().unwrap().to_string(), good);
        }
        for bad in
            ["", "0000", "70", "1970-13", "1970-00", "2023-02-29", "1900-02-29", "1970-05-12-01", "+970"]
        {
            assert!(bad.parse::<PartialDate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_date_starts_at_the_first_moment_of_it() {
        for (date, start) in [
            ("1970", "1970-01-01T00:00:00Z"),
            ("2024-02", "2024-02-01T00:00:00Z"),
            ("2024-02-29", "2024-02-29T00:00:00Z"),
        ] {
            assert_eq!(date.parse::<PartialDate>().unwrap().start(), Some(start.parse().unwrap()), "{date}");
        }
    }

    #[test]
    fn a_date_ends_where_the_next_begins() {
        for (date, end) in [
            ("1970", "1971-01-01T00:00:00Z"),
            ("2024-02", "2024-03-01T00:00:00Z"),
            ("2024-02-28", "2024-02-29T00:00:00Z"),
            ("2023-12-31", "2024-01-01T00:00:00Z"),
        ] {
            assert_eq!(date.parse::<PartialDate>().unwrap().end(), Some(end.parse().unwrap()), "{date}");
        }
    }
}
