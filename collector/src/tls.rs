//! Trust on the ingest port: TLS 1.3 only, both ways.
//!
//! [`Trust`] holds what connections are accepted with now. It changes while they go on: the server's certificate
//! is renewed, authorities come and go, files of the site's own authority are read again. Every new connection
//! takes what is there; requests on older ones are checked against it ([`peer`]).
//!
//! Sessions are not resumed: every connection shows its certificate. Deliberately absent: TLS on the port of
//! pages and API, which stays on loopback or behind a proxy of the operator's.

pub mod authority;
pub mod bench;
pub mod config;
pub mod peer;
pub mod serve;
pub mod verify;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, VerifierBuilderError, danger::ClientCertVerifier},
    time_provider::TimeProvider,
};
use weighbridge_journal::fail;
use weighbridge_meter::{AgentId, UtcMillis};
use weighbridge_registry::KeyStore;
use weighbridge_wire::certificate::{IdentityPattern, Looked};

use self::{
    authority::{Authorities, AuthorityError, AuthorityInfo, Signed},
    config::{Own, Security, Site},
    verify::AgentVerifier,
};
use crate::{app::Clock, random};

/// Trust cannot be set up, or not changed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The collector's own authority.
    #[error("the authority of this collector")]
    Authority(#[from] AuthorityError),
    /// A file of the site's authority.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The authorities cannot be used.
    #[error("the authorities cannot be used")]
    Verifier(#[from] VerifierBuilderError),
    /// The certificate cannot be used; as a rule the key is of another one.
    #[error("the server's certificate cannot be used")]
    Unusable(#[from] rustls::Error),
    /// There is nothing of that kind here.
    #[error("{0}")]
    NotHere(&'static str),
}

/// What connections are accepted with.
#[derive(Debug)]
pub struct Trust {
    kind: Kind,
    clock: Wall,
    current: RwLock<Arc<Current>>,
    /// Held while `current` is made anew, so that what is older never replaces what is newer.
    renewing: Mutex<()>,
}

#[derive(Debug)]
enum Kind {
    Plain,
    Own(Own, Mutex<Authorities>),
    Site(Site, Mutex<[u8; 32]>),
}

#[derive(Debug)]
struct Current {
    version: u64,
    /// `None`: plain HTTP.
    accept: Option<Accept>,
}

#[derive(Debug)]
struct Accept {
    config: Arc<ServerConfig>,
    verifier: Arc<AgentVerifier>,
    server: Looked,
}

#[derive(Clone)]
struct Wall(Clock);

impl std::fmt::Debug for Wall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wall")
    }
}

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix((self.0)()))
    }
}

fn unix(moment: UtcMillis) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(moment.0 / 1000).unwrap_or(0)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Trust {
    /// Sets it up; makes the first authority if there is none.
    pub fn open(security: &Security, keys: &KeyStore, clock: Clock) -> Result<Self, TrustError> {
        let now = clock();
        let kind = match security {
            Security::Plain => Kind::Plain,
            Security::Own(own) => {
                let (authorities, made) = Authorities::open_or_make(keys, now, &mut random::fill)?;
                if made {
                    tracing::info!(
                        authority = authorities.infos().first().map(|one| one.fingerprint.as_str()),
                        "made a certificate authority in the key folder"
                    );
                }
                Kind::Own(own.clone(), Mutex::new(authorities))
            }
            Security::Site(site) => Kind::Site(site.clone(), Mutex::default()),
        };
        Self::with(kind, Wall(clock))
    }

    fn with(kind: Kind, clock: Wall) -> Result<Self, TrustError> {
        let current = RwLock::new(Arc::new(Current { version: 0, accept: None }));
        let trust = Self { kind, clock, current, renewing: Mutex::default() };
        trust.renew()?;
        Ok(trust)
    }

    fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the next connection is accepted with; `None`: plain HTTP.
    pub fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.current().accept.as_ref().map(|accept| accept.config.clone())
    }

    /// Whether connections are secured.
    pub fn is_secure(&self) -> bool {
        self.current().accept.is_some()
    }

    /// Grows with each change.
    pub fn version(&self) -> u64 {
        self.current().version
    }

    /// When the server's certificate ends.
    pub fn server_until(&self) -> Option<UtcMillis> {
        self.current().accept.as_ref().map(|accept| accept.server.not_after)
    }

    /// Whether a certificate is still believed.
    fn check(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UtcMillis,
    ) -> Result<(), rustls::Error> {
        match &self.current().accept {
            Some(accept) => accept.verifier.verify_client_cert(own, between, unix(now)).map(drop),
            None => Ok(()),
        }
    }

    /// The agent that a certificate names.
    fn agent_of(&self, looked: &Looked) -> Option<AgentId> {
        match &self.kind {
            Kind::Plain => None,
            Kind::Own(..) => IdentityPattern::default().agent_of(looked),
            Kind::Site(site, _) => site.identity.agent_of(looked),
        }
    }

    /// How long after its end a certificate can be renewed.
    pub fn grace(&self) -> Duration {
        match &self.kind {
            Kind::Own(own, _) => own.grace,
            Kind::Plain | Kind::Site(..) => Duration::ZERO,
        }
    }

    /// Makes the server's certificate anew, or reads it; also after any change of the authorities.
    fn renew(&self) -> Result<(), TrustError> {
        let _one_at_a_time = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.clock.0)();
        let (roots, chain, key, grace) = match &self.kind {
            Kind::Plain => return Ok(()),
            Kind::Own(own, authorities) => {
                let authorities = authorities.lock().unwrap_or_else(PoisonError::into_inner);
                let server = authorities.server(&own.names, own.server_lasts, now, &mut random::fill)?;
                (authorities.roots(), server.chain, PrivateKeyDer::from(server.key), own.grace)
            }
            Kind::Site(site, read) => {
                let bytes = read_site(site)?;
                *read.lock().unwrap_or_else(PoisonError::into_inner) = hash(&bytes);
                let [certificate, key, authorities] = bytes;
                let key = PrivateKeyDer::from_pem_slice(&key)
                    .map_err(|error| file(&site.key, format!("no private key in PEM: {error}")))?;
                (
                    certificates(&site.authorities, &authorities)?,
                    certificates(&site.certificate, &certificate)?,
                    key,
                    Duration::ZERO,
                )
            }
        };
        let server = chain.first().and_then(|first| Looked::at(first).ok());
        let server = server.ok_or(TrustError::NotHere("the server's certificate does not read"))?;
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root)?;
        }
        let verifier = Arc::new(AgentVerifier::new(store, grace, provider())?);
        let config = server_config(chain, key, verifier.clone(), Arc::new(self.clock.clone()))?;
        let accept = Some(Accept { config: Arc::new(config), verifier, server });
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(Current { version: current.version + 1, accept });
        Ok(())
    }

    /// Does what is due: renews the server's certificate, or reads changed files. Whether anything was.
    pub fn tick(&self) -> Result<bool, TrustError> {
        let due = match &self.kind {
            Kind::Plain => false,
            Kind::Own(..) => {
                let current = self.current();
                let due = |accept: &Accept| accept.server.renew_at() <= (self.clock.0)();
                current.accept.as_ref().is_some_and(due)
            }
            Kind::Site(site, read) => {
                hash(&read_site(site)?) != *read.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        if due {
            self.renew()?;
        }
        Ok(due)
    }

    fn own(&self) -> Result<(&Own, &Mutex<Authorities>), TrustError> {
        match &self.kind {
            Kind::Own(own, authorities) => Ok((own, authorities)),
            Kind::Plain => Err(TrustError::NotHere("ingest takes plain HTTP: there is no authority here")),
            Kind::Site(..) => {
                Err(TrustError::NotHere("certificates come from the site's own authority, not from here"))
            }
        }
    }

    /// Signs a certificate for an agent.
    pub fn sign(&self, agent: &AgentId, request: &[u8]) -> Result<Signed, TrustError> {
        let (own, authorities) = self.own()?;
        let mut authorities = authorities.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(authorities.agent(agent, request, own.agent_lasts, (self.clock.0)(), &mut random::fill)?)
    }

    /// Whom agents are to believe.
    pub fn roots(&self) -> Result<Vec<CertificateDer<'static>>, TrustError> {
        let (_, authorities) = self.own()?;
        Ok(authorities.lock().unwrap_or_else(PoisonError::into_inner).roots())
    }

    /// The fingerprint of the authority that signs.
    pub fn fingerprint(&self) -> Result<[u8; 32], TrustError> {
        let (_, authorities) = self.own()?;
        Ok(authorities.lock().unwrap_or_else(PoisonError::into_inner).fingerprint())
    }

    /// The authorities, for people.
    pub fn authorities(&self) -> Result<Vec<AuthorityInfo>, TrustError> {
        let (_, authorities) = self.own()?;
        Ok(authorities.lock().unwrap_or_else(PoisonError::into_inner).infos())
    }

    /// Puts the authorities' keys under the operator's key that is in use, those too of an authority of its own that
    /// is not used at present.
    pub fn relock(&self, keys: &KeyStore) -> Result<(), TrustError> {
        match &self.kind {
            Kind::Own(_, authorities) => {
                let mut authorities = authorities.lock().unwrap_or_else(PoisonError::into_inner);
                authorities.relock(keys, &mut random::fill)?;
            }
            Kind::Plain | Kind::Site(..) => {
                if let Some(mut authorities) = Authorities::open(keys)? {
                    authorities.relock(keys, &mut random::fill)?;
                }
            }
        }
        Ok(())
    }

    /// Takes a step of a rollover; it counts at once.
    pub fn step(&self, step: Step, force: bool, keys: &KeyStore) -> Result<(), TrustError> {
        let now = (self.clock.0)();
        let (own, authorities) = self.own()?;
        let failed = |source| AuthorityError::File { doing: "change", path: keys.folder().into(), source };
        fail::before("authority.step").map_err(failed)?;
        let stepped = {
            let mut authorities = authorities.lock().unwrap_or_else(PoisonError::into_inner);
            match step {
                Step::Introduce => authorities.introduce(keys, now, &mut random::fill),
                Step::Activate => authorities.activate(now, own.agent_lasts, force),
                Step::Retire => authorities.retire(now, own.agent_lasts, own.grace, force),
            }
        };
        // Whatever came of it: connections are accepted with what is there now.
        let renewed = self.renew();
        stepped?;
        renewed?;
        fail::after("authority.step").map_err(failed)?;
        Ok(())
    }
}

/// A step of a rollover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A new authority beside the active one.
    Introduce,
    /// It signs from now on.
    Activate,
    /// Those that signed before are gone.
    Retire,
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    verifier: Arc<dyn ClientCertVerifier>,
    time: Arc<dyn TimeProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn file(path: &std::path::Path, problem: impl ToString) -> TrustError {
    TrustError::File { path: path.into(), problem: problem.to_string() }
}

fn read_site(site: &Site) -> Result<[Vec<u8>; 3], TrustError> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| file(path, error));
    Ok([read(&site.certificate)?, read(&site.key)?, read(&site.authorities)?])
}

fn hash(parts: &[Vec<u8>; 3]) -> [u8; 32] {
    let hashes = parts.each_ref().map(|part| weighbridge_wire::hash(part));
    weighbridge_wire::hash(&hashes.concat())
}

fn certificates(path: &std::path::Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.ok().filter(|list| !list.is_empty());
    read.ok_or_else(|| file(path, "no certificates in PEM"))
}
