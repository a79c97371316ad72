//! Those who play by RTSP (RFC 2326): recorders, players, home automation. Any stream, whoever publishes it, by TCP or
//! UDP, as it comes: nothing is sealed, and nothing is decoded.
//!
//! Here: one connection, from its DESCRIBE on. `describe` is what it is told, `outgoing` what it gets.

mod describe;
mod outgoing;

use std::{
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    time::{Duration, Instant},
};

use penstock_engine::{Ear, Heard};
use rtsp_types::{
    HeaderName, Message, Method, Request, Response, StatusCode, Version,
    headers::{CONTENT_BASE, CONTENT_TYPE, CSEQ, PUBLIC, RANGE, SERVER, SESSION, TRANSPORT},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep_until, timeout},
};
use url::Url;

use self::{
    describe::{describe, name_of, payload_type, track_of},
    outgoing::Outgoing,
};
use super::{
    connection::{Connection, Incoming},
    push::{Door, Ends, Refusal, Server, Wanted, random_hex, taken_away},
};
use crate::{
    config::{Action, stream_name_problem},
    ingest::{
        Event,
        error::SourceError,
        play::{Asked, Listening, PlayerId, Reference, Unplayable, Watching},
        udp::Ports,
    },
    rights::Grant,
};

/// From DESCRIBE to PLAY.
const PATIENCE: Duration = Duration::from_secs(10);
/// A source on demand connects meanwhile.
const DESCRIPTION: Duration = Duration::from_secs(15);
/// Wrong passwords that are heard on one connection.
const MAX_GUESSES: u32 = 3;
/// Packets that wait for a slow player: some seconds of a camera, or a group of pictures from the keyframe cache.
const ROOM: usize = 2048;
/// Bytes that are written at once.
const BATCH: usize = 64 << 10;
/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(1);
/// Time between two sender reports.
const REPORTS: Duration = Duration::from_secs(5);
/// Recorders notice an end, and try again; of silence many notice nothing.
const SILENCE: Duration = Duration::from_secs(20);
const SESSION_TIMEOUT: u64 = 60;
pub(super) const METHODS: &str = "DESCRIBE, PLAY, PAUSE";

/// Whether a request begins to play.
pub(super) fn begins(request: &Request<Vec<u8>>) -> bool {
    matches!(request.method(), Method::Describe | Method::Play)
}

/// Serves a connection to its end.
///
/// # Errors
/// Why it ended.
pub(super) async fn run(
    server: &Rc<Server>,
    connection: Connection,
    ends: Ends,
    first: &Request<Vec<u8>>,
) -> Result<(), SourceError> {
    let now = Instant::now();
    let mut conversation = Conversation {
        server,
        connection,
        ends,
        door: Door::new(),
        guesses: 0,
        session: random_hex(),
        player: None,
        playing: false,
        deadline: now + PATIENCE,
        heard: now,
    };
    conversation.request(first).await?;
    loop {
        conversation.turn().await?;
    }
}

struct Conversation<'a> {
    server: &'a Rc<Server>,
    connection: Connection,
    ends: Ends,
    door: Door,
    guesses: u32,
    session: String,
    player: Option<Player>,
    playing: bool,
    /// For PLAY.
    deadline: Instant,
    /// When the last packet came.
    heard: Instant,
}

/// A stream that is watched.
struct Player {
    hold: Hold,
    name: String,
    watching: Watching,
    tracks: Vec<Track>,
    ear: Ear,
    heard: mpsc::Receiver<Heard>,
    /// Ends with the right to play.
    over: Pin<Box<dyn Future<Output = ()>>>,
    /// Its packets flow.
    listens: bool,
    /// Packets that found no room, as counted.
    missed: u64,
}

/// A track that was set up.
struct Track {
    /// Its place in the description.
    index: usize,
    way: Way,
    outgoing: Outgoing,
    reference: Reference,
    reported: Option<Instant>,
}

/// How a track goes.
enum Way {
    /// By this channel, and RTCP by the next.
    Channel(u8),
    Udp {
        ports: Ports,
        rtp: SocketAddr,
        rtcp: SocketAddr,
    },
}

/// What a turn brings.
enum Turn {
    Read,
    Heard(Heard),
    Ended(&'static str),
    Tick,
}

type Headers = Vec<(HeaderName, String)>;

impl Conversation<'_> {
    async fn turn(&mut self) -> Result<(), SourceError> {
        let mut requests = vec![];
        // Receiver reports change nothing: there is nobody to tell.
        let mut take = |incoming: Incoming<'_>| {
            if let Incoming::Message(Message::Request(request)) = incoming {
                requests.push(request);
            }
        };
        let tick = (Instant::now() + TICK).into();
        let turn = match &mut self.player {
            None => tokio::select! {
                received = self.connection.receive(&mut take) => received.map(|()| Turn::Read)?,
                () = sleep_until(tick) => Turn::Tick,
            },
            Some(Player { watching, heard, over, .. }) => tokio::select! {
                received = self.connection.receive(&mut take) => received.map(|()| Turn::Read)?,
                Some(heard) = heard.recv() => Turn::Heard(heard),
                why = &mut watching.ended => Turn::Ended(why.unwrap_or("the stream has ended")),
                () = over => Turn::Ended("the right to play was taken away, or has ended"),
                () = sleep_until(tick) => Turn::Tick,
            },
        };
        for request in requests {
            self.request(&request).await?;
        }
        match turn {
            Turn::Read => Ok(()),
            Turn::Heard(heard) => self.send(heard).await,
            Turn::Ended(why) => {
                tracing::info!(peer = %self.ends.peer, "RTSP player is sent away: {why}");
                Err(SourceError::Closed)
            }
            Turn::Tick => self.tick().await,
        }
    }

    /// Sends a packet, and what has come with it.
    async fn send(&mut self, first: Heard) -> Result<(), SourceError> {
        let Some(player) = &mut self.player else { return Ok(()) };
        let now = Instant::now();
        self.heard = now;
        let (mut next, mut frames, mut packet) = (Some(first), vec![], vec![]);
        while let Some(heard) = next {
            let track = player.tracks.iter_mut().find(|track| track.index == heard.track);
            if let Some(track) = track.filter(|_| self.playing) {
                packet.clear();
                track.outgoing.write(&heard, now, &mut packet);
                track.way.put(&packet, false, &mut frames);
            }
            next = if frames.len() < BATCH { player.heard.try_recv().ok() } else { None };
        }
        self.connection.send_frames(&frames).await
    }

    /// What is due by the clock.
    async fn tick(&mut self) -> Result<(), SourceError> {
        let now = Instant::now();
        if !self.playing {
            return if now < self.deadline { Ok(()) } else { Err(SourceError::Timeout("the wait for PLAY")) };
        }
        let Some(player) = &mut self.player else { return Ok(()) };
        let missed = player.ear.missed();
        let before = std::mem::replace(&mut player.missed, missed);
        self.server.counters.add_many("packets_missed_by_players", missed - before);
        if now > self.heard + SILENCE {
            return Err(SourceError::Stalled { seconds: SILENCE.as_secs(), why: None });
        }
        let mut frames = vec![];
        for track in &mut player.tracks {
            if track.reported.is_some_and(|at| now < at + REPORTS) {
                continue;
            }
            if let Some(report) = track.outgoing.report(&self.session, now) {
                track.reported = Some(now);
                track.way.put(&report, true, &mut frames);
            }
        }
        self.connection.send_frames(&frames).await
    }

    /// Answers a request.
    async fn request(&mut self, request: &Request<Vec<u8>>) -> Result<(), SourceError> {
        let mut ended = false;
        let mut answer = match self.act(request).await {
            Ok((headers, body)) => {
                ended = *request.method() == Method::Teardown;
                let answer = Response::builder(Version::V1_0, StatusCode::Ok);
                headers.into_iter().fold(answer, |answer, (name, value)| answer.header(name, value)).build(body)
            }
            Err(refusal) => self.refuse(request, &refusal),
        };
        if let Some(cseq) = request.header(&CSEQ) {
            answer.insert_header(CSEQ, cseq.clone());
        }
        answer.insert_header(SERVER, concat!("penstock/", env!("CARGO_PKG_VERSION")));
        self.connection.answer(&answer).await?;
        match (ended, self.guesses > MAX_GUESSES) {
            (true, _) => Err(SourceError::Ended),
            (_, true) => Err(SourceError::WrongPassword),
            _ => Ok(()),
        }
    }

    fn refuse(&self, request: &Request<Vec<u8>>, refusal: &Refusal) -> Response<Vec<u8>> {
        self.server.refuse(self.ends.peer, request, refusal, &self.door)
    }

    /// Headers and body of the answer.
    async fn act(&mut self, request: &Request<Vec<u8>>) -> Result<(Headers, Vec<u8>), Refusal> {
        let session = (SESSION, format!("{};timeout={SESSION_TIMEOUT}", self.session));
        match request.method() {
            Method::Options => Ok((vec![(PUBLIC, super::push::METHODS.into())], vec![])),
            Method::GetParameter | Method::SetParameter | Method::Teardown => Ok((vec![session], vec![])),
            Method::Describe => self.describe(request).await,
            Method::Setup => {
                let transport = self.setup(request).await?;
                Ok((vec![session, (TRANSPORT, transport)], vec![]))
            }
            Method::Play => {
                self.play()?;
                Ok((vec![session, (RANGE, "npt=now-".into())], vec![]))
            }
            Method::Pause => {
                self.playing = false;
                self.deadline = Instant::now() + Duration::from_secs(SESSION_TIMEOUT);
                Ok((vec![session], vec![]))
            }
            _ => Err(Refusal("refused_method", 455, format!("one who plays may {METHODS}"))),
        }
    }

    async fn describe(&mut self, request: &Request<Vec<u8>>) -> Result<(Headers, Vec<u8>), Refusal> {
        let player = self.watch(request).await?;
        let text = describe(&player.name, &player.watching.formats);
        let mut base = request.request_uri().cloned().ok_or_else(no_url)?;
        base.set_query(None);
        let base = format!("{}/", base.as_str().trim_end_matches('/'));
        Ok((vec![(CONTENT_TYPE, "application/sdp".into()), (CONTENT_BASE, base)], text.into_bytes()))
    }

    /// Watches the stream that a request is about, if that is not so already.
    async fn watch(&mut self, request: &Request<Vec<u8>>) -> Result<&mut Player, Refusal> {
        let url = request.request_uri().ok_or_else(no_url)?;
        let name = name_of(url.path());
        if let Some(problem) = stream_name_problem(name) {
            return Err(Refusal("refused_stream", 404, problem));
        }
        if self.player.as_ref().is_none_or(|player| player.name != name) {
            if self.playing {
                return Err(Refusal("refused_state", 455, "a connection plays one stream".into()));
            }
            let asked = (Action::Play, name, self.ends.peer);
            let admitted = self.door.admit(&self.server.settings.rights, request, url, asked).await;
            self.guesses += u32::from(admitted.is_err());
            let grant = admitted?;
            self.player = Some(Player::new(self.server, name, self.ends.peer, grant).await?);
            self.deadline = Instant::now() + PATIENCE;
        }
        self.player.as_mut().ok_or_else(|| Refusal("refused_state", 455, "nothing is watched".into()))
    }

    /// The answer's `Transport`.
    async fn setup(&mut self, request: &Request<Vec<u8>>) -> Result<String, Refusal> {
        let (local, peer, encrypted) = (self.ends.local, self.ends.peer, self.ends.encrypted);
        if self.playing {
            return Err(Refusal("refused_state", 455, "tracks are set up before PLAY".into()));
        }
        let header = request.header(&TRANSPORT).map_or("", |value| value.as_str()).to_owned();
        let path = request.request_uri().map_or("", Url::path).to_owned();
        let player = self.watch(request).await?;
        let formats = &player.watching.formats;
        let index = track_of(&path, formats.len());
        let index = index.filter(|index| player.tracks.iter().all(|track| track.index != *index));
        let format = index.and_then(|index| Some((index, formats.get(index)?)));
        let (index, format) = format.ok_or_else(|| Refusal("refused_track", 404, "no such track to set up".into()))?;
        let refused = || Refusal("refused_transport", 461, "RTP/AVP by TCP or unicast UDP, please".into());
        let reference = Reference::default();
        let ssrc = random_ssrc();
        let outgoing = Outgoing::new(payload_type(index, format), format.codec.clock_rate(), ssrc, reference.clone());
        let (way, answer) = match Wanted::parse(&header).ok_or_else(refused)? {
            Wanted::Channel(wanted) => {
                let channel = wanted.or_else(|| u8::try_from(2 * player.tracks.len()).ok()).ok_or_else(refused)?;
                let taken = |track: &Track| matches!(track.way, Way::Channel(other) if channel.abs_diff(other) < 2);
                if player.tracks.iter().any(taken) {
                    return Err(refused());
                }
                (Way::Channel(channel), format!("RTP/AVP/TCP;unicast;interleaved={channel}-{}", channel + 1))
            }
            Wanted::Udp(_) if encrypted => {
                let words = "by TCP, please: what goes by UDP would not be encrypted";
                return Err(Refusal("refused_transport", 461, words.into()));
            }
            Wanted::Udp(client) => Way::udp(local, peer, client)?,
        };
        player.tracks.push(Track { index, way, outgoing, reference, reported: None });
        Ok(format!("{answer};ssrc={ssrc:08X}"))
    }

    fn play(&mut self) -> Result<(), Refusal> {
        let none = || Refusal("refused_state", 455, "PLAY comes after SETUP".into());
        let player = self.player.as_mut().filter(|player| !player.tracks.is_empty()).ok_or_else(none)?;
        (self.playing, self.heard) = (true, Instant::now());
        if !std::mem::replace(&mut player.listens, true) {
            self.server.counters.add("plays");
            player.listen();
        }
        Ok(())
    }
}

impl Way {
    fn udp(local: SocketAddr, peer: SocketAddr, client: u16) -> Result<(Self, String), Refusal> {
        let ports = Ports::bind(local.ip(), peer.ip());
        let ports = ports.map_err(|error| Refusal("refused_ports", 503, format!("no UDP port: {error}")))?;
        let (first, last) = (ports.first(), client.saturating_add(1));
        let answer =
            format!("RTP/AVP;unicast;client_port={client}-{last};server_port={first}-{}", first.saturating_add(1));
        // To the address that has opened the connection and no other: it has shown that it receives there.
        let (rtp, rtcp) = (SocketAddr::new(peer.ip(), client), SocketAddr::new(peer.ip(), last));
        Ok((Self::Udp { ports, rtp, rtcp }, answer))
    }

    /// Sends a packet, or appends it to what goes by the connection.
    fn put(&self, packet: &[u8], is_rtcp: bool, frames: &mut Vec<u8>) {
        match self {
            Self::Channel(channel) => {
                let Ok(len) = u16::try_from(packet.len()) else { return };
                frames.extend([b'$', channel + u8::from(is_rtcp)]);
                frames.extend(len.to_be_bytes());
                frames.extend_from_slice(packet);
            }
            Self::Udp { ports, rtp, rtcp } => ports.send(packet, if is_rtcp { *rtcp } else { *rtp }, is_rtcp),
        }
    }
}

fn no_url() -> Refusal {
    Refusal("refused_malformed", 400, "this method needs a URL".into())
}

/// A random one, as RFC 3550 §8.1 wants it.
fn random_ssrc() -> u32 {
    u32::from_str_radix(random_hex().get(..8).unwrap_or_default(), 16).unwrap_or(1)
}

impl Player {
    async fn new(server: &Rc<Server>, name: &str, peer: SocketAddr, grant: Grant) -> Result<Self, Refusal> {
        let watch = server.settings.rights.watch(&grant);
        let over = Box::pin(async move {
            tokio::select! {
                () = grant.expired() => {}
                () = taken_away(watch) => {}
            }
        });
        let hold = Hold { server: Rc::clone(server), id: server.next_player() };
        let (reply, answer) = oneshot::channel();
        hold.ask(Asked::Watch { stream: name.to_owned(), peer, reply });
        let busy = || Refusal("refused_stream", 503, "the stream is not there in time".into());
        let answer = timeout(DESCRIPTION, answer).await.map_err(|_| busy())?.map_err(|_| busy())?;
        let watching = answer.map_err(|why| match why {
            Unplayable::NotFound(why) => Refusal("refused_stream", 404, why),
            Unplayable::Unavailable(why) => Refusal("refused_stream", 503, why),
        })?;
        let (ear, heard) = Ear::new(ROOM);
        Ok(Self { hold, name: name.to_owned(), watching, tracks: vec![], ear, heard, over, listens: false, missed: 0 })
    }

    fn listen(&self) {
        let listening = self.tracks.iter().map(|track| Listening {
            track: track.index,
            ear: self.ear.for_track(track.index),
            reference: track.reference.clone(),
        });
        self.hold.ask(Asked::Listen(listening.collect()));
    }
}

/// What the control task knows of a player ends with it.
struct Hold {
    server: Rc<Server>,
    id: PlayerId,
}

impl Hold {
    fn ask(&self, asked: Asked) {
        // Fails only while the server stops.
        let _ = self.server.place.events.send(Event::Player { player: self.id, asked });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.ask(Asked::Leave);
    }
}
