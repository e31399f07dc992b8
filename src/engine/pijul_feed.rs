//! Feeds versions to replay B: works out what each version changed and hands it to the Pijul repository, one change a version.
//!
//! Pijul is shown every state without the paths that have no lasting history (classes none and recent), whether they have been taken out of
//! the version or not: the states that it is shown are made in memory and compared with one another.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::pijul_index::{self, Line};
use crate::error::Result;
use crate::ids::{BlobId, Ino, StoreId, VersionSeq};
use crate::pijul::refusal::Refusal;
use crate::pijul::{ContentSource, Item, LogEntry, Outcome, Owner, Recorded, Repository, TreeChange, VersionInput, step};
use crate::project::Layout;
use crate::tree::{BlobRead, Tree};
use crate::versions::class::{Class, ClassSettings};
use crate::versions::diff::{Difference, diff};
use crate::versions::inode_table;
use crate::versions::node::{Content, FileKind, InodeEntry, Node, Piece};
use crate::versions::scratch::Scratch;
use crate::versions::version_log::Version;
use crate::versions::without::Filter;

/// Bytes of states made in memory after which they are forgotten.
const SCRATCH_MAX: u64 = 8 << 20;

/// A Pijul repository, and what feeds it.
pub struct Feed {
    repository: Repository,
    /// Whose index of hashes it keeps; that of a repository that is being made has none.
    index: Option<Layout>,
    blobs: Arc<dyn BlobRead>,
    filter: Filter,
    /// States made to be shown to Pijul, and the last one: its root, and that of what was shown of it.
    scratch: Arc<Scratch>,
    shown: Option<(BlobId, BlobId)>,
    /// Where the repository stood when it was last looked at.
    known: Option<Recorded>,
    /// What of the log is not as the versions are.
    pub refused: Refused,
}

/// Changes that are not what their versions should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// How many.
    pub count: u64,
    /// The last one.
    pub last: VersionSeq,
    /// Why: `safe WHY` or `left-out WHY`.
    pub why: String,
}

impl Refused {
    fn add(&mut self, line: &Line) {
        if let Some(why) = &line.refused {
            *self = Self { count: self.count + 1, last: line.seq, why: why.clone() };
        }
    }
}

/// The bytes of one file of one state.
struct StateFile {
    blobs: Arc<dyn BlobRead>,
    content: Content,
    size: u64,
}

impl ContentSource for StateFile {
    fn read_all(&self) -> Result<Vec<u8>> {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let mut out = Vec::with_capacity(size.min(1 << 24));
        for piece in self.pieces()? {
            match piece {
                Piece::Chunk { id, .. } => out.extend_from_slice(&self.blobs.get(&id)?),
                Piece::Hole { len } => out.resize(out.len() + usize::try_from(len).unwrap_or(0), 0),
            }
        }
        out.resize(size, 0);
        Ok(out)
    }

    fn pieces(&self) -> Result<Vec<Piece>> {
        Ok(crate::versions::piece_tree::all(&*self.blobs, &self.content)?)
    }
}

impl Feed {
    /// Opens or creates the repository in `project_dir`. `index` is the project whose index of hashes it keeps up to date.
    ///
    /// # Errors
    /// When the repository cannot be opened.
    pub fn open(
        project_dir: &Path,
        index: Option<&Layout>,
        store: StoreId,
        owner: (u32, u32),
        blobs: Arc<dyn BlobRead>,
        classes: &ClassSettings,
    ) -> Result<Self> {
        let repository = Repository::open_or_create(project_dir, store, Owner { uid: owner.0, gid: owner.1 })?;
        let scratch = Arc::new(Scratch::over(Arc::clone(&blobs)));
        Ok(Self {
            repository,
            index: index.cloned(),
            blobs,
            filter: Filter::new(classes),
            scratch,
            shown: None,
            known: None,
            refused: Refused::default(),
        })
    }

    /// Where the repository stands; `None` when it is empty. Brings the index of hashes up to date when somebody else than this feed has
    /// changed the repository, or a crash came between the two; says whether that was so.
    ///
    /// # Errors
    /// When the head is not ize's, or cannot be read.
    pub fn standing(&mut self) -> Result<(Option<Recorded>, bool)> {
        let head = self.repository.head()?;
        let first = self.known.is_none();
        if head == self.known && (head.is_some() || self.index.is_none()) {
            return Ok((head, false));
        }
        if let Some(index) = &self.index {
            let lines = self.indexed(index, head.as_ref())?;
            self.refused = Refused::default();
            lines.iter().for_each(|line| self.refused.add(line));
        }
        self.known.clone_from(&head);
        Ok((head, first || self.index.is_some()))
    }

    /// The index, after what it lacks has been added, and what is no longer so has been taken out.
    fn indexed(&self, index: &Layout, head: Option<&Recorded>) -> Result<Vec<Line>> {
        let mut lines = pijul_index::lines(index)?;
        let changes = head.map_or(0, |h| h.changes);
        let known = lines.len() as u64;
        let line = |entry: LogEntry| {
            let refused = entry.refusal.as_ref().map(words);
            entry.coverage.map(|covered| Line { seq: covered.seq, hash: entry.hash, refused })
        };
        if known <= changes && self.known.is_none() {
            // Usually it lacks what was recorded last before a crash.
            let mut rest = self.repository.log_from(known.saturating_sub(1))?.into_iter().filter_map(line).peekable();
            let agrees = match (lines.last(), rest.peek()) {
                (Some(last), Some(first)) => last.seq == first.seq && last.hash == first.hash,
                (last, _) => last.is_none(),
            };
            if agrees {
                let rest: Vec<Line> = rest.skip(usize::from(known > 0)).collect();
                if !rest.is_empty() {
                    pijul_index::append(index, &rest)?;
                    lines.extend(rest);
                }
                return Ok(lines);
            }
        }
        tracing::warn!("the Pijul repository's log is not what ize wrote last: it has {changes} changes, and {known} were recorded");
        let lines: Vec<Line> = self.repository.log()?.into_iter().filter_map(line).collect();
        pijul_index::rewrite(index, &lines)?;
        Ok(lines)
    }

    /// Changes in the log that are not ize's.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn foreign(&self) -> Result<u64> {
        Ok(self.repository.log()?.iter().filter(|entry| entry.coverage.is_none()).count() as u64)
    }

    /// Waits, for a bounded time, until a version could be recorded.
    ///
    /// # Errors
    /// `Busy`, with who holds the lock.
    pub fn wait_for_lock(&self) -> Result<()> {
        self.repository.wait_for_lock()
    }

    /// Records versions, which must be the first ones above the head, each made by [`input`](Self::input) against the one before. The
    /// outcomes are fewer where one was left out: the others are to be made again.
    ///
    /// # Errors
    /// What Pijul says.
    pub fn record(&mut self, versions: &[VersionInput]) -> Result<Vec<Outcome>> {
        if self.repository.make_room(versions)? {
            tracing::info!("the Pijul repository's pristine has more room now");
        }
        let outcomes = self.repository.record_many(versions)?;
        self.note(versions, &outcomes)?;
        Ok(outcomes)
    }

    /// Records of a version whose states cannot be read that it is there.
    ///
    /// # Errors
    /// What Pijul says.
    pub fn leave_out(&mut self, version: &Version, why: &str) -> Result<()> {
        let input = [described(version, "unreadable", Vec::new())];
        let outcome = self.repository.leave_out(&input[0], why)?;
        self.note(&input, &[outcome])
    }

    fn note(&mut self, versions: &[VersionInput], outcomes: &[Outcome]) -> Result<()> {
        let new = |(version, outcome): (&VersionInput, &Outcome)| {
            let line = Line { seq: version.seq, hash: outcome.hash().to_owned(), refused: outcome.refusal().map(words) };
            (!matches!(outcome, Outcome::AlreadyThere(_))).then_some(line)
        };
        let lines: Vec<Line> = versions.iter().zip(outcomes).filter_map(new).collect();
        lines.iter().for_each(|line| self.refused.add(line));
        if let Some(index) = &self.index {
            step("an index is appended to");
            pijul_index::append(index, &lines)?;
            step("an index is written");
        }
        self.known = self.repository.head()?;
        Ok(())
    }

    /// What a version changed of the state that the repository holds, whose root is `held` (`None`: nothing).
    ///
    /// # Errors
    /// What reading the states says.
    pub fn input(&mut self, held: Option<&BlobId>, version: &Version) -> Result<VersionInput> {
        if self.scratch.bytes() > SCRATCH_MAX {
            self.scratch = Arc::new(Scratch::over(Arc::clone(&self.blobs)));
            self.shown = None;
        }
        let blobs: Arc<dyn BlobRead> = Arc::clone(&self.scratch) as _;
        let mut shown = |root: &BlobId| -> Result<BlobId> {
            match self.shown {
                Some((last, shown)) if last == *root => Ok(shown),
                _ => Ok(self.filter.without(&blobs, &*self.scratch, root, Class::Keep)?.unwrap_or(*root)),
            }
        };
        let (before, after) = (held.map(&mut shown).transpose()?, shown(&version.root)?);
        self.shown = Some((version.root, after));
        let differences = diff(&*blobs, before.as_ref(), &after)?;
        let mut old = Side { blobs: &blobs, tree: tree(&blobs, before)? };
        let mut new = Side { blobs: &blobs, tree: tree(&blobs, Some(after))? };
        let op_type = differences.iter().find(|d| d.is_notable()).map_or("mark", op_type);
        let mut changes = Vec::with_capacity(differences.len());
        for d in &differences {
            let born =
                d.path.is_empty() && d.old.is_none() && d.new.as_ref().is_some_and(|n| n.attrs.mode != 0o755 || !n.xattrs.is_empty());
            let linked = |node: &Option<Node>| node.as_ref().is_some_and(|node| node.kind != FileKind::Directory && node.nlink > 1);
            let told = d.is_notable() || born;
            if !told && !linked(&d.old) && !linked(&d.new) {
                continue;
            }
            let before = d.old.as_ref().map(|node| old.item(d.was.unwrap_or(d.ino), node)).transpose()?;
            let after = d.new.as_ref().map(|node| new.item(d.ino, node)).transpose()?;
            // Where another name of the file came or went, only what its sidecar says of the first one may be different.
            let first = |item: &Option<Item>| item.as_ref().and_then(|item| item.first_name.clone());
            if told || first(&before) != first(&after) {
                changes.push(TreeChange { path: d.path.clone(), from: d.from.clone(), old: before, new: after });
            }
        }
        if differences.iter().any(|d| d.from.is_some() && d.new.as_ref().is_some_and(|n| n.kind == FileKind::Directory)) {
            moved_links(&blobs, &after, &mut old, &mut new, &mut changes)?;
        }
        super::pijul_renames::pair(&mut changes);
        Ok(described(version, op_type, changes))
    }
}

/// How the index says it.
fn words(refusal: &Refusal) -> String {
    let form = if refusal.holds.is_some() { "left-out" } else { "safe" };
    format!("{form} {}", refusal.why)
}

fn described(version: &Version, op_type: &str, changes: Vec<TreeChange>) -> VersionInput {
    VersionInput {
        id: version.id.0,
        seq: version.seq,
        first: version.first,
        last: version.last,
        time: version.end,
        message: version.label.clone(),
        op_type: op_type.to_owned(),
        processes: version.processes.iter().map(|p| format!("{}[{}]", p.comm.escape_ascii(), p.pid)).collect(),
        changes,
    }
}

pub(crate) fn tree(blobs: &Arc<dyn BlobRead>, root: Option<BlobId>) -> Result<Tree> {
    Ok(Tree::open(Arc::clone(blobs), root, Ino(2), crate::ids::Lsn::ZERO, crate::ids::Time::default())?)
}

/// Files with several names whose first name changes because a directory above it moved.
fn moved_links(
    blobs: &Arc<dyn BlobRead>,
    root: &BlobId,
    old: &mut Side<'_>,
    new: &mut Side<'_>,
    changes: &mut Vec<TreeChange>,
) -> Result<()> {
    let listed: BTreeSet<Vec<u8>> = changes.iter().map(|c| c.path.clone()).collect();
    let state = crate::tree::load_state(&**blobs, root)?;
    let mut linked = Vec::new();
    inode_table::walk(&**blobs, &state, &mut |ino, entry| {
        if let InodeEntry::Node(node, _) = entry
            && node.nlink > 1
        {
            linked.push((ino, node.clone()));
        }
    })?;
    for (ino, node) in linked {
        let before = old.paths(ino)?;
        let after = new.paths(ino)?;
        if before.is_empty() || before.first() == after.first() {
            continue;
        }
        let old_node = old.node(ino)?;
        for path in after.iter().filter(|p| !listed.contains(*p)) {
            changes.push(TreeChange {
                path: path.clone(),
                from: None,
                old: old_node.as_ref().map(|n| old.item(ino, n)).transpose()?,
                new: Some(new.item(ino, &node)?),
            });
        }
    }
    Ok(())
}

fn op_type(d: &Difference) -> &'static str {
    match (&d.from, &d.old, &d.new) {
        (Some(_), _, _) => "rename",
        (None, None, _) => "create",
        (None, Some(_), None) => "delete",
        (None, Some(old), Some(new)) if old.content != new.content || old.size != new.size => "write",
        (None, Some(_), Some(_)) => "attributes",
    }
}

/// One of the two states, for hard links.
pub(crate) struct Side<'a> {
    pub(crate) blobs: &'a Arc<dyn BlobRead>,
    pub(crate) tree: Tree,
}

impl Side<'_> {
    pub(crate) fn item(&mut self, ino: Ino, node: &Node) -> Result<Item> {
        let linked = node.kind != FileKind::Directory && node.nlink > 1;
        let first_name = if linked { self.paths(ino)?.into_iter().next() } else { None };
        let content = StateFile { blobs: Arc::clone(self.blobs), content: node.content.clone(), size: node.size };
        Ok(Item { node: node.clone(), first_name, content: Arc::new(content) })
    }

    /// All paths of an inode in this state, sorted; none when it is not there.
    fn paths(&mut self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let names = match self.tree.inode(ino) {
            Ok(inode) => inode.names.clone(),
            Err(crate::tree::TreeError::NoInode(_)) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut paths = Vec::with_capacity(names.len());
        for name in names {
            if let Some(dir) = self.tree.path_of(name.dir)? {
                paths.push(if dir.is_empty() { name.name.to_vec() } else { [dir.as_slice(), &name.name].join(&b'/') });
            }
        }
        paths.sort();
        Ok(paths)
    }

    pub(crate) fn node(&mut self, ino: Ino) -> Result<Option<Node>> {
        match self.tree.inode(ino) {
            Ok(_) => {}
            Err(crate::tree::TreeError::NoInode(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        Ok(self.tree.peek(ino).map(|inode| self.tree.node(inode)))
    }
}
