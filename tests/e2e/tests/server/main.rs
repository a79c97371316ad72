//! End to end: the real server, real peers, real packets, in network namespaces. Needs root.
//!
//! Waits are for conditions, bounded generously; no test depends on how fast the machine is. Where
//! loss is asserted to be zero, no ring on the way can overflow: packets come one at a time.

mod cameras;
mod cameras_cache;
mod cameras_field;
mod cameras_nack;
mod cameras_odd;
mod cameras_push;
mod cameras_rtp;
mod cameras_sound;
mod cameras_srtp;
mod conformance;
mod engines;
mod fanout;
mod ice;
mod inspect;
mod lifecycle;
mod media;
mod metrics;
mod operators;
mod probe;
mod publisher;
mod recipes;
mod refusal;
mod reload;
mod rights;
mod rtcp;
mod rtsp_play;
mod verify;
