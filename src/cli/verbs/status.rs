//! `ize status`.

use crate::cli::args::StatusArgs;
use crate::cli::grammar::Paths;
use crate::cli::output::{self, Out};
use crate::cli::session::Session;
use crate::cli::verbs::prometheus;
use crate::control::message::{Health, Horizon, PathBytes, PijulReport, StatusReport};
use crate::control::{Client, Request};
use crate::engine::status;
use crate::engine::store_size::file_system_size;
use crate::error::{Class, Error, Result};
use crate::project::{Project, units};

/// Says how a project stands and how far back its two horizons lie.
///
/// # Errors
/// What the words mean, what the daemon answers, or that there is none.
pub fn run(args: &StatusArgs, session: &mut Session) -> Result<()> {
    let meant = session.meant(args.word.as_slice(), Paths::Zero)?;
    let report: StatusReport = match Client::connect(&meant.project.layout) {
        Ok(mut daemon) => daemon.call(&Request::Status)?,
        Err(e) if e.class == Class::DaemonGone => {
            let max = session.settings(&meant.project, &[])?.max_store;
            StatusReport { max_store: max.bytes(file_system_size(meant.project.layout.dir())), ..at_rest(&meant.project, session)? }
        }
        Err(e) => return Err(e),
    };
    if args.prometheus {
        session.out.text(&prometheus::text(&report))?;
    } else if args.json || !args.check {
        show(&mut session.out, &report, args.json)?;
    } else {
        session.out.line(report.queue.as_ref().map_or("not mounted", |q| q.health.name()))?;
    }
    if args.check { check(&report) } else { Ok(()) }
}

/// Health as a failure: lagging is 1, stuck 6, nobody there 10.
fn check(report: &StatusReport) -> Result<()> {
    let name = &report.project;
    let Some(queue) = &report.queue else {
        return Err(Error::new(Class::DaemonGone, format!("`{name}` is not mounted for writing")).hint("mount it with `ize mount`"));
    };
    let why = queue.why.as_deref().unwrap_or("it does not say why");
    match queue.health {
        Health::Ok => Ok(()),
        Health::Lagging => Err(Error::new(Class::Failed, format!("`{name}` is lagging: {why}")).hint("nothing is lost; look again later")),
        Health::Stuck => Err(Error::new(Class::Io, format!("`{name}` is stuck: {why}"))
            .hint("look at the disk and at `meta/daemon.log`; then unmount and mount again")),
    }
}

/// A project that nobody has open for writing: what is on disk. A mount whose daemon is dead is named, and one that is read-only.
fn at_rest(project: &Project, session: &Session) -> Result<StatusReport> {
    let mut report = status::at_rest(project)?;
    let world = session.world()?;
    if let Some(mount) = world.mounts_of(project).next() {
        report.mountpoint = Some(PathBytes::from(mount.point.as_path()));
        report.read_only = mount.read_only && !mount.is_stale();
    }
    Ok(report)
}

/// Writes a report, for people or as one JSON object.
///
/// # Errors
/// As [`Out::line`].
pub fn show(out: &mut Out, report: &StatusReport, json: bool) -> Result<()> {
    if json {
        return out.json(report);
    }
    let mut row = |key: &str, value: String| {
        let key = if key.is_empty() { String::new() } else { format!("{key}:") };
        out.line(&format!("{key:12} {value}"))
    };
    row("project", report.project.clone())?;
    row("directory", output::name(&report.dir.0))?;
    let mounted = match (&report.mountpoint, report.pid) {
        (Some(point), Some(pid)) => format!("{} (process {pid})", output::name(&point.0)),
        (Some(point), None) if report.read_only => format!("{} (read-only)", output::name(&point.0)),
        (Some(point), None) => format!("{} (daemon gone)", output::name(&point.0)),
        (None, Some(pid)) => format!("no, but process {pid} has it open"),
        (None, None) => "no".into(),
    };
    row("mounted", mounted)?;
    if let Some(queue) = &report.queue {
        let why = queue.why.as_ref().map_or_else(String::new, |why| format!(": {}", output::name(why.as_bytes())));
        row("health", format!("{}{why}", queue.health.name()))?;
    }
    if let Some(why) = &report.poisoned {
        row("POISONED", format!("{why}; writes answer EIO until it is mounted again"))?;
    }
    if let Some(why) = &report.last_error {
        row("TROUBLE", why.clone())?;
    }
    if report.holding_back {
        let held = report.held_writes;
        row("NEAR LIMIT", format!("{held} writes wait while versions are thinned: the store is near retention.max-store"))?;
    } else if report.held_writes > 0 {
        row("FULL DISK", format!("{} writes wait for room; `ize wal prune --max-size 0` makes what there is", report.held_writes))?;
    }
    let unsynced =
        if report.unsynced_bytes > 0 { format!(" ({} unsynced)", units::show_size(report.unsynced_bytes)) } else { String::new() };
    row("log", format!("appended {}, durable {}{unsynced}, checkpoint {}", report.appended, report.durable, report.checkpoint))?;
    row("pending", pending(report))?;
    if let Some(q) = &report.queue {
        let rates = format!(
            "{:.0} operations/s and {:.2} MB/s in, {:.0} and {:.2} committed",
            q.appended_per_second, q.appended_mb_per_second, q.committed_per_second, q.committed_mb_per_second
        );
        let batch = q.mean_batch.map_or_else(String::new, |n| format!(", {n:.0} operations a version"));
        let scale = if q.batch_scale > 1 { format!(" ({} times as large as set, to catch up)", q.batch_scale) } else { String::new() };
        row("throughput", format!("{rates}{batch}{scale}, replay busy {:.0}%", q.utilization * 100.0))?;
    }
    if let Some(s) = report.stored.as_ref().filter(|s| s.offered > 0) {
        let ratio = |name: &str, ratio: Option<f64>| ratio.map_or_else(String::new, |r| format!(", {name} {r:.2}"));
        let (offered, new, stored) = (units::show_size(s.offered), units::show_size(s.new), units::show_size(s.stored));
        let ratios = ratio("deduplication", s.dedup_ratio) + &ratio("compression", s.compression_ratio);
        row("stored", format!("{offered}, of that {new} new, as {stored}{ratios}"))?;
    }
    for u in report.uncommitted.iter().take(PATHS_SHOWN) {
        let path = if u.path.0.is_empty() { ".".to_owned() } else { output::name(&u.path.0) };
        row("", format!("{:>6}  {path}", u.operations))?;
    }
    let more = report.uncommitted_more + report.uncommitted.len().saturating_sub(PATHS_SHOWN) as u64;
    if more > 0 {
        row("", format!("        and {more} more paths (--json lists them)"))?;
    }
    if let Some(p) = &report.pijul_state {
        pijul_trouble(p, &mut row)?;
    }
    let pijul = report.pijul.map_or_else(String::new, |p| format!(", {p} of them in Pijul"));
    let thinned = if report.thinned > 0 { format!(", {} of them thinned out", report.thinned) } else { String::new() };
    row("versions", format!("{}{pijul}{thinned}", report.versions))?;
    let wal = units::show_size(report.wal_bytes);
    let blobs = units::show_size(report.blob_bytes);
    row("on disk", format!("log {wal} in {} segments, {} blobs in {} packs of {blobs}", report.segments, report.blobs, report.packs))?;
    if let Some(size) = &report.size {
        let part = |name: &str, bytes: u64| format!("{name} {}", units::show_size(bytes));
        let parts = [part("log", size.log), part("packs", size.packs), part("metadata", size.metadata), part("pijul", size.pijul)];
        let max = report.max_store.map_or_else(String::new, |max| format!(" of at most {}", units::show_size(max)));
        let total = units::show_size(size.total());
        row("store", format!("{total}{max}: {}, {}", parts.join(", "), part("reserve", size.reserve)))?;
        if let Some(max) = report.max_store.filter(|max| size.total() > *max) {
            let waits = if report.last_thinning.is_some_and(|t| t.stuck) { "; nothing more can go, and writes go on" } else { "" };
            row("TOO LARGE", format!("{} more than retention.max-store{waits}", units::show_size(size.total() - max)))?;
        }
    }
    if let Some(t) = &report.last_thinning {
        let harder = t.grain.map_or_else(String::new, |grain| format!(", down to {}", grain.words()));
        let (freed, at) = (units::show_size(t.bytes), output::times::time(t.at));
        row(
            "thinned",
            format!("{} versions and {} segments ({freed}) at {at}{harder}; {} versions stayed", t.versions, t.segments, t.left),
        )?;
    }
    if let Some(c) = &report.cache {
        let ratio = c.hit_ratio.map_or_else(String::new, |r| format!(", {:.1}% of lookups hit", r * 100.0));
        let (size, limit) = (units::show_size(c.resident_bytes), units::show_size(c.limit_bytes));
        row("memory", format!("{} inodes, about {size} (limit {}, about {limit}){ratio}", c.resident_inodes, c.limit_inodes))?;
    }
    if let Some(p) = &report.last_prune {
        let (log, blobs) = (units::show_size(p.wal_bytes), units::show_size(p.blob_bytes));
        row("pruned", format!("{} segments ({log}) and {blobs} of blobs at {}", p.segments, output::times::time(p.at)))?;
    }
    for (index, l) in report.latency.iter().enumerate() {
        let label = if index == 0 { "requests" } else { "" };
        row(
            label,
            format!(
                "{} {}: half within {:.1} us, 99% within {:.1} us, all within {:.0} us",
                l.count, l.kind, l.median_us, l.p99_us, l.max_us
            ),
        )?;
    }
    if let Some(r) = report.recovery.as_ref().filter(|r| !r.clean && r.operations > 0) {
        let torn = if r.torn.is_some() { ", a torn tail was set aside" } else { "" };
        row("recovery", format!("{} operations ({}) in {} ms{torn}", r.operations, units::show_size(r.bytes), r.millis))?;
    }
    row("operations", since(report.operations_since, "any single operation since", "no operation is kept"))?;
    let all = if report.thinned > 0 { "versions since" } else { "every version since" };
    row("history", since(report.versions_since, all, "there is no version yet"))
}

/// Paths that people are shown.
const PATHS_SHOWN: usize = 5;

fn pending(report: &StatusReport) -> String {
    let plain = format!("{} operations after the checkpoint", report.pending);
    match &report.queue {
        Some(q) if q.pending.operations > 0 => {
            format!("{plain}, {} written, for {:.0} s (peak {})", units::show_size(q.pending.bytes), q.waiting_secs, q.peak.operations)
        }
        Some(q) => format!("{plain} (peak {})", q.peak.operations),
        None => plain,
    }
}

/// What of Pijul is not as it should be.
fn pijul_trouble(p: &PijulReport, row: &mut dyn FnMut(&str, String) -> Result<()>) -> Result<()> {
    if let Some(rebuild) = &p.rebuild {
        row("pijul", format!("is made anew: {} of {} versions", rebuild.versions, rebuild.of))?;
    } else if p.lag > 0 {
        row("pijul", format!("lacks {} versions yet; it has {} changes", p.lag, p.changes))?;
    }
    if let Some(what) = &p.foreign {
        let then = "nothing is recorded on top of it: `pijul unrecord` it in the project's directory, or `ize pijul rebuild --yes`";
        row("NOT OURS", format!("{what}; {then}"))?;
    }
    if let Some(what) = &p.missing {
        row("MISSING", what.clone())?;
    }
    if let Some((seq, why)) = &p.last_refused {
        row("REFUSED", format!("Pijul did not take {} versions as they are; the last is {seq}: {why}", p.refused))?;
    }
    Ok(())
}

fn since(horizon: Option<Horizon>, back: &str, none: &str) -> String {
    horizon.map_or_else(|| none.into(), |h| format!("{back} {} ({})", output::time(h.time), h.lsn))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::ids::{Lsn, Time, VersionSeq};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn shown(report: &StatusReport, json: bool) -> String {
        let kept = Kept::default();
        let mut out = Out::to(Box::new(kept.clone()), false);
        show(&mut out, report, json).unwrap();
        out.flush().unwrap();
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn both_horizons_are_always_said() {
        let empty = shown(&StatusReport::default(), false);
        assert!(empty.contains("no operation is kept") && empty.contains("there is no version yet"), "{empty}");
        let horizon = Some(Horizon { lsn: Lsn(0x1a), time: Time { secs: 1_767_366_245, nanos: 0 } });
        let report =
            StatusReport { operations_since: horizon, versions_since: horizon, versions: VersionSeq(3), ..StatusReport::default() };
        let text = shown(&report, false);
        assert!(text.contains("any single operation since 2026-01-02") && text.contains("every version since 2026-01-02"), "{text}");
        assert_eq!(serde_json::from_str::<StatusReport>(&shown(&report, true)).unwrap(), report);
        assert_eq!(shown(&report, true).lines().count(), 1);
    }
}
