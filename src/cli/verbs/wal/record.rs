//! One record as it is shown: a line for people, an object for programs, its bytes.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::detail;
use super::filter::WhoRef;
use crate::cli::output::times::Clock;
use crate::cli::output::{self, Out, Role, fit, put_path};
use crate::engine::names::Names;
use crate::error::{Error, Result};
use crate::ids::{Ino, Time};
use crate::op::{Data, DecodeError, Decoded, Entry, Marker, Operation, ProcessKey, RenameMode, decode};
use crate::wal::format::framed_len;
use crate::wal::{Record, Segment};

/// Bytes of a record that `--hex` shows in a line.
const HEX_LINE: usize = 16;
/// Below so many columns, times are shown without year and milliseconds; below the second, without the day.
const NARROW: [usize; 2] = [100, 80];
/// Columns that a path keeps at least, however narrow the terminal.
const LEAST_PATH: usize = 16;
/// Who it is when the kernel does not say: write-back, or a process of another pid namespace.
pub const UNKNOWN: &str = "unknown";

/// A record that was read, what it says, and what is known of names at that moment.
pub struct Seen<'a, 'n> {
    /// The record.
    pub record: &'a Record<'a>,
    /// Its segment.
    pub segment: &'a Arc<Segment>,
    what: Result<Decoded<'a>, DecodeError>,
    names: &'n mut Names,
    paths: Option<Paths>,
}

#[derive(Default)]
struct Paths {
    at: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
    others: Vec<Vec<u8>>,
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct By {
    /// Process id; 0 is unknown.
    pub pid: u32,
    /// Short name, where a record told it.
    pub comm: Vec<u8>,
}

impl By {
    /// For people: `vim[1234]`, `[1234]`, `unknown`.
    #[must_use]
    pub fn text(&self) -> String {
        if self.pid == 0 { UNKNOWN.to_owned() } else { format!("{}[{}]", output::name(&self.comm), self.pid) }
    }

    /// As fields of a JSON object.
    pub fn put(&self, json: &mut Map<String, Value>) {
        json.insert("pid".into(), self.pid.into());
        if self.pid == 0 {
            json.insert("process".into(), UNKNOWN.into());
        } else {
            put_path(json, "process", &self.comm);
        }
    }
}

impl<'a, 'n> Seen<'a, 'n> {
    /// Reads what the record says.
    #[must_use]
    pub fn new(record: &'a Record<'a>, segment: &'a Arc<Segment>, names: &'n mut Names) -> Self {
        let what = decode(record.kind, record.version, record.body);
        Self { record, segment, what, names, paths: None }
    }

    /// Takes over what it tells of names.
    pub fn learn(self) {
        match self.what {
            Ok(Decoded::Operation { entry, .. }) => self.names.learn(&entry.op),
            Ok(Decoded::Process(process)) => self.names.learn_process(process),
            Ok(Decoded::Mark | Decoded::Skipped) | Err(_) => {}
        }
    }

    fn entry(&self) -> Option<&Entry> {
        match &self.what {
            Ok(Decoded::Operation { entry, .. }) => Some(entry),
            _ => None,
        }
    }

    /// When it was, on the clock that never goes back; only operations have a time.
    #[must_use]
    pub fn time(&self) -> Option<Time> {
        self.entry().map(|entry| entry.stamp.clamped())
    }

    fn key(&self) -> Option<ProcessKey> {
        match &self.what {
            Ok(Decoded::Operation { entry, .. }) => Some(entry.stamp.process),
            Ok(Decoded::Process(process)) => Some(process.key),
            _ => None,
        }
    }

    /// Who did it; only operations are anybody's.
    #[must_use]
    pub fn by(&self) -> Option<By> {
        let key = self.entry()?.stamp.process;
        Some(By { pid: key.pid, comm: self.names.comm(&key).unwrap_or_default().to_vec() })
    }

    /// Whether it is that process's; so is the record that tells of the process.
    #[must_use]
    pub fn is_by(&self, who: WhoRef<'_>) -> bool {
        let Some(key) = self.key() else { return false };
        match who {
            WhoRef::Pid(pid) => key.pid == pid,
            WhoRef::Unknown => key.pid == 0,
            WhoRef::Comm(comm) => match &self.what {
                Ok(Decoded::Process(process)) => process.comm == comm,
                _ => key.pid != 0 && self.names.comm(&key) == Some(comm),
            },
        }
    }

    /// The inodes that it is about.
    #[must_use]
    pub fn inodes(&self) -> [Option<Ino>; 2] {
        let Some(entry) = self.entry() else { return [None, None] };
        let other = match &entry.op {
            Operation::Rename(op) => match op.mode {
                RenameMode::Replace(other) | RenameMode::Exchange(other) => Some(other),
                RenameMode::Free => None,
            },
            Operation::Clone(op) => Some(op.from),
            _ => None,
        };
        [entry.op.ino(), other]
    }

    /// The paths that it is about, with every name of its inode.
    pub fn paths(&mut self) -> impl Iterator<Item = Option<&[u8]>> {
        let paths = self.find_paths();
        [paths.at.as_deref(), paths.to.as_deref()].into_iter().chain(paths.others.iter().map(|p| Some(&p[..])))
    }

    fn find_paths(&mut self) -> &Paths {
        let Self { what, names, paths, .. } = self;
        paths.get_or_insert_with(|| {
            let Ok(Decoded::Operation { entry, .. }) = what else { return Paths::default() };
            if let Operation::Mark(mark) = &entry.op {
                let others = if let Marker::Restore { paths, .. } = &mark.marker { paths.clone() } else { Vec::new() };
                return Paths { others, ..Paths::default() };
            }
            let (at, to) = entry.op.names();
            let others = entry.op.ino().map(|ino| names.paths(ino)).unwrap_or_default();
            let at = match (at, entry.op.ino()) {
                (Some((dir, name)), _) => names.join(dir, name),
                (None, Some(ino)) => names.path(ino),
                (None, None) => None,
            };
            Paths { at, to: to.and_then(|(dir, name)| names.join(dir, name)), others }
        })
    }

    /// What it is called: a kind of operation, `process`, `mark`, `unknown`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.what {
            Ok(Decoded::Operation { entry, .. }) => entry.op.name(),
            Ok(Decoded::Process(_)) => "process",
            Ok(Decoded::Mark) => "mark",
            Ok(Decoded::Skipped) | Err(_) => "unknown",
        }
    }

    /// Bytes of files that it carries: what a write writes.
    #[must_use]
    pub fn written(&self) -> u64 {
        match self.entry() {
            Some(Entry { op: Operation::Write(write), .. }) => write.data.len(),
            _ => 0,
        }
    }

    /// Bytes that it takes in the log, and in packs.
    #[must_use]
    pub fn stored(&self) -> u64 {
        let blob = match self.entry() {
            Some(Entry { op: Operation::Write(write), .. }) if matches!(write.data, Data::Blob { .. }) => write.data.len(),
            _ => 0,
        };
        framed_len(self.record.body.len()) as u64 + blob
    }

    /// The whole record as it stands in the file.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn raw(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; framed_len(self.record.body.len())];
        let doing = || format!("cannot read record {}", self.record.lsn);
        self.segment.read_at(&mut bytes, self.record.offset).map_err(|e| Error::io(doing(), e))?;
        Ok(bytes)
    }

    /// As a JSON object.
    pub fn json(&mut self) -> Map<String, Value> {
        let record = self.record;
        let mut json = Map::new();
        json.insert("type".into(), "record".into());
        json.insert("lsn".into(), record.lsn.0.into());
        json.insert("segment".into(), self.segment.id.0.into());
        json.insert("offset".into(), record.offset.into());
        json.insert("durable_lsn".into(), record.durable_lsn.0.into());
        json.insert("bytes".into(), record.body.len().into());
        json.insert("op".into(), self.kind().into());
        self.find_paths();
        match &self.what {
            Ok(Decoded::Operation { entry, .. }) => {
                json.insert("time".into(), output::json_time(entry.stamp.clamped()).into());
                json.insert("ino".into(), json!(entry.op.ino()));
                let (at, to) = entry.op.names();
                for (place, dir_key, name_key) in [(at, "dir", "name"), (to, "to_dir", "to_name")] {
                    if let Some((dir, name)) = place {
                        json.insert(dir_key.into(), dir.0.into());
                        put_path(&mut json, name_key, name);
                    }
                }
                if let Some(paths) = &self.paths {
                    for (key, path) in [("path", &paths.at), ("to", &paths.to)] {
                        if let Some(path) = path {
                            put_path(&mut json, key, path);
                        }
                    }
                }
                if let Some(by) = self.by() {
                    by.put(&mut json);
                }
                if let Some(link) = entry.stamp.link {
                    json.insert("link".into(), link.0.into());
                }
                detail::json(&entry.op, &mut json);
            }
            Ok(Decoded::Process(process)) => {
                By { pid: process.key.pid, comm: process.comm.clone() }.put(&mut json);
                json.insert("start".into(), process.key.start.into());
                json.insert("uid".into(), process.uid.into());
                json.insert("session".into(), process.session.into());
                let parents = process.parents.iter().map(|(pid, comm)| {
                    let mut parent = Map::new();
                    By { pid: *pid, comm: comm.clone() }.put(&mut parent);
                    Value::Object(parent)
                });
                json.insert("parents".into(), parents.collect());
                put_path(&mut json, "executable", &process.executable);
                let line = process.command_line.as_ref().map(|args| {
                    let words = args.iter().map(|arg| {
                        let mut word = Map::new();
                        put_path(&mut word, "arg", arg);
                        Value::Object(word)
                    });
                    words.collect::<Value>()
                });
                json.insert("command_line".into(), json!(line));
            }
            Ok(Decoded::Mark) => {}
            Ok(Decoded::Skipped) => drop(json.insert("kind".into(), record.kind.into())),
            Err(e) => {
                json.insert("kind".into(), record.kind.into());
                json.insert("error".into(), e.to_string().into());
            }
        }
        json
    }

    /// As a line.
    pub fn text(&mut self, clock: &mut Clock, out: &Out) -> String {
        self.find_paths();
        let time = self.time().map(|t| clock.show(t)).unwrap_or_default();
        // Of `2026-01-02 15:04:05.123`.
        let (from, to) = match out.columns() {
            Some(columns) if columns < NARROW[1] => (11, 19),
            Some(columns) if columns < NARROW[0] => (5, 19),
            _ => (0, Clock::WIDTH),
        };
        let (time, time_width) = (time.get(from..to.min(time.len())).unwrap_or(&time), to - from);
        let (path, to, detail) = self.words();
        let who = match &self.what {
            Ok(Decoded::Operation { .. }) => self.by().map(|by| by.text()).unwrap_or_default(),
            _ => String::new(),
        };
        let lsn = fit::pad(&self.record.lsn.to_string(), 8, fit::Align::Right);
        let kind = self.kind();
        let gap = |text: &str, by: &'static str| if text.is_empty() { "" } else { by };
        let (gap_to, gap_detail, gap_who) = (gap(&to, " -> "), if path.is_empty() { "" } else { gap(&detail, "  ") }, gap(&who, "  "));
        let (path, to) = match out.columns() {
            Some(columns) => {
                let rest = [gap_to, gap_detail, &detail, gap_who, &who].iter().map(|t| fit::width(t)).sum::<usize>();
                let room = columns.saturating_sub(fit::width(&lsn) + 2 + time_width + 2 + 12 + rest);
                let each = if to.is_empty() { room } else { room / 2 };
                (fit::elide(&path, each.max(LEAST_PATH)), fit::elide(&to, each.max(LEAST_PATH)))
            }
            None => (path, to),
        };
        let role = match kind {
            "create" | "mkdir" | "mknod" | "symlink" | "link" => Role::Good,
            "unlink" | "rmdir" => Role::Bad,
            "marker" => Role::Heading,
            "process" | "mark" | "forget" => Role::Aside,
            "unknown" => Role::Warning,
            _ => Role::Change,
        };
        format!(
            "{}  {}  {} {}{gap_to}{}{gap_detail}{detail}{gap_who}{}",
            out.paint(Role::Id, &lsn),
            out.paint(Role::Time, &fit::pad(time, time_width, fit::Align::Left)),
            out.paint(role, &fit::pad(kind, 11, fit::Align::Left)),
            out.paint(Role::Path, &path),
            out.paint(Role::Path, &to),
            out.paint(Role::Aside, &who),
        )
    }

    /// Path, new path and the rest, in words.
    fn words(&self) -> (String, String, String) {
        match &self.what {
            Ok(Decoded::Operation { entry, .. }) => {
                let paths = self.paths.as_ref();
                let (at, to) = entry.op.names();
                let shown = |path: Option<&Vec<u8>>, place: Option<(Ino, &[u8])>, ino: Option<Ino>| match (path, place, ino) {
                    (Some(path), _, _) if path.is_empty() => ".".to_owned(),
                    (Some(path), _, _) => output::name(path),
                    (None, Some((dir, name)), _) => format!("#{dir}/{}", output::name(name)),
                    (None, None, Some(ino)) => format!("#{ino}"),
                    (None, None, None) => String::new(),
                };
                let path = shown(paths.and_then(|p| p.at.as_ref()), at, entry.op.ino());
                let to = shown(paths.and_then(|p| p.to.as_ref()), to, None);
                (path, to, detail::text(&entry.op))
            }
            Ok(Decoded::Process(process)) => {
                let chain: Vec<String> = std::iter::once((process.key.pid, &process.comm))
                    .chain(process.parents.iter().map(|(pid, comm)| (*pid, comm)))
                    .map(|(pid, comm)| By { pid, comm: comm.clone() }.text())
                    .collect();
                let program =
                    if process.executable.is_empty() { String::new() } else { format!("  {}", output::name(&process.executable)) };
                let words: Vec<String> = process.command_line.iter().flatten().map(|arg| output::name(arg)).collect();
                let line = if words.is_empty() { String::new() } else { format!("  ({})", words.join(" ")) };
                let who = format!("{} uid {} session {}{program}{line}", chain.join(" < "), process.uid, process.session);
                (String::new(), String::new(), who)
            }
            Ok(Decoded::Mark) => (String::new(), String::new(), format!("durable through {}", self.record.durable_lsn)),
            Ok(Decoded::Skipped) => {
                (String::new(), String::new(), format!("kind {:#06x}, which this ize does not know and may skip", self.record.kind))
            }
            Err(e) => (String::new(), String::new(), e.to_string()),
        }
    }
}

/// Lines as hexdump -C has them; `at` is the offset of the first byte in the file.
pub fn hex_lines(bytes: &[u8], at: u64) -> impl Iterator<Item = String> + '_ {
    bytes.chunks(HEX_LINE).enumerate().map(move |(i, line)| {
        let mut text = format!("  {:08x} ", at + (i * HEX_LINE) as u64);
        for n in 0..HEX_LINE {
            if n == HEX_LINE / 2 {
                text.push(' ');
            }
            match line.get(n) {
                Some(b) => text += &format!(" {b:02x}"),
                None => text += "   ",
            }
        }
        text += "  |";
        text.extend(line.iter().map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '.' }));
        text.push('|');
        text
    })
}

/// All bytes as one word.
#[must_use]
pub fn hex_word(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_hexdump_shows_them() {
        let lines: Vec<String> = hex_lines(b"hello, log\x1b\xff\0\0\0\0and", 0x100).collect();
        assert_eq!(lines[0], "  00000100  68 65 6c 6c 6f 2c 20 6c  6f 67 1b ff 00 00 00 00  |hello, log......|");
        assert_eq!(lines[1], "  00000110  61 6e 64                                          |and|");
        assert_eq!(hex_word(b"\x00\xfa"), "00fa");
    }
}
