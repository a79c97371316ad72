//! The supervisor of one source of the configuration: connects when it should, tries again when it fails.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    error::SourceError,
    handle::gone,
    media::Media,
    place::Place,
    plain::Listener,
    rtsp::{client::Client, redirect},
    status::{Shared, State},
};
use crate::config;

/// A source on demand stays connected for so long after its last viewer.
const LINGER: Duration = Duration::from_secs(10);
/// Waits between attempts: doubled each time, up to `ingest.retry_max_s`.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Failures of one kind in a row after which it is said what to change, and again after so many more.
const ADVISE_AFTER: u32 = 3;
const ADVISE_EVERY: u32 = 100;
/// For goodbyes.
const GOODBYE: Duration = Duration::from_millis(500);

/// One source.
pub(super) struct Source {
    config: config::Stream,
    place: Place,
    wanted: watch::Receiver<bool>,
    media: Media,
    /// It has hung up behind a GET_PARAMETER.
    hates_parameters: bool,
}

impl Source {
    pub(super) fn new(
        name: String,
        config: config::Stream,
        place: Place,
        status: Shared,
        wanted: watch::Receiver<bool>,
    ) -> Self {
        let keep = config.kept_bytes();
        let media = Media::new(name, config.origin(), status, place.clone(), keep);
        Self { config, place, wanted, media, hates_parameters: false }
    }

    /// Runs until the control task has gone.
    pub(super) async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        // Whoever sends plain RTP does so when he likes: silence is said once.
        let mut silent = false;
        let mut row = Row::default();
        while self.until_wanted().await {
            self.media.status.lock().state = State::Connecting;
            let began = Instant::now();
            let connections = self.media.status.lock().connections;
            let Err(error) = self.serve().await else {
                wait = FIRST_WAIT;
                continue;
            };
            self.media.failed(&error);
            let played = self.media.status.lock().connections > connections;
            // What worked for a while is likely to work again at once.
            if played && began.elapsed() > self.place.retry_max {
                wait = FIRST_WAIT;
            }
            self.advise(row.one_more(&error, played), &error);
            let deaf = self.config.is_plain_rtp() && matches!(error, SourceError::Stalled { .. });
            let pause = if deaf { Duration::ZERO } else { jitter(wait.min(self.place.retry_max)) };
            if !deaf || played || !silent {
                tracing::warn!(
                    stream = self.media.name,
                    source = self.media.origin,
                    error = error.name(),
                    "no media, next attempt in {:.1} s: {error}",
                    pause.as_secs_f64()
                );
            }
            silent = deaf;
            wait = (wait * 2).min(self.place.retry_max);
            tokio::select! {
                () = sleep(pause) => {}
                () = gone(&mut self.wanted) => return,
            }
        }
    }

    /// `false`: never again.
    async fn until_wanted(&mut self) -> bool {
        if self.wanted.has_changed().is_err() || !self.config.on_demand {
            return self.wanted.has_changed().is_ok();
        }
        if !*self.wanted.borrow() {
            self.media.status.lock().state = State::Idle;
        }
        self.wanted.wait_for(|wanted| *wanted).await.is_ok()
    }

    /// One connection, from its begin to its end. `Ok`: nobody wants it any more.
    async fn serve(&mut self) -> Result<(), SourceError> {
        if self.config.is_plain_rtp() {
            return Box::pin(self.listen()).await;
        }
        let mut to = redirect::Destination::configured(&self.config).ok_or(SourceError::NoUrl)?;
        let mut followed = 0;
        loop {
            match self.converse(to).await {
                Err(SourceError::Moved(next)) if followed < redirect::MOST => {
                    followed += 1;
                    tracing::info!(
                        stream = self.media.name,
                        source = self.media.origin,
                        "the camera sends us to {next}"
                    );
                    to = *next;
                }
                ended => return ended,
            }
        }
    }

    /// One connection to one place.
    async fn converse(&mut self, to: redirect::Destination) -> Result<(), SourceError> {
        // Boxed, as what only the begin needs should not have its room in the task for ever.
        let begin = Box::pin(async {
            let (client, description) = Client::begin(&self.config, to, self.place.scratch.clone()).await?;
            let mut client = Box::new(client);
            if self.hates_parameters {
                client.sign_by_options();
            }
            self.media.described(&description)?;
            client.play().await?;
            Ok::<_, SourceError>(client)
        });
        let mut client = tokio::select! {
            client = begin => client?,
            () = unwanted(&mut self.wanted, self.config.on_demand) => return Ok(()),
        };
        let gone = pin!(unwanted(&mut self.wanted, self.config.on_demand));
        let played = self.media.play(&mut *client, gone).await;
        self.hates_parameters |=
            matches!(played, Err(SourceError::Closed | SourceError::Io(_))) && client.waits_for_parameter();
        let _ = timeout(GOODBYE, client.teardown()).await;
        played
    }

    /// Says what to change, when a failure comes again and again.
    fn advise(&self, times: u32, error: &SourceError) {
        let advice = error.advice();
        self.media.status.lock().advice = (times >= ADVISE_AFTER).then_some(advice);
        if times >= ADVISE_AFTER && (times - ADVISE_AFTER).is_multiple_of(ADVISE_EVERY) {
            let (stream, source, error) = (&self.media.name, &self.media.origin, error.name());
            tracing::warn!(stream, source, error, times, "it does not mend itself: {advice}");
        }
    }

    async fn listen(&mut self) -> Result<(), SourceError> {
        let (mut listener, description) = Listener::open(&self.config).await?;
        self.media.described(&description)?;
        let gone = pin!(unwanted(&mut self.wanted, self.config.on_demand));
        self.media.play(&mut listener, gone).await
    }
}

/// Ends when the control task has gone, or nobody has watched for a while a source that is on demand.
async fn unwanted(wanted: &mut watch::Receiver<bool>, on_demand: bool) {
    if !on_demand {
        return gone(wanted).await;
    }
    loop {
        if wanted.wait_for(|wanted| !*wanted).await.is_err() {
            return;
        }
        match timeout(LINGER, wanted.wait_for(|wanted| *wanted)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Failures of one kind in a row.
#[derive(Default)]
struct Row {
    error: &'static str,
    times: u32,
}

impl Row {
    /// How many there are with this one.
    fn one_more(&mut self, error: &SourceError, played: bool) -> u32 {
        if played || self.error != error.name() {
            *self = Self { error: error.name(), times: 0 };
        }
        self.times = self.times.saturating_add(1);
        self.times
    }
}

/// Between half and all of it, so that cameras behind one switch do not come back all at once.
fn jitter(wait: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness, without jitter.
    let random = SystemRandom::new().fill(&mut random).map_or(0x8000, |()| u16::from_be_bytes(random));
    wait / 2 + wait / 2 * u32::from(random) / 0xffff
}
