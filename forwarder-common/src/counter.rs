//! Every verdict of the datapath has a name, and every name has a per-CPU counter.
//!
//! `COUNTERS` in the BPF object is a `PERCPU_ARRAY` of `u64` indexed by [`Counter`]. The kernel
//! writes, userspace sums over CPUs. The names are stable: the CLI, the API and the metrics use them.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $kind:ident;)+) => {
        /// One counter of the datapath. The discriminant is the index into `COUNTERS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Counter { $($(#[doc = $doc])+ $variant),+ }

        impl Counter {
            /// All counters in index order.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant),+];

            /// Stable snake_case name, as shown by the CLI and the metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name),+ }
            }

            /// What happened to the packets that this counter counts.
            pub const fn kind(self) -> Kind {
                match self { $(Counter::$variant => Kind::$kind),+ }
            }

            /// One sentence for people.
            pub const fn help(self) -> &'static str {
                match self { $(Counter::$variant => concat!($($doc),+).trim_ascii()),+ }
            }
        }
    };
}

/// The fate of a counted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Handed to the network stack untouched (`XDP_PASS`).
    Pass,
    /// Dropped in the kernel.
    Drop,
    /// Work done: neither a pass nor a drop.
    Work,
}

counters! {
    /// Not IPv4, IPv6 or one 802.1Q tag around them.
    PassNotIp = "pass_not_ip", Pass;
    /// Too short for the headers that it announces.
    PassTruncated = "pass_truncated", Pass;
    /// IP header that lies about its version, length or total length.
    PassMalformedIp = "pass_malformed_ip", Pass;
    /// IPv4 options present.
    PassIpOptions = "pass_ip_options", Pass;
    /// IPv6 extension headers present.
    PassIpv6Extension = "pass_ipv6_extension", Pass;
    /// A fragment, first or later.
    PassFragment = "pass_fragment", Pass;
    /// Not UDP.
    PassNotUdp = "pass_not_udp", Pass;
    /// UDP to a port that is not ours.
    PassOtherPort = "pass_other_port", Pass;
    /// UDP length that contradicts the IP length.
    PassMalformedUdp = "pass_malformed_udp", Pass;
    /// STUN (RFC 7983 first byte 0 to 3).
    PassStun = "pass_stun", Pass;
    /// DTLS (RFC 7983 first byte 20 to 63).
    PassDtls = "pass_dtls", Pass;
    /// RTCP (RFC 5761 payload types 64 to 95).
    PassRtcp = "pass_rtcp", Pass;
    /// First byte of no protocol that we multiplex.
    PassOtherProtocol = "pass_other_protocol", Pass;
    /// RTP whose (5-tuple, SSRC) has no entry: userspace learns the SSRC from it.
    PassUnknownSsrc = "pass_unknown_ssrc", Pass;
    /// RTP of an SSRC that the userspace engine opens, because some of it comes by ways that XDP does not see.
    PassDiverted = "pass_diverted", Pass;

    /// RTP header whose CSRC list or extension does not fit the packet.
    DropMalformedRtp = "drop_malformed_rtp", Drop;
    /// Payload above 1,444 bytes.
    DropOversize = "drop_oversize", Drop;
    /// Payload type that was not negotiated for this SSRC: copies of such packets are empty, so that no sequence number
    /// is missing.
    DropPayloadType = "drop_payload_type", Drop;
    /// Publisher entry whose lease userspace stopped refreshing.
    DropPublisherExpired = "drop_publisher_expired", Drop;
    /// Index already seen (RFC 3711 replay list).
    DropReplayed = "drop_replayed", Drop;
    /// Index before the window or before the first packet.
    DropTooOld = "drop_too_old", Drop;
    /// Authentication tag wrong.
    DropAuthFailed = "drop_auth_failed", Drop;
    /// Opened, but nobody plays the stream.
    DropNoSubscriber = "drop_no_subscriber", Drop;
    /// Map entries of one session contradict each other, or a helper failed on the way in.
    DropInternalIngress = "drop_internal_ingress", Drop;
    /// Copy for a subscriber whose lease userspace stopped refreshing.
    DropSubscriberExpired = "drop_subscriber_expired", Drop;
    /// Copy of a packet older than the subscriber's first one.
    DropBeforeJoin = "drop_before_join", Drop;
    /// Map entries of a copy contradict each other, or a helper failed on the way out.
    DropInternalEgress = "drop_internal_egress", Drop;
    /// Copies that exceed the MTU of their viewer's path: the publisher's packets are too long for it.
    DropTooBigForPath = "drop_too_big_for_path", Drop;
    /// Copies for viewers by TCP whose connection takes no more at the moment, or is gone.
    DropTcpStalled = "drop_tcp_stalled", Drop;
    /// Copies that the egress device did not take (ring full), as far as the kernel reports it.
    DropRingFull = "drop_ring_full", Drop;

    /// Publisher packets authenticated and decrypted.
    Opened = "opened", Work;
    /// Payload bytes in opened packets.
    OpenedBytes = "opened_bytes", Work;
    /// Copies encrypted and handed to the egress device.
    Sealed = "sealed", Work;
    /// Payload bytes in sealed copies.
    SealedBytes = "sealed_bytes", Work;
    /// Publisher packets whose keystream was not there in time, or not enough of it: opened with AES in BPF.
    KeystreamUnderrunOpen = "keystream_underrun_open", Work;
    /// Copies whose keystream was not there in time, or not enough of it: sealed with AES in BPF.
    KeystreamUnderrun = "keystream_underrun", Work;
    /// Publisher packets authenticated by the rows of which their copies' tags are made.
    OpenedByRows = "opened_by_rows", Work;
    /// Copies whose tag was made of their packet's rows. The others had few fellows, no keystream, or came late.
    SealedByRows = "sealed_by_rows", Work;
    /// Packets opened and sealed for their only subscriber in one run, by the short way.
    Direct = "direct", Work;
    /// Plaintext packets handed to the userspace engine, for subscribers that it seals.
    Tapped = "tapped", Work;
    /// Plaintext packets that the userspace engine was too slow to take.
    TapFull = "tap_full", Work;
    /// Packets that are not kept for viewers who lose them, although their track keeps some: too long.
    NotKept = "not_kept", Work;
    /// Publisher packets that came before others of lower index: those were lost, or are late.
    Gaps = "gaps", Work;
    /// Frames to nobody in the place of a device's last copy, which was dropped: they make it send those before.
    Kicks = "kicks", Work;
    /// Copies that the egress device took, as far as the kernel reports it.
    Transmitted = "transmitted", Work;
}

impl Counter {
    /// Number of counters, the size of `COUNTERS`.
    pub const COUNT: usize = Self::ALL.len();
}
