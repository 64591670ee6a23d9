//! Whether a rule is met, by whom, and how sure that is.
//!
//! [`evaluate`] is the whole judgement: totals, facts and a rule in, a [`Verdict`] out.
//! What is not known is never taken as met, and never dropped: it is a verdict of its own.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use weighbridge_meter::{Calibrated, Interval, Operations, UtcMillis};

use crate::{
    amount::{Comparator, OpsPerSecond, Threshold},
    arrangement::Arrangement,
    pack::{Condition, Rule, RulePack, Who},
};

/// Decides whether `rule` of `pack` is met.
///
/// *Certain* if the low bound passes the line, *likely* if the low calibrated end does, *projected* if the best value
/// of a projection no longer than the rule allows does, *possible* if the high bound does: the strongest that holds.
/// All other conditions must be known to hold as well. Whether the rule looks at this kind of subject at all is for
/// the caller to ask first, with [`Rule::looks_at`].
pub fn evaluate(pack: &RulePack, rule: &Rule, totals: &Totals, facts: &Facts) -> Verdict {
    let reached = |line: &Threshold, comparator| certainty_of(rule, totals, line, comparator);
    judged(pack, rule, facts, Certainty::Certain, reached)
}

/// Decides whether what is reserved could result in `rule` of `pack` being met: whether the totals and what is left
/// of all reservations pass the line together, at the end that the rule names, if every hour of them is used.
///
/// Where the totals pass it by themselves, what is reserved is compared alone: else the smallest reservation of
/// somebody who is above a line would be one that could result in it. All other conditions must be known to hold as
/// well, apart from the cluster, which nobody knows before it is there.
pub fn evaluate_reserved(
    pack: &RulePack,
    rule: &Rule,
    totals: &Totals,
    reserved: (Interval<Operations>, Calibrated),
    facts: &Facts,
) -> Verdict {
    let (Some(asked), Some(_)) = (&rule.reservations, rule.line()) else { return Verdict::NotMet };
    let (used, more) = (asked.end.of_totals(totals), asked.end.of(&reserved.0, &reserved.1));
    if more == Operations::ZERO {
        return Verdict::NotMet;
    }
    let facts = Facts { cluster_peak: None, network_gbit: None, ..facts.clone() };
    judged(pack, rule, &facts, Certainty::CouldResult, |line, comparator| {
        let passes = |total| line.passed_by(total, comparator);
        let already = [used, totals.bound.low(), totals.calibrated.low()].into_iter().any(passes);
        let together = if already { more } else { used.saturating_add(more) };
        passes(together).then_some(Certainty::CouldResult)
    })
}

pub(crate) fn judged(
    pack: &RulePack,
    rule: &Rule,
    facts: &Facts,
    strongest: Certainty,
    reached: impl Fn(&Threshold, Comparator) -> Option<Certainty>,
) -> Verdict {
    if !pack.applies_to.who.includes(facts.standing)
        || !rule.who.is_none_or(|who| who.includes(facts.standing))
    {
        return Verdict::NotMet;
    }
    let mut certainty = strongest;
    let mut unknown = Vec::new();
    let mut line = None;
    for condition in &rule.condition {
        match condition {
            Condition::Operations { threshold, comparator, .. } => {
                let Some(reached) = reached(threshold, *comparator) else {
                    return Verdict::NotMet;
                };
                certainty = certainty.min(reached);
                line = Some((threshold.clone(), *comparator));
            }
            Condition::Declared { what, .. } => match facts.declared.get(what) {
                Some(true) => {}
                Some(false) => return Verdict::NotMet,
                None => unknown.push(Unknown::Declared(*what)),
            },
            Condition::Cluster { peak, peak_comparator, network_gbit, network_comparator, .. } => {
                match facts.cluster_peak {
                    Some(known) if peak.passed_by_rate(known, *peak_comparator) => {}
                    Some(_) => return Verdict::NotMet,
                    None => unknown.push(Unknown::ClusterPeak),
                }
                match facts.network_gbit {
                    Some(known) if network_comparator.holds(known, *network_gbit) => {}
                    Some(_) => return Verdict::NotMet,
                    None => unknown.push(Unknown::NetworkSpeed),
                }
            }
        }
    }
    let met = Met { certainty, line };
    if unknown.is_empty() { Verdict::Met(met) } else { Verdict::NotKnown { otherwise: met, unknown } }
}

/// How sure the line is passed, by `totals` alone; `None` if it is not.
pub(crate) fn certainty_of(
    rule: &Rule,
    totals: &Totals,
    line: &Threshold,
    comparator: Comparator,
) -> Option<Certainty> {
    let passes = |total| line.passed_by(total, comparator);
    let projected = || {
        let (cap, projection) = (rule.projection.as_ref()?, totals.projection.as_ref()?);
        let longest = i64::from(cap.cap_days) * UtcMillis::DAY;
        (projection.until.since(totals.as_of) <= longest).then(|| projection.bound.best())
    };
    if passes(totals.bound.low()) {
        Some(Certainty::Certain)
    } else if passes(totals.calibrated.low()) {
        Some(Certainty::Likely)
    } else if projected().is_some_and(passes) {
        Some(Certainty::Projected)
    } else if passes(totals.bound.high()) {
        Some(Certainty::Possible)
    } else {
        None
    }
}

impl Comparator {
    fn holds(self, value: u32, line: u32) -> bool {
        match self {
            Self::Gt => value > line,
            Self::Ge => value >= line,
        }
    }
}

/// How sure it is that a rule is met. Ordered: the later, the stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// What is reserved could result in it. Weaker than all others, even than what is merely possible: those speak of
    /// work that is going on or was done, this of work that nobody may ever begin. It stands beside them, because it
    /// asks about the time to come.
    #[serde(rename = "could_result")]
    CouldResult,
    /// The high bound passes: it cannot be ruled out.
    Possible,
    /// Going on as now, it will be met before the projection ends.
    Projected,
    /// The low calibrated end passes: so in 95 % of comparable cases.
    Likely,
    /// The low bound passes: it cannot be otherwise, given what was measured.
    Certain,
}

impl Certainty {
    /// The name used in files, labels and pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Projected => "projected",
            Self::Possible => "possible",
            Self::CouldResult => "could_result",
        }
    }

    /// The verb of the statement: `... likely meets the criteria of ...`.
    pub fn meets(self) -> &'static str {
        match self {
            Self::Certain => "meets",
            Self::Likely => "likely meets",
            Self::Projected => "is projected to meet",
            Self::Possible => "possibly meets",
            Self::CouldResult => "could come to meet",
        }
    }
}

impl fmt::Display for Certainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What came out of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every condition holds.
    Met(Met),
    /// Everything known holds, but something is not known.
    NotKnown {
        /// What it would be if all that is unknown held.
        otherwise: Met,
        /// What is not known.
        unknown: Vec<Unknown>,
    },
    /// A condition does not hold, or the rule does not look at this customer.
    NotMet,
}

impl Verdict {
    /// The certainty, if the rule is met.
    pub fn met(&self) -> Option<&Met> {
        match self {
            Self::Met(met) => Some(met),
            Self::NotKnown { .. } | Self::NotMet => None,
        }
    }

    /// In the words of a worked example: a certainty, `not_known` or `not_met`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Met(met) => met.certainty.as_str(),
            Self::NotKnown { .. } => "not_known",
            Self::NotMet => "not_met",
        }
    }
}

/// A rule that is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// How sure that is.
    pub certainty: Certainty,
    /// The line on operations and how it is compared; `None` for a rule without one.
    pub line: Option<(Threshold, Comparator)>,
}

/// A fact that a rule asks for and nobody has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unknown {
    /// The customer has not declared it.
    Declared(Declaration),
    /// The peak rate of the machines in one place.
    ClusterPeak,
    /// The speed of the network between them.
    NetworkSpeed,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declared(what) => write!(f, "whether {}", what.in_words()),
            Self::ClusterPeak => f.write_str("the peak rate of the co-located machines"),
            Self::NetworkSpeed => f.write_str("the speed of the network between them"),
        }
    }
}

/// What a customer can declare and a rule can ask for. No host can measure any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Declaration {
    /// Training uses primarily biological sequence data.
    BiologicalSequenceData,
    /// The model generates language, or images or video from text.
    GeneratesTextImageOrVideo,
    /// The run modifies a model whose original training compute is unknown.
    ModifiesModelOfUnknownCompute,
    /// The developer is a large one, as the rule defines that.
    LargeDeveloper,
}

impl Declaration {
    /// A clause to put after "whether".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::BiologicalSequenceData => "training uses primarily biological sequence data",
            Self::GeneratesTextImageOrVideo => "the model generates language, or images or video from text",
            Self::ModifiesModelOfUnknownCompute => "a model of unknown training compute is being modified",
            Self::LargeDeveloper => "the developer is a large one as the rule defines it",
        }
    }
}

/// What an account holds as of a moment: measured operations and what the gaps count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The moment that the gaps are counted up to.
    pub as_of: UtcMillis,
    /// Cannot be outside.
    #[serde(with = "interval_record")]
    pub bound: Interval<Operations>,
    /// Narrower, by data of the past.
    #[serde(with = "calibrated_record")]
    pub calibrated: Calibrated,
    /// Where it would stand later, if it goes on.
    pub projection: Option<Projection>,
}

/// A total at a later moment, if the recent rate goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projection {
    /// The later moment. A rule ignores projections that look further ahead than it allows.
    pub until: UtcMillis,
    /// The total then.
    #[serde(with = "interval_record")]
    pub bound: Interval<Operations>,
    /// Why it ends there.
    pub capped_by: CappedBy,
}

/// Why a projection does not look further ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CappedBy {
    /// The rule allows no more days.
    RuleDays,
    /// The lease or reservation ends.
    HoldingEnd,
    /// The customer declared this end.
    DeclaredEnd,
}

impl CappedBy {
    /// A clause to put after "until then, because".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::RuleDays => "the rule pack looks no further ahead",
            Self::HoldingEnd => "the lease or reservation ends",
            Self::DeclaredEnd => "the customer declared this end",
        }
    }
}

/// What is known about a subject apart from its totals. What is absent is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// U.S. person or not.
    pub standing: Standing,
    /// What the customer declared.
    pub declared: BTreeMap<Declaration, bool>,
    /// Dense peak of the accelerators in one datacenter.
    pub cluster_peak: Option<OpsPerSecond>,
    /// Gbit/s of the network that joins them.
    pub network_gbit: Option<u32>,
}

/// Whether somebody is a U.S. person: a legal status, not a location.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Determined to be a U.S. person.
    Us,
    /// Determined not to be one.
    Foreign,
    /// Not determined, or nobody knows whose work it is. Treated as foreign until shown otherwise.
    #[default]
    Undetermined,
}

impl Standing {
    /// Of a group: foreign if anyone in it is, U.S. only if everyone is; of nobody, undetermined.
    pub fn of_group(members: impl IntoIterator<Item = Self>) -> Self {
        members
            .into_iter()
            .reduce(|group, member| match (group, member) {
                (Self::Foreign, _) | (_, Self::Foreign) => Self::Foreign,
                (Self::Us, Self::Us) => Self::Us,
                _ => Self::Undetermined,
            })
            .unwrap_or_default()
    }
}

impl Who {
    /// Whether a rule for `self` looks at a customer of this standing.
    pub fn includes(self, standing: Standing) -> bool {
        match self {
            Self::Any => true,
            Self::Us => standing == Standing::Us,
            Self::Foreign => standing != Standing::Us,
        }
    }
}

/// Whose total it is. As text and in JSON `kind:id`, such as `customer:acme`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// One training run.
    Run(String),
    /// One customer.
    Customer(String),
    /// Customers joined by ownership or control.
    ControlGroup(String),
    /// A principal that no customer is mapped to.
    Principal(String),
}

/// A kind of subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One training run.
    Run,
    /// One customer.
    Customer,
    /// Customers joined by ownership or control.
    ControlGroup,
    /// A principal that no customer is mapped to.
    Principal,
}

impl Scope {
    /// The name used in packs and before the colon of a subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Customer => "customer",
            Self::ControlGroup => "control_group",
            Self::Principal => "principal",
        }
    }
}

impl Subject {
    /// Its kind.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Run(_) => Scope::Run,
            Self::Customer(_) => Scope::Customer,
            Self::ControlGroup(_) => Scope::ControlGroup,
            Self::Principal(_) => Scope::Principal,
        }
    }

    /// Its id, without the kind.
    pub fn id(&self) -> &str {
        match self {
            Self::Run(id) | Self::Customer(id) | Self::ControlGroup(id) | Self::Principal(id) => id,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scope().as_str(), self.id())
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("run", id)) if !id.is_empty() => Ok(Self::Run(id.into())),
            Some(("customer", id)) if !id.is_empty() => Ok(Self::Customer(id.into())),
            Some(("control_group", id)) if !id.is_empty() => Ok(Self::ControlGroup(id.into())),
            Some(("principal", id)) if !id.is_empty() => Ok(Self::Principal(id.into())),
            _ => Err(format!(
                "{text:?} is not a subject: run, customer, control_group or principal, a colon and an id"
            )),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A rule met by a subject at some certainty, with what was known then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The same for the same pack version, rule, subject and certainty, and for the same arrangement where it is about
    /// one: raising it again changes nothing.
    pub id: String,
    /// Id of the pack.
    pub pack: String,
    /// Its version.
    pub pack_version: String,
    /// SHA-256 of its text, hexadecimal.
    pub pack_sha256: String,
    /// Id of the rule.
    pub rule: String,
    /// Whose total it is.
    pub subject: Subject,
    /// How sure it is.
    pub certainty: Certainty,
    /// When the data say the line was passed; later data may move it.
    pub met_at: UtcMillis,
    /// When we knew. Never moves: it starts the clocks.
    pub raised_at: UtcMillis,
    /// What the account held when it was raised.
    pub totals: Totals,
    /// All of that in a sentence.
    pub reason: String,
    /// What was reserved, where that could result in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrangement: Option<Arrangement>,
}

impl Finding {
    /// Makes the finding that `met` is for `subject`.
    pub fn raise(
        pack: &RulePack,
        rule: &Rule,
        subject: Subject,
        met: &Met,
        totals: &Totals,
        met_at: UtcMillis,
        raised_at: UtcMillis,
    ) -> Self {
        Self {
            id: Self::id_of(pack, rule, &subject, met.certainty),
            pack: pack.id.clone(),
            pack_version: pack.version.clone(),
            pack_sha256: pack.sha256().to_owned(),
            rule: rule.id.clone(),
            reason: reason(pack, rule, &subject, met, totals),
            subject,
            certainty: met.certainty,
            met_at,
            raised_at,
            totals: *totals,
            arrangement: None,
        }
    }

    /// Makes the finding that what is reserved could result in `rule` being met, as of the totals.
    pub fn raise_reserved(
        pack: &RulePack,
        rule: &Rule,
        subject: Subject,
        met: &Met,
        totals: &Totals,
        arrangement: Arrangement,
    ) -> Self {
        let id = Self::id_of_reserved(pack, rule, &subject, &arrangement);
        let reason = reason_reserved(pack, rule, &subject, met, totals, &arrangement);
        let raised = Self::raise(pack, rule, subject, met, totals, totals.as_of, totals.as_of);
        Self { id, reason, arrangement: Some(arrangement), ..raised }
    }

    /// Whether it was raised for this or more: then nothing is new in `arrangement`.
    pub fn covers(&self, pack: &RulePack, rule: &Rule, subject: &Subject, arrangement: &Arrangement) -> bool {
        self.certainty == Certainty::CouldResult
            && self.pack == pack.id
            && self.pack_version == pack.version
            && self.rule == rule.id
            && self.subject == *subject
            && self.arrangement.as_ref().is_some_and(|known| known.covers(arrangement))
    }

    /// The id that such a finding has: 32 hexadecimal digits.
    pub fn id_of(pack: &RulePack, rule: &Rule, subject: &Subject, certainty: Certainty) -> String {
        Self::id_named(pack, rule, certainty.as_str(), subject)
    }

    /// The id of one about what is reserved.
    pub fn id_of_reserved(
        pack: &RulePack,
        rule: &Rule,
        subject: &Subject,
        arrangement: &Arrangement,
    ) -> String {
        let certainty = format!("{}:{}", Certainty::CouldResult, arrangement.sha256());
        Self::id_named(pack, rule, &certainty, subject)
    }

    fn id_named(pack: &RulePack, rule: &Rule, certainty: &str, subject: &Subject) -> String {
        // The subject comes last, so that no other part can be mistaken for a piece of it.
        let named = format!("{}@{}\0{}\0{certainty}\0{subject}", pack.id, pack.version, rule.id);
        let digest = Sha256::digest(named.as_bytes());
        digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn reason(pack: &RulePack, rule: &Rule, subject: &Subject, met: &Met, totals: &Totals) -> String {
    let meets = met.certainty.meets();
    let mut text = format!("{subject} {meets} the criteria of {} ({})", pack.name, rule.title);
    if let Some((line, comparator)) = &met.line {
        let seen = match (met.certainty, &totals.projection) {
            (Certainty::Certain, _) => format!("at least {} operations", totals.bound.low()),
            (Certainty::Likely, _) => {
                format!("in 95 % of comparable cases at least {} operations", totals.calibrated.low())
            }
            (Certainty::Projected, Some(projection)) => {
                format!(
                    "{} operations by {} if the recent rate goes on",
                    projection.bound.best(),
                    projection.until
                )
            }
            (Certainty::Projected | Certainty::Possible | Certainty::CouldResult, _) => {
                format!("up to {} operations cannot be ruled out", totals.bound.high())
            }
        };
        text.push_str(&format!(": {seen}"));
        push_line(&mut text, rule, line, *comparator);
    }
    text
}

fn push_line(text: &mut String, rule: &Rule, line: &Threshold, comparator: Comparator) {
    text.push_str(&format!("; the line is {comparator} {line}"));
    if rule.line_is_operators() {
        text.push_str(", a default of the operator that is not in the text");
    }
}

fn reason_reserved(
    pack: &RulePack,
    rule: &Rule,
    subject: &Subject,
    met: &Met,
    totals: &Totals,
    arrangement: &Arrangement,
) -> String {
    let meets = met.certainty.meets();
    let mut text = format!("{subject} {meets} the criteria of {} ({})", pack.name, rule.title);
    text.push_str(&format!(": {}", arrangement.in_words()));
    if let (Some(asked), Some((line, comparator))) = (&rule.reservations, &met.line) {
        let (bound, calibrated) = arrangement.sum();
        text.push_str(&format!(
            "; all that is reserved comes to {} operations {}, beside {} already counted",
            asked.end.of(&bound, &calibrated),
            asked.end.in_words(),
            asked.end.of_totals(totals)
        ));
        push_line(&mut text, rule, line, *comparator);
    }
    text
}

/// An interval as a record: exact, each key with its unit.
pub(crate) mod interval_record {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    use weighbridge_meter::{Interval, Operations};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Record {
        low_tera: Operations,
        best_tera: Operations,
        high_tera: Operations,
    }

    pub(crate) fn serialize<S: Serializer>(
        interval: &Interval<Operations>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Record { low_tera: interval.low(), best_tera: interval.best(), high_tera: interval.high() }
            .serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Interval<Operations>, D::Error> {
        let record = Record::deserialize(deserializer)?;
        Interval::new(record.low_tera, record.best_tera, record.high_tera).map_err(de::Error::custom)
    }
}

/// The same for a calibrated interval.
pub(crate) mod calibrated_record {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    use weighbridge_meter::{Calibrated, Operations};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Record {
        low_tera: Operations,
        high_tera: Operations,
    }

    pub(crate) fn serialize<S: Serializer>(
        calibrated: &Calibrated,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Record { low_tera: calibrated.low(), high_tera: calibrated.high() }.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Calibrated, D::Error> {
        let record = Record::deserialize(deserializer)?;
        Calibrated::new(record.low_tera, record.high_tera).map_err(de::Error::custom)
    }
}
