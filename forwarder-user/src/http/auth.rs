//! Who asks, what he shows, and whether that is enough: bearer tokens (RFC 6750), HTTP Basic (RFC 7617), tokens in the
//! URL. What it is worth, `rights` knows.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request},
    http::{Extensions, HeaderMap, StatusCode, Uri, header, request::Parts, uri::Authority},
};

use super::{App, client, reply::Failure, server::Link};
use crate::{
    config::{Action, Secret},
    rights::{Asker, Credentials, Denied, Grant},
};

/// What a request shows of whoever sent it.
pub(super) struct Shown {
    address: IpAddr,
    /// From this host, and by no proxy.
    local: bool,
    header: Option<Credentials>,
    query: Secret,
}

impl Shown {
    /// Of a request that `client::identify` has seen.
    pub(super) fn of(request: &Request) -> Self {
        Self::new(request.headers(), request.uri(), request.extensions())
    }

    fn new(headers: &HeaderMap, uri: &Uri, extensions: &Extensions) -> Self {
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        Self {
            address: client::address_of(extensions).or(peer).unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            local: extensions.get::<Link>().is_some_and(|link| link.local)
                && !is_forwarded(headers)
                && !names_another(headers),
            // Of a scheme that is not known here: wrong, whatever it is.
            header: authorization
                .map(|value| Credentials::of_header(value).unwrap_or_else(|| Credentials::Token(Secret::default()))),
            query: Secret::new(uri.query().unwrap_or_default()),
        }
    }

    /// From this host, and by no proxy.
    pub(super) fn is_local(&self) -> bool {
        self.local
    }

    fn asker(&self, app: &App, action: Action, stream: &str) -> Asker {
        let in_query = || Credentials::of_query(self.query.expose()).filter(|_| app.settings.rights().reads_query());
        let credentials = self.header.clone().or_else(in_query).unwrap_or(Credentials::None);
        Asker {
            action,
            stream: stream.to_owned(),
            address: self.address,
            protocol: if action.is_of_a_stream() { "webrtc" } else { "http" },
            query: self.query.clone(),
            credentials,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Shown {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::new(&parts.headers, &parts.uri, &parts.extensions))
    }
}

/// A page whose own name leads here (DNS rebinding) is asked for as that name; this host has none that counts, but its
/// addresses.
fn names_another(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return false };
    let host: Option<Authority> = host.to_str().ok().and_then(|host| host.parse().ok());
    host.is_none_or(|host| {
        let name = host.host().trim_matches(['[', ']']);
        name != "localhost" && name.parse::<IpAddr>().is_err()
    })
}

/// Behind a proxy on this host everybody would be local.
fn is_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|name| headers.contains_key(*name))
}

/// Whether a request shows something that may be guessed.
pub(super) fn shows_something(request: &Request) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.headers().contains_key(header::AUTHORIZATION) || Credentials::of_query(query).is_some()
}

/// By what right somebody does something with a stream. `opens`: he begins a session.
///
/// # Errors
/// 401 with a challenge, 403, or 503 where nobody can tell.
pub(super) async fn permit(
    app: &App,
    action: Action,
    stream: &str,
    shown: &Shown,
    opens: bool,
) -> Result<Grant, Failure> {
    let asked = app.settings.rights().ask(shown.asker(app, action, stream), opens).await;
    asked.map_err(|denied| refusal(denied, "Bearer"))
}

/// Lets whoever runs this server pass: this host, as long as `auth.api_token` is empty, and whoever has the right.
///
/// # Errors
/// As [`permit`]; 403 where nobody else could have it.
pub(super) async fn permit_management(app: &App, action: Action, shown: &Shown) -> Result<(), Failure> {
    let rights = app.settings.rights();
    let current = app.settings.current();
    if shown.local && !current.has_api_token {
        return Ok(());
    }
    if !rights.is_decided(action) {
        let reason = "this is for this host only, as long as there is no `auth.api_token` (or `http.open_management`) \
                      in the configuration";
        return if current.open_management { Ok(()) } else { Err(Failure::new(StatusCode::FORBIDDEN, reason)) };
    }
    let asked = rights.ask(shown.asker(app, action, ""), true).await;
    asked.map(drop).map_err(|denied| refusal(denied, "Basic realm=\"penstock\""))
}

fn refusal(denied: Denied, other: &'static str) -> Failure {
    let unauthorized = |reason: &str, bearer| {
        let refused = Failure::new(StatusCode::UNAUTHORIZED, reason).with(header::WWW_AUTHENTICATE, bearer);
        if other == "Bearer" { refused } else { refused.with(header::WWW_AUTHENTICATE, other) }
    };
    match denied {
        Denied::Nothing => unauthorized("this needs a bearer token: send `Authorization: Bearer TOKEN`", "Bearer"),
        Denied::Wrong(why) => unauthorized(why, r#"Bearer error="invalid_token""#),
        Denied::NotAllowed(why) => Failure::new(StatusCode::FORBIDDEN, why)
            .with(header::WWW_AUTHENTICATE, r#"Bearer error="insufficient_scope""#),
        Denied::Unknown(why) => Failure::busy(why),
    }
}
