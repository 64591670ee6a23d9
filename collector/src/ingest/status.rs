//! What agents say of themselves ahead of batches that wait: kept in memory, shown, and worth nothing as evidence.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use weighbridge_meter::{AgentId, UtcMillis};
use weighbridge_wire::{Report, limits, report};

use super::{Refusal, over_quota, unreadable, whole};
use crate::app::App;

/// A report whose status is dated later than it was received by more than this is not newer than any other.
const AHEAD_MS: i64 = 5 * UtcMillis::MINUTE;

/// The last word of each agent on itself.
#[derive(Debug, Default)]
pub struct LastSaid(Mutex<HashMap<AgentId, Said>>);

/// A report, and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// When we had it.
    pub received: UtcMillis,
    /// What it says.
    pub report: Report,
}

impl LastSaid {
    /// Takes a report, unless a newer one is here: reports may be old ones that somebody sends again.
    pub fn hear(&self, report: Report, received: UtcMillis) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = all.get(&report.agent).is_none_or(|known| {
            if known.report.boot == report.boot {
                return known.report.boot_ms < report.boot_ms;
            }
            let dated = |report: &Report, received: UtcMillis| report.status.at.min(received.plus(AHEAD_MS));
            dated(&known.report, known.received) < dated(&report, received)
        });
        if newer {
            all.insert(report.agent.clone(), Said { received, report });
        }
    }

    /// What each agent said last.
    pub fn all(&self) -> HashMap<AgentId, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(super) async fn take(State(app): State<App>, request: Request) -> Response {
    match accept(&app, request).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn accept(app: &App, request: Request) -> Result<(), Refusal> {
    let (parts, body) = request.into_parts();
    let body = super::of_admitted(app, &parts, body, limits::REPORT_BYTES).await?;
    let body = whole(&parts.headers, body, limits::REPORT_BYTES).await?;
    let envelope = report::decode(&body).map_err(|error| unreadable(&error))?;
    let (agent, key) = app.agent(envelope.key_id()).ok_or_else(|| super::unknown(envelope.key_id()))?;
    super::admitted(app, &parts, &agent.agent)?;
    let now = app.now();
    app.quotas.allows(&agent.agent, now).map_err(|wait| over_quota(&agent.agent, wait))?;
    let report = report::open(&envelope, &key).map_err(|error| unreadable(&error))?;
    app.quotas.spend(&agent.agent, body.len(), now);
    if report.agent != agent.agent {
        return Err(super::somebody_elses(&report.agent, &agent.agent));
    }
    app.said.hear(report, now);
    Ok(())
}

#[cfg(test)]
mod tests {
    use weighbridge_meter::{BootId, EpochId};
    use weighbridge_wire::Status;

    use super::*;

    fn at(minutes: i64) -> UtcMillis {
        UtcMillis(1_769_846_400_000 + minutes * UtcMillis::MINUTE)
    }

    fn said(boot: u8, boot_ms: u64, status_at: UtcMillis) -> Report {
        Report {
            agent: "a".parse().expect("short"),
            epoch: EpochId([1; 16]),
            sequence: 7,
            boot: BootId([boot; 16]),
            boot_ms,
            status: Status {
                at: status_at,
                version: "1".into(),
                host: "h".into(),
                source_state: "ok".into(),
                spool_bytes: 1,
                unacknowledged: 2,
            },
        }
    }

    #[test]
    fn an_old_report_that_comes_again_changes_nothing_and_a_clock_ahead_does_not_win_for_ever() {
        let last = LastSaid::default();
        let known = |last: &LastSaid| {
            let said = last.all().remove(&"a".parse().expect("short")).expect("said");
            (said.report.boot.0[0], said.report.boot_ms)
        };
        last.hear(said(1, 500, at(10)), at(10));
        last.hear(said(1, 400, at(11)), at(11));
        assert_eq!(known(&last), (1, 500), "earlier in the same boot");
        last.hear(said(2, 100, at(20)), at(20));
        last.hear(said(1, 900, at(19)), at(21));
        assert_eq!(known(&last), (2, 100), "of a boot before");
        last.hear(said(3, 50, at(10_000)), at(30));
        assert_eq!(known(&last), (3, 50));
        last.hear(said(4, 10, at(60)), at(60));
        assert_eq!(known(&last), (4, 10), "though the one before was dated years ahead");
    }
}
