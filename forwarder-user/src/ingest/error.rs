//! Why a source has no media, by name.

use std::{io, net::SocketAddr, path::PathBuf};

use penstock_rtp::{description::DescriptionError, rtsp::reader::ReadError};

use super::rtsp::redirect::Destination;

/// Why a source failed. Never holds a credential.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("the name {host} cannot be resolved: {error}")]
    Dns { host: String, error: io::Error },
    #[error("{host} cannot be reached: {error}")]
    Unreachable { host: String, error: io::Error },
    #[error("no TLS with {host}: {reason}")]
    Tls { host: String, reason: String },
    #[error("the camera refuses this user and password (401)")]
    Unauthorized,
    #[error("the camera asks for a user and password (401), and `source` has none")]
    CredentialsMissing,
    #[error(
        "the camera asks for a password (401), and in no way that is understood: Basic or Digest with MD5 or SHA-256"
    )]
    UnknownChallenge,
    /// Not a failure: somebody goes there.
    #[error("the camera sends us on too often")]
    Moved(Box<Destination>),
    #[error("the camera sends us elsewhere, and we do not go: {0}")]
    Redirect(String),
    #[error("the camera has nothing at this path (404)")]
    NotFound,
    #[error("the camera has forgotten the session (454)")]
    SessionNotFound,
    #[error("the camera takes neither this transport nor another that is allowed (461)")]
    Transport,
    #[error("the camera refuses {method}: {status} {reason}")]
    Refused { method: &'static str, status: u16, reason: String },
    #[error("the description is malformed: {0}")]
    MalformedSdp(String),
    #[error("there is no media that browsers play: {0}")]
    NoMedia(String),
    #[error("what came is not RTSP: {0}")]
    Unreadable(#[from] ReadError),
    #[error("the stream has no URL")]
    NoUrl,
    #[error("the other end closed the connection")]
    Closed,
    #[error("no answer to {0} in time")]
    Timeout(&'static str),
    #[error("no media for {seconds} s{}", why.map(|why| format!(", what came was dropped: {why}")).unwrap_or_default())]
    Stalled { seconds: u64, why: Option<&'static str> },
    #[error("the publisher ended its session")]
    Ended,
    #[error("the publisher knows no password that is right")]
    WrongPassword,
    #[error("{} cannot be read: {error}", path.display())]
    SdpFile { path: PathBuf, error: io::Error },
    #[error("nothing can be received on {address}: {error}")]
    Port { address: SocketAddr, error: io::Error },
    #[error("there is no interface {interface:?}: {error}")]
    Interface { interface: String, error: io::Error },
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Engine(#[from] penstock_engine::EngineError),
}

impl From<DescriptionError> for SourceError {
    fn from(error: DescriptionError) -> Self {
        match error {
            DescriptionError::Malformed(why) => Self::MalformedSdp(why),
            DescriptionError::NoMedia(why) => Self::NoMedia(why),
        }
    }
}

impl SourceError {
    /// Short name, for the API.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns",
            Self::Unreachable { .. } => "unreachable",
            Self::Tls { .. } => "tls",
            Self::Unauthorized => "unauthorized",
            Self::CredentialsMissing => "credentials_missing",
            Self::UnknownChallenge => "unknown_challenge",
            Self::Moved(_) | Self::Redirect(_) => "redirect",
            Self::NotFound => "not_found",
            Self::SessionNotFound => "session_not_found",
            Self::Transport => "transport",
            Self::Refused { .. } => "refused",
            Self::MalformedSdp(_) => "malformed_sdp",
            Self::NoMedia(_) => "no_media",
            Self::Unreadable(_) => "garbage",
            Self::NoUrl => "no_url",
            Self::Closed => "closed",
            Self::Timeout(_) => "timeout",
            Self::Stalled { .. } => "stalled",
            Self::Ended => "ended",
            Self::WrongPassword => "wrong_password",
            Self::SdpFile { .. } => "sdp_file",
            Self::Port { .. } => "port",
            Self::Interface { .. } => "interface",
            Self::Io(_) => "io",
            Self::Engine(_) => "engine",
        }
    }

    /// An answer that refuses what was asked, and says nothing against asking for something else.
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::NotFound
                | Self::SessionNotFound
                | Self::Transport
                | Self::Refused { .. }
                | Self::MalformedSdp(_)
                | Self::NoMedia(_)
        )
    }

    /// What to change, where it does not mend itself.
    pub(super) const fn advice(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "check the name in `source`, and this machine's resolver; or write the address",
            Self::Unreachable { .. } => "check that the camera is on, its address and port, and the firewall between",
            Self::Tls { .. } => {
                "set `fingerprint` to the SHA-256 of the camera's own certificate, or use rtsp:// if it has no TLS"
            }
            Self::Unauthorized => "check user and password in `source`; some cameras have users of their own for RTSP",
            Self::CredentialsMissing => "write user and password into `source`: rtsp://USER:PASSWORD@HOST/…",
            Self::UnknownChallenge => "choose Basic or Digest for RTSP in the camera's settings",
            Self::Moved(_) | Self::Redirect(_) => "set `source` to the address where the stream is",
            Self::NotFound => "check the path in `source`: the camera's manual or its ONVIF service names it",
            Self::SessionNotFound => "the camera ends its sessions: update its firmware, or restart it",
            Self::Transport => "set `transport` to \"auto\", or to the other one of \"tcp\" and \"udp\"",
            Self::Refused { status: 453 | 503, .. } => "the camera has no room: close its other viewers",
            Self::Refused { .. } => "look into the camera's log and settings, and at how many viewers it takes",
            Self::MalformedSdp(_) => "check that `source` is the address of a stream, with another player",
            Self::NoMedia(_) => "choose H.264 (or H.265), and G.711 or Opus, in the camera's settings",
            Self::Unreadable(ReadError::Http) => "that port is HTTP's: RTSP's is 554 with most cameras",
            Self::Unreadable(_) => "the camera's frames are broken: set `transport` to \"udp\", or update its firmware",
            Self::NoUrl => "give the stream a `source`",
            Self::Closed => "the camera hangs up: look at how many viewers it takes, and restart it",
            Self::Timeout(_) => "the camera does not answer: restart it, and check that the port is that of RTSP",
            Self::Stalled { why: Some(_), .. } => {
                "what comes is of no use: the reason is above; see the camera's settings"
            }
            Self::Stalled { why: None, .. } => {
                "nothing comes: set `transport` to the other one of \"tcp\" and \"udp\", and check the firewall"
            }
            Self::Ended | Self::WrongPassword => "look into the publisher's log",
            Self::SdpFile { .. } => "check `sdp_file` and its rights",
            Self::Port { .. } => "another program has the port: choose another in the description",
            Self::Interface { .. } => "check `interface`",
            Self::Io(_) => "check the network between",
            Self::Engine(_) => "see `limits` in the configuration",
        }
    }
}
