//! What a version changed, as the Pijul repository is told: its state compared with the one that the repository holds.
//!
//! Pijul is shown every state without the paths that have no lasting history (classes none and recent), whether they have been taken out of
//! the version or not: the states that it is shown are made in memory and compared with one another.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::Result;
use crate::ids::{BlobId, Ino};
use crate::pijul::{ContentSource, Item, TreeChange, VersionInput};
use crate::tree::{BlobRead, Tree};
use crate::versions::class::{Class, ClassSettings};
use crate::versions::diff::{Difference, diff};
use crate::versions::inode_table;
use crate::versions::node::{Content, FileKind, InodeEntry, Node, PageRef, Piece};
use crate::versions::piece_tree;
use crate::versions::scratch::Scratch;
use crate::versions::version_log::Version;
use crate::versions::without::Filter;

/// Bytes of states made in memory after which they are forgotten.
const SCRATCH_MAX: u64 = 8 << 20;

/// Makes what the repository is told.
pub struct States {
    blobs: Arc<dyn BlobRead>,
    filter: Filter,
    /// States made to be shown to Pijul, and the last one: its root, and that of what was shown of it.
    scratch: Arc<Scratch>,
    shown: Option<(BlobId, BlobId)>,
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
        Ok(piece_tree::all(&*self.blobs, &self.content)?)
    }

    fn pages(&self) -> Result<Vec<PageRef>> {
        Ok(piece_tree::pages(&*self.blobs, &self.content)?)
    }
}

impl States {
    /// Reads states from `blobs`, and shows what these classes keep.
    #[must_use]
    pub fn new(blobs: Arc<dyn BlobRead>, classes: &ClassSettings) -> Self {
        let scratch = Arc::new(Scratch::over(Arc::clone(&blobs)));
        Self { blobs, filter: Filter::new(classes), scratch, shown: None }
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

pub(super) fn described(version: &Version, op_type: &str, changes: Vec<TreeChange>) -> VersionInput {
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
