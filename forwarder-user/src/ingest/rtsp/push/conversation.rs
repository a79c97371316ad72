//! One connection of a publisher: OPTIONS, ANNOUNCE, SETUP, RECORD, and then its media.

use std::{
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use penstock_rtp::description::{Description, DescriptionError};
use rtsp_types::{
    Message, Method, Request, Response, StatusCode, Version,
    headers::{CONTENT_TYPE, CSEQ, PUBLIC, SERVER, SESSION, TRANSPORT},
};
use tokio::time::timeout_at;
use url::Url;

use super::{
    Claim, Server,
    auth::{Door, taken_away},
    random_hex,
    transport::Wanted,
};
use crate::config::Action;
use crate::ingest::{
    error::SourceError,
    handle::gone,
    media::{Packet, Packets},
    rtsp::{
        connection::{Connection, Incoming, Stream},
        play,
        track::{self, Track, Way},
    },
    udp::Ports,
};
use crate::rights::Grant;

/// From the begin of a connection to its RECORD.
const PATIENCE: Duration = Duration::from_secs(10);
/// Wrong passwords that are heard on one connection.
const MAX_GUESSES: u32 = 3;
/// Tracks that may be set up, with those that nobody will see.
const MAX_TRACKS: usize = 8;
/// We live on their media, so this is for clients that want to know.
const SESSION_TIMEOUT: u64 = 60;
pub(in crate::ingest::rtsp) const METHODS: &str =
    "OPTIONS, DESCRIBE, ANNOUNCE, SETUP, PLAY, PAUSE, RECORD, TEARDOWN, GET_PARAMETER, SET_PARAMETER";

/// What was announced.
struct Announced {
    claim: Claim,
    description: Description,
}

/// A connection's two ends.
#[derive(Clone, Copy)]
pub(in crate::ingest::rtsp) struct Ends {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// By TLS.
    pub encrypted: bool,
}

struct Conversation<'a> {
    server: &'a Rc<Server>,
    connection: Connection,
    ends: Ends,
    door: Door,
    /// By what right it publishes.
    grant: Option<Grant>,
    guesses: u32,
    session: String,
    announced: Option<Announced>,
    tracks: Vec<Track>,
    recording: bool,
    /// What came among the media and has no answer yet.
    requests: Vec<Request<Vec<u8>>>,
}

/// A refusal: name of its counter, status, words.
pub(in crate::ingest::rtsp) struct Refusal(pub &'static str, pub u16, pub String);

/// Serves a connection to its end.
pub(super) async fn run(server: &Rc<Server>, stream: Box<dyn Stream>, ends: Ends) {
    let peer = ends.peer;
    let mut conversation = Conversation {
        server,
        connection: Connection::new(stream, Rc::clone(&server.place.scratch)),
        ends,
        door: Door::new(),
        grant: None,
        guesses: 0,
        session: random_hex(),
        announced: None,
        tracks: vec![],
        recording: false,
        requests: vec![],
    };
    let error = match conversation.prepare().await {
        Ok(Some(first)) => {
            let Conversation { connection, ends, .. } = conversation;
            return match play::run(server, connection, ends, &first).await {
                Ok(()) => {}
                Err(error) => server.gone("", peer, &error),
            };
        }
        Ok(None) => match conversation.record().await {
            Ok(()) => return,
            Err(error) => error,
        },
        Err(error) => error,
    };
    let stream = conversation.announced.as_ref().map_or("", |announced| announced.claim.name.as_str());
    server.gone(stream, peer, &error);
    if let Some(published) = conversation.announced.as_ref().and_then(|announced| announced.claim.published.as_ref()) {
        published.media.failed(&error);
    }
}

impl Conversation<'_> {
    /// Up to RECORD, or to the request by which somebody shows that he wants to play.
    async fn prepare(&mut self) -> Result<Option<Request<Vec<u8>>>, SourceError> {
        let deadline = Instant::now() + PATIENCE;
        while !self.recording {
            let mut requests = vec![];
            let mut take = |incoming: Incoming<'_>| {
                if let Incoming::Message(Message::Request(request)) = incoming {
                    requests.push(request);
                }
            };
            let received = timeout_at(deadline.into(), self.connection.receive(&mut take)).await;
            received.map_err(|_| SourceError::Timeout("the wait for RECORD"))??;
            for request in requests {
                if self.announced.is_none() && play::begins(&request) {
                    return Ok(Some(request));
                }
                self.request(&request).await?;
            }
        }
        Ok(None)
    }

    /// Takes media until the publisher leaves. `Ok`: the control task wants no more of it.
    async fn record(&mut self) -> Result<(), SourceError> {
        let Some(announced) = &mut self.announced else { return Ok(()) };
        let Some(mut published) = announced.claim.published.take() else { return Ok(()) };
        let (name, peer) = (announced.claim.name.clone(), self.ends.peer);
        let by = self.grant.as_ref().map(|grant| grant.by.to_string());
        tracing::info!(stream = name, %peer, by, "RTSP publisher records");
        let watch = self.grant.as_ref().and_then(|grant| self.server.settings.rights.watch(grant));
        let over = async {
            tokio::select! {
                () = gone(&mut published.wanted) => {}
                () = taken_away(watch) => {
                    tracing::info!(stream = name, %peer, "RTSP publisher's right to be here was taken away");
                }
            }
        };
        let played = published.media.play(self, pin!(over)).await;
        if let Some(announced) = &mut self.announced {
            announced.claim.published = Some(published);
        }
        played
    }

    /// Answers a request.
    async fn request(&mut self, request: &Request<Vec<u8>>) -> Result<(), SourceError> {
        let answered = self.act(request).await;
        let mut ended = false;
        let mut answer = match answered {
            Ok(headers) => {
                ended = *request.method() == Method::Teardown;
                let mut answer = Response::builder(Version::V1_0, StatusCode::Ok);
                for (name, value) in headers {
                    answer = answer.header(name, value);
                }
                answer.build(vec![])
            }
            Err(refusal) => self.refuse(request, &refusal),
        };
        if let Some(cseq) = request.header(&CSEQ) {
            answer.insert_header(CSEQ, cseq.clone());
        }
        answer.insert_header(SERVER, concat!("penstock/", env!("CARGO_PKG_VERSION")));
        self.connection.answer(&answer).await?;
        if ended {
            return Err(SourceError::Ended);
        }
        if self.guesses > MAX_GUESSES {
            return Err(SourceError::WrongPassword);
        }
        Ok(())
    }

    fn refuse(&self, request: &Request<Vec<u8>>, refusal: &Refusal) -> Response<Vec<u8>> {
        self.server.refuse(self.ends.peer, request, refusal, &self.door)
    }

    /// Headers of the answer.
    async fn act(&mut self, request: &Request<Vec<u8>>) -> Result<Vec<(rtsp_types::HeaderName, String)>, Refusal> {
        let given = request.header(&SESSION).map(|value| value.as_str());
        if given.is_some_and(|given| given.split(';').next().unwrap_or_default().trim() != self.session) {
            return Err(Refusal("refused_session", 454, "there is no such session".into()));
        }
        let session = (SESSION, format!("{};timeout={SESSION_TIMEOUT}", self.session));
        match request.method() {
            Method::Options => Ok(vec![(PUBLIC, METHODS.into())]),
            Method::GetParameter | Method::SetParameter | Method::Teardown => Ok(vec![session]),
            Method::Announce => {
                self.announce(request).await?;
                Ok(vec![session])
            }
            Method::Setup => {
                let transport = self.setup(request)?;
                Ok(vec![session, (TRANSPORT, transport)])
            }
            Method::Record if self.tracks.is_empty() => {
                Err(Refusal("refused_state", 455, "RECORD comes after ANNOUNCE and SETUP".into()))
            }
            Method::Record => {
                self.recording = true;
                Ok(vec![session])
            }
            Method::Describe | Method::Play => {
                Err(Refusal("refused_state", 455, "a connection publishes or plays, not both".into()))
            }
            _ => Err(Refusal("refused_method", 405, format!("it knows {METHODS}"))),
        }
    }

    async fn announce(&mut self, request: &Request<Vec<u8>>) -> Result<(), Refusal> {
        let bad = |words: &str| Refusal("refused_malformed", 400, words.into());
        let url = request.request_uri().ok_or_else(|| bad("ANNOUNCE needs a URL"))?;
        let name = url.path().trim_matches('/');
        let grant = self.admit(request, url, name).await?;
        if self.announced.is_some() {
            return Err(Refusal("refused_state", 455, "a connection publishes one stream".into()));
        }
        let kind = request.header(&CONTENT_TYPE).map_or("", |value| value.as_str());
        if !kind.trim().to_ascii_lowercase().starts_with("application/sdp") {
            return Err(Refusal("refused_malformed", 415, "ANNOUNCE needs application/sdp".into()));
        }
        let description = Description::parse(request.body()).map_err(|error| match error {
            DescriptionError::NoMedia(_) => Refusal("refused_no_media", 415, error.to_string()),
            error => Refusal("refused_malformed", 400, error.to_string()),
        })?;
        let claim = self.server.claim(name, self.ends.peer).await;
        let mut claim = claim.map_err(|why| Refusal("refused_stream", 455, why))?;
        if let Some(published) = &mut claim.published {
            published.media.described(&description).map_err(|error| {
                published.media.failed(&error);
                Refusal("refused_engine", 503, error.to_string())
            })?;
        }
        self.announced = Some(Announced { claim, description });
        self.grant = Some(grant);
        Ok(())
    }

    async fn admit(&mut self, request: &Request<Vec<u8>>, url: &Url, stream: &str) -> Result<Grant, Refusal> {
        let asked = (Action::Publish, stream, self.ends.peer);
        let admitted = self.door.admit(&self.server.settings.rights, request, url, asked).await;
        self.guesses += u32::from(admitted.is_err());
        admitted
    }

    /// The answer's `Transport`.
    fn setup(&mut self, request: &Request<Vec<u8>>) -> Result<String, Refusal> {
        let Some(Announced { description, .. }) = &self.announced else {
            return Err(Refusal("refused_state", 455, "SETUP comes after ANNOUNCE".into()));
        };
        if self.recording || self.tracks.len() >= MAX_TRACKS {
            return Err(Refusal("refused_state", 455, "no more tracks can be set up".into()));
        }
        let url = request.request_uri().map_or("", Url::as_str);
        let index = track_of(description, url)
            .ok_or_else(|| Refusal("refused_track", 404, "the description has no such track".into()))?;
        let header = request.header(&TRANSPORT).map_or("", |value| value.as_str());
        let refused = || Refusal("refused_transport", 461, "RTP/AVP by TCP or unicast UDP, please".into());
        let (way, answer) = match Wanted::parse(header).ok_or_else(refused)? {
            Wanted::Channel(wanted) => {
                let channel = wanted.or_else(|| u8::try_from(2 * self.tracks.len()).ok()).ok_or_else(refused)?;
                let taken = |track: &Track| matches!(track.way, Way::Channel(other) if channel.abs_diff(other) < 2);
                if self.tracks.iter().any(taken) {
                    return Err(refused());
                }
                let answer = format!("RTP/AVP/TCP;unicast;interleaved={channel}-{};mode=record", channel + 1);
                (Way::Channel(channel), answer)
            }
            Wanted::Udp(_) if self.ends.encrypted => {
                let words = "by TCP, please: what comes by UDP would not be encrypted";
                return Err(Refusal("refused_transport", 461, words.into()));
            }
            Wanted::Udp(client) => {
                let ports = Ports::bind(self.ends.local.ip(), self.ends.peer.ip());
                let ports = ports.map_err(|error| Refusal("refused_ports", 503, format!("no UDP port: {error}")))?;
                let (first, last) = (ports.first(), client.saturating_add(1));
                let answer = format!(
                    "RTP/AVP;unicast;client_port={client}-{last};server_port={first}-{};mode=record",
                    first + 1
                );
                (Way::Ports(ports), answer)
            }
        };
        self.tracks.push(Track { index, way });
        Ok(answer)
    }
}

impl Packets for Conversation<'_> {
    fn poll_packets(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Packet<'_>),
    ) -> Poll<Result<(), SourceError>> {
        // Looked at with each batch, so that nothing is forwarded that came after the end.
        if self.grant.as_ref().and_then(Grant::left).is_some_and(|left| left.is_zero()) {
            return Poll::Ready(Err(SourceError::RightEnded));
        }
        let requests = &mut self.requests;
        track::poll_packets(context, &mut self.tracks, &mut self.connection, take, &mut |message| {
            if let Message::Request(request) = message {
                requests.push(request);
            }
        })
    }

    fn attend_at(&self) -> Option<Instant> {
        (!self.requests.is_empty()).then(Instant::now)
    }

    async fn attend(&mut self) -> Result<(), SourceError> {
        for request in std::mem::take(&mut self.requests) {
            self.request(&request).await?;
        }
        Ok(())
    }

    fn is_unordered(&self, index: usize) -> bool {
        track::is_unordered(&self.tracks, index)
    }
}

/// Which track a URL means: `a=control` is the whole of it, or its end. What was left out is beyond the
/// last track.
fn track_of(description: &Description, url: &str) -> Option<usize> {
    let is_meant = |control: &str| {
        let before = url.strip_suffix(control);
        !control.is_empty() && before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    if let Some(index) = description.tracks.iter().position(|track| is_meant(&track.control)) {
        return Some(index);
    }
    if description.left_out_controls.iter().any(|control| is_meant(control)) {
        return Some(usize::MAX);
    }
    // Who sends one track need not name it.
    (description.tracks.len() == 1 && description.tracks[0].control.is_empty()).then_some(0)
}
