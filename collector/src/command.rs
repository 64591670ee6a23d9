//! The command line. Exit codes: 0 ok, 1 a check failed, 2 usage or configuration, 3 something needed is not there.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use weighbridge_journal::{OpenError, fail};
use weighbridge_meter::Estimator;
use weighbridge_registry::{Mapping, parse_parties, write_records};
use weighbridge_store::{SqliteStore, UsageStore, ledger::LedgerError, verify};

use crate::{
    api,
    app::{self, App, StartError},
    casefile::Identity,
    config::{self, Config, Flags},
    demo, enrol,
    evaluate::Evaluate,
    import, ingest,
    listen::{self, Limits},
    opening::{self, Places},
    parties::{By, How},
    proof::Content,
    random, rotation, tls, verifying, witness,
};

mod case;
mod keeping;
mod packs;

/// Weighs the compute that tenants use and keeps the book.
#[derive(Debug, Parser)]
#[command(name = "weighbridge-collector", version)]
pub struct Arguments {
    /// Configuration file; without it /etc/weighbridge/collector.toml, if there is one.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes batches, serves pages and API, compares totals with rule packs.
    Serve {
        /// Folder of ledger and sums, instead of the configured one.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// Runs a simulated fleet in fast time against a real collector and tells what happened.
    Demo(demo::Options),
    /// Checks configuration and rule packs and does nothing else.
    CheckConfig,
    /// Records a file: customers, parties, interests, accesses, principals, leases, agents, what Slurm's sacct prints,
    /// or statements of one kind. All rows or none.
    Import {
        /// customers, parties, interests, ftm, bods, verified-claims, accesses, principals, leases, agents, slurm, reservations, declarations,
        /// topologies, classifications, compromises, special-measures, exemptions, programs, attestations,
        /// reseller-programs or reseller-failures.
        kind: import::Kind,
        /// The file.
        file: PathBuf,
        /// Only check it, as if it were recorded.
        #[arg(long)]
        dry_run: bool,
        /// Of parties in CSV: which columns fill which fields, in TOML. Without it columns are called as the fields.
        #[arg(long, value_name = "FILE")]
        mapping: Option<PathBuf>,
    },
    /// Says who may send: join tokens and the deny list.
    #[command(subcommand)]
    Enrol(enrol::command::Enrol),
    /// The certificate authority: shows it, and changes it without a stop.
    #[command(subcommand)]
    Ca(enrol::command::Ca),
    /// The keys of identities: shows which operator's key locks them, and changes it without a stop.
    #[command(subcommand)]
    Keys(rotation::Keys),
    /// Reads the whole ledger again: checksums, chains, signatures, the tree over it, and whether the sums follow.
    Verify(verifying::Options),
    /// Cosigns checkpoints of other collectors, each only if it follows on the last one: for a second party.
    Witness(witness::Options),
    /// Prints the key of the log, which witnesses and auditors need.
    LogKey,
    /// Prints the token for imports, leases and opened identities over the API: it follows from the operator's key.
    Token,
    /// Copies the whole collector into a folder, or checks such a copy.
    Backup(keeping::Backup),
    /// Puts a backup into an empty data folder.
    Restore(keeping::Restore),
    /// Removes old payloads, after a signed summary of them.
    Prune(keeping::Prune),
    /// Throws the sums away and folds them anew from the ledger.
    Rebuild,
    /// Measures estimates and classes against runs of which the truth is known from elsewhere.
    #[command(subcommand)]
    Evaluate(Evaluate),
    /// Rule packs: checks, signs and lists them.
    #[command(subcommand)]
    Packs(packs::Packs),
    /// Lists and shows cases, and says what was done about them.
    #[command(subcommand)]
    Case(case::Cases),
    /// Writes the report of a case as JSON, printable HTML and PDF, with the proof of its figures.
    Report {
        /// Id of the case, such as case-0001.
        case: String,
        /// Who opens the identity; recorded in the ledger.
        #[arg(long, required_unless_present = "masked")]
        actor: Option<String>,
        /// Why; recorded in the ledger.
        #[arg(long, required_unless_present = "masked")]
        reason: Option<String>,
        /// Leave the identity masked: nothing is opened, nothing recorded.
        #[arg(long, conflicts_with_all = ["actor", "reason"])]
        masked: bool,
        /// Folder for the files.
        #[arg(long, default_value = ".", value_name = "DIR")]
        out: PathBuf,
        /// Put the batches into the proof, so that whoever checks it can fold the sums anew; they say what every
        /// accelerator of the report did from minute to minute.
        #[arg(long)]
        with_batches: bool,
        /// The draft of this version as it was, in place of the report as it stands now; without a proof.
        #[arg(long, value_name = "N", conflicts_with_all = ["masked", "with_batches"])]
        version: Option<u32>,
    },
}

/// Why a command ended badly, and with which exit code.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// A check failed.
    pub fn check(text: impl ToString) -> Self {
        Self { code: 1, text: text.to_string() }
    }

    /// Usage or configuration.
    pub fn usage(text: impl ToString) -> Self {
        Self { code: 2, text: text.to_string() }
    }

    /// Something needed is not there, in words.
    pub fn not_there(text: impl ToString) -> Self {
        Self { code: 3, text: text.to_string() }
    }

    /// Something needed is not there.
    pub fn missing(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { code: 3, text: verify::chain_of(error) }
    }
}

/// Runs a command to its end.
pub fn run(arguments: Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(Failure::missing(&error))),
    };
    ended(runtime.block_on(dispatch(arguments)))
}

fn ended(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A closed standard error leaves the exit code, which says enough.
            drop(writeln!(std::io::stderr(), "weighbridge-collector: {}", failure.text));
            ExitCode::from(failure.code)
        }
    }
}

/// Prints a line; a reader that went away ends nothing.
pub(crate) fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

async fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let load = |flags: &Flags| config::load(arguments.config.clone(), flags).map_err(Failure::usage);
    match arguments.command {
        Command::Demo(options) => demo::run(options).await,
        Command::Evaluate(evaluate) => evaluate.run(),
        Command::CheckConfig => {
            let config = load(&Flags::default())?;
            for (pack, enabled) in &config.packs {
                let use_ = if *enabled { "compared with" } else { "loaded, not compared with" };
                say(format_args!("pack {} version {}: {use_}", pack.id, pack.version));
            }
            say("ok");
            Ok(())
        }
        Command::Serve { data } => {
            let config = load(&Flags { data })?;
            start_log(config.log);
            serve(&config).await
        }
        Command::Import { kind, file, dry_run, mapping } => {
            let config = load(&Flags::default())?;
            let read = |path: &Path| {
                let text = std::fs::read(path)
                    .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
                let name = path.file_name();
                Ok((name.map_or_else(|| "file".into(), |name| name.to_string_lossy().into_owned()), text))
            };
            let (name, mut text) = read(&file)?;
            if let Some(mapping) = &mapping {
                if kind != import::Kind::Parties {
                    return Err(Failure::usage("--mapping is for parties"));
                }
                let (mapping_name, mapping) = read(mapping)?;
                text = mapped(&name, &text, &mapping_name, &mapping)?;
            }
            let how = if dry_run { How::DryRun } else { How::Record };
            let imported = match access(&config).await? {
                Access::Here(app) => {
                    let imported =
                        app.import_how(kind, &name, &text, how).await.map_err(|error| match error {
                            import::ImportError::Keys(_) | import::ImportError::Commit(_) => {
                                Failure::missing(&error)
                            }
                            _ => Failure::check(error),
                        })?;
                    told(&serde_json::json!(imported))
                }
                Access::Running(remote) => {
                    let path = format!("/api/v1/import/{}", kind.as_str());
                    let dry_run = dry_run.to_string();
                    let query = [("file", name.as_str()), ("dry_run", &dry_run)];
                    let answer = remote.post(&path, &query, "text/csv", text).await?;
                    let imported: serde_json::Value =
                        serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))?;
                    told(&imported)
                }
            };
            say(if dry_run { format!("not recorded: {imported}") } else { imported });
            Ok(())
        }
        Command::Enrol(command) => enrol::command::enrol(&load(&Flags::default())?, command).await,
        Command::Ca(command) => enrol::command::ca(&load(&Flags::default())?, &command).await,
        Command::Keys(keys) => keys.run(&load(&Flags::default())?).await,
        Command::Verify(options) => match &options.proof {
            // Nothing of a collector is needed for it, and nothing asked for.
            Some(file) => verifying::proof(file, &options).await,
            None => verifying::run(&load(&Flags::default())?, &options).await,
        },
        Command::Witness(options) => witness::run(options).await,
        Command::LogKey => {
            say(verifying::own_log_key(&load(&Flags::default())?)?);
            Ok(())
        }
        Command::Token => {
            let config = load(&Flags::default())?;
            say(app::admin_token(&config.operator_key).map_err(|error| Failure::missing(&error))?);
            Ok(())
        }
        Command::Backup(backup) => backup.run(&load(&Flags::default())?, arguments.config.clone()).await,
        Command::Restore(restore) => restore.run(&load(&Flags::default())?),
        Command::Prune(prune) => prune.run(&load(&Flags::default())?).await,
        Command::Rebuild => rebuild(&load(&Flags::default())?).await,
        Command::Packs(packs) => packs.run(|| load(&Flags::default())).await,
        Command::Case(cases) => cases.run(&load(&Flags::default())?).await,
        Command::Report { case, actor, reason, masked, out, with_batches, version } => {
            let content = if with_batches { Content::Batches } else { Content::Leaves };
            let wanted = match (masked, actor, reason, version) {
                (false, Some(actor), Some(reason), Some(version)) => {
                    Wanted::Draft { version, by: By { actor, reason } }
                }
                (false, Some(actor), Some(reason), None) => {
                    Wanted::Now(Identity::Opened { actor, reason }, content)
                }
                _ => Wanted::Now(Identity::Masked, content),
            };
            report(&load(&Flags::default())?, &case, wanted, &out).await
        }
    }
}

/// Logs to standard error.
pub(crate) fn start_log(level: tracing::Level) {
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
    // A log that cannot be written is no reason to end: reporting that on the same stream would be one.
    log.log_internal_errors(false).init();
}

/// A collector on this data: in this process, or one that is running.
pub(crate) enum Access {
    Here(App),
    Running(Remote),
}

pub(crate) struct Remote {
    at: SocketAddr,
    token: String,
}

impl Remote {
    pub(crate) async fn post(
        &self,
        path: &str,
        query: &[(&str, &str)],
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<String, Failure> {
        let pairs: Vec<String> =
            query.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect();
        let url = format!("http://{}{path}?{}", self.at, pairs.join("&"));
        let request = self
            .client()?
            .post(url)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", content_type)
            .body(body);
        answered(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<String, Failure> {
        answered(self.client()?.get(format!("http://{}{path}", self.at))).await
    }

    /// The token and what it opens go to this host and nowhere else.
    fn client(&self) -> Result<reqwest::Client, Failure> {
        let client =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
        client.map_err(|error| Failure::missing(&error))
    }
}

async fn answered(request: reqwest::RequestBuilder) -> Result<String, Failure> {
    let answer = request.send().await.map_err(|error| Failure::missing(&error))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| Failure::missing(&error))?;
    if status.is_success() { Ok(text) } else { Err(refused(status, &text)) }
}

/// What a running collector says against a request, in the words of the command that works without it.
fn refused(status: reqwest::StatusCode, text: &str) -> Failure {
    let problem: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let said = match (problem["detail"].as_str(), problem["errors"].as_array()) {
        (Some(detail), Some(errors)) => {
            let lines = errors.iter().filter_map(serde_json::Value::as_str).map(|line| format!("\n{line}"));
            format!("{detail}:{}", lines.collect::<String>())
        }
        (Some(detail), None) => detail.to_owned(),
        (None, _) => format!("{status}: {text}"),
    };
    Failure { code: if status.is_server_error() { 3 } else { 1 }, text: said }
}

/// A value for a query.
fn escaped(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

pub(crate) async fn access(config: &Config) -> Result<Access, Failure> {
    match App::start(config, Arc::new(random::now)).await {
        Ok(app) => Ok(Access::Here(app)),
        Err(StartError::Ledger(LedgerError::Journal { source: OpenError::Locked { .. }, .. })) => {
            let token = app::admin_token(&config.operator_key).map_err(|error| Failure::missing(&error))?;
            Ok(Access::Running(Remote { at: config.http, token }))
        }
        Err(error) => Err(Failure::missing(&error)),
    }
}

/// A file of parties in somebody else's columns, as lines of JSON. Its faults are told here, where its lines are known.
fn mapped(name: &str, text: &[u8], mapping_name: &str, mapping: &[u8]) -> Result<Vec<u8>, Failure> {
    let mapping = Mapping::parse(mapping_name, mapping).map_err(Failure::check)?;
    let told = weighbridge_registry::Told { at: random::now(), by: "a file of parties" };
    let records = parse_parties(name, text, Some(&mapping), told).map_err(Failure::check)?;
    Ok(write_records(&records).as_bytes().to_vec())
}

/// What an import did, as [`import::Imported`] says it.
fn told(imported: &serde_json::Value) -> String {
    let count = |key: &str| imported[key].as_u64().unwrap_or(0);
    let text = format!("{} rows, {} recorded", count("rows"), count("recorded"));
    let left_out = imported["left_out"].as_object().into_iter().flatten();
    let left_out: Vec<String> = left_out.map(|(what, count)| format!("{count} {what}")).collect();
    if left_out.is_empty() { text } else { format!("{text}; left out: {}", left_out.join(", ")) }
}

async fn serve(config: &Config) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    // Before anything is open: whoever sees it serve may also ask it to stop.
    let stopped = wait_for_signal();
    // A write beyond a limit on file sizes is an error of the ledger, and not the end of the collector.
    let _too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
        .map_err(|error| Failure { code: 3, text: format!("signals: {error}") })?;
    let limits = affordable(config.limits, listen::allow_many_files());
    let app = App::start(config, Arc::new(random::now)).await.map_err(|error| Failure::missing(&error))?;
    let bind = async |address: SocketAddr| {
        let named = |error| Failure { code: 3, text: format!("{address}: {error}") };
        let listener = TcpListener::bind(address).await.map_err(named)?;
        let address = listener.local_addr().map_err(named)?;
        Ok::<_, Failure>((listener, address))
    };
    let (ingest, ingest_at) = bind(config.ingest).await?;
    let (http, http_at) = bind(config.http).await?;
    let scheme = if app.trust.is_secure() { "https" } else { "http" };
    say(format_args!("ingest {scheme}://{ingest_at}"));
    say(format_args!("pages  http://{http_at}"));
    let stop = CancellationToken::new();
    let servers = spawn_servers(&app, limits, ingest, http, &stop);
    let judge = tokio::spawn(judge_until(app.clone(), config.judge_every, stop.clone()));
    let prune = tokio::spawn(prune_until(app.clone(), config.keep_payloads, stop.clone()));
    let keeping = tokio::spawn(app.clone().keep_trust(stop.clone()));
    stopped.await;
    tracing::info!("stopping: requests that were taken are finished");
    stop.cancel();
    for server in servers {
        drop(server.await);
    }
    drop(judge.await);
    drop(prune.await);
    drop(keeping.await);
    app.settled().await;
    if let Err(error) = app.note_promised() {
        tracing::warn!(problem = verify::chain_of(&error), "how far the ledger is promised cannot be noted");
    }
    let durable = *app.ledger.durable().borrow();
    app.tree.reaches(durable).await;
    app.store.close().await;
    Ok(())
}

/// For people and their tools on the port of pages and API.
const PAGES: Limits = Limits { connections: 256, per_address: 256, head: Limits::HEAD };

/// As many connections of agents as there are files for.
fn affordable(configured: Limits, files: u64) -> Limits {
    let limits = configured.within(files, PAGES.connections);
    if limits != configured {
        tracing::warn!(
            files,
            connections = limits.connections,
            per_address = limits.per_address,
            configured = configured.connections,
            "the limit on open files leaves room for fewer connections than configured: raise it (ulimit -n, LimitNOFILE)"
        );
    }
    limits
}

/// Serves both ports until told to stop.
pub(crate) fn spawn_servers(
    app: &App,
    limits: Limits,
    ingest: TcpListener,
    http: TcpListener,
    stop: &CancellationToken,
) -> [tokio::task::JoinHandle<()>; 2] {
    let serve = |listener: TcpListener, routes: axum::Router, limits| {
        tokio::spawn(listen::serve(listener, routes, limits, stop.clone()))
    };
    let pages = serve(http, api::http_routes(app.clone()), PAGES);
    if app.trust.is_secure() {
        return [tokio::spawn(tls::serve::serve(app.clone(), ingest, limits, stop.clone())), pages];
    }
    [serve(ingest, ingest::routes(app.clone()), limits), pages]
}

async fn judge_until(app: App, every: std::time::Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(every);
    // After a slow comparison one late one is enough.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = app.judge().await {
            tracing::error!(
                problem = verify::chain_of(&error),
                "totals could not be compared with the rule packs"
            );
        }
    }
}

/// Prunes what is older than configured, once an hour; without an age nothing.
async fn prune_until(app: App, keep: Option<i64>, stop: CancellationToken) {
    let Some(keep) = keep else { return };
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(3600));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        app.prune_older_than(keep).await;
    }
}

/// Catches SIGINT and SIGTERM from here on; what it gives back ends at the first of them.
pub(crate) fn wait_for_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        match (terminate, interrupt) {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            _ => drop(tokio::signal::ctrl_c().await),
        }
    }
}

async fn rebuild(config: &Config) -> Result<(), Failure> {
    let missing = |error: &(dyn std::error::Error + 'static)| Failure::missing(error);
    let places = Places::of(config);
    // Held open, so that nobody writes meanwhile.
    let ledger = opening::ledger(config, random::now()).map_err(|error| missing(&error))?;
    let (file, fresh) = (config.data.join("usage.sqlite"), config.data.join("usage.sqlite.new"));
    remove_database(&fresh).map_err(|error| missing(&error))?;
    // Sums that cannot be read are a reason to rebuild, not one against it.
    let before = match SqliteStore::open(&file).await {
        Ok(store) => {
            let read = (store.stands().await, store.fingerprint().await);
            store.close().await;
            if let (Ok(stands), Ok(print)) = read { Some((stands, print)) } else { None }
        }
        Err(_) => None,
    };
    let (store, _, summary) = opening::anew(&fresh, &places, &ledger, &Estimator::shipped())
        .await
        .map_err(|error| missing(&error))?;
    if let Some(summary) = &summary {
        let (index, file) = (summary.header.place.index, summary.file.display());
        say(format_args!("from the summary of everything before entry {index}, {file}"));
    }
    let new = store.fingerprint().await.map_err(|error| missing(&error))?;
    store.close().await;
    fail::around("rebuild.remove", || remove_database(&file))
        .and_then(|()| fail::around("rebuild.replace", || std::fs::rename(&fresh, &file)))
        .map_err(|error| missing(&error))?;
    for (table, rows, digest) in &new {
        say(format_args!("{table}: {rows} rows, {}", &digest[..16]));
    }
    match before {
        None => say("rebuilt: the sums before could not be read"),
        Some((_, old)) if old == new => say("rebuilt: the same integers as before"),
        Some((stands, _)) if stands.index.max(1) != ledger.durable().index => {
            say("rebuilt: the sums before did not reach the end of the ledger");
        }
        Some(_) => return Err(Failure::check("rebuilt: the sums before were others; they are replaced")),
    }
    Ok(())
}

/// Removes a database with the files beside it, as far as they are there.
fn remove_database(file: &Path) -> std::io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Writes a file that only its owner may read: it says who somebody is.
fn write_private(file: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut options = std::fs::OpenOptions::new();
    let mut open = options.write(true).create(true).truncate(true).mode(0o600).open(file)?;
    open.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    open.write_all(content)
}

/// Which report: as it stands now, with or without an identity, or a draft as it was.
enum Wanted {
    Now(Identity, Content),
    Draft { version: u32, by: By },
}

async fn report(config: &Config, case: &str, wanted: Wanted, out: &Path) -> Result<(), Failure> {
    let forms = match access(config).await? {
        Access::Here(app) => {
            let made = match wanted {
                Wanted::Now(identity, content) => {
                    let proven = app.proven_report(case, identity, content).await;
                    proven.and_then(|(report, proof)| api::cases::all_forms(&app, &report, Some(&proof)))
                }
                Wanted::Draft { version, by } => {
                    let draft = app.draft(case, version, &by).await;
                    draft.and_then(|report| api::cases::all_forms(&app, &report, None))
                }
            };
            let forms = made.map_err(|error| Failure::check(verify::chain_of(&error)))?;
            app.store.close().await;
            forms
        }
        Access::Running(remote) => {
            let path = format!("/api/v1/cases/{}/report", escaped(case));
            let opened = |actor, reason| serde_json::json!({ "actor": actor, "reason": reason });
            let version;
            let (body, more) = match wanted {
                Wanted::Now(identity, content) => {
                    let body = match identity {
                        Identity::Masked => serde_json::json!({ "masked": true }),
                        Identity::Opened { actor, reason } => opened(actor, reason),
                    };
                    let with = match content {
                        Content::Leaves => "leaves",
                        Content::Batches => "batches",
                    };
                    (body, ("proof", with))
                }
                Wanted::Draft { version: wanted, by } => {
                    version = wanted.to_string();
                    (opened(by.actor, by.reason), ("version", version.as_str()))
                }
            };
            // One request, so that one look is recorded: the answer carries all forms.
            let query = [("format", "both"), more];
            let answer =
                remote.post(&path, &query, "application/json", body.to_string().into_bytes()).await?;
            serde_json::from_str(&answer).map_err(|error| Failure::missing(&error))?
        }
    };
    write_reports(out, case, &forms)
}

/// Writes a report in all its forms, and says where.
pub(crate) fn write_reports(out: &Path, case: &str, forms: &serde_json::Value) -> Result<(), Failure> {
    let pretty = |value: &serde_json::Value| {
        serde_json::to_vec_pretty(value).map_err(|error| Failure::missing(&error))
    };
    let text = |name: &str| forms[name].as_str().unwrap_or_default();
    let pdf = BASE64.decode(text("pdf")).map_err(|error| Failure::missing(&error))?;
    let mut files =
        vec![("json", pretty(&forms["report"])?), ("html", text("html").as_bytes().to_vec()), ("pdf", pdf)];
    if let Some(proof) = forms.get("proof") {
        files.push(("proof", pretty(proof)?));
    }
    for (extension, content) in files {
        let file = out.join(format!("{case}.{extension}"));
        write_private(&file, &content)
            .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
        say(file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_import_left_out_is_told_by_what_it_is() {
        let mut imported = import::Imported { rows: 5, recorded: 2, ..import::Imported::default() };
        let shown = |imported: &import::Imported| told(&serde_json::json!(imported));
        assert_eq!(shown(&imported), "5 rows, 2 recorded");
        imported.left_out = [("Vessel".into(), 2), ("Airplane".into(), 1)].into();
        assert_eq!(shown(&imported), "5 rows, 2 recorded; left out: 1 Airplane, 2 Vessel");
    }
}
