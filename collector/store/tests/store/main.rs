//! What the crate promises, through its public face.

// The attribute tells clippy that helpers here are test code as well.
#[cfg(test)]
mod account;
#[cfg(test)]
mod ceiling;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod figures;
#[cfg(test)]
mod fold;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod order;
#[cfg(test)]
mod prune;
#[cfg(test)]
mod relabel;
mod rollup;
mod sharing;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tree;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod verify;
#[cfg(test)]
mod witness;
#[cfg(test)]
mod world;
