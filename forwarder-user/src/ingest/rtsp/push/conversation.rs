//! One connection of a publisher: OPTIONS, ANNOUNCE, SETUP, RECORD, and then its media.

use std::{
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use penstock_rtp::{
    description::{Description, DescriptionError, Writer},
    rtsp::{
        message::{Message, Start},
        transport::Lower,
    },
};
use tokio::time::timeout_at;

use super::{
    Claim, Server,
    auth::{Door, taken_away},
    name,
};
use crate::config::Action;
use crate::ingest::{
    error::SourceError,
    handle::gone,
    media::{Packet, Packets, Skipped},
    rtsp::{
        answer::{Ends, MAX_GUESSES, METHODS, Refusal, SESSION_TIMEOUT, channel, choose, finish, ports},
        connection::{Connection, Incoming, Stream},
        play, random_hex,
        track::{self, Track, Way},
    },
    secure::{self, Srtp},
};
use crate::rights::Grant;

/// From the begin of a connection to its RECORD.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tracks that may be set up, with those that nobody will see.
const MAX_TRACKS: usize = 8;

/// What was announced.
struct Announced {
    claim: Claim,
    description: Description,
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
    requests: Vec<Message>,
    skipped: Skipped,
}

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
        skipped: Skipped::default(),
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
    async fn prepare(&mut self) -> Result<Option<Message>, SourceError> {
        let deadline = Instant::now() + PATIENCE;
        while !self.recording {
            let mut requests = vec![];
            let mut take = |incoming: Incoming<'_>| {
                if let Incoming::Message(request) = incoming {
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

    /// Answers a request. An answer is none, and needs nothing.
    async fn request(&mut self, request: &Message) -> Result<(), SourceError> {
        let Start::Request { method, uri } = &request.start else { return Ok(()) };
        // Methods are case-sensitive (§6.1), and nobody means another one by small letters.
        let method = method.to_ascii_uppercase();
        let answered = self.act(request, &method, uri).await;
        let mut ended = false;
        let mut answer = match answered {
            Ok(fields) => {
                ended = method == "TEARDOWN";
                fields.into_iter().fold(Message::answer(200, "OK"), |answer, (name, value)| answer.with(name, value))
            }
            Err(refusal) => self.server.refuse(self.ends.peer, &method, &refusal, &self.door),
        };
        finish(&mut answer, request);
        self.connection.send(&answer).await?;
        if ended {
            return Err(SourceError::Ended);
        }
        if self.guesses > MAX_GUESSES {
            return Err(SourceError::WrongPassword);
        }
        Ok(())
    }

    /// Fields of the answer.
    async fn act(
        &mut self,
        request: &Message,
        method: &str,
        uri: &str,
    ) -> Result<Vec<(&'static str, String)>, Refusal> {
        let given = request.get("Session");
        if given.is_some_and(|given| given.split(';').next().unwrap_or_default().trim() != self.session) {
            return Err(Refusal("refused_session", 454, "there is no such session".into()));
        }
        let session = ("Session", format!("{};timeout={SESSION_TIMEOUT}", self.session));
        match method {
            "OPTIONS" => Ok(vec![("Public", METHODS.into())]),
            "GET_PARAMETER" | "SET_PARAMETER" | "TEARDOWN" => Ok(vec![session]),
            "ANNOUNCE" => {
                self.announce(request, uri).await?;
                Ok(vec![session])
            }
            "SETUP" => {
                let fields = self.setup(request, uri)?;
                Ok([vec![session], fields].concat())
            }
            "RECORD" if self.tracks.is_empty() => {
                Err(Refusal("refused_state", 455, "RECORD comes after ANNOUNCE and SETUP".into()))
            }
            "RECORD" => {
                self.recording = true;
                self.connection.set_channels(track::channels(&self.tracks));
                Ok(vec![session])
            }
            "DESCRIBE" | "PLAY" => {
                Err(Refusal("refused_state", 455, "a connection publishes or plays, not both".into()))
            }
            _ => Err(Refusal("refused_method", 405, format!("it knows {METHODS}"))),
        }
    }

    async fn announce(&mut self, request: &Message, uri: &str) -> Result<(), Refusal> {
        let bad = |words: &str| Refusal("refused_malformed", 400, words.into());
        if uri.contains(|letter: char| letter.is_ascii_whitespace()) {
            return Err(Refusal("garbage", 400, "a URL has no blanks: write %20".into()));
        }
        let name = name::stream(uri).ok_or_else(|| bad("ANNOUNCE needs a URL that names a stream"))?;
        let asked = (Action::Publish, name.as_str(), self.ends.peer);
        let admitted = self.door.admit(&self.server.settings.rights, request, ("ANNOUNCE", uri), asked).await;
        self.guesses += u32::from(admitted.is_err());
        let grant = admitted?;
        if self.announced.is_some() {
            return Err(Refusal("refused_state", 455, "a connection publishes one stream".into()));
        }
        let kind = request.get("Content-Type");
        if kind.is_some_and(|kind| !kind.trim().to_ascii_lowercase().starts_with("application/sdp")) {
            return Err(Refusal("refused_malformed", 415, "ANNOUNCE needs application/sdp".into()));
        }
        let description = Description::parse_for(&request.body, Writer::Sender, self.server.settings.rtsp.audio)
            .map_err(|error| match error {
                DescriptionError::NoMedia(_) => Refusal("refused_no_media", 415, error.to_string()),
                error => Refusal("refused_malformed", 400, error.to_string()),
            })?;
        if description.tracks.iter().any(|track| track.security.is_some()) && !self.ends.encrypted {
            return Err(Refusal("refused_no_media", 415, "SRTP outside of TLS is not taken".into()));
        }
        let claim = self.server.claim(&name, self.ends.peer).await;
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

    /// The answer's `Transport`, and its `KeyMgmt`.
    fn setup(&mut self, request: &Message, uri: &str) -> Result<Vec<(&'static str, String)>, Refusal> {
        let Some(Announced { description, .. }) = &self.announced else {
            return Err(Refusal("refused_state", 455, "SETUP comes after ANNOUNCE".into()));
        };
        if self.recording || self.tracks.len() >= MAX_TRACKS {
            return Err(Refusal("refused_state", 455, "no more tracks can be set up".into()));
        }
        let index = name::track(description, uri)
            .ok_or_else(|| Refusal("refused_track", 404, "the description has no such track".into()))?;
        // By TLS the key is told to nobody else, and what comes beside it is as safe.
        let keys = description.tracks.get(index).and_then(|track| track.security.clone());
        let keys = keys.filter(|_| self.ends.encrypted);
        let wanted = choose(&request.text("Transport"), keys.is_some())?;
        let field = request.get("KeyMgmt");
        let srtp = match keys.filter(|_| wanted.secure).map(|keys| Srtp::new(&keys, field.as_deref())) {
            Some(Ok(srtp)) => Some(srtp),
            Some(Err(error)) => return Err(Refusal("refused_key", 463, error.to_string())),
            None => None,
        };
        let profile = if srtp.is_some() { "SAVP" } else { "AVP" };
        let (way, answer) = match (wanted.lower, wanted.client_port) {
            (Lower::Udp, Some(client)) => self.by_udp(client, profile)?,
            (_, _) => {
                let others = self.tracks.iter().map(|track| match track.way {
                    Way::Channel(other) => Some(other),
                    Way::Ports(_) => None,
                });
                let channel = channel(&wanted, others)?;
                let answer = format!("RTP/{profile}/TCP;unicast;interleaved={channel}-{};mode=record", channel + 1);
                (Way::Channel(channel), answer)
            }
        };
        let mut fields = vec![("Transport", answer)];
        if srtp.is_some() {
            fields.extend(secure::key_mgmt(uri).map(|ours| ("KeyMgmt", ours)));
        }
        self.tracks.push(Track { index, way, srtp });
        Ok(fields)
    }

    /// A track beside the connection, from this port.
    fn by_udp(&self, client: u16, profile: &str) -> Result<(Way, String), Refusal> {
        if self.ends.encrypted && profile == "AVP" {
            let words = "by TCP, or as RTP/SAVP, please: what comes by UDP would not be encrypted";
            return Err(Refusal("refused_transport", 461, words.into()));
        }
        let (ports, said) = ports(&self.ends, client)?;
        Ok((Way::Ports(ports), format!("RTP/{profile};unicast;{said};mode=record")))
    }
}

impl Packets for Conversation<'_> {
    fn poll_packets(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Packet<'_>),
    ) -> Poll<Result<(), SourceError>> {
        let (requests, skipped) = (&mut self.requests, &mut self.skipped);
        track::poll_packets(context, &mut self.tracks, &mut self.connection, take, skipped, &mut |message| {
            requests.push(message);
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

    fn take_skipped(&mut self) -> Skipped {
        std::mem::take(&mut self.skipped)
    }
}
