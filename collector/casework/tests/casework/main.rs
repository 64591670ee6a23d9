//! What the crate promises, through its public face.

// The attribute tells clippy that helpers here are test code as well.
#[cfg(test)]
mod case;
#[cfg(test)]
mod certainty;
#[cfg(test)]
mod packs;
#[cfg(test)]
mod report;
#[cfg(test)]
mod reserved;
#[cfg(test)]
mod support;
