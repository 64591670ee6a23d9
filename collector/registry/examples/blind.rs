//! What finding parties by their values costs, in time.
//!
//! `cargo run --release -p weighbridge-registry --example blind -- [COUNT]`

use std::time::{Duration, Instant};

use weighbridge_registry::{
    Blind, CustomerKind, Party, PartyId, What,
    blind::Sign,
    party::{Address, AddressKind, Identifier, Name, NameKind, Payment, Scheme},
};

#[expect(clippy::disallowed_methods, reason = "it measures how long looking takes")]
fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let done = run();
    (done, began.elapsed())
}

fn party(number: usize) -> Party {
    let mut party = Party::unknown(CustomerKind::Entity);
    party.names = vec![
        Name::of(NameKind::Legal, format!("Société Générale {number} S.A.")),
        Name::of(NameKind::Trading, format!("Brand {}", number / 3)),
    ];
    party.addresses = vec![Address::of(AddressKind::Principal, format!("{} Rue X, Lyon", number / 2))];
    party.emails = vec![format!("Office@c{number}.example"), format!("c{number}@free.example")];
    party.telephones = vec![format!("+33 4 {:08}", number / 5)];
    party.payments = vec![Payment { means: None, source: Some(format!("FR76 {:010}", number / 7)) }];
    party.identifiers = vec![Identifier {
        scheme: Scheme::Registration,
        number: format!("RCS {number:09}"),
        issuer: None,
        country: None,
        expires: None,
    }];
    let address = |host| format!("10.{}.{}.{host}@2026-01-31T08:00:00Z", number / 256 % 256, number % 256);
    party.accesses = (1..6).filter_map(|host| address(host).parse().ok()).collect();
    party
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let parties: Vec<(PartyId, Party)> = (0..count)
        .map(|number| Ok((format!("A-{number}").parse()?, party(number))))
        .collect::<Result<_, weighbridge_registry::BadId>>()?;
    let mut blind = Blind::new(&mut |bytes| bytes.fill(7));
    let ((), took) = timed(|| parties.iter().for_each(|(id, party)| blind.replace(id, party)));
    println!("{} parties put in, in {took:?}", blind.len());
    let mut times = Vec::new();
    for number in (0..count).step_by((count / 1_000).max(1)) {
        for (what, text) in [
            (What::Name, format!("SOCIÉTÉ GÉNÉRALE {number} S.A.")),
            (What::Email, format!("office@C{number}.example")),
            (What::Telephone, format!("00334{:08}", number / 5)),
            (What::Number, format!("rcs{number:09}")),
            (What::Access, format!("10.{}.{}.1", number / 256 % 256, number % 256)),
        ] {
            let (found, took) = timed(|| blind.find(what, &text));
            if found.is_empty() {
                return Err(format!("{what:?} of party {number} finds nobody").into());
            }
            times.push(took);
        }
    }
    times.sort();
    let last = times.len() - 1;
    println!(
        "looked up: half in {:?}, 99 in 100 in {:?}, all in {:?}",
        times[last / 2],
        times[last * 99 / 100],
        times[last]
    );
    let (found, took) = timed(|| blind.find(What::Domain, "free.example"));
    println!("the {} who share one domain in {took:?}", found.len());
    for sign in Sign::ALL {
        let (shared, took) = timed(|| blind.shared(sign, 50, &["free.example"]));
        println!(
            "{sign:?}: {} groups, {} too common, in {took:?}",
            shared.groups.len(),
            shared.too_common.len()
        );
    }
    let (id, one) = &parties[0];
    let ((), took) = timed(|| blind.replace(id, one));
    println!("one changed in {took:?}");
    Ok(())
}
