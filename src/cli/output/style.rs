//! Colours: whether, and which. They say nothing that the text does not say too.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU8, Ordering};

use anstyle::{AnsiColor, Style};

use crate::project::config::{Env, process_env};

/// What `--color` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Where a terminal shows them, unless the environment says otherwise.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

// One choice a process: errors are written where no session is at hand.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// Takes the choice of the command line.
pub fn choose(choice: Choice) {
    CHOSEN.store(choice as u8, Ordering::Relaxed);
}

fn chosen() -> Choice {
    match CHOSEN.load(Ordering::Relaxed) {
        n if n == Choice::Always as u8 => Choice::Always,
        n if n == Choice::Never as u8 => Choice::Never,
        _ => Choice::Auto,
    }
}

/// The choice that these words make, for what must be said before they are understood.
#[must_use]
pub fn of_words(words: &[OsString]) -> Choice {
    let mut words = words.iter().take_while(|w| *w != "--").filter_map(|w| w.to_str());
    let mut choice = Choice::Auto;
    while let Some(word) = words.next() {
        let value = if word == "--color" { words.next() } else { word.strip_prefix("--color=") };
        choice = match value {
            Some("always") => Choice::Always,
            Some("never") => Choice::Never,
            Some(_) => Choice::Auto,
            None => choice,
        };
    }
    choice
}

/// Whether to colour a stream, `terminal` when it is one. `--color` wins; then NO_COLOR (not empty: never), CLICOLOR_FORCE (not 0:
/// always), CLICOLOR=0 and TERM=dumb (never); then a terminal is.
fn decide(choice: Choice, terminal: bool, env: Env<'_>) -> bool {
    let set = |name: &str| env(name).filter(|v| !v.is_empty());
    match choice {
        Choice::Always => true,
        Choice::Never => false,
        Choice::Auto if set("NO_COLOR").is_some() => false,
        Choice::Auto if set("CLICOLOR_FORCE").is_some_and(|v| v != "0") => true,
        Choice::Auto => terminal && set("CLICOLOR").is_none_or(|v| v != "0") && set("TERM").is_none_or(|v| v != "dumb"),
    }
}

/// Whether stdout is coloured.
#[must_use]
pub fn on_stdout() -> bool {
    decide(chosen(), std::io::stdout().is_terminal(), &process_env)
}

/// Whether stderr is coloured.
#[must_use]
pub fn on_stderr() -> bool {
    decide(chosen(), std::io::stderr().is_terminal(), &process_env)
}

/// What a piece of text is, hence how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An LSN or an id.
    Id,
    /// A time.
    Time,
    /// A heading.
    Heading,
    /// Something came into being, or is well.
    Good,
    /// Something went, or is wrong.
    Bad,
    /// Something is to be looked at.
    Warning,
    /// Something was changed.
    Change,
    /// A path.
    Path,
    /// Who did it, and other asides.
    Aside,
    /// A hint.
    Hint,
}

impl Role {
    const fn style(self) -> Style {
        let plain = Style::new();
        match self {
            Self::Id => plain.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow))),
            Self::Time | Self::Aside => plain.dimmed(),
            Self::Heading => plain.bold(),
            Self::Good => plain.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green))),
            Self::Bad => plain.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red))).bold(),
            Self::Warning => plain.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow))).bold(),
            Self::Change => plain.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan))),
            Self::Path => plain,
            Self::Hint => plain.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan))).bold(),
        }
    }
}

/// `text` in the look of its role, or as it is.
#[must_use]
pub fn paint(role: Role, text: &str, colour: bool) -> String {
    let style = role.style();
    if colour && !text.is_empty() && !style.is_plain() { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_over_the_environment_and_the_environment_over_the_terminal() {
        use Choice::{Always, Auto, Never};
        for (choice, terminal, env, colour) in [
            (Auto, true, &[][..], true),
            (Auto, false, &[], false),
            (Always, false, &[("NO_COLOR", "1")], true),
            (Never, true, &[("CLICOLOR_FORCE", "1")], false),
            (Auto, true, &[("NO_COLOR", "1")], false),
            (Auto, true, &[("NO_COLOR", "")], true),
            (Auto, false, &[("CLICOLOR_FORCE", "1")], true),
            (Auto, false, &[("CLICOLOR_FORCE", "0")], false),
            (Auto, true, &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], false),
            (Auto, true, &[("CLICOLOR", "0")], false),
            (Auto, true, &[("TERM", "dumb")], false),
            (Auto, true, &[("TERM", "xterm")], true),
        ] {
            let look_up = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
            assert_eq!(decide(choice, terminal, &look_up), colour, "{choice:?} {terminal} {env:?}");
        }
    }

    #[test]
    fn the_words_say_it_before_they_are_understood() {
        for (words, choice) in [
            (&["ize", "list"][..], Choice::Auto),
            (&["ize", "--color=always"], Choice::Always),
            (&["ize", "list", "--color", "never"], Choice::Never),
            (&["ize", "--", "--color=always"], Choice::Auto),
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert_eq!(of_words(&words), choice, "{words:?}");
        }
    }

    #[test]
    fn a_painted_text_ends_its_own_look() {
        assert_eq!(paint(Role::Bad, "x", false), "x");
        let painted = paint(Role::Bad, "x", true);
        assert!(painted.starts_with("\x1b[") && painted.ends_with("\x1b[0m") && painted.contains('x'), "{painted:?}");
    }
}
