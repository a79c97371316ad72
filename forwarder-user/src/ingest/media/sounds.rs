//! Tracks whose sound is made anew: AAC goes out to be turned into Opus, and comes back.

use std::task::Context;

use penstock_rtp::{Unfit, is_key};

use super::{Heard, Media};
use crate::ingest::{
    media::Packets,
    reason::Reason,
    sound::{self, Made},
};

/// Units between two looks that are no sound, and are worth a word: half a second of them.
const BAD: u32 = 12;

impl Media {
    /// A connection begins.
    pub(super) fn begin_sounds(&mut self, from: &impl Packets) {
        for (index, track) in self.tracks.iter_mut().enumerate() {
            let Some((packing, payload_type)) = &track.aac else { continue };
            let begun = self.place.sounds.begin(packing, *payload_type, !from.is_unordered(index));
            track.sound = begun.map(Box::new);
            // What comes back is in order.
            track.pipeline.set_ordered(true);
        }
    }

    /// A packet of such a track goes out.
    pub(super) fn take_sound(&mut self, index: usize, bytes: &[u8], heard: &mut Heard) {
        let Some(sound) = self.tracks.get_mut(index).and_then(|track| track.sound.as_mut()) else { return };
        let taken = sound.packet(bytes, heard.now);
        heard.packets += 1;
        heard.bytes += bytes.len() as u64;
        heard.lost += sound.take_lost();
        match taken {
            Ok(()) => self.came(heard),
            Err(why) => self.dropped(why, 1, heard),
        }
    }

    /// What has come back leaves.
    pub(super) fn give_sounds(&mut self, context: &mut Context<'_>, heard: &mut Heard) {
        for index in 0..self.tracks.len() {
            let (mut bad, mut late) = (0, 0);
            while let Some(track) = self.tracks.get_mut(index)
                && let Some(made) = track.sound.as_mut().and_then(|sound| sound.poll_made(context))
            {
                let (id, codec, kept) = (track.id, track.format.codec, track.kept);
                let bytes = match made {
                    Made::Packet(bytes) => bytes,
                    Made::Nothing => {
                        bad += 1;
                        continue;
                    }
                    Made::Late => {
                        late += 1;
                        continue;
                    }
                };
                let moment = track.sound.as_mut().map_or(heard.now, |sound| sound.moment(&bytes, heard.now));
                let mut feed = self.place.feed.borrow_mut();
                // It is ours: nothing can be wrong with it.
                let _ = track.pipeline.packet(&bytes, moment, &mut |index, header, payload| {
                    feed.push(id, index, header, payload, kept && is_key(codec, payload));
                });
            }
            if bad > 0 {
                self.dropped(Unfit::Undecodable, bad, heard);
            }
            if late > 0 {
                self.dropped(Unfit::Backlog, late, heard);
            }
        }
    }

    /// Whether what came since the last look could not be decoded.
    pub(super) fn bad_sound(&mut self) -> Option<Reason> {
        let mut sounds = self.tracks.iter_mut().filter_map(|track| track.sound.as_mut());
        let bad = sounds.any(|sound| sound.take_bad() >= BAD);
        bad.then_some(Reason::SoundUndecodable)
    }

    /// A timestamp of a sender report of the source, as viewers know it.
    pub(super) fn map(&self, index: usize, ssrc: u32, timestamp: u32) -> Option<u32> {
        let track = self.tracks.get(index)?;
        match &track.sound {
            Some(made) => track.pipeline.map(sound::SSRC, made.map(ssrc, timestamp)?),
            None => track.pipeline.map(ssrc, timestamp),
        }
    }
}
