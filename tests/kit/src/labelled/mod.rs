//! Packets that say who sent them: media of a camera that viewers can check one by one, and what a viewer checks.
//!
//! They are single NAL units of H.264 that no decoder takes, since nobody decodes them. Each says which camera sent it,
//! which number it has and when it was sent, and can be checked by that.

pub mod watch;

use std::time::Duration;

use anyhow::{Result, ensure};

pub use self::watch::Watch;

/// Payload type.
pub const PAYLOAD_TYPE: u8 = 96;
/// Largest payload.
pub const LARGEST: usize = 1400;
/// RTP clock units per second.
const CLOCK: f64 = 90_000.0;
/// Seconds from one keyframe to the next.
const GOP: f64 = 2.0;
/// Of RTP.
const HEADER: usize = 12;
/// NAL header, the first byte of a slice header, camera, number, time.
const LABEL: usize = 2 + 4 + 8 + 8;

/// What each camera sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Bytes of RTP payload.
    pub payload: usize,
    /// Packets per second.
    pub rate: f64,
    /// Packets of a frame, which leave together.
    pub burst: u32,
}

/// One of several that send alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    pub number: u32,
    pub shape: Shape,
}

/// 1 Mbit/s in four packets a frame.
impl Default for Shape {
    fn default() -> Self {
        Self { payload: 1100, rate: 110.0, burst: 4 }
    }
}

impl Shape {
    /// Checks what a camera cannot send.
    ///
    /// # Errors
    /// Says which limit.
    pub fn check(&self) -> Result<()> {
        ensure!((LABEL..=LARGEST).contains(&self.payload), "payloads have {LABEL} to {LARGEST} bytes");
        ensure!(self.rate > 0.0 && self.rate.is_finite(), "a camera sends more than 0 packets per second");
        ensure!(self.burst > 0, "a frame has a packet");
        Ok(())
    }

    /// Time between two frames of a camera.
    pub fn frame_interval(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.burst) / self.rate)
    }

    /// RTP timestamp of a frame.
    pub fn timestamp(&self, frame: u64) -> u32 {
        (frame as f64 * f64::from(self.burst) / self.rate * CLOCK) as u64 as u32
    }

    fn is_keyframe(&self, frame: u64) -> bool {
        let every = (GOP * self.rate / f64::from(self.burst)).round().max(1.0) as u64;
        frame.is_multiple_of(every)
    }

    /// Appends the payload of a frame's packet.
    pub fn write_payload(&self, out: &mut Vec<u8>, camera: u32, frame: u64, packet: u32, sent: u64) {
        let number = frame * u64::from(self.burst) + u64::from(packet);
        // A slice of an IDR picture or of any other, type I or P: H.264 §7.3.1, §7.3.3.
        out.extend(if self.is_keyframe(frame) { [0x65, 0x88] } else { [0x41, 0x98] });
        out.extend(camera.to_be_bytes());
        out.extend(number.to_be_bytes());
        out.extend(sent.to_be_bytes());
        out.extend_from_slice(PATTERN.get(..self.payload.saturating_sub(LABEL)).unwrap_or(&PATTERN));
    }

    /// Appends a frame's packet from its RTP header on.
    pub fn write_packet(&self, out: &mut Vec<u8>, camera: u32, frame: u64, packet: u32, sent: u64) {
        let number = frame * u64::from(self.burst) + u64::from(packet);
        out.extend([0x80, PAYLOAD_TYPE | u8::from(packet + 1 == self.burst) << 7]);
        out.extend((number as u16).to_be_bytes());
        out.extend(self.timestamp(frame).to_be_bytes());
        out.extend((0x4000_0000 | camera).to_be_bytes());
        self.write_payload(out, camera, frame, packet, sent);
    }

    /// A payload's label, if the payload is right to its last byte. `None`: not one of ours, such as parameter
    /// sets, or damaged.
    pub fn read(&self, payload: &[u8]) -> Option<Label> {
        let (label, pattern) = payload.split_first_chunk::<LABEL>()?;
        if Some(pattern) != PATTERN.get(..self.payload.saturating_sub(LABEL))
            || !matches!(label[..2], [0x65, 0x88] | [0x41, 0x98])
        {
            return None;
        }
        let camera = u32::from_be_bytes(*label[2..].first_chunk()?);
        let number = u64::from_be_bytes(*label[6..].first_chunk()?);
        Some(Label { camera, number, sent: u64::from_be_bytes(*label[14..].first_chunk()?) })
    }

    /// Appends the packets of a frame, as they stand in an interleaved connection (RFC 2326 §10.12).
    pub fn write_frame(&self, out: &mut Vec<u8>, channel: u8, camera: u32, frame: u64, sent: u64) {
        for packet in 0..self.burst {
            out.extend([b'$', channel]);
            out.extend(((HEADER + self.payload) as u16).to_be_bytes());
            self.write_packet(out, camera, frame, packet, sent);
        }
    }
}

/// What a packet says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    pub camera: u32,
    /// From 0, for each connection.
    pub number: u64,
    /// ns of CLOCK_MONOTONIC.
    pub sent: u64,
}

/// What is behind the label.
const PATTERN: [u8; LARGEST - LABEL] = {
    let mut pattern = [0; LARGEST - LABEL];
    let mut at = 0;
    while at < pattern.len() {
        pattern[at] = (at * 7 + 1) as u8;
        at += 1;
    }
    pattern
};

/// Whether a payload holds parameter sets only, which servers put before keyframes: one of them, or
/// several (STAP-A).
pub fn is_parameter_sets(payload: &[u8]) -> bool {
    payload.first().is_some_and(|header| matches!(header & 0x1f, 7 | 8 | 24)) && payload.len() < 100
}

/// Description of a camera. Parameter sets are here alone, as with many cameras.
pub fn sdp() -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n\
         m=video 0 RTP/AVP {PAYLOAD_TYPE}\r\na=rtpmap:{PAYLOAD_TYPE} H264/90000\r\n\
         a=fmtp:{PAYLOAD_TYPE} packetization-mode=1;profile-level-id=42e01f;sprop-parameter-sets=Z0LgHwEC,aM4D\r\n\
         a=control:track/0\r\n"
    )
}

/// ns of CLOCK_MONOTONIC, which is the same in all processes.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for a timespec. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_say_what_they_are() {
        for payload in [100, 500, 1100, 1400] {
            let shape = Shape { payload, ..Shape::default() };
            let mut bytes = vec![];
            shape.write_frame(&mut bytes, 2, 7, 3, 99);
            let packets: Vec<_> = bytes.chunks(4 + HEADER + payload).collect();
            assert_eq!(packets.len(), shape.burst as usize);
            let labels: Vec<_> = packets.iter().map(|packet| shape.read(&packet[4 + HEADER..]).unwrap()).collect();
            assert_eq!(labels[1], Label { camera: 7, number: 13, sent: 99 });
            let mut damaged = packets[0].to_vec();
            damaged[4 + HEADER + 50] ^= 1;
            assert_eq!(shape.read(&damaged[4 + HEADER..]), None);
            assert_eq!(shape.read(&packets[0][4 + HEADER..3 + HEADER + payload]), None, "cut off");
        }
        let Shape { payload, rate, .. } = Shape::default();
        assert!((rate * payload as f64 * 8.0 / 1e6 - 1.0).abs() < 0.05);
    }

    #[test]
    fn keyframes_come_by_the_clock() {
        let camera = Shape::default();
        assert_eq!((0..200).filter(|frame| camera.is_keyframe(*frame)).collect::<Vec<_>>(), [0, 55, 110, 165]);
        assert_eq!(camera.timestamp(55), 180_000);
    }
}
