//! Keystream ahead of time, the producer's side. The protocol: `forwarder_common::keystream`.
//!
//! | file | does |
//! | --- | --- |
//! | `compute`, `vaes512`, `vaes`, `aesni` | the contents of entries |
//! | `ring` | a track's entries, in a BPF map and in our memory |
//! | `stream` | a publisher's rings and those of its subscribers, and how they are filled |
//! | `window` | how many entries |
//! | `producer` | thread: fills the rings of streams whose window runs low |
//! | `install` | thread: puts rings into their tracks' places, and wipes old ones |

#[cfg(target_arch = "x86_64")]
mod aesni;
pub mod compute;
mod install;
mod producer;
mod ring;
mod stream;
#[cfg(target_arch = "x86_64")]
mod vaes;
#[cfg(target_arch = "x86_64")]
mod vaes512;
mod window;

use std::{
    io::Write as _,
    os::{fd::AsFd as _, fd::AsRawFd as _, unix::net::UnixStream},
    sync::{Arc, mpsc},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, RingBuf},
};
use forwarder_common::maps::Window;
use memmap2::{MmapOptions, MmapRaw};

use self::{compute::Backend, install::Installer, producer::Producer};
pub use self::{
    compute::Key,
    producer::{Command, Figures, Settings, Source},
};
use super::{StartError, fanout::Shared, load::describe};

/// The maps of the two threads.
pub struct Parts {
    publishers: Map,
    subscribers: Map,
    windows: MmapRaw,
    low: RingBuf<MapData>,
}

impl Parts {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// [`StartError::Load`]: one is missing, or cannot be mapped.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, StartError> {
        let mut take =
            |name| ebpf.take_map(name).ok_or_else(|| StartError::Load(format!("the object has no map {name}")));
        let windows = match take("WINDOWS")? {
            Map::Array(data) => map_windows(&data).map_err(|error| StartError::Load(format!("WINDOWS: {error}")))?,
            _ => return Err(StartError::Load("WINDOWS is no array".into())),
        };
        let low = RingBuf::try_from(take("KEYSTREAM_LOW")?).map_err(|error| StartError::Load(describe(&error)))?;
        Ok(Self {
            publishers: take("PUBLISHER_KEYSTREAMS")?,
            subscribers: take("SUBSCRIBER_KEYSTREAMS")?,
            windows,
            low,
        })
    }
}

fn map_windows(data: &MapData) -> std::io::Result<MmapRaw> {
    let info = data.info().map_err(std::io::Error::other)?;
    if info.value_size() as usize != size_of::<Window>() {
        return Err(std::io::Error::other(format!("values of {} bytes", info.value_size())));
    }
    let len = info.max_entries() as usize * size_of::<Window>();
    MmapOptions::new().len(len).map_raw(data.fd().as_fd().as_raw_fd())
}

/// By which the engine talks to the producer. Dropping it ends both threads.
pub struct Handle {
    commands: mpsc::Sender<Command>,
    bell: UnixStream,
    pub figures: Arc<Figures>,
}

impl Handle {
    /// Never waits.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // A full pipe rings as well.
            let _ = (&self.bell).write(&[0]);
        }
    }
}

/// A thread's name and what it runs.
pub type Thread = (&'static str, Box<dyn FnOnce() + Send>);

/// Everything but the threads themselves, which the engine starts.
///
/// # Errors
/// [`StartError::Thread`]: no pair of sockets.
pub fn prepare(parts: Parts, shared: Arc<Shared>, settings: Settings) -> Result<(Handle, [Thread; 2]), StartError> {
    let (bell, rung) = UnixStream::pair().map_err(StartError::Thread)?;
    for end in [&bell, &rung] {
        end.set_nonblocking(true).map_err(StartError::Thread)?;
    }
    let (commands, inbox) = mpsc::channel();
    let (installer, changes) = mpsc::channel();
    let figures = Arc::new(Figures::default());
    let backend = Backend::detect();
    tracing::info!(by = backend.name(), memory_mb = settings.memory >> 20, "keystream ahead of time");
    let producer = Producer {
        low: parts.low,
        windows: parts.windows,
        commands: inbox,
        bell: rung,
        installer,
        settings,
        figures: Arc::clone(&figures),
        backend,
        level: window::level(std::iter::empty(), 0),
        held: 0,
    };
    let installer = Installer {
        publishers: parts.publishers,
        subscribers: parts.subscribers,
        shared,
        figures: Arc::clone(&figures),
        inbox: changes,
    };
    let threads: [Thread; 2] =
        [("penstock-keys", Box::new(move || producer.run())), ("penstock-rings", Box::new(move || installer.run()))];
    Ok((Handle { commands, bell, figures }, threads))
}
