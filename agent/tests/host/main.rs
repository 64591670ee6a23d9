//! A host, from looks to a collector that is only a server answering as it is told.

mod answers;
mod spool_refuses;
mod support;
mod uplink;
