//! The tracks of a conversation, and their packets among its messages.

use std::task::{Context, Poll};

use penstock_rtp::rtsp::message::Message;

use super::connection::{Connection, Incoming};
use crate::ingest::{
    error::SourceError,
    media::{Packet, Skipped},
    secure::Srtp,
    udp::Ports,
};

/// A track that was set up.
pub(super) struct Track {
    /// Its place in the description. That of one that was left out belongs to none.
    pub index: usize,
    pub way: Way,
    /// What opens its packets, if they are sealed.
    pub srtp: Option<Box<Srtp>>,
}

/// How a track's packets come.
pub(super) enum Way {
    /// By this channel, and RTCP by the next.
    Channel(u8),
    Ports(Ports),
}

impl Track {
    /// What a frame of an interleaved channel is to this track.
    fn packet<'a>(&self, channel: u8, frame: &'a [u8]) -> Option<Packet<'a>> {
        match self.way {
            Way::Channel(first) if first == channel => Some(Packet::Rtp(self.index, frame)),
            Way::Channel(first) if first.checked_add(1) == Some(channel) => Some(Packet::Rtcp(self.index, frame)),
            _ => None,
        }
    }
}

/// Lowest channel that no track has.
pub(super) fn channels(tracks: &[Track]) -> usize {
    let first = |track: &Track| match track.way {
        Way::Channel(first) => Some(usize::from(first) + 2),
        Way::Ports(_) => None,
    };
    tracks.iter().filter_map(first).max().unwrap_or(0)
}

/// Reads once from all ports and from the connection; hands out packets, and what else is said.
///
/// # Errors
/// As [`Connection::receive`], and what the ports say.
pub(super) fn poll_packets(
    context: &mut Context<'_>,
    tracks: &mut [Track],
    connection: &mut Connection,
    take: &mut dyn FnMut(Packet<'_>),
    skipped: &mut Skipped,
    said: &mut dyn FnMut(Message),
) -> Poll<Result<(), SourceError>> {
    let mut ready = false;
    for track in &mut *tracks {
        if let Way::Ports(ports) = &mut track.way {
            ready |= match &mut track.srtp {
                Some(srtp) => ports.poll(context, track.index, &mut |packet| srtp.open(packet, take))?,
                None => ports.poll(context, track.index, take)?,
            };
        }
    }
    let read = connection.poll_receive(context, &mut |incoming| match incoming {
        Incoming::Frame(channel, frame) => {
            let found = tracks.iter_mut().find_map(|track| Some((track.packet(channel, frame)?, &mut track.srtp)));
            match found {
                Some((packet, None)) => take(packet),
                Some((packet, Some(srtp))) => srtp.open(packet, take),
                None => skipped.frames += 1,
            }
        }
        Incoming::Message(message) => said(message),
    });
    skipped.bytes += connection.take_skipped();
    if read.is_pending() && ready { Poll::Ready(Ok(())) } else { read }
}

/// Whether packets of a track may overtake each other.
pub(super) fn is_unordered(tracks: &[Track], index: usize) -> bool {
    tracks.iter().any(|track| track.index == index && matches!(track.way, Way::Ports(_)))
}
