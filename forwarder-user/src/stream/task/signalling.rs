//! Commands of HTTP: offers, ICE fragments, deletion.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use forwarder_common::ExtendedSeq;

use super::Task;
use super::silence::Silence;
use crate::ingest::State;
use crate::stream::ids::{Key, random, random_hex, random_ssrc};
use crate::stream::keyframe::Keyframes;
use crate::stream::report::ViewerReport;
use crate::stream::resend::Resend;
use crate::stream::session::{Attachment, Layer, PublisherTrack, Rtx, Session, Tracks, ViewerTrack};
use crate::stream::streams::Reply;
use crate::stream::{Answer, Command, MediaAddress, Patched, Refusal, Request, Visitor, What};
use penstock_engine::block::Block;
use penstock_engine::{Role, RtxSource};
use penstock_media::codec::Format;
use penstock_webrtc::peer::Peer;
use penstock_webrtc::sdp::{self, Fragment, Offer, OutgoingSource, Plan, Sent};

/// Least room for sessions that are not connected yet.
const LEAST_POOL: usize = 16;
/// A publisher without ICE checks for this long gives way to a new one. Peers check every 2.5 to 6 s.
const PUBLISHER_SILENT: Duration = Duration::from_secs(10);

/// Answer to an offer.
const NO_ADDRESS: &str = "this host has no address for media at the moment";

impl Task {
    pub(in crate::stream) fn command(&mut self, command: Command, now: Instant) {
        // Whoever asked may have gone meanwhile; then there is nobody to answer.
        match command {
            Command::Admit { request, reply } => {
                let admitted = self.admit(&request, now);
                if let (Err(refusal), Request::Open { role, from, .. }) = (&admitted, &request) {
                    self.refused(*role, *from, refusal);
                }
                let _ = reply.send(admitted);
            }
            Command::Offer { role: Role::Subscriber, stream, visitor, offer: Ok(offer), reply }
                if self.streams.is_undescribed(&stream) =>
            {
                self.wait_for_description(&stream, offer, visitor, reply);
            }
            Command::Offer { role, stream, visitor, offer, reply } => {
                self.answer(role, stream, visitor, offer, reply, now);
            }
            Command::Patch { session, role, stream, if_match, fragment, reply } => {
                let patched = self
                    .find(&session, role, &stream)
                    .and_then(|key| self.patch(key, if_match.as_deref(), fragment, now));
                let _ = reply.send(patched);
            }
            Command::Delete { session, role, stream, reply } => {
                let deleted = match self.find(&session, role, &stream) {
                    Ok(key) => {
                        self.close(key, "deleted by its owner");
                        Ok(())
                    }
                    Err(_) if self.sessions.has_ended(&session, role, &stream) => Ok(()),
                    Err(refusal) => Err(refusal),
                };
                let _ = reply.send(deleted);
            }
            Command::View { session, reply } => {
                let _ = reply.send(self.view(&session, now));
            }
            Command::Snapshot { reply } => {
                self.count_connections();
                let _ = reply.send(self.snapshot(now));
            }
            Command::Kick { session, why, reply } => {
                let key = self.sessions.by_id(&session).or_else(|| self.sessions.by_name(&session));
                if let Some(key) = key {
                    self.counters.sessions_kicked += 1;
                    self.close(key, &why);
                }
                let _ = reply.send(key.is_some());
            }
            Command::EndPublisher { stream, reply } => {
                let _ = reply.send(self.end_publisher(&stream));
            }
            Command::Configure { live, sources, reply } => {
                self.config.set(live);
                self.set_sources(sources);
                let _ = reply.send(());
            }
            Command::Addresses { media, reply } => {
                self.change_addresses(&media);
                let _ = reply.send(());
            }
            Command::Drain { reply } => {
                let _ = reply.send(());
            }
        }
    }

    fn end_publisher(&mut self, stream: &str) -> bool {
        let pushed = self.ingest.sources.get(stream).is_some_and(|source| source.pushed);
        if let Some(key) = self.streams.publisher(stream) {
            self.counters.sessions_kicked += 1;
            self.close(key, "ended by the API");
            return true;
        }
        if pushed {
            tracing::info!(stream, "RTSP publisher ended by the API");
            self.release(stream);
        }
        pushed
    }

    fn change_addresses(&mut self, media: &[MediaAddress]) {
        let (new, lost) = self.sockets.change(media);
        let text = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if !new.is_empty() {
            tracing::info!("media: {} now, offered to sessions from now on", text(&new));
        }
        if !lost.is_empty() {
            tracing::warn!(
                "media: {} is no address of this host any more: sessions on it end, unless their peers find another way",
                text(&lost)
            );
        }
        if media.is_empty() {
            tracing::error!("media: this host has no address that peers could reach, so nobody can connect");
        }
    }

    fn refused(&mut self, role: Role, from: Block, refusal: &Refusal) {
        self.counters.refused_offers += 1;
        if let Some(kept_back) = self.refusals.take(Instant::now(), refusal.kind(), from) {
            tracing::info!(?role, kept_back, "offer refused: {refusal}");
        }
    }

    /// Looks at what can be known without reading what somebody has sent.
    fn admit(&self, request: &Request, now: Instant) -> Result<(), Refusal> {
        match request {
            Request::Change { session, role, stream } => self.find(session, *role, stream).map(drop),
            Request::Open { role: Role::Publisher, stream, .. } => {
                self.in_the_way(stream, now)?;
                self.has_room()
            }
            Request::Open { role: Role::Subscriber, stream, .. } => {
                if !self.streams.is_undescribed(stream) {
                    self.stream_formats(stream)?;
                }
                self.takes_viewer(stream)?;
                self.has_room()
            }
        }
    }

    /// Has a stream as many viewers as it may?
    pub(super) fn takes_viewer(&self, stream: &str) -> Result<(), Refusal> {
        match self.config.max_viewers.get(stream) {
            Some(most) if self.streams.watching(stream) >= *most => {
                Err(Refusal::Unavailable(format!("{stream:?} has {most} viewers, as many as it may (`max_viewers`)")))
            }
            _ => Ok(()),
        }
    }

    /// Is there room, or somebody who makes way?
    fn has_room(&self) -> Result<(), Refusal> {
        match self.is_full() && self.sessions.half_open() == 0 {
            true => Err(self.full()),
            false => Ok(()),
        }
    }

    fn is_full(&self) -> bool {
        self.sessions.len() >= self.config.max_sessions
    }

    fn full(&self) -> Refusal {
        Refusal::Unavailable(format!("the server has {} sessions, as many as it may", self.config.max_sessions))
    }

    /// Sessions that may be half-open at a time: as many again are left for those who are connected.
    pub(super) fn half_open_pool(&self) -> usize {
        (self.config.max_sessions / 2).max(LEAST_POOL)
    }

    /// Lets somebody make way who is not connected, where there is no room without.
    fn make_room(&mut self, from: Block, now: Instant) -> Result<(), Refusal> {
        let full = self.is_full();
        if !full && self.sessions.half_open() < self.half_open_pool() {
            return Ok(());
        }
        match self.sessions.least_deserving(from, now) {
            Some(key) => {
                self.counters.half_open_replaced += 1;
                self.close(key, "it was not connected, and others waited for its place");
                Ok(())
            }
            None if full => Err(self.full()),
            None => Err(Refusal::Unavailable("too many sessions from your address are being opened".into())),
        }
    }

    pub(super) fn answer(
        &mut self,
        role: Role,
        stream: String,
        visitor: Visitor,
        offer: Result<Box<Offer>, String>,
        reply: Reply,
        now: Instant,
    ) {
        let from = visitor.from;
        let answer = offer.map_err(Refusal::Malformed).and_then(|offer| self.offer(role, stream, visitor, &offer, now));
        if let Err(refusal) = &answer {
            self.refused(role, from, refusal);
        }
        let abandoned = reply.send(answer);
        // Nobody will ever connect to a session that nobody was told of.
        if let Err(Ok(answer)) = abandoned
            && let Some(key) = self.sessions.by_id(&answer.session)
        {
            self.close(key, "nobody waited for the answer");
        }
    }

    fn find(&self, id: &str, role: Role, stream: &str) -> Result<Key, Refusal> {
        let key = self.sessions.find(id, role, stream);
        key.ok_or_else(|| Refusal::NotFound("no such session; it may have ended".into()))
    }

    fn offer(
        &mut self,
        role: Role,
        stream: String,
        visitor: Visitor,
        offer: &Offer,
        now: Instant,
    ) -> Result<Answer, Refusal> {
        let (plans, without) = match role {
            Role::Publisher => {
                let plans = sdp::negotiate_publisher(offer, &self.config.codecs);
                (plans.map_err(Refusal::Unprocessable)?, None)
            }
            Role::Subscriber => {
                let sent = self.stream_formats(&stream)?;
                self.takes_viewer(&stream)?;
                let played = sdp::negotiate_viewer(offer, &sent);
                let played = played.map_err(|unplayable| Refusal::NotAcceptable(unplayable.to_string()))?;
                (played.plans, played.without)
            }
        };
        if role == Role::Publisher {
            self.in_the_way(&stream, now)?;
        }
        self.make_room(visitor.from, now)?;
        self.open((role, stream, visitor), offer, (&plans, without), now)
    }

    /// What the stream's publisher sends, or will: a viewer may come while it connects.
    pub(super) fn stream_formats(&self, stream: &str) -> Result<Vec<Sent>, Refusal> {
        let mut sent = self.streams.sent(stream, &self.sessions);
        if sent.is_empty() {
            sent = self.sessions.about_to_publish(stream).map_or(&[], Session::publisher_tracks);
        }
        if sent.is_empty() {
            return Err(Refusal::NobodyPublishes(format!("nobody publishes {stream:?} now")));
        }
        Ok(sent.iter().map(PublisherTrack::sent).collect())
    }

    /// Ends a publisher that is no longer there, so that a new one can take its place.
    pub(super) fn make_way(&mut self, stream: &str, now: Instant) -> Result<(), Refusal> {
        let former = self.in_the_way(stream, now)?;
        self.release(stream);
        if let Some(key) = former {
            self.close(key, "it was silent, and a new publisher came");
        }
        Ok(())
    }

    /// A publisher that is no longer there.
    fn in_the_way(&self, stream: &str, now: Instant) -> Result<Option<Key>, Refusal> {
        match self.ingest.sources.get(stream).map(|source| (source.pushed, source.status().state)) {
            None => {}
            Some((false, _)) => {
                return Err(Refusal::Conflict(format!("{stream:?} has a source in the configuration")));
            }
            // Its publisher has gone, though he might come back.
            Some((true, State::Waiting)) => {}
            Some((true, _)) => return Err(Refusal::Conflict(format!("{stream:?} has a publisher already, by RTSP"))),
        }
        let Some(key) = self.streams.publisher(stream) else { return Ok(None) };
        let Some(session) = self.sessions.get(key) else { return Ok(None) };
        let heard = session.peer.consent().unwrap_or(session.created);
        let gone = now.duration_since(heard) > PUBLISHER_SILENT;
        match gone {
            true => Ok(Some(key)),
            false => Err(Refusal::Conflict(format!("{stream:?} has a publisher already"))),
        }
    }

    fn open(
        &mut self,
        (role, stream, visitor): (Role, String, Visitor),
        offer: &Offer,
        (plans, without): (&[Plan], Option<String>),
        now: Instant,
    ) -> Result<Answer, Refusal> {
        if self.sockets.advertised().udp.iter().flatten().next().is_none() {
            return Err(Refusal::Unavailable(NO_ADDRESS.into()));
        }
        let internal = |error: penstock_webrtc::peer::PeerError| Refusal::Malformed(format!("not accepted: {error}"));
        let mut peer = Peer::new(now, (self.config.dtls, self.certificate.clone()), self.sockets.advertised());
        let local = peer.accept(&offer.remote).map_err(internal)?;
        let retransmits = self.config.nack;
        let repairs = self.engine.takes_repairs();
        let (tracks, sources) = tracks(role, offer, plans, (retransmits.then_some(now), repairs));
        let cname = random_hex::<8>();
        let sdp_id = u64::from_be_bytes(random()) >> 2;
        let sources = &sources[..];
        let answer = sdp::Answer { offer, plans, local: &local, sources, retransmits, repairs, cname: &cname, sdp_id };
        let sdp = answer.to_text();
        let (name, id) = self.sessions.new_id();
        let etag = random_hex::<8>();
        self.tell_half_open(visitor.from, "opened", |kept_back| {
            let (by, tracks) = (&visitor.grant.by, describe(&tracks));
            tracing::info!(session = name, stream, ?role, %by, %tracks, kept_back, "session opened");
        });
        if role == Role::Publisher {
            tell_layers(&name, offer, plans);
        }
        self.counters.viewers_without_a_kind += u64::from(without.is_some());
        without.iter().for_each(|without| tracing::warn!(session = name, stream, "the viewer gets {without}"));
        let opened = What::SessionOpened { session: name.clone(), role, by: visitor.grant.by.to_string() };
        self.notices.tell(&stream, opened);
        let session = Session {
            id: id.clone(),
            name,
            role,
            stream: stream.clone(),
            from: visitor.from,
            grant: visitor.grant,
            peer,
            etag: etag.clone(),
            ufrag: local.ufrag,
            pairs: vec![],
            ssrcs: vec![],
            request: None,
            created: now,
            stood_still: Duration::ZERO,
            peer_deadline: now,
            armed: None,
            tracks,
            silence: Silence::default(),
            media: None,
            cname,
            without: without.clone(),
        };
        let key = self.sessions.add(session);
        // A publisher's name is taken when DTLS is done.
        if role == Role::Subscriber {
            self.streams.join(&stream, role, key);
        }
        self.update_demand(&stream);
        self.counters.sessions_opened += 1;
        self.flush(key, now);
        Ok(Answer { session: id, sdp, etag, note: without })
    }

    /// RFC 9725 §4.3: candidates need no tag here, since we use none of them; a restart names the
    /// ICE session that it replaces, or `*`.
    fn patch(
        &mut self,
        key: Key,
        if_match: Option<&str>,
        fragment: Result<Fragment, String>,
        now: Instant,
    ) -> Result<Patched, Refusal> {
        let fragment = fragment.map_err(Refusal::Malformed)?;
        let session = self.sessions.get_mut(key).ok_or_else(|| Refusal::NotFound("no such session".into()))?;
        if if_match.is_some_and(|tag| tag != "*" && tag != session.etag) {
            return Err(Refusal::PreconditionFailed("If-Match names another ICE session than the current one".into()));
        }
        let new = fragment.credentials.filter(|(ufrag, _)| Some(ufrag.as_str()) != session.peer.remote_ufrag());
        let Some((ufrag, pwd)) = new else { return Ok(Patched::Trickled) };
        if if_match.is_none() {
            return Err(Refusal::PreconditionRequired("an ICE restart needs If-Match".into()));
        }
        let local = match session.peer.restart(ufrag, pwd) {
            Ok(local) => local,
            Err(error) => return Err(Refusal::Malformed(format!("ICE restart not accepted: {error}"))),
        };
        session.etag = random_hex::<8>();
        let etag = session.etag.clone();
        let (name, from) = (session.name.clone(), session.from);
        if let Some(kept_back) = self.refusals.take(now, "restarted", from) {
            tracing::info!(session = name, kept_back, "ICE restarted");
        }
        self.sessions.rename(key, local.ufrag.clone());
        self.flush(key, now);
        Ok(Patched::Restarted { fragment: local.to_fragment(), etag })
    }
}

/// `retransmits`: what is lost is sent again from now on; `repairs`: by publishers on SSRCs of their own.
fn tracks(
    role: Role,
    offer: &Offer,
    plans: &[Plan],
    (retransmits, repairs): (Option<Instant>, bool),
) -> (Tracks, Vec<OutgoingSource>) {
    let sections = offer.sections.iter().zip(plans).enumerate();
    let active = sections.filter_map(|(place, (section, plan))| match plan {
        Plan::Active(format) => {
            let others = sdp::others(section, format, role == Role::Subscriber);
            Some((place, format.clone(), others.into_iter().cloned().collect::<Vec<Format>>()))
        }
        Plan::Inactive(_) | Plan::Rejected => None,
    });
    match role {
        Role::Publisher => {
            let tracks = active.flat_map(|(section, format, others)| {
                let of = offer.sections.get(section);
                let rtx = sdp::publisher_rtx(&format).filter(|_| repairs && retransmits.is_some());
                let rtx = rtx.map(|payload_type| {
                    let extension = of.and_then(|of| of.extensions.of(sdp::Extension::RepairedLayer));
                    Rtx { payload_type, extension }
                });
                let track = |layer| PublisherTrack {
                    nack: retransmits.is_some() && sdp::asks_again(&format),
                    format: format.clone(),
                    others: others.clone(),
                    source: None,
                    keyframes: Keyframes::default(),
                    any_profile: false,
                    rtx,
                    sequence: of.and_then(|of| sdp::transport_sequence(of, &format)),
                    layer,
                };
                let layers = layers(offer, section);
                if layers.is_empty() { vec![track(None)] } else { layers.into_iter().map(Some).map(track).collect() }
            });
            (Tracks::Publisher(tracks.collect()), vec![])
        }
        Role::Subscriber => {
            // Of just the size that is needed, as they are kept.
            let (mut tracks, mut sources) = (Vec::with_capacity(active.clone().count()), vec![]);
            for (section, format, others) in active {
                // One key seals all of a viewer's tracks: under one SSRC nonces would repeat (RFC 3711 §9.1).
                let ssrc = unlike(random_ssrc, &sources);
                sources.push(OutgoingSource { section, ssrc, rtx: None });
                let retransmits = retransmits.filter(|_| sdp::asks_again(&format));
                let rtx = format.rtx.filter(|_| retransmits.is_some()).map(|payload_type| {
                    let ssrc = unlike(random_ssrc, &sources);
                    RtxSource::new(ssrc, payload_type, first_index())
                });
                if let (Some(source), Some(rtx)) = (sources.last_mut(), &rtx) {
                    source.rtx = Some(rtx.ssrc());
                }
                let resend = retransmits.map(|now| Resend::new(now, rtx));
                tracks.push(ViewerTrack {
                    format,
                    others,
                    ssrc,
                    next_out: first_index(),
                    attachment: Attachment::Idle,
                    fed_by: None,
                    index_offset: None,
                    timestamp_offset: 0,
                    left_at: None,
                    sent_before: (0, 0),
                    report: ViewerReport::default(),
                    resend,
                });
            }
            (Tracks::Viewer(tracks), sources)
        }
    }
}

/// The layers in which a section's picture comes, the likeliest to be the largest first; none: it comes in one.
fn layers(offer: &Offer, section: usize) -> Vec<Layer> {
    let Some((names, extension)) = offer.sections.get(section).and_then(sdp::layers) else { return vec![] };
    let layer = |name: &str| Layer { name: name.into(), extension, size: None, unseen: None, is_forwarded: false };
    names.into_iter().map(layer).collect()
}

/// Says that a picture comes in several layers.
fn tell_layers(session: &str, offer: &Offer, plans: &[Plan]) {
    for (section, _) in offer.sections.iter().zip(plans).filter(|(_, plan)| matches!(plan, Plan::Active(_))) {
        let offered = section.layers.names.join(", ");
        match sdp::layers(section) {
            Some(_) => {
                tracing::info!(session, "of the simulcast layers {offered} viewers get the largest that is sent")
            }
            None if section.layers.names.len() > 1 => {
                tracing::warn!(session, "simulcast layers {offered}, and no header extension to tell them apart");
            }
            None => {}
        }
    }
}

/// RFC 3711 §3.3.1: the receiver takes the first packet's ROC to be 0, so the first index must not be just before the
/// wrap.
fn first_index() -> ExtendedSeq {
    ExtendedSeq(u64::from(u16::from_be_bytes(random()) & 0x7fff))
}

/// An SSRC that the session does not use yet: under one key, two sources with one SSRC would share their nonces.
fn unlike(mut draw: impl FnMut() -> u32, sources: &[OutgoingSource]) -> u32 {
    loop {
        let ssrc = draw();
        if sources.iter().all(|source| source.ssrc != ssrc && source.rtx != Some(ssrc)) {
            return ssrc;
        }
    }
}

fn describe(tracks: &Tracks) -> String {
    let mut formats: Vec<String> = match tracks {
        Tracks::Publisher(tracks) => tracks.iter().map(|track| track.format.to_string()).collect(),
        Tracks::Viewer(tracks) => tracks.iter().map(|track| track.format.to_string()).collect(),
    };
    // Layers of one picture.
    formats.dedup();
    formats.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_webrtc::sdp::Offer;

    #[test]
    fn a_viewers_ssrcs_are_drawn_until_they_differ() {
        let offer = Offer::parse(include_str!("../../../webrtc/src/sdp/fixtures/chromium_publish.sdp")).unwrap();
        let plans = sdp::negotiate_publisher(&offer, &[]).unwrap();
        let (_, mut sources) = tracks(Role::Subscriber, &offer, &plans, (None, false));
        assert_ne!(sources[0].ssrc, sources[1].ssrc);
        sources[1].rtx = Some(77);
        let mut drawn = [sources[0].ssrc, sources[1].ssrc, 77, sources[0].ssrc, 5].into_iter();
        assert_eq!(unlike(|| drawn.next().unwrap(), &sources), 5);
    }
}
