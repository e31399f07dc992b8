//! The numbers that name things. Each has its own type, so that none can be taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A map by inode number. The numbers are ours and come in a row, so nobody can choose them to collide: the hash may be a plain one.
pub type InoMap<V> = std::collections::HashMap<Ino, V, rustc_hash::FxBuildHasher>;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
    };
}

number! {
    /// Log sequence number: the position of a record in the log. Starts at 1 (0 means "before every record"), grows by one a record
    /// inside an epoch, may jump forward between epochs, is never reused. Written `@1a2f` (hexadecimal).
    Lsn
}
number! {
    /// Number of a log segment; names its file. Grows by one, starts at 1, never reused.
    SegmentId
}
number! {
    /// Inode number inside a project. 1 is the root directory; never reused.
    Ino
}
number! {
    /// Number of a pack file of the blob store. Grows by one, starts at 1, never reused.
    PackId
}
number! {
    /// Sequence number of a version. The first version is 1; 0 is the empty state before it. No gaps.
    VersionSeq
}

impl Lsn {
    /// Before every record.
    pub const ZERO: Lsn = Lsn(0);
}

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(1);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{:x}", self.0)
    }
}

impl FromStr for Lsn {
    type Err = std::num::ParseIntError;

    /// Reads `@1a2f` (the `@` may be left out).
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(s.strip_prefix('@').unwrap_or(s), 16).map(Lsn)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for VersionSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// BLAKE3 hash of a blob's bytes, before compression: its address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlobId(pub [u8; 32]);

impl BlobId {
    /// The address of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // At once: a manifest of a large file has very many of them.
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

impl FromStr for BlobId {
    type Err = blake3::HexError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(s).map(|h| Self(*h.as_bytes()))
    }
}

/// Names one store for ever: 16 random bytes (UUID v4), part of every checksum, so that no file of another store passes for one of ours.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub [u8; 16]);

impl StoreId {
    /// A fresh random id.
    #[must_use]
    pub fn random() -> Self {
        Self(*uuid::Uuid::new_v4().as_bytes())
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

impl FromStr for StoreId {
    type Err = uuid::Error;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        uuid::Uuid::from_str(s).map(|u| Self(*u.as_bytes()))
    }
}

/// A point in time: seconds since 1970-01-01T00:00:00Z and nanoseconds (0..1,000,000,000) after them. Wider than an `i64` of
/// nanoseconds, because utimensat(2) is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since the epoch, negative before it.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

impl Time {
    /// The wall clock now.
    #[must_use]
    pub fn now() -> Self {
        std::time::SystemTime::now().into()
    }

    /// Nanoseconds since the epoch, saturating at the ends of `i64` (years 1677 and 2262).
    #[must_use]
    pub fn as_nanos(self) -> i64 {
        self.secs.saturating_mul(1_000_000_000).saturating_add(i64::from(self.nanos))
    }

    /// The time `nanos` nanoseconds after the epoch.
    #[must_use]
    pub fn from_nanos(nanos: i64) -> Self {
        Self { secs: nanos.div_euclid(1_000_000_000), nanos: nanos.rem_euclid(1_000_000_000) as u32 }
    }
}

impl From<std::time::SystemTime> for Time {
    fn from(t: std::time::SystemTime) -> Self {
        match t.duration_since(std::time::UNIX_EPOCH) {
            Ok(d) => Self { secs: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), nanos: d.subsec_nanos() },
            Err(e) => {
                let d = e.duration();
                let secs = -i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
                if d.subsec_nanos() == 0 {
                    Self { secs, nanos: 0 }
                } else {
                    Self { secs: secs - 1, nanos: 1_000_000_000 - d.subsec_nanos() }
                }
            }
        }
    }
}

impl From<Time> for std::time::SystemTime {
    fn from(t: Time) -> Self {
        use std::time::Duration;
        let base = std::time::UNIX_EPOCH;
        let whole = Duration::from_secs(t.secs.unsigned_abs());
        let at = if t.secs >= 0 { base.checked_add(whole) } else { base.checked_sub(whole) };
        at.and_then(|s| s.checked_add(Duration::from_nanos(u64::from(t.nanos)))).unwrap_or(base)
    }
}
