//! What one viewer of a camera has seen of it, packet by packet.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Camera, Label, is_parameter_sets, now_ns};

/// Looks at the decrypted packets of one viewer.
#[derive(Debug)]
pub struct Watch {
    camera: Camera,
    seen: Mutex<Seen>,
    /// Packets of media so far, right or wrong.
    arrived: AtomicU64,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Packets that were exactly what the camera sent.
    pub right: u64,
    /// Packets that were damaged, or another camera's.
    pub wrong: u64,
    /// Numbers that a later packet has left out.
    pub lost: u64,
    /// From the camera's `write` to the viewer, in µs.
    pub delays: Vec<u32>,
    next: Option<u64>,
}

impl Watch {
    pub fn new(camera: Camera) -> Self {
        Self { camera, seen: Mutex::default(), arrived: AtomicU64::new(0) }
    }

    /// Takes a decrypted payload; whether it is right.
    pub fn look(&self, payload: &[u8]) -> bool {
        let now = now_ns();
        if !is_parameter_sets(payload) {
            self.arrived.fetch_add(1, Relaxed);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match self.camera.shape.read(payload) {
            Some(Label { camera, number, sent }) if camera == self.camera.number => {
                seen.right += 1;
                seen.lost += number.saturating_sub(seen.next.unwrap_or(number));
                seen.next = Some(seen.next.map_or(0, |next| next.max(number + 1)).max(number + 1));
                seen.delays.push((now.saturating_sub(sent) / 1000).try_into().unwrap_or(u32::MAX));
                true
            }
            None if is_parameter_sets(payload) => true,
            _ => {
                seen.wrong += 1;
                false
            }
        }
    }

    /// Packets of media so far: what servers put between them does not count.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Relaxed)
    }

    /// What was seen since the last call.
    pub fn take(&self) -> Seen {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let next = seen.next;
        std::mem::replace(&mut *seen, Seen { next, ..Seen::default() })
    }
}

/// The time within which this part of all packets came. `delays`: the shortest first.
pub fn quantile(delays: &[u32], part: f64) -> Option<Duration> {
    let place = (delays.len() as f64 * part).ceil() as usize;
    delays.get(place.saturating_sub(1)).map(|micros| Duration::from_micros((*micros).into()))
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::*;

    #[test]
    fn sees_loss_and_damage() {
        let mut bytes = vec![];
        let shape = Shape::default();
        shape.write_frame(&mut bytes, 0, 7, 0, now_ns());
        let payloads: Vec<_> = bytes.chunks(16 + shape.payload).map(|packet| packet[16..].to_vec()).collect();
        let [watch, other] = [7, 8].map(|number| Watch::new(Camera { number, shape }));
        assert!(watch.look(&payloads[0]) && watch.look(&payloads[3]) && watch.look(&[0x78, 0, 1, 0x67]));
        assert!(!watch.look(&payloads[1][1..]) && !other.look(&payloads[1]));
        let seen = watch.take();
        assert_eq!((seen.right, seen.wrong, seen.lost, watch.arrived()), (2, 1, 2, 3));
        assert!(quantile(&seen.delays, 1.0) < Some(Duration::from_secs(5)));
        assert_eq!(watch.take().right, 0);
    }
}
