//! What happens, as it happens: server-sent events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream::unfold};
use serde::Deserialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{App, problem::Asked};
use crate::stream::Notice;

/// How often a silent connection is shown to be alive, to those in between.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Which of them.
#[derive(Deserialize)]
pub(super) struct Filter {
    /// Of this stream alone.
    stream: Option<String>,
}

/// One event a notice, with its name, and the notice as JSON. Who is too slow is told how many it missed.
pub(super) async fn events(State(app): State<Arc<App>>, Asked(filter): Asked<Filter>) -> Response {
    let events = stream(app.control.listen(), filter.stream);
    Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)).into_response()
}

fn stream(notices: Receiver<Notice>, of: Option<String>) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold((notices, of), |(mut notices, of)| async move {
        loop {
            let event = match notices.recv().await {
                Ok(notice) if of.as_ref().is_some_and(|of| *of != notice.stream) => continue,
                Ok(notice) => {
                    let Ok(json) = serde_json::to_string(&notice) else { continue };
                    Event::default().event(notice.what.name()).data(json)
                }
                Err(RecvError::Lagged(missed)) => {
                    Event::default().event("missed").data(format!("{{\"missed\":{missed}}}"))
                }
                Err(RecvError::Closed) => return None,
            };
            return Some((Ok(event), (notices, of)));
        }
    })
}
