//! Drafts as they were at their moment, kept so that versions can be shown beside each other.
//!
//! A draft names its customers, so it is kept under the keys of all of them: once one is erased, no draft that names it
//! opens any more, and its hash in the history of the case is what is left. What is read is compared with that hash.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use serde::{Deserialize, Serialize};
use weighbridge_casework::{Case, Report, Step, report::Changes};
use weighbridge_registry::{KeyError, PartyId, SharedRecord};
use weighbridge_store::{Fact, UsageStore};
use zeroize::Zeroizing;

use crate::{
    app::{App, record},
    casefile::CasefileError,
    judge::fact,
    parties::By,
    proof::report_hash,
    random,
};

/// The longest report that is read back, in bytes.
const LONGEST: u64 = 1 << 30;

/// A draft as the ledger has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    /// Under the keys of the customers that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<SharedRecord>,
    /// Of a report on who is no customer, which names nobody: deflated, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<String>,
}

fn what(case: &str, version: u32) -> String {
    format!("draft {version} of {case}")
}

fn deflated(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text)?;
    encoder.finish()
}

fn inflated(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let read = DeflateDecoder::new(bytes).take(LONGEST).read_to_string(&mut text).ok()?;
    ((read as u64) < LONGEST).then_some(text)
}

impl App {
    /// The record of a draft, which names these customers.
    pub(crate) fn draft_fact(
        &self,
        case: &str,
        version: u32,
        report: &Report,
        about: &[PartyId],
    ) -> Result<Fact, CasefileError> {
        let text = Zeroizing::new(serde_json::to_vec(report).expect("a report has string keys"));
        let bytes = Zeroizing::new(deflated(&text).expect("memory can be written"));
        // Nothing of who was erased is in it, and nothing can be sealed for them.
        let mut named = BTreeSet::new();
        for customer in about {
            if !self.keys.is_destroyed(customer)? {
                named.insert(customer.clone());
            }
        }
        let sealed = self.keys.seal_shared(&named, &what(case, version), &bytes, &mut random::fill)?;
        let open = sealed.is_none().then(|| BASE64.encode(&*bytes));
        Ok(fact(record::REPORT, case, &Kept { version, sealed, open }))
    }

    /// A draft as it was, for somebody to look at: that is recorded first.
    ///
    /// # Errors
    /// [`CasefileError`], where there is no such draft, or who it names was erased.
    pub async fn draft(&self, id: &str, version: u32, by: &By) -> Result<Report, CasefileError> {
        Ok(self.drafts(id, &[version], by).await?.remove(0))
    }

    /// What a draft says other than an earlier one, for somebody to look at: that is recorded first.
    ///
    /// # Errors
    /// As [`App::draft`].
    pub async fn changes(&self, id: &str, from: u32, to: u32, by: &By) -> Result<Changes, CasefileError> {
        let both = self.drafts(id, &[from, to], by).await?;
        Ok(both[1].changes_since(&both[0]))
    }

    async fn drafts(&self, id: &str, versions: &[u32], by: &By) -> Result<Vec<Report>, CasefileError> {
        if by.actor.trim().is_empty() {
            return Err(CasefileError::Blank("who looks"));
        }
        if by.reason.trim().is_empty() {
            return Err(CasefileError::Blank("the reason"));
        }
        let case = self.casebook().cases.get(id).cloned();
        let case = case.ok_or_else(|| CasefileError::NoCase(id.to_owned()))?;
        let (mut reports, mut looks) = (Vec::new(), Vec::new());
        for version in versions {
            let (report, named) = self.kept_draft(&case, *version).await?;
            looks.extend(named.iter().map(|customer| {
                let look = serde_json::json!({
                    "act": "identity_opened", "customer": customer, "case": id,
                    "what": format!("draft {version}"), "actor": by.actor, "reason": by.reason,
                });
                fact(record::AUDIT, customer.as_str(), &look)
            }));
            reports.push(report);
        }
        if !looks.is_empty() {
            self.record(looks).await?;
        }
        Ok(reports)
    }

    /// A draft and whom it names, for the collector itself.
    pub(crate) async fn kept_draft(
        &self,
        case: &Case,
        version: u32,
    ) -> Result<(Report, Vec<PartyId>), CasefileError> {
        let id = case.id();
        let missing = || CasefileError::NoDraft { case: id.to_owned(), version };
        let damaged = || CasefileError::DraftDamaged { case: id.to_owned(), version };
        let rows = self.store.records(record::REPORT).await?.into_iter().filter(|row| row.key == id);
        let kept = rows.filter_map(|row| serde_json::from_value::<Kept>(row.body).ok());
        let Kept { sealed, open, .. } =
            kept.rev().find(|kept| kept.version == version).ok_or_else(missing)?;
        let (bytes, named) = match (sealed, open) {
            (Some(shared), _) => {
                let bytes =
                    self.keys.open_shared(&what(id, version), &shared).map_err(|error| match error {
                        KeyError::KeyDestroyed { subject } => CasefileError::DraftErased {
                            case: id.to_owned(),
                            version,
                            subject: subject.to_string(),
                        },
                        error => error.into(),
                    })?;
                (bytes, shared.parties().cloned().collect())
            }
            (None, Some(open)) => (Zeroizing::new(BASE64.decode(open).map_err(|_| damaged())?), Vec::new()),
            (None, None) => return Err(damaged()),
        };
        let text = inflated(&bytes).ok_or_else(damaged)?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|_| damaged())?;
        let hash = report_hash(&value);
        let drafted = case.history().iter().any(|event| {
            matches!(&event.step, Step::Drafted { version: of, report_sha256: Some(sha256) }
                if *of == version && *sha256 == hash)
        });
        let report = serde_json::from_value(value).map_err(|_| damaged())?;
        if drafted { Ok((report, named)) } else { Err(damaged()) }
    }
}
