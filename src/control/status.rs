//! How a project stands, as the daemon tells it.

use serde::{Deserialize, Serialize};

use super::message::PathBytes;
use super::pijul::PijulReport;
use crate::engine::core::Recovery;
use crate::engine::store_size::StoreSize;
use crate::ids::{Lsn, Time, VersionSeq};
use crate::versions::thinning::Grain;

/// A thinning that the configuration or somebody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastThinning {
    /// When.
    pub at: Time,
    /// Versions that went.
    pub versions: u64,
    /// Versions that were left.
    pub left: u64,
    /// Segments that went.
    pub segments: u64,
    /// Bytes that this freed.
    pub bytes: u64,
    /// How densely versions stay beyond what the ages say, if that was needed.
    pub grain: Option<Grain>,
    /// The store takes more than it may, and nothing more could go.
    pub stuck: bool,
}

/// How a project stands. Checkpoint <= durable <= appended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Name of the project.
    pub project: String,
    /// Its directory.
    pub dir: PathBytes,
    /// Where it is mounted, if it is.
    pub mountpoint: Option<PathBytes>,
    /// Process of the daemon, if there is one.
    pub pid: Option<u32>,
    /// Mounted read only.
    pub read_only: bool,
    /// Why writes answer EIO, if they do (a sync failed).
    pub poisoned: Option<String>,
    /// Writes that wait, for room on a full disk or because they are held back.
    #[serde(default)]
    pub held_writes: u64,
    /// Writes are held back because the store is near `retention.max-store`.
    #[serde(default)]
    pub holding_back: bool,
    /// Last record appended.
    pub appended: Lsn,
    /// Last record known to survive a power cut.
    pub durable: Lsn,
    /// Last record that the committed state covers.
    pub checkpoint: Lsn,
    /// Operations after the checkpoint.
    pub pending: u64,
    /// Versions so far.
    pub versions: VersionSeq,
    /// Versions that Pijul has; `None` without Pijul.
    pub pijul: Option<VersionSeq>,
    /// More about Pijul; `None` without it, or when nobody has the project open.
    #[serde(default)]
    pub pijul_state: Option<PijulReport>,
    /// What went wrong last in the background (replay, Pijul), if it still does.
    #[serde(default)]
    pub last_error: Option<String>,
    /// Segments on disk.
    pub segments: u64,
    /// Bytes of the log.
    pub wal_bytes: u64,
    /// Bytes of the packs.
    pub blob_bytes: u64,
    /// First moment to which every single operation can be gone back to; `None` when no operation is kept.
    pub operations_since: Option<Horizon>,
    /// First version; `None` when there is none.
    pub versions_since: Option<Horizon>,
    /// The older of the two: the oldest state that can be read and restored.
    #[serde(default)]
    pub restorable_since: Option<Horizon>,
    /// What waits to become versions; `None` when nobody has the project open.
    #[serde(default)]
    pub queue: Option<Queue>,
    /// Paths with operations that no version holds yet, those with most operations first, [`UNCOMMITTED_MAX`] at most.
    #[serde(default)]
    pub uncommitted: Vec<Uncommitted>,
    /// Paths beyond those.
    #[serde(default)]
    pub uncommitted_more: u64,
    /// The tree in memory; `None` when nobody has the project open.
    #[serde(default)]
    pub cache: Option<Cache>,
    /// The last prune that the daemon did on its own and that dropped something, since the project was opened.
    #[serde(default)]
    pub last_prune: Option<LastPrune>,
    /// What the project's directory takes, by part.
    #[serde(default)]
    pub size: Option<StoreSize>,
    /// What it may take, in bytes; `None` is no limit.
    #[serde(default)]
    pub max_store: Option<u64>,
    /// Versions that were thinned out since the project began.
    #[serde(default)]
    pub thinned: u64,
    /// The last thinning.
    #[serde(default)]
    pub last_thinning: Option<LastThinning>,
    /// How long the kernel's requests took since the project was mounted, by what they want.
    #[serde(default)]
    pub latency: Vec<RequestLatency>,
    /// Records in the log.
    #[serde(default)]
    pub wal_records: u64,
    /// Bytes of blobs that the log names.
    #[serde(default)]
    pub wal_payload: u64,
    /// Pack files.
    #[serde(default)]
    pub packs: u64,
    /// Blobs in them.
    #[serde(default)]
    pub blobs: u64,
    /// What was stored since it was opened; `None` when nobody has the project open.
    #[serde(default)]
    pub stored: Option<StoredReport>,
    /// Bytes of log that are not synced yet.
    #[serde(default)]
    pub unsynced_bytes: u64,
    /// What the last recovery did, if there was one.
    #[serde(default)]
    pub recovery: Option<Recovery>,
}

/// Most paths in [`StatusReport::uncommitted`].
pub const UNCOMMITTED_MAX: usize = 1000;

/// So many operations, and the bytes that they write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Operations that change something.
    pub operations: u64,
    /// Bytes that writes among them wrote.
    pub bytes: u64,
}

/// The log above the checkpoint as a queue of operations that become versions. Rates are those of the last 60 s, or since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Appended to the log since the project began.
    pub appended: Load,
    /// Of these, in the committed state.
    pub committed: Load,
    /// The difference.
    pub pending: Load,
    /// Most that were pending since it was opened.
    pub peak: Load,
    /// Operations appended a second.
    pub appended_per_second: f64,
    /// Bytes written a second, in 10^6.
    pub appended_mb_per_second: f64,
    /// Operations committed a second.
    pub committed_per_second: f64,
    /// Their bytes a second, in 10^6.
    pub committed_mb_per_second: f64,
    /// Operations in a version, on average since it was opened; `None` before the first.
    pub mean_batch: Option<f64>,
    /// Share of the time that replay was at work, 0 to 1.
    pub utilization: f64,
    /// Seconds since the queue last got shorter, or began; 0 when it is empty.
    pub waiting_secs: f64,
    /// Seconds for which the oldest of what is pending waits, to a tenth or so; 0 when nothing is.
    #[serde(default)]
    pub lag_secs: f64,
    /// So many times as large as they are set to be versions may become for now, because much is pending.
    #[serde(default)]
    pub batch_scale: u32,
    /// What to think of it.
    pub health: Health,
    /// Why, unless it is ok.
    pub why: Option<String>,
}

/// What was stored to be kept since the project was opened, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredReport {
    /// Content and trees, as they came.
    pub offered: u64,
    /// Of these, what the store did not have yet.
    pub new: u64,
    /// What that takes in the packs.
    pub stored: u64,
    /// `offered / new`; `None` before anything is new.
    pub dedup_ratio: Option<f64>,
    /// `new / stored`; `None` before anything is stored.
    pub compression_ratio: Option<f64>,
}

impl StoredReport {
    /// With the ratios.
    #[must_use]
    pub fn new(offered: u64, new: u64, stored: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let ratio = |a: u64, b: u64| (b > 0).then(|| a as f64 / b as f64);
        Self { offered, new, stored, dedup_ratio: ratio(offered, new), compression_ratio: ratio(new, stored) }
    }
}

/// Whether replay keeps up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It does.
    #[default]
    Ok,
    /// It is late, or Pijul is.
    Lagging,
    /// It does not get on, or writes are refused.
    Stuck,
}

impl Health {
    /// As JSON writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Lagging => "lagging",
            Self::Stuck => "stuck",
        }
    }
}

/// A path that is not committed as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uncommitted {
    /// From the project's root; empty is the root itself.
    pub path: PathBytes,
    /// Operations on it above the checkpoint.
    pub operations: u64,
}

/// The tree in memory, which is a cache of the committed state plus what is newer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// Inodes and directories asked for since it was opened.
    pub lookups: u64,
    /// Of these, in memory already.
    pub hits: u64,
    /// `hits / lookups`; `None` before the first.
    pub hit_ratio: Option<f64>,
    /// Inodes let go.
    pub evictions: u64,
    /// Times that the kernel was told to forget something.
    pub invalidations: u64,
    /// Inodes in memory.
    pub resident_inodes: u64,
    /// Memory that they take, estimated, in bytes.
    pub resident_bytes: u64,
    /// Inodes beyond which those are let go that need not stay.
    pub limit_inodes: u64,
    /// Memory that so many take, estimated, in bytes.
    pub limit_bytes: u64,
}

/// A prune that the configuration asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPrune {
    /// When.
    pub at: Time,
    /// Segments that went.
    pub segments: u64,
    /// Bytes of their files.
    pub wal_bytes: u64,
    /// Bytes of packs that went.
    pub blob_bytes: u64,
}

/// How long requests of one kind take in the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestLatency {
    /// `stat` (attributes, names), `read`, `readdir` or `change`.
    pub kind: String,
    /// How many there were.
    pub count: u64,
    /// Half took no longer, in microseconds.
    pub median_us: f64,
    /// 99 in 100 took no longer, in microseconds.
    pub p99_us: f64,
    /// The longest, in microseconds.
    pub max_us: f64,
}

/// How far back something reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Horizon {
    /// Where in the log.
    pub lsn: Lsn,
    /// When.
    pub time: Time,
}
