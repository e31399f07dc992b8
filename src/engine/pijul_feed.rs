//! Feeds versions to replay B: hands what each version changed to the Pijul repository, one change a version, and keeps the index of the
//! changes' hashes.

use std::path::Path;
use std::sync::Arc;

use super::pijul_index::{self, Line};
use super::pijul_states::{States, described};
use crate::error::Result;
use crate::ids::{StoreId, VersionSeq};
use crate::pijul::refusal::Refusal;
use crate::pijul::{LogEntry, Outcome, Owner, Recorded, Repository, VersionInput, step};
use crate::project::Layout;
use crate::tree::BlobRead;
use crate::versions::class::ClassSettings;
use crate::versions::version_log::Version;

/// A Pijul repository, and what feeds it: while some versions are recorded, the next ones are looked at.
pub struct Feed {
    /// Records.
    pub recording: Recording,
    /// Says what there is to record.
    pub states: States,
}

/// A Pijul repository, and the index of it.
pub struct Recording {
    repository: Repository,
    /// Whose index of hashes it keeps; that of a repository that is being made has none.
    index: Option<Layout>,
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
        let recording = Recording { repository, index: index.cloned(), known: None, refused: Refused::default() };
        Ok(Self { recording, states: States::new(blobs, classes) })
    }
}

impl Recording {
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

    /// Records versions, which must be the first ones above the head, each made by [`States::input`] against the one before. The
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
}

/// How the index says it.
fn words(refusal: &Refusal) -> String {
    let form = if refusal.holds.is_some() { "left-out" } else { "safe" };
    format!("{form} {}", refusal.why)
}
