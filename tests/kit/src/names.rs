//! A name server (RFC 1035) that knows a few names: whether a program resolves names at all.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::netns::NetNs;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;

/// Answers until it is dropped.
pub struct Names {
    asked: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Names {
    /// Serves names and their IPv4 addresses in a namespace, by UDP.
    ///
    /// # Errors
    /// The address is taken.
    pub fn serve(namespace: &NetNs, address: SocketAddr, names: &[(&str, [u8; 4])]) -> Result<Self> {
        let socket = namespace.run(|| UdpSocket::bind(address)).context("name server")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let names: Vec<(String, [u8; 4])> = names.iter().map(|(name, address)| ((*name).into(), *address)).collect();
        let (asked, over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, end) = (asked.clone(), over.clone());
        let thread = std::thread::Builder::new().name("name server".into()).spawn(move || {
            let mut query = [0; 512];
            while !end.load(Ordering::Relaxed) {
                let Ok((len, peer)) = socket.recv_from(&mut query) else { continue };
                if let Some(answer) = answer(&query[..len], &names) {
                    counter.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.send_to(&answer, peer);
                }
            }
        })?;
        Ok(Self { asked, over, thread: Some(thread) })
    }

    /// Questions until now.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a query with one question; `None` when it is none.
fn answer(query: &[u8], names: &[(String, [u8; 4])]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (HEADER, Vec::new());
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + len)?).to_lowercase());
        at += len;
    }
    let (name, question) = (labels.join("."), query.get(HEADER..at + 4)?);
    let wanted = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let known = names.iter().find(|(known, _)| *known == name);
    let address = known.filter(|_| wanted == TYPE_A).map(|(_, address)| address);
    // An authoritative answer; no such name (NXDOMAIN) where there is none.
    let code = if known.is_some() { 0 } else { 3 };
    let mut out =
        [&query[..2], &[0x85, 0x80 | code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0], question].concat();
    if let Some(address) = address {
        // The name of the question, type A, class IN, 60 s, 4 bytes.
        out.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        out.extend(address);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_name_has_its_address_and_others_do_not_exist() {
        let names = [("a.example".to_owned(), [10, 0, 0, 1])];
        let query = |name: &[u8], kind| [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &[0, 0, kind, 0, 1]].concat();
        let told = answer(&query(b"\x01A\x07example", 1), &names).unwrap();
        assert!(told.starts_with(&[7, 7, 0x85, 0x80]) && told.ends_with(&[0, 4, 10, 0, 0, 1]));
        let told = answer(&query(b"\x01a\x07example", 28), &names).unwrap();
        assert_eq!((told[3] & 15, told[7]), (0, 0), "the name is there, an address of IPv6 is not");
        assert_eq!(answer(&query(b"\x01b\x07example", 1), &names).unwrap()[3] & 15, 3);
        assert_eq!(answer(&[0; 11], &names), None);
    }
}
