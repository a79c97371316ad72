//! An RTSP client (RFC 2326): DESCRIBE, then SETUP (`setup`) and PLAY (`playing`).

use std::time::{Duration, Instant};

use penstock_rtp::{
    description::{Description, Writer},
    rtsp::{
        self,
        message::{Message, Start},
        url::Url,
    },
};
use tokio::time::{timeout, timeout_at};

use super::{
    connection::{Connection, Incoming},
    credentials::Answerer,
    dial::{Dialled, dial},
    playing::{Pending, Sign, What},
    redirect::Destination,
    track,
};
use crate::{
    config,
    ingest::{error::SourceError, media::Skipped, place::Scratch},
};

/// For each answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// For the rest of a body whose end is not known, and for a better answer than one to another request.
const QUIET: Duration = Duration::from_secs(1);
/// Sessions end after this time without a sign of life, unless the server says otherwise (§12.37).
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);
/// Times that one attempt may connect again, since the camera closed behind an answer.
const RECONNECTS: u32 = 2;
const AGENT: &str = concat!("penstock/", env!("CARGO_PKG_VERSION"));
/// What a camera may ask of us.
const METHODS: &str = "OPTIONS, ANNOUNCE, GET_PARAMETER, SET_PARAMETER, REDIRECT, TEARDOWN";

/// A session with a camera.
pub(crate) struct Client {
    pub(super) connection: Connection,
    pub(super) dialled: (std::net::SocketAddr, std::net::SocketAddr),
    pub(super) to: Destination,
    pub(super) source: config::Stream,
    scratch: Scratch,
    auth: Option<Answerer>,
    pub(super) cseq: u64,
    /// The camera does not give back the numbers of requests.
    cseq_is_odd: bool,
    session: Option<String>,
    pub(super) tracks: Vec<track::Track>,
    /// Tracks come beside the connection.
    pub(super) by_udp: bool,
    /// What `a=control` of tracks is appended to.
    pub(super) base: Url,
    /// What to play: the first that is not refused.
    pub(super) play_urls: Vec<Url>,
    pub(super) sign: Sign,
    pub(super) timeout: Duration,
    pub(super) next_sign: Instant,
    reconnects: u32,
    /// Something has been answered on this connection.
    heard: bool,
    /// What came among the media and has not been looked at.
    pub(super) said: Vec<Message>,
    pub(super) pending: Vec<Pending>,
    /// Media has come.
    pub(super) plays: bool,
    pub(super) skipped: Skipped,
}

impl Client {
    /// Connects, asks what there is, and sets it up; the description has what could be.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(crate) async fn begin(
        source: &config::Stream,
        to: Destination,
        scratch: Scratch,
    ) -> Result<(Self, Description), SourceError> {
        let Dialled { stream, local, peer } = dial(source, &to).await?;
        let mut client = Self {
            connection: Connection::new(stream, scratch.clone()),
            dialled: (local, peer),
            base: to.url.clone(),
            to,
            source: source.clone(),
            scratch,
            auth: None,
            cseq: 0,
            cseq_is_odd: false,
            session: None,
            tracks: vec![],
            by_udp: source.transport == config::RtspTransport::Udp,
            play_urls: vec![],
            sign: Sign::Options,
            timeout: SESSION_TIMEOUT,
            next_sign: Instant::now() + SESSION_TIMEOUT,
            reconnects: 0,
            heard: false,
            said: vec![],
            pending: vec![],
            plays: false,
            skipped: Skipped::default(),
        };
        let mut description = client.describe().await?;
        match client.set_up(&mut description).await {
            Ok(()) => Ok((client, description)),
            Err(error) => {
                client.give_up_session().await;
                Err(error)
            }
        }
    }

    async fn describe(&mut self) -> Result<Description, SourceError> {
        let url = self.to.url.clone();
        // Some servers know no OPTIONS; then the sign of life is one nevertheless.
        match self.request("OPTIONS", &url, &[]).await {
            Ok(answer) if answer.text("Public").to_ascii_uppercase().contains("GET_PARAMETER") => {
                self.sign = Sign::GetParameter;
            }
            Ok(_) => {}
            Err(error) if error.is_refusal() => {}
            Err(error) => return Err(error),
        }
        let answer = self.request("DESCRIBE", &url, &[("Accept", "application/sdp")]).await?;
        let description = Description::parse_for(&answer.body, Writer::Server, self.source.audio)?;
        let named = ["Content-Base", "Content-Location"].into_iter().find_map(|name| url.resolve(&answer.get(name)?));
        let base = named.map_or(url.clone(), |(base, _)| base);
        // §C.1.1 has an absolute URL of the whole stand for itself, and cameras mean it as the base of the others.
        self.base = match description.control.contains("://") {
            true => base.control(&description.control).unwrap_or_else(|| base.clone()),
            false => base.clone(),
        };
        let aggregate = self.base.control(&description.control);
        for candidate in aggregate.into_iter().chain([self.base.clone(), base, url]) {
            if !self.play_urls.contains(&candidate) {
                self.play_urls.push(candidate);
            }
        }
        Ok(description)
    }

    /// Starts the tracks. Media may come from now on, before the answer and behind it.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(crate) async fn play(&mut self) -> Result<(), SourceError> {
        self.connection.set_channels(track::channels(&self.tracks));
        self.next_sign = Instant::now() + self.timeout / 2;
        self.ask(What::Play { again: false }).await
    }

    /// Ends the session; the server may be gone already.
    pub(crate) async fn teardown(&mut self) {
        let url = self.play_urls.first().unwrap_or(&self.to.url).clone();
        let request = self.build("TEARDOWN", &url, &[]);
        let _ = self.connection.send(&request).await;
        self.session = None;
    }

    /// Ends the session, if there is one, before another way is tried.
    pub(super) async fn give_up_session(&mut self) {
        if self.session.is_some() {
            let url = self.play_urls.first().unwrap_or(&self.to.url).clone();
            // An answer that is late is that of another request, which is seen by its number.
            let _ = timeout(QUIET, self.request("TEARDOWN", &url, &[])).await;
        }
        self.session = None;
        self.tracks.clear();
    }

    pub(super) fn build(&mut self, method: &str, url: &Url, fields: &[(&str, &str)]) -> Message {
        self.cseq += 1;
        let mut request = Message::request(method, url.as_str());
        request.push("CSeq", self.cseq.to_string());
        request.push("User-Agent", AGENT);
        if let Some(session) = &self.session {
            request.push("Session", session.as_str());
        }
        if let (Some(auth), Some((user, password))) = (&mut self.auth, &self.to.credentials)
            && let Some(value) = auth.answer(user, password, method, url.as_str())
        {
            request.push("Authorization", value);
        }
        for (name, value) in fields {
            request.push(name, *value);
        }
        request
    }

    /// Sends a request and waits for its answer, with credentials if the server asks for them.
    pub(super) async fn request(
        &mut self,
        method: &'static str,
        url: &Url,
        fields: &[(&str, &str)],
    ) -> Result<Message, SourceError> {
        // Whether credentials have answered the newest challenge, of which one more may follow.
        let mut answered = false;
        loop {
            let request = self.build(method, url, fields);
            let answer = match self.connection.send(&request).await {
                Ok(()) => self.answer(method).await,
                Err(error) => Err(error),
            };
            let answer = match answer {
                // Behind a 401, most likely (retina#45): what is known goes by a new connection.
                Err(SourceError::Closed | SourceError::Io(_)) if self.may_reconnect() => {
                    self.reconnect().await?;
                    answered = false;
                    continue;
                }
                answer => answer?,
            };
            let Start::Answer { status, reason } = &answer.start else { continue };
            match *status {
                401 => {
                    self.challenged(&answer, answered)?;
                    answered = true;
                }
                status => {
                    self.judge(method, status, reason, &answer)?;
                    self.keep_session(&answer);
                    return Ok(answer);
                }
            }
        }
    }

    /// What an answer other than 401 means.
    pub(super) fn judge(
        &self,
        method: &'static str,
        status: u16,
        reason: &str,
        answer: &Message,
    ) -> Result<(), SourceError> {
        Err(match status {
            200..=299 => return Ok(()),
            300..=303 | 305 | 307 | 308 => SourceError::Moved(Box::new(self.to.follow(&answer.text("Location"))?)),
            404 => SourceError::NotFound,
            454 => SourceError::SessionNotFound,
            461 => SourceError::Transport,
            _ => {
                let reason = reason.chars().filter(|letter| !letter.is_control()).take(80).collect();
                SourceError::Refused { method, status, reason }
            }
        })
    }

    /// Takes a challenge. `refused`: the one before has been answered by this very request.
    pub(super) fn challenged(&mut self, answer: &Message, refused: bool) -> Result<(), SourceError> {
        if self.to.credentials.is_none() {
            return Err(SourceError::CredentialsMissing);
        }
        let Some(challenge) = Answerer::choose(answer.all("WWW-Authenticate")) else {
            return Err(SourceError::UnknownChallenge);
        };
        // Too old a nonce may be said twice, as with two processes behind one address.
        if refused && !(challenge.is_stale() && self.auth.as_ref().is_some_and(|auth| !auth.is_stale())) {
            return Err(SourceError::Unauthorized);
        }
        self.auth = Some(challenge);
        Ok(())
    }

    fn may_reconnect(&self) -> bool {
        self.heard && self.session.is_none() && self.reconnects < RECONNECTS
    }

    async fn reconnect(&mut self) -> Result<(), SourceError> {
        self.reconnects += 1;
        let Dialled { stream, local, peer } = dial(&self.source, &self.to).await?;
        self.connection = Connection::new(stream, self.scratch.clone());
        self.dialled = (local, peer);
        self.heard = false;
        Ok(())
    }

    /// The answer to the request that was sent last. What the camera asks meanwhile is answered.
    async fn answer(&mut self, name: &'static str) -> Result<Message, SourceError> {
        let deadline = Instant::now() + PATIENCE;
        let (mut odd, mut odd_until) = (None, deadline);
        loop {
            let mut came = vec![];
            let mut take = |incoming: Incoming<'_>| {
                if let Incoming::Message(message) = incoming {
                    came.push(message);
                }
            };
            let body = self.connection.waits_for_body();
            let until = if body { deadline.min(Instant::now() + QUIET) } else { odd_until };
            let received = timeout_at(until.into(), self.connection.receive(&mut take)).await;
            if body && !matches!(received, Ok(Ok(()))) {
                self.connection.end_body(&mut take);
            }
            self.skipped.bytes += self.connection.take_skipped();
            for message in came {
                match &message.start {
                    Start::Request { .. } => self.respond(&message).await?,
                    // §7.1.1: something to come.
                    Start::Answer { status: 100..=199, .. } => {}
                    Start::Answer { .. } => {
                        self.heard = true;
                        if self.cseq_is_odd || message.cseq().is_none_or(|cseq| cseq >= self.cseq) {
                            return Ok(message);
                        }
                        odd_until = deadline.min(Instant::now() + QUIET);
                        odd = Some(message);
                    }
                }
            }
            match (received, odd.take()) {
                (Ok(Ok(())), former) => odd = former,
                // Of another number, and there is no better one (retina#133).
                (_, Some(former)) => {
                    self.cseq_is_odd = true;
                    return Ok(former);
                }
                (Ok(Err(error)), None) => return Err(error),
                (Err(_), None) if body && Instant::now() < deadline => {}
                (Err(_), None) => return Err(SourceError::Timeout(name)),
            }
        }
    }

    /// Answers what the camera asks.
    pub(super) async fn respond(&mut self, request: &Message) -> Result<(), SourceError> {
        let Start::Request { method, .. } = &request.start else { return Ok(()) };
        let method = method.to_ascii_uppercase();
        let known = METHODS.split(", ").any(|known| known == method);
        let mut answer = if known { Message::answer(200, "OK") } else { Message::answer(501, "Not Implemented") };
        if let Some(cseq) = request.get("CSeq") {
            answer.push("CSeq", cseq.as_bytes());
        }
        answer.push("Public", METHODS);
        self.connection.send(&answer).await?;
        match method.as_str() {
            "TEARDOWN" => Err(SourceError::Closed),
            "REDIRECT" if request.get("Location").is_some() => {
                Err(SourceError::Moved(Box::new(self.to.follow(&request.text("Location"))?)))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn keep_session(&mut self, answer: &Message) {
        let value = answer.text("Session");
        let id = value.split(';').next().unwrap_or_default().trim();
        if id.is_empty() {
            return;
        }
        self.session = Some(id.to_owned());
        let seconds = rtsp::parameter(&value, "timeout").and_then(rtsp::number);
        if let Some(seconds) = seconds.filter(|seconds| *seconds > 0) {
            // Neither a busy loop nor a session that ends before its first sign of life.
            self.timeout = Duration::from_secs(seconds.clamp(4, 120));
        }
    }
}
