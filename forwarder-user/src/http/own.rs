//! A session, for whoever has it: players ask when they have nothing to show, publishers what arrives of them.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{Extensions, StatusCode, header},
    response::IntoResponse,
    routing::get,
};

use super::{App, client, reply::Failure};

/// A control task that does not answer for this long has other things to do.
const PATIENCE: Duration = Duration::from_secs(3);

/// For players of other origins too.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/api/v1/own-session/{session}", get(show))
}

/// The session's id is the right to it: nobody guesses it, and who has it may end the session.
async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    extensions: Extensions,
) -> Result<impl IntoResponse, Failure> {
    let _place = app.place(client::block_of(&extensions))?;
    match tokio::time::timeout(PATIENCE, app.control.view(id)).await {
        Ok(Some(view)) => Ok(([(header::CACHE_CONTROL, "no-store")], Json(view))),
        Ok(None) => Err(Failure::new(StatusCode::NOT_FOUND, "no such session; it may have ended")),
        Err(_) => Err(Failure::busy("the control task does not answer")),
    }
}
