//! `ize purge`: what was saved by accident really goes, from every version, from the log, the packs and the Pijul history.
//!
//! Works on a project that nobody has open. [`Purge::prepare`] takes the lock, recovers, makes versions of everything and finds what would go;
//! [`Purge::carry_out`] writes down what goes (`intent`) and does it (`finish`). A crash before that is written leaves everything; after it, the
//! next opening for writing goes on.

mod finish;
mod intent;
mod logged;
mod select;
mod states;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use finish::shred;
pub use finish::{Done, finish};
pub use intent::Intent;
pub use select::{Files, Paths};

use self::select::{Selected, Told};
use self::states::{Probe, Rewriter};
use super::core::Core;
use super::prune::Walk;
use crate::blobs::{Blobs, purged};
use crate::error::{Class, Error, Result};
use crate::fs::journal::Caller;
use crate::ids::{BlobId, StoreId, Time, VersionSeq};
use crate::op::{Mark, Marker};
use crate::project::importing::Importing;
use crate::project::lock::Lock;
use crate::project::{Layout, Project, Settings};
use crate::storage::Storage;
use crate::versions::version_log::ChangeId;
use crate::wal::{self, Bounds};

/// What is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Paths from the root: files, links, directories with all below; they need not exist now. Empty where blobs are named, or nothing is.
    pub paths: Vec<Vec<u8>>,
    /// Blobs: the entries of files that hold them stay, their bytes go. Without blobs and paths only what no state names goes, as it does in
    /// any case.
    pub blobs: Vec<BlobId>,
    /// The newest state keeps what it has.
    pub keep_current: bool,
    /// The bytes go from other files that hold them, too.
    pub everywhere: bool,
    /// Other files that hold some of the bytes keep them.
    pub leave_others: bool,
    /// What was moved out of a named directory goes, too.
    pub moved_out: bool,
    /// What was moved out of a named directory stays where it is now.
    pub leave_moved: bool,
    /// Why, for `meta/purged`.
    pub reason: String,
}

/// A version that holds something of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Its number.
    pub seq: VersionSeq,
    /// Its change id.
    pub id: ChangeId,
    /// When it ended.
    pub end: Time,
}

/// What would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// Versions that hold some of it: how many, the first and the last.
    pub versions: u64,
    /// The first.
    pub first: Option<Holding>,
    /// The last.
    pub last: Option<Holding>,
    /// Files, links and directories.
    pub inodes: u64,
    /// Files without a name in any state, which were open and unlinked when a version was made.
    pub unlinked: u64,
    /// Every path that they have or had; what is below one of them is left out.
    pub paths: Paths,
    /// Those that go only because of what the log says: they stood at a path, or in a directory, between two versions.
    pub by_log: Files,
    /// Those that stood at no named path themselves, but were once in a named directory, and stand elsewhere in some state.
    pub moved: Files,
    /// Paths of other files that hold the same bytes.
    pub others: Paths,
    /// Whether the newest state has some of it.
    pub in_newest: bool,
    /// Those of the paths that no state names, and the log does.
    pub logged: Vec<Vec<u8>>,
    /// Segments with operations on them, or on what else stood at a path.
    pub logged_segments: u64,
    /// Some of the log cannot be read: what it says of the paths is not known.
    pub log_damaged: bool,
    /// Under which names files stood is not always known: the log's records begin in the middle of a version, or do not tell a directory's path.
    pub names_unknown: bool,
    /// Blobs that no state names, and the bytes that they take in the packs; counted where nothing else was asked for.
    pub garbage: Option<(u64, u64)>,
    /// Segments of the log that go, and their bytes.
    pub segments: (u64, u64),
    /// Whether there is a Pijul repository, which is made anew.
    pub pijul: bool,
}

/// A purge that may be carried out.
#[derive(Debug)]
pub struct Purge {
    core: Core,
    lock: Lock,
    intent: Intent,
    preview: Preview,
    /// Why it may not be carried out.
    refusal: Option<Error>,
}

/// Has a purge begun that was not ended?
///
/// # Errors
/// `Damage` when that cannot be read; I/O errors.
pub fn is_unfinished(storage: &dyn Storage, layout: &Layout, store: StoreId) -> Result<bool> {
    Ok(Intent::read(storage, &layout.purging(), store)?.is_some())
}

impl Purge {
    /// Takes the project, makes versions of everything in it, and finds what would go.
    ///
    /// # Errors
    /// `Busy` while it is mounted; `NotFound` when neither a state nor the log has a path, or no file a blob; `Refused` for a project whose import has not ended; what recovery says.
    pub fn prepare(project: &Project, settings: &Settings, request: &Request) -> Result<Self> {
        if Importing::read(&project.layout)?.is_some() {
            return Err(Error::new(Class::Refused, "an import into the project was interrupted, and would bring back what is purged")
                .hint("bring it to its end first: `ize init NAME --from DIR` goes on with it"));
        }
        let (lock, core, _) = super::take(project, settings)?;
        Self::on(core, lock, request)
    }

    fn on(core: Core, lock: Lock, request: &Request) -> Result<Self> {
        core.close()?;
        match plan(&core, request) {
            Ok((intent, preview, refusal)) => Ok(Self { core, lock, intent, preview, refusal }),
            Err(e) => {
                drop(core);
                lock.release_clean()?;
                Err(e)
            }
        }
    }

    /// What would go.
    #[must_use]
    pub fn preview(&self) -> &Preview {
        &self.preview
    }

    /// Lets go of the project; nothing was purged.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn leave(self) -> Result<()> {
        drop(self.core);
        self.lock.release_clean()
    }

    /// Does it.
    ///
    /// # Errors
    /// `Refused` when others hold the same bytes and were not named; I/O errors: once it has begun, the next opening goes on.
    pub fn carry_out(self) -> Result<Done> {
        let Self { core, lock, intent, refusal, .. } = self;
        if let Some(refusal) = refusal {
            drop(core);
            lock.release_clean()?;
            return Err(refusal);
        }
        let (storage, layout, store) = (Arc::clone(&core.storage), core.layout.clone(), core.store);
        begin(core, &intent)?;
        let done = finish(&storage, &layout, store, true)?.unwrap_or_default();
        lock.release_clean()?;
        Ok(done)
    }
}

/// Brings the log to a segment that holds nothing but marks, all of it below the checkpoint, and writes down what goes.
fn begin(core: Core, intent: &Intent) -> Result<()> {
    // The first mark closes what is open, whatever stands behind the checkpoint; the second stands in a segment of its own.
    for _ in 0..2 {
        core.fs.locked().log(&Caller::default(), Mark { marker: Marker::Commit { message: None } }.into(), None, None)?;
        core.replay(true)?;
    }
    core.blobs.sync()?;
    let checkpoint = core.history().checkpoint.clone();
    let bounds = Bounds { checkpoint: checkpoint.lsn, floor: checkpoint.floor };
    let scan = wal::scan(&*core.storage, &core.layout.wal(), core.store, bounds)?;
    // Where a damaged segment ends may not be known; what the last one follows is below it all the same.
    let settled = scan.segments.split_last().is_none_or(|(last, before)| {
        last.header.is_some() && last.first_lsn <= checkpoint.lsn.next() && before.iter().all(|segment| segment.last_lsn <= checkpoint.lsn)
    });
    if !settled {
        return Err(Error::new(Class::Failed, "the log cannot be let go of: a segment holds operations that no version holds")
            .hint("`ize fsck` says what is wrong with it"));
    }
    intent.write(&*core.storage, &core.layout.purging(), core.store)
}

fn nowhere(path: &[u8], preview: &Preview) -> Error {
    let path = crate::cli::output::name(path);
    let unknown = match (preview.log_damaged, preview.names_unknown) {
        (true, _) => ", some of which cannot be read,",
        (false, true) => ", which does not go back to the end of a version,",
        (false, false) => "",
    };
    Error::new(Class::NotFound, format!("neither a version nor the log{unknown} names {path}")).hint(
        "`ize history` lists what there was; `ize purge --garbage` overwrites everything that no version holds: what was thinned out, \
         what came and went between two versions, the log",
    )
}

fn walked<'a>(blobs: &'a Blobs, roots: &[BlobId]) -> Result<Walk<'a>> {
    let mut walk = Walk::new(blobs);
    roots.iter().try_for_each(|root| walk.state(root))?;
    Ok(walk)
}

/// Why blobs may not go although nobody is to keep them: states are made of one.
fn structure(walk: &Walk<'_>, gone: &HashMap<BlobId, u32>) -> Option<Error> {
    gone.keys().filter(|id| walk.structure().contains(*id)).min().map(|id| {
        Error::new(Class::Refused, format!("blob {id} cannot go: a file holds the very bytes of which a directory of some version is made"))
            .hint("name the paths of the files that hold it, all of them: they go, and the directory stays")
    })
}

/// Blobs that no state names, and the bytes that they take.
fn garbage(blobs: &Blobs, walk: &Walk<'_>) -> Result<(u64, u64)> {
    let mut found = (0, 0);
    blobs.each_stored(&mut |id, bytes| {
        if !walk.keeps(id) {
            found = (found.0 + 1, found.1 + bytes);
        }
    })?;
    Ok(found)
}

fn plan(core: &Core, request: &Request) -> Result<(Intent, Preview, Option<Error>)> {
    let blobs = &*core.blobs;
    // Said now: a purge that has begun could not end.
    purged::read(&*core.storage, &core.layout.purged(), core.store)?;
    let (mut versions, newest, kept) = {
        let history = core.history();
        let all: Result<Vec<_>> =
            history.versions.iter().map(|v| v.map(|v| (v.root, Holding { seq: v.seq, id: v.id, end: v.end }))).collect();
        (all?, history.checkpoint.root, history.checkpoint.version)
    };
    let mut roots: Vec<BlobId> = versions.iter().map(|(root, _)| *root).chain(newest).collect();
    let mut seen = std::collections::HashSet::new();
    roots.retain(|root| seen.insert(*root));
    // Everything that the sweep at the end will read: one that cannot must not begin, it could never end.
    let walk = walked(blobs, &roots).map_err(|e| {
        Error::new(e.class, format!("a version cannot be read, so that nothing can be purged: {e}"))
            .hint("`ize fsck` names what is damaged and what mends it; then order the purge again")
    })?;
    let by_path = !request.paths.is_empty();
    let mut preview = Preview { pijul: core.layout.pijul().exists(), ..Preview::default() };
    let Selected { inodes, nameless, paths, by_log, others, shared, in_newest, moved, .. } = if by_path {
        let mut logged = logged::at_paths(core, &request.paths)?;
        let told = Told { inodes: &logged.inodes, contents: &logged.contents };
        let selected = select::by_paths(blobs, &roots, newest.as_ref(), &request.paths, told, request.leave_moved)?;
        preview.log_damaged = !logged.whole;
        preview.names_unknown = logged.names_unknown;
        for (path, (found, logged)) in request.paths.iter().zip(selected.found.iter().zip(&logged.named)) {
            match (found, logged) {
                (true, _) => {}
                (false, true) => preview.logged.push(path.clone()),
                (false, false) => return Err(nowhere(path, &preview)),
            }
        }
        if !preview.logged.is_empty() {
            logged::add_segments(core, &selected.all, &mut logged.segments)?;
            preview.logged_segments = logged.segments.len() as u64;
        }
        selected
    } else if request.blobs.is_empty() {
        preview.garbage = Some(garbage(blobs, &walk)?);
        Selected { nameless: select::nameless(blobs, &roots)?, ..Selected::default() }
    } else {
        select::by_blobs(blobs, &roots, newest.as_ref(), &request.blobs)?
    };
    let by_blob = !request.blobs.is_empty() && !by_path;
    if let Some(missing) = request.blobs.iter().find(|id| !shared.contains_key(*id)) {
        return Err(Error::new(Class::NotFound, format!("no file of any version holds blob {missing} as a piece"))
            .hint("name the path of the file, or say --garbage: what no version holds goes with either"));
    }
    let is_newest = |(root, v): &(BlobId, Holding)| v.seq == kept && newest == Some(*root);
    let keep = if versions.iter().any(is_newest) { kept } else { VersionSeq(0) };
    if request.keep_current {
        versions.retain(|version| !is_newest(version));
    }
    let nothing = HashMap::new();
    let probe = Probe(blobs);
    let goes = by_blob || request.everywhere;
    let mut rewriter = Rewriter::new(&probe, &inodes, if goes { &shared } else { &nothing });
    preview = Preview { inodes: inodes.len() as u64, unlinked: nameless.len() as u64, paths, by_log, moved, others, in_newest, ..preview };
    if let Some(newest) = newest.filter(|_| goes) {
        preview.in_newest |= rewriter.state(&newest)?.touched;
    }
    for (root, version) in versions {
        if rewriter.state(&root)?.touched {
            preview.versions += 1;
            preview.first.get_or_insert(version);
            preview.last = Some(version);
        }
    }
    let log = core.log.usage();
    preview.segments = (log.segments, log.bytes);
    let settled = request.everywhere || request.leave_others || preview.others.listed.is_empty();
    let moved_settled = request.moved_out || request.leave_moved || preview.moved.count == 0;
    let refusal = if by_path && !moved_settled {
        let why = Error::new(Class::Refused, "files that were once in a directory that is named were moved out of it, and would go, too");
        Some(why.hint("name only what is meant, or say --moved-out (they go) or --leave-moved (they stay where they are)"))
    } else if by_path && !settled {
        let why = Error::new(Class::Refused, "other files hold the same bytes, and would keep them");
        Some(why.hint("name them too, or say --everywhere (they lose these bytes) or --leave-others (they keep them)"))
    } else if goes {
        structure(&walk, &shared)
    } else {
        None
    };
    let intent = Intent {
        time: Time::now(),
        reason: request.reason.clone(),
        inodes: inodes.union(&nameless).copied().collect(),
        blobs: if goes { shared.into_iter().collect() } else { Vec::new() },
        keep: request.keep_current.then_some(keep),
    };
    Ok((intent, preview, refusal))
}
