//! What the master counts, in the text form of OpenMetrics at `/metrics`.

use std::{sync::atomic::Ordering, time::Duration};

use http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry as Collector,
};

use super::{
    Shared,
    answer::{self, Response},
};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    kind: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: &'static str,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// All metrics. Label values come from the table of kinds and fixed words, so their number is
/// bounded whatever is requested.
#[derive(Debug)]
pub(crate) struct Metrics {
    collector: Collector,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    streams: Gauge,
    objects: Family<KindLabels, Gauge>,
    commits: Gauge,
    writes: Gauge,
    conflicts: Gauge,
    failures: Gauge,
    version: Gauge,
}

/// 0.25 ms to 16 s.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.00025, 4.0, 9))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut collector = Collector::with_prefix("coracle");
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram as fn() -> Histogram),
            streams: Gauge::default(),
            objects: Family::default(),
            commits: Gauge::default(),
            writes: Gauge::default(),
            conflicts: Gauge::default(),
            failures: Gauge::default(),
            version: Gauge::default(),
            collector: Collector::default(),
        };
        collector.register("requests", "Requests answered", metrics.requests.clone());
        collector.register("request_duration_seconds", "Time to the answer's head", metrics.durations.clone());
        collector.register("streams", "Watches, logs, commands and tunnels open", metrics.streams.clone());
        collector.register("objects", "Objects in the registry", metrics.objects.clone());
        collector.register("store_commits", "Durable commits since the start", metrics.commits.clone());
        collector.register("store_writes", "Writes in those commits", metrics.writes.clone());
        collector.register("store_conflicts", "Writes whose object had changed", metrics.conflicts.clone());
        collector.register("store_failures", "Commits that the store refused", metrics.failures.clone());
        collector.register("resource_version", "The last version given out", metrics.version.clone());
        Self { collector, ..metrics }
    }
}

impl Metrics {
    /// Counts one answer.
    pub(crate) fn answered(&self, verb: &'static str, kind: &'static str, code: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { verb, kind, code }).inc();
        self.durations.get_or_create(&DurationLabels { verb, kind }).observe(took.as_secs_f64());
    }

    /// `/metrics`
    pub(crate) fn page(&self, shared: &Shared) -> Response {
        let stats = shared.registry.stats();
        let read = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        read(&self.commits, stats.commits.load(Ordering::Relaxed));
        read(&self.writes, stats.writes.load(Ordering::Relaxed));
        read(&self.conflicts, stats.conflicts.load(Ordering::Relaxed));
        read(&self.failures, stats.failures.load(Ordering::Relaxed));
        read(&self.version, shared.registry.version());
        read(&self.streams, shared.in_flight.streams_open() as u64);
        for (kind, count) in shared.registry.counts() {
            read(&self.objects.get_or_create(&KindLabels { kind: kind.plural }), count as u64);
        }
        let mut text = String::new();
        match encode(&mut text, &self.collector) {
            Ok(()) => answer::full(StatusCode::OK, CONTENT_TYPE, text.into()),
            Err(_) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written"),
        }
    }
}
