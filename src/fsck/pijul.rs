//! The Pijul repository: its head is ours, every change file is there and is what its name says, the index agrees; and, where everything is
//! read, what it holds is what replay B puts there for the version of its head.
//!
//! Read from a copy of the pristine, so beside a live mount too; where somebody else keeps it locked it is left out, and that is said.

use crate::engine::pijul_states::{Side, tree};
use crate::engine::{adapters::BlankedStore, pijul_index};
use crate::error::{Class as ErrorClass, Error, Result};
use crate::ids::{BlobId, Ino, VersionSeq};
use crate::pijul::head_tree::{HeadTree, Held};
use crate::pijul::manifest::Manifest;
use crate::pijul::sidecar::Sidecar;
use crate::pijul::snapshot::{Logged, PATIENCE, Snapshot};
use crate::pijul::{Item, names};
use crate::tree::BlobRead;
use crate::versions::check::PATHS;
use crate::versions::class::Class;
use crate::versions::node::{Content, FileKind};
use crate::versions::scratch::Scratch;
use crate::versions::without::Filter;

use std::sync::Arc;

use super::finding::{Finding, Part};
use super::{Affected, Look, Verdict, VersionsReport, check_versions};

/// The channel that replay B records on.
const CHANNEL: &str = "main";
/// Inodes that are looked at before those that are done with are let go of.
const EVICT_EVERY: u64 = 4096;

/// Paths with the same thing wrong.
#[derive(Default)]
struct Wrong {
    paths: Vec<Vec<u8>>,
    files: u64,
}

impl Wrong {
    fn add(&mut self, path: Vec<u8>) {
        self.files += 1;
        if self.paths.len() < PATHS {
            self.paths.push(path);
        }
    }
}

/// How a version and the repository differ.
#[derive(Default)]
struct Differing {
    missing: Wrong,
    extra: Wrong,
    bytes: Wrong,
    attributes: Wrong,
    compared: u64,
}

impl Look<'_> {
    /// All of it.
    pub(super) fn pijul(&mut self, versions: &VersionsReport) -> Result<()> {
        let dir = self.layout.pijul();
        if !dir.is_dir() {
            // Said with the small files.
            return Ok(());
        }
        if self.layout.purging().exists() {
            // It takes the repository away, bit by bit, and its end makes another.
            self.report.notes.push("the Pijul repository was not looked at: a purge is half done".to_owned());
            return Ok(());
        }
        // Read first: it may lack what the log has, never the other way round.
        let index = pijul_index::read(self.layout);
        let read = Snapshot::take(self.layout.dir(), PATIENCE).and_then(|snapshot| {
            let log = snapshot.log(CHANNEL, true, &mut |_| {})?;
            Ok((snapshot, log))
        });
        let (snapshot, log) = match read {
            Ok(read) => read,
            Err(e) if e.class == ErrorClass::Busy => {
                self.report.notes.push(format!("the Pijul repository was not looked at: {}", e.message));
                return Ok(());
            }
            Err(e) if e.class == ErrorClass::NotFound => {
                self.report.notes.push(format!("{}: it is being made, or the next mount makes it", e.message));
                return Ok(());
            }
            Err(e) if matches!(e.class, ErrorClass::Io | ErrorClass::Full) => return Err(e),
            Err(e) => {
                self.wrong(&dir, format!("it cannot be read: {}", e.message), Affected::default());
                return Ok(());
            }
        };
        self.files(&log);
        let Some(head) = log.last() else { return Ok(()) };
        match index {
            Ok(index) => self.index(&index, &log),
            Err(e) => self.report.findings.push(Finding::of_error(Part::Pijul, &self.layout.pijul_index(), &e)),
        }
        let Some(coverage) = head.coverage.filter(|coverage| coverage.store == self.store) else {
            if head.wrong.is_none() {
                let what = format!("change {}, the last one, was not written by ize for this store", head.hash);
                let mend =
                    "`pijul unrecord` it in the project's directory, or `ize pijul rebuild` makes the repository again from the versions";
                self.wrong_with(&dir, what, Affected::default(), mend);
            }
            return Ok(());
        };
        let mut compared = 0;
        if self.deep && log.iter().all(|change| change.wrong.is_none()) {
            match self.state(&snapshot, versions, head.holds.unwrap_or(coverage.seq)) {
                Ok(count) => compared = count,
                Err(e) if matches!(e.class, ErrorClass::Io | ErrorClass::Full) => return Err(e),
                Err(e) => self.wrong(&dir, format!("it cannot be compared with version {}: {}", coverage.seq, e.message), of(coverage.seq)),
            }
        }
        self.report.pijul = Some((coverage.seq, log.len() as u64, compared));
        Ok(())
    }

    fn wrong(&mut self, file: &std::path::Path, what: String, affected: Affected) {
        self.wrong_with(file, what, affected, "");
    }

    fn wrong_with(&mut self, file: &std::path::Path, what: String, affected: Affected, mend: &str) {
        let finding = Finding { affected, mend: mend.to_owned(), ..Finding::new(Verdict::Damage, Part::Pijul, file, what) };
        self.report.findings.push(finding);
    }

    /// Every change of the log has its file.
    fn files(&mut self, log: &[Logged]) {
        for change in log {
            if let Some(wrong) = &change.wrong {
                let affected = change.coverage.map(|coverage| of(coverage.seq)).unwrap_or_default();
                self.wrong(&change.file, format!("the file of change {}: {wrong}", change.hash), affected);
            }
        }
    }

    /// The index says the same as the log, as far as it goes: it is written behind it.
    fn index(&mut self, index: &std::collections::BTreeMap<VersionSeq, String>, log: &[Logged]) {
        let mut ours = log.iter().filter_map(|change| Some((change.coverage?.seq, &change.hash)));
        let wrong = index.iter().find_map(|(seq, hash)| match ours.next() {
            Some((s, h)) if s == *seq && h == hash => None,
            Some((s, h)) => Some(format!("it says that version {seq} is change {hash}, where the log has version {s} as {h}")),
            None => Some(format!("it says that version {seq} is change {hash}, which the log has not")),
        });
        // A change whose file is gone has no number; that is told already.
        let Some(what) = wrong.filter(|_| log.iter().all(|change| change.wrong.is_none())) else { return };
        let mut finding = Finding::new(Verdict::TornTail, Part::Pijul, &self.layout.pijul_index(), what);
        finding.mend = "remove it: the next mount makes it again from the log of the repository".to_owned();
        self.report.findings.push(finding);
    }

    /// What the head holds, beside the state of its version; gives how many paths were compared.
    fn state(&mut self, snapshot: &Snapshot, versions: &VersionsReport, seq: VersionSeq) -> Result<u64> {
        let find = |report: &VersionsReport| report.versions.iter().find(|v| v.seq == seq && v.sound).map(|v| v.root);
        let root = match find(versions) {
            Some(root) => root,
            // Made since the versions were looked at.
            None => match find(&check_versions(self.storage, self.layout.versions(), self.store, None)?) {
                Some(root) => root,
                None => {
                    self.report.notes.push(format!("version {seq}, up to which Pijul is, is not kept: they were not compared"));
                    return Ok(0);
                }
            },
        };
        let mut head = snapshot.tree(CHANNEL, false, false)?;
        let dir = self.layout.pijul();
        if !head.conflicts().is_empty() {
            self.wrong(&dir, format!("the last change leaves conflicts in {}", head.conflicts().join(", ")), of(seq));
        }
        let blobs: Arc<dyn BlobRead> = Arc::new(BlankedStore(Arc::clone(&self.blobs)));
        let scratch = Arc::new(Scratch::over(Arc::clone(&blobs)));
        let above: Arc<dyn BlobRead> = Arc::clone(&scratch) as _;
        let shown = Filter::new(&self.options.classes).without(&above, &*scratch, &root, Class::Keep).map_err(Error::from)?;
        let side = Side { blobs: &above, tree: tree(&above, Some(shown.unwrap_or(root)))? };
        let differing = compare(side, &mut head, self.options.owner)?;
        let kinds = [
            (&differing.missing, "is not in Pijul"),
            (&differing.extra, "is in Pijul, and not in the version"),
            (&differing.bytes, "has other bytes in Pijul"),
            (&differing.attributes, "has other attributes in Pijul"),
        ];
        for (wrong, what) in kinds {
            if wrong.files > 0 {
                let affected = Affected { paths: wrong.paths.clone(), files: wrong.files, ..of(seq) };
                let first = wrong.paths.first().map(|path| names::escape(path)).unwrap_or_default();
                let more = if wrong.files > 1 { format!(" (and {} more paths)", wrong.files - 1) } else { String::new() };
                self.wrong(&dir, format!("`{first}`{more} {what}, of version {seq}"), affected);
            }
        }
        Ok(differing.compared)
    }
}

/// What concerns one version.
fn of(seq: VersionSeq) -> Affected {
    Affected { versions: Some((seq, seq)), count: 1, ..Affected::default() }
}

/// Compares every path of a state with what Pijul has; what is left in `head` is too much.
fn compare(mut side: Side<'_>, head: &mut HeadTree, owner: (u32, u32)) -> Result<Differing> {
    let mut differing = Differing::default();
    let mut looked = 0;
    let mut stack = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, ino)) = stack.pop() {
        let Some(node) = side.node(ino)? else { continue };
        if node.kind == FileKind::Directory {
            for (name, child, _) in side.tree.children(ino)? {
                let below = if path.is_empty() { name.to_vec() } else { [path.as_slice(), b"/", &name].concat() };
                stack.push((below, child));
            }
        }
        let item = side.item(ino, &node)?;
        one(&path, &item, head, owner, &mut differing)?;
        differing.compared += 1;
        looked += 1;
        if looked % EVICT_EVERY == 0 {
            side.tree.evict(&|_| false, &|_| false);
        }
    }
    for (path, _) in head.iter() {
        differing.extra.add(path.into_bytes());
    }
    Ok(differing)
}

fn one(path: &[u8], item: &Item, head: &mut HeadTree, owner: (u32, u32), differing: &mut Differing) -> Result<()> {
    let pijul = names::path(path);
    let sidecar = names::sidecar(&pijul);
    let has = match head.take(&sidecar) {
        Some(Held::File { hash, .. }) => Some(hash),
        _ => None,
    };
    // The directories that hold it.
    for (at, _) in sidecar.match_indices('/').filter(|_| has.is_some()) {
        head.take(sidecar.get(..at).unwrap_or_default());
    }
    let says = |manifest| Sidecar::of(item, path, &pijul, owner, manifest).text().map(|text| BlobId::of(text.as_bytes()));
    let file = item.node.kind == FileKind::File && item.node.size > 0;
    let manifest = file && has == says(true);
    if !manifest && has != says(false) {
        differing.attributes.add(path.to_vec());
        // Which form the bytes have is not known then.
        head.take(&pijul);
        return Ok(());
    }
    if pijul.is_empty() {
        return Ok(());
    }
    let executable = item.node.kind == FileKind::File && item.node.attrs.mode & 0o100 != 0;
    match head.take(&pijul) {
        None => differing.missing.add(path.to_vec()),
        Some(Held::Directory) if item.node.kind == FileKind::Directory => {}
        Some(Held::File { len, hash, executable: x, .. }) if item.node.kind != FileKind::Directory => {
            let same = if manifest {
                let is = |manifest: Manifest| hash == BlobId::of(manifest.text().as_bytes());
                // An early ize listed the pieces of any file.
                is(Manifest::of(item)?) || (matches!(item.node.content, Content::PieceTree { .. }) && is(Manifest::in_full(item)?))
            } else if file {
                // As long, hence no longer than libpijul could write.
                len == item.node.size && hash == BlobId::of(&item.content.read_all()?)
            } else {
                len == 0
            };
            if !same {
                differing.bytes.add(path.to_vec());
            } else if x != executable {
                differing.attributes.add(path.to_vec());
            }
        }
        Some(_) => differing.bytes.add(path.to_vec()),
    }
    Ok(())
}
