//! The words of `ize blame`.

use std::ffi::OsString;

use clap::Args as Group;

/// Some lines of a text, counted from 1, both ends with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines {
    /// The first.
    pub first: usize,
    /// The last.
    pub last: usize,
}

/// `ize blame`.
#[derive(Debug, Group)]
#[command(
    after_help = "Examples:\n  ize blame a.txt             (inside a mount)\n  ize blame notes src/main.rs -L 10,20\n  ize blame --json ~/notes/a.txt"
)]
pub struct BlameArgs {
    /// The project, then a text in it
    #[arg(value_name = "[PROJECT] PATH", required = true)]
    pub words: Vec<OsString>,
    /// Only these lines; either end may be left out
    #[arg(short = 'L', long, value_name = "START,END", value_parser = lines)]
    pub lines: Option<Lines>,
    /// One JSON object a line of the text: line, hash, version, time, process, text
    #[arg(long)]
    pub json: bool,
}

fn lines(word: &str) -> Result<Lines, String> {
    let number = |text: &str, absent: usize| match text {
        "" => Ok(absent),
        text => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("`{text}` is no number of a line")),
    };
    let (first, last) = match word.split_once(',') {
        Some((first, last)) => (number(first, 1)?, number(last, usize::MAX)?),
        None if word.is_empty() => return Err("which lines?".to_owned()),
        None => (number(word, 1)?, number(word, 1)?),
    };
    if first > last { Err(format!("line {first} is behind line {last}")) } else { Ok(Lines { first, last }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_lines_is_one_number_or_two_or_open() {
        let some = |first, last| Ok(Lines { first, last });
        assert_eq!(lines("3,7"), some(3, 7));
        assert_eq!(lines("3"), some(3, 3));
        assert_eq!(lines("3,"), some(3, usize::MAX));
        assert_eq!(lines(",7"), some(1, 7));
        for wrong in ["", "0", "7,3", "a", "1,b", "-1,2", "1,2,3", "+"] {
            assert!(lines(wrong).is_err(), "{wrong}");
        }
    }
}
