//! One WHIP or WHEP session: SDP, ICE, DTLS, and the cryptography that is not the engine's.
//!
//! Everything here is sans-IO: time and datagrams come in as arguments, datagrams and events come
//! out. `stream` owns the sockets, the clock and the calls to the engine.

#[cfg(test)]
mod allocations;
pub mod arrivals;
pub mod dtls;
pub mod estimate;
pub mod gaps;
mod handshake;
pub mod ice;
pub mod keys;
pub mod layers;
mod openssl;
pub mod peer;
pub mod rtcp;
mod rust_dtls;
pub mod sdp;
mod tail;
