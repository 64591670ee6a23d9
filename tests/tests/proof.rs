//! The figures of a report are checked on another machine, with the file and a key alone.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers are tests too; clippy sees only the functions marked so"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use weighbridge_tests::{
    agent::AgentOptions,
    collector::PROGRAM,
    machine::Device,
    process::{self, Finished},
    rules,
    site::{Site, Tenant},
    tlog, wait,
};

use weighbridge_tlog::note::{KeyType, VerifierKey};

/// Another machine: the files in a folder of their own, no configuration, no collector.
struct Elsewhere {
    folder: PathBuf,
    key: String,
}

impl Elsewhere {
    fn check(&self, proof: &Value) -> Finished {
        fs::write(self.folder.join("case-0001.proof"), proof.to_string()).unwrap();
        self.run(&["--key", &self.key])
    }

    fn run(&self, how: &[&str]) -> Finished {
        let mut command = process::command(&process::program(PROGRAM));
        command.args(["verify", "--proof"]).arg(self.folder.join("case-0001.proof")).args(how);
        process::run("elsewhere", &mut command, &self.folder, Duration::from_secs(60))
    }

    #[track_caller]
    fn finds(&self, proof: &Value, named: &[&str]) {
        let checked = self.check(proof);
        assert_eq!(checked.code, Some(1), "{named:?}: {checked:?}");
        for named in named {
            assert!(checked.stderr.contains(named), "{named}: {checked:?}");
        }
    }
}

/// A site with a case on what one accelerator was measured to do.
fn with_case(packs: &Path) -> Site {
    let agents = vec![
        AgentOptions::quick("host-a", vec![Device::numbered(1), Device::numbered(2)]),
        AgentOptions::quick("host-b", vec![Device::numbered(3)]),
    ];
    let mut site = Site::with_config(&rules::configured(packs), agents);
    site.lease(&[
        Tenant { customer: "C-1", principal: "lease:site-1/one", lease: "L-1", hosts: &["host-a"] },
        Tenant { customer: "C-2", principal: "lease:site-1/two", lease: "L-2", hosts: &["host-b"] },
    ]);
    site.start_agents();
    site.measured(4_000);
    wait::until("a case is opened", || site.collector.try_get("cases/case-0001"));
    site
}

fn written(site: &Site, how: &[&str]) -> PathBuf {
    let out = tempfile::tempdir_in(site.folder()).unwrap().keep();
    let out_text = out.display().to_string();
    let arguments = [["report", "case-0001", "--masked", "--out", &out_text].as_slice(), how].concat();
    let finished = site.collector.run(&arguments);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    out
}

#[test]
fn a_proof_checks_on_another_machine_and_every_alteration_is_found_with_its_place() {
    let packs = tempfile::tempdir().unwrap();
    let mut site = with_case(packs.path());
    // Beside agents that send all the time: report and proof are of one moment.
    let folder = written(&site, &["--with-batches"]);
    let key = tlog::log_key(&site.collector).to_string();
    site.stop_agents();
    site.collector.stop();
    let elsewhere = Elsewhere { folder, key };
    let text = fs::read_to_string(elsewhere.folder.join("case-0001.proof")).unwrap();
    let proof: Value = serde_json::from_str(&text).unwrap();
    let good = elsewhere.check(&proof);
    assert_eq!(good.code, Some(0), "{good:?}");
    for said in [
        "signed by their agents",
        "the sums follow from the entries, to the integer",
        "the report beside it is the one that was proved",
        "the log signed all that is in the file",
    ] {
        assert!(good.stdout.contains(said), "{said}: {good:?}");
    }
    assert!(proof["figures"]["batches"].as_u64().unwrap() >= 4, "{}", proof["figures"]);
    assert_eq!(proof["figures"]["recomputed"], true);
    // Either customer may be the first that a case is about.
    let report = fs::read_to_string(elsewhere.folder.join("case-0001.json")).unwrap();
    let other = if report.contains("customer:C-1") { "host-b" } else { "host-a" };
    assert!(!text.contains(other), "what others did is not in it");

    let altered = |change: &dyn Fn(&mut Value)| {
        let mut other = proof.clone();
        change(&mut other);
        other
    };
    let entries = proof["entries"].as_array().unwrap();
    let batch =
        entries.iter().rposition(|entry| entry["what"].as_str().unwrap().starts_with("batch")).unwrap();
    let name = format!("entry {} (batch", entries[batch]["entry"]);
    // A batch that is altered, one that is taken out, one under another number.
    let bit = altered(&|other| {
        let payload = other["entries"][batch]["payload"].as_str().unwrap().to_owned();
        let at = payload.len() / 2;
        let letter = if &payload[at..=at] == "A" { "B" } else { "A" };
        other["entries"][batch]["payload"] =
            format!("{}{letter}{}", &payload[..at], &payload[at + 1..]).into();
    });
    elsewhere.finds(&bit, &[&name, "it is not what its leaf commits to"]);
    let out = altered(&|other| drop(other["entries"].as_array_mut().unwrap().remove(batch)));
    elsewhere.finds(&out, &["to", "the figure is", "the signature over the file does not verify"]);
    let moved = altered(&|other| other["entries"][batch]["entry"] = 1_000_000.into());
    elsewhere.finds(&moved, &["entries and nodes do not make a tree"]);
    // A leaf, a node, the checkpoint.
    let leaf = altered(&|other| other["entries"][batch]["data"] = other["entries"][0]["data"].clone());
    elsewhere.finds(&leaf, &["do not lead to the root", &name]);
    let node = altered(&|other| other["nodes"][0] = other["entries"][0]["data"].clone());
    elsewhere.finds(&node, &["do not lead to the root"]);
    let checkpoint = altered(&|other| {
        let note = other["checkpoint"].as_str().unwrap().replacen('\n', "\n1", 1);
        other["checkpoint"] = note.into();
    });
    elsewhere.finds(&checkpoint, &["checkpoint: ", "does not verify"]);
    // A sum, with the figure made to fit.
    let more = |value: &Value| {
        let tera: u64 = value.as_str().unwrap().parse().unwrap();
        Value::from((tera + 1).to_string())
    };
    let row = altered(&|other| {
        other["rows"][0]["best_tera"] = more(&other["rows"][0]["best_tera"]);
        other["figures"]["best_tera"] = more(&other["figures"]["best_tera"]);
    });
    let accelerator = proof["rows"][0]["accelerator"].as_str().unwrap();
    elsewhere.finds(&row, &[&format!("accelerator {accelerator}, hour "), "from the entries follows"]);
    let figure = altered(&|other| other["figures"]["low_tera"] = more(&other["figures"]["low_tera"]));
    elsewhere.finds(&figure, &["low_tera: the rows add up to"]);
    // A witness that did not cosign, somebody else's key, and a report that is another.
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[5; 32]).verifying_key();
    let stranger = VerifierKey::new("w.example", KeyType::Cosignature, stranger).unwrap().to_string();
    let checked = elsewhere.run(&["--key", &elsewhere.key, "--witness", &stranger]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stderr.contains("witness w.example did not cosign it"), "{checked:?}");
    let other_key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let checked = elsewhere.run(&["--key", other_key]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    fs::write(elsewhere.folder.join("case-0001.json"), report.replacen("customer:C-", "customer:D-", 1))
        .unwrap();
    elsewhere.finds(&proof, &["report: it is not the one that the proof is of"]);
}

#[test]
fn a_proof_without_batches_shows_that_they_are_in_the_ledger_and_says_what_it_does_not_show() {
    let packs = tempfile::tempdir().unwrap();
    let mut site = with_case(packs.path());
    site.stop_agents();
    let key = tlog::log_key(&site.collector).to_string();
    for running in [true, false] {
        if !running {
            site.collector.stop();
        }
        let elsewhere = Elsewhere { folder: written(&site, &[]), key: key.clone() };
        let checked = elsewhere.run(&["--key", &key]);
        assert_eq!(checked.code, Some(0), "{checked:?}");
        assert!(checked.stdout.contains("that the sums follow from them was not checked"), "{checked:?}");
        let text = fs::read_to_string(elsewhere.folder.join("case-0001.proof")).unwrap();
        let mut proof: Value = serde_json::from_str(&text).unwrap();
        assert!(proof["entries"][0].get("payload").is_none());
        let unvouched = elsewhere.run(&[]);
        assert_eq!(unvouched.code, Some(0), "{unvouched:?}");
        assert!(unvouched.stdout.contains("proves nothing about whose it is"), "{unvouched:?}");
        proof["entries"][0]["data"] = proof["entries"][1]["data"].clone();
        elsewhere.finds(&proof, &["do not lead to the root", "the signature over the file does not verify"]);
    }
}

#[test]
fn a_case_goes_from_the_first_look_to_a_corrected_report_on_the_command_line() {
    let packs = tempfile::tempdir().unwrap();
    let mut site = with_case(packs.path());
    let case = |site: &Site, arguments: &[&str]| {
        let [verb, rest @ ..] = arguments else { panic!("a verb") };
        let actor: &[&str] = if ["ls", "show"].contains(verb) { &[] } else { &["--actor", "ada"] };
        let whole = [&["case", verb], rest, actor].concat();
        site.collector.run(&whole)
    };
    let done = |site: &Site, arguments: &[&str], says: &str| {
        let finished = case(site, arguments);
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        assert!(finished.stdout.contains(says), "{arguments:?}: {finished:?}");
    };
    done(&site, &["ls"], "case-0001  open  customer:C-");
    let early = case(&site, &["decide", "case-0001", "reportable", "--reason", "it trained"]);
    assert_eq!(early.code, Some(1), "{early:?}");
    assert!(early.stderr.contains("decided cannot follow in state"), "{early:?}");
    done(&site, &["seen", "case-0001"], "state: seen");
    done(
        &site,
        &["decide", "case-0001", "reportable", "--reason", "it trained"],
        "state: decided: reportable",
    );
    let drafts = tempfile::tempdir().unwrap();
    let draft = |site: &Site, name: &str| {
        let folder = drafts.path().join(name);
        fs::create_dir(&folder).unwrap();
        let out = folder.display().to_string();
        done(site, &["draft", "case-0001", "--reason", "to file it", "--out", &out], "case-0001.json");
        folder
    };
    let first = draft(&site, "first");
    done(&site, &["file", "case-0001", "--version", "1", "--reference", "BIS-7"], "state: filed 1");
    done(&site, &["wrong", "case-0001", "--what", "an hour was missing"], "state: filed 1");
    site.stop_agents();
    // What was recorded while it ran is there when it does not.
    site.collector.stop();
    let second = draft(&site, "second");
    done(&site, &["correct", "case-0001", "--version", "2"], "state: filed 2");
    done(&site, &["close", "case-0001", "--reason", "acknowledged"], "state: closed");
    done(&site, &["show", "case-0001"], "corrected by ada");
    done(&site, &["ls"], "case-0001  closed");

    // Both drafts are proved elsewhere, and are those that the ledger names.
    let shown = tlog::log_key(&site.collector).to_string();
    site.collector.start_ready();
    let history = site.collector.get("cases/case-0001")["history"].clone();
    let hashes: Vec<&Value> = history
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["step"]["kind"] == "drafted")
        .map(|event| &event["step"]["report_sha256"])
        .collect();
    for (folder, hash) in [first, second].into_iter().zip(hashes) {
        let proof = fs::read_to_string(folder.join("case-0001.proof")).unwrap();
        let proof: Value = serde_json::from_str(&proof).unwrap();
        assert_eq!(&proof["report_sha256"], hash);
        let elsewhere = Elsewhere { folder, key: shown.clone() };
        let checked = elsewhere.run(&["--key", &shown]);
        assert_eq!(checked.code, Some(0), "{checked:?}");
        assert!(checked.stdout.contains("the report beside it is the one that was proved"), "{checked:?}");
    }
}
