//! The packets of a camera: single NAL units of H.264 that no decoder takes, since nobody decodes them.
//! Each says which camera sent it, which number it has and when it was sent, and can be checked by that.

use std::time::Duration;

/// Bytes of RTP payload.
pub const PAYLOAD: usize = 1100;
/// Packets of a frame, which leave together.
pub const BURST: u64 = 4;
/// Packets of a camera per second: with [`PAYLOAD`], 1 Mbit/s.
pub const RATE: f64 = 110.0;
/// Payload type.
pub const PAYLOAD_TYPE: u8 = 96;
/// Frames from one keyframe to the next.
const GOP: u64 = 55;
/// RTP clock units of a frame.
const TICKS: u64 = 3273;
/// Interleaved and RTP headers.
const HEADERS: usize = 4 + 12;
/// NAL header, the first byte of a slice header, camera, number, time.
const LABEL: usize = 2 + 4 + 8 + 8;

/// Time between two frames of a camera.
pub fn frame_interval() -> Duration {
    Duration::from_secs_f64(BURST as f64 / RATE)
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

/// Appends the packets of a frame, as they stand in an interleaved connection.
pub fn write_frame(out: &mut Vec<u8>, channel: u8, camera: u32, frame: u64, sent: u64) {
    for packet in 0..BURST {
        let number = frame * BURST + packet;
        out.extend([b'$', channel]);
        out.extend(((HEADERS - 4 + PAYLOAD) as u16).to_be_bytes());
        out.extend([0x80, PAYLOAD_TYPE | u8::from(packet == BURST - 1) << 7]);
        out.extend((number as u16).to_be_bytes());
        out.extend(((frame * TICKS) as u32).to_be_bytes());
        out.extend((0x4000_0000 | camera).to_be_bytes());
        // A slice of an IDR picture or of any other, type I or P: H.264 §7.3.1, §7.3.3.
        out.extend(if frame.is_multiple_of(GOP) { [0x65, 0x88] } else { [0x41, 0x98] });
        out.extend(camera.to_be_bytes());
        out.extend(number.to_be_bytes());
        out.extend(sent.to_be_bytes());
        out.extend_from_slice(&PATTERN);
    }
}

/// What is behind the label.
const PATTERN: [u8; PAYLOAD - LABEL] = {
    let mut pattern = [0; PAYLOAD - LABEL];
    let mut at = 0;
    while at < pattern.len() {
        pattern[at] = (at * 7 + 1) as u8;
        at += 1;
    }
    pattern
};

/// A payload's label, if the payload is right to its last byte. `None`: not one of ours, such as parameter
/// sets, or damaged.
pub fn read(payload: &[u8]) -> Option<Label> {
    let (label, pattern) = payload.split_first_chunk::<LABEL>()?;
    if pattern != PATTERN || !matches!(label[..2], [0x65, 0x88] | [0x41, 0x98]) {
        return None;
    }
    let camera = u32::from_be_bytes(*label[2..].first_chunk()?);
    let number = u64::from_be_bytes(*label[6..].first_chunk()?);
    Some(Label { camera, number, sent: u64::from_be_bytes(*label[14..].first_chunk()?) })
}

/// Whether a payload holds parameter sets only, which the server puts before keyframes (STAP-A).
pub fn is_parameter_sets(payload: &[u8]) -> bool {
    payload.first().is_some_and(|header| header & 0x1f == 24) && payload.len() < 100
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
        let mut bytes = vec![];
        write_frame(&mut bytes, 2, 7, 3, 99);
        let packets: Vec<_> = bytes.chunks(HEADERS + PAYLOAD).collect();
        assert_eq!(packets.len(), BURST as usize);
        let labels: Vec<_> = packets.iter().map(|packet| read(&packet[HEADERS..]).unwrap()).collect();
        assert_eq!(labels[1], Label { camera: 7, number: 13, sent: 99 });
        let mut damaged = packets[0].to_vec();
        damaged[HEADERS + 500] ^= 1;
        assert_eq!(read(&damaged[HEADERS..]), None);
        assert!((RATE * PAYLOAD as f64 * 8.0 / 1e6 - 1.0).abs() < 0.05);
    }
}
