//! A client that plays: its media, and the answers among it.
//!
//! PLAY is sent and not waited for: its answer comes among the media, which belongs to the stream from its first
//! packet on, wherever that stands.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use penstock_rtp::rtsp::message::{Message, Start};

use super::{
    client::{Client, PATIENCE},
    track,
};
use crate::ingest::{
    error::SourceError,
    media::{Packet, Packets, Skipped},
};

/// Requests among the media whose answers are waited for.
const MAX_PENDING: usize = 8;

/// What is sent as a sign of life. Some cameras answer OPTIONS without taking it for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    GetParameter,
    Options,
}

/// A request among the media.
pub(super) struct Pending {
    cseq: u64,
    what: What,
    deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// `again`: with the newest challenge.
    Play {
        again: bool,
    },
    Sign {
        again: bool,
    },
}

impl Client {
    /// Sends a request whose answer comes among the media.
    pub(super) async fn ask(&mut self, what: What) -> Result<(), SourceError> {
        let url = self.play_urls.first().unwrap_or(&self.to.url).clone();
        let request = match (what, self.sign) {
            (What::Play { .. }, _) => self.build("PLAY", &url, &[("Range", "npt=0.000-")]),
            (What::Sign { .. }, Sign::GetParameter) => self.build("GET_PARAMETER", &url, &[]),
            (What::Sign { .. }, Sign::Options) => self.build("OPTIONS", &url, &[]),
        };
        if self.pending.len() >= MAX_PENDING {
            self.pending.remove(0);
        }
        self.pending.push(Pending { cseq: self.cseq, what, deadline: Instant::now() + PATIENCE });
        self.connection.send(&request).await
    }

    /// Signs of life by OPTIONS, which every camera knows.
    pub(crate) fn sign_by_options(&mut self) {
        self.sign = Sign::Options;
    }

    /// Whether GET_PARAMETER is the last that was asked, and has no answer.
    pub(crate) fn waits_for_parameter(&self) -> bool {
        self.sign == Sign::GetParameter && self.pending.iter().any(|pending| matches!(pending.what, What::Sign { .. }))
    }

    /// An answer among the media: to the request of its number, or else to the oldest.
    async fn answered(&mut self, answer: &Message) -> Result<(), SourceError> {
        let Start::Answer { status, reason } = &answer.start else { return Ok(()) };
        let number = answer.cseq();
        let found = self.pending.iter().position(|pending| Some(pending.cseq) == number);
        if *status < 200 || self.pending.is_empty() {
            return Ok(());
        }
        let pending = self.pending.remove(found.unwrap_or(0));
        match (*status, pending.what) {
            (200..=299, _) => self.keep_session(answer),
            (401, What::Play { again }) => {
                self.challenged(answer, again)?;
                self.ask(What::Play { again: true }).await?;
            }
            // RFC 7616 §3.3: a new nonce. A camera that goes on asking is not answered for ever.
            (401, What::Sign { again: false }) if self.challenged(answer, false).is_ok() => {
                self.ask(What::Sign { again: true }).await?;
            }
            (454, What::Play { .. }) => return Err(SourceError::SessionNotFound),
            (status, What::Play { .. }) => {
                let refused = self.judge("PLAY", status, reason, answer);
                if self.play_urls.len() < 2 || matches!(refused, Err(SourceError::Moved(_))) {
                    return refused;
                }
                // The whole has another address than was said.
                self.play_urls.remove(0);
                self.ask(What::Play { again: false }).await?;
            }
            // At once: with the next one the session may have ended.
            (_, What::Sign { .. }) if self.sign == Sign::GetParameter => {
                self.sign = Sign::Options;
                self.ask(What::Sign { again: false }).await?;
            }
            (454, What::Sign { .. }) => return Err(SourceError::SessionNotFound),
            (_, What::Sign { .. }) => {}
        }
        Ok(())
    }
}

impl Packets for Client {
    fn poll_packets(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Packet<'_>),
    ) -> Poll<Result<(), SourceError>> {
        let (said, plays) = (&mut self.said, &mut self.plays);
        let mut take = |packet: Packet<'_>| {
            *plays = true;
            take(packet);
        };
        let (tracks, connection) = (&mut self.tracks, &mut self.connection);
        track::poll_packets(context, tracks, connection, &mut take, &mut self.skipped, &mut |message| {
            said.push(message);
        })
    }

    fn attend_at(&self) -> Option<Instant> {
        if !self.said.is_empty() {
            return Some(self.next_sign.min(Instant::now()));
        }
        let due = self.pending.iter().map(|pending| pending.deadline).min();
        Some(due.map_or(self.next_sign, |due| due.min(self.next_sign)))
    }

    async fn attend(&mut self) -> Result<(), SourceError> {
        for message in std::mem::take(&mut self.said) {
            match message.start {
                Start::Request { .. } => self.respond(&message).await?,
                Start::Answer { .. } => self.answered(&message).await?,
            }
        }
        let now = Instant::now();
        let is_late = |pending: &Pending| pending.deadline <= now;
        // Media is answer enough.
        if !self.plays
            && self.pending.iter().any(|pending| is_late(pending) && matches!(pending.what, What::Play { .. }))
        {
            return Err(SourceError::Timeout("PLAY"));
        }
        self.pending.retain(|pending| !is_late(pending));
        if self.next_sign <= now {
            self.next_sign = now + self.timeout / 2;
            self.ask(What::Sign { again: false }).await?;
        }
        Ok(())
    }

    fn is_unordered(&self, index: usize) -> bool {
        track::is_unordered(&self.tracks, index)
    }

    fn take_skipped(&mut self) -> Skipped {
        std::mem::take(&mut self.skipped)
    }
}
