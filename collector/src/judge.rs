//! Compares totals with rule packs, records findings, opens cases.
//!
//! A finding is recorded once, with the moment we knew; it never moves and never goes away. What changed since
//! is on the pages. The program says what meets criteria; whether that is to be reported is for a person.

use std::sync::PoisonError;

use serde::Serialize;
use weighbridge_casework::{
    Arrangement, Case, CaseEvent, Certainty, Facts, Finding, Met, OpsPerSecond, Passing, Reservation, Rule,
    RulePack, Scope, Step, Subject, Verdict, case::FindingRef, evaluate, evaluate_reserved, nearing,
};
use weighbridge_meter::{Operations, UtcMillis};
use weighbridge_store::{Fact, HourlySum, StoreError, ledger::CommitError};

use crate::{
    alarm::{self, Alarm},
    app::{App, Casebook, record},
    evaluate::model,
    integrity::{self, IntegrityFinding},
    view::{Owned, View},
};

/// Totals could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// They cannot be read.
    #[error("totals cannot be read")]
    Store(#[from] StoreError),
    /// Findings cannot be recorded.
    #[error("findings cannot be recorded")]
    Commit(#[from] CommitError),
}

/// Named at most: those nearest.
const MOST_NEARING: usize = 200;

/// Somebody of whom all but the amount holds that a rule asks for, and whose best total is a notable part of its line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Nearing {
    #[serde(serialize_with = "as_text")]
    pub(crate) subject: Subject,
    pub(crate) pack: String,
    /// How the instrument is named.
    pub(crate) name: String,
    pub(crate) rule: String,
    /// As the pack writes it, such as `more than 1e26`.
    pub(crate) line: String,
    /// How much of the line the best total is.
    pub(crate) percent: u64,
    /// When it would be passed if it goes on.
    pub(crate) passing: Passing,
}

impl Nearing {
    /// Who passes first comes first; of those without a date who is nearest.
    fn order(&self) -> (UtcMillis, std::cmp::Reverse<u64>, String) {
        let never = UtcMillis(i64::MAX);
        (self.passing.expected.unwrap_or(never), std::cmp::Reverse(self.percent), self.subject.to_string())
    }
}

fn as_text<S: serde::Serializer>(subject: &Subject, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(subject)
}

/// What one comparison led to.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// Findings raised just now.
    pub findings: Vec<Finding>,
    /// Ids of cases opened just now.
    pub opened: Vec<String>,
    /// Findings of integrity raised just now.
    pub integrity: Vec<IntegrityFinding>,
    /// Alarms raised just now.
    pub alarms: Vec<Alarm>,
}

impl App {
    /// Compares everything with every pack in use and records what is new.
    pub async fn judge(&self) -> Result<Judged, JudgeError> {
        let _one_at_a_time = self.writing.lock().await;
        let view = self.view().await?;
        let mut judged = Judged::default();
        let mut facts = Vec::new();
        let mut near = Vec::new();
        let mut book = self.casebook().clone();
        for (pack, _) in self.packs.iter().filter(|(_, enabled)| *enabled) {
            for rule in &pack.rule {
                for (subject, owned) in subjects(&view, rule) {
                    let found = compare(self, &view, pack, rule, &subject, &owned);
                    near.extend(self.nears(&view, pack, rule, &subject, &owned));
                    if let Some((met, totals)) = found {
                        let id = Finding::id_of(pack, rule, &subject, met.certainty);
                        if !book.findings.contains_key(&id) {
                            // What passes only with gaps or in projection passed when it was looked at.
                            let passed = self.passed_at(&view, &subject, &met).await?;
                            let met_at = passed.unwrap_or(view.as_of);
                            let subject = subject.clone();
                            let finding =
                                Finding::raise(pack, rule, subject, &met, &totals, met_at, view.as_of);
                            enter(&view, pack, rule, finding, &mut book, &mut judged, &mut facts);
                        }
                    }
                    let could = could_result(self, &view, pack, rule, &subject, &owned);
                    if let Some((met, totals, arrangement)) = could {
                        let mut known = book.findings.values();
                        if !known.any(|finding| finding.covers(pack, rule, &subject, &arrangement)) {
                            let finding =
                                Finding::raise_reserved(pack, rule, subject, &met, &totals, arrangement);
                            enter(&view, pack, rule, finding, &mut book, &mut judged, &mut facts);
                        }
                    }
                }
            }
        }
        near.sort_by_cached_key(Nearing::order);
        near.truncate(MOST_NEARING);
        *self.nearing.lock().unwrap_or_else(PoisonError::into_inner) = near;
        judged.integrity = integrity::to_raise(&view, &book.integrity);
        for finding in &judged.integrity {
            facts.push(finding.fact());
            book.integrity.insert(finding.id.clone(), finding.clone());
        }
        judged.alarms = self.shared.with(|state| alarm::to_raise(&view, state, &book.alarms));
        facts.extend(judged.alarms.iter().map(Alarm::fact));
        if !facts.is_empty() {
            self.record(facts).await?;
            let mut known = self.casebook();
            // Ingest raises alarms meanwhile, and those stay.
            let mut alarms = std::mem::take(&mut known.alarms);
            for alarm in &judged.alarms {
                alarms.entry(alarm.id.clone()).or_insert_with(|| alarm.clone());
            }
            *known = Casebook { alarms, ..book };
        }
        for alarm in &judged.alarms {
            tracing::error!(alarm = alarm.id, detail = alarm.detail, "alarm: someone must look");
        }
        for finding in &judged.integrity {
            tracing::warn!(finding = finding.id, "two sources of an accelerator cannot both be right");
        }
        for finding in &judged.findings {
            tracing::info!(finding = finding.id, subject = %finding.subject, reason = finding.reason, "finding");
        }
        Ok(judged)
    }

    /// Who nears a line and has not passed it by the best guess, by the last comparison.
    pub(crate) fn nearing(&self) -> Vec<Nearing> {
        self.nearing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn nears(
        &self,
        view: &View,
        pack: &RulePack,
        rule: &Rule,
        subject: &Subject,
        owned: &Owned,
    ) -> Option<Nearing> {
        let (line, comparator) = rule.line()?;
        let best = owned.totals.bound.best();
        let percent = nearing::percent_of(best, line);
        let beyond = line.passed_by(best, comparator);
        if beyond || percent < u64::from(self.attention_percent) || !rule.looks_at(subject) {
            return None;
        }
        let totals = view.totals(owned, rule.projection.as_ref().map(|projection| projection.cap_days));
        nearing::all_but_the_amount(pack, rule, &known_facts(view, owned)).then(|| Nearing {
            subject: subject.clone(),
            pack: pack.id.clone(),
            name: pack.name.clone(),
            rule: rule.id.clone(),
            line: format!("{comparator} {line}"),
            percent,
            passing: Passing::of(&totals, line, comparator),
        })
    }

    /// When the data say that a finding's line was passed, as surely as it says, by all that is known by now. The
    /// finding keeps what was known when it was raised: late arrivals and corrections move this alone.
    /// `None`: it does not hold any more, or only what was not seen passes the line.
    ///
    /// # Errors
    /// If the sums cannot be read.
    pub async fn met_at_now(&self, view: &View, finding: &Finding) -> Result<Option<UtcMillis>, StoreError> {
        let Some(pack) = self.pack_version(&finding.pack, &finding.pack_version) else { return Ok(None) };
        let Some(rule) = pack.rule(&finding.rule) else { return Ok(None) };
        let Some(owned) = view.subject(&finding.subject) else { return Ok(None) };
        match compare(self, view, pack, rule, &finding.subject, &owned) {
            Some((met, _)) if met.certainty >= finding.certainty => {
                let met = Met { certainty: finding.certainty, ..met };
                self.passed_at(view, &finding.subject, &met).await
            }
            _ => Ok(None),
        }
    }

    /// The end of the first hour whose sums so far pass the line; `None` where only gaps or a projection do.
    async fn passed_at(
        &self,
        view: &View,
        subject: &Subject,
        met: &Met,
    ) -> Result<Option<UtcMillis>, StoreError> {
        let Some((threshold, comparator)) = &met.line else { return Ok(None) };
        let amount = |sum: &HourlySum| match met.certainty {
            Certainty::Certain => Some(sum.usage.sums.bound.low()),
            Certainty::Likely => Some(sum.usage.sums.calibrated.low()),
            Certainty::Possible => Some(sum.usage.sums.bound.high()),
            Certainty::Projected | Certainty::CouldResult => None,
        };
        let mut total = Operations::ZERO;
        for sum in self.hourly(view, subject).await? {
            let Some(amount) = amount(&sum) else { break };
            total = total.saturating_add(amount);
            if threshold.passed_by(total, *comparator) {
                return Ok(Some(sum.hour.plus(UtcMillis::HOUR).min(view.as_of)));
            }
        }
        Ok(None)
    }
}

/// Takes a new finding into the book, and opens a case for it or adds it to the open one, where its rule says so.
fn enter(
    view: &View,
    pack: &RulePack,
    rule: &Rule,
    finding: Finding,
    book: &mut Casebook,
    judged: &mut Judged,
    facts: &mut Vec<Fact>,
) {
    facts.push(fact(record::FINDING, &finding.id, &finding));
    if rule.opens_case(finding.certainty) {
        let (id, event) = step(&book.cases, pack, whom(view, &finding.subject), &finding);
        let case = match book.cases.remove(&id) {
            Some(case) => case.apply(event.clone()),
            None => Case::open(&id, event.clone()),
        };
        match case {
            Ok(case) => {
                if matches!(event.step, Step::Opened { .. }) {
                    judged.opened.push(id.clone());
                }
                book.cases.insert(id.clone(), case);
                facts.push(fact(record::CASE, &id, &event));
            }
            Err(error) => tracing::error!(case = id, problem = %error, "a finding fits no case"),
        }
    }
    book.findings.insert(finding.id.clone(), finding.clone());
    judged.findings.push(finding);
}

/// Whether what somebody reserved could, used for all of its time, result in a rule being met, and what that is.
pub fn could_result(
    app: &App,
    view: &View,
    pack: &RulePack,
    rule: &Rule,
    subject: &Subject,
    owned: &Owned,
) -> Option<(Met, weighbridge_casework::Totals, Arrangement)> {
    let asked = rule.reservations.as_ref().filter(|_| rule.looks_at(subject))?;
    if owned.reserved.is_empty() {
        return None;
    }
    let table = app.estimator.table();
    let left = owned.reserved.iter().filter_map(|terms| {
        let named = table.find(None, &terms.model).or_else(|| model(table, &terms.model));
        Reservation::left(terms.clone(), &app.estimator, named, view.as_of, asked.open_days)
    });
    let arrangement = Arrangement::of(left);
    let totals = view.totals(owned, None);
    let verdict = with_declared(app, view, subject, owned, |facts| {
        evaluate_reserved(pack, rule, &totals, arrangement.sum(), facts)
    });
    verdict.met().map(|met| (met.clone(), totals, arrangement))
}

/// A total compared with a rule as it stands now; `None` where the rule is not met.
pub fn compare(
    app: &App,
    view: &View,
    pack: &RulePack,
    rule: &Rule,
    subject: &Subject,
    owned: &Owned,
) -> Option<(Met, weighbridge_casework::Totals)> {
    let (verdict, totals) = verdict(app, view, pack, rule, subject, owned)?;
    verdict.met().map(|met| (met.clone(), totals))
}

/// The same with what is not known; `None` where the rule does not look at such a subject.
pub fn verdict(
    app: &App,
    view: &View,
    pack: &RulePack,
    rule: &Rule,
    subject: &Subject,
    owned: &Owned,
) -> Option<(Verdict, weighbridge_casework::Totals)> {
    if !rule.looks_at(subject) {
        return None;
    }
    let totals = view.totals(owned, rule.projection.as_ref().map(|projection| projection.cap_days));
    let verdict = with_declared(app, view, subject, owned, |facts| evaluate(pack, rule, &totals, facts));
    Some((verdict, totals))
}

/// Judges by what is known, and once more with what customers declare where only that is missing.
fn with_declared(
    app: &App,
    view: &View,
    subject: &Subject,
    owned: &Owned,
    judged: impl Fn(&Facts) -> Verdict,
) -> Verdict {
    let mut facts = known_facts(view, owned);
    let verdict = judged(&facts);
    let Verdict::NotKnown { unknown, .. } = &verdict else { return verdict };
    facts.declared = app.declared(view, subject, owned, unknown);
    if facts.declared.is_empty() { verdict } else { judged(&facts) }
}

fn known_facts(view: &View, owned: &Owned) -> Facts {
    let peak: u128 = view.current(owned).map(|attempt| attempt.peak_ops_per_ms).sum();
    let peak_tera =
        u64::try_from(peak * 1000 / Operations::UNIT).ok().and_then(|tera| Operations::from_tera(tera).ok());
    Facts {
        standing: owned.standing,
        cluster_peak: peak_tera
            .filter(|peak| *peak > Operations::ZERO)
            .map(OpsPerSecond::from_operations_in_a_second),
        ..Facts::default()
    }
}

/// Everybody a rule looks at.
pub fn subjects(view: &View, rule: &Rule) -> Vec<(Subject, Owned)> {
    let mut subjects = Vec::new();
    for scope in &rule.scope {
        match scope {
            Scope::Run => {
                subjects.extend(view.runs().map(|(run, owned)| (Subject::Run(run), owned)));
            }
            Scope::Customer => {
                let all = view.customers.iter();
                subjects.extend(all.map(|(id, owned)| (Subject::Customer(id.clone()), owned.clone())));
            }
            Scope::ControlGroup => {
                let all = view.groups.iter();
                subjects.extend(all.map(|(id, owned)| (Subject::ControlGroup(id.clone()), owned.clone())));
            }
            Scope::Principal => {
                let all = view.unmapped.iter();
                subjects.extend(all.map(|(id, owned)| (Subject::Principal(id.to_string()), owned.clone())));
            }
        }
    }
    subjects
}

/// Whose case it is: a run's finding belongs to its customer's case.
fn whom(view: &View, subject: &Subject) -> Subject {
    let Subject::Run(run) = subject else { return subject.clone() };
    let Some(owned) = view.subject(subject) else { return subject.clone() };
    let theirs = |other: &Owned| !other.current.is_disjoint(&owned.current);
    let customer = view.customers.iter().find(|(_, other)| theirs(other)).map(|(id, _)| id);
    match (customer, owned.principals.first()) {
        (Some(customer), _) => Subject::Customer(customer.clone()),
        (None, Some(principal)) => Subject::Principal(principal.to_string()),
        (None, None) => Subject::Run(run.clone()),
    }
}

/// The next step of the open case of this pack and subject, or the first of a new one.
fn step(
    cases: &std::collections::BTreeMap<String, Case>,
    pack: &RulePack,
    whom: Subject,
    finding: &Finding,
) -> (String, CaseEvent) {
    let reference = FindingRef::from(finding);
    let open = cases.values().find(|case| {
        case.pack() == pack.id
            && case.pack_version() == pack.version
            && *case.subject() == whom
            && case.state() != weighbridge_casework::State::Closed
    });
    let by = "collector".to_owned();
    match open {
        Some(case) => {
            let step = Step::FindingAdded { finding: reference };
            (case.id().to_owned(), CaseEvent { at: finding.raised_at, by, step })
        }
        None => {
            let step = Step::Opened {
                pack: pack.id.clone(),
                pack_version: pack.version.clone(),
                subject: whom,
                findings: vec![reference],
            };
            (format!("case-{:04}", cases.len() + 1), CaseEvent { at: finding.raised_at, by, step })
        }
    }
}

/// A record of something.
pub fn fact(kind: &str, key: &str, body: &impl serde::Serialize) -> Fact {
    let body = serde_json::to_value(body).expect("plain data with string keys");
    Fact::Record { kind: kind.into(), key: key.into(), body }
}
