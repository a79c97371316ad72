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
use penstock_rtp::rtsp::{
    message::{Message, Start},
    transport::Lower,
    url::decode,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep_until, timeout},
};

use self::{
    describe::{describe, name_of, payload_type, track_of},
    outgoing::Outgoing,
};
use super::{
    answer::{Ends, MAX_GUESSES, METHODS, Refusal, SESSION_TIMEOUT, channel, choose, finish, ports},
    connection::{Connection, Incoming},
    push::{Door, Server, path, taken_away},
    random, random_hex,
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

/// Whether a request is of somebody who wants to play.
pub(super) fn begins(request: &Message) -> bool {
    let wants = |method: &str| ["DESCRIBE", "PLAY"].iter().any(|known| method.eq_ignore_ascii_case(known));
    matches!(&request.start, Start::Request { method, .. } if wants(method))
}

/// Serves a connection to its end.
///
/// # Errors
/// Why it ended.
pub(super) async fn run(
    server: &Rc<Server>,
    connection: Connection,
    ends: Ends,
    first: &Message,
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
    RightEnded,
    Tick,
}

type Fields = Vec<(&'static str, String)>;

impl Conversation<'_> {
    async fn turn(&mut self) -> Result<(), SourceError> {
        let mut requests = vec![];
        // Receiver reports change nothing: there is nobody to tell.
        let mut take = |incoming: Incoming<'_>| {
            if let Incoming::Message(request) = incoming {
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
                () = over => Turn::RightEnded,
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
            Turn::RightEnded => Err(SourceError::RightEnded),
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

    /// Answers a request. An answer is none, and needs nothing.
    async fn request(&mut self, request: &Message) -> Result<(), SourceError> {
        let Start::Request { method, uri } = &request.start else { return Ok(()) };
        let method = method.to_ascii_uppercase();
        let mut ended = false;
        let mut answer = match self.act(request, &method, uri).await {
            Ok((fields, body)) => {
                ended = method == "TEARDOWN";
                let answer = Message::answer(200, "OK");
                let mut answer = fields.into_iter().fold(answer, |answer, (name, value)| answer.with(name, value));
                answer.body = body;
                answer
            }
            Err(refusal) => self.server.refuse(self.ends.peer, &method, &refusal, &self.door),
        };
        finish(&mut answer, request);
        self.connection.send(&answer).await?;
        match (ended, self.guesses > MAX_GUESSES) {
            (true, _) => Err(SourceError::Ended),
            (_, true) => Err(SourceError::WrongPassword),
            _ => Ok(()),
        }
    }

    /// Fields and body of the answer.
    async fn act(&mut self, request: &Message, method: &str, uri: &str) -> Result<(Fields, Vec<u8>), Refusal> {
        let session = ("Session", format!("{};timeout={SESSION_TIMEOUT}", self.session));
        match method {
            "OPTIONS" => Ok((vec![("Public", METHODS.into())], vec![])),
            "GET_PARAMETER" | "SET_PARAMETER" | "TEARDOWN" => Ok((vec![session], vec![])),
            "DESCRIBE" => self.describe(request, uri).await,
            "SETUP" => {
                let transport = self.setup(request, uri).await?;
                Ok((vec![session, ("Transport", transport)], vec![]))
            }
            "PLAY" => {
                self.play()?;
                Ok((vec![session, ("Range", "npt=now-".into())], vec![]))
            }
            "PAUSE" => {
                self.playing = false;
                self.deadline = Instant::now() + Duration::from_secs(SESSION_TIMEOUT);
                Ok((vec![session], vec![]))
            }
            _ => Err(Refusal("refused_state", 455, "a connection plays or publishes, not both".into())),
        }
    }

    async fn describe(&mut self, request: &Message, uri: &str) -> Result<(Fields, Vec<u8>), Refusal> {
        let player = self.watch(request, ("DESCRIBE", uri)).await?;
        let text = describe(&player.name, &player.watching.formats);
        let base = uri.split('?').next().unwrap_or_default().trim_end_matches('/');
        Ok((vec![("Content-Type", "application/sdp".into()), ("Content-Base", format!("{base}/"))], text.into_bytes()))
    }

    /// Watches the stream that a request is about, if that is not so already.
    async fn watch(&mut self, request: &Message, (method, uri): (&str, &str)) -> Result<&mut Player, Refusal> {
        let name = decode(name_of(&path(uri).unwrap_or_default()));
        if let Some(problem) = stream_name_problem(&name) {
            return Err(Refusal("refused_stream", 404, problem));
        }
        if self.player.as_ref().is_none_or(|player| player.name != name) {
            if self.playing {
                return Err(Refusal("refused_state", 455, "a connection plays one stream".into()));
            }
            let asked = (Action::Play, name.as_str(), self.ends.peer);
            let admitted = self.door.admit(&self.server.settings.rights, request, (method, uri), asked).await;
            self.guesses += u32::from(admitted.is_err());
            let grant = admitted?;
            self.player = Some(Player::new(self.server, &name, self.ends.peer, grant).await?);
            self.deadline = Instant::now() + PATIENCE;
        }
        self.player.as_mut().ok_or_else(|| Refusal("refused_state", 455, "nothing is watched".into()))
    }

    /// The answer's `Transport`.
    async fn setup(&mut self, request: &Message, uri: &str) -> Result<String, Refusal> {
        let ends = self.ends;
        if self.playing {
            return Err(Refusal("refused_state", 455, "tracks are set up before PLAY".into()));
        }
        let field = request.text("Transport").into_owned();
        let player = self.watch(request, ("SETUP", uri)).await?;
        let formats = &player.watching.formats;
        let index = track_of(&path(uri).unwrap_or_default(), formats.len());
        let index = index.filter(|index| player.tracks.iter().all(|track| track.index != *index));
        let format = index.and_then(|index| Some((index, formats.get(index)?)));
        let (index, format) = format.ok_or_else(|| Refusal("refused_track", 404, "no such track to set up".into()))?;
        let (ssrc, reference) = (u32::from_be_bytes(random().unwrap_or([0, 0, 0, 1])), Reference::default());
        let (number, clock_rate) = (payload_type(index, format), format.codec.clock_rate());
        let outgoing = Outgoing::new(number, clock_rate, ssrc, reference.clone());
        let (way, answer) = Way::of(&field, &player.tracks, ends)?;
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
    /// The first of the alternatives of a `Transport` field that can be had, and the answer's.
    fn of(field: &str, tracks: &[Track], ends: Ends) -> Result<(Self, String), Refusal> {
        let wanted = choose(field, false)?;
        if let (Lower::Udp, Some(client)) = (wanted.lower, wanted.client_port) {
            if ends.encrypted {
                let words = "by TCP, please: what goes by UDP would not be encrypted";
                return Err(Refusal("refused_transport", 461, words.into()));
            }
            let (ports, said) = ports(&ends, client)?;
            // To the address that has opened the connection and no other: it has shown that it receives there.
            let to = |port| SocketAddr::new(ends.peer.ip(), port);
            let way = Self::Udp { ports, rtp: to(client), rtcp: to(client.saturating_add(1)) };
            return Ok((way, format!("RTP/AVP;unicast;{said}")));
        }
        let others = tracks.iter().map(|track| match track.way {
            Self::Channel(other) => Some(other),
            Self::Udp { .. } => None,
        });
        let channel = channel(&wanted, others)?;
        Ok((Self::Channel(channel), format!("RTP/AVP/TCP;unicast;interleaved={channel}-{}", channel + 1)))
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
