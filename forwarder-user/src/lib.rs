//! Penstock: a WebRTC media forwarder whose datapath runs in XDP.
//!
//! Dependencies point one way: `http` → `stream` → `session` → `engine`, and `stream` → `ingest` → `engine`.

mod acme;
pub mod build_info;
pub mod cli;
pub mod config;
pub mod doctor;
mod hooks;
pub mod http;
pub mod ingest;
pub mod inspect;
mod lines;
mod log_queue;
mod memory;
mod outbound;
pub mod rights;
pub mod stream;
mod tls;
pub mod verify;
