//! A late word on who held what changes the names of whole hours, and reads again only those it cuts.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use proptest::prelude::*;
use weighbridge_meter::{AgentId, Estimator, Evidence, Holding, Span, UtcMillis};
use weighbridge_store::{
    Applied, CoverageSum, Fact, Filter, Folded, HourlySum, Place, RecordRow, SqliteStore, StoreError,
    UsageStore, UsageSum,
    entry::{JobFact, Selector},
    follow::Follower,
    hour::{DoubtedHour, HourKey, HourRow},
    state::{CursorRow, PlaceRow, StateRow},
    witness::WitnessedHour,
};

use crate::{
    fold::wait,
    support::{Book, H100, MINUTE, ONE_SEGMENT, at, batch, device, gpu, holding, lease, minutes, window},
    world::{PRINCIPALS, Part, Step, any_job, any_step, batch_of, written},
};

const HOURS: i64 = 14;

/// Starts and ends that are often those of hours.
fn any_long_span() -> impl Strategy<Value = Span> {
    let off = || prop::sample::select(vec![0_i64, 0, 0, 1, 20 * MINUTE, 59 * MINUTE]);
    (-1..HOURS, off(), 1_i64..=HOURS, off()).prop_map(|(start, late, length, longer)| {
        let start = start * UtcMillis::HOUR + late;
        Span::new(at(start), at(start + length * UtcMillis::HOUR + longer)).expect("not empty")
    })
}

fn any_long_lease() -> impl Strategy<Value = Step> {
    let selector = prop_oneof![
        3 => Just(Selector::All),
        1 => (0_u8..3).prop_map(|number| Selector::Accelerator(gpu(number))),
        1 => (1_u32..3).prop_map(|count| Selector::Count { count, pci_device: H100.1.into() }),
    ];
    // Few names on few hosts: most are corrections. Of no length: withdrawn.
    (0_u8..2, 0_u8..2, selector, 0..PRINCIPALS.len(), any_long_span(), prop::bool::weighted(0.9)).prop_map(
        |(name, host, selector, principal, span, holds)| Step::Lease {
            name,
            host,
            selector,
            principal,
            start: span.start().since(at(0)),
            length: if holds { span.millis().cast_signed() } else { 0 },
        },
    )
}

fn any_long_holding() -> impl Strategy<Value = Part> {
    let evidence = prop::sample::select(vec![
        Evidence::LeaseFile,
        Evidence::LeaseFile,
        Evidence::SchedulerHook,
        Evidence::AllocatorProcess,
        Evidence::ProcessOwner,
    ]);
    let who = prop::sample::select(vec!["slurm:c/b", "slurm:c/%3F", "k8s:c/d", "lease:site/a"]);
    let accelerators = prop::sample::subsequence((0..3).map(gpu).collect::<Vec<_>>(), 1..=3);
    (who, 0_u8..2, accelerators, any_long_span(), evidence).prop_map(
        |(principal, attempt, accelerators, span, evidence)| {
            // Nothing is leased to nobody.
            let principal = if evidence.is_agreed() { "lease:site/a" } else { principal };
            Part::Holding(Holding {
                principal: principal.parse().expect("valid"),
                attempt: format!("slurm:c/{attempt}").parse().expect("valid"),
                accelerators,
                span,
                evidence,
            })
        },
    )
}

/// An accelerator of a host measured for many hours, used and idle by turns, with a hole now and then.
fn any_tape() -> impl Strategy<Value = Step> {
    let length = prop::sample::select(vec![20 * MINUTE, 60 * MINUTE, 60 * MINUTE, 90 * MINUTE]);
    let piece = (length, prop::sample::select(vec![0_u64, 0, 400, 900]), prop::bool::weighted(0.9));
    (0_u8..3, 0_i64..3, prop::collection::vec(piece, 6..24), prop::bool::weighted(0.8)).prop_map(
        |(number, start, pieces, named)| {
            let mut moment = start * UtcMillis::HOUR;
            let mut parts = Vec::new();
            if named {
                parts.push(Part::Device(device(number, number % 2, at(moment))));
            }
            for (length, activity, measured) in pieces {
                let span = Span::new(at(moment), at(moment + length)).expect("not empty");
                moment += length;
                if measured {
                    parts.push(Part::Window(Box::new(window(number, span, activity))));
                }
            }
            Step::Batch { agent: number, epoch: 0, parts }
        },
    )
}

/// A record of a job of which holdings speak, over a long time.
fn any_long_job() -> impl Strategy<Value = Step> {
    (any_job(), 0_u8..2, any_long_span()).prop_map(|(job, number, span)| {
        let ended = job.ended.map(|_| span.end());
        let number = format!("slurm:c/{number}").parse().expect("valid");
        Step::Job(Box::new(JobFact { job: number, name: None, started: span.start(), ended, ..job }))
    })
}

fn any_long_claim() -> impl Strategy<Value = Step> {
    prop_oneof![6 => any_long_lease(), 2 => batch_of(any_long_holding()), 1 => any_long_job()]
}

/// Sums, hours and gaps: everything but what says how it came.
async fn sums(store: &SqliteStore) -> Vec<(String, i64, String)> {
    let all = store.fingerprint().await.unwrap();
    all.into_iter().filter(|(table, ..)| ["usage", "hour", "gap"].contains(&table.as_str())).collect()
}

/// Folded in pieces that end there, by folds that make few hours anew and relabel few at once.
async fn in_pieces(
    book: &mut Book,
    pieces: &[(usize, bool)],
    (refolded, relabelled): (usize, usize),
) -> Arc<SqliteStore> {
    let live = Arc::new(SqliteStore::in_memory().await.unwrap());
    let mut follower = None;
    let mut taken = 0;
    for (length, restart) in pieces.iter().cycle() {
        taken = (taken + length).min(book.ends.len());
        if follower.is_none() || *restart {
            follower = Some(book.follower(&live).await.refolding(refolded).relabelling(relabelled));
        }
        let follower = follower.as_mut().expect("just made");
        follower.catch_up(book.ends[taken - 1]).await.unwrap();
        if taken == book.ends.len() {
            break;
        }
    }
    live
}

fn any_limits() -> impl Strategy<Value = (usize, usize)> {
    (prop::sample::select(vec![1_usize, 2, 10_000]), prop::sample::select(vec![1_usize, 12, 250_000]))
}

fn any_pieces() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((1_usize..6, any::<bool>()), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn late_corrections_of_whole_hours_give_the_integers_of_a_rebuild(
        tapes in prop::collection::vec(any_tape(), 1..4),
        steps in prop::collection::vec(prop_oneof![4 => any_long_claim(), 1 => any_tape(), 1 => any_step()], 1..16),
        pieces in any_pieces(), limits in any_limits(),
    ) {
        let steps: Vec<Step> = tapes.into_iter().chain(steps).collect();
        let mut book = written(&steps, false, 2000);
        wait(async {
            let rebuilt = book.folded().await;
            let live = in_pieces(&mut book, &pieces, limits).await;
            prop_assert_eq!(live.fingerprint().await.unwrap(), rebuilt.fingerprint().await.unwrap());
            Ok(())
        })?;
    }

    #[test]
    fn what_is_relabelled_is_what_is_summed_of_windows_that_come_after_the_claims(
        tapes in prop::collection::vec(any_tape(), 1..4),
        claims in prop::collection::vec(any_long_claim(), 1..12),
        pieces in any_pieces(), limits in any_limits(),
    ) {
        // The same devices are known to both from the beginning.
        let named = (0..3).map(|number| Step::Batch {
            agent: 3,
            epoch: 0,
            parts: vec![Part::Device(device(number, number % 2, at(0)))],
        });
        let named: Vec<Step> = named.collect();
        let before: Vec<Step> = named.iter().chain(&claims).chain(&tapes).cloned().collect();
        let after: Vec<Step> = named.iter().chain(&tapes).chain(&claims).cloned().collect();
        wait(async {
            let expected = sums(&*written(&before, false, ONE_SEGMENT).folded().await).await;
            let mut book = written(&after, false, ONE_SEGMENT);
            prop_assert_eq!(&sums(&*book.folded().await).await, &expected);
            prop_assert_eq!(&sums(&*in_pieces(&mut book, &pieces, limits).await).await, &expected);
            Ok(())
        })?;
    }

    #[test]
    fn what_a_crash_left_ahead_of_late_corrections_changes_nothing(
        tapes in prop::collection::vec(any_tape(), 1..4),
        steps in prop::collection::vec(prop_oneof![4 => any_long_claim(), 1 => any_step()], 1..12),
        (stood, ahead) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        pieces in any_pieces(), limits in any_limits(),
    ) {
        let steps: Vec<Step> = tapes.into_iter().chain(steps).collect();
        let mut book = written(&steps, false, 2000);
        wait(async {
            let whole = book.folded().await;
            let crashed = Arc::new(SqliteStore::in_memory().await.unwrap());
            let stood = stood.index(book.ends.len());
            book.follower(&crashed).await.catch_up(book.ends[stood]).await.unwrap();
            // The piece that never came ended there.
            let piece = Arc::new(SqliteStore::in_memory().await.unwrap());
            let ahead = book.ends[stood + ahead.index(book.ends.len() - stood)];
            book.follower(&piece).await.catch_up(ahead).await.unwrap();
            let keys: Vec<HourKey> = (0..3)
                .flat_map(|number| {
                    (-6..24).map(move |hour| HourKey { accelerator: gpu(number), hour: at(hour * UtcMillis::HOUR) })
                })
                .collect();
            crashed.put_hours(&piece.hours(&keys).await.unwrap()).await.unwrap();
            let (refolded, relabelled) = limits;
            let mut follower = book.follower(&crashed).await.refolding(refolded).relabelling(relabelled);
            let mut taken = stood;
            for (length, _) in pieces.iter().cycle() {
                taken = (taken + length).min(book.ends.len() - 1);
                follower.catch_up(book.ends[taken]).await.unwrap();
                if taken == book.ends.len() - 1 {
                    break;
                }
            }
            prop_assert_eq!(crashed.fingerprint().await.unwrap(), whole.fingerprint().await.unwrap());
            Ok(())
        })?;
    }

    #[test]
    fn batches_are_read_again_of_hours_that_a_lease_cuts_and_of_no_others(
        tapes in prop::collection::vec(any_tape(), 1..4),
        leases in prop::collection::vec((0..PRINCIPALS.len(), any_long_span()), 1..6), limits in any_limits(),
    ) {
        let mut book = written(&tapes, false, ONE_SEGMENT);
        let windows = book.end();
        let mut cut = std::collections::BTreeSet::new();
        for (principal, span) in &leases {
            // One lease, corrected again and again: never two at once.
            book.fact(Fact::Lease(lease("lease-1", 0, Selector::All, PRINCIPALS[*principal], *span)));
            cut.extend([span.start(), span.end()].into_iter().filter(|edge| edge.hour() != *edge).map(UtcMillis::hour));
        }
        wait(async {
            let counted = Arc::new(Counted::new().await);
            book.sync();
            let mut follower = Follower::new(book.folder(), counted.clone(), Estimator::shipped()).await.unwrap();
            follower.catch_up(windows).await.unwrap();
            counted.asked.lock().unwrap().clear();
            let (refolded, relabelled) = limits;
            let mut follower = follower.refolding(refolded).relabelling(relabelled);
            follower.catch_up(book.end()).await.unwrap();
            let asked = counted.asked.lock().unwrap().clone();
            prop_assert!(asked.iter().all(|hour| cut.contains(hour)), "{:?} of {:?}", asked, cut);
            prop_assert_eq!(counted.store.fingerprint().await.unwrap(), book.folded().await.fingerprint().await.unwrap());
            Ok(())
        })?;
    }
}

/// Two days of one accelerator, an hour idle in four.
fn two_days() -> Book {
    let mut book = Book::enrolled(ONE_SEGMENT);
    for hour in 0..48_u8 {
        let mut sent = batch(0, u64::from(hour) + 1);
        sent.inventory = vec![device(0, 0, at(0))];
        let start = i64::from(hour) * 60;
        let tensor = if hour % 4 == 3 { 0 } else { 400 };
        sent.windows = vec![
            window(0, minutes(start, start + 30), tensor),
            window(0, minutes(start + 30, start + 60), tensor),
        ];
        book.batch(&sent);
    }
    book
}

#[tokio::test]
async fn a_correction_of_a_lease_reads_the_hours_it_begins_and_ends_in_and_relabels_the_rest() {
    let mut book = two_days();
    let span = minutes(90, 40 * 60 + 20);
    let mut ends = vec![book.end()];
    for principal in ["lease:site/a", "lease:site/b"] {
        book.fact(Fact::Lease(lease("lease-1", 0, Selector::All, principal, span)));
        ends.push(book.end());
    }
    // Who holds less by rank changes nothing, and withdrawn it is nobody's again.
    let mut seen = batch(0, 49);
    seen.holdings = vec![holding("uid:gpu/1", &[0], minutes(120, 600))];
    book.batch(&seen);
    ends.push(book.end());
    let withdrawn = Span::new(span.start(), span.end()).unwrap();
    let mut withdrawn = lease("lease-1", 0, Selector::All, "lease:site/b", withdrawn);
    withdrawn.end = withdrawn.start;
    book.fact(Fact::Lease(withdrawn));
    ends.push(book.end());
    book.sync();
    let counted = Arc::new(Counted::new().await);
    let mut follower = Follower::new(book.folder(), counted.clone(), Estimator::shipped()).await.unwrap();
    follower.catch_up(ends[0]).await.unwrap();
    let edges = vec![at(UtcMillis::HOUR), at(40 * UtcMillis::HOUR)];
    for (end, asked, relabelled) in [
        (ends[1], edges.clone(), 38),
        (ends[2], edges.clone(), 38),
        (ends[3], vec![], 0),
        (ends[4], edges, 38),
    ] {
        counted.asked.lock().unwrap().clear();
        counted.relabelled.store(0, Ordering::Relaxed);
        follower.catch_up(end).await.unwrap();
        assert_eq!(*counted.asked.lock().unwrap(), asked);
        assert_eq!(counted.relabelled.load(Ordering::Relaxed), relabelled);
    }
    assert_eq!(counted.store.fingerprint().await.unwrap(), book.folded().await.fingerprint().await.unwrap());
}

#[tokio::test]
async fn a_lease_file_of_an_agent_relabels_too() {
    let mut book = two_days();
    let before = book.end();
    for (sequence, (principal, span)) in
        (49..).zip([("lease:site/a", minutes(0, 2880)), ("lease:site/a", minutes(0, 1450))])
    {
        let mut sent = batch(0, sequence);
        sent.holdings = vec![Holding { evidence: Evidence::LeaseFile, ..holding(principal, &[0], span) }];
        book.batch(&sent);
    }
    book.sync();
    let counted = Arc::new(Counted::new().await);
    let mut follower = Follower::new(book.folder(), counted.clone(), Estimator::shipped()).await.unwrap();
    follower.catch_up(before).await.unwrap();
    counted.asked.lock().unwrap().clear();
    for (place, (asked, relabelled)) in book.ends[book.ends.len() - 2..]
        .iter()
        .copied()
        .zip([(vec![], 48), (vec![at(24 * UtcMillis::HOUR)], 23)])
    {
        counted.relabelled.store(0, Ordering::Relaxed);
        follower.catch_up(place).await.unwrap();
        assert_eq!(std::mem::take(&mut *counted.asked.lock().unwrap()), asked);
        assert_eq!(counted.relabelled.load(Ordering::Relaxed), relabelled);
    }
    assert_eq!(counted.store.fingerprint().await.unwrap(), book.folded().await.fingerprint().await.unwrap());
}

#[tokio::test]
async fn a_piece_ends_after_so_many_relabelled_hours_and_the_rest_follows() {
    let mut book = two_days();
    let before = book.end();
    for host_hours in 1..=5 {
        let span = minutes(0, host_hours * 480);
        book.fact(Fact::Lease(lease("lease-1", 0, Selector::All, "lease:site/a", span)));
    }
    book.sync();
    let counted = Arc::new(Counted::new().await);
    let mut follower =
        Follower::new(book.folder(), counted.clone(), Estimator::shipped()).await.unwrap().relabelling(10);
    follower.catch_up(before).await.unwrap();
    let mut stood = Vec::new();
    follower.catch_up_telling(book.end(), |place| stood.push(place.index - before.index)).await.unwrap();
    // Each word gives it eight hours more.
    assert_eq!(stood, [2, 4, 5]);
    assert_eq!(counted.store.fingerprint().await.unwrap(), book.folded().await.fingerprint().await.unwrap());
}

#[tokio::test]
async fn an_hour_that_is_written_ahead_of_its_piece_gets_no_name_that_it_had_on_the_way() {
    let mut book = Book::enrolled(ONE_SEGMENT);
    let mut sent = batch(0, 1);
    for number in 0..2 {
        sent.inventory.push(device(number, 0, at(0)));
        sent.windows.extend((0..10).map(|hour| window(number, minutes(hour * 60, hour * 60 + 60), 400)));
    }
    book.batch(&sent);
    let leased =
        |principal, from, to| Fact::Lease(lease("lease-1", 0, Selector::All, principal, minutes(from, to)));
    book.fact(leased("lease:site/a", 0, 600));
    let before = book.end();
    book.fact(leased("lease:site/b", 0, 600));
    book.fact(leased("lease:site/a", 330, 600));
    let live = Arc::new(SqliteStore::in_memory().await.unwrap());
    // One hour at once: the first of the two that are cut is written before the relabels are.
    let mut follower = book.follower(&live).await.refolding(1);
    follower.catch_up(before).await.unwrap();
    follower.catch_up(book.end()).await.unwrap();
    assert_eq!(live.fingerprint().await.unwrap(), book.folded().await.fingerprint().await.unwrap());
    let of = |principal: &str| Filter { principal: Some(principal.parse().unwrap()), ..Filter::default() };
    let measured = |sums: Vec<UsageSum>| sums.iter().map(|sum| sum.sums.measured_ms).sum::<u64>();
    let (a, b) = (of("lease:site/a"), of("lease:site/b"));
    assert_eq!(measured(live.sums(&a).await.unwrap()), 2 * minutes(330, 600).millis());
    assert_eq!(measured(live.sums(&b).await.unwrap()), 0);
}

#[tokio::test]
async fn a_lease_over_more_claims_than_an_hour_may_have_changes_each_hour_all_the_same() {
    const DAYS: i64 = 4;
    let many = |sequence| {
        let mut sent = batch(0, sequence);
        sent.holdings = (0..DAYS * 24 * 60)
            .map(|minute| Holding {
                attempt: format!("slurm:c/{minute}").parse().unwrap(),
                evidence: Evidence::SchedulerHook,
                ..holding("slurm:c/a", &[0], minutes(minute, minute + 1))
            })
            .collect();
        sent
    };
    let measured = |sequence| {
        let mut sent = batch(0, sequence);
        sent.inventory = vec![device(0, 0, at(0))];
        sent.windows =
            (0..DAYS * 24).map(|hour| window(0, minutes(hour * 60, hour * 60 + 60), 400)).collect();
        sent
    };
    let leased = Fact::Lease(lease("lease-1", 0, Selector::All, "lease:site/a", minutes(30, DAYS * 24 * 60)));
    let mut late = Book::enrolled(ONE_SEGMENT);
    late.batch(&measured(1));
    late.batch(&many(2));
    late.fact(leased.clone());
    let mut early = Book::enrolled(ONE_SEGMENT);
    early.batch(&many(1));
    early.fact(leased);
    early.batch(&measured(2));
    let store = Arc::new(SqliteStore::in_memory().await.unwrap());
    for end in late.ends.clone() {
        late.follower(&store).await.catch_up(end).await.unwrap();
    }
    assert_eq!(sums(&store).await, sums(&*early.folded().await).await);
}

/// A store that notes of which hours batches were looked for, and how many hours got another name.
#[derive(Debug)]
struct Counted {
    store: SqliteStore,
    asked: Mutex<Vec<UtcMillis>>,
    relabelled: AtomicUsize,
}

impl Counted {
    async fn new() -> Self {
        let store = SqliteStore::in_memory().await.unwrap();
        Self { store, asked: Mutex::default(), relabelled: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl UsageStore for Counted {
    async fn apply(&self, piece: &Folded) -> Result<Applied, StoreError> {
        let relabelled = piece.relabels.iter().map(|relabel| relabel.count()).sum();
        self.relabelled.fetch_add(relabelled, Ordering::Relaxed);
        self.store.apply(piece).await
    }

    async fn places(&self, agent: &AgentId, hour: UtcMillis) -> Result<Vec<PlaceRow>, StoreError> {
        self.asked.lock().unwrap().push(hour);
        self.store.places(agent, hour).await
    }

    async fn stands(&self) -> Result<Place, StoreError> {
        self.store.stands().await
    }

    async fn put_hours(&self, hours: &[HourRow]) -> Result<(), StoreError> {
        self.store.put_hours(hours).await
    }

    async fn state(&self) -> Result<Vec<StateRow>, StoreError> {
        self.store.state().await
    }

    async fn cursors(&self) -> Result<Vec<CursorRow>, StoreError> {
        self.store.cursors().await
    }

    async fn hours(&self, keys: &[HourKey]) -> Result<Vec<HourRow>, StoreError> {
        self.store.hours(keys).await
    }

    async fn sums(&self, filter: &Filter) -> Result<Vec<UsageSum>, StoreError> {
        self.store.sums(filter).await
    }

    async fn hourly(&self, filter: &Filter) -> Result<Vec<HourlySum>, StoreError> {
        self.store.hourly(filter).await
    }

    async fn coverage(&self, filter: &Filter) -> Result<Vec<CoverageSum>, StoreError> {
        self.store.coverage(filter).await
    }

    async fn roll_up(&self, before: UtcMillis) -> Result<(), StoreError> {
        self.store.roll_up(before).await
    }

    async fn disagreements(&self, filter: &Filter) -> Result<Vec<WitnessedHour>, StoreError> {
        self.store.disagreements(filter).await
    }

    async fn doubted(&self, filter: &Filter) -> Result<Vec<DoubtedHour>, StoreError> {
        self.store.doubted(filter).await
    }

    async fn records(&self, kind: &str) -> Result<Vec<RecordRow>, StoreError> {
        self.store.records(kind).await
    }

    async fn fingerprint(&self) -> Result<Vec<(String, i64, String)>, StoreError> {
        self.store.fingerprint().await
    }
}
