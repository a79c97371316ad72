//! WHIP (RFC 9725), WHEP (draft-ietf-wish-whep), the API and the web pages.
//!
//! | path | methods | |
//! | --- | --- | --- |
//! | `/{stream}/whip`, `/{stream}/whep` | POST, OPTIONS; of WHEP also HEAD | open a session |
//! | `/{stream}/whip/{session}`, `…/whep/{session}` | PATCH, DELETE, OPTIONS | trickle, ICE restart, close |
//! | `/{stream}`, `/{stream}/publish`, `/` | GET | pages |
//!
//! A slash behind an address of signalling changes nothing; behind that of a page it leads to the page.
//!
//! | path | methods | |
//! | --- | --- | --- |
//! | `/api/v1/streams`, `/api/v1/streams/{stream}/notes`, `/api/v1/state`, `/healthz`, `/metrics` | GET | observe |
//! | `/debug/pprof/profile`, `/debug/pprof/heap` | GET | profiles, if the configuration says so |

mod api;
mod auth;
mod body;
mod client;
mod cors;
mod ice_servers;
mod location;
mod metrics;
mod name;
mod pages;
mod patient;
mod profiles;
mod reply;
mod server;
mod signalling;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{Router, http::StatusCode, middleware};
use tokio::sync::Semaphore;

use crate::{
    config::{Auth, Config, Debug, IceServer, Network},
    stream::Control,
};

pub use reply::Failure;
pub use server::{Running, Server};

/// What a reload of the configuration may change, for requests that come later.
#[derive(Clone, Debug)]
pub struct Settings(Arc<RwLock<Arc<Current>>>);

/// Settings at one moment.
#[derive(Debug)]
struct Current {
    auth: Auth,
    debug: Debug,
    index: bool,
    ice_servers: Vec<IceServer>,
    body_bytes: usize,
    timeout: Duration,
}

impl Settings {
    /// Those of a configuration.
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(Current::new(config)))))
    }

    /// Takes over those of another one.
    pub fn set(&self, config: &Config) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Current::new(config));
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Current {
    fn new(config: &Config) -> Self {
        Self {
            auth: config.auth.clone(),
            debug: config.debug.clone(),
            index: config.http.index,
            ice_servers: config.http.ice_servers.clone(),
            body_bytes: config.limits.http_body_bytes,
            timeout: config.http.request_timeout(),
        }
    }
}

/// What all handlers share.
struct App {
    control: Control,
    settings: Settings,
    /// Signalling requests that may still begin.
    requests: Semaphore,
    /// Proxies that are believed.
    trusted: Vec<Network>,
    guesses: client::Guesses,
    snapshot: api::Snapshot,
    /// Counts of requests.
    observed: metrics::Requests,
}

/// The whole HTTP service.
///
/// # Errors
/// None: the names of its metrics are good ones.
pub fn router(config: &Config, settings: Settings, control: Control) -> anyhow::Result<Router> {
    let app = Arc::new(App {
        control,
        settings,
        requests: Semaphore::new(config.limits.http_requests),
        trusted: config.http.trusted_proxies.clone(),
        guesses: client::Guesses::default(),
        snapshot: api::Snapshot::default(),
        observed: metrics::Requests::new()?,
    });
    Ok(Router::new()
        .merge(signalling::routes())
        .merge(api::public())
        .layer(cors::layer(&config.http.allowed_origins))
        .layer(middleware::from_fn(cors::describe_options))
        .merge(api::management())
        .merge(metrics::routes())
        .merge(profiles::routes())
        .merge(pages::routes())
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(reply::shape))
        .layer(middleware::from_fn_with_state(app.clone(), client::identify))
        .layer(middleware::from_fn_with_state(app.clone(), metrics::observe))
        .with_state(app))
}

/// What is answered before the server can serve: not healthy, and why. On connections that do not stay.
pub fn waiting(why: &'static str) -> Router {
    let answer = move || async move {
        let close = (axum::http::header::CONNECTION, "close");
        (StatusCode::SERVICE_UNAVAILABLE, [close], format!("{why}\n"))
    };
    Router::new().fallback(answer)
}

async fn not_found() -> Failure {
    Failure::new(
        StatusCode::NOT_FOUND,
        "nothing is here: a stream is watched at /NAME, published at /NAME/publish, \
         and its endpoints are /NAME/whip and /NAME/whep",
    )
}

async fn wrong_method() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not know that method, see the Allow header")
}
