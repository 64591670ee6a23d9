//! What lies on disk after everything has stopped: spools and the ledger, read with nobody's help.

use std::{collections::BTreeMap, io::Read, path::Path};

use weighbridge_journal::Reader;
use weighbridge_store::{Body, Entry, Fact};
use weighbridge_wire::{Envelope, Hash, hash};

use crate::agent::Agent;

/// Agent, epoch and sequence number.
pub type BatchKey = (String, String, u64);

/// Every batch in the ledger. Each stands there once.
///
/// # Panics
/// If an entry cannot be read, or a batch stands there twice.
pub fn batches(data: &Path) -> BTreeMap<BatchKey, Hash> {
    let mut found = BTreeMap::new();
    for entry in entries(data) {
        let Body::Batch(received) = entry.body else { continue };
        let envelope = Envelope::decode(&received.envelope).expect("the ledger holds envelopes");
        let batch = envelope.read().expect("the envelope holds a batch");
        let key = (batch.agent.to_string(), batch.epoch.to_string(), batch.sequence);
        let before = found.insert(key.clone(), hash(&received.envelope));
        assert!(before.is_none(), "{key:?} is in the ledger twice");
    }
    found
}

/// Every fact in the ledger, in order.
///
/// # Panics
/// If an entry cannot be read.
pub fn facts(data: &Path) -> Vec<Fact> {
    let facts = entries(data).into_iter().filter_map(|entry| match entry.body {
        Body::Fact(fact) => Some(fact),
        Body::Batch(_) => None,
    });
    facts.collect()
}

/// Every entry of the ledger in a collector's data folder.
///
/// # Panics
/// If one cannot be read.
pub fn entries(data: &Path) -> Vec<Entry> {
    let mut reader = Reader::from_start(&data.join("ledger"));
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().expect("the ledger is whole") {
        entries.push(Entry::decode(&entry.payload).expect("an entry of the ledger reads back"));
    }
    entries
}

/// What was signed, decompressed, of every batch in a data folder's ledger.
///
/// # Panics
/// If one cannot be decompressed.
pub fn plain_batches(data: &Path) -> Vec<Vec<u8>> {
    let batches = entries(data).into_iter().filter_map(|entry| match entry.body {
        Body::Batch(received) => Some(plain(&received.envelope)),
        Body::Fact(_) => None,
    });
    batches.collect()
}

/// The same of an agent's spool.
///
/// # Panics
/// If one cannot be decompressed, or the spool is damaged.
pub fn plain_spooled(agent: &Agent) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for epoch in agent.inspect().epochs {
        let mut reader = Reader::from_start(&agent.spool().join(&epoch.id));
        while let Some(entry) = reader.next().expect("the spool is whole") {
            found.push(plain(&entry.payload));
        }
    }
    found
}

/// An envelope with the compressed part of it in plain.
fn plain(envelope: &[u8]) -> Vec<u8> {
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    let begin = envelope.windows(4).position(|bytes| bytes == magic).expect("a payload is compressed");
    let decoder = zstd::stream::read::Decoder::with_buffer(&envelope[begin..]).expect("a decoder");
    let mut plain = envelope.to_vec();
    decoder.single_frame().read_to_end(&mut plain).expect("a whole frame");
    plain
}

/// The batches in an agent's spool, and whether it knows them to be acknowledged.
///
/// # Panics
/// If the spool is damaged.
pub fn spooled(agent: &Agent) -> BTreeMap<BatchKey, (Hash, bool)> {
    let mut found = BTreeMap::new();
    for epoch in agent.inspect().epochs {
        let folder = agent.spool().join(&epoch.id);
        // An epoch is listed before its folder is made.
        if !folder.exists() {
            continue;
        }
        let mut reader = Reader::from_start(&folder);
        while let Some(entry) = reader.next().expect("the spool is whole") {
            let key = (agent.name().to_owned(), epoch.id.clone(), entry.place.index);
            found.insert(key, (hash(&entry.payload), entry.place.index <= epoch.acknowledged));
        }
    }
    found
}
