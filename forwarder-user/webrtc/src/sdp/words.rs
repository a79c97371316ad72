//! What a viewer is told who cannot have all of a stream: what to do, and for engineers what was compared.

use super::negotiate::{Sent, names};
use super::offer::Section;
use penstock_media::Kind;
use penstock_media::codec::Codec;

/// Why nothing of a stream can be played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplayable {
    /// In the viewer's words; `None` where only the offer's maker can do something.
    pub to_do: Option<String>,
    /// What was compared.
    pub detail: String,
}

impl std::fmt::Display for Unplayable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.to_do {
            Some(to_do) => write!(f, "{to_do} ({})", self.detail),
            None => f.write_str(&self.detail),
        }
    }
}

/// What to do about a kind of media that cannot be decoded.
fn to_do(sent: &Sent, section: &Section) -> String {
    let (thing, name) = match sent.format.codec.kind() {
        Kind::Audio => ("sound", "audio"),
        Kind::Video => ("picture", "video"),
    };
    let codec = match sent.format.codec {
        Codec::H264 => "H.264",
        Codec::H265 => "H.265 (HEVC)",
        other => other.name(),
    };
    let has = section.formats.iter().any(|format| format.codec == sent.format.codec);
    let advice = match sent.format.codec {
        _ if has => "try Chrome, Edge or Safari, or ask the sender for a more common profile of it",
        // Firefox decodes H.264 by a plugin that it fetches after its first start.
        Codec::H264 => {
            "in Firefox, switch on the plugin \"OpenH264\" under Add-ons and Themes, Plugins (it is fetched some minutes \
             after the first start), then load this page again; or use Chrome, Edge or Safari"
        }
        Codec::H265 => "use Safari, or Chrome or Edge on a computer that decodes it, or ask the sender for H.264",
        Codec::Av1 | Codec::Vp9 => "use a newer browser, or ask the sender for H.264 or VP8",
        _ => "use another browser",
    };
    let kind = if has { " of this kind" } else { "" };
    format!("no {thing}: this player cannot decode {codec} {name}{kind}, which the stream has. What to do: {advice}")
}

fn compared(refused: &[(&Sent, &Section)]) -> String {
    let each = refused
        .iter()
        .map(|(sent, section)| format!("the stream has {}, the offer takes {}", sent.format, names(&[section])));
    format!("no codec in common: {}", each.collect::<Vec<_>>().join("; "))
}

/// What plays all the same is not said: it plays.
pub(super) fn left_out(refused: &[(&Sent, &Section)]) -> String {
    let told = refused.iter().map(|(sent, section)| to_do(sent, section)).collect::<Vec<_>>().join("; ");
    format!("{told} ({})", compared(refused))
}

/// Nothing plays.
pub(super) fn unplayable(refused: &[(&Sent, &Section)]) -> Unplayable {
    let to_do = refused.iter().map(|(sent, section)| to_do(sent, section)).collect::<Vec<_>>().join("; ");
    Unplayable { to_do: Some(to_do), detail: compared(refused) }
}
