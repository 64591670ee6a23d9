//! Many courses of events, each from its seed.

use weighbridge_simulation::{Course, live};
use weighbridge_tests::{
    is_soak,
    random::{Random, SEED},
};

/// Deeds in one course.
const DEEDS: usize = 60;

/// Courses at a time.
const SIDE_BY_SIDE: usize = 4;

fn course(seed: u64) -> Course {
    // A runtime each: a course that is over leaves nothing behind.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let course = runtime.block_on(live(seed, DEEDS));
    course.unwrap_or_else(|problem| panic!("{SEED}={seed}: {problem}"))
}

#[test]
fn whatever_happens_nothing_is_lost_double_or_altered() {
    // A single seed repeats a single course.
    let seeds: Vec<u64> = match std::env::var(SEED) {
        Ok(seed) => vec![seed.parse().expect("the seed is a whole number")],
        Err(_) => {
            let mut random = Random::announced();
            (0..if is_soak() { 500 } else { 60 }).map(|_| random.number()).collect()
        }
    };
    // A course waits for syncs most of its time, so some go side by side.
    let courses: Vec<Course> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|first| {
                scope.spawn({
                    let seeds = &seeds;
                    move || {
                        seeds
                            .iter()
                            .skip(first)
                            .step_by(SIDE_BY_SIDE)
                            .map(|seed| course(*seed))
                            .collect::<Vec<_>>()
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|problem| std::panic::resume_unwind(problem)))
            .collect()
    });
    let mut sum = Course::default();
    for course in &courses {
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
