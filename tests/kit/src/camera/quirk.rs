//! What cameras of the field do otherwise than the RFCs say.

/// One deviation. Players of the field play all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// Answers with line feeds alone (OvenMediaEngine PR 1936).
    LineFeeds,
    /// `RTSP/1.0 200` and nothing else.
    NoReason,
    /// Answers without CSeq (homebridge-foscam#6).
    NoCseq,
    /// Answers with the number of the request before (retina#133).
    WrongCseq,
    /// Header lines without a colon (ireader/media-server#341), with bytes beyond UTF-8, folded ones.
    OddHeaders,
    /// These lines in place of those before the first `m=`.
    SessionLines(&'static [u8]),
    /// This for its `m=video` line's formats, beside the one it sends.
    VideoFormats(&'static str),
    /// The whole description.
    Description(&'static [u8]),
    /// Between frames, seven bytes that are none (gortsplib PR 653).
    StrayBytes,
    /// These `WWW-Authenticate` lines, whose nonce and realm are its own where it is Digest.
    Challenge(&'static [u8]),
    /// Hangs up behind its 401 (retina#45).
    ClosesBehind401,
    /// A loudspeaker (ONVIF backchannel) before its own tracks.
    Backchannel,
    /// This track's SETUP is refused with this status.
    RefusesTrack(usize, u16),
    /// TCP is refused with this status instead of 461.
    RefusesTcp(u16),
    /// SETUP by TCP is granted by UDP, from ports that nobody asked for.
    GrantsUdp,
    /// SETUP's answer has no Transport (gortsplib#456).
    NoTransport,
    /// UDP comes from this address, which `source=` names (RFC 2326 §12.39).
    Source([u8; 4]),
    /// Media comes before the answer to PLAY, and in one segment with it.
    EarlyMedia,
    /// PLAY is never answered.
    SilentPlay,
    /// Signs of life by GET_PARAMETER are refused with this status, and so often in a row the session ends.
    RefusesSigns(u16),
    /// Signs of life need a new nonce each time.
    NewNonces,
    /// DESCRIBE is answered by 302 with this Location.
    Redirects(&'static str),
    /// Tracks are `?ctype=video`.
    QueryControl,
    /// No Content-Base; the control of the whole is absolute and another than what was asked for.
    AbsoluteControl,
    /// DESCRIBE's answer has no Content-Length.
    NoLength,
    /// Asks all sorts of things while it plays, and ends the session if it gets no answer.
    Asks,
    /// Grants other channels than it was asked for (gortsplib#72).
    OtherChannels,
    /// `Session` with blanks, in odd cases, with more behind it.
    OddSession,
    /// RTCP by the channel of RTP.
    RtcpAmongRtp,
    /// Hangs up when it is asked for a parameter.
    HangsUpOnSigns,
}
