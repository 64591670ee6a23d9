//! A fleet of 2,048 simulated accelerators over twelve hours, in fast time, against a real collector.
//!
//! Nothing here computes a number that is shown: the hosts run the agent's real meter, spool, signing and
//! uplink, the collector is the one that `serve` runs, and the story is told from its own view.

mod fleet;
mod officer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use weighbridge_agent::uplink::{Sender, SenderOptions};
use weighbridge_casework::Subject;
use weighbridge_meter::{GapCause, UtcMillis};
use weighbridge_store::hour::HeldState;

use crate::{
    app::App,
    command::{Failure, say, spawn_servers, wait_for_signal},
    config::{self, Config, Flags},
    demo::fleet::{BATCH_MS, PER_HOST, SILENT_AFTER_MS, SILENT_HOST, SimulatedHost, TENANTS},
    import::Kind,
    listen,
};

/// How the demo runs.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// End after the story, with exit code 0, instead of leaving the pages up.
    #[arg(long)]
    once: bool,
    /// Keep ledger, sums, spools and keys in this folder, which must be empty or new.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Simulated hours.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=240))]
    hours: u32,
}

/// Monday morning. A fixed one, so that two runs tell the same story.
const START: &str = "2026-03-02T00:00:00Z";

/// What is still written when everything is told may take so long.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// Open files of all hosts, the collector and their connections.
const FILES: u64 = 4096;

/// Hosts that one task drives.
const HOSTS_PER_TASK: usize = 16;

/// Runs the demo.
pub async fn run(options: Options) -> Result<(), Failure> {
    say(format_args!(
        "weighbridge demo: 256 simulated hosts with 2,048 accelerators, {} hours in fast time, no GPU needed",
        options.hours
    ));
    // Each host has files of its own open, and a thousand is the usual limit for them all.
    if listen::allow_many_files() < FILES {
        say(format_args!(
            "few files may be open: if the demo fails, raise the limit with `ulimit -n {FILES}`"
        ));
    }
    let folder = Folder::make(options.data.as_deref())?;
    let (http, at) = listener("127.0.0.1:19311").await?;
    let config = configuration(&folder.path, &at)?;
    let start: UtcMillis = START.parse().map_err(Failure::usage)?;
    let now = Arc::new(AtomicI64::new(start.0));
    let clock = now.clone();
    let app = App::start(&config, Arc::new(move || UtcMillis(clock.load(Ordering::Relaxed))))
        .await
        .map_err(|error| Failure::missing(&error))?;
    let (ingest, ingest_at) = listener("127.0.0.1:0").await?;
    let stop = CancellationToken::new();
    let servers = spawn_servers(&app, config.limits, ingest, http, &stop);
    say(format_args!("pages are up while it runs: http://{at}/   (data in {})", folder.path.display()));

    let mut hosts =
        fleet::hosts(&folder.path.join("spools"), start).map_err(|error| Failure::missing(&error))?;
    import(&app, &hosts, start).await?;
    let sender = sender(&format!("http://{ingest_at}"))?;
    let steps = u64::from(options.hours) * 3_600_000 / BATCH_MS;
    for step in 1..=steps {
        let elapsed_ms = step * BATCH_MS;
        // Before anything is sent: hosts whose clocks are minutes ahead of the collector's would be corrected.
        now.store(start.0 + elapsed_ms.cast_signed(), Ordering::Relaxed);
        hosts = drive(hosts, &sender, elapsed_ms).await?;
        // Findings every half hour: totals move slowly.
        if step % 3 == 1 || step == steps {
            app.settled().await;
            judge(&app).await?;
        }
        if elapsed_ms.is_multiple_of(3_600_000) {
            progress(&app, elapsed_ms).await;
        }
    }
    app.settled().await;
    story(&app, &at).await?;
    let first = app.casebook().cases.keys().next().cloned();
    if let Some(case) = first {
        officer::works(&app, &case, &folder.reports()).await?;
        say("");
    }
    if !options.once {
        say("The pages stay up until you press Ctrl-C. Simulated time stands still.");
        wait_for_signal().await;
    }
    stop.cancel();
    for server in servers {
        drop(server.await);
    }
    app.settled().await;
    app.store.close().await;
    let written = app.tree.ended();
    drop(app);
    // A page that is still open somewhere holds the ledger: that must not hold up the end.
    drop(tokio::time::timeout(LAST_WRITES, written).await);
    folder.leave();
    Ok(())
}

/// Where the demo keeps its data, removed at the end unless the user chose it.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(chosen: Option<&Path>) -> Result<Self, Failure> {
        let (path, keep) = match chosen {
            Some(path) => (path.to_owned(), true),
            None => {
                let unique: [u8; 4] = crate::random::bytes();
                let name = format!("weighbridge-demo-{:08x}", u32::from_le_bytes(unique));
                (std::env::temp_dir().join(name), false)
            }
        };
        let named = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
        std::fs::create_dir_all(&path).map_err(named)?;
        if std::fs::read_dir(&path).map_err(named)?.next().is_some() {
            let problem = "is not empty; the demo starts a new ledger and needs a new folder";
            return Err(Failure::usage(format!("{}: {problem}", path.display())));
        }
        Ok(Self { path, keep })
    }

    /// Reports name people: beside the data, where nobody is named, and not among it.
    fn reports(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push("-reports");
        name.into()
    }

    fn leave(self) {
        if self.keep {
            let config = self.path.join("collector.toml");
            say(format_args!(
                "kept: try `weighbridge-collector --config {} verify` (or serve, rebuild,",
                config.display()
            ));
            say("      report case-0002 --actor you --reason \"a first look\" --out /tmp)");
            return;
        }
        for folder in [self.reports(), self.path] {
            match std::fs::remove_dir_all(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => say(format_args!("{} could not be removed: {error}", folder.display())),
            }
        }
    }
}

/// The configuration, also written down so that the other commands work on the data afterwards.
fn configuration(folder: &Path, at: &str) -> Result<Config, Failure> {
    let quoted = |path: PathBuf| toml::Value::String(path.display().to_string()).to_string();
    let text = format!(
        "[store]\ndata = {}\n\n[keys]\noperator_key = {}\nkey_store = {}\n\n[ingest]\nplain_http_on_loopback = true\n\n[http]\nlisten = \"{at}\"\n",
        quoted(folder.join("collector")),
        quoted(folder.join("operator.key")),
        quoted(folder.join("keys")),
    );
    let file = folder.join("collector.toml");
    std::fs::write(&file, &text).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    config::parse(&text, &Flags::default()).map_err(Failure::usage)
}

/// The usual port, or a free one if somebody has it.
async fn listener(address: &str) -> Result<(TcpListener, String), Failure> {
    let bound = match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind("127.0.0.1:0").await,
    };
    let listener = bound.map_err(|error| Failure::missing(&error))?;
    let at = listener.local_addr().map_err(|error| Failure::missing(&error))?;
    Ok((listener, at.to_string()))
}

fn sender(collector: &str) -> Result<Arc<Sender>, Failure> {
    let options = SenderOptions {
        collectors: vec![collector.parse().map_err(|_| Failure::usage(collector))?],
        connect_timeout: Duration::from_secs(10),
        timeout: Duration::from_secs(60),
    };
    Ok(Arc::new(Sender::new(options).map_err(|error| Failure::missing(&error))?))
}

async fn import(app: &App, hosts: &[SimulatedHost], start: UtcMillis) -> Result<(), Failure> {
    let files = [
        (Kind::Customers, "customers.csv", fleet::CUSTOMERS.to_owned()),
        (Kind::Principals, "principals.csv", fleet::principals(start)),
        (Kind::Leases, "leases.csv", fleet::leases(start)),
        (Kind::Agents, "agents.csv", fleet::agents(hosts, start)),
    ];
    for (kind, name, text) in files {
        let imported = app.import(kind, name, text.as_bytes()).await.map_err(Failure::check)?;
        say(format_args!("imported {name}: {} rows", thousands(imported.recorded as u64)));
    }
    Ok(())
}

/// One batch interval of every host, in parallel.
async fn drive(
    hosts: Vec<SimulatedHost>,
    sender: &Arc<Sender>,
    elapsed_ms: u64,
) -> Result<Vec<SimulatedHost>, Failure> {
    let mut tasks = Vec::new();
    let mut hosts = hosts.into_iter().peekable();
    while hosts.peek().is_some() {
        let group: Vec<SimulatedHost> = hosts.by_ref().take(HOSTS_PER_TASK).collect();
        let sender = sender.clone();
        tasks.push(tokio::spawn(async move {
            let mut group = group;
            for host in &mut group {
                if !host.is_silent(elapsed_ms) {
                    host.advance()?;
                    host.send(&sender).await;
                }
            }
            Ok::<_, weighbridge_agent::host::SealError>(group)
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        let group = task.await.map_err(|error| Failure::missing(&error))?;
        all.extend(group.map_err(|error| Failure::missing(&error))?);
    }
    Ok(all)
}

async fn judge(app: &App) -> Result<(), Failure> {
    let judged = app.judge().await.map_err(|error| Failure::missing(&error))?;
    for case in judged.opened {
        let book = app.casebook();
        let Some(opened) = book.cases.get(&case) else { continue };
        say(format_args!("  {} opened about {}, under pack {}", case, opened.subject(), opened.pack()));
    }
    Ok(())
}

async fn progress(app: &App, elapsed_ms: u64) {
    app.settled().await;
    if let Ok(view) = app.view().await {
        let time = &view.time;
        let measured = share(time.measured_ms, time.wall_ms);
        say(format_args!(
            "  {:>2}:00  {} accelerator-hours, {measured} measured, {} ledger entries",
            elapsed_ms / 3_600_000,
            thousands(time.wall_ms / 3_600_000),
            thousands(app.stands().index.saturating_sub(1)),
        ));
    }
}

async fn story(app: &App, at: &str) -> Result<(), Failure> {
    let view = app.view().await.map_err(|error| Failure::missing(&error))?;
    let book = app.casebook().clone();
    say("");
    say(format_args!("What happened, as of {}", view.as_of));
    say("");
    for tenant in &TENANTS {
        let run = format!("L-{}", tenant.name);
        let Some((_, owned)) = view.runs().find(|(id, _)| *id == run) else { continue };
        let bound = owned.totals.bound;
        say(format_args!(
            "  {:<13} {:>2} of {:>5} leased hosts simulated   {} <= {} <= {} operations",
            tenant.name,
            tenant.simulated,
            tenant.leased,
            bound.low(),
            bound.best(),
            bound.high(),
        ));
    }
    say(
        "  (low counts what was measured alone; best and high also count leased accelerators without an agent)",
    );
    say("");
    for case in book.cases.values() {
        let Some(finding) = crate::casefile::main_finding(case, &book.findings) else { continue };
        say(format_args!("  {}  {}", case.id(), finding.reason));
        if let Some(pack) = app.pack(case.pack()) {
            for clock in case.clocks(pack, view.as_of) {
                say(format_args!("             {}: due {}", clock.label, clock.due_local));
            }
        }
        say(format_args!("             http://{at}/cases/{}", case.id()));
    }
    say("");
    let foreign_packs: Vec<&str> = foreign_packs(app);
    for (id, owned) in &view.customers {
        let about = |subject: &Subject| match subject {
            Subject::Customer(customer) => customer == id,
            Subject::Run(run) => view.attempts(owned).any(|attempt| attempt.attempt.as_str() == run),
            _ => false,
        };
        let count = |foreign: bool| {
            let of = book.findings.values().filter(|finding| about(&finding.subject));
            of.filter(|finding| foreign_packs.contains(&finding.pack.as_str()) == foreign).count()
        };
        say(format_args!(
            "  customer {id} ({:?}): {} under packs about foreign persons, {} under others, {} account(s)",
            owned.standing,
            findings(count(true)),
            findings(count(false)),
            owned.principals.len(),
        ));
    }
    say("");
    // Everybody else has reported up to this moment.
    let silent = view
        .account
        .accelerators
        .iter()
        .filter(|account| account.time.gap_ms.get(&GapCause::Silent).is_some_and(|millis| *millis > 0));
    match silent.count() {
        0 => {}
        silent => say(format_args!(
            "  host {SILENT_HOST} has said nothing since hour {}: {silent} of its accelerators stand as silent, \
             not as idle",
            SILENT_AFTER_MS / 3_600_000,
        )),
    }
    for (principal, owned) in &view.unmapped {
        say(format_args!(
            "  principal {principal} belongs to no customer: {} operations that still count",
            owned.totals.bound.best()
        ));
    }
    let held =
        |state: HeldState| share(view.time.held_ms.get(&state).copied().unwrap_or(0), view.time.wall_ms);
    say(format_args!(
        "  {} accelerator-hours: {} attributed, {} free, {} unattributed; {} measured, {} silent",
        thousands(view.time.wall_ms / 3_600_000),
        held(HeldState::Attributed),
        held(HeldState::Free),
        held(HeldState::Unattributed),
        share(view.time.measured_ms, view.time.wall_ms),
        share(view.time.gap_ms.get(&GapCause::Silent).copied().unwrap_or(0), view.time.wall_ms),
    ));
    say("");
    for (what, path) in
        [("today", ""), ("fleet", "fleet"), ("customers", "customers"), ("runs", "runs"), ("cases", "cases")]
    {
        say(format_args!("  {what:<10} http://{at}/{path}"));
    }
    debug_assert_eq!(TENANTS.iter().map(|tenant| tenant.simulated * PER_HOST).sum::<usize>(), 2_048);
    Ok(())
}

/// Packs that look at foreign persons only.
fn foreign_packs(app: &App) -> Vec<&str> {
    let foreign = |pack: &&weighbridge_casework::RulePack| {
        pack.applies_to.who == weighbridge_casework::pack::Who::Foreign
    };
    app.packs.iter().map(|(pack, _)| pack).filter(foreign).map(|pack| pack.id.as_str()).collect()
}

fn findings(count: usize) -> String {
    match count {
        0 => "no finding".into(),
        1 => "1 finding".into(),
        _ => format!("{count} findings"),
    }
}

/// A part in per cent, one decimal, for people.
fn share(part: u64, whole: u64) -> String {
    let per_mille = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

/// A number with separators, for people.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_separators_and_shares() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(share(1, 3), "33.3 %");
        assert_eq!(share(0, 0), "0.0 %");
    }
}
