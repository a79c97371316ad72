//! One client's requests (RFC 2326), and what is answered.

use anyhow::{Context, Result, ensure};
use tests_kit::labelled;

/// Longest request.
const MAX_REQUEST: usize = 16 << 10;

/// How a client wants its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In the connection; the first of its channels.
    Interleaved(u8),
    /// To this UDP port of the client.
    Udp(u16),
}

/// What a client has asked for so far.
#[derive(Debug, Default)]
pub struct Conversation {
    received: Vec<u8>,
    /// UDP port from which packets come, if the client wants them by UDP.
    server_port: u16,
    /// Number of the camera in the path.
    pub camera: Option<u32>,
    pub transport: Option<Transport>,
    pub playing: bool,
    pub ended: bool,
}

impl Conversation {
    /// `server_port`: from which UDP port packets will come.
    pub fn new(server_port: u16) -> Self {
        Self { server_port, ..Self::default() }
    }

    /// Takes what has arrived; appends the answers.
    ///
    /// # Errors
    /// What is not RTSP.
    pub fn receive(&mut self, bytes: &[u8], answers: &mut Vec<u8>, cameras: u32) -> Result<()> {
        self.received.extend_from_slice(bytes);
        while let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
            let request = String::from_utf8(self.received.drain(..end + 4).collect())?;
            self.answer(&request, answers, cameras)?;
        }
        ensure!(self.received.len() < MAX_REQUEST, "a request without an end");
        Ok(())
    }

    fn answer(&mut self, request: &str, answers: &mut Vec<u8>, cameras: u32) -> Result<()> {
        let mut words = request.split_whitespace();
        let (method, url) = (words.next().context("no method")?, words.next().context("no URL")?);
        let field = |name: &str| {
            let mut fields = request.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.trim())
        };
        let camera = url.split("/cam").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok());
        let camera = camera.filter(|camera| *camera < cameras);
        let session = "Session: 1;timeout=60\r\n".to_owned();
        let (status, headers, body) = match (method, camera) {
            ("OPTIONS", _) => (200, "Public: DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER\r\n".to_owned(), None),
            (_, None) => (404, String::new(), None),
            ("DESCRIBE", Some(_)) => {
                (200, format!("Content-Type: application/sdp\r\nContent-Base: {url}/\r\n"), Some(labelled::sdp()))
            }
            ("SETUP", Some(camera)) => match transport(field("transport")) {
                Some(transport) => {
                    (self.camera, self.transport) = (Some(camera), Some(transport));
                    let from = self.server_port;
                    let transport = match transport {
                        Transport::Interleaved(channel) => {
                            format!("/TCP;unicast;interleaved={channel}-{}", channel + 1)
                        }
                        Transport::Udp(port) => {
                            format!(";unicast;client_port={port}-{};server_port={from}-{}", port + 1, from + 1)
                        }
                    };
                    (200, format!("{session}Transport: RTP/AVP{transport}\r\n"), None)
                }
                None => (461, String::new(), None),
            },
            ("PLAY", Some(_)) if self.camera.is_some() => {
                self.playing = true;
                (200, session, None)
            }
            ("PLAY", Some(_)) => (455, String::new(), None),
            ("TEARDOWN", Some(_)) => {
                (self.playing, self.ended) = (false, true);
                (200, session, None)
            }
            ("GET_PARAMETER", Some(_)) => (200, session, None),
            _ => (501, String::new(), None),
        };
        let (cseq, body) = (field("cseq"), body.unwrap_or_default());
        let len = body.len();
        let reply = format!("RTSP/1.0 {status} x\r\nCSeq: {cseq}\r\n{headers}Content-Length: {len}\r\n\r\n{body}");
        answers.extend_from_slice(reply.as_bytes());
        Ok(())
    }
}

/// The first one of a client's transports that we have; the second channel or port must exist too.
fn transport(header: &str) -> Option<Transport> {
    header.split(',').find_map(|transport| {
        let first = |name: &str| {
            let pair = transport.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))?;
            pair.split('-').next()?.parse::<u16>().ok()
        };
        if let Some(channel) = first("interleaved") {
            return u8::try_from(channel).ok().filter(|channel| *channel < u8::MAX).map(Transport::Interleaved);
        }
        first("client_port").filter(|port| *port < u16::MAX).map(Transport::Udp)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(conversation: &mut Conversation, request: &str) -> String {
        let mut answers = vec![];
        conversation.receive(request.as_bytes(), &mut answers, 2).unwrap();
        String::from_utf8(answers).unwrap()
    }

    #[test]
    fn plays_what_was_set_up() {
        let mut talk = Conversation::default();
        assert!(ask(&mut talk, "DESCRIBE rtsp://h/cam2 RTSP/1.0\r\nCSeq: 1\r\n\r\n").starts_with("RTSP/1.0 404"));
        assert!(ask(&mut talk, "DESCRIBE rtsp://h/cam1 RTSP/1.0\r\nCSeq: 1\r\n\r\n").contains("H264/90000"));
        assert!(ask(&mut talk, "PLAY rtsp://h/cam1/ RTSP/1.0\r\nCSeq: 2\r\n\r\n").starts_with("RTSP/1.0 455"));
        let setup = "SETUP rtsp://h/cam1/track/0 RTSP/1.0\r\nCSeq: 3\r\nTransport: RTP/AVP/TCP;unicast;";
        assert!(ask(&mut talk, setup).is_empty());
        assert!(ask(&mut talk, "interleaved=4-5\r\n\r\n").contains("CSeq: 3\r\n"));
        ask(&mut talk, "PLAY rtsp://h/cam1/ RTSP/1.0\r\nCSeq: 4\r\n\r\n");
        assert_eq!((talk.camera, talk.transport, talk.playing), (Some(1), Some(Transport::Interleaved(4)), true));
    }

    #[test]
    fn tells_transports_apart() {
        assert_eq!(transport("RTP/AVP;unicast;client_port=5000-5001"), Some(Transport::Udp(5000)));
        assert_eq!(transport("RTP/AVP;multicast, RTP/AVP/TCP;interleaved=0-1"), Some(Transport::Interleaved(0)));
        for wrong in ["", "RTP/AVP;multicast", "RTP/AVP/TCP;interleaved=255", "RTP/AVP;client_port=65535"] {
            assert_eq!(transport(wrong), None, "{wrong}");
        }
        let mut talk = Conversation::new(9000);
        let setup = "SETUP rtsp://h/cam1/track/0 RTSP/1.0\r\nTransport: RTP/AVP;unicast;client_port=5000-5001\r\n\r\n";
        assert!(ask(&mut talk, setup).contains("client_port=5000-5001;server_port=9000-9001\r\n"));
    }
}
