//! The configuration: read, merged and checked before anything is opened.
//!
//! Three layers, each winning over the one before: the file (TOML), environment variables
//! `WEIGHBRIDGE_AGENT__SECTION__KEY`, and flags. [`raw`] is what may be written, with what each key does;
//! [`Config`] is what came of it, and holds only what can be.

pub mod raw;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
    value::Value,
};
use reqwest::Url;
use weighbridge_meter::{
    AcceleratorId, AcceleratorTable, AgentId, Principal, Source, Tier, Trust, UtcMillis, meter::Pace,
};

use self::raw::Raw;
use crate::{
    duration,
    holders::{
        ProcessOptions,
        cgroup::Roots,
        kubernetes::{ApiOptions, KubernetesOptions, kubelet, names::Names},
        libvirt, slurm,
    },
    source::{DcgmOptions, Device, GaudiOptions, RedfishOptions, redfish::Controller},
    spool::SpoolOptions,
    tls::files::Files,
    uplink::SenderOptions,
};

/// Where the file is if nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/weighbridge/agent.toml";

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Config {
    /// As enrolled.
    pub agent: AgentId,
    /// Host name.
    pub host: String,
    /// Set of hosts on which user numbers mean the same.
    pub class: String,
    /// Who could have changed the readings.
    pub trust: Trust,
    /// The signing key's file.
    pub key_file: PathBuf,
    /// Between two looks, in the time of the source.
    pub period: Duration,
    /// How meters cut time.
    pub pace: Pace,
    /// Between two batches, in milliseconds.
    pub batch_ms: i64,
    /// Where readings come from.
    pub source: SourceConfig,
    /// The lease file, if there is one.
    pub lease_file: Option<PathBuf>,
    /// How processes name their holders; `None`: they are not asked.
    pub processes: Option<ProcessOptions>,
    /// Where Slurm's hooks put their files; `None`: they are not read.
    pub slurm_hooks: Option<PathBuf>,
    /// Accelerators in Slurm's order, where the operator says it.
    pub slurm_order: Vec<AcceleratorId>,
    /// Where libvirt keeps the state of machines that run, and what their cloud is called; `None`: it is not read.
    pub libvirt: Option<LibvirtConfig>,
    /// The kubelet and the API server; `None`: neither is asked.
    pub kubernetes: Option<KubernetesOptions>,
    /// Where batches are kept.
    pub spool: SpoolOptions,
    /// Where they are sent; `None`: nowhere, they wait.
    pub uplink: Option<SenderOptions>,
    /// Under which certificate.
    pub tls: Files,
    /// Shortest and longest wait after a failure, and that of an agent which is not enrolled.
    pub retry: (Duration, Duration, Duration),
    /// How long a stopping agent tries to send what it has.
    pub stop_grace: Duration,
    /// Where metrics are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Least level of log messages.
    pub log_level: tracing::level_filters::LevelFilter,
}

/// How libvirt's machines are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibvirtConfig {
    /// libvirt's folder.
    pub folder: PathBuf,
    /// What the cloud is called.
    pub cloud: String,
    /// Where the kernel shows processes.
    pub proc: PathBuf,
    /// Groups of the operator's own.
    pub roots: Roots,
}

/// Where readings come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// NVIDIA's library.
    Nvml {
        /// Path or name.
        library: PathBuf,
        /// For one look.
        deadline: Duration,
        /// Devices, or a missing driver, are searched for this often.
        search_every: Duration,
        /// While this file is there, the devices are let go of.
        release_file: PathBuf,
        /// Where the kernel shows devices.
        sysfs: PathBuf,
    },
    /// The amdgpu driver's files.
    Amdgpu {
        /// Where the kernel shows devices.
        sysfs: PathBuf,
        /// Devices are searched for this often.
        search_every: Duration,
    },
    /// dcgm-exporter.
    Dcgm(DcgmOptions),
    /// Gaudi's exporter.
    Gaudi(GaudiOptions),
    /// Management controllers.
    Redfish(RedfishOptions),
    /// A scenario.
    Simulated {
        /// Its file.
        scenario: PathBuf,
        /// How fast its time runs, and from when.
        time: SimulatedTime,
    },
    /// A recording.
    Replay {
        /// Its file.
        file: PathBuf,
        /// What the devices in it are.
        models: ReplayModels,
        /// How fast its time runs, and from when.
        time: SimulatedTime,
    },
    /// Nothing can be read.
    Allocation {
        /// What is there.
        devices: Vec<Device>,
    },
}

impl SourceConfig {
    /// Where the kernel shows devices.
    pub fn sysfs(&self) -> &Path {
        match self {
            Self::Nvml { sysfs, .. } | Self::Amdgpu { sysfs, .. } => sysfs,
            Self::Dcgm(_)
            | Self::Gaudi(_)
            | Self::Redfish(_)
            | Self::Simulated { .. }
            | Self::Replay { .. }
            | Self::Allocation { .. } => Path::new("/sys"),
        }
    }
}

/// A time that is not the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatedTime {
    /// Times as fast as real time, at least 1.
    pub rate: u32,
    /// Where it starts; `None`: now.
    pub start: Option<UtcMillis>,
}

/// What the devices of a recording are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayModels {
    /// Device name of all that have none of their own.
    pub model: String,
    /// By the number in the recording.
    pub of_gpu: std::collections::BTreeMap<String, String>,
    /// SM clock to assume, as recordings have none; `None`: the table clock of the model.
    pub clock_mhz: Option<u32>,
}

/// A configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("cannot read configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of another type.
    #[error("{origin}: {message}")]
    Unusable {
        /// File or variable.
        origin: String,
        /// Key, what was found and what was expected.
        message: String,
    },
    /// A value that cannot be.
    #[error("{key}: {value} is not {expected}")]
    Bad {
        /// Section and key.
        key: String,
        /// As written.
        value: String,
        /// What may stand there.
        expected: String,
    },
}

/// What to read. Flags come as keys and values, as `("meter.period", "5s")`.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The file; `None`: [`DEFAULT_PATH`] if it is there.
    pub file: Option<PathBuf>,
    /// Keys and values from flags.
    pub flags: Vec<(String, String)>,
    /// Whether environment variables count; tests say no.
    pub environment: bool,
}

/// Reads, merges and checks. `hostname` is what the system calls the host.
pub fn load(layers: &Layers, hostname: &str) -> Result<Config, ConfigError> {
    let mut figment = Figment::new();
    let file = match &layers.file {
        Some(file) => Some(file.clone()),
        None => Some(PathBuf::from(DEFAULT_PATH)).filter(|path| path.exists()),
    };
    if let Some(file) = &file {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Unreadable { path: file.clone(), source })?;
        figment = figment.merge(Named(file.display().to_string(), Toml::string(&text)));
    }
    if layers.environment {
        figment = figment.merge(Env::prefixed("WEIGHBRIDGE_AGENT__").split("__"));
    }
    for (key, text) in &layers.flags {
        let value = text.parse::<Value>().unwrap_or_else(|never| match never {});
        figment = figment.merge(Named(format!("flag {key}"), Serialized::default(key, value)));
    }
    let raw: Raw = figment.extract().map_err(unusable)?;
    let variable = |name: &str| std::env::var(name).ok().filter(|_| layers.environment);
    let cluster = variable("KUBERNETES_SERVICE_HOST").zip(variable("KUBERNETES_SERVICE_PORT"));
    checked(raw, hostname, cluster)
}

/// A provider under the name that people know it by.
struct Named<P>(String, P);

impl<P: figment::Provider> figment::Provider for Named<P> {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.0.clone())
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
        self.1.data()
    }

    fn profile(&self) -> Option<figment::Profile> {
        self.1.profile()
    }
}

fn unusable(errors: figment::Error) -> ConfigError {
    // One at a time: the first is the one to mend.
    let Some(error) = errors.into_iter().next() else {
        return ConfigError::Unusable { origin: "configuration".into(), message: "cannot be read".into() };
    };
    let origin =
        error.metadata.as_ref().map_or_else(|| "configuration".to_owned(), |from| from.name.to_string());
    let message = error.kind.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let key = error.path.join(".");
    let message = if key.is_empty() { message } else { format!("{key}: {message}") };
    ConfigError::Unusable { origin, message }
}

fn bad(key: &str, value: impl std::fmt::Display, expected: impl Into<String>) -> ConfigError {
    ConfigError::Bad { key: key.into(), value: value.to_string(), expected: expected.into() }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// A duration within limits.
fn span(
    key: &str,
    text: &Option<String>,
    default: &str,
    from: &str,
    to: &str,
) -> Result<Duration, ConfigError> {
    let text = text.as_deref().unwrap_or(default);
    let limits = |text| duration::parse_ms(text).expect("limits are durations");
    duration::parse_ms(text)
        .filter(|millis| (limits(from)..=limits(to)).contains(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            bad(key, quoted(text), format!("a duration from \"{from}\" to \"{to}\", such as \"{default}\""))
        })
}

fn bytes(key: &str, text: &Option<String>, default: &str, least: &str) -> Result<u64, ConfigError> {
    let text = text.as_deref().unwrap_or(default);
    let limit = duration::parse_bytes(least).expect("limits are sizes");
    duration::parse_bytes(text).filter(|bytes| *bytes >= limit).ok_or_else(|| {
        bad(key, quoted(text), format!("a size of at least \"{least}\", such as \"{default}\""))
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `cluster` is host and port of the API server, as a pod is told.
fn checked(raw: Raw, hostname: &str, cluster: Option<(String, String)>) -> Result<Config, ConfigError> {
    let host = raw.agent.host.unwrap_or_else(|| hostname.to_owned());
    if host.is_empty() || host.len() > 253 || !host.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad(
            "agent.host",
            quoted(&host),
            "a host name: 1 to 253 printable characters without blanks",
        ));
    }
    let id = raw.agent.id.unwrap_or_else(|| host.clone());
    let agent: AgentId = id.parse().map_err(|_| {
        bad("agent.id", quoted(&id), "an agent id: 1 to 96 printable characters without blanks")
    })?;
    let class = raw.agent.class.unwrap_or_else(|| "default".into());
    if Principal::new("uid", &class, "4294967295").is_err() || class.len() > 64 {
        return Err(bad("agent.class", quoted(&class), "the name of a class of hosts: 1 to 64 bytes"));
    }
    let trust = raw.agent.trust.as_deref().unwrap_or("host");
    let trust = Trust::from_name(trust)
        .filter(|trust| *trust != Trust::Bmc)
        .ok_or_else(|| bad("agent.trust", quoted(trust), "host or guest"))?;

    // What is asked over a network renews its values every half a minute as a rule.
    let remote = matches!(raw.source.kind.as_deref(), Some("dcgm" | "gaudi" | "redfish"));
    let (period_default, longest_default) = if remote { ("30s", "2m") } else { ("1s", "10s") };
    let period = span("meter.period", &raw.meter.period, period_default, "100ms", "60s")?;
    let window = span("meter.window", &raw.meter.window, "60s", "1s", "1h")?;
    let longest = span("meter.longest_tick", &raw.meter.longest_tick, longest_default, "100ms", "10m")?;
    if !UtcMillis::HOUR.unsigned_abs().is_multiple_of(millis(window)) {
        let text = raw.meter.window.unwrap_or_default();
        return Err(bad("meter.window", quoted(&text), "a duration that divides an hour, such as \"60s\""));
    }
    if longest < period * 2 {
        let text = raw.meter.longest_tick.unwrap_or_else(|| longest_default.into());
        return Err(bad("meter.longest_tick", quoted(&text), "at least twice meter.period"));
    }
    let batch = span("meter.batch", &raw.meter.batch, "60s", "1s", "1h")?;
    if !UtcMillis::HOUR.unsigned_abs().is_multiple_of(millis(batch)) {
        let text = raw.meter.batch.unwrap_or_default();
        return Err(bad("meter.batch", quoted(&text), "a duration that divides an hour, such as \"60s\""));
    }
    let source = source(raw.source)?;
    // In fast time a stall of the program is long; what it would hide is only simulated.
    let rate = match &source {
        SourceConfig::Simulated { time, .. } | SourceConfig::Replay { time, .. } => u64::from(time.rate),
        _ => 1,
    };
    let longest_ms = millis(longest).saturating_mul(rate).min(UtcMillis::HOUR.unsigned_abs());
    let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);

    let dir = raw.spool.dir.unwrap_or_else(|| "/var/lib/weighbridge/agent/spool".into());
    let spool = SpoolOptions {
        max_bytes: bytes("spool.max_bytes", &raw.spool.max_bytes, "1GiB", "1MiB")?,
        keep_acknowledged_bytes: bytes(
            "spool.keep_acknowledged_bytes",
            &raw.spool.keep_acknowledged_bytes,
            "64MiB",
            "0B",
        )?,
        keep_acknowledged: span("spool.keep_acknowledged", &raw.spool.keep_acknowledged, "7d", "0s", "365d")?,
        ..SpoolOptions::in_dir(dir)
    };
    let listen = match raw.http.listen.as_deref().unwrap_or("127.0.0.1:19310") {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            bad(
                "http.listen",
                quoted(text),
                "an address and port such as \"127.0.0.1:19310\", or empty for none",
            )
        })?),
    };
    let level = raw.log.level.as_deref().unwrap_or("info");
    let log_level = ["error", "warn", "info", "debug", "trace"]
        .contains(&level)
        .then(|| level.parse().ok())
        .flatten()
        .ok_or_else(|| bad("log.level", quoted(level), "one of error, warn, info, debug and trace"))?;
    let retry = (
        span("uplink.retry_shortest", &raw.uplink.retry_shortest, "1s", "10ms", "1m")?,
        span("uplink.retry_longest", &raw.uplink.retry_longest, "2m", "1s", "1h")?,
        span("uplink.retry_not_enrolled", &raw.uplink.retry_not_enrolled, "5m", "1s", "1h")?,
    );
    let lease_file = raw.holders.lease_file.clone();
    let slurm_hooks = Some(raw.holders.slurm_hooks.clone().unwrap_or_else(|| slurm::FOLDER.into()))
        .filter(|folder| !folder.as_os_str().is_empty());
    let slurm_order = slurm_order(&raw.holders.slurm_order)?;
    let kubernetes = kubernetes(&raw.holders, &host, cluster)?;
    let (processes, libvirt) = processes(raw.holders, &host, &class)?;
    let stop_grace = span("uplink.stop_grace", &raw.uplink.stop_grace, "5s", "0s", "1m")?;
    Ok(Config {
        agent,
        host,
        class,
        trust,
        key_file: raw.agent.key_file.unwrap_or_else(|| "/var/lib/weighbridge/agent/key".into()),
        period,
        pace: Pace { window_ms: narrow(millis(window)), longest_tick_ms: narrow(longest_ms) },
        batch_ms: millis(batch).cast_signed(),
        source,
        lease_file,
        processes,
        slurm_hooks,
        slurm_order,
        libvirt,
        kubernetes,
        spool,
        uplink: uplink(&raw.uplink)?,
        tls: tls(raw.tls)?,
        retry,
        stop_grace,
        listen,
        log_level,
    })
}

/// What an allocator's cluster or cloud is called.
fn allocator(key: &str, scheme: &str, text: Option<String>) -> Result<String, ConfigError> {
    let text = text.unwrap_or_else(|| "default".into());
    // As long as a class of hosts, so that whatever follows it fits a name.
    let good = Principal::unknown(scheme, &text).is_ok_and(|principal| principal.as_str().len() <= 80);
    if good { Ok(text) } else { Err(bad(key, quoted(&text), "a name of 1 to 64 letters")) }
}

/// Where a pod finds what it needs to ask the API server.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn kubernetes(
    raw: &raw::Holders,
    host: &str,
    cluster: Option<(String, String)>,
) -> Result<Option<KubernetesOptions>, ConfigError> {
    const KEY: &str = "holders.kubernetes";
    let name = allocator("holders.kubernetes_cluster", "k8s", raw.kubernetes_cluster.clone())?;
    let proc = raw.proc.clone().unwrap_or_else(|| "/proc".into());
    let raw = &raw.kubernetes;
    let key = |name: &str| format!("{KEY}.{name}");
    let socket = raw.socket.clone().unwrap_or_else(|| kubelet::SOCKET.into());
    let socket = Some(socket).filter(|path| !path.as_os_str().is_empty());
    let inside = cluster.filter(|_| raw.api.is_none());
    let url = match (&raw.api, &inside) {
        (Some(text), _) if text.is_empty() => None,
        (Some(text), _) => Some(text.clone()),
        (None, Some((host, port))) if host.contains(':') => Some(format!("https://[{host}]:{port}")),
        (None, Some((host, port))) => Some(format!("https://{host}:{port}")),
        (None, None) => None,
    };
    let account = |file: &Option<PathBuf>, name: &str| {
        file.clone().or_else(|| inside.is_some().then(|| Path::new(SERVICE_ACCOUNT).join(name)))
    };
    let deadline = span(&key("deadline"), &raw.deadline, "10s", "100ms", "1m")?;
    let api = url.map(|text| {
        let example = "https://10.96.0.1";
        let url = address(&key("api"), &text, example)?;
        if url.scheme() == "http" && !is_loopback(&url) {
            let expected =
                format!("an https address such as \"{example}\": a token goes to other hosts over TLS only");
            return Err(bad(&key("api"), quoted(&text), expected));
        }
        let (token_file, ca_file) = (account(&raw.token_file, "token"), account(&raw.ca_file, "ca.crt"));
        Ok(ApiOptions { url, token_file, ca_file, deadline })
    });
    let node = raw.node.clone().unwrap_or_else(|| host.to_owned());
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    if api.is_some() && (node.is_empty() || node.len() > 253 || !node.bytes().all(named)) {
        return Err(bad(&key("node"), quoted(&node), "the name of a node: letters, digits, dashes and dots"));
    }
    let labelled = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    if let Some(label) = &raw.tenant_label
        && (label.is_empty() || label.len() > 317 || !label.bytes().all(labelled))
    {
        return Err(bad(
            &key("tenant_label"),
            quoted(label),
            "the key of a label such as \"example.com/customer\"",
        ));
    }
    if Names::new(&name, [0; 32]).is_err() {
        return Err(bad("holders.kubernetes_cluster", quoted(&name), "a name of 1 to 64 letters"));
    }
    let options = KubernetesOptions {
        socket,
        poll: span(&key("poll"), &raw.poll, "5s", "100ms", "1m")?,
        api: api.transpose()?,
        host: host.to_owned(),
        node,
        cluster: name,
        tenant_label: raw.tenant_label.clone(),
        proc,
    };
    Ok(Some(options).filter(|options| options.socket.is_some() || options.api.is_some()))
}

/// How processes name their holders, and how libvirt's machines are found.
fn processes(
    raw: raw::Holders,
    host: &str,
    class: &str,
) -> Result<(Option<ProcessOptions>, Option<LibvirtConfig>), ConfigError> {
    let (cgroups, owners) = (raw.cgroups.unwrap_or(true), raw.process_owners.unwrap_or(true));
    let paths = raw.cgroup_roots.unwrap_or_default();
    let roots = Roots::new(&paths).map_err(|path| {
        bad(
            "holders.cgroup_roots",
            quoted(&path),
            "the path of a cgroup below the top, such as \"/docker/*\"",
        )
    })?;
    let options = ProcessOptions {
        proc: raw.proc.unwrap_or_else(|| "/proc".into()),
        roots,
        cgroups,
        owners,
        host: host.to_owned(),
        class: class.to_owned(),
        slurm_cluster: allocator("holders.slurm_cluster", "slurm", raw.slurm_cluster)?,
        kubernetes_cluster: allocator("holders.kubernetes_cluster", "k8s", raw.kubernetes_cluster)?,
        cloud: allocator("holders.cloud", "vm", raw.cloud)?,
        libvirt: raw.libvirt.unwrap_or_else(|| libvirt::FOLDER.into()),
    };
    if (cgroups || owners) && !options.host_fits() {
        return Err(bad(
            "agent.host",
            quoted(host),
            "a host name short enough for names of containers on it",
        ));
    }
    let libvirt = LibvirtConfig {
        folder: options.libvirt.clone(),
        cloud: options.cloud.clone(),
        proc: options.proc.clone(),
        roots: options.roots.clone(),
    };
    if !libvirt.folder.as_os_str().is_empty() && !libvirt.folder.is_absolute() {
        let expected = "an absolute path such as \"/run/libvirt/qemu\", or empty for none";
        return Err(bad("holders.libvirt", quoted(&libvirt.folder.display().to_string()), expected));
    }
    let libvirt = Some(libvirt).filter(|libvirt| !libvirt.folder.as_os_str().is_empty());
    Ok((Some(options).filter(|_| cgroups || owners), libvirt))
}

fn slurm_order(raw: &[String]) -> Result<Vec<AcceleratorId>, ConfigError> {
    const KEY: &str = "holders.slurm_order";
    let mut order: Vec<AcceleratorId> = Vec::new();
    for text in raw {
        let id =
            text.parse().map_err(|_| bad(KEY, quoted(text), "ids of accelerators, as doctor lists them"))?;
        if order.contains(&id) {
            return Err(bad(KEY, quoted(text), "each accelerator once"));
        }
        order.push(id);
    }
    Ok(order)
}

fn uplink(raw: &raw::Uplink) -> Result<Option<SenderOptions>, ConfigError> {
    let plain_allowed = raw.plain_http_on_loopback.unwrap_or(false);
    let mut collectors = Vec::new();
    for text in raw.collectors.iter().flatten() {
        let example = "an address such as \"https://collector.example:19312\"";
        let url: Url = text.parse().map_err(|_| bad("uplink.collectors", quoted(text), example))?;
        if !url.username().is_empty() || url.password().is_some() {
            // It may hold a secret, which has no place in a log.
            let expected = "an address without user and password: the certificate says who this is";
            return Err(bad("uplink.collectors", "an address with user or password", expected));
        }
        let known = matches!(url.scheme(), "https" | "http") && url.host_str().is_some();
        if !known || url.query().is_some() {
            return Err(bad("uplink.collectors", quoted(text), format!("{example}, without query")));
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            let expected = "an https address: batches go to other hosts over TLS only";
            return Err(bad("uplink.collectors", quoted(text), expected));
        }
        if url.scheme() == "http" && !plain_allowed {
            let expected = "an https address; an http address of this host needs \
                            uplink.plain_http_on_loopback = true";
            return Err(bad("uplink.collectors", quoted(text), expected));
        }
        collectors.push(url);
    }
    let connect_timeout = span("uplink.connect_timeout", &raw.connect_timeout, "5s", "100ms", "1m")?;
    let timeout = span("uplink.timeout", &raw.timeout, "30s", "100ms", "5m")?;
    Ok((!collectors.is_empty()).then_some(SenderOptions { collectors, connect_timeout, timeout }))
}

fn tls(raw: raw::Tls) -> Result<Files, ConfigError> {
    let raw::Tls { dir, certificate_file, key_file, authorities_file } = raw;
    let together = "certificate_file, key_file and authorities_file together, or none of them";
    match (certificate_file, key_file, authorities_file) {
        (None, None, None) => Ok(Files::Own(dir.unwrap_or_else(|| "/var/lib/weighbridge/agent/tls".into()))),
        (Some(certificate), Some(key), Some(authorities)) => {
            if let Some(dir) = dir {
                let expected = "left out where certificate_file names one of the site's own authority";
                return Err(bad("tls.dir", dir.display(), expected));
            }
            Ok(Files::Site { certificate, key, authorities })
        }
        _ => Err(bad("tls", "a part", together)),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}

fn source(raw: raw::Source) -> Result<SourceConfig, ConfigError> {
    let kind = raw.kind.as_deref().unwrap_or("nvml");
    let needed = |key: &str, value: Option<PathBuf>| {
        value.ok_or_else(|| bad(key, "nothing", format!("a path, which source.kind = {kind:?} needs")))
    };
    match kind {
        "nvml" => Ok(SourceConfig::Nvml {
            library: raw.nvml.library.unwrap_or_else(|| "libnvidia-ml.so.1".into()),
            deadline: span("source.nvml.deadline", &raw.nvml.deadline, "500ms", "10ms", "30s")?,
            search_every: span("source.nvml.search_every", &raw.nvml.search_every, "30s", "100ms", "10m")?,
            release_file: raw.nvml.release_file.unwrap_or_else(|| RELEASE_FILE.into()),
            sysfs: raw.nvml.sysfs.unwrap_or_else(|| "/sys".into()),
        }),
        "amdgpu" => Ok(SourceConfig::Amdgpu {
            sysfs: raw.amdgpu.sysfs.unwrap_or_else(|| "/sys".into()),
            search_every: span(
                "source.amdgpu.search_every",
                &raw.amdgpu.search_every,
                "30s",
                "100ms",
                "10m",
            )?,
        }),
        "dcgm" => {
            let (exporters, deadline, interval) = exporters("source.dcgm", &raw.dcgm, "9400")?;
            Ok(SourceConfig::Dcgm(DcgmOptions { exporters, deadline, interval }))
        }
        "gaudi" => {
            let (exporters, deadline, interval) = exporters("source.gaudi", &raw.gaudi, "41611")?;
            Ok(SourceConfig::Gaudi(GaudiOptions { exporters, deadline, interval }))
        }
        "redfish" => redfish(raw.redfish).map(SourceConfig::Redfish),
        "simulated" => Ok(SourceConfig::Simulated {
            scenario: needed("source.simulated.scenario", raw.simulated.scenario)?,
            time: time("source.simulated", raw.simulated.rate, raw.simulated.start.as_deref())?,
        }),
        "replay" => {
            let model = raw.replay.model.ok_or_else(|| {
                bad("source.replay.model", "nothing", "a device name, which source.kind = \"replay\" needs")
            })?;
            let of_gpu = raw.replay.models;
            for (key, name) in of_gpu.iter().map(|(gpu, name)| (gpu.as_str(), name)).chain([("", &model)]) {
                if AcceleratorTable::shipped().find(None, name).is_none() {
                    let key = if key.is_empty() { "model".into() } else { format!("models.{key}") };
                    let expected =
                        "a device name in the accelerator table, such as \"NVIDIA H100 80GB HBM3\"";
                    return Err(bad(&format!("source.replay.{key}"), quoted(name), expected));
                }
            }
            Ok(SourceConfig::Replay {
                file: needed("source.replay.file", raw.replay.file)?,
                models: ReplayModels { model, of_gpu, clock_mhz: raw.replay.clock_mhz },
                time: time("source.replay", raw.replay.rate, raw.replay.start.as_deref())?,
            })
        }
        "allocation" => Ok(SourceConfig::Allocation { devices: devices(raw.allocation)? }),
        other => {
            let kinds = "one of nvml, amdgpu, dcgm, gaudi, redfish, allocation, simulated and replay";
            Err(bad("source.kind", quoted(other), kinds))
        }
    }
}

/// While this file is there, devices are let go of, where nothing else is configured.
pub const RELEASE_FILE: &str = "/run/weighbridge-agent/release";

fn address(key: &str, text: &str, example: &str) -> Result<Url, ConfigError> {
    let expected = || format!("an http or https address such as \"{example}\", without user and password");
    let url: Url = text.parse().map_err(|_| bad(key, quoted(text), expected()))?;
    if !url.username().is_empty() || url.password().is_some() {
        // It may hold a secret, which has no place in a log.
        return Err(bad(key, "an address with user or password", expected()));
    }
    let usable = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
    if usable { Ok(url) } else { Err(bad(key, quoted(text), expected())) }
}

fn exporters(
    section: &str,
    raw: &raw::Exporters,
    port: &str,
) -> Result<(Vec<Url>, Duration, Duration), ConfigError> {
    let example = format!("http://127.0.0.1:{port}/metrics");
    let key = |name: &str| format!("{section}.{name}");
    let given = raw.exporters.clone().unwrap_or_else(|| vec![example.clone()]);
    if given.is_empty() {
        return Err(bad(&key("exporters"), "an empty list", "a list of at least one address"));
    }
    let addresses = given.iter().map(|text| {
        let url = address(&key("exporters"), text, &example)?;
        if url.scheme() == "https" {
            let expected = "an http:// address: exporters are read without TLS, best on the same host";
            return Err(bad(&key("exporters"), quoted(text), expected));
        }
        Ok(url)
    });
    Ok((
        addresses.collect::<Result<_, ConfigError>>()?,
        span(&key("deadline"), &raw.deadline, "5s", "100ms", "30s")?,
        span(&key("interval"), &raw.interval, "30s", "100ms", "5m")?,
    ))
}

fn redfish(raw: raw::Redfish) -> Result<RedfishOptions, ConfigError> {
    let mut controllers = Vec::new();
    for (index, one) in raw.controllers.into_iter().enumerate() {
        let key = |name: &str| format!("source.redfish.controllers[{index}].{name}");
        if one.host.is_empty() || one.host.len() > 253 || !one.host.bytes().all(|b| b.is_ascii_graphic()) {
            let expected = "the name of the host whose accelerators it speaks for";
            return Err(bad(&key("host"), quoted(&one.host), expected));
        }
        if one.user.is_some() != one.password_file.is_some() {
            return Err(bad(&key("user"), "one of user and password_file", "both of them, or neither"));
        }
        controllers.push(Controller {
            url: address(&key("url"), &one.url, "https://bmc-7.example")?,
            host: one.host,
            user: one.user,
            password_file: one.password_file,
        });
    }
    if controllers.is_empty() {
        let expected = "a list of controllers, which source.kind = \"redfish\" needs";
        return Err(bad("source.redfish.controllers", "nothing", expected));
    }
    Ok(RedfishOptions {
        controllers,
        deadline: span("source.redfish.deadline", &raw.deadline, "20s", "100ms", "60s")?,
        discover_every: raw.discover_every.unwrap_or(20),
        ca_file: raw.ca_file,
        any_certificate: raw.any_certificate.unwrap_or(false),
    })
}

fn time(section: &str, rate: Option<u32>, start: Option<&str>) -> Result<SimulatedTime, ConfigError> {
    let rate = rate.unwrap_or(1);
    if !(1..=100_000).contains(&rate) {
        return Err(bad(&format!("{section}.rate"), rate, "a whole number from 1 to 100000"));
    }
    let start = start.map(|text| {
        let key = format!("{section}.start");
        text.parse().map_err(|_| bad(&key, quoted(text), "an RFC 3339 time such as 2026-01-31T08:00:00Z"))
    });
    Ok(SimulatedTime { rate, start: start.transpose()? })
}

fn devices(raw: raw::Allocation) -> Result<Vec<Device>, ConfigError> {
    if raw.accelerators.is_empty() {
        let expected = "a list of accelerators, which source.kind = \"allocation\" needs";
        return Err(bad("source.allocation.accelerators", "nothing", expected));
    }
    let table = AcceleratorTable::shipped();
    let mut devices: Vec<Device> = Vec::new();
    for (index, accelerator) in raw.accelerators.into_iter().enumerate() {
        let key = format!("source.allocation.accelerators[{index}].id");
        let id = accelerator.id.parse().map_err(|_| {
            bad(
                &key,
                quoted(&accelerator.id),
                "an accelerator id: 1 to 96 printable characters without blanks",
            )
        })?;
        if devices.iter().any(|other| other.id == id) {
            return Err(bad(&key, quoted(id.as_str()), "unique"));
        }
        let model = table.find(accelerator.pci_device.as_deref(), &accelerator.name);
        devices.push(Device {
            id,
            pci_address: None,
            pci_device: accelerator.pci_device.or_else(|| model.map(|model| model.pci_device.clone())),
            name: accelerator.name,
            max_sm_clock_mhz: None,
            power_limit_mw: None,
            memory_bytes: None,
            tier: Tier::E,
            source: Source::Allocation,
            driver: None,
            host: None,
            trust: None,
            parent: None,
            units: None,
            instance: None,
            sample_ms: 0,
            conditions: Vec::new(),
            present: true,
        });
    }
    Ok(devices)
}

/// What the kernel calls this host.
pub fn hostname(path: &Path) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_pod_the_clusters_own_api_server_is_asked_as_the_pods_account() {
        let api = |raw: raw::Kubernetes, host: &str| {
            let raw = raw::Holders { kubernetes: raw, ..raw::Holders::default() };
            let cluster = Some((host.to_owned(), "443".to_owned()));
            let options = kubernetes(&raw, "node1", cluster).expect("good").expect("it is asked");
            let file =
                |path: Option<PathBuf>| path.map_or("none".to_owned(), |path| path.display().to_string());
            options.api.map(|api| format!("{} {} {}", api.url, file(api.token_file), file(api.ca_file)))
        };
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        assert_eq!(
            api(raw::Kubernetes::default(), "10.96.0.1"),
            Some(format!("https://10.96.0.1/ {account}/token {account}/ca.crt"))
        );
        assert!(
            api(raw::Kubernetes::default(), "fd00::1")
                .is_some_and(|api| api.starts_with("https://[fd00::1]/ "))
        );
        let other = |text: &str| raw::Kubernetes { api: Some(text.into()), ..raw::Kubernetes::default() };
        assert_eq!(api(other(""), "10.96.0.1"), None);
        // What is configured is not shown the token of the pod's own cluster.
        assert_eq!(
            api(other("https://api.example"), "10.96.0.1"),
            Some("https://api.example/ none none".into())
        );
    }
}
