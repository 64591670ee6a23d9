//! A witness says what it has cosigned, forgets nothing of it, and cosigns nothing that does not follow.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers are tests too; clippy sees only the functions marked so"
)]

use std::{convert::Infallible, path::Path, sync::Arc};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt;
use tower::ServiceExt;
use weighbridge_collector::witness::{Witness, WitnessError, routes};
use weighbridge_meter::UtcMillis;
use weighbridge_tlog::{
    checkpoint::{Checkpoint, cosigned_at},
    note::{KeyType, Note, Signature, VerifierKey},
    tree::Edge,
    witness::AddCheckpoint,
};
use weighbridge_wire::SigningKey;

fn log_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn signed(size: u64, first: u8) -> Note {
    let mut edge = Edge::default();
    for number in 0..size {
        let data = if number == 0 { [first; 32] } else { [9; 32] };
        let Ok(()) = edge.push(data, &mut |_, _| Ok::<_, Infallible>(()));
    }
    let checkpoint = Checkpoint { origin: "log.example".into(), size, root: edge.root() };
    checkpoint.sign(&log_key()).unwrap()
}

fn opened(folder: &Path) -> Result<Witness, WitnessError> {
    let log = VerifierKey::new("log.example", KeyType::Ed25519, log_key().verifying_key()).unwrap();
    let clock = Arc::new(|| UtcMillis(1_769_846_400_123));
    Witness::open("w.example", SigningKey::from_bytes(&[2; 32]), folder, vec![log], clock)
}

async fn ask(witness: &Arc<Witness>, body: String) -> (StatusCode, String, String) {
    let request = Request::post("/add-checkpoint").body(Body::from(body)).unwrap();
    let answer = routes(witness.clone()).oneshot(request).await.unwrap();
    let kind = answer.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
    let status = answer.status();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (status, kind, String::from_utf8(bytes.to_vec()).unwrap())
}

fn request(old: u64, note: &Note) -> String {
    AddCheckpoint { old, proof: Vec::new(), note: note.clone() }.to_string()
}

#[tokio::test]
async fn a_witness_remembers_over_a_restart_what_it_cosigned() {
    let folder = tempfile::tempdir().unwrap();
    let witness = Arc::new(opened(folder.path()).unwrap());
    let note = signed(2, 5);
    let (status, _, line) = ask(&witness, request(0, &note)).await;
    assert_eq!(status, StatusCode::OK, "{line}");
    let signature = Signature::parse(line.trim_end()).unwrap();
    let key = witness.verifier().unwrap();
    assert_eq!(cosigned_at(&note.text, &[signature], &key), Ok(Some(1_769_846_400)));
    // One process at a time, or two could cosign two histories.
    assert!(matches!(opened(folder.path()), Err(WitnessError::Lock { .. })));

    drop(witness);
    let witness = Arc::new(opened(folder.path()).unwrap());
    let (status, kind, body) = ask(&witness, request(0, &note)).await;
    assert_eq!((status, kind.as_str(), body.as_str()), (StatusCode::CONFLICT, "text/x.tlog.size", "2\n"));
    let (status, _, body) = ask(&witness, request(2, &signed(2, 6))).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    let (status, _, body) = ask(&witness, request(2, &signed(3, 6))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    let (status, _, body) = ask(&witness, request(2, &note)).await;
    assert_eq!(status, StatusCode::OK, "the same again: {body}");
}

#[tokio::test]
async fn what_is_not_a_checkpoint_of_a_known_log_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let witness = Arc::new(opened(folder.path()).unwrap());
    let forged =
        Checkpoint::parse(&signed(2, 5).text).unwrap().sign(&SigningKey::from_bytes(&[7; 32])).unwrap();
    let other = Checkpoint { origin: "other.example".into(), size: 0, root: [0; 32] };
    for (body, expected) in [
        ("garbage".into(), StatusCode::BAD_REQUEST),
        (request(9, &signed(2, 5)), StatusCode::BAD_REQUEST),
        (request(0, &forged), StatusCode::FORBIDDEN),
        (request(0, &other.sign(&log_key()).unwrap()), StatusCode::NOT_FOUND),
        ("x".repeat(100 << 10), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let (status, _, said) = ask(&witness, body).await;
        assert_eq!(status, expected, "{said}");
    }
    let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name());
    assert_eq!(files.collect::<Vec<_>>(), ["LOCK"]);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_kept_is_not_cosigned() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let witness = Arc::new(opened(&state).unwrap());
    std::fs::remove_dir_all(&state).unwrap();
    let (status, _, body) = ask(&witness, request(0, &signed(2, 5))).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    // And what it says afterwards is that it has cosigned nothing.
    let (status, _, body) = ask(&witness, request(2, &signed(2, 5))).await;
    assert_eq!((status, body.as_str()), (StatusCode::CONFLICT, "0\n"));
}
