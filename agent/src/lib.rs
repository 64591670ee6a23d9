//! The agent as a library: what measures on a host, for the program, the demo and the load tests.
//!
//! Start with [`host::Host`]: it takes looks ([`source`]) through the [`engine`] into batches in the [`spool`],
//! and brings them to a collector ([`uplink`]). [`run`] is the loop of the program around it.
//!
//! Deliberately absent: what an account of operations is (that is the collector's), any knowledge of persons,
//! and anything that changes the host.

mod alarm;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod duration;
pub mod engine;
pub mod enrol;
pub mod holders;
pub mod hook;
pub mod host;
pub mod http;
pub mod key;
pub mod metrics;
pub mod run;
pub mod source;
pub mod spool;
pub mod tls;
pub mod uplink;
