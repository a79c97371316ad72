//! All cameras on one thread: a look at the sockets, and one `write` for what is due in a connection, or one
//! datagram for each packet.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use tests_kit::labelled::{self, Shape};

use super::conversation::{Conversation, Transport};

const LISTENER: Token = Token(usize::MAX);
/// Least time between two looks at clock and sockets: what becomes due meanwhile is sent in a row.
const TICK: Duration = Duration::from_millis(1);
/// What a client may leave unread before frames are left out, in bytes: two seconds.
const BACKLOG: usize = 256 << 10;

/// What all cameras have done, readable while they run.
#[derive(Debug, Default)]
pub struct Progress {
    /// Clients that play now.
    pub playing: AtomicU64,
    /// To all clients.
    pub packets: AtomicU64,
    /// Packets that were left out because the client did not read its connection, or that UDP did not take.
    pub left_out: AtomicU64,
    /// By camera: packets that it had to send by its clock to whoever plays it, whether or not somebody took them.
    pub due: Vec<AtomicU64>,
    /// Nothing is due meanwhile.
    pub paused: AtomicBool,
    /// Longest delay of a frame behind its time, in µs, since somebody set it to 0.
    pub late_us: AtomicU64,
}

/// See the module.
pub struct Generator {
    poll: Poll,
    listener: TcpListener,
    /// For those who want their packets by UDP.
    datagrams: UdpSocket,
    cameras: u32,
    shape: Shape,
    clients: HashMap<Token, Client>,
    /// When the next frame of each camera is due, since the start: of its clients too.
    clocks: Vec<Duration>,
    next: usize,
    progress: Arc<Progress>,
}

struct Client {
    stream: TcpStream,
    host: IpAddr,
    conversation: Conversation,
    /// Not yet taken by the socket.
    waiting: Vec<u8>,
    frame: u64,
    /// When the next frame is due, since the generator's start.
    due: Option<Duration>,
}

impl Generator {
    /// Listens in the calling thread's network namespace.
    ///
    /// # Errors
    /// The address is in use.
    pub fn bind(address: SocketAddr, cameras: u32, shape: Shape) -> Result<Self> {
        shape.check()?;
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let datagrams = UdpSocket::bind((address.ip(), 0))?;
        datagrams.set_nonblocking(true)?;
        let due = (0..cameras).map(|_| AtomicU64::new(0)).collect();
        let progress = Arc::new(Progress { due, ..Progress::default() });
        let clocks = (0..cameras).map(|camera| phase(camera, cameras, shape.frame_interval())).collect();
        Ok(Self { poll, listener, datagrams, cameras, shape, clients: HashMap::new(), clocks, next: 0, progress })
    }

    /// Counters, for other threads.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// What the system says of the listening socket.
    pub fn run(mut self, stop: &AtomicBool) -> Result<()> {
        crate::load::precise_timers();
        let mut events = Events::with_capacity(1024);
        let start = Instant::now();
        while !stop.load(Relaxed) {
            std::thread::sleep(TICK);
            if let Err(error) = self.poll.poll(&mut events, Some(Duration::ZERO))
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                } else {
                    self.serve(event.token(), start.elapsed());
                }
            }
            self.send_due(start);
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let (mut stream, from) = match self.listener.accept() {
                Ok(client) => client,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // A client that has left already.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            stream.set_nodelay(true)?;
            let token = Token(self.next);
            self.next += 1;
            self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            let conversation = Conversation::new(self.datagrams.local_addr()?.port());
            let client = Client { stream, host: from.ip(), conversation, waiting: vec![], frame: 0, due: None };
            self.clients.insert(token, client);
        }
    }

    fn serve(&mut self, token: Token, now: Duration) {
        let (cameras, interval) = (self.cameras, self.shape.frame_interval());
        let Some(client) = self.clients.get_mut(&token) else { return };
        let was_playing = client.conversation.playing;
        let alive = client.read(cameras).is_ok() && client.flush().is_ok() && !client.conversation.ended;
        if client.conversation.playing && client.due.is_none() {
            client.due = client.conversation.camera.map(|camera| next_slot(camera, cameras, interval, now));
        }
        match (was_playing, client.conversation.playing && alive) {
            (false, true) => _ = self.progress.playing.fetch_add(1, Relaxed),
            (true, false) => _ = self.progress.playing.fetch_sub(1, Relaxed),
            _ => {}
        }
        if !alive {
            self.clients.remove(&token);
        }
    }

    fn send_due(&mut self, start: Instant) {
        let (now, shape) = (start.elapsed(), self.shape);
        let (interval, paused) = (shape.frame_interval(), self.progress.paused.load(Relaxed));
        for (clock, due) in self.clocks.iter_mut().zip(&self.progress.due) {
            while *clock <= now {
                *clock += interval;
                due.fetch_add(if paused { 0 } else { shape.burst.into() }, Relaxed);
            }
        }
        for client in self.clients.values_mut() {
            let (Some(camera), Some(transport)) = (client.conversation.camera, client.conversation.transport) else {
                continue;
            };
            while let Some(due) = client.due.filter(|due| *due <= now) {
                client.due = Some(due + interval);
                if paused {
                    continue;
                }
                let frame = client.frame;
                client.frame += 1;
                let late = start.elapsed().saturating_sub(due);
                self.progress.late_us.fetch_max(late.as_micros() as u64, Relaxed);
                match transport {
                    Transport::Interleaved(_) if client.waiting.len() > BACKLOG => {
                        self.progress.left_out.fetch_add(shape.burst.into(), Relaxed);
                        continue;
                    }
                    Transport::Interleaved(channel) => {
                        shape.write_frame(&mut client.waiting, channel, camera, frame, labelled::now_ns());
                    }
                    Transport::Udp(port) => {
                        let left_out =
                            send_datagrams(&self.datagrams, (client.host, port).into(), shape, camera, frame);
                        self.progress.left_out.fetch_add(left_out, Relaxed);
                    }
                }
                self.progress.packets.fetch_add(shape.burst.into(), Relaxed);
            }
            // An error shows as an event too.
            let _ = client.flush();
        }
    }
}

/// Sends a frame; how many of its packets were not taken.
fn send_datagrams(socket: &UdpSocket, to: SocketAddr, shape: Shape, camera: u32, frame: u64) -> u64 {
    let mut packet = Vec::with_capacity(labelled::LARGEST);
    let mut left_out = 0;
    for number in 0..shape.burst {
        packet.clear();
        shape.write_packet(&mut packet, camera, frame, number, labelled::now_ns());
        // A client that has gone shows in its connection.
        left_out += u64::from(socket.send_to(&packet, to).is_err());
    }
    left_out
}

/// The cameras' frames are spread evenly over the time between two frames.
fn phase(camera: u32, cameras: u32, interval: Duration) -> Duration {
    interval * camera / cameras.max(1)
}

fn next_slot(camera: u32, cameras: u32, interval: Duration, now: Duration) -> Duration {
    let frames = (now.as_secs_f64() / interval.as_secs_f64()) as u32;
    interval * (frames + 1) + phase(camera, cameras, interval)
}

impl Client {
    fn read(&mut self, cameras: u32) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => anyhow::bail!("the client has left"),
                Ok(len) => self.conversation.receive(&buffer[..len], &mut self.waiting, cameras)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        while !self.waiting.is_empty() {
            match self.stream.write(&self.waiting) {
                Ok(len) => drop(self.waiting.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
