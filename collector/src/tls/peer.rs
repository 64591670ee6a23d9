//! Who is at the other end of a connection, asked anew at each request.
//!
//! A connection may be older than what was decided about its agent: each request looks at the deny list, at the
//! end of the certificate, and, where the authorities have changed, at the certificate itself.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use rustls::pki_types::CertificateDer;
use weighbridge_meter::{AgentId, UtcMillis};
use weighbridge_wire::certificate::Looked;

use super::Trust;
use crate::{api::problem::Problem, app::App};

/// An agent as its certificate names it. The certificate may have ended: [`admit`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAgent {
    /// By the URI in its certificate.
    pub agent: AgentId,
    /// The certificate's last second.
    pub not_after: UtcMillis,
}

/// A connection under TLS, as an extension of each of its requests.
#[derive(Debug)]
pub struct Connection {
    /// As shown in the handshake.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The authorities under which it was checked.
    pub(super) version: u64,
}

/// Why an agent is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAdmitted {
    /// In a few words; the agent reads them.
    pub title: &'static str,
    /// In more words.
    pub detail: String,
    /// For a metric.
    pub reason: &'static str,
}

impl NotAdmitted {
    /// Every [`NotAdmitted::reason`].
    pub const REASONS: [&'static str; 4] =
        ["no_certificate", "certificate_expired", "other_certificate", "denied"];
}

/// Decides whether what this agent signed may come in on this connection: `None` is plain HTTP, `Some(None)`
/// a secure connection without a certificate.
pub fn admit(app: &App, peer: Option<&Option<PeerAgent>>, agent: &AgentId) -> Result<(), NotAdmitted> {
    counted(app, decide(app, peer, agent))
}

/// Decides whether anything at all may come in on this connection, before it is known what does.
pub fn admit_any(app: &App, peer: Option<&Option<PeerAgent>>) -> Result<(), NotAdmitted> {
    counted(
        app,
        match peer {
            None => Ok(()),
            Some(None) => Err(NotAdmitted {
                title: "no certificate",
                detail: "this connection is under no certificate that names an agent: enrol it".into(),
                reason: "no_certificate",
            }),
            Some(Some(own)) => decide(app, peer, &own.agent),
        },
    )
}

fn counted(app: &App, admitted: Result<(), NotAdmitted>) -> Result<(), NotAdmitted> {
    if let Err(refused) = &admitted {
        app.metrics.not_admitted(refused.reason);
    }
    admitted
}

fn decide(app: &App, peer: Option<&Option<PeerAgent>>, agent: &AgentId) -> Result<(), NotAdmitted> {
    if let Some(peer) = peer {
        let Some(peer) = peer else {
            return Err(NotAdmitted {
                title: "no certificate",
                detail: format!("agent {agent} sends without a certificate: enrol it"),
                reason: "no_certificate",
            });
        };
        if peer.agent != *agent {
            return Err(NotAdmitted {
                title: "somebody else's certificate",
                detail: format!("this is of agent {agent}, the certificate of agent {}", peer.agent),
                reason: "other_certificate",
            });
        }
        if peer.not_after < app.now() {
            return Err(NotAdmitted {
                title: "certificate expired",
                detail: format!("the certificate of agent {agent} ended at {}: renew it", peer.not_after),
                reason: "certificate_expired",
            });
        }
    }
    match app.enrolment.denied(agent) {
        Some(denied) => Err(NotAdmitted {
            title: "denied",
            detail: format!("agent {agent} is shut out since {}: {}", denied.since, denied.reason),
            reason: "denied",
        }),
        None => Ok(()),
    }
}

/// Finds out whose request it is, and hands that on as `Option<PeerAgent>`.
pub(super) async fn identify(
    State(app): State<App>,
    Extension(connection): Extension<Arc<Connection>>,
    mut request: Request,
    next: Next,
) -> Response {
    match connection.agent(&app.trust, app.now()) {
        Ok(peer) => {
            request.extensions_mut().insert::<Option<PeerAgent>>(peer);
            next.run(request).await
        }
        Err(detail) => {
            app.metrics.not_admitted("certificate_expired");
            let mut response =
                Problem::new(StatusCode::FORBIDDEN, "certificate expired", detail).into_response();
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

impl Connection {
    fn agent(&self, trust: &Trust, now: UtcMillis) -> Result<Option<PeerAgent>, String> {
        let Some((own, between)) = self.chain.split_first() else { return Ok(None) };
        if trust.version() != self.version {
            trust.check(own, between, now).map_err(|error| {
                format!("the certificate of this connection is no longer believed: {error}")
            })?;
        }
        let looked = Looked::at(own).map_err(|error| error.to_string())?;
        let agent = trust.agent_of(&looked);
        Ok(agent.map(|agent| PeerAgent { agent, not_after: looked.not_after }))
    }
}
