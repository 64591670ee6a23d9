//! A report says how its agent is, and passes for nothing else.

use prost::Message;
use weighbridge_meter::{BootId, EpochId, UtcMillis};
use weighbridge_wire::{Envelope, KeyId, OpenError, Report, SigningKey, Status, limits, proto, report};

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn sample() -> Report {
    Report {
        agent: "gpu-0001".parse().expect("valid"),
        epoch: EpochId([1; 16]),
        sequence: 42,
        boot: BootId([3; 16]),
        boot_ms: 61_000,
        status: Status {
            at: UtcMillis(1_769_846_400_000),
            version: "0.1.0".into(),
            host: "gpu-0001".into(),
            source_state: "ok".into(),
            spool_bytes: 12,
            unacknowledged: 1440,
        },
    }
}

fn opened(bytes: &[u8]) -> Result<Report, OpenError> {
    report::open(&report::decode(bytes)?, &key().verifying_key())
}

fn signed(context: &[u8], report: &proto::Report) -> Vec<u8> {
    use ed25519_dalek::Signer;
    let payload = report.encode_to_vec();
    let signature = key().sign(&[context, &payload].concat()).to_bytes().to_vec();
    proto::Signed { payload, key_id: KeyId::of(&key().verifying_key()).0.to_vec(), signature }.encode_to_vec()
}

fn sample_proto() -> proto::Report {
    let envelope = proto::Signed::decode(report::seal(&sample(), &key()).as_slice()).expect("an envelope");
    proto::Report::decode(envelope.payload.as_slice()).expect("a report")
}

#[test]
fn a_report_arrives_as_it_was_sent() {
    assert_eq!(opened(&report::seal(&sample(), &key())).expect("opens"), sample());
}

#[test]
fn the_report_recorded_with_version_1_still_opens() {
    let recorded = include_bytes!("../samples/v1-report.bin");
    assert_eq!(opened(recorded).expect("opens"), sample());
}

#[test]
fn a_report_is_no_batch_and_a_batch_is_no_report() {
    let report = report::seal(&sample(), &key());
    let as_batch = Envelope::decode(&report).expect("an envelope").open(&key().verifying_key());
    assert!(matches!(as_batch, Err(OpenError::BadSignature { .. })), "{as_batch:?}");
    let batch = signed(b"weighbridge-batch-v1\0", &sample_proto());
    assert!(matches!(opened(&batch), Err(OpenError::BadSignature { .. })));
}

#[test]
fn no_flipped_bit_and_no_other_key_gets_through() {
    let sealed = report::seal(&sample(), &key());
    for at in 0..sealed.len() * 8 {
        let mut altered = sealed.clone();
        altered[at / 8] ^= 1 << (at % 8);
        if let Ok(report) = opened(&altered) {
            // Only the name of the key is outside the signature.
            let envelope = proto::Signed::decode(altered.as_slice()).expect("it opened");
            assert_ne!(envelope.key_id, KeyId::of(&key().verifying_key()).0, "bit {at}");
            assert_eq!(report, sample());
        }
    }
    let other = report::seal(&sample(), &SigningKey::from_bytes(&[8; 32]));
    assert!(matches!(opened(&other), Err(OpenError::BadSignature { .. })));
}

#[test]
fn what_cannot_be_is_refused_with_place_value_and_expectation() {
    type Change = fn(&mut proto::Report);
    let cases: &[(Change, &str)] = &[
        (|r| r.agent.clear(), r#"agent: "" is not an agent id"#),
        (|r| r.epoch.clear(), "epoch: 0 is not the number of bytes in it (16)"),
        (|r| r.sequence = u64::MAX, "sequence: 18446744073709551615 is not a number from 0 to 2^63-1"),
        (|r| r.boot_id.clear(), "boot_id: 0 is not the number of bytes in it (16)"),
        (|r| r.status = None, "status"),
        (
            |r| r.status.as_mut().expect("there").at_ms = -90_000_000,
            "status.start_ms: -90000000 is not a time",
        ),
    ];
    for (change, expected) in cases {
        let mut report = sample_proto();
        change(&mut report);
        let error = opened(&signed(b"weighbridge-status-v1\0", &report)).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
    let large = vec![0; limits::REPORT_BYTES + 1];
    assert!(matches!(opened(&large), Err(OpenError::TooLarge { .. })));
}
