//! What a source sends, on its way into the engine: its tracks, their packets, its clock.
//!
//! Tracks outlive connections, so that viewers do.

mod packets;
mod sounds;
mod told;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use forwarder_common::ExtendedSeq;
use penstock_engine::{EngineError, Keep, NewSource, PublisherTrackId};
use penstock_media::{Kind, codec::Format, prefetch::prefetch};
use penstock_rtp::{Pipeline, Reorder, Unfit, aac::Packing, description::Description, is_key, sender_report};

use super::{
    Event, SourceTrack,
    error::SourceError,
    lookout,
    pace::Pace,
    place::Place,
    reason::{Reason, Reasons},
    sound::{self, Sound},
    status::{Shared, State},
    totals::OTHER_CHANNEL,
};

pub(super) use packets::{Packet, Packets, Skipped};
use told::Told;

/// How often a connection that brings media is asked for anything else.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Reads of one connection in a row before others have their turn.
const READS: usize = 16;

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
    /// What the log, the API and the metrics have been told.
    told: Told,
}

struct Track {
    format: Format,
    id: PublisherTrackId,
    pipeline: Pipeline,
    /// It comes as AAC, by this payload type; and, while the source is connected, who makes Opus of it.
    aac: Option<(Packing, u8)>,
    sound: Option<Box<Sound>>,
    /// Where packets may overtake each other.
    reorder: Option<Reorder>,
    /// Packets of it are kept.
    kept: bool,
    watch: lookout::Track,
}

impl Media {
    pub(super) fn new(name: String, origin: String, status: Shared, place: Place, keep: usize) -> Self {
        let pace = Pace::new(place.bytes_per_second);
        Self { name, origin, status, place, tracks: vec![], pace, keep, told: Told::default() }
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
        self.told.described = Reasons::default();
        let shows = description.tracks.iter().any(|track| track.format.codec.kind() == Kind::Video);
        let lacks = !shows && description.left_out.iter().any(|what| what.starts_with("video"));
        self.told.described.insert_if(Reason::VideoCodec, lacks);
        let same = self.tracks.len() == description.tracks.len()
            && self.tracks.iter().zip(&description.tracks).all(|(old, new)| old.format.matches(&new.format));
        if same {
            for (old, new) in self.tracks.iter_mut().zip(&description.tracks) {
                old.aac = new.aac.clone().map(|packing| (packing, new.payload_type));
                old.pipeline.reconnect(payload_type(new), &new.sets);
            }
            return Ok(());
        }
        // The control task takes the former ones out of the engine, when their viewers have left them.
        let mut tracks = Vec::with_capacity(description.tracks.len());
        for track in &description.tracks {
            let last = ExtendedSeq(0);
            let keep = match track.format.codec.kind() {
                Kind::Video => Keep { group: self.keep, recent: self.place.recent },
                Kind::Audio => Keep::default(),
            };
            let source = NewSource { clock_rate: track.format.codec.clock_rate(), last, keep, ordered: true };
            let id = match self
                .place
                .engine
                .sources()
                .ok_or(EngineError::NoSources)
                .and_then(|engine| engine.add_source(source))
            {
                Ok(id) => id,
                Err(error) => {
                    tracks.iter().for_each(|track: &Track| self.place.engine.remove_publisher_track(track.id));
                    return Err(error.into());
                }
            };
            let (codec, now) = (track.format.codec, Instant::now());
            let mut pipeline = Pipeline::new(codec, payload_type(track), &track.sets, last, now);
            let (kind, kept) = (track.format.codec.kind(), keep != Keep::default());
            if let Some(former) = self.tracks.iter().find(|former| former.format.codec.kind() == kind) {
                pipeline.succeed(&former.pipeline);
            }
            tracks.push(Track {
                format: track.format.clone(),
                id,
                pipeline,
                aac: track.aac.clone().map(|packing| (packing, track.payload_type)),
                sound: None,
                reorder: None,
                kept,
                watch: lookout::Track::new(now),
            });
        }
        self.tracks = tracks;
        let tracks = self.tracks.iter().map(|track| SourceTrack { format: track.format.clone(), id: track.id });
        let _ = self.place.events.send(Event::Described { stream: self.name.clone(), tracks: tracks.collect() });
        Ok(())
    }

    /// Takes what comes until `gone` (`Ok`), or until nothing comes any more.
    pub(super) async fn play(
        &mut self,
        from: &mut impl Packets,
        gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), SourceError> {
        let played = self.take(from, gone).await;
        let mut feed = self.place.feed.borrow_mut();
        for track in &mut self.tracks {
            track.pipeline.end(&mut |index, header, payload| feed.push(track.id, index, header, payload, false));
        }
        self.tracks.iter_mut().for_each(|track| track.sound = None);
        // Whoever comes later must not be shown what was before.
        self.tracks.iter().filter(|track| track.kept).for_each(|track| feed.forget(track.id));
        drop(feed);
        self.tell_reasons(Reasons::default(), Instant::now());
        played
    }

    async fn take(
        &mut self,
        from: &mut impl Packets,
        mut gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), SourceError> {
        let mut heard = Heard::new(Instant::now());
        for (index, track) in self.tracks.iter_mut().enumerate() {
            track.reorder = from.is_unordered(index).then(Reorder::default);
            track.pipeline.set_ordered(track.reorder.is_none());
            track.watch.begin(heard.now, &track.pipeline.seen());
        }
        self.begin_sounds(from);
        // One alarm for all that may become due, set anew when it rings and not with every packet: a timer
        // costs as much as a packet.
        let alarm = tokio::time::sleep_until(heard.next_look(from).into());
        let mut alarm = pin!(alarm);
        loop {
            let mut ask_at = heard.now;
            let over = poll_fn(|context| {
                self.give_sounds(context, &mut heard);
                if let Poll::Ready(read) = self.poll_read(context, from, &mut heard) {
                    return Poll::Ready(read.map(|()| false));
                }
                // While media comes, the other two are asked once a second, since a question costs as much as a
                // packet; but an alarm that has rung is heard at once: nobody else wakes us if media ends here.
                let held = self.tracks.iter().filter_map(|track| track.pipeline.deadline()).min();
                if let Some(held) = held.filter(|held| *held < alarm.deadline().into_std()) {
                    alarm.as_mut().reset(held.into());
                } else if heard.came && heard.now < ask_at.min(alarm.deadline().into_std()) {
                    return Poll::Pending;
                }
                ask_at = heard.now + ASK_EVERY;
                match alarm.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Ok(false)),
                    Poll::Pending => gone.as_mut().poll(context).map(|()| Ok(true)),
                }
            });
            if over.await? {
                return Ok(());
            }
            let now = Instant::now();
            self.release(now);
            if now >= heard.look_at {
                heard.look_at = now + lookout::EVERY;
                self.look(&heard, now);
            }
            if now.saturating_duration_since(heard.at) >= self.patience() {
                let seconds = heard.at.elapsed().as_secs();
                return Err(SourceError::Stalled { seconds, why: heard.last_drop.map(Unfit::name) });
            }
            if is_due(from.attend_at()) {
                from.attend().await?;
            }
            alarm.as_mut().reset(heard.next_look(from).into());
        }
    }

    /// Reads until nothing more is there. `Ready`: the connection has something to say, or has failed.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        from: &mut impl Packets,
        heard: &mut Heard,
    ) -> Poll<Result<(), SourceError>> {
        // They come while the system call is at work.
        prefetch(from);
        self.status.prefetch();
        let feed = self.place.feed.borrow();
        for track in &self.tracks {
            prefetch(track);
            feed.prefetch(track.id);
        }
        drop(feed);
        heard.came = false;
        let mut read = || {
            for _ in 0..READS {
                heard.now = Instant::now();
                match from.poll_packets(context, &mut |packet| self.packet(packet, heard)) {
                    Poll::Ready(Ok(())) if is_due(from.attend_at()) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(())) => heard.came = true,
                    end => return end,
                }
            }
            context.waker().wake_by_ref();
            Poll::Pending
        };
        let read = read();
        self.tell(heard);
        self.skipped(from.take_skipped());
        read
    }

    /// What is neither of a track nor a message is counted, and said once.
    fn skipped(&self, Skipped { bytes, frames }: Skipped) {
        if bytes == 0 && frames == 0 {
            return;
        }
        self.place.totals.skipped(bytes, frames);
        let mut status = self.status.lock();
        if bytes > 0 && status.stray_bytes == 0 {
            tracing::warn!(
                stream = self.name,
                source = self.origin,
                "{bytes} stray bytes between frames were skipped; they are counted as `stray_bytes`"
            );
        }
        status.stray_bytes += bytes;
        if frames > 0 {
            *status.dropped.entry(OTHER_CHANNEL).or_default() += frames;
        }
    }

    /// Adds what has come to what is known of the source, once for all that came together.
    fn tell(&self, heard: &mut Heard) {
        if heard.packets > 0 {
            let mut status = self.status.lock();
            status.packets += std::mem::take(&mut heard.packets);
            status.bytes += std::mem::take(&mut heard.bytes);
            status.lost += std::mem::take(&mut heard.lost);
        }
    }

    fn packet(&mut self, packet: Packet<'_>, heard: &mut Heard) {
        let (index, bytes) = match packet {
            // Some send both by one channel (RFC 5761 §4).
            Packet::Rtp(index, bytes @ [_, 200..=204, ..]) => return self.report(index, bytes, heard),
            Packet::Rtp(index, bytes) => (index, bytes),
            Packet::Rtcp(index, bytes) => return self.report(index, bytes, heard),
            Packet::Unfit(_, why) => return self.dropped(why, 1, heard),
        };
        // No viewer could take it, and the thread has other sources to serve.
        if !self.pace.admits(bytes.len(), heard.now) {
            return self.dropped(Unfit::TooFast, 1, heard);
        }
        let Some(track) = self.tracks.get_mut(index) else { return };
        let payload_type = track.sound.as_ref().map_or(track.pipeline.payload_type(), |sound| sound.payload_type());
        track.watch.packet(heard.now);
        let Some(mut reorder) = track.reorder.take() else { return self.rtp(index, bytes, heard) };
        reorder.push(bytes, payload_type, heard.now, &mut |bytes| self.rtp(index, bytes, heard));
        if let Some(track) = self.tracks.get_mut(index) {
            track.reorder = Some(reorder);
        }
    }

    /// A track's packet, in its turn.
    fn rtp(&mut self, index: usize, bytes: &[u8], heard: &mut Heard) {
        let Some(track) = self.tracks.get_mut(index) else { return };
        if track.aac.is_some() {
            return self.take_sound(index, bytes, heard);
        }
        let (id, codec, kept) = (track.id, track.format.codec, track.kept);
        let result = {
            let mut feed = self.place.feed.borrow_mut();
            track.pipeline.packet(bytes, heard.now, &mut |index, header, payload| {
                feed.push(id, index, header, payload, kept && is_key(codec, payload));
            })
        };
        heard.packets += 1;
        heard.bytes += bytes.len() as u64;
        heard.lost += track.pipeline.take_lost();
        let bad = track.pipeline.take_bad();
        match result {
            Ok(()) => self.came(heard),
            Err(why) => self.dropped(why, 1, heard),
        }
        if bad > 0 {
            self.dropped(Unfit::BadUnit, bad, heard);
        }
    }

    /// A packet has gone on.
    fn came(&mut self, heard: &mut Heard) {
        heard.at = heard.now;
        if !std::mem::replace(&mut heard.playing, true) {
            let mut status = self.status.lock();
            status.state = State::Playing;
            status.advice = None;
            status.connections += 1;
            tracing::info!(stream = self.name, source = self.origin, "media comes");
        }
    }

    /// Packets have not.
    fn dropped(&mut self, why: Unfit, count: u64, heard: &mut Heard) {
        // A long GOP is no stall.
        if why == Unfit::BeforeKeyframe {
            heard.at = heard.now;
        }
        heard.last_drop = Some(why);
        let reason = match why {
            Unfit::TooFast => Some(Reason::TooFast),
            Unfit::WrongSender => Some(Reason::WrongSender),
            Unfit::OtherSender => Some(Reason::OtherSsrc),
            Unfit::AuthFailed => Some(Reason::SrtpKey),
            _ => None,
        };
        if let Some(reason) = reason {
            heard.drops.insert(reason);
        }
        self.status.lock().drop_packets(why, count);
        self.place.totals.dropped(why, count);
    }

    /// What waits for the end of its frame leaves, if its time has come.
    fn release(&mut self, now: Instant) {
        let mut feed = self.place.feed.borrow_mut();
        for track in self.tracks.iter_mut().filter(|track| track.pipeline.deadline().is_some()) {
            let (id, codec, kept) = (track.id, track.format.codec, track.kept);
            track.pipeline.release(now, &mut |index, header, payload| {
                feed.push(id, index, header, payload, kept && is_key(codec, payload));
            });
        }
    }

    /// The source's own clock, by which audio and video stay together.
    fn report(&mut self, index: usize, bytes: &[u8], heard: &mut Heard) {
        let Some(track) = self.tracks.get(index) else { return };
        let Some(report) = sender_report::first(bytes) else { return };
        let Some(rtp) = self.map(index, report.ssrc, report.rtp) else { return };
        let event = Event::SenderReport {
            stream: self.name.clone(),
            track: track.id,
            ntp: report.ntp,
            rtp,
            at: heard.now,
            first: std::mem::take(&mut heard.first_reports),
        };
        let _ = self.place.events.send(event);
    }
}

/// What one connection has brought.
struct Heard {
    /// When what is being looked at was read.
    now: Instant,
    /// When media came last.
    at: Instant,
    /// The last look at the connection brought something.
    came: bool,
    playing: bool,
    last_drop: Option<Unfit>,
    /// The next report is the connection's first.
    first_reports: bool,
    /// Why packets were dropped, where viewers notice.
    drops: Reasons,
    /// When the tracks are looked at.
    look_at: Instant,
    /// Packets, their bytes, and those that were missing, not yet added to the source's status.
    packets: u64,
    bytes: u64,
    lost: u64,
}

impl Heard {
    fn new(now: Instant) -> Self {
        Self {
            now,
            at: now,
            came: false,
            playing: false,
            last_drop: None,
            first_reports: true,
            drops: Reasons::default(),
            look_at: now + lookout::EVERY,
            packets: 0,
            bytes: 0,
            lost: 0,
        }
    }

    /// When something may be due: the end of patience, or words of the connection's own.
    fn next_look(&self, from: &impl Packets) -> Instant {
        from.attend_at().map_or(self.look_at, |attend| attend.min(self.look_at))
    }
}

/// Payload type of what goes through a track's pipeline.
fn payload_type(track: &penstock_rtp::description::Track) -> u8 {
    if track.aac.is_some() { sound::PAYLOAD_TYPE } else { track.payload_type }
}

fn is_due(time: Option<Instant>) -> bool {
    time.is_some_and(|time| time <= Instant::now())
}
