//! The way out of a store without ize: `meta/RESCUE.md` says how, `meta/rescue.py` does it. Written into every store when it is made, and
//! again when a later ize opens it for writing. Nothing depends on them: that they cannot be written is a warning.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::project::{Layout, atomic};

/// What to read.
const TEXT: &str = include_str!("rescue/RESCUE.md");
/// What to run.
const SCRIPT: &str = include_str!("rescue/rescue.py");
/// Stands before the number that both carry: an older ize leaves what a later one wrote.
const REVISION: &str = "escue revision ";

/// Writes both where they are missing, of an earlier revision, or not what was written.
///
/// # Errors
/// Whatever the disk says, with the path.
pub fn write(layout: &Layout) -> Result<()> {
    for (path, text) in files(layout) {
        if is_older(&path, text) {
            atomic::replace(&path, text.as_bytes())?;
        }
    }
    Ok(())
}

/// The same; a failure is only told.
pub fn refresh(layout: &Layout) {
    if let Err(e) = write(layout) {
        tracing::warn!("the way out without ize is not in the store: {e}");
    }
}

/// Those that are there, of this revision, and not what was written.
#[must_use]
pub fn changed(layout: &Layout) -> Vec<PathBuf> {
    let differs = |path: &Path, text: &str| {
        std::fs::read(path).is_ok_and(|found| found != text.as_bytes() && revision(&String::from_utf8_lossy(&found)) == revision(text))
    };
    files(layout).into_iter().filter(|(path, text)| differs(path, text)).map(|(path, _)| path).collect()
}

fn files(layout: &Layout) -> [(PathBuf, &'static str); 2] {
    [(layout.rescue_text(), TEXT), (layout.rescue_script(), SCRIPT)]
}

/// The number behind [`REVISION`]; 0 without one.
fn revision(text: &str) -> u64 {
    let digits = text.split_once(REVISION).map_or("", |(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
    digits.parse().unwrap_or(0)
}

fn is_older(path: &Path, text: &str) -> bool {
    let found = std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned());
    found.map_or(true, |found| found != text && revision(&found) <= revision(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_written_mended_and_left_where_a_later_ize_wrote_them() {
        assert!(revision(TEXT) > 0 && revision(TEXT) == revision(SCRIPT));
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert!(write(&layout).is_err(), "there is no meta/ yet");
        std::fs::create_dir(layout.meta()).unwrap();
        write(&layout).unwrap();
        let read = || files(&layout).map(|(path, _)| std::fs::read_to_string(path).unwrap());
        assert_eq!(read(), [TEXT, SCRIPT]);
        for old in ["", "Rescue revision 0. x", "cut off"] {
            std::fs::write(layout.rescue_script(), old).unwrap();
            write(&layout).unwrap();
            assert_eq!(read(), [TEXT, SCRIPT], "{old:?}");
            assert!(changed(&layout).is_empty());
        }
        std::fs::write(layout.rescue_script(), SCRIPT.replace("def ", "fed ")).unwrap();
        assert_eq!(changed(&layout), [layout.rescue_script()]);
        write(&layout).unwrap();
        let later = format!("Rescue revision {}. y", revision(TEXT) + 1);
        std::fs::write(layout.rescue_text(), &later).unwrap();
        write(&layout).unwrap();
        assert_eq!(read(), [later.as_str(), SCRIPT]);
        assert!(changed(&layout).is_empty(), "what a later one is like, this one does not know");
    }
}
