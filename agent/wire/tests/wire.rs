//! What is sent arrives as it was, and nothing else gets through.

use proptest::prelude::*;
use prost::Message;
use weighbridge_meter::{
    AgentId, BootId, Condition, EpochId, Evidence, Gap, GapCause, Holding, Source, Span, Tier, Trust, Use,
    UtcMillis, Window,
    features::{Feature, Features},
    window::{Counter, Counters, Coverage},
};
use weighbridge_wire::{
    Batch, DeviceRecord, Envelope, KeyId, Loss, LossCause, OpenError, SigningKey, Status, hash, limits,
    proto, seal,
};

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn span(start: i64, length: i64) -> Span {
    Span::new(UtcMillis(start), UtcMillis(start + length)).expect("not empty")
}

/// Every kind of record, every optional part once present and once not.
fn sample() -> Batch {
    let start = 1_769_846_400_000;
    let accelerator = || "GPU-5a1c0f3e-0000-4000-8000-000000000001".parse().expect("valid");
    Batch {
        agent: "gpu-0001".parse().expect("valid"),
        epoch: EpochId([1; 16]),
        sequence: 42,
        prev_hash: [2; 32],
        boot: BootId([3; 16]),
        windows: vec![
            Window {
                accelerator: accelerator(),
                span: span(start, 60_000),
                boot_start_ms: 1_000,
                source: Source::Nvml,
                tier: Tier::B,
                coverage: Coverage::Measured,
                ticks: 60,
                counters: Counters::default()
                    .with(Counter::ElapsedCycles, 118_800_000_000)
                    .with(Counter::TensorCycles, 0)
                    .with(Counter::EnergyMicrojoules, u64::MAX),
                features: Features::default(),
                uses: Vec::new(),
            },
            Window {
                accelerator: accelerator(),
                span: span(start + 60_000, 1),
                boot_start_ms: 61_000,
                source: Source::Allocation,
                tier: Tier::E,
                coverage: Coverage::Interpolated { missing_ms: 1 },
                ticks: 0,
                counters: Counters::default(),
                features: Features::default(),
                uses: Vec::new(),
            },
        ],
        gaps: vec![Gap {
            accelerator: accelerator(),
            span: span(start - 5, 5),
            boot_start_ms: 995,
            cause: GapCause::CallHung,
        }],
        holdings: vec![Holding {
            principal: "uid:gpu/1000".parse().expect("valid"),
            attempt: "uid:gpu/1000@3".parse().expect("valid"),
            accelerators: vec![accelerator(), "GPU-2".parse().expect("valid")],
            span: span(start, 86_400_000 * 400),
            evidence: Evidence::ProcessOwner,
        }],
        inventory: vec![DeviceRecord {
            accelerator: accelerator(),
            at: UtcMillis(start),
            present: true,
            host: "gpu-0001".into(),
            name: "NVIDIA H100 80GB HBM3".into(),
            pci_device: "10de:2330".into(),
            pci_address: "00000000:1A:00.0".into(),
            source: Source::Nvml,
            tier: Tier::B,
            trust: Trust::Host,
            max_sm_clock_mhz: Some(1980),
            power_limit_mw: None,
            memory_bytes: Some(85_899_345_920),
            driver: "570.1".into(),
            parent: None,
            units: None,
            sample_ms: 0,
            conditions: Vec::new(),
        }],
        status: Some(Status {
            at: UtcMillis(start),
            version: "0.1.0".into(),
            host: "gpu-0001".into(),
            source_state: "ok".into(),
            spool_bytes: 12,
            unacknowledged: 3,
        }),
        losses: Vec::new(),
    }
}

/// The same with what came later: features of windows, parts of devices, states of readings.
fn later_sample() -> Batch {
    let mut batch = sample();
    batch.windows[0].features =
        Features::default().with(Feature::TensorRhythm, -250).with(Feature::PowerSpread, i32::MAX);
    batch.windows[1].counters = Counters::default().with(Counter::InfinibandBytes, 7);
    let device = &mut batch.inventory[0];
    device.parent = Some("GPU-1".parse().expect("valid"));
    device.units = Some(16);
    device.sample_ms = 30_000;
    device.conditions = vec![Condition::StreamingOff, Condition::ClockAssumed];
    batch
}

/// The same with what came after that: batches that will not be delivered.
fn sample_with_losses() -> Batch {
    let mut batch = later_sample();
    batch.losses = vec![
        Loss { epoch: batch.epoch, first: 40, last: 41, cause: LossCause::Damaged },
        Loss { epoch: EpochId([9; 16]), first: 1, last: 1, cause: LossCause::Parked },
        Loss { epoch: EpochId([9; 16]), first: 7, last: i64::MAX.unsigned_abs(), cause: LossCause::Removed },
    ];
    batch
}

fn opened(bytes: &[u8]) -> Result<Batch, OpenError> {
    Envelope::decode(bytes)?.open(&key().verifying_key())
}

/// An envelope around any message, properly signed: only its content is wrong.
fn signed(batch: &proto::Batch) -> Vec<u8> {
    signed_payload(zstd::bulk::compress(&batch.encode_to_vec(), 3).expect("compresses"))
}

fn signed_payload(payload: Vec<u8>) -> Vec<u8> {
    use ed25519_dalek::Signer;
    let message = [b"weighbridge-batch-v1\0".as_slice(), &payload].concat();
    let signature = key().sign(&message).to_bytes().to_vec();
    let key_id = KeyId::of(&key().verifying_key()).0.to_vec();
    proto::Signed { payload, key_id, signature }.encode_to_vec()
}

fn sample_proto() -> proto::Batch {
    let batch = Batch { losses: sample_with_losses().losses, ..sample() };
    let sealed = seal::seal(&batch, &key()).expect("seals");
    let envelope = proto::Signed::decode(sealed.bytes.as_slice()).expect("an envelope");
    let plain = zstd::bulk::decompress(&envelope.payload, limits::DECODED_BYTES).expect("decompresses");
    proto::Batch::decode(plain.as_slice()).expect("a batch")
}

#[test]
fn a_batch_arrives_as_it_was_sent() {
    let sealed = seal::seal(&sample(), &key()).expect("seals");
    assert_eq!(sealed.hash, hash(&sealed.bytes));
    assert_eq!(opened(&sealed.bytes).expect("opens"), sample());
}

#[test]
fn the_batch_recorded_with_version_1_still_opens() {
    let recorded = include_bytes!("../samples/v1-all-records.bin");
    assert_eq!(opened(recorded).expect("opens"), sample());
    let later = include_bytes!("../samples/v1-features.bin");
    assert_eq!(opened(later).expect("opens"), later_sample());
    let losses = include_bytes!("../samples/v1-losses.bin");
    assert_eq!(opened(losses).expect("opens"), sample_with_losses());
}

#[test]
fn a_batch_without_losses_is_the_same_bytes_as_before_there_were_any() {
    let recorded = include_bytes!("../samples/v1-features.bin").as_slice();
    assert_eq!(seal::seal(&later_sample(), &key()).expect("seals").bytes, recorded);
}

#[test]
fn more_losses_than_the_limit_are_refused() {
    let loss = Loss { epoch: EpochId([9; 16]), first: 1, last: 1, cause: LossCause::Removed };
    let told = |count| Batch { losses: vec![loss; count], ..sample() };
    let sealed = seal::seal(&told(limits::LOSSES), &key()).expect("seals");
    assert_eq!(opened(&sealed.bytes).expect("opens"), told(limits::LOSSES));
    let sealed = seal::seal(&told(limits::LOSSES + 1), &key()).expect("seals");
    let error = opened(&sealed.bytes).expect_err("too many").to_string();
    assert_eq!(error, "losses: 1001 is not a number of rows within the limit of 1000");
}

#[test]
fn a_condition_of_a_later_version_leaves_the_rest_of_the_record() {
    let mut batch = sample_proto();
    batch.inventory[0].conditions = vec![1, 4_000_000];
    let device = &opened(&signed(&batch)).expect("opens").inventory[0];
    assert_eq!(device.conditions, [Condition::StreamingOff]);
}

#[test]
fn features_that_are_not_announced_or_not_there_are_refused() {
    let mut batch = sample_proto();
    let windows = batch.windows.as_mut().expect("windows");
    windows.features = vec![1];
    assert!(opened(&signed(&batch)).is_err(), "a value that belongs to no window");
    let windows = batch.windows.as_mut().expect("windows");
    windows.featured = vec![3, 0];
    assert!(opened(&signed(&batch)).is_err(), "two announced, one there");
    let windows = batch.windows.as_mut().expect("windows");
    windows.featured = vec![1];
    assert!(opened(&signed(&batch)).is_err(), "a column that is too short");
    let windows = batch.windows.as_mut().expect("windows");
    windows.featured = vec![1 << 31, 0];
    assert!(opened(&signed(&batch)).is_err(), "a feature that nobody knows");
}

/// Writes the sample above; run by hand, once, when a new version begins.
#[test]
fn the_recorder_of_samples_still_works() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sample.bin");
    std::fs::write(&file, seal::seal(&sample_with_losses(), &key()).expect("seals").bytes).expect("writes");
    assert_eq!(opened(&std::fs::read(&file).expect("reads")).expect("opens"), sample_with_losses());
}

#[test]
fn no_single_flipped_bit_gets_through() {
    let sealed = seal::seal(&sample(), &key()).expect("seals").bytes;
    for index in 0..sealed.len() {
        for bit in 0..8 {
            let mut altered = sealed.clone();
            altered[index] ^= 1 << bit;
            if let Ok(batch) = opened(&altered) {
                // Only the name of the key is outside the signature; the receiver looks the key up by it.
                let envelope = proto::Signed::decode(altered.as_slice()).expect("it opened");
                assert_ne!(envelope.key_id, KeyId::of(&key().verifying_key()).0, "byte {index} bit {bit}");
                assert_eq!(batch, sample());
            }
        }
    }
}

#[test]
fn somebody_elses_key_does_not_open_it() {
    let sealed = seal::seal(&sample(), &SigningKey::from_bytes(&[8; 32])).expect("seals");
    assert!(matches!(opened(&sealed.bytes), Err(OpenError::BadSignature { .. })));
}

#[test]
fn a_signature_without_the_context_does_not_count() {
    use ed25519_dalek::Signer;
    let payload = zstd::bulk::compress(&sample_proto().encode_to_vec(), 3).expect("compresses");
    let signature = key().sign(&payload).to_bytes().to_vec();
    let key_id = KeyId::of(&key().verifying_key()).0.to_vec();
    let bytes = proto::Signed { payload, key_id, signature }.encode_to_vec();
    assert!(matches!(opened(&bytes), Err(OpenError::BadSignature { .. })));
}

#[test]
fn a_small_payload_that_swells_beyond_the_limit_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; limits::DECODED_BYTES + 1], 19).expect("compresses");
    assert!(bomb.len() < 10_000);
    assert!(matches!(opened(&signed_payload(bomb)), Err(OpenError::Decompress(_))));
}

#[test]
fn an_envelope_over_the_limit_is_refused_before_it_is_parsed() {
    let large = vec![0; limits::ENCODED_BYTES + 1];
    assert!(matches!(opened(&large), Err(OpenError::TooLarge { .. })));
}

#[test]
fn what_cannot_be_is_refused_with_place_value_and_expectation() {
    type Change = fn(&mut proto::Batch);
    let cases: &[(Change, &str)] = &[
        (|b| b.agent = "two words".into(), r#"agent: "two words" is not an agent id"#),
        (|b| b.epoch.truncate(3), "epoch: 3 is not the number of bytes in it (16)"),
        (|b| b.sequence = 0, "sequence: 0 is not a number from 1 to 2^63-1"),
        (|b| b.names.truncate(1), "holdings[0].principal: 1 is not an index into names"),
        (|b| b.windows.as_mut().expect("w").tier[1] = 9, "windows[1].tier: 9 is not a known tier"),
        (
            |b| b.windows.as_mut().expect("w").ticks.truncate(1),
            "windows.ticks: 1 is not as long as the other columns of its table",
        ),
        (
            |b| b.windows.as_mut().expect("w").length_ms[0] = 0,
            "windows[0].length_ms: 0 is not a length from 1 ms to a day",
        ),
        (
            |b| b.windows.as_mut().expect("w").missing_ms[1] = 2,
            "windows[1].missing_ms: 2 is not at most the length of the window",
        ),
        (
            |b| b.windows.as_mut().expect("w").start_ms[0] = i64::MIN,
            "windows[0].start_ms: -9223372036854775808 is not a time from the year 1970 to 2199",
        ),
        (
            |b| b.windows.as_mut().expect("w").known[0] = 1 << 20,
            "windows[0].known: 1048576 is not a set of counters that this version knows",
        ),
        (|b| b.windows.as_mut().expect("w").counters.push(1), "there are more values than known counters"),
        (
            |b| b.windows.as_mut().expect("w").used = vec![1],
            "windows.used: 1 is not as long as the other columns",
        ),
        (
            |b| b.windows.as_mut().expect("w").use_attempt.push(0),
            "windows.use_busy_us: 0 is not as long as the other columns",
        ),
        (|b| used(b, 0, 1), "windows.use_attempt: 1 is not as many as the windows say"),
        (|b| used(b, 65, 65), "windows[0].used: 65 is not at most 64 holders of one accelerator"),
        (|b| used(b, 2, 2), "is not an attempt that was not told of before"),
        (
            |b| b.gaps.as_mut().expect("g").cause[0] = 10,
            "gaps[0].cause: 10 is not a cause that an agent can know",
        ),
        (|b| b.holdings[0].evidence = 1, "holdings[0].evidence: 1 is not evidence that an agent can have"),
        (|b| b.inventory[0].host = "a\nb".into(), "inventory[0].host"),
        (|b| b.losses[0].epoch.clear(), "losses[0].epoch: 0 is not the number of bytes in it (16)"),
        (|b| b.losses[0].first = 0, "losses[0].first: 0 is not a number from 1 to 2^63-1"),
        (|b| b.losses[2].last = u64::MAX, "losses[2].last: 18446744073709551615 is not a number from 1"),
        (|b| b.losses[2].last = 6, "losses[2].last: 6 is not a number not before the first"),
        (|b| b.losses[1].cause = 0, "losses[1].cause: 0 is not a known cause"),
        (|b| b.losses[1].cause = 4, "losses[1].cause: 4 is not a known cause"),
    ];
    for (change, expected) in cases {
        let mut batch = sample_proto();
        change(&mut batch);
        let error = opened(&signed(&batch)).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
}

/// The first window tells of so many uses, and there are so many of the first name.
fn used(batch: &mut proto::Batch, says: u32, are: usize) {
    let windows = batch.windows.as_mut().expect("windows");
    windows.used = vec![0; windows.accelerator.len()];
    windows.used[0] = says;
    windows.use_attempt = vec![0; are];
    windows.use_busy_us = vec![5; are];
}

fn any_window() -> impl Strategy<Value = Window> {
    (
        0_usize..3,
        946_684_800_000_i64..4_000_000_000_000,
        1_u64..86_400_000,
        0_u64..1 << 40,
        0_usize..Source::ALL.len(),
        0_usize..5,
        any::<u32>(),
        proptest::collection::vec(proptest::option::of(any::<u64>()), Counters::LEN),
        proptest::collection::vec(proptest::option::of(any::<i32>()), Features::LEN),
        proptest::collection::btree_map("slurm:c/[1-9]{1,3}", any::<u64>(), 0..4),
    )
        .prop_map(
            |(accelerator, start, length, boot_start_ms, source, tier, ticks, values, shape, uses)| Window {
                accelerator: ["GPU-a", "GPU-b", "pci:h/0000:1a:00.0"][accelerator].parse().expect("valid"),
                span: span(start, length.cast_signed()),
                boot_start_ms,
                source: Source::ALL[source],
                tier: Tier::ALL[tier],
                coverage: if ticks % 2 == 0 {
                    Coverage::Measured
                } else {
                    Coverage::Interpolated { missing_ms: 1 + u64::from(ticks) % length }
                },
                ticks,
                counters: Counter::ALL.iter().zip(values).fold(
                    Counters::default(),
                    |counters, (&c, value)| match value {
                        Some(value) => counters.with(c, value),
                        None => counters,
                    },
                ),
                features: Feature::ALL.iter().zip(shape).fold(
                    Features::default(),
                    |features, (&f, value)| match value {
                        Some(value) => features.with(f, value),
                        None => features,
                    },
                ),
                uses: uses
                    .into_iter()
                    .map(|(attempt, busy_us)| Use { attempt: attempt.parse().expect("valid"), busy_us })
                    .collect(),
            },
        )
}

fn any_loss() -> impl Strategy<Value = Loss> {
    (any::<[u8; 16]>(), 1..=i64::MAX.unsigned_abs(), any::<u64>(), 0..LossCause::ALL.len()).prop_map(
        |(epoch, first, length, cause)| Loss {
            epoch: EpochId(epoch),
            first,
            last: first + length % (i64::MAX.unsigned_abs() - first + 1),
            cause: LossCause::ALL[cause],
        },
    )
}

proptest! {
    #[test]
    fn any_losses_arrive_as_they_were_sent(losses in proptest::collection::vec(any_loss(), 0..40)) {
        let batch = Batch { losses, ..sample() };
        let sealed = seal::seal(&batch, &key()).expect("seals");
        prop_assert_eq!(opened(&sealed.bytes).expect("opens"), batch);
    }

    #[test]
    fn any_windows_arrive_as_they_were_sent(windows in proptest::collection::vec(any_window(), 0..40)) {
        let batch = Batch { windows, ..sample() };
        let sealed = seal::seal(&batch, &key()).expect("seals");
        prop_assert_eq!(opened(&sealed.bytes).expect("opens"), batch);
    }

    #[test]
    fn random_bytes_are_refused_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(opened(&bytes).is_err());
        // The same behind a valid signature: as a payload, and as what is compressed in it.
        prop_assert!(opened(&signed_payload(bytes.clone())).is_err());
        let compressed = zstd::bulk::compress(&bytes, 1).expect("compresses");
        let _ = opened(&signed_payload(compressed));
    }
}

#[test]
fn an_agent_id_of_another_script_is_refused() {
    assert!("gpu-é".parse::<AgentId>().is_err());
}
