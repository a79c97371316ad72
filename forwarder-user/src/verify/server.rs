//! The server as its HTTP port shows it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket},
};

use anyhow::{Context, bail, ensure};
use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, Uri, header},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::client::Way;

/// Largest answer that is read.
const ANSWER: usize = 32 << 20;

/// Bearer tokens; empty ones are not sent.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// For `/whip`.
    pub publish: String,
    /// For `/whep`.
    pub play: String,
    /// For state and metrics; without it profiles, engines, CPU and memory stay unknown where the server wants one.
    pub api: String,
}

/// A running server.
pub struct Server {
    authority: String,
    address: SocketAddr,
    tokens: Tokens,
}

/// An answer with its status.
struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: String,
}

/// Sums over labels, by metric's name; and the labels of `penstock_build_info`.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub sums: BTreeMap<String, f64>,
    pub idle_seconds: f64,
    pub build: String,
}

impl Server {
    /// Of a URL as `http://server:8080`.
    ///
    /// # Errors
    /// Another scheme, no host, an unknown host.
    pub fn new(url: &str, tokens: Tokens) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        ensure!(
            uri.scheme_str() == Some("http"),
            "{url:?} is no http:// URL; a server behind a TLS proxy is verified at its own port"
        );
        let authority = uri.authority().with_context(|| format!("{url:?} has no host"))?;
        let port = authority.port_u16().unwrap_or(80);
        let host = authority.host().trim_matches(['[', ']']);
        let address = (host, port).to_socket_addrs().with_context(|| format!("unknown host {host}"))?.next();
        let address = address.with_context(|| format!("{host} has no address"))?;
        Ok(Self { authority: authority.to_string(), address, tokens })
    }

    /// Its URL, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// Our address towards it.
    ///
    /// # Errors
    /// There is no route.
    pub fn local_address(&self) -> anyhow::Result<IpAddr> {
        let any: SocketAddr = if self.address.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let probe = UdpSocket::bind(any)?;
        probe.connect(self.address)?;
        Ok(probe.local_addr()?.ip())
    }

    /// Is it there, and ready for sessions?
    ///
    /// # Errors
    /// What is wrong.
    pub async fn health(&self) -> anyhow::Result<()> {
        self.get("/healthz", "").await.map(drop)
    }

    /// Opens a session: its location, and the SDP answer.
    ///
    /// # Errors
    /// The server's refusal, in its own words.
    pub async fn offer(&self, way: Way, stream: &str, offer: String) -> anyhow::Result<(String, String)> {
        let (kind, token) = match way {
            Way::Publish => ("whip", &self.tokens.publish),
            Way::Play => ("whep", &self.tokens.play),
        };
        let answer = self.ask(Method::POST, &format!("/{stream}/{kind}"), token, offer).await?;
        ensure!(answer.status == StatusCode::CREATED, "{}: {}", answer.status, answer.body.trim());
        Ok((answer.location.context("an answer without Location")?, answer.body))
    }

    /// Closes a session.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn delete(&self, location: &str) -> anyhow::Result<()> {
        let token = if location.contains("/whip/") { &self.tokens.publish } else { &self.tokens.play };
        let answer = self.ask(Method::DELETE, location, token, String::new()).await?;
        ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.body.trim());
        Ok(())
    }

    /// The control plane's own view of streams and sessions.
    ///
    /// # Errors
    /// The server does not tell, without the right token.
    pub async fn state(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.get("/api/v1/state", &self.tokens.api).await?)?)
    }

    /// What it says at a path, whatever it is.
    ///
    /// # Errors
    /// No answer, or not 200.
    pub async fn text(&self, path: &str) -> anyhow::Result<String> {
        self.get(path, &self.tokens.api).await
    }

    /// Profiles and engines of a stream's sessions.
    ///
    /// # Errors
    /// The server does not tell, without the right token.
    pub async fn sessions(&self, stream: &str) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        let state = self.state().await?;
        let sessions = state["sessions"].as_array().context("no sessions")?;
        let ours: Vec<&Value> = sessions.iter().filter(|session| session["stream"] == stream).collect();
        let all = |key: &str| ours.iter().map(|session| session[key].as_str().unwrap_or("none").to_owned()).collect();
        Ok((all("profile"), all("engine")))
    }

    /// Its metrics.
    ///
    /// # Errors
    /// As [`sessions`](Self::sessions).
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        Ok(parse(&self.get("/metrics", &self.tokens.api).await?))
    }

    /// Asks the API for something that changes the server. What it answers, in its own words.
    ///
    /// # Errors
    /// Its refusal, likewise.
    pub async fn manage(&self, method: Method, path: &str, document: Option<Value>) -> anyhow::Result<String> {
        let body = document.map(|document| document.to_string()).unwrap_or_default();
        let answer = self.send(method, path, &self.tokens.api, "application/json", body).await?;
        if !answer.status.is_success() {
            let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            bail!("{}: {}", answer.status, problem["detail"].as_str().unwrap_or(answer.body.trim()));
        }
        Ok(answer.body)
    }

    async fn get(&self, path: &str, token: &str) -> anyhow::Result<String> {
        let answer = self.ask(Method::GET, path, token, String::new()).await?;
        if answer.status != StatusCode::OK {
            bail!("{path}: {}: {}", answer.status, answer.body.trim());
        }
        Ok(answer.body)
    }

    async fn ask(&self, method: Method, path: &str, token: &str, body: String) -> anyhow::Result<Answer> {
        self.send(method, path, token, "application/sdp", body).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: &str,
        kind: &'static str,
        body: String,
    ) -> anyhow::Result<Answer> {
        let stream =
            TcpStream::connect(self.address).await.with_context(|| format!("connecting to {}", self.address))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.authority);
        request = request.header(header::CONNECTION, "close");
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let response = sender.send_request(request.body(Body::from(body))?).await?;
        let status = response.status();
        let location =
            response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bytes = to_bytes(Body::new(response.into_body()), ANSWER).await?;
        connection.abort();
        Ok(Answer { status, location, body: String::from_utf8(bytes.into())? })
    }
}

/// Reads the text format as far as our own server writes it.
fn parse(text: &str) -> Metrics {
    let mut metrics = Metrics::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        *metrics.sums.entry(name.to_owned()).or_default() += value;
        match name {
            "penstock_build_info" => metrics.build = labels.trim_end_matches('}').to_owned(),
            "penstock_machine_cpu_seconds_total" if labels.contains("\"idle\"") || labels.contains("\"iowait\"") => {
                metrics.idle_seconds += value;
            }
            _ => {}
        }
    }
    metrics
}

impl Metrics {
    fn sum(&self, name: &str) -> Option<f64> {
        self.sums.get(name).copied()
    }

    /// Share of all CPUs that was busy since `before`, softirq and other processes included.
    pub fn cpu_since(&self, before: &Self) -> Option<f64> {
        const CPU: &str = "penstock_machine_cpu_seconds_total";
        let all = self.sum(CPU)? - before.sum(CPU)?;
        let idle = self.idle_seconds - before.idle_seconds;
        (all > 0.0).then(|| 1.0 - idle / all)
    }

    /// Process and BPF maps, bytes.
    pub fn memory(&self) -> Option<f64> {
        Some(self.sum("process_resident_memory_bytes")? + self.sum("penstock_bpf_map_memory_bytes").unwrap_or(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_from_metrics() {
        let text = |idle: f64, busy: f64| {
            format!(
                "# TYPE x counter\npenstock_build_info{{commit=\"c0ffee\",build_id=\"ab12\"}} 1\n\
                 penstock_machine_cpu_seconds_total{{mode=\"idle\"}} {idle}\n\
                 penstock_machine_cpu_seconds_total{{mode=\"softirq\"}} {busy}\n\
                 process_resident_memory_bytes 1000\npenstock_bpf_map_memory_bytes 500\n"
            )
        };
        let (before, after) = (parse(&text(100.0, 10.0)), parse(&text(106.0, 12.0)));
        assert_eq!(after.cpu_since(&before), Some(0.25));
        assert_eq!(after.memory(), Some(1500.0));
        assert!(after.build.contains("\"ab12\""));
        assert_eq!(Metrics::default().cpu_since(&before), None);
    }

    #[test]
    fn only_plain_http_urls() {
        assert!(Server::new("https://localhost", Tokens::default()).is_err());
        assert!(Server::new("localhost:8080", Tokens::default()).is_err());
        let server = Server::new("http://[::1]:8080/", Tokens::default()).unwrap();
        assert_eq!(server.address, "[::1]:8080".parse().unwrap());
    }
}
