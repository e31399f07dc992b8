//! Feeds versions to replay B: works out what each version changed and hands it to the Pijul repository, one change a version.
//!
//! Pijul is shown every state without the paths that have no lasting history (classes none and recent), whether they have been taken out of
//! the version or not: the states that it is shown are made in memory and compared with one another.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::pijul_index;
use crate::error::Result;
use crate::ids::{BlobId, Ino, StoreId, VersionSeq};
use crate::pijul::{ContentSource, Item, Outcome, Owner, Repository, TreeChange, VersionInput};
use crate::project::Layout;
use crate::tree::{BlobRead, Tree};
use crate::versions::class::{Class, ClassSettings};
use crate::versions::diff::{Difference, diff};
use crate::versions::inode_table;
use crate::versions::node::{Content, FileKind, InodeEntry, Node, Piece};
use crate::versions::scratch::Scratch;
use crate::versions::version_log::Version;
use crate::versions::without::Filter;

/// The Pijul repository of a project, and what feeds it.
pub struct Feed {
    repository: Repository,
    layout: Layout,
    blobs: Arc<dyn BlobRead>,
    filter: Mutex<Filter>,
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
        Ok(crate::tree::file_pieces(&*self.blobs, &self.content)?)
    }
}

impl Feed {
    /// Opens or creates the repository and brings the index of hashes up to date.
    ///
    /// # Errors
    /// When the repository cannot be opened, or its head is not ize's.
    pub fn open(layout: &Layout, store: StoreId, owner: (u32, u32), blobs: Arc<dyn BlobRead>, classes: &ClassSettings) -> Result<Self> {
        let repository = Repository::open_or_create(layout.dir(), store, Owner { uid: owner.0, gid: owner.1 })?;
        let feed = Self { repository, layout: layout.clone(), blobs, filter: Mutex::new(Filter::new(classes)) };
        let head = feed.repository.head()?.map_or((VersionSeq(0), 0), |head| (head.seq, head.changes));
        let indexed = pijul_index::read(layout)?;
        if (indexed.last_key_value().map_or(VersionSeq(0), |(seq, _)| *seq), indexed.len() as u64) != head {
            let log = feed.repository.log()?;
            let entries: Vec<(VersionSeq, String)> = log.into_iter().filter_map(|e| Some((e.coverage?.seq, e.hash))).collect();
            pijul_index::rewrite(layout, &entries)?;
        }
        Ok(feed)
    }

    /// The last version that is in the repository.
    ///
    /// # Errors
    /// When the head is not ize's, or cannot be read.
    pub fn head(&self) -> Result<VersionSeq> {
        Ok(self.repository.head()?.map_or(VersionSeq(0), |head| head.seq))
    }

    /// Records one version; it must be the first one that is kept above the head (one at or below is already there).
    ///
    /// # Errors
    /// What reading the states or Pijul says.
    pub fn record(&self, version: &Version) -> Result<Outcome> {
        let input = self.input(version)?;
        let outcome = self.repository.record(&input)?;
        pijul_index::append(&self.layout, &[(version.seq, outcome.hash().to_owned())])?;
        Ok(outcome)
    }

    fn input(&self, version: &Version) -> Result<VersionInput> {
        let scratch = Arc::new(Scratch::over(Arc::clone(&self.blobs)));
        let blobs: Arc<dyn BlobRead> = Arc::clone(&scratch) as _;
        let mut filter = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shown = |root: &BlobId| -> Result<BlobId> { Ok(filter.without(&blobs, &*scratch, root, Class::Keep)?.unwrap_or(*root)) };
        let (before, after) = (version.parent_root.as_ref().map(&mut shown).transpose()?, shown(&version.root)?);
        let differences = diff(&*blobs, before.as_ref(), &after)?;
        let mut old = Side { blobs: &blobs, tree: tree(&blobs, before)? };
        let mut new = Side { blobs: &blobs, tree: tree(&blobs, Some(after))? };
        let op_type = differences.iter().find(|d| d.is_notable()).map_or("mark", op_type).to_owned();
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
        Ok(VersionInput {
            id: version.id.0,
            seq: version.seq,
            first: version.first,
            last: version.last,
            time: version.end,
            message: version.label.clone(),
            op_type,
            processes: version.processes.iter().map(|p| format!("{}[{}]", p.comm.escape_ascii(), p.pid)).collect(),
            changes,
        })
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
