//! What listed owners hold together, and who is held or controlled by whom.

use std::collections::VecDeque;

use super::{Edge, Ownership, Share, Standing};

impl Ownership {
    /// Of each party, whether listed owners hold at least the line of it in sum, directly or through parties of which
    /// they do so in turn. The listed themselves reach it.
    ///
    /// `listed` are places; those that nobody has are passed over.
    pub fn aggregate(&self, listed: &[usize], line: Share) -> Vec<Standing> {
        let reached = |of: fn(&Edge) -> u32| self.spread(listed, line, of);
        let (least, most) = (reached(|edge| edge.least), reached(|edge| edge.most));
        let standing = |(least, most): (bool, bool)| match (least, most) {
            (true, _) => Standing::Reaches,
            (false, true) => Standing::Possible,
            (false, false) => Standing::Below,
        };
        least.into_iter().zip(most).map(standing).collect()
    }

    fn spread(&self, listed: &[usize], line: Share, of: fn(&Edge) -> u32) -> Vec<bool> {
        let mut held: Vec<Vec<(usize, u32)>> = vec![Vec::new(); self.len()];
        for (asset, owners) in self.owners.iter().enumerate() {
            owners.iter().for_each(|edge| held[edge.owner].push((asset, of(edge))));
        }
        let mut reached = vec![false; self.len()];
        let mut sums = vec![0_u64; self.len()];
        let mut next: VecDeque<usize> = VecDeque::new();
        for &party in listed {
            if reached.get(party) == Some(&false) {
                reached[party] = true;
                next.push_back(party);
            }
        }
        while let Some(party) = next.pop_front() {
            for &(asset, share) in &held[party] {
                sums[asset] += u64::from(share);
                if !reached[asset] && sums[asset] >= u64::from(line.0) {
                    reached[asset] = true;
                    next.push_back(asset);
                }
            }
        }
        reached
    }

    /// Parties that belong together: who holds more than half of another, alone or with what belongs to it already,
    /// and who `controls` another (controller and controlled, by their places). Of stakes that are ranges the most
    /// counts, so that what may belong together is not told apart. Groups of one are left out.
    pub fn control_groups(&self, controls: &[(usize, usize)]) -> Vec<Vec<usize>> {
        self.groups_of(controls, |edge| edge.most)
    }

    /// Those of [`Ownership::control_groups`] that belong together whatever is true: of stakes that are ranges the
    /// least counts.
    pub fn certain_control_groups(&self, controls: &[(usize, usize)]) -> Vec<Vec<usize>> {
        self.groups_of(controls, |edge| edge.least)
    }

    fn groups_of(&self, controls: &[(usize, usize)], of: fn(&Edge) -> u32) -> Vec<Vec<usize>> {
        let mut groups = Groups::new(self.len());
        for &(controller, controlled) in controls {
            if controller < self.len() && controlled < self.len() {
                groups.join(controller, controlled);
            }
        }
        let mut grew = true;
        while grew {
            grew = false;
            for (asset, owners) in self.owners.iter().enumerate() {
                let mut by_group: Vec<(usize, u64)> =
                    owners.iter().map(|edge| (groups.of(edge.owner), u64::from(of(edge)))).collect();
                by_group.sort_unstable();
                for of_one in by_group.chunk_by(|a, b| a.0 == b.0) {
                    let sum: u64 = of_one.iter().map(|(_, share)| share).sum();
                    if sum > u64::from(Share::HALF.0) && groups.of(asset) != of_one[0].0 {
                        grew = true;
                        groups.join(of_one[0].0, asset);
                        break;
                    }
                }
            }
        }
        groups.lists()
    }
}

/// Disjoint sets; each is called by its smallest member.
struct Groups(Vec<usize>);

impl Groups {
    fn new(parties: usize) -> Self {
        Self((0..parties).collect())
    }

    fn of(&mut self, mut party: usize) -> usize {
        while self.0[party] != party {
            self.0[party] = self.0[self.0[party]];
            party = self.0[party];
        }
        party
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.0[a.max(b)] = a.min(b);
    }

    fn lists(mut self) -> Vec<Vec<usize>> {
        let mut lists: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
        for party in 0..self.0.len() {
            lists.entry(self.of(party)).or_default().push(party);
        }
        lists.into_values().filter(|list| list.len() > 1).collect()
    }
}
