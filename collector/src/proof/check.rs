//! Checks a proof with nothing but the file and keys.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use weighbridge_casework::Report;
use weighbridge_meter::{AgentId, Operations, UtcMillis};
use weighbridge_store::{
    entry::{Body, Entry, Fact, leaf_data},
    verify::{chain_of, public_key},
};
use weighbridge_tlog::{
    Hash,
    checkpoint::{Checkpoint, cosigned_at},
    from_base64, leaf_hash,
    note::{Note, VerifierKey},
    proof::root_with_leaves,
};
use weighbridge_wire::{Envelope, KeyId, VerifyingKey};

use super::{FORMAT, Figures, Leaf, Proof, Row, is_signed, refold, report_hash};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// What was checked and is right.
    pub lines: Vec<String>,
    /// What is wrong, one line each.
    pub faults: Vec<String>,
}

impl Checked {
    fn say(&mut self, line: impl ToString) {
        self.lines.push(line.to_string());
    }

    fn fault(&mut self, line: impl ToString) {
        self.faults.push(line.to_string());
    }
}

/// Checks a proof, and a report beside it if there is one.
pub async fn check(
    text: &[u8],
    key: Option<&VerifierKey>,
    witnesses: &[VerifierKey],
    report: Option<&[u8]>,
) -> Checked {
    let mut checked = Checked::default();
    let proof: Proof = match serde_json::from_slice(text) {
        Ok(proof) => proof,
        Err(error) => {
            checked.fault(format!("not a proof: {error}"));
            return checked;
        }
    };
    if proof.format != FORMAT {
        checked.fault(format!("the proof is in format {:?}, expected {FORMAT:?}", proof.format));
        return checked;
    }
    let log = match (key, proof.log.parse::<VerifierKey>()) {
        (Some(key), _) => key.clone(),
        (None, Ok(key)) => {
            checked.say(format!(
                "no key was given: the file itself says {key}, which proves nothing about whose it is"
            ));
            key
        }
        (None, Err(error)) => {
            checked.fault(format!("key of the log: {error}"));
            return checked;
        }
    };
    tree(&proof, &log, witnesses, &mut checked);
    if is_signed(&proof, &log) {
        checked.say("the log signed all that is in the file");
    } else {
        checked.fault("the signature over the file does not verify: something in it was altered");
    }
    figures(&proof, &mut checked);
    if let Some(report) = report {
        beside(&proof, report, &mut checked);
    }
    contents(&proof, &mut checked).await;
    checked
}

/// Reads and checks anything as far as that needs no files: whatever it is, this comes back.
pub fn read_anything(bytes: &[u8]) {
    let Ok(proof) = serde_json::from_slice::<Proof>(bytes) else { return };
    let Ok(log) = proof.log.parse::<VerifierKey>() else { return };
    let mut checked = Checked::default();
    tree(&proof, &log, &[], &mut checked);
    figures(&proof, &mut checked);
    if is_signed(&proof, &log) {
        checked.say("signed");
    }
}

/// The leaves lead to a root that was signed.
fn tree(proof: &Proof, log: &VerifierKey, witnesses: &[VerifierKey], checked: &mut Checked) {
    let note = match proof.checkpoint.parse::<Note>() {
        Ok(note) => note,
        Err(error) => return checked.fault(format!("checkpoint: {error}")),
    };
    let checkpoint = match Checkpoint::open(&note, log) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return checked.fault(format!("checkpoint: {}", chain_of(&error))),
    };
    if witnesses.is_empty() && note.signatures.len() > 1 {
        checked.say("witnesses cosigned the checkpoint; that was not checked, as no key of one was given");
    }
    for witness in witnesses {
        match cosigned_at(&note.text, &note.signatures, witness) {
            Ok(Some(seconds)) => {
                let at = UtcMillis(i64::try_from(seconds).unwrap_or(i64::MAX / 1000).saturating_mul(1000));
                checked.say(format!("witness {} cosigned the checkpoint at {at}", witness.name()));
            }
            Ok(None) => checked.fault(format!("checkpoint: witness {} did not cosign it", witness.name())),
            Err(error) => checked.fault(format!("checkpoint: {error}")),
        }
    }
    let mut leaves: Vec<(u64, Hash)> = Vec::with_capacity(proof.entries.len());
    for Leaf { entry, data, what, .. } in &proof.entries {
        match (entry.checked_sub(1), from_base64(data)) {
            (Some(leaf), Some(data)) => leaves.push((leaf, leaf_hash(&data))),
            _ => return checked.fault(format!("entry {entry} ({what}): not a leaf")),
        }
    }
    let nodes: Option<Vec<Hash>> = proof.nodes.iter().map(|node| from_base64(node)).collect();
    match nodes.and_then(|nodes| root_with_leaves(&leaves, &nodes, checkpoint.size)) {
        Some(root) if root == checkpoint.root => checked.say(format!(
            "{} entries are in the tree of {} that {} signed",
            leaves.len(),
            checkpoint.size,
            log.name()
        )),
        Some(_) => checked.fault(format!(
            "the {} entries do not lead to the root of the tree of {} that was signed: an entry or a node was altered",
            leaves.len(),
            checkpoint.size
        )),
        None => checked.fault("entries and nodes do not make a tree: something was taken out or put in"),
    }
}

fn total(rows: &[Row], of: fn(&Row) -> Operations) -> Operations {
    rows.iter().map(of).fold(Operations::ZERO, Operations::saturating_add)
}

/// The rows add up to the figures.
fn figures(proof: &Proof, checked: &mut Checked) {
    let (rows, figures) = (&proof.rows, &proof.figures);
    let before = checked.faults.len();
    for (what, sum, said) in [
        ("low_tera", total(rows, |row| row.low_tera), figures.low_tera),
        ("best_tera", total(rows, |row| row.best_tera), figures.best_tera),
        ("high_tera", total(rows, |row| row.high_tera), figures.high_tera),
    ] {
        if sum != said {
            checked.fault(format!(
                "{what}: the rows add up to {}, the figure is {}",
                sum.tera(),
                said.tera()
            ));
        }
    }
    let millis = |of: fn(&Row) -> u64| rows.iter().map(of).fold(0_u64, u64::saturating_add);
    for (what, sum, said) in [
        ("measured_ms", millis(|row| row.measured_ms), figures.measured_ms),
        ("interpolated_ms", millis(|row| row.interpolated_ms), figures.interpolated_ms),
    ] {
        if sum != said {
            checked.fault(format!("{what}: the rows add up to {sum}, the figure is {said}"));
        }
    }
    if checked.faults.len() == before {
        let Figures { low_tera, best_tera, high_tera, .. } = figures;
        checked.say(format!(
            "{} rows add up to what was measured: low {low_tera}, best {best_tera}, high {high_tera} operations",
            rows.len()
        ));
    }
}

/// The report is the one that was proved, and says what was.
fn beside(proof: &Proof, report: &[u8], checked: &mut Checked) {
    let value: serde_json::Value = match serde_json::from_slice(report) {
        Ok(value) => value,
        Err(error) => return checked.fault(format!("report: {error}")),
    };
    if report_hash(&value) != proof.report_sha256 {
        return checked.fault("report: it is not the one that the proof is of, or was altered");
    }
    let report: Report = match serde_json::from_value(value) {
        Ok(report) => report,
        Err(error) => return checked.fault(format!("report: {error}")),
    };
    let (totals, figures) = (&report.totals.bound, &proof.figures);
    // A gap counts nothing in low, and more in the rest.
    if totals.low() != figures.low_tera {
        checked.fault(format!(
            "report: low is {}, measured is {}",
            totals.low().tera(),
            figures.low_tera.tera()
        ));
    }
    if totals.best() < figures.best_tera || totals.high() < figures.high_tera {
        checked.fault("report: less than what was measured");
    }
    let seen = (report.coverage.measured_ms, report.coverage.interpolated_ms);
    if seen != (figures.measured_ms, figures.interpolated_ms) {
        checked.fault(format!(
            "report: {} ms measured and {} ms interpolated, the proof has {} and {}",
            seen.0, seen.1, figures.measured_ms, figures.interpolated_ms
        ));
    }
    checked.say(
        "the report beside it is the one that was proved; what gaps add to it is not measured and not proved",
    );
}

/// Where the entries themselves are in the file: that agents signed them, and that the sums follow.
async fn contents(proof: &Proof, checked: &mut Checked) {
    let with = proof.entries.iter().filter(|entry| entry.payload.is_some()).count();
    if with == 0 {
        return checked
            .say("the entries are not in the file: that the sums follow from them was not checked");
    }
    let before = checked.faults.len();
    let mut keys: BTreeMap<KeyId, (AgentId, VerifyingKey)> = BTreeMap::new();
    let (mut batches, mut payloads) = (0, Vec::with_capacity(with));
    for leaf in &proof.entries {
        let at = format!("entry {} ({})", leaf.entry, leaf.what);
        let payload = leaf.payload.as_ref().and_then(|payload| BASE64.decode(payload).ok());
        let Some(payload) = payload else {
            checked.fault(format!("{at}: it is not in the file, or not base64"));
            continue;
        };
        if from_base64(&leaf.data) != Some(leaf_data(&payload)) {
            checked.fault(format!("{at}: it is not what its leaf commits to"));
        }
        match Entry::decode(&payload).map(|entry| entry.body) {
            Err(error) => checked.fault(format!("{at}: {}", chain_of(&error))),
            Ok(Body::Fact(Fact::Agent(fact))) => {
                if let Some(key) = public_key(&fact.public_key) {
                    keys.insert(KeyId::of(&key), (fact.agent, key));
                }
            }
            Ok(Body::Fact(_)) => {}
            Ok(Body::Batch(received)) => {
                batches += 1;
                let opened = Envelope::decode(&received.envelope).map(|envelope| {
                    keys.get(&envelope.key_id()).map(|(agent, key)| (agent, envelope.open(key)))
                });
                match opened {
                    Ok(Some((agent, Ok(batch)))) if *agent == batch.agent => {}
                    Ok(Some((agent, Ok(batch)))) => {
                        checked.fault(format!("{at}: it says {} and is signed by {agent}", batch.agent));
                    }
                    Ok(Some((agent, Err(error)))) => checked.fault(format!("{at}: agent {agent}: {error}")),
                    Ok(None) => checked.fault(format!("{at}: the agent's key is in no entry before it")),
                    Err(error) => checked.fault(format!("{at}: {error}")),
                }
            }
        }
        payloads.push(payload);
    }
    if batches != proof.figures.batches {
        checked.fault(format!("{batches} batches are in the file, the figure is {}", proof.figures.batches));
    }
    if checked.faults.len() > before {
        return;
    }
    checked.say(format!("{batches} batches are signed by their agents"));
    match refold::differing(payloads, &proof.rows).await {
        Ok(differing) if differing.is_empty() => {
            checked.say("the sums follow from the entries, to the integer");
        }
        Ok(differing) => {
            for (row, found) in differing.iter().take(20) {
                let found =
                    found.as_ref().map_or_else(|| "nothing".into(), |row| row.best_tera.tera().to_string());
                checked.fault(format!(
                    "accelerator {}, hour {}, {} {}, {}: best is {}, from the entries follows {found}",
                    row.accelerator,
                    row.hour,
                    row.principal,
                    row.attempt,
                    row.state,
                    row.best_tera.tera()
                ));
            }
            if differing.len() > 20 {
                checked.fault(format!("and {} more rows", differing.len() - 20));
            }
        }
        Err(error) => checked.fault(chain_of(&error)),
    }
}
