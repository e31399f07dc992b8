//! The background process: the command starts itself again, and returns when that one serves or has said why it cannot.
//!
//! The new process writes one line of JSON to its standard output, a pipe: `{"ready":true}` or the error with class and hint. After that
//! its standard output goes to the log too. It is a session of its own, so that no terminal's end reaches it.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::control::message::{class_name, class_named};
use crate::error::{Class, Error, IoContext, Result};

/// Says to the new process that it is one.
const MARK: &str = "IZE_BACKGROUND";
/// How much of the log's end is shown when the new process dies without a word, in bytes.
const TAIL: usize = 2048;

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Said {
    Ready { ready: bool },
    Failed { class: String, message: String, hint: Option<String> },
}

impl Said {
    fn failed(error: &Error) -> Self {
        Said::Failed { class: class_name(error.class).to_owned(), message: error.message.clone(), hint: error.hint.clone() }
    }

    fn into_result(self) -> Result<()> {
        match self {
            Said::Ready { .. } => Ok(()),
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

/// Starts this program again in the background with `args`, its errors going to the end of `log`; returns its process id when it has called
/// [`Background::ready`]. It runs in `/`, so that it holds no file system busy: paths in `args` are absolute.
///
/// # Errors
/// The one that it gave to [`Background::failed`], with its class and hint; [`Class::DaemonGone`] with the end of its log when it died
/// without a word.
pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, log: &Path) -> Result<u32> {
    let mut command = Command::new("/proc/self/exe");
    command.args(args);
    start_command(command, log)
}

fn start_command(mut command: Command, log: &Path) -> Result<u32> {
    let opening = || format!("cannot open the daemon's log {}", log.display());
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log).doing(opening)?;
    let before = file.metadata().doing(opening)?.len();
    command.env(MARK, "1").current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
    let mut child = command.spawn().doing(|| "cannot start the daemon".to_owned())?;
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        BufReader::new(pipe).read_line(&mut line).doing(|| "cannot hear from the daemon".to_owned())?;
    }
    match serde_json::from_str::<Said>(&line) {
        Ok(said) => said.into_result().map(|()| child.id()),
        Err(_) => {
            let status = child.wait().doing(|| "cannot wait for the daemon".to_owned())?;
            let said = tail(log, before);
            Err(Error::new(Class::DaemonGone, format!("the daemon ended before it was ready ({status}){said}"))
                .hint(format!("its log is {}; `--foreground` shows more", log.display())))
        }
    }
}

/// What was written to the log since `from`, but no more than its end.
fn tail(log: &Path, from: u64) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let new = bytes.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
    let end = new.get(new.len().saturating_sub(TAIL)..).unwrap_or_default();
    let text = String::from_utf8_lossy(end);
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
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
    pub fn ready(self) {
        self.say(&Said::Ready { ready: true });
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
        let pid = start_command(shell("echo '{\"ready\":true}'; exec >/dev/null; sleep 5"), &dir.path().join("log")).unwrap();
        assert!(pid > 1);
        assert!(begun.elapsed() < std::time::Duration::from_secs(4));
    }

    #[test]
    fn the_starter_fails_with_the_daemons_own_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = Error::new(Class::Damage, "segment 3 is damaged").hint("`ize fsck`");
        let line = serde_json::to_string(&Said::failed(&error)).unwrap();
        let got = start_command(shell(&format!("echo '{}'", line.replace('\'', ""))), &dir.path().join("log")).unwrap_err();
        assert_eq!((got.class, got.message.as_str(), got.hint.as_deref()), (Class::Damage, "segment 3 is damaged", Some("`ize fsck`")));
    }

    #[test]
    fn a_daemon_that_dies_without_a_word_is_reported_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "old\n").unwrap();
        let error = start_command(shell("echo it broke >&2; exit 3"), &log).unwrap_err();
        assert_eq!(error.class, Class::DaemonGone);
        assert!(error.message.contains("it broke") && error.message.contains('3') && !error.message.contains("old"), "{}", error.message);
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
