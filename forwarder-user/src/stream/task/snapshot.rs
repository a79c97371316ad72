//! State of all streams and sessions, as the API shows it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use serde_json::{Value, json};

use super::Task;
use crate::stream::session::{Attachment, PublisherTrack, Session, ViewerTrack};
use crate::stream::streams::Stream;
use penstock_engine::Engine;
use penstock_engine::io::tcp::TCP;

impl Task {
    /// Names and numbers only: no session id, which is what a DELETE needs, and no key.
    pub(in crate::stream) fn snapshot(&self, now: Instant) -> Value {
        let streams: Vec<Value> = self.streams.iter().map(|(name, stream)| self.stream(name, stream, now)).collect();
        let sessions = self.sessions.keys().into_iter().filter_map(|key| self.sessions.get(key));
        let sessions: Vec<Value> = sessions.map(|session| self.session(session, now)).collect();
        let engine: serde_json::Map<String, Value> =
            self.engine.counters().into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
        json!({
            "engine": self.engine.describe(),
            "tier": self.engine.tier(),
            "media": self.sockets.advertised().udp.iter().flatten().map(ToString::to_string).collect::<Vec<_>>(),
            "media_tcp": self.sockets.advertised().tcp.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "streams": streams,
            "tcp": self.sockets.tcp().map(|tcp| json!({
                "connections": tcp.counters.open.load(Relaxed),
                "strangers": tcp.counters.strangers.load(Relaxed),
            })),
            "rtsp": self.ingest.rtsp.get(),
            "sources": self.ingest.totals.get(),
            "sessions": sessions,
            "engines": self.engine.figures(),
            "counters": { "control": self.counters.to_json(), "engine": engine },
        })
    }

    fn stream(&self, name: &str, stream: &Stream, now: Instant) -> Value {
        let publisher = stream.session(&self.sessions).map(|session| {
            let tracks = session.publisher_tracks();
            let mut codecs: Vec<String> = tracks.iter().map(|track| track.format.to_string()).collect();
            codecs.dedup();
            let sources = tracks.iter().filter_map(|track| track.source.as_ref());
            let bitrate: u64 = sources.clone().map(|source| source.reception.bitrate).sum();
            let lost: i64 = sources.clone().map(|source| source.reception.cumulative_lost).sum();
            let loss = sources.map(|source| source.reception.fraction_lost).max();
            json!({
                "session": session.name,
                "peer": session.peer.nominated().map(|pair| pair.peer.to_string()),
                "codecs": codecs,
                "bitrate": bitrate,
                "lost": lost,
                "loss": loss.map(|loss| f64::from(loss) / 256.0),
                "age_s": age(session, now),
            })
        });
        let live = stream.session(&self.sessions).is_some_and(|publisher| publisher.media.is_some());
        let source = self.source(name);
        let live = live || source.as_ref().is_some_and(|(live, _)| *live);
        let source = source.map(|(_, source)| source);
        json!({
            "name": name,
            "live": live,
            "publisher": publisher,
            "source": source,
            "viewers": stream.viewers(),
            "rtsp_players": stream.players(),
        })
    }

    fn session(&self, session: &Session, now: Instant) -> Value {
        let engine = self.engine.as_ref();
        let publishing = session.publisher_tracks().iter().map(|track| publisher_track(track, engine));
        let viewing = session.viewer_tracks().iter().map(|track| viewer_track(track, engine));
        let media = session.media.as_ref();
        json!({
            "id": session.name,
            "role": session.role,
            "stream": session.stream,
            "state": if media.is_some() { "connected" } else { "connecting" },
            "peer": session.peer.nominated().map(|pair| pair.peer.to_string()),
            "transport": session.peer.nominated().map(|pair| if pair.socket == TCP { "tcp" } else { "udp" }),
            "local": session.peer.nominated().and_then(|pair| self.sockets.bound(pair)).map(|a| a.to_string()),
            "engine": media.map(|media| engine.describe_session(media.engine)),
            "profile": media.map(|media| media.profile),
            "tracks": publishing.chain(viewing).collect::<Vec<_>>(),
            "warning": session.silence.warning,
            "by": session.grant.by.to_string(),
            "right_ends_in_s": session.grant.left().map(|left| left.as_secs_f64()),
            "without": session.without,
            "age_s": age(session, now),
            "consent_age_s": session.peer.consent().map(|at| now.duration_since(at).as_secs_f64()),
        })
    }
}

fn age(session: &Session, now: Instant) -> f64 {
    now.duration_since(session.created).as_secs_f64()
}

pub(super) fn publisher_track(track: &PublisherTrack, engine: &dyn Engine) -> Value {
    let source = track.source.as_ref();
    let stats = source.and_then(|source| engine.publisher_stats(source.id)).unwrap_or_default();
    let reception = source.map(|source| &source.reception);
    let gaps = source.and_then(|source| source.gaps.as_ref());
    json!({
        "kind": track.kind(),
        "codec": track.format.to_string(),
        "layer": track.layer.as_ref().map(|layer| json!({
            "name": layer.name,
            "width": layer.size.map(|(width, _)| width),
            "height": layer.size.map(|(_, height)| height),
            "forwarded": layer.is_forwarded,
        })),
        "payload_type": track.format.payload_type,
        "ssrc": source.map(|source| source.ssrc),
        "packets": stats.packets,
        "bytes": stats.octets,
        "auth_failed": stats.auth_failed,
        "lost": reception.map(|reception| reception.cumulative_lost),
        "loss": reception.map(|reception| f64::from(reception.fraction_lost) / 256.0),
        "nack": track.nack,
        "rtx": track.rtx.is_some(),
        "feedback": congestion_feedback(track),
        "asked_for": gaps.map(|gaps| gaps.figures().asked),
        "repaired": gaps.map(|gaps| gaps.figures().repaired),
        "given_up": gaps.map(|gaps| gaps.figures().given_up),
        "rtt_ms": gaps.and_then(|gaps| gaps.rtt()).map(|rtt| rtt.as_secs_f64() * 1000.0),
        "bitrate": reception.map(|reception| reception.bitrate),
        "jitter_ms": f64::from(stats.jitter) * 1000.0 / f64::from(track.format.codec.clock_rate()),
    })
}

/// By which its encoder follows the network. `None`: by none.
fn congestion_feedback(track: &PublisherTrack) -> Option<&'static str> {
    match track.sequence {
        Some(_) => Some("transport-cc"),
        None => track.format.offers("goog-remb").then_some("goog-remb"),
    }
}

pub(super) fn viewer_track(track: &ViewerTrack, engine: &dyn Engine) -> Value {
    let (state, stats) = match track.attachment {
        Attachment::Idle => ("waiting", None),
        Attachment::Stopping { .. } => ("stopping", None),
        Attachment::Attached { track, .. } => ("attached", engine.subscriber_stats(track)),
    };
    let stats = stats.unwrap_or_default();
    let last = track.report.last;
    json!({
        "kind": track.kind(),
        "codec": track.format.to_string(),
        "payload_type": track.format.payload_type,
        "ssrc": track.ssrc,
        "state": state,
        "packets": track.sent_before.0 + stats.packets,
        "bytes": track.sent_before.1 + stats.octets,
        "lost": last.map(|last| last.cumulative_lost),
        "loss": last.map(|last| f64::from(last.fraction_lost) / 256.0),
        "jitter_ms": last.map(|last| f64::from(last.jitter) * 1000.0 / f64::from(track.format.codec.clock_rate())),
        "rtt_ms": track.report.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        "nack": track.resend.is_some(),
        "rtx": track.resend.as_ref().is_some_and(|resend| resend.rtx.is_some()),
        "asked_again": track.resend.as_ref().map(|resend| resend.requests),
        "retransmitted": track.resend.as_ref().map(|resend| resend.packets),
    })
}
