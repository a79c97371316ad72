//! Other people's web servers: a site whose pages use the player, a proxy that serves a server under a path of its own.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::Result;

use crate::netns::NetNs;
use crate::place;

/// One request: its head as it came, line by line without line ends, and its body.
struct Request {
    lines: Vec<String>,
    body: Vec<u8>,
}

/// A web server on a test host. It serves until the test process ends.
#[derive(Clone, Debug)]
pub struct Site {
    /// `http://ADDRESS:PORT`.
    pub origin: String,
}

impl Site {
    /// Answers every request with this page.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn of_page(place: &NetNs, address: &str, html: String) -> Result<Self> {
        Self::serve(place, address, move |stream, _| {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{html}",
                html.len()
            )
        })
    }

    /// Hands requests below `prefix` on to `server`, without the prefix and without telling of it.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn of_proxy(place: &NetNs, address: &str, prefix: &'static str, server: SocketAddr) -> Result<Self> {
        Self::serve(place, address, move |stream, request| {
            let mut lines = request.lines.into_iter();
            let first = lines.next().unwrap_or_default();
            let Some((method, rest)) = first.split_once(&format!(" {prefix}/")) else {
                return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            };
            let mut head = format!("{method} /{rest}\r\nConnection: close\r\n");
            for line in lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:")) {
                head += &format!("{line}\r\n");
            }
            let mut onward = TcpStream::connect(server)?;
            onward.write_all(&[head.as_bytes(), b"\r\n", &request.body].concat())?;
            io::copy(&mut onward, stream).map(drop)
        })
    }

    fn serve(
        place: &NetNs,
        address: &str,
        answer: impl Fn(&mut TcpStream, Request) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = place.run(|| TcpListener::bind(address))?;
        let origin = format!("http://{}", listener.local_addr()?);
        let (name, answer) = (place.name().to_owned(), Arc::new(answer));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (name, answer) = (name.clone(), Arc::clone(&answer));
                std::thread::spawn(move || {
                    place::enter(&name)?;
                    let request = read(&stream)?;
                    anyhow::Ok(answer(&mut stream, request)?)
                });
            }
        });
        Ok(Self { origin })
    }
}

/// A browser on the same machine sends no more than this.
const LONGEST_HEAD: u64 = 64 << 10;

fn read(stream: &TcpStream) -> io::Result<Request> {
    let mut from = BufReader::new(stream);
    let mut lines = Vec::new();
    for line in from.by_ref().take(LONGEST_HEAD).lines() {
        match line? {
            line if line.is_empty() => break,
            line => lines.push(line),
        }
    }
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body)?;
    Ok(Request { lines, body })
}
