//! Effective shares: what of something is somebody's in the end, over all paths and around all circles.
//!
//! What is paid out by the asset goes to its owners by their stakes, and what reaches a company goes on to its owners.
//! Somebody's effective share is all that comes by: of a circle, what comes round once, twice, and so on. So the
//! shares of those at the ends sum to the whole where all is told.
//!
//! Amounts are whole parts of 10^-18, rounded down for the least and up for the most; up to three stakes in a row are
//! exact, and what circles of a few parties make of them is worked out in fractions, so that a line is met exactly.

use std::collections::HashMap;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::ToPrimitive;

use super::{Edge, Holder, Ownership, Share, Standing, components};

/// The whole, in parts.
const UNIT: u128 = 1_000_000_000_000_000_000;

/// Parts of a millionth.
const MILLIONTH: u128 = 1_000_000;

/// There is no bound, of what goes round in a circle that nothing leaves.
const UNBOUNDED: u128 = u128::MAX;

/// Rounds that a large circle is followed, at most.
const ROUNDS: usize = 2_000;

/// What somebody holds in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Who.
    pub owner: usize,
    pub(super) least: u128,
    pub(super) most: u128,
}

impl Effective {
    /// How it stands to a line.
    pub fn standing(&self, line: Share) -> Standing {
        let line = u128::from(line.0) * (UNIT / MILLIONTH);
        match (self.least >= line, self.most >= line) {
            (true, _) => Standing::Reaches,
            (false, true) => Standing::Possible,
            (false, false) => Standing::Below,
        }
    }

    /// From and to, rounded outwards.
    pub fn range(&self) -> (Share, Share) {
        range(self.least, self.most)
    }
}

fn range(least: u128, most: u128) -> (Share, Share) {
    let share = |parts: u128| Share(u32::try_from(parts).unwrap_or(Share::WHOLE.0).min(Share::WHOLE.0));
    (share(least * MILLIONTH / UNIT), share(most.min(UNIT).saturating_mul(MILLIONTH).div_ceil(UNIT)))
}

/// Who stands behind something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    /// All that hold anything of it, directly or not, itself left out; the greatest first.
    pub owners: Vec<Effective>,
    /// How much of it nobody told of, from and to.
    pub unknown: (Share, Share),
    /// A circle that nobody from outside holds anything of stands behind it: whose it is is not told.
    pub closed_circle: bool,
}

/// By the least of each stake, or by the most.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Least,
    Most,
}

impl Side {
    fn millionths(self, edge: &Edge) -> u32 {
        match self {
            Self::Least => edge.least,
            Self::Most => edge.most,
        }
    }

    fn of(self, edge: &Edge) -> u128 {
        self.millionths(edge).into()
    }

    /// A sum of parts times millionths, in parts.
    fn rounded(self, sum: u128) -> u128 {
        match self {
            Self::Least => sum / MILLIONTH,
            Self::Most if sum == UNBOUNDED => UNBOUNDED,
            Self::Most => sum.div_ceil(MILLIONTH),
        }
    }
}

impl Ownership {
    /// Who holds how much of a party in the end.
    ///
    /// # Panics
    /// Where there is no such party.
    pub fn owners_of(&self, party: usize) -> Owners {
        let behind = self.behind(party);
        let mut closed_circle = false;
        let [least, most] = [Side::Least, Side::Most].map(|side| {
            let (parts, closed) = self.parts(party, &behind, side);
            closed_circle |= closed && side == Side::Least;
            parts
        });
        let mut owners = Vec::with_capacity(behind.len());
        let (mut known_least, mut known_most) = (0_u128, 0_u128);
        for (place, &owner) in behind.iter().enumerate() {
            let one = Effective { owner, least: least[place].min(UNIT), most: most[place].min(UNIT) };
            if self.holders[owner] == Holder::Last {
                known_least = known_least.saturating_add(one.least);
                known_most = known_most.saturating_add(one.most);
            }
            if owner != party && one.most > 0 {
                owners.push(one);
            }
        }
        owners.sort_by(|a, b| (b.most, b.least, a.owner).cmp(&(a.most, a.least, b.owner)));
        let unknown = range(UNIT.saturating_sub(known_most), UNIT.saturating_sub(known_least));
        let unknown = if self.holders[party] == Holder::Last { Default::default() } else { unknown };
        Owners { owners, unknown, closed_circle }
    }

    /// The party and all that hold anything of it, in an order in which owners come after what they hold, circles
    /// apart.
    fn behind(&self, party: usize) -> Vec<usize> {
        let mut behind = vec![party];
        let mut seen = std::collections::HashSet::from([party]);
        let mut next = 0;
        while let Some(asset) = behind.get(next).copied() {
            next += 1;
            behind
                .extend(self.owners[asset].iter().map(|edge| edge.owner).filter(|owner| seen.insert(*owner)));
        }
        behind.sort_unstable_by_key(|one| (std::cmp::Reverse(self.component_of[*one]), *one));
        behind
    }

    /// Effective shares of all behind the party, in parts, and whether a circle is closed.
    fn parts(&self, party: usize, behind: &[usize], side: Side) -> (Vec<u128>, bool) {
        // By the order above: components are together, and only what lies behind has a place.
        let place_of: HashMap<usize, usize> =
            behind.iter().enumerate().map(|(place, one)| (*one, place)).collect();
        // Sums of parts times millionths that come from what is held.
        let mut sums = vec![0_u128; behind.len()];
        let mut parts = vec![0_u128; behind.len()];
        let mut closed = false;
        let mut place = 0;
        while let Some(&one) = behind.get(place) {
            let number = self.component_of[one];
            let component = &self.components[number];
            // All members of a circle lie behind whatever one of them does.
            let members: Vec<usize> = if component.circle {
                component.members.iter().map(|member| place_of[member]).collect()
            } else {
                vec![place]
            };
            if component.circle {
                let entering: Vec<u128> = members.iter().map(|member| sums[*member]).collect();
                let (round, is_closed) = self.round(number, party, &entering, side);
                closed |= is_closed;
                members.iter().zip(round).for_each(|(member, round)| parts[*member] = round);
            } else {
                parts[place] = side.rounded(sums[place]);
            }
            for member in &members {
                let asset = behind[*member];
                let held = if asset == party { UNIT } else { 0 };
                let passed = match parts[*member] {
                    UNBOUNDED => UNBOUNDED,
                    parts => parts.saturating_add(held),
                };
                for edge in &self.owners[asset] {
                    if component.circle && self.component_of[edge.owner] == number {
                        continue;
                    }
                    let share = side.of(edge);
                    let sum = &mut sums[place_of[&edge.owner]];
                    *sum = match passed {
                        _ if share == 0 => *sum,
                        UNBOUNDED => UNBOUNDED,
                        passed => sum.saturating_add(passed.saturating_mul(share)),
                    };
                }
            }
            place += members.len();
        }
        (parts, closed)
    }

    /// What the members of a circle have in the end of what enters it, and whether nothing leaves it.
    fn round(&self, number: usize, party: usize, entering: &[u128], side: Side) -> (Vec<u128>, bool) {
        let component = &self.components[number];
        let within = |side: Side| component.within(&self.owners, |edge| side.millionths(edge));
        let mut entering = entering.to_vec();
        // What the party itself pays out to members, once.
        if self.component_of[party] == number {
            for edge in self.owners[party].iter().filter(|edge| self.component_of[edge.owner] == number) {
                let member = component.members.iter().position(|member| *member == edge.owner);
                let sum = &mut entering[member.expect("it is one")];
                *sum = sum.saturating_add(side.of(edge) * UNIT);
            }
        }
        if entering.contains(&UNBOUNDED) {
            return (vec![UNBOUNDED; entering.len()], false);
        }
        if component.members.len() > components::MOST_SOLVED {
            // Owners of each member, by their places among the members.
            let place: HashMap<usize, usize> =
                component.members.iter().enumerate().map(|(place, member)| (*member, place)).collect();
            let mut held: Vec<Vec<(usize, u128)>> = vec![Vec::new(); component.members.len()];
            let mut leaves = false;
            for (column, asset) in component.members.iter().enumerate() {
                let mut within = 0;
                for edge in &self.owners[*asset] {
                    if let Some(row) = place.get(&edge.owner) {
                        held[*row].push((column, side.of(edge)));
                        within += side.of(edge);
                    }
                }
                leaves |= within < super::WHOLE.into();
            }
            return match (leaves, side) {
                (true, _) => follow(&held, &entering, side),
                (false, Side::Least) => (entering.iter().map(|sum| side.rounded(*sum)).collect(), true),
                (false, Side::Most) => (vec![UNBOUNDED; entering.len()], true),
            };
        }
        let inverses = component
            .inverse
            .get_or_init(|| [Side::Least, Side::Most].map(|side| components::inverse(&within(side))));
        let inverse = &inverses[usize::from(side == Side::Most)];
        let Some(inverse) = inverse else {
            return match side {
                // At least what enters, before it goes round.
                Side::Least => (entering.iter().map(|sum| side.rounded(*sum)).collect(), true),
                Side::Most => (vec![UNBOUNDED; entering.len()], true),
            };
        };
        let solved = inverse.iter().map(|row| {
            let sum: BigRational = row
                .iter()
                .zip(&entering)
                .map(|(factor, sum)| factor * BigRational::new(BigInt::from(*sum), BigInt::from(MILLIONTH)))
                .sum();
            let whole = if side == Side::Least { sum.floor() } else { sum.ceil() };
            whole.to_integer().to_u128().unwrap_or(UNBOUNDED)
        });
        (solved.collect(), false)
    }
}

/// The same of a circle of many, round by round. From below each round is a bound; from above, what is left after the
/// last round is guessed, and holds if another round makes it smaller.
/// `held` is what each member holds of which.
fn follow(held: &[Vec<(usize, u128)>], entering: &[u128], side: Side) -> (Vec<u128>, bool) {
    let round = |parts: &[u128], side: Side| -> Vec<u128> {
        let rows = held.iter().zip(entering);
        rows.map(|(row, entering)| {
            let sum = row.iter().fold(*entering, |sum, (column, share)| {
                sum.saturating_add(share.saturating_mul(parts[*column]))
            });
            side.rounded(sum)
        })
        .collect()
    };
    let mut parts = vec![0; entering.len()];
    for _ in 0..ROUNDS {
        let next = round(&parts, Side::Least);
        if next == parts {
            break;
        }
        parts = next;
    }
    if side == Side::Least {
        return (parts, false);
    }
    for slack in [40, 30, 20, 10, 4] {
        let guess: Vec<u128> = parts.iter().map(|part| part + (part >> slack) + (UNIT >> slack)).collect();
        let next = round(&guess, Side::Most);
        if next.iter().zip(&guess).all(|(next, guess)| next <= guess) {
            return (next, false);
        }
    }
    (vec![UNBOUNDED; entering.len()], true)
}
