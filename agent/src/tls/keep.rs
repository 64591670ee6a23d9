//! Keeps the certificate fresh while everything else goes on.
//!
//! A certificate is renewed at two thirds of its life, somewhat earlier by chance so that a fleet that was
//! enrolled in one hour is not renewed in one second. Each renewal makes a new key. A renewal that fails is tried
//! again; meanwhile the certificate that is there is shown, and after its end the collector still renews it for a
//! while, so that a host that was off over the weekend comes back by itself.
//!
//! When to renew is measured by the boot clock, from what the collector said the time was: the wall clock is
//! asked only for a certificate that was found in the files, and where it says that this one is not of its time,
//! the clock may be what is wrong, so that the renewal is due at once.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use weighbridge_meter::{AgentId, UtcMillis};
use weighbridge_wire::{
    SigningKey,
    certificate::Looked,
    enrol::{Issued, RENEW_PATH, Refused, RefusedCode, RenewRequest, renew_proof},
};

use super::{
    Identity,
    files::{self, FileError, Files},
    request::{self, RequestError},
};
use crate::{
    metrics::Metrics,
    uplink::{Backoff, RandomBytes, Retry, Sender, chain, client::ClientError, retry},
};

/// Files are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The first wait after a failed renewal is up to this long.
const RETRY_SHORTEST: Duration = Duration::from_secs(1);

/// Whose certificate it is.
pub struct Keeper<'a> {
    /// The certificate.
    pub identity: &'a Identity,
    /// Brings the request to a collector.
    pub sender: &'a Sender,
    /// As configured.
    pub agent: AgentId,
    /// Signs the requests.
    pub key: SigningKey,
    /// For keys and for chance.
    pub random: fn(&mut [u8]),
    /// Counts.
    pub metrics: &'a Metrics,
    /// The longest wait between two tries.
    pub retry_longest: Duration,
    /// The wait where nobody lets this agent in.
    pub retry_refused: Duration,
}

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No request could be made.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No answer.
    #[error("the collector gives no answer")]
    Client(#[from] ClientError),
    /// It says no.
    #[error("{}: {}", .0.title, .0.detail)]
    Refused(Refused),
    /// It answers something else.
    #[error("what answers is no collector: status {status}")]
    NotACollector {
        /// Its status.
        status: u16,
    },
    /// What it issued cannot be used.
    #[error("what the collector issued cannot be used: {0}")]
    Unusable(&'static str),
    /// It cannot be kept.
    #[error("the new certificate cannot be kept")]
    File(#[from] FileError),
}

/// When the certificate of this version is to be renewed, on the boot clock.
struct Plan {
    version: u64,
    due_ms: u64,
}

impl Keeper<'_> {
    /// Reads changed files and renews in time, until `stop` is cancelled.
    pub async fn keep(&self, stop: &CancellationToken) {
        let random: RandomBytes = Box::new(self.random);
        let mut backoff = Backoff::new(RETRY_SHORTEST, self.retry_longest, self.retry_refused, random);
        let mut plan: Option<Plan> = None;
        loop {
            if self.identity.reload() {
                tracing::info!("the certificate was read anew");
            }
            let state = self.identity.state();
            if let Ok(ready) = &state.ready {
                let known = plan.as_ref().is_some_and(|plan| plan.version == state.version);
                if !known {
                    let due_ms = self.due(&ready.certificate, self.believed_wall(&ready.certificate));
                    plan = Some(Plan { version: state.version, due_ms });
                }
            } else {
                plan = None;
            }
            let due = plan.as_ref().is_some_and(|plan| plan.due_ms <= self.identity.boot_ms());
            if due && self.identity.files().are_own() {
                let renewed = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    renewed = self.renew() => renewed,
                };
                let wait = match renewed {
                    Ok(issued) => {
                        backoff.succeeded();
                        self.metrics.renewed("ok");
                        tracing::info!(until = %issued.not_after, "the certificate was renewed");
                        let state = self.identity.state();
                        if let Ok(ready) = &state.ready {
                            let due_ms = self.due(&ready.certificate, Some(issued.now));
                            plan = Some(Plan { version: state.version, due_ms });
                        }
                        continue;
                    }
                    Err(error) => self.failed(&error, &mut backoff),
                };
                if let Some(plan) = &mut plan {
                    plan.due_ms = self.identity.boot_ms().saturating_add(millis(wait));
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.identity.refused.notified() => {
                    // The collector's word on the time counts; one that lasts is not asked more often for that.
                    if let Some(plan) = &mut plan && backoff.is_fresh() {
                        plan.due_ms = 0;
                    }
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn failed(&self, error: &RenewError, backoff: &mut Backoff) -> Duration {
        let (outcome, retry) = match error {
            RenewError::Client(error) => ("unreachable", retry(error)),
            RenewError::Refused(refused) if refused.code == RefusedCode::NotAvailable => {
                ("unavailable", Retry::Later { status: refused.status, after: None })
            }
            RenewError::Refused(_) => ("refused", Retry::NotEnrolled),
            RenewError::NotACollector { .. } | RenewError::Unusable(_) => {
                ("unusable", Retry::NotACollector(chain(error)))
            }
            RenewError::Request(_) | RenewError::File(_) => ("failed", Retry::Unreachable(chain(error))),
        };
        self.metrics.renewed(outcome);
        let wait = backoff.wait(&retry);
        tracing::warn!(
            error = chain(error),
            wait_ms = millis(wait),
            "the certificate was not renewed; the agent goes on with the one it has"
        );
        wait
    }

    /// The wall clock, where it can be right for this certificate.
    fn believed_wall(&self, certificate: &Looked) -> Option<UtcMillis> {
        let wall = self.identity.wall();
        (certificate.not_before <= wall && wall <= certificate.not_after).then_some(wall)
    }

    /// When on the boot clock a certificate is to be renewed; at once if nobody knows what time it is.
    fn due(&self, certificate: &Looked, now: Option<UtcMillis>) -> u64 {
        let Some(now) = now else { return 0 };
        let mut bytes = [0; 4];
        (self.random)(&mut bytes);
        let early = (i128::from(certificate.lasts_ms() / 10) * i128::from(u32::from_le_bytes(bytes))) >> 32;
        let early = i64::try_from(early).unwrap_or(0);
        let wait = certificate.renew_at().plus(-early).since(now).max(0);
        self.identity.boot_ms().saturating_add(wait.unsigned_abs())
    }

    /// Renews once.
    pub async fn renew(&self) -> Result<Issued, RenewError> {
        let Files::Own(folder) = self.identity.files() else {
            return Err(RenewError::Unusable(
                "certificates of the site's own authority are not renewed here",
            ));
        };
        let mut seed = [0; 32];
        (self.random)(&mut seed);
        let requested = request::request(&seed)?;
        let proof = renew_proof(&self.key, &self.agent, &requested.request);
        let asked = RenewRequest { request: BASE64_STANDARD.encode(&requested.request), proof };
        let body = serde_json::to_vec(&asked).expect("plain data with string keys");
        let answered = self.sender.post_json(RENEW_PATH, body).await?;
        let issued = issued(answered.status, &answered.body, &self.agent)?;
        if let (Ok(present), Ok(next)) = (&self.identity.state().ready, Looked::at(&issued.certificates[0]))
            && is_of_a_clock_behind(&present.certificate, &next)
        {
            return Err(RenewError::Unusable(
                "the collector's clock is behind: it ends before the present one",
            ));
        }
        files::install(folder, &requested.key, &issued.certificates, &issued.authorities)?;
        self.identity.reload();
        Ok(issued.issued)
    }
}

/// Whether `next` was signed by a clock that is behind the one that signed `present`, and would end no later: what
/// is good would be replaced by what is over once that clock is right. A shorter life alone is the operator's
/// choice, and another authority begins anew.
fn is_of_a_clock_behind(present: &Looked, next: &Looked) -> bool {
    present.issuer == next.issuer
        && next.not_before < present.not_before
        && next.not_after <= present.not_after
}

/// What was issued, in bytes.
pub struct Taken {
    /// As it was said.
    pub issued: Issued,
    /// DER.
    pub certificates: Vec<Vec<u8>>,
    /// DER.
    pub authorities: Vec<Vec<u8>>,
}

/// Reads an answer to a request for a certificate. Only what can be used is taken.
pub fn issued(status: u16, body: &[u8], agent: &AgentId) -> Result<Taken, RenewError> {
    if status != 200 {
        let refused: Result<Refused, _> = serde_json::from_slice(body);
        return Err(refused.map_or(RenewError::NotACollector { status }, RenewError::Refused));
    }
    let issued: Issued = serde_json::from_slice(body).map_err(|_| RenewError::NotACollector { status })?;
    if issued.agent != *agent {
        return Err(RenewError::Unusable("it is for another agent"));
    }
    let decoded = |list: &[String]| {
        let decoded: Option<Vec<Vec<u8>>> =
            list.iter().map(|text| BASE64_STANDARD.decode(text).ok()).collect();
        decoded.filter(|list| !list.is_empty())
    };
    let certificates =
        decoded(&issued.certificates).ok_or(RenewError::Unusable("there is no certificate in it"))?;
    let authorities =
        decoded(&issued.authorities).ok_or(RenewError::Unusable("there is no authority in it"))?;
    let mut roots = rustls::RootCertStore::empty();
    for der in &authorities {
        let added = roots.add(CertificateDer::from(der.as_slice()));
        added.map_err(|_| RenewError::Unusable("an authority in it is none"))?;
    }
    if Looked::at(&certificates[0]).is_err() {
        return Err(RenewError::Unusable("the certificate in it is none"));
    }
    Ok(Taken { issued, certificates, authorities })
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

    use super::*;

    /// Signed by that authority on one day of 2026, until another.
    fn signed(authority: &str, from: u8, until: u8) -> Looked {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, authority);
        let issuer = Issuer::new(params, KeyPair::generate().expect("a key"));
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 3, from);
        params.not_after = rcgen::date_time_ymd(2026, 3, until);
        let key = KeyPair::generate().expect("a key");
        Looked::at(params.signed_by(&key, &issuer).expect("signs").der()).expect("a certificate")
    }

    #[test]
    fn a_clock_that_is_behind_takes_no_good_certificate_away() {
        let present = signed("first", 10, 20);
        let behind = |next| is_of_a_clock_behind(&present, &next);
        assert!(behind(signed("first", 9, 19)));
        assert!(behind(signed("first", 2, 12)));
        assert!(!behind(signed("first", 16, 26)), "a renewal as it should be");
        assert!(!behind(signed("first", 12, 14)), "certificates last shorter now");
        assert!(!behind(signed("first", 9, 22)), "it ends later all the same");
        assert!(!behind(signed("second", 9, 19)), "another authority");
        assert!(!behind(signed("first", 10, 20)), "asked again within a second");
    }
}
