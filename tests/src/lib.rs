//! The test kit: real agents and a real collector as child processes, and fake accelerators of known behaviour.
//!
//! A [`Site`](site::Site) is one collector with its agents in a temporary folder. Each agent loads its own copy of
//! the fake NVML library, whose values are constants, so that every number that comes out at the other end can be
//! worked out by hand: [`pencil`] does that with integers, and [`audit`] holds the collector's answers against it.
//! [`oracle`] judges what is left when faults are over; [`proxy`], [`mounts`] and [`damage`] make them.
//!
//! Helpers panic where a test cannot go on, and say what they saw. Nothing sleeps for a fixed time: [`wait::until`]
//! returns as soon as its condition holds. The programs must have been built before, which `tests/run` does.
//!
//! Deliberately absent: the collector as a library. Tests see it from outside, as its users do.

pub mod agent;
pub mod audit;
pub mod collector;
pub mod damage;
pub mod handmade;
pub mod http;
pub mod known_work;
pub mod ledgers;
pub mod machine;
pub mod mounts;
pub mod oracle;
pub mod past;
pub mod pencil;
pub mod planted;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod random;
pub mod rules;
pub mod simulated;
pub mod site;
pub mod slurm;
pub mod tlog;
pub mod trust;
pub mod usage;
pub mod wait;
pub mod years;

/// Whether this is the long form, which `tests/run --soak` asks for.
pub fn is_soak() -> bool {
    std::env::var_os("WEIGHBRIDGE_SOAK").is_some()
}
