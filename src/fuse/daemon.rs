//! The background process: the command starts itself again, and returns when that one serves or has said why it cannot.
//!
//! The new process writes one line of JSON to its standard output, a pipe: `{"ready":true}` or the error with class and hint. After that
//! its standard output goes to the log too. It is a session of its own, so that no terminal's end reaches it.
//!
//! The log never grows beyond [`LOG_MAX`]: it is then renamed to `daemon.log.1`, in place of the one before, and begun anew.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::control::message::{class_name, class_named};
use crate::error::{Class, Error, IoContext, Result};

/// Says to the new process that it is one; the value is the path of its log, or empty.
const MARK: &str = "IZE_BACKGROUND";
/// Size at which the log is put aside, in bytes.
pub const LOG_MAX: u64 = 1 << 20;
/// How much of the log's end is shown when the new process dies without a word, in bytes.
const TAIL: u64 = 2048;

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Said {
    Ready {
        ready: bool,
        #[serde(flatten)]
        report: Report,
    },
    Failed {
        class: String,
        message: String,
        hint: Option<String>,
    },
}

/// What a daemon has to say when its mount answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What was done on the way.
    pub reports: Vec<String>,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

impl Said {
    fn failed(error: &Error) -> Self {
        Said::Failed { class: class_name(error.class).to_owned(), message: error.message.clone(), hint: error.hint.clone() }
    }

    fn into_result(self) -> Result<Report> {
        match self {
            Said::Ready { report, .. } => Ok(report),
            Said::Failed { class, message, hint } => {
                let error = Error::new(class_named(&class), message);
                Err(match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                })
            }
        }
    }
}

/// Starts this program again in the background with `args`, its errors going to the end of `log` (nowhere that lasts, without one); returns what it has to say when it has called
/// [`Background::ready`]. It runs in `/`, so that it holds no file system busy: paths in `args` are absolute.
///
/// # Errors
/// The one that it gave to [`Background::failed`], with its class and hint; [`Class::DaemonGone`] with the end of its log when it died
/// without a word.
pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, log: Option<&Path>) -> Result<Report> {
    let mut command = Command::new("/proc/self/exe");
    command.args(args);
    start_command(command, log)
}

fn start_command(mut command: Command, log: Option<&Path>) -> Result<Report> {
    let (file, before) = match log {
        Some(log) => {
            put_aside_if_large(log);
            match open_log(log).and_then(|file| file.metadata().map(|m| (file, m.len()))) {
                Ok(opened) => opened,
                // A full disk, say: to mount is what makes room again.
                Err(e) => {
                    tracing::warn!("the daemon keeps no log: cannot open {}: {e}", log.display());
                    (unnamed()?, 0)
                }
            }
        }
        None => (unnamed()?, 0),
    };
    let errors = file.try_clone().doing(|| "cannot start the daemon".to_owned())?;
    command.env(MARK, log.map_or(OsStr::new(""), Path::as_os_str)).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let mut child = command.spawn().doing(|| "cannot start the daemon".to_owned())?;
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        BufReader::new(pipe).read_line(&mut line).doing(|| "cannot hear from the daemon".to_owned())?;
    }
    match serde_json::from_str::<Said>(&line) {
        Ok(said) => said.into_result(),
        Err(_) => {
            let status = child.wait().doing(|| "cannot wait for the daemon".to_owned())?;
            let said = tail(&file, before);
            let place = log.map_or_else(String::new, |log| format!("its log is {}; ", log.display()));
            Err(Error::new(Class::DaemonGone, format!("the daemon ended before it was ready ({status}){said}"))
                .hint(format!("{place}`--foreground` shows more")))
        }
    }
}

/// A file without a name, so that the last words of one who dies can be read; where not even that can be made, nothing.
fn unnamed() -> Result<File> {
    tempfile::tempfile()
        .or_else(|_| OpenOptions::new().read(true).write(true).open("/dev/null"))
        .doing(|| "cannot start the daemon".to_owned())
}

/// What was written to the log since `from`, but no more than its end.
fn tail(log: &File, from: u64) -> String {
    let len = log.metadata().map_or(0, |m| m.len());
    let begin = from.max(len.saturating_sub(TAIL));
    let mut bytes = vec![0; usize::try_from(len.saturating_sub(begin)).unwrap_or(0)];
    let n = log.read_at(&mut bytes, begin).unwrap_or(0);
    let text = String::from_utf8_lossy(bytes.get(..n).unwrap_or_default()).trim().to_owned();
    if text.is_empty() { text } else { format!(": {text}") }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)
}

/// Where the log that was put aside is.
fn put_aside_path(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn put_aside_if_large(log: &Path) {
    if std::fs::metadata(log).is_ok_and(|m| m.len() >= LOG_MAX)
        && let Err(e) = std::fs::rename(log, put_aside_path(log))
    {
        tracing::warn!("cannot put {} aside: {e}", log.display());
    }
}

/// True in a process that [`start`] made: what it says goes to a log that somebody reads later.
#[must_use]
pub fn in_background() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Standard error of a background process: the log, which is put aside when it is large.
#[derive(Debug, Default)]
pub struct LogWriter(());

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Whatever fails here: saying it would come here again.
        if let Some(path) = std::env::var_os(MARK).map(PathBuf::from).filter(|p| p.is_absolute()) {
            let _ = turn_over(&path);
        }
        io::stderr().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Puts a large log aside and goes on in a new file, under the descriptors of the old one.
fn turn_over(path: &Path) -> io::Result<()> {
    // One at a time: the second would put the new log aside.
    static TURNING: Mutex<()> = Mutex::new(());
    let _one = TURNING.lock().unwrap_or_else(PoisonError::into_inner);
    let old = rustix::fs::fstat(io::stderr())?;
    if old.st_size < i64::try_from(LOG_MAX).unwrap_or(i64::MAX) {
        return Ok(());
    }
    // Until the mount answers, standard output is a pipe to who waits.
    let out = rustix::fs::fstat(io::stdout()).is_ok_and(|out| (out.st_dev, out.st_ino) == (old.st_dev, old.st_ino));
    std::fs::rename(path, put_aside_path(path))?;
    let new = open_log(path)?;
    let descriptors = [Some(io::stderr().as_raw_fd()), out.then(|| io::stdout().as_raw_fd())];
    for old in descriptors.into_iter().flatten() {
        // SAFETY: both numbers are open descriptors of this process, and dup2 touches no memory.
        if unsafe { libc::dup2(new.as_raw_fd(), old) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The background process's side.
#[derive(Debug)]
pub struct Background(());

impl Background {
    /// `Some` in a process that [`start`] made; it is then a session of its own. Call it first thing, before there are threads.
    ///
    /// # Errors
    /// [`Class::Io`] when there can be no new session.
    pub fn here() -> Result<Option<Background>> {
        if std::env::var_os(MARK).is_none() {
            return Ok(None);
        }
        match rustix::process::setsid() {
            Ok(_) => Ok(Some(Background(()))),
            Err(e) => Err(Error::io("cannot start a new session", e.into())),
        }
    }

    /// Lets the command that waits return with success.
    pub fn ready(self, report: Report) {
        self.say(&Said::Ready { ready: true, report });
    }

    /// Lets the command that waits return with this error.
    pub fn failed(self, error: &Error) {
        self.say(&Said::failed(error));
    }

    /// Nobody may be listening any more; that is no reason to stop.
    fn say(self, said: &Said) {
        let mut line = serde_json::to_vec(said).unwrap_or_default();
        line.push(b'\n');
        let mut out = io::stdout().lock();
        let told = out.write_all(&line).and_then(|()| out.flush());
        if let Err(e) = told {
            tracing::warn!("nobody waits for the daemon: {e}");
        }
        // SAFETY: both numbers are open descriptors of this process for all of its life, and dup2 touches no memory.
        if unsafe { libc::dup2(io::stderr().as_raw_fd(), out.as_raw_fd()) } < 0 {
            tracing::warn!("the daemon's standard output stays a pipe: {}", io::Error::last_os_error());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command
    }

    #[test]
    fn the_starter_returns_when_the_daemon_is_ready_and_does_not_wait_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let begun = std::time::Instant::now();
        let script = "echo '{\"ready\":true,\"warnings\":[\"w\"]}'; exec >/dev/null; sleep 5";
        let report = start_command(shell(script), Some(&dir.path().join("log"))).unwrap();
        assert_eq!(report, Report { warnings: vec!["w".into()], ..Report::default() });
        assert!(begun.elapsed() < std::time::Duration::from_secs(4));
    }

    #[test]
    fn the_starter_fails_with_the_daemons_own_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = Error::new(Class::Damage, "segment 3 is damaged").hint("`ize fsck`");
        let line = serde_json::to_string(&Said::failed(&error)).unwrap();
        let got = start_command(shell(&format!("echo '{}'", line.replace('\'', ""))), Some(&dir.path().join("log"))).unwrap_err();
        assert_eq!((got.class, got.message.as_str(), got.hint.as_deref()), (Class::Damage, "segment 3 is damaged", Some("`ize fsck`")));
    }

    #[test]
    fn a_daemon_that_dies_without_a_word_is_reported_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "old\n").unwrap();
        let error = start_command(shell("echo it broke >&2; exit 3"), Some(&log)).unwrap_err();
        assert_eq!(error.class, Class::DaemonGone);
        assert!(error.message.contains("it broke") && error.message.contains('3') && !error.message.contains("old"), "{}", error.message);
    }

    #[test]
    fn without_a_log_the_last_words_are_heard_all_the_same() {
        let error = start_command(shell("echo it broke >&2; exit 3"), None).unwrap_err();
        assert!(error.message.contains("it broke"), "{}", error.message);
    }

    #[test]
    fn a_large_log_is_put_aside_before_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, vec![b'x'; usize::try_from(LOG_MAX).unwrap()]).unwrap();
        start_command(shell("echo '{\"ready\":true}'; echo new >&2; exec >/dev/null"), Some(&log)).unwrap();
        assert!(std::fs::metadata(&log).unwrap().len() < 100);
        assert_eq!(std::fs::metadata(dir.path().join("log.1")).unwrap().len(), LOG_MAX);
    }

    #[test]
    fn every_class_survives_the_pipe() {
        for class in crate::control::message::CLASSES {
            let said = Said::failed(&Error::new(class, "x"));
            let back: Said = serde_json::from_str(&serde_json::to_string(&said).unwrap()).unwrap();
            assert_eq!(back.into_result().unwrap_err().class, class);
        }
    }
}
