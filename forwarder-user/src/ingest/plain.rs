//! Plain RTP: an encoder sends by UDP to the ports that a description names, and asks nobody.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    task::{Context, Poll},
};

use penstock_rtp::description::{Description, Target, Track, Writer};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::{
    error::SourceError,
    media::{Packet, Packets},
    secure::Srtp,
    udp::{self, Ports},
};
use crate::config;

/// Longest description.
const MAX_SDP: u64 = 64 << 10;

/// The ports of one source.
pub(super) struct Listener {
    /// In the order of the tracks.
    tracks: Vec<(Ports, Option<Box<Srtp>>)>,
}

impl Listener {
    /// Reads the description and opens its ports.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(super) async fn open(source: &config::Stream) -> Result<(Self, Description), SourceError> {
        let text = match source.sdp.as_bytes() {
            [] => read(source.sdp_file.clone()).await?,
            text => text.to_vec(),
        };
        let mut description = Description::parse_for(&text, Writer::Sender, source.audio)?;
        let portless = |track: &Track| track.target.port == 0;
        while let Some(at) = description.tracks.iter().position(portless) {
            description.leave_out(at, "the port is 0, so nothing can come");
        }
        if description.tracks.is_empty() {
            return Err(SourceError::MalformedSdp(description.left_out.join("; ")));
        }
        let open = |track: &Track| {
            let Target { port, rtcp_port, .. } = track.target;
            let rtp = bind(source, &track.target, port)?;
            let rtcp = if rtcp_port == port { None } else { Some(bind(source, &track.target, rtcp_port)?) };
            let keys = track.security.as_ref().map(|keys| Srtp::new(keys, None));
            let srtp = keys.transpose().map_err(|error| SourceError::NoMedia(format!("SRTP: {error}")))?;
            Ok::<_, SourceError>((Ports::new(rtp, rtcp, port, source.sender), srtp))
        };
        let tracks = description.tracks.iter().map(open).collect::<Result<_, _>>()?;
        Ok((Self { tracks }, description))
    }
}

impl Packets for Listener {
    fn poll_packets(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Packet<'_>),
    ) -> Poll<Result<(), SourceError>> {
        let mut any = false;
        for (index, (ports, srtp)) in self.tracks.iter_mut().enumerate() {
            any |= match srtp {
                Some(srtp) => ports.poll(context, index, &mut |packet| srtp.open(packet, take))?,
                None => ports.poll(context, index, take)?,
            };
        }
        if any { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn is_unordered(&self, _track: usize) -> bool {
        true
    }
}

async fn read(path: PathBuf) -> Result<Vec<u8>, SourceError> {
    let unreadable = |path: &Path, error| SourceError::SdpFile { path: path.to_owned(), error };
    let file = path.clone();
    let read = move || {
        let mut text = vec![];
        std::fs::File::open(&file)?.take(MAX_SDP).read_to_end(&mut text)?;
        Ok(text)
    };
    let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    read.map_err(|error| unreadable(&path, error))
}

/// A socket for one port. A group's address takes what is sent to the group only. What is sent to one of
/// our addresses is taken by that; where the description names an address that is not ours, as encoders
/// behind NAT do, any of ours will do.
fn bind(source: &config::Stream, target: &Target, port: u16) -> Result<UdpSocket, SourceError> {
    let address = target.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let failed = |error| SourceError::Port { address: SocketAddr::new(address, port), error };
    let index = if source.interface.is_empty() {
        0
    } else {
        let name = source.interface.as_str();
        nix::net::if_::if_nametoindex(name)
            .map_err(|error| SourceError::Interface { interface: name.to_owned(), error: error.into() })?
    };
    let open = || {
        let socket = Socket::new(Domain::for_address((address, port).into()), Type::DGRAM, Some(Protocol::UDP))?;
        match address {
            IpAddr::V4(group) if group.is_multicast() => {
                // Other programs of this machine may listen to the same group.
                socket.set_reuse_address(true)?;
                socket.bind(&SocketAddr::new(address, port).into())?;
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
            }
            IpAddr::V6(group) if group.is_multicast() => {
                socket.set_reuse_address(true)?;
                socket.bind(&SocketAddr::new(address, port).into())?;
                socket.join_multicast_v6(&group, index)?;
            }
            _ => match socket.bind(&SocketAddr::new(address, port).into()) {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    let any = match address {
                        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                    };
                    socket.bind(&SocketAddr::new(any, port).into())?;
                }
                bound => bound?,
            },
        }
        let socket = std::net::UdpSocket::from(socket);
        socket.set_nonblocking(true)?;
        udp::enlarge(&socket)?;
        UdpSocket::from_std(socket)
    };
    open().map_err(failed)
}
