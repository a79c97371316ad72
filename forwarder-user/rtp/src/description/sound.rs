//! Sound that browsers do not play: left out, or AAC of which Opus is made.

use penstock_media::codec::{Codec, Format};

use super::Described;
use crate::aac;

/// What is done with sound that browsers do not play.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sound {
    /// It is left out.
    #[default]
    AsIs,
    /// AAC is turned into Opus, if there is nothing else.
    Opus,
}

/// What browsers do not play as it is.
pub(super) fn of_aac(
    payload_type: u8,
    name: &str,
    (rate, channels): (&str, &str),
    fmtp: &str,
    sound: Sound,
) -> Result<Described, String> {
    let number = |text: &str| crate::rtsp::number(text).and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
    let shown: String = name.chars().filter(|letter| !letter.is_control()).take(32).collect();
    match aac::Packing::read(name, number(rate), number(channels), fmtp) {
        None => Err(format!(" {shown}: browsers do not play it")),
        Some(Ok(packing)) if sound == Sound::Opus => {
            let format = Format { payload_type, codec: Codec::Opus, fmtp: String::new(), feedback: vec![], rtx: None };
            Ok((format, vec![], Some(packing)))
        }
        Some(Ok(_)) => {
            Err(format!(" {shown}: browsers do not play AAC; `audio = \"opus\"` of the stream makes Opus of it"))
        }
        Some(Err(why)) => Err(format!(" {shown}: browsers do not play AAC, and this one is not decoded here: {why}")),
    }
}
