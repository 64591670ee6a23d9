//! What the keys of many customers cost on this disk, in the folder given.
//!
//! `cargo run --release -p weighbridge-registry --example keys -- FOLDER [COUNT]`

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use weighbridge_registry::{CustomerKind, KeyStore, OperatorKey, Party, PartyId, Standing};

#[expect(clippy::disallowed_methods, reason = "it measures how long a disk takes")]
fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let done = run();
    (done, began.elapsed())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("a folder to write in is expected")?);
    let count: usize = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let mut state = 1_u64;
    let mut random = move |bytes: &mut [u8]| {
        for byte in bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
    };
    let subjects: Vec<PartyId> =
        (0..count).map(|number| format!("A-{number}").parse()).collect::<Result<_, _>>()?;
    let store = KeyStore::at(folder.join("keys"), OperatorKey::generate([1; 32]))?;
    let some = &subjects[..count.min(200)];
    let singly = KeyStore::at(folder.join("singly"), OperatorKey::generate([1; 32]))?;
    let (done, took) = timed(|| {
        some.iter().try_for_each(|one| singly.prepare(std::slice::from_ref(one), &mut random).map(drop))
    });
    done?;
    println!("one by one: {:.0} keys a second", some.len() as f64 / took.as_secs_f64());
    let (made, took) = timed(|| store.prepare(&subjects, &mut random));
    println!("{} keys made at once in {took:?}", made?);
    let (made, took) = timed(|| store.prepare(&subjects, &mut random));
    println!("{} keys made, {count} there, in {took:?}", made?);
    let party = Party::unknown(CustomerKind::Person);
    let (sealed, took) = timed(|| {
        let seal = |id| store.seal_party(id, None, Standing::default(), &party, &mut random);
        subjects.iter().map(seal).collect::<Result<Vec<_>, _>>()
    });
    println!("{} records sealed in {took:?}", sealed?.len());
    let (done, took) = timed(|| some.iter().try_for_each(|one| store.destroy(one)));
    done?;
    println!("{} of {count} keys destroyed in {took:?}", some.len());
    Ok(())
}
