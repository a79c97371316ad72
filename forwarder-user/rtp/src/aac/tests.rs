//! Packets as FFmpeg, GStreamer and cameras cut them, and ones that nobody should send.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    description::{Description, Sound, Writer},
    testing::{Random, packet},
};

struct Bench {
    receiver: Receiver,
    seq: u16,
    now: Instant,
    units: Vec<(u32, bool, Vec<u8>)>,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "a test begins at any time")]
    fn new(rtpmap: &str, fmtp: &str) -> Self {
        let sdp = format!("v=0\r\nm=audio 0 RTP/AVP 96\r\na=rtpmap:96 {rtpmap}\r\na=fmtp:96 {fmtp}\r\n");
        let described = Description::parse_for(sdp.as_bytes(), Writer::Server, Sound::Opus).unwrap();
        let track = &described.tracks[0];
        assert_eq!(track.format.codec.name(), "opus");
        let receiver = Receiver::new(track.aac.as_ref().unwrap(), 96, true);
        Self { receiver, seq: 7, now: Instant::now(), units: vec![] }
    }

    fn hbr() -> Self {
        Self::new(
            "MPEG4-GENERIC/16000/1",
            "streamtype=5;mode=AAC-hbr;config=1408;SizeLength=13;IndexLength=3;IndexDeltaLength=3",
        )
    }

    fn push(&mut self, timestamp: u32, marker: bool, payload: &[u8]) -> Result<(), Unfit> {
        let bytes = packet(1, self.seq, timestamp, 96 | u8::from(marker) << 7, payload);
        self.seq = self.seq.wrapping_add(1);
        self.now += Duration::from_millis(20);
        let units = &mut self.units;
        self.receiver.packet(&bytes, self.now, &mut |unit| units.push((unit.timestamp, unit.lost, unit.bytes.to_vec())))
    }
}

/// AU headers of 13 and 3 bits, and the units.
fn hbr(units: &[&[u8]]) -> Vec<u8> {
    let mut bytes = ((units.len() * 16) as u16).to_be_bytes().to_vec();
    units.iter().for_each(|unit| bytes.extend(((unit.len() as u16) << 3).to_be_bytes()));
    units.iter().for_each(|unit| bytes.extend_from_slice(unit));
    bytes
}

#[test]
fn units_of_a_packet_follow_each_other() {
    let mut bench = Bench::hbr();
    assert_eq!(bench.receiver.config(), Some(Config { rate: 16_000, channels: 1 }));
    bench.push(u32::MAX - 1023, true, &hbr(&[&[1, 2, 3], &[4, 5]])).unwrap();
    bench.push(1024, true, &hbr(&[&[6]])).unwrap();
    let begin = bench.units[0].0;
    let ahead: Vec<u32> = bench.units.iter().map(|unit| unit.0.wrapping_sub(begin)).collect();
    assert_eq!(ahead, [0, 3072, 6144], "at 48 kHz, over the wrap of the source's");
    assert_eq!(bench.units[1].2, [4, 5]);
    assert_eq!(bench.receiver.map(1, 0), Some(begin.wrapping_add(3072)));
    assert_eq!(bench.receiver.map(2, 0), None);
}

#[test]
fn fragments_are_joined_and_what_is_lost_is_no_unit() {
    let mut bench = Bench::hbr();
    let unit: Vec<u8> = (1..=100).collect();
    let part = |bytes: &[u8]| [&[0, 16][..], &(100u16 << 3).to_be_bytes(), bytes].concat();
    bench.push(0, false, &part(&unit[..60])).unwrap();
    bench.push(0, true, &part(&unit[60..])).unwrap();
    assert_eq!(bench.units, [(0, true, unit.clone())], "what was before the first packet is lost");
    bench.push(1024, false, &part(&unit[..60])).unwrap();
    bench.seq += 1;
    bench.push(1024, true, &part(&unit[80..])).unwrap();
    bench.push(2048, true, &hbr(&[&[9]])).unwrap();
    assert_eq!(bench.units[1..], [(6144, true, vec![9])]);
    assert_eq!(bench.receiver.take_lost(), 1);
}

/// What cameras write into `a=fmtp`, and leave out.
#[test]
fn descriptions_of_the_field() {
    for (rtpmap, fmtp) in [
        (
            "mpeg4-generic/16000/1",
            "profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1408",
        ),
        ("MPEG4-GENERIC/16000", "config=1408"),
        (
            "MPEG4-GENERIC/16000/1",
            "streamtype=5; profile-level-id=15; mode=AAC-hbr; SizeLength=13; IndexLength=3; IndexDeltaLength=3; Profile=1;",
        ),
        ("MPEG4-GENERIC/16000/1", "mode=aac-hbr; config=\"1408\""),
        ("mpeg4-generic/16000/1", "streamtype=5;config="),
    ] {
        let mut bench = Bench::new(rtpmap, fmtp);
        bench.push(0, true, &hbr(&[&[1, 2, 3]])).unwrap();
        assert_eq!(bench.units, [(0, true, vec![1, 2, 3])], "{rtpmap} {fmtp}");
    }
    let mut low =
        Bench::new("MPEG4-GENERIC/8000/1", "mode=AAC-lbr;config=1588;sizeLength=6;indexLength=2;indexDeltaLength=2");
    low.push(0, true, &[0, 16, 3 << 2, 1 << 2, 7, 8, 9, 6]).unwrap();
    assert_eq!(low.units, [(0, true, vec![7, 8, 9]), (6144, false, vec![6])]);
    let mut all = Bench::new(
        "MPEG4-GENERIC/8000/1",
        "mode=generic;config=1588;sizeLength=8;CTSDeltaLength=4;DTSDeltaLength=4;randomAccessIndication=1;\
         streamStateIndication=5;auxiliaryDataSizeLength=8",
    );
    // Size 2, a CTS, no DTS, random access, state; eight bits of auxiliary data.
    all.push(0, true, &[0, 20, 2, 0b1010_1011, 0b0101_0000, 8, 0xee, 3, 4]).unwrap();
    assert_eq!(all.units, [(0, true, vec![3, 4])]);
    let mut constant = Bench::new("MPEG4-GENERIC/8000/1", "mode=generic;config=1588;constantSize=2");
    constant.push(0, true, &[1, 2, 3, 4]).unwrap();
    assert_eq!(constant.units.len(), 2);
    // With the header of a file's frame (ADTS).
    let mut adts = Bench::hbr();
    adts.push(0, true, &hbr(&[&[0xff, 0xf1, 0x60, 0x40, 1, 0x3f, 0xfc, 5, 6]])).unwrap();
    assert_eq!(adts.units[0].2, [5, 6]);
}

#[test]
fn what_is_no_aac_of_ours_says_why() {
    let why = |rtpmap: &str, fmtp: &str, sound| {
        let sdp = format!("v=0\r\nm=audio 0 RTP/AVP 96\r\na=rtpmap:96 {rtpmap}\r\na=fmtp:96 {fmtp}\r\n");
        Description::parse_for(sdp.as_bytes(), Writer::Server, sound).unwrap_err().to_string()
    };
    let as_is = why("MPEG4-GENERIC/16000/1", "config=1408", Sound::AsIs);
    assert!(as_is.contains("audio = \"opus\""), "{as_is}");
    for (rtpmap, fmtp, words) in [
        ("MPEG4-GENERIC/44100/6", "config=1230", "configuration 6"),
        ("MPEG4-GENERIC/44100/2", "config=f8e85000", "object type 39"),
        ("MPEG4-GENERIC/12345/1", "mode=AAC-hbr", "without `config`"),
        ("MPEG4-GENERIC/48000/1", "config=1188;sizeLength=99", "sizeLength of 99"),
        ("MP4A-LATM/90000", "cpresent=0", "without `config`"),
        ("MPEG4-GENERIC/48000/1", "config=1a10", "object type 3"),
        ("MP4A-LATM/90000", "cpresent=0;config=c0", "to come"),
        ("speex/16000", "", "speex: browsers do not play it"),
        ("AMR/8000", "octet-align=1", "AMR: browsers do not play it"),
    ] {
        let text = why(rtpmap, fmtp, Sound::Opus);
        assert!(text.contains(words), "{text}");
    }
    // What browsers play comes first.
    let sdp =
        b"v=0\nm=audio 0 RTP/AVP 96\na=rtpmap:96 MPEG4-GENERIC/16000/1\na=fmtp:96 config=1408\nm=audio 0 RTP/AVP 8\n";
    let both = Description::parse_for(sdp, Writer::Server, Sound::Opus).unwrap();
    assert!(both.tracks.len() == 1 && both.tracks[0].aac.is_none());
}

/// mpv#5669: no AU headers, but those of files. mediamtx#3590: LATM whose configuration is nowhere.
#[test]
fn units_without_what_the_rfcs_want() {
    let frame = |unit: &[u8]| {
        let len = 7 + unit.len();
        [&[0xff, 0xf1, 0x60, 0x40, (len >> 3) as u8, (len as u8 & 7) << 5 | 0x1f, 0xfc][..], unit].concat()
    };
    let mut bench = Bench::hbr();
    bench.push(0, true, &[frame(&[1, 2, 3]), frame(&[4; 90]), vec![0; 3]].concat()).unwrap();
    assert_eq!(bench.units, [(0, true, vec![1, 2, 3]), (3072, false, vec![4; 90])]);
    let mut bench = Bench::new("MP4A-LATM/16000/1", "profile-level-id=1709392648;cpresent=0;config=");
    bench.push(0, true, &[2, 5, 6]).unwrap();
    assert_eq!(bench.units, [(0, true, vec![5, 6])]);
}

/// RFC 6416: by a configuration of the description, and by one among the elements.
#[test]
fn elements_of_latm() {
    let mut bench = Bench::new("MP4A-LATM/44100/2", "profile-level-id=41;cpresent=0;config=400024203fc0");
    bench.push(0, true, &[&[3, 7, 8, 9][..], &[]].concat()).unwrap();
    let long: Vec<u8> = (0..300).map(|at| at as u8).collect();
    let element = [&[255, 45][..], &long].concat();
    bench.push(1024, false, &element[..100]).unwrap();
    bench.push(1024, false, &element[100..200]).unwrap();
    bench.push(1024, true, &element[200..]).unwrap();
    assert_eq!(bench.units, [(0, true, vec![7, 8, 9]), (1114, false, long.clone())]);
    // One that has lost its middle is none.
    bench.push(2048, false, &element[..100]).unwrap();
    bench.seq += 1;
    assert_eq!(bench.push(2048, true, &element[200..]), Err(Unfit::BadUnit));
    bench.push(3072, true, &[1, 5]).unwrap();
    assert_eq!(bench.units[2].2, [5]);

    // In band: useSameStreamMux, the configuration, and a unit, one bit behind bytes.
    let mut bench = Bench::new("MP4A-LATM/44100/2", "profile-level-id=41");
    assert_eq!(bench.receiver.config(), None);
    assert_eq!(bench.push(0, true, &[0x80, 1]), Err(Unfit::BadUnit), "the configuration is not known yet");
    let bits: String = "0".to_owned() + &bits(&[0x40, 0, 0x24, 0x20, 0x3f, 0xc0])[..44] + &bits(&[2, 0xaa, 0x55]);
    bench.push(1024, true, &bytes(&bits)).unwrap();
    bench.push(2048, true, &bytes(&("1".to_owned() + &self::bits(&[1, 0x77])))).unwrap();
    assert_eq!(bench.receiver.config(), Some(Config { rate: 44_100, channels: 2 }));
    let units: Vec<&[u8]> = bench.units.iter().map(|unit| &unit.2[..]).collect();
    assert_eq!(units, [&[0xaa, 0x55][..], &[0x77]]);
}

fn bits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:08b}")).collect()
}

fn bytes(bits: &str) -> Vec<u8> {
    let padded = format!("{bits:0<width$}", width = bits.len().div_ceil(8) * 8);
    (0..padded.len() / 8).map(|at| u8::from_str_radix(&padded[at * 8..at * 8 + 8], 2).unwrap()).collect()
}

/// Whatever comes: no unit is longer than its bound, none comes out of nothing, and memory does not grow.
#[test]
fn anything_may_come() {
    let mut random = Random(3);
    let latm = [("MP4A-LATM/44100/2", "cpresent=0;config=400024203fc0"), ("MP4A-LATM/90000", "cpresent=1")];
    let generic = [("MPEG4-GENERIC/16000/1", "config=1408"), ("MPEG4-GENERIC/8000/1", "mode=AAC-lbr;config=1588")];
    for (rtpmap, fmtp) in generic.into_iter().chain(latm) {
        let mut bench = Bench::new(rtpmap, fmtp);
        for round in 0..3000u32 {
            let len = random.below(if round % 50 == 0 { 3000 } else { 40 });
            let mut payload: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            if random.one_in(3) {
                payload = hbr(&[&payload]);
            }
            if random.one_in(9) {
                bench.seq = random.below(65_536) as u16;
            }
            let (before, timestamp) = (bench.units.len(), random.below(4) as u32 * 1024);
            let _ = bench.push(timestamp, random.one_in(2), &payload);
            assert!(bench.units.len() - before <= 64);
            assert!(bench.units.iter().all(|unit| unit.2.len() <= MAX_UNIT));
            bench.units.clear();
        }
    }
}
