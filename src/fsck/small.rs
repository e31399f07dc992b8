//! The small files of `meta/`: who the project is, where versions are found, what is under way, what was purged, the way out without ize.

use super::finding::{Finding, Part};
use super::{Look, Verdict};
use crate::blobs::purged::{self, Tombstone};
use crate::engine::purge;
use crate::project::config::Settings;
use crate::project::identity::Identity;
use crate::project::importing::Importing;
use crate::rescue;
use crate::versions::check::log::{self, VersionsReport};
use crate::versions::checkpoint;
use crate::versions::version_index;

impl Look<'_> {
    /// All of them. `versions` is what the version log says.
    pub(super) fn small_files(&mut self, versions: &VersionsReport) {
        self.identity();
        self.versions_index(versions);
        self.importing();
        self.purges();
        self.rescue();
        if !versions.versions.is_empty() && !self.layout.pijul().is_dir() {
            self.report.notes.push("there is no Pijul repository; versions do not need it".to_owned());
        }
    }

    fn identity(&mut self) {
        let path = self.layout.identity();
        match Identity::read(&path) {
            Ok(identity) if identity.id == self.store => {
                if let Err(e) = Settings::default().apply(&identity.settings, "meta/project.toml") {
                    self.report.notes.push(format!("a setting of the project cannot be used: {}", e.message));
                }
            }
            Ok(_) => {
                let what = "it names another store than the log does";
                self.report.findings.push(Finding::new(Verdict::Damage, Part::Identity, &path, what));
            }
            Err(e) => self.report.findings.push(Finding::of_error(Part::Identity, &path, &e)),
        }
    }

    /// Is every version where the index file says, and is it the one that it says?
    fn versions_index(&mut self, versions: &VersionsReport) {
        let path = self.layout.versions_index();
        match self.storage.open_read(&path) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
            Err(e) => {
                self.report.findings.push(Finding::new(Verdict::IoError, Part::Index, &path, format!("it cannot be read: {e}")));
                return;
            }
        }
        let what = match version_index::read(&**self.storage, &path, self.store) {
            None => "it fails its check, or is another store's".to_owned(),
            // What it should say is not known whole.
            Some(_) if !versions.findings.is_empty() => return,
            Some((lights, end)) => {
                let (mut ours, mut wrong) = (versions.versions.iter(), None);
                for light in &lights {
                    match ours.next() {
                        Some(version) if version.light() == *light => {}
                        Some(version) => {
                            wrong = Some(format!("what it says of version {} is not so", version.seq));
                            break;
                        }
                        None => {
                            wrong = Some(format!("it names version {}, which does not count", light.seq));
                            break;
                        }
                    }
                }
                // Behind what it covers the next version begins.
                match (wrong, ours.next()) {
                    (Some(wrong), _) => wrong,
                    (None, Some(next)) if next.offset != end => {
                        format!("it ends at offset {end}, and version {} begins elsewhere", next.seq)
                    }
                    (None, _) => return,
                }
            }
        };
        if self.is_rewritten(versions) {
            return;
        }
        let mut finding = Finding::new(Verdict::TornTail, Part::Index, &path, what);
        finding.mend = "remove it: it is made again from meta/versions".to_owned();
        self.report.findings.push(finding);
    }

    /// Are other versions there than those that were looked at?
    fn is_rewritten(&self, versions: &VersionsReport) -> bool {
        let keep = checkpoint::read(&**self.storage, &self.layout.checkpoint(), self.store).ok().flatten().map(|c| c.version);
        let now = log::check(self.storage, self.layout.versions(), self.store, keep);
        now.is_ok_and(|now| now.versions != versions.versions)
    }

    /// An import that has begun.
    fn importing(&mut self) {
        let name = || Identity::read(&self.layout.identity()).map_or_else(|_| "NAME".to_owned(), |identity| identity.name);
        match Importing::read(self.layout) {
            Ok(None) => {}
            Ok(Some(begun)) => {
                let source = begun.source.display();
                let gone = if begun.source.is_dir() { "" } else { ", which is not there now" };
                self.report.notes.push(format!(
                    "the import of {source}{gone} is unfinished: `{}` goes on with it; without meta/import.toml what is there stays as it is",
                    begun.command(&name())
                ));
            }
            Err(e) => {
                let mut finding = Finding::of_error(Part::Import, &self.layout.importing(), &e);
                finding.mend = format!(
                    "it is text: write `source = \"DIR\"` into it, then `ize init {} --from DIR` goes on; or remove it to keep what is there as it is",
                    name()
                );
                self.report.findings.push(finding);
            }
        }
    }

    /// What was purged is not missing; a purge that was interrupted goes on by itself.
    fn purges(&mut self) {
        let unfinished = match purge::is_unfinished(&**self.storage, self.layout, self.store) {
            Ok(unfinished) => unfinished,
            Err(e) => {
                self.report.findings.push(Finding::of_error(Part::Purged, &self.layout.purging(), &e));
                true
            }
        };
        let path = self.layout.purged();
        match purged::read(&**self.storage, &path, self.store) {
            Ok(all) => {
                // A purge that is under way may have been stopped while it wrote.
                if let Some(end) = self.purged_end(&all).filter(|_| !unfinished) {
                    let what = "what stands there is no record: what was purged then, and later, counts as missing";
                    self.report.findings.push(Finding { offset: Some(end), ..Finding::new(Verdict::Damage, Part::Purged, &path, what) });
                }
                for t in all {
                    let reason = if t.reason.is_empty() { String::new() } else { format!(" ({})", t.reason) };
                    let on = crate::cli::output::time(t.time);
                    let still = t.blobs.iter().filter(|(id, _)| matches!(self.blobs.contains(id), Ok(None))).count();
                    self.report.notes.push(format!(
                        "purged on {on}{reason}: {} files, links and directories; {still} blobs that states name are gone on purpose",
                        t.inodes
                    ));
                }
            }
            Err(e) => self.report.findings.push(Finding::of_error(Part::Purged, &path, &e)),
        }
        if unfinished {
            self.report.notes.push("a purge was interrupted: the next opening for writing brings it to its end".to_owned());
            // In between, the checkpoint and its version may name states before and after it.
            self.report.findings.retain(|f| f.part != Part::Checkpoint || f.what != self.between);
        }
    }

    /// Where the records of `meta/purged` end, when it does not end there.
    fn purged_end(&self, all: &[Tombstone]) -> Option<u64> {
        let len = self.storage.open_read(&self.layout.purged()).and_then(|file| file.len()).ok()?;
        let records = all.iter().map(|t| postcard::to_stdvec(t).map_or(0, |body| (purged::FRAME + body.len()) as u64));
        let end = purged::HEADER as u64 + records.sum::<u64>();
        (len > end).then_some(end)
    }

    /// Is the way out without ize as it was written?
    fn rescue(&mut self) {
        for path in rescue::changed(self.layout) {
            let mut finding = Finding::new(Verdict::TornTail, Part::Rescue, &path, "it is not what ize wrote");
            finding.affected.note = Some("no file and no version: the way to the files without ize".to_owned());
            finding.mend = "the next mount writes it afresh".to_owned();
            self.report.findings.push(finding);
        }
    }
}
