//! The thread that owns the journal.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot, watch,
};
use weighbridge_journal::{AppendError, Journal, fail};
use weighbridge_meter::{AgentId, BootId, UtcMillis};
use weighbridge_wire::Batch;

use super::{
    CommitError, Committed, GROUP, Health, LedgerOptions, Outcome, Request, Salts, Submission, Tail, Then,
    WholeLock,
    clock::{is_news, offset_minutes},
    cursor::{Cursors, Known, Undo},
};
use crate::{
    Place, closed,
    entry::{self, Body, Entry, Fact},
    fold::Opened,
    state::{CursorRow, State},
    tree::promise::{Group, Word},
};

/// What batches leave free of a disk that is large enough.
const RESERVE: u64 = 16 << 20;

/// Its fields go in this order: when nobody can announce any more, the journal is closed and unlocked.
pub(super) struct Writer {
    /// `None` after the disk refused, until it is open again.
    journal: Option<Journal>,
    /// Also while there is no journal.
    _whole: WholeLock,
    folder: PathBuf,
    options: LedgerOptions,
    /// Everything before this is durable, and was announced.
    durable: Place,
    cursors: Cursors,
    offsets: HashMap<(AgentId, BootId), i64>,
    /// Hours before this one take nothing in.
    closed: Option<UtcMillis>,
    /// What the group that is being written holds, for the tail.
    opened: Vec<(Opened, Place)>,
    /// What is promised of it, in order.
    words: Vec<Word>,
    /// How to forget what the group that is being written changed, in order.
    undo: Vec<Step>,
    salts: Arc<Salts>,
    outlets: Outlets,
}

/// Where others see what the thread did.
pub(super) struct Outlets {
    pub(super) tail: Tail,
    pub(super) health: watch::Sender<Health>,
    pub(super) announce: watch::Sender<Place>,
    pub(super) announce_tip: watch::Sender<(Place, [u8; 32])>,
}

/// What has to be taken back if a group does not become durable.
enum Step {
    Batch(Undo),
    Offset((AgentId, BootId), Option<i64>),
    Closed(Option<UtcMillis>),
}

/// An answer that waits for the fsync.
enum Waiting {
    Batch(Then, Committed),
    Facts(oneshot::Sender<Result<Place, CommitError>>, Place),
}

impl Writer {
    pub(super) fn new(
        (journal, whole): (Journal, WholeLock),
        folder: &Path,
        options: LedgerOptions,
        cursors: Vec<CursorRow>,
        state: &State,
        salts: Arc<Salts>,
        outlets: Outlets,
    ) -> Self {
        let offsets = state
            .offsets
            .iter()
            .filter_map(|(key, list)| list.last().map(|(_, minutes)| (key.clone(), *minutes)))
            .collect();
        Self {
            durable: journal.durable(),
            journal: Some(journal),
            _whole: whole,
            folder: folder.to_owned(),
            options,
            cursors: Cursors::new(cursors),
            offsets,
            closed: state.closed_before,
            opened: Vec::new(),
            words: Vec::new(),
            undo: Vec::new(),
            salts,
            outlets,
        }
    }

    /// Runs until nobody can send any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut group = Vec::with_capacity(GROUP);
        while queue.blocking_recv_many(&mut group, GROUP) > 0 {
            let Some(mut journal) = self.journal.take() else { return };
            let committed = self.commit(&mut journal, &mut group);
            self.journal = Some(journal);
            if let Err(error) = committed {
                tracing::error!(error = &error as &dyn std::error::Error, "the ledger cannot be written");
                self.reports(Health::Unwritable);
                // Whoever waits is told that it did not work when its request is dropped.
                group.clear();
                if !self.recover(&mut queue) {
                    return;
                }
            }
        }
    }

    fn reports(&self, health: Health) {
        self.outlets.health.send_if_modified(|known| std::mem::replace(known, health) != health);
    }

    fn commit(&mut self, journal: &mut Journal, group: &mut Vec<Request>) -> Result<(), AppendError> {
        let room = self.has_room();
        self.reports(if room { Health::Writable } else { Health::Full });
        let mut waiting = Vec::with_capacity(group.len());
        for request in group.drain(..) {
            self.write(journal, request, room, &mut waiting)?;
        }
        journal.sync()?;
        self.undo.clear();
        self.durable = journal.durable();
        self.outlets.tail.extend(self.opened.drain(..));
        self.outlets.announce.send_replace(self.durable);
        self.outlets.announce_tip.send_replace((self.durable, journal.chain()));
        let promises = Group::of(std::mem::take(&mut self.words));
        let mut numbers = 0..;
        for answer in waiting {
            // A sender that went away will ask again.
            match answer {
                Waiting::Batch(then, mut committed) => {
                    if let Outcome::Accepted { .. } = committed.outcome {
                        committed.promised = numbers.next().and_then(|number| promises.at(number));
                    }
                    then(Ok(committed));
                }
                Waiting::Facts(reply, place) => drop(reply.send(Ok(place))),
            }
        }
        Ok(())
    }

    /// Whether batches may come in. A disk that cannot say is asked by writing.
    fn has_room(&self) -> bool {
        self.options.reserve_bytes == Some(0)
            || rustix::fs::statvfs(&self.folder).map_or(true, |disk| {
                let usual = RESERVE.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 16);
                disk.f_bavail.saturating_mul(disk.f_frsize) >= self.options.reserve_bytes.unwrap_or(usual)
            })
    }

    fn write(
        &mut self,
        journal: &mut Journal,
        request: Request,
        room: bool,
        waiting: &mut Vec<Waiting>,
    ) -> Result<(), AppendError> {
        match request {
            Request::Facts(facts, reply) => {
                for (received, fact, bytes) in facts {
                    if let Fact::ClockOffset { agent, boot, minutes } = &fact {
                        self.fix(agent.clone(), *boot, *minutes);
                    }
                    if let Fact::Record { kind, body, .. } = &fact
                        && let Some(before) = closed::before(kind, body)
                    {
                        self.undo.push(Step::Closed(self.closed));
                        self.closed = self.closed.max(Some(before));
                    }
                    let place = journal.append(&bytes)?;
                    self.opened.push((Opened::of_fact(place, received, fact), journal.next()));
                }
                waiting.push(Waiting::Facts(reply, journal.next()));
            }
            Request::Prune(segment, reply) => drop(reply.send(journal.remove_segments_before(segment))),
            Request::Batch(submission, then) => match self.judge(&submission) {
                Err(refusal) => then(Err(refusal)),
                Ok(Known::New) if !room => then(Err(CommitError::Full)),
                Ok(known) => {
                    let agent = submission.batch.agent.clone();
                    let outcome = match known {
                        Known::New => self.append(journal, *submission)?,
                        Known::Same => Outcome::Duplicate,
                        Known::Old => Outcome::Old,
                    };
                    let missing = self.cursors.missing(&agent);
                    let committed = Committed { outcome, promised: None, missing };
                    waiting.push(Waiting::Batch(then, committed));
                }
            },
        }
        Ok(())
    }

    fn judge(&self, submission: &Submission) -> Result<Known, CommitError> {
        let known = self.cursors.judge(submission)?;
        if let (Known::New, Some(closed)) = (known, self.closed)
            && let Some(reaches) = closed::reaches(&submission.batch, self.minutes(submission), closed)
        {
            let Batch { agent, epoch, sequence, .. } = &submission.batch;
            let (agent, epoch, sequence) = (agent.clone(), *epoch, *sequence);
            return Err(CommitError::Closed { agent, epoch, sequence, reaches, closed });
        }
        Ok(known)
    }

    /// Minutes by which the clock of this batch is off, as they will be fixed when it is taken.
    fn minutes(&self, Submission { received_at, received, batch, .. }: &Submission) -> i64 {
        let fixed = self.offsets.get(&(batch.agent.clone(), batch.boot)).copied();
        match offset_minutes(batch, received, *received_at, fixed) {
            Some(minutes) if is_news(fixed.unwrap_or(0), minutes) => minutes,
            _ => fixed.unwrap_or(0),
        }
    }

    fn fix(&mut self, agent: AgentId, boot: BootId, minutes: i64) {
        let key = (agent, boot);
        let before = self.offsets.insert(key.clone(), minutes);
        self.undo.push(Step::Offset(key, before));
    }

    fn append(&mut self, journal: &mut Journal, submission: Submission) -> Result<Outcome, AppendError> {
        let Submission { received_at, received, batch, hash } = submission;
        let fixed = self.offsets.get(&(batch.agent.clone(), batch.boot)).copied();
        if let Some(minutes) = offset_minutes(&batch, &received, received_at, fixed)
            && is_news(fixed.unwrap_or(0), minutes)
        {
            tracing::warn!(agent = %batch.agent, boot = %batch.boot, minutes, "the clock of a host is off");
            self.fix(batch.agent.clone(), batch.boot, minutes);
            let fact = Fact::ClockOffset { agent: batch.agent.clone(), boot: batch.boot, minutes };
            let entry = Entry { received: received_at, body: Body::Fact(fact.clone()) };
            let place = journal.append(&entry.encode(&self.salts.next()))?;
            self.opened.push((Opened::of_fact(place, received_at, fact), journal.next()));
        }
        let boot_ms = received.clocks.map(|clocks| clocks.boot_ms);
        // A batch has a salt of its own.
        let payload = Entry { received: received_at, body: Body::Batch(received) }.encode(&[0; 16]);
        let leaf_hash = entry::leaf_hash(&payload);
        self.words.push(Word { batch_hash: hash, leaf_hash, received_at });
        let place = journal.append(&payload)?;
        let undo = self.cursors.take(&batch, hash);
        self.undo.push(Step::Batch(undo));
        self.opened.push((Opened::of_batch(place, received_at, boot_ms, hash, batch), journal.next()));
        Ok(Outcome::Accepted { leaf_hash })
    }

    /// Waits until the journal can be opened again; `false`: nobody asks any more.
    ///
    /// A disk may have dropped what it could not write and still say that all is well when asked again. So what was
    /// not durable before is cut off, forgotten here too, and comes again from those who were not answered.
    fn recover(&mut self, queue: &mut mpsc::Receiver<Request>) -> bool {
        // Closed and unlocked.
        self.journal = None;
        self.opened.clear();
        self.words.clear();
        while let Some(step) = self.undo.pop() {
            match step {
                Step::Batch(undo) => self.cursors.forget(undo),
                Step::Offset(key, Some(minutes)) => drop(self.offsets.insert(key, minutes)),
                Step::Offset(key, None) => drop(self.offsets.remove(&key)),
                Step::Closed(before) => self.closed = before,
            }
        }
        loop {
            std::thread::sleep(self.options.retry);
            loop {
                match queue.try_recv() {
                    Ok(refused) => drop(refused),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return false,
                }
            }
            match self.reopen() {
                Ok(journal) => {
                    tracing::warn!(
                        next = self.durable.index,
                        "the ledger is open again, from the last good point"
                    );
                    self.journal = Some(journal);
                    self.reports(if self.has_room() { Health::Writable } else { Health::Full });
                    return true;
                }
                Err(error) => {
                    tracing::warn!(error = &*error, "the ledger cannot be opened yet");
                }
            }
        }
    }

    fn reopen(&self) -> Result<Journal, Box<dyn std::error::Error>> {
        if !self.has_room() {
            return Err("there is not enough room on its disk".into());
        }
        cut_back(&self.folder, self.durable)?;
        let (journal, _) = Journal::open(&self.folder, self.options.journal)?;
        if journal.durable() != self.durable {
            let (found, expected) = (journal.durable().index, self.durable.index);
            return Err(format!("it ends before entry {found} and not before {expected}").into());
        }
        Ok(journal)
    }
}

/// Cuts everything behind `durable` off the journal.
fn cut_back(folder: &Path, durable: Place) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".seg")?.parse::<u64>().ok())
            .unwrap_or(0);
        if number > durable.segment {
            fail::around("ledger.remove_behind", || fs::remove_file(&path))?;
        } else if number == durable.segment {
            let segment = File::options().write(true).open(&path)?;
            if segment.metadata()?.len() > durable.offset {
                fail::around("ledger.cut_back", || segment.set_len(durable.offset))?;
            }
            fail::around("ledger.sync_back", || segment.sync_all())?;
        }
    }
    File::open(folder)?.sync_all()
}
