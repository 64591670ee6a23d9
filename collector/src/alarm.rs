//! What should never happen between an agent and its collector: recorded once, with the moment we knew.
//!
//! An alarm is about an identity, not about anybody: two histories under one key are a cloned host, a snapshot that
//! was restored, or a forgery; a window that cannot be is a broken sensor, a wrong clock, or somebody's hand. Only a
//! person finds out which. It changes no sum: nothing of a refused batch is kept, where two epochs of one agent
//! overlap the first in the ledger counts, and what cannot be is certain of nothing whether anybody looks or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weighbridge_meter::{AgentId, EpochId, UtcMillis};
use weighbridge_store::{
    Fact, State,
    hour::DoubtedHour,
    ledger::{CLOCK_TOLERANCE_MS, CommitError},
    state::{AgentSeen, CursorRow},
};

use crate::{
    app::{App, record},
    judge::fact,
    view::View,
};

/// Two epochs of one agent may overlap by so much: the wall clock is anchored anew at each start.
const SLACK_MS: i64 = UtcMillis::MINUTE;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// A number came again with other content.
    Conflict,
    /// A number came again and goes on from what is here: the spool was set back to an earlier state, or two have it.
    SetBack,
    /// A batch does not follow on the one before it.
    BrokenChain,
    /// Two epochs of one agent measured at the same time: two hosts with one identity, or a restored one.
    TwoEpochs,
    /// Windows of an accelerator say what cannot be.
    Implausible,
    /// The boot clock of a host and ours moved apart within one boot.
    BootClock,
}

impl AlarmKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Conflict,
        Self::SetBack,
        Self::BrokenChain,
        Self::TwoEpochs,
        Self::Implausible,
        Self::BootClock,
    ];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::SetBack => "set_back",
            Self::BrokenChain => "broken_chain",
            Self::TwoEpochs => "two_epochs",
            Self::Implausible => "implausible",
            Self::BootClock => "boot_clock",
        }
    }

    /// In words, for people.
    pub fn means(self) -> &'static str {
        match self {
            Self::Conflict => "a number came twice with different content: the second was refused",
            Self::SetBack => {
                "its spool was set back, as by a restored snapshot, or two hosts have it: refused"
            }
            Self::BrokenChain => "a batch does not follow on the one before it: refused",
            Self::BootClock => "its boot clock and ours moved apart: when its windows were is in doubt",
            Self::Implausible => "it measured what cannot be: certain of nothing, possible up to the peak",
            Self::TwoEpochs => {
                "two epochs measured at the same time, as of a cloned host: the first to come counts"
            }
        }
    }
}

/// An alarm, as it was raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Names it: kind, agent and epoch, or accelerator and doubt. Raised once for each, however often it happens.
    pub id: String,
    /// What happened.
    pub kind: AlarmKind,
    /// Under whose identity.
    pub agent: AgentId,
    /// In which epoch, where it is about one.
    pub epoch: Option<EpochId>,
    /// What exactly.
    pub detail: String,
    /// When we knew.
    pub raised_at: UtcMillis,
}

impl Alarm {
    fn new(kind: AlarmKind, agent: AgentId, epoch: EpochId, detail: String, raised_at: UtcMillis) -> Self {
        let id = format!("{}:{agent}:{epoch}", kind.as_str());
        Self { id, kind, agent, epoch: Some(epoch), detail, raised_at }
    }

    /// The alarm that a refused batch is; `None` where it is none.
    pub fn of_refusal(error: &CommitError, at: UtcMillis) -> Option<Self> {
        let (kind, agent, epoch) = match error {
            CommitError::Conflict { agent, epoch, set_back: true, .. } => (AlarmKind::SetBack, agent, epoch),
            CommitError::Conflict { agent, epoch, .. } => (AlarmKind::Conflict, agent, epoch),
            CommitError::BrokenChain { agent, epoch, .. } => (AlarmKind::BrokenChain, agent, epoch),
            _ => return None,
        };
        Some(Self::new(kind, agent.clone(), *epoch, error.to_string(), at))
    }

    /// As it goes into the ledger.
    pub fn fact(&self) -> Fact {
        fact(record::ALARM, &self.id, self)
    }
}

/// Alarms to raise as of a view that were not raised before.
pub fn to_raise(view: &View, state: &State, known: &BTreeMap<String, Alarm>) -> Vec<Alarm> {
    let mut alarms = two_epochs(&view.epochs, view.as_of);
    alarms.extend(state.seen.iter().filter_map(|(agent, seen)| boot_clock(agent, seen, view.as_of)));
    alarms.extend(view.doubted.iter().map(|said| implausible(said, view.as_of)));
    alarms.sort_by(|a, b| a.id.cmp(&b.id));
    // Of what happened in many hours the first one tells.
    alarms.dedup_by(|later, first| later.id == first.id);
    alarms.retain(|alarm| !known.contains_key(&alarm.id));
    alarms
}

/// Epochs of one agent that measured at the same time. Of those that overlap, the one that was received later is
/// named; rows come in order of agents.
fn two_epochs(rows: &[CursorRow], at: UtcMillis) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    for of_agent in rows.chunk_by(|a, b| a.agent == b.agent) {
        let mut measured: Vec<_> = of_agent.iter().filter_map(|row| Some((row.measured?, row))).collect();
        measured.sort_by_key(|((start, end), row)| (*start, *end, row.epoch));
        let mut longest: Option<(UtcMillis, &CursorRow)> = None;
        for ((start, end), row) in measured {
            if let Some((until, other)) = longest
                && until.since(start) > SLACK_MS
            {
                let first = |row: &CursorRow| row.received.map(|(first, _)| first);
                let (older, newer) = if first(row) < first(other) { (row, other) } else { (other, row) };
                let detail = format!(
                    "epochs {} and {} both measured from {start} to {}",
                    older.epoch,
                    newer.epoch,
                    until.min(end)
                );
                alarms.push(Alarm::new(AlarmKind::TwoEpochs, row.agent.clone(), newer.epoch, detail, at));
            }
            if longest.is_none_or(|(until, _)| until < end) {
                longest = Some((end, row));
            }
        }
    }
    alarms
}

fn boot_clock(agent: &AgentId, seen: &AgentSeen, at: UtcMillis) -> Option<Alarm> {
    let jumped = seen.boot_jumped_ms;
    let word = if jumped < 0 { "earlier" } else { "later" };
    (jumped.abs() > CLOCK_TOLERANCE_MS).then(|| Alarm {
        id: format!("{}:{agent}:{}", AlarmKind::BootClock.as_str(), seen.boot),
        kind: AlarmKind::BootClock,
        agent: agent.clone(),
        epoch: None,
        detail: format!(
            "boot {} began {} s {word} than it did when it first sent",
            seen.boot,
            jumped.abs() / 1000
        ),
        raised_at: at,
    })
}

fn implausible(said: &DoubtedHour, at: UtcMillis) -> Alarm {
    let DoubtedHour { accelerator, hour, agent, doubt, millis } = said;
    Alarm {
        id: format!("{}:{agent}:{accelerator}:{}", AlarmKind::Implausible.as_str(), doubt.as_str()),
        kind: AlarmKind::Implausible,
        agent: agent.clone(),
        epoch: None,
        detail: format!("{accelerator}, hour {hour}: {}, in {} s of windows", doubt.means(), millis / 1000),
        raised_at: at,
    }
}

impl App {
    /// Records an alarm, unless it was raised before.
    pub async fn raise(&self, alarm: Alarm) -> Result<(), CommitError> {
        if self.casebook().alarms.contains_key(&alarm.id) {
            return Ok(());
        }
        tracing::error!(alarm = alarm.id, detail = alarm.detail, "alarm: someone must look");
        self.ledger.record(self.now(), vec![alarm.fact()]).await?;
        self.casebook().alarms.entry(alarm.id.clone()).or_insert(alarm);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use weighbridge_store::numbers::Numbers;

    use super::*;

    fn row(agent: &str, epoch: u8, from: i64, to: i64, first: i64) -> CursorRow {
        let at = |minutes: i64| UtcMillis(1_769_846_400_000 + minutes * UtcMillis::MINUTE);
        CursorRow {
            agent: agent.parse().expect("short"),
            epoch: EpochId([epoch; 16]),
            numbers: Numbers::default(),
            measured: Some((at(from), at(to))),
            received: Some((at(first), at(to))),
        }
    }

    fn raised(rows: &[CursorRow]) -> Vec<u8> {
        two_epochs(rows, UtcMillis(0)).iter().filter_map(|alarm| Some(alarm.epoch?.0[0])).collect()
    }

    #[test]
    fn epochs_of_one_agent_that_overlap_are_an_alarm_and_those_that_follow_each_other_are_none() {
        assert_eq!(
            raised(&[row("a", 1, 0, 60, 1), row("a", 2, 60, 90, 61), row("a", 3, 89, 95, 90)]),
            [0; 0]
        );
        assert_eq!(raised(&[row("a", 1, 0, 60, 1), row("b", 2, 30, 90, 31)]), [0; 0], "of two agents");
        assert_eq!(raised(&[row("a", 1, 0, 60, 1), row("a", 2, 30, 90, 31)]), [2]);
        assert_eq!(raised(&[row("a", 1, 0, 60, 1), row("a", 2, 58, 90, 0)]), [1], "the one that came later");
        assert_eq!(raised(&[row("a", 1, 0, 600, 1), row("a", 2, 10, 20, 2), row("a", 3, 30, 40, 3)]), [2, 3]);
    }
}
