//! The program's loop: one task looks and seals, one sends, one shows metrics.
//!
//! [`start`] wires everything from a configuration; [`Running::until_stopped`] runs it. Stopping means: take a
//! last look's worth, seal it, try once to send it, give up after the grace period. What is left waits in the
//! spool for the next run.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prometheus::Registry;
use tokio::{
    net::TcpListener,
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use weighbridge_meter::{AcceleratorTable, AgentId, BootId, UtcMillis};
use weighbridge_wire::SigningKey;

use crate::{
    clock::{Clock, ScaledClock},
    config::{Config, SimulatedTime, SourceConfig},
    engine::EngineOptions,
    holders::{
        Holders, LeaseFile, ProcessHolders,
        kubernetes::{KubernetesHolders, names::Names},
        libvirt::{Libvirt, LibvirtOptions},
        slurm::{SlurmHooks, SlurmOptions},
    },
    host::{Host, HostOptions, Weigher},
    http::{Health, Pages, serve},
    key::{self, KeyError},
    metrics::Metrics,
    source::{
        AcceleratorSource, AllocationSource, AmdgpuOptions, AmdgpuSource, AnySource, DcgmSource, GaudiSource,
        NvmlOptions, NvmlSource, PassthroughOptions, RedfishSource, Replay, ReplaySource, Scenario,
        SimulatedSource, WithPassthrough, replay::ReplayError, simulated::ScenarioError,
    },
    spool::SpoolError,
    tls::{Identity, files::Files, keep::Keeper},
    uplink::{Backoff, Sender, SenderError, SenderOptions, Stopped, Uplink, chain, keep_sending},
};

/// Windows and gaps that wait in memory while the spool takes none: more than a day of one device, about a
/// megabyte.
const HELD_RECORDS: usize = 2048;

/// Processes are asked for this often.
const PIDS_EVERY: Duration = Duration::from_secs(10);

/// The longest that a look waits to see who has devices of vfio open.
const VFIO_DEADLINE: Duration = Duration::from_millis(100);

/// The longest that a look at AMD devices takes.
const AMDGPU_DEADLINE: Duration = Duration::from_millis(500);

/// The agent could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The spool cannot be used.
    #[error("cannot open the spool")]
    Spool(#[from] SpoolError),
    /// The scenario cannot be used.
    #[error("{}", file.display())]
    Scenario {
        /// As configured.
        file: PathBuf,
        /// What is wrong with it.
        source: ScenarioError,
    },
    /// The recording cannot be used.
    #[error("{}", file.display())]
    Replay {
        /// As configured.
        file: PathBuf,
        /// What is wrong with it.
        source: ReplayError,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the uplink")]
    Sender(#[from] SenderError),
    /// The port is taken, as a rule by another agent.
    #[error("cannot listen on {address}")]
    Listen {
        /// As configured.
        address: std::net::SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A bug: two metrics of one name.
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
}

/// An agent that is ready to run.
pub struct Running {
    weigher: Weigher,
    uplink: Uplink,
    source: AnySource,
    clock: Arc<dyn Clock>,
    sender: Option<Sender>,
    keeping: Keeping,
    backoff: Backoff,
    listener: Option<TcpListener>,
    pages: Arc<Pages>,
    health: Arc<Health>,
    /// Between two looks, in real time.
    period: Duration,
    batch_ms: i64,
    stop_grace: Duration,
}

/// What keeps the certificate fresh.
struct Keeping {
    agent: AgentId,
    key: SigningKey,
    random: Random,
    retry: (Duration, Duration, Duration),
}

/// Fills with random bytes; handed around so that tests can choose them.
pub type Random = fn(&mut [u8]);

/// Opens everything the configuration names. `clock` is the host's; a source with a time of its own makes its
/// own from it.
pub async fn start(config: Config, clock: Arc<dyn Clock>, random: Random) -> Result<Running, StartError> {
    let (key, made) = key::read_or_make(&config.key_file, &mut |bytes| random(bytes))?;
    if made {
        tracing::info!(
            key_file = %config.key_file.display(),
            public_key = key::public_base64(&key),
            "made a signing key: enrol this agent at the collector with its public part"
        );
    }
    let host_clock = Arc::clone(&clock);
    let host_boot = clock.boot();
    let clock = match &config.source {
        SourceConfig::Simulated { time, .. } | SourceConfig::Replay { time, .. } => {
            clock_for(*time, clock, random)
        }
        _ => clock,
    };
    let rate = match &config.source {
        SourceConfig::Simulated { time, .. } | SourceConfig::Replay { time, .. } => time.rate,
        _ => 1,
    };
    let source = source(&config, &clock)?;
    let registry = Registry::new();
    let metrics = Arc::new(Metrics::register(&registry)?);
    let health = Arc::new(Health::new(u64::from(config.pace.longest_tick_ms)));
    let listener = match config.listen {
        Some(address) => {
            let bound = TcpListener::bind(address).await;
            Some(bound.map_err(|source| StartError::Listen { address, source })?)
        }
        None => None,
    };
    let sender = sender(config.uplink.clone(), &config.tls, host_clock)?;
    if let Some(identity) = sender.as_ref().and_then(Sender::identity) {
        metrics.certificate_of(Arc::clone(identity));
    }
    let keeping = Keeping { agent: config.agent.clone(), key: key.clone(), random, retry: config.retry };
    let pages = Arc::new(Pages {
        registry,
        metrics: Arc::clone(&metrics),
        health: Arc::clone(&health),
        clock: Arc::clone(&clock),
        agent: config.agent.to_string(),
    });
    let (shortest, longest, not_enrolled) = config.retry;
    let backoff = Backoff::new(shortest, longest, not_enrolled, Box::new(random));
    let (period, batch_ms, stop_grace) = (config.period / rate, config.batch_ms, config.stop_grace);
    let options = host_options(config, host_boot, &clock, key, metrics);
    let (weigher, uplink) = Host::open(options, &mut |bytes| random(bytes))?.into_parts();
    Ok(Running {
        weigher,
        uplink,
        source,
        clock,
        sender,
        keeping,
        backoff,
        listener,
        pages,
        health,
        period,
        batch_ms,
        stop_grace,
    })
}

fn clock_for(time: SimulatedTime, real: Arc<dyn Clock>, random: Random) -> Arc<dyn Clock> {
    // A boot of its own: its milliseconds have nothing to do with those of the host.
    let mut boot = [0; 16];
    random(&mut boot);
    let start = time.start.unwrap_or_else(|| real.now().wall);
    Arc::new(ScaledClock::new(real, start, time.rate, BootId(boot)))
}

/// `host_boot` is that of the host; the agent's clock counts in another where time is simulated.
fn host_options(
    config: Config,
    host_boot: BootId,
    clock: &Arc<dyn Clock>,
    key: SigningKey,
    metrics: Arc<Metrics>,
) -> HostOptions {
    let boot = clock.boot();
    let mut holders = Holders::none();
    if let Some(path) = config.lease_file.clone() {
        holders = holders.with(LeaseFile::new(path, config.host.clone()));
    }
    if let Some(folder) = config.slurm_hooks.clone() {
        let options = SlurmOptions::of_host(folder, Some(host_boot));
        let options =
            SlurmOptions { order: config.slurm_order.clone(), host_clock: boot == host_boot, ..options };
        holders = holders.with(SlurmHooks::new(options));
    }
    let options = libvirt_options(&config, boot == host_boot);
    match options.map(|options| Libvirt::new(options, boot)) {
        Some(Ok(libvirt)) => holders = holders.with(libvirt),
        Some(Err(error)) => tracing::error!(%error, "libvirt's machines are not known"),
        None => {}
    }
    if let Some(options) = &config.kubernetes {
        match Names::new(&options.cluster, key::secret_for(&key, "names of pods")) {
            Ok(names) => {
                holders = holders.with(KubernetesHolders::start(options, names, clock, boot == host_boot));
            }
            Err(error) => tracing::error!(%error, "Kubernetes is not asked who holds what"),
        }
    }
    match config.processes.map(|options| ProcessHolders::new(options, boot)) {
        Some(Ok(processes)) => holders = holders.with(processes),
        Some(Err(error)) => tracing::error!(%error, "processes are not asked for their holders"),
        None => {}
    }
    HostOptions {
        agent: config.agent,
        boot,
        key,
        engine: EngineOptions {
            host: config.host,
            trust: config.trust,
            pace: config.pace,
            held_records: HELD_RECORDS,
        },
        spool: config.spool,
        holders,
        metrics: Some(metrics),
    }
}

/// How libvirt's machines are found, if they are.
pub(crate) fn libvirt_options(config: &Config, host_clock: bool) -> Option<LibvirtOptions> {
    let libvirt = config.libvirt.clone()?;
    Some(LibvirtOptions {
        folder: libvirt.folder,
        sysfs: config.source.sysfs().to_owned(),
        proc: libvirt.proc,
        roots: libvirt.roots,
        cloud: libvirt.cloud,
        host_clock,
    })
}

fn source(config: &Config, clock: &Arc<dyn Clock>) -> Result<AnySource, StartError> {
    Ok(match &config.source {
        SourceConfig::Nvml { sysfs, .. } => {
            let inner = NvmlSource::start(nvml_options(config)).of_agent(Arc::clone(clock));
            AnySource::Nvml(Box::new(WithPassthrough::new(inner, passthrough_options(config, sysfs))))
        }
        SourceConfig::Amdgpu { sysfs, .. } => {
            let inner = AmdgpuSource::start(amdgpu_options(config));
            AnySource::Amdgpu(Box::new(WithPassthrough::new(inner, passthrough_options(config, sysfs))))
        }
        SourceConfig::Dcgm(options) => AnySource::Dcgm(Box::new(DcgmSource::start(options.clone()))),
        SourceConfig::Gaudi(options) => AnySource::Gaudi(Box::new(GaudiSource::start(options.clone()))),
        SourceConfig::Redfish(options) => AnySource::Redfish(Box::new(RedfishSource::start(options.clone()))),
        SourceConfig::Simulated { scenario, .. } => {
            let read = Scenario::read(scenario, &AcceleratorTable::shipped());
            let scenario = read.map_err(|source| StartError::Scenario { file: scenario.clone(), source })?;
            AnySource::Simulated(SimulatedSource::new(scenario, Arc::clone(clock)))
        }
        SourceConfig::Replay { file, models, .. } => {
            // Not the pace's, which allows for fast time: a hole in a recording is as long as it is.
            let longest_ms = u64::try_from((config.period * 10).as_millis()).unwrap_or(u64::MAX).max(10_000);
            let replay = Replay::read(file, &config.agent, models, longest_ms);
            let replay = replay.map_err(|source| StartError::Replay { file: file.clone(), source })?;
            AnySource::Replay(ReplaySource::new(replay, Arc::clone(clock)))
        }
        SourceConfig::Allocation { devices } => AnySource::Allocation(AllocationSource::new(devices.clone())),
    })
}

/// How many looks of this configuration fit into `time`.
fn looks_in(config: &Config, time: Duration) -> u32 {
    let looks = time.as_millis() / config.period.as_millis().max(1);
    u32::try_from(looks).unwrap_or(u32::MAX).max(1)
}

/// As configured; what NVML is asked with where another source is configured says nothing.
pub(crate) fn nvml_options(config: &Config) -> NvmlOptions {
    let SourceConfig::Nvml { library, deadline, search_every, release_file, .. } = &config.source else {
        return NvmlOptions::default();
    };
    NvmlOptions {
        library: library.clone(),
        deadline: *deadline,
        search_every: looks_in(config, *search_every),
        pids_every: looks_in(config, PIDS_EVERY),
        release_file: Some(release_file.clone()),
    }
}

pub(crate) fn amdgpu_options(config: &Config) -> AmdgpuOptions {
    let (sysfs, search_every) = match &config.source {
        SourceConfig::Amdgpu { sysfs, search_every } => (sysfs.clone(), *search_every),
        _ => ("/sys".into(), Duration::from_secs(30)),
    };
    AmdgpuOptions {
        sysfs,
        host: config.host.clone(),
        deadline: (config.period / 2).min(AMDGPU_DEADLINE),
        search_every: looks_in(config, search_every),
    }
}

/// The bus is searched as often as the source searches for devices.
pub(crate) fn passthrough_options(config: &Config, sysfs: &Path) -> PassthroughOptions {
    let search_every = match &config.source {
        SourceConfig::Nvml { search_every, .. } | SourceConfig::Amdgpu { search_every, .. } => *search_every,
        _ => Duration::from_secs(30),
    };
    PassthroughOptions {
        sysfs: sysfs.to_owned(),
        host: config.host.clone(),
        search_every: looks_in(config, search_every),
        proc: config.processes.as_ref().map_or_else(|| "/proc".into(), |options| options.proc.clone()),
        pids_every: looks_in(config, PIDS_EVERY),
        pids_deadline: VFIO_DEADLINE.min(config.period / 4),
    }
}

impl Running {
    /// Where metrics are served, if they are.
    pub fn listens_on(&self) -> Option<std::net::SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Runs until `stop` is cancelled, or a recording is over.
    pub async fn until_stopped(self, stop: CancellationToken) {
        let Self { mut weigher, mut uplink, source, clock, sender, backoff, listener, pages, health, .. } =
            self;
        let (keeping, metrics) = (self.keeping, Arc::clone(&pages.metrics));
        let sealed = Notify::new();
        let pages_stop = stop.child_token();
        let sampling = async {
            let pace = Sampling { period: self.period, batch_ms: self.batch_ms };
            sample_until_stopped(&mut weigher, source, &*clock, pace, &health, &sealed, &stop).await;
            // A source that is over stops everything else too.
            stop.cancel();
        };
        let sending = async {
            match &sender {
                Some(sender) => keep_sending(&mut uplink, sender, &*clock, &sealed, backoff, &stop).await,
                None => stop.cancelled().await,
            }
        };
        let renewing = async {
            if let Some(sender) = &sender {
                keeping.keep(sender, &metrics, &stop).await;
            }
        };
        let serving = async {
            if let Some(listener) = listener {
                serve(listener, pages, pages_stop).await;
            }
        };
        tokio::join!(sampling, sending, renewing, serving);

        weigher.finish(clock.now());
        report(weigher.seal_last(clock.now()), &health);
        if let Some(sender) = &sender {
            match timeout(self.stop_grace, uplink.send_pending(sender, &*clock)).await {
                Ok(outcome) if matches!(outcome.stopped, Stopped::Empty) => {}
                Ok(_) | Err(_) => tracing::warn!("not everything could be sent; it waits in the spool"),
            }
        }
    }
}

/// How looks and batches follow each other.
struct Sampling {
    period: Duration,
    batch_ms: i64,
}

/// Looks once a period and seals a batch at once, at whole multiples of the batch interval, and when the source
/// is in another state.
async fn sample_until_stopped(
    weigher: &mut Weigher,
    mut source: AnySource,
    clock: &dyn Clock,
    pace: Sampling,
    health: &Health,
    sealed: &Notify,
    stop: &CancellationToken,
) {
    let mut ticks = interval(pace.period);
    // After a stall, one late look is honest; a burst would invent history.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_seal: Option<UtcMillis> = None;
    let mut state = "";
    while !source.is_over() {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let began = Instant::now();
        let look = source.look().await; // A failed look is evidence too.
        if began.elapsed() >= pace.period {
            // The next one needs some time to look back on, or it would know nothing of what pipes did.
            ticks.reset();
        }
        let now = clock.now();
        weigher.tick(now, &look);
        health.ticked(now);
        let changed = weigher.source_state() != state;
        if changed {
            state = weigher.source_state();
            tracing::info!(state, why = ?look.source_state, "the source of readings is in another state");
        }
        // What happened to the source is to be known now, not in a minute.
        if changed || next_seal.is_none_or(|next| now.wall >= next) {
            next_seal = Some(now.wall.next_multiple(pace.batch_ms));
            report(weigher.seal(now), health);
            sealed.notify_one();
        }
    }
}

fn report(result: Result<crate::host::SealedInfo, crate::host::SealError>, health: &Health) {
    health.sealed(result.is_ok());
    match result {
        Ok(sealed) => {
            tracing::debug!(
                sequence = sealed.sequence,
                records = sealed.records,
                bytes = sealed.bytes,
                "sealed a batch"
            );
        }
        // The weigher says so when it begins and when it ends, not every minute.
        Err(error) => tracing::debug!(error = chain(&error), "a batch could not be kept"),
    }
}

impl Keeping {
    async fn keep(self, sender: &Sender, metrics: &Metrics, stop: &CancellationToken) {
        let Some(identity) = sender.identity() else { return };
        let (_, retry_longest, retry_refused) = self.retry;
        let keeper = Keeper {
            identity,
            sender,
            agent: self.agent,
            key: self.key,
            random: self.random,
            metrics,
            retry_longest,
            retry_refused,
        };
        keeper.keep(stop).await;
    }
}

/// A sender for these options, if there are any. `clock` is the host's: certificates are of real time.
pub fn sender(
    options: Option<SenderOptions>,
    tls: &Files,
    clock: Arc<dyn Clock>,
) -> Result<Option<Sender>, StartError> {
    let Some(options) = options else { return Ok(None) };
    let secure = options.collectors.iter().any(|url| url.scheme() == "https");
    Ok(Some(if secure {
        Sender::with_identity(options, Arc::new(Identity::open(tls.clone(), clock)))?
    } else {
        Sender::new(options)?
    }))
}
