//! Any number of cameras in one cheap process, and what it costs a server to forward them. Their packets, and what
//! viewers check of them: `tests_kit::labelled`.
//!
//! | file | does |
//! | --- | --- |
//! | `conversation` | the answers of an RTSP server to one client |
//! | `generator` | connections and time: sends each frame when it is due |
//! | `ports` | counts what came to all viewers, in BPF |
//! | `feed` | the load as a field needs it: cameras in a process, or publishers by WHIP |
//! | `field` | load, server and viewers, and what each costs |
//! | `run`, `report` | one measured run; tables, JSON and targets |
//! | `soak` | the users' checklist, for minutes |
//!
//! A camera is named by its path: `/cam0`, `/cam1`, … They send 1 Mbit/s by RTP, in the
//! RTSP connection or by UDP.

mod conversation;
mod feed;
pub mod field;
mod generator;
mod ports;
pub mod report;
pub mod run;
pub mod soak;

pub use generator::{Generator, Progress};
