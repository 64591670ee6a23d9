//! Configuration: file, then environment, then flags; all checked before any port opens.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use serde::Deserialize;
use weighbridge_casework::RulePack;
use weighbridge_registry::places::{Database, Places};
use weighbridge_tlog::note::{KeyType, VerifierKey};
use zeroize::Zeroizing;

use crate::{
    ingest::quota::Quota,
    listen::Limits,
    operator::{OperatorKeyAt, RawOperatorKey},
    packs::{self, PackFileError},
    pdf::ExtraFont,
    tls::config::{RawAuthority, Security},
    tree::{TreeConfig, WitnessAt},
};

/// Where the file is looked for if no flag says otherwise.
pub const DEFAULT_FILE: &str = "/etc/weighbridge/collector.toml";

/// Environment variables begin with this; sections and keys are joined by two underscores.
pub const ENVIRONMENT: &str = "WEIGHBRIDGE_COLLECTOR__";

/// As written: unknown keys are refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    store: RawStore,
    keys: RawKeys,
    ingest: RawIngest,
    authority: RawAuthority,
    http: RawListen,
    rules: RawRules,
    tree: RawTree,
    /// Who may tell over HTTP what came of a verification; nobody by default.
    verification: Vec<RawVerification>,
    places: RawPlaces,
    cases: RawCases,
    reports: RawReports,
    log: RawLog,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawStore {
    /// Folder of the ledger and of the sums folded from it. Default `/var/lib/weighbridge/collector`.
    data: Option<PathBuf>,
    /// A ledger segment is closed once it is larger, in bytes. Default 64 MiB; at least 4096.
    segment_bytes: Option<u64>,
    /// How long payloads of the ledger are kept, in days, such as `400d`; at least `8d`. After that the collector
    /// prunes them: it closes the hours that were made of them, keeps a signed summary, and removes the segments.
    /// Unset by default: everything is kept.
    keep_payloads: Option<String>,
    /// Bytes of the disk that batches leave free, for facts and sums. Below it batches are answered 503 until there
    /// is room. Default 16 MiB, or a sixteenth of a small disk; 0 leaves none.
    reserve_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawKeys {
    /// Where the operator's key is, 32 bytes in base64: a file (which `{ file = "/path" }` says too), a variable of the
    /// environment, `{ environment = "NAME" }`, or what a command prints, `{ command = ["program", "argument"],
    /// time_limit = "10s" }`, run once at start without a shell. Default the file `/etc/weighbridge/operator.key`.
    operator_key: Option<RawOperatorKey>,
    /// Folder of the wrapped keys of customers; keep it out of ordinary backups.
    /// Default `/var/lib/weighbridge/collector-keys`.
    key_store: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawListen {
    /// Address and port. Port 0 takes a free one, which is printed.
    listen: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawIngest {
    /// Address and port. Port 0 takes a free one, which is printed.
    pub(crate) listen: Option<String>,
    /// Batches that an agent may send in a minute, twice as many at once after silence; beyond it 429. Default
    /// 30000, hundreds of times what an agent makes even while it sends what waited; at least 1.
    batches_per_minute: Option<u32>,
    /// The same in bytes of batches as sent. Default 64 MiB; at least 1 MiB, the largest batch.
    bytes_per_minute: Option<u32>,
    /// Connections at a time. Default 8192; at least 1. Fewer where the limit on open files leaves no room for them.
    connections: Option<usize>,
    /// Connections from one address at a time, of IPv6 from one /64. Default 2048; at least 1. Raise it where many
    /// agents share one.
    connections_per_address: Option<usize>,
    /// Takes plain HTTP instead of TLS, which only works on a loopback address: for trying out, and behind a
    /// proxy of one's own on the same host. Default `false`.
    pub(crate) plain_http_on_loopback: Option<bool>,
    /// Names and addresses by which agents reach this collector; they stand in its certificate. Default: the
    /// host's name, `localhost`, `127.0.0.1`, `::1` and the address of `listen`.
    pub(crate) names: Option<Vec<String>>,
    /// A certificate of the site's own authority, in PEM, instead of the collector's own. Then `key_file` and
    /// `authorities_file` are needed too; they are read again when they change. Default: none.
    pub(crate) certificate_file: Option<PathBuf>,
    /// Its private key, in PEM.
    pub(crate) key_file: Option<PathBuf>,
    /// The authorities by which agents are believed, in PEM.
    pub(crate) authorities_file: Option<PathBuf>,
    /// The URI by which certificates of the site's authority name an agent, with `{agent}` in it once. Default
    /// `weighbridge://agent/{agent}`.
    pub(crate) identity: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawRules {
    /// How often totals are compared with the packs, such as `10s`. Default `10s`; from `100ms` to `1h`.
    every: Option<String>,
    /// Folder with further packs, `<id>@<version>.toml`, each with its signature, `<id>@<version>.toml.sig`; none by
    /// default. Of all versions of an id, shipped ones among them, totals are compared with the newest. One file that
    /// cannot be used stops the start.
    folder: Option<PathBuf>,
    /// Keys of which one must have signed a pack of the folder, as `packs keygen` prints them. None by default.
    trusted_keys: Vec<String>,
    /// From which part of a line on, in per cent, whoever nears it is named. Default 10; from 1 to 100.
    attention_percent: Option<u8>,
    /// Ids of packs to compare with though the pack says not to.
    enable: Vec<String>,
    /// Ids of packs not to compare with though the pack says to.
    disable: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawTree {
    /// First part of the name of the log, `<site>/<generation of the store>`, such as `example.com/weighbridge`;
    /// without spaces and plus. Default `weighbridge`. Another name is another log: witnesses have to be told.
    site: Option<String>,
    /// The least time between two signed checkpoints, such as `1s`. Default `1s`; from `100ms` to `1h`.
    every: Option<String>,
    /// How often witnesses are asked to cosign. Default `1m`; from `100ms` to `1h`.
    witness_every: Option<String>,
    /// Who cosigns; nobody by default.
    witness: Vec<RawWitness>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawWitness {
    /// Where it takes requests, such as `http://witness.example:19313`. What it signs is checked, so plain HTTP will do.
    url: String,
    /// Its key, as it prints it when it starts.
    key: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawVerification {
    /// Its name, which is the last part of the path that it calls, `/api/v1/verifications/<provider>`.
    provider: String,
    /// File with the secret that it signs with: at least 16 bytes, blanks around them left out.
    secret_file: PathBuf,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPlaces {
    /// Databases of places on the network, files in MaxMind's format, in the order in which they are asked; none by
    /// default. They are read at the start. At most 16.
    databases: Vec<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawCases {
    /// Whether whoever decided a case may not also say that its report was sent, nor close it. Default `false`.
    second_person: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawReports {
    /// A TrueType font for characters of PDF reports that the shipped one lacks, which has Latin, Greek and Cyrillic.
    /// Without it such a character is written as its number. Read at the start; none by default.
    font: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLog {
    /// `error`, `warn`, `info` or `debug`. Default `info`.
    level: Option<String>,
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of ledger and sums.
    pub data: PathBuf,
    /// Size of a ledger segment in bytes.
    pub segment_bytes: u64,
    /// After how many milliseconds payloads are pruned, if they are.
    pub keep_payloads: Option<i64>,
    /// Where the operator's key is.
    pub operator_key: OperatorKeyAt,
    /// Folder of wrapped keys.
    pub key_store: PathBuf,
    /// Bytes of its disk that batches leave free.
    pub reserve_bytes: Option<u64>,
    /// Where batches come in.
    pub ingest: SocketAddr,
    /// How that is secured.
    pub security: Security,
    /// How many connections the ingest port takes on.
    pub limits: Limits,
    /// What each agent may send.
    pub quota: Quota,
    /// Pages and API.
    pub http: SocketAddr,
    /// How often totals are compared with packs.
    pub judge_every: Duration,
    /// From which part of a line on, in per cent, whoever nears it is named.
    pub attention_percent: u8,
    /// The newest version of each pack, and whether totals are compared with it.
    pub packs: Vec<(RulePack, bool)>,
    /// Older versions of them.
    pub older_packs: Vec<RulePack>,
    /// Who signed packs of the folder, by `<id>@<version>`.
    pub pack_signers: BTreeMap<String, Vec<String>>,
    /// Keys that such packs are believed by.
    pub trusted_keys: Vec<VerifierKey>,
    /// Where further packs are.
    pub packs_folder: Option<PathBuf>,
    /// The tree over the ledger.
    pub tree: TreeConfig,
    /// Who may tell what came of a verification, with the secret that it signs with.
    pub verification: BTreeMap<String, Secret>,
    /// Where on the network addresses are.
    pub databases: Arc<Places>,
    /// Whether whoever decided a case may not also carry that out.
    pub second_person: bool,
    /// A further font for reports on paper.
    pub report_font: Option<ExtraFont>,
    /// How much is logged.
    pub log: tracing::Level,
}

/// What a provider of verifications signs with. Wiped when dropped, and shown by nothing.
#[derive(Clone)]
pub struct Secret(pub Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Changes on the command line, which win over everything.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `store.data`.
    pub data: Option<PathBuf>,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key is unknown, missing or of the wrong kind; the message names file or variable, key and expectation.
    #[error("{0}")]
    Source(Box<figment::Error>),
    /// A value is out of range.
    #[error("{key}: {value:?} is not {expected}")]
    Value {
        /// Section and key.
        key: &'static str,
        /// What stood there.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// A pack cannot be used.
    #[error("rules.folder: {0}")]
    Pack(#[from] PackFileError),
}

/// Reads and checks everything. A file that was not asked for by flag may be missing.
pub fn load(file: Option<PathBuf>, flags: &Flags) -> Result<Config, ConfigError> {
    let toml = match file {
        Some(file) => Toml::file_exact(file),
        None => Toml::file(DEFAULT_FILE),
    };
    check(Figment::new().merge(toml).merge(Env::prefixed(ENVIRONMENT).split("__")), flags)
}

/// From a text instead of a file: for tests and the demo.
pub fn parse(text: &str, flags: &Flags) -> Result<Config, ConfigError> {
    check(Figment::new().merge(Toml::string(text)), flags)
}

fn check(figment: Figment, flags: &Flags) -> Result<Config, ConfigError> {
    let raw: Raw = figment.extract().map_err(|error| ConfigError::Source(Box::new(error)))?;
    let segment_bytes = raw.store.segment_bytes.unwrap_or(64 << 20);
    if segment_bytes < 4096 {
        return Err(ConfigError::Value {
            key: "store.segment_bytes",
            value: segment_bytes.to_string(),
            expected: "at least 4096 bytes",
        });
    }
    let (limits, quota) = ingest(&raw.ingest)?;
    let ingest = listen("ingest.listen", raw.ingest.listen.clone(), "127.0.0.1:19312")?;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let security = Security::check(raw.ingest, &raw.authority, ingest, hostname.trim())?;
    let trusted_keys = trusted_keys(&raw.rules)?;
    let shelf = packs::load(raw.rules.folder.as_deref(), &trusted_keys)?;
    Ok(Config {
        data: flags
            .data
            .clone()
            .or(raw.store.data)
            .unwrap_or_else(|| "/var/lib/weighbridge/collector".into()),
        segment_bytes,
        keep_payloads: raw.store.keep_payloads.map(keep_payloads).transpose()?,
        reserve_bytes: raw.store.reserve_bytes,
        limits,
        quota,
        operator_key: match raw.keys.operator_key {
            None => OperatorKeyAt::File("/etc/weighbridge/operator.key".into()),
            Some(raw) => raw.check()?,
        },
        key_store: raw.keys.key_store.unwrap_or_else(|| "/var/lib/weighbridge/collector-keys".into()),
        ingest,
        security,
        http: listen("http.listen", raw.http.listen, "127.0.0.1:19311")?,
        judge_every: every("rules.every", raw.rules.every.as_deref().unwrap_or("10s"))?,
        attention_percent: attention(raw.rules.attention_percent)?,
        tree: tree(&raw.tree)?,
        packs: compared(&raw.rules, shelf.newest)?,
        older_packs: shelf.older,
        pack_signers: shelf.signers,
        trusted_keys,
        packs_folder: raw.rules.folder,
        verification: verification(raw.verification)?,
        databases: Arc::new(databases(raw.places)?),
        second_person: raw.cases.second_person,
        report_font: raw.reports.font.map(font).transpose()?,
        log: level(raw.log.level.as_deref().unwrap_or("info"))?,
    })
}

fn font(file: PathBuf) -> Result<ExtraFont, ConfigError> {
    let read = std::fs::read(&file).ok().and_then(ExtraFont::read);
    read.ok_or_else(|| ConfigError::Value {
        key: "reports.font",
        value: file.display().to_string(),
        expected: ExtraFont::EXPECTED,
    })
}

fn verification(raw: Vec<RawVerification>) -> Result<BTreeMap<String, Secret>, ConfigError> {
    let mut providers = BTreeMap::new();
    for RawVerification { provider, secret_file } in raw {
        let fits = (1..=64).contains(&provider.len())
            && provider.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !fits || providers.contains_key(&provider) {
            return Err(ConfigError::Value {
                key: "verification.provider",
                value: provider,
                expected: "a name of 1 to 64 letters, digits, hyphens, underscores and dots that stands there once",
            });
        }
        let file = secret_file.display().to_string();
        let text = std::fs::read(&secret_file).map(Zeroizing::new).map_err(|error| ConfigError::Value {
            key: "verification.secret_file",
            value: format!("{file} ({error})"),
            expected: "a file that can be read",
        })?;
        let secret = text.trim_ascii();
        if !(16..=1024).contains(&secret.len()) {
            return Err(ConfigError::Value {
                key: "verification.secret_file",
                value: file,
                expected: "a file with a secret of 16 to 1024 bytes",
            });
        }
        providers.insert(provider, Secret(Zeroizing::new(secret.to_vec())));
    }
    Ok(providers)
}

fn databases(raw: RawPlaces) -> Result<Places, ConfigError> {
    let key = "places.databases";
    let mut places = Places::default();
    for path in raw.databases {
        let file = path.display().to_string();
        let name = path.file_name().map_or_else(|| file.clone(), |name| name.to_string_lossy().into_owned());
        let bytes = std::fs::read(&path).map_err(|error| ConfigError::Value {
            key,
            value: format!("{file} ({error})"),
            expected: "a file that can be read",
        })?;
        let database = Database::open(&name, bytes).map_err(|error| ConfigError::Value {
            key,
            value: format!("{file} ({})", error.problem),
            expected: "a database in MaxMind's format",
        })?;
        if !places.add(database) {
            return Err(ConfigError::Value { key, value: file, expected: "among at most 16 databases" });
        }
    }
    Ok(places)
}

fn ingest(raw: &RawIngest) -> Result<(Limits, Quota), ConfigError> {
    let usual = Limits::default();
    let least = |key, value: usize, least: usize, expected| {
        let bad = || ConfigError::Value { key, value: value.to_string(), expected };
        if value < least { Err(bad()) } else { Ok(value) }
    };
    let limits = Limits {
        connections: least(
            "ingest.connections",
            raw.connections.unwrap_or(usual.connections),
            1,
            "at least 1 connection",
        )?,
        per_address: least(
            "ingest.connections_per_address",
            raw.connections_per_address.unwrap_or(usual.per_address),
            1,
            "at least 1 connection",
        )?,
        ..usual
    };
    let quota = Quota {
        batches: raw.batches_per_minute.unwrap_or(30_000),
        bytes: raw.bytes_per_minute.unwrap_or(64 << 20),
    };
    least("ingest.batches_per_minute", quota.batches as usize, 1, "at least 1 batch")?;
    least(
        "ingest.bytes_per_minute",
        quota.bytes as usize,
        1 << 20,
        "at least 1048576 bytes, the largest batch",
    )?;
    Ok((limits, quota))
}

fn listen(key: &'static str, value: Option<String>, default: &str) -> Result<SocketAddr, ConfigError> {
    let value = value.unwrap_or_else(|| default.into());
    value.parse().map_err(|_| ConfigError::Value {
        key,
        value,
        expected: "an address with a port, such as 127.0.0.1:19311 or [::]:19311",
    })
}

fn keep_payloads(value: String) -> Result<i64, ConfigError> {
    crate::prune::days(&value).ok_or(ConfigError::Value {
        key: "store.keep_payloads",
        value,
        expected: "a number of days from 8d to 36500d, such as 400d",
    })
}

fn level(value: &str) -> Result<tracing::Level, ConfigError> {
    match value {
        "error" => Ok(tracing::Level::ERROR),
        "warn" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        _ => Err(ConfigError::Value {
            key: "log.level",
            value: value.into(),
            expected: "error, warn, info or debug",
        }),
    }
}

fn tree(raw: &RawTree) -> Result<TreeConfig, ConfigError> {
    let site = raw.site.clone().unwrap_or_else(|| "weighbridge".into());
    if site.is_empty() || site.contains('+') || site.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let expected = "a name without spaces and plus, such as example.com/weighbridge";
        return Err(ConfigError::Value { key: "tree.site", value: site, expected });
    }
    let witness = |raw: &RawWitness| {
        let expected = "an address such as http://witness.example:19313";
        if !raw.url.starts_with("http://") {
            return Err(ConfigError::Value { key: "tree.witness.url", value: raw.url.clone(), expected });
        }
        let expected = "a key as the witness prints it: <name>+<8 hexadecimal digits>+<base64>, of type 4";
        let key: Option<VerifierKey> = raw.key.parse().ok();
        let key = key.filter(|key| key.kind() == KeyType::Cosignature);
        let bad = || ConfigError::Value { key: "tree.witness.key", value: raw.key.clone(), expected };
        Ok(WitnessAt { url: raw.url.clone(), key: key.ok_or_else(bad)? })
    };
    Ok(TreeConfig {
        site,
        every: every("tree.every", raw.every.as_deref().unwrap_or("1s"))?,
        witnesses: raw.witness.iter().map(witness).collect::<Result<_, _>>()?,
        witness_every: every("tree.witness_every", raw.witness_every.as_deref().unwrap_or("1m"))?,
    })
}

fn every(key: &'static str, value: &str) -> Result<Duration, ConfigError> {
    let bad = || ConfigError::Value {
        key,
        value: value.into(),
        expected: "a duration from 100ms to 1h, such as 10s",
    };
    let span: jiff::SignedDuration = value.parse().map_err(|_| bad())?;
    let duration = Duration::try_from(span).map_err(|_| bad())?;
    let sensible = Duration::from_millis(100)..=Duration::from_secs(3600);
    if sensible.contains(&duration) { Ok(duration) } else { Err(bad()) }
}

fn attention(percent: Option<u8>) -> Result<u8, ConfigError> {
    let percent = percent.unwrap_or(10);
    match percent {
        1..=100 => Ok(percent),
        _ => Err(ConfigError::Value {
            key: "rules.attention_percent",
            value: percent.to_string(),
            expected: "whole per cent from 1 to 100",
        }),
    }
}

fn trusted_keys(rules: &RawRules) -> Result<Vec<VerifierKey>, ConfigError> {
    let key = |text: &String| {
        packs::trusted_key(text).ok_or_else(|| ConfigError::Value {
            key: "rules.trusted_keys",
            value: text.clone(),
            expected: "a key as `packs keygen` prints it: <name>+<8 hexadecimal digits>+<base64>, of type 1",
        })
    };
    rules.trusted_keys.iter().map(key).collect()
}

/// Which of the packs totals are compared with.
fn compared(rules: &RawRules, packs: Vec<RulePack>) -> Result<Vec<(RulePack, bool)>, ConfigError> {
    for (key, ids) in [("rules.enable", &rules.enable), ("rules.disable", &rules.disable)] {
        if let Some(unknown) = ids.iter().find(|id| packs.iter().all(|pack| pack.id != **id)) {
            return Err(ConfigError::Value {
                key,
                value: unknown.clone(),
                expected: "the id of a pack that is loaded",
            });
        }
    }
    Ok(packs
        .into_iter()
        .map(|pack| {
            let enabled =
                (pack.evaluate || rules.enable.contains(&pack.id)) && !rules.disable.contains(&pack.id);
            (pack, enabled)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text, &Flags::default()).expect_err("not valid").to_string()
    }

    #[test]
    fn a_provider_of_verifications_has_a_name_and_a_secret_that_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        let text =
            |provider: &str| format!("[[verification]]\nprovider = '{provider}'\nsecret_file = {file:?}\n");
        let refused = |text: &str| parse(text, &Flags::default()).expect_err("it is wrong").to_string();
        assert!(refused(&text("idcheck")).contains("is not a file that can be read"));
        std::fs::write(&file, "short\n").expect("writable");
        assert!(refused(&text("idcheck")).contains("is not a file with a secret of 16 to 1024 bytes"));
        std::fs::write(&file, "0123456789abcdef\n").expect("writable");
        assert!(refused(&text("id/check")).contains("\"id/check\" is not a name"));
        assert!(refused(&[text("a"), text("a")].concat()).contains("stands there once"));
        let config = parse(&text("idcheck"), &Flags::default()).expect("valid");
        assert_eq!(config.verification["idcheck"].0.len(), 16);
        assert!(!format!("{config:?}").contains("0123456789"));
    }

    #[test]
    fn an_empty_file_is_valid_and_compares_with_the_packs_that_say_so() {
        let config = parse("", &Flags::default()).expect("valid");
        let enabled: Vec<&str> =
            config.packs.iter().filter(|(_, enabled)| *enabled).map(|(pack, _)| pack.id.as_str()).collect();
        assert!(enabled.contains(&"us-7.308") && !enabled.contains(&"us-eo14110"), "{enabled:?}");
    }

    #[test]
    fn errors_name_key_value_and_expectation() {
        assert!(error("[http]\nlistne = 'x'").contains("listne"));
        assert_eq!(
            error("[http]\nlisten = 'localhost'"),
            r#"http.listen: "localhost" is not an address with a port, such as 127.0.0.1:19311 or [::]:19311"#
        );
        assert_eq!(
            error("[rules]\nevery = '1ms'"),
            r#"rules.every: "1ms" is not a duration from 100ms to 1h, such as 10s"#
        );
        assert_eq!(
            error("[rules]\nenable = ['us-9']"),
            r#"rules.enable: "us-9" is not the id of a pack that is loaded"#
        );
        assert_eq!(
            error("[store]\nsegment_bytes = 1"),
            r#"store.segment_bytes: "1" is not at least 4096 bytes"#
        );
        for (text, said) in [
            (
                "[ingest]\nlisten = '0.0.0.0:19312'\nplain_http_on_loopback = true",
                r#"ingest.listen: "0.0.0.0:19312" is not a loopback address, which ingest.plain_http_on_loopback needs"#,
            ),
            (
                "[ingest]\nnames = ['a b']",
                r#"ingest.names: "a b" is not host names and addresses, without port"#,
            ),
            ("[ingest]\nnames = []", r#"ingest.names: "" is not host names and addresses, without port"#),
            (
                "[ingest]\nkey_file = '/x'",
                r#"ingest: "a part" is not all of certificate_file, key_file and authorities_file, or none of them"#,
            ),
            (
                "[ingest]\ncertificate_file = '/c'\nkey_file = '/k'\nauthorities_file = '/a'\nidentity = 'agent'",
                r#"ingest.identity: "agent" is not a URI with {agent} in it once, such as weighbridge://agent/{agent}"#,
            ),
            (
                "[ingest]\nidentity = 'x://{agent}'",
                r#"ingest.identity: "x://{agent}" is not left out without certificate_file: the collector's own authority names agents itself"#,
            ),
            (
                "[authority]\nagent_certificate = '1s'",
                r#"authority.agent_certificate: "1s" is not a duration from 2s to 8760h, such as 24h"#,
            ),
            (
                "[authority]\ngrace = '1y'",
                r#"authority.grace: "1y" is not a duration from 0s to 8760h, such as 720h"#,
            ),
        ] {
            assert_eq!(error(text), said);
        }
        assert_eq!(
            error("[store]\nkeep_payloads = '7d'"),
            r#"store.keep_payloads: "7d" is not a number of days from 8d to 36500d, such as 400d"#
        );
        assert_eq!(
            error("[tree]\nsite = 'a b'"),
            r#"tree.site: "a b" is not a name without spaces and plus, such as example.com/weighbridge"#
        );
        assert!(error("[tree]\nevery = '1ms'").starts_with("tree.every: "));
        assert!(error("[[tree.witness]]\nurl = 'ftp://x'").starts_with("tree.witness.url: "));
        let log = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        assert!(
            error(&format!("[[tree.witness]]\nurl = 'http://x'\nkey = '{log}'"))
                .starts_with("tree.witness.key: ")
        );
        assert_eq!(
            error("[ingest]\nbytes_per_minute = 1000"),
            r#"ingest.bytes_per_minute: "1000" is not at least 1048576 bytes, the largest batch"#
        );
        assert_eq!(
            error("[ingest]\nconnections_per_address = 0"),
            r#"ingest.connections_per_address: "0" is not at least 1 connection"#
        );
        assert!(error("[store]\nsegment_bytes = 'many'").contains("segment_bytes"));
        assert_eq!(error("[log]\nlevel = 'loud'"), r#"log.level: "loud" is not error, warn, info or debug"#);
    }

    #[test]
    fn ingest_speaks_tls_unless_it_is_told_to_be_plain_on_loopback() {
        let security = |text: &str| parse(text, &Flags::default()).expect("valid").security;
        let Security::Own(own) = security("") else { panic!("not the collector's own authority") };
        assert!(own.names.contains(&"localhost".to_owned()) && own.names.contains(&"::1".to_owned()));
        assert_eq!(own.agent_lasts.as_secs(), 86_400);
        assert!(matches!(security("[ingest]\nplain_http_on_loopback = true"), Security::Plain));
        let site = "[ingest]\nlisten = '0.0.0.0:1'\ncertificate_file = '/c'\nkey_file = '/k'\nauthorities_file = '/a'";
        assert!(matches!(security(site), Security::Site(_)));
    }

    #[test]
    fn the_operators_key_is_in_a_file_a_variable_or_behind_a_command() {
        let at = |text: &str| parse(&format!("[keys]\noperator_key = {text}"), &Flags::default());
        let shown = |text: &str| at(text).expect("valid").operator_key;
        assert_eq!(shown("'/k'"), OperatorKeyAt::File("/k".into()));
        assert_eq!(shown("{ file = '/k' }"), OperatorKeyAt::File("/k".into()));
        assert_eq!(shown("{ environment = 'KEY' }"), OperatorKeyAt::Environment("KEY".into()));
        let command = vec!["vault".to_owned(), "read".to_owned()];
        assert_eq!(
            shown("{ command = ['vault', 'read'], time_limit = '3s' }"),
            OperatorKeyAt::Command { command, within: Duration::from_secs(3) }
        );
        for (text, expected) in [
            ("{}", "one of file, environment and command"),
            ("{ file = '/k', environment = 'KEY' }", "one of file, environment and command"),
            ("{ command = [] }", "a program and its arguments"),
            ("{ environment = 'A=B' }", "the name of a variable"),
            ("{ command = ['x'], time_limit = '1h' }", "a time_limit from 100ms to 5m"),
            ("{ file = '/k', time_limit = '1s' }", "with a command"),
            ("{ fil = '/k' }", "keys.operator_key"),
            ("7", "expected a file, or a table"),
        ] {
            let error = at(text).expect_err("invalid").to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Flags { data: Some("/flag".into()) };
        let config = parse("[store]\ndata = '/file'", &flags).expect("valid");
        assert_eq!(config.data, PathBuf::from("/flag"));
    }
}
