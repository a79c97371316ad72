//! Routes and neighbours: by which device and with which headers a frame reaches a peer.
//!
//! | file | does |
//! | --- | --- |
//! | `path` | one look: the kernel's route and neighbour as a [`Path`] |
//! | `watch` | thread: looks again whenever a neighbour is unknown, a session is refreshed, or something has changed |
//! | `monitor` | thread: what changes, as the kernel tells it |
//! | `netlink`, `features`, `conntrack` | the questions to the kernel |
//! | `link` | what it says of interfaces |
//! | `nftables` | rules of this host that media in XDP goes past, for `penstock doctor` |
//!
//! [`Path`]: forwarder_common::maps::Path

mod conntrack;
mod features;
mod link;
mod monitor;
pub mod netlink;
pub mod nftables;
mod path;
mod watch;

pub use self::{
    link::Link,
    monitor::{Changes, Monitor},
    netlink::Netlink,
    path::{Attached, Devices, Interfaces, Route, canonical, find},
    watch::{Look, Sessions, Watcher},
};
