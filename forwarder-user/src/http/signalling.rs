//! WHIP and WHEP. Both speak the same HTTP; the role decides who sends.

use std::{future::Future, sync::Arc};

use axum::{
    Router,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, patch, post},
};

use super::{
    App, Place,
    auth::{self, Shown},
    body::{self, ACCEPT_PATCH, ACCEPT_POST, FRAGMENT_TYPE, NOTE, SDP_TYPE},
    client, ice_servers,
    location::Location,
    name,
    reply::Failure,
};
use penstock_engine::block::Block;
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
    .fallback(move |State(app): Shared, path: Result<Path<String>, PathRejection>, request: Request| async move {
        if [Method::GET, Method::HEAD].contains(request.method()) {
            let Path(stream) = path.map_err(bad_path)?;
            return probe(&app, role, &stream, &Shown::of(&request)).await;
        }
        Err(Failure::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "a session is opened by POST with an SDP offer; of other methods this address knows only those of Allow",
        )
        .with(header::ALLOW, ALLOWED)
        .with(ACCEPT_POST, SDP_TYPE))
    })
}

/// Methods of an endpoint, and of a session.
pub(super) const ALLOWED: &str = "GET, HEAD, POST, OPTIONS";
pub(super) const ALLOWED_OF_SESSION: &str = "GET, HEAD, PATCH, DELETE, OPTIONS";

/// GET and HEAD of an endpoint: it is there, and has no representation (RFC 9725 §4.1). Players know an endpoint of WHEP
/// by its type (draft-ietf-wish-whep §4.2). Whether somebody publishes only a POST tells.
async fn probe(app: &App, role: Role, stream: &str, shown: &Shown) -> Result<Response, Failure> {
    name::check(stream)?;
    auth::permit(app, action(role), stream, shown, false).await?;
    let headers = [
        (header::ALLOW, header_value(ALLOWED)?),
        (ACCEPT_POST, header_value(SDP_TYPE)?),
        (header::CACHE_CONTROL, header_value("no-store")?),
    ];
    let mut response = match role {
        Role::Publisher => (StatusCode::NO_CONTENT, headers).into_response(),
        Role::Subscriber => (StatusCode::OK, [(header::CONTENT_TYPE, SDP_TYPE)], headers).into_response(),
    };
    ice_servers::link(response.headers_mut(), &app.settings.current().ice_servers);
    Ok(response)
}

fn resource(role: Role) -> MethodRouter<Arc<App>> {
    type Session = Result<Path<(String, String)>, PathRejection>;
    patch(move |State(app): Shared, path: Session, request: Request| async move {
        let Path((stream, session)) = path.map_err(bad_path)?;
        change(&app, role, stream, session, request).await
    })
    .delete(move |State(app): Shared, path: Session, shown: Shown, extensions: Extensions| async move {
        let Path(of) = path.map_err(bad_path)?;
        close(&app, role, of, (&shown, client::block_of(&extensions))).await
    })
    .get(move |State(app): Shared, path: Session, shown: Shown, extensions: Extensions| async move {
        let Path(of) = path.map_err(bad_path)?;
        look_at(&app, role, of, (&shown, client::block_of(&extensions))).await
    })
    .fallback(|| async {
        Failure::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "a session is changed by PATCH and closed by DELETE; of other methods this address knows only those of Allow",
        )
        .with(header::ALLOW, ALLOWED_OF_SESSION)
        .with(ACCEPT_PATCH, FRAGMENT_TYPE)
    })
}

/// GET and HEAD of a session: it is there, and has no representation (RFC 9725 §4.1).
async fn look_at(
    app: &App,
    role: Role,
    (stream, session): (String, String),
    shown: (&Shown, Block),
) -> Result<StatusCode, Failure> {
    let (_place, _) = admit(app, role, &stream, shown, false).await?;
    within(app, app.control.is_there(role, stream, session)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// POST (RFC 9725 §4.2): 201 with the answer and the address of the session.
async fn open(app: &App, role: Role, stream: String, request: Request) -> Result<Response, Failure> {
    let (_place, grant) = admit(app, role, &stream, (&Shown::of(&request), client::block(&request)), true).await?;
    let watch = app.settings.rights().watch(&grant);
    let visitor = Visitor { from: client::block(&request), grant };
    let location = Location::of(app, &request);
    let offer = body::text(app, request, SDP_TYPE, ACCEPT_POST).await?;
    let answer = within(app, app.control.offer(role, stream.clone(), visitor, offer)).await?;
    let Answer { session, sdp, etag, note } = answer;
    if let Some(watch) = watch {
        tokio::spawn(end_with(watch, app.control.clone(), session.clone()));
    }
    let headers = [
        (header::CONTENT_TYPE, header_value(SDP_TYPE)?),
        (header::LOCATION, header_value(&location.of_session(&stream, segment(role), &session))?),
        (header::ETAG, header_value(&format!("\"{etag}\""))?),
        (ACCEPT_PATCH, header_value(FRAGMENT_TYPE)?),
        (header::CACHE_CONTROL, header_value("no-store")?),
    ];
    let mut response = (StatusCode::CREATED, headers, sdp).into_response();
    if let Some(note) = note {
        response.headers_mut().insert(NOTE, header_value(&visible(&note))?);
    }
    ice_servers::link(response.headers_mut(), &app.settings.current().ice_servers);
    Ok(response)
}

/// PATCH (RFC 9725 §4.3): 204 for candidates, 200 with our fragment for an ICE restart.
async fn change(app: &App, role: Role, stream: String, session: String, request: Request) -> Result<Response, Failure> {
    let (_place, _) = admit(app, role, &stream, (&Shown::of(&request), client::block(&request)), false).await?;
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
async fn close(
    app: &App,
    role: Role,
    (stream, session): (String, String),
    shown: (&Shown, Block),
) -> Result<StatusCode, Failure> {
    let (_place, _) = admit(app, role, &stream, shown, false).await?;
    within(app, app.control.delete(role, stream, session)).await?;
    Ok(StatusCode::OK)
}

/// What every signalling request must pass before its body is read. `opens`: for a session that is to be.
async fn admit<'a>(
    app: &'a App,
    role: Role,
    stream: &str,
    (shown, from): (&Shown, Block),
    opens: bool,
) -> Result<(Place<'a>, Grant), Failure> {
    name::check(stream)?;
    let place = app.place(from)?;
    Ok((place, auth::permit(app, action(role), stream, shown, opens).await?))
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

/// A text as a header can have it.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

fn header_value(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text)
        .map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer does not fit in a header"))
}
