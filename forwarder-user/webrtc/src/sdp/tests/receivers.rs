//! Receivers decide: who plays whom, and in what.

use super::*;

#[test]
fn a_viewer_gets_the_publishers_codec_in_a_format_that_it_decodes() {
    assert_eq!(actives(&play(CHROMIUM_PUBLISH, CHROMIUM_PLAY).unwrap()), [(Codec::Opus, 111), (Codec::Vp8, 96)]);
    // 42e01f with packetization mode 1, of which this offer has only the one and the other.
    assert_eq!(actives(&play(OBS_PUBLISH, CHROMIUM_PLAY).unwrap()), [(Codec::Opus, 111), (Codec::H264, 102)]);
    let with_42e01f = CHROMIUM_PLAY
        .replace("packetization-mode=0;profile-level-id=42e01f", "profile-level-id=42e034;packetization-mode=1");
    assert_eq!(actives(&play(OBS_PUBLISH, &with_42e01f).unwrap()), [(Codec::Opus, 111), (Codec::H264, 104)]);
}

/// RFC 7742 §5: what every browser decodes, whichever of it stands first; another only if there is none, or on demand.
#[test]
fn publishers_are_asked_for_what_everybody_decodes() {
    let chosen = |text: &str, order: &[Codec]| {
        let plans = negotiate_publisher(&Offer::parse(text).unwrap(), order).unwrap();
        actives(&plans).into_iter().find(|(codec, _)| codec.kind() == penstock_media::Kind::Video).unwrap()
    };
    for (publisher, everybodys) in [
        (SAFARI_PUBLISH, (Codec::H264, 98)),
        (IOS_PUBLISH, (Codec::H264, 98)),
        (PION_PUBLISH, (Codec::Vp8, 96)),
        (FIREFOX_PUBLISH, (Codec::Vp8, 120)),
        (CHROMIUM_PUBLISH, (Codec::Vp8, 96)),
        (FFMPEG_PUBLISH, (Codec::H264, 106)),
    ] {
        assert_eq!(chosen(publisher, &[]), everybodys);
    }
    assert_eq!(chosen(IOS_PUBLISH, &[Codec::Av1, Codec::H265]).0, Codec::Av1);
    assert_eq!(chosen(SAFARI_PUBLISH, &[Codec::Av1, Codec::Vp8]).0, Codec::Vp8);
    assert_eq!(chosen(FFMPEG_PUBLISH, &[Codec::Av1]), (Codec::H264, 106));
    assert_eq!(chosen(PION_PUBLISH, &[Codec::H264]), (Codec::H264, 106));
    let exotic = PION_PUBLISH.replace("SAVPF 96 97 102 103 104 105 106 107 ", "SAVPF 98 99 45 46 ");
    assert_eq!(chosen(&exotic, &[]), (Codec::Vp9, 98));
    let sound = FIREFOX_PUBLISH.replace("SAVPF 109 9 0 8 101", "SAVPF 9 8 109");
    assert_eq!(actives(&publish(&sound))[0], (Codec::Pcma, 8));
}

/// Whoever publishes, the usual browsers play it.
#[test]
fn every_publisher_reaches_every_browser() {
    let mode_0 = FFMPEG_PUBLISH.replace("packetization-mode=1", "packetization-mode=0");
    let bare = FFMPEG_PUBLISH.lines().filter(|line| !line.starts_with("a=fmtp")).map(|line| format!("{line}\n"));
    let bare = bare.collect::<String>();
    let lone = FFMPEG_PUBLISH.replace("opus/48000/2", "OPUS/48000").replace("H264/", "h264/");
    for publisher in [SAFARI_PUBLISH, IOS_PUBLISH, PION_PUBLISH, FFMPEG_PUBLISH, FIREFOX_PUBLISH, &mode_0, &bare, &lone]
    {
        for viewer in [CHROMIUM_PLAY, FIREFOX_PLAY] {
            let played = played(publisher, viewer).unwrap();
            assert_eq!((actives(&played.plans).len(), played.without), (2, None), "{publisher}");
        }
    }
    let offer = Offer::parse(&lone).unwrap();
    let answered = answer(&offer, &publish(&lone), &[]);
    assert!(answered.contains("a=rtpmap:111 opus/48000\r\n"), "{answered}");
}

/// Sound without picture, with a word; and nothing at all, with the same word.
#[test]
fn what_cannot_be_decoded_leaves_the_rest_playing() {
    let partly = played(FFMPEG_PUBLISH, FIREFOX_PLAY_NO_H264).unwrap();
    assert_eq!(actives(&partly.plans), [(Codec::Opus, 109)]);
    assert!(matches!(partly.plans[1], Plan::Inactive(_)));
    let word = partly.without.unwrap();
    assert!(word.contains("no picture") && word.contains("OpenH264") && word.contains("64001f"), "{word}");
    let silent = FIREFOX_PLAY_NO_H264.replace("m=audio 9", "m=audio 0").replace("BUNDLE 0 1", "BUNDLE 1");
    let word = played(FFMPEG_PUBLISH, &silent).unwrap_err().to_string();
    assert!(word.contains("OpenH264") && word.contains("no codec in common"), "{word}");
    // Single NAL units only.
    let mode_0 = FIREFOX_PLAY.replace(";packetization-mode=1", "");
    let partly = played(FFMPEG_PUBLISH, &mode_0).unwrap();
    assert!(partly.without.unwrap().contains("no picture"));
}

/// A second section of the kind may have what the first has not.
#[test]
fn any_section_of_the_kind_will_do() {
    let (before, video) = FIREFOX_PLAY_NO_H264.split_once("m=video").unwrap();
    let second = FIREFOX_PLAY.split_once("m=video").unwrap().1.replace("a=mid:1", "a=mid:2");
    let two = format!("{}m=video{video}m=video{second}", before.replace("BUNDLE 0 1", "BUNDLE 0 1 2"));
    let played = played(FFMPEG_PUBLISH, &two).unwrap();
    assert_eq!((actives(&played.plans), played.without), (vec![(Codec::Opus, 109), (Codec::H264, 126)], None));
}

/// Nothing has come yet of a publisher that may send one of several: whoever decodes one of them may wait for it.
#[test]
fn what_may_come_counts_until_something_has_come() {
    let section = |text: &str| Offer::parse(text).unwrap().sections.into_iter().find(|s| s.media == "video").unwrap();
    let (pion, h264_only) = (section(PION_PUBLISH), FFMPEG_PUBLISH.replace("sendonly", "recvonly"));
    let others: Vec<_> = others(&pion, &pion.formats[0], false).into_iter().cloned().collect();
    assert_eq!(others.len(), 10);
    let mut sent = Sent { format: pion.formats[0].clone(), others, any_profile: false };
    let viewer = Offer::parse(&h264_only).unwrap();
    assert_eq!(actives(&negotiate_viewer(&viewer, std::slice::from_ref(&sent)).unwrap().plans), [(Codec::H264, 106)]);
    sent.others.clear();
    assert!(negotiate_viewer(&viewer, &[sent]).is_err());
}

/// Viewers are ready for another publisher, without a word more than that takes.
#[test]
fn viewers_keep_one_format_for_each_decoder() {
    let offer = Offer::parse(FIREFOX_PLAY).unwrap();
    let video = &offer.sections[1];
    let kept = |chosen: usize| {
        let others = others(video, &video.formats[chosen], true);
        others.into_iter().map(|format| format.payload_type).collect::<Vec<_>>()
    };
    assert_eq!(kept(0), [121, 126, 99]);
    assert_eq!(kept(2), [120, 121, 99]);
}
