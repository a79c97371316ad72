//! Refusals as HTTP: a status and a plain text that says what is wrong and what to do next.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::problem::Problem;
use crate::stream::Refusal;

/// An error response. The body is `text/plain`, one or two sentences for the person who reads it.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    reason: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    /// Without headers of its own; `reason` is what the client reads, so it holds no secret.
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), headers: Vec::new() }
    }

    /// Adds a header of which the value is ours.
    pub fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// 503: too much to do, or stopping.
    pub fn busy(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason).with(header::RETRY_AFTER, "2")
    }
}

impl Failure {
    /// The same for programs.
    pub(super) fn into_problem(self) -> Problem {
        Problem::new(self.status, self.reason).with_all(self.headers)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::NotAcceptable(_) => StatusCode::NOT_ACCEPTABLE,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::PreconditionFailed(_) => StatusCode::PRECONDITION_FAILED,
            Refusal::PreconditionRequired(_) => StatusCode::PRECONDITION_REQUIRED,
            Refusal::Unavailable(_) => return Self::busy(refusal.to_string()),
        };
        Self::new(status, refusal.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut text = self.reason;
        text.push('\n');
        // `String` is `text/plain; charset=utf-8`.
        let mut response = (self.status, text).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}
