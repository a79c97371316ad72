//! Sends by XDP: finished frames lie in memory that the kernel sees too, and one packet on a private
//! veth makes the XDP broadcast send up to 128 of them, to any mix of viewers behind a device. The
//! protocol: `forwarder_common::transmit`.
//!
//! | file | does |
//! | --- | --- |
//! | here | the programs, their maps, and the devices that can be sent by |
//! | `wire` | the private network namespace, its veth pairs, and the sockets that send tickets |
//! | `sender` | one thread's transmitter |
//! | `headers` | Ethernet, IP and UDP of a frame |

mod headers;
mod sender;
mod wire;

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{Program, ProgramFd, Xdp},
};
use forwarder_common::transmit::{OutFrame, SIZES, Trigger};
use memmap2::{MmapOptions, MmapRaw};
use socket2::Socket;

pub use self::sender::XdpTransmitter;
use crate::bpf::{
    check, describe,
    load::refused,
    object,
    outer::{Batch, new_devmap},
};

/// Devices that can be sent by.
const DEVICES: usize = 8;

/// Frames of one transmitter: two banks, one that is filled and one that is sent.
const BANK: usize = forwarder_common::transmit::BATCH;
const FRAMES: usize = 2 * BANK;

/// The least that a transmitter may be told to send at once.
const LEAST_AT_ONCE: usize = 32;

/// Triggers of a bank: full ones, and with [`SIZES`] at most two for the rest of each device's share.
const BANK_TRIGGERS: usize = BANK / LEAST_AT_ONCE + 2 * DEVICES;
const TRIGGERS: usize = 2 * BANK_TRIGGERS;

/// The programs, ready to send for a number of threads.
pub struct XdpSender {
    shared: Arc<Shared>,
    egress: ProgramFd,
    /// `DEVICE_SETS`, which keeps the devmaps alive.
    sets: Mutex<Map>,
    /// One for each thread, until it takes it.
    sockets: Mutex<Vec<(usize, Socket)>>,
    /// Programs and their links.
    _ebpf: Ebpf,
}

/// What all threads read.
struct Shared {
    frames: MmapRaw,
    triggers: MmapRaw,
    /// Whether the programs hear what devices refuse. Else all that was copied counts as sent.
    reports: bool,
    /// Interface indices of the devices that have their devmaps; 0: none.
    devices: [AtomicU32; DEVICES],
}

impl Shared {
    fn device(&self, ifindex: u32) -> Option<usize> {
        self.devices.iter().position(|device| device.load(Ordering::Acquire) == ifindex && ifindex != 0)
    }

    /// The device has not taken what it was given: it is not used before it has been looked at again.
    fn give_up(&self, device: usize) {
        let ifindex = self.devices[device].swap(0, Ordering::AcqRel);
        if ifindex != 0 {
            tracing::warn!(
                ifindex,
                "frames were not taken in time: viewers behind it get theirs by sockets for a while"
            );
        }
    }
}

impl XdpSender {
    /// Loads the programs, and makes what `threads` transmitters need.
    ///
    /// # Errors
    /// A reason for people.
    pub fn start(threads: usize) -> Result<Self, String> {
        let (frames, triggers) = (threads * FRAMES, threads * TRIGGERS);
        let object = object::transmit().map_err(|missing| missing.to_string())?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("FRAMES", frames as u32)
            .map_max_entries("TRIGGERS", triggers as u32)
            .map_max_entries("DEVICE_SETS", (DEVICES * SIZES.len()) as u32)
            .load(object)
            .map_err(|error| describe(&error))?;
        let (mut egress, mut reports) = (None, false);
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::Xdp(program) => {
                    program.load().map_err(|error| refused(name, error).to_string())?;
                    if name == "penstock_transmit" {
                        egress = Some(program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|e| describe(&e))?);
                    }
                }
                Program::RawTracePoint(program) => {
                    let attached = program.load().and_then(|()| program.attach("xdp_devmap_xmit"));
                    reports = attached.is_ok();
                    if let Err(error) = attached {
                        tracing::warn!(
                            "what full transmit rings drop is neither counted nor sent again: {}",
                            describe(&error)
                        );
                    }
                }
                _ => {}
            }
        }
        let shared = Shared {
            frames: map(&mut ebpf, "FRAMES", size_of::<OutFrame>(), frames)?,
            triggers: map(&mut ebpf, "TRIGGERS", size_of::<Trigger>(), triggers)?,
            reports,
            devices: Default::default(),
        };
        let outer = ebpf.take_map("DEVICE_SETS").ok_or("the object has no DEVICE_SETS")?;
        let trigger = ebpf.program_mut("penstock_trigger").ok_or("the object has no penstock_trigger")?;
        let trigger: &mut Xdp = trigger.try_into().map_err(|error| describe(&error))?;
        let sockets = wire::lay(threads, trigger)?;
        Ok(Self {
            shared: Arc::new(shared),
            egress: egress.ok_or("the object has no penstock_transmit")?,
            sets: Mutex::new(outer),
            sockets: Mutex::new(sockets.into_iter().enumerate().collect()),
            _ebpf: ebpf,
        })
    }

    /// A transmitter for one thread. `None`: there are as many as were planned.
    pub fn transmitter(&self) -> Option<XdpTransmitter> {
        let (number, socket) = self.sockets.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        Some(XdpTransmitter::new(Arc::clone(&self.shared), number, socket))
    }

    /// Makes sure that frames can be sent by a device. Takes some 20 ms for a new one.
    ///
    /// # Errors
    /// A reason for people.
    pub fn add_device(&self, ifindex: u32) -> Result<(), String> {
        if self.shared.device(ifindex).is_some() {
            return Ok(());
        }
        let outer = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.shared.devices.iter().position(|device| device.load(Ordering::Relaxed) == 0);
        let device = free.ok_or_else(|| format!("frames leave by {DEVICES} other devices already"))?;
        let devmaps = SIZES.iter().map(|size| self.devmap(ifindex, *size)).collect::<Result<Vec<_>, String>>()?;
        let mut batch = Batch::default();
        for (place, devmap) in devmaps.iter().enumerate() {
            batch.add((device * SIZES.len() + place) as u32, devmap.as_fd());
        }
        batch.write(&outer).map_err(|error| format!("device sets: {error}"))?;
        self.shared.devices[device].store(ifindex, Ordering::Release);
        Ok(())
    }

    /// A devmap of so many times one device, with our program on each entry.
    fn devmap(&self, ifindex: u32, size: u32) -> Result<OwnedFd, String> {
        let (mut devmap, fd) = new_devmap(size).map_err(|error| describe(&error))?;
        for entry in 0..size {
            devmap.set(entry, ifindex, Some(&self.egress), 0).map_err(|error| describe(&error))?;
        }
        Ok(fd)
    }
}

/// Can frames be sent by XDP? Makes all that one thread needs, and takes it away again: for `penstock doctor`.
///
/// # Errors
/// Why not.
pub fn probe() -> Result<(), String> {
    check::capabilities().and_then(|()| check::kernel()).map_err(|error| error.to_string())?;
    XdpSender::start(1).map(drop)
}

/// A map in our memory.
fn map(ebpf: &mut Ebpf, name: &str, value: usize, entries: usize) -> Result<MmapRaw, String> {
    let Some(Map::Array(data)) = ebpf.map(name) else { return Err(format!("the object has no array {name}")) };
    let info = data.info().map_err(|error| describe(&error))?;
    if (info.value_size() as usize, info.max_entries() as usize) != (value, entries) {
        return Err(format!("{name} has {} values of {} bytes", info.max_entries(), info.value_size()));
    }
    let mapped = MmapOptions::new().len(value * entries).map_raw(data.fd().as_fd().as_raw_fd());
    mapped.map_err(|error| format!("{name}: {error}"))
}
