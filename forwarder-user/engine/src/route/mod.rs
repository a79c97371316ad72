//! Routes and neighbours: by which device and with which headers a frame reaches a peer.
//!
//! | file | does |
//! | --- | --- |
//! | `path` | one look: the kernel's route and neighbour as a [`Path`] |
//! | `watch` | thread: looks again whenever a neighbour is unknown or a session is refreshed |
//! | `netlink`, `features` | the questions to the kernel |
//! | `link` | what it says of interfaces |
//!
//! [`Path`]: forwarder_common::maps::Path

mod features;
mod link;
pub mod netlink;
mod path;
mod watch;

pub use self::{
    link::Link,
    netlink::Netlink,
    path::{Attached, Devices, Route, canonical, find},
    watch::{Sessions, Watcher},
};
