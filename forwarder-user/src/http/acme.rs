//! Answers to the challenges of whoever gives certificates (HTTP-01, RFC 8555 §8.3).

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::acme::Shown;

/// In front of everything, redirects included, if there are challenges at all.
pub(super) fn with_challenges(all: Router, challenges: Option<Arc<Shown>>) -> Router {
    let Some(challenges) = challenges else { return all };
    let route = get(answer).with_state(challenges);
    Router::new().route_service("/.well-known/acme-challenge/{token}", route).fallback_service(all)
}

async fn answer(State(challenges): State<Arc<Shown>>, Path(token): Path<String>) -> Response {
    match challenges.of_token(&token) {
        Some(answer) => ([(header::CONTENT_TYPE, "application/octet-stream")], answer).into_response(),
        None => (StatusCode::NOT_FOUND, "no such challenge\n").into_response(),
    }
}
