//! What the inspection commands show, in the form of their JSON.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Serialize;

use penstock_engine::Role;

/// Everything at one moment. Counters are read one after the other, while media goes on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// None if there are no maps: the server has no kernel engine, or is elsewhere.
    pub server: Option<ServerView>,
    /// Those with keys, in the order of their slots; then those that other engines carry.
    pub sessions: Vec<SessionView>,
    /// Streams that come from a camera or an encoder, and their state (`playing`, `waiting`, …).
    pub sources: BTreeMap<String, String>,
    /// Global counters of the datapath.
    pub counters: BTreeMap<&'static str, u64>,
}

/// The server that the maps belong to.
#[derive(Clone, Debug, Serialize)]
pub struct ServerView {
    /// In the server's PID namespace.
    pub pid: u32,
    /// By its lock on the directory and its last sign of life.
    #[serde(rename = "state")]
    pub liveness: Liveness,
    /// Since its start, or up to now if it is dead.
    pub up_seconds: f64,
    /// Since its last sign of life.
    pub silent_seconds: f64,
    /// UDP, on every media address.
    pub media_port: u16,
    /// At most eight.
    pub interfaces: Vec<Interface>,
}

/// An interface with our XDP program.
#[derive(Clone, Debug, Serialize)]
pub struct Interface {
    /// In the server's network namespace.
    pub index: u32,
    /// When it was attached; kept because an index means nothing in other namespaces.
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
}

/// Whether the server does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// It holds its lock, and its sign of life is less than 3 seconds old.
    Running,
    /// The process exists and gives no sign of life: stopped or stuck.
    Silent,
    /// The process is gone. These are the maps that it left behind.
    Dead,
}

/// A WHIP or WHEP session.
#[derive(Clone, Debug, Serialize)]
pub struct SessionView {
    /// In the map SESSIONS; none if another engine than the kernel's carries it.
    pub slot: Option<u32>,
    /// As in the URL.
    pub stream: String,
    /// First part of the id in the `Location`: not enough to end the session.
    pub id: String,
    /// `publisher` by WHIP, `subscriber` by WHEP.
    pub role: Role,
    /// None before ICE has found one.
    pub peer: Option<SocketAddr>,
    /// None before ICE has found one; the address that is bound, not the one that is advertised.
    pub local: Option<SocketAddr>,
    /// Engine and mode that carry it, and why not the kernel; `connecting` before there are keys.
    pub engine: String,
    /// SRTP profile.
    pub profile: Option<String>,
    /// Since its keys were installed, or its offer came where the kernel does not carry it.
    pub age_seconds: f64,
    /// Until the kernel stops its media unless the server refreshes it; negative: stopped.
    pub lease_seconds: Option<f64>,
    /// One for each SSRC; none before media is known.
    pub tracks: Vec<TrackView>,
}

/// One SSRC, coming in or going out.
#[derive(Clone, Debug, Serialize)]
pub struct TrackView {
    /// In PUBLISHER_TRACKS or SUBSCRIBER_TRACKS; none if another engine than the kernel's carries it.
    pub slot: Option<u32>,
    /// `audio`, `video` or `unknown`.
    pub kind: &'static str,
    /// The publisher's own, or ours.
    pub ssrc: u32,
    /// In the session that the track belongs to.
    pub payload_type: u8,
    /// Slot of the incoming track that feeds an outgoing one.
    pub publisher_track: Option<u32>,
    /// Outgoing minus incoming SRTP index (ROC and sequence number).
    pub index_offset: Option<i64>,
    /// Outgoing minus incoming RTP timestamp, modulo 2^32.
    pub timestamp_offset: Option<u32>,
    /// Highest authenticated index, or index of the last copy.
    pub highest_index: Option<u64>,
    /// Copies made of each packet of an incoming track.
    pub viewers: Option<u32>,
    /// Authenticated packets, or copies sent, and their payload bytes.
    pub packets: u64,
    /// Payload without header and tag.
    pub bytes: u64,
    /// RFC 3550 §6.4.1, of an incoming track.
    pub jitter_ms: Option<f64>,
    /// Since the last packet; none if there was none.
    pub idle_seconds: Option<f64>,
    /// By reason, those that happened.
    pub drops: BTreeMap<&'static str, u64>,
}

impl SessionView {
    /// Over all tracks: opened, or copies sent.
    pub fn packets(&self) -> u64 {
        self.tracks.iter().map(|track| track.packets).sum()
    }

    /// Payload bytes, over all tracks.
    pub fn bytes(&self) -> u64 {
        self.tracks.iter().map(|track| track.bytes).sum()
    }

    /// Over all tracks and reasons.
    pub fn drops(&self) -> u64 {
        self.tracks.iter().flat_map(|track| track.drops.values()).sum()
    }
}

/// A stream: its publisher and viewers together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StreamView {
    /// As in the URL.
    pub stream: String,
    /// Address of the publisher; none while viewers wait for one.
    pub publisher: Option<SocketAddr>,
    /// State of the camera or encoder that it comes from.
    pub source: Option<String>,
    /// Sessions by WHEP, those that still connect included.
    pub viewers: usize,
    /// Engine and mode of each kind of session, without repetition.
    pub engines: Vec<String>,
    /// The publisher's; none without one.
    pub profile: Option<String>,
    /// The publisher's; empty without one.
    pub tracks: Vec<TrackView>,
    /// Packets opened, copies sealed.
    pub packets_in: u64,
    /// Over all viewers that are there now: falls when one leaves.
    pub packets_out: u64,
    /// Payload bytes opened.
    pub bytes_in: u64,
    /// Payload bytes of the copies, over all viewers that are there now.
    pub bytes_out: u64,
    /// By reason, over publisher and viewers.
    pub drops: BTreeMap<&'static str, u64>,
    /// Of the publisher, else of the oldest viewer.
    pub age_seconds: f64,
}

impl Snapshot {
    /// Sessions by stream, in the order of their names.
    pub fn streams(&self) -> Vec<StreamView> {
        let mut streams: BTreeMap<&str, StreamView> = BTreeMap::new();
        for (name, state) in &self.sources {
            streams.entry(name).or_default().source = Some(state.clone());
        }
        for session in &self.sessions {
            let stream = streams.entry(&session.stream).or_default();
            if !stream.engines.contains(&session.engine) {
                stream.engines.push(session.engine.clone());
            }
            for (reason, count) in session.tracks.iter().flat_map(|track| &track.drops) {
                *stream.drops.entry(reason).or_default() += count;
            }
            match session.role {
                Role::Publisher => {
                    stream.publisher = session.peer;
                    stream.profile.clone_from(&session.profile);
                    stream.age_seconds = session.age_seconds;
                    stream.tracks.clone_from(&session.tracks);
                    stream.packets_in += session.packets();
                    stream.bytes_in += session.bytes();
                }
                Role::Subscriber => {
                    stream.viewers += 1;
                    stream.packets_out += session.packets();
                    stream.bytes_out += session.bytes();
                    if stream.publisher.is_none() {
                        stream.age_seconds = stream.age_seconds.max(session.age_seconds);
                    }
                }
            }
        }
        streams.into_iter().map(|(name, stream)| StreamView { stream: name.to_owned(), ..stream }).collect()
    }
}
