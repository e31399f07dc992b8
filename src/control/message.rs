//! What goes over the control socket. Adding a request or a field with a default is compatible; anything else is a new [`PROTOCOL`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error};
use crate::ids::{Lsn, SegmentId, Time, VersionSeq};
use crate::project::base64;

pub use super::pijul::{PijulRebuild, PijulReport, RebuildReport, RebuildRequest};
pub use super::status::{
    Cache, Health, Horizon, LastPrune, LastThinning, Load, Queue, RequestLatency, StatusReport, StoredReport, UNCOMMITTED_MAX, Uncommitted,
};
use crate::versions::thinning::Grain;

/// Version of the protocol. Both sides must say the same.
pub const PROTOCOL: u32 = 1;

/// First line of each side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the protocol.
    pub protocol: u32,
    /// Version of the program, for people.
    pub version: String,
}

impl Hello {
    /// Ours.
    #[must_use]
    pub fn ours() -> Self {
        Self { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").into() }
    }
}

/// What a command asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    /// How it stands: answers a [`StatusReport`].
    Status,
    /// Make everything answered so far durable: answers `{"durable": LSN}` when it is.
    Sync,
    /// End the version that is being gathered and commit it: answers a [`CommitReport`].
    Commit(CommitRequest),
    /// Make everything durable and unmount; answers when that is done.
    Unmount(UnmountRequest),
    /// Bring paths back: answers one [`RestoreReport`].
    Restore(RestoreRequest),
    /// Drop old segments: answers a [`PruneReport`].
    Prune(PruneRequest),
    /// Drop versions: answers a [`ThinReport`].
    Thin(ThinRequest),
    /// How the Pijul repository stands: answers a [`PijulReport`].
    Pijul,
    /// Make the Pijul repository anew: answers a [`RebuildReport`] when it is.
    PijulRebuild(RebuildRequest),
}

/// Payload of [`Request::Commit`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRequest {
    /// What the person says about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// A process: where its work becomes a version of its own beside that of others, that one gets the message [the last one].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// What is pending becomes a version before, without the message.
    #[serde(default)]
    pub alone: bool,
    /// Do not wait for Pijul.
    #[serde(default)]
    pub lag: bool,
}

/// Payload of [`Request::Unmount`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnmountRequest {
    /// Take the name away although something is open.
    #[serde(default)]
    pub lazy: bool,
}

/// A moment of a project's history, as a person names it (`cli::when` reads it); the engine finds the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// The state after the operation with this number, or after the last one below it. 0 is the empty project.
    Lsn(Lsn),
    /// The newest state (0), or that of so many versions before it.
    Now {
        /// How many versions back.
        back: u32,
    },
    /// The state after the change whose id starts like this; see [`When::id_matches`].
    Id(String),
    /// The state after the last operation at or before this time.
    Time(Time),
}

impl When {
    /// True when `prefix` (from [`When::Id`]) names the version with this id (16 hexadecimal digits) or this Pijul hash (base32).
    /// Hexadecimal is lower case and base32 upper case, so that only a prefix of digits can mean both.
    #[must_use]
    pub fn id_matches(prefix: &str, id: u64, pijul: Option<&str>) -> bool {
        !prefix.is_empty() && (format!("{id:016x}").starts_with(prefix) || pijul.is_some_and(|hash| hash.starts_with(prefix)))
    }
}

/// Payload of [`Request::Restore`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// Paths from the project's root; the empty path is the root itself.
    pub paths: Vec<PathBytes>,
    /// The moment to bring back.
    pub at: When,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Digest of the preview that was looked at: if something else would be done now, nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
}

/// Payload of [`Request::Prune`]. What is `None` is taken from the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRequest {
    /// Drop segments older than this.
    #[serde(default)]
    pub max_age: Option<Duration>,
    /// Leave at most this many bytes of log and payload that only the log names.
    #[serde(default)]
    pub max_size: Option<u64>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Payload of [`Request::Thin`]. What is `None` is taken from the settings; with an age, versions are thinned by age whatever the size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThinRequest {
    /// Age up to which all versions stay.
    #[serde(default)]
    pub keep_all: Option<Duration>,
    /// Age up to which one an hour stays.
    #[serde(default)]
    pub keep_hourly: Option<Duration>,
    /// Age up to which one a day stays; beyond it one a week.
    #[serde(default)]
    pub keep_daily: Option<Duration>,
    /// Bytes that the project's directory may take.
    #[serde(default)]
    pub max_store: Option<u64>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer to [`Request::Thin`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThinReport {
    /// Versions that went (with `dry_run`: would go), [`THINNED_MAX`] at most.
    pub versions: Vec<ThinnedVersion>,
    /// How many they are.
    pub dropped: u64,
    /// Versions that are left.
    pub left: u64,
    /// Segments that went.
    pub segments: u64,
    /// Versions out of which paths without history were taken.
    pub filtered: u64,
    /// How densely versions stay beyond what the ages say, if that was needed.
    pub grain: Option<Grain>,
    /// Bytes of the project's directory before.
    pub bytes_before: u64,
    /// And after (with `dry_run`: about).
    pub bytes_after: u64,
    /// What it may take.
    pub max_store: Option<u64>,
    /// It takes more, and nothing more can go.
    pub stuck: bool,
    /// True when nothing was changed.
    pub dry_run: bool,
}

/// Most versions in [`ThinReport::versions`].
pub const THINNED_MAX: usize = 100_000;

/// A version that went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThinnedVersion {
    /// Its number.
    pub seq: VersionSeq,
    /// Its id, 16 hexadecimal digits.
    pub id: String,
    /// When it ended.
    pub time: Time,
}

/// Answer to [`Request::Commit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitReport {
    /// Versions that this commit made, oldest first; empty when there was nothing to commit.
    pub versions: Vec<CommittedVersion>,
}

/// One version of a [`CommitReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedVersion {
    /// Its number.
    pub seq: VersionSeq,
    /// Its id, 16 hexadecimal digits.
    pub id: String,
    /// First operation in it.
    pub first: Lsn,
    /// Last operation in it.
    pub last: Lsn,
    /// Its message.
    pub message: String,
}

/// Answer to [`Request::Restore`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The moment, as the record after which the state was this.
    #[serde(default)]
    pub at: Lsn,
    /// What was done, or with `dry_run` would be, in order.
    pub actions: Vec<RestoreAction>,
    /// Names these actions.
    #[serde(default)]
    pub digest: String,
    /// Paths that exist now and not then, and stay: versions do not keep them.
    #[serde(default)]
    pub left: Vec<PathBytes>,
}

/// One step of a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreAction {
    /// `create`, `replace`, `write`, `attributes`, `remove`.
    pub what: String,
    /// On which path, from the project's root.
    pub path: PathBytes,
}

/// A segment in a [`PruneReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentReport {
    /// Its number.
    pub id: SegmentId,
    /// First LSN in it.
    pub first_lsn: Lsn,
    /// Last LSN in it.
    pub last_lsn: Lsn,
    /// Bytes of its file.
    pub bytes: u64,
    /// Bytes of blobs that only it names; 0 where no size limits.
    pub payload: u64,
    /// Seconds since its last record was appended, if known.
    pub age_secs: Option<u64>,
    /// True when it went (with `dry_run`: would go).
    pub dropped: bool,
    /// Why it stays; empty when it goes.
    pub why: String,
}

/// Answer to [`Request::Prune`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReport {
    /// Every segment that there was, oldest first.
    #[serde(default)]
    pub segments: Vec<SegmentReport>,
    /// Nothing is in a version yet, so nothing may go.
    #[serde(default)]
    pub no_checkpoint: bool,
    /// True when nothing was changed.
    #[serde(default)]
    pub dry_run: bool,
    /// Segments dropped (with `dry_run`: that would be).
    pub dropped_segments: u64,
    /// Bytes of log that they took.
    pub wal_bytes: u64,
    /// Bytes of payload freed.
    pub blob_bytes: u64,
    /// Bytes of log and payload left.
    pub left_bytes: u64,
    /// Segments left.
    #[serde(default)]
    pub left_segments: u64,
    /// Why what is left is left.
    pub kept_because: Option<String>,
    /// When.
    #[serde(default)]
    pub at: Time,
}

/// A path as bytes: text where it is UTF-8, else `{"b64": ...}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathBytes(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathRepr {
    Text(String),
    Bytes { b64: String },
}

impl Serialize for PathBytes {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => PathRepr::Text(text.to_owned()),
            Err(_) => PathRepr::Bytes { b64: base64::encode(&self.0) },
        }
        .serialize(s)
    }
}

impl<'de> Deserialize<'de> for PathBytes {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match PathRepr::deserialize(d)? {
            PathRepr::Text(text) => Ok(Self(text.into_bytes())),
            PathRepr::Bytes { b64 } => base64::decode(&b64).map(Self).ok_or_else(|| serde::de::Error::custom("a path is not base64")),
        }
    }
}

impl From<&std::path::Path> for PathBytes {
    fn from(path: &std::path::Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl PathBytes {
    /// As a path.
    #[must_use]
    pub fn as_path(&self) -> &std::path::Path {
        use std::os::unix::ffi::OsStrExt;
        std::path::Path::new(std::ffi::OsStr::from_bytes(&self.0))
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done; the value is what the request says.
    Ok(serde_json::Value),
    /// Not done.
    Err(Failure),
}

/// An [`Error`] on its way to the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Class, as its name (an unknown one is read as failed).
    pub class: String,
    /// What failed, on which object, why.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Response {
    /// Done, with `value`.
    #[must_use]
    pub fn ok(value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => Self::Ok(value),
            Err(e) => Self::from(Error::new(Class::Failed, format!("the answer cannot be written: {e}"))),
        }
    }

    /// The answer as a result.
    ///
    /// # Errors
    /// The error of the other side.
    pub fn into_result(self) -> crate::error::Result<serde_json::Value> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Err(f) => Err(Error { hint: f.hint, ..Error::new(class_named(&f.class), f.message) }),
        }
    }
}

impl From<Error> for Response {
    fn from(e: Error) -> Self {
        Self::Err(Failure { class: class_name(e.class).into(), message: e.message, hint: e.hint })
    }
}

impl<T: Serialize> From<crate::error::Result<T>> for Response {
    fn from(r: crate::error::Result<T>) -> Self {
        match r {
            Ok(value) => Self::ok(value),
            Err(e) => e.into(),
        }
    }
}

pub(crate) const CLASSES: [Class; 10] = [
    Class::Failed,
    Class::Usage,
    Class::NotFound,
    Class::TornTail,
    Class::Damage,
    Class::Io,
    Class::Busy,
    Class::Full,
    Class::Refused,
    Class::DaemonGone,
];

/// Name of a class in JSON: `not-found`, `torn-tail`, ... .
#[must_use]
pub const fn class_name(class: Class) -> &'static str {
    match class {
        Class::Failed => "failed",
        Class::Usage => "usage",
        Class::NotFound => "not-found",
        Class::TornTail => "torn-tail",
        Class::Damage => "damage",
        Class::Io => "io",
        Class::Busy => "busy",
        Class::Full => "full",
        Class::Refused => "refused",
        Class::DaemonGone => "daemon-gone",
    }
}

pub(crate) fn class_named(name: &str) -> Class {
    CLASSES.into_iter().find(|c| class_name(*c) == name).unwrap_or(Class::Failed)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn every_class_survives_the_way_and_is_named_as_serde_names_it() {
        for class in CLASSES {
            assert_eq!(serde_json::to_value(class).unwrap(), class_name(class));
            let line = serde_json::to_string(&Response::from(Error::new(class, "m").hint("h"))).unwrap();
            let e = serde_json::from_str::<Response>(&line).unwrap().into_result().unwrap_err();
            assert_eq!((e.class, &*e.message, e.hint.as_deref()), (class, "m", Some("h")));
        }
    }

    #[test]
    fn a_path_that_is_not_utf8_survives_the_way() {
        for bytes in [&b"a/b"[..], b"", b"\xff/\n", "\u{e9}".as_bytes()] {
            let line = serde_json::to_string(&PathBytes(bytes.to_vec())).unwrap();
            assert_eq!(serde_json::from_str::<PathBytes>(&line).unwrap().0, bytes);
        }
    }
}
