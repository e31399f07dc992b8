//! The person's side: words in, text and an exit code out.
//!
//! [`args`] is the tree of verbs and flags; [`grammar`] says which project and paths the words mean; [`when`] which moment; [`output`]
//! writes; [`exit`] ends. One file a verb in [`verbs`].

pub mod access;
pub mod args;
pub mod environment;
pub mod exit;
pub mod grammar;
#[cfg(feature = "fuse")]
pub mod mount_helper;
pub mod output;
pub mod session;
pub mod verbs;
pub mod when;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::cli::args::Args;
use crate::cli::session::Session;
use crate::error::{Class, Error};

/// The program: reads the command line, does it, answers with an exit code.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    #[cfg(feature = "fuse")]
    if let Some((program, rest)) = words.split_first()
        && mount_helper::is_called(program)
    {
        return as_mount_helper(rest);
    }
    run(&words)
}

/// mount(8) knows exit codes of its own.
#[cfg(feature = "fuse")]
fn as_mount_helper(rest: &[OsString]) -> ExitCode {
    use mount_helper::{Asked, MOUNT_FAILED, WRONG_USAGE};
    match mount_helper::translate(rest) {
        Ok(Asked::Nothing) => ExitCode::SUCCESS,
        Ok(Asked::Run(words)) => match run(&words) {
            done if done == ExitCode::SUCCESS => done,
            wrong if wrong == ExitCode::from(exit::code(Class::Usage)) => ExitCode::from(WRONG_USAGE),
            _ => ExitCode::from(MOUNT_FAILED),
        },
        Err(e) => {
            output::report_error(&e, false);
            ExitCode::from(WRONG_USAGE)
        }
    }
}

fn run(words: &[OsString]) -> ExitCode {
    // Also for what is said of words that cannot be understood.
    output::style::choose(output::style::of_words(words));
    let parsed = Args::command().color(clap_colour()).try_get_matches_from(words).and_then(|m| Args::from_arg_matches(&m));
    let args = match parsed {
        Ok(args) => args,
        Err(e) => return usage(&e, asks_for_json(words)),
    };
    output::style::choose(args.global.color);
    output::start_tracing(args.global.verbose);
    let json = args.verb.json();
    let mut session = Session::new(args.global, output::Out::stdout());
    let done = args.verb.run(&mut session);
    // What was found before a failure is still worth having.
    let finished = session.out.finish();
    match done.and(finished) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if output::is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            output::report_error(&e, json);
            ExitCode::from(exit::code(e.class))
        }
    }
}

/// Clap decides by the stream it writes to; what it writes to stdout is coloured here.
fn clap_colour() -> clap::ColorChoice {
    if output::style::on_stderr() { clap::ColorChoice::Always } else { clap::ColorChoice::Never }
}

/// What clap says of a command line that it cannot read; also `--help` and `--version`, which are no failures.
fn usage(e: &clap::Error, json: bool) -> ExitCode {
    if !e.use_stderr() {
        let mut out = output::Out::stdout();
        let text = e.render();
        let said = if output::style::on_stdout() { out.text(&text.ansi().to_string()) } else { out.text(&text.to_string()) };
        return match said.and_then(|()| out.flush()) {
            Err(e) if !output::is_closed_pipe(&e) => ExitCode::from(exit::code(e.class)),
            _ => ExitCode::SUCCESS,
        };
    }
    if json {
        let text = e.render().to_string();
        let mut lines = text.lines().map(|l| l.strip_prefix("error: ").unwrap_or(l));
        let error =
            Error::new(Class::Usage, lines.next().unwrap_or("wrong usage").trim()).hint("`ize help` lists the verbs and their flags");
        output::report_error(&error, true);
    } else {
        // A closed stderr is no reason to die of another cause.
        let _ = e.print();
    }
    ExitCode::from(exit::code(Class::Usage))
}

fn asks_for_json(words: &[OsString]) -> bool {
    words.iter().take_while(|w| *w != "--").any(|w| w == "--json")
}
