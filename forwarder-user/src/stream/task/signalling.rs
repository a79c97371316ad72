//! Commands of HTTP: offers, ICE fragments, deletion.

use std::time::{Duration, Instant};

use forwarder_common::ExtendedSeq;

use super::Task;
use crate::ingest::State;
use crate::stream::ids::{Key, random, random_hex, random_ssrc};
use crate::stream::keyframe::Keyframes;
use crate::stream::report::ViewerReport;
use crate::stream::resend::Resend;
use crate::stream::session::{Attachment, PublisherTrack, Session, Tracks, ViewerTrack};
use crate::stream::streams::Reply;
use crate::stream::{Answer, Command, Patched, Refusal};
use penstock_engine::{Role, RtxSource};
use penstock_media::codec::Format;
use penstock_webrtc::peer::Peer;
use penstock_webrtc::sdp::{self, Fragment, Offer, OutgoingSource, Plan};

/// A publisher without ICE checks for this long gives way to a new one. Peers check every 2.5 to 6 s.
const PUBLISHER_SILENT: Duration = Duration::from_secs(10);
/// A publisher that is still not connected after this time gives way to a new one.
const PUBLISHER_CONNECTING: Duration = Duration::from_secs(3);

impl Task {
    pub(in crate::stream) fn command(&mut self, command: Command, now: Instant) {
        // Whoever asked may have gone meanwhile; then there is nobody to answer.
        match command {
            Command::Offer { role: Role::Subscriber, stream, sdp, reply } if self.streams.is_undescribed(&stream) => {
                self.wait_for_description(&stream, sdp, reply);
            }
            Command::Offer { role, stream, sdp, reply } => self.answer(role, stream, &sdp, reply, now),
            Command::Patch { session, role, stream, if_match, fragment, reply } => {
                let patched = self
                    .find(&session, role, &stream)
                    .and_then(|key| self.patch(key, if_match.as_deref(), &fragment, now));
                let _ = reply.send(patched);
            }
            Command::Delete { session, role, stream, reply } => {
                let deleted = self.find(&session, role, &stream);
                let _ = reply.send(deleted.map(|key| self.close(key, "deleted by its owner")));
            }
            Command::Snapshot { reply } => {
                let _ = reply.send(self.snapshot(now));
            }
            Command::Configure { live, sources, reply } => {
                self.config.set(live);
                self.set_sources(sources);
                let _ = reply.send(());
            }
            Command::Drain { reply } => {
                let _ = reply.send(());
            }
        }
    }

    pub(super) fn answer(&mut self, role: Role, stream: String, sdp: &str, reply: Reply, now: Instant) {
        let answer = self.offer(role, stream, sdp, now);
        if let Err(refusal) = &answer {
            self.counters.refused_offers += 1;
            tracing::info!(?role, "offer refused: {refusal}");
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

    fn offer(&mut self, role: Role, stream: String, sdp: &str, now: Instant) -> Result<Answer, Refusal> {
        if sdp.len() > self.config.max_sdp {
            return Err(Refusal::Malformed(format!("the offer is larger than {} bytes", self.config.max_sdp)));
        }
        let offer = Offer::parse(sdp).map_err(Refusal::Malformed)?;
        let plans = match role {
            Role::Publisher => sdp::negotiate_publisher(&offer).map_err(Refusal::NotAcceptable)?,
            Role::Subscriber => {
                let formats = self.stream_formats(&stream)?;
                let any_profile = self.streams.has_source(&stream);
                sdp::negotiate_viewer(&offer, &formats, any_profile).map_err(Refusal::NotAcceptable)?
            }
        };
        if role == Role::Publisher {
            self.make_way(&stream, now)?;
        }
        if self.sessions.len() >= self.config.max_sessions {
            let limit = self.config.max_sessions;
            return Err(Refusal::Unavailable(format!("the server has {limit} sessions, as many as it may")));
        }
        self.open(role, stream, &offer, &plans, now)
    }

    /// What the stream's publisher sends.
    fn stream_formats(&self, stream: &str) -> Result<Vec<Format>, Refusal> {
        let sent = self.streams.sent(stream, &self.sessions);
        if sent.is_empty() {
            return Err(Refusal::NotFound(format!("nobody publishes {stream:?} now")));
        }
        Ok(sent.iter().map(|track| track.format.clone()).collect())
    }

    /// Ends a publisher that is no longer there, so that a new one can take its place.
    pub(super) fn make_way(&mut self, stream: &str, now: Instant) -> Result<(), Refusal> {
        match self.ingest.sources.get(stream).map(|source| (source.pushed, source.status().state)) {
            None => {}
            Some((false, _)) => {
                return Err(Refusal::Conflict(format!("{stream:?} has a source in the configuration")));
            }
            // Its publisher has gone, though he might come back.
            Some((true, State::Waiting)) => self.release(stream),
            Some((true, _)) => return Err(Refusal::Conflict(format!("{stream:?} has a publisher already, by RTSP"))),
        }
        let Some(key) = self.streams.publisher(stream) else { return Ok(()) };
        let Some(session) = self.sessions.get(key) else { return Ok(()) };
        let gone = match (session.media.is_some(), session.peer.consent()) {
            (true, Some(consent)) => now.duration_since(consent) > PUBLISHER_SILENT,
            _ => now.duration_since(session.created) > PUBLISHER_CONNECTING,
        };
        if !gone {
            return Err(Refusal::Conflict(format!("{stream:?} has a publisher already")));
        }
        self.close(key, "it was silent, and a new publisher came");
        Ok(())
    }

    fn open(
        &mut self,
        role: Role,
        stream: String,
        offer: &Offer,
        plans: &[Plan],
        now: Instant,
    ) -> Result<Answer, Refusal> {
        let internal = |error: penstock_webrtc::peer::PeerError| Refusal::Malformed(format!("not accepted: {error}"));
        let mut peer = Peer::new(now, self.certificate.clone(), self.sockets.advertised()).map_err(internal)?;
        let local = peer.accept(&offer.remote).map_err(internal)?;
        let retransmits = self.config.nack;
        let (tracks, sources) = tracks(role, plans, retransmits.then_some(now));
        let cname = random_hex::<8>();
        let sdp_id = u64::from_be_bytes(random()) >> 2;
        let answer = sdp::Answer { offer, plans, local: &local, sources: &sources, retransmits, cname: &cname, sdp_id };
        let sdp = answer.to_text();
        let (name, id) = self.sessions.new_id();
        let etag = random_hex::<8>();
        tracing::info!(session = name, stream, ?role, tracks = %describe(&tracks), "session opened");
        if role == Role::Publisher {
            tell_layers(&name, offer, plans);
        }
        let session = Session {
            id: id.clone(),
            name,
            role,
            stream: stream.clone(),
            peer,
            etag: etag.clone(),
            ufrag: local.ufrag,
            pairs: vec![],
            created: now,
            peer_deadline: now,
            armed: None,
            tracks,
            media: None,
            cname,
        };
        let key = self.sessions.add(session);
        self.streams.join(&stream, role, key);
        self.update_demand(&stream);
        self.counters.sessions_opened += 1;
        self.flush(key, now);
        Ok(Answer { session: id, sdp, etag })
    }

    /// RFC 9725 §4.3: candidates need no tag here, since we use none of them; a restart names the
    /// ICE session that it replaces, or `*`.
    fn patch(&mut self, key: Key, if_match: Option<&str>, text: &str, now: Instant) -> Result<Patched, Refusal> {
        if text.len() > self.config.max_sdp {
            return Err(Refusal::Malformed(format!("the fragment is larger than {} bytes", self.config.max_sdp)));
        }
        let fragment = Fragment::parse(text).map_err(Refusal::Malformed)?;
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
        tracing::info!(session = session.name, "ICE restarted");
        self.sessions.rename(key, local.ufrag.clone());
        self.flush(key, now);
        Ok(Patched::Restarted { fragment: local.to_fragment(), etag })
    }
}

/// `retransmits`: what is lost is sent again from now on.
fn tracks(role: Role, plans: &[Plan], retransmits: Option<Instant>) -> (Tracks, Vec<OutgoingSource>) {
    let active = plans.iter().enumerate().filter_map(|(section, plan)| match plan {
        Plan::Active(format) => Some((section, format.clone())),
        Plan::Inactive(_) | Plan::Rejected => None,
    });
    match role {
        Role::Publisher => {
            let track = |(_, format)| PublisherTrack {
                nack: retransmits.is_some() && sdp::asks_again(&format),
                format,
                source: None,
                keyframes: Keyframes::default(),
                any_profile: false,
            };
            (Tracks::Publisher(active.map(track).collect()), vec![])
        }
        Role::Subscriber => {
            // Of just the size that is needed, as they are kept.
            let (mut tracks, mut sources) = (Vec::with_capacity(active.clone().count()), vec![]);
            for (section, format) in active {
                let ssrc = unlike(&sources);
                sources.push(OutgoingSource { section, ssrc, rtx: None });
                let retransmits = retransmits.filter(|_| sdp::asks_again(&format));
                let rtx = format.rtx.filter(|_| retransmits.is_some()).map(|payload_type| {
                    let ssrc = unlike(&sources);
                    RtxSource::new(ssrc, payload_type, first_index())
                });
                if let (Some(source), Some(rtx)) = (sources.last_mut(), &rtx) {
                    source.rtx = Some(rtx.ssrc());
                }
                let resend = retransmits.map(|now| Resend::new(now, rtx));
                tracks.push(ViewerTrack {
                    format,
                    ssrc,
                    next_out: first_index(),
                    attachment: Attachment::Idle,
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

/// Says which layer of a picture that comes in several was asked for.
fn tell_layers(session: &str, offer: &Offer, plans: &[Plan]) {
    for (section, _) in offer.sections.iter().zip(plans).filter(|(_, plan)| matches!(plan, Plan::Active(_))) {
        let offered = section.layers.names.join(", ");
        match sdp::layer(section) {
            Some((layer, _)) => tracing::info!(session, layer, "of the simulcast layers {offered} one is taken"),
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
fn unlike(sources: &[OutgoingSource]) -> u32 {
    loop {
        let ssrc = random_ssrc();
        if sources.iter().all(|source| source.ssrc != ssrc && source.rtx != Some(ssrc)) {
            return ssrc;
        }
    }
}

fn describe(tracks: &Tracks) -> String {
    let formats: Vec<String> = match tracks {
        Tracks::Publisher(tracks) => tracks.iter().map(|track| track.format.to_string()).collect(),
        Tracks::Viewer(tracks) => tracks.iter().map(|track| track.format.to_string()).collect(),
    };
    formats.join(", ")
}
