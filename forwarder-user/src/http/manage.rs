//! The API by which a server is run: streams, sessions, configuration, drain, statistics. `assets/openapi.json`
//! describes it, and a test compares.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::to_bytes,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    App, api,
    auth::{self, Shown},
    change::{Change, Edit, Refused},
    events, name,
    problem::{Asked, Named, Problem},
};
use crate::config::Action;

/// Largest document that is read.
const DOCUMENT_BYTES: usize = 64 * 1024;
/// What describes all this.
const DOCUMENT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/openapi.json"));

type Shared = State<Arc<App>>;
type Answer = Result<Response, Problem>;

/// Every address of this API.
pub(super) fn table() -> Vec<(&'static str, MethodRouter<Arc<App>>)> {
    vec![
        ("/api/v1/state", get(state)),
        ("/api/v1/streams/{stream}", get(stream).put(put_stream).patch(patch_stream).delete(remove_stream)),
        ("/api/v1/streams/{stream}/publisher", delete(end_publisher)),
        ("/api/v1/sessions", get(sessions)),
        ("/api/v1/sessions/{session}", get(session).delete(kick)),
        ("/api/v1/config", get(config).patch(patch_config)),
        ("/api/v1/drain", post(drain).delete(undrain)),
        ("/api/v1/statistics", get(statistics)),
        ("/api/v1/events", get(events::events)),
        ("/api/v1/openapi.json", get(document)),
    ]
}

/// All of it, for those who may.
pub(super) fn routes(app: &Arc<App>) -> Router<Arc<App>> {
    let all = table().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    all.route_layer(middleware::from_fn_with_state(Arc::clone(app), permit))
}

/// No page of another site makes a browser ask for more than it could by a link.
async fn permit(State(app): Shared, request: Request, next: Next) -> Response {
    let shown = Shown::of(&request);
    match auth::permit_management(&app, Action::Api, &shown).await {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_problem().into_response(),
    }
}

/// Everything of one moment.
async fn state(State(app): Shared) -> Answer {
    let mut state = Value::clone(&*snapshot(&app).await?);
    // Tells `penstock sessions` whether this is the server whose maps it reads.
    if let Some(fields) = state.as_object_mut() {
        fields.insert("pid".into(), std::process::id().into());
        fields.insert("draining".into(), app.control.is_draining().into());
    }
    Ok(Json(state).into_response())
}

async fn stream(State(app): Shared, Named(name): Named) -> Answer {
    let snapshot = snapshot(&app).await?;
    let config = shown_config(&app).await?;
    let configured = config.get("streams").and_then(|streams| streams.get(&name)).cloned();
    let mut stream = match (find(&snapshot, "streams", "name", &name), &configured) {
        (Some(stream), _) => stream.clone(),
        (None, Some(_)) => json!({
            "name": name, "live": false, "publisher": null, "source": null, "viewers": 0, "rtsp_players": 0,
        }),
        (None, None) => return Err(missing(format!("nobody publishes {name:?}, and it is not in the configuration"))),
    };
    if let Some(fields) = stream.as_object_mut() {
        fields.insert("config".into(), configured.unwrap_or_default());
    }
    Ok(Json(stream).into_response())
}

/// Query of a change.
#[derive(Deserialize)]
struct Options {
    #[serde(default)]
    persist: bool,
}

async fn put_stream(
    State(app): Shared,
    Named(name): Named,
    Asked(Options { persist }): Asked<Options>,
    request: Request,
) -> Answer {
    let document = json_body(request, "application/json").await?;
    edit(&app, name, Edit::Put(document), persist).await
}

async fn patch_stream(
    State(app): Shared,
    Named(name): Named,
    Asked(Options { persist }): Asked<Options>,
    request: Request,
) -> Answer {
    let document = json_body(request, "application/merge-patch+json").await?;
    edit(&app, name, Edit::Patch(document), persist).await
}

async fn remove_stream(State(app): Shared, Named(name): Named, Asked(Options { persist }): Asked<Options>) -> Answer {
    edit(&app, name, Edit::Remove, persist).await
}

async fn edit(app: &App, name: String, edit: Edit, persist: bool) -> Answer {
    name::check(&name).map_err(super::reply::Failure::into_problem)?;
    let removes = matches!(edit, Edit::Remove);
    let new = ask(app, |reply| Change::Stream { name, edit, persist, reply }).await?.map_err(refused)?;
    Ok(match (removes, new) {
        (true, _) => StatusCode::NO_CONTENT,
        (false, true) => StatusCode::CREATED,
        (false, false) => StatusCode::OK,
    }
    .into_response())
}

/// Ends whoever publishes a stream, by WHIP or RTSP.
async fn end_publisher(State(app): Shared, Named(name): Named) -> Answer {
    match app.control.end_publisher(name.clone()).await {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(missing(format!("nobody publishes {name:?} now"))),
    }
}

async fn sessions(State(app): Shared) -> Answer {
    let snapshot = snapshot(&app).await?;
    Ok(Json(json!({ "sessions": snapshot.get("sessions") })).into_response())
}

async fn session(State(app): Shared, Named(id): Named) -> Answer {
    let snapshot = snapshot(&app).await?;
    let found = find(&snapshot, "sessions", "id", &id).ok_or_else(|| missing(format!("there is no session {id:?}")))?;
    Ok(Json(found.clone()).into_response())
}

async fn kick(State(app): Shared, Named(id): Named) -> Answer {
    match app.control.kick(id.clone(), "ended by the API".into()).await {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(missing(format!("there is no session {id:?}"))),
    }
}

async fn config(State(app): Shared) -> Answer {
    Ok(Json(shown_config(&app).await?).into_response())
}

async fn patch_config(State(app): Shared, request: Request) -> Answer {
    let patch = json_body(request, "application/merge-patch+json").await?;
    let config = ask(&app, |reply| Change::Patch { patch, reply }).await?.map_err(refused)?;
    Ok(Json(config).into_response())
}

/// New sessions are refused from now on, those that are there go on. `/healthz` says so to whoever shares out requests.
async fn drain(State(app): Shared, request: Request) -> Answer {
    // A page of another site can make a browser send a form, but no JSON.
    if !json_body(request, "application/json").await?.is_object() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the document is an object, {}"));
    }
    app.control.refuse_sessions(true);
    let left = snapshot(&app).await?.get("sessions").and_then(Value::as_array).map_or(0, Vec::len);
    tracing::info!(sessions = left, "draining: no new sessions, as the API says");
    Ok(Json(json!({ "draining": true, "sessions": left })).into_response())
}

async fn undrain(State(app): Shared) -> Answer {
    app.control.refuse_sessions(false);
    tracing::info!("sessions are taken again, as the API says");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Counters and levels, without names of streams and peers.
async fn statistics(State(app): Shared) -> Answer {
    let snapshot = snapshot(&app).await?;
    let len = |key: &str| snapshot.get(key).and_then(Value::as_array).map_or(0, Vec::len);
    let part = |key: &str| snapshot.get(key).cloned().unwrap_or_default();
    Ok(Json(json!({
        "streams": len("streams"),
        "sessions": len("sessions"),
        "tier": part("tier"),
        "engines": part("engines"),
        "counters": part("counters"),
        "rtsp": part("rtsp"),
        "sources": part("sources"),
    }))
    .into_response())
}

async fn document() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT).into_response()
}

async fn snapshot(app: &App) -> Result<Arc<Value>, Problem> {
    api::snapshot(app).await.map_err(super::reply::Failure::into_problem)
}

async fn shown_config(app: &App) -> Result<Value, Problem> {
    ask(app, |reply| Change::Show { reply }).await
}

/// Asks whoever keeps the configuration.
async fn ask<T>(app: &App, make: impl FnOnce(oneshot::Sender<T>) -> Change) -> Result<T, Problem> {
    let stopping = || {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server starts or stops");
        problem.named("stopping").with(header::RETRY_AFTER, "2")
    };
    let (reply, answer) = oneshot::channel();
    app.changes.send(make(reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())
}

fn find<'a>(snapshot: &'a Value, list: &str, key: &str, value: &str) -> Option<&'a Value> {
    let all = snapshot.get(list)?.as_array()?;
    all.iter().find(|one| one.get(key).and_then(Value::as_str) == Some(value))
}

fn missing(detail: String) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, detail).named("not-found")
}

fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::NotFound(why) => missing(why),
        Refused::Conflict(why) => Problem::new(StatusCode::CONFLICT, why).named("conflict"),
        Refused::Invalid(why) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why).named("invalid"),
    }
}

/// A document of this type, or of plain JSON.
async fn json_body(request: Request, expected: &'static str) -> Result<Value, Problem> {
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if given != expected && given != "application/json" {
        let detail = format!("the Content-Type must be {expected}");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).named("media-type"));
    }
    let body = to_bytes(request.into_body(), DOCUMENT_BYTES).await.map_err(|_| {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the document is larger than {DOCUMENT_BYTES} bytes"))
    })?;
    serde_json::from_slice(&body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {error}")).named("malformed")
    })
}
