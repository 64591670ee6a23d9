//! Deadlines in calendar days, in the time zone that a pack names.
//!
//! A day is a calendar day: fifteen days from 07:00 end at 07:00 fifteen dates later, also where the clocks were
//! changed in between. Time zones come from a table compiled in, so that a machine without one computes the same.

use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;

use crate::pack::{Clock, Confidence};

/// A named time zone of the IANA database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(jiff::tz::TimeZone);

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        jiff::tz::TimeZoneDatabase::bundled().get(&name).map(Self).map_err(|_| {
            format!("{name:?} is not a time zone of the IANA database, for example \"America/New_York\"")
        })
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name().to_owned()
    }
}

impl Zone {
    /// Its name, such as `America/New_York`.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The same local time `days` calendar days later; the later moment where that local time is skipped,
    /// the earlier one where it comes twice. `None` beyond the calendar (year 9999).
    pub fn days_after(&self, start: UtcMillis, days: u16) -> Option<UtcMillis> {
        let start = jiff::Timestamp::from_millisecond(start.0).ok()?.to_zoned(self.0.clone());
        let due = start.checked_add(jiff::Span::new().days(i64::from(days))).ok()?;
        Some(UtcMillis(due.timestamp().as_millisecond()))
    }

    /// The moment as people in this zone read it: `2026-03-12 07:00 America/New_York`.
    pub fn local(&self, moment: UtcMillis) -> String {
        match jiff::Timestamp::from_millisecond(moment.0) {
            Ok(timestamp) => {
                let local = timestamp.to_zoned(self.0.clone());
                format!("{} {}", local.strftime("%Y-%m-%d %H:%M"), self.name())
            }
            Err(_) => moment.to_string(),
        }
    }
}

/// What starts a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockStart {
    /// A finding was raised: from then on we knew.
    Raised,
    /// The authority asked a further question.
    FollowUpRequested,
    /// What was filed was found wrong or out of date.
    ErrorFound,
}

/// One running or stopped clock of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReading {
    /// Which clock of the pack.
    pub clock: String,
    /// What it counts, for people.
    pub label: String,
    /// What started it.
    pub starts: ClockStart,
    /// When that was.
    pub started_at: UtcMillis,
    /// When it runs out; the end of the scale if that lies beyond the calendar.
    pub due: UtcMillis,
    /// `due` as local time of the pack's zone.
    pub due_local: String,
    /// When the work it waits for was done or decided against; `None` while it runs.
    pub stopped_at: Option<UtcMillis>,
    /// Milliseconds left (until it stopped, or now); negative when late.
    pub remaining_ms: i64,
    /// Whether it ran out first.
    pub overdue: bool,
    /// Where the length comes from.
    pub citation: String,
    /// How sure the length is.
    pub confidence: Confidence,
}

impl ClockReading {
    /// Reads `clock`, started at `started_at`, as of `now`.
    pub fn read(clock: &Clock, started_at: UtcMillis, stopped_at: Option<UtcMillis>, now: UtcMillis) -> Self {
        let due = clock.time_zone.days_after(started_at, clock.days).unwrap_or(UtcMillis(i64::MAX));
        let remaining_ms = due.since(stopped_at.unwrap_or(now));
        Self {
            clock: clock.id.clone(),
            label: clock.label.clone(),
            starts: clock.starts,
            started_at,
            due,
            due_local: clock.time_zone.local(due),
            stopped_at,
            remaining_ms,
            overdue: remaining_ms < 0,
            citation: clock.citation.clone(),
            confidence: clock.confidence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::try_from(name.to_owned()).unwrap()
    }

    fn at(text: &str) -> UtcMillis {
        text.parse().unwrap()
    }

    #[test]
    fn fifteen_days_end_at_the_same_local_time_when_the_clocks_change() {
        let washington = zone("America/New_York");
        // The clocks go forward on 8 March and back on 1 November 2026.
        assert_eq!(washington.days_after(at("2026-02-25T12:00:00Z"), 15), Some(at("2026-03-12T11:00:00Z")));
        assert_eq!(washington.days_after(at("2026-10-20T11:00:00Z"), 15), Some(at("2026-11-04T12:00:00Z")));
        assert_eq!(washington.local(at("2026-03-12T11:00:00Z")), "2026-03-12 07:00 America/New_York");
    }

    #[test]
    fn a_deadline_inside_the_skipped_hour_moves_to_after_it() {
        // 02:30 local on 21 February; 02:30 on 8 March does not exist.
        let due = zone("America/New_York").days_after(at("2026-02-21T07:30:00Z"), 15);
        assert_eq!(due, Some(at("2026-03-08T07:30:00Z")));
    }

    /// Every deadline here is worked out by hand, from the calendar and from the dates on which the clocks change:
    /// New York on 2026-03-08 and 2026-11-01 at 02:00, Brussels on 2026-03-29 at 02:00 and on 2026-10-25 at 03:00.
    #[test]
    fn deadlines_at_midnight_on_leap_days_and_when_the_clocks_change() {
        for (name, started, days, due, local) in [
            // From midnight to midnight; the day of the start is none of the days.
            ("America/New_York", "2026-06-01T04:00:00Z", 15, "2026-06-16T04:00:00Z", "2026-06-16 00:00"),
            ("America/New_York", "2026-06-02T03:59:00Z", 15, "2026-06-17T03:59:00Z", "2026-06-16 23:59"),
            // Another date there than here.
            ("Europe/Brussels", "2026-06-30T22:30:00Z", 1, "2026-07-01T22:30:00Z", "2026-07-02 00:30"),
            // Over a leap day, onto it, from it, and where there is none.
            ("America/New_York", "2028-02-20T15:00:00Z", 15, "2028-03-06T15:00:00Z", "2028-03-06 10:00"),
            ("America/New_York", "2028-02-14T15:00:00Z", 15, "2028-02-29T15:00:00Z", "2028-02-29 10:00"),
            ("America/New_York", "2028-02-29T15:00:00Z", 365, "2029-02-28T15:00:00Z", "2029-02-28 10:00"),
            ("America/New_York", "2027-02-14T15:00:00Z", 15, "2027-03-01T15:00:00Z", "2027-03-01 10:00"),
            ("UTC", "2100-02-28T00:00:00Z", 1, "2100-03-01T00:00:00Z", "2100-03-01 00:00"),
            // A day of 23 hours and one of 25.
            ("America/New_York", "2026-03-07T17:00:00Z", 1, "2026-03-08T16:00:00Z", "2026-03-08 12:00"),
            ("America/New_York", "2026-10-31T16:00:00Z", 1, "2026-11-01T17:00:00Z", "2026-11-01 12:00"),
            ("Europe/Brussels", "2026-03-28T11:00:00Z", 1, "2026-03-29T10:00:00Z", "2026-03-29 12:00"),
            ("Europe/Brussels", "2026-10-24T10:00:00Z", 1, "2026-10-25T11:00:00Z", "2026-10-25 12:00"),
            // 02:30 does not come: half past three. It comes twice: the first of both.
            ("Europe/Brussels", "2026-03-14T01:30:00Z", 15, "2026-03-29T01:30:00Z", "2026-03-29 03:30"),
            ("Europe/Brussels", "2026-10-10T00:30:00Z", 15, "2026-10-25T00:30:00Z", "2026-10-25 02:30"),
            ("America/New_York", "2026-10-17T05:30:00Z", 15, "2026-11-01T05:30:00Z", "2026-11-01 01:30"),
            // A day that begins at one o'clock, where midnight is what does not come.
            ("America/Asuncion", "2023-09-16T04:00:00Z", 15, "2023-10-01T04:00:00Z", "2023-10-01 01:00"),
            // Samoa had no 30 December 2011.
            ("Pacific/Apia", "2011-12-29T22:00:00Z", 1, "2011-12-30T22:00:00Z", "2011-12-31 12:00"),
        ] {
            let zone = zone(name);
            let found = zone.days_after(at(started), days);
            assert_eq!(found, Some(at(due)), "{days} days from {started} in {name}");
            assert_eq!(zone.local(at(due)), format!("{local} {name}"));
        }
    }

    #[test]
    fn a_zone_that_does_not_exist_is_refused_by_name() {
        let error = Zone::try_from("America/Washington".to_owned()).unwrap_err();
        assert!(error.contains("America/Washington"), "{error}");
    }

    #[test]
    fn a_start_beyond_the_calendar_has_no_deadline() {
        assert_eq!(zone("UTC").days_after(UtcMillis(i64::MAX), 15), None);
    }
}
