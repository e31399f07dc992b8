//! What a change says where it is not what its version should be: lines of the description, after those of [`header`](super::header).
//!
//! ```text
//! safe WHY          every file is a manifest, because Pijul refused the version as it is
//! left-out WHY      nothing of the version is here, because Pijul refused the safe form too, or it cannot be read
//! holds 11          with left-out: what the repository holds is the state of this version (0: nothing)
//! ```

use serde::{Deserialize, Serialize};

use crate::ids::VersionSeq;

/// Longest reason that is kept, in characters.
const WHY_MAX: usize = 400;

/// Why a change is not what its version should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What Pijul, or reading the version, said.
    pub why: String,
    /// The version whose state the repository holds after it; `None` when it is that of the version itself, in its safe form.
    pub holds: Option<VersionSeq>,
}

impl Refusal {
    /// The safe form.
    #[must_use]
    pub fn safe(why: &str) -> Self {
        Self { why: one_line(why), holds: None }
    }

    /// Nothing of it.
    #[must_use]
    pub fn left_out(why: &str, holds: VersionSeq) -> Self {
        Self { why: one_line(why), holds: Some(holds) }
    }

    /// The lines for the description, each with a newline before it.
    #[must_use]
    pub fn lines(&self) -> String {
        match self.holds {
            None => format!("\nsafe {}", self.why),
            Some(seq) => format!("\nleft-out {}\nholds {seq}", self.why),
        }
    }

    /// Reads a description; `None` when it says nothing of the kind.
    #[must_use]
    pub fn parse(description: &str) -> Option<Self> {
        let mut found = None;
        for line in description.lines() {
            match line.split_once(' ') {
                Some(("safe", why)) => found = Some(Self { why: why.to_owned(), holds: None }),
                Some(("left-out", why)) => found = Some(Self { why: why.to_owned(), holds: Some(VersionSeq(0)) }),
                Some(("holds", seq)) => {
                    if let (Some(found), Ok(seq)) = (&mut found, seq.parse()) {
                        found.holds = Some(VersionSeq(seq));
                    }
                }
                _ => {}
            }
        }
        found
    }
}

fn one_line(text: &str) -> String {
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(WHY_MAX).collect();
    if text.is_empty() { "for no reason that it gave".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_comes_back_from_a_description_and_a_process_cannot_fake_one() {
        let before = "ize 1\nversion 12\nlsn @1..@2\nstore x\nprocess safe[1] left-out";
        assert_eq!(Refusal::parse(before), None);
        for refusal in [Refusal::safe("libpijul panicked:\n a\u{1b} b"), Refusal::left_out("", VersionSeq(11))] {
            assert_eq!(Refusal::parse(&format!("{before}{}", refusal.lines())), Some(refusal));
        }
    }
}
