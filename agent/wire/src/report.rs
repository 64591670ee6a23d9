//! How an agent is, said ahead of what waits in its spool.
//!
//! After a long outage the status in the oldest batch is as old as the outage. A report is small, signed for
//! this purpose alone and in no chain, so it can be sent first. It is worth nothing as evidence: whoever gets
//! it shows it to people, and believes no hole closed and no second measured by it.

use prost::Message;
use weighbridge_meter::{AgentId, BootId, EpochId};

use crate::{
    Envelope, Malformed, OpenError, SigningKey, Status, VerifyingKey,
    convert::{bad, bytes, from_status, to_status},
    limits, proto,
    seal::envelope,
};

/// What the signature is over, before the payload.
const CONTEXT: &[u8] = b"weighbridge-status-v1\0";

/// How an agent is, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose.
    pub agent: AgentId,
    /// The epoch it writes to.
    pub epoch: EpochId,
    /// Of its last batch there; 0 if there is none yet.
    pub sequence: u64,
    /// In which boot of the host it runs.
    pub boot: BootId,
    /// Milliseconds since that boot, at the time of the status.
    pub boot_ms: u64,
    /// How it is.
    pub status: Status,
}

/// Signs a report.
pub fn seal(report: &Report, key: &SigningKey) -> Vec<u8> {
    let plain = proto::Report {
        agent: report.agent.to_string(),
        epoch: report.epoch.0.to_vec(),
        sequence: report.sequence,
        boot_id: report.boot.0.to_vec(),
        boot_ms: report.boot_ms,
        status: Some(to_status(&report.status)),
    };
    envelope(CONTEXT, plain.encode_to_vec(), key)
}

/// Takes the envelope apart; nothing in it is believed yet. [`Envelope::key_id`] says whose key to take.
pub fn decode(bytes: &[u8]) -> Result<Envelope, OpenError> {
    if bytes.len() > limits::REPORT_BYTES {
        return Err(OpenError::TooLarge { bytes: bytes.len(), limit: limits::REPORT_BYTES });
    }
    Envelope::decode(bytes)
}

/// Checks the signature, then reads the report.
pub fn open(envelope: &Envelope, key: &VerifyingKey) -> Result<Report, OpenError> {
    let payload = envelope.check(CONTEXT, key)?;
    let report = proto::Report::decode(payload).map_err(OpenError::NotAReport)?;
    Ok(from_proto(report)?)
}

/// Reads whatever is given as what is in a report: for tests with bytes that nobody wrote. Must come back; what was
/// taken reads back as it is.
#[doc(hidden)]
pub fn read_anything(bytes: &[u8]) {
    drop(decode(bytes));
    let Ok(plain) = proto::Report::decode(bytes) else { return };
    let Ok(report) = from_proto(plain) else { return };
    let key = SigningKey::from_bytes(&[1; 32]);
    let again = decode(&seal(&report, &key)).and_then(|envelope| open(&envelope, &key.verifying_key()));
    // One with texts of any length is too large to be sent, and refused where it arrives.
    assert!(
        again.as_ref().is_ok_and(|again| *again == report)
            || matches!(again, Err(OpenError::TooLarge { .. })),
        "a report that was taken reads back as another"
    );
}

fn from_proto(report: proto::Report) -> Result<Report, Malformed> {
    let status = report.status.ok_or_else(|| bad("status", "nothing", "a status"))?;
    if report.sequence > i64::MAX.unsigned_abs() {
        return Err(bad("sequence", report.sequence, "a number from 0 to 2^63-1"));
    }
    Ok(Report {
        agent: report.agent.parse().map_err(|_| bad("agent", &report.agent, "an agent id"))?,
        epoch: bytes(&report.epoch, "epoch").map(EpochId)?,
        sequence: report.sequence,
        boot: bytes(&report.boot_id, "boot_id").map(BootId)?,
        boot_ms: report.boot_ms,
        status: from_status(status)?,
    })
}
