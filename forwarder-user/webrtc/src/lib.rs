//! One WHIP or WHEP session: SDP, ICE, DTLS, and the cryptography that is not the engine's.
//!
//! Everything here is sans-IO: time and datagrams come in as arguments, datagrams and events come
//! out. `stream` owns the sockets, the clock and the calls to the engine.

mod client_hello;
pub mod dtls;
pub mod estimate;
pub mod gaps;
pub mod keys;
mod openssl;
pub mod peer;
pub mod rtcp;
pub mod sdp;
