//! A signed summary of all sums and state up to a place of the ledger, from which a rebuild starts once the
//! payloads before it are pruned.
//!
//! # Format
//!
//! One file, `<index>.sum`, 20 digits: a zstd stream of lines of JSON. The first says of which store and place it is
//! ([`Header`]), with the chain hash of the ledger there, which binds it to every entry before. Then for each
//! table a line `{"table", "columns"}` and its rows as arrays, in an order of their own: the same sums give the same
//! lines. The last line is a [`Signed`] over the lines before it. The fact that commits it to the ledger carries the
//! digest; agents, leases, customers with their ciphertext, cases and packs are all rows in it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use weighbridge_journal::{ReadError, Reader, chain_at, fail};
use weighbridge_meter::{EpochId, UtcMillis};
use weighbridge_wire::SigningKey;

use crate::{
    Body, Entry, Fact, Place, SqliteStore, StoreError, UsageStore, files,
    fold::hex,
    mark,
    signed::Signed,
    sql::dump::{Piece, Table},
};

/// The kind of record that commits a summary to the ledger.
pub const KIND: &str = "summary";

/// What the signature is over, before the digest.
pub const CONTEXT: &[u8] = b"weighbridge-summary-v1\0";

/// What a file may make its reader hold, as a power of two: four times what [`write()`] needs.
const LARGEST_WINDOW: u32 = 23;

/// Lines are rows of one table: the longest are far below.
const LONGEST_LINE: u64 = 64 << 20;

/// Lines on their way between the database and the file.
const QUEUE: usize = 4096;

/// Of what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the format: 1.
    pub summary: u32,
    /// Of which store.
    pub generation: EpochId,
    /// It reflects every entry before this.
    #[serde(with = "mark::place")]
    pub place: Place,
    /// The chain hash of the ledger there.
    #[serde(with = "mark::hash")]
    pub chain: [u8; 32],
    /// When it was made.
    pub made_at: UtcMillis,
    /// Version of the program that made it.
    pub program: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableLine {
    table: String,
    columns: Vec<String>,
}

/// A summary that was written or read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Where it lies.
    pub file: PathBuf,
    /// Of what it is.
    pub header: Header,
    /// Rows of all tables.
    pub rows: u64,
    /// Digest and signature.
    pub signed: Signed,
}

/// A summary cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// The file.
    #[error("{}: the summary cannot be read or written", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not whole, or was changed.
    #[error("{}: the summary is damaged: {problem}", file.display())]
    Damaged {
        /// Which.
        file: PathBuf,
        /// How.
        problem: String,
    },
    /// The sums.
    #[error("the sums cannot be read or written")]
    Store(#[from] StoreError),
    /// The ledger.
    #[error("the ledger cannot be read")]
    Ledger(#[from] ReadError),
    /// They are whole and signed, but no fact says so.
    #[error("no fact in the ledger commits the summary of what is before entry {entry}")]
    Uncommitted {
        /// Which, the newest.
        entry: u64,
    },
    /// The ledger begins later, and no summary leads to it.
    #[error(
        "the ledger begins with segment {oldest:020}.seg, and no summary in {} reaches into it: what was before cannot be told",
        folder.display()
    )]
    Missing {
        /// Its oldest segment.
        oldest: u64,
        /// Where summaries are.
        folder: PathBuf,
    },
}

/// The file of the summary of what is before this entry.
pub fn file_of(folder: &Path, entry: u64) -> PathBuf {
    folder.join(format!("{entry:020}.sum"))
}

/// Files of summaries, newest first. What a crash left unfinished is not among them.
pub fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "sum") {
                    files.push(path);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    files.sort();
    files.reverse();
    Ok(files)
}

/// Writes a summary of where `store` stands, durably.
pub async fn write(
    store: &SqliteStore,
    ledger: &Path,
    folder: &Path,
    generation: EpochId,
    key: &SigningKey,
    made_at: UtcMillis,
) -> Result<Summary, SummaryError> {
    let at = |file: &Path| {
        let file = file.to_owned();
        move |source| SummaryError::File { file, source }
    };
    std::fs::create_dir_all(folder).map_err(at(folder))?;
    files::sync_parent(folder).map_err(at(folder))?;
    // The rows come first, into a file of their own: their place is known only once they are read.
    let body = folder.join("rows.new");
    let (pieces, mut queue) = mpsc::channel(QUEUE);
    let into = body.clone();
    let writer = tokio::task::spawn_blocking(move || -> io::Result<u64> {
        let mut out = BufWriter::new(fail::around("summary.create_rows", || File::create(&into))?);
        let mut rows = 0;
        while let Some(piece) = queue.blocking_recv() {
            let line = match piece {
                Piece::Table(Table { name, columns }) => {
                    serde_json::to_string(&TableLine { table: name, columns })?
                }
                Piece::Row(line) => {
                    rows += 1;
                    line
                }
            };
            out.write_all(line.as_bytes())?;
            out.write_all(b"\n")?;
        }
        fail::around("summary.write_rows", || out.flush())?;
        Ok(rows)
    });
    let dumped = store.dump(pieces).await;
    let rows = writer.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(at(&body))?;
    let place = dumped?;
    let chain = chain_at(ledger, place)?;
    let program = env!("CARGO_PKG_VERSION").to_owned();
    let header = Header { summary: 1, generation, place, chain, made_at, program };
    let file = file_of(folder, place.index);
    let (head, key, target) = (header.clone(), key.clone(), file.clone());
    let signed = tokio::task::spawn_blocking(move || compress(&body, &target, &head, &key))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(at(&file))?;
    Ok(Summary { file, header, rows, signed })
}

fn compress(rows: &Path, file: &Path, header: &Header, key: &SigningKey) -> io::Result<Signed> {
    let out = fail::around("summary.create", || File::create(files::unfinished(file)))?;
    let mut out = zstd::Encoder::new(BufWriter::new(out), 3)?;
    let mut digest = Sha256::new();
    let mut head = serde_json::to_vec(header)?;
    head.push(b'\n');
    digest.update(&head);
    out.write_all(&head)?;
    let mut from = File::open(rows)?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        let read = from.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        let bytes = chunk.get(..read).unwrap_or_default();
        digest.update(bytes);
        out.write_all(bytes)?;
    }
    let signed = Signed::new(CONTEXT, digest.finalize().into(), key);
    serde_json::to_writer(&mut out, &signed)?;
    out.write_all(b"\n")?;
    let out =
        fail::around("summary.write", || out.finish()?.into_inner().map_err(io::IntoInnerError::into_error))?;
    fail::around("summary.sync", || out.sync_all())?;
    files::remove(rows)?;
    files::settle(file)?;
    Ok(signed)
}

/// Reads a summary line by line; the last is the signature, which is checked, as is the digest.
struct Lines {
    file: PathBuf,
    input: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    digest: Sha256,
    ahead: String,
}

impl Lines {
    fn open(file: &Path) -> Result<(Self, Header), SummaryError> {
        let failed = |source| SummaryError::File { file: file.into(), source };
        let mut input = File::open(file).and_then(zstd::Decoder::new).map_err(failed)?;
        input.window_log_max(LARGEST_WINDOW).map_err(failed)?;
        let mut lines = Self {
            file: file.into(),
            input: BufReader::new(input),
            digest: Sha256::new(),
            ahead: String::new(),
        };
        lines.ahead = lines.read()?;
        let (Some(first), None) = lines.next()? else { return Err(lines.damaged("it is empty")) };
        let header: Header = serde_json::from_str(&first).map_err(|error| lines.damaged(error))?;
        if header.summary != 1 {
            return Err(lines.damaged(format!("its format is {}, expected 1", header.summary)));
        }
        Ok((lines, header))
    }

    fn damaged(&self, problem: impl ToString) -> SummaryError {
        SummaryError::Damaged { file: self.file.clone(), problem: problem.to_string() }
    }

    fn read(&mut self) -> Result<String, SummaryError> {
        let mut line = String::new();
        (&mut self.input).take(LONGEST_LINE).read_line(&mut line).map_err(|error| self.damaged(error))?;
        Ok(line)
    }

    /// The next line; at the end none, and the signature.
    fn next(&mut self) -> Result<(Option<String>, Option<Signed>), SummaryError> {
        let next = self.read()?;
        let mut line = std::mem::replace(&mut self.ahead, next);
        if !self.ahead.is_empty() {
            self.digest.update(&line);
            line.truncate(line.trim_end_matches('\n').len());
            return Ok((Some(line), None));
        }
        let signed: Signed = serde_json::from_str(&line)
            .map_err(|error| self.damaged(format!("it does not end with a signature: {error}")))?;
        let digest: [u8; 32] = self.digest.clone().finalize().into();
        if digest != signed.sha256 {
            return Err(self.damaged("its digest is not that of its lines"));
        }
        if signed.key(CONTEXT).is_none() {
            return Err(self.damaged("its signature is not right"));
        }
        Ok((None, Some(signed)))
    }
}

/// Reads whatever is given as a summary, as a file and as lines under a right signature: for tests with bytes that
/// nobody wrote. Must come back.
#[doc(hidden)]
pub fn read_anything(bytes: &[u8], scratch: &Path) {
    let signed = Signed::new(CONTEXT, Sha256::digest(bytes).into(), &SigningKey::from_bytes(&[1; 32]));
    let last = serde_json::to_vec(&signed).unwrap_or_default();
    let lines = [bytes, last.as_slice(), b"\n".as_slice()].concat();
    for file in [Ok(bytes.to_vec()), zstd::encode_all(lines.as_slice(), 1)].into_iter().flatten() {
        if std::fs::write(scratch, file).is_err() {
            return;
        }
        let Ok((mut lines, _)) = Lines::open(scratch) else { continue };
        while let Ok((Some(line), _)) = lines.next() {
            drop(serde_json::from_str::<TableLine>(&line));
        }
    }
}

/// The beginning of a summary. Nothing of it is checked yet.
pub fn header(file: &Path) -> Result<Header, SummaryError> {
    Lines::open(file).map(|(_, header)| header)
}

/// Loads a summary into an empty store: all of it, after its digest and signature proved right, or nothing.
pub async fn load(store: &SqliteStore, file: &Path) -> Result<Summary, SummaryError> {
    let (mut lines, header) = Lines::open(file)?;
    let (pieces, mut queue) = mpsc::channel(QUEUE);
    let reader = tokio::task::spawn_blocking(move || -> Result<Option<(u64, Signed)>, SummaryError> {
        let mut rows = 0;
        loop {
            let piece = match lines.next()? {
                (Some(line), _) if line.starts_with('[') => {
                    rows += 1;
                    Some(Piece::Row(line))
                }
                (Some(line), _) => {
                    let TableLine { table, columns } =
                        serde_json::from_str(&line).map_err(|error| lines.damaged(error))?;
                    Some(Piece::Table(Table { name: table, columns }))
                }
                (None, signed) => {
                    // Said in so many words, so that nothing else is taken for the end.
                    let taken = pieces.blocking_send(None).is_ok();
                    return Ok(signed.filter(|_| taken).map(|signed| (rows, signed)));
                }
            };
            if pieces.blocking_send(piece).is_err() {
                return Ok(None);
            }
        }
    });
    let loaded = store.load(header.place, &mut queue).await;
    drop(queue);
    let read = reader.await.unwrap_or(Ok(None))?;
    match (loaded?, read) {
        (true, Some((rows, signed))) => Ok(Summary { file: file.into(), header, rows, signed }),
        _ => Err(SummaryError::Damaged { file: file.into(), problem: "it could not be read".into() }),
    }
}

impl Summary {
    /// The fact that commits it: what is pruned before which segment follows from it too.
    pub fn fact(&self, closed_before: UtcMillis, prune_before_segment: u64) -> Fact {
        let Header { generation, place, .. } = &self.header;
        let body = serde_json::json!({
            "place": { "index": place.index, "segment": place.segment, "offset": place.offset },
            "generation": generation,
            "chain": hex(&self.header.chain),
            "sha256": hex(&self.signed.sha256),
            "rows": self.rows,
            "public_key": self.signed.public_key,
            "signature": self.signed.signature,
            "closed_before": closed_before,
            "prune_before_segment": prune_before_segment,
        });
        Fact::Record { kind: KIND.into(), key: format!("{}", place.index), body }
    }
}

/// The summaries that facts in the ledger commit, by their digest in hexadecimal, and for each the oldest segment that
/// must be there; up to where the ledger can be read, which is for others to name.
fn committed(ledger: &Path) -> BTreeMap<String, u64> {
    let mut committed = BTreeMap::new();
    let mut reader = Reader::from_start(ledger);
    while let Ok(Some(entry)) = reader.next() {
        // A batch commits none, and is not worth opening here.
        if entry.payload.first() == Some(&1) {
            continue;
        }
        if let Ok(Entry { body: Body::Fact(Fact::Record { kind, body, .. }), .. }) =
            Entry::decode(&entry.payload)
            && kind == KIND
        {
            let oldest = body["prune_before_segment"].as_u64().unwrap_or(1);
            committed.extend(body["sha256"].as_str().map(|digest| (digest.to_owned(), oldest)));
        }
    }
    committed
}

/// The digest of a summary, after it and its signature proved right.
fn digest(file: &Path) -> Result<String, SummaryError> {
    let (mut lines, _) = Lines::open(file)?;
    loop {
        if let (_, Some(signed)) = lines.next()? {
            return Ok(hex(&signed.sha256));
        }
    }
}

/// What [`begin`] does, with a summary that the ledger commits: a pruning that did not come to its end may have left
/// one that it does not.
pub async fn begin_committed(
    store: &Arc<SqliteStore>,
    ledger: &Path,
    folder: &Path,
    end: Place,
) -> Result<Option<Summary>, SummaryError> {
    begin_with(store, ledger, folder, end, Summaries::Committed).await
}

/// Which summaries are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Summaries {
    All,
    Committed,
}

/// What an empty store must be given before the ledger in `ledger` can be folded into it: nothing where the
/// ledger is there from its first entry, else the newest summary that is whole and leads to it.
pub async fn begin(
    store: &Arc<SqliteStore>,
    ledger: &Path,
    folder: &Path,
    end: Place,
) -> Result<Option<Summary>, SummaryError> {
    begin_with(store, ledger, folder, end, Summaries::All).await
}

async fn begin_with(
    store: &Arc<SqliteStore>,
    ledger: &Path,
    folder: &Path,
    end: Place,
    which: Summaries,
) -> Result<Option<Summary>, SummaryError> {
    let oldest = weighbridge_journal::oldest_segment(ledger).map_err(ReadError::from)?.unwrap_or(1);
    if store.stands().await?.index != 0 || oldest == 1 {
        return Ok(None);
    }
    let listed = list(folder).map_err(|source| SummaryError::File { file: folder.into(), source })?;
    let committed = match which {
        Summaries::All => None,
        Summaries::Committed => Some(committed(ledger)),
    };
    let mut uncommitted = None;
    for file in listed {
        let usable = match header(&file) {
            Ok(header) if header.place <= end && header.place.segment >= oldest => {
                // The end of the segment before the oldest is its beginning; else it lies in what is there.
                chain_at(ledger, header.place).is_ok_and(|chain| chain == header.chain)
            }
            Ok(_) => false,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a summary is passed over");
                false
            }
        };
        if !usable {
            continue;
        }
        if let Some(committed) = &committed {
            match digest(&file) {
                Ok(digest) if committed.contains_key(&digest) => {}
                Ok(_) => {
                    uncommitted = uncommitted.or(header(&file).ok().map(|header| header.place.index));
                    continue;
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "a summary is passed over");
                    continue;
                }
            }
        }
        match load(store, &file).await {
            Ok(summary) => return Ok(Some(summary)),
            Err(error @ SummaryError::Damaged { .. }) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a summary is passed over");
            }
            Err(error) => return Err(error),
        }
    }
    Err(match uncommitted {
        Some(entry) => SummaryError::Uncommitted { entry },
        None => SummaryError::Missing { oldest, folder: folder.into() },
    })
}

/// The oldest segment that must be there by the fact that commits this summary; `None` if no fact does.
pub async fn commitment(store: &SqliteStore, summary: &Summary) -> Result<Option<u64>, StoreError> {
    let digest = hex(&summary.signed.sha256);
    let key = summary.header.place.index.to_string();
    let records = store.records(KIND).await?;
    let row = records.iter().find(|row| row.key == key && row.body["sha256"] == digest.as_str());
    Ok(row.map(|row| row.body["prune_before_segment"].as_u64().unwrap_or(1)))
}

/// The same by the ledger itself, also by what lies behind where the sums stand.
pub fn commitment_in(ledger: &Path, summary: &Summary) -> Option<u64> {
    committed(ledger).remove(&hex(&summary.signed.sha256))
}
