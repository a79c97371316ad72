//! The steps of the engine's start, one by one and undone again: what `penstock doctor` tries.

use std::{fs, net::IpAddr, path::Path};

use aya::programs::XdpMode;

use super::{
    Limits, StartError, attach, check, keystream,
    load::{self, Datapath, Missing, describe},
    pins::{self, PinDirectory},
    selftest,
};
use crate::route::Netlink;

pub use super::check::granted as capabilities;
pub use crate::route::Link;

/// The kernel's release, unless it is known before any program is loaded that it is none for them.
///
/// # Errors
/// What it lacks.
pub fn kernel() -> Result<String, StartError> {
    check::kernel().map(|()| check::release())
}

/// Says so where the running kernel is not of a tested series.
pub fn untested() -> Option<String> {
    let release = check::release();
    let hint = || format!("Linux {release} is not among the kernels that Penstock is tested on: {}", check::tested());
    (!check::is_tested(&release)).then(hint)
}

/// Can maps be pinned in `directory`? Says how.
///
/// # Errors
/// Why not.
pub fn bpffs(directory: &Path) -> Result<String, String> {
    if let Some(server) = pins::server(directory) {
        return Ok(format!("a server (pid {}) has its maps in {}", server.pid, directory.display()));
    }
    if pins::is_bpffs(directory).unwrap_or(false) {
        let trial = directory.join("doctor");
        fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial)).map_err(|error| error.to_string())?;
        return Ok(format!("{} is in a bpffs", directory.display()));
    }
    // Not the directory itself, which a server may be about to take. A bpffs takes no names with dots.
    let mut trial = directory.as_os_str().to_owned();
    trial.push("-doctor");
    let trial = std::path::PathBuf::from(trial);
    PinDirectory::claim(&trial).map(drop).map_err(|error| error.to_string())?;
    Ok(format!("a bpffs can be mounted on {}", directory.display()))
}

/// Programs that the verifier has taken.
pub struct Programs(Datapath);

impl Programs {
    /// Loads the datapath with small tables, and maps the memory that it shares with userspace.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn load(media_port: u16) -> Result<Self, StartError> {
        let limits = Limits { sessions: 1, publisher_tracks: 1, subscriber_tracks: 1, viewers_per_stream: 1 };
        let mut datapath = load::load(&limits, media_port, true, 1)?;
        keystream::Parts::take(datapath.ebpf())?;
        Ok(Self(datapath))
    }

    /// Have streams with one viewer their short way?
    ///
    /// # Errors
    /// Why not.
    pub fn short_way(&self) -> Result<(), Missing> {
        self.0.short_way.clone()
    }

    /// Attaches to an interface in its driver, and detaches.
    ///
    /// # Errors
    /// What the driver said.
    pub fn native(&mut self, link: &Link) -> Result<(), String> {
        let ingress = self.0.ingress().map_err(|error| error.to_string())?;
        let id = ingress.attach_to_if_index(link.index, XdpMode::Driver).map_err(|error| attach::why(link, &error))?;
        ingress.detach(id).map_err(|error| describe(&error))
    }
}

/// Sends packets through the whole datapath in a network of its own, in generic mode: are the copies
/// complete and private?
///
/// # Errors
/// What is wrong with them, or why it cannot be told.
pub fn generic_copies() -> Result<(), String> {
    selftest::generic_copies_are_private()
}

/// The interfaces that the engine would attach to.
///
/// # Errors
/// Why there are none.
pub fn interfaces(names: &[String], media: &[IpAddr]) -> Result<Vec<Link>, StartError> {
    let mut netlink = Netlink::open().map_err(StartError::Netlink)?;
    attach::choose(&mut netlink, names, media)
}

/// Does the device take redirected frames now? `None` where the kernel does not tell (before 6.3).
pub fn takes_redirects(link: &Link) -> Option<bool> {
    Netlink::open().and_then(|netlink| netlink.takes_redirects(link.index)).ok().flatten()
}

/// Name of an XDP program on an interface.
pub fn program_on(link: &Link) -> Option<String> {
    link.xdp_program.map(attach::program_name)
}
