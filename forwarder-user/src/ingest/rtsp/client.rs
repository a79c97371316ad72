//! An RTSP client (RFC 2326): DESCRIBE, SETUP, PLAY, and a sign of life while it plays.

use std::{
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http_auth::{PasswordClient, PasswordParams};
use rtsp_types::{
    HeaderName, Message, Method, Request, Response, Version,
    headers::{
        ACCEPT, AUTHORIZATION, CONTENT_BASE, CONTENT_LOCATION, CSEQ, PUBLIC, RANGE, SESSION, TRANSPORT, USER_AGENT,
        WWW_AUTHENTICATE,
    },
};
use tokio::time::timeout_at;
use url::Url;

use super::{
    connection::{Connection, Incoming},
    dial::{Dialled, dial},
    parameter,
    track::{self, Way},
};
use penstock_rtp::description::{Description, Track};

use crate::{
    config::{self, RtspTransport},
    ingest::{
        error::SourceError,
        media::{Packet, Packets},
        place::Scratch,
        udp::Ports,
    },
};

/// For each answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sessions end after this time without a sign of life, unless the server says otherwise (§12.37).
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);
const AGENT: &str = concat!("penstock/", env!("CARGO_PKG_VERSION"));

/// A session with a camera.
pub(crate) struct Client {
    connection: Connection,
    dialled: (std::net::SocketAddr, std::net::SocketAddr),
    url: Url,
    source: config::Stream,
    auth: Option<PasswordClient>,
    cseq: u32,
    session: Option<String>,
    tracks: Vec<track::Track>,
    /// What the server's OPTIONS named.
    methods: String,
    timeout: Duration,
    next_sign: Instant,
}

impl Client {
    /// Connects and asks what there is.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(crate) async fn describe(
        source: &config::Stream,
        scratch: Scratch,
    ) -> Result<(Self, Description), SourceError> {
        let Dialled { stream, local, peer } = dial(source).await?;
        let url = source.source.url().cloned().ok_or(SourceError::Garbage("the URL"))?;
        let mut client = Self {
            connection: Connection::new(stream, scratch),
            dialled: (local, peer),
            url,
            source: source.clone(),
            auth: None,
            cseq: 0,
            session: None,
            tracks: vec![],
            methods: String::new(),
            timeout: SESSION_TIMEOUT,
            next_sign: Instant::now() + SESSION_TIMEOUT,
        };
        let url = client.url.clone();
        // Some servers know no OPTIONS; then the sign of life is one nevertheless.
        match client.request(Method::Options, "OPTIONS", &url, &[]).await {
            Ok(answer) => client.methods = header(&answer, &PUBLIC).to_ascii_uppercase(),
            Err(SourceError::Refused { .. } | SourceError::NotFound) => {}
            Err(error) => return Err(error),
        }
        let answer = client.request(Method::Describe, "DESCRIBE", &url, &[(ACCEPT, "application/sdp")]).await?;
        let description = Description::parse(answer.body())?;
        let base =
            [&CONTENT_BASE, &CONTENT_LOCATION].into_iter().find_map(|name| Url::parse(header(&answer, name)).ok());
        if let Some(base) = base {
            client.url = base;
        }
        Ok((client, description))
    }

    /// Sets the tracks up and starts them.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(crate) async fn play(&mut self, description: &Description) -> Result<(), SourceError> {
        for (index, track) in description.tracks.iter().enumerate() {
            self.setup(index, track).await?;
        }
        let url = match description.control.as_str() {
            "" | "*" => self.url.clone(),
            control => join(&self.url, control)?,
        };
        self.request(Method::Play, "PLAY", &url, &[(RANGE, "npt=0.000-")]).await?;
        self.next_sign = Instant::now() + self.timeout / 2;
        Ok(())
    }

    async fn setup(&mut self, index: usize, track: &Track) -> Result<(), SourceError> {
        let url = match track.control.as_str() {
            "" | "*" => self.url.clone(),
            control => join(&self.url, control)?,
        };
        if self.source.transport != RtspTransport::Udp {
            let channel = 2 * index as u8;
            let transport = format!("RTP/AVP/TCP;unicast;interleaved={channel}-{}", channel + 1);
            match self.request(Method::Setup, "SETUP", &url, &[(TRANSPORT, &transport)]).await {
                Ok(answer) => {
                    // The server may choose other channels.
                    let chosen = parameter(header(&answer, &TRANSPORT), "interleaved");
                    let chosen = chosen.and_then(|pair| pair.split('-').next()?.trim().parse().ok());
                    self.tracks.push(track::Track { index, way: Way::Channel(chosen.unwrap_or(channel)) });
                    return Ok(());
                }
                Err(SourceError::Transport) if self.source.transport == RtspTransport::Auto => {}
                Err(error) => return Err(error),
            }
        }
        let (local, peer) = self.dialled;
        let mut ports = Ports::bind(local.ip(), peer.ip())?;
        let transport = format!("RTP/AVP;unicast;client_port={}-{}", ports.first(), ports.first() + 1);
        let answer = self.request(Method::Setup, "SETUP", &url, &[(TRANSPORT, &transport)]).await?;
        ports.connect(parameter(header(&answer, &TRANSPORT), "server_port"));
        self.tracks.push(track::Track { index, way: Way::Ports(ports) });
        Ok(())
    }

    /// Ends the session; the server may be gone already.
    pub(crate) async fn teardown(&mut self) {
        let url = self.url.clone();
        let request = self.build(Method::Teardown, "TEARDOWN", &url, &[]);
        let _ = self.connection.send(&request).await;
    }

    /// GET_PARAMETER where the server knows it: some cameras answer OPTIONS without taking it for a sign
    /// of life. Its answer comes among the media.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(crate) async fn sign_of_life(&mut self) -> Result<(), SourceError> {
        let url = self.url.clone();
        let method = if self.methods.contains("GET_PARAMETER") { Method::GetParameter } else { Method::Options };
        let name = if method == Method::Options { "OPTIONS" } else { "GET_PARAMETER" };
        let request = self.build(method, name, &url, &[]);
        self.next_sign = Instant::now() + self.timeout / 2;
        self.connection.send(&request).await
    }

    fn build(&mut self, method: Method, name: &str, url: &Url, headers: &[(HeaderName, &str)]) -> Request<Vec<u8>> {
        self.cseq += 1;
        let mut request = Request::builder(method, Version::V1_0)
            .request_uri(url.clone())
            .header(CSEQ, self.cseq.to_string())
            .header(USER_AGENT, AGENT);
        if let Some(session) = &self.session {
            request = request.header(SESSION, session.as_str());
        }
        if let (Some(auth), Some((username, password))) = (&mut self.auth, self.source.source.credentials()) {
            let password = password.expose();
            let parameters = PasswordParams { username, password, uri: url.as_str(), method: name, body: Some(&[]) };
            // A challenge that cannot be answered ends in another 401.
            if let Ok(value) = auth.respond(&parameters) {
                request = request.header(AUTHORIZATION, value);
            }
        }
        for (name, value) in headers {
            request = request.header(name.clone(), *value);
        }
        request.build(vec![])
    }

    /// Sends a request and waits for its answer, with credentials if the server asks for them.
    async fn request(
        &mut self,
        method: Method,
        name: &'static str,
        url: &Url,
        headers: &[(HeaderName, &str)],
    ) -> Result<Response<Vec<u8>>, SourceError> {
        // A second round for credentials, a third for a nonce that has become stale meanwhile.
        for _ in 0..3 {
            let with_credentials = self.auth.is_some();
            let request = self.build(method.clone(), name, url, headers);
            self.connection.send(&request).await?;
            let answer = self.answer(self.cseq, name).await?;
            let status = u16::from(answer.status());
            match status {
                200..=299 => {
                    self.keep_session(&answer);
                    return Ok(answer);
                }
                401 => {
                    if self.source.source.credentials().is_none() {
                        return Err(SourceError::CredentialsMissing);
                    }
                    let challenges = answer.headers().filter(|(name, _)| **name == WWW_AUTHENTICATE);
                    let challenges = challenges.map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(", ");
                    let stale = challenges.to_ascii_lowercase().replace([' ', '"'], "").contains("stale=true");
                    if with_credentials && !stale {
                        return Err(SourceError::Unauthorized);
                    }
                    self.auth = PasswordClient::try_from(challenges.as_str()).ok();
                    if self.auth.is_none() {
                        return Err(SourceError::Unauthorized);
                    }
                }
                404 => return Err(SourceError::NotFound),
                454 => return Err(SourceError::SessionNotFound),
                461 => return Err(SourceError::Transport),
                _ => {
                    let reason = answer.reason_phrase().chars().filter(|c| !c.is_control()).take(80).collect();
                    return Err(SourceError::Refused { method: name, status, reason });
                }
            }
        }
        Err(SourceError::Unauthorized)
    }

    /// Media that comes before the answer, which some servers do, is of no use yet.
    async fn answer(&mut self, cseq: u32, name: &'static str) -> Result<Response<Vec<u8>>, SourceError> {
        let deadline = Instant::now() + PATIENCE;
        let mut found = None;
        while found.is_none() {
            let mut take = |incoming: Incoming<'_>| {
                if let Incoming::Message(Message::Response(answer)) = incoming
                    && header(&answer, &CSEQ).trim() == cseq.to_string()
                {
                    found = Some(answer);
                }
            };
            timeout_at(deadline.into(), self.connection.receive(&mut take))
                .await
                .map_err(|_| SourceError::Timeout(name))??;
        }
        found.ok_or(SourceError::Timeout(name))
    }

    fn keep_session(&mut self, answer: &Response<Vec<u8>>) {
        let value = header(answer, &SESSION);
        let id = value.split(';').next().unwrap_or_default().trim();
        if id.is_empty() {
            return;
        }
        self.session = Some(id.to_owned());
        if let Some(seconds) = parameter(value, "timeout").and_then(|seconds| seconds.parse().ok()) {
            // Neither a busy loop nor a session that ends before its first sign of life.
            self.timeout = Duration::from_secs(u64::clamp(seconds, 4, 120));
        }
    }
}

impl Packets for Client {
    fn poll_packets(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Packet<'_>),
    ) -> Poll<Result<(), SourceError>> {
        let mut refused = None;
        let read = track::poll_packets(context, &mut self.tracks, &mut self.connection, take, &mut |message| {
            // The answer to a sign of life. 454: the session is gone, and media will be soon.
            if matches!(&message, Message::Response(answer) if u16::from(answer.status()) == 454) {
                refused = Some(SourceError::SessionNotFound);
            }
        });
        match (read, refused) {
            (Poll::Ready(Ok(())), Some(refused)) => Poll::Ready(Err(refused)),
            (read, _) => read,
        }
    }

    fn attend_at(&self) -> Option<Instant> {
        Some(self.next_sign)
    }

    async fn attend(&mut self) -> Result<(), SourceError> {
        self.sign_of_life().await
    }

    fn is_unordered(&self, index: usize) -> bool {
        track::is_unordered(&self.tracks, index)
    }
}

fn header<'a>(answer: &'a Response<Vec<u8>>, name: &HeaderName) -> &'a str {
    answer.header(name).map_or("", |value| value.as_str())
}

/// `a=control` is absolute, or appended to the base as it stands: servers have query strings in it, which
/// the rules for relative URLs would cut off.
fn join(base: &Url, control: &str) -> Result<Url, SourceError> {
    if control.starts_with("rtsp://") || control.starts_with("rtsps://") {
        let url = Url::parse(control).map_err(|_| SourceError::MalformedSdp("a control URL".into()))?;
        // Credentials go by the header only, whatever the server copies into its description.
        let mut clean = url;
        let _ = clean.set_username("");
        let _ = clean.set_password(None);
        return Ok(clean);
    }
    let base = base.as_str();
    let slash = if base.ends_with('/') || control.starts_with('/') { "" } else { "/" };
    Url::parse(&format!("{base}{slash}{control}")).map_err(|_| SourceError::MalformedSdp("a control URL".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_urls_are_absolute_or_appended() {
        let base = Url::parse("rtsp://h/path?x=1").unwrap();
        assert_eq!(join(&base, "trackID=1").unwrap().as_str(), "rtsp://h/path?x=1/trackID=1");
        assert_eq!(join(&base, "rtsp://u:p@h/other").unwrap().as_str(), "rtsp://h/other");
        let base = Url::parse("rtsp://h/path/").unwrap();
        assert_eq!(join(&base, "trackID=1").unwrap().as_str(), "rtsp://h/path/trackID=1");
        assert!(join(&base, "rtsp://[").is_err());
    }

    #[test]
    fn parameters_of_headers() {
        assert_eq!(parameter("12345; timeout=30", "timeout"), Some("30"));
        assert_eq!(parameter("RTP/AVP/TCP;unicast;interleaved=4-5;ssrc=1", "interleaved"), Some("4-5"));
        assert_eq!(parameter("12345", "timeout"), None);
    }
}
