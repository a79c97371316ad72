//! What a source sends, on its way into the engine: its tracks, their packets, its clock.
//!
//! Tracks outlive connections, so that viewers do.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use forwarder_common::ExtendedSeq;

use super::{
    Event, SourceTrack,
    description::Description,
    error::SourceError,
    pace::Pace,
    place::Place,
    rtp::{Pipeline, Reorder, Unfit, is_key},
    sender_report,
    status::{Shared, State},
};
use crate::{
    engine::{
        Kind, PublisherTrackId,
        userspace::{Keep, NewSource},
    },
    session::codec::Format,
};

/// Without media for so long, the connection is given up.
const STALLED: Duration = Duration::from_secs(10);

/// RTP or RTCP of a track, by its place in the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    Rtp(usize, &'a [u8]),
    Rtcp(usize, &'a [u8]),
}

/// A connection that brings packets.
pub(super) trait Packets {
    /// Waits for packets, and does meanwhile what keeps them coming.
    async fn receive(&mut self, take: &mut dyn FnMut(Packet<'_>)) -> Result<(), SourceError>;

    /// Whether packets of a track may overtake each other on their way.
    fn is_unordered(&self, track: usize) -> bool;
}

/// See the module.
pub(super) struct Media {
    pub(super) name: String,
    /// Where it comes from, for the log.
    pub(super) origin: String,
    pub(super) status: Shared,
    place: Place,
    tracks: Vec<Track>,
    pace: Pace,
    /// Bytes of its keyframe cache, or 0.
    keep: usize,
}

struct Track {
    format: Format,
    id: PublisherTrackId,
    pipeline: Pipeline,
    /// Where packets may overtake each other.
    reorder: Option<Reorder>,
    /// Packets of it are kept.
    kept: bool,
    warned: bool,
}

impl Media {
    pub(super) fn new(name: String, origin: String, status: Shared, place: Place, keep: usize) -> Self {
        let pace = Pace::new(place.bytes_per_second);
        Self { name, origin, status, place, tracks: vec![], pace, keep }
    }

    /// It has failed: the API and whoever waits for it are told.
    pub(super) fn failed(&self, error: &SourceError) {
        self.status.lock().failed(error);
        self.place.totals.failed(error);
        let _ = self.place.events.send(Event::Failed { stream: self.name.clone(), why: error.to_string() });
    }

    /// Puts the tracks into the engine, unless it has the same ones already.
    pub(super) fn described(&mut self, description: &Description) -> Result<(), SourceError> {
        {
            let mut status = self.status.lock();
            if status.left_out != description.left_out && !description.left_out.is_empty() {
                tracing::info!(stream = self.name, "left out: {}", description.left_out.join("; "));
            }
            status.left_out.clone_from(&description.left_out);
        }
        let same = self.tracks.len() == description.tracks.len()
            && self.tracks.iter().zip(&description.tracks).all(|(old, new)| old.format.matches(&new.format));
        if same {
            for (old, new) in self.tracks.iter_mut().zip(&description.tracks) {
                old.pipeline.reconnect(new.payload_type, &new.sets);
            }
            return Ok(());
        }
        // The control task takes the former ones out of the engine, when their viewers have left them.
        let mut tracks = vec![];
        for track in &description.tracks {
            let last = ExtendedSeq(0);
            let keep = match track.format.codec.kind() {
                Kind::Video => Keep { group: self.keep, recent: self.place.recent },
                Kind::Audio => Keep::default(),
            };
            let source = NewSource { clock_rate: track.format.codec.clock_rate(), last, keep };
            let id = match self.place.engine.add_source(source) {
                Ok(id) => id,
                Err(error) => {
                    tracks.iter().for_each(|track: &Track| self.place.engine.remove_publisher_track(track.id));
                    return Err(error.into());
                }
            };
            let mut pipeline = Pipeline::new(track.format.codec, track.payload_type, &track.sets, last);
            let (kind, kept) = (track.format.codec.kind(), keep != Keep::default());
            if let Some(former) = self.tracks.iter().find(|former| former.format.codec.kind() == kind) {
                pipeline.succeed(&former.pipeline);
            }
            tracks.push(Track { format: track.format.clone(), id, pipeline, reorder: None, kept, warned: false });
        }
        self.tracks = tracks;
        self.status.lock().warnings.clear();
        let tracks = self.tracks.iter().map(|track| SourceTrack { format: track.format.clone(), id: track.id });
        let _ = self.place.events.send(Event::Described { stream: self.name.clone(), tracks: tracks.collect() });
        Ok(())
    }

    /// Takes what comes until `gone` (`Ok`), or until nothing comes any more.
    pub(super) async fn play(
        &mut self,
        from: &mut impl Packets,
        gone: impl Future<Output = ()>,
    ) -> Result<(), SourceError> {
        let played = self.take(from, gone).await;
        // Whoever comes later must not be shown what was before.
        let feed = self.place.feed.borrow();
        self.tracks.iter().filter(|track| track.kept).for_each(|track| feed.forget(track.id));
        played
    }

    async fn take(&mut self, from: &mut impl Packets, gone: impl Future<Output = ()>) -> Result<(), SourceError> {
        for (index, track) in self.tracks.iter_mut().enumerate() {
            track.reorder = from.is_unordered(index).then(Reorder::default);
        }
        let mut heard =
            Heard { at: Instant::now(), playing: false, last_drop: None, first_reports: true, too_fast: false };
        tokio::pin!(gone);
        // Set anew when it rings, not with every packet: a timer costs as much as a packet.
        let alarm = tokio::time::sleep_until((heard.at + STALLED).into());
        tokio::pin!(alarm);
        loop {
            let mut take = |packet: Packet<'_>| self.packet(packet, &mut heard);
            tokio::select! {
                received = from.receive(&mut take) => {
                    received?;
                    continue;
                }
                () = &mut alarm => {}
                () = &mut gone => return Ok(()),
            }
            if heard.at.elapsed() >= STALLED {
                let seconds = heard.at.elapsed().as_secs();
                return Err(SourceError::Stalled { seconds, why: heard.last_drop.map(Unfit::name) });
            }
            alarm.as_mut().reset((heard.at + STALLED).into());
        }
    }

    fn packet(&mut self, packet: Packet<'_>, heard: &mut Heard) {
        let now = Instant::now();
        let (index, bytes) = match packet {
            Packet::Rtp(index, bytes) => (index, bytes),
            Packet::Rtcp(index, bytes) => return self.report(index, bytes, now, heard),
        };
        if !self.pace.admits(bytes.len(), now) {
            return self.too_fast(heard);
        }
        let Some(track) = self.tracks.get_mut(index) else { return };
        let Some(mut reorder) = track.reorder.take() else { return self.rtp(index, bytes, now, heard) };
        reorder.push(bytes, now, &mut |bytes| self.rtp(index, bytes, now, heard));
        if let Some(track) = self.tracks.get_mut(index) {
            track.reorder = Some(reorder);
        }
    }

    /// No viewer could take it, and the thread has other sources to serve.
    fn too_fast(&self, heard: &mut Heard) {
        heard.last_drop = Some(Unfit::TooFast);
        let mut status = self.status.lock();
        status.drop_packet(Unfit::TooFast);
        self.place.totals.dropped(Unfit::TooFast);
        if !std::mem::replace(&mut heard.too_fast, true) {
            let warning = "it sends more than `limits.source_max_kbps` allows: what is beyond is dropped";
            tracing::warn!(stream = self.name, source = self.origin, "{warning}");
            status.warn(warning);
        }
    }

    /// A track's packet, in its turn.
    fn rtp(&mut self, index: usize, bytes: &[u8], now: Instant, heard: &mut Heard) {
        let Some(track) = self.tracks.get_mut(index) else { return };
        let mut feed = self.place.feed.borrow_mut();
        let (id, codec, kept) = (track.id, track.format.codec, track.kept);
        let result = track.pipeline.packet(bytes, now, &mut |index, header, payload| {
            feed.push(id, index, header, payload, kept && is_key(codec, payload));
        });
        let mut status = self.status.lock();
        status.packets += 1;
        status.bytes += bytes.len() as u64;
        match result {
            Ok(()) => {
                heard.at = now;
                if !heard.playing {
                    heard.playing = true;
                    status.state = State::Playing;
                    status.connections += 1;
                    tracing::info!(stream = self.name, source = self.origin, "media comes");
                }
                if !track.warned && track.pipeline.b_frames() {
                    track.warned = true;
                    let warning = "it sends B-frames, which browsers show in the wrong order: \
                                   choose a profile without them (Baseline, or \"B-frames: 0\")";
                    tracing::warn!(stream = self.name, "{warning}");
                    status.warn(warning);
                }
            }
            Err(why) => {
                // A long GOP is no stall.
                if why == Unfit::BeforeKeyframe {
                    heard.at = now;
                }
                heard.last_drop = Some(why);
                status.drop_packet(why);
                self.place.totals.dropped(why);
            }
        }
        status.lost += track.pipeline.take_lost();
    }

    /// The source's own clock, by which audio and video stay together.
    fn report(&mut self, index: usize, bytes: &[u8], now: Instant, heard: &mut Heard) {
        let Some(track) = self.tracks.get(index) else { return };
        let Some(report) = sender_report::first(bytes) else { return };
        let Some(rtp) = track.pipeline.map(report.ssrc, report.rtp) else { return };
        let event = Event::SenderReport {
            stream: self.name.clone(),
            track: track.id,
            ntp: report.ntp,
            rtp,
            at: now,
            first: std::mem::take(&mut heard.first_reports),
        };
        let _ = self.place.events.send(event);
    }
}

/// What one connection has brought.
struct Heard {
    at: Instant,
    playing: bool,
    last_drop: Option<Unfit>,
    /// The next report is the connection's first.
    first_reports: bool,
    /// Whether it was said that it sends too much.
    too_fast: bool,
}
