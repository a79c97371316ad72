//! Over the loopback, with clients that are sockets of the test's own.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use super::*;
use crate::io::{Datagram, IoCounters};

/// Only reached when something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

struct Lab {
    connections: Arc<Connections>,
    control: mpsc::Receiver<Datagram>,
    address: SocketAddr,
    _thread: Thread,
}

impl Lab {
    fn new(most: usize) -> Self {
        let connections = Arc::new(Connections::new(most));
        let address = connections.listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (sender, control) = mpsc::channel(64);
        let thread = Thread::start(&connections, &sender, None, &Arc::new(IoCounters::default())).unwrap();
        Self { connections, control, address, _thread: thread }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn hear(&mut self) -> Datagram {
        let datagram = self.control.blocking_recv().unwrap();
        assert_eq!(datagram.socket, TCP);
        datagram
    }

    /// A client whose check the control task has believed.
    fn admitted(&mut self) -> TcpStream {
        let mut client = self.connect();
        client.write_all(&framed(&check())).unwrap();
        let heard = self.hear();
        assert_eq!((heard.peer, heard.bytes), (client.local_addr().unwrap(), check()));
        self.connections.admit(heard.peer);
        until(|| self.counters().open.load(Relaxed) > 0);
        client
    }

    fn counters(&self) -> &TcpCounters {
        &self.connections.counters
    }
}

fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it does not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A STUN Binding request, as far as the thread looks at it.
fn check() -> Vec<u8> {
    [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat()
}

fn framed(packet: &[u8]) -> Vec<u8> {
    [&(packet.len() as u16).to_be_bytes()[..], packet].concat()
}

/// Nothing more comes but the end.
fn is_closed(client: &mut TcpStream) -> bool {
    matches!(client.read(&mut [0; 64]), Ok(0) | Err(_))
}

#[test]
fn an_admitted_peer_says_and_hears_everything() {
    let mut lab = Lab::new(16);
    let mut client = lab.admitted();
    let peer = client.local_addr().unwrap();
    assert_eq!(lab.connections.local(peer), Some(lab.address));
    client.write_all(&[framed(b"\x16 a record"), framed(b"\x80 a packet")].concat()).unwrap();
    assert_eq!([lab.hear().bytes, lab.hear().bytes], [&b"\x16 a record"[..], b"\x80 a packet"]);
    assert!(lab.connections.send(peer, b"answer"));
    assert_eq!(lab.connections.send_media(peer, &[framed(b"one"), framed(b"two")].concat()), 0);
    let wanted = [framed(b"answer"), framed(b"one"), framed(b"two")].concat();
    let mut heard = vec![0; wanted.len()];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(heard, wanted);
    lab.connections.end(peer);
    assert!(is_closed(&mut client));
    until(|| lab.counters().open.load(Relaxed) == 0);
    assert!(!lab.connections.send(peer, b"late") && lab.connections.send_media(peer, &framed(b"late")) == 1);
}

#[test]
fn strangers_are_closed_when_they_say_something_else() {
    let mut lab = Lab::new(64);
    for said in [framed(b"\x16 a record"), b"GET / HTTP/1.1\r\n\r\n".to_vec(), framed(&[0; 600]), framed(b"\0\x01")] {
        let mut client = lab.connect();
        client.write_all(&said).unwrap();
        assert!(is_closed(&mut client), "{said:?}");
    }
    // Checks of nobody: the control task refuses it, and nobody may go on for ever.
    let mut client = lab.connect();
    client.write_all(&framed(&check())).unwrap();
    let peer = lab.hear().peer;
    lab.connections.refuse(peer);
    assert!(is_closed(&mut client));
    let mut patient = lab.connect();
    patient.write_all(&framed(&check()).repeat(9)).unwrap();
    assert!(is_closed(&mut patient));
    until(|| lab.counters().unwanted.load(Relaxed) >= 6 && lab.counters().strangers.load(Relaxed) == 0);
    assert_eq!((lab.counters().open.load(Relaxed), lab.counters().malformed.load(Relaxed)), (0, 0));
}

#[test]
fn nobody_has_more_than_his_share() {
    let mut lab = Lab::new(64);
    let kept: Vec<TcpStream> = (0..LEAST_SHARE).map(|_| lab.admitted()).collect();
    let mut beyond = lab.connect();
    assert!(is_closed(&mut beyond));
    assert_eq!(lab.counters().refused.load(Relaxed), 1);
    drop(kept);
    until(|| lab.counters().open.load(Relaxed) == 0);
    lab.admitted();
}

/// Whole packets are dropped, what begun ends, and the control task is still heard.
#[test]
fn a_reader_who_sleeps_costs_packets_and_nobody_waits() {
    let mut lab = Lab::new(16);
    let mut client = lab.admitted();
    let peer = client.local_addr().unwrap();
    let (mut sent, mut dropped) = (0u32, 0);
    while dropped < 100 {
        let packet: Vec<u8> = sent.to_be_bytes().into_iter().cycle().take(1200).collect();
        dropped += lab.connections.send_media(peer, &framed(&packet));
        sent += 1;
    }
    assert!(lab.connections.send(peer, b"a report"));
    let (mut deframer, mut packets, mut buffer) = (Deframer::default(), vec![], [0; 8192]);
    while packets.last().is_none_or(|last: &Vec<u8>| last != b"a report") {
        let read = client.read(&mut buffer).unwrap();
        deframer.take(&mut buffer[..read], |packet| packets.push(packet.to_vec())).unwrap();
    }
    assert_eq!(packets.len() as u64, u64::from(sent) - dropped + 1);
    let numbers = packets.iter().filter(|packet| packet.len() == 1200).map(|packet| {
        assert!(packet.chunks(4).all(|part| part == &packet[..4]), "a packet is not whole");
        u32::from_be_bytes(*packet.first_chunk().unwrap())
    });
    assert!(numbers.collect::<Vec<_>>().is_sorted_by(|one, next| one < next));
}

#[test]
fn a_connection_may_come_from_elsewhere() {
    let mut lab = Lab::new(16);
    let elsewhere = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut client = TcpStream::connect(elsewhere.local_addr().unwrap()).unwrap();
    client.write_all(&framed(&check())).unwrap();
    let (stream, peer) = elsewhere.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    lab.connections.adopt(stream, peer);
    assert_eq!(lab.hear().bytes, check());
    assert_eq!(lab.connections.local(peer), elsewhere.local_addr().ok());
}
