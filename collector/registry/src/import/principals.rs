//! `principals.csv`: which customer stands behind a principal, and from when to when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weighbridge_meter::{Principal, UtcMillis};

use super::{Faults, ImportErrors, Latest, Placed, Row, Shape, Values, end, read, two};
use crate::CustomerId;

/// From `valid_from` until `valid_to`, what this principal holds is held by this customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalMapping {
    /// Who holds, in the words of the allocator.
    pub principal: Principal,
    /// Who that is.
    pub customer: CustomerId,
    /// The first moment, a whole UTC hour: usage is kept by the hour, and no hour has two customers.
    pub valid_from: UtcMillis,
    /// The first moment after, a whole UTC hour later than `valid_from`; `None` while it lasts.
    pub valid_to: Option<UtcMillis>,
}

impl PrincipalMapping {
    /// Whether it holds at `moment`.
    pub fn holds_at(&self, moment: UtcMillis) -> bool {
        self.valid_from <= moment && self.valid_to.is_none_or(|end| moment < end)
    }
}

const SHAPE: Shape = Shape {
    columns: &["principal", "customer", "valid_from", "valid_to"],
    optional: 0,
    values: Values::Shown,
};

const HOUR: &str = "an RFC 3339 time at a whole UTC hour, for example 2026-01-31T08:00:00Z";
const HOUR_OR_BLANK: &str = "blank or an RFC 3339 time at a whole UTC hour, for example 2026-01-31T08:00:00Z";

/// Reads `principals.csv`: `principal,customer,valid_from,valid_to`.
///
/// A blank `valid_to` leaves the mapping open. Mappings of one principal must not overlap within the file.
///
/// # Errors
/// Every fault in the file; nothing of it is imported then.
pub fn parse_principals(file_name: &str, text: &[u8]) -> Result<Vec<PrincipalMapping>, ImportErrors> {
    parse_principals_for(file_name, text, |_| None)
}

/// The same against what is there: `wrong` says what a customer is instead of one that a principal can be mapped to.
///
/// # Errors
/// As [`parse_principals`].
pub fn parse_principals_for(
    file_name: &str,
    text: &[u8],
    wrong: impl Fn(&CustomerId) -> Option<&'static str>,
) -> Result<Vec<PrincipalMapping>, ImportErrors> {
    read(file_name, text, &SHAPE, parse, |rows, faults| {
        refuse_overlaps(rows, faults);
        for Placed { line, row } in rows {
            if let Some(wrong) = wrong(&row.customer) {
                faults.add(*line, Some("customer"), format!("customer {} {wrong}", row.customer));
            }
        }
    })
}

fn parse(row: &mut Row<'_>) -> Option<PrincipalMapping> {
    let principal = row.required(
        "principal",
        "scheme:scope/name, percent-encoded, with a scheme of slurm, k8s, vm, lease, uid, unit or container",
        // Under `?` stands what nobody could name, of whomever: it is no customer's.
        |text| text.parse().ok().filter(|principal: &Principal| !principal.is_unknown()),
    );
    let customer = row.required("customer", CustomerId::EXPECTED, |text| text.parse().ok());
    let valid_from = row.required("valid_from", HOUR, whole_hour);
    let valid_to = row.optional("valid_to", HOUR_OR_BLANK, whole_hour);
    if let (Some(from), Some(Some(to))) = (valid_from, valid_to)
        && to <= from
    {
        row.fault("valid_to", &to.to_string(), &format!("a time after valid_from, {from}"));
        return None;
    }
    Some(PrincipalMapping {
        principal: principal?,
        customer: customer?,
        valid_from: valid_from?,
        valid_to: valid_to?,
    })
}

fn whole_hour(text: &str) -> Option<UtcMillis> {
    text.parse().ok().filter(|time: &UtcMillis| time.hour() == *time)
}

fn refuse_overlaps(rows: &[Placed<PrincipalMapping>], faults: &mut Faults) {
    let mut in_order: Vec<_> = rows.iter().collect();
    in_order.sort_by_key(|placed| (placed.row.valid_from, placed.line));
    let mut latest: BTreeMap<&Principal, Latest> = BTreeMap::new();
    for Placed { line, row } in in_order {
        let latest = latest.entry(&row.principal).or_default();
        if let Some(other) = latest.still_at(row.valid_from) {
            let (first, second) = two(*line, other);
            let problem = format!(
                "lines {first} and {second} overlap, expected one mapping of \"{}\" at a time",
                row.principal
            );
            faults.add(second, Some("principal"), problem);
        }
        latest.add(end(row.valid_to), *line);
    }
}
