//! How a track comes: in the connection, or by UDP beside it (RFC 2326 §12.39).

use super::super::parameter;

/// What a SETUP asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ingest::rtsp) enum Wanted {
    /// By these channels, if it names any.
    Channel(Option<u8>),
    /// From its port and the next.
    Udp(u16),
}

impl Wanted {
    /// The first of the alternatives of a `Transport` header that can be had.
    pub(in crate::ingest::rtsp) fn parse(header: &str) -> Option<Self> {
        header.split(',').find_map(|one| {
            let mut parts = one.split(';').map(str::trim);
            let protocol = parts.next()?.to_ascii_uppercase();
            if parts.any(|part| part.eq_ignore_ascii_case("multicast")) {
                return None;
            }
            let first = |name| parameter(one, name)?.split('-').next()?.trim().parse::<u16>().ok();
            match protocol.as_str() {
                "RTP/AVP/TCP" => match first("interleaved") {
                    // RTCP needs the next one.
                    Some(channel) => {
                        u8::try_from(channel).ok().filter(|c| *c < u8::MAX).map(|c| Self::Channel(Some(c)))
                    }
                    None => Some(Self::Channel(None)),
                },
                "RTP/AVP" | "RTP/AVP/UDP" => Some(Self::Udp(first("client_port")?)),
                _ => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_can_be_had_is_taken() {
        for (header, wanted) in [
            ("RTP/AVP/TCP;unicast;interleaved=2-3;mode=record", Some(Wanted::Channel(Some(2)))),
            ("RTP/AVP/TCP;unicast", Some(Wanted::Channel(None))),
            ("RTP/AVP/UDP;unicast;client_port=5000-5001", Some(Wanted::Udp(5000))),
            ("RTP/AVP;multicast;port=9, RTP/SAVP;unicast, rtp/avp; client_port = 7-8", Some(Wanted::Udp(7))),
            ("RTP/AVP/TCP;interleaved=255-256", None),
            ("RTP/AVP/TCP;interleaved=700", None),
            ("RTP/AVP;unicast", None),
            ("", None),
        ] {
            assert_eq!(Wanted::parse(header), wanted, "{header}");
        }
    }
}
