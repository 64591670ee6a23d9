//! `weighbridge-agent spool ...`: the spool for people and for programs.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;
use weighbridge_agent::{
    config::Config,
    key,
    spool::{Inspection, Range, Spool, SpoolError, SpoolEvent, Verified, export, inspect, verify},
};

use super::{FAILED, UNAVAILABLE, random, say, say_error};

#[derive(Subcommand)]
pub(crate) enum SpoolCommand {
    /// Lists epochs with their batches, and what is parked, quarantined or to be told as lost
    Ls {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Re-reads everything and names each place that is not as it was written; exits with 1 if there is one
    Verify {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Copies all batches that can be read, with the collector's promises and a manifest, into a new folder
    Export {
        /// The folder
        dir: PathBuf,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Moves damage into the quarantine, makes lists anew and notes what is lost, as the agent does when it
    /// starts; the agent must be stopped
    Repair {
        /// Also puts parked batches back, to be sent again
        #[arg(long)]
        unpark: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(config: &Config, command: &SpoolCommand) -> anyhow::Result<u8> {
    let dir = &config.spool.dir;
    let place = || format!("spool {}", dir.display());
    match command {
        SpoolCommand::Ls { json } => {
            let inspection = inspect(dir).with_context(place)?;
            say(&if *json { line(&inspection)? } else { listing(&inspection) });
            Ok(0)
        }
        SpoolCommand::Verify { json } => {
            let key = key::read(&config.key_file).ok().flatten().map(|key| key.verifying_key());
            let verified = verify(dir, key.as_ref()).with_context(place)?;
            say(&if *json { line(&verified)? } else { verdict(&verified, key.is_some()) });
            Ok(if verified.findings.is_empty() { 0 } else { FAILED })
        }
        SpoolCommand::Export { dir: to, json } => {
            let exported = export(dir, to).with_context(place)?;
            say(&if *json {
                line(&exported)?
            } else {
                format!(
                    "{} batches, {} bytes, {} of them parked, and {} promises were copied to {}\n",
                    exported.batches,
                    exported.bytes,
                    exported.parked,
                    exported.promises,
                    to.display()
                )
            });
            Ok(0)
        }
        SpoolCommand::Repair { unpark, json } => repair(config, *unpark, *json).with_context(place),
    }
}

fn line(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string(value)? + "\n")
}

fn listing(inspection: &Inspection) -> String {
    let mut text = String::from(
        "epoch                             sequences          bytes  acknowledged  waiting  promises  state\n",
    );
    for epoch in &inspection.epochs {
        let _ = writeln!(
            text,
            "{}  {:<13}  {:>9}  up to {:<7} {:>7}  {:>8}  {}",
            epoch.id,
            ranges(&epoch.ranges),
            epoch.bytes,
            epoch.acknowledged,
            epoch.waiting,
            epoch.promises,
            if epoch.damaged { "damaged" } else { "whole" }
        );
    }
    for (name, files) in [
        ("parked", &inspection.parked),
        ("to be sent again", &inspection.returned),
        ("quarantined", &inspection.quarantined),
    ] {
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        let what = if name == "quarantined" { "files" } else { "batches" };
        let _ = writeln!(text, "{name}: {} {what}, {bytes} bytes", files.len());
        for file in files {
            let _ = writeln!(text, "  {}", file.file.display());
        }
    }
    let _ = writeln!(text, "losses to be told: {}", inspection.losses_to_tell);
    if let Some(generation) = &inspection.generation {
        let _ = writeln!(text, "store generation: {generation}");
    }
    text
}

fn ranges(ranges: &[Range]) -> String {
    match ranges {
        [] => "none".to_owned(),
        ranges => {
            let range = |range: &Range| format!("{}..{}", range.first, range.last);
            let shown: Vec<String> = ranges.iter().take(8).map(range).collect();
            let more = ranges.len().saturating_sub(8);
            shown.join(",") + &if more > 0 { format!(" and {more} more") } else { String::new() }
        }
    }
}

fn verdict(verified: &Verified, signatures: bool) -> String {
    let mut text = format!(
        "{} batches in {} bytes are as they were sealed{}\n",
        verified.batches,
        verified.bytes,
        if signatures {
            ", signatures included"
        } else {
            "; without the agent's key no signature was checked"
        }
    );
    if verified.in_use {
        text.push_str("an agent has the spool: what it was writing just then was not looked at\n");
    }
    if verified.lost > 0 {
        let _ = writeln!(text, "{} batches of damaged epochs are lost, and told as that", verified.lost);
    }
    if verified.quarantined > 0 {
        let _ = writeln!(text, "{} files are in the quarantine", verified.quarantined);
    }
    for finding in &verified.findings {
        let place = finding.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        let _ = writeln!(text, "{}{place}: {}", finding.file.display(), finding.problem);
    }
    text
}

fn repair(config: &Config, unpark: bool, json: bool) -> anyhow::Result<u8> {
    if !config.spool.dir.is_dir() {
        say_error(&format!("{} is no folder", config.spool.dir.display()));
        return Ok(UNAVAILABLE);
    }
    let mut spool = match Spool::open(config.spool.clone(), &mut random) {
        Ok(spool) => spool,
        Err(error @ SpoolError::InUse(_)) => {
            return Err(error).context("stop the agent first");
        }
        Err(error) => return Err(error.into()),
    };
    spool.ready()?;
    let repaired = spool.repair(unpark)?;
    let events: Vec<String> = repaired.events.iter().map(event).collect();
    if json {
        say(&line(&json!({ "events": events, "returned": repaired.returned }))?);
        return Ok(0);
    }
    let mut text: String = events.iter().map(|event| format!("{event}\n")).collect();
    if repaired.returned > 0 {
        let _ = writeln!(text, "{} parked batches will be sent again", repaired.returned);
    }
    say(if text.is_empty() { "there is nothing to repair\n" } else { &text });
    Ok(0)
}

fn event(event: &SpoolEvent) -> String {
    match event {
        SpoolEvent::NotOpened(problem) => problem.clone(),
        SpoolEvent::Damaged { epoch, problem } => format!("epoch {epoch} is damaged: {problem}"),
        SpoolEvent::Quarantined { file, bytes } => {
            format!("{} bytes are no batch, the file is kept as {}", bytes, file.display())
        }
        SpoolEvent::Lost(loss) => format!(
            "batches {} to {} of epoch {} will be told as {}",
            loss.first,
            loss.last,
            loss.epoch,
            loss.cause.as_str()
        ),
        SpoolEvent::IndexRebuilt(problem) => format!("the list of epochs was made anew: {problem}"),
        SpoolEvent::AskedInVain { epoch, first } => {
            format!("the collector asked in vain for batch {first} of epoch {epoch}")
        }
    }
}
