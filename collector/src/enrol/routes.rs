//! The requests about trust: those of agents on the ingest port, those of operators beside the API.

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request, State, rejection::BytesRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use weighbridge_wire::enrol::{Issued, JOIN_PATH, LONGEST, RENEW_PATH, Refused, RefusedCode};

use super::{Act, ActError, Acted, Refusal};
use crate::{
    api::problem::{Admin, Problem},
    app::App,
    ingest::BODY,
    tls::{TrustError, authority::AuthorityError, peer::PeerAgent},
};

/// Joining and renewing.
pub(crate) fn on_ingest(app: App) -> Router {
    Router::new()
        .route(JOIN_PATH, post(join))
        .route(RENEW_PATH, post(renew))
        .layer(DefaultBodyLimit::max(LONGEST))
        .with_state(app)
}

/// What operators do.
pub(crate) fn on_api() -> Router<App> {
    Router::new().route("/api/v1/trust", post(act))
}

async fn join(State(app): State<App>, request: Request) -> Result<Json<Issued>, Refusal> {
    Ok(Json(app.join(read(request).await?).await?))
}

async fn renew(
    State(app): State<App>,
    Extension(peer): Extension<Option<PeerAgent>>,
    request: Request,
) -> Result<Json<Issued>, Refusal> {
    Ok(Json(app.renew(peer.as_ref(), &read(request).await?)?))
}

/// What is asked, if all of it comes in time: whoever joins has shown nothing yet.
async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    let bad = |detail: String| Refusal { code: RefusedCode::BadRequest, detail };
    let body = timeout(BODY, Bytes::from_request(request, &())).await.map_err(|_| Refusal {
        code: RefusedCode::NotAvailable,
        detail: format!("the body did not come within {} s", BODY.as_secs()),
    })?;
    let body = body.map_err(|error| bad(error.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| bad(format!("the body is no such request: {error}")))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, title) = match self.code {
            RefusedCode::TokenUnknown => (StatusCode::FORBIDDEN, "token unknown"),
            RefusedCode::TokenUsed => (StatusCode::FORBIDDEN, "token used"),
            RefusedCode::TokenExpired => (StatusCode::FORBIDDEN, "token expired"),
            RefusedCode::OtherAgent => (StatusCode::FORBIDDEN, "token of another agent"),
            RefusedCode::Denied => (StatusCode::FORBIDDEN, "denied"),
            RefusedCode::NoCertificate => (StatusCode::FORBIDDEN, "no certificate"),
            RefusedCode::NotEnrolled => (StatusCode::FORBIDDEN, "not enrolled"),
            RefusedCode::NotIssuedHere => (StatusCode::NOT_FOUND, "not issued here"),
            RefusedCode::NotAvailable => (StatusCode::SERVICE_UNAVAILABLE, "not available"),
            RefusedCode::BadRequest | RefusedCode::Other => (StatusCode::BAD_REQUEST, "bad request"),
        };
        let refused =
            Refused { title: title.into(), status: status.as_u16(), detail: self.detail, code: self.code };
        let mut response = (status, Json(refused)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

async fn act(
    State(app): State<App>,
    _admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Acted>, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), "body not readable", error.body_text()))?;
    let act: Act = serde_json::from_slice(&body).map_err(Problem::unusable)?;
    Ok(Json(app.act(act).await?))
}

impl From<ActError> for Problem {
    fn from(error: ActError) -> Self {
        match error {
            ActError::Unusable(detail) => Self::unusable(detail),
            ActError::Trust(TrustError::NotHere(detail)) => Self::unusable(detail),
            ActError::Trust(TrustError::Authority(
                error @ (AuthorityError::Step(_) | AuthorityError::TooEarly { .. }),
            )) => Self::unusable(error),
            ActError::Trust(error) => Self::failed(&error),
            ActError::Commit(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use axum::body::Body;
    use hyper::body::Frame;
    use tokio::time::{Duration, Instant};
    use weighbridge_wire::enrol::JoinRequest;

    use super::*;

    /// A body that drips for ever.
    struct Drips(Pin<Box<tokio::time::Sleep>>);

    impl hyper::body::Body for Drips {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            std::task::ready!(self.0.as_mut().poll(context));
            let next = Instant::now() + Duration::from_secs(1);
            self.0.as_mut().reset(next);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_to_join_that_drips_is_given_up_in_time() {
        let began = Instant::now();
        let dripping = Body::new(Drips(Box::pin(tokio::time::sleep(Duration::ZERO))));
        let refused = read::<JoinRequest>(Request::new(dripping)).await.expect_err("it never ends");
        assert_eq!(refused.code, RefusedCode::NotAvailable, "{refused:?}");
        assert_eq!(began.elapsed().as_secs(), BODY.as_secs());
    }
}
