//! Every fault that could be thought of, against the real programs, with one judge for all.
//!
//! `tests/FAULTS.md` says what must hold under which fault. Each test prints its seed; [`SEED`] repeats it.
//! Tests that mount file systems, limit processes or trace them need root, and say so where they lack it.
//!
//! [`SEED`]: weighbridge_tests::random::SEED
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod certificates;
mod clocks;
mod damaged;
mod disks;
mod fail_points;
mod hostile;
mod killed;
mod limits;
mod network;
mod of_devices;
mod power;
mod pruning;
mod restored;

/// How often something is done: in the short form that runs each time, or in the long one of `tests/run --soak`.
fn rounds(short: usize, soak: usize) -> usize {
    if weighbridge_tests::is_soak() { soak } else { short }
}
