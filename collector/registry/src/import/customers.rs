//! `customers.csv`: who the customers are. No message about this file repeats a value from it.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{Faults, ImportErrors, Placed, Row, Shape, Values, read};
use crate::{Access, ControlGroupId, CustomerId, CustomerKind, Identity, IdentityField, UsPerson};

/// A customer as handed over: the clear part, and the identity that has yet to be sealed.
/// It cannot be serialised; what is stored is a [`crate::SealedCustomer`].
#[derive(Debug)]
pub struct CustomerRow {
    /// The customer.
    pub customer: CustomerId,
    /// Person, entity or reseller.
    pub kind: CustomerKind,
    /// What has been established about it.
    pub us_person: UsPerson,
    /// With whom it is joined by ownership or control.
    pub control_group: Option<ControlGroupId>,
    /// Everything that says who it is.
    pub identity: Identity,
}

const SHAPE: Shape = Shape {
    columns: &[
        "customer",
        "kind",
        "us_person",
        "control_group",
        "name",
        "address",
        "locations",
        "payment_means",
        "payment_source",
        "email",
        "telephone",
        "access",
    ],
    optional: 0,
    values: Values::Withheld,
};

/// Bytes of one value: years of accesses fit, a file pasted into a cell does not.
const LONGEST: usize = 256 * 1024;

/// Reads `customers.csv`:
/// `customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,email,telephone,access`.
///
/// `customer`, `kind`, `us_person` and `name` must be there. Anything else may be blank and stays absent, to be
/// reported as a blank later. A customer stands in the file once.
///
/// # Errors
/// Every fault in the file, by line and column but without the values; nothing of it is imported then.
pub fn parse_customers(file_name: &str, text: &[u8]) -> Result<Vec<CustomerRow>, ImportErrors> {
    read(file_name, text, &SHAPE, parse, refuse_twice)
}

fn parse(row: &mut Row<'_>) -> Option<CustomerRow> {
    let customer = row.required("customer", CustomerId::EXPECTED, |text| text.parse().ok());
    let kind = row.required("kind", CustomerKind::EXPECTED, CustomerKind::from_name);
    let us_person = row.required("us_person", UsPerson::EXPECTED, UsPerson::from_name);
    let control_group =
        row.optional("control_group", "blank or a control group number without blanks", |text| {
            text.parse().ok()
        });
    let mut identity = Identity::default();
    let mut whole = true;
    for field in IdentityField::ALL {
        let column = field.as_str();
        let expected = expected(field);
        let value = if field == IdentityField::Name {
            row.required(column, expected, |text| checked(field, text)).map(Some)
        } else {
            row.optional(column, expected, |text| checked(field, text))
        };
        match value {
            Some(Some(value)) => identity.set(field, value),
            Some(None) => {}
            None => whole = false,
        }
    }
    let row = CustomerRow {
        customer: customer?,
        kind: kind?,
        us_person: us_person?,
        control_group: control_group?,
        identity,
    };
    whole.then_some(row)
}

fn expected(field: IdentityField) -> &'static str {
    match field {
        IdentityField::Name => "a name of at most 256 KiB",
        IdentityField::Address | IdentityField::PaymentMeans | IdentityField::PaymentSource => {
            "blank or text of at most 256 KiB"
        }
        IdentityField::Locations => "blank or places separated by ;, none of them blank",
        IdentityField::Email => "blank or an email address, with an @ and without blanks",
        IdentityField::Telephone => "blank or a telephone number, with digits",
        IdentityField::Access => {
            "blank or entries separated by ;, each an IP address, @ and an RFC 3339 time, \
             for example 192.0.2.7@2026-01-31T08:00:00Z"
        }
    }
}

/// Checks only what shows that a value stands in the wrong column, or cannot be reported:
/// what the customer has said is kept as it was said.
fn checked(field: IdentityField, text: &str) -> Option<Zeroizing<String>> {
    if text.len() > LONGEST {
        return None;
    }
    match field {
        IdentityField::Name
        | IdentityField::Address
        | IdentityField::PaymentMeans
        | IdentityField::PaymentSource => Some(Zeroizing::new(text.into())),
        IdentityField::Email => {
            (text.contains('@') && !text.contains(char::is_whitespace)).then(|| Zeroizing::new(text.into()))
        }
        IdentityField::Telephone => {
            text.contains(|character: char| character.is_ascii_digit()).then(|| Zeroizing::new(text.into()))
        }
        IdentityField::Locations => {
            let places: Vec<&str> = text.split(';').map(str::trim).collect();
            (!places.contains(&"")).then(|| Zeroizing::new(places.join(";")))
        }
        IdentityField::Access => {
            let list = Access::list(text).ok()?;
            let list: Vec<_> = list.iter().map(|access| Zeroizing::new(access.to_string())).collect();
            let list: Vec<&str> = list.iter().map(|access| access.as_str()).collect();
            Some(Zeroizing::new(list.join(";")))
        }
    }
}

fn refuse_twice(rows: &[Placed<CustomerRow>], faults: &mut Faults) {
    let mut first: BTreeMap<&CustomerId, u64> = BTreeMap::new();
    for Placed { line, row } in rows {
        let before = *first.entry(&row.customer).or_insert(*line);
        if before != *line {
            faults.add(
                *line,
                Some("customer"),
                format!("the same customer as on line {before}, expected each once"),
            );
        }
    }
}
