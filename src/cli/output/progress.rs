//! A bar on stderr for work that takes longer than a second, when a person watches.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is over sooner shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far some work on bytes is.
#[derive(Debug)]
pub struct Progress {
    total: u64,
    what: &'static str,
    since: Instant,
    bar: Option<ProgressBar>,
    wanted: bool,
}

impl Progress {
    /// Of `total` bytes (0: not known), none is done.
    #[must_use]
    pub fn new(what: &'static str, total: u64) -> Self {
        Self { total, what, since: Instant::now(), bar: None, wanted: std::io::stderr().is_terminal() }
    }

    /// So many bytes are done altogether.
    pub fn at(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.wanted && self.since.elapsed() > PATIENCE {
            let bar = ProgressBar::with_draw_target(Some(self.total.max(done)), ProgressDrawTarget::stderr());
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
