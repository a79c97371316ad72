//! Test hosts in network namespaces, and WebRTC peers, for the tests and the demo.

pub mod aiortc;
pub mod browser;
pub mod netns;
