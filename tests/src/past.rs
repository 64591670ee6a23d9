//! A ledger of hours long past, as a collector of then would have left it: what can be pruned today.

use std::path::Path;

use weighbridge_journal::Options;
use weighbridge_meter::{Trust, UtcMillis};
use weighbridge_store::{
    Fact, LedgerOptions, State,
    entry::{AgentFact, Clocks, Received},
    ledger::{OpenLedger, Submission},
};

use crate::{handmade::Sender, random::Random};

/// Batches in an hour.
const BATCHES: i64 = 12;

/// Windows in a batch, each of a second.
const WINDOWS: i64 = 10;

/// Facts beside each batch: the tree lets go of whole tiles of 256 entries.
const FACTS: usize = 24;

/// Segments of a few batches.
pub const SEGMENT_BYTES: u64 = 4096;

/// Puts a ledger into a data folder that has none: what `sender` told from `first` on, in so many hours, each batch
/// received when it ended.
///
/// # Panics
/// If the folder cannot be written.
pub fn ledger(data: &Path, sender: &Sender, first: UtcMillis, hours: i64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(written(data, sender, first, hours));
}

async fn written(data: &Path, sender: &Sender, first: UtcMillis, hours: i64) {
    let folder = data.join("ledger");
    std::fs::create_dir_all(data).expect("the folder can be made");
    let options =
        LedgerOptions { journal: Options { segment_bytes: SEGMENT_BYTES }, ..LedgerOptions::default() };
    let mut random = Random::from_seed(first.0.cast_unsigned());
    let mut fill = |bytes: &mut [u8]| bytes.iter_mut().for_each(|byte| *byte = random.number() as u8);
    let open = OpenLedger::open(&folder, &options, &mut fill).expect("a new ledger opens");
    let ledger = open.start(Vec::new(), &State::default());
    let agent = AgentFact {
        agent: sender.name.parse().expect("a short name"),
        host: sender.name.clone(),
        site: "site-1".into(),
        fabric: "fabric-1".into(),
        public_key: sender.public_key(),
        valid_from: first.plus(-UtcMillis::DAY),
        valid_to: None,
        max_trust: Trust::Host,
    };
    ledger.record(first, vec![Fact::Agent(agent)]).await.expect("a fact is taken");
    let mut hash = [0; 32];
    for number in 0..hours * BATCHES {
        let start = first.plus(number * (UtcMillis::HOUR / BATCHES));
        let boot_ms = (number * (UtcMillis::HOUR / BATCHES)).unsigned_abs();
        let mut batch = sender.batch(number.unsigned_abs() + 1, hash, start, WINDOWS);
        batch.windows.iter_mut().for_each(|window| window.boot_start_ms += boot_ms);
        let sealed = sender.seal(&batch);
        hash = sealed.hash;
        let received_at = start.plus(WINDOWS * 1_000);
        let clocks =
            Clocks { boot_ms: 1_000_000 + boot_ms + WINDOWS.unsigned_abs() * 1_000, wall: received_at };
        let mut salt = [0; 16];
        fill(&mut salt);
        let received = Received { clocks: Some(clocks), salt, envelope: sealed.bytes };
        ledger.submit(Submission { received_at, received, batch, hash }).await.expect("a batch is taken");
        let fact = |index| Fact::Record {
            kind: "remark".into(),
            key: format!("{number}-{index}"),
            body: serde_json::json!({ "of": sender.name }),
        };
        ledger.record(received_at, (0..FACTS).map(fact).collect()).await.expect("facts are taken");
    }
    // Until the thread of the ledger has let go of it.
    let mut durable = ledger.durable();
    drop(ledger);
    while durable.changed().await.is_ok() {}
}
