//! `weighbridge-collector enrol` and `weighbridge-collector ca`.

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use clap::Subcommand;
use weighbridge_meter::{AgentId, Trust};

use super::{Act, ActError, Acted};
use crate::{
    command::{Access, Failure, access, say},
    config::Config,
    tls::{Step, TrustError, authority::AuthorityError},
};

/// Who may send.
#[derive(Debug, Subcommand)]
pub enum Enrol {
    /// Makes a join token, which lets one agent join once.
    Token {
        /// Name of the agent, as in its configuration.
        #[arg(long)]
        agent: AgentId,
        /// Its host, as leases name it.
        #[arg(long)]
        host: String,
        /// Where that is.
        #[arg(long)]
        site: String,
        /// What joins its accelerators to others.
        #[arg(long)]
        fabric: String,
        /// How far it is to be trusted at most: guest, host, or bmc for an agent that reads management controllers.
        #[arg(long, default_value = "host", value_parser = trust)]
        trust: Trust,
        /// How long the token can be used, up to 168h.
        #[arg(long, default_value = "1h", value_parser = seconds)]
        valid: u64,
        /// Writes the token to this new file, for its owner to read, instead of printing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Shuts an agent out, at once and until it is allowed again.
    Deny {
        /// Which.
        agent: AgentId,
        /// Why; recorded in the ledger and told to the agent.
        #[arg(long)]
        reason: String,
    },
    /// Lets an agent in again that was shut out.
    Allow {
        /// Which.
        agent: AgentId,
    },
    /// Lists tokens that can still be used, and the deny list.
    Ls,
}

/// The certificate authority.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Makes the authority if there is none yet, and shows it; `serve` does the same.
    Init,
    /// Shows the authorities: fingerprint, stage, times.
    Show,
    /// Rollover, first step: a new authority beside the active one, which agents learn when they renew.
    Introduce,
    /// Second step: the new authority signs from now on.
    Activate {
        /// Though some agent may not know it yet.
        #[arg(long)]
        force: bool,
    },
    /// Third step: the authorities before are gone, and certificates by them end.
    Retire {
        /// Though some agent may still have one.
        #[arg(long)]
        force: bool,
    },
}

fn trust(text: &str) -> Result<Trust, String> {
    Trust::from_name(text).ok_or_else(|| "expected guest, host or bmc".into())
}

fn seconds(text: &str) -> Result<u64, String> {
    let span: Option<jiff::SignedDuration> = text.parse().ok();
    let seconds = span.and_then(|span| u64::try_from(span.as_secs()).ok()).filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| "expected a duration such as 30m or 24h".into())
}

/// Runs it.
pub(crate) async fn enrol(config: &Config, command: Enrol) -> Result<(), Failure> {
    match command {
        Enrol::Token { agent, host, site, fabric, trust, valid, out } => {
            let act = Act::Token { agent, host, site, fabric, max_trust: trust, valid_s: valid };
            let Acted { said, token } = done(config, act).await?;
            let token = token.unwrap_or_default();
            match out {
                None => say(token),
                Some(file) => {
                    let new =
                        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
                    let written = new.and_then(|mut file| writeln!(file, "{token}"));
                    written.map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
                    said.iter().for_each(say);
                }
            }
            Ok(())
        }
        Enrol::Deny { agent, reason } => shown(config, Act::Deny { agent, reason }).await,
        Enrol::Allow { agent } => shown(config, Act::Allow { agent }).await,
        Enrol::Ls => shown(config, Act::List {}).await,
    }
}

/// Runs it.
pub(crate) async fn ca(config: &Config, command: &Ca) -> Result<(), Failure> {
    let step = |step, force| Act::Step { step, force };
    let act = match *command {
        Ca::Init | Ca::Show => Act::Authorities {},
        Ca::Introduce => step(Step::Introduce, false),
        Ca::Activate { force } => step(Step::Activate, force),
        Ca::Retire { force } => step(Step::Retire, force),
    };
    shown(config, act).await
}

async fn shown(config: &Config, act: Act) -> Result<(), Failure> {
    done(config, act).await?.said.iter().for_each(say);
    Ok(())
}

/// By the collector that runs, or in this process.
async fn done(config: &Config, act: Act) -> Result<Acted, Failure> {
    match access(config).await? {
        Access::Here(app) => app.act(act).await.map_err(failure),
        Access::Running(remote) => {
            let body = serde_json::to_vec(&act).expect("plain data with string keys");
            let answer = remote.post("/api/v1/trust", &[], "application/json", body).await?;
            serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))
        }
    }
}

fn failure(error: ActError) -> Failure {
    match error {
        ActError::Unusable(_)
        | ActError::Trust(
            TrustError::NotHere(_)
            | TrustError::Authority(AuthorityError::Step(_) | AuthorityError::TooEarly { .. }),
        ) => Failure::check(weighbridge_store::verify::chain_of(&error)),
        error => Failure::missing(&error),
    }
}
