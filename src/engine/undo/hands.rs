//! Who does the steps: system calls through the mount point, so that the kernel tells whoever watches, or, where nothing is mounted, the file
//! system inside the engine.

use super::steps::{Bytes, Expected, Made, Step};
use crate::error::{Class, Error, Result};
use crate::ids::Ino;
use crate::tree::{ReadPlan, Source, Tree, TreeError};

/// Bytes read and written at a time.
const WINDOW: u64 = 1 << 20;

/// Does steps.
pub(super) trait Hands {
    /// Whether everything is as it is expected, and everything wanted is allowed.
    ///
    /// # Errors
    /// `Refused` when it is not.
    fn check(&mut self, expected: &[Expected], steps: &[Step]) -> Result<()>;
    /// Does one. `to` has the bytes.
    ///
    /// # Errors
    /// What stands in the way; half of a write may be done.
    fn step(&mut self, step: &Step, to: &mut Tree) -> Result<()>;
}

pub(super) fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { path.escape_ascii().to_string() }
}

pub(super) fn changed(path: &[u8]) -> Error {
    Error::new(Class::Refused, format!("`{}` has changed meanwhile; nothing was done", shown(path))).hint("look at the preview again")
}

pub(super) enum Part<'a> {
    Bytes(&'a [u8]),
    Hole(u64),
}

/// Reads a file of an earlier state.
pub(super) fn each_part<E: From<TreeError>>(
    tree: &mut Tree,
    ino: Ino,
    size: u64,
    take: &mut dyn FnMut(u64, Part<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let (mut at, mut buffer) = (0, Vec::new());
    while at < size {
        let plan = tree.read_plan(ino, at, WINDOW.min(size - at))?;
        let before = at;
        for (len, source) in plan.parts() {
            if matches!(source, Source::Hole) {
                take(at, Part::Hole(*len))?;
            } else {
                buffer.resize(usize::try_from(*len).unwrap_or(0), 0);
                ReadPlan::of(*len, source.clone()).read(&**tree.blobs(), &mut buffer)?;
                take(at, Part::Bytes(&buffer))?;
            }
            at += len;
        }
        if at == before {
            break;
        }
    }
    Ok(())
}

/// Reads everything that the steps take from the earlier state, so that what cannot be read stops them before the first.
///
/// # Errors
/// What reading says.
pub(super) fn rehearse(to: &mut Tree, steps: &[Step]) -> Result<()> {
    for step in steps {
        let (Step::Make { what: Made::File(bytes), .. } | Step::Write { bytes, .. }) = step else { continue };
        if let Bytes::Of { ino, size } = bytes {
            each_part::<TreeError>(to, *ino, *size, &mut |_, _| Ok(()))?;
        }
    }
    Ok(())
}

pub(super) fn path_of(step: &Step) -> &[u8] {
    match step {
        Step::Rename { from, .. } => from,
        Step::Remove { path, .. }
        | Step::Make { path, .. }
        | Step::Link { path, .. }
        | Step::Write { path, .. }
        | Step::Set { path, .. } => path,
    }
}
