//! Test hosts in network namespaces, and WebRTC peers, for the tests and the demo.

pub mod bench;
pub mod bpf;
pub mod browser;
pub mod camera;
pub mod cameras;
pub mod clip;
pub mod container;
pub mod demo;
pub mod engine;
pub mod frame;
pub mod guest;
pub mod keystream;
pub mod names;
pub mod netns;
pub mod peer;
pub mod place;
pub mod python;
pub mod received;
pub mod script;
pub mod server;
pub mod srtp;
pub mod stage;
pub mod whip;
pub mod wire;
