//! `ize wal inspect`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cli::args::WalInspectArgs;
use crate::cli::grammar::LogTarget;
use crate::cli::output::{self, put_path};
use crate::cli::session::Session;
use crate::engine::states::Store;
use crate::error::{Class, Error, Result};
use crate::ids::{Ino, Lsn, SegmentId, StoreId};
use crate::op::{Data, Decoded, Entry, Marker, Operation, ProcessKey, RenameMode, decode};
use crate::project::units::show_size;
use crate::project::{Layout, Project};
use crate::storage::{Disk, Storage};
use crate::tree::Tree;
use crate::versions::checkpoint;
use crate::wal::format::{Header, segment_of_name};
use crate::wal::scan::SegmentInfo;
use crate::wal::{self, Bounds, Record};

/// Bytes of a record that `--hex` shows in a line.
const HEX_LINE: usize = 16;

/// A log to look at: whose it is, where, and which of its segments.
pub(super) struct Target {
    pub(super) dir: PathBuf,
    pub(super) store: StoreId,
    pub(super) bounds: Bounds,
    pub(super) layout: Option<Layout>,
    pub(super) only: Option<SegmentId>,
}

/// Finds the log that a word means: a project's, a directory of segments, one segment.
///
/// # Errors
/// What the word means; `NotFound` when there are no segments there.
pub(super) fn target(word: Option<&std::ffi::OsStr>, session: &Session) -> Result<Target> {
    match session.log_meant(word)? {
        LogTarget::Project(dir) => of_project(&Project::open(dir)?),
        LogTarget::Path(path) => {
            let only = path.file_name().and_then(segment_of_name);
            let dir = if only.is_some() { path.parent().unwrap_or(Path::new("/")).to_owned() } else { path.clone() };
            // A directory that belongs to a project, or the project's own.
            for project in [Some(dir.as_path()), dir.parent()].into_iter().flatten() {
                if let Ok(project) = Project::open(project) {
                    return Ok(Target { only, ..of_project(&project)? });
                }
            }
            let storage = Disk;
            let first = storage
                .list(&dir)
                .map_err(|e| Error::io(format!("cannot list {}", dir.display()), e))?
                .into_iter()
                .find(|name| segment_of_name(name).is_some());
            let first = first.ok_or_else(|| Error::new(Class::NotFound, format!("there are no segments in {}", dir.display())))?;
            let id = segment_of_name(&first).unwrap_or_default();
            let header = read_header(&storage, &dir.join(&first), id)?;
            let bounds = Bounds { checkpoint: Lsn::ZERO, floor: id };
            Ok(Target { dir, store: header.store, bounds, layout: None, only })
        }
    }
}

fn of_project(project: &Project) -> Result<Target> {
    let (layout, store) = (project.layout.clone(), project.identity.id);
    let checkpoint = checkpoint::read(&Disk, &layout.checkpoint(), store)?;
    let bounds = checkpoint.map_or(Bounds::default(), |c| Bounds { checkpoint: c.lsn, floor: c.floor });
    Ok(Target { dir: layout.wal(), store, bounds, layout: Some(layout), only: None })
}

fn read_header(storage: &Disk, file: &Path, id: SegmentId) -> Result<Header> {
    let mut bytes = vec![0; wal::format::HEADER_LEN];
    storage
        .open_read(file)
        .and_then(|f| f.read_exact_at(&mut bytes, 0))
        .map_err(|e| Error::io(format!("cannot read {}", file.display()), e))?;
    Header::decode(&bytes, None, id)
        .map_err(|e| Error::new(Class::Damage, format!("{}: the segment header is not valid: {e:?}", file.display())))
}

/// Lists segments, then records. Beside a live writer it shows what has been appended so far.
///
/// # Errors
/// What the word means; damage and I/O errors after what could be read was shown.
pub fn run(args: &WalInspectArgs, session: &mut Session) -> Result<()> {
    let target = target(args.word.as_deref(), session)?;
    let storage = Disk;
    let mut records: Vec<Shown> = Vec::new();
    let mut names = Names::new(&target);
    let scan = wal::scan::walk(&storage, &target.dir, target.store, target.bounds, &mut |record, segment| {
        if target.only.is_none_or(|only| only == segment.id) {
            records.push(names.take(record, segment.id, args.hex));
        } else {
            names.learn(record);
        }
        Ok(())
    })?;
    for segment in scan.segments.iter().filter(|s| target.only.is_none_or(|only| only == s.id)) {
        show_segment(segment, args.json, session)?;
    }
    for record in &records {
        record.show(args.json, session)?;
    }
    session.out.flush()?;
    super::wal_verify::show(&scan.findings, args.json, session)
}

fn show_segment(s: &SegmentInfo, json: bool, session: &mut Session) -> Result<()> {
    let digest: String = s.digest.iter().map(|b| format!("{b:02x}")).collect();
    let state = serde_json::to_value(s.state).unwrap_or_default();
    let state = state.as_str().unwrap_or("unknown");
    let created = s.header.as_ref().map(|h| h.created);
    if json {
        return session.out.json(&json!({
            "type": "segment", "id": s.id.0, "file": s.file.to_string_lossy(), "state": state, "first_lsn": s.first_lsn, "last_lsn": s.last_lsn,
            "records": s.records, "bytes": s.bytes, "used": s.used, "payload": s.payload, "epoch": s.header.as_ref().map(|h| h.epoch),
            "created": created.map(output::json_time), "last_time": s.last_time().map(output::json_time), "digest": digest,
        }));
    }
    let range = if s.records == 0 { "no records".to_owned() } else { format!("{}..{}", s.first_lsn, s.last_lsn) };
    let age = s.last_time().map(output::time).unwrap_or_default();
    session.out.line(&format!(
        "segment {}  {state:9}  {range:>17}  {:>6} records  {:>9}  {age}  {}",
        s.id,
        s.records,
        show_size(s.bytes),
        digest.get(..12).unwrap_or_default()
    ))
}

/// A record, ready to be shown.
struct Shown {
    json: Map<String, Value>,
    text: String,
    hex: Vec<String>,
}

impl Shown {
    fn show(&self, json: bool, session: &mut Session) -> Result<()> {
        if json {
            return session.out.json(&self.json);
        }
        session.out.line(&self.text)?;
        self.hex.iter().try_for_each(|line| session.out.line(line))
    }
}

/// Names of inodes and processes as the records tell them, else as the state before the log has them.
struct Names {
    names: HashMap<Ino, (Ino, Vec<u8>)>,
    processes: HashMap<ProcessKey, Vec<u8>>,
    base: Option<Tree>,
}

impl Names {
    fn new(target: &Target) -> Self {
        let base = target.layout.as_ref().and_then(|layout| {
            let store = Store::open(layout, target.store).ok()?;
            let oldest = store.oldest_in_log().ok()??;
            let version = store.versions().at_lsn(Lsn(oldest.0.saturating_sub(1))).ok()??;
            store.state_of(&version).ok()
        });
        Self { names: HashMap::new(), processes: HashMap::new(), base }
    }

    fn learn(&mut self, record: &Record<'_>) {
        match decode(record.kind, record.version, record.body) {
            Ok(Decoded::Operation { entry, .. }) => self.learn_operation(&entry.op),
            Ok(Decoded::Process(process)) => drop(self.processes.insert(process.key, process.comm)),
            Ok(Decoded::Mark | Decoded::Skipped) | Err(_) => {}
        }
    }

    fn learn_operation(&mut self, op: &Operation) {
        match (op, op.ino(), op.names()) {
            (Operation::Rename(rename), _, _) => {
                self.names.insert(rename.ino, (rename.to_dir, rename.to_name.clone()));
                if let RenameMode::Exchange(other) = rename.mode {
                    self.names.insert(other, (rename.dir, rename.name.clone()));
                }
            }
            (Operation::Unlink(_) | Operation::Rmdir(_), _, _) => {}
            (_, Some(ino), (Some((dir, name)), _)) => drop(self.names.insert(ino, (dir, name.to_vec()))),
            _ => {}
        }
    }

    /// Path of an inode, as far as it is known.
    fn path(&mut self, ino: Ino) -> Option<Vec<u8>> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT && parts.len() < 4096 {
            match self.names.get(&at) {
                Some((dir, name)) => {
                    parts.push(name.clone());
                    at = *dir;
                }
                None => {
                    let above = self.base.as_mut()?.path_of(at).ok()??;
                    parts.push(above);
                    break;
                }
            }
        }
        parts.reverse();
        Some(parts.join(&b'/'))
    }

    fn join(&mut self, dir: Ino, name: &[u8]) -> Option<Vec<u8>> {
        let dir = self.path(dir)?;
        Some(if dir.is_empty() { name.to_vec() } else { [dir.as_slice(), name].join(&b'/') })
    }

    fn take(&mut self, record: &Record<'_>, segment: SegmentId, hex: bool) -> Shown {
        let mut json = Map::new();
        json.insert("type".into(), json!("record"));
        json.insert("lsn".into(), json!(record.lsn));
        json.insert("segment".into(), json!(segment.0));
        json.insert("offset".into(), json!(record.offset));
        json.insert("durable_lsn".into(), json!(record.durable_lsn));
        json.insert("bytes".into(), json!(record.body.len()));
        let text = match decode(record.kind, record.version, record.body) {
            Ok(Decoded::Operation { entry, .. }) => self.operation(record.lsn, &entry, &mut json),
            Ok(Decoded::Process(process)) => {
                let comm = output::name(&process.comm);
                let parents: Vec<String> = process.parents.iter().map(|(pid, comm)| format!("{}[{pid}]", output::name(comm))).collect();
                json.insert("op".into(), json!("process"));
                json.insert("pid".into(), json!(process.key.pid));
                json.insert("comm".into(), json!(comm));
                json.insert("uid".into(), json!(process.uid));
                json.insert("session".into(), json!(process.session));
                json.insert("parents".into(), json!(parents));
                let text = format!("{:>8}  {:29}  process    {comm}[{}] uid {}", record.lsn.to_string(), "", process.key.pid, process.uid);
                self.processes.insert(process.key, process.comm);
                text
            }
            Ok(Decoded::Mark) => {
                json.insert("op".into(), json!("mark"));
                format!("{:>8}  {:29}  mark       durable through {}", record.lsn.to_string(), "", record.durable_lsn)
            }
            Ok(Decoded::Skipped) => {
                json.insert("op".into(), json!("unknown"));
                json.insert("kind".into(), json!(record.kind));
                format!("{:>8}  kind {:#06x}, which this ize does not know and may skip", record.lsn.to_string(), record.kind)
            }
            Err(e) => {
                json.insert("op".into(), json!("unknown"));
                json.insert("error".into(), json!(e.to_string()));
                format!("{:>8}  {e}", record.lsn.to_string())
            }
        };
        let lines = record.body.chunks(HEX_LINE).enumerate().map(|(i, line)| {
            let bytes: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
            let seen: String = line.iter().map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '.' }).collect();
            format!("          {:06x}  {:47}  {seen}", i * HEX_LINE, bytes.join(" "))
        });
        if hex {
            json.insert("hex".into(), json!(record.body.iter().map(|b| format!("{b:02x}")).collect::<String>()));
        }
        Shown { json, text, hex: if hex { lines.collect() } else { Vec::new() } }
    }

    fn operation(&mut self, lsn: Lsn, entry: &Entry, json: &mut Map<String, Value>) -> String {
        let op = &entry.op;
        let time = entry.stamp.clamped();
        let (at, to) = op.names();
        let path = match (at, op.ino()) {
            (Some((dir, name)), _) => self.join(dir, name),
            (None, Some(ino)) => self.path(ino),
            (None, None) => None,
        };
        let to = to.and_then(|(dir, name)| self.join(dir, name));
        self.learn_operation(op);
        json.insert("time".into(), json!(output::json_time(time)));
        json.insert("op".into(), json!(op.name()));
        json.insert("ino".into(), json!(op.ino()));
        if let Some(path) = &path {
            put_path(json, "path", path);
        }
        if let Some(to) = &to {
            put_path(json, "to", to);
        }
        let key = entry.stamp.process;
        let comm = self.processes.get(&key).map(|c| output::name(c)).unwrap_or_default();
        json.insert("pid".into(), json!(key.pid));
        json.insert("process".into(), json!(comm));
        if let Some(link) = entry.stamp.link {
            json.insert("link".into(), json!(link));
        }
        let details = details(op, json);
        let what = match (path, op.ino()) {
            (Some(path), _) if path.is_empty() => ".".to_owned(),
            (Some(path), _) => output::name(&path),
            (None, Some(ino)) => format!("inode {ino}"),
            (None, None) => String::new(),
        };
        let to = to.map(|to| format!(" -> {}", output::name(&to))).unwrap_or_default();
        let who = if key.pid == 0 { String::new() } else { format!("  {comm}[{}]", key.pid) };
        format!("{:>8}  {:29}  {:10} {what}{to}{details}{who}", lsn.to_string(), output::time(time), op.name())
    }
}

/// What else an operation says, for people; the same goes into the JSON object.
fn details(op: &Operation, json: &mut Map<String, Value>) -> String {
    match op {
        Operation::Write(op) => {
            json.insert("offset_in_file".into(), json!(op.offset));
            json.insert("size".into(), json!(op.data.len()));
            let blob = if let Data::Blob { id, .. } = op.data {
                json.insert("blob".into(), json!(id.to_string()));
                " (blob)"
            } else {
                ""
            };
            format!("  {} bytes at {}{blob}", op.data.len(), op.offset)
        }
        Operation::Truncate(op) => {
            json.insert("old_size".into(), json!(op.old_size));
            json.insert("size".into(), json!(op.size));
            format!("  {} -> {} bytes", op.old_size, op.size)
        }
        Operation::Fallocate(op) => {
            json.insert("offset_in_file".into(), json!(op.offset));
            json.insert("size".into(), json!(op.len));
            format!("  {:?}, {} bytes at {}", op.mode, op.len, op.offset)
        }
        Operation::Clone(op) => {
            json.insert("from_ino".into(), json!(op.from));
            json.insert("size".into(), json!(op.len));
            format!("  {} bytes of inode {} at {}", op.len, op.from, op.offset)
        }
        Operation::Chmod(op) => {
            json.insert("old_mode".into(), json!(format!("{:04o}", op.old)));
            json.insert("mode".into(), json!(format!("{:04o}", op.new)));
            format!("  {:04o} -> {:04o}", op.old, op.new)
        }
        Operation::Chown(op) => {
            json.insert("old_owner".into(), json!(format!("{}:{}", op.old.0, op.old.1)));
            json.insert("owner".into(), json!(format!("{}:{}", op.new.0, op.new.1)));
            format!("  {}:{} -> {}:{}", op.old.0, op.old.1, op.new.0, op.new.1)
        }
        Operation::Utimens(op) => {
            json.insert("mtime".into(), json!(op.mtime.map(output::json_time)));
            op.mtime.map(|t| format!("  mtime {}", output::time(t))).unwrap_or_default()
        }
        Operation::SetXattr(op) => {
            json.insert("xattr".into(), json!(String::from_utf8_lossy(&op.name)));
            json.insert("size".into(), json!(op.value.len()));
            format!("  {} ({} bytes)", output::name(&op.name), op.value.len())
        }
        Operation::RemoveXattr(op) => {
            json.insert("xattr".into(), json!(String::from_utf8_lossy(&op.name)));
            format!("  {}", output::name(&op.name))
        }
        Operation::Symlink(op) => {
            put_path(json, "target", &op.target);
            format!("  -> {}", output::name(&op.target))
        }
        Operation::Mark(mark) => match &mark.marker {
            Marker::Commit { message } => {
                json.insert("marker".into(), json!("commit"));
                json.insert("message".into(), json!(message));
                format!("commit {}", message.as_deref().unwrap_or_default())
            }
            Marker::Restore { at, .. } => {
                json.insert("marker".into(), json!("restore"));
                json.insert("restored".into(), json!(at));
                format!("restore of {at}")
            }
            Marker::Unmount => {
                json.insert("marker".into(), json!("unmount"));
                "unmount".to_owned()
            }
        },
        Operation::Create(_)
        | Operation::Mkdir(_)
        | Operation::Mknod(_)
        | Operation::Link(_)
        | Operation::Unlink(_)
        | Operation::Rmdir(_)
        | Operation::Rename(_)
        | Operation::Forget(_) => String::new(),
    }
}
