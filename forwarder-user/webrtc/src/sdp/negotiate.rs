//! Which media sections of an offer we take, and in which formats.

use super::offer::{Offer, Section};
use super::words::{self, Unplayable};
use penstock_media::Kind;
use penstock_media::codec::{Codec, Format};

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

/// Formats of one section that are compared with each other; browsers have 20 of video.
const MAX_COMPARED: usize = 32;

/// Plans for a publisher's offer, one per section: the first audio and the first video section
/// that it sends, each with the format that is chosen of those that we carry. `order`: codecs that are preferred, the
/// best first; else what every browser plays ([`Format::is_universal`]), and of that, or of the rest if there is none,
/// what the publisher lists first. Two that it sends of one kind are refused.
///
/// # Errors
/// A sentence: nothing in the offer can be carried, or it has more than a stream.
pub fn negotiate_publisher(offer: &Offer, order: &[Codec]) -> Result<Vec<Plan>, String> {
    let mut taken = vec![];
    let plans: Vec<Plan> = offer
        .sections
        .iter()
        .map(|section| match (section.kind, choose(&section.formats, order)) {
            (Some(kind), Some(format)) if section.usable() && section.sends && !taken.contains(&kind) => {
                taken.push(kind);
                Plan::Active(format.clone())
            }
            _ => idle(section),
        })
        .collect();
    if !taken.is_empty() {
        return only_one_of_each(offer).map(|()| plans);
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

/// A stream has one track of each kind. Whoever sends two would believe that both arrive (RFC 9725 §4.4.2).
fn only_one_of_each(offer: &Offer) -> Result<(), String> {
    for (kind, name) in [(Kind::Video, "video"), (Kind::Audio, "audio")] {
        let sent = |section: &&Section| section.kind == Some(kind) && section.usable() && section.sends;
        let count = offer.sections.iter().filter(sent).count();
        if count > 1 {
            return Err(format!(
                "the offer sends {count} {name} tracks, and a stream has one: publish the other under a name of its own"
            ));
        }
    }
    Ok(())
}

/// What `negotiate_publisher` can take.
const CARRIED: &str = "VP8, VP9, H264, H265, AV1, opus, PCMU, PCMA and G722";

/// The format in which a publisher is to send.
fn choose<'a>(formats: &'a [Format], order: &[Codec]) -> Option<&'a Format> {
    let universal = |format: &&Format| format.is_universal();
    let of = |codec: &Codec| {
        let all = formats.iter().filter(|format| format.codec == *codec);
        all.clone().find(universal).or_else(|| all.clone().next())
    };
    order.iter().find_map(of).or_else(|| formats.iter().find(universal)).or_else(|| formats.first())
}

/// What a section may be sent in beside the chosen format. Of a publisher all that we carry: some engines are bound to one
/// codec, whichever stands first in their offer, and must find it in the answer (RFC 3264 §6.1 lets each be used). Of a
/// viewer each that decodes what no other one does: the next publisher may have another codec than this one.
pub fn others<'a>(section: &'a Section, chosen: &Format, viewer: bool) -> Vec<&'a Format> {
    let mut others: Vec<&Format> = vec![];
    let rest = section.formats.iter().filter(|format| format.payload_type != chosen.payload_type);
    for format in rest.take(MAX_COMPARED) {
        let covered = viewer && (chosen.plays(format) || others.iter().any(|other| other.plays(format)));
        if !covered {
            others.push(format);
        }
    }
    others
}

/// What a stream has of one kind, as far as is known.
#[derive(Clone, Debug)]
pub struct Sent {
    /// In which it is sent, or will be first of all.
    pub format: Format,
    /// In which it may be sent instead: nothing has come yet.
    pub others: Vec<Format>,
    /// It comes from a camera: see [`Format::plays`].
    pub any_profile: bool,
}

impl Sent {
    /// Of a receiver's formats, the place of the one for what is sent in `format`: the same bit stream if there is one,
    /// or else the first whose decoder takes it.
    pub fn place<'a>(&self, format: &Format, own: impl Iterator<Item = &'a Format> + Clone) -> Option<usize> {
        place(format, self.any_profile, own)
    }

    fn best<'a>(&self, own: &'a [Format]) -> Option<&'a Format> {
        let own = own.get(..MAX_COMPARED).unwrap_or(own);
        let mut others: Vec<&Format> = vec![];
        for other in &self.others {
            // One of each codec will do: what exactly comes is not known yet.
            if others.iter().all(|known| known.codec != other.codec) {
                others.push(other);
            }
        }
        let mut ways = std::iter::once(&self.format).chain(others);
        ways.find_map(|sent| self.place(sent, own.iter()).and_then(|place| own.get(place)))
    }
}

/// As [`Sent::place`].
pub fn place<'a>(sent: &Format, any_profile: bool, own: impl Iterator<Item = &'a Format> + Clone) -> Option<usize> {
    let same = own.clone().position(|format| format.matches(sent));
    same.or_else(|| own.clone().position(|format| format.decodes(sent)))
        .or_else(|| own.clone().position(|format| any_profile && format.plays(sent)))
}

/// What becomes of a viewer's offer.
#[derive(Debug)]
pub struct Played {
    /// One for each section.
    pub plans: Vec<Plan>,
    /// What the viewer asks for and cannot get, in its words: the rest plays.
    pub without: Option<String>,
}

/// Plans for a viewer's offer: for each kind that the stream has, the first section that receives
/// it, with the format whose decoder plays what the publisher sends. What cannot be played leaves the rest playing.
///
/// # Errors
/// [`Unplayable`]: the viewer can decode nothing of the stream, or asks for nothing that it has.
pub fn negotiate_viewer(offer: &Offer, stream: &[Sent]) -> Result<Played, Unplayable> {
    let (mut taken, mut plans) = (vec![], vec![]);
    let mut refused: Vec<(&Sent, &Section)> = vec![];
    for section in &offer.sections {
        let wanted = |kind| section.usable() && section.receives && !taken.contains(&kind);
        let sent = section.kind.filter(|kind| wanted(*kind)).and_then(|kind| of_kind(stream, kind));
        match sent.map(|sent| (sent, sent.best(&section.formats))) {
            Some((sent, Some(format))) => {
                taken.push(sent.format.codec.kind());
                plans.push(Plan::Active(format.clone()));
            }
            Some((sent, None)) => {
                refused.push((sent, section));
                plans.push(idle(section));
            }
            None => plans.push(idle(section)),
        }
    }
    // A later section of the kind may have had what an earlier one had not.
    refused.retain(|(sent, _)| !taken.contains(&sent.format.codec.kind()));
    match (taken.is_empty(), refused.as_slice()) {
        (false, []) => Ok(Played { plans, without: None }),
        (false, refused) => Ok(Played { plans, without: Some(words::left_out(refused)) }),
        (true, []) => Err(Unplayable { to_do: None, detail: asks_for_nothing(offer, stream) }),
        (true, refused) => Err(words::unplayable(refused)),
    }
}

fn asks_for_nothing(offer: &Offer, stream: &[Sent]) -> String {
    let has = stream.iter().map(|sent| sent.format.to_string()).collect::<Vec<_>>().join(" and ");
    if offer.sections.iter().any(|section| section.kind.is_some() && section.receives) {
        format!("nothing in common: the stream has {has}, and the offer asks for none of it")
    } else {
        format!("the offer receives nothing (the stream has {has}): a viewer's sections are recvonly or sendrecv")
    }
}

fn of_kind(stream: &[Sent], kind: Kind) -> Option<&Sent> {
    stream.iter().find(|sent| sent.format.codec.kind() == kind)
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
pub(super) fn names(sections: &[&Section]) -> String {
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
