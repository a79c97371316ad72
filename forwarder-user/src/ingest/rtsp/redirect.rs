//! Where a camera may send us (RFC 2326 §10.10, §11.3): to another RTSP address, never to one that the configuration
//! would not take, never out of TLS, and not to this machine. User and password go to the host that they are for.

use std::net::IpAddr;

use penstock_rtp::rtsp::url::{Credentials, Url};

use crate::{
    config::{self, Secret},
    ingest::error::SourceError,
};

/// Times in a row that a camera may send us on.
pub(in crate::ingest) const MOST: usize = 5;

/// Where to connect, and as whom.
#[derive(Clone)]
pub(in crate::ingest) struct Destination {
    pub(super) url: Url,
    pub(super) credentials: Option<(String, Secret)>,
    /// A camera has named it, not the configuration.
    pub(super) redirected: bool,
}

impl Destination {
    /// That of the configuration; `None`: there is none.
    pub(in crate::ingest) fn configured(source: &config::Stream) -> Option<Self> {
        let credentials = source.source.credentials().map(|(user, password)| (user.to_owned(), password.clone()));
        Some(Self { url: source.source.url()?.clone(), credentials, redirected: false })
    }

    /// Where a `Location` leads from here.
    ///
    /// # Errors
    /// [`SourceError::Redirect`].
    pub(in crate::ingest) fn follow(&self, location: &str) -> Result<Self, SourceError> {
        let refused = |why: &str| SourceError::Redirect(why.to_owned());
        let (url, given) = self.url.resolve(location).ok_or_else(|| refused("its Location is no RTSP URL"))?;
        if self.url.is_secure() && !url.is_secure() {
            return Err(refused("from rtsps to rtsp, where nothing is encrypted"));
        }
        let given = given.map(|Credentials { user, password }| (user, Secret::new(password)));
        let same = url.host().eq_ignore_ascii_case(self.url.host());
        let credentials = given.or_else(|| self.credentials.clone().filter(|_| same));
        Ok(Self { url, credentials, redirected: true })
    }

    /// Whether an address may be connected to.
    pub(super) fn admits(&self, address: IpAddr) -> bool {
        !self.redirected || !is_inside(address)
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.url.fmt(f)
    }
}

/// Without the password.
impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// An address of this machine, or of none: what listens there trusts whoever reaches it.
fn is_inside(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(url: &str) -> Destination {
        let credentials = Some(("me".to_owned(), Secret::new("s3cret")));
        Destination { url: Url::parse(url).unwrap().0, credentials, redirected: false }
    }

    #[test]
    fn credentials_stay_with_their_host() {
        let from = destination("rtsp://camera/live");
        for (location, url, known) in [
            ("rtsp://CAMERA:8554/other", "rtsp://CAMERA:8554/other", true),
            ("/other", "rtsp://camera/other", true),
            ("rtsps://camera/live", "rtsps://camera/live", true),
            ("rtsp://elsewhere/live", "rtsp://elsewhere/live", false),
            ("rtsp://camera.elsewhere/live", "rtsp://camera.elsewhere/live", false),
        ] {
            let to = from.follow(location).unwrap();
            assert_eq!((to.url.as_str(), to.credentials.is_some(), to.redirected), (url, known, true), "{location}");
        }
        let given = from.follow("rtsp://you:other@elsewhere/").unwrap().credentials.unwrap();
        assert!(given.0 == "you" && given.1.matches("other"));
        let back = from.follow("rtsp://elsewhere/").unwrap().follow("rtsp://camera/").unwrap();
        assert!(back.credentials.is_none(), "nobody fetches them from another host");
    }

    #[test]
    fn some_addresses_are_nobodys_to_name() {
        let from = destination("rtsps://camera/live");
        for location in ["rtsp://camera/live", "http://camera/", "", "file:///etc/passwd"] {
            assert!(matches!(from.follow(location), Err(SourceError::Redirect(_))), "{location}");
        }
        let to = from.follow("rtsps://elsewhere/").unwrap();
        for inside in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254", "fe80::1", "224.0.0.1"] {
            let inside = inside.parse().unwrap();
            assert!(!to.admits(inside) && from.admits(inside), "{inside}");
        }
        assert!(to.admits("10.0.0.1".parse().unwrap()) && to.admits("2001:db8::1".parse().unwrap()));
    }
}
