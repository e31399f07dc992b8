//! A bar on stderr for work that takes longer than a second, when a person watches; events on stdout with `--json`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::Out;
use crate::error::Result;
use crate::project::units::show_size;

/// Work that is over sooner shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far some work on bytes is.
#[derive(Debug)]
pub struct Progress {
    total: u64,
    more: u64,
    what: &'static str,
    since: Instant,
    bar: Option<ProgressBar>,
    wanted: bool,
}

impl Progress {
    /// Of `total` bytes (0: not known), none is done.
    #[must_use]
    pub fn new(what: &'static str, total: u64) -> Self {
        Self { total, more: 0, what, since: Instant::now(), bar: None, wanted: std::io::stderr().is_terminal() }
    }

    /// There are so many bytes to do besides the total.
    pub fn more(&mut self, more: u64) {
        self.more = more;
    }

    /// So many bytes are done altogether.
    pub fn at(&mut self, done: u64) {
        let total = self.total.saturating_add(self.more);
        if let Some(bar) = &self.bar {
            bar.set_length(total.max(done));
            bar.set_position(done);
        } else if self.wanted && self.since.elapsed() > PATIENCE {
            let bar = ProgressBar::with_draw_target(Some(total.max(done)), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.set_message(self.what);
            bar.set_position(done);
            self.bar = Some(bar);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A part of long work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Finding out how much there is.
    Analysing,
    /// Doing it.
    Processing,
    /// Making it last.
    Finalising,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Analysing => "analysing",
            Self::Processing => "processing",
            Self::Finalising => "finalising",
        }
    }

    /// Where it begins, and how much of the whole it is, in thousandths.
    const fn share(self) -> (u64, u64) {
        match self {
            Self::Analysing => (0, 50),
            Self::Processing => (50, 850),
            Self::Finalising => (900, 100),
        }
    }
}

/// How much of a stage is done, or there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Files, directories and the like.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

impl Amount {
    /// An entry costs about as much as so many bytes.
    const ENTRY: u64 = 16 << 10;

    fn weight(self) -> u64 {
        self.bytes.saturating_add(self.entries.saturating_mul(Self::ENTRY))
    }
}

/// Time between two events.
const EVENT_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Long work in three stages.
#[derive(Debug)]
pub struct Stages {
    json: bool,
    wanted: bool,
    since: Instant,
    stage: Option<(Stage, Instant)>,
    said: Instant,
    bar: Option<ProgressBar>,
}

impl Stages {
    /// Nothing is done; with `json` there are events, else a bar where a person watches.
    #[must_use]
    pub fn new(json: bool) -> Self {
        let now = Instant::now();
        Self { json, wanted: !json && std::io::stderr().is_terminal(), since: now, stage: None, said: now, bar: None }
    }

    /// Does `work` on a thread of its own, and tells meanwhile how far it is: `done` says it, `total` is what there is to do (0 where that
    /// is not known).
    ///
    /// # Errors
    /// The work's. That nobody hears how far it is is no reason to leave it half done.
    pub fn during<T: Send>(
        &mut self,
        out: &mut Out,
        stage: Stage,
        total: Amount,
        done: &dyn Fn() -> Amount,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        std::thread::scope(|scope| {
            let (over, wait) = std::sync::mpsc::sync_channel::<()>(0);
            let working = scope.spawn(move || {
                // Dropped at the end, whichever that is.
                let _over = over;
                work()
            });
            while matches!(wait.recv_timeout(LOOK_EVERY), Err(std::sync::mpsc::RecvTimeoutError::Timeout)) {
                self.tell_if_heard(out, stage, done(), total);
            }
            let worked = working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if worked.is_ok() {
                self.tell_if_heard(out, stage, done(), total);
            }
            worked
        })
    }

    fn tell_if_heard(&mut self, out: &mut Out, stage: Stage, done: Amount, total: Amount) {
        if let Err(e) = self.tell(out, stage, done, total) {
            tracing::debug!("no more events: {e}");
            self.json = false;
        }
    }

    fn tell(&mut self, out: &mut Out, stage: Stage, done: Amount, total: Amount) -> Result<()> {
        let now = Instant::now();
        let begun = match self.stage {
            Some((current, begun)) if current == stage => begun,
            _ => {
                self.stage = Some((stage, now));
                self.said = now.checked_sub(EVENT_EVERY).unwrap_or(now);
                now
            }
        };
        let spent = now.duration_since(begun).as_secs_f64();
        let rate = if spent > 0.0 { done.bytes as f64 / spent } else { 0.0 };
        let share = if total.weight() == 0 { 0.0 } else { (done.weight() as f64 / total.weight() as f64).min(1.0) };
        let whole = stage.share().0 + (stage.share().1 as f64 * share) as u64;
        if self.json {
            if now.duration_since(self.said) >= EVENT_EVERY {
                self.said = now;
                let left = (share > 0.0).then(|| (spent / share - spent).round());
                out.json(&json!({
                    "type": "progress", "stage": stage.name(), "permille": whole, "entries": done.entries, "bytes": done.bytes,
                    "total_entries": total.entries, "total_bytes": total.bytes, "bytes_per_second": rate.round(), "remaining_secs": left,
                }))?;
                out.flush()?;
            }
            return Ok(());
        }
        if self.bar.is_none() && self.wanted && self.since.elapsed() > PATIENCE {
            let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg} [{bar:20}] {percent}% {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            let of = |n: u64, total: u64| if total > 0 { format!("{n} of {total}") } else { n.to_string() };
            let (entries, bytes) = (of(done.entries, total.entries), show_size(done.bytes));
            bar.set_message(format!("{} {entries} entries, {bytes}, {}/s", stage.name(), show_size(rate as u64)));
            bar.set_position(whole);
        }
        Ok(())
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_each_other_without_a_gap_and_end_at_the_whole() {
        let stages = [Stage::Analysing, Stage::Processing, Stage::Finalising];
        let end = stages.iter().fold(0, |at, stage| {
            assert_eq!(stage.share().0, at);
            at + stage.share().1
        });
        assert_eq!(end, 1000);
    }
}
