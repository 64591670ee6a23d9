//! `verify`: is the ledger whole, does the tree over it lead to what was signed, do the sums follow.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use weighbridge_meter::{EpochId, Estimator};
use weighbridge_registry::{PartyId, keys::key_in};
use weighbridge_store::{
    Place, SqliteStore, State, UsageStore,
    entry::AgentFact,
    ledger::generation,
    mark::Mark,
    summary,
    tree::{LogPaths, check, log_key, origin, promise::Promises},
    verify::{self, chain_of},
};
use weighbridge_tlog::note::VerifierKey;
use weighbridge_wire::SigningKey;

use crate::{
    app::record,
    command::{Failure, say},
    config::Config,
    opening::Places,
};

/// What is to be verified, and against what.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only what is cheap: signatures, the end of tree and ledger, headers, how far the sums are. A collector may run.
    #[arg(long, conflicts_with_all = ["full", "promises", "proof"])]
    quick: bool,
    /// Everything, which is also what happens without this: every entry, leaf, tile and signature, and all sums.
    #[arg(long, conflicts_with = "proof")]
    full: bool,
    /// Folder with promises that agents kept (`spool export`): each must be in the ledger.
    #[arg(long, value_name = "DIR", conflicts_with = "proof")]
    promises: Option<PathBuf>,
    /// Checks the proof of a report instead, without database, ledger and configuration.
    #[arg(long, value_name = "FILE")]
    pub(crate) proof: Option<PathBuf>,
    /// Key of the log, as `log-key` prints it; without it that of the key folder is taken.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<VerifierKey>,
    /// Key of a witness that must have cosigned the proof; may be given several times.
    #[arg(long, value_name = "KEY", requires = "proof")]
    pub(crate) witness: Vec<VerifierKey>,
}

/// The key of the log of this collector, from its key folder and the generation of its ledger.
pub fn own_log_key(config: &Config) -> Result<VerifierKey, Failure> {
    let file = config.data.join("ledger").join("GENERATION");
    let missing = |file: &Path, error: &dyn std::fmt::Display| {
        Failure::not_there(format!("{}: {error}", file.display()))
    };
    let text = std::fs::read_to_string(&file).map_err(|error| missing(&file, &error))?;
    let generation: EpochId = text.trim().parse().map_err(|error| missing(&file, &error))?;
    let file = config.key_store.join("collector-signing.key");
    let bytes = std::fs::read(&file).map_err(|error| missing(&file, &error))?;
    let bytes = bytes.try_into().map_err(|_| missing(&file, &"expected 32 bytes"))?;
    let key = SigningKey::from_bytes(&bytes).verifying_key();
    log_key(&origin(&config.tree.site, &generation.0), key).map_err(|error| Failure::missing(&error))
}

/// Verifies the ledger, the tree and the sums.
pub async fn run(config: &Config, options: &Options) -> Result<(), Failure> {
    let paths = LogPaths::of(&config.data, &config.key_store);
    if !paths.ledger.is_dir() {
        return Err(Failure::not_there(format!("{}: there is no ledger", paths.ledger.display())));
    }
    let log = match &options.key {
        Some(key) => key.clone(),
        None => own_log_key(config)?,
    };
    let witnesses: Vec<VerifierKey> =
        config.tree.witnesses.iter().map(|witness| witness.key.clone()).collect();
    let faults = if options.quick {
        quick(config, &paths, &log, &witnesses).await?
    } else {
        full(config, &paths, &log, &witnesses, options.promises.as_deref()).await?
    };
    if faults.is_empty() {
        say("ok");
        return Ok(());
    }
    Err(Failure::check(faults.join("\n")))
}

async fn quick(
    config: &Config,
    paths: &LogPaths,
    log: &VerifierKey,
    witnesses: &[VerifierKey],
) -> Result<Vec<String>, Failure> {
    let mut faults = Vec::new();
    match weighbridge_journal::check_headers(&paths.ledger) {
        Ok(segments) => say(format_args!("{segments} segments of the ledger follow on each other")),
        Err(error) => faults.push(chain_of(&error)),
    }
    match check::quick(paths, log, witnesses) {
        Ok(findings) => {
            say(format_args!("tree of {} leaves, log {log}", findings.size));
            findings.notes.iter().for_each(say);
            faults.extend(findings.faults);
            let store = match sums(config, findings.entries).await? {
                Ok(store) => store,
                Err(fault) => {
                    faults.push(fault);
                    return Ok(faults);
                }
            };
            let stands = store.stands().await.map_err(|error| Failure::missing(&error))?.index;
            if stands > findings.entries + 1 {
                faults.push(format!(
                    "the sums stand at ledger entry {stands}, but the ledger ends with entry {}",
                    findings.entries
                ));
            } else {
                say(format_args!("the sums reflect {} of {} entries", stands.max(1) - 1, findings.entries));
            }
        }
        Err(error) => faults.push(chain_of(&error)),
    }
    Ok(faults)
}

/// The sums, if there are any; else what is wrong. None are made: that is for a start to do.
async fn sums(config: &Config, entries: u64) -> Result<Result<SqliteStore, String>, Failure> {
    let file = config.data.join("usage.sqlite");
    if std::fs::metadata(&file).map_or(true, |file| file.len() == 0) {
        return Ok(Err(format!("{}: there are no sums", file.display())));
    }
    let store = SqliteStore::open(&file).await.map_err(|error| Failure::missing(&error))?;
    let stands = store.stands().await.map_err(|error| Failure::missing(&error))?;
    if stands.index == 0 && entries > 0 {
        return Ok(Err(format!("{}: nothing of the {entries} entries is in the sums", file.display())));
    }
    Ok(Ok(store))
}

/// What the note beside the keys, of how far the ledger was promised, says against it.
fn promised(places: &Places) -> Result<(), String> {
    let mark = match Mark::read(&places.mark) {
        Ok(Some(mark)) => mark,
        Ok(None) => return Ok(()),
        Err(error) => return Err(chain_of(&error)),
    };
    let file = places.mark.display();
    let noted = generation::noted(&places.ledger).map_err(|error| chain_of(&error))?;
    if noted.is_some() {
        // It was begun anew, and nobody has promised anything since.
        return Ok(());
    }
    let name = places.ledger.join(generation::GENERATION);
    let generation =
        std::fs::read_to_string(&name).map_err(|error| format!("{}: {error}", name.display()))?;
    if generation.trim() != mark.generation.to_string() {
        return Err(format!(
            "{file}: generation {} was promised, the ledger says that it is {}, and nothing that it was begun anew",
            mark.generation,
            generation.trim()
        ));
    }
    let oldest = weighbridge_journal::oldest_segment(&places.ledger).map_err(|error| error.to_string())?;
    if oldest.is_some_and(|oldest| mark.place.segment < oldest) {
        return Ok(());
    }
    match weighbridge_journal::chain_at(&places.ledger, mark.place) {
        Ok(chain) if chain == mark.chain => Ok(()),
        Ok(_) => Err(format!(
            "{file}: the ledger before entry {} is not the one that was promised",
            mark.place.index
        )),
        Err(error) => Err(format!(
            "{file}: everything before entry {} was promised, and the ledger does not lead there: {}",
            mark.place.index,
            chain_of(&error)
        )),
    }
}

async fn full(
    config: &Config,
    paths: &LogPaths,
    log: &VerifierKey,
    witnesses: &[VerifierKey],
    promises: Option<&Path>,
) -> Result<Vec<String>, Failure> {
    let promises = match promises {
        Some(folder) => Promises::under(folder, log.key()).map_err(|error| Failure::missing(&error))?,
        None => Promises::default(),
    };
    let mut tree = check::TreeCheck::new(paths, log, witnesses, promises);
    let places = Places::of(config);
    let known = Known::of(&places).await?;
    known.renewals.iter().for_each(|body| tree.was_renewed(body));
    let verified = verify::ledger_with(&paths.ledger, &known.agents, |entry| tree.entry(entry));
    let findings = tree.finish(verified.whole);
    say(format_args!(
        "{} entries, {} batches, {} windows read",
        verified.entries, verified.batches, verified.windows
    ));
    say(format_args!("tree of {} leaves, log {log}", findings.size));
    findings.notes.iter().for_each(say);
    // What is gone first: what follows from that comes after it.
    let mut faults: Vec<String> = known.fault.into_iter().collect();
    faults.extend(verified.faults);
    faults.extend(findings.faults);
    faults.extend(promised(&places).err());
    if !faults.is_empty() {
        return Ok(faults);
    }
    let store = match sums(config, verified.entries).await? {
        Ok(store) => store,
        Err(fault) => {
            faults.push(fault);
            return Ok(faults);
        }
    };
    match verify::sums_by_row(&paths.ledger, &places.summaries, &store, Estimator::shipped()).await {
        Ok(None) => say("the sums follow from the ledger, to the integer"),
        Ok(Some(differing)) => {
            let tables = differing.tables.join(", ");
            faults.push(format!("the sums do not follow from the ledger: {tables} differ"));
            faults.extend(differing.rows);
        }
        Err(error) => faults.push(chain_of(&error)),
    }
    faults.extend(erased(config, &store).await?);
    Ok(faults)
}

/// Keys that are destroyed by what is recorded, and lie in the key store: of who is erased for good nothing opens.
async fn erased(config: &Config, store: &SqliteStore) -> Result<Vec<String>, Failure> {
    let rows = store.records(record::ERASURE).await.map_err(|error| Failure::missing(&error))?;
    let mut destroyed = BTreeMap::new();
    for row in rows {
        let at = row.body["destroyed"].as_str().map(str::to_owned);
        destroyed.insert(row.key, at);
    }
    destroyed.retain(|_, at| at.is_some());
    if destroyed.is_empty() {
        return Ok(Vec::new());
    }
    if !config.key_store.is_dir() {
        say(format_args!(
            "{}: there are no keys: whether those of {} erased parties are gone was not looked at",
            config.key_store.display(),
            destroyed.len()
        ));
        return Ok(Vec::new());
    }
    let mut faults = Vec::new();
    for (id, at) in &destroyed {
        let Ok(party) = id.parse::<PartyId>() else { continue };
        match key_in(&config.key_store, &party) {
            Ok(None) => {}
            Ok(Some(path)) => faults.push(format!(
                "party {id}: its key was destroyed at {}, and lies in {}: a start destroys it again",
                at.as_deref().unwrap_or_default(),
                path.display()
            )),
            Err(error) => faults.push(chain_of(&error)),
        }
    }
    if faults.is_empty() {
        say(format_args!("the keys of {} erased parties are gone from the key store", destroyed.len()));
    }
    Ok(faults)
}

/// What an auditor must take from the summary, where payloads are pruned.
#[derive(Default)]
struct Known {
    agents: Vec<AgentFact>,
    /// What records say of the ledger being begun anew.
    renewals: Vec<serde_json::Value>,
    fault: Option<String>,
}

impl Known {
    async fn of(places: &Places) -> Result<Self, Failure> {
        let oldest = weighbridge_journal::oldest_segment(&places.ledger);
        let oldest = oldest.map_err(|error| Failure::missing(&error))?.unwrap_or(1);
        if oldest == 1 {
            return Ok(Self::default());
        }
        let memory = Arc::new(SqliteStore::in_memory().await.map_err(|error| Failure::missing(&error))?);
        let end = Place { index: u64::MAX, segment: u64::MAX, offset: 0 };
        let summary = match summary::begin_committed(&memory, &places.ledger, &places.summaries, end).await {
            Ok(Some(summary)) => summary,
            Ok(None) => return Ok(Self::default()),
            Err(error) => return Ok(Self { fault: Some(chain_of(&error)), ..Self::default() }),
        };
        let mut state = State::default();
        for row in memory.state().await.map_err(|error| Failure::missing(&error))? {
            state.absorb(&row).map_err(|error| Failure::missing(&error))?;
        }
        let renewals = memory.records(check::GENERATION).await.map_err(|error| Failure::missing(&error))?;
        let renewals = renewals.into_iter().map(|row| row.body).collect();
        let entry = summary.header.place.index;
        say(format_args!(
            "what was before segment {oldest} is pruned; the summary of everything before entry {entry} stands for it"
        ));
        Ok(Self { agents: state.agents.into_values().flatten().collect(), renewals, fault: None })
    }
}

/// Checks the proof of a report, and the report if it lies beside it.
pub async fn proof(file: &Path, options: &Options) -> Result<(), Failure> {
    let read = |file: &Path| {
        std::fs::read(file).map_err(|error| Failure::not_there(format!("{}: {error}", file.display())))
    };
    let text = read(file)?;
    let report = file.with_extension("json");
    let report = if report.is_file() { Some(read(&report)?) } else { None };
    let checked =
        crate::proof::check::check(&text, options.key.as_ref(), &options.witness, report.as_deref()).await;
    checked.lines.iter().for_each(say);
    if checked.faults.is_empty() {
        say("ok");
        return Ok(());
    }
    Err(Failure::check(checked.faults.join("\n")))
}
