//! What a reader of a case has to be pointed out beside its rule: who stands behind a customer that is on record as a
//! U.S. person, and is not known to be one.
//!
//! The proposed identification rules ask for the foreign beneficial owners of a customer, whatever the customer is. Who
//! these are follows from interests, which name nobody: nothing is opened for it. From which share on an owner counts is
//! the pack's to say; a pack that says nothing of it gives no remark.
//!
//! Deliberately absent: any change of a standing. What the remark means is for a person to decide.

use std::collections::{BTreeMap, BTreeSet};

use weighbridge_casework::{Case, pack::OwnerLine};
use weighbridge_registry::{
    CustomerKind, PartyId, SealedCustomer, UsPerson,
    interest::controllers,
    ownership::{Share, Standing},
};

use crate::app::App;

impl App {
    /// What a reader of a case has to be pointed out, a remark for each customer and who stands behind it.
    pub(crate) fn remarks(&self, case: &Case) -> Vec<String> {
        let Ok(pack) = self.pack_of(case) else { return Vec::new() };
        let Some(owners) = &pack.beneficial_owner else { return Vec::new() };
        let known = self.customers();
        let all = self.customers_of(case).into_iter();
        let of_us = all.filter(|id| known.get(id.as_str()).is_some_and(|one| one.us_person == UsPerson::Us));
        of_us.flat_map(|customer| self.foreign_behind(&customer, owners)).collect()
    }

    /// Who is not known to be a U.S. person and stands behind this customer.
    fn foreign_behind(&self, customer: &PartyId, line: &OwnerLine) -> Vec<String> {
        let Some(share) = Share::from_millionths(u32::from(line.percent) * 10_000) else { return Vec::new() };
        let known = self.customers();
        let stands = self.stands_behind(customer);
        let behind = &stands.parties.1;
        let place = behind.place(customer);
        let by = |of: &[(usize, usize)]| -> BTreeSet<usize> {
            place.into_iter().flat_map(|place| controllers(of, place)).collect()
        };
        let (certain, possible) = (by(&behind.certain_controls), by(&behind.controls));
        let owners = stands.owners.iter().flat_map(|owners| &owners.owners);
        let held: BTreeMap<usize, _> =
            owners.map(|one| (one.owner, (one.standing(share), one.range()))).collect();
        let remarks = behind.parties.iter().enumerate().filter_map(|(place, party)| {
            let status = status(known.get(party.as_str())?)?;
            let holds = match held.get(&place) {
                Some((Standing::Reaches, range)) => Some(holds(*range, "reaches")),
                Some((Standing::Possible, range)) => Some(holds(*range, "may reach")),
                Some((Standing::Below, _)) | None => None,
            };
            let decides = match (certain.contains(&place), possible.contains(&place)) {
                (true, _) => Some("controls it".to_owned()),
                (false, true) => Some("may control it".to_owned()),
                (false, false) => None,
            };
            let why: Vec<String> = holds.into_iter().chain(decides).collect();
            (!why.is_empty()).then(|| {
                format!(
                    "Customer {customer} is on record as a U.S. person, and {party}, {status}, {} ({} %: {}). The \
                     standing of the customer is not changed by this. Whether a foreign beneficial owner makes it one \
                     that the instrument is about is for a person to decide.",
                    why.join(" and "),
                    line.percent,
                    line.citation
                )
            })
        });
        remarks.collect()
    }
}

/// What a party is that is not known to be a U.S. person.
fn status(party: &SealedCustomer) -> Option<&'static str> {
    match (party.kind, party.us_person) {
        (_, UsPerson::Us) => None,
        (CustomerKind::Person, UsPerson::Foreign) => Some("a foreign person"),
        (CustomerKind::Person, UsPerson::Undetermined) => Some("a person whose status is not established"),
        (_, UsPerson::Foreign) => Some("a foreign body"),
        (_, UsPerson::Undetermined) => Some("a body whose status is not established"),
    }
}

fn holds((least, most): (Share, Share), reaches: &str) -> String {
    let part = if least == most { format!("{least} %") } else { format!("{least} to {most} %") };
    format!("holds {part} of it in the end, which {reaches} the line of a beneficial owner")
}
