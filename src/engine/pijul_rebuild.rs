//! Making the Pijul repository anew, beside the old one. It is work of the thread that feeds Pijul, which then feeds a repository in
//! `meta/pijul-rebuild`; when that has all versions the two change places.
//!
//! Safe at every step: the new one is complete (its token is durable) before it takes the old one's place, in one rename that swaps both;
//! only then the old one goes. Whoever opens the project next goes on where a crash came: with the token in the new place the swap is to
//! come, with the token in the old place it was done, without one more versions are to be recorded.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::feeder::{Feeder, Order, Stop};
use super::pijul_feed::Feed;
use super::pijul_index;
use crate::control::message::{PijulRebuild, RebuildReport, RebuildRequest};
use crate::error::{Class, Error, IoContext, Result};
use crate::ids::VersionSeq;
use crate::pijul::step;
use crate::project::atomic;

/// Says that a repository has all that it is to have.
const TOKEN: &str = "ize-complete";
/// The repository, in the directory where it is made as in the project.
const DOT: &str = ".pijul";

impl Feeder {
    /// Does what was ordered, or goes on with what was interrupted.
    pub(super) fn rebuild_if_ordered(&self, slot: &mut Option<Feed>, stop: &Stop<'_>) -> Result<()> {
        let request = self.locked().order.as_ref().map(|order| order.request);
        let begun = self.core.layout.pijul_rebuild().exists();
        if request.is_none() && !begun {
            // What a crash in the last step left.
            return forget_token(&self.core.layout.pijul());
        }
        let request = request.unwrap_or(RebuildRequest { discard: true, dry_run: false });
        let result = self.remake(&request, slot, stop);
        {
            let mut state = self.locked();
            state.report.rebuild = None;
        }
        self.remade.store(0, Ordering::Release);
        if matches!(&result, Ok(None)) {
            // Told to stop: it goes on at the next opening.
            return Ok(());
        }
        let Some(Order { answer, .. }) = self.locked().order.take() else { return result.map(drop) };
        let result = result.and_then(|report| report.ok_or_else(|| Error::new(Class::Failed, "it was interrupted")));
        // Whoever asked may have gone; the error is theirs, not the feed's.
        let _ = answer.send(result);
        Ok(())
    }

    /// `None` when it was told to stop.
    fn remake(&self, request: &RebuildRequest, slot: &mut Option<Feed>, stop: &Stop<'_>) -> Result<Option<RebuildReport>> {
        let since = Instant::now();
        let layout = &self.core.layout;
        let (live, beside) = (layout.pijul(), layout.pijul_rebuild());
        let versions = self.core.history().versions.len();
        let mut report = RebuildReport { versions, dry_run: request.dry_run, ..RebuildReport::default() };
        // What cannot be read of the old one is no reason to keep it.
        report.foreign = if live.exists() { self.foreign(slot).unwrap_or(0) } else { 0 };
        if request.dry_run {
            return Ok(Some(report));
        }
        if report.foreign > 0 && !request.discard {
            let what = format!("{} changes in the Pijul repository are not ize's and would go", report.foreign);
            return Err(Error::new(Class::Refused, what).hint("`pijul clone` the project's directory to keep them, then give --yes"));
        }
        if live.join(TOKEN).exists() {
            // A crash came after the swap.
            let swapped = beside.exists();
            self.let_the_old_go(&live, &beside, slot)?;
            if swapped {
                return Ok(Some(report));
            }
        }
        fs::create_dir_all(&beside).doing(|| format!("cannot create {}", beside.display()))?;
        if !beside.join(DOT).join(TOKEN).exists() {
            let told = |seq: VersionSeq, changes: u64| {
                self.remade.store(seq.0, Ordering::Release);
                self.locked().report.rebuild = Some(PijulRebuild { versions: changes, of: versions });
            };
            told(VersionSeq(0), 0);
            let mut fed = self.opened(&beside, false).and_then(|mut feed| self.feed(&mut feed, stop, &told, false).map(|()| feed));
            if !matches!(&fed, Err(e) if matches!(e.class, Class::Io | Class::Full | Class::Busy)) && fed.is_err() {
                // What an earlier try left is of no use.
                remove_all(&beside)?;
                fs::create_dir_all(&beside).doing(|| format!("cannot create {}", beside.display()))?;
                fed = self.opened(&beside, false).and_then(|mut feed| self.feed(&mut feed, stop, &told, false).map(|()| feed));
            }
            let feed = match fed {
                Err(e) if !matches!(e.class, Class::Io | Class::Full | Class::Busy) => {
                    // It would be the same the next time, and the old one wants to be fed.
                    remove_all(&beside)?;
                    return Err(e);
                }
                fed => fed?,
            };
            if stop() {
                return Ok(None);
            }
            (report.refused, report.changes) = (feed.recording.refused.count, self.remade_changes());
            drop(feed);
            step("a repository is remade");
            put_token(&beside.join(DOT))?;
            step("a repository is complete");
        }
        self.swap(&live, &beside, slot)?;
        step("repositories are swapped");
        self.let_the_old_go(&live, &beside, slot)?;
        report.millis = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Some(report))
    }

    fn remade_changes(&self) -> u64 {
        self.locked().report.rebuild.as_ref().map_or(0, |rebuild| rebuild.versions)
    }

    fn foreign(&self, slot: &mut Option<Feed>) -> Result<u64> {
        match slot {
            Some(feed) => feed.recording.foreign(),
            None => self.opened(self.core.layout.dir(), true)?.recording.foreign(),
        }
    }

    fn swap(&self, live: &Path, beside: &Path, slot: &mut Option<Feed>) -> Result<()> {
        // A client in the middle of something would find itself in another repository.
        if let Some(feed) = slot {
            match feed.recording.wait_for_lock() {
                Err(e) if e.class == Class::Busy => return Err(e),
                _ => {}
            }
        }
        *slot = None;
        let new = beside.join(DOT);
        let doing = || format!("cannot put {} into its place", new.display());
        let swapped = rustix::fs::renameat_with(rustix::fs::CWD, &new, rustix::fs::CWD, live, rustix::fs::RenameFlags::EXCHANGE);
        match swapped {
            Ok(()) => {}
            Err(rustix::io::Errno::NOENT) if !live.exists() => fs::rename(&new, live).doing(doing)?,
            // A file system that cannot swap. Between the two renames there is none: the next opening finds the token here, and goes on.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::rename(live, beside.join("old")).doing(doing)?;
                fs::rename(&new, live).doing(doing)?;
            }
            Err(e) => return Err(Error::io(doing(), e.into())),
        }
        atomic::sync_dir(self.core.layout.dir())?;
        atomic::sync_dir(beside)
    }

    fn let_the_old_go(&self, live: &Path, beside: &Path, slot: &mut Option<Feed>) -> Result<()> {
        *slot = None;
        // Not the old one's hashes; the next look at the log writes it.
        pijul_index::rewrite(&self.core.layout, &[])?;
        step("an index is emptied");
        remove_all(beside)?;
        step("an old repository is gone");
        forget_token(live)
    }
}

/// It is empty, so that it is there or not, and nothing else of it after a crash.
fn put_token(dir: &Path) -> Result<()> {
    let token = dir.join(TOKEN);
    fs::File::create(&token).and_then(|file| file.sync_all()).doing(|| format!("cannot create {}", token.display()))?;
    atomic::sync_dir(dir)
}

fn forget_token(live: &Path) -> Result<()> {
    let token = live.join(TOKEN);
    match fs::remove_file(&token) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(format!("cannot remove {}", token.display()), e)),
        Ok(()) => atomic::sync_dir(live),
    }
}

fn remove_all(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("cannot remove {}", dir.display()), e)),
        _ => Ok(()),
    }
}
