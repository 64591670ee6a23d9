//! How far an agent is believed at most: whatever it says of itself, by whom it was enrolled as.

use weighbridge_meter::{Source, Tier, Trust};
use weighbridge_store::{Fact, Filter, SqliteStore, UsageStore, entry::AgentFact};
use weighbridge_wire::{Batch, DeviceRecord};

use crate::support::{Book, at, batch, device, enrolled, minutes, window};

fn enrolled_as(number: u8, max_trust: Trust) -> Fact {
    match enrolled(number) {
        Fact::Agent(fact) => Fact::Agent(AgentFact { max_trust, ..fact }),
        other => other,
    }
}

/// An hour by agent 0 on the host.
fn host() -> Batch {
    let mut sent = batch(0, 1);
    sent.inventory.push(device(0, 0, at(0)));
    sent.windows.extend((0..60).map(|minute| window(0, minutes(minute, minute + 1), 20)));
    sent
}

/// The same hour by agent 1, which says that it is the management controller, and much more.
fn claims() -> Batch {
    let mut sent = batch(1, 1);
    let record = DeviceRecord { source: Source::Redfish, trust: Trust::Bmc, ..device(0, 0, at(0)) };
    sent.inventory.push(DeviceRecord { tier: Tier::A, ..record });
    sent.windows.extend((0..60).map(|minute| window(0, minutes(minute, minute + 1), 900)));
    sent
}

enum Step {
    Fact(Fact),
    Batch(Batch),
}

async fn folded(steps: Vec<Step>) -> std::sync::Arc<SqliteStore> {
    let mut book = Book::new(1 << 20);
    for step in &steps {
        match step {
            Step::Fact(fact) => book.fact(fact.clone()),
            Step::Batch(batch) => book.batch(batch),
        }
    }
    book.folded().await
}

async fn best(store: &SqliteStore) -> u64 {
    let sums = store.sums(&Filter::default()).await.unwrap();
    sums.iter().map(|usage| usage.sums.bound.best().tera()).sum()
}

fn facts(ceiling: Trust) -> Vec<Step> {
    vec![Step::Fact(enrolled_as(0, Trust::Host)), Step::Fact(enrolled_as(1, ceiling))]
}

#[tokio::test]
async fn a_guest_that_claims_to_be_a_management_controller_does_not_win_over_the_host() {
    let of = async |ceiling, batches: Vec<Step>| {
        let store = folded(facts(ceiling).into_iter().chain(batches).collect()).await;
        best(&store).await
    };
    let host_alone = of(Trust::Guest, vec![Step::Batch(host())]).await;
    let claim_alone = of(Trust::Bmc, vec![Step::Batch(claims())]).await;
    assert!(claim_alone > 10 * host_alone, "{claim_alone}, {host_alone}");
    for both in [[host(), claims()], [claims(), host()]] {
        let both = || both.iter().cloned().map(Step::Batch).collect::<Vec<_>>();
        assert_eq!(of(Trust::Guest, both()).await, host_alone, "as a guest it is a witness");
        assert_eq!(of(Trust::Bmc, both()).await, claim_alone, "who is a controller counts");
    }
}

#[tokio::test]
async fn another_word_on_how_far_an_agent_is_believed_changes_the_past_too_wherever_it_comes() {
    let batches = || [Step::Batch(host()), Step::Batch(claims())];
    let first = folded(facts(Trust::Guest).into_iter().chain(batches()).collect()).await;
    let mut raised: Vec<Step> = facts(Trust::Guest).into_iter().chain(batches()).collect();
    raised.push(Step::Fact(enrolled_as(1, Trust::Bmc)));
    let raised = folded(raised).await;
    let always = folded(facts(Trust::Bmc).into_iter().chain(batches()).collect()).await;
    assert_ne!(best(&first).await, best(&raised).await);
    let sums = async |store: &SqliteStore| store.sums(&Filter::default()).await.unwrap();
    assert_eq!(sums(&raised).await, sums(&always).await);
    let mut lowered: Vec<Step> = facts(Trust::Bmc).into_iter().chain(batches()).collect();
    lowered.push(Step::Fact(enrolled_as(1, Trust::Guest)));
    let lowered = folded(lowered).await;
    assert_eq!(sums(&lowered).await, sums(&first).await);
}

#[test]
fn what_was_recorded_before_there_was_a_limit_means_host_and_is_written_as_it_was() {
    let old = r#"{"fact":"agent","agent":"a","host":"h","site":"s","fabric":"f","public_key":"k","valid_from":"2026-01-31T08:00:00Z","valid_to":null}"#;
    let fact: Fact = serde_json::from_str(old).unwrap();
    let Fact::Agent(agent) = &fact else { panic!("{fact:?}") };
    assert_eq!((agent.max_trust, agent.valid_from), (Trust::Host, at(0)));
    assert_eq!(serde_json::to_string(&fact).unwrap(), old);
    let guest = Fact::Agent(AgentFact { max_trust: Trust::Guest, ..agent.clone() });
    let text = serde_json::to_string(&guest).unwrap();
    assert!(text.ends_with(r#""max_trust":"guest"}"#), "{text}");
}
