//! `ize status`.

use crate::cli::args::StatusArgs;
use crate::cli::grammar::Paths;
use crate::cli::output::{self, Out};
use crate::cli::session::Session;
use crate::control::message::{Horizon, PathBytes, StatusReport};
use crate::control::{Client, Request};
use crate::engine::status;
use crate::error::{Class, Result};
use crate::project::{Project, units};

/// Says how a project stands and how far back its two horizons lie.
///
/// # Errors
/// What the words mean, what the daemon answers, or that there is none.
pub fn run(args: &StatusArgs, session: &mut Session) -> Result<()> {
    let meant = session.meant(args.word.as_slice(), Paths::Zero)?;
    let report: StatusReport = match Client::connect(&meant.project.layout) {
        Ok(mut daemon) => daemon.call(&Request::Status)?,
        Err(e) if e.class == Class::DaemonGone => at_rest(&meant.project, session)?,
        Err(e) => return Err(e),
    };
    show(&mut session.out, &report, args.json)
}

/// A project that nobody has open: what is on disk. A mount whose daemon is dead is named.
fn at_rest(project: &Project, session: &Session) -> Result<StatusReport> {
    let mut report = status::at_rest(project)?;
    let world = session.world()?;
    report.mountpoint = world.mounts_of(project).next().map(|m| PathBytes::from(m.point.as_path()));
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
    let mut row = |key: &str, value: String| out.line(&format!("{:12} {value}", format!("{key}:")));
    row("project", report.project.clone())?;
    row("directory", output::name(&report.dir.0))?;
    let mounted = match (&report.mountpoint, report.pid) {
        (Some(point), Some(pid)) => {
            format!("{} (process {pid}{})", output::name(&point.0), if report.read_only { ", read only" } else { "" })
        }
        (Some(point), None) => format!("{} (daemon gone)", output::name(&point.0)),
        (None, _) => "no".into(),
    };
    row("mounted", mounted)?;
    if let Some(why) = &report.poisoned {
        row("POISONED", format!("{why}; writes answer EIO until it is mounted again"))?;
    }
    if let Some(why) = &report.last_error {
        row("TROUBLE", why.clone())?;
    }
    row("log", format!("appended {}, durable {}, checkpoint {}", report.appended, report.durable, report.checkpoint))?;
    row("pending", format!("{} operations after the checkpoint", report.pending))?;
    let pijul = report.pijul.map_or_else(String::new, |p| format!(", {p} of them in Pijul"));
    row("versions", format!("{}{pijul}", report.versions))?;
    let wal = units::show_size(report.wal_bytes);
    row("on disk", format!("log {wal} in {} segments, blobs {}", report.segments, units::show_size(report.blob_bytes)))?;
    row("operations", since(report.operations_since, "any single operation since", "no operation is kept"))?;
    row("history", since(report.versions_since, "every version since", "there is no version yet"))
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
