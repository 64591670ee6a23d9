//! Hundreds of courses of events, each from its seed.

use weighbridge_simulation::{Course, live};
use weighbridge_tests::random::{Random, SEED};

/// Deeds in one course.
const DEEDS: usize = 60;

#[test]
fn whatever_happens_nothing_is_lost_double_or_altered() {
    let soak = std::env::var_os("WEIGHBRIDGE_SOAK").is_some();
    // A single seed repeats a single course.
    let seeds: Vec<u64> = match std::env::var(SEED) {
        Ok(seed) => vec![seed.parse().expect("the seed is a whole number")],
        Err(_) => {
            let mut random = Random::announced();
            (0..if soak { 5_000 } else { 200 }).map(|_| random.number()).collect()
        }
    };
    let mut sum = Course::default();
    for seed in &seeds {
        // A runtime each: a course that is over leaves nothing behind.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let course = runtime.block_on(live(*seed, DEEDS));
        let course = course.unwrap_or_else(|problem| panic!("{SEED}={seed}: {problem}"));
        sum.made += course.made;
        sum.arrived += course.arrived;
        sum.parked += course.parked;
        sum.gone += course.gone;
        sum.crashes += course.crashes;
        sum.troubles += course.troubles;
    }
    println!("{} seeds: {sum:?}", seeds.len());
    assert!(sum.arrived > 0 && sum.crashes > 0 && sum.troubles > 0, "{sum:?}");
}
