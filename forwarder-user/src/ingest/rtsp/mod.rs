//! RTSP: `dial` opens a connection, `connection` cuts its bytes into messages and frames, `client` is the
//! conversation, `udp` the ports of tracks that come beside it.

pub mod client;
pub mod connection;
mod dial;
mod udp;
