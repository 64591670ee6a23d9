//! What is forgotten of a device when it is no longer the one that it was, or was not heard.

use weighbridge_meter::{Source, reading::Activity, window::Counter};

use super::{
    super::{
        NvmlOptions, NvmlSource,
        judge::tests::{counting, hopper, instance},
    },
    *,
};

fn device() -> Device {
    Device {
        driver: Some("595.10".into()),
        ..Device::new(id(), "NVIDIA H100 80GB HBM3", Source::Nvml, Tier::B)
    }
}

fn id() -> AcceleratorId {
    "GPU-1".parse().expect("a name")
}

/// Looks of so many seconds; what the last one gave.
fn hear(
    one: &mut Tracked,
    seconds: std::ops::RangeInclusive<u64>,
    identity: Option<Identity>,
) -> DeviceState {
    let looks = seconds.map(|second| one.heard(Ok(Answer { identity, ..counting(second) })).state);
    looks.last().expect("a look at least")
}

/// With counters whose scale is known.
fn calibrated(facts: Facts, identity: Option<Identity>) -> Tracked {
    let mut one = Tracked::new(device(), facts);
    hear(&mut one, 1..=7, identity);
    assert_eq!(one.device.tier, Tier::A);
    one
}

const SMALL: Identity = Identity { gi: 9, ci: 0, sms: 132 };

/// The same to look at, but for its number.
const OTHER: Identity = Identity { gi: 9, ci: 1, sms: 132 };

#[test]
fn a_scale_that_was_found_for_one_instance_is_not_used_for_another_under_its_name() {
    let mut one = calibrated(instance(), Some(SMALL));
    let recreated = DeviceState::Missing(GapCause::InstanceRecreated);
    assert_eq!(hear(&mut one, 8..=8, Some(OTHER)), recreated);
    // Its counters did not fall, so that nothing else tells it from the one before.
    assert!(matches!(hear(&mut one, 9..=9, Some(OTHER)), DeviceState::Read(_)));
    assert_eq!((one.device.tier, &one.device.conditions[..]), (Tier::B, &[Condition::Calibrating][..]));
}

#[test]
fn a_device_that_was_split_or_got_another_driver_is_calibrated_anew() {
    let tier_after = |change: fn(&mut Tracked)| {
        let mut one = calibrated(hopper(), None);
        change(&mut one);
        hear(&mut one, 8..=8, None);
        one.device.tier
    };
    let split = |one: &mut Tracked| {
        one.set_split(true);
        one.set_split(false);
    };
    assert_eq!(tier_after(split), Tier::B);
    let other_driver = |one: &mut Tracked| {
        one.found_again(Device { driver: Some("595.20".into()), ..device() }, hopper());
    };
    assert_eq!(tier_after(other_driver), Tier::B);
    assert_eq!(tier_after(|one| one.found_again(device(), hopper())), Tier::A, "only found again");
}

#[test]
fn an_instance_that_was_removed_and_is_there_again_is_not_told_to_have_been_made_anew() {
    let mut one = calibrated(instance(), Some(SMALL));
    one.identify(OTHER);
    one.set_present(false);
    one.set_present(true);
    assert!(matches!(hear(&mut one, 8..=8, Some(OTHER)), DeviceState::Read(_)));
}

#[tokio::test]
async fn an_answer_to_a_look_that_was_given_up_is_thrown_away_and_the_one_after_it_is_a_new_base() {
    let (ask, questions) = mpsc::channel();
    let (reply, answers) = tokio::sync::mpsc::channel(2);
    let mut source = NvmlSource::start(NvmlOptions::default());
    source.devices = vec![calibrated(hopper(), None)];
    let reader = Some(Reader { ask, answers, waiting: Waiting::Now });
    source.cards = vec![Card { reader, metered: vec![0], ..Card::new(id()) }];
    // The one that nobody waited for, and the one to the next look.
    for second in [8, 9] {
        reply.try_send(Ok(vec![Ok(counting(second))])).expect("room for two");
    }
    let looks = source.read(Instant::now()).await;
    assert_eq!(questions.try_iter().count(), 1);
    let DeviceState::Read(reading) = looks[0].state else { panic!("{looks:?} is no reading") };
    // The last pair of samples began at a moment that no look told of; counters speak for all of the time.
    assert_eq!(reading.activity, Activity::default());
    assert_eq!(reading.totals.get(Counter::TensorCycles), Some(9 * 750_000_000));
}
