//! From a case to its report: numbers as they stand, identity opened as an audited act.

use std::collections::BTreeMap;

use weighbridge_casework::{
    Case, Finding, Report, ReportError, ReportInput, RulePack, Subject, Totals,
    report::{
        AcceleratorRow, AttemptRow, Attested, AttributionSummary, CoverageSummary, DeclaredDates,
        IdentityValue, OperationsRange, ReportKind, RunDates,
    },
};
use weighbridge_meter::{GapCause, estimate::METHOD};
use weighbridge_registry::{IdentityField, KeyError, PartyId, SealedCustomer};
use weighbridge_store::{HourlySum, StoreError, UsageStore, fold::hex, hour::HeldState, ledger::CommitError};

use crate::{
    app::{App, record},
    judge::fact,
    parties::PartyError,
    pdf::{self, PdfError},
    proof::{Content, Proof, ProofError},
    view::{Owned, View},
};

/// Whether a report shows who it is about.
#[derive(Clone, Debug)]
pub enum Identity {
    /// Masked: fields that are known say so and no more.
    Masked,
    /// Opened, for this person and this reason; recorded before anything is shown.
    Opened {
        /// Who looks.
        actor: String,
        /// Why.
        reason: String,
    },
}

/// What is told of who a report is about.
struct ToldOf {
    identity: BTreeMap<String, IdentityValue>,
    attested: BTreeMap<String, Attested>,
    dates: Vec<DeclaredDates>,
    dates_sealed: bool,
}

/// A report cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CasefileError {
    /// What it is about is nothing any more: a control group that fell apart. Zero would not be true.
    #[error(
        "case {case} is about {subject}, which is nothing any more: look at the customers that it was made of"
    )]
    Gone {
        /// Which case.
        case: String,
        /// About what.
        subject: String,
    },
    /// No such case.
    #[error("there is no case {0:?}")]
    NoCase(String),
    /// Its pack is not loaded in the version it was opened under.
    #[error("case {case} is under pack {pack} version {version}, which is not loaded")]
    NoPack {
        /// Which case.
        case: String,
        /// Which pack.
        pack: String,
        /// Which version.
        version: String,
    },
    /// Who looks at an identity and why must be said.
    #[error("{0} must not be blank: every look at an identity is recorded with both")]
    Blank(&'static str),
    /// The numbers.
    #[error("totals cannot be read")]
    Store(#[from] StoreError),
    /// There is no draft of this version.
    #[error("there is no draft {version} of case {case}, or it was made before drafts were kept")]
    NoDraft {
        /// Of which case.
        case: String,
        /// Which.
        version: u32,
    },
    /// Who is named in it was erased.
    #[error("draft {version} of case {case} names {subject}, whose identity is erased, and is gone with it")]
    DraftErased {
        /// Of which case.
        case: String,
        /// Which.
        version: u32,
        /// Who was erased.
        subject: String,
    },
    /// It is not what was drafted.
    #[error(
        "draft {version} of case {case} does not read back as what was drafted by its hash in the ledger"
    )]
    DraftDamaged {
        /// Of which case.
        case: String,
        /// Which.
        version: u32,
    },
    /// Answers cannot be kept; one line each.
    #[error("{}", .0.join("\n"))]
    Answers(Vec<String>),
    /// What is known of parties.
    #[error(transparent)]
    Parties(#[from] PartyError),
    /// The parts do not fit.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The identity.
    #[error("the identity cannot be opened")]
    Keys(#[from] KeyError),
    /// The paper.
    #[error("the report cannot be put on paper")]
    Pdf(#[from] PdfError),
    /// The proof.
    #[error("the figures cannot be proved")]
    Proof(#[from] ProofError),
    /// The record of the look.
    #[error("the look at the identity could not be recorded, so nothing is shown")]
    Commit(#[from] CommitError),
}

impl App {
    /// A report on paper.
    ///
    /// # Errors
    /// [`PdfError`], where a font cannot be used.
    pub fn pdf(&self, report: &Report) -> Result<Vec<u8>, PdfError> {
        pdf::report(report, self.report_font.as_ref())
    }

    /// The report of a case as it stands now.
    pub async fn report(&self, id: &str, identity: Identity) -> Result<Report, CasefileError> {
        let (case, finding) = self.case_with_pack(id)?;
        let told = self.told(&case, identity).await?;
        let view = self.view().await?;
        let hours = self.hourly(&view, &finding.subject).await?;
        self.written(&case, &finding, told, &view, &hours)
    }

    /// The same with the proof of its figures, both of one moment.
    pub async fn proven_report(
        &self,
        id: &str,
        identity: Identity,
        content: Content,
    ) -> Result<(Report, Proof), CasefileError> {
        self.proven_report_since(id, identity, content, None).await
    }

    /// The same, which also says what is other than in an earlier version.
    pub(crate) async fn proven_report_since(
        &self,
        id: &str,
        identity: Identity,
        content: Content,
        earlier: Option<&Report>,
    ) -> Result<(Report, Proof), CasefileError> {
        let (case, finding) = self.case_with_pack(id)?;
        let told = self.told(&case, identity).await?;
        let still = self.shared.still().await;
        let view = self.view_while(&still, self.now()).await?;
        let hours = self.hourly(&view, &finding.subject).await?;
        let end = self.store.stands().await?;
        drop(still);
        let mut report = self.written(&case, &finding, told, &view, &hours)?;
        report.changes = earlier.map(|earlier| report.changes_since(earlier));
        let proof = self.prove(&report, &hours, end, content).await?;
        Ok((report, proof))
    }

    /// A case whose pack is loaded, with the finding it is about.
    fn case_with_pack(&self, id: &str) -> Result<(Case, Finding), CasefileError> {
        let (case, finding) = {
            let book = self.casebook();
            let case = book.cases.get(id).cloned().ok_or_else(|| CasefileError::NoCase(id.into()))?;
            let finding = main_finding(&case, &book.findings);
            (case, finding.ok_or_else(|| CasefileError::NoCase(id.into()))?)
        };
        self.pack_of(&case)?;
        Ok((case, finding))
    }

    pub(crate) fn pack_of(&self, case: &Case) -> Result<&RulePack, CasefileError> {
        let missing = || CasefileError::NoPack {
            case: case.id().into(),
            pack: case.pack().into(),
            version: case.pack_version().into(),
        };
        self.pack_version(case.pack(), case.pack_version()).ok_or_else(missing)
    }

    fn written(
        &self,
        case: &Case,
        finding: &Finding,
        told: ToldOf,
        view: &View,
        hours: &[HourlySum],
    ) -> Result<Report, CasefileError> {
        let pack = self.pack_of(case)?;
        let gone =
            || CasefileError::Gone { case: case.id().to_owned(), subject: finding.subject.to_string() };
        let owned = view.subject(&finding.subject).ok_or_else(gone)?;
        let cap = pack.rule(&finding.rule).and_then(|rule| rule.projection.as_ref()).map(|p| p.cap_days);
        let input = ReportInput {
            pack,
            case,
            finding,
            totals: view.totals(&owned, cap),
            attempts: attempts(view, &owned),
            accelerators: accelerators(view, &owned),
            coverage: coverage(&owned),
            attribution: attribution(hours, &owned),
            method_version: METHOD.into(),
            table_sha256: hex(&self.estimator.table().sha256()),
            identity: told.identity,
            attested: told.attested,
            remarks: self.remarks(case),
            dates: RunDates {
                declared: told.dates,
                declared_sealed: told.dates_sealed,
                lease_end: view.attempts(&owned).filter_map(|attempt| attempt.lease_end).max(),
                observed_start: hours.first().map(|sum| sum.hour),
                observed_end: hours
                    .last()
                    .map(|sum| sum.hour.plus(weighbridge_meter::UtcMillis::HOUR).min(view.as_of)),
            },
            kind: kind(case),
            version: case.drafted() + 1,
            supersedes: case.filed(),
            written_at: view.as_of,
        };
        Ok(Report::build(&input)?)
    }

    /// The totals of a case's main finding as they stand now.
    pub fn totals_now(&self, view: &View, finding: &Finding) -> Option<Totals> {
        let pack = self.pack_version(&finding.pack, &finding.pack_version)?;
        let cap = pack.rule(&finding.rule)?.projection.as_ref().map(|p| p.cap_days);
        Some(view.totals(&view.subject(&finding.subject)?, cap))
    }

    /// A case with its pack.
    pub(crate) fn case_and_pack(&self, id: &str) -> Result<(Case, RulePack), CasefileError> {
        let case = self.casebook().cases.get(id).cloned();
        let case = case.ok_or_else(|| CasefileError::NoCase(id.into()))?;
        let pack = self.pack_of(&case)?.clone();
        Ok((case, pack))
    }

    /// The customers that a case is about, as their numbers.
    pub(crate) fn customers_of(&self, case: &Case) -> Vec<PartyId> {
        let (customers, groups) = (self.customers(), self.groups());
        match case.subject() {
            Subject::Customer(id) => {
                customers.get(id).map(|party| party.customer.clone()).into_iter().collect()
            }
            Subject::ControlGroup(name) => {
                let group = groups.0.get(name).map(|(_, group)| &group.customers);
                group
                    .into_iter()
                    .flatten()
                    .filter(|id| customers.contains_key(id.as_str()))
                    .cloned()
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// What is known of who a case is about, as far as it may be shown.
    async fn told(&self, case: &Case, how: Identity) -> Result<ToldOf, CasefileError> {
        let opened = matches!(how, Identity::Opened { .. });
        let identity = self.identity(case, how).await?;
        let said = self.said(case, self.pack_of(case)?, &self.customers_of(case));
        Ok(match opened {
            true => ToldOf { identity, attested: said.attested, dates: said.dates, dates_sealed: false },
            false => {
                let (attested, dates_sealed) = said.masked();
                ToldOf { identity, attested, dates: Vec::new(), dates_sealed }
            }
        })
    }

    async fn identity(
        &self,
        case: &Case,
        how: Identity,
    ) -> Result<BTreeMap<String, IdentityValue>, CasefileError> {
        let customers = self.customers();
        let about = self.customers_of(case);
        let about: Vec<&SealedCustomer> = about.iter().filter_map(|id| customers.get(id.as_str())).collect();
        if about.is_empty() {
            return Ok(BTreeMap::new());
        }
        let known = |field: IdentityField| about.iter().any(|customer| customer.knows(field));
        let opened = match how {
            Identity::Masked => None,
            Identity::Opened { actor, reason } => {
                if actor.trim().is_empty() {
                    return Err(CasefileError::Blank("who looks"));
                }
                if reason.trim().is_empty() {
                    return Err(CasefileError::Blank("the reason"));
                }
                let mut opened = Vec::new();
                for customer in &about {
                    match self.identity_of(customer) {
                        Ok(identity) => opened.push((&customer.customer, identity)),
                        // What is left of a group is still to be reported.
                        Err(KeyError::KeyDestroyed { .. }) if about.len() > 1 => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                let looks = opened.iter().map(|(id, _)| {
                    let look = serde_json::json!({
                        "act": "identity_opened", "customer": id, "case": case.id(),
                        "actor": actor, "reason": reason,
                    });
                    fact(record::AUDIT, id.as_str(), &look)
                });
                self.record(looks.collect()).await?;
                Some(opened)
            }
        };
        let of = |identity: &weighbridge_registry::Identity, fields: &[IdentityField]| {
            fields.iter().filter_map(|field| identity.get(*field)).collect::<Vec<_>>().join("; ")
        };
        let value = |fields: &[IdentityField]| {
            if !fields.iter().any(|field| known(*field)) {
                return IdentityValue::Blank;
            }
            match &opened {
                None => IdentityValue::Sealed,
                Some(opened) => IdentityValue::Value(match opened.as_slice() {
                    [(_, identity)] if about.len() == 1 => of(identity, fields),
                    all => {
                        let each = all.iter().map(|(id, identity)| (id, of(identity, fields)));
                        let each = each.filter(|(_, value)| !value.is_empty());
                        each.map(|(id, value)| format!("{id}: {value}")).collect::<Vec<_>>().join("\n")
                    }
                }),
            }
        };
        use IdentityField as F;
        let fields: [(&str, &[F]); 7] = [
            ("name", &[F::Name]),
            ("address", &[F::Address]),
            ("request_locations", &[F::Locations]),
            ("payment", &[F::PaymentMeans, F::PaymentSource]),
            ("email", &[F::Email]),
            ("telephone", &[F::Telephone]),
            ("access_addresses", &[F::Access]),
        ];
        Ok(fields.into_iter().map(|(key, fields)| (key.to_owned(), value(fields))).collect())
    }
}

/// What the next report of a case is: while a question of the authority waits for an answer, that; else the first one,
/// or one in place of the one that was sent.
fn kind(case: &Case) -> ReportKind {
    if case.filed().is_none() {
        ReportKind::Initial
    } else if case.is_asked() {
        ReportKind::FollowUp
    } else {
        ReportKind::Corrected
    }
}

/// The finding a report is about: of a case the surest one, of the whole subject before one of its runs.
pub fn main_finding(case: &Case, findings: &BTreeMap<String, Finding>) -> Option<Finding> {
    let of_case = case.findings().filter_map(|reference| findings.get(&reference.id));
    of_case.max_by_key(|finding| (finding.certainty, finding.subject == *case.subject())).cloned()
}

fn attempts(view: &View, owned: &Owned) -> Vec<AttemptRow> {
    view.attempts(owned)
        .map(|attempt| AttemptRow {
            attempt: attempt.attempt.clone(),
            start: attempt.started,
            end: attempt.lease_end.map_or(view.as_of, |end| end.min(view.as_of)),
            accelerators: u32::try_from(attempt.models.values().sum::<u64>()).unwrap_or(u32::MAX),
            operations: OperationsRange::from(&attempt.totals.bound),
        })
        .collect()
}

fn accelerators(view: &View, owned: &Owned) -> Vec<AcceleratorRow> {
    let mut models: BTreeMap<&str, u64> = BTreeMap::new();
    for attempt in view.attempts(owned) {
        for (model, count) in &attempt.models {
            *models.entry(model).or_default() += count;
        }
    }
    let row = |(model, count): (&str, u64)| AcceleratorRow {
        model: model.to_owned(),
        count: u32::try_from(count).unwrap_or(u32::MAX),
    };
    models.into_iter().map(row).collect()
}

/// Of the time that was held. Causes are known per accelerator, not per holder; here a gap is one of two kinds.
fn coverage(owned: &Owned) -> CoverageSummary {
    let totals = &owned.totals;
    let never_seen = totals.never_seen_ms.min(totals.gap_ms);
    let gaps = [(GapCause::NeverSeen, never_seen), (GapCause::Silent, totals.gap_ms - never_seen)];
    CoverageSummary {
        measured_ms: totals.measured.measured_ms,
        interpolated_ms: totals.measured.interpolated_ms,
        gap_ms: gaps.into_iter().filter(|(_, millis)| *millis > 0).collect(),
        not_present_ms: 0,
    }
}

fn attribution(hours: &[HourlySum], owned: &Owned) -> AttributionSummary {
    let in_state = |state: HeldState| {
        let sums = hours.iter().filter(|sum| sum.usage.state == state).map(|sum| &sum.usage.sums);
        sums.map(|sums| sums.measured_ms + sums.interpolated_ms).sum::<u64>()
    };
    let (shared_ms, idle_held_ms, disputed_ms) =
        (in_state(HeldState::Shared), in_state(HeldState::IdleHeld), in_state(HeldState::Disputed));
    AttributionSummary {
        // Gaps belong to who held the accelerator then.
        attributed_ms: owned.totals.held_ms.saturating_sub(shared_ms + idle_held_ms + disputed_ms),
        shared_ms,
        idle_held_ms,
        disputed_ms,
    }
}
