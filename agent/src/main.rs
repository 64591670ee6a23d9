//! weighbridge-agent: measures what the accelerators of this host do, and who holds them.

mod spool_command;

use std::{
    fs,
    io::{self, IsTerminal, Write as _},
    path::{Path, PathBuf},
    process::{self, ExitCode},
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
    doctor, duration,
    enrol::{JoinFailure, Joined, Joining, join},
    holders::slurm,
    hook, run,
    source::nvml::release::done_file,
    tls::files::Files,
    uplink::chain,
};
use weighbridge_wire::enrol::JoinToken;

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
    /// What a scheduler's prolog and epilog call: tells the agent who is given what. Ends well within a second,
    /// whatever happens
    #[command(subcommand)]
    Hook(HookCommand),
    /// Makes it take hold again
    Resume,
    /// Joins a collector: exchanges a one-time token for a certificate, with keys made on this host
    Enroll {
        /// The collector's address [default: the first of uplink.collectors]
        #[arg(long, value_name = "URL")]
        collector: Option<reqwest::Url>,
        /// File with the token; - for standard input
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
    },
    /// Looks into the spool, checks it, copies from it and repairs it
    #[command(subcommand)]
    Spool(SpoolCommand),
}

#[derive(Subcommand)]
enum HookCommand {
    /// Slurm's, by the variables that it sets for them
    Slurm {
        /// Where the agent looks [default: holders.slurm_hooks of the configuration]
        #[arg(long, value_name = "FOLDER")]
        folder: Option<PathBuf>,
        /// Writes the file itself, and says how that went
        #[arg(long, hide = true)]
        deliver: bool,
    },
}

/// A check failed.
const FAILED: u8 = 1;
/// Usage or configuration.
const USAGE: u8 = 2;
/// Something needed is not available.
const UNAVAILABLE: u8 = 3;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // A mistake in a site's script is no reason for its jobs to fail.
        Err(error) if error.use_stderr() && std::env::args_os().any(|word| word == "hook") => {
            say_error(&error.to_string());
            return ExitCode::SUCCESS;
        }
        Err(error) => error.exit(), // With 2 where it must.
    };
    if let Command::Hook(HookCommand::Slurm { folder, deliver: false }) = &arguments.command {
        return run_hook(arguments.config.as_deref(), folder.as_deref());
    }
    let layers = Layers { file: arguments.config, flags: arguments.set, environment: true };
    let hostname = config::hostname("/proc/sys/kernel/hostname".as_ref());
    let config = config::load(&layers, &hostname);
    if let Command::Hook(HookCommand::Slurm { folder, .. }) = &arguments.command {
        // Also where the rest of the configuration is wrong: the agent may run with the one before.
        let configured = config.ok().and_then(|config| config.slurm_hooks);
        return deliver(&folder.clone().or(configured).unwrap_or_else(|| slurm::FOLDER.into()));
    }
    let config = match config {
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
        // It has been answered above, before any configuration.
        Command::Hook(_) => Ok(0),
        Command::Spool(command) => spool_command::run(&config, &command),
        Command::Enroll { collector, token_file } => enroll(config, collector, &token_file),
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

/// Exit codes: 1 the collector or what it shows was refused, 2 no token or address, 3 nobody answers.
fn enroll(config: Config, collector: Option<reqwest::Url>, token_file: &Path) -> anyhow::Result<u8> {
    let Files::Own(folder) = config.tls else {
        say_error(
            "tls.certificate_file names a certificate of the site's own authority: there is nothing to join",
        );
        return Ok(USAGE);
    };
    let configured = config.uplink.as_ref().and_then(|uplink| uplink.collectors.first().cloned());
    let Some(collector) = collector.or(configured) else {
        say_error("no collector: give --collector https://..., or configure uplink.collectors");
        return Ok(USAGE);
    };
    let read = if token_file == Path::new("-") {
        io::read_to_string(io::stdin())
    } else {
        fs::read_to_string(token_file)
    };
    let token = match read
        .map_err(|error| error.to_string())
        .and_then(|text| text.parse::<JoinToken>().map_err(|error| error.to_string()))
    {
        Ok(token) => token,
        Err(why) => {
            say_error(&format!("token file {}: {why}", token_file.display()));
            return Ok(USAGE);
        }
    };
    let timeouts = config.uplink.map(|uplink| (uplink.connect_timeout, uplink.timeout));
    let (connect_timeout, timeout) = timeouts.unwrap_or((Duration::from_secs(5), Duration::from_secs(30)));
    let joining = Joining {
        collector,
        agent: config.agent,
        key_file: config.key_file,
        folder,
        connect_timeout,
        timeout,
    };
    let clock = Arc::new(SystemClock::start(BOOT_ID_PATH.as_ref())?);
    match runtime()?.block_on(join(&joining, &token, clock, &mut random)) {
        Ok(joined) => {
            let Joined { issued, clock_ahead_ms } = joined;
            say(&format!(
                "agent {} of host {} is enrolled until {}; the running agent renews that by itself\n",
                issued.agent, issued.host, issued.not_after
            ));
            if let Some(ahead) = clock_ahead_ms {
                let way = if ahead > 0 { "ahead of" } else { "behind" };
                let seconds = ahead.unsigned_abs() / 1000;
                say_error(&format!("this host's clock is {seconds} s {way} the collector's: set it"));
            }
            Ok(0)
        }
        Err(error) => {
            say_error(&chain(&error));
            Ok(match error.kind() {
                JoinFailure::Usage => USAGE,
                JoinFailure::Refused => FAILED,
                JoinFailure::Unavailable => UNAVAILABLE,
            })
        }
    }
}

fn run_doctor(config: &Config) -> anyhow::Result<u8> {
    let clock = Arc::new(SystemClock::start(BOOT_ID_PATH.as_ref())?);
    let diagnosis = runtime()?.block_on(doctor::examine(config, clock));
    say(&diagnosis.report);
    Ok(match (diagnosis.driver_missing, diagnosis.failed) {
        (true, _) => UNAVAILABLE,
        (false, true) => FAILED,
        (false, false) => 0,
    })
}

/// Always well: what goes wrong here is nothing that a job should know.
fn run_hook(config: Option<&Path>, folder: Option<&Path>) -> ExitCode {
    let mut command = process::Command::new("/proc/self/exe");
    for (option, path) in [("--config", config), ("--folder", folder)] {
        if option == "--folder" {
            command.args(["hook", "slurm", "--deliver"]);
        }
        if let Some(path) = path {
            command.arg(option).arg(path);
        }
    }
    if let Err(problem) = hook::run(&mut command) {
        say_error(&format!("hook slurm: {problem}"));
    }
    ExitCode::SUCCESS
}

fn deliver(folder: &Path) -> ExitCode {
    match hook::deliver(folder, &|name| std::env::var(name).ok()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // To who started it, who says which program it was.
            let _ = write!(io::stderr(), "{}", chain(&error));
            ExitCode::from(FAILED)
        }
    }
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
