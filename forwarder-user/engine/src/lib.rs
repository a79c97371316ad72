//! What moves media: a contract and those who keep it.
//!
//! | module | does |
//! | --- | --- |
//! | `contract` | what the control plane asks of an engine, and what sources ask beyond that |
//! | `kernel` | keeps it by map entries: XDP opens, fans out and seals |
//! | `userspace` | keeps it by itself |
//! | `auto` | joins both |
//! | `bpf` | loads, attaches, pins and tries BPF, for whoever needs it |
//! | `io`, `transmit` | the media sockets, connections by TCP (`io::tcp`); ways to send |
//! | `block` | the addresses that one stranger has, by which shares are counted |
//! | `tier` | which of its ways a server can go, and what each costs |
//! | `route` | routes and neighbours |
//! | `repair` | what is sent again: how a copy is made, and how much memory there is for it |
//! | `slots`, `clock`, `elsewhere` | handles; the clock of leases; on which CPU to run |

pub mod auto;
pub mod block;
pub mod bpf;
pub mod clock;
mod contract;
mod elsewhere;
pub mod io;
pub mod kernel;
pub mod repair;
pub mod route;
mod slots;
pub mod tier;
pub mod transmit;
pub mod userspace;

pub use contract::*;
pub use penstock_media::{Kind, MediaKey, Profile, Role};
