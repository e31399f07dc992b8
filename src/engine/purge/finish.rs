//! Carries out what `meta/purge` says, forward only; every step may be done again. Order:
//!
//! 1. States without the inodes are stored, and synced.
//! 2. The version log is written anew with them.
//! 3. The checkpoint names its new state, and a floor above every segment but the last, which holds nothing; then those segments go.
//! 4. The tombstone is written.
//! 5. Packs are swept, every one with anything that is not kept.
//! 6. The Pijul repository goes, and what else may hold names or bytes.
//! 7. The intent goes.
//!
//! Until 5 every state, old or new, can be read. Files that held bytes are overwritten before they are removed, as far as the file system lets
//! that mean anything.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::intent::Intent;
use super::states::Rewriter;
use crate::blobs::purged::Tombstone;
use crate::blobs::{self, Blobs, SweepOptions};
use crate::engine::prune::Walk;
use crate::error::{Class, Error, IoContext, Result};
use crate::ids::{BlobId, Ino, SegmentId, StoreId};
use crate::project::{Layout, atomic};
use crate::storage::{Storage, StorageFile};
use crate::versions::checkpoint::{self, Checkpoint};
use crate::versions::coalesce::{between, listed};
use crate::versions::version_log::{Action, Mode, Version, VersionLog};
use crate::wal::format::segment_of_name;

/// Zeros written at a time.
const ZEROS: usize = 1 << 20;

/// What a purge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Versions whose state is another one now.
    pub versions: u64,
    /// Blobs that went.
    pub blobs: u64,
    /// Packs that were written afresh or went.
    pub packs: u64,
    /// Segments that went.
    pub segments: u64,
    /// Packs that are damaged and stay: they may hold the bytes still.
    pub damaged: u64,
    /// Whether there was a Pijul repository, which the next mount makes anew.
    pub pijul: bool,
}

/// Carries out the purge that has begun in a store, if one has. The caller holds the project's lock; `clean` says whether the last writer closed
/// the store in order.
///
/// # Errors
/// Damage, I/O errors; the next opening goes on.
pub fn finish(storage: &Arc<dyn Storage>, layout: &Layout, store: StoreId, clean: bool) -> Result<Option<Done>> {
    let Some(intent) = Intent::read(&**storage, &layout.purging(), store)? else { return Ok(None) };
    let mut done = Done::default();
    // The room that is kept back for a full disk: copies need it now. The next opening keeps it back again.
    remove(&**storage, &layout.reserve())?;
    let mut checkpoint = checkpoint::open(&**storage, &layout.checkpoint(), store)?.unwrap_or_else(|| Checkpoint::first(store));
    // Packs that were being overwritten.
    let packs = storage.list(&layout.blobs()).map_err(|e| Error::io(format!("cannot list {}", layout.blobs().display()), e))?;
    for name in packs.iter().filter(|n| n.as_encoded_bytes().ends_with(b".pack.tmp")) {
        shred_at(&**storage, &layout.blobs().join(name))?;
    }
    let (blobs, _) = Blobs::open(Arc::clone(storage), layout.blobs(), store, blobs::OpenMode::Write { clean })?;
    let mode = Mode::Write { keep_up_to: checkpoint.version };
    let mut versions = VersionLog::open(Arc::clone(storage), layout.versions(), store, mode)?;
    let root = states(storage, layout, &intent, &blobs, &mut versions, checkpoint.root, &mut done)?;
    log(storage, layout, &mut checkpoint, root, &mut done)?;
    let Intent { time, reason, inodes, blobs: chunks, .. } = intent;
    let inodes = inodes.len() as u64;
    let tombstone = Tombstone { time, reason, inodes, blobs: chunks };
    blobs::purged::append(&**storage, &layout.purged(), store, &tombstone)?;
    let gone: HashSet<BlobId> = tombstone.blobs.iter().map(|(id, _)| *id).collect();
    sweep(layout, &blobs, &versions, &checkpoint, &gone, &mut done)?;
    rest(layout, &mut done)?;
    remove(&**storage, &layout.purging())?;
    storage.sync_dir(&layout.meta()).map_err(|e| Error::io(format!("cannot sync {}", layout.meta().display()), e))?;
    Ok(Some(done))
}

/// Steps 1 and 2. Gives the checkpoint's new state.
fn states(
    storage: &Arc<dyn Storage>,
    layout: &Layout,
    intent: &Intent,
    blobs: &Blobs,
    versions: &mut VersionLog,
    newest: Option<BlobId>,
    done: &mut Done,
) -> Result<Option<BlobId>> {
    // Also where no inode goes: what directories without a name were stored with does.
    let inodes: BTreeSet<Ino> = intent.inodes.iter().copied().collect();
    let nothing = HashMap::new();
    let mut rewriter = Rewriter::new(blobs, &inodes, &nothing);
    let mut new_root = |version: &Version| -> Result<BlobId> {
        if intent.keeps(version.seq, &version.root, newest.as_ref()) {
            return Ok(version.root);
        }
        let rewritten = rewriter.state(&version.root).map_err(|e| unreadable(layout, Error::from(e)))?;
        Ok(rewritten.id.unwrap_or(version.root))
    };
    for version in versions.iter() {
        let version = version?;
        done.versions += u64::from(new_root(&version)? != version.root);
    }
    blobs.sync()?;
    if done.versions > 0 {
        let old = storage.open(&layout.versions()).map_err(|e| Error::io(format!("cannot open {}", layout.versions().display()), e))?;
        let index = layout.versions_index();
        shred_at(&**storage, &index)?;
        let mut before: Option<BlobId> = None;
        versions.rewrite(&mut |version| {
            let root = new_root(version)?;
            let same = root == version.root && before == version.parent_root;
            let parent = before.replace(root);
            if same {
                return Ok(Action::Keep);
            }
            // What was not listed then (paths without history) is not listed now.
            let had: HashSet<&[u8]> = version.paths.iter().map(|change| change.path.as_slice()).collect();
            let mut paths = listed(&between(blobs, parent.as_ref(), &root)?);
            paths.retain(|change| had.contains(change.path.as_slice()));
            Ok(Action::Change(Version { root, paths, ..version.clone() }))
        })?;
        // It has no name any more.
        shred(&*old).map_err(|e| Error::io("cannot overwrite the old version log", e))?;
    }
    let root = match newest {
        Some(root) if intent.keep.is_none() => rewriter.state(&root).map_err(|e| unreadable(layout, Error::from(e)))?.id,
        other => other,
    };
    blobs.sync()?;
    Ok(root)
}

/// Step 3: all segments but the last.
fn log(storage: &Arc<dyn Storage>, layout: &Layout, checkpoint: &mut Checkpoint, root: Option<BlobId>, done: &mut Done) -> Result<()> {
    let wal = layout.wal();
    let doing = |what: &str, e| Error::io(format!("cannot {what} {}", wal.display()), e);
    let names = storage.list(&wal).map_err(|e| doing("list", e))?;
    let segments: BTreeSet<SegmentId> = names.iter().filter_map(|n| segment_of_name(n)).collect();
    let floor = segments.last().copied().unwrap_or(checkpoint.floor).max(checkpoint.floor);
    storage.sync_dir(&wal).map_err(|e| doing("sync", e))?;
    if checkpoint.root != root || checkpoint.floor != floor {
        (checkpoint.root, checkpoint.floor) = (root, floor);
        checkpoint::replace(&**storage, &layout.checkpoint(), checkpoint)?;
    }
    for name in names {
        if segment_of_name(&name).is_some_and(|id| id < floor) {
            shred_at(&**storage, &wal.join(&name))?;
            done.segments += 1;
        }
    }
    storage.sync_dir(&wal).map_err(|e| doing("sync", e))
}

/// Step 5.
fn sweep(
    layout: &Layout,
    blobs: &Blobs,
    versions: &VersionLog,
    checkpoint: &Checkpoint,
    gone: &HashSet<BlobId>,
    done: &mut Done,
) -> Result<()> {
    let sweep = blobs.begin_sweep()?;
    if sweep.leaves_the_last() {
        return Err(Error::new(Class::Full, "the disk is too full to write the packs anew, and the purge is not ended")
            .hint("make room on it, then mount the project or order anything of it: the purge goes on by itself"));
    }
    let mut walk = Walk::new(blobs);
    let roots = versions.iter().map(|version| version.map(|v| v.root)).chain(checkpoint.root.map(Ok));
    for root in roots {
        // All of it could be read when the purge began.
        walk.state(&root?).map_err(|e| unreadable(layout, Error::from(e)))?;
    }
    // What states are made of stays, also where a file holds the same bytes: without it the whole state would be gone.
    let gone: HashSet<&BlobId> = gone.iter().filter(|id| !walk.structure().contains(*id)).collect();
    let keep = walk.kept();
    let options = SweepOptions { garbage_percent: 0, shred: true };
    let report = sweep.run(&|id| keep.contains(id) && !gone.contains(id), options)?;
    (done.blobs, done.packs, done.damaged) = (report.blobs_dropped, report.packs_removed, report.packs_damaged);
    Ok(())
}

/// What is damaged now keeps a purge from its end, and the project from being opened.
fn unreadable(layout: &Layout, e: Error) -> Error {
    let purging = layout.purging();
    Error::new(e.class, format!("the purge that has begun cannot be brought to its end, because a version cannot be read: {e}")).hint(format!(
        "`ize fsck` names what is damaged and what mends it, then order anything of the project; to open it as it is, move {} away: what was to \
         go is in the packs still, until the purge is ordered again (`ize purge --garbage` where nothing names it any more)",
        purging.display()
    ))
}

/// Step 6: what is no part of the store's state.
fn rest(layout: &Layout, done: &mut Done) -> Result<()> {
    done.pijul = layout.pijul().exists();
    for path in [
        layout.pijul(),
        layout.pijul_index(),
        layout.pijul_rebuild(),
        layout.wal().join("torn"),
        layout.wal().join("repaired"),
        layout.last_recovery(),
        layout.older_daemon_log(),
    ] {
        shred_all(&path)?;
    }
    // Who carries this out may write to it, and goes on doing so. It is no part of the store: one that cannot be written must not keep the
    // project from being opened.
    if let Err(e) = empty(&layout.daemon_log()) {
        tracing::warn!("{e}: it may tell of what was purged");
    }
    atomic::sync_dir(&layout.meta()).or_else(missing)?;
    atomic::sync_dir(layout.dir()).or_else(missing)
}

/// A simulated disk has no such directory.
fn missing(e: Error) -> Result<()> {
    let gone = e.source.as_ref().and_then(|e| e.downcast_ref::<io::Error>()).is_some_and(|e| e.kind() == io::ErrorKind::NotFound);
    if gone { Ok(()) } else { Err(e) }
}

fn remove(storage: &dyn Storage, path: &Path) -> Result<()> {
    match storage.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("cannot remove {}", path.display()), e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Overwrites a file with zeros, durably.
///
/// # Errors
/// I/O errors.
pub(crate) fn shred(file: &dyn StorageFile) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    let (len, mut at) = (file.len()?, 0);
    while at < len {
        let part = zeros.get(..usize::try_from((len - at).min(ZEROS as u64)).unwrap_or(ZEROS)).unwrap_or(&zeros);
        file.write_at(&[part], at)?;
        at += part.len() as u64;
    }
    if len == 0 { Ok(()) } else { file.sync_data() }
}

/// Overwrites a file and removes it; one that is missing is none.
fn shred_at(storage: &dyn Storage, path: &Path) -> Result<()> {
    match storage.open(path) {
        Ok(file) => shred(&*file).map_err(|e| Error::io(format!("cannot overwrite {}", path.display()), e))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(format!("cannot open {}", path.display()), e)),
    }
    remove(storage, path)
}

/// Overwrites a file of the host, durably.
fn overwrite(path: &Path) -> io::Result<std::fs::File> {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    let (len, mut at) = (file.metadata()?.len(), 0);
    let zeros = vec![0; ZEROS];
    while at < len {
        let part = zeros.get(..usize::try_from((len - at).min(ZEROS as u64)).unwrap_or(ZEROS)).unwrap_or(&zeros);
        file.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    file.sync_data()?;
    Ok(file)
}

/// Overwrites a file of the host and cuts it to nothing; one that is missing is none.
fn empty(path: &Path) -> Result<()> {
    match overwrite(path).and_then(|file| file.set_len(0)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("cannot overwrite {}", path.display()), e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The same as [`shred_at`] for a file or a whole directory of the host; links are not followed.
fn shred_all(path: &Path) -> Result<()> {
    let doing = || format!("cannot remove {}", path.display());
    let kind = match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.doing(doing)?.file_type(),
    };
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).doing(doing)? {
            shred_all(&entry.doing(doing)?.path())?;
        }
        return std::fs::remove_dir(path).doing(doing);
    }
    if kind.is_file() {
        // Best effort: change files of Pijul are read-only.
        if let Err(e) = overwrite(path) {
            tracing::warn!("{} goes without being overwritten: {e}", path.display());
        }
    }
    std::fs::remove_file(path).doing(doing)
}
