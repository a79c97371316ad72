//! What peers are told instead of a local address.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// `ADDRESS`, with the port of the media, or `ADDRESS:PORT`, where another one is forwarded to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Public {
    /// As peers reach this host.
    pub address: IpAddr,
    /// `None`: that of the media.
    pub port: Option<u16>,
}

impl Public {
    /// What peers are told of a socket at `port`.
    pub fn at(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, self.port.unwrap_or(port))
    }
}

impl FromStr for Public {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self { address, port: None });
        }
        let told: SocketAddr = text.parse().map_err(|_| {
            format!("{text:?} is neither ADDRESS nor ADDRESS:PORT, as 192.0.2.1:8443 or [2001:db8::1]:8443")
        })?;
        Ok(Self { address: told.ip(), port: Some(told.port()).filter(|port| *port != 0) })
    }
}

impl fmt::Display for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

impl TryFrom<String> for Public {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Public> for String {
    fn from(public: Public) -> Self {
        public.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_port() {
        for (text, told) in [
            ("192.0.2.1", "192.0.2.1:8443"),
            ("192.0.2.1:30443", "192.0.2.1:30443"),
            ("2001:db8::1", "[2001:db8::1]:8443"),
            ("[2001:db8::1]:30443", "[2001:db8::1]:30443"),
        ] {
            let public: Public = text.parse().unwrap();
            assert_eq!((public.at(8443).to_string().as_str(), public.to_string().as_str()), (told, text));
        }
        assert!("example.org:1".parse::<Public>().unwrap_err().contains("ADDRESS:PORT"));
    }
}
