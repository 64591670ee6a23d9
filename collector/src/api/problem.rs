//! What went wrong, in the form of RFC 9457.

use axum::{
    Json,
    extract::{FromRequestParts, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use weighbridge_casework::CaseError;
use weighbridge_store::{StoreError, ledger::CommitError, verify::chain_of};

use crate::{
    app::App, casefile::CasefileError, casesteps::StepError, import::ImportError, prune::PruneError,
};

/// An answer that is not what was asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Problem {
    title: &'static str,
    #[serde(serialize_with = "as_number")]
    status: StatusCode,
    detail: String,
    /// Each thing that is wrong, where there can be several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(crate) fn new(status: StatusCode, title: &'static str, detail: impl ToString) -> Self {
        Self { title, status, detail: detail.to_string(), errors: Vec::new() }
    }

    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not found", format!("there is no {what} {id:?}"))
    }

    pub(crate) fn unusable(detail: impl ToString) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "not usable", detail)
    }

    pub(crate) fn unavailable(error: &dyn std::error::Error) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not available", chain_of(error))
    }

    pub(crate) fn failed(error: &dyn std::error::Error) -> Self {
        let detail = chain_of(error);
        tracing::error!(problem = detail, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail)
    }

    /// Well-formed, and not possible beside something else.
    pub(crate) fn contradicting(mut self) -> Self {
        (self.status, self.title) = (StatusCode::CONFLICT, "contradiction");
        self
    }

    pub(crate) fn with_errors(mut self, errors: Vec<String>) -> Self {
        self.errors = errors;
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// For the page that says the same.
    pub(crate) fn words(&self) -> (&'static str, &str) {
        (self.title, &self.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::unavailable(&error),
            StoreError::Hole { .. } | StoreError::Nonsense { .. } => Self::failed(&error),
        }
    }
}

impl From<CommitError> for Problem {
    fn from(error: CommitError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<QueryRejection> for Problem {
    fn from(error: QueryRejection) -> Self {
        Self::unusable(chain_of(&error))
    }
}

impl From<CasefileError> for Problem {
    fn from(error: CasefileError) -> Self {
        match error {
            CasefileError::NoCase(id) => Self::not_found("case", &id),
            CasefileError::NoDraft { .. } => Self::new(StatusCode::NOT_FOUND, "not found", error),
            CasefileError::DraftErased { .. } => Self::new(StatusCode::GONE, "erased", error),
            CasefileError::DraftDamaged { .. } => Self::failed(&error),
            CasefileError::Answers(errors) => {
                Self::unusable(format!("nothing is recorded, for {} faults", errors.len()))
                    .with_errors(errors.into_iter().take(weighbridge_registry::SHOWN_FAULTS).collect())
            }
            CasefileError::Parties(error) => error.into(),
            CasefileError::Gone { .. } => Self::unusable(error).contradicting(),
            CasefileError::NoPack { .. } => Self::new(StatusCode::CONFLICT, "pack not loaded", error),
            CasefileError::Blank(_) => Self::unusable(error),
            CasefileError::Store(error) => error.into(),
            CasefileError::Commit(_) | CasefileError::Proof(_) => Self::unavailable(&error),
            CasefileError::Report(_) | CasefileError::Keys(_) | CasefileError::Pdf(_) => Self::failed(&error),
        }
    }
}

impl From<StepError> for Problem {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Case(CaseError::Illegal { .. } | CaseError::NotOpened { .. })
            | StepError::SamePerson { .. } => Self::new(StatusCode::CONFLICT, "not as things stand", error),
            StepError::Case(CaseError::Invalid { .. }) | StepError::Unusable { .. } => Self::unusable(error),
            StepError::Casefile(error) => error.into(),
            StepError::Commit(error) => error.into(),
        }
    }
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::File(errors) => {
                let text = errors.to_string();
                let mut lines = text.lines();
                let detail = lines.next().unwrap_or_default().trim_end_matches(':').to_owned();
                Self::unusable(detail).with_errors(lines.map(str::to_owned).collect())
            }
            ImportError::Contradiction(errors) => {
                Self::unusable("nothing is imported, because the file contradicts what is there")
                    .with_errors(errors)
            }
            ImportError::Keys(_) => Self::failed(&error),
            ImportError::Parties(error) => error.into(),
            ImportError::Commit(error) => error.into(),
        }
    }
}

impl From<PruneError> for Problem {
    fn from(error: PruneError) -> Self {
        match error {
            PruneError::Date { .. } => Self::unusable(error),
            PruneError::Busy { .. } | PruneError::Commit(_) => Self::unavailable(&error),
            _ => Self::failed(&error),
        }
    }
}

/// A request that shows the admin token. Extracted before the body, which is then not even read without it.
pub(crate) struct Admin;

impl FromRequestParts<App> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let refused = |detail| Problem::new(StatusCode::UNAUTHORIZED, "not allowed", detail);
        let value = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| refused("the header `authorization: Bearer <admin token>` is missing"))?;
        if app.is_admin(token) { Ok(Self) } else { Err(refused("this is not the admin token")) }
    }
}
