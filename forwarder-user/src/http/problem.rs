//! Refusals for programs: `application/problem+json` (RFC 9457).

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};

/// Media type of the body.
pub(super) const PROBLEM_TYPE: &str = "application/problem+json";

/// What went wrong, as the body of an answer: `type`, `title`, `status` and `detail`.
#[derive(Debug)]
pub(super) struct Problem {
    kind: Option<&'static str>,
    status: StatusCode,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The body (RFC 9457 §3.1).
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    /// Of the type `about:blank`, which means no more than its status; `detail` is what the client reads, so it holds no
    /// secret.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { kind: None, status, detail: detail.into(), headers: Vec::new() }
    }

    /// Gives it a name of its own, that programs can tell it by: `type` is `/problems/NAME` (RFC 9457 §3.1.1).
    #[must_use]
    pub(super) fn named(mut self, kind: &'static str) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Adds a header of which the value is ours.
    #[must_use]
    pub(super) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// Adds headers that somebody else has made.
    #[must_use]
    pub(super) fn with_all(mut self, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        self.headers.extend(headers);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: self.kind.map_or_else(|| "about:blank".to_owned(), |kind| format!("/problems/{kind}")),
            title: self.status.canonical_reason().unwrap_or("Refused"),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        // Texts and a number: they can always be written.
        let text = serde_json::to_string(&body).unwrap_or_default();
        let mut response = (self.status, [(header::CONTENT_TYPE, PROBLEM_TYPE)], text).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}

/// The query of a request, as axum reads it; what cannot be read is a problem.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|error| Problem::new(error.status(), error.body_text()))
    }
}

/// What a request's path names, as above.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|error| Problem::new(error.status(), error.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn members_are_those_of_the_rfc() {
        let problem = Problem::new(StatusCode::NOT_FOUND, "no \"such\" session");
        let response = problem.named("no-session").with(header::RETRY_AFTER, "2").into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_TYPE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let body = to_bytes(response.into_body(), 1 << 16).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let wanted = json!({
            "type": "/problems/no-session", "title": "Not Found", "status": 404, "detail": "no \"such\" session",
        });
        assert_eq!(body, wanted);
    }
}
