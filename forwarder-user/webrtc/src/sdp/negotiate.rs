//! Which media sections of an offer we take, and with which one payload type.

use super::offer::{Offer, Section};
use penstock_media::Kind;
use penstock_media::codec::Format;

/// What becomes of one media section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Media flows with this format.
    Active(Format),
    /// Accepted without media: it keeps its place in the bundle.
    Inactive(Format),
    /// Port 0.
    Rejected,
}

/// Plans for a publisher's offer, one per section: the first audio and the first video section
/// that it sends, each with the first format that we carry.
///
/// # Errors
/// A sentence: nothing in the offer can be carried.
pub fn negotiate_publisher(offer: &Offer) -> Result<Vec<Plan>, String> {
    let mut taken = vec![];
    let plans: Vec<Plan> = offer
        .sections
        .iter()
        .map(|section| match (section.kind, section.formats.first()) {
            (Some(kind), Some(format)) if section.usable() && section.sends && !taken.contains(&kind) => {
                taken.push(kind);
                Plan::Active(format.clone())
            }
            _ => idle(section),
        })
        .collect();
    if !taken.is_empty() {
        return Ok(plans);
    }
    let media: Vec<&Section> = offer.sections.iter().filter(|section| section.kind.is_some()).collect();
    Err(if media.is_empty() {
        "the offer has neither audio nor video".into()
    } else if !media.iter().any(|section| section.sends) {
        "the offer sends nothing: a publisher's sections are sendonly or sendrecv".into()
    } else if !media.iter().any(|section| section.usable()) {
        "the offer has no open section with a protocol of WebRTC (UDP/TLS/RTP/SAVPF)".into()
    } else {
        format!("no codec in common: the offer sends {}, we carry {CARRIED}", names(&media))
    })
}

/// What `negotiate_publisher` can take.
const CARRIED: &str = "VP8, VP9, H264, H265, AV1, opus, PCMU, PCMA and G722";

/// Plans for a viewer's offer: for each kind that the stream has, the first section that receives
/// it, with the format that means the same bit stream as the publisher's. `any_profile`: or else one
/// whose decoder plays it all the same ([`Format::plays`]).
///
/// # Errors
/// A sentence: the viewer would not see the stream's video, or not hear its audio, although it
/// asks for it; or it asks for nothing that the stream has.
pub fn negotiate_viewer(offer: &Offer, stream: &[Format], any_profile: bool) -> Result<Vec<Plan>, String> {
    let mut taken = vec![];
    let mut plans = vec![];
    for section in &offer.sections {
        let wanted = |kind| section.usable() && section.receives && !taken.contains(&kind);
        let sent = section.kind.filter(|kind| wanted(*kind)).and_then(|kind| of_kind(stream, kind));
        let Some(sent) = sent else {
            plans.push(idle(section));
            continue;
        };
        let formats = section.formats.iter();
        let same = formats.clone().find(|format| format.matches(sent));
        let format = same.or_else(|| formats.clone().find(|format| any_profile && format.plays(sent)));
        let format = format.ok_or_else(|| {
            format!("no codec in common: the stream has {sent}, the offer takes {}", names(&[section]))
        })?;
        taken.push(sent.codec.kind());
        plans.push(Plan::Active(format.clone()));
    }
    if !taken.is_empty() {
        return Ok(plans);
    }
    let has = stream.iter().map(Format::to_string).collect::<Vec<_>>().join(" and ");
    let receives = offer.sections.iter().any(|section| section.kind.is_some() && section.receives);
    Err(if receives {
        format!("nothing in common: the stream has {has}, and the offer asks for none of it")
    } else {
        format!("the offer receives nothing (the stream has {has}): a viewer's sections are recvonly or sendrecv")
    })
}

fn of_kind(stream: &[Format], kind: Kind) -> Option<&Format> {
    stream.iter().find(|format| format.codec.kind() == kind)
}

/// A section without media stays in the bundle if it can: peers take that better than port 0 in
/// the first section, whose transport the others share.
fn idle(section: &Section) -> Plan {
    match section.formats.first() {
        Some(format) if section.usable() => Plan::Inactive(format.clone()),
        _ => Plan::Rejected,
    }
}

/// Codec names of sections, for messages.
fn names(sections: &[&Section]) -> String {
    const SHOWN: usize = 12;
    let mut names: Vec<String> = vec![];
    for section in sections {
        let known = section.formats.iter().map(Format::to_string);
        for name in known.chain(section.unknown.iter().cloned()) {
            if names.len() < SHOWN && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if names.is_empty() { "no codec at all".into() } else { names.join(", ") }
}
