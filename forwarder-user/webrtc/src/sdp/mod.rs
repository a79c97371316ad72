//! Offers, answers and ICE fragments as text (RFC 8866, RFC 8829, RFC 8840).
//!
//! Of a foreign offer only validated tokens go on to str0m; everything that concerns media is
//! negotiated here, because what we can carry is stricter than what str0m can: one payload type
//! per SSRC at a time, and one of its own for what is sent again (RFC 4588), no header extensions but
//! those that say something to us.

mod answer;
#[cfg(test)]
mod cost_tests;
mod extension;
mod fingerprint;
mod fragment;
mod lines;
mod negotiate;
mod offer;
mod simulcast;
mod steps;
#[cfg(test)]
mod tests;
mod words;

pub use answer::{Answer, LocalDescription, OutgoingSource, asks_again, publisher_rtx, transport_sequence};
pub use extension::{Extension, Numbers};
pub use fingerprint::{Fingerprint, Hash, is_meant};
pub use fragment::Fragment;
pub use negotiate::{Plan, Played, Sent, negotiate_publisher, negotiate_viewer, others, place};
pub use offer::{Offer, RemoteDescription, Section, Setup};
pub use simulcast::{Layers, layers};
pub use words::Unplayable;
