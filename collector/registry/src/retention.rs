//! When who a party was is to be forgotten: so many years after its account was closed or last used, whichever came
//! later, and not while somebody needs it.
//!
//! Everything is an argument: how many years a law asks for is data, and so is the time. What becomes due is for a
//! person to order; destroying the key is [`crate::KeyStore::destroy`].
//!
//! Years are those of the calendar in UTC. Two years after a moment of 29 February, where there is none, is the first
//! moment of 1 March. Of the two days that may be meant it is the later: records are to be kept *for* the years, and one
//! erased during 28 February would be gone before they are over, while one kept a day longer breaks nothing. It is the
//! first moment, so that what happened later is never due earlier.

use jiff::{
    Timestamp,
    civil::{Date, Time},
    tz::TimeZone,
};
use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;

use crate::party::{PartyId, Standing};

/// Something for which an identity must not be erased: a suit, an inquiry, a request of an authority.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Whose identity.
    pub party: PartyId,
    /// Why, in words.
    pub reason: String,
    /// Since when.
    pub set_at: UtcMillis,
    /// Who set it.
    pub set_by: String,
    /// When it was lifted; `None` while it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted_at: Option<UtcMillis>,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A reason may name somebody.
        f.debug_struct("Hold")
            .field("party", &self.party)
            .field("lifted_at", &self.lifted_at)
            .finish_non_exhaustive()
    }
}

impl Hold {
    /// Whether it stands at `moment`. One that was lifted before it was set never stood.
    pub fn stands(&self, moment: UtcMillis) -> bool {
        self.set_at <= moment && self.lifted_at.is_none_or(|lifted| moment < lifted)
    }
}

/// When the identity of a party is due for erasure, as things stand at `now`: `None` while its account is open, a hold
/// stands, or the date is beyond any calendar. A date that is past means: now.
///
/// Of `holds` those of this party count. A hold that was lifted moves nothing: what became due while it stood is due
/// when it is lifted.
///
/// `behind` are the customers that it stands behind, or did when they ended: its identity is a part of theirs, so it
/// follows the last of them, whether it has an account of its own or not, and what holds one of them holds it. Who has
/// no account and is told to stand behind nobody is kept: there is no date to count from.
pub fn due(
    party: &PartyId,
    standing: &Standing,
    behind: &[Behind<'_>],
    holds: &[Hold],
    years: u16,
    now: UtcMillis,
) -> Option<UtcMillis> {
    let own = Behind { customer: party, standing };
    let accounts = behind.iter().chain((!standing.no_account).then_some(&own));
    let ids = behind.iter().map(|one| one.customer).chain([party]).collect::<Vec<_>>();
    if holds.iter().any(|hold| ids.contains(&&hold.party) && hold.stands(now)) {
        return None;
    }
    let mut last = None;
    for one in accounts {
        last = last.max(Some(ended(one.standing)?));
    }
    // Seen to use the service, though it has no account.
    let last = last?.max(standing.last_access.unwrap_or(UtcMillis(i64::MIN)));
    plus_years(last, years)
}

/// A customer behind whom somebody stands.
#[derive(Clone, Copy, Debug)]
pub struct Behind<'a> {
    /// Which.
    pub customer: &'a PartyId,
    /// How it stands.
    pub standing: &'a Standing,
}

/// The last that happened to an account; `None` while it is open.
fn ended(standing: &Standing) -> Option<UtcMillis> {
    // An account may be used after it was closed, by somebody whom it still lets in: that moves the date.
    standing.closed.map(|closed| closed.max(standing.last_access.unwrap_or(closed)))
}

/// The same moment of the same day so many years later; see the module for 29 February. `None` beyond the calendar.
fn plus_years(from: UtcMillis, years: u16) -> Option<UtcMillis> {
    let from = Timestamp::from_millisecond(from.0).ok()?.to_zoned(TimeZone::UTC).datetime();
    let year = from.year().checked_add(i16::try_from(years).ok()?)?;
    let due = match Date::new(year, from.month(), from.day()) {
        Ok(day) => day.to_datetime(from.time()),
        // A year of the calendar, and no such day in it.
        Err(_) => Date::new(year, 3, 1).ok()?.to_datetime(Time::midnight()),
    };
    let due = due.to_zoned(TimeZone::UTC).ok()?;
    Some(UtcMillis(due.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> PartyId {
        text.parse().expect("an id")
    }

    fn at(text: &str) -> UtcMillis {
        let text = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00Z") };
        text.parse().expect("a time")
    }

    fn account(closed: Option<&str>, last_access: Option<&str>) -> Standing {
        Standing { closed: closed.map(at), last_access: last_access.map(at), ..Standing::default() }
    }

    fn hold(party: &str, set: &str, lifted: Option<&str>) -> Hold {
        Hold {
            party: id(party),
            reason: "a suit".into(),
            set_at: at(set),
            set_by: "counsel".into(),
            lifted_at: lifted.map(at),
        }
    }

    /// Of A-1, after two years, as seen on the first day of 2030.
    fn of(standing: &Standing, behind: &[Behind<'_>], holds: &[Hold]) -> Option<String> {
        due(&id("A-1"), standing, behind, holds, 2, at("2030-01-01")).map(|due| due.to_string())
    }

    #[test]
    fn an_open_account_is_never_due_however_long_it_was_not_used() {
        assert_eq!(of(&account(None, Some("1990-01-01")), &[], &[]), None);
        assert_eq!(of(&account(None, None), &[], &[]), None);
    }

    #[test]
    fn years_count_from_closing_or_from_the_last_access_if_that_was_later() {
        for (last_access, expected) in [
            (None, "2028-05-12T00:00:00Z"),
            (Some("2026-01-01"), "2028-05-12T00:00:00Z"),
            (Some("2026-05-12T00:00:00.001Z"), "2028-05-12T00:00:00.001Z"),
            (Some("2027-03-04T05:06:07Z"), "2029-03-04T05:06:07Z"),
        ] {
            let standing = account(Some("2026-05-12"), last_access);
            assert_eq!(of(&standing, &[], &[]).as_deref(), Some(expected), "{last_access:?}");
        }
    }

    #[test]
    fn a_leap_day_counts_to_the_next_one_or_else_to_the_first_of_march() {
        for (closed, years, expected) in [
            ("2024-02-29T12:00:00Z", 2, "2026-03-01T00:00:00Z"),
            ("2024-02-29T12:00:00Z", 4, "2028-02-29T12:00:00Z"),
            ("2096-02-29T00:00:00Z", 4, "2100-03-01T00:00:00Z"),
            ("2024-02-28T23:59:59.999Z", 2, "2026-02-28T23:59:59.999Z"),
            ("2024-03-01T00:00:00Z", 2, "2026-03-01T00:00:00Z"),
            ("2023-02-28T00:00:00Z", 1, "2024-02-28T00:00:00Z"),
            ("2023-12-31T23:59:59.999Z", 1, "2024-12-31T23:59:59.999Z"),
            ("2026-05-12T00:00:00Z", 0, "2026-05-12T00:00:00Z"),
        ] {
            let standing = account(Some(closed), None);
            let due = due(&id("A-1"), &standing, &[], &[], years, at("2026-06-01"));
            assert_eq!(due, Some(at(expected)), "{closed} and {years} years");
        }
    }

    #[test]
    fn a_hold_keeps_while_it_stands_and_moves_nothing_when_it_is_lifted() {
        let closed = account(Some("2026-05-12"), None);
        let due_then = Some("2028-05-12T00:00:00Z".to_owned());
        assert_eq!(of(&closed, &[], &[hold("A-1", "2027-01-01", None)]), None);
        assert_eq!(of(&closed, &[], &[hold("A-1", "2027-01-01", Some("2029-12-31"))]), due_then);
        // At the moment itself it stands no more, or already.
        assert_eq!(of(&closed, &[], &[hold("A-1", "2027-01-01", Some("2030-01-01"))]), due_then);
        assert_eq!(of(&closed, &[], &[hold("A-1", "2030-01-01", None)]), None);
        assert_eq!(of(&closed, &[], &[hold("A-1", "2030-01-02", None)]), due_then, "not yet set");
        assert_eq!(of(&closed, &[], &[hold("A-2", "2027-01-01", None)]), due_then, "of somebody else");
        let two = [hold("A-1", "2027-01-01", Some("2028-01-01")), hold("A-1", "2028-06-01", None)];
        assert_eq!(of(&closed, &[], &two), None, "of two, one stands");
    }

    #[test]
    fn who_has_no_account_follows_the_last_of_the_customers_it_stands_behind() {
        let owner = Standing { no_account: true, ..Standing::default() };
        let (b, c) = (id("B"), id("C"));
        let early = account(Some("2026-05-12"), None);
        let late = account(Some("2026-05-12"), Some("2027-01-01"));
        let open = account(None, None);
        let behind = |customer, standing| Behind { customer, standing };
        let both = [behind(&b, &early), behind(&c, &late)];
        assert_eq!(of(&owner, &both, &[]).as_deref(), Some("2029-01-01T00:00:00Z"));
        assert_eq!(of(&owner, &[behind(&b, &early), behind(&c, &open)], &[]), None);
        assert_eq!(of(&owner, &[], &[]), None, "there is no date to count from");
        assert_eq!(of(&owner, &both, &[hold("C", "2027-01-01", None)]), None, "held as a part of C");
        let used = Standing { last_access: Some(at("2027-06-01")), ..owner };
        assert_eq!(of(&used, &both, &[]).as_deref(), Some("2029-06-01T00:00:00Z"));
    }

    #[test]
    fn a_customer_that_owns_another_is_kept_for_as_long_as_that_one() {
        let (own, b) = (account(Some("2020-01-01"), None), id("B"));
        let (open, closed) = (account(None, None), account(Some("2027-01-01"), None));
        assert_eq!(of(&own, &[Behind { customer: &b, standing: &open }], &[]), None);
        let due = of(&own, &[Behind { customer: &b, standing: &closed }], &[]);
        assert_eq!(due.as_deref(), Some("2029-01-01T00:00:00Z"));
    }

    #[test]
    fn a_hold_is_written_and_read_and_its_reason_stands_in_no_debug_text() {
        let one = hold("A-1", "2027-01-01", None);
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Hold>(&json).unwrap(), one);
        assert!(!format!("{one:?}").contains("suit"));
    }

    proptest! {
        #[test]
        fn it_is_never_due_before_whole_years_have_passed(
            closed in 0_i64..4_000_000_000_000, access in 0_i64..4_000_000_000_000, years in 0_u16..50,
        ) {
            let standing = Standing {
                closed: Some(UtcMillis(closed)), last_access: Some(UtcMillis(access)), ..Standing::default()
            };
            let due = due(&id("A-1"), &standing, &[], &[], years, UtcMillis(0)).unwrap();
            let days = due.since(UtcMillis(closed.max(access))) / UtcMillis::DAY;
            let years = i64::from(years);
            prop_assert!((years * 365..=years * 366).contains(&days), "{} days", days);
        }

        #[test]
        fn what_happens_later_is_never_due_earlier(
            earlier in 0_i64..4_000_000_000_000, later in 0_i64..100_000_000_000, years in 0_u16..50,
        ) {
            let due = |at| plus_years(UtcMillis(at), years);
            prop_assert!(due(earlier) <= due(earlier + later));
        }

        #[test]
        fn no_date_makes_it_panic(closed: i64, access: Option<i64>, years: u16, now: i64) {
            let standing = Standing {
                closed: Some(UtcMillis(closed)), last_access: access.map(UtcMillis), ..Standing::default()
            };
            due(&id("A-1"), &standing, &[], &[], years, UtcMillis(now));
        }
    }
}
