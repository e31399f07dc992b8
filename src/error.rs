//! What every failure of ize carries: what failed, on which object, why, what to do next, and the class that becomes the exit code.

use std::fmt;
use std::io;

/// Class of a failure. The command line turns each into one stable exit code (`cli::exit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Failed, no match, or the two sides differ (1).
    Failed,
    /// Wrong words or flags (2).
    Usage,
    /// No such project, path, version or change (3).
    NotFound,
    /// The log ends in a torn tail (4).
    TornTail,
    /// Bytes fail their check where no crash explains it (5).
    Damage,
    /// The operating system refused to read or write (6).
    Io,
    /// Somebody else holds it (7).
    Busy,
    /// No space, or a quota is reached (8).
    Full,
    /// Refused, or needs `--yes` (9).
    Refused,
    /// The daemon that should answer is gone (10).
    DaemonGone,
}

/// A failure for people: `message` says what failed, on which object and why; `hint` says what to do next.
#[derive(Debug)]
pub struct Error {
    /// Class, hence exit code.
    pub class: Class,
    /// What failed, on which object, why.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// The cause, where there is one.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of `class`.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), hint: None, source: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with its cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An I/O error with its noun: `doing` says what was tried on what, e.g. ``cannot rename `a` to `b` ``.
    pub fn io(doing: impl fmt::Display, error: io::Error) -> Self {
        let class = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Class::Full,
            _ => Class::Io,
        };
        Self::new(class, format!("{doing}: {error}")).source(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Gives an `io::Result` its noun.
pub trait IoContext<T> {
    /// Says what was tried on what.
    ///
    /// # Errors
    /// The I/O error, with its noun.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::io(what(), e))
    }
}
