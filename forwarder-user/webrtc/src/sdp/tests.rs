//! Offers in the shape in which browsers, GStreamer, OBS, pion and FFmpeg make them.

mod receivers;

use super::*;
use penstock_media::codec::Codec;

const CHROMIUM_PUBLISH: &str = include_str!("fixtures/chromium_publish.sdp");
const CHROMIUM_PLAY: &str = include_str!("fixtures/chromium_play.sdp");
const GSTREAMER_PUBLISH: &str = include_str!("fixtures/gstreamer_publish.sdp");
const OBS_PUBLISH: &str = include_str!("fixtures/obs_publish.sdp");
const SAFARI_PUBLISH: &str = include_str!("fixtures/safari_publish.sdp");
const IOS_PUBLISH: &str = include_str!("fixtures/ios_publish.sdp");
const PION_PUBLISH: &str = include_str!("fixtures/pion_publish.sdp");
const FFMPEG_PUBLISH: &str = include_str!("fixtures/ffmpeg_publish.sdp");
const FIREFOX_PUBLISH: &str = include_str!("fixtures/firefox_publish.sdp");
const FIREFOX_PLAY: &str = include_str!("fixtures/firefox_play.sdp");
const FIREFOX_PLAY_NO_H264: &str = include_str!("fixtures/firefox_play_no_h264.sdp");

fn local() -> LocalDescription {
    LocalDescription {
        ufrag: "ours".into(),
        pwd: "secret-of-ours-22-chars".into(),
        fingerprint: "sha-256 AA:BB".into(),
        active: false,
        candidates: vec!["192.0.2.1:8189".parse().unwrap(), "[2001:db8::1]:8189".parse().unwrap()],
        tcp_candidates: vec![],
    }
}

fn answer(offer: &Offer, plans: &[Plan], sources: &[OutgoingSource]) -> String {
    let local = local();
    Answer { offer, plans, local: &local, sources, retransmits: false, repairs: false, cname: "cname", sdp_id: 1 }
        .to_text()
}

/// The same of a server that keeps what it has sent, and that takes repairs by RTX, if so.
fn answer_with(
    offer: &Offer,
    plans: &[Plan],
    sources: &[OutgoingSource],
    (retransmits, repairs): (bool, bool),
) -> String {
    Answer { offer, plans, local: &local(), sources, retransmits, repairs, cname: "c", sdp_id: 1 }.to_text()
}

/// Retransmission is offered where it is to be had: to whom asks, by whom sends, on an SSRC of its own where the
/// viewer has a payload type for it.
#[test]
fn viewers_may_ask_again_where_it_is_kept() {
    let offer = Offer::parse(CHROMIUM_PLAY).unwrap();
    let plans = play(CHROMIUM_PUBLISH, CHROMIUM_PLAY).unwrap();
    let Plan::Active(video) = &plans[1] else { panic!("no video in {plans:?}") };
    assert_eq!((video.payload_type, video.rtx), (96, Some(97)));
    let text = |retransmits, rtx| {
        let sources = [OutgoingSource { section: 0, ssrc: 5, rtx: None }, OutgoingSource { section: 1, ssrc: 6, rtx }];
        answer_with(&offer, &plans, &sources, (retransmits, false))
    };
    let with_rtx = text(true, Some(7));
    assert!(with_rtx.contains("a=rtcp-fb:96 nack\r\n"), "{with_rtx}");
    for line in [
        "a=rtpmap:97 rtx/90000",
        "a=fmtp:97 apt=96",
        "a=ssrc-group:FID 6 7",
        "a=ssrc:7 cname:c",
        "a=ssrc:7 msid:c video",
    ] {
        assert!(with_rtx.contains(&format!("{line}\r\n")), "{line} in {with_rtx}");
    }
    assert!(!with_rtx.contains("rtcp-xr"));
    assert!(lines(&with_rtx, "m=video 9 UDP/TLS/RTP/SAVPF ")[0].starts_with("96 97 102 103 "), "{with_rtx}");
    let plain = text(true, None);
    assert!(plain.contains("a=rtcp-fb:96 nack\r\n") && !plain.contains("rtx") && !plain.contains("FID"), "{plain}");
    assert!(!text(false, None).contains(" nack\r\n"));
}

/// Publishers are asked on the SSRC of the media: what they send again comes the way of all packets.
#[test]
fn publishers_are_asked_for_what_is_missing() {
    let offer = Offer::parse(CHROMIUM_PUBLISH).unwrap();
    let plans = negotiate_publisher(&offer, &[]).unwrap();
    let text = |retransmits| answer_with(&offer, &plans, &[], (retransmits, false));
    assert!(text(true).contains("a=rtcp-fb:96 nack\r\n") && !text(true).contains("rtx"), "{}", text(true));
    assert!(!text(false).contains(" nack\r\n"));
}

/// Those that repair by RTX may, layer by layer where there are layers.
#[test]
fn publishers_may_send_again_by_rtx() {
    let layers = "a=rid:q send\na=rid:f send\na=simulcast:send q;f\n";
    for (more, named) in [("", 0), (layers, 1)] {
        let offer = Offer::parse(&format!("{}\n{more}", CHROMIUM_PUBLISH.trim_end())).unwrap();
        let plans = negotiate_publisher(&offer, &[]).unwrap();
        let text = |retransmits, repairs| answer_with(&offer, &plans, &[], (retransmits, repairs));
        let answer = text(true, true);
        assert!(answer.contains("m=video 9 UDP/TLS/RTP/SAVPF 96 97 "), "{answer}");
        for line in ["a=rtpmap:97 rtx/90000", "a=fmtp:97 apt=96"] {
            assert!(answer.contains(&format!("{line}\r\n")), "{line} in {answer}");
        }
        assert!(!answer.contains("a=ssrc"), "{answer}");
        assert_eq!(answer.matches("a=extmap:11 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id").count(), named);
        assert!(!text(false, true).contains("rtx") && !text(true, false).contains("rtx"));
    }
}

#[test]
fn viewers_that_want_the_round_trip_are_promised_it() {
    let wants = CHROMIUM_PLAY.replace("a=mid:1", "a=mid:1\na=rtcp-xr:rcvr-rtt=all");
    let offer = Offer::parse(&wants).unwrap();
    let plans = play(CHROMIUM_PUBLISH, &wants).unwrap();
    let sources = [0, 1].map(|section| OutgoingSource { section, ssrc: section as u32 + 5, rtx: None });
    assert_eq!(answer(&offer, &plans, &sources).matches("a=rtcp-xr:rcvr-rtt=all\r\n").count(), 1);
}

/// All layers are taken, as they were offered; the names say which is likely to be the largest.
#[test]
fn of_a_simulcast_offer_all_layers_are_taken() {
    let answered = |more: &str| {
        let text = format!("{}\n{more}", OBS_PUBLISH.trim_end());
        let offer = Offer::parse(&text).unwrap();
        let plans = negotiate_publisher(&offer, &[]).unwrap();
        let first = layers(&offer.sections[1]).map(|(names, _)| names[0].to_owned());
        (answer(&offer, &plans, &[]), first)
    };
    let rid = "a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\n";
    let taken = |layers: &str| {
        let (answer, first) = answered(&format!("{rid}a=simulcast:{layers}\n"));
        let list = answer.lines().find_map(|line| line.strip_prefix("a=simulcast:recv ")).map(str::to_owned);
        let rids = answer.lines().filter_map(|line| line.strip_prefix("a=rid:")?.strip_suffix(" recv"));
        assert_eq!(list, Some(rids.collect::<Vec<_>>().join(";")).filter(|list| !list.is_empty()));
        assert_eq!(answer.contains("a=extmap:10 urn"), list.is_some());
        list.zip(first)
    };
    for (layers, list, first) in [
        ("send q;h;f", "q;h;f", "f"),
        ("send f;h;q", "f;h;q", "f"),
        ("send l;~h", "l;h", "h"),
        ("recv x send low;HIGH,other", "low;HIGH", "HIGH"),
        ("send 0;1;2;3", "0;1;2;3", "0"),
        ("send a;b;a", "a;b", "a"),
    ] {
        assert_eq!(taken(layers), Some((list.into(), first.into())), "{layers:?}");
    }
    for none in ["send f", "send f;f", "recv q;h;f", "send ;;", ""] {
        assert_eq!(taken(none), None, "{none:?}");
    }
    // Packets of one layer could not be told from those of another.
    assert!(!answered("a=simulcast:send q;h;f\n").0.contains("simulcast"));
    let beyond = "a=extmap:15 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\na=simulcast:send q;f\n";
    assert!(!answered(beyond).0.contains("rid"));
    let many = (0..100).map(|n| format!("l{n}")).collect::<Vec<_>>().join(";");
    assert_eq!(taken(&format!("send {many};f")).unwrap().0.split(';').count(), 8);
}

#[test]
fn retransmissions_belong_to_the_format_that_they_name() {
    let formats = |text: &str| {
        let sections = Offer::parse(text).unwrap().sections;
        let video = sections.into_iter().find(|section| section.kind == Some(penstock_media::Kind::Video)).unwrap();
        video.formats.into_iter().map(|format| (format.payload_type, format.rtx)).collect::<Vec<_>>()
    };
    let offered = |more: &str| {
        let text = OBS_PUBLISH.replace("UDP/TLS/RTP/SAVPF 96", "UDP/TLS/RTP/SAVPF 96 97 98");
        formats(&format!("{}\n{more}", text.trim_end()))
    };
    assert_eq!(offered("a=rtpmap:97 rtx/90000\na=fmtp:97 apt=96\n"), [(96, Some(97))]);
    assert_eq!(offered("a=rtpmap:97 RTX/90000\na=fmtp:97 rtx-time=3000; apt=96\n"), [(96, Some(97))]);
    // Of a format that is not there, of none, of something that is no retransmission, twice.
    assert_eq!(offered("a=rtpmap:97 rtx/90000\na=fmtp:97 apt=98\n"), [(96, None)]);
    assert_eq!(offered("a=rtpmap:97 rtx/90000\n"), [(96, None)]);
    assert_eq!(offered("a=rtpmap:97 red/90000\na=fmtp:97 apt=96\n"), [(96, None)]);
    let twice = "a=rtpmap:97 rtx/90000\na=fmtp:97 apt=96\na=rtpmap:98 rtx/90000\na=fmtp:98 apt=96\n";
    assert_eq!(offered(twice), [(96, Some(97))]);
}

fn actives(plans: &[Plan]) -> Vec<(Codec, u8)> {
    let active = |plan: &Plan| match plan {
        Plan::Active(format) => Some((format.codec, format.payload_type)),
        Plan::Inactive(_) | Plan::Rejected => None,
    };
    plans.iter().filter_map(active).collect()
}

fn publish(text: &str) -> Vec<Plan> {
    negotiate_publisher(&Offer::parse(text).unwrap(), &[]).unwrap()
}

/// What a viewer's offer gets of a publisher's stream.
fn play(publisher: &str, viewer: &str) -> Result<Vec<Plan>, String> {
    played(publisher, viewer).map(|played| played.plans).map_err(|unplayable| unplayable.to_string())
}

fn played(publisher: &str, viewer: &str) -> Result<Played, Unplayable> {
    let stream: Vec<_> = publish(publisher)
        .into_iter()
        .filter_map(|plan| if let Plan::Active(format) = plan { Some(format) } else { None })
        .map(|format| Sent { format, others: vec![], any_profile: false })
        .collect();
    negotiate_viewer(&Offer::parse(viewer).unwrap(), &stream)
}

/// The lines of an answer that begin so, without that.
fn lines<'a>(answer: &'a str, prefix: &str) -> Vec<&'a str> {
    answer.lines().filter_map(|line| line.strip_prefix(prefix)).collect()
}

#[test]
fn chromium_publishes_what_it_lists_first_and_may_send_the_rest() {
    let offer = Offer::parse(CHROMIUM_PUBLISH).unwrap();
    assert_eq!((offer.remote.ufrag.as_str(), offer.remote.setup), ("EsAw", Setup::ActPass));
    let plans = negotiate_publisher(&offer, &[]).unwrap();
    assert_eq!(actives(&plans), [(Codec::Opus, 111), (Codec::Vp8, 96)]);
    let answer = answer(&offer, &plans, &[]);
    assert!(answer.contains("m=audio 9 UDP/TLS/RTP/SAVPF 111 9 0 8\r\n"), "{answer}");
    assert!(lines(&answer, "m=video 9 UDP/TLS/RTP/SAVPF ")[0].starts_with("96 "), "{answer}");
    assert!(answer.contains("a=group:BUNDLE 0 1\r\n") && answer.contains("a=ice-lite\r\n"));
    assert!(answer.contains("a=fmtp:111 minptime=10;useinbandfec=1\r\n"));
    assert!(answer.contains("a=rtcp-fb:96 transport-cc\r\na=rtcp-fb:96 goog-remb\r\na=rtcp-fb:96 ccm fir\r\n"));
    assert!(answer.contains("a=rtcp-fb:96 nack pli\r\n"));
    let counted = "a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n";
    assert_eq!((answer.matches(counted).count(), answer.matches("extmap").count()), (2, 2), "sound too: {answer}");
    assert!(answer.contains("a=rtcp-fb:111 transport-cc\r\n"));
    for absent in ["rtx", "96 nack\r", "ssrc", "simulcast", "red/", "telephone"] {
        assert!(!answer.contains(absent), "{absent} in {answer}");
    }
    assert_eq!(answer.matches("a=recvonly").count(), 2);
    assert_eq!(answer.matches("a=candidate:").count(), 2, "in the first section only");
    assert!(answer.contains(" 2001:db8::1 8189 typ host"));
}

/// Whoever counts its packets and takes no feedback on them, or the other way round, gets REMB.
#[test]
fn without_transport_wide_feedback_remb_is_answered() {
    for absent in ["transport-cc", "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"] {
        let text = CHROMIUM_PUBLISH.lines().filter(|line| !line.ends_with(absent)).collect::<Vec<_>>().join("\r\n");
        let offer = Offer::parse(&text).unwrap();
        let answer = answer(&offer, &negotiate_publisher(&offer, &[]).unwrap(), &[]);
        assert!(answer.contains("a=rtcp-fb:96 goog-remb\r\n") && !answer.contains("extmap"), "{answer}");
    }
}

#[test]
fn gstreamer_bundles_with_port_0_and_starts_with_video() {
    let offer = Offer::parse(GSTREAMER_PUBLISH).unwrap();
    let plans = negotiate_publisher(&offer, &[]).unwrap();
    assert_eq!(actives(&plans), [(Codec::H264, 96), (Codec::Opus, 97)]);
    let answer = answer(&offer, &plans, &[]);
    assert!(answer.contains("a=mid:video0") && answer.contains("m=audio 9 "), "{answer}");
    assert!(answer.contains("a=rtpmap:97 opus/48000/2") && !answer.contains("sprop"), "{answer}");
}

#[test]
fn obs_has_its_transport_in_the_session_part() {
    let offer = Offer::parse(OBS_PUBLISH).unwrap();
    assert_eq!(offer.remote.ufrag, "uzQ5");
    assert_eq!(actives(&negotiate_publisher(&offer, &[]).unwrap()), [(Codec::Opus, 111), (Codec::H264, 96)]);
}

#[test]
fn a_viewers_answer_names_our_ssrc_and_sends_only() {
    let offer = Offer::parse(CHROMIUM_PLAY).unwrap();
    let plans = play(CHROMIUM_PUBLISH, CHROMIUM_PLAY).unwrap();
    let sources =
        [OutgoingSource { section: 0, ssrc: 7, rtx: None }, OutgoingSource { section: 1, ssrc: 8, rtx: None }];
    let answer = answer(&offer, &plans, &sources);
    assert_eq!(answer.matches("a=sendonly").count(), 2);
    for line in ["a=ssrc:7 cname:cname", "a=ssrc:8 cname:cname", "a=ssrc:8 msid:cname video", "a=msid:cname audio"] {
        assert!(answer.contains(&format!("{line}\r\n")), "{line} in {answer}");
    }
    assert!(!answer.contains("goog-remb") && answer.contains("a=rtcp-fb:96 nack pli"), "{answer}");
}

#[test]
fn kinds_that_the_stream_has_not_are_inactive() {
    let video_only =
        &OBS_PUBLISH.replace("m=audio 47361 UDP/TLS/RTP/SAVPF 111", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel");
    let offer = Offer::parse(CHROMIUM_PLAY).unwrap();
    let plans = play(video_only, CHROMIUM_PLAY).unwrap();
    assert!(matches!(&plans[0], Plan::Inactive(format) if format.codec == Codec::Opus));
    assert_eq!(actives(&plans), [(Codec::H264, 102)]);
    let answer = answer(&offer, &plans, &[OutgoingSource { section: 1, ssrc: 8, rtx: None }]);
    let sections: Vec<&str> = answer.split("m=").collect();
    assert!(sections[1].starts_with("audio 9") && sections[1].contains("a=inactive"), "{answer}");
    assert!(sections[1].contains("a=candidate"), "the bundle's transport stands in its first section");
    assert!(sections[2].contains("a=sendonly"));
}

#[test]
fn data_channels_and_foreign_protocols_get_port_0() {
    let text =
        OBS_PUBLISH.replace("m=audio 47361 UDP/TLS/RTP/SAVPF 111", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel");
    let offer = Offer::parse(&text).unwrap();
    let plans = negotiate_publisher(&offer, &[]).unwrap();
    assert_eq!(plans[0], Plan::Rejected);
    let answer = answer(&offer, &plans, &[]);
    assert!(answer.contains("m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\n"), "{answer}");
    assert!(answer.contains("a=group:BUNDLE 1\r\n"));
    let plain = OBS_PUBLISH.replace("UDP/TLS/RTP/SAVPF", "RTP/QUIC");
    let error = negotiate_publisher(&Offer::parse(&plain).unwrap(), &[]).unwrap_err();
    assert!(error.contains("UDP/TLS/RTP/SAVPF"), "{error}");
}

#[test]
fn wrong_directions_are_explained() {
    let error = negotiate_publisher(&Offer::parse(CHROMIUM_PLAY).unwrap(), &[]).unwrap_err();
    assert!(error.contains("sends nothing"), "{error}");
    let error = play(CHROMIUM_PUBLISH, CHROMIUM_PUBLISH).unwrap_err();
    assert!(error.contains("receives nothing"), "{error}");
    let both = CHROMIUM_PUBLISH.replace("a=sendonly", "a=sendrecv");
    assert_eq!(actives(&publish(&both)).len(), 2);
    assert_eq!(actives(&play(&both, &both).unwrap()).len(), 2);
    let default = CHROMIUM_PUBLISH.replace("a=sendonly\n", "");
    assert_eq!(actives(&publish(&default)).len(), 2, "sendrecv is the default");
}

#[test]
fn no_codec_in_common_is_explained() {
    let exotic = OBS_PUBLISH.replace("opus/48000/2", "speex/16000").replace("H264/90000", "theora/90000");
    let error = negotiate_publisher(&Offer::parse(&exotic).unwrap(), &[]).unwrap_err();
    assert!(error.contains("speex, theora") && error.contains("VP9"), "{error}");
}

#[test]
fn a_second_track_of_a_kind_is_refused() {
    let second = CHROMIUM_PUBLISH.split("m=video").nth(1).unwrap().replace("a=mid:1", "a=mid:2");
    let text = format!("{}m=video{second}", CHROMIUM_PUBLISH.replace("BUNDLE 0 1", "BUNDLE 0 1 2"));
    let refused = negotiate_publisher(&Offer::parse(&text).unwrap(), &[]).unwrap_err();
    assert!(refused.contains("2 video tracks"), "{refused}");
    // One that is not sent takes nothing away.
    let (first, last) = text.rsplit_once("a=sendonly").unwrap();
    let plans = publish(&format!("{first}a=inactive{last}"));
    assert_eq!(actives(&plans).len(), 2);
    assert!(matches!(plans[2], Plan::Inactive(_)));
}

#[test]
fn broken_offers_are_malformed_with_a_reason() {
    let without = |prefix: &str| -> String {
        CHROMIUM_PUBLISH.lines().filter(|line| !line.starts_with(prefix)).map(|line| format!("{line}\r\n")).collect()
    };
    let cases = [
        (String::new(), "not SDP"),
        ("hello".into(), "not SDP"),
        ("{\"type\":\"offer\"}".into(), "not SDP"),
        (CHROMIUM_PUBLISH.split("m=").next().unwrap().to_owned(), "no media section"),
        (without("a=fingerprint"), "a=fingerprint"),
        (without("a=ice-ufrag"), "ICE credentials"),
        (without("a=mid"), "a=mid"),
        (CHROMIUM_PUBLISH.replace("a=mid:1", "a=mid:0"), "two media sections"),
        (CHROMIUM_PUBLISH.replace("sha-256 49:66", "sha-256 49:6X"), "malformed a=fingerprint"),
        (CHROMIUM_PUBLISH.replace("sha-256", "sha-1"), "no SHA-256"),
        (CHROMIUM_PUBLISH.replace("a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1", "a=ice-pwd:short"), "malformed ICE"),
        (CHROMIUM_PUBLISH.replace("actpass", "holdconn"), "a=setup"),
        (CHROMIUM_PUBLISH.replace("t=0 0", "t=0 0\na=ice-lite"), "ICE-lite"),
        (CHROMIUM_PUBLISH.replace("BUNDLE 0 1", "BUNDLE 0"), "BUNDLE"),
        (CHROMIUM_PUBLISH.replace("m=video 9", "m=video 99999"), "malformed port"),
        (OBS_PUBLISH.replace("m=video 47361 UDP/TLS/RTP/SAVPF 96", "m=video 47361"), "malformed"),
        (format!("v=0\n{}", "m=audio 9 UDP/TLS/RTP/SAVPF 0\n".repeat(65)), "more than 64"),
    ];
    for (text, reason) in cases {
        let error = Offer::parse(&text).unwrap_err();
        assert!(error.contains(reason), "{reason:?} in {error:?}");
    }
}

#[test]
fn offers_cut_off_or_damaged_anywhere_do_not_panic() {
    for text in [CHROMIUM_PUBLISH, GSTREAMER_PUBLISH, OBS_PUBLISH] {
        for len in 0..text.len() {
            if let Ok(offer) = Offer::parse(&text[..len])
                && let Ok(plans) = negotiate_publisher(&offer, &[])
            {
                answer(&offer, &plans, &[]);
            }
            let damaged: String = text.chars().enumerate().map(|(i, c)| if i == len { '\u{e9}' } else { c }).collect();
            if let Ok(offer) = Offer::parse(&damaged) {
                let _ = negotiate_viewer(&offer, &[]);
            }
        }
    }
}

#[test]
fn static_payload_types_need_no_rtpmap() {
    let text = OBS_PUBLISH.replace("SAVPF 111", "SAVPF 8 0").replace("a=rtpmap:111 opus/48000/2\n", "");
    assert_eq!(actives(&publish(&text))[0], (Codec::Pcma, 8));
}

/// What weak but honest peers write.
#[test]
fn unusual_offers_are_taken() {
    let protocols = ["RTP/SAVPF", "UDP/TLS/RTP/SAVP", "TCP/DTLS/RTP/SAVPF", "RTP/AVPF", "RTP/SAVP", "RTP/AVP"];
    for protocol in protocols {
        let text = OBS_PUBLISH.replace("UDP/TLS/RTP/SAVPF", protocol);
        let offer = Offer::parse(&text).unwrap();
        let answer = answer(&offer, &negotiate_publisher(&offer, &[]).unwrap(), &[]);
        assert!(answer.contains(&format!("m=audio 9 {protocol} 111\r\n")), "the word is repeated: {answer}");
    }
    let ports = CHROMIUM_PUBLISH.replace("m=audio 9 ", "m=audio 9/1 ");
    assert_eq!(actives(&publish(&ports)).len(), 2);
    let tab = CHROMIUM_PUBLISH.replace("a=fmtp:111 minptime=10;", "a=fmtp:111\tminptime=10;\t");
    let offer = Offer::parse(&tab).unwrap();
    let answered = answer(&offer, &negotiate_publisher(&offer, &[]).unwrap(), &[]);
    assert!(answered.contains("a=fmtp:111 minptime=10;useinbandfec=1\r\n"), "{answered}");

    let (before, video) = CHROMIUM_PUBLISH.split_once("m=video").unwrap();
    assert!(!video.is_empty());
    let lone = before.replace("a=mid:0\n", "").replace("a=group:BUNDLE 0 1\n", "");
    let offer = Offer::parse(&lone).unwrap();
    let answered = answer(&offer, &negotiate_publisher(&offer, &[]).unwrap(), &[]);
    assert!(answered.contains("m=audio 9 ") && !answered.contains("a=mid") && !answered.contains("BUNDLE"));
}

#[test]
fn fingerprints_of_every_strong_hash_are_taken() {
    let line = CHROMIUM_PUBLISH.lines().find(|line| line.starts_with("a=fingerprint")).unwrap();
    let digest = |name: &str, len: usize| format!("a=fingerprint:{name} {}", vec!["AB"; len].join(":"));
    let prints = |lines: &str| Offer::parse(&CHROMIUM_PUBLISH.replace(line, lines)).map(|o| o.remote.fingerprints);
    assert_eq!(prints(&digest("sha-384", 48)).unwrap()[0].hash, Hash::Sha384);
    assert_eq!(prints(&digest("SHA-512", 64)).unwrap()[0].hash, Hash::Sha512);
    let several = [digest("sha-1", 20), digest("sha-256", 32), digest("sha-512", 64)].join("\r\n");
    assert_eq!(prints(&several).unwrap().len(), 2);
    assert!(prints(&digest("sha-384", 32)).unwrap_err().contains("malformed"));
}

#[test]
fn fragments_trickle_or_restart() {
    let trickle = "a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\na=ice-ufrag:EsAw\r\n\
                   a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=candidate:1 1 udp 1 2.example.local 5 typ host\r\n";
    let fragment = Fragment::parse(trickle).unwrap();
    assert_eq!(fragment.credentials.unwrap().0, "EsAw");
    assert_eq!(fragment.candidates, 1);
    assert!(Fragment::parse("a=end-of-candidates").unwrap().credentials.is_none());
    for (text, reason) in [
        ("", "neither"),
        ("hello", "not an SDP fragment"),
        ("a=ice-ufrag:EsAw", "only one"),
        ("a=ice-ufrag:E\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1", "malformed"),
    ] {
        let error = Fragment::parse(text).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    let ours = local().to_fragment();
    assert!(ours.starts_with("a=ice-lite\r\na=ice-ufrag:ours\r\n") && ours.contains("typ host\r\n"), "{ours}");
}
