//! How the ingest port is secured, as configured.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use weighbridge_wire::certificate::IdentityPattern;

use crate::config::{ConfigError, RawIngest};

/// `[authority]`, as written: what the collector's own authority signs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawAuthority {
    /// How long an agent's certificate lasts, `2s` to `8760h`. Default `24h`; it is renewed at two thirds.
    agent_certificate: Option<String>,
    /// How long the collector's own lasts, `2s` to `8760h`. Default `720h`; it is renewed at two thirds.
    server_certificate: Option<String>,
    /// How long after its end a certificate can still be renewed, up to `8760h`: for hosts that were off, and
    /// for a collector that was. Default `720h`; later than that a host needs another join token. An authority is
    /// retired so much later, too.
    grace: Option<String>,
}

/// How the ingest port is secured.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all, on loopback.
    Plain,
    /// By the collector's own authority.
    Own(Own),
    /// By the site's.
    Site(Site),
}

/// What the collector's own authority signs.
#[derive(Clone, Debug)]
pub struct Own {
    /// For the server's certificate.
    pub names: Vec<String>,
    /// Of an agent's certificate.
    pub agent_lasts: Duration,
    /// Of the server's.
    pub server_lasts: Duration,
    /// After the end of an agent's.
    pub grace: Duration,
}

/// Files of the site's own authority.
#[derive(Clone, Debug)]
pub struct Site {
    /// The server's.
    pub certificate: PathBuf,
    /// Of that.
    pub key: PathBuf,
    /// By which agents are believed.
    pub authorities: PathBuf,
    /// How agents are named.
    pub identity: IdentityPattern,
}

impl Security {
    pub(crate) fn check(
        ingest: RawIngest,
        authority: &RawAuthority,
        listen: SocketAddr,
        hostname: &str,
    ) -> Result<Self, ConfigError> {
        let bad = |key, value: String, expected| ConfigError::Value { key, value, expected };
        let agent_lasts = lasts("authority.agent_certificate", &authority.agent_certificate, "24h", "2s")?;
        let server_lasts =
            lasts("authority.server_certificate", &authority.server_certificate, "720h", "2s")?;
        let grace = lasts("authority.grace", &authority.grace, "720h", "0s")?;
        if ingest.plain_http_on_loopback == Some(true) {
            if !listen.ip().is_loopback() {
                let expected = "a loopback address, which ingest.plain_http_on_loopback needs";
                return Err(bad("ingest.listen", listen.to_string(), expected));
            }
            return Ok(Self::Plain);
        }
        match (ingest.certificate_file, ingest.key_file, ingest.authorities_file) {
            (None, None, None) => {}
            (Some(certificate), Some(key), Some(authorities)) => {
                let pattern = ingest.identity.unwrap_or_else(|| IdentityPattern::default().to_string());
                let expected = "a URI with {agent} in it once, such as weighbridge://agent/{agent}";
                let identity = pattern.parse().map_err(|_| bad("ingest.identity", pattern, expected))?;
                return Ok(Self::Site(Site { certificate, key, authorities, identity }));
            }
            _ => {
                let expected = "all of certificate_file, key_file and authorities_file, or none of them";
                return Err(bad("ingest", "a part".into(), expected));
            }
        }
        if let Some(identity) = ingest.identity {
            let expected =
                "left out without certificate_file: the collector's own authority names agents itself";
            return Err(bad("ingest.identity", identity, expected));
        }
        let names = match ingest.names {
            Some(names) => names,
            None => default_names(listen, hostname),
        };
        let expected = "host names and addresses, without port";
        if names.is_empty() {
            return Err(bad("ingest.names", String::new(), expected));
        }
        for name in &names {
            if rustls::pki_types::ServerName::try_from(name.as_str()).is_err() {
                return Err(bad("ingest.names", name.clone(), expected));
            }
        }
        Ok(Self::Own(Own { names, agent_lasts, server_lasts, grace }))
    }
}

fn default_names(listen: SocketAddr, hostname: &str) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if rustls::pki_types::ServerName::try_from(hostname).is_ok() {
        names.push(hostname.to_owned());
    }
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    names.sort();
    names.dedup();
    names
}

fn lasts(
    key: &'static str,
    text: &Option<String>,
    default: &str,
    least: &str,
) -> Result<Duration, ConfigError> {
    let text = text.as_deref().unwrap_or(default);
    let parse = |text: &str| {
        let span: jiff::SignedDuration = text.parse().ok()?;
        Duration::try_from(span).ok()
    };
    let limits = parse(least).unwrap_or_default()..=Duration::from_secs(8760 * 3600);
    parse(text).filter(|lasts| limits.contains(lasts)).ok_or_else(|| ConfigError::Value {
        key,
        value: text.into(),
        expected: if least == "0s" {
            "a duration from 0s to 8760h, such as 720h"
        } else {
            "a duration from 2s to 8760h, such as 24h"
        },
    })
}
