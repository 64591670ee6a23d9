//! Opening a spool, whatever lies there.

use std::{
    collections::VecDeque,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use weighbridge_journal::{OpenError, Torn, fail};
use weighbridge_meter::EpochId;
use weighbridge_wire::{Loss, LossCause};

use super::{
    EPOCHS, GENERATION, Kept, Origin, PARKED, Pending, QUARANTINE, RETURNED, Spool, SpoolError, SpoolEvent,
    SpoolOptions, Stored,
    epoch::{ACK, Epoch, ack_text, is_oversized},
    files::{self, is_full},
    losses::Losses,
    marks::Marks,
    salvaged::Salvaged,
    stored,
};

/// Ends a folder that is being removed.
pub(super) const GONE: &str = "gone";

/// Whether something cannot be read that once was right: then what else is there is sent, and this is told.
pub(super) fn is_damage(error: &SpoolError) -> bool {
    match error {
        SpoolError::Damaged(_) | SpoolError::Nonsense { .. } => true,
        SpoolError::File { doing, path, source } => {
            matches!(*doing, "read" | "open")
                && path.extension().is_some_and(|e| e == "seg")
                && !files::passes(source)
        }
        _ => false,
    }
}

/// Whether the disk does not give back what is on it.
pub(super) fn is_unreadable(error: &SpoolError) -> bool {
    matches!(error, SpoolError::File { doing, source, .. }
        if matches!(*doing, "read" | "open") && !files::passes(source))
}

/// `false` where only a full disk is why something could not be written: it is done without.
fn unless_full(error: SpoolError) -> Result<bool, SpoolError> {
    match error {
        SpoolError::File { source, .. } if is_full(&source) => Ok(false),
        error => Err(error),
    }
}

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was found and done, in order.
    pub events: Vec<SpoolEvent>,
    /// Parked batches that are to be sent again.
    pub returned: u64,
}

impl Spool {
    /// Opens the spool and goes on where it ended. `random` fills what it is given; it makes new epochs.
    ///
    /// Damage is no error: see [`Spool::events`]. Nor is a full disk: then [`Spool::ready`] tries again.
    pub fn open(options: SpoolOptions, random: &mut dyn FnMut(&mut [u8])) -> Result<Self, SpoolError> {
        let mut seed = [0; 32];
        random(&mut seed);
        let mut spool = Self {
            lock: None,
            epochs: Vec::new(),
            incomplete: true,
            generation: None,
            seed,
            parked: Stored::default(),
            quarantined: Stored::default(),
            returned: VecDeque::new(),
            losses: Losses::empty(&options.dir),
            marks: Marks::empty(&options.dir),
            events: Vec::new(),
            unsaved: 0,
            asked: std::collections::HashMap::new(),
            promised: 0,
            report: None,
            options,
        };
        match spool.open_all() {
            Err(SpoolError::File { doing, path, source }) if is_full(&source) => {
                let problem = format!("cannot {doing} {}: {source}", path.display());
                spool.event(SpoolEvent::NotOpened(problem));
                Ok(spool)
            }
            result => result.map(|()| spool),
        }
    }

    /// Opens again what failed. To be called before the next batch after an error.
    pub fn ready(&mut self) -> Result<(), SpoolError> {
        if self.epochs.is_empty() || self.incomplete {
            return self.open_all();
        }
        let keeping = self.options.keeping();
        for index in 0..self.epochs.len() {
            let Kept::Whole(epoch) = &mut self.epochs[index] else { continue };
            let (id, quarantine) = (epoch.id(), self.options.dir.join(QUARANTINE));
            match epoch.ready(keeping, &mut |torn| keep_torn(&quarantine, id, torn)) {
                Err(error) if is_damage(&error) => self.salvage(index, &error)?,
                result => result?,
            }
        }
        if !matches!(self.epochs.last(), Some(Kept::Whole(_))) {
            self.start_epoch()?;
        }
        Ok(())
    }

    fn open_all(&mut self) -> Result<(), SpoolError> {
        self.incomplete = true;
        self.epochs.clear();
        let dir = self.options.dir.clone();
        files::create_dir(&dir)?;
        self.lock = None;
        self.lock = Some(lock(&dir)?);
        self.losses = Losses::open(&dir)?;
        self.marks = Marks::open(&dir)?;
        self.parked = stored(&dir.join(PARKED))?;
        self.quarantined = stored(&dir.join(QUARANTINE))?;
        self.returned = files::list(&dir.join(RETURNED))?.into_iter().map(|(path, _)| path).collect();
        self.generation = files::read(&dir.join(GENERATION))?.map(|text| text.trim().to_owned());
        let (names, mut unsure) = self.read_index()?;
        for (position, &id) in names.iter().enumerate() {
            let ended_well = self.open_epoch(id)?;
            unsure |= position + 1 == names.len() && !ended_well;
        }
        if self.epochs.is_empty() || unsure {
            self.begin_epoch()?;
        }
        self.incomplete = false;
        Ok(())
    }

    /// The epochs there are, oldest first, and whether it is unsure which is the last.
    fn read_index(&mut self) -> Result<(Vec<EpochId>, bool), SpoolError> {
        let dir = self.options.dir.clone();
        let path = dir.join(EPOCHS);
        let text = files::read(&path)?;
        let lines = text.as_deref().unwrap_or_default().lines();
        let (mut names, mut nonsense): (Vec<EpochId>, u32) = (Vec::new(), 0);
        for line in lines {
            match line.parse() {
                Ok(id) if names.contains(&id) => {}
                Ok(id) if dir.join(format!("{id}.{GONE}")).exists() => {}
                Ok(id) => names.push(id),
                Err(_) => nonsense += 1,
            }
        }
        let (mut unlisted, mut gone) = (Vec::new(), Vec::new());
        for (folder, modified) in files::folders(&dir)? {
            let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match name.parse::<EpochId>() {
                Ok(id) if !names.contains(&id) => unlisted.push((modified, id)),
                Ok(_) => {}
                Err(_) if name.ends_with(&format!(".{GONE}")) => gone.push(folder),
                Err(_) => {}
            }
        }
        self.finish_removing(&gone, text.as_deref())?;
        let lost = text.is_none() && !unlisted.is_empty();
        if nonsense > 0 || lost {
            let what =
                if lost { "it was missing".to_owned() } else { format!("{nonsense} lines of nonsense") };
            self.event(SpoolEvent::IndexRebuilt(format!("{}: {what}", path.display())));
            if nonsense > 0 {
                let quarantine = dir.join(QUARANTINE);
                files::create_dir(&quarantine)?;
                files::write(&quarantine.join(EPOCHS), text.unwrap_or_default().as_bytes())?;
            }
        }
        // An epoch that was begun when a crash came, or one that an earlier version set aside as damaged.
        unlisted.sort();
        let names = unlisted.into_iter().map(|(_, id)| id).chain(names).collect();
        Ok((names, nonsense > 0 || lost))
    }

    /// Everything in these folders was acknowledged, and a crash came while they were removed. Their names go
    /// last: an epoch in the list that has no folder is one that was lost.
    fn finish_removing(&mut self, gone: &[PathBuf], listed: Option<&str>) -> Result<(), SpoolError> {
        if gone.is_empty() {
            return Ok(());
        }
        for folder in gone {
            files::empty(folder)?;
        }
        let ids: Vec<EpochId> = gone
            .iter()
            .filter_map(|folder| folder.file_stem()?.to_str()?.parse().ok())
            .inspect(|id| self.marks.forget(*id))
            .collect();
        let stays = |line: &&str| !line.parse().is_ok_and(|id| ids.contains(&id));
        let listed = listed.unwrap_or_default();
        // Nonsense in it stays: it says that the list cannot be believed until there is a new one.
        let text: String = listed.lines().filter(stays).map(|line| format!("{line}\n")).collect();
        let unlisted = match text.lines().eq(listed.lines()) {
            true => Ok(()),
            false => files::write(&self.options.dir.join(EPOCHS), text.as_bytes()),
        };
        if unlisted.and_then(|()| self.marks.save()).map(|()| true).or_else(unless_full)? {
            gone.iter().try_for_each(|folder| files::remove_empty(folder))?;
        }
        Ok(())
    }

    /// Opens an epoch in whatever state. `false` if nothing should be written to it.
    fn open_epoch(&mut self, id: EpochId) -> Result<bool, SpoolError> {
        let dir = self.options.dir.join(id.to_string());
        let mark = self.marks.get(id);
        let keeping = self.options.keeping();
        let mut again = None;
        let problem = if Salvaged::is_marked(&dir) {
            None
        } else if !dir.is_dir() {
            if dir.symlink_metadata().is_ok() {
                let quarantine = self.options.dir.join(QUARANTINE);
                files::create_dir(&quarantine)?;
                files::move_to(&dir, &quarantine.join(format!("{id}-in-place-of-the-folder")))?;
            }
            Some("its folder is missing".to_owned())
        } else if is_oversized(&dir, keeping)? {
            Some("a segment is larger than this agent makes them".to_owned())
        } else {
            let quarantine = self.options.dir.join(QUARANTINE);
            match Epoch::open(&dir, id, keeping, &mut |torn| keep_torn(&quarantine, id, torn)) {
                Ok(found) => {
                    let next = found.epoch.next_sequence();
                    let known = mark.max(found.acknowledged);
                    let (oldest, _) = found.epoch.held();
                    if found.acknowledged < oldest {
                        let last = oldest - 1;
                        Some(format!("batches {} to {last} are not there any more", found.acknowledged))
                    } else if known > next {
                        if found.acknowledged > next {
                            // Its end is gone, or the cursor is nonsense: what is here is sent again, and is a
                            // duplicate at worst. How far the epoch was is known from the marks from here on.
                            self.marks.set(id, known);
                            if self.marks.save().map(|()| true).or_else(unless_full)? {
                                files::overwrite(&dir.join(ACK), &ack_text(oldest, 0, 0))?;
                            }
                            again = Some(oldest);
                        }
                        Some(format!("batches {next} to {} are not there any more", known - 1))
                    } else {
                        self.marks.set(id, next);
                        self.epochs.push(Kept::Whole(found.epoch));
                        if found.torn {
                            self.quarantined = stored(&quarantine)?;
                            // Cut short while it was written, or changed since: nobody can tell. Its number is
                            // not given again.
                            let loss = Loss { epoch: id, first: next, last: next, cause: LossCause::Damaged };
                            self.lose(&[loss])?;
                        }
                        return Ok(!found.torn);
                    }
                }
                Err(error) if is_damage(&error) => Some(crate::uplink::chain(&error)),
                Err(error) => return Err(error),
            }
        };
        let saved = super::epoch::saved_cursor(&dir)?.unwrap_or(1);
        let mark = mark.max(self.marks.get(id));
        if let Some(problem) = problem {
            self.event(SpoolEvent::Damaged { epoch: id, problem });
        }
        let quarantine = self.options.dir.join(QUARANTINE);
        self.epochs.push(Kept::Salvaged(Salvaged::open(&dir, id, &quarantine, mark.max(saved), again)?));
        Ok(false)
    }

    /// An epoch turns out to be damaged while it is used.
    pub(super) fn salvage(&mut self, index: usize, error: &SpoolError) -> Result<(), SpoolError> {
        let Some(Kept::Whole(epoch)) = self.epochs.get(index) else { return Ok(()) };
        let (id, dir) = (epoch.id(), epoch.dir().to_owned());
        let (end, cursor) = (epoch.next_sequence(), epoch.cursor());
        if index + 1 == self.epochs.len() {
            // First of all: no number of the damaged one may be given again.
            self.start_epoch()?;
        }
        self.marks.set(id, end);
        self.marks.save()?;
        let quarantine = self.options.dir.join(QUARANTINE);
        let salvaged = Salvaged::open(&dir, id, &quarantine, end, Some(cursor))?;
        self.epochs[index] = Kept::Salvaged(salvaged);
        self.event(SpoolEvent::Damaged { epoch: id, problem: crate::uplink::chain(error) });
        Ok(())
    }

    /// Begins a new epoch, to which batches go from here on; those of epochs before are still sent.
    pub fn start_epoch(&mut self) -> Result<(), SpoolError> {
        // The list would leave out those that could not be opened.
        if self.incomplete { Err(SpoolError::NotWritten(None)) } else { self.begin_epoch() }
    }

    fn begin_epoch(&mut self) -> Result<(), SpoolError> {
        // From the seed of this run and the epoch before: never the same twice.
        let before = self.epochs.last().map_or([0; 16], |epoch| epoch.id().0);
        let mut digest = weighbridge_wire::hash(&[&self.seed[..], &before].concat());
        let mut id = [0; 16];
        loop {
            id.copy_from_slice(&digest[..16]);
            // Only with bad random numbers is there such a folder already.
            if !self.options.dir.join(EpochId(id).to_string()).exists() {
                break;
            }
            digest = weighbridge_wire::hash(&digest);
        }
        let dir = self.options.dir.join(EpochId(id).to_string());
        let made = Epoch::open(&dir, EpochId(id), self.options.keeping(), &mut |_| {});
        let made = made.and_then(|found| {
            let names = self.epochs.iter().map(Kept::id).chain([EpochId(id)]);
            let text: String = names.map(|id| format!("{id}\n")).collect();
            files::write(&self.options.dir.join(EPOCHS), text.as_bytes())?;
            Ok(found.epoch)
        });
        let epoch = made.inspect_err(|_| {
            // Nothing is in it yet, and the next attempt makes another.
            let _ = fs::remove_dir_all(&dir);
        })?;
        if let Some(Kept::Whole(before)) = self.epochs.last_mut() {
            before.close();
        }
        self.epochs.push(Kept::Whole(epoch));
        Ok(())
    }

    /// Looks through all damage there is, and with `unpark` puts parked batches back to be sent again.
    pub fn repair(&mut self, unpark: bool) -> Result<Repaired, SpoolError> {
        for index in 0..self.epochs.len() {
            let Kept::Whole(epoch) = &self.epochs[index] else { continue };
            match epoch.check() {
                Err(error) if is_damage(&error) => self.salvage(index, &error)?,
                result => result?,
            }
        }
        while self.scan()? {}
        let mut returned = 0;
        if unpark {
            let to = self.options.dir.join(RETURNED);
            files::create_dir(&to)?;
            for (path, bytes) in files::list(&self.options.dir.join(PARKED))? {
                let Some(name) = path.file_name() else { continue };
                self.returned.push_back(files::move_to(&path, &to.join(name))?);
                self.parked.files = self.parked.files.saturating_sub(1);
                self.parked.bytes = self.parked.bytes.saturating_sub(bytes);
                returned += 1;
            }
        }
        self.save()?;
        Ok(Repaired { events: self.events(), returned })
    }

    /// The first batch that was parked before and is to be sent again.
    pub(super) fn peek_returned(&mut self) -> Result<Option<Pending>, SpoolError> {
        while let Some(path) = self.returned.front().cloned() {
            let named = name_of_batch(&path);
            match (fs::read(&path), named) {
                (Ok(bytes), Some((epoch, sequence))) => {
                    let hash = weighbridge_wire::hash(&bytes);
                    return Ok(Some(Pending {
                        epoch,
                        sequence,
                        bytes,
                        hash,
                        origin: Origin::Returned(path),
                    }));
                }
                (Err(error), _) if files::passes(&error) => return Err(files::failed("read", &path)(error)),
                (Err(error), _) if error.kind() != std::io::ErrorKind::NotFound => {
                    // It stays where it is, and the next start tries it again.
                    tracing::warn!(file = %path.display(), %error, "a batch to be sent again cannot be read");
                    self.returned.pop_front();
                }
                // Taken away by somebody, or no batch at all.
                _ => drop(self.returned.pop_front()),
            }
        }
        Ok(None)
    }

    pub(super) fn returned_is_done(&mut self, path: &Path) -> Result<(), SpoolError> {
        self.returned.retain(|returned| returned != path);
        match fail::around("spool.remove_returned", || fs::remove_file(path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(files::failed("remove", path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// `<epoch>-<sequence>.batch`.
pub(super) fn name_of_batch(path: &Path) -> Option<(EpochId, u64)> {
    let (epoch, sequence) = path.file_name()?.to_str()?.strip_suffix(".batch")?.split_once('-')?;
    Some((epoch.parse().ok()?, sequence.parse().ok()?))
}

/// Bytes that are about to be cut off are kept, if the disk takes them.
fn keep_torn(quarantine: &Path, id: EpochId, torn: &Torn<'_>) {
    let name = format!("{id}-{:020}-at-{}.torn", torn.segment, torn.offset);
    let kept = files::create_dir(quarantine).and_then(|()| files::write(&quarantine.join(name), torn.bytes));
    if let Err(error) = kept {
        tracing::warn!(epoch = %id, error = crate::uplink::chain(&error), "cannot keep what is cut off an epoch");
    }
}

/// One agent at a time has a spool.
pub(super) fn lock(dir: &Path) -> Result<File, SpoolError> {
    let path = dir.join("LOCK");
    let opened = File::options().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(files::failed("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse(OpenError::Locked { dir: dir.to_owned() })),
        Err(TryLockError::Error(error)) => Err(files::failed("lock", &path)(error)),
    }
}
