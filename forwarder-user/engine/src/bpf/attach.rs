//! Puts the ingress program on interfaces: native where the driver takes it, else generic.

use std::{
    io,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use aya::programs::{ProgramError, XdpMode, loaded_programs};
use forwarder_common::maps::xdp_mode;

use super::{
    StartError,
    load::{Datapath, describe},
    selftest,
};
use crate::route::{Attached, Link, Netlink};

/// How XDP is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Native, and generic where the driver refuses native.
    #[default]
    Auto,
    /// In the driver; refuse to start otherwise.
    Native,
    /// In the stack, behind the driver. Slower; for tests.
    Generic,
}

/// Interfaces that one server can attach to, the room in [`forwarder_common::maps::Server`].
pub const MAX_INTERFACES: usize = 8;

/// Largest MTU whose frames surely fit a page with XDP's head room and the skb's tail.
const USUAL_MTU_LIMIT: u32 = 3498;

/// How long a killed server's links may take to let go of the interfaces.
const RELEASE: Duration = Duration::from_secs(2);

/// `native` or `generic`.
pub const fn mode_name(mode: u8) -> &'static str {
    match mode {
        xdp_mode::NATIVE => "native",
        xdp_mode::GENERIC => "generic",
        _ => "none",
    }
}

/// The interfaces to attach to: those named, or those that carry the media addresses, or those of
/// the default routes.
///
/// # Errors
/// [`StartError::Interface`], [`StartError::NoInterface`], [`StartError::Netlink`].
pub fn choose(netlink: &mut Netlink, names: &[String], media: &[IpAddr]) -> Result<Vec<Link>, StartError> {
    let links = netlink.links().map_err(StartError::Netlink)?;
    let mut chosen: Vec<Link> = Vec::new();
    let indices = if names.is_empty() { by_address(netlink, media)? } else { by_name(&links, names)? };
    for index in indices {
        let Some(link) = links.iter().find(|link| link.index == index) else { continue };
        let parent = link.vlan.and_then(|vlan| links.iter().find(|parent| parent.index == vlan.parent));
        // Drivers run XDP before tags are taken off, so the program belongs on the parent.
        let link = parent.unwrap_or(link);
        if !link.loopback && !chosen.iter().any(|other| other.index == link.index) {
            chosen.push(link.clone());
        }
    }
    if chosen.is_empty() {
        return Err(StartError::NoInterface);
    }
    if chosen.len() > MAX_INTERFACES {
        return Err(StartError::TooManyInterfaces { limit: MAX_INTERFACES });
    }
    Ok(chosen)
}

fn by_name(links: &[Link], names: &[String]) -> Result<Vec<u32>, StartError> {
    let find = |name: &String| {
        let link = links.iter().find(|link| link.name == *name);
        let reason = "there is no such interface in this network namespace";
        let link = link.ok_or_else(|| StartError::Interface { name: name.clone(), reason: reason.into() })?;
        if link.loopback {
            let reason = "XDP cannot redirect to the loopback".into();
            return Err(StartError::Interface { name: name.clone(), reason });
        }
        Ok(link.index)
    };
    names.iter().map(find).collect()
}

fn by_address(netlink: &mut Netlink, media: &[IpAddr]) -> Result<Vec<u32>, StartError> {
    let wanted: Vec<IpAddr> = media.iter().filter(|address| !address.is_unspecified()).copied().collect();
    if wanted.is_empty() {
        return netlink.default_routes().map_err(StartError::Netlink);
    }
    let addresses = netlink.addresses().map_err(StartError::Netlink)?;
    let find = |address: &IpAddr| {
        let found = addresses.iter().find(|(_, own)| own == address);
        found.map(|(index, _)| *index).ok_or(StartError::NoSuchAddress { address: *address })
    };
    wanted.iter().map(find).collect()
}

/// What decides which interfaces get the program, and how.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Which attachments are tried.
    pub mode: Mode,
    /// In [`Mode::Auto`]: take generic XDP where a driver refuses native.
    pub generic_if_refused: bool,
    /// Nobody has named these interfaces: what stands in the way on one of them is no reason not to take the others.
    pub leave: bool,
}

/// What has become of them.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Those that have the program.
    pub attached: Vec<Attached>,
    /// Names of the others, and why: the userspace engine serves peers behind them.
    pub left: Vec<(String, String)>,
}

/// Attaches the ingress program to all `links`; where generic mode is not wanted, to those that take native XDP, of
/// which there must be one.
///
/// # Errors
/// [`StartError::Interface`] with what the driver or the self-test said.
pub fn attach(
    netlink: &mut Netlink,
    datapath: &mut Datapath,
    links: &[Link],
    choice: Choice,
) -> Result<Outcome, StartError> {
    let (mut outcome, mut first, mut generic_works) = (Outcome::default(), None, None);
    for link in links {
        let refuse = |reason: String| StartError::Interface { name: link.name.clone(), reason };
        let free = wait_until_free(netlink, link);
        let native = match (&free, choice.mode) {
            (Err(_), _) | (_, Mode::Generic) => None,
            (Ok(()), _) => Some(attach_one(datapath, link, XdpMode::Driver)?.map_err(|error| why(link, &error))),
        };
        let next = match free {
            Ok(()) => rule(choice.mode, choice.generic_if_refused, native),
            Err(StartError::Interface { reason, .. }) if choice.leave => Next::Leave(reason),
            Err(error) => return Err(error),
        };
        match next {
            Next::Native => outcome.attached.push(attached(link, xdp_mode::NATIVE)),
            Next::Refuse(reason) => return Err(refuse(reason)),
            Next::Leave(reason) => {
                first.get_or_insert_with(|| refuse(format!("{reason}{GENERIC_COSTS}")));
                outcome.left.push((link.name.clone(), reason));
            }
            Next::Generic(refusal) => {
                if let Some(reason) = &refusal {
                    tracing::warn!(interface = link.name, "native XDP refused, trying generic XDP (slow): {reason}");
                }
                if let Err(reason) = generic_works.get_or_insert_with(selftest::generic_copies_are_private) {
                    let native = refusal.map(|reason| format!("{reason}; ")).unwrap_or_default();
                    return Err(refuse(format!("{native}generic XDP: {reason}")));
                }
                attach_one(datapath, link, XdpMode::Skb)?
                    .map_err(|error| refuse(format!("generic XDP: {}", why(link, &error))))?;
                outcome.attached.push(attached(link, xdp_mode::GENERIC));
            }
        }
    }
    match first {
        Some(refusal) if outcome.attached.is_empty() => Err(refusal),
        _ => Ok(outcome),
    }
}

const GENERIC_COSTS: &str = "; generic XDP costs more than sockets where a stream has several viewers, \
                             `kernel.mode = \"generic\"` takes it nevertheless";

fn attached(link: &Link, mode: u8) -> Attached {
    Attached { index: link.index, name: link.name.clone(), mode }
}

/// What becomes of an interface.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It has the program, natively.
    Native,
    /// It gets it in generic mode, if that works here; with what the driver said, if it was asked.
    Generic(Option<String>),
    /// The userspace engine serves peers behind it.
    Leave(String),
    /// The server must not start.
    Refuse(String),
}

/// Decision 24: `auto` takes native XDP, and generic XDP only where there is no userspace engine beside
/// (`generic_if_refused`). `native` is what the driver said, if it was asked.
fn rule(mode: Mode, generic_if_refused: bool, native: Option<Result<(), String>>) -> Next {
    match (mode, native) {
        (_, Some(Ok(()))) => Next::Native,
        (_, None) => Next::Generic(None),
        (Mode::Native, Some(Err(reason))) => Next::Refuse(format!("native XDP: {reason}")),
        (_, Some(Err(reason))) if generic_if_refused => Next::Generic(Some(format!("native XDP: {reason}"))),
        (_, Some(Err(reason))) => Next::Leave(format!("native XDP: {reason}")),
    }
}

/// Attaches to an interface that has come back, in the mode that it had.
///
/// # Errors
/// What it said.
pub fn attach_again(datapath: &mut Datapath, link: &Link, mode: u8) -> Result<(), String> {
    let xdp_mode = if mode == xdp_mode::NATIVE { XdpMode::Driver } else { XdpMode::Skb };
    match attach_one(datapath, link, xdp_mode) {
        Ok(attached) => attached.map_err(|error| why(link, &error)),
        Err(error) => Err(error.to_string()),
    }
}

/// The inner error is the interface's refusal, the outer one ends the start.
fn attach_one(datapath: &mut Datapath, link: &Link, mode: XdpMode) -> Result<Result<(), ProgramError>, StartError> {
    Ok(datapath.ingress()?.attach_to_if_index(link.index, mode).map(|_| ()))
}

/// An interface takes one XDP program. Ours may still be there for a moment after a kill.
fn wait_until_free(netlink: &mut Netlink, link: &Link) -> Result<(), StartError> {
    let give_up = Instant::now() + RELEASE;
    loop {
        let link = netlink.link(link.index).map_err(StartError::Netlink)?;
        if !link.up {
            let reason = format!("it is down: ip link set {} up", link.name);
            return Err(StartError::Interface { name: link.name, reason });
        }
        let Some(program) = link.xdp_program else { return Ok(()) };
        let name = program_name(program);
        if Instant::now() > give_up || !name.starts_with("penstock") {
            let reason = format!(
                "another XDP program is on it: id {program}, `{name}` (bpftool prog show id {program}). An \
                 interface takes one: remove it (ip link set {} xdp off), or stop its owner",
                link.name
            );
            return Err(StartError::Interface { name: link.name, reason });
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Name of a loaded program, as far as this process may know.
pub fn program_name(id: u32) -> String {
    let program = loaded_programs().flatten().find(|program| program.id() == id);
    program.and_then(|program| program.name_as_str().map(str::to_owned)).unwrap_or_else(|| "unknown".into())
}

/// What an interface said, in words.
pub fn why(link: &Link, error: &ProgramError) -> String {
    let code = match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    let text = code.map_or_else(|| describe(error), |code| io::Error::from_raw_os_error(code).to_string());
    match code {
        Some(libc::EOPNOTSUPP) => format!("its driver has none ({text})"),
        _ if link.mtu > USUAL_MTU_LIMIT => {
            format!("{text}; its MTU of {} is too large for most drivers: ip link set {} mtu 1500", link.mtu, link.name)
        }
        Some(libc::EINVAL | libc::ERANGE | libc::E2BIG) => {
            format!("{text}; large receive offload or too few queues are usual reasons, see `dmesg`")
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_generic_mode_only_where_nobody_else_serves() {
        let refused = || Some(Err("no".to_owned()));
        assert_eq!(rule(Mode::Auto, false, Some(Ok(()))), Next::Native);
        assert_eq!(rule(Mode::Auto, false, refused()), Next::Leave("native XDP: no".into()));
        assert_eq!(rule(Mode::Auto, true, refused()), Next::Generic(Some("native XDP: no".into())));
        assert_eq!(rule(Mode::Native, true, refused()), Next::Refuse("native XDP: no".into()));
        assert_eq!(rule(Mode::Generic, false, None), Next::Generic(None));
    }
}
