//! Header extensions that we read of a publisher's packets (RFC 8285). Copies go without any.

/// What an element means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Names a packet's layer (RFC 8852 §4.1).
    Layer,
    /// Names the layer of what is sent again (RFC 8852 §4.2).
    RepairedLayer,
    /// Counts the packets of the whole transport (draft-holmer-rmcat-transport-wide-cc-extensions-01 §2).
    TransportSequence,
}

/// All, in the order of their numbers in [`Numbers`].
const ALL: [(Extension, &str); 3] = [
    (Extension::Layer, "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"),
    (Extension::RepairedLayer, "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"),
    (Extension::TransportSequence, "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"),
];

impl Extension {
    /// As `a=extmap` names it.
    pub(super) fn uri(self) -> &'static str {
        ALL[self as usize].1
    }
}

/// Numbers that an offer has given to extensions, 1 to 14: those that an element of one byte can have, which is what
/// everybody offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers([Option<u8>; 3]);

impl Numbers {
    /// That of an extension, if it was offered.
    pub fn of(&self, extension: Extension) -> Option<u8> {
        self.0[extension as usize]
    }

    /// Takes the value of an `a=extmap`. What stands first counts.
    pub(super) fn read(&mut self, value: &str) {
        let mut words = value.split_ascii_whitespace();
        let (Some(number), Some(uri)) = (words.next(), words.next()) else { return };
        let number = number.split('/').next().and_then(|number| number.parse().ok());
        let Some(number) = number.filter(|number| (1..=14).contains(number)) else { return };
        if let Some((extension, _)) = ALL.iter().find(|(_, known)| *known == uri) {
            self.0[*extension as usize].get_or_insert(number);
        }
    }
}
