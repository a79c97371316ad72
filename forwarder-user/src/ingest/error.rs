//! Why a source has no media, by name.

use std::{io, net::SocketAddr, path::PathBuf};

use penstock_rtp::description::DescriptionError;

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
    Garbage(&'static str),
    #[error("the other end closed the connection")]
    Closed,
    #[error("no answer to {0} in time")]
    Timeout(&'static str),
    #[error("no media for {seconds} s{}", why.map(|why| format!(", what came was dropped: {why}")).unwrap_or_default())]
    Stalled { seconds: u64, why: Option<&'static str> },
    #[error("the publisher ended its session")]
    Ended,
    #[error("the publisher's right to be here has ended")]
    RightEnded,
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
            Self::NotFound => "not_found",
            Self::SessionNotFound => "session_not_found",
            Self::Transport => "transport",
            Self::Refused { .. } => "refused",
            Self::MalformedSdp(_) => "malformed_sdp",
            Self::NoMedia(_) => "no_media",
            Self::Garbage(_) => "garbage",
            Self::Closed => "closed",
            Self::Timeout(_) => "timeout",
            Self::Stalled { .. } => "stalled",
            Self::Ended => "ended",
            Self::RightEnded => "right_ended",
            Self::WrongPassword => "wrong_password",
            Self::SdpFile { .. } => "sdp_file",
            Self::Port { .. } => "port",
            Self::Interface { .. } => "interface",
            Self::Io(_) => "io",
            Self::Engine(_) => "engine",
        }
    }
}
