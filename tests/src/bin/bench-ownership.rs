//! How long it takes to say who stands behind whom: 20,000 parties, 50,000 holdings, some of them in circles.
//!
//! A quarter of the parties are persons. Most holdings go to a company from somebody before it, so that chains are
//! long; one in a hundred goes the other way and closes a circle. Shares are random and come to at most the whole.
//! The same graph each time. One thread.

use weighbridge_registry::ownership::{Holder, Holding, Ownership, Share, Stake, Standing};
use weighbridge_tests::wait::instant;

const PARTIES: usize = 20_000;
const HOLDINGS: usize = 50_000;

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }
}

fn main() {
    let mut numbers = Numbers(7);
    let persons = PARTIES / 4;
    let holders: Vec<Holder> =
        (0..PARTIES).map(|party| if party < persons { Holder::Last } else { Holder::Company }).collect();
    let mut left = vec![1_000_000_u32; PARTIES];
    let mut holdings = Vec::with_capacity(HOLDINGS);
    while holdings.len() < HOLDINGS {
        let asset = persons + numbers.below(PARTIES - persons);
        let owner = match numbers.below(100) {
            // Somebody after it.
            0 => asset + numbers.below(PARTIES - asset),
            1..50 => numbers.below(persons),
            _ => persons + numbers.below(asset - persons + 1),
        };
        let share = 10_000 * u32::try_from(1 + numbers.below(60)).expect("small");
        let share = share.min(left[asset]);
        if share == 0 || owner == asset {
            // As if it were one of another class that holds nothing.
            holdings.push(Holding { owner, asset, stake: Stake::exact(Share::NOTHING) });
            continue;
        }
        left[asset] -= share;
        let share = Share::from_millionths(share).expect("at most the whole");
        holdings.push(Holding { owner, asset, stake: Stake::exact(share) });
    }
    let begun = instant();
    let owned = Ownership::new(holders, holdings).expect("a sound graph");
    println!("taken in, circles found: {:.3} s", begun.elapsed().as_secs_f64());
    let begun = instant();
    let (mut behind, mut owners, mut most) = (0, 0, 0);
    for party in persons..PARTIES {
        let all = owned.owners_of(party).owners;
        behind += all.len();
        most = most.max(all.len());
        owners += all.iter().filter(|one| one.standing(Share::QUARTER) == Standing::Reaches).count();
    }
    println!(
        "owners of {} companies: {:.3} s; {behind} behind them, at most {most} behind one, {owners} with a quarter or more",
        PARTIES - persons,
        begun.elapsed().as_secs_f64()
    );
    let begun = instant();
    let listed: Vec<usize> = (0..persons).step_by(100).collect();
    let standing = owned.aggregate(&listed, Share::HALF);
    let reached = standing.iter().filter(|standing| **standing == Standing::Reaches).count();
    println!(
        "what {} listed owners hold by half: {reached} in {:.3} s",
        listed.len(),
        begun.elapsed().as_secs_f64()
    );
    let begun = instant();
    let groups = owned.control_groups(&[]);
    println!("control groups: {} in {:.3} s", groups.len(), begun.elapsed().as_secs_f64());
}
