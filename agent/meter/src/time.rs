//! Times and spans, in whole milliseconds.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment, in milliseconds since 1970-01-01T00:00Z. As text RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcMillis(pub i64);

impl UtcMillis {
    /// Milliseconds in a minute.
    pub const MINUTE: i64 = 60_000;
    /// Milliseconds in an hour.
    pub const HOUR: i64 = 3_600_000;
    /// Milliseconds in a day.
    pub const DAY: i64 = 86_400_000;

    /// The start of the UTC hour it lies in.
    pub fn hour(self) -> Self {
        Self(self.0.div_euclid(Self::HOUR) * Self::HOUR)
    }

    /// The next moment after `self` that is a whole multiple of `step` milliseconds since the epoch.
    pub fn next_multiple(self, step: i64) -> Self {
        Self((self.0.div_euclid(step) + 1) * step)
    }

    /// `millis` later (or earlier, if negative), stopping at the ends of the scale.
    pub fn plus(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Whole milliseconds from `earlier` to `self`, negative if it is later.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for UtcMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(timestamp) => timestamp.fmt(f),
            Err(_) => write!(f, "{} ms since 1970", self.0),
        }
    }
}

impl FromStr for UtcMillis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<jiff::Timestamp>()
            .map(|timestamp| Self(timestamp.as_millisecond()))
            .map_err(|_| format!("{text:?} is not an RFC 3339 time, for example 2026-01-31T08:00:00Z"))
    }
}

impl Serialize for UtcMillis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UtcMillis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A half-open span of time, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Span {
    start: UtcMillis,
    end: UtcMillis,
}

impl Span {
    /// `None` unless `start < end`.
    pub fn new(start: UtcMillis, end: UtcMillis) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// The first moment inside.
    pub fn start(&self) -> UtcMillis {
        self.start
    }

    /// The first moment after.
    pub fn end(&self) -> UtcMillis {
        self.end
    }

    /// Its length in milliseconds, at least 1.
    pub fn millis(&self) -> u64 {
        self.end.0.abs_diff(self.start.0)
    }

    /// What both share.
    pub fn overlap(&self, other: &Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Whether the moment is inside.
    pub fn contains(&self, moment: UtcMillis) -> bool {
        self.start <= moment && moment < self.end
    }

    /// Both parts, if `at` lies strictly inside.
    pub fn split(&self, at: UtcMillis) -> Option<(Self, Self)> {
        Some((Self::new(self.start, at)?, Self::new(at, self.end)?))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.start, self.end)
    }
}
