//! One thread's transmitter.

use std::{
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    thread,
    time::{Duration, Instant},
};

use forwarder_common::rtp::{FIXED_LEN, TAG_LEN};
use forwarder_common::transmit::{
    BATCH, ETHERTYPE, FRAME_ROOM, OutFrame, SIZES, TICKET_NUMBER_BITS, TICKET_OFFSET, Trigger, size_for,
};
use socket2::Socket;

use super::{
    BANK, BANK_TRIGGERS, DEVICES, FRAMES, LEAST_AT_ONCE, Shared, TRIGGERS,
    headers::{self, Checksum},
};
use crate::transmit::{Destination, Sent, Transmitter};

/// Smallest Ethernet frame, without its checksum.
const MIN_FRAME: usize = 60;

/// The programs have run before `send` returns, unless the machine has put them off. They are given up
/// after this time: their device has gone, or takes no redirected frames any more.
const PATIENCE: Duration = Duration::from_millis(20);

/// So long a device may refuse frames because its ring is full, before they are dropped. The thread
/// waits with all that it has to send, also by other devices.
const FULL: Duration = Duration::from_millis(4);

/// How often a thread looks whether things have moved, before it sleeps between looks.
const LOOKS: u32 = 100;
const NAP: Duration = Duration::from_micros(50);

/// A frame that waits to be sent.
struct Waiting {
    frame: u32,
    device: usize,
    len: usize,
    checksum: Option<Checksum>,
}

/// A trigger that has been sent.
#[derive(Clone, Copy)]
struct Fired {
    number: u32,
    device: usize,
    frames: u64,
    /// Of these, counted as sent.
    counted: u64,
}

/// What has become of a trigger's frames.
struct Progress {
    /// Frames whose fate is known.
    known: u64,
    /// Of these, refused by the device: by place in the trigger's list.
    refused: [u64; BATCH / 64],
}

impl Progress {
    fn taken(&self) -> u64 {
        let refused: u32 = self.refused.iter().map(|bits| bits.count_ones()).sum();
        self.known.saturating_sub(refused.into())
    }
}

/// See the module.
pub struct XdpTransmitter {
    shared: Arc<Shared>,
    socket: Socket,
    /// Numbers of the first frame and trigger that are this thread's.
    first_frame: u32,
    first_trigger: u32,
    /// Which half of them is filled.
    bank: usize,
    waiting: Vec<Waiting>,
    /// Of these, frames for one device.
    chosen: Vec<u32>,
    fired: [Vec<Fired>; 2],
    /// Frames that devices have refused, to be sent again: device and frame.
    refused: Vec<(usize, u32)>,
    /// Tickets given out; they never come again.
    tickets: u64,
    /// Frames of a trigger at most.
    at_once: usize,
    sent: Sent,
}

impl XdpTransmitter {
    pub(super) fn new(shared: Arc<Shared>, number: usize, socket: Socket) -> Self {
        Self {
            shared,
            socket,
            first_frame: (number * FRAMES) as u32,
            first_trigger: (number * TRIGGERS) as u32,
            bank: 0,
            waiting: Vec::with_capacity(BANK),
            chosen: Vec::with_capacity(BANK),
            fired: [Vec::with_capacity(BANK_TRIGGERS), Vec::with_capacity(BANK_TRIGGERS)],
            refused: Vec::with_capacity(BANK),
            tickets: 0,
            at_once: BATCH,
            sent: Sent::default(),
        }
    }

    /// Sends so many frames at once, at most; [`LEAST_AT_ONCE`] to [`BATCH`].
    pub fn send_at_once(&mut self, frames: usize) {
        self.at_once = frames.clamp(LEAST_AT_ONCE, BATCH);
    }

    fn frame(&self, number: u32) -> *mut OutFrame {
        assert!(number as usize * size_of::<OutFrame>() < self.shared.frames.len(), "outside of the frames");
        // SAFETY: within the mapping.
        unsafe { self.shared.frames.as_mut_ptr().cast::<OutFrame>().add(number as usize) }
    }

    fn trigger(&self, number: u32) -> *mut Trigger {
        assert!(number as usize * size_of::<Trigger>() < self.shared.triggers.len(), "outside of the triggers");
        // SAFETY: within the mapping.
        unsafe { self.shared.triggers.as_mut_ptr().cast::<Trigger>().add(number as usize) }
    }

    /// The bytes of one of this thread's frames that no trigger lists.
    fn bytes(&mut self, number: u32) -> &mut [u8] {
        let frame = self.frame(number);
        // SAFETY: this thread's own frame, and no program reads it to any effect: its ticket is 0.
        unsafe { &mut (&mut (*frame).bytes)[..] }
    }

    /// Finishes what waits for one device, and sends it.
    fn fire(&mut self, device: usize) {
        let mut chosen = std::mem::take(&mut self.chosen);
        chosen.clear();
        for Waiting { frame, len, checksum, .. } in self.waiting.iter().filter(|waiting| waiting.device == device) {
            let out = self.frame(*frame);
            // SAFETY: this thread's own frame, whose ticket is 0; the length lies within the room.
            unsafe {
                if let Some(checksum) = checksum {
                    let _ = checksum.fill_in(&mut (&mut (*out).bytes)[..*len]);
                }
                (*out).len = *len as u32;
            }
            chosen.push(*frame);
        }
        self.launch(self.bank, device, &chosen);
        self.chosen = chosen;
    }

    /// Sends finished frames of a bank by a device, with as few triggers as it takes.
    fn launch(&mut self, bank: usize, device: usize, frames: &[u32]) {
        let mut rest = frames;
        while let Some(size) = size_for(rest.len().min(self.at_once)) {
            let (now, later) = rest.split_at(SIZES[size] as usize);
            rest = later;
            let place = bank * BANK_TRIGGERS + self.fired[bank].len();
            let number = self.first_trigger + place as u32;
            self.tickets += 1;
            let ticket = self.tickets << TICKET_NUMBER_BITS | u64::from(number);
            let trigger = self.trigger(number);
            // SAFETY: this thread's own trigger, which is done or given up; programs that still hold its
            // last ticket do not find it again, and change `cursor` at most.
            unsafe {
                (*trigger).ticket.store(0, Ordering::SeqCst);
                (*trigger).done.store(0, Ordering::SeqCst);
                (*trigger).reported.store(0, Ordering::SeqCst);
                (*trigger).refused.iter().for_each(|bits| bits.store(0, Ordering::SeqCst));
                (*trigger).set = (device * SIZES.len() + size) as u32;
                (*trigger).len = now.len() as u32;
                (*trigger).cursor = 0;
            }
            let mut longest = MIN_FRAME;
            for (place, frame) in now.iter().enumerate() {
                let out = self.frame(*frame);
                // SAFETY: this thread's own frame, finished, that no trigger in force lists.
                unsafe {
                    longest = longest.max((*out).len as usize);
                    (*out).ticket.store(ticket, Ordering::Release);
                    (*trigger).frames[place] = *frame;
                }
            }
            // SAFETY: as above. Last, so that whoever finds the ticket finds the list.
            unsafe { (*trigger).ticket.store(ticket, Ordering::Release) };
            self.sent.calls += 1;
            // Clones are as long as the packet, and the last of them is the packet itself, which has no
            // room to grow.
            let mut packet = [0; FRAME_ROOM];
            packet[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
            packet[TICKET_OFFSET..TICKET_OFFSET + 8].copy_from_slice(&ticket.to_ne_bytes());
            let fired = Fired { number, device, frames: now.len() as u64, counted: 0 };
            self.fired[bank].push(fired);
            if self.socket.send(&packet[..longest]).is_err() {
                self.abandon(&fired);
                self.fired[bank].pop();
            }
        }
    }

    fn progress(&self, fired: &Fired) -> Progress {
        let trigger = self.trigger(fired.number);
        // SAFETY: atomics of a trigger of this thread. The number before the bits: the programs write
        // them in the other order.
        unsafe {
            let known = if self.shared.reports { &(*trigger).reported } else { &(*trigger).done };
            let known = known.load(Ordering::Acquire).min(fired.frames);
            Progress { known, refused: std::array::from_fn(|at| (*trigger).refused[at].load(Ordering::Acquire)) }
        }
    }

    /// Counts what a bank's triggers have done. Says whether all are done; what was refused is in
    /// `refused` then.
    fn collect(&mut self, bank: usize) -> bool {
        let (mut all, mut refusals) = (true, false);
        for at in 0..self.fired[bank].len() {
            let fired = self.fired[bank][at];
            let progress = self.progress(&fired);
            let taken = progress.taken();
            self.sent.packets += taken.saturating_sub(fired.counted);
            self.fired[bank][at].counted = taken.max(fired.counted);
            all &= progress.known == fired.frames;
            refusals |= taken != progress.known;
        }
        if all && refusals {
            self.note_refused(bank);
        }
        if all {
            self.fired[bank].clear();
        }
        all
    }

    /// Puts down which frames of a bank that is done were refused.
    fn note_refused(&mut self, bank: usize) {
        for at in 0..self.fired[bank].len() {
            let fired = self.fired[bank][at];
            let refused = self.progress(&fired).refused;
            let is_refused = |place: &usize| refused[place / 64] >> (place % 64) & 1 == 1;
            for place in (0..fired.frames as usize).filter(is_refused) {
                // SAFETY: this thread's own trigger, which is done.
                let frame = unsafe { (*self.trigger(fired.number)).frames[place] };
                self.refused.push((fired.device, frame));
            }
        }
    }

    /// Waits until a bank's frames may be written again.
    fn wait(&mut self, bank: usize) {
        let start = Instant::now();
        let mut looks = 0;
        while !self.collect(bank) {
            if start.elapsed() > PATIENCE {
                for fired in std::mem::take(&mut self.fired[bank]) {
                    if self.abandon(&fired) == 0 {
                        self.shared.give_up(fired.device);
                    }
                }
                return;
            }
            pause(&mut looks);
        }
        self.send_again(bank);
    }

    /// Sends again what devices have refused of a bank that is done: as it is, sealed once, so nothing
    /// new comes under its indices. What a device still refuses after a while is dropped.
    fn send_again(&mut self, bank: usize) {
        if self.refused.is_empty() {
            return;
        }
        let start = Instant::now();
        let mut looks = LOOKS;
        while !self.refused.is_empty() {
            if start.elapsed() > FULL {
                self.sent.dropped += self.refused.len() as u64;
                return self.refused.clear();
            }
            pause(&mut looks);
            let refused = std::mem::take(&mut self.refused);
            self.sent.resent += refused.len() as u64;
            for device in 0..DEVICES {
                let of_device = refused.iter().filter(|(refusing, _)| *refusing == device);
                let frames: Vec<u32> = of_device.map(|(_, frame)| *frame).collect();
                self.launch(bank, device, &frames);
            }
            if !self.collect(bank) {
                // The programs were put off. Whoever waits for the bank sees to the rest.
                return;
            }
        }
    }

    /// Gives up a trigger: what it has not sent is lost, and will not be sent any more. Returns how much
    /// it has sent.
    fn abandon(&mut self, fired: &Fired) -> u64 {
        // SAFETY: this thread's own trigger.
        unsafe { (*self.trigger(fired.number)).ticket.store(0, Ordering::SeqCst) };
        let taken = self.progress(fired).taken().max(fired.counted);
        self.sent.packets += taken - fired.counted;
        self.sent.dropped += fired.frames - taken;
        taken
    }
}

/// Between two looks at what the kernel does.
fn pause(looks: &mut u32) {
    *looks += 1;
    if *looks < LOOKS { thread::yield_now() } else { thread::sleep(NAP) }
}

impl Transmitter for XdpTransmitter {
    fn name(&self) -> &'static str {
        "xdp"
    }

    fn reaches(&self, to: &Destination) -> bool {
        to.path.as_ref().is_some_and(|path| self.shared.device(path.egress_ifindex).is_some())
    }

    fn reserve(&mut self, to: &Destination, len: usize) -> Option<&mut [u8]> {
        let path = to.path.as_ref();
        let device = path.and_then(|path| self.shared.device(path.egress_ifindex));
        let (Some(path), Some(device)) = (path, device) else {
            self.sent.dropped += 1;
            return None;
        };
        let header_len = usize::from(path.header_len);
        if len > usize::from(path.max_payload) + FIXED_LEN + TAG_LEN {
            self.sent.too_big += 1;
            return None;
        }
        if len == 0 || header_len + len > FRAME_ROOM {
            self.sent.dropped += 1;
            return None;
        }
        if self.waiting.len() == BANK {
            self.flush();
        }
        if self.waiting.is_empty() {
            // What the bank's last triggers have left behind.
            self.wait(self.bank);
        }
        let frame = self.first_frame + (self.bank * BANK + self.waiting.len()) as u32;
        // SAFETY: an atomic of a frame of this thread. From here on no program sends the frame.
        unsafe { (*self.frame(frame)).ticket.store(0, Ordering::Relaxed) };
        // The writes that follow must not be seen before.
        fence(Ordering::Release);
        if headers::write(self.bytes(frame), (path, to.dscp.field()), len).is_none() {
            self.sent.dropped += 1;
            return None;
        }
        self.waiting.push(Waiting { frame, device, len: header_len + len, checksum: Checksum::of(path) });
        self.bytes(frame).get_mut(header_len..header_len + len)
    }

    fn cancel(&mut self) {
        if self.waiting.pop().is_some() {
            self.sent.dropped += 1;
        }
    }

    fn flush(&mut self) {
        if !self.waiting.is_empty() {
            for device in 0..DEVICES {
                if self.waiting.iter().any(|waiting| waiting.device == device) {
                    self.fire(device);
                }
            }
            self.waiting.clear();
            self.bank ^= 1;
        }
        // As a rule everything is done by now.
        for bank in 0..2 {
            if self.collect(bank) {
                self.send_again(bank);
            }
        }
    }

    fn sent(&self) -> Sent {
        self.sent
    }
}
