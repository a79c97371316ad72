//! The supervisor of one source: connects when it should, feeds the engine, tries again when it fails.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use forwarder_common::ExtendedSeq;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, sleep_until, timeout},
};

use super::{
    Event, SourceTrack,
    description::Description,
    error::SourceError,
    feed::Feed,
    rtp::{Pipeline, Reorder, Unfit},
    rtsp::{
        client::{Client, Packet},
        connection::Scratch,
    },
    sender_report,
    status::{Shared, State},
};
use crate::{
    config,
    engine::{Engine, PublisherTrackId, userspace::NewSource},
    session::codec::Format,
};

/// Without media for so long, the connection is given up.
const STALLED: Duration = Duration::from_secs(10);
/// A source on demand stays connected for so long after its last viewer.
const LINGER: Duration = Duration::from_secs(10);
/// Waits between attempts: doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// For goodbyes.
const GOODBYE: Duration = Duration::from_millis(500);

/// What all sources of a thread share.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) engine: std::sync::Arc<dyn Engine>,
    pub(super) feed: Rc<RefCell<Feed>>,
    pub(super) scratch: Scratch,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

/// One source.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) config: config::Stream,
    pub(super) place: Place,
    pub(super) status: Shared,
    pub(super) wanted: watch::Receiver<bool>,
    /// Tracks in the engine. They outlive connections, so that viewers do.
    tracks: Vec<Track>,
}

struct Track {
    format: Format,
    id: PublisherTrackId,
    pipeline: Pipeline,
    /// Where packets may overtake each other.
    reorder: Option<Reorder>,
    warned: bool,
}

impl Source {
    pub(super) fn new(
        name: String,
        config: config::Stream,
        place: Place,
        status: Shared,
        wanted: watch::Receiver<bool>,
    ) -> Self {
        Self { name, config, place, status, wanted, tracks: vec![] }
    }

    /// Runs until the control task has gone.
    pub(super) async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        while self.until_wanted().await {
            self.status.lock().state = State::Connecting;
            let began = Instant::now();
            let connections = self.status.lock().connections;
            let Err(error) = self.serve().await else {
                wait = FIRST_WAIT;
                continue;
            };
            self.status.lock().failed(&error);
            // What worked for a while is likely to work again at once.
            if self.status.lock().connections > connections && began.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
            }
            let pause = jitter(wait);
            tracing::warn!(
                stream = self.name, source = %self.config.source, error = error.name(),
                "no media, next attempt in {:.1} s: {error}", pause.as_secs_f64()
            );
            let _ = self.place.events.send(Event::Failed { stream: self.name.clone(), why: error.to_string() });
            wait = (wait * 2).min(LONGEST_WAIT);
            tokio::select! {
                () = sleep(pause) => {}
                () = gone(&mut self.wanted) => return,
            }
        }
    }

    /// `false`: never again.
    async fn until_wanted(&mut self) -> bool {
        if self.wanted.has_changed().is_err() || !self.config.on_demand {
            return self.wanted.has_changed().is_ok();
        }
        if !*self.wanted.borrow() {
            self.status.lock().state = State::Idle;
        }
        self.wanted.wait_for(|wanted| *wanted).await.is_ok()
    }

    /// One connection, from its begin to its end. `Ok`: nobody wants it any more.
    async fn serve(&mut self) -> Result<(), SourceError> {
        let (mut client, description) = tokio::select! {
            described = Client::describe(&self.config, self.place.scratch.clone()) => described?,
            () = unwanted(&mut self.wanted, self.config.on_demand) => return Ok(()),
        };
        self.described(&description)?;
        tokio::select! {
            played = client.play(&description) => played?,
            () = unwanted(&mut self.wanted, self.config.on_demand) => return Ok(()),
        }
        for (index, track) in self.tracks.iter_mut().enumerate() {
            track.reorder = client.is_unordered(index).then(Reorder::default);
        }
        let played = self.play(&mut client).await;
        let _ = timeout(GOODBYE, client.teardown()).await;
        played
    }

    /// Puts the tracks into the engine, unless it has the same ones already.
    fn described(&mut self, description: &Description) -> Result<(), SourceError> {
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
            let source = NewSource { clock_rate: track.format.codec.clock_rate(), last };
            let id = match self.place.engine.add_source(source) {
                Ok(id) => id,
                Err(error) => {
                    tracks.iter().for_each(|track: &Track| self.place.engine.remove_publisher_track(track.id));
                    return Err(error.into());
                }
            };
            let mut pipeline = Pipeline::new(track.format.codec, track.payload_type, &track.sets, last);
            let kind = track.format.codec.kind();
            if let Some(former) = self.tracks.iter().find(|former| former.format.codec.kind() == kind) {
                pipeline.succeed(&former.pipeline);
            }
            tracks.push(Track { format: track.format.clone(), id, pipeline, reorder: None, warned: false });
        }
        self.tracks = tracks;
        self.status.lock().warnings.clear();
        let tracks = self.tracks.iter().map(|track| SourceTrack { format: track.format.clone(), id: track.id });
        let _ = self.place.events.send(Event::Described { stream: self.name.clone(), tracks: tracks.collect() });
        Ok(())
    }

    async fn play(&mut self, client: &mut Client) -> Result<(), SourceError> {
        let mut heard = Heard { at: Instant::now(), playing: false, last_drop: None, first_reports: true };
        let mut wanted = self.wanted.clone();
        let gone = unwanted(&mut wanted, self.config.on_demand);
        tokio::pin!(gone);
        // Set anew when it rings, not with every packet: a timer costs as much as a packet.
        let alarm = sleep_until(client.next_sign().min((heard.at + STALLED).into()));
        tokio::pin!(alarm);
        loop {
            let mut take = |packet: Packet<'_>| self.packet(packet, &mut heard);
            let rang = tokio::select! {
                received = client.receive(&mut take) => {
                    received?;
                    false
                }
                () = &mut alarm => true,
                () = &mut gone => return Ok(()),
            };
            if !rang {
                continue;
            }
            if heard.at.elapsed() >= STALLED {
                let seconds = heard.at.elapsed().as_secs();
                return Err(SourceError::Stalled { seconds, why: heard.last_drop.map(Unfit::name) });
            }
            if client.next_sign() <= tokio::time::Instant::now() {
                client.sign_of_life().await?;
            }
            alarm.as_mut().reset(client.next_sign().min((heard.at + STALLED).into()));
        }
    }

    fn packet(&mut self, packet: Packet<'_>, heard: &mut Heard) {
        let now = Instant::now();
        let (index, bytes) = match packet {
            Packet::Rtp(index, bytes) => (index, bytes),
            Packet::Rtcp(index, bytes) => return self.report(index, bytes, now, heard),
        };
        let Some(track) = self.tracks.get_mut(index) else { return };
        let Some(mut reorder) = track.reorder.take() else { return self.rtp(index, bytes, now, heard) };
        reorder.push(bytes, now, &mut |bytes| self.rtp(index, bytes, now, heard));
        if let Some(track) = self.tracks.get_mut(index) {
            track.reorder = Some(reorder);
        }
    }

    /// A track's packet, in its turn.
    fn rtp(&mut self, index: usize, bytes: &[u8], now: Instant, heard: &mut Heard) {
        let Some(track) = self.tracks.get_mut(index) else { return };
        let mut feed = self.place.feed.borrow_mut();
        let id = track.id;
        let result = track.pipeline.packet(bytes, now, &mut |index, header, payload| {
            feed.push(id, index, header, payload);
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
                    tracing::info!(stream = self.name, source = %self.config.source, "media comes");
                }
                if !track.warned && track.pipeline.b_frames() {
                    track.warned = true;
                    let warning = "the camera sends B-frames, which browsers show in the wrong order: \
                                   choose a profile without them (Baseline, or \"B-frames: 0\")";
                    tracing::warn!(stream = self.name, "{warning}");
                    status.warnings.push(warning.into());
                }
            }
            Err(why) => {
                // A long GOP is no stall.
                if why == Unfit::BeforeKeyframe {
                    heard.at = now;
                }
                heard.last_drop = Some(why);
                status.drop_packet(why);
            }
        }
        status.lost += track.pipeline.take_lost();
    }

    /// The camera's own clock, by which audio and video stay together.
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
}

/// Ends when the control task has gone.
async fn gone(wanted: &mut watch::Receiver<bool>) {
    while wanted.changed().await.is_ok() {}
}

/// Ends when the control task has gone, or nobody has watched for a while a source that is on demand.
async fn unwanted(wanted: &mut watch::Receiver<bool>, on_demand: bool) {
    if !on_demand {
        return gone(wanted).await;
    }
    loop {
        if wanted.wait_for(|wanted| !*wanted).await.is_err() {
            return;
        }
        match timeout(LINGER, wanted.wait_for(|wanted| *wanted)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Between three and five quarters, so that cameras behind one switch do not come back all at once.
fn jitter(wait: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness, without jitter.
    let random = SystemRandom::new().fill(&mut random).map_or(0x8000, |()| u16::from_be_bytes(random));
    wait * 3 / 4 + wait / 2 * u32::from(random) / 0x1_0000
}
