//! Counts of HTTP requests.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::Response,
};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, core::Collector, proto::MetricFamily};

use super::names;
use crate::http::App;

/// Bounds in seconds. An answer to an offer takes milliseconds; timeouts are of ten seconds.
const BUCKETS: [f64; 9] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// What was asked and answered so far.
pub(crate) struct Requests {
    count: IntCounterVec,
    seconds: HistogramVec,
}

impl Requests {
    /// Nothing so far.
    ///
    /// # Errors
    /// None: the names are good ones.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let (count, seconds) = (&names::HTTP_REQUESTS, &names::HTTP_SECONDS);
        let histogram = HistogramOpts::new(seconds.name, seconds.help).buckets(BUCKETS.to_vec());
        Ok(Self {
            count: IntCounterVec::new(Opts::new(count.name, count.help), count.labels)?,
            seconds: HistogramVec::new(histogram, seconds.labels)?,
        })
    }

    /// As samples; nothing before the first request.
    pub(crate) fn collect(&self) -> Vec<MetricFamily> {
        let all = self.count.collect().into_iter().chain(self.seconds.collect());
        all.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

/// Counts every request. Routes are templates and methods a few, so that no client can invent series.
pub(crate) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "none".into());
    let method = method(request.method());
    let response = next.run(request).await;
    let Requests { count, seconds } = &app.observed;
    count.with_label_values(&[route.as_str(), method, response.status().as_str()]).inc();
    seconds.with_label_values(&[route.as_str()]).observe(start.elapsed().as_secs_f64());
    response
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
