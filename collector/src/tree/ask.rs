//! Asks witnesses to cosign, as C2SP tlog-witness says.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::watch;
use weighbridge_meter::UtcMillis;
use weighbridge_store::{
    tree::{LogPaths, keep, read_checkpoint, tiles::TileFolder},
    verify::chain_of,
};
use weighbridge_tlog::{
    checkpoint::{Checkpoint, cosigned_at},
    note::{Note, Signature, VerifierKey},
    proof,
    witness::AddCheckpoint,
};

use super::{TreeConfig, TreeStatus};
use crate::app::Clock;

/// The longest a witness may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The most that is read of its answer.
const ANSWER_BYTES: usize = 64 << 10;

/// A witness and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessAt {
    /// Its submission prefix.
    pub url: String,
    /// Its key.
    pub key: VerifierKey,
}

/// What witnesses say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cosigned {
    /// Leaves of the newest tree that at least one cosigned.
    pub size: u64,
    /// When, by the witness's clock; the earliest of all under that checkpoint.
    pub at: Option<UtcMillis>,
    /// Answers so far, by what they were.
    pub answers: BTreeMap<&'static str, u64>,
    /// Why witnesses refuse, by their names: each says that it was shown another history.
    pub refused: BTreeMap<String, String>,
}

/// What an answer can be.
pub const ANSWERS: [&str; 4] = ["cosigned", "stale", "refused", "unavailable"];

/// Begins to ask; without witnesses nothing is asked.
pub(super) fn start(
    config: &TreeConfig,
    paths: &LogPaths,
    log: &VerifierKey,
    status: watch::Receiver<TreeStatus>,
    clock: Clock,
) -> watch::Receiver<Cosigned> {
    let mut cosigned = Cosigned::default();
    if let Ok(Some((checkpoint, note))) = read_checkpoint(&paths.cosigned(), log) {
        cosigned.at = earliest(&note, &config.witnesses);
        cosigned.size = if cosigned.at.is_some() { checkpoint.size } else { 0 };
    }
    let (announce, read) = watch::channel(cosigned);
    if !config.witnesses.is_empty() {
        let asker = Asker {
            paths: paths.clone(),
            log: log.clone(),
            witnesses: config.witnesses.iter().map(|witness| (witness.clone(), 0)).collect(),
            announce,
        };
        tokio::spawn(asker.run(status, config.witness_every, clock));
    }
    read
}

fn earliest(note: &Note, witnesses: &[WitnessAt]) -> Option<UtcMillis> {
    let times = witnesses.iter().filter_map(|witness| {
        let seconds = cosigned_at(&note.text, &note.signatures, &witness.key).ok()??;
        Some(UtcMillis(i64::try_from(seconds).ok()?.checked_mul(1000)?))
    });
    times.min()
}

struct Asker {
    paths: LogPaths,
    log: VerifierKey,
    /// With the size that each cosigned last, as far as it said.
    witnesses: Vec<(WitnessAt, u64)>,
    announce: watch::Sender<Cosigned>,
}

/// What one witness answered.
enum Answer {
    Cosigned(Vec<Signature>),
    Stale(u64),
    Refused(String),
    Unavailable(String),
}

impl Asker {
    async fn run(mut self, mut status: watch::Receiver<TreeStatus>, every: Duration, clock: Clock) {
        // Neither a proxy nor a redirect stands between a log and its witness.
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build();
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "witnesses cannot be asked");
                return;
            }
        };
        let mut size = 0;
        loop {
            let newer = status.wait_for(|status| status.size > size).await.map(|status| status.size);
            let Ok(newer) = newer else { return };
            if self.round(&client, &clock).await {
                size = newer;
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Asks every witness once; `true` if one of them cosigned.
    async fn round(&mut self, client: &reqwest::Client, clock: &Clock) -> bool {
        let (file, log) = (self.paths.checkpoint(), self.log.clone());
        let read = tokio::task::spawn_blocking(move || read_checkpoint(&file, &log)).await;
        let (checkpoint, mut note) = match read {
            Ok(Ok(Some(read))) => read,
            Ok(Ok(None)) => return false,
            Ok(Err(error)) => {
                tracing::error!(problem = chain_of(&error), "there is no checkpoint to cosign");
                return false;
            }
            Err(_) => return false,
        };
        let mut witnesses = std::mem::take(&mut self.witnesses);
        for (witness, old) in &mut witnesses {
            let mut answer = self.ask(client, witness, *old, &checkpoint, &note).await;
            if let Answer::Stale(size) = answer
                && size != *old
                && size <= checkpoint.size
            {
                // It remembers what we do not: begin from there.
                *old = size;
                answer = self.ask(client, witness, *old, &checkpoint, &note).await;
            }
            self.take(witness, old, answer, &checkpoint, &mut note);
        }
        self.witnesses = witnesses;
        if note.signatures.len() <= 1 {
            return false;
        }
        let (file, kept) = (self.paths.cosigned(), note.clone());
        match tokio::task::spawn_blocking(move || keep(&file, &kept)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(problem = chain_of(&error), "a cosigned checkpoint cannot be kept");
                return false;
            }
            Err(_) => return false,
        }
        let keys: Vec<WitnessAt> = self.witnesses.iter().map(|(witness, _)| witness.clone()).collect();
        let at = earliest(&note, &keys).unwrap_or_else(|| clock());
        self.announce.send_modify(|cosigned| {
            cosigned.size = checkpoint.size;
            cosigned.at = Some(at);
        });
        true
    }

    fn take(
        &self,
        witness: &WitnessAt,
        old: &mut u64,
        answer: Answer,
        checkpoint: &Checkpoint,
        note: &mut Note,
    ) {
        let name = witness.key.name();
        let (kind, refused) = match answer {
            Answer::Cosigned(signatures) => {
                note.signatures.extend(signatures);
                *old = checkpoint.size;
                ("cosigned", None)
            }
            Answer::Stale(size) => {
                let problem = format!(
                    "it has cosigned a tree of {size} entries, this one has {}: the ledger is an older one",
                    checkpoint.size
                );
                tracing::error!(witness = name, problem, "a witness does not cosign");
                ("stale", Some(problem))
            }
            Answer::Refused(problem) => {
                tracing::error!(witness = name, problem, "a witness does not cosign");
                ("refused", Some(problem))
            }
            Answer::Unavailable(problem) => {
                tracing::warn!(witness = name, problem, "a witness could not be asked");
                ("unavailable", None)
            }
        };
        self.announce.send_modify(|cosigned| {
            *cosigned.answers.entry(kind).or_default() += 1;
            match refused {
                Some(problem) => drop(cosigned.refused.insert(name.into(), problem)),
                None if kind == "cosigned" => drop(cosigned.refused.remove(name)),
                None => {}
            }
        });
    }

    async fn ask(
        &self,
        client: &reqwest::Client,
        witness: &WitnessAt,
        old: u64,
        checkpoint: &Checkpoint,
        note: &Note,
    ) -> Answer {
        let (tiles, size) = (TileFolder::at(&self.paths.tlog), checkpoint.size);
        let proof =
            tokio::task::spawn_blocking(move || proof::of_consistency(&mut tiles.of_size(size), old, size));
        let proof = match proof.await {
            Ok(Ok(proof)) => proof,
            Ok(Err(error)) => return Answer::Unavailable(chain_of(&error)),
            Err(error) => return Answer::Unavailable(chain_of(&error)),
        };
        let log_only = Note { text: note.text.clone(), signatures: note.signatures[..1].to_vec() };
        let request = AddCheckpoint { old, proof, note: log_only };
        let url = format!("{}/add-checkpoint", witness.url.trim_end_matches('/'));
        let answer = client.post(url).body(request.to_string()).send().await;
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Answer::Unavailable(chain_of(&error)),
        };
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES => body.extend_from_slice(&chunk),
                Ok(Some(_)) => return Answer::Unavailable("the answer is too long".into()),
                Ok(None) => break,
                Err(error) => return Answer::Unavailable(chain_of(&error)),
            }
        }
        let body = String::from_utf8_lossy(&body);
        read(status, &body, note, witness)
    }
}

/// What a witness's answer means.
fn read(status: u16, body: &str, note: &Note, witness: &WitnessAt) -> Answer {
    match status {
        200 => {
            let lines = body.split_terminator('\n').map(Signature::parse);
            let ours: Vec<Signature> =
                lines.filter_map(Result::ok).filter(|line| line.is_of(&witness.key)).collect();
            match cosigned_at(&note.text, &ours, &witness.key) {
                Ok(Some(_)) => Answer::Cosigned(ours),
                Ok(None) => Answer::Unavailable("the answer has no line of this witness".into()),
                Err(error) => Answer::Unavailable(error.to_string()),
            }
        }
        409 => match body.trim().parse() {
            Ok(size) => Answer::Stale(size),
            Err(_) => Answer::Refused(format!("409: {}", body.trim())),
        },
        403 | 404 | 422 => Answer::Refused(format!("{status}: {}", body.trim())),
        _ => Answer::Unavailable(format!("{status}: {}", body.trim())),
    }
}
