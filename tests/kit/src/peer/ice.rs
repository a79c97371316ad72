//! Sockets and SDP fragments of a peer.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use anyhow::{Context, Result};
use str0m::Candidate;

use crate::place;

/// Receive buffer of each socket in bytes. A busy machine may not run the peers for a while; what
/// the server sent must not be lost here, where it would be taken for the server's loss.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Opens a socket on a port of the kernel's choice for each address, in the namespace.
///
/// # Errors
/// No such address, or no privilege to enter the namespace.
pub(crate) fn sockets(namespace: Option<&str>, addresses: &[IpAddr], url: &str) -> Result<Vec<UdpSocket>> {
    place::inside(namespace, || {
        let addresses = if addresses.is_empty() { vec![route_to(url)?] } else { addresses.to_vec() };
        addresses
            .iter()
            .map(|address| {
                let socket = UdpSocket::bind((*address, 0)).with_context(|| format!("cannot bind {address}"))?;
                socket.set_nonblocking(true)?;
                enlarge(&socket);
                Ok(socket)
            })
            .collect()
    })
}

/// Beyond `net.core.rmem_max`, where privilege allows it; the default must do elsewhere.
pub(crate) fn enlarge(socket: &UdpSocket) {
    use std::os::fd::AsRawFd;
    let size = RECEIVE_BUFFER as libc::c_int;
    // SAFETY: the option's value is one int that lives through the call, and its length is said.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        );
    }
}

/// The local address that the kernel would use towards the URL's host.
fn route_to(url: &str) -> Result<IpAddr> {
    let uri: ureq::http::Uri = url.parse()?;
    let authority = uri.authority().context("an URL without a host")?;
    let host = authority.host();
    let port = authority.port_u16().unwrap_or(80);
    let target = match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port),
        Err(_) => (host, port).to_socket_addrs()?.next().context("unknown host")?,
    };
    let any: SocketAddr = if target.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let probe = UdpSocket::bind(any)?;
    probe.connect(target)?;
    Ok(probe.local_addr()?.ip())
}

/// Values of the lines that start with `prefix`, e.g. `a=candidate:`.
pub(crate) fn values<'a>(sdp: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    sdp.lines().filter_map(move |line| line.trim_end().strip_prefix(prefix))
}

/// The offer without candidates, as a trickling client sends it.
pub(crate) fn without_candidates(sdp: &str) -> String {
    let keep = |line: &&str| !line.starts_with("a=candidate:") && !line.starts_with("a=end-of-candidates");
    sdp.lines().filter(keep).map(|line| format!("{line}\r\n")).collect()
}

/// SDP fragment (RFC 8840 §9) for the first section of `offer`, by which all others go too.
pub(crate) fn fragment(offer: &str, candidates: &[Candidate]) -> String {
    let first = |prefix| values(offer, prefix).next().unwrap_or_default();
    let mut out = String::from("a=ice-options:trickle ice2\r\n");
    for prefix in ["a=group:BUNDLE ", "m=", "a=mid:", "a=ice-ufrag:", "a=ice-pwd:"] {
        out += &format!("{prefix}{}\r\n", first(prefix));
    }
    for candidate in candidates {
        out += &format!("a={}\r\n", candidate.to_sdp_string().trim_end());
    }
    out + "a=end-of-candidates\r\n"
}

/// The answer with the ICE parameters and candidates of `fragment` instead of its own.
pub(crate) fn restarted(answer: &str, fragment: &str) -> Result<String> {
    let new = |prefix| values(fragment, prefix).next().with_context(|| format!("no {prefix} in the server's fragment"));
    let ufrag = new("a=ice-ufrag:")?;
    let password = new("a=ice-pwd:")?;
    let mut out = String::new();
    for line in without_candidates(answer).lines() {
        match line.split_once(':') {
            Some(("a=ice-ufrag", _)) => out += &format!("a=ice-ufrag:{ufrag}\r\n"),
            Some(("a=ice-pwd", _)) => {
                out += &format!("a=ice-pwd:{password}\r\n");
                for candidate in values(fragment, "a=candidate:") {
                    out += &format!("a=candidate:{candidate}\r\n");
                }
            }
            _ => out += &format!("{line}\r\n"),
        }
    }
    Ok(out)
}
