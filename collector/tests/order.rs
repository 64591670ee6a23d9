//! Whatever comes in whatever order, twice or late, the same findings stand at the end, and none that was raised moves.

#[expect(dead_code, reason = "shared with other test files")]
mod common;

use std::collections::BTreeMap;

use common::Site;
use proptest::prelude::*;
use weighbridge_casework::{Certainty, Finding};
use weighbridge_collector::import::Kind;
use weighbridge_meter::{
    Span, UtcMillis, Window,
    window::{Counter, Counters},
};
use weighbridge_wire::seal::seal;

const CUSTOMERS: &str = "\
customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,email,telephone,access
C-1,entity,foreign,,One,,,,,,,
C-2,entity,undetermined,,Two,,,,,,,
C-3,entity,us,,Three,,,,,,,
";

/// Facts that do not contradict each other, so that no order among them means anything.
const FACTS: [(Kind, &str); 6] = [
    (
        Kind::Leases,
        "lease,host,accelerator,principal,start,end\n\
         L-1,gpu-1,*,lease:site/one,2026-03-02T08:00:00Z,2026-03-02T11:00:00Z\n",
    ),
    (
        Kind::Leases,
        "lease,host,accelerator,principal,start,end\n\
         L-2,gpu-1,*,lease:site/two,2026-03-02T11:00:00Z,2026-03-02T16:00:00Z\n",
    ),
    (Kind::Principals, "principal,customer,valid_from,valid_to\nlease:site/one,C-1,2026-03-01T00:00:00Z,\n"),
    (
        Kind::Principals,
        "principal,customer,valid_from,valid_to\n\
         lease:site/two,C-2,2026-03-02T00:00:00Z,2026-03-02T13:00:00Z\n",
    ),
    (Kind::Principals, "principal,customer,valid_from,valid_to\nlease:site/two,C-1,2026-03-02T13:00:00Z,\n"),
    (Kind::Customers, CUSTOMERS),
];

/// Hours that are measured, a minute of each.
const HOURS: usize = 8;

/// What happens in one course.
#[derive(Clone, Debug)]
enum Deed {
    /// The batch of this hour arrives.
    Batch(usize),
    /// One of [`FACTS`] is told.
    Fact(usize),
    /// Everything is compared.
    Judged,
}

/// Everything at least once, some of it again, in any order, and looks at it in between.
fn course() -> impl Strategy<Value = Vec<Deed>> {
    let again = prop::collection::vec(
        prop_oneof![
            (0..HOURS).prop_map(Deed::Batch),
            (0..FACTS.len()).prop_map(Deed::Fact),
            Just(Deed::Judged),
            Just(Deed::Judged)
        ],
        0..10,
    );
    again.prop_flat_map(|again| Just(natural().into_iter().chain(again).collect::<Vec<_>>()).prop_shuffle())
}

fn natural() -> Vec<Deed> {
    let facts = (0..FACTS.len()).map(Deed::Fact);
    facts.chain((0..HOURS).map(Deed::Batch)).collect()
}

/// A minute in which the tensor pipes were busy for so many cycles.
fn window(hour: usize, busy: u64) -> Window {
    let minute = hour as i64 * 60;
    Window {
        span: Span::new(common::at(minute), common::at(minute + 1)).expect("a minute"),
        counters: Counters::default()
            .with(Counter::ElapsedCycles, 60_000_000_000)
            .with(Counter::TensorCycles, busy)
            .with(Counter::HmmaCycles, busy)
            .with(Counter::Fp32Cycles, 0)
            .with(Counter::Fp16Cycles, 0)
            .with(Counter::BusyMicros, 60_000_000),
        ..common::window(minute)
    }
}

fn batches(busy: &[u64]) -> Vec<Vec<u8>> {
    let mut before = [0; 32];
    let batch = |(hour, busy): (usize, &u64)| {
        let mut batch = common::batch(hour as u64 + 1);
        batch.prev_hash = before;
        batch.windows = vec![window(hour, *busy)];
        // The first and the last: whichever comes first says what is measured.
        if hour == 0 || hour + 1 == HOURS {
            batch.inventory = vec![common::device()];
        }
        let sealed = seal(&batch, &common::key()).expect("seals");
        before = sealed.hash;
        sealed.bytes
    };
    busy.iter().enumerate().map(batch).collect()
}

/// What stands: by rule and subject the surest finding that still holds, and when its line was passed.
type Standing = BTreeMap<(String, String), (Certainty, UtcMillis)>;

async fn judged(site: &Site, raised: &mut BTreeMap<String, Finding>) {
    site.app.settled().await;
    site.app.judge().await.expect("it judges");
    let now = site.app.casebook().findings.clone();
    for (id, finding) in raised.iter() {
        assert_eq!(now.get(id), Some(finding), "what was raised stays as it was");
    }
    *raised = now;
}

async fn follow(course: &[Deed], batches: &[Vec<u8>]) -> Standing {
    let site = Site::empty().await;
    site.import(Kind::Agents, &common::agents()).await;
    let mut raised = BTreeMap::new();
    site.sets(HOURS as i64 * 60);
    for deed in course {
        match deed {
            Deed::Batch(hour) => {
                let answer = site.submit(batches[*hour].clone()).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
            }
            // A mapping to a customer that nobody told of is refused, and comes again at the end.
            Deed::Fact(fact) => {
                let (kind, text) = FACTS[*fact];
                let _ = site.app.import(kind, "test.csv", text.as_bytes()).await;
            }
            Deed::Judged => judged(&site, &mut raised).await,
        }
    }
    for (kind, text) in FACTS.iter().rev() {
        site.import(*kind, text).await;
    }
    site.sets(HOURS as i64 * 60 + 30);
    judged(&site, &mut raised).await;
    // Once more, and nothing comes of it.
    let again = site.app.judge().await.expect("it judges");
    assert!(again.findings.is_empty() && again.opened.is_empty(), "{:?}", again.findings);

    let view = site.app.view().await.expect("it reads");
    let mut standing = Standing::new();
    for finding in raised.values() {
        let Some(met_at) = site.app.met_at_now(&view, finding).await.expect("it reads") else { continue };
        let now = (finding.certainty, met_at);
        let surest = standing.entry((finding.rule.clone(), finding.subject.to_string())).or_insert(now);
        *surest = (*surest).max(now);
    }
    standing
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn shuffled_repeated_and_late_arrivals_leave_the_same_findings(
        course in course(),
        busy in prop::collection::vec(2_000_000_000_u64..20_000_000_000, HOURS),
    ) {
        let batches = batches(&busy);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (straight, shuffled) = runtime.block_on(async {
            (follow(&natural(), &batches).await, follow(&course, &batches).await)
        });
        let of = |whose: &str| straight.get(&("small".to_owned(), whose.to_owned())).map(|(surest, _)| *surest);
        prop_assert!(of("customer:C-1").is_some(), "somebody meets the rule in every course");
        prop_assert_eq!(straight, shuffled);
    }
}

#[tokio::test]
async fn a_late_batch_moves_when_a_line_was_passed_and_not_what_was_raised() {
    let site = Site::empty().await;
    site.import(Kind::Agents, &common::agents()).await;
    site.import(Kind::Customers, CUSTOMERS).await;
    for (kind, text) in FACTS {
        site.import(kind, text).await;
    }
    let batches = batches(&[15_000_000_000; HOURS]);
    site.sets(HOURS as i64 * 60);
    let (mut raised, mut seen) = (BTreeMap::new(), Vec::new());
    for (late, batch) in batches.iter().enumerate().rev() {
        let answer = site.submit(batch.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        judged(&site, &mut raised).await;
        let view = site.app.view().await.expect("it reads");
        let certain = raised
            .values()
            .find(|one| one.certainty == Certainty::Certain && one.subject.to_string() == "customer:C-1");
        if let Some(certain) = certain {
            let now = site.app.met_at_now(&view, certain).await.expect("it reads");
            seen.push((late, certain.met_at, now.expect("it stands")));
        }
    }
    // The line was passed in the data that came first, and by all of it some hours before.
    let (first, last) = (seen.first().expect("it was raised"), seen.last().expect("it was raised"));
    assert_eq!(first.1, first.2, "{seen:?}");
    assert_eq!(first.1, last.1, "{seen:?}");
    assert!(last.2 < first.2, "{seen:?}");

    // The case shows both.
    let id = site.app.casebook().cases.keys().next().expect("a case").clone();
    let shown = site.json(&format!("/api/v1/cases/{id}")).await;
    let found = shown["findings"].as_array().expect("a list").iter().any(|one| {
        one["met_at"].is_string() && one["now"]["met_at"].is_string() && one["now"]["met_at"] != one["met_at"]
    });
    assert!(found, "{shown}");
}
