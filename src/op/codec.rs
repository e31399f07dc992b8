//! Operations to record bodies and back. Decoding takes any bytes and never panics: postcard bounds every length by the bytes at hand.

use super::process::{PROCESS_VERSION, ProcessRecord, ProcessRecordV1};
use super::{Data, Entry, KIND_NAMES, Operation, Stamp};

pub use crate::wal::format::KIND_MARK;

/// Record kind of a process record.
pub const KIND_PROCESS: u16 = 0x0002;
/// Kinds from here on may be skipped by a reader that does not know them; an unknown kind below must be refused.
pub const KIND_OPTIONAL: u16 = 0x8000;

/// Version of the body of every operation so far.
const BODY_VERSION: u8 = 1;

/// Why a body cannot be read. The record's checksum was right, so this is a newer format or a bug, never a torn write.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// A kind that this version of ize does not know and must not skip.
    #[error("record kind {0:#06x} is not known to this version of ize")]
    UnknownKind(u16),
    /// A known kind in a body version that is not known.
    #[error("body version {1} of record kind {0:#06x} is not known to this version of ize")]
    UnknownVersion(u16, u8),
    /// The body does not follow its kind's table.
    #[error("the body of record kind {0:#06x} is malformed: {1}")]
    Malformed(u16, String),
}

/// What a body says.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// An operation; `payload` holds the bytes of an inline write, else nothing.
    Operation {
        /// The operation.
        entry: Entry,
        /// Bytes of an inline write.
        payload: &'a [u8],
    },
    /// A process record.
    Process(super::ProcessRecord),
    /// The log's own mark.
    Mark,
    /// A kind that may be skipped.
    Skipped,
}

/// Encodes an operation: (kind, body version, body without the payload). The caller puts an inline payload behind the body.
///
/// # Errors
/// Only when out of memory, which postcard reports as an error.
pub fn encode(entry: &Entry) -> Result<(u16, u8, Vec<u8>), DecodeError> {
    let kind = entry.op.kind();
    let bad = |e: postcard::Error| DecodeError::Malformed(kind, e.to_string());
    let body = postcard::to_extend(&entry.stamp, Vec::with_capacity(96)).map_err(bad)?;
    let body = entry.op.to_postcard(body).map_err(bad)?;
    Ok((kind, BODY_VERSION, body))
}

/// Decodes a record's body.
///
/// # Errors
/// [`DecodeError`]: an unknown kind that may not be skipped, an unknown version, a malformed body, trailing bytes.
pub fn decode(kind: u16, version: u8, body: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    if kind == KIND_MARK {
        return if body.is_empty() { Ok(Decoded::Mark) } else { Err(malformed(kind, "a mark has no body")) };
    }
    if kind >= KIND_OPTIONAL {
        return Ok(Decoded::Skipped);
    }
    if kind != KIND_PROCESS && kind_name(kind).is_none() {
        return Err(DecodeError::UnknownKind(kind));
    }
    if kind == KIND_PROCESS {
        return decode_process(version, body).map(Decoded::Process);
    }
    if version != BODY_VERSION {
        return Err(DecodeError::UnknownVersion(kind, version));
    }
    let (stamp, rest): (Stamp, _) = postcard::take_from_bytes(body).map_err(|e| malformed(kind, &e.to_string()))?;
    if stamp.time.nanos >= 1_000_000_000 {
        return Err(malformed(kind, "nanoseconds out of range"));
    }
    let (op, payload) =
        Operation::from_postcard(kind, rest).ok_or(DecodeError::UnknownKind(kind))?.map_err(|e| malformed(kind, &e.to_string()))?;
    let inline = match &op {
        Operation::Write(write) => match write.data {
            Data::Inline(len) => len as usize,
            Data::Blob { .. } => 0,
        },
        _ => 0,
    };
    if payload.len() != inline {
        return Err(malformed(kind, "the payload's length is not the one stated, or there are trailing bytes"));
    }
    Ok(Decoded::Operation { entry: Entry { stamp, op }, payload })
}

fn decode_process(version: u8, body: &[u8]) -> Result<ProcessRecord, DecodeError> {
    let bad = |e: postcard::Error| malformed(KIND_PROCESS, &e.to_string());
    let (record, rest) = match version {
        1 => postcard::take_from_bytes::<ProcessRecordV1>(body).map(|(old, rest)| (old.into(), rest)).map_err(bad)?,
        PROCESS_VERSION => postcard::take_from_bytes(body).map_err(bad)?,
        _ => return Err(DecodeError::UnknownVersion(KIND_PROCESS, version)),
    };
    if rest.is_empty() { Ok(record) } else { Err(malformed(KIND_PROCESS, "trailing bytes")) }
}

fn malformed(kind: u16, why: &str) -> DecodeError {
    DecodeError::Malformed(kind, why.to_owned())
}

/// Name of a record kind, lower case; `None` for one that is not known.
#[must_use]
pub fn kind_name(kind: u16) -> Option<&'static str> {
    Some(match KIND_NAMES.iter().find(|(code, _)| *code == kind)?.1 {
        "Create" => "create",
        "Mkdir" => "mkdir",
        "Mknod" => "mknod",
        "Symlink" => "symlink",
        "Link" => "link",
        "Unlink" => "unlink",
        "Rmdir" => "rmdir",
        "Rename" => "rename",
        "Write" => "write",
        "Truncate" => "truncate",
        "Fallocate" => "fallocate",
        "Clone" => "clone",
        "Chmod" => "chmod",
        "Chown" => "chown",
        "Utimens" => "utimens",
        "SetXattr" => "setxattr",
        "RemoveXattr" => "removexattr",
        "Forget" => "forget",
        "Mark" => "marker",
        _ => return None,
    })
}
