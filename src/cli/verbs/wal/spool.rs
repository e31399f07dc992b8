//! Keeps what is to be shown last first: the newest few in memory, or all in a file without a name.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;

use crate::cli::output::Out;
use crate::error::{Error, Result};

/// Above so many, a file is used even where there is a limit.
const IN_MEMORY: u64 = 10_000;

/// Texts in the order in which they came.
#[derive(Debug)]
pub(super) enum Spool {
    /// The last so many.
    Last(VecDeque<String>, usize),
    /// All of them, each with where it ends, and how many are wanted.
    File(BufWriter<File>, Vec<u64>, u64),
}

impl Spool {
    /// Keeps the last `limit`, or all.
    ///
    /// # Errors
    /// No temporary file.
    pub(super) fn new(limit: Option<u64>) -> Result<Self> {
        match limit {
            Some(limit) if limit <= IN_MEMORY => Ok(Self::Last(VecDeque::new(), usize::try_from(limit).unwrap_or(usize::MAX))),
            limit => {
                let file = tempfile::tempfile().map_err(|e| Error::io("cannot create a temporary file", e))?;
                Ok(Self::File(BufWriter::new(file), Vec::new(), limit.unwrap_or(u64::MAX)))
            }
        }
    }

    /// Takes one more.
    ///
    /// # Errors
    /// The temporary file's.
    pub(super) fn push(&mut self, text: String) -> Result<()> {
        match self {
            Self::Last(texts, limit) => {
                texts.push_back(text);
                if texts.len() > *limit {
                    texts.pop_front();
                }
                Ok(())
            }
            Self::File(file, ends, _) => {
                ends.push(ends.last().copied().unwrap_or(0) + text.len() as u64);
                file.write_all(text.as_bytes()).map_err(|e| Error::io("cannot write to a temporary file", e))
            }
        }
    }

    /// Shows them, the last one first if `reverse`.
    ///
    /// # Errors
    /// The temporary file's, and those of writing.
    pub(super) fn show(self, reverse: bool, out: &mut Out) -> Result<()> {
        match self {
            Self::Last(texts, _) if reverse => texts.iter().rev().try_for_each(|text| out.line(text)),
            Self::Last(texts, _) => texts.iter().try_for_each(|text| out.line(text)),
            Self::File(file, ends, limit) => {
                let file = file.into_inner().map_err(|e| Error::io("cannot write to a temporary file", e.into_error()))?;
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let skipped = ends.len().saturating_sub(limit);
                let mut show = |i: usize| {
                    let start = if i == 0 { 0 } else { ends[i - 1] };
                    let mut text = vec![0; usize::try_from(ends[i] - start).unwrap_or(0)];
                    file.read_exact_at(&mut text, start).map_err(|e| Error::io("cannot read a temporary file", e))?;
                    out.bytes(&text)?;
                    out.line("")
                };
                if reverse { (skipped..ends.len()).rev().try_for_each(&mut show) } else { (skipped..ends.len()).try_for_each(&mut show) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_last_come_first_from_memory_and_from_a_file() {
        for limit in [None, Some(3), Some(IN_MEMORY + 1)] {
            let mut spool = Spool::new(limit).unwrap();
            for n in 0..5 {
                spool.push(format!("{n}\nmore")).unwrap();
            }
            let kept = Kept::default();
            let mut out = Out::to(Box::new(kept.clone()), false);
            spool.show(true, &mut out).unwrap();
            out.flush().unwrap();
            let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            let expected: String = (0..5u64).rev().take(limit.unwrap_or(5) as usize).map(|n| format!("{n}\nmore\n")).collect();
            assert_eq!(text, expected, "{limit:?}");
        }
    }
}
