//! WHIP (RFC 9725), WHEP (draft-ietf-wish-whep), the API and the web pages.
//!
//! A name may have slashes (`name`).
//!
//! | path | methods | |
//! | --- | --- | --- |
//! | `/{stream}/whip`, `/{stream}/whep` | POST, OPTIONS; GET and HEAD without content | open a session |
//! | `/{stream}/whip/{session}`, `…/whep/{session}` | PATCH, DELETE, OPTIONS; GET and HEAD without content | trickle, ICE restart, close |
//! | `/{stream}`, `/{stream}/publish`, `/`, with or without a slash at the end; `/player.js` | GET | pages |
//! | `/api/v1/own-session/{session}` | GET | a session, for whoever has it |
//! | `/api/v1/streams`, `/api/v1/streams/{stream}/notes`, `/healthz`, `/metrics` | GET | observe |
//! | `/api/v1/…` | all | run the server: see `manage` |
//! | `/.well-known/acme-challenge/{token}` | GET | answers to the authority, if certificates are got so |
//! | `/debug/pprof/profile`, `/debug/pprof/heap` | GET | profiles, if the configuration says so |

mod acme;
mod api;
mod auth;
mod body;
mod change;
mod client;
mod cors;
mod events;
mod ice_servers;
mod location;
mod manage;
mod metrics;
mod name;
mod own;
mod pages;
mod patient;
mod problem;
mod profiles;
mod proxied;
mod redirect;
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
use tokio::sync::{Semaphore, SemaphorePermit};

use penstock_engine::block::{Block, Share, Shares};

use crate::{
    acme::Shown,
    config::{Config, Debug, IceServer, Network},
    rights::Rights,
    stream::Control,
};

pub use change::{Change, Changes, Edit, QUEUE, Refused, merge};
pub use reply::Failure;
pub use server::{Routers, Running, Server};

/// What a reload of the configuration may change, for requests that come later.
#[derive(Clone, Debug)]
pub struct Settings {
    current: Arc<RwLock<Arc<Current>>>,
    rights: Rights,
}

/// Settings at one moment.
#[derive(Debug)]
struct Current {
    has_api_token: bool,
    open_management: bool,
    debug: Debug,
    index: bool,
    ice_servers: Vec<IceServer>,
    body_bytes: usize,
    timeout: Duration,
}

impl Settings {
    /// Those of a configuration.
    pub fn new(config: &Config) -> Self {
        Self { current: Arc::new(RwLock::new(Arc::new(Current::new(config)))), rights: Rights::new(config) }
    }

    /// Takes over those of another one.
    pub fn set(&self, config: &Config) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Current::new(config));
        self.rights.set(config);
    }

    /// Who may do what.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Current {
    fn new(config: &Config) -> Self {
        Self {
            has_api_token: !config.auth.api_token.is_empty(),
            open_management: config.http.open_management,
            debug: config.debug.clone(),
            index: config.http.index,
            ice_servers: config.http.ice_servers.clone(),
            body_bytes: config.limits.http_body_bytes,
            timeout: config.http.request_timeout(),
        }
    }
}

/// Requests in work that one address may have in any case: the viewers of a large house come at once.
const LEAST_REQUESTS: usize = 320;

/// A request in work. Dropped, another may begin.
struct Place<'a> {
    _request: SemaphorePermit<'a>,
    _share: Share,
}

/// What all handlers share.
struct App {
    control: Control,
    settings: Settings,
    /// To whoever keeps the configuration.
    changes: Changes,
    /// Signalling requests that may still begin, and who has begun how many.
    requests: Semaphore,
    request_shares: Arc<Shares>,
    /// Proxies that are believed.
    trusted: Vec<Network>,
    /// Port of HTTPS, if others are sent there who come without.
    https: Option<u16>,
    guesses: client::Guesses,
    snapshot: api::Snapshot,
    /// Counts of requests.
    observed: metrics::Requests,
}

impl App {
    /// A place for a request. What is not sent in full holds one until its time is over, so nobody has them all.
    fn place(&self, from: Block) -> Result<Place<'_>, Failure> {
        let share = self
            .request_shares
            .take(from)
            .ok_or_else(|| Failure::busy("too many requests at a time from your address: try again soon"))?;
        let request = self.requests.try_acquire().map_err(|_| {
            Failure::busy("too many requests at a time (`limits.http_requests` in the configuration): try again soon")
        })?;
        Ok(Place { _request: request, _share: share })
    }
}

/// The whole HTTP service.
///
/// # Errors
/// None: the names of its metrics are good ones.
pub(crate) fn router(
    config: &Config,
    settings: Settings,
    control: Control,
    changes: Changes,
    challenges: Option<Arc<Shown>>,
) -> anyhow::Result<Routers> {
    let app = Arc::new(App {
        control,
        settings,
        changes,
        requests: Semaphore::new(config.limits.http_requests),
        request_shares: Shares::of(config.limits.http_requests, LEAST_REQUESTS),
        trusted: config.http.trusted_proxies.clone(),
        https: config.http.https_port().filter(|_| config.http.redirect_to_https),
        guesses: client::Guesses::default(),
        snapshot: api::Snapshot::default(),
        observed: metrics::Requests::new()?,
    });
    let health = Router::new().merge(api::health()).with_state(Arc::clone(&app));
    let all = Router::new()
        .merge(signalling::routes())
        .merge(api::public())
        .merge(own::routes())
        .layer(cors::layer(&config.http.allowed_origins))
        .layer(middleware::from_fn(cors::describe_options))
        .merge(api::health())
        .merge(manage::routes(&app))
        .merge(metrics::routes())
        .merge(profiles::routes())
        .merge(pages::routes())
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(reply::shape))
        .layer(middleware::from_fn_with_state(app.clone(), redirect::to_https))
        .layer(middleware::from_fn_with_state(app.clone(), client::identify))
        .layer(middleware::from_fn_with_state(app.clone(), metrics::observe))
        .with_state(app);
    // Names with slashes are one segment for the routes.
    let all = Router::new().fallback_service(all).layer(middleware::map_request(name::fold));
    Ok(Routers { all: acme::with_challenges(all, challenges), health })
}

/// What is answered before the server can serve: not healthy, and why. On connections that do not stay.
pub fn waiting(why: &'static str) -> Routers {
    let answer = move || async move {
        let close = (axum::http::header::CONNECTION, "close");
        (StatusCode::SERVICE_UNAVAILABLE, [close], format!("{why}\n"))
    };
    let all = Router::new().fallback(answer);
    Routers { health: all.clone(), all }
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
