use super::*;

const HEAD: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=Camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n";
/// Sets of a small picture.
const SETS: &str = "Z2QAH6w=,aO48sA==";

fn parse(media: &str) -> Result<Description, DescriptionError> {
    Description::parse(format!("{HEAD}{media}").as_bytes(), Writer::Server)
}

/// Codec names and controls of what is taken, from a server's whole description.
fn taken(text: impl AsRef<[u8]>) -> Vec<(&'static str, String)> {
    let description = Description::parse(text.as_ref(), Writer::Server);
    let description = description.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(text.as_ref())));
    description.tracks.into_iter().map(|track| (track.format.codec.name(), track.control)).collect()
}

#[test]
fn video_and_what_is_left_out() {
    let description = parse(
        "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:trackID=1\r\n\
         a=fmtp:96 packetization-mode=0; sprop-parameter-sets=Z2QAH6w=,aO48sA==; profile-level-id=640028\r\n\
         m=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/48000/2\r\na=control:trackID=2\r\n\
         m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n",
    );
    let description = description.unwrap();
    assert_eq!(description.control, "*");
    let [video] = &description.tracks[..] else { panic!("{description:?}") };
    assert_eq!((video.payload_type, video.control.as_str()), (96, "trackID=1"));
    assert_eq!(video.format.fmtp, "packetization-mode=1;profile-level-id=64001f", "the SPS knows best");
    assert_eq!(video.sets.len(), 2);
    assert_eq!(description.left_out.len(), 2);
    assert!(description.left_out[0].contains("MPEG4-GENERIC"));
}

#[test]
fn static_payload_types_and_h265() {
    let description = parse(
        "m=video 0 RTP/AVP 98\r\na=rtpmap:98 H265/90000\r\na=fmtp:98 sprop-vps=QAEM;sprop-sps=QgEB;sprop-pps=RAHB\r\n\
         m=audio 0 RTP/AVP 8\r\nm=audio 0 RTP/AVP 0\r\n",
    );
    let description = description.unwrap();
    assert_eq!(description.tracks[0].sets.len(), 3);
    assert_eq!(description.tracks[1].format.codec, Codec::Pcma);
    assert!(description.left_out[0].contains("PCMU"), "{:?}", description.left_out);
}

#[test]
fn targets_are_those_of_the_media_or_of_the_whole() {
    let description = parse(
        "m=video 5004 RTP/AVP 96\r\nc=IN IP4 239.1.2.3/16\r\na=rtpmap:96 VP8/90000\r\n\
         m=audio 5006 RTP/AVP 0\r\na=rtcp:6000 IN IP4 192.0.2.9\r\n",
    );
    let targets: Vec<Target> = description.unwrap().tracks.iter().map(|track| track.target).collect();
    let target = |address: &str, port, rtcp_port| Target { address: address.parse().ok(), port, rtcp_port };
    assert_eq!(targets, [target("239.1.2.3", 5004, 5005), target("0.0.0.0", 5006, 6000)]);
    let muxed = parse("m=audio 5006 RTP/AVP 0\r\na=rtcp-mux\r\n").unwrap();
    assert_eq!(muxed.tracks[0].target.rtcp_port, 5006);
}

#[test]
fn nonsense_is_named() {
    for text in [&b"hello"[..], &[0xff; 64], b"", b"<html>\n</html>"] {
        assert!(matches!(Description::parse(text, Writer::Server), Err(DescriptionError::Malformed(_))));
    }
    assert!(matches!(parse(""), Err(DescriptionError::NoMedia(_))));
    for (media, words) in [
        ("m=video 0 RTP/AVP 96\r\n", "not described"),
        ("m=video 0 RTP/AVP 300\r\n", "no payload type"),
        ("m=video 0 TCP/X 96\r\na=rtpmap:96 H264/90000\r\n", "TCP/X"),
        ("m=video 0 RTP/AVP 26\r\n", "JPEG"),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 JPEG/90000\r\n", "JPEG"),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\na=fmtp:96 sprop-max-don-diff=2\r\n", "order"),
        ("m=audio 0 RTP/AVP 96\r\na=rtpmap:96 PCMA/16000\r\n", "PCMA"),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=inactive\r\n", "inactive"),
    ] {
        match parse(media) {
            Err(DescriptionError::NoMedia(why)) => assert!(why.contains(words), "{media}: {why}"),
            other => panic!("{media}: {other:?}"),
        }
    }
}

/// Text that nobody needs, as real devices send it.
#[test]
fn what_is_not_needed_may_be_anything() {
    let video = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:trackID=1\r\n";
    for head in [
        // mediamtx#990, TP-Link.
        "v=0\r\no=- 14665860 31787219 1 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n",
        // mediamtx#121.
        "v=0\r\no=RTSP 16381778200090761968 16381778200090839277 IN IP4 \r\ns=x\r\nt=0 0\r\n",
        // gortsplib#618, Uniview; go2rtc#1663 (c=).
        "v=0\r\no=- 1001 1 IN \r\ns=VCP IPC Realtime stream\r\nc=IN \r\n",
        // gortsplib#85.
        "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=x\r\nt=now-\r\n",
        // mediamtx#24: another order.
        "v=0\r\ns=x\r\no=- 0 0 IN IP4 0.0.0.0\r\n",
        // go2rtc#679: none of it.
        "",
        "t=0 0\r\na=x-dimensions:1920x,\r\na=framerate:a lot\r\na=range:npt=now-\r\nb=AS:\r\nk=\r\ne=NONE\r\ni=\r\nz=\r\n",
        "v=2\r\nq\r\n=\r\na=\r\na=:\r\nm\r\n",
    ] {
        assert_eq!(taken(format!("{head}{video}")), [("H264", "trackID=1".to_owned())], "{head}");
        let other_ends =
            [format!("{head}{video}").replace("\r\n", "\n"), format!("{head}{video}").replace("\r\n", "\r")];
        for text in other_ends {
            assert_eq!(taken(&text).len(), 1, "{text:?}");
        }
    }
    // A name in GBK, and zeros at the end.
    let text = [b"v=0\r\ns=\xc9\xe3\xcf\xf1\xcd\xb7\r\ni=\xff\xfe\r\n", video.as_bytes(), b"\0\0\0"].concat();
    assert_eq!(taken(text).len(), 1);
    let long = format!("v=0\r\ns={}\r\na=x:{}\r\n{video}", "x".repeat(20_000), "y".repeat(20_000));
    assert_eq!(taken(long).len(), 1);
}

#[test]
fn rtpmaps_as_the_field_has_them() {
    for (media, codec) in [
        ("m=video 0 RTP/AVP 96\na=rtpmap: 96 H264/90000", "H264"),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96\tH264/90000", "H264"),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96  h264 / 90000 ", "H264"),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 H264", "H264"),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000/1", "H264"),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 HEVC/90000", "H265"),
        ("m=Video 0 rtp/avp 96\nA=RTPMAP:96 H265/90000", "H265"),
        ("m=video -1353744643 RTP/AVP 96\na=rtpmap:96 H264/90000", "H264"),
        ("m=video 0 RTP/AVPF 96\na=rtpmap:96 VP8/90000", "VP8"),
        ("m=video 0 RTP/AVP/TCP 96\na=rtpmap:96 H264/90000", "H264"),
        ("m=video 0 RTP/AVP\na=rtpmap:96 H264/90000", "H264"),
        ("m=video 0 RTP/AVP 97\na=rtpmap:96 H264/90000", "H264"),
        ("m=video 0 RTP/AVP 96 97\na=rtpmap:97 H264/90000", "H264"),
        ("m=audio 0 RTP/AVP 97\na=rtpmap:97 opus/48000", "opus"),
        ("m=audio 0 RTP/AVP 97\na=rtpmap:97 PCMA/8000/1", "PCMA"),
        ("m=audio 0 RTP/AVP 97\na=rtpmap:97 PCMU", "PCMU"),
        ("m=audio 0 RTP/AVP 9\na=rtpmap:9 G722/8000", "G722"),
        ("m=audio 0 RTP/AVP 8\na=rtpmap:8", "PCMA"),
    ] {
        let found = taken(media);
        assert_eq!((found.len(), found[0].0), (1, codec), "{media}");
    }
}

/// `m=video 0 RTP/AVP 26 97` with H.264 second; gortsplib#479 (a backchannel of twenty formats).
#[test]
fn the_first_format_that_browsers_play() {
    let description =
        parse("m=video 0 RTP/AVP 26 97\r\na=rtpmap:97 H264/90000\r\na=fmtp:97 profile-level-id=zz\r\n").unwrap();
    let track = &description.tracks[0];
    assert_eq!((track.payload_type, track.format.fmtp.as_str()), (97, "packetization-mode=1;profile-level-id=42e01f"));
    let audio = parse("m=audio 0 RTP/AVP 97 8\r\na=rtpmap:97 MPEG4-GENERIC/16000\r\n").unwrap();
    assert_eq!(audio.tracks[0].format.codec, Codec::Pcma);
}

#[test]
fn parameter_sets_as_the_field_has_them() {
    let sets = |fmtp: &str| {
        let media = format!("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n{fmtp}\r\n");
        let track = parse(&media).unwrap().tracks.remove(0);
        (track.sets.len(), track.format.fmtp.contains("64001f"))
    };
    for fmtp in [
        format!("a=fmtp:96 packetization-mode=1;sprop-parameter-sets={SETS}"),
        format!("a=fmtp:96 ; PACKETIZATION-MODE = 1 ; SPROP-Parameter-Sets = {SETS} ;"),
        format!("a=fmtp:96\tsprop-parameter-sets=\"{SETS}\""),
        // gortsplib#608, retina#68: without padding.
        "a=fmtp:96 sprop-parameter-sets=Z2QAH6w,aO48sA".into(),
        format!("a=fmtp:96 packetization-mode=1\r\na=fmtp:96 sprop-parameter-sets={SETS}"),
        format!("a=fmtp:sprop-parameter-sets={SETS};packetization-mode=1"),
        // mediacommon#144: of another payload type, where there is one only.
        format!("a=fmtp:97 packetization-mode=1;sprop-parameter-sets={SETS}"),
        // Start codes, each in its own set or both in one.
        "a=fmtp:96 sprop-parameter-sets=AAAAAWdkAB+s,AAAAAWjuPLA=".into(),
        "a=fmtp:96 sprop-parameter-sets=AAAAAWdkAB+sAAAAAWjuPLAA".into(),
        // retina#42: something else beside.
        format!("a=fmtp:96 sprop-parameter-sets=6QA=,!!!,{SETS}"),
    ] {
        assert_eq!(sets(&fmtp), (2, true), "{fmtp}");
    }
    assert_eq!(sets("a=fmtp:96 sprop-parameter-sets=Z2QAH6w="), (1, true));
    for fmtp in
        ["a=fmtp:96 sprop-parameter-sets=", "a=fmtp:96 sprop-parameter-sets=,,", "a=fmtp:96", "a=fmtp:", "a=fmtp:97"]
    {
        assert_eq!(sets(fmtp), (0, false), "{fmtp}");
    }
}

/// ONVIF streaming specification §5.3: what is `sendonly` is for the client to send.
#[test]
fn a_backchannel_is_left_out() {
    let video = "m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=recvonly\n";
    let description = parse(&format!(
        "{video}m=audio 0 RTP/AVP 0\na=control:back\na=sendonly\nm=audio 0 RTP/AVP 8\na=control:mic\na=recvonly\n"
    ));
    let description = description.unwrap();
    assert_eq!(description.tracks[1].control, "mic");
    assert_eq!(description.left_out, ["audio: for the client to send"]);
    assert_eq!(description.left_out_controls, ["back"]);
    // Who says so of his video as well means himself.
    let own = "m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=sendonly\nm=audio 0 RTP/AVP 8\na=sendonly\n";
    assert_eq!(taken(own).len(), 2);
    assert_eq!(taken(format!("a=sendonly\n{}m=audio 0 RTP/AVP 8\n", video.replace("a=recvonly\n", ""))).len(), 2);
    // And who sends the media says it of all.
    let pushed = "m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\nm=audio 0 RTP/AVP 8\na=sendonly\n";
    assert_eq!(Description::parse(pushed.as_bytes(), Writer::Sender).unwrap().tracks.len(), 2);
    let listens = pushed.replace("sendonly", "recvonly");
    assert_eq!(Description::parse(listens.as_bytes(), Writer::Sender).unwrap().tracks.len(), 1);
}

/// MediaMTX by `rtsps`: the keys are kept for whoever understands them.
#[test]
fn secure_rtp_is_described_with_its_keys() {
    let text = "v=0\na=key-mgmt:mikey AQAFAA==\nm=video 0 RTP/SAVP 96\na=rtpmap:96 H264/90000\n\
                m=audio 0 RTP/SAVPF 8\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:abc\na=key-mgmt:mikey BBBB\n";
    let description = Description::parse(text.as_bytes(), Writer::Server).unwrap();
    let [Some(video), Some(audio)] = [0, 1].map(|at| description.tracks[at].security.as_ref()) else {
        panic!("{description:?}")
    };
    assert_eq!(
        (video.protocol.as_str(), &video.key_mgmt[..], video.crypto.len()),
        ("RTP/SAVP", &["mikey AQAFAA==".to_owned()][..], 0)
    );
    assert_eq!(
        (&audio.key_mgmt[..], &audio.crypto[..]),
        (&["mikey BBBB".to_owned()][..], &["1 AES_CM_128_HMAC_SHA1_80 inline:abc".to_owned()][..])
    );
}

#[test]
fn a_track_may_be_left_out_later() {
    let mut description =
        parse("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=control:v\nm=audio 0 RTP/AVP 8\n").unwrap();
    description.leave_out(0, "its SETUP was refused: 404");
    assert_eq!(description.left_out, ["H264: its SETUP was refused: 404"]);
    assert_eq!((description.tracks.len(), description.left_out_controls.as_slice()), (1, &["v".to_owned()][..]));
}

/// Whatever comes, it ends, and what is taken has a payload type and bounded sets.
#[test]
fn descriptions_with_changed_bytes() {
    let good = format!(
        "{HEAD}m=video 0 RTP/AVP 96 26\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;sprop-parameter-sets={SETS}\r\n\
         m=audio 0 RTP/AVP 97 8\r\na=rtpmap:97 opus/48000/2\r\na=sendonly\r\n"
    );
    let mut seed = 5u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let mut read = 0;
    for _ in 0..5000 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..random() % 10 {
            bytes.extend_from_slice(b"\n");
            let at = random() % bytes.len();
            match random() % 4 {
                0 => bytes[at] = random() as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"\r\n:= ;,/\0"[random() % 9]),
                _ => bytes.extend_from_within(at..),
            }
        }
        if let Ok(description) = Description::parse(&bytes, Writer::Server) {
            read += 1;
            assert!(description.tracks.iter().all(|track| track.payload_type < 128 && track.sets.len() <= MAX_SETS));
        }
    }
    assert!(read > 2500, "{read} of 5000 were read");
}
