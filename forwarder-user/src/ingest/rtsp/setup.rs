//! SETUP of a camera's tracks (RFC 2326 §10.4). One that is refused costs its track and not the others.

use penstock_rtp::{
    description::{Description, Security, Track},
    rtsp::{
        message::Message,
        transport::{Lower, Transport},
        url::Url,
    },
};

use super::{client::Client, track, track::Way};
use crate::{
    config::RtspTransport,
    ingest::{
        error::SourceError,
        secure::{self, Srtp},
        udp::Ports,
    },
};

impl Client {
    /// Sets up what is described. What cannot be is left out of the description.
    ///
    /// # Errors
    /// [`SourceError`]: of the first track, if none could be.
    pub(super) async fn set_up(&mut self, description: &mut Description) -> Result<(), SourceError> {
        let mut first = None;
        let mut at = 0;
        while let Some(track) = description.tracks.get(at).cloned() {
            match self.set_up_track(self.tracks.len(), &track).await {
                Ok(()) => at += 1,
                Err(error) if error.is_refusal() => {
                    description.leave_out(at, &error.to_string());
                    first = first.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        if self.tracks.is_empty() { Err(first.unwrap_or(SourceError::Transport)) } else { Ok(()) }
    }

    async fn set_up_track(&mut self, index: usize, track: &Track) -> Result<(), SourceError> {
        if track.security.is_some() && !self.to.url.is_secure() {
            return Err(SourceError::NoMedia("SRTP outside of TLS is not taken".into()));
        }
        let url = self.base.control(&track.control);
        let url = url.ok_or_else(|| SourceError::MalformedSdp("a control URL".into()))?;
        if self.by_udp {
            return self.by_udp(index, &url, track.security.as_ref()).await;
        }
        match self.by_tcp(index, &url, None).await {
            // Within TLS it is encrypted already, and most take it so; others insist.
            Err(error) if track.security.is_some() && error.is_refusal() => {
                self.by_tcp(index, &url, track.security.as_ref()).await
            }
            Err(error) if self.may_be_udp(&error) => {
                // Whatever session the refusal has left behind would have half of a transport.
                if self.tracks.is_empty() {
                    self.give_up_session().await;
                }
                self.by_udp(index, &url, None).await?;
                self.by_udp = true;
                Ok(())
            }
            done => done,
        }
    }

    /// Whether a refusal may be meant for TCP: some answer 400 in place of 461.
    fn may_be_udp(&self, error: &SourceError) -> bool {
        // Beside TLS, nothing would be encrypted.
        self.source.transport == RtspTransport::Auto
            && !self.to.url.is_secure()
            && match error {
                SourceError::Transport => true,
                SourceError::Refused { status, .. } => self.tracks.is_empty() && *status != 453,
                _ => false,
            }
    }

    /// With keys by SRTP.
    async fn by_tcp(&mut self, index: usize, url: &Url, keys: Option<&Security>) -> Result<(), SourceError> {
        let wanted = u8::try_from(2 * index).map_err(|_| SourceError::Transport)?;
        let profile = if keys.is_some() { "SAVP" } else { "AVP" };
        let transport = format!("RTP/{profile}/TCP;unicast;interleaved={wanted}-{}", wanted + 1);
        let answer = self.ask_for(&transport, url, keys).await?;
        let srtp = opener(keys, &answer)?;
        let granted = Transport::parse(&answer.text("Transport")).next();
        if let Some(granted) = &granted
            && granted.lower != Lower::Tcp
            // Some leave out all that is said of TCP and mean it nevertheless.
            && (granted.lower == Lower::Multicast || granted.server_ports.is_some() || granted.client_port.is_some())
        {
            return Err(SourceError::Transport);
        }
        self.take_channel(index, granted.and_then(|granted| granted.channel), wanted, srtp);
        Ok(())
    }

    /// The server may choose other channels, but not those of another track.
    fn take_channel(&mut self, index: usize, chosen: Option<u16>, wanted: u8, srtp: Option<Box<Srtp>>) {
        let chosen = chosen.and_then(|chosen| u8::try_from(chosen).ok()).unwrap_or(wanted);
        let taken = |track: &track::Track| matches!(track.way, Way::Channel(other) if other == chosen);
        let channel = if self.tracks.iter().any(taken) { wanted } else { chosen };
        self.tracks.push(track::Track { index, way: Way::Channel(channel), srtp });
    }

    /// With keys by SRTP.
    async fn by_udp(&mut self, index: usize, url: &Url, keys: Option<&Security>) -> Result<(), SourceError> {
        let (local, peer) = self.dialled;
        let mut ports = Ports::bind(local.ip(), peer.ip())?;
        let profile = if keys.is_some() { "SAVP" } else { "AVP" };
        let transport = format!("RTP/{profile};unicast;client_port={}-{}", ports.first(), ports.first() + 1);
        let answer = self.ask_for(&transport, url, keys).await?;
        let srtp = opener(keys, &answer)?;
        let granted = Transport::parse(&answer.text("Transport")).next();
        match granted {
            Some(Transport { lower: Lower::Multicast, .. }) => Err(SourceError::Transport),
            Some(Transport { lower: Lower::Tcp, channel, .. }) => {
                if self.source.transport == RtspTransport::Udp {
                    return Err(SourceError::Transport);
                }
                self.take_channel(index, channel, u8::try_from(2 * index).unwrap_or(u8::MAX - 1), srtp);
                Ok(())
            }
            granted => {
                let (to, source) = granted.map_or((None, None), |granted| (granted.server_ports, granted.source));
                ports.connect(to, source);
                self.tracks.push(track::Track { index, way: Way::Ports(ports), srtp });
                Ok(())
            }
        }
    }

    /// SETUP. By SRTP, some servers want a key of ours as well (RFC 4567 §3.2).
    async fn ask_for(&mut self, transport: &str, url: &Url, keys: Option<&Security>) -> Result<Message, SourceError> {
        let ours = keys.and_then(|_| secure::key_mgmt(url.as_str()));
        let mut fields = vec![("Transport", transport)];
        fields.extend(ours.as_deref().map(|ours| ("KeyMgmt", ours)));
        self.request("SETUP", url, &fields).await
    }
}

/// What opens the packets of a track, by what the answer says of its key, or else the description.
fn opener(keys: Option<&Security>, answer: &Message) -> Result<Option<Box<Srtp>>, SourceError> {
    let Some(keys) = keys else { return Ok(None) };
    let field = answer.get("KeyMgmt");
    let srtp = Srtp::new(keys, field.as_deref());
    srtp.map(Some).map_err(|error| SourceError::NoMedia(format!("{}: {error}", keys.protocol)))
}
