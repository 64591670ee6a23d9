//! Prometheus text expositions, as exporters of other vendors give them.
