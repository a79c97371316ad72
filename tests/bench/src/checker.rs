//! Receivers that open every copy and compare it with what was sent.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use forwarder_common::ExtendedSeq;
use tests_engine::wire::Tap;
use tests_kit::{frame::Frame, srtp::Key};

use super::{
    case::Case,
    scene::{self, BEFORE_FIRST, HEADER, RECEIVER_INTERFACE, Scene, VIEWER_PORT},
};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Copies that were exactly what was sent, sealed for their viewer.
    pub right: u64,
    pub wrong: u64,
    /// Right, and a second time.
    pub repeated: u64,
    /// Copies that came but were not looked at: the checker was too slow.
    pub missed: u64,
    /// What was wrong with the first wrong one.
    pub first: Option<String>,
}

/// Judges copies one by one.
pub struct Judge {
    case: Case,
    keys: Vec<Key>,
    /// By viewer: index of the highest copy, and those that have come.
    highest: Vec<u64>,
    come: HashMap<u32, std::collections::HashSet<u64>>,
    verdict: Verdict,
}

impl Judge {
    pub fn new(case: &Case) -> Self {
        let viewers = 0..case.all_viewers();
        let (keys, highest) =
            (viewers.clone().map(scene::viewer_key).collect(), viewers.map(|_| BEFORE_FIRST).collect());
        Self { case: *case, keys, highest, come: HashMap::new(), verdict: Verdict::default() }
    }

    /// A frame arrived.
    pub fn look(&mut self, frame: &[u8]) {
        match self.open(frame) {
            Ok((viewer, index)) if self.come.entry(viewer).or_default().insert(index) => self.verdict.right += 1,
            Ok(_) => self.verdict.repeated += 1,
            Err(error) => {
                self.verdict.wrong += 1;
                self.verdict.first.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    fn open(&mut self, frame: &[u8]) -> Result<(u32, u64)> {
        let frame = Frame::parse(frame)?;
        ensure!(frame.source == scene::locals()[1], "from {}", frame.source);
        let viewer = u32::from(frame.destination.port().wrapping_sub(VIEWER_PORT));
        let key = self.keys.get(viewer as usize).with_context(|| format!("to {}", frame.destination))?;
        let packet = frame.payload;
        ensure!(packet.len() > HEADER, "{} bytes", packet.len());
        let highest = &mut self.highest[viewer as usize];
        let seq = u16::from_be_bytes([packet[2], packet[3]]);
        let index = ExtendedSeq(*highest).estimate(seq).context("no index")?.0;
        let plain = key.open(&packet, HEADER, index).with_context(|| format!("viewer {viewer}, {index}: wrong tag"))?;
        let mut expected = scene::blank(self.case.payload);
        scene::stamp(&mut expected, viewer / self.case.viewers, scene::viewer_ssrc(viewer), index);
        ensure!(packet[..HEADER] == expected[..HEADER], "viewer {viewer}, {index}: header {:02x?}", &packet[..HEADER]);
        ensure!(plain == expected[HEADER..], "viewer {viewer}, {index}: another payload");
        *highest = (*highest).max(index);
        Ok((viewer, index))
    }

    /// What was found until now.
    pub fn verdict(self) -> Verdict {
        self.verdict
    }
}

/// A thread that judges what arrives.
pub struct Checker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Verdict>>,
}

impl Checker {
    /// Listens at the receivers' end.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(scene: &Scene, case: &Case) -> Result<Self> {
        let interface = scene.receivers.ifindex(RECEIVER_INTERFACE)?;
        let tap = scene.receivers.run(|| Tap::open(interface))?;
        let mut judge = Judge::new(case);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("checker".into()).spawn(move || {
            loop {
                match tap.receive(Duration::from_millis(100))? {
                    Some(frame) => judge.look(&frame),
                    None if stopped.load(Relaxed) => break,
                    None => {}
                }
            }
            let mut verdict = judge.verdict();
            verdict.missed = tap.lost()?.into();
            Ok(verdict)
        })?;
        Ok(Self { stop, thread })
    }

    /// Judges what has arrived, and ends.
    ///
    /// # Errors
    /// What the system said.
    pub fn finish(self) -> Result<Verdict> {
        self.stop.store(true, Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the checker panicked"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy as the server should make it.
    fn copy(case: &Case, viewer: u32, index: u64) -> Vec<u8> {
        let mut packet = scene::blank(case.payload);
        scene::stamp(&mut packet, viewer / case.viewers, scene::viewer_ssrc(viewer), index);
        let sealed = scene::viewer_key(viewer).seal(&packet[..HEADER], &packet[HEADER..], index);
        Frame::new(scene::locals()[1], scene::viewer(viewer), sealed).build()
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let case = Case::fan_out(2, 100);
        let right = copy(&case, 1, BEFORE_FIRST + 1);
        let mut judge = Judge::new(&case);
        judge.look(&right);
        judge.look(&right);
        // Behind the Ethernet header, whose addresses nothing protects.
        let places = 12..right.len();
        for place in places.clone() {
            let mut wrong = right.clone();
            wrong[place] ^= 1;
            judge.look(&wrong);
        }
        let verdict = judge.verdict();
        assert_eq!((verdict.right, verdict.repeated, verdict.wrong), (1, 1, places.len() as u64), "{verdict:?}");
    }

    #[test]
    fn a_copy_for_another_viewer_is_wrong() {
        let case = Case::fan_out(2, 100);
        let mut frame = Frame::parse(&copy(&case, 0, BEFORE_FIRST + 1)).unwrap();
        frame.destination = scene::viewer(1);
        let mut judge = Judge::new(&case);
        judge.look(&frame.build());
        assert_eq!(judge.verdict().wrong, 1);
    }
}
