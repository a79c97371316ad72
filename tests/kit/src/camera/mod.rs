//! A camera: an RTSP server that plays what tests know, with passwords, transports and faults.
//!
//! It is written without the server's own RTSP code, as a stranger.

pub mod content;
mod conversation;
pub mod ffmpeg;
mod gstreamer;
pub mod quirk;
pub mod tls;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::NetNs;
use content::Content;
pub use gstreamer::{GstCamera, GstPublisher};
pub use quirk::Quirk;

/// What it does to whoever connects.
#[derive(Clone, Debug)]
pub struct Behaviour {
    pub content: Content,
    /// User and password, and how they are asked for.
    pub password: Option<(&'static str, &'static str, Scheme)>,
    /// Refuses RTP in the RTSP connection (461).
    pub only_udp: bool,
    /// RTSPS with a certificate of its own.
    pub tls: bool,
    pub fault: Fault,
    /// What it does otherwise than the RFCs say, and plays nevertheless.
    pub quirks: Vec<Quirk>,
}

impl Behaviour {
    /// No password, every transport, no fault.
    pub fn plain(content: Content) -> Self {
        Self { content, password: None, only_udp: false, tls: false, fault: Fault::None, quirks: vec![] }
    }
}

/// How a password is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Basic,
    Digest,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Every DESCRIBE is answered with this status.
    Status(u16),
    /// The description is no SDP.
    Description,
    /// Nothing but AAC.
    OnlyAac,
    /// RTP has a payload type that was not described.
    PayloadType,
    /// Bytes that are no RTSP, after a second of media.
    Garbage,
    /// Frames of length 0 and 65,535 between the media.
    OddFrames,
    /// Media ends after a second, the connection stays.
    Stall,
    /// No packet has a marker (obs-rtspserver#199).
    NoMarker,
    /// Each packet has one.
    EachMarker,
    /// All packets have one sequence number.
    StandingNumbers,
    /// Sequence numbers begin anew every 50 packets.
    AnewNumbers,
    /// Behind each packet comes one of another payload type, with a number of its own (RFC 3389).
    OtherTypes,
    /// The clock is set back and forth, once a second.
    SetClock,
    /// Another SSRC each second, while the numbers go on.
    OtherSsrcs,
}

/// A running camera. Dropping it cuts its connections, as pulling its plug would.
pub struct Camera {
    stop: Arc<AtomicBool>,
    playing: Arc<AtomicU32>,
    /// SHA-256 of its certificate in hexadecimal.
    pub fingerprint: String,
    thread: Option<JoinHandle<()>>,
}

impl Camera {
    /// Listens on `address` in a namespace.
    ///
    /// # Errors
    /// The address is in use.
    pub fn start(namespace: &NetNs, address: SocketAddr, behaviour: Behaviour) -> Result<Self> {
        let listener = namespace.run(|| TcpListener::bind(address)).context("the camera's port")?;
        listener.set_nonblocking(true)?;
        let identity = tls::Identity::new()?;
        let fingerprint = identity.fingerprint()?;
        let (stop, playing) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, players) = (stop.clone(), playing.clone());
        let thread = namespace.spawn("camera", move || {
            std::thread::scope(|scope| {
                while !stopped.load(Relaxed) {
                    let Ok((stream, _)) = listener.accept() else {
                        std::thread::sleep(Duration::from_millis(5));
                        continue;
                    };
                    let (behaviour, stopped, players) = (&behaviour, &*stopped, &*players);
                    let identity = behaviour.tls.then_some(&identity);
                    scope.spawn(move || {
                        // A client that leaves is no error.
                        let _ = conversation::serve(stream, identity, behaviour, stopped, players);
                    });
                }
            });
        })?;
        Ok(Self { stop, playing, fingerprint, thread: Some(thread) })
    }

    /// Clients that play now.
    pub fn playing(&self) -> u32 {
        self.playing.load(Relaxed)
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
