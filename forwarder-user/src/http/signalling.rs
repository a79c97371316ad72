//! WHIP and WHEP. Both speak the same HTTP; the role decides who sends.

use std::{future::Future, sync::Arc};

use axum::{
    Router,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, patch, post},
};

use super::{
    App,
    auth::{self, Shown},
    body::{self, ACCEPT_PATCH, ACCEPT_POST, FRAGMENT_TYPE, SDP_TYPE},
    client, name,
    reply::Failure,
};
use penstock_media::Role;

use crate::{
    config::Action,
    rights::{Grant, Watch},
    stream::{Answer, Control, Patched, Refusal, Visitor},
};

type Shared = State<Arc<App>>;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/{stream}/whip", endpoint(Role::Publisher))
        .route("/{stream}/whep", endpoint(Role::Subscriber))
        .route("/{stream}/whip/{session}", resource(Role::Publisher))
        .route("/{stream}/whep/{session}", resource(Role::Subscriber))
}

fn endpoint(role: Role) -> MethodRouter<Arc<App>> {
    post(move |State(app): Shared, path: Result<Path<String>, PathRejection>, request: Request| async move {
        let Path(stream) = path.map_err(bad_path)?;
        open(&app, role, stream, request).await
    })
    .fallback(|| async {
        Failure::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "a session is opened by POST with an SDP offer; this address knows only POST and OPTIONS",
        )
        .with(header::ALLOW, "POST, OPTIONS")
        .with(ACCEPT_POST, SDP_TYPE)
    })
}

fn resource(role: Role) -> MethodRouter<Arc<App>> {
    type Session = Result<Path<(String, String)>, PathRejection>;
    patch(move |State(app): Shared, path: Session, request: Request| async move {
        let Path((stream, session)) = path.map_err(bad_path)?;
        change(&app, role, stream, session, request).await
    })
    .delete(move |State(app): Shared, path: Session, shown: Shown| async move {
        let Path((stream, session)) = path.map_err(bad_path)?;
        close(&app, role, stream, session, &shown).await
    })
    .fallback(|| async {
        Failure::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "a session is changed by PATCH and closed by DELETE; this address knows nothing else",
        )
        .with(header::ALLOW, "PATCH, DELETE, OPTIONS")
        .with(ACCEPT_PATCH, FRAGMENT_TYPE)
    })
}

/// POST (RFC 9725 §4.2): 201 with the answer and the address of the session.
async fn open(app: &App, role: Role, stream: String, request: Request) -> Result<Response, Failure> {
    let (_permit, grant) = admit(app, role, &stream, &Shown::of(&request), true).await?;
    let watch = app.settings.rights().watch(&grant);
    let visitor = Visitor { from: client::block(&request), grant };
    let offer = body::text(app, request, SDP_TYPE, ACCEPT_POST).await?;
    let Answer { session, sdp, etag } = within(app, app.control.offer(role, stream.clone(), visitor, offer)).await?;
    if let Some(watch) = watch {
        tokio::spawn(end_with(watch, app.control.clone(), session.clone()));
    }
    let headers = [
        (header::CONTENT_TYPE, header_value(SDP_TYPE)?),
        (header::LOCATION, header_value(&format!("/{stream}/{}/{session}", segment(role)))?),
        (header::ETAG, header_value(&format!("\"{etag}\""))?),
        (ACCEPT_PATCH, header_value(FRAGMENT_TYPE)?),
        (header::CACHE_CONTROL, header_value("no-store")?),
    ];
    Ok((StatusCode::CREATED, headers, sdp).into_response())
}

/// PATCH (RFC 9725 §4.3): 204 for candidates, 200 with our fragment for an ICE restart.
async fn change(app: &App, role: Role, stream: String, session: String, request: Request) -> Result<Response, Failure> {
    let (_permit, _) = admit(app, role, &stream, &Shown::of(&request), false).await?;
    let if_match = if_match(request.headers())?;
    let fragment = body::text(app, request, FRAGMENT_TYPE, ACCEPT_PATCH).await?;
    match within(app, app.control.patch(role, stream, session, if_match, fragment)).await? {
        Patched::Trickled => Ok(StatusCode::NO_CONTENT.into_response()),
        Patched::Restarted { fragment, etag } => {
            let headers = [
                (header::CONTENT_TYPE, header_value(FRAGMENT_TYPE)?),
                (header::ETAG, header_value(&format!("\"{etag}\""))?),
                (header::CACHE_CONTROL, header_value("no-store")?),
            ];
            Ok((StatusCode::OK, headers, fragment).into_response())
        }
    }
}

/// DELETE (RFC 9725 §4.2): 200 once no more media is sent.
async fn close(app: &App, role: Role, stream: String, session: String, shown: &Shown) -> Result<StatusCode, Failure> {
    let (_permit, _) = admit(app, role, &stream, shown, false).await?;
    within(app, app.control.delete(role, stream, session)).await?;
    Ok(StatusCode::OK)
}

/// What every signalling request must pass before its body is read. `opens`: for a session that is to be.
async fn admit<'a>(
    app: &'a App,
    role: Role,
    stream: &str,
    shown: &Shown,
    opens: bool,
) -> Result<(tokio::sync::SemaphorePermit<'a>, Grant), Failure> {
    name::check(stream)?;
    let permit = app.requests.try_acquire().map_err(|_| {
        Failure::busy("too many requests at a time (`limits.http_requests` in the configuration): try again soon")
    })?;
    Ok((permit, auth::permit(app, action(role), stream, shown, opens).await?))
}

/// Ends a session when its right is taken away, and itself when the session ends.
async fn end_with(watch: Watch, control: Control, session: String) {
    if watch.is_taken_away().await {
        control.kick(session, "its right to be here was taken away".into()).await;
    }
}

/// Bounds the wait for the control task.
async fn within<T>(app: &App, answer: impl Future<Output = Result<T, Refusal>>) -> Result<T, Failure> {
    match tokio::time::timeout(app.settings.current().timeout, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::busy("the server is overloaded and did not answer in time: try again soon")),
    }
}

fn action(role: Role) -> Action {
    match role {
        Role::Publisher => Action::Publish,
        Role::Subscriber => Action::Play,
    }
}

fn segment(role: Role) -> &'static str {
    match role {
        Role::Publisher => "whip",
        Role::Subscriber => "whep",
    }
}

/// The entity tag of `If-Match` without quotes, or `*`. RFC 9725 §4.3.3 prints the wildcard with
/// quotes too, so both forms mean it.
fn if_match(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let value = value.to_str().unwrap_or_default().trim();
    if value == "*" {
        return Ok(Some("*".into()));
    }
    let tag = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match tag {
        Some(tag) if !tag.contains('"') => Ok(Some(tag.into())),
        _ => Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "If-Match must be one strong entity tag in quotes, as the ETag of the answer, or *",
        )),
    }
}

fn bad_path(rejection: PathRejection) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, rejection.body_text())
}

fn header_value(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text)
        .map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer does not fit in a header"))
}
