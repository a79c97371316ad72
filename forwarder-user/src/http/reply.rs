//! Refusals as HTTP: a status, and what is wrong and what to do next, for people. In the form that the client asks for:
//! problem details (RFC 9457), which WHEP wants, or a plain text.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::problem::{PROBLEM_TYPE, Problem};
use crate::stream::Refusal;

/// An error response: one or two sentences for the person who reads it.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    reason: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What a response says in words, for [`shape`].
#[derive(Clone, Debug)]
struct Words {
    reason: String,
    /// The status alone would be taken for something else: see [`shape`].
    structured: bool,
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
            Refusal::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::NobodyPublishes(_) => {
                return Self::new(StatusCode::CONFLICT, refusal.to_string()).with(header::RETRY_AFTER, "2");
            }
            Refusal::PreconditionFailed(_) => StatusCode::PRECONDITION_FAILED,
            Refusal::PreconditionRequired(_) => StatusCode::PRECONDITION_REQUIRED,
            Refusal::Unavailable(_) => return Self::busy(refusal.to_string()),
        };
        Self::new(status, refusal.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let structured = self.status == StatusCode::NOT_ACCEPTABLE;
        // `String` is `text/plain; charset=utf-8`.
        let mut response = (self.status, format!("{}\n", self.reason)).into_response();
        response.headers_mut().extend(self.headers);
        response.extensions_mut().insert(Words { reason: self.reason, structured });
        response
    }
}

/// Gives refusals the form that the client asks for. In WHEP a 406 with SDP is a counter-offer, which we never make: so
/// that nobody takes ours for one, it is a problem in any case.
pub(super) async fn shape(request: Request, next: Next) -> Response {
    let wants = wants_problem(request.headers());
    let whep = request.uri().path().split('/').any(|segment| segment == "whep");
    let mut response = next.run(request).await;
    let Some(Words { reason, structured }) = response.extensions_mut().remove::<Words>() else { return response };
    if !(wants || whep && structured) {
        return response;
    }
    let problem = Problem::new(response.status(), reason).into_response();
    // Headers stay, also those that others have added, but for those of the body.
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
    Response::from_parts(parts, problem.into_body())
}

/// Does the client name a type of JSON among those that it takes?
fn wants_problem(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let mut types =
        values.flat_map(|value| value.split(',')).map(|one| one.split(';').next().unwrap_or_default().trim());
    types.any(|one| [PROBLEM_TYPE, "application/json"].iter().any(|json| json.eq_ignore_ascii_case(one)))
}
