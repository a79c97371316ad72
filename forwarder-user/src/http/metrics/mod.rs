//! `GET /metrics` for Prometheus, in its text format.
//!
//! Everything but the counts of HTTP requests is read when it is asked for: one snapshot of the
//! control task, the one that the API shows too. No label has a value that a peer chooses, so the
//! number of series has a bound; `docs/metrics.md` lists them, and a test compares.

mod machine;
mod media;
mod names;
mod page;
mod requests;
mod sources;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{TextEncoder, core::Collector, process_collector::ProcessCollector};
use serde::Deserialize;

use self::page::Page;
pub(super) use self::requests::{Requests, observe};
use super::{
    App, api,
    auth::{self, Shown},
    reply::Failure,
};
use crate::{build_info, config::Action};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(State(app): State<Arc<App>>, shown: Shown) -> Result<Response, Failure> {
    auth::permit_management(&app, Action::Metrics, &shown).await?;
    let snapshot = api::snapshot(&app).await?;
    let text = text(&snapshot, &app.observed).map_err(|error| {
        tracing::error!("metrics cannot be shown: {error:#}");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be shown, see the server's log")
    })?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}

/// The whole page, from a snapshot of the control task.
fn text(snapshot: &serde_json::Value, requests: &Requests) -> anyhow::Result<String> {
    let sources = sources::Snapshot::deserialize(snapshot)?;
    let snapshot = media::Snapshot::deserialize(snapshot)?;
    let mut page = Page::default();
    let build = build_info::current();
    let build = [build.version, build.commit, &build.build_id, &build.bpf_build_id];
    page.gauge(&names::BUILD_INFO, [(build.map(str::to_owned).to_vec(), 1.0)]);
    media::sessions(&mut page, &snapshot);
    media::quality(&mut page, &snapshot);
    sources::add(&mut page, &sources);
    media::engines(&mut page, &snapshot);
    machine::add(&mut page);
    let mut families = page.into_families();
    families.extend(requests.collect());
    families.extend(ProcessCollector::for_self().collect());
    families.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(TextEncoder::new().encode_to_string(&families)?)
}

#[cfg(test)]
mod tests;
