//! Where tickets go: veth pairs in a network namespace that nobody else is in.
//!
//! The namespace has no name and no process. It lives as long as the sockets in it, so it goes with
//! this process, however that ends; and nothing can send there but these sockets.

use std::{io, thread};

use aya::programs::{Xdp, XdpMode};
use rtnetlink::{
    LinkUnspec, LinkVeth,
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL},
    packet_route::RouteNetlinkMessage as Message,
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{bpf::describe, route::Netlink};

/// Makes the namespace and `threads` pairs, puts the program on one end of each, and opens a socket at
/// the other end.
///
/// # Errors
/// A reason for people.
pub(super) fn lay(threads: usize, trigger: &mut Xdp) -> Result<Vec<Socket>, String> {
    // A namespace is entered by a thread alone, and this one ends here.
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("penstock-wire".into()).spawn_scoped(scope, || {
            // SAFETY: no memory is involved; it concerns this thread only.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                let error = io::Error::last_os_error();
                return Err(format!("the xdp transmitter needs a network namespace (CAP_SYS_ADMIN): {error}"));
            }
            let mut netlink = Netlink::open().map_err(|error| error.to_string())?;
            (0..threads).map(|number| pair(&mut netlink, number, trigger)).collect()
        });
        let thread = thread.map_err(|error| error.to_string())?;
        thread.join().unwrap_or_else(|_| Err("setting up the xdp transmitter panicked".into()))
    })
}

fn pair(netlink: &mut Netlink, number: usize, trigger: &mut Xdp) -> Result<Socket, String> {
    let names = [format!("ticket{number}"), format!("trigger{number}")];
    let refused = |error: io::Error| format!("the xdp transmitter needs a veth pair: {error}");
    let create = Message::NewLink(LinkVeth::new(&names[0], &names[1]).build());
    netlink.request(create, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map_err(refused)?;
    let links = netlink.links().map_err(refused)?;
    let mut indices = [0; 2];
    for (index, name) in indices.iter_mut().zip(&names) {
        let link = links.iter().find(|link| link.name == *name);
        *index = link.map(|link| link.index).ok_or_else(|| refused(io::ErrorKind::NotFound.into()))?;
    }
    let attached = trigger.attach_to_if_index(indices[1], XdpMode::Driver);
    attached.map_err(|error| format!("the xdp transmitter's program: {}", describe(&error)))?;
    for index in indices {
        let up = Message::SetLink(LinkUnspec::new_with_index(index).up().build());
        netlink.request(up, NLM_F_ACK).map_err(refused)?;
    }
    socket(indices[0]).map_err(|error| format!("the xdp transmitter's socket: {error}"))
}

/// A packet socket that sends whole frames by one interface, and receives nothing.
fn socket(ifindex: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    // SAFETY: the closure fills a sockaddr_ll, which fits the storage, and its length.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_ifindex = ifindex as i32;
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    socket.bind(&address)?;
    bypass_queues(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Straight to the device: a veth has no queue that could be of use.
fn bypass_queues(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let on: libc::c_int = 1;
    // SAFETY: the value is a c_int, of which the length is given, and outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
