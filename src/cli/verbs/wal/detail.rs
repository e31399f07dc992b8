//! What an operation says besides its path: for people, and as fields of its JSON object.

use serde_json::{Map, Value, json};

use crate::cli::output::{self, json_time, put_path};
use crate::ids::Time;
use crate::op::{AllocateMode, Data, Marker, Operation, RenameMode};
use crate::versions::node::FileKind;

const fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::CharDevice => "character-device",
        FileKind::BlockDevice => "block-device",
        FileKind::Socket => "socket",
    }
}

const fn allocate_word(mode: AllocateMode) -> &'static str {
    match mode {
        AllocateMode::Allocate => "allocate",
        AllocateMode::PunchHole => "punch-hole",
        AllocateMode::ZeroRange => "zero-range",
    }
}

fn mode(bits: u32) -> String {
    format!("{bits:04o}")
}

fn owner((uid, gid): (u32, u32)) -> String {
    format!("{uid}:{gid}")
}

fn bytes(n: u64) -> String {
    if n == 1 { "1 byte".to_owned() } else { format!("{n} bytes") }
}

/// For people: what follows the path. Empty where the path says all.
#[must_use]
pub fn text(op: &Operation) -> String {
    let cleared = |after: Option<u32>| after.map(|bits| format!(", mode {}", mode(bits))).unwrap_or_default();
    match op {
        Operation::Create(op) => format!("{} {}", mode(op.mode), owner((op.uid, op.gid))),
        Operation::Mkdir(op) => format!("{} {}", mode(op.mode), owner((op.uid, op.gid))),
        Operation::Mknod(op) => {
            let device =
                if op.rdev == 0 { String::new() } else { format!(" {}:{}", libc::major(op.rdev.into()), libc::minor(op.rdev.into())) };
            format!("{}{device} {} {}", kind_word(op.what), mode(op.mode), owner((op.uid, op.gid)))
        }
        Operation::Symlink(op) => format!("-> {} {}", output::name(&op.target), owner((op.uid, op.gid))),
        Operation::Link(op) => format!("to inode {}", op.ino),
        Operation::Rename(op) => match op.mode {
            RenameMode::Free => String::new(),
            RenameMode::Replace(other) => format!("replacing inode {other}"),
            RenameMode::Exchange(other) => format!("exchanged with inode {other}"),
        },
        Operation::Write(op) => {
            let blob = if matches!(op.data, Data::Blob { .. }) { " (blob)" } else { "" };
            format!("{} at {}{blob}{}", bytes(op.data.len()), op.offset, cleared(op.mode_after))
        }
        Operation::Truncate(op) => format!("{} -> {}{}", op.old_size, bytes(op.size), cleared(op.mode_after)),
        Operation::Fallocate(op) => format!("{} {} at {}", allocate_word(op.mode), bytes(op.len), op.offset),
        Operation::Clone(op) => {
            format!("{} from inode {} at {} to {}{}", bytes(op.len), op.from, op.from_offset, op.offset, cleared(op.mode_after))
        }
        Operation::Chmod(op) => format!("{} -> {}", mode(op.old), mode(op.new)),
        Operation::Chown(op) => format!("{} -> {}{}", owner(op.old), owner(op.new), cleared(op.mode_after)),
        Operation::Utimens(op) => {
            let change =
                |what: &str, old: Time, new: Option<Time>| new.map(|new| format!("{what} {} -> {}", output::time(old), output::time(new)));
            [change("atime", op.old.0, op.atime), change("mtime", op.old.1, op.mtime)].into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
        Operation::SetXattr(op) => format!("{} ({})", output::name(&op.name), bytes(op.value.len() as u64)),
        Operation::RemoveXattr(op) => output::name(&op.name),
        Operation::Mark(mark) => match &mark.marker {
            Marker::Commit { message } => format!("commit {}", message.as_deref().map(|m| output::name(m.as_bytes())).unwrap_or_default()),
            Marker::Restore { at, paths } => {
                let paths: Vec<String> = paths.iter().map(|p| if p.is_empty() { ".".to_owned() } else { output::name(p) }).collect();
                format!("restore of {} to {at}", paths.join(", "))
            }
            Marker::Unmount => "unmount".to_owned(),
        },
        Operation::Unlink(_) | Operation::Rmdir(_) | Operation::Forget(_) => String::new(),
    }
}

/// The fields of the JSON object that only this kind has.
pub fn json(op: &Operation, json: &mut Map<String, Value>) {
    let mut put = |key: &str, value: Value| drop(json.insert(key.to_owned(), value));
    let birth = |put: &mut dyn FnMut(&str, Value), bits: Option<u32>, uid: u32, gid: u32| {
        if let Some(bits) = bits {
            put("mode", mode(bits).into());
        }
        put("owner", owner((uid, gid)).into());
    };
    match op {
        Operation::Create(op) => birth(&mut put, Some(op.mode), op.uid, op.gid),
        Operation::Mkdir(op) => birth(&mut put, Some(op.mode), op.uid, op.gid),
        Operation::Mknod(op) => {
            birth(&mut put, Some(op.mode), op.uid, op.gid);
            put("what", kind_word(op.what).into());
            put("rdev", op.rdev.into());
        }
        Operation::Symlink(op) => {
            birth(&mut put, None, op.uid, op.gid);
            put_path(json, "target", &op.target);
        }
        Operation::Rename(op) => match op.mode {
            RenameMode::Free => {}
            RenameMode::Replace(other) => put("replaced", json!(other)),
            RenameMode::Exchange(other) => put("exchanged", json!(other)),
        },
        Operation::Write(op) => {
            put("offset_in_file", op.offset.into());
            put("size", op.data.len().into());
            put("size_after", op.size_after.into());
            put("mode_after", json!(op.mode_after.map(mode)));
            if let Data::Blob { id, .. } = op.data {
                put("blob", id.to_string().into());
            }
        }
        Operation::Truncate(op) => {
            put("old_size", op.old_size.into());
            put("size", op.size.into());
            put("mode_after", json!(op.mode_after.map(mode)));
        }
        Operation::Fallocate(op) => {
            put("what", allocate_word(op.mode).into());
            put("offset_in_file", op.offset.into());
            put("size", op.len.into());
            put("size_after", op.size_after.into());
        }
        Operation::Clone(op) => {
            put("from_ino", json!(op.from));
            put("from_offset", op.from_offset.into());
            put("offset_in_file", op.offset.into());
            put("size", op.len.into());
            put("size_after", op.size_after.into());
            put("mode_after", json!(op.mode_after.map(mode)));
        }
        Operation::Chmod(op) => {
            put("old_mode", mode(op.old).into());
            put("mode", mode(op.new).into());
        }
        Operation::Chown(op) => {
            put("old_owner", owner(op.old).into());
            put("owner", owner(op.new).into());
            put("mode_after", json!(op.mode_after.map(mode)));
        }
        Operation::Utimens(op) => {
            put("old_atime", json_time(op.old.0).into());
            put("old_mtime", json_time(op.old.1).into());
            put("atime", json!(op.atime.map(json_time)));
            put("mtime", json!(op.mtime.map(json_time)));
        }
        Operation::SetXattr(op) => {
            put("size", op.value.len().into());
            put_path(json, "xattr", &op.name);
        }
        Operation::RemoveXattr(op) => put_path(json, "xattr", &op.name),
        Operation::Mark(mark) => match &mark.marker {
            Marker::Commit { message } => {
                put("marker", "commit".into());
                put("message", json!(message));
            }
            Marker::Restore { at, paths } => {
                put("marker", "restore".into());
                put("restored", json!(at));
                let paths = paths.iter().map(|path| {
                    let mut object = Map::new();
                    put_path(&mut object, "path", path);
                    Value::Object(object)
                });
                put("paths", paths.collect());
            }
            Marker::Unmount => put("marker", "unmount".into()),
        },
        Operation::Link(_) | Operation::Unlink(_) | Operation::Rmdir(_) | Operation::Forget(_) => {}
    }
}
