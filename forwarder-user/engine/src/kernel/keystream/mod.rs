//! Keystream ahead of time, the producer's side. The protocol: `forwarder_common::keystream`.
//!
//! | file | does |
//! | --- | --- |
//! | `command` | what the engine tells the producer |
//! | `job`, `compute`, `vaes512`, `vaes`, `aesni` | the contents of entries |
//! | `ring` | a track's entries, in a BPF map and in our memory |
//! | `stream` | a publisher's rings and those of its subscribers, and how they are filled |
//! | `window` | how many entries |
//! | `producer` | thread: fills the rings of streams whose window runs low |
//! | `install` | thread: puts rings into their tracks' places, and wipes old ones |
//! | `figures` | what is counted |

#[cfg(target_arch = "x86_64")]
mod aesni;
mod command;
pub mod compute;
mod figures;
mod install;
mod job;
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
    os::unix::net::UnixStream,
    sync::{Arc, mpsc},
};

pub use self::{
    command::{Command, Owner, Source},
    figures::Figures,
    install::Tracks,
    job::{Job, Key},
    producer::Settings,
};
use self::{compute::Backend, install::Installer, producer::Producer};
use crate::bpf::{StartError, keystream::Parts};

/// By which the engine talks to the producer. Dropping it ends both threads.
pub struct Handle {
    commands: mpsc::Sender<Command>,
    bell: UnixStream,
    /// Written by both threads, read by the metrics.
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
pub fn prepare(parts: Parts, tracks: Box<dyn Tracks>, settings: Settings) -> Result<(Handle, [Thread; 2]), StartError> {
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
        tracks,
        figures: Arc::clone(&figures),
        inbox: changes,
    };
    let threads: [Thread; 2] =
        [("penstock-keys", Box::new(move || producer.run())), ("penstock-rings", Box::new(move || installer.run()))];
    Ok((Handle { commands, bell, figures }, threads))
}
