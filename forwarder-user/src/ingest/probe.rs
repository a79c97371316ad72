//! A camera looked at from close by, without a server: what it sends, what browsers will play, what is odd.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    rc::Rc,
    time::{Duration, Instant},
};

use forwarder_common::ExtendedSeq;
use penstock_media::{Kind, codec::Codec};
use penstock_rtp::{
    Pipeline, Reorder,
    description::{Description, Track as Described},
};
use serde::Serialize;
use tokio::time::{sleep_until, timeout};

use super::{
    error::SourceError,
    lookout,
    media::{Packet, Packets},
    plain::Listener,
    reason::{Reason, Reasons},
    rtsp::{client::Client, redirect},
};
use crate::config;

/// For goodbyes.
const GOODBYE: Duration = Duration::from_millis(500);

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where, without password.
    pub source: String,
    /// Viewers will see and hear what is in `tracks`.
    pub ok: bool,
    /// Why nothing came, or nothing more: name, words, and what to change.
    pub error: Option<Failure>,
    /// From the begin to the description, and to the first packet, milliseconds.
    pub described_after_ms: Option<u64>,
    /// `None`: none came.
    pub first_packet_after_ms: Option<u64>,
    /// How long it was listened to, seconds.
    pub seconds: f64,
    /// What browsers get.
    pub tracks: Vec<Track>,
    /// What they do not.
    pub left_out: Vec<String>,
    /// Why viewers would see nothing, or less than they should: name and words.
    pub reasons: Vec<(&'static str, &'static str)>,
    /// What is unusual, and put right for viewers.
    pub odd: Vec<String>,
}

/// See [`Report::error`].
#[derive(Debug, Serialize)]
pub struct Failure {
    /// As in the API.
    pub name: &'static str,
    /// What it is.
    pub text: String,
    /// What to change.
    pub advice: String,
}

/// One track.
#[derive(Debug, Serialize)]
pub struct Track {
    /// `video` or `audio`.
    pub kind: &'static str,
    /// Encoding name, and what the description says of it.
    pub codec: String,
    /// Which browsers play it.
    pub browsers: &'static str,
    /// As shown, if parameter sets say so.
    pub size: Option<(u32, u32)>,
    /// Packets that came, and their bytes.
    pub packets: u64,
    /// With headers.
    pub bytes: u64,
    /// Of the longest packet.
    pub longest: usize,
    /// Packets that are missing.
    pub lost: u64,
    /// Frames that would have left to viewers, and keyframes among them.
    pub frames: u64,
    /// Where decoding can start.
    pub keyframes: u64,
    /// From the begin to the first one, milliseconds.
    pub first_keyframe_after_ms: Option<u64>,
    /// Packets that were dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

/// One track while it is listened to.
struct Heard {
    codec: Codec,
    pipeline: Pipeline,
    reorder: Option<Reorder>,
    watch: lookout::Track,
    told: Track,
}

/// Connects, listens for so long, and tells. Never fails: why nothing came is a part of what was found.
pub async fn probe(source: &config::Stream, seconds: Duration) -> Report {
    let mut report = Report {
        source: source.origin(),
        ok: false,
        error: None,
        described_after_ms: None,
        first_packet_after_ms: None,
        seconds: 0.0,
        tracks: vec![],
        left_out: vec![],
        reasons: vec![],
        odd: vec![],
    };
    if let Err(error) = converse(source, seconds, &mut report).await {
        report.error =
            Some(Failure { name: error.name(), text: error.to_string(), advice: error.advice().to_string() });
    }
    let black = ["no_keyframe", "no_parameter_sets", "video_codec", "video_silent", "srtp_key"];
    let seen = report.tracks.iter().any(|track| track.frames > 0);
    report.ok = seen && report.error.is_none() && !report.reasons.iter().any(|(name, _)| black.contains(name));
    report
}

async fn converse(source: &config::Stream, seconds: Duration, report: &mut Report) -> Result<(), SourceError> {
    let began = Instant::now();
    let described = |report: &mut Report, description: &Description| {
        report.described_after_ms = Some(millis(began));
        report.left_out.clone_from(&description.left_out);
    };
    if source.is_plain_rtp() {
        let (mut listener, description) = Listener::open(source).await?;
        described(report, &description);
        return listen(&mut listener, &description, seconds, began, report).await;
    }
    let mut to = redirect::Destination::configured(source).ok_or(SourceError::NoUrl)?;
    for _ in 0..=redirect::MOST {
        let (mut client, description) = match Client::begin(source, to, Rc::default()).await {
            Err(SourceError::Moved(next)) => {
                report.odd.push(format!("it sends us to {next}"));
                to = *next;
                continue;
            }
            begun => begun?,
        };
        described(report, &description);
        client.play().await?;
        let listened = listen(&mut client, &description, seconds, began, report).await;
        let _ = timeout(GOODBYE, client.teardown()).await;
        return listened;
    }
    Err(SourceError::Redirect("it sends us on again and again".into()))
}

async fn listen(
    from: &mut impl Packets,
    description: &Description,
    seconds: Duration,
    began: Instant,
    report: &mut Report,
) -> Result<(), SourceError> {
    let now = Instant::now();
    let mut tracks: Vec<Heard> = description.tracks.iter().map(|track| Heard::new(track, now)).collect();
    for (index, track) in tracks.iter_mut().enumerate() {
        track.reorder = from.is_unordered(index).then(Reorder::default);
        track.pipeline.set_ordered(track.reorder.is_none());
    }
    let end = now + seconds;
    let (mut first, mut result) = (None, Ok(()));
    while Instant::now() < end {
        let attend_at = from.attend_at().unwrap_or(end);
        let mut take = |packet: Packet<'_>| {
            first = first.or(Some(millis(began)));
            if let Packet::Rtp(index, _) | Packet::Unfit(index, _) = packet
                && let Some(track) = tracks.get_mut(index)
            {
                track.take(packet, began);
            }
        };
        let read = tokio::select! {
            read = poll_fn(|context| from.poll_packets(context, &mut take)) => Some(read),
            () = sleep_until(attend_at.min(end).into()) => None,
        };
        result = match read {
            Some(read) => read,
            None if attend_at <= Instant::now() && attend_at < end => from.attend().await,
            None => Ok(()),
        };
        if result.is_err() {
            break;
        }
    }
    report.first_packet_after_ms = first;
    report.seconds = now.elapsed().as_secs_f64();
    conclude(tracks, report);
    result
}

/// What all of it means.
fn conclude(mut tracks: Vec<Heard>, report: &mut Report) {
    let (now, mut reasons) = (Instant::now(), Reasons::default());
    let has_video = tracks.iter().any(|track| track.codec.kind() == Kind::Video);
    let lacks = !has_video && report.left_out.iter().any(|what| what.starts_with("video"));
    reasons.insert_if(Reason::VideoCodec, lacks);
    let heard: Vec<Instant> = tracks.iter().map(|track| track.watch.heard).collect();
    for (at, track) in tracks.iter_mut().enumerate() {
        let seen = track.pipeline.seen();
        let others = heard.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, heard)| *heard).max();
        reasons = reasons.join(track.watch.look(track.codec, &seen, others, now));
        let video = track.codec.kind() == Kind::Video;
        // There is no time to wait for as long as a server does.
        reasons.insert_if(Reason::NoKeyframe, video && track.told.packets > 0 && seen.keyframes == 0);
        reasons.insert_if(Reason::VideoSilent, video && track.told.packets == 0 && heard.len() > 1);
        (track.told.frames, track.told.keyframes) = (seen.frames, seen.keyframes);
        track.told.size = seen.sps.map(|sps| (sps.width, sps.height));
        let mut odd = |holds: bool, what: &str| {
            if holds {
                report.odd.push(format!("{}: {what}", track.told.kind));
            }
        };
        odd(seen.wrong_markers, "markers stand where no frame ends, or not where one does");
        odd(seen.clock_jumps > 0, "its clock was set meanwhile");
        odd(seen.sps.is_some_and(|sps| sps.interlaced), "interlaced, which browsers show as it is");
        odd(track.told.longest > 1500, "packets longer than a network's: they are cut");
        odd(track.told.lost > 0, "packets are missing");
        odd(track.told.dropped.contains_key("payload_type"), "packets of payload types that are not described");
    }
    report.reasons = reasons.iter().map(|reason| (reason.name(), reason.text())).collect();
    report.tracks = tracks.into_iter().map(|track| track.told).collect();
}

impl Heard {
    fn new(track: &Described, now: Instant) -> Self {
        let codec = track.format.codec;
        let kind = match codec.kind() {
            Kind::Video => "video",
            Kind::Audio => "audio",
        };
        Self {
            codec,
            pipeline: Pipeline::new(codec, track.payload_type, &track.sets, ExtendedSeq(0), now),
            reorder: None,
            watch: lookout::Track::new(now),
            told: Track {
                kind,
                codec: track.format.to_string(),
                browsers: browsers(codec),
                size: None,
                packets: 0,
                bytes: 0,
                longest: 0,
                lost: 0,
                frames: 0,
                keyframes: 0,
                first_keyframe_after_ms: None,
                dropped: BTreeMap::new(),
            },
        }
    }

    fn take(&mut self, packet: Packet<'_>, began: Instant) {
        let bytes = match packet {
            Packet::Rtp(_, bytes) => bytes,
            Packet::Unfit(_, why) => return *self.told.dropped.entry(why.name()).or_default() += 1,
            Packet::Rtcp(..) => return,
        };
        let now = Instant::now();
        self.watch.packet(now);
        self.told.packets += 1;
        self.told.bytes += bytes.len() as u64;
        self.told.longest = self.told.longest.max(bytes.len());
        match self.reorder.take() {
            None => self.rtp(bytes, now, began),
            Some(mut reorder) => {
                reorder.push(bytes, self.pipeline.payload_type(), now, &mut |bytes| self.rtp(bytes, now, began));
                self.reorder = Some(reorder);
            }
        }
    }

    fn rtp(&mut self, bytes: &[u8], now: Instant, began: Instant) {
        if let Err(why) = self.pipeline.packet(bytes, now, &mut |_, _, _| ()) {
            *self.told.dropped.entry(why.name()).or_default() += 1;
        }
        self.told.lost += self.pipeline.take_lost();
        if self.told.first_keyframe_after_ms.is_none() && self.pipeline.seen().keyframes > 0 {
            self.told.first_keyframe_after_ms = Some(millis(began));
        }
    }
}

/// Who plays a codec by WebRTC.
const fn browsers(codec: Codec) -> &'static str {
    match codec {
        Codec::H265 => "Safari, and Chromium from 136 where the machine decodes it; no others",
        Codec::Av1 => "Chromium and Firefox; Safari where the machine decodes it",
        _ => "all",
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
