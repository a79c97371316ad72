//! What the control task counts, by name.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {
        /// Counters of the control task. The names are stable: API and metrics show them.
        #[derive(Debug, Default)]
        pub(super) struct Counters { $($(#[doc = $doc])+ pub(super) $name: u64,)+ }

        impl Counters {
            /// All by name.
            pub(super) fn to_json(&self) -> serde_json::Value {
                let all = [$((stringify!($name).to_owned(), serde_json::Value::from(self.$name))),+];
                serde_json::Value::Object(all.into_iter().collect())
            }
        }
    };
}

counters! {
    /// Offers answered.
    sessions_opened;
    /// Sessions that got their keys into the engine.
    sessions_connected;
    /// Sessions gone, for whatever reason.
    sessions_closed;
    /// Sessions that ended because their right to be here did.
    sessions_right_ended;
    /// Sessions that somebody else than their client ended.
    sessions_kicked;
    /// Sessions that had no keys in time.
    sessions_timed_out;
    /// Sessions that were not connected and made way for others.
    half_open_replaced;
    /// Sessions that ended because their peer sent no ICE checks.
    sessions_disconnected;
    /// Times that the whole process stood still (SIGSTOP, a frozen cgroup, a migration).
    standstills;
    /// Sessions that ended by an error in ICE or DTLS.
    sessions_failed;
    /// Peers that can do no SRTP profile that the engine can.
    refused_srtp_profile;
    /// Offers refused by what they contain.
    refused_offers;
    /// Players by RTSP that were let in.
    players;
    /// Players by RTSP that were told that there is nothing to play.
    refused_players;
    /// Viewers that cannot decode one kind of what their stream has, and have the other.
    viewers_without_a_kind;
    /// Times that a publisher sent in another of the formats of its offer than before, or than was chosen.
    codecs_learnt;
    /// Sessions or tracks that the engine refused.
    refused_by_engine;

    /// Datagrams that came to the media sockets.
    datagrams_received;
    /// Datagrams that were dropped because the control task was too slow to take them.
    datagrams_overrun;
    /// Datagrams sent.
    datagrams_sent;
    /// Datagrams that the system did not take.
    datagrams_not_sent;
    /// Datagrams of no protocol that we know (RFC 7983), or empty.
    other_protocol;
    /// Connections by TCP that were closed at once: there are as many as there may be, of one address or of all.
    tcp_refused;
    /// Connections by TCP of whom nothing of use was heard in time, or who made way for others.
    tcp_expired;
    /// Connections by TCP that said something else than an ICE check of a session's peer.
    tcp_unwanted;
    /// Connections by TCP of peers whose bytes cannot be frames.
    tcp_malformed;
    /// STUN that cannot be parsed or is no binding request.
    stun_malformed;
    /// STUN for a username that no session has.
    stun_unknown_username;
    /// STUN whose integrity does not fit the session's password.
    stun_bad_integrity;
    /// STUN checks from an address at which another session's peer is.
    stun_pair_in_use;
    /// STUN answers that no session waits for.
    stun_unknown_answer;
    /// DTLS, RTCP or RTP from an address that no session has.
    unknown_peer;
    /// Authentic SRTP and SRTCP from addresses that no session has: of peers that have moved.
    strays_authentic;
    /// SRTCP before the session has keys.
    rtcp_without_keys;
    /// SRTCP with a wrong tag, or too short.
    rtcp_auth_failed;
    /// SRTCP already seen.
    rtcp_replayed;
    /// Packets of authenticated RTCP that contradict their own lengths; the others of their compound are heard.
    rtcp_malformed;
    /// RTP before the session has keys, or of a viewer.
    rtp_unexpected;
    /// RTP of an SSRC that the engine has, which came up to us nevertheless.
    rtp_known_ssrc;
    /// Times that a publisher's track moved to the userspace engine, since its packets came by ways that XDP does not
    /// see.
    tracks_diverted;
    /// Times that such a track went back, since XDP saw all of it again.
    tracks_back;
    /// Times that a viewer's track moved to the userspace engine, since copies of the kernel engine did not reach it.
    viewer_tracks_moved;
    /// Times that such a track went back.
    viewer_tracks_back;
    /// Publishers of which nothing arrived for 5 s although they were connected.
    silent_publishers;
    /// Viewers that got nothing although they were connected and their publisher sent.
    silent_viewers;
    /// RTP with a payload type that was not negotiated.
    rtp_other_payload_type;
    /// RTP of a picture in several layers that does not say of which.
    rtp_unknown_layer;
    /// Times that another layer of a picture went to the viewers than before.
    layers_changed;
    /// RTP with a wrong tag, or malformed.
    rtp_auth_failed;
    /// RTP of unknown SSRCs beyond what a session may have checked in a second.
    rtp_rate_limited;
    /// Times that a publisher had sent more than `limits.publisher_max_kbps` allows, and was not passed on for a while.
    publishers_muted;
    /// Packets of publishers that came in such a while.
    publisher_too_fast;
    /// Tracks whose packets led nowhere, and lead to them again.
    flows_restored;
    /// SSRCs learnt.
    ssrcs_learnt;
    /// Keyframe requests sent to publishers.
    keyframe_requests_sent;
    /// Keyframe requests that viewers sent.
    keyframe_requests_received;
    /// Keyframe requests for streams whose source cannot be asked.
    keyframe_requests_to_sources;
    /// Packets sent again to viewers that asked (NACK).
    retransmissions;
    /// Packets that viewers asked for and that are not kept (any more).
    retransmissions_not_kept;
    /// Packets that viewers asked for again within a round trip.
    retransmissions_too_soon;
    /// Packets that viewers asked for beyond what one may have again, or ask for, in a second.
    retransmissions_rate_limited;
    /// Packets that viewers asked for and that the publisher has been asked for itself.
    retransmissions_awaited;
    /// Packets that publishers were asked for (NACK), those asked for twice included.
    packets_asked_for;
    /// SSRCs of repairs that the engine did not take: for want of room, as a rule.
    repairs_not_taken;
    /// Packets that came after publishers had been asked for them.
    packets_repaired;
    /// Packets of publishers that did not come in spite of it, or for which it was too late.
    packets_given_up;
    /// Reports to publishers on which packets of their transport came, and when.
    transport_feedback_sent;
    /// Packets of publishers that were told to have come by such reports.
    packets_told_received;
    /// And those told to be missing; some come after all, and are told again.
    packets_told_missing;
    /// Packets that viewers asked for and that were never sent to them.
    retransmissions_never_sent;
    /// Packets that viewers asked for and of which not what had come was kept: nothing was sent.
    retransmissions_damaged;
    /// Keyframes wanted because a packet that a viewer asked for could not be sent again.
    keyframe_requests_unrepaired;
    /// Packets that viewers asked for although that was not offered to them.
    retransmissions_not_offered;
    /// Engine events that fit no track.
    engine_events_unmatched;
}
