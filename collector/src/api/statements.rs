//! Statements: reservations, declarations, topologies and the others.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection, rejection::QueryRejection},
    http::StatusCode,
};
use serde_json::Value;
use weighbridge_registry::{Statement, statement::Kind};

use super::{
    parties::{BY, DryRun, body},
    problem::{Admin, Problem},
};
use crate::{
    app::App,
    import::Imported,
    parties::{By, Kept},
};

fn kind(plural: &str) -> Result<Kind, Problem> {
    Kind::from_plural(plural).ok_or_else(|| {
        let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
        Problem::new(
            StatusCode::NOT_FOUND,
            "not found",
            format!("{plural:?} is not one of {}", all.join(", ")),
        )
    })
}

/// As it may be shown to everybody: what is under lock says whose it is, and no more.
pub(crate) fn shown(kept: &Kept) -> Value {
    match kept {
        Kept::Clear(statement) => serde_json::to_value(statement).unwrap_or_default(),
        Kept::Sealed { id, customer, .. } => {
            serde_json::json!({ "id": id, "customer": customer, "sealed": true })
        }
    }
}

/// All of one kind, in order of ids.
pub(super) async fn statements(
    State(app): State<App>,
    Path(plural): Path<String>,
) -> Result<Json<Value>, Problem> {
    let kept = app.statements(kind(&plural)?);
    Ok(Json(
        serde_json::json!({ "as_of": app.now(), "statements": kept.iter().map(shown).collect::<Vec<_>>() }),
    ))
}

/// One statement as an object, or several as a list of such: all of them are taken, or none.
pub(super) async fn put_statements(
    State(app): State<App>,
    Path(plural): Path<String>,
    asked: Result<Query<DryRun>, QueryRejection>,
    _admin: Admin,
    told: Result<Bytes, BytesRejection>,
) -> Result<Json<Imported>, Problem> {
    let (kind, Query(asked)) = (kind(&plural)?, asked?);
    let told: Value = body(told, "an object of a statement, or a list of such")?;
    let told = match told {
        Value::Array(list) => list,
        one => vec![one],
    };
    let (mut statements, mut bad) = (Vec::new(), Vec::new());
    for (index, told) in told.iter().enumerate() {
        match read(kind, told) {
            Ok(statement) => statements.push(statement),
            Err(problems) => bad.extend(problems.into_iter().map(|problem| format!("[{index}].{problem}"))),
        }
    }
    if !bad.is_empty() {
        let shown = bad.len().min(weighbridge_registry::SHOWN_FAULTS);
        let detail = format!("nothing is recorded, for {} faults", bad.len());
        bad.truncate(shown);
        return Err(Problem::unusable(detail).with_errors(bad));
    }
    Ok(Json(app.put_statements(statements, asked.how()).await?))
}

fn read(kind: Kind, told: &Value) -> Result<Statement, Vec<String>> {
    let Value::Object(told) = told else { return Err(vec![" is no object of a statement".into()]) };
    let mut cells = BTreeMap::new();
    let mut bad = Vec::new();
    for (name, value) in told {
        let Some(field) = kind.names().iter().find(|field| *field == name) else {
            let name: String = name.chars().take(80).collect();
            bad.push(format!("{name}: unknown, expected one of {}", kind.names().join(", ")));
            continue;
        };
        match value {
            Value::Null => {}
            Value::String(text) => drop(cells.insert((*field).to_owned(), text.clone())),
            Value::Number(number) => drop(cells.insert((*field).to_owned(), number.to_string())),
            Value::Bool(is) => {
                drop(cells.insert((*field).to_owned(), if *is { "yes" } else { "no" }.to_owned()));
            }
            Value::Array(_) | Value::Object(_) => {
                bad.push(format!("{field}: a list or an object, expected text"))
            }
        }
    }
    match Statement::read(kind, |field| cells.get(field).map(String::as_str)) {
        Ok(statement) if bad.is_empty() => Ok(statement),
        read => {
            let cells = read.err().into_iter().flatten();
            bad.extend(cells.map(|cell| format!("{}: expected {}", cell.field, cell.expected)));
            Err(bad)
        }
    }
}

/// Opens one that is under lock.
pub(super) async fn reveal(
    State(app): State<App>,
    Path((plural, id)): Path<(String, String)>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<Statement>, Problem> {
    let by: By = body(asked, BY)?;
    Ok(Json(app.reveal_statement(kind(&plural)?, &id, &by).await?))
}
