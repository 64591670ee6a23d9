//! Reading entries in order, also beside a live writer.

use std::path::{Path, PathBuf};

use crate::Place;
use crate::error::{Damage, ReadError};
use crate::folder::segment_numbers;
use crate::format::{Chain, ENTRY_HEAD_LEN, FIRST_INDEX, FIRST_SEGMENT, HEADER_LEN, chain_after};
use crate::segment::{Found, Opening, Segment, Whole, corrupt};

/// An entry as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it begins.
    pub place: Place,
    /// Where it ends: read on from here for the one after it.
    pub next: Place,
    /// The bytes that were appended.
    pub payload: Vec<u8>,
    /// The chain hash at [`Entry::next`]: it stands for every entry up to this one.
    pub chain: [u8; 32],
}

/// Reads entries in order and can be asked again at the end, when more may have been written.
///
/// Every length, checksum and chain hash is checked. A reader that starts in the middle of a segment takes
/// the chain hash of the first entry it reads as given and checks from there.
///
/// It opens its first file when it is first asked, so a place that is not there shows then. It takes no
/// lock and keeps nothing from being removed.
pub struct Reader {
    dir: PathBuf,
    from: Option<Place>,
    /// What was noted to stand for everything before `from`.
    noted: Option<Chain>,
    current: Option<Current>,
}

/// Where a reader stands.
pub(crate) struct Current {
    pub(crate) segment: Segment,
    pub(crate) at: Place,
    /// Chain hash of the entry before; `None` until the first one was read, when started mid-segment.
    pub(crate) chain: Option<Chain>,
}

impl Reader {
    /// Reads the journal in `dir` from the entry at `from`, a place that was durable when it was noted.
    pub fn new(dir: &Path, from: Place) -> Self {
        Self { dir: dir.to_owned(), from: Some(from), noted: None, current: None }
    }

    /// The same, where the chain hash before `from` was noted too ([`crate::Journal::chain`], [`Entry::chain`]):
    /// an entry that does not follow on it is damage ([`Damage::Chain`] or [`Damage::HeaderChain`]), because
    /// what lies before is not what it was then.
    pub fn following(dir: &Path, from: Place, chain: [u8; 32]) -> Self {
        Self { dir: dir.to_owned(), from: Some(from), noted: Some(chain), current: None }
    }

    /// Reads the journal in `dir` from its oldest entry.
    pub fn from_start(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), from: None, noted: None, current: None }
    }

    /// The next entry, or `None` at the end of what is written, durable or not.
    ///
    /// An entry that is cut short at the very end counts as not yet written. Next to a live writer, what is
    /// read here may still be lost in a crash; [`Reader::next_before`] reads only what stays.
    #[expect(clippy::should_implement_trait, reason = "an iterator ends for good at its first None")]
    pub fn next(&mut self) -> Result<Option<Entry>, ReadError> {
        self.read(None)
    }

    /// The next entry if it begins before `end`, otherwise `None`.
    ///
    /// With [`crate::Journal::durable`] as `end`, nothing that a crash could take back is read, not even
    /// into a buffer. An entry before `end` that is not there is an error, not the end.
    pub fn next_before(&mut self, end: Place) -> Result<Option<Entry>, ReadError> {
        if self.at().is_some_and(|at| at >= end) {
            return Ok(None);
        }
        if self.current.is_none() {
            self.current = self.start()?;
            // Where the oldest entry is was not known until now.
            if self.at().is_some_and(|at| at >= end) {
                return Ok(None);
            }
        }
        match (self.read(Some(end))?, self.at()) {
            (None, Some(at)) => {
                Err(corrupt(&self.dir, at.segment, Some(at.index), at.offset, Damage::CutShort).into())
            }
            (None, None) if end.index > FIRST_INDEX => {
                Err(ReadError::NoSegment { dir: self.dir.clone(), segment: end.segment, oldest: None })
            }
            (entry, _) => Ok(entry),
        }
    }

    /// Where the next entry to be read begins, as far as it is known.
    fn at(&self) -> Option<Place> {
        self.current.as_ref().map(|current| current.at).or(self.from)
    }

    pub(crate) fn current(&mut self) -> Option<&mut Current> {
        self.current.as_mut()
    }

    fn read(&mut self, end: Option<Place>) -> Result<Option<Entry>, ReadError> {
        if self.current.is_none() {
            self.current = self.start()?;
        }
        let Some(current) = &mut self.current else { return Ok(None) };
        loop {
            let limit = end.filter(|end| end.segment == current.at.segment).map(|end| end.offset);
            let damage = match current.segment.entry(current.at.offset, limit)? {
                Found::Whole(whole) => return current.pass(&self.dir, whole).map(Some),
                Found::End => None,
                Found::Bad(damage) => Some(damage),
            };
            let number = current.at.segment + 1;
            match Segment::open(&self.dir, number)? {
                Opening::Open(following) => {
                    // The writer had finished this segment before it began the next, but perhaps not yet
                    // when we looked. A second look sees all of it.
                    match current.segment.entry(current.at.offset, limit)? {
                        Found::Whole(whole) => return current.pass(&self.dir, whole).map(Some),
                        Found::Bad(damage) => return Err(current.corrupt(&self.dir, damage)),
                        Found::End => *current = current.follow(&self.dir, following)?,
                    }
                }
                Opening::Bad(damage) => {
                    return Err(corrupt(&self.dir, number, Some(current.at.index), 0, damage).into());
                }
                Opening::Absent => {
                    require_last(&self.dir, current.at, Damage::Missing)?;
                    return current.end(&self.dir, damage);
                }
                Opening::Unfinished { damage: unfinished, .. } => {
                    require_last(&self.dir, current.at, unfinished)?;
                    return current.end(&self.dir, damage);
                }
            }
        }
    }

    /// Opens the segment to begin with; `None` while there is none.
    fn start(&self) -> Result<Option<Current>, ReadError> {
        match self.from {
            Some(from) => self.start_at(from).map(Some),
            None => self.start_at_oldest(),
        }
    }

    fn start_at_oldest(&self) -> Result<Option<Current>, ReadError> {
        let numbers = segment_numbers(&self.dir)?;
        let Some(&number) = numbers.first() else { return Ok(None) };
        let damage = match Segment::open(&self.dir, number)? {
            Opening::Open(segment) => return Ok(Some(Current::at_first_entry(segment))),
            Opening::Unfinished { .. } if numbers.len() == 1 => return Ok(None),
            Opening::Unfinished { damage, .. } | Opening::Bad(damage) => damage,
            Opening::Absent => Damage::Missing, // Removed since it was listed.
        };
        let index = (number == FIRST_SEGMENT).then_some(FIRST_INDEX);
        Err(corrupt(&self.dir, number, index, 0, damage).into())
    }

    fn start_at(&self, from: Place) -> Result<Current, ReadError> {
        let bad = |segment, offset, damage| {
            Err(corrupt(&self.dir, segment, Some(from.index), offset, damage).into())
        };
        match Segment::open(&self.dir, from.segment)? {
            Opening::Open(segment) => {
                let first = segment.header.first_index;
                if from.index < first || (from.index == first) != (from.offset == HEADER_LEN) {
                    return bad(from.segment, 0, Damage::FirstIndex { found: first });
                }
                if from.offset > segment.len()? {
                    return bad(from.segment, from.offset, Damage::CutShort);
                }
                let chain = (from.offset == HEADER_LEN).then_some(segment.header.chain);
                if self.noted.is_some() && chain.is_some() && chain != self.noted {
                    return bad(from.segment, 0, Damage::HeaderChain);
                }
                Ok(Current { segment, at: from, chain: chain.or(self.noted) })
            }
            Opening::Unfinished { damage, .. } | Opening::Bad(damage) => bad(from.segment, 0, damage),
            Opening::Absent => {
                // The place may be the end of a segment that was removed, and so the start of the next.
                if let Some(following) = from.segment.checked_add(1)
                    && let Opening::Open(segment) = Segment::open(&self.dir, following)?
                    && segment.header.first_index == from.index
                {
                    if self.noted.is_some_and(|noted| noted != segment.header.chain) {
                        return bad(following, 0, Damage::HeaderChain);
                    }
                    return Ok(Current::at_first_entry(segment));
                }
                let oldest = segment_numbers(&self.dir)?.first().copied();
                Err(ReadError::NoSegment { dir: self.dir.clone(), segment: from.segment, oldest })
            }
        }
    }
}

impl Current {
    fn at_first_entry(segment: Segment) -> Self {
        let at =
            Place { index: segment.header.first_index, segment: segment.header.number, offset: HEADER_LEN };
        let chain = Some(segment.header.chain);
        Self { segment, at, chain }
    }

    /// Steps over an entry whose checksum is right.
    fn pass(&mut self, dir: &Path, whole: Whole) -> Result<Entry, ReadError> {
        if self.chain.is_some_and(|chain| chain_after(&chain, &whole.payload) != whole.chain) {
            return Err(self.corrupt(dir, Damage::Chain));
        }
        let place = self.at;
        let offset = place.offset + ENTRY_HEAD_LEN + whole.payload.len() as u64;
        self.at = Place { index: place.index + 1, offset, ..place };
        self.chain = Some(whole.chain);
        Ok(Entry { place, next: self.at, payload: whole.payload, chain: whole.chain })
    }

    /// Steps from the end of this segment into the next.
    fn follow(&self, dir: &Path, following: Segment) -> Result<Self, ReadError> {
        let header = following.header;
        let damage = if header.first_index != self.at.index {
            Damage::FirstIndex { found: header.first_index }
        } else if self.chain.is_some_and(|chain| chain != header.chain) {
            Damage::HeaderChain
        } else {
            return Ok(Self::at_first_entry(following));
        };
        Err(corrupt(dir, header.number, Some(self.at.index), 0, damage).into())
    }

    /// What to make of no whole entry in the last segment: not yet written, or never right.
    fn end(&self, dir: &Path, damage: Option<Damage>) -> Result<Option<Entry>, ReadError> {
        match damage {
            None | Some(Damage::CutShort | Damage::Length { found: 0 }) => Ok(None),
            Some(damage) => Err(self.corrupt(dir, damage)),
        }
    }

    pub(crate) fn corrupt(&self, dir: &Path, damage: Damage) -> ReadError {
        corrupt(dir, self.at.segment, Some(self.at.index), self.at.offset, damage).into()
    }
}

/// The chain hash at `place`: it stands for everything before. Reads its segment up to there and checks it.
pub fn chain_at(dir: &Path, place: Place) -> Result<[u8; 32], ReadError> {
    let mut current = match Segment::open(dir, place.segment)? {
        Opening::Open(segment) => Current::at_first_entry(segment),
        // Removed, or not yet begun: only the end of the one before can be meant.
        _ => Reader::new(dir, place).start_at(place)?,
    };
    while current.at < place {
        match current.segment.entry(current.at.offset, None)? {
            Found::Whole(whole) => drop(current.pass(dir, whole)?),
            Found::End => return Err(current.corrupt(dir, Damage::CutShort)),
            Found::Bad(damage) => return Err(current.corrupt(dir, damage)),
        }
    }
    let offset = current.at.offset;
    match current.chain {
        Some(chain) if current.at.segment != place.segment || offset == place.offset => Ok(chain),
        _ => Err(current.corrupt(dir, Damage::FirstIndex { found: current.segment.header.first_index })),
    }
}

/// Where the first entry of a segment is, if the segment is there.
pub fn first_place(dir: &Path, segment: u64) -> Result<Option<Place>, ReadError> {
    match Segment::open(dir, segment)? {
        Opening::Open(segment) => Ok(Some(Current::at_first_entry(segment).at)),
        Opening::Absent | Opening::Unfinished { .. } => Ok(None),
        Opening::Bad(damage) => Err(corrupt(dir, segment, None, 0, damage).into()),
    }
}

/// The segment after `at` is not there, or not whole: right only if there is nothing after it either.
fn require_last(dir: &Path, at: Place, damage: Damage) -> Result<(), ReadError> {
    let numbers = segment_numbers(dir)?;
    let absent = at.segment + 1;
    let listed = numbers.contains(&absent);
    if numbers.iter().all(|number| *number <= absent) || (listed && damage == Damage::Missing) {
        // In the second case it was created between our two looks: the next call finds it.
        return Ok(());
    }
    if numbers.contains(&at.segment) || listed {
        return Err(corrupt(dir, absent, Some(at.index), 0, damage).into());
    }
    // We were overtaken: this segment and the next were removed while we read.
    Err(ReadError::NoSegment { dir: dir.to_owned(), segment: absent, oldest: numbers.first().copied() })
}
