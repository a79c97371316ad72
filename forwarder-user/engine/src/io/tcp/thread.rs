//! The thread that has the connections: accepts, reads, and sends what had to wait.

use std::{
    cell::RefCell,
    future::pending,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::Duration,
};

use forwarder_common::rtp::{Protocol, protocol};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{
        mpsc::{self, Sender},
        oneshot,
    },
    task::LocalSet,
    time::{Instant, sleep, sleep_until},
};

use super::{Connection, Connections, Deframer, New, Place, SEND_BUFFER, TCP};
use crate::io::{Datagram, IoCounters, Worker};

/// What is read at once.
const BUFFER: usize = 64 << 10;
/// Time in which a stranger must have shown whose peer it is.
const PATIENCE: Duration = Duration::from_secs(5);
/// Packets that a stranger may send until then; a check is repeated when its answer is slow.
const FIRST_PACKETS: u32 = 8;
/// A peer that says nothing for so long has gone. ICE checks come every few seconds.
const IDLE: Duration = Duration::from_secs(60);
/// Longest STUN request of a stranger. Honest ones have some 100 bytes, and long user names.
const MAX_CHECK: usize = 548;
/// STUN Binding request, and the magic cookie (RFC 8489 §5).
const BINDING_REQUEST: [u8; 2] = [0, 1];
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Pause after the system ran out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// The thread. Dropping it ends it, and all connections.
pub(crate) struct Thread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    /// # Errors
    /// What the system says.
    pub(crate) fn start(
        connections: &Arc<Connections>,
        control: &Sender<Datagram>,
        worker: Option<Box<dyn Worker>>,
        counters: &Arc<IoCounters>,
    ) -> io::Result<Self> {
        let taken = connections.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let inbox = taken.ok_or_else(|| io::Error::other("a thread has these connections already"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (connections, control, counters) = (Arc::clone(connections), control.clone(), Arc::clone(counters));
        let run = move || {
            let buffer = RefCell::new(vec![0; BUFFER]);
            let here = Rc::new(Here { connections, control, worker: RefCell::new(worker), counters, buffer });
            // Whatever is left ends with the set.
            runtime.block_on(LocalSet::new().run_until(async {
                tokio::select! {
                    () = here.take(inbox) => {}
                    _ = stopped => {}
                }
            }));
        };
        let thread = thread::Builder::new().name("penstock-tcp".into()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of media by TCP had panicked");
        }
    }
}

/// What the thread's tasks share.
struct Here {
    connections: Arc<Connections>,
    control: Sender<Datagram>,
    worker: RefCell<Option<Box<dyn Worker>>>,
    counters: Arc<IoCounters>,
    /// Every connection is read into it, in turn.
    buffer: RefCell<Vec<u8>>,
}

/// Why a connection ends.
enum End {
    /// Its peer has closed it, or it broke.
    Gone,
    /// It was to end.
    Wanted,
    /// Its peer says nothing, or nothing of use.
    Silent,
    /// What comes cannot be frames.
    Malformed,
    /// A stranger says something else than an ICE check.
    Unwanted,
}

impl Here {
    async fn take(self: &Rc<Self>, mut inbox: mpsc::Receiver<New>) {
        while let Some(new) = inbox.recv().await {
            match new {
                New::Listener(listener) => match TcpListener::from_std(listener) {
                    Ok(listener) => drop(tokio::task::spawn_local(Rc::clone(self).accept(listener))),
                    Err(error) => tracing::error!("media by TCP is not accepted: {error}"),
                },
                New::Connection(stream, peer) => {
                    // Refused, it had broken already.
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        self.begin(stream, peer);
                    }
                }
            }
        }
        pending().await
    }

    async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.begin(stream, peer),
                Err(error) => {
                    tracing::warn!("cannot accept media by TCP: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn begin(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let Some(place) = self.connections.place(peer.ip()) else { return };
        let Ok(local) = stream.local_addr() else { return };
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        // Best effort, as for the other sockets.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
        let connection = Arc::new(Connection::new(stream, local, peer));
        if self.connections.enter(&connection) {
            self.connections.counters.strangers.fetch_add(1, Relaxed);
            drop(tokio::task::spawn_local(Rc::clone(self).serve(connection, place)));
        }
    }

    async fn serve(self: Rc<Self>, connection: Arc<Connection>, mut place: Place) {
        let counters = &self.connections.counters;
        let end = self.until_the_end(&connection, &mut place).await;
        connection.end();
        connection.say_goodbye();
        self.connections.leave(&connection);
        let admitted = place.of_strangers.is_none();
        if admitted { &counters.open } else { &counters.strangers }.fetch_sub(1, Relaxed);
        let counter = match end {
            End::Gone | End::Wanted => return,
            End::Silent if admitted => return,
            End::Silent => &counters.expired,
            End::Malformed => &counters.malformed,
            End::Unwanted => &counters.unwanted,
        };
        counter.fetch_add(1, Relaxed);
    }

    async fn until_the_end(&self, connection: &Connection, place: &mut Place) -> End {
        let (mut deframer, mut first_packets) = (Deframer::default(), FIRST_PACKETS);
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                ready = connection.stream.readable() => {
                    if ready.is_err() {
                        return End::Gone;
                    }
                    let read = match self.read(connection, &mut deframer, &mut first_packets) {
                        Ok(read) => read,
                        Err(end) => return end,
                    };
                    if read > 0 && connection.is_admitted() {
                        deadline = Instant::now() + IDLE;
                    }
                    // Others have their turn.
                    tokio::task::yield_now().await;
                }
                ready = connection.stream.writable(), if connection.has_waiting() => {
                    if ready.is_err() || connection.flush().is_err() {
                        return End::Gone;
                    }
                }
                () = connection.bell.notified() => {}
                () = sleep_until(deadline) => return End::Silent,
            }
            if connection.is_admitted() && place.of_strangers.take().is_some() {
                deadline = Instant::now() + IDLE;
                self.connections.counters.strangers.fetch_sub(1, Relaxed);
                self.connections.counters.open.fetch_add(1, Relaxed);
            }
            if connection.is_ending() {
                return End::Wanted;
            }
        }
    }

    /// Reads once. Says how many bytes.
    fn read(&self, connection: &Connection, deframer: &mut Deframer, first_packets: &mut u32) -> Result<usize, End> {
        let mut buffer = self.buffer.borrow_mut();
        let read = match connection.stream.try_read(&mut buffer) {
            Ok(0) => return Err(End::Gone),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(_) => return Err(End::Gone),
        };
        let mut worker = self.worker.borrow_mut();
        let (admitted, mut unwanted) = (connection.is_admitted(), false);
        let filled = buffer.get_mut(..read).unwrap_or_default();
        let taken = deframer.take(filled, |packet| {
            if !admitted {
                unwanted |= *first_packets == 0 || !is_check(packet);
                *first_packets = first_packets.saturating_sub(1);
            }
            if !unwanted {
                self.packet(connection.peer, packet, worker.as_deref_mut());
            }
        });
        if let Some(worker) = worker.as_mut() {
            worker.flush();
        }
        match taken {
            _ if unwanted => Err(End::Unwanted),
            Ok(()) => Ok(read),
            Err(_) if admitted => Err(End::Malformed),
            Err(_) => Err(End::Unwanted),
        }
    }

    fn packet(&self, peer: SocketAddr, packet: &mut [u8], worker: Option<&mut (dyn Worker + 'static)>) {
        self.counters.datagrams.fetch_add(1, Relaxed);
        let is_rtp = matches!(&*packet, [first, second, ..] if protocol(*first, *second) == Protocol::Rtp);
        if is_rtp && worker.is_some_and(|worker| worker.rtp(TCP, peer, packet)) {
            return;
        }
        if self.control.try_send(Datagram { socket: TCP, peer, bytes: packet.to_vec() }).is_err() {
            self.counters.control_queue_full.fetch_add(1, Relaxed);
        }
    }
}

/// Does it look like an ICE check? Whose, the control task finds out.
fn is_check(packet: &[u8]) -> bool {
    packet.len() <= MAX_CHECK && packet.starts_with(&BINDING_REQUEST) && packet.get(4..8) == Some(&COOKIE)
}
