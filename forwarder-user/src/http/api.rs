//! Read-only API. Everything in it comes from one snapshot of the control task.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::get,
};
use serde_json::{Value, json};

use super::{App, auth, reply::Failure};

/// A control task that does not answer for this long is not healthy.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/api/v1/state", get(state))
        .route("/api/v1/streams", get(streams))
        .route("/api/v1/streams/{stream}/notes", get(notes))
}

/// 200 as long as sessions can be opened; 503 while stopping or stuck.
async fn healthz(State(app): State<Arc<App>>) -> Result<&'static str, Failure> {
    snapshot(&app).await.map(|_| "ok\n")
}

/// All streams and sessions.
async fn state(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Json<Value>, Failure> {
    auth::require(&app.settings.current().auth.api_token, &headers)?;
    let mut state = snapshot(&app).await?;
    // Tells `penstock sessions` whether this is the server whose maps it reads.
    if let Some(fields) = state.as_object_mut() {
        fields.insert("pid".into(), std::process::id().into());
    }
    Ok(Json(state))
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
    Ok(Json(json!({ "streams": list.iter().map(public).collect::<Vec<_>>() })))
}

/// What viewers of a stream should know of it: what its camera sends that browsers do not play, and what
/// they play badly. For the player, and for whoever may play.
async fn notes(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Failure> {
    auth::require(&app.settings.current().auth.play_token, &headers)?;
    let snapshot = snapshot(&app).await?;
    let mut list = snapshot.get("streams").and_then(Value::as_array).into_iter().flatten();
    let source = list.find(|stream| stream.get("name") == Some(&json!(name))).and_then(|stream| stream.get("source"));
    let words = |key| source.and_then(|source| source.get(key)).and_then(Value::as_array).into_iter().flatten();
    let left_out = words("left_out").filter_map(Value::as_str).map(|what| json!(format!("left out: {what}")));
    let notes: Vec<Value> = left_out.chain(words("warnings").cloned()).collect();
    Ok(Json(json!({ "notes": notes })))
}

fn public(stream: &Value) -> Value {
    let published = stream.get("publisher").is_some_and(|publisher| !publisher.is_null());
    let live = published || stream.get("live").is_some_and(|live| live == true);
    json!({ "name": stream.get("name"), "live": live, "viewers": stream.get("viewers") })
}

/// State of everything, from the control task.
pub(super) async fn snapshot(app: &App) -> Result<Value, Failure> {
    match tokio::time::timeout(PATIENCE, app.control.snapshot()).await {
        Ok(Some(snapshot)) => Ok(snapshot),
        Ok(None) => Err(Failure::busy("the server is stopping")),
        Err(_) => Err(Failure::busy("the control task does not answer")),
    }
}
