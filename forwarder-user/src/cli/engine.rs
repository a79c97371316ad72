//! Starts the engine of the configuration.

use std::{net::IpAddr, sync::Arc};

use crate::{
    config::Config,
    engine::{
        Engine, EngineError, Events, NewPublisherTrack, NewSession, NewSubscriberTrack, PublisherStats,
        PublisherTrackId, SessionId, SubscriberStats, SubscriberTrackId, Transport,
    },
};

/// Starts it on these interfaces, for media that arrives at these addresses.
///
/// # Errors
/// Why it cannot run here, and what to do.
pub fn start(
    _config: &Config,
    _interfaces: Vec<String>,
    _media: &[IpAddr],
    _events: Events,
) -> anyhow::Result<Arc<dyn Engine>> {
    Ok(Arc::new(Absent))
}

/// Refuses every session.
struct Absent;

impl Engine for Absent {
    fn describe(&self) -> String {
        "none: sessions are refused".into()
    }

    fn describe_session(&self, _session: SessionId) -> String {
        "none".into()
    }

    fn add_session(&self, session: NewSession) -> Result<SessionId, EngineError> {
        Err(EngineError::Unreachable { peer: session.transport.peer, reason: "this server has no engine".into() })
    }

    fn move_session(&self, _session: SessionId, _transport: Transport) -> Result<(), EngineError> {
        Err(EngineError::Unknown("session"))
    }

    fn refresh_session(&self, _session: SessionId) {}

    fn remove_session(&self, _session: SessionId) {}

    fn add_publisher_track(
        &self,
        _session: SessionId,
        _track: NewPublisherTrack,
    ) -> Result<PublisherTrackId, EngineError> {
        Err(EngineError::Unknown("session"))
    }

    fn remove_publisher_track(&self, _track: PublisherTrackId) {}

    fn add_subscriber_track(
        &self,
        _session: SessionId,
        _from: PublisherTrackId,
        _track: NewSubscriberTrack,
    ) -> Result<SubscriberTrackId, EngineError> {
        Err(EngineError::Unknown("session"))
    }

    fn remove_subscriber_track(&self, _track: SubscriberTrackId) {}

    fn publisher_stats(&self, _track: PublisherTrackId) -> Option<PublisherStats> {
        None
    }

    fn subscriber_stats(&self, _track: SubscriberTrackId) -> Option<SubscriberStats> {
        None
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
