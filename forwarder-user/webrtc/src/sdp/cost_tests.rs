//! What the worst texts cost that a stranger can send. The bounds are those that `docs/security.md` states.

use super::*;
use crate::allocations;

/// As many bytes as `limits.http_body_bytes` lets through.
const BODY: usize = 64 * 1024;
/// Bytes that reading, negotiating and answering may ask the allocator for, for each byte of the text; what is
/// freed in between counts again.
const BYTES_PER_BYTE: usize = 48;
/// And for any text at all.
const BYTES_AT_LEAST: usize = 64 * 1024;

const HEAD: &str = "v=0\no=- 0 0 IN IP4 0.0.0.0\ns=-\nt=0 0\na=ice-ufrag:abcd\na=ice-pwd:0123456789012345678901\n";

fn head() -> String {
    format!("{HEAD}a=fingerprint:sha-256 {}\n", ["AB"; 32].join(":"))
}

/// `section` again and again, with other names, as far as the text may go.
fn sections(section: impl Fn(usize) -> String) -> String {
    let mut text = format!("{}a=group:BUNDLE", head());
    (0..64).for_each(|mid| text += &format!(" {mid}"));
    text.push('\n');
    for mid in 0..64 {
        let next = section(mid);
        if text.len() + next.len() > BODY {
            break;
        }
        text += &next;
    }
    text
}

/// `line` after `before`, until the text is full.
fn filled(before: &str, line: impl Fn(usize) -> String) -> String {
    let mut text = before.to_owned();
    for number in 0.. {
        let next = line(number);
        if text.len() + next.len() > BODY {
            return text;
        }
        text += &next;
    }
    text
}

const VIDEO: &str = "m=video 9 UDP/TLS/RTP/SAVPF";

fn worst() -> Vec<(&'static str, String)> {
    let one = format!("{}{VIDEO} 96 97\na=mid:0\na=rtpmap:96 VP8/90000\n", head());
    let repeated = " 96".repeat(1300);
    let feedback = |kinds: usize| {
        let kinds = lines::FEEDBACK.iter().cycle().take(kinds);
        kinds.map(|kind| format!("a=rtcp-fb:* {kind}\n")).collect::<String>()
    };
    let all: String = (0..128).map(|payload_type| format!(" {payload_type}")).collect();
    let maps = |name: &str, count: usize| {
        (0..count).map(|payload_type| format!("a=rtpmap:{payload_type} {name}/90000\n")).collect::<String>()
    };
    vec![
        (
            "the one that took 2.1 GB",
            filled(&format!("{}{VIDEO}{repeated}\na=mid:0\na=rtpmap:96 VP8/90000\n", head()), |_| {
                "a=rtcp-fb:* nack pli\n".into()
            }),
        ),
        (
            "as many formats as there are, each with all feedback",
            sections(|mid| format!("{VIDEO}{all}\na=mid:{mid}\na=sendrecv\n{}{}", feedback(5), maps("VP8", 128))),
        ),
        (
            "sections with all feedback",
            sections(|mid| format!("{VIDEO}{all}\na=mid:{mid}\n{}a=rtpmap:96 VP8/90000\n", feedback(400))),
        ),
        (
            "sections of formats that nobody knows",
            sections(|mid| format!("{VIDEO}{all}\na=mid:{mid}\na=sendonly\n{}", maps("Z", 128))),
        ),
        ("many small sections", sections(|mid| format!("m=video 9 RTP/AVP 0\na=mid:{mid}\n"))),
        ("one feedback line for ever", filled(&one, |_| "a=rtcp-fb:96 ccm fir\n".into())),
        ("formats that nobody has", filled(&one, |n| format!("a=rtpmap:{} VP8/90000\n", n % 128))),
        ("parameters", filled(&one, |_| format!("a=fmtp:96 {}\n", "a=b;".repeat(200)))),
        ("candidates", filled(&one, |n| format!("a=candidate:{n} 1 udp 1 192.0.2.1 9 typ host\n"))),
        ("fingerprints", filled(&one, |_| format!("a=fingerprint:sha-256 {}\n", ["AB"; 32].join(":")))),
        ("groups", filled(&head(), |_| "a=group:BUNDLE 0 1 2 3 4 5 6 7 8 9\n".into())),
        ("short lines", filled(&one, |_| "a=\n".into())),
        ("one line", format!("{one}a={}", "x".repeat(BODY))),
        ("formats on one line", format!("{}{VIDEO}{}", head(), " 1".repeat(BODY / 2 - 200))),
    ]
}

/// Reading, negotiating and answering, as publisher and as viewer.
fn serve(text: &str) -> Result<usize, String> {
    let offer = Offer::parse(text)?;
    let plans = negotiate_publisher(&offer, &[])?;
    let sent: Vec<_> =
        plans.iter().filter_map(|plan| if let Plan::Active(f) = plan { Some(f.clone()) } else { None }).collect();
    let sent: Vec<_> = sent
        .into_iter()
        .map(|format| Sent { others: offer.sections[0].formats.clone(), format, any_profile: true })
        .collect();
    let _ = negotiate_viewer(&offer, &sent);
    let local = LocalDescription {
        ufrag: "ours".into(),
        pwd: "secret-of-ours-22-chars".into(),
        fingerprint: "sha-256 AA".into(),
        active: false,
        candidates: vec![],
        tcp_candidates: vec![],
    };
    let (offer, plans) = (&offer, &plans);
    let answer =
        Answer { offer, plans, local: &local, sources: &[], retransmits: true, repairs: true, cname: "c", sdp_id: 1 };
    Ok(answer.to_text().len())
}

#[test]
fn the_worst_offers_cost_no_more_than_their_length_allows() {
    for (what, text) in worst() {
        let ((result, allocations, bytes), steps) = steps::count(|| allocations::count(|| serve(&text)));
        #[expect(clippy::disallowed_macros, reason = "what a failed test shows")]
        {
            println!(
                "{what}: {} bytes, {allocations} allocations of {bytes} bytes, {steps} steps: {result:?}",
                text.len()
            );
        }
        assert!(bytes <= BYTES_AT_LEAST + BYTES_PER_BYTE * text.len(), "{what}: {bytes} bytes for {}", text.len());
        assert!(allocations <= 1000 + text.len() / 2, "{what}: {allocations} allocations");
        assert!(steps <= text.len() / 2, "{what}: {steps} steps");
        assert!(result.is_err() || result.is_ok_and(|len| len <= 8 * text.len()), "{what}: the answer");
    }
}

#[test]
fn twice_the_text_is_twice_the_work() {
    let of = |count| {
        let section = |mid| format!("{VIDEO} 96 97 98\na=mid:{mid}\na=rtcp-fb:* nack\na=rtpmap:96 VP8/90000\n");
        let mids: String = (0..count).map(|mid| format!(" {mid}")).collect();
        format!("{}a=group:BUNDLE{mids}\n{}", head(), (0..count).map(section).collect::<String>())
    };
    let cost = |count| {
        let text = of(count);
        let ((offer, _, bytes), steps) = steps::count(|| allocations::count(|| Offer::parse(&text)));
        assert_eq!(offer.unwrap().sections.len(), count);
        (bytes, steps)
    };
    let ((bytes, steps), (twice_bytes, twice_steps)) = (cost(30), cost(60));
    assert!(twice_bytes <= 5 * bytes / 2 && twice_steps <= 2 * steps, "{bytes}, {twice_bytes}; {steps}, {twice_steps}");
}

#[test]
fn the_worst_fragments_cost_no_more_than_their_length_allows() {
    let texts = [
        filled("", |n| format!("a=candidate:{n} 1 udp 1 192.0.2.1 9 typ host\n")),
        filled("", |_| "a=ice-ufrag:abcd\n".into()),
        filled("", |_| "a=ice-pwd:0123456789012345678901\n".into()),
        filled("", |_| "a=\n".into()),
        format!("a=ice-ufrag:{}", "x".repeat(BODY)),
        "\n".repeat(BODY),
    ];
    for text in texts {
        let ((result, allocations, bytes), steps) = steps::count(|| allocations::count(|| Fragment::parse(&text)));
        let shown = &text[..text.len().min(20)];
        assert!(result.is_err(), "{shown}");
        assert!(allocations <= 16 && bytes <= 16 * 1024, "{shown}: {allocations} allocations of {bytes} bytes");
        assert!(steps <= text.len() / 2, "{shown}: {steps} steps");
    }
    let honest: String = (0..20).map(|n| format!("a=candidate:{n} 1 udp 1 192.0.2.1 9 typ host\r\n")).collect();
    assert_eq!(Fragment::parse(&honest).unwrap().candidates, 20);
}

/// Honest offers, damaged in a thousand ways each: within the same bounds, and an answer that reads back as SDP.
#[test]
fn damaged_offers_stay_within_the_bounds() {
    let fixtures = [
        include_str!("fixtures/chromium_publish.sdp"),
        include_str!("fixtures/chromium_play.sdp"),
        include_str!("fixtures/gstreamer_publish.sdp"),
        include_str!("fixtures/obs_publish.sdp"),
    ];
    let (mut seeded, mut taken) = (allocations::Seeded(1), 0);
    for text in fixtures.iter().cycle().take(4000) {
        // By lines, of which some move, are repeated or go, and by bytes.
        let mut lines: Vec<&str> = text.lines().collect();
        for _ in 0..seeded.below(4) {
            let (from, to) = (seeded.below(lines.len()), seeded.below(lines.len()));
            match seeded.below(3) {
                0 => drop(lines.remove(from)),
                1 => lines.insert(to, lines[from]),
                _ => lines.swap(from, to),
            }
        }
        let mut damaged = lines.join("\r\n").into_bytes();
        if seeded.below(2) == 0 {
            damaged = seeded.mutate(&damaged);
        }
        let damaged = String::from_utf8_lossy(&damaged).into_owned();
        let ((result, _, bytes), steps) = steps::count(|| allocations::count(|| serve(&damaged)));
        assert!(
            bytes <= BYTES_AT_LEAST + BYTES_PER_BYTE * damaged.len() && steps <= damaged.len() / 2 + 8,
            "{damaged}"
        );
        taken += usize::from(result.is_ok());
    }
    assert!(taken > 400, "{taken} were taken: the damage is too great to test anything");
}
