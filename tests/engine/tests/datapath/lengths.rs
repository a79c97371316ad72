//! Opening every payload length, with random headers, against the reference.

use anyhow::{Context, Result};
use forwarder_common::maps::MAX_PAYLOAD;
use tests_kit::srtp::{Key, Random};

use crate::fixture::{Media, World};

/// Packets of one publisher (0: 128-bit key, 1: 256-bit key) with the given payload lengths.
fn open_lengths(slot: usize, lengths: impl Iterator<Item = usize>) -> Result<()> {
    let mut world = World::new()?;
    let key_len = world.publishers[slot].key.key.len();
    world.publishers[slot].key = Key::random(key_len);
    world.reset()?;
    let mut random = Random::new(slot as u64);
    for (i, len) in lengths.enumerate() {
        let mut media = Media::at(&world.publishers[slot], World::FIRST + 1 + i as u64);
        random_header(&mut media, &mut random);
        media.payload = random.bytes(len);
        world.run(&media.bytes(), &media.redirect()).with_context(|| {
            format!("payload of {len} bytes, header {}, {:?}", hex::encode(media.rtp.build()), media.publisher.key)
        })?;
    }
    Ok(())
}

/// Any header that the payload type and SSRC allow: half of them with CSRCs, half with an extension.
pub fn random_header(media: &mut Media, random: &mut Random) {
    let rtp = &mut media.rtp;
    rtp.marker = random.below(2) == 0;
    rtp.padding = random.below(4) == 0;
    rtp.timestamp = random.number() as u32;
    if random.below(2) == 0 {
        rtp.csrcs = (0..random.below(16)).map(|_| random.number() as u32).collect();
    }
    if random.below(2) == 0 {
        let most = if random.below(8) == 0 { 60 } else { 8 };
        let words = random.below(most);
        rtp.extension = Some((random.number() as u16, random.bytes(4 * words)));
    }
}

#[test]
fn every_length_with_a_128_bit_key() -> Result<()> {
    open_lengths(0, 0..=MAX_PAYLOAD)
}

#[test]
fn random_lengths_with_a_256_bit_key() -> Result<()> {
    let mut random = Random::new(99);
    let lengths: Vec<usize> = (0..600).map(|_| random.below(MAX_PAYLOAD + 1)).collect();
    open_lengths(1, lengths.into_iter().chain([0, 1, 15, 16, 17, 31, 32, 33, 1399, 1400]))
}
