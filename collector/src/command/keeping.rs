//! Commands that keep a store: back it up, restore it, prune it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use weighbridge_journal::OpenError;
use weighbridge_meter::{EpochId, UtcMillis};
use weighbridge_store::{
    LedgerOptions, Place,
    ledger::{LedgerError, OpenLedger},
};
use weighbridge_wire::KeyId;

use super::{Access, Failure, Remote, access, say};
use crate::{
    app,
    backup::{self, BackupError, keys},
    config::{Config, DEFAULT_FILE},
    opening::Places,
    progress,
    prune::PruneError,
    random,
    restore::{self, RestoreError, Signer},
};

/// Copies the whole collector, while it runs or not, into a folder; again into the same folder, only what is new.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// Folder of the backup; it is made, or brought up to date.
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    to: Option<PathBuf>,
    /// Mirror the key store instead, into a folder apart: what is destroyed in the store is destroyed there too.
    #[arg(long, requires = "to")]
    keys: bool,
    /// Read a backup again and compare it with its manifest.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["to", "keys"])]
    check: Option<PathBuf>,
}

/// Puts a backup into an empty data folder, under a new generation: agents then send again what they still hold.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// Folder of the backup.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Id of the key that must have signed it, where that is not the key of this collector.
    #[arg(long, value_name = "KEY")]
    signed_by: Option<String>,
}

/// Removes payloads received before a date, after what was made of them is written down in a signed summary.
#[derive(Debug, Args)]
pub(super) struct Prune {
    /// A date, or a whole hour such as 2026-01-31T08:00:00Z. Hours before it are closed for good.
    #[arg(long, value_name = "DATE")]
    before: String,
}

fn of_backup(error: BackupError) -> Failure {
    match error {
        BackupError::Folder { .. } => Failure::usage(error),
        BackupError::Unlike(_) | BackupError::Manifest { .. } => Failure::check(error),
        BackupError::Maintenance(error) => of_prune(error),
        BackupError::File { .. } | BackupError::Ledger(_) => Failure::missing(&error),
    }
}

fn of_prune(error: PruneError) -> Failure {
    match error {
        PruneError::Date { .. } => Failure::usage(error),
        PruneError::Unfaithful | PruneError::Behind(_) => Failure::check(error),
        _ => Failure::missing(&error),
    }
}

fn of_restore(error: RestoreError) -> Failure {
    match error {
        RestoreError::Backup(error) => of_backup(error),
        RestoreError::Occupied { .. } => Failure::usage(error),
        RestoreError::Signature { .. } | RestoreError::Ledger { .. } => Failure::check(error),
        RestoreError::Generation(_) | RestoreError::Opening(_) => Failure::missing(&error),
    }
}

impl Backup {
    pub(super) async fn run(self, config: &Config, file: Option<PathBuf>) -> Result<(), Failure> {
        let tell = |line: String| say(line);
        if let Some(from) = &self.check {
            let (manifest, key) =
                tokio::task::block_in_place(|| backup::check(from, &tell)).map_err(of_backup)?;
            let head = &manifest.head;
            say(format_args!(
                "{} files, {}, as of {}: the ledger before entry {}, generation {}",
                head.files,
                progress::bytes(head.bytes),
                head.made_at,
                head.place.index,
                head.generation
            ));
            say(format_args!("signed by {key}"));
            say("ok");
            return Ok(());
        }
        let Some(to) = self.to else { return Err(Failure::usage("--to DIR is missing")) };
        if self.keys {
            // Before it is done: a copy that nobody knows of could not be told to forget.
            let folder = std::path::absolute(&to).unwrap_or_else(|_| to.clone()).display().to_string();
            let began = mirroring(config, &folder, None).await?;
            let mirrored =
                tokio::task::block_in_place(|| keys::mirror(&config.key_store, &to)).map_err(of_backup)?;
            if began.is_some() {
                mirroring(config, &folder, began).await?;
            }
            say(format_args!(
                "{} files of the key store mirrored, {} destroyed; keep this folder apart from every backup of the ledger, and no older state of it",
                mirrored.files, mirrored.destroyed
            ));
            say("the operator's key is not in it: keep a copy of that apart from both");
            return Ok(());
        }
        let places = Places::of(config);
        if !places.ledger.is_dir() {
            return Err(Failure {
                code: 3,
                text: format!("{}: there is no ledger", places.ledger.display()),
            });
        }
        let fixed = stopped_at(&places.ledger)?;
        let source = backup::Source {
            configuration: configuration(config, file),
            key: app::signing_key(&config.key_store.join("collector-signing.key"))
                .map_err(|error| Failure::missing(&error))?,
            places,
        };
        let mut refused = None;
        let mut durable = || match fixed {
            Some(place) => Ok(place),
            None => tokio::runtime::Handle::current().block_on(durable_of(config)).map_err(|failure| {
                let problem = failure.text.clone();
                refused = Some(failure);
                BackupError::Folder { path: config.data.clone(), problem }
            }),
        };
        let made =
            tokio::task::block_in_place(|| backup::make(&source, &to, random::now(), &mut durable, &tell));
        let manifest = made.map_err(|error| refused.take().unwrap_or_else(|| of_backup(error)))?;
        say(format_args!(
            "backup of generation {} in {}: the ledger before entry {}",
            manifest.head.generation,
            to.display(),
            manifest.head.place.index
        ));
        say("the keys are not in it: backup --keys --to ANOTHER_DIR");
        Ok(())
    }
}

/// Tells the collector that its key store is about to be mirrored, or that the run that began then is done; when it
/// began. `None` where there is no ledger to tell.
async fn mirroring(
    config: &Config,
    folder: &str,
    done: Option<UtcMillis>,
) -> Result<Option<UtcMillis>, Failure> {
    if !Places::of(config).ledger.is_dir() {
        return Ok(None);
    }
    match access(config).await? {
        Access::Here(app) => {
            let mirror = app.mirror_keys(folder, done).await.map_err(|error| Failure::missing(&error))?;
            // Its files are not to change while they are copied, and it is started again after that.
            let (tree, mut durable) = (app.tree.closed(), app.ledger.durable());
            drop(app);
            while durable.changed().await.is_ok() {}
            tree.await;
            Ok(Some(mirror.began))
        }
        Access::Running(remote) => {
            let body = serde_json::json!({ "to": folder, "done": done }).to_string().into_bytes();
            let answer = remote.post("/api/v1/key-mirrors", &[], "application/json", body).await?;
            let mirror: crate::parties::Mirror =
                serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))?;
            Ok(Some(mirror.began))
        }
    }
}

/// Where a ledger ends that nobody writes; `None` if a collector runs on it.
fn stopped_at(ledger: &Path) -> Result<Option<Place>, Failure> {
    match OpenLedger::open(ledger, &LedgerOptions::default(), &mut random::fill) {
        // Let go at once: a collector may start, what it appends lies behind.
        Ok(open) => Ok(Some(open.durable())),
        Err(LedgerError::Journal { source: OpenError::Locked { .. }, .. }) => Ok(None),
        Err(error) => Err(Failure::missing(&error)),
    }
}

/// How far the ledger of the running collector is durable.
async fn durable_of(config: &Config) -> Result<Place, Failure> {
    let token = app::admin_token(&config.operator_key).map_err(|error| Failure::missing(&error))?;
    let remote = Remote { at: config.http, token };
    let answer = remote.get("/api/v1/status").await?;
    let status: serde_json::Value =
        serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))?;
    let durable = &status["ledger"]["durable"];
    let number = |key: &str| {
        durable[key].as_u64().ok_or_else(|| Failure {
            code: 3,
            text: format!("http://{}/api/v1/status: no ledger.durable.{key} in the answer", config.http),
        })
    };
    Ok(Place { index: number("index")?, segment: number("segment")?, offset: number("offset")? })
}

/// Files of the configuration, as far as there are any.
fn configuration(config: &Config, file: Option<PathBuf>) -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    let file = file.unwrap_or_else(|| DEFAULT_FILE.into());
    if file.is_file() {
        files.insert("collector.toml".to_owned(), file);
    }
    let packs = config.packs_folder.as_ref().and_then(|folder| std::fs::read_dir(folder).ok());
    for entry in packs.into_iter().flatten().flatten() {
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_file()
        {
            files.insert(format!("packs/{name}"), entry.path());
        }
    }
    files
}

impl Restore {
    pub(super) fn run(self, config: &Config) -> Result<(), Failure> {
        let key = config.key_store.join("collector-signing.key");
        let signer = match self.signed_by {
            Some(named) => Signer::Named(named),
            None if key.exists() => {
                let key = app::signing_key(&key).map_err(|error| Failure::missing(&error))?;
                Signer::This(KeyId::of(&key.verifying_key()))
            }
            None => Signer::Unknown,
        };
        let places = Places::of(config);
        let generation = EpochId(random::bytes());
        let restored = tokio::task::block_in_place(|| {
            restore::restore(&self.from, &places, &signer, generation, random::now(), &|line| say(line))
        });
        let manifest = restored.map_err(of_restore)?;
        let head = &manifest.head;
        say(format_args!(
            "restored into {}: the ledger before entry {}, as of {}",
            config.data.display(),
            head.place.index,
            head.made_at
        ));
        say(format_args!(
            "it was generation {}, it is generation {generation} now: agents send again what they still hold",
            head.generation
        ));
        if let Some(file) = manifest.files.iter().find(|file| file.path == "config/collector.toml") {
            say(format_args!(
                "the configuration of that time is {}; it was not put in place",
                self.from.join(&file.stored).display()
            ));
        }
        Ok(())
    }
}

/// A date, or a moment.
fn moment(text: &str) -> Result<UtcMillis, Failure> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    whole.parse().map_err(|_| {
        Failure::usage(format!(
            "--before: {text:?} is neither a date, 2026-01-31, nor a time, 2026-01-31T08:00:00Z"
        ))
    })
}

impl Prune {
    pub(super) async fn run(self, config: &Config) -> Result<(), Failure> {
        let before = moment(&self.before)?;
        let pruned = match access(config).await? {
            Access::Here(app) => {
                let pruned = app.prune(before).await.map_err(of_prune)?;
                app.store.close().await;
                serde_json::to_value(pruned).map_err(|error| Failure::missing(&error))?
            }
            Access::Running(remote) => {
                let answer = remote
                    .post("/api/v1/prune", &[("before", &before.to_string())], "text/plain", Vec::new())
                    .await?;
                serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))?
            }
        };
        say(told(&pruned));
        Ok(())
    }
}

/// What pruning did, in words.
fn told(pruned: &serde_json::Value) -> String {
    let (closed, because) = (&pruned["closed_before"], pruned["because"].as_str().unwrap_or_default());
    match pruned["summary"].as_u64() {
        None => format!("nothing to prune: {because}"),
        Some(summary) => format!(
            "hours before {} are closed, the summary reflects the ledger before entry {summary}; {} segments removed, {}; not more: {because}",
            closed.as_str().unwrap_or_default(),
            pruned["segments"],
            progress::bytes(pruned["bytes"].as_u64().unwrap_or_default()),
        ),
    }
}
