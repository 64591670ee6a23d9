//! Who owns how much of whom: effective shares over all paths and loops, what listed owners hold in sum, and who
//! belongs together.
//!
//! Shares are whole millionths, so that 25 and 50 % are met exactly. A stake may be a range; every result is then a
//! range that holds the truth. Start with [`Ownership::new`], then [`Ownership::owners_of`] for who is a
//! beneficial owner, [`Ownership::aggregate`] for the 50 % of listed owners together (OFAC's FAQ 398 to 401:
//! ownership only, control does not count), and [`Ownership::control_groups`].
//!
//! Deliberately absent: names, dates and kinds of interest. Whoever builds the graph decides as of when, and which
//! interests are ownership.

mod components;
mod effective;
mod groups;

use std::{collections::BTreeMap, fmt, str::FromStr};

pub use effective::{Effective, Owners};

use self::components::{Component, components};

/// A share in whole millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    /// Nothing.
    pub const NOTHING: Self = Self(0);
    /// 25 %.
    pub const QUARTER: Self = Self(250_000);
    /// 50 %, that of listed owners together.
    pub const HALF: Self = Self(500_000);
    /// All of it.
    pub const WHOLE: Self = Self(1_000_000);

    /// At most a million.
    pub fn from_millionths(millionths: u32) -> Option<Self> {
        (millionths <= Self::WHOLE.0).then_some(Self(millionths))
    }

    /// From 0 to 1,000,000.
    pub fn millionths(self) -> u32 {
        self.0
    }
}

/// Text that is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {}", Share::EXPECTED)]
pub struct BadShare;

impl Share {
    /// What the text form must be, in words for an error message.
    pub const EXPECTED: &'static str = "a percentage from 0 to 100 with at most four decimals, as 12.5";
}

impl FromStr for Share {
    type Err = BadShare;

    fn from_str(text: &str) -> Result<Self, BadShare> {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let good = (1..=3).contains(&whole.len()) && (1..=4).contains(&decimals.len());
        if !(good && digits(whole) && digits(decimals)) {
            return Err(BadShare);
        }
        let millionths = format!("{whole}{decimals:0<4}").parse().map_err(|_| BadShare)?;
        Self::from_millionths(millionths).ok_or(BadShare)
    }
}

/// In percent.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:04}", self.0 / 10_000, self.0 % 10_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// What an owner holds of something, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stake {
    least: Share,
    most: Share,
}

impl Stake {
    /// So much.
    pub fn exact(share: Share) -> Self {
        Self { least: share, most: share }
    }

    /// Between both. `None` where the first is more than the second.
    pub fn between(least: Share, most: Share) -> Option<Self> {
        (least <= most).then_some(Self { least, most })
    }

    /// At least.
    pub fn least(self) -> Share {
        self.least
    }

    /// At most.
    pub fn most(self) -> Share {
        self.most
    }
}

/// What somebody is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A natural person, a state, or a company whose shares are dispersed: nobody is asked for behind them.
    Last,
    /// A company: somebody stands behind it, told or not.
    Company,
}

/// One holds something of another, both by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Who.
    pub owner: usize,
    /// Of what.
    pub asset: usize,
    /// How much.
    pub stake: Stake,
}

/// Parties and what they hold of each other, cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHolding {
    /// A place that nobody has.
    #[error("holding {index}: there is no party {place}, expected a number below {parties}")]
    NoParty {
        /// Which holding.
        index: usize,
        /// The place.
        place: usize,
        /// How many there are.
        parties: usize,
    },
    /// Of those behind whom nobody is asked for, nobody holds anything.
    #[error("holding {index}: party {place} is a person or a body that has no owners")]
    OfLast {
        /// Which holding.
        index: usize,
        /// The asset's place.
        place: usize,
    },
}

/// What one party holds of another, after it was compared with what all others hold of it; in millionths.
#[derive(Clone, Copy, Debug)]
struct Edge {
    owner: usize,
    least: u32,
    most: u32,
}

/// Who holds what.
#[derive(Debug, Default)]
pub struct Ownership {
    holders: Vec<Holder>,
    /// Of each party, who holds it.
    owners: Vec<Vec<Edge>>,
    overheld: Vec<usize>,
    components: Vec<Component>,
    /// Of each party, its component: owners' come first.
    component_of: Vec<usize>,
}

/// How something stands to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Below it, whatever is true.
    Below,
    /// At it or above, if what is known only as a range is so.
    Possible,
    /// At it or above.
    Reaches,
}

impl Ownership {
    /// Several stakes of one owner in one asset add up, as of several classes of shares.
    ///
    /// Where the owners of something are told to hold more than all of it, each may hold less than was told by what
    /// is too much: [`Ownership::overheld`] names it.
    ///
    /// # Errors
    /// Names the first holding that cannot be.
    pub fn new(
        holders: Vec<Holder>,
        holdings: impl IntoIterator<Item = Holding>,
    ) -> Result<Self, BadHolding> {
        let parties = holders.len();
        let mut told: Vec<BTreeMap<usize, (u64, u64)>> = vec![BTreeMap::new(); parties];
        for (index, Holding { owner, asset, stake }) in holdings.into_iter().enumerate() {
            if let Some(place) = [owner, asset].into_iter().find(|place| *place >= parties) {
                return Err(BadHolding::NoParty { index, place, parties });
            }
            if holders[asset] == Holder::Last {
                return Err(BadHolding::OfLast { index, place: asset });
            }
            let (least, most) = told[asset].entry(owner).or_default();
            *least += u64::from(stake.least.0);
            *most += u64::from(stake.most.0);
        }
        let overheld = (0..parties).filter(|asset| sum_of_least(&told[*asset]) > WHOLE).collect();
        let owners: Vec<Vec<Edge>> = told.iter().map(compared).collect();
        let (components, component_of) = components(&owners);
        Ok(Self { holders, owners, overheld, components, component_of })
    }

    /// How many parties there are.
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    /// Those of which more was told to be held than there is.
    pub fn overheld(&self) -> &[usize] {
        &self.overheld
    }
}

const WHOLE: u64 = Share::WHOLE.0 as u64;

fn sum_of_least(told: &BTreeMap<usize, (u64, u64)>) -> u64 {
    told.values().map(|(least, _)| *least).sum()
}

/// What the owners of one asset can hold beside each other.
fn compared(told: &BTreeMap<usize, (u64, u64)>) -> Vec<Edge> {
    let excess = sum_of_least(told).saturating_sub(WHOLE);
    let least = |told: u64| told.saturating_sub(excess).min(WHOLE);
    let all: u64 = told.values().map(|(told, _)| least(*told)).sum();
    let small = |millionths: u64| u32::try_from(millionths).expect("at most a million");
    let edges = told.iter().map(|(&owner, &(told_least, told_most))| {
        let least = least(told_least);
        let others = all - least;
        let most = told_most.min(WHOLE.saturating_sub(others)).max(least);
        Edge { owner, least: small(least), most: small(most) }
    });
    edges.filter(|edge| edge.most > 0).collect()
}

#[cfg(test)]
mod tests;
