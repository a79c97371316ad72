//! `Transport` (RFC 2326 §12.39): what is asked for, and what the other end makes of it.

use std::net::IpAddr;

use super::parameter;

/// How RTP comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lower {
    /// Interleaved in the connection.
    Tcp,
    /// Beside it.
    Udp,
    /// To a group.
    Multicast,
}

/// One alternative of a `Transport` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    /// By the profile (`RTP/AVP/TCP`), or by a channel that is named.
    pub lower: Lower,
    /// `RTP/SAVP` and `RTP/SAVPF`: SRTP.
    pub secure: bool,
    /// First channel of `interleaved`.
    pub channel: Option<u16>,
    /// First port of `client_port`.
    pub client_port: Option<u16>,
    /// Ports of `server_port`; the second is the one behind the first if it is not named.
    pub server_ports: Option<(u16, u16)>,
    /// `source`, if it is an address.
    pub source: Option<IpAddr>,
}

impl Transport {
    /// The alternatives of a field, in order. Those that are not RTP are left out.
    pub fn parse(field: &str) -> impl Iterator<Item = Self> {
        field.split(',').filter_map(Self::one)
    }

    fn one(text: &str) -> Option<Self> {
        let profile = text.split(';').next()?.trim().to_ascii_uppercase();
        let mut parts = profile.split('/');
        let (protocol, profile, lower) = (parts.next()?, parts.next().unwrap_or_default(), parts.next());
        if protocol != "RTP" {
            return None;
        }
        let first = |name| number(parameter(text, name)?.split('-').next()?);
        let channel = first("interleaved");
        let server_ports = first("server_port").map(|first| {
            let second = parameter(text, "server_port").and_then(|pair| number(pair.split_once('-')?.1));
            (first, second.unwrap_or(first.saturating_add(1)))
        });
        let lower = match lower {
            _ if text.split(';').any(|part| part.trim().eq_ignore_ascii_case("multicast")) => Lower::Multicast,
            Some("TCP") => Lower::Tcp,
            // Some write the profile of UDP beside a channel.
            None if channel.is_some() => Lower::Tcp,
            _ => Lower::Udp,
        };
        let source = parameter(text, "source").and_then(|address| address.trim_matches(['[', ']']).parse().ok());
        let secure = profile.starts_with("SAVP");
        Some(Self { lower, secure, channel, client_port: first("client_port"), server_ports, source })
    }
}

fn number(text: &str) -> Option<u16> {
    super::number(text).and_then(|number| u16::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(field: &str) -> Transport {
        Transport::parse(field).next().unwrap_or_else(|| panic!("{field}"))
    }

    #[test]
    fn answers_as_the_field_has_them() {
        let answer = first("RTP/AVP/TCP;unicast;interleaved=2-3;ssrc=4C7F;mode=\"PLAY\"");
        assert_eq!((answer.lower, answer.channel), (Lower::Tcp, Some(2)));
        let answer = first(" rtp/avp ; ssrc=1 ; Interleaved = 0 - 1");
        assert_eq!((answer.lower, answer.channel), (Lower::Tcp, Some(0)));
        let answer = first("RTP/AVP;unicast;source=192.0.2.9;client_port=5000-5001;server_port=6000-6007");
        assert_eq!((answer.lower, answer.server_ports), (Lower::Udp, Some((6000, 6007))));
        assert_eq!(answer.source, "192.0.2.9".parse().ok());
        let answer = first("RTP/AVP/UDP;server_port=6000;source=camera.local;client_port=");
        assert_eq!((answer.server_ports, answer.source, answer.client_port), (Some((6000, 6001)), None, None));
        assert_eq!(first("RTP/AVP;multicast;destination=239.1.1.1;port=5000-5001").lower, Lower::Multicast);
        assert!(first("RTP/SAVP/TCP;interleaved=0-1").secure);
        assert_eq!(first("RTP/AVP/TCP;interleaved=99999-1").channel, None);
        assert_eq!(first("RTP/AVP;source=[2001:db8::1]").source, "2001:db8::1".parse().ok());
    }

    #[test]
    fn alternatives_come_in_order() {
        let lowers: Vec<Lower> =
            Transport::parse("RTP/AVP;multicast, RAW/RAW/UDP, rtp/avp;client_port=7-8,RTP/AVP/TCP,")
                .map(|one| one.lower)
                .collect();
        assert_eq!(lowers, [Lower::Multicast, Lower::Udp, Lower::Tcp]);
        assert_eq!(Transport::parse("").count(), 0);
    }
}
