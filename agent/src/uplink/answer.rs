//! What an answer of a collector means. Pure: status, one header and body in, decision out.

use std::{fmt, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use weighbridge_meter::hex;
use weighbridge_wire::Hash;

use crate::spool::Missing;

/// What to do with the batch that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The collector has it, durably.
    Acknowledged(Acknowledged),
    /// It will never take it.
    Refused(Refusal),
    /// It does not take the key that the batch was sealed with, or not for this batch.
    KeyRefused(KeyTrouble, Refusal),
    /// Send it again later.
    Retry(Retry),
}

/// What the collector says about a batch that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// It had it before.
    pub duplicate: bool,
    /// Which store has it.
    pub generation: String,
    /// Its signed word that it has it, if it gave one.
    pub promise: Option<Value>,
    /// What it has not got, and asks for.
    pub missing: Vec<Missing>,
}

/// A refusal that no repetition changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400, 409, 413, 415 or 422; 403 for its key.
    pub status: u16,
    /// The beginning of what was said.
    pub body: String,
}

impl Refusal {
    /// Something else is stored under this epoch and sequence number.
    pub fn is_conflict(&self) -> bool {
        self.status == 409
    }
}

/// Why a collector does not take the key of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyTrouble {
    /// It belongs to no agent that is enrolled now.
    Unknown,
    /// The batch was not signed with the key that it names.
    BadSignature,
    /// It belongs to another agent than the one in the batch.
    SomebodyElses,
}

impl KeyTrouble {
    /// By the title of the problem. Wire format.
    fn titled(title: &str) -> Option<Self> {
        match title {
            "unknown key" => Some(Self::Unknown),
            "bad signature" => Some(Self::BadSignature),
            "somebody else's key" => Some(Self::SomebodyElses),
            _ => None,
        }
    }
}

/// A failure that may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No connection, or no whole answer in time.
    Unreachable(String),
    /// The collector does not know our key (403): somebody has to enrol this agent.
    NotEnrolled,
    /// The collector's operator shut this agent out (403).
    Denied(String),
    /// There is no certificate to connect with yet.
    NoCertificate(String),
    /// The collector does not take our certificate: it has to be renewed, or this agent enrolled anew.
    CertificateRefused(String),
    /// What answers is not under one of the authorities that we believe, or its time is over by our clock.
    Untrusted(String),
    /// Busy, or not working.
    Later {
        /// 429, 503 or another error of the server.
        status: u16,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
    /// Sent elsewhere, which an agent never goes: the address in its configuration is wrong.
    Redirected {
        /// 300 to 399.
        status: u16,
    },
    /// Something answers, but no collector: the address in its configuration is wrong.
    NotACollector(String),
}

impl Retry {
    /// One word for logs and metrics.
    pub fn state(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::NotEnrolled => "not_enrolled",
            Self::Denied(_) => "denied",
            Self::NoCertificate(_) => "no_certificate",
            Self::CertificateRefused(_) => "certificate_refused",
            Self::Untrusted(_) => "untrusted",
            Self::Later { .. } => "busy",
            Self::Redirected { .. } => "redirected",
            Self::NotACollector(_) => "not_a_collector",
        }
    }

    /// Every word that [`Retry::state`] can say.
    pub const STATES: [&'static str; 9] = [
        "unreachable",
        "not_enrolled",
        "denied",
        "no_certificate",
        "certificate_refused",
        "untrusted",
        "busy",
        "redirected",
        "not_a_collector",
    ];
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "the collector cannot be reached: {why}"),
            Self::NotEnrolled => f.write_str("the collector does not know this agent's key: enrol it there"),
            Self::Denied(why) => write!(f, "the collector shuts this agent out: {why}"),
            Self::NoCertificate(why) => f.write_str(why),
            Self::CertificateRefused(why) => {
                write!(f, "the collector does not take this agent's certificate: {why}")
            }
            Self::Untrusted(why) => {
                write!(
                    f,
                    "what answers is not believed to be the collector, or this host's clock is wrong: {why}"
                )
            }
            Self::Later { status, after: None } => write!(f, "the collector answers {status}"),
            Self::Later { status, after: Some(after) } => {
                write!(f, "the collector answers {status} and asks to wait {} s", after.as_secs())
            }
            Self::Redirected { status } => {
                write!(f, "answered with a redirect ({status}), which is not followed")
            }
            Self::NotACollector(why) => write!(f, "what answers is no collector: {why}"),
        }
    }
}

#[derive(Deserialize)]
struct Acknowledgement {
    outcome: Outcome,
    batch_hash: String,
    store_generation: String,
    /// Whatever stands in these two, the batch is acknowledged.
    #[serde(default)]
    promise: Value,
    #[serde(default)]
    missing: Value,
}

/// Ranges that an acknowledgement may ask for; what it misses beyond these it asks for again.
const MOST_MISSING: usize = 16;

#[derive(Deserialize)]
struct MissingRange {
    epoch: String,
    first: u64,
    last: u64,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Accepted,
    Duplicate,
}

/// Decides. `hash` is that of the batch that was sent.
pub(super) fn answer(status: u16, retry_after: Option<&str>, body: &[u8], hash: &Hash) -> Answer {
    match status {
        200 => acknowledgement(body, hash),
        400 | 409 | 413 | 415 | 422 => Answer::Refused(Refusal { status, body: beginning(body) }),
        403 => forbidden(body),
        300..=399 => Answer::Retry(Retry::Redirected { status }),
        429 | 500..=599 => {
            let after = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
            Answer::Retry(Retry::Later { status, after })
        }
        _ => not_a_collector(format!("status {status}, {}", beginning(body))),
    }
}

/// Titles of the problems by which a collector refuses an agent rather than a batch. Wire format.
const DENIED: &str = "denied";
const CERTIFICATE: &str = "certificate expired";

fn forbidden(body: &[u8]) -> Answer {
    #[derive(Deserialize)]
    struct Problem {
        title: String,
        #[serde(default)]
        detail: String,
    }
    let Ok(Problem { title, detail }) = serde_json::from_slice(body) else {
        return Answer::Retry(Retry::NotEnrolled);
    };
    let detail = beginning(detail.as_bytes());
    match title.as_str() {
        DENIED => Answer::Retry(Retry::Denied(detail)),
        CERTIFICATE => Answer::Retry(Retry::CertificateRefused(detail)),
        title => match KeyTrouble::titled(title) {
            Some(trouble) => Answer::KeyRefused(trouble, Refusal { status: 403, body: beginning(body) }),
            None => Answer::Retry(Retry::NotEnrolled),
        },
    }
}

fn acknowledgement(body: &[u8], hash: &Hash) -> Answer {
    let parsed: Acknowledgement = match serde_json::from_slice(body) {
        Ok(parsed) => parsed,
        Err(error) => return not_a_collector(format!("{error}, {}", beginning(body))),
    };
    // What was stored must be what was sent, or we must keep it.
    if parsed.batch_hash != hex(hash) {
        return not_a_collector(format!("it acknowledges {:?}", beginning(parsed.batch_hash.as_bytes())));
    }
    let generation = parsed.store_generation;
    if generation.is_empty() || generation.len() > 128 || !generation.bytes().all(|b| b.is_ascii_graphic()) {
        return not_a_collector(format!("its store generation is {:?}", beginning(generation.as_bytes())));
    }
    Answer::Acknowledged(Acknowledged {
        duplicate: parsed.outcome == Outcome::Duplicate,
        generation,
        promise: Some(parsed.promise).filter(Value::is_object),
        missing: missing(&parsed.missing),
    })
}

fn missing(list: &Value) -> Vec<Missing> {
    let ranges = list.as_array().into_iter().flatten().take(MOST_MISSING);
    let ranges = ranges.filter_map(|range| MissingRange::deserialize(range).ok());
    let ranges = ranges.filter(|range| 1 <= range.first && range.first <= range.last);
    ranges
        .filter_map(|MissingRange { epoch, first, last }| {
            let last = last.min(i64::MAX.unsigned_abs());
            Some(Missing { epoch: epoch.parse().ok()?, first, last }).filter(|_| first <= last)
        })
        .collect()
}

fn not_a_collector(why: String) -> Answer {
    Answer::Retry(Retry::NotACollector(why))
}

/// Enough to recognise it in a log, and no more: it is foreign text.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(400)]);
    text.chars().take(120).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: Hash = [0xab; 32];

    fn acknowledged(hash: &Hash, generation: &str) -> Vec<u8> {
        format!(
            r#"{{"outcome":"accepted","batch_hash":"{}","promise":{{"leaf":"x"}},"store_generation":"{generation}"}}"#,
            hex(hash)
        )
        .into_bytes()
    }

    #[test]
    fn an_acknowledgement_must_name_the_batch_that_was_sent() {
        let good = answer(200, None, &acknowledged(&HASH, "g1"), &HASH);
        let expected = Acknowledged {
            duplicate: false,
            generation: "g1".into(),
            promise: Some(serde_json::json!({ "leaf": "x" })),
            missing: Vec::new(),
        };
        assert_eq!(good, Answer::Acknowledged(expected));
        let other = answer(200, None, &acknowledged(&[0; 32], "g1"), &HASH);
        assert!(matches!(other, Answer::Retry(Retry::NotACollector(_))), "{other:?}");
    }

    #[test]
    fn what_is_missing_is_taken_as_far_as_it_makes_sense_and_the_batch_is_acknowledged_anyway() {
        let asked = |missing: &str| {
            let body = format!(
                r#"{{"outcome":"duplicate","batch_hash":"{}","store_generation":"g","promise":null,"missing":{missing}}}"#,
                hex(&HASH)
            );
            match answer(200, None, body.as_bytes(), &HASH) {
                Answer::Acknowledged(Acknowledged { duplicate: true, promise: None, missing, .. }) => missing,
                other => panic!("{other:?}"),
            }
        };
        let epoch = "0a".repeat(16);
        let range = |first, last| Missing { epoch: epoch.parse().unwrap(), first, last };
        assert_eq!(
            asked(&format!(
                r#"[{{"epoch":"{epoch}","first":3,"last":7}},{{"epoch":"{epoch}","first":9,"last":9,"new":1}}]"#
            )),
            [range(3, 7), range(9, 9)]
        );
        for nonsense in ["null", "7", "[]", r#"["x"]"#, r#"[{"epoch":"zz","first":1,"last":1}]"#] {
            assert_eq!(asked(nonsense), []);
        }
        for (first, last) in [(0, 1), (2, 1), (u64::MAX, u64::MAX)] {
            assert_eq!(asked(&format!(r#"[{{"epoch":"{epoch}","first":{first},"last":{last}}}]"#)), []);
        }
        let many = vec![format!(r#"{{"epoch":"{epoch}","first":1,"last":1}}"#); 100].join(",");
        assert_eq!(asked(&format!("[{many}]")).len(), MOST_MISSING);
    }

    #[test]
    fn a_friendly_page_is_no_acknowledgement() {
        for body in [&b"<html>welcome</html>"[..], b"", b"{}", b"\xff\xfe", br#"{"outcome":"maybe"}"#] {
            let answer = answer(200, None, body, &HASH);
            assert!(matches!(answer, Answer::Retry(Retry::NotACollector(_))), "{answer:?}");
        }
        for generation in ["", "a b"] {
            let answer = answer(200, None, &acknowledged(&HASH, generation), &HASH);
            assert!(matches!(answer, Answer::Retry(Retry::NotACollector(_))), "{answer:?}");
        }
    }

    #[test]
    fn what_repeats_and_what_is_final_is_decided_by_the_status() {
        let decide = |status| answer(status, Some("7"), b"why", &HASH);
        for status in [400, 409, 413, 415, 422] {
            assert_eq!(decide(status), Answer::Refused(Refusal { status, body: "why".into() }));
        }
        assert_eq!(decide(403), Answer::Retry(Retry::NotEnrolled));
        assert_eq!(decide(302), Answer::Retry(Retry::Redirected { status: 302 }));
        for status in [429, 500, 503] {
            let after = Some(Duration::from_secs(7));
            assert_eq!(decide(status), Answer::Retry(Retry::Later { status, after }));
        }
        for status in [204, 401, 404, 407] {
            assert!(matches!(decide(status), Answer::Retry(Retry::NotACollector(_))), "{status}");
        }
    }

    #[test]
    fn an_agent_that_is_shut_out_or_whose_certificate_is_over_is_told_from_one_that_nobody_enrolled() {
        let decide = |body: &str| answer(403, None, body.as_bytes(), &HASH);
        assert_eq!(
            decide(r#"{"title":"denied","status":403,"detail":"stolen"}"#),
            Answer::Retry(Retry::Denied("stolen".into()))
        );
        assert_eq!(
            decide(r#"{"title":"certificate expired","status":403,"detail":"yesterday"}"#),
            Answer::Retry(Retry::CertificateRefused("yesterday".into()))
        );
        for (title, trouble) in [
            ("unknown key", KeyTrouble::Unknown),
            ("bad signature", KeyTrouble::BadSignature),
            ("somebody else's key", KeyTrouble::SomebodyElses),
        ] {
            let body = format!(r#"{{"title":"{title}"}}"#);
            let refusal = Refusal { status: 403, body: body.clone() };
            assert_eq!(decide(&body), Answer::KeyRefused(trouble, refusal));
        }
        assert_eq!(decide(r#"{"title":"forbidden by a proxy"}"#), Answer::Retry(Retry::NotEnrolled));
    }

    #[test]
    fn foreign_text_in_logs_is_short_and_without_control_characters() {
        let Answer::Refused(refusal) =
            answer(400, None, &[b"\x1b[31m".as_slice(), &[b'x'; 5000]].concat(), &HASH)
        else {
            panic!("400 is final");
        };
        assert_eq!(refusal.body.chars().count(), 120);
        assert!(!refusal.body.contains('\x1b'));
    }
}
