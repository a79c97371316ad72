//! The benchmarks: load in, copies out, and what that costs the machine. How the figures are made:
//! `docs/benchmarks.md`.
//!
//! | file | does |
//! | --- | --- |
//! | `scene` | the networks; addresses, ports and keys |
//! | `case`, `contender` | what is measured |
//! | `load` | sends sealed packets at given times |
//! | `program`, `receivers`, `checker` | BPF programs of the benchmark; count copies and time them; open each copy |
//! | `evp` | sealing by OpenSSL, for a contender |
//! | `host`, `server` | the process under test, and the driver's end of it |
//! | `cpu`, `memory`, `programs` | what a run cost |
//! | `peer` | any WHIP and WHEP server |
//! | `cameras` | RTSP cameras, and a whole server that plays them |
//! | `network` | browsers over bad lines |
//! | `join` | many viewers at once |
//! | `run`, `search`, `report`, `picture` | one run; the highest rate; medians, JSON and tables; a picture |
//! | `pairs` | two builds in turn, and how sure their ratio is |

pub mod cameras;
pub mod case;
pub mod checker;
pub mod contender;
pub mod cpu;
mod evp;
pub mod host;
pub mod join;
pub mod load;
pub mod memory;
pub mod network;
pub mod pairs;
pub mod peer;
pub mod picture;
pub mod program;
pub mod programs;
pub mod receivers;
pub mod report;
pub mod run;
pub mod scene;
pub mod search;
pub mod server;
