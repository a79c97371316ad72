//! A publisher, the forwarder and viewers over bad lines, in virtual time: the protocol logic of repair as the control
//! task uses it (gaps, requests, what is sent again, keyframes, arrivals), with seeds, without sockets and engines.
//!
//! What must hold on any line: no index with two plaintexts; of what a viewer is sent in a second a fifth at most is
//! repairs; memory is bounded; nothing goes on without end. And on lines of people: nearly every frame is decoded.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use crate::stream::keyframe::Keyframes;
use crate::stream::resend::Resend;
use penstock_webrtc::arrivals::Arrivals;
use penstock_webrtc::gaps::{Gaps, Received};

/// Milliseconds.
type Ms = u64;

const PACKET: u64 = 1100;
/// Media lasts so long; what is waited for then has to end by itself.
const MEDIA: Ms = 6_000;
const END: Ms = MEDIA + 8_000;
/// Packets that the forwarder keeps, and for how long.
const KEPT: usize = 512;
const HOLD: Ms = 1_000;
const KEYFRAMES: Duration = Duration::from_millis(500);

struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most.max(1)
    }
}

/// What stands in a packet: the same index must always carry the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    index: u64,
    frame: u64,
    /// Packets of the frame before this one, and in all.
    part: u64,
    parts: u64,
    key: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Media { packet: Packet, number: u16 },
    AskPublisher(u64),
    AskKeyframe,
    ToViewer { viewer: usize, out: u64, packet: Packet },
    AskForwarder { viewer: usize, out: u64 },
    ViewerWantsKeyframe(usize),
}

/// A line in one direction.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// Of 1,000.
    loss: u64,
    delay: Ms,
    /// Up to so much more; one packet in a hundred overtakes others for it.
    jitter: Ms,
}

#[derive(Default)]
struct Publisher {
    next: u64,
    number: u16,
    frame: u64,
    key: bool,
    sent: BTreeMap<u64, Packet>,
    keyframes: u64,
}

struct Viewer {
    line: Line,
    offset: u64,
    resend: Resend,
    /// What was sealed under each outgoing index.
    sealed: BTreeMap<u64, Packet>,
    octets: u64,
    last_out: Option<u64>,
    /// Media and repairs by second, as sent to it.
    seconds: BTreeMap<Ms, (u64, u64)>,
    // From here on what is at its own end.
    got: BTreeMap<u64, BTreeSet<u64>>,
    sizes: BTreeMap<u64, (u64, bool)>,
    highest: Option<u64>,
    /// Missing outgoing indices: when asked for last, and how often.
    missing: BTreeMap<u64, (Ms, u32)>,
    decoded: Option<u64>,
    frames: u64,
    progress: Ms,
}

struct World {
    dice: Dice,
    start: Instant,
    now: Ms,
    queue: BinaryHeap<Reverse<(Ms, u64, Event)>>,
    count: u64,
    uplink: Line,
    /// When the last packet in order arrives, by line: the publisher's, then the viewers'.
    last: Vec<Ms>,
    publisher: Publisher,
    accepted: BTreeSet<u64>,
    store: BTreeMap<u64, (Packet, Ms)>,
    gaps: Option<Gaps>,
    keyframes: Keyframes,
    arrivals: Arrivals,
    told: BTreeSet<u16>,
    viewers: Vec<Viewer>,
}

impl World {
    fn new(seed: u64, uplink: Line, lines: &[Line]) -> Self {
        let start = Instant::now();
        let viewer = |(number, line): (usize, &Line)| Viewer {
            line: *line,
            offset: 70_000 * (number as u64 + 1),
            resend: Resend::new(start, None),
            sealed: BTreeMap::new(),
            octets: 0,
            last_out: None,
            seconds: BTreeMap::new(),
            got: BTreeMap::new(),
            sizes: BTreeMap::new(),
            highest: None,
            missing: BTreeMap::new(),
            decoded: None,
            frames: 0,
            progress: 0,
        };
        Self {
            dice: Dice(seed),
            start,
            now: 0,
            queue: BinaryHeap::new(),
            count: 0,
            uplink,
            last: vec![0; lines.len() + 1],
            publisher: Publisher { next: 65_000, key: true, ..Publisher::default() },
            accepted: BTreeSet::new(),
            store: BTreeMap::new(),
            gaps: None,
            keyframes: Keyframes::default(),
            arrivals: Arrivals::default(),
            told: BTreeSet::new(),
            viewers: lines.iter().enumerate().map(viewer).collect(),
        }
    }

    fn at(&self, ms: Ms) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn send(&mut self, line: Line, event: Event) {
        if self.dice.below(1000) >= line.loss {
            self.count += 1;
            let mut arrives = self.now + line.delay + self.dice.below(line.jitter + 1);
            let lane = match event {
                Event::Media { .. } => Some(0),
                Event::ToViewer { viewer, .. } => Some(viewer + 1),
                _ => None,
            };
            let in_order = self.dice.below(100) > 0;
            if let Some(last) = lane.filter(|_| in_order).and_then(|lane| self.last.get_mut(lane)) {
                arrives = arrives.max(*last);
                *last = arrives;
            }
            self.queue.push(Reverse((arrives, self.count, event)));
        }
    }

    fn play(&mut self) {
        while self.now < END {
            if self.now < MEDIA && self.now.is_multiple_of(33) {
                self.frame();
            }
            while let Some(Reverse((at, ..))) = self.queue.peek() {
                if *at > self.now {
                    break;
                }
                let Some(Reverse((_, _, event))) = self.queue.pop() else { break };
                self.happens(event);
            }
            if self.now.is_multiple_of(10) {
                self.look();
                (0..self.viewers.len()).for_each(|viewer| self.ask(viewer));
            }
            if self.now.is_multiple_of(100) {
                for report in self.arrivals.reports() {
                    let came = report.came.iter().enumerate().filter(|(_, at)| at.is_some());
                    self.told.extend(came.map(|(place, _)| report.first.wrapping_add(place as u16)));
                }
            }
            self.now += 1;
        }
        assert!(self.queue.is_empty(), "something goes on without end: {:?}", self.queue.peek());
    }

    fn frame(&mut self) {
        let key = std::mem::take(&mut self.publisher.key);
        let parts = if key { 20 } else { 4 };
        self.publisher.keyframes += u64::from(key);
        for part in 0..parts {
            let packet = Packet { index: self.publisher.next, frame: self.publisher.frame, part, parts, key };
            self.publisher.next += 1;
            self.publisher.sent.insert(packet.index, packet);
            self.media(packet);
        }
        self.publisher.frame += 1;
        while self.publisher.sent.len() > KEPT {
            self.publisher.sent.pop_first();
        }
    }

    /// Each sending has a number of its own among all.
    fn media(&mut self, packet: Packet) {
        let number = self.publisher.number;
        self.publisher.number = number.wrapping_add(1);
        self.send(self.uplink, Event::Media { packet, number });
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Media { packet, number } => {
                self.arrivals.came(number, self.now * 1_000_000);
                self.accept(packet);
            }
            Event::AskPublisher(index) => {
                if let Some(packet) = self.publisher.sent.get(&index).copied() {
                    self.media(packet);
                }
            }
            Event::AskKeyframe => self.publisher.key = true,
            Event::ToViewer { viewer, out, packet } => self.viewers[viewer].take(self.now, out, packet),
            Event::AskForwarder { viewer, out } => self.again(viewer, out),
            Event::ViewerWantsKeyframe(_) => self.keyframes.want(),
        }
    }

    fn accept(&mut self, packet: Packet) {
        if !self.accepted.insert(packet.index) {
            return;
        }
        self.store.insert(packet.index, (packet, self.now));
        while self.store.len() > KEPT {
            self.store.pop_first();
        }
        for viewer in 0..self.viewers.len() {
            self.forward(viewer, packet, false);
        }
    }

    fn forward(&mut self, viewer: usize, packet: Packet, again: bool) {
        let second = self.now / 1000;
        let to = &mut self.viewers[viewer];
        let out = packet.index + to.offset;
        let before = *to.sealed.entry(out).or_insert(packet);
        assert_eq!(before, packet, "two plaintexts under index {out}");
        to.last_out = to.last_out.max(Some(out));
        let (media, repairs) = to.seconds.entry(second).or_default();
        if again {
            *repairs += PACKET;
        } else {
            *media += PACKET;
            to.octets += PACKET;
        }
        let line = to.line;
        self.send(line, Event::ToViewer { viewer, out, packet });
    }

    /// As `task/feedback.rs` does for a NACK.
    fn again(&mut self, viewer: usize, out: u64) {
        let (now, at) = (self.at(self.now), self.now);
        let to = &mut self.viewers[viewer];
        let (octets, rtt) = (to.octets, Duration::from_millis(2 * to.line.delay));
        let admitted = to.resend.admit(out as u16, now, Some(rtt), || octets).is_ok();
        let sent = to.last_out.is_some_and(|last| out <= last);
        if !sent {
            return;
        }
        let index = out - to.offset;
        let kept = self.store.get(&index).filter(|(_, since)| since + HOLD >= at).map(|(packet, _)| *packet);
        match kept {
            Some(packet) if admitted => {
                to.resend.sent(out as u16, now, PACKET as usize);
                self.forward(viewer, packet, true);
            }
            Some(_) => {}
            None if self.gaps.as_ref().is_some_and(|gaps| gaps.waits_for(index)) => {}
            None => {
                if to.resend.wants_keyframe(now) {
                    self.keyframes.want();
                }
            }
        }
    }

    /// As `task/asking.rs` does every 10 ms.
    fn look(&mut self) {
        let now = self.at(self.now);
        if let Some(highest) = self.accepted.last().copied() {
            let gaps = self.gaps.get_or_insert_with(|| Gaps::new(highest));
            let floor = highest.saturating_sub(2047);
            let from = gaps.from().max(floor);
            let missing = (from..=highest).filter(|index| !self.accepted.contains(index)).collect();
            let look = gaps.look(now, &Received { floor, highest, missing });
            assert!(look.ask.iter().all(|index| !self.accepted.contains(index)), "asked for what is there");
            if look.given_up > 0 {
                self.keyframes.want();
            }
            look.ask.into_iter().for_each(|index| self.send(self.uplink, Event::AskPublisher(index)));
        }
        if self.now < MEDIA && self.keyframes.take(now, KEYFRAMES) {
            self.send(self.uplink, Event::AskKeyframe);
        }
    }

    /// A viewer asks for what it lacks, once in a round trip and ten times at most, and for a keyframe when its picture
    /// stands still for long.
    fn ask(&mut self, viewer: usize) {
        let now = self.now;
        let to = &mut self.viewers[viewer];
        let patience = 2 * to.line.delay + 10;
        to.missing.retain(|_, (_, times)| *times < 10);
        let due = to.missing.iter_mut().filter(|(_, (asked, _))| *asked + patience <= now || *asked == 0);
        let wanted: Vec<u64> = due
            .map(|(out, (asked, times))| {
                (*asked, *times) = (now.max(1), *times + 1);
                *out
            })
            .collect();
        // Chromium's: three seconds, and a fifth of one before the first request.
        let still = if to.progress == 0 { 200 } else { 3000 };
        let stands = now < MEDIA && to.highest.is_some() && now >= to.progress + still;
        if stands {
            to.progress = now;
        }
        let line = to.line;
        wanted.into_iter().for_each(|out| self.send(line, Event::AskForwarder { viewer, out }));
        if stands {
            self.send(line, Event::ViewerWantsKeyframe(viewer));
        }
    }
}

impl Viewer {
    fn take(&mut self, now: Ms, out: u64, packet: Packet) {
        self.missing.remove(&out);
        if let Some(highest) = self.highest {
            self.missing.extend((highest + 1..out).map(|missing| (missing, (0, 0))));
        }
        self.highest = self.highest.max(Some(out));
        self.got.entry(packet.frame).or_default().insert(packet.part);
        self.sizes.insert(packet.frame, (packet.parts, packet.key));
        // In order: a frame needs the one before it, or begins anew.
        loop {
            let whole =
                |frame: &u64| self.got.get(frame).map(BTreeSet::len) == self.sizes.get(frame).map(|s| s.0 as usize);
            let next = self.decoded.map(|last| last + 1).filter(|next| self.sizes.contains_key(next)).filter(whole);
            let after = self.decoded.map_or(0, |last| last + 1);
            let keys = self.sizes.range(after..).filter(|(_, (_, key))| *key).map(|(frame, _)| *frame);
            let Some(frame) = next.or_else(|| keys.filter(whole).max()) else { return };
            (self.decoded, self.progress) = (Some(frame), now);
            self.frames += 1;
            // What lies before it is of no use any more.
            self.got.retain(|other, _| *other > frame);
            self.sizes.retain(|other, _| *other > frame);
        }
    }

    /// Of what it was sent in each second, a fifth was repairs at most; a little is allowed in any case.
    fn repairs_are_bounded(&self) -> bool {
        let mut before = 0;
        self.seconds.values().all(|(media, repairs)| {
            let most = std::mem::replace(&mut before, *media).max(*media) / 5;
            *repairs <= 2 * most.max(4000) + PACKET
        })
    }
}

fn line(loss: u64, delay: Ms, jitter: Ms) -> Line {
    Line { loss, delay, jitter }
}

/// Frames sent, and the least that a viewer has decoded; keyframes.
fn play(seed: u64, uplink: Line, lines: &[Line]) -> (u64, u64, u64) {
    let mut world = World::new(seed, uplink, lines);
    world.play();
    for viewer in &world.viewers {
        assert!(viewer.repairs_are_bounded(), "seed {seed}: {:?}", viewer.seconds);
        assert!(viewer.missing.len() < 2048 && viewer.sizes.len() < 400, "seed {seed}");
    }
    let gaps = world.gaps.as_ref().expect("something has come");
    assert!(!gaps.is_waiting(), "seed {seed}: something is waited for without end");
    assert!(world.store.len() <= KEPT);
    // Each half a second, no more, whatever the viewers ask for.
    assert!(world.publisher.keyframes <= 2 * MEDIA / 1000 + 2, "seed {seed}: {} keyframes", world.publisher.keyframes);
    let least = world.viewers.iter().map(|viewer| viewer.frames).min().unwrap_or_default();
    (world.publisher.frame, least, world.publisher.keyframes)
}

#[test]
fn on_the_lines_of_people_nearly_every_frame_is_decoded() {
    const SEEDS: u64 = 60;
    let (mut all, mut few, mut keyframes) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut dice = Dice(seed ^ 0x5eed);
        let mut any = |loss| line(dice.below(loss), 5 + dice.below(95), dice.below(15));
        let (uplink, lines) = (any(30), [any(50), any(50), any(50)]);
        let (sent, decoded, keys) = play(seed, uplink, &lines);
        all += decoded * 1000 / sent;
        // Whose first keyframe is lost, and the request for another one with it, waits for three seconds.
        few += u64::from(decoded * 100 < sent * 80);
        keyframes += keys;
    }
    let told = format!("{} of 1,000 frames, {few} of {SEEDS} lines, {keyframes} keyframes", all / SEEDS);
    assert!(all / SEEDS >= 880 && few <= SEEDS / 10, "{told}");
}

/// Whatever is lost: bounded, and it ends.
#[test]
fn on_any_line_everything_is_bounded_and_ends() {
    for seed in 0..60 {
        let mut dice = Dice(seed ^ 0xbad);
        let mut any = || line(dice.below(700), dice.below(300), dice.below(60));
        let (uplink, lines) = (any(), [any(), any(), any()]);
        play(seed, uplink, &lines);
    }
}

/// One bad viewer does not cost the others theirs.
#[test]
fn fifty_viewers_one_of_them_beyond_help() {
    let mut lines = vec![line(10, 20, 5); 49];
    lines.push(line(600, 50, 5));
    let mut world = World::new(7, line(0, 10, 0), &lines);
    world.play();
    let (sent, least) = (world.publisher.frame, world.viewers[..49].iter().map(|viewer| viewer.frames).min());
    assert!(least.is_some_and(|least| least * 100 >= sent * 95), "{least:?} of {sent}");
    assert!(world.publisher.keyframes <= 6, "{} keyframes in {} s", world.publisher.keyframes, MEDIA / 1000);
    // On a line without loss its publisher is told that all has come.
    assert_eq!(world.told.len(), usize::from(world.publisher.number));
}
