//! Sends those who come by HTTP to HTTPS, if the configuration says so.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{App, reply::Failure, server::Link};

/// This host needs no encryption, and health checks follow no redirects.
pub(super) async fn to_https(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let link = request.extensions().get::<Link>().copied().unwrap_or_default();
    let Some(port) = app.https.filter(|_| !link.encrypted && !link.local && request.uri().path() != "/healthz") else {
        return next.run(request).await;
    };
    match target(&request, port) {
        // The method stays (RFC 9110 §15.4.9).
        Some(url) => (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, url)]).into_response(),
        None => Failure::new(StatusCode::BAD_REQUEST, "this server is for HTTPS, and the request names no host")
            .into_response(),
    }
}

fn target(request: &Request, port: u16) -> Option<String> {
    let host = request.headers().get(header::HOST)?.to_str().ok()?;
    let host: Authority = host.parse().ok()?;
    // No user, whose place a name could take that looks like a host.
    let (name, path) = (host.host(), request.uri().path_and_query().map_or("/", |path| path.as_str()));
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    (!name.is_empty()).then(|| format!("https://{name}{port}{path}"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn the_address_stays_but_for_scheme_and_port() {
        let to = |host: &str, uri: &str, port| {
            let request = Request::builder().uri(uri).header("host", host).body(Body::empty()).unwrap();
            target(&request, port)
        };
        assert_eq!(to("tv.example:8080", "/cam?x=1", 443).as_deref(), Some("https://tv.example/cam?x=1"));
        assert_eq!(to("tv.example", "/", 8443).as_deref(), Some("https://tv.example:8443/"));
        assert_eq!(to("[2001:db8::1]:80", "/a", 443).as_deref(), Some("https://[2001:db8::1]/a"));
        assert_eq!(to("evil@tv.example", "/a", 443).as_deref(), Some("https://tv.example/a"));
        assert_eq!(to("a b", "/a", 443), None);
        assert_eq!(to("", "/a", 443), None);
    }
}
