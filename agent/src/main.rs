//! weighbridge-agent: measures what the accelerators of this host do, and who holds them.

mod spool_command;

use std::{
    fs,
    io::{self, IsTerminal, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use self::spool_command::SpoolCommand;
use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use weighbridge_agent::{
    clock::{BOOT_ID_PATH, Clock, SystemClock},
    config::{self, Config, Layers, SourceConfig},
    doctor, duration, run,
    source::nvml::release::done_file,
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
    /// Makes the running agent let go of NVIDIA's driver, to unload it, give devices away or change MIG; the
    /// time is a gap with the cause released
    Release {
        /// Take hold again by itself after this time, as in 10m
        #[arg(long = "for", value_name = "TIME", value_parser = milliseconds)]
        length: Option<i64>,
    },
    /// Makes it take hold again
    Resume,
    /// Looks into the spool, checks it, copies from it and repairs it
    #[command(subcommand)]
    Spool(SpoolCommand),
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
        Command::Release { length } => release(&config, length),
        Command::Resume => resume(&config),
        Command::Spool(command) => spool_command::run(&config, &command),
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

fn milliseconds(text: &str) -> Result<i64, String> {
    let length = duration::parse_ms(text).and_then(|ms| i64::try_from(ms).ok()).filter(|&ms| ms > 0);
    length.ok_or_else(|| "expected a whole number and one unit, as in 90s, 10m or 2h".to_owned())
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
    // A log that cannot be written is no reason to end: reporting that on the same stream would be one.
    log.with_writer(std::io::stderr).log_internal_errors(false).init();
    let clock = Arc::new(SystemClock::start(BOOT_ID_PATH.as_ref())?);
    runtime()?.block_on(async {
        let stop = CancellationToken::new();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // A write beyond a limit on file sizes is an error of the spool, and not the end of the agent.
        let _too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
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

/// How often it is looked whether the agent has let go.
const RELEASE_POLL: Duration = Duration::from_millis(100);

/// The file that stands between this command and the agent, if the agent holds a driver at all.
fn release_file(config: &Config) -> Option<(&Path, Duration)> {
    match &config.source {
        // Two looks, the second of which waits for calls until the deadline, and some time for the driver.
        SourceConfig::Nvml { release_file, deadline, .. } => {
            Some((release_file, config.period * 2 + *deadline + Duration::from_secs(3)))
        }
        _ => {
            say_error("only source nvml holds a driver that can be let go of");
            None
        }
    }
}

fn release(config: &Config, length: Option<i64>) -> anyhow::Result<u8> {
    let Some((file, patience)) = release_file(config) else { return Ok(USAGE) };
    let until = match length {
        Some(length) => Some(SystemClock::start(BOOT_ID_PATH.as_ref())?.now().wall.plus(length)),
        None => None,
    };
    let done = done_file(file);
    if !file.exists() {
        // Of an agent that was stopped meanwhile: it says nothing about one that runs.
        remove(&done)?;
    }
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let text = until.map(|until| format!("{until}\n")).unwrap_or_default();
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let mut waited = Duration::ZERO;
    while !done.exists() && waited < patience {
        std::thread::sleep(RELEASE_POLL);
        waited += RELEASE_POLL;
    }
    if !done.exists() {
        say_error(&format!(
            "{} was written, and no agent has let go within {} s: is it running, with this configuration?",
            file.display(),
            patience.as_secs()
        ));
        return Ok(FAILED);
    }
    say(&match until {
        Some(until) => format!("the driver was let go of, until {until} or resume\n"),
        None => "the driver was let go of, until resume\n".to_owned(),
    });
    Ok(0)
}

fn resume(config: &Config) -> anyhow::Result<u8> {
    let Some((file, _)) = release_file(config) else { return Ok(USAGE) };
    let text = match remove(file)? {
        true => format!("{} was taken away: the agent takes hold again at its next look\n", file.display()),
        false => format!("{} is not there: nothing was let go of\n", file.display()),
    };
    say(&text);
    Ok(0)
}

/// Whether it was there.
fn remove(file: &Path) -> anyhow::Result<bool> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", file.display())),
    }
}
