//! What a project may be called.
//!
//! A name is typed in shells and stands in mount tables, so it holds only characters that need no quoting; it never has a `/`, so that
//! `./notes` is always a path; it never looks like an option, and never like an id, by which a project can be named as well. Words that
//! are verbs of ize are allowed: a verb always comes first, so `ize status status` has one meaning.

use crate::error::{Class, Error, Result};
use crate::ids::StoreId;

/// Longest name, in bytes.
pub const MAX_LEN: usize = 64;

/// Checks a name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with `-` or `.`, not an id.
///
/// # Errors
/// [`Class::Usage`], naming what is wrong with it.
pub fn check(name: &str) -> Result<()> {
    let wrong = |why: String| Err(Error::new(Class::Usage, format!("`{}` cannot name a project: {why}", name.escape_debug())).hint(HINT));
    if name.is_empty() {
        return wrong("it is empty".into());
    }
    if name.len() > MAX_LEN {
        return wrong(format!("it has {} bytes, at most {MAX_LEN} are allowed", name.len()));
    }
    if let Some(c) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return wrong(format!("`{}` is not allowed in it", c.escape_debug()));
    }
    if name.starts_with(['-', '.']) {
        return wrong(format!("it starts with `{}`", &name[..1]));
    }
    if name.parse::<StoreId>().is_ok() {
        return wrong("it reads as an id".into());
    }
    Ok(())
}

const HINT: &str = "use 1 to 64 letters, digits, `.`, `_` or `-`, the first one a letter, a digit or `_`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass() {
        for name in ["a", "notes", "Notes-2.0_x", "_a", "9", "status", &"x".repeat(64)] {
            check(name).unwrap();
        }
    }

    #[test]
    fn bad_names_are_usage_errors_that_say_why() {
        for (name, why) in [
            ("", "empty"),
            (&*"x".repeat(65), "65 bytes"),
            ("-a", "starts with `-`"),
            (".a", "starts with `.`"),
            ("..", "starts with `.`"),
            ("a b", "` `"),
            ("a/b", "`/`"),
            ("a\n", "`\\n`"),
            ("naïve", "`ï`"),
            ("67e55044-10b1-426f-9247-bb680e5fe0c8", "an id"),
            ("67e5504410b1426f9247bb680e5fe0c8", "an id"),
        ] {
            let e = check(name).unwrap_err();
            assert_eq!(e.class, Class::Usage, "{name}");
            assert!(e.message.contains(why), "{name}: {}", e.message);
            assert!(e.hint.is_some());
        }
    }
}
