//! The work that follows a finding: who saw it, what was decided and why, what was filed, and how much time is left.
//!
//! A [`Case`] is folded from its events and from nothing else. A transition consumes the case and returns the next, or
//! an error that names the state and the event. The program keeps the clocks; a person decides.
//!
//! Deliberately absent: who may do what (the collector asks that first), and moving a time: `raised_at` stays.

use std::fmt;

use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;

use crate::{
    clock::{ClockReading, ClockStart},
    finding::{Finding, Subject},
    pack::RulePack,
};

/// Something that happened to a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseEvent {
    /// When.
    pub at: UtcMillis,
    /// Who did it: an account of the collector, or `collector` itself.
    pub by: String,
    /// What.
    pub step: Step,
}

/// What can happen to a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// It was opened. First, and only then.
    Opened {
        /// Rule pack that its findings are under.
        pack: String,
        /// Version of it; its clocks count for the whole case.
        pack_version: String,
        /// Whose totals.
        subject: Subject,
        /// The findings it was opened for, at least one.
        findings: Vec<FindingRef>,
    },
    /// Another finding joined it. Nobody has seen that yet, so the case is open again.
    FindingAdded {
        /// Which.
        finding: FindingRef,
    },
    /// A person looked at it.
    Seen,
    /// A person decided.
    Decided {
        /// What.
        decision: Decision,
        /// Why: never blank, for a dismissal above all.
        reason: String,
    },
    /// A report was drafted.
    Drafted {
        /// One more than the version before; the first is 1.
        version: u32,
        /// SHA-256 of the report, so that what is sent can be shown to be it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        report_sha256: Option<String>,
    },
    /// The first report was sent.
    Filed {
        /// The draft that was sent.
        version: u32,
        /// What the authority calls it, if it said.
        reference: Option<String>,
    },
    /// The authority asked a further question.
    FollowUpRequested {
        /// When the question arrived: starts a clock.
        received_at: UtcMillis,
        /// What was asked.
        question: String,
    },
    /// Every further question that was open is answered.
    FollowUpAnswered,
    /// What was sent was found wrong or out of date.
    ErrorFound {
        /// When that was found: starts a clock.
        found_at: UtcMillis,
        /// What is wrong.
        what: String,
    },
    /// What was thought wrong is not: no correction is needed.
    ErrorDismissed {
        /// Why: never blank.
        reason: String,
    },
    /// A later report was sent in place of the one before.
    Corrected {
        /// The draft that was sent.
        version: u32,
        /// What the authority calls it, if it said.
        reference: Option<String>,
    },
    /// Nothing is left to do.
    Closed {
        /// Why: never blank.
        reason: String,
    },
    /// It was taken up again.
    Reopened {
        /// Why: never blank.
        reason: String,
    },
}

impl Step {
    /// Its name in records.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "opened",
            Self::FindingAdded { .. } => "finding_added",
            Self::Seen => "seen",
            Self::Decided { .. } => "decided",
            Self::Drafted { .. } => "drafted",
            Self::Filed { .. } => "filed",
            Self::FollowUpRequested { .. } => "follow_up_requested",
            Self::FollowUpAnswered => "follow_up_answered",
            Self::ErrorFound { .. } => "error_found",
            Self::ErrorDismissed { .. } => "error_dismissed",
            Self::Corrected { .. } => "corrected",
            Self::Closed { .. } => "closed",
            Self::Reopened { .. } => "reopened",
        }
    }
}

/// A finding of a case, with the time that starts its clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingRef {
    /// Id of the finding.
    pub id: String,
    /// When it was raised.
    pub raised_at: UtcMillis,
    /// Whether it has a clock of its own, beside that of the others: a change in the arrangements is known from its
    /// day on, and not from that of an earlier one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_clock: bool,
}

impl From<&Finding> for FindingRef {
    fn from(finding: &Finding) -> Self {
        Self {
            id: finding.id.clone(),
            raised_at: finding.raised_at,
            own_clock: finding.arrangement.is_some(),
        }
    }
}

/// What a person decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// A report is to be made.
    Reportable,
    /// No report is to be made.
    NotReportable,
    /// More has to be known first. The clocks go on.
    MoreInformationNeeded,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reportable => "reportable",
            Self::NotReportable => "not reportable",
            Self::MoreInformationNeeded => "more information needed",
        })
    }
}

/// Where a case stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Something in it has not been seen by anyone.
    Open,
    /// Seen, not decided.
    Seen,
    /// Decided.
    Decided {
        /// What.
        decision: Decision,
        /// When.
        at: UtcMillis,
    },
    /// A report is drafted and not sent.
    Drafted {
        /// Its version.
        version: u32,
    },
    /// The newest report is sent.
    Filed {
        /// Its version.
        version: u32,
    },
    /// Nothing is left to do.
    Closed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Seen => f.write_str("seen"),
            Self::Decided { decision, .. } => write!(f, "decided: {decision}"),
            Self::Drafted { version } => write!(f, "draft {version}"),
            Self::Filed { version } => write!(f, "filed {version}"),
            Self::Closed => f.write_str("closed"),
        }
    }
}

/// Why an event cannot follow. The case stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaseError {
    /// The first event of a case, and no other, is `opened`.
    #[error("case {case}: the first event is {event}, expected opened")]
    NotOpened {
        /// The case.
        case: String,
        /// What came first; `none` if there is no event.
        event: &'static str,
    },
    /// This state does not allow this event: somebody else was faster, or a page was old.
    #[error("case {case}: {event} cannot follow in state {state:?}")]
    Illegal {
        /// The case.
        case: String,
        /// Where it stands.
        state: String,
        /// What was tried.
        event: &'static str,
    },
    /// The event itself is not complete or does not fit.
    #[error("case {case}: {event} has {field} {value:?}, expected {expected}")]
    Invalid {
        /// The case.
        case: String,
        /// What was tried.
        event: &'static str,
        /// Which part of it.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: String,
    },
}

/// A case as its events made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    id: String,
    pack: String,
    pack_version: String,
    subject: Subject,
    opened_at: UtcMillis,
    state: State,
    findings: Vec<CaseFinding>,
    waits: Vec<Wait>,
    drafted: u32,
    filed: Option<u32>,
    decision: Option<(Decision, String, String)>,
    history: Vec<CaseEvent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CaseFinding {
    finding: FindingRef,
    settled: Option<Settled>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Reported(UtcMillis),
    Dismissed(UtcMillis),
}

impl Settled {
    fn at(self) -> UtcMillis {
        match self {
            Self::Reported(at) | Self::Dismissed(at) => at,
        }
    }
}

/// Something asked for by others that is not done yet, or was done at `done_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    what: ClockStart,
    since: UtcMillis,
    done_at: Option<UtcMillis>,
}

impl Case {
    /// Folds a case from all its events, in their order.
    pub fn fold(id: &str, events: impl IntoIterator<Item = CaseEvent>) -> Result<Self, CaseError> {
        let mut events = events.into_iter();
        let Some(first) = events.next() else {
            return Err(CaseError::NotOpened { case: id.to_owned(), event: "none" });
        };
        events.try_fold(Self::open(id, first)?, Self::apply)
    }

    /// The case that an `opened` event makes.
    pub fn open(id: &str, event: CaseEvent) -> Result<Self, CaseError> {
        let Step::Opened { pack, pack_version, subject, findings } = event.step.clone() else {
            return Err(CaseError::NotOpened { case: id.to_owned(), event: event.step.as_str() });
        };
        if findings.is_empty() {
            return Err(CaseError::Invalid {
                case: id.to_owned(),
                event: "opened",
                field: "findings",
                value: "[]".to_owned(),
                expected: "at least one finding".to_owned(),
            });
        }
        Ok(Self {
            id: id.to_owned(),
            pack,
            pack_version,
            subject,
            opened_at: event.at,
            state: State::Open,
            findings: findings.into_iter().map(|finding| CaseFinding { finding, settled: None }).collect(),
            waits: Vec::new(),
            drafted: 0,
            filed: None,
            decision: None,
            history: vec![event],
        })
    }

    /// The case after `event`.
    pub fn apply(mut self, event: CaseEvent) -> Result<Self, CaseError> {
        let at = event.at;
        match (&event.step, self.state) {
            (Step::FindingAdded { finding }, state) if state != State::Closed => {
                if self.findings.iter().any(|known| known.finding.id == finding.id) {
                    return Err(self.invalid(&event, "finding", &finding.id, "one that is not in the case"));
                }
                // What was dismissed stays dismissed; only the new finding is open.
                if let State::Decided { decision: Decision::NotReportable, at } = state {
                    self.settle(Settled::Dismissed(at));
                }
                self.findings.push(CaseFinding { finding: finding.clone(), settled: None });
                self.state = State::Open;
            }
            (Step::Seen, State::Open) => self.state = State::Seen,
            (
                Step::Decided { decision, reason },
                State::Seen | State::Decided { .. } | State::Drafted { .. },
            ) => {
                self.needs_reason(&event, reason)?;
                self.decision = Some((*decision, reason.clone(), event.by.clone()));
                self.state = State::Decided { decision: *decision, at };
            }
            (
                Step::Drafted { version, .. },
                State::Decided { decision: Decision::Reportable, .. }
                | State::Drafted { .. }
                | State::Filed { .. },
            ) => {
                if *version != self.drafted.saturating_add(1) {
                    let next = self.drafted.saturating_add(1).to_string();
                    return Err(self.invalid(&event, "version", &version.to_string(), &next));
                }
                self.drafted = *version;
                self.state = State::Drafted { version: *version };
            }
            (Step::Filed { version, .. }, State::Drafted { version: draft }) if self.filed.is_none() => {
                self.send(&event, *version, draft)?;
            }
            (Step::Corrected { version, .. }, State::Drafted { version: draft }) if self.filed.is_some() => {
                self.send(&event, *version, draft)?;
            }
            (Step::FollowUpRequested { received_at, .. }, state)
                if self.filed.is_some() && state != State::Closed =>
            {
                self.waits.push(Wait {
                    what: ClockStart::FollowUpRequested,
                    since: *received_at,
                    done_at: None,
                });
            }
            (Step::FollowUpAnswered, state)
                if state != State::Closed && self.waiting_for(ClockStart::FollowUpRequested) =>
            {
                self.done(ClockStart::FollowUpRequested, at);
            }
            (Step::ErrorFound { found_at, .. }, state) if self.filed.is_some() && state != State::Closed => {
                self.waits.push(Wait { what: ClockStart::ErrorFound, since: *found_at, done_at: None });
            }
            (Step::ErrorDismissed { reason }, state)
                if state != State::Closed && self.waiting_for(ClockStart::ErrorFound) =>
            {
                self.needs_reason(&event, reason)?;
                self.done(ClockStart::ErrorFound, at);
            }
            (
                Step::Closed { reason },
                State::Decided { decision: Decision::NotReportable, at: decided_at },
            ) if !self.waiting() => {
                self.needs_reason(&event, reason)?;
                self.settle(Settled::Dismissed(decided_at));
                self.state = State::Closed;
            }
            (Step::Closed { reason }, State::Filed { .. }) if !self.waiting() => {
                self.needs_reason(&event, reason)?;
                self.state = State::Closed;
            }
            (Step::Reopened { reason }, State::Closed) => {
                self.needs_reason(&event, reason)?;
                // A dismissal that is taken back leaves the time of knowledge where it was.
                for finding in &mut self.findings {
                    if matches!(finding.settled, Some(Settled::Dismissed(_))) {
                        finding.settled = None;
                    }
                }
                self.state = State::Open;
            }
            (step, state) => {
                return Err(CaseError::Illegal {
                    case: self.id,
                    state: state.to_string(),
                    event: step.as_str(),
                });
            }
        }
        self.history.push(event);
        Ok(self)
    }

    fn send(&mut self, event: &CaseEvent, version: u32, draft: u32) -> Result<(), CaseError> {
        if version != draft {
            return Err(self.invalid(event, "version", &version.to_string(), &format!("the draft, {draft}")));
        }
        self.settle(Settled::Reported(event.at));
        self.done(ClockStart::ErrorFound, event.at);
        self.filed = Some(version);
        self.state = State::Filed { version };
        Ok(())
    }

    fn settle(&mut self, how: Settled) {
        for finding in &mut self.findings {
            finding.settled.get_or_insert(how);
        }
    }

    fn done(&mut self, what: ClockStart, at: UtcMillis) {
        for wait in self.waits.iter_mut().filter(|wait| wait.what == what) {
            wait.done_at.get_or_insert(at);
        }
    }

    fn waiting_for(&self, what: ClockStart) -> bool {
        self.waits.iter().any(|wait| wait.what == what && wait.done_at.is_none())
    }

    fn waiting(&self) -> bool {
        self.waits.iter().any(|wait| wait.done_at.is_none())
    }

    fn needs_reason(&self, event: &CaseEvent, reason: &str) -> Result<(), CaseError> {
        if reason.trim().is_empty() {
            return Err(self.invalid(event, "reason", reason, "some words"));
        }
        Ok(())
    }

    fn invalid(&self, event: &CaseEvent, field: &'static str, value: &str, expected: &str) -> CaseError {
        CaseError::Invalid {
            case: self.id.clone(),
            event: event.step.as_str(),
            field,
            value: value.to_owned(),
            expected: expected.to_owned(),
        }
    }

    /// Its clocks under `pack` as of `now`, in the pack's order.
    ///
    /// The clock of findings starts when the first of them was raised. It stops when they are reported or dismissed;
    /// findings that come later start another, and so does each that is about an arrangement.
    pub fn clocks(&self, pack: &RulePack, now: UtcMillis) -> Vec<ClockReading> {
        let mut readings = Vec::new();
        for clock in &pack.clock {
            let starts = match clock.starts {
                ClockStart::Raised => self.knowledge(),
                asked => self
                    .waits
                    .iter()
                    .filter(|wait| wait.what == asked)
                    .map(|wait| (wait.since, wait.done_at))
                    .collect(),
            };
            for (started, stopped) in starts {
                readings.push(ClockReading::read(clock, started, stopped, now));
            }
        }
        readings
    }

    /// Times of knowledge, with when what was known then was settled: one for each settlement, one for what is not, and
    /// one for each arrangement.
    fn knowledge(&self) -> Vec<(UtcMillis, Option<UtcMillis>)> {
        let dismissed = match self.state {
            State::Decided { decision: Decision::NotReportable, at } => Some(at),
            _ => None,
        };
        let mut known: Vec<(UtcMillis, Option<UtcMillis>, bool)> = Vec::new();
        for CaseFinding { finding, settled } in &self.findings {
            let stopped = settled.map(Settled::at).or(dismissed);
            let joins = |(_, other, own): &&mut (_, _, bool)| !own && !finding.own_clock && *other == stopped;
            match known.iter_mut().find(joins) {
                Some((started, ..)) => *started = (*started).min(finding.raised_at),
                None => known.push((finding.raised_at, stopped, finding.own_clock)),
            }
        }
        known.into_iter().map(|(started, stopped, _)| (started, stopped)).collect()
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Id of the rule pack that its findings are under.
    pub fn pack(&self) -> &str {
        &self.pack
    }

    /// Version of that pack.
    pub fn pack_version(&self) -> &str {
        &self.pack_version
    }

    /// Whose totals.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// When it was opened.
    pub fn opened_at(&self) -> UtcMillis {
        self.opened_at
    }

    /// When the first of its findings was raised.
    pub fn raised_at(&self) -> UtcMillis {
        self.findings.iter().map(|known| known.finding.raised_at).min().unwrap_or(self.opened_at)
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Its findings, in the order they came.
    pub fn findings(&self) -> impl Iterator<Item = &FindingRef> {
        self.findings.iter().map(|known| &known.finding)
    }

    /// The last decision, its reason, and who decided.
    pub fn decision(&self) -> Option<(Decision, &str, &str)> {
        self.decision.as_ref().map(|(decision, reason, by)| (*decision, reason.as_str(), by.as_str()))
    }

    /// Version of the newest draft; 0 if there is none.
    pub fn drafted(&self) -> u32 {
        self.drafted
    }

    /// Version of the newest report sent.
    pub fn filed(&self) -> Option<u32> {
        self.filed
    }

    /// Whether a further question waits for an answer.
    pub fn is_asked(&self) -> bool {
        self.waiting_for(ClockStart::FollowUpRequested)
    }

    /// Every event, oldest first.
    pub fn history(&self) -> &[CaseEvent] {
        &self.history
    }
}
