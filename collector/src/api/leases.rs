//! Leases: what is there, and new ones from whatever gives hosts away.
//!
//! A lease is taken by the same rules as from a file, and becomes the same fact. Sent again it changes nothing; sent
//! with other times for the same host and accelerators it is a correction: a record of its own, which replaces what was
//! said before.

use axum::{
    Json,
    body::Bytes,
    extract::{Query, State, rejection::BytesRejection, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weighbridge_meter::{AttemptId, Principal, UtcMillis};
use weighbridge_registry::{LEASE_COLUMNS, lease_rows};
use weighbridge_store::entry::LeaseFact;

use super::problem::{Admin, Problem};
use crate::{
    app::App,
    import::{ImportError, Imported, selector_text},
};

/// The largest body with leases, in bytes: some fifty thousand. More are imported as a file.
pub(super) const LEASE_BYTES: usize = 8 << 20;

/// Leases in one answer.
const MOST_LEASES: usize = 100_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeasesAsked {
    host: Option<String>,
    principal: Option<Principal>,
    lease: Option<AttemptId>,
}

#[derive(Debug, Serialize)]
pub(super) struct Leases {
    as_of: UtcMillis,
    leases: Vec<LeaseJson>,
}

/// As it would be imported.
#[derive(Debug, Serialize)]
struct LeaseJson {
    lease: AttemptId,
    host: String,
    accelerator: String,
    principal: Principal,
    start: UtcMillis,
    /// Where it ends as it starts, it was replaced and says nothing.
    end: UtcMillis,
}

impl From<&LeaseFact> for LeaseJson {
    fn from(LeaseFact { lease, host, selector, principal, start, end }: &LeaseFact) -> Self {
        let (lease, host, principal) = (lease.clone(), host.clone(), principal.clone());
        Self { lease, host, accelerator: selector_text(selector), principal, start: *start, end: *end }
    }
}

/// By host, and there by name.
pub(super) async fn leases(
    State(app): State<App>,
    asked: Result<Query<LeasesAsked>, QueryRejection>,
) -> Result<Json<Leases>, Problem> {
    let Query(LeasesAsked { host, principal, lease }) = asked?;
    let as_of = app.now();
    let found: Vec<LeaseJson> = app.shared.with(|state| {
        let of_hosts = state
            .leases
            .iter()
            .filter(|(name, _)| host.as_ref().is_none_or(|host| name.as_ref() == host.as_str()));
        let all = of_hosts.flat_map(|(_, leases)| leases.values());
        let asked = all.filter(|fact| {
            principal.as_ref().is_none_or(|principal| *principal == fact.principal)
                && lease.as_ref().is_none_or(|lease| *lease == fact.lease)
        });
        asked.take(MOST_LEASES + 1).map(LeaseJson::from).collect()
    });
    if found.len() > MOST_LEASES {
        let detail = format!("more than {MOST_LEASES} leases: narrow it by host, principal or lease");
        return Err(Problem::unusable(detail));
    }
    Ok(Json(Leases { as_of, leases: found }))
}

/// One lease as an object, or several as a list of such: all of them are taken, or none.
pub(super) async fn lease(
    State(app): State<App>,
    _admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Imported>, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), "body not readable", error.body_text()))?;
    let json: Value = serde_json::from_slice(&body)
        .map_err(|error| Problem::unusable(format!("the body is no JSON: {error}")))?;
    let rows = match json {
        Value::Array(rows) => rows,
        row => vec![row],
    };
    let rows = lease_rows("request", rows.into_iter().map(values)).map_err(|errors| {
        let overlap = errors.overlaps == errors.total;
        let problem = Problem::from(ImportError::from(errors));
        if overlap { problem.contradicting() } else { problem }
    })?;
    match app.lease("request", rows).await {
        Ok(imported) => Ok(Json(imported)),
        Err(ImportError::Contradiction(errors)) => {
            let problem = Problem::unusable("nothing is recorded, because it contradicts what is there");
            Err(problem.contradicting().with_errors(errors))
        }
        Err(error) => Err(error.into()),
    }
}

/// What stands in each column. A value that is missing is blank, as in a file.
fn values(row: Value) -> Result<[String; LEASE_COLUMNS.len()], String> {
    let expected = LEASE_COLUMNS.join(", ");
    let Value::Object(row) = row else { return Err(format!("no object, expected one with {expected}")) };
    let mut values = [const { String::new() }; LEASE_COLUMNS.len()];
    for (name, value) in row {
        let column = LEASE_COLUMNS.iter().position(|column| *column == name);
        let place = column.and_then(|column| values.get_mut(column));
        match (place, value) {
            (Some(place), Value::String(text)) => *place = text,
            (Some(_), _) => return Err(format!("{name}: expected text")),
            (None, _) => {
                let name: String = name.chars().take(80).collect();
                return Err(format!("{name:?} is unknown, expected {expected}"));
            }
        }
    }
    Ok(values)
}
