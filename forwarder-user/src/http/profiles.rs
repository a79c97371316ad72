//! `GET /debug/pprof/…`: profiles of this process, in the format that `go tool pprof` reads.
//!
//! XDP runs in softirq, so its CPU time is not in here: see `penstock_bpf_run_seconds_total`.

use std::{
    io::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use axum::{
    Router,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use flate2::{Compression, write::GzEncoder};
use pprof::{Frames, ProfilerGuardBuilder, Symbol, protos::Message as _};
use serde::Deserialize;

use super::{
    App,
    auth::{self, Shown},
    reply::Failure,
};
use crate::config::Action;

/// Samples a second of CPU time. Not 100: what happens every 10 ms would be seen always or never.
const FREQUENCY: i32 = 99;

/// Longest profile.
const MOST_SECONDS: u64 = 300;

/// Code that a signal handler must not unwind from: the unwinder itself, and what has no tables. System calls
/// are in libc and must be seen; its loader's lock is no danger, as unwinding takes none since glibc 2.35.
const NOT_UNWOUND: [&str; 2] = ["libgcc", "vdso"];

/// One at a time: the timer is the process's.
static BUSY: Mutex<()> = Mutex::new(());

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/debug/pprof/profile", get(cpu)).route("/debug/pprof/heap", get(heap))
}

#[derive(Deserialize)]
struct Length {
    #[serde(default = "usual_seconds")]
    seconds: u64,
}

fn usual_seconds() -> u64 {
    30
}

/// CPU time in `seconds` from now on.
async fn cpu(
    State(app): State<Arc<App>>,
    length: Result<Query<Length>, QueryRejection>,
    request: Request,
) -> Result<Response, Failure> {
    admit(&app, Shown::of(&request)).await?;
    let Query(Length { seconds }) = length.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    if !(1..=MOST_SECONDS).contains(&seconds) {
        return Err(Failure::new(StatusCode::BAD_REQUEST, format!("seconds must be 1 to {MOST_SECONDS}")));
    }
    let profile = tokio::task::spawn_blocking(move || sample(Duration::from_secs(seconds))).await;
    answer(profile, "profile.pb.gz")
}

/// `None`: another profile is being taken.
fn sample(length: Duration) -> anyhow::Result<Option<Vec<u8>>> {
    let Ok(_busy) = BUSY.try_lock() else { return Ok(None) };
    let guard = ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&NOT_UNWOUND).build()?;
    std::thread::sleep(length);
    let profile = guard
        .report()
        .frames_post_processor(without_unwinder)
        .build()
        .context("symbols")?
        .pprof()
        .context("no profile")?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&profile.encode_to_vec())?;
    Ok(Some(gzip.finish()?))
}

/// Takes what made the stack off its top; in optimised builds it is not there.
fn without_unwinder(stack: &mut Frames) {
    let of_unwinder = |frame: &Vec<Symbol>| frame.iter().any(|symbol| symbol.name().contains("backtrace::"));
    let own = stack.frames.iter().take_while(|frame| of_unwinder(frame)).count();
    stack.frames.drain(..own);
}

/// Live memory by who allocated it, of samples since the first request.
#[cfg(feature = "heap-profile")]
async fn heap(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    admit(&app, Shown::of(&request)).await?;
    let dump = || {
        let control = jemalloc_pprof::PROF_CTL.as_ref().context("jemalloc was not told to profile")?;
        let mut control = control.blocking_lock();
        if !control.activated() {
            control.activate()?;
        }
        control.dump_pprof().map(Some)
    };
    answer(tokio::task::spawn_blocking(dump).await, "heap.pb.gz")
}

#[cfg(not(feature = "heap-profile"))]
async fn heap(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    admit(&app, Shown::of(&request)).await?;
    Err(Failure::new(
        StatusCode::NOT_IMPLEMENTED,
        "this build has no heap profiles: `cargo build --release --features heap-profile` makes one that has",
    ))
}

fn answer(
    profile: Result<anyhow::Result<Option<Vec<u8>>>, tokio::task::JoinError>,
    name: &str,
) -> Result<Response, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("no profile could be taken: {error:#}"))
    };
    let profile = profile.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    let Some(profile) = profile else {
        return Err(Failure::busy("another profile is being taken"));
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    Ok((headers, profile).into_response())
}

/// Off: as if it did not exist. On: this host, or whoever the configuration says.
async fn admit(app: &App, shown: Shown) -> Result<(), Failure> {
    let settings = app.settings.current();
    if !settings.debug.profiles {
        return Err(Failure::new(StatusCode::NOT_FOUND, "profiles are off (`debug.profiles` in the configuration)"));
    }
    auth::permit_management(app, Action::Debug, &shown).await?;
    if shown.is_local() || settings.debug.remote {
        return Ok(());
    }
    Err(Failure::new(StatusCode::FORBIDDEN, "profiles are for this host only (`debug.remote` in the configuration)"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use pprof::protos::Profile;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test may fail for want of a thread")]
    fn a_profile_names_what_was_busy() {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = stop.clone();
        let busy = std::thread::spawn(move || {
            let mut sum = 0u64;
            while !flag.load(std::sync::atomic::Ordering::Relaxed) {
                sum = std::hint::black_box(burn(sum));
            }
        });
        let bytes = sample(Duration::from_secs(1)).unwrap().unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        busy.join().unwrap();
        let mut plain = Vec::new();
        GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        let profile = Profile::decode(&plain[..]).unwrap();
        assert!(!profile.sample.is_empty());
        assert!(profile.string_table.iter().any(|name| name.contains("burn")), "{:?}", profile.string_table);
    }

    #[inline(never)]
    fn burn(mut x: u64) -> u64 {
        for i in 0..10_000u64 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i);
        }
        x
    }
}
