//! Sources that are not WebRTC: cameras by RTSP.

pub mod rtp;
