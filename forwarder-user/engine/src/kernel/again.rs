//! Interfaces that come back (hot-plug, a re-created veth, a driver that was loaded again) get their program again.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    bpf::{attach, load::Datapath},
    route::{Attached, Interfaces, Link, Netlink},
};

/// Programs and their links, until the engine is dropped.
pub(super) type SharedDatapath = Arc<Mutex<Option<Datapath>>>;

/// Looks at the interfaces whenever the kernel tells that some have changed.
pub(super) struct Again {
    pub interfaces: Interfaces,
    pub datapath: SharedDatapath,
    pub netlink: Netlink,
    /// Indices of interfaces that refused, which was told.
    pub refused: BTreeSet<u32>,
}

impl Again {
    /// Attaches where one of our interfaces is up and has no program.
    pub(super) fn look(&mut self) {
        let Ok(links) = self.netlink.links() else { return };
        for one in self.interfaces.get().iter() {
            let link = links.iter().find(|link| link.name == one.name && link.up && link.xdp_program.is_none());
            if let Some(link) = link {
                self.attach(one, link);
            }
        }
    }

    fn attach(&mut self, one: &Attached, link: &Link) {
        let mut datapath = self.datapath.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(datapath) = datapath.as_mut() else { return };
        match attach::attach_again(datapath, link, one.mode) {
            Ok(()) => {
                self.refused.remove(&link.index);
                self.interfaces.replace(&Attached { index: link.index, ..one.clone() });
                tracing::info!(interface = link.name, index = link.index, "the interface is back: XDP is on it again");
            }
            Err(reason) if self.refused.insert(link.index) => {
                tracing::warn!(
                    interface = link.name,
                    "the interface is back and takes no XDP, so the userspace engine serves peers behind it: {reason}"
                );
            }
            Err(_) => {}
        }
    }
}
