//! Random facts: few agents, few accelerators, three hours, so that everything meets everything.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weighbridge_meter::{
    AcceleratorId, BootId, EpochId, Evidence, Gap, GapCause, Holding, Span, Tier, Trust, Use, UtcMillis,
    Window,
    window::{Counter, Counters, Coverage},
};
use weighbridge_store::{
    Fact,
    entry::{JobFact, MappingFact, Selector},
    hour::Spans,
};
use weighbridge_wire::{DeviceRecord, Status};

use crate::support::{Book, H100, agent, at, batch, device, enrolled_as, gpu, lease, minutes, record};

pub(crate) const PRINCIPALS: [&str; 3] = ["lease:site/a", "uid:gpu/1000", "slurm:c/b"];

/// One entry of the ledger.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Batch {
        agent: u8,
        epoch: u8,
        parts: Vec<Part>,
    },
    Lease {
        name: u8,
        host: u8,
        selector: Selector,
        principal: usize,
        start: i64,
        length: i64,
    },
    Offset {
        agent: u8,
        minutes: i64,
    },
    /// How far an agent is believed, and on which host it is.
    Agent {
        agent: u8,
        trust: Trust,
        host: u8,
    },
    Mapping,
    Job(Box<JobFact>),
    Record(u8),
    /// Closes so many hours after the start.
    Close(i64),
}

/// One record of a batch.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Window(Box<Window>),
    Gap(Gap),
    Holding(Holding),
    Device(DeviceRecord),
    Status,
}

/// Starts and ends that often coincide, with each other and with hours, and sometimes miss by a little.
pub(crate) fn any_span() -> impl Strategy<Value = Span> {
    let start = (0_i64..36, prop::sample::select(vec![0_i64, 0, 1, 137]));
    let length = (1_i64..18, prop::sample::select(vec![0_i64, 0, 1, 29]));
    (start, length).prop_map(|((start, late), (length, early))| {
        let start = start * 300_000 + late;
        Span::new(at(start), at(start + length * 300_000 - early)).expect("not empty")
    })
}

fn any_gpu() -> impl Strategy<Value = AcceleratorId> {
    (0_u8..3).prop_map(gpu)
}

pub(crate) fn any_window() -> impl Strategy<Value = Part> {
    let missing = prop::option::of(0_u64..=1000);
    (any_gpu(), any_span(), 0_u64..=1000, 0_usize..5, missing, any_uses()).prop_map(
        |(accelerator, span, activity, tier, missing, uses)| {
            let busy = Counters::default().with(Counter::BusyMicros, span.millis() * activity);
            let counters = match tier {
                0..3 => busy.with(Counter::TensorCycles, span.millis() * 1980 * activity),
                3 => busy.with(Counter::EnergyMicrojoules, span.millis() * activity * 700),
                _ => Counters::default(),
            };
            let missing_ms = missing.map(|missing| span.millis() * missing / 1000).filter(|ms| *ms > 0);
            Part::Window(Box::new(Window {
                accelerator,
                span,
                boot_start_ms: 1,
                source: weighbridge_meter::Source::Nvml,
                tier: Tier::ALL[tier],
                coverage: missing_ms
                    .map_or(Coverage::Measured, |missing_ms| Coverage::Interpolated { missing_ms }),
                ticks: 60,
                counters,
                features: Default::default(),
                uses,
            }))
        },
    )
}

/// What a driver may say of each of several holders.
fn any_uses() -> impl Strategy<Value = Vec<Use>> {
    let busy =
        proptest::collection::vec(prop_oneof![Just(0), 0_u64..3_600_000_000, Just(u64::MAX)], ATTEMPTS.len());
    let attempts = prop::sample::subsequence(ATTEMPTS.to_vec(), 0..=ATTEMPTS.len());
    let told = (attempts, busy).prop_map(|(attempts, busy)| {
        let told = attempts.into_iter().zip(busy);
        told.map(|(attempt, busy_us)| Use { attempt: attempt.parse().expect("valid"), busy_us }).collect()
    });
    prop_oneof![3 => Just(Vec::new()), 1 => told]
}

pub(crate) fn any_gap() -> impl Strategy<Value = Part> {
    let cause = prop::sample::select(vec![GapCause::DeviceLost, GapCause::CallHung, GapCause::AgentStalled]);
    (any_gpu(), any_span(), cause)
        .prop_map(|(accelerator, span, cause)| Part::Gap(Gap { accelerator, span, boot_start_ms: 1, cause }))
}

/// As often as not longer than what is found by its start alone.
fn any_held_span() -> impl Strategy<Value = Span> {
    let long = (any_span(), 0_i64..10).prop_map(|(span, hours)| {
        Span::new(span.start().plus(-hours * UtcMillis::HOUR), span.end()).expect("longer")
    });
    prop_oneof![3 => any_span(), 1 => long]
}

pub(crate) fn any_holding() -> impl Strategy<Value = Part> {
    let evidence = prop::sample::select(vec![Evidence::ProcessOwner, Evidence::LeaseFile]);
    let accelerators = prop::sample::subsequence((0..3).map(gpu).collect::<Vec<_>>(), 1..=3);
    (0..PRINCIPALS.len(), 0_u8..2, accelerators, any_held_span(), evidence).prop_map(
        |(principal, attempt, accelerators, span, evidence)| {
            Part::Holding(Holding {
                principal: PRINCIPALS[principal].parse().expect("valid"),
                attempt: format!("try-{attempt}").parse().expect("valid"),
                accelerators,
                span,
                evidence,
            })
        },
    )
}

pub(crate) fn any_device() -> impl Strategy<Value = Part> {
    let what = prop::sample::select(vec![H100, ("NVIDIA A100-SXM4-80GB", "10de:20b2"), ("Odd", "ffff:0001")]);
    let rank = (0..Trust::ALL.len(), 0_usize..5);
    (0_u8..3, 0_u8..3, 0_i64..180, prop::bool::weighted(0.9), what, rank).prop_map(
        |(number, host, minute, present, (name, pci_device), (trust, tier))| {
            Part::Device(DeviceRecord {
                present,
                name: name.into(),
                pci_device: pci_device.into(),
                trust: Trust::ALL[trust],
                tier: Tier::ALL[tier],
                ..device(number, host, at(minute * UtcMillis::MINUTE))
            })
        },
    )
}

pub(crate) fn batch_of(part: impl Strategy<Value = Part>) -> impl Strategy<Value = Step> {
    (0_u8..3, 0_u8..2, prop::collection::vec(part, 1..4)).prop_map(|(agent, epoch, parts)| Step::Batch {
        agent,
        epoch,
        parts,
    })
}

pub(crate) fn any_lease() -> impl Strategy<Value = Step> {
    let selector = prop_oneof![
        Just(Selector::All),
        (0_u8..3).prop_map(|number| Selector::Accelerator(gpu(number))),
        Just(Selector::Count { count: 2, pci_device: H100.1.to_uppercase() }),
    ];
    // Of no length: withdrawn.
    let span = prop_oneof![9 => any_span(), 1 => Just(minutes(0, 1))];
    (0_u8..2, 0_u8..3, selector, 0..PRINCIPALS.len(), span).prop_map(
        |(name, host, selector, principal, span)| {
            let length = if span == minutes(0, 1) { 0 } else { span.millis().cast_signed() };
            Step::Lease { name, host, selector, principal, start: span.start().since(at(0)), length }
        },
    )
}

/// Attempts of two jobs, of which one was started twice and once has a name of its own too.
const ATTEMPTS: [&str; 4] = ["slurm:c/7", "slurm:c/7+1", "slurm:c/s1", "slurm:c/8"];

/// Two accounts, and that it is not known.
const ACCOUNTS: [&str; 3] = ["slurm:c/a", "slurm:c/b", "slurm:c/%3F"];

/// What an agent saw of a job.
pub(crate) fn any_job_seen() -> impl Strategy<Value = Part> {
    let evidence = prop::sample::select(vec![Evidence::SchedulerHook, Evidence::AllocatorProcess]);
    let accelerators = prop::sample::subsequence((0..3).map(gpu).collect::<Vec<_>>(), 1..=3);
    (0..ACCOUNTS.len(), 0..ATTEMPTS.len(), accelerators, any_held_span(), evidence).prop_map(
        |(account, attempt, accelerators, span, evidence)| {
            Part::Holding(Holding {
                principal: ACCOUNTS[account].parse().expect("valid"),
                attempt: ATTEMPTS[attempt].parse().expect("valid"),
                accelerators,
                span,
                evidence,
            })
        },
    )
}

/// What a scheduler keeps of a start of a job.
pub(crate) fn any_job() -> impl Strategy<Value = JobFact> {
    let (number, restart) = (7_u8..9, prop::option::weighted(0.3, 0_u32..2));
    (number, 0_i64..4, 0..ACCOUNTS.len(), any_held_span(), prop::bool::weighted(0.8), restart, any::<bool>())
        .prop_map(|(number, submitted, account, span, over, restart, named)| JobFact {
            job: format!("slurm:c/{number}").parse().expect("valid"),
            submitted: at(submitted),
            name: (named && number == 7).then(|| "slurm:c/s1".parse().expect("valid")),
            principal: ACCOUNTS[account].parse().expect("valid"),
            started: span.start(),
            ended: over.then(|| span.end()),
            state: "COMPLETED".into(),
            nodes: "n1".into(),
            accelerators: 1,
            // One kind has whole devices, the other parts of them.
            shares: (account > 0).then_some(u64::from(number) * 3),
            restart,
            record: None,
            uid: Some(1000),
            array: None,
            hints: BTreeMap::new(),
        })
}

/// Any entry at all.
pub(crate) fn any_step() -> impl Strategy<Value = Step> {
    let part = prop_oneof![
        6 => any_window(), 1 => any_gap(), 2 => any_holding(), 1 => any_job_seen(), 2 => any_device(),
        1 => Just(Part::Status)
    ];
    prop_oneof![
        8 => batch_of(part),
        3 => any_lease(),
        2 => any_job().prop_map(|job| Step::Job(Box::new(job))),
        1 => (0_u8..3, -300_i64..300).prop_map(|(agent, minutes)| Step::Offset { agent, minutes }),
        1 => (0_u8..3, prop::sample::select(Trust::ALL.to_vec()), 0_u8..3)
            .prop_map(|(agent, trust, host)| Step::Agent { agent, trust, host }),
        1 => Just(Step::Mapping),
        1 => any::<u8>().prop_map(Step::Record),
    ]
}

/// Writes them down. With `swapped`, batches of an agent lie in the ledger in another order than it made them.
pub(crate) fn written(steps: &[Step], swapped: bool, segment_bytes: u64) -> Book {
    let mut book = Book::enrolled(segment_bytes);
    let mut counts: BTreeMap<(u8, u8), u64> = BTreeMap::new();
    let mut totals: BTreeMap<(u8, u8), u64> = BTreeMap::new();
    for step in steps {
        if let Step::Batch { agent, epoch, .. } = step {
            *totals.entry((*agent, *epoch)).or_default() += 1;
        }
    }
    for step in steps {
        match step {
            Step::Batch { agent, epoch, parts } => {
                let count = counts.entry((*agent, *epoch)).or_default();
                let place =
                    if swapped && (*count ^ 1) < totals[&(*agent, *epoch)] { *count ^ 1 } else { *count };
                *count += 1;
                let mut sent = batch(*agent, place + 1);
                sent.epoch = EpochId([*epoch; 16]);
                for part in parts.iter().cloned() {
                    match part {
                        Part::Window(window) => sent.windows.push(*window),
                        Part::Gap(gap) => sent.gaps.push(gap),
                        Part::Holding(holding) => sent.holdings.push(holding),
                        Part::Device(device) => sent.inventory.push(device),
                        Part::Status => {
                            sent.status = Some(Status {
                                at: at(0),
                                version: "1".into(),
                                host: "host".into(),
                                source_state: "ok".into(),
                                spool_bytes: 1,
                                unacknowledged: 2,
                            });
                        }
                    }
                }
                book.batch(&sent);
            }
            Step::Lease { name, host, selector, principal, start, length } => {
                let mut fact = lease(
                    &format!("lease-{name}"),
                    *host,
                    selector.clone(),
                    PRINCIPALS[*principal],
                    minutes(0, 1),
                );
                (fact.start, fact.end) = (at(*start), at(*start + *length));
                book.fact(Fact::Lease(fact));
            }
            Step::Offset { agent: number, minutes } => {
                book.fact(Fact::ClockOffset {
                    agent: agent(*number),
                    boot: BootId([9; 16]),
                    minutes: *minutes,
                });
            }
            Step::Agent { agent, trust, host } => book.fact(enrolled_as(*agent, *trust, *host)),
            Step::Mapping => book.fact(Fact::Mapping(MappingFact {
                principal: PRINCIPALS[0].parse().expect("valid"),
                customer: "customer".into(),
                valid_from: at(0),
                valid_to: None,
            })),
            Step::Job(job) => book.fact(Fact::Job((**job).clone())),
            Step::Close(hours) => book.fact(weighbridge_store::closed::fact(at(*hours * UtcMillis::HOUR))),
            Step::Record(key) => book.fact(record(&key.to_string(), serde_json::json!({ "key": key }))),
        }
    }
    book
}

/// What the windows of these steps cover, by their corrected clocks: told without a fold.
pub(crate) fn covered(steps: &[Step]) -> BTreeMap<AcceleratorId, Spans> {
    let mut covered: BTreeMap<AcceleratorId, Spans> = BTreeMap::new();
    let mut offsets: BTreeMap<u8, i64> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Offset { agent, minutes } => drop(offsets.insert(*agent, *minutes)),
            Step::Batch { agent, parts, .. } => {
                let shift = offsets.get(agent).copied().unwrap_or_default() * UtcMillis::MINUTE;
                for part in parts {
                    let Part::Window(window) = part else { continue };
                    let (start, end) = (window.span.start().plus(shift), window.span.end().plus(shift));
                    let spans = covered.entry(window.accelerator.clone()).or_default();
                    spans.insert(Span::new(start, end).expect("as long as before"));
                }
            }
            _ => {}
        }
    }
    covered
}
