//! Trust between a collector and agents without files: for benchmarks and tests that run ingest in one process.

use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use weighbridge_agent::{
    clock::Clock as AgentClock,
    tls::{HostTime, client_config, request::request},
};
use weighbridge_meter::AgentId;
use weighbridge_registry::KeyStore;

use super::{Kind, Trust, TrustError, Wall, authority::Authorities, config::Own};
use crate::{app::Clock, random};

/// An authority in memory that serves `localhost` and `127.0.0.1`.
///
/// # Errors
/// Where rustls or the key store does not play along.
pub fn in_process(keys: &KeyStore, clock: Clock) -> Result<Trust, TrustError> {
    let day = Duration::from_secs(86_400);
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    let own = Own { names, agent_lasts: day, server_lasts: day, grace: day };
    let authorities = Authorities::in_memory(keys, clock(), &mut random::fill)?;
    Trust::with(Kind::Own(own, authorities.into()), Wall(clock))
}

/// What an agent of this name connects with.
///
/// # Errors
/// Where the authority or rustls does not play along.
pub fn agent_config(
    trust: &Trust,
    agent: &AgentId,
    clock: Arc<dyn AgentClock>,
) -> Result<Arc<ClientConfig>, TrustError> {
    let unusable = |_| TrustError::NotHere("the agent's side of TLS cannot be set up");
    let requested = request(&random::bytes()).map_err(|_| TrustError::NotHere("no request can be made"))?;
    let signed = trust.sign(agent, &requested.request)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(requested.key));
    let chain: Vec<CertificateDer<'static>> = vec![signed.certificate];
    let config = client_config(trust.roots()?, Some((chain, key)), Arc::new(HostTime(clock)));
    config.map(Arc::new).map_err(unusable)
}
