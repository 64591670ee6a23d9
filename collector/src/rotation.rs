//! Another operator's key in the place of the one before, while the collector runs.
//!
//! The key store does it ([`weighbridge_registry::KeyStore::begin_rotation`]); here is what else hangs on the key: the
//! authorities' keys, the file that the next start reads, the token for the API, which follows from the key in use and
//! is that of either until the end, and the record of it. A start that finds a change begun finishes it.

use std::path::{Path, PathBuf};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    routing::post,
};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use weighbridge_registry::{KeyError, Locks, OperatorKey};
use weighbridge_store::{ledger::CommitError, verify::chain_of};

use crate::{
    api::problem::{Admin, Problem},
    app::{App, record},
    command::{Access, Failure, access, say},
    config::Config,
    judge::fact,
    parties::{By, PartyError},
    random,
    tls::TrustError,
};

/// The keys of identities.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Puts another operator's key in the place of the one in use, without a stop. Interrupted, it is repeated.
    Rotate {
        /// File with the new key, 32 bytes in base64, readable for the collector.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Who does it; recorded in the ledger.
        #[arg(long, env = "USER")]
        actor: String,
    },
    /// Shows which operator's key is in use, and how many keys it locks.
    Status,
    /// Records that a mirror of the key store (backup --keys) is there no more: what was destroyed is not in it.
    MirrorGone {
        /// Its folder, as it was made.
        #[arg(long, value_name = "DIR")]
        mirror: PathBuf,
        /// Who says so; recorded in the ledger.
        #[arg(long, env = "USER")]
        actor: String,
        /// Why; recorded in the ledger.
        #[arg(long)]
        reason: String,
    },
}

/// What an operator wants done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// Puts another key in the place of the one in use.
    Rotate {
        /// Where it lies.
        to: PathBuf,
        /// Who does it.
        actor: String,
    },
    /// Tells how it stands.
    Status {},
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Acted {
    /// For people, line by line.
    pub said: Vec<String>,
}

/// It was not done, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// It makes no sense as things stand.
    #[error("{0}")]
    Unusable(String),
    /// The keys.
    #[error("the keys of customers: repeat the change")]
    Keys(#[from] KeyError),
    /// The authorities.
    #[error("the keys of the authorities: repeat the change")]
    Trust(#[from] TrustError),
    /// The record.
    #[error("the ledger took no record of it: repeat the change")]
    Commit(#[from] CommitError),
}

impl App {
    /// Does it. Once begun it goes to its end, even if whoever asked for it goes away.
    pub async fn keys_act(&self, act: Act) -> Result<Acted, RotationError> {
        let app = self.clone();
        let done = tokio::spawn(async move {
            match act {
                Act::Status {} => Ok(Acted { said: app.key_lines()? }),
                Act::Rotate { to, actor } => app.rotate(&to, &actor).await,
            }
        });
        done.await.unwrap_or(Err(RotationError::Commit(CommitError::Unwritable)))
    }

    async fn rotate(&self, to: &Path, actor: &str) -> Result<Acted, RotationError> {
        if actor.trim().is_empty() {
            return Err(RotationError::Unusable("who does it is blank".into()));
        }
        if !to.is_absolute() {
            return Err(RotationError::Unusable(format!("{}: expected an absolute path", to.display())));
        }
        let unusable = |error: KeyError| RotationError::Unusable(chain_of(&error));
        let _one_at_a_time = self.rotating.lock().await;
        let new = OperatorKey::from_file(to).map_err(unusable)?;
        self.blocking(move |app| app.keys.begin_rotation(new, Some(to), &mut random::fill)).map_err(
            |error| match error {
                error @ (KeyError::SameOperatorKey { .. } | KeyError::Rotating { .. }) => unusable(error),
                error => error.into(),
            },
        )?;
        let new = OperatorKey::from_file(to).map_err(unusable)?;
        let mut said = self.finish_rotation(actor, Some(&new)).await?;
        said.push("programs with a token for the API need the new one: weighbridge-collector token".into());
        Ok(Acted { said })
    }

    /// Changes every lock, puts the new key where the next start looks for it, records what was done, and forgets the
    /// key before.
    pub(crate) async fn finish_rotation(
        &self,
        actor: &str,
        new_key: Option<&OperatorKey>,
    ) -> Result<Vec<String>, RotationError> {
        let (new, Some(old)) = self.keys.operators() else { return Ok(Vec::new()) };
        tracing::warn!(old, new, "the operator's key is being changed");
        let locks = self.blocking(|app| {
            app.trust.relock(&app.keys)?;
            Ok::<_, RotationError>(app.keys.change_locks(&mut random::fill)?)
        })?;
        // Before the key there is forgotten: a start that finds it then still gets on.
        let put = new_key.map(|key| self.operator_key.put(key)).unwrap_or_default();
        put.iter().for_each(|line| tracing::warn!("{line}"));
        let body = serde_json::json!({
            "act": "operator_key_rotated", "actor": actor, "from": old, "to": new,
            "keys": locks.current, "unfit": locks.unfit,
        });
        // Before the last step: after it nothing would say that a record is missing.
        self.record(vec![fact(record::AUDIT, &new, &body)]).await?;
        self.blocking(|app| app.keys.finish_rotation(&mut random::fill))?;
        tracing::warn!(old, new, keys = locks.current, "the operator's key has changed");
        let mut said = vec![format!(
            "operator key {new} is in the place of {old}: {} keys are locked with it",
            locks.current
        )];
        said.extend(unfit(&locks));
        said.extend(put);
        Ok(said)
    }

    fn key_lines(&self) -> Result<Vec<String>, RotationError> {
        let locks = self.blocking(|app| app.keys.locks())?;
        let (current, before) = self.keys.operators();
        let mut said = vec![format!(
            "operator key {current} is in use: {} keys are locked with it, {} are destroyed",
            locks.current, locks.destroyed
        )];
        if let Some(before) = before {
            said.push(format!(
                "operator key {before} is being left: {} keys; repeat the change",
                locks.before
            ));
        }
        said.extend(unfit(&locks));
        said.push(format!("the next start takes the key from {}", self.operator_key));
        Ok(said)
    }

    /// Work on the disk, of which the other tasks of this thread do not wait for the end where that can be.
    pub(crate) fn blocking<T>(&self, run: impl FnOnce(&Self) -> T) -> T {
        match tokio::runtime::Handle::current().runtime_flavor() {
            tokio::runtime::RuntimeFlavor::CurrentThread => run(self),
            _ => tokio::task::block_in_place(|| run(self)),
        }
    }
}

fn unfit(locks: &Locks) -> Vec<String> {
    if locks.unfit == 0 {
        return Vec::new();
    }
    let named: Vec<_> = locks.named.iter().map(|path| path.display().to_string()).collect();
    vec![format!("{} files are no keys that open, and were left: {}", locks.unfit, named.join(", "))]
}

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/api/v1/keys", post(act))
}

async fn act(
    State(app): State<App>,
    _admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Acted>, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), "body not readable", error.body_text()))?;
    let act: Act = serde_json::from_slice(&body).map_err(Problem::unusable)?;
    app.keys_act(act).await.map(Json).map_err(|error| match error {
        RotationError::Unusable(detail) => Problem::unusable(detail),
        error => Problem::failed(&error),
    })
}

impl Keys {
    /// By the collector that runs, or in this process.
    pub(crate) async fn run(self, config: &Config) -> Result<(), Failure> {
        let act = match self {
            Self::MirrorGone { mirror, actor, reason } => {
                return mirror_gone(config, &mirror, By { actor, reason }).await;
            }
            Self::Status => Act::Status {},
            Self::Rotate { to, actor } => {
                let to = std::path::absolute(&to)
                    .map_err(|error| Failure::usage(format!("{}: {error}", to.display())))?;
                Act::Rotate { to, actor }
            }
        };
        let acted = match access(config).await? {
            Access::Here(app) => {
                let acted = app.keys_act(act).await.map_err(|error| match error {
                    RotationError::Unusable(text) => Failure::check(text),
                    error => Failure::missing(&error),
                })?;
                app.store.close().await;
                acted
            }
            Access::Running(remote) => {
                let body = serde_json::to_vec(&act).map_err(|error| Failure::missing(&error))?;
                let answer = remote.post("/api/v1/keys", &[], "application/json", body).await?;
                serde_json::from_str::<Acted>(&answer).map_err(|error| Failure::missing(&error))?
            }
        };
        acted.said.iter().for_each(say);
        Ok(())
    }
}

async fn mirror_gone(config: &Config, mirror: &Path, by: By) -> Result<(), Failure> {
    let folder = std::path::absolute(mirror)
        .map_err(|error| Failure::usage(format!("{}: {error}", mirror.display())))?;
    let to = folder.display().to_string();
    match access(config).await? {
        Access::Here(app) => {
            app.mirror_gone(&to, by).await.map_err(|error| match error {
                error @ (PartyError::Bad(_) | PartyError::Blank(_)) => Failure::check(chain_of(&error)),
                error => Failure::missing(&error),
            })?;
            app.store.close().await;
        }
        Access::Running(remote) => {
            let body = serde_json::json!({ "to": to, "gone": by }).to_string().into_bytes();
            remote.post("/api/v1/key-mirrors", &[], "application/json", body).await?;
        }
    }
    say(format_args!("{to}: recorded that this mirror of the key store is gone"));
    Ok(())
}
