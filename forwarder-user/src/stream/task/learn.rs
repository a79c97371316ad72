//! Which SSRCs a publisher sends: learnt from authenticated packets, and forgotten when they fall silent.

use std::time::{Duration, Instant};

use forwarder_common::ExtendedSeq;
use forwarder_common::rtp::RtpHeader;

use super::Task;
use super::layers::{Found, track_of};
use crate::stream::ids::Key;
use crate::stream::report::ReceptionHistory;
use crate::stream::session::{Attachment, Former, Others, PublisherTrack, Rtx, Session, Source, Tracks};
use crate::stream::strays::Strays;
use penstock_engine::clock::boottime_ns;
use penstock_engine::{NewPublisherTrack, NewRepairTrack, PublisherTrackId, Role};
use penstock_srtp::srtcp::RtpOpener;
use penstock_webrtc::{peer::Pair, sdp};

/// A second SSRC with a track's payload type replaces the first once that has been silent so long.
const SOURCE_SILENT: Duration = Duration::from_millis(300);
/// A source that never sent another packet than its first is given this long.
const SOURCE_UNHEARD: Duration = Duration::from_secs(1);
/// SSRCs that one publisher may have, one after the other. The index of each is remembered while the key lives, so
/// that nothing it has sent is believed again.
const FORMER_SSRCS: usize = 256;
/// SSRCs that are listened to while another one of their track is forwarded.
const HEARD_SSRCS: usize = 16;
/// Cycles of the sequence number that are tried where nobody knows how often it has wrapped: as many as a stream of 500
/// packets a second has in nine hours.
const ROCS: u64 = 256;
/// How often packets with other payload types are looked for.
const OTHERS_EVERY: Duration = Duration::from_millis(400);
/// Packets of a publisher for which that is done in a second.
pub(super) const SEARCHES_PER_SECOND: u32 = 2;
/// A track whose packets still come up so long after it was learnt has lost its flow.
const FLOW_LOST: Duration = Duration::from_secs(1);
/// What is known of packets that come up although the kernel engine has their SSRC.
const ASTRAY: &str = "its packets come by a way that XDP does not see: an interface without XDP, a rule of this host that \
                      translates them (NAT), fragments, or IP options";

impl Task {
    /// RTP that the engine passed up: either an SSRC that it does not know yet, or nothing for us.
    pub(in crate::stream) fn rtp(&mut self, key: Key, pair: Pair, packet: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let publisher = session.role == Role::Publisher;
        let Some(media) = session.media.as_mut().filter(|media| publisher && media.pair == pair) else {
            self.counters.rtp_unexpected += 1;
            return;
        };
        let Some((header, _)) = RtpHeader::parse(packet) else {
            self.counters.rtp_auth_failed += 1;
            return;
        };
        if media.allowance.is_spent(now) {
            self.counters.publisher_too_fast += 1;
            return;
        }
        let Tracks::Publisher(tracks) = &session.tracks else { return };
        let unseen = |track: &PublisherTrack| track.source.is_none() && track.ssrc() == Some(header.ssrc());
        let admitted = match tracks.iter().any(unseen) {
            true => media.unseen.take(now),
            false => media.unknown.admits(header.ssrc(), now),
        };
        if !admitted {
            self.counters.rtp_rate_limited += 1;
            return;
        }
        let repairs =
            |track: &PublisherTrack| track.source.as_ref()?.repairs.filter(|(ssrc, _)| *ssrc == header.ssrc());
        if let Some((_, id)) = tracks.iter().find_map(repairs) {
            return self.repair_astray(key, id, &header, packet);
        }
        let former = media.former.get(&header.ssrc());
        let was = former.map(|former| former.track);
        let former = former.map(|former| (former.stopped, former.highest));
        let is_it = |track: &PublisherTrack| track.source.as_ref().is_some_and(|known| known.ssrc == header.ssrc());
        if let Some(track) = tracks.iter().position(is_it) {
            if self.astray(key, track, &header, packet, now) {
                self.note_arrival(key, packet);
            }
            return;
        }
        if let Some((false, _)) = former {
            // Until nothing of it is in flight any more, nobody knows from where it may go on.
            self.counters.rtp_known_ssrc += 1;
            return;
        }
        let known =
            Known { former: former.map(|(_, highest)| highest), heard: media.heard.get(&header.ssrc()).copied() };
        let opened = media.rtp.as_ref().and_then(|rtp| {
            let near = known.open(rtp, header.seq(), packet);
            let search = || media.searches.take(now).then(|| known.search(rtp, header.seq(), packet)).flatten();
            near.or_else(search)
        });
        let Some((index, plain, payload)) = opened else {
            self.counters.rtp_auth_failed += 1;
            return;
        };
        let found = track_of(tracks, packet, &header, was);
        self.note_arrival(key, packet);
        match found {
            Found::Track(track) => {
                if self.is_seen(key, track, header.ssrc(), plain.get(payload..).unwrap_or_default(), now) {
                    self.learn(key, track, &header, index, now);
                }
            }
            Found::Repairs(track) => self.learn_repairs(key, track, &header, index),
            Found::OtherPayloadType => self.counters.rtp_other_payload_type += 1,
            Found::UnknownLayer => self.counters.rtp_unknown_layer += 1,
        }
    }

    /// RTP of an SSRC that the engine has, and that came up nevertheless. When that is no coincidence, the track moves
    /// to where such packets are opened. Says whether it is authentic.
    fn astray(&mut self, key: Key, track: usize, header: &RtpHeader, packet: &[u8], now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let Session { tracks: Tracks::Publisher(tracks), media: Some(media), name, stream, .. } = session else {
            return false;
        };
        let Some(source) = tracks.get_mut(track).and_then(|track| track.source.as_mut()) else { return false };
        let highest = self.engine.publisher_stats(source.id).unwrap_or_default().highest;
        let index = highest.estimate(header.seq());
        let authentic = |index: &ExtendedSeq| media.rtp.as_ref().is_some_and(|rtp| rtp.authenticate(packet, *index));
        let Some(index) = index.filter(authentic) else {
            self.counters.rtp_auth_failed += 1;
            return false;
        };
        source.passed_up += u64::from(now.duration_since(source.learnt) < SOURCE_UNHEARD);
        self.counters.rtp_known_ssrc += 1;
        if now.duration_since(source.learnt) >= FLOW_LOST && self.engine.restore_publisher_track(source.id) {
            self.counters.flows_restored += 1;
            tracing::warn!(session = name, ssrc = source.ssrc, "its packets lead to its track again");
            return true;
        }
        // A copy of what the engine has had, by whatever way, says nothing of it.
        if self.engine.has_accepted(source.id, index) || !source.strays.add(source.learnt, now) {
            return true;
        }
        let ssrc = source.ssrc;
        if self.engine.divert(media.engine, ASTRAY) {
            self.counters.tracks_diverted += 1;
            tracing::warn!(session = name, stream, ssrc, "track moves to the userspace engine: {ASTRAY}");
            self.learn_anew(key, track);
        } else if source.strays.tell() {
            tracing::error!(session = name, stream, ssrc, "viewers do not get all of this track: {ASTRAY}");
        }
        true
    }

    /// Who was moved to the userspace engine goes back to the kernel engine, if that can serve again.
    pub(super) fn look_whether_back(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        if !session.media.as_ref().is_some_and(|media| self.engine.is_back(media.engine)) {
            return;
        }
        if session.role == Role::Subscriber {
            return self.move_viewer(key);
        }
        tracing::info!(session = session.name, stream = session.stream, "XDP sees all packets again: back to it");
        for track in 0..session.publisher_tracks().len() {
            let learnt = self.learn_anew(key, track);
            self.counters.tracks_back += u64::from(learnt);
        }
    }

    /// Takes a track's SSRC out of the engine, to be learnt again from its next packet: see `engine/auto/divert.rs` for
    /// why nothing is forwarded twice. `false`: it has none.
    pub(super) fn learn_anew(&mut self, key: Key, track: usize) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let stream = session.stream.clone();
        let Some(source) = session.publisher_tracks().get(track).and_then(|track| track.source.as_ref()) else {
            return false;
        };
        let (ssrc, id) = (source.ssrc, source.id);
        let stats = self.engine.publisher_stats(id).unwrap_or_default();
        if let Some(media) = session.media.as_mut() {
            if media.former.len() >= FORMER_SSRCS && !media.former.contains_key(&ssrc) {
                self.close(key, "it has changed its SSRC too often");
                return false;
            }
            let highest = media.former.get(&ssrc).map_or(ExtendedSeq(0), |former| former.highest);
            let highest = stats.highest.max(stats.highest_accepted).max(highest);
            media.former.insert(ssrc, Former { track, id, highest, stopped: false });
            // Before the engine is told: it may answer at once.
            self.stopping.insert(id, key);
        }
        self.stop_source(key, track, &stream);
        true
    }

    /// Nothing of an incoming track is in flight any more: its SSRC may be learnt again, above `highest`.
    pub(super) fn source_stopped(&mut self, track: PublisherTrackId, highest: ExtendedSeq) {
        let Some(media) = self.stopping.remove(&track).and_then(|key| self.sessions.get_mut(key)?.media.as_mut())
        else {
            return;
        };
        // A handle is given out again once its end was told, so an SSRC that has ended may have had it too.
        if let Some(former) = media.former.values_mut().find(|former| former.id == track && !former.stopped) {
            former.highest = former.highest.max(highest);
            former.stopped = true;
        }
    }

    /// Gives the engine an SSRC that an authenticated packet has shown.
    fn learn(&mut self, key: Key, track: usize, header: &RtpHeader, first: ExtendedSeq, now: Instant) {
        if !self.replace_source(key, track, now) {
            self.counters.rtp_known_ssrc += 1;
            return self.hear(key, header.ssrc(), first);
        }
        let nack = self.config.nack;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(engine) = session.media.as_ref().map(|media| media.engine) else { return };
        let Some(entry) = session.publisher_tracks_mut().get_mut(track) else { return };
        let other = entry.adopt(header.payload_type());
        entry.nack = nack && sdp::asks_again(&entry.format);
        if other && let Some(rtx) = entry.rtx.take() {
            entry.rtx = sdp::publisher_rtx(&entry.format).map(|payload_type| Rtx { payload_type, ..rtx });
        }
        let codec = entry.format.codec;
        let new = NewPublisherTrack {
            ssrc: header.ssrc(),
            kind: codec.kind(),
            payload_type: header.payload_type(),
            clock_rate: codec.clock_rate(),
            first,
            sequence_extension: entry.sequence,
        };
        let added = self.engine.add_publisher_track(engine, new);
        match added {
            Ok(id) => {
                entry.source = Some(Source {
                    ssrc: header.ssrc(),
                    id,
                    learnt: now,
                    first_timestamp: header.timestamp(),
                    repairs: None,
                    passed_up: 0,
                    strays: Strays::default(),
                    charged: 0,
                    reception: ReceptionHistory::default(),
                    gaps: None,
                    others: Others::default(),
                });
                if entry.nack {
                    self.asking.begin(key, now);
                }
                // The packet that taught us the SSRC, and what came before it, is not forwarded.
                if entry.is_forwarded() {
                    entry.keyframes.want();
                }
                let layer = entry.layer.as_ref().map(|layer| layer.name.clone());
                self.counters.ssrcs_learnt += 1;
                if let Some(media) = session.media.as_mut() {
                    media.heard.remove(&header.ssrc());
                }
                let (name, stream) = (&session.name, session.stream.clone());
                let ssrc = header.ssrc();
                tracing::info!(session = name, stream, ssrc, layer, codec = codec.name(), "track started");
                self.sessions.sends_under(key, header.ssrc());
                if other {
                    self.counters.codecs_learnt += 1;
                    self.close_mismatched(&stream);
                }
                self.look_at_layers(key, now);
                self.attach_viewers(&stream, codec.kind(), now);
                self.arm(key, now);
            }
            // Connected without media, it would ask again with every packet. Its client can try again, or tell.
            Err(error) => {
                self.counters.refused_by_engine += 1;
                tracing::warn!(session = session.name, "the engine refused a track: {error}");
                self.close(key, "there is no room for its track, or it is another session's");
            }
        }
    }

    /// An SSRC that has to wait for its turn: by then its sequence number may have wrapped often.
    fn hear(&mut self, key: Key, ssrc: u32, index: ExtendedSeq) {
        let Some((_, media)) = self.with_media(key) else { return };
        if media.heard.len() < HEARD_SSRCS || media.heard.contains_key(&ssrc) {
            let highest = media.heard.entry(ssrc).or_insert(index);
            *highest = (*highest).max(index);
        }
    }

    /// Publishers may go over to another format of their offer under the same SSRC: then its packets come with another
    /// payload type, and the track is learnt anew in that. What nobody has negotiated is only named.
    pub(super) fn look_for_other_types(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Session { tracks: Tracks::Publisher(tracks), name, stream, .. } = session else { return };
        let mut change = None;
        for (place, track) in tracks.iter_mut().enumerate() {
            let Some(source) = track.source.as_ref() else { continue };
            if source.others.looked.is_some_and(|looked| now.duration_since(looked) < OTHERS_EVERY) {
                continue;
            }
            let stats = self.engine.publisher_stats(source.id).unwrap_or_default();
            let negotiated = stats.other_type.is_some_and(|payload_type| track.accepts(payload_type));
            let Some(source) = track.source.as_mut() else { continue };
            let packets = stats.packets.saturating_sub(source.others.packets);
            let others = stats.others.saturating_sub(source.others.others);
            let told = source.others.told;
            let (all, of_others) = (stats.packets, stats.others);
            source.others = Others { looked: Some(now), packets: all, others: of_others, told: told || others > 0 };
            self.counters.rtp_other_payload_type += others;
            if others == 0 {
                continue;
            }
            if !told {
                let (ssrc, payload_type) = (source.ssrc, stats.other_type);
                tracing::warn!(
                    session = name,
                    stream,
                    ssrc,
                    payload_type,
                    negotiated,
                    "payload type of another format"
                );
            }
            // A few among many are comfort noise, or telephone events: copies of those are empty.
            if negotiated && others * 2 > packets {
                change = Some(place);
            }
        }
        if let Some(track) = change {
            self.learn_anew(key, track);
        }
    }

    /// Gives the engine an SSRC by which a track is repaired. One that has changed takes the place of the one before.
    fn learn_repairs(&mut self, key: Key, track: usize, header: &RtpHeader, first: ExtendedSeq) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(engine) = session.media.as_ref().map(|media| media.engine) else { return };
        let Some(entry) = session.publisher_tracks_mut().get_mut(track) else { return };
        // Before there is media there is nothing to repair.
        let (Some(source), Some(rtx)) = (entry.source.as_mut(), entry.rtx) else { return };
        if let Some((_, former)) = source.repairs.take() {
            self.engine.remove_publisher_track(former);
        }
        let (ssrc, of) = (header.ssrc(), source.id);
        let new =
            NewRepairTrack { ssrc, payload_type: rtx.payload_type, of, first, sequence_extension: entry.sequence };
        match self.engine.add_repair_track(engine, new) {
            Ok(id) => source.repairs = Some((ssrc, id)),
            // Without it a keyframe mends what is lost, and media goes on.
            Err(error) => {
                self.counters.repairs_not_taken += 1;
                tracing::debug!(session = session.name, "no repairs: {error}");
            }
        }
        self.sessions.sends_under(key, ssrc);
    }

    /// A packet of repairs that came up before the engine had its SSRC. It is lost, and has arrived.
    fn repair_astray(&mut self, key: Key, id: PublisherTrackId, header: &RtpHeader, packet: &[u8]) {
        self.counters.rtp_known_ssrc += 1;
        let rtp = self.sessions.get(key).and_then(|session| session.media.as_ref()?.rtp.as_ref());
        let opened = rtp.and_then(|rtp| Known::default().open(rtp, header.seq(), packet));
        if let Some((index, ..)) = opened
            && !self.engine.has_accepted(id, index)
        {
            self.note_arrival(key, packet);
        }
    }

    /// Makes room for a new SSRC of a track. `false`: the present one is alive and stays.
    fn replace_source(&mut self, key: Key, track: usize, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let Some(source) = session.publisher_tracks().get(track).and_then(|track| track.source.as_ref()) else {
            return true;
        };
        let id = source.id;
        let stats = self.engine.publisher_stats(id).unwrap_or_default();
        let alive = match stats.last_arrival_ns {
            0 => now.duration_since(source.learnt) < SOURCE_UNHEARD,
            last => Duration::from_nanos(boottime_ns().saturating_sub(last)) < SOURCE_SILENT,
        };
        if alive {
            return false;
        }
        self.learn_anew(key, track);
        true
    }

    /// Stops a publisher's SSRC. Its viewers wait for what comes after it.
    pub(super) fn stop_source(&mut self, key: Key, track: usize, stream: &str) {
        let source = self
            .sessions
            .get_mut(key)
            .and_then(|session| session.publisher_tracks_mut().get_mut(track).and_then(|track| track.source.take()));
        if let Some(source) = source {
            self.stop_sending(&source, stream);
        }
    }

    /// Takes a publisher's SSRC out of the engine.
    pub(super) fn stop_sending(&mut self, source: &Source, stream: &str) {
        for viewer in self.streams.viewers(stream) {
            let Some(session) = self.sessions.get_mut(viewer) else { continue };
            for entry in session.viewer_tracks_mut() {
                if let Attachment::Attached { track, from } = entry.attachment
                    && from == source.id
                {
                    let stats = self.engine.subscriber_stats(track).unwrap_or_default();
                    entry.leave(track, &stats);
                }
            }
        }
        if let Some((_, repairs)) = source.repairs {
            self.engine.remove_publisher_track(repairs);
        }
        self.engine.remove_publisher_track(source.id);
    }
}

/// The index under which a packet is authentic, the packet in the clear, and where its payload begins.
type Opened = (ExtendedSeq, Vec<u8>, usize);

/// What is known of an SSRC that the engine does not have.
#[derive(Default)]
struct Known {
    /// Its highest index, if it was forwarded before: whoever plays back what it sent until then must not be believed
    /// again.
    former: Option<ExtendedSeq>,
    /// How far it was when it was heard last.
    heard: Option<ExtendedSeq>,
}

impl Known {
    /// Opens a packet whose index is near what is known: a new SSRC starts with ROC 0; its first packet may be lost and
    /// the sequence number wrap before the first one that we see.
    fn open(&self, opener: &RtpOpener, seq: u16, packet: &[u8]) -> Option<Opened> {
        let first = ExtendedSeq(u64::from(seq));
        let wrapped = (seq < 0x8000).then_some(ExtendedSeq(first.0 + (1 << 16)));
        let known = [self.heard, self.former].map(|highest| highest.and_then(|highest| highest.estimate(seq)));
        let guesses = known.into_iter().chain([Some(first), wrapped]);
        self.first_right(opener, guesses.flatten(), packet)
    }

    /// The same among all indices that it may have, if it was sent all the time and nobody has listened.
    fn search(&self, opener: &RtpOpener, seq: u16, packet: &[u8]) -> Option<Opened> {
        let from = self.former.or(self.heard).map_or(0, |highest| highest.0 >> 16);
        let indices = (from..from + ROCS).map(|roc| ExtendedSeq(roc << 16 | u64::from(seq)));
        self.first_right(opener, indices.filter(|index| *index <= ExtendedSeq::MAX), packet)
    }

    fn first_right(
        &self,
        opener: &RtpOpener,
        mut indices: impl Iterator<Item = ExtendedSeq>,
        packet: &[u8],
    ) -> Option<Opened> {
        indices.find_map(|index| {
            let new = self.former.is_none_or(|highest| index > highest);
            let (plain, payload) = new.then(|| opener.open(packet, index)).flatten()?;
            Some((index, plain, payload))
        })
    }
}
