//! Streams: data on stdout; progress, reports, questions and errors on stderr. A closed pipe ends the program quietly.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Write};

use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::control::message::class_name;
use crate::error::{Class, Error, Result};
use crate::ids::Time;
use crate::project::base64;

/// Where data goes.
pub struct Out {
    to: BufWriter<Box<dyn Write>>,
    terminal: bool,
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
        Self { to: BufWriter::with_capacity(1 << 16, Box::new(io::stdout().lock())), terminal: io::stdout().is_terminal() }
    }

    /// Somewhere else.
    #[must_use]
    pub fn to(writer: Box<dyn Write>, terminal: bool) -> Self {
        Self { to: BufWriter::new(writer), terminal }
    }

    /// True when a person watches.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes one line.
    ///
    /// # Errors
    /// [`Class::Io`] or [`Class::Full`]; a closed pipe is known by [`is_closed_pipe`].
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.text(line)?;
        self.text("\n")?;
        if self.terminal { self.flush() } else { Ok(()) }
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
        let line = serde_json::to_string(object).map_err(|e| Error::new(Class::Failed, format!("cannot write JSON: {e}")).source(e))?;
        self.line(&line)
    }

    /// Hands everything on.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn flush(&mut self) -> Result<()> {
        self.to.flush().map_err(stdout_failed)
    }
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
    report(&format!("warning: {line}"));
}

/// Writes an error and its hint on stderr: two lines, or one JSON object.
pub fn report_error(e: &Error, json: bool) {
    report(&render_error(e, json, io::stderr().is_terminal()));
}

fn render_error(e: &Error, json: bool, terminal: bool) -> String {
    if json {
        let code = crate::cli::exit::code(e.class);
        return json!({ "code": code, "class": class_name(e.class), "message": e.message, "hint": e.hint }).to_string();
    }
    let mut text = format!("error: {}", shown(&e.message, terminal));
    if let Some(hint) = &e.hint {
        let _ = write!(text, "\nhint: {}", shown(hint, terminal));
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

/// Text for people: on a terminal its control characters are escaped (but newline and tab), so that no name or message can move the cursor.
#[must_use]
pub fn shown(text: &str, terminal: bool) -> String {
    if !terminal {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A name or path in a line: bytes that are not UTF-8 as `\xff`, control characters as `\n` or `\u{1b}`, a backslash doubled, so that
/// one name is one line and no two names look alike.
#[must_use]
pub fn name(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' { out.extend(c.escape_default()) } else { out.push(c) }
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out
}

/// A path as people read it.
#[must_use]
pub fn name_of(path: &std::path::Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    name(path.as_os_str().as_bytes())
}

/// A path in JSON: `key`, and `key_b64` with the bytes when they are not UTF-8 (`key` is then only a likeness).
pub fn put_path(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    object.insert(key.into(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        object.insert(format!("{key}_b64"), base64::encode(bytes).into());
    }
}

/// A time for people, in the local zone: `2026-01-02 15:04:05+01:00`.
#[must_use]
pub fn time(t: Time) -> String {
    time_in(t, TimeZone::system())
}

fn time_in(t: Time, zone: TimeZone) -> String {
    match timestamp(t) {
        Some(stamp) => stamp.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S%:z").to_string(),
        None => format!("{} s after 1970", t.secs),
    }
}

/// A time in JSON: RFC 3339 in UTC with nanoseconds where there are any.
#[must_use]
pub fn json_time(t: Time) -> String {
    timestamp(t).map_or_else(|| format!("{}.{:09}", t.secs, t.nanos), |stamp| stamp.to_string())
}

fn timestamp(t: Time) -> Option<jiff::Timestamp> {
    // From the epoch plus a duration: a time before 1970 has negative seconds and positive nanoseconds.
    jiff::Timestamp::from_second(t.secs).ok()?.checked_add(std::time::Duration::from_nanos(u64::from(t.nanos))).ok()
}

/// Starts tracing on stderr: `IZE_LOG` (a tracing filter) if set, else `-v` info, `-vv` debug, `-vvv` trace, without `-v` warnings.
pub fn start_tracing(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let level = match verbose {
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
    // Only fails when a subscriber is there already (in tests).
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_one_line_and_no_two_names_look_alike() {
        for (bytes, text) in [
            (&b"plain"[..], "plain"),
            ("\u{e9}\u{4e2d}".as_bytes(), "\u{e9}\u{4e2d}"),
            (b"a\nb", "a\\nb"),
            (b"\x1b[31m", "\\u{1b}[31m"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"\\xff", "\\\\xff"),
            ("\u{85}".as_bytes(), "\\u{85}"),
        ] {
            assert_eq!(name(bytes), text);
        }
    }

    #[test]
    fn control_characters_reach_no_terminal_but_pipes_get_the_text() {
        assert_eq!(shown("a\x1b[2Jb\n", true), "a\\u{1b}[2Jb\n");
        assert_eq!(shown("a\x1b[2Jb", false), "a\x1b[2Jb");
    }

    #[test]
    fn a_path_that_is_not_utf8_keeps_its_bytes_in_json() {
        let mut object = Map::new();
        put_path(&mut object, "path", b"a");
        assert_eq!(Value::from(object.clone()), json!({"path": "a"}));
        put_path(&mut object, "path", b"\xff");
        assert_eq!(Value::from(object), json!({"path": "\u{fffd}", "path_b64": "/w=="}));
    }

    #[test]
    fn an_error_is_two_lines_or_one_object() {
        let e = Error::new(Class::Refused, "no\x1b").hint("try");
        assert_eq!(render_error(&e, false, true), "error: no\\u{1b}\nhint: try");
        let object: Value = serde_json::from_str(&render_error(&e, true, true)).unwrap();
        assert_eq!(object, json!({"code": 9, "class": "refused", "message": "no\u{1b}", "hint": "try"}));
    }

    #[test]
    fn times_before_1970_and_beyond_all_calendars_are_shown() {
        let utc = TimeZone::UTC;
        assert_eq!(time_in(Time { secs: 0, nanos: 0 }, utc.clone()), "1970-01-01 00:00:00+00:00");
        assert_eq!(json_time(Time { secs: -1, nanos: 500_000_000 }), "1969-12-31T23:59:59.5Z");
        assert_eq!(time_in(Time { secs: i64::MAX, nanos: 0 }, utc), format!("{} s after 1970", i64::MAX));
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(time_in(Time { secs: 1_767_366_245, nanos: 1 }, zone), "2026-01-02 16:04:05+01:00");
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
