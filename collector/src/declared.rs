//! What customers declare, as far as rules ask for it.
//!
//! Declarations are sealed under the key of who made them. They are opened here by the collector for itself, nobody
//! sees them, and only of customers of whom nothing else is left to ask: those that are not above a rule's line keep
//! theirs closed. Of who was erased nothing is known any more.

use std::collections::BTreeMap;

use weighbridge_casework::{Declaration as What, Subject, Unknown};
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    PartyId,
    statement::{Declaration, Kind, Statement, YesNo},
};

use crate::{
    app::App,
    view::{Owned, View},
};

impl App {
    /// What is declared of that which is `unknown` of a subject. Of several customers: so if any of them says so, not
    /// so if all of them say that.
    pub(crate) fn declared(
        &self,
        view: &View,
        subject: &Subject,
        owned: &Owned,
        unknown: &[Unknown],
    ) -> BTreeMap<What, bool> {
        let what = What::BiologicalSequenceData;
        // The others have no field in a declaration.
        if !unknown.contains(&Unknown::Declared(what)) {
            return BTreeMap::new();
        }
        let says = customers(view, subject, owned).into_iter().map(|customer| {
            let party: PartyId = customer.parse().ok()?;
            let kept = self.statements_about(&party);
            let kept = kept.iter().filter(|one| one.kind() == Kind::Declaration);
            let opened: Vec<Declaration> = kept
                .filter_map(|one| match self.opened(one) {
                    Ok(Statement::Declaration(one)) => Some(one),
                    // Erased, or its key is not there.
                    Ok(_) | Err(_) => None,
                })
                .collect();
            newest(&opened, view.as_of, |one| one.biological_sequence_data)
        });
        all(says).map(|so| (what, so)).into_iter().collect()
    }
}

/// The customers whose totals these are.
fn customers<'a>(view: &'a View, subject: &'a Subject, owned: &Owned) -> Vec<&'a str> {
    match subject {
        Subject::Customer(id) => vec![id],
        Subject::ControlGroup(name) => {
            let group = view.grouped.0.get(name);
            group.iter().flat_map(|(_, group)| &group.customers).map(PartyId::as_str).collect()
        }
        Subject::Run(_) => {
            let theirs = view.customers.iter().filter(|(_, one)| !one.attempts.is_disjoint(&owned.attempts));
            theirs.map(|(id, _)| id.as_str()).collect()
        }
        Subject::Principal(_) => Vec::new(),
    }
}

fn all(says: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let together = |one, other| match (one, other) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    };
    says.into_iter().reduce(together).flatten()
}

/// What the newest declarations in force say; `None` if none says it, or if those that may be the newest disagree.
fn newest(
    declarations: &[Declaration],
    as_of: UtcMillis,
    of: impl Fn(&Declaration) -> Option<YesNo>,
) -> Option<bool> {
    let in_force = |one: &&Declaration| {
        one.signed_on.start().is_some_and(|signed| signed <= as_of)
            && one.from.is_none_or(|from| from.start().is_some_and(|from| from <= as_of))
            && one.to.is_none_or(|to| to.end().is_none_or(|to| as_of < to))
    };
    let say: Vec<(&Declaration, YesNo)> =
        declarations.iter().filter(in_force).filter_map(|one| Some((one, of(one)?))).collect();
    // A date of which only the month is known may be any day of it.
    let since = say.iter().filter_map(|(one, _)| one.signed_on.start()).max()?;
    let mut may_be_newest =
        say.iter().filter(|(one, _)| one.signed_on.end().is_none_or(|end| since < end)).map(|(_, so)| *so);
    let first = may_be_newest.next()?;
    may_be_newest.all(|other| other == first).then_some(first == YesNo::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declaration(says: Option<&str>, signed_on: &str, from: Option<&str>, to: Option<&str>) -> Declaration {
        let of = |field| match field {
            "id" => Some("D"),
            "customer" => Some("P-1"),
            "purpose" => Some("x"),
            "signed_by" => Some("y"),
            "signed_on" => Some(signed_on),
            "biological_sequence_data" => says,
            "from" => from,
            "to" => to,
            _ => None,
        };
        let Ok(Statement::Declaration(one)) = Statement::read(Kind::Declaration, of) else { panic!("valid") };
        one
    }

    fn said(all: &[Declaration]) -> Option<bool> {
        newest(all, "2026-03-02T08:00:00Z".parse().unwrap(), |one| one.biological_sequence_data)
    }

    #[test]
    fn the_newest_declaration_in_force_counts_and_what_contradicts_itself_is_unknown() {
        let yes = |signed| declaration(Some("yes"), signed, None, None);
        let no = |signed| declaration(Some("no"), signed, None, None);
        assert_eq!(said(&[]), None);
        assert_eq!(said(&[yes("2026-01-01")]), Some(true));
        assert_eq!(said(&[yes("2026-01-01"), no("2026-02-01")]), Some(false));
        assert_eq!(said(&[no("2026-02-01"), yes("2026-01-01")]), Some(false));
        assert_eq!(said(&[no("2026-02-01"), yes("2026-02-01")]), None);
        assert_eq!(said(&[no("2026-02-01"), yes("2026-02")]), None, "that may be the newer");
        assert_eq!(said(&[no("2026-02-01"), yes("2026-01")]), Some(false));
        // Not signed yet, not begun, over, or silent about it.
        assert_eq!(said(&[yes("2026-03-03")]), None);
        assert_eq!(said(&[declaration(Some("yes"), "2026-01-01", Some("2026-04"), None)]), None);
        assert_eq!(said(&[declaration(Some("yes"), "2026-01-01", None, Some("2026-03-01"))]), None);
        assert_eq!(said(&[declaration(Some("yes"), "2026-01-01", None, Some("2026-03"))]), Some(true));
        let silent = declaration(None, "2026-02-01", None, None);
        assert_eq!(said(&[silent, yes("2026-01-01")]), Some(true));
    }

    #[test]
    fn of_several_customers_one_that_says_so_is_enough_and_all_must_say_that_it_is_not() {
        assert_eq!(all([]), None);
        assert_eq!(all([None, Some(true)]), Some(true));
        assert_eq!(all([None, Some(false)]), None);
        assert_eq!(all([Some(false), Some(false)]), Some(false));
    }
}
