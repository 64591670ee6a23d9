//! weighbridge-agent: measures what the accelerators of this host do, and who holds them.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use weighbridge_agent::{
    clock::{BOOT_ID_PATH, SystemClock},
    config::{self, Config, Layers},
    doctor, run,
    spool::{Inspection, inspect},
    uplink::chain,
};

/// Measures what the accelerators of this host do, and who holds them.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file [default: /etc/weighbridge/agent.toml, if it is there]
    #[arg(long, global = true, env = "WEIGHBRIDGE_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key over file and environment, as in --set meter.period=5s; may be given several times
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures until stopped (SIGTERM or SIGINT)
    Run,
    /// Says what was found, what is missing and what that costs
    Doctor,
    /// Checks the configuration and does nothing else
    CheckConfig,
    /// Looks into the spool
    #[command(subcommand)]
    Spool(SpoolCommand),
}

#[derive(Subcommand)]
enum SpoolCommand {
    /// Lists epochs with their batches, and parked batches
    Ls,
}

/// A check failed.
const FAILED: u8 = 1;
/// Usage or configuration.
const USAGE: u8 = 2;
/// Something needed is not available.
const UNAVAILABLE: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse(); // Exits with 2 where it must.
    let layers = Layers { file: arguments.config, flags: arguments.set, environment: true };
    let hostname = config::hostname("/proc/sys/kernel/hostname".as_ref());
    let config = match config::load(&layers, &hostname) {
        Ok(config) => config,
        Err(error) => {
            say_error(&chain(&error));
            return ExitCode::from(USAGE);
        }
    };
    let result = match arguments.command {
        Command::CheckConfig => {
            say("ok\n");
            Ok(0)
        }
        Command::Run => run_agent(config),
        Command::Doctor => run_doctor(&config),
        Command::Spool(SpoolCommand::Ls) => list_spool(&config),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say_error(&format!("{error:#}"));
            // A file that the configuration names is part of it.
            let named = matches!(
                error.downcast_ref(),
                Some(run::StartError::Scenario { .. } | run::StartError::Replay { .. })
            );
            ExitCode::from(if named { USAGE } else { UNAVAILABLE })
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected SECTION.KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Output that nobody reads any more, as behind `head`, is no reason to fail.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn say_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "weighbridge-agent: {text}");
}

fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("a kernel without random numbers cannot run this agent");
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(2).build().context("cannot start the runtime")
}

fn run_agent(config: Config) -> anyhow::Result<u8> {
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_max_level(config.log_level).with_ansi(terminal);
    log.with_writer(std::io::stderr).init();
    let clock = Arc::new(SystemClock::start(BOOT_ID_PATH.as_ref())?);
    runtime()?.block_on(async {
        let stop = CancellationToken::new();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let running = run::start(config, clock, random).await?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            metrics = ?running.listens_on(),
            "weighbridge-agent runs"
        );
        let stopping = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            stopping.cancel();
        });
        running.until_stopped(stop).await;
        Ok(0)
    })
}

fn run_doctor(config: &Config) -> anyhow::Result<u8> {
    let diagnosis = runtime()?.block_on(doctor::examine(config));
    say(&diagnosis.report);
    Ok(match (diagnosis.driver_missing, diagnosis.failed) {
        (true, _) => UNAVAILABLE,
        (false, true) => FAILED,
        (false, false) => 0,
    })
}

fn list_spool(config: &Config) -> anyhow::Result<u8> {
    let dir = &config.spool.dir;
    let inspection = inspect(dir).with_context(|| format!("spool {}", dir.display()))?;
    say(&listing(&inspection));
    Ok(0)
}

fn listing(inspection: &Inspection) -> String {
    let mut text = String::from("epoch                             sequences          bytes  acknowledged\n");
    for epoch in &inspection.epochs {
        let sequences = epoch.sequences.map_or("none".to_owned(), |(first, last)| format!("{first}..{last}"));
        let _ =
            writeln!(text, "{}  {sequences:<13}  {:>9}  up to {}", epoch.id, epoch.bytes, epoch.acknowledged);
    }
    let parked = inspection.parked;
    let _ = writeln!(text, "parked: {} batches, {} bytes", parked.batches, parked.bytes);
    if let Some(generation) = &inspection.generation {
        let _ = writeln!(text, "store generation: {generation}");
    }
    text
}
