//! What is read about certificates: those that are shown, requests for them, tokens, and what is answered.

use std::{
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use weighbridge_agent::tls::{keep, request::request};
use weighbridge_collector::tls::authority::Authorities;
use weighbridge_meter::{AgentId, UtcMillis};
use weighbridge_registry::{KeyStore, OperatorKey};
use weighbridge_wire::{
    certificate::{IdentityPattern, Looked},
    enrol::{JoinRequest, JoinToken, RenewRequest},
};

const MOMENT: UtcMillis = UtcMillis(1_767_225_600_000);

fn agent() -> AgentId {
    "host-1".parse().expect("a name")
}

/// An authority of always the same numbers.
fn authorities() -> MutexGuard<'static, Authorities> {
    static MADE: OnceLock<Mutex<Authorities>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let keys = KeyStore::at(folder.path(), OperatorKey::generate([1; 32])).expect("a folder");
        Authorities::in_memory(&keys, MOMENT, &mut |bytes| bytes.fill(7)).expect("an authority").into()
    });
    made.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a certificate and the names in it.
pub(crate) fn certificate(bytes: &[u8]) {
    if let Ok(looked) = Looked::at(bytes) {
        let _ = (looked.lasts_ms(), looked.renew_at(), IdentityPattern::default().agent_of(&looked));
    }
}

/// Signs a certificate for a request.
pub(crate) fn certificate_request(bytes: &[u8]) {
    let hour = Duration::from_secs(3600);
    drop(authorities().agent(&agent(), bytes, hour, MOMENT, &mut |bytes| bytes.fill(3)));
}

/// Reads tokens, requests and answers of joining and renewing.
pub(crate) fn enrolment(bytes: &[u8]) {
    let text = super::text(bytes);
    let _ = text.parse::<JoinToken>();
    drop(text.parse::<IdentityPattern>());
    if let Some(agent) = IdentityPattern::default().agent(&text) {
        assert_eq!(IdentityPattern::default().uri(&agent), text, "an agent has two spellings");
    }
    drop(serde_json::from_slice::<JoinRequest>(bytes));
    drop(serde_json::from_slice::<RenewRequest>(bytes));
    drop(keep::issued(200, bytes, &agent()));
    drop(keep::issued(403, bytes, &agent()));
}

/// Certificates of each kind.
pub(crate) fn certificates() -> Vec<Vec<u8>> {
    let hour = Duration::from_secs(3600);
    let mut random = |bytes: &mut [u8]| bytes.fill(3);
    let names = ["localhost".to_owned(), "::1".to_owned()];
    let server = authorities().server(&names, hour, MOMENT, &mut random).expect("signs");
    let of_agent = authorities().agent(&agent(), &requests()[0], hour, MOMENT, &mut random).expect("signs");
    let mut all: Vec<Vec<u8>> = server.chain.iter().map(|der| der.to_vec()).collect();
    all.push(of_agent.certificate.to_vec());
    all
}

/// A request as agents make it.
pub(crate) fn requests() -> Vec<Vec<u8>> {
    vec![request(&[5; 32]).expect("a request").request]
}

/// Something right of each kind.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    let token = JoinToken { id: [1; 8], secret: [2; 32], authority: [3; 32] };
    let [join, issued, refused] = [
        r#"{"token":"AQ==","secret":"AQ==","agent":"host-1","public_key":"AQ==","request":"AQ==","proof":"AQ=="}"#,
        r#"{"agent":"host-1","host":"h","certificates":["MAA="],"authorities":["MAA="],
           "not_before":"2026-01-01T00:00:00Z","not_after":"2026-01-02T00:00:00Z","now":"2026-01-01T00:00:00Z"}"#,
        r#"{"title":"denied","status":403,"detail":"stolen","code":"denied"}"#,
    ]
    .map(|text| text.as_bytes().to_vec());
    let uri = IdentityPattern::default().uri(&agent());
    vec![token.to_string().into_bytes(), uri.into_bytes(), join, issued, refused]
}
