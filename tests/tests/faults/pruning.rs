//! Old payloads are removed, and the program dies, or is refused, at each step of that.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;
use weighbridge_meter::UtcMillis;
use weighbridge_store::{SqliteStore, UsageStore};
use weighbridge_tests::{
    agent::AgentOptions,
    collector::Collector,
    damage,
    handmade::Sender,
    machine::Device,
    oracle::Oracle,
    past,
    random::Random,
    site::{Site, Stage},
    wait,
};

use crate::{
    fail_points::{POINT, POINTS_FROM, POINTS_TO},
    rounds,
};

/// The first step of a pruning: what comes up before belongs to the start.
const FIRST: &str = "maintenance.take";

/// A collector with a ledger of hours long past, leased to a customer, whose first hour is pruned.
struct Kept {
    site: Site,
    /// Its only accelerator of then.
    accelerator: String,
    first: UtcMillis,
}

impl Kept {
    #[track_caller]
    fn new(hours: i64, agents: Vec<AgentOptions>) -> Self {
        let past = Sender::named("past");
        let first = wait::now().hour().plus(-(hours + 3) * UtcMillis::HOUR);
        let store = format!("[store]\nsegment_bytes = {}\n", past::SEGMENT_BYTES);
        let site = Site::prepared(&store, agents, |stage| {
            if let Stage::Data(data) = stage {
                past::ledger(data, &past, first, hours);
            }
        });
        site.collector.import(
            "customers",
            "customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,email,\
             telephone,access\nC-1,entity,foreign,,Example of old,,,,,,,\n",
        );
        let principal = "lease:site-1/old";
        site.collector.import(
            "principals",
            &format!("principal,customer,valid_from,valid_to\n{principal},C-1,{first},\n"),
        );
        // It ends in the middle of an hour and reaches into what stays open.
        let (start, end) = (first.plus(1_234_000), first.plus(hours * UtcMillis::HOUR - 1_234_000));
        site.collector.import(
            "leases",
            &format!("lease,host,accelerator,principal,start,end\nL-1,past,*,{principal},{start},{end}\n"),
        );
        let kept = Self { site, accelerator: past.accelerator().to_string(), first };
        let pruned = kept.collector().run(&kept.prune(1));
        assert_eq!(pruned.code, Some(0), "{pruned:?}");
        assert!(pruned.stdout.contains("segments removed"), "{pruned:?}");
        kept
    }

    fn collector(&self) -> &Collector {
        &self.site.collector
    }

    /// The command that prunes so many hours.
    fn prune(&self, hours: i64) -> [&'static str; 3] {
        let before = self.first.plus(hours * UtcMillis::HOUR).to_string();
        // A few texts, each once a test.
        ["prune", "--before", before.leak()]
    }

    /// What its accelerator did, hour by hour, as anybody is told.
    fn told(&self) -> Value {
        self.collector().settle();
        let mut usage = self.collector().get(&format!("usage?accelerator={}", self.accelerator));
        usage["rows"].take()
    }

    /// Segments of the ledger that are there.
    fn segments(&self) -> usize {
        damage::files(&self.collector().data().join("ledger"), ".seg").len()
    }

    /// Summaries that are there, with anything that a pruning left beside them.
    fn summaries(&self) -> usize {
        damage::files(&self.collector().data().join("summaries"), "").len()
    }
}

/// A digest of each table of sums of a collector that is stopped.
fn sums(data: &Path) -> Vec<(String, i64, String)> {
    let read = async {
        let store = SqliteStore::open(&data.join("usage.sqlite")).await.unwrap();
        let mut print = store.fingerprint().await.unwrap();
        store.close().await;
        print.retain(|(table, ..)| ["usage", "hour", "gap"].contains(&table.as_str()));
        print
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(read)
}

/// The steps of a pruning, and how often each comes up in it.
#[track_caller]
fn steps(kept: &Kept, prune: &[&str]) -> BTreeMap<String, u64> {
    let list = kept.site.folder().join("points");
    let listing = [(POINTS_TO, list.to_str().unwrap()), (POINTS_FROM, FIRST)];
    let listed = kept.collector().run_with(prune, &listing);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let mut steps = BTreeMap::new();
    for name in fs::read_to_string(&list).unwrap().lines() {
        *steps.entry(name.to_owned()).or_default() += 1;
    }
    for step in [
        "maintenance.take",
        "journal.write",
        "journal.sync",
        "journal.remove_segment",
        "summary.write",
        "summary.sync",
        "file.rename",
        "file.remove",
    ] {
        assert!(steps.contains_key(step), "a pruning has steps that can fail: {steps:?}");
    }
    steps
}

#[test]
fn a_pruning_that_fails_at_any_step_is_done_by_the_next_one() {
    let mut random = Random::announced();
    let mut kept = Kept::new(4, Vec::new());
    let told = kept.told();
    assert!(told.as_array().is_some_and(|rows| rows.len() > 4), "{told}");
    kept.site.collector.stop();
    let expected = sums(&kept.collector().data());
    let folders = ["data", "keys"].map(|name| kept.collector().folder().join(name));
    let copies = ["data", "keys"].map(|name| kept.site.folder().join("kept").join(name));
    folders.iter().zip(&copies).for_each(|(from, to)| damage::copy(from, to).unwrap());
    let anew = || {
        for (to, from) in folders.iter().zip(&copies) {
            fs::remove_dir_all(to).unwrap();
            damage::copy(from, to).unwrap();
        }
    };

    let all = kept.segments();
    let prune = kept.prune(3);
    let known = steps(&kept, &prune);
    let left = kept.segments();
    assert!(left + 10 < all, "{left} of {all} segments are left");

    // Every time that a step comes up in the long form; in the short one each step once, at one of its times.
    let mut plans = Vec::new();
    for (name, times) in &known {
        let each = (1..=*times).flat_map(|time| ["before", "after"].map(|moment| (moment, time)));
        let mut each: Vec<(&str, u64)> = each.collect();
        while each.len() > rounds(1, usize::MAX) {
            each.swap_remove(usize::try_from(random.within(0..each.len() as u64)).unwrap());
        }
        plans.extend(each.into_iter().map(|(moment, time)| (name, moment, time)));
    }
    let mut failed = 0;
    for (name, moment, time) in &plans {
        let action = if random.within(0..2) == 0 { "abort" } else { "error" };
        let point = format!("{name}:{moment}:{time}:{action}");
        anew();
        let ended = kept.collector().run_with(&prune, &[(POINT, &point), (POINTS_FROM, FIRST)]);
        failed += usize::from(ended.code != Some(0));
        // What is left is whole.
        let verified = kept.collector().run(&["verify"]);
        assert_eq!(verified.code, Some(0), "{point}: {verified:?}");
        // A start needs no hand, whether the sums are still there or not.
        if random.within(0..2) == 0 {
            for file in damage::files(&kept.collector().data(), "") {
                if file.to_string_lossy().contains("usage.sqlite") {
                    fs::remove_file(file).unwrap();
                }
            }
        }
        kept.site.collector.start_ready();
        assert_eq!(kept.told(), told, "{point}");
        // Pruned again, with a collector that runs or without.
        let runs = random.within(0..2) == 0;
        if !runs {
            kept.site.collector.stop();
        }
        let again = kept.collector().run(&prune);
        assert_eq!(again.code, Some(0), "{point}: {again:?}");
        if runs {
            assert_eq!(kept.told(), told, "{point}");
            kept.site.collector.stop();
        }
        assert_eq!(sums(&kept.collector().data()), expected, "{point}");
        assert_eq!((kept.segments(), kept.summaries()), (left, 1), "{point}: {again:?}");
        let verified = kept.collector().run(&["verify"]);
        assert_eq!(verified.code, Some(0), "{point}: {verified:?}");
    }
    assert!(failed + plans.len() / 4 > plans.len(), "{failed} of {} prunings failed", plans.len());
    println!("{} steps of a pruning, {failed} of {} failed: {known:?}", known.len(), plans.len());
}

#[test]
fn a_collector_that_fails_at_any_step_of_a_pruning_goes_on_under_load() {
    let mut random = Random::announced();
    let rounds = rounds(8, 60);
    let hours = 2 + i64::try_from(rounds).unwrap();
    let agents =
        (0..3).map(|index| AgentOptions::quick(format!("host-{index}"), vec![Device::numbered(index)]));
    let mut kept = Kept::new(hours, agents.collect());
    let told = kept.told();
    kept.site.collector.stop();
    let known: Vec<(String, u64)> = steps(&kept, &kept.prune(2)).into_iter().collect();
    kept.site.collector.start_ready();
    kept.site.start_agents();
    let mut oracle = Oracle::new();
    let mut died = 0;
    for hour in 3..hours {
        let (name, times) = &known[usize::try_from(random.within(0..known.len() as u64)).unwrap()];
        let moment = if random.within(0..2) == 0 { "before" } else { "after" };
        let action = if random.within(0..4) == 0 { "error" } else { "abort" };
        let point = format!("{name}:{moment}:{}:{action}", random.within(1..times + 1));
        oracle.weigh(&kept.site);
        kept.site.collector.stop();
        kept.site.collector.start_with(&[(POINT, &point), (POINTS_FROM, FIRST)]);
        kept.site.collector.ready();
        let prune = kept.prune(hour);
        let ended = kept.collector().run(&prune);
        let failed = ended.code != Some(0);
        if failed && action == "abort" {
            wait::until("it is dead", || kept.site.collector.ended().ok_or_else(|| "it runs".into()));
            died += 1;
        }
        // What agents send comes to some of these steps too: one that was not met yet must not be met later.
        if !failed || action == "abort" {
            kept.site.collector.kill();
            kept.site.collector.start();
        }
        // After an error it takes facts again by itself.
        kept.site.collector.ready();
        assert_eq!(kept.told(), told, "{point}");
        let again = kept.collector().run(&prune);
        assert_eq!(again.code, Some(0), "{point}: {again:?}");
        assert_eq!(kept.told(), told, "{point}");
    }
    oracle.judge(&mut kept.site);
    println!("{died} deaths in {} prunings", hours - 3);
}
