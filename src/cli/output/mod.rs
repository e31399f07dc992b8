//! Streams and manners: data on stdout; progress, reports, questions and errors on stderr. A closed pipe ends the program quietly.
//!
//! [`escape`] keeps foreign text harmless, [`style`] decides on colours, [`pager`] shows what is long, [`fit`] knows widths, [`times`]
//! writes times, [`progress`] says how far it is. docs/cli.md says the same to people.

pub mod escape;
pub mod fit;
pub mod pager;
pub mod progress;
pub mod style;
pub mod times;

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Write};

use serde::Serialize;
use serde_json::json;

use crate::control::message::class_name;
use crate::error::{Class, Error, Result};
use crate::project::config::process_env;

pub use escape::{name, name_of, put_file, put_path, shown};
pub use style::{Role, paint};
pub use times::{json_time, time};

use pager::Pager;

/// Where data goes.
pub struct Out {
    to: BufWriter<Box<dyn Write>>,
    terminal: bool,
    colour: bool,
    /// Whether each line is handed on at once, so that it stands before what stderr says next.
    by_line: bool,
    columns: Option<usize>,
    pager: Option<Pager>,
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

/// Marks the error of a reader that has had enough.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads stdout any more")]
struct ClosedPipe;

/// True when `e` only says that nobody reads stdout any more: not worth a word.
#[must_use]
pub fn is_closed_pipe(e: &Error) -> bool {
    e.source.as_ref().is_some_and(|s| s.is::<ClosedPipe>())
}

impl Out {
    /// The process's stdout.
    #[must_use]
    pub fn stdout() -> Self {
        let terminal = io::stdout().is_terminal();
        let columns = if terminal { terminal_size::terminal_size().map(|(w, _)| usize::from(w.0)) } else { None };
        let to = BufWriter::with_capacity(1 << 16, Box::new(io::stdout().lock()) as _);
        Self { to, terminal, colour: style::on_stdout(), by_line: terminal, columns, pager: None }
    }

    /// Somewhere else.
    #[must_use]
    pub fn to(writer: Box<dyn Write>, terminal: bool) -> Self {
        Self { to: BufWriter::new(writer), terminal, colour: false, by_line: terminal, columns: None, pager: None }
    }

    /// True when a person watches.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Columns of the terminal; `None` where there is none, and lines may be as long as they are.
    #[must_use]
    pub fn columns(&self) -> Option<usize> {
        self.columns.filter(|c| *c > 0)
    }

    /// `text` in the look of its role, where colours are wanted.
    #[must_use]
    pub fn paint(&self, role: Role, text: &str) -> String {
        paint(role, text, self.colour)
    }

    /// What follows is long: through a pager, if a person watches and does not refuse it.
    pub fn page(&mut self, wanted: bool) {
        self.by_line = false;
        if !(wanted && self.terminal) || self.pager.is_some() || self.to.flush().is_err() {
            return;
        }
        if let Some((pager, page)) = Pager::start(&process_env) {
            self.to = BufWriter::with_capacity(1 << 13, Box::new(page));
            self.pager = Some(pager);
        }
    }

    /// Every line is wanted when it is written, terminal or not.
    pub fn live(&mut self) {
        self.by_line = true;
    }

    /// Hands everything on and waits until a pager is done.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn finish(&mut self) -> Result<()> {
        let flushed = self.flush();
        if let Some(pager) = self.pager.take() {
            // Taken apart without another attempt to write, which would block or fail once more.
            let (page, _) = std::mem::replace(&mut self.to, BufWriter::new(Box::new(io::stdout()))).into_parts();
            drop(page);
            pager.wait();
        }
        flushed
    }

    /// Writes one line.
    ///
    /// # Errors
    /// [`Class::Io`] or [`Class::Full`]; a closed pipe is known by [`is_closed_pipe`].
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.text(line)?;
        self.text("\n")?;
        if self.by_line { self.flush() } else { Ok(()) }
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())
    }

    /// Writes bytes as they are: the content of a file, say.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(stdout_failed)
    }

    /// Writes one JSON object as one line.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn json(&mut self, object: &impl Serialize) -> Result<()> {
        self.line(&Self::json_text(object)?)
    }

    /// The line that [`Out::json`] writes.
    ///
    /// # Errors
    /// [`Class::Failed`] for what has no JSON.
    pub fn json_text(object: &impl Serialize) -> Result<String> {
        escape::json(object).map_err(|e| Error::new(Class::Failed, format!("cannot write JSON: {e}")).source(e))
    }

    /// Hands everything on.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn flush(&mut self) -> Result<()> {
        self.to.flush().map_err(stdout_failed)
    }
}

/// True once the reader of stdout is gone, which a writer without anything to write would never learn.
#[must_use]
pub fn nobody_reads_stdout() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdout = io::stdout();
    let mut ends = [PollFd::new(&stdout, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ends, Some(&at_once)).is_ok_and(|n| n > 0) && ends[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

fn stdout_failed(e: io::Error) -> Error {
    if e.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(Class::Failed, "nobody reads stdout any more").source(ClosedPipe);
    }
    Error::io("cannot write to stdout", e)
}

/// Writes a report on stderr, e.g. what was done. A closed stderr is no failure.
pub fn report(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a warning on stderr.
pub fn warn(line: &str) {
    report(&format!("{} {}", paint(Role::Warning, "warning:", style::on_stderr()), shown(line, io::stderr().is_terminal())));
}

/// Writes an error and its hint on stderr: two lines, or one JSON object.
pub fn report_error(e: &Error, json: bool) {
    report(&render_error(e, json, io::stderr().is_terminal(), style::on_stderr()));
}

fn render_error(e: &Error, json: bool, terminal: bool, colour: bool) -> String {
    if json {
        let code = crate::cli::exit::code(e.class);
        let object = json!({ "code": code, "class": class_name(e.class), "message": e.message, "hint": e.hint });
        return escape::json(&object).unwrap_or_default();
    }
    let mut text = format!("{} {}", paint(Role::Bad, "error:", colour), shown(&e.message, terminal));
    if let Some(hint) = &e.hint {
        let _ = write!(text, "\n{} {}", paint(Role::Hint, "hint:", colour), shown(hint, terminal));
    }
    text
}

/// Asks on the terminal; `yes` (from `--yes`) answers for it.
///
/// # Errors
/// [`Class::Refused`] when the answer is not yes, and with the hint `--yes` when there is nobody to ask.
pub fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Error::new(Class::Refused, format!("not done without an answer to: {question}")).hint("answer it with --yes"));
    }
    let _ = write!(io::stderr(), "{} [y/N] ", shown(question, true));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|e| Error::io("cannot read the answer", e))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::new(Class::Refused, "not done: the answer was not yes")),
    }
}

/// Starts tracing on stderr: `IZE_LOG` (a tracing filter) if set, else `-v` info, `-vv` debug, `-vvv` trace, without `-v` warnings. In the
/// background stderr is the daemon's log, which says info unasked.
pub fn start_tracing(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    #[cfg(feature = "fuse")]
    let background = crate::fuse::daemon::in_background();
    #[cfg(not(feature = "fuse"))]
    let background = false;
    let level = match verbose.max(u8::from(background)) {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = match std::env::var("IZE_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).unwrap_or_else(|e| {
            warn(&format!("IZE_LOG is not a filter: {e}"));
            EnvFilter::new(level)
        }),
        _ => EnvFilter::new(format!("ize={level}")),
    };
    // A terminal that has died must not take the daemon with it: by default a line that cannot be written is told to stderr, with a panic.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    // Only fails when a subscriber is there already (in tests).
    #[cfg(feature = "fuse")]
    if background {
        let _ = lines.with_writer(crate::fuse::daemon::LogWriter::default).with_ansi(false).try_init();
        return;
    }
    let _ = lines.with_writer(io::stderr).with_ansi(style::on_stderr()).try_init();
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_error_is_two_lines_or_one_object() {
        let e = Error::new(Class::Refused, "no\x1b").hint("try");
        assert_eq!(render_error(&e, false, true, false), "error: no\\u{1b}\nhint: try");
        let object: Value = serde_json::from_str(&render_error(&e, true, true, true)).unwrap();
        assert_eq!(object, json!({"code": 9, "class": "refused", "message": "no\u{1b}", "hint": "try"}));
    }

    #[test]
    fn a_closed_pipe_is_known_and_a_full_disk_is_not_taken_for_one() {
        struct Failing(i32);
        impl Write for Failing {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(self.0))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let closed = Out::to(Box::new(Failing(libc::EPIPE)), true).line("x").unwrap_err();
        assert!(is_closed_pipe(&closed));
        let full = Out::to(Box::new(Failing(libc::ENOSPC)), true).line("x").unwrap_err();
        assert!(!is_closed_pipe(&full) && full.class == Class::Full);
    }
}
