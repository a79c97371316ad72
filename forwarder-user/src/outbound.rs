//! Asking others by HTTP and HTTPS: for keys, about rights, with news. Made at the first need, with the system's
//! authorities; answers are bounded in size, and whoever asks bounds the time.

use std::sync::OnceLock;

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderName, HeaderValue, Method, Request, StatusCode, header},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// Connections to one host that are kept for the next question.
const IDLE: usize = 8;

type Asker = Client<HttpsConnector<HttpConnector>, Body>;

static CLIENT: OnceLock<Result<Asker, String>> = OnceLock::new();

/// What somebody answered.
pub(crate) struct Answered {
    /// Its status.
    pub(crate) status: StatusCode,
    /// All of it.
    pub(crate) body: Bytes,
}

/// Sends a request and reads an answer of at most `limit` bytes. Redirects are not followed: who is asked is written in
/// the configuration.
///
/// # Errors
/// In words: no connection, no answer, too long a one.
pub(crate) async fn ask(
    method: Method,
    url: &str,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
    limit: usize,
) -> Result<Answered, String> {
    let client = CLIENT.get_or_init(client).as_ref().map_err(Clone::clone)?;
    let mut request = Request::builder().method(method).uri(url);
    let agent = HeaderValue::from_static(concat!("penstock/", env!("CARGO_PKG_VERSION")));
    if let Some(all) = request.headers_mut() {
        all.insert(header::USER_AGENT, agent);
        all.extend(headers);
    }
    let request = request.body(Body::from(body)).map_err(|error| error.to_string())?;
    let response = client.request(request).await.map_err(|error| chain(&error))?;
    let status = response.status();
    let body = to_bytes(Body::new(response.into_body()), limit).await;
    Ok(Answered { status, body: body.map_err(|error| format!("its answer: {}", chain(&error)))? })
}

fn client() -> Result<Asker, String> {
    let roots = HttpsConnectorBuilder::new().with_native_roots();
    let roots = roots.map_err(|error| format!("the system's certificates: {error}"))?;
    let connector = roots.https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE).build(connector))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
