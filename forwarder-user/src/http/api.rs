//! What may be asked without running the server: health, and what players need. Everything in it, and in `manage`, comes
//! from one snapshot of the control task.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::StatusCode,
    routing::get,
};
use serde_json::{Value, json};

use super::{
    App,
    auth::{self, Shown},
    name,
    problem::{Named, Problem},
    reply::Failure,
};
use crate::config::Action;

/// A control task that does not answer for this long is not healthy.
const PATIENCE: Duration = Duration::from_secs(3);

/// A snapshot may have a fiftieth of the control task's time: it is kept so many times as long as it took to make.
const SHARE: u32 = 50;
/// But no longer than this.
const KEPT: Duration = Duration::from_secs(1);

/// The last snapshot, when it was made and until when it does.
#[derive(Default)]
pub(super) struct Snapshot(tokio::sync::Mutex<Option<(Instant, Arc<Value>)>>);

/// For whoever starts and stops the server.
pub(super) fn health() -> Router<Arc<App>> {
    Router::new().route("/healthz", get(healthz))
}

/// What players of other origins may ask.
pub(super) fn public() -> Router<Arc<App>> {
    Router::new().route("/api/v1/streams", get(streams)).route("/api/v1/streams/{stream}/notes", get(notes))
}

/// 200 while the control task goes round its loop; 503 while stopping or stuck, or without an address for media. Asks it
/// nothing. `?full`: 503 as well while a session is connected and nothing arrives, with how many and why, and without
/// names.
async fn healthz(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Result<&'static str, Failure> {
    match app.control.silence() {
        None => return Err(Failure::busy("the server is stopping")),
        Some(silence) if silence > PATIENCE => return Err(Failure::busy("the control task does not answer")),
        Some(_) if app.control.is_draining() => return Err(Failure::busy("the server is being drained")),
        Some(_) if !app.control.is_reachable() => {
            return Err(Failure::busy("this host has no address for media at the moment"));
        }
        Some(_) => {}
    }
    if query.is_some_and(|query| query.split('&').any(|part| part == "full" || part.starts_with("full="))) {
        let complaints = complaints(&*snapshot(&app).await?);
        if !complaints.is_empty() {
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, complaints.join("\n")));
        }
    }
    Ok("ok\n")
}

/// What is wrong with sessions at the moment.
fn complaints(snapshot: &Value) -> Vec<String> {
    let sessions = snapshot.get("sessions").and_then(Value::as_array).into_iter().flatten();
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for session in sessions {
        let text = |key| session.get(key).and_then(Value::as_str);
        if let (Some(role), Some(warning)) = (text("role"), text("warning")) {
            *counts.entry((role, warning)).or_default() += 1;
        }
    }
    counts.into_iter().map(|((role, warning), count)| format!("{count} of role {role}: {warning}")).collect()
}

/// Names of the live streams and nothing that concerns their peers, for the index page.
async fn streams(State(app): State<Arc<App>>) -> Result<Json<Value>, Failure> {
    if !app.settings.current().index {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "this server does not list its streams (`http.index` in the configuration)",
        ));
    }
    let snapshot = snapshot(&app).await?;
    let list = snapshot.get("streams").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(Json(json!({ "streams": list.iter().map(shown).collect::<Vec<_>>() })))
}

/// What viewers of a stream should know of it: what its camera sends that browsers do not play, and what
/// they play badly. For the player, and for whoever may play.
async fn notes(State(app): State<Arc<App>>, Named(stream): Named, shown: Shown) -> Result<Json<Value>, Problem> {
    notes_of(&app, &stream, &shown).await.map_err(Failure::into_problem)
}

async fn notes_of(app: &App, stream: &str, shown: &Shown) -> Result<Json<Value>, Failure> {
    name::check(stream)?;
    auth::permit(app, Action::Play, stream, shown, false).await?;
    let snapshot = snapshot(app).await?;
    let mut list = snapshot.get("streams").and_then(Value::as_array).into_iter().flatten();
    let source = list.find(|entry| entry.get("name") == Some(&json!(stream))).and_then(|entry| entry.get("source"));
    let words = |key| source.and_then(|source| source.get(key)).and_then(Value::as_array).into_iter().flatten();
    let left_out = words("left_out").filter_map(Value::as_str).map(|what| json!(format!("left out: {what}")));
    let notes: Vec<Value> = left_out.chain(words("warnings").cloned()).collect();
    Ok(Json(json!({ "notes": notes })))
}

fn shown(stream: &Value) -> Value {
    let published = stream.get("publisher").is_some_and(|publisher| !publisher.is_null());
    let live = published || stream.get("live").is_some_and(|live| live == true);
    json!({ "name": stream.get("name"), "live": live, "viewers": stream.get("viewers") })
}

/// State of everything, from the control task: whoever asks at the same time gets the same one, and it is not made
/// again for a while that grows with what it costs.
pub(super) async fn snapshot(app: &App) -> Result<Arc<Value>, Failure> {
    let mut kept = app.snapshot.0.lock().await;
    let begun = Instant::now();
    if let Some((until, snapshot)) = &*kept
        && begun < *until
    {
        return Ok(Arc::clone(snapshot));
    }
    match tokio::time::timeout(PATIENCE, app.control.snapshot()).await {
        Ok(Some(snapshot)) => {
            let (now, snapshot) = (Instant::now(), Arc::new(snapshot));
            *kept = Some((now + (now.duration_since(begun) * SHARE).min(KEPT), Arc::clone(&snapshot)));
            Ok(snapshot)
        }
        Ok(None) => Err(Failure::busy("the server is stopping")),
        Err(_) => Err(Failure::busy("the control task does not answer")),
    }
}
