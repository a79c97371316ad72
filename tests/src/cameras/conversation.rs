//! One client's requests (RFC 2326), and what is answered.

use anyhow::{Context, Result, ensure};

use super::media;

/// Longest request.
const MAX_REQUEST: usize = 16 << 10;

/// What a client has asked for so far.
#[derive(Debug, Default)]
pub struct Conversation {
    received: Vec<u8>,
    /// Number of the camera in the path.
    pub camera: Option<u32>,
    /// First of the interleaved channels.
    pub channel: u8,
    pub playing: bool,
    pub ended: bool,
}

impl Conversation {
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
                (200, format!("Content-Type: application/sdp\r\nContent-Base: {url}/\r\n"), Some(media::sdp()))
            }
            ("SETUP", Some(camera)) => match interleaved(field("transport")) {
                Some(channel) => {
                    (self.camera, self.channel) = (Some(camera), channel);
                    let transport = format!("Transport: RTP/AVP/TCP;unicast;interleaved={channel}-{}\r\n", channel + 1);
                    (200, session + &transport, None)
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

/// First channel of a transport within the connection; its second one must exist too.
fn interleaved(transport: &str) -> Option<u8> {
    let channels = transport.split(';').find_map(|part| part.trim().strip_prefix("interleaved="))?;
    channels.split('-').next()?.parse().ok().filter(|first| *first < u8::MAX)
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
        assert_eq!((talk.camera, talk.channel, talk.playing), (Some(1), 4, true));
    }
}
