//! Checks all there is of the log: every checksum, every link of the chain, and through a callback every blob that a record names.
//!
//! Works beside a live writer and needs no mount. It reads with pread, not through a mapping: a file that is cut under a mapping, or a bad
//! sector, is SIGBUS there and an error here.

use std::io;
use std::path::Path;

use crate::ids::{Lsn, StoreId};
use crate::storage::Storage;

use super::error::{Result, WalContext};
use super::format::segment_path;
use super::reader::Record;
use super::scan::{Bounds, Finding, LogScan, Verdict, walk};

/// How bad it is, mildest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Worst {
    /// Nothing is wrong.
    #[default]
    Clean,
    /// The log ends in a torn tail, as after a crash.
    TornTail,
    /// Bytes fail their check where no crash explains it, or are missing.
    Damage,
    /// Bytes could not be read.
    IoError,
}

/// What was checked and what is wrong.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// The worst of the findings.
    pub worst: Worst,
    /// Everything that is wrong, in the order of the log.
    pub findings: Vec<Finding>,
    /// Segments read.
    pub segments: u64,
    /// Valid records read.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The whole scan.
    pub scan: LogScan,
}

/// Checks the log in `dir`. `blobs` is asked about each valid record: `Ok(None)` when all blobs it names are sound, else what is wrong.
///
/// # Errors
/// The directory cannot be listed, or a segment is of a version that this code must not read. Everything else is a finding.
pub fn verify(
    storage: &dyn Storage,
    dir: &Path,
    store: StoreId,
    bounds: Bounds,
    blobs: &mut dyn FnMut(&Record<'_>) -> io::Result<Option<String>>,
) -> Result<VerifyReport> {
    let mut of_blobs: Vec<Finding> = Vec::new();
    let scan = walk(storage, dir, store, bounds, &mut |record, segment| {
        let (verdict, what) = match blobs(record) {
            Ok(None) => return Ok(()),
            Ok(Some(what)) => (Verdict::Damage, what),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e).wal(|| "stopped".into()),
            Err(e) => (Verdict::IoError, e.to_string()),
        };
        of_blobs.push(Finding {
            file: segment_path(dir, segment.id),
            segment: segment.id,
            offset: record.offset,
            lsn: record.lsn,
            through: record.lsn,
            verdict,
            what,
            missing: false,
        });
        Ok(())
    })?;
    let bound = scan.bound;
    for finding in &mut of_blobs {
        // Above the bound a blob may simply not have reached the disk before a crash.
        if finding.verdict == Verdict::Damage && finding.lsn > bound {
            finding.verdict = Verdict::TornTail;
            finding.through = Lsn(u64::MAX);
        }
    }
    let mut findings: Vec<Finding> = scan.findings.iter().cloned().chain(of_blobs).collect();
    findings.sort_by_key(|f| (f.segment, f.offset));
    let worst = findings.iter().map(|f| f.verdict).max().map_or(Worst::Clean, |v| match v {
        Verdict::TornTail => Worst::TornTail,
        Verdict::Damage => Worst::Damage,
        Verdict::IoError => Worst::IoError,
    });
    Ok(VerifyReport {
        worst,
        findings,
        segments: scan.segments.len() as u64,
        records: scan.segments.iter().map(|s| s.records).sum(),
        bytes: scan.segments.iter().map(|s| s.bytes).sum(),
        scan,
    })
}
