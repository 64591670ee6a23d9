//! Stand-ins for what an agent asks on a node of Kubernetes: a [`Kubelet`] that serves PodResources as gRPC on a real
//! unix socket, and an [`ApiServer`] that lists and watches pods over HTTP.
//!
//! Both say what they are told to say, also that they are gone, refuse, answer garbage or forget their history.
//! Messages of the kubelet are written here by hand, number by number, and not by what the agent reads them with.
//!
//! Deliberately absent: TLS, and everything that changes something.

mod api;
mod kubelet;

pub use api::{ApiServer, Expiry, Trouble};
pub use kubelet::{Answering, Given, Kubelet};
