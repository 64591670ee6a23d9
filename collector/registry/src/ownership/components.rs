//! Who holds whom in a circle: strongly connected components, and what a circle makes of what enters it.

use std::sync::OnceLock;

use num_bigint::BigInt;
use num_rational::BigRational;

use super::Edge;

/// Parties that hold each other in a circle, or one party alone.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) members: Vec<usize>,
    /// Whether anything leads from a member to itself.
    pub(super) circle: bool,
    /// What the circle does to what enters it, by the least and by the most.
    pub(super) inverse: OnceLock<[Option<Matrix>; 2]>,
}

/// Rows of a square matrix.
pub(super) type Matrix = Vec<Vec<BigRational>>;

/// Circles of more parties are followed round by round instead of being solved.
pub(super) const MOST_SOLVED: usize = 24;

/// Tarjan's algorithm without recursion, from an asset to its owners: the component of an owner has a smaller number
/// than that of what it holds, unless both are one.
pub(super) fn components(owners: &[Vec<Edge>]) -> (Vec<Component>, Vec<usize>) {
    const NONE: usize = usize::MAX;
    let parties = owners.len();
    let (mut order, mut low) = (vec![NONE; parties], vec![0; parties]);
    let mut component_of = vec![NONE; parties];
    let (mut components, mut stack, mut next) = (Vec::new(), Vec::new(), 0);
    for root in 0..parties {
        if order[root] != NONE {
            continue;
        }
        // Each with how many of its owners were looked at.
        let mut path: Vec<(usize, usize)> = vec![(root, 0)];
        while let Some((party, looked)) = path.last_mut() {
            let party = *party;
            if *looked == 0 {
                (order[party], low[party]) = (next, next);
                next += 1;
                stack.push(party);
            }
            if let Some(edge) = owners[party].get(*looked) {
                *looked += 1;
                if order[edge.owner] == NONE {
                    path.push((edge.owner, 0));
                } else if component_of[edge.owner] == NONE {
                    low[party] = low[party].min(order[edge.owner]);
                }
                continue;
            }
            path.pop();
            if let Some((asset, _)) = path.last() {
                low[*asset] = low[*asset].min(low[party]);
            }
            if low[party] == order[party] {
                let first = stack.iter().rposition(|member| *member == party).expect("it was put there");
                let members = stack.split_off(first);
                members.iter().for_each(|member| component_of[*member] = components.len());
                let circle = members.len() > 1 || owners[party].iter().any(|edge| edge.owner == party);
                components.push(Component { members, circle, inverse: OnceLock::new() });
            }
        }
    }
    (components, component_of)
}

impl Component {
    /// What is held within, as a matrix of millionths: rows are owners, columns what they hold.
    pub(super) fn within(&self, owners: &[Vec<Edge>], of: impl Fn(&Edge) -> u32) -> Vec<Vec<u32>> {
        let place = |party: usize| self.members.iter().position(|member| *member == party);
        let mut within = vec![vec![0; self.members.len()]; self.members.len()];
        for (column, asset) in self.members.iter().enumerate() {
            for edge in &owners[*asset] {
                if let Some(row) = place(edge.owner) {
                    within[row][column] = of(edge);
                }
            }
        }
        within
    }
}

/// The inverse of one minus a matrix of millionths; `None` where there is none, or none that says anything: where
/// nothing leaves a circle, or more is told to be held than there is.
pub(super) fn inverse(within: &[Vec<u32>]) -> Option<Matrix> {
    let size = within.len();
    let number = |number: i64| BigRational::from(BigInt::from(number));
    let (zero, one) = (number(0), number(1));
    let unit = |row: usize, column: usize| if row == column { one.clone() } else { zero.clone() };
    // The matrix, and beside it what becomes of the unit matrix.
    let mut rows: Vec<Vec<BigRational>> = (0..size)
        .map(|row| {
            let own = (0..size).map(|column| {
                let share = BigRational::new(BigInt::from(within[row][column]), BigInt::from(super::WHOLE));
                unit(row, column) - share
            });
            own.chain((0..size).map(|column| unit(row, column))).collect()
        })
        .collect();
    for column in 0..size {
        let pivot = (column..size).find(|row| rows[*row][column] != zero)?;
        rows.swap(column, pivot);
        let divisor = rows[column][column].clone();
        rows[column].iter_mut().for_each(|value| *value /= &divisor);
        let done = rows[column].clone();
        for (row, values) in rows.iter_mut().enumerate() {
            let factor = values[column].clone();
            if row == column || factor == zero {
                continue;
            }
            values.iter_mut().zip(&done).for_each(|(value, done)| *value -= &factor * done);
        }
    }
    let inverse: Matrix = rows.into_iter().map(|mut row| row.split_off(size)).collect();
    // What goes round and grows has an inverse too, with signs that no share has.
    let sound = inverse.iter().flatten().all(|value| *value >= zero);
    sound.then_some(inverse)
}
