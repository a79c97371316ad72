use super::*;

/// What a stream is read as, in pieces of these sizes.
fn read(stream: &[u8], mut size: impl FnMut() -> usize) -> (Vec<String>, Reader, Result<(), ReadError>) {
    let (mut reader, mut kept, mut taken, mut rest) = (Reader::default(), vec![], vec![], stream);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(size().clamp(1, rest.len()));
        kept.extend_from_slice(piece);
        match reader.read(&kept, &mut |incoming| taken.push(told(incoming))) {
            Ok(used) => drop(kept.drain(..used)),
            Err(error) => return (taken, reader, Err(error)),
        }
        rest = behind;
    }
    (taken, reader, Ok(()))
}

fn told(incoming: Incoming<'_>) -> String {
    match incoming {
        Incoming::Frame(channel, frame) => format!("{channel}:{}", frame.len()),
        Incoming::Message(message) => match &message.start {
            Start::Answer { status, .. } => format!("{status} {}", message.body.len()),
            Start::Request { method, uri } => format!("{method} {uri} {}", message.body.len()),
        },
    }
}

fn whole(stream: &[u8]) -> (Vec<String>, u64, Result<(), ReadError>) {
    let (taken, mut reader, result) = read(stream, || usize::MAX);
    (taken, reader.take_skipped(), result)
}

/// RTP of `len` bytes on a channel.
fn frame(channel: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![b'$', channel, (len >> 8) as u8, len as u8, 0x80];
    bytes.resize(4 + len, 0x11);
    bytes
}

fn random(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

/// What comes out does not depend on where the network cuts.
#[test]
fn the_same_comes_out_however_the_bytes_are_cut() {
    let message = b"OPTIONS * RTSP/1.0\r\nCSeq: 7\r\nContent-Length: 5\r\n\r\nhello\r\n";
    let answer = b"RTSP/1.0 200\nCSeq: 1\nContent-Length: 3\n\nabc";
    let open = b"RTSP/1.0 200 OK\r\nContent-Type: application/sdp\r\n\r\nv=0\r\nm=audio 0 RTP/AVP 0\r\n";
    let stray = [0xff, 0, b'$', 9, b'R', b'T', 1];
    let stream =
        [&message[..], &frame(1, 3), answer, &frame(0, 900), &stray, &frame(0, 20), open, message, &frame(3, 0)]
            .concat();
    let expected = ["OPTIONS * 5", "1:3", "200 3", "0:900", "0:20", "200 26", "OPTIONS * 5", "3:0"];
    let mut seed = 11;
    for most in [1, 2, 7, 40, 400, 4000] {
        for _ in 0..50 {
            let (taken, mut reader, result) = read(&stream, || 1 + random(&mut seed) % most);
            assert_eq!((result, taken), (Ok(()), expected.map(String::from).to_vec()));
            assert_eq!(reader.take_skipped(), 7);
        }
    }
}

/// gortsplib PR 653: seven bytes between frames; others begin as frames or messages do.
#[test]
fn stray_bytes_are_skipped_to_the_next_that_looks_like_something() {
    for stray in [&b"\x01\x02\x03\x04\x05\x06\x07"[..], b"\x00\x00$\x00\x00", b"\xffRTSP", b"\xffOPTIONS$", b"\xff$$$"]
    {
        let (mut reader, mut taken) = (Reader::default(), vec![]);
        reader.set_channels(4);
        let stream = [&frame(0, 100), stray, &frame(0, 101), b"RTSP/1.0 200 OK\r\n\r\n", &frame(1, 102)].concat();
        let result = reader.read(&stream, &mut |incoming| taken.push(told(incoming)));
        assert_eq!(result, Ok(stream.len()), "{stray:?}");
        assert_eq!(taken, ["0:100", "0:101", "200 0", "1:102"], "{stray:?}");
        assert!(reader.take_skipped() > 0);
    }
}

#[test]
fn more_stray_than_good_ends_the_connection() {
    let rubbish = [frame(0, 500), vec![0x80; 3000]].concat().repeat(100);
    assert_eq!(whole(&rubbish).2, Err(ReadError::Stray));
    // One byte in ten, for ever.
    let odd = [frame(0, 500), vec![0xff; 50]].concat().repeat(10_000);
    let (taken, skipped, result) = whole(&odd);
    assert_eq!((taken.len(), skipped, result), (10_000, 500_000, Ok(())));
    assert_eq!(whole(&vec![0x81; 1 << 20]).2, Err(ReadError::Stray));
}

#[test]
fn the_longest_frame_fits() {
    let mut bytes = frame(0, 65_535);
    assert_eq!(whole(&bytes).0, ["0:65535"]);
    bytes.pop();
    assert_eq!(whole(&bytes).0, [""; 0]);
}

#[test]
fn lengths_as_the_field_has_them() {
    for length in [
        "Content-length:3",
        "CONTENT-LENGTH : 3 ",
        "Content-Length: 003 bytes",
        "Content-Length: x\r\ncontent-length: 3",
    ] {
        let stream = format!("RTSP/1.0 200 OK\r\n{length}\r\n\r\nabc$\0\0\0");
        assert_eq!(whole(stream.as_bytes()).0, ["200 3", "0:0"], "{length}");
    }
    for length in ["99999999999999999999", "65537"] {
        let stream = format!("RTSP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n");
        assert_eq!(whole(stream.as_bytes()).2, Err(ReadError::LongBody), "{length}");
    }
}

/// A description without a length, or with one that is too large: what there is, when nothing more comes.
#[test]
fn a_body_without_an_end_ends_when_nothing_comes() {
    for length in ["", "Content-Length: 400\r\n"] {
        let stream =
            format!("RTSP/1.0 200 OK\r\nContent-Type: application/sdp\r\n{length}\r\nv=0\r\nm=video 0 RTP/AVP 96");
        let (mut reader, mut taken) = (Reader::default(), vec![]);
        assert_eq!(reader.read(stream.as_bytes(), &mut |incoming| taken.push(told(incoming))), Ok(0));
        assert!(reader.waits_for_body() && taken.is_empty());
        let used = reader.end(stream.as_bytes(), &mut |incoming| taken.push(told(incoming)));
        assert_eq!((used, taken), (stream.len(), vec!["200 25".to_owned()]));
        assert!(!reader.waits_for_body());
    }
}

#[test]
fn another_server_is_named() {
    assert_eq!(whole(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n").2, Err(ReadError::Http));
    assert_eq!(whole(b"GET / HTTP/1.1\r\n\r\n").2, Err(ReadError::Http));
    let flood = "OPTIONS * RTSP/1.0\r\n\r\n".repeat(1000);
    assert_eq!(whole(flood.as_bytes()).2, Err(ReadError::Flood));
}

/// Once for its end, once for what it says: not once for each piece.
#[test]
fn a_message_is_read_once_however_many_pieces_it_comes_in() {
    let body = "x".repeat(60_000);
    let announce = format!("ANNOUNCE rtsp://h/x RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 60000\r\n\r\n{body}");
    let head = format!("OPTIONS * RTSP/1.0\r\n{}", "A: b\r\n".repeat(10_000));
    for size in [1, 7, 1000, 60_000] {
        let mut reader = Reader::default();
        let mut taken = 0;
        for end in (size..=announce.len() + size).step_by(size) {
            let bytes = &announce.as_bytes()[..end.min(announce.len())];
            if reader.read(bytes, &mut |_| taken += 1).unwrap() > 0 {
                break;
            }
        }
        assert!(taken == 1 && reader.looked_at <= 5 * announce.len(), "{} in pieces of {size}", reader.looked_at);
        let mut reader = Reader::default();
        let ended = (1..=head.len()).find_map(|end| reader.read(&head.as_bytes()[..end], &mut |_| ()).err());
        assert_eq!(ended, Some(ReadError::LongHead));
        assert!(reader.looked_at <= 5 * MAX_HEAD, "{} bytes looked at", reader.looked_at);
    }
}

/// Whatever comes, it ends, and what is handed out was there.
#[test]
fn bytes_of_no_sense_and_messages_with_changed_bytes() {
    let good = [
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n".to_vec(),
        frame(0, 40),
        b"SET_PARAMETER rtsp://h/x RTSP/1.0\r\nCSeq: 2\r\nWWW-Authenticate: Digest realm=\"a\"\r\n\r\n".to_vec(),
        frame(1, 9),
    ]
    .concat();
    let mut seed = 7;
    for round in 0..3000 {
        let mut bytes = good.repeat(1 + round % 3);
        for _ in 0..random(&mut seed) % 12 {
            bytes.extend_from_slice(b"x");
            let at = random(&mut seed) % bytes.len();
            match random(&mut seed) % 4 {
                0 => bytes[at] = random(&mut seed) as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, *b"$\r\n:= RT\0".get(random(&mut seed) % 9).unwrap()),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let most = 1 + random(&mut seed) % 200;
        let (taken, ..) = read(&bytes, || 1 + random(&mut seed) % most);
        assert!(taken.len() <= bytes.len());
    }
}
