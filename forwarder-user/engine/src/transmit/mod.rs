//! How packets that userspace has sealed reach the network.
//!
//! A transmitter belongs to one thread. It collects the packets of a batch in memory that it owns,
//! where they are written and sealed in place, and sends them together.

pub mod socket;
pub mod tcp;
pub mod xdp;

use forwarder_common::maps::Path;

use super::{Dscp, Transport};

/// Where a subscriber's packets go.
#[derive(Clone, Copy, Debug)]
pub struct Destination {
    /// Number of the media socket, that is of our local address.
    pub socket: usize,
    /// Both addresses of the UDP datagram.
    pub transport: Transport,
    /// Headers up to UDP, for transmitters that write whole frames. `None`: the way is not known (yet).
    pub path: Option<Path>,
    /// Of its packets.
    pub dscp: Dscp,
}

/// What became of packets, since the transmitter was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Handed to the network.
    pub packets: u64,
    /// Refused: full queue, no route, no room. Every refused packet is counted here, in `too_big` or in `stalled`.
    pub dropped: u64,
    /// Refused: longer than the MTU on the way there.
    pub too_big: u64,
    /// Refused: the connection to the peer takes no more at the moment, or is gone.
    pub stalled: u64,
    /// Sent once more, since a full queue had refused them. One packet may count several times.
    pub resent: u64,
    /// System calls made for them.
    pub calls: u64,
}

/// Sends the packets of one thread.
pub trait Transmitter: Send {
    /// For people: `xdp`, `socket`.
    fn name(&self) -> &'static str;

    /// Whether it can send there now.
    fn reaches(&self, to: &Destination) -> bool;

    /// Room for one RTP packet of exactly `len` bytes (header, ciphertext, tag) to `to`. The caller
    /// fills all of it before its next call. May send what was collected so far, to make room.
    ///
    /// Packets to one destination keep their order, except within a batch that met a full ring and was sent
    /// again in part; consecutive packets to one destination may leave as one segmented datagram.
    ///
    /// `None`: there is no way to send it; counted as dropped.
    fn reserve(&mut self, to: &Destination, len: usize) -> Option<&mut [u8]>;

    /// Takes back the packet of the last `reserve`: it could not be sealed.
    fn cancel(&mut self);

    /// Sends everything. Returns when the buffers may be used again or others are at hand.
    fn flush(&mut self);

    /// Totals.
    fn sent(&self) -> Sent;
}
