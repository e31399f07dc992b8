//! Long output goes through a pager when a person watches: IZE_PAGER, else PAGER, else `less -FRX`; empty or `cat` is none.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::project::config::Env;

/// Quit when all fits one screen (F), pass colours on (R), leave the text on the screen at the end (X).
const LESS: &str = "FRX";

/// The command that the environment asks for; `None` for no pager. The flag says whether it is ours, so that its absence is no failure.
fn command(env: Env<'_>) -> Option<(OsString, bool)> {
    let asked = ["IZE_PAGER", "PAGER"].into_iter().find_map(env);
    match asked {
        Some(command) if command.is_empty() || command == "cat" => None,
        Some(command) => Some((command, false)),
        None => Some(("less".into(), true)),
    }
}

/// A pager that is running.
#[derive(Debug)]
pub struct Pager {
    child: Child,
}

/// The way into a pager. Ends with a broken pipe once the person wants no more of it.
#[derive(Debug)]
pub struct Page {
    stdin: ChildStdin,
    interrupted: Arc<AtomicBool>,
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.stdin.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdin.flush()
    }
}

impl Pager {
    /// Starts the pager that the environment asks for; `None` when there is to be none, or there is none.
    #[must_use]
    pub fn start(env: Env<'_>) -> Option<(Self, Page)> {
        let (words, ours) = command(env)?;
        // As git and man do: what the variable holds is a line for the shell.
        let mut command = if ours { Command::new(&words) } else { Command::new("/bin/sh") };
        if !ours {
            command.arg("-c").arg(&words);
        }
        if env("LESS").is_none() {
            command.env("LESS", LESS);
        }
        // Ctrl-C goes to the pager and to us: it decides, we only stop writing.
        let interrupted = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted)).ok()?;
        let mut child = command.stdin(Stdio::piped()).spawn().ok()?;
        let stdin = child.stdin.take()?;
        Some((Self { child }, Page { stdin, interrupted }))
    }

    /// Waits until the person has read; the way in must be dropped by then.
    pub fn wait(mut self) {
        // What it says of itself is not our failure.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_which_pager_and_empty_is_none() {
        for (env, expected) in [
            (&[][..], Some(("less", true))),
            (&[("PAGER", "more")], Some(("more", false))),
            (&[("PAGER", "more"), ("IZE_PAGER", "less -S")], Some(("less -S", false))),
            (&[("PAGER", "more"), ("IZE_PAGER", "")], None),
            (&[("PAGER", "")], None),
            (&[("PAGER", "cat")], None),
        ] {
            let look_up = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
            assert_eq!(command(&look_up), expected.map(|(c, ours)| (c.into(), ours)), "{env:?}");
        }
    }
}
