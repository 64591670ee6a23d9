//! Prometheus text expositions, as exporters of other vendors give them.
//!
//! [`samples`] reads the text format line by line. What is not a line of it is an error of that line alone:
//! whoever reads counts it and goes on. `fetch` asks many exporters at once, `fleet` keeps what they ever
//! named, and says why a device has no reading.
//!
//! Deliberately absent: OpenMetrics and its exemplars, histograms, and what a metric means, which only the
//! source knows that asked for it. There are no settings for TLS here: an `https` address is asked as the
//! HTTP client was built to.

pub(super) mod fetch;
pub(super) mod fleet;
mod text;

pub use text::{BadLine, Sample, Value, samples};
