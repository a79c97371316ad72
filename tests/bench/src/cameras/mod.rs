//! Any number of cameras in one cheap process, and what viewers check of them.
//!
//! | file | does |
//! | --- | --- |
//! | `media` | the packets: H.264 in its form, a label and a pattern in its content |
//! | `conversation` | the answers of an RTSP server to one client |
//! | `generator` | connections and time: sends each frame when it is due |
//! | `watch` | looks at what a viewer decrypted |
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
pub mod media;
mod ports;
pub mod report;
pub mod run;
pub mod soak;
pub mod watch;

pub use generator::{Generator, Progress};
pub use watch::Watch;
