//! A status report in Prometheus's text format (0.0.4): for each metric a HELP line, a TYPE line, its sample.

use std::fmt::Write as _;

use crate::control::message::{Health, Horizon, StatusReport};

/// The metrics of one project.
#[must_use]
pub fn text(report: &StatusReport) -> String {
    let mut m = Metrics { label: escape(&report.project), out: String::new() };
    m.gauge("up", "Whether a daemon has the project open.", flag(report.queue.is_some()));
    m.gauge("mounted", "Whether the project is mounted.", flag(report.mountpoint.is_some()));
    m.gauge("poisoned", "Whether writes are refused since a failure.", flag(report.poisoned.is_some()));
    m.gauge("background_error", "Whether replay or Pijul fails.", flag(report.last_error.is_some()));
    m.gauge("log_appended_lsn", "Last record appended.", report.appended.0);
    m.gauge("log_durable_lsn", "Last record known to survive a power cut.", report.durable.0);
    m.gauge("log_checkpoint_lsn", "Last record that the committed state covers.", report.checkpoint.0);
    m.gauge("log_segments", "Segments on disk.", report.segments);
    m.gauge("log_bytes", "Bytes of the log on disk.", report.wal_bytes);
    m.gauge("log_unsynced_bytes", "Bytes of log that are not synced yet.", report.unsynced_bytes);
    m.gauge("blob_pack_bytes", "Bytes of the packs on disk.", report.blob_bytes);
    m.gauge("blob_packs", "Packs on disk.", report.packs);
    m.gauge("blobs", "Blobs in the packs.", report.blobs);
    m.gauge("versions", "Versions so far.", report.versions.0);
    if let Some(pijul) = report.pijul {
        m.gauge("pijul_versions", "Versions that Pijul has.", pijul.0);
    }
    if let Some(p) = &report.pijul_state {
        m.gauge("pijul_lag_versions", "Versions that are kept and that Pijul lacks yet.", p.lag);
        m.gauge("pijul_refused_versions", "Versions that Pijul did not take as they are.", p.refused);
    }
    m.gauge("versions_thinned", "Versions that were thinned out since the project began.", report.thinned);
    if let Some(size) = &report.size {
        m.head("store_bytes", "gauge", "Bytes of disk that the project's directory takes, by part.");
        let parts =
            [("log", size.log), ("reserve", size.reserve), ("packs", size.packs), ("metadata", size.metadata), ("pijul", size.pijul)];
        for (part, bytes) in parts {
            m.sample("store_bytes", &format!(",part=\"{part}\""), bytes);
        }
    }
    if let Some(max) = report.max_store {
        m.gauge("store_max_bytes", "Bytes that it may take.", max);
    }
    if let Some(t) = &report.last_thinning {
        m.gauge("last_thinning_seconds", "Unix time of the last thinning.", t.at.secs);
        m.gauge("last_thinning_versions", "Versions that it dropped.", t.versions);
        m.gauge("last_thinning_stuck", "Whether the store was too large all the same.", flag(t.stuck));
    }
    m.gauge("pending_operations", "Operations that no version holds yet.", report.pending);
    m.gauge("uncommitted_paths", "Paths with such operations.", report.uncommitted.len() as u64 + report.uncommitted_more);
    if let Some(q) = &report.queue {
        m.counter("operations_appended_total", "Operations appended since the project began.", q.appended.operations);
        m.counter("operations_committed_total", "Operations in the committed state.", q.committed.operations);
        m.counter("written_bytes_appended_total", "Bytes of writes appended since the project began.", q.appended.bytes);
        m.counter("written_bytes_committed_total", "Bytes of writes in the committed state.", q.committed.bytes);
        m.gauge("pending_bytes", "Bytes of writes that no version holds yet.", q.pending.bytes);
        m.gauge("pending_operations_peak", "Most pending operations since the project was opened.", q.peak.operations);
        m.gauge("pending_bytes_peak", "Most pending bytes since the project was opened.", q.peak.bytes);
        m.gauge("pending_seconds", "Seconds since the pending operations last became fewer.", q.waiting_secs);
        m.gauge("lag_seconds", "Seconds for which the oldest pending operation waits.", q.lag_secs);
        m.gauge("batch_scale", "How many times as large as set versions may become for now.", q.batch_scale);
        if let Some(mean) = q.mean_batch {
            m.gauge("operations_per_version", "Operations in a version on average.", mean);
        }
        m.gauge("replay_utilization", "Share of the last minute that replay was at work.", q.utilization);
        m.head("health", "gauge", "1 for the state that the project is in.");
        for health in [Health::Ok, Health::Lagging, Health::Stuck] {
            m.sample("health", &format!(",state=\"{}\"", health.name()), flag(q.health == health));
        }
    }
    if let Some(s) = &report.stored {
        m.counter("stored_offered_bytes_total", "Bytes of content and trees that were to be kept since the project was opened.", s.offered);
        m.counter("stored_new_bytes_total", "Of these, what the store did not have.", s.new);
        m.counter("stored_bytes_total", "What that takes in the packs.", s.stored);
    }
    if let Some(c) = &report.cache {
        m.counter("cache_lookups_total", "Inodes asked for since the project was opened.", c.lookups);
        m.counter("cache_hits_total", "Inodes that were in memory.", c.hits);
        m.counter("cache_evictions_total", "Inodes let go.", c.evictions);
        m.counter("cache_invalidations_total", "Times that the kernel was told to forget something.", c.invalidations);
        m.gauge("cache_resident_inodes", "Inodes in memory.", c.resident_inodes);
        m.gauge("cache_resident_bytes", "Memory that they take, estimated.", c.resident_bytes);
        m.gauge("cache_limit_inodes", "Inodes beyond which those are let go that need not stay.", c.limit_inodes);
        m.gauge("cache_limit_bytes", "Memory that so many take, estimated.", c.limit_bytes);
    }
    if !report.latency.is_empty() {
        m.head("requests_total", "counter", "Requests of the kernel since the project was mounted.");
        for l in &report.latency {
            m.sample("requests_total", &format!(",kind=\"{}\"", escape(&l.kind)), l.count);
        }
        m.head("request_seconds", "gauge", "Within how long such a share of them was answered.");
        for l in &report.latency {
            for (quantile, micros) in [("0.5", l.median_us), ("0.99", l.p99_us), ("1", l.max_us)] {
                m.sample("request_seconds", &format!(",kind=\"{}\",quantile=\"{quantile}\"", escape(&l.kind)), micros / 1e6);
            }
        }
    }
    if let Some(r) = &report.recovery {
        m.gauge("last_recovery_operations", "Operations that the last recovery applied again.", r.operations);
        m.gauge("last_recovery_seconds", "How long it took.", seconds(r.millis));
        m.gauge("last_recovery_torn", "Whether it cut a torn tail.", flag(r.torn.is_some()));
    }
    m.horizon("operations_since_seconds", "Unix time back to which every single operation is kept.", report.operations_since);
    m.horizon("versions_since_seconds", "Unix time of the first version.", report.versions_since);
    m.out
}

fn flag(yes: bool) -> u64 {
    u64::from(yes)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a recovery")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// Values of labels have a backslash before `\`, `"` and newline. Names of projects need none, but what is read is not trusted.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

struct Metrics {
    label: String,
    out: String,
}

impl Metrics {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP ize_{name} {help}\n# TYPE ize_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.out, "ize_{name}{{project=\"{}\"{labels}}} {value}", self.label);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        self.sample(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.sample(name, "", value);
    }

    fn horizon(&mut self, name: &str, help: &str, horizon: Option<Horizon>) {
        if let Some(h) = horizon {
            self.gauge(name, help, h.time.secs);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::control::message::{Cache, LastThinning, Queue, RequestLatency};
    use crate::engine::core::Recovery;
    use crate::engine::store_size::StoreSize;
    use crate::ids::{Lsn, Time, VersionSeq};

    /// Reads the text as the format's description says: name{labels} value, after one HELP and one TYPE line of the name, all samples of
    /// a name together.
    fn parse(text: &str) -> HashMap<String, f64> {
        let name_ok = |n: &str| {
            n.chars().enumerate().all(|(i, c)| c.is_ascii_alphabetic() || matches!(c, '_' | ':') || (i > 0 && c.is_ascii_digit()))
        };
        let (mut helped, mut typed, mut samples) = (HashSet::new(), HashMap::new(), HashMap::new());
        let mut current = String::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(name_ok(name) && !help.is_empty() && helped.insert(name.to_owned()), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(helped.contains(name) && matches!(kind, "counter" | "gauge"), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(typed.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
                current = name.to_owned();
            } else {
                let (name, rest) = line.split_once('{').unwrap();
                let (labels, value) = rest.rsplit_once("} ").unwrap();
                assert_eq!(name, current, "samples of a name stand together");
                for label in labels.split("\",") {
                    let (key, value) = label.split_once("=\"").unwrap();
                    assert!(name_ok(key), "{line}");
                    assert!(!value.trim_end_matches('"').contains(['"', '\n']), "{line}");
                }
                assert!(samples.insert(format!("{name}{{{labels}}}"), value.parse().unwrap()).is_none(), "{line} twice");
            }
        }
        assert_eq!(helped.len(), typed.len());
        samples
    }

    #[test]
    fn every_report_is_text_that_the_format_allows() {
        let horizon = Some(Horizon { lsn: Lsn(1), time: Time { secs: 1_767_366_245, nanos: 5 } });
        let full = StatusReport {
            project: "notes".into(),
            pijul: Some(VersionSeq(2)),
            queue: Some(Queue { mean_batch: Some(2.5), utilization: 0.25, health: Health::Lagging, ..Queue::default() }),
            cache: Some(Cache { lookups: 7, limit_bytes: 9, ..Cache::default() }),
            latency: vec![RequestLatency { kind: "stat".into(), count: 9, p99_us: 1500.0, ..RequestLatency::default() }],
            recovery: Some(Recovery { millis: 1500, ..Recovery::default() }),
            operations_since: horizon,
            versions_since: horizon,
            size: Some(StoreSize { packs: 11, ..StoreSize::default() }),
            max_store: Some(12),
            last_thinning: Some(LastThinning {
                at: Time { secs: 13, nanos: 0 },
                versions: 14,
                left: 0,
                segments: 0,
                bytes: 0,
                grain: None,
                stuck: true,
            }),
            ..StatusReport::default()
        };
        let samples = parse(&text(&full));
        for (name, value) in [
            ("ize_up{project=\"notes\"}", 1.0),
            ("ize_operations_per_version{project=\"notes\"}", 2.5),
            ("ize_health{project=\"notes\",state=\"lagging\"}", 1.0),
            ("ize_health{project=\"notes\",state=\"ok\"}", 0.0),
            ("ize_cache_lookups_total{project=\"notes\"}", 7.0),
            ("ize_requests_total{project=\"notes\",kind=\"stat\"}", 9.0),
            ("ize_request_seconds{project=\"notes\",kind=\"stat\",quantile=\"0.99\"}", 0.0015),
            ("ize_last_recovery_seconds{project=\"notes\"}", 1.5),
            ("ize_store_bytes{project=\"notes\",part=\"packs\"}", 11.0),
            ("ize_store_max_bytes{project=\"notes\"}", 12.0),
            ("ize_last_thinning_seconds{project=\"notes\"}", 13.0),
            ("ize_last_thinning_versions{project=\"notes\"}", 14.0),
            ("ize_last_thinning_stuck{project=\"notes\"}", 1.0),
            ("ize_operations_since_seconds{project=\"notes\"}", 1_767_366_245.0),
        ] {
            assert_eq!(samples.get(name), Some(&value), "{name}");
        }
        let empty = parse(&text(&StatusReport::default()));
        assert_eq!(empty["ize_up{project=\"\"}"], 0.0);
    }
}
