//! What all tests use: test hosts in network namespaces, `penstock serve` in one of them, WebRTC peers, cameras,
//! browsers and peers of other makes. Nothing here knows the server's code, only its binary.

pub mod authority;
pub mod browser;
pub mod camera;
pub mod clip;
pub mod container;
pub mod forwarder;
pub mod frame;
pub mod labelled;
pub mod line;
pub mod names;
pub mod netns;
pub mod peer;
pub mod place;
pub mod python;
pub mod received;
pub mod server;
pub mod site;
pub mod srtp;
pub mod stage;
pub mod whip;
